/* Sockets that listen, and what is said about them at start.
 *
 * A listener is one line of configuration and possibly several sockets: localhost is 127.0.0.1
 * and ::1, because clients try either first; a name is all that it resolves to; no host at all is
 * every address of both families. All of them share one port: with port 0 the first socket gets
 * one from the kernel and the others follow. IPv6 sockets never take IPv4 connections, so that an
 * address looks the same in limits and logs whichever family came first. */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <unistd.h>

#include "kafka-server/net/internal.h"

static const char *bind_hint(int code)
{
    switch (code) {
    case EADDRINUSE:
        return "the port is in use by another program";
    case EACCES:
        return "not permitted; ports below 1024 need root or CAP_NET_BIND_SERVICE";
    case EADDRNOTAVAIL:
        return "this machine has no such address";
    default:
        return strerror(code);
    }
}

static int address_port(const struct sockaddr *a)
{
    return ntohs(a->sa_family == AF_INET6 ? ((const struct sockaddr_in6 *)a)->sin6_port
                                          : ((const struct sockaddr_in *)a)->sin_port);
}

static void address_set_port(struct sockaddr *a, int port)
{
    if (a->sa_family == AF_INET6) {
        ((struct sockaddr_in6 *)a)->sin6_port = htons((uint16_t)port);
    } else {
        ((struct sockaddr_in *)a)->sin_port = htons((uint16_t)port);
    }
}

/* A listening socket on a, or -1 with errno. */
static int open_socket(const struct sockaddr *a, socklen_t len)
{
    int fd = socket(a->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return -1;
    }
    int on = 1;
    int code = setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (code == 0 && a->sa_family == AF_INET6) {
        code = setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    }
    if (code != 0 || bind(fd, a, len) != 0 || listen(fd, NET_BACKLOG) != 0) {
        int saved = errno;
        close(fd);
        errno = saved;
        return -1;
    }
    return fd;
}

static void on_accept(struct evconnlistener *lev, evutil_socket_t fd, struct sockaddr *a, int len,
                      void *arg)
{
    struct net_listener *l = arg;
    (void)net_adopt(l->net, fd, l->index); /* refused: it has said so and closed fd */
}

/* Out of descriptors, mostly: accept again a little later instead of spinning. */
static void on_accept_error(struct evconnlistener *lev, void *arg)
{
    struct net_listener *l = arg;
    int code = errno;
    unsigned held;
    if (net_may_complain(l->net, NET_ACCEPT, &held)) {
        log_warn("connections cannot be accepted listener=%s error=\"%s\" open=%d", l->e.name,
                 strerror(code), l->net->conn_count);
    }
    for (size_t i = 0; i < l->socket_count; i++) {
        evconnlistener_disable(l->sockets[i]);
    }
    struct timeval pause = {0, NET_ACCEPT_PAUSE_MS * 1000};
    event_add(l->net->accept_again, &pause);
}

static enum err add_socket(struct net_listener *l, int fd, struct errmsg *m)
{
    struct evconnlistener *lev = evconnlistener_new(
        l->net->base, on_accept, l, LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, -1, fd);
    if (lev == NULL) {
        close(fd);
        return err_set(m, ERR_NOMEM, "no memory for listener %s", l->e.name);
    }
    evconnlistener_set_error_cb(lev, on_accept_error);
    l->sockets[l->socket_count++] = lev;
    return OK;
}

static enum err resolve(const struct config_listener *e, struct addrinfo **list, struct errmsg *m)
{
    struct addrinfo want = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    char port[8];
    snprintf(port, sizeof port, "%d", e->port);
    int code = getaddrinfo(e->host[0] != '\0' ? e->host : NULL, port, &want, list);
    if (code != 0) {
        return err_set(m, ERR_INVALID, "listener %s: the address of \"%s\" is not known: %s",
                       e->name, e->host, gai_strerror(code));
    }
    return OK;
}

