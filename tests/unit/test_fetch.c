/* Reading for a consumer, its sessions and its waiting, on a store that is made of a few numbers.
 * */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <time.h>

#include <cmocka.h>

#include "kafka-server/broker/fetch.h"
#include "kafka-server/broker/session.h"
#include "kafka-server/broker/watch.h"
#include "tests/unit/memory_rows.h"

/* --- a store of numbers -----------------------------------------------------------------------
 * * Partition uid holds offsets log_start … end in batches of `records` records and `bytes`
 * bytes; what lies below tail_from is only on disk. */

#define UIDS 8

struct store {
    pthread_mutex_t lock;
    pthread_cond_t moved;
    uint32_t sequence;
    struct fake_partition {
        bool there;
        int64_t log_start, end, tail_from;
        int64_t records;
        size_t bytes;
        int32_t epoch;
        enum err tail; /* what reading the tail says */
        enum err disk; /* what reading the disk says */
    } of[UIDS];
    int slices_out;
};

struct fake_slices {
    struct store_slices pub;
    struct store *store;
};

static struct store fake = {.lock = PTHREAD_MUTEX_INITIALIZER, .moved = PTHREAD_COND_INITIALIZER};

enum err store_offsets(struct store *s, uint32_t uid, struct store_offsets *o)
{
    pthread_mutex_lock(&s->lock);
    struct fake_partition p = s->of[uid];
    pthread_mutex_unlock(&s->lock);
    if (!p.there) {
        return ERR_NOT_FOUND;
    }
    *o = (struct store_offsets){p.log_start, p.end, p.end, p.epoch};
    return OK;
}

/* Whole batches from the one that holds `offset`; returns their number. */
static size_t count_batches(const struct fake_partition *p, int64_t offset, size_t max_bytes,
                            bool at_least_one, int64_t *next)
{
    size_t n = 0;
    int64_t at = offset - offset % p->records;
    while (at < p->end && ((n + 1) * p->bytes <= max_bytes || (n == 0 && at_least_one))) {
        n++;
        at += p->records;
    }
    *next = n != 0 ? (at < p->end ? at : p->end) : offset;
    return n;
}

enum err store_read_tail(struct store *s, uint32_t uid, int64_t offset, size_t max_bytes,
                         bool at_least_one, struct buf *out, int64_t *next)
{
    const struct fake_partition *p = &s->of[uid];
    if (p->tail != OK || offset < p->tail_from) {
        return p->tail != OK ? p->tail : ERR_NOT_FOUND;
    }
    size_t n = count_batches(p, offset, max_bytes, at_least_one, next);
    for (size_t i = 0; i < n * p->bytes; i++) {
        buf_put_u8(out, 't');
    }
    return OK;
}

enum err store_read(struct store *s, uint32_t uid, int64_t offset, size_t max_bytes,
                    bool at_least_one, struct store_slices **out, struct errmsg *m)
{
    const struct fake_partition *p = &s->of[uid];
    if (p->disk != OK) {
        return p->disk;
    }
    struct fake_slices *x = calloc(1, sizeof *x);
    x->pub.count = count_batches(p, offset, max_bytes, at_least_one, &x->pub.next);
    struct iovec *iov = calloc(x->pub.count + 1, sizeof *iov);
    for (size_t i = 0; i < x->pub.count; i++) {
        iov[i] = (struct iovec){calloc(1, p->bytes), p->bytes};
        x->pub.bytes += p->bytes;
    }
    x->pub.iov = iov;
    x->store = s;
    s->slices_out++;
    *out = &x->pub;
    return OK;
}

void store_slices_free(struct store_slices *pub)
{
    if (pub == NULL) {
        return;
    }
    struct fake_slices *x = (struct fake_slices *)pub;
    for (size_t i = 0; i < pub->count; i++) {
        free(pub->iov[i].iov_base);
    }
    x->store->slices_out--;
    free((void *)pub->iov);
    free(x);
}

enum err store_epoch_end(struct store *s, uint32_t uid, int32_t epoch, int32_t *found, int64_t *end)
{
    if (epoch > s->of[uid].epoch) {
        return ERR_NOT_FOUND;
    }
    *found = epoch;
    *end = epoch == s->of[uid].epoch ? s->of[uid].end : s->of[uid].end / 2;
    return OK;
}

