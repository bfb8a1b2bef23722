/* Retention, by ticks whose time the test owns: what goes, what stays, and that the disk is given
 * back. */
#include "tests/unit/store_kit.h"

#include <dirent.h>
#include <time.h>

#define KB 1024

static void tick(struct kit *k, struct store *s, int64_t now_ms)
{
    enum err e = store_tick(s, now_ms, &k->m);
    if (e != OK) {
        fail_msg("store_tick: %s: %s", err_name(e), k->m.text);
    }
}

static uint64_t log_bytes(struct store *s)
{
    struct store_stats st;
    store_get_stats(s, &st);
    return st.bytes;
}

static int sst_files(const struct kit *k)
{
    char path[400];
    snprintf(path, sizeof path, "%s/db", k->dir);
    DIR *d = opendir(path);
    assert_non_null(d);
    int n = 0;
    for (struct dirent *f = readdir(d); f; f = readdir(d)) {
        n += strstr(f->d_name, ".sst") != NULL;
    }
    closedir(d);
    return n;
}

/* The cleaner works beside us: ticks until the store is as small as it must become. */
static void wait_bytes(struct kit *k, struct store *s, int64_t now_ms, uint64_t at_most)
{
    time_t give_up = time(NULL) + 60;
    while (log_bytes(s) > at_most) {
        tick(k, s, now_ms);
        if (time(NULL) > give_up) {
            fail_msg("store has %llu bytes instead of %llu", (unsigned long long)log_bytes(s),
                     (unsigned long long)at_most);
        }
        struct timespec t = {.tv_nsec = 2000000};
        nanosleep(&t, NULL);
    }
}

static struct store_topic limited(struct kit *k, struct store *s, const char *name, int64_t ms,
                                  int64_t bytes)
{
    struct store_topic t = kit_topic(s, name, 1);
    t.retention_ms = ms;
    t.retention_bytes = bytes;
    t.attributes = NULL;
    enum err e = store_topic_alter(s, &t, &k->m);
    assert_int_equal(e, OK);
    return t;
}

static void test_bytes_of_a_stream_are_limited(void **state)
{
    struct kit k;
    kit_init(&k);
    k.writer.segment_bytes = 64 * KB;
    struct store *s = kit_open(&k, &k.writer);
    struct store_topic t = limited(&k, s, "a", -1, 300 * KB);
    int64_t end = 0;
    for (int i = 0; i < 2000; i++) {
        end = kit_append(&k, s, t.uid, end, 1, 1000, 1000); /* about 1,080 bytes a batch */
        kit_commit(&k, s);
        if (i % 20 == 0) {
            tick(&k, s, 1000 + i);
            int64_t kept = end - kit_offsets(s, t.uid).log_start;
            assert_true(kept >= (end < 280 ? end : 280));
            assert_true(kept <= 300 + 80 + 20); /* the limit, a segment, and since the last tick */
        }
    }
    int64_t start = kit_offsets(s, t.uid).log_start;
    kit_read_all(&k, s, t.uid, start, end, 1 << 20);
    struct store_slices *x;
    assert_int_equal(store_read(s, t.uid, start - 1, 1000, true, &x, &k.m), ERR_RANGE);
    wait_bytes(&k, s, 5000, 700 * KB);
    store_close(s);
    s = kit_open(&k, &k.writer);
    assert_int_equal(kit_offsets(s, t.uid).log_start, start);
    assert_int_equal(kit_offsets(s, t.uid).end, end);
    kit_read_all(&k, s, t.uid, start, end, 1 << 20);
    store_close(s);
    kit_fini(&k);
}

/* As in Kafka: with "compact" alone neither age nor size removes a record. */
static void test_limits_leave_compacted_streams_alone(void **state)
{
    struct kit k;
    kit_init(&k);
    struct store *s = kit_open(&k, &k.writer);
    struct store_topic t = limited(&k, s, "a", 1000, 1000);
    struct store_topic compacted = limited(&k, s, "b", 1000, 1000);
    compacted.cleanup = STORE_CLEANUP_COMPACT;
    KIT_OK(store_topic_alter(s, &compacted, &k.m));
    for (int i = 0; i < 100; i++) {
        (void)kit_append(&k, s, t.uid, i, 1, 1000000 + i * 100, 100);
        (void)kit_append(&k, s, compacted.uid, i, 1, 1000000 + i * 100, 100);
        kit_commit(&k, s);
        tick(&k, s, 1000000 + i * 100);
    }
    for (int i = 0; i < 100; i++) {
        tick(&k, s, 2000000 + i * 1000);
    }
    assert_int_equal(kit_offsets(s, t.uid).log_start, 100);
    assert_int_equal(kit_offsets(s, compacted.uid).log_start, 0);
    kit_read_all(&k, s, compacted.uid, 0, 100, 1 << 20);
    store_close(s);
    kit_fini(&k);
}

