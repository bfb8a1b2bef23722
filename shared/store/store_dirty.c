/* What is to be compacted, and what came of it: the writing thread's half of compaction.
 *
 *   log start      clean.to        end of what may be cleaned      end
 *       ├─── live ────┼──────── dirty ────────┤                     │
 *
 * As in Kafka, a partition is cleaned when dirty / (live + dirty) bytes is above its
 * min.cleanable.dirty.ratio, or when its first dirty batch is older than max.compaction.lag.ms; the
 * dirtiest first. What lies in the open segment, is younger than min.compaction.lag.ms (judged by
 * index rows, a megabyte each), or is not stable yet (store_set_stability) is left alone.
 *
 * One job takes many partitions, because rewriting a segment costs the same for one or for all that
 * have something in it. And because a segment is everybody's, one dead record in it makes all of it
 * be written again: a small table beside a large stream would keep the disk as busy as the stream
 * does. So a job that has written much for little is followed by a rest, until enough has come
 * together, or time has passed. What is late does not wait. (To leave such a segment out is not an
 * answer: a value would stay that a tombstone deletes, which goes one day.) */
#include "shared/store/store_int.h"

#define CLEAN_PARTS_MAX    1024 /* of one job */
#define LAG_ROWS_MAX       1024 /* index rows looked at for the lags of one partition */
#define LATE               2 /* as a ratio */
#define REST_GAIN          4 /* a job may write so much for a byte that goes */
#define REST_BYTES_PER_MS  4096
#define REST_MS_MIN        1000
#define REST_MS_MAX        86400000
#define LATE_READS_MAX     16 /* of first batches in one look: a disk may take 10 ms for each */
#define LATE_READ_BYTES    (16u << 10)
#define LATE_ROWS_MAX      64
#define LATE_AGAIN_MS      60000
#define APPLY_ENTRIES_MAX  65536 /* entries of segments written anew in one tick, or one segment */
#define UNCLEAN_MS         600000 /* a partition that failed is left alone; doubles each time */
#define UNCLEAN_MS_MAX     86400000
#define DIRTY_RATIO        0.5  /* Kafka's defaults */
#define DELETE_RETENTION_MS 86400000

static const struct store_compaction defaults = {.given = true,
                                                 .min_cleanable_dirty_ratio = DIRTY_RATIO,
                                                 .max_compaction_lag_ms = INT64_MAX,
                                                 .delete_retention_ms = DELETE_RETENTION_MS};

void store_set_stability(struct store *s, store_stability_fn *fn, void *arg)
{
    s->stability = fn;
    s->stability_arg = arg;
}

static const struct store_compaction *settings_of(const struct part *p)
{
    return p->topic->compaction.given ? &p->topic->compaction : &defaults;
}

enum err store_cleaned(struct store *s, uint32_t uid, int64_t *to, int64_t *delete_retention_ms)
{
    const struct part *p = part_get(s, uid);
    if (!p || !p->topic) {
        return ERR_NOT_FOUND;
    }
    *to = p->clean.to;
    *delete_retention_ms = settings_of(p)->delete_retention_ms;
    return OK;
}

/* --- rows ------------------------------------------------------------------------------------- */

enum err dirty_load(struct store *s, rocksdb_iterator_t *it, struct errmsg *m)
{
    uint8_t prefix = ROW_CLEAN;
    for (iter_seek(it, &prefix, 1); rocksdb_iter_valid(it); rocksdb_iter_next(it)) {
        struct slice k = iter_key(it), v = iter_value(it);
        if (k.len != UID_KEY_BYTES || k.data[0] != ROW_CLEAN) {
            break;
        }
        uint32_t uid = be32_get(k.data + 1);
        if (v.len == CLEAN_ROW_BYTES && uid < s->next_uid) {
            part_get(s, uid)->clean = (struct clean_state){
                (int64_t)be64_get(v.data), be64_get(v.data + 8), be64_get(v.data + 16)};
        }
    }
    return iter_error(it, s->dir, m);
}

static void put_clean_row(struct store *s, rocksdb_writebatch_t *b, uint32_t uid,
                          const struct clean_state *c)
{
    uint8_t key[UID_KEY_BYTES], v[CLEAN_ROW_BYTES];
    uid_key_put(key, ROW_CLEAN, uid);
    be64_put(v, (uint64_t)c->to);
    be64_put(v + 8, c->bytes_at);
    be64_put(v + 16, c->live);
    batch_put(s->rocks, b, CF_META, slice_make(key, sizeof key), slice_make(v, sizeof v));
}

