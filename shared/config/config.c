/* From a file to a checked struct config, with every mistake named.
 *
 * jansson parses; the rows of options.c know the settings; this file walks the document and brings
 * the two together. A walk never stops at a mistake: it notes a sentence and goes on, so that one
 * start shows all there is to mend. A sentence is made of where (file, line, path in the document)
 * and what (from the setter). Lines come from locate.c, which looks for them only when there is a
 * sentence to write; the elements of `streams` alone are located as they pass, each from the last.
 *
 * Order of precedence: defaults, the file's `defaults` for streams, the stream itself; for the
 * other sections defaults, the file, the environment. */
#include "shared/config/config.h"
#include "shared/config/guess.h"
#include "shared/config/listeners.h"
#include "shared/config/locate.h"
#include "shared/config/options.h"
#include "shared/mqtt/filter.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define MISTAKE_BYTES_MAX 2048
#define PATH_TEXT_BYTES   320
#define NAME_BYTES_MAX    GUESS_NAME_BYTES_MAX /* of a setting, with CULEX_ before it */
#define ENVIRONMENT       "environment"        /* where, for its variables */
#define VARIABLE_PREFIX   "CULEX_"

/* Where a row's value comes from: what a sentence about several rows together must name. */
enum origin { FROM_DEFAULT, FROM_FILE, FROM_ENVIRONMENT, FROM_MISTAKE };

/* One check of all sources of values. */
struct walk {
    struct config *c;
    const char *where;     /* file name, or what stands for it */
    bool lines;            /* where is a file whose text we have: */
    struct json_spot root; /* its document */
    size_t mistakes, warnings;
    bool nomem;
    bool streams_alone; /* the file of config_load_streams */
    uint8_t origin[CONFIG_OPTIONS_MAX]; /* of a stream's rows, from plugin_opt_ lines alone */
};

/* An object of the document on its way through. */
struct place {
    struct json_spot spot;
    const char *path; /* "" for the document */
};

static void mistake_in(struct walk *w, const char *where, int line, const char *path,
                       const char *what)
{
    w->mistakes++;
    if (w->mistakes > CONFIG_MISTAKES_MAX) {
        if (w->mistakes == CONFIG_MISTAKES_MAX + 1) {
            buf_printf(&w->c->mistakes, "%s: more mistakes follow these %d\n", where,
                       CONFIG_MISTAKES_MAX);
        }
        return;
    }
    buf_printf(&w->c->mistakes, "%s", where);
    if (line > 0) {
        buf_printf(&w->c->mistakes, ":%d", line);
    }
    buf_printf(&w->c->mistakes, ": %s%s%s\n", path, *path ? ": " : "", what);
}

static void mistake(struct walk *w, int line, const char *path, const char *what)
{
    mistake_in(w, w->where, line, path, what);
}

/* A mistake at a member of an object; element is -1, or the index in the array that it holds. */
static void mistake_at(struct walk *w, const struct place *at, const char *key, int element,
                       const char *what)
{
    struct json_spot spot = at->spot;
    if (json_spot_member(at->spot, key, &spot) && element >= 0) {
        struct json_spot one = spot;
        bool more = json_spot_first(json_spot_value(spot), &one);
        for (int i = 0; more && i < element; i++) {
            more = json_spot_next(one, &one);
        }
        spot = more ? one : spot;
    }
    char path[PATH_TEXT_BYTES];
    char index[16] = "";
    if (element >= 0) {
        snprintf(index, sizeof index, "[%d]", element);
    }
    snprintf(path, sizeof path, "%s%s%.200s%s", at->path, *at->path && *key ? "." : "", key, index);
    mistake(w, w->lines ? spot.line : 0, path, what);
}

/* The object of the document that holds a section's settings. */
static struct place place_of(const struct walk *w, const char *section)
{
    struct place at = {w->root, section};
    if (*section && json_spot_member(w->root, section, &at.spot)) {
        at.spot = json_spot_value(at.spot);
    }
    return at;
}

static void set_origin(struct walk *w, const struct option_row *row, enum origin origin)
{
    w->origin[row - option_rows] = (uint8_t)origin;
}

