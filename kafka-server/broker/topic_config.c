/* One row for each config that Apache Kafka 4.1 knows of a topic. Parsing, bounds, sentences,
 * defaults, synonyms and documentation are derived from the rows.
 *
 * A row whose documentation begins with "Without effect" is accepted, kept and shown, and changes
 * nothing: tools and applications set such configs without asking, and refusing them would refuse
 * the application. What a config has an effect on is said nowhere else. */
#include "kafka-server/broker/topic_config.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "shared/base/decimal.h"

#define ANY_LONG .min = INT64_MIN, .max = INT64_MAX
#define ANY_INT  .min = INT32_MIN, .max = INT32_MAX
#define LONG_FROM(least) .min = (least), .max = INT64_MAX
#define INT_FROM(least)  .min = (least), .max = INT32_MAX
#define FOR_EVER "9223372036854775807"

static const char throttled[] = "Without effect: one broker replicates nothing.";
static const char local[] = "Without effect: all is local.";

/* In the order of their names. */
const struct topic_config topic_configs[] = {
    {"cleanup.policy", CONFIG_LIST, "delete", .synonym = "log.cleanup.policy",
     .choices = "compact, delete",
     .doc = "What becomes of old records: delete removes them by age and size, compact keeps the "
            "last one of each key; both do both."},
    {"compression.gzip.level", CONFIG_INT, "-1", .synonym = "compression.gzip.level", ANY_INT,
     .doc = "Level for compression.type gzip: 1 to 9, or -1, the codec's own."},
    {"compression.lz4.level", CONFIG_INT, "9", .synonym = "compression.lz4.level", .min = 1,
     .max = 17, .doc = "Level for compression.type lz4."},
    {"compression.type", CONFIG_STRING, "producer", .synonym = "compression.type",
     .choices = "uncompressed, zstd, lz4, snappy, gzip, producer",
     .doc = "How batches are stored: producer leaves them as they came, anything else compresses "
            "them anew."},
    {"compression.zstd.level", CONFIG_INT, "3", .synonym = "compression.zstd.level",
     .min = -131072, .max = 22, .doc = "Level for compression.type zstd."},
    {"delete.retention.ms", CONFIG_LONG, "86400000", .synonym = "log.cleaner.delete.retention.ms",
     LONG_FROM(0), .doc = "How long compaction keeps tombstones."},
    {"file.delete.delay.ms", CONFIG_LONG, "60000", .synonym = "log.segment.delete.delay.ms",
     LONG_FROM(0), .doc = "Without effect: files go at once."},
    {"flush.messages", CONFIG_LONG, FOR_EVER, .synonym = "log.flush.interval.messages",
     LONG_FROM(1), .doc = "Without effect: flush.interval.ms of the store says when it is synced."},
    {"flush.ms", CONFIG_LONG, FOR_EVER, .synonym = "log.flush.interval.ms", .synonym_unset = true,
     LONG_FROM(0), .doc = "Without effect: flush.interval.ms of the store says when it is synced."},
    {"follower.replication.throttled.replicas", CONFIG_LIST, "", .doc = throttled},
    {"index.interval.bytes", CONFIG_INT, "4096", .synonym = "log.index.interval.bytes",
     INT_FROM(0), .doc = "Without effect: the store has its own index."},
    {"leader.replication.throttled.replicas", CONFIG_LIST, "", .doc = throttled},
    {"local.retention.bytes", CONFIG_LONG, "-2", .synonym = "log.local.retention.bytes",
     LONG_FROM(-2), .doc = local},
    {"local.retention.ms", CONFIG_LONG, "-2", .synonym = "log.local.retention.ms", LONG_FROM(-2),
     .doc = local},
    {"max.compaction.lag.ms", CONFIG_LONG, FOR_EVER, .synonym = "log.cleaner.max.compaction.lag.ms",
     LONG_FROM(1), .doc = "A record is compacted when it is this old, at the latest."},
    {"max.message.bytes", CONFIG_INT, "1048588", .synonym = "message.max.bytes", INT_FROM(0),
     .doc = "Largest batch that a producer may send."},
    {"message.timestamp.after.max.ms", CONFIG_LONG, "3600000",
     .synonym = "log.message.timestamp.after.max.ms", LONG_FROM(0),
     .doc = "How far a record's timestamp may lie ahead of the server's clock."},
    {"message.timestamp.before.max.ms", CONFIG_LONG, FOR_EVER,
     .synonym = "log.message.timestamp.before.max.ms", LONG_FROM(0),
     .doc = "How far a record's timestamp may lie behind the server's clock."},
    {"message.timestamp.type", CONFIG_STRING, "CreateTime", .synonym = "log.message.timestamp.type",
     .choices = "CreateTime, LogAppendTime",
     .doc = "Whose clock stamps records: the producer's or the server's."},
    {"min.cleanable.dirty.ratio", CONFIG_DOUBLE, "0.5",
     .synonym = "log.cleaner.min.cleanable.ratio", .min = 0, .max = 1,
     .doc = "Compaction begins when this part of the log is not compacted."},
    {"min.compaction.lag.ms", CONFIG_LONG, "0", .synonym = "log.cleaner.min.compaction.lag.ms",
     LONG_FROM(0), .doc = "A record is not compacted before it is this old."},
    {"min.insync.replicas", CONFIG_INT, "1", .synonym = "min.insync.replicas", INT_FROM(1),
     .doc = "Without effect: of a topic with one replica Kafka asks for no more than that."},
    {"preallocate", CONFIG_BOOLEAN, "false", .synonym = "log.preallocate",
     .doc = "Without effect: the store makes its files as it needs them."},
    {"remote.log.copy.disable", CONFIG_BOOLEAN, "false", .doc = local},
    {"remote.log.delete.on.disable", CONFIG_BOOLEAN, "false", .doc = local},
    {"remote.storage.enable", CONFIG_BOOLEAN, "false",
     .doc = "There is no remote storage: true is refused."},
    {"retention.bytes", CONFIG_LONG, "-1", .synonym = "log.retention.bytes", ANY_LONG,
     .doc = "Most bytes of a partition, where cleanup.policy has delete. -1: no limit."},
    {"retention.ms", CONFIG_LONG, "604800000", .synonym = "log.retention.ms",
     .synonym_unset = true, LONG_FROM(-1),
     .doc = "How long records are kept, where cleanup.policy has delete. -1: for ever."},
    {"segment.bytes", CONFIG_INT, "1073741824", .synonym = "log.segment.bytes", INT_FROM(1 << 20),
     .doc = "A segment is closed when a partition of the topic has this much in it, or all have "
            "store.segment.bytes; see below."},
    {"segment.index.bytes", CONFIG_INT, "10485760", .synonym = "log.index.size.max.bytes",
     INT_FROM(4), .doc = "Without effect: the store has its own index."},
    {"segment.jitter.ms", CONFIG_LONG, "0", .synonym = "log.roll.jitter.ms", .synonym_unset = true,
     LONG_FROM(0), .doc = "Without effect: segments are the store's, of all topics together."},
    {"segment.ms", CONFIG_LONG, "604800000", .synonym = "log.roll.ms", .synonym_unset = true,
     LONG_FROM(1),
     .doc = "A segment that holds records of the topic lives no longer, nor longer than an hour, "
            "nor less than ten seconds; see below."},
    {"unclean.leader.election.enable", CONFIG_BOOLEAN, "false",
     .synonym = "unclean.leader.election.enable",
     .doc = "Without effect: one broker is always the leader."},
};
const size_t topic_config_count = sizeof topic_configs / sizeof topic_configs[0];