/* localhost by itself: what /etc/hosts says about it is not always both families. */
static void resolve_localhost(int port, struct addrinfo out[2], struct sockaddr_in *v4,
                              struct sockaddr_in6 *v6)
{
    *v4 = (struct sockaddr_in){.sin_family = AF_INET,
                               .sin_port = htons((uint16_t)port),
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    *v6 = (struct sockaddr_in6){.sin6_family = AF_INET6,
                                .sin6_port = htons((uint16_t)port),
                                .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    out[0] = (struct addrinfo){.ai_family = AF_INET,
                               .ai_addr = (struct sockaddr *)v4,
                               .ai_addrlen = sizeof *v4,
                               .ai_next = &out[1]};
    out[1] = (struct addrinfo){
        .ai_family = AF_INET6, .ai_addr = (struct sockaddr *)v6, .ai_addrlen = sizeof *v6};
}

static void say_what_clients_are_told(const struct net_listener *l)
{
    const struct config_listener *e = &l->e;
    bool v6 = strchr(e->host, ':') != NULL;
    char at[LISTENER_HOST_BYTES_MAX + 16];
    snprintf(at, sizeof at, v6 ? "[%s]:%d" : "%s:%d", e->host[0] != '\0' ? e->host : "any address",
             l->port);
    if (e->advertised_host[0] == '\0') {
        log_warn("clients that connect to %s will be told to use the address at which they reached "
                 "it, with port %d; where that is not theirs to use (NAT, containers), set "
                 "advertised.listeners",
                 at, e->advertised_port != 0 ? e->advertised_port : l->port);
        return;
    }
    v6 = strchr(e->advertised_host, ':') != NULL;
    log_info(v6 ? "clients that connect to %s will be told to use [%s]:%d"
                : "clients that connect to %s will be told to use %s:%d",
             at, e->advertised_host, e->advertised_port != 0 ? e->advertised_port : l->port);
}

/* Opens a socket for each address. One that the machine does not have (IPv6 switched off) is passed
 * over when another one works. */
static enum err open_sockets(struct net_listener *l, const struct addrinfo *list, struct errmsg *m)
{
    int missing = 0;
    for (const struct addrinfo *a = list; a != NULL && l->socket_count < NET_ADDRESSES_MAX;
         a = a->ai_next) {
        if (l->port != 0) {
            address_set_port(a->ai_addr, l->port);
        }
        int fd = open_socket(a->ai_addr, a->ai_addrlen);
        if (fd < 0 && (errno == EAFNOSUPPORT || errno == EADDRNOTAVAIL) &&
            (a->ai_next != NULL || l->socket_count > 0)) {
            missing = errno;
            continue;
        }
        if (fd < 0) {
            int code = errno;
            return err_set(m, ERR_IO, "listener %s cannot listen on %s:%d: %s", l->e.name,
                           l->e.host[0] != '\0' ? l->e.host : "*", address_port(a->ai_addr),
                           bind_hint(code));
        }
        struct sockaddr_storage got;
        socklen_t len = sizeof got;
        if (getsockname(fd, (struct sockaddr *)&got, &len) == 0) {
            l->port = address_port((struct sockaddr *)&got);
        }
        enum err e = add_socket(l, fd, m);
        if (e != OK) {
            return e;
        }
    }
    if (l->socket_count == 0) {
        return err_set(m, ERR_IO, "listener %s cannot listen on %s: %s", l->e.name, l->e.host,
                       bind_hint(missing != 0 ? missing : EADDRNOTAVAIL));
    }
    return OK;
}

enum err net_listen(struct net *n, const struct config_listener *e, struct errmsg *m)
{
    if (n->listener_count == LISTENERS_MAX) {
        return err_set(m, ERR_INVALID, "more than %d listeners", LISTENERS_MAX);
    }
    struct net_listener *l = &n->listeners[n->listener_count];
    *l = (struct net_listener){.e = *e, .net = n, .index = n->listener_count, .port = e->port};
    n->listener_count++;
    enum err code;
    if (strcmp(e->host, "localhost") == 0) {
        struct addrinfo list[2];
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
        resolve_localhost(e->port, list, &v4, &v6);
        code = open_sockets(l, list, m);
    } else {
        struct addrinfo *list = NULL;
        code = resolve(e, &list, m);
        if (code == OK) {
            code = open_sockets(l, list, m);
            freeaddrinfo(list);
        }
    }
    if (code == OK) {
        say_what_clients_are_told(l);
    }
    return code;
}

size_t net_listener_count(const struct net *n)
{
    return n->listener_count;
}

int net_listener_port(const struct net *n, size_t i)
{
    return n->listeners[i].port;
}