static enum origin origin_of(const struct walk *w, const struct option_row *row)
{
    return (enum origin)w->origin[row - option_rows];
}

/* A mistake in a value that has passed on its own: told where it comes from. */
static void mistake_of(struct walk *w, const struct option_row *row, const char *what)
{
    const char *section = option_section_name(row->section);
    char name[NAME_BYTES_MAX];
    struct place at = place_of(w, section);
    if (origin_of(w, row) == FROM_ENVIRONMENT) {
        option_variable_name(row, name, sizeof name);
        mistake_in(w, ENVIRONMENT, 0, name, what);
    } else if (origin_of(w, row) == FROM_FILE) {
        mistake_at(w, &at, row->name, -1, what);
    } else {
        snprintf(name, sizeof name, "%s.%s", section, row->name);
        mistake(w, 0, name, what);
    }
}

/* --- unknown names ---------------------------------------------------------------------------- */

/* "unknown; did you mean …?", or where the name belongs if another section has it. */
static void unknown_name(enum option_section section, const char *name, const char *const *also,
                         struct errmsg *m)
{
    struct guess g;
    const struct option_row *elsewhere = NULL;
    guess_init(&g);
    for (size_t i = 0; i < option_row_count; i++) {
        if (option_rows[i].section == section) {
            guess_try(&g, name, option_rows[i].name);
        } else if (strcmp(option_rows[i].name, name) == 0) {
            elsewhere = &option_rows[i];
        }
    }
    for (; also && *also; also++) {
        guess_try(&g, name, *also);
    }
    if (elsewhere && g.distance > 0) {
        const char *home = option_section_name(elsewhere->section);
        if (elsewhere->section == SECTION_TOP) {
            (void)err_set(m, ERR_INVALID, "is not known here; it belongs to the top of the file");
        } else if (elsewhere->section == SECTION_STREAM) {
            (void)err_set(m, ERR_INVALID, "is not known here; it belongs into a stream, or into "
                          "\"defaults\"");
        } else {
            (void)err_set(m, ERR_INVALID, "is not known here; it belongs into \"%s\"", home);
        }
    } else if (*g.name) {
        (void)err_set(m, ERR_INVALID, "is not known; did you mean \"%s\"?", g.name);
    } else {
        (void)err_set(m, ERR_INVALID, "is not known");
    }
}

/* --- values ----------------------------------------------------------------------------------- */

static const char *json_kind(const json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "a number";
    case JSON_REAL:
        return "a number with a fraction";
    case JSON_NULL:
        return "null";
    default:
        return "a boolean";
    }
}

static enum err value_set(const struct option_row *row, void *base, const json_t *v,
                          struct errmsg *m)
{
    switch (row->type) {
    case OPTION_BOOL:
        return json_is_boolean(v) ? option_set_number(row, base, json_is_true(v), m)
                                  : err_set(m, ERR_INVALID, "is %s; true or false belongs here",
                                            json_kind(v));
    case OPTION_INT:
    case OPTION_LONG:
        return json_is_integer(v)
                   ? option_set_number(row, base, json_integer_value(v), m)
                   : err_set(m, ERR_INVALID, "is %s; a whole number belongs here%s", json_kind(v),
                             json_is_string(v) ? ", without quotes" : "");
    case OPTION_DOUBLE:
        return json_is_number(v) ? option_set_double(row, base, json_number_value(v), m)
                                 : err_set(m, ERR_INVALID, "is %s; a number belongs here",
                                           json_kind(v));
    default:
        return json_is_string(v) ? option_set_string(row, base, json_string_value(v), m)
                                 : err_set(m, ERR_INVALID, "is %s; a string belongs here",
                                           json_kind(v));
    }
}

static void walk_value(struct walk *w, const struct place *at, const struct option_row *row,
                       void *base, const json_t *v)
{
    struct errmsg m;
    enum err e = value_set(row, base, v, &m);
    w->nomem = w->nomem || e == ERR_NOMEM;
    set_origin(w, row, e ? FROM_MISTAKE : FROM_FILE);
    if (e) {
        mistake_at(w, at, row->name, -1, m.text);
    }
}

