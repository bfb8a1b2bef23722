/* The coordinator of transactions where the simulation does not look: what expires, what is thrown
 * away with a topic, producer ids over a commit that failed, what is left without a coordinator. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>

#include <cmocka.h>

#include "kafka-server/broker/transactions.h"
#include "tests/unit/memory_rows.h"

#define WEEK_MS 604800000

static struct journal *j;
static struct coordinator *groups;
static struct producers *producers;
static struct transactions *t;
static int64_t now_ms = 1700000000000;
static int64_t next_offset;
static const struct transactions_producer x0 = {{(const uint8_t *)"x", 1}, 0, 0};

static enum err append(void *arg, uint32_t uid, uint8_t *batch, size_t len, int64_t *base_offset)
{
    *base_offset = next_offset++;
    return uid < 100 ? OK : ERR_NOT_FOUND;
}

static void start(void)
{
    const struct journal_rows rows = {
        .put = memory_put,
        .del = memory_del,
        .commit = memory_commit,
        .append = append,
        .rollback = memory_rollback,
        .scan = memory_scan,
    };
    const struct config_server cfg = {
        .offsets_retention_minutes = 1000000,
        .offsets_retention_check_interval_ms = 1000000000,
        .offset_metadata_max_bytes = 4096,
    };
    const struct producers_options po = {86400000, 600000};
    const struct transactions_options to = {900000, WEEK_MS, 1000, 1000};
    struct errmsg m;
    assert_int_equal(journal_open_rows(&j, &rows, &m), OK);
    assert_int_equal(coordinator_open(&groups, j, &cfg, 1000, &m), OK);
    assert_int_equal(producers_open(&producers, j, &po, &m), OK);
    assert_int_equal(transactions_open(&t, j, producers, groups, &to, &m), OK);
}

static void stop(void)
{
    transactions_close(t);
    producers_close(producers);
    coordinator_close(groups);
    journal_close(j);
}

static int setup(void **state)
{
    start();
    return 0;
}

static int teardown(void **state)
{
    stop();
    memory_clear();
    return 0;
}

static enum kerr init_as(const char *name, int64_t *id, int16_t *epoch)
{
    const struct transactions_init r = {
        .transactional_id = name != NULL ? slice_str(name) : slice_make(NULL, 0),
        .timeout_ms = 60000,
        .expected_id = -1,
        .expected_epoch = -1,
    };
    return transactions_init(t, &r, now_ms, id, epoch);
}

static void init_x(void)
{
    int64_t id;
    int16_t epoch;
    assert_int_equal(init_as("x", &id, &epoch), KERR_NONE);
    assert_int_equal(id, 0);
    journal_flush(j);
}

static void put_offset(const char *topic)
{
    const struct offset_row row = {.offset = 7, .expire_ms = -1, .metadata = slice_str("m")};
    assert_int_equal(transactions_commit(t, &x0, TXN_CLIENT_ADDS, slice_str("g"), now_ms),
                     KERR_NONE);
    assert_int_equal(transactions_commit_put(t, &x0, slice_str("g"), slice_str(topic), 0, &row),
                     KERR_NONE);
}

static bool unstable(const char *topic)
{
    return transactions_unstable(t, slice_str("g"), slice_str(topic), 0);
}

static const struct offset_entry *offset_of(const char *topic)
{
    const struct offsets *o = coordinator_offsets(groups, slice_str("g"));
    return o != NULL ? offsets_find(o, slice_str(topic), 0) : NULL;
}

static void end(bool commits)
{
    int64_t id;
    int16_t epoch;
    assert_int_equal(transactions_end(t, &x0, commits, true, now_ms, &id, &epoch), KERR_NONE);
    assert_int_equal(epoch, 1);
    journal_flush(j);
}

static void test_a_block_of_ids_counts_when_it_is_stored(void **state)
{
    int64_t id, last;
    int16_t epoch;
    mem.fail_commit = ERR_FULL;
    assert_int_equal(init_as(NULL, &id, &epoch), KERR_NONE);
    journal_flush(j);
    mem.fail_commit = OK;
    assert_int_equal(init_as(NULL, &id, &epoch), KERR_NONE);
    journal_flush(j);
    stop();
    start();
    assert_int_equal(init_as(NULL, &last, &epoch), KERR_NONE);
    assert_true(last > id);
    journal_flush(j);
    for (int i = 0; i < 2500; i++) {
        assert_int_equal(init_as(NULL, &id, &epoch), KERR_NONE);
        assert_int_equal(id, last + 1);
        last = id;
        journal_flush(j);
    }
    stop();
    start();
    assert_int_equal(init_as(NULL, &id, &epoch), KERR_NONE);
    assert_true(id > last);
}

static void test_a_transactional_id_expires_but_not_in_a_transaction(void **state)
{
    const uint32_t uid = 5;
    init_x();
    now_ms += WEEK_MS - 1;
    transactions_tick(t, now_ms);
    assert_non_null(transactions_find(t, slice_str("x")));
    assert_int_equal(transactions_add(t, &x0, &uid, 1, now_ms), KERR_NONE);
    journal_flush(j);
    now_ms += 60001;
    transactions_tick(t, now_ms); /* aborted: that is a use */
    journal_flush(j);
    assert_int_equal(transactions_find(t, slice_str("x"))->state, TXN_COMPLETE_ABORT);
    now_ms += WEEK_MS;
    transactions_tick(t, now_ms);
    journal_flush(j);
    assert_null(transactions_find(t, slice_str("x")));
    stop();
    start();
    assert_null(transactions_find(t, slice_str("x")));
    assert_int_equal(transactions_add(t, &x0, &uid, 1, now_ms), KERR_INVALID_PRODUCER_ID_MAPPING);
}

