/* The world of sim_txn: clients, logs, what clients were told, all of one life. */
#ifndef CULEX_TESTS_TXN_WORLD_H
#define CULEX_TESTS_TXN_WORLD_H

#include "kafka-server/broker/transactions.h"
#include "tests/sim/sim.h"

#define CLIENTS       6
#define IDS           3 /* transactional ids; clients share them, so that they fence one another */
#define PARTITIONS    3 /* the last one is deleted and made anew now and then */
#define STEPS         200
#define SHORT_STEPS   60 /* of a life that is lived once for each of its points */
#define QUIET_STEPS   400
#define ENTRIES_MAX   8192
#define TXNS_MAX      4096
#define RECORDS_MAX   16384
#define TIMEOUT_MS    15000
#define OLD_PRODUCERS 1000000
#define GROUP         "g"
#define TOPIC         "in"

/* --- the logs of all partitions, in the order of their appends -------------------------------- */

struct entry {
    uint32_t uid;
    int64_t offset;
    int32_t count;
    int64_t producer_id;
    int txn;    /* the transaction that it was written for; 0: a plain batch; -1: a marker */
    int record; /* which write it is, of all */
};

/* A write that was answered, apart from the log: it must not forget what the log has lost. */
struct answer {
    uint32_t uid;
    int txn, record;
};

/* What became of a transaction, as its client knows. */
struct fate {
    bool commit_asked, committed, aborted; /* the last two: answered so */
    bool has_offset;
    int id, offset_order; /* the latter: when its offset was put, among puts and deletions */
};

/* Somebody deletes offsets: a group, one of its offsets, a topic. */
struct deletion {
    struct journal_wait wait;
    int id, order; /* id -1: of all */
    struct deletion *next;
};

enum phase { INIT, WRITE, END };
enum kind { NOTHING, DO_INIT, DO_ADD, DO_PRODUCE, DO_ADD_GROUP, DO_OFFSET, DO_END };

struct client {
    int id; /* transactional id; -1: plain */
    bool v2;
    enum phase phase;
    int64_t producer_id;
    int16_t epoch;
    bool goes_on; /* asks with the producer that it has (KIP-360) */
    int txn, writes_left;
    bool commits, added[PARTITIONS], group_added, wants_offset;
    uint32_t added_uid[PARTITIONS];
    uint32_t uid[PARTITIONS]; /* whose sequences these are */
    int32_t sequence[PARTITIONS];
    struct op *op;
    /* the request that is under way, or to be repeated */
    enum kind kind;
    int partition, record;
    int32_t count;
    bool told; /* it has heard something that ends its question */
    enum kerr heard;
};

struct op {
    struct journal_wait wait;
    struct client *client;
    enum kerr error;
    int64_t id;
    int16_t epoch;
    int entry; /* index of what was appended or repeated; -1: nothing */
    struct op *next;
};

static struct world {
    struct coordinator *groups;
    struct producers *producers;
    struct transactions *transactions;
    struct client clients[CLIENTS];
    struct op *ops;
    struct deletion *deletions;
    uint32_t uids[PARTITIONS], next_uid;
    int64_t log_start[PARTITIONS];
    struct entry entries[ENTRIES_MAX];
    int entry_count, committed_count; /* beyond the latter: of this turn */
    struct fate fates[TXNS_MAX];
    int txn_count, record_count, answer_count;
    struct answer answers[ENTRIES_MAX];
    int order, gone_asked[IDS], gone[IDS]; /* when: the last deletion of offsets, asked, answered */
    int64_t stable[PARTITIONS];
    uint32_t stable_uid[PARTITIONS];
    int64_t ids[TXNS_MAX];
    int id_count;
    uint64_t commits_seen, aborts_seen, fenced_seen, repeats_seen, renewed_seen, deletions_seen;
} w;

static int64_t log_end(uint32_t uid, int count)
{
    int64_t end = 0;
    for (int i = 0; i < count; i++) {
        if (w.entries[i].uid == uid) {
            end = w.entries[i].offset + w.entries[i].count;
        }
    }
    return end;
}

/* -1: it was deleted. */
static int partition_of(uint32_t uid)
{
    int i = PARTITIONS - 1;
    while (i >= 0 && w.uids[i] != uid) {
        i--;
    }
    return i;
}

static bool is_live(uint32_t uid)
{
    return partition_of(uid) >= 0;
}

static struct entry *append(uint32_t uid, int32_t count)
{
    CHECK(w.entry_count < ENTRIES_MAX, "the log is full");
    struct entry *x = &w.entries[w.entry_count];
    *x = (struct entry){.uid = uid, .offset = log_end(uid, w.entry_count), .count = count};
    w.entry_count++;
    return x;
}

#endif
