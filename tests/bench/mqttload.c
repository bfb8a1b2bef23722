/* mqttload: many MQTT publishers in one thread, as fast as the broker takes it.
 *
 * A measuring publisher must never be what is measured, so this one speaks MQTT on raw
 * sockets: packets are laid out in one buffer a connection, hundreds leave in one write,
 * acknowledgements are counted as they stream in. It also must tell afterwards what the broker
 * promised, so each payload begins with
 *
 *     connection (8 hex) ' ' sequence (16 hex) ' ' CLOCK_MONOTONIC in ns (16 hex) ' ' then 'x'…
 *
 * and the report says, for each connection, how many were sent and how many were acknowledged,
 * also when the broker was killed under it (exit code 4). SIGTERM ends the sending, not the
 * counting.
 *
 * The rate counts until the last acknowledgement; for QoS 0 until the answer to a PINGREQ
 * behind the last publish, because only then has the broker read them all.
 *
 * A connection goes through:  SENDING → DRAINING (all sent, answers missing) → DONE, or →
 * LOST. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define CONNECTIONS_MAX 1000
#define OUT_BYTES       (256u << 10) /* per connection: some hundred packets a write */
#define IN_BYTES        (64u << 10)
#define TOPICS_MAX      100000
#define PAYLOAD_HEAD    43
#define PAYLOAD_MAX     (64u << 10)
#define QUIET_MS        30000 /* no progress at all for so long: the broker hangs */

enum state { SENDING, DRAINING, DONE, LOST };

struct conn {
    int fd;
    enum state state;
    uint64_t sent, acked, rejected;
    uint64_t ack_disorder; /* acknowledgements out of the order of sending */
    uint64_t credit;       /* publishes that the rate allows now */
    size_t out_len, out_off, in_len;
    bool wants_write;
    uint8_t out[OUT_BYTES];
    uint8_t in[IN_BYTES];
};

static struct {
    const char *host, *prefix, *id;
    int port, conns, qos, version;
    uint32_t size, window, topics;
    uint64_t count, first, rate;
    double seconds;
    bool retain;
} opt = {"127.0.0.1", "load", "load", 1883, 1, 0, 4, 100, 1000, 1, 0, 0, 0, 0, false};

static struct conn *conns;
static int epfd;
static uint64_t start_ns, end_ns;
static volatile sig_atomic_t time_is_up;

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "mqttload: %s: %s\n", what, strerror(errno));
    exit(2);
}

