/* Rows of groups and offsets; group_row.h draws them. The only file that knows their bytes.
 *
 * Reading trusts nothing: a count is believed only as far as bytes follow it, and a row that is not
 * used up to its last byte is corrupt. */
#include "kafka-server/broker/group_row.h"

#include <stdlib.h>

#include "kafka-server/broker/group.h"

#define NULL_LEN UINT32_MAX

void group_row_put_str(struct buf *b, struct slice s)
{
    buf_put_be32(b, s.data != NULL ? (uint32_t)s.len : NULL_LEN);
    buf_put(b, s.data, s.data != NULL ? s.len : 0);
}

struct slice group_row_get_str(struct reader *r)
{
    uint32_t len = reader_be32(r);
    if (len == NULL_LEN || r->failed) {
        return slice_make(NULL, 0);
    }
    struct slice s = reader_bytes(r, len);
    return s.data != NULL ? s : slice_make("", 0);
}

/* --- keys ------------------------------------------------------------------------------------ */

void group_row_key(struct buf *key, struct slice group_id)
{
    buf_reset(key);
    buf_put(key, GROUP_ROW_PREFIX, strlen(GROUP_ROW_PREFIX));
    buf_put(key, group_id.data, group_id.len);
}

void offset_row_key(struct buf *key, struct slice group_id, struct slice topic, int32_t partition)
{
    buf_reset(key);
    buf_put(key, OFFSET_ROW_PREFIX, strlen(OFFSET_ROW_PREFIX));
    buf_put_be16(key, (uint16_t)group_id.len);
    buf_put(key, group_id.data, group_id.len);
    buf_put(key, topic.data, topic.len);
    buf_put_be32(key, (uint32_t)partition);
}

static bool skip_prefix(struct reader *r, const char *prefix)
{
    struct slice s = reader_bytes(r, strlen(prefix));
    return !r->failed && slice_eq(s, slice_str(prefix));
}

bool group_row_key_parse(struct slice key, struct slice *group_id)
{
    struct reader r = reader_make(key);
    bool ok = skip_prefix(&r, GROUP_ROW_PREFIX);
    *group_id = reader_bytes(&r, reader_left(&r));
    return ok && !r.failed;
}

bool offset_row_key_parse(struct slice key, struct slice *group_id, struct slice *topic,
                          int32_t *partition)
{
    struct reader r = reader_make(key);
    if (!skip_prefix(&r, OFFSET_ROW_PREFIX)) {
        return false;
    }
    *group_id = reader_bytes(&r, reader_be16(&r));
    size_t left = reader_left(&r);
    if (r.failed || left < 4) {
        return false;
    }
    *topic = reader_bytes(&r, left - 4);
    *partition = (int32_t)reader_be32(&r);
    return !r.failed && *partition >= 0;
}

/* --- offsets --------------------------------------------------------------------------------- */

void offset_row_encode(const struct offset_row *row, struct buf *out)
{
    buf_reset(out);
    buf_put_u8(out, OFFSET_ROW_VERSION);
    buf_put_be64(out, (uint64_t)row->offset);
    buf_put_be32(out, (uint32_t)row->leader_epoch);
    buf_put_be64(out, (uint64_t)row->commit_ms);
    buf_put_be64(out, (uint64_t)row->expire_ms);
    buf_put(out, row->topic_id.b, sizeof row->topic_id.b);
    buf_put(out, row->metadata.data, row->metadata.len);
}

bool offset_row_decode(struct slice value, struct offset_row *row)
{
    struct reader r = reader_make(value);
    uint8_t version = reader_u8(&r);
    if (version < 1 || version > OFFSET_ROW_VERSION) {
        return false;
    }
    row->offset = (int64_t)reader_be64(&r);
    row->leader_epoch = (int32_t)reader_be32(&r);
    row->commit_ms = (int64_t)reader_be64(&r);
    row->expire_ms = (int64_t)reader_be64(&r);
    row->topic_id = (struct uuid){{0}};
    struct slice id = reader_bytes(&r, version >= 2 ? sizeof row->topic_id.b : 0);
    if (id.len == sizeof row->topic_id.b) {
        memcpy(row->topic_id.b, id.data, id.len);
    }
    row->metadata = reader_bytes(&r, reader_left(&r));
    return !r.failed;
}

/* --- groups ---------------------------------------------------------------------------------- */

static void encode_member(const struct group_member *m, struct buf *out)
{
    group_row_put_str(out, m->id);
    group_row_put_str(out, m->instance_id);
    group_row_put_str(out, m->client_id);
    group_row_put_str(out, m->client_host);
    buf_put_be32(out, (uint32_t)m->session_timeout_ms);
    buf_put_be32(out, (uint32_t)m->rebalance_timeout_ms);
    buf_put_be32(out, (uint32_t)m->protocols->count);
    for (int32_t i = 0; i < m->protocols->count; i++) {
        group_row_put_str(out, m->protocols->list[i].name);
        group_row_put_str(out, m->protocols->list[i].metadata);
    }
    group_row_put_str(out, m->assignment);
}

