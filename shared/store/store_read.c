/* Reading from RocksDB: whole batches, pinned, walked from segment to segment.
 *
 * The index rows of a partition say where to look: the last row at or below the offset names the
 * segment, the row after it says how far that holds. So one iterator over meta steps from row to
 * row while one over the log gives the batches:
 *
 *      rows    i@0 seg 3        i@900 seg 3         i@1700 seg 5
 *      log     3|uid|0 …        … 3|uid|1650        5|uid|1700 …
 *                 seek, next, next …      └ seek ───┘
 *
 * The iterator has no upper bound: because the row names the next partition's or segment's
 * beginning and the page the end, we never step past our own batches, and a bound would cost an
 * iterator for each segment.
 *
 * Nothing is believed. Each batch must begin where the one before it ended and lie below the
 * published end; a follower can be behind, and its view of the log can have a hole for a moment.
 * What was read up to there is a good answer; nothing at all is a gap, which store_read heals by
 * catching up, or gives back as ERR_AGAIN.
 *
 * The values stay where RocksDB has them: pin_data keeps every block and memtable that the iterator
 * came through until it is destroyed, by store_slices_free. */
#include "shared/store/store_int.h"

#include "shared/base/log.h"

#define CACHED_READ_BYTES (128u << 10) /* larger reads do not go through the block cache */

struct slices {
    struct store_slices public; /* first: the pointer that callers hold */
    struct rocks *rocks;
    rocksdb_iterator_t *log;
    size_t cap;
};

struct cursor {
    struct store *s;
    uint32_t uid;
    rocksdb_iterator_t *rows;
    rocksdb_iterator_t *log;
    struct index_row row;  /* where batches lie now */
    struct index_row next; /* where that ends; offset INT64_MAX: nowhere */
};

void store_slices_free(struct store_slices *x)
{
    if (x) {
        struct slices *p = (struct slices *)x;
        if (p->log) {
            rocksdb_iter_destroy(p->log);
        }
        rocks_unref(p->rocks);
        free((void *)(uintptr_t)x->iov);
        free(p);
    }
}

/* --- where a batch lies ----------------------------------------------------------------------- */

static void load_next_row(struct cursor *c)
{
    rocksdb_iter_next(c->rows);
    if (!rocksdb_iter_valid(c->rows) ||
        !index_row_get(&c->next, iter_key(c->rows), iter_value(c->rows), c->uid)) {
        c->next.offset = INT64_MAX;
    }
}

/* False: no row at or below the offset is visible. */
static bool find_row(struct cursor *c, int64_t offset)
{
    uint8_t key[INDEX_KEY_BYTES];
    index_key_put(key, c->uid, offset);
    rocksdb_iter_seek_for_prev(c->rows, (const char *)key, sizeof key);
    if (!rocksdb_iter_valid(c->rows) ||
        !index_row_get(&c->row, iter_key(c->rows), iter_value(c->rows), c->uid)) {
        return false;
    }
    load_next_row(c);
    return true;
}

static bool key_of_part(const struct cursor *c, int64_t *base)
{
    if (!rocksdb_iter_valid(c->log)) {
        return false;
    }
    struct slice k = iter_key(c->log);
    if (k.len != LOG_KEY_BYTES || be32_get(k.data) != c->row.segment ||
        be32_get(k.data + 4) != c->uid) {
        return false;
    }
    *base = (int64_t)be64_get(k.data + 8);
    return true;
}

/* Puts the log iterator on the batch that holds offset. Readers mostly ask for a batch's first
 * offset; going backwards is the exception, and it ends with a seek forward, so that every next is
 * one. */
static bool find_batch(struct cursor *c, int64_t offset)
{
    uint8_t key[LOG_KEY_BYTES];
    int64_t base;
    log_key_put(key, c->row.segment, c->uid, offset);
    iter_seek(c->log, key, sizeof key);
    if (key_of_part(c, &base) && base == offset) {
        return true;
    }
    rocksdb_iter_seek_for_prev(c->log, (const char *)key, sizeof key);
    if (!key_of_part(c, &base)) {
        return false;
    }
    log_key_put(key, c->row.segment, c->uid, base);
    iter_seek(c->log, key, sizeof key);
    return key_of_part(c, &base);
}

