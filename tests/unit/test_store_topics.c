/* Topics of a store: they grow, keep their settings, come out of a store of the first format. */
#include "tests/unit/store_kit.h"

#include <sched.h>
#include <sys/stat.h>
#include <time.h>

#include "shared/store/store_int.h"

static struct store_topic find(struct store *s, const char *name, const struct store_catalog **c)
{
    *c = store_catalog_ref(s);
    const struct store_topic *t = store_catalog_find(*c, slice_str(name));
    assert_non_null(t);
    return *t;
}

/* Until the follower knows so many partitions of it. */
static struct store_topic wait_partitions(struct store *f, const char *name, int32_t count,
                                          const struct store_catalog **c)
{
    for (time_t give_up = time(NULL) + 60;;) {
        struct store_topic t = find(f, name, c);
        if (t.partition_count == count) {
            return t;
        }
        store_catalog_unref(f, *c);
        assert_true(time(NULL) <= give_up);
        store_wait(f, store_sequence(f), 20);
    }
}

/* Partition p holds p + 1 records, whose values name its uid. */
static void check_partitions(struct kit *k, struct store *s, const struct store_topic *t)
{
    for (int32_t p = 0; p < t->partition_count; p++) {
        uint32_t uid = store_topic_uid(t, p);
        assert_int_equal(kit_offsets(s, uid).end, p + 1);
        kit_read_all(k, s, uid, 0, p + 1, 1 << 20);
    }
}

static void test_topic_grows_and_keeps_what_it_has(void **state)
{
    struct kit k;
    kit_init(&k);
    struct store *w = kit_open(&k, &k.writer);
    struct store_topic a = kit_topic(w, "a", 2), b = kit_topic(w, "b", 1);
    struct store *f = kit_open(&k, &k.follower);
    for (int32_t p = 0; p < 2; p++) {
        kit_append(&k, w, store_topic_uid(&a, p), 0, p + 1, 1000, 0);
    }
    KIT_OK(store_topic_grow(w, slice_str("a"), 3, &k.m)); /* while that is pending */
    KIT_OK(store_topic_grow(w, slice_str("a"), 5, &k.m)); /* follows at once: one extent with it */
    struct store_topic c = kit_topic(w, "c", 1);
    KIT_OK(store_topic_grow(w, slice_str("a"), 6, &k.m));
    assert_int_equal(store_topic_grow(w, slice_str("a"), 6, &k.m), ERR_INVALID);
    assert_int_equal(store_topic_grow(w, slice_str("a"), STORE_PARTITIONS_MAX + 1, &k.m),
                     ERR_INVALID);
    assert_int_equal(store_topic_grow(w, slice_str("x"), 6, &k.m), ERR_NOT_FOUND);
    const struct store_catalog *catalog, *seen;
    struct store_topic grown = find(w, "a", &catalog);
    const uint32_t uids[6] = {a.uid, a.uid + 1, b.uid + 1, b.uid + 2, b.uid + 3, c.uid + 1};
    assert_memory_equal(&grown.id, &a.id, sizeof a.id);
    for (int32_t p = 0; p < 6; p++) {
        assert_int_equal(store_topic_uid(&grown, p), uids[p]);
        if (p >= 2) {
            kit_append(&k, w, uids[p], 0, p + 1, 1000, 0);
        }
    }
    kit_append(&k, w, b.uid, 0, 1, 1000, 0);
    kit_commit(&k, w);
    check_partitions(&k, w, &grown);
    struct store_topic followed = wait_partitions(f, "a", 6, &seen);
    check_partitions(&k, f, &followed);
    store_catalog_unref(f, seen);
    store_catalog_unref(w, catalog);
    store_close(w);

    w = kit_open(&k, &k.writer);
    grown = find(w, "a", &catalog);
    assert_int_equal(grown.partition_count, 6);
    check_partitions(&k, w, &grown);
    KIT_OK(store_topic_delete(w, slice_str("a"), &k.m));
    struct store_offsets o;
    for (int32_t p = 0; p < 6; p++) {
        assert_int_equal(store_offsets(w, store_topic_uid(&grown, p), &o), ERR_NOT_FOUND);
    }
    kit_read_all(&k, w, b.uid, 0, 1, 1 << 20);
    store_catalog_unref(w, catalog);
    store_close(f);
    store_close(w);
    kit_fini(&k);
}

