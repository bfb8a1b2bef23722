/* Compaction: of each key the last value stays, and nothing of what stays moves. A model knows all
 * that was written; what is read is compared with what Kafka's cleaner would have left. */
#include "tests/unit/store_kit.h"

#include <sched.h>
#include <time.h>

#include "shared/base/clock.h"
#include "shared/record/control.h"
#include "shared/record/rewrite.h"
#include "shared/store/store_int.h"

#define RECORDS_MAX 60000
#define KEYS_MAX    4000

static uint64_t seed = 7;

static uint32_t next_random(uint32_t n)
{
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(seed >> 33) % n;
}

/* What was written to one partition. */
struct model {
    uint32_t uid;
    int64_t end;
    int32_t key[RECORDS_MAX]; /* -1: none */
    bool tombstone[RECORDS_MAX];
    int64_t ts[RECORDS_MAX];
    int64_t newest[KEYS_MAX]; /* offset of the last one of a key; -1 */
};

static struct model *model_new(uint32_t uid)
{
    struct model *m = calloc(1, sizeof *m);
    m->uid = uid;
    memset(m->newest, 0xff, sizeof m->newest);
    return m;
}

static struct store_topic compacted(struct kit *k, struct store *s, const char *name,
                                    int32_t partitions)
{
    struct store_topic t = kit_topic(s, name, partitions);
    t.cleanup = STORE_CLEANUP_COMPACT;
    t.compaction = (struct store_compaction){true, 0.1, 0, INT64_MAX, 1000};
    KIT_OK(store_topic_alter(s, &t, &k->m));
    return t;
}

/* One batch with these keys; tombstone: all its values are null. */
static void put(struct kit *k, struct store *s, struct model *m, const int32_t *keys, int count,
                bool tombstone, int64_t ts, size_t bytes)
{
    char key[32], *value = calloc(1, bytes + 64);
    batch_builder_reset(&k->builder);
    for (int i = 0; i < count; i++) {
        int64_t offset = m->end + i;
        assert_true(offset < RECORDS_MAX);
        snprintf(key, sizeof key, "key-%d", keys[i]);
        int n = snprintf(value, 64, "%u:%lld", m->uid, (long long)offset);
        struct record r = {.timestamp = ts + i, .key = slice_str(keys[i] < 0 ? NULL : key)};
        r.value = tombstone ? slice_make(NULL, 0)
                            : slice_make(value, bytes > (size_t)n ? bytes : (size_t)n);
        assert_int_equal(batch_add(&k->builder, &r), OK);
        m->key[offset] = keys[i];
        m->tombstone[offset] = tombstone;
        m->ts[offset] = ts + i;
        if (keys[i] >= 0) {
            m->newest[keys[i]] = offset;
        }
    }
    free(value);
    struct slice b = batch_finish(&k->builder);
    int64_t base = -1;
    assert_int_equal(store_append(s, m->uid, (uint8_t *)(uintptr_t)b.data, b.len, &base), OK);
    assert_int_equal(base, m->end);
    m->end += count;
}

static void put_random(struct kit *k, struct store *s, struct model *m, uint32_t keys, int64_t ts,
                       size_t bytes)
{
    int32_t some[20];
    int count = 1 + (int)next_random(20);
    for (int i = 0; i < count; i++) {
        some[i] = (int32_t)next_random(keys);
    }
    put(k, s, m, some, count, false, ts, bytes);
}

/* Until no job runs; what one has done is yet to be taken. */
static void wait_job(struct store *s)
{
    time_t give_up = time(NULL) + 60;
    while (!cleaner_idle(s) && !cleaner_done(s)) {
        assert_true(time(NULL) <= give_up);
        sched_yield();
    }
}

/* Ticks until nothing is to be cleaned any more, up to `end`. */
static void clean(struct kit *k, struct store *s, const struct model *m, int64_t end,
                  int64_t *now_ms)
{
    time_t give_up = time(NULL) + 60;
    while (part_get(s, m->uid)->clean.to < end || !cleaner_idle(s)) {
        *now_ms += 1500;
        KIT_OK(store_tick(s, *now_ms, &k->m));
        assert_true(time(NULL) <= give_up);
        sched_yield();
    }
}

/* --- checking --------------------------------------------------------------------------------- */

