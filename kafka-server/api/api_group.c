/* The requests of consumer groups: frames' structs in, coordinator calls, frames' structs out.
 *
 * Joins and syncs are parked in the coordinator as a group_call, which lives in the request's
 * arena. Everything that changes a group is answered after the commit that holds it. What is only
 * read is answered at once, straight from the coordinator's memory: request_reply encodes before it
 * returns. */
#include <strings.h>

#include "kafka_messages.h"
#include "kafka-server/api/api_wait.h"
#include "kafka-server/broker/coordinator.h"
#include "kafka-server/broker/transactions.h"
#include "kafka-server/server.h"

static const char no_memory[] = "no memory for its answer";

/* --- FindCoordinator ------------------------------------------------------------------------- */

enum { KEY_TYPE_GROUP = 0, KEY_TYPE_TRANSACTION = 1 };

static enum kerr coordinator_for(const struct request *rq, int8_t key_type, const char **why)
{
    *why = NULL;
    if (key_type == KEY_TYPE_GROUP || key_type == KEY_TYPE_TRANSACTION) {
        if (rq->server->coordinator == NULL) {
            *why = "The server's own store is not open yet.";
            return KERR_COORDINATOR_NOT_AVAILABLE;
        }
        return KERR_NONE;
    }
    *why = "Unknown type of coordinator.";
    return KERR_INVALID_REQUEST;
}

void api_find_coordinator(struct request *rq)
{
    const struct find_coordinator_request *q = rq->body;
    struct find_coordinator_response p;
    codec_init(&find_coordinator_response_message, &p);
    const char *why;
    enum kerr e = coordinator_for(rq, q->key_type, &why);
    bool ok = e == KERR_NONE;
    const struct find_coordinator_response_coordinators at = {
        .node_id = ok ? rq->server->config.server.node_id : -1,
        .host = ok ? kstr_make(request_advertised_host(rq)) : kstr_make(""),
        .port = ok ? request_advertised_port(rq) : -1,
        .error_code = (int16_t)e,
        .error_message = kstr_make(ok ? "" : why),
    };
    if (rq->header.api_version < 4) {
        p.error_code = at.error_code;
        p.error_message = ok ? kstr_make("NONE") : at.error_message; /* Kafka's word for it */
        p.node_id = at.node_id;
        p.host = at.host;
        p.port = at.port;
        request_reply(rq, &p);
        return;
    }
    p.coordinators = codec_new_array(&find_coordinator_response_coordinators_message, &rq->arena,
                                     q->coordinator_keys_count);
    if (p.coordinators == NULL) {
        request_close(rq, no_memory);
        return;
    }
    p.coordinators_count = q->coordinator_keys_count;
    for (int32_t i = 0; i < q->coordinator_keys_count; i++) {
        p.coordinators[i] = at;
        p.coordinators[i].key = q->coordinator_keys[i];
    }
    request_reply(rq, &p);
}

/* --- JoinGroup ------------------------------------------------------------------------------- */

/* A parked join or sync; in the request's arena. */
struct parked {
    struct group_call call; /* first: the callbacks cast back */
    struct request *rq;
    bool failed; /* no memory for the answer */
    union {
        struct join_group_response join;
        struct sync_group_response sync;
    };
};

static void parked_cancel(struct request *rq)
{
    struct parked *x = rq->parked;
    coordinator_cancel(rq->server->coordinator, &x->call);
}

static struct slice keep(struct parked *x, struct slice s)
{
    if (s.data == NULL) {
        return s;
    }
    const char *copy = arena_strndup(&x->rq->arena, (const char *)s.data, s.len);
    x->failed = x->failed || copy == NULL;
    return slice_make(copy, copy != NULL ? s.len : 0);
}

static struct kbytes keep_bytes(struct parked *x, struct slice s)
{
    struct slice copy = keep(x, s.data != NULL ? s : slice_make("", 0));
    return (struct kbytes){copy.data, (int32_t)copy.len};
}

static void join_members(struct parked *x, const struct group *g)
{
    x->join.members =
        codec_new_array(&join_group_response_members_message, &x->rq->arena, g->member_count);
    if (x->join.members == NULL) {
        x->failed = true;
        return;
    }
    for (const struct group_member *m = g->members; m != NULL; m = m->hh.next) {
        struct join_group_response_members *out = &x->join.members[x->join.members_count++];
        out->member_id = slice_kstr(keep(x, m->id));
        out->group_instance_id = slice_kstr(keep(x, m->instance_id));
        out->metadata = keep_bytes(x, group_member_metadata(g, m));
    }
}

