/* Topic filters: what is one, what matches, and that the tree agrees with the plain definition. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "shared/base/clock.h"
#include "shared/mqtt/filter.h"

#include <stdio.h>
#include <stdlib.h>

/* The first level of *rest, which then holds those after it; data NULL: there was none. */
static struct slice take_level(struct slice *rest)
{
    if (rest->data == NULL) {
        return *rest;
    }
    const uint8_t *slash = rest->len > 0 ? memchr(rest->data, '/', rest->len) : NULL;
    size_t len = slash != NULL ? (size_t)(slash - rest->data) : rest->len;
    struct slice level = slice_make(rest->data, len);
    *rest = slash != NULL ? slice_make(slash + 1, rest->len - len - 1) : slice_make(NULL, 0);
    return level;
}

/* What the tree must agree with: level by level, as MQTT defines it. */
static bool plainly_matches(struct slice filter, struct slice topic)
{
    bool dollar = topic.len > 0 && topic.data[0] == '$';
    for (bool first = true; filter.data != NULL; first = false) {
        struct slice want = take_level(&filter), have = take_level(&topic);
        bool rest = slice_eq(want, slice_str("#")), any = slice_eq(want, slice_str("+"));
        if (first && dollar && (rest || any)) {
            return false;
        }
        if (rest) {
            return true;
        }
        if (have.data == NULL || (!any && !slice_eq(want, have))) {
            return false;
        }
    }
    return topic.data == NULL;
}

static bool matches(const char *filter, const char *topic)
{
    struct slice f = slice_str(filter), t = slice_str(topic);
    assert_int_equal(filter_check(f, NULL), OK);
    struct filter_tree *tree = filter_tree_new();
    assert_non_null(tree);
    assert_int_equal(filter_tree_add(tree, f, 7), OK);
    uint32_t out[2] = {0, 0};
    size_t n = filter_tree_match(tree, t, out, 2);
    filter_tree_free(tree);
    bool plain = plainly_matches(f, t);
    assert_int_equal(n, plain ? 1 : 0);
    assert_int_equal(out[0], plain ? 7 : 0);
    return plain;
}

static void test_wildcards_match_as_mqtt_says(void **state)
{
    assert_true(matches("a/b", "a/b"));
    assert_false(matches("a/b", "a/b/c"));
    assert_false(matches("a/b", "a"));
    assert_false(matches("a", "A"));
    assert_true(matches("sport/tennis/player1/#", "sport/tennis/player1"));
    assert_true(matches("sport/tennis/player1/#", "sport/tennis/player1/ranking"));
    assert_true(matches("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon"));
    assert_true(matches("sport/#", "sport"));
    assert_false(matches("sport/#", "sports"));
    assert_true(matches("#", "a"));
    assert_true(matches("#", "a/b/c"));
    assert_true(matches("#", "/"));
    assert_true(matches("sport/tennis/+", "sport/tennis/player1"));
    assert_false(matches("sport/tennis/+", "sport/tennis/player1/ranking"));
    assert_false(matches("sport/+", "sport"));
    assert_true(matches("sport/+", "sport/"));
    assert_true(matches("+/+", "/finance"));
    assert_true(matches("/+", "/finance"));
    assert_false(matches("+", "/finance"));
    assert_true(matches("+/tennis/#", "sport/tennis"));
    assert_true(matches("a//b", "a//b"));
    assert_false(matches("a//b", "a/b"));
    assert_true(matches("+/+/+", "//"));
}

static void test_dollar_topics_are_hidden_from_leading_wildcards(void **state)
{
    assert_false(matches("#", "$foo/a"));
    assert_false(matches("+/a", "$foo/a"));
    assert_false(matches("+", "$foo"));
    assert_true(matches("$foo/#", "$foo/a"));
    assert_true(matches("$foo/+", "$foo/a"));
    assert_true(matches("a/#", "a/$b"));
    assert_true(matches("+/$b", "a/$b"));
}

static void assert_refused(const char *filter, size_t len, const char *part)
{
    struct errmsg m;
    assert_int_equal(filter_check(slice_make(filter, len), &m), ERR_INVALID);
    if (!strstr(m.text, part)) {
        print_message("%s\n", m.text);
    }
    assert_non_null(strstr(m.text, part));
}

static void test_bad_filters_are_refused_with_a_reason(void **state)
{
    assert_refused("", 0, "is empty");
    assert_refused("a\0b", 3, "at byte 2");
    assert_refused("\xc3(", 2, "at byte 1");
    assert_refused("a/\xed\xa0\x80", 5, "at byte 3"); /* a surrogate */
    assert_refused("\xc0\x80", 2, "at byte 1");       /* overlong */
    assert_refused("a\xe2\x82", 3, "at byte 2");      /* cut off */
    assert_refused("\xf5\x80\x80\x80", 4, "at byte 1");
    assert_refused("a+", 2, "'+' must fill");
    assert_refused("+a/b", 4, "'+' must fill");
    assert_refused("a/#/b", 5, "must be the last");
    assert_refused("#/", 2, "must be the last");
    assert_refused("a#", 2, "'#' must fill");
    assert_refused("##", 2, "'#' must fill");
    assert_refused("$share/g/a", 10, "shared subscription");
    assert_int_equal(filter_check(slice_str("$shared/a"), NULL), OK);
    assert_int_equal(filter_check(slice_str("\xe2\x82\xac/+"), NULL), OK);
    char deep[2 * FILTER_LEVELS_MAX + 2];
    for (size_t i = 0; i < sizeof deep; i++) {
        deep[i] = i % 2 ? '/' : 'a';
    }
    assert_int_equal(filter_check(slice_make(deep, 2 * FILTER_LEVELS_MAX - 1), NULL), OK);
    assert_refused(deep, 2 * FILTER_LEVELS_MAX + 1, "levels");
}

