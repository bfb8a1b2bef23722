/* Counters as others see them: retained topics under $SYS/broker/culex/, and lines in the log at
 * the end.
 *
 * Per stream  published = stored + filtered + rejected + dropped + in-flight, where in-flight are
 * the frames that wait in the ring. Frames that an earlier process left in the ring count as
 * published by this one. `filtered` is for publishes that a rule of a stream leaves out.
 *
 * A pass over the counters begins every sys.interval.ms and publishes what has changed, at most
 * PASS_STEP topics for each call, so that thousands of streams do not hold the broker. Reasons
 * appear when they have counted something. */
#include "plugins/capture/internal.h"

#include "shared/base/clock.h"

#include <inttypes.h>
#include <stdio.h>

#define PREFIX      "$SYS/broker/culex/"
#define TOPIC_BYTES 384
#define PASS_STEP   256 /* topics for each call */
#define LAG_MS_MAX  INT32_MAX

enum metric {
    METRIC_PUBLISHED,
    METRIC_STORED,
    METRIC_FILTERED,
    METRIC_REJECTED,
    METRIC_DROPPED,
    METRIC_IN_FLIGHT,
    METRIC_BYTES,
    METRIC_LAST_PARTITION,
    METRIC_LAST_OFFSET,
    METRIC_SHADOWED,
    METRIC_UNKEYED,
    METRIC_REJECTED_BY, /* one for each reason */
    METRIC_DROPPED_BY = METRIC_REJECTED_BY + REASON_COUNT,
    METRIC_COUNT = METRIC_DROPPED_BY + REASON_COUNT,
};
_Static_assert(METRIC_COUNT <= sizeof(((struct stream_counters *)0)->shown) / sizeof(uint64_t),
               "every metric has its place in shown");

static const char *const metric_names[METRIC_REJECTED_BY] = {
    [METRIC_PUBLISHED] = "published",
    [METRIC_STORED] = "stored",
    [METRIC_FILTERED] = "filtered",
    [METRIC_REJECTED] = "rejected",
    [METRIC_DROPPED] = "dropped",
    [METRIC_IN_FLIGHT] = "in-flight",
    [METRIC_BYTES] = "bytes",
    [METRIC_LAST_PARTITION] = "last-partition",
    [METRIC_LAST_OFFSET] = "last-offset",
    [METRIC_SHADOWED] = "shadowed-properties",
    [METRIC_UNKEYED] = "unkeyed",
};

/* What has ended is read before what has begun, so that in-flight is never negative. */
static void metrics_read(const struct stream_counters *s, uint64_t *v)
{
    memset(v, 0, METRIC_COUNT * sizeof *v);
    v[METRIC_LAST_PARTITION] = counter_get(&s->last_partition);
    v[METRIC_LAST_OFFSET] = counter_get(&s->last_offset);
    v[METRIC_BYTES] = counter_get(&s->stored_bytes);
    v[METRIC_SHADOWED] = counter_get(&s->shadowed);
    v[METRIC_UNKEYED] = counter_get(&s->unkeyed);
    v[METRIC_FILTERED] = counter_get(&s->filtered);
    v[METRIC_STORED] = counter_get(&s->stored);
    for (int r = 0; r < REASON_COUNT; r++) {
        v[METRIC_DROPPED_BY + r] = counter_get(&s->dropped[r]) + counter_get(&s->lost[r]);
        v[METRIC_REJECTED_BY + r] = counter_get(&s->rejected[r]);
        v[METRIC_DROPPED] += v[METRIC_DROPPED_BY + r];
        v[METRIC_REJECTED] += v[METRIC_REJECTED_BY + r];
    }
    atomic_thread_fence(memory_order_acquire);
    v[METRIC_PUBLISHED] = counter_get(&s->published) + counter_get(&s->recovered);
    uint64_t ended = v[METRIC_STORED] + v[METRIC_FILTERED] + v[METRIC_REJECTED] + v[METRIC_DROPPED];
    v[METRIC_IN_FLIGHT] = v[METRIC_PUBLISHED] > ended ? v[METRIC_PUBLISHED] - ended : 0;
}

static void metric_topic(const struct stream_counters *s, int metric, char *out, size_t size)
{
    if (metric < METRIC_REJECTED_BY) {
        snprintf(out, size, PREFIX "streams/%s/%s", s->name, metric_names[metric]);
        return;
    }
    bool dropped = metric >= METRIC_DROPPED_BY;
    int reason = metric - (dropped ? METRIC_DROPPED_BY : METRIC_REJECTED_BY);
    snprintf(out, size, PREFIX "streams/%s/%s/%s", s->name, dropped ? "dropped" : "rejected",
             reason_name((enum reason)reason));
}