/* A board without a battery: it wakes in 1970, and NTP comes later. */
static void test_a_clock_that_is_set_makes_nothing_old(void **state)
{
    const uint32_t uid = 5;
    int64_t id, set_ms = now_ms;
    int16_t epoch;
    now_ms = 50000;
    init_x();
    assert_int_equal(init_as("idle", &id, &epoch), KERR_NONE);
    assert_int_equal(transactions_add(t, &x0, &uid, 1, now_ms), KERR_NONE);
    journal_flush(j);
    now_ms = set_ms;
    transactions_tick(t, now_ms);
    journal_flush(j);
    stop();
    start();
    assert_int_equal(transactions_find(t, slice_str("x"))->state, TXN_ONGOING);
    assert_non_null(transactions_find(t, slice_str("idle")));
    now_ms += 60001;
    transactions_tick(t, now_ms);
    journal_flush(j);
    assert_int_equal(transactions_find(t, slice_str("x"))->state, TXN_COMPLETE_ABORT);
    now_ms += WEEK_MS;
    transactions_tick(t, now_ms);
    journal_flush(j);
    assert_null(transactions_find(t, slice_str("idle")));
}

static void test_what_changes_nothing_writes_nothing(void **state)
{
    const uint32_t uid = 5;
    const struct transactions_producer fenced = {slice_str("x"), 0, 0};
    int64_t id;
    int16_t epoch;
    init_x();
    put_offset("a");
    assert_int_equal(transactions_add(t, &x0, &uid, 1, now_ms), KERR_NONE);
    journal_flush(j);
    int commits = mem.commits;
    assert_int_equal(transactions_add(t, &x0, &uid, 1, now_ms), KERR_NONE);
    journal_flush(j);
    assert_int_equal(mem.commits, commits);
    put_offset("a"); /* its row alone */
    assert_int_equal(mem.pending_count, 1);
    journal_flush(j);
    end(true);
    commits = mem.commits;
    assert_int_equal(transactions_end(t, &x0, true, true, now_ms, &id, &epoch), KERR_NONE);
    assert_int_equal(transactions_end(t, &x0, false, true, now_ms, &id, &epoch),
                     KERR_INVALID_TXN_STATE);
    assert_int_equal(transactions_add(t, &fenced, &uid, 1, now_ms), KERR_PRODUCER_FENCED);
    assert_int_equal(transactions_add_group(t, &fenced, slice_str("g"), now_ms),
                     KERR_PRODUCER_FENCED);
    journal_flush(j);
    assert_int_equal(mem.commits, commits);
}

