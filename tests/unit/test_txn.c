/* The machine of a transactional id: who is fenced, which epoch comes next, what may be repeated.
 * The tables are those of Kafka 4.1's TransactionCoordinator. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kafka-server/broker/txn.h"
#include "shared/base/log.h"

static struct txn x;
static int64_t next_id;
static struct {
    int count;
    bool commits;
    int64_t id;
    int16_t epoch;
    size_t uids;
} ended;

static void on_end(void *arg, const struct txn *t, bool commits, int64_t id, int16_t epoch)
{
    ended.count++;
    ended.commits = commits;
    ended.id = id;
    ended.epoch = epoch;
    ended.uids = t->uid_count;
}

static int64_t on_fresh_id(void *arg)
{
    return next_id < 0 ? -1 : next_id++;
}

static int changes;

static bool on_changing(void *arg, const struct txn *t)
{
    changes++;
    return true;
}

static const struct txn_sink sink = {
    .end = on_end, .fresh_id = on_fresh_id, .changing = on_changing};

static int setup(void **state)
{
    txn_init(&x, slice_str("id"));
    next_id = 100;
    memset(&ended, 0, sizeof ended);
    return 0;
}

static int teardown(void **state)
{
    txn_fini(&x);
    return 0;
}

static enum kerr init(int64_t id, int16_t epoch)
{
    return txn_on_init(&x, 60000, id, epoch, &sink, 1000);
}

static void add(void)
{
    const uint32_t uids[] = {5, 3, 5};
    int before = changes;
    assert_int_equal(txn_on_add(&x, x.producer_id, x.epoch, uids, 3, false, &sink, 2000), 0);
    assert_int_equal(changes, before + 1);
    assert_int_equal(x.state, TXN_ONGOING);
    assert_int_equal(x.uid_count, 2);
}

static enum kerr end(int64_t id, int16_t epoch, bool commits, bool v2)
{
    return txn_on_end(&x, id, epoch, commits, v2, &sink, 3000);
}

static void expect(int64_t id, int16_t epoch, enum txn_state state)
{
    assert_int_equal(x.producer_id, id);
    assert_int_equal(x.epoch, epoch);
    assert_int_equal(x.state, state);
}

static void test_each_instance_takes_the_next_epoch(void **state)
{
    assert_int_equal(init(-1, -1), KERR_NONE);
    expect(100, 0, TXN_EMPTY);
    assert_int_equal(init(-1, -1), KERR_NONE);
    expect(100, 1, TXN_EMPTY);
    assert_int_equal(txn_check(&x, 100, 0), KERR_PRODUCER_FENCED);
    assert_int_equal(txn_check(&x, 99, 1), KERR_INVALID_PRODUCER_ID_MAPPING);
}

static void test_a_producer_may_go_on_and_repeat_that(void **state)
{
    assert_int_equal(init(-1, -1), KERR_NONE);
    assert_int_equal(init(100, 0), KERR_NONE);
    expect(100, 1, TXN_EMPTY);
    assert_int_equal(init(100, 0), KERR_NONE);
    expect(100, 1, TXN_EMPTY);
    assert_int_equal(init(-1, -1), KERR_NONE); /* another instance */
    assert_int_equal(init(100, 1), KERR_PRODUCER_FENCED);
    assert_int_equal(init(100, 0), KERR_PRODUCER_FENCED);
    assert_int_equal(init(99, 2), KERR_PRODUCER_FENCED);
    expect(100, 2, TXN_EMPTY);
}

static void test_a_new_instance_aborts_what_is_open(void **state)
{
    assert_int_equal(init(-1, -1), KERR_NONE);
    add();
    assert_int_equal(init(-1, -1), KERR_NONE);
    assert_int_equal(ended.count, 1);
    assert_false(ended.commits);
    assert_int_equal(ended.epoch, 1);
    assert_int_equal(ended.uids, 2);
    expect(100, 2, TXN_EMPTY);
    assert_int_equal(x.uid_count, 0);
    assert_int_equal(end(100, 0, true, false), KERR_PRODUCER_FENCED);
}

static void test_a_fenced_instance_aborts_nothing(void **state)
{
    assert_int_equal(init(-1, -1), KERR_NONE);
    assert_int_equal(init(-1, -1), KERR_NONE);
    add();
    assert_int_equal(init(100, 0), KERR_PRODUCER_FENCED);
    assert_int_equal(ended.count, 0);
    expect(100, 1, TXN_ONGOING);
    assert_int_equal(init(100, 1), KERR_NONE);
    assert_int_equal(ended.count, 1);
    expect(100, 2, TXN_EMPTY);
}

