/* Commands that change what is captured while the broker runs: see shared/control for what they
 * say.
 *
 *   a client ─▶ thread ── WANTED ─▶ writer's thread ─┬─ trim, or a mistake ────────▶ DONE
 *                 ▲                                  └─ streams.json ─▶ ASKED
 *                 │                                       │ the broker has read it, its
 *                 │                                       │ configuration is in the store ▶ DONE
 *                 └──────────── answer ◀── DONE ◀─────────┘ it has not: the file is as
 *                                                           it was                  ▶ DONE
 *
 * The file is written before the broker is asked, because the broker reads files: culex.json and
 * this one, whole, with one set of checks. A writer that is killed in between has answered nothing;
 * what it wrote holds from the next reload or start on, and the client asks again.
 *
 * One command at a time, and only between ticks: a topic is deleted when no batch of it is on its
 * way. A broker that does not come round (2.0.11 with per_listener_settings has no tick, and comes
 * round at the next publish) lets a command run out of time: then the file is as it was, too. */
#include "plugins/writer/writer.h"

#include "shared/base/clock.h"
#include "shared/control/control.h"

#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define CONFIG_PREFIX  "mqtt."
#define FILTER_CONFIG  CONFIG_PREFIX "filter"
#define COMMAND_MS     (CONTROL_COMMAND_MS - 1000)
#define STOPS          "the broker stops"
#define ACCEPT_PAUSE_US 100000

enum command_state { COMMAND_NONE, COMMAND_WANTED, COMMAND_ASKED, COMMAND_DONE };

struct control {
    int socket;
    ino_t inode; /* of its name in the data directory … */
    dev_t device;
    pthread_t thread;
    pthread_mutex_t lock; /* of stop, state and of how the reload went */
    pthread_cond_t done;
    bool stop;
    enum command_state state;
    uint32_t asked; /* number of the newest reload; the broker's answer has it, too */
    bool reloaded;
    enum err reload_result;
    char reload_text[sizeof(((struct errmsg *)0)->text)];
    /* The command's own: the thread's while NONE and DONE, the writer's in between. */
    const json_t *command;
    int64_t deadline_ms;
    enum err result;
    struct errmsg why;
    int32_t partitions; /* bind: of the stream */
};

static const char *text_of(const struct control *k, const char *name)
{
    const char *text = json_string_value(json_object_get(k->command, name));
    return text ? text : "";
}

static bool is_command(const struct control *k, const char *name)
{
    return strcmp(text_of(k, "command"), name) == 0;
}

static void finish(struct control *k, enum err e)
{
    pthread_mutex_lock(&k->lock);
    k->result = e;
    k->state = COMMAND_DONE;
    pthread_cond_signal(&k->done);
    pthread_mutex_unlock(&k->lock);
}

/* --- the stream that a client describes ------------------------------------------------------- */

/* One filter, or several: a JSON array, or separated by commas, as Kafka's lists are. */
static enum err add_filters(struct config_stream *s, const char *value, struct errmsg *m)
{
    json_t *list = *value == '[' ? json_loads(value, 0, NULL) : NULL;
    enum err e = OK;
    if (*value == '[') {
        size_t i;
        json_t *one;
        if (!list) {
            return err_set(m, ERR_INVALID, "is not a JSON array of filters, like [\"a/#\"]");
        }
        json_array_foreach(list, i, one) {
            e = e ? e : json_is_string(one)
                            ? config_stream_add_filter(s, json_string_value(one), m)
                            : err_set(m, ERR_INVALID, "has an element that is not a string");
        }
        json_decref(list);
        return e;
    }
    char *copy = strdup(value), *rest = copy;
    for (char *one; copy && !e && (one = strsep(&rest, ",")) != NULL;) {
        e = config_stream_add_filter(s, one, m);
    }
    free(copy);
    return copy ? e : err_set(m, ERR_NOMEM, "no memory");
}

