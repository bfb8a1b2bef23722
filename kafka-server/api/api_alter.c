/* AlterConfigs and IncrementalAlterConfigs.
 *
 * A topic's configs are changed as broker/topic_config.h says; a resource changes whole or not at
 * all. What is set of a group (broker/group_config.h) is answered when it is stored. The level of
 * the broker's one logger can be set until the next start or SIGHUP.
 *
 * The broker's own settings have their place in culex.json, and are refused with a sentence that
 * says so. Kafka lets some be changed this way, and then holds to that whatever its file says: a
 * second truth, which the operator who edits the file does not see, `culex check` cannot judge, and
 * anybody who reaches the port may set, since nobody is authenticated. SIGHUP does what it is for.
 */
#include <stdio.h>
#include <stdlib.h>

#include "kafka-server/api/api_bound.h"
#include "kafka-server/api/api_config.h"
#include "kafka-server/api/api_names.h"
#include "kafka-server/api/api_wait.h"
#include "kafka-server/broker/coordinator.h"
#include "kafka-server/broker/topic_admin.h"
#include "kafka-server/broker/topic_config.h"
#include "kafka-server/server.h"
#include "kafka_messages.h"
#include "shared/base/log.h"

#define NAMES_BYTES_MAX 300 /* of a list in a sentence */

/* One resource, out of either request. */
struct change {
    struct kstr name;
    int8_t type;
    bool incremental;
    bool validate_only;
    int32_t count;
    struct change_item {
        struct kstr name, value;
        int8_t op;
    } *items;
};

struct outcome {
    enum kerr k;
    struct errmsg m;
};

static const struct {
    const char *name;
    enum log_level level;
} levels[] = {
    {"DEBUG", LOG_DEBUG}, {"ERROR", LOG_ERROR}, {"FATAL", LOG_ERROR},
    {"INFO", LOG_INFO},   {"TRACE", LOG_DEBUG}, {"WARN", LOG_WARN},
};

const char *api_config_level_name(int level)
{
    static const char *const names[] = {"ERROR", "WARN", "INFO", "DEBUG"};
    return names[level];
}

int api_config_level(struct slice name)
{
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++) {
        if (slice_eq(name, slice_str(levels[i].name))) {
            return (int)levels[i].level;
        }
    }
    return -1;
}

bool api_config_is_number(struct slice text)
{
    size_t digits = 0;
    for (size_t i = 0; i < text.len; i++) {
        digits += text.data[i] >= '0' && text.data[i] <= '9';
    }
    return digits > 0 && digits < 10 &&
           (digits == text.len || (digits + 1 == text.len && text.data[0] == '-'));
}

bool api_config_is_node(struct slice text, int32_t node)
{
    char id[16];
    snprintf(id, sizeof id, "%d", node);
    return slice_eq(text, slice_str(id));
}

static void refuse(struct outcome *o, enum kerr k, const char *sentence)
{
    o->k = k;
    err_set(&o->m, ERR_INVALID, "%s", sentence);
}

/* --- what holds for every resource ----------------------------------------------------------- */

/* False: no memory. */
static bool check_items(struct request *rq, const struct change *c, struct outcome *o)
{
    struct slice *names = arena_array(&rq->arena, (size_t)c->count, sizeof *names);
    struct buf nulls;
    for (int32_t i = 0; i < c->count && names != NULL; i++) {
        names[i] = kstr_slice(c->items[i].name);
    }
    enum name_seen *seen = names != NULL ? names_seen(rq, names, c->count) : NULL;
    if (seen == NULL) {
        return false;
    }
    buf_init(&nulls, NAMES_BYTES_MAX);
    for (int32_t i = 0; i < c->count && o->k == KERR_NONE; i++) {
        if (seen[i] != NAME_ONCE) {
            refuse(o, KERR_INVALID_REQUEST, "Error due to duplicate config keys");
        }
        if (c->items[i].value.len < 0 && c->items[i].op != TOPIC_CONFIG_DELETE) {
            buf_printf(&nulls, "%s%.*s", nulls.len > 0 ? ", " : "", (int)names[i].len,
                       (const char *)names[i].data);
        }
    }
    if (o->k == KERR_NONE && (nulls.len > 0 || nulls.failed)) {
        o->k = KERR_INVALID_REQUEST;
        err_set(&o->m, ERR_INVALID, "Null value not supported for : %s", buf_text(&nulls));
    }
    buf_fini(&nulls);
    return true;
}

