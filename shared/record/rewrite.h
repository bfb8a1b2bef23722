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

/* Writes a header with length and checksum of what follows it; batch has len bytes. */
void batch_seal(uint8_t *batch, size_t len, const struct batch_header *h);

#endif
