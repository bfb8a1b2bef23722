/* Random messages from their tables: every field, null, tag and length that a version can carry. */
#ifndef CULEX_TESTS_RANDMSG_H
#define CULEX_TESTS_RANDMSG_H

#include "kafka-server/protocol/codec_table.h"

/* The next number of a sequence (splitmix64): the same seed gives the same sequence everywhere. */
uint64_t rand_next(uint64_t *seed);
/* Less than n. */
uint32_t rand_below(uint64_t *seed, uint32_t n);

/* Fills out (t->struct_bytes of it) with a message that the version can carry. Memory from a, which
 * must be large enough. */
void randmsg_fill(const struct codec_message *t, int version, uint64_t *seed, struct arena *a,
                  void *out);
/* Whether both say the same; pieces of records are compared as the bytes they hold. */
bool randmsg_equal(const struct codec_message *t, const void *x, const void *y);

#endif
