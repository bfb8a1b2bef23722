/* A scanner that only skips: it relies on the text being valid JSON and still never reads past its
 * end, so that a mistake here costs a line number and nothing else. Nesting is counted, not
 * recursed. Keys are compared as written; a key spelled with escapes is not found, and its mistake
 * carries the line of the object around it. */
#include "shared/config/locate.h"

static void spot_step(struct json_spot *s)
{
    s->line += *s->p == '\n';
    s->p++;
}

static void spot_space(struct json_spot *s)
{
    while (s->p < s->end && strchr(" \t\r\n", *s->p)) {
        spot_step(s);
    }
}

static void spot_string(struct json_spot *s)
{
    for (s->p++; s->p < s->end && *s->p != '"'; s->p++) {
        s->p += *s->p == '\\' && s->p + 1 < s->end;
    }
    s->p += s->p < s->end;
}

/* Over one value, of whatever kind. */
static void spot_skip(struct json_spot *s)
{
    int depth = 0;
    do {
        spot_space(s);
        if (s->p == s->end) {
            return;
        }
        if (*s->p == '"') {
            spot_string(s);
        } else if (strchr("[{", *s->p)) {
            depth++;
            s->p++;
        } else if (strchr("]}", *s->p)) {
            depth--;
            s->p++;
        } else if (strchr(",:", *s->p)) {
            s->p++;
        } else {
            while (s->p < s->end && !strchr(",:]} \t\r\n", *s->p)) {
                s->p++;
            }
        }
    } while (depth > 0);
}

struct json_spot json_spot_root(const char *text, size_t len)
{
    struct json_spot s = {text, text + len, 1};
    spot_space(&s);
    return s;
}

struct json_spot json_spot_value(struct json_spot member)
{
    spot_string(&member);
    spot_space(&member);
    member.p += member.p < member.end; /* the colon */
    spot_space(&member);
    return member;
}

bool json_spot_first(struct json_spot array, struct json_spot *out)
{
    if (array.p == array.end || !strchr("[{", *array.p)) {
        return false;
    }
    array.p++;
    spot_space(&array);
    *out = array;
    return array.p < array.end && !strchr("]}", *array.p);
}

bool json_spot_next(struct json_spot element, struct json_spot *out)
{
    spot_skip(&element);
    spot_space(&element);
    if (element.p == element.end || *element.p != ',') {
        return false;
    }
    element.p++;
    spot_space(&element);
    *out = element;
    return element.p < element.end;
}

bool json_spot_member(struct json_spot object, const char *key, struct json_spot *out)
{
    size_t len = strlen(key);
    struct json_spot member;
    bool more = json_spot_first(object, &member);
    while (more) {
        if ((size_t)(member.end - member.p) >= len + 2 && memcmp(member.p + 1, key, len) == 0 &&
            member.p[len + 1] == '"') {
            *out = member;
            return true;
        }
        more = json_spot_next(json_spot_value(member), &member);
    }
    return false;
}

const char *json_hint(const char *error)
{
    static const struct {
        const char *near, *hint;
    } hints[] = {
        {"near '/", "; JSON has no comments"},
        {"near '#", "; JSON has no comments"},
        {"expected near '}'", "; is there a comma too many before it?"},
        {"unexpected token near ']'", "; is there a comma too many before it?"},
        {"near '\xef\xbb\xbf", "; save the file without a byte order mark"},
    };
    for (size_t i = 0; i < sizeof hints / sizeof hints[0]; i++) {
        if (strstr(error, hints[i].near)) {
            return hints[i].hint;
        }
    }
    return "";
}
