/* Log lines from any thread, kept until the broker's thread takes them: mosquitto_log_printf is for
 * that thread alone. A bounded queue; when it is full the newest lines are counted instead, and the
 * count is the next line that comes out. */
#include "plugins/capture/capture.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#define LINES_MAX 128

struct logline {
    enum log_level level;
    char text[LOG_LINE_BYTES_MAX];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct logline lines[LINES_MAX]; /* under the lock, as first and lost */
static unsigned first;
static unsigned lost;
static _Atomic unsigned waiting; /* written under the lock */

static void loglines_sink(void *arg, enum log_level level, const char *line)
{
    pthread_mutex_lock(&lock);
    unsigned count = atomic_load_explicit(&waiting, memory_order_relaxed);
    if (count == LINES_MAX) {
        lost++;
    } else {
        struct logline *l = &lines[(first + count) % LINES_MAX];
        l->level = level;
        snprintf(l->text, sizeof l->text, "%s", line);
        atomic_store_explicit(&waiting, count + 1, memory_order_relaxed);
    }
    pthread_mutex_unlock(&lock);
}

void loglines_start(void)
{
    log_set_sink(loglines_sink, NULL);
}

bool loglines_waiting(void)
{
    return atomic_load_explicit(&waiting, memory_order_relaxed) > 0;
}

/* One line out; false when there is none. */
static bool loglines_take(struct logline *out, unsigned *lost_before)
{
    pthread_mutex_lock(&lock);
    unsigned count = atomic_load_explicit(&waiting, memory_order_relaxed);
    if (count) {
        *out = lines[first];
        first = (first + 1) % LINES_MAX;
        atomic_store_explicit(&waiting, count - 1, memory_order_relaxed);
        *lost_before = lost;
        lost = 0;
    }
    pthread_mutex_unlock(&lock);
    return count > 0;
}

void loglines_drain(loglines_fn *fn)
{
    struct logline line;
    unsigned lost_before = 0;
    /* At most a queue's worth, so that a chatty thread cannot hold the broker here. */
    for (int i = 0; i < LINES_MAX && loglines_take(&line, &lost_before); i++) {
        fn(line.level, line.text);
        if (lost_before) {
            snprintf(line.text, sizeof line.text, "log lines lost count=%u", lost_before);
            fn(LOG_WARN, line.text);
        }
    }
}
