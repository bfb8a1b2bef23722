/* The machine of one transactional id; txn.h draws it.
 *
 * An epoch names one instance of a producer. Each InitProducerId without an expected one takes the
 * next epoch and so fences whoever had the one before. In protocol 2 (KIP-890) each end of a
 * transaction takes the next epoch, too, so that a late request of the last transaction can do
 * nothing to the next; what an instance may still repeat is the request that moved it from
 * last_epoch to epoch. When the epochs are used up, a fresh producer id begins again with 0.
 *
 * Where this differs from Kafka 4.1, and why:
 *   - InitProducerId that meets an open transaction aborts it and goes on in the same call, where
 *     Kafka answers CONCURRENT_TRANSACTIONS and wants to be asked again. The epochs are those that
 *     a client would see there.
 *   - With an expected epoch that is not the present one, an open transaction
 *     is left alone; in Kafka a fenced instance can abort that of its successor.
 *   - An expected epoch that was the last one of its producer id gets a fresh id also when the
 *     transaction had to be aborted first; Kafka fails there. */
#include "kafka-server/broker/txn.h"

#include <stdlib.h>

#include "shared/base/clock.h"
#include "shared/base/list.h"

#define ROW_VERSION   1
#define ROW_FLAG_V2   1
#define NULL_PRODUCER (-1)

const char *txn_state_name(enum txn_state s)
{
    static const char *const names[] = {"Empty", "Ongoing", "CompleteCommit", "CompleteAbort",
                                        "Empty"};
    return names[s];
}

void txn_init(struct txn *x, struct slice id)
{
    *x = (struct txn){
        .id = id,
        .state = TXN_NEW,
        .producer_id = NULL_PRODUCER,
        .previous_id = NULL_PRODUCER,
        .epoch = -1,
        .last_epoch = -1,
        .start_ms = -1,
    };
}

static void forget_members(struct txn *x)
{
    for (size_t i = 0; i < x->group_count; i++) {
        free(x->groups[i].id);
    }
    free(x->groups);
    free(x->uids);
    x->groups = NULL;
    x->uids = NULL;
    x->group_count = x->uid_count = x->uid_room = 0;
}

void txn_fini(struct txn *x)
{
    forget_members(x);
}

/* --- partitions and groups -------------------------------------------------------------------- */

static size_t uid_place(const struct txn *x, uint32_t uid)
{
    size_t low = 0, high = x->uid_count;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (x->uids[mid] < uid) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low;
}

bool txn_has_partition(const struct txn *x, uint32_t uid)
{
    size_t at = uid_place(x, uid);
    return at < x->uid_count && x->uids[at] == uid;
}

static bool uid_room(struct txn *x, size_t more)
{
    return list_reserve(&x->uids, &x->uid_room, x->uid_count + more, sizeof *x->uids);
}

/* There is room. */
static void uid_add(struct txn *x, uint32_t uid)
{
    size_t at = uid_place(x, uid);
    if (at < x->uid_count && x->uids[at] == uid) {
        return;
    }
    memmove(x->uids + at + 1, x->uids + at, (x->uid_count - at) * sizeof *x->uids);
    x->uids[at] = uid;
    x->uid_count++;
}

bool txn_has_group(const struct txn *x, struct slice group_id)
{
    for (size_t i = 0; i < x->group_count; i++) {
        if (slice_eq(slice_make(x->groups[i].id, x->groups[i].len), group_id)) {
            return true;
        }
    }
    return false;
}

static bool group_add(struct txn *x, struct slice id)
{
    struct txn_group *p = realloc(x->groups, (x->group_count + 1) * sizeof *p);
    char *copy = malloc(id.len + 1);
    x->groups = p != NULL ? p : x->groups;
    if (p == NULL || copy == NULL) {
        free(copy);
        return false;
    }
    if (id.len > 0) {
        memcpy(copy, id.data, id.len);
    }
    x->groups[x->group_count++] = (struct txn_group){copy, id.len};
    return true;
}

enum err txn_copy(struct txn *to, const struct txn *from)
{
    *to = *from;
    to->uids = NULL;
    to->groups = NULL;
    to->uid_count = to->uid_room = to->group_count = 0;
    bool ok = from->uid_count == 0 || uid_room(to, from->uid_count);
    for (size_t i = 0; ok && i < from->uid_count; i++) {
        to->uids[to->uid_count++] = from->uids[i];
    }
    for (size_t i = 0; ok && i < from->group_count; i++) {
        ok = group_add(to, slice_make(from->groups[i].id, from->groups[i].len));
    }
    if (!ok) {
        txn_fini(to);
        txn_init(to, from->id);
    }
    return ok ? OK : ERR_NOMEM;
}

