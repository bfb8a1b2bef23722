/* Reading the newest batches from the tail ring, without the disk and without waiting.
 *
 * The ring is one row of frames of all partitions. This index says which of them belong to a
 * partition: for each uid a queue of (first offset, position), in order. It follows the ring on the
 * caller's thread, a few frames at a time in practice, and forgets from the front what the ring has
 * given up. An index that has lost its place (overrun, another ring, no memory) begins again at the
 * ring's low end: nothing depends on it but speed.
 *
 * What was compacted lies in the ring as it was before. So a frame that holds an offset and no
 * batch says: below it, forget what you know of this partition (tail_forget).
 *
 * The ring may be overwritten while we copy. So: copy, then ask ring_valid; a copy that fails is
 * taken back and the answer is ERR_NOT_FOUND, as for everything older. And a batch is only given
 * out if it begins where the one before it ended and ends below the published end. */
#include "shared/store/store_int.h"

#include <errno.h>
#include <stdio.h>

#define QUEUE_MIN 16

struct entry {
    int64_t base;
    uint64_t pos;
    uint32_t len;   /* of the batch */
    uint32_t count; /* offsets in it */
};

struct queue {
    struct entry *entries; /* a circle of cap, a power of two */
    uint32_t first, count, cap;
};

struct tail {
    pthread_mutex_t lock;
    struct ring ring;
    const struct page *page; /* of the directory that the ring was mapped from */
    uint64_t life; /* of that page, then */
    uint64_t id;   /* of the ring when the index began */
    uint64_t pos;  /* next frame to index */
    struct queue *chunks[PART_CHUNKS];
    uint32_t prune; /* next uid to forget old frames of */
};

struct tail *tail_new(void)
{
    struct tail *t = calloc(1, sizeof *t);
    if (t) {
        pthread_mutex_init(&t->lock, NULL);
        t->ring.fd = -1;
    }
    return t;
}

static void drop_index(struct tail *t)
{
    for (size_t c = 0; c < PART_CHUNKS; c++) {
        for (size_t i = 0; t->chunks[c] && i < PART_CHUNK; i++) {
            free(t->chunks[c][i].entries);
        }
        free(t->chunks[c]);
        t->chunks[c] = NULL;
    }
}

void tail_free(struct tail *t)
{
    if (t) {
        drop_index(t);
        ring_close(&t->ring);
        pthread_mutex_destroy(&t->lock);
        free(t);
    }
}

/* --- queues ----------------------------------------------------------------------------------- */

static struct queue *queue_find(struct tail *t, uint32_t uid)
{
    struct queue *chunk = uid < STORE_UIDS_MAX ? t->chunks[uid / PART_CHUNK] : NULL;
    return chunk ? &chunk[uid % PART_CHUNK] : NULL;
}

static struct entry *queue_at(const struct queue *q, uint32_t i)
{
    return &q->entries[(q->first + i) & (q->cap - 1)];
}

static void queue_prune(struct queue *q, uint64_t low)
{
    while (q->count > 0 && queue_at(q, 0)->pos < low) {
        q->first++;
        q->count--;
    }
    if (q->count == 0 && q->cap > QUEUE_MIN) {
        free(q->entries);
        *q = (struct queue){0};
    }
}

static bool queue_add(struct queue *q, const struct entry *e)
{
    if (q->count == q->cap) {
        uint32_t cap = q->cap ? q->cap * 2 : QUEUE_MIN;
        struct entry *grown = malloc(cap * sizeof *grown);
        if (!grown) {
            return false;
        }
        for (uint32_t i = 0; i < q->count; i++) {
            grown[i] = *queue_at(q, i);
        }
        free(q->entries);
        *q = (struct queue){.entries = grown, .count = q->count, .cap = cap};
    }
    q->count++;
    *queue_at(q, q->count - 1) = *e;
    return true;
}

