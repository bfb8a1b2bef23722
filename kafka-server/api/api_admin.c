/* What tools ask a cluster for, and what one broker without users, quotas and replicas says.
 *
 * Mostly that there is nothing: no election is needed, no partition moves, no client has a quota.
 * Mistakes in a request are named all the same, in Kafka's order and words, so that a tool behaves
 * here as it does there. */
#include <stdlib.h>

#include "kafka-server/api/api.h"
#include "kafka-server/api/api_names.h"
#include "kafka-server/broker/topics.h"
#include "kafka-server/server.h"
#include "kafka_messages.h"
#include "shared/base/clock.h"

/* --- ElectLeaders ----------------------------------------------------------------------------
 * Kafka's clients hand on what is said of a partition, whatever it is, and ask no second time. */

enum { ELECTION_PREFERRED = 0, ELECTION_UNCLEAN = 1 };

static bool is_known_election(const struct elect_leaders_request *q)
{
    return q->election_type == ELECTION_PREFERRED || q->election_type == ELECTION_UNCLEAN;
}

static bool fill_election(struct request *rq,
                          struct elect_leaders_response_replica_election_results *out,
                          const struct elect_leaders_request_topic_partitions *asked)
{
    const struct elect_leaders_request *q = rq->body;
    const struct topic *t = topics_find(rq->server->topics, kstr_slice(asked->topic));
    bool known = is_known_election(q);
    enum kerr missing = KERR_UNKNOWN_TOPIC_OR_PARTITION;
    out->topic = asked->topic;
    out->partition_result =
        codec_new_array(&elect_leaders_response_replica_election_results_partition_result_message,
                        &rq->arena, asked->partitions_count);
    if (out->partition_result == NULL) {
        return false;
    }
    out->partition_result_count = asked->partitions_count;
    struct kstr no_topic = kstr_make(NULL);
    if (t == NULL) {
        missing = names_missing(rq, KERR_LEADER_NOT_AVAILABLE, missing);
        no_topic = request_text(rq, missing == KERR_LEADER_NOT_AVAILABLE
                                        ? "The topic %.*s cannot be looked for now"
                                        : "No such topic as %.*s",
                                asked->topic.len, asked->topic.data);
    }
    for (int32_t i = 0; i < asked->partitions_count; i++) {
        struct elect_leaders_response_replica_election_results_partition_result *p =
            &out->partition_result[i];
        p->partition_id = asked->partitions[i];
        if (!known) {
            p->error_code = KERR_INVALID_REQUEST;
            p->error_message = kstr_make("Unknown election type.");
            continue;
        }
        if (topic_has_partition(t, p->partition_id)) {
            p->error_code = KERR_ELECTION_NOT_NEEDED;
            p->error_message = kstr_make("Leader election not needed for topic partition.");
            continue;
        }
        p->error_code = (int16_t)missing;
        p->error_message = t == NULL ? no_topic
                                     : request_text(rq, "No such partition as %s-%d", t->row->name,
                                                    p->partition_id);
    }
    return true;
}

/* Where all are meant, only elections that took place are told: none. */
static bool fill_elections(struct request *rq, struct elect_leaders_response *p)
{
    const struct elect_leaders_request *q = rq->body;
    const struct topics *topics = rq->server->topics;
    bool all = q->topic_partitions_count < 0;
    int32_t count = all ? (int32_t)topics_count(topics) : q->topic_partitions_count;
    p->replica_election_results = codec_new_array(
        &elect_leaders_response_replica_election_results_message, &rq->arena, count);
    if (p->replica_election_results == NULL) {
        return false;
    }
    p->replica_election_results_count = count;
    for (int32_t i = 0; i < count; i++) {
        struct elect_leaders_response_replica_election_results *out =
            &p->replica_election_results[i];
        if (all) {
            out->topic = kstr_make(topics_at(topics, (size_t)i)->row->name);
        } else if (!fill_election(rq, out, &q->topic_partitions[i])) {
            return false;
        }
    }
    return true;
}

void api_elect_leaders(struct request *rq)
{
    const struct elect_leaders_request *q = rq->body;
    struct elect_leaders_response p;
    codec_init(&elect_leaders_response_message, &p);
    bool known = is_known_election(q);
    p.error_code = known ? KERR_NONE : KERR_INVALID_REQUEST; /* and each partition says it, too */
    if ((known || q->topic_partitions_count > 0) && !fill_elections(rq, &p)) {
        request_close_too_large(rq);
        return;
    }
    request_reply(rq, &p);
}

