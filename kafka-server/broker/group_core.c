/* The rules of the classic group protocol, as one state machine.
 *
 *                    join                            every member has joined,
 *   ┌───────┐ prepare_rebalance  ┌───────────┐       or the time is up          ┌────────────┐
 *   │ Empty │───────────────────▶│ Preparing │──────── complete_join ──────────▶│ Completing │
 *   └───────┘                    └───────────┘                                  └────────────┘
 *     │   ▲   complete_join, nobody left │ ▲ ▲   prepare_rebalance: a join with      │    │
 *     │   └──────────────────────────────┘ │ └── other metadata, a leave, an end ─────┘    │
 *     │                  prepare_rebalance │     of a session, a sync that never came      │
 *     │ group_kill                     ┌────────┐       the leader's assignment            │
 *     ▼ (from every state)             │ Stable │◀─────────── group_on_sync ───────────────┘
 *   ┌──────┐                           └────────┘
 *   │ Dead │
 *   └──────┘
 *
 * Invariants
 * 1. A generation is made by complete_join alone and has one leader. It only grows, across crashes
 *    too: the row is dirty before the first reply that names it.
 * 2. A token is in one place (a member's join or sync) and leaves it through answer_join or
 *    answer_sync, which reply once, or through group_on_cancel, which does not reply.
 * 3. A parked member does not time out: the wait itself is bounded by join_deadline_ms and
 *    sync_deadline_ms. A connection that goes away un-parks its member, whose session then runs; it
 *    does not remove it.
 * 4. `dirty` is set by whatever a later answer may rely on: generations, assignments, members that
 *    left, static members that were replaced. A rebalance that has begun is not such a thing:
 *    forgotten in a crash, it begins again.
 * 5. wake_ms is never later than the first deadline. Deadlines move away without touching it; a
 *    tick that comes too early only computes it anew.
 *
 * A group's first rebalance waits group.initial.rebalance.delay.ms, and again after each window in
 * which a member came, for no longer than the rebalance timeout: as in Kafka. Without it the first
 * of many consumers that start together makes a generation of its own, and the others wait until
 * its next heartbeat tells it of them.
 *
 * Where Kafka leaves a choice: a delay that is short, or none, goes on for up to
 * GROUP_PENDING_GRACE_MS while ids are out that were just given to members. They will come, however
 * slow the machine is. */
#include "kafka-server/broker/group.h"

#include <stdlib.h>

#define BIT(s) (1u << (s))

static const unsigned moves[GROUP_STATES] = {
    [GROUP_EMPTY] = BIT(GROUP_PREPARING) | BIT(GROUP_DEAD),
    [GROUP_PREPARING] = BIT(GROUP_COMPLETING) | BIT(GROUP_EMPTY) | BIT(GROUP_DEAD),
    [GROUP_COMPLETING] = BIT(GROUP_STABLE) | BIT(GROUP_PREPARING) | BIT(GROUP_DEAD),
    [GROUP_STABLE] = BIT(GROUP_PREPARING) | BIT(GROUP_DEAD),
    [GROUP_DEAD] = 0,
};

#define NOMEM_RETRY_MS 1000 /* a generation that could not be made for want of memory */

static void set_state(struct group *g, enum group_state s)
{
    ASSERT(moves[g->state] & BIT(s));
    g->state = s;
}

/* --- time ------------------------------------------------------------------------------------ */

static void due(struct group *g, int64_t at_ms)
{
    if (at_ms < g->wake_ms) {
        g->wake_ms = at_ms;
    }
}

/* A sign of life. A first join that waits keeps its own, longer, bound. */
static void rearm(struct group *g, struct group_member *m, struct group_time now)
{
    if (m->join_token == NULL) {
        m->deadline_ms = now.mono_ms + m->session_timeout_ms;
        due(g, m->deadline_ms);
    }
}

static bool session_runs(const struct group_member *m)
{
    return m->sync_token == NULL && (m->join_token == NULL || m->is_new);
}

