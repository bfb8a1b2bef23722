/* DescribeConfigs and ListConfigResources: what tools want to know about a topic and about this
 * broker.
 *
 * Connect, Streams and Schema Registry refuse to start when a topic's cleanup policy is missing,
 * and UIs read the broker's version and whether topics can be deleted out of its settings. A
 * topic's configs are the rows of broker/topic_config.c. A topic that the plugin captures has its
 * retention and cleanup from culex.json or from who has bound it, and its owner's attributes as
 * well, as `mqtt.…`: of those that culex.json has, all are read-only here. Broker settings are the
 * rows of the option table under their own names, the defaults of topics' configs under Kafka's,
 * and some that tools look for; all are read-only, because culex.json says them. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include <jansson.h>

#include "kafka-server/api/api.h"
#include "kafka-server/api/api_bound.h"
#include "kafka-server/api/api_config.h"
#include "kafka-server/api/api_names.h"
#include "kafka-server/broker/coordinator.h"
#include "kafka-server/broker/topic_admin.h"
#include "kafka-server/broker/topic_config.h"
#include "kafka-server/broker/topics.h"
#include "kafka-server/server.h"
#include "kafka_messages.h"
#include "shared/base/decimal.h"
#include "shared/base/log.h"

#define VALUE_BYTES_MAX (64u << 10) /* of one value */
#define ATTRIBUTES_MAX  64          /* of one topic */
#define KEYS_MAX        100000 /* of one request: each config is looked for among them */
#define SYNONYMS_MAX    (1 + TOPIC_CONFIG_SYNONYMS_MAX) /* of one config */

/* What tools look for at a broker, and neither the option table nor the defaults of topics have
 * under that name. */
struct broker_row {
    const char *name;
    enum config_type type;
    const char *value; /* NULL: see broker_value */
};

static const struct broker_row broker_rows[] = {
    {"broker.id", CONFIG_INT, NULL},
    {"log.dirs", CONFIG_LIST, NULL},
    {"inter.broker.protocol.version", CONFIG_STRING, "4.1"},
    {"process.roles", CONFIG_LIST, "broker,controller"},
    {"authorizer.class.name", CONFIG_STRING, ""},
    {"default.replication.factor", CONFIG_INT, "1"},
    {"offsets.topic.replication.factor", CONFIG_INT, "1"},
};

/* Of a subscription to clients' metrics, which nobody collects here: Kafka's defaults. */
struct fixed_row {
    const char *name;
    enum config_type type;
    const char *value;
};

static const struct fixed_row metrics_rows[] = {
    {"interval.ms", CONFIG_INT, "300000"},
    {"match", CONFIG_LIST, ""},
    {"metrics", CONFIG_LIST, ""},
};

#define ROWS(table) (sizeof(table) / sizeof *(table))

/* A topic's attributes, read for as many of the resources as name it: they may be long, and there
 * is room for thousands of times the same name. */
struct topic_read {
    const struct topic *topic; /* NULL: none yet */
    json_t *attributes;        /* of a captured one */
    json_t *configs;           /* {"name": "value"} */
};

/* The settings of one resource, as they are collected. */
struct listing {
    struct request *rq;
    struct topic_read *read;
    const struct describe_configs_request *q;
    const struct describe_configs_request_resources *asked;
    struct describe_configs_response_results *out;
    bool no_memory;
};

/* One value under one name, from somewhere. */
struct told {
    const char *name, *value;
    enum config_source source;
};

static bool is_wanted(const struct listing *l, const char *name)
{
    bool all = l->asked->configuration_keys_count <= 0;
    for (int32_t i = 0; !all && i < l->asked->configuration_keys_count; i++) {
        all = slice_eq(kstr_slice(l->asked->configuration_keys[i]), slice_str(name));
    }
    return all;
}

static struct kstr keep_text(struct listing *l, const char *text)
{
    if (text == NULL) {
        return kstr_make(NULL);
    }
    struct kstr copy = names_keep(l->rq, text);
    l->no_memory |= copy.data == NULL;
    return copy;
}

