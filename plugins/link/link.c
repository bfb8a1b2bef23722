/* Shared memory, futexes and messages between the broker and its writer. */
#include "plugins/link/link.h"

#include "shared/mqtt/publish.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define ERROR_TRIES_MAX  100
#define TOTALS_TRIES_MAX 100

/* __DATE__ would make each build another one; what has to agree is the layout. */
static void build_name(char *out, size_t size)
{
    snprintf(out, size, "%s/%zu/%zu", CULEX_VERSION, sizeof(struct link),
             sizeof(struct stream_counters));
}

static const char *const reason_names[REASON_COUNT] = {
    [REASON_RING_FULL] = "ring-full",     [REASON_TOO_LARGE] = "too-large",
    [REASON_UNAVAILABLE] = "unavailable", [REASON_DISK] = "disk",
    [REASON_UNKNOWN] = "unknown-stream",  [REASON_CORRUPT] = "corrupt",
};

const char *reason_name(enum reason r)
{
    return reason_names[r];
}

/* --- the memory ------------------------------------------------------------------------------- */

static struct link *map(int fd)
{
    void *p = mmap(NULL, sizeof(struct link), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return p == MAP_FAILED ? NULL : p;
}

struct link *link_make(int *fd)
{
    *fd = memfd_create("culex-link", MFD_CLOEXEC);
    if (*fd < 0) {
        return NULL;
    }
    struct link *l = ftruncate(*fd, sizeof(struct link)) == 0 ? map(*fd) : NULL;
    if (!l) {
        close(*fd);
        *fd = -1;
        return NULL;
    }
    build_name(l->build, sizeof l->build);
    return l;
}

enum err link_attach(struct link **out, int fd, struct errmsg *m)
{
    struct stat st;
    char mine[sizeof(*out)->build];
    build_name(mine, sizeof mine);
    if (fstat(fd, &st) != 0 || st.st_size < (off_t)sizeof mine) {
        return err_set(m, ERR_INVALID, "there is no memory that a plugin shares");
    }
    *out = st.st_size == (off_t)sizeof(struct link) ? map(fd) : NULL;
    if (*out && strcmp((*out)->build, mine) == 0) {
        return OK;
    }
    link_unmap(*out);
    *out = NULL;
    return err_set(m, ERR_VERSION, "the plugin that the broker has loaded is of another version "
                   "than this writer (%s): restart the broker", mine);
}

void link_unmap(struct link *l)
{
    if (l) {
        munmap(l, sizeof *l);
    }
}

struct stream_counters *link_counters_find(struct link *l, uint64_t id)
{
    for (uint64_t i = 0; i < LINK_STREAMS_MAX; i++) {
        uint64_t at = (id + i) % LINK_STREAMS_MAX;
        uint64_t seen = atomic_load(&l->ids[at]);
        if (seen == id || !seen) {
            return seen && atomic_load(&l->streams[at].named) ? &l->streams[at] : NULL;
        }
    }
    return NULL;
}

struct stream_counters *link_counters(struct link *l, const char *name)
{
    uint64_t id = stream_id(slice_str(name));
    for (uint64_t i = 0; i < LINK_STREAMS_MAX; i++) {
        uint64_t at = (id + i) % LINK_STREAMS_MAX;
        uint64_t seen = atomic_load(&l->ids[at]);
        if (seen == 0 && atomic_compare_exchange_strong(&l->ids[at], &seen, id)) {
            seen = id;
        }
        struct stream_counters *s = &l->streams[at];
        if (seen == id) {
            /* Whoever claimed the place may have been killed right there. */
            if (!atomic_load(&s->named)) {
                snprintf(s->name, sizeof s->name, "%s", name);
                atomic_store(&s->named, true);
            }
            return s;
        }
    }
    return NULL;
}

/* The slot in use may be read twice over by a tick that comes meanwhile: then once more. */
struct stream_totals link_totals(const struct stream_counters *s)
{
    struct stream_totals t;
    for (int i = 0; i < TOTALS_TRIES_MAX; i++) {
        uint32_t number = atomic_load(&s->totals_number);
        t = s->totals[number % 2];
        atomic_thread_fence(memory_order_seq_cst);
        if (number == atomic_load(&s->totals_number)) {
            break;
        }
    }
    return t;
}

void link_totals_add(struct stream_counters *s, const struct stream_totals *more)
{
    uint32_t number = atomic_load(&s->totals_number);
    struct stream_totals t = s->totals[number % 2];
    t.recovered += more->recovered;
    t.stored += more->stored;
    t.stored_bytes += more->stored_bytes;
    t.filtered += more->filtered;
    t.shadowed += more->shadowed;
    t.unkeyed += more->unkeyed;
    for (int r = 0; r < REASON_COUNT; r++) {
        t.lost[r] += more->lost[r];
    }
    if (more->stored_bytes) {
        t.last_partition = more->last_partition;
        t.last_offset = more->last_offset;
    }
    t.pos = more->pos;
    s->totals[(number + 1) % 2] = t;
    atomic_store(&s->totals_number, number + 1);
}

void link_totals_new_ring(struct link *l)
{
    static const struct stream_totals nothing;
    for (size_t i = 0; i < LINK_STREAMS_MAX; i++) {
        if (atomic_load(&l->ids[i])) {
            link_totals_add(&l->streams[i], &nothing);
        }
    }
}

bool link_set_state(struct link *l, enum capture_state state, const char *why)
{
    enum capture_state before = (enum capture_state)atomic_load(&l->state);
    if (before == state && strcmp(l->error, why) == 0) {
        return false;
    }
    uint32_t version = atomic_load(&l->error_version) | 1;
    atomic_store(&l->error_version, version);
    atomic_thread_fence(memory_order_seq_cst);
    snprintf(l->error, sizeof l->error, "%s", why);
    atomic_store(&l->error_version, version + 1);
    atomic_store(&l->state, (int)state);
    link_due(l, DUE_COUNTERS);
    return true;
}

void link_error(const struct link *l, char *out, size_t size)
{
    for (int i = 0; i < ERROR_TRIES_MAX; i++) {
        uint32_t version = atomic_load(&l->error_version);
        snprintf(out, size, "%.*s", (int)sizeof l->error - 1, l->error);
        atomic_thread_fence(memory_order_seq_cst);
        if (version % 2 == 0 && version == atomic_load(&l->error_version)) {
            return;
        }
    }
}

/* --- waiting and waking ----------------------------------------------------------------------- */

void link_wait_us(_Atomic uint32_t *word, uint32_t value, int64_t timeout_us)
{
    struct timespec ts = {timeout_us / 1000000, timeout_us % 1000000 * 1000};
    syscall(SYS_futex, word, FUTEX_WAIT, value, &ts, NULL, 0);
}

void link_wake_word(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

bool link_fence_register(void)
{
    return syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0) == 0;
}

void link_fence_all(const struct link *l)
{
    if (l->writer_fences) {
        (void)syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0);
    } else {
        atomic_thread_fence(memory_order_seq_cst);
    }
}

