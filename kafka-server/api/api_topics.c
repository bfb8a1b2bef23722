/* CreateTopics, DeleteTopics, CreatePartitions, DeleteRecords: the requests that make, change and
 * empty free streams, into the verbs of broker/topic_admin.h.
 *
 * Each topic of a request succeeds or fails by itself, and is stored before the next one is looked
 * at, so the answer needs no commit of the turn. A name that a request gives twice is refused, as
 * Kafka does, whatever it says of it. */
#include <stdio.h>
#include <stdlib.h>

#include "kafka-server/api/api.h"
#include "kafka-server/api/api_bound.h"
#include "kafka-server/api/api_config.h"
#include "kafka-server/api/api_names.h"
#include "kafka-server/api/api_wait.h"
#include "kafka-server/broker/journal.h"
#include "kafka-server/broker/topic_admin.h"
#include "kafka-server/broker/topic_config.h"
#include "kafka-server/server.h"
#include "kafka_messages.h"

#define DUPLICATE_NAME "Duplicate topic name."
#define NOT_HERE       "This server does not host this topic-partition."
#define ID_NOT_HERE    "This server does not host this topic ID."
#define OWN_AWAY       "The server's own store is away, and so are its topics: try again."
#define METADATA_TOPIC "__cluster_metadata"
#define METADATA_REFUSED \
    "Creation of internal topic " METADATA_TOPIC " is prohibited."

static struct topic_admin admin_of(struct request *rq)
{
    return (struct topic_admin){rq->server->own, rq->server->topics, &rq->server->config,
                                rq->server->bound_names};
}

/* --- CreateTopics ---------------------------------------------------------------------------- */

/* A client's order, in the request's arena; false: no memory. */
static bool read_order(struct request *rq, const struct create_topics_request_topics *in,
                       struct topic_order *o)
{
    struct topic_assignment *x =
        arena_array(&rq->arena, (size_t)in->assignments_count, sizeof *x);
    struct topic_setting *c = arena_array(&rq->arena, (size_t)in->configs_count, sizeof *c);
    if (x == NULL || c == NULL) {
        return false;
    }
    for (int32_t i = 0; i < in->assignments_count; i++) {
        x[i] = (struct topic_assignment){in->assignments[i].partition_index,
                                         in->assignments[i].broker_ids,
                                         in->assignments[i].broker_ids_count};
    }
    for (int32_t i = 0; i < in->configs_count; i++) {
        c[i] = (struct topic_setting){kstr_slice(in->configs[i].name),
                                      opt_slice(in->configs[i].value)};
    }
    *o = (struct topic_order){
        .name = kstr_slice(in->name),
        .partition_count = in->num_partitions,
        .replication_factor = in->replication_factor,
        .assignments = x,
        .assignment_count = in->assignments_count,
        .configs = c,
        .config_count = in->configs_count,
    };
    return true;
}

/* One that says what of MQTT belongs to it is a captured stream: the broker's writer makes it. */
static bool is_bound_order(const struct create_topics_request_topics *in)
{
    for (int32_t i = 0; i < in->configs_count; i++) {
        struct slice name = kstr_slice(in->configs[i].name);
        if (name.len >= 5 && memcmp(name.data, "mqtt.", 5) == 0) {
            return true;
        }
    }
    return false;
}

/* NULL: no memory, or a value is none, whose name is in *wrong. */
static json_t *order_configs(const struct create_topics_request_topics *in, struct slice *wrong)
{
    json_t *configs = json_object();
    for (int32_t i = 0; i < in->configs_count; i++) {
        struct slice name = kstr_slice(in->configs[i].name);
        struct slice value = opt_slice(in->configs[i].value);
        char text[256];
        snprintf(text, sizeof text, "%.*s", (int)name.len, (const char *)name.data);
        bool text_only = value.data != NULL && memchr(value.data, 0, value.len) == NULL;
        json_t *v = text_only ? json_stringn((const char *)value.data, value.len) : NULL;
        if (v == NULL) {
            *wrong = name;
            json_decref(configs);
            return NULL;
        }
        json_object_set_new(configs, text, v);
    }
    return configs;
}

