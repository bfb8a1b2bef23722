/* Inside plugins/capture: what its files know of each other. Nobody else includes this.
 *
 *   capture.c   the broker's thread: match, copy into the ring, on_full
 *   writer.c    the writer thread: ring → batches → store
 *   writer_open.c  the same thread: opens ring and store, and mends them
 *   streams.c   configured streams and the store's topics
 *   stats.c     counters: $SYS, and the log at the end
 *   loglines.c  log lines on their way to the broker's thread */
#ifndef CULEX_CAPTURE_INTERNAL_H
#define CULEX_CAPTURE_INTERNAL_H

#include "plugins/capture/capture.h"

#include "shared/base/ring.h"
#include "shared/mqtt/filter.h"
#include "shared/mqtt/mapping.h"
#include "shared/store/store.h"

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

/* Without memory an element is not added, and its hh.tbl is NULL: left to itself uthash ends the
 * process, which is the broker. */
#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#define CACHE_LINE 64

/* Why a publish did not get into the log. */
enum reason {
    REASON_RING_FULL,   /* the writer is too slow, or the store does not take anything */
    REASON_TOO_LARGE,   /* over a quarter of the ring, or too many properties */
    REASON_UNAVAILABLE, /* there is no ring: the data directory cannot be used */
    REASON_DISK,        /* durability = fsync, and the disk does not confirm */
    REASON_UNKNOWN,     /* left in the ring for a stream that was never made */
    REASON_CORRUPT,     /* left in the ring by a crash of the machine, unreadable */
    REASON_COUNT,
};
const char *reason_name(enum reason r); /* as in $SYS: ring-full */

typedef _Atomic uint64_t counter;

/* Of one stream name, for the life of the process. Each half has one writing thread. */
struct stream_counters {
    uint64_t id;
    char name[STORE_NAME_BYTES_MAX + 1];
    struct stream_counters *next;       /* never changes once linked */
    uint64_t shown[32];                 /* stats.c: values last published, broker's thread */
    bool shown_once;
    _Alignas(CACHE_LINE) counter published; /* broker's thread */
    counter rejected[REASON_COUNT];
    counter dropped[REASON_COUNT];
    _Alignas(CACHE_LINE) counter recovered; /* writer: found in the ring at start; published too */
    counter stored;
    counter stored_bytes; /* of batches */
    counter filtered;
    counter lost[REASON_COUNT]; /* dropped by the writer */
    counter shadowed;     /* user properties named mqtt.* */
    counter unkeyed;      /* records without the key that the stream asks for */
    counter last_partition, last_offset; /* of the newest record */
};

/* Only for the one thread that writes the counter. */
static inline void counter_add(counter *c, uint64_t n)
{
    atomic_store_explicit(c, atomic_load_explicit(c, memory_order_relaxed) + n,
                          memory_order_relaxed);
}
static inline uint64_t counter_get(const counter *c)
{
    return atomic_load_explicit(c, memory_order_relaxed);
}

/* --- configured streams: one immutable set per configuration ---------------------------------- */

struct stream {
    const struct config_stream *config;
    uint64_t id;
    unsigned needs;
    struct stream_counters *counters;
};

struct stream_set {
    _Atomic int refs; /* broker's thread, and the writer's queue until the store has seen it */
    struct stream_set *next; /* in that queue; under the capture's lock */
    struct config config;
    struct stream *streams; /* config.stream_count of them */
    struct filter_tree *tree; /* values: indexes of streams */
};
/* Takes config over. NULL: no memory (config is gone as well). */
struct stream_set *stream_set_new(struct capture *c, struct config *config);
void stream_set_unref(struct stream_set *set);

/* Partitions that a stream of the store has, whether configured or not. */
struct known_stream {
    uint64_t id;
    int32_t partitions;
};

/* --- the capture itself ----------------------------------------------------------------------- */

enum capture_state {
    STATE_RUNNING,
    STATE_NO_RING,  /* nothing can be captured */
    STATE_NO_STORE, /* the ring fills */
};

struct capture {
    char data[PATH_MAX];
    char ring_path[PATH_MAX];
    char store_dir[PATH_MAX];
    struct config_store store_config;

    /* Broker's thread. */
    struct stream_set *set;
    uint32_t matched[PUBLISH_STREAMS_MAX];
    uint64_t matched_ids[PUBLISH_STREAMS_MAX];
    size_t matched_count;
    bool stuck;             /* a wait for room was in vain … */
    uint64_t stuck_consumed; /* … and nothing has been consumed since */
    bool disk_stuck;         /* a wait for the disk was in vain … */
    uint64_t disk_stuck_pos; /* … and this frame is not on it yet */
    struct {
        enum reason reason;
        bool dropped;
        uint64_t bytes, bytes_max; /* of a publish that is too large; 0: its properties are */
    } refusal; /* of the publish before */
    struct log_limit refused_log[REASON_COUNT];
    struct stream_counters *cursor; /* stats.c: where publishing goes on */
    bool pass;                      /* stats.c: a pass over the counters is under way */
    uint64_t shown[16];             /* stats.c: what was published last, hashed */

    /* Opened by the writer, then used by the broker's thread (writing) and the writer (reading). */
    struct ring ring;
    _Atomic bool ring_ready; /* release: ring may be used, between ring_enter and ring_leave */

