/* A set of partitions, of topics by their ids: an array in order, and the operations of sets.
 *
 * Copies and results are owned by whoever holds the struct; {0} is the empty set. What allocates
 * takes `ok`, which turns false without memory and leaves an empty result: check once, at the
 * end. */
#ifndef CULEX_BROKER_PARTITION_SET_H
#define CULEX_BROKER_PARTITION_SET_H

#include "shared/base/bytes.h"

struct topic_partition {
    struct uuid topic;
    int32_t partition;
};

struct partition_set {
    struct topic_partition *list; /* ascending, each once */
    int32_t count, room;
};

int topic_partition_compare(const void *a, const void *b);

void partition_set_fini(struct partition_set *s);
/* Puts one at the end; partition_set_sort makes a set of it again. */
void partition_set_append(struct partition_set *s, const struct uuid *topic, int32_t partition,
                          bool *ok);
void partition_set_sort(struct partition_set *s);
/* Takes what `from` has, which is empty then. */
void partition_set_move(struct partition_set *to, struct partition_set *from);

bool partition_set_has(const struct partition_set *s, const struct topic_partition *p);
bool partition_set_equal(const struct partition_set *a, const struct partition_set *b);
/* Has b all that a has? */
bool partition_set_within(const struct partition_set *a, const struct partition_set *b);
/* Is there one in both? */
bool partition_set_meet(const struct partition_set *a, const struct partition_set *b);

/* *out = a ∩ b, a \ b, a ∪ b. out is neither a nor b, and empty. */
void partition_set_common(struct partition_set *out, const struct partition_set *a,
                          const struct partition_set *b, bool *ok);
void partition_set_minus(struct partition_set *out, const struct partition_set *a,
                         const struct partition_set *b, bool *ok);
void partition_set_union(struct partition_set *out, const struct partition_set *a,
                         const struct partition_set *b, bool *ok);
void partition_set_copy(struct partition_set *out, const struct partition_set *a, bool *ok);

/* How many, from `at` on, are of one topic. */
int32_t partition_set_run(const struct partition_set *s, int32_t at);

#endif
