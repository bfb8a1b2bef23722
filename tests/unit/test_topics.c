/* Topics of two stores as one list, and workers that come back to the thread that asked. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#include "kafka-server/broker/topics.h"
#include "kafka-server/broker/workers.h"

/* --- stores that are a catalog --------------------------------------------------------------- */

#define TOPICS_MAX 8

struct store {
    struct store_catalog *catalog;
    uint64_t version;
    int held; /* references out */
};

struct counted_catalog {
    struct store_catalog pub;
    struct store_topic topics[TOPICS_MAX];
    int refs;
};

static char no_attributes[1];

/* Names are sorted; ids and uids are made of the name's first letter. */
static void set_catalog(struct store *s, const char *const *names)
{
    struct counted_catalog *c = calloc(1, sizeof *c);
    c->pub.version = ++s->version;
    c->pub.topics = c->topics;
    c->refs = 1;
    for (; names[c->pub.count] != NULL; c->pub.count++) {
        struct store_topic *t = &c->topics[c->pub.count];
        snprintf(t->name, sizeof t->name, "%s", names[c->pub.count]);
        t->id.b[0] = (uint8_t)(255 - names[c->pub.count][0]);
        t->id.b[1] = (uint8_t)(uintptr_t)s;
        t->uid = (uint32_t)names[c->pub.count][0];
        t->partition_count = 4;
        t->attributes = no_attributes;
    }
    if (s->catalog != NULL) {
        store_catalog_unref(s, s->catalog);
        s->held++; /* that one was the store's own */
    }
    s->catalog = &c->pub;
}

const struct store_catalog *store_catalog_ref(struct store *s)
{
    ((struct counted_catalog *)s->catalog)->refs++;
    s->held++;
    return s->catalog;
}

void store_catalog_unref(struct store *s, const struct store_catalog *c)
{
    struct counted_catalog *x = (struct counted_catalog *)(uintptr_t)c;
    s->held--;
    if (--x->refs == 0) {
        free(x);
    }
}

const struct store_topic *store_catalog_find(const struct store_catalog *c, struct slice name)
{
    for (size_t i = 0; i < c->count; i++) {
        if (slice_eq(slice_str(c->topics[i].name), name)) {
            return &c->topics[i];
        }
    }
    return NULL;
}

#define NAMES(...) ((const char *const[]){__VA_ARGS__ __VA_OPT__(, ) NULL})

static struct store own, captured;
static struct topics *topics;
static struct buf gone, came;
static int changes;

static void on_gone(void *arg, const char *name)
{
    buf_printf(&gone, "%s ", name);
}

static void on_came(void *arg, const struct store_topic *row)
{
    buf_printf(&came, "%s ", row->name);
}

static void on_changed(void *arg)
{
    changes++;
}

static int set_up(void **state)
{
    buf_init(&gone, 1024);
    buf_init(&came, 1024);
    set_catalog(&own, NAMES("b", "d", "e"));
    set_catalog(&captured, NAMES("a", "c", "d"));
    topics = topics_new();
    changes = 0;
    topics_on_change(topics, &(struct topics_listener){on_gone, on_came, on_changed, NULL});
    topics_set_stores(topics, &own, &captured);
    assert_string_equal(buf_text(&came), "a b c d e ");
    buf_reset(&came);
    return 0;
}

static int tear_down(void **state)
{
    topics_free(topics);
    buf_fini(&gone);
    buf_fini(&came);
    return own.held != 0 || captured.held != 0;
}

static void assert_names(const char *want)
{
    struct buf names;
    buf_init(&names, 1024);
    for (size_t i = 0; i < topics_count(topics); i++) {
        buf_printf(&names, "%s ", topics_at(topics, i)->row->name);
    }
    assert_string_equal(buf_text(&names), want);
    buf_fini(&names);
}

static void test_both_stores_are_one_list_and_captured_wins(void **state)
{
    assert_names("a b c d e ");
    assert_true(topics_find(topics, slice_str("d"))->captured);
    assert_ptr_equal(topics_find(topics, slice_str("d"))->store, &captured);
    assert_ptr_equal(topics_find(topics, slice_str("e"))->store, &own);
}

