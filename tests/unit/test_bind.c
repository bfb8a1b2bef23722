/* What changes of Kafka clients make of a stream that they have bound. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "plugins/writer/bind.h"

#include <stdio.h>

static void describe(struct config_stream *s, const char *policy)
{
    struct errmsg m;
    json_t *command = json_pack("{s:s, s:{s:s, s:s}}", "name", "s", "configs", "mqtt.filter",
                                "a/#", "cleanup.policy", policy);
    assert_non_null(command);
    assert_int_equal(bind_describe(s, command, &m), OK);
    json_decref(command);
}

/* One change of a stream with that policy; what it makes of it, or the sentence, as text. */
static void change(const char *policy, const char *op, const char *name, const char *value,
                   struct errmsg *out)
{
    struct config_stream from, to;
    describe(&from, policy);
    json_t *command = json_pack("{s:[{s:s, s:s, s:s}]}", "changes", "op", op, "name", name,
                                "value", value);
    assert_non_null(command);
    enum err e = bind_alter(&to, &from, command, out);
    if (e) {
        assert_int_equal(e, ERR_INVALID);
    } else {
        static const char *const names[] = {
            [CLEANUP_DELETE] = "delete",
            [CLEANUP_COMPACT] = "compact",
            [CLEANUP_BOTH] = "both",
            [CLEANUP_BOTH_TOO] = "both",
        };
        snprintf(out->text, sizeof out->text, "%s", names[to.cleanup]);
        assert_true(config_stream_said(&to, "cleanup.policy"));
        config_stream_fini(&to);
    }
    json_decref(command);
    config_stream_fini(&from);
}

static void test_a_cleanup_policy_is_a_list(void **state)
{
#define VALUES "; delete, compact, compact,delete or delete,compact"
    static const struct {
        const char *policy, *op, *value, *expected;
    } rows[] = {
        {"delete", "append", "compact", "both"},
        {"compact", "append", "delete", "both"},
        {"delete", "append", "delete", "delete"},
        {"compact", "append", "compact,compact,delete", "both"},
        {"compact,delete", "append", "compact", "both"},
        {"compact,delete", "subtract", "delete", "compact"},
        {"delete,compact", "subtract", "compact", "delete"},
        {"delete", "subtract", "compact", "delete"},
        {"compact", "subtract", "delete,other", "compact"},
        {"delete", "subtract", "delete",
         "cleanup.policy: \"\" is none of its values" VALUES},
        {"compact,delete", "subtract", "compact,delete",
         "cleanup.policy: \"\" is none of its values" VALUES},
        {"delete", "append", "compact,other",
         "cleanup.policy: \"compact,other\" is none of its values" VALUES},
        {"delete", "append", "", "cleanup.policy: \"\" is none of its values" VALUES},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct errmsg got;
        change(rows[i].policy, rows[i].op, "cleanup.policy", rows[i].value, &got);
        assert_string_equal(got.text, rows[i].expected);
    }
}

static void test_what_is_no_list_is_said(void **state)
{
    struct errmsg got;
    change("delete", "append", "mqtt.key", "x", &got);
    assert_string_equal(got.text, "only mqtt.filter and cleanup.policy are lists that can be "
                                  "appended to or subtracted from");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_cleanup_policy_is_a_list),
        cmocka_unit_test(test_what_is_no_list_is_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
