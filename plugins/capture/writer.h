/* The writer thread, as its two files know it: writer.c has the ticks, writer_open.c opens ring and
 * store and mends them. All of it belongs to that thread. */
#ifndef CULEX_CAPTURE_WRITER_H
#define CULEX_CAPTURE_WRITER_H

#include "plugins/capture/internal.h"

/* A batch under construction: one per partition that this tick touches. */
struct slot {
    struct batch_builder batch;
    struct writer_stream *stream;
    int32_t partition;
    struct slot *next;
};

struct writer {
    struct capture *c;
    struct stream_set *set; /* own reference */
    struct store *store;    /* NULL: not open */
    struct writer_stream *by_id;
    struct writer_stream *unknown; /* frames came for them, and the store has them not */
    struct mapping mapping;
    struct publish_frame frame;
    struct slot *dirty, *spare;
    size_t spare_count;
    size_t spare_bytes; /* that they hold */
    bool worked;        /* since the last housekeeping */
    struct writer_stream *touched;
    bool ring_open; /* mapped here, whether or not the broker's thread may use it */
    bool ring_gone; /* no longer at its path: see writer_open.c */
    uint64_t read_pos;
    uint64_t recovered_end; /* frames below it were there at start */
    bool position_known;    /* the row is of this run */
    int64_t next_try_us, housekeeping_us, shown_us;
    int backoff_ms;
    struct log_limit lost_log;
    _Atomic uint32_t opened;  /* futex: 1 when the thread has tried to open ring and store … */
    enum err opened_err;      /* … and what came of it */
    struct buf *mistakes;     /* capture_open's, until then */
};

/* Ring and store, as far as they can be had; a broker that was killed holds its locks until the
 * kernel is done with it. ERR_LOCKED, ERR_INVALID: sentences in mistakes. */
enum err writer_open_patiently(struct writer *w, struct buf *mistakes) MUST_CHECK;
/* Ring and store are open, and each configuration so far is in the store; else one try to bring
 * that about, when it is time for one. */
bool writer_ready(struct writer *w);
/* Something went wrong, and the next try is due after a while; and the contrary. */
void writer_failed(struct writer *w, enum err e, const char *why);
void writer_fine(struct writer *w);
void writer_close_store(struct writer *w);
/* Into the store's next commit: frames below pos are in the log. */
enum err writer_position_put(struct writer *w, uint64_t pos) MUST_CHECK;
/* Housekeeping: is the ring still what its path names? */
void writer_watch_ring(struct writer *w);
/* A ring that is gone is given up when all of it is in the log: true, and writer_ready opens one in
 * its place. */
bool writer_leave_ring(struct writer *w);

#endif
