/* DescribeConfigs: what tools want to know about a topic and about this broker.
 *
 * Connect, Streams and Schema Registry refuse to start when a topic's cleanup policy is missing,
 * and UIs read the broker's version and whether topics can be deleted out of its settings. So all
 * of Kafka's topic settings are reported, with the value that holds here: those that a stream has
 * of its own come from the catalog, the others are fixed. A topic that the plugin captures has
 * its owner's attributes as well, as `mqtt.…`. Broker settings are the rows of the option table
 * under their own names, plus some that tools look for by Kafka's name. Nothing can be altered by
 * this protocol yet, so everything is read-only. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include <jansson.h>

#include "kafka-server/api/api.h"
#include "kafka-server/broker/topics.h"
#include "kafka-server/server.h"
#include "kafka_messages.h"

/* Kafka's numbers (ConfigDef types, ConfigSource, ConfigResource). */
enum {
    TYPE_BOOL = 1,
    TYPE_STRING = 2,
    TYPE_INT = 3,
    TYPE_LONG = 5,
    TYPE_DOUBLE = 6,
    TYPE_LIST = 7,
};
enum { SOURCE_TOPIC = 1, SOURCE_STATIC_BROKER = 4, SOURCE_DEFAULT = 5 };
enum { RESOURCE_TOPIC = 2, RESOURCE_BROKER = 4 };

#define VALUE_BYTES_MAX     (64u << 10) /* of one value */
#define ATTRIBUTES_MAX      64          /* of one topic */
#define SEGMENT_BYTES_UNSET (16 << 20)  /* what the store takes without a limit */

/* Where a topic's value comes from, when it is not the fixed one. */
enum topic_value {
    VALUE_FIXED,
    VALUE_CLEANUP,
    VALUE_RETENTION_MS,
    VALUE_RETENTION_BYTES,
    VALUE_SEGMENT_BYTES,
    VALUE_SEGMENT_MS,
};

struct topic_row {
    const char *name;
    int8_t type;
    enum topic_value from;
    const char *value; /* the default, and the value where it is fixed */
    const char *doc;
};

static const struct topic_row topic_rows[] = {
    {"cleanup.policy", TYPE_LIST, VALUE_CLEANUP, "delete", "What happens to old records."},
    {"compression.type", TYPE_STRING, VALUE_FIXED, "producer",
     "Batches stay as they were written."},
    {"delete.retention.ms", TYPE_LONG, VALUE_FIXED, "86400000", "How long tombstones are kept."},
    {"file.delete.delay.ms", TYPE_LONG, VALUE_FIXED, "60000", "Not used."},
    {"flush.messages", TYPE_LONG, VALUE_FIXED, "9223372036854775807",
     "See store.flush.interval.ms."},
    {"flush.ms", TYPE_LONG, VALUE_FIXED, "9223372036854775807", "See store.flush.interval.ms."},
    {"follower.replication.throttled.replicas", TYPE_LIST, VALUE_FIXED, "",
     "Not used: one broker."},
    {"index.interval.bytes", TYPE_INT, VALUE_FIXED, "4096", "Not used."},
    {"leader.replication.throttled.replicas", TYPE_LIST, VALUE_FIXED, "", "Not used: one broker."},
    {"local.retention.bytes", TYPE_LONG, VALUE_FIXED, "-2", "As retention.bytes: all is local."},
    {"local.retention.ms", TYPE_LONG, VALUE_FIXED, "-2", "As retention.ms: all is local."},
    {"max.compaction.lag.ms", TYPE_LONG, VALUE_FIXED, "9223372036854775807", "Latest compaction."},
    {"max.message.bytes", TYPE_INT, VALUE_FIXED, "1048588", "Largest batch of a client."},
    {"message.timestamp.after.max.ms", TYPE_LONG, VALUE_FIXED, "3600000", "Not used."},
    {"message.timestamp.before.max.ms", TYPE_LONG, VALUE_FIXED, "9223372036854775807", "Not used."},
    {"message.timestamp.type", TYPE_STRING, VALUE_FIXED, "CreateTime",
     "Whose clock stamps records."},
    {"min.cleanable.dirty.ratio", TYPE_DOUBLE, VALUE_FIXED, "0.5", "Not used."},
    {"min.compaction.lag.ms", TYPE_LONG, VALUE_FIXED, "0", "Earliest compaction."},
    {"min.insync.replicas", TYPE_INT, VALUE_FIXED, "1", "One broker."},
    {"preallocate", TYPE_BOOL, VALUE_FIXED, "false", "Not used."},
    {"remote.storage.enable", TYPE_BOOL, VALUE_FIXED, "false", "All is local."},
    {"retention.bytes", TYPE_LONG, VALUE_RETENTION_BYTES, "-1",
     "Most bytes of a partition; -1: no limit."},
    {"retention.ms", TYPE_LONG, VALUE_RETENTION_MS, "604800000",
     "How long records are kept; -1: for ever."},
    {"segment.bytes", TYPE_INT, VALUE_SEGMENT_BYTES, "1073741824",
     "Bytes of a segment, all topics together."},
    {"segment.index.bytes", TYPE_INT, VALUE_FIXED, "10485760", "Not used."},
    {"segment.jitter.ms", TYPE_LONG, VALUE_FIXED, "0", "Not used."},
    {"segment.ms", TYPE_LONG, VALUE_SEGMENT_MS, "604800000", "Life of a segment."},
    {"unclean.leader.election.enable", TYPE_BOOL, VALUE_FIXED, "false", "One broker."},
};

