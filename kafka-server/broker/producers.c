/* Producers of partitions: tables in memory, rows in the own store. The rules are those of Kafka
 * 4.1 (ProducerStateManager, ProducerAppendInfo, ProducerStateEntry, TransactionIndex).
 *
 *   key    "producer/s" uid u32 | producer id i64
 *   value  u8 version = 1 | i16 epoch | i32 coordinator epoch | i64 last timestamp |
 *          i64 used at, wall ms | i64 first offset of the open transaction, -1: none |
 *          u8 batches, each: i32 last sequence | i32 offset delta | i64 last offset | i64 timestamp
 * Aborted transactions: producers_aborted.c.
 *
 * The first change of a producer in a turn keeps a copy of what it was; when the commit fails, that
 * is what it is again. One row is written per producer and turn, however many batches it appended.
 *
 * Where this differs from Kafka, and why:
 *   - A producer expires when nothing was appended for so long, not when its newest record is so
 *     old: one that copies old data would else be forgotten between two batches, and its repeated
 *     batches would be appended twice.
 *   - When the very first batch of a producer could not be stored, the next one is not taken for
 *     the first: it is out of order until the one before has come again. Kafka does this for
 *     transactions only.
 *   - All five batches survive a restart, not the last one only. */
#include "kafka-server/broker/producers_int.h"

#include <stdlib.h>
#include <utlist.h>

#include "shared/base/clock.h"
#include "shared/base/list.h"
#include "shared/base/log.h"

#define STATE_PREFIX   PRODUCER_ROW_PREFIX "s"
#define STATE_BYTES    32 /* without its batches */
#define BATCH_BYTES    24
#define EXPIRE_AT_ONCE 1000 /* in one tick */
#define FORGOTTEN_LOG_MS 60000 /* one line in that time */

/* --- sequences: 0 … 2^31 - 1, and round again ------------------------------------------------- */

static int32_t sequence_add(int32_t s, int32_t n)
{
    return (int32_t)(((uint32_t)s + (uint32_t)n) & INT32_MAX);
}

static int32_t sequence_sub(int32_t s, int32_t n)
{
    return (int32_t)(((uint32_t)s - (uint32_t)n) & INT32_MAX);
}

static int32_t first_sequence(const struct seen_batch *b)
{
    return sequence_sub(b->last_sequence, b->offset_delta);
}

/* --- tables ----------------------------------------------------------------------------------- */

struct partition *producers_partition(const struct producers *p, uint32_t uid)
{
    struct partition *x = NULL;
    if (p != NULL) {
        HASH_FIND(hh, p->partitions, &uid, sizeof uid, x);
    }
    return x;
}

struct partition *producers_partition_get(struct producers *p, uint32_t uid)
{
    struct partition *x = producers_partition(p, uid);
    if (x == NULL && (x = calloc(1, sizeof *x)) != NULL) {
        x->uid = uid;
        x->unstable = INT64_MAX;
        HASH_ADD(hh, p->partitions, uid, sizeof x->uid, x);
    }
    return x;
}

static struct producer *find(const struct producers *p, uint32_t uid, int64_t id)
{
    const struct producer_key key = {uid, id};
    struct producer *x = NULL;
    if (p != NULL) {
        HASH_FIND(hh, p->table, &key, sizeof key, x);
    }
    return x;
}

static struct producer *add(struct producers *p, uint32_t uid, int64_t id)
{
    struct partition *t = producers_partition_get(p, uid);
    struct producer *x = t != NULL ? calloc(1, sizeof *x) : NULL;
    if (x == NULL) {
        return NULL;
    }
    x->key = (struct producer_key){uid, id};
    x->partition = t;
    x->awaited = -1;
    x->s = (struct state){.epoch = NO_EPOCH,
                          .coordinator_epoch = -1,
                          .last_timestamp = -1,
                          .txn_first = -1};
    HASH_ADD(hh, p->table, key, sizeof x->key, x);
    DL_APPEND(t->producers, x);
    DL_APPEND2(p->idle, x, idle_prev, idle_next);
    return x;
}

static int by_first_offset(const struct producer *a, const struct producer *b)
{
    return (a->s.txn_first > b->s.txn_first) - (a->s.txn_first < b->s.txn_first);
}

/* Offsets grow, so a new transaction belongs at the end; only one that was taken back does not. */
static void open_link(struct producer *x)
{
    struct producer *head = x->partition->open;
    if (head == NULL || head->open_prev->s.txn_first <= x->s.txn_first) {
        DL_APPEND2(x->partition->open, x, open_prev, open_next);
    } else {
        DL_INSERT_INORDER2(x->partition->open, x, by_first_offset, open_prev, open_next);
    }
}

