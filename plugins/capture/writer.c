/* The writer thread: ring → record batches → store.
 *
 *   tick:  frames from read_pos on ─▶ one batch per partition ─▶ store_append
 *          ring position         ─▶ store_put          (same commit)
 *          store_commit          ─▶ ring_consume
 *
 * A frame is consumed only after the commit that holds its records and the position behind it, and
 * after a crash reading goes on at that position: each frame is in the log exactly once. The row
 * names the ring by its id; a position of another ring means nothing.
 *
 *            ┌────────── frames ──────────┐
 *            ▼                            │
 *          tick ──none──▶ sleep (futex) ──┘        under load: tick, nap, tick, nap
 *            │ error
 *            ▼
 *          degraded: back off, close the store when it says that it is broken, open it again
 *
 * A nap after a tick lets publishes gather, because a commit costs the same for one record as for a
 * hundred; a lone publish is not delayed by it, since the writer then sleeps on the futex and wakes
 * at once. Memory: a tick takes at most TICK_BYTES_MAX of frames (few enough that what is copied is
 * still in the cache when it is copied again), builders are reused, and those that grew are given
 * back when nothing comes for a while: fresh memory costs a page fault for each 4 KB. */
#include "plugins/capture/writer.h"

#include "shared/base/clock.h"

#include <errno.h>
#include <linux/close_range.h>
#include <linux/membarrier.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define TICK_BYTES_MAX     (1u << 20)
#define TICK_FRAMES_MAX    4096
#define BATCH_BYTES        (256u << 10) /* a batch is closed before it passes this */
#define BATCH_BYTES_MAX    (RING_BYTES_MAX / 4 + (1u << 20)) /* one record as large as a frame */
#define SLOTS_KEPT_MAX     512
#define SLOT_BYTES_KEPT    (16u << 10)
#define SPARE_BYTES_MAX    (4u << 20) /* of spare builders together, while there is work */
#define NAP_FEW_US         150
#define NAP_MANY_US        1000
#define FRAMES_MANY        64
#define IDLE_MS            250
#define HOUSEKEEPING_MS    200
#define STORE_POLL_MS      100
#define OPENED_POLL_MS     5000
#define DRAIN_MS           10000 /* at stop */
#define JOIN_S             30
#define LOST_LOG_MS        10000
#define TIMER_SLACK_NS     1000

/* --- builders --------------------------------------------------------------------------------- */

static struct slot *slot_take(struct writer *w, struct writer_stream *s, int32_t partition)
{
    struct slot *slot = w->spare;
    if (slot) {
        w->spare = slot->next;
        w->spare_count--;
        w->spare_bytes -= slot->batch.buf.cap;
    } else {
        slot = malloc(sizeof *slot);
        if (!slot) {
            return NULL;
        }
        batch_builder_init(&slot->batch, BATCH_BYTES_MAX);
    }
    slot->stream = s;
    slot->partition = partition;
    slot->next = w->dirty;
    w->dirty = slot;
    s->slots[partition] = slot;
    return slot;
}

static void slot_free(struct slot *slot)
{
    batch_builder_fini(&slot->batch);
    free(slot);
}

/* All builders of the tick become spare, empty. */
static void slots_release(struct writer *w)
{
    while (w->dirty) {
        struct slot *slot = w->dirty;
        w->dirty = slot->next;
        slot->stream->slots[slot->partition] = NULL;
        if (w->spare_count >= SLOTS_KEPT_MAX) {
            slot_free(slot);
            continue;
        }
        batch_builder_reset(&slot->batch);
        if (slot->batch.buf.cap > SPARE_BYTES_MAX - w->spare_bytes) {
            buf_trim(&slot->batch.buf, 0);
        }
        slot->next = w->spare;
        w->spare = slot;
        w->spare_count++;
        w->spare_bytes += slot->batch.buf.cap;
    }
}

static void spare_trim(struct writer *w)
{
    w->spare_bytes = 0;
    for (struct slot *slot = w->spare; slot; slot = slot->next) {
        buf_trim(&slot->batch.buf, SLOT_BYTES_KEPT);
        w->spare_bytes += slot->batch.buf.cap;
    }
}

/* --- what a tick counts ----------------------------------------------------------------------- */

static void stream_touch(struct writer *w, struct writer_stream *s)
{
    if (!s->next_touched) {
        s->next_touched = w->touched ? w->touched : s;
        w->touched = s;
    }
}