const struct topic_config *topic_config_find(struct slice name)
{
    for (size_t i = 0; i < topic_config_count; i++) {
        if (slice_eq(name, slice_str(topic_configs[i].name))) {
            return &topic_configs[i];
        }
    }
    return NULL;
}

/* --- one value ------------------------------------------------------------------------------- */

static enum err refuse(const struct topic_config *row, const char *value, struct errmsg *m,
                       const char *why)
{
    return err_set(m, ERR_INVALID, "Invalid value %.200s for configuration %s: %s", value,
                   row->name, why);
}

/* As Java's trim does. */
static void trim(char *text)
{
    size_t from = 0, to = strlen(text);
    while (from < to && (unsigned char)text[from] <= ' ') {
        from++;
    }
    while (to > from && (unsigned char)text[to - 1] <= ' ') {
        to--;
    }
    memmove(text, text + from, to - from);
    text[to - from] = '\0';
}

static bool is_choice(const char *choices, const char *item)
{
    size_t len = strlen(item);
    for (const char *p = choices; p != NULL; p = strstr(p, ", "), p = p != NULL ? p + 2 : NULL) {
        size_t n = strcspn(p, ",");
        if (n == len && memcmp(p, item, len) == 0) {
            return true;
        }
    }
    return false;
}

static enum err check_choice(const struct topic_config *row, const char *item, struct errmsg *m)
{
    char why[160];
    if (row->choices == NULL || is_choice(row->choices, item)) {
        return OK;
    }
    snprintf(why, sizeof why, "String must be one of: %s", row->choices);
    return refuse(row, item, m, why);
}

