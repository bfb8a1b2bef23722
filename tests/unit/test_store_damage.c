/* A write-ahead log that is damaged: the store opens with what is whole, says what is missing, and
 * goes on. */
#include "tests/unit/store_kit.h"

#include <dirent.h>
#include <dlfcn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#define COMMITS 200

/* A child makes a store with COMMITS records of about 1 KB, waits until they are durable, and goes
 * without closing. path: its newest WAL file. */
static void leave_store(struct kit *k, char *path, size_t cap)
{
    pid_t pid = fork();
    if (pid == 0) {
        struct store *s = kit_open(k, &k->writer);
        struct store_topic t = kit_topic(s, "a", 1);
        for (int i = 0; i < COMMITS; i++) {
            kit_append(k, s, t.uid, i, 1, 1000, 1000);
            kit_commit(k, s);
        }
        while (kit_offsets(s, t.uid).durable < COMMITS) {
            struct timespec ms = {.tv_nsec = 1000000};
            nanosleep(&ms, NULL);
        }
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    char dir[400], newest[256] = "";
    snprintf(dir, sizeof dir, "%s/wal", k->dir);
    DIR *d = opendir(dir);
    assert_non_null(d);
    for (struct dirent *f = readdir(d); f; f = readdir(d)) {
        if (strstr(f->d_name, ".log") && strcmp(f->d_name, newest) > 0) {
            snprintf(newest, sizeof newest, "%s", f->d_name);
        }
    }
    closedir(d);
    snprintf(path, cap, "%s/%s", dir, newest);
}

static void test_garbage_behind_the_log_costs_nothing(void **state)
{
    static const int fills[] = {0, 0xa5};
    for (int i = 0; i < 2; i++) {
        struct kit k;
        char path[700], block[100000];
        kit_init(&k);
        leave_store(&k, path, sizeof path);
        FILE *f = fopen(path, "a");
        assert_non_null(f);
        memset(block, fills[i], sizeof block);
        assert_int_equal(fwrite(block, sizeof block, 1, f), 1);
        fclose(f);
        struct store *s = kit_open(&k, &k.writer);
        assert_int_equal(kit_offsets(s, 0).end, COMMITS);
        struct store_stats st;
        store_get_stats(s, &st);
        assert_int_equal(st.recovered_loss, 0);
        assert_int_equal(kit_offsets(s, 0).leader_epoch, 0);
        kit_read_all(&k, s, 0, 0, COMMITS, 1 << 20);
        store_close(s);
        kit_fini(&k);
    }
}

static void test_torn_last_write_is_not_there(void **state)
{
    struct kit k;
    char path[700];
    struct stat st;
    kit_init(&k);
    leave_store(&k, path, sizeof path);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(truncate(path, st.st_size - 300), 0);
    struct store *s = kit_open(&k, &k.writer);
    assert_int_equal(kit_offsets(s, 0).end, COMMITS - 1);
    kit_read_all(&k, s, 0, 0, COMMITS - 1, 1 << 20);
    store_close(s);
    kit_fini(&k);
}

static void spoil_middle(const char *path)
{
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    FILE *f = fopen(path, "r+");
    assert_non_null(f);
    assert_int_equal(fseek(f, st.st_size / 2, SEEK_SET), 0);
    for (int i = 0; i < 64; i++) {
        assert_int_not_equal(fputc(0x5a, f), EOF);
    }
    fclose(f);
}

/* What is lost below the durable end is counted; an epoch tells clients where the log now ends. */
static void test_lost_records_are_counted_and_fenced(void **state)
{
    struct kit k;
    char path[700];
    kit_init(&k);
    leave_store(&k, path, sizeof path);
    spoil_middle(path);
    struct store *s = kit_open(&k, &k.writer);
    struct store_offsets o = kit_offsets(s, 0);
    assert_in_range(o.end, 1, COMMITS - 1);
    assert_int_equal(o.leader_epoch, 1);
    struct store_stats st;
    store_get_stats(s, &st);
    assert_int_equal(st.recovered_loss, COMMITS - o.end);
    kit_read_all(&k, s, 0, 0, o.end, 1 << 20);
    int32_t found;
    int64_t end;
    KIT_OK(store_epoch_end(s, 0, 0, &found, &end));
    assert_int_equal(end, o.end);
    kit_append(&k, s, 0, o.end, 2, 1000, 1000);
    kit_commit(&k, s);
    struct store *f = kit_open(&k, &k.follower);
    kit_read_all(&k, f, 0, 0, o.end + 2, 1 << 20);
    KIT_OK(store_epoch_end(f, 0, 0, &found, &end));
    assert_int_equal(end, o.end);
    store_close(f);
    store_close(s);
    s = kit_open(&k, &k.writer);
    assert_int_equal(kit_offsets(s, 0).leader_epoch, 1);
    assert_int_equal(kit_offsets(s, 0).end, o.end + 2);
    store_get_stats(s, &st);
    assert_int_equal(st.recovered_loss, 0);
    store_close(s);
    kit_fini(&k);
}

/* A follower cannot open beside a damaged log, or not read it all; once a writer has recovered it
 * can. */
static void test_follower_of_a_damaged_log_waits_for_the_writer(void **state)
{
    struct kit k;
    char path[700];
    kit_init(&k);
    leave_store(&k, path, sizeof path);
    spoil_middle(path);
    struct store *f = NULL;
    struct store_slices *x;
    enum err e = store_open(&f, &k.follower, &k.m);
    if (e == OK) { /* then it must not invent what it cannot see */
        e = store_read(f, 0, COMMITS - 1, 1 << 20, true, &x, &k.m);
    }
    assert_int_not_equal(e, OK);
    struct store *s = kit_open(&k, &k.writer);
    int64_t end = kit_offsets(s, 0).end;
    if (!f) {
        f = kit_open(&k, &k.follower);
    }
    assert_int_equal(kit_offsets(f, 0).end, end);
    kit_read_all(&k, f, 0, 0, end, 1 << 20);
    store_close(f);
    store_close(s);
    kit_fini(&k);
}

/* The store puts its checksum in the place of the library's. A log that was written with one is
 * read with the other. */
static void test_the_checksum_of_the_log_is_the_librarys(void **state)
{
    const char *name = "_ZN7rocksdb6crc32c6ExtendEjPKcm";
    typedef uint32_t extend(uint32_t, const char *, size_t);
    extend *ours, *theirs;
    *(void **)&ours = dlsym(RTLD_DEFAULT, name);
    *(void **)&theirs = dlsym(RTLD_NEXT, name);
    assert_non_null(ours);
    assert_non_null(theirs);
    assert_ptr_not_equal(ours, theirs);
    char data[5000];
    for (size_t i = 0; i < sizeof data; i++) {
        data[i] = (char)(i * 2654435761u >> 13);
    }
    uint32_t crc = 0;
    for (size_t len = 0, at = 0; at + len < sizeof data; at = (at + 7) % 64, len++) {
        assert_int_equal(ours(crc, data + at, len), theirs(crc, data + at, len));
        crc = ours(crc, data + at, len);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_checksum_of_the_log_is_the_librarys),
        cmocka_unit_test(test_garbage_behind_the_log_costs_nothing),
        cmocka_unit_test(test_torn_last_write_is_not_there),
        cmocka_unit_test(test_lost_records_are_counted_and_fenced),
        cmocka_unit_test(test_follower_of_a_damaged_log_waits_for_the_writer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