static enum err set_config(struct config_stream *s, const char *name, const char *value,
                           struct errmsg *m)
{
    static const char *const plain[] = {"retention.ms", "retention.bytes", "cleanup.policy"};
    size_t skip = sizeof CONFIG_PREFIX - 1;
    struct errmsg why;
    enum err e = ERR_NOT_FOUND;
    if (strcmp(name, FILTER_CONFIG) == 0) {
        e = add_filters(s, value, &why);
    } else if (strncmp(name, CONFIG_PREFIX, skip) == 0 && strcmp(name + skip, "name") != 0 &&
               strcmp(name + skip, "partitions") != 0) {
        e = config_stream_set(s, name + skip, value, &why);
    }
    for (size_t i = 0; i < sizeof plain / sizeof plain[0] && e == ERR_NOT_FOUND; i++) {
        e = strcmp(plain[i], name) == 0 ? config_stream_set(s, name, value, &why) : e;
    }
    if (e == ERR_NOT_FOUND) {
        return err_set(m, ERR_INVALID, "%s is no setting of a stream that is bound to MQTT", name);
    }
    return e ? err_set(m, e, "%s: %.400s", name, why.text) : OK;
}

/* The stream of a bind command, checked. On failure there is nothing to free. */
static enum err describe(const struct control *k, struct config_stream *s, struct errmsg *m)
{
    enum err e = config_stream_init(s);
    if (e) {
        return err_set(m, e, "no memory");
    }
    s->bound = true;
    struct errmsg why;
    e = config_stream_set(s, "name", text_of(k, "name"), &why);
    e = e ? err_set(m, e, "name: %.400s", why.text) : OK;
    json_int_t partitions = json_integer_value(json_object_get(k->command, "partitions"));
    if (!e && partitions != 0) {
        char text[32];
        snprintf(text, sizeof text, "%lld", (long long)partitions);
        e = config_stream_set(s, "partitions", text, &why);
        e = e ? err_set(m, e, "partitions: %.400s", why.text) : OK;
    }
    const char *name;
    json_t *value;
    json_object_foreach(json_object_get(k->command, "configs"), name, value) {
        if (!e) {
            e = json_is_string(value) ? set_config(s, name, json_string_value(value), m)
                                      : err_set(m, ERR_INVALID, "%s: not a string", name);
        }
    }
    if (!e && s->filter_count == 0) {
        e = err_set(m, ERR_INVALID, FILTER_CONFIG ": is missing; a stream needs a filter");
    }
    if (!e && s->compact && s->key == KEY_NONE) {
        e = err_set(m, ERR_INVALID, CONFIG_PREFIX "key: " CONFIG_COMPACT_NEEDS_KEY);
    }
    config_stream_shrink(s);
    if (e) {
        config_stream_fini(s);
    }
    return e;
}

/* --- streams.json ----------------------------------------------------------------------------- */

static size_t find_stream(const struct config *c, const char *name)
{
    size_t i = 0;
    while (i < c->stream_count && strcmp(c->streams[i].name, name) != 0) {
        i++;
    }
    return i;
}

/* May this be done to the stream of that name? */
static enum err check_bound(const struct writer *w, const char *name, bool must_be,
                            struct errmsg *m)
{
    const struct config *c = &w->now->config;
    size_t at = find_stream(c, name);
    if (at < c->stream_count && !c->streams[at].bound) {
        return err_set(m, ERR_LOCKED, "stream %.249s stands in %.200s: it is changed there", name,
                       c->path ? c->path : "mosquitto.conf");
    }
    if (must_be && at == c->stream_count) {
        return err_set(m, ERR_NOT_FOUND, "no stream %.249s is bound to MQTT", name);
    }
    if (!must_be && at < c->stream_count) {
        return err_set(m, ERR_EXISTS, "stream %.249s exists", name);
    }
    return OK;
}

/* Writes the streams that are bound now, with `instead` (NULL: nothing) in place of the one of that
 * name. */
static enum err write_with(const struct writer *w, const char *name,
                           const struct config_stream *instead, struct errmsg *m)
{
    const struct config *c = &w->now->config;
    struct config_stream *all = calloc(c->stream_count + 1, sizeof *all);
    size_t n = 0;
    if (!all) {
        return err_set(m, ERR_NOMEM, "no memory for the streams");
    }
    for (size_t i = 0; i < c->stream_count; i++) {
        if (strcmp(c->streams[i].name, name) != 0) {
            all[n++] = c->streams[i]; /* borrowed */
        }
    }
    if (instead) {
        all[n++] = *instead;
    }
    enum err e = config_write_bound(w->data, all, n, m);
    free(all);
    return e;
}