/* --- topics ---------------------------------------------------------------------------------- */

static enum err change_item(json_t *configs, const struct change_item *x, bool incremental,
                            const struct config *c, struct errmsg *m)
{
    if (x->op < TOPIC_CONFIG_SET || x->op > TOPIC_CONFIG_SUBTRACT) {
        return err_set(m, ERR_INVALID, "Unknown operation %d", x->op);
    }
    enum topic_config_op op = incremental ? (enum topic_config_op)x->op : TOPIC_CONFIG_SET;
    return topic_config_alter(configs, op, kstr_slice(x->name), str_slice(x->value), c, m);
}

/* A captured stream's configs are the writer's to change: it was asked before, see below. */
static void change_topic(struct request *rq, const struct change *c, struct outcome *o)
{
    const struct bound_call *bound =
        c->name.len > 0 ? bound_call_for(rq, kstr_slice(c->name), NULL) : NULL;
    if (bound != NULL) {
        o->k = bound->k;
        err_set(&o->m, ERR_INVALID, "%s", bound_why(bound));
        return;
    }
    const struct config *config = &rq->server->config;
    struct topic_admin a = {rq->server->own, rq->server->topics, config, NULL};
    struct slice name = kstr_slice(c->name);
    const struct topic *t = topics_find(rq->server->topics, name);
    if (name.len == 0) {
        refuse(o, KERR_INVALID_REQUEST, "Default topic resources are not allowed.");
        return;
    }
    o->k = topic_check_name(name, &o->m);
    if (o->k == KERR_NONE && t != NULL) {
        o->k = topic_check_free(t, TOPIC_CHANGED_IN_FILE, &o->m);
    }
    if (o->k != KERR_NONE) {
        return;
    }
    bool from = t != NULL && c->incremental;
    json_t *configs = topic_config_load(from ? t->row->attributes : "");
    enum err e = configs == NULL ? err_set(&o->m, ERR_NOMEM, "no memory for configs") : OK;
    for (int32_t i = 0; i < c->count && e == OK; i++) {
        e = change_item(configs, &c->items[i], c->incremental, config, &o->m);
    }
    if (e != OK) {
        o->k = e == ERR_NOMEM ? KERR_UNKNOWN_SERVER_ERROR : KERR_INVALID_CONFIG;
    } else if (t == NULL) {
        o->k = names_missing(rq, KERR_KAFKA_STORAGE_ERROR, KERR_UNKNOWN_TOPIC_OR_PARTITION);
        err_set(&o->m, ERR_NOT_FOUND, "The topic '%.*s' %s.", (int)name.len,
                (const char *)name.data,
                rq->server->own_away ? "cannot be looked for now" : "does not exist");
    } else {
        o->k = topic_configure(&a, t, configs, c->validate_only, &o->m);
    }
    json_decref(configs);
}

/* --- this broker and its logger -------------------------------------------------------------- */

static bool check_node(struct request *rq, const struct change *c, const char *unexpected,
                       struct outcome *o)
{
    struct slice name = kstr_slice(c->name);
    int node = rq->server->config.server.node_id;
    if (api_config_is_node(name, node)) {
        return true;
    }
    o->k = KERR_INVALID_REQUEST;
    if (api_config_is_number(name)) {
        err_set(&o->m, ERR_INVALID, "%s %d, but received %.*s", unexpected, node, (int)name.len,
                (const char *)name.data);
    } else {
        err_set(&o->m, ERR_INVALID, "Node id must be an integer, but it is: %.*s",
                (int)(name.len < 200 ? name.len : 200), (const char *)name.data);
    }
    return false;
}

