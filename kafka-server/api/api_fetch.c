/* Fetch: what to read comes from the request or from its session, how it is read is
 * broker/fetch.h's.
 *
 *                       ┌────────────── moved, timer ──────────────┐
 *      request ─▶ look ─┼─ enough, an error, or no time ─▶ reply   │
 *                  ▲    ├─ on disk ─▶ READING (worker) ─▶ reply    │
 *                  │    └─ not enough yet ─▶ PARKED ───────────────┤
 *                  └───────────────────────────────────────────────┘
 *
 * A parked fetch costs nothing: it is called when the end of one of its partitions moves
 * (broker/watch.h), or at its deadline. A fetch that is being read while its connection goes away
 * stays until the worker is done with it; it has no request then and is only freed.
 *
 * Memory: what a fetch may read is taken from the connections' common budget before it reads, and
 * given back when the bytes have become a reply, which counts itself. When the budget is short
 * replies get smaller, down to FETCH_FLOOR_BYTES, and never empty.
 *
 * A reader of long batches takes one a reply, and asks again when it has taken that one apart:
 * server and reader would wait for each other in turn. So the batch behind it is read meanwhile,
 * into the store's block cache, which bounds what this holds and forgets what nobody comes for.
 * One batch for all readers together, and only while no read waits for a worker; and none where so
 * many partitions come before it again that the cache would have forgotten it. */
#include <stdlib.h>

#include <event2/event.h>
#include <event2/event_struct.h>
#include <utlist.h>

#include "kafka-server/api/api.h"
#include "kafka-server/api/api_names.h"
#include "kafka-server/broker/fetch.h"
#include "kafka-server/broker/session.h"
#include "kafka-server/broker/topics.h"
#include "kafka-server/broker/watch.h"
#include "kafka-server/broker/workers.h"
#include "kafka-server/net/net.h"
#include "kafka-server/server.h"
#include "kafka_messages.h"
#include "shared/base/clock.h"
#include "shared/base/log.h"

#define FETCH_FLOOR_BYTES    (64u << 10)
#define FETCH_AGAIN_MS       20        /* to the next try, when the disk does not have it yet */
#define FETCH_PARTITIONS_MAX (1 << 20) /* of one request, its session included */

enum isolation { READ_UNCOMMITTED, READ_COMMITTED };

enum fetch_state { FETCH_LOOKING, FETCH_READING, FETCH_PARKED };

/* A partition as the reply names it. Strings live in the request's arena. */
struct fetch_name {
    struct session_key key;
    struct kstr name;
    int64_t from; /* offset that was asked for */
};

struct fetch_wait {
    struct work work;
    struct request *rq; /* NULL: the connection is gone */
    struct server *server;
    enum fetch_state state;
    struct fetch fetch;
    struct fetch_name *names; /* parallel to fetch.parts; rq's arena */
    struct waiter *waiters;   /* parallel; only while parked */
    struct event timer;
    bool has_timer;
    int64_t deadline_ms;
    size_t bytes_min;
    size_t taken;                   /* from net's budget */
    int32_t session_id;             /* FETCH_SESSION_NONE: whole reply */
    bool incremental;               /* reply names only what has changed */
    const struct store *lost;       /* went away while this was being read; NULL: none did */
    struct fetch_wait *prev, *next; /* server->fetches */
};

/* --- life ------------------------------------------------------------------------------------ */

static void unpark(struct fetch_wait *fw)
{
    for (int32_t i = 0; fw->waiters != NULL && i < fw->fetch.count; i++) {
        watch_remove(fw->server->watches, &fw->waiters[i]);
    }
    if (fw->has_timer) {
        event_del(&fw->timer);
    }
}

static void give_memory(struct fetch_wait *fw)
{
    net_memory_give(fw->server->net, fw->taken);
    fw->taken = 0;
}

