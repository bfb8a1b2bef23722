/* Offsets in transactions: each waits for the end of its transaction, and then becomes one of its
 * group or is thrown away.
 *
 *   key    "txn/o" producer id i64 | u16 length of group id | group id | topic | u32 partition
 *   value  as of a committed offset, group_row.h
 *
 * Each is written once, and its end deletes it, beside the committed offset that it becomes.
 *
 * A transaction that is committed cannot be refused any more: whether the group has room is asked
 * when the offset is put into the transaction, and the room is held until its end. So a group lives
 * as long as an offset waits for it, and when it is deleted, that offset is, too. */
#include "kafka-server/broker/transactions_int.h"

#include <stdlib.h>
#include <utlist.h>

#include "shared/base/list.h"
#include "shared/base/log.h"

#define OFFSET_PREFIX "txn/o"

/* --- tables ----------------------------------------------------------------------------------- */

static struct held *find(const struct transactions *t, struct slice id)
{
    struct held *h = NULL;
    HASH_FIND(hh, t->table, id.data, id.len, h);
    return h;
}

static void key_drop(struct pending_key **table, struct pending_key *k)
{
    if (k != NULL && --k->count == 0) {
        HASH_DELETE(hh, *table, k);
        free(k);
    }
}

static struct pending_key *key_find(struct pending_key *table, struct slice key)
{
    struct pending_key *k = NULL;
    HASH_FIND(hh, table, key.data, key.len, k);
    return k;
}

static struct pending_key *key_get(struct pending_key **table, struct slice key)
{
    struct pending_key *k = key_find(*table, key);
    if (k == NULL && (k = calloc(1, sizeof *k + key.len)) != NULL) {
        memcpy(k->key, key.data, key.len);
        k->key_len = key.len;
        HASH_ADD_KEYPTR(hh, *table, k->key, k->key_len, k);
    }
    if (k != NULL) {
        k->count++;
    }
    return k;
}

static void keys_drop(struct transactions *t, struct pending *o)
{
    key_drop(&t->unstable, o->unstable);
    key_drop(&t->topics, o->of_topic);
    key_drop(&t->group_ids, o->of_group);
}

static void pending_free(struct transactions *t, struct pending *o)
{
    coordinator_txn_let_go(t->groups, o->group);
    keys_drop(t, o);
    t->offset_count--;
    free(o);
}

/* Into its transaction, and out of it. */
static void pending_link(struct held *h, struct pending *o)
{
    o->held = h;
    HASH_ADD_KEYPTR(hh, h->offsets, o->key, o->key_len, o);
    DL_APPEND2(o->of_topic->first, o, topic_prev, topic_next);
    DL_APPEND2(o->of_group->first, o, group_prev, group_next);
}

static void pending_unlink(struct pending *o)
{
    HASH_DELETE(hh, o->held->offsets, o);
    DL_DELETE2(o->of_topic->first, o, topic_prev, topic_next);
    DL_DELETE2(o->of_group->first, o, group_prev, group_next);
}

static struct pending *pending_new(struct transactions *t, int64_t producer_id, struct slice group,
                                   struct slice topic, int32_t partition,
                                   const struct offset_row *row)
{
    offset_row_key(&t->key, group, topic, partition);
    struct slice key = buf_slice(&t->key);
    struct pending *o = buf_ok(&t->key) ? calloc(1, sizeof *o + key.len + row->metadata.len) : NULL;
    if (o == NULL) {
        return NULL;
    }
    o->unstable = key_get(&t->unstable, key);
    o->of_topic = key_get(&t->topics, topic);
    o->of_group = key_get(&t->group_ids, group);
    if (o->unstable == NULL || o->of_topic == NULL || o->of_group == NULL) {
        keys_drop(t, o);
        free(o);
        return NULL;
    }
    memcpy(o->key, key.data, key.len);
    o->key_len = key.len;
    o->producer_id = producer_id;
    bool parsed = offset_row_key_parse(slice_make(o->key, o->key_len), &o->group, &o->topic,
                                       &o->partition);
    ASSERT(parsed);
    o->row = *row;
    if (row->metadata.len > 0) {
        memcpy(o->key + o->key_len, row->metadata.data, row->metadata.len);
    }
    o->row.metadata = slice_make(o->key + o->key_len, row->metadata.len);
    t->offset_count++;
    return o;
}

/* --- rows ------------------------------------------------------------------------------------- */

