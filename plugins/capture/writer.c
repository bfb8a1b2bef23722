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
#include "plugins/capture/internal.h"

#include "shared/base/clock.h"

#include <errno.h>
#include <linux/close_range.h>
#include <linux/membarrier.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
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
#define BACKOFF_MS_MIN     100
#define BACKOFF_MS_MAX     5000
#define DRAIN_MS           10000 /* at stop */
#define JOIN_S             30
#define LOST_LOG_MS        10000
#define TIMER_SLACK_NS     1000
#define LOCKED_WAIT_MS     3000 /* a killed broker's file locks go with its last page */
#define LOCKED_STEP_MS     50
#define POSITION_KEY       "capture/ring"
#define POSITION_BYTES     16

/* A batch under construction: one per partition that this tick touches. */
struct slot {
    struct batch_builder batch;
    struct writer_stream *stream;
    int32_t partition;
    struct slot *next;
};

struct writer {
    struct capture *c;
    struct stream_set *set; /* own reference */
    struct store *store;    /* NULL: not open */
    struct writer_stream *by_id;
    struct mapping mapping;
    struct publish_frame frame;
    struct slot *dirty, *spare;
    size_t spare_count;
    size_t spare_bytes; /* that they hold */
    bool worked;        /* since the last housekeeping */
    struct writer_stream *touched;
    uint64_t read_pos;
    uint64_t recovered_end; /* frames below it were there at start */
    bool position_known;    /* the row is of this run */
    int64_t next_try_us, housekeeping_us, shown_us;
    int backoff_ms;
    struct log_limit lost_log;
    _Atomic uint32_t opened;  /* futex: 1 when the thread has tried to open ring and store … */
    enum err opened_err;      /* … and what came of it */
    struct buf *mistakes;     /* capture_open's, until then */
};

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
    bool waits = c->next_set != NULL;
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
        if (stream_by_id(w, w->frame.streams[i])) {
            continue;
        }
        if (next_set_waits(w->c)) {
            return ERR_AGAIN;
        }
        counter_add(&w->c->orphaned, 1);
        lost_log(w, "?", REASON_UNKNOWN);
    }
    return OK;
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

static enum err position_put(struct writer *w, uint64_t pos)
{
    uint8_t row[POSITION_BYTES];
    be64_put(row, ring_id(&w->c->ring));
    be64_put(row + 8, pos);
    return store_put(w->store, slice_str(POSITION_KEY), slice_make(row, sizeof row));
}