/* One setting more; there is room in l->out->configs. told: the value that holds, then what it
 * hides. */
static void add_config(struct listing *l, const char *name, enum config_type type, bool read_only,
                       const struct told *told, int32_t told_count, const char *doc)
{
    struct describe_configs_response_results_configs *c = &l->out->configs[l->out->configs_count++];
    c->name = keep_text(l, name);
    c->value = keep_text(l, told[0].value);
    c->read_only = read_only;
    c->config_source = (int8_t)told[0].source;
    c->config_type = (int8_t)type;
    c->documentation = l->q->include_documentation ? kstr_make(doc) : kstr_make(NULL);
    c->synonyms = codec_new_array(&describe_configs_response_results_configs_synonyms_message,
                                  &l->rq->arena, SYNONYMS_MAX);
    l->no_memory |= c->synonyms == NULL;
    for (int32_t i = 0; l->q->include_synonyms && c->synonyms != NULL && i < told_count; i++) {
        if (told[i].name != NULL) {
            struct describe_configs_response_results_configs_synonyms *s =
                &c->synonyms[c->synonyms_count++];
            s->name = keep_text(l, told[i].name);
            s->value = keep_text(l, told[i].value);
            s->source = (int8_t)told[i].source;
        }
    }
}

static bool make_room(struct listing *l, size_t count)
{
    l->out->configs = codec_new_array(&describe_configs_response_results_configs_message,
                                      &l->rq->arena, (int32_t)count);
    l->no_memory |= l->out->configs == NULL;
    return l->out->configs != NULL;
}

static void refuse(struct listing *l, enum kerr error, const char *message)
{
    l->out->error_code = (int16_t)error;
    l->out->error_message = message != NULL ? keep_text(l, message) : kstr_make(NULL);
}

/* --- topics ---------------------------------------------------------------------------------- */

static void put_number(json_t *configs, const char *name, int64_t value)
{
    char text[32];
    snprintf(text, sizeof text, "%" PRId64, value);
    json_object_set_new(configs, name, json_string(text));
}

json_t *api_config_captured(const struct store_topic *row, const json_t *attributes)
{
    bool compact = row->cleanup & STORE_CLEANUP_COMPACT;
    bool delete = row->cleanup & STORE_CLEANUP_DELETE;
    char ratio[DECIMAL_BYTES_MAX];
    const char *policy = !compact ? "delete" : delete ? "compact,delete" : "compact";
    json_t *configs = json_object();
    const json_t *largest = json_object_get(attributes, "max.message.bytes");
    const struct store_compaction *c = &row->compaction;
    json_object_set_new(configs, "cleanup.policy", json_string(policy));
    put_number(configs, "retention.ms", row->retention_ms);
    put_number(configs, "retention.bytes", row->retention_bytes);
    if (c->given) {
        put_number(configs, "min.compaction.lag.ms", c->min_compaction_lag_ms);
        put_number(configs, "max.compaction.lag.ms", c->max_compaction_lag_ms);
        put_number(configs, "delete.retention.ms", c->delete_retention_ms);
        decimal_text(c->min_cleanable_dirty_ratio, ratio);
        json_object_set_new(configs, "min.cleanable.dirty.ratio", json_string(ratio));
    }
    if (json_is_integer(largest)) {
        put_number(configs, "max.message.bytes", json_integer_value(largest));
    }
    return configs;
}

enum config_source api_config_source(const json_t *attributes, const char *name)
{
    const json_t *said = json_object_get(attributes, "said");
    if (strcmp(name, "max.message.bytes") == 0) {
        return CONFIG_SOURCE_STATIC_BROKER; /* it follows from ring.bytes */
    }
    bool found = !json_is_array(said); /* a row of before: who knows */
    for (size_t i = 0; i < json_array_size(said) && !found; i++) {
        const char *one = json_string_value(json_array_get(said, i));
        found = one != NULL && strcmp(one, name) == 0;
    }
    return found ? CONFIG_SOURCE_TOPIC : CONFIG_SOURCE_DEFAULT;
}

