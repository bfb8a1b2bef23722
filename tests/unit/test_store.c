/* The writer: topics, append, commit, rows, reading, reopening, formats, locks. */
#include "tests/unit/store_kit.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void test_commit_makes_records_readable(void **state)
{
    struct kit k;
    kit_init(&k);
    struct store *s = kit_open(&k, &k.writer);
    struct store_topic t = kit_topic(s, "a", 2);
    kit_append(&k, s, t.uid, 0, 3, 1000, 0);
    kit_append(&k, s, t.uid, 3, 2, 1001, 0);
    kit_append(&k, s, t.uid + 1, 0, 1, 1002, 0);
    assert_int_equal(kit_offsets(s, t.uid).end, 0);
    uint32_t seen = store_sequence(s);
    kit_commit(&k, s);
    assert_int_not_equal(store_sequence(s), seen);
    assert_int_equal(kit_offsets(s, t.uid).end, 5);
    assert_int_equal(kit_offsets(s, t.uid + 1).end, 1);
    kit_read_all(&k, s, t.uid, 0, 5, 1 << 20);
    kit_read_all(&k, s, t.uid + 1, 0, 1, 1 << 20);
    store_close(s);
    kit_fini(&k);
}

static void test_rollback_leaves_no_trace(void **state)
{
    struct kit k;
    kit_init(&k);
    struct store *s = kit_open(&k, &k.writer);
    struct store_topic t = kit_topic(s, "a", 1);
    kit_append(&k, s, t.uid, 0, 3, 1000, 0);
    assert_true(store_pending_bytes(s) > 0);
    store_rollback(s);
    assert_int_equal(store_pending_bytes(s), 0);
    kit_commit(&k, s);
    assert_int_equal(kit_offsets(s, t.uid).end, 0);
    kit_append(&k, s, t.uid, 0, 2, 1000, 0);
    kit_commit(&k, s);
    kit_read_all(&k, s, t.uid, 0, 2, 1 << 20);
    store_close(s);
    kit_fini(&k);
}

static void test_reads_cross_segments_and_reopening(void **state)
{
    struct kit k;
    kit_init(&k);
    k.writer.segment_bytes = 64 << 10;
    int64_t end[3] = {0};
    struct store_topic t = {0};
    for (int life = 0; life < 4; life++) {
        struct store *s = kit_open(&k, &k.writer);
        if (life == 0) {
            t = kit_topic(s, "a", 3);
        }
        for (int i = 0; i < 200; i++) {
            for (int32_t p = 0; p < 3; p++) {
                if (p < 2 || i % 50 == 7) { /* a slow partition skips segments */
                    end[p] = kit_append(&k, s, store_topic_uid(&t, p), end[p], 1 + i % 4, 1000 + i,
                                        400);
                }
            }
            kit_commit(&k, s);
        }
        for (int32_t p = 0; p < 3; p++) {
            assert_int_equal(kit_offsets(s, store_topic_uid(&t, p)).end, end[p]);
            kit_read_all(&k, s, store_topic_uid(&t, p), 0, end[p], 1 << 20);
            kit_read_all(&k, s, store_topic_uid(&t, p), 0, end[p], 1);
        }
        struct store_stats st;
        store_get_stats(s, &st);
        assert_true(st.segments > (uint64_t)life * 2 + 2);
        assert_int_equal(st.recovered_loss, 0);
        assert_int_equal(kit_offsets(s, t.uid).leader_epoch, 0);
        store_close(s);
    }
    kit_fini(&k);
}

