/* Producers of partitions: sequences, duplicates, fencing, open and aborted transactions, what is
 * left after a restart and after a commit that failed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kafka-server/broker/producers.h"
#include "tests/unit/memory_rows.h"

#define DAY_MS 86400000

static struct journal *j;
static struct producers *p;
static int64_t now_ms = 1700000000000;
static int64_t next_offset;

static void start(void)
{
    const struct producers_options o = {.expiration_ms = DAY_MS, .check_interval_ms = 600000};
    struct errmsg m;
    j = memory_journal();
    assert_int_equal(producers_open(&p, j, &o, &m), OK);
}

static void stop(void)
{
    producers_close(p);
    journal_close(j);
}

static void restart(void)
{
    stop();
    start();
}

static int setup(void **state)
{
    next_offset = 0;
    start();
    return 0;
}

static int teardown(void **state)
{
    stop();
    memory_clear();
    return 0;
}

static struct batch_header batch(int64_t pid, int16_t epoch, int32_t sequence, int32_t count)
{
    return (struct batch_header){
        .producer_id = pid,
        .producer_epoch = epoch,
        .base_sequence = sequence,
        .last_offset_delta = count - 1,
        .record_count = count,
        .max_timestamp = now_ms,
    };
}

static struct batch_header txn_batch(int64_t pid, int16_t epoch, int32_t sequence, int32_t count)
{
    struct batch_header h = batch(pid, epoch, sequence, count);
    h.attributes = BATCH_TRANSACTIONAL;
    return h;
}

static enum kerr try(uint32_t uid, struct batch_header h, bool v2, struct producers_duplicate *d)
{
    enum kerr e = producers_check(p, uid, &h, v2, d);
    if (e == KERR_NONE && !d->found) {
        producers_append(p, uid, &h, next_offset, now_ms);
        next_offset += h.record_count;
    }
    return e;
}

static enum kerr put(uint32_t uid, struct batch_header h)
{
    struct producers_duplicate d;
    enum kerr e = try(uid, h, false, &d);
    assert_false(d.found);
    journal_flush(j);
    return e;
}

static void mark(uint32_t uid, int64_t pid, int16_t epoch, bool commits)
{
    const struct producers_marker k = {pid, epoch, 0, commits, next_offset++, now_ms};
    assert_int_equal(producers_check_marker(p, uid, &k), KERR_NONE);
    producers_append_marker(p, uid, &k, now_ms);
    journal_flush(j);
}

static void expect_duplicate(struct batch_header h, int64_t offset)
{
    struct producers_duplicate d;
    assert_int_equal(try(1, h, false, &d), KERR_NONE);
    assert_true(d.found);
    assert_int_equal(d.base_offset, offset);
}

static int64_t lso(uint32_t uid)
{
    return producers_lso(p, uid, 0, next_offset);
}

struct collected {
    size_t count;
    struct producers_aborted list[16];
};

static bool collect(void *arg, const struct producers_aborted *a)
{
    struct collected *c = arg;
    c->list[c->count++] = *a;
    return true;
}

static struct collected aborted(uint32_t uid, int64_t from, int64_t to)
{
    struct collected c = {0};
    producers_each_aborted(p, uid, from, to, collect, &c);
    return c;
}

/* --- idempotence ------------------------------------------------------------------------------ */

static void test_batches_in_order_are_appended(void **state)
{
    assert_int_equal(put(1, batch(7, 0, 0, 10)), KERR_NONE);
    assert_int_equal(put(1, batch(7, 0, 10, 5)), KERR_NONE);
    assert_int_equal(put(1, batch(7, 0, 15, 1)), KERR_NONE);
    assert_int_equal(put(1, batch(7, 0, 17, 1)), KERR_OUT_OF_ORDER_SEQUENCE_NUMBER);
    assert_int_equal(put(1, batch(7, 0, 15, 2)), KERR_OUT_OF_ORDER_SEQUENCE_NUMBER);
}

static void test_one_of_the_last_five_is_a_duplicate(void **state)
{
    for (int i = 0; i < 6; i++) {
        assert_int_equal(put(1, batch(7, 0, i * 10, 10)), KERR_NONE);
    }
    expect_duplicate(batch(7, 0, 10, 10), 10);
    expect_duplicate(batch(7, 0, 50, 10), 50);
    assert_int_equal(put(1, batch(7, 0, 0, 10)), KERR_OUT_OF_ORDER_SEQUENCE_NUMBER);
    assert_int_equal(put(1, batch(7, 0, 20, 9)), KERR_OUT_OF_ORDER_SEQUENCE_NUMBER);
}

