/* The page: what a follower must know at once, in a file that both processes map.
 *
 *   | header, one page of memory | entries: 32 bytes for each uid, 2^20 of them, sparse |
 *
 * The writer stores, followers load; every word is atomic and stands for itself. Ends are stored
 * with release after the batches are in the WAL and in the tail ring, then the sequence moves and
 * its futex is woken.
 *
 * The file outlives both processes, and it is trusted as far as memory is: after a kill its ends
 * are exactly what was published. After a crash of the machine they may be newer or older than what
 * the WAL kept. So the page carries the boot id of the writer that filled it, and a follower that
 * finds another boot than its own takes the ends from the database until a writer has come by.
 * Where writer and follower are shown different boot ids (a container that has one of its own, and
 * a service in it with a /proc of its own), the writer's lock tells that the page is of now.
 *
 * Blocks are allocated before an entry is used (page_reserve), so that a full disk is an error
 * there and not a SIGBUS here. A page that does not fit is replaced by rename, never resized in
 * place: a mapping of the old one stays whole, and a follower sees by the inode that it has to look
 * again. */
#include "shared/store/store_int.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "shared/base/clock.h"

#define PAGE_MAGIC        0x676178656c7563ull /* "culexag" in memory */
#define PAGE_VERSION      1u
#define PAGE_HEADER_BYTES 4096u
#define PAGE_STEP_UIDS    2048u /* entries allocated at a time: 64 KB */
#define WAIT_SLICE_MS     1000 /* a local wake between check and wait is late by this at most */
#define WAKE_TRIES        20

_Static_assert(sizeof(struct page_header) <= PAGE_HEADER_BYTES, "the header is one page");
_Static_assert(sizeof(struct page_entry) == 32, "the entry is part of the format");

static const size_t page_bytes =
    PAGE_HEADER_BYTES + (size_t)STORE_UIDS_MAX * sizeof(struct page_entry);

uint64_t page_boot_now(void)
{
    char text[64] = {0};
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, text, sizeof text - 1) : -1;
    if (fd >= 0) {
        close(fd);
    }
    uint64_t h = 1469598103934665603ull; /* FNV-1a; 0 is kept for "being filled" */
    for (ssize_t i = 0; i < n && text[i] != '\n'; i++) {
        h = (h ^ (uint8_t)text[i]) * 1099511628211ull;
    }
    return h ? h : 1;
}

static enum err page_failed(struct errmsg *m, int error, const char *what, const char *path)
{
    bool full = error == ENOSPC || error == EDQUOT || error == EFBIG;
    return err_set(m, full ? ERR_FULL : ERR_IO, "%s %s: %s", what, path, strerror(error));
}

/* p->fd is open; maps it. */
static enum err map_page(struct page *p, bool writer, const char *path, struct errmsg *m)
{
    struct stat st;
    if (fstat(p->fd, &st) != 0) {
        return page_failed(m, errno, "cannot look at", path);
    }
    if (st.st_size != (off_t)page_bytes) {
        return err_set(m, ERR_CORRUPT, "%s is not a page of a store: %lld bytes", path,
                       (long long)st.st_size);
    }
    void *map = mmap(NULL, page_bytes, writer ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED,
                     p->fd, 0);
    if (map == MAP_FAILED) {
        return page_failed(m, errno, "cannot map", path);
    }
    p->h = map;
    p->entries = (struct page_entry *)(void *)((uint8_t *)map + PAGE_HEADER_BYTES);
    p->map_bytes = page_bytes;
    p->inode = st.st_ino;
    p->device = st.st_dev;
    return OK;
}

static bool page_fits(const struct page *p)
{
    return p->h->magic == PAGE_MAGIC && p->h->version == PAGE_VERSION &&
           p->h->entries_max == STORE_UIDS_MAX;
}

void page_close(struct page *p)
{
    if (!p) {
        return;
    }
    if (p->map_bytes > 0) {
        munmap(p->h, p->map_bytes);
    } else {
        free(p->h);
        free(p->entries);
    }
    if (p->fd >= 0) {
        close(p->fd);
    }
    free(p);
}

static enum err allocate(int fd, size_t from, size_t to, const char *path, struct errmsg *m)
{
    int error;
    do {
        error = posix_fallocate(fd, (off_t)from, (off_t)(to - from));
    } while (error == EINTR);
    return error == 0 ? OK : page_failed(m, error, "no room for", path);
}

