/* Work that is under way while what it works on goes away: it is known of until it is reaped. */
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>

#include <cmocka.h>

#include "kafka-server/broker/workers.h"

static sem_t may_run, finished;
static int done_count;

static void run_held(struct work *w)
{
    sem_wait(&may_run);
}

static void run_now(struct work *w)
{
}

static void count_done(struct work *w)
{
    done_count++;
}

static void wake(void *arg)
{
    sem_post(&finished);
}

static struct workers *open_one(void)
{
    struct workers *w;
    struct errmsg m;
    assert_int_equal(sem_init(&may_run, 0, 0), 0);
    assert_int_equal(sem_init(&finished, 0, 0), 0);
    done_count = 0;
    assert_int_equal(workers_open(&w, 1, 0, 10, wake, NULL, &m), OK);
    return w;
}

/* A store that is given up is closed when nobody reads it any more: not the one who reads ahead
 * while no request waits for it, nor who waits behind that one in the queue. */
static void test_work_of_before_is_known_until_it_is_reaped(void **state)
{
    struct workers *w = open_one();
    struct work held = {.run = run_held, .done = count_done};
    struct work behind = {.run = run_now, .done = count_done};
    struct work after = {.run = run_now, .done = count_done};
    assert_int_equal(workers_submit(w, &held), OK);
    assert_int_equal(workers_submit(w, &behind), OK);
    assert_false(workers_busy_before(w));
    workers_new_generation(w);
    assert_true(workers_busy_before(w));
    assert_int_equal(workers_submit(w, &after), OK);
    workers_reap(w);
    assert_int_equal(done_count, 0);
    assert_true(workers_busy_before(w));
    sem_post(&may_run);
    while (workers_busy_before(w)) {
        sem_wait(&finished);
        workers_reap(w);
    }
    assert_true(done_count >= 2);
    while (workers_busy(w) > 0) {
        sem_wait(&finished);
        workers_reap(w);
    }
    workers_new_generation(w);
    assert_false(workers_busy_before(w));
    workers_close(w);
    assert_int_equal(done_count, 3);
}

static void test_what_never_ran_is_done_at_the_end(void **state)
{
    struct workers *w = open_one();
    struct work held = {.run = run_held, .done = count_done};
    struct work behind = {.run = run_now, .done = count_done};
    assert_int_equal(workers_submit(w, &held), OK);
    assert_int_equal(workers_submit(w, &behind), OK);
    workers_new_generation(w);
    sem_post(&may_run);
    workers_close(w);
    assert_int_equal(done_count, 2);
}

#define NICE_MOST 19

static int seen_nice;

static void see_nice(struct work *w)
{
    seen_nice = getpriority(PRIO_PROCESS, 0);
}

static int nice_of_a_worker(int nice)
{
    struct workers *w;
    struct work work = {.run = see_nice, .done = count_done};
    assert_int_equal(sem_init(&finished, 0, 0), 0);
    assert_int_equal(workers_open(&w, 1, nice, 10, wake, NULL, NULL), OK);
    assert_int_equal(workers_submit(w, &work), OK);
    sem_wait(&finished);
    workers_reap(w);
    workers_close(w);
    return seen_nice;
}

/* Last: what a process has given up it does not get back. */
static void test_workers_give_way_to_the_thread_that_opened_them(void **state)
{
    int mine = getpriority(PRIO_PROCESS, 0);
    mine += mine < NICE_MOST;
    assert_int_equal(setpriority(PRIO_PROCESS, 0, mine), 0);
    assert_int_equal(nice_of_a_worker(0), mine);
    assert_int_equal(nice_of_a_worker(3), mine + 3 < NICE_MOST ? mine + 3 : NICE_MOST);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_work_of_before_is_known_until_it_is_reaped),
        cmocka_unit_test(test_what_never_ran_is_done_at_the_end),
        cmocka_unit_test(test_workers_give_way_to_the_thread_that_opened_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