/* --- changes ---------------------------------------------------------------------------------- */

static void change(struct txn *x, int64_t now_ms)
{
    x->previous_id = x->producer_id;
    x->update_ms = now_ms;
}

/* Ends the open transaction, or one without partitions, and takes the next epoch where bumps is
 * set and there is one: after INT16_MAX comes a fresh producer, never a negative epoch. next_id: a
 * fresh producer where the epochs are used up, -1 otherwise. */
static void finish(struct txn *x, bool commits, bool bumps, int64_t next_id,
                   const struct txn_sink *sink, int64_t now_ms)
{
    int16_t epoch = bumps && x->epoch < INT16_MAX ? (int16_t)(x->epoch + 1) : x->epoch;
    sink->end(sink->arg, x, commits, x->producer_id, epoch);
    change(x, now_ms);
    if (bumps) {
        x->last_epoch = x->epoch;
    }
    x->epoch = epoch;
    if (next_id >= 0) {
        x->producer_id = next_id;
        x->epoch = 0;
    }
    x->state = commits ? TXN_COMPLETE_COMMIT : TXN_COMPLETE_ABORT;
    forget_members(x);
}

static bool exhausted(int32_t epoch)
{
    return epoch >= TXN_EPOCH_LAST;
}

/* Is the producer that wants to go on the one that we know, or one that repeats its request? */
static bool expected_ok(const struct txn *x, int64_t id, int16_t epoch)
{
    if (id == NULL_PRODUCER || x->state == TXN_NEW) {
        return true;
    }
    if (x->state == TXN_ONGOING) {
        return id == x->producer_id && epoch == x->epoch;
    }
    if (id == x->producer_id) {
        return epoch == x->epoch || epoch == x->last_epoch;
    }
    return id == x->previous_id && exhausted(epoch) && epoch == x->last_epoch;
}

static void give(struct txn *x, int64_t id, int16_t epoch, int16_t last_epoch, int64_t now_ms)
{
    change(x, now_ms);
    x->producer_id = id;
    x->epoch = epoch;
    x->last_epoch = last_epoch;
}

enum kerr txn_on_init(struct txn *x, int32_t timeout_ms, int64_t expected_id,
                      int16_t expected_epoch, const struct txn_sink *sink, int64_t now_ms)
{
    if (!expected_ok(x, expected_id, expected_epoch)) {
        return KERR_PRODUCER_FENCED;
    }
    bool expects = expected_id != NULL_PRODUCER && x->state != TXN_NEW;
    bool open = x->state == TXN_ONGOING;
    int32_t epoch = open ? x->epoch + 1 : x->epoch; /* after it is aborted */
    /* Its request is repeated, or the server has aborted its transaction: it gets what there is. */
    bool repeats =
        expects && (open || expected_id != x->producer_id || expected_epoch != x->epoch);
    bool fresh = x->state == TXN_NEW || (repeats ? epoch > TXN_EPOCH_LAST : exhausted(epoch));
    int64_t id = fresh ? sink->fresh_id(sink->arg) : x->producer_id;
    if (id < 0 || !sink->changing(sink->arg, x)) {
        return KERR_COORDINATOR_NOT_AVAILABLE;
    }
    if (open) {
        finish(x, false, true, -1, sink, now_ms);
    }
    int16_t last = expects ? expected_epoch : -1;
    if (fresh) {
        give(x, id, 0, last, now_ms);
    } else if (!repeats) {
        give(x, id, (int16_t)(x->epoch + 1), last, now_ms);
    }
    x->update_ms = now_ms;
    x->timeout_ms = timeout_ms;
    x->start_ms = -1;
    x->state = TXN_EMPTY;
    return KERR_NONE;
}

enum kerr txn_check(const struct txn *x, int64_t producer_id, int16_t epoch)
{
    if (x->state == TXN_NEW || x->producer_id != producer_id) {
        return KERR_INVALID_PRODUCER_ID_MAPPING;
    }
    return x->epoch == epoch ? KERR_NONE : KERR_PRODUCER_FENCED;
}