struct seen {
    const struct model *m;
    int64_t from;             /* where a reader stands: records before are not for it */
    int64_t next, kept, dead; /* of records */
    int64_t clean;            /* below it nothing dead may be left */
    uint64_t bytes;
    int64_t batches;
};

static bool see_record(void *arg, const struct record *r)
{
    struct seen *q = arg;
    const struct model *m = q->m;
    char want[64];
    if (r->offset < q->from) {
        return true;
    }
    assert_true(r->offset >= q->next && r->offset < m->end);
    q->next = r->offset + 1;
    assert_int_equal(r->timestamp, m->ts[r->offset]);
    if (m->key[r->offset] >= 0) {
        int n = snprintf(want, sizeof want, "key-%d", m->key[r->offset]);
        assert_int_equal(r->key.len, n);
        assert_memory_equal(r->key.data, want, (size_t)n);
    }
    if (m->tombstone[r->offset]) {
        assert_null(r->value.data);
    } else {
        int n = snprintf(want, sizeof want, "%u:%lld", m->uid, (long long)r->offset);
        assert_memory_equal(r->value.data, want, (size_t)n);
    }
    bool dead = m->key[r->offset] >= 0 && m->newest[m->key[r->offset]] > r->offset;
    q->dead += dead;
    q->kept += !dead;
    assert_false(dead && r->offset < q->clean);
    return true;
}

/* Reads all of it: batches follow each other, records are as they were written, and the newest of
 * each key is there, unless it is a tombstone. The batch that a read begins with may have begun
 * earlier: it has absorbed what lay where the reader stands. */
static struct seen check(struct kit *k, struct store *s, const struct model *m, int64_t clean_to,
                         size_t max_bytes)
{
    struct seen q = {.m = m, .clean = clean_to};
    int64_t at = 0;
    while (at < m->end) {
        struct store_slices *x;
        enum err e = store_read(s, m->uid, at, max_bytes, true, &x, &k->m);
        if (e != OK) {
            fail_msg("store_read at %lld: %s: %s", (long long)at, err_name(e), k->m.text);
        }
        assert_true(x->count > 0);
        for (size_t i = 0; i < x->count; i++) {
            struct slice b = slice_make(x->iov[i].iov_base, x->iov[i].iov_len);
            struct batch_header h;
            assert_int_equal(batch_read_header(b, &h), OK);
            assert_true(i == 0 ? h.base_offset <= at : h.base_offset == at);
            q.from = at;
            KIT_OK(batch_check(b, &k->m));
            KIT_OK(batch_walk(b, 64u << 20, see_record, &q, &k->m));
            at = batch_next_offset(&h);
            q.bytes += b.len;
            q.batches++;
        }
        store_slices_free(x);
    }
    assert_int_equal(at, m->end);
    int64_t wanted = 0;
    for (int i = 0; i < KEYS_MAX; i++) {
        wanted += m->newest[i] >= 0 && !m->tombstone[m->newest[i]];
    }
    assert_true(q.kept >= wanted);
    return q;
}

/* Its size is that of what was read. */
static void check_size(struct kit *k, struct store *s, const struct model *m, uint64_t bytes)
{
    size_t read_max = SIZE_MAX;
    uint64_t size;
    KIT_OK(store_partition_bytes(s, m->uid, &read_max, &size, &k->m));
    assert_int_equal(size, bytes);
}

/* Lookups by time against what is left. */
static void check_times(struct kit *k, struct store *s, const struct model *m)
{
    int64_t offset, ts, max = -1;
    bool *left = calloc((size_t)m->end, sizeof *left);
    for (int i = 0; i < KEYS_MAX; i++) {
        if (m->newest[i] >= 0) {
            left[m->newest[i]] = true;
            max = max < 0 || m->ts[m->newest[i]] > m->ts[max] ||
                          (m->ts[m->newest[i]] == m->ts[max] && m->newest[i] < max)
                      ? m->newest[i]
                      : max;
        }
    }
    for (int n = 0; n < 200; n++) {
        int64_t want = m->ts[next_random((uint32_t)m->end)], i = 0;
        while (i < m->end && (!left[i] || m->ts[i] < want)) {
            i++;
        }
        enum err e = store_find_timestamp(s, m->uid, want, &offset, &ts, &k->m);
        assert_int_equal(e, i < m->end ? OK : ERR_NOT_FOUND);
        if (e == OK) {
            assert_int_equal(offset, i);
            assert_int_equal(ts, m->ts[i]);
        }
    }
    KIT_OK(store_find_max_timestamp(s, m->uid, &offset, &ts, &k->m));
    assert_int_equal(offset, max);
    free(left);
}

