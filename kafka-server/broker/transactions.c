/* All transactional ids: finding them, storing what changed, ending what is over, taking back what
 * could not be stored.
 *
 *   key    "txn/s" transactional id                                       value  see txn.c
 *   key    "txn/i"                                  value  u64: producer ids below it are given out
 *
 * The first change of a transactional id in a turn keeps a copy of what it was; a commit that fails
 * brings the copy back. Offsets that wait for the end of their transaction are rows of their own:
 * transactions_offsets.c.
 *
 * The end of a transaction, in one call and so in one commit: a marker is appended to each
 * partition that is still there, the partitions' producers are told (producers.h), the offsets
 * become those of their groups or are thrown away, and the new state is a row.
 *
 * Producer ids are taken from the store in blocks: a block is given out only when the row that says
 * so is part of the same commit as the first answer with an id of it. */
#include "kafka-server/broker/transactions_int.h"

#include <stdlib.h>
#include <utlist.h>

#include "shared/base/clock.h"
#include "shared/base/list.h"
#include "shared/base/log.h"
#include "shared/record/control.h"

#define IDS_KEY           "txn/i"
#define IDS_BLOCK         1000 /* Kafka's */
#define COORDINATOR_EPOCH 0 /* there is one coordinator, and always was */

/* --- tables ----------------------------------------------------------------------------------- */

static struct held *find(const struct transactions *t, struct slice id)
{
    struct held *h = NULL;
    if (t != NULL && id.len > 0) {
        HASH_FIND(hh, t->table, id.data, id.len, h);
    }
    return h;
}

static struct held *add(struct transactions *t, struct slice id)
{
    struct held *h = calloc(1, sizeof *h + id.len);
    if (h != NULL) {
        memcpy(h->id, id.data, id.len);
        txn_init(&h->x, slice_make(h->id, id.len));
        HASH_ADD_KEYPTR(hh, t->table, h->id, id.len, h);
    }
    return h;
}

/* t->open holds exactly those with an open transaction. */
static void relist(struct transactions *t, struct held *h)
{
    bool open = h->x.state == TXN_ONGOING;
    if (open && !h->open) {
        DL_APPEND(t->open, h);
    } else if (!open && h->open) {
        DL_DELETE(t->open, h);
    }
    h->open = open;
}

static void drop(struct transactions *t, struct held *h)
{
    transactions_offsets_drop(t, h);
    if (h->open) {
        DL_DELETE(t->open, h);
    }
    HASH_DELETE(hh, t->table, h);
    txn_fini(&h->x);
    free(h);
}

/* --- rows ------------------------------------------------------------------------------------- */

static struct slice txn_key(struct transactions *t, struct slice id)
{
    buf_reset(&t->key);
    buf_put(&t->key, TXN_ROW_PREFIX, strlen(TXN_ROW_PREFIX));
    buf_put(&t->key, id.data, id.len);
    return buf_slice(&t->key);
}

/* --- the commit ------------------------------------------------------------------------------- */

/* Before the first change of a turn; false: without memory. */
static bool remember(struct transactions *t, struct held *h)
{
    if (h->changed) {
        return true;
    }
    struct change c = {.held = h};
    if (!list_reserve(&t->changes, &t->change_room, t->change_count + 1, sizeof *t->changes) ||
        txn_copy(&c.before, &h->x) != OK) {
        return false;
    }
    t->changes[t->change_count++] = c;
    h->changed = true;
    journal_touch(t->journal);
    return true;
}

static void write_rows(struct journal_owner *o, struct journal *j)
{
    struct transactions *t =
        (struct transactions *)((char *)o - offsetof(struct transactions, owner));
    for (size_t i = 0; i < t->change_count; i++) {
        const struct held *h = t->changes[i].held;
        if (h->x.state == TXN_NEW) {
            continue;
        }
        txn_encode(&h->x, &t->value);
        if (!buf_ok(&t->value)) {
            journal_fail(j, ERR_NOMEM);
            return;
        }
        journal_put(j, txn_key(t, h->x.id), buf_slice(&t->value));
    }
}

