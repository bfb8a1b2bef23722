/* Committed offsets of one group, by topic and partition; and all groups' offsets by topic.
 *
 * A table in memory; the rows in the store are the truth (group_row.h), and the coordinator keeps
 * both alike. Loop thread only. */
#ifndef CULEX_BROKER_OFFSETS_H
#define CULEX_BROKER_OFFSETS_H

#include <uthash.h>

#include "kafka-server/broker/group_row.h"
#include "shared/base/bytes.h"

#define OFFSETS_PER_GROUP_MAX (1u << 20)

struct coordinated;

/* The entries of one topic, of all groups: what is there, and what is on its way. */
struct offsets_topic {
    struct offset_entry *entries;
    UT_hash_handle hh;
    size_t name_len;
    uint8_t name[];
};

/* Topics that some entry is of. */
struct offsets_topics {
    struct offsets_topic *table;
};

struct offset_key {
    const struct offsets_topic *topic;
    int64_t partition; /* as wide as the pointer: a key has no bytes that nobody sets */
};

/* One committed position. Made whole, then put into the table: it never changes. */
struct offset_entry {
    struct offset_row row; /* metadata is owned */
    struct slice topic;    /* as long as the entry */
    int32_t partition;
    bool removes; /* it names what is to be removed */
    struct coordinated *group;
    struct offsets_topics *all;
    struct offset_entry *prev, *next; /* of the topic */
    struct offset_key key;
    UT_hash_handle hh;
    uint8_t metadata[];
};

struct offsets {
    struct offsets_topics *all;
    struct offset_entry *entries;
    size_t count;
};

/* Copies all it is given but the group, which is kept; row NULL: the entry names what is to be
 * removed. It is among the topic's first. NULL: without memory. */
struct offset_entry *offset_entry_new(struct offsets_topics *all, struct coordinated *group,
                                      struct slice topic, int32_t partition,
                                      const struct offset_row *row);
void offset_entry_free(struct offset_entry *e);
/* The first of a topic's entries, of all groups, on the way or not; NULL: there is none. */
struct offset_entry *offsets_of_topic(const struct offsets_topics *all, struct slice topic);

/* Takes e; what was there for its partition is freed. */
void offsets_put(struct offsets *o, struct offset_entry *e);
void offsets_remove(struct offsets *o, struct slice topic, int32_t partition);
/* NULL: nothing committed. Valid until the table changes. */
const struct offset_entry *offsets_find(const struct offsets *o, struct slice topic,
                                        int32_t partition);
void offsets_fini(struct offsets *o);

/* When does this commit end, if time is all that counts? base_ms: since when nobody needed it. */
static inline bool offset_expired(const struct offset_entry *e, int64_t base_ms,
                                  int64_t retention_ms, int64_t wall_ms)
{
    return e->row.expire_ms >= 0 ? wall_ms >= e->row.expire_ms : wall_ms - base_ms >= retention_ms;
}

/* Order of two entries by topic, then partition, for qsort over an array of pointers. */
int offset_entry_compare(const void *a, const void *b);

#endif
