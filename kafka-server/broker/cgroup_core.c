/* The rules of the consumer protocol, as one state machine.
 *
 * Three numbers: the group's epoch grows when members, their subscriptions or their topics change;
 * the target's epoch is the group's epoch for which the assignor has been asked; a member's epoch
 * is the target that it is on its way to, or at. A heartbeat brings all of them forward:
 *
 *      heartbeat ─▶ who is it? ─▶ what does it want? ─▶ cgroup_refresh ─▶ cgroup_reconcile ─▶ reply
 *                   fenced, unknown   subscription       epoch, target     one step
 *
 *                       must give partitions up              it says that it has none of them
 *      ┌────────┐ ─────────────────────────────▶ ┌───────────┐
 *      │ Stable │                                │ Unrevoked │──┐
 *      └────────┘ ◀───────────────────────────── └───────────┘  │
 *         ▲   │   all that it shall have is free       ▲        │ what it shall have, others have
 *         │   │                                        │        ▼
 *         │   └──────────────────────────────────▶ ┌────────────┐
 *         └─────────────────────────────────────── │ Unreleased │
 *                      others have let go          └────────────┘
 *
 * Invariants
 * 1. A partition is in `assigned` or `revoking` of one member at most: it is given only when
 *    cgroup_owned_by_other says no, and `revoking` is emptied only by the member's own word, by its
 *    end, or by its leaving.
 * 2. A member takes the target's epoch only when it has nothing left to give up.
 * 3. The group's epoch only grows, across crashes too: the row is dirty before a reply names it.
 * 4. Nothing but heartbeats is needed: every state in which a member is not where it shall be is
 *    one in which its next heartbeat, or the end of a session or a rebalance, makes a step.
 *
 * A member that gives up nothing in its rebalance timeout is fenced, as is one that is not heard of
 * in its session. A static member that says it will be back (-2) keeps its partitions until its
 * session ends; whoever comes with its instance id takes its place and its work. */
#include <stdlib.h>

#include "kafka-server/broker/cgroup.h"
#include "kafka-server/broker/topic_regex.h"

void cgroup_due(struct cgroup *g, int64_t at_ms)
{
    if (at_ms < g->wake_ms) {
        g->wake_ms = at_ms;
    }
}

static void rearm(struct cgroup *g, struct cgroup_member *m, struct group_time now)
{
    int32_t timeout_ms =
        m->protocols != NULL ? m->session_timeout_ms : g->limits->session_timeout_ms;
    m->session_deadline_ms = now.mono_ms + timeout_ms;
    cgroup_due(g, m->session_deadline_ms);
}

bool cgroup_member_reconciled(const struct cgroup *g, const struct cgroup_member *m)
{
    return m->state == CGROUP_MEMBER_STABLE && m->epoch == g->target_epoch;
}

/* --- is the request one? --------------------------------------------------------------------- */

static const char *check_join(const struct cgroup_heartbeat *ev)
{
    if (ev->rebalance_timeout_ms == -1) {
        return "RebalanceTimeoutMs must be provided in first request.";
    }
    if (ev->owned == NULL || ev->owned->count > 0) {
        return "TopicPartitions must be empty when (re-)joining.";
    }
    if (ev->topic_count < 0 && ev->regex.data == NULL) {
        return "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when "
               "(re-)joining.";
    }
    return NULL;
}

static const char *check_fields(const struct cgroup_heartbeat *ev, bool id_required)
{
    if (ev->member_id.len == 0 &&
        (id_required || ev->member_epoch > 0 || ev->member_epoch == CGROUP_LEAVE_EPOCH)) {
        return "MemberId can't be empty.";
    }
    if (ev->instance_id.data != NULL && ev->instance_id.len == 0) {
        return "InstanceId can't be empty.";
    }
    if (ev->rack_id.data != NULL && ev->rack_id.len == 0) {
        return "RackId can't be empty.";
    }
    if (ev->member_epoch == CGROUP_LEAVE_STATIC_EPOCH && ev->instance_id.data == NULL) {
        return "InstanceId can't be null.";
    }
    if (ev->member_epoch < CGROUP_LEAVE_STATIC_EPOCH) {
        return "MemberEpoch is invalid.";
    }
    if (ev->member_id.len > GROUP_NAME_BYTES_MAX || ev->instance_id.len > GROUP_NAME_BYTES_MAX ||
        ev->rack_id.len > GROUP_NAME_BYTES_MAX || ev->topic_count > CGROUP_TOPICS_MAX) {
        return "A name or a list is too long.";
    }
    return ev->member_epoch == CGROUP_JOIN_EPOCH ? check_join(ev) : NULL;
}

