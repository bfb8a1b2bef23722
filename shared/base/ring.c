/* The ring: frames in a shared file, written by one thread, read by anyone.
 *
 *   file   | header page | frames: r->bytes of them, used round and round |
 *
 *   frame  0 crc u32      of all that follows, seeded with the position's upper bits
 *          4 length u32   of the payload; the top bit marks a filler
 *          8 epoch u32    low half of the ring's id
 *         12 tag u32      position / 16, low 32 bits
 *         16 payload, then up to 15 bytes to the next multiple of 16
 *
 *   positions          low ≤ consumed ≤ head    (keep)      low ≤ head ≤ low + bytes   (always)
 *
 *      |····gone····|== whole frames ==|~~ being written ~~|
 *                  low                head
 *
 * 1. A frame is visible when head has passed it: bytes first, then head with release; readers load
 *    head with acquire. A kill between the two leaves a frame that nobody sees.
 * 2. Bytes are given up before they are overwritten: low moves first, then a full fence, then the
 *    bytes. A reader copies bytes, then an acquire fence, then loads low (ring_valid). If it saw
 *    any overwritten byte, the two fences order the loads so that it also sees the low that gave
 *    the frame up. That is a seqlock whose counter is low. The writer's fence is a full one,
 *    because memcpy may use streaming stores, which a release fence does not hold back on x86; it
 *    is paid only when low moves, which in the capture ring is once per tick's worth of frames.
 * 3. low is always the start of a frame: in keep mode it jumps to consumed, in tail mode it walks
 *    over the frames that it gives up. So a late reader can begin at low.
 * 4. An id is a life of the ring: it changes when the file is made or reset, not when a process
 *    takes it over, so what a killed process left still verifies, and what came before a reset does
 *    not.
 *
 * A file is never resized in place: it is replaced by rename, so that a reader's mapping of the old
 * one stays backed. The lock (flock) belongs to the open file, survives daemon()'s fork, and ends
 * with the process, however it ends. */
#include "shared/base/ring.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shared/base/clock.h"

#define RING_MAGIC        0x676e7278656c7563ull /* "culexrng" in memory */
#define RING_VERSION      1u
#define RING_HEADER_BYTES 4096u
#define RING_PAGE_BYTES   4096u
#define CACHE_LINE        64
#define ALIGN             16u
#define AHEAD_BYTES       (4 * CACHE_LINE) /* most frames are not longer */
#define FILLER            0x80000000u
#define OPEN_TRY_MAX      16 /* the file was replaced between open and lock */

/* ThreadSanitizer does not model fences. Those here order memory between processes, which it does
 * not see either; within a process the capture ring needs only head and consumed. */
#if defined(__SANITIZE_THREAD__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wtsan"
#endif

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

struct ring_file {
    uint64_t magic;
    uint32_t version;
    uint32_t header_bytes;
    uint64_t bytes;
    _Atomic uint64_t id;
    _Alignas(CACHE_LINE) _Atomic uint64_t low;      /* writer's; readers look after they copied */
    _Alignas(CACHE_LINE) _Atomic uint64_t head;     /* writer's; readers wait for it */
    _Alignas(CACHE_LINE) _Atomic uint64_t consumed; /* consumer's */
};

_Static_assert(sizeof(struct ring_file) <= RING_HEADER_BYTES, "the header is one page");
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "a lock in a shared file would be nobody's");

struct frame_header {
    uint32_t crc;
    uint32_t length;
    uint32_t epoch;
    uint32_t tag;
};

_Static_assert(sizeof(struct frame_header) == ALIGN, "a frame is at least its header");

static uint64_t frame_bytes(uint64_t payload)
{
    return (sizeof(struct frame_header) + payload + ALIGN - 1) & ~(uint64_t)(ALIGN - 1);
}

/* A division would take longer than all else that a frame needs in arithmetic. */
static uint64_t place_of(const struct ring *r, uint64_t pos)
{
    return r->mask ? pos & r->mask : pos % r->bytes;
}

static uint8_t *place(const struct ring *r, uint64_t pos)
{
    return r->frames + place_of(r, pos);
}

static uint32_t epoch_now(const struct ring *r)
{
    return (uint32_t)atomic_load_explicit(&r->file->id, memory_order_relaxed);
}

#define CRC_BYTES sizeof(uint32_t) /* of the header, which the checksum does not cover */

static uint32_t crc_seed(uint64_t pos)
{
    return (uint32_t)(pos >> 36);
}

/* The header lies in the map, before its payload; all but the checksum itself is summed in one
 * go. */
