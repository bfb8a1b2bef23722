/* Preloaded into the writer of captured streams, or the server: a command to the writer is cut off
 * there, by SIGKILL, before the n-th call by which the program does or learns something.
 *
 * The file that KILL_AT names has n. It is read when a command comes to the writer, or when the
 * server is about to send one. Whoever takes the file away by renaming it, this program to die or
 * the test because the command was answered before, has decided it. What the program would have
 * called is written to KILL_AT.died. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#define SOCKET_NAME "/capture.sock"

static _Atomic int left; /* calls, with the last; 0 and less: nobody dies */

static void begin(void)
{
    char text[16] = "";
    const char *path = getenv("KILL_AT");
    int fd = path != NULL ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) {
        return;
    }
    (void)!syscall(SYS_read, fd, text, sizeof text - 1);
    close(fd);
    atomic_store(&left, (int)strtol(text, NULL, 10));
}

static void step(const char *name)
{
    char died[4096];
    const char *path = getenv("KILL_AT");
    if (path == NULL || atomic_load(&left) <= 0) {
        return;
    }
    if (syscall(SYS_access, path, F_OK) != 0) {
        atomic_store(&left, 0);
        return;
    }
    if (atomic_fetch_sub(&left, 1) != 1) {
        return;
    }
    snprintf(died, sizeof died, "%s.died", path);
    if (syscall(SYS_rename, path, died) == 0) {
        int fd = (int)syscall(SYS_openat, AT_FDCWD, died, O_WRONLY | O_TRUNC | O_CLOEXEC);
        (void)!syscall(SYS_write, fd, name, strlen(name));
        kill(getpid(), SIGKILL);
        pause();
    }
}

/* The function of that name behind this one, after the step. */
static void *behind(const char *name, void *_Atomic *kept)
{
    if (atomic_load(kept) == NULL) {
        atomic_store(kept, dlsym(RTLD_NEXT, name));
    }
    step(name);
    return atomic_load(kept);
}

#define BEHIND(name) ((__typeof__(&name))behind(#name, &kept))

ssize_t write(int fd, const void *data, size_t n)
{
    static void *_Atomic kept;
    return BEHIND(write)(fd, data, n);
}

ssize_t pwrite(int fd, const void *data, size_t n, off_t at)
{
    static void *_Atomic kept;
    return BEHIND(pwrite)(fd, data, n, at);
}

ssize_t send(int fd, const void *data, size_t n, int flags)
{
    static void *_Atomic kept;
    return BEHIND(send)(fd, data, n, flags);
}

ssize_t sendmsg(int fd, const struct msghdr *m, int flags)
{
    static void *_Atomic kept;
    return BEHIND(sendmsg)(fd, m, flags);
}

ssize_t recvmsg(int fd, struct msghdr *m, int flags)
{
    static void *_Atomic kept;
    return BEHIND(recvmsg)(fd, m, flags);
}

int rename(const char *from, const char *to)
{
    static void *_Atomic kept;
    return BEHIND(rename)(from, to);
}

int fsync(int fd)
{
    static void *_Atomic kept;
    return BEHIND(fsync)(fd);
}

int fdatasync(int fd)
{
    static void *_Atomic kept;
    return BEHIND(fdatasync)(fd);
}

int open(const char *path, int flags, ...)
{
    static void *_Atomic kept;
    va_list more;
    va_start(more, flags);
    mode_t mode = (flags & O_CREAT) != 0 ? va_arg(more, mode_t) : 0;
    va_end(more);
    return BEHIND(open)(path, flags, mode);
}

/* The writer takes commands like this, and the server their answers. */
ssize_t recv(int fd, void *data, size_t n, int flags)
{
    static void *_Atomic kept;
    ssize_t got = BEHIND(recv)(fd, data, n, flags);
    bool command = got > 0 && flags == MSG_TRUNC;
    if (command && strcmp(program_invocation_short_name, "culex-writer") == 0) {
        begin();
    }
    return got;
}

int connect(int fd, const struct sockaddr *to, socklen_t len)
{
    static void *_Atomic kept;
    const struct sockaddr_un *a = (const struct sockaddr_un *)to;
    size_t tail = sizeof SOCKET_NAME - 1, n = 0;
    if (to->sa_family == AF_UNIX) {
        n = strnlen(a->sun_path, sizeof a->sun_path);
    }
    if (n > tail && memcmp(a->sun_path + n - tail, SOCKET_NAME, tail) == 0) {
        begin();
    }
    return BEHIND(connect)(fd, to, len);
}
