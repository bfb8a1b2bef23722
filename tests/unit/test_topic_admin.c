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
    int created;
};

static struct store own;
static const struct store_catalog nothing;

const struct store_catalog *store_catalog_ref(struct store *s)
{
    return &nothing;
}

void store_catalog_unref(struct store *s, const struct store_catalog *c)
{
}

const struct store_topic *store_catalog_find(const struct store_catalog *c, struct slice name)
{
    return NULL;
}

enum err store_topic_create(struct store *s, struct store_topic *t, struct errmsg *m)
{
    s->created += s->fails == OK;
    return s->fails == OK ? OK : err_set(m, s->fails, "as the test wants it");
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
    return OK;
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

static void no_log(void *arg, enum log_level level, const char *line)
{
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
    own = (struct store){OK, 0};
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

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_what_the_store_never_takes_is_not_to_be_tried_again),
        T(test_a_name_that_is_bound_is_not_free),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
