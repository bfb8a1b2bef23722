/* What Apache Kafka's controller checks before it makes, changes or deletes a topic, in its order
 * and with its sentences, for a cluster of one broker.
 *
 * Differences, and why: a topic has at most STORE_PARTITIONS_MAX partitions, which is the store's
 * limit; the number of partitions of one request has no limit of its own (Kafka's is 10,000),
 * because each topic is stored by itself; and two names of one request that differ in '.' and '_'
 * collide here as they do one after the other. A topic that MQTT publishes are captured into
 * belongs to the broker's plugin: the server only follows its store, and asks the writer for what
 * changes it (api/api_bound.c). */
#include "kafka-server/broker/topic_admin.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "kafka-server/broker/bound_names.h"
#include "kafka-server/broker/topic_config.h"
#include "shared/base/log.h"

#define REFUSED_LOG_MS 60000
#define CHANGE_BYTES   (16u << 20) /* of rows, about: as many are changed at once */

/* --- what belongs to MQTT -------------------------------------------------------------------- */

/* The filters in a captured topic's attributes, with commas. */
static void put_filters(const struct store_topic *row, struct buf *out)
{
    json_t *all = json_loads(row->attributes, 0, NULL);
    const json_t *filters = json_object_get(all, "mqtt.filter");
    for (size_t i = 0; i < json_array_size(filters); i++) {
        const char *filter = json_string_value(json_array_get(filters, i));
        buf_printf(out, "%s%s", i > 0 ? ", " : "", filter != NULL ? filter : "");
    }
    json_decref(all);
}

enum kerr topic_check_free(const struct topic *t, const char *why, struct errmsg *m)
{
    if (!t->captured) {
        return KERR_NONE;
    }
    struct buf filters;
    buf_init(&filters, STORE_ATTRIBUTES_BYTES_MAX);
    put_filters(t->row, &filters);
    err_set(m, ERR_INVALID,
            "Stream %s holds what is published over MQTT (filter %.200s): %s.", t->row->name,
            buf_text(&filters), why);
    buf_fini(&filters);
    return KERR_POLICY_VIOLATION;
}

bool topic_is_configured(const struct config *c, struct slice name)
{
    for (size_t i = 0; i < c->stream_count; i++) {
        if (slice_eq(name, slice_str(c->streams[i].name))) {
            return true;
        }
    }
    return false;
}

/* --- errors ---------------------------------------------------------------------------------- */

/* A failure of the store, as a client may hear of it: it may try again, save where the store says
 * that it never will (its partitions are used up, say). */
static enum kerr store_failed(enum err e, const char *what, struct slice name,
                              const struct errmsg *m)
{
    static struct log_limit limit;
    if (e == ERR_INVALID) {
        if (log_limit_pass(&limit, REFUSED_LOG_MS, NULL)) {
            log_warn("%s refused topic=%.*s: %s", what, (int)name.len, (const char *)name.data,
                     m->text);
        }
        return KERR_POLICY_VIOLATION;
    }
    log_error("%s failed topic=%.*s error=%s: %s", what, (int)name.len, (const char *)name.data,
              err_name(e), m->text);
    return KERR_KAFKA_STORAGE_ERROR;
}

static enum kerr refuse(struct errmsg *m, enum kerr k, const char *sentence)
{
    err_set(m, ERR_INVALID, "%s", sentence);
    return k;
}

static enum kerr no_store(struct errmsg *m)
{
    return refuse(m, KERR_KAFKA_STORAGE_ERROR,
                  "The server has no data directory yet: try again.");
}

/* --- names ----------------------------------------------------------------------------------- */