static void test_settings_survive_reopening(void **state)
{
    struct kit k;
    kit_init(&k);
    struct store *w = kit_open(&k, &k.writer);
    struct store_topic t = kit_topic(w, "a", 2);
    t.cleanup = STORE_CLEANUP_COMPACT;
    t.segment_ms = 77;
    t.segment_bytes = 78;
    t.compaction = (struct store_compaction){true, 0.25, 5, 6, 7};
    KIT_OK(store_topic_alter(w, &t, &k.m));
    KIT_OK(store_topic_grow(w, slice_str("a"), 3, &k.m));
    t.compaction.min_cleanable_dirty_ratio = 1.5;
    assert_int_equal(store_topic_alter(w, &t, &k.m), ERR_INVALID);
    store_close(w);
    w = kit_open(&k, &k.writer);
    const struct store_catalog *c;
    t = find(w, "a", &c);
    assert_int_equal(t.partition_count, 3);
    assert_null(t.uids); /* one extent */
    assert_int_equal(t.segment_ms, 77);
    assert_int_equal(t.segment_bytes, 78);
    assert_true(t.compaction.given);
    assert_float_equal(t.compaction.min_cleanable_dirty_ratio, 0.25, 0);
    assert_int_equal(t.compaction.min_compaction_lag_ms, 5);
    assert_int_equal(t.compaction.max_compaction_lag_ms, 6);
    assert_int_equal(t.compaction.delete_retention_ms, 7);
    store_catalog_unref(w, c);
    store_close(w);
    kit_fini(&k);
}

#define MANY 1500

/* One version of the catalog for all of them, not one for each; the rest stays as it is. */
static void test_many_topics_are_altered_in_one_change(void **state)
{
    struct kit k;
    kit_init(&k);
    struct store *w = kit_open(&k, &k.writer);
    struct store_topic *all = calloc(MANY, sizeof *all);
    assert_non_null(all);
    for (int i = 0; i < MANY; i++) {
        char name[16];
        snprintf(name, sizeof name, "t%04d", i);
        all[i] = kit_topic(w, name, 1);
        all[i].retention_ms = 1000 + i;
        all[i].partition_count = 7; /* not to be changed in this way */
        all[i].attributes = NULL;
    }
    struct store_topic other = kit_topic(w, "other", 2);
    all[3].retention_ms = -2; /* may not be */
    snprintf(all[5].name, sizeof all[5].name, "none");
    const struct store_catalog *before = store_catalog_ref(w), *after;
    size_t refused;
    uint32_t sequence = store_sequence(w);
    KIT_OK(store_topics_alter(w, all, MANY, &refused, &k.m));
    assert_int_equal(refused, 2);
    after = store_catalog_ref(w);
    assert_int_equal(after->version, before->version + 1);
    assert_int_equal(store_sequence(w), sequence + 1);
    assert_int_equal(after->count, MANY + 1);
    KIT_OK(store_topics_alter(w, &all[3], 1, &refused, &k.m));
    assert_int_equal(refused, 1);
    store_catalog_unref(w, before);
    before = store_catalog_ref(w);
    assert_ptr_equal(before, after); /* nothing was changed */
    store_catalog_unref(w, before);
    store_catalog_unref(w, after);
    kit_append(&k, w, all[7].uid, 0, 1, 1000, 0); /* its part knows what it belongs to */
    kit_commit(&k, w);
    store_close(w);

    w = kit_open(&k, &k.writer);
    for (int i = 0; i < MANY; i++) {
        char name[16];
        snprintf(name, sizeof name, "t%04d", i);
        struct store_topic t = find(w, name, &after);
        assert_int_equal(t.retention_ms, i == 3 || i == 5 ? -1 : 1000 + i);
        assert_int_equal(t.partition_count, 1);
        assert_int_equal(t.uid, all[i].uid);
        assert_memory_equal(&t.id, &all[i].id, sizeof t.id);
        store_catalog_unref(w, after);
    }
    struct store_topic same = find(w, "other", &after);
    assert_int_equal(same.retention_ms, other.retention_ms);
    store_catalog_unref(w, after);
    free(all);
    store_close(w);
    kit_fini(&k);
}

/* What was appended for a topic before it was deleted, in one turn, neither fails the turn's commit
 * nor comes back. */
