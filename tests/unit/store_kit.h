/* What the tests of the store share: a directory that goes away, batches with known content,
 * checks. */
#ifndef CULEX_TESTS_UNIT_STORE_KIT_H
#define CULEX_TESTS_UNIT_STORE_KIT_H

#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "shared/record/record.h"
#include "shared/store/store.h"

#define KIT_OK(call)                                                                               \
    do {                                                                                           \
        struct errmsg m_ = {{0}};                                                                  \
        (void)m_;                                                                                  \
        enum err e_ = (call);                                                                      \
        if (e_ != OK) {                                                                            \
            fail_msg("%s: %s", #call, err_name(e_));                                               \
        }                                                                                          \
    } while (0)

struct kit {
    char root[256]; /* removed by kit_fini */
    char dir[300];  /* of the store */
    char follower_dir[300];
    struct errmsg m;
    struct batch_builder builder;
    struct store_options writer;
    struct store_options follower;
};

static inline void kit_init(struct kit *k)
{
    const char *tmp = getenv("TMPDIR");
    memset(k, 0, sizeof *k);
    snprintf(k->root, sizeof k->root, "%s/culex-store-XXXXXX", tmp ? tmp : "/tmp");
    assert_non_null(mkdtemp(k->root));
    snprintf(k->dir, sizeof k->dir, "%s/store", k->root);
    snprintf(k->follower_dir, sizeof k->follower_dir, "%s/follower", k->root);
    batch_builder_init(&k->builder, 8u << 20);
    k->writer = (struct store_options){.dir = k->dir, .role = STORE_WRITER, .tail_bytes = 1 << 20};
    k->follower = (struct store_options){
        .dir = k->dir, .role = STORE_FOLLOWER, .follower_dir = k->follower_dir};
}

static inline int kit_remove_entry(const char *path, const struct stat *st, int type,
                                   struct FTW *at)
{
    return remove(path);
}

static inline void kit_remove(const char *path)
{
    assert_int_equal(nftw(path, kit_remove_entry, 16, FTW_DEPTH | FTW_PHYS), 0);
}

static inline void kit_fini(struct kit *k)
{
    batch_builder_fini(&k->builder);
    kit_remove(k->root);
}

static inline struct store *kit_open(struct kit *k, const struct store_options *o)
{
    struct store *s;
    enum err e = store_open(&s, o, &k->m);
    if (e != OK) {
        fail_msg("store_open: %s: %s", err_name(e), k->m.text);
    }
    return s;
}

static inline struct store_topic kit_topic(struct store *s, const char *name, int32_t partitions)
{
    struct store_topic t = {.partition_count = partitions,
                            .retention_ms = -1,
                            .retention_bytes = -1,
                            .cleanup = STORE_CLEANUP_DELETE};
    struct errmsg m;
    snprintf(t.name, sizeof t.name, "%s", name);
    enum err e = store_topic_create(s, &t, &m);
    if (e != OK) {
        fail_msg("store_topic_create: %s: %s", err_name(e), m.text);
    }
    return t;
}

/* A batch of `count` records; record i has timestamp ts[i] (or ts0 when ts is NULL), and a value of
 * `bytes` bytes that begins with the text "uid:offset". first: the offset of the first one. */
static inline struct slice kit_batch(struct kit *k, uint32_t uid, int64_t first, int count,
                                     int64_t ts0, const int64_t *ts, size_t bytes)
{
    char *value = calloc(1, bytes + 64);
    batch_builder_reset(&k->builder);
    for (int i = 0; i < count; i++) {
        int n = snprintf(value, 64, "%u:%lld", uid, (long long)first + i);
        size_t len = bytes > (size_t)n ? bytes : (size_t)n;
        struct record r = {.timestamp = ts ? ts[i] : ts0, .value = slice_make(value, len)};
        assert_int_equal(batch_add(&k->builder, &r), OK);
    }
    free(value);
    return batch_finish(&k->builder);
}

/* Appends one batch to the pending commit; returns the end after it. */
static inline int64_t kit_append(struct kit *k, struct store *s, uint32_t uid, int64_t first,
                                 int count, int64_t ts, size_t bytes)
{
    struct slice b = kit_batch(k, uid, first, count, ts, NULL, bytes);
    int64_t base = -1;
    enum err e = store_append(s, uid, (uint8_t *)(uintptr_t)b.data, b.len, &base);
    assert_int_equal(e, OK);
    assert_int_equal(base, first);
    return base + count;
}

static inline void kit_commit(struct kit *k, struct store *s)
{
    enum err e = store_commit(s, &k->m);
    if (e != OK) {
        fail_msg("store_commit: %s: %s", err_name(e), k->m.text);
    }
}

static inline struct store_offsets kit_offsets(struct store *s, uint32_t uid)
{
    struct store_offsets o;
    assert_int_equal(store_offsets(s, uid, &o), OK);
    return o;
}

struct kit_check {
    uint32_t uid;
    int64_t next;
};

static inline bool kit_check_record(void *arg, const struct record *r)
{
    struct kit_check *c = arg;
    char want[64];
    int n = snprintf(want, sizeof want, "%u:%lld", c->uid, (long long)c->next);
    assert_int_equal(r->offset, c->next);
    assert_true(r->value.len >= (size_t)n);
    assert_memory_equal(r->value.data, want, (size_t)n);
    c->next++;
    return true;
}

/* Checks CRC, offsets and values of a batch; returns the offset after it. */
static inline int64_t kit_check_batch(uint32_t uid, int64_t expected, struct slice batch)
{
    struct batch_header h;
    struct errmsg m = {{0}};
    assert_int_equal(batch_read_header(batch, &h), OK);
    assert_int_equal(h.base_offset, expected);
    assert_int_equal(batch_total_bytes(&h), batch.len);
    enum err e = batch_check(batch, &m);
    if (e != OK) {
        fail_msg("batch at %lld: %s", (long long)expected, m.text);
    }
    struct kit_check c = {uid, expected};
    assert_int_equal(batch_walk(batch, 64u << 20, kit_check_record, &c, &m), OK);
    assert_int_equal(c.next, batch_next_offset(&h));
    return c.next;
}

/* Reads [from, to), and beyond if more is written meanwhile, with store_read and checks every
 * record; returns where it ended. from: a batch's first offset. */
static inline int64_t kit_read_all(struct kit *k, struct store *s, uint32_t uid, int64_t from,
                                int64_t to, size_t max_bytes)
{
    while (from < to) {
        struct store_slices *x;
        enum err e = store_read(s, uid, from, max_bytes, true, &x, &k->m);
        if (e != OK) {
            fail_msg("store_read at %lld: %s: %s", (long long)from, err_name(e), k->m.text);
        }
        assert_true(x->count > 0);
        size_t bytes = 0;
        for (size_t i = 0; i < x->count; i++) {
            from = kit_check_batch(uid, from, slice_make(x->iov[i].iov_base, x->iov[i].iov_len));
            bytes += x->iov[i].iov_len;
        }
        assert_int_equal(bytes, x->bytes);
        assert_int_equal(from, x->next);
        store_slices_free(x);
    }
    return from;
}

#endif
