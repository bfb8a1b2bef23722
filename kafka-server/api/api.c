/* The table of APIs, the way of a request, the way of a reply.
 *
 *      frame ─▶ header ─▶ row ─▶ body decoded into the request's arena ─▶ handler
 *                 │ unknown key or version: the connection is closed (as Kafka does), but for
 *                 │ ApiVersions, which gets version 0 with the table and error 35: so a newer
 *                 │ client finds out what it may speak
 *      handler ─▶ request_reply ─▶ length, header, body with holes ─▶ evbuffer ─▶ net
 *                                                     └ records: pinned memory, not copied
 *
 * The encoded body and what the handler lent for the records live until the socket has taken the
 * last byte: the last piece of the evbuffer carries the callback that frees both. Small replies
 * are copied instead; a copy of a few hundred bytes is cheaper than its bookkeeping. */
#include "kafka-server/api/api.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <event2/buffer.h>
#include <utlist.h>

#include "kafka-server/broker/topics.h"
#include "kafka-server/net/net.h"
#include "kafka-server/server.h"
#include "kafka_messages.h"
#include "shared/base/log.h"

#define REPLY_COPY_BYTES_MAX 4096

static struct api rows[] = {
    {KAFKA_API_PRODUCE, 3, 13, api_produce, NULL, API_TOLD_FROM_0},
    {KAFKA_API_FETCH, 4, 18, api_fetch, NULL, API_TOLD},
    {KAFKA_API_LIST_OFFSETS, 1, 10, api_list_offsets, NULL, API_TOLD},
    {KAFKA_API_METADATA, 0, 13, api_metadata, NULL, API_TOLD},
    {KAFKA_API_OFFSET_COMMIT, 2, 10, api_offset_commit, NULL, API_TOLD},
    {KAFKA_API_OFFSET_FETCH, 1, 10, api_offset_fetch, NULL, API_TOLD},
    {KAFKA_API_FIND_COORDINATOR, 0, 6, api_find_coordinator, NULL, API_TOLD},
    {KAFKA_API_JOIN_GROUP, 0, 9, api_join_group, NULL, API_TOLD},
    {KAFKA_API_HEARTBEAT, 0, 4, api_heartbeat, NULL, API_TOLD},
    {KAFKA_API_LEAVE_GROUP, 0, 5, api_leave_group, NULL, API_TOLD},
    {KAFKA_API_SYNC_GROUP, 0, 5, api_sync_group, NULL, API_TOLD},
    {KAFKA_API_DESCRIBE_GROUPS, 0, 6, api_describe_groups, NULL, API_TOLD},
    {KAFKA_API_LIST_GROUPS, 0, 5, api_list_groups, NULL, API_TOLD},
    {KAFKA_API_API_VERSIONS, 0, 4, api_versions, NULL, API_TOLD},
    {KAFKA_API_CREATE_TOPICS, 2, 7, api_create_topics, NULL, API_TOLD},
    {KAFKA_API_DELETE_TOPICS, 1, 6, api_delete_topics, NULL, API_TOLD},
    {KAFKA_API_DELETE_RECORDS, 0, 2, api_delete_records, NULL, API_TOLD},
    {KAFKA_API_INIT_PRODUCER_ID, 0, 5, api_init_producer_id, NULL, API_TOLD},
    {KAFKA_API_OFFSET_FOR_LEADER_EPOCH, 2, 4, api_offset_for_leader_epoch, NULL, API_TOLD},
    {KAFKA_API_ADD_PARTITIONS_TO_TXN, 0, 5, api_add_partitions_to_txn, NULL, API_TOLD},
    {KAFKA_API_ADD_OFFSETS_TO_TXN, 0, 4, api_add_offsets_to_txn, NULL, API_TOLD},
    {KAFKA_API_END_TXN, 0, 5, api_end_txn, NULL, API_TOLD},
    {KAFKA_API_WRITE_TXN_MARKERS, 1, 1, api_write_txn_markers, NULL, API_TOLD},
    {KAFKA_API_TXN_OFFSET_COMMIT, 0, 5, api_txn_offset_commit, NULL, API_TOLD},
    {KAFKA_API_DESCRIBE_ACLS, 1, 3, api_describe_acls, NULL, API_TOLD},
    {KAFKA_API_DESCRIBE_CONFIGS, 1, 4, api_describe_configs, NULL, API_TOLD},
    {KAFKA_API_ALTER_CONFIGS, 0, 2, api_alter_configs, NULL, API_TOLD},
    {KAFKA_API_DESCRIBE_LOG_DIRS, 1, 4, api_describe_log_dirs, NULL, API_TOLD},
    {KAFKA_API_CREATE_PARTITIONS, 0, 3, api_create_partitions, NULL, API_TOLD},
    {KAFKA_API_DELETE_GROUPS, 0, 2, api_delete_groups, NULL, API_TOLD},
    {KAFKA_API_ELECT_LEADERS, 0, 2, api_elect_leaders, NULL, API_TOLD},
    {KAFKA_API_INCREMENTAL_ALTER_CONFIGS, 0, 1, api_incremental_alter_configs, NULL, API_TOLD},
    {KAFKA_API_LIST_PARTITION_REASSIGNMENTS, 0, 0, api_list_partition_reassignments, NULL,
     API_TOLD},
    {KAFKA_API_OFFSET_DELETE, 0, 0, api_offset_delete, NULL, API_TOLD},
    {KAFKA_API_DESCRIBE_CLIENT_QUOTAS, 0, 1, api_describe_client_quotas, NULL, API_TOLD},
    {KAFKA_API_DESCRIBE_USER_SCRAM_CREDENTIALS, 0, 0, api_describe_user_scram_credentials, NULL,
     API_TOLD},
    {KAFKA_API_DESCRIBE_QUORUM, 0, 2, api_describe_quorum, NULL, API_TOLD},
    {KAFKA_API_UPDATE_FEATURES, 0, 2, api_update_features, NULL, API_TOLD},
    {KAFKA_API_DESCRIBE_CLUSTER, 0, 2, api_describe_cluster, NULL, API_TOLD},
    {KAFKA_API_DESCRIBE_PRODUCERS, 0, 0, api_describe_producers, NULL, API_TOLD},
    {KAFKA_API_DESCRIBE_TRANSACTIONS, 0, 0, api_describe_transactions, NULL, API_TOLD},
    {KAFKA_API_LIST_TRANSACTIONS, 0, 2, api_list_transactions, NULL, API_TOLD},
    {KAFKA_API_CONSUMER_GROUP_HEARTBEAT, 0, 1, api_consumer_group_heartbeat, NULL, API_TOLD},
    {KAFKA_API_CONSUMER_GROUP_DESCRIBE, 0, 1, api_consumer_group_describe, NULL, API_TOLD},
    /* Kafka answers these two as well without offering them, when it has no plugin that takes
     * clients' metrics: a client that finds them pushes metrics. */
    {KAFKA_API_GET_TELEMETRY_SUBSCRIPTIONS, 0, 0, api_get_telemetry_subscriptions, NULL,
     API_UNTOLD},
    {KAFKA_API_PUSH_TELEMETRY, 0, 0, api_push_telemetry, NULL, API_UNTOLD},
    {KAFKA_API_LIST_CONFIG_RESOURCES, 0, 1, api_list_config_resources, NULL, API_TOLD},
    {KAFKA_API_DESCRIBE_TOPIC_PARTITIONS, 0, 0, api_describe_topic_partitions, NULL, API_TOLD},
};