static void test_duplicates_are_known_after_a_restart(void **state)
{
    for (int i = 0; i < 5; i++) {
        assert_int_equal(put(1, batch(7, 3, i * 10, 10)), KERR_NONE);
    }
    restart();
    expect_duplicate(batch(7, 3, 0, 10), 0);
    expect_duplicate(batch(7, 3, 40, 10), 40);
    assert_int_equal(put(1, batch(7, 3, 50, 1)), KERR_NONE);
}

static void test_a_duplicate_within_one_turn_is_found(void **state)
{
    struct producers_duplicate d;
    assert_int_equal(try(1, batch(7, 0, 0, 3), false, &d), KERR_NONE);
    expect_duplicate(batch(7, 0, 0, 3), 0);
    journal_flush(j);
}

static void test_sequences_wrap(void **state)
{
    assert_int_equal(put(1, batch(7, 0, INT32_MAX - 1, 4)), KERR_NONE); /* …6, …7, 0, 1 */
    assert_int_equal(put(1, batch(7, 0, 2, 1)), KERR_NONE);
    expect_duplicate(batch(7, 0, INT32_MAX - 1, 4), 0);
    assert_int_equal(put(2, batch(7, 0, INT32_MAX - 1, 2)), KERR_NONE);
    assert_int_equal(put(2, batch(7, 0, 0, 1)), KERR_NONE);
}

static void test_an_unknown_producer_may_begin_anywhere(void **state)
{
    assert_int_equal(put(1, batch(7, 0, 1234, 1)), KERR_NONE);
    assert_int_equal(put(1, batch(7, 0, 1235, 1)), KERR_NONE);
}

static void test_epochs(void **state)
{
    assert_int_equal(put(1, batch(7, 4, 0, 1)), KERR_NONE);
    assert_int_equal(put(1, batch(7, 3, 1, 1)), KERR_INVALID_PRODUCER_EPOCH);
    assert_int_equal(put(1, batch(7, 5, 1, 1)), KERR_OUT_OF_ORDER_SEQUENCE_NUMBER);
    assert_int_equal(put(1, batch(7, 5, 0, 1)), KERR_NONE);
    assert_int_equal(put(1, batch(7, 4, 1, 1)), KERR_INVALID_PRODUCER_EPOCH);
}

static void test_partitions_and_producers_do_not_mix(void **state)
{
    assert_int_equal(put(1, batch(7, 0, 0, 1)), KERR_NONE);
    assert_int_equal(put(2, batch(7, 0, 0, 1)), KERR_NONE);
    assert_int_equal(put(1, batch(8, 0, 0, 1)), KERR_NONE);
    assert_int_equal(put(1, batch(-1, -1, -1, 1)), KERR_NONE);
    assert_int_equal(producers_count(p), 3);
}

static void test_lies_are_refused(void **state)
{
    assert_int_equal(put(1, batch(7, -1, 0, 1)), KERR_INVALID_RECORD);
    assert_int_equal(put(1, batch(7, 0, -1, 1)), KERR_INVALID_RECORD);
    assert_int_equal(put(1, txn_batch(-1, -1, -1, 1)), KERR_INVALID_RECORD);
}

static void test_a_failed_commit_is_taken_back(void **state)
{
    assert_int_equal(put(1, batch(7, 0, 0, 1)), KERR_NONE);
    mem.fail_commit = ERR_FULL;
    assert_int_equal(put(1, batch(7, 0, 1, 1)), KERR_NONE);
    next_offset--;
    mem.fail_commit = OK;
    assert_int_equal(put(1, batch(7, 0, 2, 1)), KERR_OUT_OF_ORDER_SEQUENCE_NUMBER);
    assert_int_equal(put(1, batch(7, 0, 1, 1)), KERR_NONE);
    expect_duplicate(batch(7, 0, 1, 1), 1);
}

