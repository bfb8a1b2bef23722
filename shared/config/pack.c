/* A checked configuration as bytes, for another process of the same build.
 *
 *     flags (PACKED_…)  [path]
 *     the values of the rows of "" and `store`, in the order of the table
 *     number of streams, and of each:
 *         the values of the rows of `stream`, which of them were said, its line, is it bound,
 *         number of filters, the filters
 *
 * Every text ends with a NUL; numbers are varints. A value is the text that the row shows, and goes
 * back through the row's own setter: a new row travels without a line here, what the setter makes
 * of it (a key's parts) is made again, and bytes that are no values are found out by the same
 * checks as a user's. There is no version: both sides have one table. */
#include "shared/config/config.h"
#include "shared/config/options.h"
#include "shared/mqtt/filter.h"

#include <stdlib.h>

#define PACKED_PATH       1u /* there is a path */
#define PACKED_DATA_GIVEN 2u
#define PACKED_ALL        3u

static bool is_packed(const struct option_row *row)
{
    return row->width && row->section != SECTION_SERVER;
}

static void put_text(struct buf *out, const char *text)
{
    buf_put(out, text, strlen(text) + 1);
}

static void pack_stream(const struct config_stream *s, struct buf *out)
{
    for (size_t i = 0; i < option_row_count; i++) {
        if (is_packed(&option_rows[i]) && option_rows[i].section == SECTION_STREAM) {
            option_stream_text(s, i, out);
            buf_put_u8(out, 0);
        }
    }
    buf_put_be64(out, s->said);
    buf_put_varint(out, s->line);
    buf_put_u8(out, s->bound);
    buf_put_uvarint(out, s->filter_count);
    for (uint32_t i = 0; i < s->filter_count; i++) {
        put_text(out, s->filters[i]);
    }
}

enum err config_pack(const struct config *c, struct buf *out)
{
    buf_put_u8(out, (c->path ? PACKED_PATH : 0) | (c->data_given ? PACKED_DATA_GIVEN : 0));
    if (c->path) {
        put_text(out, c->path);
    }
    for (size_t i = 0; i < option_row_count; i++) {
        if (is_packed(&option_rows[i]) && option_rows[i].section != SECTION_STREAM) {
            option_value_text(c, i, out);
            buf_put_u8(out, 0);
        }
    }
    buf_put_uvarint(out, c->stream_count);
    for (size_t i = 0; i < c->stream_count; i++) {
        pack_stream(&c->streams[i], out);
    }
    return buf_ok(out) ? OK : ERR_NOMEM;
}

/* Borrowed; NULL if no NUL is left. */
static const char *get_text(struct reader *r)
{
    const uint8_t *end = memchr(r->p, 0, reader_left(r));
    return end ? (const char *)reader_bytes(r, (size_t)(end - r->p) + 1).data : NULL;
}

static enum err get_copy(struct reader *r, char **out)
{
    const char *text = get_text(r);
    if (!text) {
        return ERR_CORRUPT;
    }
    *out = strdup(text);
    return *out ? OK : ERR_NOMEM;
}

static enum err get_count(struct reader *r, uint32_t max, uint32_t *out)
{
    *out = reader_uvarint32(r);
    return r->failed || *out > max ? ERR_CORRUPT : OK;
}

static enum err unpack_filters(struct config_stream *s, struct reader *r)
{
    uint32_t count;
    enum err e = get_count(r, CONFIG_FILTERS_MAX, &count);
    if (e || count == 0) {
        return e;
    }
    s->filters = calloc(count, sizeof *s->filters);
    if (!s->filters) {
        return ERR_NOMEM;
    }
    while (!e && s->filter_count < count) {
        char **filter = &s->filters[s->filter_count];
        e = get_copy(r, filter);
        if (!e) {
            s->filter_count++;
            e = filter_check(slice_str(*filter), NULL);
        }
    }
    return e;
}

static enum err unpack_stream(struct config_stream *s, struct reader *r)
{
    enum err e = OK;
    for (size_t i = 0; !e && i < option_row_count; i++) {
        if (is_packed(&option_rows[i]) && option_rows[i].section == SECTION_STREAM) {
            const char *text = get_text(r);
            e = text ? config_stream_set(s, option_rows[i].name, text, NULL) : ERR_CORRUPT;
        }
    }
    s->said = reader_be64(r);
    s->line = reader_varint32(r);
    s->bound = reader_u8(r) == 1;
    return e ? e : unpack_filters(s, r);
}

static enum err unpack_streams(struct config *c, struct reader *r)
{
    uint32_t count;
    enum err e = get_count(r, CONFIG_STREAMS_MAX, &count);
    if (e || count == 0) {
        return e;
    }
    c->streams = calloc(count, sizeof *c->streams);
    if (!c->streams) {
        return ERR_NOMEM;
    }
    while (!e && c->stream_count < count) {
        struct config_stream *s = &c->streams[c->stream_count];
        e = config_stream_init(s);
        if (!e) {
            c->stream_count++;
            e = unpack_stream(s, r);
        }
    }
    return e;
}

static enum err unpack_top(struct config *c, struct reader *r)
{
    uint8_t flags = reader_u8(r);
    enum err e = r->failed || flags & ~PACKED_ALL ? ERR_CORRUPT : OK;
    c->data_given = flags & PACKED_DATA_GIVEN;
    if (!e && flags & PACKED_PATH) {
        e = get_copy(r, &c->path);
    }
    for (size_t i = 0; !e && i < option_row_count; i++) {
        if (is_packed(&option_rows[i]) && option_rows[i].section != SECTION_STREAM) {
            const char *text = get_text(r);
            e = text ? option_set_text(&option_rows[i], c, text, NULL) : ERR_CORRUPT;
        }
    }
    return e;
}

enum err config_unpack(struct config *c, struct slice packed)
{
    struct reader r = reader_make(packed);
    enum err e = config_init(c);
    if (e) {
        return e;
    }
    e = unpack_top(c, &r);
    e = e ? e : unpack_streams(c, &r);
    if (!e && (r.failed || reader_left(&r))) {
        e = ERR_CORRUPT;
    }
    if (e) {
        config_fini(c);
        /* What a setter refuses was never a value of a checked configuration. */
        e = e == ERR_NOMEM ? e : ERR_CORRUPT;
    }
    return e;
}
