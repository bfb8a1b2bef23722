/* The log on RocksDB: one directory, one writer process, followers in other processes.
 *
 * A store holds topics; a topic has partitions; a partition is a run of record batches with dense
 * offsets. Beside them it keeps small rows for its owner (consumer offsets, capture's position
 * in its ring), written in the same atomic batch as the records.
 *
 * The same calls serve a writer and a follower; above this header nobody knows which it is, except
 * where a call says "writer". Only shared/store includes rocksdb/c.h.
 *
 * Threads: append, put, commit and topic changes of a writer belong to one thread. Everything else
 * may be called from any thread. A call marked "blocks" may read the disk or wait for the follower
 * to catch up: never from an event loop. */
#ifndef CULEX_STORE_STORE_H
#define CULEX_STORE_STORE_H

#include <sys/uio.h>

#include "shared/base/buf.h"
#include "shared/base/bytes.h"
#include "shared/base/err.h"

#define STORE_FORMAT_VERSION     2
#define STORE_NAME_BYTES_MAX     249 /* Kafka's limit for a topic name */
#define STORE_PARTITIONS_MAX     10000   /* of one topic */
#define STORE_UIDS_MAX           (1u << 20) /* partitions ever made in one store */
#define STORE_ATTRIBUTES_BYTES_MAX (64u << 10)
#define STORE_CACHE_BYTES_DEFAULT  (8u << 20)

struct store;

enum store_role { STORE_WRITER, STORE_FOLLOWER };

struct store_options {
    const char *dir; /* the store's own directory, e.g. DATA/captured; made when absent (writer) */
    enum store_role role;
    const char *follower_dir; /* follower: RocksDB keeps its log there, e.g. DATA/server/follower */
    uint64_t limit_bytes;     /* writer: whole log, oldest segments go first; 0: no limit */
    uint64_t segment_bytes;   /* writer: 0: from limit_bytes, 16 MB without a limit */
    uint64_t segment_ms;      /* writer: a segment lives no longer; 0: 1 hour */
    uint64_t tail_bytes;      /* writer: size of the tail ring; 0: 16 MB */
    uint32_t flush_interval_ms; /* writer: WAL is synced this often; 0: 10 ms */
    uint64_t cache_bytes;     /* block cache; 0: STORE_CACHE_BYTES_DEFAULT */
    uint64_t clean_map_bytes; /* writer: keys known at once while cleaning; 0: 48 MB */
};

/* ERR_NOT_FOUND   follower: no store there yet
 * ERR_AGAIN       follower: there is one, which a writer is still making, or makes anew
 * ERR_LOCKED      writer: another process writes here (the sentence names its pid), or slices of an
 *                 earlier opening in this process are still held
 * ERR_VERSION     made by a newer version, or not a store of ours
 * ERR_FULL, ERR_IO, ERR_CORRUPT, ERR_INVALID. m always names the directory. Blocks. */
enum err store_open(struct store **out, const struct store_options *o, struct errmsg *m) MUST_CHECK;
/* Writer: pending appends are thrown away, the WAL is synced. Slices still held keep what they need
 * alive; they must be freed before the process ends. Blocks. */
void store_close(struct store *s);

/* --- topics ----------------------------------------------------------------------------------- */

enum store_cleanup { STORE_CLEANUP_DELETE = 1, STORE_CLEANUP_COMPACT = 2 };

/* How a compacted topic is cleaned: Kafka's settings of these names. */
struct store_compaction {
    bool given; /* false: Kafka's defaults, whatever the rest says */
    double min_cleanable_dirty_ratio;  /* 0 … 1 */
    int64_t min_compaction_lag_ms;
    int64_t max_compaction_lag_ms;     /* INT64_MAX: none */
    int64_t delete_retention_ms;
};

