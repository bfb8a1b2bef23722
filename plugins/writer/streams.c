/* Configured streams and the store's topics.
 *
 * The configuration says which streams are captured; the store says which exist. They are brought
 * together at start, after the store was mended, and on SIGHUP:
 *
 *   configured, not in the store     made
 *   configured, in the store         retention, cleanup and attributes follow the configuration;
 *                                    another number of partitions is a contradiction, named
 *   not configured, in the store     stays readable; frames left in the ring still go into it, with
 *                                    the key and headers that its attributes remember
 *
 * Attributes are the stream's settings as JSON, each under "mqtt." and its name (the filters under
 * mqtt.filter): what the server shows as the topic's configuration. Two more are for the server:
 * "said" lists the topic's configs that somebody has set, and "max.message.bytes" is more than any
 * batch that the writer makes. */
#include "plugins/writer/writer.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>

#define ATTRIBUTE_PREFIX      "mqtt."
#define FILTERS_NAME          ATTRIBUTE_PREFIX "filter" /* one setting, as mqtt.key; a list */
#define BOUND_NAME            ATTRIBUTE_PREFIX "bound.by" /* who may change it */
#define SAID_NAME             "said"
#define LARGEST_NAME          "max.message.bytes"
#define RATIO_EXACT           1e-6 /* a row keeps no more of min.cleanable.dirty.ratio */
/* What a record may have beside the frame in the ring, which is a quarter of it at most: key and
 * header with the topic again, 64 KB each, names, lengths. A batch of several is less. */
#define RECORD_MORE_BYTES     (256u << 10)
#define ATTRIBUTE_BYTES_MAX   (64u << 10) /* of one value as text */
#define FILTERS_BYTES_MAX     (48u << 10) /* of the filters in attributes, as JSON … */
#define FILTERS_TEXT_MAX      32767 /* … and with commas: what Kafka's older answers can hold */

/* Settings that the store keeps in fields of its own, or that are not the topic's. */
static bool is_attribute(const struct option_view *v)
{
    static const char *const others[] = {
        "name",           "filters",               "partitions",
        "retention.ms",   "retention.bytes",       "delete.retention.ms",
        "cleanup.policy", "min.compaction.lag.ms", "max.compaction.lag.ms",
        "min.cleanable.dirty.ratio",
    };
    if (strcmp(v->section, "stream") != 0) {
        return false;
    }
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        if (strcmp(v->name, others[i]) == 0) {
            return false;
        }
    }
    return true;
}

/* As many as there is room for; of more, how many there are. */
static void put_filters(json_t *object, const struct config_stream *s)
{
    json_t *filters = json_array();
    size_t bytes = 0, text = 0;
    for (uint32_t i = 0; i < s->filter_count; i++) {
        json_t *filter = json_string(s->filters[i]);
        bytes += json_dumpb(filter, NULL, 0, JSON_ENCODE_ANY) + 1;
        text += strlen(s->filters[i]) + 1;
        if (bytes > FILTERS_BYTES_MAX || text > FILTERS_TEXT_MAX) {
            json_decref(filter);
            json_object_set_new(object, FILTERS_NAME ".count", json_integer(s->filter_count));
            break;
        }
        json_array_append_new(filters, filter);
    }
    json_object_set_new(object, FILTERS_NAME, filters);
}

/* Under the names of the topic's configs. */
static json_t *said_configs(const struct config_stream *s)
{
    json_t *said = json_array();
    json_array_append_new(said, json_string(FILTERS_NAME));
    for (size_t i = 0; i < option_count(); i++) {
        struct option_view v;
        char name[128];
        option_view(i, &v);
        if (strcmp(v.section, "stream") == 0 && config_stream_said(s, v.name)) {
            snprintf(name, sizeof name, "%s%s", is_attribute(&v) ? ATTRIBUTE_PREFIX : "", v.name);
            json_array_append_new(said, json_string(name));
        }
    }
    return said;
}