/* Bytes of the partition at an offset: by the last row at or below it. */
static uint64_t bytes_at(rocksdb_iterator_t *rows, uint32_t uid, int64_t offset)
{
    uint8_t key[INDEX_KEY_BYTES];
    struct index_row row;
    index_key_put(key, uid, offset);
    rocksdb_iter_seek_for_prev(rows, (const char *)key, sizeof key);
    return rocksdb_iter_valid(rows) && index_row_get(&row, iter_key(rows), iter_value(rows), uid)
               ? row.bytes
               : 0;
}

/* --- retention of what was cleaned ------------------------------------------------------------ */

/* Index rows count what was appended. How much is left of the clean part from `offset` on is taken
 * to be its share of all that is left, as if what went had been spread evenly. */
static uint64_t share(rocksdb_iterator_t *rows, uint32_t uid, const struct clean_state *c,
                      int64_t start, int64_t offset)
{
    uint64_t from = bytes_at(rows, uid, start), at = bytes_at(rows, uid, offset);
    if (offset >= c->to || at >= c->bytes_at || from >= c->bytes_at) {
        return 0;
    }
    double part = (double)(c->bytes_at - at) / (double)(c->bytes_at - from);
    return part < 1 ? (uint64_t)((double)c->live * part) : c->live;
}

uint64_t dirty_bytes_from(struct store *s, rocksdb_iterator_t *rows, uint32_t uid, int64_t start,
                          const struct index_row *row)
{
    const struct part *p = part_get(s, uid);
    return row->offset >= p->clean.to
               ? p->now.bytes - row->bytes
               : p->now.bytes - p->clean.bytes_at + share(rows, uid, &p->clean, start, row->offset);
}

void dirty_start_raised(struct store *s, rocksdb_iterator_t *rows, rocksdb_writebatch_t *b,
                        uint32_t uid, int64_t from, int64_t to)
{
    struct part *p = part_get(s, uid);
    if (from < p->clean.to) {
        p->clean.live = share(rows, uid, &p->clean, from, to);
        put_clean_row(s, b, uid, &p->clean);
    }
}

/* --- what is dirty ---------------------------------------------------------------------------- */

struct dirty {
    int64_t from, end;
    uint64_t bytes; /* of [from, end) */
};

/* Ends it before what is too young. */
static void end_by_lag(struct dirty *d, rocksdb_iterator_t *rows, uint32_t uid, int64_t young_ms)
{
    uint8_t key[INDEX_KEY_BYTES];
    struct index_row row;
    uint64_t first_bytes = bytes_at(rows, uid, d->from);
    int64_t end = d->from;
    d->bytes = 0;
    index_key_put(key, uid, d->from + 1);
    iter_seek(rows, key, sizeof key);
    for (int i = 0; i < LAG_ROWS_MAX && rocksdb_iter_valid(rows); i++, rocksdb_iter_next(rows)) {
        if (!index_row_get(&row, iter_key(rows), iter_value(rows), uid) || row.offset > d->end ||
            row.max_ts > young_ms) {
            break;
        }
        end = row.offset;
        d->bytes = row.bytes - first_bytes;
    }
    d->end = end;
}

/* The time of the first batch from `from` on that has one. Kafka goes by the first ones of
 * segments; what compaction has emptied has none, so the next one counts, or, where many have none,
 * a bound of what lies behind them. INT64_MAX: there is none. */
static enum err first_time(struct store *s, rocksdb_iterator_t *rows, uint32_t uid, int64_t from,
                           int64_t *ts)
{
    struct store_slices *x;
    struct batch_header h;
    struct index_row row;
    enum read_gap gap;
    uint8_t key[INDEX_KEY_BYTES];
    const struct part *p = part_get(s, uid);
    *ts = INT64_MAX;
    enum err e =
        read_once(s, s->rocks, uid, from, p->now.end, LATE_READ_BYTES, true, &x, &gap, NULL);
    if (e != OK) {
        return e;
    }
    size_t count = x->count;
    for (size_t i = 0; i < count && *ts == INT64_MAX; i++) {
        e = batch_read_header(slice_make(x->iov[i].iov_base, x->iov[i].iov_len), &h);
        *ts = e == OK && h.max_timestamp > 0 ? h.max_timestamp : INT64_MAX;
    }
    store_slices_free(x);
    index_key_put(key, uid, from + 1);
    iter_seek(rows, key, sizeof key);
    for (int i = 0; i < LATE_ROWS_MAX && *ts == INT64_MAX && rocksdb_iter_valid(rows); i++) {
        if (!index_row_get(&row, iter_key(rows), iter_value(rows), uid)) {
            break;
        }
        *ts = row.max_ts > 0 ? row.max_ts : INT64_MAX;
        rocksdb_iter_next(rows);
    }
    return count > 0 ? OK : ERR_NOT_FOUND;
}