static void test_age_of_a_stream_is_limited(void **state)
{
    struct kit k;
    kit_init(&k);
    struct store *s = kit_open(&k, &k.writer);
    struct store_topic t = limited(&k, s, "a", 100000, -1);
    struct store_topic other = kit_topic(s, "b", 1);
    int64_t end = 0, now = 1000000;
    for (int i = 0; i < 1000; i++, now += 1000) { /* a record each second, of its second */
        end = kit_append(&k, s, t.uid, end, 1, now, 100);
        (void)kit_append(&k, s, other.uid, i, 1, now, 100);
        kit_commit(&k, s);
        tick(&k, s, now);
        int64_t kept = end - kit_offsets(s, t.uid).log_start;
        assert_true(kept >= (end < 100 ? end : 100));
        assert_true(kept <= 100 + 12); /* a tenth of the time, and the ticks beside it */
    }
    /* Nothing comes any more: all of it ages away, nobody has to write for that. */
    for (int i = 0; i < 120; i++, now += 1000) {
        tick(&k, s, now);
    }
    assert_int_equal(kit_offsets(s, t.uid).log_start, end);
    assert_int_equal(kit_offsets(s, other.uid).log_start, 0);
    kit_read_all(&k, s, other.uid, 0, 1000, 1 << 20);
    end = kit_append(&k, s, t.uid, end, 1, now, 100);
    kit_commit(&k, s);
    kit_read_all(&k, s, t.uid, end - 1, end, 1 << 20);
    store_close(s);
    kit_fini(&k);
}

static void test_bytes_of_the_store_are_limited(void **state)
{
    struct kit k;
    kit_init(&k);
    k.writer.segment_bytes = 64 * KB;
    k.writer.limit_bytes = 1000 * KB;
    int64_t end[2] = {0};
    struct store *s = kit_open(&k, &k.writer);
    struct store_topic t = kit_topic(s, "a", 2);
    for (int life = 0; life < 3; life++) {
        for (int i = 0; i < 2000; i++) {
            uint32_t p = i % 10 == 0;
            end[p] = kit_append(&k, s, store_topic_uid(&t, p), end[p], 1, 1000, 1000);
            kit_commit(&k, s);
            if (i % 20 == 0) {
                tick(&k, s, 1000);
            }
        }
        int64_t kept = 0;
        for (uint32_t p = 0; p < 2; p++) {
            struct store_offsets o = kit_offsets(s, store_topic_uid(&t, p));
            assert_int_equal(o.end, end[p]);
            kit_read_all(&k, s, store_topic_uid(&t, p), o.log_start, o.end, 100000);
            kept += o.end - o.log_start;
        }
        assert_in_range(kept, 800, 1000);
        wait_bytes(&k, s, 1000, 1500 * KB);
        store_close(s);
        s = kit_open(&k, &k.writer);
    }
    store_close(s);
    kit_fini(&k);
}

/* A stream that stays for ever and one that is soon gone share every segment. */
static void test_mostly_dead_segments_are_rewritten(void **state)
{
    struct kit k;
    kit_init(&k);
    k.writer.segment_bytes = 64 * KB;
    struct store *s = kit_open(&k, &k.writer);
    struct store_topic brief = limited(&k, s, "brief", 50000, -1), ever = kit_topic(s, "ever", 1);
    struct store *f = kit_open(&k, &k.follower);
    int64_t a = 0, b = 0;
    for (int i = 0; i < 3000; i++) {
        a = kit_append(&k, s, brief.uid, a, 1, 1000, 1000);
        if (i % 20 == 0) {
            b = kit_append(&k, s, ever.uid, b, 1, 1000, 1000);
        }
        kit_commit(&k, s);
    }
    tick(&k, s, 1000);
    assert_true(log_bytes(s) > 3000 * KB);
    tick(&k, s, 100000); /* closes what is open */
    wait_bytes(&k, s, 200000, 600 * KB);
    assert_int_equal(kit_offsets(s, brief.uid).log_start, a);
    assert_int_equal(kit_offsets(s, ever.uid).log_start, 0);
    kit_read_all(&k, s, ever.uid, 0, b, 1 << 20);
    kit_read_all(&k, f, ever.uid, 0, b, 1 << 20);
    store_close(s);
    s = kit_open(&k, &k.writer);
    kit_read_all(&k, s, ever.uid, 0, b, 1 << 20);
    kit_append(&k, s, brief.uid, a, 1, 200000, 10);
    kit_commit(&k, s);
    kit_read_all(&k, s, brief.uid, a, a + 1, 1 << 20);
    store_close(f);
    store_close(s);
    kit_fini(&k);
}