/* "12:3" or nothing. */
static bool is_replica(const char *item)
{
    size_t a = strspn(item, "0123456789");
    size_t b = item[a] == ':' ? strspn(item + a + 1, "0123456789") : 0;
    return item[0] == '\0' || (a > 0 && b > 0 && item[a + 1 + b] == '\0');
}

static enum err set_list(const struct topic_config *row, const char *text, struct buf *out,
                         struct errmsg *m)
{
    enum err e = OK;
    for (const char *p = text; *text != '\0' && p != NULL && e == OK;) {
        char item[256];
        size_t n = strcspn(p, ",");
        snprintf(item, sizeof item, "%.*s", (int)n, p);
        trim(item);
        e = check_choice(row, item, m);
        if (e == OK && row->choices == NULL && !is_replica(item) && strcmp(text, "*") != 0) {
            char why[256];
            snprintf(why, sizeof why,
                     "%s must be the literal '*' or a list of replicas in the following format: "
                     "[partitionId]:[brokerId],[partitionId]:[brokerId],...", row->name);
            e = refuse(row, text, m, why);
        }
        buf_printf(out, "%s%s", p == text ? "" : ",", item);
        p = p[n] == ',' ? p + n + 1 : NULL;
    }
    return e;
}

static enum err check_range(const struct topic_config *row, double value, const char *text,
                            struct errmsg *m)
{
    char why[80];
    if (value < (double)row->min) {
        snprintf(why, sizeof why, "Value must be at least %" PRId64, row->min);
        return refuse(row, text, m, why);
    }
    if (value > (double)row->max) {
        snprintf(why, sizeof why, "Value must be no more than %" PRId64, row->max);
        return refuse(row, text, m, why);
    }
    return OK;
}

static enum err set_whole(const struct topic_config *row, const char *given, const char *text,
                          struct buf *out, struct errmsg *m)
{
    bool wide = row->type == CONFIG_LONG;
    const char *digits = text + (*text == '-' || *text == '+');
    char *end = NULL;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    bool number = *digits >= '0' && *digits <= '9' && *end == '\0' && errno == 0;
    if (!number || (!wide && (v < INT32_MIN || v > INT32_MAX))) {
        return refuse(row, given, m,
                      wide ? "Not a number of type LONG" : "Not a number of type INT");
    }
    char plain[32];
    snprintf(plain, sizeof plain, "%lld", v);
    buf_printf(out, "%s", plain);
    if (strcmp(row->name, "compression.gzip.level") == 0) {
        bool ok = v == -1 || (v >= 1 && v <= 9);
        return ok ? OK : refuse(row, plain, m, "Value must be between 1 and 9 or equal to -1");
    }
    return check_range(row, (double)v, plain, m);
}

static enum err set_double(const struct topic_config *row, const char *given, const char *text,
                           struct buf *out, struct errmsg *m)
{
    double v;
    if (!decimal_read(text, &v)) {
        return refuse(row, given, m, "Not a number of type DOUBLE");
    }
    char plain[DECIMAL_BYTES_MAX];
    decimal_text(v, plain);
    buf_printf(out, "%s", plain);
    return check_range(row, v, buf_text(out), m);
}

static enum err set_boolean(const struct topic_config *row, const char *given, const char *text,
                            struct buf *out, struct errmsg *m)
{
    bool yes = strcasecmp(text, "true") == 0;
    if (!yes && strcasecmp(text, "false") != 0) {
        return refuse(row, given, m, "Expected value to be either true or false");
    }
    buf_printf(out, "%s", yes ? "true" : "false");
    return OK;
}