enum kerr topic_check_name(struct slice name, struct errmsg *m)
{
    const char *text = (const char *)name.data;
    int len = (int)(name.len < 300 ? name.len : 300);
    if (topic_name_ok(name)) {
        return KERR_NONE;
    }
    if (name.len == 0) {
        err_set(m, ERR_INVALID, "Topic name is invalid: the empty string is not allowed");
    } else if (name.len <= 2 && text[0] == '.' && text[name.len - 1] == '.') {
        err_set(m, ERR_INVALID, "Topic name is invalid: '%.*s' is not allowed", len, text);
    } else if (name.len > STORE_NAME_BYTES_MAX) {
        err_set(m, ERR_INVALID,
                "Topic name is invalid: the length of '%.*s' is longer than the max allowed "
                "length %d", len, text, STORE_NAME_BYTES_MAX);
    } else {
        err_set(m, ERR_INVALID,
                "Topic name is invalid: '%.*s' contains one or more characters other than ASCII "
                "alphanumerics, '.', '_' and '-'", len, text);
    }
    return KERR_INVALID_TOPIC_EXCEPTION;
}

static char unified(char ch)
{
    return ch == '.' ? '_' : ch;
}

/* Metrics of Kafka's clients take '.' for '_': names that differ in that alone would be one. */
static bool collides(struct slice name, const char *other)
{
    if (strlen(other) != name.len) {
        return false;
    }
    bool same = true;
    for (size_t i = 0; i < name.len; i++) {
        char ch = (char)name.data[i];
        if (unified(ch) != unified(other[i])) {
            return false;
        }
        same = same && ch == other[i];
    }
    return !same;
}

enum kerr topic_check_collision(const struct topics *topics, struct slice name, struct errmsg *m)
{
    bool may = memchr(name.data, '.', name.len) != NULL || memchr(name.data, '_', name.len) != NULL;
    for (size_t i = 0; may && i < topics_count(topics); i++) {
        const char *other = topics_at(topics, i)->row->name;
        if (collides(name, other)) {
            err_set(m, ERR_INVALID, "Topic '%.*s' collides with existing topic: %s", (int)name.len,
                    (const char *)name.data, other);
            return KERR_INVALID_TOPIC_EXCEPTION;
        }
    }
    return KERR_NONE;
}

/* Kafka's clients and tools take these for the broker's own; here their state is in no topic. */
static bool is_internal(struct slice name)
{
    return slice_eq(name, slice_str("__consumer_offsets")) ||
           slice_eq(name, slice_str("__transaction_state")) ||
           slice_eq(name, slice_str("__share_group_state"));
}

static enum kerr check_new_name(const struct topic_admin *a, struct slice name, struct errmsg *m)
{
    enum kerr k = topic_check_name(name, m);
    if (k != KERR_NONE) {
        return k;
    }
    if (topics_find(a->topics, name) != NULL || is_internal(name)) {
        err_set(m, ERR_EXISTS, "Topic '%.*s' already exists.", (int)name.len,
                (const char *)name.data);
        return KERR_TOPIC_ALREADY_EXISTS;
    }
    if (topic_is_configured(a->config, name)) { /* once it is made, it would hide this one */
        err_set(m, ERR_INVALID,
                "Stream %.*s is in culex.json, for what is published over MQTT: the broker's "
                "plugin makes it.", (int)name.len, (const char *)name.data);
        return KERR_POLICY_VIOLATION;
    }
    if (a->bound != NULL && bound_names_has(a->bound, a->config->data, name)) {
        err_set(m, ERR_INVALID,
                "Stream %.*s is bound to what is published over MQTT; it is not there yet: the "
                "broker's plugin makes it.", (int)name.len, (const char *)name.data);
        return KERR_POLICY_VIOLATION;
    }
    return topic_check_collision(a->topics, name, m);
}

/* --- partitions and replicas ----------------------------------------------------------------- */

/* One partition's replicas: this broker, once. */
static enum kerr check_replicas(const struct topic_admin *a, const struct topic_assignment *x,
                                struct errmsg *m)
{
    int32_t node = a->config->server.node_id;
    if (x->replica_count == 0) {
        return refuse(m, KERR_INVALID_REPLICA_ASSIGNMENT,
                      "The manual partition assignment includes an empty replica list.");
    }
    /* Kafka looks at them in the order of their ids. */
    int64_t other = INT64_MAX;
    int32_t here = 0;
    for (int32_t i = 0; i < x->replica_count; i++) {
        if (x->replicas[i] == node) {
            here++;
        } else if (x->replicas[i] < other) {
            other = x->replicas[i];
        }
    }
    if (other != INT64_MAX && (here < 2 || other < node)) {
        err_set(m, ERR_INVALID,
                "The manual partition assignment includes broker %d, but no such broker is "
                "registered.", (int)other);
        return KERR_INVALID_REPLICA_ASSIGNMENT;
    }
    if (here > 1) {
        err_set(m, ERR_INVALID,
                "The manual partition assignment includes the broker %d more than once.", node);
        return KERR_INVALID_REPLICA_ASSIGNMENT;
    }
    return KERR_NONE;
}

