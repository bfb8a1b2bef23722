/* culex check: everything that is wrong with a configuration, in one go, and what is right but
 * surely not meant. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "kafka-server/cli/cli.h"
#include "shared/config/config.h"
#include "shared/config/listeners.h"

/* The level that begins at p: its length, and where the next begins (NULL: there is none). */
static size_t level(const char *p, const char **next)
{
    const char *slash = strchr(p, '/');
    *next = slash != NULL ? slash + 1 : NULL;
    return slash != NULL ? (size_t)(slash - p) : strlen(p);
}

/* Does filter a match every topic that b matches? Both are well-formed. */
static bool covers(const char *a, const char *b)
{
    if (b[0] == '$' && a[0] != '$') {
        return false; /* wildcards in front never match topics that begin with $ */
    }
    while (a != NULL && b != NULL) {
        const char *a_next, *b_next;
        size_t n = level(a, &a_next), k = level(b, &b_next);
        bool any = n == 1 && a[0] == '+';
        if (n == 1 && a[0] == '#') {
            return true;
        }
        if (k == 1 && b[0] == '#') {
            return false;
        }
        if (!any && (n != k || memcmp(a, b, n) != 0)) {
            return false;
        }
        a = a_next;
        b = b_next;
    }
    return b == NULL && (a == NULL || strcmp(a, "#") == 0); /* "x/#" matches "x" too */
}