/* JSON text, malloc'd; NULL without memory. */
static char *stream_attributes(const struct config_stream *s, int64_t ring_bytes)
{
    json_t *object = json_object();
    struct buf text;
    buf_init(&text, ATTRIBUTE_BYTES_MAX);
    put_filters(object, s);
    json_object_set_new(object, SAID_NAME, said_configs(s));
    json_object_set_new(object, LARGEST_NAME, json_integer(ring_bytes / 4 + RECORD_MORE_BYTES));
    json_object_set_new(object, BOUND_NAME, json_string(s->bound ? "kafka" : "configuration"));
    for (size_t i = 0; i < option_count(); i++) {
        struct option_view v;
        option_view(i, &v);
        if (!is_attribute(&v)) {
            continue;
        }
        char name[128];
        snprintf(name, sizeof name, ATTRIBUTE_PREFIX "%s", v.name);
        buf_reset(&text);
        option_stream_text(s, i, &text);
        json_object_set_new(object, name, json_string(buf_text(&text)));
    }
    char *out = json_dumps(object, JSON_COMPACT | JSON_SORT_KEYS);
    if (out && strlen(out) > STORE_ATTRIBUTES_BYTES_MAX - 1) {
        free(out);
        json_object_del(object, FILTERS_NAME);
        out = json_dumps(object, JSON_COMPACT | JSON_SORT_KEYS);
    }
    buf_fini(&text);
    json_decref(object);
    return out;
}

/* What attributes remember, into a stream with defaults. A value that this version does not take
 * is left out. */
static void stream_from_topic(struct config_stream *s, const struct store_topic *t)
{
    struct errmsg m;
    json_t *object = json_loads(t->attributes, 0, NULL);
    const char *name;
    json_t *v;
    json_object_foreach(object, name, v) {
        size_t skip = sizeof ATTRIBUTE_PREFIX - 1;
        if (strncmp(name, ATTRIBUTE_PREFIX, skip) == 0 && json_is_string(v) &&
            config_stream_set(s, name + skip, json_string_value(v), &m)) {
            log_debug("attribute ignored stream=%s name=%s: %s", t->name, name, m.text);
        }
    }
    json_decref(object);
    s->partitions = t->partition_count;
    s->retention_ms = t->retention_ms;
    s->retention_bytes = t->retention_bytes;
    bool compacts = t->cleanup & STORE_CLEANUP_COMPACT, deletes = t->cleanup & STORE_CLEANUP_DELETE;
    s->cleanup = !compacts ? CLEANUP_DELETE : deletes ? CLEANUP_BOTH : CLEANUP_COMPACT;
    if (t->compaction.given) {
        s->min_compaction_lag_ms = t->compaction.min_compaction_lag_ms;
        s->max_compaction_lag_ms = t->compaction.max_compaction_lag_ms;
        s->delete_retention_ms = t->compaction.delete_retention_ms;
        s->min_cleanable_dirty_ratio = t->compaction.min_cleanable_dirty_ratio;
    }
}

/* --- the writer's table ----------------------------------------------------------------------- */

static void writer_stream_free(struct writer_stream *w)
{
    config_stream_fini(&w->config);
    free(w->slots);
    free(w->uids);
    free(w);
}

void streams_free(struct writer_stream **by_id)
{
    struct writer_stream *w, *next;
    HASH_ITER(hh, *by_id, w, next) {
        HASH_DEL(*by_id, w);
        writer_stream_free(w);
    }
}

/* For the broker, which asks before it takes another configuration. */
static void tell_partitions(struct link *l, struct writer_stream *by_id)
{
    for (size_t i = 0; i < LINK_STREAMS_MAX; i++) {
        uint64_t id = atomic_load(&l->ids[i]);
        struct writer_stream *w = NULL;
        if (id) {
            HASH_FIND(hh, by_id, &id, sizeof id, w);
            atomic_store(&l->streams[i].partitions, w ? w->partition_count : 0);
        }
    }
}

void streams_forget(struct writer *w, const char *name)
{
    uint64_t id = stream_id(slice_str(name));
    struct writer_stream *gone;
    HASH_FIND(hh, w->by_id, &id, sizeof id, gone);
    if (gone) {
        HASH_DEL(w->by_id, gone);
        writer_stream_free(gone);
        tell_partitions(w->link, w->by_id);
    }
    struct writer_stream *s = stream_unknown(w, id);
    if (s) {
        s->unbound = true;
    }
}