static void test_after_a_first_batch_that_failed_the_second_is_out_of_order(void **state)
{
    mem.fail_commit = ERR_FULL;
    assert_int_equal(put(1, batch(7, 0, 0, 5)), KERR_NONE);
    mem.fail_commit = OK;
    assert_int_equal(put(1, batch(7, 0, 5, 5)), KERR_OUT_OF_ORDER_SEQUENCE_NUMBER);
    assert_int_equal(put(1, batch(7, 0, 0, 5)), KERR_NONE);
    assert_int_equal(put(1, batch(7, 0, 5, 5)), KERR_NONE);
}

static void test_a_first_batch_that_failed_is_remembered_while_idle_producers_are_looked_for(
    void **state)
{
    mem.fail_commit = ERR_FULL;
    assert_int_equal(put(1, batch(7, 0, 0, 5)), KERR_NONE);
    mem.fail_commit = OK;
    producers_tick(p, now_ms);
    journal_flush(j);
    assert_int_equal(put(1, batch(7, 0, 5, 5)), KERR_OUT_OF_ORDER_SEQUENCE_NUMBER);
    assert_int_equal(put(1, batch(7, 0, 0, 5)), KERR_NONE);
    mem.fail_commit = ERR_FULL;
    assert_int_equal(put(1, batch(8, 0, 0, 5)), KERR_NONE);
    mem.fail_commit = OK;
    now_ms += DAY_MS + 600000;
    producers_tick(p, now_ms);
    journal_flush(j);
    assert_int_equal(producers_count(p), 0);
}

static void test_an_idle_producer_expires(void **state)
{
    assert_int_equal(put(1, batch(7, 0, 0, 1)), KERR_NONE);
    assert_int_equal(put(1, txn_batch(8, 0, 0, 1)), KERR_NONE);
    now_ms += DAY_MS - 1;
    producers_tick(p, now_ms);
    assert_int_equal(producers_count(p), 2);
    now_ms += 600001;
    producers_tick(p, now_ms);
    journal_flush(j);
    assert_int_equal(producers_count(p), 1); /* the other has a transaction open */
    restart();
    assert_int_equal(producers_count(p), 1);
    assert_int_equal(put(1, batch(7, 0, 77, 1)), KERR_NONE);
}

/* A board without a battery: it wakes in 1970, and NTP comes later. */
static void test_a_clock_that_is_set_makes_nobody_old(void **state)
{
    int64_t set_ms = now_ms;
    now_ms = 60000;
    assert_int_equal(put(1, batch(7, 0, 0, 1)), KERR_NONE);
    now_ms = set_ms;
    producers_tick(p, now_ms);
    journal_flush(j);
    expect_duplicate(batch(7, 0, 0, 1), 0);
    restart();
    now_ms += DAY_MS - 1;
    producers_tick(p, now_ms);
    assert_int_equal(producers_count(p), 1);
    now_ms += 600001;
    producers_tick(p, now_ms);
    assert_int_equal(producers_count(p), 0);
}

static enum err no_row(void *arg, struct slice key, struct slice value)
{
    return OK;
}

static enum err no_deletion(void *arg, struct slice key)
{
    return OK;
}

static enum err no_commit(void *arg, struct errmsg *m)
{
    return OK;
}

static void test_markers_make_no_more_producers_than_there_may_be(void **state)
{
    const struct journal_rows rows = {.put = no_row,
                                      .del = no_deletion,
                                      .commit = no_commit,
                                      .append = memory_append,
                                      .rollback = memory_rollback,
                                      .scan = memory_scan};
    const struct producers_options o = {.expiration_ms = DAY_MS, .check_interval_ms = 600000};
    stop();
    assert_int_equal(journal_open_rows(&j, &rows, NULL), OK);
    assert_int_equal(producers_open(&p, j, &o, NULL), OK);
    for (int64_t id = 0; id < PRODUCERS_MAX; id++) {
        const struct producers_marker k = {id, 0, 0, true, id, now_ms};
        producers_append_marker(p, 1, &k, now_ms);
    }
    const struct producers_marker more = {PRODUCERS_MAX, 0, 0, true, PRODUCERS_MAX, now_ms};
    assert_int_equal(producers_check_marker(p, 1, &more), KERR_POLICY_VIOLATION);
    producers_append_marker(p, 1, &more, now_ms); /* all others are of this turn */
    assert_int_equal(producers_count(p), PRODUCERS_MAX);
    journal_flush(j);
    assert_int_equal(producers_check_marker(p, 1, &more), KERR_NONE);
    producers_append_marker(p, 1, &more, now_ms);
    assert_int_equal(producers_count(p), PRODUCERS_MAX);
    stop();
    start();
}