static void test_used_up_epochs_give_a_fresh_producer(void **state)
{
    assert_int_equal(init(-1, -1), KERR_NONE);
    x.epoch = TXN_EPOCH_LAST;
    assert_int_equal(init(100, TXN_EPOCH_LAST), KERR_NONE);
    expect(101, 0, TXN_EMPTY);
    assert_int_equal(init(100, TXN_EPOCH_LAST), KERR_NONE); /* repeated */
    expect(101, 0, TXN_EMPTY);
    x.epoch = TXN_EPOCH_LAST;
    add();
    assert_int_equal(init(101, TXN_EPOCH_LAST), KERR_NONE);
    assert_int_equal(ended.epoch, INT16_MAX);
    expect(102, 0, TXN_EMPTY);
    x.epoch = TXN_EPOCH_LAST;
    add();
    txn_on_timeout(&x, &sink, 0);
    expect(102, INT16_MAX, TXN_COMPLETE_ABORT);
    assert_int_equal(init(-1, -1), KERR_NONE);
    expect(103, 0, TXN_EMPTY);
}

/* The server aborts a transaction for its age, and its producer takes that for its own abort. */
static void at_the_highest_epoch(int64_t id)
{
    x.epoch = TXN_EPOCH_LAST;
    add();
    txn_on_timeout(&x, &sink, 0);
    assert_int_equal(end(id, TXN_EPOCH_LAST, false, true), KERR_NONE);
    expect(id, INT16_MAX, TXN_COMPLETE_ABORT);
    add();
}

static void test_no_epoch_follows_the_highest(void **state)
{
    assert_int_equal(init(-1, -1), KERR_NONE);
    at_the_highest_epoch(100);
    assert_int_equal(init(-1, -1), KERR_NONE);
    assert_int_equal(ended.epoch, INT16_MAX);
    expect(101, 0, TXN_EMPTY);
    at_the_highest_epoch(101);
    assert_int_equal(init(101, INT16_MAX), KERR_NONE);
    expect(102, 0, TXN_EMPTY);
    at_the_highest_epoch(102);
    assert_int_equal(end(102, INT16_MAX, true, true), KERR_NONE);
    assert_int_equal(ended.epoch, INT16_MAX);
    expect(103, 0, TXN_COMPLETE_COMMIT);
    assert_int_equal(end(102, INT16_MAX, true, true), KERR_NONE); /* repeated */
    at_the_highest_epoch(103);
    txn_on_timeout(&x, &sink, 0);
    expect(103, INT16_MAX, TXN_COMPLETE_ABORT);
}

static void test_without_a_producer_id_nothing_changes(void **state)
{
    next_id = -1;
    assert_int_equal(init(-1, -1), KERR_COORDINATOR_NOT_AVAILABLE);
    assert_int_equal(x.state, TXN_NEW);
    next_id = 100;
    assert_int_equal(init(-1, -1), KERR_NONE);
    x.epoch = TXN_EPOCH_LAST;
    add();
    next_id = -1;
    assert_int_equal(init(-1, -1), KERR_COORDINATOR_NOT_AVAILABLE);
    assert_int_equal(end(100, TXN_EPOCH_LAST, true, true), KERR_COORDINATOR_NOT_AVAILABLE);
    expect(100, TXN_EPOCH_LAST, TXN_ONGOING);
    assert_int_equal(ended.count, 0);
}

static void test_the_end_in_protocol_1(void **state)
{
    assert_int_equal(end(100, 0, true, false), KERR_INVALID_PRODUCER_ID_MAPPING);
    assert_int_equal(init(-1, -1), KERR_NONE);
    assert_int_equal(end(100, 0, true, false), KERR_INVALID_TXN_STATE);
    assert_int_equal(end(100, 0, false, false), KERR_INVALID_TXN_STATE);
    add();
    assert_int_equal(end(100, 1, true, false), KERR_PRODUCER_FENCED);
    assert_int_equal(end(100, 0, true, false), KERR_NONE);
    expect(100, 0, TXN_COMPLETE_COMMIT);
    assert_int_equal(ended.epoch, 0);
    assert_int_equal(end(100, 0, true, false), KERR_NONE);
    assert_int_equal(end(100, 0, false, false), KERR_INVALID_TXN_STATE);
    add();
    assert_int_equal(end(100, 0, false, false), KERR_NONE);
    expect(100, 0, TXN_COMPLETE_ABORT);
    assert_int_equal(end(100, 0, true, false), KERR_INVALID_TXN_STATE);
    assert_int_equal(end(100, 0, false, false), KERR_NONE);
    assert_int_equal(ended.count, 2);
}

