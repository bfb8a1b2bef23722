/* Connections: bytes in, frames out to the handler, replies back, and every limit on the way.
 *
 *      socket ─read─▶ frame (its own memory, when its length is known)
 *                └──▶ ahead (what came after it: at most NET_AHEAD_BYTES_MAX, then reading stops)
 *      frame complete, nothing in hand, reply before it nearly gone, memory and room there
 *                └──▶ cb.frame ──▶ … ──▶ net_conn_reply ──▶ out ──net_turn: writev──▶ socket
 *
 * Nothing is written before net_turn: the server commits what the handlers did in this turn of
 * the loop and only then lets replies go. So the write event does no more than put the connection
 * on the ready list.
 *
 * Memory: a frame counts from the moment its length is known, so that a peer cannot make us hold
 * what we did not agree to. Who does not fit is starved: not read from, looked at again when
 * memory comes back. Those who have their memory always go on, so the starved wait for them and
 * not for each other; those who hold memory and do not move, or too slowly, are closed by the
 * sweep (NET_FRAME_STALL_MS, NET_FRAME_BYTES_MS, NET_REPLY_STALL_MS, NET_HOLD_MS). Small frames
 * never wait, so that nobody who announces large ones can shut the others out.
 *
 * Closing only marks. net_turn writes once more what is queued and frees; nobody finds a
 * connection gone under its feet. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <unistd.h>

#include <utlist.h>

#include "kafka-server/net/internal.h"
#include "shared/base/clock.h"

#define NET_FRAMES_A_TURN 16   /* of one connection, then it is somebody else's turn */
#define COMPLAINT_MS      1000 /* between two lines of a kind */

/* Requests and replies in hand use all memory up: no more are taken on. */
static bool is_short_of_memory(const struct net *n)
{
    return n->memory - n->arriving > n->o.memory_bytes_max;
}

static void conn_mark_ready(struct net_conn *c)
{
    if (!c->ready) {
        c->ready = true;
        DL_APPEND2(c->net->ready, c, ready_prev, ready_next);
    }
}

/* Counts what the connection holds now. */
static void conn_charge(struct net_conn *c)
{
    size_t out = evbuffer_get_length(c->out);
    size_t now = (c->frame != NULL ? c->frame_len : 0) + c->held + c->ahead_len + out;
    c->net->memory += now - c->charged;
    c->charged = now;
}

static void conn_set_reading(struct net_conn *c, bool reading)
{
    if (reading == c->reading) {
        return;
    }
    c->reading = reading;
    if (reading) {
        event_add(&c->read_event, NULL);
    } else {
        event_del(&c->read_event);
    }
}

static void conn_set_starved(struct net_conn *c, bool starved)
{
    c->net->starved_count += (int)starved - (int)c->starved;
    c->starved = starved;
}

/* The frame is whole, or will never be. */
static void conn_frame_arrived(struct net_conn *c)
{
    if (c->arriving) {
        c->arriving = false;
        c->net->arriving -= c->frame_len;
    }
}

static void conn_drop_frame(struct net_conn *c)
{
    conn_frame_arrived(c);
    free(c->frame);
    c->frame = NULL;
    c->frame_len = c->frame_have = c->held = 0;
}

static void conn_end_frame(struct net_conn *c)
{
    c->busy = false;
    conn_drop_frame(c);
    c->heard_ms = clock_mono_ms();
    conn_charge(c);
    conn_mark_ready(c);
}

bool net_may_complain(struct net *n, enum net_complaint kind, unsigned *held_back)
{
    *held_back = 0;
    return log_limit_pass(&n->limits[kind], COMPLAINT_MS, held_back);
}

const char *net_more_text(unsigned held_back, char *buf, size_t room)
{
    buf[0] = '\0';
    if (held_back != 0) {
        snprintf(buf, room, " (and %u more like it)", held_back);
    }
    return buf;
}

/* Marks a connection as closing, for whatever reason; its handler learns of it. */
static void conn_shut(struct net_conn *c)
{
    if (c->state == CONN_CLOSING) {
        return;
    }
    c->state = CONN_CLOSING;
    conn_set_reading(c, false);
    conn_set_starved(c, false);
    event_del(&c->write_event);
    if (c->busy) {
        c->busy = false;
        c->net->cb.gone(c->net->cb.arg, c);
    }
    conn_drop_frame(c);
    conn_mark_ready(c);
}

