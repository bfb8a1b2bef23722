/* Compaction: of the records of a key, all but the newest go. Kafka's cleaner, on our segments.
 *
 *   log start        clean to                      end
 *       ├── clean ──────┼────────── dirty ──────────┤── not yet (open segment, lag, transactions)
 *       │               └─ 1 read: key → newest offset ─┘
 *       └─ 2 judge each batch by that map; rewrite the segments that have something dead ─┘
 *
 * Which partitions, and from where to where, is decided by store_tick (store_dirty.c); this runs on
 * the cleaner's thread. Keys of all partitions of a job share one map of bounded size; what does
 * not fit waits for the next job. No batch counts as clean of which a key is not in the map: were
 * it a tombstone, it would go one day, and the value before it would not.
 *
 * A record stays when no newer one has its key. (So one without a key stays, unlike in Kafka, whose
 * cleaner drops it: Produce refuses it anyway, and a captured publish must not vanish.) A null
 * value (tombstone) that is the newest stays until the delete horizon of its batch, which is
 * written into it the first time (KIP-534). Data of aborted transactions goes; a marker goes when
 * it is older than delete.retention.ms, one of an abort only when the lists of aborted transactions
 * that readers get do not point to it any more: their owner forgets those that have no data left
 * (store_cleaned), some time later.
 *
 * Offsets stay, and so does what followers prove: that each batch begins where the one before it
 * ended. A batch that loses all its records is absorbed by the one before it, whose last offset
 * delta grows; where there is none in its segment, it stays as a header without records. (Nothing
 * is learned of producers from the log, so their last batches need no exception.) Index rows stay
 * true: a row's offset then lies inside a batch of the same segment, which readers expect, and its
 * greatest timestamp is a bound.
 *
 * Rewriting is RocksDB's: the plan of one run of segments (its file) is a sorted list of keys, each
 * with its new value or none, and a manual compaction of that run asks the filter for each key
 * (filter_plan). All files of the run are on one level then (store_clean.c), so the new file takes
 * the place of the old ones in one step, and a kill at any instant leaves one or the other. Each
 * compaction takes the plan when it begins, whole or not at all: a batch never goes without the one
 * that absorbs it. That the filter was asked does not say that the new file came to be (the disk
 * may be full at its last byte): done is what can then be read.
 *
 * A run that cannot be read or rewritten stays as it is, and fails the partitions that have
 * something in it: they are no cleaner than before, or a tombstone behind that run would go before
 * the value in it, and they are left alone for a while. The others go on. (No run is
 * rewritten that cannot be read whole: store_clean.c.)
 *
 * What was done becomes rows with the next ticks: sizes of segments as soon as they are rewritten,
 * the rest when the job has ended. A kill before that makes the same work be done again, which then
 * finds nothing to do; so what is said of a run is not what was taken from it but what is left. */
#include "shared/store/store_int.h"

#include <time.h>

#include "shared/base/log.h"
#include "shared/record/control.h"
#include "shared/record/rewrite.h"

#define MAP_READ_BYTES (1u << 20)
#define APPLY_TRIES    5
#define START_TRIES    50
#define START_PAUSE_NS 10000000
#define PLAN_BYTES_MAX (32u << 20) /* new values and ops; then what is planned is applied */
#define BATCH_KEEP_BYTES (4u << 20) /* what buffers of one batch keep for the next one */

/* --- the plan --------------------------------------------------------------------------------- */

struct plan_op {
    uint8_t key[LOG_KEY_BYTES];
    uint32_t len; /* of the new value; 0: the key goes */
    size_t at;    /* where it lies in plan.bytes */
};

struct plan {
    _Atomic int refs;
    struct plan_op *ops;
    size_t count, cap;
    struct buf bytes;
};

static struct plan *plan_new(void)
{
    struct plan *p = calloc(1, sizeof *p);
    if (p) {
        atomic_init(&p->refs, 1);
        buf_init(&p->bytes, SIZE_MAX);
    }
    return p;
}

void plan_unref(struct plan *p)
{
    if (p && atomic_fetch_sub_explicit(&p->refs, 1, memory_order_acq_rel) == 1) {
        buf_fini(&p->bytes);
        free(p->ops);
        free(p);
    }
}

