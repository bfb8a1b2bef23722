/* The broker's side of capture.
 *
 *      MESSAGE ─▶ capture_match ─▶ capture_publish ─▶ ring ─▶ (writer thread)
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
 * The writer sleeps on a futex when there is nothing to do, and says so in `sleeping`. The
 * broker wakes it only then: a system call per message would cost more than all the rest. Between
 * publishing the frame and looking at `sleeping` there must be a fence, as between saying that it
 * sleeps and looking at the ring once more, so that one of the two sees the other. A fence here
 * waits for the frame's cache lines, for each message; so the writer, which rarely sleeps when
 * there is much to do, makes one happen in all threads (membarrier) where the kernel can. */
#include "plugins/capture/internal.h"

#include "shared/base/clock.h"

#include <linux/futex.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define NEXT_SETS_MAX      16 /* configurations that wait for the writer: each may have streams */
#define WAIT_STEP_US       100
#define REFUSED_LOG_MS     10000
#define LOGGED_NAME_BYTES_MAX 160 /* and the rest of a character */
#define FANOUT_BYTES_MAX   (64u << 20) /* of one publish in all its streams: it is one commit */

/* --- waiting and waking ----------------------------------------------------------------------- */

int futex_wait_us(_Atomic uint32_t *word, uint32_t value, int64_t timeout_us)
{
    struct timespec ts = {timeout_us / 1000000, timeout_us % 1000000 * 1000};
    return (int)syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, &ts, NULL, 0);
}

int futex_wait_ms(_Atomic uint32_t *word, uint32_t value, int timeout_ms)
{
    return futex_wait_us(word, value, (int64_t)timeout_ms * 1000);
}