const char *cgroup_check_heartbeat(const struct cgroup_limits *limits,
                                   const struct cgroup_heartbeat *ev, bool id_required,
                                   enum kerr *e)
{
    const char *why = check_fields(ev, id_required);
    *e = why != NULL ? KERR_INVALID_REQUEST : KERR_NONE;
    enum assignor_kind kind;
    bool found = ev->assignor.data == NULL;
    if (why == NULL && !found && assignor_find(ev->assignor, &kind)) {
        for (int32_t i = 0; i < limits->assignor_count; i++) {
            found = found || limits->assignors[i] == kind;
        }
    }
    if (why == NULL && !found) {
        *e = KERR_UNSUPPORTED_ASSIGNOR;
        return "The ServerAssignor is not one of group.consumer.assignors.";
    }
    return why;
}

/* --- who is it? ------------------------------------------------------------------------------ */

static enum kerr refuse(struct cgroup_reply *out, enum kerr e, const char *why)
{
    out->error = e;
    out->why = why;
    return e;
}

/* One step behind is as good, where the answer with the new epoch may have been lost. */
static enum kerr check_epoch(const struct cgroup_member *m, const struct cgroup_heartbeat *ev,
                             struct cgroup_reply *out)
{
    if (ev->member_epoch > m->epoch) {
        return refuse(out, KERR_FENCED_MEMBER_EPOCH,
                      "The consumer group member has a greater member epoch than the one known by "
                      "the group coordinator. The member must abandon all its partitions and "
                      "rejoin.");
    }
    if (ev->member_epoch < m->epoch &&
        (ev->member_epoch != m->previous_epoch || ev->owned == NULL ||
         !partition_set_within(ev->owned, &m->assigned))) {
        return refuse(out, KERR_FENCED_MEMBER_EPOCH,
                      "The consumer group member has a smaller member epoch than the one known by "
                      "the group coordinator. The member must abandon all its partitions and "
                      "rejoin.");
    }
    return KERR_NONE;
}

static enum kerr find_static(const struct cgroup *g, const struct cgroup_heartbeat *ev,
                             struct cgroup_member **m, struct cgroup_reply *out)
{
    *m = cgroup_find_instance(g, ev->instance_id);
    if (ev->member_epoch != CGROUP_JOIN_EPOCH) {
        if (*m == NULL) {
            return refuse(out, KERR_UNKNOWN_MEMBER_ID, "The instance id is unknown.");
        }
        if (!slice_eq((*m)->id, ev->member_id)) {
            return refuse(out, KERR_FENCED_INSTANCE_ID,
                          "The static member was fenced by another one with its instance id.");
        }
        return ev->member_epoch > 0 ? check_epoch(*m, ev, out) : KERR_NONE;
    }
    if (*m != NULL && (*m)->protocols == NULL && (*m)->epoch != CGROUP_LEAVE_STATIC_EPOCH) {
        return refuse(out, KERR_UNRELEASED_INSTANCE_ID,
                      "The static member cannot join: another one that has not left owns its "
                      "instance id.");
    }
    const struct cgroup_member *same = cgroup_find(g, ev->member_id);
    if (same != NULL && same != *m) {
        return refuse(out, KERR_INVALID_REQUEST, "The member id is another member's.");
    }
    return KERR_NONE;
}