/* The file as the configuration that holds has it. */
static void write_back(const struct writer *w)
{
    const struct config *c = &w->now->config;
    struct errmsg m;
    if (config_write_bound(w->data, c->streams, c->stream_count, &m)) {
        log_error("streams bound by Kafka clients: the file has what was refused: %s", m.text);
    }
}

static void ask_broker(struct writer *w)
{
    struct control *k = w->control;
    pthread_mutex_lock(&k->lock);
    k->reloaded = false;
    k->state = COMMAND_ASKED;
    uint32_t number = k->asked = (k->asked + 1) & LINK_RELOAD_MAX;
    pthread_mutex_unlock(&k->lock);
    if (link_send(w->socket, LINK_RELOAD, number, "", -1)) {
        write_back(w);
        err_set(&k->why, ERR_AGAIN, "the broker does not listen");
        finish(k, ERR_AGAIN);
        return;
    }
    link_due(w->link, DUE_MESSAGES);
}

/* --- the commands ----------------------------------------------------------------------------- */

static void bind_stream(struct writer *w)
{
    struct control *k = w->control;
    struct config_stream s;
    bool replace = json_is_true(json_object_get(k->command, "replace"));
    bool validate = json_is_true(json_object_get(k->command, "validate"));
    enum err e = describe(k, &s, &k->why);
    if (e) {
        finish(k, e);
        return;
    }
    e = check_bound(w, s.name, replace, &k->why);
    const struct store_catalog *catalog = store_catalog_ref(w->store);
    const struct store_topic *t = catalog ? store_catalog_find(catalog, slice_str(s.name)) : NULL;
    if (!e && t && t->partition_count != s.partitions) {
        if (json_integer_value(json_object_get(k->command, "partitions")) == 0) {
            s.partitions = t->partition_count;
        } else {
            e = err_set(&k->why, ERR_EXISTS, "the log has a stream %s with %d partitions", s.name,
                        t->partition_count);
        }
    }
    store_catalog_unref(w->store, catalog);
    k->partitions = s.partitions;
    if (!e && !validate) {
        e = write_with(w, s.name, &s, &k->why);
    }
    config_stream_fini(&s);
    if (e || validate) {
        finish(k, e);
    } else {
        ask_broker(w);
    }
}

/* Of a stream that is not configured any more. */
static enum err delete_topic(struct writer *w, const char *name)
{
    enum err e = store_topic_delete(w->store, slice_str(name), &w->control->why);
    if (!e) {
        streams_forget(w, name);
        log_info("stream unbound and deleted stream=%s", name);
    }
    return e;
}

static void unbind_stream(struct writer *w)
{
    struct control *k = w->control;
    const char *name = text_of(k, "name");
    enum err e = check_bound(w, name, true, &k->why);
    if (e == ERR_NOT_FOUND) { /* a command before this one was killed half way, or refused */
        finish(k, delete_topic(w, name));
        return;
    }
    e = e ? e : write_with(w, name, NULL, &k->why);
    if (e) {
        finish(k, e);
    } else {
        ask_broker(w);
    }
}

static void trim_stream(struct writer *w)
{
    struct control *k = w->control;
    json_int_t partition = json_integer_value(json_object_get(k->command, "partition"));
    json_int_t offset = json_integer_value(json_object_get(k->command, "offset"));
    const struct store_catalog *catalog = store_catalog_ref(w->store);
    const struct store_topic *t =
        catalog ? store_catalog_find(catalog, slice_str(text_of(k, "name"))) : NULL;
    enum err e = ERR_NOT_FOUND;
    err_set(&k->why, e, "no such partition");
    if (t && partition >= 0 && partition < t->partition_count) {
        e = store_trim(w->store, store_topic_uid(t, (int32_t)partition), offset, &k->why);
    }
    store_catalog_unref(w->store, catalog);
    finish(k, e);
}

