/* One transactional id: which producer holds it and where its transaction stands.
 *
 * A pure state machine, with the rules of Kafka 4.1's TransactionCoordinator and
 * TransactionMetadata: (state, event, now) → (state, actions). It knows no socket, store or clock.
 * Actions go to a txn_sink: a transaction ends (markers have to be written to its partitions and
 * its offsets be stored or thrown away), a fresh producer id is wanted.
 *
 * As a transaction ends in one commit, the states PrepareCommit, PrepareAbort and PrepareEpochFence
 * of Kafka are passed through within one call and never seen.
 *
 *                    ┌──── init ────┐
 *                    ▼              │
 *      (new) ─init─▶ EMPTY ─add─▶ ONGOING ─end, timeout, init─▶ COMPLETE_COMMIT, COMPLETE_ABORT
 *                    ▲              ▲                                 │     │
 *                    │              └──────────── add ────────────────┘     │
 *                    └───────────────────── init ───────────────────────────┘
 *      EMPTY, COMPLETE_… ─abort in protocol 2─▶ COMPLETE_ABORT, with the next epoch
 *
 * Slices in events are borrowed for the call. Not thread-safe. */
#ifndef CULEX_BROKER_TXN_H
#define CULEX_BROKER_TXN_H

#include "kafka-server/broker/kerr.h"
#include "shared/base/buf.h"
#include "shared/base/bytes.h"

#define TXN_ROW_PREFIX "txn/s"
/* With a prefix it is a row's key: store.h allows 1024 bytes. */
#define TXN_ID_BYTES_MAX   1000
#define TXN_PARTITIONS_MAX (1u << 20)
#define TXN_GROUPS_MAX     1000
#define TXN_ROW_BYTES_MAX  (8u << 20)
/* The last epoch that a client is given; the one after it is left for fencing. */
#define TXN_EPOCH_LAST (INT16_MAX - 1)

enum txn_state {
    TXN_EMPTY,
    TXN_ONGOING,
    TXN_COMPLETE_COMMIT,
    TXN_COMPLETE_ABORT,
    TXN_NEW, /* never stored: nobody has got a producer of it yet */
};
/* As Kafka writes it: "CompleteCommit". */
const char *txn_state_name(enum txn_state s);

struct txn_group {
    char *id;
    size_t len;
};

struct txn {
    struct slice id; /* borrowed from who keeps the machine */
    enum txn_state state;
    bool v2;             /* the last who spoke of it speaks protocol 2 (KIP-890) */
    int64_t producer_id; /* -1: NEW */
    int64_t previous_id; /* before the last change */
    int16_t epoch;       /* -1: NEW */
    int16_t last_epoch;  /* the one that a producer may repeat its request with; -1: none */
    int32_t timeout_ms;
    int64_t start_ms; /* of the open transaction, or the last one; -1: none */
    int64_t update_ms;
    uint32_t *uids; /* partitions of the open transaction, ascending */
    size_t uid_count, uid_room;
    struct txn_group *groups; /* whose offsets are part of it */
    size_t group_count;
};

struct txn_sink {
    /* x is as it was before its end; producer_id and epoch: those of the markers. */
    void (*end)(void *arg, const struct txn *x, bool commits, int64_t producer_id, int16_t epoch);
    /* -1: none can be had now. */
    int64_t (*fresh_id)(void *arg);
    /* x is about to change, for the first time in this call: the last moment to copy it. False: it
     * cannot be, and x stays. */
    bool (*changing)(void *arg, const struct txn *x);
    void *arg;
};

void txn_init(struct txn *x, struct slice id);
void txn_fini(struct txn *x);
/* ERR_NOMEM: *to is as after txn_init. */
enum err txn_copy(struct txn *to, const struct txn *from) MUST_CHECK;

/* Each leaves x unchanged unless it returns NONE, and unless it has called `changing`.
 * COORDINATOR_NOT_AVAILABLE: no memory, or no producer id. */

/* expected_id and expected_epoch: -1 unless the producer goes on after an error (KIP-360). */
enum kerr txn_on_init(struct txn *x, int32_t timeout_ms, int64_t expected_id,
                      int16_t expected_epoch, const struct txn_sink *sink, int64_t now_ms);
/* INVALID_PRODUCER_ID_MAPPING, PRODUCER_FENCED; POLICY_VIOLATION: too many. */
enum kerr txn_on_add(struct txn *x, int64_t producer_id, int16_t epoch, const uint32_t *uids,
                     size_t count, bool v2, const struct txn_sink *sink, int64_t now_ms);
enum kerr txn_on_add_group(struct txn *x, int64_t producer_id, int16_t epoch, struct slice group_id,
                           bool v2, const struct txn_sink *sink, int64_t now_ms);
enum kerr txn_on_end(struct txn *x, int64_t producer_id, int16_t epoch, bool commits, bool v2,
                     const struct txn_sink *sink, int64_t now_ms);
/* Aborts an open transaction and fences its producer. Without `changing`: who calls it has copied
 * it. */
void txn_on_timeout(struct txn *x, const struct txn_sink *sink, int64_t now_ms);

enum kerr txn_check(const struct txn *x, int64_t producer_id, int16_t epoch);
bool txn_has_partition(const struct txn *x, uint32_t uid);
bool txn_has_group(const struct txn *x, struct slice group_id);
bool txn_timed_out(const struct txn *x, int64_t now_ms);

/* The row: replaces what the buffer holds. */
void txn_encode(const struct txn *x, struct buf *out);
/* x after txn_init. False: not such a row, or (*no_memory) no memory; x is as after txn_init. */
bool txn_decode(struct slice value, struct txn *x, bool *no_memory);

#endif