const struct api *const api_table = rows;
const size_t api_table_count = sizeof rows / sizeof *rows;

void api_init(void)
{
    for (size_t i = 0; i < api_table_count; i++) {
        rows[i].codec = codec_api_find(rows[i].key);
        ASSERT(rows[i].codec != NULL);
        ASSERT(rows[i].version_min >= rows[i].codec->version_min);
        ASSERT(rows[i].version_max <= rows[i].codec->version_max);
        ASSERT(i == 0 || rows[i - 1].key < rows[i].key);
    }
}

const struct api *api_find(int16_t key)
{
    for (size_t i = 0; i < api_table_count; i++) {
        if (rows[i].key == key) {
            return &rows[i];
        }
    }
    return NULL;
}

/* --- requests -------------------------------------------------------------------------------- */

static void request_free(struct request *rq)
{
    if (rq->release != NULL) {
        rq->release(rq->release_arg);
    }
    rq->server->requests_in_flight--;
    arena_fini(&rq->arena);
    free(rq);
}

/* A request for a version that we do not serve: ApiVersions is answered all the same. */
static void reject_version(struct request *rq)
{
    char why[96];
    if (rq->header.api_key == KAFKA_API_API_VERSIONS) {
        rq->api = api_find(KAFKA_API_API_VERSIONS);
        rq->header.api_version = 0;
        rq->body = NULL;
        rq->api->handler(rq);
        return;
    }
    const struct codec_api *known = codec_api_find(rq->header.api_key);
    snprintf(why, sizeof why, "asked for API %d (%s) version %d, which is not served",
             rq->header.api_key, known != NULL ? known->name : "unknown", rq->header.api_version);
    request_close(rq, why);
}

