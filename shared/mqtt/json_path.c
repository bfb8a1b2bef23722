/* A pass over the whole text says whether it is well-formed; then each step of the path walks the
 * members of one object or the elements of one array, and skips the values between them with the
 * same function. A path of n steps reads the text n + 2 times at most and builds nothing, which is
 * still less work than a tree of it.
 *
 * Nesting is kept in an array, not on the stack, and every byte is compared with the end first: the
 * text comes from any client. jansson decodes strings, for it knows escapes and UTF-8; it gets one
 * string at a time, and of the names only those that have escapes. */
#include "shared/mqtt/json_path.h"

#include <jansson.h>
#include <string.h>

#define ESCAPE_BYTES 6 /* \u0041: the longest form of a byte of text */

struct json_text {
    const uint8_t *p;
    const uint8_t *end;
};

static bool at(const struct json_text *t, char c)
{
    return t->p < t->end && *t->p == (uint8_t)c;
}

static bool take(struct json_text *t, char c)
{
    bool there = at(t, c);
    t->p += there;
    return there;
}

static bool at_one_of(const struct json_text *t, const char *set)
{
    return t->p < t->end && *t->p && strchr(set, *t->p);
}

static void skip_space(struct json_text *t)
{
    while (at_one_of(t, " \t\r\n")) {
        t->p++;
    }
}

static bool skip_escape(struct json_text *t)
{
    if (!take(t, 'u')) {
        bool known = at_one_of(t, "\"\\/bfnrt");
        t->p += known;
        return known;
    }
    for (int i = 0; i < 4; i++, t->p++) {
        if (!at_one_of(t, "0123456789abcdefABCDEF")) {
            return false;
        }
    }
    return true;
}

static bool skip_string(struct json_text *t)
{
    if (!take(t, '"')) {
        return false;
    }
    while (t->p < t->end && *t->p >= ' ') {
        uint8_t c = *t->p++;
        if (c == '"') {
            return true;
        }
        if (c == '\\' && !skip_escape(t)) {
            return false;
        }
    }
    return false;
}

static bool skip_digits(struct json_text *t)
{
    const uint8_t *from = t->p;
    while (t->p < t->end && *t->p >= '0' && *t->p <= '9') {
        t->p++;
    }
    return t->p > from;
}

static bool skip_number(struct json_text *t)
{
    (void)take(t, '-'); /* there may be one */
    if (!take(t, '0') && !skip_digits(t)) {
        return false;
    }
    if (take(t, '.') && !skip_digits(t)) {
        return false;
    }
    if (!at_one_of(t, "eE")) {
        return true;
    }
    t->p++;
    t->p += at_one_of(t, "+-");
    return skip_digits(t);
}

static bool skip_scalar(struct json_text *t)
{
    static const char *const words[] = {"true", "false", "null"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        size_t len = strlen(words[i]);
        if ((size_t)(t->end - t->p) >= len && memcmp(t->p, words[i], len) == 0) {
            t->p += len;
            return true;
        }
    }
    return at(t, '"') ? skip_string(t) : skip_number(t);
}

/* A member's name and its colon. */
static bool skip_name(struct json_text *t)
{
    skip_space(t);
    bool named = skip_string(t);
    skip_space(t);
    return named && take(t, ':');
}

static char closer(char opener)
{
    return opener == '{' ? '}' : ']';
}

/* Over one value, of whatever kind, and the blanks before it; false: it is malformed. */
static bool skip_value(struct json_text *t)
{
    char open[JSON_PATH_DEPTH_MAX];
    size_t depth = 0;
    do {
        skip_space(t);
        if (!at_one_of(t, "{[")) {
            if (!skip_scalar(t)) {
                return false;
            }
        } else if (depth == JSON_PATH_DEPTH_MAX) {
            return false;
        } else {
            char opener = open[depth++] = (char)*t->p++;
            skip_space(t);
            if (!at(t, closer(opener))) {
                if (opener == '{' && !skip_name(t)) {
                    return false;
                }
                continue;
            }
        }
        while (depth > 0 && (skip_space(t), take(t, closer(open[depth - 1])))) {
            depth--;
        }
        if (depth > 0 && (!take(t, ',') || (open[depth - 1] == '{' && !skip_name(t)))) {
            return false;
        }
    } while (depth > 0);
    return true;
}