static void warn(json_t *list, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void warn(json_t *list, const char *fmt, ...)
{
    char text[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    json_array_append_new(list, json_string(text));
}

static void warn_filters(const struct config_stream *s, json_t *list)
{
    for (uint32_t i = 0; i < s->filter_count; i++) {
        for (uint32_t k = 0; k < s->filter_count; k++) {
            if (k != i && covers(s->filters[k], s->filters[i]) &&
                (k < i || !covers(s->filters[i], s->filters[k]))) {
                warn(list, "stream %s: the filter %s adds nothing: %s covers it", s->name,
                     s->filters[i], s->filters[k]);
                break;
            }
        }
    }
}

/* The fewest levels of a topic that the filter matches; *more: others have more of them. */
static int32_t filter_levels(const char *filter, bool *more)
{
    int32_t count = 0;
    *more = false;
    for (const char *p = filter, *next; p != NULL; p = next) {
        *more = *p == '#';
        (void)level(p, &next); /* however long */
        count++;
    }
    return *more && count > 1 ? count - 1 : count; /* "x/#" matches "x" too */
}

/* A key that no topic has; and records without one where the newest of each key is kept, and the
 * older ones go: those never do. */
static void warn_key(const struct config_stream *s, json_t *list)
{
    uint32_t without = 0, never = 0;
    for (uint32_t i = 0; i < s->filter_count && s->key == KEY_LEVELS; i++) {
        bool more, lacks = filter_levels(s->filters[i], &more) < s->key_from;
        without += lacks;
        never += lacks && !more;
    }
    if (never > 0 && never == s->filter_count) {
        warn(list, "stream %s: no record will have a key: its filters match no topic that has a "
             "level of %s", s->name, s->key_text);
    } else if (!config_compacts(s)) {
        return;
    } else if (without > 0) {
        warn(list, "stream %s: a topic of fewer than %d levels has no key with %s, and compaction "
             "keeps records without a key", s->name, s->key_from, s->key_text);
    } else if (s->key == KEY_PAYLOAD) {
        warn(list, "stream %s: a retained empty publish has no key with %s, so it is no tombstone "
             "of the value before it; compaction keeps both", s->name, s->key_text);
    } else if (s->key == KEY_PROPERTY) {
        warn(list, "stream %s: a publish without that user property has no key with %s, and "
             "compaction keeps records without a key", s->name, s->key_text);
    }
}

/* Two streams with overlapping filters store a publish twice: allowed, sometimes meant, worth a
 * word. */
static void warn_streams(const struct config_stream *a, const struct config_stream *b, json_t *list)
{
    for (uint32_t i = 0; i < a->filter_count; i++) {
        for (uint32_t k = 0; k < b->filter_count; k++) {
            bool forth = covers(a->filters[i], b->filters[k]);
            if (forth || covers(b->filters[k], a->filters[i])) {
                warn(list, "streams %s and %s: what %s matches is stored in both", a->name, b->name,
                     forth ? b->filters[k] : a->filters[i]);
                return;
            }
        }
    }
}

#define STREAM_PAIRS_MAX 200 /* streams that are compared each with each */

/* Adds to list, which has the configuration's own. */
static void add_warnings(const struct config *c, json_t *list)
{
    for (size_t i = 0; i < c->stream_count; i++) {
        const struct config_stream *s = &c->streams[i];
        warn_filters(s, list);
        warn_key(s, list);
        for (size_t k = i + 1; k < c->stream_count && c->stream_count <= STREAM_PAIRS_MAX; k++) {
            warn_streams(s, &c->streams[k], list);
        }
        if (c->store.limit_bytes > 0 && s->retention_bytes > 0 &&
            s->retention_bytes > c->store.limit_bytes / s->partitions) {
            warn(list,
                 "stream %s: %d partitions of retention.bytes %lld are more than store.limit.bytes "
                 "%lld, which comes first",
                 s->name, s->partitions, (long long)s->retention_bytes,
                 (long long)c->store.limit_bytes);
        }
    }
    if (c->stream_count == 0) {
        warn(list, "there are no streams: nothing will be captured");
    }
    struct config_listener listeners[LISTENERS_MAX];
    size_t count = listeners_read(&c->server, listeners);
    for (size_t i = 0; i < count; i++) {
        if (listeners[i].advertised_host[0] == '\0') {
            warn(list,
                 "listener %s is open to the network and has no advertised.listeners: each client "
                 "is told the address that it has reached, which behind NAT is not the one to use",
                 listeners[i].name);
        }
    }
}

static json_t *lines_of(struct buf *b)
{
    json_t *list = json_array();
    for (const char *p = buf_text(b); *p != '\0';) {
        const char *end = strchr(p, '\n');
        size_t n = end != NULL ? (size_t)(end - p) : strlen(p);
        if (n > 0) {
            json_array_append_new(list, json_stringn(p, n));
        }
        p += n + (end != NULL ? 1 : 0);
    }
    return list;
}

static void print_lines(json_t *list, const char *prefix)
{
    size_t i;
    json_t *line;
    json_array_foreach(list, i, line)
    {
        printf("%s%s\n", prefix, json_string_value(line));
    }
}

/* Streams of the file, and those that clients have bound beside them. */
static void print_count(const char *path, const struct config *c)
{
    size_t bound = 0;
    for (size_t i = 0; i < c->stream_count; i++) {
        bound += c->streams[i].bound;
    }
    size_t own = c->stream_count - bound;
    printf("%s: good, %zu stream%s", path, own, own == 1 ? "" : "s");
    if (bound > 0) {
        printf("; Kafka clients have bound %zu more", bound);
    }
    printf("\n");
}

int verb_check(const struct cli *cli)
{
    const char *path = cli->argument != NULL ? cli->argument
                       : cli->config != NULL ? cli->config
                                             : CLI_CONFIG_DEFAULT;
    struct config c;
    if (config_init(&c) != OK) {
        return out_error("no memory");
    }
    bool ok = config_load(&c, path) == OK && config_add_bound(&c) == OK;
    json_t *mistakes = lines_of(&c.mistakes);
    json_t *warnings = lines_of(&c.warnings);
    if (ok) {
        add_warnings(&c, warnings);
    }
    if (cli->json) {
        json_t *document = json_pack("{s:s, s:b, s:O, s:O}", "file", path, "ok", ok ? 1 : 0,
                                     "mistakes", mistakes, "warnings", warnings);
        out_json(document);
        json_decref(document);
    } else {
        print_lines(mistakes, "");
        print_lines(warnings, "note: ");
        if (ok) {
            print_count(path, &c);
        }
    }
    json_decref(mistakes);
    json_decref(warnings);
    config_fini(&c);
    return ok ? CLI_OK : CLI_USAGE;
}