static enum kerr find_dynamic(const struct cgroup *g, const struct cgroup_heartbeat *ev,
                              struct cgroup_member **m, struct cgroup_reply *out)
{
    *m = cgroup_find(g, ev->member_id);
    if (*m == NULL) {
        return ev->member_epoch == CGROUP_JOIN_EPOCH
                   ? KERR_NONE
                   : refuse(out, KERR_UNKNOWN_MEMBER_ID, "The member is not one of this group.");
    }
    return ev->member_epoch >= 0 ? check_epoch(*m, ev, out) : KERR_NONE;
}

/* Finds who asks; *m NULL: one who joins. Nothing is changed yet. */
static enum kerr find_member(const struct cgroup *g, const struct cgroup_heartbeat *ev,
                             struct cgroup_member **m, struct cgroup_reply *out)
{
    return ev->instance_id.data != NULL ? find_static(g, ev, m, out) : find_dynamic(g, ev, m, out);
}

static enum kerr check_room(const struct cgroup *g, const struct cgroup_heartbeat *ev,
                            const struct cgroup_member *m, struct cgroup_reply *out)
{
    size_t bytes = ev->regex.len;
    for (int32_t i = 0; i < ev->topic_count; i++) {
        bytes += ev->topics[i].len;
    }
    if (g->member_count >= g->limits->size_max && cgroup_find(g, ev->member_id) == NULL) {
        return refuse(out, KERR_GROUP_MAX_SIZE_REACHED,
                      "The consumer group has reached its maximum capacity of "
                      "group.consumer.max.size members.");
    }
    if (bytes > GROUP_BYTES_MAX || g->bytes > GROUP_BYTES_MAX - bytes) {
        return refuse(out, KERR_GROUP_MAX_SIZE_REACHED,
                      "The subscriptions of the group take too much memory.");
    }
    bool new_regex = ev->regex.len > 0 && (m == NULL || !slice_eq(m->regex, ev->regex));
    struct topic_regex *r = new_regex ? topic_regex_new(ev->regex) : NULL;
    topic_regex_free(r);
    if (new_regex && r == NULL) {
        return refuse(out, KERR_INVALID_REGULAR_EXPRESSION,
                      "SubscribedTopicRegex is not a valid regular expression of RE2.");
    }
    return KERR_NONE;
}

/* --- what does it want? ---------------------------------------------------------------------- */

/* A static member in the place of its former self: with its work, and an epoch to begin with. */
static void replace(struct cgroup *g, struct cgroup_member *m, struct slice id)
{
    if (!slice_eq(m->id, id) && !cgroup_member_rename(g, m, id)) {
        g->broken = true;
    }
    m->epoch = m->previous_epoch = 0;
    m->rebalance_deadline_ms = INT64_MAX;
    g->dirty = true;
}

static struct cgroup_member *admit(struct cgroup *g, const struct cgroup_heartbeat *ev,
                                   struct cgroup_member *m)
{
    if (m == NULL) {
        m = cgroup_member_add(g, ev->member_id, ev->instance_id);
        g->broken = g->broken || m == NULL;
        g->dirty = true;
    } else if (ev->member_epoch == CGROUP_JOIN_EPOCH && ev->instance_id.data != NULL) {
        replace(g, m, ev->member_id);
    }
    return m;
}