/* --- ListPartitionReassignments -------------------------------------------------------------- */

void api_list_partition_reassignments(struct request *rq)
{
    struct list_partition_reassignments_response p;
    codec_init(&list_partition_reassignments_response_message, &p);
    p.error_message = kstr_make(NULL);
    request_reply(rq, &p);
}

/* --- DescribeQuorum -------------------------------------------------------------------------- */

#define QUORUM_TOPIC        "__cluster_metadata"
#define QUORUM_LEADER_EPOCH 1

/* The log of metadata, if there were one, would have a record for each change of what there is. */
static int64_t metadata_end(const struct server *s)
{
    struct store *stores[] = {s->own, s->captured};
    int64_t end = 0;
    for (size_t i = 0; i < sizeof stores / sizeof *stores; i++) {
        if (stores[i] != NULL) {
            const struct store_catalog *c = store_catalog_ref(stores[i]);
            end += (int64_t)c->version;
            store_catalog_unref(stores[i], c);
        }
    }
    return end;
}

/* This node is leader and only voter, of this moment. */
static bool fill_quorum(struct request *rq, struct describe_quorum_response_topics_partitions *out)
{
    out->current_voters = codec_new_array(
        &describe_quorum_response_topics_partitions_current_voters_message, &rq->arena, 1);
    if (out->current_voters == NULL) {
        return false;
    }
    out->leader_id = rq->server->config.server.node_id;
    out->leader_epoch = QUORUM_LEADER_EPOCH;
    out->high_watermark = metadata_end(rq->server);
    out->current_voters_count = 1;
    out->current_voters[0].replica_id = out->leader_id;
    out->current_voters[0].log_end_offset = out->high_watermark;
    out->current_voters[0].last_fetch_timestamp = clock_wall_ms();
    out->current_voters[0].last_caught_up_timestamp = out->current_voters[0].last_fetch_timestamp;
    return true;
}

static bool fill_quorum_node(struct request *rq, struct describe_quorum_response *p)
{
    p->nodes = codec_new_array(&describe_quorum_response_nodes_message, &rq->arena, 1);
    struct describe_quorum_response_nodes_listeners *l =
        codec_new_array(&describe_quorum_response_nodes_listeners_message, &rq->arena, 1);
    if (p->nodes == NULL || l == NULL) {
        return false;
    }
    p->nodes_count = 1;
    p->nodes[0].node_id = rq->server->config.server.node_id;
    p->nodes[0].listeners = l;
    p->nodes[0].listeners_count = 1;
    l->name = kstr_make("PLAINTEXT");
    l->host = kstr_make(request_advertised_host(rq));
    l->port = (uint16_t)request_advertised_port(rq);
    return true;
}

/* Is it the one partition that a quorum has, and nothing else? Kafka describes no other, and that
 * one only alone. */
static bool asks_for_quorum(const struct describe_quorum_request *q)
{
    return q->topics_count == 1 &&
           slice_eq(kstr_slice(q->topics[0].topic_name), slice_str(QUORUM_TOPIC)) &&
           q->topics[0].partitions_count == 1 && q->topics[0].partitions[0].partition_index == 0;
}

static bool fill_quorums(struct request *rq, struct describe_quorum_response *p)
{
    const struct describe_quorum_request *q = rq->body;
    bool known = asks_for_quorum(q);
    p->topics =
        codec_new_array(&describe_quorum_response_topics_message, &rq->arena, q->topics_count);
    p->topics_count = p->topics != NULL ? q->topics_count : 0;
    bool whole = p->topics != NULL;
    for (int32_t i = 0; i < p->topics_count && whole; i++) {
        const struct describe_quorum_request_topics *from = &q->topics[i];
        struct describe_quorum_response_topics *to = &p->topics[i];
        to->topic_name = from->topic_name;
        to->partitions = codec_new_array(&describe_quorum_response_topics_partitions_message,
                                         &rq->arena, from->partitions_count);
        whole = to->partitions != NULL;
        for (int32_t k = 0; k < from->partitions_count && whole; k++) {
            struct describe_quorum_response_topics_partitions *out =
                &to->partitions[to->partitions_count++];
            out->partition_index = from->partitions[k].partition_index;
            if (known) {
                whole = fill_quorum(rq, out);
            } else {
                out->error_code = KERR_UNKNOWN_TOPIC_OR_PARTITION;
                out->error_message = kstr_make("This server does not host this topic-partition.");
            }
        }
    }
    bool nodes = known && rq->header.api_version >= 2;
    return whole && (!nodes || fill_quorum_node(rq, p));
}

