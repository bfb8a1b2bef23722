/* Members of a group of the consumer protocol: finding, adding, taking away. No rule of the
 * protocol lives here.
 *
 * As in group.c, members are in a hash by id, in the order in which they came, and static ones in a
 * second hash by instance id. Two counts (members, those of the classic protocol) and the bytes of
 * all are kept by the functions below. */
#include "kafka-server/broker/cgroup.h"

#include <stdlib.h>

const char *cgroup_state_name(enum cgroup_state s)
{
    static const char *const names[CGROUP_STATES] = {
        [CGROUP_EMPTY] = "Empty",
        [CGROUP_ASSIGNING] = "Assigning",
        [CGROUP_RECONCILING] = "Reconciling",
        [CGROUP_STABLE] = "Stable",
    };
    return names[s];
}

static void slice_drop(struct slice *s)
{
    free((void *)s->data);
    *s = slice_make(NULL, 0);
}

/* --- topics ---------------------------------------------------------------------------------- */

const struct cgroup_topic *cgroup_topics_find(const struct cgroup_topics *t, struct slice name)
{
    size_t low = 0, high = t->count;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        int order = slice_compare(t->list[mid].name, name);
        if (order == 0) {
            return &t->list[mid];
        }
        if (order < 0) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return NULL;
}

/* A walk: only migrations between the protocols ask, some few times. */
const struct cgroup_topic *cgroup_topics_find_id(const struct cgroup_topics *t,
                                                 const struct uuid *id)
{
    for (size_t i = 0; i < t->count; i++) {
        if (memcmp(t->list[i].id.b, id->b, sizeof id->b) == 0) {
            return &t->list[i];
        }
    }
    return NULL;
}

/* --- names ----------------------------------------------------------------------------------- */

static int names_compare(const void *a, const void *b)
{
    return slice_compare(*(const struct slice *)a, *(const struct slice *)b);
}

struct cgroup_names *cgroup_names_new(const struct slice *list, int32_t count)
{
    size_t bytes = 0;
    for (int32_t i = 0; i < count; i++) {
        bytes += list[i].len;
    }
    struct cgroup_names *n = malloc(sizeof *n + (size_t)count * sizeof n->list[0] + bytes + 1);
    if (n == NULL) {
        return NULL;
    }
    n->count = 0;
    uint8_t *at = (uint8_t *)&n->list[count];
    for (int32_t i = 0; i < count; i++) {
        if (list[i].len > 0) {
            memcpy(at, list[i].data, list[i].len);
        }
        n->list[i] = slice_make(at, list[i].len);
        at += list[i].len;
    }
    qsort(n->list, (size_t)count, sizeof n->list[0], names_compare);
    for (int32_t i = 0; i < count; i++) {
        if (n->count == 0 || !slice_eq(n->list[n->count - 1], n->list[i])) {
            n->list[n->count++] = n->list[i];
        }
    }
    return n;
}

bool cgroup_names_equal(const struct cgroup_names *a, const struct cgroup_names *b)
{
    int32_t a_count = a != NULL ? a->count : 0, b_count = b != NULL ? b->count : 0;
    if (a_count != b_count) {
        return false;
    }
    for (int32_t i = 0; i < a_count; i++) {
        if (!slice_eq(a->list[i], b->list[i])) {
            return false;
        }
    }
    return true;
}

bool cgroup_names_has(const struct cgroup_names *n, struct slice name)
{
    return n != NULL && n->count > 0 &&
           bsearch(&name, n->list, (size_t)n->count, sizeof n->list[0], names_compare) != NULL;
}

/* --- the group ------------------------------------------------------------------------------- */

struct cgroup *cgroup_new(struct slice id, const struct cgroup_limits *limits)
{
    struct cgroup *g = calloc(1, sizeof *g);
    bool ok = g != NULL;
    if (ok) {
        g->id = group_slice_copy(id, &ok);
        g->limits = limits;
        g->wake_ms = INT64_MAX;
    }
    if (!ok) {
        free(g);
        return NULL;
    }
    return g;
}

void cgroup_free(struct cgroup *g)
{
    if (g == NULL) {
        return;
    }
    while (g->members != NULL) {
        cgroup_member_remove(g, g->members);
    }
    slice_drop(&g->id);
    free(g);
}

/* --- members --------------------------------------------------------------------------------- */

struct cgroup_member *cgroup_find(const struct cgroup *g, struct slice member_id)
{
    struct cgroup_member *m = NULL;
    HASH_FIND(hh, g->members, member_id.data, member_id.len, m);
    return m;
}