static void wake_compute(struct group *g)
{
    g->wake_ms = INT64_MAX;
    for (const struct group_pending *p = g->pending; p != NULL; p = p->hh.next) {
        due(g, p->deadline_ms);
    }
    for (const struct group_member *m = g->members; m != NULL; m = m->hh.next) {
        if (session_runs(m)) {
            due(g, m->deadline_ms);
        }
    }
    if (g->state == GROUP_PREPARING) {
        due(g, g->join_deadline_ms);
    }
    due(g, g->sync_deadline_ms);
}

/* --- replies --------------------------------------------------------------------------------- */

static void reply_error(const struct group_sink *out, void *token, enum kerr e,
                        struct slice member_id)
{
    struct group_reply r = {.error = e, .member_id = member_id};
    out->reply(out->arg, token, &r);
}

static void answer_join(struct group *g, struct group_member *m, enum kerr e,
                        const struct group_sink *out)
{
    if (m->join_token == NULL) {
        return;
    }
    void *token = m->join_token;
    m->join_token = NULL;
    m->anonymous = false;
    struct group_reply r = {.error = e, .group = g, .member_id = m->id};
    if (e == KERR_NONE) {
        r.member = m;
        r.leader_id = g->leader->id;
        r.with_members = g->leader == m;
    }
    out->reply(out->arg, token, &r);
}

static void answer_sync(struct group *g, struct group_member *m, enum kerr e,
                        const struct group_sink *out)
{
    if (m->sync_token == NULL) {
        return;
    }
    void *token = m->sync_token;
    m->sync_token = NULL;
    struct group_reply r = {.error = e, .group = g, .member_id = m->id};
    r.member = e == KERR_NONE ? m : NULL;
    out->reply(out->arg, token, &r);
}

/* --- rebalance ------------------------------------------------------------------------------- */

static void prepare_rebalance(struct group *g, struct group_time now, const struct group_sink *out)
{
    if (g->state == GROUP_PREPARING) {
        return;
    }
    for (struct group_member *m = g->members; m != NULL; m = m->hh.next) {
        if (m->sync_token != NULL) {
            answer_sync(g, m, KERR_REBALANCE_IN_PROGRESS, out);
            rearm(g, m, now);
        }
        group_member_set_pending_sync(g, m, false);
    }
    g->sync_deadline_ms = INT64_MAX;
    int64_t wait_ms = group_rebalance_timeout_ms(g);
    g->initial = false;
    if (g->state == GROUP_EMPTY) {
        int64_t delay_ms = g->limits->initial_delay_ms;
        g->initial = delay_ms > 0;
        g->member_added = false;
        g->initial_left_ms = wait_ms > delay_ms ? wait_ms - delay_ms : 0;
        wait_ms = g->initial ? delay_ms : GROUP_PENDING_GRACE_MS;
    }
    set_state(g, GROUP_PREPARING);
    g->join_deadline_ms = now.mono_ms + wait_ms;
    due(g, g->join_deadline_ms);
}

/* Who comes while a first rebalance waits for ids alone begins the delay anew, which is shorter. */
static void end_wait_for_ids(struct group *g, struct group_time now)
{
    int64_t sooner_ms = g->join_deadline_ms - (now.mono_ms + g->limits->initial_delay_ms);
    if (g->initial && sooner_ms > 0) {
        g->initial_left_ms += sooner_ms;
        g->join_deadline_ms -= sooner_ms;
        due(g, g->join_deadline_ms);
    }
}

static void remove_member(struct group *g, struct group_member *m, enum kerr e,
                          const struct group_sink *out)
{
    answer_join(g, m, e, out);
    answer_sync(g, m, e, out);
    if (!m->is_new) {
        g->dirty = true;
    }
    group_member_unlink(g, m);
    group_member_free(m);
}

