/* Reading many partitions for one consumer, within its limits (KIP-74).
 *
 *      fetch_look   loop thread: ends, errors, and what the tail ring still holds. Never blocks
 *      fetch_read   worker: what only the disk holds
 *
 * Each partition gets whole batches, at most its own limit and what is left of the whole; but the
 * first partition that has data gives at least one batch, however long, so that nobody is stuck
 * before a large one.
 *
 * Who reads what is committed only (READ_COMMITTED) gets no batch at or above the last stable
 * offset. That is always the beginning of a batch. */
#ifndef CULEX_BROKER_FETCH_H
#define CULEX_BROKER_FETCH_H

#include "kafka-server/broker/kerr.h"
#include "kafka-server/broker/producers.h"
#include "shared/store/store.h"

#define FETCH_LOOK_BYTES_MAX (2u << 20) /* copied out of the tail ring in one go, on the loop */
/* Read from disk for one reply: little enough to stay in the processor's cache until it is sent. */
#define FETCH_READ_BYTES_MAX (4u << 20)
#define FETCH_PART_BYTES_MAX (256u << 20) /* a single batch larger than this is not served */
#define FETCH_COPY_BYTES     8192 /* batches smaller than this on average are copied together */

struct fetch_part {
    struct store *store; /* NULL: no such topic; error is set */
    uint32_t uid;
    bool transactional; /* its partition may have transactions: not of a captured topic */
    int64_t next;       /* first offset wanted, then the one after what was read */
    int64_t from;       /* first offset wanted */
    size_t bytes_max;
    int32_t leader_epoch;       /* that the client believes in; -1: unknown */
    int32_t last_fetched_epoch; /* of the record before `next`; -1: unknown */

    enum kerr error;
    int64_t end, log_start; /* as of the last look; -1 with an error */
    int64_t stable;         /* last stable offset, likewise */
    int64_t limit;          /* what is readable ends here: stable or end */
    int32_t leader_epoch_now;
    int32_t diverging_epoch; /* -1: the client's log is a prefix of ours */
    int64_t diverging_end;
    struct buf copied;           /* batches, one behind the other; or */
    struct store_slices *pinned; /* batches where RocksDB has them */
    bool cold;                   /* fetch_read has something to do here */
};

struct fetch {
    struct fetch_part *parts;
    int32_t count;
    const struct producers *producers; /* NULL: no partition has transactions */
    bool committed;                    /* READ_COMMITTED */
    size_t bytes_left;  /* of the reply */
    size_t bytes;       /* read so far */
    int32_t unknown;    /* partitions that had an error before anybody looked */
    int32_t errors;     /* partitions in which looking or reading found one */
    int32_t cold;       /* partitions for fetch_read */
    size_t batch_bytes; /* mean size of the batches of the last read: smaller rooms are not tried */
    bool again;         /* fetch_read found something that cannot be read yet: try again soon */
};

/* A fetch waits no longer for more bytes, whatever the client says, which then asks again: the list
 * of the transactions that were aborted among what it has read is kept for a while only. */
#define FETCH_WAIT_MS_MAX 300000
static inline int64_t fetch_deadline_ms(int64_t now_ms, int32_t max_wait_ms)
{
    int64_t wait_ms = max_wait_ms < FETCH_WAIT_MS_MAX ? max_wait_ms : FETCH_WAIT_MS_MAX;
    return wait_ms > 0 ? now_ms + wait_ms : now_ms;
}

/* parts is taken (malloc); each has store, uid, transactional, next, limits and maybe error; the
 * rest is set here. `producers` and `committed` are the caller's to set. */
void fetch_init(struct fetch *f, struct fetch_part *parts, int32_t count, size_t bytes_max);
void fetch_fini(struct fetch *f);
void fetch_look(struct fetch *f);
/* This partition cannot be read any more. */
void fetch_fail(struct fetch *f, struct fetch_part *p, enum kerr error);
/* The store goes away: its partitions fail with KAFKA_STORAGE_ERROR, and what was read of them is
 * given back, for it would keep the store from being opened again. */
void fetch_lose_store(struct fetch *f, const struct store *store);
/* Before a reply: committed records that were read a while ago need the list of the transactions
 * that were aborted among them. Partitions of which one has been forgotten meanwhile fail; others
 * are answered with what was read, wherever the log start is now. */
void fetch_check_aborted(struct fetch *f);
#define FETCH_AHEAD_BYTES_MIN (256u << 10) /* batches that are worth the way to a worker … */
#define FETCH_AHEAD_SHARE     4 /* … and of the cache at most this part each, which leaves room */
/* After fetch_read: the partition whose next batch is worth reading into a cache of that size,
 * where it will still be when the reader comes for it. NULL: none. */
const struct fetch_part *fetch_ahead(const struct fetch *f, size_t cache_bytes);
/* At most FETCH_READ_BYTES_MAX, or one batch. Blocks; nobody else touches f meanwhile. */
void fetch_read(struct fetch *f);

/* Is there nothing to wait for any more? Kafka's rule: enough bytes, an error, or a log that has
 * parted from the client's; a partition that is not known at all keeps nobody from waiting for the
 * others. One that has more than was taken counts as much as its limit allows: whole batches seldom
 * fill it to the byte, and waiting would bring no more. */
bool fetch_is_enough(const struct fetch *f, size_t bytes_min);

/* KERR_NONE, or why a client that believes in `epoch` (-1: in none) is told nothing (KIP-320). */
static inline enum kerr fetch_check_epoch(int32_t epoch, int32_t now)
{
    if (epoch < 0 || epoch == now) {
        return KERR_NONE;
    }
    return epoch < now ? KERR_FENCED_LEADER_EPOCH : KERR_UNKNOWN_LEADER_EPOCH;
}

/* Bytes read of one partition. */
size_t fetch_part_bytes(const struct fetch_part *p);
/* Memory held for what was read, all partitions. */
size_t fetch_held_bytes(const struct fetch *f);

#endif