static void open_unlink(struct producer *x)
{
    DL_DELETE2(x->partition->open, x, open_prev, open_next);
}

static void drop(struct producers *p, struct producer *x)
{
    if (x->s.txn_first >= 0) {
        open_unlink(x);
    }
    HASH_DELETE(hh, p->table, x);
    DL_DELETE(x->partition->producers, x);
    DL_DELETE2(p->idle, x, idle_prev, idle_next);
    free(x);
}

static void used(struct producers *p, struct producer *x, int64_t wall_ms)
{
    x->s.used_ms = wall_ms;
    DL_DELETE2(p->idle, x, idle_prev, idle_next);
    DL_APPEND2(p->idle, x, idle_prev, idle_next);
}

/* --- rows ------------------------------------------------------------------------------------- */

struct slice producers_row_key(uint8_t key[ROW_KEY_BYTES], const char *prefix, uint32_t uid,
                               int64_t n)
{
    memcpy(key, prefix, ROW_PREFIX_BYTES);
    be32_put(key + ROW_PREFIX_BYTES, uid);
    be64_put(key + ROW_PREFIX_BYTES + 4, (uint64_t)n);
    return slice_make(key, ROW_KEY_BYTES);
}

static struct slice state_key(uint8_t key[ROW_KEY_BYTES], const struct producer *x)
{
    return producers_row_key(key, STATE_PREFIX, (uint32_t)x->key.uid, x->key.id);
}

static size_t state_encode(const struct state *s, uint8_t *v)
{
    v[0] = ROW_VERSION;
    be16_put(v + 1, (uint16_t)s->epoch);
    be32_put(v + 3, (uint32_t)s->coordinator_epoch);
    be64_put(v + 7, (uint64_t)s->last_timestamp);
    be64_put(v + 15, (uint64_t)s->used_ms);
    be64_put(v + 23, (uint64_t)s->txn_first);
    v[31] = (uint8_t)s->count;
    uint8_t *at = v + STATE_BYTES;
    for (int i = 0; i < s->count; i++, at += BATCH_BYTES) {
        be32_put(at, (uint32_t)s->batches[i].last_sequence);
        be32_put(at + 4, (uint32_t)s->batches[i].offset_delta);
        be64_put(at + 8, (uint64_t)s->batches[i].last_offset);
        be64_put(at + 16, (uint64_t)s->batches[i].timestamp);
    }
    return (size_t)(at - v);
}

static bool state_decode(struct slice v, struct state *s)
{
    if (v.len < STATE_BYTES || v.data[0] != ROW_VERSION || v.data[31] > PRODUCER_BATCHES ||
        v.len != STATE_BYTES + (size_t)v.data[31] * BATCH_BYTES) {
        return false;
    }
    *s = (struct state){
        .epoch = (int16_t)be16_get(v.data + 1),
        .coordinator_epoch = (int32_t)be32_get(v.data + 3),
        .last_timestamp = (int64_t)be64_get(v.data + 7),
        .used_ms = (int64_t)be64_get(v.data + 15),
        .txn_first = (int64_t)be64_get(v.data + 23),
        .count = v.data[31],
    };
    const uint8_t *at = v.data + STATE_BYTES;
    for (int i = 0; i < s->count; i++, at += BATCH_BYTES) {
        s->batches[i] = (struct seen_batch){
            .last_sequence = (int32_t)be32_get(at),
            .offset_delta = (int32_t)be32_get(at + 4),
            .last_offset = (int64_t)be64_get(at + 8),
            .timestamp = (int64_t)be64_get(at + 16),
        };
    }
    return true;
}

static void delete_state(struct producers *p, struct producer *x)
{
    uint8_t key[ROW_KEY_BYTES];
    if (x->stored) {
        journal_delete(p->journal, state_key(key, x));
    }
}

/* --- the commit ------------------------------------------------------------------------------- */

/* Before the first change of a turn. False: without memory, and the flush fails. */
static bool remember(struct producers *p, struct producer *x)
{
    if (x->changed) {
        return true;
    }
    if (!list_reserve(&p->changes, &p->change_room, p->change_count + 1, sizeof *p->changes)) {
        journal_fail(p->journal, ERR_NOMEM);
        return false;
    }
    p->changes[p->change_count++] = (struct change){x, x->s};
    x->changed = true;
    journal_touch(p->journal);
    return true;
}

