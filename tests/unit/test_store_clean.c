/* Compaction that meets something odd: files that cannot be written or read, a map that is full, a
 * job that ends midway. No key may lose its newest value, nor get an older one back. */
#include "tests/unit/store_kit.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>

#include "shared/base/clock.h"
#include "shared/record/control.h"
#include "shared/store/store_int.h"

#define WAIT_MS 60000

/* --- a disk that fails ------------------------------------------------------------------------ */

static _Atomic int syncs_pass; /* so many of files of the log go well */
static _Atomic int syncs_fail; /* then so many fail */
static _Atomic bool gate_shut, gate_waits; /* they wait while it is shut … */
static _Atomic int gate_passes;            /* … but for so many */
static char watched[700];                  /* a file: is it there while one is synced? */
static _Atomic bool watched_there;

#pragma GCC visibility push(default)

int fdatasync(int fd)
{
    static int (*real)(int);
    char link[64], path[400] = {0};
    if (!real) {
        *(void **)&real = dlsym(RTLD_NEXT, "fdatasync");
    }
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (readlink(link, path, sizeof path - 1) < 0 || !strstr(path, ".sst")) {
        return real(fd);
    }
    atomic_store(&watched_there, access(watched, F_OK) == 0);
    bool passes = atomic_load(&gate_passes) > 0 && atomic_fetch_sub(&gate_passes, 1) > 0;
    while (atomic_load(&gate_shut) && !passes) {
        atomic_store(&gate_waits, true);
        sched_yield();
    }
    if (atomic_load(&syncs_pass) > 0) {
        atomic_fetch_sub(&syncs_pass, 1);
        return real(fd);
    }
    if (atomic_load(&syncs_fail) > 0) {
        atomic_fetch_sub(&syncs_fail, 1);
        errno = ENOSPC;
        return -1;
    }
    return real(fd);
}

static void (*_Atomic when_it_waits)(void); /* once, instead of the first pause */

int nanosleep(const struct timespec *time, struct timespec *left)
{
    void (*what)(void) = atomic_exchange(&when_it_waits, NULL);
    if (what) {
        what();
        return 0;
    }
    return clock_nanosleep(CLOCK_MONOTONIC, 0, time, left) == 0 ? 0 : -1;
}

static _Atomic int descriptions;

rocksdb_column_family_metadata_t *rocksdb_get_column_family_metadata_cf(
    rocksdb_t *db, rocksdb_column_family_handle_t *cf)
{
    static rocksdb_column_family_metadata_t *(*real)(rocksdb_t *, rocksdb_column_family_handle_t *);
    if (!real) {
        *(void **)&real = dlsym(RTLD_NEXT, "rocksdb_get_column_family_metadata_cf");
    }
    atomic_fetch_add(&descriptions, 1);
    return real(db, cf);
}

#pragma GCC visibility pop

/* --- help ------------------------------------------------------------------------------------- */

static struct store_topic compacted(struct kit *k, struct store *s, const char *name,
                                    int64_t delete_retention_ms)
{
    struct store_topic t = kit_topic(s, name, 1);
    t.cleanup = STORE_CLEANUP_COMPACT;
    t.compaction = (struct store_compaction){true, 0.1, 0, INT64_MAX, delete_retention_ms};
    KIT_OK(store_topic_alter(s, &t, &k->m));
    return t;
}

/* One batch, committed: the keys first … first + count - 1. bytes: of each value; -1: null. */
static int64_t put(struct kit *k, struct store *s, uint32_t uid, int first, int count, int bytes)
{
    static char value[1 << 20];
    char key[32];
    int64_t base = -1;
    batch_builder_reset(&k->builder);
    for (int i = 0; i < count; i++) {
        snprintf(key, sizeof key, "key-%d", first + i);
        struct record r = {.timestamp = 1000, .key = slice_str(key)};
        r.value = bytes < 0 ? slice_make(NULL, 0) : slice_make(value, (size_t)bytes);
        assert_int_equal(batch_add(&k->builder, &r), OK);
    }
    struct slice b = batch_finish(&k->builder);
    assert_int_equal(store_append(s, uid, (uint8_t *)(uintptr_t)b.data, b.len, &base), OK);
    kit_commit(k, s);
    return base;
}

/* Records of a key: how many, and the offset of the last. */
struct found {
    const char *key;
    int count;
    int64_t last;
    bool value; /* the last one has one */
};

static bool find_record(void *arg, const struct record *r)
{
    struct found *f = arg;
    if (r->key.len == strlen(f->key) && memcmp(r->key.data, f->key, r->key.len) == 0) {
        f->count++;
        f->last = r->offset;
        f->value = r->value.data != NULL;
    }
    return true;
}