static void test_a_value_under_several_filters_comes_once(void **state)
{
    struct filter_tree *t = filter_tree_new();
    const char *filters[] = {"a/b", "a/+", "#", "a/#", "+/b", "a/b"};
    for (size_t i = 0; i < sizeof filters / sizeof filters[0]; i++) {
        assert_int_equal(filter_tree_add(t, slice_str(filters[i]), 3), OK);
        assert_int_equal(filter_tree_add(t, slice_str(filters[i]), 100), OK);
    }
    assert_int_equal(filter_tree_add(t, slice_str("a/b"), 4), OK);
    uint32_t out[16];
    assert_int_equal(filter_tree_match(t, slice_str("a/b"), out, 16), 3);
    assert_int_equal(filter_tree_match(t, slice_str("a/b"), out, 2), 2);
    assert_int_equal(filter_tree_match(t, slice_str("z"), out, 16), 2);
    filter_tree_free(t);
}

static uint64_t seed = 42;

static uint32_t pick(uint32_t n)
{
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(seed >> 33) % n;
}

static size_t random_levels(char *out, bool filter)
{
    static const char *const names[] = {"a", "b", "c", "", "$d", "ab"};
    size_t len = 0;
    for (uint32_t i = 0, n = 1 + pick(5); i < n; i++) {
        const char *level = names[pick(6)];
        if (filter && pick(4) == 0) {
            level = pick(3) == 0 && i == n - 1 ? "#" : "+";
        }
        len += (size_t)snprintf(out + len, 64 - len, "%s%s", i ? "/" : "", level);
    }
    if (len == 0) {
        out[len++] = '/';
        out[len] = 0;
    }
    return len;
}

/* The plain definition is the oracle. */
static void test_the_tree_agrees_with_the_plain_definition(void **state)
{
    static char filters[600][64];
    for (int round = 0; round < 20; round++) {
        struct filter_tree *t = filter_tree_new();
        for (uint32_t i = 0; i < 600; i++) {
            size_t len = random_levels(filters[i], true);
            assert_int_equal(filter_tree_add(t, slice_make(filters[i], len), i / 2), OK);
        }
        for (int k = 0; k < 400; k++) {
            char topic[64];
            struct slice ts = slice_make(topic, random_levels(topic, false));
            uint32_t out[300];
            bool found[300] = {false};
            size_t n = filter_tree_match(t, ts, out, 300);
            for (size_t i = 0; i < n; i++) {
                assert_false(found[out[i]]);
                found[out[i]] = true;
            }
            for (uint32_t v = 0; v < 300; v++) {
                bool plain = plainly_matches(slice_str(filters[2 * v]), ts) ||
                             plainly_matches(slice_str(filters[2 * v + 1]), ts);
                assert_int_equal(found[v], plain);
            }
        }
        filter_tree_free(t);
    }
}

static void test_a_topic_deeper_than_any_filter_is_fine(void **state)
{
    struct filter_tree *t = filter_tree_new();
    char filter[2 * FILTER_LEVELS_MAX];
    for (size_t i = 0; i < sizeof filter; i++) {
        filter[i] = i % 2 ? '/' : '+';
    }
    assert_int_equal(filter_tree_add(t, slice_make(filter, sizeof filter - 1), 0), OK);
    filter[sizeof filter - 2] = '#';
    assert_int_equal(filter_tree_add(t, slice_make(filter, sizeof filter - 1), 1), OK);
    char *topic = malloc(65535);
    memset(topic, '/', 65535);
    uint32_t out[4];
    assert_int_equal(filter_tree_match(t, slice_make(topic, 65535), out, 4), 1);
    assert_int_equal(out[0], 1);
    free(topic);
    filter_tree_free(t);
}

static double cost_ns(uint32_t filters)
{
    struct filter_tree *t = filter_tree_new();
    char text[64];
    for (uint32_t i = 0; i < filters; i++) {
        const char *rest = i % 2 ? "line/+/temp" : "#";
        size_t len = (size_t)snprintf(text, sizeof text, "site/%u/%s", i, rest);
        assert_int_equal(filter_tree_add(t, slice_make(text, len), i), OK);
    }
    struct slice topic = slice_str("site/6/line/3/temp");
    uint32_t out[8];
    double best = 1e9;
    for (int run = 0; run < 20; run++) {
        int64_t start = clock_mono_us();
        for (int i = 0; i < 20000; i++) {
            assert_int_equal(filter_tree_match(t, topic, out, 8), 1);
        }
        double ns = (double)(clock_mono_us() - start) / 20.0;
        best = ns < best ? ns : best;
    }
    filter_tree_free(t);
    return best;
}

static void test_the_cost_does_not_grow_with_the_filters(void **state)
{
    double few = cost_ns(10), many = cost_ns(1000);
    print_message("10 filters: %.0f ns, 1000 filters: %.0f ns\n", few, many);
    assert_true(many < few * 3 + 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wildcards_match_as_mqtt_says),
        cmocka_unit_test(test_dollar_topics_are_hidden_from_leading_wildcards),
        cmocka_unit_test(test_bad_filters_are_refused_with_a_reason),
        cmocka_unit_test(test_a_value_under_several_filters_comes_once),
        cmocka_unit_test(test_the_tree_agrees_with_the_plain_definition),
        cmocka_unit_test(test_a_topic_deeper_than_any_filter_is_fine),
        cmocka_unit_test(test_the_cost_does_not_grow_with_the_filters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
