/* The server's own assignors for consumer groups (KIP-848): who is to read which partition.
 *
 * uniform: as even as may be, and who has a partition keeps it where that does no harm. range: each
 * topic is cut into ranges, in the order of the members' names, so that partitions of one number go
 * to one member in topics of one size. Racks are not looked at.
 *
 * Results are those of Kafka's classes of the same names for members in the same order. Pure: what
 * is given is all there is. */
#ifndef CULEX_BROKER_ASSIGNOR_H
#define CULEX_BROKER_ASSIGNOR_H

#include "shared/base/bytes.h"

enum assignor_kind { ASSIGNOR_UNIFORM, ASSIGNOR_RANGE };
#define ASSIGNORS 2
/* "uniform", "range". */
const char *assignor_name(enum assignor_kind kind);
/* False: there is none of this name. */
bool assignor_find(struct slice name, enum assignor_kind *out);

struct assignor_topic {
    struct uuid id;
    int32_t partition_count;
    int32_t first; /* of its partitions in `owner` */
};

struct assignor_member {
    struct slice id, instance_id; /* instance_id.data NULL: dynamic */
    const int32_t *topics;        /* indexes of those that it reads, ascending */
    int32_t topic_count;
};

struct assignor_group {
    const struct assignor_member *members;
    const struct assignor_topic *topics;
    int32_t member_count, topic_count, partition_count;
    /* By partition: the index of the member that has it, -1: nobody. What it was goes in (only
     * members that read the topic), what it shall be comes out. */
    int32_t *owner;
};

/* False: without memory; owner is then not to be used. */
bool assignor_run(enum assignor_kind kind, const struct assignor_group *g);

#endif
