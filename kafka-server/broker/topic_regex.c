/* PCRE2 as RE2.
 *
 * RE2 itself is C++ without a C interface in Debian; a shim would bring a second language for one
 * call. PCRE2 is C, is on every Debian (libselinux needs it), and is well kept. Two things it has
 * that RE2 must not have:
 *
 * Constructs that are no regular language. Back references, look-around, atomic groups, recursion,
 * conditions, verbs and possessive quantifiers are found by a walk over the pattern (`is_re2`)
 * and refused, as RE2 refuses them: a client that got by with one here would fail at Kafka. The
 * walk also refuses what means something else in both (\C, \K, \R, \X, …).
 *
 * Backtracking. A match may take MATCH_LIMIT steps; names have 249 bytes at most, and an
 * honest pattern needs a few per byte. A pattern that runs into the limit is spent: it matches
 * nothing from then on, so that it costs its limit once and not once for each topic. Nothing is
 * allocated while matching, but for what the match needs beyond its stack, which is limited,
 * too. */
#include "kafka-server/broker/topic_regex.h"

#include <stdlib.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "shared/base/log.h"

#define MATCH_LIMIT      30000
#define MATCH_HEAP_KIB   1024
#define PARENS_DEPTH_MAX 100
#define WARN_EVERY_MS    60000

struct topic_regex {
    pcre2_code *code;
    pcre2_match_data *data;
    pcre2_match_context *limits;
    bool spent;
};

/* --- is it a pattern that RE2 would take? ---------------------------------------------------- */

/* Letters and digits after a backslash; punctuation after one is itself everywhere. */
static bool escape_ok(uint8_t c)
{
    bool alphanumeric = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    return !alphanumeric || strchr("AbBdDsSwWzQEpPxaftnrv0", c) != NULL;
}

/* What follows "(?": a group without number, flags, or a name. */
static bool group_ok(struct slice s, size_t at)
{
    size_t i = at;
    while (i < s.len && strchr("imsU-", s.data[i]) != NULL && s.data[i] != '\0') {
        i++;
    }
    if (i < s.len && (s.data[i] == ':' || (s.data[i] == ')' && i > at))) {
        return true;
    }
    bool named = s.len - at >= 2 && s.data[at] == 'P' && s.data[at + 1] == '<';
    bool plain =
        s.len - at >= 2 && s.data[at] == '<' && s.data[at + 1] != '=' && s.data[at + 1] != '!';
    return named || plain;
}

/* The end of "\Q…\E", or of the pattern. */
static size_t skip_quoted(struct slice s, size_t at)
{
    while (at + 1 < s.len && !(s.data[at] == '\\' && s.data[at + 1] == 'E')) {
        at++;
    }
    return at + 1 < s.len ? at + 2 : s.len;
}

/* A quantifier is followed by at most one '?'; "a++" is possessive, "a**" nothing at all. */
static bool is_quantifier(uint8_t c)
{
    return c == '*' || c == '+' || c == '?';
}

static bool is_re2(struct slice s)
{
    bool in_class = false;
    for (size_t i = 0; i < s.len; i++) {
        uint8_t c = s.data[i], next = i + 1 < s.len ? s.data[i + 1] : 0;
        if (c == '\\') {
            if (i + 1 == s.len || !escape_ok(next)) {
                return false;
            }
            i = next == 'Q' ? skip_quoted(s, i + 2) - 1 : i + 1;
        } else if (in_class) {
            in_class = c != ']';
        } else if (c == '[') {
            in_class = true;
            i += next == '^';
            i += i + 1 < s.len && s.data[i + 1] == ']'; /* a bracket that comes first is itself */
        } else if (c == '(' && next == '*') {
            return false;
        } else if (c == '(' && next == '?' && !group_ok(s, i + 2)) {
            return false;
        } else if ((is_quantifier(c) || c == '}') && next == '+') {
            return false;
        }
    }
    return true;
}

/* --- the library ----------------------------------------------------------------------------- */

static pcre2_code *compile(struct slice pattern)
{
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (context == NULL) {
        return NULL;
    }
    int error;
    PCRE2_SIZE at;
    pcre2_set_max_pattern_length(context, TOPIC_REGEX_BYTES_MAX);
    pcre2_set_parens_nest_limit(context, PARENS_DEPTH_MAX);
    const uint32_t options = PCRE2_ANCHORED | PCRE2_ENDANCHORED | PCRE2_UTF |
                             PCRE2_NO_AUTO_CAPTURE | PCRE2_DOLLAR_ENDONLY | PCRE2_NEVER_BACKSLASH_C;
    pcre2_code *code = pcre2_compile(pattern.data, pattern.len, options, &error, &at, context);
    pcre2_compile_context_free(context);
    return code;
}

struct topic_regex *topic_regex_new(struct slice pattern)
{
    if (pattern.len > TOPIC_REGEX_BYTES_MAX || !is_re2(pattern)) {
        return NULL;
    }
    struct topic_regex *r = calloc(1, sizeof *r);
    if (r == NULL) {
        return NULL;
    }
    r->code = compile(pattern);
    r->data = r->code != NULL ? pcre2_match_data_create(1, NULL) : NULL;
    r->limits = pcre2_match_context_create(NULL);
    if (r->data == NULL || r->limits == NULL) {
        topic_regex_free(r);
        return NULL;
    }
    pcre2_set_match_limit(r->limits, MATCH_LIMIT);
    pcre2_set_heap_limit(r->limits, MATCH_HEAP_KIB);
    return r;
}

void topic_regex_free(struct topic_regex *r)
{
    if (r == NULL) {
        return;
    }
    pcre2_match_context_free(r->limits);
    pcre2_match_data_free(r->data);
    pcre2_code_free(r->code);
    free(r);
}

bool topic_regex_match(struct topic_regex *r, struct slice name)
{
    if (r->spent) {
        return false;
    }
    int n = pcre2_match(r->code, name.data, name.len, 0, 0, r->data, r->limits);
    if (n < 0 && n != PCRE2_ERROR_NOMATCH) {
        static struct log_limit limit; /* one pattern is made anew for many a question */
        unsigned held;
        if (log_limit_pass(&limit, WARN_EVERY_MS, &held)) {
            log_warn("a subscription's regular expression takes too long and matches nothing more "
                     "topic=%.*s suppressed=%u",
                     (int)name.len, (const char *)name.data, held);
        }
        r->spent = true;
    }
    return n >= 0;
}