static void change_broker(struct request *rq, const struct change *c, struct outcome *o)
{
    struct buf names;
    if (c->name.len > 0 &&
        !check_node(rq, c, "Unexpected broker id, expected", o)) {
        return;
    }
    if (c->count == 0) {
        return;
    }
    buf_init(&names, NAMES_BYTES_MAX);
    for (int32_t i = 0; i < c->count; i++) {
        buf_printf(&names, "%s%.*s", i > 0 ? ", " : "", (int)kstr_slice(c->items[i].name).len,
                   c->items[i].name.data);
    }
    o->k = KERR_INVALID_REQUEST;
    err_set(&o->m, ERR_INVALID,
            "Cannot update these configs dynamically: %s. Settings of the server are in "
            "culex.json, under \"server\"; culex-server reads it again on SIGHUP.",
            buf_text(&names));
    buf_fini(&names);
}

static void check_logger(const struct change_item *x, struct outcome *o)
{
    struct slice name = kstr_slice(x->name), value = str_slice(x->value);
    if (x->op != TOPIC_CONFIG_SET && x->op != TOPIC_CONFIG_DELETE) {
        o->k = KERR_INVALID_REQUEST;
        err_set(&o->m, ERR_INVALID, "%s operation is not allowed for the BROKER_LOGGER resource",
                x->op == TOPIC_CONFIG_APPEND ? "APPEND" : "SUBTRACT");
    } else if (!slice_eq(name, slice_str(LOGGER_NAME))) {
        o->k = KERR_INVALID_CONFIG;
        err_set(&o->m, ERR_INVALID, "Logger %.*s does not exist!",
                (int)(name.len < 200 ? name.len : 200), (const char *)name.data);
    } else if (x->op == TOPIC_CONFIG_DELETE) {
        refuse(o, KERR_INVALID_REQUEST, "Removing the log level of the root logger is not allowed");
    } else if (api_config_level(value) < 0) {
        o->k = KERR_INVALID_CONFIG;
        err_set(&o->m, ERR_INVALID,
                "Cannot set the log level of root to %.*s as it is not a supported log level. "
                "Valid log levels are DEBUG, ERROR, FATAL, INFO, TRACE, WARN",
                (int)(value.len < 100 ? value.len : 100), (const char *)value.data);
    }
}

static void change_logger(struct request *rq, const struct change *c, struct outcome *o)
{
    if (!check_node(rq, c, "Unexpected node id. Expected", o)) {
        return;
    }
    for (int32_t i = 0; i < c->count && o->k == KERR_NONE; i++) {
        check_logger(&c->items[i], o);
    }
    for (int32_t i = 0; i < c->count && o->k == KERR_NONE && !c->validate_only; i++) {
        log_warn("log level set by a client level=%.*s", c->items[i].value.len,
                 c->items[i].value.data);
        log_set_level((enum log_level)api_config_level(str_slice(c->items[i].value)));
    }
}

/* --- groups ---------------------------------------------------------------------------------- */

static enum err change_group_item(struct group_config *g, const struct change_item *x,
                                  bool incremental, struct errmsg *m)
{
    struct slice name = kstr_slice(x->name);
    const struct group_config_row *row = group_config_find(name);
    int op = incremental ? x->op : TOPIC_CONFIG_SET;
    int len = (int)(name.len < 250 ? name.len : 250);
    if (row == NULL) {
        return err_set(m, ERR_INVALID, "Unknown group config name: %.*s", len,
                       (const char *)name.data);
    }
    if (op == TOPIC_CONFIG_DELETE) {
        group_config_unset(g, row);
        return OK;
    }
    if (op != TOPIC_CONFIG_SET) {
        return err_set(m, ERR_INVALID, "Can't %s to key %s because its type is not LIST.",
                       op == TOPIC_CONFIG_APPEND ? "APPEND" : "SUBTRACT", row->name);
    }
    return group_config_set(g, row, str_slice(x->value), m);
}

