/* Can it be reached at all? The libraries retry and say "timed out"; one connection attempt of our
 * own tells a refused port from a name that does not exist, at once, and in words that help. */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "kafka-server/cli/cli.h"

bool reach_split(const char *text, int default_port, char *host, size_t size, int *port)
{
    const char *from = text, *end = text + strlen(text), *colon = strrchr(text, ':');
    *port = default_port;
    if (text[0] == '[') {
        from = text + 1;
        end = strchr(text, ']');
        colon = end != NULL && end[1] == ':' ? end + 1 : NULL;
    } else if (colon != NULL) {
        end = colon;
    }
    if (end == NULL || end == from || (size_t)(end - from) >= size) {
        return false;
    }
    if (colon != NULL) {
        char *rest;
        long n = strtol(colon + 1, &rest, 10);
        if (*rest != '\0' || rest == colon + 1 || n < 1 || n > 65535) {
            return false;
        }
        *port = (int)n;
    }
    memcpy(host, from, (size_t)(end - from));
    host[end - from] = '\0';
    return true;
}

/* 0 or errno. */
static int try_connect(const struct addrinfo *a, int timeout_ms)
{
    int fd = socket(a->ai_family, a->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, a->ai_protocol);
    if (fd < 0) {
        return errno;
    }
    int e = connect(fd, a->ai_addr, a->ai_addrlen) == 0 ? 0 : errno;
    if (e == EINPROGRESS) {
        struct pollfd p = {.fd = fd, .events = POLLOUT};
        socklen_t len = sizeof e;
        if (poll(&p, 1, timeout_ms) <= 0) {
            e = ETIMEDOUT;
        } else if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &len) != 0) {
            e = errno;
        }
    }
    close(fd);
    return e;
}

bool reach_probe(const char *host, int port, int timeout_ms, struct errmsg *m)
{
    char service[8];
    snprintf(service, sizeof service, "%d", port);
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *list = NULL;
    int g = getaddrinfo(host, service, &hints, &list);
    if (g != 0) {
        err_set(m, ERR_IO, "%s", gai_strerror(g));
        return false;
    }
    int e = EHOSTUNREACH;
    for (const struct addrinfo *a = list; a != NULL && e != 0; a = a->ai_next) {
        e = try_connect(a, timeout_ms);
    }
    freeaddrinfo(list);
    if (e != 0) {
        err_set(m, ERR_IO, "%s", strerror(e));
    }
    return e == 0;
}