static void write_rows(struct journal_owner *o, struct journal *j)
{
    struct producers *p = (struct producers *)((char *)o - offsetof(struct producers, owner));
    uint8_t key[ROW_KEY_BYTES], v[STATE_BYTES + PRODUCER_BATCHES * BATCH_BYTES];
    for (size_t i = 0; i < p->change_count; i++) {
        const struct producer *x = p->changes[i].producer;
        journal_put(j, state_key(key, x), slice_make(v, state_encode(&x->s, v)));
    }
}

static void take_back(struct change *c)
{
    struct producer *x = c->producer;
    bool was_open = c->before.txn_first >= 0;
    if (x->s.txn_first >= 0) {
        open_unlink(x);
    }
    if (c->before.epoch == NO_EPOCH && x->awaited < 0 && x->s.count > 0) {
        x->awaited = first_sequence(&x->s.batches[0]);
        x->awaited_epoch = x->s.epoch;
    }
    int64_t used_ms = x->s.used_ms;
    x->s = c->before;
    if (x->s.epoch == NO_EPOCH) {
        x->s.used_ms = used_ms; /* that its first batch failed is known as long as a producer is */
    }
    if (was_open) {
        open_link(x);
    }
}

static void commit_done(struct journal_owner *o, enum err e)
{
    struct producers *p = (struct producers *)((char *)o - offsetof(struct producers, owner));
    for (size_t i = 0; i < p->change_count; i++) {
        struct producer *x = p->changes[i].producer;
        x->changed = false;
        if (e == OK) {
            x->stored = true;
            x->awaited = -1;
        } else {
            take_back(&p->changes[i]);
        }
    }
    for (size_t i = 0; i < p->change_count; i++) {
        struct partition *t = p->changes[i].producer->partition;
        t->unstable = t->open != NULL ? t->open->s.txn_first : INT64_MAX;
    }
    for (size_t i = 0; e == OK && i < p->abort_count; i++) {
        struct partition *t = producers_partition(p, p->aborts[i].uid);
        bool pushed = aborted_push(p, t, &p->aborts[i].a);
        ASSERT(pushed); /* room was made in note_abort */
    }
    p->change_count = p->abort_count = 0;
    aborted_forgotten(p, e);
}

/* --- append ----------------------------------------------------------------------------------- */

static bool is_transactional(const struct batch_header *h)
{
    return (h->attributes & BATCH_TRANSACTIONAL) != 0;
}

static bool find_duplicate(const struct state *s, const struct batch_header *h,
                           struct producers_duplicate *d)
{
    int32_t last = sequence_add(h->base_sequence, h->last_offset_delta);
    for (int i = 0; s->epoch == h->producer_epoch && i < s->count; i++) {
        const struct seen_batch *b = &s->batches[i];
        if (first_sequence(b) == h->base_sequence && b->last_sequence == last) {
            *d = (struct producers_duplicate){true, b->last_offset - b->offset_delta, b->timestamp};
            return true;
        }
    }
    return false;
}

/* Is it the one that must come next? */
static bool in_order(const struct producer *x, const struct batch_header *h, bool v2)
{
    const struct state *s = &x->s;
    bool begins = v2 && is_transactional(h) && s->txn_first < 0 && s->count == 0;
    if (begins && h->base_sequence != 0) {
        return false;
    }
    if (s->epoch == NO_EPOCH) {
        return x->awaited < 0 || x->awaited_epoch != h->producer_epoch ||
               h->base_sequence <= x->awaited;
    }
    if (h->producer_epoch != s->epoch) {
        return h->base_sequence == 0;
    }
    int32_t last = s->count > 0 ? s->batches[s->count - 1].last_sequence : -1;
    return h->base_sequence == (last == INT32_MAX ? 0 : last + 1);
}

/* Makes room for one more producer, if need be at the cost of the one that is idle the longest. */
static bool make_room(struct producers *p)
{
    if (HASH_COUNT(p->table) < PRODUCERS_MAX) {
        return true;
    }
    struct producer *x = p->idle;
    while (x != NULL && (x->s.txn_first >= 0 || x->changed)) {
        x = x->idle_next;
    }
    if (x == NULL) {
        return false;
    }
    unsigned more;
    if (log_limit_pass(&p->forgotten_log, FORGOTTEN_LOG_MS, &more)) {
        log_warn("there are too many producers: the one that is idle the longest is forgotten, and "
                 "what it repeats would be stored twice most=%u producer.id=%lld suppressed=%u",
                 PRODUCERS_MAX, (long long)x->key.id, more);
    }
    delete_state(p, x);
    drop(p, x);
    return true;
}

