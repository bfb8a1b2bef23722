/* Two ways to the same bytes.
 *
 * A consumer that keeps up reads what was written a moment ago: the tail ring has it, copying it
 * costs less than a system call, and no thread is involved. One that is behind reads segments:
 * that is the disk's work, done by a worker, and the batches stay where RocksDB has them (pinned)
 * until the socket has taken them. Batches that are small are copied together by the worker all
 * the same: a hundred bytes are cheaper to copy than to carry through an iovec, and the blocks
 * are free sooner.
 *
 * A look may be repeated while a consumer waits for more bytes (min bytes): what was read stays,
 * and `next` goes on. */
#include "kafka-server/broker/fetch.h"

#include <stdlib.h>

#include "shared/record/record.h"

void fetch_init(struct fetch *f, struct fetch_part *parts, int32_t count, size_t bytes_max)
{
    *f = (struct fetch){.parts = parts, .count = count, .bytes_left = bytes_max};
    for (int32_t i = 0; i < count; i++) {
        struct fetch_part *p = &parts[i];
        p->end = p->log_start = p->stable = -1;
        p->from = p->next;
        p->diverging_epoch = -1;
        p->diverging_end = -1;
        buf_init(&p->copied, FETCH_PART_BYTES_MAX);
        f->unknown += p->error != KERR_NONE;
    }
}

void fetch_fini(struct fetch *f)
{
    for (int32_t i = 0; i < f->count; i++) {
        buf_fini(&f->parts[i].copied);
        store_slices_free(f->parts[i].pinned);
    }
    free(f->parts);
    f->parts = NULL;
    f->count = 0;
}

size_t fetch_part_bytes(const struct fetch_part *p)
{
    return p->copied.len + (p->pinned != NULL ? p->pinned->bytes : 0);
}

size_t fetch_held_bytes(const struct fetch *f)
{
    size_t held = 0;
    for (int32_t i = 0; i < f->count; i++) {
        const struct fetch_part *p = &f->parts[i];
        held += p->copied.cap + (p->pinned != NULL ? p->pinned->bytes : 0);
    }
    return held;
}

void fetch_fail(struct fetch *f, struct fetch_part *p, enum kerr error)
{
    f->errors++;
    p->error = error;
    p->end = p->log_start = p->stable = -1;
}

static void give_back(struct fetch *f, struct fetch_part *p, enum kerr error)
{
    fetch_fail(f, p, error);
    store_slices_free(p->pinned);
    p->pinned = NULL;
    buf_reset(&p->copied);
}

void fetch_lose_store(struct fetch *f, const struct store *store)
{
    for (int32_t i = 0; i < f->count; i++) {
        if (f->parts[i].store == store) {
            give_back(f, &f->parts[i], KERR_KAFKA_STORAGE_ERROR);
            f->parts[i].store = NULL;
        }
    }
}

void fetch_check_aborted(struct fetch *f)
{
    for (int32_t i = 0; f->committed && i < f->count; i++) {
        struct fetch_part *p = &f->parts[i];
        struct store_offsets o;
        if (p->store == NULL || !p->transactional || fetch_part_bytes(p) == 0) {
            continue;
        }
        if (store_offsets(p->store, p->uid, &o) != OK) {
            give_back(f, p, KERR_UNKNOWN_TOPIC_OR_PARTITION);
        } else if (producers_forgot_aborted(f->producers, p->uid, p->from)) {
            give_back(f, p, KERR_OFFSET_OUT_OF_RANGE);
        }
    }
}

bool fetch_is_enough(const struct fetch *f, size_t bytes_min)
{
    if (f->errors != 0 || f->unknown == f->count) {
        return true;
    }
    size_t bytes = 0;
    for (int32_t i = 0; i < f->count; i++) {
        const struct fetch_part *p = &f->parts[i];
        size_t have = fetch_part_bytes(p);
        bool more = p->next < p->limit && f->bytes != 0;
        bytes += more && p->bytes_max > have ? p->bytes_max : have;
        if (p->diverging_epoch >= 0) {
            return true;
        }
    }
    return bytes >= bytes_min;
}

static void count_bytes(struct fetch *f, size_t bytes)
{
    f->bytes += bytes;
    f->bytes_left -= bytes < f->bytes_left ? bytes : f->bytes_left;
}