    _Alignas(CACHE_LINE) counter received; /* broker's thread: publishes seen */
    counter unmatched;
    _Atomic bool ring_busy; /* broker's thread is between ring_enter and ring_leave */

    /* Either side. */
    _Alignas(CACHE_LINE) _Atomic uint32_t sleeping; /* futex: 1 while the writer waits for frames */
    _Atomic uint32_t stop;                          /* futex: 1 from capture_close on */
    _Atomic bool tick_due;
    _Atomic uint64_t sync_wanted;  /* a fsync stream's publish waits for what lies below it */
    _Atomic uint64_t durable_pos;  /* ring position below which all is on disk */
    _Atomic int state;             /* enum capture_state */
    _Atomic int64_t oldest_ms;     /* timestamp of the oldest frame not yet stored; 0: none */
    _Atomic int sys_interval_ms;
    counter commits;   /* writer's, as the next three */
    counter log_bytes; /* of the log on disk, when last looked at */
    counter orphaned;  /* frames' streams that nobody knows */
    counter corrupt;   /* frames that could not be read */

    pthread_mutex_t lock; /* for what follows */
    struct stream_set *next_sets; /* oldest first; at most NEXT_SETS_MAX */
    struct known_stream *known;
    size_t known_count;
    char error[sizeof(((struct errmsg *)0)->text)]; /* why state is not STATE_RUNNING */

    /* A list, newest first; only grows, from any thread. */
    _Atomic(struct stream_counters *) counters;
    struct writer *writer;
    bool writer_fences; /* before it sleeps, for all threads; set before it starts */
    pthread_t thread;
    bool thread_running;
};

/* The counters of a stream name, made when there are none. NULL: no memory. Takes the lock. */
struct stream_counters *capture_counters(struct capture *c, const char *name);
void capture_set_state(struct capture *c, enum capture_state state, const char *why);
/* Wakes the writer when it sleeps. */
void capture_wake(struct capture *c);

/* Between a store of the broker's thread and a load of what the writer stores. Where the kernel can
 * fence all threads at once, the writer does, and here the compiler alone is held back. */
static inline void broker_fence(const struct capture *c)
{
    if (c->writer_fences) {
        atomic_signal_fence(memory_order_seq_cst);
    } else {
        atomic_thread_fence(memory_order_seq_cst);
    }
}

/* Broker's thread. true: the ring is there until ring_leave. */
static inline bool ring_enter(struct capture *c)
{
    atomic_store_explicit(&c->ring_busy, true, memory_order_relaxed);
    broker_fence(c);
    if (atomic_load_explicit(&c->ring_ready, memory_order_acquire)) {
        return true;
    }
    atomic_store_explicit(&c->ring_busy, false, memory_order_release);
    return false;
}

static inline void ring_leave(struct capture *c)
{
    atomic_store_explicit(&c->ring_busy, false, memory_order_release);
}

int futex_wait_ms(_Atomic uint32_t *word, uint32_t value, int timeout_ms);
int futex_wait_us(_Atomic uint32_t *word, uint32_t value, int64_t timeout_us);
void futex_wake(_Atomic uint32_t *word);

/* --- the writer ------------------------------------------------------------------------------- */

/* A stream as the writer knows it: configured, or found in the store, or left in the ring. */
struct writer_stream {
    UT_hash_handle hh;
    uint64_t id;
    struct config_stream config; /* own copy, without filters */
    struct stream_counters *counters;
    uint32_t uid;            /* of partition 0 */
    int32_t partition_count; /* 0: not in the store */
    struct slot **slots;     /* per partition: the batch of this tick, or NULL */
    int32_t sticky;          /* partition for records without a key */
    struct writer_stream *next_touched; /* in this tick; list ends in itself */
    /* Counted in this tick; added to the counters when it is committed. */
    uint64_t tick_published, tick_stored, tick_bytes, tick_shadowed, tick_unkeyed;
    uint64_t tick_lost[REASON_COUNT];
    int64_t tick_partition, tick_offset;
};

struct writer;
enum err writer_new(struct capture *c) MUST_CHECK;
/* Starts the thread and waits until it has opened ring and store, or knows that it cannot: then it
 * goes on trying. ERR_LOCKED, ERR_INVALID (the configuration contradicts the store): sentences in
 * mistakes. Only that thread touches ring file and store, from opening to closing. */
enum err writer_start(struct capture *c, struct buf *mistakes) MUST_CHECK;
/* Joins the thread after a last drain; frees the writer. false: it hangs in the disk, and the
 * capture must stay. */
bool writer_stop(struct capture *c);

/* streams.c, on the thread that owns the store. Brings catalog and configuration together. Each
 * contradiction is a line in mistakes (may be NULL: then it is logged, and the store's side
 * holds). */
enum err streams_sync(struct capture *c, struct store *s, struct writer_stream **by_id,
                      const struct stream_set *set, struct buf *mistakes, struct errmsg *m);
void streams_free(struct writer_stream **by_id);
/* Against what is known of the store; broker's thread. ERR_INVALID: mistakes. */
enum err streams_check(struct capture *c, const struct config *config, struct buf *mistakes);

/* stats.c */
void stats_log_final(struct capture *c);

#endif