static void test_deleted_topic_gives_its_disk_back(void **state)
{
    struct kit k;
    kit_init(&k);
    k.writer.segment_bytes = 64 * KB;
    struct store *s = kit_open(&k, &k.writer);
    struct store_topic gone = kit_topic(s, "gone", 2), stays = kit_topic(s, "stays", 1);
    int64_t a = 0, b = 0;
    for (int i = 0; i < 2000; i++) {
        a = kit_append(&k, s, gone.uid, a, 1, 1000, 1000);
        if (i % 20 == 0) {
            b = kit_append(&k, s, stays.uid, b, 1, 1000, 1000);
        }
        kit_commit(&k, s);
    }
    tick(&k, s, 1000);
    KIT_OK(store_topic_delete(s, slice_str("gone"), &k.m));
    wait_bytes(&k, s, 1000, 500 * KB);
    kit_read_all(&k, s, stays.uid, 0, b, 1 << 20);
    store_close(s);
    s = kit_open(&k, &k.writer);
    for (int i = 0; i < 10; i++) {
        tick(&k, s, 1000);
    }
    kit_read_all(&k, s, stays.uid, 0, b, 1 << 20);
    struct store_topic again = kit_topic(s, "gone", 2);
    assert_int_equal(kit_offsets(s, again.uid).end, 0);
    kit_append(&k, s, again.uid, 0, 1, 1000, 10);
    kit_commit(&k, s);
    kit_read_all(&k, s, again.uid, 0, 1, 1 << 20);
    store_close(s);
    kit_fini(&k);
}

static void test_trim_raises_the_log_start_for_good(void **state)
{
    struct kit k;
    kit_init(&k);
    struct store *s = kit_open(&k, &k.writer);
    struct store *f;
    struct store_topic t = kit_topic(s, "a", 1);
    for (int i = 0; i < 10; i++) {
        kit_append(&k, s, t.uid, i * 10, 10, 1000, 10);
    }
    kit_commit(&k, s);
    f = kit_open(&k, &k.follower);
    KIT_OK(store_trim(s, t.uid, 33, &k.m));
    KIT_OK(store_trim(s, t.uid, 20, &k.m)); /* never lowers it */
    assert_int_equal(store_trim(s, t.uid, 101, &k.m), ERR_RANGE);
    assert_int_equal(store_trim(s, t.uid + 1, 1, &k.m), ERR_NOT_FOUND);
    assert_int_equal(kit_offsets(s, t.uid).log_start, 33);
    assert_int_equal(kit_offsets(f, t.uid).log_start, 33);
    struct store_slices *x;
    KIT_OK(store_read(s, t.uid, 33, 1 << 20, true, &x, &k.m));
    assert_int_equal(x->count, 7); /* whole batches: the first begins at 30 */
    store_slices_free(x);
    int64_t offset, ts;
    KIT_OK(store_find_timestamp(s, t.uid, 0, &offset, &ts, &k.m));
    assert_int_equal(offset, 33);
    KIT_OK(store_trim(s, t.uid, 100, &k.m));
    store_close(s);
    s = kit_open(&k, &k.writer);
    assert_int_equal(kit_offsets(s, t.uid).log_start, 100);
    assert_int_equal(kit_offsets(s, t.uid).end, 100);
    assert_int_equal(store_find_timestamp(s, t.uid, 0, &offset, &ts, &k.m), ERR_NOT_FOUND);
    store_close(f);
    store_close(s);
    kit_fini(&k);
}

static void test_small_segments_become_one_file(void **state)
{
    struct kit k;
    kit_init(&k);
    struct store_topic t = {0};
    int64_t end = 0;
    for (int life = 0; life < 40; life++) {
        struct store *s = kit_open(&k, &k.writer);
        if (life == 0) {
            t = kit_topic(s, "a", 1);
        }
        end = kit_append(&k, s, t.uid, end, 3, 1000 + life, 100);
        kit_commit(&k, s);
        store_close(s);
    }
    struct store *s = kit_open(&k, &k.writer);
    time_t give_up = time(NULL) + 60;
    while (sst_files(&k) > 16) {
        tick(&k, s, 1000);
        assert_true(time(NULL) <= give_up);
        struct timespec pause = {.tv_nsec = 2000000};
        nanosleep(&pause, NULL);
    }
    kit_read_all(&k, s, t.uid, 0, end, 1 << 20);
    /* And they still go when their time has come. */
    t.retention_ms = 1000;
    t.attributes = NULL;
    KIT_OK(store_topic_alter(s, &t, &k.m));
    for (int i = 0; i < 200; i++) {
        tick(&k, s, 100000 + i * 1000);
    }
    assert_int_equal(kit_offsets(s, t.uid).log_start, end);
    store_close(s);
    s = kit_open(&k, &k.writer);
    assert_int_equal(kit_offsets(s, t.uid).log_start, end);
    end = kit_append(&k, s, t.uid, end, 3, 1000, 100);
    kit_commit(&k, s);
    kit_read_all(&k, s, t.uid, end - 3, end, 1 << 20);
    store_close(s);
    kit_fini(&k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes_of_a_stream_are_limited),
        cmocka_unit_test(test_limits_leave_compacted_streams_alone),
        cmocka_unit_test(test_age_of_a_stream_is_limited),
        cmocka_unit_test(test_bytes_of_the_store_are_limited),
        cmocka_unit_test(test_mostly_dead_segments_are_rewritten),
        cmocka_unit_test(test_deleted_topic_gives_its_disk_back),
        cmocka_unit_test(test_trim_raises_the_log_start_for_good),
        cmocka_unit_test(test_small_segments_become_one_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