uint32_t store_sequence(struct store *s)
{
    pthread_mutex_lock(&s->lock);
    uint32_t sequence = s->sequence;
    pthread_mutex_unlock(&s->lock);
    return sequence;
}

void store_wait(struct store *s, uint32_t seen, int timeout_ms)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += timeout_ms / 1000 + 1;
    pthread_mutex_lock(&s->lock);
    while (s->sequence == seen && pthread_cond_timedwait(&s->moved, &s->lock, &until) == 0) {
    }
    pthread_mutex_unlock(&s->lock);
}

void store_wake(struct store *s)
{
    pthread_mutex_lock(&s->lock);
    s->sequence++;
    pthread_cond_broadcast(&s->moved);
    pthread_mutex_unlock(&s->lock);
}

static void append(uint32_t uid, int64_t records)
{
    pthread_mutex_lock(&fake.lock);
    fake.of[uid].end += records;
    fake.sequence++;
    pthread_cond_broadcast(&fake.moved);
    pthread_mutex_unlock(&fake.lock);
}

static int set_up(void **state)
{
    for (int i = 0; i < UIDS; i++) {
        fake.of[i] = (struct fake_partition){true, 0, 100, 0, 10, 1000, 0, OK, OK};
    }
    fake.slices_out = 0;
    return 0;
}

static int tear_down(void **state)
{
    return fake.slices_out != 0; /* what was pinned was given back */
}

/* A partition from `offset`, 1 MB of it. */
static struct fetch_part part_of(int uid, int64_t offset)
{
    return (struct fetch_part){.store = &fake,
                               .uid = (uint32_t)uid,
                               .next = offset,
                               .bytes_max = 1 << 20,
                               .leader_epoch = -1,
                               .last_fetched_epoch = -1};
}

/* A fetch of `count` partitions. */
static struct fetch fetch_of(int count, int64_t offset, size_t bytes_max)
{
    struct fetch_part *parts = calloc((size_t)count, sizeof *parts);
    for (int i = 0; i < count; i++) {
        parts[i] = part_of(i, offset);
    }
    struct fetch f;
    fetch_init(&f, parts, count, bytes_max);
    return f;
}

/* --- reading --------------------------------------------------------------------------------- */

static void test_all_partitions_give_what_they_have(void **state)
{
    struct fetch f = fetch_of(3, 0, 1 << 20);
    fetch_look(&f);
    assert_int_equal(f.bytes, 30000);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(f.parts[i].error, KERR_NONE);
        assert_int_equal(f.parts[i].end, 100);
        assert_int_equal(f.parts[i].log_start, 0);
        assert_int_equal(f.parts[i].next, 100);
        assert_int_equal(fetch_part_bytes(&f.parts[i]), 10000);
    }
    fetch_fini(&f);
}

static void test_limit_of_the_reply_is_shared_in_order(void **state)
{
    struct fetch f = fetch_of(3, 0, 14500);
    fetch_look(&f);
    assert_int_equal(fetch_part_bytes(&f.parts[0]), 10000);
    assert_int_equal(fetch_part_bytes(&f.parts[1]), 4000);
    assert_int_equal(fetch_part_bytes(&f.parts[2]), 0);
    assert_int_equal(f.parts[2].end, 100);
    fetch_fini(&f);
}

static void test_limit_of_a_partition_holds(void **state)
{
    struct fetch f = fetch_of(2, 0, 1 << 20);
    f.parts[0].bytes_max = 3999;
    fetch_look(&f);
    assert_int_equal(fetch_part_bytes(&f.parts[0]), 3000);
    assert_int_equal(f.parts[0].next, 30);
    assert_int_equal(fetch_part_bytes(&f.parts[1]), 10000);
    fetch_fini(&f);
}

static void test_first_batch_passes_every_limit(void **state)
{
    fake.of[1].bytes = 5000;
    struct fetch f = fetch_of(3, 0, 100);
    f.parts[0].next = 100; /* has nothing */
    f.parts[1].bytes_max = 1;
    fetch_look(&f);
    assert_int_equal(fetch_part_bytes(&f.parts[0]), 0);
    assert_int_equal(fetch_part_bytes(&f.parts[1]), 5000);
    assert_int_equal(fetch_part_bytes(&f.parts[2]), 0);
    fetch_fini(&f);
}

