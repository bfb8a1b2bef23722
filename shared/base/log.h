/* What we print. Event first, key=value after: log_info("group joined group=%s gen=%d", …).
 *
 * error: something is lost; warn: someone must look; info: life events; debug: per request. Nothing
 * per record. Thread-safe. Each line goes to the sink: stderr, a file, systemd (with its priority
 * prefix), or the broker's log (from its writer, over a socket). */
#ifndef CULEX_BASE_LOG_H
#define CULEX_BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/base/err.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

#define LOG_LINE_BYTES_MAX 1024 /* a longer line is cut and ends in "…" */

/* Called with a line without its newline, under a lock: must not log itself. */
typedef void log_sink(void *arg, enum log_level level, const char *line);

void log_set_level(enum log_level level);
void log_set_sink(log_sink *sink, void *arg); /* NULL: stderr */
/* Appends to a file with a timestamp; called again (SIGHUP) it reopens. */
enum err log_open_file(const char *path, struct errmsg *m) MUST_CHECK;
/* Back to stderr. */
void log_close_file(void);
/* A text of several lines, one log line for each. */
void log_lines(enum log_level level, const char *text);
/* Name of a level for configuration ("error" … "debug"); -1 where it is none. */
int log_level_parse(const char *name);

void log_write(enum log_level level, const char *fmt, ...) PRINTF_LIKE(2, 3);
extern _Atomic int log_level_now; /* read by log_at only; set it with log_set_level */

#define log_at(level, ...) ((level) <= log_level_now ? log_write((level), __VA_ARGS__) : (void)0)
#define log_error(...)     log_at(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)      log_at(LOG_WARN, __VA_ARGS__)
#define log_info(...)      log_at(LOG_INFO, __VA_ARGS__)
#define log_debug(...)     log_at(LOG_DEBUG, __VA_ARGS__)

/* One line per key and interval, so that a broken disk does not fill the log: returns true when the
 * caller may log now; any thread. `suppressed` (may be NULL) is how many were held back since the
 * last time. */
struct log_limit {
    int64_t next_us;
    unsigned suppressed;
};
bool log_limit_pass(struct log_limit *l, int interval_ms, unsigned *suppressed);

#endif