static void begin(struct writer *w)
{
    static const struct {
        const char *name;
        void (*fn)(struct writer *w);
    } commands[] = {{"bind", bind_stream}, {"unbind", unbind_stream}, {"trim", trim_stream}};
    struct control *k = w->control;
    k->why.text[0] = '\0';
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        if (is_command(k, commands[i].name)) {
            commands[i].fn(w);
            return;
        }
    }
    err_set(&k->why, ERR_INVALID, "no such command: \"%.100s\"", text_of(k, "command"));
    finish(k, ERR_INVALID);
}

/* The broker has read the files again, and the store has seen what it made of them. */
static void complete(struct writer *w)
{
    struct control *k = w->control;
    enum err e = k->reload_result;
    if (e) {
        write_back(w);
        size_t len = strcspn(k->reload_text, "\n");
        err_set(&k->why, e, "the broker refuses the configuration: %.*s", (int)len,
                k->reload_text);
        finish(k, e == ERR_INVALID || e == ERR_NOT_FOUND ? ERR_INVALID : ERR_AGAIN);
        return;
    }
    const char *name = text_of(k, "name");
    if (is_command(k, "unbind")) {
        e = delete_topic(w, name);
        e = e == ERR_NOT_FOUND ? OK : e;
    } else {
        log_info("stream bound by a Kafka client stream=%s", name);
    }
    finish(k, e);
}

void control_work(struct writer *w, bool ready)
{
    struct control *k = w->control;
    if (!k) {
        return;
    }
    pthread_mutex_lock(&k->lock);
    enum command_state state = k->state;
    bool reloaded = k->reloaded;
    pthread_mutex_unlock(&k->lock);
    if (state == COMMAND_NONE || state == COMMAND_DONE) {
        return;
    }
    if (state == COMMAND_WANTED && ready) {
        begin(w);
    } else if (state == COMMAND_WANTED) {
        err_set(&k->why, ERR_AGAIN, "the log cannot be written: %.400s", w->link->error);
        finish(k, ERR_AGAIN);
    } else if (state == COMMAND_ASKED && reloaded && ready && !orders_wait(w)) {
        complete(w); /* the configuration came before the broker's word about it */
    } else if (clock_mono_ms() > k->deadline_ms) {
        write_back(w);
        err_set(&k->why, ERR_AGAIN, ready ? "the broker does not come round to it"
                                          : "the log cannot be written");
        finish(k, ERR_AGAIN);
    }
}

bool control_waits(struct writer *w)
{
    struct control *k = w->control;
    if (!k) {
        return false;
    }
    pthread_mutex_lock(&k->lock);
    bool waits = k->state == COMMAND_WANTED || (k->state == COMMAND_ASKED && k->reloaded);
    pthread_mutex_unlock(&k->lock);
    return waits;
}

void control_reloaded(struct writer *w, uint32_t number, enum err e, const char *mistakes)
{
    struct control *k = w->control;
    if (!k) {
        return;
    }
    pthread_mutex_lock(&k->lock);
    if (number == k->asked) { /* else it is about a command that ran out of time */
        k->reloaded = true;
        k->reload_result = e;
        snprintf(k->reload_text, sizeof k->reload_text, "%s", mistakes);
    }
    pthread_mutex_unlock(&k->lock);
}

/* --- the thread ------------------------------------------------------------------------------- */

static bool stops(struct control *k)
{
    pthread_mutex_lock(&k->lock);
    bool stop = k->stop;
    pthread_mutex_unlock(&k->lock);
    return stop;
}

/* Hands the command to the writer's thread and waits. */
static void execute(struct writer *w, const json_t *command)
{
    struct control *k = w->control;
    pthread_mutex_lock(&k->lock);
    k->command = command;
    k->partitions = 0;
    k->deadline_ms = clock_mono_ms() + COMMAND_MS;
    k->state = k->stop ? COMMAND_DONE : COMMAND_WANTED;
    k->result = err_set(&k->why, ERR_AGAIN, STOPS);
    pthread_mutex_unlock(&k->lock);
    wake_up(w->link);
    pthread_mutex_lock(&k->lock);
    while (k->state != COMMAND_DONE) {
        pthread_cond_wait(&k->done, &k->lock);
    }
    k->state = COMMAND_NONE;
    k->command = NULL;
    pthread_mutex_unlock(&k->lock);
}

