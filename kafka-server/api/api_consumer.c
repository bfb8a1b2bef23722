/* The requests of the consumer protocol (KIP-848): ConsumerGroupHeartbeat, ConsumerGroupDescribe.
 *
 * A heartbeat is answered after the commit that holds what it changed; what the answer borrows of
 * the group is copied into the request's arena first, because the group may be another one by
 * then. */
#include "kafka-server/api/api_wait.h"
#include "kafka-server/broker/coordinator.h"
#include "kafka-server/broker/topics.h"
#include "kafka-server/server.h"
#include "kafka_messages.h"

static const char no_memory[] = "no memory for its answer";

/* --- ConsumerGroupHeartbeat ------------------------------------------------------------------ */

static int32_t set_topic_count(const struct partition_set *s)
{
    int32_t n = 0;
    for (int32_t at = 0; at < s->count; at += partition_set_run(s, at)) {
        n++;
    }
    return n;
}

/* The numbers of a run of one topic; NULL: without memory. */
static int32_t *copy_run(struct request *rq, const struct partition_set *s, int32_t at, int32_t run)
{
    int32_t *list = arena_array(&rq->arena, (size_t)run, sizeof *list);
    for (int32_t i = 0; list != NULL && i < run; i++) {
        list[i] = s->list[at + i].partition;
    }
    return list;
}

static bool put_assignment(struct request *rq, const struct partition_set *s,
                           struct consumer_group_heartbeat_response *p)
{
    struct consumer_group_heartbeat_response_assignment *a = arena_alloc(&rq->arena, sizeof *a);
    if (a == NULL) {
        return false;
    }
    codec_init(&consumer_group_heartbeat_response_assignment_message, a);
    a->topic_partitions =
        codec_new_array(&consumer_group_heartbeat_response_assignment_topic_partitions_message,
                        &rq->arena, set_topic_count(s));
    if (a->topic_partitions == NULL) {
        return false;
    }
    for (int32_t at = 0, run; at < s->count; at += run) {
        run = partition_set_run(s, at);
        struct consumer_group_heartbeat_response_assignment_topic_partitions *t =
            &a->topic_partitions[a->topic_partitions_count++];
        t->topic_id = s->list[at].topic;
        t->partitions_count = run;
        t->partitions = copy_run(rq, s, at, run);
        if (t->partitions == NULL) {
            return false;
        }
    }
    p->assignment = a;
    return true;
}

/* False: there are too many, or no memory. Null: *owned is nothing that was said. */
static bool read_owned(const struct consumer_group_heartbeat_request *q, struct partition_set *s)
{
    bool ok = true;
    int64_t left = CGROUP_PARTITIONS_MAX;
    for (int32_t i = 0; ok && i < q->topic_partitions_count; i++) {
        left -= q->topic_partitions[i].partitions_count;
        ok = left >= 0;
        for (int32_t k = 0; ok && k < q->topic_partitions[i].partitions_count; k++) {
            partition_set_append(s, &q->topic_partitions[i].topic_id,
                                 q->topic_partitions[i].partitions[k], &ok);
        }
    }
    partition_set_sort(s);
    return ok;
}

static bool read_request(struct request *rq, struct cgroup_heartbeat *ev)
{
    const struct consumer_group_heartbeat_request *q = rq->body;
    int32_t count = q->subscribed_topic_names_count;
    struct slice *names = arena_array(&rq->arena, count > 0 ? (size_t)count : 1, sizeof *names);
    const char *peer = request_peer_host(rq);
    char *host = arena_alloc(&rq->arena, strlen(peer) + 2);
    if (names == NULL || host == NULL) {
        return false;
    }
    for (int32_t i = 0; i < count; i++) {
        names[i] = str_slice(q->subscribed_topic_names[i]);
    }
    host[0] = '/';
    memcpy(host + 1, peer, strlen(peer) + 1);
    *ev = (struct cgroup_heartbeat){
        .member_id = str_slice(q->member_id),
        .member_epoch = q->member_epoch,
        .instance_id = opt_slice(q->instance_id),
        .rack_id = opt_slice(q->rack_id),
        .client_id = str_slice(rq->header.client_id),
        .client_host = slice_str(host),
        .rebalance_timeout_ms = q->rebalance_timeout_ms,
        .topics = names,
        .topic_count = count,
        .regex = rq->header.api_version >= 1 ? opt_slice(q->subscribed_topic_regex)
                                             : slice_make(NULL, 0),
        .assignor = opt_slice(q->server_assignor),
    };
    return true;
}