static enum kerr check_count(int32_t count, struct errmsg *m)
{
    if (count <= STORE_PARTITIONS_MAX) {
        return KERR_NONE;
    }
    err_set(m, ERR_INVALID, "A topic has at most %d partitions here, not %d.", STORE_PARTITIONS_MAX,
            count);
    return KERR_INVALID_PARTITIONS;
}

static enum kerr check_assignments(const struct topic_admin *a, const struct topic_order *o,
                                   struct errmsg *m)
{
    if (o->replication_factor != -1) {
        return refuse(m, KERR_INVALID_REQUEST,
                      "A manual partition assignment was specified, but replication factor was not "
                      "set to -1.");
    }
    if (o->partition_count != -1) {
        return refuse(m, KERR_INVALID_REQUEST,
                      "A manual partition assignment was specified, but numPartitions was not set "
                      "to -1.");
    }
    enum kerr k = check_count(o->assignment_count, m);
    bool seen[STORE_PARTITIONS_MAX] = {false};
    bool dense = true;
    for (int32_t i = 0; i < o->assignment_count && k == KERR_NONE; i++) {
        int32_t p = o->assignments[i].partition;
        bool within = p >= 0 && p < o->assignment_count;
        if (within && seen[p]) {
            err_set(m, ERR_INVALID,
                    "Found multiple manual partition assignments for partition %d", p);
            return KERR_INVALID_REPLICA_ASSIGNMENT;
        }
        dense = dense && within;
        if (within) {
            seen[p] = true;
        }
        k = check_replicas(a, &o->assignments[i], m);
    }
    if (k == KERR_NONE && !dense) {
        return refuse(m, KERR_INVALID_REPLICA_ASSIGNMENT,
                      "partitions should be a consecutive 0-based integer sequence");
    }
    return k;
}

static enum kerr check_layout(const struct topic_admin *a, const struct topic_order *o,
                              int32_t *count, struct errmsg *m)
{
    if (o->assignment_count > 0) {
        *count = o->assignment_count;
        return check_assignments(a, o, m);
    }
    if (o->replication_factor < -1 || o->replication_factor == 0) {
        return refuse(m, KERR_INVALID_REPLICATION_FACTOR,
                      "Replication factor must be larger than 0, or -1 to use the default value.");
    }
    if (o->partition_count < -1 || o->partition_count == 0) {
        return refuse(m, KERR_INVALID_PARTITIONS,
                      "Number of partitions was set to an invalid non-positive value.");
    }
    if (o->replication_factor > 1) {
        err_set(m, ERR_INVALID,
                "Unable to replicate the partition %d time(s): The target replication factor of %d "
                "cannot be reached because only 1 broker(s) are registered.",
                o->replication_factor, o->replication_factor);
        return KERR_INVALID_REPLICATION_FACTOR;
    }
    *count = o->partition_count == -1 ? a->config->server.num_partitions : o->partition_count;
    return check_count(*count, m);
}

/* --- configs --------------------------------------------------------------------------------- */

static enum kerr check_no_nulls(const struct topic_order *o, struct errmsg *m)
{
    struct buf names;
    buf_init(&names, 400);
    for (int32_t i = 0; i < o->config_count; i++) {
        if (o->configs[i].value.data == NULL) {
            buf_printf(&names, "%s%.*s", names.len > 0 ? "," : "", (int)o->configs[i].name.len,
                       (const char *)o->configs[i].name.data);
        }
    }
    bool none = names.len == 0 && !names.failed;
    if (!none) {
        err_set(m, ERR_INVALID, "Null value not supported for topic configs: %s", buf_text(&names));
    }
    buf_fini(&names);
    return none ? KERR_NONE : KERR_INVALID_CONFIG;
}

