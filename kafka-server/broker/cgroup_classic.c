/* Members of the classic protocol in a group of the consumer protocol, and the way between the two
 * kinds of group (KIP-848, online upgrade and downgrade).
 *
 *      a classic group ── a member of the consumer protocol joins ──▶ a consumer group
 *                      ◀── the last such member goes, others stay ───
 *
 * While both are in one group, a classic member is led through the same states by other words: its
 * generation is its epoch; a heartbeat says REBALANCE_IN_PROGRESS where it has to move; it joins
 * again, telling in its metadata what it still has, which is the "owned" of a heartbeat; and it
 * gets what it may read by sync. It never leads: the server assigns. A member of an eager assignor
 * comes with nothing, one of the cooperative assignor with what it keeps; both fit.
 *
 * What it must do it must do in its rebalance timeout (one deadline for join and sync), or it is
 * fenced.
 *
 * Metadata and assignments of classic members have the forms of Java's ConsumerProtocol:
 *
 *      subscription   i16 version | [topic] | bytes user data | v1: [topic, [i32]] owned |
 *                     v2: i32 generation | v3: rack
 *      assignment     i16 version | [topic, [i32]] | bytes user data
 *
 * with i32 counts, i16 lengths of names, i32 lengths of bytes, -1: null. */
#include <stdlib.h>

#include "kafka-server/broker/cgroup.h"
#include "shared/base/log.h"

#define SUBSCRIPTION_VERSION_MAX 3

static const char consumer_type[] = "consumer";

/* --- Java's ConsumerProtocol ----------------------------------------------------------------- */

static struct slice get_bytes(struct reader *r)
{
    int32_t len = (int32_t)reader_be32(r);
    return len > 0 ? reader_bytes(r, (size_t)len) : slice_make(NULL, 0);
}

/* [topic, [partition]] of topics that there are. */
static void get_partitions(struct reader *r, const struct cgroup_topics *topics,
                           struct partition_set *out, bool *ok)
{
    uint32_t count = reader_be32(r);
    for (uint32_t i = 0; i < count && !r->failed; i++) {
        const struct cgroup_topic *t = cgroup_topics_find(topics, reader_bytes(r, reader_be16(r)));
        uint32_t partitions = reader_be32(r);
        for (uint32_t k = 0; k < partitions && !r->failed; k++) {
            int32_t partition = (int32_t)reader_be32(r);
            if (!r->failed && t != NULL && partition >= 0 && partition < t->partition_count) {
                partition_set_append(out, &t->id, partition, ok);
            }
        }
    }
    partition_set_sort(out);
}

struct subscription {
    struct cgroup_names *topics;
    struct partition_set owned;
    struct slice rack_id; /* data NULL: none; borrowed */
};

static void subscription_fini(struct subscription *s)
{
    free(s->topics);
    partition_set_fini(&s->owned);
}

/* False: malformed, or without memory (*ok). */
static bool subscription_read(struct subscription *s, struct slice metadata,
                              const struct cgroup_topics *topics, bool *ok)
{
    struct reader r = reader_make(metadata);
    *s = (struct subscription){0};
    uint16_t version = reader_be16(&r);
    uint32_t count = reader_be32(&r);
    if (r.failed || count > CGROUP_TOPICS_MAX) {
        return false;
    }
    struct slice *list = malloc((count + 1) * sizeof *list);
    if (list == NULL) {
        *ok = false;
        return false;
    }
    for (uint32_t i = 0; i < count; i++) {
        list[i] = reader_bytes(&r, reader_be16(&r));
    }
    if (!r.failed) {
        s->topics = cgroup_names_new(list, (int32_t)count);
        *ok = *ok && s->topics != NULL;
    }
    free(list);
    (void)get_bytes(&r); /* user data: a client's assignor's, and the server has its own */
    if (version >= 1) {
        get_partitions(&r, topics, &s->owned, ok);
    }
    if (version >= 2) {
        (void)reader_be32(&r); /* the generation in which it got them: its epoch says that here */
    }
    if (version >= 3) {
        int16_t len = (int16_t)reader_be16(&r);
        s->rack_id = len > 0 ? reader_bytes(&r, (size_t)len) : slice_make(NULL, 0);
    }
    if (r.failed || !*ok) {
        subscription_fini(s);
    }
    return !r.failed && *ok;
}