static void test_read_begins_inside_a_batch_and_stops_at_limits(void **state)
{
    struct kit k;
    kit_init(&k);
    struct store *s = kit_open(&k, &k.writer);
    struct store_topic t = kit_topic(s, "a", 1);
    for (int i = 0; i < 10; i++) {
        kit_append(&k, s, t.uid, i * 5, 5, 1000, 100);
    }
    kit_commit(&k, s);
    struct store_slices *x;
    KIT_OK(store_read(s, t.uid, 7, 1 << 20, false, &x, &k.m));
    assert_int_equal(x->count, 9);
    assert_int_equal(x->next, 50);
    size_t one = x->iov[0].iov_len;
    store_slices_free(x);
    KIT_OK(store_read(s, t.uid, 7, 2 * one, false, &x, &k.m));
    assert_int_equal(x->count, 2);
    store_slices_free(x);
    KIT_OK(store_read(s, t.uid, 7, one - 1, false, &x, &k.m));
    assert_int_equal(x->count, 0);
    assert_int_equal(x->next, 7);
    store_slices_free(x);
    KIT_OK(store_read(s, t.uid, 7, one - 1, true, &x, &k.m));
    assert_int_equal(x->count, 1);
    store_slices_free(x);
    KIT_OK(store_read(s, t.uid, 50, 1 << 20, true, &x, &k.m));
    assert_int_equal(x->count, 0);
    store_slices_free(x);
    assert_int_equal(store_read(s, t.uid, 51, 1 << 20, true, &x, &k.m), ERR_RANGE);
    assert_int_equal(store_read(s, t.uid, -1, 1 << 20, true, &x, &k.m), ERR_RANGE);
    assert_int_equal(store_read(s, t.uid + 1, 0, 1 << 20, true, &x, &k.m), ERR_NOT_FOUND);
    store_close(s);
    kit_fini(&k);
}

static void test_slices_outlive_the_store(void **state)
{
    struct kit k;
    kit_init(&k);
    struct store *s = kit_open(&k, &k.writer);
    struct store_topic t = kit_topic(s, "a", 1);
    kit_append(&k, s, t.uid, 0, 5, 1000, 100);
    kit_commit(&k, s);
    struct store_slices *x;
    KIT_OK(store_read(s, t.uid, 0, 1 << 20, false, &x, &k.m));
    store_close(s);
    kit_check_batch(t.uid, 0, slice_make(x->iov[0].iov_base, x->iov[0].iov_len));
    store_slices_free(x);
    kit_fini(&k);
}

static void test_tail_gives_the_newest_batches(void **state)
{
    struct kit k;
    kit_init(&k);
    struct store *s = kit_open(&k, &k.writer);
    struct store_topic t = kit_topic(s, "a", 2);
    int64_t end = 0, next;
    struct buf b;
    buf_init(&b, 64 << 20);
    for (int i = 0; i < 100; i++) {
        end = kit_append(&k, s, t.uid, end, 2, 1000, 100);
        kit_append(&k, s, t.uid + 1, i, 1, 1000, 0);
        kit_commit(&k, s);
    }
    assert_int_equal(store_read_tail(s, t.uid, 100, 1 << 20, true, &b, &next), OK);
    assert_int_equal(next, end);
    int64_t at = 100;
    for (size_t pos = 0; pos < b.len;) {
        struct batch_header h;
        assert_int_equal(batch_read_header(slice_make(b.data + pos, b.len - pos), &h), OK);
        at = kit_check_batch(t.uid, at, slice_make(b.data + pos, batch_total_bytes(&h)));
        pos += batch_total_bytes(&h);
    }
    assert_int_equal(at, end);
    buf_reset(&b);
    assert_int_equal(store_read_tail(s, t.uid, end, 1 << 20, true, &b, &next), OK);
    assert_int_equal(next, end);
    assert_int_equal(b.len, 0);
    assert_int_equal(store_read_tail(s, t.uid, end + 1, 1 << 20, true, &b, &next), ERR_RANGE);
    /* Overrun: the ring holds one megabyte. */
    for (int i = 0; i < 40; i++) {
        end = kit_append(&k, s, t.uid, end, 1, 1000, 60000);
        kit_commit(&k, s);
    }
    assert_int_equal(store_read_tail(s, t.uid, 100, 1 << 20, true, &b, &next), ERR_NOT_FOUND);
    assert_int_equal(store_read_tail(s, t.uid, end - 1, 1, true, &b, &next), OK);
    assert_int_equal(next, end);
    buf_fini(&b);
    store_close(s);
    kit_fini(&k);
}