static void commit_done(struct journal_owner *o, enum err e)
{
    struct transactions *t =
        (struct transactions *)((char *)o - offsetof(struct transactions, owner));
    transactions_offsets_done(t, e);
    for (size_t i = 0; i < t->change_count; i++) {
        struct change *c = &t->changes[i];
        struct held *h = c->held;
        h->changed = false;
        if (e == OK) {
            h->stored = true;
            txn_fini(&c->before);
        } else {
            txn_fini(&h->x);
            h->x = c->before;
            relist(t, h);
        }
        if (h->x.state == TXN_NEW) {
            drop(t, h);
        }
    }
    t->change_count = 0;
    if (e != OK && t->ids_before >= 0) {
        t->next_id = t->ids_end = t->ids_before; /* what is left of the block before is let go */
    }
    t->ids_before = -1;
}

/* --- what the machine asks for ---------------------------------------------------------------- */

static int64_t fresh_id(void *arg)
{
    struct transactions *t = arg;
    if (t->next_id == t->ids_end) {
        uint8_t v[8];
        if (t->ids_before < 0) {
            t->ids_before = t->ids_end;
        }
        t->ids_end += IDS_BLOCK;
        be64_put(v, (uint64_t)t->ids_end);
        journal_put(t->journal, slice_str(IDS_KEY), slice_make(v, sizeof v));
    }
    return t->next_id++;
}

/* Appends a marker and tells the partition's producers. False: there is no such partition. */
static bool write_marker(struct transactions *t, uint32_t uid, struct producers_marker *k)
{
    uint8_t batch[TXN_MARKER_BYTES];
    const struct txn_marker m = {
        .producer_id = k->producer_id,
        .producer_epoch = k->producer_epoch,
        .commit = k->commits,
        .coordinator_epoch = k->coordinator_epoch,
        .timestamp = t->now_ms,
    };
    txn_marker_write(&m, batch);
    k->timestamp = t->now_ms;
    enum err e = journal_append(t->journal, uid, batch, sizeof batch, &k->offset);
    if (e == ERR_NOT_FOUND) {
        return false;
    }
    if (e != OK) {
        journal_fail(t->journal, e); /* all of it or nothing */
        return true;
    }
    producers_append_marker(t->producers, uid, k, t->now_ms);
    return true;
}

static void end(void *arg, const struct txn *x, bool commits, int64_t producer_id, int16_t epoch)
{
    struct transactions *t = arg;
    struct held *h = find(t, x->id);
    for (size_t i = 0; i < x->uid_count; i++) {
        struct producers_marker k = {.producer_id = producer_id,
                                     .producer_epoch = epoch,
                                     .coordinator_epoch = COORDINATOR_EPOCH,
                                     .commits = commits};
        (void)write_marker(t, x->uids[i], &k); /* a topic that was deleted needs none */
    }
    transactions_offsets_end(t, h, commits);
}

static bool changing(void *arg, const struct txn *x)
{
    struct transactions *t = arg;
    return remember(t, find(t, x->id));
}

/* --- requests --------------------------------------------------------------------------------- */

static enum kerr check_id(const struct transactions *t, struct slice id)
{
    if (t == NULL) {
        return KERR_COORDINATOR_NOT_AVAILABLE;
    }
    return id.len > 0 && id.len <= TXN_ID_BYTES_MAX ? KERR_NONE : KERR_INVALID_REQUEST;
}

static enum kerr find_for(struct transactions *t, const struct transactions_producer *who,
                          int64_t wall_ms, struct held **out)
{
    enum kerr e = check_id(t, who->transactional_id);
    if (e != KERR_NONE) {
        return e;
    }
    t->now_ms = wall_ms;
    *out = find(t, who->transactional_id);
    return *out != NULL ? KERR_NONE : KERR_INVALID_PRODUCER_ID_MAPPING;
}