static void put_name(struct buf *out, struct slice name)
{
    buf_put_be16(out, (uint16_t)name.len);
    buf_put(out, name.data, name.len);
}

void cgroup_classic_assignment(const struct cgroup_member *m, const struct partition_set *set,
                               const struct cgroup_topics *topics, struct buf *out)
{
    struct reader r = reader_make(m->protocols->list[0].metadata);
    uint16_t version = reader_be16(&r);
    uint32_t count = 0;
    for (int32_t at = 0; at < set->count; at += partition_set_run(set, at)) {
        count += cgroup_topics_find_id(topics, &set->list[at].topic) != NULL;
    }
    buf_put_be16(out, version < SUBSCRIPTION_VERSION_MAX ? version : SUBSCRIPTION_VERSION_MAX);
    buf_put_be32(out, count);
    for (int32_t at = 0, run; at < set->count; at += run) {
        run = partition_set_run(set, at);
        const struct cgroup_topic *t = cgroup_topics_find_id(topics, &set->list[at].topic);
        if (t == NULL) {
            continue;
        }
        put_name(out, t->name);
        buf_put_be32(out, (uint32_t)run);
        for (int32_t i = at; i < at + run; i++) {
            buf_put_be32(out, (uint32_t)set->list[i].partition);
        }
    }
    buf_put_be32(out, UINT32_MAX);
}

/* --- join ------------------------------------------------------------------------------------ */

/* Is there a protocol that this member and all other classic ones support? */
static bool supports(const struct cgroup *g, const struct group_join *ev)
{
    for (int32_t i = 0; i < ev->protocol_count; i++) {
        bool all = true;
        for (const struct cgroup_member *m = g->members; all && m != NULL; m = m->hh.next) {
            bool one = m->protocols == NULL || slice_eq(m->id, ev->member_id);
            for (int32_t k = 0; !one && k < m->protocols->count; k++) {
                one = slice_eq(m->protocols->list[k].name, ev->protocols[i].name);
            }
            all = one;
        }
        if (all) {
            return true;
        }
    }
    return false;
}

static enum kerr check_join(const struct cgroup *g, const struct group_join *ev)
{
    const struct cgroup_member *m = cgroup_find(g, ev->member_id);
    if (g->member_count >= g->limits->size_max && m == NULL) {
        return KERR_GROUP_MAX_SIZE_REACHED;
    }
    if (ev->protocol_count > GROUP_PROTOCOLS_MAX || ev->member_id.len > GROUP_NAME_BYTES_MAX ||
        ev->instance_id.len > GROUP_NAME_BYTES_MAX || ev->rebalance_timeout_ms < 0) {
        return KERR_INVALID_REQUEST;
    }
    if (ev->session_timeout_ms <= 0) {
        return KERR_INVALID_SESSION_TIMEOUT;
    }
    if (!slice_eq(ev->protocol_type, slice_str(consumer_type)) || !supports(g, ev)) {
        return KERR_INCONSISTENT_GROUP_PROTOCOL;
    }
    size_t bytes = 0;
    for (int32_t i = 0; i < ev->protocol_count; i++) {
        bytes += ev->protocols[i].name.len + ev->protocols[i].metadata.len;
    }
    if (bytes > GROUP_BYTES_MAX || g->bytes > GROUP_BYTES_MAX - bytes) {
        return KERR_GROUP_MAX_SIZE_REACHED;
    }
    if (ev->member_id.len == 0) {
        return ev->instance_id.data == NULL && ev->id_required ? KERR_MEMBER_ID_REQUIRED
                                                               : KERR_NONE;
    }
    if (ev->instance_id.data == NULL) {
        return KERR_NONE;
    }
    const struct cgroup_member *own = cgroup_find_instance(g, ev->instance_id);
    if (own == NULL) {
        return KERR_UNKNOWN_MEMBER_ID;
    }
    return own == m ? KERR_NONE : KERR_FENCED_INSTANCE_ID;
}