static void forget_held(struct request *rq)
{
    DL_DELETE(rq->server->held, rq);
}

static void decode_and_handle(struct request *rq, struct slice body)
{
    const struct codec_message *t = rq->api->codec->request;
    void *out = arena_alloc(&rq->arena, codec_struct_bytes(t));
    struct errmsg m = {.text = "no memory"};
    size_t left; /* bytes behind the message are ignored, as Kafka ignores them */
    enum err e = out == NULL ? ERR_NOMEM
                             : codec_decode_prefix(t, rq->header.api_version, body, &rq->arena, out,
                                                   &left, &m);
    if (e != OK) {
        char why[sizeof m.text + 64];
        snprintf(why, sizeof why, "sent a %s v%d that cannot be read: %s", rq->api->codec->name,
                 rq->header.api_version, m.text);
        request_close(rq, why);
        return;
    }
    log_debug("request api=%s version=%d correlation=%d client=%.*s peer=%s", rq->api->codec->name,
              rq->header.api_version, rq->header.correlation_id,
              rq->header.client_id.len > 0 ? rq->header.client_id.len : 0,
              rq->header.client_id.len > 0 ? rq->header.client_id.data : "",
              net_conn_peer(rq->conn));
    net_conn_hold(rq->conn, rq->arena.used);
    rq->body = out;
    if (rq->server->holding && rq->api->key != KAFKA_API_API_VERSIONS) {
        rq->cancel = forget_held;
        DL_APPEND(rq->server->held, rq);
        return;
    }
    topics_refresh(rq->server->topics);
    rq->api->handler(rq);
}

void api_release_held(struct server *s)
{
    topics_refresh(s->topics);
    while (s->held != NULL) {
        struct request *rq = s->held;
        DL_DELETE(s->held, rq);
        rq->cancel = NULL;
        rq->api->handler(rq);
    }
}

void api_on_frame(void *server, struct net_conn *c, uint8_t *frame, size_t len)
{
    struct server *s = server;
    struct request *rq = calloc(1, sizeof *rq);
    if (rq == NULL) {
        net_conn_close(c, "no memory for its request");
        return;
    }
    rq->server = s;
    rq->conn = c;
    arena_init(&rq->arena, REQUEST_ARENA_BYTES_MAX);
    net_conn_set_user(c, rq);
    s->requests++;
    s->requests_in_flight++;
    struct slice body;
    enum err e = codec_decode_header(slice_make(frame, len), &rq->header, &body);
    if (e == ERR_CORRUPT) {
        request_close(rq, "sent a request whose header cannot be read");
        return;
    }
    rq->api = api_find(rq->header.api_key);
    if (e != OK || rq->api == NULL || rq->header.api_version < rq->api->version_min ||
        rq->header.api_version > rq->api->version_max) {
        reject_version(rq);
    } else {
        decode_and_handle(rq, body);
    }
}

void api_on_gone(void *server, struct net_conn *c)
{
    struct request *rq = net_conn_user(c);
    if (rq->cancel != NULL) {
        rq->cancel(rq);
    }
    request_free(rq);
}

bool api_has_room(void *server)
{
    return server_has_room(server);
}

struct kstr request_text(struct request *rq, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int len = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *text = len < 0 ? NULL : arena_alloc(&rq->arena, (size_t)len + 1);
    if (text != NULL) {
        vsnprintf(text, (size_t)len + 1, fmt, again);
    }
    va_end(again);
    return (struct kstr){text, text != NULL ? len : -1};
}

void request_close(struct request *rq, const char *why)
{
    net_conn_close(rq->conn, why);
    request_free(rq);
}

void request_end(struct request *rq)
{
    net_conn_skip_reply(rq->conn);
    request_free(rq);
}

const char *request_advertised_host(const struct request *rq)
{
    return net_conn_advertised_host(rq->conn);
}

int request_advertised_port(const struct request *rq)
{
    return net_conn_advertised_port(rq->conn);
}

const char *request_peer_host(const struct request *rq)
{
    return net_conn_peer(rq->conn);
}

/* --- replies --------------------------------------------------------------------------------- */

/* What a reply refers to until it has left. */
struct reply_memory {
    struct buf encoded;
    void (*release)(void *arg);
    void *release_arg;
};

static void reply_memory_free(struct reply_memory *rm)
{
    buf_fini(&rm->encoded);
    if (rm->release != NULL) {
        rm->release(rm->release_arg);
    }
    free(rm);
}