struct cgroup_member *cgroup_find_instance(const struct cgroup *g, struct slice instance_id)
{
    struct cgroup_member *m = NULL;
    HASH_FIND(hh_instance, g->instances, instance_id.data, instance_id.len, m);
    return m;
}

static void member_free(struct cgroup_member *m)
{
    struct slice *const slices[] = {&m->id,          &m->instance_id, &m->rack_id, &m->client_id,
                                    &m->client_host, &m->regex,       &m->assignor};
    for (size_t i = 0; i < sizeof slices / sizeof *slices; i++) {
        slice_drop(slices[i]);
    }
    free(m->topics);
    free(m->protocols);
    partition_set_fini(&m->assigned);
    partition_set_fini(&m->revoking);
    partition_set_fini(&m->target);
    free(m);
}

struct cgroup_member *cgroup_member_add(struct cgroup *g, struct slice id, struct slice instance_id)
{
    struct cgroup_member *m = calloc(1, sizeof *m);
    bool ok = m != NULL;
    if (ok) {
        m->id = group_slice_copy(id, &ok);
        m->instance_id = group_slice_copy(instance_id, &ok);
    }
    if (!ok) {
        if (m != NULL) {
            member_free(m);
        }
        return NULL;
    }
    m->session_deadline_ms = m->rebalance_deadline_ms = INT64_MAX;
    HASH_ADD_KEYPTR(hh, g->members, m->id.data, m->id.len, m);
    if (m->instance_id.data != NULL) {
        HASH_ADD_KEYPTR(hh_instance, g->instances, m->instance_id.data, m->instance_id.len, m);
    }
    g->member_count++;
    cgroup_member_weigh(g, m);
    return m;
}

void cgroup_member_remove(struct cgroup *g, struct cgroup_member *m)
{
    HASH_DELETE(hh, g->members, m);
    if (m->instance_id.data != NULL) {
        HASH_DELETE(hh_instance, g->instances, m);
    }
    g->member_count--;
    g->classic_count -= m->protocols != NULL;
    g->bytes -= m->bytes;
    member_free(m);
}

bool cgroup_member_rename(struct cgroup *g, struct cgroup_member *m, struct slice id)
{
    bool ok = true;
    struct slice copy = group_slice_copy(id, &ok);
    if (ok) {
        HASH_DELETE(hh, g->members, m);
        slice_drop(&m->id);
        m->id = copy;
        HASH_ADD_KEYPTR(hh, g->members, m->id.data, m->id.len, m);
    }
    return ok;
}

void cgroup_member_set_protocols(struct cgroup *g, struct cgroup_member *m,
                                 struct group_protocols *p)
{
    g->classic_count += (p != NULL) - (m->protocols != NULL);
    free(m->protocols);
    m->protocols = p;
}

void cgroup_member_weigh(struct cgroup *g, struct cgroup_member *m)
{
    int32_t partitions = m->assigned.count + m->revoking.count + m->target.count;
    size_t bytes = sizeof *m + m->regex.len + (size_t)partitions * sizeof(struct topic_partition);
    bytes += m->protocols != NULL ? m->protocols->bytes : 0;
    for (int32_t i = 0; m->topics != NULL && i < m->topics->count; i++) {
        bytes += sizeof m->topics->list[i] + m->topics->list[i].len;
    }
    g->bytes = g->bytes - m->bytes + bytes;
    m->bytes = bytes;
}

void cgroup_slice_set(struct cgroup *g, struct slice *to, struct slice s, bool *changed)
{
    if (s.data == NULL || (to->data != NULL && slice_eq(*to, s))) {
        return;
    }
    bool ok = true;
    struct slice copy = group_slice_copy(s, &ok);
    if (!ok) {
        g->broken = true;
        return;
    }
    slice_drop(to);
    *to = copy;
    *changed = true;
}

/* A walk over all: a group of some hundred members is asked once a heartbeat of a member that has
 * not reached its target, and a member's sets are searched by halves. */
bool cgroup_owned_by_other(const struct cgroup *g, const struct cgroup_member *m,
                           const struct topic_partition *p)
{
    for (const struct cgroup_member *o = g->members; o != NULL; o = o->hh.next) {
        if (o != m && (partition_set_has(&o->assigned, p) || partition_set_has(&o->revoking, p))) {
            return true;
        }
    }
    return false;
}