/* --- tests ------------------------------------------------------------------------------------ */

/* Keys are updated many times in small segments that two other streams share, one of them compacted
 * too, while a follower reads; the last values are left, here, there, and after opening again. */
static void test_last_value_of_each_key_is_left(void **state)
{
    struct kit k;
    kit_init(&k);
    k.writer.segment_bytes = 128 << 10;
    struct store *s = kit_open(&k, &k.writer);
    struct store_topic a = compacted(&k, s, "a", 2), plain = kit_topic(s, "plain", 1);
    struct model *m[2] = {model_new(store_topic_uid(&a, 0)), model_new(store_topic_uid(&a, 1))};
    struct store *f = kit_open(&k, &k.follower);
    int64_t now_ms = 1000000, plain_end = 0, ts = 1000;
    uint64_t before[2] = {0};
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < 1000; i++) {
            put_random(&k, s, m[0], 500, ts, 100);
            put_random(&k, s, m[1], 20, ts + (i % 7) * 300 - 500, 10); /* whole batches die */
            plain_end = i % 10 ? plain_end : kit_append(&k, s, plain.uid, plain_end, 1, ts, 100);
            kit_commit(&k, s);
            ts += 10;
        }
        for (int p = 0; p < 2; p++) {
            before[p] = round ? before[p] : check(&k, s, m[p], 0, 1 << 20).bytes;
        }
        KIT_OK(segment_switch(s, now_ms, &k.m));
        clean(&k, s, m[0], m[0]->end, &now_ms);
        clean(&k, s, m[1], m[1]->end, &now_ms);
        for (int p = 0; p < 2; p++) {
            struct seen w = check(&k, s, m[p], m[p]->end, 5000);
            struct seen r = check(&k, f, m[p], 0, 1 << 20);
            assert_int_equal(w.kept, p ? 20 : 500);
            assert_true(r.kept == w.kept);
            assert_true(w.bytes * 4 < before[p]);
            check_size(&k, s, m[p], w.bytes);
            check_times(&k, s, m[p]);
        }
        kit_read_all(&k, s, plain.uid, 0, plain_end, 1 << 20);
        kit_read_all(&k, f, plain.uid, 0, plain_end, 1 << 20);
    }
    store_close(f);
    store_close(s);
    s = kit_open(&k, &k.writer);
    for (int p = 0; p < 2; p++) {
        assert_int_equal(part_get(s, m[p]->uid)->clean.to, m[p]->end);
        check(&k, s, m[p], m[p]->end, 1 << 20);
        put_random(&k, s, m[p], 20, ts, 100); /* and it goes on */
        kit_commit(&k, s);
        check_size(&k, s, m[p], check(&k, s, m[p], 0, 1 << 20).bytes);
        free(m[p]);
    }
    store_close(s);
    kit_fini(&k);
}

static void test_small_map_takes_several_passes(void **state)
{
    struct kit k;
    kit_init(&k);
    k.writer.segment_bytes = 128 << 10;
    k.writer.clean_map_bytes = 1; /* 768 keys */
    struct store *s = kit_open(&k, &k.writer);
    struct store_topic t = compacted(&k, s, "a", 1);
    struct model *m = model_new(t.uid);
    int64_t now_ms = 1000000;
    for (int i = 0; i < 1500; i++) {
        put_random(&k, s, m, 3000, 1000 + i, 50);
        kit_commit(&k, s);
    }
    KIT_OK(segment_switch(s, now_ms, &k.m));
    clean(&k, s, m, m->end, &now_ms);
    struct seen w = check(&k, s, m, m->end, 1 << 20);
    assert_int_equal(w.dead, 0);
    free(m);
    store_close(s);
    kit_fini(&k);
}