bool api_config_is_note(const char *attribute)
{
    return strcmp(attribute, "said") == 0 || strcmp(attribute, "max.message.bytes") == 0;
}

/* What the server's settings say, behind what is told already. */
static int32_t tell_synonyms(struct told *told, int32_t n, const struct topic_config_synonym *of,
                             size_t count)
{
    for (size_t i = 0; i < count; i++) {
        told[n++] = (struct told){of[i].name, of[i].value, of[i].source};
    }
    return n;
}

/* What a captured topic's row says. */
static void add_captured_config(struct listing *l, const struct topic_config *row,
                                const char *value, enum config_source source, bool read_only)
{
    const char *usual = row->synonym_unset ? NULL : row->synonym;
    const struct told told[] = {
        {source == CONFIG_SOURCE_TOPIC ? row->name : usual, value, source},
        {usual, row->usual, CONFIG_SOURCE_DEFAULT},
    };
    add_config(l, row->name, row->type, read_only, told, source == CONFIG_SOURCE_DEFAULT ? 1 : 2,
               row->doc);
}

/* c: NULL of a topic that the server's settings do not concern. */
static void add_topic_config(struct listing *l, const struct topic_config *row,
                             const json_t *configs, const struct config *c, bool read_only)
{
    const char *own = json_string_value(json_object_get(configs, row->name));
    struct topic_config_synonym synonyms[TOPIC_CONFIG_SYNONYMS_MAX];
    struct told told[SYNONYMS_MAX];
    struct buf text;
    buf_init(&text, VALUE_BYTES_MAX);
    enum config_source source = topic_config_value(row, configs, c, &text);
    int32_t n = 0;
    if (own != NULL) {
        told[n++] = (struct told){row->name, own, CONFIG_SOURCE_TOPIC};
    }
    if (row->synonym != NULL) {
        const char *usual = row->synonym_unset ? NULL : row->usual;
        n = tell_synonyms(told, n, synonyms,
                          topic_config_synonyms(row->synonym, usual, c, synonyms));
    }
    if (n == 0) {
        told[n++] = (struct told){NULL, buf_text(&text), source};
    }
    add_config(l, row->name, row->type, read_only, told, n, row->doc);
    buf_fini(&text);
}

static bool starts_with(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

void api_config_text(const json_t *v, struct buf *out)
{
    if (json_is_string(v)) {
        buf_put(out, json_string_value(v), json_string_length(v));
    } else if (json_is_array(v)) {
        for (size_t i = 0; i < json_array_size(v); i++) {
            buf_put(out, ",", i != 0);
            api_config_text(json_array_get(v, i), out);
        }
    } else {
        char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
        buf_put(out, text != NULL ? text : "", text != NULL ? strlen(text) : 0);
        free(text);
    }
}

/* What the plugin says about a stream of its own: filters, key, headers, … */
static void add_attributes(struct listing *l, json_t *attributes, bool by_client)
{
    const char *key;
    json_t *value;
    size_t count = 0;
    struct buf text;
    buf_init(&text, VALUE_BYTES_MAX);
    json_object_foreach(attributes, key, value)
    {
        char name[256];
        if (api_config_is_note(key)) {
            continue;
        }
        if (++count > ATTRIBUTES_MAX) {
            break;
        }
        snprintf(name, sizeof name, "%s%s", starts_with(key, "mqtt.") ? "" : "mqtt.", key);
        if (!is_wanted(l, name)) {
            continue;
        }
        buf_reset(&text);
        api_config_text(value, &text);
        const struct told told = {name, buf_text(&text), api_config_source(attributes, name)};
        bool fixed = !by_client || strcmp(name, "mqtt.bound.by") == 0;
        add_config(l, name, json_is_array(value) ? CONFIG_LIST : CONFIG_STRING, fixed, &told, 1,
                   by_client ? "Of the stream, as a Kafka client has bound it."
                             : "Of the stream, as culex.json has it.");
    }
    buf_fini(&text);
}

/* The configs that a captured stream has, too. */
static bool is_of_captured(const char *name)
{
    static const char *const names[] = {
        "retention.ms",          "retention.bytes",     "cleanup.policy", "min.compaction.lag.ms",
        "max.compaction.lag.ms", "delete.retention.ms", "min.cleanable.dirty.ratio",
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(names[i], name) == 0) {
            return true;
        }
    }
    return false;
}