static void conn_complain(struct net_conn *c, enum net_complaint kind, const char *what)
{
    unsigned held;
    char more[48];
    if (net_may_complain(c->net, kind, &held)) {
        log_warn("connection closed: %s peer=%s listener=%s%s", what, c->peer,
                 c->net->listener_count > c->listener ? c->net->listeners[c->listener].e.name : "-",
                 net_more_text(held, more, sizeof more));
    }
    conn_shut(c);
}

static void conn_free(struct net_conn *c)
{
    struct net *n = c->net;
    DL_DELETE(n->conns, c);
    if (c->ready) {
        DL_DELETE2(n->ready, c, ready_prev, ready_next);
    }
    n->conn_count--;
    if (--c->ip->count == 0) {
        HASH_DEL(n->ips, c->ip);
        free(c->ip);
    }
    n->unsent -= evbuffer_get_length(c->out);
    n->memory -= c->charged;
    event_del(&c->read_event);
    event_del(&c->write_event);
    evbuffer_free(c->out);
    free(c->ahead);
    close(c->fd);
    free(c);
}

/* --- reading --------------------------------------------------------------------------------- */

static bool conn_keep_ahead(struct net_conn *c, const uint8_t *data, size_t len)
{
    if (len == 0) {
        return true;
    }
    uint8_t *p = realloc(c->ahead, c->ahead_len + len);
    if (p == NULL) {
        return false;
    }
    memcpy(p + c->ahead_len, data, len);
    c->ahead = p;
    c->ahead_len += len;
    return true;
}

static void conn_take_ahead(struct net_conn *c, size_t n)
{
    c->ahead_len -= n;
    if (c->ahead_len == 0) {
        free(c->ahead);
        c->ahead = NULL;
    } else {
        memmove(c->ahead, c->ahead + n, c->ahead_len);
    }
}

/* Begins the next frame out of `ahead`. False: not enough bytes yet, or starved, or closed. */
static bool conn_begin_frame(struct net_conn *c)
{
    struct net *n = c->net;
    if (c->ahead_len < 4) {
        return false;
    }
    char text[96];
    enum net_complaint kind;
    const char *odd = net_look(c->ahead, n->o.frame_bytes_max, text, &kind);
    if (odd != NULL) {
        char what[128];
        snprintf(what, sizeof what, "looks like %s", odd);
        conn_complain(c, kind, what);
        return false;
    }
    size_t len = be32_get(c->ahead);
    if (len > n->o.memory_bytes_max) {
        conn_complain(c, NET_ODD_LENGTH, "a frame larger than queued.max.request.bytes");
        return false;
    }
    if (len > n->o.memory_bytes_max - c->charged && n->memory == c->charged) {
        conn_complain(c, NET_ODD_LENGTH, "a frame that does not fit beside what was sent ahead");
        return false;
    }
    if ((len > net_memory_left(n) && len > NET_SMALL_FRAME_BYTES) ||
        (c->frame = malloc(len)) == NULL) {
        conn_set_starved(c, true);
        return false;
    }
    c->frame_ms = clock_mono_ms();
    c->arriving = true;
    n->arriving += len;
    conn_take_ahead(c, 4);
    c->frame_len = len;
    c->frame_have = c->ahead_len < len ? c->ahead_len : len;
    memcpy(c->frame, c->ahead != NULL ? c->ahead : c->frame, c->frame_have);
    if (c->frame_have != 0) {
        conn_take_ahead(c, c->frame_have);
    }
    conn_charge(c);
    return true;
}

/* Hands out what can be handed out, and decides whether to read on. */
static void conn_advance(struct net_conn *c)
{
    struct net *n = c->net;
    for (int i = 0; c->state == CONN_OPEN && !c->busy && !n->stopping; i++) {
        if (c->frame == NULL && !conn_begin_frame(c)) {
            break;
        }
        if (c->frame_have < c->frame_len || evbuffer_get_length(c->out) > NET_REPLY_LOW_BYTES) {
            break;
        }
        conn_frame_arrived(c);
        if (is_short_of_memory(n) || !n->cb.room(n->cb.arg)) {
            conn_set_starved(c, true);
            break;
        }
        if (i == NET_FRAMES_A_TURN) {
            conn_mark_ready(c);
            break;
        }
        c->busy = c->spoke = true;
        c->frame_ms = clock_mono_ms();
        n->cb.frame(n->cb.arg, c, c->frame, c->frame_len);
    }
    if (c->state == CONN_OPEN) {
        conn_set_reading(c, !c->starved && !n->stopping && c->ahead_len < NET_AHEAD_BYTES_MAX);
    }
}

static void conn_eof(struct net_conn *c, int code)
{
    if (code != 0 && code != ECONNRESET && code != EPIPE) {
        log_debug("connection failed peer=%s error=\"%s\"", c->peer, strerror(code));
    }
    conn_shut(c);
}

