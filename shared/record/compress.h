/* Compresses the records of a batch as Kafka's own producer does: gzip in one member, snappy in
 * xerial's framing, lz4 in one frame of independent blocks (Java reads no others), zstd in one
 * frame. Inside shared/record. */
#ifndef CULEX_RECORD_COMPRESS_H
#define CULEX_RECORD_COMPRESS_H

#include "shared/record/record.h"

/* Appends in, compressed, to out. level is what Kafka's compression.<codec>.level means by it (-1
 * is gzip's default, 9 lz4's) or BATCH_LEVEL_DEFAULT; one out of range is brought into it.
 * BATCH_CODEC_NONE copies. ERR_TOO_LARGE: out is full. ERR_NOMEM. On an error out is as it was. Any
 * thread. */
enum err compress_records(enum batch_codec codec, int32_t level, struct slice in, struct buf *out,
                          struct errmsg *m) MUST_CHECK;

#endif