static enum err tick_write(struct writer *w, uint64_t pos, struct errmsg *m)
{
    for (struct slot *slot = w->dirty; slot; slot = slot->next) {
        enum err e = slot_append(w, slot);
        if (e) {
            return err_set(m, e, "cannot append to the log: %s", err_name(e));
        }
    }
    enum err e = position_put(w, pos);
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

/* --- ring and store --------------------------------------------------------------------------- */

/* A ring that cannot be read may hold acknowledged publishes all the same: it is put aside, for a
 * version that can, and a new one takes its place. */
static void ring_set_aside(const struct capture *c, const char *why)
{
    char aside[PATH_MAX];
    int n = snprintf(aside, sizeof aside, "%s.unreadable-%lld", c->ring_path,
                     (long long)clock_wall_ms());
    if (n > 0 && (size_t)n < sizeof aside && rename(c->ring_path, aside) == 0) {
        log_error("capture ring put aside, publishes in it are not in the log file=%s: %s", aside,
                  why);
    }
}

/* A ring of another size is replaced, unless it still holds what was acknowledged. */
static uint64_t ring_bytes_now(const struct capture *c)
{
    uint64_t bytes = (uint64_t)c->store_config.ring_bytes;
    struct ring old;
    struct errmsg m;
    enum err e = ring_open_reader(&old, c->ring_path, &m);
    if (e == ERR_VERSION || e == ERR_CORRUPT) {
        ring_set_aside(c, m.text);
    } else if (e == OK) {
        if (old.bytes != bytes && ring_head(&old) != ring_consumed(&old)) {
            log_warn("ring.bytes takes effect at the next start: the ring still holds publishes");
            bytes = old.bytes;
        }
        ring_close(&old);
    }
    return bytes;
}

static enum err make_dir(const char *path, struct errmsg *m)
{
    struct stat st;
    if (mkdir(path, 0750) != 0 && errno != EEXIST) {
        enum err e = errno == ENOSPC ? ERR_FULL : ERR_IO;
        return err_set(m, e, "cannot make the data directory %s: %s", path, strerror(errno));
    }
    if (stat(path, &st) == 0 && !S_ISDIR(st.st_mode)) {
        return err_set(m, ERR_IO, "data names %s, which is not a directory", path);
    }
    if (eaccess(path, W_OK | X_OK) != 0) {
        return err_set(m, ERR_IO, "the broker's user may not write to the data directory %s: %s",
                       path, strerror(errno));
    }
    return OK;
}

static enum err writer_open_ring(struct writer *w, struct errmsg *m)
{
    struct capture *c = w->c;
    if (atomic_load(&c->ring_ready)) {
        return OK;
    }
    enum err e = make_dir(c->data, m);
    e = e ? e : ring_open_writer(&c->ring, c->ring_path, ring_bytes_now(c), m);
    if (e) {
        return e;
    }
    /* Opening touched every page, to be sure of each; an idle ring need not stay in memory. */
    (void)madvise(c->ring.frames, c->ring.bytes, MADV_DONTNEED);
    w->read_pos = ring_consumed(&c->ring);
    w->recovered_end = ring_head(&c->ring);
    if (w->read_pos != w->recovered_end) {
        log_info("ring taken over bytes=%llu",
                 (unsigned long long)(w->recovered_end - w->read_pos));
    }
    atomic_store_explicit(&c->ring_ready, true, memory_order_release);
    return OK;
}

struct position {
    uint64_t ring, pos;
    bool found;
};

static bool position_row(void *arg, struct slice key, struct slice value)
{
    struct position *p = arg;
    if (slice_eq(key, slice_str(POSITION_KEY)) && value.len == POSITION_BYTES) {
        *p = (struct position){be64_get(value.data), be64_get(value.data + 8), true};
        return false;
    }
    return true;
}

/* Where reading goes on. After a loss of power the row may be ahead of the ring: then all that the
 * ring holds has been stored, and the row is written anew before a new frame could reach its old
 * position. */
static enum err writer_find_position(struct writer *w, struct errmsg *m)
{
    struct ring *ring = &w->c->ring;
    struct position p = {0};
    enum err e = store_rows(w->store, slice_str(POSITION_KEY), position_row, &p, m);
    if (e) {
        return e;
    }
    uint64_t consumed = ring_consumed(ring);
    uint64_t written = w->position_known ? ring_head(ring) : w->recovered_end;
    if (p.found && p.ring == ring_id(ring) && p.pos > consumed) {
        consumed = p.pos < written ? p.pos : written;
        ring_consume(ring, consumed);
    }
    w->position_known = true;
    w->read_pos = consumed;
    e = position_put(w, consumed);
    return e ? err_set(m, e, "cannot note the ring position: %s", err_name(e))
             : store_commit(w->store, m);
}

static void writer_close_store(struct writer *w)
{
    if (w->store) {
        store_close(w->store);
        w->store = NULL;
    }
}

static enum err writer_open_store(struct writer *w, struct buf *mistakes, struct errmsg *m)
{
    const struct config_store *s = &w->c->store_config;
    struct store_options o = {
        .dir = w->c->store_dir,
        .role = STORE_WRITER,
        .limit_bytes = (uint64_t)s->limit_bytes,
        .segment_bytes = (uint64_t)s->segment_bytes,
        .segment_ms = (uint64_t)s->segment_ms,
        .tail_bytes = (uint64_t)s->tail_bytes,
        .flush_interval_ms = (uint32_t)s->flush_interval_ms,
        .cache_bytes = (uint64_t)s->cache_bytes,
    };
    enum err e = store_open(&w->store, &o, m);
    if (e) {
        w->store = NULL;
        return e;
    }
    e = streams_sync(w->c, w->store, &w->by_id, w->set, mistakes, m);
    e = e ? e : writer_find_position(w, m);
    if (e) {
        writer_close_store(w);
    }
    return e;
}

static void writer_failed(struct writer *w, enum err e, const char *why)
{
    bool ring = atomic_load(&w->c->ring_ready);
    capture_set_state(w->c, ring ? STATE_NO_STORE : STATE_NO_RING, why);
    if (w->store && (store_state(w->store) == STORE_BROKEN || (e != ERR_FULL && e != ERR_NOMEM))) {
        writer_close_store(w);
    }
    w->backoff_ms = w->backoff_ms ? w->backoff_ms * 2 : BACKOFF_MS_MIN;
    w->backoff_ms = w->backoff_ms > BACKOFF_MS_MAX ? BACKOFF_MS_MAX : w->backoff_ms;
    w->next_try_us = clock_mono_us() + (int64_t)w->backoff_ms * 1000;
}

static void writer_fine(struct writer *w)
{
    if (w->backoff_ms || atomic_load_explicit(&w->c->state, memory_order_relaxed)) {
        w->backoff_ms = 0;
        capture_set_state(w->c, STATE_RUNNING, "");
    }
}

/* Ring and store are open; else one try to open them when it is time. */
static bool writer_ready(struct writer *w)
{
    if (clock_mono_us() < w->next_try_us) {
        return false;
    }
    if (w->store) {
        return true;
    }
    struct errmsg m;
    enum err e = writer_open_ring(w, &m);
    e = e ? e : writer_open_store(w, NULL, &m);
    if (e) {
        writer_failed(w, e, m.text);
    }
    return e == OK;
}

static void writer_take_set(struct writer *w)
{
    struct capture *c = w->c;
    pthread_mutex_lock(&c->lock);
    struct stream_set *set = c->next_set;
    c->next_set = NULL;
    pthread_mutex_unlock(&c->lock);
    if (!set) {
        return;
    }
    stream_set_unref(w->set);
    w->set = set;
    struct errmsg m;
    enum err e = w->store ? streams_sync(c, w->store, &w->by_id, set, NULL, &m) : OK;
    if (e) {
        writer_failed(w, e, m.text);
        writer_close_store(w); /* opening it again brings the streams together */
    }
}

/* --- the thread ------------------------------------------------------------------------------- */

static void note_oldest(struct writer *w)
{
    struct slice bytes;
    uint64_t next;
    bool waits = atomic_load(&w->c->ring_ready) &&
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
    writer_take_set(w);
    while (frames && clock_mono_us() < deadline && writer_ready(w)) {
        enum err e = writer_tick(w, &frames, &m);
        if (e) {
            log_error("capture stops with a log that cannot be written: %s", m.text);
            break;
        }
    }
    if (atomic_load(&w->c->ring_ready) && ring_head(&w->c->ring) != w->read_pos) {
        log_error("publishes stay in the ring for the next start bytes=%llu",
                  (unsigned long long)(ring_head(&w->c->ring) - w->read_pos));
    }
}

/* Ring and store, as far as they can be had. ERR_LOCKED and contradictions are for the caller. */
static enum err open_all(struct writer *w, struct buf *mistakes)
{
    struct errmsg m;
    enum err e = writer_open_ring(w, &m);
    if (e && e != ERR_LOCKED) {
        capture_set_state(w->c, STATE_NO_RING, m.text);
        return OK;
    }
    enum err s = e ? e : writer_open_store(w, mistakes, &m);
    if (s == ERR_LOCKED) {
        buf_printf(mistakes, "%s\n", m.text);
        return s;
    }
    if (s == ERR_INVALID && mistakes->len) {
        return s;
    }
    if (s) {
        capture_set_state(w->c, STATE_NO_STORE, m.text);
    }
    return OK;
}

/* A broker that was killed holds its locks until the kernel is done with it. */
static enum err open_patiently(struct writer *w, struct buf *mistakes)
{
    for (int waited = 0;; waited += LOCKED_STEP_MS) {
        size_t before = mistakes->len;
        enum err e = open_all(w, mistakes);
        if (e != ERR_LOCKED || waited >= LOCKED_WAIT_MS) {
            return e;
        }
        mistakes->len = before;
        (void)futex_wait_ms(&w->c->stop, 0, LOCKED_STEP_MS);
    }
}

static void writer_loop(struct writer *w)
{
    struct capture *c = w->c;
    while (!atomic_load(&c->stop)) {
        writer_take_set(w);
        writer_housekeeping(w);
        if (!writer_ready(w)) {
            (void)futex_wait_ms(&c->stop, 0, BACKOFF_MS_MIN);
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
        writer_fine(w);
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
    w->opened_err = open_patiently(w, w->mistakes);
    w->mistakes = NULL;
    enum err e = w->opened_err;
    atomic_store(&w->opened, 1);
    futex_wake(&w->opened);
    if (!e) {
        writer_loop(w);
    }
    writer_close_store(w);
    if (atomic_load(&c->ring_ready)) {
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
        (void)futex_wait_ms(&w->opened, 0, BACKOFF_MS_MAX); /* recovery takes what it takes */
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