static void test_a_transaction_takes_so_many_offsets(void **state)
{
    const struct offset_row row = {.offset = 7, .expire_ms = -1};
    const struct slice g = slice_str("g"), topic = slice_str("a");
    init_x();
    assert_int_equal(transactions_commit(t, &x0, TXN_CLIENT_ADDS, g, now_ms), KERR_NONE);
    mem.fail_put = ERR_FULL; /* nothing of it is kept */
    for (int32_t i = 0; i < (int32_t)TRANSACTION_OFFSETS_MAX; i++) {
        assert_int_equal(transactions_commit_put(t, &x0, g, topic, i, &row), KERR_NONE);
    }
    assert_int_equal(
        transactions_commit_put(t, &x0, g, topic, TRANSACTION_OFFSETS_MAX, &row),
        KERR_POLICY_VIOLATION);
    assert_int_equal(transactions_commit_put(t, &x0, g, topic, 5, &row), KERR_NONE); /* again */
    journal_flush(j);
    mem.fail_put = OK;
    assert_false(unstable("a"));
    assert_null(coordinator_find(groups, g));
}

/* Many topics come and go, and many groups, beside many offsets: looked at one by one they would be
 * ten thousand million. */
static void test_a_change_of_topics_or_groups_does_not_look_at_all_offsets(void **state)
{
    enum { OFFSETS = 2000, CHANGES = 2000000 };
    const struct offset_row row = {.offset = 7, .expire_ms = -1};
    const struct slice g = slice_str("g");
    struct uuid other = {{2}};
    char name[32];
    init_x();
    assert_int_equal(transactions_commit(t, &x0, TXN_CLIENT_ADDS, g, now_ms), KERR_NONE);
    for (int32_t i = 0; i < OFFSETS; i++) {
        snprintf(name, sizeof name, "topic-%d", i / 10);
        assert_int_equal(transactions_commit_put(t, &x0, g, slice_str(name), i % 10, &row),
                         KERR_NONE);
    }
    journal_flush(j);
    clock_t began = clock();
    for (int32_t i = 0; i < CHANGES; i++) {
        snprintf(name, sizeof name, "other-%d", i);
        transactions_topic_gone(t, slice_str(name));
        transactions_topic_came(t, slice_str(name), &other);
        transactions_group_gone(t, slice_str(name));
    }
    assert_in_range(clock() - began, 0, 8 * CLOCKS_PER_SEC);
    assert_false(journal_pending(j));
    transactions_topic_gone(t, slice_str("topic-7"));
    journal_flush(j);
    assert_false(transactions_unstable(t, g, slice_str("topic-7"), 3));
    assert_true(transactions_unstable(t, g, slice_str("topic-8"), 3));
    mem.fail_commit = ERR_FULL;
    transactions_group_gone(t, g);
    journal_flush(j);
    mem.fail_commit = OK;
    assert_true(transactions_unstable(t, g, slice_str("topic-8"), 3));
    transactions_group_gone(t, g);
    journal_flush(j);
    assert_false(transactions_unstable(t, g, slice_str("topic-8"), 3));
}

static void test_a_turn_that_is_full_aborts_nothing_more(void **state)
{
    const uint32_t uid = 5;
    const char *const names[] = {"a", "b", "c"};
    int64_t id;
    int16_t epoch;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(init_as(names[i], &id, &epoch), KERR_NONE);
        const struct transactions_producer who = {slice_str(names[i]), id, epoch};
        assert_int_equal(transactions_add(t, &who, &uid, 1, now_ms), KERR_NONE);
    }
    journal_flush(j);
    now_ms += 60001;
    journal_work(j, JOURNAL_TURN_BYTES - 1); /* there is room for one */
    transactions_tick(t, now_ms);
    journal_flush(j);
    assert_int_equal(transactions_find(t, slice_str("a"))->state, TXN_COMPLETE_ABORT);
    assert_int_equal(transactions_find(t, slice_str("b"))->state, TXN_ONGOING);
    transactions_tick(t, now_ms);
    journal_flush(j);
    assert_int_equal(transactions_find(t, slice_str("b"))->state, TXN_COMPLETE_ABORT);
    assert_int_equal(transactions_find(t, slice_str("c"))->state, TXN_COMPLETE_ABORT);
}

static void test_offsets_wait_for_the_end_over_a_restart(void **state)
{
    init_x();
    put_offset("a");
    journal_flush(j);
    stop();
    start();
    assert_true(unstable("a") && offset_of("a") == NULL);
    end(true);
    assert_false(unstable("a"));
    assert_int_equal(offset_of("a")->row.offset, 7);
    assert_true(slice_eq(offset_of("a")->row.metadata, slice_str("m")));
}