/* How much more of a partition fits; 0: nothing, not even one batch. */
static size_t room_for(const struct fetch *f, const struct fetch_part *p, bool *at_least_one)
{
    size_t have = fetch_part_bytes(p);
    size_t own = p->bytes_max > have ? p->bytes_max - have : 0;
    *at_least_one = f->bytes == 0;
    return own < f->bytes_left ? own : f->bytes_left;
}

/* Does the client's log differ from ours before `next`? (KIP-595's check, for clients that send
 * the epoch.) It comes before the end is looked at: who is beyond it is told from where on. An
 * epoch that never was is an offset that never was. */
static enum kerr look_for_divergence(struct fetch_part *p, int64_t log_start)
{
    int32_t found;
    int64_t end;
    if (p->last_fetched_epoch < 0 || p->end >= 0) {
        return KERR_NONE; /* not asked for, or looked for before */
    }
    enum err e = store_epoch_end(p->store, p->uid, p->last_fetched_epoch, &found, &end);
    if (e == ERR_NOT_FOUND || (e == OK && p->next < log_start)) {
        return KERR_OFFSET_OUT_OF_RANGE;
    }
    if (e == OK && (found < p->last_fetched_epoch || end < p->next)) {
        p->diverging_epoch = found;
        p->diverging_end = end;
    }
    return KERR_NONE;
}

/* Errors that the offsets alone tell. True: there may be something to read. */
static bool look_at_offsets(struct fetch *f, struct fetch_part *p)
{
    struct store_offsets o;
    if (store_offsets(p->store, p->uid, &o) != OK) {
        fetch_fail(f, p, KERR_UNKNOWN_TOPIC_OR_PARTITION);
        return false;
    }
    p->leader_epoch_now = o.leader_epoch;
    enum kerr epoch_error = fetch_check_epoch(p->leader_epoch, o.leader_epoch);
    if (epoch_error != KERR_NONE) {
        fetch_fail(f, p, epoch_error);
        return false;
    }
    enum kerr divergence = look_for_divergence(p, o.log_start);
    bool outside = p->next < o.log_start || (p->next > o.end && p->diverging_epoch < 0);
    if (divergence != KERR_NONE || (outside && fetch_part_bytes(p) == 0)) {
        fetch_fail(f, p, KERR_OFFSET_OUT_OF_RANGE);
        return false;
    }
    p->end = p->stable = o.end;
    p->log_start = o.log_start;
    if (p->transactional) {
        p->stable = producers_lso(f->producers, p->uid, o.log_start, o.end);
    }
    p->limit = f->committed ? p->stable : p->end;
    return p->diverging_epoch < 0 && p->next < p->limit;
}

/* What lies beyond the limit is taken back from `copied`, which had `before` bytes. */
static void cut_copied(struct fetch_part *p, size_t before, int64_t *next)
{
    size_t at = before;
    while (*next > p->limit && at < p->copied.len) {
        struct batch_header h;
        if (batch_read_header(slice_make(p->copied.data + at, p->copied.len - at), &h) != OK ||
            h.base_offset >= p->limit) {
            p->copied.len = at;
        } else {
            at += batch_total_bytes(&h);
        }
    }
    *next = *next < p->limit ? *next : p->limit;
}

static void cut_pinned(struct store_slices *s, int64_t limit)
{
    struct batch_header h;
    while (s->next > limit && s->count > 0) {
        const struct iovec *last = &s->iov[s->count - 1];
        if (batch_read_header(slice_make(last->iov_base, last->iov_len), &h) == OK &&
            h.base_offset < limit) {
            break;
        }
        s->count--;
        s->bytes -= last->iov_len;
    }
    s->next = s->next < limit ? s->next : limit;
}

