/* Lines of log: made on the caller's stack, written under one lock.
 *
 * Texts of the world (topics, client names, paths) end up in lines, so control characters are
 * replaced: one call is one line, whatever a client calls itself.
 *
 * Without a sink, lines go to the file of log_open_file, else to stderr: with a time stamp and the
 * level's name for people, or with systemd's "<6>" prefix where stderr is the journal, which has
 * its own time stamps. A line that cannot be written is lost: there is nobody to tell. */
#include "shared/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "shared/base/clock.h"

#define CUT           "…"
#define STAMP_BYTES   64 /* time stamp and level, or systemd's prefix */
#define WRITE_TRY_MAX 16 /* interrupted or partial writes of one line */

static const struct {
    const char *name;
    int journal_priority; /* of syslog(3) */
} levels[] = {
    [LOG_ERROR] = {"error", 3},
    [LOG_WARN] = {"warn", 4},
    [LOG_INFO] = {"info", 6},
    [LOG_DEBUG] = {"debug", 7},
};

#define LEVEL_COUNT (int)(sizeof levels / sizeof levels[0])

_Atomic int log_level_now = LOG_INFO;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* All below: under the lock. */
static log_sink *sink_now;
static void *sink_arg;
static int file_fd = -1;
static enum { JOURNAL_UNKNOWN, JOURNAL_NO, JOURNAL_YES } journal;

void log_set_level(enum log_level level)
{
    log_level_now = level;
}

int log_level_parse(const char *name)
{
    for (int i = 0; i < LEVEL_COUNT; i++) {
        if (strcmp(name, levels[i].name) == 0) {
            return i;
        }
    }
    return -1;
}

void log_set_sink(log_sink *sink, void *arg)
{
    pthread_mutex_lock(&lock);
    sink_now = sink;
    sink_arg = arg;
    pthread_mutex_unlock(&lock);
}

static void use_file(int fd)
{
    pthread_mutex_lock(&lock);
    int old = file_fd;
    file_fd = fd;
    pthread_mutex_unlock(&lock);
    if (old >= 0) {
        close(old);
    }
}

enum err log_open_file(const char *path, struct errmsg *m)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
    if (fd < 0) {
        return err_set(m, ERR_IO, "cannot open log file %s: %s", path, strerror(errno));
    }
    use_file(fd);
    return OK;
}

void log_close_file(void)
{
    use_file(-1);
}

/* systemd puts device and inode of the journal's socket into the environment: stderr may have been
 * redirected since, so the two are compared. */
static bool stderr_is_journal(void)
{
    if (journal == JOURNAL_UNKNOWN) {
        const char *text = getenv("JOURNAL_STREAM");
        uintmax_t dev, ino;
        struct stat st;
        bool same = text && sscanf(text, "%" SCNuMAX ":%" SCNuMAX, &dev, &ino) == 2 &&
                    fstat(STDERR_FILENO, &st) == 0 && st.st_dev == dev && st.st_ino == ino;
        journal = same ? JOURNAL_YES : JOURNAL_NO;
    }
    return journal == JOURNAL_YES;
}

static void write_all(int fd, const char *p, size_t n)
{
    for (int i = 0; i < WRITE_TRY_MAX && n > 0; i++) {
        ssize_t done = write(fd, p, n);
        if (done < 0 && errno != EINTR) {
            return;
        }
        if (done > 0) {
            p += done;
            n -= (size_t)done;
        }
    }
}

static int stamp(char *out, size_t size, enum log_level level)
{
    int64_t now = clock_wall_ms();
    time_t seconds = (time_t)(now / 1000);
    struct tm tm;
    gmtime_r(&seconds, &tm);
    char day[32];
    strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &tm);
    return snprintf(out, size, "%s.%03dZ %-5s ", day, (int)(now % 1000), levels[level].name);
}

static void write_line(enum log_level level, const char *line, size_t len)
{
    /* One write a line, so that lines of several processes in one file do not mix. */
    char out[STAMP_BYTES + LOG_LINE_BYTES_MAX + 1];
    int fd = file_fd >= 0 ? file_fd : STDERR_FILENO;
    int n = fd == STDERR_FILENO && stderr_is_journal()
                ? snprintf(out, STAMP_BYTES, "<%d>", levels[level].journal_priority)
                : stamp(out, STAMP_BYTES, level);
    size_t at = n < 0 ? 0 : n >= STAMP_BYTES ? STAMP_BYTES - 1 : (size_t)n;
    memcpy(out + at, line, len);
    out[at + len] = '\n';
    write_all(fd, out, at + len + 1);
}

/* Ends a line that was too long with the mark, not in the middle of a UTF-8 character. */
static size_t cut(char *line)
{
    size_t at = LOG_LINE_BYTES_MAX - 1 - strlen(CUT);
    while (at > 0 && ((unsigned char)line[at] & 0xc0) == 0x80) {
        at--;
    }
    memcpy(line + at, CUT, sizeof CUT);
    return at + strlen(CUT);
}

void log_write(enum log_level level, const char *fmt, ...)
{
    int saved = errno; /* a log line must not change what its caller is about to report */
    char line[LOG_LINE_BYTES_MAX];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    if (n >= 0) {
        size_t len = (size_t)n < sizeof line ? (size_t)n : cut(line);
        for (size_t i = 0; i < len; i++) {
            if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f) {
                line[i] = '?';
            }
        }
        pthread_mutex_lock(&lock);
        if (sink_now) {
            sink_now(sink_arg, level, line);
        } else {
            write_line(level, line, len);
        }
        pthread_mutex_unlock(&lock);
    }
    errno = saved;
}

void log_lines(enum log_level level, const char *text)
{
    while (*text) {
        size_t len = strcspn(text, "\n");
        log_at((int)level, "%.*s", (int)len, text);
        text += len + (text[len] == '\n');
    }
}

bool log_limit_pass(struct log_limit *l, int interval_ms, unsigned *suppressed)
{
    int64_t now = clock_mono_us();
    int64_t next = __atomic_load_n(&l->next_us, __ATOMIC_RELAXED);
    /* Of several threads whose time has come, one wins the exchange and logs. */
    if (now < next ||
        !__atomic_compare_exchange_n(&l->next_us, &next, now + (int64_t)interval_ms * 1000, false,
                                     __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
        __atomic_fetch_add(&l->suppressed, 1, __ATOMIC_RELAXED);
        return false;
    }
    unsigned held = __atomic_exchange_n(&l->suppressed, 0, __ATOMIC_RELAXED);
    if (suppressed) {
        *suppressed = held;
    }
    return true;
}