static void fetch_wait_free(struct fetch_wait *fw)
{
    unpark(fw);
    give_memory(fw);
    DL_DELETE(fw->server->fetches, fw);
    fetch_fini(&fw->fetch);
    free(fw->waiters);
    free(fw);
}

/* The batches of a reply, given back when it has left. */
struct fetch_sent {
    struct fetch fetch;
    struct server *server;
    struct net_conn *conn;
    struct fetch_sent *prev, *next; /* server->fetches_sent */
};

static void release_fetch(void *arg)
{
    struct fetch_sent *sent = arg;
    DL_DELETE(sent->server->fetches_sent, sent);
    fetch_fini(&sent->fetch);
    free(sent);
}

static void on_cancel(struct request *rq)
{
    struct fetch_wait *fw = rq->parked;
    fw->rq = NULL;
    if (fw->state != FETCH_READING) {
        fetch_wait_free(fw);
    }
}

/* --- the reply ------------------------------------------------------------------------------- */

/* Is there anything to say about this partition that the client does not know? */
static bool is_news(struct session *s, const struct fetch_wait *fw, int32_t i)
{
    if (s == NULL || !fw->incremental) {
        return true;
    }
    const struct fetch_part *p = &fw->fetch.parts[i];
    const struct session_partition *sp = fetch_session_get(s, &fw->names[i].key);
    return sp != NULL && (fetch_part_bytes(p) != 0 || p->error != KERR_NONE ||
                          p->diverging_epoch >= 0 || sp->sent_end != p->end ||
                          sp->sent_start != p->log_start);
}

/* It is said. */
static void remember_news(struct session *s, const struct fetch_wait *fw, int32_t i)
{
    const struct fetch_part *p = &fw->fetch.parts[i];
    struct session_partition *sp = s != NULL ? fetch_session_get(s, &fw->names[i].key) : NULL;
    if (sp == NULL) {
        return;
    }
    if (p->error == KERR_NONE) {
        sp->sent_end = p->end;
        sp->sent_start = p->log_start;
    } else {
        sp->sent_end = sp->sent_start = -1; /* its end is told again once it is well */
    }
    if (fetch_part_bytes(p) != 0 && fw->incremental) {
        fetch_session_rotate(s, sp);
    }
}

static bool fill_records(struct request *rq, const struct fetch_part *p, struct krecords *out)
{
    if (p->pinned != NULL) {
        *out =
            (struct krecords){p->pinned->iov, (int32_t)p->pinned->count, (int32_t)p->pinned->bytes};
        return true;
    }
    if (p->copied.len == 0) {
        *out = (struct krecords){NULL, 0, 0}; /* empty, never null: clients choke on null */
        return true;
    }
    struct iovec *iov = arena_alloc(&rq->arena, sizeof *iov);
    if (iov == NULL) {
        return false;
    }
    *iov = (struct iovec){p->copied.data, p->copied.len};
    *out = (struct krecords){iov, 1, (int32_t)p->copied.len};
    return true;
}

/* A list that grows in the request's arena. */
struct aborted_list {
    struct request *rq;
    struct fetch_response_responses_partitions *out;
    int32_t room;
    bool failed;
};

static bool add_aborted(void *arg, const struct producers_aborted *a)
{
    struct aborted_list *l = arg;
    struct fetch_response_responses_partitions *out = l->out;
    if (out->aborted_transactions_count == l->room) {
        int32_t room = l->room != 0 ? l->room * 2 : 8;
        void *grown = codec_new_array(
            &fetch_response_responses_partitions_aborted_transactions_message, &l->rq->arena, room);
        if (grown == NULL) {
            l->failed = true;
            return false;
        }
        if (l->room != 0) {
            memcpy(grown, out->aborted_transactions,
                   (size_t)l->room * sizeof *out->aborted_transactions);
        }
        out->aborted_transactions = grown;
        l->room = room;
    }
    struct fetch_response_responses_partitions_aborted_transactions *x =
        &out->aborted_transactions[out->aborted_transactions_count++];
    x->producer_id = a->producer_id;
    x->first_offset = a->first_offset;
    return true;
}

