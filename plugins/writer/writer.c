/* The writer: ring → record batches → store.
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
#include "plugins/writer/writer.h"

#include "shared/base/clock.h"

#include <errno.h>
#include <link.h>
#include <poll.h>
#include <stdio.h>
#include <sys/mman.h>
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
#define IDLE_US            250000
#define HOUSEKEEPING_MS    200
#define STORE_POLL_US      100000
#define DRAIN_MS           10000 /* at stop */
#define ORPHAN_DRAIN_MS    1000  /* the rest is for the next broker's writer, which waits */
#define LOST_LOG_MS        10000

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

/* The tick is committed, all below pos, and its numbers count. */
static void touched_count(const struct writer *w, uint64_t pos)
{
    for (struct writer_stream *s = w->touched, *next; s; s = next) {
        next = s->next_touched == s ? NULL : s->next_touched;
        s->tick.pos = pos;
        link_totals_add(s->counters, &s->tick);
    }
}

static void touched_end(struct writer *w)
{
    struct writer_stream *s = w->touched;
    w->touched = NULL;
    while (s) {
        struct writer_stream *next = s->next_touched == s ? NULL : s->next_touched;
        s->next_touched = NULL;
        memset(&s->tick, 0, sizeof s->tick);
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
    uint32_t uid = s->uids[slot->partition];
    int64_t base = 0;
    enum err e = store_append(w->store, uid, slot->batch.buf.data, batch.len, &base);
    if (e == ERR_NOT_FOUND || e == ERR_TOO_LARGE || e == ERR_CORRUPT || e == ERR_INVALID) {
        /* Tried again, it would be refused again, and all behind it would wait for ever. */
        enum reason r = e == ERR_TOO_LARGE   ? REASON_TOO_LARGE
                        : e == ERR_NOT_FOUND ? REASON_UNKNOWN
                                             : REASON_CORRUPT;
        s->tick.lost[r] += count;
        lost_log(w, s->counters->name, r);
    } else if (e) {
        return e;
    } else {
        s->tick.stored += count;
        s->tick.stored_bytes += batch.len;
        s->tick.last_partition = (uint64_t)slot->partition;
        s->tick.last_offset = (uint64_t)base + count - 1;
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
        s->tick.lost[REASON_TOO_LARGE]++;
        lost_log(w, s->counters->name, REASON_TOO_LARGE);
        return OK;
    }
    return e;
}

static struct writer_stream *stream_by_id(struct writer *w, uint64_t id)
{
    struct writer_stream *s;
    HASH_FIND(hh, w->by_id, &id, sizeof id, s);
    return s;
}

/* ERR_AGAIN: the frame is for streams of a configuration that the writer has yet to take over. The
 * ring is faster than the socket by which configurations come. */
static enum err frame_check_streams(struct writer *w)
{
    for (uint32_t i = 0; i < w->frame.stream_count; i++) {
        if (!stream_by_id(w, w->frame.streams[i]) && (orders_under_way(w) || orders_wait(w))) {
            return ERR_AGAIN;
        }
    }
    return OK;
}

static void frame_lost(struct writer *w, uint64_t id, bool recovered)
{
    struct writer_stream *s = stream_unknown(w, id);
    if (s && s->unbound) { /* which is how somebody wants it */
        stream_touch(w, s);
        s->tick.recovered += recovered;
        s->tick.filtered++;
        return;
    }
    if (s) {
        stream_touch(w, s);
        s->tick.recovered += recovered;
        s->tick.lost[REASON_UNKNOWN]++;
    } else {
        counter_add(&w->link->orphaned, 1);
    }
    lost_log(w, s ? s->counters->name : "?", REASON_UNKNOWN);
}

static enum err frame_put(struct writer *w, struct slice bytes, bool recovered)
{
    enum err e = publish_frame_get(bytes, &w->frame);
    if (e) {
        counter_add(&w->link->corrupt, 1);
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
        s->tick.recovered += recovered;
        s->tick.shadowed += w->mapping.shadowed;
        s->tick.unkeyed += w->mapping.unkeyed;
        e = record_put(w, s, &r);
    }
    return e;
}

/* Reads frames until the ring is empty or the tick is full. *pos is behind the last one taken. */
static enum err frames_gather(struct writer *w, uint64_t *pos, unsigned *frames)
{
    uint64_t head = ring_head(&w->ring);
    uint64_t recovered_end = atomic_load(&w->link->recovered_end);
    uint64_t bytes_taken = 0; /* as often as they go into a stream */
    *frames = 0;
    while (*frames < TICK_FRAMES_MAX && bytes_taken < TICK_BYTES_MAX) {
        struct slice bytes;
        uint64_t next;
        bool recovered = *pos < recovered_end;
        /* What this broker has written need not be doubted: head came after the bytes. */
        enum err e = ring_read_below(&w->ring, head, *pos, recovered, &bytes, &next);
        if (e == ERR_AGAIN) {
            break;
        }
        if (e) {
            /* Without a length there is no next frame: what was written before is given up. Only a
             * crash of the machine leaves this. */
            counter_add(&w->link->corrupt, 1);
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
        touched_count(w, pos); /* before the ring says so: see writer_count_stored */
        ring_consume(&w->ring, pos);
        w->read_pos = pos;
        counter_add(&w->link->commits, 1);
    }
    w->worked = w->worked || *frames;
    touched_end(w);
    slots_release(w);
    return e;
}

/* --- the loop --------------------------------------------------------------------------------- */

static int pages_unmap(struct dl_phdr_info *info, size_t size, void *arg)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
        if (ph->p_type == PT_LOAD && !(ph->p_flags & PF_W)) {
            uintptr_t begin = (info->dlpi_addr + ph->p_vaddr) & ~(page - 1);
            uintptr_t end = info->dlpi_addr + ph->p_vaddr + ph->p_memsz;
            (void)madvise((void *)begin, end - begin, MADV_DONTNEED);
        }
    }
    return 0;
}

