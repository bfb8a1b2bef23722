/* One commit a turn: see journal.h for the order of things.
 *
 * A commit costs about the same for one row and for a thousand (rocksdb's WriteBatch), so a turn
 * that handled a thousand offset commits pays once. A turn that wrote nothing pays nothing.
 *
 * A put that fails makes the turn fail: half of what a handler meant to write must never be stored.
 * After any failure the store's pending rows are rolled back, and everyone is told.
 *
 * A commit that failed may be in the store all the same, and shows when that is opened again. Until
 * then what memory has is in doubt: who waits hears ERR_IO also where nothing was to be written,
 * because an answer that rests on the state before that commit would be taken back by it. */
#include "kafka-server/broker/journal.h"

#include <stdlib.h>

#include "shared/base/log.h"

struct journal {
    struct journal_rows rows;
    struct journal_owner *owners;
    struct journal_wait waits; /* head of a ring */
    size_t put_count;          /* rows, deletions and batches of this turn */
    size_t bytes;              /* of those, and journal_work */
    enum err put_err;          /* first failure of a put in this turn */
    bool touched;
    bool flushing;
    bool doubt; /* nobody knows what the rows say, until there is another store */
    struct log_limit failure_log;
};

#define JOURNAL_FAILURE_LOG_MS 5000 /* a broken disk says so this often */
#define JOURNAL_FLUSHES_MAX    8    /* callbacks of a flush may ask for another */

static void ring_init(struct journal_wait *head)
{
    head->prev = head->next = head;
}

static void ring_push(struct journal_wait *head, struct journal_wait *w)
{
    w->prev = head->prev;
    w->next = head;
    head->prev->next = w;
    head->prev = w;
}

static void ring_unlink(struct journal_wait *w)
{
    w->prev->next = w->next;
    w->next->prev = w->prev;
    w->prev = w->next = NULL;
}

static enum err write_and_commit(struct journal *j, struct errmsg *m)
{
    for (struct journal_owner *o = j->owners; o != NULL; o = o->next) {
        o->write(o, j);
    }
    enum err e = j->put_err;
    if (e != OK) {
        err_set(m, e, "a row could not be added to the commit");
    } else if (j->doubt) {
        e = err_set(m, ERR_IO, "a commit failed before: the store must be opened again");
    } else if (j->put_count > 0) {
        e = j->rows.commit(j->rows.arg, m);
        j->doubt = e != OK && j->rows.in_doubt != NULL && j->rows.in_doubt(j->rows.arg);
    }
    if (e != OK) {
        j->rows.rollback(j->rows.arg);
    }
    return e;
}

void journal_flush(struct journal *j)
{
    ASSERT(!j->flushing);
    if (!journal_pending(j)) {
        return;
    }
    j->flushing = true;
    struct errmsg m = {""};
    enum err e = write_and_commit(j, &m);
    unsigned suppressed = 0;
    if (e != OK && log_limit_pass(&j->failure_log, JOURNAL_FAILURE_LOG_MS, &suppressed)) {
        log_error("commit failed puts=%zu error=%s suppressed=%u: %s", j->put_count, err_name(e),
                  suppressed, m.text);
    }
    j->put_count = 0;
    j->bytes = 0;
    j->put_err = OK;
    j->touched = false;
    for (struct journal_owner *o = j->owners; o != NULL; o = o->next) {
        o->done(o, e);
    }
    /* Those who wait now are told; those who begin to wait in a callback belong to the next flush.
     * The head moves to the stack, so that journal_forget of one of them works in between. */
    struct journal_wait told;
    ring_init(&told);
    if (j->waits.next != &j->waits) {
        told = j->waits;
        told.next->prev = &told;
        told.prev->next = &told;
        ring_init(&j->waits);
    }
    j->flushing = false;
    while (told.next != &told) {
        struct journal_wait *w = told.next;
        ring_unlink(w);
        w->done(w, e);
    }
}

bool journal_pending(const struct journal *j)
{
    return j->put_count > 0 || j->touched || j->put_err != OK || j->waits.next != &j->waits;
}

void journal_fail(struct journal *j, enum err e)
{
    if (e != OK && j->put_err == OK) {
        j->put_err = e;
    }
}

static void note_put(struct journal *j, size_t bytes, enum err e)
{
    j->put_count++;
    j->bytes += bytes;
    journal_fail(j, e);
}

void journal_put(struct journal *j, struct slice key, struct slice value)
{
    note_put(j, key.len + value.len, j->rows.put(j->rows.arg, key, value));
}

void journal_delete(struct journal *j, struct slice key)
{
    note_put(j, key.len, j->rows.del(j->rows.arg, key));
}

enum err journal_append(struct journal *j, uint32_t uid, uint8_t *batch, size_t len,
                        int64_t *base_offset)
{
    enum err e = j->rows.append(j->rows.arg, uid, batch, len, base_offset);
    if (e == OK) {
        j->put_count++;
        j->bytes += len;
    }
    return e;
}

size_t journal_bytes(const struct journal *j)
{
    return j->bytes;
}

void journal_work(struct journal *j, size_t bytes)
{
    j->bytes += bytes;
}

void journal_touch(struct journal *j)
{
    j->touched = true;
}

void journal_wait(struct journal *j, struct journal_wait *w)
{
    ASSERT(!journal_waits(w));
    ring_push(&j->waits, w);
}

void journal_forget(struct journal *j, struct journal_wait *w)
{
    (void)j; /* in the signature so that callers show whose ring it is */
    if (journal_waits(w)) {
        ring_unlink(w);
    }
}

void journal_add_owner(struct journal *j, struct journal_owner *o)
{
    o->next = j->owners;
    j->owners = o;
}

void journal_remove_owner(struct journal *j, struct journal_owner *o)
{
    for (struct journal_owner **p = &j->owners; *p != NULL; p = &(*p)->next) {
        if (*p == o) {
            *p = o->next;
            return;
        }
    }
}

enum err journal_scan(struct journal *j, struct slice prefix, store_row_fn *fn, void *arg,
                      struct errmsg *m)
{
    return j->rows.scan(j->rows.arg, prefix, fn, arg, m);
}

static void flush_all(struct journal *j)
{
    for (int i = 0; i < JOURNAL_FLUSHES_MAX && journal_pending(j); i++) {
        journal_flush(j);
    }
}

void journal_lose_store(struct journal *j)
{
    flush_all(j);
    j->rows.arg = NULL;
}

void journal_hand_over(struct journal *j, struct journal *next)
{
    flush_all(j);
    ASSERT(j->owners == NULL);
    journal_fail(next, j->put_err);
    while (j->waits.next != &j->waits) {
        struct journal_wait *w = j->waits.next;
        ring_unlink(w);
        ring_push(&next->waits, w);
    }
    free(j);
}

enum err journal_open_rows(struct journal **out, const struct journal_rows *rows, struct errmsg *m)
{
    *out = calloc(1, sizeof **out);
    if (*out == NULL) {
        return err_set(m, ERR_NOMEM, "no memory for the journal");
    }
    (*out)->rows = *rows;
    ring_init(&(*out)->waits);
    return OK;
}

void journal_close(struct journal *j)
{
    if (j == NULL) {
        return;
    }
    flush_all(j);
    ASSERT(j->owners == NULL);
    free(j);
}
