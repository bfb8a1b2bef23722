/* The link between the broker and its writer: a piece of shared memory, and a socket.
 *
 *   broker (plugins/capture)                            writer (plugins/writer)
 *     copies publishes into the ring ──── capture.ring ──▶ reads them, writes the log
 *     counts what it refuses ─────────── struct link ───── counts what it stores
 *     hands over configurations ────────── socket ───────▶
 *                               ◀───────── socket ───────  rings, log lines, how opening went
 *
 * Two processes, because a second thread makes the broker slower whatever it does: from its first
 * thread on, glibc locks what it did not lock before in malloc and read. It also keeps what a
 * database may do (abort, run out of memory) away from the broker. Either may die at any instant,
 * so nothing here is a lock: each word has one writing side, or is claimed with one
 * compare-and-swap.
 *
 * The memory is of one build: the writer refuses to start beside a plugin of another one. */
#ifndef CULEX_LINK_LINK_H
#define CULEX_LINK_LINK_H

#include "shared/base/bytes.h"
#include "shared/base/err.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define CACHE_LINE          64
#define LINK_STREAMS_MAX    8192 /* names that a broker meets in its life */
#define LINK_NAME_BYTES_MAX 255
#define LINK_TEXT_BYTES_MAX (32u << 10) /* of a message; longer ones are cut */

/* Descriptors that the writer is started with. */
#define LINK_SOCKET_FD 3
#define LINK_MEMORY_FD 4

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

/* Only for the one side that writes the counter. */
static inline void counter_add(counter *c, uint64_t n)
{
    atomic_store_explicit(c, atomic_load_explicit(c, memory_order_relaxed) + n,
                          memory_order_relaxed);
}
static inline uint64_t counter_get(const counter *c)
{
    return atomic_load_explicit(c, memory_order_relaxed);
}

/* What the writer has done with a stream's frames. */
struct stream_totals {
    uint64_t recovered; /* found in the ring at start; published too */
    uint64_t stored;
    uint64_t stored_bytes; /* of batches */
    uint64_t filtered;
    uint64_t lost[REASON_COUNT];          /* dropped by the writer */
    uint64_t shadowed;                    /* user properties named mqtt.* */
    uint64_t unkeyed;                     /* records without the key that the stream asks for */
    uint64_t last_partition, last_offset; /* of the newest record */
    uint64_t pos;                         /* frames of the ring below it are in these numbers */
};

/* Of one stream name, for the life of the broker. */
struct stream_counters {
    char name[LINK_NAME_BYTES_MAX + 1]; /* either side writes it, both the same */
    _Atomic bool named;
    _Alignas(CACHE_LINE) counter published; /* broker */
    counter rejected[REASON_COUNT];
    counter dropped[REASON_COUNT];
    /* Writer: totals[totals_number % 2] hold; the others are the next ones in the making. So a
     * writer that is killed leaves numbers and position that belong together. */
    _Alignas(CACHE_LINE) _Atomic uint32_t totals_number;
    _Atomic int32_t partitions; /* writer: that the store has; 0: the stream is not in it */
    struct stream_totals totals[2];
};

enum capture_state {
    STATE_RUNNING,
    STATE_NO_RING,  /* nothing can be captured */
    STATE_NO_STORE, /* the ring fills */
};

/* What the broker is asked to attend to, as bits of `due`. */
#define DUE_COUNTERS 1u /* a pass over the counters */
#define DUE_MESSAGES 2u /* something came through the socket */
#define DUE_RELOAD   4u /* the configuration is to be read again */

struct link {
    char build[32]; /* of who made it */
    bool writer_fences; /* see link_fence; set before the writer starts */

    _Alignas(CACHE_LINE) counter received; /* broker, as the next four */
    counter unmatched;
    _Atomic uint32_t ring_busy;    /* between ring_enter and ring_leave */
    _Atomic uint64_t sync_wanted;  /* a fsync stream's publish waits for what lies below it */
    _Atomic uint64_t sets_made;    /* number of the newest configuration, before it is in force */
    _Atomic int sys_interval_ms;
    _Atomic uint32_t opened;       /* a writer of this broker has opened ring and store once */

    _Alignas(CACHE_LINE) _Atomic uint32_t sleeping; /* futex: 1 while the writer waits for frames */
    _Atomic uint32_t stop;        /* futex: 1 when the writer shall end */
    _Atomic uint32_t due;         /* bits; set by the writer, taken by the broker */
    _Atomic uint32_t ring_number; /* the ring that the broker may write to; 0: none */