static void walk_filters(struct walk *w, const struct place *at, struct config_stream *s,
                         const json_t *v)
{
    if (!json_is_array(v)) {
        char what[128];
        snprintf(what, sizeof what, "is %s; an array of filters belongs here, like [\"demo/#\"]",
                 json_kind(v));
        mistake_at(w, at, "filters", -1, what);
        return;
    }
    if (json_array_size(v) == 0) {
        mistake_at(w, at, "filters", -1, "is empty; a stream needs at least one filter");
    }
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *one = json_array_get(v, i);
        struct errmsg m;
        enum err e = json_is_string(one)
                         ? config_stream_add_filter(s, json_string_value(one), &m)
                         : err_set(&m, ERR_INVALID, "is %s; a filter is a string", json_kind(one));
        w->nomem = w->nomem || e == ERR_NOMEM;
        if (e) {
            mistake_at(w, at, "filters", (int)i, m.text);
        }
        if (i == CONFIG_FILTERS_MAX) {
            return;
        }
    }
}

/* --- sections --------------------------------------------------------------------------------- */

static bool walk_is_object(struct walk *w, const struct place *at, const char *key, const json_t *v)
{
    if (json_is_object(v)) {
        return true;
    }
    char what[128];
    snprintf(what, sizeof what, "is %s; an object belongs here, like {\"name\": value}",
             json_kind(v));
    mistake_at(w, at, key, -1, what);
    return false;
}

static void walk_section(struct walk *w, const struct place *root, const char *key, json_t *object,
                         enum option_section section)
{
    if (!walk_is_object(w, root, key, object)) {
        return;
    }
    struct place at = place_of(w, key);
    const char *name;
    json_t *v;
    json_object_foreach(object, name, v) {
        const struct option_row *row = option_find(section, name);
        if (row) {
            walk_value(w, &at, row, w->c, v);
            continue;
        }
        struct errmsg m;
        unknown_name(section, name, NULL, &m);
        mistake_at(w, &at, name, -1, m.text);
    }
}

/* A stream, or the defaults of streams, which have neither name nor filters. */
static void walk_stream_keys(struct walk *w, const struct place *at, struct config_stream *s,
                             json_t *object, bool defaults)
{
    const char *name;
    json_t *v;
    json_object_foreach(object, name, v) {
        const struct option_row *row = option_find(SECTION_STREAM, name);
        struct errmsg m;
        bool own = strcmp(name, "name") == 0 || strcmp(name, "filters") == 0;
        if (!row) {
            unknown_name(SECTION_STREAM, name, NULL, &m);
            mistake_at(w, at, name, -1, m.text);
        } else if (defaults && own) {
            mistake_at(w, at, name, -1, "has no default; it belongs into each stream");
        } else if (!row->width) {
            walk_filters(w, at, s, v);
        } else {
            size_t before = w->mistakes;
            walk_value(w, at, row, s, v);
            enum err e = OK;
            s->said |= w->mistakes == before ? option_said_bit(row) : 0;
            if (w->mistakes == before && row->offset == offsetof(struct config_stream, key_text)) {
                e = option_parse_key(s, &m);
            }
            w->nomem = w->nomem || e == ERR_NOMEM;
            if (e) {
                mistake_at(w, at, name, -1, m.text);
            }
        }
    }
}

static const struct config_stream *stream_named(const struct config *c, const char *name)
{
    for (size_t i = 0; i < c->stream_count; i++) {
        if (strcmp(c->streams[i].name, name) == 0) {
            return &c->streams[i];
        }
    }
    return NULL;
}

/* Takes the stream over into the configuration, or ends it. */
static void walk_stream_end(struct walk *w, const struct place *at, struct config_stream *s,
                            bool has_filters)
{
    if (!*s->name) {
        config_stream_fini(s);
        return;
    }
    if (!has_filters) {
        mistake_at(w, at, "", -1, "has no \"filters\"; a stream needs at least one");
    }
    if (config_compacts(s) && s->key == KEY_NONE) {
        mistake_at(w, at, "key", -1, CONFIG_COMPACT_NEEDS_KEY);
    }
    if (s->min_compaction_lag_ms > s->max_compaction_lag_ms) {
        mistake_at(w, at, "max.compaction.lag.ms", -1, CONFIG_LAGS_CONTRADICT);
    }
    const struct config_stream *twin = stream_named(w->c, s->name);
    if (twin) {
        char what[400];
        snprintf(what, sizeof what, "\"%s\" is the name of another stream already, in line %d",
                 s->name, twin->line);
        mistake_at(w, at, "name", -1, what);
        config_stream_fini(s);
        return;
    }
    config_stream_shrink(s);
    w->c->streams[w->c->stream_count++] = *s;
}