struct plan *plan_ref(struct store *s)
{
    pthread_mutex_lock(&s->lock);
    struct plan *p = s->plan;
    if (p) {
        atomic_fetch_add_explicit(&p->refs, 1, memory_order_relaxed);
    }
    pthread_mutex_unlock(&s->lock);
    return p;
}

void plan_publish(struct store *s, struct plan *p)
{
    pthread_mutex_lock(&s->lock);
    s->plan = p;
    pthread_mutex_unlock(&s->lock);
}

static int compare_ops(const void *a, const void *b)
{
    return memcmp(a, b, LOG_KEY_BYTES);
}

enum plan_verdict plan_of(const struct plan *p, const char *key, struct slice *value)
{
    const struct plan_op *op = bsearch(key, p->ops, p->count, sizeof *p->ops, compare_ops);
    if (!op) {
        return PLAN_KEEPS;
    }
    *value = slice_make(p->bytes.data + op->at, op->len);
    return op->len > 0 ? PLAN_CHANGES : PLAN_DROPS;
}

static void plan_clear(struct plan *p)
{
    p->count = 0;
    buf_reset(&p->bytes);
}

static enum err plan_add(struct plan *p, uint32_t segment, uint32_t uid, int64_t offset,
                         struct slice value)
{
    if (p->count == p->cap) {
        size_t cap = p->cap ? p->cap * 2 : 256;
        struct plan_op *grown = realloc(p->ops, cap * sizeof *grown);
        if (!grown) {
            return ERR_NOMEM;
        }
        p->ops = grown;
        p->cap = cap;
    }
    struct plan_op *op = &p->ops[p->count];
    log_key_put(op->key, segment, uid, offset);
    op->at = p->bytes.len;
    op->len = (uint32_t)value.len; /* a batch: below 2^31 */
    buf_put(&p->bytes, value.data, value.len);
    p->count++;
    return buf_ok(&p->bytes) ? OK : ERR_NOMEM;
}

/* --- one cleaning ----------------------------------------------------------------------------- */

/* The batch that is being looked at, until the next one of its partition and segment shows whether
 * it absorbs that. */
struct held {
    bool valid, changed;
    uint32_t segment, uid;
    struct batch_header h;
    struct buf bytes;
};

/* What is left of a partition in the run. */
struct tally {
    bool seen;
    uint64_t left;
};

struct cleaning {
    struct store *s;
    struct compaction *c;
    struct tally *tallies; /* of c->parts */
    bool seen;             /* in the run is something of one of them */
    struct clean_changes changes; /* of the run */
    struct key_map *map;
    struct plan *plan;
    struct held held;
    struct clean_part *part; /* of what is held */
    struct clean_run *run;
    rocksdb_readoptions_t *read; /* pins nothing, and nothing stays in the cache: there is much */
    struct buf plain, out;
    struct errmsg m;
};

/* Can what the plan says be read? A batch that is gone altogether was dead for another reason. */
static bool is_applied(struct cleaning *c, const struct plan *p)
{
    struct rocks *r = c->s->rocks;
    rocksdb_iterator_t *it = rocksdb_create_iterator_cf(r->db, c->read, r->cf[CF_LOG]);
    bool applied = true;
    for (size_t i = 0; i < p->count && applied; i++) {
        const struct plan_op *op = &p->ops[i];
        iter_seek(it, op->key, sizeof op->key);
        struct slice k = rocksdb_iter_valid(it) ? iter_key(it) : slice_make(NULL, 0);
        if (k.len == sizeof op->key && memcmp(k.data, op->key, k.len) == 0) {
            struct slice v = iter_value(it);
            applied = op->len > 0 && v.len == op->len &&
                      memcmp(v.data, p->bytes.data + op->at, BATCH_HEADER_BYTES) == 0;
        }
    }
    applied = applied && iter_error(it, c->s->dir, &c->m) == OK;
    rocksdb_iter_destroy(it);
    return applied;
}

/* Rewrites the run by the plan. A file that RocksDB moves from L0 to L1 at that moment may be
 * passed over: then again. */
