/* Offsets of groups: whether they may be committed, staging them, taking them away.
 *
 *   commit ─▶ coordinator_commit: may it? ─▶ coordinator_commit_put ─▶ staged, row put
 *                                     the turn's commit ─▶ staged_done ─▶ the table in memory
 *
 * Offsets are staged, put into the commit, and enter the table in memory when they are stored.
 * Readers see stored offsets only. */
#include "kafka-server/broker/coordinator_int.h"

#include "shared/base/clock.h"
#include "shared/base/list.h"
#include "shared/base/log.h"

/* --- staging --------------------------------------------------------------------------------- */

static void stage(struct coordinator *c, struct coordinated *g, struct offset_entry *entry)
{
    c->staged[c->staged_count++] = entry;
    g->staged++;
    offset_row_key(&c->key, g->group->id, entry->topic, entry->partition);
    if (entry->removes) {
        journal_delete(c->journal, buf_slice(&c->key));
    } else {
        offset_row_encode(&entry->row, &c->value);
        journal_fail(c->journal, buf_ok(&c->value) ? OK : ERR_NOMEM);
        journal_put(c->journal, buf_slice(&c->key), buf_slice(&c->value));
    }
}

/* Room for one more; false: without memory. */
static bool stage_room(struct coordinator *c)
{
    return list_reserve(&c->staged, &c->staged_room, c->staged_count + 1, sizeof *c->staged);
}

void coordinator_staged_done(struct coordinator *c, enum err e)
{
    for (size_t i = 0; i < c->staged_count; i++) {
        struct offset_entry *x = c->staged[i];
        struct coordinated *g = x->group;
        g->staged--;
        c->offset_count -= g->offsets.count;
        if (e != OK || x->removes) {
            if (e == OK) {
                offsets_remove(&g->offsets, x->topic, x->partition);
            }
            offset_entry_free(x);
        } else {
            offsets_put(&g->offsets, x);
        }
        c->offset_count += g->offsets.count;
    }
    c->staged_count = 0;
}

/* --- offsets --------------------------------------------------------------------------------- */

enum kerr coordinator_commit(struct coordinator *c, struct slice group_id, int32_t generation,
                             struct slice member_id, struct slice instance_id, bool unknown_is_404,
                             struct coordinated **out)
{
    if (c == NULL) {
        return KERR_COORDINATOR_NOT_AVAILABLE;
    }
    if (group_id.len > GROUP_ID_BYTES_MAX) { /* an empty one is allowed here, for old clients */
        return KERR_INVALID_GROUP_ID;
    }
    struct coordinated *g = coordinated_find(c, group_id);
    if (g == NULL && generation >= 0) {
        return unknown_is_404 ? KERR_GROUP_ID_NOT_FOUND : KERR_ILLEGAL_GENERATION;
    }
    if (g == NULL) {
        g = coordinated_find_or_make(c, group_id);
    }
    if (g == NULL || g->deleting) { /* the commit of this turn takes it away */
        return KERR_COORDINATOR_NOT_AVAILABLE;
    }
    enum kerr e =
        g->consumer != NULL
            ? cgroup_on_commit(g->consumer, generation, member_id, unknown_is_404)
            : group_on_commit(g->group, generation, member_id, instance_id, coordinator_now());
    coordinated_touched(c, g);
    *out = g;
    return e;
}

/* Room that is held for a transaction counts as taken. */
static bool is_full(const struct coordinator *c, const struct coordinated *g, struct slice topic,
                    int32_t partition)
{
    bool full = g->offsets.count + g->staged + g->held >= OFFSETS_PER_GROUP_MAX ||
                c->offset_count + c->staged_count + c->held >= COORDINATOR_OFFSETS_MAX;
    return full && offsets_find(&g->offsets, topic, partition) == NULL;
}

static enum err stage_commit(struct coordinator *c, struct coordinated *g, struct slice topic,
                             int32_t partition, const struct offset_row *row, int64_t retention_ms)
{
    int64_t wall_ms = clock_wall_ms();
    struct offset_row now = *row;
    now.commit_ms = wall_ms;
    now.expire_ms =
        retention_ms >= 0 && retention_ms < INT64_MAX - wall_ms ? wall_ms + retention_ms : -1;
    struct offset_entry *e =
        stage_room(c) ? offset_entry_new(&c->offset_topics, g, topic, partition, &now) : NULL;
    if (e == NULL) {
        return ERR_NOMEM;
    }
    stage(c, g, e);
    return OK;
}

enum kerr coordinator_commit_put(struct coordinator *c, struct coordinated *g, struct slice topic,
                                 int32_t partition, const struct offset_row *row,
                                 int64_t retention_ms)
{
    if (row->metadata.len > (size_t)c->metadata_bytes_max) {
        return KERR_OFFSET_METADATA_TOO_LARGE;
    }
    if (is_full(c, g, topic, partition)) {
        return KERR_POLICY_VIOLATION;
    }
    return stage_commit(c, g, topic, partition, row, retention_ms) == OK
               ? KERR_NONE
               : KERR_COORDINATOR_NOT_AVAILABLE;
}

