/* A table of rows in memory that behaves like the store: for tests of what writes through the
 * journal. */
#ifndef CULEX_TESTS_MEMORY_ROWS_H
#define CULEX_TESTS_MEMORY_ROWS_H

#include <stdlib.h>

#include "kafka-server/broker/journal.h"

#define MEMORY_ROWS_MAX 4096

struct memory_row {
    uint8_t key[1100];
    size_t key_len;
    uint8_t *value;
    size_t value_len;
    bool deletes;
};

static struct {
    struct memory_row rows[MEMORY_ROWS_MAX], pending[MEMORY_ROWS_MAX];
    size_t count, pending_count;
    int commits;
    enum err fail_commit, fail_put, fail_append; /* OK: works */
    bool in_doubt; /* a commit that fails may have landed */
    int64_t end, pending_end; /* one partition is enough */
} mem;

static void memory_add(struct memory_row *list, size_t *count, struct slice key, struct slice value,
                       bool deletes)
{
    ASSERT(*count < MEMORY_ROWS_MAX && key.len <= sizeof list[0].key);
    struct memory_row *r = &list[(*count)++];
    memcpy(r->key, key.data, key.len);
    r->key_len = key.len;
    r->value = malloc(value.len + 1);
    if (value.len > 0) {
        memcpy(r->value, value.data, value.len);
    }
    r->value_len = value.len;
    r->deletes = deletes;
}

static enum err memory_put(void *arg, struct slice key, struct slice value)
{
    if (mem.fail_put == OK) {
        memory_add(mem.pending, &mem.pending_count, key, value, false);
    }
    return mem.fail_put;
}

static enum err memory_del(void *arg, struct slice key)
{
    if (mem.fail_put == OK) {
        memory_add(mem.pending, &mem.pending_count, key, slice_make(NULL, 0), true);
    }
    return mem.fail_put;
}

static enum err memory_append(void *arg, uint32_t uid, uint8_t *batch, size_t len,
                              int64_t *base_offset)
{
    if (mem.fail_append == OK) {
        *base_offset = mem.pending_end++;
    }
    return mem.fail_append;
}

static void memory_rollback(void *arg)
{
    mem.pending_end = mem.end;
    while (mem.pending_count > 0) {
        free(mem.pending[--mem.pending_count].value);
    }
}

static inline const struct memory_row *memory_find(struct slice key)
{
    for (size_t i = 0; i < mem.count; i++) {
        if (slice_eq(slice_make(mem.rows[i].key, mem.rows[i].key_len), key)) {
            return &mem.rows[i];
        }
    }
    return NULL;
}

static enum err memory_commit(void *arg, struct errmsg *m)
{
    mem.commits++;
    if (mem.fail_commit != OK) {
        return err_set(m, mem.fail_commit, "as the test wants it");
    }
    for (size_t i = 0; i < mem.pending_count; i++) {
        struct memory_row *p = &mem.pending[i];
        struct memory_row *old = (struct memory_row *)memory_find(slice_make(p->key, p->key_len));
        if (old != NULL) {
            free(old->value);
            *old = mem.rows[--mem.count];
        }
        if (!p->deletes) {
            memory_add(mem.rows, &mem.count, slice_make(p->key, p->key_len),
                       slice_make(p->value, p->value_len), false);
        }
    }
    mem.end = mem.pending_end;
    memory_rollback(NULL);
    return OK;
}

static inline bool memory_in_doubt(void *arg)
{
    return mem.in_doubt;
}

static enum err memory_scan(void *arg, struct slice prefix, store_row_fn *fn, void *fn_arg,
                            struct errmsg *m)
{
    for (size_t i = 0; i < mem.count; i++) {
        const struct memory_row *r = &mem.rows[i];
        if (r->key_len >= prefix.len && memcmp(r->key, prefix.data, prefix.len) == 0 &&
            !fn(fn_arg, slice_make(r->key, r->key_len), slice_make(r->value, r->value_len))) {
            break;
        }
    }
    return OK;
}

static inline void memory_clear(void)
{
    memory_rollback(NULL);
    while (mem.count > 0) {
        free(mem.rows[--mem.count].value);
    }
    mem.fail_commit = mem.fail_put = mem.fail_append = OK;
    mem.in_doubt = false;
    mem.end = mem.pending_end = 0;
    mem.commits = 0;
}

static inline struct journal *memory_journal(void)
{
    const struct journal_rows rows = {
        .put = memory_put,
        .del = memory_del,
        .commit = memory_commit,
        .in_doubt = memory_in_doubt,
        .append = memory_append,
        .rollback = memory_rollback,
        .scan = memory_scan,
    };
    struct journal *j = NULL;
    ASSERT(journal_open_rows(&j, &rows, NULL) == OK);
    return j;
}

#endif