static void look_at(struct fetch *f, struct fetch_part *p, size_t *loop_left)
{
    bool at_least_one;
    p->cold = false;
    if (p->error != KERR_NONE || !look_at_offsets(f, p)) {
        return;
    }
    size_t room = room_for(f, p, &at_least_one);
    room = room < *loop_left ? room : *loop_left;
    if (p->pinned != NULL || (room == 0 && !at_least_one)) {
        return;
    }
    size_t before = p->copied.len;
    int64_t next = p->next;
    enum err e = store_read_tail(p->store, p->uid, p->next, room, at_least_one, &p->copied, &next);
    if (e == ERR_NOT_FOUND || e == ERR_NOMEM) { /* the disk's is not copied */
        p->cold = fetch_part_bytes(p) == 0;
        f->cold += p->cold;
    } else if (e == ERR_RANGE && before == 0) {
        fetch_fail(f, p, KERR_OFFSET_OUT_OF_RANGE);
    } else if (e == OK) {
        if (f->committed) {
            cut_copied(p, before, &next);
        }
        size_t bytes = p->copied.len - before;
        p->next = next;
        p->end = next > p->end ? next : p->end;
        *loop_left -= bytes < *loop_left ? bytes : *loop_left;
        count_bytes(f, bytes);
    }
}

void fetch_look(struct fetch *f)
{
    size_t loop_left = FETCH_LOOK_BYTES_MAX;
    f->cold = 0;
    f->again = false;
    for (int32_t i = 0; i < f->count; i++) {
        look_at(f, &f->parts[i], &loop_left);
    }
}

/* Small batches become one piece of memory; the pinned ones are given back. */
static void copy_small(struct fetch_part *p)
{
    struct store_slices *s = p->pinned;
    if (s->count < 2 || s->bytes / s->count >= FETCH_COPY_BYTES ||
        buf_reserve(&p->copied, s->bytes) == NULL) {
        buf_reset(&p->copied);
        return;
    }
    for (size_t i = 0; i < s->count; i++) {
        buf_put(&p->copied, s->iov[i].iov_base, s->iov[i].iov_len);
    }
    store_slices_free(s);
    p->pinned = NULL;
}

static void read_part(struct fetch *f, struct fetch_part *p, size_t *read_left)
{
    bool at_least_one;
    size_t room = room_for(f, p, &at_least_one);
    room = room < *read_left ? room : *read_left;
    if (!at_least_one && (room == 0 || room < f->batch_bytes)) {
        return; /* finding out that a batch does not fit costs as much as reading it */
    }
    struct store_slices *s = NULL;
    struct errmsg m = {.text = ""};
    enum err e = store_read(p->store, p->uid, p->next, room, at_least_one, &s, &m);
    switch (e) {
    case OK:
        break;
    case ERR_RANGE:
        fetch_fail(f, p, KERR_OFFSET_OUT_OF_RANGE);
        return;
    case ERR_AGAIN:
        f->again = true;
        return;
    default:
        fetch_fail(f, p, KERR_KAFKA_STORAGE_ERROR);
        return;
    }
    if (s != NULL && f->committed) {
        cut_pinned(s, p->limit);
    }
    if (s == NULL || s->count == 0) {
        store_slices_free(s);
        return;
    }
    p->pinned = s;
    p->next = s->next;
    p->end = s->next > p->end ? s->next : p->end;
    *read_left -= s->bytes < *read_left ? s->bytes : *read_left;
    f->batch_bytes = s->bytes / s->count;
    count_bytes(f, s->bytes);
    copy_small(p);
}

void fetch_read(struct fetch *f)
{
    size_t read_left = FETCH_READ_BYTES_MAX;
    for (int32_t i = 0; i < f->count; i++) {
        struct fetch_part *p = &f->parts[i];
        if (p->cold) {
            p->cold = false;
            read_part(f, p, &read_left);
        }
    }
    f->cold = 0;
}

/* A session has those that were answered behind all others: the reader comes again after as many
 * replies as those that have more fill, and each of these may bring one batch into the cache. */
const struct fetch_part *fetch_ahead(const struct fetch *f, size_t cache_bytes)
{
    const struct fetch_part *first = NULL;
    size_t read = 0, more = 0;
    for (int32_t i = 0; i < f->count; i++) {
        const struct fetch_part *p = &f->parts[i];
        bool has_more = p->error == KERR_NONE && p->next < p->limit;
        read += p->pinned != NULL;
        more += has_more;
        first = first == NULL && has_more && p->pinned != NULL ? p : first;
    }
    if (first == NULL || f->batch_bytes < FETCH_AHEAD_BYTES_MIN ||
        f->batch_bytes > cache_bytes / FETCH_AHEAD_SHARE) {
        return NULL;
    }
    size_t replies = (more + read - 1) / read;
    return replies <= cache_bytes / 2 / f->batch_bytes ? first : NULL;
}