static void remove_absent(struct group *g, const struct group_sink *out)
{
    struct group_member *m, *next;
    HASH_ITER(hh, g->members, m, next)
    {
        if (!m->joined && m->instance_id.data == NULL) {
            remove_member(g, m, KERR_UNKNOWN_MEMBER_ID, out);
        }
    }
}

/* Everybody who joined is in the new generation; static members that did not come keep their
 * place. */
static void begin_generation(struct group *g, struct group_time now, const struct group_sink *out)
{
    for (struct group_member *m = g->members; m != NULL; m = m->hh.next) {
        if (!g->leader->joined && m->joined) {
            g->leader = m;
        }
        (void)group_member_set_assignment(g, m, slice_make(NULL, 0)); /* emptying cannot fail */
        group_member_set_pending_sync(g, m, true);
    }
    set_state(g, GROUP_COMPLETING);
    g->sync_deadline_ms = now.mono_ms + group_rebalance_timeout_ms(g);
    due(g, g->sync_deadline_ms);
    for (struct group_member *m = g->members; m != NULL; m = m->hh.next) {
        if (m->joined) {
            group_member_set_joined(g, m, false);
            m->is_new = false;
            answer_join(g, m, KERR_NONE, out);
            rearm(g, m, now);
        }
    }
}

static void complete_join(struct group *g, struct group_time now, const struct group_sink *out)
{
    remove_absent(g, out);
    if (g->members != NULL && g->joined_count == 0) {
        /* Only static members, none of them here: until one comes or their sessions end there is
         * nobody to lead. */
        g->join_deadline_ms = now.mono_ms + group_rebalance_timeout_ms(g);
        due(g, g->join_deadline_ms);
        return;
    }
    struct slice name = slice_make(NULL, 0);
    bool ok = true;
    if (g->members != NULL) {
        name = group_slice_copy(group_select_protocol(g), &ok);
    }
    if (!ok) {
        g->join_deadline_ms = now.mono_ms + NOMEM_RETRY_MS;
        due(g, g->join_deadline_ms);
        return;
    }
    free((void *)g->protocol_name.data);
    g->protocol_name = name;
    g->initial = false;
    g->join_deadline_ms = INT64_MAX;
    g->generation = g->generation == INT32_MAX ? 1 : g->generation + 1;
    g->dirty = true;
    if (g->members == NULL) {
        g->empty_since_wall_ms = now.wall_ms;
        set_state(g, GROUP_EMPTY);
        return;
    }
    begin_generation(g, now, out);
}

static void maybe_complete_join(struct group *g, struct group_time now,
                                const struct group_sink *out)
{
    if (g->state == GROUP_PREPARING && !g->initial && g->joined_count == g->member_count &&
        g->pending_count == 0) {
        complete_join(g, now, out);
    }
}

/* Members have gone: the others share their work anew. */
static void after_removal(struct group *g, struct group_time now, const struct group_sink *out)
{
    if (g->state == GROUP_STABLE || g->state == GROUP_COMPLETING) {
        prepare_rebalance(g, now, out);
    }
    maybe_complete_join(g, now, out);
}

void group_rebalance(struct group *g, struct group_time now, const struct group_sink *out)
{
    after_removal(g, now, out);
}

/* --- join ------------------------------------------------------------------------------------ */

static enum kerr check_member(const struct group *g, struct slice member_id,
                              struct slice instance_id)
{
    if (instance_id.data != NULL) {
        const struct group_member *m = group_find_instance(g, instance_id);
        if (m == NULL) {
            return KERR_UNKNOWN_MEMBER_ID;
        }
        return slice_eq(m->id, member_id) ? KERR_NONE : KERR_FENCED_INSTANCE_ID;
    }
    return group_find(g, member_id) != NULL ? KERR_NONE : KERR_UNKNOWN_MEMBER_ID;
}

