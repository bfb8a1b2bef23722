/* The broker's side of capture.
 *
 *      MESSAGE ─▶ capture_match ─▶ capture_publish ─▶ ring ─▶ (writer)
 *                   none: go on        │ no room
 *                                      ▼
 *                  block ──bounded──▶ reject        drop ─▶ go on without it
 *
 * One publish is one frame, whatever the number of streams that it matches, so on_full is decided
 * once for all of them: the strictest of the matched streams has its way (block, then reject, then
 * drop). A publish that is refused is refused for every stream and for the broker's subscribers;
 * one that is dropped is dropped for every stream.
 *
 * durability = fsync waits for the disk in the same manner; a publish that waited in vain is in the
 * ring all the same, so its publisher, told no, may send it again, and it is in the log twice.
 *
 * The broker is one thread, so a wait here holds every client. That is what block asks for, but a
 * store that does not come back must not turn the broker into one that answers once a second: after
 * a wait in vain (`stuck`) nothing waits again until the writer has consumed something.
 *
 * The writer (another process) sleeps on a futex when there is nothing to do, and says so in
 * `sleeping`. It is woken only then: a system call per message would cost more than all the rest.
 * Between publishing the frame and looking at `sleeping` there must be a fence, as between saying
 * that it sleeps and looking at the ring once more, so that one of the two sees the other. See
 * link_fence. */
#include "plugins/capture/internal.h"

#include "shared/base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define WAIT_STEP_US       100
#define REFUSED_LOG_MS     10000
#define LOGGED_NAME_BYTES_MAX 160 /* and the rest of a character */
#define FANOUT_BYTES_MAX   (64u << 20) /* of one publish in all its streams: it is one commit */

static void nap_us(int64_t us)
{
    struct timespec ts = {us / 1000000, us % 1000000 * 1000};
    nanosleep(&ts, NULL);
}

/* --- a publish -------------------------------------------------------------------------------- */

HOT size_t capture_match(struct capture *c, struct slice topic, unsigned *needs)
{
    size_t n = filter_tree_match(c->set->tree, topic, c->matched, PUBLISH_STREAMS_MAX);
    *needs = 0;
    c->matched_count = n;
    c->fsync_asked = false;
    counter_add(&c->link->received, 1);
    if (n == 0) {
        counter_add(&c->link->unmatched, 1);
    }
    for (size_t i = 0; i < n; i++) {
        const struct stream *s = &c->set->streams[c->matched[i]];
        *needs |= s->needs;
        c->fsync_asked |= s->fsync;
        c->matched_ids[i] = s->id;
        counter_add(&s->counters->published, 1);
    }
    return n;
}

static const struct stream *matched_stream(const struct capture *c, size_t i)
{
    return &c->set->streams[c->matched[i]];
}

/* The strictest on_full of the matched streams; *block_ms is the longest wait that one asks for. */
static enum config_on_full matched_policy(const struct capture *c, int32_t *block_ms)
{
    enum config_on_full policy = ON_FULL_DROP;
    *block_ms = 0;
    for (size_t i = 0; i < c->matched_count; i++) {
        const struct config_stream *s = matched_stream(c, i)->config;
        policy = s->on_full < policy ? s->on_full : policy;
        if (s->on_full == ON_FULL_BLOCK && s->on_full_block_ms > *block_ms) {
            *block_ms = s->on_full_block_ms;
        }
    }
    return policy;
}

SELDOM static enum capture_verdict not_taken(struct capture *c, enum reason reason)
{
    int32_t block_ms;
    bool drop = matched_policy(c, &block_ms) == ON_FULL_DROP;
    for (size_t i = 0; i < c->matched_count; i++) {
        struct stream_counters *s = matched_stream(c, i)->counters;
        counter_add(drop ? &s->dropped[reason] : &s->rejected[reason], 1);
    }
    c->refusal.reason = reason;
    c->refusal.dropped = drop;
    return drop ? CAPTURE_DROPPED : CAPTURE_REFUSED;
}

static enum capture_verdict too_large(struct capture *c, uint64_t bytes, uint64_t bytes_max)
{
    c->refusal.bytes = bytes;
    c->refusal.bytes_max = bytes_max;
    return not_taken(c, REASON_TOO_LARGE);
}

/* A name that a client chose, for a line of the log: without what would end the quotes or the
 * line, and cut between characters where it is longer than a line bears. */
static void quote(struct buf *out, struct slice name)
{
    size_t end = out->len + LOGGED_NAME_BYTES_MAX;
    bool cut = false;
    buf_printf(out, "\"");
    for (size_t i = 0; i < name.len && !cut; i++) {
        uint8_t ch = name.data[i];
        bool plain = ch >= ' ' && ch != 0x7f && ch != '"' && ch != '\\';
        bool inside = (ch & 0xc0) == 0x80; /* of a character that has begun */
        cut = out->len >= end && !inside;
        if (!cut) {
            buf_printf(out, plain ? "%c" : "\\x%02x", ch);
        }
    }
    buf_printf(out, cut ? "...\"" : "\"");
}