static void test_offsets_outside_the_log_are_errors(void **state)
{
    fake.of[0].log_start = 50;
    fake.of[2].there = false;
    struct fetch f = fetch_of(3, 40, 1 << 20);
    f.parts[1].next = 101;
    fetch_look(&f);
    assert_int_equal(f.parts[0].error, KERR_OFFSET_OUT_OF_RANGE);
    assert_int_equal(f.parts[0].end, -1);
    assert_int_equal(f.parts[0].log_start, -1);
    assert_int_equal(f.parts[1].error, KERR_OFFSET_OUT_OF_RANGE);
    assert_int_equal(f.parts[2].error, KERR_UNKNOWN_TOPIC_OR_PARTITION);
    assert_int_equal(f.errors, 3);
    fetch_fini(&f);
}

static void test_end_of_the_log_is_no_error(void **state)
{
    struct fetch f = fetch_of(1, 100, 1 << 20);
    fetch_look(&f);
    assert_int_equal(f.errors, 0);
    assert_int_equal(f.bytes, 0);
    assert_int_equal(f.parts[0].end, 100);
    fetch_fini(&f);
}

static void test_leader_epochs_are_compared(void **state)
{
    for (int i = 0; i < 3; i++) {
        fake.of[i].epoch = 5;
    }
    struct fetch f = fetch_of(3, 0, 1 << 20);
    f.parts[0].leader_epoch = 4;
    f.parts[1].leader_epoch = 5;
    f.parts[2].leader_epoch = 6;
    fetch_look(&f);
    assert_int_equal(f.parts[0].error, KERR_FENCED_LEADER_EPOCH);
    assert_int_equal(f.parts[0].leader_epoch_now, 5);
    assert_int_equal(f.parts[1].error, KERR_NONE);
    assert_int_equal(f.parts[2].error, KERR_UNKNOWN_LEADER_EPOCH);
    fetch_fini(&f);
}

static void test_client_with_a_log_of_its_own_is_told_where_it_parted(void **state)
{
    fake.of[0].epoch = 5;
    struct fetch f = fetch_of(1, 80, 1 << 20);
    f.parts[0].last_fetched_epoch = 4; /* ended at 50 here */
    fetch_look(&f);
    assert_int_equal(f.parts[0].diverging_epoch, 4);
    assert_int_equal(f.parts[0].diverging_end, 50);
    assert_int_equal(f.bytes, 0);
    fetch_fini(&f);
}

static void test_looks_add_up_while_a_consumer_waits_for_more(void **state)
{
    struct fetch f = fetch_of(1, 90, 1 << 20);
    fetch_look(&f);
    assert_int_equal(f.bytes, 1000);
    fetch_look(&f);
    assert_int_equal(f.bytes, 1000);
    append(0, 20);
    fetch_look(&f);
    assert_int_equal(f.bytes, 3000);
    assert_int_equal(fetch_part_bytes(&f.parts[0]), 3000);
    assert_int_equal(f.parts[0].end, 120);
    fetch_fini(&f);
}

static void test_one_look_copies_a_bounded_number_of_bytes(void **state)
{
    fake.of[0].bytes = fake.of[1].bytes = 500000;
    struct fetch f = fetch_of(2, 0, 100u << 20);
    f.parts[0].bytes_max = f.parts[1].bytes_max = 100u << 20;
    fetch_look(&f);
    assert_true(f.bytes <= FETCH_LOOK_BYTES_MAX);
    assert_true(f.bytes > 0);
    fetch_fini(&f);
}

/* A fetch of a partition that nobody knows, and of `known` others from the end of the log. */
static struct fetch fetch_with_unknown(int known)
{
    struct fetch_part *parts = calloc((size_t)known + 1, sizeof *parts);
    parts[0] = (struct fetch_part){.error = KERR_UNKNOWN_TOPIC_OR_PARTITION};
    for (int i = 1; i <= known; i++) {
        parts[i] = part_of(i, 100);
    }
    struct fetch f;
    fetch_init(&f, parts, known + 1, 1 << 20);
    fetch_look(&f);
    return f;
}

static void test_unknown_partition_keeps_nobody_from_waiting_for_others(void **state)
{
    struct fetch f = fetch_with_unknown(1);
    assert_false(fetch_is_enough(&f, 1));
    append(1, 10);
    fetch_look(&f);
    assert_true(fetch_is_enough(&f, 1));
    fetch_fini(&f);
    f = fetch_with_unknown(0);
    assert_true(fetch_is_enough(&f, 1)); /* there are no others */
    fetch_fini(&f);
}