static enum err apply(struct cleaning *c)
{
    struct plan *p = c->plan;
    if (p->count == 0) {
        return OK;
    }
    qsort(p->ops, p->count, sizeof *p->ops, compare_ops);
    struct plan *next = plan_new();
    if (!next) {
        return ERR_NOMEM;
    }
    bool done = false;
    enum err e = OK;
    for (int i = 0; i < APPLY_TRIES && !done && e == OK && !cleaner_stopping(c->s); i++) {
        e = cleaner_rewrite(c->s, c->run->from, c->run->number + 1, p, &c->c->rewritten,
                            &c->m);
        done = e == OK && store_state(c->s) == STORE_OK && is_applied(c, p);
    }
    c->plan = next;
    plan_unref(p);
    return done || e != OK
               ? e
               : err_set(&c->m, ERR_IO, "segment %u is not rewritten", c->run->number);
}

static void count_left(struct cleaning *c, size_t bytes)
{
    struct tally *t = &c->tallies[c->part - c->c->parts];
    c->seen = t->seen = true;
    t->left += bytes;
}

static enum err change_add(struct clean_changes *k, const struct clean_change *change)
{
    if (k->count == k->cap) {
        size_t cap = k->cap ? k->cap * 2 : 64;
        struct clean_change *grown = realloc(k->all, cap * sizeof *grown);
        if (!grown) {
            return ERR_NOMEM;
        }
        k->all = grown;
        k->cap = cap;
    }
    k->all[k->count++] = *change;
    return OK;
}

static bool plan_large(const struct plan *p)
{
    return p->bytes.len + p->count * sizeof *p->ops > PLAN_BYTES_MAX;
}

/* What is held stays as it is by now. Only here the plan is whole: nobody absorbs any more. */
static enum err release(struct cleaning *c)
{
    struct held *h = &c->held;
    if (!h->valid) {
        return OK;
    }
    enum err e = OK;
    h->valid = false;
    c->part->bytes += h->bytes.len;
    count_left(c, h->bytes.len);
    if (h->changed) {
        batch_seal(h->bytes.data, h->bytes.len, &h->h);
        e = plan_add(c->plan, h->segment, h->uid, h->h.base_offset, buf_slice(&h->bytes));
    }
    return e == OK && plan_large(c->plan) ? apply(c) : e;
}

static enum err hold(struct cleaning *c, uint32_t segment, uint32_t uid,
                     const struct batch_header *header, struct slice bytes, bool changed)
{
    struct held *h = &c->held;
    h->valid = true;
    h->changed = changed;
    h->segment = segment;
    h->uid = uid;
    h->h = *header;
    buf_trim(&h->bytes, BATCH_KEEP_BYTES);
    buf_put(&h->bytes, bytes.data, bytes.len);
    return buf_ok(&h->bytes) ? OK : ERR_NOMEM;
}

/* A batch without records: absorbed, or a header. A transactional batch absorbs nothing: readers
 * skip one that reaches beyond the first offset of a transaction of its producer that was aborted
 * later (Java's goes by the batch's last offset). */
static enum err hold_dead(struct cleaning *c, uint32_t segment, uint32_t uid, size_t len,
                          const struct batch_header *dead)
{
    struct held *h = &c->held;
    int64_t delta = batch_next_offset(dead) - 1 - h->h.base_offset;
    if (h->valid && h->segment == segment && h->uid == uid && delta <= INT32_MAX &&
        batch_next_offset(&h->h) == dead->base_offset &&
        !(h->h.attributes & (BATCH_CONTROL | BATCH_TRANSACTIONAL)) && !plan_large(c->plan)) {
        h->h.last_offset_delta = (int32_t)delta;
        h->changed = true;
        return plan_add(c->plan, segment, uid, dead->base_offset, slice_make(NULL, 0));
    }
    enum err e = release(c);
    uint8_t empty[BATCH_HEADER_BYTES] = {0};
    bool changed = len > sizeof empty;
    struct batch_header header = *dead;
    if (changed) {
        header = (struct batch_header){.base_offset = dead->base_offset,
                                       .leader_epoch = dead->leader_epoch,
                                       .last_offset_delta = dead->last_offset_delta,
                                       .base_timestamp = -1,
                                       .max_timestamp = -1,
                                       .producer_id = -1,
                                       .producer_epoch = -1,
                                       .base_sequence = -1};
    }
    batch_seal(empty, sizeof empty, &header);
    return e == OK ? hold(c, segment, uid, &header, slice_make(empty, sizeof empty), changed) : e;
}

