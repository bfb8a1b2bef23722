/* Inside plugins/capture: what its files know of each other. Nobody else includes this.
 *
 *   capture.c   a publish: match, copy into the ring, on_full
 *   child.c     the writer's process: listened to, started again
 *   spawn.c     starting it
 *   streams.c   configured streams
 *   stats.c     counters: $SYS, and the log at the end
 *
 * One thread, the broker's: with a second one its own work would cost more (see link.h). */
#ifndef CULEX_CAPTURE_INTERNAL_H
#define CULEX_CAPTURE_INTERNAL_H

#include "plugins/capture/capture.h"
#include "plugins/link/link.h"

#include "shared/base/clock.h"
#include "shared/base/ring.h"
#include "shared/mqtt/filter.h"
#include "shared/mqtt/mapping.h"

#include <limits.h>
#include <sys/types.h>

#define NO_RING_NUMBER UINT32_MAX /* the link's is never that */
#define SETS_WAIT_MAX 16 /* configurations that wait for the writer: each may have streams */

/* --- configured streams: one immutable set per configuration ---------------------------------- */

struct stream {
    const struct config_stream *config;
    uint64_t id;
    unsigned needs;
    bool fsync; /* durability */
    struct stream_counters *counters;
};

struct stream_set {
    struct config config;
    struct stream *streams;   /* config.stream_count of them */
    struct filter_tree *tree; /* values: indexes of streams */
};
/* Takes config over. NULL: no memory, or too many names (config is gone as well). */
struct stream_set *stream_set_new(struct link *link, struct config *config);
void stream_set_free(struct stream_set *set);
/* Against what is known of the store. ERR_INVALID: mistakes. */
enum err streams_check(struct link *link, const struct config *config, struct buf *mistakes);

/* --- the writer's process --------------------------------------------------------------------- */

struct child {
    pid_t pid;  /* 0: none */
    int socket; /* -1: none, or it has closed its end and only has to be waited for */
    int memory; /* of the link */
    int64_t started_us, next_try_us, watched_us;
    int backoff_ms;
    uint64_t sent; /* number of the newest configuration that it was sent */
    int status;    /* with which the last one ended, as waitpid has it */
    char why[256]; /* what became of it */
    char program[PATH_MAX]; /* what is run; "": not found yet */
    struct log_limit ended_log;
    bool told; /* that it ended, and not yet that it runs again */
};

/* A configuration on its way to the writer. */
struct packed_set {
    uint64_t number;
    int fd; /* config_pack's bytes */
};

/* --- the capture itself ----------------------------------------------------------------------- */

struct capture {
    struct link *link;
    struct stream_set *set;
    struct clock_near now;
    bool fsync_asked; /* by a matched stream */
    size_t matched_count;
    /* The ring that the writer has handed over last. */
    uint32_t ring_number; /* usable while it is the link's */
    struct ring ring;
    uint32_t matched[PUBLISH_STREAMS_MAX];
    uint64_t matched_ids[PUBLISH_STREAMS_MAX];

    char data[PATH_MAX];
    struct config_store store_config;
    bool stuck;              /* a wait for room was in vain … */
    uint64_t stuck_consumed; /* … and nothing has been consumed since */
    bool disk_stuck;         /* a wait for the disk was in vain … */
    uint64_t disk_stuck_pos; /* … and this frame is not on it yet */
    struct {
        enum reason reason;
        bool dropped;
        uint64_t bytes, bytes_max; /* of a publish that is too large; 0: its properties are */
    } refusal; /* of the publish before */
    struct log_limit refused_log[REASON_COUNT];

    struct child child;
    struct packed_set sets[SETS_WAIT_MAX + 1]; /* what the store has seen last, and those since */
    size_t set_count;
    uint64_t set_number; /* of the newest */
    struct buf *mistakes; /* capture_open's, until the writer has opened ring and store … */
    enum err opened;      /* … and what came of it; ERR_AGAIN: not known yet */
    uint32_t reload_number; /* of the writer's newest wish for a reload */
    capture_read_fn *read; /* plugin.c's; NULL: nothing is read again */

    uint32_t cursor;     /* stats.c: where publishing goes on */
    bool pass;           /* stats.c: a pass over the counters is under way … */
    int64_t pass_us;     /* … and when the last one began */
    uint64_t shown[16];  /* stats.c: what was published last, hashed */
    struct shown *shown_streams; /* stats.c: LINK_STREAMS_MAX of them */
};

/* true: the ring is there until ring_leave. */
static inline bool ring_enter(struct capture *c)
{
    struct link *l = c->link;
    atomic_store_explicit(&l->ring_busy, 1, memory_order_relaxed);
    link_fence(l);
    if (atomic_load_explicit(&l->ring_number, memory_order_acquire) == c->ring_number) {
        return true;
    }
    atomic_store_explicit(&l->ring_busy, 0, memory_order_release);
    return false;
}

static inline void ring_leave(struct capture *c)
{
    atomic_store_explicit(&c->link->ring_busy, 0, memory_order_release);
}

/* Starts the writer and waits until it has opened ring and store, or knows that it cannot: then it
 * goes on trying. ERR_LOCKED, ERR_INVALID (the configuration contradicts the store), ERR_IO (it
 * cannot be started): sentences in mistakes. */
enum err child_start(struct capture *c, struct buf *mistakes) MUST_CHECK;
/* Reads what the writer has to say; starts it again when it has ended. Cheap when there is
 * nothing. */
void child_watch(struct capture *c);
/* The writer has asked for that: the configuration is read again, and it is told what came of it.
 * Between publishes. */
void child_read_config(struct capture *c);
/* Ends the writer after a last drain. false: it hangs in the disk and was left behind. */
bool child_stop(struct capture *c);
/* Queues a configuration for the writer, packed. ERR_FULL: too many wait. */
enum err child_configure(struct capture *c, const struct config *config,
                         struct buf *mistakes) MUST_CHECK;
/* Does the writer run, as far as is known? NULL, or why not. */
const char *child_trouble(const struct capture *c);

/* spawn.c. Starts the process, and sets pid and socket. */
enum err child_spawn(struct child *ch, struct errmsg *m) MUST_CHECK;
/* Has it ended? Then its status is known, and pid is 0. Does not wait. */
bool child_reap(struct child *ch);

/* stats.c. false: no memory. */
bool stats_init(struct capture *c);
void stats_log_final(struct capture *c);

#endif