/* The name and the number of partitions, as the broker judges those of its streams. */
static enum kerr check_stream(const struct create_topics_request_topics *in, const char *name,
                              struct errmsg *m)
{
    struct config_stream s;
    struct errmsg why;
    enum kerr k = KERR_NONE;
    char count[16];
    snprintf(count, sizeof count, "%d", in->num_partitions);
    if (config_stream_init(&s) != OK) {
        return KERR_UNKNOWN_SERVER_ERROR;
    }
    if (config_stream_set(&s, "name", name, &why) != OK) {
        k = KERR_INVALID_TOPIC_EXCEPTION;
        err_set(m, ERR_INVALID, "Topic name is invalid: %.400s", why.text);
    } else if (in->num_partitions != -1 &&
               config_stream_set(&s, "partitions", count, &why) != OK) {
        k = KERR_INVALID_PARTITIONS;
        err_set(m, ERR_INVALID, "Number of partitions: %.400s", why.text);
    }
    config_stream_fini(&s);
    return k;
}

/* One that is there already may be of a stream that nothing captures any more, which the writer
 * knows. */
static bool is_taken(const struct request *rq, struct slice name)
{
    const struct topic *t = topics_find(rq->server->topics, name);
    return t != NULL && (!t->captured || topic_is_configured(&rq->server->config, name));
}

static void order_bound(struct request *rq, const struct create_topics_request_topics *in,
                        struct bound_call *c)
{
    const struct create_topics_request *q = rq->body;
    struct slice name = kstr_slice(in->name), wrong = {NULL, 0};
    struct errmsg m = {""};
    enum kerr k = topic_check_name(name, &m);
    if (k == KERR_NONE && is_taken(rq, name)) {
        k = KERR_TOPIC_ALREADY_EXISTS;
        err_set(&m, ERR_EXISTS, "Topic '%s' already exists.", c->name);
    }
    k = k == KERR_NONE ? check_stream(in, c->name, &m) : k;
    k = k == KERR_NONE ? topic_check_collision(rq->server->topics, name, &m) : k;
    if (k != KERR_NONE) {
        bound_refuse(c, k, m.text);
        return;
    }
    if (in->assignments_count > 0) {
        bound_refuse(c, KERR_INVALID_REQUEST, "A stream that is bound to MQTT takes no "
                     "assignments: there is one broker.");
    } else if (in->replication_factor != -1 && in->replication_factor != 1) {
        bound_refuse(c, KERR_INVALID_REPLICATION_FACTOR, "There is one broker: the replication "
                     "factor is 1 or -1.");
    } else {
        json_t *configs = order_configs(in, &wrong);
        if (configs == NULL) {
            err_set(&m, ERR_INVALID, "%.*s: is null, or not UTF-8", (int)wrong.len,
                    wrong.data != NULL ? (const char *)wrong.data : "");
            bound_refuse(c, KERR_INVALID_CONFIG, m.text);
            return;
        }
        c->command = json_pack("{s:s, s:s, s:i, s:o, s:b}", "command", "bind", "name", c->name,
                               "partitions", in->num_partitions < 0 ? 0 : in->num_partitions,
                               "configs", configs, "validate", q->validate_only);
    }
}

static bool collect_created(struct request *rq, struct bound_calls *calls, void *arg)
{
    const struct create_topics_request *q = rq->body;
    struct slice *names = arena_array(&rq->arena, (size_t)q->topics_count, sizeof *names);
    for (int32_t i = 0; i < q->topics_count && names != NULL; i++) {
        names[i] = kstr_slice(q->topics[i].name);
    }
    enum name_seen *seen = names != NULL ? names_seen(rq, names, q->topics_count) : NULL;
    for (int32_t i = 0; i < q->topics_count && seen != NULL; i++) {
        if (seen[i] != NAME_ONCE || !is_bound_order(&q->topics[i])) {
            continue; /* what is there twice is refused, and not made before that */
        }
        struct bound_call *c = bound_add(calls, i, 0, kstr_slice(q->topics[i].name));
        if (c == NULL) {
            return false;
        }
        order_bound(rq, &q->topics[i], c);
    }
    return seen != NULL;
}