static void walk_one_stream(struct walk *w, const struct place *at, json_t *v,
                            const struct config_stream *base)
{
    if (!json_is_object(v)) {
        char what[128];
        snprintf(what, sizeof what, "is %s; a stream is an object, like {\"name\": \"demo\", "
                 "\"filters\": [\"demo/#\"]}", json_kind(v));
        mistake_at(w, at, "", -1, what);
        return;
    }
    struct config_stream s;
    if (config_stream_copy(&s, base)) {
        w->nomem = true;
        return;
    }
    s.line = at->spot.line;
    walk_stream_keys(w, at, &s, v, false);
    if (!json_object_get(v, "name")) {
        mistake_at(w, at, "", -1, "has no \"name\"; it is the stream's and the Kafka topic's name");
    }
    walk_stream_end(w, at, &s, json_object_get(v, "filters") != NULL);
}

static void walk_streams(struct walk *w, const struct place *root, json_t *v,
                         const struct config_stream *base)
{
    if (!json_is_array(v)) {
        char what[128];
        snprintf(what, sizeof what, "is %s; an array of streams belongs here", json_kind(v));
        mistake_at(w, root, "streams", -1, what);
        return;
    }
    size_t count = json_array_size(v);
    if (count > CONFIG_STREAMS_MAX) {
        char what[128];
        snprintf(what, sizeof what, "has %zu streams; at most %d are allowed", count,
                 CONFIG_STREAMS_MAX);
        mistake_at(w, root, "streams", -1, what);
        return;
    }
    w->c->streams = calloc(count + 1, sizeof *w->c->streams);
    if (!w->c->streams) {
        w->nomem = true;
        return;
    }
    struct json_spot spot = root->spot;
    bool more = json_spot_member(root->spot, "streams", &spot) &&
                json_spot_first(json_spot_value(spot), &spot);
    for (size_t i = 0; i < count; i++) {
        char path[32];
        snprintf(path, sizeof path, "streams[%zu]", i);
        struct place at = {spot, path};
        walk_one_stream(w, &at, json_array_get(v, i), base);
        more = more && json_spot_next(spot, &spot);
    }
}

static void walk_defaults(struct walk *w, const struct place *root, json_t *v,
                          struct config_stream *base)
{
    if (!walk_is_object(w, root, "defaults", v)) {
        return;
    }
    struct place at = place_of(w, "defaults");
    size_t before = w->mistakes;
    walk_stream_keys(w, &at, base, v, true);
    struct errmsg m;
    if (w->mistakes > before && option_parse_key(base, &m) &&
        option_set_string(option_find(SECTION_STREAM, "key"), base, "topic", NULL)) {
        /* A bad key is reported once, here; the streams go on with the default one. */
        w->nomem = true;
    }
}

static void walk_document(struct walk *w, json_t *doc, const char *text, size_t len)
{
    static const char *const sections[] = {"store", "defaults", "streams", "server", NULL};
    w->root = json_spot_root(text, len);
    struct place root = {w->root, ""};
    struct config_stream base;
    struct errmsg m;
    if (config_stream_init(&base)) {
        w->nomem = true;
        return;
    }
    json_t *defaults = json_object_get(doc, "defaults");
    if (defaults) {
        walk_defaults(w, &root, defaults, &base);
    }
    const char *name;
    json_t *v;
    json_object_foreach(doc, name, v) {
        const struct option_row *row = option_find(SECTION_TOP, name);
        if (w->streams_alone && strcmp(name, "streams") != 0) {
            mistake_at(w, &root, name, -1, "does not belong here: this file has \"streams\" alone");
        } else if (row) {
            walk_value(w, &root, row, w->c, v);
        } else if (strcmp(name, "store") == 0) {
            walk_section(w, &root, name, v, SECTION_STORE);
        } else if (strcmp(name, "server") == 0) {
            walk_section(w, &root, name, v, SECTION_SERVER);
        } else if (strcmp(name, "streams") == 0) {
            walk_streams(w, &root, v, &base);
        } else if (strcmp(name, "defaults") != 0) {
            unknown_name(SECTION_TOP, name, sections, &m);
            mistake_at(w, &root, name, -1, m.text);
        }
    }
    config_stream_fini(&base);
}

