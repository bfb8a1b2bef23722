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

void decimal_text(double v, char out[static DECIMAL_BYTES_MAX])
{
    struct locales l = enter();
    int n = snprintf(out, DECIMAL_BYTES_MAX, "%.15g", v);
    leave(l);
    if (n > 0 && !strpbrk(out, ".en")) {
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