static bool add_bound_config(struct request *rq, const char *name, const char *value,
                             enum config_source source,
                             struct create_topics_response_topics *out)
{
    struct create_topics_response_topics_configs *x = &out->configs[out->configs_count++];
    x->name = names_keep(rq, name);
    x->value = names_keep(rq, value);
    x->config_source = (int8_t)source;
    return x->name.data != NULL && x->value.data != NULL;
}

/* What its writer says of it: see api_config_captured. */
static bool tell_bound_configs(struct request *rq, const struct store_topic *row,
                               struct create_topics_response_topics *out)
{
    json_t *all = json_loads(row->attributes, 0, NULL);
    json_t *more = api_config_captured(row, all);
    struct buf text;
    const char *name;
    json_t *value;
    json_t *notes = json_copy(all); /* with what is no config of its own */
    json_object_del(all, "said");
    json_object_update(all, more);
    json_decref(more);
    buf_init(&text, STORE_ATTRIBUTES_BYTES_MAX);
    out->configs = codec_new_array(&create_topics_response_topics_configs_message, &rq->arena,
                                   (int32_t)json_object_size(all));
    bool ok = out->configs != NULL;
    json_object_foreach(all, name, value)
    {
        buf_reset(&text);
        api_config_text(value, &text);
        ok = ok && add_bound_config(rq, name, buf_text(&text), api_config_source(notes, name), out);
    }
    buf_fini(&text);
    json_decref(notes);
    json_decref(all);
    return ok;
}

static bool tell_bound(struct request *rq, const struct bound_call *c,
                       struct create_topics_response_topics *out)
{
    out->error_code = (int16_t)c->k;
    if (c->k != KERR_NONE) {
        out->error_message = names_keep(rq, bound_why(c));
        return out->error_message.data != NULL;
    }
    const struct topic *t = topics_find(rq->server->topics, slice_str(c->name));
    if (t != NULL) { /* not where it was only validated */
        out->topic_id = t->row->id;
        out->num_partitions = t->row->partition_count;
        out->replication_factor = 1;
    }
    return t == NULL || rq->header.api_version < 5 || tell_bound_configs(rq, t->row, out);
}

/* All configs of the topic that was made, as DescribeConfigs would tell them. */
static bool tell_configs(struct request *rq, const json_t *configs,
                         struct create_topics_response_topics *out)
{
    struct buf text;
    out->configs = codec_new_array(&create_topics_response_topics_configs_message, &rq->arena,
                                   (int32_t)topic_config_count);
    if (out->configs == NULL) {
        return false;
    }
    bool ok = true;
    buf_init(&text, TOPIC_CONFIG_VALUE_BYTES_MAX);
    for (size_t i = 0; i < topic_config_count && ok; i++) {
        struct create_topics_response_topics_configs *c = &out->configs[i];
        buf_reset(&text);
        c->name = kstr_make(topic_configs[i].name);
        c->config_source =
            (int8_t)topic_config_value(&topic_configs[i], configs, &rq->server->config, &text);
        c->value = names_keep(rq, buf_text(&text));
        ok = c->value.data != NULL;
    }
    buf_fini(&text);
    out->configs_count = (int32_t)topic_config_count;
    return ok;
}

static bool create_one(struct request *rq, int32_t index, bool twice,
                       struct create_topics_response_topics *out)
{
    const struct create_topics_request *q = rq->body;
    const struct create_topics_request_topics *in = &q->topics[index];
    const struct bound_call *bound = bound_call_of(rq, index, 0);
    struct topic_admin a = admin_of(rq);
    struct topic_order o;
    struct topic_made made;
    struct errmsg m = {""};
    out->name = in->name;
    out->error_message = kstr_make(NULL);
    out->configs_count = 0; /* empty, not null: Java's admin client reads it without asking */
    if (twice || slice_eq(kstr_slice(in->name), slice_str(METADATA_TOPIC))) {
        out->error_code = KERR_INVALID_REQUEST;
        out->error_message = kstr_make(twice ? DUPLICATE_NAME : METADATA_REFUSED);
        return true;
    }
    if (bound != NULL) {
        return tell_bound(rq, bound, out);
    }
    if (!read_order(rq, in, &o)) {
        return false;
    }
    o.validate_only = q->validate_only;
    out->error_code = (int16_t)topic_create(&a, &o, &made, &m);
    if (out->error_code != KERR_NONE) {
        out->error_message = names_keep(rq, m.text);
        return out->error_message.data != NULL;
    }
    out->topic_id = made.id;
    out->num_partitions = made.partition_count;
    out->replication_factor = 1;
    bool ok = rq->header.api_version < 5 || tell_configs(rq, made.configs, out);
    json_decref(made.configs);
    return ok;
}