struct store_topic {
    char name[STORE_NAME_BYTES_MAX + 1];
    struct uuid id;
    uint32_t uid; /* of partition 0; for the others ask store_topic_uid */
    int32_t partition_count;
    const uint32_t *uids;    /* of all partitions, of a topic that grew; NULL: they follow uid */
    int64_t created_ms;
    int64_t retention_ms;    /* -1: for ever */
    int64_t retention_bytes; /* per partition; -1: no limit */
    int64_t segment_ms;      /* a segment that holds some of it lives no longer; 0: the store's */
    int64_t segment_bytes;   /* nor holds much more of one of its partitions; 0: the store's */
    uint32_t cleanup;        /* set of enum store_cleanup */
    struct store_compaction compaction;
    char *attributes;        /* owner's JSON text, opaque here; never NULL */
};

/* The partition's number in its store, by which all calls below know it. Never used twice in one
 * store. partition: 0 … partition_count - 1. */
static inline uint32_t store_topic_uid(const struct store_topic *t, int32_t partition)
{
    return t->uids ? t->uids[partition] : t->uid + (uint32_t)partition;
}

/* A snapshot of all topics, sorted by name. Immutable and counted: cheap to take from any
 * thread. */
struct store_catalog {
    uint64_t version; /* grows with every change */
    size_t count;
    struct store_topic *topics;
};
const struct store_catalog *store_catalog_ref(struct store *s);
void store_catalog_unref(struct store *s, const struct store_catalog *c);
const struct store_topic *store_catalog_find(const struct store_catalog *c, struct slice name);

/* Writer. Fills id (when it is zero), uid and created_ms of t. This and the calls below write at
 * once, with a WriteBatch of their own, whatever is pending: so a topic exists before its first
 * batch can. Its few bytes go into what is kept free of the disk: whoever has a choice asks
 * store_has_room before.
 * ERR_EXISTS, ERR_INVALID (name, partitions), ERR_FULL (not a byte is left), ERR_IO. */
enum err store_topic_create(struct store *s, struct store_topic *t, struct errmsg *m) MUST_CHECK;
/* Writer. How many partitions can still be made in this store, ever. */
uint32_t store_partitions_left(const struct store *s);
/* Writer. Adds partitions, up to `count` in all (Kafka's CreatePartitions). They begin empty.
 * ERR_NOT_FOUND, ERR_INVALID (not more than it has, or too many), ERR_FULL, ERR_IO. */
enum err store_topic_grow(struct store *s, struct slice name, int32_t count,
                          struct errmsg *m) MUST_CHECK;
/* Writer. Changes retention, segment_ms, segment_bytes, cleanup, compaction and attributes (not
 * name, id, uids, partition_count). */
enum err store_topic_alter(struct store *s, const struct store_topic *t,
                           struct errmsg *m) MUST_CHECK;
/* The same for many topics in one change, which costs little more than one of them. Those that are
 * not there, or whose values may not be, stay as they are and are counted in *refused, m saying why
 * of the last one; any other error: nothing has changed. */
enum err store_topics_alter(struct store *s, const struct store_topic *topics, size_t count,
                            size_t *refused, struct errmsg *m) MUST_CHECK;
/* Writer. What is pending for the topic is still written by the next commit, which succeeds as if
 * it had come before; nobody can read it. ERR_NOT_FOUND, ERR_IO, ERR_FULL. */
enum err store_topic_delete(struct store *s, struct slice name, struct errmsg *m) MUST_CHECK;

/* --- write (writer; one thread) --------------------------------------------------------------- */

/* Adds one batch to the pending commit: assigns its base offset, patches it and the leader epoch
 * into the bytes (which are copied). ERR_NOT_FOUND: no such partition; ERR_CORRUPT; ERR_NOMEM;
 * ERR_FULL or ERR_IO when the first append of a commit had to begin a segment and could not: see
 * store_state. */
enum err store_append(struct store *s, uint32_t uid, uint8_t *batch, size_t len,
                      int64_t *base_offset) MUST_CHECK;