static uint32_t frame_crc(const uint8_t *frame, uint64_t pos, size_t payload)
{
    return crc32c(crc_seed(pos), frame + CRC_BYTES,
                  sizeof(struct frame_header) - CRC_BYTES + payload);
}

/* --- the file --------------------------------------------------------------------------------- */

static enum err system_failed(struct errmsg *m, int error, const char *what, const char *path)
{
    bool full = error == ENOSPC || error == EDQUOT || error == EFBIG;
    return err_set(m, full ? ERR_FULL : ERR_IO, "%s %s: %s", what, path, strerror(error));
}

/* Opens and locks what the path names, made empty if there is nothing. Another writer may replace
 * the file between our open and our lock; then we hold the lock of a file that nobody sees: once
 * more. */
static enum err open_locked(const char *path, int *fd_out, struct errmsg *m)
{
    for (int i = 0; i < OPEN_TRY_MAX; i++) {
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
        if (fd < 0) {
            return system_failed(m, errno, "cannot open ring", path);
        }
        if (flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
            close(fd);
            return err_set(m, ERR_LOCKED, "ring %s is in use by another process", path);
        }
        /* Any other failure: a file system without locks, where we have to do without. */
        if (ring_in_place(&(struct ring){.fd = fd}, path)) {
            *fd_out = fd;
            return OK;
        }
        close(fd);
    }
    return err_set(m, ERR_LOCKED, "ring %s is being replaced by another process", path);
}

static enum err map_file(struct ring *r, int fd, uint64_t bytes, const char *path, struct errmsg *m)
{
    int prot = r->writer ? PROT_READ | PROT_WRITE : PROT_READ;
    void *map = mmap(NULL, RING_HEADER_BYTES + bytes, prot, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
        return err_set(m, errno == ENOMEM ? ERR_NOMEM : ERR_IO, "cannot map ring %s: %s", path,
                       strerror(errno));
    }
    r->file = map;
    r->frames = (uint8_t *)map + RING_HEADER_BYTES;
    r->bytes = bytes;
    r->mask = (bytes & (bytes - 1)) == 0 ? bytes - 1 : 0;
    return OK;
}

static void unmap_file(struct ring *r)
{
    if (r->file) {
        munmap(r->file, RING_HEADER_BYTES + r->bytes);
        r->file = NULL;
        r->frames = NULL;
    }
}

/* Blocks on disk for every byte, also where a copy of the file left holes, and a page for each. */
static enum err back_file(struct ring *r, const char *path, struct errmsg *m)
{
    int error;
    do {
        error = posix_fallocate(r->fd, 0, (off_t)(RING_HEADER_BYTES + r->bytes));
    } while (error == EINTR);
    if (error != 0) {
        return system_failed(m, error, "no room for ring", path);
    }
    enum err e = map_file(r, r->fd, r->bytes, path, m);
    if (e != OK) {
        return e;
    }
    size_t total = RING_HEADER_BYTES + r->bytes;
    if (madvise(r->file, total, MADV_POPULATE_WRITE) != 0) {
        if (errno != EINVAL) {
            return system_failed(m, errno, "cannot fill the pages of ring", path);
        }
        /* A kernel before 5.14: touch the pages, changing nothing. */
        for (size_t at = 0; at < total; at += RING_PAGE_BYTES) {
            __atomic_fetch_add((uint8_t *)r->file + at, 0, __ATOMIC_RELAXED);
        }
    }
    return OK;
}

static bool header_valid(const struct ring_file *f, uint64_t bytes)
{
    return f->magic == RING_MAGIC && f->version == RING_VERSION &&
           f->header_bytes == RING_HEADER_BYTES && f->bytes == bytes;
}

/* Only for who holds the lock: against a live writer the three would be of three moments. Frames
 * are checked when they are read. */
static bool positions_valid(const struct ring_file *f, uint64_t bytes)
{
    uint64_t low = atomic_load(&f->low);
    uint64_t head = atomic_load(&f->head);
    uint64_t consumed = atomic_load(&f->consumed);
    return low <= head && head - low <= bytes && consumed <= head &&
           (low | head | consumed) % ALIGN == 0;
}

static uint64_t new_id(void)
{
    uint64_t id;
    do {
        id = random_u64();
    } while ((uint32_t)id == 0); /* an epoch of zero would be that of an empty file */
    return id;
}

/* Makes an empty ring beside the path and moves it there. r->fd: the locked file that it
 * replaces. */
