/* Aborted transactions of partitions, whose list readers get.
 *
 *   key    "producer/a" uid u32 | offset of the abort marker i64
 *   value  u8 version = 1 | i64 producer id | i64 first offset | i64 last stable offset after it
 *
 * They come with their marker, and go when the log start passes that, or some time after compaction
 * has gone over it. */
#include "kafka-server/broker/producers_int.h"

#include <stdlib.h>

#include "shared/base/list.h"

#define ABORTED_BYTES 25

bool aborted_push(struct producers *p, struct partition *t, const struct producers_aborted *a)
{
    bool ok = list_reserve(&t->aborted, &t->aborted_room, t->aborted_count + 1,
                           sizeof *t->aborted);
    if (ok) {
        t->aborted[t->aborted_count++] = *a;
        p->aborted_count++;
    }
    return ok;
}

void aborted_remove(struct producers *p, struct partition *t, size_t count)
{
    t->aborted_count -= count;
    p->aborted_count -= count;
    for (size_t i = 0; count > 0 && i < t->aborted_count; i++) {
        t->aborted[i] = t->aborted[i + count];
    }
}

size_t aborted_from(const struct partition *t, int64_t offset)
{
    size_t low = 0, high = t->aborted_count;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (t->aborted[mid].last_offset < offset) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low;
}

void producers_each_aborted(const struct producers *p, uint32_t uid, int64_t from, int64_t to,
                            producers_aborted_fn *fn, void *arg)
{
    const struct partition *t = producers_partition(p, uid);
    for (size_t i = t != NULL ? aborted_from(t, from) : 0; t != NULL && i < t->aborted_count; i++) {
        const struct producers_aborted *a = &t->aborted[i];
        if (a->first_offset < to && !fn(arg, a)) {
            return;
        }
        if (a->lso >= to) {
            return; /* those behind it begin behind `to` */
        }
    }
}

bool producers_forgot_aborted(const struct producers *p, uint32_t uid, int64_t from)
{
    const struct partition *t = producers_partition(p, uid);
    return t != NULL && from < t->passed;
}

/* --- rows ------------------------------------------------------------------------------------- */

void aborted_write(struct producers *p, uint32_t uid, const struct producers_aborted *a)
{
    uint8_t key[ROW_KEY_BYTES], v[ABORTED_BYTES];
    v[0] = ROW_VERSION;
    be64_put(v + 1, (uint64_t)a->producer_id);
    be64_put(v + 9, (uint64_t)a->first_offset);
    be64_put(v + 17, (uint64_t)a->lso);
    journal_put(p->journal, producers_row_key(key, ABORTED_PREFIX, uid, a->last_offset),
                slice_make(v, sizeof v));
}

void aborted_delete(struct producers *p, const struct partition *t, size_t count)
{
    uint8_t key[ROW_KEY_BYTES];
    for (size_t i = 0; i < count; i++) {
        journal_delete(p->journal,
                       producers_row_key(key, ABORTED_PREFIX, t->uid, t->aborted[i].last_offset));
    }
}

bool aborted_load(void *arg, struct slice key, struct slice value)
{
    struct producers_load *l = arg;
    if (key.len != ROW_KEY_BYTES || value.len != ABORTED_BYTES || value.data[0] != ROW_VERSION) {
        l->corrupt++;
        return true;
    }
    const struct producers_aborted a = {
        .producer_id = (int64_t)be64_get(value.data + 1),
        .first_offset = (int64_t)be64_get(value.data + 9),
        .last_offset = (int64_t)be64_get(key.data + ROW_PREFIX_BYTES + 4),
        .lso = (int64_t)be64_get(value.data + 17),
    };
    struct partition *t = producers_partition_get(l->p, be32_get(key.data + ROW_PREFIX_BYTES));
    l->e = t != NULL && aborted_push(l->p, t, &a) ? OK : ERR_NOMEM;
    return l->e == OK;
}

static int by_marker(const void *a, const void *b)
{
    const struct producers_aborted *x = a, *y = b;
    return (x->last_offset > y->last_offset) - (x->last_offset < y->last_offset);
}

void aborted_sort(struct producers *p)
{
    for (struct partition *t = p->partitions; t != NULL; t = t->hh.next) {
        if (t->aborted_count > 0) {
            qsort(t->aborted, t->aborted_count, sizeof *t->aborted, by_marker);
        }
    }
}

/* --- forgetting what compaction has taken ----------------------------------------------------- */

void aborted_forgotten(struct producers *p, enum err e)
{
    for (struct partition *t = p->forgetting ? p->partitions : NULL; t; t = t->hh.next) {
        aborted_remove(p, t, e == OK ? t->forgetting : 0);
        t->forgetting = 0;
    }
    p->forgetting = false;
}

/* These are forgotten when the commit has succeeded, not before: their markers may be dropped from
 * then on, and a transaction without one would hide what its producer writes next. */
void producers_forget_cleaned(struct producers *p, producers_clean_fn *fn, void *arg,
                              int64_t now_ms)
{
    for (struct partition *t = p->partitions; t != NULL; t = t->hh.next) {
        int64_t clean_to, keep_ms;
        if (t->aborted_count == 0 || t->forgetting > 0 || !fn(arg, t->uid, &clean_to, &keep_ms)) {
            continue;
        }
        size_t count = aborted_from(t, t->forget_below);
        if (count == 0 && aborted_from(t, clean_to) > 0) {
            t->forget_below = clean_to;
            t->forget_at_ms = keep_ms < INT64_MAX - now_ms ? now_ms + keep_ms : INT64_MAX;
        } else if (count > 0 && now_ms >= t->forget_at_ms) {
            aborted_delete(p, t, count);
            t->forgetting = count;
            p->forgetting = true;
        }
    }
}