static void change_group(struct request *rq, const struct change *c, struct outcome *o)
{
    struct slice name = kstr_slice(c->name);
    struct coordinator *groups = rq->server->coordinator;
    if (name.len == 0) {
        refuse(o, KERR_INVALID_REQUEST, "Default group resources are not allowed.");
        return;
    }
    struct group_config g = {0};
    if (c->incremental) {
        g = coordinator_group_config(groups, name);
    }
    enum err e = OK;
    for (int32_t i = 0; i < c->count && e == OK; i++) {
        e = change_group_item(&g, &c->items[i], c->incremental, &o->m);
    }
    e = e == OK ? group_config_check(&g, &rq->server->config.server, &o->m) : e;
    if (e != OK) {
        o->k = KERR_INVALID_CONFIG;
    } else if (!c->validate_only) {
        o->k = coordinator_configure_group(groups, name, &g);
        if (o->k != KERR_NONE) {
            err_set(&o->m, ERR_INVALID, "The group cannot be configured now.");
        }
    }
}

/* Must the answer wait for the turn's commit? */
static bool is_stored_later(const struct change *c, const struct outcome *o)
{
    return c->type == RESOURCE_GROUP && o->k == KERR_NONE && !c->validate_only;
}

static bool any_stored_later(const struct change *list, const struct outcome *o, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        if (is_stored_later(&list[i], &o[i])) {
            return true;
        }
    }
    return false;
}

/* --- one resource ---------------------------------------------------------------------------- */

/* False: no memory. */
static bool change_one(struct request *rq, const struct change *c, struct outcome *o)
{
    if (!check_items(rq, c, o)) {
        return false;
    }
    if (o->k != KERR_NONE) {
        return true;
    }
    if (c->type == RESOURCE_TOPIC) {
        change_topic(rq, c, o);
    } else if (c->type == RESOURCE_BROKER) {
        change_broker(rq, c, o);
    } else if (c->type == RESOURCE_BROKER_LOGGER && c->incremental) {
        change_logger(rq, c, o);
    } else if (c->type == RESOURCE_GROUP) {
        change_group(rq, c, o);
    } else if (c->type == RESOURCE_CLIENT_METRICS) {
        refuse(o, KERR_INVALID_CONFIG, "Metrics of clients are not collected here.");
    } else {
        o->k = KERR_INVALID_REQUEST;
        err_set(&o->m, ERR_INVALID, "Unknown resource type %d", c->type);
    }
    return true;
}

/* --- streams that clients have bound ---------------------------------------------------------- */

static json_t *json_text(struct kstr text)
{
    struct slice s = str_slice(text);
    bool zero = s.len > 0 && memchr(s.data, 0, s.len) != NULL;
    return zero ? NULL : json_stringn(s.data != NULL ? (const char *)s.data : "", s.len);
}

/* What the writer is asked for: the changes, which it applies to the stream as it has it by then,
 * or all that is to be said of the stream. NULL: a value that is no text, or no memory. */
static json_t *changes_of(const struct change *c)
{
    static const char *const ops[] = {
        [TOPIC_CONFIG_SET] = "set",
        [TOPIC_CONFIG_DELETE] = "delete",
        [TOPIC_CONFIG_APPEND] = "append",
        [TOPIC_CONFIG_SUBTRACT] = "subtract",
    };
    json_t *all = c->incremental ? json_array() : json_object();
    for (int32_t i = 0; i < c->count && all != NULL; i++) {
        const struct change_item *x = &c->items[i];
        char name[256];
        snprintf(name, sizeof name, "%.*s", (int)kstr_slice(x->name).len, x->name.data);
        bool known = x->op >= TOPIC_CONFIG_SET && x->op <= TOPIC_CONFIG_SUBTRACT;
        json_t *value = json_text(x->value);
        int rc = c->incremental
                     ? json_array_append_new(all, json_pack("{s:s, s:s, s:o}", "op",
                                                            known ? ops[x->op] : "?", "name", name,
                                                            "value", value))
                     : json_object_set_new(all, name, value);
        if (rc != 0) {
            json_decref(all);
            all = NULL;
        }
    }
    return all;
}

struct changes {
    const struct change *list;
    int32_t count;
};