/* text is trimmed, given is not. */
static enum err set_value(const struct topic_config *row, const char *given, const char *text,
                          struct buf *out, struct errmsg *m)
{
    switch (row->type) {
    case CONFIG_BOOLEAN:
        return set_boolean(row, given, text, out, m);
    case CONFIG_INT:
    case CONFIG_LONG:
        return set_whole(row, given, text, out, m);
    case CONFIG_DOUBLE:
        return set_double(row, given, text, out, m);
    case CONFIG_LIST:
        return set_list(row, text, out, m);
    case CONFIG_STRING:
        break;
    }
    buf_printf(out, "%s", text);
    return check_choice(row, text, m);
}

/* --- explicit configs ------------------------------------------------------------------------ */

json_t *topic_config_load(const char *attributes)
{
    json_t *all = attributes[0] != '\0' ? json_loads(attributes, 0, NULL) : NULL;
    json_t *configs = json_object_get(all, "configs");
    configs = json_is_object(configs) ? json_incref(configs) : json_object();
    json_decref(all);
    return configs;
}

char *topic_config_save(const json_t *configs)
{
    if (json_object_size(configs) == 0) {
        return strdup("");
    }
    json_t *all = json_object();
    json_object_set_new(all, "configs", json_deep_copy(configs));
    char *text = json_dumps(all, JSON_COMPACT | JSON_SORT_KEYS);
    json_decref(all);
    return text;
}

enum err topic_config_set(json_t *configs, struct slice name, struct slice value, struct errmsg *m)
{
    const struct topic_config *row = topic_config_find(name);
    if (row == NULL) {
        return err_set(m, ERR_INVALID, "Unknown topic config name: %.*s",
                       (int)(name.len < 250 ? name.len : 250), (const char *)name.data);
    }
    if (value.len > TOPIC_CONFIG_VALUE_BYTES_MAX) {
        return err_set(m, ERR_INVALID,
                       "The configuration value cannot be added because it exceeds the maximum "
                       "value size of %d bytes.", TOPIC_CONFIG_VALUE_BYTES_MAX);
    }
    struct buf out;
    char *given = calloc(2, value.len + 1);
    if (given == NULL) {
        return err_set(m, ERR_NOMEM, "no memory for configs");
    }
    char *text = given + value.len + 1;
    if (value.len > 0) {
        memcpy(given, value.data, value.len);
        memcpy(text, value.data, value.len);
    }
    trim(text);
    buf_init(&out, 2 * TOPIC_CONFIG_VALUE_BYTES_MAX);
    enum err e = set_value(row, given, text, &out, m);
    if (e == OK && (!buf_ok(&out) ||
                    json_object_set_new(configs, row->name, json_string(buf_text(&out))) != 0)) {
        e = err_set(m, ERR_NOMEM, "no memory for configs");
    }
    buf_fini(&out);
    free(given);
    return e;
}

/* Is item one of those in text? */
static bool is_listed(const char *text, struct slice item)
{
    for (const char *p = text; p != NULL; p = strchr(p, ','), p = p != NULL ? p + 1 : NULL) {
        if (slice_eq(slice_make(p, strcspn(p, ",")), item)) {
            return true;
        }
    }
    return false;
}

static void put_item(struct buf *out, struct slice item)
{
    if (item.len > 0) {
        buf_put(out, ",", out->len > 0);
        buf_put(out, item.data, item.len);
    }
}

/* The next item of a list; false: there is none. */
static bool take_item(const char **at, struct slice *item)
{
    if (*at == NULL) {
        return false;
    }
    size_t n = strcspn(*at, ",");
    *item = slice_make(*at, n);
    *at = (*at)[n] == ',' ? *at + n + 1 : NULL;
    return true;
}