struct rows {
    int count;
    char text[256];
};

static bool collect_row(void *arg, struct slice key, struct slice value)
{
    struct rows *r = arg;
    size_t at = strlen(r->text);
    snprintf(r->text + at, sizeof r->text - at, "%.*s=%.*s;", (int)key.len, (const char *)key.data,
             (int)value.len, (const char *)value.data);
    r->count++;
    return true;
}

static void test_owner_rows_are_in_the_same_commit(void **state)
{
    struct kit k;
    kit_init(&k);
    struct store *s = kit_open(&k, &k.writer);
    struct store_topic t = kit_topic(s, "a", 1);
    KIT_OK(store_put(s, slice_str("x/2"), slice_str("two")));
    KIT_OK(store_put(s, slice_str("x/1"), slice_str("one")));
    KIT_OK(store_put(s, slice_str("y/1"), slice_str("why")));
    kit_append(&k, s, t.uid, 0, 1, 1000, 0);
    struct rows r = {0};
    KIT_OK(store_rows(s, slice_str("x/"), collect_row, &r, &k.m));
    assert_int_equal(r.count, 0);
    kit_commit(&k, s);
    KIT_OK(store_rows(s, slice_str("x/"), collect_row, &r, &k.m));
    assert_string_equal(r.text, "x/1=one;x/2=two;");
    KIT_OK(store_delete(s, slice_str("x/1")));
    kit_commit(&k, s);
    store_close(s);
    s = kit_open(&k, &k.writer);
    r = (struct rows){0};
    KIT_OK(store_rows(s, slice_str(""), collect_row, &r, &k.m));
    assert_string_equal(r.text, "x/2=two;y/1=why;");
    assert_int_equal(store_put(s, slice_str(""), slice_str("v")), ERR_INVALID);
    store_close(s);
    kit_fini(&k);
}

static void test_topics_come_change_and_go(void **state)
{
    struct kit k;
    kit_init(&k);
    struct store *s = kit_open(&k, &k.writer);
    struct store_topic a = kit_topic(s, "a", 4), b = kit_topic(s, "b", 2);
    assert_int_equal(b.uid, a.uid + 4);
    struct store_topic bad = a;
    assert_int_equal(store_topic_create(s, &bad, &k.m), ERR_EXISTS);
    snprintf(bad.name, sizeof bad.name, "no spaces");
    assert_int_equal(store_topic_create(s, &bad, &k.m), ERR_INVALID);
    snprintf(bad.name, sizeof bad.name, "c");
    bad.partition_count = STORE_PARTITIONS_MAX + 1;
    assert_int_equal(store_topic_create(s, &bad, &k.m), ERR_INVALID);

    const struct store_catalog *before = store_catalog_ref(s);
    b.retention_ms = 5000;
    b.attributes = (char[]){"{\"x\":1}"};
    KIT_OK(store_topic_alter(s, &b, &k.m));
    KIT_OK(store_topic_delete(s, slice_str("a"), &k.m));
    assert_int_equal(store_topic_delete(s, slice_str("a"), &k.m), ERR_NOT_FOUND);
    const struct store_catalog *after = store_catalog_ref(s);
    assert_true(after->version > before->version);
    assert_non_null(store_catalog_find(before, slice_str("a")));
    assert_null(store_catalog_find(after, slice_str("a")));
    store_catalog_unref(s, before);
    store_catalog_unref(s, after);
    struct store_offsets o;
    assert_int_equal(store_offsets(s, a.uid, &o), ERR_NOT_FOUND);
    int64_t base;
    struct slice x = kit_batch(&k, a.uid, 0, 1, 1, NULL, 0);
    assert_int_equal(store_append(s, a.uid, (uint8_t *)(uintptr_t)x.data, x.len, &base),
                     ERR_NOT_FOUND);
    store_close(s);

    s = kit_open(&k, &k.writer);
    const struct store_catalog *c = store_catalog_ref(s);
    assert_int_equal(c->count, 1);
    const struct store_topic *t = store_catalog_find(c, slice_str("b"));
    assert_non_null(t);
    assert_memory_equal(&t->id, &b.id, sizeof b.id);
    assert_string_equal(t->name, "b");
    assert_string_equal(t->attributes, "{\"x\":1}");
    assert_int_equal(t->retention_ms, 5000);
    assert_int_equal(t->partition_count, 2);
    store_catalog_unref(s, c);
    struct store_topic again = kit_topic(s, "a", 1);
    assert_int_equal(again.uid, b.uid + 2); /* a uid is never used twice */
    store_close(s);
    kit_fini(&k);
}