static void topic_read_fini(struct topic_read *x)
{
    json_decref(x->configs);
    json_decref(x->attributes);
    *x = (struct topic_read){.topic = NULL};
}

static void topic_read(struct topic_read *x, const struct topic *t)
{
    if (x->topic != t) {
        topic_read_fini(x);
        x->topic = t;
        x->attributes = t->captured ? json_loads(t->row->attributes, 0, NULL) : NULL;
        x->configs = t->captured ? api_config_captured(t->row, x->attributes)
                                 : topic_config_load(t->row->attributes);
    }
}

static void describe_topic(struct listing *l)
{
    struct slice name = kstr_slice(l->asked->resource_name);
    const struct topic *t = topics_find(l->rq->server->topics, name);
    if (t == NULL) {
        struct errmsg m = {""};
        enum kerr k = topic_check_name(name, &m);
        enum kerr unknown = names_missing(l->rq, KERR_KAFKA_STORAGE_ERROR,
                                          KERR_UNKNOWN_TOPIC_OR_PARTITION);
        refuse(l, k == KERR_NONE ? unknown : k,
               k == KERR_NONE ? "" : m.text);
        return;
    }
    topic_read(l->read, t);
    json_t *attributes = l->read->attributes, *configs = l->read->configs;
    bool by_client = bound_by_client(l->rq, t);
    l->no_memory |= configs == NULL;
    if (make_room(l, topic_config_count + ATTRIBUTES_MAX)) {
        for (size_t i = 0; i < topic_config_count; i++) {
            const char *row = topic_configs[i].name;
            const char *own = json_string_value(json_object_get(configs, row));
            bool fixed = t->captured && !(by_client && is_of_captured(row));
            if (is_wanted(l, row) && t->captured && own != NULL) {
                add_captured_config(l, &topic_configs[i], own, api_config_source(attributes, row),
                                    fixed);
            } else if (is_wanted(l, row)) {
                add_topic_config(l, &topic_configs[i], configs,
                                 t->captured ? NULL : &l->rq->server->config, fixed);
            }
        }
        if (t->captured) {
            add_attributes(l, attributes, by_client);
        }
    }
}

/* --- the broker ------------------------------------------------------------------------------ */

static enum config_type type_of(const struct option_view *v)
{
    static const enum config_type types[] = {
        [OPTION_BOOL] = CONFIG_BOOLEAN,  [OPTION_INT] = CONFIG_INT,
        [OPTION_LONG] = CONFIG_LONG,     [OPTION_STRING] = CONFIG_STRING,
        [OPTION_LIST] = CONFIG_LIST,     [OPTION_CHOICE] = CONFIG_STRING,
        [OPTION_DOUBLE] = CONFIG_DOUBLE,
    };
    for (size_t i = 0; i < topic_config_count; i++) {
        const struct topic_config *row = &topic_configs[i];
        if (row->synonym != NULL && strcmp(row->synonym, v->name) == 0) {
            return row->type;
        }
    }
    bool narrow = v->type == OPTION_LONG && v->max <= INT32_MAX; /* Kafka's are an int then */
    return narrow ? CONFIG_INT : types[v->type];
}

static void broker_value(const struct listing *l, const struct broker_row *row, char *text,
                         size_t room)
{
    const struct config *c = &l->rq->server->config;
    if (row->value != NULL) {
        snprintf(text, room, "%s", row->value);
    } else if (row->type == CONFIG_INT) {
        snprintf(text, room, "%d", c->server.node_id);
    } else {
        snprintf(text, room, "%s", c->data);
    }
}

static bool is_default_of_topics(const char *name)
{
    bool found = starts_with(name, "log.retention.") || strcmp(name, "log.roll.hours") == 0;
    for (size_t i = 0; i < topic_config_count && !found; i++) {
        const char *synonym = topic_configs[i].synonym;
        found = synonym != NULL && strcmp(synonym, name) == 0;
    }
    return found;
}