/* Has its first dirty batch waited for longer than max.compaction.lag.ms? It is read once, and of
 * few partitions in one look, for this thread has others to serve; the next look goes on behind
 * them. What cannot be read is not late, and is tried again after a while. */
static bool is_late(struct store *s, rocksdb_iterator_t *rows, uint32_t uid, int64_t from,
                    int64_t now_ms)
{
    struct part *p = part_get(s, uid);
    bool known = p->dirty_from == from + 1;
    bool rests = p->dirty_ts == INT64_MAX && now_ms < p->dirty_again_ms &&
                 p->dirty_again_ms - now_ms <= LATE_AGAIN_MS;
    bool may = s->late_place >= s->late_from && s->late_reads < LATE_READS_MAX;
    if (!(known && (p->dirty_ts != INT64_MAX || rests)) && may) {
        if (++s->late_reads == LATE_READS_MAX) {
            s->late_from = s->late_place + 1;
        }
        p->dirty_from = from + 1;
        if (first_time(s, rows, uid, from, &p->dirty_ts) != OK) {
            p->dirty_ts = INT64_MAX;
        }
        p->dirty_again_ms = now_ms + LATE_AGAIN_MS;
        known = true;
    }
    return known && p->dirty_ts < now_ms - settings_of(p)->max_compaction_lag_ms;
}

/* Cleaning it has failed a while ago, by a clock that has not gone back since. */
static bool is_left_alone(const struct part *p, int64_t now_ms)
{
    return now_ms < p->unclean_until_ms && p->unclean_until_ms - now_ms <= p->unclean_ms;
}

static bool dirty_of(struct store *s, rocksdb_iterator_t *rows, uint32_t uid, int64_t now_ms,
                     struct clean_part *out)
{
    struct part *p = part_get(s, uid);
    const struct store_compaction *c = settings_of(p);
    struct dirty d = {.from = p->clean.to > p->start ? p->clean.to : p->start};
    d.end = p->active ? p->now.segment_offset : p->now.end;
    uint64_t bytes = p->active ? p->now.segment_bytes_at : p->now.bytes;
    if (d.end <= d.from || bytes <= p->clean.bytes_at || is_left_alone(p, now_ms)) {
        return false;
    }
    d.bytes = bytes - p->clean.bytes_at;
    uint64_t live = p->clean.to > p->start ? p->clean.live : 0;
    double ratio = (double)d.bytes / (double)(d.bytes + live);
    bool late = c->max_compaction_lag_ms < INT64_MAX &&
                is_late(s, rows, uid, d.from, now_ms);
    if (ratio <= c->min_cleanable_dirty_ratio && !late) {
        return false;
    }
    if (c->min_compaction_lag_ms > 0) {
        end_by_lag(&d, rows, uid, now_ms - c->min_compaction_lag_ms);
        ratio = d.bytes > 0 ? (double)d.bytes / (double)(d.bytes + live) : 0;
    }
    if (d.end <= d.from || (ratio <= c->min_cleanable_dirty_ratio && !late)) {
        return false;
    }
    *out = (struct clean_part){.uid = uid,
                               .start = p->start,
                               .from = d.from,
                               .end = d.end,
                               .delete_retention_ms = c->delete_retention_ms,
                               .dirty = d.bytes,
                               .ratio = late ? LATE : ratio};
    return true;
}

/* Ends it at the last stable offset. False: nothing is left. */
static bool stable_part(struct store *s, struct clean_part *p)
{
    struct store_stability st = {.last_stable = INT64_MAX};
    if (s->stability && s->stability(s->stability_arg, p->uid, &st) != OK) {
        return false;
    }
    p->end = st.last_stable < p->end ? st.last_stable : p->end;
    if (p->end <= p->from) {
        free(st.aborted);
        return false;
    }
    p->aborted = st.aborted;
    p->aborted_count = st.aborted_count;
    return true;
}