/* Takes over what the request says; has the subscription changed? */
static bool update(struct cgroup *g, struct cgroup_member *m, const struct cgroup_heartbeat *ev)
{
    bool any = false, subscription = false;
    cgroup_slice_set(g, &m->rack_id, ev->rack_id, &any);
    cgroup_slice_set(g, &m->client_id, ev->client_id, &any);
    cgroup_slice_set(g, &m->client_host, ev->client_host, &any);
    cgroup_slice_set(g, &m->assignor, ev->assignor, &any);
    /* Below -1 is no time at all, and no mistake in Kafka. */
    int32_t timeout_ms = ev->rebalance_timeout_ms > 0 ? ev->rebalance_timeout_ms : 0;
    if (ev->rebalance_timeout_ms != -1 && timeout_ms != m->rebalance_timeout_ms) {
        m->rebalance_timeout_ms = timeout_ms;
        any = true;
    }
    if (m->protocols != NULL) { /* from here on it speaks the consumer protocol */
        cgroup_member_set_protocols(g, m, NULL);
        any = true;
    }
    size_t regex_was = m->regex.len;
    bool regex = false;
    cgroup_slice_set(g, &m->regex, ev->regex, &regex);
    subscription = regex && regex_was + m->regex.len > 0;
    if (ev->topic_count >= 0) {
        struct cgroup_names *n = cgroup_names_new(ev->topics, ev->topic_count);
        g->broken = g->broken || n == NULL;
        if (n != NULL && !cgroup_names_equal(n, m->topics)) {
            subscription = true;
            struct cgroup_names *was = m->topics;
            m->topics = n;
            n = was;
        }
        free(n);
    }
    g->dirty = g->dirty || any || regex || subscription;
    cgroup_member_weigh(g, m);
    return subscription;
}

/* --- epochs and targets ---------------------------------------------------------------------- */

void cgroup_refresh(struct cgroup *g, bool bump, const struct cgroup_topics *topics)
{
    bump = bump || g->epoch == 0;
    if (bump || g->topics_seen != topics->version) {
        uint64_t hash = cgroup_topics_hash(g, topics);
        /* Where a new epoch has not been looked at yet, one is enough. */
        bump = bump || (hash != g->topics_hash && g->epoch == g->target_epoch);
        g->dirty = g->dirty || hash != g->topics_hash;
        g->topics_hash = hash;
        g->topics_seen = topics->version;
    }
    if (bump) {
        g->epoch++;
        g->dirty = true;
    }
    if (g->epoch > g->target_epoch) {
        cgroup_assign(g, topics);
        g->target_epoch = g->epoch;
        g->dirty = true;
    }
}

/* --- one step towards the target ------------------------------------------------------------- */

static void set_state(struct cgroup *g, struct cgroup_member *m, enum cgroup_member_state state,
                      int32_t epoch)
{
    if (m->state != state || m->epoch != epoch || m->previous_epoch != m->epoch) {
        g->dirty = true;
    }
    m->state = state;
    m->previous_epoch = m->epoch;
    m->epoch = epoch;
}

/* Sets *to to what is in from, which is empty then. */
static void set_partitions(struct cgroup *g, struct partition_set *to, struct partition_set *from)
{
    if (partition_set_equal(to, from)) {
        partition_set_fini(from);
    } else {
        partition_set_move(to, from);
        g->dirty = true;
    }
}

/* Of what m shall have and has not: what nobody has. */
static void pick_free(const struct cgroup *g, const struct cgroup_member *m,
                      const struct partition_set *pending, struct partition_set *out, bool *ok)
{
    for (int32_t i = 0; i < pending->count; i++) {
        if (!cgroup_owned_by_other(g, m, &pending->list[i])) {
            partition_set_append(out, &pending->list[i].topic, pending->list[i].partition, ok);
        }
    }
}

static void next_step(struct cgroup *g, struct cgroup_member *m, int32_t epoch,
                      const struct partition_set *owned)
{
    struct partition_set kept = {0}, lost = {0}, pending = {0}, free_ones = {0}, all = {0};
    bool ok = true;
    partition_set_common(&kept, &m->assigned, &m->target, &ok);
    partition_set_minus(&lost, &m->assigned, &m->target, &ok);
    partition_set_minus(&pending, &m->target, &kept, &ok);
    pick_free(g, m, &pending, &free_ones, &ok);
    partition_set_union(&all, &kept, &free_ones, &ok);
    if (!ok) {
        g->broken = true;
    } else if (lost.count > 0 && (owned == NULL || partition_set_meet(owned, &lost))) {
        set_state(g, m, CGROUP_MEMBER_UNREVOKED, epoch);
        set_partitions(g, &m->assigned, &kept);
        set_partitions(g, &m->revoking, &lost);
    } else {
        bool waits = free_ones.count < pending.count;
        set_state(g, m, waits ? CGROUP_MEMBER_UNRELEASED : CGROUP_MEMBER_STABLE, g->target_epoch);
        set_partitions(g, &m->assigned, &all);
        set_partitions(g, &m->revoking, &(struct partition_set){0});
    }
    partition_set_fini(&kept);
    partition_set_fini(&lost);
    partition_set_fini(&pending);
    partition_set_fini(&free_ones);
    partition_set_fini(&all);
    cgroup_member_weigh(g, m);
}