static enum err make_file(struct ring *r, const char *path, struct errmsg *m)
{
    char temporary[PATH_MAX];
    int n = snprintf(temporary, sizeof temporary, "%s.new", path);
    if (n < 0 || (size_t)n >= sizeof temporary) {
        return err_set(m, ERR_INVALID, "the path of the ring is too long: %s", path);
    }
    unlink(temporary); /* of a process that was killed right here; we hold the lock */
    int old = r->fd;
    r->fd = open(temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
    if (r->fd < 0) {
        r->fd = old;
        return system_failed(m, errno, "cannot make ring", temporary);
    }
    (void)flock(r->fd, LOCK_EX | LOCK_NB); /* a new file: held, or a file system without locks */
    enum err e = back_file(r, path, m);
    if (e == OK) {
        r->file->version = RING_VERSION;
        r->file->header_bytes = RING_HEADER_BYTES;
        r->file->bytes = r->bytes;
        atomic_store(&r->file->id, new_id());
        r->file->magic = RING_MAGIC;
        if (rename(temporary, path) != 0) {
            e = system_failed(m, errno, "cannot put ring in place", path);
        }
    }
    if (e != OK) {
        unlink(temporary);
    }
    close(old);
    return e;
}

enum err ring_open_writer(struct ring *r, const char *path, uint64_t bytes, struct errmsg *m)
{
    *r = (struct ring){.bytes = bytes, .writer = true, .fd = -1};
    if (bytes < RING_BYTES_MIN || bytes > RING_BYTES_MAX || bytes % RING_PAGE_BYTES != 0) {
        return err_set(m, ERR_INVALID, "a ring has %u to %u bytes, in steps of %u, not %llu",
                       RING_BYTES_MIN, RING_BYTES_MAX, RING_PAGE_BYTES, (unsigned long long)bytes);
    }
    enum err e = open_locked(path, &r->fd, m);
    if (e != OK) {
        return e;
    }
    struct stat st;
    if (fstat(r->fd, &st) != 0) {
        e = system_failed(m, errno, "cannot look at ring", path);
    } else if (st.st_size == (off_t)(RING_HEADER_BYTES + bytes)) {
        e = back_file(r, path, m);
    }
    bool whole = r->file && header_valid(r->file, bytes) && positions_valid(r->file, bytes);
    if (e == OK && !whole) {
        unmap_file(r);
        e = make_file(r, path, m);
    }
    if (e != OK) {
        ring_close(r);
    }
    return e;
}

/* Maps what is a ring, of whatever size. */
static enum err map_any(struct ring *r, int fd, const char *path, struct errmsg *m)
{
    struct stat st;
    if (fstat(fd, &st) != 0) {
        return system_failed(m, errno, "cannot look at ring", path);
    }
    if (st.st_size == 0) {
        return err_set(m, ERR_NOT_FOUND, "ring %s is still empty", path);
    }
    if (st.st_size < RING_HEADER_BYTES + RING_BYTES_MIN ||
        st.st_size > (off_t)RING_HEADER_BYTES + RING_BYTES_MAX) {
        return err_set(m, ERR_CORRUPT, "%s is not a ring: %lld bytes", path,
                       (long long)st.st_size);
    }
    enum err e = map_file(r, fd, (uint64_t)st.st_size - RING_HEADER_BYTES, path, m);
    if (e != OK) {
        return e;
    }
    if (r->file->magic != RING_MAGIC) {
        return err_set(m, ERR_CORRUPT, "%s is not a ring", path);
    }
    if (r->file->version != RING_VERSION) {
        return err_set(m, ERR_VERSION, "ring %s has version %u; this program speaks %u", path,
                       r->file->version, RING_VERSION);
    }
    return header_valid(r->file, r->bytes)
               ? OK
               : err_set(m, ERR_CORRUPT, "the header of ring %s makes no sense", path);
}

enum err ring_open_reader(struct ring *r, const char *path, struct errmsg *m)
{
    *r = (struct ring){.fd = -1};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        enum err e = errno == ENOENT ? ERR_NOT_FOUND : ERR_IO;
        return err_set(m, e, "cannot open ring %s: %s", path, strerror(errno));
    }
    enum err e = map_any(r, fd, path, m);
    close(fd);
    if (e != OK) {
        ring_close(r);
    }
    return e;
}

enum err ring_attach(struct ring *r, int fd, struct errmsg *m)
{
    *r = (struct ring){.fd = fd, .writer = true};
    enum err e = map_any(r, fd, "handed over", m);
    if (e != OK) {
        ring_close(r);
    }
    return e;
}

