/* What is set of one group: kept in rows, applied when it is stored.
 *
 *   alter ─▶ next, row put ─▶ the turn's commit ─┬─▶ now = next ─▶ limits ─▶ the group, if any
 *                                         failed └─▶ next = now
 *
 * A group of the consumer protocol borrows its limits: the coordinator's, or those of its entry
 * here, which are the coordinator's with what is set put over them. So an entry outlives nothing
 * that borrows it: before it goes the group is given the coordinator's again. Groups need not
 * exist to be configured. */
#include "kafka-server/broker/coordinator_int.h"

#include <stdlib.h>

#include "shared/base/log.h"

#define ROW_PREFIX  "groupconf/"
#define ROW_VERSION 1
#define CONFIGS_MAX 16384 /* groups with configs */

/*   key    "groupconf/" group id
 *   value  u8 version = 1 | i32 session timeout ms | i32 heartbeat interval ms; 0: not set */

struct group_override {
    struct group_config now, next;
    bool changed; /* listed: the commit that is going on has `next` */
    struct cgroup_limits limits;
    struct group_override *changed_next;
    UT_hash_handle hh;
    size_t id_len;
    uint8_t id[];
};

static struct group_override *find(const struct coordinator *c, struct slice id)
{
    struct group_override *o = NULL;
    if (c != NULL) {
        HASH_FIND(hh, c->overrides, id.data, id.len, o);
    }
    return o;
}

static struct group_override *add(struct coordinator *c, struct slice id)
{
    struct group_override *o = HASH_COUNT(c->overrides) < CONFIGS_MAX
                                   ? calloc(1, sizeof *o + id.len) : NULL;
    if (o != NULL) {
        memcpy(o->id, id.data, id.len);
        o->id_len = id.len;
        o->limits = c->consumer_limits;
        HASH_ADD_KEYPTR(hh, c->overrides, o->id, o->id_len, o);
    }
    return o;
}

static bool is_nothing(const struct group_config *g)
{
    return g->session_timeout_ms == 0 && g->heartbeat_interval_ms == 0;
}

static void apply(const struct coordinator *c, struct group_override *o)
{
    const struct group_config *g = &o->now;
    o->limits = c->consumer_limits;
    if (g->session_timeout_ms > 0) {
        o->limits.session_timeout_ms = g->session_timeout_ms;
    }
    if (g->heartbeat_interval_ms > 0) {
        o->limits.heartbeat_interval_ms = g->heartbeat_interval_ms;
    }
}

/* The group has what holds; an entry of nothing goes. */
static void settle(struct coordinator *c, struct group_override *o)
{
    bool nothing = is_nothing(&o->now);
    struct coordinated *g = coordinated_find(c, slice_make(o->id, o->id_len));
    apply(c, o);
    if (g != NULL && g->consumer != NULL) {
        g->consumer->limits = nothing ? &c->consumer_limits : &o->limits;
    }
    if (nothing) {
        HASH_DELETE(hh, c->overrides, o);
        free(o);
    }
}

const struct cgroup_limits *coordinator_limits(const struct coordinator *c, struct slice group_id)
{
    const struct group_override *o = find(c, group_id);
    return o != NULL ? &o->limits : &c->consumer_limits;
}

void coordinator_config_reload(struct coordinator *c)
{
    for (struct group_override *o = c->overrides; o != NULL; o = o->hh.next) {
        apply(c, o);
    }
}

struct group_config coordinator_group_config(const struct coordinator *c, struct slice group_id)
{
    const struct group_override *o = find(c, group_id);
    return o != NULL ? o->next : (struct group_config){0};
}

/* --- changing -------------------------------------------------------------------------------- */

static void row_key(struct buf *key, struct slice id)
{
    buf_reset(key);
    buf_put(key, ROW_PREFIX, strlen(ROW_PREFIX));
    buf_put(key, id.data, id.len);
}