/* Returns how many topics were published. */
static int stream_show(struct stream_counters *s, capture_sys_fn *publish, void *arg)
{
    uint64_t v[METRIC_COUNT];
    metrics_read(s, v);
    int published = 0;
    for (int i = 0; i < METRIC_COUNT; i++) {
        bool first = !s->shown_once && i < METRIC_REJECTED_BY;
        if (v[i] == s->shown[i] && !first) {
            continue;
        }
        char topic[TOPIC_BYTES], text[24];
        metric_topic(s, i, topic, sizeof topic);
        snprintf(text, sizeof text, "%" PRIu64, v[i]);
        publish(arg, topic, text);
        s->shown[i] = v[i];
        published++;
    }
    s->shown_once = true;
    return published;
}

static uint64_t lag_ms(const struct capture *c)
{
    int64_t oldest = atomic_load_explicit(&c->oldest_ms, memory_order_relaxed);
    int64_t lag = oldest ? clock_wall_ms() - oldest : 0;
    return lag < 0 ? 0 : lag > LAG_MS_MAX ? LAG_MS_MAX : (uint64_t)lag;
}

/* Publishes a topic of the whole when its text has changed. */
static void show_text(struct capture *c, int row, const char *name, const char *text,
                      capture_sys_fn *publish, void *arg)
{
    uint64_t hash = stream_id(slice_str(text));
    if (hash == c->shown[row]) {
        return;
    }
    char topic[TOPIC_BYTES];
    snprintf(topic, sizeof topic, PREFIX "%s", name);
    publish(arg, topic, text);
    c->shown[row] = hash;
}

static void show_whole(struct capture *c, capture_sys_fn *publish, void *arg)
{
    char error[sizeof c->error];
    pthread_mutex_lock(&c->lock);
    snprintf(error, sizeof error, "%s", c->error);
    pthread_mutex_unlock(&c->lock);
    int state = atomic_load_explicit(&c->state, memory_order_relaxed);
    bool ring = ring_enter(c);
    uint64_t ring_bytes = ring ? c->ring.bytes : 0;
    uint64_t ring_used = ring ? ring_head(&c->ring) - ring_consumed(&c->ring) : 0;
    if (ring) {
        ring_leave(c);
    }
    const struct {
        const char *name;
        uint64_t value;
    } numbers[] = {
        {"received", counter_get(&c->received)},
        {"unmatched", counter_get(&c->unmatched)},
        {"orphaned", counter_get(&c->orphaned)},
        {"corrupt", counter_get(&c->corrupt)},
        {"ring/bytes", ring_bytes},
        {"ring/used", ring_used},
        {"writer/lag-ms", lag_ms(c)},
        {"writer/commits", counter_get(&c->commits)},
        {"log/bytes", counter_get(&c->log_bytes)},
    };
    int row = 0;
    show_text(c, row++, "version", CULEX_VERSION, publish, arg);
    show_text(c, row++, "state", state == STATE_RUNNING ? "running" : "degraded", publish, arg);
    show_text(c, row++, "error", error, publish, arg);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        char text[24];
        snprintf(text, sizeof text, "%" PRIu64, numbers[i].value);
        show_text(c, row++, numbers[i].name, text, publish, arg);
    }
}

bool capture_tick_due(const struct capture *c)
{
    return atomic_load_explicit(&c->tick_due, memory_order_relaxed);
}

void capture_tick(struct capture *c, capture_sys_fn *publish, void *arg)
{
    atomic_store_explicit(&c->tick_due, false, memory_order_relaxed);
    if (!c->pass) {
        c->pass = true;
        c->cursor = atomic_load(&c->counters);
        show_whole(c, publish, arg);
    }
    int left = PASS_STEP;
    while (c->cursor && left > 0) {
        left -= stream_show(c->cursor, publish, arg) + 1;
        c->cursor = c->cursor->next;
    }
    c->pass = c->cursor != NULL;
    if (c->pass) {
        atomic_store_explicit(&c->tick_due, true, memory_order_relaxed);
    }
}

void stats_log_final(struct capture *c)
{
    for (struct stream_counters *s = atomic_load(&c->counters); s; s = s->next) {
        uint64_t v[METRIC_COUNT];
        metrics_read(s, v);
        log_info("capture ended stream=%s published=%" PRIu64 " stored=%" PRIu64
                 " filtered=%" PRIu64 " rejected=%" PRIu64 " dropped=%" PRIu64 " in_flight=%" PRIu64
                 " bytes=%" PRIu64 " last_partition=%" PRIu64 " last_offset=%" PRIu64
                 " unkeyed=%" PRIu64,
                 s->name, v[METRIC_PUBLISHED], v[METRIC_STORED], v[METRIC_FILTERED],
                 v[METRIC_REJECTED], v[METRIC_DROPPED], v[METRIC_IN_FLIGHT], v[METRIC_BYTES],
                 v[METRIC_LAST_PARTITION], v[METRIC_LAST_OFFSET], v[METRIC_UNKEYED]);
    }
    log_info("capture stopped received=%" PRIu64 " unmatched=%" PRIu64 " orphaned=%" PRIu64
             " corrupt=%" PRIu64 " commits=%" PRIu64,
             counter_get(&c->received), counter_get(&c->unmatched), counter_get(&c->orphaned),
             counter_get(&c->corrupt), counter_get(&c->commits));
}