/* Whose records among those of the reply, from the offset that was asked for, are to be skipped. */
static bool fill_aborted(struct request *rq, const struct fetch_part *p, int64_t from,
                         struct fetch_response_responses_partitions *out)
{
    struct aborted_list l = {.rq = rq, .out = out};
    if (p->transactional) {
        producers_each_aborted(rq->server->producers, p->uid, from, p->next, add_aborted, &l);
    }
    return !l.failed;
}

static bool fill_partition(struct request *rq, const struct fetch_part *p, int64_t from,
                           int32_t index, struct fetch_response_responses_partitions *out)
{
    const struct fetch_request *q = rq->body;
    out->partition_index = index;
    out->error_code = (int16_t)p->error;
    out->high_watermark = p->end;
    out->last_stable_offset = p->stable;
    out->log_start_offset = p->log_start;
    out->aborted_transactions = NULL;
    bool unknown =
        p->error == KERR_UNKNOWN_TOPIC_OR_PARTITION || p->error == KERR_UNKNOWN_TOPIC_ID;
    out->aborted_transactions_count =
        q->isolation_level == READ_UNCOMMITTED && !unknown ? -1 : 0; /* null or none, as Kafka */
    if (q->isolation_level != READ_UNCOMMITTED && fetch_part_bytes(p) != 0 &&
        !fill_aborted(rq, p, from, out)) {
        return false;
    }
    if (rq->header.api_version >= 12 && p->diverging_epoch >= 0) {
        out->diverging_epoch.epoch = p->diverging_epoch;
        out->diverging_epoch.end_offset = p->diverging_end;
    }
    if (rq->header.api_version >= 12 && p->error == KERR_FENCED_LEADER_EPOCH) {
        out->current_leader.leader_id = rq->server->config.server.node_id;
        out->current_leader.leader_epoch = p->leader_epoch_now;
    }
    return fill_records(rq, p, &out->records);
}

static bool same_topic(const struct fetch_name *a, const struct fetch_name *b)
{
    return memcmp(a->key.id.b, b->key.id.b, sizeof a->key.id.b) == 0 &&
           slice_eq(kstr_slice(a->name), kstr_slice(b->name));
}

/* Fills p->responses: partitions in the order of the fetch, neighbours of one topic together. */
static bool fill_responses(struct fetch_wait *fw, struct fetch_response *p)
{
    struct request *rq = fw->rq;
    struct session *s = fw->session_id != FETCH_SESSION_NONE
                            ? fetch_session_find(rq->server->sessions, fw->session_id)
                            : NULL;
    int32_t count = fw->fetch.count, news = 0; /* few, of a session with many */
    for (int32_t i = 0; i < count; i++) {
        news += is_news(s, fw, i);
    }
    struct fetch_response_responses *topics =
        codec_new_array(&fetch_response_responses_message, &rq->arena, news);
    struct fetch_response_responses_partitions *partitions =
        codec_new_array(&fetch_response_responses_partitions_message, &rq->arena, news);
    if (topics == NULL || partitions == NULL) {
        return false;
    }
    struct fetch_response_responses *t = NULL;
    const struct fetch_name *last = NULL;
    int32_t used = 0;
    for (int32_t i = 0; i < count; i++) {
        if (!is_news(s, fw, i)) {
            continue;
        }
        remember_news(s, fw, i);
        if (last == NULL || !same_topic(last, &fw->names[i])) {
            t = &topics[p->responses_count++];
            if (rq->header.api_version >= 13) {
                t->topic_id = fw->names[i].key.id;
            } else {
                t->topic = fw->names[i].name;
            }
            t->partitions = &partitions[used];
        }
        last = &fw->names[i];
        if (!fill_partition(rq, &fw->fetch.parts[i], last->from, last->key.partition,
                            &partitions[used++])) {
            return false;
        }
        t->partitions_count++;
    }
    p->responses = topics;
    return true;
}