/* Linking and opening have read most of RocksDB's code and tables, which are as large as all else
 * that an idle writer holds. What is used again comes back from the files. */
static void code_trim(struct writer *w)
{
    if (w->opened) {
        w->opened = false;
        (void)dl_iterate_phdr(pages_unmap, NULL);
    }
}

static void note_log_size(struct writer *w)
{
    struct store_stats st = {0};
    if (w->store) {
        store_get_stats(w->store, &st);
        atomic_store_explicit(&w->link->log_bytes, st.bytes, memory_order_relaxed);
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
        code_trim(w);
    }
    w->worked = false;
    writer_watch_ring(w);
    control_watch(w);
    int interval_ms = atomic_load_explicit(&w->link->sys_interval_ms, memory_order_relaxed);
    bool show = now >= w->shown_us;
    if (show) {
        w->shown_us = now + (int64_t)interval_ms * 1000;
        note_log_size(w);
        link_due(w->link, DUE_COUNTERS);
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
    uint64_t wanted = atomic_load(&w->link->sync_wanted);
    return wanted > atomic_load(&w->link->durable_pos) && wanted <= w->read_pos;
}

static enum err writer_sync(struct writer *w, struct errmsg *m)
{
    enum err e = sync_due(w) ? store_sync(w->store, m) : OK;
    if (e == OK && sync_due(w)) {
        atomic_store(&w->link->durable_pos, w->read_pos);
    }
    return e;
}

static void writer_sleep(struct writer *w)
{
    struct link *l = w->link;
    atomic_store(&l->sleeping, 1);
    link_fence_all(l);
    if (ring_head(&w->ring) == w->read_pos && !sync_due(w) && !orders_wait(w) &&
        !control_waits(w) && !atomic_load(&l->stop)) {
        link_wait_us(&l->sleeping, 1, IDLE_US); /* woken, timed out, interrupted: all fine */
    }
    atomic_store(&l->sleeping, 0);
}

static void writer_rest(struct writer *w, unsigned frames)
{
    if (frames == 0 && orders_under_way(w)) {
        link_wait_us(&w->link->stop, 0, NAP_FEW_US);
    } else if (frames == 0) {
        writer_sleep(w);
    } else if (ring_head(&w->ring) - w->read_pos < w->ring.bytes / 8) {
        link_wait_us(&w->link->stop, 0, frames < FRAMES_MANY ? NAP_FEW_US : NAP_MANY_US);
    }
}

static bool set_missing(struct writer *w)
{
    return w->ring_open && ring_head(&w->ring) != w->read_pos && orders_under_way(w) &&
           !atomic_load(&w->orphan);
}

static void writer_drain(struct writer *w)
{
    int limit_ms = atomic_load(&w->orphan) ? ORPHAN_DRAIN_MS : DRAIN_MS;
    int64_t deadline = clock_mono_us() + (int64_t)limit_ms * 1000;
    struct errmsg m;
    unsigned frames = 1;
    w->next_try_us = 0;
    while ((frames || set_missing(w)) && clock_mono_us() < deadline && writer_ready(w)) {
        if (!frames) {
            (void)poll(NULL, 0, 1); /* it is on its way */
        }
        enum err e = writer_tick(w, &frames, &m);
        if (e) {
            log_error("capture stops with a log that cannot be written: %s", m.text);
            break;
        }
    }
    if (w->ring_open && ring_head(&w->ring) != w->read_pos) {
        log_error("publishes stay in %s bytes=%llu",
                  w->ring_gone ? "a ring that was removed or moved away"
                               : "the ring for the next start",
                  (unsigned long long)(ring_head(&w->ring) - w->read_pos));
    }
}

static void writer_loop(struct writer *w)
{
    struct link *l = w->link;
    while (!atomic_load(&l->stop)) {
        writer_housekeeping(w);
        bool ready = writer_ready(w);
        control_work(w);
        if (!ready) {
            link_wait_us(&l->stop, 0, STORE_POLL_US);
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

/* A writer is killed between any two of: commit, the totals of one stream, those of the next, the
 * ring's position. Each stream's totals say how far they go. */
void writer_count_stored(struct writer *w, uint64_t from, uint64_t to)
{
    uint64_t recovered_end = atomic_load(&w->link->recovered_end);
    struct slice bytes;
    for (uint64_t pos = from, next; pos < to; pos = next) {
        if (ring_read_below(&w->ring, to, pos, true, &bytes, &next) ||
            publish_frame_get(bytes, &w->frame)) {
            return; /* counters may be short of what nobody can read */
        }
        struct stream_totals one = {.recovered = pos < recovered_end, .stored = 1, .pos = next};
        for (uint32_t i = 0; i < w->frame.stream_count; i++) {
            struct stream_counters *n = link_counters_find(w->link, w->frame.streams[i]);
            if (n && link_totals(n).pos <= pos) {
                link_totals_add(n, &one);
            }
        }
    }
}

/* --- its life --------------------------------------------------------------------------------- */

static enum err make_paths(struct writer *w, struct errmsg *m)
{
    const char *data = w->now->config.data;
    int a = snprintf(w->data, sizeof w->data, "%s", data);
    int b = snprintf(w->ring_path, sizeof w->ring_path, "%s/capture.ring", data);
    int c = snprintf(w->store_dir, sizeof w->store_dir, "%s/captured", data);
    if (a < 0 || b < 0 || c < 0 || (size_t)b >= sizeof w->ring_path) {
        return err_set(m, ERR_INVALID, "data: the path is too long: %s", data);
    }
    return OK;
}

/* The first opening, which the broker waits for. A broker that has seen one goes on with whatever
 * the disk allows, and so does its next writer. */
static enum err open_first(struct writer *w)
{
    struct buf mistakes;
    buf_init(&mistakes, LINK_TEXT_BYTES_MAX);
    struct errmsg m;
    enum err e = make_paths(w, &m);
    if (e) {
        buf_printf(&mistakes, "%s\n", m.text);
    } else if (!atomic_load(&w->link->opened)) {
        e = writer_open_patiently(w, &mistakes);
    }
    if (!e) {
        control_watch(w); /* whoever sees the broker run may command */
    }
    enum err sent = link_send(w->socket, LINK_OPENED, (uint32_t)e, buf_text(&mistakes), -1);
    link_due(w->link, DUE_MESSAGES);
    buf_fini(&mistakes);
    return e ? e : sent;
}

static void writer_free(struct writer *w)
{
    writer_close_store(w);
    if (w->ring_open) {
        ring_close(&w->ring);
    }
    streams_free(&w->by_id);
    streams_free(&w->unknown);
    for (struct slot *slot = w->spare, *next; slot; slot = next) {
        next = slot->next;
        slot_free(slot);
    }
    mapping_fini(&w->mapping);
    order_free(w->now);
}

int writer_run(struct link *link, int socket)
{
    static struct writer w;
    struct errmsg m;
    w = (struct writer){.link = link, .socket = socket, .ring = {.fd = -1},
                        .lock = PTHREAD_MUTEX_INITIALIZER};
    mapping_init(&w.mapping);
    lines_to_broker(&w);
    enum err e = orders_first(&w, &m);
    if (e) {
        log_error("the writer cannot start: %s", m.text);
    }
    e = e ? e : open_first(&w);
    e = e ? e : orders_listen(&w);
    if (!e) {
        writer_loop(&w);
    }
    control_stop(&w);
    if (!e) {
        orders_end(&w);
    }
    writer_free(&w);
    return e && e != ERR_CLOSED ? EXIT_FAILURE : EXIT_SUCCESS;
}
