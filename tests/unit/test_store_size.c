/* Sizes of partitions agree with a model that knows every batch. */
#include "tests/unit/store_kit.h"

#define BATCHES_MAX 4000
#define ALL         SIZE_MAX

struct model {
    size_t bytes[BATCHES_MAX]; /* of each batch; all have ROWS records */
    int64_t count;
};

enum { ROWS = 4 };

static void append(struct kit *k, struct store *s, uint32_t uid, struct model *m, size_t value)
{
    int64_t ts[ROWS] = {1000, 1000, 1000, 1000}, base;
    struct slice b = kit_batch(k, uid, m->count * ROWS, ROWS, 0, ts, value);
    assert_int_equal(store_append(s, uid, (uint8_t *)(uintptr_t)b.data, b.len, &base), OK);
    assert_true(m->count < BATCHES_MAX);
    m->bytes[m->count++] = b.len;
}

static uint64_t sum(const struct model *m, int64_t from)
{
    uint64_t bytes = 0;
    for (int64_t i = from; i < m->count; i++) {
        bytes += m->bytes[i];
    }
    return bytes;
}

static uint64_t size_of(struct kit *k, struct store *s, uint32_t uid, size_t read_max)
{
    uint64_t bytes;
    KIT_OK(store_partition_bytes(s, uid, &read_max, &bytes, &k->m));
    return bytes;
}

/* Through rows and without them, over segments, by writer and follower, and after a restart. */
static void run_model(uint64_t segment_bytes, size_t value, int rounds)
{
    struct kit k;
    static struct model models[2];
    memset(models, 0, sizeof models);
    kit_init(&k);
    k.writer.segment_bytes = segment_bytes;
    struct store *s = kit_open(&k, &k.writer), *f = NULL;
    struct store_topic t = kit_topic(s, "a", 2);
    assert_int_equal(size_of(&k, s, t.uid, ALL), 0);
    for (int round = 0; round < rounds; round++) {
        for (int i = 0; i < 300; i++) {
            append(&k, s, t.uid, &models[0], value + (size_t)i);
            if (i % 30 == 0) {
                append(&k, s, t.uid + 1, &models[1], value);
            }
            kit_commit(&k, s);
        }
        if (round == 1) {
            store_close(s);
            s = kit_open(&k, &k.writer);
            f = kit_open(&k, &k.follower);
        }
        for (int32_t p = 0; p < 2; p++) {
            assert_int_equal(size_of(&k, s, store_topic_uid(&t, p), ALL), sum(&models[p], 0));
            if (f) {
                assert_int_equal(size_of(&k, f, store_topic_uid(&t, p), ALL), sum(&models[p], 0));
            }
        }
    }
    store_close(f);
    store_close(s);
    kit_fini(&k);
}

static void test_sizes_agree_with_the_model_in_one_interval(void **state)
{
    run_model(16 << 20, 10, 3);
}

static void test_sizes_agree_with_the_model_over_many_segments(void **state)
{
    run_model(64 << 10, 60, 6);
}

static void test_sizes_agree_with_the_model_over_many_intervals(void **state)
{
    run_model(64 << 20, 2000, 6);
}

/* What is deleted is off the size from the log start's interval on; the rest of that is counted. */
static void test_size_follows_the_log_start(void **state)
{
    struct kit k;
    static struct model m;
    memset(&m, 0, sizeof m);
    kit_init(&k);
    struct store *s = kit_open(&k, &k.writer);
    struct store_topic t = kit_topic(s, "a", 1);
    for (int i = 0; i < 1000; i++) {
        append(&k, s, t.uid, &m, 2000);
        kit_commit(&k, s);
    }
    KIT_OK(store_trim(s, t.uid, 600 * ROWS, &k.m));
    uint64_t bytes = size_of(&k, s, t.uid, ALL);
    assert_in_range(bytes, sum(&m, 600), sum(&m, 600) + (3 << 19));
    KIT_OK(store_trim(s, t.uid, 990 * ROWS, &k.m));
    assert_int_equal(size_of(&k, s, t.uid, ALL), sum(&m, 990));
    KIT_OK(store_trim(s, t.uid, 1000 * ROWS, &k.m));
    assert_int_equal(size_of(&k, s, t.uid, ALL), 0);
    store_close(s);
    kit_fini(&k);
}

static void test_size_reads_no_more_than_it_may(void **state)
{
    struct kit k;
    static struct model m;
    memset(&m, 0, sizeof m);
    kit_init(&k);
    struct store *s = kit_open(&k, &k.writer);
    struct store_topic t = kit_topic(s, "a", 1);
    for (int i = 0; i < 1000; i++) {
        append(&k, s, t.uid, &m, 2000);
        kit_commit(&k, s);
    }
    uint64_t all = sum(&m, 0), bytes;
    size_t left = ALL;
    KIT_OK(store_partition_bytes(s, t.uid, &left, &bytes, &k.m));
    size_t took = ALL - left;
    assert_in_range(took, 1, 2 << 20);
    assert_int_equal(size_of(&k, s, t.uid, 0), all - took);
    left = took + 5;
    KIT_OK(store_partition_bytes(s, t.uid, &left, &bytes, &k.m));
    assert_int_equal(left, 5);
    assert_int_equal(store_partition_bytes(s, 99, &left, &bytes, &k.m), ERR_NOT_FOUND);
    assert_int_equal(bytes, 0);
    store_close(s);
    kit_fini(&k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes_agree_with_the_model_in_one_interval),
        cmocka_unit_test(test_sizes_agree_with_the_model_over_many_segments),
        cmocka_unit_test(test_sizes_agree_with_the_model_over_many_intervals),
        cmocka_unit_test(test_size_follows_the_log_start),
        cmocka_unit_test(test_size_reads_no_more_than_it_may),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
