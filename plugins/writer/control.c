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
 * this one, whole, with one set of checks. Commands that come together are one file and one such
 * question.
 *
 * Beside the command there is what the writer knows of the broker (enum view):
 *
 *   START ──the file is as the configuration──▶ SURE ──a command writes the file──▶ STALE
 *     └─────────it is not─────────▶ STALE ──asked──▶ ASKED ──read, or refused──▶ SURE
 *
 * Commands begin, and end well, only where it is SURE: file, broker and log are of one mind (trims
 * are the log's alone, and begin at once). So whatever cuts a change off, the file says which way
 * it goes, and the next look at it ends it:
 *
 *   out of time, or refused    the file is written as it was: STALE
 *   writer killed              the next one finds a file that is not as the configuration: STALE
 *   broker killed, or both     the next one reads the file, as the old writer has left it; should
 *                              it be written after that, the next writer finds it
 *
 * A topic that may have to go, because its stream is being unbound, or made by a command that can
 * fail yet, has a row of its own in the store from before the file is written: where the writer is
 * SURE and no command under way, it deletes the topic if no configuration names it, and the row.
 *
 * One message at a time, and only between ticks: a topic is deleted when no batch of it is on its
 * way. A broker that does not come round (2.0.11 with per_listener_settings has no tick, and comes
 * round at the next publish) lets its commands run out of time. */
#include "plugins/writer/bind.h"
#include "plugins/writer/writer.h"

#include "shared/base/clock.h"
#include "shared/control/control.h"

#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define COMMAND_MS      (CONTROL_COMMAND_MS - 1000)
#define STOPS           "the broker stops"
#define ACCEPT_PAUSE_US 100000
#define ROW_PREFIX      "unbind/" /* of the rows that say which topics may have to go */
#define ROW_BYTES_MAX   (sizeof ROW_PREFIX + STORE_NAME_BYTES_MAX)
#define RETRY_MS        1000
#define FOUND_MAX       64 /* rows looked at in one go */

enum command_state { COMMAND_NONE, COMMAND_WANTED, COMMAND_ASKED, COMMAND_DONE };

/* Of the broker, and of the file, by the configuration that the writer has. */
enum view {
    VIEW_START, /* the file may be as a writer before this one has left it */
    VIEW_STALE, /* it has changed, and the broker is not asked yet to read it */
    VIEW_ASKED,
    VIEW_SURE,  /* all three are the same, but for configurations on their way */
};

/* One command of a message. */
struct task {
    const json_t *command;
    bool waits; /* until the broker has read the file */
    bool makes_stream, makes_topic;
    bool undone; /* it could not make it: the file is to be without */
    enum err result;
    struct errmsg why;
    int32_t partitions; /* bind: of the stream */
};

struct control {
    int socket;
    ino_t inode; /* of its name in the data directory … */
    dev_t device;
    pthread_t thread;
    pthread_mutex_t lock; /* of stop, state and the broker's answer */
    pthread_cond_t done;
    bool stop;
    enum command_state state;
    uint32_t asked; /* number of the newest question; the broker's answer has it, too */
    bool answered;
    enum err reload_result;
    char reload_text[sizeof(((struct errmsg *)0)->text)];
    /* The writer's own. */
    enum view view;
    bool unwritten; /* the file is not as the configuration, and nobody could mend it */
    int64_t unwritten_ms; /* not tried again before then */
    bool rows; /* there may be some */
    bool rows_failed;
    int64_t rows_ms; /* not looked at before then */
    /* The message's own: the thread's while NONE and DONE, the writer's in between. */
    struct task *tasks;
    size_t task_count;
    int64_t deadline_ms;
    uint64_t version; /* of the catalog, when all was done */
};

static const char *text_of(const struct task *t, const char *name)
{
    const char *text = json_string_value(json_object_get(t->command, name));
    return text ? text : "";
}

static bool is_command(const struct task *t, const char *name)
{
    return strcmp(text_of(t, "command"), name) == 0;
}

/* Those that still wait end like this. */
static void settle_tasks(struct control *k, enum err e, const struct errmsg *why)
{
    for (size_t i = 0; i < k->task_count; i++) {
        if (k->tasks[i].waits) {
            k->tasks[i].waits = false;
            k->tasks[i].result = e;
            k->tasks[i].why = *why;
        }
    }
}

static void finish(struct writer *w)
{
    struct control *k = w->control;
    const struct store_catalog *catalog = w->store ? store_catalog_ref(w->store) : NULL;
    k->version = catalog ? catalog->version : 0;
    store_catalog_unref(w->store, catalog);
    pthread_mutex_lock(&k->lock);
    k->state = COMMAND_DONE;
    pthread_cond_signal(&k->done);
    pthread_mutex_unlock(&k->lock);
}

static void finish_all(struct writer *w, enum err e, const struct errmsg *why)
{
    settle_tasks(w->control, e, why);
    finish(w);
}

/* --- topics that may have to go --------------------------------------------------------------- */

static struct slice row_key(const char *name, char key[static ROW_BYTES_MAX])
{
    int n = snprintf(key, ROW_BYTES_MAX, ROW_PREFIX "%s", name);
    return slice_make(key, (size_t)n);
}

static enum err note_row(struct writer *w, const char *name, struct errmsg *m)
{
    char key[ROW_BYTES_MAX];
    enum err e = store_put(w->store, row_key(name, key), slice_make("", 0));
    w->control->rows = true;
    return e ? err_set(m, e, "%s", err_name(e)) : OK;
}

/* Of a stream that is not configured any more. */
static enum err delete_topic(struct writer *w, const char *name, struct errmsg *m)
{
    enum err e = store_topic_delete(w->store, slice_str(name), m);
    if (!e) {
        streams_forget(w, name);
        log_info("stream unbound and deleted stream=%s", name);
    }
    return e;
}

struct found {
    char names[FOUND_MAX][STORE_NAME_BYTES_MAX + 1];
    size_t count;
};

static bool row_found(void *arg, struct slice key, struct slice value)
{
    struct found *f = arg;
    size_t skip = sizeof ROW_PREFIX - 1;
    if (key.len > skip && key.len - skip <= STORE_NAME_BYTES_MAX) {
        snprintf(f->names[f->count++], sizeof f->names[0], "%.*s", (int)(key.len - skip),
                 (const char *)key.data + skip);
    }
    return f->count < FOUND_MAX;
}

/* NULL: the configuration has no such stream. */
static const struct config_stream *configured(const struct writer *w, const char *name)
{
    const struct config *c = &w->now->config;
    for (size_t i = 0; i < c->stream_count; i++) {
        if (strcmp(c->streams[i].name, name) == 0) {
            return &c->streams[i];
        }
    }
    return NULL;
}

static enum err end_row(struct writer *w, const char *name, struct errmsg *m)
{
    char key[ROW_BYTES_MAX];
    enum err e = configured(w, name) ? OK : delete_topic(w, name, m);
    if (e && e != ERR_NOT_FOUND) {
        return e;
    }
    e = store_delete(w->store, row_key(name, key));
    return e ? err_set(m, e, "%s", err_name(e)) : OK;
}

/* What no configuration names goes, the rest stays, and nothing is to be done any more. The disk
 * may be full: deleting makes room. */
static enum err end_rows(struct writer *w, struct errmsg *m)
{
    static struct found f;
    struct control *k = w->control;
    enum err e = OK;
    do {
        f.count = 0;
        e = store_rows(w->store, slice_str(ROW_PREFIX), row_found, &f, m);
        for (size_t i = 0; i < f.count && !e; i++) {
            e = end_row(w, f.names[i], m);
        }
        e = e ? e : store_commit_rows(w->store, m);
    } while (!e && f.count == FOUND_MAX);
    if (e) {
        store_rollback(w->store);
        if (!k->rows_failed) {
            log_error("streams that were being changed leave topics, trying again: %s", m->text);
        }
    }
    k->rows = k->rows_failed = e != OK;
    k->rows_ms = clock_mono_ms() + RETRY_MS;
    return e;
}

/* --- streams.json ----------------------------------------------------------------------------- */

/* A socket that is full takes the question later; one whose broker is gone, never. */
static void ask_broker(struct writer *w)
{
    struct control *k = w->control;
    pthread_mutex_lock(&k->lock);
    k->answered = false;
    uint32_t number = k->asked = (k->asked + 1) & LINK_RELOAD_MAX;
    pthread_mutex_unlock(&k->lock);
    if (link_send(w->socket, LINK_RELOAD, number, "", -1) == OK) {
        link_due(w->link, DUE_MESSAGES);
        k->view = VIEW_ASKED;
    }
}

/* The file as the configuration that holds has it, without what is undone of the tasks. */
static void write_back(struct writer *w, const struct task *tasks, size_t count)
{
    struct plan p;
    struct errmsg m;
    enum err e = plan_open(&p, &w->now->config, w->data, &m);
    if (!e) {
        for (size_t i = 0; i < count; i++) {
            if (tasks[i].undone) {
                plan_remove(&p, text_of(&tasks[i], "name"));
            }
        }
        e = plan_write(&p, w->data, &m);
        plan_close(&p);
    }
    struct control *k = w->control;
    if (e && !k->unwritten) {
        log_error("streams bound by Kafka clients: the file has what was refused, trying again: %s",
                  m.text);
    }
    k->unwritten = e != OK;
    k->unwritten_ms = clock_mono_ms() + RETRY_MS;
}

/* The same, and the broker reads it, which nobody waits for: it may have read the other one. An
 * orphan's broker may have been started again, and its writer will see which file it has read. */
static void take_back(struct writer *w)
{
    struct control *k = w->control;
    if (!atomic_load(&w->orphan)) {
        write_back(w, k->tasks, k->task_count);
        k->view = VIEW_STALE;
        ask_broker(w);
    }
}

/* Is the file what the configuration was made of? One that cannot be read is the broker's to
 * name. */
static bool file_differs(struct writer *w)
{
    struct plan p;
    struct errmsg m;
    if (plan_open(&p, &w->now->config, w->data, &m)) {
        return true;
    }
    bool differs = !plan_written(&p, w->data);
    plan_close(&p);
    return differs;
}

/* --- the commands ----------------------------------------------------------------------------- */

/* What the commands of one message share. */
struct turn {
    struct plan plan;
    bool opened;
    bool makes_topics;
    uint32_t left; /* partitions that can still be made */
};

static enum err not_bound(const struct writer *w, const char *name, struct errmsg *m)
{
    const char *path = w->now->config.path;
    return err_set(m, ERR_LOCKED, "stream %.249s stands in %.200s: it is changed there", name,
                   path ? path : "mosquitto.conf");
}

/* May this be done to the stream of that name? */
static enum err check_bound(const struct writer *w, const struct turn *t, const char *name,
                            bool must_be, struct errmsg *m)
{
    const struct config_stream *s = plan_find(&t->plan, name);
    if (s && !s->bound) {
        return not_bound(w, name, m);
    }
    if (must_be && !s) {
        return err_set(m, ERR_NOT_FOUND, "no stream %.249s is bound to MQTT", name);
    }
    if (!must_be && s) {
        return err_set(m, ERR_EXISTS, "Topic '%.249s' already exists.", name);
    }
    return OK;
}

/* As the log has the stream, or can take it. */
static enum err check_partitions(const struct writer *w, struct turn *t, struct task *task,
                                 struct config_stream *s, struct errmsg *m)
{
    const struct store_catalog *catalog = store_catalog_ref(w->store);
    const struct store_topic *topic =
        catalog ? store_catalog_find(catalog, slice_str(s->name)) : NULL;
    bool any = json_integer_value(json_object_get(task->command, "partitions")) == 0;
    int32_t have = topic ? topic->partition_count : 0;
    store_catalog_unref(w->store, catalog);
    if (have && !any && have != s->partitions) {
        return err_set(m, ERR_EXISTS, "the log has a stream %s with %d partitions", s->name, have);
    }
    s->partitions = have ? have : s->partitions;
    if (!have && (uint32_t)s->partitions > t->left) {
        return err_set(m, ERR_TOO_LARGE, "the log can take %u more partitions, ever, and not %d",
                       t->left, s->partitions);
    }
    t->left -= have ? 0 : (uint32_t)s->partitions;
    task->makes_topic = !have;
    return OK;
}

static enum err put_stream(struct writer *w, struct turn *t, struct task *task,
                           struct config_stream *s, enum err checked)
{
    bool validate = json_is_true(json_object_get(task->command, "validate"));
    bool makes_topic = task->makes_topic && !checked && !validate;
    enum err e = makes_topic ? note_row(w, s->name, &task->why) : checked;
    task->partitions = s->partitions;
    if (e || validate) {
        config_stream_fini(s);
        return e;
    }
    t->makes_topics = t->makes_topics || makes_topic;
    task->waits = true;
    return plan_put(&t->plan, s) ? err_set(&task->why, ERR_NOMEM, "no memory") : OK;
}

static enum err bind_stream(struct writer *w, struct turn *t, struct task *task)
{
    struct config_stream s;
    bool replace = json_is_true(json_object_get(task->command, "replace"));
    enum err e = bind_describe(&s, task->command, &task->why);
    if (e) {
        return e;
    }
    e = check_bound(w, t, s.name, replace, &task->why);
    e = e ? e : check_partitions(w, t, task, &s, &task->why);
    task->makes_stream = !replace;
    return put_stream(w, t, task, &s, e);
}

static enum err alter_stream(struct writer *w, struct turn *t, struct task *task)
{
    struct config_stream s;
    const char *name = text_of(task, "name");
    enum err e = check_bound(w, t, name, true, &task->why);
    e = e ? e : bind_alter(&s, plan_find(&t->plan, name), task->command, &task->why);
    return e ? e : put_stream(w, t, task, &s, OK);
}

static enum err unbind_stream(struct writer *w, struct turn *t, struct task *task)
{
    const char *name = text_of(task, "name");
    enum err e = check_bound(w, t, name, true, &task->why);
    if (e == ERR_NOT_FOUND) { /* of no configuration any more */
        return delete_topic(w, name, &task->why);
    }
    e = e ? e : note_row(w, name, &task->why);
    if (!e) {
        task->waits = true;
        plan_remove(&t->plan, name);
    }
    return e;
}

static enum err trim_stream(struct writer *w, struct turn *t, struct task *task)
{
    json_int_t partition = json_integer_value(json_object_get(task->command, "partition"));
    json_int_t offset = json_integer_value(json_object_get(task->command, "offset"));
    const struct store_catalog *catalog = store_catalog_ref(w->store);
    const struct store_topic *topic =
        catalog ? store_catalog_find(catalog, slice_str(text_of(task, "name"))) : NULL;
    enum err e = ERR_NOT_FOUND;
    err_set(&task->why, e, "no such partition");
    if (topic && partition >= 0 && partition < topic->partition_count) {
        e = store_trim(w->store, store_topic_uid(topic, (int32_t)partition), offset, &task->why);
    }
    store_catalog_unref(w->store, catalog);
    return e;
}

/* Each change of a message is of another stream: all of them come about at once. */
static bool is_named_before(const struct control *k, const struct task *task)
{
    const char *name = text_of(task, "name");
    for (const struct task *t = k->tasks; t < task; t++) {
        if (t->waits && strcmp(text_of(t, "name"), name) == 0) {
            return true;
        }
    }
    return false;
}

static enum err begin_task(struct writer *w, struct turn *t, struct task *task)
{
    static const struct {
        const char *name;
        bool streams; /* … are what it changes */
        enum err (*fn)(struct writer *w, struct turn *t, struct task *task);
    } commands[] = {
        {"bind", true, bind_stream},
        {"alter", true, alter_stream},
        {"unbind", true, unbind_stream},
        {"trim", false, trim_stream},
    };
    task->why.text[0] = '\0';
    task->waits = task->makes_stream = task->makes_topic = task->undone = false;
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        if (!is_command(task, commands[i].name)) {
            continue;
        }
        if (commands[i].streams && !t->opened) {
            enum err e = plan_open(&t->plan, &w->now->config, w->data, &task->why);
            if (e) {
                return e;
            }
            t->opened = true;
        }
        if (commands[i].streams && is_named_before(w->control, task)) {
            return err_set(&task->why, ERR_INVALID, "stream %.249s is named twice in one message",
                           text_of(task, "name"));
        }
        return commands[i].fn(w, t, task);
    }
    return err_set(&task->why, ERR_INVALID, "no such command: \"%.100s\"",
                   text_of(task, "command"));
}