/* Reads straight into the frame when one is being assembled, else a piece of whatever comes. */
static void on_readable(evutil_socket_t fd, short what, void *arg)
{
    struct net_conn *c = arg;
    struct net *n = c->net;
    bool into_frame = c->frame != NULL && !c->busy && c->frame_have < c->frame_len;
    uint8_t *to = n->scratch;
    size_t room = NET_AHEAD_BYTES_MAX - c->ahead_len;
    if (into_frame) {
        to = c->frame + c->frame_have;
        room = c->frame_len - c->frame_have;
        room = room < NET_BIG_READ_BYTES ? room : NET_BIG_READ_BYTES;
    } else if (room > sizeof n->scratch) {
        room = sizeof n->scratch;
    }
    ssize_t got = recv(fd, to, room, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (got <= 0) {
        conn_eof(c, got < 0 ? errno : 0);
        return;
    }
    c->heard_ms = clock_mono_ms();
    if (into_frame) {
        c->frame_have += (size_t)got;
    } else if (!conn_keep_ahead(c, to, (size_t)got)) {
        conn_complain(c, NET_SLOW, "no memory to read on");
        return;
    }
    conn_charge(c);
    conn_advance(c);
}

/* --- writing --------------------------------------------------------------------------------- */

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
    conn_mark_ready(arg);
}

static void conn_write(struct net_conn *c)
{
    size_t before = evbuffer_get_length(c->out);
    if (before == 0) {
        return;
    }
    int sent = evbuffer_write_atmost(c->out, c->fd, NET_WRITE_BYTES);
    int code = errno;
    size_t left = evbuffer_get_length(c->out);
    c->net->unsent -= before - left;
    if (sent > 0) {
        c->taken_ms = clock_mono_ms();
    }
    conn_charge(c);
    if (sent < 0 && code != EAGAIN && code != EINTR) {
        conn_eof(c, code);
    } else if (left != 0 && c->state == CONN_OPEN) {
        event_add(&c->write_event, NULL);
    }
}

void net_conn_hold(struct net_conn *c, size_t bytes)
{
    ASSERT(c->busy);
    c->held = bytes;
    conn_charge(c);
}

void net_conn_reply(struct net_conn *c, struct evbuffer *reply)
{
    ASSERT(c->busy);
    if (evbuffer_get_length(c->out) == 0) {
        c->taken_ms = clock_mono_ms();
    }
    c->net->unsent += evbuffer_get_length(reply);
    evbuffer_add_buffer(c->out, reply);
    conn_end_frame(c);
}

void net_conn_skip_reply(struct net_conn *c)
{
    ASSERT(c->busy);
    conn_end_frame(c);
}

void net_conn_close(struct net_conn *c, const char *why)
{
    c->busy = false;
    if (why != NULL) {
        conn_complain(c, NET_BAD_FRAME, why);
    } else {
        conn_shut(c);
    }
}

void net_conn_abort(struct net_conn *c, const char *why)
{
    conn_complain(c, NET_SLOW, why);
}

/* --- the turn -------------------------------------------------------------------------------- */

static void feed_starved(struct net *n)
{
    struct net_conn *c, *next;
    DL_FOREACH_SAFE(n->conns, c, next)
    {
        if (n->starved_count == 0 || is_short_of_memory(n) || !n->cb.room(n->cb.arg)) {
            return;
        }
        if (c->starved) {
            conn_set_starved(c, false);
            conn_advance(c);
        }
    }
}

bool net_turn(struct net *n)
{
    struct net_conn *list = n->ready;
    n->ready = NULL;
    while (list != NULL) {
        struct net_conn *c = list;
        DL_DELETE2(list, c, ready_prev, ready_next);
        c->ready = false;
        conn_write(c);
        if (c->state == CONN_CLOSING) {
            conn_free(c);
            continue;
        }
        if (!c->busy) {
            conn_advance(c);
        }
    }
    if (n->starved_count != 0) {
        feed_starved(n);
    }
    return n->ready != NULL;
}

/* --- time ------------------------------------------------------------------------------------ */

