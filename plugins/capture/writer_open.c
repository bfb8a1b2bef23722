/* Ring and store: opened, watched and mended by the writer's thread.
 *
 *   store   fails ─▶ closed when it says that it is broken ─▶ opened again after a back-off
 *
 *   ring    removed or moved away (its path names another file, or none)
 *             ─▶ the broker's thread may not use it: on_full decides, because what is acknowledged
 *                out of a file that nobody finds again would not survive a kill
 *             ─▶ the store is opened at its path, where the old one may be gone as well
 *             ─▶ what the ring holds goes into it
 *             ─▶ the ring is closed, and one is opened at the path, as at a start
 *
 * The broker's thread says when it is inside the ring (ring_busy), so the writer closes a ring that
 * it is not in. As in capture.c the fence for that is the writer's (membarrier) where it can be.
 *
 * Configurations wait in a queue until the store has seen each of them, in order: a publish that
 * was taken for a stream of any of them finds its stream made. */
#include "plugins/capture/writer.h"

#include "shared/base/clock.h"

#include <errno.h>
#include <linux/membarrier.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BACKOFF_MS_MIN     100
#define BACKOFF_MS_MAX     5000
#define LOCKED_WAIT_MS     3000 /* a killed broker's file locks go with its last page */
#define LOCKED_STEP_MS     50
#define POSITION_KEY       "capture/ring"
#define POSITION_BYTES     16

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
    enum err e = make_dir(c->data, m);
    if (e || w->ring_open) {
        return e;
    }
    e = ring_open_writer(&c->ring, c->ring_path, ring_bytes_now(c), m);
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
    w->ring_open = true;
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

enum err writer_position_put(struct writer *w, uint64_t pos)
{
    uint8_t row[POSITION_BYTES];
    be64_put(row, ring_id(&w->c->ring));
    be64_put(row + 8, pos);
    return store_put(w->store, slice_str(POSITION_KEY), slice_make(row, sizeof row));
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
    e = writer_position_put(w, consumed);
    return e ? err_set(m, e, "cannot note the ring position: %s", err_name(e))
             : store_commit(w->store, m);
}

/* What the store had is forgotten with it: another one may lie at the path when it is opened again,
 * where the same uids are other topics. Between ticks. */
void writer_close_store(struct writer *w)
{
    if (w->store) {
        store_close(w->store);
        w->store = NULL;
    }
    streams_free(&w->by_id);
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

void writer_failed(struct writer *w, enum err e, const char *why)
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

void writer_fine(struct writer *w)
{
    if (w->backoff_ms || atomic_load_explicit(&w->c->state, memory_order_relaxed)) {
        w->backoff_ms = 0;
        capture_set_state(w->c, STATE_RUNNING, "");
    }
}

/* The store sees each configuration, also one that another has followed while it was closed: there
 * may be publishes for its streams in the ring. */
static enum err take_sets(struct writer *w, struct errmsg *m)
{
    struct capture *c = w->c;
    for (;;) {
        pthread_mutex_lock(&c->lock);
        struct stream_set *set = c->next_sets;
        pthread_mutex_unlock(&c->lock);
        enum err e = set ? streams_sync(c, w->store, &w->by_id, set, NULL, m) : OK;
        if (!set || e) {
            return e;
        }
        pthread_mutex_lock(&c->lock);
        c->next_sets = set->next;
        pthread_mutex_unlock(&c->lock);
        stream_set_unref(w->set);
        w->set = set;
    }
}

bool writer_ready(struct writer *w)
{
    if (clock_mono_us() < w->next_try_us) {
        return false;
    }
    struct errmsg m;
    enum err e = OK;
    if (!w->store) {
        e = writer_open_ring(w, &m);
        e = e ? e : writer_open_store(w, NULL, &m);
    }
    e = e ? e : take_sets(w, &m);
    if (e) {
        writer_failed(w, e, m.text);
    }
    return e == OK;
}

/* --- a ring that is gone ---------------------------------------------------------------------- */

void writer_watch_ring(struct writer *w)
{
    struct capture *c = w->c;
    if (!w->ring_open || w->ring_gone || ring_in_place(&c->ring, c->ring_path)) {
        return;
    }
    w->ring_gone = true;
    atomic_store(&c->ring_ready, false);
    if (c->writer_fences) {
        (void)syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
    } else {
        atomic_thread_fence(memory_order_seq_cst);
    }
    char why[PATH_MAX + 64];
    snprintf(why, sizeof why, "the capture ring %s was removed or moved away", c->ring_path);
    capture_set_state(c, STATE_NO_RING, why);
    writer_close_store(w);
    w->next_try_us = 0;
}

bool writer_leave_ring(struct writer *w)
{
    struct capture *c = w->c;
    /* In this order: once the broker's thread is out, it writes no more. */
    if (atomic_load(&c->ring_busy) || ring_head(&c->ring) != w->read_pos) {
        return false;
    }
    ring_close(&c->ring);
    w->ring_open = w->ring_gone = false;
    /* What was said in positions of that ring. The broker's thread sees it with ring_ready. */
    w->position_known = false;
    atomic_store(&c->sync_wanted, 0);
    atomic_store(&c->durable_pos, 0);
    c->stuck = c->disk_stuck = false;
    /* Opening the store again brings its note of the position and the new ring together. */
    writer_close_store(w);
    log_warn("what the lost capture ring held is in the log: another ring is put in its place");
    return true;
}

/* --- the start -------------------------------------------------------------------------------- */

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

enum err writer_open_patiently(struct writer *w, struct buf *mistakes)
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
