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

static void stage(struct coordinator *c, struct coordinated *g, struct offset_entry *entry,
                  bool removes)
{
    c->staged[c->staged_count++] = (struct staged){g, entry, removes};
    g->staged++;
    offset_row_key(&c->key, g->group->id, entry->topic, entry->partition);
    if (removes) {
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
        struct staged *s = &c->staged[i];
        s->g->staged--;
        c->offset_count -= s->g->offsets.count;
        if (e != OK || s->removes) {
            if (e == OK) {
                offsets_remove(&s->g->offsets, s->entry->topic, s->entry->partition);
            }
            offset_entry_free(s->entry);
        } else {
            offsets_put(&s->g->offsets, s->entry);
        }
        c->offset_count += s->g->offsets.count;
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
    if (g == NULL) {
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
    struct offset_entry *e = stage_room(c) ? offset_entry_new(topic, partition, &now) : NULL;
    if (e == NULL) {
        return ERR_NOMEM;
    }
    stage(c, g, e, false);
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
    const struct offset_row none = {0};
    struct offset_entry *e = stage_room(c) ? offset_entry_new(topic, partition, &none) : NULL;
    if (e != NULL) {
        stage(c, g, e, true);
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

void coordinator_topic_gone(struct coordinator *c, struct slice topic)
{
    for (struct coordinated *g = c->groups; g != NULL; g = g->hh.next) {
        for (struct offset_entry *e = g->offsets.entries; e != NULL; e = e->hh.next) {
            if (slice_eq(e->topic, topic) &&
                !coordinator_stage_removal(c, g, topic, e->partition)) {
                log_error("offsets of a deleted topic are left for want of memory");
                return;
            }
        }
    }
}

static bool made_anew(const struct offset_entry *e, topic_id_fn *id_of, void *arg)
{
    const struct uuid *id = uuid_is_zero(&e->row.topic_id) ? NULL : id_of(arg, e->topic);
    return id != NULL && memcmp(id->b, e->row.topic_id.b, sizeof id->b) != 0;
}

void coordinator_check_topics(struct coordinator *c, topic_id_fn *id_of, void *arg)
{
    size_t dropped = 0;
    bool ok = true;
    /* What is on its way into the table, too: it was committed before the change. */
    for (size_t i = 0, count = c->staged_count; ok && i < count; i++) {
        const struct staged s = c->staged[i];
        if (!s.removes && made_anew(s.entry, id_of, arg)) {
            ok = coordinator_stage_removal(c, s.g, s.entry->topic, s.entry->partition);
            dropped++;
        }
    }
    for (struct coordinated *g = c->groups; ok && g != NULL; g = g->hh.next) {
        for (struct offset_entry *e = g->offsets.entries; ok && e != NULL; e = e->hh.next) {
            if (made_anew(e, id_of, arg)) {
                ok = coordinator_stage_removal(c, g, e->topic, e->partition);
                dropped++;
            }
        }
    }
    if (!ok) {
        log_error("offsets of a topic that was made anew are left for want of memory");
    } else if (dropped > 0) {
        log_info("offsets of topics that were made anew are deleted offsets=%zu", dropped);
    }
}