static struct found find_key(struct kit *k, struct store *s, uint32_t uid, int key)
{
    char text[32];
    struct found f = {.key = text, .last = -1};
    struct store_offsets o = kit_offsets(s, uid);
    snprintf(text, sizeof text, "key-%d", key);
    for (int64_t at = o.log_start; at < o.end;) {
        struct store_slices *x;
        KIT_OK(store_read(s, uid, at, 1 << 20, true, &x, &k->m));
        assert_true(x->count > 0);
        for (size_t i = 0; i < x->count; i++) {
            struct slice b = slice_make(x->iov[i].iov_base, x->iov[i].iov_len);
            KIT_OK(batch_check(b, &k->m));
            KIT_OK(batch_walk(b, 64u << 20, find_record, &f, &k->m));
        }
        at = x->next;
        store_slices_free(x);
    }
    f.key = NULL;
    return f;
}

static void tick(struct kit *k, struct store *s, int64_t now_ms)
{
    s->dirty_look_ms = 0;
    KIT_OK(store_tick(s, now_ms, &k->m));
    sched_yield();
}

/* Closes the segment and cleans, as of now_ms, until that is done. */
static void clean(struct kit *k, struct store *s, uint32_t uid, int64_t now_ms)
{
    KIT_OK(segment_switch(s, now_ms, &k->m));
    int64_t give_up = clock_mono_ms() + WAIT_MS;
    while (part_get(s, uid)->clean.to < part_get(s, uid)->now.end || !cleaner_idle(s)) {
        tick(k, s, now_ms);
        assert_true(clock_mono_ms() < give_up);
    }
}

static bool has_files(struct store *s, int cf, const char *property)
{
    char *text = rocksdb_property_value_cf(s->rocks->db, s->rocks->cf[cf], property);
    bool has = text && strcmp(text, "0") != 0;
    rocksdb_free(text);
    return has;
}

/* Closes the segment, and returns when its memtable is a file. */
static void settle(struct kit *k, struct store *s, int64_t now_ms)
{
    KIT_OK(segment_switch(s, now_ms, &k->m));
    int64_t give_up = clock_mono_ms() + WAIT_MS;
    for (int cf = 0; cf < CF_COUNT; cf++) {
        while (has_files(s, cf, "rocksdb.num-immutable-mem-table") ||
               has_files(s, cf, "rocksdb.num-running-flushes")) {
            assert_true(clock_mono_ms() < give_up);
            sched_yield();
        }
    }
}

/* Rows of segments say what lies in them, and so does memory. */
static void check_sizes(struct store *s)
{
    uint64_t closed = 0;
    struct rocks *r = s->rocks;
    for (size_t i = 0; i < s->segment_count; i++) {
        const struct segment *g = &s->segments[i];
        struct segment_entry *entries;
        size_t count;
        uint64_t said = 0, there = 0;
        uint8_t key[LOG_KEY_BYTES];
        rocksdb_iterator_t *it = rocksdb_create_iterator_cf(r->db, r->read_cached, r->cf[CF_META]);
        assert_int_equal(segment_load(it, g->number, &entries, &count), OK);
        rocksdb_iter_destroy(it);
        for (size_t n = 0; n < count; n++) {
            said += entries[n].bytes;
        }
        free(entries);
        it = rocksdb_create_iterator_cf(r->db, r->read_cached, r->cf[CF_LOG]);
        log_key_put(key, g->from, 0, 0);
        for (iter_seek(it, key, sizeof key);
             rocksdb_iter_valid(it) && be32_get(iter_key(it).data) <= g->number;
             rocksdb_iter_next(it)) {
            there += iter_value(it).len;
        }
        rocksdb_iter_destroy(it);
        assert_int_equal(said, there);
        assert_int_equal(g->bytes, there);
        closed += there;
    }
    assert_int_equal(s->closed_bytes, closed);
}

/* A job on this thread, of which nothing becomes a row: as when a kill comes at its end. */
static void clean_and_forget(struct kit *k, struct store *s, int64_t now_ms)
{
    struct rocks *r = s->rocks;
    struct compaction *c = NULL;
    rocksdb_iterator_t *rows = rocksdb_create_iterator_cf(r->db, r->read_cached, r->cf[CF_META]);
    assert_true(cleaner_idle(s));
    assert_int_equal(dirty_find(s, rows, now_ms, &c), OK);
    rocksdb_iter_destroy(rows);
    assert_non_null(c);
    compaction_run(s, c);
    assert_int_equal(c->failed, OK);
    compaction_free(c);
    while (cleaner_take_changes(s)) {
        s->changes.applied = s->changes.count;
    }
}

