/* What the server keeps in memory of its own store, when that store broke and is opened again. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kafka-server/broker/coordinator.h"
#include "kafka-server/broker/topics.h"
#include "kafka-server/broker/transactions.h"
#include "kafka-server/own_state.h"
#include "tests/unit/store_kit.h"

struct world {
    struct kit kit;
    struct server s;
};

static enum err read_store(struct world *w, struct own_read **r)
{
    return own_state_read(r, w->s.own, &w->s.config.server, "", &w->kit.m);
}

static void take_store(struct world *w)
{
    struct own_read *r;
    KIT_OK(read_store(w, &r));
    own_state_take(&w->s, r);
    own_state_drop(r);
}

static void open_store(struct world *w)
{
    w->s.own = kit_open(&w->kit, &w->kit.writer);
    take_store(w);
}

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    kit_init(&w->kit);
    assert_int_equal(config_init(&w->s.config), OK);
    w->s.topics = topics_new();
    open_store(w);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    own_state_close(&w->s);
    topics_free(w->s.topics);
    store_close(w->s.own);
    config_fini(&w->s.config);
    kit_fini(&w->kit);
    free(w);
    return 0;
}

static void commit_of(struct world *w, const char *topic, int64_t offset, struct uuid id)
{
    const struct offset_row row = {.offset = offset, .expire_ms = -1, .topic_id = id};
    struct coordinated *g;
    assert_int_equal(coordinator_commit(w->s.coordinator, slice_str("g"), -1, slice_make(NULL, 0),
                                        slice_make(NULL, 0), true, &g),
                     KERR_NONE);
    assert_int_equal(
        coordinator_commit_put(w->s.coordinator, g, slice_str(topic), 0, &row, -1), KERR_NONE);
    journal_flush(w->s.journal);
}

static void commit_offset(struct world *w, const char *topic, int64_t offset)
{
    commit_of(w, topic, offset, (struct uuid){{0}});
}

static int64_t offset_of(const struct world *w, const char *topic)
{
    const struct offsets *o = coordinator_offsets(w->s.coordinator, slice_str("g"));
    const struct offset_entry *e = o != NULL ? offsets_find(o, slice_str(topic), 0) : NULL;
    return e != NULL ? e->row.offset : -1;
}

/* What a commit has left in the store that the journal was told has failed. */
static void land(struct world *w, const char *topic, int64_t offset)
{
    const struct offset_row row = {.offset = offset, .expire_ms = -1, .commit_ms = 1700000000000};
    struct buf key, value;
    buf_init(&key, ROW_KEY_BYTES_MAX);
    buf_init(&value, OFFSET_ROW_BYTES_MAX);
    offset_row_key(&key, slice_str("g"), slice_str(topic), 0);
    offset_row_encode(&row, &value);
    assert_int_equal(store_put(w->s.own, buf_slice(&key), buf_slice(&value)), OK);
    kit_commit(&w->kit, w->s.own);
    buf_fini(&key);
    buf_fini(&value);
}

static void test_a_commit_that_failed_and_landed_counts(void **state)
{
    struct world *w = *state;
    struct store *broken = w->s.own;
    commit_offset(w, "a", 50);
    commit_offset(w, "b", 7);
    own_state_away(&w->s);
    w->s.own = NULL;
    assert_int_equal(offset_of(w, "a"), 50); /* readers go on meanwhile */
    w->s.own = broken;
    land(w, "a", 100);
    land(w, "c", 3);
    store_close(broken);
    open_store(w);
    assert_int_equal(offset_of(w, "a"), 100);
    assert_int_equal(offset_of(w, "b"), 7);
    assert_int_equal(offset_of(w, "c"), 3);
    commit_offset(w, "a", 101);
    assert_int_equal(offset_of(w, "a"), 101);
}

struct waiter {
    struct journal_wait wait; /* first */
    int count;
    enum err e;
};

static void heard(struct journal_wait *w, enum err e)
{
    struct waiter *x = (struct waiter *)w;
    x->count++;
    x->e = e;
}

/* What a heartbeat hears that has changed nothing. */
static enum err heartbeat(struct world *w)
{
    struct waiter x = {.wait.done = heard};
    journal_wait(w->s.journal, &x.wait);
    journal_flush(w->s.journal);
    assert_int_equal(x.count, 1);
    return x.e;
}

static void test_nothing_is_answered_from_memory_while_a_commit_is_in_doubt(void **state)
{
    struct world *w = *state;
    struct store *broken = w->s.own;
    char moved[sizeof w->kit.dir + 8];
    commit_offset(w, "a", 50);
    own_state_away(&w->s); /* no commit has failed */
    assert_int_equal(heartbeat(w), OK);
    commit_offset(w, "a", 51);
    assert_int_equal(heartbeat(w), OK);
    take_store(w);

    snprintf(moved, sizeof moved, "%s.moved", w->kit.dir);
    assert_int_equal(rename(w->kit.dir, moved), 0);
    assert_int_not_equal(store_tick(broken, 1700000000000, &w->kit.m), OK);
    assert_int_equal(store_state(broken), STORE_BROKEN);
    assert_int_equal(heartbeat(w), OK);
    commit_offset(w, "a", 52);
    assert_int_equal(heartbeat(w), ERR_IO);
    own_state_away(&w->s);
    w->s.own = NULL;
    assert_int_equal(heartbeat(w), ERR_IO);
    store_close(broken);
    assert_int_equal(rename(moved, w->kit.dir), 0);
    open_store(w);
    assert_int_equal(heartbeat(w), OK);
    assert_int_equal(offset_of(w, "a"), 50);
}

