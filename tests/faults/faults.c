/* The replaced functions. Each asks due() whether its turn has come, and else calls the real one:
 * the allocator's by glibc's own names, the others through dlsym. */
#include "tests/faults/faults.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static _Atomic bool armed;
static enum fault armed_fault;
static uint64_t armed_nth;
static bool armed_on;
static int armed_error;
static _Atomic uint64_t calls;
static _Atomic bool dealt;

static _Thread_local bool this_thread; /* armed us */
static _Thread_local int64_t live;

void faults_arm(enum fault fault, uint64_t nth, bool on, int error)
{
    armed_fault = fault;
    armed_nth = nth;
    armed_on = on;
    armed_error = error;
    atomic_store(&calls, 0);
    atomic_store(&dealt, false);
    this_thread = true;
    atomic_store(&armed, true);
}

uint64_t faults_disarm(void)
{
    atomic_store(&armed, false);
    this_thread = false;
    return atomic_load(&calls);
}

bool faults_dealt(void)
{
    return atomic_load(&dealt);
}

int64_t faults_live_allocations(void)
{
    return live;
}

int faults_open_files(void)
{
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    while (d && readdir(d)) {
        n++;
    }
    if (d) {
        closedir(d);
    }
    return n;
}

/* Has the time of this call come? Sets errno when it has. */
static bool due(enum fault fault)
{
    if (!atomic_load(&armed) || fault != armed_fault ||
        (fault == FAULT_ALLOCATION && !this_thread)) {
        return false;
    }
    uint64_t n = atomic_fetch_add(&calls, 1) + 1;
    if (armed_nth == 0 || n < armed_nth || (n > armed_nth && !armed_on)) {
        return false;
    }
    atomic_store(&dealt, true);
    errno = armed_error;
    return true;
}

/* --- the allocator ---------------------------------------------------------------------------- */

#pragma GCC visibility push(default)

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t count, size_t n);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t alignment, size_t n);
void __libc_free(void *p);

void *malloc(size_t n)
{
    void *p = due(FAULT_ALLOCATION) ? NULL : __libc_malloc(n);
    live += p != NULL;
    return p;
}

void *calloc(size_t count, size_t n)
{
    void *p = due(FAULT_ALLOCATION) ? NULL : __libc_calloc(count, n);
    live += p != NULL;
    return p;
}

void *realloc(void *old, size_t n)
{
    void *p = due(FAULT_ALLOCATION) ? NULL : __libc_realloc(old, n);
    live += p != NULL && old == NULL;
    return p;
}

void *aligned_alloc(size_t alignment, size_t n)
{
    void *p = due(FAULT_ALLOCATION) ? NULL : __libc_memalign(alignment, n);
    live += p != NULL;
    return p;
}

void free(void *p)
{
    live -= p != NULL;
    __libc_free(p);
}

/* --- system calls ----------------------------------------------------------------------------- */

/* A function with a result of -1 on failure, and the same under its name for large files. */
#define REPLACE(result, name, parameters, arguments)                                               \
    result name parameters;                                                                        \
    result name parameters                                                                         \
    {                                                                                              \
        static result(*real) parameters;                                                           \
        if (!real) {                                                                               \
            *(void **)&real = dlsym(RTLD_NEXT, #name);                                             \
        }                                                                                          \
        return due(FAULT_CALL) ? (result)-1 : real arguments;                                      \
    }

REPLACE(ssize_t, write, (int fd, const void *p, size_t n), (fd, p, n))
REPLACE(ssize_t, read, (int fd, void *p, size_t n), (fd, p, n))
REPLACE(ssize_t, pwrite, (int fd, const void *p, size_t n, off_t at), (fd, p, n, at))
REPLACE(ssize_t, pwrite64, (int fd, const void *p, size_t n, off_t at), (fd, p, n, at))
REPLACE(ssize_t, pread, (int fd, void *p, size_t n, off_t at), (fd, p, n, at))
REPLACE(ssize_t, pread64, (int fd, void *p, size_t n, off_t at), (fd, p, n, at))
REPLACE(int, ftruncate, (int fd, off_t n), (fd, n))
REPLACE(int, ftruncate64, (int fd, off_t n), (fd, n))
REPLACE(int, fallocate, (int fd, int mode, off_t at, off_t n), (fd, mode, at, n))
REPLACE(int, fallocate64, (int fd, int mode, off_t at, off_t n), (fd, mode, at, n))
REPLACE(int, fsync, (int fd), (fd))
REPLACE(int, fdatasync, (int fd), (fd))
REPLACE(int, flock, (int fd, int operation), (fd, operation))
REPLACE(int, rename, (const char *from, const char *to), (from, to))
REPLACE(int, link, (const char *from, const char *to), (from, to))
REPLACE(int, unlink, (const char *path), (path))
REPLACE(int, mkdir, (const char *path, mode_t mode), (path, mode))
REPLACE(int, fstat, (int fd, struct stat *st), (fd, st))
REPLACE(int, stat, (const char *path, struct stat *st), (path, st))
REPLACE(int, memfd_create, (const char *name, unsigned flags), (name, flags))
REPLACE(ssize_t, sendmsg, (int socket, const struct msghdr *m, int flags), (socket, m, flags))
REPLACE(ssize_t, recvmsg, (int socket, struct msghdr *m, int flags), (socket, m, flags))
REPLACE(int, madvise, (void *p, size_t n, int advice), (p, n, advice))
REPLACE(void *, mmap, (void *p, size_t n, int prot, int flags, int fd, off_t at),
        (p, n, prot, flags, fd, at))
REPLACE(void *, mmap64, (void *p, size_t n, int prot, int flags, int fd, off_t at),
        (p, n, prot, flags, fd, at))

/* Returns its error, and does not set errno. */
int posix_fallocate(int fd, off_t at, off_t n)
{
    static int (*real)(int, off_t, off_t);
    if (!real) {
        *(void **)&real = dlsym(RTLD_NEXT, "posix_fallocate");
    }
    return due(FAULT_CALL) ? armed_error : real(fd, at, n);
}

/* The third argument is there only where a file may be made. */
static bool has_mode(int flags)
{
    return (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE;
}

static int open_real(const char *path, int flags, mode_t mode)
{
    static int (*real)(const char *, int, ...);
    if (!real) {
        *(void **)&real = dlsym(RTLD_NEXT, "open");
    }
    return due(FAULT_CALL) ? -1 : real(path, flags, mode);
}

int open(const char *path, int flags, ...)
{
    va_list ap;
    va_start(ap, flags);
    mode_t mode = has_mode(flags) ? va_arg(ap, mode_t) : 0;
    va_end(ap);
    return open_real(path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
    va_list ap;
    va_start(ap, flags);
    mode_t mode = has_mode(flags) ? va_arg(ap, mode_t) : 0;
    va_end(ap);
    return open_real(path, flags, mode);
}