/* Owner's rows, in the same pending commit. Keys 1 … 1024 bytes. */
enum err store_put(struct store *s, struct slice key, struct slice value) MUST_CHECK;
enum err store_delete(struct store *s, struct slice key) MUST_CHECK;
/* Writes all that is pending as one WriteBatch, then puts the batches into the tail ring, publishes
 * the new ends and wakes the waiters. On failure nothing of it is published, nothing is pending any
 * more, and offsets are as before. ERR_FULL with STORE_OK: the disk is nearly full, later commits
 * may succeed. With STORE_BROKEN the WriteBatch may yet turn out to be in the log, whole, when the
 * store is opened again: the owner's rows in it say so. Nothing pending: OK at once. */
enum err store_commit(struct store *s, struct errmsg *m) MUST_CHECK;
/* The same for a few rows without appends, which whatever makes room cannot do without: also where
 * the disk is so full that nothing else is taken. */
enum err store_commit_rows(struct store *s, struct errmsg *m) MUST_CHECK;
/* ERR_FULL: not for appends, nor for topics that somebody would like to have. */
enum err store_has_room(struct store *s, struct errmsg *m) MUST_CHECK;
void store_rollback(struct store *s);
/* Bytes pending. */
size_t store_pending_bytes(const struct store *s);
/* Writer. All that was committed before is on disk when this is OK, without waiting for the next
 * interval. A failure breaks the store. Any thread. Blocks. */
enum err store_sync(struct store *s, struct errmsg *m) MUST_CHECK;
/* Raises the log start of a partition (DeleteRecords); never lowers it. Own WriteBatch, whatever is
 * pending. ERR_RANGE beyond the end, to which what is pending does not belong yet. */
enum err store_trim(struct store *s, uint32_t uid, int64_t log_start, struct errmsg *m) MUST_CHECK;

/* --- compaction (writer) ---------------------------------------------------------------------- */

/* Topics with STORE_CLEANUP_COMPACT are cleaned by store_tick and a thread of the store, as Kafka's
 * cleaner does it: see store_compact.c. Offsets do not change; a batch can lose records, and
 * batches without records are absorbed by the one before them, or stay as a header. */
struct store_aborted {
    int64_t producer_id;
    int64_t first, last; /* offsets: of its first batch, of its marker */
};
struct store_stability {
    int64_t last_stable;           /* nothing at or above is touched */
    struct store_aborted *aborted; /* transactions that end below it; malloc'd, the store frees */
    size_t aborted_count;
};
/* Asked on the writing thread, from store_tick, when a partition is about to be cleaned. On an
 * error it is not, this time. */
typedef enum err store_stability_fn(void *arg, uint32_t uid, struct store_stability *out);
/* NULL, as at first: all is stable, nothing was aborted. */
void store_set_stability(struct store *s, store_stability_fn *fn, void *arg);

/* Writing thread. Cleaning has gone over the partition up to *to: below that, no data is left of
 * what the stability said was aborted, and a marker of an abort that it does not speak of any more
 * is dropped. delete_retention_ms: the topic's. ERR_NOT_FOUND. */
enum err store_cleaned(struct store *s, uint32_t uid, int64_t *to,
                       int64_t *delete_retention_ms) MUST_CHECK;

/* Housekeeping by the owner's thread, a few times a second: retention, segments by age, index rows.
 * Cheap when there is nothing to do. now_ms is wall time. */
enum err store_tick(struct store *s, int64_t now_ms, struct errmsg *m) MUST_CHECK;

/* After ERR_FULL or ERR_IO the writer may be in an error state in which every commit fails; then
 * the owner closes it and opens it again, with back-off. */
enum store_state { STORE_OK, STORE_BROKEN };
enum store_state store_state(struct store *s);

/* --- read ------------------------------------------------------------------------------------- */

struct store_offsets {
    int64_t log_start;
    int64_t end;     /* next offset to be written: Kafka's high watermark and LEO */
    int64_t durable; /* below it everything is on disk */
    int32_t leader_epoch;
};
/* From the shared page, without a lock. ERR_NOT_FOUND: no such partition (deleted, or unknown
 * yet). */
enum err store_offsets(struct store *s, uint32_t uid, struct store_offsets *o) MUST_CHECK;

