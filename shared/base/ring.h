/* A ring of frames in a shared file: one writer, readers in any process.
 *
 * Two rings are made of it. The capture ring carries publishes from the broker to the log's writer
 * beside it and survives a kill of both: the broker never overwrites what the consumer has not
 * taken. The tail ring carries the newest batches to the server: the writer overwrites the
 * oldest, and a reader can tell that it was overrun.
 *
 * A position is a byte count since the ring's birth: it only grows; `position % bytes` is the
 * place. A frame is contiguous (a filler frame closes the end of the file), 16-aligned, and begins
 * with a CRC-32C of all that follows: its length, the ring's epoch (the low half of its id), its
 * position and its bytes. So a torn frame, or one of an earlier lap or life, is never taken for a
 * whole one.
 *
 * File: one header page (magic, version, bytes, ring id, then on cache lines of their own: low,
 * head, consumed), then `bytes` of frames. Blocks are allocated when the file is made, so a full
 * disk is an error at start and not a SIGBUS later. A file that is replaced gets a new inode:
 * whoever still has the old one mapped reads old frames, and no SIGBUS either.
 *
 * Threads: reserve, commit, abandon and reset belong to one thread; consume to one thread, which
 * may be another; reading is free for all. */
#ifndef CULEX_BASE_RING_H
#define CULEX_BASE_RING_H

#include "shared/base/bytes.h"
#include "shared/base/err.h"

#define RING_BYTES_MIN (64u << 10)
#define RING_BYTES_MAX (1u << 30)

struct ring_file; /* the mapped header */

struct ring {
    struct ring_file *file; /* NULL: closed */
    uint8_t *frames;
    uint64_t bytes;
    uint64_t mask; /* bytes - 1 where bytes is a power of two, else 0 */
    int fd; /* writer: holds the lock of the file; -1 in readers */
    bool writer;
    bool reserved;        /* between ring_reserve and ring_commit or ring_abandon */
    uint32_t reserve_len; /* bytes of the frame being written */
    uint64_t reserve_pos; /* its start */
};

/* Opens for writing, or makes the file (mode 0640). A whole ring of this size is taken over with
 * its frames, its id and its positions, so that what a killed process left can be read; any other
 * content is replaced by an empty ring with a new id. All pages are touched, so that no reserve
 * waits for one. bytes: RING_BYTES_MIN … RING_BYTES_MAX, a multiple of 4096. ERR_FULL when the disk
 * has no room, ERR_LOCKED when another process writes it, ERR_IO, ERR_INVALID. */
enum err ring_open_writer(struct ring *r, const char *path, uint64_t bytes,
                          struct errmsg *m) MUST_CHECK;
/* Maps read-only. ERR_NOT_FOUND (no file, or an empty one, yet), ERR_CORRUPT, ERR_VERSION,
 * ERR_IO. */
enum err ring_open_reader(struct ring *r, const char *path, struct errmsg *m) MUST_CHECK;
/* Takes over a ring that another process has opened for writing and handed its descriptor along:
 * the lock belongs to the open file, so it ends when both have closed it. One of the two writes
 * frames, the other consumes them. fd belongs to the ring from now on, also after a failure.
 * ERR_CORRUPT, ERR_VERSION, ERR_IO, ERR_NOMEM. */
enum err ring_attach(struct ring *r, int fd, struct errmsg *m) MUST_CHECK;
void ring_close(struct ring *r);
/* Writer: does the path still name this ring's file? false: it names another one, or nothing. Where
 * that cannot be told (a directory that may not be searched, an error of the disk) it is true. */
bool ring_in_place(const struct ring *r, const char *path);

/* Random, set when the ring was made: a position means nothing in another ring. */
uint64_t ring_id(const struct ring *r);
/* Forgets all frames: new id, positions go on. Writer only, no reader of this process inside. */
void ring_reset(struct ring *r);

/* Longest frame that the ring takes (a quarter of it, less the frame's header). */
size_t ring_frame_max(const struct ring *r);

/* Writer: room for a frame of len bytes, contiguous. With `keep` every frame from the consumed
 * position on is kept: ERR_FULL when there is no room. Without it the oldest frames are given up.
 * ERR_TOO_LARGE over ring_frame_max. *p is valid until ring_commit or ring_abandon. */
enum err ring_reserve(struct ring *r, size_t len, bool keep, uint8_t **p) MUST_CHECK;
/* Makes the reserved frame visible (store-release of head). len may be shorter than reserved.
 * Returns the frame's position. */
uint64_t ring_commit(struct ring *r, size_t len);
/* The same for who sums while it copies: ring_sum begins the checksum of a frame of len bytes,
 * crc32c of the bytes goes on with it, and ring_commit_summed takes the end of it. */
uint32_t ring_sum(struct ring *r, size_t len);
uint64_t ring_commit_summed(struct ring *r, size_t len, uint32_t crc);
void ring_abandon(struct ring *r);

/* Position one past the newest frame (load-acquire). */
uint64_t ring_head(const struct ring *r);
/* Position of the oldest frame that is still whole; equal to ring_head when there is none. */
uint64_t ring_low(const struct ring *r);

/* Consumer of the capture ring: everything below pos is taken (store-release). */
void ring_consume(struct ring *r, uint64_t pos);
uint64_t ring_consumed(const struct ring *r);

/* Reads the frame at pos. OK: *frame is borrowed from the map and *next is the following position
 * (fillers are skipped). ERR_AGAIN: pos is the head. ERR_RANGE: overrun, or never written.
 * ERR_CORRUPT: length, position or epoch is wrong, or, with verify, the checksum (tail readers that
 * check the batch's own CRC may leave it out).
 * A reader of the tail ring copies what it needs and then asks ring_valid(pos): false means that
 * the writer came by, and the copy is worthless. */
enum err ring_read(const struct ring *r, uint64_t pos, bool verify, struct slice *frame,
                   uint64_t *next) MUST_CHECK;
/* As ring_read, below a head that ring_head gave before. Each look at the head takes its cache line
 * away from the writer, who wants it back for the next frame. */
enum err ring_read_below(const struct ring *r, uint64_t head, uint64_t pos, bool verify,
                         struct slice *frame, uint64_t *next) MUST_CHECK;
bool ring_valid(const struct ring *r, uint64_t pos);

#endif
