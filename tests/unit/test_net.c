/* Connections and frames over real sockets: order, limits, slow and half-dead peers, odd
 * protocols. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "kafka-server/net/internal.h"
#include "shared/base/clock.h"

#define PATIENCE_MS 60000 /* for an event that must come */
#define FRAMES_MAX  1024
#define FRAME_MAX   (8u << 20)

/* A net whose handler notes frames and answers when it is told to. */
struct fixture {
    struct event_base *base;
    struct event *beat; /* so that a loop never sleeps past its patience */
    struct net *net;
    struct net_conn *in_hand[FRAMES_MAX];
    uint32_t number[FRAMES_MAX]; /* first four bytes of each frame */
    size_t length[FRAMES_MAX];
    int frames, gone, released;
    bool answer; /* at once */
    bool room;
};

static struct fixture *now; /* of the test at hand, for callbacks that have no argument */
static int64_t jump_us;     /* of the clock, see jump_ms */

static void on_beat(evutil_socket_t fd, short what, void *arg)
{
}

static void answer_frame(struct fixture *f, int i)
{
    struct evbuffer *out = evbuffer_new();
    uint8_t text[8];
    be32_put(text, 4);
    be32_put(text + 4, f->number[i]);
    evbuffer_add(out, text, sizeof text);
    net_conn_reply(f->in_hand[i], out);
    evbuffer_free(out);
}

static void on_frame(void *arg, struct net_conn *c, uint8_t *frame, size_t len)
{
    struct fixture *f = arg;
    assert_true(f->frames < FRAMES_MAX);
    f->in_hand[f->frames] = c;
    f->length[f->frames] = len;
    f->number[f->frames++] = be32_get(frame);
    if (f->answer) {
        answer_frame(f, f->frames - 1);
    }
}

static void on_gone(void *arg, struct net_conn *c)
{
    ((struct fixture *)arg)->gone++;
}

static bool has_room(void *arg)
{
    return ((struct fixture *)arg)->room;
}

static struct net_options options(void)
{
    return (struct net_options){FRAME_MAX, 64u << 20, 100, 100, 600000};
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct net_options o = options();
    struct net_callbacks cb = {on_frame, on_gone, has_room, f};
    signal(SIGPIPE, SIG_IGN);
    log_set_level(LOG_ERROR);
    f->base = event_base_new();
    f->beat = event_new(f->base, -1, EV_PERSIST, on_beat, f);
    struct timeval tv = {0, 5000};
    event_add(f->beat, &tv);
    f->answer = f->room = true;
    jump_us = 0;
    assert_int_equal(net_open(&f->net, f->base, &o, &cb, NULL), OK);
    *state = now = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    net_close(f->net);
    event_free(f->beat);
    event_base_free(f->base);
    clock_set_source(NULL, NULL);
    free(f);
    return 0;
}

static void turn(struct fixture *f)
{
    event_base_loop(f->base, EVLOOP_ONCE);
    while (net_turn(f->net)) {
    }
}

/* Turns the loop until the condition holds; fails the test when it does not in time. */
#define UNTIL(f, condition)                                                                        \
    do {                                                                                           \
        int64_t end_ = clock_mono_ms() + PATIENCE_MS;                                              \
        while (!(condition)) {                                                                     \
            turn(f);                                                                               \
            if (clock_mono_ms() > end_) {                                                          \
                fail_msg("did not happen: %s", #condition);                                        \
            }                                                                                      \
        }                                                                                          \
    } while (0)

static void turn_some(struct fixture *f)
{
    for (int i = 0; i < 10; i++) {
        turn(f);
    }
}

static int connect_pair(struct fixture *f)
{
    int fd[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fd), 0);
    assert_non_null(net_adopt(f->net, fd[0], 0));
    return fd[1];
}

static void send_all(struct fixture *f, int fd, const void *data, size_t len)
{
    const uint8_t *p = data;
    while (len != 0) {
        ssize_t n = send(fd, p, len, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) {
            turn(f);
            continue;
        }
        assert_true(n > 0);
        p += n;
        len -= (size_t)n;
    }
}