static void test_topics_are_found_by_name_and_id_and_no_others(void **state)
{
    for (size_t i = 0; i < topics_count(topics); i++) {
        const struct topic *t = topics_at(topics, i);
        assert_ptr_equal(topics_find(topics, slice_str(t->row->name)), t);
        assert_ptr_equal(topics_find_id(topics, &t->row->id), t);
    }
    struct uuid none = {{0}};
    assert_null(topics_find_id(topics, &none));
    assert_null(topics_find(topics, slice_str("")));
    assert_null(topics_find(topics, slice_str("aa")));
    assert_null(topics_find(topics, slice_str("f")));
    assert_int_equal(topics_lower_bound(topics, slice_str("bb")), 2);
    assert_int_equal(topics_lower_bound(topics, slice_str("z")), 5);
}

static void test_refresh_takes_over_what_is_new_and_tells_what_is_gone(void **state)
{
    own.catalog->topics[1].id.b[15] = 1;
    set_catalog(&captured, NAMES("c", "n"));
    topics_refresh(topics);
    assert_names("b c d e n ");
    assert_string_equal(buf_text(&gone), "a d "); /* d is another one now, in the other store */
    assert_string_equal(buf_text(&came), "d n ");
    assert_false(topics_find(topics, slice_str("d"))->captured);
    topics_refresh(topics);
    assert_string_equal(buf_text(&gone), "a d ");
    assert_string_equal(buf_text(&came), "d n ");
}

static void test_topic_made_anew_is_told_as_gone(void **state)
{
    set_catalog(&captured, NAMES("a", "c", "d"));
    captured.catalog->topics[1].id.b[15] = 1;
    topics_refresh(topics);
    assert_names("a b c d e ");
    assert_string_equal(buf_text(&gone), "c ");
    assert_string_equal(buf_text(&came), "c ");
}

/* A directory that was made anew counts its catalogs from the beginning, and may come to the same
 * number. */
static void test_another_catalog_of_the_same_version_is_taken_over(void **state)
{
    assert_int_equal(changes, 1);
    topics_refresh(topics);
    assert_int_equal(changes, 1);
    captured.version--;
    set_catalog(&captured, NAMES("a", "c", "d"));
    captured.catalog->topics[1].id.b[15] = 1;
    topics_refresh(topics);
    assert_int_equal(changes, 2);
    assert_string_equal(buf_text(&gone), "c ");
    assert_ptr_equal(topics_find(topics, slice_str("c"))->row, &captured.catalog->topics[1]);
}

static void test_store_that_is_away_is_not_a_deleted_topic(void **state)
{
    topics_set_stores(topics, &own, NULL);
    assert_names("b d e ");
    topics_set_stores(topics, NULL, NULL);
    assert_names("");
    topics_set_stores(topics, &own, &captured);
    assert_names("a b c d e ");
    assert_string_equal(buf_text(&gone), "");
    assert_string_equal(buf_text(&came), "b d e a b c d e ");
}

static void test_partitions_are_bounded(void **state)
{
    const struct topic *t = topics_find(topics, slice_str("a"));
    assert_true(topic_has_partition(t, 0));
    assert_true(topic_has_partition(t, 3));
    assert_false(topic_has_partition(t, 4));
    assert_false(topic_has_partition(t, -1));
    assert_false(topic_has_partition(NULL, 0));
}

static void test_names_follow_kafkas_rule(void **state)
{
    char longest[STORE_NAME_BYTES_MAX + 1];
    memset(longest, 'x', sizeof longest);
    assert_true(topic_name_ok(slice_str("a.B_9-z")));
    assert_true(topic_name_ok(slice_make(longest, STORE_NAME_BYTES_MAX)));
    assert_false(topic_name_ok(slice_make(longest, STORE_NAME_BYTES_MAX + 1)));
    const char *const bad[] = {"", ".", "..", "a b", "a/b", "\xc3\xa4", "$SYS", "a\n"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_false(topic_name_ok(slice_str(bad[i])));
    }
    assert_true(topic_name_ok(slice_str("...")));
}

/* --- workers --------------------------------------------------------------------------------- */

struct counted {
    struct work work;
    int ran, done;
    pthread_t by;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t poked = PTHREAD_COND_INITIALIZER;
static bool was_poked, hold;

static void poke(void *arg)
{
    pthread_mutex_lock(&lock);
    was_poked = true;
    pthread_cond_broadcast(&poked);
    pthread_mutex_unlock(&lock);
}

static void run(struct work *w)
{
    struct counted *c = (struct counted *)w;
    pthread_mutex_lock(&lock);
    while (hold) {
        pthread_cond_wait(&poked, &lock);
    }
    pthread_mutex_unlock(&lock);
    c->ran++;
    c->by = pthread_self();
}

static void done(struct work *w)
{
    ((struct counted *)w)->done++;
}

static void reap_all(struct workers *w)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 60;
    while (workers_busy(w) != 0) {
        pthread_mutex_lock(&lock);
        while (!was_poked) {
            assert_int_equal(pthread_cond_timedwait(&poked, &lock, &until), 0);
        }
        was_poked = false;
        pthread_mutex_unlock(&lock);
        workers_reap(w);
    }
}