static void join_error(struct parked *x, enum kerr e)
{
    struct kstr member_id = x->join.member_id;
    codec_init(&join_group_response_message, &x->join);
    x->join.error_code = (int16_t)e;
    x->join.member_id = member_id.len >= 0 ? member_id : kstr_make("");
    x->join.generation_id = -1;
    /* Null came with version 7. */
    x->join.protocol_name = kstr_make(x->rq->header.api_version >= 7 ? NULL : "");
}

static void join_prepare(struct group_call *call, const struct group_reply *r)
{
    struct parked *x = (struct parked *)call;
    x->join.member_id = slice_kstr_or_empty(keep(x, r->member_id));
    if (r->error != KERR_NONE) {
        join_error(x, r->error);
        return;
    }
    const struct group *g = r->group;
    x->join.generation_id = g->generation;
    x->join.protocol_name = slice_kstr_or_empty(keep(x, g->protocol_name));
    x->join.leader = slice_kstr_or_empty(keep(x, r->leader_id));
    x->join.skip_assignment = r->skip_assignment;
    if (x->rq->header.api_version >= 7) {
        x->join.protocol_type = slice_kstr(keep(x, g->protocol_type));
    }
    if (r->with_members) {
        join_members(x, g);
    }
}

static void join_send(struct group_call *call, enum kerr e)
{
    struct parked *x = (struct parked *)call;
    if (e != KERR_NONE) {
        join_error(x, e);
    }
    if (x->failed) {
        request_close(x->rq, no_memory);
    } else {
        request_reply(x->rq, &x->join);
    }
}

static const struct group_protocol *join_protocols(struct request *rq,
                                                   const struct join_group_request *q)
{
    struct group_protocol *list = arena_array(&rq->arena, (size_t)q->protocols_count, sizeof *list);
    for (int32_t i = 0; list != NULL && i < q->protocols_count; i++) {
        list[i].name = str_slice(q->protocols[i].name);
        list[i].metadata = slice_make(
            q->protocols[i].metadata.data,
            (size_t)(q->protocols[i].metadata.len > 0 ? q->protocols[i].metadata.len : 0));
    }
    return list;
}

static struct parked *park(struct request *rq)
{
    struct parked *x = arena_alloc(&rq->arena, sizeof *x);
    if (x != NULL) {
        x->rq = rq;
        rq->parked = x;
        rq->cancel = parked_cancel;
    }
    return x;
}

void api_join_group(struct request *rq)
{
    const struct join_group_request *q = rq->body;
    int16_t version = rq->header.api_version;
    struct parked *x = park(rq);
    const struct group_protocol *protocols = join_protocols(rq, q);
    const char *peer = request_peer_host(rq);
    char *host = arena_alloc(&rq->arena, strlen(peer) + 2);
    if (x == NULL || protocols == NULL || host == NULL) {
        rq->cancel = NULL;
        request_close(rq, no_memory);
        return;
    }
    host[0] = '/';
    memcpy(host + 1, peer, strlen(peer) + 1);
    x->call.prepare = join_prepare;
    x->call.send = join_send;
    codec_init(&join_group_response_message, &x->join);
    struct group_join ev = {
        .member_id = str_slice(q->member_id),
        .instance_id = opt_slice(q->group_instance_id),
        .client_id = str_slice(rq->header.client_id),
        .client_host = slice_str(host),
        .protocol_type = str_slice(q->protocol_type),
        .protocols = protocols,
        .protocol_count = q->protocols_count,
        .session_timeout_ms = q->session_timeout_ms,
        .rebalance_timeout_ms =
            q->rebalance_timeout_ms >= 0 ? q->rebalance_timeout_ms : q->session_timeout_ms,
        .id_required = version >= 4,
        .skip_assignment = version >= 9,
    };
    coordinator_join(rq->server->coordinator, str_slice(q->group_id), &ev, &x->call);
}

/* --- SyncGroup ------------------------------------------------------------------------------- */

static void sync_error(struct parked *x, enum kerr e)
{
    codec_init(&sync_group_response_message, &x->sync);
    x->sync.error_code = (int16_t)e;
    x->sync.assignment = (struct kbytes){(const uint8_t *)"", 0};
}

