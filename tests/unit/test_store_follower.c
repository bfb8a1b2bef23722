/* The follower: another process reads what a writer writes, through kills, reopening and new
 * directories. */
#include "tests/unit/store_kit.h"

#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#define WAIT_MS 60000

/* Waits until the end of a partition is at least `end`. */
static void wait_end(struct store *s, uint32_t uid, int64_t end)
{
    time_t give_up = time(NULL) + WAIT_MS / 1000;
    for (;;) {
        uint32_t seen = store_sequence(s);
        struct store_offsets o;
        if (store_offsets(s, uid, &o) == OK && o.end >= end) {
            return;
        }
        if (time(NULL) > give_up) {
            fail_msg("the end of %u did not reach %lld", uid, (long long)end);
        }
        store_wait(s, seen, 1000);
    }
}

static const struct store_catalog *wait_topics(struct store *s, size_t count)
{
    time_t give_up = time(NULL) + WAIT_MS / 1000;
    for (;;) {
        uint32_t seen = store_sequence(s);
        const struct store_catalog *c = store_catalog_ref(s);
        if (c->count == count) {
            return c;
        }
        store_catalog_unref(s, c);
        if (time(NULL) > give_up) {
            fail_msg("the catalog did not come to %zu topics", count);
        }
        store_wait(s, seen, 1000);
    }
}

static void test_follower_waits_for_a_store_to_be_made(void **state)
{
    struct kit k;
    kit_init(&k);
    struct store *f;
    assert_int_equal(store_open(&f, &k.follower, &k.m), ERR_NOT_FOUND);
    assert_int_equal(mkdir(k.dir, 0750), 0);
    assert_int_equal(store_open(&f, &k.follower, &k.m), ERR_NOT_FOUND);
    assert_non_null(strstr(k.m.text, k.dir));
    struct store *w = kit_open(&k, &k.writer);
    f = kit_open(&k, &k.follower);
    store_close(f);
    store_close(w);
    kit_fini(&k);
}

/* Who takes it for absent would clean up after it. */
static void test_a_store_in_the_making_is_not_absent(void **state)
{
    struct kit k;
    char page[sizeof k.dir + 8], away[sizeof k.dir + 8];
    struct store *f;
    kit_init(&k);
    snprintf(page, sizeof page, "%s/page", k.dir);
    snprintf(away, sizeof away, "%s/away", k.dir);
    store_close(kit_open(&k, &k.writer));
    assert_int_equal(rename(page, away), 0); /* as an upgrade does, before the new one is made */
    assert_int_equal(store_open(&f, &k.follower, &k.m), ERR_AGAIN);
    assert_non_null(strstr(k.m.text, k.dir));
    assert_int_equal(rename(away, page), 0);
    store_close(kit_open(&k, &k.follower));
    kit_fini(&k);
}

static void test_follower_sees_topics_records_and_rows(void **state)
{
    struct kit k;
    kit_init(&k);
    struct store *w = kit_open(&k, &k.writer);
    struct store *f = kit_open(&k, &k.follower);
    struct store_topic t = kit_topic(w, "a", 2);
    const struct store_catalog *c = wait_topics(f, 1);
    assert_string_equal(c->topics[0].name, "a");
    store_catalog_unref(f, c);
    int64_t end = 0, next;
    struct buf b;
    buf_init(&b, 1 << 20);
    for (int i = 0; i < 50; i++) {
        end = kit_append(&k, w, t.uid, end, 3, 1000 + i, 50);
        kit_commit(&k, w);
        wait_end(f, t.uid, end);
        buf_reset(&b);
        assert_int_equal(store_read_tail(f, t.uid, end - 3, 1 << 20, true, &b, &next), OK);
        kit_check_batch(t.uid, end - 3, buf_slice(&b));
        kit_read_all(&k, f, t.uid, end - 3, end, 1 << 20);
    }
    kit_read_all(&k, f, t.uid, 0, end, 1 << 20);
    assert_true(store_writer_alive(f));
    store_close(w);
    assert_false(store_writer_alive(f));
    kit_read_all(&k, f, t.uid, 0, end, 1000);
    buf_fini(&b);
    store_close(f);
    kit_fini(&k);
}

static void test_follower_opens_while_nobody_writes(void **state)
{
    struct kit k;
    kit_init(&k);
    k.writer.segment_bytes = 64 << 10;
    struct store *w = kit_open(&k, &k.writer);
    struct store_topic t = kit_topic(w, "a", 1);
    int64_t end = 0;
    for (int i = 0; i < 300; i++) {
        end = kit_append(&k, w, t.uid, end, 2, 1000, 700);
        kit_commit(&k, w);
    }
    store_close(w);
    struct store *f = kit_open(&k, &k.follower);
    assert_int_equal(kit_offsets(f, t.uid).end, end);
    assert_int_equal(kit_offsets(f, t.uid).durable, end);
    kit_read_all(&k, f, t.uid, 0, end, 1 << 20);
    w = kit_open(&k, &k.writer);
    end = kit_append(&k, w, t.uid, end, 2, 1000, 700);
    kit_commit(&k, w);
    wait_end(f, t.uid, end);
    kit_read_all(&k, f, t.uid, 0, end, 1 << 20);
    store_close(w);
    store_close(f);
    kit_fini(&k);
}

