/* Rows of groups of the consumer protocol; group_row.h draws them.
 *
 * Reading trusts nothing: counts are believed only as far as bytes follow them, names are unique,
 * and no partition is in the hands of two members. */
#include <stdlib.h>

#include "kafka-server/broker/cgroup.h"
#include "kafka-server/broker/group_row.h"

bool cgroup_row_is(struct slice row)
{
    return row.len > 0 && row.data[0] == CGROUP_ROW_VERSION;
}

/* --- out ------------------------------------------------------------------------------------- */

static void put_set(struct buf *b, const struct partition_set *s)
{
    uint32_t topics = 0;
    for (int32_t at = 0; at < s->count; at += partition_set_run(s, at)) {
        topics++;
    }
    buf_put_be32(b, topics);
    for (int32_t at = 0, run; at < s->count; at += run) {
        run = partition_set_run(s, at);
        buf_put(b, s->list[at].topic.b, sizeof s->list[at].topic.b);
        buf_put_be32(b, (uint32_t)run);
        for (int32_t i = at; i < at + run; i++) {
            buf_put_be32(b, (uint32_t)s->list[i].partition);
        }
    }
}

static void put_protocols(struct buf *b, const struct cgroup_member *m)
{
    buf_put_be32(b, m->protocols != NULL ? (uint32_t)m->protocols->count : UINT32_MAX);
    if (m->protocols == NULL) {
        return;
    }
    buf_put_be32(b, (uint32_t)m->session_timeout_ms);
    for (int32_t i = 0; i < m->protocols->count; i++) {
        group_row_put_str(b, m->protocols->list[i].name);
        group_row_put_str(b, m->protocols->list[i].metadata);
    }
}

static void put_member(struct buf *b, const struct cgroup_member *m)
{
    const struct slice slices[] = {m->id,          m->instance_id, m->rack_id, m->client_id,
                                   m->client_host, m->regex,       m->assignor};
    for (size_t i = 0; i < sizeof slices / sizeof *slices; i++) {
        group_row_put_str(b, slices[i]);
    }
    int32_t topics = m->topics != NULL ? m->topics->count : 0;
    buf_put_be32(b, (uint32_t)topics);
    for (int32_t i = 0; i < topics; i++) {
        group_row_put_str(b, m->topics->list[i]);
    }
    buf_put_be32(b, (uint32_t)m->rebalance_timeout_ms);
    buf_put_be32(b, (uint32_t)m->epoch);
    buf_put_be32(b, (uint32_t)m->previous_epoch);
    buf_put_u8(b, (uint8_t)m->state);
    put_set(b, &m->assigned);
    put_set(b, &m->revoking);
    put_set(b, &m->target);
    put_protocols(b, m);
}

void cgroup_encode(const struct cgroup *g, struct buf *out)
{
    buf_reset(out);
    buf_put_u8(out, CGROUP_ROW_VERSION);
    buf_put_be32(out, (uint32_t)g->epoch);
    buf_put_be32(out, (uint32_t)g->target_epoch);
    buf_put_be64(out, g->topics_hash);
    buf_put_be32(out, (uint32_t)g->member_count);
    for (const struct cgroup_member *m = g->members; m != NULL; m = m->hh.next) {
        put_member(out, m);
    }
}

/* --- in -------------------------------------------------------------------------------------- */

struct decoding {
    struct cgroup *g;
    struct reader r;
    bool ok; /* memory */
    bool corrupt;
    struct partition_set holding; /* what members decoded so far have, or may still have */
};

static void get_set(struct decoding *d, struct partition_set *s)
{
    uint32_t topics = reader_be32(&d->r);
    for (uint32_t i = 0; i < topics && !d->r.failed; i++) {
        struct uuid id;
        struct slice bytes = reader_bytes(&d->r, sizeof id.b);
        uint32_t count = reader_be32(&d->r);
        if (d->r.failed) {
            return;
        }
        memcpy(id.b, bytes.data, sizeof id.b);
        for (uint32_t k = 0; k < count && !d->r.failed; k++) {
            int32_t partition = (int32_t)reader_be32(&d->r);
            d->corrupt = d->corrupt || partition < 0;
            partition_set_append(s, &id, partition, &d->ok);
        }
    }
    partition_set_sort(s);
}