struct writer_stream *stream_unknown(struct writer *w, uint64_t id)
{
    struct writer_stream *s;
    HASH_FIND(hh, w->unknown, &id, sizeof id, s);
    struct stream_counters *n = s ? NULL : link_counters_find(w->link, id);
    if (n) {
        s = calloc(1, sizeof *s);
        if (s) {
            s->id = id;
            s->counters = n;
            HASH_ADD(hh, w->unknown, id, sizeof s->id, s);
            if (!s->hh.tbl) {
                free(s);
                s = NULL;
            }
        }
    }
    return s;
}

/* Room for the batches of so many partitions; between ticks, when there are none. */
static enum err entry_resize(struct writer_stream *w, int32_t partition_count)
{
    if (w->partition_count == partition_count) {
        return OK;
    }
    struct slot **slots = calloc((size_t)partition_count, sizeof(struct slot *));
    uint32_t *uids = calloc((size_t)partition_count, sizeof(uint32_t));
    if (!slots || !uids) {
        free(slots);
        free(uids);
        return ERR_NOMEM;
    }
    free(w->slots);
    free(w->uids);
    w->slots = slots;
    w->uids = uids;
    w->partition_count = partition_count;
    w->sticky = 0;
    return OK;
}

/* The entry of a topic, with its place in the store; made when there is none. NULL: no memory. */
static struct writer_stream *entry_of(struct link *l, struct writer_stream **by_id,
                                      const struct store_topic *t, bool *made)
{
    uint64_t id = stream_id(slice_str(t->name));
    struct writer_stream *w;
    HASH_FIND(hh, *by_id, &id, sizeof id, w);
    *made = !w;
    if (!w) {
        w = calloc(1, sizeof *w);
        if (!w || config_stream_init(&w->config)) {
            free(w);
            return NULL;
        }
        w->id = id;
        w->counters = link_counters(l, t->name);
        if (!w->counters || entry_resize(w, t->partition_count)) {
            writer_stream_free(w);
            return NULL;
        }
        HASH_ADD(hh, *by_id, id, sizeof w->id, w);
        if (!w->hh.tbl) {
            writer_stream_free(w);
            return NULL;
        }
    }
    /* A store that was mended, or put back from a copy, may hold it under another uid and with
     * other partitions: the next uids are another topic's. */
    if (entry_resize(w, t->partition_count)) {
        return NULL;
    }
    for (int32_t p = 0; p < t->partition_count; p++) {
        w->uids[p] = store_topic_uid(t, p);
    }
    return w;
}

static enum err entry_configure(struct writer_stream *w, const struct config_stream *s)
{
    struct config_stream copy;
    enum err e = config_stream_copy(&copy, s);
    if (!e) {
        config_stream_fini(&w->config);
        w->config = copy;
    }
    return e;
}

/* --- the catalog ------------------------------------------------------------------------------ */

static void topic_fill(struct store_topic *t, const struct config_stream *s, char *attributes)
{
    snprintf(t->name, sizeof t->name, "%s", s->name);
    t->partition_count = s->partitions;
    t->retention_ms = s->retention_ms;
    t->retention_bytes = s->retention_bytes;
    t->cleanup = (config_compacts(s) ? STORE_CLEANUP_COMPACT : 0) |
                 (s->cleanup != CLEANUP_COMPACT ? STORE_CLEANUP_DELETE : 0);
    t->compaction = (struct store_compaction){
        .given = true,
        .min_cleanable_dirty_ratio = s->min_cleanable_dirty_ratio,
        .min_compaction_lag_ms = s->min_compaction_lag_ms,
        .max_compaction_lag_ms = s->max_compaction_lag_ms,
        .delete_retention_ms = s->delete_retention_ms,
    };
    t->attributes = attributes;
}

static bool same_compaction(const struct store_compaction *a, const struct store_compaction *b)
{
    return a->given == b->given &&
           fabs(a->min_cleanable_dirty_ratio - b->min_cleanable_dirty_ratio) < RATIO_EXACT &&
           a->min_compaction_lag_ms == b->min_compaction_lag_ms &&
           a->max_compaction_lag_ms == b->max_compaction_lag_ms &&
           a->delete_retention_ms == b->delete_retention_ms;
}

static bool topic_same(const struct store_topic *a, const struct store_topic *b)
{
    return a->retention_ms == b->retention_ms && a->retention_bytes == b->retention_bytes &&
           a->cleanup == b->cleanup && same_compaction(&a->compaction, &b->compaction) &&
           strcmp(a->attributes, b->attributes) == 0;
}

