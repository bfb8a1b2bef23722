/* What each partition of the own store knows of its producers: idempotence, open and aborted
 * transactions (KIP-98, KIP-360, KIP-890).
 *
 *      append of a batch   producers_check ─▶ duplicate, error, or store_append ─▶ producers_append
 *      end of transaction  store_append of the marker ─▶ producers_append_marker
 *      reader              producers_first_unstable, producers_aborted
 *
 * producers_check and _append see what this turn has appended already. Readers see what is
 * committed: an open transaction begins to hold them back, and a marker lets them go on, only when
 * the turn's commit has succeeded. When it fails, everything is as its rows say again. So whoever
 * appends answers from a journal_wait; the one of a duplicate does, too, for the batch that it
 * repeats may be of this very turn.
 *
 * A state machine over rows: no store, no socket, no clock. Wall time comes as a parameter. A
 * partition is known by its uid in the own store, which is never used twice. One thread at a
 * time (own_state.h). */
#ifndef CULEX_BROKER_PRODUCERS_H
#define CULEX_BROKER_PRODUCERS_H

#include "kafka-server/broker/journal.h"
#include "kafka-server/broker/kerr.h"
#include "shared/record/record.h"

/* Producers in partitions; beyond it the one that has been idle the longest is forgotten early.
 * About 300 bytes each. */
#define PRODUCERS_MAX (1u << 18)
/* Aborted transactions in all partitions, 32 bytes each; beyond it no transaction begins in a
 * partition that has its share of them, so that logs which keep everything do not use up what the
 * others need. They go when the log start passes them, or compaction has taken what they wrote. */
#define PRODUCERS_ABORTED_MAX   (1u << 22)
#define PRODUCERS_ABORTED_SHARE 1024u
/* Batches of one producer in one partition that a repeated one is looked for in: Kafka's number. */
#define PRODUCER_BATCHES 5

#define PRODUCER_ROW_PREFIX "producer/"

struct producers;

struct producers_options {
    int64_t expiration_ms;     /* producer.id.expiration.ms */
    int64_t check_interval_ms; /* producer.id.expiration.check.interval.ms */
};

/* Reads the rows. Blocks. ERR_NOMEM, or why the rows cannot be read. */
enum err producers_open(struct producers **out, struct journal *j,
                        const struct producers_options *o, struct errmsg *m) MUST_CHECK;
void producers_set_options(struct producers *p, const struct producers_options *o);
/* Flushes the journal, frees. */
void producers_close(struct producers *p);

/* --- append ----------------------------------------------------------------------------------- */

struct producers_duplicate {
    bool found;
    int64_t base_offset; /* where the batch was appended the first time */
    int64_t timestamp;   /* its greatest: what log_append_time_ms is where append time counts */
};

/* May this batch of a client be appended now? Harmless for batches without a producer id.
 *
 *   NONE                          append it, or answer with *d if d->found
 *   OUT_OF_ORDER_SEQUENCE_NUMBER  a batch before this one is missing
 *   INVALID_PRODUCER_EPOCH        a newer instance of this producer has written here
 *   INVALID_TXN_STATE             not transactional while the producer has a transaction open here
 *   INVALID_RECORD                a producer without epoch or sequence, a transaction without a
 *                                 producer
 *   POLICY_VIOLATION              no room for another producer, PRODUCERS_MAX, or to remember that
 *                                 its transaction was aborted, PRODUCERS_ABORTED_MAX and _SHARE
 *
 * v2: the client speaks the transaction protocol of KIP-890 (Produce 12 and later), in which the
 * first batch of a transaction has sequence 0. */
enum kerr producers_check(struct producers *p, uint32_t uid, const struct batch_header *h, bool v2,
                          struct producers_duplicate *d);
/* The batch that was checked is part of this turn's commit, with this base offset. max_timestamp of
 * *h: as stored. */
void producers_append(struct producers *p, uint32_t uid, const struct batch_header *h,
                      int64_t base_offset, int64_t wall_ms);

/* Has this producer a transaction open in the partition, in this very epoch? Then its coordinator
 * knows of the partition and need not be asked (transactions.h). */