static bool create_all(struct request *rq, struct create_topics_response *p)
{
    const struct create_topics_request *q = rq->body;
    struct slice *names = arena_array(&rq->arena, (size_t)q->topics_count, sizeof *names);
    p->topics =
        codec_new_array(&create_topics_response_topics_message, &rq->arena, q->topics_count);
    for (int32_t i = 0; i < q->topics_count && names != NULL; i++) {
        names[i] = kstr_slice(q->topics[i].name);
    }
    enum name_seen *seen = names != NULL ? names_seen(rq, names, q->topics_count) : NULL;
    if (p->topics == NULL || seen == NULL) {
        return false;
    }
    for (int32_t i = 0; i < q->topics_count; i++) {
        if (seen[i] == NAME_AGAIN) {
            continue;
        }
        if (!create_one(rq, i, seen[i] == NAME_FIRST, &p->topics[p->topics_count++])) {
            return false;
        }
    }
    return true;
}

void api_create_topics(struct request *rq)
{
    const struct create_topics_request *q = rq->body;
    struct create_topics_response p;
    if (bound_first(rq, q->timeout_ms, collect_created, NULL)) {
        return;
    }
    codec_init(&create_topics_response_message, &p);
    if (!create_all(rq, &p)) {
        request_close_too_large(rq);
        return;
    }
    request_reply(rq, &p);
}

/* --- DeleteTopics ---------------------------------------------------------------------------- */

struct deletion {
    struct request *rq;
    struct delete_topics_response *p;
    struct slice *names; /* that were given, by name */
    int32_t name_count;
    struct slice *ids; /* that were given, by id: 16 bytes each */
    int32_t id_count;
};

static void tell_deleted(struct deletion *d, struct kstr name, const struct uuid *id, enum kerr k,
                         const char *message)
{
    struct delete_topics_response_responses *r = &d->p->responses[d->p->responses_count++];
    r->name = name;
    if (id != NULL) {
        r->topic_id = *id;
    }
    r->error_code = (int16_t)k;
    r->error_message = kstr_make(message);
}

/* What the request names, apart into names and ids; what is neither is answered. */
static bool read_deletion(struct deletion *d)
{
    const struct delete_topics_request *q = d->rq->body;
    int32_t max = q->topics_count + q->topic_names_count;
    struct arena *a = &d->rq->arena;
    d->names = arena_array(a, (size_t)max, sizeof *d->names);
    d->ids = arena_array(a, (size_t)max, sizeof *d->ids);
    d->p->responses = codec_new_array(&delete_topics_response_responses_message, a, max);
    if (d->names == NULL || d->ids == NULL || d->p->responses == NULL) {
        return false;
    }
    for (int32_t i = 0; i < q->topic_names_count; i++) {
        d->names[d->name_count++] = kstr_slice(q->topic_names[i]);
    }
    for (int32_t i = 0; i < q->topics_count; i++) {
        const struct delete_topics_request_topics *t = &q->topics[i];
        bool no_id = uuid_is_zero(&t->topic_id);
        if (t->name.len >= 0 && no_id) {
            d->names[d->name_count++] = kstr_slice(t->name);
        } else if (t->name.len < 0 && !no_id) {
            d->ids[d->id_count++] = slice_make(t->topic_id.b, sizeof t->topic_id.b);
        } else {
            tell_deleted(d, t->name, &t->topic_id, KERR_INVALID_REQUEST,
                         no_id ? "Neither topic name nor id were specified."
                               : "You may not specify both topic name and topic id.");
        }
    }
    return true;
}