/* Finds or makes who joins, by a request that was checked. */
static struct cgroup_member *admit(struct cgroup *g, const struct group_join *ev)
{
    struct slice id = ev->member_id.len > 0 ? ev->member_id : ev->fresh_id;
    struct cgroup_member *m = ev->instance_id.data != NULL
                                  ? cgroup_find_instance(g, ev->instance_id)
                                  : cgroup_find(g, id);
    g->dirty = true;
    if (m == NULL) {
        m = cgroup_member_add(g, id, ev->instance_id);
        g->broken = g->broken || m == NULL;
        return m;
    }
    if (!slice_eq(m->id, id)) { /* a static member that started again */
        g->broken = g->broken || !cgroup_member_rename(g, m, id);
        m->epoch = m->previous_epoch = 0;
    }
    return m;
}

static bool update(struct cgroup *g, struct cgroup_member *m, const struct group_join *ev,
                   struct subscription *s)
{
    bool any = false;
    cgroup_slice_set(g, &m->rack_id, s->rack_id, &any);
    cgroup_slice_set(g, &m->client_id, ev->client_id, &any);
    cgroup_slice_set(g, &m->client_host, ev->client_host, &any);
    m->rebalance_timeout_ms = ev->rebalance_timeout_ms;
    m->session_timeout_ms = ev->session_timeout_ms;
    struct group_protocols *p = group_protocols_copy(ev->protocols, ev->protocol_count);
    if (p == NULL) {
        g->broken = true;
    } else {
        cgroup_member_set_protocols(g, m, p);
    }
    bool subscription = !cgroup_names_equal(m->topics, s->topics);
    struct cgroup_names *was = m->topics;
    m->topics = s->topics;
    s->topics = was;
    g->dirty = true;
    cgroup_member_weigh(g, m);
    return subscription;
}

static void rearm(struct cgroup *g, struct cgroup_member *m, struct group_time now)
{
    m->session_deadline_ms = now.mono_ms + m->session_timeout_ms;
    cgroup_due(g, m->session_deadline_ms);
}

static void expect_move(struct cgroup *g, struct cgroup_member *m, struct group_time now)
{
    if (m->rebalance_deadline_ms == INT64_MAX) {
        m->rebalance_deadline_ms = now.mono_ms + m->rebalance_timeout_ms;
        cgroup_due(g, m->rebalance_deadline_ms);
    }
}

enum kerr cgroup_on_join(struct cgroup *g, const struct group_join *ev,
                         const struct cgroup_topics *topics, struct group_time now,
                         const struct cgroup_member **member)
{
    bool ok = true;
    struct subscription s;
    enum kerr e = check_join(g, ev);
    if (e != KERR_NONE) {
        return e;
    }
    if (!subscription_read(&s, ev->protocols[0].metadata, topics, &ok)) {
        return ok ? KERR_INCONSISTENT_GROUP_PROTOCOL : KERR_COORDINATOR_NOT_AVAILABLE;
    }
    struct cgroup_member *m = admit(g, ev);
    if (m != NULL) {
        bool bump = update(g, m, ev, &s);
        cgroup_refresh(g, bump, topics);
        cgroup_reconcile(g, m, &s.owned, now);
        rearm(g, m, now);
        m->rebalance_deadline_ms = INT64_MAX;
        expect_move(g, m, now); /* the sync */
    }
    subscription_fini(&s);
    *member = m;
    return KERR_NONE;
}

/* --- the rest of its life -------------------------------------------------------------------- */

static enum kerr find_classic(const struct cgroup *g, struct slice member_id,
                              struct slice instance_id, int32_t generation,
                              struct cgroup_member **m)
{
    *m =
        instance_id.data != NULL ? cgroup_find_instance(g, instance_id) : cgroup_find(g, member_id);
    if (*m == NULL) {
        return KERR_UNKNOWN_MEMBER_ID;
    }
    if (!slice_eq((*m)->id, member_id)) {
        return KERR_FENCED_INSTANCE_ID;
    }
    if ((*m)->protocols == NULL) {
        return KERR_UNKNOWN_MEMBER_ID;
    }
    return generation == (*m)->epoch ? KERR_NONE : KERR_ILLEGAL_GENERATION;
}

