/* printf and strtod take the point from the locale of the thread. It is "C" while they run; having
 * that costs nothing, since the C library has it built in. */
#include "shared/base/decimal.h"

#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What enter has given is for leave. */
struct locales {
    locale_t plain, was;
};

static struct locales enter(void)
{
    locale_t plain = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    return (struct locales){plain, plain ? uselocale(plain) : (locale_t)0};
}

static void leave(struct locales l)
{
    if (l.plain) {
        (void)uselocale(l.was);
        freelocale(l.plain);
    }
}

/* Java has an exponent below a thousandth and from ten millions on, and always a fraction. */
void decimal_text(double v, char out[static DECIMAL_BYTES_MAX])
{
    double size = v < 0 ? -v : v;
    bool plain = size == 0 || (size >= 1e-3 && size < 1e7);
    struct locales l = enter();
    int n = snprintf(out, DECIMAL_BYTES_MAX, plain ? "%.15g" : "%.14e", v);
    leave(l);
    char *end = strchr(out, 'e');
    if (end) {
        long exponent = strtol(end + 1, NULL, 10);
        while (end[-1] == '0' && end[-2] != '.') {
            end--;
        }
        snprintf(end, DECIMAL_BYTES_MAX - (size_t)(end - out), "E%ld", exponent);
    } else if (n > 0 && !strpbrk(out, ".n")) { /* but for inf and nan */
        snprintf(out + n, DECIMAL_BYTES_MAX - (size_t)n, ".0");
    }
}

bool decimal_read(const char *text, double *out)
{
    struct locales l = enter();
    char *end;
    double v = strtod(text, &end);
    leave(l);
    bool decimal = *text && strspn(text, "+-.0123456789eE") == strlen(text) && !*end;
    if (decimal) {
        *out = v;
    }
    return decimal;
}