static enum kerr read_configs(const struct topic_admin *a, const struct topic_order *o,
                              json_t *configs, struct errmsg *m)
{
    enum kerr k = check_no_nulls(o, m);
    enum err e = k == KERR_NONE ? OK : ERR_INVALID;
    for (int32_t i = 0; i < o->config_count && e == OK; i++) {
        e = topic_config_set(configs, o->configs[i].name, o->configs[i].value, m);
    }
    e = e == OK && o->config_count > 0 ? topic_config_check(configs, a->config, m) : e;
    return e == OK ? KERR_NONE : e == ERR_NOMEM ? KERR_UNKNOWN_SERVER_ERROR : KERR_INVALID_CONFIG;
}

/* What the store itself acts upon. */
static void fill_settings(struct store_topic *row, const json_t *configs, const struct config *c)
{
    struct topic_settings s;
    topic_settings_read(&s, configs, c);
    row->retention_ms = s.retention_ms;
    row->retention_bytes = s.retention_bytes;
    row->cleanup = s.cleanup;
    row->segment_ms = s.segment_ms;
    row->segment_bytes = s.segment_bytes;
    row->compaction = (struct store_compaction){
        .given = true,
        .min_cleanable_dirty_ratio = s.min_cleanable_dirty_ratio,
        .min_compaction_lag_ms = s.min_compaction_lag_ms,
        .max_compaction_lag_ms = s.max_compaction_lag_ms,
        .delete_retention_ms = s.delete_retention_ms,
    };
}

/* The same, and attributes, which are the caller's to free. */
static enum err fill_row(struct store_topic *row, const json_t *configs, const struct config *c,
                         struct errmsg *m)
{
    fill_settings(row, configs, c);
    row->attributes = topic_config_save(configs);
    return row->attributes != NULL ? OK : err_set(m, ERR_NOMEM, "no memory for configs");
}

/* --- the verbs ------------------------------------------------------------------------------- */

static enum kerr store_new(const struct topic_admin *a, const struct topic_order *o,
                           struct topic_made *made, struct errmsg *m)
{
    struct store_topic row = {.partition_count = made->partition_count};
    snprintf(row.name, sizeof row.name, "%.*s", (int)o->name.len, (const char *)o->name.data);
    enum err e = fill_row(&row, made->configs, a->config, m);
    e = e == OK ? store_has_room(a->own, m) : e;
    e = e == OK ? store_topic_create(a->own, &row, m) : e;
    free(row.attributes);
    if (e != OK) {
        return store_failed(e, "making a topic", o->name, m);
    }
    made->id = row.id;
    log_info("topic made topic=%s partitions=%d", row.name, row.partition_count);
    topics_refresh(a->topics);
    return KERR_NONE;
}

enum kerr topic_create(const struct topic_admin *a, const struct topic_order *o,
                       struct topic_made *made, struct errmsg *m)
{
    *made = (struct topic_made){.configs = NULL};
    if (a->own == NULL) {
        return no_store(m);
    }
    enum kerr k = check_new_name(a, o->name, m);
    if (k != KERR_NONE) {
        return k;
    }
    made->configs = json_object();
    k = made->configs == NULL ? KERR_UNKNOWN_SERVER_ERROR : read_configs(a, o, made->configs, m);
    k = k == KERR_NONE ? check_layout(a, o, &made->partition_count, m) : k;
    if (k == KERR_NONE && o->validate_only) {
        made->id = uuid_random(); /* as Kafka answers: it would have been one like this */
    } else if (k == KERR_NONE) {
        k = store_new(a, o, made, m);
    }
    if (k != KERR_NONE) {
        json_decref(made->configs);
        made->configs = NULL;
    }
    return k;
}

enum kerr topic_create_usual(const struct topic_admin *a, struct slice name, struct errmsg *m)
{
    const struct topic_order o = {.name = name, .partition_count = -1, .replication_factor = -1};
    struct topic_made made;
    enum kerr k = topic_create(a, &o, &made, m);
    json_decref(made.configs);
    return k;
}