/* Bytes of the batch at an offset, as the tail has it. */
static size_t tail_bytes(struct store *s, uint32_t uid, int64_t offset)
{
    struct buf b;
    int64_t next;
    buf_init(&b, 1 << 20);
    assert_int_equal(store_read_tail(s, uid, offset, 1, true, &b, &next), OK);
    assert_int_equal(kit_check_batch(uid, offset, buf_slice(&b)), next);
    size_t bytes = b.len;
    buf_fini(&b);
    return bytes;
}

static void test_follower_moves_to_a_directory_made_anew(void **state)
{
    struct kit k;
    kit_init(&k);
    struct store *w = kit_open(&k, &k.writer);
    struct store_topic t = kit_topic(w, "old", 1);
    for (int i = 0; i < 7; i++) {
        kit_append(&k, w, t.uid, i, 1, 1000, 5000);
    }
    kit_commit(&k, w);
    struct store *f = kit_open(&k, &k.follower);
    kit_read_all(&k, f, t.uid, 0, 7, 1 << 20);
    assert_true(tail_bytes(f, t.uid, 0) > 5000);
    store_close(w);
    kit_remove(k.dir);
    w = kit_open(&k, &k.writer);
    t = kit_topic(w, "new", 1);
    kit_topic(w, "newer", 1);
    for (int i = 0; i < 3; i++) {
        kit_append(&k, w, t.uid, i, 1, 1000, 0);
    }
    kit_commit(&k, w);
    const struct store_catalog *c = wait_topics(f, 2);
    assert_non_null(store_catalog_find(c, slice_str("new")));
    store_catalog_unref(f, c);
    wait_end(f, t.uid, 3);
    assert_int_equal(kit_offsets(f, t.uid).end, 3);
    kit_read_all(&k, f, t.uid, 0, 3, 1 << 20);
    assert_true(tail_bytes(f, t.uid, 0) < 5000);
    struct store_stats st = {0};
    for (time_t give_up = time(NULL) + 60; st.reopens == 0; store_get_stats(f, &st)) {
        assert_true(time(NULL) <= give_up); /* counted when all is done */
        sched_yield();
    }
    assert_int_equal(st.reopens, 1);
    store_close(f);
    store_close(w);
    kit_fini(&k);
}

static void spoil_page(const struct kit *k, long at, uint64_t value)
{
    char path[400];
    snprintf(path, sizeof path, "%s/page", k->dir);
    FILE *page = fopen(path, "r+");
    assert_non_null(page);
    assert_int_equal(fseek(page, at, SEEK_SET), 0);
    assert_int_equal(fwrite(&value, sizeof value, 1, page), 1);
    assert_int_equal(fclose(page), 0);
}

/* The page of another boot is not believed: ends come from the database until a writer opens. */
static void test_page_of_an_earlier_boot_is_not_believed(void **state)
{
    struct kit k;
    kit_init(&k);
    struct store *w = kit_open(&k, &k.writer);
    struct store_topic t = kit_topic(w, "a", 2);
    kit_append(&k, w, t.uid, 0, 7, 1000, 0);
    kit_commit(&k, w);
    store_close(w);
    spoil_page(&k, 32, 42);         /* the boot id */
    spoil_page(&k, 4096 + 8, 1000); /* the end */
    struct store *f = kit_open(&k, &k.follower);
    assert_int_equal(kit_offsets(f, t.uid).end, 7);
    assert_int_equal(kit_offsets(f, t.uid + 1).end, 0);
    kit_read_all(&k, f, t.uid, 0, 7, 1 << 20);
    w = kit_open(&k, &k.writer);
    /* The page promised more than there is: an epoch of its own says so. */
    assert_int_equal(kit_offsets(w, t.uid).end, 7);
    assert_int_equal(kit_offsets(w, t.uid).leader_epoch, 1);
    int32_t found;
    int64_t epoch_end;
    KIT_OK(store_epoch_end(w, t.uid, 0, &found, &epoch_end));
    assert_int_equal(found, 0);
    assert_int_equal(epoch_end, 7);
    assert_int_equal(store_epoch_end(w, t.uid, 2, &found, &epoch_end), ERR_NOT_FOUND);
    kit_append(&k, w, t.uid, 7, 1, 1000, 0);
    kit_commit(&k, w);
    wait_end(f, t.uid, 8);
    assert_int_equal(kit_offsets(f, t.uid).leader_epoch, 1);
    kit_read_all(&k, f, t.uid, 0, 8, 1 << 20);
    store_close(f);
    store_close(w);
    kit_fini(&k);
}

