/* One commit a turn, and who hears of it when. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "shared/base/log.h"
#include "tests/unit/memory_rows.h"

static struct journal *j;

static void no_log(void *arg, enum log_level level, const char *line)
{
}

static int setup(void **state)
{
    log_set_sink(no_log, NULL);
    j = memory_journal();
    return 0;
}

static int teardown(void **state)
{
    journal_close(j);
    memory_clear();
    return 0;
}

struct listener {
    struct journal_wait wait; /* first */
    int count;
    enum err e;
    size_t rows_seen;
    struct listener *forgets; /* on hearing */
    bool again;               /* waits and puts again on hearing */
    bool always;              /* waits again on hearing, each time */
};

static void heard(struct journal_wait *w, enum err e)
{
    struct listener *l = (struct listener *)w;
    l->count++;
    l->e = e;
    l->rows_seen = mem.count;
    if (l->forgets != NULL) {
        journal_forget(j, &l->forgets->wait);
    }
    if (l->again) {
        l->again = false;
        journal_put(j, slice_str("again"), slice_str("v"));
        journal_wait(j, &l->wait);
    }
    if (l->always) {
        journal_wait(j, &l->wait);
    }
}

static void test_many_rows_are_one_commit_and_waiters_hear_after_it(void **state)
{
    struct listener a = {.wait.done = heard}, b = {.wait.done = heard};
    assert_false(journal_pending(j));
    journal_put(j, slice_str("1"), slice_str("x"));
    journal_wait(j, &a.wait);
    journal_put(j, slice_str("2"), slice_str("y"));
    journal_wait(j, &b.wait);
    assert_true(journal_pending(j));
    assert_int_equal(a.count, 0);
    journal_flush(j);
    assert_int_equal(mem.commits, 1);
    assert_int_equal(a.count, 1);
    assert_int_equal(b.count, 1);
    assert_int_equal(a.e, OK);
    assert_int_equal(a.rows_seen, 2);
    assert_false(journal_pending(j));
}

static void test_a_turn_without_rows_costs_no_commit(void **state)
{
    struct listener a = {.wait.done = heard};
    journal_flush(j);
    journal_wait(j, &a.wait);
    journal_flush(j);
    assert_int_equal(a.count, 1);
    assert_int_equal(mem.commits, 0);
}

static void test_failed_commit_stores_nothing_and_says_so(void **state)
{
    struct listener a = {.wait.done = heard};
    mem.fail_commit = ERR_FULL;
    journal_put(j, slice_str("1"), slice_str("x"));
    journal_wait(j, &a.wait);
    journal_flush(j);
    assert_int_equal(a.e, ERR_FULL);
    assert_int_equal(mem.count, 0);
    mem.fail_commit = OK;
    journal_put(j, slice_str("2"), slice_str("y"));
    journal_wait(j, &a.wait);
    journal_flush(j);
    assert_int_equal(a.e, OK);
    assert_int_equal(mem.count, 1); /* nothing is left over from the failed turn */
}

static enum err heard_of_nothing(void)
{
    struct listener a = {.wait.done = heard};
    journal_wait(j, &a.wait);
    journal_flush(j);
    assert_int_equal(a.count, 1);
    return a.e;
}

static void test_who_has_written_nothing_is_told_of_a_commit_in_doubt_until_a_store_is_there(
    void **state)
{
    struct listener a = {.wait.done = heard};
    mem.fail_commit = ERR_FULL;
    journal_put(j, slice_str("1"), slice_str("x"));
    journal_flush(j);
    assert_int_equal(heard_of_nothing(), OK); /* it is known that it is not there */
    mem.in_doubt = true;
    journal_put(j, slice_str("1"), slice_str("x"));
    journal_wait(j, &a.wait);
    journal_flush(j);
    assert_int_equal(a.e, ERR_FULL);
    assert_int_equal(heard_of_nothing(), ERR_IO);
    mem.fail_commit = OK;
    int commits = mem.commits;
    journal_put(j, slice_str("2"), slice_str("y"));
    assert_int_equal(heard_of_nothing(), ERR_IO);
    assert_int_equal(mem.commits, commits);
    journal_lose_store(j);
    assert_int_equal(heard_of_nothing(), ERR_IO);
    struct journal *next = memory_journal();
    journal_hand_over(j, next);
    j = next;
    assert_int_equal(heard_of_nothing(), OK);
    journal_put(j, slice_str("2"), slice_str("y"));
    assert_int_equal(heard_of_nothing(), OK);
    assert_int_equal(mem.count, 1);
}

static void test_who_waits_for_ever_waits_in_the_next_journal(void **state)
{
    struct listener a = {.wait.done = heard, .always = true};
    journal_wait(j, &a.wait);
    journal_lose_store(j);
    struct journal *next = memory_journal();
    journal_hand_over(j, next);
    j = next;
    int before = a.count;
    assert_true(before > 0);
    assert_true(journal_pending(j));
    a.always = false;
    journal_flush(j);
    assert_int_equal(a.count, before + 1);
    assert_int_equal(a.e, OK);
    assert_false(journal_pending(j));
}