static bool has_room(const struct group *g, const struct group_join *ev)
{
    const struct group_member *m = ev->member_id.len == 0 && ev->instance_id.data != NULL
                                       ? group_find_instance(g, ev->instance_id)
                                       : group_find(g, ev->member_id);
    size_t bytes = 0;
    for (int32_t i = 0; i < ev->protocol_count; i++) {
        bytes += ev->protocols[i].name.len + ev->protocols[i].metadata.len;
    }
    if (bytes > GROUP_BYTES_MAX || g->bytes > GROUP_BYTES_MAX - bytes) {
        return false;
    }
    switch (g->state) {
    case GROUP_PREPARING:
        /* Those who came first have the places: the group may be over a lowered limit. */
        return (m != NULL && m->joined) || g->joined_count < g->limits->size_max;
    case GROUP_COMPLETING:
    case GROUP_STABLE:
        return m != NULL || g->member_count < g->limits->size_max;
    default:
        return true;
    }
}

static enum kerr check_join(const struct group *g, const struct group_join *ev)
{
    if (g->state == GROUP_DEAD) {
        return KERR_COORDINATOR_NOT_AVAILABLE;
    }
    if (ev->session_timeout_ms < g->limits->session_min_ms ||
        ev->session_timeout_ms > g->limits->session_max_ms) {
        return KERR_INVALID_SESSION_TIMEOUT;
    }
    if (ev->protocol_count > GROUP_PROTOCOLS_MAX || ev->member_id.len > GROUP_NAME_BYTES_MAX ||
        ev->instance_id.len > GROUP_NAME_BYTES_MAX ||
        ev->protocol_type.len > GROUP_NAME_BYTES_MAX || ev->rebalance_timeout_ms < 0) {
        return KERR_INVALID_REQUEST;
    }
    if (ev->protocol_count <= 0 || ev->protocol_type.len == 0 ||
        (g->members != NULL && !slice_eq(ev->protocol_type, g->protocol_type)) ||
        !group_supports(g, ev->protocols, ev->protocol_count)) {
        return KERR_INCONSISTENT_GROUP_PROTOCOL;
    }
    return has_room(g, ev) ? KERR_NONE : KERR_GROUP_MAX_SIZE_REACHED;
}

static void add_member(struct group *g, const struct group_join *ev, struct slice id,
                       struct group_time now, const struct group_sink *out)
{
    struct group_member *m = group_member_new(ev, id);
    bool ok = m != NULL;
    if (ok && g->members == NULL) {
        struct slice type = group_slice_copy(ev->protocol_type, &ok);
        if (ok) {
            free((void *)g->protocol_type.data);
            g->protocol_type = type;
        }
    }
    if (!ok) {
        if (m != NULL) {
            group_member_free(m);
        }
        reply_error(out, ev->token, KERR_COORDINATOR_NOT_AVAILABLE, ev->member_id);
        return;
    }
    m->is_new = m->joined = true;
    m->anonymous = ev->member_id.len == 0 && ev->instance_id.data == NULL;
    m->join_token = ev->token;
    m->deadline_ms = now.mono_ms + GROUP_NEW_MEMBER_JOIN_MS;
    due(g, m->deadline_ms);
    group_member_add(g, m);
    g->empty_since_wall_ms = -1;
    g->member_added = true;
    g->added_ms = now.mono_ms;
    prepare_rebalance(g, now, out);
    end_wait_for_ids(g, now);
}

static void wait_for_rebalance(struct group *g, struct group_member *m, void *token,
                               struct group_time now, const struct group_sink *out)
{
    m->join_token = token;
    group_member_set_joined(g, m, true);
    prepare_rebalance(g, now, out);
}

static void update_member(struct group *g, struct group_member *m, const struct group_join *ev,
                          struct group_time now, const struct group_sink *out)
{
    struct group_protocols *p = group_protocols_copy(ev->protocols, ev->protocol_count);
    if (p == NULL) {
        reply_error(out, ev->token, KERR_COORDINATOR_NOT_AVAILABLE, ev->member_id);
        return;
    }
    /* The same client asked before and waits on another connection, which it has surely given
     * up. */
    answer_join(g, m, KERR_REBALANCE_IN_PROGRESS, out);
    group_member_set_protocols(g, m, p);
    m->session_timeout_ms = ev->session_timeout_ms;
    m->rebalance_timeout_ms = ev->rebalance_timeout_ms;
    wait_for_rebalance(g, m, ev->token, now, out);
}