enum kerr coordinator_txn_commit(struct coordinator *c, struct slice group_id, int32_t generation,
                                 struct slice member_id, struct slice instance_id)
{
    struct coordinated *g;
    bool nobody = generation < 0 && member_id.len == 0 && instance_id.len == 0;
    if (c == NULL) {
        return KERR_COORDINATOR_NOT_AVAILABLE;
    }
    if (nobody && group_id.len <= GROUP_ID_BYTES_MAX) {
        return KERR_NONE;
    }
    const struct cgroup *consumer = coordinator_find_consumer(c, group_id);
    if (consumer != NULL) {
        enum kerr of_member = cgroup_on_commit(consumer, generation, member_id, true);
        /* Clients of transactions do not know member epochs' errors. */
        return of_member == KERR_STALE_MEMBER_EPOCH ? KERR_ILLEGAL_GENERATION : of_member;
    }
    enum kerr e =
        coordinator_commit(c, group_id, generation, member_id, instance_id, false, &g);
    /* Between two generations, too: what the member has read belongs to the one that it is in. */
    return e == KERR_REBALANCE_IN_PROGRESS ? KERR_NONE : e;
}

enum kerr coordinator_txn_hold(struct coordinator *c, struct slice group_id, struct slice topic,
                               int32_t partition, bool known)
{
    struct coordinated *g = known ? coordinated_find_or_restore(c, group_id)
                                  : coordinated_find_or_make(c, group_id);
    if (g == NULL || g->deleting) {
        return KERR_COORDINATOR_NOT_AVAILABLE;
    }
    if (!known && is_full(c, g, topic, partition)) {
        coordinated_forget_if_new(c, g);
        return KERR_POLICY_VIOLATION;
    }
    g->held++;
    c->held++;
    return KERR_NONE;
}

void coordinator_txn_let_go(struct coordinator *c, struct slice group_id)
{
    struct coordinated *g = coordinated_find(c, group_id);
    if (g != NULL && g->held > 0) { /* else it was deleted */
        g->held--;
        c->held--;
        coordinated_forget_if_new(c, g);
    }
}

enum err coordinator_txn_commit_put(struct coordinator *c, struct slice group_id,
                                    struct slice topic, int32_t partition,
                                    const struct offset_row *row)
{
    struct coordinated *g = coordinated_find_or_restore(c, group_id);
    return g != NULL ? stage_commit(c, g, topic, partition, row, -1) : ERR_NOMEM;
}

enum kerr coordinator_offset_fetch(const struct coordinator *c, struct slice group_id,
                                   int32_t epoch, struct slice member_id)
{
    const struct cgroup *consumer = coordinator_find_consumer(c, group_id);
    return consumer != NULL ? cgroup_on_offset_fetch(consumer, epoch, member_id) : KERR_NONE;
}

bool coordinator_stage_removal(struct coordinator *c, struct coordinated *g, struct slice topic,
                               int32_t partition)
{
    struct offset_entry *e =
        stage_room(c) ? offset_entry_new(&c->offset_topics, g, topic, partition, NULL) : NULL;
    if (e != NULL) {
        stage(c, g, e);
    }
    return e != NULL;
}

enum kerr coordinator_delete_offsets(struct coordinator *c, struct slice group_id,
                                     struct coordinated **out)
{
    enum kerr e = coordinator_check_call(c, group_id);
    if (e != KERR_NONE) {
        return e;
    }
    struct coordinated *g = coordinated_find(c, group_id);
    if (g == NULL || g->group->state == GROUP_DEAD) {
        return KERR_GROUP_ID_NOT_FOUND;
    }
    if (g->consumer == NULL && g->group->state != GROUP_EMPTY && !group_is_consumer(g->group)) {
        return KERR_NON_EMPTY_GROUP;
    }
    *out = g;
    return KERR_NONE;
}

enum kerr coordinator_delete_offset(struct coordinator *c, struct coordinated *g,
                                    struct slice topic, int32_t partition)
{
    if (g->consumer != NULL ? cgroup_subscribes(g->consumer, topic)
                            : group_subscribes(g->group, topic)) {
        return KERR_GROUP_SUBSCRIBED_TO_TOPIC;
    }
    return coordinator_stage_removal(c, g, topic, partition) ? KERR_NONE
                                                             : KERR_COORDINATOR_NOT_AVAILABLE;
}

/* Removals are put before the others in the topic's list: they are not come upon. */
static void remove_of_topic(struct coordinator *c, struct slice topic, const struct uuid *but)
{
    size_t dropped = 0;
    for (struct offset_entry *e = offsets_of_topic(&c->offset_topics, topic); e != NULL;
         e = e->next) {
        bool stays = e->removes || (but != NULL && (uuid_is_zero(&e->row.topic_id) ||
                                                    uuid_equal(&e->row.topic_id, but)));
        if (!stays && !coordinator_stage_removal(c, e->group, topic, e->partition)) {
            log_error("offsets of a deleted topic are left for want of memory topic=%.*s",
                      (int)topic.len, (const char *)topic.data);
            return;
        }
        dropped += !stays;
    }
    if (dropped > 0) {
        log_info("offsets of a deleted topic are deleted topic=%.*s offsets=%zu", (int)topic.len,
                 (const char *)topic.data, dropped);
    }
}

void coordinator_topic_gone(struct coordinator *c, struct slice topic)
{
    remove_of_topic(c, topic, NULL);
}

void coordinator_topic_came(struct coordinator *c, struct slice topic, const struct uuid *id)
{
    remove_of_topic(c, topic, id);
}