/* The rows, the file, and the broker's turn. Nobody may bind on a full disk, though it could be
 * done (and is, where it filled up meanwhile); where streams only go, their rows are written. */
static enum err commit_turn(struct writer *w, const struct turn *t, struct errmsg *m)
{
    enum err e = t->makes_topics ? store_has_room(w->store, m) : OK;
    e = e ? e : store_commit_rows(w->store, m);
    e = e ? e : plan_write(&t->plan, w->data, m);
    if (!e) {
        w->control->view = VIEW_STALE;
        ask_broker(w);
    }
    return e;
}

static void begin(struct writer *w)
{
    struct control *k = w->control;
    struct turn t = {.left = store_partitions_left(w->store)};
    struct errmsg m = {""};
    bool any = false;
    for (size_t i = 0; i < k->task_count; i++) {
        struct task *task = &k->tasks[i];
        task->result = begin_task(w, &t, task);
        task->waits = task->waits && !task->result;
        any = any || task->waits;
    }
    any = any && !plan_written(&t.plan, w->data); /* what changes nothing is done */
    enum err e = any ? commit_turn(w, &t, &m) : OK;
    if (t.opened) {
        plan_close(&t.plan);
    }
    if (e) {
        store_rollback(w->store);
    }
    if (any && !e) {
        pthread_mutex_lock(&k->lock);
        k->state = COMMAND_ASKED;
        pthread_mutex_unlock(&k->lock);
    } else {
        finish_all(w, e, &m);
    }
}