static void sync_prepare(struct group_call *call, const struct group_reply *r)
{
    struct parked *x = (struct parked *)call;
    if (r->error != KERR_NONE) {
        sync_error(x, r->error);
        return;
    }
    x->sync.assignment = keep_bytes(x, r->member->assignment);
    if (x->rq->header.api_version >= 5) {
        x->sync.protocol_type = slice_kstr(keep(x, r->group->protocol_type));
        x->sync.protocol_name = slice_kstr(keep(x, r->group->protocol_name));
    }
}

static void sync_send(struct group_call *call, enum kerr e)
{
    struct parked *x = (struct parked *)call;
    if (e != KERR_NONE) {
        sync_error(x, e);
    }
    if (x->failed) {
        request_close(x->rq, no_memory);
    } else {
        request_reply(x->rq, &x->sync);
    }
}

enum { SYNC_NAMES_PROTOCOL = 5 }; /* from this version on the protocol must be named (KIP-559) */

void api_sync_group(struct request *rq)
{
    const struct sync_group_request *q = rq->body;
    if (rq->header.api_version >= SYNC_NAMES_PROTOCOL &&
        (q->protocol_type.len < 0 || q->protocol_name.len < 0)) {
        struct sync_group_response p;
        codec_init(&sync_group_response_message, &p);
        p.error_code = KERR_INCONSISTENT_GROUP_PROTOCOL;
        p.assignment = (struct kbytes){(const uint8_t *)"", 0};
        request_reply(rq, &p);
        return;
    }
    struct parked *x = park(rq);
    struct group_assignment *list =
        arena_array(&rq->arena, (size_t)q->assignments_count, sizeof *list);
    if (x == NULL || list == NULL) {
        rq->cancel = NULL;
        request_close(rq, no_memory);
        return;
    }
    for (int32_t i = 0; i < q->assignments_count; i++) {
        struct kbytes b = q->assignments[i].assignment;
        list[i].member_id = str_slice(q->assignments[i].member_id);
        list[i].bytes = slice_make(b.data, b.len > 0 ? (size_t)b.len : 0);
    }
    x->call.prepare = sync_prepare;
    x->call.send = sync_send;
    codec_init(&sync_group_response_message, &x->sync);
    struct group_sync ev = {
        .generation = q->generation_id,
        .member_id = str_slice(q->member_id),
        .instance_id = opt_slice(q->group_instance_id),
        .protocol_type = opt_slice(q->protocol_type),
        .protocol_name = opt_slice(q->protocol_name),
        .assignments = list,
        .assignment_count = q->assignments_count,
    };
    coordinator_sync(rq->server->coordinator, str_slice(q->group_id), &ev, &x->call);
}

/* --- Heartbeat, LeaveGroup ------------------------------------------------------------------- */

void api_heartbeat(struct request *rq)
{
    const struct heartbeat_request *q = rq->body;
    struct heartbeat_response p;
    codec_init(&heartbeat_response_message, &p);
    p.error_code = (int16_t)coordinator_heartbeat(rq->server->coordinator, str_slice(q->group_id),
                                                  q->generation_id, str_slice(q->member_id),
                                                  opt_slice(q->group_instance_id));
    request_reply(rq, &p);
}

static struct leave_group_response *leave_response(struct request *rq, enum kerr e)
{
    struct leave_group_response *p = arena_alloc(&rq->arena, sizeof *p);
    if (p != NULL) {
        codec_init(&leave_group_response_message, p);
        p->error_code = (int16_t)e;
    }
    return p;
}

void api_leave_group(struct request *rq)
{
    const struct leave_group_request *q = rq->body;
    struct coordinator *c = rq->server->coordinator;
    struct slice group_id = str_slice(q->group_id);
    struct leave_group_response *p = leave_response(rq, KERR_NONE);
    struct leave_group_response *failed = leave_response(rq, KERR_COORDINATOR_NOT_AVAILABLE);
    bool ok = p != NULL && failed != NULL;
    if (ok && rq->header.api_version < 3) {
        p->error_code =
            (int16_t)coordinator_leave(c, group_id, str_slice(q->member_id), slice_make(NULL, 0));
    } else if (ok) {
        p->members =
            codec_new_array(&leave_group_response_members_message, &rq->arena, q->members_count);
        ok = p->members != NULL;
        p->members_count = ok ? q->members_count : 0;
        for (int32_t i = 0; ok && i < q->members_count; i++) {
            const struct leave_group_request_members *m = &q->members[i];
            enum kerr e = coordinator_leave(c, group_id, str_slice(m->member_id),
                                            opt_slice(m->group_instance_id));
            p->members[i].member_id = m->member_id;
            p->members[i].group_instance_id = m->group_instance_id;
            p->members[i].error_code = (int16_t)e;
            if (e == KERR_INVALID_GROUP_ID || e == KERR_COORDINATOR_NOT_AVAILABLE) {
                p->error_code = (int16_t)e; /* of the group, not of the member */
                p->members_count = 0;
                break;
            }
        }
    }
    if (!ok) {
        request_close(rq, no_memory);
        return;
    }
    request_reply_committed(rq, p, failed);
}