/* Has a client bound it, or does culex.json have it no more? The first time that reads the topic's
 * attributes, which may be long. */
static bool clients_delete(const struct request *rq, const struct topic *t)
{
    return bound_by_client(rq, t) ||
           !topic_is_configured(&rq->server->config, slice_str(t->row->name));
}

/* Of captured streams, those that are named once, in one manner, and that clients may delete: all
 * else is refused. First what is repeated, because a request has room for a million names. */
static bool collect_deleted(struct request *rq, struct bound_calls *calls, void *arg)
{
    const struct delete_topics_request *q = rq->body;
    const struct topics *topics = rq->server->topics;
    int32_t max = q->topics_count + q->topic_names_count, count = 0;
    struct slice *ids = arena_array(&rq->arena, (size_t)max, sizeof *ids);
    const struct topic **found = arena_array(&rq->arena, (size_t)max, sizeof *found);
    bool enabled = rq->server->config.server.delete_topic_enable;
    for (int32_t i = 0; i < max && ids != NULL && found != NULL && enabled; i++) {
        const struct delete_topics_request_topics *in = i < q->topics_count ? &q->topics[i] : NULL;
        struct kstr name = in != NULL ? in->name : q->topic_names[i - q->topics_count];
        bool both = in != NULL && name.len >= 0 && !uuid_is_zero(&in->topic_id);
        const struct topic *t = both            ? NULL
                                : name.len >= 0 ? topics_find(topics, kstr_slice(name))
                                                : topics_find_id(topics, &in->topic_id);
        if (t != NULL && t->captured) {
            ids[count] = slice_make(t->row->id.b, sizeof t->row->id.b);
            found[count++] = t;
        }
    }
    enum name_seen *seen = ids != NULL ? names_seen(rq, ids, count) : NULL;
    for (int32_t i = 0; i < count && seen != NULL && found != NULL; i++) {
        if (seen[i] != NAME_ONCE || !clients_delete(rq, found[i])) {
            continue;
        }
        struct bound_call *call = bound_add(calls, i, 0, slice_str(found[i]->row->name));
        if (call == NULL) {
            return false;
        }
        call->id = found[i]->row->id;
        call->command = json_pack("{s:s, s:s}", "command", "unbind", "name", call->name);
    }
    return seen != NULL && found != NULL;
}

static bool tell_unbound(struct deletion *d, struct kstr name, const struct bound_call *c)
{
    struct kstr told = name.len >= 0 ? name : names_keep(d->rq, c->name);
    struct kstr why = c->k == KERR_NONE ? kstr_make(NULL) : names_keep(d->rq, bound_why(c));
    tell_deleted(d, told, &c->id, c->k, why.data);
    return told.data != NULL && (c->k == KERR_NONE || why.data != NULL);
}

/* One that is there, by its name in the request or, with name NULL, by its id. */
static bool delete_one(struct deletion *d, struct kstr name, const struct topic *t)
{
    struct topic_admin a = admin_of(d->rq);
    struct uuid id = t->row->id;
    struct errmsg m = {""};
    struct kstr told = name.len >= 0 ? name : names_keep(d->rq, t->row->name);
    enum kerr k = topic_delete(&a, t, &m); /* t is gone */
    struct kstr why = k == KERR_NONE ? kstr_make(NULL) : names_keep(d->rq, m.text);
    tell_deleted(d, told, &id, k, why.data);
    return told.data != NULL && (k == KERR_NONE || why.data != NULL);
}

static int compare_slices(const void *a, const void *b)
{
    return slice_compare(*(const struct slice *)a, *(const struct slice *)b);
}

/* Is it among the names, once? They are sorted. */
static bool is_named_once(const struct deletion *d, struct slice name)
{
    const struct slice *n =
        bsearch(&name, d->names, (size_t)d->name_count, sizeof name, compare_slices);
    const struct slice *end = d->names + d->name_count;
    return n != NULL && (n == d->names || !slice_eq(n[-1], name)) &&
           (n + 1 == end || !slice_eq(n[1], name));
}