static void test_tombstones_go_after_their_time(void **state)
{
    struct kit k;
    kit_init(&k);
    struct store *s = kit_open(&k, &k.writer);
    struct store_topic t = compacted(&k, s, "a", 1); /* delete.retention.ms 1000 */
    struct model *m = model_new(t.uid);
    int64_t now_ms = 1000000;
    const int32_t one[] = {1, 2, 3}, none[] = {-1, 9};
    int64_t next;
    struct buf b;
    buf_init(&b, 1 << 20);
    put(&k, s, m, one, 3, false, 5000, 10);
    put(&k, s, m, one, 2, true, 6000, 0);
    put(&k, s, m, none, 2, false, 6500, 10); /* what has no key stays */
    kit_commit(&k, s);
    assert_int_equal(store_read_tail(s, m->uid, 0, 1 << 20, true, &b, &next), OK);
    buf_reset(&b);
    KIT_OK(segment_switch(s, now_ms, &k.m));
    while (part_get(s, m->uid)->clean.to < m->end) { /* the clock stands: the horizon is not near */
        s->dirty_look_ms = 0;
        KIT_OK(store_tick(s, now_ms, &k.m));
        sched_yield();
    }
    /* The ring has it all, but as it was. */
    assert_int_equal(store_read_tail(s, m->uid, 0, 1 << 20, true, &b, &next), ERR_NOT_FOUND);
    buf_fini(&b);
    struct seen w = check(&k, s, m, m->end, 1 << 20);
    assert_int_equal(w.kept, 5); /* 3, two tombstones, 9, and that */
    for (int i = 0; i < 2; i++) {
        int64_t last = m->end;
        put(&k, s, m, one + 2, 1, false, 7000, 10);
        kit_commit(&k, s);
        now_ms += i == 0 ? 999 : 1;
        KIT_OK(segment_switch(s, now_ms, &k.m));
        while (part_get(s, m->uid)->clean.to <= last) {
            s->dirty_look_ms = 0;
            KIT_OK(store_tick(s, now_ms, &k.m));
            sched_yield();
        }
        w = check(&k, s, m, m->end, 1 << 20);
        assert_int_equal(w.kept, i == 0 ? 5 : 3);
    }
    free(m);
    store_close(s);
    kit_fini(&k);
}

/* A model of what the owner knows of transactions. */
struct owner {
    int64_t last_stable;
    struct store_aborted aborted[3];
};

static enum err tell_stability(void *arg, uint32_t uid, struct store_stability *out)
{
    const struct owner *o = arg;
    out->last_stable = o->last_stable;
    out->aborted = malloc(sizeof o->aborted);
    memcpy(out->aborted, o->aborted, sizeof o->aborted);
    out->aborted_count = 3;
    return OK;
}

static void append_as(struct kit *k, struct store *s, struct model *m, int64_t producer,
                      int16_t attributes, struct slice key)
{
    struct record r = {.timestamp = 1000, .key = key, .value = slice_str("value")};
    struct batch_header h;
    int64_t base;
    batch_builder_reset(&k->builder);
    assert_int_equal(batch_add(&k->builder, &r), OK);
    struct slice b = batch_finish(&k->builder);
    assert_int_equal(batch_read_header(b, &h), OK);
    h.producer_id = producer;
    h.attributes = attributes;
    batch_seal((uint8_t *)(uintptr_t)b.data, b.len, &h);
    assert_int_equal(store_append(s, m->uid, (uint8_t *)(uintptr_t)b.data, b.len, &base), OK);
    m->end++;
}

static void append_marker(struct store *s, struct model *m, int64_t producer, bool commit)
{
    struct txn_marker t = {.producer_id = producer, .commit = commit, .timestamp = 1000};
    uint8_t batch[TXN_MARKER_BYTES];
    int64_t base;
    txn_marker_write(&t, batch);
    assert_int_equal(store_append(s, m->uid, batch, sizeof batch, &base), OK);
    m->end++;
}

static bool put_offset(void *arg, const struct record *r)
{
    struct buf *b = arg;
    buf_printf(b, "%lld ", (long long)r->offset);
    return true;
}

/* Batches of one record each: one of a transaction reaches no further than that, or readers would
 * take it for a part of a later one of its producer. */
