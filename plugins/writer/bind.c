/* Streams as Kafka clients describe them: topic configs, each the text of a stream's setting under
 * "mqtt." and its name, and the few that Kafka has itself.
 *
 * A change says what is to be set, taken back, appended and removed, and is applied to the stream
 * as it is here, because here is the one place where changes come one after the other: two clients
 * that change different configs both get what they asked for. */
#include "plugins/writer/bind.h"

#include <stdio.h>
#include <stdlib.h>

#define CONFIG_PREFIX "mqtt."
#define FILTER_CONFIG CONFIG_PREFIX "filter"
#define POLICY_CONFIG "cleanup.policy"
#define NO_FILTER     FILTER_CONFIG ": is missing; a stream needs a filter"

static const char *text_of(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text ? text : "";
}

/* --- filters ---------------------------------------------------------------------------------- */

static size_t filter_at(const struct config_stream *s, const char *filter)
{
    size_t i = 0;
    while (i < s->filter_count && strcmp(s->filters[i], filter) != 0) {
        i++;
    }
    return i;
}

static enum err filter_add(struct config_stream *s, const char *filter, struct errmsg *m)
{
    return filter_at(s, filter) < s->filter_count ? OK : config_stream_add_filter(s, filter, m);
}

static enum err filter_remove(struct config_stream *s, const char *filter, struct errmsg *m)
{
    size_t i = filter_at(s, filter);
    if (i < s->filter_count) {
        free(s->filters[i]);
        memmove(&s->filters[i], &s->filters[i + 1],
                (--s->filter_count - i) * sizeof *s->filters);
    }
    return OK;
}

static void filters_clear(struct config_stream *s)
{
    while (s->filter_count > 0) {
        free(s->filters[--s->filter_count]);
    }
}

/* fn for one filter, or for several: a JSON array, or separated by commas, as Kafka's lists are. */
static enum err each_filter(struct config_stream *s, const char *value,
                            enum err (*fn)(struct config_stream *, const char *, struct errmsg *),
                            struct errmsg *m)
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
                            ? fn(s, json_string_value(one), m)
                            : err_set(m, ERR_INVALID, "has an element that is not a string");
        }
        json_decref(list);
        return e;
    }
    char *copy = strdup(value), *rest = copy;
    for (char *one; copy && !e && (one = strsep(&rest, ",")) != NULL;) {
        e = fn(s, one, m);
    }
    free(copy);
    return copy ? e : err_set(m, ERR_NOMEM, "no memory");
}

/* --- configs ---------------------------------------------------------------------------------- */

/* The stream's setting that a config is; NULL: none of a stream that clients bind. */
static const char *setting_of(const char *config)
{
    static const char *const plain[] = {
        "retention.ms",          "retention.bytes",     POLICY_CONFIG,    "min.compaction.lag.ms",
        "max.compaction.lag.ms", "delete.retention.ms", "min.cleanable.dirty.ratio",
    };
    size_t skip = sizeof CONFIG_PREFIX - 1;
    if (strncmp(config, CONFIG_PREFIX, skip) == 0) {
        const char *setting = config + skip;
        return strcmp(setting, "name") == 0 || strcmp(setting, "partitions") == 0 ? NULL : setting;
    }
    for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++) {
        if (strcmp(plain[i], config) == 0) {
            return config;
        }
    }
    return NULL;
}

static enum err no_setting(const char *config, struct errmsg *m)
{
    return err_set(m, ERR_INVALID, "%s is no setting of a stream that is bound to MQTT", config);
}

static enum err set_config(struct config_stream *s, const char *config, const char *value,
                           struct errmsg *m)
{
    const char *setting = setting_of(config);
    struct errmsg why;
    enum err e = ERR_NOT_FOUND;
    if (strcmp(config, FILTER_CONFIG) == 0) {
        filters_clear(s);
        e = each_filter(s, value, filter_add, &why);
    } else if (setting) {
        e = config_stream_set(s, setting, value, &why);
    }
    if (e == ERR_NOT_FOUND) {
        return no_setting(config, m);
    }
    return e ? err_set(m, e, "%s: %.400s", config, why.text) : OK;
}