static void serve(struct writer *w, int connection)
{
    struct control *k = w->control;
    json_t *command;
    struct errmsg m;
    enum err e = control_receive(connection, &command, &m);
    if (e) {
        control_answer(connection, e, m.text, NULL);
        return;
    }
    execute(w, command);
    json_decref(command);
    json_t *more = k->partitions ? json_pack("{s:i}", "partitions", (int)k->partitions) : NULL;
    control_answer(connection, k->result, k->result ? k->why.text : NULL, more);
}

static void *control_main(void *arg)
{
    struct writer *w = arg;
    struct control *k = w->control;
    while (!stops(k)) {
        int connection = accept4(k->socket, NULL, NULL, SOCK_CLOEXEC);
        if (connection >= 0) {
            serve(w, connection);
            close(connection);
        } else if (errno == EINVAL) {
            break; /* shut down */
        } else if (errno != EINTR && errno != ECONNABORTED) {
            link_wait_us(&w->link->stop, 0, ACCEPT_PAUSE_US); /* out of descriptors: there may be
                                                               * some again */
        }
    }
    return NULL;
}

static bool look(const struct writer *w, struct stat *st)
{
    char path[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s/" CONTROL_SOCKET, w->data);
    errno = ENAMETOOLONG;
    return n > 0 && (size_t)n < sizeof path && stat(path, st) == 0;
}

static void note_name(const struct writer *w, struct control *k)
{
    struct stat st = {0};
    (void)look(w, &st); /* gone again: the next watch sees that */
    k->inode = st.st_ino;
    k->device = st.st_dev;
}

static void control_start(struct writer *w)
{
    struct errmsg m;
    struct control *k = calloc(1, sizeof *k);
    enum err e = k ? control_listen(w->data, &k->socket, &m) : err_set(&m, ERR_NOMEM, "no memory");
    if (!e) {
        note_name(w, k);
        pthread_mutex_init(&k->lock, NULL);
        pthread_cond_init(&k->done, NULL);
        w->control = k;
        e = pthread_create(&k->thread, NULL, control_main, w) == 0
                ? OK
                : err_set(&m, ERR_NOMEM, "no thread");
        if (e) {
            close(k->socket);
        }
    }
    if (e) {
        if (!w->control_failed) {
            log_warn("Kafka clients cannot bind streams, trying again: %s", m.text);
        }
        w->control = NULL;
        free(k);
    }
    w->control_failed = e != OK;
}

/* What is asked for now gets an answer that it may be asked again. */
void control_stop(struct writer *w)
{
    struct control *k = w->control;
    if (!k) {
        return;
    }
    pthread_mutex_lock(&k->lock);
    k->stop = true;
    enum command_state state = k->state;
    pthread_mutex_unlock(&k->lock);
    (void)shutdown(k->socket, SHUT_RDWR); /* wakes accept */
    if (state == COMMAND_ASKED) {
        write_back(w);
    }
    if (state == COMMAND_WANTED || state == COMMAND_ASKED) {
        err_set(&k->why, ERR_AGAIN, STOPS);
        finish(k, ERR_AGAIN);
    }
    (void)pthread_join(k->thread, NULL);
    close(k->socket);
    pthread_mutex_destroy(&k->lock);
    pthread_cond_destroy(&k->done);
    w->control = NULL;
    free(k);
}

/* A data directory that was put in place of another one has none, or a dead one. */
static bool in_place(const struct writer *w)
{
    struct stat st;
    return look(w, &st) ? st.st_ino == w->control->inode && st.st_dev == w->control->device
                        : errno != ENOENT && errno != ENOTDIR;
}

void control_watch(struct writer *w)
{
    if (w->control && !in_place(w)) {
        control_stop(w);
    }
    if (!w->control) {
        control_start(w);
    }
}