/* Copies whole batches that hold `offset` and what follows out of the tail ring: no disk, no wait,
 * for the event loop. At most max_bytes, but the first batch always when at_least_one.
 * OK with *next = offset after the last batch copied (== offset when the log ends there).
 * ERR_NOT_FOUND: not in the ring any more (ask store_read). ERR_RANGE: outside log start … end.
 * ERR_NOMEM. */
enum err store_read_tail(struct store *s, uint32_t uid, int64_t offset, size_t max_bytes,
                         bool at_least_one, struct buf *out, int64_t *next) MUST_CHECK;

/* Whole batches that hold `offset` and what follows, pinned in RocksDB's memory: no copy.
 * Free from any thread. Holds files open and memory pinned: free soon. */
struct store_slices {
    size_t count;
    size_t bytes;
    int64_t next;        /* offset after the last batch */
    const struct iovec *iov; /* count of them, each one batch */
};
/* Blocks. ERR_RANGE; ERR_AGAIN: below the published end but not readable yet (the follower's writer
 * died in a bad moment, or it is reopening): try again; ERR_IO, ERR_CORRUPT: logged. An empty
 * answer at the end of the log is OK with count 0. */
enum err store_read(struct store *s, uint32_t uid, int64_t offset, size_t max_bytes,
                    bool at_least_one, struct store_slices **out, struct errmsg *m) MUST_CHECK;
void store_slices_free(struct store_slices *x);

/* First record (in offset order) with timestamp >= ts: its offset and timestamp. ERR_NOT_FOUND when
 * there is none. Exact per record. Blocks. */
enum err store_find_timestamp(struct store *s, uint32_t uid, int64_t ts, int64_t *offset,
                              int64_t *timestamp, struct errmsg *m) MUST_CHECK;
/* Greatest timestamp and the first offset that has it (ListOffsets -3). ERR_NOT_FOUND: empty.
 * Blocks. */
enum err store_find_max_timestamp(struct store *s, uint32_t uid, int64_t *offset,
                                  int64_t *timestamp, struct errmsg *m) MUST_CHECK;
/* End offset of the last epoch <= epoch (OffsetForLeaderEpoch); the epoch itself in *found.
 * ERR_NOT_FOUND for an epoch above the current one, ERR_AGAIN on a follower that has yet to catch
 * up. May read a row for an epoch that is not the current one. */
enum err store_epoch_end(struct store *s, uint32_t uid, int32_t epoch, int32_t *found,
                         int64_t *end) MUST_CHECK;

/* Bytes of a partition's batches, from the interval on that the log start lies in. *read_max: how
 * much may still be read to add up what came last; what is read is taken off it, and at 0 that
 * part, a megabyte or less, is left out. ERR_NOT_FOUND; ERR_AGAIN, ERR_IO: *bytes is what could be
 * seen. Blocks. */
enum err store_partition_bytes(struct store *s, uint32_t uid, size_t *read_max, uint64_t *bytes,
                               struct errmsg *m) MUST_CHECK;

/* Owner's rows with a prefix, in key order, until fn returns false. Blocks. */
typedef bool store_row_fn(void *arg, struct slice key, struct slice value);
enum err store_rows(struct store *s, struct slice prefix, store_row_fn *fn, void *arg,
                    struct errmsg *m) MUST_CHECK;

/* --- waiting and health ----------------------------------------------------------------------- */

/* A number that changes with every published commit and catalog change. */
uint32_t store_sequence(struct store *s);
/* Blocks until the sequence differs from `seen` or timeout_ms passed (futex on the page). */
void store_wait(struct store *s, uint32_t seen, int timeout_ms);
/* Ends waits at once, for shutdown (this process only). */
void store_wake(struct store *s);
/* True while a writer process has the store open. */
bool store_writer_alive(struct store *s);

struct store_stats {
    uint64_t bytes;         /* of live files and WAL */
    uint64_t segments;      /* live */
    uint64_t holes;         /* follower: answers refused by the contiguity check, then healed */
    uint64_t reopens;       /* follower */
    int64_t recovered_loss; /* records below the last durable end that recovery did not find: the
                             * disk is at fault */
};
void store_get_stats(struct store *s, struct store_stats *st);

#endif
