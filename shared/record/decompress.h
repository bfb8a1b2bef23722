/* The records of a batch, decompressed: the codecs that Kafka knows. Private to shared/record. */
#ifndef CULEX_RECORD_DECOMPRESS_H
#define CULEX_RECORD_DECOMPRESS_H

#include "shared/record/record.h"

/* Appends the decompressed bytes of in to out, whose max bounds what is allocated (lz4 keeps up to
 * 9 MB of its own beside it). ERR_TOO_LARGE: more than out takes. ERR_CORRUPT: not whole, or not of
 * this codec. ERR_NOMEM. Any thread. */
enum err decompress(enum batch_codec codec, struct slice in, struct buf *out,
                    struct errmsg *m) MUST_CHECK;

/* Whether the first lz4 frame of in says that its blocks need those before them: liblz4 reads such
 * frames, Java's clients do not. */
bool lz4_blocks_are_linked(struct slice in);

#endif
