/* A hundred thousand groups that expire together: in how many turns they go, and that all do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "kafka-server/broker/coordinator_int.h"
#include "shared/base/clock.h"
#include "shared/base/log.h"

#define GROUPS       100000
#define RETENTION_MS 600000

static struct journal *j;
static struct coordinator *c;
static int64_t mono_ms;
/* Rows are counted and not kept: a table of so many takes longer than what is tested. */
static size_t deletes, deletes_most;
static enum err commits_end; /* as this */

static int64_t wall_ms(void)
{
    return 1700000000000 + mono_ms;
}

static int64_t mono_us(void)
{
    return mono_ms * 1000;
}

static void no_log(void *arg, enum log_level level, const char *line)
{
}

static enum err count_put(void *arg, struct slice key, struct slice value)
{
    return OK;
}

static enum err count_delete(void *arg, struct slice key)
{
    deletes++;
    return OK;
}

static enum err count_commit(void *arg, struct errmsg *m)
{
    deletes_most = deletes > deletes_most ? deletes : deletes_most;
    deletes = 0;
    return commits_end;
}

static void count_rollback(void *arg)
{
}

static enum err count_scan(void *arg, struct slice prefix, store_row_fn *fn, void *fn_arg,
                           struct errmsg *m)
{
    return OK;
}

static int setup(void **state)
{
    const struct journal_rows rows = {.put = count_put,
                                      .del = count_delete,
                                      .commit = count_commit,
                                      .rollback = count_rollback,
                                      .scan = count_scan};
    const struct config_server cfg = {.offsets_retention_minutes = RETENTION_MS / 60000,
                                      .offsets_retention_check_interval_ms = 1000,
                                      .offset_metadata_max_bytes = 16};
    struct errmsg m;
    log_set_sink(no_log, NULL);
    clock_set_source(wall_ms, mono_us);
    mono_ms = 1000;
    deletes = deletes_most = 0;
    commits_end = OK;
    assert_int_equal(journal_open_rows(&j, &rows, &m), OK);
    assert_int_equal(coordinator_open(&c, j, &cfg, mono_ms, &m), OK);
    return 0;
}

static int teardown(void **state)
{
    coordinator_close(c);
    journal_close(j);
    clock_set_source(NULL, NULL);
    return 0;
}

static void commit(const char *group)
{
    const struct offset_row row = {.offset = 7, .metadata = slice_str("")};
    struct coordinated *g = NULL;
    assert_int_equal(coordinator_commit(c, slice_str(group), -1, slice_str(""),
                                        slice_make(NULL, 0), false, &g),
                     KERR_NONE);
    assert_int_equal(coordinator_commit_put(c, g, slice_str("t"), 0, &row, -1), KERR_NONE);
}

static void commit_all(void)
{
    char name[32];
    for (int i = 0; i < GROUPS; i++) {
        snprintf(name, sizeof name, "g%d", i);
        commit(name);
    }
    journal_flush(j);
    assert_int_equal(coordinator_count(c), GROUPS);
}

/* As the server's loop does: what is due, then the commit. */
static int turn_until_none_is_due(void)
{
    int turns = 0;
    while (coordinator_deadline_ms(c) <= mono_ms) {
        coordinator_tick(c, mono_ms);
        journal_flush(j);
        assert_in_range(++turns, 1, GROUPS);
    }
    return turns;
}

static void test_many_groups_expire_in_many_turns(void **state)
{
    commit_all();
    mono_ms += RETENTION_MS;
    assert_in_range(turn_until_none_is_due(), 10, 1000);
    assert_int_equal(coordinator_count(c), 0);
    assert_in_range(deletes_most, 2, 2 * JOURNAL_TURN_BYTES / 64); /* a group's row, its offset's */
}

static void test_groups_may_go_where_a_sweep_has_stopped(void **state)
{
    char name[32];
    commit_all();
    mono_ms += RETENTION_MS;
    coordinator_tick(c, mono_ms);
    journal_flush(j);
    assert_in_range(coordinator_count(c), GROUPS / 2, GROUPS - 1);
    for (int i = 0; i < GROUPS; i += 2) { /* the one that it stands at is among them, or the next */
        snprintf(name, sizeof name, "g%d", i);
        (void)coordinator_delete_group(c, slice_str(name)); /* some have expired */
    }
    commit("young");
    journal_flush(j);
    turn_until_none_is_due();
    assert_int_equal(coordinator_count(c), 1);
    assert_non_null(coordinator_find(c, slice_str("young")));
}

static void test_groups_without_expired_offsets_are_looked_at_in_many_turns_too(void **state)
{
    commit_all();
    mono_ms += 1000;
    assert_in_range(turn_until_none_is_due(), 2, 100);
    assert_int_equal(coordinator_count(c), GROUPS);
    assert_int_equal(deletes_most, 0);
}

/* A disk that is full for hours: one try in each interval. */
static void test_a_sweep_that_cannot_be_stored_waits_for_the_next(void **state)
{
    commit_all();
    mono_ms += RETENTION_MS;
    commits_end = ERR_FULL;
    for (int i = 0; i < 3; i++) {
        assert_in_range(turn_until_none_is_due(), 1, 2);
        assert_int_equal(coordinator_count(c), GROUPS);
        mono_ms += 1000;
    }
    commits_end = OK;
    turn_until_none_is_due();
    assert_int_equal(coordinator_count(c), 0);
}

/* Each group once with all that the turn has put would be a thousand million looks. */
static void test_what_a_turn_has_put_is_looked_at_once_where_many_groups_go(void **state)
{
    enum { GONE = 30000 };
    char name[32];
    commit_all();
    deletes_most = 0;
    for (int i = 0; i < GONE; i++) {
        snprintf(name, sizeof name, "g%d", i);
        commit(name);
        assert_int_equal(coordinator_delete_group(c, slice_str(name)), KERR_NONE);
    }
    commit("young");
    journal_flush(j);
    assert_int_equal(coordinator_count(c), GROUPS - GONE + 1);
    assert_int_equal(deletes_most, 3 * GONE); /* its row, its offset, and what this turn has put */
    assert_int_equal(c->staged_seen, GONE + 1);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_many_groups_expire_in_many_turns),
        T(test_groups_may_go_where_a_sweep_has_stopped),
        T(test_what_a_turn_has_put_is_looked_at_once_where_many_groups_go),
        T(test_a_sweep_that_cannot_be_stored_waits_for_the_next),
        T(test_groups_without_expired_offsets_are_looked_at_in_many_turns_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