/* Steps to the batch that begins at expected. */
static void next_batch(struct cursor *c, int64_t expected)
{
    uint32_t segment = c->row.segment;
    while (expected >= c->next.offset) {
        c->row = c->next;
        load_next_row(c);
    }
    if (c->row.segment == segment) {
        rocksdb_iter_next(c->log);
        return;
    }
    uint8_t key[LOG_KEY_BYTES];
    log_key_put(key, c->row.segment, c->uid, expected);
    iter_seek(c->log, key, sizeof key);
}

/* --- one read --------------------------------------------------------------------------------- */

static enum err slices_add(struct slices *x, struct slice v)
{
    if (x->public.count == x->cap) {
        size_t cap = x->cap ? x->cap * 2 : 32;
        struct iovec *grown = realloc((void *)(uintptr_t)x->public.iov, cap * sizeof *grown);
        if (!grown) {
            return ERR_NOMEM;
        }
        x->public.iov = grown;
        x->cap = cap;
    }
    struct iovec *iov = (struct iovec *)(uintptr_t)x->public.iov;
    iov[x->public.count++] =
        (struct iovec){.iov_base = (void *)(uintptr_t)v.data, .iov_len = v.len};
    x->public.bytes += v.len;
    return OK;
}

/* Reads up to `end`. *gap: a batch that must be there was not. */
static enum err collect(struct cursor *c, struct slices *x, int64_t offset, int64_t end,
                        size_t max_bytes, bool at_least_one, enum read_gap *gap)
{
    int64_t expected = offset;
    if (!find_row(c, offset)) {
        *gap = READ_BEHIND;
        return OK;
    }
    /* Where a row follows the one that we read by, batches that come later are there. */
    if (!find_batch(c, offset)) {
        *gap = c->next.offset == INT64_MAX ? READ_BEHIND : READ_HOLE;
        return OK;
    }
    while (expected < end && x->public.count < READ_BATCHES_MAX) {
        struct batch_header h;
        int64_t base;
        if (!key_of_part(c, &base)) {
            *gap = c->next.offset == INT64_MAX ? READ_BEHIND : READ_HOLE;
            return OK;
        }
        struct slice v = iter_value(c->log);
        if (batch_read_header(v, &h) != OK || h.base_offset != base ||
            batch_total_bytes(&h) != v.len) {
            return ERR_CORRUPT;
        }
        bool first = x->public.count == 0;
        if (first ? base > expected || batch_next_offset(&h) <= expected : base != expected) {
            *gap = base > expected ? READ_HOLE : READ_BEHIND;
            return OK;
        }
        if (batch_next_offset(&h) > end) {
            return OK; /* in the log, but not published yet */
        }
        if (v.len > max_bytes - x->public.bytes || max_bytes < x->public.bytes) {
            if (!first || !at_least_one) {
                return OK;
            }
        }
        enum err e = slices_add(x, v);
        if (e != OK) {
            return e;
        }
        expected = x->public.next = batch_next_offset(&h);
        /* To learn that the next batch does not fit is to read it: one about as long as this one is
         * not tried. Readers of 1 MB batches would have read everything twice. */
        if (expected < end && x->public.bytes < max_bytes &&
            max_bytes - x->public.bytes >= v.len) {
            next_batch(c, expected);
        } else {
            break;
        }
    }
    return OK;
}

enum err read_once(struct store *s, struct rocks *r, uint32_t uid, int64_t offset, int64_t end,
                   size_t max_bytes, bool at_least_one, struct store_slices **out,
                   enum read_gap *gap, struct errmsg *m)
{
    struct slices *x = calloc(1, sizeof *x);
    *gap = READ_WHOLE;
    if (!x) {
        return err_set(m, ERR_NOMEM, "store %s: out of memory", s->dir);
    }
    const rocksdb_readoptions_t *ro =
        max_bytes <= CACHED_READ_BYTES ? r->read_cached : r->read_through;
    x->rocks = rocks_ref(r);
    if (offset == end) {
        *out = &x->public;
        x->public.next = offset;
        return OK;
    }
    /* The log first: a row that we then see may be newer than the batches, never the other way
     * round. */
    x->log = rocksdb_create_iterator_cf(r->db, ro, r->cf[CF_LOG]);
    x->public.next = offset;
    struct cursor c = {.s = s, .uid = uid, .log = x->log};
    c.rows = rocksdb_create_iterator_cf(r->db, r->read_cached, r->cf[CF_META]);
    enum err e = collect(&c, x, offset, end, max_bytes, at_least_one, gap);
    if (e == ERR_CORRUPT) {
        e = err_set(m, e, "store %s: a batch of partition %u near offset %lld is damaged", s->dir,
                    uid, (long long)x->public.next);
    } else if (e == ERR_NOMEM) {
        e = err_set(m, e, "store %s: out of memory", s->dir);
    }
    enum err bad_rows = e == OK ? iter_error(c.rows, s->dir, m) : OK;
    enum err bad_log = e == OK && bad_rows == OK ? iter_error(c.log, s->dir, m) : OK;
    e = e != OK ? e : bad_rows != OK ? bad_rows : bad_log;
    rocksdb_iter_destroy(c.rows);
    if (e != OK || x->public.count == 0) {
        rocksdb_iter_destroy(x->log);
        x->log = NULL; /* an empty answer pins nothing */
    }
    if (e != OK) {
        store_slices_free(&x->public);
        return e;
    }
    *out = &x->public;
    return OK;
}