/* --- judging ---------------------------------------------------------------------------------- */

enum verdict { BATCH_STAYS, BATCH_CHANGED, BATCH_DEAD };

static int compare_aborted(const void *a, const void *b)
{
    const struct store_aborted *x = a, *y = b;
    return x->producer_id != y->producer_id ? (x->producer_id < y->producer_id ? -1 : 1)
           : x->first != y->first           ? (x->first < y->first ? -1 : 1)
                                            : 0;
}

/* A producer has one transaction at a time: the last one that began at or before the batch. */
static bool is_aborted(const struct clean_part *p, const struct batch_header *h)
{
    size_t lo = 0, hi = h->attributes & BATCH_TRANSACTIONAL ? p->aborted_count : 0;
    struct store_aborted at = {h->producer_id, h->base_offset, 0};
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (compare_aborted(&p->aborted[mid], &at) <= 0) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    const struct store_aborted *a = lo > 0 ? &p->aborted[lo - 1] : NULL;
    return a && a->producer_id == h->producer_id && h->base_offset <= a->last;
}

/* Whether nobody needs to see a marker any more. What cannot be read stays. (One of an abort lies
 * inside its transaction.) */
static bool marker_may_go(const struct cleaning *c, struct slice batch,
                          const struct batch_header *h)
{
    struct txn_marker t;
    return txn_marker_read(batch, &t, NULL) == OK && (t.commit || !is_aborted(c->part, h)) &&
           t.timestamp < c->c->now_ms - c->part->delete_retention_ms;
}

static bool record_stays(void *arg, const struct batch_header *h, const struct raw_record *r)
{
    const struct cleaning *c = arg;
    bool newest = r->key.data == NULL || key_map_get(c->map, c->part->uid, r->key) <=
                                             batch_offset_of(h, r->offset_delta);
    bool passed = (h->attributes & BATCH_DELETE_HORIZON) && c->c->now_ms >= h->base_timestamp;
    return newest && !(passed && r->value.data == NULL);
}

/* *h becomes that of the batch in c->out when it is changed. What cannot be read stays. */
static enum err judge(struct cleaning *c, struct slice batch, struct batch_header *h,
                      enum verdict *v)
{
    *v = BATCH_STAYS;
    if (h->attributes & BATCH_CONTROL) {
        *v = h->record_count == 0 || marker_may_go(c, batch, h) ? BATCH_DEAD : BATCH_STAYS;
        return OK;
    }
    if (h->record_count == 0 || is_aborted(c->part, h)) {
        *v = BATCH_DEAD;
        return OK;
    }
    int64_t retention = c->part->delete_retention_ms; /* up to INT64_MAX: never */
    bool never = retention > INT64_MAX - c->c->now_ms;
    struct batch_filter f = {.keep = record_stays,
                             .arg = c,
                             .plain_bytes_max = WALK_BYTES_MAX,
                             .delete_horizon_ms = never ? -1 : c->c->now_ms + retention};
    struct batch_filtered r;
    buf_trim(&c->out, BATCH_KEEP_BYTES);
    enum err e = batch_filter(batch, &f, &c->out, &r, &c->m);
    if (e == OK && !r.same) {
        *v = r.kept == 0 ? BATCH_DEAD : BATCH_CHANGED;
        *h = r.kept == 0 ? *h : r.h;
    }
    return e == ERR_NOMEM ? e : OK;
}

/* --- a run of segments ------------------------------------------------------------------------ */

static enum err look_at(struct cleaning *c, uint32_t segment, struct slice batch)
{
    struct batch_header h;
    if (batch_read_header(batch, &h) != OK || batch_total_bytes(&h) != batch.len ||
        h.last_offset_delta < 0) {
        return err_set(&c->m, ERR_CORRUPT, "a batch in segment %u is damaged", segment);
    }
    if (batch_next_offset(&h) > c->part->end) {
        count_left(c, batch.len);
        return release(c);
    }
    enum verdict v;
    enum err e = judge(c, batch, &h, &v);
    if (e != OK) {
        return e;
    }
    if (v == BATCH_DEAD) {
        return hold_dead(c, segment, c->part->uid, batch.len, &h);
    }
    e = release(c);
    return e != OK ? e
                   : hold(c, segment, c->part->uid, &h,
                          v == BATCH_CHANGED ? buf_slice(&c->out) : batch, v == BATCH_CHANGED);
}

