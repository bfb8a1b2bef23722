/* Values found in a JSON text without parsing it, beside jansson, which parses it: the same value
 * in whatever both take, and no byte read beyond the end (the sanitizers look on: every text is
 * handed over in memory of its own length). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "shared/mqtt/json_path.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#define RANDOM_TEXTS 20000

static uint64_t seed;

static uint32_t pick(uint32_t n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 33) % n;
}

/* What is found, as a slice of *copy, which the caller frees. */
static bool find(const void *text, size_t len, const char *path, uint8_t **copy,
                 struct slice *value)
{
    *copy = malloc(len ? len : 1);
    assert_non_null(*copy);
    memcpy(*copy, text, len);
    bool found = json_path_find(slice_make(len ? *copy : NULL, len), path, value);
    if (found) {
        assert_true(value->len > 0 && value->data >= *copy);
        assert_true(value->data + value->len <= *copy + len);
    }
    return found;
}

static void assert_found(const char *text, const char *path, const char *expected)
{
    uint8_t *copy;
    struct slice value;
    char got[256] = "(none)";
    if (find(text, strlen(text), path, &copy, &value)) {
        snprintf(got, sizeof got, "%.*s", (int)value.len, (const char *)value.data);
    }
    free(copy);
    assert_string_equal(got, expected);
}

static void test_a_value_is_found_as_it_is_written(void **state)
{
    static const char *const rows[][3] = {
        {"{\"id\":0.1}", "id", "0.1"},
        {"{ \"id\" : 4.50 , \"x\" : 1 }", "id", "4.50"},
        {"{\"id\":1e3}", "id", "1e3"},
        {"{\"id\":-0}", "id", "-0"},
        {"{\"id\":7,\"n\":18446744073709551615,\"m\":1e400}", "id", "7"},
        {"{\"n\":18446744073709551615}", "n", "18446744073709551615"},
        {"{\"a\":{\"b\":[1,{\"c\":\"x\"}]}}", "a.b.1.c", "\"x\""},
        {"{\"a\":{\"b\":[1,{\"c\":\"x\"}]}}", "a.b[1].c", "\"x\""},
        {"{\"a\":{\"b\":[1,{\"c\":\"x\"}]}}", "a.b[2]", "(none)"},
        {"{\"a\":{\"b\":[1]}}", "a.b.x", "(none)"},
        {"{\"a\":[1]}", "a.99999999999999999999999", "(none)"},
        {"{\"a\":[ 1 , 2 ]}", "a.01", "2"},
        {"{\"a\":{\"1\":2}}", "a.1", "2"},
        {"{\"a\":1}", "a.b", "(none)"},
        {"{\"a\":1}", ".a", "(none)"},
        {"{\"a\":{ } , \"b\":[ ]}", "a", "{ }"},
        {"{\"a\":{ } , \"b\":[ ]}", "b", "[ ]"},
        {" 5 ", "a", "(none)"},
        {"{\"a\":1,\"a\":2}", "a", "2"},
        {"{\"a\":{\"b\":1},\"a\":{\"c\":2}}", "a.b", "(none)"},
        {"{\"a\":1,\"\\u0061\":2}", "a", "2"},
        {"{\"\\u00e9\\/\":true}", "\xc3\xa9/", "true"},
        {"{\"x\":\"\\\"a\\\":\",\"a\":1}", "a", "1"},
        {"{\"x\":\"\xff\",\"\xfe\":\"\\ud800\",\"a\":1}", "a", "1"}, /* not UTF-8, elsewhere */
        {"{\"x\\u0000\":\"\\u0000\",\"a\":1}", "a", "1"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_found(rows[i][0], rows[i][1], rows[i][2]);
    }
}

static void test_the_whole_text_must_be_well_formed(void **state)
{
    static const char *const rows[] = {
        "{\"a\":1", "{\"a\":1}}", "{\"a\":1} x", "{\"a\":1,}", "{\"a\":1 \"b\":2}",
        "{\"a\":1,\"b\":01}", "{\"a\":1,\"b\":1.}", "{\"a\":1,\"b\":.5}", "{\"a\":1,\"b\":1e}",
        "{\"a\":1,\"b\":+1}", "{\"a\":1,\"b\":tru}", "{\"a\":1,\"b\":truely}", "{\"a\":1,\"b\":-}",
        "{\"a\":1,\"b\":\"\\x\"}", "{\"a\":1,\"b\":\"\\u12g4\"}", "{\"a\":1,\"b\":\"\n\"}",
        "{\"a\":1,\"b\":[1,]}", "{\"a\":1,\"b\":[1}]", "{\"a\":1,\"b\"}", "{\"a\":1,b:2}",
        "\xef\xbb\xbf{\"a\":1}", "{\"a\":1}{\"a\":1}", "// x\n{\"a\":1}",
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_found(rows[i], "a", "(none)");
    }
    uint8_t *copy;
    struct slice value;
    assert_false(find("{\"a\":1}\0", 8, "a", &copy, &value)); /* nothing may follow */
    free(copy);
    assert_false(find("", 0, "a", &copy, &value));
    free(copy);
}

static void test_nesting_has_a_bound(void **state)
{
    size_t len = 1u << 20;
    char *text = malloc(len);
    uint8_t *copy;
    struct slice value;
    for (size_t depth = JSON_PATH_DEPTH_MAX - 1; depth <= JSON_PATH_DEPTH_MAX + 1; depth++) {
        memset(text, '[', depth);
        memset(text + depth, ']', depth);
        assert_int_equal(find(text, 2 * depth, "0", &copy, &value), depth <= JSON_PATH_DEPTH_MAX);
        free(copy);
    }
    static const char *const pieces[] = {"[", "{", "{\"a\":", "[[],", "\"", "-", "\\"};
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        for (size_t at = 0; at < len; at++) {
            text[at] = pieces[i][at % strlen(pieces[i])];
        }
        assert_false(find(text, len, "a.a", &copy, &value));
        free(copy);
    }
    free(text);
}

