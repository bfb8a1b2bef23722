/* The state of a request lives on its own, because the request may go with its connection while the
 * thread is asking: then the message that is on its way is answered all the same, and no other
 * follows. What waits counts as the memory of requests does; of a request that has gone nothing
 * waits any more. */
#include "kafka-server/api/api_bound.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kafka-server/broker/topics.h"
#include "kafka-server/broker/bound_names.h"
#include "kafka-server/broker/workers.h"
#include "kafka-server/net/net.h"
#include "kafka-server/server.h"
#include "shared/base/clock.h"
#include "shared/control/control.h"

#define SEEN_MS         5000 /* the follower sees a change sooner, or not at all */
#define LOOK_MS         100
#define CALLS_MAX       10000  /* with commands */
#define TRIMS_MAX       100000
#define COMMAND_BYTES   1024   /* of one as JSON in memory, beside its text twice */
#define NAME_BYTES      48     /* of a name or a sentence, mostly */
#define MESSAGE_BYTES   (CONTROL_BYTES_MAX / 4 * 3) /* of commands, if one alone is not more */
#define NO_MEMORY       "no memory to ask the broker"
#define PATIENCE_MS_MIN 30000 /* many clients say 0, and mean that they do not know */

enum claim { CLAIM_NONE, CLAIM_THREAD, CLAIM_LEFT };

struct bound_calls {
    struct work work;
    struct request *rq; /* NULL: its connection is gone … */
    _Atomic bool left;  /* … and nothing more is asked for it */
    _Atomic int claim;  /* enum claim: whose the list is */
    struct server *server;
    size_t bytes; /* taken of net's memory */
    int64_t deadline_ms;
    struct bound_call *list; /* by index and sub */
    int32_t count, cap;
    struct bound_call **by_name, **by_id; /* with the answers */
    bool no_memory, too_many;
};

static struct bound_call *add(struct bound_calls *calls, int32_t index, int32_t sub,
                              struct slice name)
{
    if (calls->count == calls->cap) {
        int32_t cap = calls->cap != 0 ? calls->cap * 2 : 16;
        struct bound_call *list = realloc(calls->list, (size_t)cap * sizeof *list);
        if (list == NULL) {
            calls->no_memory = true;
            return NULL;
        }
        calls->list = list;
        calls->cap = cap;
    }
    size_t len = name.len < STORE_NAME_BYTES_MAX ? name.len : STORE_NAME_BYTES_MAX;
    char *copy = strndup(len > 0 ? (const char *)name.data : "", len);
    if (copy == NULL) {
        calls->no_memory = true;
        return NULL;
    }
    struct bound_call *c = &calls->list[calls->count++];
    *c = (struct bound_call){.index = index, .sub = sub, .name = copy};
    return c;
}

struct bound_call *bound_add(struct bound_calls *calls, int32_t index, int32_t sub,
                             struct slice name)
{
    if (calls->count == CALLS_MAX) {
        calls->too_many = true;
        return NULL;
    }
    return add(calls, index, sub, name);
}

struct bound_call *bound_add_trim(struct bound_calls *calls, int32_t index, int32_t sub,
                                  struct slice name)
{
    return calls->count < TRIMS_MAX ? add(calls, index, sub, name) : NULL;
}

static bool asks(const struct bound_call *c)
{
    return c->command != NULL || c->trims;
}

/* Its sentence is kept where there is memory for it. */
static void settle(struct bound_call *c, enum kerr k, const char *sentence)
{
    json_decref(c->command);
    c->command = NULL;
    c->trims = false;
    c->k = k;
    free(c->why);
    c->why = k != KERR_NONE ? strdup(sentence) : NULL;
}

void bound_refuse(struct bound_call *c, enum kerr k, const char *sentence)
{
    settle(c, k, sentence);
}

const char *bound_why(const struct bound_call *c)
{
    return c->why != NULL ? c->why : "";
}

static bool is_new_stream(const json_t *command)
{
    const char *what = json_string_value(json_object_get(command, "command"));
    return strcmp(what != NULL ? what : "", "bind") == 0 &&
           !json_is_true(json_object_get(command, "validate"));
}

/* Until they are answered or forgotten, which may be long after their request. Nobody makes a
 * stream of the same name meanwhile, which the bound one would hide. */