/* A frame of len bytes that begins with number. */
static void send_frame(struct fixture *f, int fd, uint32_t number, size_t len)
{
    uint8_t *frame = calloc(1, len + 4);
    be32_put(frame, (uint32_t)len);
    be32_put(frame + 4, number);
    send_all(f, fd, frame, len + 4);
    free(frame);
}

/* Bytes there are, at most len; -1: the peer has closed. */
static ssize_t take(int fd, void *data, size_t len)
{
    ssize_t n = recv(fd, data, len, 0);
    if (n == 0 || (n < 0 && errno == ECONNRESET)) {
        return -1;
    }
    return n < 0 ? 0 : n;
}

static void expect_reply(struct fixture *f, int fd, uint32_t number)
{
    uint8_t text[8];
    size_t have = 0;
    int64_t end = clock_mono_ms() + PATIENCE_MS;
    while (have < sizeof text) {
        ssize_t n = take(fd, text + have, sizeof text - have);
        assert_true(n >= 0);
        have += (size_t)n;
        if (n == 0) {
            assert_true(clock_mono_ms() < end);
            turn(f);
        }
    }
    assert_int_equal(be32_get(text), 4);
    assert_int_equal(be32_get(text + 4), number);
}

static void expect_closed(struct fixture *f, int fd)
{
    uint8_t text[64];
    UNTIL(f, take(fd, text, sizeof text) < 0);
}

/* --- frames ---------------------------------------------------------------------------------- */

static void test_frame_arrives_whole_from_single_bytes(void **state)
{
    struct fixture *f = *state;
    int fd = connect_pair(f);
    uint8_t frame[4 + 20] = {0, 0, 0, 20, 0, 0, 0, 77};
    for (size_t i = 0; i < sizeof frame; i++) {
        assert_int_equal(f->frames, 0);
        send_all(f, fd, &frame[i], 1);
        turn(f);
    }
    UNTIL(f, f->frames == 1);
    assert_int_equal(f->length[0], 20);
    expect_reply(f, fd, 77);
    close(fd);
}

static void test_pipelined_frames_are_answered_in_order(void **state)
{
    struct fixture *f = *state;
    int fd = connect_pair(f);
    for (uint32_t i = 0; i < 500; i++) {
        send_frame(f, fd, i, 8 + i % 50);
    }
    for (uint32_t i = 0; i < 500; i++) {
        expect_reply(f, fd, i);
        assert_int_equal(f->length[i], 8 + i % 50);
    }
    close(fd);
}

static void test_next_frame_waits_for_the_reply_before(void **state)
{
    struct fixture *f = *state;
    f->answer = false;
    int fd = connect_pair(f);
    send_frame(f, fd, 1, 8);
    send_frame(f, fd, 2, 8);
    UNTIL(f, f->frames == 1);
    turn_some(f);
    assert_int_equal(f->frames, 1);
    answer_frame(f, 0);
    UNTIL(f, f->frames == 2);
    expect_reply(f, fd, 1);
    answer_frame(f, 1);
    expect_reply(f, fd, 2);
    close(fd);
}

static void test_large_frame_is_read_whole(void **state)
{
    struct fixture *f = *state;
    int fd = connect_pair(f);
    send_frame(f, fd, 9, FRAME_MAX);
    send_frame(f, fd, 10, 8);
    expect_reply(f, fd, 9);
    expect_reply(f, fd, 10);
    assert_int_equal(f->length[0], FRAME_MAX);
    UNTIL(f, net_memory_used(f->net) == 0);
    close(fd);
}