static void test_topic_is_deleted_with_batches_pending(void **state)
{
    struct kit k;
    kit_init(&k);
    struct store *s = kit_open(&k, &k.writer);
    struct store_topic gone = kit_topic(s, "gone", 1), stays = kit_topic(s, "stays", 1);
    kit_append(&k, s, gone.uid, 0, 1, 1000, 0);
    kit_append(&k, s, stays.uid, 0, 2, 1000, 0);
    KIT_OK(store_put(s, slice_str("row"), slice_str("value")));
    KIT_OK(store_topic_delete(s, slice_str("gone"), &k.m));
    struct store_topic again = kit_topic(s, "gone", 1);
    kit_append(&k, s, again.uid, 0, 1, 1000, 0);
    kit_commit(&k, s);
    struct store_offsets o;
    for (int life = 0; life < 2; life++) {
        assert_int_equal(store_offsets(s, gone.uid, &o), ERR_NOT_FOUND);
        kit_read_all(&k, s, stays.uid, 0, 2, 1 << 20);
        kit_read_all(&k, s, again.uid, 0, 1, 1 << 20);
        KIT_OK(store_tick(s, 1000, &k.m));
        store_close(s);
        s = kit_open(&k, &k.writer);
    }
    store_close(s);
    kit_fini(&k);
}

/* --- the first format ------------------------------------------------------------------------- */

static void text_of_format(const struct kit *k, char text[128])
{
    char path[400];
    snprintf(path, sizeof path, "%s/FORMAT", k->dir);
    memset(text, 0, 128);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    assert_true(fread(text, 1, 127, f) > 0);
    fclose(f);
}

static void put_row(struct store *s, const uint8_t *key, size_t key_len, struct slice value)
{
    rocksdb_writebatch_t *b = rocksdb_writebatch_create();
    batch_put(s->rocks, b, CF_META, slice_make(key, key_len), value);
    KIT_OK(write_batch(s, b, NULL));
    rocksdb_writebatch_destroy(b);
}