static struct cgroup_names *get_names(struct decoding *d)
{
    uint32_t count = reader_be32(&d->r);
    if (count > CGROUP_TOPICS_MAX || d->r.failed) {
        d->corrupt = true;
        return NULL;
    }
    struct slice *list = malloc((count + 1) * sizeof *list);
    struct cgroup_names *n = NULL;
    for (uint32_t i = 0; list != NULL && i < count; i++) {
        list[i] = group_row_get_str(&d->r);
    }
    if (list != NULL && !d->r.failed) {
        n = cgroup_names_new(list, (int32_t)count);
        d->ok = d->ok && n != NULL;
    }
    d->ok = d->ok && list != NULL;
    free(list);
    return n;
}

static void get_protocols(struct decoding *d, struct cgroup_member *m)
{
    uint32_t count = reader_be32(&d->r);
    if (count == UINT32_MAX || d->r.failed) {
        return;
    }
    struct group_protocol list[GROUP_PROTOCOLS_MAX];
    if (count == 0 || count > GROUP_PROTOCOLS_MAX) {
        d->corrupt = true;
        return;
    }
    m->session_timeout_ms = (int32_t)reader_be32(&d->r);
    for (uint32_t i = 0; i < count; i++) {
        list[i].name = group_row_get_str(&d->r);
        list[i].metadata = group_row_get_str(&d->r);
    }
    if (!d->r.failed) {
        struct group_protocols *p = group_protocols_copy(list, (int32_t)count);
        d->ok = d->ok && p != NULL;
        cgroup_member_set_protocols(d->g, m, p);
    }
}

static struct slice get_copy(struct decoding *d)
{
    return group_slice_copy(group_row_get_str(&d->r), &d->ok);
}

static void hold(struct decoding *d, const struct partition_set *s)
{
    struct partition_set all = {0};
    d->corrupt = d->corrupt || partition_set_meet(&d->holding, s);
    partition_set_union(&all, &d->holding, s, &d->ok);
    partition_set_move(&d->holding, &all);
}

static void get_member(struct decoding *d)
{
    struct slice id = group_row_get_str(&d->r);
    struct slice instance_id = group_row_get_str(&d->r);
    if (d->r.failed || id.len == 0 || cgroup_find(d->g, id) != NULL ||
        (instance_id.data != NULL && cgroup_find_instance(d->g, instance_id) != NULL)) {
        d->corrupt = true;
        return;
    }
    struct cgroup_member *m = cgroup_member_add(d->g, id, instance_id);
    if (m == NULL) {
        d->ok = false;
        return;
    }
    m->rack_id = get_copy(d);
    m->client_id = get_copy(d);
    m->client_host = get_copy(d);
    m->regex = get_copy(d);
    m->assignor = get_copy(d);
    m->topics = get_names(d);
    m->rebalance_timeout_ms = (int32_t)reader_be32(&d->r);
    m->epoch = (int32_t)reader_be32(&d->r);
    m->previous_epoch = (int32_t)reader_be32(&d->r);
    uint8_t state = reader_u8(&d->r);
    d->corrupt = d->corrupt || state >= CGROUP_MEMBER_STATES;
    m->state = (enum cgroup_member_state)state;
    get_set(d, &m->assigned);
    get_set(d, &m->revoking);
    get_set(d, &m->target);
    get_protocols(d, m);
    hold(d, &m->assigned);
    hold(d, &m->revoking);
    cgroup_member_weigh(d->g, m);
}

struct cgroup *cgroup_decode(struct slice id, struct slice row, const struct cgroup_limits *limits,
                             bool *corrupt)
{
    struct decoding d = {.g = cgroup_new(id, limits), .r = reader_make(row), .ok = true};
    *corrupt = false;
    if (d.g == NULL) {
        return NULL;
    }
    d.corrupt = reader_u8(&d.r) != CGROUP_ROW_VERSION;
    d.g->epoch = (int32_t)reader_be32(&d.r);
    d.g->target_epoch = (int32_t)reader_be32(&d.r);
    d.g->topics_hash = reader_be64(&d.r);
    uint32_t count = reader_be32(&d.r);
    for (uint32_t i = 0; i < count && d.ok && !d.corrupt && !d.r.failed; i++) {
        get_member(&d);
    }
    partition_set_fini(&d.holding);
    d.corrupt = d.corrupt || d.r.failed || reader_left(&d.r) > 0;
    if (!d.ok || d.corrupt) {
        *corrupt = d.ok;
        cgroup_free(d.g);
        return NULL;
    }
    return d.g;
}