/* The list that holds now, with what is given added or taken away. */
static enum err alter_list(json_t *configs, const struct topic_config *row, bool append,
                           struct slice value, const struct config *c, struct errmsg *m)
{
    struct buf was, is;
    struct slice item;
    char *given = strndup((const char *)value.data, value.len);
    buf_init(&was, 2 * TOPIC_CONFIG_VALUE_BYTES_MAX);
    buf_init(&is, 4 * TOPIC_CONFIG_VALUE_BYTES_MAX);
    (void)topic_config_value(row, configs, c, &was); /* the source does not matter */
    const char *old = buf_text(&was), *at = old;
    while (given != NULL && take_item(&at, &item)) {
        if (append || !is_listed(given, item)) {
            put_item(&is, item);
        }
    }
    at = append ? given : NULL;
    while (take_item(&at, &item)) {
        if (!is_listed(old, item)) {
            put_item(&is, item);
        }
    }
    enum err e = given != NULL && buf_ok(&was) && buf_ok(&is)
                     ? topic_config_set(configs, slice_str(row->name), buf_slice(&is), m)
                     : err_set(m, ERR_NOMEM, "no memory for configs");
    buf_fini(&was);
    buf_fini(&is);
    free(given);
    return e;
}

enum err topic_config_alter(json_t *configs, enum topic_config_op op, struct slice name,
                            struct slice value, const struct config *c, struct errmsg *m)
{
    const struct topic_config *row = topic_config_find(name);
    switch (op) {
    case TOPIC_CONFIG_SET:
        return topic_config_set(configs, name, value, m);
    case TOPIC_CONFIG_DELETE:
        if (row != NULL) {
            (void)json_object_del(configs, row->name); /* it may not be there */
        }
        return OK;
    case TOPIC_CONFIG_APPEND:
    case TOPIC_CONFIG_SUBTRACT:
        break;
    }
    if (row == NULL || row->type != CONFIG_LIST) {
        return err_set(m, ERR_INVALID,
                       "Can't %s to key %.*s because its type is not LIST.",
                       op == TOPIC_CONFIG_APPEND ? "APPEND" : "SUBTRACT",
                       (int)(name.len < 250 ? name.len : 250), (const char *)name.data);
    }
    return alter_list(configs, row, op == TOPIC_CONFIG_APPEND, value, c, m);
}

enum err topic_config_check(const json_t *configs, const struct config *c, struct errmsg *m)
{
    struct topic_settings s;
    topic_settings_read(&s, configs, c);
    if (s.min_compaction_lag_ms > s.max_compaction_lag_ms) {
        return err_set(m, ERR_INVALID,
                       "conflict topic config setting min.compaction.lag.ms (%" PRId64
                       ") > max.compaction.lag.ms (%" PRId64 ")",
                       s.min_compaction_lag_ms, s.max_compaction_lag_ms);
    }
    const char *remote = json_string_value(json_object_get(configs, "remote.storage.enable"));
    if (remote != NULL && strcmp(remote, "true") == 0) {
        return err_set(m, ERR_INVALID,
                       "Tiered Storage functionality is disabled in the broker. Topic cannot be "
                       "configured with remote log storage.");
    }
    return OK;
}

/* --- effective configs ----------------------------------------------------------------------- */

/* Settings that say the same in a coarser unit where the finer one says nothing, in Kafka's
 * order. */
static const struct coarser {
    const char *fine, *name;
    int64_t ms;
} coarser[] = {
    {"log.retention.ms", "log.retention.minutes", 60000},
    {"log.retention.ms", "log.retention.hours", 3600000},
    {"log.roll.ms", "log.roll.hours", 3600000},
};
#define COARSER (sizeof coarser / sizeof coarser[0])

/* The server's settings by name: those of ten thousand topics ask for eighteen each. */
static struct setting {
    const char *name;
    size_t at; /* in the table of options */
} settings[CONFIG_OPTIONS_MAX];
static size_t setting_count;

static int compare_settings(const void *a, const void *b)
{
    return strcmp(((const struct setting *)a)->name, ((const struct setting *)b)->name);
}

static void sort_settings(void)
{
    for (size_t i = 0; i < option_count(); i++) {
        struct option_view v;
        option_view(i, &v);
        if (strcmp(v.section, "server") == 0) {
            ASSERT(setting_count < CONFIG_OPTIONS_MAX);
            settings[setting_count++] = (struct setting){v.name, i};
        }
    }
    qsort(settings, setting_count, sizeof *settings, compare_settings);
}

static const struct setting *setting_find(const char *name)
{
    const struct setting key = {.name = name};
    if (setting_count == 0) {
        sort_settings();
    }
    return bsearch(&key, settings, setting_count, sizeof *settings, compare_settings);
}

/* The server's setting of that name, appended to out where it says something; *said: not because
 * it is the default. NULL: there is no such setting; else its default ("": none). */