/* The tick is committed (its numbers count) or not (they never were). */
static void touched_end(struct writer *w, bool committed)
{
    struct writer_stream *s = w->touched;
    w->touched = NULL;
    while (s) {
        struct writer_stream *next = s->next_touched == s ? NULL : s->next_touched;
        struct stream_counters *n = s->counters;
        if (committed) {
            counter_add(&n->recovered, s->tick_published);
            counter_add(&n->stored, s->tick_stored);
            counter_add(&n->stored_bytes, s->tick_bytes);
            counter_add(&n->shadowed, s->tick_shadowed);
            counter_add(&n->unkeyed, s->tick_unkeyed);
            for (int r = 0; r < REASON_COUNT; r++) {
                counter_add(&n->lost[r], s->tick_lost[r]);
            }
            if (s->tick_stored) {
                atomic_store_explicit(&n->last_partition, (uint64_t)s->tick_partition,
                                      memory_order_relaxed);
                atomic_store_explicit(&n->last_offset, (uint64_t)s->tick_offset,
                                      memory_order_relaxed);
            }
        }
        s->next_touched = NULL;
        s->tick_published = s->tick_stored = s->tick_bytes = 0;
        s->tick_shadowed = s->tick_unkeyed = 0;
        memset(s->tick_lost, 0, sizeof s->tick_lost);
        s = next;
    }
}

static void lost_log(struct writer *w, const char *what, enum reason r)
{
    unsigned held = 0;
    if (log_limit_pass(&w->lost_log, LOST_LOG_MS, &held)) {
        log_error("record dropped stream=%s reason=%s held_back=%u", what, reason_name(r), held);
    }
}

/* --- frames into batches ---------------------------------------------------------------------- */

static enum err slot_append(struct writer *w, struct slot *slot)
{
    struct writer_stream *s = slot->stream;
    uint64_t count = (uint64_t)slot->batch.count;
    struct slice batch = batch_finish(&slot->batch);
    if (count == 0) {
        return OK;
    }
    uint32_t uid = s->uid + (uint32_t)slot->partition;
    int64_t base = 0;
    enum err e = store_append(w->store, uid, slot->batch.buf.data, batch.len, &base);
    if (e == ERR_NOT_FOUND || e == ERR_TOO_LARGE || e == ERR_CORRUPT || e == ERR_INVALID) {
        /* Tried again, it would be refused again, and all behind it would wait for ever. */
        enum reason r = e == ERR_TOO_LARGE   ? REASON_TOO_LARGE
                        : e == ERR_NOT_FOUND ? REASON_UNKNOWN
                                             : REASON_CORRUPT;
        s->tick_lost[r] += count;
        lost_log(w, s->counters->name, r);
    } else if (e) {
        return e;
    } else {
        s->tick_stored += count;
        s->tick_bytes += batch.len;
        s->tick_partition = slot->partition;
        s->tick_offset = base + (int64_t)count - 1;
    }
    batch_builder_reset(&slot->batch);
    if (slot->partition == s->sticky) {
        s->sticky = (s->sticky + 1) % s->partition_count;
    }
    return OK;
}

static enum err record_put(struct writer *w, struct writer_stream *s, const struct record *r)
{
    int32_t partition = r->key.data ? partition_of_key(r->key, s->partition_count) : s->sticky;
    struct slot *slot = s->slots[partition];
    if (slot && slot->batch.count &&
        slot->batch.buf.len + record_size_max(r) > BATCH_BYTES) {
        enum err e = slot_append(w, slot);
        if (e) {
            return e;
        }
        partition = r->key.data ? partition : s->sticky;
        slot = s->slots[partition];
    }
    slot = slot ? slot : slot_take(w, s, partition);
    if (!slot) {
        return ERR_NOMEM;
    }
    enum err e = batch_add(&slot->batch, r);
    if (e == ERR_TOO_LARGE) {
        s->tick_lost[REASON_TOO_LARGE]++;
        lost_log(w, s->counters->name, REASON_TOO_LARGE);
        return OK;
    }
    return e;
}

static bool next_set_waits(struct capture *c)
{
    pthread_mutex_lock(&c->lock);
    bool waits = c->next_sets != NULL;
    pthread_mutex_unlock(&c->lock);
    return waits;
}

static struct writer_stream *stream_by_id(struct writer *w, uint64_t id)
{
    struct writer_stream *s;
    HASH_FIND(hh, w->by_id, &id, sizeof id, s);
    return s;
}