enum err store_read(struct store *s, uint32_t uid, int64_t offset, size_t max_bytes,
                    bool at_least_one, struct store_slices **out, struct errmsg *m)
{
    static struct log_limit limit;
    *out = NULL;
    for (int attempt = 0;; attempt++) {
        struct store_offsets o;
        enum err e = store_offsets(s, uid, &o);
        if (e != OK) {
            return err_set(m, e, "store %s has no partition %u", s->dir, uid);
        }
        if (offset < o.log_start || offset > o.end) {
            return err_set(m, ERR_RANGE, "offset %lld is not in %lld … %lld", (long long)offset,
                           (long long)o.log_start, (long long)o.end);
        }
        struct rocks *r = store_rocks(s);
        struct store_slices *x = NULL;
        enum read_gap gap;
        e = read_once(s, r, uid, offset, o.end, max_bytes, at_least_one, &x, &gap, m);
        rocks_unref(r);
        if (e == OK && (x->count > 0 || gap == READ_WHOLE)) {
            *out = x;
            return OK;
        }
        if (e == OK) {
            store_slices_free(x);
            e = err_set(m, ERR_AGAIN, "offset %lld of partition %u is not readable yet",
                        (long long)offset, uid);
            atomic_fetch_add_explicit(&s->holes, gap == READ_HOLE, memory_order_relaxed);
        }
        /* A writer's gap is a log start that moved meanwhile: the next attempt will see it. */
        if (s->follower ? !follower_heal(s, attempt, e) : attempt > 0 || e != ERR_AGAIN) {
            if (e != ERR_AGAIN && e != ERR_NOMEM && log_limit_pass(&limit, 1000, NULL)) {
                log_error("store read failed dir=%s uid=%u offset=%lld why=\"%s\"", s->dir, uid,
                          (long long)offset, m ? m->text : err_name(e));
            }
            return e;
        }
    }
}

/* --- owner's rows ----------------------------------------------------------------------------- */

enum err store_rows(struct store *s, struct slice prefix, store_row_fn *fn, void *arg,
                    struct errmsg *m)
{
    uint8_t key[OWNER_KEY_BYTES_MAX + 1];
    if (prefix.len > OWNER_KEY_BYTES_MAX) {
        return err_set(m, ERR_INVALID, "a key has at most %d bytes", OWNER_KEY_BYTES_MAX);
    }
    key[0] = ROW_OWNER;
    if (prefix.len > 0) {
        memcpy(key + 1, prefix.data, prefix.len);
    }
    size_t len = prefix.len + 1;
    struct rocks *r = store_rocks(s);
    if (!r) {
        return err_set(m, ERR_AGAIN, "store %s is being opened again", s->dir);
    }
    rocksdb_iterator_t *it = rocksdb_create_iterator_cf(r->db, r->read_cached, r->cf[CF_META]);
    for (iter_seek(it, key, len); rocksdb_iter_valid(it); rocksdb_iter_next(it)) {
        struct slice k = iter_key(it);
        if (k.len < len || memcmp(k.data, key, len) != 0 ||
            !fn(arg, slice_make(k.data + 1, k.len - 1), iter_value(it))) {
            break;
        }
    }
    enum err e = iter_error(it, s->dir, m);
    rocksdb_iter_destroy(it);
    rocks_unref(r);
    return e;
}
