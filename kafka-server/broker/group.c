/* Members of a group, their protocols, and who votes for what. No rule of the protocol lives here.
 *
 * Members are in a hash by id, which keeps the order in which they came: "first member" means that
 * order. Static members are in a second hash by instance id. Four counts (members, joined, pending
 * ids, pending syncs) are kept by the functions below and by nobody else, so that "have all
 * joined?" costs nothing in a group of thousands.
 *
 * uthash aborts when it cannot get memory for its table: a few bytes a member, as the process would
 * soon do anyway. What comes from outside and may be large (metadata, assignments, names) is
 * allocated so that it may fail. */
#include "kafka-server/broker/group.h"

#include <stdlib.h>

const char *group_state_name(enum group_state s)
{
    static const char *const names[GROUP_STATES] = {
        [GROUP_EMPTY] = "Empty",
        [GROUP_PREPARING] = "PreparingRebalance",
        [GROUP_COMPLETING] = "CompletingRebalance",
        [GROUP_STABLE] = "Stable",
        [GROUP_DEAD] = "Dead",
    };
    return names[s];
}

struct slice group_slice_copy(struct slice s, bool *ok)
{
    if (s.data == NULL) {
        return s;
    }
    uint8_t *p = malloc(s.len + 1);
    if (p == NULL) {
        *ok = false;
        return slice_make(NULL, 0);
    }
    memcpy(p, s.data, s.len);
    p[s.len] = '\0';
    return slice_make(p, s.len);
}

static void slice_drop(struct slice *s)
{
    free((void *)s->data);
    *s = slice_make(NULL, 0);
}

struct group *group_new(struct slice id, const struct group_limits *limits)
{
    struct group *g = calloc(1, sizeof *g);
    bool ok = g != NULL;
    if (ok) {
        g->id = group_slice_copy(id, &ok);
        g->limits = limits;
        g->empty_since_wall_ms = -1;
        g->join_deadline_ms = g->sync_deadline_ms = g->wake_ms = INT64_MAX;
    }
    if (!ok) {
        free(g);
        return NULL;
    }
    return g;
}

void group_free(struct group *g)
{
    if (g == NULL) {
        return;
    }
    while (g->members != NULL) {
        struct group_member *m = g->members;
        ASSERT(m->join_token == NULL && m->sync_token == NULL);
        group_member_unlink(g, m);
        group_member_free(m);
    }
    while (g->pending != NULL) {
        group_pending_remove(g, g->pending);
    }
    slice_drop(&g->id);
    slice_drop(&g->protocol_type);
    slice_drop(&g->protocol_name);
    free(g);
}

/* --- ids that were given out ----------------------------------------------------------------- */

struct group_pending *group_find_pending(const struct group *g, struct slice member_id)
{
    struct group_pending *p = NULL;
    HASH_FIND(hh, g->pending, member_id.data, member_id.len, p);
    return p;
}

bool group_pending_add(struct group *g, struct slice id, int64_t deadline_ms)
{
    struct group_pending *p = calloc(1, sizeof *p);
    bool ok = p != NULL;
    if (ok) {
        p->id = group_slice_copy(id, &ok);
    }
    if (!ok) {
        free(p);
        return false;
    }
    p->deadline_ms = deadline_ms;
    HASH_ADD_KEYPTR(hh, g->pending, p->id.data, p->id.len, p);
    g->pending_count++;
    return true;
}

void group_pending_remove(struct group *g, struct group_pending *p)
{
    HASH_DELETE(hh, g->pending, p);
    g->pending_count--;
    slice_drop(&p->id);
    free(p);
}

/* --- protocols ------------------------------------------------------------------------------- */

