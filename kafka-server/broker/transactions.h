/* The transaction coordinator: all transactional ids, in memory and in the server's own store
 * (KIP-98, 360, 447, 588, 664, 890).
 *
 * It stands between the requests (api/api_txn.c, api_produce.c), the machine of each transactional
 * id (txn.h), the partitions' producers (producers.h) and the journal. A transaction ends in one
 * commit: its markers in all partitions, its offsets and its new state are there together or not at
 * all, so nobody ever sees one that is "about to" end, and CONCURRENT_TRANSACTIONS is never
 * answered. What a client is told leaves after the commit; where it fails, everything is what its
 * rows say again, and the client gets COORDINATOR_NOT_AVAILABLE.
 *
 * Partitions are those of the own store, by uid. Wall time comes as a parameter. One thread at
 * a time (own_state.h). What requests call takes NULL for "there is no coordinator yet". */
#ifndef CULEX_BROKER_TRANSACTIONS_H
#define CULEX_BROKER_TRANSACTIONS_H

#include "kafka-server/broker/coordinator.h"
#include "kafka-server/broker/producers.h"
#include "kafka-server/broker/txn.h"

/* Beyond it new transactional ids are refused. */
#define TRANSACTIONS_MAX (1u << 17)
/* Offsets in transactions that have not ended, all together; and in one, as it ends in one turn. */
#define TRANSACTIONS_OFFSETS_MAX (1u << 20)
#define TRANSACTION_OFFSETS_MAX  (1u << 16)

struct transactions;

struct transactions_options {
    int32_t max_timeout_ms;     /* transaction.max.timeout.ms */
    int64_t expiration_ms;      /* transactional.id.expiration.ms */
    int32_t abort_interval_ms;  /* transaction.abort.timed.out.transaction.cleanup.interval.ms */
    int32_t remove_interval_ms; /* transaction.remove.expired.transaction.cleanup.interval.ms */
};

/* Reads the rows. Blocks. All that is given must outlive it. */
enum err transactions_open(struct transactions **out, struct journal *j, struct producers *p,
                           struct coordinator *groups, const struct transactions_options *o,
                           struct errmsg *m) MUST_CHECK;
void transactions_set_options(struct transactions *t, const struct transactions_options *o);
/* Flushes the journal, frees. */
void transactions_close(struct transactions *t);

/* Aborts what takes too long, forgets transactional ids. Cheap when there is nothing to do. */
void transactions_tick(struct transactions *t, int64_t wall_ms);

/* --- requests: each changes something, so the answer waits for the commit --------------------- */

/* A producer as a request names it. */
struct transactions_producer {
    struct slice transactional_id;
    int64_t id;
    int16_t epoch;
};

/* InitProducerId. id: a null one (data NULL) gets a fresh producer. On KERR_NONE the producer. */
struct transactions_init {
    struct slice transactional_id;
    int32_t timeout_ms;
    int64_t expected_id;    /* -1: none */
    int16_t expected_epoch; /* -1: none */
};
enum kerr transactions_init(struct transactions *t, const struct transactions_init *r,
                            int64_t wall_ms, int64_t *id, int16_t *epoch);

/* AddPartitionsToTxn: all or none. */
enum kerr transactions_add(struct transactions *t, const struct transactions_producer *who,
                           const uint32_t *uids, size_t count, int64_t wall_ms);
/* AddPartitionsToTxn with VerifyOnly: NONE or TRANSACTION_ABORTABLE for this partition, or what is
 * wrong with the producer. Changes nothing. */
enum kerr transactions_verify(const struct transactions *t,
                              const struct transactions_producer *who, uint32_t uid);
/* AddOffsetsToTxn. */
enum kerr transactions_add_group(struct transactions *t, const struct transactions_producer *who,
                                 struct slice group_id, int64_t wall_ms);

/* What a client that sends transactional data knows of. */
enum txn_client {
    TXN_CLIENT_OLD,       /* Produce up to 10, TxnOffsetCommit up to 3 */
    TXN_CLIENT_ABORTABLE, /* Produce 11, TxnOffsetCommit 4: TRANSACTION_ABORTABLE */
    TXN_CLIENT_ADDS,      /* Produce 12, TxnOffsetCommit 5: adds partitions by writing (KIP-890) */
};

/* Produce: may a transactional batch of this producer be appended to this partition? To be asked
 * before producers_check, once for a partition of a request; adds the partition for a client that
 * does so by writing. The error is the one for the client: INVALID_PRODUCER_EPOCH,
 * INVALID_PRODUCER_ID_MAPPING, INVALID_TXN_STATE, TRANSACTION_ABORTABLE, NOT_ENOUGH_REPLICAS (there
 * is no coordinator yet: try again). */
enum kerr transactions_produce(struct transactions *t, const struct transactions_producer *who,
                               enum txn_client client, uint32_t uid, int64_t wall_ms);

/* TxnOffsetCommit: may this producer commit offsets of this group? */
enum kerr transactions_commit(struct transactions *t, const struct transactions_producer *who,
                              enum txn_client client, struct slice group_id, int64_t wall_ms);
/* One offset, after transactions_commit, in the same turn. It counts when the transaction is
 * committed; its group has room for it until then. POLICY_VIOLATION: too many. */
enum kerr transactions_commit_put(struct transactions *t, const struct transactions_producer *who,
                                  struct slice group_id, struct slice topic, int32_t partition,
                                  const struct offset_row *row);
/* Is an offset of this partition in a transaction that has not ended (OffsetFetch with
 * RequireStable: UNSTABLE_OFFSET_COMMIT)? */
bool transactions_unstable(const struct transactions *t, struct slice group_id, struct slice topic,
                           int32_t partition);
/* Deleted, and so are the offsets of it in open transactions: a topic; a group; a group's offset of
 * one partition. */
void transactions_topic_gone(struct transactions *t, struct slice topic);
/* There is a topic of this name and id: offsets of another one are gone. It may have been made
 * again while nobody looked. */
void transactions_topic_came(struct transactions *t, struct slice topic, const struct uuid *id);
void transactions_group_gone(struct transactions *t, struct slice group_id);
void transactions_offset_gone(struct transactions *t, struct slice group_id, struct slice topic,
                              int32_t partition);

/* EndTxn. v2: version 5 and later, which goes on with *id and *epoch; else those are -1. */
enum kerr transactions_end(struct transactions *t, const struct transactions_producer *who,
                           bool commits, bool v2, int64_t wall_ms, int64_t *id, int16_t *epoch);
/* WriteTxnMarkers: k->offset and timestamp are filled in here. UNKNOWN_TOPIC_OR_PARTITION where
 * there is no such partition. */
enum kerr transactions_write_marker(struct transactions *t, uint32_t uid,
                                    struct producers_marker *k, int64_t wall_ms);

/* --- what there is ---------------------------------------------------------------------------- */

/* NULL: no such id. Valid until the next call that changes something. */
const struct txn *transactions_find(const struct transactions *t, struct slice transactional_id);
/* Calls fn for every transactional id until it returns false. */
void transactions_each(const struct transactions *t, bool (*fn)(void *arg, const struct txn *x),
                       void *arg);

#endif