static const char *server_text(const char *name, const struct config *c, struct buf *out,
                               bool *said)
{
    struct option_view v;
    const struct setting *x = setting_find(name);
    size_t from = out->len;
    *said = false;
    if (x == NULL) {
        return NULL;
    }
    option_view(x->at, &v);
    if (c != NULL) {
        option_value_text(c, x->at, out);
        *said = out->len > from && (option_said(c, x->at) ||
                                    strcmp(buf_text(out) + from, v.default_text) != 0);
    }
    return v.default_text;
}

bool topic_config_of_server(const char *name)
{
    return setting_find(name) != NULL;
}

/* One setting's part of the answer: what was said, or its default. */
static size_t put_synonym(const char *name, const char *usual, const struct config *c, bool said,
                          struct topic_config_synonym *out)
{
    struct buf text;
    buf_init(&text, TOPIC_CONFIG_SYNONYM_BYTES);
    bool was_said;
    const char *own = server_text(name, c, &text, &was_said);
    bool there = said ? was_said
                      : own != NULL ? own[0] != '\0' : usual != NULL;
    if (there) {
        *out = (struct topic_config_synonym){
            .name = name, .source = said ? CONFIG_SOURCE_STATIC_BROKER : CONFIG_SOURCE_DEFAULT};
        snprintf(out->value, sizeof out->value, "%s",
                 said ? buf_text(&text) : own != NULL ? own : usual);
    }
    buf_fini(&text);
    return there;
}

size_t topic_config_synonyms(const char *name, const char *usual, const struct config *c,
                             struct topic_config_synonym out[TOPIC_CONFIG_SYNONYMS_MAX])
{
    const char *finest = name;
    for (size_t i = 0; i < COARSER; i++) {
        finest = strcmp(coarser[i].name, name) == 0 ? coarser[i].fine : finest;
    }
    size_t n = 0;
    for (int said = 1; said >= 0; said--) {
        n += put_synonym(finest, usual, c, said, &out[n]);
        for (size_t i = 0; i < COARSER; i++) {
            if (strcmp(coarser[i].fine, finest) == 0) {
                n += put_synonym(coarser[i].name, NULL, c, said, &out[n]);
            }
        }
    }
    size_t first = 0; /* Kafka tells of none that stands before the one that was asked for */
    while (first < n && strcmp(out[first].name, name) != 0) {
        first++;
    }
    memmove(out, out + first, (n - first) * sizeof *out);
    return n - first;
}

/* The same from a coarser setting, appended to out; false: there is none that says something. */
static bool coarser_text(const char *fine, const struct config *c, struct buf *out)
{
    bool found = false;
    for (size_t i = 0; i < COARSER && !found; i++) {
        if (strcmp(coarser[i].fine, fine) == 0) {
            struct buf text;
            buf_init(&text, TOPIC_CONFIG_SYNONYM_BYTES);
            bool said; /* or its default: it says something */
            (void)server_text(coarser[i].name, c, &text, &said); /* it is in the table */
            found = text.len > 0;
            int64_t n = found ? strtoll(buf_text(&text), NULL, 10) : 0;
            buf_fini(&text);
            if (found) {
                buf_printf(out, "%" PRId64, n < 0 ? -1 : n * coarser[i].ms);
            }
        }
    }
    return found;
}

enum config_source topic_config_value(const struct topic_config *row, const json_t *configs,
                                      const struct config *c, struct buf *out)
{
    const char *own = json_string_value(json_object_get(configs, row->name));
    if (own != NULL) {
        buf_printf(out, "%s", own);
        return CONFIG_SOURCE_TOPIC;
    }
    if (c != NULL && row->synonym != NULL) {
        size_t from = out->len;
        bool said;
        (void)server_text(row->synonym, c, out, &said); /* there may be no such setting */
        if (out->len > from) {
            return said ? CONFIG_SOURCE_STATIC_BROKER : CONFIG_SOURCE_DEFAULT;
        }
        if (coarser_text(row->synonym, c, out)) {
            return CONFIG_SOURCE_DEFAULT; /* as Kafka says it */
        }
    }
    buf_printf(out, "%s", row->usual);
    return CONFIG_SOURCE_DEFAULT;
}