/* The list, the names and the metadata in one block: one allocation that may fail, one free. */
struct group_protocols *group_protocols_copy(const struct group_protocol *list, int32_t count)
{
    size_t bytes = 0;
    for (int32_t i = 0; i < count; i++) {
        bytes += list[i].name.len + list[i].metadata.len;
    }
    struct group_protocols *p = malloc(sizeof *p + (size_t)count * sizeof p->list[0] + bytes);
    if (p == NULL) {
        return NULL;
    }
    p->count = count;
    p->bytes = bytes;
    uint8_t *at = (uint8_t *)&p->list[count];
    for (int32_t i = 0; i < count; i++) {
        const struct slice parts[2] = {list[i].name, list[i].metadata};
        struct slice *to[2] = {&p->list[i].name, &p->list[i].metadata};
        for (int k = 0; k < 2; k++) {
            if (parts[k].len > 0) {
                memcpy(at, parts[k].data, parts[k].len);
            }
            *to[k] = slice_make(at, parts[k].len);
            at += parts[k].len;
        }
    }
    return p;
}

bool group_protocols_same(const struct group_protocols *a, const struct group_protocol *list,
                          int32_t count)
{
    if (a->count != count) {
        return false;
    }
    for (int32_t i = 0; i < count; i++) {
        if (!slice_eq(a->list[i].name, list[i].name) ||
            !slice_eq(a->list[i].metadata, list[i].metadata)) {
            return false;
        }
    }
    return true;
}

static bool member_supports(const struct group_member *m, struct slice name)
{
    for (int32_t i = 0; i < m->protocols->count; i++) {
        if (slice_eq(m->protocols->list[i].name, name)) {
            return true;
        }
    }
    return false;
}

static bool all_support(const struct group *g, struct slice name)
{
    for (const struct group_member *m = g->members; m != NULL; m = m->hh.next) {
        if (!member_supports(m, name)) {
            return false;
        }
    }
    return true;
}

bool group_supports(const struct group *g, const struct group_protocol *list, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        if (all_support(g, list[i].name)) {
            return true;
        }
    }
    return false;
}

struct slice group_select_protocol(const struct group *g)
{
    /* What all support is in the first member's list. */
    struct slice candidates[GROUP_PROTOCOLS_MAX];
    int32_t votes[GROUP_PROTOCOLS_MAX];
    int32_t count = 0;
    const struct group_protocols *first = g->members->protocols;
    for (int32_t i = 0; i < first->count; i++) {
        if (all_support(g, first->list[i].name)) {
            candidates[count] = first->list[i].name;
            votes[count++] = 0;
        }
    }
    ASSERT(count > 0); /* nobody is let in who supports none of them */
    for (const struct group_member *m = g->members; m != NULL; m = m->hh.next) {
        bool voted = false;
        for (int32_t i = 0; i < m->protocols->count && !voted; i++) {
            for (int32_t k = 0; k < count && !voted; k++) {
                if (slice_eq(candidates[k], m->protocols->list[i].name)) {
                    votes[k]++;
                    voted = true;
                }
            }
        }
    }
    int32_t best = 0;
    for (int32_t k = 1; k < count; k++) {
        if (votes[k] > votes[best]) {
            best = k;
        }
    }
    return candidates[best];
}

struct slice group_member_metadata(const struct group *g, const struct group_member *m)
{
    for (int32_t i = 0; g->protocol_name.data != NULL && i < m->protocols->count; i++) {
        if (slice_eq(m->protocols->list[i].name, g->protocol_name)) {
            return m->protocols->list[i].metadata;
        }
    }
    return slice_make("", 0);
}

int32_t group_rebalance_timeout_ms(const struct group *g)
{
    int32_t max = 0;
    for (const struct group_member *m = g->members; m != NULL; m = m->hh.next) {
        if (m->rebalance_timeout_ms > max) {
            max = m->rebalance_timeout_ms;
        }
    }
    return max;
}

/* --- members --------------------------------------------------------------------------------- */

struct group_member *group_find(const struct group *g, struct slice member_id)
{
    struct group_member *m = NULL;
    HASH_FIND(hh, g->members, member_id.data, member_id.len, m);
    return m;
}

struct group_member *group_find_instance(const struct group *g, struct slice instance_id)
{
    struct group_member *m = NULL;
    HASH_FIND(hh_instance, g->instances, instance_id.data, instance_id.len, m);
    return m;
}