static void test_full_partition_is_enough_though_batches_do_not_fill_it(void **state)
{
    struct fetch f = fetch_of(2, 90, 1 << 20);
    f.parts[0].next = 0;
    f.parts[0].bytes_max = 3500;
    fetch_look(&f);
    assert_int_equal(f.bytes, 3000 + 1000);
    assert_true(fetch_is_enough(&f, 3500 + 1000));
    assert_false(fetch_is_enough(&f, 3500 + 1001)); /* the other one may still bring more */
    fetch_fini(&f);
}

/* --- the disk -------------------------------------------------------------------------------- */

static void test_history_is_left_to_a_worker(void **state)
{
    fake.of[0].tail_from = 100;
    fake.of[1].tail_from = 50;
    struct fetch f = fetch_of(2, 0, 1 << 20);
    f.parts[1].next = 60;
    fetch_look(&f);
    assert_int_equal(f.cold, 1);
    assert_true(f.parts[0].cold);
    assert_int_equal(fetch_part_bytes(&f.parts[1]), 4000);
    fetch_read(&f);
    assert_int_equal(fetch_part_bytes(&f.parts[0]), 10000);
    assert_int_equal(f.parts[0].next, 100);
    assert_int_equal(f.bytes, 14000);
    fetch_fini(&f);
}

static void test_what_cannot_be_copied_is_pinned(void **state)
{
    fake.of[0].tail = ERR_NOMEM;
    fake.of[0].bytes = FETCH_COPY_BYTES;
    struct fetch f = fetch_of(1, 0, 1 << 20);
    fetch_look(&f);
    assert_int_equal(f.cold, 1);
    fetch_read(&f);
    assert_int_equal(f.bytes, 10 * FETCH_COPY_BYTES);
    assert_non_null(f.parts[0].pinned);
    fetch_fini(&f);
}

static void test_small_batches_are_copied_and_large_ones_pinned(void **state)
{
    for (int i = 0; i < 2; i++) {
        fake.of[i].tail_from = 100;
    }
    fake.of[1].bytes = FETCH_COPY_BYTES;
    struct fetch f = fetch_of(2, 0, 1 << 20);
    fetch_look(&f);
    fetch_read(&f);
    assert_null(f.parts[0].pinned);
    assert_int_equal(f.parts[0].copied.len, 10000);
    assert_non_null(f.parts[1].pinned);
    assert_int_equal(f.parts[1].copied.len, 0);
    assert_int_equal(fake.slices_out, 1);
    fetch_fini(&f);
}

static void test_a_store_that_is_lost_gets_back_what_was_read(void **state)
{
    struct store other = {.lock = PTHREAD_MUTEX_INITIALIZER};
    for (int i = 0; i < 3; i++) {
        fake.of[i].tail_from = i == 0 ? 0 : 100;
        fake.of[i].bytes = i == 1 ? FETCH_COPY_BYTES : 1000;
    }
    struct fetch f = fetch_of(3, 0, 1 << 20);
    fetch_look(&f);
    fetch_read(&f);
    assert_int_equal(fake.slices_out, 1);
    fetch_lose_store(&f, &other);
    assert_int_equal(fake.slices_out, 1);
    fetch_lose_store(&f, &fake);
    assert_int_equal(fake.slices_out, 0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(f.parts[i].error, KERR_KAFKA_STORAGE_ERROR);
        assert_int_equal(fetch_part_bytes(&f.parts[i]), 0);
        assert_null(f.parts[i].store);
    }
    fetch_fini(&f);
}

/* Each of `count` partitions has more than one reply takes, of `read` of them. */
static struct fetch read_of_many(int count, int read)
{
    for (int i = 0; i < count; i++) {
        fake.of[i].tail_from = 100;
        fake.of[i].bytes = 512 << 10;
    }
    struct fetch f = fetch_of(count, 0, (size_t)read * (512 << 10));
    for (int i = 0; i < count; i++) {
        f.parts[i].bytes_max = 512 << 10;
    }
    fetch_look(&f);
    fetch_read(&f);
    assert_int_equal(fake.slices_out, read);
    return f;
}

