/* The journal: everything that the server writes in one turn of its loop becomes one store_commit,
 * and whoever must not answer before that waits here.
 *
 *      handlers ─▶ journal_put, journal_wait          during the turn
 *      journal_flush:  owners' write ─▶ commit ─▶ owners' done ─▶ waiters' done
 *
 * An owner (the group coordinator) keeps state in memory that its rows describe. Its `write` puts
 * the rows of what changed, as late as possible, so that ten changes of one group are one row; its
 * `done` hears how the commit ended: on failure nothing of the turn is stored, and the owner goes
 * back to what is.
 *
 * One thread at a time (own_state.h). `write` may put and delete, nothing else. `done` of a waiter
 * may put and wait again (that is the next flush); `done` of an owner may not. */
#ifndef CULEX_BROKER_JOURNAL_H
#define CULEX_BROKER_JOURNAL_H

#include "shared/store/store.h"

struct journal;

/* Where rows go: the store's calls, or a table in memory in a test. Meaning and errors as in
 * store.h. */
struct journal_rows {
    enum err (*put)(void *arg, struct slice key, struct slice value);
    enum err (*del)(void *arg, struct slice key);
    enum err (*commit)(void *arg, struct errmsg *m);
    /* After a commit that failed: may it turn out to be in the store, when that is opened again?
     * NULL: never. */
    bool (*in_doubt)(void *arg);
    enum err (*append)(void *arg, uint32_t uid, uint8_t *batch, size_t len, int64_t *base_offset);
    void (*rollback)(void *arg);
    enum err (*scan)(void *arg, struct slice prefix, store_row_fn *fn, void *fn_arg,
                     struct errmsg *m);
    void *arg;
};

/* One who waits for the end of this turn's commit. Embedded in its owner's memory. */
struct journal_wait {
    /* e is OK or why nothing was stored. Called once; w is free for other use before it is
     * called. */
    void (*done)(struct journal_wait *w, enum err e);
    struct journal_wait *prev, *next; /* NULL, NULL: not waiting */
};

struct journal_owner {
    void (*write)(struct journal_owner *o, struct journal *j);
    void (*done)(struct journal_owner *o, enum err e);
    struct journal_owner *next;
};

/* On the server's own store. ERR_NOMEM. */
enum err journal_open(struct journal **out, struct store *own, struct errmsg *m) MUST_CHECK;
/* On anything that behaves like one. *rows is copied; rows->arg must outlive the journal.
 * ERR_NOMEM. */
enum err journal_open_rows(struct journal **out, const struct journal_rows *rows,
                           struct errmsg *m) MUST_CHECK;
/* Flushes, then frees. Owners must have gone. */
void journal_close(struct journal *j);

/* The store is away: what is put fails with ERR_IO. A flush of nothing fails, too, where the last
 * commit is in doubt: owners must read what the next store says. What is pending is flushed
 * before. */
void journal_lose_store(struct journal *j);
/* There is another store, which has a journal and owners of its own that have read what it says:
 * who still waits in j waits in `next` from now on, and j is freed. Its owners must have gone. */
void journal_hand_over(struct journal *j, struct journal *next);

void journal_add_owner(struct journal *j, struct journal_owner *o);
void journal_remove_owner(struct journal *j, struct journal_owner *o);

/* Puts a row (or its deletion) into this turn's commit, after those before it. A failure is
 * remembered: it makes the whole flush fail, so there is nothing to check here. */
void journal_put(struct journal *j, struct slice key, struct slice value);
void journal_delete(struct journal *j, struct slice key);
/* Appends a batch of records to a partition of the own store, in this turn's commit: as
 * store_append. One that fails has no part in the commit, which goes on without it: the caller
 * answers for it. */
enum err journal_append(struct journal *j, uint32_t uid, uint8_t *batch, size_t len,
                        int64_t *base_offset) MUST_CHECK;
/* How much this turn has done, in bytes: of batches and rows that wait for its commit, and of what
 * was looked at for them (journal_work), stored or refused. Who has a lot to do and sees
 * JOURNAL_TURN_BYTES here waits (journal_wait) and goes on after it: so no turn grows without a
 * bound, and fetches and heartbeats have their turn. */
size_t journal_bytes(const struct journal *j);
void journal_work(struct journal *j, size_t bytes);
#define JOURNAL_TURN_BYTES (1u << 20)
/* An owner cannot write what it must: this flush fails with e. */
void journal_fail(struct journal *j, enum err e);
/* Asks for a flush although nothing was put yet: an owner has something to write. */
void journal_touch(struct journal *j);
/* w->done is called by the next journal_flush. */
void journal_wait(struct journal *j, struct journal_wait *w);
/* w is not called any more. Harmless when it does not wait. */
void journal_forget(struct journal *j, struct journal_wait *w);
static inline bool journal_waits(const struct journal_wait *w)
{
    return w->next != NULL;
}

/* Something is put, touched or waiting: flush before the turn ends. */
bool journal_pending(const struct journal *j);
/* Commits, then tells owners and waiters. Nothing pending: returns at once. */
void journal_flush(struct journal *j);

/* Rows with a prefix, in key order. Blocks. */
enum err journal_scan(struct journal *j, struct slice prefix, store_row_fn *fn, void *arg,
                      struct errmsg *m) MUST_CHECK;

#endif