static void test_nothing_is_written_before_the_end_of_the_turn(void **state)
{
    struct fixture *f = *state;
    int fd = connect_pair(f);
    uint8_t text[8];
    send_frame(f, fd, 5, 8);
    int64_t end = clock_mono_ms() + PATIENCE_MS;
    while (f->frames == 0 && clock_mono_ms() < end) {
        event_base_loop(f->base, EVLOOP_ONCE); /* no net_turn */
    }
    assert_int_equal(f->frames, 1);
    assert_int_equal(net_unsent_bytes(f->net), 8);
    event_base_loop(f->base, EVLOOP_ONCE);
    assert_int_equal(take(fd, text, sizeof text), 0);
    expect_reply(f, fd, 5);
    close(fd);
}

static void test_handler_hears_of_a_peer_that_leaves(void **state)
{
    struct fixture *f = *state;
    f->answer = false;
    int fd = connect_pair(f);
    send_frame(f, fd, 1, 8);
    UNTIL(f, f->frames == 1);
    close(fd);
    UNTIL(f, f->gone == 1);
    assert_int_equal(net_connection_count(f->net), 0);
    assert_int_equal(net_memory_used(f->net), 0);
}

static void test_handler_may_close_instead_of_an_answer(void **state)
{
    struct fixture *f = *state;
    f->answer = false;
    int fd = connect_pair(f);
    send_frame(f, fd, 1, 8);
    UNTIL(f, f->frames == 1);
    net_conn_close(f->in_hand[0], NULL);
    expect_closed(f, fd);
    assert_int_equal(f->gone, 0);
    close(fd);
}

static void test_frame_waits_while_there_is_no_room(void **state)
{
    struct fixture *f = *state;
    f->room = false;
    int fd = connect_pair(f);
    send_frame(f, fd, 3, 8);
    turn_some(f);
    assert_int_equal(f->frames, 0);
    f->room = true;
    expect_reply(f, fd, 3);
    close(fd);
}

/* --- slow readers, memory -------------------------------------------------------------------- */

static void on_released(const void *data, size_t len, void *arg)
{
    now->released++;
}

static void test_slow_reader_gets_all_and_holds_back_its_own_requests(void **state)
{
    struct fixture *f = *state;
    f->answer = false;
    int fd = connect_pair(f);
    static uint8_t big[4u << 20];
    for (size_t i = 0; i < sizeof big; i++) {
        big[i] = (uint8_t)(i * 31 >> 3);
    }
    send_frame(f, fd, 1, 8);
    send_frame(f, fd, 2, 8);
    UNTIL(f, f->frames == 1);
    struct evbuffer *out = evbuffer_new();
    evbuffer_add_reference(out, big, sizeof big, on_released, NULL);
    net_conn_reply(f->in_hand[0], out);
    evbuffer_free(out);
    turn_some(f);
    assert_int_equal(f->frames, 1);
    assert_int_equal(f->released, 0);
    assert_true(net_memory_used(f->net) >= (1u << 20));
    uint8_t *got = malloc(sizeof big);
    size_t have = 0;
    int64_t end = clock_mono_ms() + PATIENCE_MS;
    while (have < sizeof big && clock_mono_ms() < end) {
        ssize_t n = take(fd, got + have, sizeof big - have);
        assert_true(n >= 0);
        have += (size_t)n;
        turn(f);
    }
    assert_int_equal(have, sizeof big);
    assert_memory_equal(got, big, sizeof big);
    free(got);
    UNTIL(f, f->released == 1 && f->frames == 2);
    close(fd);
}

static void test_reply_is_given_back_when_the_peer_leaves(void **state)
{
    struct fixture *f = *state;
    f->answer = false;
    int fd = connect_pair(f);
    static uint8_t big[4u << 20];
    send_frame(f, fd, 1, 8);
    UNTIL(f, f->frames == 1);
    struct evbuffer *out = evbuffer_new();
    evbuffer_add_reference(out, big, sizeof big, on_released, NULL);
    net_conn_reply(f->in_hand[0], out);
    evbuffer_free(out);
    turn_some(f);
    close(fd);
    UNTIL(f, f->released == 1);
    assert_int_equal(net_unsent_bytes(f->net), 0);
    assert_int_equal(net_memory_used(f->net), 0);
}

