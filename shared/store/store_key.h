/* What a store looks like on disk. This page is the format: STORE_FORMAT_VERSION changes with it.
 *
 *   DIR/FORMAT   text: "culex store VERSION", newline, the store's id in hex, newline. Made
 *                first; read before anything else is opened, so that a store of another version or
 *                another product is never touched. A writer changes version 1 into 2, which added
 *                to the topics' rows; a follower reads both
 *   DIR/lock     locked by the writer (fcntl, open file description), holds its pid as text
 *   DIR/db       RocksDB: column families `default` (the log) and `meta`
 *   DIR/wal      RocksDB's write-ahead log
 *   DIR/page     store_page.c: ends of the partitions, shared memory
 *   DIR/tail     the tail ring: a frame is uid u32 and one batch, or uid u32 and an offset u64:
 *                what was below it has been compacted
 *
 * All numbers big endian, so that keys sort as numbers.
 *
 * log    segment u32 | uid u32 | base offset u64     → one record batch, as on the wire
 *
 * meta   'f'                                         → "culex" | version u32 | store id, 16 bytes
 *        'c'                                         → catalog version u64 | next uid u32
 *        't' uid u32                                 → topic, see store_catalog.c
 *        'e' uid u32 | epoch u32                     → first offset i64. Epoch 0 has no row
 *        'k' uid u32                                 → clean to i64 | bytes at that offset u64 |
 *                                                      bytes left below it u64. No row: 0
 *        'l' uid u32                                 → log start i64. No row: 0
 *        'i' uid u32 | offset u64                    → segment u32 | from i64 | bytes u64 |
 *                                                      max ts i64
 *        'g' segment u32                             → closed ms i64 | from u32 | count u32 |
 *                                                      count × (uid u32 | end i64 | bytes u64)
 *        'u' owner's key                             → owner's value
 *
 * An index row ('i') says three things of a partition: batches from `offset` on lie in `segment`
 * (until the next row says otherwise); below `offset` it has `bytes` bytes since its beginning; and
 * the batches of [from, offset) have no timestamp above `max ts` (INT64_MIN: there are none).
 * Compaction leaves these rows as they are: then `offset` may lie inside a batch of that segment,
 * `bytes` counts what was appended, and `max ts` is a bound.
 * `from` is the offset of the row before, so that a reader notices a row that it cannot see yet. A
 * row is written when a partition begins, when it enters another segment, about once a megabyte,
 * and when its segment closes; the last one has offset = end and is written again when the next
 * segment is known.
 *
 * A segment row ('g') is written when a segment closes, before the first batch of the next one. So
 * at most one segment has batches and no row: the one that was open when the process died. The row
 * of a run of small segments that were merged has the number of the last one, and that of the first
 * in `from`. Rows of partitions whose topic is gone mean nothing and are swept. A uid is never used
 * twice. */
#ifndef CULEX_STORE_STORE_KEY_H
#define CULEX_STORE_STORE_KEY_H

#include "shared/base/bytes.h"

enum store_row {
    ROW_CATALOG = 'c',
    ROW_EPOCH = 'e',
    ROW_FORMAT = 'f',
    ROW_SEGMENT = 'g',
    ROW_INDEX = 'i',
    ROW_CLEAN = 'k',
    ROW_LOG_START = 'l',
    ROW_TOPIC = 't',
    ROW_OWNER = 'u',
};

#define LOG_KEY_BYTES   16
#define INDEX_KEY_BYTES 13
#define UID_KEY_BYTES   5 /* 't', 'k', 'l', and 'g' with its segment */
#define EPOCH_KEY_BYTES 9

#define FORMAT_ROW_BYTES    25
#define CATALOG_ROW_BYTES   12
#define INDEX_ROW_BYTES     28
#define CLEAN_ROW_BYTES     24
#define SEGMENT_HEAD_BYTES  16
#define SEGMENT_ENTRY_BYTES 20

#define OWNER_KEY_BYTES_MAX 1024

static inline void log_key_put(uint8_t *k, uint32_t segment, uint32_t uid, int64_t offset)
{
    be32_put(k, segment);
    be32_put(k + 4, uid);
    be64_put(k + 8, (uint64_t)offset);
}

static inline void uid_key_put(uint8_t *k, enum store_row row, uint32_t uid)
{
    k[0] = (uint8_t)row;
    be32_put(k + 1, uid);
}

static inline void index_key_put(uint8_t *k, uint32_t uid, int64_t offset)
{
    uid_key_put(k, ROW_INDEX, uid);
    be64_put(k + 5, (uint64_t)offset);
}

static inline void epoch_key_put(uint8_t *k, uint32_t uid, int32_t epoch)
{
    uid_key_put(k, ROW_EPOCH, uid);
    be32_put(k + 5, (uint32_t)epoch);
}

struct index_row {
    int64_t offset;
    int64_t from;
    int64_t max_ts;
    uint64_t bytes;
    uint32_t segment;
};

static inline void index_row_put(uint8_t *v, const struct index_row *r)
{
    be32_put(v, r->segment);
    be64_put(v + 4, (uint64_t)r->from);
    be64_put(v + 12, r->bytes);
    be64_put(v + 20, (uint64_t)r->max_ts);
}

/* False: not an index row of this partition. */
static inline bool index_row_get(struct index_row *r, struct slice k, struct slice v, uint32_t uid)
{
    if (k.len != INDEX_KEY_BYTES || v.len != INDEX_ROW_BYTES || k.data[0] != ROW_INDEX ||
        be32_get(k.data + 1) != uid) {
        return false;
    }
    *r = (struct index_row){
        .offset = (int64_t)be64_get(k.data + 5),
        .segment = be32_get(v.data),
        .from = (int64_t)be64_get(v.data + 4),
        .bytes = be64_get(v.data + 12),
        .max_ts = (int64_t)be64_get(v.data + 20),
    };
    return true;
}

#endif
