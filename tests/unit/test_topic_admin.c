/* What is refused before, and told after, a topic is made. The store is played. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "kafka-server/broker/bound_names.h"
#include "kafka-server/broker/topic_admin.h"
#include "shared/base/log.h"
#include "shared/config/config.h"

/* --- the store ------------------------------------------------------------------------------- */

struct store {
    enum err fails;
    int created, altered; /* calls */
    size_t rows;          /* that were altered */
    size_t refuses;       /* of them */
    size_t largest;       /* bytes of attributes in one call */
};

static struct store own;
static struct store_catalog catalog;

const struct store_catalog *store_catalog_ref(struct store *s)
{
    return &catalog;
}

void store_catalog_unref(struct store *s, const struct store_catalog *c)
{
}

const struct store_topic *store_catalog_find(const struct store_catalog *c, struct slice name)
{
    return NULL;
}

enum err store_has_room(struct store *s, struct errmsg *m)
{
    return s->fails == ERR_FULL ? err_set(m, ERR_FULL, "as the test wants it") : OK;
}

enum err store_topic_create(struct store *s, struct store_topic *t, struct errmsg *m)
{
    bool ok = s->fails == OK || s->fails == ERR_FULL; /* which is asked before */
    s->created += ok;
    return ok ? OK : err_set(m, s->fails, "as the test wants it");
}

enum err store_topic_delete(struct store *s, struct slice name, struct errmsg *m)
{
    return OK;
}

enum err store_topic_grow(struct store *s, struct slice name, int32_t count, struct errmsg *m)
{
    return OK;
}

enum err store_topic_alter(struct store *s, const struct store_topic *t, struct errmsg *m)
{
    s->altered++;
    s->rows++;
    return OK;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const struct store_topic *)a)->name, ((const struct store_topic *)b)->name);
}

enum err store_topics_alter(struct store *s, const struct store_topic *list, size_t count,
                            size_t *refused, struct errmsg *m)
{
    s->altered++;
    s->rows += count;
    *refused = s->refuses;
    size_t bytes = 0;
    for (size_t i = 0; i < count && s->fails == OK; i++) {
        bytes += strlen(list[i].attributes);
        s->largest = bytes > s->largest ? bytes : s->largest;
        struct store_topic *t =
            bsearch(&list[i], catalog.topics, catalog.count, sizeof *t, compare_names);
        assert_non_null(t);
        assert_string_equal(list[i].attributes, t->attributes);
        *t = list[i];
    }
    return s->fails == OK ? OK : err_set(m, s->fails, "as the test wants it");
}

enum err store_offsets(struct store *s, uint32_t uid, struct store_offsets *out)
{
    return ERR_NOT_FOUND;
}

enum err store_trim(struct store *s, uint32_t uid, int64_t offset, struct errmsg *m)
{
    return OK;
}

/* --- tests ----------------------------------------------------------------------------------- */

static struct config config;
static struct topics *topics;
static struct bound_names *bound;
static char dir[] = "/tmp/test_topic_admin.XXXXXX", path[64];

static int errors;
static char error[300]; /* the last one */

static void no_log(void *arg, enum log_level level, const char *line)
{
    if (level == LOG_ERROR) {
        errors++;
        snprintf(error, sizeof error, "%s", line);
    }
}

static int setup(void **state)
{
    log_set_sink(no_log, NULL);
    memcpy(strrchr(dir, '.'), ".XXXXXX", sizeof ".XXXXXX");
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/" CONFIG_BOUND_FILE, dir);
    assert_int_equal(config_init(&config), OK);
    free(config.data);
    config.data = strdup(dir);
    own = (struct store){.fails = OK};
    errors = 0;
    topics = topics_new();
    topics_set_stores(topics, &own, NULL);
    bound = bound_names_new();
    return 0;
}

static int teardown(void **state)
{
    topics_free(topics);
    bound_names_free(bound);
    config_fini(&config);
    (void)unlink(path); /* not every test has written it */
    return rmdir(dir);
}

static enum kerr create(const char *name)
{
    const struct topic_admin a = {&own, topics, &config, bound};
    struct errmsg m = {""};
    return topic_create_usual(&a, slice_str(name), &m);
}

static void test_what_the_store_never_takes_is_not_to_be_tried_again(void **state)
{
    own.fails = ERR_INVALID; /* no partition is left */
    assert_int_equal(create("t"), KERR_POLICY_VIOLATION);
    own.fails = ERR_FULL;
    assert_int_equal(create("t"), KERR_KAFKA_STORAGE_ERROR);
    own.fails = OK;
    assert_int_equal(create("t"), KERR_NONE);
}

