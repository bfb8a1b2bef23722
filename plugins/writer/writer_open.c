/* Ring and store: opened, watched and mended.
 *
 *   store   fails ─▶ closed when it says that it is broken ─▶ opened again after a back-off
 *
 *   ring    removed or moved away (its path names another file, or none)
 *             ─▶ the broker may not use it: on_full decides, because what is acknowledged
 *                out of a file that nobody finds again would not survive a kill
 *             ─▶ the store is opened at its path, where the old one may be gone as well
 *             ─▶ what the ring holds goes into it
 *             ─▶ the ring is closed, and one is opened at the path, as at a start
 *
 * The broker says when it is inside the ring (ring_busy), so the writer knows when no frame can
 * come any more. A ring that was opened is handed to the broker with a number; the one whose number
 * stands in the link is the one that the broker may use. The broker keeps the descriptor, and with
 * it the lock, so that no other broker gets the ring while there is no writer; the next writer has
 * it from there.
 *
 * Configurations wait in a queue until the store has seen each of them, in order: a publish that
 * was taken for a stream of any of them finds its stream made. A full disk holds none up: topics
 * are made of what the store keeps free. Behind a configuration that waited, nothing could be
 * unbound, and at a start nothing be removed, that makes room. */
#include "plugins/writer/writer.h"

#include "shared/base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define BACKOFF_MS_MIN     100
#define BACKOFF_MS_MAX     5000
#define LOCKED_WAIT_MS     3000 /* the writer of a killed broker stores what the ring holds first */
#define LOCKED_STEP_MS     50
#define POSITION_KEY       "capture/ring"
#define POSITION_BYTES     16

/* A ring that cannot be read may hold acknowledged publishes all the same: it is put aside, for a
 * version that can, and a new one takes its place. */
static void ring_set_aside(const struct writer *w, const char *why)
{
    char aside[PATH_MAX];
    int n = snprintf(aside, sizeof aside, "%s.unreadable-%lld", w->ring_path,
                     (long long)clock_wall_ms());
    if (n > 0 && (size_t)n < sizeof aside && rename(w->ring_path, aside) == 0) {
        log_error("capture ring put aside, publishes in it are not in the log file=%s: %s", aside,
                  why);
    }
}