static bool fill_heartbeat(struct request *rq, const struct cgroup_reply *r,
                           struct consumer_group_heartbeat_response *p)
{
    const struct consumer_group_heartbeat_request *q = rq->body;
    p->error_code = (int16_t)r->error;
    p->error_message = kstr_make(r->why);
    p->heartbeat_interval_ms = 0;
    if (r->error != KERR_NONE) {
        return true;
    }
    const char *id = arena_strndup(&rq->arena, (const char *)r->member_id.data, r->member_id.len);
    p->member_id = slice_kstr(slice_make(id, r->member_id.len));
    p->member_epoch = r->member_epoch;
    if (r->member_epoch >= 0) {
        p->heartbeat_interval_ms = coordinator_heartbeat_interval_ms(rq->server->coordinator,
                                                                     str_slice(q->group_id));
    }
    return id != NULL && (r->assigned == NULL || put_assignment(rq, r->assigned, p));
}

void api_consumer_group_heartbeat(struct request *rq)
{
    const struct consumer_group_heartbeat_request *q = rq->body;
    struct consumer_group_heartbeat_response *p = arena_alloc(&rq->arena, sizeof *p);
    struct consumer_group_heartbeat_response *failed = arena_alloc(&rq->arena, sizeof *failed);
    struct partition_set owned = {0};
    struct cgroup_heartbeat ev;
    struct cgroup_reply r;
    if (p == NULL || failed == NULL || !read_request(rq, &ev) || !read_owned(q, &owned)) {
        partition_set_fini(&owned);
        request_close(rq, no_memory);
        return;
    }
    codec_init(&consumer_group_heartbeat_response_message, p);
    codec_init(&consumer_group_heartbeat_response_message, failed);
    failed->error_code = KERR_COORDINATOR_NOT_AVAILABLE;
    ev.owned = q->topic_partitions_count >= 0 ? &owned : NULL;
    coordinator_consumer_heartbeat(rq->server->coordinator, str_slice(q->group_id), &ev,
                                   rq->header.api_version >= 1, &r);
    bool ok = fill_heartbeat(rq, &r, p);
    partition_set_fini(&owned);
    if (!ok) {
        request_close(rq, no_memory);
        return;
    }
    request_reply_committed(rq, p, failed);
}

/* --- ConsumerGroupDescribe ------------------------------------------------------------------- */

/* Read, delete and describe: what anybody may do with a group while there are no ACLs. */
#define GROUP_OPERATIONS (1 << 3 | 1 << 6 | 1 << 8)

enum { MEMBER_CLASSIC = 0, MEMBER_CONSUMER = 1 };

/* Topics that are gone have no name and are left out. Both assignments of a member have structs
 * alike, but not the same. */
#define DESCRIBE_SET(kind)                                                                         \
    static bool describe_##kind(                                                                   \
        struct request *rq, const struct partition_set *s,                                         \
        struct consumer_group_describe_response_groups_members_##kind *out)                        \
    {                                                                                              \
        out->topic_partitions = codec_new_array(                                                   \
            &consumer_group_describe_response_groups_members_##kind##_topic_partitions_message,    \
            &rq->arena, set_topic_count(s));                                                       \
        bool ok = out->topic_partitions != NULL;                                                   \
        for (int32_t at = 0, run; ok && at < s->count; at += run) {                                \
            run = partition_set_run(s, at);                                                        \
            const struct topic *t = topics_find_id(rq->server->topics, &s->list[at].topic);        \
            if (t != NULL) {                                                                       \
                struct consumer_group_describe_response_groups_members_##kind##_topic_partitions   \
                    *to = &out->topic_partitions[out->topic_partitions_count++];                   \
                to->topic_id = s->list[at].topic;                                                  \
                to->topic_name = kstr_make(t->row->name);                                          \
                to->partitions_count = run;                                                        \
                to->partitions = copy_run(rq, s, at, run);                                         \
                ok = to->partitions != NULL;                                                       \
            }                                                                                      \
        }                                                                                          \
        return ok;                                                                                 \
    }
