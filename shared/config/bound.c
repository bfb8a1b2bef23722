/* DATA/streams.json: streams that Kafka clients have bound to MQTT filters.
 *
 * A file like culex.json, with "streams" alone and of each what a client has said; no "defaults" of
 * another file concern it. The number of partitions always is, for it is fixed. culex.json is the
 * operator's, and wins where both have a name. The file is in the data directory and not in the
 * log, so that a broker whose log cannot be opened still knows what to capture. */
#include "shared/config/config.h"
#include "shared/base/decimal.h"
#include "shared/config/options.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define VALUE_BYTES_MAX (64u << 10) /* of one setting as text */

/* --- reading ---------------------------------------------------------------------------------- */

static bool has_stream(const struct config *c, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(c->streams[i].name, name) == 0) {
            return true;
        }
    }
    return false;
}

/* Moves the streams of `more` into c. */
static enum err merge(struct config *c, struct config *more)
{
    size_t had = c->stream_count;
    if (more->stream_count > CONFIG_STREAMS_MAX - had) {
        buf_printf(&c->mistakes, "%s: with those of the configuration there are %zu streams; at "
                   "most %d are allowed\n", more->path, had + more->stream_count,
                   CONFIG_STREAMS_MAX);
        return ERR_INVALID;
    }
    struct config_stream *all =
        realloc(c->streams, (had + more->stream_count + 1) * sizeof *c->streams);
    if (!all) {
        buf_printf(&c->mistakes, "%s: no memory to read it\n", more->path);
        return ERR_NOMEM;
    }
    c->streams = all;
    for (size_t i = 0; i < more->stream_count; i++) {
        struct config_stream *s = &more->streams[i];
        if (has_stream(c, had, s->name)) {
            buf_printf(&c->warnings, "%s:%d: streams[%zu]: \"%s\" stands in the configuration, "
                       "too, which holds\n", more->path, s->line, i, s->name);
            continue;
        }
        s->bound = true;
        c->streams[c->stream_count++] = *s;
        *s = (struct config_stream){0}; /* config_fini frees what is left */
    }
    return OK;
}

enum err config_read_bound(struct config *more, const char *data)
{
    char path[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s/" CONFIG_BOUND_FILE, data);
    enum err e = config_init(more);
    if (e || n < 0 || (size_t)n >= sizeof path) {
        return e; /* whoever opens the data directory says that its name is too long */
    }
    if (access(path, F_OK) != 0 && (errno == ENOENT || errno == ENOTDIR)) {
        return OK;
    }
    return config_load_streams(more, path);
}

enum err config_add_bound(struct config *c)
{
    struct config more;
    enum err e = config_read_bound(&more, c->data);
    if (e) {
        buf_printf(&c->mistakes, "%s", buf_text(&more.mistakes));
    } else if (more.stream_count) {
        e = merge(c, &more);
    }
    config_fini(&more);
    return e;
}

/* --- writing ---------------------------------------------------------------------------------- */

static json_t *value_json(const struct option_view *v, const char *text)
{
    double d = 0;
    switch (v->type) {
    case OPTION_INT:
    case OPTION_LONG:
        return json_integer(strtoll(text, NULL, 10));
    case OPTION_DOUBLE:
        return decimal_read(text, &d) ? json_real(d) : NULL;
    case OPTION_BOOL:
        return json_boolean(strcmp(text, "true") == 0);
    default:
        return json_string(text);
    }
}

/* NULL: no memory. */
static json_t *stream_json(const struct config_stream *s)
{
    json_t *object = json_object(), *filters = json_array();
    struct buf text;
    int failed = 0;
    buf_init(&text, VALUE_BYTES_MAX);
    for (size_t i = 0; i < option_row_count; i++) {
        struct option_view v;
        option_view(i, &v);
        if (option_rows[i].section != SECTION_STREAM || !option_rows[i].width ||
            !(config_stream_said(s, v.name) || strcmp(v.name, "partitions") == 0)) {
            continue;
        }
        buf_reset(&text);
        option_stream_text(s, i, &text);
        failed |= json_object_set_new(object, v.name, value_json(&v, buf_text(&text)));
        if (strcmp(v.name, "name") == 0) { /* the second thing that a reader looks for */
            failed |= json_object_set_new(object, "filters", filters);
        }
    }
    for (uint32_t i = 0; i < s->filter_count; i++) {
        failed |= json_array_append_new(filters, json_string(s->filters[i]));
    }
    buf_fini(&text);
    if (failed) {
        json_decref(object);
        return NULL;
    }
    return object;
}

/* malloc'd; NULL: no memory. */
static char *bound_text(const struct config_stream *streams, size_t count)
{
    json_t *root = json_object(), *list = json_array();
    int failed = json_object_set_new(root, "streams", list);
    for (size_t i = 0; i < count; i++) {
        if (streams[i].bound) {
            failed |= json_array_append_new(list, stream_json(&streams[i]));
        }
    }
    char *text = failed ? NULL : json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
    json_decref(root);
    return text;
}

static enum err failed_at(struct errmsg *m, const char *what, const char *path)
{
    int code = errno;
    bool full = code == ENOSPC || code == EDQUOT;
    return err_set(m, full ? ERR_FULL : ERR_IO, "cannot %s %s: %s", what, path, strerror(code));
}

/* A file that nobody could read again would keep the broker from starting. */
static enum err check_size(size_t count, size_t bytes, struct errmsg *m)
{
    if (count > CONFIG_STREAMS_MAX) {
        return err_set(m, ERR_TOO_LARGE, "there would be %zu streams; at most %d are allowed",
                       count, CONFIG_STREAMS_MAX);
    }
    return bytes < CONFIG_FILE_BYTES_MAX
               ? OK
               : err_set(m, ERR_TOO_LARGE, "all bound streams together would be a file of %zu "
                         "bytes; at most %u are allowed", bytes, CONFIG_FILE_BYTES_MAX);
}

/* The file, on the disk. */
static enum err write_file(const char *path, const char *text, struct errmsg *m)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    if (fd < 0) {
        return failed_at(m, "make", path);
    }
    size_t left = strlen(text);
    ssize_t n = 0;
    while (left > 0 && (n = write(fd, text, left)) > 0) {
        text += n;
        left -= (size_t)n;
    }
    enum err e = left > 0 || write(fd, "\n", 1) != 1 || fsync(fd) != 0
                     ? failed_at(m, "write", path)
                     : OK;
    close(fd);
    if (e) {
        (void)unlink(path); /* nobody reads it */
    }
    return e;
}