enum kerr transactions_init(struct transactions *t, const struct transactions_init *r,
                            int64_t wall_ms, int64_t *id, int16_t *epoch)
{
    *id = -1;
    *epoch = -1;
    if (t == NULL) {
        return KERR_COORDINATOR_NOT_AVAILABLE;
    }
    if (r->transactional_id.data == NULL) {
        *id = fresh_id(t);
        *epoch = 0;
        return KERR_NONE;
    }
    enum kerr e = check_id(t, r->transactional_id);
    if (e != KERR_NONE) {
        return e;
    }
    if (r->timeout_ms <= 0 || r->timeout_ms > t->options.max_timeout_ms) {
        return KERR_INVALID_TRANSACTION_TIMEOUT;
    }
    struct held *h = find(t, r->transactional_id);
    if (h == NULL && HASH_COUNT(t->table) >= TRANSACTIONS_MAX) {
        return KERR_POLICY_VIOLATION;
    }
    h = h != NULL ? h : add(t, r->transactional_id);
    if (h == NULL) {
        return KERR_COORDINATOR_NOT_AVAILABLE;
    }
    t->now_ms = wall_ms;
    e = txn_on_init(&h->x, r->timeout_ms, r->expected_id, r->expected_epoch, &t->sink, wall_ms);
    relist(t, h);
    if (e == KERR_NONE) {
        *id = h->x.producer_id;
        *epoch = h->x.epoch;
    } else if (h->x.state == TXN_NEW && !h->changed) {
        drop(t, h);
    }
    return e;
}

static enum kerr add_partitions(struct transactions *t, const struct transactions_producer *who,
                                const uint32_t *uids, size_t count, bool v2, int64_t wall_ms)
{
    struct held *h;
    enum kerr e = find_for(t, who, wall_ms, &h);
    if (e == KERR_NONE) {
        e = txn_on_add(&h->x, who->id, who->epoch, uids, count, v2, &t->sink, wall_ms);
        relist(t, h);
    }
    return e;
}

enum kerr transactions_add(struct transactions *t, const struct transactions_producer *who,
                           const uint32_t *uids, size_t count, int64_t wall_ms)
{
    return add_partitions(t, who, uids, count, false, wall_ms);
}

static enum kerr add_group(struct transactions *t, const struct transactions_producer *who,
                           struct slice group_id, bool v2, int64_t wall_ms)
{
    struct held *h;
    if (group_id.len > GROUP_ID_BYTES_MAX) {
        return KERR_INVALID_GROUP_ID;
    }
    enum kerr e = find_for(t, who, wall_ms, &h);
    if (e == KERR_NONE) {
        e = txn_on_add_group(&h->x, who->id, who->epoch, group_id, v2, &t->sink, wall_ms);
        relist(t, h);
    }
    return e;
}

enum kerr transactions_add_group(struct transactions *t, const struct transactions_producer *who,
                                 struct slice group_id, int64_t wall_ms)
{
    return add_group(t, who, group_id, false, wall_ms);
}

static enum kerr check(const struct transactions *t, const struct transactions_producer *who,
                       const struct held **out)
{
    enum kerr e = check_id(t, who->transactional_id);
    *out = e == KERR_NONE ? find(t, who->transactional_id) : NULL;
    if (e == KERR_NONE) {
        e = *out == NULL ? KERR_INVALID_PRODUCER_ID_MAPPING
                         : txn_check(&(*out)->x, who->id, who->epoch);
    }
    return e;
}

enum kerr transactions_verify(const struct transactions *t,
                              const struct transactions_producer *who, uint32_t uid)
{
    const struct held *h;
    enum kerr e = check(t, who, &h);
    if (e == KERR_NONE && !txn_has_partition(&h->x, uid)) {
        e = KERR_TRANSACTION_ABORTABLE;
    }
    return e;
}

enum kerr transactions_produce(struct transactions *t, const struct transactions_producer *who,
                               enum txn_client client, uint32_t uid, int64_t wall_ms)
{
    if (t == NULL) {
        return KERR_NOT_ENOUGH_REPLICAS;
    }
    if (producers_in_transaction(t->producers, uid, who->id, who->epoch)) {
        return KERR_NONE;
    }
    enum kerr e = client == TXN_CLIENT_ADDS ? add_partitions(t, who, &uid, 1, true, wall_ms)
                                            : transactions_verify(t, who, uid);
    switch (e) {
    case KERR_PRODUCER_FENCED:
        return KERR_INVALID_PRODUCER_EPOCH;
    case KERR_TRANSACTION_ABORTABLE:
        return client == TXN_CLIENT_OLD ? KERR_INVALID_TXN_STATE : e;
    case KERR_COORDINATOR_NOT_AVAILABLE:
        return KERR_NOT_ENOUGH_REPLICAS;
    default:
        return e;
    }
}