/* --- transactions ----------------------------------------------------------------------------- */

/* Rows of so many aborted transactions: all that there may be in one partition, and not quite a
 * partition's share of them in another. */
static enum err scan_many(void *arg, struct slice prefix, store_row_fn *fn, void *fn_arg,
                          struct errmsg *m)
{
    static const char aborted_prefix[] = PRODUCER_ROW_PREFIX "a";
    static const uint32_t counts[] = {PRODUCERS_ABORTED_MAX, PRODUCERS_ABORTED_SHARE - 1};
    uint8_t key[sizeof aborted_prefix - 1 + 12], value[25] = {1};
    if (!slice_eq(prefix, slice_str(aborted_prefix))) {
        return OK;
    }
    memcpy(key, aborted_prefix, sizeof aborted_prefix - 1);
    for (uint32_t i = 0; i < 2; i++) {
        be32_put(key + sizeof aborted_prefix - 1, i + 1);
        for (uint32_t n = 0; n < counts[i]; n++) {
            be64_put(key + sizeof aborted_prefix - 1 + 4, n);
            assert_true(fn(fn_arg, slice_make(key, sizeof key), slice_make(value, sizeof value)));
        }
    }
    return OK;
}

static void test_a_log_full_of_aborted_transactions_stops_no_other(void **state)
{
    const struct journal_rows rows = {.put = no_row,
                                      .del = no_deletion,
                                      .commit = no_commit,
                                      .append = memory_append,
                                      .rollback = memory_rollback,
                                      .scan = scan_many};
    const struct producers_options o = {.expiration_ms = DAY_MS, .check_interval_ms = 600000};
    stop();
    assert_int_equal(journal_open_rows(&j, &rows, NULL), OK);
    assert_int_equal(producers_open(&p, j, &o, NULL), OK);
    next_offset = PRODUCERS_ABORTED_MAX;
    assert_int_equal(put(1, txn_batch(7, 0, 0, 1)), KERR_POLICY_VIOLATION);
    assert_int_equal(put(1, batch(7, 0, 0, 1)), KERR_NONE);
    assert_int_equal(put(1, txn_batch(7, 0, 1, 1)), KERR_POLICY_VIOLATION);
    assert_int_equal(put(3, txn_batch(7, 0, 0, 1)), KERR_NONE);
    assert_int_equal(put(2, txn_batch(7, 0, 0, 1)), KERR_NONE);
    mark(2, 7, 0, false);
    assert_int_equal(put(2, txn_batch(7, 0, 1, 1)), KERR_POLICY_VIOLATION); /* that is its share */
    stop();
    start();
}

static void test_an_open_transaction_holds_the_lso(void **state)
{
    assert_int_equal(put(1, batch(5, 0, 0, 4)), KERR_NONE);
    assert_int_equal(lso(1), 4);
    assert_int_equal(put(1, txn_batch(7, 0, 0, 2)), KERR_NONE);
    assert_int_equal(put(1, txn_batch(8, 0, 0, 2)), KERR_NONE);
    assert_int_equal(lso(1), 4);
    restart();
    assert_int_equal(lso(1), 4);
    mark(1, 7, 0, true);
    assert_int_equal(lso(1), 6);
    mark(1, 8, 0, false);
    assert_int_equal(lso(1), next_offset);
    assert_int_equal(producers_lso(p, 1, 3, 2), 2);
}

static void test_a_marker_counts_when_it_is_committed(void **state)
{
    assert_int_equal(put(1, txn_batch(7, 0, 0, 2)), KERR_NONE);
    const struct producers_marker k = {7, 0, 0, false, 2, now_ms};
    producers_append_marker(p, 1, &k, now_ms);
    assert_int_equal(lso(1), 0);
    mem.fail_commit = ERR_IO;
    journal_flush(j);
    mem.fail_commit = OK;
    assert_int_equal(lso(1), 0);
    assert_int_equal(aborted(1, 0, 100).count, 0);
    assert_true(producers_in_transaction(p, 1, 7, 0));
    mark(1, 7, 0, false);
    assert_int_equal(lso(1), next_offset);
    assert_int_equal(aborted(1, 0, 100).count, 1);
}

