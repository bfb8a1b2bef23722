/* Kafka record batches, format v2 (magic 2): build, look at, validate, walk.
 *
 * Layout, big endian (Kafka protocol, "Record Batch"):
 *
 *    0 baseOffset i64            | 27 baseTimestamp i64 (23 lastOffsetDelta i32)
 *    8 batchLength i32           | 35 maxTimestamp i64
 *   12 partitionLeaderEpoch i32  | 43 producerId i64
 *   16 magic i8 = 2              | 51 producerEpoch i16
 *   17 crc u32                   | 53 baseSequence i32
 *   21 attributes i16            | 57 record count i32 | 61 records
 *
 * batchLength counts from byte 12. The CRC-32C covers byte 21 to the end, so baseOffset and
 * partitionLeaderEpoch are patched at append without touching it.
 * A batch is one allocation, one value in the store, and the very bytes on the wire. */
#ifndef CULEX_RECORD_RECORD_H
#define CULEX_RECORD_RECORD_H

#include "shared/base/buf.h"
#include "shared/base/bytes.h"
#include "shared/base/err.h"

#define BATCH_HEADER_BYTES      61
#define BATCH_LENGTH_OFFSET     12 /* bytes before the part that batchLength counts */
#define BATCH_CRC_OFFSET        17
#define BATCH_ATTRIBUTES_OFFSET 21

#define BATCH_MAGIC 2

#define BATCH_CODEC_MASK       0x07
#define BATCH_TIMESTAMP_APPEND 0x08
#define BATCH_TRANSACTIONAL    0x10
#define BATCH_CONTROL          0x20
#define BATCH_DELETE_HORIZON   0x40 /* KIP-534: base timestamp is when tombstones may go */
#define BATCH_ATTRIBUTES_MASK  0x7f /* all that have a meaning */

/* What a batch may hold decompressed: more is not accepted, and not looked into. */
#define BATCH_PLAIN_BYTES_MAX (128u << 20)

enum batch_codec { /* in the attributes, under BATCH_CODEC_MASK */
    BATCH_CODEC_NONE,
    BATCH_CODEC_GZIP,
    BATCH_CODEC_SNAPPY,
    BATCH_CODEC_LZ4,
    BATCH_CODEC_ZSTD,
};

struct batch_header {
    int64_t base_offset;
    int32_t batch_length;
    int32_t leader_epoch;
    int8_t magic;
    uint32_t crc;
    int16_t attributes;
    int32_t last_offset_delta;
    int64_t base_timestamp;
    int64_t max_timestamp;
    int64_t producer_id;
    int16_t producer_epoch;
    int32_t base_sequence;
    int32_t record_count;
};

struct record_header {
    struct slice key;
    struct slice value; /* data NULL: null */
};

struct record {
    int64_t offset;    /* absolute, when walked; ignored when built */
    int64_t timestamp; /* ms since 1970 */
    struct slice key;   /* data NULL: null */
    struct slice value; /* data NULL: null; data not NULL and len 0: empty */
    const struct record_header *headers;
    uint32_t header_count;
};

/* --- build: uncompressed, producerId -1, CreateTime ------------------------------------------- */

struct batch_builder {
    struct buf buf; /* the whole batch; header filled by batch_finish */
    int64_t base_timestamp;
    int64_t max_timestamp;
    int32_t count;
};

void batch_builder_init(struct batch_builder *b, size_t bytes_max);
void batch_builder_fini(struct batch_builder *b);
void batch_builder_reset(struct batch_builder *b);
/* Bytes that r would add at most, beside the batch's header. */
size_t record_size_max(const struct record *r);
/* ERR_TOO_LARGE: would pass bytes_max or RECORD_HEADERS_MAX; ERR_NOMEM. The batch is unchanged
 * then. */
enum err batch_add(struct batch_builder *b, const struct record *r) MUST_CHECK;
/* Fills the header (baseOffset 0, partitionLeaderEpoch 0) and the CRC. Borrowed until reset.
 * Nothing added: an empty slice. */
struct slice batch_finish(struct batch_builder *b);

/* Level for the codec's own default, wherever a level is asked for. */
#define BATCH_LEVEL_DEFAULT INT32_MIN