/* The frame that may hold offset: the last one that begins at or below it. -1: none. */
static int64_t queue_search(const struct queue *q, int64_t offset)
{
    uint32_t lo = 0, hi = q->count;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (queue_at(q, mid)->base <= offset) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return (int64_t)lo - 1;
}

/* --- following the ring ----------------------------------------------------------------------- */

/* Maps the ring of this life of the writer, in the directory that the page is from: one made anew
 * may count its lives from 1, too, and a page stays where it is until the store closes. */
static bool tail_map(struct store *s, struct tail *t)
{
    struct page *page = atomic_load_explicit(&s->page, memory_order_acquire);
    uint64_t life = atomic_load_explicit(&page->h->life, memory_order_acquire);
    if (t->ring.file && t->page == page && t->life == life) {
        return true;
    }
    char path[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s/tail", s->dir);
    ring_close(&t->ring);
    drop_index(t);
    if (n < 0 || (size_t)n >= sizeof path || ring_open_reader(&t->ring, path, NULL) != OK) {
        return false;
    }
    if (!page_is_current(page, s->dir)) { /* nor is the ring ours */
        ring_close(&t->ring);
        return false;
    }
    t->page = page;
    t->life = life;
    t->id = ring_id(&t->ring);
    t->pos = ring_low(&t->ring);
    return true;
}

static void start_over(struct tail *t)
{
    drop_index(t);
    t->id = ring_id(&t->ring);
    t->pos = ring_low(&t->ring);
}

void tail_forget(struct store *s, uint32_t uid, int64_t offset)
{
    uint8_t *frame;
    if (ring_reserve(&s->ring, TAIL_FORGET_BYTES, false, &frame) == OK) {
        be32_put(frame, uid);
        be64_put(frame + TAIL_FRAME_HEADER, (uint64_t)offset);
        ring_commit(&s->ring, TAIL_FORGET_BYTES);
    }
}

static void forget_below(struct tail *t, struct slice frame, uint64_t pos)
{
    struct queue *q = queue_find(t, be32_get(frame.data));
    int64_t offset = (int64_t)be64_get(frame.data + TAIL_FRAME_HEADER);
    if (q && ring_valid(&t->ring, pos)) {
        while (q->count > 0 && queue_at(q, 0)->base < offset) {
            q->first++;
            q->count--;
        }
    }
}

/* Out of memory: false. What the frame says is not trusted beyond this: a reader checks it
 * again. */
static bool index_frame(struct tail *t, struct slice frame, uint64_t pos, uint64_t low)
{
    struct batch_header h;
    if (frame.len == TAIL_FORGET_BYTES) {
        forget_below(t, frame, pos);
        return true;
    }
    if (frame.len < TAIL_FRAME_HEADER ||
        batch_read_header(slice_make(frame.data + TAIL_FRAME_HEADER, frame.len - TAIL_FRAME_HEADER),
                          &h) != OK ||
        h.last_offset_delta < 0) {
        return true;
    }
    uint32_t uid = be32_get(frame.data);
    struct entry e = {h.base_offset, pos, (uint32_t)(frame.len - TAIL_FRAME_HEADER),
                      (uint32_t)h.last_offset_delta + 1};
    if (uid >= STORE_UIDS_MAX || !ring_valid(&t->ring, pos)) {
        return true;
    }
    struct queue **chunk = &t->chunks[uid / PART_CHUNK];
    if (!*chunk) {
        *chunk = calloc(PART_CHUNK, sizeof **chunk);
        if (!*chunk) {
            return false;
        }
    }
    struct queue *q = &(*chunk)[uid % PART_CHUNK];
    queue_prune(q, low);
    return queue_add(q, &e);
}

/* Idle partitions would keep entries of frames that are long gone: one of them is looked at for
 * each frame. */
static void prune_one(struct tail *t, uint64_t low)
{
    struct queue *q = queue_find(t, t->prune);
    if (q) {
        queue_prune(q, low);
        t->prune++;
    } else {
        t->prune = t->prune < STORE_UIDS_MAX - PART_CHUNK ? t->prune + PART_CHUNK : 0;
        t->prune -= t->prune % PART_CHUNK;
    }
}

static void tail_advance(struct tail *t)
{
    if (ring_id(&t->ring) != t->id) {
        start_over(t);
    }
    uint64_t low = ring_low(&t->ring);
    for (;;) {
        struct slice frame;
        uint64_t next;
        enum err e = ring_read(&t->ring, t->pos, false, &frame, &next);
        if (e == ERR_AGAIN) {
            return;
        }
        if (e != OK) {
            /* Overrun: go on at the low end. The writer may go on too; that is not ours to
             * chase. */
            low = ring_low(&t->ring);
            if (t->pos >= low) {
                t->pos = ring_head(&t->ring);
                return;
            }
            t->pos = low;
            continue;
        }
        /* A filler may lie before the frame: valid from its own beginning is what counts. */
        uint64_t pos = t->pos;
        if (!index_frame(t, frame, pos, low)) {
            drop_index(t);
        }
        prune_one(t, low);
        t->pos = next;
    }
}

/* --- reading ---------------------------------------------------------------------------------- */

/* Copies one batch; false when it is gone. */
static bool copy_batch(struct tail *t, const struct entry *e, struct buf *out)
{
    struct slice frame;
    uint64_t next;
    if (ring_read(&t->ring, e->pos, false, &frame, &next) != OK ||
        frame.len != TAIL_FRAME_HEADER + e->len) {
        return false;
    }
    size_t before = out->len;
    buf_put(out, frame.data + TAIL_FRAME_HEADER, e->len);
    if (!buf_ok(out)) {
        return false;
    }
    struct batch_header h;
    if (!ring_valid(&t->ring, e->pos) || ring_id(&t->ring) != t->id ||
        batch_read_header(slice_make(out->data + before, e->len), &h) != OK ||
        h.base_offset != e->base || batch_total_bytes(&h) != e->len) {
        out->len = before;
        return false;
    }
    return true;
}

static enum err read_queue(struct tail *t, const struct queue *q, int64_t offset, int64_t end,
                           size_t max_bytes, bool at_least_one, struct buf *out, int64_t *next)
{
    int64_t i = q ? queue_search(q, offset) : -1;
    size_t start = out->len;
    int64_t expected = offset;
    for (; i >= 0 && i < q->count && expected < end; i++) {
        const struct entry *e = queue_at(q, (uint32_t)i);
        bool first = expected == offset && out->len == start;
        int64_t after = e->base + e->count;
        if ((first ? after <= expected : e->base != expected) || after > end) {
            break;
        }
        size_t used = out->len - start;
        if ((used >= max_bytes || e->len > max_bytes - used) && (!first || !at_least_one)) {
            *next = expected;
            return OK;
        }
        if (!copy_batch(t, e, out)) {
            break;
        }
        expected = after;
    }
    if (!buf_ok(out)) {
        return ERR_NOMEM;
    }
    *next = expected;
    return expected > offset ? OK : ERR_NOT_FOUND;
}

enum err store_read_tail(struct store *s, uint32_t uid, int64_t offset, size_t max_bytes,
                         bool at_least_one, struct buf *out, int64_t *next)
{
    struct store_offsets o;
    struct tail *t = s->tail;
    *next = offset;
    enum err e = store_offsets(s, uid, &o);
    if (e != OK) {
        return e;
    }
    if (offset < o.log_start || offset > o.end) {
        return ERR_RANGE;
    }
    if (offset == o.end) {
        return OK;
    }
    pthread_mutex_lock(&t->lock);
    e = ERR_NOT_FOUND;
    if (tail_map(s, t)) {
        tail_advance(t);
        e = read_queue(t, queue_find(t, uid), offset, o.end, max_bytes, at_least_one, out, next);
    }
    pthread_mutex_unlock(&t->lock);
    return e;
}