/* Where the leader is, for clients that believe in an old epoch. */
static bool fill_endpoints(struct fetch_wait *fw, struct fetch_response *p)
{
    struct request *rq = fw->rq;
    bool fenced = false;
    for (int32_t i = 0; i < fw->fetch.count; i++) {
        fenced |= fw->fetch.parts[i].error == KERR_FENCED_LEADER_EPOCH;
    }
    if (!fenced || rq->header.api_version < 16) {
        return true;
    }
    p->node_endpoints = codec_new_array(&fetch_response_node_endpoints_message, &rq->arena, 1);
    if (p->node_endpoints == NULL) {
        return false;
    }
    p->node_endpoints_count = 1;
    p->node_endpoints[0].node_id = rq->server->config.server.node_id;
    p->node_endpoints[0].host = kstr_make(request_advertised_host(rq));
    p->node_endpoints[0].port = request_advertised_port(rq);
    return true;
}

static void reply(struct fetch_wait *fw)
{
    struct request *rq = fw->rq;
    struct fetch_response p;
    codec_init(&fetch_response_message, &p);
    p.session_id = fw->session_id;
    fetch_check_aborted(&fw->fetch);
    struct fetch_sent *kept = malloc(sizeof *kept);
    if (kept == NULL || !fill_responses(fw, &p) || !fill_endpoints(fw, &p)) {
        free(kept);
        fetch_wait_free(fw);
        request_close_too_large(rq);
        return;
    }
    /* Goes with the reply; the iovecs and buffers stay where they are. */
    *kept = (struct fetch_sent){.fetch = fw->fetch, .server = fw->server, .conn = rq->conn};
    DL_APPEND(fw->server->fetches_sent, kept);
    rq->records_max = kept->fetch.count;
    rq->release = release_fetch;
    rq->release_arg = kept;
    rq->cancel = NULL;
    unpark(fw);
    fw->fetch.parts = NULL;
    fw->fetch.count = 0;
    fetch_wait_free(fw);
    request_reply(rq, &p);
}

static void reply_error(struct request *rq, enum kerr error)
{
    struct fetch_response p;
    codec_init(&fetch_response_message, &p);
    p.error_code = (int16_t)error;
    request_reply(rq, &p);
}

/* --- a store goes away ---------------------------------------------------------------------- */

static bool reads_of(const struct fetch *f, const struct store *store, bool pinned)
{
    for (int32_t i = 0; i < f->count; i++) {
        if (f->parts[i].store == store && (!pinned || f->parts[i].pinned != NULL)) {
            return true;
        }
    }
    return false;
}

void api_fetch_lose_store(struct server *server, const struct store *store)
{
    struct fetch_wait *fw, *next;
    DL_FOREACH_SAFE(server->fetches, fw, next)
    {
        if (fw->state == FETCH_READING) {
            fw->lost = store; /* a worker has its partitions in hand */
        } else if (reads_of(&fw->fetch, store, false)) {
            fetch_lose_store(&fw->fetch, store);
            reply(fw);
        }
    }
    struct fetch_sent *sent;
    DL_FOREACH(server->fetches_sent, sent)
    {
        if (reads_of(&sent->fetch, store, true)) {
            net_conn_abort(sent->conn, "its reply lies in a store that broke");
        }
    }
}

/* --- waiting --------------------------------------------------------------------------------- */

static void step(struct fetch_wait *fw);

static void on_moved(struct waiter *w)
{
    struct fetch_wait *fw = w->arg;
    unpark(fw);
    step(fw);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct fetch_wait *fw = arg;
    unpark(fw);
    step(fw);
}