static void on_signal(int n)
{
    (void)n;
    time_is_up = true;
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint8_t *put_hex(uint8_t *p, uint64_t v, int digits)
{
    for (int i = digits - 1; i >= 0; i--) {
        p[i] = (uint8_t) "0123456789abcdef"[v & 15];
        v >>= 4;
    }
    p[digits] = ' ';
    return p + digits + 1;
}

static uint8_t *put_u16(uint8_t *p, size_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
    return p + 2;
}

static uint8_t *put_varint(uint8_t *p, size_t v)
{
    do {
        uint8_t b = v & 127;
        v >>= 7;
        *p++ = (uint8_t)(b | (v ? 128 : 0));
    } while (v);
    return p;
}

/* Packet identifiers run 1 … 65535 and around; the window is smaller, so none is in use twice. */
static uint16_t packet_id(uint64_t n)
{
    return (uint16_t)(1 + n % 65535);
}

static size_t put_publish(uint8_t *p, uint32_t c, uint64_t n)
{
    uint8_t *begin = p;
    uint64_t seq = opt.first + n;
    static char topic[300];
    static uint64_t written = UINT64_MAX; /* the number in it */
    static int tl;
    uint64_t number = c * (uint64_t)opt.topics + seq % opt.topics;
    if (number != written) {
        tl = snprintf(topic, sizeof topic, "%s/%llu", opt.prefix, (unsigned long long)number);
        written = number;
    }
    size_t left = 2 + (size_t)tl + (opt.qos ? 2 : 0) + (opt.version == 5 ? 1 : 0) + opt.size;

    *p++ = (uint8_t)(0x30 | opt.qos << 1 | (opt.retain ? 1 : 0));
    p = put_varint(p, left);
    p = put_u16(p, (size_t)tl);
    memcpy(p, topic, (size_t)tl);
    p += tl;
    if (opt.qos) {
        p = put_u16(p, packet_id(n));
    }
    if (opt.version == 5) {
        *p++ = 0;
    }
    uint8_t *payload = p;
    p = put_hex(p, c, 8);
    p = put_hex(p, seq, 16);
    p = put_hex(p, now_ns(), 16);
    memset(p, 'x', opt.size - PAYLOAD_HEAD);
    return (size_t)(payload + opt.size - begin);
}

static void watch_write(struct conn *c, bool on)
{
    if (c->wants_write == on) {
        return;
    }
    c->wants_write = on;
    struct epoll_event e = {.events = EPOLLIN | (on ? EPOLLOUT : 0), .data.ptr = c};
    if (epoll_ctl(epfd, EPOLL_CTL_MOD, c->fd, &e) != 0) {
        die("epoll_ctl");
    }
}

static void lose(struct conn *c)
{
    if (c->state != LOST && c->state != DONE) {
        c->state = LOST;
        epoll_ctl(epfd, EPOLL_CTL_DEL, c->fd, NULL);
        close(c->fd);
        end_ns = now_ns();
    }
}

static void finish(struct conn *c)
{
    c->state = DONE;
    end_ns = now_ns();
    watch_write(c, false);
}

static bool all_sent(const struct conn *c)
{
    return time_is_up || (opt.count && c->sent >= opt.count);
}

/* Fills the buffer as far as window and rate allow. */
static void fill(struct conn *c)
{
    size_t packet_max = 400 + opt.size;
    uint32_t index = (uint32_t)(c - conns);

    if (c->out_off == c->out_len) {
        c->out_off = c->out_len = 0;
    }
    while (c->state == SENDING && !all_sent(c) && OUT_BYTES - c->out_len >= packet_max) {
        if ((opt.qos && c->sent - c->acked >= opt.window) || (opt.rate && c->credit == 0)) {
            break;
        }
        c->out_len += put_publish(c->out + c->out_len, index, c->sent);
        c->sent++;
        if (opt.rate) {
            c->credit--;
        }
    }
    if (c->state == SENDING && all_sent(c) && OUT_BYTES - c->out_len >= 2) {
        c->state = DRAINING;
        c->out[c->out_len++] = 0xc0; /* PINGREQ: its answer says that all before it was read */
        c->out[c->out_len++] = 0;
    }
}

static void flush_out(struct conn *c)
{
    if (c->state != SENDING && c->state != DRAINING) {
        return;
    }
    for (int turn = 0; turn < 4; turn++) {
        fill(c);
        if (c->out_off == c->out_len) {
            watch_write(c, false);
            return;
        }
        ssize_t n = send(c->fd, c->out + c->out_off, c->out_len - c->out_off, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EAGAIN) {
                watch_write(c, true);
            } else {
                lose(c);
            }
            return;
        }
        c->out_off += (size_t)n;
    }
    watch_write(c, true);
}

static void on_ack(struct conn *c, const uint8_t *body, size_t len)
{
    if (len >= 2 && (uint16_t)(body[0] << 8 | body[1]) != packet_id(c->acked)) {
        c->ack_disorder++;
    }
    if (len >= 3 && body[2] >= 0x80) {
        c->rejected++;
    }
    c->acked++;
}

/* One packet from the broker: PUBACK 4, PUBREC 5, PUBCOMP 7, PINGRESP 13, DISCONNECT 14. */
static void on_packet(struct conn *c, uint8_t type, const uint8_t *body, size_t len)
{
    switch (type >> 4) {
    case 4:
    case 7:
        on_ack(c, body, len);
        break;
    case 5:
        if (OUT_BYTES - c->out_len >= 4 && len >= 2) {
            const uint8_t pubrel[4] = {0x62, 2, body[0], body[1]};
            memcpy(c->out + c->out_len, pubrel, 4);
            c->out_len += 4;
        }
        break;
    case 13:
        if (c->state == DRAINING && (!opt.qos || c->acked >= c->sent)) {
            finish(c);
        }
        break;
    case 14:
        lose(c);
        break;
    default:
        break;
    }
    if (opt.qos && c->state == DRAINING && c->acked >= c->sent) {
        finish(c);
    }
}

static void read_in(struct conn *c)
{
    ssize_t n = recv(c->fd, c->in + c->in_len, IN_BYTES - c->in_len, 0);
    if (n <= 0) {
        if (n == 0 || errno != EAGAIN) {
            lose(c);
        }
        return;
    }
    c->in_len += (size_t)n;
    size_t at = 0;
    /* Nothing that a broker sends to a mere publisher is longer than 127 bytes. */
    while (c->in_len - at >= 2 && c->in_len - at >= 2u + c->in[at + 1]) {
        on_packet(c, c->in[at], c->in + at + 2, c->in[at + 1]);
        at += 2u + c->in[at + 1];
    }
    memmove(c->in, c->in + at, c->in_len - at);
    c->in_len -= at;
}