static bool collect_one(struct request *rq, struct bound_calls *calls, const struct change *c,
                        int32_t index)
{
    const struct topic *t = topics_find(rq->server->topics, kstr_slice(c->name));
    struct outcome o = {KERR_NONE, {""}};
    if (c->type != RESOURCE_TOPIC || t == NULL || !bound_by_client(rq, t)) {
        return true;
    }
    if (!check_items(rq, c, &o)) {
        return false;
    }
    if (o.k != KERR_NONE) {
        return true; /* said when it is looked at again */
    }
    struct bound_call *call = bound_add(calls, index, 0, kstr_slice(c->name));
    if (call == NULL) {
        return false;
    }
    json_t *changes = changes_of(c);
    if (changes == NULL) {
        bound_refuse(call, KERR_INVALID_CONFIG, "A value is not UTF-8, or has a zero "
                     "byte.");
    } else if (c->incremental) {
        call->command = json_pack("{s:s, s:s, s:o, s:b}", "command", "alter", "name", call->name,
                                  "changes", changes, "validate", c->validate_only);
    } else {
        call->command = json_pack("{s:s, s:s, s:i, s:o, s:b, s:b}", "command", "bind", "name",
                                  call->name, "partitions", t->row->partition_count, "configs",
                                  changes, "replace", 1, "validate", c->validate_only);
    }
    return true;
}

/* --- the two requests ------------------------------------------------------------------------ */

/* The resources that are there more than once: told by type and name. */
static enum name_seen *resources_seen(struct request *rq, const struct change *list, int32_t count)
{
    struct slice *keys = arena_array(&rq->arena, (size_t)count, sizeof *keys);
    for (int32_t i = 0; i < count && keys != NULL; i++) {
        struct slice name = kstr_slice(list[i].name);
        uint8_t *key = arena_alloc(&rq->arena, name.len + 1);
        if (key == NULL) {
            return NULL;
        }
        key[0] = (uint8_t)list[i].type;
        if (name.len > 0) {
            memcpy(key + 1, name.data, name.len);
        }
        keys[i] = slice_make(key, name.len + 1);
    }
    return keys != NULL ? names_seen(rq, keys, count) : NULL;
}

static bool collect_changed(struct request *rq, struct bound_calls *calls, void *arg)
{
    const struct changes *all = arg;
    enum name_seen *seen = resources_seen(rq, all->list, all->count);
    bool ok = seen != NULL;
    for (int32_t i = 0; i < all->count && ok; i++) {
        ok = seen[i] != NAME_ONCE || collect_one(rq, calls, &all->list[i], i);
    }
    return ok;
}

/* How one resource is answered: as it went, or as it went when nothing was stored. */
static enum kerr error_told(const struct change *c, const struct outcome *o, bool failed)
{
    return failed && is_stored_later(c, o) ? KERR_COORDINATOR_NOT_AVAILABLE : o->k;
}

/* Outcomes of all resources, in their order. NULL: no memory. */
static struct outcome *change_all(struct request *rq, const struct change *list, int32_t count)
{
    enum name_seen *seen = resources_seen(rq, list, count);
    struct outcome *outcomes = arena_array(&rq->arena, (size_t)count, sizeof *outcomes);
    bool ok = seen != NULL && outcomes != NULL;
    for (int32_t i = 0; i < count && ok; i++) {
        if (seen[i] != NAME_ONCE) {
            refuse(&outcomes[i], KERR_INVALID_REQUEST, "Each resource must appear at most once.");
        } else {
            ok = change_one(rq, &list[i], &outcomes[i]);
        }
    }
    return ok ? outcomes : NULL;
}

/* NULL: no memory. */
static struct incremental_alter_configs_response *incremental_response(struct request *rq,
                                                                       const struct change *list,
                                                                       const struct outcome *o,
                                                                       bool failed)
{
    const struct incremental_alter_configs_request *q = rq->body;
    struct incremental_alter_configs_response *p = arena_alloc(&rq->arena, sizeof *p);
    if (p == NULL) {
        return NULL;
    }
    codec_init(&incremental_alter_configs_response_message, p);
    p->responses = codec_new_array(&incremental_alter_configs_response_responses_message,
                                   &rq->arena, q->resources_count);
    for (int32_t i = 0; p->responses != NULL && i < q->resources_count; i++) {
        enum kerr k = error_told(&list[i], &o[i], failed);
        p->responses[i].resource_name = list[i].name;
        p->responses[i].resource_type = list[i].type;
        p->responses[i].error_code = (int16_t)k;
        p->responses[i].error_message = kstr_make(k != KERR_NONE ? o[i].m.text : NULL);
        p->responses_count++;
    }
    return p->responses != NULL ? p : NULL;
}