/* The topic of a configured stream, made or altered. *topic's attributes are freed by the
 * caller. */
static enum err topic_apply(struct store *s, const struct config_stream *config,
                            int64_t ring_bytes, const struct store_topic *found,
                            struct store_topic *topic,
                            struct errmsg *m)
{
    char *attributes = stream_attributes(config, ring_bytes);
    if (!attributes) {
        return err_set(m, ERR_NOMEM, "no memory for stream %s", config->name);
    }
    *topic = found ? *found : (struct store_topic){0};
    topic_fill(topic, config, attributes);
    if (!found) {
        enum err e = store_topic_create(s, topic, m);
        if (!e) {
            log_info("stream made stream=%s partitions=%d", config->name, config->partitions);
        }
        return e;
    }
    topic->partition_count = found->partition_count;
    if (topic_same(topic, found)) {
        return OK;
    }
    enum err e = store_topic_alter(s, topic, m);
    if (!e) {
        log_info("stream altered stream=%s", config->name);
    }
    return e;
}

static enum err sync_configured(struct link *l, struct store *s, struct writer_stream **by_id,
                                const struct config *c, const struct store_catalog *catalog,
                                struct errmsg *m)
{
    for (size_t i = 0; i < c->stream_count; i++) {
        const struct config_stream *config = &c->streams[i];
        const struct store_topic *found = store_catalog_find(catalog, slice_str(config->name));
        struct store_topic topic = {0};
        enum err e = topic_apply(s, config, c->store.ring_bytes, found, &topic, m);
        bool made;
        struct writer_stream *w = e ? NULL : entry_of(l, by_id, &topic, &made);
        free(topic.attributes);
        if (e == ERR_INVALID) { /* as often as it is tried: the others go on */
            log_error("a stream cannot be made, and what comes for it is not stored stream=%s: %s",
                      config->name, m->text);
            continue;
        }
        if (e) {
            return e;
        }
        if (!w || entry_configure(w, config)) {
            return err_set(m, ERR_NOMEM, "no memory for stream %s", config->name);
        }
    }
    return OK;
}

static enum err sync_found(struct link *l, struct writer_stream **by_id,
                           const struct store_catalog *catalog, struct errmsg *m)
{
    for (size_t i = 0; i < catalog->count; i++) {
        bool made;
        struct writer_stream *w = entry_of(l, by_id, &catalog->topics[i], &made);
        if (!w) {
            return err_set(m, ERR_NOMEM, "no memory for stream %s", catalog->topics[i].name);
        }
        if (made) {
            stream_from_topic(&w->config, &catalog->topics[i]);
        }
    }
    return OK;
}

/* Contradictions; where nobody wants the sentences, they are logged. */
static bool contradictions(const struct config *config, const struct store_catalog *catalog,
                           struct buf *mistakes)
{
    struct buf own;
    buf_init(&own, ATTRIBUTE_BYTES_MAX);
    struct buf *out = mistakes ? mistakes : &own;
    size_t before = out->len;
    for (size_t i = 0; i < config->stream_count; i++) {
        const struct config_stream *s = &config->streams[i];
        const struct store_topic *t = store_catalog_find(catalog, slice_str(s->name));
        if (t) {
            config_check_partitions(config, i, t->partition_count, out);
        }
    }
    bool any = out->len > before;
    if (any && !mistakes) {
        log_error("configuration contradicts the store, which holds: %s", buf_text(&own));
    }
    buf_fini(&own);
    return any;
}

enum err streams_sync(struct link *l, struct store *s, struct writer_stream **by_id,
                      const struct config *config, struct buf *mistakes, struct errmsg *m)
{
    const struct store_catalog *catalog = store_catalog_ref(s);
    if (!catalog) {
        return err_set(m, ERR_NOMEM, "no memory for the catalog");
    }
    enum err e = OK;
    if (contradictions(config, catalog, mistakes) && mistakes) {
        e = err_set(m, ERR_INVALID, "the configuration contradicts the store");
    }
    e = e ? e : sync_found(l, by_id, catalog, m);
    e = e ? e : sync_configured(l, s, by_id, config, catalog, m);
    store_catalog_unref(s, catalog);
    if (!e) {
        tell_partitions(l, *by_id);
    }
    return e;
}