    _Alignas(CACHE_LINE) _Atomic uint64_t durable_pos; /* writer: below it all is on disk */
    _Atomic uint64_t recovered_end; /* frames below it were in the ring before this broker */
    _Atomic int state;         /* enum capture_state */
    _Atomic uint32_t rings;    /* number of the newest one */
    _Atomic uint32_t position_known; /* the store's note of the ring's position is of this broker */
    _Atomic uint64_t sets_taken; /* configurations that the store has seen */
    counter commits;
    counter log_bytes; /* of the log on disk, when last looked at */
    counter orphaned;  /* frames' streams that nobody knows */
    counter corrupt;   /* frames that could not be read */
    _Atomic uint32_t error_version; /* odd while the text is being written */
    char error[sizeof(((struct errmsg *)0)->text)]; /* why state is not STATE_RUNNING */

    _Atomic uint64_t ids[LINK_STREAMS_MAX]; /* of stream names; 0: free */
    struct stream_counters streams[LINK_STREAMS_MAX];
};

/* Broker: makes the memory (*fd) and maps it. NULL: none to be had. */
struct link *link_make(int *fd);
/* Writer: maps what it was given. ERR_VERSION: of another build; ERR_INVALID: no such memory. */
enum err link_attach(struct link **out, int fd, struct errmsg *m) MUST_CHECK;
void link_unmap(struct link *l);

/* The counters of a stream name, which get a place when they have none. NULL: all are taken. */
struct stream_counters *link_counters(struct link *l, const char *name);
/* By stream_id of the name. NULL: nobody has named it. */
struct stream_counters *link_counters_find(struct link *l, uint64_t id);

/* Either side: the totals, all of one moment. */
struct stream_totals link_totals(const struct stream_counters *s);
/* Writer: adds all of `more`, whose position holds from now on; last_… where there are bytes. */
void link_totals_add(struct stream_counters *s, const struct stream_totals *more);
/* Writer: positions are those of another ring from now on. */
void link_totals_new_ring(struct link *l);

/* Writer: the state, and why it is so. Returns whether that is news. */
bool link_set_state(struct link *l, enum capture_state state, const char *why);
/* Broker: the text, as whole as a writer that was killed has left it. */
void link_error(const struct link *l, char *out, size_t size);

/* Writer: the broker shall look. */
static inline void link_due(struct link *l, uint32_t bits)
{
    atomic_fetch_or(&l->due, bits);
}

/* Broker: between a store of its own and a load of what the writer stores. Where the kernel can
 * fence all threads that asked for it at once, the writer does (link_fence_all), when it goes to
 * sleep or gives a ring up, and here the compiler alone is held back: a fence would wait for the
 * cache lines of the frame, for each message. */
static inline void link_fence(const struct link *l)
{
    if (l->writer_fences) {
        atomic_signal_fence(memory_order_seq_cst);
    } else {
        atomic_thread_fence(memory_order_seq_cst);
    }
}
bool link_fence_register(void);
void link_fence_all(const struct link *l);
void link_wake_sleeping(struct link *l);
/* Broker: wakes the writer when it sleeps. */
static inline void link_wake(struct link *l)
{
    link_fence(l);
    if (atomic_load_explicit(&l->sleeping, memory_order_relaxed)) {
        link_wake_sleeping(l);
    }
}

/* Waits while *word is value, at most so long; may return early. */
void link_wait_us(_Atomic uint32_t *word, uint32_t value, int64_t timeout_us);
void link_wake_word(_Atomic uint32_t *word);

/* --- messages --------------------------------------------------------------------------------- */

enum link_kind {
    LINK_RING,   /* number, descriptor: a ring, open and locked; either way */
    LINK_CONFIG, /* number, descriptor: config_pack's bytes; to the writer */
    LINK_OPENED, /* number: enum err of the first opening, text: mistakes; to the broker */
    LINK_LINE,   /* number: level, text: a line for the broker's log */
    LINK_RELOAD, /* number, to the broker: bound streams have changed, read all files again */
    LINK_RELOADED, /* number of the newest LINK_RELOAD and the enum err of it, text: mistakes; to
                    * the writer, after the LINK_CONFIG that came of it */
};

#define LINK_RELOAD_SHIFT 8 /* LINK_RELOADED: the error below it, LINK_RELOAD's number above */
#define LINK_RELOAD_ERR   0xffu
#define LINK_RELOAD_MAX   0xffffffu

struct link_message {
    uint32_t kind, number;
    int fd; /* -1: none; whoever received it owns it */
    char text[LINK_TEXT_BYTES_MAX];
};

/* ERR_AGAIN: the socket is full; ERR_CLOSED: the other side is gone. fd -1: none. */
enum err link_send(int socket, enum link_kind kind, uint32_t number, const char *text,
                   int fd) MUST_CHECK;
/* ERR_AGAIN: nothing there (without `wait`); ERR_CLOSED: the other side is gone. */
enum err link_receive(int socket, bool wait, struct link_message *m) MUST_CHECK;

#endif