static void begin(struct txn *x, bool v2, int64_t now_ms)
{
    change(x, now_ms);
    if (x->state != TXN_ONGOING) {
        x->start_ms = now_ms;
    }
    x->state = TXN_ONGOING;
    x->v2 = v2;
}

enum kerr txn_on_add(struct txn *x, int64_t producer_id, int16_t epoch, const uint32_t *uids,
                     size_t count, bool v2, const struct txn_sink *sink, int64_t now_ms)
{
    enum kerr e = txn_check(x, producer_id, epoch);
    size_t known = 0;
    for (size_t i = 0; e == KERR_NONE && i < count; i++) {
        known += txn_has_partition(x, uids[i]);
    }
    if (e != KERR_NONE || (x->state == TXN_ONGOING && known == count)) {
        return e;
    }
    if (count - known > TXN_PARTITIONS_MAX - x->uid_count) {
        return KERR_POLICY_VIOLATION;
    }
    if (!sink->changing(sink->arg, x) || (count > 0 && !uid_room(x, count))) {
        return KERR_COORDINATOR_NOT_AVAILABLE;
    }
    for (size_t i = 0; i < count; i++) {
        uid_add(x, uids[i]);
    }
    begin(x, v2, now_ms);
    return KERR_NONE;
}

enum kerr txn_on_add_group(struct txn *x, int64_t producer_id, int16_t epoch, struct slice group_id,
                           bool v2, const struct txn_sink *sink, int64_t now_ms)
{
    enum kerr e = txn_check(x, producer_id, epoch);
    if (e != KERR_NONE || (x->state == TXN_ONGOING && txn_has_group(x, group_id))) {
        return e;
    }
    if (x->group_count >= TXN_GROUPS_MAX) {
        return KERR_POLICY_VIOLATION;
    }
    if (!sink->changing(sink->arg, x) || !group_add(x, group_id)) {
        return KERR_COORDINATOR_NOT_AVAILABLE;
    }
    begin(x, v2, now_ms);
    return KERR_NONE;
}

/* Protocol 2:               abort                commit
 *                    repeated   current     repeated   current
 *   Empty             fenced     epoch        fenced    invalid
 *   CompleteAbort     none       epoch        invalid   invalid
 *   CompleteCommit    invalid    epoch        none      invalid      (epoch: takes the next one) */
static enum kerr end_v2(struct txn *x, int64_t producer_id, int16_t epoch, bool commits,
                        const struct txn_sink *sink, int64_t now_ms)
{
    bool complete = x->state == TXN_COMPLETE_COMMIT || x->state == TXN_COMPLETE_ABORT;
    bool wrapped = complete && x->previous_id == producer_id && exhausted(epoch) &&
                   x->epoch == 0 && x->producer_id != producer_id;
    if (x->state == TXN_NEW || (x->producer_id != producer_id && !wrapped)) {
        return KERR_INVALID_PRODUCER_ID_MAPPING;
    }
    bool repeated = wrapped || (complete && x->epoch == epoch + 1);
    if (!repeated && x->epoch != epoch) {
        return KERR_PRODUCER_FENCED;
    }
    if (repeated) {
        bool same = commits == (x->state == TXN_COMPLETE_COMMIT);
        return same ? KERR_NONE : KERR_INVALID_TXN_STATE;
    }
    if (x->state != TXN_ONGOING && commits) {
        return KERR_INVALID_TXN_STATE;
    }
    int64_t next = exhausted(x->epoch) ? sink->fresh_id(sink->arg) : -1;
    if ((exhausted(x->epoch) && next < 0) || !sink->changing(sink->arg, x)) {
        return KERR_COORDINATOR_NOT_AVAILABLE;
    }
    if (x->state != TXN_ONGOING) {
        x->start_ms = now_ms;
    }
    x->v2 = true;
    finish(x, commits, true, next, sink, now_ms);
    return KERR_NONE;
}

