/* Groups of the consumer protocol: the same guests in another room.
 *
 * A group is of one kind at a time (`consumer` is NULL, or it is what counts) and changes it here:
 *
 *      empty classic ── a consumer heartbeat joins ──▶ consumer     as if it were a new one
 *      classic ──────── a consumer heartbeat joins ──▶ consumer     with its members (upgrade)
 *      empty consumer ─ a JoinGroup ─────────────────▶ classic      as if it were a new one
 *      consumer ─────── the last consumer member goes ▶ classic     with its members (downgrade)
 *
 * Either way it is one row under one key, so a change of kind is as atomic as any other, and a
 * commit that fails takes it back. Requests of classic members come here from coordinator.c when
 * the group is of this kind; they are answered at once. */
#include "kafka-server/broker/coordinator_int.h"

#include <stdlib.h>

#include "shared/base/log.h"

/* --- topics ---------------------------------------------------------------------------------- */

static void topics_fini(struct coordinator *c)
{
    for (size_t i = 0; i < c->topics.count; i++) {
        free((void *)c->topic_list[i].name.data);
    }
    free(c->topic_list);
    c->topic_list = NULL;
    c->topics.list = NULL;
    c->topics.count = 0;
}

void coordinator_set_topics(struct coordinator *c, const struct cgroup_topic *list, size_t count)
{
    struct cgroup_topic *copy = calloc(count + 1, sizeof *copy);
    bool ok = copy != NULL;
    for (size_t i = 0; ok && i < count; i++) {
        copy[i] = list[i];
        copy[i].name = group_slice_copy(list[i].name, &ok);
    }
    if (!ok) { /* topics that appear late are better than none */
        for (size_t i = 0; copy != NULL && i < count; i++) {
            free((void *)copy[i].name.data);
        }
        free(copy);
        log_error("topics have changed and groups are not told of it for want of memory");
        return;
    }
    topics_fini(c);
    c->topic_list = copy;
    c->topics.list = copy;
    c->topics.count = count;
    c->topics.version++;
}

void coordinator_topics_changed(struct coordinator *c)
{
    c->topics_stale = true;
}

void coordinator_ask_topics(struct coordinator *c, void (*fn)(void *arg), void *arg)
{
    c->ask_topics = fn;
    c->ask_topics_arg = arg;
    c->topics_stale = true;
}

static const struct cgroup_topics *coordinator_topics(struct coordinator *c)
{
    if (c->topics_stale && c->ask_topics != NULL) {
        c->topics_stale = false;
        c->ask_topics(c->ask_topics_arg);
    }
    return &c->topics;
}

void coordinator_consumer_fini(struct coordinator *c)
{
    topics_fini(c);
}

/* --- settings -------------------------------------------------------------------------------- */

/* "uniform,range"; both in this order where nothing is said. */
static void take_assignors(struct cgroup_limits *limits, const char *text)
{
    limits->assignor_count = 0;
    for (const char *at = text != NULL ? text : ""; *at != '\0';) {
        size_t len = strcspn(at, ",");
        const char *from = at + strspn(at, " ");
        size_t used = (size_t)(at + len - from);
        while (used > 0 && from[used - 1] == ' ') {
            used--;
        }
        enum assignor_kind kind;
        if (limits->assignor_count < ASSIGNORS && assignor_find(slice_make(from, used), &kind)) {
            limits->assignors[limits->assignor_count++] = kind;
        }
        at += len + (at[len] == ',');
    }
    if (limits->assignor_count == 0) {
        limits->assignors[0] = ASSIGNOR_UNIFORM;
        limits->assignors[1] = ASSIGNOR_RANGE;
        limits->assignor_count = ASSIGNORS;
    }
}

void coordinator_consumer_reload(struct coordinator *c, const struct config_server *cfg)
{
    struct cgroup_limits *limits = &c->consumer_limits;
    enum config_migration policy = cfg->group_consumer_migration_policy;
    limits->session_timeout_ms = cfg->group_consumer_session_timeout_ms;
    limits->heartbeat_interval_ms = cfg->group_consumer_heartbeat_interval_ms;
    limits->size_max = cfg->group_consumer_max_size;
    limits->classic_size_max = cfg->group_max_size;
    limits->upgrade = policy == CONFIG_MIGRATION_UPGRADE || policy == CONFIG_MIGRATION_BOTH;
    limits->downgrade = policy == CONFIG_MIGRATION_DOWNGRADE || policy == CONFIG_MIGRATION_BOTH;
    take_assignors(limits, cfg->group_consumer_assignors);
    coordinator_config_reload(c);
}

/* --- from one kind to the other -------------------------------------------------------------- */

/* Takes group and consumer; what was before is freed. The row is written in this turn, but for a
 * new consumer group, which may come to nothing. */
static void become(struct coordinator *c, struct coordinated *g, struct group *group,
                   struct cgroup *consumer)
{
    coordinated_replace(c, g, group, consumer);
    group->dirty = group->dirty || consumer == NULL;
    if (consumer != NULL) {
        consumer->dirty = consumer->members != NULL;
    }
    coordinated_touched(c, g);
}

