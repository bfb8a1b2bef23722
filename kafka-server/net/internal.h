/* Shared by the files of net/ only. */
#ifndef CULEX_NET_INTERNAL_H
#define CULEX_NET_INTERNAL_H

#include <arpa/inet.h>
#include <event2/event_struct.h>
#include <event2/listener.h>

#include <uthash.h>

#include "kafka-server/net/net.h"
#include "shared/base/log.h"

#define NET_READ_BYTES      (64u << 10)  /* taken from a socket in one go, frames that are small */
#define NET_BIG_READ_BYTES  (1u << 20)   /* and of one that is large */
#define NET_WRITE_BYTES     (512u << 10) /* given to a socket in one go: 0.2 ms */
#define NET_BACKLOG         512
#define NET_SWEEP_MS        1000
#define NET_ACCEPT_PAUSE_MS 100 /* after accept failed for want of descriptors */

/* What a connection is doing.
 *
 *      CONN_OPEN ──net_conn_close, peer gone, limits──▶ CONN_CLOSING ──net_turn──▶ freed
 *
 * A closing connection hands out no frame and reads nothing. */
enum conn_state { CONN_OPEN, CONN_CLOSING };

struct conn_ip {
    uint8_t ip[16];
    int count;
    UT_hash_handle hh;
};

struct net_conn {
    struct net *net;
    int fd;
    enum conn_state state;
    size_t listener;
    struct conn_ip *ip;
    char peer[INET6_ADDRSTRLEN];
    char local[INET6_ADDRSTRLEN]; /* the address that it has reached us at */
    void *user;

    struct event read_event, write_event;
    bool reading;  /* read_event is added */
    bool busy;     /* the frame is out, at the handler */
    bool spoke;    /* has sent a frame */
    bool ready;    /* on net->ready */
    bool arriving; /* its frame is counted in net->arriving */
    bool starved;  /* waits for memory or room; looked at when some is there */
    uint8_t *frame;
    size_t frame_len, frame_have;
    size_t held;    /* what the handler has made of the frame */
    uint8_t *ahead; /* bytes after the frame; freed when empty */
    size_t ahead_len;
    struct evbuffer *out;
    size_t charged; /* counted in net->memory for this connection */

    int64_t heard_ms;                         /* last byte read */
    int64_t frame_ms;                         /* its length was known; then, it was handed out */
    int64_t taken_ms;                         /* last byte written, or first byte queued */
    struct net_conn *prev, *next;             /* net->conns */
    struct net_conn *ready_prev, *ready_next; /* net->ready */
};

struct net_listener {
    struct config_listener e;
    int port; /* that it got */
    struct net *net;
    size_t index;
    struct evconnlistener *sockets[NET_ADDRESSES_MAX];
    size_t socket_count;
};

/* Why connections are refused or closed: one line a second for each kind. */
enum net_complaint {
    NET_ODD_HTTP,
    NET_ODD_TLS,
    NET_ODD_MQTT,
    NET_ODD_TEXT,
    NET_ODD_LENGTH,
    NET_BAD_FRAME,
    NET_TOO_MANY,
    NET_SLOW,
    NET_ACCEPT,
    NET_COMPLAINTS,
};

struct net {
    struct event_base *base;
    struct net_options o;
    struct net_callbacks cb;
    struct net_listener listeners[LISTENERS_MAX];
    size_t listener_count;
    struct net_conn *conns;
    struct net_conn *ready; /* something to write, a frame to hand out, or to be freed */
    int conn_count;
    struct conn_ip *ips;
    size_t memory;   /* bytes: frames, bytes read ahead, replies, and what others took */
    size_t arriving; /* of memory: reserved for frames that are not whole yet */
    size_t unsent;
    int starved_count;
    bool stopping;
    struct event *sweep;
    struct event *accept_again;
    struct log_limit limits[NET_COMPLAINTS];
    uint8_t scratch[NET_READ_BYTES];
};

/* May this kind of line be printed now? */
bool net_may_complain(struct net *n, enum net_complaint kind, unsigned *held_back);
/* " (and 17 more)" or "". */
const char *net_more_text(unsigned held_back, char *buf, size_t room);
/* What the first bytes of a connection look like, when they are no length of a frame; NULL: they
 * are one. text has room for 96 bytes. */
const char *net_look(const uint8_t first[4], size_t frame_bytes_max, char text[96],
                     enum net_complaint *kind);

#endif