/* --- beside jansson --------------------------------------------------------------------------- */

static const json_t *jansson_at(const json_t *v, const char *path)
{
    while (v && *path) {
        char name[32];
        snprintf(name, sizeof name, "%.*s", (int)strcspn(path, ".[]"), path);
        bool index = *name >= '0' && *name <= '9';
        v = !json_is_array(v) ? json_object_get(v, name)
            : index           ? json_array_get(v, strtoul(name, NULL, 10))
                              : NULL;
        path += strlen(name);
        path += strspn(path, ".[]");
    }
    return v;
}

/* The same answer from both. */
static void assert_as_jansson(const char *text, size_t len, const char *path)
{
    int flags = JSON_DECODE_ANY | JSON_ALLOW_NUL;
    json_t *doc = json_loadb(text, len, flags, NULL);
    const json_t *expected = doc ? jansson_at(doc, path) : NULL;
    uint8_t *copy;
    struct slice value;
    bool found = find(text, len, path, &copy, &value);
    json_t *got = found ? json_loadb((const char *)value.data, value.len, flags, NULL) : NULL;
    if (found != (expected != NULL) || (found && !json_equal(got, expected))) {
        fail_msg("%s of %.*s: %.*s", path, (int)len, text, found ? (int)value.len : 0,
                 found ? (const char *)value.data : "");
    }
    json_decref(got);
    json_decref(doc);
    free(copy);
}

static void put_random(struct buf *out, int depth)
{
    static const char *const scalars[] = {
        "0", "-1", "12.50", "1e3", "2E-2", "true", "false", "null", "\"\"", "\"a\"", "\"\\\"\\\\\"",
        "\"}\"", "\"\\u00e9\"", "\"\xc3\xa9,:[\"",
    };
    static const char *const names[] = {"\"a\"", "\"b\"", "\"0\"", "\"\\u0061\"", "\"\\\"\"",
                                        "\"\xc3\xa9\""};
    static const char *const blanks[] = {"", "", "", " ", "\n\t"};
#define BLANK buf_printf(out, "%s", blanks[pick(sizeof blanks / sizeof blanks[0])])
    BLANK;
    uint32_t kind = depth > 0 ? pick(4) : 3;
    if (kind == 3) {
        buf_printf(out, "%s", scalars[pick(sizeof scalars / sizeof scalars[0])]);
    } else {
        bool object = kind > 0;
        buf_put_u8(out, object ? '{' : '[');
        BLANK;
        uint32_t count = pick(5);
        for (uint32_t i = 0; i < count; i++) {
            if (object) {
                buf_printf(out, "%s", names[pick(sizeof names / sizeof names[0])]);
                BLANK;
                buf_put_u8(out, ':');
            }
            put_random(out, depth - 1);
            buf_printf(out, "%s", i + 1 < count ? ", " : "");
        }
        buf_put_u8(out, object ? '}' : ']');
    }
    BLANK;
#undef BLANK
}