/* --- look at ---------------------------------------------------------------------------------- */

/* Needs BATCH_HEADER_BYTES; checks nothing but that they are there. */
enum err batch_read_header(struct slice batch, struct batch_header *h) MUST_CHECK;
/* Bytes of the whole batch as its header says. */
static inline size_t batch_total_bytes(const struct batch_header *h)
{
    return (size_t)h->batch_length + BATCH_LENGTH_OFFSET;
}
static inline int64_t batch_next_offset(const struct batch_header *h)
{
    return h->base_offset + h->last_offset_delta + 1;
}
/* Where a record with this delta lies. */
static inline int64_t batch_offset_of(const struct batch_header *h, int32_t delta)
{
    return (int64_t)((uint64_t)h->base_offset + (uint64_t)(int64_t)delta);
}
/* When a record with this delta happened: with LogAppendTime, when its batch was appended. */
static inline int64_t batch_timestamp_of(const struct batch_header *h, int64_t delta)
{
    return h->attributes & BATCH_TIMESTAMP_APPEND
               ? h->max_timestamp
               : (int64_t)((uint64_t)h->base_timestamp + (uint64_t)delta);
}
void batch_set_base_offset(uint8_t *batch, int64_t offset);
void batch_set_leader_epoch(uint8_t *batch, int32_t epoch);

/* Size, magic, CRC, codec, counts: ERR_CORRUPT with a sentence. Does not look into the records. */
enum err batch_check(struct slice batch, struct errmsg *m) MUST_CHECK;

/* --- walk ------------------------------------------------------------------------------------- */

#define RECORD_HEADERS_MAX 1024 /* of one record; more is ERR_TOO_LARGE */

/* Calls fn for each record, in order, until it returns false. Slices are borrowed for the call.
 * Uncompressed, gzip, snappy (raw and xerial), lz4, zstd; a decompressed batch over bytes_max is
 * ERR_TOO_LARGE; malformed records are ERR_CORRUPT. */
typedef bool record_fn(void *arg, const struct record *r);
enum err batch_walk(struct slice batch, size_t bytes_max, record_fn *fn, void *arg,
                    struct errmsg *m) MUST_CHECK;

/* --- walk without looking into headers -------------------------------------------------------- */

/* A record as its bytes lie in the (decompressed) batch: what validation and rewriting need. */
struct raw_record {
    int64_t timestamp_delta;
    int32_t offset_delta;
    int32_t header_count; /* any number: none of them is kept */
    struct slice key;     /* data NULL: null */
    struct slice value;   /* data NULL: null */
    struct slice rest;    /* from the key's length to the last header's end, the way they came */
};

struct record_cursor {
    struct reader in;
    int32_t index; /* of the next record */
    int32_t count;
};

/* Records of a batch as they are when decompressed, and their count by its header. */
struct record_cursor record_cursor_make(struct slice plain, int32_t count);
/* The next record. ERR_NOT_FOUND: there are no more, and no byte is left over. ERR_CORRUPT: a
 * record is malformed, missing, or not the last thing. Deltas are as they came: neither dense nor
 * rising by anybody's word. */
enum err record_next(struct record_cursor *c, struct raw_record *r, struct errmsg *m) MUST_CHECK;

/* Calls fn for each record, in order, until it returns false, whatever headers there are. Offset
 * deltas rise and stay within the batch. Errors as batch_walk's, but for too many headers. */
typedef bool raw_record_fn(void *arg, const struct batch_header *h, const struct raw_record *r);
enum err batch_scan(struct slice batch, size_t bytes_max, raw_record_fn *fn, void *arg,
                    struct errmsg *m) MUST_CHECK;

/* The records of a batch that batch_check accepts: within the batch, or decompressed into plain
 * (emptied first). Errors as batch_walk's. */
enum err batch_plain(struct slice batch, struct buf *plain, struct slice *records,
                     struct errmsg *m) MUST_CHECK;

/* --- partitioning ----------------------------------------------------------------------------- */

/* Java's murmur2 as Kafka's default partitioner uses it. */
uint32_t murmur2(const void *data, size_t len);
/* (murmur2(key) & 0x7fffffff) % partitions */
int32_t partition_of_key(struct slice key, int32_t partitions);

#endif