/* Three partitions, one a reply: what is read ahead is asked for after two other replies. */
static void test_what_is_read_ahead_is_what_the_cache_will_still_have(void **state)
{
    struct fetch f = read_of_many(3, 1);
    assert_ptr_equal(fetch_ahead(&f, 8 << 20), &f.parts[0]);
    assert_ptr_equal(fetch_ahead(&f, 3 << 20), &f.parts[0]);
    assert_null(fetch_ahead(&f, (3 << 20) - 1)); /* forgotten by then */
    assert_null(fetch_ahead(&f, 0));
    fetch_fini(&f);
    f = read_of_many(3, 3);
    assert_ptr_equal(fetch_ahead(&f, 2 << 20), &f.parts[0]); /* all of them in each reply */
    assert_null(fetch_ahead(&f, (2 << 20) - 1));
    f.parts[0].next = f.parts[0].limit;
    assert_ptr_equal(fetch_ahead(&f, 2 << 20), &f.parts[1]); /* the first has no more */
    fetch_lose_store(&f, &fake);
    assert_null(fetch_ahead(&f, 8 << 20)); /* it is being closed */
    fetch_fini(&f);
    fake.of[0].bytes = FETCH_AHEAD_BYTES_MIN - 1; /* not worth the way */
    f = fetch_of(1, 0, 1 << 20);
    fetch_look(&f);
    fetch_read(&f);
    assert_null(fetch_ahead(&f, 8 << 20));
    fetch_fini(&f);
}

static void test_a_fetch_waits_for_some_minutes_at_most(void **state)
{
    assert_int_equal(fetch_deadline_ms(1000, 500), 1500);
    assert_int_equal(fetch_deadline_ms(1000, 0), 1000);
    assert_int_equal(fetch_deadline_ms(1000, -1), 1000);
    assert_int_equal(fetch_deadline_ms(1000, INT32_MAX), 1000 + FETCH_WAIT_MS_MAX);
}

/* A transaction of one batch, which is aborted with a marker at this offset. */
static void abort_at(struct producers *p, struct journal *j, uint32_t uid, int64_t offset)
{
    const struct batch_header h = {.producer_id = 7, .attributes = BATCH_TRANSACTIONAL};
    const struct producers_marker k = {.producer_id = 7, .offset = offset};
    producers_append(p, uid, &h, offset - 1, 1);
    producers_append_marker(p, uid, &k, 1);
    journal_flush(j);
}

static bool start_of_fake(void *arg, uint32_t uid, int64_t *log_start)
{
    *log_start = fake.of[uid].log_start;
    return true;
}

/* The list of the aborted transactions among them is gone. Where none was aborted, the log start
 * may pass what was read in time. */
static void test_committed_reads_fail_when_what_was_aborted_is_forgotten(void **state)
{
    struct journal *j = memory_journal();
    const struct producers_options o = {1, 1};
    struct fetch f = fetch_of(5, 10, 1 << 20);
    struct producers *p;
    assert_int_equal(producers_open(&p, j, &o, NULL), OK);
    for (uint32_t i = 0; i < 5; i++) {
        f.parts[i].transactional = i != 3;
        if (i != 2) {
            abort_at(p, j, f.parts[i].uid, i == 0 ? 9 : 12); /* the first: before what is read */
        }
    }
    f.producers = p;
    f.committed = true;
    fetch_look(&f);
    for (int i = 0; i < 4; i++) {
        fake.of[i].log_start = 50;
    }
    fake.of[4].there = false;
    fetch_check_aborted(&f); /* the lists are there yet */
    assert_int_equal(f.errors, 1);
    producers_sweep(p, start_of_fake, NULL);
    f.committed = false;
    fetch_check_aborted(&f);
    assert_int_equal(f.errors, 1);
    f.committed = true;
    fetch_check_aborted(&f);
    static const enum kerr want[] = {KERR_NONE, KERR_OFFSET_OUT_OF_RANGE, KERR_NONE, KERR_NONE,
                                     KERR_UNKNOWN_TOPIC_OR_PARTITION};
    for (int i = 0; i < 5; i++) {
        assert_int_equal(f.parts[i].error, want[i]);
        assert_int_equal(fetch_part_bytes(&f.parts[i]), want[i] == KERR_NONE ? 9000 : 0);
    }
    fetch_fini(&f);
    producers_close(p);
    journal_close(j);
    memory_clear();
}