static void add_option(struct listing *l, size_t i, struct buf *text)
{
    const struct config *c = &l->rq->server->config;
    struct option_view v;
    option_view(i, &v);
    if (strcmp(v.section, "server") != 0 || !is_wanted(l, v.name)) {
        return;
    }
    buf_reset(text);
    option_value_text(c, i, text);
    const char *value = buf_text(text);
    if (strcmp(v.name, "advertised.listeners") == 0 && value[0] == '\0') {
        value = c->server.listeners;
    }
    struct topic_config_synonym synonyms[TOPIC_CONFIG_SYNONYMS_MAX];
    struct told told[SYNONYMS_MAX] = {{v.name, value, CONFIG_SOURCE_STATIC_BROKER},
                                      {v.name, v.default_text, CONFIG_SOURCE_DEFAULT}};
    int32_t n = 2;
    if (is_default_of_topics(v.name)) {
        n = tell_synonyms(told, 0, synonyms, topic_config_synonyms(v.name, NULL, c, synonyms));
    } else if (strcmp(value, v.default_text) == 0 && !option_said(c, i)) {
        told[0].source = CONFIG_SOURCE_DEFAULT;
        n = 1;
    }
    if (n == 0) {
        told[n++] = (struct told){NULL, NULL, CONFIG_SOURCE_DEFAULT};
    }
    add_config(l, v.name, type_of(&v), true, told, n, v.doc);
}

/* A setting that the option table does not have. */
static void add_fixed(struct listing *l, const char *name, enum config_type type,
                      enum config_source source, const char *value, const char *doc)
{
    if (is_wanted(l, name) && !topic_config_of_server(name)) {
        const struct told told = {value != NULL ? name : NULL, value, source};
        add_config(l, name, type, true, &told, 1, doc);
    }
}

/* Is it this broker's id? Else the answer says why not. */
static bool is_this_broker(struct listing *l, const char *or_empty)
{
    char why[160];
    struct slice name = kstr_slice(l->asked->resource_name);
    int node = l->rq->server->config.server.node_id;
    if (api_config_is_node(name, node)) {
        return true;
    }
    if (api_config_is_number(name)) {
        snprintf(why, sizeof why, "Unexpected broker id, expected %d%s, but received %.*s", node,
                 or_empty, (int)name.len, (const char *)name.data);
    } else {
        snprintf(why, sizeof why, "Broker id must be an integer, but it is: %.*s",
                 (int)(name.len < 80 ? name.len : 80), (const char *)name.data);
    }
    refuse(l, KERR_INVALID_REQUEST, why);
    return false;
}

static void describe_broker(struct listing *l)
{
    if (l->asked->resource_name.len <= 0) {
        return; /* the settings that all brokers share: there are none */
    }
    if (!is_this_broker(l, " or empty string") ||
        !make_room(l, ROWS(broker_rows) + topic_config_count + option_count())) {
        return;
    }
    struct buf text;
    buf_init(&text, VALUE_BYTES_MAX);
    for (size_t i = 0; i < ROWS(broker_rows); i++) {
        const struct broker_row *row = &broker_rows[i];
        char value[4096];
        broker_value(l, row, value, sizeof value);
        add_fixed(l, row->name, row->type,
                  row->value != NULL ? CONFIG_SOURCE_DEFAULT : CONFIG_SOURCE_STATIC_BROKER, value,
                  "Read by tools; cannot be changed.");
    }
    for (size_t i = 0; i < topic_config_count; i++) {
        const struct topic_config *row = &topic_configs[i];
        if (row->synonym != NULL) {
            add_fixed(l, row->synonym, row->type, CONFIG_SOURCE_DEFAULT,
                      row->synonym_unset ? NULL : row->usual, row->doc);
        }
    }
    for (size_t i = 0; i < option_count(); i++) {
        add_option(l, i, &text);
    }
    buf_fini(&text);
}