/* A ring of another size is replaced, unless it still holds what was acknowledged. */
static uint64_t ring_bytes_now(const struct writer *w)
{
    uint64_t bytes = (uint64_t)w->store_config.ring_bytes;
    struct ring old;
    struct errmsg m;
    enum err e = ring_open_reader(&old, w->ring_path, &m);
    if (e == ERR_VERSION || e == ERR_CORRUPT) {
        ring_set_aside(w, m.text);
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

/* Handed over, and the broker may use it. A full socket: at the next housekeeping. */
static void tell_ring(struct writer *w)
{
    uint32_t number = atomic_fetch_add(&w->link->rings, 1) + 1; /* no other ring has it again */
    if (link_send(w->socket, LINK_RING, number, "", w->ring.fd) == OK) {
        w->ring_told = true;
        atomic_store(&w->link->ring_number, number);
        link_due(w->link, DUE_MESSAGES);
    }
}

static enum err writer_open_ring(struct writer *w, struct errmsg *m)
{
    enum err e = make_dir(w->data, m);
    if (e || w->ring_open) {
        return e;
    }
    e = ring_open_writer(&w->ring, w->ring_path, ring_bytes_now(w), m);
    if (e) {
        return e;
    }
    /* Opening touched every page, to be sure of each; an idle ring need not stay in memory. */
    (void)madvise(w->ring.frames, w->ring.bytes, MADV_DONTNEED);
    w->read_pos = ring_consumed(&w->ring);
    uint64_t head = ring_head(&w->ring);
    atomic_store(&w->link->recovered_end, head);
    if (w->read_pos != head) {
        log_info("ring taken over bytes=%llu", (unsigned long long)(head - w->read_pos));
    }
    w->ring_open = true;
    tell_ring(w);
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
    be64_put(row, ring_id(&w->ring));
    be64_put(row + 8, pos);
    return store_put(w->store, slice_str(POSITION_KEY), slice_make(row, sizeof row));
}

/* Where reading goes on. After a loss of power the row may be ahead of the ring: then all that the
 * ring holds has been stored, and the row is written anew before a new frame could reach its old
 * position. */
static enum err writer_find_position(struct writer *w, struct errmsg *m)
{
    struct ring *ring = &w->ring;
    struct position p = {0};
    enum err e = store_rows(w->store, slice_str(POSITION_KEY), position_row, &p, m);
    if (e) {
        return e;
    }
    uint64_t consumed = ring_consumed(ring);
    bool known = atomic_load(&w->link->position_known);
    uint64_t written = known ? ring_head(ring) : atomic_load(&w->link->recovered_end);
    if (p.found && p.ring == ring_id(ring) && p.pos > consumed) {
        uint64_t from = consumed;
        consumed = p.pos < written ? p.pos : written;
        if (known) {
            writer_count_stored(w, from, consumed);
        }
        ring_consume(ring, consumed);
    }
    w->read_pos = consumed;
    e = writer_position_put(w, consumed);
    e = e ? err_set(m, e, "cannot note the ring position: %s", err_name(e))
          : store_commit_rows(w->store, m);
    if (!e) {
        atomic_store(&w->link->position_known, 1);
    }
    return e;
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
    const struct config_store *s = &w->store_config;
    struct store_options o = {
        .dir = w->store_dir,
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
    e = streams_sync(w->link, w->store, &w->by_id, &w->now->config, mistakes, m);
    if (!e) {
        atomic_store(&w->link->sets_taken, w->now->number);
        e = writer_find_position(w, m);
    }
    w->opened = e == OK;
    if (e) {
        writer_close_store(w);
    }
    return e;
}

void writer_set_state(struct writer *w, enum capture_state state, const char *why)
{
    if (!link_set_state(w->link, state, why)) {
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
}

void writer_failed(struct writer *w, enum err e, const char *why)
{
    bool ring = w->ring_open && !w->ring_gone;
    writer_set_state(w, ring ? STATE_NO_STORE : STATE_NO_RING, why);
    if (w->store && (store_state(w->store) == STORE_BROKEN || (e != ERR_FULL && e != ERR_NOMEM))) {
        writer_close_store(w);
    }
    w->backoff_ms = w->backoff_ms ? w->backoff_ms * 2 : BACKOFF_MS_MIN;
    w->backoff_ms = w->backoff_ms > BACKOFF_MS_MAX ? BACKOFF_MS_MAX : w->backoff_ms;
    w->next_try_us = clock_mono_us() + (int64_t)w->backoff_ms * 1000;
}

void writer_fine(struct writer *w)
{
    if (w->backoff_ms || atomic_load_explicit(&w->link->state, memory_order_relaxed)) {
        w->backoff_ms = 0;
        writer_set_state(w, STATE_RUNNING, "");
    }
}

/* The store sees each configuration, also one that another has followed while it was closed: there
 * may be publishes for its streams in the ring. */
static enum err take_orders(struct writer *w, struct errmsg *m)
{
    struct order *o;
    while ((o = orders_first_waiting(w))) {
        w->order_tried = o->number;
        enum err e = streams_sync(w->link, w->store, &w->by_id, &o->config, NULL, m);
        if (e) {
            return e;
        }
        orders_take(w);
        atomic_store(&w->link->sets_taken, o->number);
        order_free(w->now);
        w->now = o;
    }
    return OK;
}

/* On a full disk, too: what a configuration takes away makes room there. */
static bool order_is_new(struct writer *w)
{
    const struct order *o = w->store ? orders_first_waiting(w) : NULL;
    return o && o->number != w->order_tried;
}

bool writer_ready(struct writer *w)
{
    bool waits = clock_mono_us() < w->next_try_us;
    if (waits && !order_is_new(w)) {
        return false;
    }
    struct errmsg m;
    enum err e = OK;
    if (!w->store) {
        e = writer_open_ring(w, &m);
        e = e ? e : writer_open_store(w, NULL, &m);
    }
    e = e ? e : take_orders(w, &m);
    if (e) {
        writer_failed(w, e, m.text);
    }
    return e == OK && !waits;
}

/* --- a ring that is gone ---------------------------------------------------------------------- */

void writer_watch_ring(struct writer *w)
{
    if (!w->ring_open || w->ring_gone) {
        return;
    }
    if (ring_in_place(&w->ring, w->ring_path)) {
        if (!w->ring_told) {
            tell_ring(w);
        }
        return;
    }
    w->ring_gone = true;
    atomic_store(&w->link->ring_number, 0);
    link_fence_all(w->link);
    char why[PATH_MAX + 64];
    snprintf(why, sizeof why, "the capture ring %s was removed or moved away", w->ring_path);
    writer_set_state(w, STATE_NO_RING, why);
    writer_close_store(w);
    w->next_try_us = 0;
}

bool writer_leave_ring(struct writer *w)
{
    /* In this order: once the broker is out, it writes no more. */
    if (atomic_load(&w->link->ring_busy) || ring_head(&w->ring) != w->read_pos) {
        return false;
    }
    ring_close(&w->ring);
    w->ring_open = w->ring_gone = w->ring_told = false;
    /* What was said in positions of that ring. The broker sees it with the next one's number. */
    atomic_store(&w->link->position_known, 0);
    link_totals_new_ring(w->link);
    atomic_store(&w->link->sync_wanted, 0);
    atomic_store(&w->link->durable_pos, 0);
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
        writer_set_state(w, STATE_NO_RING, m.text);
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
        writer_set_state(w, STATE_NO_STORE, m.text);
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
        link_wait_us(&w->link->stop, 0, LOCKED_STEP_MS * 1000);
    }
}
