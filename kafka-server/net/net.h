/* Listeners, connections and frames: int32 length, then that many bytes. Knows no Kafka rules.
 *
 * A connection hands out one frame at a time: the next one after the reply to the one before and
 * once most of that reply has left. Replies are evbuffers, written with writev at the end of a turn
 * of the loop; memory that they refer to is given back when it has been sent or when the connection
 * is gone.
 *
 * Everything has a limit: connections, connections of one address, bytes of a frame, bytes held
 * for requests and replies of all connections (when they are used up, reading stops until some
 * are given back, and who takes its replies too slowly, or lets a large request wait, is closed),
 * idle time. A peer that speaks
 * something else is closed with one log line that says what it looked like.
 *
 * Loop thread only. */
#ifndef CULEX_NET_NET_H
#define CULEX_NET_NET_H

#include <event2/buffer.h>
#include <event2/event.h>

#include "shared/base/bytes.h"
#include "shared/base/err.h"
#include "shared/config/listeners.h"

#define NET_ADDRESSES_MAX     8           /* of one listener: a name may resolve to several */
#define NET_FRAME_BYTES_MIN   8           /* key, version, correlation id */
#define NET_AHEAD_BYTES_MAX   (64u << 10) /* read beyond the frame in hand */
#define NET_REPLY_LOW_BYTES   (64u << 10) /* the next frame waits until less is left to write */
#define NET_FRAME_STALL_MS    30000       /* half a frame, and nothing more came */
#define NET_FIRST_FRAME_MS    30000       /* silent from the start; clients speak at once */
#define NET_FRAME_BYTES_MS    256 /* a frame comes at this rate at least, after a stall's time */
#define NET_SMALL_FRAME_BYTES (64u << 10) /* read whatever memory others have reserved */
#define NET_REPLY_STALL_MS    10000       /* nothing taken of a reply, while memory is short */
#define NET_HOLD_MS           10000       /* a large request waits for its reply, likewise */

struct net;
struct net_conn;

struct net_options {
    size_t frame_bytes_max;
    size_t memory_bytes_max;
    int connections_max;
    int connections_per_ip_max;
    int64_t idle_ms;
};

struct net_callbacks {
    /* A whole frame (without its length). It is the connection's and lives until net_conn_reply
     * or `gone`. */
    void (*frame)(void *arg, struct net_conn *c, uint8_t *frame, size_t len);
    /* The connection goes away while a frame is out: forget it. Not called after reply. */
    void (*gone)(void *arg, struct net_conn *c);
    /* May another frame be handed out now? */
    bool (*room)(void *arg);
    void *arg;
};

/* --- the whole ------------------------------------------------------------------------------- */

enum err net_open(struct net **out, struct event_base *base, const struct net_options *o,
                  const struct net_callbacks *cb, struct errmsg *m) MUST_CHECK;
/* Binds and listens, and logs what clients will be told. localhost stands for 127.0.0.1 and ::1.
 * The sentence names listener, address and cause. */
enum err net_listen(struct net *n, const struct config_listener *e, struct errmsg *m) MUST_CHECK;
/* An open socket as a connection (tests; a listener calls the same). Takes fd. NULL: refused and
 * closed. */
struct net_conn *net_adopt(struct net *n, int fd, size_t listener);
/* No new connections and no new frames from now on. */
void net_stop(struct net *n);
/* Closes everything, `gone` included. */
void net_close(struct net *n);
/* From now on; connections that there are stay. */
void net_set_options(struct net *n, const struct net_options *o);

/* End of a turn: writes replies, hands out frames that wait in memory, frees what is closed. True
 * when there is more to do at once (a handler has replied meanwhile). */
bool net_turn(struct net *n);

size_t net_listener_count(const struct net *n);
/* The port that listener i got. */
int net_listener_port(const struct net *n, size_t i);
int net_connection_count(const struct net *n);
/* Bytes still to be written, all connections. */
size_t net_unsent_bytes(const struct net *n);

/* --- memory ---------------------------------------------------------------------------------- */

/* Bytes held for requests and replies, and what others have announced with net_memory_take (a
 * read whose size is not known yet). */
size_t net_memory_used(const struct net *n);
size_t net_memory_left(const struct net *n);
void net_memory_take(struct net *n, size_t bytes);
void net_memory_give(struct net *n, size_t bytes);

/* --- one connection -------------------------------------------------------------------------- */

/* What the handler has made of the frame in hand takes so many bytes: they count as the
 * connection's until the frame ends. */
void net_conn_hold(struct net_conn *c, size_t bytes);
/* Queues a reply and ends the frame in hand. Everything in `reply` moves. */
void net_conn_reply(struct net_conn *c, struct evbuffer *reply);
/* Ends the frame in hand without a reply. */
void net_conn_skip_reply(struct net_conn *c);
/* Closes, at the latest at the end of the turn; ends the frame in hand without `gone`. What is
 * queued is still tried once. why: for the log, one line with the peer's address (NULL:
 * silently). */
void net_conn_close(struct net_conn *c, const char *why);

/* Closes from outside, whatever it is doing: `gone` is called if a frame is out. What is queued may
 * be lost. */
void net_conn_abort(struct net_conn *c, const char *why);

void net_conn_set_user(struct net_conn *c, void *user);
void *net_conn_user(const struct net_conn *c);
const char *net_conn_peer(const struct net_conn *c); /* "127.0.0.1" */
const char *net_conn_advertised_host(const struct net_conn *c);
int net_conn_advertised_port(const struct net_conn *c);

#endif