/* A transaction that begins may have to be aborted: is there room to remember that? */
static bool may_begin(struct producers *p, uint32_t uid, const struct batch_header *h)
{
    const struct partition *t = producers_partition(p, uid);
    if (!is_transactional(h) || p->aborted_count + p->abort_count < PRODUCERS_ABORTED_MAX ||
        t == NULL || t->aborted_count < PRODUCERS_ABORTED_SHARE) {
        return true;
    }
    if (log_limit_pass(&p->refused_log, FORGOTTEN_LOG_MS, NULL)) {
        log_error("there are too many aborted transactions: none can begin in a partition that has "
                  "its share of them most=%u share=%u uid=%u",
                  PRODUCERS_ABORTED_MAX, PRODUCERS_ABORTED_SHARE, uid);
    }
    return false;
}

enum kerr producers_check(struct producers *p, uint32_t uid, const struct batch_header *h, bool v2,
                          struct producers_duplicate *d)
{
    *d = (struct producers_duplicate){false, -1, -1};
    if (h->producer_id < 0) {
        return is_transactional(h) ? KERR_INVALID_RECORD : KERR_NONE;
    }
    const struct producer *x = find(p, uid, h->producer_id);
    if (h->producer_epoch < 0 || h->base_sequence < 0) {
        bool fenced = x != NULL && h->base_sequence >= 0 && h->producer_epoch < x->s.epoch;
        return fenced ? KERR_INVALID_PRODUCER_EPOCH : KERR_INVALID_RECORD;
    }
    if (x == NULL) {
        if (v2 && is_transactional(h) && h->base_sequence != 0) {
            return KERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
        }
        return may_begin(p, uid, h) && make_room(p) ? KERR_NONE : KERR_POLICY_VIOLATION;
    }
    if (find_duplicate(&x->s, h, d)) {
        return KERR_NONE;
    }
    if (h->producer_epoch < x->s.epoch) {
        return KERR_INVALID_PRODUCER_EPOCH;
    }
    if (!in_order(x, h, v2)) {
        return KERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
    }
    if (x->s.txn_first >= 0 && !is_transactional(h)) {
        return KERR_INVALID_TXN_STATE;
    }
    return x->s.txn_first >= 0 || may_begin(p, uid, h) ? KERR_NONE : KERR_POLICY_VIOLATION;
}

static void set_epoch(struct state *s, int16_t epoch)
{
    if (s->epoch != epoch) {
        s->epoch = epoch;
        s->count = 0;
    }
}

void producers_append(struct producers *p, uint32_t uid, const struct batch_header *h,
                      int64_t base_offset, int64_t wall_ms)
{
    if (h->producer_id < 0) {
        return;
    }
    struct producer *x = find(p, uid, h->producer_id);
    x = x != NULL ? x : add(p, uid, h->producer_id);
    if (x == NULL || !remember(p, x)) {
        journal_fail(p->journal, ERR_NOMEM);
        return;
    }
    struct state *s = &x->s;
    set_epoch(s, h->producer_epoch);
    if (s->count == PRODUCER_BATCHES) {
        memmove(s->batches, s->batches + 1, (PRODUCER_BATCHES - 1) * sizeof *s->batches);
        s->count--;
    }
    s->batches[s->count++] = (struct seen_batch){
        .last_sequence = sequence_add(h->base_sequence, h->last_offset_delta),
        .offset_delta = h->last_offset_delta,
        .last_offset = base_offset + h->last_offset_delta,
        .timestamp = h->max_timestamp,
    };
    s->last_timestamp = h->max_timestamp;
    used(p, x, wall_ms);
    if (is_transactional(h) && s->txn_first < 0) {
        s->txn_first = base_offset;
        open_link(x);
    }
}

bool producers_in_transaction(const struct producers *p, uint32_t uid, int64_t producer_id,
                              int16_t epoch)
{
    const struct producer *x = find(p, uid, producer_id);
    return x != NULL && x->s.txn_first >= 0 && x->s.epoch == epoch;
}