static void test_memory_limit_makes_large_frames_take_turns(void **state)
{
    struct fixture *f = *state;
    struct net_options o = options();
    o.memory_bytes_max = 3u << 20;
    net_set_options(f->net, &o);
    f->answer = false;
    int one = connect_pair(f), two = connect_pair(f);
    uint8_t head[8] = {0, 0x20, 0, 0, 0, 0, 0, 1}; /* 2 MB */
    send_all(f, one, head, sizeof head);
    turn_some(f);
    head[7] = 2;
    send_all(f, two, head, sizeof head);
    turn_some(f);
    static uint8_t rest[(2u << 20) - 4];
    send_all(f, one, rest, sizeof rest);
    UNTIL(f, f->frames == 1);
    assert_int_equal(f->number[0], 1);
    assert_true(net_memory_used(f->net) <= o.memory_bytes_max + NET_AHEAD_BYTES_MAX);
    answer_frame(f, 0);
    expect_reply(f, one, 1);
    send_all(f, two, rest, sizeof rest);
    UNTIL(f, f->frames == 2);
    answer_frame(f, 1);
    expect_reply(f, two, 2);
    close(one);
    close(two);
}

static void test_small_frames_pass_while_others_have_reserved_all_memory(void **state)
{
    struct fixture *f = *state;
    struct net_options o = options();
    o.memory_bytes_max = 2u << 20;
    net_set_options(f->net, &o);
    int greedy = connect_pair(f), modest = connect_pair(f);
    uint8_t head[8] = {0, 0x1f, 0xff, 0xf0};
    send_all(f, greedy, head, sizeof head);
    UNTIL(f, net_memory_left(f->net) < 100);
    send_frame(f, modest, 1, 50000);
    expect_reply(f, modest, 1);
    close(greedy);
    close(modest);
}

static void test_frame_larger_than_all_memory_is_refused(void **state)
{
    struct fixture *f = *state;
    struct net_options o = options();
    o.memory_bytes_max = 1u << 20;
    net_set_options(f->net, &o);
    int fd = connect_pair(f);
    uint8_t head[8] = {0, 0x20, 0, 0};
    send_all(f, fd, head, sizeof head);
    expect_closed(f, fd);
    close(fd);
}

static void test_what_a_handler_holds_counts_until_its_reply(void **state)
{
    struct fixture *f = *state;
    int fd = connect_pair(f);
    f->answer = false;
    send_frame(f, fd, 1, 8);
    UNTIL(f, f->frames == 1);
    size_t before = net_memory_used(f->net);
    net_conn_hold(f->in_hand[0], 1000);
    net_conn_hold(f->in_hand[0], 5000);
    assert_int_equal(net_memory_used(f->net), before + 5000);
    answer_frame(f, 0);
    expect_reply(f, fd, 1);
    assert_int_equal(net_memory_used(f->net), 0);
    close(fd);
}

/* --- time ------------------------------------------------------------------------------------ */

static int64_t jumping_us(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000 + ts.tv_nsec / 1000 + jump_us;
}

static void jump_ms(int64_t ms)
{
    jump_us += ms * 1000;
    clock_set_source(NULL, jumping_us);
}

/* Like UNTIL, on a clock that does not jump. */
static void until_closed(struct fixture *f, int fd)
{
    uint8_t text[64];
    for (int i = 0; i < PATIENCE_MS / 5 && take(fd, text, sizeof text) >= 0; i++) {
        turn(f);
    }
    assert_true(take(fd, text, sizeof text) < 0);
}

