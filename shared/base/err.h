/* Errors of the world: what a function returns when the disk, the network or the input is at fault.
 *
 * A bug of ours is not an error: it is ASSERT, which stays on in release builds of the server. Code
 * that runs inside Mosquitto (everything under shared/ and plugins/) asserts only what no input, no
 * disk and no configuration can make false. */
#ifndef CULEX_BASE_ERR_H
#define CULEX_BASE_ERR_H

#include <stdarg.h>

enum err {
    OK = 0,
    ERR_NOMEM,     /* memory, or a named maximum of memory, is used up */
    ERR_IO,        /* the operating system or RocksDB failed; details in the errmsg */
    ERR_FULL,      /* no room: disk, ring, queue */
    ERR_CORRUPT,   /* bytes that are not what they claim to be */
    ERR_AGAIN,     /* not there yet: try again later */
    ERR_NOT_FOUND, /* no such thing */
    ERR_EXISTS,    /* there is one already */
    ERR_INVALID,   /* an argument or a setting that is never right */
    ERR_TOO_LARGE, /* over a named maximum */
    ERR_RANGE,     /* offset below the log's start or beyond its end; position overrun */
    ERR_VERSION,   /* a format or protocol version that we do not speak */
    ERR_LOCKED,    /* another process holds it */
    ERR_CLOSED,    /* closed, or closing */
};

#define MUST_CHECK             __attribute__((warn_unused_result))
/* Lies apart from the code that runs for each message: that has to be fetched anew for each, since
 * the kernel's side of a read takes the cache's room. */
#define SELDOM __attribute__((cold, noinline))
/* Runs for each message: lies beside the others that do. */
#define HOT __attribute__((hot))
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))

/* A sentence for a person, made where the detail is known and carried up beside the enum. */
struct errmsg {
    char text[512];
};

/* Short name of an error for logs, e.g. "ERR_FULL". Never NULL. */
const char *err_name(enum err e);

/* Fills m (may be NULL) with UTF-8 (a byte that is none is '?') and returns e, so that
 * `return err_set(m, ERR_IO, "…", …)` is one line. */
enum err err_set(struct errmsg *m, enum err e, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* Prints file, line and condition to stderr and aborts. */
_Noreturn void assert_failed(const char *cond, const char *file, int line);
#define ASSERT(cond) ((cond) ? (void)0 : assert_failed(#cond, __FILE__, __LINE__))

#endif