/* ERR_AGAIN: the frame is for streams of a configuration that the writer has yet to take over. */
static enum err frame_check_streams(struct writer *w)
{
    for (uint32_t i = 0; i < w->frame.stream_count; i++) {
        if (!stream_by_id(w, w->frame.streams[i]) && next_set_waits(w->c)) {
            return ERR_AGAIN;
        }
    }
    return OK;
}

/* An entry to count in, for a stream that the store has not. NULL: nobody knows its name. */
static struct writer_stream *stream_unknown(struct writer *w, uint64_t id)
{
    struct writer_stream *s;
    HASH_FIND(hh, w->unknown, &id, sizeof id, s);
    struct stream_counters *n = s ? NULL : atomic_load(&w->c->counters);
    while (n && n->id != id) {
        n = n->next;
    }
    if (n) {
        s = calloc(1, sizeof *s);
        if (s) {
            s->id = id;
            s->counters = n;
            HASH_ADD(hh, w->unknown, id, sizeof s->id, s);
            if (!s->hh.tbl) {
                free(s);
                s = NULL;
            }
        }
    }
    return s;
}

static void frame_lost(struct writer *w, uint64_t id, bool recovered)
{
    struct writer_stream *s = stream_unknown(w, id);
    if (s) {
        stream_touch(w, s);
        s->tick_published += recovered;
        s->tick_lost[REASON_UNKNOWN]++;
    } else {
        counter_add(&w->c->orphaned, 1);
    }
    lost_log(w, s ? s->counters->name : "?", REASON_UNKNOWN);
}

static enum err frame_put(struct writer *w, struct slice bytes, bool recovered)
{
    enum err e = publish_frame_get(bytes, &w->frame);
    if (e) {
        counter_add(&w->c->corrupt, 1);
        lost_log(w, "?", REASON_CORRUPT);
        return OK;
    }
    e = frame_check_streams(w);
    for (uint32_t i = 0; !e && i < w->frame.stream_count; i++) {
        struct writer_stream *s = stream_by_id(w, w->frame.streams[i]);
        if (!s) {
            frame_lost(w, w->frame.streams[i], recovered);
            continue;
        }
        struct record r;
        mapping_record(&w->mapping, &s->config, &w->frame.publish, &r);
        stream_touch(w, s);
        s->tick_published += recovered;
        s->tick_shadowed += w->mapping.shadowed;
        s->tick_unkeyed += w->mapping.unkeyed;
        e = record_put(w, s, &r);
    }
    return e;
}

/* Reads frames until the ring is empty or the tick is full. *pos is behind the last one taken. */
static enum err frames_gather(struct writer *w, uint64_t *pos, unsigned *frames)
{
    uint64_t head = ring_head(&w->c->ring);
    uint64_t bytes_taken = 0; /* as often as they go into a stream */
    *frames = 0;
    while (*frames < TICK_FRAMES_MAX && bytes_taken < TICK_BYTES_MAX) {
        struct slice bytes;
        uint64_t next;
        bool recovered = *pos < w->recovered_end;
        /* What this process has written it need not doubt: head came after the bytes. */
        enum err e = ring_read_below(&w->c->ring, head, *pos, recovered, &bytes, &next);
        if (e == ERR_AGAIN) {
            break;
        }
        if (e) {
            /* Without a length there is no next frame: what was written before is given up. Only a
             * crash of the machine leaves this. */
            counter_add(&w->c->corrupt, 1);
            log_error("ring unreadable position=%llu bytes_given_up=%llu: %s",
                      (unsigned long long)*pos, (unsigned long long)(head - *pos), err_name(e));
            *pos = head;
            (*frames)++;
            break;
        }
        e = frame_put(w, bytes, recovered);
        if (e == ERR_AGAIN) {
            break;
        }
        if (e) {
            return e;
        }
        *pos = next;
        (*frames)++;
        bytes_taken += (uint64_t)bytes.len * w->frame.stream_count;
    }
    return OK;
}

static enum err tick_write(struct writer *w, uint64_t pos, struct errmsg *m)
{
    for (struct slot *slot = w->dirty; slot; slot = slot->next) {
        enum err e = slot_append(w, slot);
        if (e) {
            return err_set(m, e, "cannot append to the log: %s", err_name(e));
        }
    }
    enum err e = writer_position_put(w, pos);
    if (e) {
        return err_set(m, e, "cannot note the ring position: %s", err_name(e));
    }
    return store_commit(w->store, m);
}