/* Waits for one of the partitions to move, or for the deadline. */
static void park(struct fetch_wait *fw)
{
    struct fetch *f = &fw->fetch;
    int64_t wait_ms = fw->deadline_ms - clock_mono_ms();
    if (f->again && wait_ms > FETCH_AGAIN_MS) {
        wait_ms = FETCH_AGAIN_MS;
    }
    fw->state = FETCH_PARKED;
    if (fw->waiters == NULL && f->count != 0) {
        fw->waiters = calloc((size_t)f->count, sizeof *fw->waiters);
    }
    bool watched = fw->waiters != NULL || f->count == 0;
    for (int32_t i = 0; watched && i < f->count; i++) {
        struct fetch_part *p = &f->parts[i];
        struct waiter *w = &fw->waiters[i];
        *w = (struct waiter){.moved = on_moved, .arg = fw};
        watched = p->store == NULL || p->error != KERR_NONE ||
                  watch_add(fw->server->watches, w, p->store, p->uid, p->end) == OK;
    }
    if (!watched) {
        log_warn("a fetch cannot wait: no memory peer=%s", request_peer_host(fw->rq));
        wait_ms = wait_ms < FETCH_AGAIN_MS ? wait_ms : FETCH_AGAIN_MS;
    }
    wait_ms = wait_ms > 0 ? wait_ms : 0;
    struct timeval tv = {wait_ms / 1000, wait_ms % 1000 * 1000};
    if (!fw->has_timer) {
        evtimer_assign(&fw->timer, fw->server->base, on_timer, fw);
        fw->has_timer = true;
    }
    event_add(&fw->timer, &tv);
}

static bool is_ready(const struct fetch_wait *fw)
{
    const struct fetch *f = &fw->fetch;
    /* Gathering up to min bytes takes memory: when that is short, what there is goes out. */
    bool short_of_memory = f->bytes != 0 && net_memory_left(fw->server->net) < FETCH_READ_BYTES_MAX;
    return fetch_is_enough(f, fw->bytes_min) || short_of_memory || fw->server->stopping ||
           clock_mono_ms() >= fw->deadline_ms;
}

static void settle(struct fetch_wait *fw)
{
    if (is_ready(fw)) {
        reply(fw);
    } else {
        park(fw);
    }
}

/* The batch that a reader will ask for next. */
struct ahead {
    struct work work;
    struct server *server;
    struct store *store;
    uint32_t uid;
    int64_t offset;
};

static void run_ahead(struct work *w)
{
    struct ahead *a = (struct ahead *)w;
    struct store_slices *s = NULL;
    struct errmsg m;
    /* So little that it goes through the cache, and one batch at least. Whoever asks for it hears
     * of an error. */
    if (store_read(a->store, a->uid, a->offset, 1, true, &s, &m) == OK) {
        store_slices_free(s);
    }
}

static void done_ahead(struct work *w)
{
    struct ahead *a = (struct ahead *)w;
    a->server->reading_ahead = false;
    free(a);
}

/* NULL: nothing, or no memory. */
static struct ahead *ahead_of(const struct fetch_wait *fw)
{
    size_t cache_bytes = (size_t)fw->server->config.store.cache_bytes;
    const struct fetch_part *read =
        fetch_ahead(&fw->fetch, cache_bytes > 0 ? cache_bytes : STORE_CACHE_BYTES_DEFAULT);
    if (read == NULL || fw->server->reading_ahead) {
        return NULL;
    }
    struct ahead *a = malloc(sizeof *a);
    if (a != NULL) {
        *a = (struct ahead){.work = {.run = run_ahead, .done = done_ahead},
                            .server = fw->server,
                            .store = read->store,
                            .uid = read->uid,
                            .offset = read->next};
    }
    return a;
}

static void read_ahead(struct ahead *a)
{
    struct server *server = a->server;
    server->reading_ahead =
        workers_busy(server->workers) == 0 && workers_submit(server->workers, &a->work) == OK;
    if (!server->reading_ahead) {
        free(a);
    }
}