/* On KERR_NONE the group is of the consumer protocol. */
static enum kerr upgrade(struct coordinator *c, struct coordinated *g, const char **why)
{
    bool empty = g->group->members == NULL;
    const struct cgroup_limits *limits = coordinator_limits(c, g->group->id);
    struct cgroup *consumer =
        empty ? cgroup_new(g->group->id, limits)
              : cgroup_from_classic(g->group, limits, coordinator_topics(c), why);
    if (*why != NULL) {
        log_info("group stays a classic one group=%.*s: %s", (int)g->group->id.len,
                 (const char *)g->group->id.data, *why);
        return KERR_GROUP_ID_NOT_FOUND;
    }
    struct group *group = consumer != NULL ? group_new(g->group->id, &c->limits) : NULL;
    if (group == NULL) {
        cgroup_free(consumer);
        *why = "No memory for the group.";
        return KERR_COORDINATOR_NOT_AVAILABLE;
    }
    group_answer_parked(g->group, KERR_REBALANCE_IN_PROGRESS, &coordinator_sink);
    if (!empty) {
        cgroup_on_load(consumer, coordinator_now());
        log_info("group becomes one of the consumer protocol group=%.*s members=%d",
                 (int)group->id.len, (const char *)group->id.data, consumer->member_count);
    }
    become(c, g, group, consumer);
    return KERR_NONE;
}

/* Nobody speaks the consumer protocol here any more. */
void coordinator_maybe_downgrade(struct coordinator *c, struct coordinated *g)
{
    if (g->consumer == NULL || g->consumer->broken || !cgroup_is_classic(g->consumer)) {
        return;
    }
    struct group *group = cgroup_to_classic(g->consumer, &c->limits, coordinator_topics(c));
    if (group == NULL) {
        journal_fail(c->journal, ERR_NOMEM);
        return;
    }
    log_info("group becomes one of the classic protocol group=%.*s members=%d", (int)group->id.len,
             (const char *)group->id.data, group->member_count);
    become(c, g, group, NULL);
    group_on_load(group, coordinator_now());
    group_rebalance(group, coordinator_now(), &coordinator_sink);
    coordinated_touched(c, g);
}

/* A new group whose first member was refused is none. */
static void forget_if_refused(struct coordinator *c, struct coordinated *g)
{
    if (g->consumer == NULL || g->consumer->members != NULL || g->consumer->epoch > 0) {
        return;
    }
    struct group *group = group_new(g->group->id, &c->limits);
    if (group != NULL) {
        coordinated_replace(c, g, group, NULL);
        coordinated_touched(c, g);
    }
}

bool coordinator_forget_empty_consumer(struct coordinator *c, struct coordinated *g)
{
    struct group *group = group_new(g->group->id, &c->limits);
    if (group != NULL) {
        become(c, g, group, NULL);
    }
    return group != NULL;
}

/* --- heartbeats ------------------------------------------------------------------------------ */

static void refuse(struct cgroup_reply *out, enum kerr e, const char *why)
{
    out->error = e;
    out->why = why;
}

/* The group of a request that was checked; NULL: refused. */
static struct coordinated *group_for(struct coordinator *c, struct slice group_id,
                                     const struct cgroup_heartbeat *ev, struct cgroup_reply *out)
{
    struct coordinated *g = coordinated_find(c, group_id);
    bool joins = ev->member_epoch == CGROUP_JOIN_EPOCH;
    if (g != NULL && g->deleting) {
        refuse(out, KERR_COORDINATOR_NOT_AVAILABLE, NULL);
        return NULL;
    }
    if (g != NULL && g->consumer != NULL) {
        return g;
    }
    if (!joins) {
        refuse(out, KERR_GROUP_ID_NOT_FOUND, "There is no such consumer group.");
        return NULL;
    }
    g = g != NULL ? g : coordinated_find_or_make(c, group_id);
    if (g == NULL) {
        refuse(out, KERR_COORDINATOR_NOT_AVAILABLE, "There are too many groups.");
        return NULL;
    }
    const char *why = NULL;
    enum kerr e =
        g->group->state == GROUP_DEAD ? KERR_COORDINATOR_NOT_AVAILABLE : upgrade(c, g, &why);
    if (e != KERR_NONE) {
        refuse(out, e, why);
        coordinated_forget_if_new(c, g);
        return NULL;
    }
    return g;
}

static void log_member(const struct coordinated *g, const struct cgroup_heartbeat *ev,
                       const struct cgroup_reply *out)
{
    if (out->error == KERR_NONE && ev->member_epoch <= 0) {
        log_info("member %s group=%.*s member=%.*s epoch=%d",
                 ev->member_epoch == 0 ? "joined" : "left", (int)g->group->id.len,
                 (const char *)g->group->id.data, (int)ev->member_id.len,
                 (const char *)ev->member_id.data, out->member_epoch);
    }
}

