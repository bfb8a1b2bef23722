/* A stream's settings on their own: the plugin keeps copies of them, and makes some from what the
 * log remembers of a stream that stands in no file any more. */
#include "shared/config/config.h"
#include "shared/config/options.h"

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
    return !e && is_key ? option_parse_key(s, m) : e;
}

void config_check_partitions(const struct config *c, size_t i, int32_t have, struct buf *out)
{
    const struct config_stream *s = &c->streams[i];
    if (s->partitions == have) {
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