static void test_reading_stays_within_the_limits(void **state)
{
    for (int i = 0; i < 3; i++) {
        fake.of[i].tail_from = 100;
    }
    struct fetch f = fetch_of(3, 0, 14500);
    fetch_look(&f);
    fetch_read(&f);
    assert_int_equal(fetch_part_bytes(&f.parts[0]), 10000);
    assert_int_equal(fetch_part_bytes(&f.parts[1]), 4000);
    assert_int_equal(fetch_part_bytes(&f.parts[2]), 0);
    fetch_fini(&f);
}

static void test_disk_faults_and_gaps_are_told_apart(void **state)
{
    static const struct {
        enum err disk;
        enum kerr error;
        bool again;
    } cases[] = {
        {ERR_AGAIN, KERR_NONE, true},
        {ERR_RANGE, KERR_OFFSET_OUT_OF_RANGE, false},
        {ERR_IO, KERR_KAFKA_STORAGE_ERROR, false},
        {ERR_CORRUPT, KERR_KAFKA_STORAGE_ERROR, false},
    };
    fake.of[0].tail_from = 100;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fake.of[0].disk = cases[i].disk;
        struct fetch f = fetch_of(1, 0, 1 << 20);
        fetch_look(&f);
        fetch_read(&f);
        assert_int_equal(f.parts[0].error, cases[i].error);
        assert_int_equal(f.again, cases[i].again);
        assert_int_equal(f.bytes, 0);
        fetch_fini(&f);
    }
}

/* --- sessions -------------------------------------------------------------------------------- */

static struct session_key key_of(const char *name, int32_t partition)
{
    return (struct session_key){.name = slice_str(name), .partition = partition};
}

static const struct session_want want = {7, 1000, -1, -1};

static void test_session_counts_its_epochs(void **state)
{
    struct fetch_sessions *fs = fetch_sessions_new(10, 1 << 20);
    struct session *s = fetch_session_open(fs, false, 0), *same;
    int32_t id = s->id;
    assert_int_not_equal(id, FETCH_SESSION_NONE);
    assert_int_equal(fetch_session_continue(fs, id, 1, false, 0, &same), KERR_NONE);
    assert_ptr_equal(same, s);
    assert_int_equal(fetch_session_continue(fs, id, 1, false, 0, &same),
                     KERR_INVALID_FETCH_SESSION_EPOCH);
    assert_int_equal(fetch_session_continue(fs, id, 2, true, 0, &same),
                     KERR_FETCH_SESSION_TOPIC_ID_ERROR);
    assert_int_equal(fetch_session_continue(fs, id, 2, false, 0, &same), KERR_NONE);
    s->epoch = INT32_MAX;
    assert_int_equal(fetch_session_continue(fs, id, INT32_MAX, false, 0, &same), KERR_NONE);
    assert_int_equal(s->epoch, 1);
    fetch_session_close(fs, s);
    assert_int_equal(fetch_session_continue(fs, id, 1, false, 0, &same),
                     KERR_FETCH_SESSION_ID_NOT_FOUND);
    fetch_sessions_free(fs);
}

static void test_session_remembers_changes_and_forgets(void **state)
{
    struct fetch_sessions *fs = fetch_sessions_new(10, 1 << 20);
    struct session *s = fetch_session_open(fs, false, 0);
    struct session_key a0 = key_of("a", 0), a1 = key_of("a", 1), b0 = key_of("b", 0);
    assert_int_equal(fetch_session_set(s, &a0, &want), OK);
    assert_int_equal(fetch_session_set(s, &a1, &want), OK);
    assert_int_equal(fetch_session_set(s, &b0, &want), OK);
    struct session_want other = want;
    other.offset = 99;
    assert_int_equal(fetch_session_set(s, &a1, &other), OK);
    assert_int_equal(s->count, 3);
    assert_int_equal(fetch_session_get(s, &a1)->want.offset, 99);
    assert_int_equal(fetch_session_get(s, &a0)->want.offset, 7);
    fetch_session_rotate(s, fetch_session_get(s, &a0));
    assert_true(s->order == fetch_session_get(s, &a1));
    assert_true(s->order->prev == fetch_session_get(s, &a0));
    fetch_session_forget(s, &a0);
    fetch_session_forget(s, &a0);
    assert_null(fetch_session_get(s, &a0));
    assert_int_equal(s->count, 2);
    fetch_sessions_free(fs);
}