static void test_failed_put_fails_the_whole_turn(void **state)
{
    struct listener a = {.wait.done = heard};
    journal_put(j, slice_str("1"), slice_str("x"));
    mem.fail_put = ERR_NOMEM;
    journal_put(j, slice_str("2"), slice_str("y"));
    mem.fail_put = OK;
    journal_put(j, slice_str("3"), slice_str("z"));
    journal_wait(j, &a.wait);
    journal_flush(j);
    assert_int_equal(a.e, ERR_NOMEM);
    assert_int_equal(mem.count, 0);
    assert_int_equal(mem.commits, 0);
}

static void test_waiter_may_forget_another_that_was_to_hear_next(void **state)
{
    struct listener a = {.wait.done = heard}, b = {.wait.done = heard}, c = {.wait.done = heard};
    a.forgets = &b;
    journal_wait(j, &a.wait);
    journal_wait(j, &b.wait);
    journal_wait(j, &c.wait);
    journal_flush(j);
    assert_int_equal(a.count, 1);
    assert_int_equal(b.count, 0);
    assert_int_equal(c.count, 1);
    journal_forget(j, &b.wait);
}

static void test_waiter_that_waits_again_belongs_to_the_next_flush(void **state)
{
    struct listener a = {.wait.done = heard, .again = true};
    journal_wait(j, &a.wait);
    journal_flush(j);
    assert_int_equal(a.count, 1);
    assert_true(journal_pending(j));
    journal_flush(j);
    assert_int_equal(a.count, 2);
    assert_int_equal(mem.count, 1);
}

struct owner {
    struct journal_owner owner; /* first */
    int written, told;
    enum err e;
};

static void owner_write(struct journal_owner *o, struct journal *to)
{
    ((struct owner *)o)->written++;
    journal_put(to, slice_str("owner"), slice_str("late"));
}

static void owner_done(struct journal_owner *o, enum err e)
{
    ((struct owner *)o)->told++;
    ((struct owner *)o)->e = e;
}

static void test_owner_writes_last_and_hears_first(void **state)
{
    struct owner o = {.owner = {.write = owner_write, .done = owner_done}};
    struct listener a = {.wait.done = heard};
    journal_add_owner(j, &o.owner);
    journal_flush(j);
    assert_int_equal(o.written, 0); /* nobody asked */
    journal_touch(j);
    journal_wait(j, &a.wait);
    journal_flush(j);
    assert_int_equal(o.written, 1);
    assert_int_equal(o.told, 1);
    assert_int_equal(a.rows_seen, 1);
    mem.fail_commit = ERR_IO;
    journal_touch(j);
    journal_flush(j);
    assert_int_equal(o.e, ERR_IO);
    journal_remove_owner(j, &o.owner);
}

static void test_all_that_a_turn_does_counts_until_it_ends(void **state)
{
    uint8_t batch[100] = {0};
    int64_t base;
    journal_put(j, slice_str("key"), slice_str("value"));
    assert_int_equal(journal_bytes(j), 8);
    journal_delete(j, slice_str("key"));
    assert_int_equal(journal_bytes(j), 11);
    journal_work(j, 1000);
    assert_int_equal(journal_append(j, 1, batch, sizeof batch, &base), OK);
    assert_int_equal(journal_bytes(j), 1111);
    journal_flush(j);
    assert_int_equal(journal_bytes(j), 0);
}

static void test_batches_are_of_the_turns_commit_and_one_that_fails_is_not(void **state)
{
    uint8_t batch[100] = {0};
    int64_t base = -1;
    struct listener a = {.wait.done = heard};
    assert_int_equal(journal_append(j, 1, batch, sizeof batch, &base), OK);
    assert_int_equal(base, 0);
    assert_int_equal(journal_append(j, 1, batch, sizeof batch, &base), OK);
    assert_int_equal(base, 1);
    assert_int_equal(journal_bytes(j), 2 * sizeof batch);
    mem.fail_append = ERR_NOT_FOUND;
    assert_int_equal(journal_append(j, 1, batch, sizeof batch, &base), ERR_NOT_FOUND);
    mem.fail_append = OK;
    journal_wait(j, &a.wait);
    journal_flush(j);
    assert_int_equal(a.e, OK);
    assert_int_equal(mem.commits, 1);
    assert_int_equal(mem.end, 2);
    assert_int_equal(journal_bytes(j), 0);
    mem.fail_commit = ERR_FULL;
    assert_int_equal(journal_append(j, 1, batch, sizeof batch, &base), OK);
    journal_flush(j);
    assert_int_equal(mem.end, 2);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_many_rows_are_one_commit_and_waiters_hear_after_it),
        T(test_a_turn_without_rows_costs_no_commit),
        T(test_failed_commit_stores_nothing_and_says_so),
        T(test_who_has_written_nothing_is_told_of_a_commit_in_doubt_until_a_store_is_there),
        T(test_failed_put_fails_the_whole_turn),
        T(test_waiter_may_forget_another_that_was_to_hear_next),
        T(test_waiter_that_waits_again_belongs_to_the_next_flush),
        T(test_who_waits_for_ever_waits_in_the_next_journal),
        T(test_owner_writes_last_and_hears_first),
        T(test_all_that_a_turn_does_counts_until_it_ends),
        T(test_batches_are_of_the_turns_commit_and_one_that_fails_is_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