static void test_idle_half_frame_and_stuck_connections_are_closed(void **state)
{
    struct fixture *f = *state;
    int idle = connect_pair(f), half = connect_pair(f), stuck = connect_pair(f);
    int parked = connect_pair(f);
    static uint8_t big[4u << 20];
    send_all(f, half, "\0\0\0\20ab", 6);
    send_frame(f, idle, 1, 8);
    expect_reply(f, idle, 1);
    f->answer = false;
    send_frame(f, stuck, 2, 8);
    UNTIL(f, f->frames == 2);
    struct evbuffer *out = evbuffer_new();
    evbuffer_add_reference(out, big, sizeof big, on_released, NULL);
    net_conn_reply(f->in_hand[1], out);
    evbuffer_free(out);
    send_frame(f, parked, 3, 8);
    UNTIL(f, f->frames == 3);
    turn_some(f);
    jump_ms(NET_FRAME_STALL_MS + 1000);
    until_closed(f, half);
    assert_int_equal(net_connection_count(f->net), 3);
    jump_ms(options().idle_ms + 1000);
    until_closed(f, idle);
    UNTIL(f, f->released == 1);
    assert_int_equal(net_connection_count(f->net), 1); /* who waits for us is not idle */
    answer_frame(f, 2);
    expect_reply(f, parked, 3);
    close(idle);
    close(half);
    close(stuck);
    close(parked);
}

static void test_who_says_nothing_at_all_is_closed_soon(void **state)
{
    struct fixture *f = *state;
    assert_true(options().idle_ms > NET_FIRST_FRAME_MS * 3 / 2);
    int silent = connect_pair(f), spoke = connect_pair(f);
    send_frame(f, spoke, 1, 8);
    expect_reply(f, spoke, 1);
    jump_ms(NET_FIRST_FRAME_MS / 2);
    for (int k = 0; k < 250; k++) { /* longer than it takes the sweep to come round */
        turn(f);
    }
    assert_int_equal(net_connection_count(f->net), 2);
    jump_ms(NET_FIRST_FRAME_MS / 2);
    until_closed(f, silent);
    assert_int_equal(net_connection_count(f->net), 1);
    close(silent);
    close(spoke);
}

static void test_large_request_does_not_wait_where_others_need_its_memory(void **state)
{
    struct fixture *f = *state;
    struct net_options o = options();
    o.memory_bytes_max = 2u << 20;
    net_set_options(f->net, &o);
    int large = connect_pair(f), small = connect_pair(f);
    f->answer = false;
    send_frame(f, large, 1, 1000);
    UNTIL(f, f->frames == 1);
    net_conn_hold(f->in_hand[0], 1u << 20);
    send_frame(f, small, 2, 1000);
    UNTIL(f, f->frames == 2);
    net_conn_hold(f->in_hand[0], 3u << 20);
    jump_ms(NET_HOLD_MS * 10);
    for (int k = 0; k < 250; k++) { /* longer than it takes the sweep to come round */
        turn(f);
    }
    assert_int_equal(net_connection_count(f->net), 2); /* nobody needs it yet */
    int next = connect_pair(f);
    send_frame(f, next, 3, 1000);
    UNTIL(f, f->frames == 3);
    assert_int_equal(f->gone, 1);
    expect_closed(f, large);
    assert_int_equal(f->number[2], 3);
    assert_int_equal(net_connection_count(f->net), 2);
    close(large);
    close(small);
    close(next);
}

static void test_frame_that_trickles_is_closed(void **state)
{
    struct fixture *f = *state;
    int fd = connect_pair(f);
    send_all(f, fd, "\0\1\0\0", 4); /* 64 KB */
    turn_some(f);
    uint8_t byte = 0;
    for (int i = 0; i < 10 && net_connection_count(f->net) != 0; i++) {
        send_all(f, fd, &byte, 1);
        turn_some(f);
        jump_ms(NET_FRAME_STALL_MS / 5);
        for (int k = 0; k < 500 && net_connection_count(f->net) != 0; k++) {
            turn(f); /* the sweep comes once a second; what it sees is the clock that has jumped */
            if (k == 250 && i < 4) {
                break;
            }
        }
    }
    assert_int_equal(net_connection_count(f->net), 0);
    close(fd);
}

/* --- other protocols ------------------------------------------------------------------------- */