/* --- sources ---------------------------------------------------------------------------------- */

static enum err read_failed(struct walk *w, int error)
{
    char what[256];
    snprintf(what, sizeof what, "cannot be read: %s", strerror(error));
    mistake(w, 0, "", what);
    return error == ENOENT ? ERR_NOT_FOUND : ERR_IO;
}

/* The whole file into out, which is a buf of CONFIG_FILE_BYTES_MAX. */
static enum err read_file(struct walk *w, const char *path, struct buf *out)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return read_failed(w, errno);
    }
    struct stat st;
    enum err e = OK;
    if (fstat(fd, &st) || S_ISDIR(st.st_mode)) {
        e = read_failed(w, S_ISDIR(st.st_mode) ? EISDIR : errno);
    }
    for (ssize_t n = 1; !e && n > 0;) {
        uint8_t *p = buf_reserve(out, 4096);
        if (!p) {
            char what[96];
            snprintf(what, sizeof what, "is longer than %u bytes", CONFIG_FILE_BYTES_MAX);
            mistake(w, 0, "", what);
            e = ERR_INVALID;
            break;
        }
        n = read(fd, p, 4096);
        if (n < 0 && errno == EINTR) {
            n = 1;
        } else if (n < 0) {
            e = read_failed(w, errno);
        } else {
            out->len += (size_t)n;
        }
    }
    close(fd);
    return e;
}

static void walk_file_text(struct walk *w, const struct buf *text)
{
    json_error_t error;
    json_t *doc = json_loadb((const char *)text->data, text->len, JSON_REJECT_DUPLICATES, &error);
    if (!doc) {
        char what[300];
        enum json_error_code code = json_error_code(&error);
        bool nul = code == json_error_null_character;
        const char *why = nul ? "\\u0000 stands in a string; no setting may have it" : error.text;
        snprintf(what, sizeof what, "%s%s (column %d)%s",
                 nul || code == json_error_duplicate_key ? "" : "is not JSON: ",
                 text->len ? why : "it is empty", error.column > 0 ? error.column : 1,
                 json_hint(error.text));
        mistake(w, error.line > 0 ? error.line : 1, "", what);
        return;
    }
    if (json_is_object(doc)) {
        walk_document(w, doc, (const char *)text->data, text->len);
    } else {
        mistake(w, 1, "", "is no object; the file begins with { and ends with }");
    }
    json_decref(doc);
}

/* CULEX_NAME for every row that is not a stream's. */
static void walk_environment(struct walk *w)
{
    for (size_t i = 0; i < option_row_count; i++) {
        const struct option_row *row = &option_rows[i];
        char name[NAME_BYTES_MAX];
        option_variable_name(row, name, sizeof name);
        const char *value = row->section == SECTION_STREAM ? NULL : getenv(name);
        if (!value) {
            continue;
        }
        struct errmsg m;
        enum err e = option_set_text(row, w->c, value, &m);
        w->nomem = w->nomem || e == ERR_NOMEM;
        set_origin(w, row, e ? FROM_MISTAKE : FROM_ENVIRONMENT);
        if (e) {
            mistake_in(w, ENVIRONMENT, 0, name, m.text);
        }
    }
}

/* What is wrong with a variable of our name space, as a warning: others put variables there, too
 * (Kubernetes does, for a service that is called culex), and the broker must start. */
