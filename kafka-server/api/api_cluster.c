/* What there is: versions, brokers, topics, partitions.
 *
 * There is one broker, this one, at the address that the connection's listener advertises; it is
 * controller, leader and only replica of everything.
 *
 * A topic that a Metadata request names, and that does not exist, is made by that very request if
 * client and server agree to it (auto.create.topics.enable). It is in the answer, ready: Kafka's
 * controller needs a moment, and sends an error that makes clients ask again. */
#include <stdlib.h>

#include "kafka-server/api/api.h"
#include "kafka-server/api/api_bound.h"
#include "kafka-server/api/api_names.h"
#include "kafka-server/api/api_wait.h"
#include "kafka-server/broker/topic_admin.h"
#include "kafka-server/broker/topics.h"
#include "kafka-server/net/net.h"
#include "kafka-server/server.h"
#include "kafka_messages.h"
#include "shared/base/log.h"

#define DESCRIBED_PARTITIONS_MAX 2000 /* of one DescribeTopicPartitions reply, as in Kafka */
#define CREATED_TOPICS_MAX       1000 /* by one Metadata request; the client asks again */
#define METADATA_ALLOWS          4    /* first version that says whether topics may be created */
#define METADATA_BY_ID           12   /* first version that takes topics by id */
#define OPERATIONS_NOT_ASKED     INT32_MIN
#define ENDPOINT_BROKERS         1
#define ENDPOINT_CONTROLLERS     2

/* Bits of org.apache.kafka.common.acl.AclOperation: what anyone may do here. Nobody but MQTT
 * writes to a captured topic; nobody but culex.json changes it, unless a client has bound it. */
#define OPERATION_READ             (1 << 3)
#define OPERATION_WRITE            (1 << 4)
#define OPERATION_CREATE           (1 << 5)
#define OPERATION_DELETE           (1 << 6)
#define OPERATION_ALTER            (1 << 7)
#define OPERATION_DESCRIBE         (1 << 8)
#define OPERATION_CLUSTER_ACTION   (1 << 9)
#define OPERATION_DESCRIBE_CONFIGS (1 << 10)
#define OPERATION_ALTER_CONFIGS    (1 << 11)
#define OPERATION_IDEMPOTENT_WRITE (1 << 12)
#define CLUSTER_OPERATIONS                                                                         \
    (OPERATION_CREATE | OPERATION_ALTER | OPERATION_DESCRIBE | OPERATION_CLUSTER_ACTION |          \
     OPERATION_DESCRIBE_CONFIGS | OPERATION_ALTER_CONFIGS | OPERATION_IDEMPOTENT_WRITE)
#define CAPTURED_OPERATIONS (OPERATION_READ | OPERATION_DESCRIBE | OPERATION_DESCRIBE_CONFIGS)
#define FREE_OPERATIONS                                                                            \
    (CAPTURED_OPERATIONS | OPERATION_WRITE | OPERATION_CREATE | OPERATION_DELETE |                 \
     OPERATION_ALTER | OPERATION_ALTER_CONFIGS)

/* The number of its partitions is what nobody changes: ALTER is CreatePartitions. */
#define BOUND_OPERATIONS (CAPTURED_OPERATIONS | OPERATION_DELETE | OPERATION_ALTER_CONFIGS)

static int32_t topic_operations(const struct request *rq, const struct topic *t)
{
    return !t->captured             ? FREE_OPERATIONS
           : bound_by_client(rq, t) ? BOUND_OPERATIONS
                                    : CAPTURED_OPERATIONS;
}

/* --- ApiVersions ----------------------------------------------------------------------------- */