static void test_the_end_in_protocol_2(void **state)
{
    assert_int_equal(init(-1, -1), KERR_NONE);
    assert_int_equal(end(100, 0, true, true), KERR_INVALID_TXN_STATE);
    assert_int_equal(end(100, 1, false, true), KERR_PRODUCER_FENCED);
    assert_int_equal(end(100, 0, false, true), KERR_NONE); /* empty: takes the next epoch */
    expect(100, 1, TXN_COMPLETE_ABORT);
    assert_int_equal(end(100, 0, false, true), KERR_NONE); /* repeated */
    expect(100, 1, TXN_COMPLETE_ABORT);
    assert_int_equal(end(100, 0, true, true), KERR_INVALID_TXN_STATE);
    add();
    assert_int_equal(end(100, 0, true, true), KERR_PRODUCER_FENCED);
    assert_int_equal(end(100, 1, true, true), KERR_NONE);
    expect(100, 2, TXN_COMPLETE_COMMIT);
    assert_int_equal(ended.epoch, 2);
    assert_true(ended.commits);
    assert_int_equal(end(100, 1, true, true), KERR_NONE); /* repeated */
    assert_int_equal(end(100, 1, false, true), KERR_INVALID_TXN_STATE);
    assert_int_equal(end(100, 2, true, true), KERR_INVALID_TXN_STATE);
    assert_int_equal(end(100, 2, false, true), KERR_NONE);
    expect(100, 3, TXN_COMPLETE_ABORT);
    assert_int_equal(end(99, 3, false, true), KERR_INVALID_PRODUCER_ID_MAPPING);
}

static void test_the_last_epoch_in_protocol_2(void **state)
{
    assert_int_equal(init(-1, -1), KERR_NONE);
    x.epoch = TXN_EPOCH_LAST;
    add();
    assert_int_equal(end(100, TXN_EPOCH_LAST, true, true), KERR_NONE);
    assert_int_equal(ended.epoch, INT16_MAX);
    assert_int_equal(ended.id, 100);
    expect(101, 0, TXN_COMPLETE_COMMIT);
    assert_int_equal(end(100, TXN_EPOCH_LAST, true, true), KERR_NONE); /* repeated */
    assert_int_equal(end(100, TXN_EPOCH_LAST, false, true), KERR_INVALID_TXN_STATE);
    assert_int_equal(ended.count, 1);
}

static void test_a_timeout_fences(void **state)
{
    assert_int_equal(init(-1, -1), KERR_NONE);
    add();
    assert_false(txn_timed_out(&x, 62000));
    assert_true(txn_timed_out(&x, 62001));
    txn_on_timeout(&x, &sink, 62001);
    expect(100, 1, TXN_COMPLETE_ABORT);
    assert_int_equal(end(100, 0, true, false), KERR_PRODUCER_FENCED);
    assert_int_equal(init(100, 0), KERR_NONE); /* it may go on: what it wrote is aborted */
    expect(100, 1, TXN_EMPTY);
}

static void test_rows(void **state)
{
    struct buf b;
    struct txn y;
    bool no_memory;
    buf_init(&b, TXN_ROW_BYTES_MAX);
    assert_int_equal(init(-1, -1), KERR_NONE);
    add();
    assert_int_equal(
        txn_on_add_group(&x, 100, 0, slice_str("g"), true, &sink, 2500), KERR_NONE);
    txn_encode(&x, &b);
    for (size_t n = 0; n < b.len; n++) {
        txn_init(&y, slice_str("id"));
        assert_false(txn_decode(slice_make(b.data, n), &y, &no_memory));
        assert_false(no_memory);
    }
    txn_init(&y, slice_str("id"));
    assert_true(txn_decode(buf_slice(&b), &y, &no_memory));
    assert_int_equal(y.producer_id, 100);
    assert_int_equal(y.uid_count, 2);
    assert_true(txn_has_partition(&y, 3) && txn_has_partition(&y, 5) && !txn_has_partition(&y, 4));
    assert_true(txn_has_group(&y, slice_str("g")));
    assert_true(y.v2);
    assert_int_equal(y.start_ms, 2000);
    txn_fini(&y);
    buf_fini(&b);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_each_instance_takes_the_next_epoch),
        TEST(test_a_producer_may_go_on_and_repeat_that),
        TEST(test_a_new_instance_aborts_what_is_open),
        TEST(test_a_fenced_instance_aborts_nothing),
        TEST(test_used_up_epochs_give_a_fresh_producer),
        TEST(test_no_epoch_follows_the_highest),
        TEST(test_without_a_producer_id_nothing_changes),
        TEST(test_the_end_in_protocol_1),
        TEST(test_the_end_in_protocol_2),
        TEST(test_the_last_epoch_in_protocol_2),
        TEST(test_a_timeout_fences),
        TEST(test_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