enum kerr topic_delete(const struct topic_admin *a, const struct topic *t, struct errmsg *m)
{
    enum kerr k = topic_check_free(t, "it is taken out of culex.json before it is deleted", m);
    if (k != KERR_NONE) {
        return k;
    }
    enum err e = store_topic_delete(t->store, slice_str(t->row->name), m);
    if (e != OK) {
        return store_failed(e, "deleting a topic", slice_str(t->row->name), m);
    }
    log_info("topic deleted topic=%s", t->row->name);
    topics_refresh(a->topics);
    return KERR_NONE;
}

static enum kerr check_growth(const struct topic_admin *a, const struct topic *t, int32_t count,
                              const struct topic_assignment *x, int32_t x_count, struct errmsg *m)
{
    int32_t has = t->row->partition_count;
    if (count == has) {
        err_set(m, ERR_INVALID, "Topic already has %d partition(s).", has);
        return KERR_INVALID_PARTITIONS;
    }
    if (count < has) {
        err_set(m, ERR_INVALID,
                "The topic %s currently has %d partition(s); %d would not be an increase.",
                t->row->name, has, count);
        return KERR_INVALID_PARTITIONS;
    }
    if (x != NULL && x_count != count - has) {
        err_set(m, ERR_INVALID,
                "Attempted to add %d additional partition(s), but only %d assignment(s) were "
                "specified.", count - has, x_count);
        return KERR_INVALID_REPLICA_ASSIGNMENT;
    }
    enum kerr k = KERR_NONE;
    for (int32_t i = 0; i < x_count && k == KERR_NONE; i++) {
        k = check_replicas(a, &x[i], m);
    }
    return k == KERR_NONE ? check_count(count, m) : k;
}

enum kerr topic_grow(const struct topic_admin *a, const struct topic *t, int32_t partition_count,
                     const struct topic_assignment *assignments, int32_t assignment_count,
                     bool validate_only, struct errmsg *m)
{
    enum kerr k = topic_check_free(t, "its number of partitions is fixed", m);
    k = k == KERR_NONE
            ? check_growth(a, t, partition_count, assignments, assignment_count, m) : k;
    if (k != KERR_NONE || validate_only) {
        return k;
    }
    enum err e = store_topic_grow(t->store, slice_str(t->row->name), partition_count, m);
    if (e != OK) {
        return store_failed(e, "adding partitions", slice_str(t->row->name), m);
    }
    log_info("topic grown topic=%s partitions=%d", t->row->name, partition_count);
    topics_refresh(a->topics);
    return KERR_NONE;
}

enum kerr topic_trim(const struct topic_admin *a, const struct topic *t, int32_t partition,
                     int64_t offset, int64_t *low, struct errmsg *m)
{
    struct store_offsets o;
    uint32_t uid = store_topic_uid(t->row, partition);
    *low = -1;
    enum kerr k = topic_check_free(t, "its records are not deleted one by one", m);
    if (k != KERR_NONE) {
        return k;
    }
    if (t->row->cleanup == STORE_CLEANUP_COMPACT) {
        err_set(m, ERR_INVALID,
                "Records of partition %s-%d can not be deleted due to the configured policy",
                t->row->name, partition);
        return KERR_POLICY_VIOLATION;
    }
    if (store_offsets(t->store, uid, &o) != OK) {
        return refuse(m, KERR_UNKNOWN_TOPIC_OR_PARTITION, "");
    }
    int64_t to = offset == -1 ? o.end : offset;
    if (to < 0 || to > o.end) {
        return refuse(m, KERR_OFFSET_OUT_OF_RANGE, "");
    }
    enum err e = to > o.log_start ? store_trim(t->store, uid, to, m) : OK;
    if (e != OK) {
        return store_failed(e, "deleting records", slice_str(t->row->name), m);
    }
    *low = to > o.log_start ? to : o.log_start;
    return KERR_NONE;
}

