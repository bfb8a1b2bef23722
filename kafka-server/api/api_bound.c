/* The state of a request lives on its own, because the request may go with its connection while the
 * thread is asking: then what was asked is done all the same, as with any broker that a client has
 * left. */
#include "kafka-server/api/api_bound.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "kafka-server/broker/workers.h"
#include "kafka-server/server.h"
#include "shared/base/clock.h"
#include "shared/control/control.h"

#define SEEN_MS    5000 /* the follower sees a new stream sooner, or not at all */
#define CHANGED_MS 500  /* a change may change nothing: then there is nothing to see */
#define LOOK_MS    100
#define CALLS_MAX  (1 << 20)

struct bound_calls {
    struct work work;
    struct request *rq; /* NULL: its connection is gone */
    struct server *server;
    struct bound_call *list;
    int32_t count, cap;
    bool no_memory;
};

struct bound_call *bound_add(struct bound_calls *calls, int32_t index, int32_t sub,
                             struct slice name)
{
    if (calls->count == calls->cap) {
        int32_t cap = calls->cap != 0 ? calls->cap * 2 : 16;
        struct bound_call *list =
            cap <= CALLS_MAX ? realloc(calls->list, (size_t)cap * sizeof *list) : NULL;
        if (list == NULL) {
            calls->no_memory = true;
            return NULL;
        }
        calls->list = list;
        calls->cap = cap;
    }
    struct bound_call *c = &calls->list[calls->count++];
    *c = (struct bound_call){.index = index, .sub = sub, .goal = BOUND_NOTHING};
    snprintf(c->name, sizeof c->name, "%.*s", (int)name.len, (const char *)name.data);
    return c;
}

void bound_refuse(struct bound_call *c, enum kerr k, const char *sentence)
{
    c->k = k;
    err_set(&c->m, ERR_INVALID, "%s", sentence);
}

static void calls_free(void *arg)
{
    struct bound_calls *calls = arg;
    for (int32_t i = 0; i < calls->count; i++) {
        json_decref(calls->list[i].command);
    }
    free(calls->list);
    free(calls);
}

/* --- asking, on a thread ---------------------------------------------------------------------- */

static enum kerr kerr_of(enum err e)
{
    switch (e) {
    case OK:
        return KERR_NONE;
    case ERR_AGAIN: /* one that clients try again after: the broker may be up then */
        return KERR_REQUEST_TIMED_OUT;
    case ERR_INVALID:
    case ERR_CORRUPT:
        return KERR_INVALID_CONFIG;
    case ERR_EXISTS:
        return KERR_TOPIC_ALREADY_EXISTS;
    case ERR_NOT_FOUND:
        return KERR_UNKNOWN_TOPIC_OR_PARTITION;
    case ERR_LOCKED:
    case ERR_TOO_LARGE: /* more than can be kept of all streams */
        return KERR_POLICY_VIOLATION;
    case ERR_RANGE:
        return KERR_OFFSET_OUT_OF_RANGE;
    default:
        return KERR_KAFKA_STORAGE_ERROR;
    }
}

static bool is_visible(struct store *s, const struct bound_call *c, uint64_t version)
{
    const struct store_catalog *k = store_catalog_ref(s);
    bool found = store_catalog_find(k, slice_str(c->name)) != NULL;
    bool seen = c->goal == BOUND_APPEARS ? found
                : c->goal == BOUND_GONE  ? !found
                                         : k->version != version;
    store_catalog_unref(s, k);
    return seen;
}

static void wait_visible(struct store *s, const struct bound_call *c, uint64_t version,
                         const _Atomic bool *stop)
{
    int64_t end = clock_mono_ms() + (c->goal == BOUND_CHANGES ? CHANGED_MS : SEEN_MS);
    while (c->goal != BOUND_NOTHING && clock_mono_ms() < end && !atomic_load(stop)) {
        uint32_t sequence = store_sequence(s);
        if (is_visible(s, c, version)) {
            return;
        }
        store_wait(s, sequence, LOOK_MS);
    }
}

static void run_calls(struct work *w)
{
    struct bound_calls *calls = (struct bound_calls *)w; /* its first member */
    struct store *s = calls->server->captured;
    for (int32_t i = 0; i < calls->count; i++) {
        struct bound_call *c = &calls->list[i];
        if (c->command == NULL) {
            continue;
        }
        const struct store_catalog *k = store_catalog_ref(s);
        uint64_t version = k->version;
        store_catalog_unref(s, k);
        const _Atomic bool *stop = &calls->server->asking_ends;
        enum err e = control_call(calls->server->config.data, c->command, stop, NULL, &c->m);
        c->command = NULL; /* control_call has taken it */
        c->k = kerr_of(e);
        if (e == OK) {
            wait_visible(s, c, version, stop);
        }
    }
}