void capture_log_refusal(struct capture *c, struct slice topic, const char *client)
{
    enum reason reason = c->refusal.reason;
    unsigned held = 0;
    if (!log_limit_pass(&c->refused_log[reason], REFUSED_LOG_MS, &held)) {
        return;
    }
    struct buf line;
    buf_init(&line, LOG_LINE_BYTES_MAX);
    quote(&line, topic);
    buf_printf(&line, " client=");
    quote(&line, slice_str(client ? client : ""));
    if (reason == REASON_TOO_LARGE && c->refusal.bytes) {
        buf_printf(&line, " bytes=%llu bytes_max=%llu", (unsigned long long)c->refusal.bytes,
                   (unsigned long long)c->refusal.bytes_max);
    } else if (reason == REASON_TOO_LARGE) {
        buf_printf(&line, " user_properties_max=%d", PUBLISH_USER_PROPERTIES_MAX);
    }
    log_error("publish %s reason=%s stream=%s topic=%s held_back=%u",
              c->refusal.dropped ? "dropped" : "rejected", reason_name(reason),
              matched_stream(c, 0)->config->name, buf_text(&line), held);
    buf_fini(&line);
}

/* Still the ring that ring_enter found? child_watch may bring another one. */
static bool in_ring(const struct capture *c)
{
    return atomic_load(&c->link->ring_number) == c->ring_number;
}

/* Waits for room as long as the policy allows. ERR_FULL: in vain. */
SELDOM static enum err wait_for_room(struct capture *c, size_t size, uint8_t **out)
{
    int32_t block_ms;
    if (matched_policy(c, &block_ms) != ON_FULL_BLOCK) {
        return ERR_FULL;
    }
    if (c->stuck && ring_consumed(&c->ring) == c->stuck_consumed) {
        return ERR_FULL;
    }
    c->stuck = false;
    int64_t deadline = clock_mono_us() + (int64_t)block_ms * 1000;
    enum err e = ERR_FULL;
    while (e == ERR_FULL && clock_mono_us() < deadline && in_ring(c)) {
        link_wake(c->link);
        child_watch(c);
        nap_us(WAIT_STEP_US);
        e = ring_reserve(&c->ring, size, true, out);
    }
    if (e == ERR_FULL) {
        c->stuck = true;
        c->stuck_consumed = ring_consumed(&c->ring);
    }
    return e;
}

/* Would a publish that must be on disk wait in vain? */
SELDOM static bool disk_fails(struct capture *c)
{
    if (c->disk_stuck && atomic_load(&c->link->durable_pos) > c->disk_stuck_pos) {
        c->disk_stuck = false;
    }
    return c->disk_stuck || child_trouble(c) ||
           atomic_load_explicit(&c->link->state, memory_order_relaxed) != STATE_RUNNING;
}

/* A stream with durability = fsync: the acknowledgement waits for the disk. */
SELDOM static bool wait_for_disk(struct capture *c, uint64_t pos)
{
    int32_t block_ms = 0;
    for (size_t i = 0; i < c->matched_count; i++) {
        const struct config_stream *s = matched_stream(c, i)->config;
        if (s->durability == DURABILITY_FSYNC && s->on_full_block_ms > block_ms) {
            block_ms = s->on_full_block_ms;
        }
    }
    atomic_store(&c->link->sync_wanted, pos + 1);
    link_wake(c->link);
    int64_t deadline = clock_mono_us() + (int64_t)block_ms * 1000;
    while (atomic_load(&c->link->durable_pos) <= pos) {
        if (clock_mono_us() >= deadline) {
            c->disk_stuck = true;
            c->disk_stuck_pos = pos;
            c->refusal.reason = REASON_DISK;
            c->refusal.dropped = false;
            return false;
        }
        nap_us(WAIT_STEP_US);
        child_watch(c);
    }
    return true;
}

SELDOM enum capture_verdict capture_too_large(struct capture *c)
{
    return too_large(c, 0, 0);
}