static void sweep_conn(struct net_conn *c, int64_t now_ms, bool short_of_memory)
{
    struct net *n = c->net;
    if (c->state != CONN_OPEN) {
        return;
    }
    if (evbuffer_get_length(c->out) != 0) {
        int64_t limit = short_of_memory ? NET_REPLY_STALL_MS : n->o.idle_ms;
        if (now_ms - c->taken_ms > limit) {
            conn_complain(c, NET_SLOW, "the peer does not take its replies");
        }
    } else if (c->busy) {
        if (short_of_memory && c->charged > NET_SMALL_FRAME_BYTES &&
            now_ms - c->frame_ms > NET_HOLD_MS) {
            conn_complain(c, NET_SLOW, "its request waits, and holds memory that others need");
        }
    } else if (c->starved) {
        return;
    } else if (c->frame != NULL || c->ahead_len != 0) {
        int64_t slow_ms = NET_FRAME_STALL_MS + (int64_t)(c->frame_len / NET_FRAME_BYTES_MS);
        if (now_ms - c->heard_ms > NET_FRAME_STALL_MS) {
            conn_complain(c, NET_SLOW, "half a frame came, and nothing more");
        } else if (c->frame != NULL && now_ms - c->frame_ms > slow_ms) {
            conn_complain(c, NET_SLOW, "a frame comes too slowly");
        }
    } else if (!c->spoke && now_ms - c->heard_ms > NET_FIRST_FRAME_MS) {
        conn_complain(c, NET_SLOW, "nothing came since it was opened");
    } else if (now_ms - c->heard_ms > n->o.idle_ms) {
        log_debug("connection idle for connections.max.idle.ms peer=%s", c->peer);
        conn_shut(c);
    }
}

static void on_sweep(evutil_socket_t fd, short what, void *arg)
{
    struct net *n = arg;
    int64_t now_ms = clock_mono_ms();
    bool short_of_memory = n->starved_count != 0 && n->memory >= n->o.memory_bytes_max / 2;
    struct net_conn *c;
    DL_FOREACH(n->conns, c)
    {
        sweep_conn(c, now_ms, short_of_memory);
    }
}

static void on_accept_again(evutil_socket_t fd, short what, void *arg)
{
    struct net *n = arg;
    for (size_t i = 0; i < n->listener_count && !n->stopping; i++) {
        for (size_t k = 0; k < n->listeners[i].socket_count; k++) {
            evconnlistener_enable(n->listeners[i].sockets[k]);
        }
    }
}

/* --- connections come and go ----------------------------------------------------------------- */

/* Fills text and ip (IPv4 in the last four bytes) of an address. */
static void address_text(const struct sockaddr_storage *a, char *text, uint8_t ip[16])
{
    memset(ip, 0, 16);
    if (a->ss_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)a;
        memcpy(ip + 12, &v4->sin_addr, 4);
        inet_ntop(AF_INET, &v4->sin_addr, text, INET6_ADDRSTRLEN);
    } else if (a->ss_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)a;
        memcpy(ip, &v6->sin6_addr, 16);
        inet_ntop(AF_INET6, &v6->sin6_addr, text, INET6_ADDRSTRLEN);
    } else {
        memcpy(text, "local", sizeof "local");
    }
}

/* Counts one more connection of this address; NULL when it has enough, or memory is out. */
static struct conn_ip *count_ip(struct net *n, const uint8_t ip[16])
{
    struct conn_ip *x;
    HASH_FIND(hh, n->ips, ip, 16, x);
    if (x == NULL) {
        x = calloc(1, sizeof *x);
        if (x == NULL) {
            return NULL;
        }
        memcpy(x->ip, ip, 16);
        HASH_ADD(hh, n->ips, ip, 16, x);
    }
    if (x->count >= n->o.connections_per_ip_max) {
        return NULL;
    }
    x->count++;
    return x;
}

static struct net_conn *refuse(struct net *n, int fd, const char *peer, const char *why)
{
    unsigned held;
    char more[48];
    if (net_may_complain(n, NET_TOO_MANY, &held)) {
        log_warn("connection refused: %s peer=%s open=%d%s", why, peer, n->conn_count,
                 net_more_text(held, more, sizeof more));
    }
    close(fd);
    return NULL;
}