void api_describe_quorum(struct request *rq)
{
    struct describe_quorum_response p;
    codec_init(&describe_quorum_response_message, &p);
    if (!fill_quorums(rq, &p)) {
        request_close_too_large(rq);
        return;
    }
    request_reply(rq, &p);
}

/* --- DescribeClientQuotas -------------------------------------------------------------------- */

enum { MATCH_EXACT = 0, MATCH_DEFAULT = 1, MATCH_SPECIFIED = 2 };
enum { ENTITY_USER, ENTITY_CLIENT_ID, ENTITY_IP, ENTITY_COUNT };

static const char *const entities[ENTITY_COUNT] = {"user", "client-id", "ip"};

static int entity_find(struct kstr type)
{
    int i = 0;
    while (i < ENTITY_COUNT && !slice_eq(kstr_slice(type), slice_str(entities[i]))) {
        i++;
    }
    return i;
}

/* What is wrong with one component of the filter; len -1: nothing. */
static struct kstr component_wrong(struct request *rq,
                                   const struct describe_client_quotas_request_components *c,
                                   bool *seen, enum kerr *error)
{
    int entity = entity_find(c->entity_type);
    *error = KERR_INVALID_REQUEST;
    if (c->entity_type.len == 0) {
        return kstr_make("Invalid empty entity type.");
    }
    if (entity == ENTITY_COUNT) {
        *error = KERR_UNSUPPORTED_VERSION;
        return request_text(rq, "Unsupported entity type %.*s", c->entity_type.len,
                            c->entity_type.data);
    }
    if (seen[entity]) {
        return request_text(rq, "Entity type %s cannot appear more than once in the filter.",
                            entities[entity]);
    }
    seen[entity] = true;
    if (c->match_type == MATCH_EXACT && c->match.len < 0) {
        return kstr_make("Request specified MATCH_TYPE_EXACT, but set match string to null.");
    }
    if (c->match_type == MATCH_DEFAULT && c->match.len >= 0) {
        return kstr_make(
            "Request specified MATCH_TYPE_DEFAULT, but also specified a match string.");
    }
    if (c->match_type == MATCH_SPECIFIED && c->match.len >= 0) {
        return kstr_make(
            "Request specified MATCH_TYPE_SPECIFIED, but also specified a match string.");
    }
    if (c->match_type < MATCH_EXACT || c->match_type > MATCH_SPECIFIED) {
        return request_text(rq, "Unknown match type %d", c->match_type);
    }
    return kstr_make(NULL);
}

void api_describe_client_quotas(struct request *rq)
{
    const struct describe_client_quotas_request *q = rq->body;
    struct describe_client_quotas_response p;
    codec_init(&describe_client_quotas_response_message, &p);
    bool seen[ENTITY_COUNT] = {0};
    enum kerr error = KERR_NONE;
    struct kstr wrong = kstr_make(NULL);
    for (int32_t i = 0; i < q->components_count && wrong.len < 0; i++) {
        wrong = component_wrong(rq, &q->components[i], seen, &error);
    }
    if (wrong.len < 0 && seen[ENTITY_IP] && (seen[ENTITY_USER] || seen[ENTITY_CLIENT_ID])) {
        error = KERR_INVALID_REQUEST;
        wrong = kstr_make("Invalid entity filter component combination. IP filter component should "
                          "not be used with user or clientId filter component.");
    }
    p.error_message = kstr_make("");
    if (wrong.len >= 0) {
        p.error_code = (int16_t)error;
        p.error_message = wrong;
        p.entries_count = -1;
    }
    request_reply(rq, &p);
}

/* --- DescribeUserScramCredentials ------------------------------------------------------------ */