/* --- tests ------------------------------------------------------------------------------------ */

/* A follower has replayed the log before it was compacted, and nothing is written after that. */
static void test_followers_see_what_is_left_without_another_record(void **state)
{
    struct kit k;
    kit_init(&k);
    struct store *s = kit_open(&k, &k.writer);
    struct store_topic t = compacted(&k, s, "a", 1000);
    put(&k, s, t.uid, 0, 10, 100);
    struct store *f = kit_open(&k, &k.follower);
    put(&k, s, t.uid, 0, 10, 100);
    assert_int_equal(find_key(&k, f, t.uid, 0).count, 2);
    clean(&k, s, t.uid, 1000000);
    assert_int_equal(find_key(&k, s, t.uid, 0).count, 1);
    int64_t give_up = clock_mono_ms() + WAIT_MS;
    while (find_key(&k, f, t.uid, 0).count != 1) {
        assert_true(clock_mono_ms() < give_up);
        sched_yield();
    }
    store_close(f);
    store_close(s);
    kit_fini(&k);
}

/* The filter has been asked for all of it when the new file turns out not to fit. */
static void test_rewrite_that_does_not_fit_is_done_again(void **state)
{
    struct kit k;
    kit_init(&k);
    struct store *s = kit_open(&k, &k.writer);
    struct store_topic t = compacted(&k, s, "a", 1000);
    put(&k, s, t.uid, 0, 10, 100);
    put(&k, s, t.uid, 0, 10, 100);
    settle(&k, s, 1000000);
    atomic_store(&syncs_fail, 1);
    clean(&k, s, t.uid, 1000000);
    assert_int_equal(atomic_load(&syncs_fail), 0);
    for (int i = 0; i < 10; i++) {
        struct found f = find_key(&k, s, t.uid, i);
        assert_int_equal(f.count, 1);
        assert_int_equal(f.last, 10 + i);
    }
    store_close(s);
    kit_fini(&k);
}

/* Batches in one file of a segment absorb those in another: both are rewritten, or neither. */
static void test_segment_in_two_files_is_rewritten_in_one_step(void **state)
{
    struct kit k;
    char *text = NULL;
    kit_init(&k);
    struct store *s = kit_open(&k, &k.writer);
    struct store_topic t = compacted(&k, s, "a", 1000);
    rocksdb_flushoptions_t *wait = rocksdb_flushoptions_create();
    put(&k, s, t.uid, 0, 1, 100);
    rocksdb_flush_cf(s->rocks->db, wait, s->rocks->cf[CF_LOG], &text);
    assert_null(text);
    rocksdb_flushoptions_destroy(wait);
    rocksdb_compact_range_cf(s->rocks->db, s->rocks->cf[CF_LOG], NULL, 0, NULL, 0);
    for (int i = 0; i < 10; i++) {
        put(&k, s, t.uid, 0, 1, 100);
    }
    settle(&k, s, 1000000);
    assert_true(has_files(s, CF_LOG, "rocksdb.num-files-at-level0"));
    assert_true(has_files(s, CF_LOG, "rocksdb.num-files-at-level1"));
    atomic_store(&syncs_pass, 1);
    atomic_store(&syncs_fail, 5);
    int64_t give_up = clock_mono_ms() + WAIT_MS;
    while (part_get(s, t.uid)->unclean_ms == 0 || !cleaner_idle(s)) {
        tick(&k, s, 1000000);
        assert_true(clock_mono_ms() < give_up);
    }
    assert_int_equal(atomic_load(&syncs_fail), 0);
    assert_int_equal(find_key(&k, s, t.uid, 0).count, 11);
    clean(&k, s, t.uid, 1000000 + part_get(s, t.uid)->unclean_ms);
    assert_int_equal(find_key(&k, s, t.uid, 0).count, 1);
    store_close(s);
    kit_fini(&k);
}

/* The tombstone of a key has no room in the map: it may not count as clean, or it would go before
 * the value that it deletes. */