void cgroup_reconcile(struct cgroup *g, struct cgroup_member *m, const struct partition_set *owned,
                      struct group_time now)
{
    if (cgroup_member_reconciled(g, m)) {
        return;
    }
    if (m->state == CGROUP_MEMBER_UNREVOKED) {
        if (owned == NULL || partition_set_meet(owned, &m->revoking)) {
            return;
        }
        next_step(g, m, m->epoch + 1, owned);
    } else {
        next_step(g, m, m->epoch, owned);
    }
    if (m->protocols == NULL) {
        m->rebalance_deadline_ms = INT64_MAX;
        if (m->state == CGROUP_MEMBER_UNREVOKED) {
            m->rebalance_deadline_ms = now.mono_ms + m->rebalance_timeout_ms;
            cgroup_due(g, m->rebalance_deadline_ms);
        }
    }
}

/* --- the event ------------------------------------------------------------------------------- */

void cgroup_fence(struct cgroup *g, struct cgroup_member *m)
{
    cgroup_member_remove(g, m);
    g->epoch++;
    g->topics_seen = 0;
    g->dirty = true;
}

static void leave(struct cgroup *g, const struct cgroup_heartbeat *ev, struct cgroup_reply *out)
{
    struct cgroup_member *m;
    if (find_member(g, ev, &m, out) != KERR_NONE) {
        return;
    }
    if (ev->member_epoch == CGROUP_LEAVE_STATIC_EPOCH) {
        m->epoch = CGROUP_LEAVE_STATIC_EPOCH;
        m->rebalance_deadline_ms = INT64_MAX;
        partition_set_fini(&m->revoking);
        g->dirty = true;
    } else {
        cgroup_fence(g, m);
    }
}

void cgroup_on_heartbeat(struct cgroup *g, const struct cgroup_heartbeat *ev,
                         const struct cgroup_topics *topics, struct group_time now,
                         struct cgroup_reply *out)
{
    struct cgroup_member *m;
    *out = (struct cgroup_reply){.member_id = ev->member_id, .member_epoch = ev->member_epoch};
    if (ev->member_epoch < 0) {
        leave(g, ev, out);
        return;
    }
    if (find_member(g, ev, &m, out) != KERR_NONE || check_room(g, ev, m, out) != KERR_NONE) {
        return;
    }
    m = admit(g, ev, m);
    if (m == NULL) {
        return;
    }
    struct partition_set before = {0};
    bool ok = true;
    partition_set_copy(&before, &m->assigned, &ok);
    bool bump = update(g, m, ev);
    cgroup_refresh(g, bump, topics);
    cgroup_reconcile(g, m, ev->owned, now);
    rearm(g, m, now);
    bool full = ev->rebalance_timeout_ms != -1 && ev->owned != NULL &&
                (ev->topic_count >= 0 || ev->regex.data != NULL);
    if (ev->member_epoch == CGROUP_JOIN_EPOCH || full ||
        !partition_set_equal(&before, &m->assigned)) {
        out->assigned = &m->assigned;
    }
    out->member_epoch = m->epoch;
    g->broken = g->broken || !ok;
    partition_set_fini(&before);
}

/* --- offsets --------------------------------------------------------------------------------- */

static enum kerr check_exact_epoch(const struct cgroup_member *m, int32_t epoch)
{
    if (epoch == m->epoch) {
        return KERR_NONE;
    }
    return m->protocols != NULL ? KERR_ILLEGAL_GENERATION : KERR_STALE_MEMBER_EPOCH;
}