static void test_idle_sessions_make_room_and_busy_ones_do_not(void **state)
{
    struct fetch_sessions *fs = fetch_sessions_new(2, 1 << 20);
    struct session *first = fetch_session_open(fs, true, 0), *same;
    int32_t first_id = first->id;
    assert_non_null(fetch_session_open(fs, true, 1000));
    assert_null(fetch_session_open(fs, true, 2000));
    assert_int_equal(fetch_session_continue(fs, first_id, 1, true, 3000, &same), KERR_NONE);
    assert_null(fetch_session_open(fs, true, FETCH_SESSION_IDLE_MS));
    assert_non_null(fetch_session_open(fs, true, 1001 + FETCH_SESSION_IDLE_MS));
    assert_non_null(fetch_session_find(fs, first_id)); /* the one least recently used went */
    assert_int_equal(fetch_sessions_count(fs), 2);
    fetch_sessions_free(fs);
}

static void test_session_by_id_tells_topics_apart_by_id(void **state)
{
    struct fetch_sessions *fs = fetch_sessions_new(2, 1 << 20);
    struct session *s = fetch_session_open(fs, true, 0);
    struct session_key x = {.partition = 0}, y = {.partition = 0};
    x.id.b[15] = 1;
    y.id.b[15] = 2;
    assert_int_equal(fetch_session_set(s, &x, &want), OK);
    assert_null(fetch_session_get(s, &y));
    assert_int_equal(fetch_session_set(s, &y, &want), OK);
    assert_int_equal(s->count, 2);
    fetch_sessions_free(fs);
}

static void test_sessions_hold_a_bounded_number_of_bytes(void **state)
{
    static char name[30000];
    memset(name, 'n', sizeof name - 1);
    struct fetch_sessions *fs = fetch_sessions_new(2, 100000);
    struct session *a = fetch_session_open(fs, false, 0), *b = fetch_session_open(fs, false, 0);
    struct session_key key[4];
    for (int i = 0; i < 4; i++) {
        key[i] = key_of(name, i);
    }
    assert_int_equal(fetch_session_set(a, &key[0], &want), OK);
    assert_int_equal(fetch_session_set(a, &key[1], &want), OK);
    assert_int_equal(fetch_session_set(b, &key[2], &want), OK);
    assert_int_equal(fetch_session_set(b, &key[3], &want), ERR_FULL);
    assert_int_equal(fetch_session_set(a, &key[0], &want), OK); /* is there already */
    fetch_session_forget(a, &key[0]);
    assert_int_equal(fetch_session_set(b, &key[3], &want), OK);
    assert_int_equal(fetch_session_set(b, &key[0], &want), ERR_FULL);
    fetch_session_close(fs, a);
    assert_int_equal(fetch_session_set(b, &key[0], &want), OK);
    fetch_sessions_free(fs);
}

/* --- waiting --------------------------------------------------------------------------------- */

struct poked {
    pthread_mutex_t lock;
    pthread_cond_t more;
    bool yes;
};
static struct poked poked = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false};

static void on_wake(void *arg)
{
    pthread_mutex_lock(&poked.lock);
    poked.yes = true;
    pthread_cond_signal(&poked.more);
    pthread_mutex_unlock(&poked.lock);
}

static void await_poke(void)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 60;
    pthread_mutex_lock(&poked.lock);
    while (!poked.yes) {
        assert_int_equal(pthread_cond_timedwait(&poked.more, &poked.lock, &until), 0);
    }
    poked.yes = false;
    pthread_mutex_unlock(&poked.lock);
}

static int calls;

static void on_moved(struct waiter *w)
{
    calls++;
}

/* Turns pokes into calls until `want_calls` have come. */
static void await_calls(struct watches *ws, int want_calls)
{
    while (calls < want_calls) {
        await_poke();
        watches_check(ws);
    }
    assert_int_equal(calls, want_calls);
}

static void test_waiter_is_called_once_when_its_partition_grows(void **state)
{
    calls = 0;
    struct watches *ws = watches_new(on_wake, NULL);
    assert_int_equal(watches_add_store(ws, &fake), OK);
    struct waiter a = {.moved = on_moved}, b = {.moved = on_moved};
    assert_int_equal(watch_add(ws, &a, &fake, 0, 100), OK);
    assert_int_equal(watch_add(ws, &b, &fake, 1, 100), OK);
    append(0, 10);
    await_calls(ws, 1);
    assert_null(a.watch);
    assert_non_null(b.watch);
    append(0, 10);
    append(1, 10);
    await_calls(ws, 2);
    assert_int_equal(watches_count(ws), 0);
    watches_free(ws);
}

