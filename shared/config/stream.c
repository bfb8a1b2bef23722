/* A stream's settings on their own: the plugin keeps copies of them, and makes some from what the
 * log remembers of a stream that stands in no file any more. */
#include "shared/config/config.h"
#include "shared/config/options.h"
#include "shared/mqtt/filter.h"

#include <stdlib.h>

enum err config_stream_init(struct config_stream *s)
{
    memset(s, 0, sizeof *s);
    enum err e = option_set_defaults(SECTION_STREAM, s);
    e = e ? e : option_parse_key(s, NULL);
    if (e) {
        config_stream_fini(s);
    }
    return e;
}

void config_stream_fini(struct config_stream *s)
{
    for (uint32_t i = 0; i < s->filter_count; i++) {
        free(s->filters[i]);
    }
    free(s->filters);
    free(s->key_name);
    option_free_strings(SECTION_STREAM, s);
    memset(s, 0, sizeof *s);
}

enum err config_stream_copy(struct config_stream *to, const struct config_stream *from)
{
    enum err e = config_stream_init(to);
    if (e) {
        return e;
    }
    to->line = from->line;
    to->bound = from->bound;
    to->said = from->said;
    e = option_copy(SECTION_STREAM, to, from);
    e = e ? e : option_parse_key(to, NULL);
    if (e) {
        config_stream_fini(to);
    }
    return e;
}

enum err config_stream_set(struct config_stream *s, const char *name, const char *value,
                           struct errmsg *m)
{
    const struct option_row *row = option_find(SECTION_STREAM, name);
    if (!row || !row->width) {
        return err_set(m, ERR_NOT_FOUND, "\"%s\" is no setting of a stream", name);
    }
    enum err e = option_set_text(row, s, value, m);
    bool is_key = row->offset == offsetof(struct config_stream, key_text);
    s->said |= e ? 0 : option_said_bit(row);
    return !e && is_key ? option_parse_key(s, m) : e;
}

bool config_stream_said(const struct config_stream *s, const char *name)
{
    const struct option_row *row = option_find(SECTION_STREAM, name);
    return row && (!row->width || s->said & option_said_bit(row));
}

enum err config_stream_reset(struct config_stream *s, const char *name, struct errmsg *m)
{
    const struct option_row *row = option_find(SECTION_STREAM, name);
    enum err e = config_stream_set(s, name, row ? row->default_text : "", m);
    s->said &= e ? s->said : ~option_said_bit(row);
    return e;
}

/* Capture sees what clients publish; the broker's own trees it never sees. */
static enum err check_capture_filter(const char *text, struct errmsg *m)
{
    static const struct {
        const char *tree;
        const char *why;
    } closed[] = {
        {"$SYS", "the broker's own topics do not pass through capture"},
        {"$CONTROL", "commands to the broker are not publishes"},
        {"$stream", "it is the name space of replays"},
        {"$queue", "it is the name space of queues"},
    };
    enum err e = filter_check(slice_str(text), m);
    if (e) {
        return e;
    }
    for (size_t i = 0; i < sizeof closed / sizeof closed[0]; i++) {
        size_t len = strlen(closed[i].tree);
        if (strncmp(text, closed[i].tree, len) == 0 && (text[len] == '/' || text[len] == 0)) {
            return err_set(m, ERR_INVALID, "\"%.200s\" cannot be captured: %s", text,
                           closed[i].why);
        }
    }
    return OK;
}

enum err config_stream_add_filter(struct config_stream *s, const char *text, struct errmsg *m)
{
    if (s->filter_count == CONFIG_FILTERS_MAX) {
        return err_set(m, ERR_INVALID, "is more than the %d filters that a stream may have",
                       CONFIG_FILTERS_MAX);
    }
    enum err e = check_capture_filter(text, m);
    if (e) {
        return e;
    }
    if (!s->filters) {
        s->filters = calloc(CONFIG_FILTERS_MAX, sizeof *s->filters);
    }
    char *copy = s->filters ? strdup(text) : NULL;
    if (!copy) {
        return err_set(m, ERR_NOMEM, "no memory");
    }
    s->filters[s->filter_count++] = copy;
    return OK;
}

void config_stream_shrink(struct config_stream *s)
{
    if (s->filter_count) {
        char **smaller = realloc(s->filters, s->filter_count * sizeof *s->filters);
        s->filters = smaller ? smaller : s->filters;
    }
}

void config_check_partitions(const struct config *c, size_t i, int32_t have, struct buf *out)
{
    const struct config_stream *s = &c->streams[i];
    if (s->partitions == have || s->bound) {
        return;
    }
    if (c->path) {
        buf_printf(out, "%s:%d: streams[%zu].partitions", c->path, s->line, i);
    } else {
        buf_printf(out, "mosquitto.conf: plugin_opt_partitions");
    }
    buf_printf(out,
               ": %d is not what the stream \"%s\" was made with: write %d, or give the stream "
               "another name\n",
               s->partitions, s->name, have);
}