static void run_read(struct work *w)
{
    struct fetch_wait *fw = (struct fetch_wait *)w;
    fetch_read(&fw->fetch);
}

static void done_read(struct work *w)
{
    struct fetch_wait *fw = (struct fetch_wait *)w;
    fw->state = FETCH_LOOKING;
    if (fw->rq == NULL || workers_closing(fw->server->workers)) {
        struct request *rq = fw->rq;
        fetch_wait_free(fw);
        if (rq != NULL) {
            rq->cancel = NULL;
            request_close(rq, NULL);
        }
        return;
    }
    if (fw->lost != NULL) {
        fetch_lose_store(&fw->fetch, fw->lost);
        fw->lost = NULL;
    }
    /* What is there goes out, even below min bytes: a reader of the disk has waited long enough. */
    if (fw->fetch.bytes != 0) {
        struct ahead *a = ahead_of(fw);
        reply(fw);
        if (a != NULL) {
            read_ahead(a);
        }
    } else {
        settle(fw);
    }
}

/* Announces to net's budget what this fetch may still read, or makes it smaller. */
static void take_memory(struct fetch_wait *fw)
{
    size_t left = net_memory_left(fw->server->net);
    size_t want =
        fw->fetch.bytes_left < FETCH_READ_BYTES_MAX ? fw->fetch.bytes_left : FETCH_READ_BYTES_MAX;
    size_t may = left > FETCH_FLOOR_BYTES ? left : FETCH_FLOOR_BYTES;
    want = want < may ? want : may;
    fw->fetch.bytes_left = want;
    fw->taken = fetch_held_bytes(&fw->fetch) + want;
    net_memory_take(fw->server->net, fw->taken);
}

static void step(struct fetch_wait *fw)
{
    give_memory(fw);
    size_t limit = fw->fetch.bytes + fw->fetch.bytes_left;
    take_memory(fw);
    fw->fetch.producers = fw->server->producers;
    fetch_look(&fw->fetch);
    if (fw->fetch.cold != 0) {
        fw->state = FETCH_READING;
        if (workers_submit(fw->server->workers, &fw->work) == OK) {
            return;
        }
        fw->fetch.again = true;
    }
    fw->state = FETCH_LOOKING;
    give_memory(fw);
    fw->fetch.bytes_left = limit > fw->fetch.bytes ? limit - fw->fetch.bytes : 0;
    fw->taken = fetch_held_bytes(&fw->fetch);
    net_memory_take(fw->server->net, fw->taken);
    settle(fw);
}

/* --- what to read ---------------------------------------------------------------------------- */

/* The list that is being made of a request or a session. */
struct asked {
    struct request *rq;
    struct fetch_part *parts;
    struct fetch_name *names;
    int32_t count, room;
};

static bool asked_init(struct asked *a, struct request *rq, int64_t room)
{
    if (room > FETCH_PARTITIONS_MAX) {
        return false;
    }
    a->rq = rq;
    a->count = 0;
    a->room = (int32_t)room;
    a->parts = calloc((size_t)room + 1, sizeof *a->parts);
    a->names = arena_array(&rq->arena, (size_t)room + 1, sizeof *a->names);
    if (a->parts == NULL || a->names == NULL) {
        free(a->parts);
        return false;
    }
    return true;
}