static void test_tombstone_without_room_in_the_map_waits(void **state)
{
    struct kit k;
    kit_init(&k);
    k.writer.clean_map_bytes = 1; /* 768 keys */
    struct store *s = kit_open(&k, &k.writer);
    struct store_topic a = compacted(&k, s, "a", 1000), b = compacted(&k, s, "b", 1000);
    put(&k, s, b.uid, 19, 1, 100); /* the value */
    clean(&k, s, b.uid, 1000000);
    put(&k, s, a.uid, 100, 760, 10); /* the dirtier one: first in the map */
    put(&k, s, b.uid, 0, 20, -1);
    clean(&k, s, a.uid, 1001000);
    clean(&k, s, b.uid, 1001000);
    struct found f = find_key(&k, s, b.uid, 19);
    assert_int_equal(f.last, 20);
    assert_int_equal(f.count, 1); /* the tombstone */
    put(&k, s, b.uid, 50, 20, 100);
    clean(&k, s, b.uid, 1003000); /* its time has passed */
    assert_int_equal(find_key(&k, s, b.uid, 19).count, 0);
    store_close(s);
    kit_fini(&k);
}

/* What a job has done before a kill is not done again, but it is counted. */
static void test_sizes_are_right_after_a_job_that_was_forgotten(void **state)
{
    struct kit k;
    kit_init(&k);
    k.writer.segment_bytes = 64 << 10;
    struct store *s = kit_open(&k, &k.writer);
    struct store_topic a = compacted(&k, s, "a", 1000), b = compacted(&k, s, "b", 1000);
    uint32_t plain = kit_topic(s, "plain", 1).uid;
    for (int i = 0; i < 60; i++) {
        put(&k, s, b.uid, i % 8, 4, 1000);
        put(&k, s, a.uid, 0, 20, 100);
        put(&k, s, plain, i, 1, 500);
    }
    KIT_OK(segment_switch(s, 1000000, &k.m));
    assert_true(s->segment_count > 3);
    check_sizes(s);
    clean_and_forget(&k, s, 1000000);
    store_close(s);
    s = kit_open(&k, &k.writer);
    clean(&k, s, a.uid, 1000000);
    clean(&k, s, b.uid, 1000000);
    check_sizes(s);
    assert_true(s->closed_bytes < 60000);
    store_close(s);
    kit_fini(&k);
}

/* Small neighbours become one right after they were compacted, and a limit knows what is left. */
static void test_limit_goes_by_what_compaction_left(void **state)
{
    struct kit k;
    kit_init(&k);
    k.writer.segment_bytes = 256 << 10;
    k.writer.limit_bytes = 2 << 20;
    struct store *s = kit_open(&k, &k.writer);
    uint32_t plain = kit_topic(s, "plain", 1).uid;
    struct store_topic a = compacted(&k, s, "a", 1000);
    put(&k, s, plain, 0, 1, 100);
    for (int i = 0; i < 16; i++) {
        put(&k, s, a.uid, i, 1, 1000);
        put(&k, s, a.uid, 100, 10, 10000);
        KIT_OK(segment_switch(s, 1000000, &k.m));
    }
    assert_int_equal(s->segment_count, 16);
    clean(&k, s, a.uid, 1000000);
    check_sizes(s);
    int64_t give_up = clock_mono_ms() + WAIT_MS;
    while (s->segment_count > 9 || !cleaner_idle(s)) { /* eight of them become one */
        tick(&k, s, 1000000);
        assert_true(clock_mono_ms() < give_up);
    }
    check_sizes(s);
    KIT_OK(store_topic_delete(s, slice_str("a"), &k.m));
    for (int i = 0; i < 5 || !cleaner_idle(s); i++) {
        tick(&k, s, 1000000);
        assert_true(clock_mono_ms() < give_up);
    }
    assert_int_equal(kit_offsets(s, plain).log_start, 0);
    assert_true(s->closed_bytes < 110000); /* the newest segments are not rewritten */
    store_close(s);
    kit_fini(&k);
}

/* The largest delete.retention.ms there is. */
static void test_tombstones_may_stay_for_ever(void **state)
{
    struct kit k;
    kit_init(&k);
    struct store *s = kit_open(&k, &k.writer);
    struct store_topic t = compacted(&k, s, "a", INT64_MAX);
    put(&k, s, t.uid, 0, 10, 100);
    for (int64_t now_ms = 1000000; now_ms < 4000000; now_ms += 1000000) {
        put(&k, s, t.uid, now_ms == 1000000 ? 0 : 10, 10, -1);
        clean(&k, s, t.uid, now_ms);
        struct found f = find_key(&k, s, t.uid, 0);
        assert_int_equal(f.count, 1);
        assert_int_equal(f.last, 10);
    }
    store_close(s);
    kit_fini(&k);
}