/* The first part of a uid at or above this; NULL: none. */
static struct clean_part *part_from(struct compaction *k, uint32_t uid)
{
    size_t lo = 0, hi = k->part_count;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (k->parts[mid].uid < uid) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo < k->part_count ? &k->parts[lo] : NULL;
}

/* Puts the iterator on the next batch at or behind it that belongs to a part of ours and begins
 * below its end. What lies behind that is counted where the part has something else in the run.
 * False: there is none in the run. */
static bool next_of_ours(struct cleaning *c, rocksdb_iterator_t *it, uint32_t *segment,
                         enum err *e)
{
    uint8_t key[LOG_KEY_BYTES];
    while (rocksdb_iter_valid(it)) {
        struct slice k = iter_key(it);
        *segment = be32_get(k.data);
        uint32_t uid = be32_get(k.data + 4);
        if (*segment > c->run->number) {
            return false;
        }
        struct clean_part *p = part_from(c->c, uid);
        if (p && p->uid == uid && !p->failed && (int64_t)be64_get(k.data + 8) < p->end) {
            *e = c->part != p || c->held.segment != *segment ? release(c) : OK;
            c->part = p;
            return *e == OK;
        }
        bool past = p && p->uid == uid; /* its dirty end lies behind us, or it has failed */
        if (past && c->tallies[p - c->c->parts].seen) {
            c->tallies[p - c->c->parts].left += iter_value(it).len;
            rocksdb_iter_next(it);
            continue;
        }
        p = past ? part_from(c->c, uid + 1) : p;
        log_key_put(key, p ? *segment : *segment + 1, p ? p->uid : 0, 0);
        iter_seek(it, key, sizeof key);
    }
    return false;
}

/* The entries of the run's row, which does not change while a job runs. */
static enum err load_entries(struct cleaning *c, struct segment_entry **entries, size_t *count)
{
    struct rocks *r = c->s->rocks;
    rocksdb_iterator_t *rows = rocksdb_create_iterator_cf(r->db, c->read, r->cf[CF_META]);
    enum err e = segment_load(rows, c->run->number, entries, count);
    rocksdb_iter_destroy(rows);
    return e;
}

/* Sizes that the run's row does not have yet become changes, in the order of its entries. */
static enum err note_changes(struct cleaning *c)
{
    struct compaction *k = c->c;
    struct segment_entry *entries;
    size_t count;
    if (!c->seen) {
        return OK;
    }
    enum err e = load_entries(c, &entries, &count);
    for (size_t i = 0; i < count && e == OK; i++) {
        const struct clean_part *p = part_from(k, entries[i].uid);
        const struct tally *t = p ? &c->tallies[p - k->parts] : NULL;
        if (t && p->uid == entries[i].uid && t->seen && t->left != entries[i].bytes) {
            k->gained += t->left < entries[i].bytes ? entries[i].bytes - t->left : 0;
            e = change_add(&c->changes, &(struct clean_change){c->run->number, p->uid, t->left});
        }
    }
    free(entries);
    if (e == OK && c->changes.count > 0) {
        e = cleaner_hand_over(c->s, &c->changes);
    }
    return e == ERR_NOT_FOUND ? OK : e; /* dropped meanwhile */
}

static void part_failed(struct cleaning *c, struct clean_part *p)
{
    static struct log_limit limit;
    if (!p->failed && log_limit_pass(&limit, 1000, NULL)) {
        log_warn("store could not compact a partition dir=%s uid=%u why=\"%s\"", c->s->dir, p->uid,
                 c->m.text);
    }
    p->failed = true;
}

/* All that have something in the run; all there are, where that cannot be known. */
static void run_failed(struct cleaning *c)
{
    struct compaction *k = c->c;
    struct segment_entry *entries;
    size_t count;
    enum err e = load_entries(c, &entries, &count);
    for (size_t i = 0; i < count; i++) {
        struct clean_part *p = part_from(k, entries[i].uid);
        if (p && p->uid == entries[i].uid && p->start < entries[i].end) {
            part_failed(c, p);
        }
    }
    for (size_t i = 0; i < k->part_count && e != OK; i++) {
        part_failed(c, &k->parts[i]);
    }
    free(entries);
    c->held.valid = false;
    plan_clear(c->plan);
}