static void take_all(struct bound_calls *calls)
{
    struct bound_names *names = calls->server->bound_names;
    size_t each = sizeof *calls->by_name + sizeof *calls->by_id + NAME_BYTES;
    calls->bytes = (size_t)calls->cap * sizeof *calls->list + (size_t)calls->count * each;
    for (int32_t i = 0; i < calls->count; i++) {
        struct bound_call *c = &calls->list[i];
        if (c->command != NULL) {
            calls->bytes += COMMAND_BYTES + 2 * json_dumpb(c->command, NULL, 0, JSON_COMPACT);
            c->taken = is_new_stream(c->command) && bound_names_take(names, c->name) == OK;
        }
    }
    net_memory_take(calls->server->net, calls->bytes);
}

static void give_names(struct bound_calls *calls)
{
    for (int32_t i = 0; i < calls->count; i++) {
        if (calls->list[i].taken) {
            calls->list[i].taken = false;
            bound_names_give(calls->server->bound_names, calls->list[i].name);
        }
    }
}

/* All but themselves. */
static void drop_list(struct bound_calls *calls)
{
    give_names(calls);
    for (int32_t i = 0; i < calls->count; i++) {
        json_decref(calls->list[i].command);
        free(calls->list[i].why);
        free(calls->list[i].name);
    }
    free(calls->by_name);
    free(calls->by_id);
    free(calls->list);
    calls->by_name = calls->by_id = NULL;
    calls->list = NULL;
    calls->count = 0;
    if (calls->bytes > 0) {
        net_memory_give(calls->server->net, calls->bytes);
        calls->bytes = 0;
    }
}