/* A static member has started again: it takes the place of its former self, whose requests are
 * fenced. */
static void replace_static(struct group *g, struct group_member *old, const struct group_join *ev,
                           struct group_time now, const struct group_sink *out)
{
    struct group_member *m = group_member_new(ev, ev->fresh_id);
    if (m == NULL) {
        reply_error(out, ev->token, KERR_COORDINATOR_NOT_AVAILABLE, ev->member_id);
        return;
    }
    answer_join(g, old, KERR_FENCED_INSTANCE_ID, out);
    answer_sync(g, old, KERR_FENCED_INSTANCE_ID, out);
    bool leads = g->leader == old;
    m->assignment = old->assignment;
    m->is_new = old->is_new;
    m->joined = old->joined;
    m->pending_sync = old->pending_sync;
    group_member_unlink(g, old);
    old->assignment = slice_make(NULL, 0);
    group_member_add(g, m);
    if (leads) {
        g->leader = m;
    }
    g->dirty = true;
    rearm(g, m, now);
    if (g->state == GROUP_STABLE && slice_eq(group_select_protocol(g), g->protocol_name)) {
        /* Nothing changes for the others. A leader must not assign again: since v9 it is told so;
         * before, it is told that its former self leads. */
        struct group_reply r = {.group = g, .member = m, .member_id = m->id};
        r.skip_assignment = r.with_members = leads && ev->skip_assignment;
        r.leader_id = leads && !ev->skip_assignment ? old->id : g->leader->id;
        out->reply(out->arg, ev->token, &r);
    } else {
        wait_for_rebalance(g, m, ev->token, now, out);
    }
    group_member_free(old);
}

static void join_without_id(struct group *g, const struct group_join *ev, struct group_time now,
                            const struct group_sink *out)
{
    if (ev->instance_id.data != NULL) {
        struct group_member *old = group_find_instance(g, ev->instance_id);
        if (old != NULL) {
            replace_static(g, old, ev, now, out);
        } else {
            add_member(g, ev, ev->fresh_id, now, out);
        }
        return;
    }
    if (!ev->id_required) {
        add_member(g, ev, ev->fresh_id, now, out);
        return;
    }
    int64_t deadline_ms = now.mono_ms + ev->session_timeout_ms;
    if (g->pending_count >= GROUP_PENDING_MAX || !group_pending_add(g, ev->fresh_id, deadline_ms)) {
        reply_error(out, ev->token, KERR_COORDINATOR_NOT_AVAILABLE, ev->member_id);
        return;
    }
    due(g, deadline_ms);
    reply_error(out, ev->token, KERR_MEMBER_ID_REQUIRED, ev->fresh_id);
}

static void join_with_id(struct group *g, const struct group_join *ev, struct group_time now,
                         const struct group_sink *out)
{
    struct group_pending *p = group_find_pending(g, ev->member_id);
    if (p != NULL && ev->instance_id.data == NULL) {
        group_pending_remove(g, p);
        add_member(g, ev, ev->member_id, now, out);
        return;
    }
    enum kerr e = check_member(g, ev->member_id, ev->instance_id);
    if (e != KERR_NONE) {
        reply_error(out, ev->token, e, ev->member_id);
        return;
    }
    struct group_member *m = group_find(g, ev->member_id);
    bool same = group_protocols_same(m->protocols, ev->protocols, ev->protocol_count);
    if ((g->state == GROUP_COMPLETING && same) ||
        (g->state == GROUP_STABLE && same && g->leader != m)) {
        /* It has lost the answer of this generation, or asks for no reason: it gets that answer
         * again. A leader that joins a stable group wants to assign anew (say, a topic has
         * grown). */
        struct group_reply r = {.group = g, .member = m, .member_id = m->id};
        r.leader_id = g->leader->id;
        r.with_members = g->leader == m;
        rearm(g, m, now);
        out->reply(out->arg, ev->token, &r);
        return;
    }
    update_member(g, m, ev, now, out);
}