/* By name, or by id. */
static void tell_not_here(struct deletion *d, struct kstr name, const struct uuid *id)
{
    enum kerr unknown = id != NULL ? KERR_UNKNOWN_TOPIC_ID : KERR_UNKNOWN_TOPIC_OR_PARTITION;
    enum kerr k = names_missing(d->rq, KERR_KAFKA_STORAGE_ERROR, unknown);
    tell_deleted(d, name, id, k,
                 k != unknown ? OWN_AWAY : id != NULL ? ID_NOT_HERE : NOT_HERE);
}

/* Of the ids that came once; those of topics that are named as well are left to the names. */
static bool delete_ids(struct deletion *d)
{
    enum name_seen *seen = names_seen(d->rq, d->ids, d->id_count);
    bool ok = seen != NULL;
    for (int32_t i = 0; i < d->id_count && ok; i++) {
        struct uuid id;
        memcpy(id.b, d->ids[i].data, sizeof id.b);
        const struct topic *t = topics_find_id(d->rq->server->topics, &id);
        const struct bound_call *bound = bound_call_for(d->rq, slice_make("", 0), &id);
        if (seen[i] == NAME_FIRST) {
            tell_deleted(d, kstr_make(NULL), &id, KERR_INVALID_REQUEST, "Duplicate topic id.");
        } else if (seen[i] == NAME_ONCE && bound != NULL) {
            ok = is_named_once(d, slice_str(bound->name)) ||
                 tell_unbound(d, kstr_make(NULL), bound);
        } else if (seen[i] == NAME_ONCE && t == NULL) {
            tell_not_here(d, kstr_make(NULL), &id);
        } else if (seen[i] == NAME_ONCE) {
            ok = is_named_once(d, slice_str(t->row->name)) || delete_one(d, kstr_make(NULL), t);
        }
    }
    return ok;
}

static bool delete_names(struct deletion *d)
{
    enum name_seen *seen = names_seen(d->rq, d->names, d->name_count);
    bool ok = seen != NULL;
    for (int32_t i = 0; i < d->name_count && ok; i++) {
        struct kstr name = slice_kstr_or_empty(d->names[i]);
        const struct topic *t = topics_find(d->rq->server->topics, d->names[i]);
        const struct bound_call *bound = bound_call_for(d->rq, d->names[i], NULL);
        if (seen[i] == NAME_FIRST) {
            tell_deleted(d, name, NULL, KERR_INVALID_REQUEST, DUPLICATE_NAME);
        } else if (seen[i] == NAME_ONCE && bound != NULL) {
            ok = tell_unbound(d, name, bound);
        } else if (seen[i] == NAME_ONCE && t == NULL) {
            tell_not_here(d, name, NULL);
        } else if (seen[i] == NAME_ONCE) {
            struct slice id = slice_make(t->row->id.b, sizeof t->row->id.b);
            if (bsearch(&id, d->ids, (size_t)d->id_count, sizeof id, compare_slices) != NULL) {
                tell_deleted(d, name, &t->row->id, KERR_INVALID_REQUEST,
                             "The provided topic name maps to an ID that was already supplied.");
            } else {
                ok = delete_one(d, name, t);
            }
        }
    }
    return ok;
}

/* delete.topic.enable is false: nothing of the request is done. */
static void tell_disabled(struct deletion *d)
{
    const struct delete_topics_request *q = d->rq->body;
    enum kerr k = d->rq->header.api_version < 3 ? KERR_INVALID_REQUEST
                                                : KERR_TOPIC_DELETION_DISABLED;
    for (int32_t i = 0; i < q->topic_names_count; i++) {
        tell_deleted(d, q->topic_names[i], NULL, k, NULL);
    }
    for (int32_t i = 0; i < q->topics_count; i++) {
        tell_deleted(d, q->topics[i].name, &q->topics[i].topic_id, k, NULL);
    }
}