static void offsets_left(struct kit *k, struct store *s, const struct model *m, char *text)
{
    struct store_slices *x;
    struct batch_header h;
    struct buf b;
    buf_init(&b, 1000);
    KIT_OK(store_read(s, m->uid, 0, 1 << 20, true, &x, &k->m));
    assert_int_equal(x->next, m->end);
    for (size_t i = 0; i < x->count; i++) {
        struct slice batch = slice_make(x->iov[i].iov_base, x->iov[i].iov_len);
        KIT_OK(batch_walk(batch, 1 << 20, put_offset, &b, &k->m));
        KIT_OK(batch_read_header(batch, &h));
        assert_true(h.last_offset_delta == 0 || !(h.attributes & BATCH_TRANSACTIONAL));
    }
    snprintf(text, 100, "%s", buf_text(&b));
    store_slices_free(x);
    buf_fini(&b);
}

static void test_transactions_are_cleaned_as_their_owner_says(void **state)
{
    const int16_t txn = BATCH_TRANSACTIONAL;
    struct kit k;
    kit_init(&k);
    struct store *s = kit_open(&k, &k.writer);
    struct store_topic t = compacted(&k, s, "a", 1);
    struct model *m = model_new(t.uid);
    struct owner o = {.last_stable = 8, .aborted = {{8, 20, 30}, {7, 1, 3}, {7, 20, 30}}};
    char left[100];
    store_set_stability(s, tell_stability, &o);
    append_as(&k, s, m, 8, txn, slice_str("a"));                     /* 0: superseded by 7 */
    append_as(&k, s, m, 7, txn, slice_str("b"));                     /* 1: aborted */
    append_as(&k, s, m, 8, txn, slice_str("b"));                     /* 2 */
    append_marker(s, m, 7, false);                                   /* 3 */
    append_marker(s, m, 8, true);                                    /* 4 */
    append_as(&k, s, m, 7, txn, slice_str("c"));                     /* 5: its next, committed */
    append_marker(s, m, 7, true);                                    /* 6 */
    append_as(&k, s, m, -1, 0, slice_str("a"));                      /* 7 */
    append_as(&k, s, m, 7, txn, slice_str("a"));                     /* 8: open */
    append_as(&k, s, m, 7, txn, slice_str("c"));                     /* 9: open */
    kit_commit(&k, s);
    int64_t now_ms = 1500;
    KIT_OK(segment_switch(s, now_ms, &k.m));
    while (part_get(s, m->uid)->clean.to < 8) {
        s->dirty_look_ms = 0;
        KIT_OK(store_tick(s, now_ms, &k.m));
        sched_yield();
    }
    offsets_left(&k, s, m, left);
    assert_string_equal(left, "2 3 4 5 6 7 8 9 ");
    append_marker(s, m, 7, true);                                    /* 10 */
    append_as(&k, s, m, 7, txn, slice_str("d"));                     /* 11: its marker goes */
    append_marker(s, m, 7, true);                                    /* 12 */
    kit_commit(&k, s);
    o.last_stable = 13;
    now_ms = 2001; /* markers of 1000 are old */
    KIT_OK(segment_switch(s, now_ms, &k.m));
    while (part_get(s, m->uid)->clean.to < 13) {
        s->dirty_look_ms = 0;
        KIT_OK(store_tick(s, now_ms, &k.m));
        sched_yield();
    }
    offsets_left(&k, s, m, left);
    assert_string_equal(left, "2 3 8 9 11 ");
    int64_t to, retention_ms;
    assert_int_equal(store_cleaned(s, m->uid, &to, &retention_ms), OK);
    assert_int_equal(to, 13);
    assert_int_equal(retention_ms, 1000);
    o.aborted[1] = (struct store_aborted){7, 20, 30}; /* what was aborted first is forgotten */
    append_as(&k, s, m, -1, 0, slice_str("e"));                      /* 13 */
    append_as(&k, s, m, 8, txn, slice_str("f"));                     /* 14: aborted */
    append_marker(s, m, 8, false);                                   /* 15 */
    kit_commit(&k, s);
    o.last_stable = 16;
    o.aborted[0] = (struct store_aborted){8, 14, 15};
    KIT_OK(segment_switch(s, now_ms, &k.m));
    while (part_get(s, m->uid)->clean.to < 16) {
        s->dirty_look_ms = 0;
        KIT_OK(store_tick(s, now_ms, &k.m));
        sched_yield();
    }
    offsets_left(&k, s, m, left);
    assert_string_equal(left, "2 8 9 11 13 15 "); /* its marker has gone, the new one's has not */
    free(m);
    store_close(s);
    kit_fini(&k);
}