/* What tools look for at a broker and the option table does not have under that name. */
struct broker_row {
    const char *name;
    int8_t type;
    const char *value; /* NULL: see broker_value */
};

static const struct broker_row broker_rows[] = {
    {"broker.id", TYPE_INT, NULL},
    {"log.dirs", TYPE_LIST, NULL},
    {"inter.broker.protocol.version", TYPE_STRING, "4.1"},
    {"process.roles", TYPE_LIST, "broker,controller"},
    {"authorizer.class.name", TYPE_STRING, ""},
    {"auto.create.topics.enable", TYPE_BOOL, "false"},
    {"compression.type", TYPE_STRING, "producer"},
    {"default.replication.factor", TYPE_INT, "1"},
    {"delete.topic.enable", TYPE_BOOL, "false"},
    {"log.cleanup.policy", TYPE_LIST, "delete"},
    {"log.message.timestamp.type", TYPE_STRING, "CreateTime"},
    {"log.retention.bytes", TYPE_LONG, "-1"},
    {"log.retention.ms", TYPE_LONG, "604800000"},
    {"message.max.bytes", TYPE_INT, "1048588"},
    {"min.insync.replicas", TYPE_INT, "1"},
    {"offsets.topic.replication.factor", TYPE_INT, "1"},
    {"unclean.leader.election.enable", TYPE_BOOL, "false"},
};

#define ROWS(table) (sizeof(table) / sizeof *(table))

/* The settings of one resource, as they are collected. */
struct listing {
    struct request *rq;
    const struct describe_configs_request *q;
    const struct describe_configs_request_resources *asked;
    struct describe_configs_response_results *out;
    bool no_memory;
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
    char *copy = arena_strndup(&l->rq->arena, text, strlen(text));
    l->no_memory |= copy == NULL;
    return kstr_make(copy);
}

/* One setting more; there is room in l->out->configs. usual: the default, for the synonyms (NULL:
 * none). */
