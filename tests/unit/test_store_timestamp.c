/* Lookups by timestamp agree with a model that knows every record, whatever the order of
 * timestamps. */
#include "tests/unit/store_kit.h"

#define RECORDS_MAX 20000
#define LOOKUPS     300

struct model {
    int64_t ts[RECORDS_MAX];
    int64_t end, start;
};

static uint64_t seed;

static uint32_t next_random(uint32_t n)
{
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(seed >> 33) % n;
}

static void append_random(struct kit *k, struct store *s, uint32_t uid, struct model *m,
                          size_t value_bytes)
{
    int64_t ts[16];
    int count = 1 + (int)next_random(16);
    for (int i = 0; i < count && m->end + i < RECORDS_MAX; i++) {
        /* Mostly forwards, with stragglers and a few from the future. */
        int64_t at = 1000 + m->end * 3;
        uint32_t kind = next_random(100);
        ts[i] = kind < 80 ? at + next_random(20) : kind < 98 ? at - next_random(5000) : at + 20000;
        m->ts[m->end + i] = ts[i];
    }
    struct slice b = kit_batch(k, uid, m->end, count, 0, ts, value_bytes);
    int64_t base;
    assert_int_equal(store_append(s, uid, (uint8_t *)(uintptr_t)b.data, b.len, &base), OK);
    assert_int_equal(base, m->end);
    m->end += count;
}

static void check_lookups(struct kit *k, struct store *s, uint32_t uid, const struct model *m)
{
    int64_t offset, ts, max = m->start;
    for (int n = 0; n < LOOKUPS; n++) {
        int64_t want = (int64_t)next_random((uint32_t)(m->end * 3 + 30000)) - 3000;
        int64_t i = m->start;
        while (i < m->end && m->ts[i] < want) {
            i++;
        }
        enum err e = store_find_timestamp(s, uid, want, &offset, &ts, &k->m);
        assert_int_equal(e, i < m->end ? OK : ERR_NOT_FOUND);
        if (e == OK) {
            assert_int_equal(offset, i);
            assert_int_equal(ts, m->ts[i]);
        }
    }
    for (int64_t i = m->start; i < m->end; i++) {
        max = m->ts[i] > m->ts[max] ? i : max;
    }
    assert_int_equal(store_find_max_timestamp(s, uid, &offset, &ts, &k->m), OK);
    assert_int_equal(offset, max);
    assert_int_equal(ts, m->ts[max]);
}

static void run_model(uint64_t with_seed, uint64_t segment_bytes, size_t value_bytes)
{
    struct kit k;
    static struct model models[2];
    seed = with_seed;
    memset(models, 0, sizeof models);
    kit_init(&k);
    k.writer.segment_bytes = segment_bytes;
    struct store *s = kit_open(&k, &k.writer), *f = NULL;
    struct store_topic t = kit_topic(s, "a", 2);
    for (int round = 0; round < 6; round++) {
        for (int i = 0; i < 250; i++) {
            append_random(&k, s, t.uid, &models[0], value_bytes);
            if (i % 25 == 0) {
                append_random(&k, s, t.uid + 1, &models[1], value_bytes);
            }
            kit_commit(&k, s);
        }
        if (round == 2) {
            store_close(s);
            s = kit_open(&k, &k.writer);
            f = kit_open(&k, &k.follower);
        }
        if (round == 4) {
            for (uint32_t p = 0; p < 2; p++) {
                models[p].start = models[p].end / 3;
                KIT_OK(store_trim(s, store_topic_uid(&t, p), models[p].start, &k.m));
            }
        }
        for (uint32_t p = 0; p < 2; p++) {
            check_lookups(&k, s, store_topic_uid(&t, p), &models[p]);
            if (f) {
                check_lookups(&k, f, store_topic_uid(&t, p), &models[p]);
            }
        }
    }
    store_close(f);
    store_close(s);
    kit_fini(&k);
}

static void test_lookups_agree_with_the_model_in_one_segment(void **state)
{
    run_model(1, 16 << 20, 10);
}

static void test_lookups_agree_with_the_model_over_many_segments(void **state)
{
    run_model(2, 64 << 10, 50);
}

static void test_lookups_agree_with_the_model_over_many_intervals(void **state)
{
    run_model(3, 64 << 20, 1200);
}

static void test_empty_partition_has_no_timestamp(void **state)
{
    struct kit k;
    kit_init(&k);
    struct store *s = kit_open(&k, &k.writer);
    struct store_topic t = kit_topic(s, "a", 1);
    int64_t offset, ts;
    assert_int_equal(store_find_timestamp(s, t.uid, 0, &offset, &ts, &k.m), ERR_NOT_FOUND);
    assert_int_equal(store_find_max_timestamp(s, t.uid, &offset, &ts, &k.m), ERR_NOT_FOUND);
    assert_int_equal(store_find_timestamp(s, 99, 0, &offset, &ts, &k.m), ERR_NOT_FOUND);
    store_close(s);
    kit_fini(&k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lookups_agree_with_the_model_in_one_segment),
        cmocka_unit_test(test_lookups_agree_with_the_model_over_many_segments),
        cmocka_unit_test(test_lookups_agree_with_the_model_over_many_intervals),
        cmocka_unit_test(test_empty_partition_has_no_timestamp),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