static bool has_topic(struct writer *w, const char *name)
{
    const struct store_catalog *catalog = store_catalog_ref(w->store);
    bool there = catalog && store_catalog_find(catalog, slice_str(name));
    store_catalog_unref(w->store, catalog);
    return there;
}

/* A stream is bound when configuration and log have it, and unbound when neither has; e: what came
 * of deleting. culex.json, which was read as well, may have the name by now. */
static enum err result_in_log(struct writer *w, struct task *task, enum err e,
                              const struct errmsg *m)
{
    const char *name = text_of(task, "name");
    const struct config_stream *s = configured(w, name);
    bool ends = is_command(task, "unbind"), there = has_topic(w, name);
    if (s && !s->bound) {
        task->undone = task->makes_stream;
        return not_bound(w, name, &task->why);
    }
    if (ends ? s != NULL : s == NULL) {
        return err_set(&task->why, ERR_AGAIN, "the broker's configuration did not come through");
    }
    if (ends) {
        task->why = *m;
        return there ? e : OK;
    }
    if (!there) {
        task->undone = task->makes_stream;
        return err_set(&task->why, ERR_TOO_LARGE, "the log cannot make stream %.249s", name);
    }
    log_info("stream %s by a Kafka client stream=%s",
             task->makes_stream ? "bound" : "altered", name);
    return OK;
}