void api_delete_topics(struct request *rq)
{
    const struct delete_topics_request *q = rq->body;
    struct delete_topics_response p;
    if (bound_first(rq, q->timeout_ms, collect_deleted, NULL)) {
        return;
    }
    codec_init(&delete_topics_response_message, &p);
    struct deletion d = {.rq = rq, .p = &p};
    bool ok = read_deletion(&d);
    if (ok && !rq->server->config.server.delete_topic_enable) {
        p.responses_count = 0;
        tell_disabled(&d);
    } else if (ok) {
        qsort(d.names, (size_t)d.name_count, sizeof *d.names, compare_slices);
        qsort(d.ids, (size_t)d.id_count, sizeof *d.ids, compare_slices);
        ok = delete_ids(&d) && delete_names(&d);
    }
    if (!ok) {
        request_close_too_large(rq);
        return;
    }
    request_reply(rq, &p);
}

/* --- CreatePartitions ------------------------------------------------------------------------ */

static bool grow_one(struct request *rq, const struct create_partitions_request_topics *in,
                     struct create_partitions_response_results *out)
{
    const struct create_partitions_request *q = rq->body;
    struct topic_admin a = admin_of(rq);
    const struct topic *t = topics_find(rq->server->topics, kstr_slice(in->name));
    struct errmsg m = {""};
    int32_t count = in->assignments_count > 0 ? in->assignments_count : 0;
    struct topic_assignment *x = arena_array(&rq->arena, (size_t)count, sizeof *x);
    if (x == NULL) {
        return false;
    }
    if (t == NULL) {
        out->error_code = (int16_t)names_missing(rq, KERR_KAFKA_STORAGE_ERROR,
                                                 KERR_UNKNOWN_TOPIC_OR_PARTITION);
        return true;
    }
    for (int32_t i = 0; i < count; i++) {
        x[i].replicas = in->assignments[i].broker_ids;
        x[i].replica_count = in->assignments[i].broker_ids_count;
    }
    out->error_code = (int16_t)topic_grow(&a, t, in->count, in->assignments_count < 0 ? NULL : x,
                                          count, q->validate_only, &m);
    if (out->error_code != KERR_NONE) {
        out->error_message = names_keep(rq, m.text);
    }
    return out->error_code == KERR_NONE || out->error_message.data != NULL;
}

static bool grow_all(struct request *rq, struct create_partitions_response *p)
{
    const struct create_partitions_request *q = rq->body;
    struct slice *names = arena_array(&rq->arena, (size_t)q->topics_count, sizeof *names);
    p->results =
        codec_new_array(&create_partitions_response_results_message, &rq->arena, q->topics_count);
    for (int32_t i = 0; i < q->topics_count && names != NULL; i++) {
        names[i] = kstr_slice(q->topics[i].name);
    }
    enum name_seen *seen = names != NULL ? names_seen(rq, names, q->topics_count) : NULL;
    bool ok = p->results != NULL && seen != NULL;
    for (int32_t i = 0; i < q->topics_count && ok; i++) {
        if (seen[i] == NAME_AGAIN) {
            continue;
        }
        struct create_partitions_response_results *out = &p->results[p->results_count++];
        out->name = q->topics[i].name;
        if (seen[i] == NAME_FIRST) {
            out->error_code = KERR_INVALID_REQUEST;
            out->error_message = kstr_make(DUPLICATE_NAME);
        } else {
            ok = grow_one(rq, &q->topics[i], out);
        }
    }
    return ok;
}

void api_create_partitions(struct request *rq)
{
    struct create_partitions_response p;
    codec_init(&create_partitions_response_message, &p);
    if (!grow_all(rq, &p)) {
        request_close_too_large(rq);
        return;
    }
    request_reply(rq, &p);
}

/* --- DeleteRecords --------------------------------------------------------------------------- */

/* One that keeps the newest record of each key is not, as in Kafka. */
static bool is_trimmed(const struct topic *t)
{
    return t != NULL && t->captured && t->row->cleanup != STORE_CLEANUP_COMPACT;
}