static void test_damaged_batches_are_refused(void **state)
{
    struct kit k;
    kit_init(&k);
    struct store *s = kit_open(&k, &k.writer);
    struct store_topic t = kit_topic(s, "a", 1);
    int64_t base;
    struct slice b = kit_batch(&k, t.uid, 0, 1, 1, NULL, 10);
    uint8_t *bytes = (uint8_t *)(uintptr_t)b.data;
    assert_int_equal(store_append(s, t.uid, bytes, b.len - 1, &base), ERR_CORRUPT);
    assert_int_equal(store_append(s, t.uid, bytes, 10, &base), ERR_CORRUPT);
    assert_int_equal(store_pending_bytes(s), 0);
    store_close(s);
    kit_fini(&k);
}

static void test_second_writer_is_told_who_holds_the_store(void **state)
{
    struct kit k;
    kit_init(&k);
    struct store *s = kit_open(&k, &k.writer), *second;
    char pid[32];
    snprintf(pid, sizeof pid, "%ld", (long)getpid());
    assert_int_equal(store_open(&second, &k.writer, &k.m), ERR_LOCKED);
    assert_non_null(strstr(k.m.text, pid));
    assert_non_null(strstr(k.m.text, k.dir));
    store_close(s);
    kit_fini(&k);
}

static void test_newer_and_foreign_stores_are_refused(void **state)
{
    struct kit k;
    kit_init(&k);
    char path[400];
    store_close(kit_open(&k, &k.writer));
    snprintf(path, sizeof path, "%s/FORMAT", k.dir);
    write_file(path, "culex store 3\n00112233445566778899aabbccddeeff\n");
    struct store *s;
    assert_int_equal(store_open(&s, &k.writer, &k.m), ERR_VERSION);
    assert_non_null(strstr(k.m.text, "newer"));
    write_file(path, "culex store 2\n00112233445566778899aabbccddeeff\n");
    assert_int_equal(store_open(&s, &k.writer, &k.m), ERR_VERSION); /* another store's */
    write_file(path, "something else\n");
    assert_int_equal(store_open(&s, &k.writer, &k.m), ERR_VERSION);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(store_open(&s, &k.writer, &k.m), ERR_VERSION);
    assert_non_null(strstr(k.m.text, "not a culex store"));
    kit_remove(k.dir);
    assert_int_equal(mkdir(k.dir, 0750), 0);
    snprintf(path, sizeof path, "%s/notes.txt", k.dir);
    write_file(path, "my notes");
    assert_int_equal(store_open(&s, &k.writer, &k.m), ERR_VERSION);
    assert_non_null(strstr(k.m.text, "notes.txt"));
    kit_fini(&k);
}

