/* Counters as others see them: retained topics under $SYS/broker/culex/, and lines in the log at
 * the end.
 *
 * Per stream  published = stored + filtered + rejected + dropped + in-flight, where in-flight are
 * the frames that wait in the ring. Frames that an earlier process left in the ring count as
 * published by this one. `filtered` is for publishes that a rule of a stream leaves out.
 *
 * A pass over the counters begins every sys.interval.ms, when the writer asks for it (a broker that
 * does not tick sees that with a message) or is late, and publishes what has changed, at most
 * PASS_STEP topics for each call, so that thousands of streams do not hold the broker. Reasons
 * appear when they have counted something. */
#include "plugins/capture/internal.h"

#include "shared/base/clock.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define PREFIX      "$SYS/broker/culex/"
#define TOPIC_BYTES 384
#define PASS_STEP   256 /* topics for each call */
#define LAG_MS_MAX  INT32_MAX
#define PASS_LATE_US 500000 /* the writer asks for one each interval, when it runs */

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

/* What was published last of a stream. */
struct shown {
    bool once;
    uint64_t values[METRIC_COUNT];
};

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
    struct stream_totals t = link_totals(s);
    memset(v, 0, METRIC_COUNT * sizeof *v);
    v[METRIC_LAST_PARTITION] = t.last_partition;
    v[METRIC_LAST_OFFSET] = t.last_offset;
    v[METRIC_BYTES] = t.stored_bytes;
    v[METRIC_SHADOWED] = t.shadowed;
    v[METRIC_UNKEYED] = t.unkeyed;
    v[METRIC_FILTERED] = t.filtered;
    v[METRIC_STORED] = t.stored;
    for (int r = 0; r < REASON_COUNT; r++) {
        v[METRIC_DROPPED_BY + r] = counter_get(&s->dropped[r]) + t.lost[r];
        v[METRIC_REJECTED_BY + r] = counter_get(&s->rejected[r]);
        v[METRIC_DROPPED] += v[METRIC_DROPPED_BY + r];
        v[METRIC_REJECTED] += v[METRIC_REJECTED_BY + r];
    }
    atomic_thread_fence(memory_order_acquire);
    v[METRIC_PUBLISHED] = counter_get(&s->published) + t.recovered;
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
static int stream_show(const struct stream_counters *s, struct shown *shown,
                       capture_sys_fn *publish, void *arg)
{
    uint64_t v[METRIC_COUNT];
    metrics_read(s, v);
    int published = 0;
    for (int i = 0; i < METRIC_COUNT; i++) {
        bool first = !shown->once && i < METRIC_REJECTED_BY;
        if (v[i] == shown->values[i] && !first) {
            continue;
        }
        char topic[TOPIC_BYTES], text[24];
        metric_topic(s, i, topic, sizeof topic);
        snprintf(text, sizeof text, "%" PRIu64, v[i]);
        publish(arg, topic, text);
        shown->values[i] = v[i];
        published++;
    }
    shown->once = true;
    return published;
}

/* Age of the oldest frame that is not in the log yet. Looked up here, because a writer that hangs
 * says nothing. The checksum of what an earlier broker wrote is looked at. */
static uint64_t lag_ms(const struct capture *c)
{
    static struct publish_frame frame;
    uint64_t next, pos = c->ring.file ? ring_consumed(&c->ring) : 0;
    bool recovered = pos < atomic_load(&c->link->recovered_end);
    struct slice bytes;
    if (!c->ring.file || ring_read(&c->ring, pos, recovered, &bytes, &next) ||
        publish_frame_get(bytes, &frame)) {
        return 0;
    }
    int64_t lag = clock_wall_ms() - frame.publish.timestamp_ms;
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
    struct link *l = c->link;
    char error[sizeof l->error] = "";
    const char *trouble = child_trouble(c);
    bool running = !trouble &&
                   atomic_load_explicit(&l->state, memory_order_relaxed) == STATE_RUNNING;
    if (trouble) {
        snprintf(error, sizeof error, "%s", trouble);
    } else if (!running) {
        link_error(l, error, sizeof error);
    }
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
        {"received", counter_get(&l->received)},
        {"unmatched", counter_get(&l->unmatched)},
        {"orphaned", counter_get(&l->orphaned)},
        {"corrupt", counter_get(&l->corrupt)},
        {"ring/bytes", ring_bytes},
        {"ring/used", ring_used},
        {"writer/lag-ms", lag_ms(c)},
        {"writer/commits", counter_get(&l->commits)},
        {"log/bytes", counter_get(&l->log_bytes)},
    };
    int row = 0;
    show_text(c, row++, "version", CULEX_VERSION, publish, arg);
    show_text(c, row++, "state", running ? "running" : "degraded", publish, arg);
    show_text(c, row++, "error", error, publish, arg);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        char text[24];
        snprintf(text, sizeof text, "%" PRIu64, numbers[i].value);
        show_text(c, row++, numbers[i].name, text, publish, arg);
    }
}

bool stats_init(struct capture *c)
{
    c->shown_streams = calloc(LINK_STREAMS_MAX, sizeof *c->shown_streams);
    return c->shown_streams != NULL;
}

void capture_attend(struct capture *c, capture_sys_fn *publish, void *arg)
{
    struct link *l = c->link;
    int64_t now = clock_mono_us();
    child_watch(c);
    child_read_config(c);
    /* A writer that hangs, or does not run, asks for no pass. */
    int64_t interval_us = (int64_t)atomic_load(&l->sys_interval_ms) * 1000;
    if (now - c->pass_us > interval_us + PASS_LATE_US) {
        link_due(l, DUE_COUNTERS);
    }
    if (!(atomic_load_explicit(&l->due, memory_order_relaxed) & DUE_COUNTERS)) {
        return;
    }
    atomic_fetch_and(&l->due, ~DUE_COUNTERS);
    if (!c->pass) {
        c->pass = true;
        c->pass_us = now;
        c->cursor = 0;
        show_whole(c, publish, arg);
    }
    int left = PASS_STEP;
    for (; c->cursor < LINK_STREAMS_MAX && left > 0; c->cursor++) {
        if (atomic_load_explicit(&l->ids[c->cursor], memory_order_relaxed)) {
            const struct stream_counters *s = &l->streams[c->cursor];
            left -= stream_show(s, &c->shown_streams[c->cursor], publish, arg) + 1;
        }
    }
    c->pass = c->cursor < LINK_STREAMS_MAX;
    if (c->pass) {
        link_due(l, DUE_COUNTERS);
    }
}

void stats_log_final(struct capture *c)
{
    struct link *l = c->link;
    for (uint32_t i = 0; i < LINK_STREAMS_MAX; i++) {
        if (!atomic_load(&l->ids[i])) {
            continue;
        }
        const struct stream_counters *s = &l->streams[i];
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
             counter_get(&l->received), counter_get(&l->unmatched), counter_get(&l->orphaned),
             counter_get(&l->corrupt), counter_get(&l->commits));
}