/* --- DescribeGroups -------------------------------------------------------------------------- */

/* Read, delete, describe, and describe and alter configs: what anybody may do with a group while
 * there are no ACLs. */
#define GROUP_OPERATIONS (1 << 3 | 1 << 6 | 1 << 8 | 1 << 10 | 1 << 11)

static bool describe_members(struct request *rq, struct describe_groups_response_groups *out,
                             const struct group *g)
{
    out->members = codec_new_array(&describe_groups_response_groups_members_message, &rq->arena,
                                   g->member_count);
    if (out->members == NULL) {
        return false;
    }
    bool stable = g->state == GROUP_STABLE; /* what they have is only settled then */
    for (const struct group_member *m = g->members; m != NULL; m = m->hh.next) {
        struct describe_groups_response_groups_members *to = &out->members[out->members_count++];
        struct slice metadata = stable ? group_member_metadata(g, m) : slice_make("", 0);
        to->member_id = slice_kstr(m->id);
        to->group_instance_id = slice_kstr(m->instance_id);
        to->client_id = slice_kstr_or_empty(m->client_id);
        to->client_host = slice_kstr_or_empty(m->client_host);
        to->member_metadata = (struct kbytes){metadata.data, (int32_t)metadata.len};
        to->member_assignment = (struct kbytes){m->assignment.data, (int32_t)m->assignment.len};
        if (!stable || m->assignment.len == 0) {
            to->member_assignment = (struct kbytes){(const uint8_t *)"", 0};
        }
    }
    return true;
}

static bool describe_group(struct request *rq, struct describe_groups_response_groups *out,
                           struct kstr id)
{
    const struct describe_groups_request *q = rq->body;
    const struct group *g = coordinator_find(rq->server->coordinator, str_slice(id));
    out->group_id = id;
    if (q->include_authorized_operations) {
        out->authorized_operations = GROUP_OPERATIONS;
    }
    if (rq->server->coordinator == NULL) {
        out->error_code = KERR_COORDINATOR_NOT_AVAILABLE;
        return true;
    }
    if (g == NULL || g->state == GROUP_DEAD) {
        out->group_state = kstr_make(group_state_name(GROUP_DEAD));
        out->protocol_type = out->protocol_data = kstr_make("");
        if (rq->header.api_version >= 6) {
            out->error_code = KERR_GROUP_ID_NOT_FOUND;
            out->error_message = kstr_make("There is no such group.");
        }
        return true;
    }
    out->group_state = kstr_make(group_state_name(g->state));
    out->protocol_type = slice_kstr_or_empty(g->protocol_type);
    out->protocol_data = slice_kstr_or_empty(g->protocol_name);
    if (g->state != GROUP_STABLE) {
        out->protocol_data = kstr_make("");
    }
    return describe_members(rq, out, g);
}

void api_describe_groups(struct request *rq)
{
    const struct describe_groups_request *q = rq->body;
    struct describe_groups_response p;
    codec_init(&describe_groups_response_message, &p);
    p.groups =
        codec_new_array(&describe_groups_response_groups_message, &rq->arena, q->groups_count);
    bool ok = p.groups != NULL;
    p.groups_count = q->groups_count;
    for (int32_t i = 0; ok && i < q->groups_count; i++) {
        ok = describe_group(rq, &p.groups[i], q->groups[i]);
    }
    if (!ok) {
        request_close(rq, no_memory);
        return;
    }
    request_reply(rq, &p);
}

/* --- ListGroups ------------------------------------------------------------------------------ */


/* An empty filter lets everything pass; Kafka compares without case. */
static bool filter_passes(const struct kstr *list, int32_t count, const char *text)
{
    for (int32_t i = 0; i < count; i++) {
        if (list[i].len == (int32_t)strlen(text) &&
            strncasecmp(list[i].data, text, (size_t)list[i].len) == 0) {
            return true;
        }
    }
    return count <= 0;
}