static struct slice pending_key(struct transactions *t, const struct pending *o)
{
    size_t skip = strlen(OFFSET_ROW_PREFIX);
    buf_reset(&t->key);
    buf_put(&t->key, OFFSET_PREFIX, strlen(OFFSET_PREFIX));
    buf_put_be64(&t->key, (uint64_t)o->producer_id);
    buf_put(&t->key, o->key + skip, o->key_len - skip);
    return buf_slice(&t->key);
}

/* --- the commit ------------------------------------------------------------------------------- */

static bool offset_change_room(struct transactions *t)
{
    return list_reserve(&t->offset_changes, &t->offset_change_room, t->offset_change_count + 1,
                        sizeof *t->offset_changes);
}

/* The last change first, so that an offset that was put and replaced is what it was. */
void transactions_offsets_done(struct transactions *t, enum err e)
{
    while (t->offset_change_count > 0) {
        struct offset_change *c = &t->offset_changes[--t->offset_change_count];
        if (e == OK) {
            if (c->removed != NULL) {
                pending_free(t, c->removed);
            }
            continue;
        }
        if (c->added != NULL) {
            pending_unlink(c->added);
            pending_free(t, c->added);
        }
        if (c->removed != NULL) {
            pending_link(c->held, c->removed);
        }
    }
}

/* --- the end ---------------------------------------------------------------------------------- */

static void take_offset(struct transactions *t, struct pending *o)
{
    if (!offset_change_room(t)) {
        journal_fail(t->journal, ERR_NOMEM);
        return;
    }
    pending_unlink(o);
    t->offset_changes[t->offset_change_count++] = (struct offset_change){o->held, NULL, o};
    journal_delete(t->journal, pending_key(t, o));
}

void transactions_offsets_end(struct transactions *t, struct held *h, bool commits)
{
    struct pending *o, *next;
    HASH_ITER(hh, h->offsets, o, next)
    {
        if (commits && coordinator_txn_commit_put(t->groups, o->group, o->topic, o->partition,
                                                  &o->row) != OK) {
            journal_fail(t->journal, ERR_NOMEM);
        }
        take_offset(t, o);
    }
}

void transactions_offsets_drop(struct transactions *t, struct held *h)
{
    struct pending *o, *next;
    HASH_ITER(hh, h->offsets, o, next)
    {
        pending_unlink(o);
        pending_free(t, o);
    }
}

/* --- requests --------------------------------------------------------------------------------- */

static struct pending *pending_find(struct transactions *t, const struct held *h,
                                    struct slice group, struct slice topic, int32_t partition)
{
    struct pending *o = NULL;
    offset_row_key(&t->key, group, topic, partition);
    HASH_FIND(hh, h->offsets, t->key.data, t->key.len, o);
    return o;
}

enum kerr transactions_commit_put(struct transactions *t, const struct transactions_producer *who,
                                  struct slice group_id, struct slice topic, int32_t partition,
                                  const struct offset_row *row)
{
    struct held *h = find(t, who->transactional_id);
    struct pending *old = pending_find(t, h, group_id, topic, partition);
    if (old == NULL && (t->offset_count >= TRANSACTIONS_OFFSETS_MAX ||
                        HASH_COUNT(h->offsets) >= TRANSACTION_OFFSETS_MAX)) {
        return KERR_POLICY_VIOLATION;
    }
    enum kerr e = coordinator_txn_hold(t->groups, group_id, topic, partition, old != NULL);
    if (e != KERR_NONE) {
        return e;
    }
    struct pending *o = offset_change_room(t)
                            ? pending_new(t, who->id, group_id, topic, partition, row)
                            : NULL;
    if (o == NULL) {
        coordinator_txn_let_go(t->groups, group_id);
        return KERR_COORDINATOR_NOT_AVAILABLE;
    }
    if (old != NULL) {
        pending_unlink(old);
    }
    pending_link(h, o);
    t->offset_changes[t->offset_change_count++] = (struct offset_change){h, o, old};
    offset_row_encode(row, &t->value);
    journal_fail(t->journal, buf_ok(&t->value) ? OK : ERR_NOMEM);
    journal_put(t->journal, pending_key(t, o), buf_slice(&t->value));
    return KERR_NONE;
}

bool transactions_unstable(const struct transactions *t, struct slice group_id, struct slice topic,
                           int32_t partition)
{
    if (t == NULL || t->unstable == NULL) {
        return false;
    }
    struct buf key;
    buf_init(&key, ROW_KEY_BYTES_MAX);
    offset_row_key(&key, group_id, topic, partition);
    const struct pending_key *u = key_find(t->unstable, buf_slice(&key));
    buf_fini(&key);
    return u != NULL;
}