static void test_wait_ends_with_commit_and_wake(void **state)
{
    struct kit k;
    kit_init(&k);
    struct store *s = kit_open(&k, &k.writer);
    struct store_topic t = kit_topic(s, "a", 1);
    uint32_t seen = store_sequence(s);
    kit_append(&k, s, t.uid, 0, 1, 1, 0);
    kit_commit(&k, s);
    store_wait(s, seen, 60000); /* passed already: at once */
    seen = store_sequence(s);
    store_wake(s);
    store_wait(s, seen, 60000);
    store_wait(s, store_sequence(s), 10); /* times out */
    store_close(s);
    kit_fini(&k);
}

/* A child commits and is killed without a chance to close; what it committed is there. */
static void test_killed_writer_loses_nothing(void **state)
{
    struct kit k;
    kit_init(&k);
    k.writer.segment_bytes = 256 << 10;
    struct store_topic t = {0};
    int64_t end = 0;
    for (int life = 0; life < 3; life++) {
        int fds[2];
        assert_int_equal(pipe(fds), 0);
        pid_t pid = fork();
        if (pid == 0) {
            struct store *s = kit_open(&k, &k.writer);
            uint32_t uid = life == 0 ? kit_topic(s, "a", 1).uid : 0;
            for (int i = 0; i < 300; i++) {
                end = kit_append(&k, s, uid, end, 3, 1000, 500);
                kit_commit(&k, s);
            }
            _exit(write(fds[1], &end, sizeof end) == sizeof end ? 0 : 1);
        }
        close(fds[1]);
        assert_int_equal(read(fds[0], &end, sizeof end), sizeof end);
        close(fds[0]);
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
    }
    struct store *s = kit_open(&k, &k.writer);
    assert_int_equal(kit_offsets(s, t.uid).end, end);
    assert_int_equal(kit_offsets(s, t.uid).leader_epoch, 0);
    kit_read_all(&k, s, t.uid, 0, end, 1 << 20);
    store_close(s);
    kit_fini(&k);
}

/* Whoever restores a backup forgets to stop the writer: its closing must not delete by name what it
 * finds. */
static void test_directory_that_was_replaced_is_left_alone(void **state)
{
    struct kit k;
    char old[sizeof k.dir + 16], restored[sizeof k.dir + 16];
    kit_init(&k);
    snprintf(old, sizeof old, "%s.old", k.dir);
    snprintf(restored, sizeof restored, "%s.restored", k.dir);
    struct store *s = kit_open(&k, &k.writer);
    struct store_topic t = kit_topic(s, "a", 1);
    int64_t end = kit_append(&k, s, t.uid, 0, 5, 1000, 1000);
    kit_commit(&k, s);
    store_close(s);
    store_close(kit_open(&k, &k.writer)); /* now it is in a table */
    assert_int_equal(rename(k.dir, restored), 0);
    for (int ticked = 0; ticked < 2; ticked++) {
        s = kit_open(&k, &k.writer);
        assert_int_equal(kit_topic(s, "b", 1).uid, t.uid);
        (void)kit_append(&k, s, t.uid, 0, 1, 1000, 10);
        kit_commit(&k, s);
        KIT_OK(store_tick(s, 1000, &k.m));
        assert_int_equal(rename(k.dir, old), 0);
        assert_int_equal(rename(restored, k.dir), 0);
        if (ticked) {
            assert_int_equal(store_tick(s, 1000, &k.m), ERR_IO);
            assert_non_null(strstr(k.m.text, "replaced"));
            assert_int_equal(store_state(s), STORE_BROKEN);
        }
        store_close(s);
        s = kit_open(&k, &k.writer);
        assert_int_equal(kit_offsets(s, t.uid).end, end);
        kit_read_all(&k, s, t.uid, 0, end, 1 << 20);
        store_close(s);
        assert_int_equal(rename(k.dir, restored), 0);
        assert_int_equal(rename(old, k.dir), 0);
        s = kit_open(&k, &k.writer);
        assert_int_equal(kit_offsets(s, t.uid).end, 1);
        store_close(s);
        kit_remove(k.dir);
    }
    kit_fini(&k);
}