static int compare_ratios(const void *a, const void *b)
{
    double x = ((const struct clean_part *)a)->ratio, y = ((const struct clean_part *)b)->ratio;
    return x > y ? -1 : x < y;
}

/* All parts that are dirty, the dirtiest first. */
static enum err find_dirty(struct store *s, rocksdb_iterator_t *rows, int64_t now_ms,
                           struct clean_part **out, size_t *count)
{
    size_t cap = 0;
    for (size_t i = 0; i < s->catalog->count; i++) {
        const struct store_topic *t = &s->catalog->topics[i];
        int32_t partitions = t->cleanup & STORE_CLEANUP_COMPACT ? t->partition_count : 0;
        for (int32_t p = 0; p < partitions; p++, s->late_place++) {
            struct clean_part found;
            if (!dirty_of(s, rows, store_topic_uid(t, p), now_ms, &found)) {
                continue;
            }
            if (*count == cap) {
                cap = cap ? cap * 2 : 16;
                struct clean_part *grown = realloc(*out, cap * sizeof *grown);
                if (!grown) {
                    return ERR_NOMEM;
                }
                *out = grown;
            }
            (*out)[(*count)++] = found;
        }
    }
    if (*count > 0) {
        qsort(*out, *count, sizeof **out, compare_ratios);
    }
    return OK;
}

/* A job has written much for little a while ago, and what has come together since is little,
 * too. */
static bool rests(const struct store *s, const struct clean_part *parts, size_t count,
                  int64_t now_ms)
{
    uint64_t dirty = 0;
    for (size_t i = 0; i < count; i++) {
        dirty += parts[i].dirty;
    }
    return now_ms < s->rest_until_ms && s->rest_until_ms - now_ms <= s->rest_ms &&
           dirty * REST_GAIN < s->rest_bytes;
}

/* The dirtiest parts of which something is stable, in k->parts. */
static enum err find_parts(struct store *s, rocksdb_iterator_t *rows, int64_t now_ms,
                           struct compaction *k)
{
    size_t count = 0;
    enum err e = find_dirty(s, rows, now_ms, &k->parts, &count);
    if (count > 0 && space_check(s, NULL) != OK) {
        return e; /* a rewrite needs room for a segment */
    }
    bool rest = rests(s, k->parts, count, now_ms);
    for (size_t i = 0; i < count && e == OK && k->found_count < CLEAN_PARTS_MAX; i++) {
        struct clean_part p = k->parts[i];
        if (rest && p.ratio < LATE) {
            break;
        }
        if (stable_part(s, &p)) {
            p.start_bytes = bytes_at(rows, p.uid, p.start);
            k->parts[k->found_count++] = p;
        }
    }
    return e;
}

enum err dirty_find(struct store *s, rocksdb_iterator_t *rows, int64_t now_ms,
                    struct compaction **out)
{
    struct compaction *k = calloc(1, sizeof *k);
    if (!k) {
        return ERR_NOMEM;
    }
    k->now_ms = now_ms;
    bool all = s->late_from == 0;
    s->late_reads = 0;
    s->late_place = 0;
    enum err e = find_parts(s, rows, now_ms, k);
    if (s->late_reads == LATE_READS_MAX || !all) {
        s->dirty_look_ms = now_ms; /* there are more: with the next tick */
    }
    if (s->late_reads < LATE_READS_MAX) {
        s->late_from = 0;
    }
    if (e == OK && k->found_count > 0) {
        k->runs = calloc(s->segment_count + 1, sizeof *k->runs);
        e = k->runs ? OK : ERR_NOMEM;
    }
    if (e != OK || k->found_count == 0) {
        compaction_free(k);
        return e;
    }
    for (size_t i = 0; i < s->segment_count; i++) {
        k->runs[k->run_count++] = (struct clean_run){s->segments[i].from, s->segments[i].number};
    }
    *out = k;
    return OK;
}

/* --- what was done ---------------------------------------------------------------------------- */

/* The row of a segment, with what is left of these partitions in it. *count becomes how many
 * entries it has. */