void group_encode(const struct group *g, struct buf *out)
{
    uint32_t count = 0, leader = 0;
    for (const struct group_member *m = g->members; m != NULL; m = m->hh.next) {
        if (!m->is_new) {
            leader = m == g->leader ? count : leader;
            count++;
        }
    }
    /* A first rebalance whose members are all new is, to everybody else, still an empty group. */
    enum group_state state = count == 0 ? GROUP_EMPTY : g->state;
    buf_reset(out);
    buf_put_u8(out, GROUP_ROW_VERSION);
    buf_put_u8(out, (uint8_t)state);
    buf_put_be32(out, (uint32_t)g->generation);
    buf_put_be64(out, (uint64_t)g->empty_since_wall_ms);
    group_row_put_str(out, g->protocol_type);
    group_row_put_str(out, g->protocol_name);
    buf_put_be32(out, leader);
    buf_put_be32(out, count);
    for (const struct group_member *m = g->members; m != NULL; m = m->hh.next) {
        if (!m->is_new) {
            encode_member(m, out);
        }
    }
}

/* Puts one member into the group; false: the row is corrupt or memory is out (*nomem). */
static bool decode_member(struct group *g, struct reader *r, bool *nomem)
{
    struct group_join ev = {0};
    struct slice id = group_row_get_str(r);
    ev.instance_id = group_row_get_str(r);
    ev.client_id = group_row_get_str(r);
    ev.client_host = group_row_get_str(r);
    ev.session_timeout_ms = (int32_t)reader_be32(r);
    ev.rebalance_timeout_ms = (int32_t)reader_be32(r);
    uint32_t count = reader_be32(r);
    struct group_protocol list[GROUP_PROTOCOLS_MAX];
    if (r->failed || count == 0 || count > GROUP_PROTOCOLS_MAX) {
        return false;
    }
    for (uint32_t i = 0; i < count; i++) {
        list[i].name = group_row_get_str(r);
        list[i].metadata = group_row_get_str(r);
    }
    struct slice assignment = group_row_get_str(r);
    ev.protocols = list;
    ev.protocol_count = (int32_t)count;
    if (r->failed || id.data == NULL || group_find(g, id) != NULL ||
        (ev.instance_id.data != NULL && group_find_instance(g, ev.instance_id) != NULL)) {
        return false;
    }
    struct group_member *m = group_member_new(&ev, id);
    if (m == NULL) {
        *nomem = true;
        return false;
    }
    group_member_add(g, m);
    *nomem = !group_member_set_assignment(g, m, assignment);
    return !*nomem;
}

static bool decode_group(struct group *g, struct reader *r, bool *nomem)
{
    if (reader_u8(r) != GROUP_ROW_VERSION) {
        return false;
    }
    uint8_t state = reader_u8(r);
    g->generation = (int32_t)reader_be32(r);
    g->empty_since_wall_ms = (int64_t)reader_be64(r);
    bool ok = true;
    g->protocol_type = group_slice_copy(group_row_get_str(r), &ok);
    g->protocol_name = group_slice_copy(group_row_get_str(r), &ok);
    uint32_t leader = reader_be32(r);
    uint32_t count = reader_be32(r);
    if (!ok) {
        *nomem = true;
        return false;
    }
    if (r->failed || state >= GROUP_DEAD || (state == GROUP_EMPTY) != (count == 0) ||
        (count > 0 && leader >= count)) {
        return false;
    }
    g->state = (enum group_state)state;
    for (uint32_t i = 0; i < count; i++) {
        if (!decode_member(g, r, nomem)) {
            return false;
        }
    }
    struct group_member *m = g->members;
    for (uint32_t i = 0; i < leader; i++) {
        m = m->hh.next;
    }
    g->leader = m;
    return !r->failed && reader_left(r) == 0;
}

/* A generation in which no protocol is supported by all was never made by us: it would trip the
 * vote later. */
static bool votes_ok(const struct group *g)
{
    return g->members == NULL ||
           group_supports(g, g->members->protocols->list, g->members->protocols->count);
}

struct group *group_decode(struct slice id, struct slice row, const struct group_limits *limits,
                           bool *corrupt)
{
    struct group *g = group_new(id, limits);
    struct reader r = reader_make(row);
    bool nomem = g == NULL;
    *corrupt = false;
    if (!nomem && (!decode_group(g, &r, &nomem) || !votes_ok(g))) {
        *corrupt = !nomem;
        group_free(g);
        return NULL;
    }
    return g;
}