static void warn_variable(struct walk *w, const char *variable)
{
    /* Of the command line; of docker/compose.yaml. */
    static const char *const others[] = {"SERVER", "MQTT", "MQTT_PASSWORD", "BROKER_IMAGE",
                                         "SERVER_IMAGE", "TOOLS_IMAGE"};
    const char *name = variable + sizeof VARIABLE_PREFIX - 1;
    const char *what = "is not known";
    bool of_streams = false;
    struct guess g;
    guess_init(&g);
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        if (strcmp(name, others[i]) == 0) {
            return;
        }
    }
    for (size_t i = 0; i < option_row_count; i++) {
        char known[NAME_BYTES_MAX];
        option_variable_name(&option_rows[i], known, sizeof known);
        bool same = strcmp(variable, known) == 0;
        if (same && option_rows[i].section != SECTION_STREAM) {
            return;
        } else if (same) {
            of_streams = true;
            what = "does nothing; it is a setting of streams, which stand in the file";
        } else if (option_rows[i].section != SECTION_STREAM) {
            guess_try(&g, name, known + sizeof VARIABLE_PREFIX - 1);
        }
    }
    if (++w->warnings > CONFIG_MISTAKES_MAX) {
        return;
    }
    buf_printf(&w->c->warnings, ENVIRONMENT ": %.*s: %s", NAME_BYTES_MAX, variable, what);
    if (*g.name && !of_streams) {
        buf_printf(&w->c->warnings, "; did you mean " VARIABLE_PREFIX "%s?", g.name);
    }
    buf_printf(&w->c->warnings, "\n");
}

static void warn_variables(struct walk *w)
{
    for (char **p = environ; p && *p; p++) {
        char variable[2 * NAME_BYTES_MAX];
        if (strncmp(*p, VARIABLE_PREFIX, sizeof VARIABLE_PREFIX - 1) == 0) {
            snprintf(variable, sizeof variable, "%.*s", (int)strcspn(*p, "="), *p);
            warn_variable(w, variable);
        }
    }
}

/* --- what one row alone cannot say ------------------------------------------------------------ */

static enum err check_sessions(const struct config_server *c, struct errmsg *m)
{
    return c->group_min_session_timeout_ms <= c->group_max_session_timeout_ms
               ? OK
               : err_set(m, ERR_INVALID, "group.min.session.timeout.ms (%" PRId32 ") is greater "
                         "than group.max.session.timeout.ms (%" PRId32 ")",
                         c->group_min_session_timeout_ms, c->group_max_session_timeout_ms);
}

/* As in Kafka: a member heartbeats in time, or loses its partitions between any two heartbeats. */
static enum err check_heartbeats(const struct config_server *c, struct errmsg *m)
{
    return c->group_consumer_heartbeat_interval_ms < c->group_consumer_session_timeout_ms
               ? OK
               : err_set(m, ERR_INVALID, "group.consumer.heartbeat.interval.ms (%" PRId32 ") must "
                         "be less than group.consumer.session.timeout.ms (%" PRId32 ")",
                         c->group_consumer_heartbeat_interval_ms,
                         c->group_consumer_session_timeout_ms);
}

/* As in Kafka. */
static enum err check_request_memory(const struct config_server *c, struct errmsg *m)
{
    return c->socket_request_max_bytes <= c->queued_max_request_bytes
               ? OK
               : err_set(m, ERR_INVALID, "queued.max.request.bytes (%" PRId64 ") is less than "
                         "socket.request.max.bytes (%" PRId64 "): the longest request could never "
                         "be read", c->queued_max_request_bytes, c->socket_request_max_bytes);
}

static enum err check_lags(const struct config_server *c, struct errmsg *m)
{
    return c->log_cleaner_min_compaction_lag_ms <= c->log_cleaner_max_compaction_lag_ms
               ? OK : err_set(m, ERR_INVALID, "log.cleaner.max.compaction.lag.ms is less than "
                              "log.cleaner.min.compaction.lag.ms");
}