/* One tick. On failure nothing of it happened. */
static enum err writer_tick(struct writer *w, unsigned *frames, struct errmsg *m)
{
    uint64_t pos = w->read_pos;
    enum err e = frames_gather(w, &pos, frames);
    if (e) {
        (void)err_set(m, e, "cannot make record batches: %s", err_name(e));
    } else if (*frames) {
        e = tick_write(w, pos, m);
    }
    if (e) {
        store_rollback(w->store);
    } else if (*frames) {
        ring_consume(&w->c->ring, pos);
        w->read_pos = pos;
        counter_add(&w->c->commits, 1);
    }
    w->worked = w->worked || *frames;
    touched_end(w, e == OK);
    slots_release(w);
    return e;
}

/* --- the thread ------------------------------------------------------------------------------- */

static void note_oldest(struct writer *w)
{
    struct slice bytes;
    uint64_t next;
    bool waits = w->ring_open &&
                 ring_read(&w->c->ring, w->read_pos, true, &bytes, &next) == OK &&
                 publish_frame_get(bytes, &w->frame) == OK;
    atomic_store_explicit(&w->c->oldest_ms, waits ? w->frame.publish.timestamp_ms : 0,
                          memory_order_relaxed);
}

static void note_log_size(struct writer *w)
{
    struct store_stats st = {0};
    if (w->store) {
        store_get_stats(w->store, &st);
        atomic_store_explicit(&w->c->log_bytes, st.bytes, memory_order_relaxed);
    }
}

static void writer_housekeeping(struct writer *w)
{
    int64_t now = clock_mono_us();
    if (now < w->housekeeping_us) {
        return;
    }
    w->housekeeping_us = now + HOUSEKEEPING_MS * 1000;
    if (!w->worked) {
        spare_trim(w);
    }
    w->worked = false;
    writer_watch_ring(w);
    note_oldest(w);
    int interval_ms = atomic_load_explicit(&w->c->sys_interval_ms, memory_order_relaxed);
    bool show = now >= w->shown_us;
    if (show) {
        w->shown_us = now + (int64_t)interval_ms * 1000;
        note_log_size(w);
    }
    if (show || loglines_waiting()) {
        atomic_store_explicit(&w->c->tick_due, true, memory_order_relaxed);
    }
    struct errmsg m;
    enum err e = w->store ? store_tick(w->store, clock_wall_ms(), &m) : OK;
    if (e) {
        writer_failed(w, e, m.text);
    }
}

/* A publish with durability = fsync is in the log and waits for the disk. */
static bool sync_due(const struct writer *w)
{
    uint64_t wanted = atomic_load(&w->c->sync_wanted);
    return wanted > atomic_load(&w->c->durable_pos) && wanted <= w->read_pos;
}

static enum err writer_sync(struct writer *w, struct errmsg *m)
{
    enum err e = sync_due(w) ? store_sync(w->store, m) : OK;
    if (e == OK && sync_due(w)) {
        atomic_store(&w->c->durable_pos, w->read_pos);
    }
    return e;
}

static void writer_sleep(struct writer *w)
{
    struct capture *c = w->c;
    atomic_store(&c->sleeping, 1);
    if (c->writer_fences) {
        (void)syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
    } else {
        atomic_thread_fence(memory_order_seq_cst);
    }
    if (ring_head(&c->ring) == w->read_pos && !sync_due(w) && !next_set_waits(c) &&
        !atomic_load(&c->stop)) {
        (void)futex_wait_ms(&c->sleeping, 1, IDLE_MS); /* woken, timed out, interrupted: all fine */
    }
    atomic_store(&c->sleeping, 0);
}

static void writer_rest(struct writer *w, unsigned frames)
{
    struct capture *c = w->c;
    if (frames == 0) {
        writer_sleep(w);
    } else if (ring_head(&c->ring) - w->read_pos < c->ring.bytes / 8) {
        (void)futex_wait_us(&c->stop, 0, frames < FRAMES_MANY ? NAP_FEW_US : NAP_MANY_US);
    }
}