void ring_close(struct ring *r)
{
    unmap_file(r);
    if (r->fd >= 0) {
        close(r->fd); /* and with it the lock */
    }
    *r = (struct ring){.fd = -1};
}

bool ring_in_place(const struct ring *r, const char *path)
{
    struct stat opened, named;
    if (stat(path, &named) != 0) {
        return errno != ENOENT && errno != ENOTDIR;
    }
    return fstat(r->fd, &opened) != 0 ||
           (opened.st_ino == named.st_ino && opened.st_dev == named.st_dev);
}

uint64_t ring_id(const struct ring *r)
{
    return atomic_load_explicit(&r->file->id, memory_order_acquire);
}

void ring_reset(struct ring *r)
{
    ASSERT(r->writer && !r->reserved);
    /* Frames are gone before the id changes: a kill in between leaves an empty ring. */
    uint64_t head = atomic_load(&r->file->head);
    atomic_store(&r->file->low, head);
    atomic_store(&r->file->consumed, head);
    atomic_store(&r->file->id, new_id());
}

size_t ring_frame_max(const struct ring *r)
{
    return r->bytes / 4 - sizeof(struct frame_header);
}

/* --- writing ---------------------------------------------------------------------------------- */

/* A frame's header as it is now, with each word read once: another process may be overwriting
 * it. */
static struct frame_header header_load(const uint8_t *frame)
{
    const struct frame_header *h = (const struct frame_header *)(const void *)frame;
    return (struct frame_header){
        .crc = __atomic_load_n(&h->crc, __ATOMIC_RELAXED),
        .length = __atomic_load_n(&h->length, __ATOMIC_RELAXED),
        .epoch = __atomic_load_n(&h->epoch, __ATOMIC_RELAXED),
        .tag = __atomic_load_n(&h->tag, __ATOMIC_RELAXED),
    };
}

/* Writes all of the header but the checksum. Returns that of what it wrote. */
HOT static uint32_t header_store(struct ring *r, uint64_t pos, uint32_t length)
{
    const uint32_t h[] = {length, epoch_now(r), (uint32_t)(pos / ALIGN)};
    _Static_assert(sizeof h == sizeof(struct frame_header) - CRC_BYTES, "all but the checksum");
    const struct slice all = {(const uint8_t *)h, sizeof h};
    return crc32c_gather(crc_seed(pos), place(r, pos) + CRC_BYTES, &all, 1);
}

static void crc_store(struct ring *r, uint64_t pos, uint32_t crc)
{
    memcpy(place(r, pos), &crc, sizeof crc);
}

/* Is h the header of a frame at pos that ends at or before head and within the file? */
static bool header_fits(const struct ring *r, const struct frame_header *h, uint64_t pos,
                        uint64_t head)
{
    uint64_t total = frame_bytes(h->length & ~FILLER);
    return h->epoch == epoch_now(r) && h->tag == (uint32_t)(pos / ALIGN) && total <= head - pos &&
           total <= r->bytes - place_of(r, pos);
}

/* Gives up what lies below end - bytes. */
SELDOM static enum err make_room(struct ring *r, uint64_t low, uint64_t head, uint64_t end,
                                 bool keep)
{
    if (keep) {
        /* Acquire: the consumer has read the frames before we overwrite them. */
        uint64_t consumed = atomic_load_explicit(&r->file->consumed, memory_order_acquire);
        low = consumed > low ? consumed : low;
        if (end - low > r->bytes) {
            return ERR_FULL;
        }
    }
    while (end - low > r->bytes) {
        struct frame_header h = header_load(place(r, low));
        /* Garbage (a page that a power failure lost) has no next frame: all before head is given
         * up. The frames between the two ends are at most bytes / 16, and each is walked over
         * once. */
        low = low < head && header_fits(r, &h, low, head) ? low + frame_bytes(h.length & ~FILLER)
                                                          : head;
    }
    atomic_store_explicit(&r->file->low, low, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst); /* before the bytes are overwritten: see 2. above */
    return OK;
}