static void walk_together(struct walk *w)
{
    /* The mistake is told at the first row that somebody has set. */
    static const struct {
        const char *rows[2];
        enum err (*check)(const struct config_server *c, struct errmsg *m);
    } rules[] = {
        {{"advertised.listeners", "listeners"}, listeners_check_told},
        {{"listeners", "listener.security.protocol.map"}, listeners_check_spoken},
        {{"group.min.session.timeout.ms", "group.max.session.timeout.ms"}, check_sessions},
        {{"group.consumer.heartbeat.interval.ms", "group.consumer.session.timeout.ms"},
         check_heartbeats},
        {{"queued.max.request.bytes", "socket.request.max.bytes"}, check_request_memory},
        {{"log.cleaner.max.compaction.lag.ms", "log.cleaner.min.compaction.lag.ms"}, check_lags},
    };
    struct config *c = w->c;
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        const struct option_row *a = option_find(SECTION_SERVER, rules[i].rows[0]);
        const struct option_row *b = option_find(SECTION_SERVER, rules[i].rows[1]);
        struct errmsg m;
        bool known = origin_of(w, a) != FROM_MISTAKE && origin_of(w, b) != FROM_MISTAKE;
        if (known && rules[i].check(&c->server, &m)) {
            mistake_of(w, origin_of(w, a) == FROM_DEFAULT ? b : a, m.text);
        }
    }
    c->store.ring_bytes = (c->store.ring_bytes + 4095) / 4096 * 4096;
    c->store.tail_bytes = (c->store.tail_bytes + 4095) / 4096 * 4096;
}

/* Everything that is not the document. */
static enum err walk_end(struct walk *w)
{
    if (!w->streams_alone) {
        walk_environment(w);
        warn_variables(w);
        walk_together(w);
    }
    if (w->nomem) {
        mistake(w, 0, "", "no memory to read it");
        return ERR_NOMEM;
    }
    return w->mistakes ? ERR_INVALID : OK;
}

enum err config_init(struct config *c)
{
    memset(c, 0, sizeof *c);
    buf_init(&c->mistakes, (CONFIG_MISTAKES_MAX + 2) * MISTAKE_BYTES_MAX);
    buf_init(&c->warnings, (CONFIG_MISTAKES_MAX + 2) * MISTAKE_BYTES_MAX);
    if (option_set_defaults(SECTION_TOP, c) || option_set_defaults(SECTION_STORE, c) ||
        option_set_defaults(SECTION_SERVER, c)) {
        config_fini(c);
        return ERR_NOMEM;
    }
    return OK;
}

static enum err load(struct walk *w, const char *path)
{
    struct buf text;
    buf_init(&text, CONFIG_FILE_BYTES_MAX);
    enum err e = OK;
    if (path) {
        w->c->path = strdup(path);
        e = w->c->path ? read_file(w, path, &text) : ERR_NOMEM;
        if (!e) {
            walk_file_text(w, &text);
        }
    }
    e = e ? e : walk_end(w);
    buf_fini(&text);
    return e;
}

enum err config_load(struct config *c, const char *path)
{
    struct walk w = {.c = c, .where = path ? path : ENVIRONMENT, .lines = path != NULL};
    return load(&w, path);
}

enum err config_load_streams(struct config *c, const char *path)
{
    struct walk w = {.c = c, .where = path, .lines = true, .streams_alone = true};
    return load(&w, path);
}

enum err config_give_data(struct config *c, const char *option, const char *dir)
{
    struct errmsg m;
    enum err e = option_set_text(option_find(SECTION_TOP, "data"), c, dir, &m);
    if (e) {
        buf_printf(&c->mistakes, "%s: %s\n", option, m.text);
    }
    c->data_given = true;
    return e;
}

/* --- plugin_opt_* ----------------------------------------------------------------------------- */

static const struct option_row *plain_find(enum option_section section, const char *name)
{
    for (size_t i = 0; i < option_row_count; i++) {
        char plain[NAME_BYTES_MAX];
        option_plain_name(&option_rows[i], plain, sizeof plain);
        if (option_rows[i].section == section && option_rows[i].width &&
            (strcmp(option_rows[i].name, name) == 0 || strcmp(plain, name) == 0)) {
            return &option_rows[i];
        }
    }
    return NULL;
}

/* A row that an option names. Each has one value, under whichever of its names: a second one is
 * most often meant for a second stream. */
