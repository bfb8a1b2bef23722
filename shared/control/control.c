/* The socket's name in the data directory may be longer than an address takes (108 bytes), so it is
 * named through a descriptor of the directory.
 *
 * Messages are SOCK_SEQPACKET's: whole or not at all. Both ends wait with a bound, so that a
 * process that hangs holds nobody for ever. */
#include "shared/control/control.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define ANSWER_MS (CONTROL_COMMAND_MS + 2000)
#define STEP_MS   100 /* between two looks at *stop */
#define TALK_MS   2000 /* for the bytes of one message */
#define BACKLOG   16

static enum err failed(struct errmsg *m, enum err e, const char *what, const char *data)
{
    return err_set(m, e, "%s %s/" CONTROL_SOCKET ": %s", what, data, strerror(errno));
}

/* Binds or connects fd. */
static int with_address(int fd, const char *data,
                        int (*fn)(int, const struct sockaddr *, socklen_t))
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int dir = open(data, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0) {
        return -1;
    }
    snprintf(a.sun_path, sizeof a.sun_path, "/proc/self/fd/%d/" CONTROL_SOCKET, dir);
    int rc = fn(fd, (const struct sockaddr *)&a, sizeof a);
    int code = errno;
    close(dir);
    errno = code;
    return rc;
}

static void set_timeout(int fd, int option, int ms)
{
    struct timeval tv = {ms / 1000, ms % 1000 * 1000};
    (void)setsockopt(fd, SOL_SOCKET, option, &tv, sizeof tv); /* without: whoever waits, waits */
}

static int socket_new(void)
{
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd >= 0) {
        int bytes = CONTROL_BYTES_MAX * 2;
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
        set_timeout(fd, SO_SNDTIMEO, TALK_MS);
    }
    return fd;
}

enum err control_listen(const char *data, int *fd, struct errmsg *m)
{
    *fd = socket_new();
    int dir = open(data, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (dir >= 0) {
        (void)unlinkat(dir, CONTROL_SOCKET, 0); /* ENOENT: as it should be; else bind says why */
        close(dir);
    }
    /* The name that bind makes has the mode of the socket itself. */
    int rc = *fd < 0 || fchmod(*fd, 0660) != 0 ? -1 : with_address(*fd, data, bind);
    if (rc == 0) {
        rc = listen(*fd, BACKLOG);
    }
    if (rc != 0) {
        enum err e = failed(m, ERR_IO, "cannot listen on", data);
        if (*fd >= 0) {
            close(*fd);
        }
        *fd = -1;
        return e;
    }
    return OK;
}

/* One message as JSON. */
static enum err receive(int fd, json_t **out, struct errmsg *m)
{
    char *text = malloc(CONTROL_BYTES_MAX);
    *out = NULL;
    if (!text) {
        return err_set(m, ERR_NOMEM, "no memory for a command");
    }
    ssize_t n;
    do {
        n = recv(fd, text, CONTROL_BYTES_MAX, MSG_TRUNC);
    } while (n < 0 && errno == EINTR);
    enum err e = OK;
    if (n <= 0) {
        e = err_set(m, ERR_IO, "no answer: %s", n == 0 ? "the connection was closed"
                                                       : strerror(errno));
    } else if (n > CONTROL_BYTES_MAX) {
        e = err_set(m, ERR_CORRUPT, "a command of %zd bytes; at most %u are allowed", n,
                    CONTROL_BYTES_MAX);
    } else {
        json_error_t j;
        *out = json_loadb(text, (size_t)n, 0, &j);
        e = json_is_object(*out) ? OK : err_set(m, ERR_CORRUPT, "not a JSON object");
    }
    free(text);
    if (e) {
        json_decref(*out);
        *out = NULL;
    }
    return e;
}

/* Takes the reference. */
static enum err put(int fd, json_t *object, struct errmsg *m)
{
    char *text = json_dumps(object, JSON_COMPACT);
    json_decref(object);
    if (!text) {
        return err_set(m, ERR_NOMEM, "no memory for a command");
    }
    size_t len = strlen(text);
    enum err e = OK;
    if (len > CONTROL_BYTES_MAX) {
        e = err_set(m, ERR_INVALID, "a command of %zu bytes; at most %u are allowed", len,
                    CONTROL_BYTES_MAX);
    } else if (send(fd, text, len, MSG_NOSIGNAL) < 0) {
        e = err_set(m, ERR_AGAIN, "the command could not be sent: %s", strerror(errno));
    }
    free(text);
    return e;
}

enum err control_receive(int connection, json_t **command, struct errmsg *m)
{
    set_timeout(connection, SO_RCVTIMEO, TALK_MS);
    set_timeout(connection, SO_SNDTIMEO, TALK_MS);
    return receive(connection, command, m);
}

void control_answer(int connection, enum err e, const char *why, json_t *more)
{
    struct errmsg m;
    json_t *answer = more ? more : json_object();
    json_object_set_new(answer, "error", json_string(err_name(e)));
    if (why) {
        json_object_set_new(answer, "message", json_string(why));
    }
    (void)put(connection, answer, &m); /* it may be gone */
}

enum err control_error(const json_t *result)
{
    const char *name = json_string_value(json_object_get(result, "error"));
    for (enum err e = OK; e <= ERR_CLOSED; e++) {
        if (name && strcmp(err_name(e), name) == 0) {
            return e;
        }
    }
    return ERR_CORRUPT;
}

static enum err connect_to(const char *data, int *fd, struct errmsg *m)
{
    *fd = socket_new();
    if (*fd < 0) {
        return failed(m, ERR_IO, "no socket for", data);
    }
    if (with_address(*fd, data, connect) == 0) {
        return OK;
    }
    enum err e = errno == EACCES || errno == EPERM
                     ? failed(m, ERR_IO, "broker and server must run as the same user: cannot "
                                         "connect to", data)
                     : err_set(m, ERR_AGAIN, "the broker is not running, or its plugin has not "
                               "started yet: %s/" CONTROL_SOCKET ": %s", data, strerror(errno));
    close(*fd);
    *fd = -1;
    return e;
}

static bool has_answer(int fd, const _Atomic bool *stop)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int waited = 0;
    while (waited < ANSWER_MS && !atomic_load(stop) && poll(&p, 1, STEP_MS) == 0) {
        waited += STEP_MS;
    }
    return p.revents != 0;
}

enum err control_call(const char *data, json_t *command, const _Atomic bool *stop, json_t **answer,
                      struct errmsg *m)
{
    int fd;
    json_t *got = NULL;
    enum err e = connect_to(data, &fd, m);
    if (e) {
        json_decref(command);
    } else {
        e = put(fd, command, m);
        if (!e && !has_answer(fd, stop)) {
            e = err_set(m, ERR_AGAIN, "the broker does not answer");
        }
        if (!e && receive(fd, &got, m)) {
            e = ERR_AGAIN;
        }
        close(fd);
    }
    if (got) {
        e = control_error(got);
        const char *why = json_string_value(json_object_get(got, "message"));
        err_set(m, e, "%s", why ? why : err_name(e));
    }
    if (answer) {
        *answer = got;
    } else {
        json_decref(got);
    }
    return e;
}
