/* The journal's rows on a store. A file of its own, so that what runs on rows in memory needs no
 * RocksDB.
 *
 * The argument of each call is the store; NULL while it is away (it broke, and is being opened
 * again). */
#include "kafka-server/broker/journal.h"

static enum err store_rows_put(void *arg, struct slice key, struct slice value)
{
    return arg != NULL ? store_put(arg, key, value) : ERR_IO;
}

static enum err store_rows_delete(void *arg, struct slice key)
{
    return arg != NULL ? store_delete(arg, key) : ERR_IO;
}

static enum err store_rows_commit(void *arg, struct errmsg *m)
{
    return arg != NULL ? store_commit(arg, m) : err_set(m, ERR_IO, "the store is away");
}

static bool store_rows_in_doubt(void *arg)
{
    return arg != NULL && store_state(arg) == STORE_BROKEN;
}

static enum err store_rows_append(void *arg, uint32_t uid, uint8_t *batch, size_t len,
                                  int64_t *base_offset)
{
    return arg != NULL ? store_append(arg, uid, batch, len, base_offset) : ERR_IO;
}

static void store_rows_rollback(void *arg)
{
    if (arg != NULL) {
        store_rollback(arg);
    }
}

static enum err store_rows_scan(void *arg, struct slice prefix, store_row_fn *fn, void *fn_arg,
                                struct errmsg *m)
{
    return arg != NULL ? store_rows(arg, prefix, fn, fn_arg, m)
                       : err_set(m, ERR_IO, "the store is away");
}

enum err journal_open(struct journal **out, struct store *own, struct errmsg *m)
{
    const struct journal_rows rows = {
        .put = store_rows_put,
        .del = store_rows_delete,
        .commit = store_rows_commit,
        .in_doubt = store_rows_in_doubt,
        .append = store_rows_append,
        .rollback = store_rows_rollback,
        .scan = store_rows_scan,
        .arg = own,
    };
    return journal_open_rows(out, &rows, m);
}