enum kerr cgroup_on_commit(const struct cgroup *g, int32_t epoch, struct slice member_id,
                           bool consumer_version)
{
    if (epoch < 0 && g->members == NULL) {
        return KERR_NONE;
    }
    const struct cgroup_member *m = cgroup_find(g, member_id);
    if (m == NULL) {
        return KERR_UNKNOWN_MEMBER_ID;
    }
    if (m->protocols == NULL && !consumer_version) {
        return KERR_UNSUPPORTED_VERSION;
    }
    return check_exact_epoch(m, epoch);
}

enum kerr cgroup_on_offset_fetch(const struct cgroup *g, int32_t epoch, struct slice member_id)
{
    if (member_id.data == NULL && epoch < 0) {
        return KERR_NONE;
    }
    const struct cgroup_member *m = cgroup_find(g, member_id);
    return m == NULL ? KERR_UNKNOWN_MEMBER_ID : check_exact_epoch(m, epoch);
}

/* --- time passes ----------------------------------------------------------------------------- */

void cgroup_on_tick(struct cgroup *g, struct group_time now)
{
    if (now.mono_ms < g->wake_ms) {
        return;
    }
    g->wake_ms = INT64_MAX;
    struct cgroup_member *m, *next;
    HASH_ITER(hh, g->members, m, next)
    {
        if (m->session_deadline_ms <= now.mono_ms || m->rebalance_deadline_ms <= now.mono_ms) {
            cgroup_fence(g, m);
        } else {
            cgroup_due(g, m->session_deadline_ms);
            cgroup_due(g, m->rebalance_deadline_ms);
        }
    }
}

void cgroup_on_load(struct cgroup *g, struct group_time now)
{
    g->wake_ms = INT64_MAX;
    for (struct cgroup_member *m = g->members; m != NULL; m = m->hh.next) {
        rearm(g, m, now);
        m->rebalance_deadline_ms = INT64_MAX;
        if (m->state == CGROUP_MEMBER_UNREVOKED && m->protocols == NULL) {
            m->rebalance_deadline_ms = now.mono_ms + m->rebalance_timeout_ms;
            cgroup_due(g, m->rebalance_deadline_ms);
        }
    }
}

/* --- what others ask ------------------------------------------------------------------------- */

enum cgroup_state cgroup_state(const struct cgroup *g)
{
    if (g->members == NULL) {
        return CGROUP_EMPTY;
    }
    if (g->epoch > g->target_epoch) {
        return CGROUP_ASSIGNING;
    }
    for (const struct cgroup_member *m = g->members; m != NULL; m = m->hh.next) {
        if (!cgroup_member_reconciled(g, m)) {
            return CGROUP_RECONCILING;
        }
    }
    return CGROUP_STABLE;
}

enum assignor_kind cgroup_assignor(const struct cgroup *g)
{
    int32_t votes[ASSIGNORS] = {0};
    for (const struct cgroup_member *m = g->members; m != NULL; m = m->hh.next) {
        enum assignor_kind kind;
        if (m->assignor.data != NULL && assignor_find(m->assignor, &kind)) {
            votes[kind]++;
        }
    }
    enum assignor_kind best = g->limits->assignors[0];
    for (int32_t i = 1; i < g->limits->assignor_count; i++) {
        enum assignor_kind kind = g->limits->assignors[i];
        best = votes[kind] > votes[best] ? kind : best;
    }
    return best;
}

bool cgroup_subscribes(const struct cgroup *g, struct slice topic)
{
    struct slice tried = {NULL, 0}; /* members of one application have one pattern */
    for (const struct cgroup_member *m = g->members; m != NULL; m = m->hh.next) {
        if (cgroup_names_has(m->topics, topic)) {
            return true;
        }
        if (m->regex.len == 0 || slice_eq(m->regex, tried)) {
            continue;
        }
        tried = m->regex;
        struct topic_regex *r = topic_regex_new(m->regex);
        bool matches = r != NULL && topic_regex_match(r, topic);
        topic_regex_free(r);
        if (matches) {
            return true;
        }
    }
    return false;
}