void group_on_join(struct group *g, const struct group_join *ev, struct group_time now,
                   const struct group_sink *out)
{
    enum kerr e = check_join(g, ev);
    if (e != KERR_NONE) {
        struct group_member *m = group_find(g, ev->member_id);
        reply_error(out, ev->token, e, ev->member_id);
        if (e == KERR_GROUP_MAX_SIZE_REACHED && m != NULL) {
            remove_member(g, m, e, out);
            after_removal(g, now, out);
        }
        return;
    }
    if (ev->member_id.len == 0) {
        join_without_id(g, ev, now, out);
    } else {
        join_with_id(g, ev, now, out);
    }
    maybe_complete_join(g, now, out);
}

/* --- sync ------------------------------------------------------------------------------------ */

static enum kerr check_sync(const struct group *g, const struct group_sync *ev)
{
    if (g->state == GROUP_DEAD) {
        return KERR_COORDINATOR_NOT_AVAILABLE;
    }
    enum kerr e = check_member(g, ev->member_id, ev->instance_id);
    if (e != KERR_NONE) {
        return e;
    }
    if (ev->generation != g->generation) {
        return KERR_ILLEGAL_GENERATION;
    }
    if ((ev->protocol_type.data != NULL && !slice_eq(ev->protocol_type, g->protocol_type)) ||
        (ev->protocol_name.data != NULL && !slice_eq(ev->protocol_name, g->protocol_name))) {
        return KERR_INCONSISTENT_GROUP_PROTOCOL;
    }
    return g->state == GROUP_PREPARING ? KERR_REBALANCE_IN_PROGRESS : KERR_NONE;
}

/* Members that the leader has forgotten have an empty assignment, as begin_generation left them. */
static enum kerr take_assignments(struct group *g, const struct group_sync *ev)
{
    size_t bytes = 0;
    for (int32_t i = 0; i < ev->assignment_count; i++) {
        bytes += ev->assignments[i].bytes.len;
    }
    if (bytes > GROUP_BYTES_MAX) {
        return KERR_MESSAGE_TOO_LARGE;
    }
    for (int32_t i = 0; i < ev->assignment_count; i++) {
        struct group_member *m = group_find(g, ev->assignments[i].member_id);
        if (m != NULL && !group_member_set_assignment(g, m, ev->assignments[i].bytes)) {
            return KERR_COORDINATOR_NOT_AVAILABLE; /* the leader asks again and gives it anew */
        }
    }
    return KERR_NONE;
}

static void pending_sync_done(struct group *g, struct group_member *m)
{
    group_member_set_pending_sync(g, m, false);
    if (g->pending_sync_count == 0) {
        g->sync_deadline_ms = INT64_MAX;
    }
}

void group_on_sync(struct group *g, const struct group_sync *ev, struct group_time now,
                   const struct group_sink *out)
{
    enum kerr e = check_sync(g, ev);
    struct group_member *m = group_find(g, ev->member_id);
    if (e == KERR_NONE && g->state == GROUP_COMPLETING && g->leader == m) {
        e = take_assignments(g, ev);
    }
    if (e != KERR_NONE) {
        if (e == KERR_REBALANCE_IN_PROGRESS) {
            rearm(g, m, now);
        }
        reply_error(out, ev->token, e, ev->member_id);
        return;
    }
    pending_sync_done(g, m);
    /* It may have asked before, on a connection that it gave up. */
    answer_sync(g, m, KERR_REBALANCE_IN_PROGRESS, out);
    m->sync_token = ev->token;
    if (g->state == GROUP_STABLE) {
        answer_sync(g, m, KERR_NONE, out);
        rearm(g, m, now);
    } else if (g->leader == m) {
        set_state(g, GROUP_STABLE);
        g->dirty = true;
        for (m = g->members; m != NULL; m = m->hh.next) {
            if (m->sync_token != NULL) {
                answer_sync(g, m, KERR_NONE, out);
                rearm(g, m, now);
            }
        }
    }
}

