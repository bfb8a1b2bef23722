/* Lookups: by timestamp, by leader epoch.
 *
 * The index rows cut a partition into intervals of about a megabyte, each with its greatest
 * timestamp.
 *
 *      start       i@900        i@1700            end
 *   ─────┼───────────┼────────────┼────────────────┤
 *        ├ max known ┤ max known  ├ open: look ────┤
 *
 * Timestamps need not be in order, so the first record at or above t lies in the first interval
 * whose greatest is at or above t; there the headers of the batches say in which batch, and the
 * batch is looked into. So the answer is exact, and it costs one row for each megabyte plus one
 * megabyte.
 *
 * An interval is read through, whatever its row says, where the log starts inside it, where the row
 * does not follow the one before it (a follower that cannot see all of them yet), and after the
 * last row.
 *
 * After compaction what a row says is a bound: the record may be gone. To the first question that
 * makes no difference. For the greatest timestamp of all, the interval with the greatest bound is
 * read; where it does not keep its promise, the next one is, until no bound is above what was
 * found. */
#include "shared/store/store_int.h"

#define SCAN_BYTES (1u << 20) /* of one read */

struct search {
    struct store *s;
    uint32_t uid;
    struct store_offsets o;
    int64_t ts;        /* looked for: first record at or above */
    int64_t offset;    /* found; -1: not yet */
    int64_t timestamp; /* of what was found */
    int64_t max;       /* greatest seen by scan_max */
};

static bool match_record(void *arg, const struct batch_header *h, const struct raw_record *r)
{
    struct search *q = arg;
    int64_t offset = batch_offset_of(h, r->offset_delta);
    int64_t timestamp = batch_timestamp_of(h, r->timestamp_delta);
    if (offset < q->o.log_start || timestamp < q->ts) {
        return true;
    }
    q->offset = offset;
    q->timestamp = timestamp;
    return false;
}

static bool max_record(void *arg, const struct batch_header *h, const struct raw_record *r)
{
    struct search *q = arg;
    int64_t timestamp = batch_timestamp_of(h, r->timestamp_delta);
    if (batch_offset_of(h, r->offset_delta) >= q->o.log_start && timestamp > q->max) {
        q->max = timestamp;
    }
    return true;
}

typedef enum err batch_fn(struct search *q, struct slice batch, const struct batch_header *h,
                          struct errmsg *m);

static enum err find_in_batch(struct search *q, struct slice batch, const struct batch_header *h,
                              struct errmsg *m)
{
    return h->max_timestamp < q->ts ? OK : batch_scan(batch, WALK_BYTES_MAX, match_record, q, m);
}

/* The header says it all, unless the log starts inside the batch. */
static enum err max_in_batch(struct search *q, struct slice batch, const struct batch_header *h,
                             struct errmsg *m)
{
    if (h->record_count == 0) {
        return OK;
    }
    if (h->base_offset < q->o.log_start) {
        return batch_scan(batch, WALK_BYTES_MAX, max_record, q, m);
    }
    q->max = h->max_timestamp > q->max ? h->max_timestamp : q->max;
    return OK;
}

/* Calls fn for the batches of [from, to), until something was found. */
static enum err scan(struct search *q, int64_t from, int64_t to, batch_fn *fn, struct errmsg *m)
{
    to = to < q->o.end ? to : q->o.end;
    from = from > q->o.log_start ? from : q->o.log_start;
    while (from < to && q->offset < 0) {
        struct store_slices *x;
        enum err e = store_read(q->s, q->uid, from, SCAN_BYTES, true, &x, m);
        if (e != OK) {
            return e;
        }
        for (size_t i = 0; i < x->count && e == OK && q->offset < 0; i++) {
            struct slice batch = slice_make(x->iov[i].iov_base, x->iov[i].iov_len);
            struct batch_header h;
            e = batch_read_header(batch, &h);
            if (e == OK && h.base_offset < to) {
                e = fn(q, batch, &h, m);
            }
        }
        bool stuck = x->next <= from;
        from = x->next;
        store_slices_free(x);
        if (e != OK || stuck) {
            return e;
        }
    }
    return OK;
}

/* --- the rows --------------------------------------------------------------------------------- */