/* Back to what it is where nothing is said. */
static enum err reset_config(struct config_stream *s, const char *config, struct errmsg *m)
{
    const char *setting = setting_of(config);
    if (strcmp(config, FILTER_CONFIG) == 0) {
        filters_clear(s);
        return OK;
    }
    struct errmsg why;
    enum err e = setting ? config_stream_reset(s, setting, &why) : ERR_NOT_FOUND;
    if (e == ERR_NOT_FOUND) {
        return no_setting(config, m);
    }
    return e ? err_set(m, e, "%s: %.400s", config, why.text) : OK;
}

/* What must hold of all of them together. */
static enum err check(const struct config_stream *s, struct errmsg *m)
{
    if (s->filter_count == 0) {
        return err_set(m, ERR_INVALID, NO_FILTER);
    }
    if (s->min_compaction_lag_ms > s->max_compaction_lag_ms) {
        return err_set(m, ERR_INVALID, "max.compaction.lag.ms: " CONFIG_LAGS_CONTRADICT);
    }
    if (config_compacts(s) && s->key == KEY_NONE) {
        return err_set(m, ERR_INVALID, CONFIG_PREFIX "key: " CONFIG_COMPACT_NEEDS_KEY);
    }
    return OK;
}

/* The last step of either command. */
static enum err finish(struct config_stream *s, enum err e, struct errmsg *m)
{
    e = e ? e : check(s, m);
    config_stream_shrink(s);
    if (e) {
        config_stream_fini(s);
    }
    return e;
}

enum err bind_describe(struct config_stream *out, const json_t *command, struct errmsg *m)
{
    enum err e = config_stream_init(out);
    if (e) {
        return err_set(m, e, "no memory");
    }
    out->bound = true;
    struct errmsg why;
    e = config_stream_set(out, "name", text_of(command, "name"), &why);
    e = e ? err_set(m, e, "name: %.400s", why.text) : OK;
    json_int_t partitions = json_integer_value(json_object_get(command, "partitions"));
    if (!e && partitions != 0) {
        char text[32];
        snprintf(text, sizeof text, "%lld", (long long)partitions);
        e = config_stream_set(out, "partitions", text, &why);
        e = e ? err_set(m, e, "partitions: %.400s", why.text) : OK;
    }
    const char *name;
    json_t *value;
    json_object_foreach(json_object_get(command, "configs"), name, value) {
        if (!e) {
            e = json_is_string(value) ? set_config(out, name, json_string_value(value), m)
                                      : err_set(m, ERR_INVALID, "%s: not a string", name);
        }
    }
    return finish(out, e, m);
}

/* cleanup.policy, a list in Kafka, with what is given added or taken away: each part is a bit. What
 * is no policy, and a list without any, is left to the setting, which says so. */
static enum err change_policy(struct config_stream *s, const char *value, bool append,
                              struct errmsg *m)
{
    static const char *const lists[] = {"", "delete", "compact", "compact,delete"};
    uint32_t now = s->cleanup == CLEANUP_DELETE ? 1 : s->cleanup == CLEANUP_COMPACT ? 2 : 3;
    for (const char *p = value, *end; p; p = *end ? end + 1 : NULL) {
        end = p + strcspn(p, ",");
        struct slice part = slice_make(p, (size_t)(end - p));
        uint32_t bit = slice_eq(part, slice_str(lists[1]))   ? 1
                       : slice_eq(part, slice_str(lists[2])) ? 2
                                                             : 0;
        if (append && bit == 0) {
            return set_config(s, POLICY_CONFIG, value, m);
        }
        now = append ? now | bit : now & ~bit;
    }
    return set_config(s, POLICY_CONFIG, lists[now], m);
}

static enum err change(struct config_stream *s, const json_t *x, struct errmsg *m)
{
    const char *op = text_of(x, "op"), *config = text_of(x, "name"), *value = text_of(x, "value");
    bool append = strcmp(op, "append") == 0;
    struct errmsg why;
    if (strcmp(op, "set") == 0) {
        return set_config(s, config, value, m);
    }
    if (strcmp(op, "delete") == 0) {
        return reset_config(s, config, m);
    }
    if (!append && strcmp(op, "subtract") != 0) {
        return err_set(m, ERR_INVALID, "no such change: \"%.100s\"", op);
    }
    if (strcmp(config, POLICY_CONFIG) == 0) {
        return change_policy(s, value, append, m);
    }
    if (strcmp(config, FILTER_CONFIG) != 0) {
        return err_set(m, ERR_INVALID, "only " FILTER_CONFIG " and " POLICY_CONFIG " are lists "
                       "that can be appended to or subtracted from");
    }
    enum err e = each_filter(s, value, append ? filter_add : filter_remove, &why);
    return e ? err_set(m, e, "%s: %.400s", config, why.text) : OK;
}

