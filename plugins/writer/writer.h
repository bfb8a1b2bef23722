/* The writer, as its files know it: writer.c has the ticks, writer_open.c opens ring and store and
 * mends them, streams.c brings configuration and store together, orders.c listens to the broker.
 * All of it belongs to one thread, but for what the lock guards. */
#ifndef CULEX_WRITER_WRITER_H
#define CULEX_WRITER_WRITER_H

#include "plugins/link/link.h"

#include "shared/base/log.h"
#include "shared/base/ring.h"
#include "shared/config/config.h"
#include "shared/mqtt/mapping.h"
#include "shared/store/store.h"

#include <limits.h>
#include <pthread.h>
#include <stdlib.h>

/* Without memory an element is not added, and its hh.tbl is NULL: left to itself uthash ends the
 * process. */
#define HASH_NONFATAL_OOM 1
#include <uthash.h>

/* A batch under construction: one per partition that this tick touches. */
struct slot {
    struct batch_builder batch;
    struct writer_stream *stream;
    int32_t partition;
    struct slot *next;
};

/* A stream as the writer knows it: configured, or found in the store, or left in the ring. */
struct writer_stream {
    UT_hash_handle hh;
    uint64_t id;
    struct config_stream config; /* own copy, without filters */
    struct stream_counters *counters;
    int32_t partition_count; /* 0: not in the store */
    uint32_t *uids;          /* per partition, in the store */
    struct slot **slots;     /* per partition: the batch of this tick, or NULL */
    int32_t sticky;          /* partition for records without a key */
    bool unbound;            /* by a client, and deleted */
    struct writer_stream *next_touched; /* in this tick; list ends in itself */
    struct stream_totals tick; /* counted in this tick; added when it is committed */
};

/* A configuration that the broker has sent. */
struct order {
    uint64_t number;
    struct config config;
    struct order *next;
};

struct writer {
    struct link *link;
    int socket;
    char data[PATH_MAX];
    char ring_path[PATH_MAX];
    char store_dir[PATH_MAX];
    struct config_store store_config; /* as it was at start */
    struct order *now;      /* the configuration that holds; never NULL */
    struct ring ring;
    struct store *store;    /* NULL: not open */
    bool opened;            /* … lately */
    struct writer_stream *by_id;
    struct writer_stream *unknown; /* frames came for them, and the store has them not */
    struct mapping mapping;
    struct publish_frame frame;
    struct slot *dirty, *spare;
    size_t spare_count;
    size_t spare_bytes; /* that they hold */
    bool worked;        /* since the last housekeeping */
    struct writer_stream *touched;
    bool ring_open;
    bool ring_gone;  /* no longer at its path: see writer_open.c */
    bool ring_told;  /* the broker has been handed it */
    uint64_t read_pos;
    int64_t next_try_us, housekeeping_us, shown_us;
    int backoff_ms;
    uint64_t order_tried; /* number of the last configuration that the store was shown */
    struct log_limit lost_log;

    pthread_t listener;
    _Atomic bool orphan; /* the broker is gone */
    pthread_mutex_t lock;   /* for the next ones */
    struct order *orders;   /* oldest first */
    _Atomic uint64_t sets_received; /* number of the newest that is queued, or was lost */
    struct control *control; /* NULL: no commands can be given; the writer's thread reads it so */
    bool control_failed;     /* and that was said */
    bool control_begun;      /* they could, once */
};

/* The writer's life, from the broker's first message to its last: 0, or an exit code. */
int writer_run(struct link *link, int socket);

/* orders.c: what the broker says. The first configuration, and before it the ring, if there is one
 * to take over. ERR_CLOSED: the broker is gone. */
enum err orders_first(struct writer *w, struct errmsg *m) MUST_CHECK;
/* Listens from now on, in a thread of its own; when the broker is gone, the writer is stopped. */
enum err orders_listen(struct writer *w) MUST_CHECK;
void orders_end(struct writer *w);
bool orders_wait(struct writer *w); /* does one wait? */
/* Has the broker made one that is not here yet? Frames of its streams may be. */
bool orders_under_way(struct writer *w);
/* The oldest one that waits, and it waits no more. NULL: none. */
struct order *orders_first_waiting(struct writer *w);
void orders_take(struct writer *w);
void order_free(struct order *o);
/* The writer's loop goes round once more instead of sleeping. Any thread. */
void wake_up(struct link *l);
/* Log lines go to the broker from now on. */
void lines_to_broker(struct writer *w);

/* Ring and store, as far as they can be had; a writer whose broker was killed holds its locks for
 * a while. ERR_LOCKED, ERR_INVALID: sentences in mistakes. */
enum err writer_open_patiently(struct writer *w, struct buf *mistakes) MUST_CHECK;
/* Ring and store are open, and each configuration so far is in the store; else one try to bring
 * that about, when it is time for one. */
bool writer_ready(struct writer *w);
/* Something went wrong, and the next try is due after a while; and the contrary. */
void writer_failed(struct writer *w, enum err e, const char *why);
void writer_fine(struct writer *w);
void writer_set_state(struct writer *w, enum capture_state state, const char *why);
void writer_close_store(struct writer *w);
/* Into the store's next commit: frames below pos are in the log. */
enum err writer_position_put(struct writer *w, uint64_t pos) MUST_CHECK;
/* Housekeeping: is the ring still what its path names, and does the broker have it? */
void writer_watch_ring(struct writer *w);
/* A ring that is gone is given up when all of it is in the log: true, and writer_ready opens one in
 * its place. */
bool writer_leave_ring(struct writer *w);
/* Frames from `from` to `to` are in the log, and whoever put them there was killed, or told that it
 * failed, before all of them were counted. */
void writer_count_stored(struct writer *w, uint64_t from, uint64_t to);

/* control.c: commands through the socket in the data directory (shared/control), one message at a
 * time. A thread takes and answers them, the writer's own does what they ask. Where there is no
 * socket (said once), or another one lies at its path, control_watch makes one; capture goes on
 * without. */
void control_watch(struct writer *w);
void control_stop(struct writer *w);
/* Is there something to do for the writer's thread? */
bool control_waits(struct writer *w);
/* Does it, between ticks. */
void control_work(struct writer *w);
/* What came of asking the broker to read its configuration again. Any thread. */
void control_reloaded(struct writer *w, uint32_t number, enum err e, const char *mistakes);

/* streams.c. Brings catalog and configuration together. Each contradiction is a line in mistakes
 * (may be NULL: then it is logged, and the store's side holds). */
enum err streams_sync(struct link *l, struct store *s, struct writer_stream **by_id,
                      const struct config *config, struct buf *mistakes,
                      struct errmsg *m) MUST_CHECK;
void streams_free(struct writer_stream **by_id);
/* The topic is gone from the store: frames that come for it are nobody's. */
void streams_forget(struct writer *w, const char *name);
/* An entry to count in, for a stream that the store has not. NULL: nobody knows its name. */
struct writer_stream *stream_unknown(struct writer *w, uint64_t id);

#endif