/* The broker has read the files again, and the store has seen what it made of them. */
static void complete(struct writer *w)
{
    struct control *k = w->control;
    enum err e = k->reload_result;
    struct errmsg m = {""};
    if (e) {
        err_set(&m, e, "the broker refuses the configuration: %.*s",
                (int)strcspn(k->reload_text, "\n"), k->reload_text);
        finish_all(w, e == ERR_INVALID || e == ERR_NOT_FOUND ? ERR_INVALID : ERR_AGAIN, &m);
        return;
    }
    e = end_rows(w, &m);
    bool undone = false;
    for (size_t i = 0; i < k->task_count; i++) {
        struct task *task = &k->tasks[i];
        if (task->waits) {
            task->waits = false;
            task->result = result_in_log(w, task, e, &m);
            undone = undone || task->undone;
        }
    }
    if (undone) {
        take_back(w);
    }
    finish(w);
}

/* --- the writer's turns ----------------------------------------------------------------------- */

/* Not before the store is open: a writer that is killed again and again would only make
 * configurations that nobody takes. */
static void look_at_broker(struct writer *w)
{
    struct control *k = w->control;
    bool all_here = !orders_wait(w) && !orders_under_way(w);
    if (k->view == VIEW_START && w->store && all_here) {
        k->view = file_differs(w) ? VIEW_STALE : VIEW_SURE;
    }
    if (k->view == VIEW_STALE) {
        ask_broker(w);
    }
    pthread_mutex_lock(&k->lock);
    bool answered = k->answered; /* its configuration came before its word about it */
    pthread_mutex_unlock(&k->lock);
    if (k->view == VIEW_ASKED && answered && all_here) {
        k->view = VIEW_SURE;
        k->unwritten = false;
        if (k->reload_result) {
            write_back(w, NULL, 0);
        }
    } else if (k->view == VIEW_SURE && k->unwritten && w->store && all_here &&
               clock_mono_ms() >= k->unwritten_ms) {
        write_back(w, NULL, 0);
    }
}