/* What is wanted is found out once: there may be millions of filters, and many groups. */
struct listing {
    struct list_groups_response *p;
    unsigned states, consumer_states; /* a bit for each */
    bool classic, consumer;
};

static struct listing listing_of(const struct list_groups_request *q,
                                 struct list_groups_response *p)
{
    struct listing l = {.p = p};
    for (unsigned s = 0; s < GROUP_STATES; s++) {
        const char *name = group_state_name((enum group_state)s);
        l.states |= filter_passes(q->states_filter, q->states_filter_count, name) ? 1u << s : 0;
    }
    for (unsigned s = 0; s < CGROUP_STATES; s++) {
        const char *name = cgroup_state_name((enum cgroup_state)s);
        bool passes = filter_passes(q->states_filter, q->states_filter_count, name);
        l.consumer_states |= passes ? 1u << s : 0;
    }
    l.classic = filter_passes(q->types_filter, q->types_filter_count, "classic");
    l.consumer = filter_passes(q->types_filter, q->types_filter_count, "consumer");
    return l;
}

static bool list_group(void *arg, const struct group *g, const struct cgroup *consumer)
{
    struct listing *l = arg;
    const char *state = consumer != NULL ? cgroup_state_name(cgroup_state(consumer))
                                         : group_state_name(g->state);
    const char *type = consumer != NULL ? "consumer" : "classic";
    bool wanted = consumer != NULL
                      ? l->consumer && (l->consumer_states & 1u << cgroup_state(consumer)) != 0
                      : l->classic && (l->states & 1u << g->state) != 0;
    if (wanted) {
        struct list_groups_response_groups *out = &l->p->groups[l->p->groups_count++];
        out->group_id = slice_kstr_or_empty(g->id);
        out->protocol_type = consumer != NULL ? kstr_make("consumer")
                                              : slice_kstr_or_empty(g->protocol_type);
        out->group_state = kstr_make(state);
        out->group_type = kstr_make(type);
    }
    return true;
}

void api_list_groups(struct request *rq)
{
    const struct list_groups_request *q = rq->body;
    struct coordinator *c = rq->server->coordinator;
    struct list_groups_response p;
    codec_init(&list_groups_response_message, &p);
    p.error_code = c != NULL ? KERR_NONE : KERR_COORDINATOR_NOT_AVAILABLE;
    p.groups = codec_new_array(&list_groups_response_groups_message, &rq->arena,
                               (int32_t)coordinator_count(c));
    if (p.groups == NULL) {
        request_close(rq, no_memory);
        return;
    }
    struct listing l = listing_of(q, &p);
    coordinator_each(c, list_group, &l);
    request_reply(rq, &p);
}

/* --- DeleteGroups ---------------------------------------------------------------------------- */

static struct delete_groups_response *delete_response(struct request *rq)
{
    const struct delete_groups_request *q = rq->body;
    struct delete_groups_response *p = arena_alloc(&rq->arena, sizeof *p);
    if (p != NULL) {
        codec_init(&delete_groups_response_message, p);
        p->results = codec_new_array(&delete_groups_response_results_message, &rq->arena,
                                     q->groups_names_count);
        p->results_count = q->groups_names_count;
    }
    return p != NULL && p->results != NULL ? p : NULL;
}

void api_delete_groups(struct request *rq)
{
    const struct delete_groups_request *q = rq->body;
    struct delete_groups_response *p = delete_response(rq);
    struct delete_groups_response *failed = delete_response(rq);
    if (p == NULL || failed == NULL) {
        request_close(rq, no_memory);
        return;
    }
    for (int32_t i = 0; i < q->groups_names_count; i++) {
        enum kerr e =
            coordinator_delete_group(rq->server->coordinator, str_slice(q->groups_names[i]));
        if (e == KERR_NONE) {
            transactions_group_gone(rq->server->transactions, str_slice(q->groups_names[i]));
        }
        p->results[i].group_id = failed->results[i].group_id = q->groups_names[i];
        p->results[i].error_code = (int16_t)e;
        failed->results[i].error_code =
            (int16_t)(e == KERR_NONE ? KERR_COORDINATOR_NOT_AVAILABLE : e);
    }
    request_reply_committed(rq, p, failed);
}