static json_t *decode(struct slice string)
{
    return json_loadb((const char *)string.data, string.len, JSON_DECODE_ANY | JSON_ALLOW_NUL,
                      NULL);
}

/* Whether the member whose name begins at t is called so. */
static bool name_is(struct json_text t, struct slice name)
{
    const uint8_t *from = t.p;
    if (!skip_string(&t)) {
        return false;
    }
    struct slice raw = slice_make(from + 1, (size_t)(t.p - from) - 2);
    if (!memchr(raw.data, '\\', raw.len)) {
        return slice_eq(raw, name);
    }
    if (raw.len / ESCAPE_BYTES > name.len) {
        return false;
    }
    json_t *v = decode(slice_make(from, raw.len + 2));
    bool same = v && slice_eq(name, slice_make(json_string_value(v), json_string_length(v)));
    json_decref(v);
    return same;
}

/* SIZE_MAX: no index, or none that an array reaches. */
static size_t index_of(struct slice name)
{
    size_t n = 0;
    for (size_t i = 0; i < name.len; i++) {
        uint8_t c = name.data[i];
        if (c < '0' || c > '9' || n > SIZE_MAX / 10 - 1) {
            return SIZE_MAX;
        }
        n = n * 10 + (size_t)(c - '0');
    }
    return n;
}

/* From a container to its member or element: the value begins at t. */
static bool step(struct json_text *t, struct slice name)
{
    bool object = at(t, '{');
    if (name.len == 0 || (!object && !at(t, '['))) {
        return false;
    }
    char close = closer((char)*t->p++);
    size_t index = object ? SIZE_MAX : index_of(name);
    const uint8_t *found = NULL;
    skip_space(t);
    for (size_t i = 0; !at(t, close); i++) {
        bool here = object ? name_is(*t, name) : i == index;
        if (object && !skip_name(t)) {
            return false;
        }
        skip_space(t);
        found = here ? t->p : found;
        if (!skip_value(t)) {
            return false;
        }
        skip_space(t);
        (void)take(t, ','); /* the last has none */
        skip_space(t);
    }
    t->p = found;
    return found != NULL;
}

/* The length of the .name or [digits] at p; 0: there is neither. */
static size_t step_len(const char *p)
{
    size_t name = *p == '.' ? strcspn(p + 1, ".[]") : 0;
    size_t digits = *p == '[' ? strspn(p + 1, "0123456789") : 0;
    return name > 0 ? name + 1 : digits > 0 && p[digits + 1] == ']' ? digits + 2 : 0;
}

bool json_path_valid(const char *path)
{
    size_t len = strcspn(path, ".[]");
    while (len > 0 && path[len]) {
        path += len;
        len = step_len(path);
    }
    return len > 0;
}

bool json_path_find(struct slice text, const char *path, struct slice *value)
{
    if (text.len == 0) {
        return false;
    }
    struct json_text t = {text.data, text.data + text.len};
    bool formed = skip_value(&t);
    skip_space(&t);
    if (!formed || t.p < t.end) {
        return false;
    }
    t.p = text.data;
    skip_space(&t);
    while (*path) {
        size_t len = strcspn(path, ".[]");
        if (!step(&t, slice_make((const uint8_t *)path, len))) {
            return false;
        }
        path += len;
        path += strspn(path, ".[]");
    }
    const uint8_t *from = t.p;
    formed = skip_value(&t);
    *value = slice_make(from, (size_t)(t.p - from));
    return formed;
}

bool json_path_string(struct slice value, struct buf *out)
{
    json_t *v = decode(value);
    bool text = json_is_string(v);
    if (text) {
        buf_put(out, json_string_value(v), json_string_length(v));
    }
    json_decref(v);
    return text;
}