enum kerr producers_check_marker(struct producers *p, uint32_t uid,
                                 const struct producers_marker *k)
{
    const struct producer *x = find(p, uid, k->producer_id);
    if (x == NULL && !make_room(p)) {
        return KERR_POLICY_VIOLATION;
    }
    if (x != NULL && k->producer_epoch < x->s.epoch) {
        return KERR_INVALID_PRODUCER_EPOCH;
    }
    return x != NULL && k->coordinator_epoch < x->s.coordinator_epoch
               ? KERR_TRANSACTION_COORDINATOR_FENCED
               : KERR_NONE;
}

/* The transaction was aborted: readers must know, once the marker is committed. */
static void note_abort(struct producers *p, struct producer *x, const struct producers_marker *k)
{
    struct partition *t = x->partition;
    size_t pending = p->abort_count + 1; /* all of them may be of this partition */
    if (!list_reserve(&p->aborts, &p->abort_room, pending, sizeof *p->aborts) ||
        !list_reserve(&t->aborted, &t->aborted_room, t->aborted_count + pending,
                      sizeof *t->aborted)) {
        journal_fail(p->journal, ERR_NOMEM);
        return;
    }
    const struct producers_aborted a = {
        .producer_id = k->producer_id,
        .first_offset = x->s.txn_first,
        .last_offset = k->offset,
        .lso = t->open == NULL ? k->offset + 1 : t->open->s.txn_first,
    };
    p->aborts[p->abort_count++] = (struct pending_abort){t->uid, a};
    aborted_write(p, t->uid, &a);
}

void producers_append_marker(struct producers *p, uint32_t uid, const struct producers_marker *k,
                             int64_t wall_ms)
{
    struct producer *x = find(p, uid, k->producer_id);
    if (x == NULL && !make_room(p)) {
        return; /* it has written nothing here: nothing that a reader must know is lost */
    }
    x = x != NULL ? x : add(p, uid, k->producer_id);
    if (x == NULL || !remember(p, x)) {
        journal_fail(p->journal, ERR_NOMEM);
        return;
    }
    bool open = x->s.txn_first >= 0;
    if (open) {
        open_unlink(x);
    }
    if (open && !k->commits) {
        note_abort(p, x, k);
    }
    set_epoch(&x->s, k->producer_epoch);
    x->s.coordinator_epoch = k->coordinator_epoch;
    x->s.last_timestamp = k->timestamp;
    x->s.txn_first = -1;
    used(p, x, wall_ms);
}

/* --- readers ---------------------------------------------------------------------------------- */

int64_t producers_first_unstable(const struct producers *p, uint32_t uid)
{
    const struct partition *t = producers_partition(p, uid);
    return t != NULL ? t->unstable : INT64_MAX;
}

void producers_each(const struct producers *p, uint32_t uid, producers_view_fn *fn, void *arg)
{
    const struct partition *t = producers_partition(p, uid);
    for (const struct producer *x = t != NULL ? t->producers : NULL; x != NULL; x = x->next) {
        const struct state *s = &x->s;
        const struct producers_view v = {
            .producer_id = x->key.id,
            .producer_epoch = s->epoch,
            .last_sequence = s->count > 0 ? s->batches[s->count - 1].last_sequence : -1,
            .last_timestamp = s->last_timestamp,
            .coordinator_epoch = s->coordinator_epoch,
            .txn_first_offset = s->txn_first,
        };
        if (s->epoch != NO_EPOCH && !fn(arg, &v)) {
            return;
        }
    }
}

/* --- time passes ------------------------------------------------------------------------------ */

static bool partition_busy(const struct producers *p, const struct partition *t)
{
    const struct producer *first = p->change_count > 0 ? t->producers : NULL; /* else nobody is */
    for (const struct producer *x = first; x != NULL; x = x->next) {
        if (x->changed) {
            return true;
        }
    }
    return false;
}

static void partition_drop(struct producers *p, struct partition *t)
{
    while (t->producers != NULL) {
        delete_state(p, t->producers);
        drop(p, t->producers);
    }
    aborted_delete(p, t, t->aborted_count);
    p->aborted_count -= t->aborted_count;
    HASH_DELETE(hh, p->partitions, t);
    free(t->aborted);
    free(t);
}

/* What is deleted here is deleted in memory at once: should the commit fail, its rows come back
 * with the next start and are swept again. */