static void test_offsets_of_an_aborted_transaction_are_thrown_away(void **state)
{
    init_x();
    put_offset("a");
    journal_flush(j);
    mem.fail_commit = ERR_FULL;
    put_offset("b");
    journal_flush(j);
    mem.fail_commit = OK;
    assert_true(unstable("a") && !unstable("b"));
    size_t rows = mem.count;
    end(false);
    assert_true(!unstable("a") && offset_of("a") == NULL);
    assert_int_equal(mem.count, rows - 1);
}

static enum kerr put_offset_of(const char *group, const char *topic)
{
    const struct offset_row row = {.offset = 7, .expire_ms = -1, .metadata = slice_str("m")};
    enum kerr e = transactions_commit(t, &x0, TXN_CLIENT_ADDS, slice_str(group), now_ms);
    return e != KERR_NONE
               ? e
               : transactions_commit_put(t, &x0, slice_str(group), slice_str(topic), 0, &row);
}

/* As long as nothing is committed in them they are of memory only. */
static void make_groups_up_to_the_maximum(void)
{
    char name[32];
    struct coordinated *g;
    const struct slice none = slice_make(NULL, 0);
    for (size_t i = 0; coordinator_count(groups) < COORDINATOR_GROUPS_MAX; i++) {
        snprintf(name, sizeof name, "group %zu", i);
        assert_int_equal(
            coordinator_commit(groups, slice_str(name), -1, none, none, true, &g), KERR_NONE);
    }
}

static void test_an_offset_that_was_taken_has_its_place_at_the_end(void **state)
{
    const struct config_server smaller = {.offsets_retention_minutes = 1000000,
                                          .offsets_retention_check_interval_ms = 1000000000,
                                          .offset_metadata_max_bytes = 0};
    init_x();
    put_offset("a");
    journal_flush(j);
    make_groups_up_to_the_maximum();
    coordinator_reload(groups, &smaller);
    assert_int_equal(put_offset_of("one more", "a"), KERR_COORDINATOR_NOT_AVAILABLE);
    assert_int_equal(put_offset_of("g", "b"), KERR_NONE);
    int commits = mem.commits;
    end(true);
    assert_int_equal(mem.commits, commits + 1);
    assert_int_equal(offset_of("a")->row.offset, 7);
    assert_int_equal(offset_of("b")->row.offset, 7);
    assert_null(coordinator_offsets(groups, slice_str("one more")));
}

static void test_a_group_lives_as_long_as_an_offset_waits_for_it(void **state)
{
    init_x();
    put_offset("a");
    journal_flush(j);
    coordinator_tick(groups, coordinator_deadline_ms(groups));
    assert_non_null(coordinator_find(groups, slice_str("g")));
    stop();
    start();
    assert_non_null(coordinator_find(groups, slice_str("g")));
    end(false);
    assert_null(coordinator_find(groups, slice_str("g")));
}

static void test_offsets_of_a_deleted_group_are_thrown_away(void **state)
{
    init_x();
    put_offset("a");
    assert_int_equal(put_offset_of("h", "a"), KERR_NONE);
    journal_flush(j);
    size_t rows = mem.count;
    mem.fail_commit = ERR_FULL;
    assert_int_equal(coordinator_delete_group(groups, slice_str("g")), KERR_NONE);
    transactions_group_gone(t, slice_str("g"));
    assert_int_equal(put_offset_of("g", "b"), KERR_COORDINATOR_NOT_AVAILABLE);
    journal_flush(j);
    mem.fail_commit = OK;
    assert_true(unstable("a") && mem.count == rows);
    assert_int_equal(coordinator_delete_group(groups, slice_str("g")), KERR_NONE);
    transactions_group_gone(t, slice_str("g"));
    end(true); /* in the same turn */
    assert_null(coordinator_offsets(groups, slice_str("g")));
    assert_non_null(coordinator_offsets(groups, slice_str("h")));
    stop();
    start();
    assert_null(coordinator_offsets(groups, slice_str("g")));
}