/* Of a topic; but: the id that it has now, whose offsets stay. */
static void take_of_topic(struct transactions *t, struct slice topic, const struct uuid *but)
{
    const struct pending_key *k = key_find(t->topics, topic);
    struct pending *next;
    for (struct pending *o = k != NULL ? k->first : NULL; o != NULL; o = next) {
        next = o->topic_next;
        bool stays = but != NULL && (uuid_is_zero(&o->row.topic_id) ||
                                     uuid_equal(&o->row.topic_id, but));
        if (!stays) {
            take_offset(t, o);
        }
    }
}

void transactions_topic_gone(struct transactions *t, struct slice topic)
{
    take_of_topic(t, topic, NULL);
}

void transactions_topic_came(struct transactions *t, struct slice topic, const struct uuid *id)
{
    take_of_topic(t, topic, id);
}

void transactions_offset_gone(struct transactions *t, struct slice group_id, struct slice topic,
                              int32_t partition)
{
    if (!transactions_unstable(t, group_id, topic, partition)) {
        return;
    }
    for (struct held *h = t->open; h != NULL; h = h->next) {
        struct pending *o = pending_find(t, h, group_id, topic, partition);
        if (o != NULL) {
            take_offset(t, o);
        }
    }
}

void transactions_group_gone(struct transactions *t, struct slice group_id)
{
    const struct pending_key *k = t != NULL ? key_find(t->group_ids, group_id) : NULL;
    struct pending *next;
    for (struct pending *o = k != NULL ? k->first : NULL; o != NULL; o = next) {
        next = o->group_next;
        take_offset(t, o);
    }
}

/* --- coming and going ------------------------------------------------------------------------- */

struct load {
    struct transactions *t;
    struct held **open; /* by producer id */
    size_t open_count;
    size_t corrupt;
    enum err e;
};

static int by_producer(const void *a, const void *b)
{
    const struct held *x = *(struct held *const *)a, *y = *(struct held *const *)b;
    return (x->x.producer_id > y->x.producer_id) - (x->x.producer_id < y->x.producer_id);
}

static struct held *find_by_producer(const struct load *l, int64_t id)
{
    size_t low = 0, high = l->open_count;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (l->open[mid]->x.producer_id < id) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low < l->open_count && l->open[low]->x.producer_id == id ? l->open[low] : NULL;
}

static bool load_offset(void *arg, struct slice key, struct slice value)
{
    struct load *l = arg;
    struct transactions *t = l->t;
    struct reader r = reader_make(key);
    struct offset_row row;
    (void)reader_bytes(&r, strlen(OFFSET_PREFIX));
    struct held *h = find_by_producer(l, (int64_t)reader_be64(&r));
    struct slice group = reader_bytes(&r, reader_be16(&r));
    size_t left = reader_left(&r);
    struct slice topic = reader_bytes(&r, left > 4 ? left - 4 : left + 1);
    int32_t partition = (int32_t)reader_be32(&r);
    if (r.failed || h == NULL || !offset_row_decode(value, &row)) {
        l->corrupt++;
        return true;
    }
    l->e = ERR_NOMEM;
    if (coordinator_txn_hold(t->groups, group, topic, partition, true) != KERR_NONE) {
        return false;
    }
    struct pending *o = pending_new(t, h->x.producer_id, group, topic, partition, &row);
    if (o == NULL) {
        coordinator_txn_let_go(t->groups, group);
        return false;
    }
    pending_link(h, o);
    l->e = OK;
    return true;
}

enum err transactions_offsets_load(struct transactions *t, size_t *corrupt, struct errmsg *m)
{
    struct load l = {.t = t};
    struct held *h;
    size_t room = 0;
    DL_COUNT(t->open, h, l.open_count);
    enum err e = list_reserve(&l.open, &room, l.open_count, sizeof *l.open) ? OK : ERR_NOMEM;
    if (e == OK && l.open_count > 0) {
        size_t i = 0;
        DL_FOREACH(t->open, h)
        {
            l.open[i++] = h;
        }
        qsort(l.open, l.open_count, sizeof *l.open, by_producer);
    }
    if (e == OK) {
        e = journal_scan(t->journal, slice_str(OFFSET_PREFIX), load_offset, &l, m);
    }
    free(l.open);
    *corrupt += l.corrupt;
    e = e == OK ? l.e : e;
    return e == ERR_NOMEM ? err_set(m, e, "no memory for the offsets in transactions") : e;
}