struct net_conn *net_adopt(struct net *n, int fd, size_t listener)
{
    struct sockaddr_storage a = {0};
    socklen_t len = sizeof a;
    char peer[INET6_ADDRSTRLEN] = "?";
    uint8_t ip[16];
    (void)getpeername(fd, (struct sockaddr *)&a, &len); /* gone already: the first read tells */
    address_text(&a, peer, ip);
    if (n->stopping) {
        close(fd);
        return NULL;
    }
    if (n->conn_count >= n->o.connections_max) {
        return refuse(n, fd, peer, "max.connections are open");
    }
    struct conn_ip *count = count_ip(n, ip);
    if (count == NULL) {
        return refuse(n, fd, peer, "max.connections.per.ip are open from this address");
    }
    struct net_conn *c = calloc(1, sizeof *c);
    struct evbuffer *out = evbuffer_new();
    if (c == NULL || out == NULL) {
        free(c);
        if (out != NULL) {
            evbuffer_free(out);
        }
        if (--count->count == 0) {
            HASH_DEL(n->ips, count);
            free(count);
        }
        return refuse(n, fd, peer, "no memory");
    }
    c->net = n;
    c->fd = fd;
    c->listener = listener;
    c->ip = count;
    c->out = out;
    memcpy(c->peer, peer, sizeof peer);
    len = sizeof a;
    memset(&a, 0, sizeof a);
    (void)getsockname(fd, (struct sockaddr *)&a, &len); /* as above */
    address_text(&a, c->local, ip);
    evutil_make_socket_nonblocking(fd);
    int on = 1; /* not a TCP socket in tests: no harm done */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    event_assign(&c->read_event, n->base, fd, EV_READ | EV_PERSIST, on_readable, c);
    event_assign(&c->write_event, n->base, fd, EV_WRITE, on_writable, c);
    c->heard_ms = c->taken_ms = clock_mono_ms();
    DL_APPEND(n->conns, c);
    n->conn_count++;
    conn_set_reading(c, true);
    return c;
}

enum err net_open(struct net **out, struct event_base *base, const struct net_options *o,
                  const struct net_callbacks *cb, struct errmsg *m)
{
    struct net *n = calloc(1, sizeof *n);
    if (n == NULL) {
        return err_set(m, ERR_NOMEM, "no memory for connections");
    }
    n->base = base;
    n->o = *o;
    n->cb = *cb;
    n->sweep = event_new(base, -1, EV_PERSIST, on_sweep, n);
    n->accept_again = event_new(base, -1, 0, on_accept_again, n);
    if (n->sweep == NULL || n->accept_again == NULL) {
        net_close(n);
        return err_set(m, ERR_NOMEM, "no memory for connections");
    }
    struct timeval every = {NET_SWEEP_MS / 1000, NET_SWEEP_MS % 1000 * 1000};
    event_add(n->sweep, &every);
    *out = n;
    return OK;
}

void net_set_options(struct net *n, const struct net_options *o)
{
    n->o = *o;
}

void net_stop(struct net *n)
{
    n->stopping = true;
    for (size_t i = 0; i < n->listener_count; i++) {
        for (size_t k = 0; k < n->listeners[i].socket_count; k++) {
            evconnlistener_free(n->listeners[i].sockets[k]);
        }
        n->listeners[i].socket_count = 0;
    }
    struct net_conn *c;
    DL_FOREACH(n->conns, c)
    {
        conn_set_reading(c, false);
    }
}

void net_close(struct net *n)
{
    if (n == NULL) {
        return;
    }
    net_stop(n);
    while (n->conns != NULL) {
        struct net_conn *c = n->conns;
        conn_shut(c);
        conn_free(c);
    }
    if (n->sweep != NULL) {
        event_free(n->sweep);
    }
    if (n->accept_again != NULL) {
        event_free(n->accept_again);
    }
    free(n);
}

/* --- small answers --------------------------------------------------------------------------- */

int net_connection_count(const struct net *n)
{
    return n->conn_count;
}

size_t net_unsent_bytes(const struct net *n)
{
    return n->unsent;
}

size_t net_memory_used(const struct net *n)
{
    return n->memory;
}

size_t net_memory_left(const struct net *n)
{
    return n->memory < n->o.memory_bytes_max ? n->o.memory_bytes_max - n->memory : 0;
}

void net_memory_take(struct net *n, size_t bytes)
{
    n->memory += bytes;
}

void net_memory_give(struct net *n, size_t bytes)
{
    n->memory -= bytes;
}

void net_conn_set_user(struct net_conn *c, void *user)
{
    c->user = user;
}

void *net_conn_user(const struct net_conn *c)
{
    return c->user;
}

const char *net_conn_peer(const struct net_conn *c)
{
    return c->peer;
}

const char *net_conn_advertised_host(const struct net_conn *c)
{
    const struct net *n = c->net;
    const char *host =
        c->listener < n->listener_count ? n->listeners[c->listener].e.advertised_host : "";
    return host[0] != '\0' ? host : c->local;
}

int net_conn_advertised_port(const struct net_conn *c)
{
    const struct net *n = c->net;
    if (c->listener >= n->listener_count) {
        return 0;
    }
    const struct net_listener *l = &n->listeners[c->listener];
    return l->e.advertised_port != 0 ? l->e.advertised_port : l->port;
}
