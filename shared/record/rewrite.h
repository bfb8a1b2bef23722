/* Writes a batch anew from records of another one: in another codec, or with fewer records. */
#ifndef CULEX_RECORD_REWRITE_H
#define CULEX_RECORD_REWRITE_H

#include "shared/record/record.h"

/* A batch under way: records are added, then it is closed. Used in this order, each once:
 * batch_rewrite_begin, batch_rewrite_add…, batch_rewrite_end or batch_rewrite_drop. */
struct batch_rewrite {
    struct buf *out; /* the batch lies at its end */
    size_t start;
    struct buf plain; /* the records, when they have yet to be compressed */
    enum batch_codec codec;
    int32_t level;
    int64_t base_timestamp;
    int64_t max_timestamp; /* of the records added; -1: none */
    int32_t count;
};

/* base_timestamp: what deltas are counted from; usually the first record's. */
enum err batch_rewrite_begin(struct batch_rewrite *w, struct buf *out, enum batch_codec codec,
                             int32_t level, int64_t base_timestamp) MUST_CHECK;
/* A record with this offset delta and time; key, value and headers are r's. */
enum err batch_rewrite_add(struct batch_rewrite *w, const struct raw_record *r,
                           int32_t offset_delta, int64_t timestamp) MUST_CHECK;
/* Closes the batch at the end of out: h says base offset, leader epoch, attributes (but the codec),
 * last offset delta, max timestamp and the producer's fields; length, codec, checksum, base
 * timestamp and count are filled in, in h as well. On an error out is as it was. */
enum err batch_rewrite_end(struct batch_rewrite *w, struct batch_header *h,
                           struct errmsg *m) MUST_CHECK;
void batch_rewrite_drop(struct batch_rewrite *w);

/* Which records of a batch stay, and what becomes of the batch. */
struct batch_filter {
    /* Whether a record stays; asked once for each, in order. Slices are borrowed for the call. */
    bool (*keep)(void *arg, const struct batch_header *h, const struct raw_record *r);
    void *arg;
    size_t plain_bytes_max; /* of the decompressed records; usually BATCH_PLAIN_BYTES_MAX */
    /* When tombstones may go (KIP-534): set where the batch does not say so yet and a record that
     * stays is one, or where mark_always. -1: never set. */
    int64_t delete_horizon_ms;
    bool mark_always; /* the batch is a marker of a transaction that has no records left */
};

struct batch_filtered {
    int32_t seen;
    int32_t kept;
    bool same; /* nothing changes: nothing was written */
    struct batch_header h; /* of the batch that was written, or of the same one */
};

/* Appends to out what Kafka's cleaner (MemoryRecords.filterTo) makes of a batch: base offset, last
 * offset, leader epoch and the producer's fields stay; max timestamp is that of the records that
 * stay (with LogAppendTime and in an empty batch: the old one); the codec stays, with its default
 * level. When no record stays it is an empty batch, a header with count 0 and no codec, which the
 * caller may leave away. ERR_CORRUPT, ERR_TOO_LARGE, ERR_NOMEM: out is as it was. Any thread. */
enum err batch_filter(struct slice batch, const struct batch_filter *f, struct buf *out,
                      struct batch_filtered *result, struct errmsg *m) MUST_CHECK;

/* Writes a header with length and checksum of what follows it; batch has len bytes. */
void batch_seal(uint8_t *batch, size_t len, const struct batch_header *h);

#endif