SELDOM void link_wake_sleeping(struct link *l)
{
    if (atomic_exchange(&l->sleeping, 0)) {
        link_wake_word(&l->sleeping);
    }
}

/* --- messages --------------------------------------------------------------------------------- */

struct head {
    uint32_t kind, number;
};

union control {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof(int))];
};

enum err link_send(int socket, enum link_kind kind, uint32_t number, const char *text, int fd)
{
    struct head h = {(uint32_t)kind, number};
    size_t len = strnlen(text, LINK_TEXT_BYTES_MAX - 1);
    struct iovec parts[] = {{&h, sizeof h}, {(void *)(uintptr_t)text, len}};
    union control c = {.bytes = {0}};
    struct msghdr msg = {.msg_iov = parts, .msg_iovlen = 2};
    if (fd >= 0) {
        msg.msg_control = c.bytes;
        msg.msg_controllen = sizeof c.bytes;
        struct cmsghdr *cm = CMSG_FIRSTHDR(&msg);
        cm->cmsg_level = SOL_SOCKET;
        cm->cmsg_type = SCM_RIGHTS;
        cm->cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(cm), &fd, sizeof fd);
    }
    ssize_t n;
    do {
        n = sendmsg(socket, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    if (n >= 0) {
        return OK;
    }
    return errno == EAGAIN || errno == ENOBUFS || errno == ETOOMANYREFS ? ERR_AGAIN : ERR_CLOSED;
}

enum err link_receive(int socket, bool wait, struct link_message *m)
{
    struct head h;
    struct iovec parts[] = {{&h, sizeof h}, {m->text, sizeof m->text - 1}};
    union control c;
    struct msghdr msg = {.msg_iov = parts, .msg_iovlen = 2, .msg_control = c.bytes,
                         .msg_controllen = sizeof c.bytes};
    ssize_t n;
    do {
        /* A peer that left something unread is told of as an error, once, before its last words. */
        n = recvmsg(socket, &msg, (wait ? 0 : MSG_DONTWAIT) | MSG_CMSG_CLOEXEC);
    } while (n < 0 && (errno == EINTR || errno == ECONNRESET));
    if (n < (ssize_t)sizeof h) {
        return n < 0 && errno == EAGAIN ? ERR_AGAIN : ERR_CLOSED;
    }
    m->kind = h.kind;
    m->number = h.number;
    m->text[(size_t)n - sizeof h] = '\0';
    m->fd = -1;
    struct cmsghdr *cm = CMSG_FIRSTHDR(&msg);
    if (cm && cm->cmsg_level == SOL_SOCKET && cm->cmsg_type == SCM_RIGHTS) {
        memcpy(&m->fd, CMSG_DATA(cm), sizeof m->fd);
    }
    return OK;
}