static void add_part(struct asked *a, const struct session_key *key, struct kstr name,
                     const struct session_want *want)
{
    bool by_id = a->rq->header.api_version >= 13;
    const struct topics *topics = a->rq->server->topics;
    const struct topic *t =
        by_id ? topics_find_id(topics, &key->id) : topics_find(topics, key->name);
    a->names[a->count] = (struct fetch_name){*key, name, want->offset};
    struct fetch_part *p = &a->parts[a->count++];
    p->next = want->offset;
    p->bytes_max = want->max_bytes > 0 ? (size_t)want->max_bytes : 0;
    p->leader_epoch = want->leader_epoch;
    p->last_fetched_epoch = want->last_fetched_epoch;
    if (topic_has_partition(t, key->partition)) {
        p->store = t->store;
        p->transactional = !t->captured;
        p->uid = store_topic_uid(t->row, key->partition);
    } else if (t != NULL) {
        p->error = KERR_UNKNOWN_TOPIC_OR_PARTITION;
    } else {
        p->error = names_missing(a->rq, KERR_KAFKA_STORAGE_ERROR,
                                 by_id ? KERR_UNKNOWN_TOPIC_ID
                                       : KERR_UNKNOWN_TOPIC_OR_PARTITION);
    }
}

static struct session_want want_of(const struct fetch_request_topics_partitions *p)
{
    return (struct session_want){p->fetch_offset, p->partition_max_bytes, p->current_leader_epoch,
                                 p->last_fetched_epoch};
}

/* What the request names, in its order. */
static bool ask_request(struct asked *a, struct request *rq)
{
    const struct fetch_request *q = rq->body;
    int64_t room = 0;
    for (int32_t i = 0; i < q->topics_count; i++) {
        room += q->topics[i].partitions_count;
    }
    if (!asked_init(a, rq, room)) {
        return false;
    }
    for (int32_t i = 0; i < q->topics_count; i++) {
        const struct fetch_request_topics *t = &q->topics[i];
        for (int32_t k = 0; k < t->partitions_count; k++) {
            struct session_key key = {t->topic_id, kstr_slice(t->topic),
                                      t->partitions[k].partition};
            struct session_want want = want_of(&t->partitions[k]);
            add_part(a, &key, t->topic, &want);
        }
    }
    return true;
}

/* What the session remembers, in its order. Names are copied: the session may change while this
 * fetch waits. */
static bool ask_session(struct asked *a, struct request *rq, const struct session *s)
{
    if (!asked_init(a, rq, s->count)) {
        return false;
    }
    struct slice last = {NULL, 0};
    const struct session_partition *sp;
    DL_FOREACH(s->order, sp)
    {
        struct session_key key = sp->key;
        if (!slice_eq(key.name, last)) {
            last.data = (const uint8_t *)arena_strndup(&rq->arena, (const char *)key.name.data,
                                                       key.name.len);
            last.len = key.name.len;
            if (last.data == NULL) {
                free(a->parts);
                return false;
            }
        }
        key.name = last;
        add_part(a, &key, (struct kstr){(const char *)last.data, (int32_t)last.len}, &sp->want);
    }
    return true;
}

/* Takes what the request adds, changes and forgets into the session. False: it is full, and has not
 * taken all. */
static bool update_session(struct session *s, const struct fetch_request *q)
{
    for (int32_t i = 0; i < q->topics_count; i++) {
        const struct fetch_request_topics *t = &q->topics[i];
        for (int32_t k = 0; k < t->partitions_count; k++) {
            struct session_key key = {t->topic_id, kstr_slice(t->topic),
                                      t->partitions[k].partition};
            struct session_want want = want_of(&t->partitions[k]);
            if (fetch_session_set(s, &key, &want) != OK) {
                return false;
            }
        }
    }
    for (int32_t i = 0; i < q->forgotten_topics_data_count; i++) {
        const struct fetch_request_forgotten_topics_data *t = &q->forgotten_topics_data[i];
        for (int32_t k = 0; k < t->partitions_count; k++) {
            struct session_key key = {t->topic_id, kstr_slice(t->topic), t->partitions[k]};
            fetch_session_forget(s, &key);
        }
    }
    return true;
}

/* Opens a session with what the request names; NULL: none can be had, and replies stay whole. */
static struct session *open_session(struct request *rq, bool by_id, int64_t now_ms)
{
    struct fetch_sessions *fs = rq->server->sessions;
    struct session *s = fetch_session_open(fs, by_id, now_ms);
    if (s != NULL && !update_session(s, rq->body)) {
        fetch_session_close(fs, s);
        s = NULL;
    }
    return s;
}