static void put_row(struct coordinator *c, struct slice id, const struct group_config *g)
{
    row_key(&c->key, id);
    if (is_nothing(g)) {
        journal_delete(c->journal, buf_slice(&c->key));
        return;
    }
    buf_reset(&c->value);
    buf_put_u8(&c->value, ROW_VERSION);
    buf_put_be32(&c->value, (uint32_t)g->session_timeout_ms);
    buf_put_be32(&c->value, (uint32_t)g->heartbeat_interval_ms);
    journal_fail(c->journal, buf_ok(&c->key) && buf_ok(&c->value) ? OK : ERR_NOMEM);
    journal_put(c->journal, buf_slice(&c->key), buf_slice(&c->value));
}

enum kerr coordinator_configure_group(struct coordinator *c, struct slice group_id,
                                      const struct group_config *g)
{
    enum kerr e = coordinator_check_call(c, group_id);
    if (e != KERR_NONE) {
        return e;
    }
    struct group_override *o = find(c, group_id);
    if (o == NULL && is_nothing(g)) {
        return KERR_NONE;
    }
    o = o != NULL ? o : add(c, group_id);
    if (o == NULL) {
        return KERR_POLICY_VIOLATION;
    }
    o->next = *g;
    if (!o->changed) {
        o->changed = true;
        o->changed_next = c->overrides_changed;
        c->overrides_changed = o;
    }
    put_row(c, group_id, g);
    return KERR_NONE;
}

void coordinator_config_done(struct coordinator *c, enum err e)
{
    struct group_override *list = c->overrides_changed;
    c->overrides_changed = NULL;
    while (list != NULL) {
        struct group_override *o = list;
        list = o->changed_next;
        o->changed = false;
        if (e == OK) {
            o->now = o->next;
            log_info("group configured group=%.*s session.timeout.ms=%d heartbeat.interval.ms=%d",
                     (int)o->id_len, (const char *)o->id, o->now.session_timeout_ms,
                     o->now.heartbeat_interval_ms);
        } else {
            o->next = o->now;
        }
        settle(c, o);
    }
}

/* --- coming and going ------------------------------------------------------------------------ */

static bool load(void *arg, struct slice key, struct slice value)
{
    struct coordinator *c = arg;
    struct reader r = reader_make(value);
    size_t skip = strlen(ROW_PREFIX);
    bool known = reader_u8(&r) == ROW_VERSION;
    struct group_config g = {.session_timeout_ms = (int32_t)reader_be32(&r)};
    g.heartbeat_interval_ms = (int32_t)reader_be32(&r);
    bool fits = key.len > skip && key.len - skip <= GROUP_ID_BYTES_MAX;
    if (!known || r.failed || !fits || g.session_timeout_ms < 0 || g.heartbeat_interval_ms < 0) {
        log_error("a row of a group's configs cannot be read and is passed over");
        return true;
    }
    struct group_override *o = add(c, slice_make(key.data + skip, key.len - skip));
    if (o == NULL) {
        log_error("configs of a group are not known for want of memory");
        return true;
    }
    o->now = o->next = g;
    apply(c, o);
    return true;
}

enum err coordinator_config_load(struct coordinator *c, struct errmsg *m)
{
    return journal_scan(c->journal, slice_str(ROW_PREFIX), load, c, m);
}

void coordinator_config_fini(struct coordinator *c)
{
    struct group_override *o, *next;
    HASH_ITER(hh, c->overrides, o, next)
    {
        HASH_DELETE(hh, c->overrides, o);
        free(o);
    }
}

size_t coordinator_configured_count(const struct coordinator *c)
{
    return c != NULL ? HASH_COUNT(c->overrides) : 0;
}

void coordinator_each_configured(const struct coordinator *c,
                                 void (*fn)(void *arg, struct slice group_id), void *arg)
{
    for (const struct group_override *o = c != NULL ? c->overrides : NULL; o != NULL;
         o = o->hh.next) {
        if (!is_nothing(&o->now)) {
            fn(arg, slice_make(o->id, o->id_len));
        }
    }
}