/* A service with a /proc of its own, in a container, is shown another boot id than the broker. */
static void test_page_of_a_living_writer_is_believed_whatever_its_boot_id(void **state)
{
    struct kit k;
    kit_init(&k);
    struct store *w = kit_open(&k, &k.writer);
    struct store_topic t = kit_topic(w, "a", 1);
    spoil_page(&k, 32, 42);
    struct store *f = kit_open(&k, &k.follower);
    kit_append(&k, w, t.uid, 0, 7, 1000, 0);
    kit_commit(&k, w);
    wait_end(f, t.uid, 7);
    store_close(w);
    w = kit_open(&k, &k.writer);
    spoil_page(&k, 32, 42);
    kit_append(&k, w, t.uid, 7, 1, 1000, 0);
    kit_commit(&k, w);
    wait_end(f, t.uid, 8);
    kit_read_all(&k, f, t.uid, 0, 8, 1 << 20);
    store_close(f);
    store_close(w);
    kit_fini(&k);
}

struct bulk {
    struct kit *k;
    struct store *w;
    uint32_t uid;
    int64_t end;
};

static void *write_bulk(void *arg)
{
    struct bulk *b = arg;
    for (int i = 0; i < 1500; i++) {
        for (uint32_t p = 0; p < 4; p++) {
            (void)kit_append(b->k, b->w, b->uid + p, b->end, 5, 1000, 200);
        }
        b->end += 5;
        kit_commit(b->k, b->w);
    }
    return NULL;
}

/* Small segments, so that flushes, file drops and catch-ups race with the reads all the time. */
static void test_reads_race_with_flushes(void **state)
{
    struct kit k, reader;
    kit_init(&k);
    reader = k;
    k.writer.segment_bytes = 64 << 10;
    struct store *w = kit_open(&k, &k.writer);
    struct store_topic t = kit_topic(w, "a", 4);
    struct store *f = kit_open(&k, &k.follower);
    struct bulk b = {&k, w, t.uid, 0};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, write_bulk, &b), 0);
    int64_t at[4] = {0};
    while (at[0] < 7500 || at[1] < 7500 || at[2] < 7500 || at[3] < 7500) {
        for (uint32_t p = 0; p < 4; p++) {
            struct store_offsets o;
            int64_t end = store_offsets(f, store_topic_uid(&t, p), &o) == OK ? o.end : 0;
            at[p] = kit_read_all(&reader, f, store_topic_uid(&t, p), at[p], end, 20000);
        }
    }
    pthread_join(thread, NULL);
    for (uint32_t p = 0; p < 4; p++) {
        assert_int_equal(kit_read_all(&reader, f, store_topic_uid(&t, p), 0, 7500, 1 << 20), 7500);
    }
    store_close(f);
    store_close(w);
    kit_fini(&k);
}

/* Descriptors of this process of tables that have no name any more. */
static int unlinked_tables(void)
{
    DIR *d = opendir("/proc/self/fd");
    assert_non_null(d);
    int n = 0;
    for (struct dirent *f = readdir(d); f; f = readdir(d)) {
        char target[512];
        ssize_t len = readlinkat(dirfd(d), f->d_name, target, sizeof target - 1);
        target[len > 0 ? len : 0] = 0;
        n += strstr(target, ".sst (deleted)") != NULL;
    }
    closedir(d);
    return n;
}

/* Files that retention drops are held for a while (the janitor), and then by nobody, although
 * nothing is written. */
static void test_dropped_files_are_let_go(void **state)
{
    struct kit k;
    kit_init(&k);
    k.writer.segment_bytes = 64 << 10;
    struct store *w = kit_open(&k, &k.writer);
    struct store_topic t = kit_topic(w, "a", 1);
    int64_t end = 0;
    for (int i = 0; i < 600; i++) {
        end = kit_append(&k, w, t.uid, end, 1, 1000, 1000);
        kit_commit(&k, w);
    }
    struct store *f = kit_open(&k, &k.follower);
    kit_read_all(&k, f, t.uid, 0, end, 1 << 20);
    KIT_OK(store_trim(w, t.uid, end, &k.m));
    time_t give_up = time(NULL) + 60;
    int64_t now = 1000;
    for (bool held = false, gone = false; !gone; held = held || unlinked_tables() > 0) {
        enum err e = store_tick(w, now += 50, &k.m);
        assert_int_equal(e, OK);
        gone = held && unlinked_tables() == 0;
        assert_true(time(NULL) <= give_up);
        struct timespec ms = {.tv_nsec = 5000000};
        nanosleep(&ms, NULL);
    }
    end = kit_append(&k, w, t.uid, end, 1, 1000, 1000);
    kit_commit(&k, w);
    kit_read_all(&k, f, t.uid, end - 1, end, 1 << 20);
    store_close(f);
    store_close(w);
    kit_fini(&k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_follower_waits_for_a_store_to_be_made),
        cmocka_unit_test(test_a_store_in_the_making_is_not_absent),
        cmocka_unit_test(test_follower_sees_topics_records_and_rows),
        cmocka_unit_test(test_follower_opens_while_nobody_writes),
        cmocka_unit_test(test_follower_moves_to_a_directory_made_anew),
        cmocka_unit_test(test_page_of_an_earlier_boot_is_not_believed),
        cmocka_unit_test(test_page_of_a_living_writer_is_believed_whatever_its_boot_id),
        cmocka_unit_test(test_reads_race_with_flushes),
        cmocka_unit_test(test_dropped_files_are_let_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