static void test_directory_that_was_removed_ends_a_store(void **state)
{
    struct kit k;
    kit_init(&k);
    for (int ticked = 0; ticked < 2; ticked++) {
        struct store *s = kit_open(&k, &k.writer);
        struct store_topic t = kit_topic(s, "a", 1);
        (void)kit_append(&k, s, t.uid, 0, 5, 1000, 1000);
        kit_commit(&k, s);
        kit_remove(k.dir);
        if (ticked) {
            assert_int_equal(store_tick(s, 1000, &k.m), ERR_IO);
        }
        store_close(s);
        assert_int_equal(access(k.dir, F_OK), -1); /* nor is a part of it made again */
    }
    kit_fini(&k);
}

static uint64_t segments_of(struct store *s)
{
    struct store_stats st;
    store_get_stats(s, &st);
    return st.segments;
}

/* By the next commit, whatever that one writes. */
static void test_segment_bytes_of_a_topic_close_the_segment(void **state)
{
    struct kit k;
    kit_init(&k);
    k.writer.segment_bytes = 16 << 20;
    struct store *s = kit_open(&k, &k.writer);
    struct store_topic t = kit_topic(s, "small", 2), u = kit_topic(s, "other", 1);
    t.segment_bytes = 4096;
    KIT_OK(store_topic_alter(s, &t, &k.m));
    uint64_t before = segments_of(s);
    int64_t end[2] = {0, 0}, other = 0;
    for (uint32_t p = 0; p < 2; p++) { /* 3 KB in each: no partition is full */
        end[p] = kit_append(&k, s, store_topic_uid(&t, (int32_t)p), 0, 3, 1000, 1000);
        other = kit_append(&k, s, u.uid, other, 3, 1000, 4000);
        kit_commit(&k, s);
    }
    assert_int_equal(segments_of(s), before);
    end[1] = kit_append(&k, s, store_topic_uid(&t, 1), end[1], 2, 1000, 1000);
    kit_commit(&k, s);
    other = kit_append(&k, s, u.uid, other, 1, 1000, 10);
    kit_commit(&k, s);
    assert_int_equal(segments_of(s), before + 1);
    for (int i = 0; i < 20; i++) { /* the new one is as long as any, until small is full again */
        other = kit_append(&k, s, u.uid, other, 1, 1000, 4000);
        kit_commit(&k, s);
    }
    assert_int_equal(segments_of(s), before + 1);
    kit_read_all(&k, s, store_topic_uid(&t, 1), 0, end[1], 1 << 20);
    kit_read_all(&k, s, u.uid, 0, other, 1 << 20);
    store_close(s);
    kit_fini(&k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_commit_makes_records_readable),
        cmocka_unit_test(test_rollback_leaves_no_trace),
        cmocka_unit_test(test_reads_cross_segments_and_reopening),
        cmocka_unit_test(test_segment_bytes_of_a_topic_close_the_segment),
        cmocka_unit_test(test_read_begins_inside_a_batch_and_stops_at_limits),
        cmocka_unit_test(test_slices_outlive_the_store),
        cmocka_unit_test(test_tail_gives_the_newest_batches),
        cmocka_unit_test(test_owner_rows_are_in_the_same_commit),
        cmocka_unit_test(test_topics_come_change_and_go),
        cmocka_unit_test(test_damaged_batches_are_refused),
        cmocka_unit_test(test_second_writer_is_told_who_holds_the_store),
        cmocka_unit_test(test_newer_and_foreign_stores_are_refused),
        cmocka_unit_test(test_wait_ends_with_commit_and_wake),
        cmocka_unit_test(test_killed_writer_loses_nothing),
        cmocka_unit_test(test_directory_that_was_replaced_is_left_alone),
        cmocka_unit_test(test_directory_that_was_removed_ends_a_store),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