enum kerr txn_on_end(struct txn *x, int64_t producer_id, int16_t epoch, bool commits, bool v2,
                     const struct txn_sink *sink, int64_t now_ms)
{
    if (v2) {
        return end_v2(x, producer_id, epoch, commits, sink, now_ms);
    }
    enum kerr e = txn_check(x, producer_id, epoch);
    if (e != KERR_NONE) {
        return e;
    }
    if (x->state == TXN_ONGOING) {
        if (!sink->changing(sink->arg, x)) {
            return KERR_COORDINATOR_NOT_AVAILABLE;
        }
        x->v2 = false;
        finish(x, commits, false, -1, sink, now_ms);
        return KERR_NONE;
    }
    return x->state == (commits ? TXN_COMPLETE_COMMIT : TXN_COMPLETE_ABORT)
               ? KERR_NONE
               : KERR_INVALID_TXN_STATE;
}

bool txn_timed_out(const struct txn *x, int64_t now_ms)
{
    return x->state == TXN_ONGOING && x->start_ms + x->timeout_ms < now_ms &&
           !clock_was_set(x->start_ms, now_ms);
}

void txn_on_timeout(struct txn *x, const struct txn_sink *sink, int64_t now_ms)
{
    if (x->state == TXN_ONGOING) {
        finish(x, false, true, -1, sink, now_ms);
    }
}

/* --- rows -------------------------------------------------------------------------------------
 *
 *   u8 version = 1 | u8 state | u8 flags: 1 protocol 2 | i64 producer id | i64 previous id |
 *   i16 epoch | i16 last epoch | i32 timeout ms | i64 start, wall ms | i64 last change, wall ms |
 *   u32 partitions, each: u32 uid | u32 groups, each: u16 length, id */

void txn_encode(const struct txn *x, struct buf *out)
{
    buf_reset(out);
    buf_put_u8(out, ROW_VERSION);
    buf_put_u8(out, (uint8_t)x->state);
    buf_put_u8(out, x->v2 ? ROW_FLAG_V2 : 0);
    buf_put_be64(out, (uint64_t)x->producer_id);
    buf_put_be64(out, (uint64_t)x->previous_id);
    buf_put_be16(out, (uint16_t)x->epoch);
    buf_put_be16(out, (uint16_t)x->last_epoch);
    buf_put_be32(out, (uint32_t)x->timeout_ms);
    buf_put_be64(out, (uint64_t)x->start_ms);
    buf_put_be64(out, (uint64_t)x->update_ms);
    buf_put_be32(out, (uint32_t)x->uid_count);
    for (size_t i = 0; i < x->uid_count; i++) {
        buf_put_be32(out, x->uids[i]);
    }
    buf_put_be32(out, (uint32_t)x->group_count);
    for (size_t i = 0; i < x->group_count; i++) {
        buf_put_be16(out, (uint16_t)x->groups[i].len);
        buf_put(out, x->groups[i].id, x->groups[i].len);
    }
}

static bool decode_members(struct reader *r, struct txn *x, bool *no_memory)
{
    uint32_t uids = reader_be32(r);
    if (uids > reader_left(r) / 4 || uids > TXN_PARTITIONS_MAX) {
        return false;
    }
    *no_memory = uids > 0 && !uid_room(x, uids);
    for (uint32_t i = 0; !*no_memory && i < uids; i++) {
        uid_add(x, reader_be32(r));
    }
    uint32_t groups = reader_be32(r);
    for (uint32_t i = 0; !*no_memory && !r->failed && i < groups; i++) {
        struct slice id = reader_bytes(r, reader_be16(r));
        *no_memory = !r->failed && !group_add(x, id);
    }
    return !*no_memory && !r->failed && reader_left(r) == 0;
}

bool txn_decode(struct slice value, struct txn *x, bool *no_memory)
{
    struct reader r = reader_make(value);
    struct slice id = x->id;
    *no_memory = false;
    bool ok = reader_u8(&r) == ROW_VERSION;
    uint8_t state = reader_u8(&r);
    x->v2 = (reader_u8(&r) & ROW_FLAG_V2) != 0;
    x->producer_id = (int64_t)reader_be64(&r);
    x->previous_id = (int64_t)reader_be64(&r);
    x->epoch = (int16_t)reader_be16(&r);
    x->last_epoch = (int16_t)reader_be16(&r);
    x->timeout_ms = (int32_t)reader_be32(&r);
    x->start_ms = (int64_t)reader_be64(&r);
    x->update_ms = (int64_t)reader_be64(&r);
    ok = ok && state < TXN_NEW && !r.failed && decode_members(&r, x, no_memory);
    if (!ok) {
        txn_fini(x);
        txn_init(x, id);
        return false;
    }
    x->state = (enum txn_state)state;
    return true;
}