static void test_aborted_transactions_are_found_by_their_offsets(void **state)
{
    assert_int_equal(put(1, txn_batch(7, 0, 0, 2)), KERR_NONE); /* 0, 1; marker 4 */
    assert_int_equal(put(1, txn_batch(8, 0, 0, 2)), KERR_NONE); /* 2, 3; marker 7 */
    mark(1, 7, 0, false);
    assert_int_equal(put(1, txn_batch(7, 0, 2, 2)), KERR_NONE); /* 5, 6; committed at 8 */
    mark(1, 8, 0, false);
    mark(1, 7, 0, true);
    assert_int_equal(put(1, txn_batch(9, 0, 0, 1)), KERR_NONE); /* 9; marker 10 */
    mark(1, 9, 0, false);
    for (int round = 0; round < 2; round++) {
        struct collected c = aborted(1, 0, 100);
        assert_int_equal(c.count, 3);
        assert_int_equal(c.list[0].first_offset, 0);
        assert_int_equal(c.list[0].last_offset, 4);
        assert_int_equal(c.list[1].producer_id, 8);
        assert_int_equal(c.list[2].first_offset, 9);
        assert_int_equal(aborted(1, 5, 9).count, 1);
        assert_int_equal(aborted(1, 0, 2).count, 1);
        assert_int_equal(aborted(1, 0, 3).count, 2);
        assert_int_equal(aborted(1, 8, 9).count, 0);
        assert_int_equal(aborted(1, 11, 100).count, 0);
        restart();
    }
}

static void test_what_belongs_to_no_transaction_is_refused_in_one(void **state)
{
    assert_int_equal(put(1, txn_batch(7, 0, 0, 1)), KERR_NONE);
    assert_int_equal(put(1, batch(7, 0, 1, 1)), KERR_INVALID_TXN_STATE);
    assert_true(producers_in_transaction(p, 1, 7, 0));
    assert_false(producers_in_transaction(p, 1, 7, 1));
    mark(1, 7, 0, true);
    assert_false(producers_in_transaction(p, 1, 7, 0));
    assert_int_equal(put(1, batch(7, 0, 1, 1)), KERR_NONE);
}

static void test_a_marker_with_a_newer_epoch_fences(void **state)
{
    assert_int_equal(put(1, txn_batch(7, 3, 0, 1)), KERR_NONE);
    mark(1, 7, 4, true);
    assert_int_equal(put(1, txn_batch(7, 3, 1, 1)), KERR_INVALID_PRODUCER_EPOCH);
    const struct producers_marker old = {7, 3, 0, true, 0, 0};
    assert_int_equal(producers_check_marker(p, 1, &old), KERR_INVALID_PRODUCER_EPOCH);
    assert_int_equal(put(1, txn_batch(7, 4, 1, 1)), KERR_OUT_OF_ORDER_SEQUENCE_NUMBER);
    assert_int_equal(put(1, txn_batch(7, 4, 0, 1)), KERR_NONE);
}

static void test_in_protocol_2_a_transaction_begins_with_0(void **state)
{
    struct producers_duplicate d;
    assert_int_equal(try(1, txn_batch(7, 0, 5, 1), true, &d), KERR_OUT_OF_ORDER_SEQUENCE_NUMBER);
    assert_int_equal(try(1, txn_batch(7, 0, 0, 1), true, &d), KERR_NONE);
    assert_int_equal(try(1, txn_batch(7, 0, 1, 1), true, &d), KERR_NONE);
    journal_flush(j);
    assert_int_equal(put(2, txn_batch(7, 0, 5, 1)), KERR_NONE);
}

/* --- partitions go ---------------------------------------------------------------------------- */

static int64_t log_start_of_1;

static bool only_1(void *arg, uint32_t uid, int64_t *log_start)
{
    *log_start = log_start_of_1;
    return uid == 1;
}