static void test_odd_peers_are_named_and_closed(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *bytes;
        size_t len;
        const char *looks_like;
    } odd[] = {
        {"GET / HTTP/1.1\r\n\r\n", 18, "HTTP (\"GET \")"},
        {"POST /x HTTP/1.1\r\n", 18, "HTTP (\"POST\")"},
        {"\x16\x03\x01\x02\x00\x01", 6, "TLS"},
        {"\x10\x1a\x00\x04MQTT", 8, "MQTT"},
        {"SSH-2.0-x\r\n", 11, "text (\"SSH-\")"},
        {"\xff\xff\xff\xff", 4, "negative length -1"},
        {"\x80\x00\x00\x00", 4, "negative length -2147483648"},
        {"\x00\x00\x00\x00", 4, "too short"},
        {"\x00\x00\x00\x07", 4, "too short"},
        {"\x00\x80\x00\x01", 4, "8388609 bytes; socket.request.max.bytes is 8388608"},
        {"\x7f\xff\xff\xff", 4, "2147483647 bytes"},
    };
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        char text[96];
        enum net_complaint kind;
        const char *looks = net_look((const uint8_t *)odd[i].bytes, FRAME_MAX, text, &kind);
        assert_non_null(looks);
        if (strstr(looks, odd[i].looks_like) == NULL) {
            fail_msg("\"%s\" does not say \"%s\"", looks, odd[i].looks_like);
        }
        int fd = connect_pair(f);
        send_all(f, fd, odd[i].bytes, odd[i].len);
        expect_closed(f, fd);
        close(fd);
    }
    assert_int_equal(f->frames, 0);
    assert_null(net_look((const uint8_t *)"\x00\x00\x00\x08", FRAME_MAX, NULL, NULL));
    assert_null(net_look((const uint8_t *)"\x00\x80\x00\x00", FRAME_MAX, NULL, NULL));
}

/* --- listeners ------------------------------------------------------------------------------- */