static enum err clean_run(struct cleaning *c)
{
    uint8_t key[LOG_KEY_BYTES];
    uint32_t segment;
    struct rocks *r = c->s->rocks;
    rocksdb_iterator_t *it = rocksdb_create_iterator_cf(r->db, c->read, r->cf[CF_LOG]);
    memset(c->tallies, 0, c->c->part_count * sizeof *c->tallies);
    c->seen = false;
    log_key_put(key, c->run->from, 0, 0);
    iter_seek(it, key, sizeof key);
    enum err e = OK;
    while (e == OK && !cleaner_stopping(c->s) && next_of_ours(c, it, &segment, &e)) {
        struct slice batch = iter_value(it);
        struct batch_header h;
        bool below = batch_read_header(batch, &h) == OK && batch_next_offset(&h) <= c->part->start;
        if (below) {
            count_left(c, batch.len);
        } else {
            e = look_at(c, segment, batch);
        }
        rocksdb_iter_next(it);
    }
    e = e == OK ? iter_error(it, c->s->dir, &c->m) : e;
    e = e == OK ? release(c) : e;
    rocksdb_iter_destroy(it);
    if (e == OK && cleaner_stopping(c->s)) {
        return ERR_AGAIN; /* it has not been read to its end */
    }
    e = e == OK ? apply(c) : e;
    return e == OK ? note_changes(c) : e;
}

/* What ends the job, not only the work on one run or partition. */
static bool is_over(const struct cleaning *c, enum err e)
{
    return e == ERR_NOMEM || cleaner_stopping(c->s) || store_state(c->s) != STORE_OK;
}

static enum err clean_runs(struct cleaning *c)
{
    for (size_t i = 0; i < c->c->run_count && c->c->part_count > 0; i++) {
        cleaner_drop_wanted(c->s);
        c->part = NULL;
        c->run = &c->c->runs[i];
        enum err e = clean_run(c);
        if (is_over(c, e)) {
            return e != OK ? e : ERR_AGAIN;
        }
        if (e != OK) {
            run_failed(c);
        }
    }
    return OK;
}

/* --- the map ---------------------------------------------------------------------------------- */

/* *full: it could not take all keys. (Those that it took are of records that are there, so what
 * they supersede may go.) */
static enum err map_batch(struct cleaning *c, struct slice batch, const struct batch_header *h,
                          bool *full)
{
    struct slice records;
    if (h->record_count == 0 || (h->attributes & BATCH_CONTROL) || is_aborted(c->part, h)) {
        return OK;
    }
    enum err e = batch_plain(batch, &c->plain, &records, &c->m);
    if (e != OK) {
        return e == ERR_NOMEM ? e : OK; /* it stays, whatever it is */
    }
    struct record_cursor at = record_cursor_make(records, h->record_count);
    struct raw_record r;
    while (!*full && record_next(&at, &r, NULL) == OK) {
        *full = r.key.data && !key_map_put(c->map, c->part->uid, r.key,
                                           h->base_offset + r.offset_delta);
    }
    return OK;
}

static int64_t log_start(struct store *s, uint32_t uid)
{
    return atomic_load(&atomic_load(&s->page)->entries[uid].log_start);
}

/* There was nothing to be read: rows below a new log start go a moment before the page has it. */
static bool start_moves(int *tries)
{
    nanosleep(&(struct timespec){.tv_nsec = START_PAUSE_NS}, NULL);
    return ++*tries < START_TRIES;
}

/* The dirty keys of c->part. Ends where the map is full: *full; or where it cannot be read, and
 * fails when that is at once. ERR_NOMEM, ERR_AGAIN: the job is over. */