void api_incremental_alter_configs(struct request *rq)
{
    const struct incremental_alter_configs_request *q = rq->body;
    struct change *list = arena_array(&rq->arena, (size_t)q->resources_count, sizeof *list);
    bool ok = list != NULL;
    for (int32_t i = 0; i < q->resources_count && ok; i++) {
        const struct incremental_alter_configs_request_resources *r = &q->resources[i];
        list[i] = (struct change){r->resource_name, r->resource_type, true, q->validate_only,
                                  r->configs_count, NULL};
        list[i].items = arena_array(&rq->arena, (size_t)r->configs_count, sizeof *list[i].items);
        ok = list[i].items != NULL;
        for (int32_t k = 0; k < r->configs_count && ok; k++) {
            list[i].items[k] = (struct change_item){r->configs[k].name, r->configs[k].value,
                                                    r->configs[k].config_operation};
        }
    }
    struct changes all = {list, q->resources_count};
    if (ok && bound_first(rq, 0, collect_changed, &all)) {
        return;
    }
    struct outcome *o = ok ? change_all(rq, list, q->resources_count) : NULL;
    const void *p = o != NULL ? incremental_response(rq, list, o, false) : NULL;
    const void *failed = o != NULL ? incremental_response(rq, list, o, true) : NULL;
    if (p == NULL || failed == NULL) {
        request_close_too_large(rq);
    } else if (any_stored_later(list, o, q->resources_count)) {
        request_reply_committed(rq, p, failed);
    } else {
        request_reply(rq, p);
    }
}

/* NULL: no memory. */
static struct alter_configs_response *response(struct request *rq, const struct change *list,
                                               const struct outcome *o, bool failed)
{
    const struct alter_configs_request *q = rq->body;
    struct alter_configs_response *p = arena_alloc(&rq->arena, sizeof *p);
    if (p == NULL) {
        return NULL;
    }
    codec_init(&alter_configs_response_message, p);
    p->responses = codec_new_array(&alter_configs_response_responses_message, &rq->arena,
                                   q->resources_count);
    for (int32_t i = 0; p->responses != NULL && i < q->resources_count; i++) {
        enum kerr k = error_told(&list[i], &o[i], failed);
        p->responses[i].resource_name = list[i].name;
        p->responses[i].resource_type = list[i].type;
        p->responses[i].error_code = (int16_t)k;
        p->responses[i].error_message = kstr_make(k != KERR_NONE ? o[i].m.text : NULL);
        p->responses_count++;
    }
    return p->responses != NULL ? p : NULL;
}

void api_alter_configs(struct request *rq)
{
    const struct alter_configs_request *q = rq->body;
    struct change *list = arena_array(&rq->arena, (size_t)q->resources_count, sizeof *list);
    bool ok = list != NULL;
    for (int32_t i = 0; i < q->resources_count && ok; i++) {
        const struct alter_configs_request_resources *r = &q->resources[i];
        list[i] = (struct change){r->resource_name, r->resource_type, false, q->validate_only,
                                  r->configs_count, NULL};
        list[i].items = arena_array(&rq->arena, (size_t)r->configs_count, sizeof *list[i].items);
        ok = list[i].items != NULL;
        for (int32_t k = 0; k < r->configs_count && ok; k++) {
            list[i].items[k] =
                (struct change_item){r->configs[k].name, r->configs[k].value, TOPIC_CONFIG_SET};
        }
    }
    struct changes all = {list, q->resources_count};
    if (ok && bound_first(rq, 0, collect_changed, &all)) {
        return;
    }
    struct outcome *o = ok ? change_all(rq, list, q->resources_count) : NULL;
    const void *p = o != NULL ? response(rq, list, o, false) : NULL;
    const void *failed = o != NULL ? response(rq, list, o, true) : NULL;
    if (p == NULL || failed == NULL) {
        request_close_too_large(rq);
    } else if (any_stored_later(list, o, q->resources_count)) {
        request_reply_committed(rq, p, failed);
    } else {
        request_reply(rq, p);
    }
}