static void on_reply_left(const void *data, size_t len, void *arg)
{
    reply_memory_free(arg);
}

/* Pieces go in one behind the other, so that the last one can carry the callback. */
struct reply_pieces {
    struct evbuffer *out;
    const uint8_t *data; /* the newest piece, not in `out` yet */
    size_t len;
    bool failed;
};

static void add_piece(struct reply_pieces *p, const void *data, size_t len)
{
    if (len == 0 || p->failed) {
        return;
    }
    if (p->len != 0) {
        p->failed = evbuffer_add_reference(p->out, p->data, p->len, NULL, NULL) != 0;
    }
    p->data = data;
    p->len = len;
}

static enum err assemble(struct reply_memory *rm, const struct codec_holes *holes,
                         struct evbuffer *out)
{
    struct reply_pieces p = {.out = out};
    size_t from = 0;
    for (size_t i = 0; i < holes->count; i++) {
        const struct codec_hole *h = &holes->list[i];
        add_piece(&p, rm->encoded.data + from, h->at - from);
        from = h->at;
        for (int32_t k = 0; k < h->records->iov_count; k++) {
            add_piece(&p, h->records->iov[k].iov_base, h->records->iov[k].iov_len);
        }
    }
    add_piece(&p, rm->encoded.data + from, rm->encoded.len - from);
    if (p.failed || evbuffer_add_reference(out, p.data, p.len, on_reply_left, rm) != 0) {
        evbuffer_drain(out, evbuffer_get_length(out)); /* nothing in it has a callback yet */
        return ERR_NOMEM;
    }
    return OK;
}

/* Encodes the reply, its length in front. */
static enum err encode(struct request *rq, const void *response, struct buf *b,
                       struct codec_holes *holes, struct errmsg *m)
{
    buf_put_be32(b, 0);
    codec_encode_response_header(rq->api->codec, rq->header.api_version, rq->header.correlation_id,
                                 b);
    enum err e = codec_encode(rq->api->codec->response, rq->header.api_version, response, b,
                              holes->max != 0 ? holes : NULL, m);
    if (e != OK) {
        return e;
    }
    uint64_t total = b->len - 4;
    for (size_t i = 0; i < holes->count; i++) {
        total += (uint64_t)holes->list[i].records->bytes;
    }
    if (!buf_ok(b) || total > INT32_MAX) {
        return err_set(m, ERR_TOO_LARGE, "the reply has more than %u bytes", REPLY_BYTES_MAX);
    }
    be32_put(b->data, (uint32_t)total);
    return OK;
}

/* Moves the encoded reply, and what the handler lent, into an evbuffer. */
static enum err pack(struct request *rq, struct buf *b, const struct codec_holes *holes,
                     struct evbuffer *out)
{
    if (holes->count == 0 && b->len <= REPLY_COPY_BYTES_MAX) {
        return evbuffer_add(out, b->data, b->len) == 0 ? OK : ERR_NOMEM;
    }
    struct reply_memory *rm = malloc(sizeof *rm);
    if (rm == NULL) {
        return ERR_NOMEM;
    }
    *rm = (struct reply_memory){*b, rq->release, rq->release_arg};
    enum err e = assemble(rm, holes, out);
    if (e != OK) {
        free(rm);
        return e;
    }
    buf_init(b, REPLY_BYTES_MAX);
    rq->release = NULL;
    return OK;
}

void request_reply(struct request *rq, const void *response)
{
    struct buf b;
    struct codec_holes holes = {0};
    struct errmsg m = {.text = "no memory"};
    enum err e = ERR_NOMEM;
    buf_init(&b, REPLY_BYTES_MAX);
    struct evbuffer *out = evbuffer_new();
    if (rq->records_max > 0) {
        holes.list = arena_array(&rq->arena, (size_t)rq->records_max, sizeof *holes.list);
        holes.max = holes.list != NULL ? (size_t)rq->records_max : 0;
    }
    if (out != NULL && (rq->records_max == 0 || holes.list != NULL)) {
        e = encode(rq, response, &b, &holes, &m);
        e = e == OK ? pack(rq, &b, &holes, out) : e;
    }
    if (e == OK) {
        net_conn_reply(rq->conn, out);
    } else {
        log_error("reply lost api=%s version=%d error=%s: %s", rq->api->codec->name,
                  rq->header.api_version, err_name(e), m.text);
        net_conn_close(rq->conn, NULL);
    }
    if (out != NULL) {
        evbuffer_free(out);
    }
    buf_fini(&b);
    request_free(rq);
}