static void write_bound(const char *text)
{
    char other[80];
    snprintf(other, sizeof other, "%s.new", path);
    FILE *f = fopen(other, "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(rename(other, path), 0);
}

/* The captured store is away: only the file knows. */
static void test_a_name_that_is_bound_is_not_free(void **state)
{
    assert_int_equal(create("doors"), KERR_NONE);
    write_bound("{\"streams\": [{\"name\": \"doors\", \"filters\": [\"d/#\"]}]}");
    assert_int_equal(create("doors"), KERR_POLICY_VIOLATION);
    assert_int_equal(create("windows"), KERR_NONE);
    write_bound("{\"streams\": [");
    assert_int_equal(create("doors"), KERR_POLICY_VIOLATION); /* what was known holds */
    assert_int_equal(unlink(path), 0);
    assert_int_equal(create("doors"), KERR_NONE);
    assert_int_equal(own.created, 3);
}

static void test_a_name_that_is_just_being_bound_is_not_free(void **state)
{
    assert_int_equal(bound_names_take(bound, "doors"), OK);
    assert_int_equal(bound_names_take(bound, "doors"), OK);
    assert_int_equal(create("doors"), KERR_POLICY_VIOLATION);
    assert_int_equal(create("door"), KERR_NONE);
    bound_names_give(bound, "doors");
    assert_int_equal(create("doors"), KERR_POLICY_VIOLATION);
    bound_names_give(bound, "doors");
    bound_names_give(bound, "doors");
    assert_int_equal(create("doors"), KERR_NONE);
    assert_int_equal(bound_names_take(bound, "left"), OK);
}

#define MANY 1200

/* Every third has a retention of its own, every fifth attributes that cannot be read. */
static void fill_catalog(void)
{
    static char set[] = "{\"configs\":{\"retention.ms\":\"5\"}}", broken[] = "{", none[] = "";
    catalog.topics = calloc(MANY, sizeof *catalog.topics);
    assert_non_null(catalog.topics);
    catalog.count = MANY;
    for (int i = 0; i < MANY; i++) {
        struct store_topic *t = &catalog.topics[i];
        snprintf(t->name, sizeof t->name, "t%04d", i);
        t->partition_count = 1;
        t->attributes = i % 3 == 0 ? set : i % 5 == 0 ? broken : none;
    }
}

static void empty_catalog(void)
{
    free(catalog.topics);
    catalog = (struct store_catalog){.count = 0};
}

/* One change of the catalog for all: each is a copy of the whole. */
static void test_topics_follow_a_new_default_in_one_change(void **state)
{
    const struct topic_admin a = {&own, topics, &config, bound};
    fill_catalog();
    topic_apply_defaults(&a); /* none of the rows has been filled yet */
    assert_int_equal(own.altered, 1);
    assert_int_equal(own.rows, MANY);
    topic_apply_defaults(&a);
    assert_int_equal(own.altered, 1); /* all are as they should be */
    config.server.log_retention_ms = 777;
    topic_apply_defaults(&a);
    assert_int_equal(own.altered, 2);
    assert_int_equal(own.rows, MANY + MANY - MANY / 3);
    for (int i = 0; i < MANY; i++) {
        assert_int_equal(catalog.topics[i].retention_ms, i % 3 == 0 ? 5 : 777);
    }
    assert_int_equal(errors, 0);
    empty_catalog();
}

/* Which the WriteBatch of one change would have in memory all at once: 75 MB here. */
static void test_topics_with_long_configs_follow_in_several_changes(void **state)
{
    const struct topic_admin a = {&own, topics, &config, bound};
    static char all[STORE_ATTRIBUTES_BYTES_MAX];
    memset(all, '{', sizeof all - 1); /* nobody reads further than that */
    fill_catalog();
    for (int i = 0; i < MANY; i++) {
        catalog.topics[i].attributes = all;
    }
    config.server.log_retention_ms = 777;
    topic_apply_defaults(&a);
    assert_int_equal(own.rows, MANY);
    assert_in_range(own.largest, 1, 32u << 20);
    assert_in_range(own.altered, 2, 10);
    for (int i = 0; i < MANY; i++) {
        assert_int_equal(catalog.topics[i].retention_ms, 777);
    }
    config.server.log_retention_ms = 778;
    own.fails = ERR_IO;
    topic_apply_defaults(&a);
    assert_int_equal(errors, 1);
    assert_non_null(strstr(error, "topics=1200: as the test wants it"));
    empty_catalog();
}

static void test_what_does_not_follow_a_new_default_is_counted(void **state)
{
    const struct topic_admin a = {&own, topics, &config, bound};
    fill_catalog();
    own.refuses = 2;
    topic_apply_defaults(&a);
    assert_int_equal(errors, 1);
    assert_non_null(strstr(error, "topics=2:"));
    config.server.log_retention_ms = 777;
    own.fails = ERR_IO;
    topic_apply_defaults(&a);
    assert_int_equal(errors, 2);
    assert_non_null(strstr(error, "topics=800: as the test wants it"));
    empty_catalog();
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_what_the_store_never_takes_is_not_to_be_tried_again),
        T(test_a_name_that_is_bound_is_not_free),
        T(test_a_name_that_is_just_being_bound_is_not_free),
        T(test_topics_follow_a_new_default_in_one_change),
        T(test_topics_with_long_configs_follow_in_several_changes),
        T(test_what_does_not_follow_a_new_default_is_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