/* --- the rest of a member's life ------------------------------------------------------------- */

enum kerr group_on_heartbeat(struct group *g, int32_t generation, struct slice member_id,
                             struct slice instance_id, struct group_time now)
{
    if (g->state == GROUP_DEAD) {
        return KERR_COORDINATOR_NOT_AVAILABLE;
    }
    enum kerr e = check_member(g, member_id, instance_id);
    if (e != KERR_NONE) {
        return e;
    }
    if (generation != g->generation) {
        return KERR_ILLEGAL_GENERATION;
    }
    rearm(g, group_find(g, member_id), now);
    return g->state == GROUP_PREPARING ? KERR_REBALANCE_IN_PROGRESS : KERR_NONE;
}

enum kerr group_on_leave(struct group *g, struct slice member_id, struct slice instance_id,
                         struct group_time now, const struct group_sink *out)
{
    if (g->state == GROUP_DEAD) {
        return KERR_COORDINATOR_NOT_AVAILABLE;
    }
    struct group_member *m = NULL;
    if (member_id.len == 0) {
        if (instance_id.data != NULL) {
            m = group_find_instance(g, instance_id);
        }
        if (m == NULL) {
            return KERR_UNKNOWN_MEMBER_ID;
        }
    } else {
        struct group_pending *p = group_find_pending(g, member_id);
        if (p != NULL) {
            group_pending_remove(g, p);
            maybe_complete_join(g, now, out);
            return KERR_NONE;
        }
        enum kerr e = check_member(g, member_id, instance_id);
        if (e != KERR_NONE) {
            return e;
        }
        m = group_find(g, member_id);
    }
    remove_member(g, m, KERR_UNKNOWN_MEMBER_ID, out);
    after_removal(g, now, out);
    return KERR_NONE;
}

enum kerr group_on_commit(struct group *g, int32_t generation, struct slice member_id,
                          struct slice instance_id, struct group_time now)
{
    if (g->state == GROUP_DEAD) {
        return KERR_COORDINATOR_NOT_AVAILABLE;
    }
    if (generation < 0 && g->state == GROUP_EMPTY) {
        return KERR_NONE; /* offsets are all that this client keeps here */
    }
    if (generation < 0 && member_id.len == 0 && instance_id.data == NULL) {
        return KERR_UNKNOWN_MEMBER_ID; /* a group that has members takes commits from them alone */
    }
    enum kerr e = check_member(g, member_id, instance_id);
    if (e != KERR_NONE) {
        return e;
    }
    if (generation != g->generation) {
        return KERR_ILLEGAL_GENERATION;
    }
    rearm(g, group_find(g, member_id), now);
    /* While members are asked to join again they may still store what they did: heartbeats tell
     * them. */
    return g->state == GROUP_COMPLETING ? KERR_REBALANCE_IN_PROGRESS : KERR_NONE;
}

void group_on_cancel(struct group *g, const void *token, struct group_time now,
                     const struct group_sink *out)
{
    for (struct group_member *m = g->members; m != NULL; m = m->hh.next) {
        if (m->join_token == token) {
            m->join_token = NULL;
            if (m->anonymous) {
                /* Nobody knows its id, so nobody can ever speak for it. */
                remove_member(g, m, KERR_UNKNOWN_MEMBER_ID, out);
                after_removal(g, now, out);
                return;
            }
            rearm(g, m, now);
            return;
        }
        if (m->sync_token == token) {
            m->sync_token = NULL;
            rearm(g, m, now);
            return;
        }
    }
}