/* Decides what is read and how the reply looks. KERR_NONE: a is filled, and is the caller's. */
static enum kerr ask(struct request *rq, struct asked *a, int32_t *session_id, bool *incremental)
{
    const struct fetch_request *q = rq->body;
    struct fetch_sessions *fs = rq->server->sessions;
    bool by_id = rq->header.api_version >= 13;
    int64_t now_ms = clock_mono_ms();
    struct session *s = NULL;
    *incremental =
        q->session_epoch != FETCH_EPOCH_INITIAL && q->session_epoch != FETCH_EPOCH_FINAL;
    if (*incremental) {
        enum kerr error =
            fetch_session_continue(fs, q->session_id, q->session_epoch, by_id, now_ms, &s);
        if (error != KERR_NONE) {
            return error;
        }
        if (!update_session(s, q)) { /* the client begins again, and names all of it */
            fetch_session_close(fs, s);
            return KERR_FETCH_SESSION_ID_NOT_FOUND;
        }
        *session_id = s->id;
        return ask_session(a, rq, s) ? KERR_NONE : KERR_INVALID_REQUEST;
    }
    s = q->session_id != FETCH_SESSION_NONE ? fetch_session_find(fs, q->session_id) : NULL;
    if (s != NULL) {
        fetch_session_close(fs, s);
    }
    if (!ask_request(a, rq)) {
        return KERR_INVALID_REQUEST;
    }
    s = q->session_epoch == FETCH_EPOCH_INITIAL ? open_session(rq, by_id, now_ms) : NULL;
    *session_id = s != NULL ? s->id : FETCH_SESSION_NONE;
    return KERR_NONE;
}

static size_t at_least(int64_t value, size_t least)
{
    return value > (int64_t)least ? (size_t)value : least;
}

void api_fetch(struct request *rq)
{
    const struct fetch_request *q = rq->body;
    struct server *server = rq->server;
    struct asked a;
    int32_t session_id;
    bool incremental;
    enum kerr error = ask(rq, &a, &session_id, &incremental);
    if (error != KERR_NONE) {
        reply_error(rq, error);
        return;
    }
    struct fetch_wait *fw = calloc(1, sizeof *fw);
    if (fw == NULL) {
        free(a.parts);
        request_close(rq, "no memory for its fetch");
        return;
    }
    size_t bytes_max = at_least(q->max_bytes, 0);
    size_t served_max = (size_t)server->config.server.fetch_max_bytes;
    bytes_max = bytes_max < served_max ? bytes_max : served_max;
    *fw = (struct fetch_wait){
        .work = {.run = run_read, .done = done_read},
        .rq = rq,
        .server = server,
        .names = a.names,
        .deadline_ms = fetch_deadline_ms(clock_mono_ms(), q->max_wait_ms),
        .bytes_min = at_least(q->min_bytes, 0) < bytes_max ? at_least(q->min_bytes, 0) : bytes_max,
        .session_id = session_id,
        .incremental = incremental,
    };
    fetch_init(&fw->fetch, a.parts, a.count, bytes_max);
    fw->fetch.committed = q->isolation_level != READ_UNCOMMITTED;
    net_conn_hold(rq->conn,
                  rq->arena.used + (size_t)a.count * (sizeof *a.parts + sizeof *fw->waiters));
    DL_APPEND(server->fetches, fw);
    rq->parked = fw;
    rq->cancel = on_cancel;
    step(fw);
}

void api_fetch_stop(struct server *server)
{
    struct fetch_wait *fw, *next;
    DL_FOREACH_SAFE(server->fetches, fw, next)
    {
        if (fw->state == FETCH_PARKED) {
            reply(fw);
        }
    }
}
