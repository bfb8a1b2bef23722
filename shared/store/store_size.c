/* How large a partition is.
 *
 * The index rows count bytes from the partition's beginning, so two of them say what lies between.
 * What came after the last row, about a megabyte at most, is read and added up.
 *
 *      i@0 bytes 0    i@900 bytes 1.0M     i@1700 bytes 2.1M         end
 *   ─────┼──────────────┼───────▲────────────┼────────────────────────┤
 *                               └ log start
 *                       ├ 2.1M - 1.0M ───────┼ read ──────────────────┤
 *
 * So what is deleted already and lies in the same interval as the log start is counted, as Kafka
 * counts what is left of a segment.
 *
 * Rows count what was appended. Of what compaction has cleaned, the partition's clean row says what
 * is left; the index rows then count from there on. */
#include "shared/store/store_int.h"

#define SIZE_READ_BYTES (1u << 20) /* of one read */

/* The last row at or below the offset; false: none can be seen. */
static bool row_before(rocksdb_iterator_t *it, uint32_t uid, int64_t offset, struct index_row *row)
{
    uint8_t key[INDEX_KEY_BYTES];
    index_key_put(key, uid, offset);
    rocksdb_iter_seek_for_prev(it, (const char *)key, sizeof key);
    return rocksdb_iter_valid(it) && index_row_get(row, iter_key(it), iter_value(it), uid);
}

/* How far the partition is clean; false: compaction has not seen it. */
static bool clean_row(rocksdb_iterator_t *it, uint32_t uid, struct clean_state *c)
{
    uint8_t key[UID_KEY_BYTES];
    uid_key_put(key, ROW_CLEAN, uid);
    iter_seek(it, key, sizeof key);
    if (!rocksdb_iter_valid(it)) {
        return false;
    }
    struct slice k = iter_key(it), v = iter_value(it);
    if (k.len != sizeof key || memcmp(k.data, key, sizeof key) != 0 || v.len != CLEAN_ROW_BYTES) {
        return false;
    }
    *c = (struct clean_state){(int64_t)be64_get(v.data), be64_get(v.data + 8),
                              be64_get(v.data + 16)};
    return true;
}

/* What the rows know; *from is where they end. */
static enum err count_rows(struct store *s, uint32_t uid, const struct store_offsets *o,
                           uint64_t *bytes, int64_t *from, struct errmsg *m)
{
    struct rocks *r = store_rocks(s);
    if (!r) {
        return err_set(m, ERR_AGAIN, "store %s is being opened again", s->dir);
    }
    rocksdb_iterator_t *it = rocksdb_create_iterator_cf(r->db, r->read_cached, r->cf[CF_META]);
    struct index_row first, last;
    struct clean_state clean;
    uint64_t bytes_at = 0; /* where the rows are counted from */
    *from = o->log_start;
    if (clean_row(it, uid, &clean) && clean.to > o->log_start) {
        *bytes = clean.live;
        bytes_at = clean.bytes_at;
        *from = clean.to;
    } else if (row_before(it, uid, o->log_start, &first)) {
        bytes_at = first.bytes;
    }
    if (row_before(it, uid, o->end, &last) && last.offset > *from && last.bytes >= bytes_at) {
        *bytes += last.bytes - bytes_at;
        *from = last.offset;
    }
    enum err e = iter_error(it, s->dir, m);
    rocksdb_iter_destroy(it);
    rocks_unref(r);
    return e;
}

enum err store_partition_bytes(struct store *s, uint32_t uid, size_t *read_max, uint64_t *bytes,
                               struct errmsg *m)
{
    struct store_offsets o;
    int64_t from = 0;
    *bytes = 0;
    enum err e = store_offsets(s, uid, &o);
    if (e != OK) {
        return err_set(m, e, "store %s has no partition %u", s->dir, uid);
    }
    if (o.log_start == o.end) {
        return OK;
    }
    e = count_rows(s, uid, &o, bytes, &from, m);
    while (*read_max > 0 && e == OK && from < o.end) {
        struct store_slices *x;
        e = store_read(s, uid, from, SIZE_READ_BYTES, true, &x, m);
        if (e != OK) {
            break;
        }
        bool stuck = x->next <= from;
        from = x->next;
        *bytes += x->bytes;
        *read_max -= x->bytes < *read_max ? x->bytes : *read_max;
        store_slices_free(x);
        if (stuck) {
            break;
        }
    }
    return e;
}