static void test_rows_die_with_their_partition(void **state)
{
    for (uint32_t uid = 1; uid <= 2; uid++) {
        assert_int_equal(put(uid, batch(6, 0, 0, 1)), KERR_NONE);
        assert_int_equal(put(uid, txn_batch(7, 0, 0, 1)), KERR_NONE);
        mark(uid, 7, 0, false);
        assert_int_equal(put(uid, txn_batch(7, 0, 1, 1)), KERR_NONE);
    }
    assert_int_equal(mem.count, 6);
    log_start_of_1 = 0;
    producers_sweep(p, only_1, NULL);
    journal_flush(j);
    assert_int_equal(mem.count, 3);
    assert_int_equal(producers_count(p), 2);
    assert_int_equal(aborted(2, 0, 100).count, 0);
    assert_int_equal(aborted(1, 0, 100).count, 1);
    log_start_of_1 = 3;
    producers_sweep(p, only_1, NULL);
    journal_flush(j);
    assert_int_equal(aborted(1, 0, 100).count, 0);
    assert_int_equal(mem.count, 2); /* who wrote what is gone is still known */
    restart();
    assert_int_equal(producers_count(p), 2);
}

static int64_t clean_to;

static bool cleaned(void *arg, uint32_t uid, int64_t *to, int64_t *keep_ms)
{
    *to = uid == 1 ? clean_to : 0;
    *keep_ms = 1000;
    return true;
}

static void forget(int64_t mono_ms, bool fails)
{
    mem.fail_commit = fails ? ERR_FULL : OK;
    producers_forget_cleaned(p, cleaned, NULL, mono_ms);
    journal_flush(j);
    mem.fail_commit = OK;
}

/* Of what was aborted, compaction leaves nothing; the list that readers get loses it some time
 * later, and not before the rows have. */
static void test_aborted_transactions_go_when_compaction_has_taken_them(void **state)
{
    for (uint32_t uid = 1; uid <= 2; uid++) {
        next_offset = 0;
        for (int i = 0; i < 3; i++) {
            assert_int_equal(put(uid, txn_batch(7, 0, i, 1)), KERR_NONE);
            mark(uid, 7, 0, false); /* 1, 3, 5 */
        }
    }
    clean_to = 4;
    forget(5000, false); /* seen */
    forget(5999, false);
    assert_int_equal(aborted(1, 0, 6).count, 3);
    forget(6000, true);
    assert_int_equal(aborted(1, 0, 6).count, 3);
    forget(6000, false);
    assert_int_equal(aborted(1, 0, 6).count, 1);
    assert_int_equal(aborted(1, 0, 6).list[0].last_offset, 5);
    assert_int_equal(aborted(2, 0, 6).count, 3);
    restart();
    assert_int_equal(aborted(1, 0, 6).count, 1);
    clean_to = 6;
    forget(100, false);
    clean_to = 7;
    forget(1099, false);
    assert_int_equal(aborted(1, 0, 6).count, 1);
    forget(1100, false);
    assert_int_equal(aborted(1, 0, 6).count, 0);
    restart();
    assert_int_equal(aborted(1, 0, 6).count, 0);
    assert_int_equal(aborted(2, 0, 6).count, 3);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_batches_in_order_are_appended),
        TEST(test_one_of_the_last_five_is_a_duplicate),
        TEST(test_duplicates_are_known_after_a_restart),
        TEST(test_a_duplicate_within_one_turn_is_found),
        TEST(test_sequences_wrap),
        TEST(test_an_unknown_producer_may_begin_anywhere),
        TEST(test_epochs),
        TEST(test_partitions_and_producers_do_not_mix),
        TEST(test_lies_are_refused),
        TEST(test_a_failed_commit_is_taken_back),
        TEST(test_after_a_first_batch_that_failed_the_second_is_out_of_order),
        TEST(test_a_first_batch_that_failed_is_remembered_while_idle_producers_are_looked_for),
        TEST(test_an_idle_producer_expires),
        TEST(test_a_clock_that_is_set_makes_nobody_old),
        TEST(test_markers_make_no_more_producers_than_there_may_be),
        TEST(test_a_log_full_of_aborted_transactions_stops_no_other),
        TEST(test_an_open_transaction_holds_the_lso),
        TEST(test_a_marker_counts_when_it_is_committed),
        TEST(test_aborted_transactions_are_found_by_their_offsets),
        TEST(test_what_belongs_to_no_transaction_is_refused_in_one),
        TEST(test_a_marker_with_a_newer_epoch_fences),
        TEST(test_in_protocol_2_a_transaction_begins_with_0),
        TEST(test_rows_die_with_their_partition),
        TEST(test_aborted_transactions_go_when_compaction_has_taken_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