static void open_conn(struct conn *c, int index)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)opt.port)};
    uint8_t p[300], *q = p;
    char id[128];
    int one = 1, il = snprintf(id, sizeof id, "%s-%d", opt.id, index);

    inet_pton(AF_INET, opt.host, &a.sin_addr);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&a, sizeof a) != 0) {
        die("connect");
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    *q++ = 0x10;
    q = put_varint(q, 10 + (opt.version == 5 ? 1 : 0) + 2 + (size_t)il);
    q = put_u16(q, 4);
    memcpy(q, "MQTT", 4);
    q += 4;
    *q++ = (uint8_t)opt.version;
    *q++ = 2; /* clean start */
    q = put_u16(q, 0);
    if (opt.version == 5) {
        *q++ = 0;
    }
    q = put_u16(q, (size_t)il);
    memcpy(q, id, (size_t)il);
    q += il;
    if (send(c->fd, p, (size_t)(q - p), MSG_NOSIGNAL) != q - p) {
        die("CONNECT");
    }
    uint8_t head[2], rest[256];
    if (recv(c->fd, head, 2, MSG_WAITALL) != 2 || head[0] != 0x20 ||
        recv(c->fd, rest, head[1], MSG_WAITALL) != head[1] || rest[1] != 0) {
        fprintf(stderr, "mqttload: connection %d was not accepted\n", index);
        exit(2);
    }
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(epfd, EPOLL_CTL_ADD, c->fd, &e) != 0) {
        die("epoll_ctl");
    }
}

static int open_timer(void)
{
    uint64_t every = !opt.rate || opt.rate > 1000 ? 1000000 : 1000000000 / opt.rate;
    struct itimerspec t = {.it_interval = {.tv_sec = (time_t)(every / 1000000000),
                                           .tv_nsec = (long)(every % 1000000000)}};
    t.it_value = t.it_interval;
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL};
    if (fd < 0 || timerfd_settime(fd, 0, &t, NULL) != 0 ||
        epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &e) != 0) {
        die("timer");
    }
    return fd;
}

/* What the rate allows is reckoned from the start, so that late ticks lose nothing. */
static void on_timer(int timer, uint64_t *granted)
{
    uint64_t ticks;
    if (read(timer, &ticks, sizeof ticks) < 0 && errno != EAGAIN) {
        die("timer");
    }
    uint64_t elapsed = now_ns() - start_ns;
    if (opt.rate) {
        uint64_t due = (uint64_t)((double)opt.rate * (double)elapsed / 1e9);
        for (; *granted < due; ++*granted) {
            conns[*granted % (uint64_t)opt.conns].credit++;
        }
    }
    if (opt.seconds > 0 && (double)elapsed / 1e9 >= opt.seconds) {
        time_is_up = true;
    }
}

static bool all_over(void)
{
    for (int i = 0; i < opt.conns; i++) {
        if (conns[i].state != DONE && conns[i].state != LOST) {
            return false;
        }
    }
    return true;
}

static uint64_t progress(void)
{
    uint64_t n = 0;
    for (int i = 0; i < opt.conns; i++) {
        n += conns[i].sent + conns[i].acked + conns[i].state;
    }
    return n;
}