static int connect_tcp(int family, int port)
{
    int fd = socket(family, SOCK_STREAM, 0);
    struct sockaddr_in v4 = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6,
                              .sin6_port = htons((uint16_t)port),
                              .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    int code = family == AF_INET ? connect(fd, (struct sockaddr *)&v4, sizeof v4)
                                 : connect(fd, (struct sockaddr *)&v6, sizeof v6);
    if (code != 0) {
        close(fd);
        return -1;
    }
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

static struct config_listener listener(const char *host)
{
    struct config_listener l = {.name = "PLAINTEXT"};
    snprintf(l.host, sizeof l.host, "%s", host);
    return l;
}

static void test_localhost_listens_on_both_families(void **state)
{
    struct fixture *f = *state;
    struct config_listener e = listener("localhost");
    snprintf(e.advertised_host, sizeof e.advertised_host, "localhost");
    assert_int_equal(net_listen(f->net, &e, NULL), OK);
    int port = net_listener_port(f->net, 0);
    assert_true(port > 0);
    int v4 = connect_tcp(AF_INET, port);
    assert_true(v4 >= 0);
    send_frame(f, v4, 1, 8);
    expect_reply(f, v4, 1);
    assert_string_equal(net_conn_advertised_host(f->in_hand[0]), "localhost");
    assert_int_equal(net_conn_advertised_port(f->in_hand[0]), port);
    assert_string_equal(net_conn_peer(f->in_hand[0]), "127.0.0.1");
    close(v4);
    int v6 = connect_tcp(AF_INET6, port);
    if (v6 >= 0) { /* a machine without IPv6 is served all the same */
        send_frame(f, v6, 2, 8);
        expect_reply(f, v6, 2);
        assert_string_equal(net_conn_peer(f->in_hand[1]), "::1");
        close(v6);
    }
}

static void test_wildcard_tells_the_address_that_was_reached(void **state)
{
    struct fixture *f = *state;
    struct config_listener e = listener("0.0.0.0");
    assert_int_equal(net_listen(f->net, &e, NULL), OK);
    int fd = connect_tcp(AF_INET, net_listener_port(f->net, 0));
    send_frame(f, fd, 1, 8);
    expect_reply(f, fd, 1);
    assert_string_equal(net_conn_advertised_host(f->in_hand[0]), "127.0.0.1");
    close(fd);
}

static void test_port_in_use_is_said(void **state)
{
    struct fixture *f = *state;
    struct errmsg m = {.text = ""};
    struct config_listener e = listener("127.0.0.1");
    assert_int_equal(net_listen(f->net, &e, &m), OK);
    e.port = net_listener_port(f->net, 0);
    assert_int_equal(net_listen(f->net, &e, &m), ERR_IO);
    char port[16];
    snprintf(port, sizeof port, ":%d", e.port);
    assert_non_null(strstr(m.text, port));
    assert_non_null(strstr(m.text, "in use"));
}

static void test_connection_limits_hold_and_recover(void **state)
{
    struct fixture *f = *state;
    struct net_options o = options();
    o.connections_per_ip_max = 2;
    net_set_options(f->net, &o);
    struct config_listener e = listener("127.0.0.1");
    assert_int_equal(net_listen(f->net, &e, NULL), OK);
    int port = net_listener_port(f->net, 0);
    int one = connect_tcp(AF_INET, port), two = connect_tcp(AF_INET, port);
    UNTIL(f, net_connection_count(f->net) == 2);
    int three = connect_tcp(AF_INET, port);
    expect_closed(f, three);
    close(three);
    close(one);
    UNTIL(f, net_connection_count(f->net) == 1);
    o.connections_max = 2;
    o.connections_per_ip_max = 100;
    net_set_options(f->net, &o);
    one = connect_tcp(AF_INET, port);
    UNTIL(f, net_connection_count(f->net) == 2);
    send_frame(f, one, 8, 8);
    expect_reply(f, one, 8);
    three = connect_tcp(AF_INET, port);
    expect_closed(f, three);
    close(three);
    close(one);
    close(two);
}

static void test_stop_takes_nothing_new_and_sends_what_is_owed(void **state)
{
    struct fixture *f = *state;
    f->answer = false;
    int fd = connect_pair(f);
    send_frame(f, fd, 1, 8);
    UNTIL(f, f->frames == 1);
    net_stop(f->net);
    send_frame(f, fd, 2, 8);
    turn_some(f);
    answer_frame(f, 0);
    expect_reply(f, fd, 1);
    turn_some(f);
    assert_int_equal(f->frames, 1);
    close(fd);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_frame_arrives_whole_from_single_bytes),
        TEST(test_pipelined_frames_are_answered_in_order),
        TEST(test_next_frame_waits_for_the_reply_before),
        TEST(test_large_frame_is_read_whole),
        TEST(test_nothing_is_written_before_the_end_of_the_turn),
        TEST(test_handler_hears_of_a_peer_that_leaves),
        TEST(test_handler_may_close_instead_of_an_answer),
        TEST(test_frame_waits_while_there_is_no_room),
        TEST(test_slow_reader_gets_all_and_holds_back_its_own_requests),
        TEST(test_reply_is_given_back_when_the_peer_leaves),
        TEST(test_memory_limit_makes_large_frames_take_turns),
        TEST(test_small_frames_pass_while_others_have_reserved_all_memory),
        TEST(test_frame_larger_than_all_memory_is_refused),
        TEST(test_what_a_handler_holds_counts_until_its_reply),
        TEST(test_idle_half_frame_and_stuck_connections_are_closed),
        TEST(test_who_says_nothing_at_all_is_closed_soon),
        TEST(test_large_request_does_not_wait_where_others_need_its_memory),
        TEST(test_frame_that_trickles_is_closed),
        TEST(test_odd_peers_are_named_and_closed),
        TEST(test_localhost_listens_on_both_families),
        TEST(test_wildcard_tells_the_address_that_was_reached),
        TEST(test_port_in_use_is_said),
        TEST(test_connection_limits_hold_and_recover),
        TEST(test_stop_takes_nothing_new_and_sends_what_is_owed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