static enum err map_part(struct cleaning *c, bool *full)
{
    struct clean_part *p = c->part;
    int64_t at = p->from;
    bool was_empty = key_map_empty(c->map);
    int tries = 0;
    enum err e = OK;
    while (e == OK && at < p->end && !*full) {
        struct store_slices *x;
        enum read_gap gap;
        cleaner_drop_wanted(c->s);
        int64_t start = log_start(c->s, p->uid);
        if (at < start) {
            at = p->from = start; /* what was there may be gone */
            continue;
        }
        e = read_once(c->s, c->s->rocks, p->uid, at, p->end, MAP_READ_BYTES, true, &x, &gap, &c->m);
        if (e != OK) {
            break;
        }
        for (size_t i = 0; i < x->count && e == OK && !*full; i++) {
            struct batch_header h;
            struct slice batch = slice_make(x->iov[i].iov_base, x->iov[i].iov_len);
            e = batch_read_header(batch, &h);
            e = e == OK ? map_batch(c, batch, &h, full) : e;
            at = e == OK && !*full ? batch_next_offset(&h) : at;
        }
        if (x->count == 0 && e == OK && !start_moves(&tries)) {
            e = err_set(&c->m, ERR_NOT_FOUND, "there is nothing at %lld", (long long)at);
        }
        store_slices_free(x);
        if (cleaner_stopping(c->s)) {
            return ERR_AGAIN;
        }
    }
    p->end = at;
    p->mapped = at > p->from;
    if (*full && !p->mapped && e == OK && was_empty) {
        e = err_set(&c->m, ERR_TOO_LARGE, "the batch at %lld has more keys than can be known",
                    (long long)at);
    }
    if (e != OK && e != ERR_NOMEM && !p->mapped) {
        part_failed(c, p);
    }
    return e == ERR_NOMEM ? e : OK;
}

static int compare_parts(const void *a, const void *b)
{
    const struct clean_part *x = a, *y = b;
    return x->mapped != y->mapped ? (x->mapped ? -1 : 1)
           : x->uid != y->uid     ? (x->uid < y->uid ? -1 : 1)
                                  : 0;
}

/* Maps the parts, dirtiest first. Those of which nothing found room are none of the job any more:
 * they are put behind the others. */
static enum err map_all(struct cleaning *c)
{
    struct compaction *k = c->c;
    bool full = false;
    enum err e = OK;
    size_t n = 0;
    for (size_t i = 0; i < k->found_count && e == OK && !full; i++) {
        struct clean_part *p = c->part = &k->parts[i];
        if (p->aborted_count > 0) {
            qsort(p->aborted, p->aborted_count, sizeof *p->aborted, compare_aborted);
        }
        e = map_part(c, &full);
        n += p->mapped;
    }
    k->part_count = n;
    qsort(k->parts, k->found_count, sizeof *k->parts, compare_parts);
    return e;
}

/* --- public ----------------------------------------------------------------------------------- */

void compaction_free(struct compaction *k)
{
    if (k) {
        for (size_t i = 0; i < k->found_count; i++) {
            free(k->parts[i].aborted);
        }
        free(k->parts);
        free(k->runs);
        free(k);
    }
}

void compaction_run(struct store *s, struct compaction *k)
{
    struct cleaning c = {.s = s, .c = k};
    c.map = key_map_new(s->o.clean_map_bytes ? s->o.clean_map_bytes : CLEAN_MAP_BYTES_DEFAULT);
    c.plan = plan_new();
    c.read = rocksdb_readoptions_create();
    rocksdb_readoptions_set_verify_checksums(c.read, 1);
    rocksdb_readoptions_set_fill_cache(c.read, 0);
    rocksdb_readoptions_set_ignore_range_deletions(c.read, 1);
    buf_init(&c.plain, WALK_BYTES_MAX);
    buf_init(&c.out, INT32_MAX);
    buf_init(&c.held.bytes, INT32_MAX);
    c.tallies = calloc(k->found_count + 1, sizeof *c.tallies);
    k->failed = c.map && c.plan && c.tallies ? map_all(&c) : ERR_NOMEM;
    buf_fini(&c.plain); /* a batch may have decompressed to 128 MB: not for the whole job */
    k->failed = k->failed == OK ? clean_runs(&c) : k->failed;
    if (k->failed != OK && !cleaner_stopping(s)) {
        log_warn("store could not compact dir=%s why=%s %s", s->dir, err_name(k->failed),
                 c.m.text);
    }
    buf_fini(&c.out);
    buf_fini(&c.held.bytes);
    free(c.tallies);
    free(c.changes.all);
    plan_unref(c.plan);
    key_map_free(c.map);
    rocksdb_readoptions_destroy(c.read);
}