void futex_wake(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

void capture_wake(struct capture *c)
{
    broker_fence(c);
    if (atomic_load_explicit(&c->sleeping, memory_order_relaxed) &&
        atomic_exchange(&c->sleeping, 0)) {
        futex_wake(&c->sleeping);
    }
}

static void nap_us(int64_t us)
{
    struct timespec ts = {us / 1000000, us % 1000000 * 1000};
    nanosleep(&ts, NULL);
}

/* --- state ------------------------------------------------------------------------------------ */

static const char *const reason_names[REASON_COUNT] = {
    [REASON_RING_FULL] = "ring-full",     [REASON_TOO_LARGE] = "too-large",
    [REASON_UNAVAILABLE] = "unavailable", [REASON_DISK] = "disk",
    [REASON_UNKNOWN] = "unknown-stream",  [REASON_CORRUPT] = "corrupt",
};

const char *reason_name(enum reason r)
{
    return reason_names[r];
}

void capture_set_state(struct capture *c, enum capture_state state, const char *why)
{
    pthread_mutex_lock(&c->lock);
    enum capture_state before = (enum capture_state)atomic_exchange(&c->state, (int)state);
    bool news = before != state || strcmp(c->error, why) != 0;
    snprintf(c->error, sizeof c->error, "%s", why);
    pthread_mutex_unlock(&c->lock);
    if (!news) {
        return;
    }
    if (state == STATE_RUNNING) {
        log_warn("capture runs again");
    } else if (state == STATE_NO_STORE) {
        log_error("capture is degraded: the log cannot be written, publishes wait in the ring "
                  "until it is full: %s", why);
    } else {
        log_error("capture is degraded: nothing can be captured, on_full decides: %s", why);
    }
    atomic_store_explicit(&c->tick_due, true, memory_order_relaxed);
}

struct stream_counters *capture_counters(struct capture *c, const char *name)
{
    pthread_mutex_lock(&c->lock);
    struct stream_counters *s = atomic_load(&c->counters);
    while (s && strcmp(s->name, name) != 0) {
        s = s->next;
    }
    if (!s) {
        s = aligned_alloc(CACHE_LINE, sizeof *s);
        if (s) {
            memset(s, 0, sizeof *s);
            s->id = stream_id(slice_str(name));
            snprintf(s->name, sizeof s->name, "%s", name);
            s->next = atomic_load(&c->counters);
            atomic_store(&c->counters, s);
        }
    }
    pthread_mutex_unlock(&c->lock);
    return s;
}

/* --- a publish -------------------------------------------------------------------------------- */

size_t capture_match(struct capture *c, struct slice topic)
{
    c->matched_count = filter_tree_match(c->set->tree, topic, c->matched, PUBLISH_STREAMS_MAX);
    counter_add(&c->received, 1);
    if (c->matched_count == 0) {
        counter_add(&c->unmatched, 1);
    }
    return c->matched_count;
}

unsigned capture_needs(const struct capture *c)
{
    unsigned needs = 0;
    for (size_t i = 0; i < c->matched_count; i++) {
        needs |= c->set->streams[c->matched[i]].needs;
    }
    return needs;
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
    while (e == ERR_FULL && clock_mono_us() < deadline && atomic_load(&c->ring_ready)) {
        capture_wake(c);
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
    if (c->disk_stuck && atomic_load(&c->durable_pos) > c->disk_stuck_pos) {
        c->disk_stuck = false;
    }
    return c->disk_stuck ||
           atomic_load_explicit(&c->state, memory_order_relaxed) != STATE_RUNNING;
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
    atomic_store(&c->sync_wanted, pos + 1);
    capture_wake(c);
    int64_t deadline = clock_mono_us() + (int64_t)block_ms * 1000;
    while (atomic_load(&c->durable_pos) <= pos) {
        if (clock_mono_us() >= deadline) {
            c->disk_stuck = true;
            c->disk_stuck_pos = pos;
            c->refusal.reason = REASON_DISK;
            c->refusal.dropped = false;
            return false;
        }
        nap_us(WAIT_STEP_US);
    }
    return true;
}

SELDOM enum capture_verdict capture_too_large(struct capture *c)
{
    for (size_t i = 0; i < c->matched_count; i++) {
        counter_add(&matched_stream(c, i)->counters->published, 1);
    }
    return too_large(c, 0, 0);
}

/* Inside the ring. */
static enum capture_verdict publish_put(struct capture *c, struct publish *p, bool fsync_asked)
{
    if (fsync_asked && disk_fails(c)) {
        return not_taken(c, REASON_DISK);
    }
    p->timestamp_ms = clock_wall_ms();
    size_t size = publish_frame_size(p, c->matched_count);
    size_t fanout_max = FANOUT_BYTES_MAX / c->matched_count;
    if (size == 0 || size > fanout_max) {
        return too_large(c, size, fanout_max);
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
    publish_frame_put(p, c->matched_ids, c->matched_count, out);
    uint64_t pos = ring_commit(&c->ring, size);
    capture_wake(c);
    return fsync_asked && !wait_for_disk(c, pos) ? CAPTURE_REFUSED : CAPTURE_TAKEN;
}

enum capture_verdict capture_publish(struct capture *c, struct publish *p)
{
    bool fsync_asked = false;
    for (size_t i = 0; i < c->matched_count; i++) {
        const struct stream *s = matched_stream(c, i);
        c->matched_ids[i] = s->id;
        counter_add(&s->counters->published, 1);
        fsync_asked = fsync_asked || s->config->durability == DURABILITY_FSYNC;
    }
    if (!ring_enter(c)) {
        return not_taken(c, REASON_UNAVAILABLE);
    }
    enum capture_verdict v = publish_put(c, p, fsync_asked);
    ring_leave(c);
    return v;
}

/* --- life ------------------------------------------------------------------------------------- */

static void capture_free(struct capture *c)
{
    if (!writer_stop(c)) {
        return; /* its thread still uses all this */
    }
    stream_set_unref(c->set);
    while (c->next_sets) {
        struct stream_set *set = c->next_sets;
        c->next_sets = set->next;
        stream_set_unref(set);
    }
    struct stream_counters *next;
    for (struct stream_counters *s = atomic_load(&c->counters); s; s = next) {
        next = s->next;
        free(s);
    }
    free(c->known);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

/* Paths under the data directory. */
static enum err make_paths(struct capture *c, const char *data, struct buf *mistakes)
{
    int a = snprintf(c->data, sizeof c->data, "%s", data);
    int b = snprintf(c->ring_path, sizeof c->ring_path, "%s/capture.ring", data);
    int d = snprintf(c->store_dir, sizeof c->store_dir, "%s/captured", data);
    if (a < 0 || b < 0 || d < 0 || (size_t)b >= sizeof c->ring_path) {
        buf_printf(mistakes, "data: the path is too long: %s\n", data);
        return ERR_INVALID;
    }
    return OK;
}

enum err capture_open(struct capture **out, struct config *config, struct buf *mistakes)
{
    size_t size = (sizeof(struct capture) + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
    struct capture *c = aligned_alloc(CACHE_LINE, size);
    *out = NULL;
    if (!c) {
        config_fini(config);
        return ERR_NOMEM;
    }
    memset(c, 0, size);
    c->ring.fd = -1;
    pthread_mutex_init(&c->lock, NULL);
    c->store_config = config->store;
    c->sys_interval_ms = config->sys_interval_ms;
    enum err e = make_paths(c, config->data, mistakes);
    c->set = stream_set_new(c, config);
    if (!e && (!c->set || writer_new(c))) {
        e = ERR_NOMEM;
    }
    e = e ? e : writer_start(c, mistakes);
    if (!e && c->set->config.stream_count == 0) {
        log_warn("no streams are configured: nothing will be captured");
    }
    if (e) {
        capture_free(c);
        return e;
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

/* Behind those that the writer has yet to take over. */
static enum err queue_set(struct capture *c, struct stream_set *set, struct buf *mistakes)
{
    int waiting = 0;
    pthread_mutex_lock(&c->lock);
    struct stream_set **end = &c->next_sets;
    while (*end) {
        end = &(*end)->next;
        waiting++;
    }
    if (waiting < NEXT_SETS_MAX) {
        atomic_fetch_add(&set->refs, 1); /* the queue's */
        *end = set;
    } else {
        buf_printf(mistakes, "%d configurations already wait until the log can be written: %s\n",
                   waiting, c->error);
    }
    pthread_mutex_unlock(&c->lock);
    return waiting < NEXT_SETS_MAX ? OK : ERR_FULL;
}

enum err capture_reload(struct capture *c, struct config *config, struct buf *mistakes)
{
    enum err e = streams_check(c, config, mistakes);
    if (e) {
        config_fini(config);
        return e;
    }
    warn_fixed(c, config);
    int interval = config->sys_interval_ms;
    struct stream_set *set = stream_set_new(c, config);
    if (!set) {
        buf_printf(mistakes, "no memory\n");
        return ERR_NOMEM;
    }
    e = queue_set(c, set, mistakes);
    if (e) {
        stream_set_unref(set);
        return e;
    }
    atomic_store(&c->sys_interval_ms, interval);
    stream_set_unref(c->set);
    c->set = set;
    c->matched_count = 0;
    capture_wake(c);
    log_info("configuration read again streams=%zu", set->config.stream_count);
    return OK;
}

void capture_close(struct capture *c)
{
    capture_free(c);
}
