/* DATA/streams.json: what was written comes back, and the configuration is before it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "shared/config/config.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[256];
static char path[300];

static int setup(void **state)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%s/culex-bound-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(dir)) {
        return -1;
    }
    snprintf(path, sizeof path, "%s/" CONFIG_BOUND_FILE, dir);
    return 0;
}

static int teardown(void **state)
{
    unlink(path);
    return rmdir(dir);
}

static void config_in_dir(struct config *c)
{
    assert_int_equal(config_init(c), OK);
    assert_int_equal(config_give_data(c, "--data", dir), OK);
}

/* Every row has another value than its default. */
static void fill(struct config_stream *s, const char *name)
{
    static const char *const values[][2] = {
        {"partitions", "3"},         {"key", "payload.a.b"},      {"headers", "minimal"},
        {"username.header", "true"}, {"retention.ms", "1000"},    {"retention.bytes", "5000"},
        {"cleanup.policy", "compact,delete"}, {"min.compaction.lag.ms", "5"},
        {"max.compaction.lag.ms", "9"}, {"delete.retention.ms", "8"},
        {"min.cleanable.dirty.ratio", "0.25"},
        {"on_full", "drop"},         {"on_full.block.ms", "7"},   {"durability", "fsync"},
    };
    struct errmsg m;
    assert_int_equal(config_stream_init(s), OK);
    assert_int_equal(config_stream_set(s, "name", name, &m), OK);
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        assert_int_equal(config_stream_set(s, values[i][0], values[i][1], &m), OK);
    }
    assert_int_equal(config_stream_add_filter(s, "a/\"\\/#", &m), OK);
    assert_int_equal(config_stream_add_filter(s, "caf\xc3\xa9/+", &m), OK);
    config_stream_shrink(s);
    s->bound = true;
}

static void assert_same(const struct config_stream *a, const struct config_stream *b)
{
    struct buf x, y;
    buf_init(&x, 4096);
    buf_init(&y, 4096);
    for (size_t i = 0; i < option_count(); i++) {
        option_stream_text(a, i, &x);
        option_stream_text(b, i, &y);
    }
    assert_string_equal(buf_text(&x), buf_text(&y));
    assert_int_equal(a->filter_count, b->filter_count);
    for (uint32_t i = 0; i < a->filter_count; i++) {
        assert_string_equal(a->filters[i], b->filters[i]);
    }
    buf_fini(&x);
    buf_fini(&y);
}

static void test_no_file_adds_nothing(void **state)
{
    struct config c;
    config_in_dir(&c);
    assert_int_equal(config_add_bound(&c), OK);
    assert_int_equal(c.stream_count, 0);
    config_fini(&c);
}

static void test_what_was_written_comes_back(void **state)
{
    struct config_stream s[3];
    struct config c;
    struct errmsg m;
    fill(&s[0], "one");
    fill(&s[1], "of.the.file");
    fill(&s[2], "two");
    s[1].bound = false;
    assert_int_equal(config_write_bound(dir, s, 3, &m), OK);
    config_in_dir(&c);
    assert_int_equal(config_add_bound(&c), OK);
    assert_int_equal(c.stream_count, 2);
    assert_same(&c.streams[0], &s[0]);
    assert_same(&c.streams[1], &s[2]);
    assert_true(c.streams[0].bound && c.streams[1].bound);
    assert_int_equal(c.warnings.len, 0);
    config_fini(&c);
    for (int i = 0; i < 3; i++) {
        config_stream_fini(&s[i]);
    }
}

static void test_what_nobody_has_said_is_not_said_when_it_comes_back(void **state)
{
    struct config_stream s;
    struct config c;
    struct errmsg m;
    assert_int_equal(config_stream_init(&s), OK);
    assert_int_equal(config_stream_set(&s, "name", "one", &m), OK);
    assert_int_equal(config_stream_set(&s, "key", "topic", &m), OK);
    assert_int_equal(config_stream_set(&s, "retention.ms", "5", &m), OK);
    assert_int_equal(config_stream_reset(&s, "retention.ms", &m), OK);
    assert_int_equal(config_stream_reset(&s, "nothing", &m), ERR_NOT_FOUND);
    assert_int_equal(config_stream_add_filter(&s, "a/#", &m), OK);
    s.bound = true;
    assert_int_equal(config_write_bound(dir, &s, 1, &m), OK);
    config_in_dir(&c);
    assert_int_equal(config_add_bound(&c), OK);
    assert_same(&c.streams[0], &s);
    assert_true(config_stream_said(&c.streams[0], "key"));
    assert_true(config_stream_said(&c.streams[0], "filters"));
    assert_false(config_stream_said(&c.streams[0], "retention.ms"));
    assert_false(config_stream_said(&c.streams[0], "min.cleanable.dirty.ratio"));
    assert_false(config_stream_said(&c.streams[0], "nothing"));
    config_fini(&c);
    config_stream_fini(&s);
}

static void test_the_configuration_is_before_it(void **state)
{
    struct config_stream s[2];
    struct config c;
    struct errmsg m;
    fill(&s[0], "one");
    fill(&s[1], "two");
    assert_int_equal(config_write_bound(dir, s, 2, &m), OK);
    config_in_dir(&c);
    c.streams = calloc(1, sizeof *c.streams);
    assert_int_equal(config_stream_init(&c.streams[0]), OK);
    assert_int_equal(config_stream_set(&c.streams[0], "name", "one", &m), OK);
    c.stream_count = 1;
    assert_int_equal(config_add_bound(&c), OK);
    assert_int_equal(c.stream_count, 2);
    assert_false(c.streams[0].bound);
    assert_string_equal(c.streams[1].name, "two");
    assert_non_null(strstr(buf_text(&c.warnings), "streams[0]: \"one\" stands in the"));
    config_fini(&c);
    config_stream_fini(&s[0]);
    config_stream_fini(&s[1]);
}