enum err config_write_bound(const char *data, const struct config_stream *streams, size_t count,
                            struct errmsg *m)
{
    char path[PATH_MAX], next[PATH_MAX];
    int a = snprintf(path, sizeof path, "%s/" CONFIG_BOUND_FILE, data);
    int b = snprintf(next, sizeof next, "%s/" CONFIG_BOUND_FILE ".next", data);
    if (a < 0 || b < 0 || (size_t)b >= sizeof next) {
        return err_set(m, ERR_INVALID, "the path of the data directory is too long: %s", data);
    }
    char *text = bound_text(streams, count);
    if (!text) {
        return err_set(m, ERR_NOMEM, "no memory to write %s", path);
    }
    enum err e = check_size(count, strlen(text), m);
    e = e ? e : write_file(next, text, m);
    free(text);
    if (!e && rename(next, path) != 0) {
        e = failed_at(m, "replace", path);
    }
    int dir = e ? -1 : open(data, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir >= 0) {
        (void)fsync(dir); /* some file systems cannot; the file itself is on the disk */
        close(dir);
    }
    return e;
}

bool config_bound_written(const char *data, const struct config_stream *streams, size_t count)
{
    char path[PATH_MAX];
    size_t bound = 0;
    for (size_t i = 0; i < count; i++) {
        bound += streams[i].bound;
    }
    int n = snprintf(path, sizeof path, "%s/" CONFIG_BOUND_FILE, data);
    FILE *f = n > 0 && (size_t)n < sizeof path ? fopen(path, "re") : NULL;
    if (!f) {
        return bound == 0 && errno == ENOENT;
    }
    char *text = bound_text(streams, count);
    const char *next = text;
    int c = EOF;
    while (next && (c = getc(f)) != EOF && *next && c == (unsigned char)*next) {
        next++;
    }
    bool same = next && !*next && c == '\n';
    free(text);
    (void)fclose(f);
    return same;
}

bool config_bound_same(const struct config_stream *a, const struct config_stream *b)
{
    char *x = bound_text(a, 1), *y = bound_text(b, 1);
    bool same = x && y && strcmp(x, y) == 0;
    free(x);
    free(y);
    return same;
}