/* The store as the first format had it: the topic's row ends after its attributes. */
static void write_as_first(struct kit *k, struct store *s, const struct store_topic *t)
{
    struct buf row;
    uint8_t key[UID_KEY_BYTES], format_key = ROW_FORMAT;
    char path[400], text[128];
    buf_init(&row, 1000);
    buf_put_be16(&row, (uint16_t)strlen(t->name));
    buf_put(&row, t->name, strlen(t->name));
    buf_put(&row, t->id.b, sizeof t->id.b);
    buf_put_be32(&row, (uint32_t)t->partition_count);
    buf_put_be64(&row, 1234);
    buf_put_be64(&row, 5678);
    buf_put_be64(&row, UINT64_MAX);
    buf_put_be32(&row, STORE_CLEANUP_DELETE);
    buf_put_be32(&row, 2);
    buf_put(&row, "{}", 2);
    uid_key_put(key, ROW_TOPIC, t->uid);
    put_row(s, key, sizeof key, buf_slice(&row));
    buf_reset(&row);
    buf_put(&row, "culex", 5);
    buf_put_be32(&row, 1);
    buf_put(&row, s->id.b, sizeof s->id.b);
    put_row(s, &format_key, 1, buf_slice(&row));
    buf_fini(&row);
    text_of_format(k, text);
    assert_memory_equal(text, "culex store 2\n", 14);
    text[12] = '1';
    snprintf(path, sizeof path, "%s/FORMAT", k->dir);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void check_first(struct kit *k, struct store *s, const struct store_topic *t)
{
    const struct store_catalog *c;
    struct store_topic found = find(s, "old", &c);
    assert_int_equal(found.partition_count, 2);
    assert_int_equal(found.created_ms, 1234);
    assert_int_equal(found.retention_ms, 5678);
    assert_string_equal(found.attributes, "{}");
    assert_int_equal(found.segment_ms, 0);
    assert_int_equal(found.segment_bytes, 0);
    assert_false(found.compaction.given);
    assert_int_equal(store_topic_uid(&found, 1), store_topic_uid(t, 1));
    check_partitions(k, s, &found);
    store_catalog_unref(s, c);
}

static void test_first_format_is_read_and_becomes_ours(void **state)
{
    struct kit k;
    char text[128];
    kit_init(&k);
    struct store *w = kit_open(&k, &k.writer);
    struct store_topic t = kit_topic(w, "old", 2);
    kit_append(&k, w, store_topic_uid(&t, 0), 0, 1, 1000, 0);
    kit_append(&k, w, store_topic_uid(&t, 1), 0, 2, 1000, 0);
    kit_commit(&k, w);
    write_as_first(&k, w, &t);
    store_close(w);
    struct store *f = kit_open(&k, &k.follower); /* which changes nothing */
    check_first(&k, f, &t);
    text_of_format(&k, text);
    assert_memory_equal(text, "culex store 1\n", 14);
    w = kit_open(&k, &k.writer);
    text_of_format(&k, text); /* what a program that knows the first format only refuses */
    assert_memory_equal(text, "culex store 2\n", 14);
    uint8_t key = ROW_FORMAT, row[FORMAT_ROW_BYTES];
    KIT_OK(meta_get(w->rocks, k.dir, slice_make(&key, 1), row, sizeof row, &k.m));
    assert_int_equal(be32_get(row + 5), 2);
    check_first(&k, w, &t);
    KIT_OK(store_topic_grow(w, slice_str("old"), 3, &k.m));
    const struct store_catalog *c;
    struct store_topic grown = wait_partitions(f, "old", 3, &c);
    kit_append(&k, w, store_topic_uid(&grown, 2), 0, 3, 1000, 0);
    kit_commit(&k, w);
    check_partitions(&k, w, &grown);
    store_catalog_unref(f, c);
    store_close(w);
    store_close(f);
    w = kit_open(&k, &k.writer);
    grown = find(w, "old", &c);
    check_partitions(&k, w, &grown);
    store_catalog_unref(w, c);
    store_close(w);
    kit_fini(&k);
}

/* A store that cannot be opened is left as the older program knows it. */
static void test_first_format_stays_where_the_store_does_not_open(void **state)
{
    struct kit k;
    char text[128], page[400];
    struct errmsg m;
    kit_init(&k);
    struct store *w = kit_open(&k, &k.writer);
    struct store_topic t = kit_topic(w, "old", 2);
    write_as_first(&k, w, &t);
    uint8_t key = ROW_FORMAT, row[FORMAT_ROW_BYTES];
    KIT_OK(meta_get(w->rocks, k.dir, slice_make(&key, 1), row, sizeof row, &k.m));
    row[FORMAT_ROW_BYTES - 1] ^= 1; /* another store's database */
    put_row(w, &key, 1, slice_make(row, sizeof row));
    store_close(w);
    assert_int_equal(store_open(&w, &k.writer, &m), ERR_VERSION);
    text_of_format(&k, text);
    assert_memory_equal(text, "culex store 1\n", 14);
    snprintf(page, sizeof page, "%s/page", k.dir);
    assert_int_equal(access(page, F_OK), 0);
    kit_fini(&k);
}

/* What is missing below the old page's durable end is said. */
static void test_loss_is_seen_when_the_format_changes(void **state)
{
    struct kit k;
    struct page *page;
    struct store_stats st;
    char text[128];
    kit_init(&k);
    struct store *w = kit_open(&k, &k.writer);
    struct store_topic t = kit_topic(w, "old", 2);
    kit_append(&k, w, store_topic_uid(&t, 0), 0, 1, 1000, 0);
    kit_commit(&k, w);
    write_as_first(&k, w, &t);
    struct uuid id = w->id;
    store_close(w);
    KIT_OK(page_open_writer(&page, k.dir, &id, &k.m));
    atomic_store(&page->entries[t.uid].end, 5);
    atomic_store(&page->entries[t.uid].durable, 4);
    page_close(page);
    w = kit_open(&k, &k.writer);
    text_of_format(&k, text);
    assert_memory_equal(text, "culex store 2\n", 14);
    store_get_stats(w, &st);
    assert_int_equal(st.recovered_loss, 3);
    assert_int_equal(kit_offsets(w, t.uid).leader_epoch, 1);
    assert_int_equal(kit_offsets(w, t.uid + 1).leader_epoch, 0);
    store_close(w);
    kit_fini(&k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_topic_grows_and_keeps_what_it_has),
        cmocka_unit_test(test_settings_survive_reopening),
        cmocka_unit_test(test_many_topics_are_altered_in_one_change),
        cmocka_unit_test(test_topic_is_deleted_with_batches_pending),
        cmocka_unit_test(test_first_format_is_read_and_becomes_ours),
        cmocka_unit_test(test_first_format_stays_where_the_store_does_not_open),
        cmocka_unit_test(test_loss_is_seen_when_the_format_changes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