/* There is one logger, at the level of log.level or what IncrementalAlterConfigs has set. */
static void describe_logger(struct listing *l)
{
    if (l->asked->resource_name.len <= 0) {
        refuse(l, KERR_INVALID_REQUEST, "Broker id must not be empty");
    } else if (is_this_broker(l, "") && make_room(l, 1) && is_wanted(l, LOGGER_NAME)) {
        const struct told told = {LOGGER_NAME, api_config_level_name(log_level_now),
                                  CONFIG_SOURCE_BROKER_LOGGER};
        add_config(l, LOGGER_NAME, 0, false, &told, 0, NULL);
    }
}

static void describe_fixed(struct listing *l, const struct fixed_row *rows, size_t count,
                           const char *nameless)
{
    if (l->asked->resource_name.len <= 0) {
        refuse(l, KERR_INVALID_REQUEST, nameless);
        return;
    }
    if (!make_room(l, count)) {
        return;
    }
    for (size_t i = 0; i < count; i++) {
        const struct told told = {rows[i].name, rows[i].value, CONFIG_SOURCE_DEFAULT};
        if (is_wanted(l, rows[i].name)) {
            add_config(l, rows[i].name, rows[i].type, true, &told, 1, "Kafka's default.");
        }
    }
}

static void describe_group(struct listing *l)
{
    const struct config_server *cfg = &l->rq->server->config.server;
    struct slice name = kstr_slice(l->asked->resource_name);
    if (l->asked->resource_name.len <= 0) {
        refuse(l, KERR_INVALID_REQUEST, "Group name must not be empty");
        return;
    }
    struct group_config set = coordinator_group_config(l->rq->server->coordinator, name);
    bool room = make_room(l, group_config_row_count);
    for (size_t i = 0; room && i < group_config_row_count; i++) {
        const struct group_config_row *row = &group_config_rows[i];
        int32_t own = group_config_get(&set, row), of_server = group_config_of_server(cfg, row);
        char text[16];
        snprintf(text, sizeof text, "%d", own > 0 ? own : of_server);
        bool usual = strcmp(text, row->usual) == 0;
        /* One synonym, as in Kafka: what a group's config hides is not told. */
        const struct told told = {own > 0 || usual ? row->name : row->synonym, text,
                                  own > 0 ? CONFIG_SOURCE_GROUP
                                  : usual ? CONFIG_SOURCE_DEFAULT
                                          : CONFIG_SOURCE_STATIC_BROKER};
        if (is_wanted(l, row->name)) {
            add_config(l, row->name, CONFIG_INT, false, &told, 1, row->doc);
        }
    }
}

static void describe(struct listing *l)
{
    switch (l->asked->resource_type) {
    case RESOURCE_TOPIC:
        describe_topic(l);
        break;
    case RESOURCE_BROKER:
        describe_broker(l);
        break;
    case RESOURCE_BROKER_LOGGER:
        describe_logger(l);
        break;
    case RESOURCE_CLIENT_METRICS:
        describe_fixed(l, metrics_rows, ROWS(metrics_rows),
                       "Client metrics subscription name must not be empty");
        break;
    case RESOURCE_GROUP:
        describe_group(l);
        break;
    default:
        refuse(l, KERR_INVALID_REQUEST, "Unsupported resource type");
    }
}

/* Equal names one after the other. NULL: no memory. */
static int32_t *resources_order(struct request *rq, const struct describe_configs_request *q)
{
    struct slice *names = arena_array(&rq->arena, (size_t)q->resources_count, sizeof *names);
    for (int32_t i = 0; i < q->resources_count && names != NULL; i++) {
        names[i] = kstr_slice(q->resources[i].resource_name);
    }
    return names != NULL ? names_order(rq, names, q->resources_count) : NULL;
}

static bool too_many_keys(const struct describe_configs_request *q)
{
    int64_t count = 0;
    for (int32_t i = 0; i < q->resources_count; i++) {
        int32_t n = q->resources[i].configuration_keys_count;
        count += n > 0 ? n : 0;
    }
    return count > KEYS_MAX;
}