/* Of captured streams, whoever has bound them: their writer trims. */
static bool collect_trimmed(struct request *rq, struct bound_calls *calls, void *arg)
{
    const struct delete_records_request *q = rq->body;
    for (int32_t i = 0; i < q->topics_count; i++) {
        const struct topic *t = topics_find(rq->server->topics, kstr_slice(q->topics[i].name));
        for (int32_t k = 0; k < q->topics[i].partitions_count && is_trimmed(t); k++) {
            int32_t partition = q->topics[i].partitions[k].partition_index;
            int64_t offset = q->topics[i].partitions[k].offset;
            struct store_offsets o;
            if (!topic_has_partition(t, partition) ||
                store_offsets(t->store, store_topic_uid(t->row, partition), &o) != OK) {
                continue;
            }
            struct bound_call *c = bound_add_trim(calls, i, k, slice_str(t->row->name));
            if (c == NULL) {
                return true;
            }
            offset = offset == -1 ? o.end : offset;
            if (offset < o.log_start || offset > o.end) { /* as Kafka: never back */
                c->k = offset < 0 || offset > o.end ? KERR_OFFSET_OUT_OF_RANGE : KERR_NONE;
            } else {
                c->trims = true;
                c->partition = partition;
                c->offset = offset;
            }
        }
    }
    return true;
}

static int64_t log_start_of(const struct topic *t, int32_t partition)
{
    struct store_offsets o;
    return topic_has_partition(t, partition) &&
                   store_offsets(t->store, store_topic_uid(t->row, partition), &o) == OK
               ? o.log_start
               : -1;
}

static bool trim_topic(struct request *rq, int32_t index,
                       struct delete_records_response_topics *out)
{
    const struct delete_records_request *q = rq->body;
    const struct delete_records_request_topics *in = &q->topics[index];
    struct topic_admin a = admin_of(rq);
    const struct topic *t = topics_find(rq->server->topics, kstr_slice(in->name));
    struct slice *keys = arena_array(&rq->arena, (size_t)in->partitions_count, sizeof *keys);
    out->name = in->name;
    out->partitions = codec_new_array(&delete_records_response_topics_partitions_message,
                                      &rq->arena, in->partitions_count);
    for (int32_t i = 0; i < in->partitions_count && keys != NULL; i++) {
        keys[i] = slice_make(&in->partitions[i].partition_index, sizeof(int32_t));
    }
    enum name_seen *seen = keys != NULL ? names_seen(rq, keys, in->partitions_count) : NULL;
    if (out->partitions == NULL || seen == NULL) {
        return false;
    }
    for (int32_t i = 0; i < in->partitions_count; i++) {
        if (seen[i] == NAME_AGAIN) {
            continue;
        }
        struct delete_records_response_topics_partitions *p =
            &out->partitions[out->partitions_count++];
        struct errmsg m = {""}; /* there is no room for it in the answer */
        p->partition_index = in->partitions[i].partition_index;
        p->low_watermark = -1;
        p->error_code = KERR_UNKNOWN_TOPIC_OR_PARTITION;
        if (t == NULL) {
            p->error_code = (int16_t)names_missing(rq, KERR_KAFKA_STORAGE_ERROR,
                                                   KERR_UNKNOWN_TOPIC_OR_PARTITION);
        }
        const struct bound_call *bound = bound_call_of(rq, index, i);
        if (bound != NULL) {
            p->error_code = (int16_t)bound->k;
            p->low_watermark = bound->k == KERR_NONE ? log_start_of(t, p->partition_index) : -1;
        } else if (topic_has_partition(t, p->partition_index) && is_trimmed(t)) {
            p->error_code = KERR_POLICY_VIOLATION; /* more than one request may ask for */
        } else if (topic_has_partition(t, p->partition_index)) {
            p->error_code = (int16_t)topic_trim(&a, t, p->partition_index, in->partitions[i].offset,
                                                &p->low_watermark, &m);
        }
    }
    return true;
}

void api_delete_records(struct request *rq)
{
    const struct delete_records_request *q = rq->body;
    struct delete_records_response p;
    if (bound_first(rq, q->timeout_ms, collect_trimmed, NULL)) {
        return;
    }
    codec_init(&delete_records_response_message, &p);
    p.topics =
        codec_new_array(&delete_records_response_topics_message, &rq->arena, q->topics_count);
    bool ok = p.topics != NULL;
    p.topics_count = ok ? q->topics_count : 0;
    for (int32_t i = 0; i < p.topics_count && ok; i++) {
        ok = trim_topic(rq, i, &p.topics[i]);
    }
    if (!ok) {
        request_close_too_large(rq);
        return;
    }
    request_reply(rq, &p);
}