void coordinator_consumer_heartbeat(struct coordinator *c, struct slice group_id,
                                    struct cgroup_heartbeat *ev, bool id_required,
                                    struct cgroup_reply *out)
{
    *out = (struct cgroup_reply){.member_id = ev->member_id, .member_epoch = ev->member_epoch};
    if (c == NULL || c->stopping) {
        refuse(out, KERR_COORDINATOR_NOT_AVAILABLE, NULL);
        return;
    }
    if (group_id.len == 0 || group_id.len > GROUP_ID_BYTES_MAX) {
        refuse(out, KERR_INVALID_REQUEST, "GroupId can't be empty, nor longer than 700 bytes.");
        return;
    }
    enum kerr e;
    const char *why = cgroup_check_heartbeat(&c->consumer_limits, ev, id_required, &e);
    if (e == KERR_NONE && c->bytes > COORDINATOR_BYTES_MAX && ev->member_epoch == 0) {
        e = KERR_GROUP_MAX_SIZE_REACHED;
        why = "All groups together take too much memory.";
    }
    if (e != KERR_NONE) {
        refuse(out, e, why);
        return;
    }
    if (ev->member_id.len == 0) { /* a client of version 0 is given one */
        struct uuid id = uuid_random();
        uuid_to_text(&id, c->fresh_id);
        ev->member_id = slice_str(c->fresh_id);
    }
    if (ev->client_id.len > GROUP_NAME_BYTES_MAX) {
        ev->client_id.len = GROUP_NAME_BYTES_MAX;
    }
    struct coordinated *g = group_for(c, group_id, ev, out);
    if (g == NULL) {
        return;
    }
    cgroup_on_heartbeat(g->consumer, ev, coordinator_topics(c), coordinator_now(), out);
    log_member(g, ev, out);
    if (g->consumer->broken) {
        refuse(out, KERR_COORDINATOR_NOT_AVAILABLE, NULL);
    }
    coordinated_touched(c, g);
    coordinator_maybe_downgrade(c, g);
    forget_if_refused(c, g);
    coordinated_forget_if_new(c, g);
}

int32_t coordinator_heartbeat_interval_ms(const struct coordinator *c, struct slice group_id)
{
    return c != NULL ? coordinator_limits(c, group_id)->heartbeat_interval_ms : 0;
}

/* --- members of the classic protocol --------------------------------------------------------- */

/* The answer to a join or a sync in the form in which a classic group gives it: its shape is made
 * here, for as long as `prepare` looks at it. */
static void reply_classic(struct group_call *call, const struct cgroup_member *m,
                          struct slice assignment)
{
    struct group shape = {
        .generation = m->epoch,
        .protocol_type = slice_str("consumer"),
        .protocol_name = m->protocols->list[0].name,
    };
    const struct group_member who = {.assignment = assignment};
    const struct group_reply r = {
        .group = &shape,
        .member = &who,
        .member_id = m->id,
        .leader_id = slice_make("", 0),
    };
    coordinator_sink.reply(NULL, call, &r);
}

static void reply_error(struct group_call *call, enum kerr e, struct slice member_id)
{
    const struct group_reply r = {.error = e, .member_id = member_id};
    coordinator_sink.reply(NULL, call, &r);
}

void coordinator_consumer_join(struct coordinator *c, struct coordinated *g,
                               const struct group_join *ev, struct group_call *call)
{
    const struct cgroup_member *m = NULL;
    enum kerr e = cgroup_on_join(g->consumer, ev, coordinator_topics(c), coordinator_now(), &m);
    if (e == KERR_NONE && (m == NULL || g->consumer->broken)) {
        e = KERR_COORDINATOR_NOT_AVAILABLE;
    }
    if (e == KERR_NONE) {
        reply_classic(call, m, slice_make("", 0));
    } else {
        reply_error(call, e, e == KERR_MEMBER_ID_REQUIRED ? ev->fresh_id : ev->member_id);
    }
    coordinated_touched(c, g);
    coordinator_maybe_downgrade(c, g);
}

void coordinator_consumer_sync(struct coordinator *c, struct coordinated *g,
                               const struct group_sync *ev, struct group_call *call)
{
    const struct cgroup_member *m = NULL;
    enum kerr e = cgroup_on_sync(g->consumer, ev, coordinator_now(), &m);
    struct buf b;
    buf_init(&b, GROUP_BYTES_MAX);
    if (e == KERR_NONE) {
        cgroup_classic_assignment(m, &m->assigned, coordinator_topics(c), &b);
        e = buf_ok(&b) ? KERR_NONE : KERR_COORDINATOR_NOT_AVAILABLE;
    }
    if (e == KERR_NONE) {
        reply_classic(call, m, buf_slice(&b));
    } else {
        reply_error(call, e, ev->member_id);
    }
    buf_fini(&b);
    coordinated_touched(c, g);
}

/* --- what there is --------------------------------------------------------------------------- */

const struct cgroup *coordinator_find_consumer(const struct coordinator *c, struct slice group_id)
{
    const struct coordinated *g = coordinated_find(c, group_id);
    return g != NULL && g->group->state != GROUP_DEAD ? g->consumer : NULL;
}