static const char *random_path(void)
{
    static const char *const paths[] = {"a", "b", "0", "1", "a.a", "a.b", "a[0]", "b.0", "a.0.a",
                                        "b.a.1", "0.a", "1.a", "\xc3\xa9", "\xc3\xa9.a", "\"",
                                        "a.a.a", "c"};
    return paths[pick(sizeof paths / sizeof paths[0])];
}

static void test_random_texts_are_read_as_jansson_reads_them(void **state)
{
    struct buf text;
    buf_init(&text, 1u << 20);
    seed = 1;
    for (int i = 0; i < RANDOM_TEXTS; i++) {
        buf_reset(&text);
        put_random(&text, 4);
        assert_true(buf_ok(&text));
        assert_as_jansson((const char *)text.data, text.len, random_path());
    }
    buf_fini(&text);
}

static void test_spoiled_texts_are_refused_as_jansson_refuses_them(void **state)
{
    /* No letter that makes a \u out of an escape, or a number that jansson cannot hold. */
    static const char spoil[] = {0, '"', '{', '}', '[', ']', ',', ':', '\\', ' ', '\n', '9', '-',
                                 '.', 'x'};
    static const char *const text =
        " {\"a\": [1, {\"b\": \"\\\"}\", \"c\": [], \"d\": {}}, -1.5e3, true], \"x\": null,"
        "\"a\" :{\"b\":[false,[[ ]]]} } ";
    size_t len = strlen(text);
    char copy[256];
    for (size_t i = 0; i <= len; i++) {
        assert_as_jansson(text, i, "a.b");
        for (size_t j = 0; i < len && j < sizeof spoil; j++) {
            memcpy(copy, text, len);
            copy[i] = spoil[j];
            assert_as_jansson(copy, len, "a.b");
            memmove(copy + i, copy + i + 1, len - i - 1);
            assert_as_jansson(copy, len - 1, "a.b");
        }
    }
}

static void test_garbage_is_read_as_jansson_reads_it(void **state)
{
    static const char *const pieces[] = {"{", "}", "[", "]", ",", ":", "\"", "\"a\"", "\"a\":",
                                         "\\", "0", "1", "-", ".5", "true", "null", " ", "\n", "x"};
    seed = 2;
    for (int i = 0; i < RANDOM_TEXTS; i++) {
        char text[256];
        size_t len = (size_t)snprintf(text, sizeof text, "%s", pick(2) ? "{\"a\":" : "");
        for (uint32_t n = pick(12); n > 0; n--) {
            len += (size_t)snprintf(text + len, sizeof text - len, "%s",
                                    pieces[pick(sizeof pieces / sizeof pieces[0])]);
        }
        assert_as_jansson(text, len, random_path());
    }
}

static void test_bytes_of_any_kind_are_read_within_bounds(void **state)
{
    seed = 3;
    for (int i = 0; i < RANDOM_TEXTS; i++) {
        uint8_t text[64], *copy;
        struct slice value;
        size_t len = pick(sizeof text);
        for (size_t j = 0; j < len; j++) {
            text[j] = (uint8_t)(pick(4) ? "{\"a\":\\u0[]"[pick(10)] : (char)pick(256));
        }
        (void)find(text, len, "a.0", &copy, &value);
        free(copy);
    }
}

static void test_strings_are_decoded(void **state)
{
    static const struct {
        const char *value, *expected; /* NULL: it is none */
    } rows[] = {
        {"\"abc\"", "abc"}, {"\"\"", ""}, {"\"\\u00e9\\n\\/\"", "\xc3\xa9\n/"},
        {"\"\\ud83d\\ude00\"", "\xf0\x9f\x98\x80"}, {"\"\\ud800\"", NULL}, {"\"\xff\"", NULL},
        {"12", NULL},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct buf out;
        buf_init(&out, 64);
        bool text = json_path_string(slice_str(rows[i].value), &out);
        assert_int_equal(text, rows[i].expected != NULL);
        assert_string_equal(buf_text(&out), rows[i].expected ? rows[i].expected : "");
        buf_fini(&out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_value_is_found_as_it_is_written),
        cmocka_unit_test(test_the_whole_text_must_be_well_formed),
        cmocka_unit_test(test_nesting_has_a_bound),
        cmocka_unit_test(test_random_texts_are_read_as_jansson_reads_them),
        cmocka_unit_test(test_spoiled_texts_are_refused_as_jansson_refuses_them),
        cmocka_unit_test(test_garbage_is_read_as_jansson_reads_it),
        cmocka_unit_test(test_bytes_of_any_kind_are_read_within_bounds),
        cmocka_unit_test(test_strings_are_decoded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
