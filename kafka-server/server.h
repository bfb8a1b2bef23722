/* The server as one struct: what main.c makes, what the handlers in api/ reach through rq->server.
 *
 * One thread, the loop, owns all of it: handlers, the coordinator, the journal, connections.
 * Blocking work goes to `workers` and comes back as a call on the loop. broker/ never includes
 * this header: it is given the pieces that it needs.
 *
 * A turn of the loop (server.c):
 *
 *      events and timers ─▶ handlers ─▶ journal_put… ─┐
 *        ▲                                            ▼
 *        └── replies are written ◀── callbacks ◀── journal_flush: one store_commit on `own`
 *
 * request_reply only queues bytes on the connection: they are written after journal_flush, so
 * that no reply leaves before the commit that holds its effect. A handler that must know the
 * commit's result (it may fail) parks its request and replies in the journal's callback.
 *
 * What server.c calls of the group coordinator's side (all on the loop thread):
 *
 *   broker/journal.h      journal_open and journal_close; journal_flush at the end of every turn,
 *                         again while journal_pending; journal_lose_store when `own` goes away
 *                         after a fault, journal_hand_over when it was opened again
 *   broker/coordinator.h  coordinator_open and coordinator_close; coordinator_deadline_ms at the
 *                         end of every turn, coordinator_tick when it is due; coordinator_reload
 *                         after SIGHUP; coordinator_stop at SIGTERM; coordinator_topic_gone and
 *                         coordinator_topic_came when topics have changed
 *
 * `journal` and `coordinator` are NULL while there is no data directory yet: rows of the API
 * table that need the coordinator are then not called, but api_find_coordinator is: it answers
 * COORDINATOR_NOT_AVAILABLE.
 *
 * Rows of the own store: keys that begin with "server/" belong to server.c; the coordinator's
 * begin with "group/", "offset/" and "groupconf/", those of producers with "producer/", those of
 * transactions with "txn/". */
#ifndef CULEX_SERVER_H
#define CULEX_SERVER_H

#include <event2/event.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "shared/base/bytes.h"
#include "shared/base/err.h"
#include "shared/config/config.h"

struct appender;       /* broker/append.h */
struct coordinator;    /* broker/coordinator.h */
struct fetch_wait;     /* api/api_fetch.c, as is: */
struct fetch_sent;
struct bound_names;
struct fetch_sessions; /* broker/session.h */
struct journal;        /* broker/journal.h */
struct net;            /* net/net.h */
struct producers;      /* broker/producers.h */
struct request;        /* api/api.h */
struct store;
struct topics;       /* broker/topics.h */
struct transactions; /* broker/transactions.h */
struct watches; /* broker/watch.h */
struct workers; /* broker/workers.h */

#define SERVER_STOP_MS 2000 /* from SIGTERM to the end, at most */

struct server {
    struct event_base *base;
    struct config config; /* options; reloaded rows change under SIGHUP, on the loop thread */
    char cluster_id[UUID_TEXT_BYTES];

    struct store *own;      /* DATA/server, writer; NULL: no data directory yet */
    bool own_away;          /* it broke or could not be opened: its topics may be there, unseen */
    struct store *captured; /* DATA/captured, follower; NULL: not there yet */
    bool captured_known;    /* it is open, or was looked for and is not there */
    struct topics *topics;  /* both stores' topics by name and id */
    struct bound_names *bound_names; /* broker/bound_names.h */
    struct workers *workers;
    struct workers *asking; /* one thread, for commands to the broker's writer */
    struct workers *judges; /* one thread, for what producers send and takes long to judge */
    struct workers *opener; /* one thread, for opening the own store again */
    _Atomic bool asking_ends; /* they wait for no answer any more */
    struct watches *watches;         /* who waits for which partition */
    struct fetch_sessions *sessions; /* KIP-227 */
    struct fetch_wait *fetches;      /* in hand: parked, or being read */
    struct fetch_sent *fetches_sent; /* answered, and not all of it has left */
    bool reading_ahead;              /* a worker has a batch in hand that nobody asked for yet */
    struct net *net;
    struct appender *appender; /* judges what producers send */
    struct journal *journal;
    struct coordinator *coordinator;
    struct producers *producers; /* of partitions of `own`; there when the coordinator is */
    struct transactions *transactions;
    int64_t sweep_ms;            /* next look for producers that are to be forgotten */

    uint64_t requests;          /* handled since the start */
    int32_t requests_in_flight; /* handed to a handler and not answered yet */
    bool holding;               /* the captured store is being opened: requests about topics wait */
    struct request *held;       /* those */
    bool stopping;              /* SIGTERM came: answer what is parked, take nothing new */

    struct server_internal *in; /* server.c only: timers, pipes, state of opening */
};

/* Makes everything and opens the listeners. On failure m says why in a sentence; call
 * server_close anyway. config is moved into s. */
enum err server_open(struct server *s, struct config *config, struct errmsg *m) MUST_CHECK;
/* Runs until SIGTERM, SIGINT or server_stop, then answers what is in flight. */
enum err server_run(struct server *s) MUST_CHECK;
/* Asks the loop to end; from the loop thread. */
void server_stop(struct server *s);
void server_close(struct server *s);

/* True while more requests may be taken on (requests_in_flight_max). */
bool server_has_room(const struct server *s);

#endif