static void test_a_deleted_offset_is_thrown_away(void **state)
{
    struct coordinated *g;
    init_x();
    put_offset("a");
    put_offset("b");
    journal_flush(j);
    assert_int_equal(coordinator_delete_offsets(groups, slice_str("g"), &g), KERR_NONE);
    assert_int_equal(coordinator_delete_offset(groups, g, slice_str("a"), 0), KERR_NONE);
    transactions_offset_gone(t, slice_str("g"), slice_str("a"), 0);
    transactions_offset_gone(t, slice_str("g"), slice_str("none"), 0);
    journal_flush(j);
    assert_true(!unstable("a") && unstable("b"));
    end(true);
    assert_null(offset_of("a"));
    assert_int_equal(offset_of("b")->row.offset, 7);
}

static void test_offsets_of_a_deleted_topic_are_thrown_away(void **state)
{
    init_x();
    put_offset("a");
    put_offset("b");
    journal_flush(j);
    transactions_topic_gone(t, slice_str("a"));
    journal_flush(j);
    assert_true(!unstable("a") && unstable("b"));
    end(true);
    assert_true(offset_of("a") == NULL && offset_of("b") != NULL);
}

static void test_offsets_stay_with_the_topic_of_their_id(void **state)
{
    const struct uuid mine = {{1}}, other = {{2}};
    const struct offset_row row = {.offset = 7, .expire_ms = -1, .topic_id = mine};
    init_x();
    put_offset("b"); /* of no id: an older version wrote such */
    assert_int_equal(transactions_commit_put(t, &x0, slice_str("g"), slice_str("a"), 0, &row),
                     KERR_NONE);
    journal_flush(j);
    transactions_topic_came(t, slice_str("a"), &mine);
    transactions_topic_came(t, slice_str("b"), &other);
    assert_true(unstable("a") && unstable("b"));
    transactions_topic_came(t, slice_str("a"), &other);
    journal_flush(j);
    assert_true(!unstable("a") && unstable("b"));
    end(true);
    assert_true(offset_of("a") == NULL && offset_of("b") != NULL);
}

static void test_partitions_that_are_gone_need_no_marker(void **state)
{
    const uint32_t uids[] = {5, 105};
    init_x();
    assert_int_equal(transactions_add(t, &x0, uids, 2, now_ms), KERR_NONE);
    journal_flush(j);
    end(true);
    assert_int_equal(transactions_find(t, slice_str("x"))->state, TXN_COMPLETE_COMMIT);
}

static void test_without_a_coordinator_clients_try_again(void **state)
{
    int64_t id;
    int16_t epoch;
    const struct transactions_init r = {.transactional_id = slice_str("x"), .timeout_ms = 1};
    assert_int_equal(transactions_init(NULL, &r, 0, &id, &epoch), KERR_COORDINATOR_NOT_AVAILABLE);
    assert_int_equal(transactions_end(NULL, &x0, true, true, 0, &id, &epoch),
                     KERR_COORDINATOR_NOT_AVAILABLE);
    assert_int_equal(transactions_produce(NULL, &x0, TXN_CLIENT_ADDS, 1, 0),
                     KERR_NOT_ENOUGH_REPLICAS);
    assert_null(transactions_find(NULL, slice_str("x")));
    assert_false(transactions_unstable(NULL, slice_str("g"), slice_str("a"), 0));
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_a_block_of_ids_counts_when_it_is_stored),
        TEST(test_a_transactional_id_expires_but_not_in_a_transaction),
        TEST(test_a_clock_that_is_set_makes_nothing_old),
        TEST(test_what_changes_nothing_writes_nothing),
        TEST(test_a_transaction_takes_so_many_offsets),
        TEST(test_a_change_of_topics_or_groups_does_not_look_at_all_offsets),
        TEST(test_a_turn_that_is_full_aborts_nothing_more),
        TEST(test_offsets_wait_for_the_end_over_a_restart),
        TEST(test_offsets_of_an_aborted_transaction_are_thrown_away),
        TEST(test_an_offset_that_was_taken_has_its_place_at_the_end),
        TEST(test_a_group_lives_as_long_as_an_offset_waits_for_it),
        TEST(test_offsets_of_a_deleted_group_are_thrown_away),
        TEST(test_a_deleted_offset_is_thrown_away),
        TEST(test_offsets_of_a_deleted_topic_are_thrown_away),
        TEST(test_offsets_stay_with_the_topic_of_their_id),
        TEST(test_partitions_that_are_gone_need_no_marker),
        TEST(test_without_a_coordinator_clients_try_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