HOT enum err ring_reserve(struct ring *r, size_t len, bool keep, uint8_t **p)
{
    ASSERT(r->writer && !r->reserved);
    if (len > ring_frame_max(r)) {
        return ERR_TOO_LARGE;
    }
    uint64_t head = atomic_load_explicit(&r->file->head, memory_order_relaxed);
    uint64_t low = atomic_load_explicit(&r->file->low, memory_order_relaxed);
    uint64_t need = frame_bytes(len);
    uint64_t to_end = r->bytes - place_of(r, head);
    uint64_t start = need > to_end ? head + to_end : head;
    uint64_t end = start + need;
    if (end - low > r->bytes) {
        enum err e = make_room(r, low, head, end, keep);
        if (e != OK) {
            return e;
        }
    }
    if (start != head) {
        size_t filler = to_end - sizeof(struct frame_header);
        crc_store(r, head, header_store(r, head, (uint32_t)filler | FILLER));
    }
    r->reserve_pos = start;
    r->reserve_len = (uint32_t)len;
    r->reserved = true;
    *p = place(r, start) + sizeof(struct frame_header);
    return OK;
}

uint64_t ring_commit(struct ring *r, size_t len)
{
    uint32_t crc = ring_sum(r, len);
    return ring_commit_summed(
        r, len, crc32c(crc, place(r, r->reserve_pos) + sizeof(struct frame_header), len));
}

HOT uint32_t ring_sum(struct ring *r, size_t len)
{
    ASSERT(r->reserved && len <= r->reserve_len);
    return header_store(r, r->reserve_pos, (uint32_t)len);
}

HOT uint64_t ring_commit_summed(struct ring *r, size_t len, uint32_t crc)
{
    ASSERT(r->reserved && len <= r->reserve_len);
    r->reserved = false;
    crc_store(r, r->reserve_pos, crc);
    uint64_t next = r->reserve_pos + frame_bytes(len);
    atomic_store_explicit(&r->file->head, next, memory_order_release);
    /* The lines of the next frame, which the reader's processor had last, come here meanwhile. */
    const uint8_t *ahead = place(r, next);
    for (size_t at = 0; at < AHEAD_BYTES; at += CACHE_LINE) {
        __builtin_prefetch(ahead + at, 1);
    }
    return r->reserve_pos;
}

void ring_abandon(struct ring *r)
{
    r->reserved = false; /* a filler beyond head is overwritten by what comes next */
}

/* --- reading ---------------------------------------------------------------------------------- */

uint64_t ring_head(const struct ring *r)
{
    return atomic_load_explicit(&r->file->head, memory_order_acquire);
}

uint64_t ring_low(const struct ring *r)
{
    return atomic_load_explicit(&r->file->low, memory_order_acquire);
}

void ring_consume(struct ring *r, uint64_t pos)
{
    ASSERT(r->writer);
    uint64_t consumed = atomic_load_explicit(&r->file->consumed, memory_order_relaxed);
    if (pos > consumed && pos <= ring_head(r) && pos % ALIGN == 0) {
        atomic_store_explicit(&r->file->consumed, pos, memory_order_release);
    }
}

uint64_t ring_consumed(const struct ring *r)
{
    return atomic_load_explicit(&r->file->consumed, memory_order_acquire);
}

bool ring_valid(const struct ring *r, uint64_t pos)
{
    atomic_thread_fence(memory_order_acquire); /* what was copied before is older than this low */
    return pos >= atomic_load_explicit(&r->file->low, memory_order_relaxed);
}

enum err ring_read(const struct ring *r, uint64_t pos, bool verify, struct slice *frame,
                   uint64_t *next)
{
    return ring_read_below(r, ring_head(r), pos, verify, frame, next);
}

enum err ring_read_below(const struct ring *r, uint64_t head, uint64_t pos, bool verify,
                         struct slice *frame, uint64_t *next)
{
    if (pos == head) {
        return ERR_AGAIN;
    }
    if (pos > head || pos % ALIGN != 0 || !ring_valid(r, pos)) {
        return ERR_RANGE;
    }
    for (int i = 0; i < 2; i++) { /* a filler at most, then a frame: a commit shows both at once */
        const uint8_t *at = place(r, pos);
        struct frame_header h = header_load(at);
        bool filler = (h.length & FILLER) != 0;
        size_t payload = h.length & ~FILLER;
        bool whole = pos < head && header_fits(r, &h, pos, head) &&
                     (!verify || h.crc == frame_crc(at, pos, filler ? 0 : payload));
        if (!ring_valid(r, pos)) {
            return ERR_RANGE; /* overrun meanwhile: what looked wrong was only newer */
        }
        if (!whole) {
            return ERR_CORRUPT;
        }
        if (!filler) {
            *frame = slice_make(at + sizeof h, payload);
            *next = pos + frame_bytes(payload);
            return OK;
        }
        pos += frame_bytes(payload);
    }
    return ERR_CORRUPT;
}