/* The value of a config that is in the table, as text. */
static void text_of(const char *name, const json_t *configs, const struct config *c, struct buf *b)
{
    const struct topic_config *row = topic_config_find(slice_str(name));
    ASSERT(row != NULL);
    buf_reset(b);
    (void)topic_config_value(row, configs, c, b); /* the source does not matter */
}

static int64_t long_of(const char *name, const json_t *configs, const struct config *c)
{
    struct buf b;
    buf_init(&b, TOPIC_CONFIG_VALUE_BYTES_MAX);
    text_of(name, configs, c, &b);
    int64_t v = strtoll(buf_text(&b), NULL, 10);
    buf_fini(&b);
    return v;
}

static enum topic_compression compression_of(const char *text)
{
    static const char *const names[] = {"uncompressed", "gzip", "snappy", "lz4", "zstd"};
    for (int i = 0; i < (int)(sizeof names / sizeof names[0]); i++) {
        if (strcmp(names[i], text) == 0) {
            return (enum topic_compression)i;
        }
    }
    return TOPIC_COMPRESSION_PRODUCER;
}

static uint32_t cleanup_of(const char *text)
{
    uint32_t cleanup = strstr(text, "compact") != NULL ? STORE_CLEANUP_COMPACT : 0;
    return strstr(text, "delete") != NULL ? cleanup | STORE_CLEANUP_DELETE : cleanup;
}

void topic_settings_read(struct topic_settings *out, const json_t *configs, const struct config *c)
{
    struct buf b;
    int64_t bytes = long_of("retention.bytes", configs, c);
    *out = (struct topic_settings){
        .retention_ms = long_of("retention.ms", configs, c),
        .retention_bytes = bytes < 0 ? -1 : bytes,
        .min_compaction_lag_ms = long_of("min.compaction.lag.ms", configs, c),
        .max_compaction_lag_ms = long_of("max.compaction.lag.ms", configs, c),
        .delete_retention_ms = long_of("delete.retention.ms", configs, c),
        .segment_ms = long_of("segment.ms", configs, c),
        .segment_bytes = (int32_t)long_of("segment.bytes", configs, c),
        .max_message_bytes = (int32_t)long_of("max.message.bytes", configs, c),
        .timestamp_before_max_ms = long_of("message.timestamp.before.max.ms", configs, c),
        .timestamp_after_max_ms = long_of("message.timestamp.after.max.ms", configs, c),
        .gzip_level = (int32_t)long_of("compression.gzip.level", configs, c),
        .lz4_level = (int32_t)long_of("compression.lz4.level", configs, c),
        .zstd_level = (int32_t)long_of("compression.zstd.level", configs, c),
        .min_insync_replicas = (int32_t)long_of("min.insync.replicas", configs, c),
    };
    buf_init(&b, TOPIC_CONFIG_VALUE_BYTES_MAX);
    text_of("cleanup.policy", configs, c, &b);
    out->cleanup = cleanup_of(buf_text(&b));
    text_of("compression.type", configs, c, &b);
    out->compression = compression_of(buf_text(&b));
    text_of("message.timestamp.type", configs, c, &b);
    out->log_append_time = strcmp(buf_text(&b), "LogAppendTime") == 0;
    text_of("min.cleanable.dirty.ratio", configs, c, &b);
    (void)decimal_read(buf_text(&b), &out->min_cleanable_dirty_ratio); /* it was checked */
    buf_fini(&b);
}

/* What its writer has noted of a captured topic. */
static bool is_bound_by_client(const char *attributes)
{
    json_t *all = json_loads(attributes, 0, NULL);
    const char *by = json_string_value(json_object_get(all, "mqtt.bound.by"));
    bool client = by != NULL && strcmp(by, "kafka") == 0;
    json_decref(all);
    return client;
}

void topic_settings_of(struct topic_settings *out, const struct store_topic *row, bool captured,
                       const struct config *c)
{
    json_t *configs = captured ? NULL : topic_config_load(row->attributes);
    topic_settings_read(out, configs, captured ? NULL : c);
    json_decref(configs);
    if (captured) {
        out->retention_ms = row->retention_ms;
        out->retention_bytes = row->retention_bytes;
        out->cleanup = row->cleanup;
        out->bound_by_client = is_bound_by_client(row->attributes);
    }
}