bool producers_in_transaction(const struct producers *p, uint32_t uid, int64_t producer_id,
                              int16_t epoch);

struct producers_marker {
    int64_t producer_id;
    int16_t producer_epoch;
    int32_t coordinator_epoch;
    bool commits;
    int64_t offset; /* of its batch, which has one record */
    int64_t timestamp;
};
/* NONE, INVALID_PRODUCER_EPOCH, TRANSACTION_COORDINATOR_FENCED or POLICY_VIOLATION (no room for
 * another producer). Offset and timestamp are not looked at. */
enum kerr producers_check_marker(struct producers *p, uint32_t uid,
                                 const struct producers_marker *k);
/* Of a producer that is not known here, and for which there is no room, nothing is kept. */
void producers_append_marker(struct producers *p, uint32_t uid, const struct producers_marker *k,
                             int64_t wall_ms);

/* --- readers ---------------------------------------------------------------------------------- */

/* First offset of the oldest transaction that is open here; INT64_MAX: none is. The last stable
 * offset is this, but never above the end nor below the log start: producers_lso. p may be NULL. */
int64_t producers_first_unstable(const struct producers *p, uint32_t uid);
static inline int64_t producers_lso(const struct producers *p, uint32_t uid, int64_t log_start,
                                    int64_t end)
{
    int64_t x = producers_first_unstable(p, uid);
    x = x < log_start ? log_start : x;
    return x < end ? x : end;
}

struct producers_aborted {
    int64_t producer_id;
    int64_t first_offset;
    int64_t last_offset; /* its marker's */
    int64_t lso;         /* after it */
};
/* Calls fn for every aborted transaction that has to do with offsets in [from, to), in the order
 * of their markers, until it returns false. p may be NULL. */
typedef bool producers_aborted_fn(void *arg, const struct producers_aborted *a);
void producers_each_aborted(const struct producers *p, uint32_t uid, int64_t from, int64_t to,
                            producers_aborted_fn *fn, void *arg);

/* Was an aborted transaction that reaches `from` or what is behind it forgotten, because the log
 * start has passed it? Then there is no list for records from there on that were read before. p may
 * be NULL. */
bool producers_forgot_aborted(const struct producers *p, uint32_t uid, int64_t from);

/* One producer as DescribeProducers shows it. */
struct producers_view {
    int64_t producer_id;
    int16_t producer_epoch;
    int32_t last_sequence;     /* -1: none */
    int64_t last_timestamp;    /* -1: none */
    int32_t coordinator_epoch; /* -1: none */
    int64_t txn_first_offset;  /* -1: no transaction is open */
};
typedef bool producers_view_fn(void *arg, const struct producers_view *v);
void producers_each(const struct producers *p, uint32_t uid, producers_view_fn *fn, void *arg);

/* --- time passes ------------------------------------------------------------------------------ */

/* Where does the log of this partition start? False: there is no such partition any more. */
typedef bool producers_partition_fn(void *arg, uint32_t uid, int64_t *log_start);
/* Forgets what belongs to partitions that are gone, and aborted transactions below the log start.
 * To be called when topics were deleted, and now and then. */
void producers_sweep(struct producers *p, producers_partition_fn *fn, void *arg);
/* Compaction has gone over the partition: nothing is left below *clean_to of what was aborted. For
 * *keep_ms readers may yet have it. False: it has not. */
typedef bool producers_clean_fn(void *arg, uint32_t uid, int64_t *clean_to, int64_t *keep_ms);
/* Aborted transactions that ended below are forgotten keep_ms after they were first seen there, or
 * up to twice as late. (The store then drops their markers, too.) now_ms: monotonic. To be called
 * now and then, after producers_sweep. */
void producers_forget_cleaned(struct producers *p, producers_clean_fn *fn, void *arg,
                              int64_t now_ms);
/* Producers that were idle for too long are forgotten. Cheap when there is nothing to do. */
void producers_tick(struct producers *p, int64_t wall_ms);
/* In all partitions. */
size_t producers_count(const struct producers *p);

#endif