struct reading {
    struct world *w;
    struct store *own;
    struct own_read *read;
    enum err e;
};

static void *read_aside(void *arg)
{
    struct reading *x = arg;
    struct errmsg m;
    x->e = own_state_read(&x->read, x->own, &x->w->s.config.server, "", &m);
    return NULL;
}

static void *drop_aside(void *arg)
{
    own_state_drop(arg);
    return NULL;
}

static void test_a_store_is_read_beside_what_goes_on(void **state)
{
    struct world *w = *state;
    struct waiter last = {.wait.done = heard};
    struct reading x = {.w = w, .own = w->s.own};
    pthread_t thread;
    commit_offset(w, "a", 50);
    land(w, "a", 100);
    own_state_away(&w->s);
    w->s.own = NULL;
    assert_int_equal(pthread_create(&thread, NULL, read_aside, &x), 0);
    assert_int_equal(heartbeat(w), OK);
    commit_offset(w, "a", 51); /* into no store */
    assert_int_equal(offset_of(w, "a"), 50);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(x.e, OK);
    assert_int_equal(offset_of(w, "a"), 50);
    journal_wait(w->s.journal, &last.wait);
    w->s.own = x.own;
    own_state_take(&w->s, x.read);
    assert_int_equal(last.count, 1);
    assert_int_equal(pthread_create(&thread, NULL, drop_aside, x.read), 0);
    assert_int_equal(offset_of(w, "a"), 100);
    commit_offset(w, "a", 101);
    assert_int_equal(offset_of(w, "a"), 101);
    assert_int_equal(pthread_join(thread, NULL), 0);
}

/* A server that stops meanwhile. */
static void test_what_was_read_and_is_not_wanted_leaves_the_rest_alone(void **state)
{
    struct world *w = *state;
    struct own_read *r;
    commit_offset(w, "a", 50);
    own_state_away(&w->s);
    KIT_OK(read_store(w, &r));
    own_state_drop(r);
    assert_int_equal(offset_of(w, "a"), 50);
    assert_int_equal(heartbeat(w), OK);
}

/* At a start, the own store is there before the captured one, which may hide its topics. */
static void test_offsets_go_with_another_topic_when_all_topics_are_known(void **state)
{
    struct world *w = *state;
    struct store_topic t = kit_topic(w->s.own, "t", 1);
    own_state_watch_topics(&w->s);
    commit_of(w, "t", 5, t.id);
    commit_of(w, "u", 6, t.id);
    kit_topic(w->s.own, "u", 1);
    topics_set_stores(w->s.topics, w->s.own, NULL);
    journal_flush(w->s.journal);
    assert_int_equal(offset_of(w, "t"), 5);
    assert_int_equal(offset_of(w, "u"), 6);
    w->s.captured_known = true;
    topics_set_stores(w->s.topics, w->s.own, NULL);
    journal_flush(w->s.journal);
    assert_int_equal(offset_of(w, "t"), 5);
    assert_int_equal(offset_of(w, "u"), -1);
    topics_set_stores(w->s.topics, NULL, NULL);
}

static bool open_fails;

enum err real_open(struct transactions **out, struct journal *j, struct producers *p,
                   struct coordinator *groups, const struct transactions_options *o,
                   struct errmsg *m) __asm__("__real_transactions_open");
enum err wrap_open(struct transactions **out, struct journal *j, struct producers *p,
                   struct coordinator *groups, const struct transactions_options *o,
                   struct errmsg *m) __asm__("__wrap_transactions_open");

enum err wrap_open(struct transactions **out, struct journal *j, struct producers *p,
                   struct coordinator *groups, const struct transactions_options *o,
                   struct errmsg *m)
{
    return open_fails ? err_set(m, ERR_NOMEM, "as the test wants it")
                      : real_open(out, j, p, groups, o, m);
}

/* Else transactions would go on with groups that are read again, and producers would be what they
 * were before the store broke. */
static void test_an_opening_that_fails_leaves_nothing_of_itself(void **state)
{
    struct world *w = *state;
    commit_offset(w, "a", 50);
    own_state_away(&w->s);
    struct own_read *r;
    open_fails = true;
    assert_int_equal(read_store(w, &r), ERR_NOMEM);
    open_fails = false;
    assert_null(r);
    assert_null(w->s.producers);
    assert_null(w->s.transactions);
    commit_offset(w, "a", 51); /* into no store */
    assert_int_equal(offset_of(w, "a"), 50);
    take_store(w);
    assert_non_null(w->s.producers);
    assert_non_null(w->s.transactions);
    commit_offset(w, "a", 52);
    assert_int_equal(offset_of(w, "a"), 52);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_commit_that_failed_and_landed_counts),
        TEST(test_a_store_is_read_beside_what_goes_on),
        TEST(test_what_was_read_and_is_not_wanted_leaves_the_rest_alone),
        TEST(test_nothing_is_answered_from_memory_while_a_commit_is_in_doubt),
        TEST(test_an_opening_that_fails_leaves_nothing_of_itself),
        TEST(test_offsets_go_with_another_topic_when_all_topics_are_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
