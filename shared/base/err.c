/* Names and sentences of errors, and the one way to die: a bug of ours. */
#include "shared/base/err.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shared/base/bytes.h"

static const char *const names[] = {
    [OK] = "OK",
    [ERR_NOMEM] = "ERR_NOMEM",
    [ERR_IO] = "ERR_IO",
    [ERR_FULL] = "ERR_FULL",
    [ERR_CORRUPT] = "ERR_CORRUPT",
    [ERR_AGAIN] = "ERR_AGAIN",
    [ERR_NOT_FOUND] = "ERR_NOT_FOUND",
    [ERR_EXISTS] = "ERR_EXISTS",
    [ERR_INVALID] = "ERR_INVALID",
    [ERR_TOO_LARGE] = "ERR_TOO_LARGE",
    [ERR_RANGE] = "ERR_RANGE",
    [ERR_VERSION] = "ERR_VERSION",
    [ERR_LOCKED] = "ERR_LOCKED",
    [ERR_CLOSED] = "ERR_CLOSED",
};

const char *err_name(enum err e)
{
    size_t i = (size_t)e;
    return i < sizeof names / sizeof names[0] ? names[i] : "ERR_UNKNOWN";
}

/* Sentences end in JSON and in Kafka's strings, which take UTF-8 alone. What they are made of may
 * be any bytes, or letters that a precision (%.200s) or the text's end has cut. */
static void make_utf8(char *text)
{
    size_t left = strlen(text);
    while (left > 0) {
        size_t n = utf8_length((const uint8_t *)text, left);
        if (n == 0) {
            *text = '?';
            n = 1;
        }
        text += n;
        left -= n;
    }
}

enum err err_set(struct errmsg *m, enum err e, const char *fmt, ...)
{
    if (m) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(m->text, sizeof m->text, fmt, ap);
        va_end(ap);
        make_utf8(m->text);
    }
    return e;
}

_Noreturn void assert_failed(const char *cond, const char *file, int line)
{
    fprintf(stderr, "culex: bug: %s is false at %s:%d\n", cond, file, line);
    fflush(stderr);
    abort();
}