static void calls_free(void *arg)
{
    drop_list(arg);
    free(arg);
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

/* Until the server's own view of the streams is as new as the writer's was. */
static void wait_visible(struct store *s, uint64_t version, const _Atomic bool *stop)
{
    int64_t end = clock_mono_ms() + SEEN_MS;
    while (clock_mono_ms() < end && !atomic_load(stop)) {
        uint32_t sequence = store_sequence(s);
        const struct store_catalog *k = store_catalog_ref(s);
        bool seen = k->version >= version;
        store_catalog_unref(s, k);
        if (seen) {
            return;
        }
        store_wait(s, sequence, LOOK_MS);
    }
}

/* NULL: no memory. */
static json_t *command_of(const struct bound_call *c)
{
    return c->trims ? json_pack("{s:s, s:s, s:i, s:I}", "command", "trim", "name", c->name,
                                "partition", c->partition, "offset", (json_int_t)c->offset)
                    : json_incref(c->command);
}

static void take_answer(struct bound_call *c, enum err e, const char *why)
{
    settle(c, kerr_of(e), why != NULL ? why : err_name(e));
}

/* The commands from *from on that go into one message, which is returned; NULL: there are none, or
 * no memory. *to is behind the last of them. The writer answers in their order, so each that is
 * asked from *from to *to is in the message: where there is no memory for one it ends before that,
 * or, if it would be the first, that one is answered here. */
static json_t *next_message(struct bound_calls *calls, int32_t from, int32_t *to)
{
    json_t *list = json_array();
    size_t bytes = 0;
    int32_t i = from;
    for (; i < calls->count && json_array_size(list) < CONTROL_COMMANDS_MAX; i++) {
        if (!asks(&calls->list[i])) {
            continue;
        }
        json_t *command = command_of(&calls->list[i]);
        size_t more = json_dumpb(command, NULL, 0, JSON_COMPACT); /* 0: no memory */
        if (more == 0 || (bytes > 0 && more > MESSAGE_BYTES - bytes)) {
            json_decref(command);
            command = NULL; /* which no list takes */
        }
        if (json_array_append_new(list, command) != 0) {
            if (bytes > 0) {
                break;
            }
            take_answer(&calls->list[i], ERR_AGAIN, NO_MEMORY);
            continue;
        }
        bytes += more < MESSAGE_BYTES - bytes ? more : MESSAGE_BYTES - bytes;
    }
    *to = i;
    json_t *message = bytes > 0 ? json_pack("{s:O}", "commands", list) : NULL;
    json_decref(list);
    return message;
}

static size_t count_asking(const struct bound_calls *calls, int32_t from, int32_t to)
{
    size_t n = 0;
    for (int32_t i = from; i < to; i++) {
        n += asks(&calls->list[i]);
    }
    return n;
}

/* What was answered to the calls from `from` to `to`, in their order; e where nothing was. Returns
 * whether there is any use in asking for more. */
static bool take_answers(struct bound_calls *calls, int32_t from, int32_t to, enum err e,
                         const json_t *answer, struct errmsg *m)
{
    const json_t *results = json_object_get(answer, "results");
    size_t n = 0;
    if (e == OK && json_array_size(results) != count_asking(calls, from, to)) {
        e = err_set(m, ERR_AGAIN, "the broker has not answered as many commands as it was asked");
    }
    bool more = e != ERR_AGAIN;
    for (int32_t i = from; i < to; i++) {
        struct bound_call *c = &calls->list[i];
        if (!asks(c)) {
            continue;
        }
        const json_t *result = e == OK ? json_array_get(results, n++) : NULL;
        const char *why = json_string_value(json_object_get(result, "message"));
        enum err one = result != NULL ? control_error(result) : e;
        more = more && one != ERR_AGAIN;
        take_answer(c, one, result != NULL ? why : m->text);
    }
    return more;
}

/* A writer that does not answer is not asked again for the rest, nor is one whose client has left,
 * or waits no longer: others wait for their turn. */
static void run_calls(struct work *w)
{
    struct bound_calls *calls = (struct bound_calls *)w; /* its first member */
    const _Atomic bool *stop = &calls->server->asking_ends;
    int claim = CLAIM_NONE;
    if (!atomic_compare_exchange_strong(&calls->claim, &claim, CLAIM_THREAD)) {
        return;
    }
    struct errmsg m;
    bool more = true;
    err_set(&m, ERR_AGAIN, NO_MEMORY); /* what is left without a message */
    for (int32_t from = 0, to; from < calls->count && more; from = to) {
        json_t *answer = NULL, *message = next_message(calls, from, &to);
        if (message == NULL) {
            continue;
        }
        if (atomic_load(&calls->left) || clock_mono_ms() > calls->deadline_ms) {
            json_decref(message);
            err_set(&m, ERR_AGAIN, "the request took too long: this was not asked of the broker");
            break;
        }
        enum err e = control_call(calls->server->config.data, message, stop, &answer, &m);
        more = take_answers(calls, from, to, e, answer, &m);
        json_int_t version = json_integer_value(json_object_get(answer, "version"));
        if (e == OK && version > 0) {
            wait_visible(calls->server->captured, (uint64_t)version, stop);
        }
        json_decref(answer);
        err_set(&m, ERR_AGAIN, more ? NO_MEMORY : "not asked of the broker, which does not answer");
    }
    for (int32_t i = 0; i < calls->count; i++) {
        if (asks(&calls->list[i])) {
            take_answer(&calls->list[i], ERR_AGAIN, m.text);
        }
    }
}

static int compare_name(const void *a, const void *b)
{
    return strcmp((*(struct bound_call *const *)a)->name, (*(struct bound_call *const *)b)->name);
}

static int compare_id(const void *a, const void *b)
{
    return memcmp((*(struct bound_call *const *)a)->id.b, (*(struct bound_call *const *)b)->id.b,
                  sizeof(struct uuid));
}

/* The request has its answers from now on. False: no memory. */
static bool give_answers(struct request *rq, struct bound_calls *calls)
{
    rq->bound = calls;
    rq->release = calls_free;
    rq->release_arg = calls;
    calls->by_name = calloc((size_t)calls->count, sizeof *calls->by_name);
    calls->by_id = calloc((size_t)calls->count, sizeof *calls->by_id);
    if (calls->by_name == NULL || calls->by_id == NULL) {
        return false;
    }
    for (int32_t i = 0; i < calls->count; i++) {
        calls->by_name[i] = calls->by_id[i] = &calls->list[i];
    }
    qsort(calls->by_name, (size_t)calls->count, sizeof *calls->by_name, compare_name);
    qsort(calls->by_id, (size_t)calls->count, sizeof *calls->by_id, compare_id);
    return true;
}

static void done_calls(struct work *w)
{
    struct bound_calls *calls = (struct bound_calls *)w;
    struct request *rq = calls->rq;
    if (rq != NULL) {
        rq->cancel = NULL;
    }
    give_names(calls);
    if (rq == NULL || workers_closing(calls->server->asking)) {
        calls_free(calls); /* closing: the request goes with its connection */
        return;
    }
    topics_refresh(rq->server->topics);
    if (!give_answers(rq, calls)) {
        request_close(rq, "no memory for its answers");
        return;
    }
    rq->api->handler(rq);
}

static void cancel_calls(struct request *rq)
{
    struct bound_calls *calls = rq->parked;
    int claim = CLAIM_NONE;
    calls->rq = NULL;
    atomic_store(&calls->left, true);
    if (atomic_compare_exchange_strong(&calls->claim, &claim, CLAIM_LEFT)) {
        drop_list(calls); /* the thread may come to it only after many others */
    }
}

static bool has_command(const struct bound_calls *calls)
{
    for (int32_t i = 0; i < calls->count; i++) {
        if (asks(&calls->list[i])) {
            return true;
        }
    }
    return false;
}

/* There is no store of the writer's yet. */
static void refuse_all(struct bound_calls *calls)
{
    for (int32_t i = 0; i < calls->count; i++) {
        struct bound_call *c = &calls->list[i];
        bound_refuse(c, KERR_REQUEST_TIMED_OUT,
                     "The broker has not captured anything yet, or is starting: try again.");
    }
}

bool bound_first(struct request *rq, int32_t timeout_ms, bound_collect_fn *collect, void *arg)
{
    if (rq->bound != NULL) {
        return false;
    }
    struct bound_calls *calls = calloc(1, sizeof *calls);
    if (calls != NULL) {
        calls->server = rq->server;
    }
    if (calls == NULL || !collect(rq, calls, arg) || calls->no_memory || calls->too_many) {
        bool many = calls != NULL && calls->too_many;
        if (calls != NULL) {
            calls_free(calls);
        }
        request_close(rq, many ? "changes too many captured streams at once"
                               : "no memory for its request");
        return true;
    }
    if (calls->count == 0) {
        calls_free(calls);
        return false;
    }
    take_all(calls);
    calls->rq = rq;
    calls->deadline_ms =
        clock_mono_ms() + (timeout_ms > PATIENCE_MS_MIN ? timeout_ms : PATIENCE_MS_MIN);
    calls->work = (struct work){.run = run_calls, .done = done_calls};
    if (rq->server->captured == NULL) {
        refuse_all(calls);
    }
    if (!has_command(calls)) {
        if (give_answers(rq, calls)) {
            return false;
        }
        request_close(rq, "no memory for its answers");
        return true;
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

static int compare_part(const void *a, const void *b)
{
    const struct bound_call *x = a, *y = b;
    return x->index != y->index ? (x->index > y->index ? 1 : -1)
                                : (x->sub > y->sub) - (x->sub < y->sub);
}

const struct bound_call *bound_call_of(const struct request *rq, int32_t index, int32_t sub)
{
    const struct bound_calls *calls = rq->bound;
    const struct bound_call key = {.index = index, .sub = sub};
    return calls == NULL ? NULL
                         : bsearch(&key, calls->list, (size_t)calls->count, sizeof key,
                                   compare_part);
}

const struct bound_call *bound_call_for(const struct request *rq, struct slice name,
                                        const struct uuid *id)
{
    const struct bound_calls *calls = rq->bound;
    char text[STORE_NAME_BYTES_MAX + 1];
    struct bound_call key = {.name = text}, *k = &key;
    if (calls == NULL || name.len > STORE_NAME_BYTES_MAX || (name.len == 0 && id == NULL)) {
        return NULL;
    }
    snprintf(text, sizeof text, "%.*s", (int)name.len, (const char *)name.data);
    if (name.len == 0) {
        key.id = *id;
    }
    struct bound_call **found =
        name.len > 0 ? bsearch(&k, calls->by_name, (size_t)calls->count, sizeof k, compare_name)
                     : bsearch(&k, calls->by_id, (size_t)calls->count, sizeof k, compare_id);
    return found != NULL ? *found : NULL;
}

/* --- what binds a stream ---------------------------------------------------------------------- */

bool bound_by_client(const struct request *rq, const struct topic *t)
{
    const struct server *server = rq->server;
    return t->captured && topics_settings(server->topics, t, &server->config)->bound_by_client;
}