static enum err option_once(struct walk *w, const struct option_row *row, struct errmsg *m)
{
    bool twice = origin_of(w, row) != FROM_DEFAULT;
    set_origin(w, row, FROM_FILE);
    return !twice ? OK
                  : err_set(m, ERR_INVALID, "is given twice%s", row->section == SECTION_STREAM
                            ? "; several streams need plugin_opt_config FILE" : "");
}

static enum err option_apply(struct walk *w, struct config_stream *s, const char *name,
                             const char *value, struct errmsg *m)
{
    static const char *const also[] = {"stream", "filter", "config", "data", NULL};
    if (strcmp(name, "filter") == 0 || strcmp(name, "filters") == 0) {
        return config_stream_add_filter(s, value, m);
    }
    const struct option_row *row = strcmp(name, "stream") == 0 ? option_find(SECTION_STREAM, "name")
                                                               : plain_find(SECTION_STREAM, name);
    row = row ? row : plain_find(SECTION_TOP, name);
    row = row ? row : plain_find(SECTION_STORE, name);
    if (!row) {
        unknown_name(SECTION_STREAM, name, also, m);
        return ERR_INVALID;
    }
    enum err e = option_once(w, row, m);
    return e ? e : row->section == SECTION_STREAM ? config_stream_set(s, row->name, value, m)
                                                  : option_set_text(row, w->c, value, m);
}

static const char *option_value_of(const char *name, const char *const *names,
                                   const char *const *values, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(names[i], name) == 0) {
            return values[i];
        }
    }
    return NULL;
}

static void walk_options(struct walk *w, const char *const *names, const char *const *values,
                         size_t count)
{
    struct config_stream s;
    struct errmsg m;
    w->c->streams = calloc(1, sizeof *w->c->streams);
    if (!w->c->streams || config_stream_init(&s)) {
        w->nomem = true;
        return;
    }
    for (size_t i = 0; i < count; i++) {
        char path[PATH_TEXT_BYTES];
        snprintf(path, sizeof path, "plugin_opt_%.200s", names[i]);
        enum err e = option_apply(w, &s, names[i], values[i], &m);
        w->nomem = w->nomem || e == ERR_NOMEM;
        if (e) {
            mistake(w, 0, path, m.text);
        }
    }
    bool named = option_value_of("stream", names, values, count) ||
                 option_value_of("name", names, values, count);
    bool filtered = option_value_of("filter", names, values, count) ||
                    option_value_of("filters", names, values, count);
    if (!named) {
        mistake(w, 0, "plugin_opt_stream", "is missing; it is the stream's and the Kafka topic's "
                "name (or give plugin_opt_config FILE)");
    }
    if (!filtered) {
        mistake(w, 0, "plugin_opt_filter", "is missing; a stream needs at least one filter");
    }
    if (config_compacts(&s) && s.key == KEY_NONE) {
        mistake(w, 0, "plugin_opt_key", CONFIG_COMPACT_NEEDS_KEY);
    }
    if (s.min_compaction_lag_ms > s.max_compaction_lag_ms) {
        mistake(w, 0, "plugin_opt_max_compaction_lag_ms", CONFIG_LAGS_CONTRADICT);
    }
    config_stream_shrink(&s);
    w->c->streams[w->c->stream_count++] = s;
}

enum err config_from_options(struct config *c, const char *where, const char *const *names,
                             const char *const *values, size_t count)
{
    const char *file = option_value_of("config", names, values, count);
    if (file && count == 1) {
        return config_load(c, file);
    }
    struct walk w = {.c = c, .where = where};
    if (file) {
        mistake(&w, 0, "plugin_opt_config",
                "stands alone: what the other options say belongs into that file");
        return walk_end(&w);
    }
    walk_options(&w, names, values, count);
    return walk_end(&w);
}

void config_fini(struct config *c)
{
    for (size_t i = 0; i < c->stream_count; i++) {
        config_stream_fini(&c->streams[i]);
    }
    free(c->streams);
    free(c->path);
    option_free_strings(SECTION_TOP, c);
    option_free_strings(SECTION_STORE, c);
    option_free_strings(SECTION_SERVER, c);
    buf_fini(&c->mistakes);
    buf_fini(&c->warnings);
    memset(c, 0, sizeof *c);
}