static int compare_users(const void *a, const void *b)
{
    const struct describe_user_scram_credentials_request_users *x = a, *y = b;
    return slice_compare(kstr_slice(x->name), kstr_slice(y->name));
}

/* Each user once, however often it is asked for: there is none. */
static bool fill_users(struct request *rq, struct describe_user_scram_credentials_response *p)
{
    const struct describe_user_scram_credentials_request *q = rq->body;
    int32_t count = q->users_count > 0 ? q->users_count : 0;
    p->results = codec_new_array(&describe_user_scram_credentials_response_results_message,
                                 &rq->arena, count);
    if (p->results == NULL) {
        return false;
    }
    if (count > 1) {
        qsort(q->users, (size_t)count, sizeof *q->users, compare_users);
    }
    for (int32_t i = 0; i < count; i++) {
        struct kstr name = q->users[i].name;
        bool again = i > 0 && compare_users(&q->users[i - 1], &q->users[i]) == 0;
        bool twice = i + 1 < count && compare_users(&q->users[i], &q->users[i + 1]) == 0;
        if (again) {
            continue;
        }
        struct describe_user_scram_credentials_response_results *out =
            &p->results[p->results_count++];
        out->user = name;
        out->error_code = twice ? KERR_DUPLICATE_RESOURCE : KERR_RESOURCE_NOT_FOUND;
        out->error_message = request_text(
            rq, "%s%.*s",
            twice
                ? "Cannot describe SCRAM credentials for the same user twice in a single request: "
                : "Attempt to describe a user credential that does not exist: ",
            name.len, name.data);
        if (out->error_message.len < 0) {
            return false;
        }
    }
    return true;
}

void api_describe_user_scram_credentials(struct request *rq)
{
    struct describe_user_scram_credentials_response p;
    codec_init(&describe_user_scram_credentials_response_message, &p);
    p.error_message = kstr_make("");
    if (!fill_users(rq, &p)) {
        request_close_too_large(rq);
        return;
    }
    request_reply(rq, &p);
}

/* --- DescribeAcls ---------------------------------------------------------------------------- */

/* A filter that means nothing (0) costs the connection, as in Kafka. */
void api_describe_acls(struct request *rq)
{
    const struct describe_acls_request *q = rq->body;
    struct describe_acls_response p;
    codec_init(&describe_acls_response_message, &p);
    if (q->resource_type_filter == 0 || q->pattern_type_filter == 0 || q->operation == 0 ||
        q->permission_type == 0) {
        request_close(rq, "asked for ACLs with a filter that means nothing");
        return;
    }
    p.error_code = KERR_SECURITY_DISABLED;
    p.error_message = kstr_make("No Authorizer is configured on the broker");
    request_reply(rq, &p);
}

/* --- client metrics (KIP-714) ---------------------------------------------------------------- */

#define TELEMETRY_INTERVAL_MS (5 * 60 * 1000)
#define TELEMETRY_BYTES_MAX   (1 << 20)

/* As Kafka without a plugin that takes metrics: not offered by ApiVersions, but whoever asks hears
 * that none are wanted, and when to ask again. */
void api_get_telemetry_subscriptions(struct request *rq)
{
    const struct get_telemetry_subscriptions_request *q = rq->body;
    struct get_telemetry_subscriptions_response p;
    static int8_t codecs[] = {4, 3, 1, 2}; /* zstd, lz4, gzip, snappy */
    codec_init(&get_telemetry_subscriptions_response_message, &p);
    p.client_instance_id =
        uuid_is_zero(&q->client_instance_id) ? uuid_random() : q->client_instance_id;
    p.subscription_id = 1;
    p.accepted_compression_types = codecs;
    p.accepted_compression_types_count = sizeof codecs / sizeof *codecs;
    p.push_interval_ms = TELEMETRY_INTERVAL_MS;
    p.telemetry_max_bytes = TELEMETRY_BYTES_MAX;
    p.delta_temporality = true;
    request_reply(rq, &p);
}

void api_push_telemetry(struct request *rq)
{
    const struct push_telemetry_request *q = rq->body;
    struct push_telemetry_response p;
    codec_init(&push_telemetry_response_message, &p);
    p.error_code =
        uuid_is_zero(&q->client_instance_id) ? KERR_INVALID_REQUEST : KERR_UNKNOWN_SUBSCRIPTION_ID;
    request_reply(rq, &p);
}