struct group_member *group_member_new(const struct group_join *ev, struct slice id)
{
    struct group_member *m = calloc(1, sizeof *m);
    if (m == NULL) {
        return NULL;
    }
    bool ok = true;
    m->id = group_slice_copy(id, &ok);
    m->instance_id = group_slice_copy(ev->instance_id, &ok);
    m->client_id = group_slice_copy(ev->client_id, &ok);
    m->client_host = group_slice_copy(ev->client_host, &ok);
    m->session_timeout_ms = ev->session_timeout_ms;
    m->rebalance_timeout_ms = ev->rebalance_timeout_ms;
    m->protocols = group_protocols_copy(ev->protocols, ev->protocol_count);
    if (!ok || m->protocols == NULL) {
        group_member_free(m);
        return NULL;
    }
    return m;
}

void group_member_free(struct group_member *m)
{
    slice_drop(&m->id);
    slice_drop(&m->instance_id);
    slice_drop(&m->client_id);
    slice_drop(&m->client_host);
    slice_drop(&m->assignment);
    free(m->protocols);
    free(m);
}

void group_member_add(struct group *g, struct group_member *m)
{
    HASH_ADD_KEYPTR(hh, g->members, m->id.data, m->id.len, m);
    if (m->instance_id.data != NULL) {
        HASH_ADD_KEYPTR(hh_instance, g->instances, m->instance_id.data, m->instance_id.len, m);
    }
    g->member_count++;
    g->joined_count += m->joined;
    g->pending_sync_count += m->pending_sync;
    g->bytes += m->protocols->bytes + m->assignment.len;
    if (g->leader == NULL) {
        g->leader = m;
    }
}

void group_member_unlink(struct group *g, struct group_member *m)
{
    HASH_DELETE(hh, g->members, m);
    if (m->instance_id.data != NULL) {
        HASH_DELETE(hh_instance, g->instances, m);
    }
    g->member_count--;
    g->joined_count -= m->joined;
    g->pending_sync_count -= m->pending_sync;
    g->bytes -= m->protocols->bytes + m->assignment.len;
    if (g->leader == m) {
        g->leader = g->members;
    }
}

void group_member_set_protocols(struct group *g, struct group_member *m, struct group_protocols *p)
{
    g->bytes = g->bytes - m->protocols->bytes + p->bytes;
    free(m->protocols);
    m->protocols = p;
}

bool group_member_set_assignment(struct group *g, struct group_member *m, struct slice bytes)
{
    struct slice copy = slice_make(NULL, 0);
    bool ok = true;
    if (bytes.len > 0) {
        copy = group_slice_copy(bytes, &ok);
    }
    if (ok) {
        g->bytes = g->bytes - m->assignment.len + copy.len;
        slice_drop(&m->assignment);
        m->assignment = copy;
    }
    return ok;
}

void group_member_set_joined(struct group *g, struct group_member *m, bool joined)
{
    g->joined_count += (int)joined - (int)m->joined;
    m->joined = joined;
}

void group_member_set_pending_sync(struct group *g, struct group_member *m, bool pending)
{
    g->pending_sync_count += (int)pending - (int)m->pending_sync;
    m->pending_sync = pending;
}

/* --- subscriptions --------------------------------------------------------------------------- */

bool group_is_consumer(const struct group *g)
{
    return slice_eq(g->protocol_type, slice_str("consumer"));
}

/* ConsumerProtocolSubscription begins with version int16 and an array of topic names, in every
 * version; what follows is the assignor's business. True when topic is in it, or when it is no such
 * thing: then nothing may be assumed. */
static bool metadata_subscribes(struct slice metadata, struct slice topic)
{
    struct reader r = reader_make(metadata);
    (void)reader_be16(&r); /* all versions begin alike */
    uint32_t count = reader_be32(&r);
    for (uint32_t i = 0; i < count && !r.failed; i++) {
        if (slice_eq(reader_bytes(&r, reader_be16(&r)), topic)) {
            return true;
        }
    }
    return r.failed;
}

bool group_subscribes(const struct group *g, struct slice topic)
{
    for (const struct group_member *m = g->members; m != NULL; m = m->hh.next) {
        if (g->protocol_name.data == NULL ||
            metadata_subscribes(group_member_metadata(g, m), topic)) {
            return true;
        }
    }
    return false;
}