/* Each is answered, and a repeated one again, as Kafka does. */
void api_describe_configs(struct request *rq)
{
    const struct describe_configs_request *q = rq->body;
    struct describe_configs_response p;
    struct topic_read read = {.topic = NULL};
    int32_t *order = resources_order(rq, q);
    codec_init(&describe_configs_response_message, &p);
    p.results =
        codec_new_array(&describe_configs_response_results_message, &rq->arena, q->resources_count);
    bool whole = p.results != NULL && order != NULL, refused = too_many_keys(q);
    p.results_count = whole ? q->resources_count : 0;
    for (int32_t k = 0; k < p.results_count && whole; k++) {
        int32_t i = order[k];
        struct listing l = {rq, &read, q, &q->resources[i], &p.results[i], false};
        l.out->resource_type = l.asked->resource_type;
        l.out->resource_name = l.asked->resource_name;
        if (refused) {
            refuse(&l, KERR_INVALID_REQUEST, "Too many configuration keys.");
        } else {
            describe(&l);
        }
        whole = !l.no_memory;
    }
    topic_read_fini(&read);
    if (!whole) {
        request_close_too_large(rq);
        return;
    }
    request_reply(rq, &p);
}

/* --- ListConfigResources ---------------------------------------------------------------------- */

#define CLIENT_METRICS_ALONE 0 /* version 0 is ListClientMetricsResources, of before KIP-1142 */

static bool lists(const struct list_config_resources_request *q, int8_t type)
{
    bool all = q->resource_types_count <= 0;
    for (int32_t i = 0; !all && i < q->resource_types_count; i++) {
        all = q->resource_types[i] == type;
    }
    return all;
}

static void add_resource(struct list_config_resources_response *p, struct kstr name, int8_t type)
{
    p->config_resources[p->config_resources_count].resource_name = name;
    p->config_resources[p->config_resources_count++].resource_type = type;
}

/* Its id is the coordinator's, and good for the reply: that is encoded in this turn. */
static void add_group(void *arg, struct slice id)
{
    add_resource(arg, (struct kstr){(const char *)id.data, (int32_t)id.len}, RESOURCE_GROUP);
}

void api_list_config_resources(struct request *rq)
{
    static const int8_t types[] = {RESOURCE_TOPIC, RESOURCE_BROKER, RESOURCE_BROKER_LOGGER,
                                   RESOURCE_CLIENT_METRICS, RESOURCE_GROUP};
    const struct list_config_resources_request *q = rq->body;
    const struct topics *topics = rq->server->topics;
    size_t count = topics_count(topics);
    struct list_config_resources_response p;
    codec_init(&list_config_resources_response_message, &p);
    char id[16];
    snprintf(id, sizeof id, "%d", rq->server->config.server.node_id);
    struct kstr node = names_keep(rq, id);
    size_t configured = coordinator_configured_count(rq->server->coordinator);
    p.config_resources = codec_new_array(&list_config_resources_response_config_resources_message,
                                         &rq->arena, (int32_t)(count + configured) + 2);
    if (node.data == NULL || p.config_resources == NULL) {
        request_close_too_large(rq);
        return;
    }
    bool known = true;
    for (int32_t i = 0; i < q->resource_types_count && known; i++) {
        known = memchr(types, q->resource_types[i], sizeof types) != NULL;
    }
    p.error_code = known ? KERR_NONE : KERR_UNSUPPORTED_VERSION;
    bool none = !known || rq->header.api_version == CLIENT_METRICS_ALONE;
    if (!none && lists(q, RESOURCE_BROKER_LOGGER)) {
        add_resource(&p, node, RESOURCE_BROKER_LOGGER);
    }
    if (!none && lists(q, RESOURCE_BROKER)) {
        add_resource(&p, node, RESOURCE_BROKER);
    }
    for (size_t i = 0; !none && lists(q, RESOURCE_TOPIC) && i < count; i++) {
        add_resource(&p, kstr_make(topics_at(topics, i)->row->name), RESOURCE_TOPIC);
    }
    if (!none && lists(q, RESOURCE_GROUP)) {
        coordinator_each_configured(rq->server->coordinator, add_group, &p);
    }
    request_reply(rq, &p);
}