/* The file of the log that has `text`, and where. */
static off_t find_file(struct kit *k, const char *text, char path[700])
{
    char dir[400], name[700];
    off_t found = -1;
    snprintf(dir, sizeof dir, "%s/db", k->dir);
    DIR *d = opendir(dir);
    assert_non_null(d);
    for (struct dirent *f = readdir(d); f; f = readdir(d)) {
        if (!strstr(f->d_name, ".sst")) {
            continue;
        }
        static char bytes[4 << 20];
        snprintf(name, sizeof name, "%s/%s", dir, f->d_name);
        int fd = open(name, O_RDONLY);
        ssize_t n = pread(fd, bytes, sizeof bytes, 0);
        char *at = n > 0 ? memmem(bytes, (size_t)n, text, strlen(text)) : NULL;
        if (at) {
            memcpy(path, name, sizeof name);
            found = at - bytes;
        }
        close(fd);
    }
    closedir(d);
    assert_true(found >= 0);
    return found;
}

/* Changes a byte behind `text`. */
static void damage(struct kit *k, const char *text)
{
    char path[700], byte;
    off_t at = find_file(k, text, path) + 100;
    int fd = open(path, O_RDWR);
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

/* One partition cannot be read: it is left alone for a time, others are cleaned. */
static void test_damaged_partition_does_not_stop_the_others(void **state)
{
    struct kit k;
    kit_init(&k);
    struct store *s = kit_open(&k, &k.writer);
    struct store_topic a = compacted(&k, s, "a", 1000), b = compacted(&k, s, "b", 1000);
    int64_t now_ms = 1000000;
    put(&k, s, a.uid, 777, 1, 100000);
    put(&k, s, a.uid, 777, 1, 100000);
    settle(&k, s, now_ms);
    for (int i = 0; i < 3; i++) {
        put(&k, s, b.uid, 0, 10, 100);
    }
    settle(&k, s, now_ms);
    damage(&k, "key-777");
    clean(&k, s, b.uid, now_ms);
    assert_int_equal(find_key(&k, s, b.uid, 5).count, 1);
    const struct part *p = part_get(s, a.uid);
    assert_int_equal(p->clean.to, 0);
    assert_true(p->unclean_ms > 0);
    for (int i = 0; i < 5; i++) { /* and nobody reads it over and over */
        tick(&k, s, now_ms);
        assert_true(cleaner_idle(s));
    }
    int64_t before = p->unclean_ms, give_up = clock_mono_ms() + WAIT_MS;
    tick(&k, s, now_ms + before);
    while (p->unclean_ms == before) {
        tick(&k, s, now_ms + before);
        assert_true(clock_mono_ms() < give_up);
    }
    assert_int_equal(p->unclean_ms, 2 * before);
    assert_int_equal(store_state(s), STORE_OK);
    store_close(s);
    kit_fini(&k);
}

/* A segment that is damaged, if only in what another stream has there, is not rewritten: RocksDB
 * would take no more writes. */
static void test_damaged_segment_is_left_as_it_is(void **state)
{
    struct kit k;
    kit_init(&k);
    struct store *s = kit_open(&k, &k.writer);
    uint32_t plain = kit_topic(s, "plain", 1).uid;
    struct store_topic a = compacted(&k, s, "a", 1000), b = compacted(&k, s, "b", 1000);
    put(&k, s, plain, 1, 1, 100000);
    put(&k, s, plain, 777, 1, 100000); /* looking for a's, one comes past it */
    put(&k, s, a.uid, 0, 10, 1000);
    put(&k, s, a.uid, 0, 10, -1);
    settle(&k, s, 1000000);
    put(&k, s, a.uid, 50, 10, 1000);
    for (int i = 0; i < 3; i++) {
        put(&k, s, b.uid, 0, 10, 1000);
    }
    settle(&k, s, 1000000);
    damage(&k, "key-777");
    clean(&k, s, b.uid, 1000000);
    assert_int_equal(part_get(s, a.uid)->clean.to, 0);
    assert_true(part_get(s, a.uid)->unclean_ms > 0);
    assert_int_equal(find_key(&k, s, b.uid, 3).count, 1);
    assert_int_equal(find_key(&k, s, a.uid, 3).count, 2);
    put(&k, s, a.uid, 0, 1, 10);
    assert_int_equal(store_state(s), STORE_OK);
    store_close(s);
    kit_fini(&k);
}

/* A compaction of several segments: what retention lets go meanwhile goes before it ends. */
static void test_files_are_dropped_while_a_compaction_runs(void **state)
{
    struct kit k;
    kit_init(&k);
    struct store *s = kit_open(&k, &k.writer);
    uint32_t plain = kit_topic(s, "plain", 1).uid;
    struct store_topic a = compacted(&k, s, "a", 1000);
    int64_t now_ms = 1000000, give_up = clock_mono_ms() + WAIT_MS;
    put(&k, s, plain, 777, 1, 100000);
    settle(&k, s, now_ms);
    for (int i = 0; i < 6; i++) {
        put(&k, s, a.uid, 0, 10, 1000);
        settle(&k, s, now_ms);
    }
    find_file(&k, "key-777", watched);
    atomic_store(&gate_shut, true);
    while (!atomic_load(&gate_waits)) {
        tick(&k, s, now_ms);
        assert_true(clock_mono_ms() < give_up);
    }
    assert_true(atomic_load(&watched_there));
    KIT_OK(store_trim(s, plain, 1, &k.m));
    tick(&k, s, now_ms);
    assert_null(cleaner_done(s));
    atomic_store(&gate_shut, false);
    while (part_get(s, a.uid)->clean.to < 60) {
        tick(&k, s, now_ms);
        assert_true(clock_mono_ms() < give_up);
    }
    assert_false(atomic_load(&watched_there)); /* when the last one was written */
    store_close(s);
    kit_fini(&k);
}

/* What a job has rewritten does not count for a limit any more while it goes on with the rest, nor
 * after a stop. */
static void test_sizes_are_right_before_a_job_ends(void **state)
{
    struct kit k;
    kit_init(&k);
    struct store *s = kit_open(&k, &k.writer);
    struct store_topic a = compacted(&k, s, "a", 1000);
    int64_t now_ms = 1000000, give_up = clock_mono_ms() + WAIT_MS;
    for (int i = 0; i < 8; i++) {
        put(&k, s, a.uid, 0, 10, 1000);
        settle(&k, s, now_ms);
    }
    uint64_t before = s->closed_bytes;
    atomic_store(&gate_waits, false);
    atomic_store(&gate_passes, 4); /* two for each segment at most */
    atomic_store(&gate_shut, true);
    while (!atomic_load(&gate_waits) || s->closed_bytes > before - 10000) {
        tick(&k, s, now_ms);
        assert_true(clock_mono_ms() < give_up);
    }
    assert_null(cleaner_done(s));
    atomic_store(&gate_shut, false);
    store_close(s);
    s = kit_open(&k, &k.writer);
    check_sizes(s);
    assert_true(s->closed_bytes <= before - 10000);
    clean(&k, s, a.uid, now_ms);
    check_sizes(s);
    store_close(s);
    kit_fini(&k);
}

/* While a job runs, the log start passes half of what it cleans. */
static void test_start_that_moves_under_a_job_takes_its_share(void **state)
{
    struct kit k;
    kit_init(&k);
    k.writer.segment_bytes = 256 << 10;
    struct store *s = kit_open(&k, &k.writer);
    struct store_topic a = compacted(&k, s, "a", 1000);
    struct rocks *r = s->rocks;
    struct compaction *c = NULL;
    bool all = false;
    for (int i = 0; i < 64; i++) { /* half of each is superseded by the next but one */
        put(&k, s, a.uid, i % 2 ? 100 : 1000 + i * 10, 10, 2000);
    }
    KIT_OK(segment_switch(s, 1000000, &k.m));
    rocksdb_iterator_t *rows = rocksdb_create_iterator_cf(r->db, r->read_cached, r->cf[CF_META]);
    assert_int_equal(dirty_find(s, rows, 1000000, &c), OK);
    rocksdb_iter_destroy(rows);
    compaction_run(s, c);
    uint64_t cleaned = c->parts[0].bytes;
    KIT_OK(store_trim(s, a.uid, 320, &k.m));
    rows = rocksdb_create_iterator_cf(r->db, r->read_cached, r->cf[CF_META]);
    rocksdb_writebatch_t *b = rocksdb_writebatch_create();
    KIT_OK(dirty_apply(s, rows, b, &all));
    dirty_done(s, rows, b, c, 1000000);
    KIT_OK(write_batch(s, b, &k.m));
    rocksdb_writebatch_destroy(b);
    rocksdb_iter_destroy(rows);
    compaction_free(c);
    assert_true(all);
    const struct clean_state *clean_now = &part_get(s, a.uid)->clean;
    assert_int_equal(clean_now->to, 640);
    assert_true(cleaned > 600000);
    assert_true(clean_now->live > cleaned / 10 * 4 && clean_now->live < cleaned / 10 * 6);
    store_close(s);
    kit_fini(&k);
}

static struct store *moving;

static void publish_start(void)
{
    atomic_store(&atomic_load(&moving->page)->entries[0].log_start, 1);
}

/* Index rows below a new log start are gone already, and the page does not say so yet. */
static void test_start_that_moves_is_no_damage(void **state)
{
    struct kit k;
    uint8_t key[INDEX_KEY_BYTES];
    kit_init(&k);
    struct store *s = moving = kit_open(&k, &k.writer);
    struct store_topic a = compacted(&k, s, "a", 1000);
    struct rocks *r = s->rocks;
    struct compaction *c = NULL;
    assert_int_equal(a.uid, 0);
    put(&k, s, a.uid, 0, 1, 100);
    KIT_OK(segment_switch(s, 1000000, &k.m));
    put(&k, s, a.uid, 0, 1, 100);
    KIT_OK(segment_switch(s, 1000000, &k.m));
    rocksdb_iterator_t *rows = rocksdb_create_iterator_cf(r->db, r->read_cached, r->cf[CF_META]);
    assert_int_equal(dirty_find(s, rows, 1000000, &c), OK);
    rocksdb_iter_destroy(rows);
    rocksdb_writebatch_t *b = rocksdb_writebatch_create();
    index_key_put(key, a.uid, 0);
    batch_delete(r, b, slice_make(key, sizeof key));
    KIT_OK(write_batch(s, b, &k.m));
    rocksdb_writebatch_destroy(b);
    atomic_store(&when_it_waits, publish_start);
    compaction_run(s, c);
    assert_true(atomic_load(&when_it_waits) == NULL);
    assert_false(c->parts[0].failed);
    assert_true(c->parts[0].mapped);
    assert_int_equal(c->parts[0].end, 2);
    compaction_free(c);
    store_close(s);
    kit_fini(&k);
}

static bool finds_work(struct store *s, int64_t now_ms)
{
    struct rocks *r = s->rocks;
    struct compaction *c = NULL;
    rocksdb_iterator_t *rows = rocksdb_create_iterator_cf(r->db, r->read_cached, r->cf[CF_META]);
    KIT_OK(dirty_find(s, rows, now_ms, &c));
    rocksdb_iter_destroy(rows);
    compaction_free(c);
    return c != NULL;
}

/* Files of a large stream are not rewritten for each few records of a table, but when they wait. */
static void test_much_written_for_little_is_followed_by_a_rest(void **state)
{
    struct kit k;
    kit_init(&k);
    struct store *s = kit_open(&k, &k.writer);
    struct store_topic a = compacted(&k, s, "a", 1000);
    uint32_t plain = kit_topic(s, "plain", 1).uid;
    put(&k, s, a.uid, 0, 10, 100);
    put(&k, s, a.uid, 0, 10, 100);
    for (int i = 0; i < 6; i++) {
        put(&k, s, plain, 0, 1, 1 << 20);
    }
    clean(&k, s, a.uid, 1000000);
    put(&k, s, a.uid, 0, 10, 100);
    put(&k, s, a.uid, 0, 10, 100);
    KIT_OK(segment_switch(s, 1000000, &k.m));
    assert_false(finds_work(s, 1000000));
    assert_false(finds_work(s, 1001000));
    assert_true(finds_work(s, 1002000));
    assert_true(finds_work(s, 900000)); /* the clock has gone back */
    a.compaction.max_compaction_lag_ms = 5000;
    KIT_OK(store_topic_alter(s, &a, &k.m));
    assert_true(finds_work(s, 1000000));
    a.compaction.max_compaction_lag_ms = INT64_MAX;
    KIT_OK(store_topic_alter(s, &a, &k.m));
    assert_false(finds_work(s, 1000000));
    put(&k, s, a.uid, 20, 2, 1 << 20); /* enough */
    KIT_OK(segment_switch(s, 1000000, &k.m));
    assert_true(finds_work(s, 1000000));
    store_close(s);
    kit_fini(&k);
}

/* Of more than a job takes, the dirtiest come first, wherever in the catalog they are. */
static void test_dirtiest_of_many_partitions_come_first(void **state)
{
    enum { MANY = 1100, TAKEN = 1024 };
    struct kit k;
    kit_init(&k);
    struct store *s = kit_open(&k, &k.writer);
    struct store_topic a = kit_topic(s, "a", MANY);
    a.cleanup = STORE_CLEANUP_COMPACT;
    a.compaction = (struct store_compaction){true, 0.1, 0, INT64_MAX, 1000};
    KIT_OK(store_topic_alter(s, &a, &k.m));
    struct store_topic z = compacted(&k, s, "z", 1000);
    for (int i = 0; i < MANY; i++) {
        put(&k, s, a.uid + (uint32_t)i, 0, 1, 100);
    }
    clean(&k, s, a.uid + MANY - 1, 1000000);
    clean(&k, s, a.uid, 1000000);
    for (int i = 0; i < MANY; i++) {
        put(&k, s, a.uid + (uint32_t)i, 0, 1, 10);
    }
    put(&k, s, z.uid, 0, 1, 10);
    KIT_OK(segment_switch(s, 1000000, &k.m));
    struct rocks *r = s->rocks;
    struct compaction *c = NULL;
    rocksdb_iterator_t *rows = rocksdb_create_iterator_cf(r->db, r->read_cached, r->cf[CF_META]);
    assert_int_equal(dirty_find(s, rows, 1000000, &c), OK);
    rocksdb_iter_destroy(rows);
    assert_int_equal(c->found_count, TAKEN);
    assert_int_equal(c->parts[0].uid, z.uid);
    compaction_free(c);
    store_close(s);
    kit_fini(&k);
}

/* Who has no time at all is read again each minute, and is many: who comes behind is read, too. */
static void test_late_ones_are_found_behind_many_without_a_time(void **state)
{
    enum { MANY = 40 };
    struct kit k;
    kit_init(&k);
    struct store *s = kit_open(&k, &k.writer);
    struct store_topic a = kit_topic(s, "a", MANY);
    a.cleanup = STORE_CLEANUP_COMPACT;
    a.compaction = (struct store_compaction){true, 1, 0, 1000, 1000};
    KIT_OK(store_topic_alter(s, &a, &k.m));
    for (int i = 0; i < MANY; i++) {
        kit_append(&k, s, a.uid + (uint32_t)i, 0, 1, i == MANY - 1 ? 1000 : 0, 100);
    }
    kit_commit(&k, s);
    KIT_OK(segment_switch(s, 1000000, &k.m));
    bool found = false;
    for (int minute = 0; minute < 3 && !found; minute++) {
        found = finds_work(s, 1000000 + minute * 61000);
    }
    assert_true(found);
    store_close(s);
    kit_fini(&k);
}

/* Of thousands of files nothing is asked where none is in the upper level. */
static void test_files_are_not_described_to_find_none_above(void **state)
{
    struct kit k;
    kit_init(&k);
    struct store *s = kit_open(&k, &k.writer);
    struct store_topic a = compacted(&k, s, "a", 1000);
    put(&k, s, a.uid, 0, 10, 100);
    put(&k, s, a.uid, 0, 10, 100);
    settle(&k, s, 1000000);
    rocksdb_compact_range_cf(s->rocks->db, s->rocks->cf[CF_LOG], NULL, 0, NULL, 0);
    assert_false(has_files(s, CF_LOG, "rocksdb.num-files-at-level0"));
    atomic_store(&descriptions, 0);
    clean(&k, s, a.uid, 1000000);
    assert_int_equal(find_key(&k, s, a.uid, 3).count, 1);
    assert_int_equal(atomic_load(&descriptions), 0);
    store_close(s);
    kit_fini(&k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_followers_see_what_is_left_without_another_record),
        cmocka_unit_test(test_rewrite_that_does_not_fit_is_done_again),
        cmocka_unit_test(test_segment_in_two_files_is_rewritten_in_one_step),
        cmocka_unit_test(test_tombstone_without_room_in_the_map_waits),
        cmocka_unit_test(test_sizes_are_right_after_a_job_that_was_forgotten),
        cmocka_unit_test(test_limit_goes_by_what_compaction_left),
        cmocka_unit_test(test_tombstones_may_stay_for_ever),
        cmocka_unit_test(test_damaged_partition_does_not_stop_the_others),
        cmocka_unit_test(test_damaged_segment_is_left_as_it_is),
        cmocka_unit_test(test_files_are_dropped_while_a_compaction_runs),
        cmocka_unit_test(test_sizes_are_right_before_a_job_ends),
        cmocka_unit_test(test_start_that_moves_under_a_job_takes_its_share),
        cmocka_unit_test(test_start_that_moves_is_no_damage),
        cmocka_unit_test(test_much_written_for_little_is_followed_by_a_rest),
        cmocka_unit_test(test_dirtiest_of_many_partitions_come_first),
        cmocka_unit_test(test_late_ones_are_found_behind_many_without_a_time),
        cmocka_unit_test(test_files_are_not_described_to_find_none_above),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