static bool are_trims(const struct control *k)
{
    size_t i = 0;
    while (i < k->task_count && is_command(&k->tasks[i], "trim")) {
        i++;
    }
    return i == k->task_count;
}

static void give_up(struct writer *w, enum command_state state)
{
    struct errmsg m;
    if (state == COMMAND_ASKED) {
        take_back(w);
    }
    err_set(&m, ERR_AGAIN, w->store ? "the broker does not come round to it"
                                    : "the log cannot be written");
    finish_all(w, ERR_AGAIN, &m);
}

void control_work(struct writer *w)
{
    struct control *k = w->control;
    if (!k) {
        return;
    }
    look_at_broker(w);
    pthread_mutex_lock(&k->lock);
    enum command_state state = k->state;
    pthread_mutex_unlock(&k->lock);
    bool sure = k->view == VIEW_SURE && w->store && !orders_wait(w) && !orders_under_way(w);
    struct errmsg m;
    if (sure && k->rows && state != COMMAND_ASKED && clock_mono_ms() >= k->rows_ms) {
        (void)end_rows(w, &m); /* says what went wrong, and is tried again */
    }
    if (state == COMMAND_NONE || state == COMMAND_DONE) {
        return;
    }
    if (state == COMMAND_WANTED && w->store && (sure || are_trims(k))) {
        begin(w);
    } else if (state == COMMAND_WANTED && !w->store) {
        err_set(&m, ERR_AGAIN, "the log cannot be written: %.400s", w->link->error);
        finish_all(w, ERR_AGAIN, &m);
    } else if (sure) {
        complete(w);
    } else if (clock_mono_ms() > k->deadline_ms) {
        give_up(w, state);
    }
}