static void test_a_mistake_in_the_file_is_named_and_nothing_is_added(void **state)
{
    struct config c;
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs("{\"streams\": [\n{\"name\": \"good\", \"filters\": [\"a\"]},\n"
          "{\"name\": \"bad\", \"filters\": [\"a+\"]}]}", f);
    fclose(f);
    config_in_dir(&c);
    assert_int_equal(config_add_bound(&c), ERR_INVALID);
    assert_int_equal(c.stream_count, 0);
    assert_non_null(strstr(buf_text(&c.mistakes), CONFIG_BOUND_FILE ":3: streams[1].filters[0]"));
    config_fini(&c);
}

/* Variables are the whole configuration's: beside defaults they may be wrong together. */
static void test_the_environment_is_not_this_files(void **state)
{
    static const char *const variables[][2] = {
        {"CULEX_ADVERTISED_LISTENERS", "HOST://me:9092"},
        {"CULEX_GROUP_MAX_SESSION_TIMEOUT_MS", "5000"},
        {"CULEX_QUEUED_MAX_REQUEST_BYTES", "1048576"},
    };
    struct config_stream s;
    struct config c;
    struct errmsg m;
    fill(&s, "one");
    assert_int_equal(config_write_bound(dir, &s, 1, &m), OK);
    for (size_t i = 0; i < sizeof variables / sizeof variables[0]; i++) {
        assert_int_equal(setenv(variables[i][0], variables[i][1], 1), 0);
    }
    config_in_dir(&c);
    assert_int_equal(config_add_bound(&c), OK);
    assert_int_equal(c.stream_count, 1);
    assert_int_equal(c.warnings.len, 0);
    for (size_t i = 0; i < sizeof variables / sizeof variables[0]; i++) {
        unsetenv(variables[i][0]);
    }
    config_fini(&c);
    config_stream_fini(&s);
}

static void test_nothing_else_stands_in_the_file(void **state)
{
    struct config c;
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs("{\"streams\": [],\n\"defaults\": {}}", f);
    fclose(f);
    config_in_dir(&c);
    assert_int_equal(config_add_bound(&c), ERR_INVALID);
    assert_non_null(strstr(buf_text(&c.mistakes), CONFIG_BOUND_FILE ":2: defaults: does not"));
    config_fini(&c);
}

/* Or the broker could not start with it. */
static void test_what_could_not_be_read_again_is_not_written(void **state)
{
    struct config_stream s, *many = calloc(CONFIG_STREAMS_MAX + 1, sizeof *many);
    struct errmsg m;
    fill(&s, "one");
    for (size_t i = 0; many && i <= CONFIG_STREAMS_MAX; i++) {
        many[i] = s;
        many[i].bound = i == 0;
    }
    assert_int_equal(config_write_bound(dir, many, CONFIG_STREAMS_MAX, &m), OK);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(config_write_bound(dir, many, CONFIG_STREAMS_MAX + 1, &m), ERR_TOO_LARGE);
    char *filter = malloc(1 << 15), *filters[CONFIG_FILTERS_MAX];
    assert_non_null(filter);
    memset(filter, 'x', (1 << 15) - 1);
    filter[(1 << 15) - 1] = '\0';
    for (size_t i = 0; i < CONFIG_FILTERS_MAX; i++) {
        filters[i] = filter;
    }
    many[0].filters = filters;
    many[0].filter_count = CONFIG_FILTERS_MAX;
    assert_int_equal(config_write_bound(dir, many, 1, &m), ERR_TOO_LARGE);
    assert_non_null(strstr(m.text, "would be a file of 33"));
    assert_int_not_equal(access(path, F_OK), 0);
    free(filter);
    free(many);
    config_stream_fini(&s);
}

/* The log's number holds: nobody edits the file, so a broker that did not start would stay so. */
static void test_partitions_of_a_bound_stream_contradict_nothing(void **state)
{
    struct config c;
    struct buf out;
    buf_init(&out, 4096);
    config_in_dir(&c);
    c.streams = calloc(1, sizeof *c.streams);
    c.stream_count = 1;
    fill(&c.streams[0], "one");
    config_check_partitions(&c, 0, 7, &out);
    assert_int_equal(out.len, 0);
    c.streams[0].bound = false;
    config_check_partitions(&c, 0, 7, &out);
    assert_true(out.len > 0);
    buf_fini(&out);
    config_fini(&c);
}

static void test_a_directory_that_is_not_there_is_an_error_of_writing(void **state)
{
    struct errmsg m;
    assert_int_equal(config_write_bound("/nowhere/at/all", NULL, 0, &m), ERR_IO);
    assert_non_null(strstr(m.text, "/nowhere/at/all"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_no_file_adds_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_was_written_comes_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_nobody_has_said_is_not_said_when_it_comes_back,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_configuration_is_before_it, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_mistake_in_the_file_is_named_and_nothing_is_added,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_environment_is_not_this_files, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nothing_else_stands_in_the_file, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_could_not_be_read_again_is_not_written, setup,
                                        teardown),
        cmocka_unit_test(test_partitions_of_a_bound_stream_contradict_nothing),
        cmocka_unit_test(test_a_directory_that_is_not_there_is_an_error_of_writing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