/* --- time passes ----------------------------------------------------------------------------- */

static bool expire_pending(struct group *g, struct group_time now)
{
    bool any = false;
    struct group_pending *p, *next;
    HASH_ITER(hh, g->pending, p, next)
    {
        if (p->deadline_ms <= now.mono_ms) {
            group_pending_remove(g, p);
            any = true;
        }
    }
    return any;
}

static bool expire_sessions(struct group *g, struct group_time now, const struct group_sink *out)
{
    bool any = false;
    struct group_member *m, *next;
    HASH_ITER(hh, g->members, m, next)
    {
        if (session_runs(m) && m->deadline_ms <= now.mono_ms) {
            remove_member(g, m, KERR_UNKNOWN_MEMBER_ID, out);
            any = true;
        }
    }
    return any;
}

/* How much longer a first rebalance waits; 0: no longer. */
static int64_t more_ms(const struct group *g, struct group_time now)
{
    int64_t more = g->member_added          ? g->limits->initial_delay_ms
                   : g->pending_count > 0 ? g->added_ms + GROUP_PENDING_GRACE_MS - now.mono_ms
                                            : 0;
    more = more < g->initial_left_ms ? more : g->initial_left_ms;
    return g->initial && more > 0 ? more : 0;
}

static void join_time_is_up(struct group *g, struct group_time now, const struct group_sink *out)
{
    int64_t more = more_ms(g, now);
    if (more > 0) {
        g->initial_left_ms -= more;
        g->member_added = false;
        g->join_deadline_ms = now.mono_ms + more;
        return;
    }
    complete_join(g, now, out);
}

static void sync_time_is_up(struct group *g, struct group_time now, const struct group_sink *out)
{
    struct group_member *m, *next;
    HASH_ITER(hh, g->members, m, next)
    {
        if (m->pending_sync) {
            remove_member(g, m, KERR_UNKNOWN_MEMBER_ID, out);
        }
    }
    prepare_rebalance(g, now, out);
    maybe_complete_join(g, now, out);
}

void group_on_tick(struct group *g, struct group_time now, const struct group_sink *out)
{
    if (now.mono_ms < g->wake_ms) {
        return;
    }
    if (expire_pending(g, now)) {
        maybe_complete_join(g, now, out);
    }
    if (expire_sessions(g, now, out)) {
        after_removal(g, now, out);
    }
    if (g->state == GROUP_PREPARING && g->join_deadline_ms <= now.mono_ms) {
        join_time_is_up(g, now, out);
    }
    if (g->sync_deadline_ms <= now.mono_ms) {
        sync_time_is_up(g, now, out);
    }
    wake_compute(g);
}

void group_on_load(struct group *g, struct group_time now)
{
    for (struct group_member *m = g->members; m != NULL; m = m->hh.next) {
        rearm(g, m, now);
        group_member_set_pending_sync(g, m, g->state == GROUP_COMPLETING);
    }
    int64_t deadline_ms = now.mono_ms + group_rebalance_timeout_ms(g);
    if (g->state == GROUP_PREPARING) {
        g->join_deadline_ms = deadline_ms;
    } else if (g->state == GROUP_COMPLETING) {
        g->sync_deadline_ms = deadline_ms;
    }
    wake_compute(g);
}

void group_answer_parked(struct group *g, enum kerr error, const struct group_sink *out)
{
    for (struct group_member *m = g->members; m != NULL; m = m->hh.next) {
        answer_join(g, m, error, out);
        answer_sync(g, m, error, out);
    }
}

void group_kill(struct group *g, enum kerr error, const struct group_sink *out)
{
    while (g->members != NULL) {
        remove_member(g, g->members, error, out);
    }
    while (g->pending != NULL) {
        group_pending_remove(g, g->pending);
    }
    set_state(g, GROUP_DEAD);
    g->join_deadline_ms = g->sync_deadline_ms = g->wake_ms = INT64_MAX;
}