enum kerr transactions_commit(struct transactions *t, const struct transactions_producer *who,
                              enum txn_client client, struct slice group_id, int64_t wall_ms)
{
    if (client == TXN_CLIENT_ADDS) {
        return add_group(t, who, group_id, true, wall_ms);
    }
    const struct held *h;
    enum kerr e = check(t, who, &h);
    if (e != KERR_NONE || txn_has_group(&h->x, group_id)) {
        return e;
    }
    return client == TXN_CLIENT_OLD ? KERR_INVALID_TXN_STATE : KERR_TRANSACTION_ABORTABLE;
}

enum kerr transactions_end(struct transactions *t, const struct transactions_producer *who,
                           bool commits, bool v2, int64_t wall_ms, int64_t *id, int16_t *epoch)
{
    struct held *h;
    *id = -1;
    *epoch = -1;
    enum kerr e = find_for(t, who, wall_ms, &h);
    if (e != KERR_NONE) {
        return e;
    }
    e = txn_on_end(&h->x, who->id, who->epoch, commits, v2, &t->sink, wall_ms);
    relist(t, h);
    if (e == KERR_NONE && v2) {
        *id = h->x.producer_id;
        *epoch = h->x.epoch;
    }
    return e;
}

enum kerr transactions_write_marker(struct transactions *t, uint32_t uid,
                                    struct producers_marker *k, int64_t wall_ms)
{
    if (t == NULL) {
        return KERR_NOT_LEADER_OR_FOLLOWER;
    }
    t->now_ms = wall_ms;
    enum kerr e = producers_check_marker(t->producers, uid, k);
    if (e == KERR_NONE && !write_marker(t, uid, k)) {
        e = KERR_UNKNOWN_TOPIC_OR_PARTITION;
    }
    return e;
}

/* --- time passes ------------------------------------------------------------------------------ */

/* The clock was set: what began before begins now. */
static void begin_anew(struct transactions *t, struct held *h, int64_t *ms, int64_t wall_ms)
{
    if (clock_was_set(*ms, wall_ms) && remember(t, h)) {
        *ms = wall_ms;
    }
}

/* False: the turn is full, and some are left. */
static bool abort_timed_out(struct transactions *t, int64_t wall_ms)
{
    struct held *h, *next;
    DL_FOREACH_SAFE(t->open, h, next)
    {
        if (journal_bytes(t->journal) >= JOURNAL_TURN_BYTES) {
            return false;
        }
        begin_anew(t, h, &h->x.start_ms, wall_ms);
        if (txn_timed_out(&h->x, wall_ms) && remember(t, h)) {
            log_info("transaction takes too long and is aborted transactional.id=%.*s "
                     "producer.id=%lld timeout_ms=%d",
                     (int)h->x.id.len, (const char *)h->x.id.data, (long long)h->x.producer_id,
                     (int)h->x.timeout_ms);
            txn_on_timeout(&h->x, &t->sink, wall_ms);
            relist(t, h);
        }
    }
    return true;
}

/* Gone from memory at once: should the commit fail, the row is back with the next start. */
static void remove_expired(struct transactions *t, int64_t wall_ms)
{
    struct held *h, *next;
    HASH_ITER(hh, t->table, h, next)
    {
        if (h->x.state == TXN_ONGOING || h->changed) {
            continue;
        }
        begin_anew(t, h, &h->x.update_ms, wall_ms);
        if (!h->changed && wall_ms - h->x.update_ms >= t->options.expiration_ms) {
            journal_delete(t->journal, txn_key(t, h->x.id));
            drop(t, h);
        }
    }
}

void transactions_tick(struct transactions *t, int64_t wall_ms)
{
    t->now_ms = wall_ms;
    if (wall_ms >= t->abort_ms && abort_timed_out(t, wall_ms)) {
        t->abort_ms = wall_ms + t->options.abort_interval_ms;
    }
    if (wall_ms >= t->remove_ms) {
        t->remove_ms = wall_ms + t->options.remove_interval_ms;
        remove_expired(t, wall_ms);
    }
}

/* --- coming and going ------------------------------------------------------------------------- */

