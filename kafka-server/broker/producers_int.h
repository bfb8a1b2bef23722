/* Inside producers*.c: what they know of each other. Nobody else includes this. */
#ifndef CULEX_BROKER_PRODUCERS_INT_H
#define CULEX_BROKER_PRODUCERS_INT_H

#include <uthash.h>

#include "kafka-server/broker/producers.h"
#include "shared/base/log.h"

#define ROW_PREFIX_BYTES (sizeof PRODUCER_ROW_PREFIX) /* and a letter */
#define ROW_KEY_BYTES    (ROW_PREFIX_BYTES + 12)
#define ROW_VERSION      1
#define NO_EPOCH         (-1)

struct seen_batch {
    int32_t last_sequence, offset_delta;
    int64_t last_offset, timestamp;
};

/* What a row says. */
struct state {
    int16_t epoch; /* NO_EPOCH: nothing is known */
    int32_t coordinator_epoch;
    int64_t last_timestamp;
    int64_t used_ms;
    int64_t txn_first; /* -1: no transaction is open */
    int count;
    struct seen_batch batches[PRODUCER_BATCHES]; /* oldest first */
};

struct producer_key {
    uint64_t uid;
    int64_t id;
};

struct producer {
    struct producer_key key;
    struct state s;
    bool stored;             /* it has a row */
    bool changed;            /* it is in p->changes */
    int16_t awaited_epoch;   /* of a first batch that could not be stored, … */
    int32_t awaited;         /* … and its sequence; -1: none */
    struct partition *partition;
    struct producer *prev, *next;           /* of its partition */
    struct producer *idle_prev, *idle_next; /* all, the longest idle first */
    struct producer *open_prev, *open_next; /* with a transaction open, by first offset */
    UT_hash_handle hh;
};

struct partition {
    uint32_t uid;
    struct producer *producers;
    struct producer *open;
    int64_t unstable; /* first offset of the oldest open transaction that is committed */
    struct producers_aborted *aborted; /* by last offset */
    size_t aborted_count, aborted_room;
    int64_t passed;         /* all below it are forgotten: the log start has passed them */
    int64_t forget_below;   /* those that ended below it are to go … */
    int64_t forget_at_ms;   /* … not before this */
    size_t forgetting;      /* so many of the first go with this turn's commit */
    UT_hash_handle hh;
};

struct change {
    struct producer *producer;
    struct state before;
};

struct pending_abort {
    uint32_t uid;
    struct producers_aborted a;
};

struct producers {
    struct journal *journal;
    struct journal_owner owner;
    struct producers_options options;
    struct producer *table;
    struct producer *idle;
    struct partition *partitions;
    size_t aborted_count;
    struct change *changes;
    size_t change_count, change_room;
    struct pending_abort *aborts; /* of this turn */
    size_t abort_count, abort_room;
    bool forgetting;       /* some partitions are */
    int64_t next_check_ms; /* wall */
    struct log_limit forgotten_log, refused_log;
};

/* --- producers.c --- */
struct partition *producers_partition(const struct producers *p, uint32_t uid); /* NULL: none */
struct partition *producers_partition_get(struct producers *p, uint32_t uid); /* NULL: no memory */
/* prefix: with its letter. n: producer id or offset. */
struct slice producers_row_key(uint8_t key[ROW_KEY_BYTES], const char *prefix, uint32_t uid,
                               int64_t n);

/* --- producers_aborted.c --- */
#define ABORTED_PREFIX PRODUCER_ROW_PREFIX "a"

struct producers_load {
    struct producers *p;
    enum err e;
    size_t corrupt;
};
bool aborted_load(void *arg, struct slice key, struct slice value); /* a store_row_fn */
void aborted_sort(struct producers *p); /* after loading */
bool aborted_push(struct producers *p, struct partition *t, const struct producers_aborted *a);
/* Index of the first whose marker is at `offset` or behind it. */
size_t aborted_from(const struct partition *t, int64_t offset);
/* The first ones, from memory, and their rows. */
void aborted_remove(struct producers *p, struct partition *t, size_t count);
void aborted_delete(struct producers *p, const struct partition *t, size_t count);
void aborted_write(struct producers *p, uint32_t uid, const struct producers_aborted *a);
/* The commit has ended: what producers_forget_cleaned put into it. */
void aborted_forgotten(struct producers *p, enum err e);

#endif