static bool is_word(uint8_t ch)
{
    return (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || (ch >= '0' && ch <= '9');
}

/* Kafka's rule for names and versions of client software: letters, digits, '-' and '.', beginning
 * and ending with a letter or digit (KIP-511). */
static bool software_ok(struct kstr s)
{
    if (s.len <= 0 || !is_word((uint8_t)s.data[0]) || !is_word((uint8_t)s.data[s.len - 1])) {
        return false;
    }
    for (int32_t i = 0; i < s.len; i++) {
        if (!is_word((uint8_t)s.data[i]) && s.data[i] != '-' && s.data[i] != '.') {
            return false;
        }
    }
    return true;
}

/* body NULL: the client asked for a version that we do not know. */
void api_versions(struct request *rq)
{
    const struct api_versions_request *q = rq->body;
    struct api_versions_response p;
    codec_init(&api_versions_response_message, &p);
    if (q != NULL && rq->header.api_version >= 3 &&
        (!software_ok(q->client_software_name) || !software_ok(q->client_software_version))) {
        p.error_code = KERR_INVALID_REQUEST;
        request_reply(rq, &p);
        return;
    }
    p.error_code = q == NULL ? KERR_UNSUPPORTED_VERSION : KERR_NONE;
    p.api_keys = codec_new_array(&api_versions_response_api_keys_message, &rq->arena,
                                 (int32_t)api_table_count);
    if (p.api_keys == NULL || !features_fill(rq, &p)) {
        request_close_too_large(rq);
        return;
    }
    for (size_t i = 0; i < api_table_count; i++) {
        const struct api *a = &api_table[i];
        if (a->told == API_UNTOLD) {
            continue;
        }
        struct api_versions_response_api_keys *out = &p.api_keys[p.api_keys_count++];
        out->api_key = a->key;
        out->min_version = a->told == API_TOLD_FROM_0 ? 0 : a->version_min;
        out->max_version = a->version_max;
    }
    request_reply(rq, &p);
}

/* --- Metadata -------------------------------------------------------------------------------- */

/* The list of replicas that every partition has: this node. */
static int32_t *make_replicas(struct request *rq)
{
    int32_t *list = arena_alloc(&rq->arena, sizeof *list);
    if (list != NULL) {
        *list = rq->server->config.server.node_id;
    }
    return list;
}

static int32_t leader_epoch(const struct topic *t, int32_t partition)
{
    struct store_offsets o;
    return store_offsets(t->store, store_topic_uid(t->row, partition), &o) == OK ? o.leader_epoch
                                                                                : 0;
}

static bool fill_topic(struct request *rq, struct metadata_response_topics *out,
                       const struct topic *t, int32_t *replicas, bool operations)
{
    int32_t count = t->row->partition_count;
    out->name = kstr_make(t->row->name);
    out->topic_id = t->row->id;
    out->partitions =
        codec_new_array(&metadata_response_topics_partitions_message, &rq->arena, count);
    if (out->partitions == NULL) {
        return false;
    }
    out->partitions_count = count;
    for (int32_t i = 0; i < count; i++) {
        struct metadata_response_topics_partitions *p = &out->partitions[i];
        p->partition_index = i;
        p->leader_id = *replicas;
        p->leader_epoch = leader_epoch(t, i);
        p->replica_nodes = p->isr_nodes = replicas;
        p->replica_nodes_count = p->isr_nodes_count = 1;
    }
    out->topic_authorized_operations =
        operations ? topic_operations(rq, t) : OPERATIONS_NOT_ASKED;
    return true;
}

static bool may_create(const struct request *rq)
{
    const struct metadata_request *q = rq->body;
    bool allowed = rq->header.api_version < METADATA_ALLOWS || q->allow_auto_topic_creation;
    return allowed && rq->server->config.server.auto_create_topics_enable &&
           rq->server->own != NULL;
}

/* Makes topics that are missing. By name only: an id is of a topic that was. Before any answer is
 * filled in, which borrows from the list of topics. */
static void create_missing(struct request *rq)
{
    const struct metadata_request *q = rq->body;
    const struct topics *topics = rq->server->topics;
    const struct topic_admin a = {rq->server->own, rq->server->topics, &rq->server->config,
                                  rq->server->bound_names};
    int created = 0;
    for (int32_t i = 0; i < q->topics_count && created < CREATED_TOPICS_MAX; i++) {
        struct slice name = kstr_slice(q->topics[i].name);
        if (name.len == 0 || topics_find(topics, name) != NULL || !topic_name_ok(name)) {
            continue;
        }
        struct errmsg m = {""};
        enum kerr k = topic_create_usual(&a, name, &m);
        if (k != KERR_NONE) {
            log_debug("topic not made topic=%.*s error=%d: %s", (int)name.len,
                      (const char *)name.data, k, m.text);
        }
        created++;
    }
}

/* Are topics asked for by id (12 and later)? One id is enough: Kafka then looks at ids alone. */
static bool asks_by_id(const struct metadata_request *q)
{
    bool ids = false;
    for (int32_t i = 0; i < q->topics_count && !ids; i++) {
        ids = !uuid_is_zero(&q->topics[i].topic_id);
    }
    return ids;
}

/* How each topic of the request is to be taken, so that one that is named twice is told once.
 * NULL: no memory. */
static enum name_seen *asked_seen(struct request *rq, bool by_id)
{
    const struct metadata_request *q = rq->body;
    struct slice *keys = arena_array(&rq->arena, (size_t)q->topics_count, sizeof *keys);
    for (int32_t i = 0; i < q->topics_count && keys != NULL; i++) {
        const struct metadata_request_topics *t = &q->topics[i];
        keys[i] = by_id ? slice_make(t->topic_id.b, sizeof t->topic_id.b) : kstr_slice(t->name);
    }
    return keys != NULL ? names_seen(rq, keys, q->topics_count) : NULL;
}

/* By name. */
static enum kerr why_missing(const struct request *rq, struct kstr name)
{
    return topic_name_ok(kstr_slice(name))
               ? names_missing(rq, KERR_LEADER_NOT_AVAILABLE, KERR_UNKNOWN_TOPIC_OR_PARTITION)
               : KERR_INVALID_TOPIC_EXCEPTION;
}

static void fill_missing(const struct request *rq, struct metadata_response_topics *out,
                         const struct metadata_request_topics *asked, bool by_id)
{
    const struct metadata_request *q = rq->body;
    if (by_id) {
        out->name = kstr_make(NULL);
        out->topic_id = asked->topic_id;
        out->error_code =
            (int16_t)names_missing(rq, KERR_LEADER_NOT_AVAILABLE, KERR_UNKNOWN_TOPIC_ID);
        return;
    }
    out->name = asked->name;
    out->error_code = (int16_t)why_missing(rq, asked->name);
    if (q->include_topic_authorized_operations) {
        out->topic_authorized_operations = FREE_OPERATIONS; /* what one could do, were it there */
    }
}

/* The topics that were asked for. */
static bool fill_asked(struct request *rq, struct metadata_response *p, int32_t *replicas)
{
    const struct metadata_request *q = rq->body;
    const struct topics *topics = rq->server->topics;
    bool by_id = asks_by_id(q);
    if (!by_id && may_create(rq)) {
        create_missing(rq);
    }
    enum name_seen *seen = asked_seen(rq, by_id);
    p->topics = codec_new_array(&metadata_response_topics_message, &rq->arena, q->topics_count);
    if (p->topics == NULL || seen == NULL) {
        return false;
    }
    for (int32_t i = 0; i < q->topics_count; i++) {
        const struct metadata_request_topics *asked = &q->topics[i];
        if (seen[i] == NAME_AGAIN) {
            continue;
        }
        struct metadata_response_topics *out = &p->topics[p->topics_count++];
        const struct topic *t = by_id ? topics_find_id(topics, &asked->topic_id)
                                      : topics_find(topics, kstr_slice(asked->name));
        if (t == NULL) {
            fill_missing(rq, out, asked, by_id);
        } else if (!fill_topic(rq, out, t, replicas, q->include_topic_authorized_operations)) {
            return false;
        }
    }
    return true;
}

/* A topic without name and id, or with an id that the version does not carry to the end. */
static bool asks_wrongly(const struct request *rq)
{
    const struct metadata_request *q = rq->body;
    bool wrong = false;
    for (int32_t i = 0; i < q->topics_count && !wrong; i++) {
        bool no_id = uuid_is_zero(&q->topics[i].topic_id);
        wrong = no_id ? q->topics[i].name.len < 0 : rq->header.api_version < METADATA_BY_ID;
    }
    return wrong;
}

/* The whole request is refused: each of its topics says so, and there is no broker in it. */
static void refuse_metadata(struct request *rq, struct metadata_response *p)
{
    const struct metadata_request *q = rq->body;
    p->topics = codec_new_array(&metadata_response_topics_message, &rq->arena, q->topics_count);
    if (p->topics == NULL) {
        request_close_too_large(rq);
        return;
    }
    p->topics_count = q->topics_count;
    for (int32_t i = 0; i < q->topics_count; i++) {
        p->topics[i].name = slice_kstr_or_empty(kstr_slice(q->topics[i].name));
        p->topics[i].topic_id = q->topics[i].topic_id;
        p->topics[i].error_code = KERR_INVALID_REQUEST;
    }
    request_reply(rq, p);
}

static bool fill_all(struct request *rq, struct metadata_response *p, int32_t *replicas)
{
    const struct metadata_request *q = rq->body;
    const struct topics *topics = rq->server->topics;
    int32_t count = (int32_t)topics_count(topics);
    p->topics = codec_new_array(&metadata_response_topics_message, &rq->arena, count);
    if (p->topics == NULL) {
        return false;
    }
    p->topics_count = count;
    for (int32_t i = 0; i < count; i++) {
        if (!fill_topic(rq, &p->topics[i], topics_at(topics, (size_t)i), replicas,
                        q->include_topic_authorized_operations)) {
            return false;
        }
    }
    return true;
}

void api_metadata(struct request *rq)
{
    const struct metadata_request *q = rq->body;
    struct metadata_response p;
    codec_init(&metadata_response_message, &p);
    if (asks_wrongly(rq)) {
        refuse_metadata(rq, &p);
        return;
    }
    p.brokers = codec_new_array(&metadata_response_brokers_message, &rq->arena, 1);
    int32_t *replicas = make_replicas(rq);
    if (p.brokers == NULL || replicas == NULL) {
        request_close_too_large(rq);
        return;
    }
    p.brokers_count = 1;
    p.brokers[0].node_id = *replicas;
    p.brokers[0].host = kstr_make(request_advertised_host(rq));
    p.brokers[0].port = request_advertised_port(rq);
    p.cluster_id = kstr_make(rq->server->cluster_id);
    p.controller_id = *replicas;
    if (q->include_cluster_authorized_operations) {
        p.cluster_authorized_operations = CLUSTER_OPERATIONS;
    }
    bool all = q->topics_count < 0 || (rq->header.api_version == 0 && q->topics_count == 0);
    if (all ? !fill_all(rq, &p, replicas) : !fill_asked(rq, &p, replicas)) {
        request_close_too_large(rq);
        return;
    }
    request_reply(rq, &p);
}

/* --- DescribeCluster ------------------------------------------------------------------------- */

void api_describe_cluster(struct request *rq)
{
    const struct describe_cluster_request *q = rq->body;
    struct describe_cluster_response p;
    codec_init(&describe_cluster_response_message, &p);
    if (q->endpoint_type != ENDPOINT_BROKERS) {
        p.error_code = q->endpoint_type == ENDPOINT_CONTROLLERS ? KERR_MISMATCHED_ENDPOINT_TYPE
                                                                : KERR_UNSUPPORTED_ENDPOINT_TYPE;
        p.error_message = kstr_make("this endpoint is a broker's");
        request_reply(rq, &p);
        return;
    }
    p.brokers = codec_new_array(&describe_cluster_response_brokers_message, &rq->arena, 1);
    if (p.brokers == NULL) {
        request_close_too_large(rq);
        return;
    }
    p.brokers_count = 1;
    p.brokers[0].broker_id = rq->server->config.server.node_id;
    p.brokers[0].host = kstr_make(request_advertised_host(rq));
    p.brokers[0].port = request_advertised_port(rq);
    p.cluster_id = kstr_make(rq->server->cluster_id);
    p.controller_id = rq->server->config.server.node_id;
    if (q->include_cluster_authorized_operations) {
        p.cluster_authorized_operations = CLUSTER_OPERATIONS;
    }
    request_reply(rq, &p);
}

/* --- DescribeTopicPartitions ----------------------------------------------------------------- */

/* A walk over topics in the order of their names, some partitions a reply. */
struct paging {
    struct request *rq;
    struct describe_topic_partitions_response *p;
    int32_t *replicas;
    int32_t left;     /* partitions that still fit */
    struct kstr from; /* topic of the cursor; len -1: none */
    int32_t from_partition;
};

static int compare_kstr(struct kstr a, struct kstr b)
{
    struct slice x = kstr_slice(a), y = kstr_slice(b);
    size_t least = x.len < y.len ? x.len : y.len;
    int order = least == 0 ? 0 : memcmp(x.data, y.data, least);
    return order != 0 ? order : (x.len > y.len) - (x.len < y.len);
}

static int compare_asked(const void *a, const void *b)
{
    const struct describe_topic_partitions_request_topics *x = a, *y = b;
    return compare_kstr(x->name, y->name);
}

static bool fill_partitions(struct paging *g, struct describe_topic_partitions_response_topics *out,
                            const struct topic *t, int32_t first, int32_t count)
{
    out->partitions = codec_new_array(&describe_topic_partitions_response_topics_partitions_message,
                                      &g->rq->arena, count);
    if (out->partitions == NULL) {
        return false;
    }
    out->partitions_count = count;
    for (int32_t i = 0; i < count; i++) {
        struct describe_topic_partitions_response_topics_partitions *p = &out->partitions[i];
        p->partition_index = first + i;
        p->leader_id = *g->replicas;
        p->leader_epoch = leader_epoch(t, first + i);
        p->replica_nodes = p->isr_nodes = g->replicas;
        p->replica_nodes_count = p->isr_nodes_count = 1;
        /* Empty and not null: Java's admin client reads these lists without asking. */
        p->eligible_leader_replicas_count = p->last_known_elr_count = 0;
    }
    return true;
}

static bool set_cursor(struct paging *g, struct kstr name, int32_t partition)
{
    g->p->next_cursor =
        codec_new_array(&describe_topic_partitions_response_next_cursor_message, &g->rq->arena, 1);
    if (g->p->next_cursor == NULL) {
        return false;
    }
    g->p->next_cursor->topic_name = name;
    g->p->next_cursor->partition_index = partition;
    return true;
}

/* One topic more; *go_on becomes false when the reply is full. */
static bool page_topic(struct paging *g, struct kstr name, const struct topic *t, bool *go_on)
{
    if (g->from.len >= 0 && compare_kstr(name, g->from) < 0) {
        return true;
    }
    int32_t first = g->from.len >= 0 && compare_kstr(name, g->from) == 0 ? g->from_partition : 0;
    if (g->left == 0) {
        *go_on = false;
        return set_cursor(g, name, first);
    }
    struct describe_topic_partitions_response_topics *out = &g->p->topics[g->p->topics_count++];
    out->name = name;
    if (t == NULL) {
        out->error_code = (int16_t)why_missing(g->rq, name);
        return true;
    }
    int32_t rest = first < t->row->partition_count ? t->row->partition_count - first : 0;
    int32_t count = rest < g->left ? rest : g->left;
    out->topic_id = t->row->id;
    out->topic_authorized_operations = topic_operations(g->rq, t);
    g->left -= count;
    if (!fill_partitions(g, out, t, first, count)) {
        return false;
    }
    if (count < rest) {
        *go_on = false;
        return set_cursor(g, name, first + count);
    }
    return true;
}

static bool page_topics(struct paging *g)
{
    const struct describe_topic_partitions_request *q = g->rq->body;
    const struct topics *topics = g->rq->server->topics;
    bool all = q->topics_count == 0;
    int32_t count = all ? (int32_t)topics_count(topics) : q->topics_count;
    g->p->topics =
        codec_new_array(&describe_topic_partitions_response_topics_message, &g->rq->arena, count);
    if (g->p->topics == NULL) {
        return false;
    }
    if (!all) {
        qsort(q->topics, (size_t)q->topics_count, sizeof *q->topics, compare_asked);
    }
    bool go_on = true;
    for (int32_t i = 0; i < count && go_on; i++) {
        const struct topic *t =
            all ? topics_at(topics, (size_t)i) : topics_find(topics, kstr_slice(q->topics[i].name));
        struct kstr name = all ? kstr_make(t->row->name) : q->topics[i].name;
        bool twice = !all && i > 0 && compare_kstr(name, q->topics[i - 1].name) == 0;
        if (!twice && !page_topic(g, name, t, &go_on)) {
            return false;
        }
    }
    return true;
}

/* A cursor that can be nowhere: each of the topics says so. */
static void refuse_partitions(struct paging *g)
{
    const struct describe_topic_partitions_request *q = g->rq->body;
    g->p->topics = codec_new_array(&describe_topic_partitions_response_topics_message,
                                   &g->rq->arena, q->topics_count);
    if (g->p->topics == NULL) {
        request_close_too_large(g->rq);
        return;
    }
    g->p->topics_count = q->topics_count;
    for (int32_t i = 0; i < q->topics_count; i++) {
        g->p->topics[i].name = q->topics[i].name;
        g->p->topics[i].error_code = KERR_INVALID_REQUEST;
    }
    request_reply(g->rq, g->p);
}

void api_describe_topic_partitions(struct request *rq)
{
    const struct describe_topic_partitions_request *q = rq->body;
    struct describe_topic_partitions_response p;
    codec_init(&describe_topic_partitions_response_message, &p);
    struct paging g = {.rq = rq, .p = &p, .replicas = make_replicas(rq), .from = {NULL, -1}};
    int32_t limit = q->response_partition_limit;
    g.left = limit < DESCRIBED_PARTITIONS_MAX ? limit : DESCRIBED_PARTITIONS_MAX;
    if (q->cursor != NULL) {
        g.from = q->cursor->topic_name;
        g.from_partition = q->cursor->partition_index;
    }
    if (limit <= 0) {
        request_close(rq, "asked for no partitions"); /* as Kafka does */
        return;
    }
    if (g.from_partition < 0) {
        refuse_partitions(&g);
        return;
    }
    if (g.replicas == NULL || !page_topics(&g)) {
        request_close_too_large(rq);
        return;
    }
    request_reply(rq, &p);
}