static void test_work_runs_elsewhere_and_is_done_here(void **state)
{
    struct workers *w;
    static struct counted all[200];
    assert_int_equal(workers_open(&w, 3, 0, 1000, poke, NULL, NULL), OK);
    for (int i = 0; i < 200; i++) {
        all[i] = (struct counted){.work = {.run = run, .done = done}};
        assert_int_equal(workers_submit(w, &all[i].work), OK);
    }
    reap_all(w);
    for (int i = 0; i < 200; i++) {
        assert_int_equal(all[i].ran, 1);
        assert_int_equal(all[i].done, 1);
        assert_false(pthread_equal(all[i].by, pthread_self()));
    }
    workers_close(w);
}

static void set_hold(bool on)
{
    pthread_mutex_lock(&lock);
    hold = on;
    pthread_cond_broadcast(&poked);
    pthread_mutex_unlock(&lock);
}

static void test_full_queue_refuses(void **state)
{
    struct workers *w;
    struct counted all[8];
    int taken = 0;
    set_hold(true);
    assert_int_equal(workers_open(&w, 1, 0, 2, poke, NULL, NULL), OK);
    for (int i = 0; i < 8; i++) {
        all[i] = (struct counted){.work = {.run = run, .done = done}};
        taken += workers_submit(w, &all[i].work) == OK;
    }
    assert_in_range(taken, 2, 3); /* two wait, and one may have been begun */
    set_hold(false);
    reap_all(w);
    workers_close(w);
}

static void test_closing_gives_everything_back(void **state)
{
    struct workers *w;
    struct counted all[50];
    int came_back = 0;
    assert_int_equal(workers_open(&w, 2, 0, 100, poke, NULL, NULL), OK);
    for (int i = 0; i < 50; i++) {
        all[i] = (struct counted){.work = {.run = run, .done = done}};
        assert_int_equal(workers_submit(w, &all[i].work), OK);
    }
    workers_close(w);
    for (int i = 0; i < 50; i++) {
        came_back += all[i].done;
    }
    assert_int_equal(came_back, 50);
}

static void test_settings_are_read_once_for_a_topic(void **state)
{
    struct config c;
    assert_int_equal(config_init(&c), OK);
    set_catalog(&own, NAMES("b", "e"));
    topics_refresh(topics);
    const struct topic *b = topics_find(topics, slice_str("b"));
    assert_non_null(b);
    assert_int_equal(topics_settings(topics, b, &c)->max_message_bytes, 1048588);
    c.server.message_max_bytes = 7;
    assert_int_equal(topics_settings(topics, b, &c)->max_message_bytes, 1048588);
    topics_forget_settings(topics);
    assert_int_equal(topics_settings(topics, b, &c)->max_message_bytes, 7);
    c.server.message_max_bytes = 8;
    set_catalog(&own, NAMES("b"));
    topics_refresh(topics); /* another list: another topic */
    b = topics_find(topics, slice_str("b"));
    assert_int_equal(topics_settings(topics, b, &c)->max_message_bytes, 8);
    config_fini(&c);
}

#define TOPICS(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TOPICS(test_both_stores_are_one_list_and_captured_wins),
        TOPICS(test_topics_are_found_by_name_and_id_and_no_others),
        TOPICS(test_refresh_takes_over_what_is_new_and_tells_what_is_gone),
        TOPICS(test_topic_made_anew_is_told_as_gone),
        TOPICS(test_another_catalog_of_the_same_version_is_taken_over),
        TOPICS(test_store_that_is_away_is_not_a_deleted_topic),
        TOPICS(test_partitions_are_bounded),
        TOPICS(test_names_follow_kafkas_rule),
        TOPICS(test_settings_are_read_once_for_a_topic),
        cmocka_unit_test(test_work_runs_elsewhere_and_is_done_here),
        cmocka_unit_test(test_full_queue_refuses),
        cmocka_unit_test(test_closing_gives_everything_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