static int64_t clean_at(struct kit *k, struct store *s, uint32_t uid, int64_t now_ms)
{
    for (int i = 0; i < 4; i++) {
        s->dirty_look_ms = 0;
        KIT_OK(store_tick(s, now_ms, &k->m));
        wait_job(s);
    }
    return part_get(s, uid)->clean.to;
}

/* What is younger than min.compaction.lag.ms stays dirty, however dirty it is. */
static void test_min_lag_says_what_is_too_young(void **state)
{
    struct kit k;
    kit_init(&k);
    struct store *s = kit_open(&k, &k.writer);
    struct store_topic t = compacted(&k, s, "a", 1);
    struct model *m = model_new(t.uid);
    const int32_t keys[] = {1, 2};
    t.compaction = (struct store_compaction){true, 0.1, 5000, INT64_MAX, 1000};
    KIT_OK(store_topic_alter(s, &t, &k.m));
    put(&k, s, m, keys, 2, false, 10000, 10);
    put(&k, s, m, keys, 2, false, 10010, 10);
    kit_commit(&k, s);
    KIT_OK(segment_switch(s, 10020, &k.m));
    put(&k, s, m, keys, 2, false, 14000, 10);
    kit_commit(&k, s);
    KIT_OK(segment_switch(s, 14020, &k.m));
    assert_int_equal(clean_at(&k, s, t.uid, 12000), 0);
    assert_int_equal(clean_at(&k, s, t.uid, 16000), 4);
    assert_int_equal(clean_at(&k, s, t.uid, 18999), 4);
    assert_int_equal(clean_at(&k, s, t.uid, 19001), 6);
    assert_int_equal(check(&k, s, m, 6, 1 << 20).dead, 0);
    free(m);
    store_close(s);
    kit_fini(&k);
}

/* What has been dirty for max.compaction.lag.ms is cleaned, however little it is: counted from its
 * first batch, whatever times come behind it. */
static void test_max_lag_says_what_is_too_old(void **state)
{
    struct kit k;
    kit_init(&k);
    struct store *s = kit_open(&k, &k.writer);
    struct store_topic t = compacted(&k, s, "a", 1);
    struct model *m = model_new(t.uid);
    const int32_t keys[] = {1, 2};
    t.compaction = (struct store_compaction){true, 1, 0, INT64_MAX, 1000};
    KIT_OK(store_topic_alter(s, &t, &k.m));
    put(&k, s, m, keys, 2, false, 10000, 10);
    put(&k, s, m, keys, 2, false, 40000, 10);
    put(&k, s, m, keys, 2, false, 900000, 10); /* its clock is ahead */
    kit_commit(&k, s);
    KIT_OK(segment_switch(s, 40020, &k.m));
    assert_int_equal(clean_at(&k, s, t.uid, 90000), 0); /* never dirty enough */
    t.compaction.max_compaction_lag_ms = 60000;
    KIT_OK(store_topic_alter(s, &t, &k.m));
    assert_int_equal(clean_at(&k, s, t.uid, 69000), 0);
    assert_int_equal(clean_at(&k, s, t.uid, 70010), 6);
    assert_int_equal(check(&k, s, m, 6, 1 << 20).dead, 0);
    free(m);
    store_close(s);
    kit_fini(&k);
}

/* What has no time, as what compaction has emptied, does not hide what lies behind it. */
static void test_max_lag_goes_by_the_first_time_there_is(void **state)
{
    struct kit k;
    kit_init(&k);
    struct store *s = kit_open(&k, &k.writer);
    struct store_topic t = compacted(&k, s, "a", 2);
    struct model *m = model_new(t.uid), *other = model_new(t.uid + 1);
    const int32_t keys[] = {1, 2};
    t.compaction = (struct store_compaction){true, 1, 0, 60000, 1000};
    KIT_OK(store_topic_alter(s, &t, &k.m));
    put(&k, s, m, keys, 2, false, -1, 10);
    put(&k, s, m, keys, 2, false, 10000, 10);
    put(&k, s, other, keys, 2, false, -1, 100000); /* only its index rows say more */
    put(&k, s, other, keys, 2, false, 10000, 10);
    kit_commit(&k, s);
    KIT_OK(segment_switch(s, 40020, &k.m));
    assert_int_equal(clean_at(&k, s, t.uid, 69000), 0);
    assert_int_equal(part_get(s, other->uid)->clean.to, 0);
    assert_int_equal(clean_at(&k, s, t.uid, 70010), 4);
    assert_int_equal(part_get(s, other->uid)->clean.to, 4);
    assert_int_equal(check(&k, s, m, 4, 1 << 20).dead, 0);
    free(other);
    free(m);
    store_close(s);
    kit_fini(&k);
}