static void writer_drain(struct writer *w)
{
    int64_t deadline = clock_mono_us() + (int64_t)DRAIN_MS * 1000;
    struct errmsg m;
    unsigned frames = 1;
    w->next_try_us = 0;
    while (frames && clock_mono_us() < deadline && writer_ready(w)) {
        enum err e = writer_tick(w, &frames, &m);
        if (e) {
            log_error("capture stops with a log that cannot be written: %s", m.text);
            break;
        }
    }
    if (w->ring_open && ring_head(&w->c->ring) != w->read_pos) {
        log_error("publishes stay in %s bytes=%llu",
                  w->ring_gone ? "a ring that was removed or moved away"
                               : "the ring for the next start",
                  (unsigned long long)(ring_head(&w->c->ring) - w->read_pos));
    }
}

static void writer_loop(struct writer *w)
{
    struct capture *c = w->c;
    while (!atomic_load(&c->stop)) {
        writer_housekeeping(w);
        if (!writer_ready(w)) {
            (void)futex_wait_ms(&c->stop, 0, STORE_POLL_MS);
            continue;
        }
        struct errmsg m;
        unsigned frames;
        enum err e = writer_tick(w, &frames, &m);
        e = e ? e : writer_sync(w, &m);
        if (e) {
            writer_failed(w, e, m.text);
            continue;
        }
        if (!w->ring_gone) {
            writer_fine(w);
        } else if (writer_leave_ring(w)) {
            continue;
        }
        writer_rest(w, frames);
    }
    writer_drain(w);
}

/* Descriptors of ring and store live in a table of this thread and those that it starts. The broker
 * keeps the other table to itself, and so the kernel's cheap way to look up a descriptor in each
 * system call, which it has only for a table that no two threads share. Before Linux 5.9 the call
 * fails, and all share one table. */
static void own_descriptors(void)
{
    (void)syscall(SYS_close_range, STDERR_FILENO + 1, ~0u, CLOSE_RANGE_UNSHARE);
}

static void *writer_main(void *arg)
{
    struct writer *w = arg;
    struct capture *c = w->c;
    (void)prctl(PR_SET_NAME, "culex-writer", 0, 0, 0);       /* for people who look */
    (void)prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS, 0, 0, 0); /* naps are shorter than its default */
    own_descriptors();
    w->opened_err = writer_open_patiently(w, w->mistakes);
    w->mistakes = NULL;
    enum err e = w->opened_err;
    atomic_store(&w->opened, 1);
    futex_wake(&w->opened);
    if (!e) {
        writer_loop(w);
    }
    writer_close_store(w);
    if (w->ring_open) {
        ring_close(&c->ring);
    }
    return NULL;
}

enum err writer_new(struct capture *c)
{
    struct writer *w = calloc(1, sizeof *w);
    if (!w) {
        return ERR_NOMEM;
    }
    w->c = c;
    w->set = c->set;
    atomic_fetch_add(&w->set->refs, 1);
    mapping_init(&w->mapping);
    c->writer = w;
    return OK;
}

enum err writer_start(struct capture *c, struct buf *mistakes)
{
    struct writer *w = c->writer;
    w->mistakes = mistakes;
    c->writer_fences =
        syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0;
    /* The broker's signals are for the broker's thread. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&c->thread, NULL, writer_main, c->writer);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    c->thread_running = error == 0;
    if (error) {
        buf_printf(mistakes, "cannot start the writer thread: %s\n", strerror(error));
        return ERR_NOMEM;
    }
    while (!atomic_load(&w->opened)) {
        (void)futex_wait_ms(&w->opened, 0, OPENED_POLL_MS); /* recovery takes what it takes */
    }
    return w->opened_err;
}

static bool writer_join(struct capture *c)
{
    atomic_store(&c->stop, 1);
    futex_wake(&c->stop);
    atomic_store(&c->sleeping, 0);
    futex_wake(&c->sleeping);
    struct timespec deadline;
    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += JOIN_S;
    return pthread_timedjoin_np(c->thread, NULL, &deadline) == 0;
}

bool writer_stop(struct capture *c)
{
    struct writer *w = c->writer;
    if (!w) {
        return true;
    }
    if (c->thread_running) {
        if (!writer_join(c)) {
            log_error("the writer hangs in the disk: left behind");
            return false;
        }
        if (!w->opened_err) {
            stats_log_final(c);
        }
    }
    streams_free(&w->by_id);
    streams_free(&w->unknown);
    for (struct slot *slot = w->spare, *next; slot; slot = next) {
        next = slot->next;
        slot_free(slot);
    }
    mapping_fini(&w->mapping);
    stream_set_unref(w->set);
    free(w);
    c->writer = NULL;
    return true;
}