enum err bind_alter(struct config_stream *out, const struct config_stream *from,
                    const json_t *command, struct errmsg *m)
{
    enum err e = config_stream_copy(out, from);
    if (e) {
        return err_set(m, e, "no memory");
    }
    for (uint32_t i = 0; i < from->filter_count && !e; i++) {
        e = config_stream_add_filter(out, from->filters[i], m);
    }
    size_t i;
    json_t *x;
    json_array_foreach(json_object_get(command, "changes"), i, x) {
        e = e ? e : change(out, x, m);
    }
    return finish(out, e, m);
}

/* --- the plan --------------------------------------------------------------------------------- */

static size_t find_stream(const struct plan *p, const char *name)
{
    size_t i = 0;
    while (i < p->count && strcmp(p->streams[i].name, name) != 0) {
        i++;
    }
    return i;
}

static bool make_room(struct plan *p, size_t room)
{
    struct config_stream *streams = realloc(p->streams, room * sizeof *streams);
    p->streams = streams ? streams : p->streams;
    bool *own = streams ? realloc(p->own, room * sizeof *own) : NULL;
    p->own = own ? own : p->own;
    p->room = own ? room : p->room;
    return own != NULL;
}

static void add_borrowed(struct plan *p, const struct config_stream *s)
{
    p->streams[p->count] = *s;
    p->own[p->count++] = false;
}

enum err plan_open(struct plan *p, const struct config *now, const char *data, struct errmsg *m)
{
    *p = (struct plan){0};
    enum err e = config_read_bound(&p->file, data);
    if (e) {
        const char *why = buf_text(&p->file.mistakes);
        err_set(m, e, "%.*s", (int)strcspn(why, "\n"), why);
    } else if (!make_room(p, now->stream_count + p->file.stream_count + 1)) {
        e = err_set(m, ERR_NOMEM, "no memory for the streams");
    }
    if (e) {
        plan_close(p);
        return e;
    }
    for (size_t i = 0; i < now->stream_count; i++) {
        add_borrowed(p, &now->streams[i]);
    }
    for (size_t i = 0; i < p->file.stream_count; i++) {
        const struct config_stream *s = plan_find(p, p->file.streams[i].name);
        if (s && !s->bound) {
            p->file.streams[i].bound = true;
            add_borrowed(p, &p->file.streams[i]);
        }
    }
    return OK;
}

void plan_close(struct plan *p)
{
    for (size_t i = 0; i < p->count; i++) {
        if (p->own[i]) {
            config_stream_fini(&p->streams[i]);
        }
    }
    free(p->streams);
    free(p->own);
    config_fini(&p->file);
    *p = (struct plan){0};
}

const struct config_stream *plan_find(const struct plan *p, const char *name)
{
    size_t i = find_stream(p, name);
    return i < p->count ? &p->streams[i] : NULL;
}

enum err plan_put(struct plan *p, struct config_stream *s)
{
    size_t i = find_stream(p, s->name);
    if (i == p->room && !make_room(p, p->room * 2)) {
        config_stream_fini(s);
        return ERR_NOMEM;
    }
    p->changed = p->changed || i == p->count || !config_bound_same(&p->streams[i], s);
    if (i < p->count && p->own[i]) {
        config_stream_fini(&p->streams[i]);
    }
    p->count += i == p->count;
    p->streams[i] = *s;
    p->own[i] = true;
    return OK;
}

void plan_remove(struct plan *p, const char *name)
{
    for (size_t i; (i = find_stream(p, name)) < p->count;) {
        if (p->own[i]) {
            config_stream_fini(&p->streams[i]);
        }
        p->changed = true;
        p->count--;
        memmove(&p->streams[i], &p->streams[i + 1], (p->count - i) * sizeof *p->streams);
        memmove(&p->own[i], &p->own[i + 1], (p->count - i) * sizeof *p->own);
    }
}

bool plan_written(const struct plan *p, const char *data)
{
    return !p->changed && config_bound_written(data, p->streams, p->count);
}

enum err plan_write(const struct plan *p, const char *data, struct errmsg *m)
{
    return config_write_bound(data, p->streams, p->count, m);
}