enum kerr cgroup_on_sync(struct cgroup *g, const struct group_sync *ev, struct group_time now,
                         const struct cgroup_member **member)
{
    struct cgroup_member *m;
    enum kerr e = find_classic(g, ev->member_id, ev->instance_id, ev->generation, &m);
    if (e != KERR_NONE) {
        return e;
    }
    if ((ev->protocol_type.data != NULL &&
         !slice_eq(ev->protocol_type, slice_str(consumer_type))) ||
        (ev->protocol_name.data != NULL &&
         !slice_eq(ev->protocol_name, m->protocols->list[0].name))) {
        return KERR_INCONSISTENT_GROUP_PROTOCOL;
    }
    if (g->epoch > m->epoch && m->state != CGROUP_MEMBER_UNREVOKED) {
        expect_move(g, m, now);
        return KERR_REBALANCE_IN_PROGRESS;
    }
    m->rebalance_deadline_ms = INT64_MAX;
    rearm(g, m, now);
    *member = m;
    return KERR_NONE;
}

/* Is there something that m shall have and others have not let go? */
static bool waits_for_others(const struct cgroup *g, const struct cgroup_member *m)
{
    for (int32_t i = 0; i < m->target.count; i++) {
        if (!partition_set_has(&m->assigned, &m->target.list[i]) &&
            cgroup_owned_by_other(g, m, &m->target.list[i])) {
            return true;
        }
    }
    return false;
}

enum kerr cgroup_on_classic_heartbeat(struct cgroup *g, int32_t generation, struct slice member_id,
                                      struct slice instance_id, struct group_time now)
{
    struct cgroup_member *m;
    enum kerr e = find_classic(g, member_id, instance_id, generation, &m);
    if (e != KERR_NONE) {
        return e;
    }
    rearm(g, m, now);
    if (m->epoch < g->epoch || m->state == CGROUP_MEMBER_UNREVOKED ||
        (m->state == CGROUP_MEMBER_UNRELEASED && !waits_for_others(g, m))) {
        expect_move(g, m, now);
        return KERR_REBALANCE_IN_PROGRESS;
    }
    return KERR_NONE;
}

enum kerr cgroup_on_leave(struct cgroup *g, struct slice member_id, struct slice instance_id)
{
    struct cgroup_member *m =
        instance_id.data != NULL ? cgroup_find_instance(g, instance_id) : cgroup_find(g, member_id);
    if (m == NULL) {
        return KERR_UNKNOWN_MEMBER_ID;
    }
    if (instance_id.data != NULL && member_id.len > 0 && !slice_eq(m->id, member_id)) {
        return KERR_FENCED_INSTANCE_ID;
    }
    cgroup_fence(g, m);
    return KERR_NONE;
}

/* --- from a classic group -------------------------------------------------------------------- */

/* What the leader gave it; false: a custom assignor's, whose user data would be lost. What two have
 * been given, which no assignor of Kafka does, the first one has. */
static bool take_assignment(struct cgroup *g, struct cgroup_member *m, struct slice bytes,
                            const struct cgroup_topics *topics, bool *ok)
{
    struct partition_set given = {0};
    struct reader r = reader_make(bytes);
    if (bytes.len == 0) {
        return true;
    }
    (void)reader_be16(&r); /* all versions look alike */
    get_partitions(&r, topics, &given, ok);
    bool fine = get_bytes(&r).len == 0 && !r.failed;
    for (int32_t i = 0; i < given.count; i++) {
        if (!cgroup_owned_by_other(g, m, &given.list[i])) {
            partition_set_append(&m->assigned, &given.list[i].topic, given.list[i].partition, ok);
        }
    }
    partition_set_fini(&given);
    partition_set_copy(&m->target, &m->assigned, ok);
    return fine;
}