DESCRIBE_SET(assignment)
DESCRIBE_SET(target_assignment)

static bool describe_member(struct request *rq, const struct cgroup_member *m,
                            struct consumer_group_describe_response_groups_members *out)
{
    int32_t topics = m->topics != NULL ? m->topics->count : 0;
    out->member_id = slice_kstr(m->id);
    out->instance_id = slice_kstr(m->instance_id);
    out->rack_id = slice_kstr(m->rack_id);
    out->member_epoch = m->epoch;
    out->client_id = slice_kstr_or_empty(m->client_id);
    out->client_host = slice_kstr_or_empty(m->client_host);
    out->subscribed_topic_regex = slice_kstr_or_empty(m->regex);
    out->member_type = m->protocols != NULL ? MEMBER_CLASSIC : MEMBER_CONSUMER;
    out->subscribed_topic_names =
        arena_array(&rq->arena, topics > 0 ? (size_t)topics : 1, sizeof(struct kstr));
    if (out->subscribed_topic_names == NULL) {
        return false;
    }
    out->subscribed_topic_names_count = topics;
    for (int32_t i = 0; i < topics; i++) {
        out->subscribed_topic_names[i] = slice_kstr_or_empty(m->topics->list[i]);
    }
    return describe_assignment(rq, &m->assigned, &out->assignment) &&
           describe_target_assignment(rq, &m->target, &out->target_assignment);
}

static bool describe_group(struct request *rq, struct consumer_group_describe_response_groups *out,
                           struct kstr id)
{
    const struct consumer_group_describe_request *q = rq->body;
    const struct coordinator *c = rq->server->coordinator;
    const struct cgroup *g = coordinator_find_consumer(c, str_slice(id));
    out->group_id = id;
    out->group_state = out->assignor_name = kstr_make("");
    if (c == NULL || g == NULL) {
        bool classic = c != NULL && coordinator_find(c, str_slice(id)) != NULL;
        out->error_code = c == NULL     ? KERR_COORDINATOR_NOT_AVAILABLE
                          : id.len == 0 ? KERR_INVALID_GROUP_ID
                                        : KERR_GROUP_ID_NOT_FOUND;
        out->error_message = kstr_make(c == NULL || id.len == 0 ? NULL
                                       : classic ? "The group is not a consumer group."
                                                 : "There is no such group.");
        return true;
    }
    out->group_state = kstr_make(cgroup_state_name(cgroup_state(g)));
    out->group_epoch = g->epoch;
    out->assignment_epoch = g->target_epoch;
    out->assignor_name = kstr_make(assignor_name(cgroup_assignor(g)));
    if (q->include_authorized_operations) {
        out->authorized_operations = GROUP_OPERATIONS;
    }
    out->members = codec_new_array(&consumer_group_describe_response_groups_members_message,
                                   &rq->arena, g->member_count);
    bool ok = out->members != NULL;
    for (const struct cgroup_member *m = g->members; ok && m != NULL; m = m->hh.next) {
        ok = describe_member(rq, m, &out->members[out->members_count++]);
    }
    return ok;
}

void api_consumer_group_describe(struct request *rq)
{
    const struct consumer_group_describe_request *q = rq->body;
    struct consumer_group_describe_response p;
    codec_init(&consumer_group_describe_response_message, &p);
    p.groups = codec_new_array(&consumer_group_describe_response_groups_message, &rq->arena,
                               q->group_ids_count);
    bool ok = p.groups != NULL;
    p.groups_count = q->group_ids_count;
    for (int32_t i = 0; ok && i < q->group_ids_count; i++) {
        ok = describe_group(rq, &p.groups[i], q->group_ids[i]);
    }
    if (!ok) {
        request_close(rq, no_memory);
        return;
    }
    request_reply(rq, &p);
}