struct load {
    struct transactions *t;
    enum err e;
    size_t corrupt, count;
};

static bool load_txn(void *arg, struct slice key, struct slice value)
{
    struct load *l = arg;
    size_t skip = strlen(TXN_ROW_PREFIX);
    bool no_memory = false;
    struct held *h =
        key.len > skip ? add(l->t, slice_make(key.data + skip, key.len - skip)) : NULL;
    if (h == NULL) {
        l->e = key.len > skip ? ERR_NOMEM : OK;
        return l->e == OK;
    }
    if (txn_decode(value, &h->x, &no_memory)) {
        h->stored = true;
        relist(l->t, h);
        l->count++;
        return true;
    }
    l->e = no_memory ? ERR_NOMEM : OK;
    l->corrupt += !no_memory;
    drop(l->t, h);
    return l->e == OK;
}

static bool load_ids(void *arg, struct slice key, struct slice value)
{
    struct load *l = arg;
    if (value.len == 8) {
        l->t->next_id = l->t->ids_end = (int64_t)be64_get(value.data);
    } else {
        l->corrupt++;
    }
    return false;
}

static enum err load_all(struct transactions *t, struct errmsg *m)
{
    struct load l = {.t = t};
    enum err e = journal_scan(t->journal, slice_str(IDS_KEY), load_ids, &l, m);
    if (e == OK) {
        e = journal_scan(t->journal, slice_str(TXN_ROW_PREFIX), load_txn, &l, m);
    }
    if (e == OK && l.e == OK) {
        e = transactions_offsets_load(t, &l.corrupt, m);
    }
    if (e == OK && l.e != OK) {
        e = err_set(m, l.e, "no memory for the transactions");
    }
    if (l.corrupt > 0) {
        log_error("rows of transactions cannot be read and are passed over rows=%zu", l.corrupt);
    }
    if (e == OK && l.count > 0) {
        log_info("transactional ids loaded count=%zu", l.count);
    }
    return e;
}

void transactions_set_options(struct transactions *t, const struct transactions_options *o)
{
    t->options = *o;
    t->abort_ms = t->remove_ms = 0;
}

enum err transactions_open(struct transactions **out, struct journal *j, struct producers *p,
                           struct coordinator *groups, const struct transactions_options *o,
                           struct errmsg *m)
{
    struct transactions *t = calloc(1, sizeof *t);
    *out = NULL;
    if (t == NULL) {
        return err_set(m, ERR_NOMEM, "no memory for the transactions");
    }
    t->journal = j;
    t->producers = p;
    t->groups = groups;
    t->options = *o;
    t->ids_before = -1;
    t->sink = (struct txn_sink){.end = end, .fresh_id = fresh_id, .changing = changing, .arg = t};
    t->owner = (struct journal_owner){.write = write_rows, .done = commit_done};
    buf_init(&t->key, ROW_KEY_BYTES_MAX);
    buf_init(&t->value, TXN_ROW_BYTES_MAX);
    journal_add_owner(j, &t->owner);
    enum err e = load_all(t, m);
    if (e != OK) {
        transactions_close(t);
        return e;
    }
    *out = t;
    return OK;
}

void transactions_close(struct transactions *t)
{
    if (t == NULL) {
        return;
    }
    journal_flush(t->journal);
    journal_remove_owner(t->journal, &t->owner);
    struct held *h, *next;
    HASH_ITER(hh, t->table, h, next)
    {
        drop(t, h);
    }
    free(t->changes);
    free(t->offset_changes);
    buf_fini(&t->key);
    buf_fini(&t->value);
    free(t);
}

/* --- what there is ---------------------------------------------------------------------------- */

const struct txn *transactions_find(const struct transactions *t, struct slice transactional_id)
{
    const struct held *h = find(t, transactional_id);
    return h != NULL && h->x.state != TXN_NEW ? &h->x : NULL;
}

void transactions_each(const struct transactions *t, bool (*fn)(void *arg, const struct txn *x),
                       void *arg)
{
    for (const struct held *h = t != NULL ? t->table : NULL; h != NULL; h = h->hh.next) {
        if (h->x.state != TXN_NEW && !fn(arg, &h->x)) {
            return;
        }
    }
}
