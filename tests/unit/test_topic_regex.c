/* Patterns of topic names: RE2's, and no more than RE2's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "kafka-server/broker/topic_regex.h"
#include "shared/base/clock.h"

static bool matches(const char *pattern, const char *name)
{
    struct topic_regex *r = topic_regex_new(slice_str(pattern));
    assert_non_null(r);
    bool yes = topic_regex_match(r, slice_str(name));
    topic_regex_free(r);
    return yes;
}

static void test_the_whole_name_matches(void **state)
{
    assert_true(matches("site-.*", "site-a"));
    assert_false(matches("site-", "site-a"));
    assert_false(matches("ite-a", "site-a"));
    assert_true(matches("a|ab", "ab"));
    assert_false(matches("a|b", "ab"));
    assert_true(matches("^a.c$", "abc"));
    assert_false(matches("a", "a\n"));
    assert_false(matches("a$", "a\n"));
}

static void test_what_re2_has_is_taken(void **state)
{
    assert_true(matches("(?i)ABC", "abc"));
    assert_true(matches("(?:ab)+?", "abab"));
    assert_true(matches("(?P<x>ab)c", "abc"));
    assert_true(matches("(?<x>ab)c", "abc"));
    assert_true(matches("[[:alpha:]]+\\d{2,3}", "ab123"));
    assert_true(matches("\\Qa.b\\E", "a.b"));
    assert_true(matches("[]a]+", "]a"));
    assert_true(matches("[^b]*", "aaa"));
    assert_true(matches("\\pL\\x41", "aA"));
    assert_true(matches("a\\.b\\-c", "a.b-c"));
    assert_true(matches("[(*?+]+", "(*?+"));
}

static void test_what_re2_does_not_have_is_refused(void **state)
{
    const char *const bad[] = {
        "(a)\\1",  "(?P<x>a)(?P=x)",
        "\\k<x>",  "a(?=b)",
        "a(?!b)",  "(?<=a)b",
        "(?<!a)b", "(?>a)b",
        "a++",     "a*+",
        "a{2}+",   "(?R)",
        "(?1)",    "(?|a|b)",
        "(*UTF)",  "\\Ka",
        "\\X",     "\\R",
        "\\C",     "\\Gx",
        "(?#x)a",  "(",
        "[a",      "a)",
        "*a",      "a\\",
        "(?a)",    "(?",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct topic_regex *r = topic_regex_new(slice_str(bad[i]));
        if (r != NULL) {
            print_error("taken: %s\n", bad[i]);
        }
        assert_null(r);
    }
}

static void test_a_long_pattern_is_refused(void **state)
{
    static char text[TOPIC_REGEX_BYTES_MAX + 2];
    memset(text, 'a', TOPIC_REGEX_BYTES_MAX + 1);
    assert_null(topic_regex_new(slice_str(text)));
    memset(text, '(', 2000);
    memset(text + 2000, ')', 2000);
    text[4000] = '\0';
    assert_null(topic_regex_new(slice_str(text)));
}

static void test_an_evil_pattern_ends_and_is_spent(void **state)
{
    struct topic_regex *r = topic_regex_new(slice_str("(a|a)*(a|aa)*(aa|a)*[bc]"));
    assert_non_null(r);
    char name[250];
    memset(name, 'a', 249);
    name[249] = '\0';
    int64_t began_ms = clock_mono_ms();
    for (int i = 0; i < 1000; i++) {
        assert_false(topic_regex_match(r, slice_str(name)));
    }
    assert_true(clock_mono_ms() - began_ms < 60000); /* without its limit it does not end */
    assert_false(topic_regex_match(r, slice_str("aab"))); /* it would match */
    topic_regex_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_whole_name_matches),
        cmocka_unit_test(test_what_re2_has_is_taken),
        cmocka_unit_test(test_what_re2_does_not_have_is_refused),
        cmocka_unit_test(test_a_long_pattern_is_refused),
        cmocka_unit_test(test_an_evil_pattern_ends_and_is_spent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