bool control_waits(struct writer *w)
{
    struct control *k = w->control;
    if (!k) {
        return false;
    }
    pthread_mutex_lock(&k->lock);
    bool waits = k->view == VIEW_START || (k->view == VIEW_ASKED && k->answered) ||
                 (k->state == COMMAND_WANTED && (k->view == VIEW_SURE || are_trims(k)));
    pthread_mutex_unlock(&k->lock);
    return waits;
}

void control_reloaded(struct writer *w, uint32_t number, enum err e, const char *mistakes)
{
    pthread_mutex_lock(&w->lock); /* it does not go meanwhile */
    struct control *k = w->control;
    if (k) {
        pthread_mutex_lock(&k->lock);
        if (number == k->asked) { /* else it is about a command that ran out of time */
            k->answered = true;
            k->reload_result = e;
            snprintf(k->reload_text, sizeof k->reload_text, "%s", mistakes);
        }
        pthread_mutex_unlock(&k->lock);
    }
    pthread_mutex_unlock(&w->lock);
}

/* --- the thread ------------------------------------------------------------------------------- */

static bool stops(struct control *k)
{
    pthread_mutex_lock(&k->lock);
    bool stop = k->stop;
    pthread_mutex_unlock(&k->lock);
    return stop;
}

/* Hands the message's commands to the writer's thread and waits. */
static void execute(struct writer *w, struct task *tasks, size_t count)
{
    struct control *k = w->control;
    for (size_t i = 0; i < count; i++) {
        tasks[i].waits = true; /* until it is looked at */
        tasks[i].result = err_set(&tasks[i].why, ERR_AGAIN, STOPS);
    }
    pthread_mutex_lock(&k->lock);
    k->tasks = tasks;
    k->task_count = count;
    k->deadline_ms = clock_mono_ms() + COMMAND_MS;
    k->state = k->stop ? COMMAND_DONE : COMMAND_WANTED;
    pthread_mutex_unlock(&k->lock);
    wake_up(w->link);
    pthread_mutex_lock(&k->lock);
    while (k->state != COMMAND_DONE) {
        pthread_cond_wait(&k->done, &k->lock);
    }
    k->state = COMMAND_NONE;
    pthread_mutex_unlock(&k->lock);
}