/* Few batches are read for it at a time, and all in the end. */
static void test_max_lag_of_many_partitions_is_found_bit_by_bit(void **state)
{
    enum { MANY = 100 };
    struct kit k;
    kit_init(&k);
    struct store *s = kit_open(&k, &k.writer);
    struct store_topic t = compacted(&k, s, "a", MANY);
    const int32_t keys[] = {1, 2};
    struct rocks *r = s->rocks;
    t.compaction = (struct store_compaction){true, 1, 0, 60000, 1000};
    KIT_OK(store_topic_alter(s, &t, &k.m));
    for (uint32_t i = 0; i < MANY; i++) {
        struct model *m = model_new(t.uid + i);
        put(&k, s, m, keys, 2, false, 10000, 10);
        free(m);
    }
    kit_commit(&k, s);
    KIT_OK(segment_switch(s, 40020, &k.m));
    size_t before = 0;
    for (int looks = 1; before < MANY; looks++) {
        struct compaction *c = NULL;
        rocksdb_iterator_t *rows =
            rocksdb_create_iterator_cf(r->db, r->read_cached, r->cf[CF_META]);
        s->dirty_look_ms = 5000000;
        KIT_OK(dirty_find(s, rows, 4000000, &c));
        rocksdb_iter_destroy(rows);
        assert_non_null(c);
        assert_true(c->found_count > before && c->found_count <= before + 20);
        before = c->found_count;
        assert_true(s->dirty_look_ms == 4000000 || before == MANY);
        compaction_free(c);
    }
    store_close(s);
    kit_fini(&k);
}

/* With both policies, retention.bytes counts what compaction has left, not what was written. */
static void test_retention_counts_what_is_left(void **state)
{
    struct kit k;
    kit_init(&k);
    k.writer.segment_bytes = 128 << 10;
    struct store *s = kit_open(&k, &k.writer);
    struct store_topic t = compacted(&k, s, "a", 1);
    struct model *m = model_new(t.uid);
    int64_t now_ms = 1000000;
    for (int i = 0; i < 3000; i++) {
        put_random(&k, s, m, 1000, 1000 + i, 100); /* 4 MB, of which 150 KB stay */
        kit_commit(&k, s);
    }
    KIT_OK(segment_switch(s, now_ms, &k.m));
    clean(&k, s, m, m->end, &now_ms);
    t.cleanup = STORE_CLEANUP_COMPACT | STORE_CLEANUP_DELETE;
    t.retention_bytes = 1 << 20;
    KIT_OK(store_topic_alter(s, &t, &k.m));
    KIT_OK(store_tick(s, now_ms, &k.m));
    assert_int_equal(kit_offsets(s, t.uid).log_start, 0);
    t.retention_bytes = 50 << 10;
    KIT_OK(store_topic_alter(s, &t, &k.m));
    for (int i = 0; i < 3; i++) {
        KIT_OK(store_tick(s, now_ms, &k.m));
    }
    int64_t start = kit_offsets(s, t.uid).log_start;
    assert_true(start > m->end / 3 && start < m->end);
    assert_true(part_get(s, t.uid)->clean.live >= 50 << 10);
    assert_true(part_get(s, t.uid)->clean.live < 80 << 10);
    free(m);
    store_close(s);
    kit_fini(&k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_last_value_of_each_key_is_left),
        cmocka_unit_test(test_small_map_takes_several_passes),
        cmocka_unit_test(test_tombstones_go_after_their_time),
        cmocka_unit_test(test_transactions_are_cleaned_as_their_owner_says),
        cmocka_unit_test(test_min_lag_says_what_is_too_young),
        cmocka_unit_test(test_max_lag_says_what_is_too_old),
        cmocka_unit_test(test_max_lag_goes_by_the_first_time_there_is),
        cmocka_unit_test(test_max_lag_of_many_partitions_is_found_bit_by_bit),
        cmocka_unit_test(test_retention_counts_what_is_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