/* Inside the ring. */
static inline enum capture_verdict publish_put(struct capture *c, struct publish *p)
{
    if (c->fsync_asked && disk_fails(c)) {
        return not_taken(c, REASON_DISK);
    }
    p->timestamp_ms = clock_wall_ms_near(&c->now);
    size_t size = publish_frame_size(p, c->matched_count);
    if (size == 0 || size * c->matched_count > FANOUT_BYTES_MAX) {
        return too_large(c, size, FANOUT_BYTES_MAX / c->matched_count);
    }
    uint8_t *out;
    enum err e = ring_reserve(&c->ring, size, true, &out);
    if (e == ERR_FULL) {
        e = wait_for_room(c, size, &out);
    }
    if (e) {
        return e == ERR_FULL ? not_taken(c, REASON_RING_FULL)
                             : too_large(c, size, ring_frame_max(&c->ring));
    }
    uint32_t crc = publish_frame_put(p, c->matched_ids, c->matched_count, out,
                                     ring_sum(&c->ring, size));
    uint64_t pos = ring_commit_summed(&c->ring, size, crc);
    link_wake(c->link);
    return c->fsync_asked && !wait_for_disk(c, pos) ? CAPTURE_REFUSED : CAPTURE_TAKEN;
}

HOT enum capture_verdict capture_publish(struct capture *c, struct publish *p)
{
    if (!ring_enter(c)) {
        return not_taken(c, REASON_UNAVAILABLE);
    }
    enum capture_verdict v = publish_put(c, p);
    ring_leave(c);
    return v;
}

/* --- life ------------------------------------------------------------------------------------- */

static void capture_free(struct capture *c)
{
    if (c->link) {
        (void)child_stop(c); /* a writer that is left behind has the memory mapped, too */
        if (c->opened == OK) {
            stats_log_final(c);
        }
    }
    if (c->child.memory >= 0) {
        close(c->child.memory);
    }
    ring_close(&c->ring);
    stream_set_free(c->set);
    link_unmap(c->link);
    free(c->shown_streams);
    free(c);
}

enum err capture_open(struct capture **out, struct config *config, struct buf *mistakes)
{
    struct capture *c = calloc(1, sizeof *c);
    *out = NULL;
    if (!c) {
        config_fini(config);
        return ERR_NOMEM;
    }
    c->ring.fd = c->child.socket = c->child.memory = -1;
    c->ring_number = NO_RING_NUMBER;
    c->opened = ERR_AGAIN;
    c->store_config = config->store;
    snprintf(c->data, sizeof c->data, "%s", config->data);
    c->link = link_make(&c->child.memory);
    if (!c->link || !stats_init(c)) {
        config_fini(config);
        capture_free(c);
        return ERR_NOMEM;
    }
    c->link->writer_fences = link_fence_register();
    c->link->sys_interval_ms = config->sys_interval_ms;
    c->set = stream_set_new(c->link, config);
    enum err e = c->set ? child_configure(c, &c->set->config, mistakes) : ERR_NOMEM;
    e = e ? e : child_start(c, mistakes);
    if (e) {
        capture_free(c);
        return e;
    }
    if (c->set->config.stream_count == 0) {
        log_warn("no streams are configured: nothing will be captured");
    }
    log_info("capture started data=%s streams=%zu ring_bytes=%llu", c->data,
             c->set->config.stream_count, (unsigned long long)c->store_config.ring_bytes);
    *out = c;
    return OK;
}

/* Settings that only a start applies. */
static void warn_fixed(const struct capture *c, const struct config *config)
{
    if (strcmp(config->data, c->data) != 0) {
        log_warn("data has changed in the configuration: it is applied at the next start");
    }
    if (memcmp(&config->store, &c->store_config, sizeof config->store) != 0) {
        log_warn("\"store\" has changed in the configuration: it is applied at the next start");
    }
}

/* The writer gets the configuration as it was at start but for the streams: one that is started
 * again must open the same ring and store. */
static enum err configure_writer(struct capture *c, struct config *config, struct buf *mistakes)
{
    struct config_store store = config->store;
    char *data = config->data;
    config->store = c->store_config;
    config->data = c->data;
    enum err e = child_configure(c, config, mistakes);
    config->store = store;
    config->data = data;
    return e;
}

enum err capture_reload(struct capture *c, struct config *config, struct buf *mistakes)
{
    enum err e = streams_check(c->link, config, mistakes);
    if (e) {
        config_fini(config);
        return e;
    }
    warn_fixed(c, config);
    int interval = config->sys_interval_ms;
    struct stream_set *set = stream_set_new(c->link, config);
    if (!set) {
        buf_printf(mistakes, "no memory\n");
        return ERR_NOMEM;
    }
    e = configure_writer(c, &set->config, mistakes);
    if (e) {
        stream_set_free(set);
        return e;
    }
    atomic_store(&c->link->sys_interval_ms, interval);
    stream_set_free(c->set);
    c->set = set;
    c->matched_count = 0;
    log_info("configuration read again streams=%zu", set->config.stream_count);
    return OK;
}

void capture_on_change(struct capture *c, capture_read_fn *read)
{
    c->read = read;
}

void capture_close(struct capture *c)
{
    capture_free(c);
}