/* Beside the place; followers see none, or the old one, until it is moved there. */
static enum err make_page(struct page *p, const char *temporary, const struct uuid *store_id,
                          struct errmsg *m)
{
    unlink(temporary); /* of a process that was killed right here; we hold the store's lock */
    p->fd = open(temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
    if (p->fd < 0) {
        return page_failed(m, errno, "cannot make", temporary);
    }
    enum err e = allocate(p->fd, 0, PAGE_HEADER_BYTES, temporary, m);
    if (e == OK && ftruncate(p->fd, (off_t)page_bytes) != 0) {
        e = page_failed(m, errno, "cannot make", temporary);
    }
    if (e == OK) {
        e = map_page(p, true, temporary, m);
    }
    if (e == OK) {
        p->h->version = PAGE_VERSION;
        p->h->entries_max = STORE_UIDS_MAX;
        p->h->store_id = *store_id;
        p->h->magic = PAGE_MAGIC;
    } else {
        unlink(temporary);
    }
    return e;
}

enum err page_open_writer(struct page **out, const char *dir, const struct uuid *store_id,
                          struct errmsg *m)
{
    char path[PATH_MAX], temporary[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s/page", dir);
    int k = snprintf(temporary, sizeof temporary, "%s/page.new", dir);
    if (n < 0 || (size_t)n >= sizeof path || k < 0 || (size_t)k >= sizeof temporary) {
        return err_set(m, ERR_INVALID, "the path of the store is too long: %s", dir);
    }
    struct page *p = calloc(1, sizeof *p);
    if (!p) {
        return err_set(m, ERR_NOMEM, "store %s: out of memory", dir);
    }
    p->fd = open(path, O_RDWR | O_CLOEXEC);
    if (p->fd >= 0 && map_page(p, true, path, NULL) == OK && page_fits(p) &&
        memcmp(&p->h->store_id, store_id, sizeof *store_id) == 0) {
        enum err e = allocate(p->fd, 0, PAGE_HEADER_BYTES, path, m);
        if (e != OK) {
            page_close(p);
            return e;
        }
        *out = p;
        return OK;
    }
    page_close(p);
    p = calloc(1, sizeof *p);
    if (!p) {
        return err_set(m, ERR_NOMEM, "store %s: out of memory", dir);
    }
    p->fd = -1;
    enum err e = make_page(p, temporary, store_id, m);
    if (e == OK && rename(temporary, path) != 0) {
        e = page_failed(m, errno, "cannot put in place", path);
    }
    if (e != OK) {
        page_close(p);
        return e;
    }
    *out = p;
    return OK;
}

enum err page_open_reader(struct page **out, const char *dir, struct errmsg *m)
{
    char path[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s/page", dir);
    if (n < 0 || (size_t)n >= sizeof path) {
        return err_set(m, ERR_INVALID, "the path of the store is too long: %s", dir);
    }
    struct page *p = calloc(1, sizeof *p);
    if (!p) {
        return err_set(m, ERR_NOMEM, "store %s: out of memory", dir);
    }
    p->fd = open(path, O_RDONLY | O_CLOEXEC);
    enum err e;
    if (p->fd < 0) {
        e = errno == ENOENT || errno == ENOTDIR
                ? err_set(m, ERR_NOT_FOUND, "no store in %s yet", dir)
                : page_failed(m, errno, "cannot open", path);
    } else {
        e = map_page(p, false, path, m);
    }
    if (e == OK && !page_fits(p)) {
        e = err_set(m, ERR_VERSION, "%s is of another version", path);
    }
    if (e == OK && atomic_load(&p->h->life) == 0) {
        e = err_set(m, ERR_NOT_FOUND, "the store in %s is still being made", dir);
    }
    if (e != OK) {
        page_close(p);
        return e;
    }
    *out = p;
    return OK;
}

struct page *page_new_private(uint32_t uids)
{
    struct page *p = calloc(1, sizeof *p);
    if (!p) {
        return NULL;
    }
    p->fd = -1;
    p->h = aligned_alloc(64, sizeof *p->h);
    p->entries = calloc(uids ? uids : 1, sizeof *p->entries);
    if (!p->h || !p->entries) {
        page_close(p);
        return NULL;
    }
    memset(p->h, 0, sizeof *p->h);
    atomic_store(&p->h->next_uid, uids);
    return p;
}

enum err page_reserve(struct page *p, uint32_t uids, const char *dir, struct errmsg *m)
{
    uint32_t have = atomic_load_explicit(&p->h->next_uid, memory_order_relaxed);
    size_t from = have / PAGE_STEP_UIDS * PAGE_STEP_UIDS;
    size_t to = ((size_t)uids + PAGE_STEP_UIDS - 1) / PAGE_STEP_UIDS * PAGE_STEP_UIDS;
    if (to > STORE_UIDS_MAX) {
        to = STORE_UIDS_MAX;
    }
    if (to <= from) {
        return OK;
    }
    return allocate(p->fd, PAGE_HEADER_BYTES + from * sizeof(struct page_entry),
                    PAGE_HEADER_BYTES + to * sizeof(struct page_entry), dir, m);
}

bool page_is_current(const struct page *p, const char *dir)
{
    char path[PATH_MAX];
    struct stat st;
    int n = snprintf(path, sizeof path, "%s/page", dir);
    if (n < 0 || (size_t)n >= sizeof path || stat(path, &st) != 0) {
        return errno != ENOENT && errno != ENOTDIR; /* anything else says nothing about it */
    }
    return st.st_ino == p->inode && st.st_dev == p->device;
}

/* --- waiting ---------------------------------------------------------------------------------- */

/* Not FUTEX_PRIVATE: the word lies in a file, and waiters in other processes map it read-only. */
static void futex_wake_all(_Atomic uint32_t *word)
{
    (void)syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static void futex_wait(_Atomic uint32_t *word, uint32_t seen, int64_t timeout_us)
{
    struct timespec t = {.tv_sec = timeout_us / 1000000, .tv_nsec = timeout_us % 1000000 * 1000};
    /* Woken, changed, interrupted, timed out: the caller looks again in any case. */
    (void)syscall(SYS_futex, word, FUTEX_WAIT, seen, &t, NULL, 0);
}

void page_publish(struct page *p)
{
    atomic_fetch_add_explicit(&p->h->sequence, 1, memory_order_release);
    futex_wake_all(&p->h->sequence);
}

uint32_t store_sequence(struct store *s)
{
    struct page *p = atomic_load_explicit(&s->page, memory_order_acquire);
    return atomic_load_explicit(&p->h->sequence, memory_order_acquire) +
           atomic_load_explicit(&s->bumps, memory_order_acquire);
}

void store_wait(struct store *s, uint32_t seen, int timeout_ms)
{
    int64_t deadline = clock_mono_us() + (int64_t)timeout_ms * 1000;
    atomic_fetch_add(&s->waits_begun, 1);
    for (;;) {
        struct page *p = atomic_load_explicit(&s->page, memory_order_acquire);
        uint32_t word = atomic_load_explicit(&p->h->sequence, memory_order_acquire);
        if (word + atomic_load(&s->bumps) != seen) {
            break;
        }
        int64_t left = deadline - clock_mono_us();
        if (left <= 0) {
            break;
        }
        futex_wait(&p->h->sequence, word,
                   left < WAIT_SLICE_MS * 1000 ? left : WAIT_SLICE_MS * 1000);
    }
    atomic_fetch_add(&s->waits_ended, 1);
}

/* A waiter may have looked at bumps and not yet be in the futex: so wake until as many waits have
 * ended as there were, a few times; whoever is missed even so looks again after a slice. */
void store_bump(struct store *s)
{
    atomic_fetch_add(&s->bumps, 1);
    struct page *p = atomic_load_explicit(&s->page, memory_order_acquire);
    uint32_t begun = atomic_load(&s->waits_begun);
    for (int i = 0; i < WAKE_TRIES && (int32_t)(begun - atomic_load(&s->waits_ended)) > 0; i++) {
        futex_wake_all(&p->h->sequence);
        struct timespec t = {.tv_nsec = 50000L << (i < 6 ? i : 6)};
        nanosleep(&t, NULL);
    }
}

void store_wake(struct store *s)
{
    store_bump(s);
}

enum err store_offsets(struct store *s, uint32_t uid, struct store_offsets *o)
{
    struct page *p = atomic_load_explicit(&s->view, memory_order_acquire);
    if (uid >= atomic_load_explicit(&p->h->next_uid, memory_order_acquire)) {
        return ERR_NOT_FOUND;
    }
    const struct page_entry *e = &p->entries[uid];
    if (!atomic_load_explicit(&e->live, memory_order_acquire)) {
        return ERR_NOT_FOUND;
    }
    /* The start first: it never passes the end, so what is read later can only be further. */
    o->log_start = atomic_load_explicit(&e->log_start, memory_order_acquire);
    o->durable = atomic_load_explicit(&e->durable, memory_order_acquire);
    o->end = atomic_load_explicit(&e->end, memory_order_acquire);
    o->leader_epoch = atomic_load_explicit(&e->epoch, memory_order_acquire);
    return OK;
}