static enum err resize_segment(struct store *s, rocksdb_iterator_t *rows, rocksdb_writebatch_t *b,
                               struct segment *g, const struct clean_change *changes, size_t n,
                               size_t *count)
{
    struct segment_entry *entries;
    enum err e = segment_load(rows, g->number, &entries, count);
    if (e != OK) {
        return e == ERR_NOT_FOUND ? OK : e;
    }
    size_t next = 0;
    s->closed_bytes -= g->bytes < s->closed_bytes ? g->bytes : s->closed_bytes;
    g->bytes = 0;
    for (size_t i = 0; i < *count; i++) {
        if (next < n && entries[i].uid == changes[next].uid) {
            entries[i].bytes = changes[next++].left;
        }
        g->bytes += entries[i].bytes;
    }
    s->closed_bytes += g->bytes;
    e = segment_put(s, b, g, entries, *count);
    free(entries);
    return e;
}

static struct segment *segment_find(struct store *s, uint32_t number)
{
    size_t lo = 0, hi = s->segment_count;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (s->segments[mid].number < number) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo < s->segment_count && s->segments[lo].number == number ? &s->segments[lo] : NULL;
}

static void part_cleaned(struct store *s, rocksdb_iterator_t *rows, rocksdb_writebatch_t *b,
                         const struct clean_part *done, int64_t now_ms)
{
    struct part *p = part_get(s, done->uid);
    if (done->failed) {
        p->unclean_ms = p->unclean_ms == 0                  ? UNCLEAN_MS
                        : p->unclean_ms < UNCLEAN_MS_MAX / 2 ? p->unclean_ms * 2
                                                             : UNCLEAN_MS_MAX;
        p->unclean_until_ms = now_ms + p->unclean_ms;
    } else if (p->topic && done->mapped) {
        p->unclean_ms = 0;
        uint64_t end_bytes = bytes_at(rows, done->uid, done->end);
        p->clean = (struct clean_state){done->end, end_bytes, done->bytes};
        if (p->start > done->start && end_bytes > done->start_bytes) { /* it has moved meanwhile */
            uint64_t cut = bytes_at(rows, done->uid, p->start);
            uint64_t left = cut < end_bytes && p->start < done->end ? end_bytes - cut : 0;
            p->clean.live = (uint64_t)((double)done->bytes * (double)left /
                                       (double)(end_bytes - done->start_bytes));
        }
        put_clean_row(s, b, done->uid, &p->clean);
        tail_forget(s, done->uid, done->end);
    }
}

/* Deletes a key of the open segment that nothing has. A follower that has replayed the log before
 * it was compacted reads from that memtable, in which all is as it was, until it meets something
 * for its family in a later file of the WAL. Without this that would be the next record, and there
 * may be none for days. */
static void end_memtables_of_followers(struct store *s, rocksdb_writebatch_t *b)
{
    uint8_t key[LOG_KEY_BYTES];
    log_key_put(key, s->segment, UINT32_MAX, -1);
    rocksdb_writebatch_delete_cf(b, s->rocks->cf[CF_LOG], (const char *)key, sizeof key);
}

enum err dirty_apply(struct store *s, rocksdb_iterator_t *rows, rocksdb_writebatch_t *b, bool *all)
{
    enum err e = OK;
    size_t entries = 0;
    struct clean_changes *c = &s->changes;
    while (entries < APPLY_ENTRIES_MAX && e == OK && cleaner_take_changes(s)) {
        const struct clean_change *first = &c->all[c->applied];
        size_t n = 1, count = 0;
        while (c->applied + n < c->count && first[n].number == first->number) {
            n++;
        }
        struct segment *g = segment_find(s, first->number);
        if (g) { /* not dropped meanwhile */
            e = resize_segment(s, rows, b, g, first, n, &count);
        }
        entries += count;
        c->applied += n;
    }
    *all = !cleaner_take_changes(s);
    return e;
}

void dirty_done(struct store *s, rocksdb_iterator_t *rows, rocksdb_writebatch_t *b,
                struct compaction *k, int64_t now_ms)
{
    for (size_t i = 0; i < k->found_count && k->failed == OK; i++) {
        part_cleaned(s, rows, b, &k->parts[i], now_ms);
    }
    end_memtables_of_followers(s, b);
    uint64_t worth = k->gained * REST_GAIN;
    s->rest_bytes = k->rewritten > worth ? k->rewritten - worth : 0;
    uint64_t ms = s->rest_bytes / REST_BYTES_PER_MS;
    s->rest_ms = ms < REST_MS_MIN ? 0 : ms < REST_MS_MAX ? (int64_t)ms : REST_MS_MAX;
    s->rest_until_ms = now_ms + s->rest_ms;
}