struct interval {
    int64_t from, to;
    int64_t max_ts;
    bool known; /* max_ts is that of exactly these offsets */
};

struct walk {
    struct rocks *rocks;
    rocksdb_iterator_t *it;
    int64_t at;  /* where the next interval begins */
    int64_t row; /* offset of the last row seen; -1: none */
};

/* On the last row at or below the log's start. */
static enum err walk_open(struct walk *w, const struct search *q, struct errmsg *m)
{
    w->rocks = store_rocks(q->s);
    if (!w->rocks) {
        return err_set(m, ERR_AGAIN, "store %s is being opened again", q->s->dir);
    }
    struct rocks *r = w->rocks;
    w->it = rocksdb_create_iterator_cf(r->db, r->read_cached, r->cf[CF_META]);
    w->at = q->o.log_start;
    w->row = -1;
    uint8_t key[INDEX_KEY_BYTES];
    struct index_row row;
    index_key_put(key, q->uid, q->o.log_start);
    rocksdb_iter_seek_for_prev(w->it, (const char *)key, sizeof key);
    if (rocksdb_iter_valid(w->it) &&
        index_row_get(&row, iter_key(w->it), iter_value(w->it), q->uid)) {
        w->row = row.offset;
        rocksdb_iter_next(w->it);
    } else {
        iter_seek(w->it, key, sizeof key);
    }
    return OK;
}

static void walk_close(struct walk *w)
{
    if (w->it) {
        rocksdb_iter_destroy(w->it);
    }
    rocks_unref(w->rocks);
}

/* False after the last one, which is the open one. */
static bool walk_next(struct walk *w, const struct search *q, struct interval *v)
{
    struct index_row row;
    while (rocksdb_iter_valid(w->it) &&
           index_row_get(&row, iter_key(w->it), iter_value(w->it), q->uid) &&
           row.offset <= q->o.end) {
        *v = (struct interval){
            .from = w->at,
            .to = row.offset,
            .max_ts = row.max_ts,
            .known = row.from == w->at && row.from == w->row,
        };
        w->row = w->at = row.offset;
        rocksdb_iter_next(w->it);
        if (v->to > v->from) {
            return true;
        }
    }
    if (w->at >= q->o.end) {
        return false;
    }
    *v = (struct interval){.from = w->at, .to = q->o.end};
    w->at = q->o.end;
    return true;
}

/* --- public ----------------------------------------------------------------------------------- */

static enum err search_open(struct search *q, struct store *s, uint32_t uid, struct errmsg *m)
{
    *q = (struct search){.s = s, .uid = uid, .offset = -1, .max = NO_TIMESTAMP};
    enum err e = store_offsets(s, uid, &q->o);
    return e == OK ? OK : err_set(m, e, "store %s has no partition %u", s->dir, uid);
}

enum err store_find_timestamp(struct store *s, uint32_t uid, int64_t ts, int64_t *offset,
                              int64_t *timestamp, struct errmsg *m)
{
    struct search q;
    struct walk w = {0};
    struct interval v;
    enum err e = search_open(&q, s, uid, m);
    if (e == OK) {
        e = walk_open(&w, &q, m);
    }
    q.ts = ts;
    while (e == OK && q.offset < 0 && walk_next(&w, &q, &v)) {
        if (!v.known || v.max_ts >= ts) {
            e = scan(&q, v.from, v.to, find_in_batch, m);
        }
    }
    walk_close(&w);
    if (e != OK) {
        return e;
    }
    if (q.offset < 0) {
        return ERR_NOT_FOUND;
    }
    *offset = q.offset;
    *timestamp = q.timestamp;
    return OK;
}

/* The interval with the greatest bound (the first of equals) that comes behind `last` in that order
 * and may beat what was found at `at`. What has no bound is read for one. */