enum kerr topic_configure(const struct topic_admin *a, const struct topic *t, const json_t *configs,
                          bool validate_only, struct errmsg *m)
{
    enum kerr k = topic_check_free(t, TOPIC_CHANGED_IN_FILE, m);
    if (k != KERR_NONE) {
        return k;
    }
    enum err e = topic_config_check(configs, a->config, m);
    if (e != OK) {
        return KERR_INVALID_CONFIG;
    }
    struct store_topic row = *t->row;
    e = fill_row(&row, configs, a->config, m);
    bool same = e == OK && strcmp(row.attributes, t->row->attributes) == 0;
    if (e == OK && !same && !validate_only) {
        e = store_topic_alter(t->store, &row, m);
        if (e == OK) {
            log_info("topic configured topic=%s configs=%.500s", row.name, row.attributes);
        }
    }
    free(row.attributes);
    if (e != OK) {
        return store_failed(e, "configuring a topic", slice_str(t->row->name), m);
    }
    topics_refresh(a->topics);
    return KERR_NONE;
}

#define RATIO_EXACT 1e-6 /* a row keeps no more of it */

/* Is it what the store has already? */
static bool same_row(const struct store_topic *a, const struct store_topic *b)
{
    const struct store_compaction *x = &a->compaction, *y = &b->compaction;
    return a->retention_ms == b->retention_ms && a->retention_bytes == b->retention_bytes &&
           a->cleanup == b->cleanup && a->segment_ms == b->segment_ms &&
           a->segment_bytes == b->segment_bytes && x->given == y->given &&
           fabs(x->min_cleanable_dirty_ratio - y->min_cleanable_dirty_ratio) < RATIO_EXACT &&
           x->min_compaction_lag_ms == y->min_compaction_lag_ms &&
           x->max_compaction_lag_ms == y->max_compaction_lag_ms &&
           x->delete_retention_ms == y->delete_retention_ms;
}

/* What a topic's row would be; usual: that of one without configs of its own, as most are, made
 * once. False: no memory. */
static bool follow_defaults(const struct topic_admin *a, const struct store_topic *was,
                            const struct store_topic *usual, struct store_topic *row)
{
    *row = *usual;
    if (was->attributes[0] != '\0') {
        json_t *configs = topic_config_load(was->attributes);
        if (configs == NULL) {
            return false;
        }
        fill_settings(row, configs, a->config);
        json_decref(configs);
    }
    memcpy(row->name, was->name, sizeof row->name);
    row->attributes = was->attributes; /* what was set stays, to the letter */
    return true;
}

/* Each change is a copy of the whole catalog, so there are few of them; and each has its rows in
 * memory twice, so none has all rows of ten thousand topics with 64 KB of configs. A topic's row is
 * in one of them. Returns how many are not as they should be, m saying why of the last one. */
static size_t alter_rows(struct store *s, const struct store_topic *rows, size_t count,
                         struct errmsg *m)
{
    size_t left = 0;
    for (size_t from = 0, to; from < count; from = to) {
        size_t bytes = 0, refused = 0;
        for (to = from; to < count && bytes < CHANGE_BYTES; to++) {
            bytes += sizeof rows[to] + strlen(rows[to].attributes);
        }
        enum err e = store_topics_alter(s, &rows[from], to - from, &refused, m);
        left += e == OK ? refused : to - from;
    }
    return left;
}

void topic_apply_defaults(const struct topic_admin *a)
{
    struct errmsg m = {"no memory"};
    struct store_topic usual = {.name = ""};
    const struct store_catalog *topics = store_catalog_ref(a->own);
    struct store_topic *rows = calloc(topics->count + 1, sizeof *rows);
    size_t count = 0, failed = rows == NULL ? topics->count : 0;
    fill_settings(&usual, NULL, a->config);
    for (size_t i = 0; i < topics->count && rows != NULL; i++) {
        bool made = follow_defaults(a, &topics->topics[i], &usual, &rows[count]);
        failed += !made;
        count += made && !same_row(&rows[count], &topics->topics[i]);
    }
    size_t refused = alter_rows(a->own, rows, count, &m);
    free(rows);
    store_catalog_unref(a->own, topics);
    if (failed + refused > 0) {
        log_error("not all topics follow the settings of the server, until it starts again "
                  "topics=%zu: %s", failed + refused, m.text);
    }
    if (count > refused) {
        log_info("topics follow the settings of the server topics=%zu", count - refused);
        topics_refresh(a->topics);
    }
}