static void run(void)
{
    struct epoll_event ev[256];
    uint64_t granted = 0, seen = 0, seen_at = now_ns();
    int timer = open_timer();

    start_ns = now_ns();
    for (int i = 0; i < opt.conns; i++) {
        flush_out(&conns[i]);
    }
    while (!all_over()) {
        int n = epoll_wait(epfd, ev, 256, 1000);
        bool tick = false;
        for (int i = 0; i < n; i++) {
            struct conn *c = ev[i].data.ptr;
            if (!c) {
                tick = true;
                on_timer(timer, &granted);
                continue;
            }
            if (ev[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
                read_in(c);
            }
            flush_out(c);
        }
        for (int i = 0; tick && i < opt.conns; i++) {
            flush_out(&conns[i]);
        }
        if (progress() != seen) {
            seen = progress();
            seen_at = now_ns();
        } else if ((now_ns() - seen_at) / 1000000 > QUIET_MS) {
            fprintf(stderr, "mqttload: no progress for %d ms\n", QUIET_MS);
            exit(3);
        }
    }
}

static int report(void)
{
    uint64_t sent = 0, acked = 0, rejected = 0, disorder = 0;
    bool lost = false;
    for (int i = 0; i < opt.conns; i++) {
        sent += conns[i].sent;
        acked += conns[i].acked;
        rejected += conns[i].rejected;
        disorder += conns[i].ack_disorder;
        lost = lost || conns[i].state == LOST;
    }
    double s = (double)(end_ns - start_ns) / 1e9;
    printf("{\"sent\":%llu,\"acked\":%llu,\"rejected\":%llu,\"ack_disorder\":%llu,\"seconds\":%.6f,"
           "\"rate\":%.1f,\"lost\":%s,\"conns\":[",
           (unsigned long long)sent, (unsigned long long)acked, (unsigned long long)rejected,
           (unsigned long long)disorder, s, (double)(opt.qos ? acked : sent) / s,
           lost ? "true" : "false");
    for (int i = 0; i < opt.conns; i++) {
        printf("%s[%llu,%llu]", i ? "," : "", (unsigned long long)conns[i].sent,
               (unsigned long long)conns[i].acked);
    }
    printf("]}\n");
    return lost ? 4 : 0;
}

static _Noreturn void usage(void)
{
    fprintf(
        stderr,
        "mqttload [-h host] [-p port] [-n connections] [-q qos] [-s payload bytes] [-w window]\n"
        "         [-c publishes a connection | -d seconds] [-r publishes a second, all together]\n"
        "         [-t topic prefix] [-T topics a connection] [-i client id] [-f first sequence]\n"
        "         [-5 (MQTT 5)] [-R (retain)]\n"
        "Connection C publishes to PREFIX/(C * T + sequence %% T).\n");
    exit(2);
}

static uint64_t number(const char *text)
{
    char *end;
    errno = 0;
    uint64_t v = strtoull(text, &end, 10);
    if (errno || end == text || *end) {
        usage();
    }
    return v;
}

static double seconds(const char *text)
{
    char *end;
    double v = strtod(text, &end);
    if (end == text || *end) {
        usage();
    }
    return v;
}

static void parse(int argc, char **argv)
{
    int o;
    while ((o = getopt(argc, argv, "h:p:n:q:s:c:d:w:r:t:T:i:f:5R")) != -1) {
        switch (o) {
        case 'h':
            opt.host = optarg;
            break;
        case 'p':
            opt.port = (int)number(optarg);
            break;
        case 'n':
            opt.conns = (int)number(optarg);
            break;
        case 'q':
            opt.qos = (int)number(optarg);
            break;
        case 's':
            opt.size = (uint32_t)number(optarg);
            break;
        case 'c':
            opt.count = number(optarg);
            break;
        case 'd':
            opt.seconds = seconds(optarg);
            break;
        case 'w':
            opt.window = (uint32_t)number(optarg);
            break;
        case 'r':
            opt.rate = number(optarg);
            break;
        case 't':
            opt.prefix = optarg;
            break;
        case 'T':
            opt.topics = (uint32_t)number(optarg);
            break;
        case 'i':
            opt.id = optarg;
            break;
        case 'f':
            opt.first = number(optarg);
            break;
        case '5':
            opt.version = 5;
            break;
        case 'R':
            opt.retain = true;
            break;
        default:
            usage();
        }
    }
    if (opt.conns < 1 || opt.conns > CONNECTIONS_MAX || opt.qos < 0 || opt.qos > 2 ||
        optind != argc || opt.size < PAYLOAD_HEAD || opt.size > PAYLOAD_MAX || opt.window < 1 ||
        opt.window > 65000 || opt.topics < 1 || opt.topics > TOPICS_MAX ||
        (!opt.count && opt.seconds <= 0) || strlen(opt.prefix) > 200 || strlen(opt.id) > 100) {
        usage();
    }
}

int main(int argc, char **argv)
{
    parse(argc, argv);
    signal(SIGTERM, on_signal);
    conns = calloc((size_t)opt.conns, sizeof *conns);
    epfd = epoll_create1(EPOLL_CLOEXEC);
    if (!conns || epfd < 0) {
        die("start");
    }
    for (int i = 0; i < opt.conns; i++) {
        open_conn(&conns[i], i);
    }
    run();
    return report();
}