static enum err next_bound(struct search *q, const struct interval *last, int64_t found, int64_t at,
                           struct interval *best, bool *any, struct errmsg *m)
{
    struct walk w = {0};
    struct interval v;
    enum err e = walk_open(&w, q, m);
    *any = false;
    while (e == OK && walk_next(&w, q, &v)) {
        if (!v.known) {
            q->max = NO_TIMESTAMP;
            e = scan(q, v.from, v.to, max_in_batch, m);
            v.max_ts = q->max;
        }
        bool behind = v.max_ts < last->max_ts || (v.max_ts == last->max_ts && v.from > last->from);
        bool better = v.max_ts > found || (v.max_ts == found && v.from < at);
        if (behind && better && (!*any || v.max_ts > best->max_ts)) {
            *best = v;
            *any = true;
        }
    }
    walk_close(&w);
    return e;
}

enum err store_find_max_timestamp(struct store *s, uint32_t uid, int64_t *offset,
                                  int64_t *timestamp, struct errmsg *m)
{
    struct search q;
    struct interval v = {.from = -1, .max_ts = INT64_MAX};
    int64_t found = NO_TIMESTAMP, at = -1;
    bool any = true;
    enum err e = search_open(&q, s, uid, m);
    while (e == OK && any) {
        struct interval last = v;
        e = next_bound(&q, &last, found, at, &v, &any, m);
        if (e != OK || !any) {
            break;
        }
        q.ts = v.max_ts;
        e = scan(&q, v.from, v.to, find_in_batch, m);
        if (e == OK && q.offset < 0) { /* compacted: how much is it really? */
            q.max = NO_TIMESTAMP;
            e = scan(&q, v.from, v.to, max_in_batch, m);
            q.ts = q.max;
            if (e == OK && q.max >= found && q.max != NO_TIMESTAMP) {
                e = scan(&q, v.from, v.to, find_in_batch, m);
            }
        }
        if (q.offset >= 0) {
            bool earlier = q.timestamp == found && q.offset < at;
            if (q.timestamp > found || earlier) {
                found = q.timestamp;
                at = q.offset;
            }
            q.offset = -1;
        }
    }
    if (e != OK) {
        return e;
    }
    if (at < 0) {
        return ERR_NOT_FOUND;
    }
    *offset = at;
    *timestamp = found;
    return OK;
}

/* The first offset of the first epoch above `epoch`, and the last epoch at or below it. */
static enum err epoch_rows(struct store *s, struct rocks *r, uint32_t uid, int32_t epoch,
                           int32_t *found, int64_t *end)
{
    rocksdb_iterator_t *it = rocksdb_create_iterator_cf(r->db, r->read_cached, r->cf[CF_META]);
    uint8_t key[EPOCH_KEY_BYTES], prefix[UID_KEY_BYTES];
    uid_key_put(prefix, ROW_EPOCH, uid);
    epoch_key_put(key, uid, epoch + 1);
    iter_seek(it, key, sizeof key);
    enum err e = ERR_AGAIN; /* a follower that does not see the row yet */
    if (rocksdb_iter_valid(it)) {
        struct slice k = iter_key(it), v = iter_value(it);
        if (k.len == sizeof key && memcmp(k.data, prefix, sizeof prefix) == 0 && v.len == 8) {
            *end = (int64_t)be64_get(v.data);
            e = OK;
        }
    }
    *found = 0;
    epoch_key_put(key, uid, epoch);
    rocksdb_iter_seek_for_prev(it, (const char *)key, sizeof key);
    if (rocksdb_iter_valid(it)) {
        struct slice k = iter_key(it);
        if (k.len == sizeof key && memcmp(k.data, prefix, sizeof prefix) == 0) {
            *found = (int32_t)be32_get(k.data + UID_KEY_BYTES);
        }
    }
    rocksdb_iter_destroy(it);
    return e;
}

enum err store_epoch_end(struct store *s, uint32_t uid, int32_t epoch, int32_t *found,
                         int64_t *end)
{
    struct store_offsets o;
    enum err e = store_offsets(s, uid, &o);
    if (e != OK) {
        return e;
    }
    if (epoch < 0 || epoch > o.leader_epoch) {
        return ERR_NOT_FOUND;
    }
    if (epoch == o.leader_epoch) {
        *found = epoch;
        *end = o.end;
        return OK;
    }
    struct rocks *r = store_rocks(s);
    if (!r) {
        return ERR_AGAIN;
    }
    e = epoch_rows(s, r, uid, epoch, found, end);
    rocks_unref(r);
    return e;
}