static void add_config(struct listing *l, const char *name, int8_t type, int8_t source,
                       const char *value, const char *usual, const char *doc)
{
    if (!is_wanted(l, name)) {
        return;
    }
    struct describe_configs_response_results_configs *c = &l->out->configs[l->out->configs_count++];
    c->name = keep_text(l, name);
    c->value = keep_text(l, value);
    c->read_only = true;
    c->config_source = source;
    c->config_type = type;
    c->documentation = l->q->include_documentation ? kstr_make(doc) : kstr_make(NULL);
    if (!l->q->include_synonyms) {
        return;
    }
    c->synonyms = codec_new_array(&describe_configs_response_results_configs_synonyms_message,
                                  &l->rq->arena, 2);
    if (c->synonyms == NULL) {
        l->no_memory = true;
        return;
    }
    struct describe_configs_response_results_configs_synonyms *s = c->synonyms;
    s[0].name = s[1].name = c->name;
    s[0].value = c->value;
    s[0].source = source;
    s[1].source = SOURCE_DEFAULT;
    c->synonyms_count = 1;
    if (source != SOURCE_DEFAULT && usual != NULL) {
        s[1].value = keep_text(l, usual);
        c->synonyms_count = 2;
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
    l->out->error_message = kstr_make(message);
}

/* --- topics ---------------------------------------------------------------------------------- */

static void topic_value(const struct listing *l, const struct topic *t, const struct topic_row *row,
                        char *text, size_t room)
{
    const struct config_store *store = &l->rq->server->config.store;
    switch (row->from) {
    case VALUE_CLEANUP: {
        bool compact = t->row->cleanup & STORE_CLEANUP_COMPACT;
        bool delete = t->row->cleanup & STORE_CLEANUP_DELETE;
        snprintf(text, room, "%s", !compact ? "delete" : delete ? "compact,delete" : "compact");
        break;
    }
    case VALUE_RETENTION_MS:
        snprintf(text, room, "%" PRId64, t->row->retention_ms);
        break;
    case VALUE_RETENTION_BYTES:
        snprintf(text, room, "%" PRId64, t->row->retention_bytes);
        break;
    case VALUE_SEGMENT_BYTES:
        snprintf(text, room, "%" PRId64,
                 store->segment_bytes > 0 ? store->segment_bytes : (int64_t)SEGMENT_BYTES_UNSET);
        break;
    case VALUE_SEGMENT_MS:
        snprintf(text, room, "%" PRId64, store->segment_ms);
        break;
    case VALUE_FIXED:
        snprintf(text, room, "%s", row->value);
        break;
    }
}

/* Whose value it is: segments are the store's, of all topics together. */
static int8_t topic_source(enum topic_value from)
{
    switch (from) {
    case VALUE_CLEANUP:
    case VALUE_RETENTION_MS:
    case VALUE_RETENTION_BYTES:
        return SOURCE_TOPIC;
    case VALUE_SEGMENT_BYTES:
    case VALUE_SEGMENT_MS:
        return SOURCE_STATIC_BROKER;
    case VALUE_FIXED:
        break;
    }
    return SOURCE_DEFAULT;
}

static bool starts_with(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

/* A JSON value as text: lists of strings with commas, everything else as JSON writes it. */
static void json_text(const json_t *v, struct buf *out)
{
    if (json_is_string(v)) {
        buf_put(out, json_string_value(v), json_string_length(v));
    } else if (json_is_array(v)) {
        for (size_t i = 0; i < json_array_size(v); i++) {
            buf_put(out, ",", i != 0);
            json_text(json_array_get(v, i), out);
        }
    } else {
        char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
        buf_put(out, text != NULL ? text : "", text != NULL ? strlen(text) : 0);
        free(text);
    }
}

/* What the plugin says about a stream of its own: filters, key, headers, … */
static void add_attributes(struct listing *l, json_t *attributes)
{
    const char *key;
    json_t *value;
    size_t count = 0;
    struct buf text;
    buf_init(&text, VALUE_BYTES_MAX);
    json_object_foreach(attributes, key, value)
    {
        char name[256];
        if (++count > ATTRIBUTES_MAX) {
            break;
        }
        snprintf(name, sizeof name, "%s%s", starts_with(key, "mqtt.") ? "" : "mqtt.", key);
        buf_reset(&text);
        json_text(value, &text);
        add_config(l, name, json_is_array(value) ? TYPE_LIST : TYPE_STRING, SOURCE_TOPIC,
                   buf_text(&text), NULL, "Of the stream, as culex.json has it.");
    }
    buf_fini(&text);
}

static void describe_topic(struct listing *l)
{
    struct slice name = kstr_slice(l->asked->resource_name);
    const struct topic *t = topics_find(l->rq->server->topics, name);
    if (t == NULL) {
        bool ok = topic_name_ok(name);
        refuse(l, ok ? KERR_UNKNOWN_TOPIC_OR_PARTITION : KERR_INVALID_TOPIC_EXCEPTION,
               ok ? "There is no such topic." : "This is no name for a topic.");
        return;
    }
    json_error_t ignored; /* attributes are the plugin's own text: not JSON means none to show */
    json_t *attributes = json_loads(t->row->attributes, 0, &ignored);
    if (make_room(l, ROWS(topic_rows) + ATTRIBUTES_MAX)) {
        for (size_t i = 0; i < ROWS(topic_rows); i++) {
            const struct topic_row *row = &topic_rows[i];
            char text[64];
            topic_value(l, t, row, text, sizeof text);
            add_config(l, row->name, row->type, topic_source(row->from), text, row->value,
                       row->doc);
        }
        add_attributes(l, attributes);
    }
    json_decref(attributes);
}

/* --- the broker ------------------------------------------------------------------------------ */

static int8_t type_of(enum option_type type)
{
    static const int8_t types[] = {
        [OPTION_BOOL] = TYPE_BOOL,     [OPTION_INT] = TYPE_INT,   [OPTION_LONG] = TYPE_LONG,
        [OPTION_STRING] = TYPE_STRING, [OPTION_LIST] = TYPE_LIST, [OPTION_CHOICE] = TYPE_STRING,
    };
    return types[type];
}

static void broker_value(const struct listing *l, const struct broker_row *row, char *text,
                         size_t room)
{
    const struct config *c = &l->rq->server->config;
    if (row->value != NULL) {
        snprintf(text, room, "%s", row->value);
    } else if (row->type == TYPE_INT) {
        snprintf(text, room, "%d", c->server.node_id);
    } else {
        snprintf(text, room, "%s", c->data);
    }
}

static void add_option(struct listing *l, size_t i, struct buf *text)
{
    const struct config *c = &l->rq->server->config;
    struct option_view v;
    option_view(i, &v);
    if (strcmp(v.section, "server") != 0) {
        return;
    }
    buf_reset(text);
    option_value_text(c, i, text);
    const char *value = buf_text(text);
    if (strcmp(v.name, "advertised.listeners") == 0 && value[0] == '\0') {
        value = c->server.listeners;
    }
    bool usual = strcmp(value, v.default_text) == 0;
    add_config(l, v.name, type_of(v.type), usual ? SOURCE_DEFAULT : SOURCE_STATIC_BROKER, value,
               v.default_text, v.doc);
}

static void describe_broker(struct listing *l)
{
    char id[16];
    snprintf(id, sizeof id, "%d", l->rq->server->config.server.node_id);
    if (l->asked->resource_name.len <= 0) {
        return; /* the settings that all brokers share: there are none */
    }
    if (!slice_eq(kstr_slice(l->asked->resource_name), slice_str(id))) {
        refuse(l, KERR_INVALID_REQUEST, "This is another broker.");
        return;
    }
    if (!make_room(l, ROWS(broker_rows) + option_count())) {
        return;
    }
    struct buf text;
    buf_init(&text, VALUE_BYTES_MAX);
    for (size_t i = 0; i < ROWS(broker_rows); i++) {
        const struct broker_row *row = &broker_rows[i];
        char value[4096];
        broker_value(l, row, value, sizeof value);
        add_config(l, row->name, row->type,
                   row->value != NULL ? SOURCE_DEFAULT : SOURCE_STATIC_BROKER, value, row->value,
                   "Read by tools; cannot be changed.");
    }
    for (size_t i = 0; i < option_count(); i++) {
        add_option(l, i, &text);
    }
    buf_fini(&text);
}

void api_describe_configs(struct request *rq)
{
    const struct describe_configs_request *q = rq->body;
    struct describe_configs_response p;
    codec_init(&describe_configs_response_message, &p);
    p.results =
        codec_new_array(&describe_configs_response_results_message, &rq->arena, q->resources_count);
    bool whole = p.results != NULL;
    p.results_count = whole ? q->resources_count : 0;
    for (int32_t i = 0; i < p.results_count && whole; i++) {
        struct listing l = {rq, q, &q->resources[i], &p.results[i], false};
        l.out->resource_type = l.asked->resource_type;
        l.out->resource_name = l.asked->resource_name;
        if (l.asked->resource_type == RESOURCE_TOPIC) {
            describe_topic(&l);
        } else if (l.asked->resource_type == RESOURCE_BROKER) {
            describe_broker(&l);
        } else {
            refuse(&l, KERR_INVALID_REQUEST, "Topics and brokers have settings, others do not.");
        }
        whole = !l.no_memory;
    }
    if (!whole) {
        request_close_too_large(rq);
        return;
    }
    request_reply(rq, &p);
}