static void done_calls(struct work *w)
{
    struct bound_calls *calls = (struct bound_calls *)w;
    struct request *rq = calls->rq;
    if (rq != NULL) {
        rq->cancel = NULL;
    }
    if (rq == NULL || workers_closing(calls->server->asking)) {
        calls_free(calls); /* closing: the request goes with its connection */
        return;
    }
    rq->bound = calls;
    rq->release = calls_free;
    rq->release_arg = calls;
    topics_refresh(rq->server->topics);
    rq->api->handler(rq);
}

static void cancel_calls(struct request *rq)
{
    struct bound_calls *calls = rq->parked;
    calls->rq = NULL;
}

static bool has_command(const struct bound_calls *calls)
{
    for (int32_t i = 0; i < calls->count; i++) {
        if (calls->list[i].command != NULL) {
            return true;
        }
    }
    return false;
}

bool bound_first(struct request *rq, bound_collect_fn *collect, void *arg)
{
    if (rq->bound != NULL) {
        return false;
    }
    struct bound_calls *calls = calloc(1, sizeof *calls);
    if (calls == NULL || !collect(rq, calls, arg) || calls->no_memory) {
        if (calls != NULL) {
            calls_free(calls);
        }
        request_close(rq, "no memory for its request");
        return true;
    }
    if (calls->count == 0) {
        free(calls->list);
        free(calls);
        return false;
    }
    calls->rq = rq;
    calls->server = rq->server;
    calls->work = (struct work){.run = run_calls, .done = done_calls};
    for (int32_t i = 0; i < calls->count && rq->server->captured == NULL; i++) {
        struct bound_call *c = &calls->list[i];
        json_decref(c->command);
        c->command = NULL;
        bound_refuse(c, KERR_REQUEST_TIMED_OUT,
                     "The broker has not captured anything yet, or is starting: try again.");
    }
    if (!has_command(calls)) {
        rq->bound = calls;
        rq->release = calls_free;
        rq->release_arg = calls;
        return false;
    }
    rq->parked = calls;
    rq->cancel = cancel_calls;
    if (workers_submit(rq->server->asking, &calls->work) != OK) {
        rq->cancel = NULL;
        calls_free(calls);
        request_close(rq, "too many requests wait for the broker");
    }
    return true;
}

const struct bound_call *bound_call_of(const struct request *rq, int32_t index, int32_t sub)
{
    const struct bound_calls *calls = rq->bound;
    for (int32_t i = 0; calls != NULL && i < calls->count; i++) {
        if (calls->list[i].index == index && calls->list[i].sub == sub) {
            return &calls->list[i];
        }
    }
    return NULL;
}

const struct bound_call *bound_call_for(const struct request *rq, struct slice name,
                                        const struct uuid *id)
{
    const struct bound_calls *calls = rq->bound;
    for (int32_t i = 0; calls != NULL && i < calls->count; i++) {
        const struct bound_call *c = &calls->list[i];
        if (name.len > 0 ? slice_eq(name, slice_str(c->name))
                         : memcmp(id->b, c->id.b, sizeof id->b) == 0) {
            return c;
        }
    }
    return NULL;
}

/* --- what binds a stream ---------------------------------------------------------------------- */

bool bound_by_client(const struct topic *t)
{
    json_t *all = t->captured ? json_loads(t->row->attributes, 0, NULL) : NULL;
    const char *by = json_string_value(json_object_get(all, "mqtt.bound.by"));
    bool client = by != NULL && strcmp(by, "kafka") == 0;
    json_decref(all);
    return client;
}

static void put_number(json_t *configs, const char *name, int64_t value)
{
    char text[32];
    snprintf(text, sizeof text, "%" PRId64, value);
    json_object_set_new(configs, name, json_string(text));
}

json_t *bound_configs(const struct store_topic *row)
{
    json_t *all = json_loads(row->attributes, 0, NULL);
    json_t *configs = json_object();
    const char *name;
    json_t *value;
    json_object_foreach(all, name, value)
    {
        if (json_is_string(value) && strcmp(name, "mqtt.bound.by") != 0) {
            json_object_set(configs, name, value);
        } else if (json_is_array(value)) {
            char *text = json_dumps(value, JSON_COMPACT);
            json_object_set_new(configs, name, json_string(text != NULL ? text : "[]"));
            free(text);
        }
    }
    json_decref(all);
    put_number(configs, "retention.ms", row->retention_ms);
    put_number(configs, "retention.bytes", row->retention_bytes);
    json_object_set_new(configs, "cleanup.policy",
                        json_string(row->cleanup & STORE_CLEANUP_COMPACT ? "compact" : "delete"));
    return configs;
}
