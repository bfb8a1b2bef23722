/* What the files of the transaction coordinator share; nobody else includes this.
 *
 *      transactions.c          transactional ids: finding, storing, taking back, time
 *      transactions_offsets.c  the offsets in their transactions */
#ifndef CULEX_BROKER_TRANSACTIONS_INT_H
#define CULEX_BROKER_TRANSACTIONS_INT_H

#include <uthash.h>

#include "kafka-server/broker/transactions.h"

/* An offset that counts when its transaction is committed. */
struct pending {
    int64_t producer_id;
    struct offset_row row;      /* metadata is owned */
    struct slice group, topic;  /* owned: in key */
    int32_t partition;
    struct held *held;
    struct pending_key *unstable, *of_topic, *of_group;
    struct pending *topic_prev, *topic_next, *group_prev, *group_next;
    size_t key_len;
    UT_hash_handle hh; /* of its transaction */
    uint8_t key[];     /* that of the committed offset's row; then the metadata */
};

/* What offsets in transactions are found by: group, topic and partition; topic; or group. It is
 * there as long as any is, also one that the commit that is going on takes out. */
struct pending_key {
    size_t count;
    struct pending *first; /* of a topic or a group: those that are in their transaction */
    size_t key_len;
    UT_hash_handle hh;
    uint8_t key[];
};

/* A transactional id and what belongs to it. */
struct held {
    struct txn x;
    struct pending *offsets;
    bool changed;              /* it is in t->changes */
    bool stored;               /* it has a row */
    bool open;                 /* it is in t->open */
    struct held *prev, *next;  /* t->open */
    UT_hash_handle hh;
    uint8_t id[];
};

struct change {
    struct held *held;
    struct txn before;
};

/* An offset that this turn put into a transaction, or took out of it. */
struct offset_change {
    struct held *held;
    struct pending *added, *removed;
};

struct transactions {
    struct journal *journal;
    struct journal_owner owner;
    struct producers *producers;
    struct coordinator *groups;
    struct transactions_options options;
    struct txn_sink sink;
    struct held *table;
    struct held *open; /* those with an open transaction */
    struct pending_key *unstable, *topics, *group_ids;
    size_t offset_count;
    struct change *changes;
    size_t change_count, change_room;
    struct offset_change *offset_changes;
    size_t offset_change_count, offset_change_room;
    int64_t next_id, ids_end; /* producer ids that may be given out */
    int64_t ids_before;       /* ids_end as it is stored; -1: nothing changed in this turn */
    int64_t abort_ms, remove_ms; /* wall: next looks */
    int64_t now_ms;              /* of the call that is going on */
    struct buf key, value;       /* of the row at hand */
};

/* Puts what becomes of the offsets of a transaction that ends into the commit. */
void transactions_offsets_end(struct transactions *t, struct held *h, bool commits);
/* The commit has ended: before what it did to the transactions is taken back. */
void transactions_offsets_done(struct transactions *t, enum err e);
/* Without the commit: h goes. */
void transactions_offsets_drop(struct transactions *t, struct held *h);
/* Reads the rows, after those of the transactions. *corrupt: grows by those that cannot be read. */
enum err transactions_offsets_load(struct transactions *t, size_t *corrupt, struct errmsg *m);

#endif