static void test_append_between_look_and_wait_is_not_missed(void **state)
{
    calls = 0;
    struct watches *ws = watches_new(on_wake, NULL);
    assert_int_equal(watches_add_store(ws, &fake), OK);
    struct waiter a = {.moved = on_moved};
    append(0, 10); /* after somebody saw 100 */
    assert_int_equal(watch_add(ws, &a, &fake, 0, 100), OK);
    await_calls(ws, 1);
    watches_free(ws);
}

static void test_waiters_of_one_partition_may_come_and_go(void **state)
{
    calls = 0;
    struct watches *ws = watches_new(on_wake, NULL);
    assert_int_equal(watches_add_store(ws, &fake), OK);
    struct waiter w[3] = {{.moved = on_moved}, {.moved = on_moved}, {.moved = on_moved}};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(watch_add(ws, &w[i], &fake, 3, 100), OK);
    }
    watch_remove(ws, &w[1]);
    watch_remove(ws, &w[1]);
    append(3, 1);
    await_calls(ws, 2);
    watches_free(ws);
}

static void test_waiters_hear_when_their_partition_or_store_goes(void **state)
{
    calls = 0;
    struct watches *ws = watches_new(on_wake, NULL);
    assert_int_equal(watches_add_store(ws, &fake), OK);
    struct waiter a = {.moved = on_moved}, b = {.moved = on_moved};
    assert_int_equal(watch_add(ws, &a, &fake, 0, 100), OK);
    assert_int_equal(watch_add(ws, &b, &fake, 1, 100), OK);
    pthread_mutex_lock(&fake.lock);
    fake.of[0].there = false;
    pthread_mutex_unlock(&fake.lock);
    store_wake(&fake);
    await_calls(ws, 1);
    watches_remove_store(ws, &fake);
    assert_int_equal(calls, 2);
    assert_int_equal(watch_add(ws, &a, &fake, 1, 100), ERR_INVALID);
    watches_free(ws);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_all_partitions_give_what_they_have),
        TEST(test_limit_of_the_reply_is_shared_in_order),
        TEST(test_limit_of_a_partition_holds),
        TEST(test_first_batch_passes_every_limit),
        TEST(test_offsets_outside_the_log_are_errors),
        TEST(test_end_of_the_log_is_no_error),
        TEST(test_leader_epochs_are_compared),
        TEST(test_client_with_a_log_of_its_own_is_told_where_it_parted),
        TEST(test_looks_add_up_while_a_consumer_waits_for_more),
        TEST(test_one_look_copies_a_bounded_number_of_bytes),
        TEST(test_unknown_partition_keeps_nobody_from_waiting_for_others),
        TEST(test_full_partition_is_enough_though_batches_do_not_fill_it),
        TEST(test_history_is_left_to_a_worker),
        TEST(test_what_cannot_be_copied_is_pinned),
        TEST(test_small_batches_are_copied_and_large_ones_pinned),
        TEST(test_a_store_that_is_lost_gets_back_what_was_read),
        TEST(test_what_is_read_ahead_is_what_the_cache_will_still_have),
        TEST(test_a_fetch_waits_for_some_minutes_at_most),
        TEST(test_committed_reads_fail_when_what_was_aborted_is_forgotten),
        TEST(test_reading_stays_within_the_limits),
        TEST(test_disk_faults_and_gaps_are_told_apart),
        TEST(test_session_counts_its_epochs),
        TEST(test_session_remembers_changes_and_forgets),
        TEST(test_idle_sessions_make_room_and_busy_ones_do_not),
        TEST(test_session_by_id_tells_topics_apart_by_id),
        TEST(test_sessions_hold_a_bounded_number_of_bytes),
        TEST(test_waiter_is_called_once_when_its_partition_grows),
        TEST(test_append_between_look_and_wait_is_not_missed),
        TEST(test_waiters_of_one_partition_may_come_and_go),
        TEST(test_waiters_hear_when_their_partition_or_store_goes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