void producers_sweep(struct producers *p, producers_partition_fn *fn, void *arg)
{
    struct partition *t, *next;
    HASH_ITER(hh, p->partitions, t, next)
    {
        int64_t log_start = 0;
        if (t->forgetting > 0 || partition_busy(p, t)) {
            continue; /* the next sweep looks again */
        }
        if (!fn(arg, t->uid, &log_start)) {
            partition_drop(p, t);
            continue;
        }
        size_t passed = aborted_from(t, log_start);
        t->passed = passed > 0 ? t->aborted[passed - 1].last_offset + 1 : t->passed;
        aborted_delete(p, t, passed);
        aborted_remove(p, t, passed);
        if (t->producers == NULL && t->aborted_count == 0 && t->passed == 0) {
            partition_drop(p, t);
        }
    }
}

void producers_tick(struct producers *p, int64_t wall_ms)
{
    if (wall_ms < p->next_check_ms) {
        return;
    }
    struct producer *x = p->idle;
    int done = 0;
    while (x != NULL && done < EXPIRE_AT_ONCE &&
           (x->s.txn_first >= 0 || x->changed ||
            wall_ms - x->s.used_ms >= p->options.expiration_ms)) {
        struct producer *next = x->idle_next;
        if (x->s.txn_first >= 0 || x->changed) {
            x = next;
            continue;
        }
        if (!clock_was_set(x->s.used_ms, wall_ms)) {
            delete_state(p, x);
            drop(p, x);
        } else if (remember(p, x)) {
            used(p, x, wall_ms);
        }
        done++;
        x = next;
    }
    if (done < EXPIRE_AT_ONCE) {
        p->next_check_ms = wall_ms + p->options.check_interval_ms;
    }
}

size_t producers_count(const struct producers *p)
{
    return HASH_COUNT(p->table);
}

/* --- coming and going ------------------------------------------------------------------------- */

static bool load_state(void *arg, struct slice key, struct slice value)
{
    struct producers_load *l = arg;
    struct state s;
    if (key.len != ROW_KEY_BYTES || !state_decode(value, &s)) {
        l->corrupt++;
        return true;
    }
    struct producer *x = add(l->p, be32_get(key.data + ROW_PREFIX_BYTES),
                             (int64_t)be64_get(key.data + ROW_PREFIX_BYTES + 4));
    if (x == NULL) {
        l->e = ERR_NOMEM;
        return false;
    }
    x->s = s;
    x->stored = true;
    if (s.txn_first >= 0) {
        open_link(x);
        x->partition->unstable = x->partition->open->s.txn_first;
    }
    return true;
}

static int by_use(const struct producer *a, const struct producer *b)
{
    return (a->s.used_ms > b->s.used_ms) - (a->s.used_ms < b->s.used_ms);
}

static enum err load_all(struct producers *p, struct errmsg *m)
{
    struct producers_load l = {.p = p};
    enum err e = journal_scan(p->journal, slice_str(STATE_PREFIX), load_state, &l, m);
    if (e == OK && l.e == OK) {
        e = journal_scan(p->journal, slice_str(ABORTED_PREFIX), aborted_load, &l, m);
    }
    if (e == OK && l.e != OK) {
        e = err_set(m, l.e, "no memory for the producers");
    }
    if (l.corrupt > 0) {
        log_error("rows of producers cannot be read and are passed over rows=%zu", l.corrupt);
    }
    DL_SORT2(p->idle, by_use, idle_prev, idle_next);
    aborted_sort(p);
    return e;
}

void producers_set_options(struct producers *p, const struct producers_options *o)
{
    p->options = *o;
    p->next_check_ms = 0;
}

enum err producers_open(struct producers **out, struct journal *j,
                        const struct producers_options *o, struct errmsg *m)
{
    struct producers *p = calloc(1, sizeof *p);
    *out = NULL;
    if (p == NULL) {
        return err_set(m, ERR_NOMEM, "no memory for the producers");
    }
    p->journal = j;
    p->options = *o;
    p->owner = (struct journal_owner){.write = write_rows, .done = commit_done};
    journal_add_owner(j, &p->owner);
    enum err e = load_all(p, m);
    if (e != OK) {
        producers_close(p);
        return e;
    }
    *out = p;
    return OK;
}

void producers_close(struct producers *p)
{
    if (p == NULL) {
        return;
    }
    journal_flush(p->journal);
    journal_remove_owner(p->journal, &p->owner);
    struct partition *t, *next;
    HASH_ITER(hh, p->partitions, t, next)
    {
        while (t->producers != NULL) {
            drop(p, t->producers);
        }
        HASH_DELETE(hh, p->partitions, t);
        free(t->aborted);
        free(t);
    }
    free(p->changes);
    free(p->aborts);
    free(p);
}