static json_t *result_of(const struct task *t)
{
    json_t *result = json_pack("{s:s}", "error", err_name(t->result));
    if (t->result) {
        json_object_set_new(result, "message", json_string(t->why.text));
    } else if (t->partitions) {
        json_object_set_new(result, "partitions", json_integer(t->partitions));
    }
    return result;
}

static void answer_all(const struct control *k, int connection)
{
    json_t *results = json_array();
    for (size_t i = 0; i < k->task_count; i++) {
        json_array_append_new(results, result_of(&k->tasks[i]));
    }
    control_answer(connection, OK, NULL,
                   json_pack("{s:o, s:I}", "results", results, "version", (json_int_t)k->version));
}

/* One message: a command, or a list of them. */
static void serve(struct writer *w, int connection)
{
    struct control *k = w->control;
    json_t *message;
    struct errmsg m;
    enum err e = control_receive(connection, &message, &m);
    if (e) {
        control_answer(connection, e, m.text, NULL);
        return;
    }
    const json_t *list = json_object_get(message, "commands");
    size_t count = list ? json_array_size(list) : 1;
    struct task *tasks = count <= CONTROL_COMMANDS_MAX ? calloc(count + 1, sizeof *tasks) : NULL;
    if (!tasks) {
        control_answer(connection, ERR_TOO_LARGE, "too many commands in one message", NULL);
    } else {
        for (size_t i = 0; i < count; i++) {
            tasks[i].command = list ? json_array_get(list, i) : message;
        }
        execute(w, tasks, count);
        if (list) {
            answer_all(k, connection);
        } else {
            json_t *more = result_of(&tasks[0]);
            control_answer(connection, tasks[0].result, NULL, more);
        }
    }
    free(tasks);
    json_decref(message);
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

/* The listener uses it, too. */
static void set_control(struct writer *w, struct control *k)
{
    pthread_mutex_lock(&w->lock);
    w->control = k;
    pthread_mutex_unlock(&w->lock);
}

/* A data directory that is made anew has what is captured; one that was put in place of another is
 * read as at a start. */
static void control_start(struct writer *w)
{
    struct errmsg m;
    struct control *k = calloc(1, sizeof *k);
    enum err e = k ? control_listen(w->data, &k->socket, &m) : err_set(&m, ERR_NOMEM, "no memory");
    if (!e) {
        note_name(w, k);
        pthread_mutex_init(&k->lock, NULL);
        pthread_cond_init(&k->done, NULL);
        k->rows = true;
        k->asked = (uint32_t)clock_wall_ms() & LINK_RELOAD_MAX; /* none of another writer's */
        set_control(w, k);
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
        set_control(w, NULL);
        free(k);
    } else if (w->control_begun && config_bound_written(w->data, NULL, 0)) {
        write_back(w, NULL, 0);
    }
    w->control_failed = e != OK;
    w->control_begun = w->control_begun || !e;
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
        take_back(w);
    }
    if (state == COMMAND_WANTED || state == COMMAND_ASKED) {
        struct errmsg m;
        err_set(&m, ERR_AGAIN, STOPS);
        finish_all(w, ERR_AGAIN, &m);
    }
    (void)pthread_join(k->thread, NULL);
    set_control(w, NULL); /* before its lock goes: another thread takes what the broker says */
    close(k->socket);
    pthread_mutex_destroy(&k->lock);
    pthread_cond_destroy(&k->done);
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