static const char *take_member(struct cgroup *g, const struct group *from,
                               const struct group_member *was, const struct cgroup_topics *topics,
                               bool *ok)
{
    struct subscription s;
    if (!subscription_read(&s, group_member_metadata(from, was), topics, ok)) {
        return "The embedded consumer protocol is malformed.";
    }
    struct cgroup_member *m = cgroup_member_add(g, was->id, was->instance_id);
    struct group_protocols *p = group_protocols_copy(was->protocols->list, was->protocols->count);
    const char *why = NULL;
    if (m != NULL && p != NULL) {
        bool any = false;
        cgroup_slice_set(g, &m->rack_id, s.rack_id, &any);
        cgroup_slice_set(g, &m->client_id, was->client_id, &any);
        cgroup_slice_set(g, &m->client_host, was->client_host, &any);
        m->epoch = m->previous_epoch = from->generation;
        m->rebalance_timeout_ms = was->rebalance_timeout_ms;
        m->session_timeout_ms = was->session_timeout_ms;
        m->topics = s.topics;
        s.topics = NULL;
        cgroup_member_set_protocols(g, m, p);
        p = NULL;
        if (!take_assignment(g, m, was->assignment, topics, ok)) {
            why = "An assignor with user data is in use, or its assignment is malformed.";
        }
        cgroup_member_weigh(g, m);
    } else {
        *ok = false;
    }
    free(p);
    subscription_fini(&s);
    return why;
}

struct cgroup *cgroup_from_classic(const struct group *from, const struct cgroup_limits *limits,
                                   const struct cgroup_topics *topics, const char **why)
{
    *why = NULL;
    if (!limits->upgrade) {
        *why = "group.consumer.migration.policy does not allow the upgrade of a classic group.";
    } else if (!group_is_consumer(from)) {
        *why = "The classic group does not use the embedded consumer protocol.";
    } else if (from->member_count > limits->size_max) {
        *why = "The classic group is larger than group.consumer.max.size.";
    }
    struct cgroup *g = *why == NULL ? cgroup_new(from->id, limits) : NULL;
    if (g == NULL) {
        return NULL;
    }
    bool ok = true;
    g->epoch = g->target_epoch = from->generation;
    g->dirty = true;
    for (const struct group_member *m = from->members; ok && *why == NULL && m != NULL;
         m = m->hh.next) {
        if (!m->is_new) { /* who has never been in a generation comes back by itself */
            *why = take_member(g, from, m, topics, &ok);
        }
    }
    ok = ok && !g->broken;
    if (!ok || *why != NULL) {
        *why = ok ? *why : NULL;
        cgroup_free(g);
        return NULL;
    }
    g->topics_hash = cgroup_topics_hash(g, topics);
    return g;
}

/* --- to a classic group ---------------------------------------------------------------------- */

bool cgroup_is_classic(const struct cgroup *g)
{
    return g->member_count > 0 && g->classic_count == g->member_count && g->limits->downgrade &&
           g->member_count <= g->limits->classic_size_max;
}

static bool give_member(struct group *to, const struct cgroup_member *m,
                        const struct cgroup_topics *topics)
{
    const struct group_join ev = {
        .instance_id = m->instance_id,
        .client_id = m->client_id,
        .client_host = m->client_host,
        .protocols = m->protocols->list,
        .protocol_count = m->protocols->count,
        .session_timeout_ms = m->session_timeout_ms,
        .rebalance_timeout_ms = m->rebalance_timeout_ms,
    };
    struct group_member *made = group_member_new(&ev, m->id);
    if (made == NULL) {
        return false;
    }
    group_member_add(to, made);
    struct buf b;
    buf_init(&b, GROUP_BYTES_MAX);
    cgroup_classic_assignment(m, &m->target, topics, &b);
    bool ok = buf_ok(&b) && group_member_set_assignment(to, made, buf_slice(&b));
    buf_fini(&b);
    return ok;
}

struct group *cgroup_to_classic(const struct cgroup *g, const struct group_limits *limits,
                                const struct cgroup_topics *topics)
{
    struct group *to = group_new(g->id, limits);
    bool ok = to != NULL;
    for (const struct cgroup_member *m = g->members; ok && m != NULL; m = m->hh.next) {
        ok = give_member(to, m, topics);
    }
    if (ok) {
        to->generation = g->epoch;
        to->protocol_type = group_slice_copy(slice_str(consumer_type), &ok);
        to->protocol_name = group_slice_copy(group_select_protocol(to), &ok);
        to->state = GROUP_STABLE;
        to->dirty = true;
    }
    if (!ok) {
        group_free(to);
        return NULL;
    }
    return to;
}
