/* The writer: append, commit, segments.
 *
 *   append ─▶ WriteBatch, and where in it the batch lies          part.next moves, part.now stays
 *   commit ─▶ 1 rocksdb_write   2 tail ring   3 ends in the page   4 sequence + 1, wake
 *             now = next
 *   failure at 1, or rollback: next = now, nothing else has happened
 *
 * 1 before 2 and 3: nobody ever reads what is not in the WAL. 2 before 3: who sees an end finds the
 * batch in the ring, unless it was overrun. A kill in between leaves batches in the log that were
 * not published; the next opening publishes them, together with the owner's rows of the same
 * WriteBatch.
 *
 * A segment ends between two commits (segment_switch): its rows are written, then both families are
 * asked to flush, without waiting. The key of a batch holds its segment, so the switch comes before
 * the first append of a commit, never inside.
 *
 * When the disk is nearly full we stop by ourselves, while RocksDB still has room for the flushes
 * that it owes: its own failure would be final until the store is opened again. */
#include "shared/store/store_int.h"

#include <stdio.h>
#include <sys/statvfs.h>

#include "shared/base/clock.h"
#include "shared/base/log.h"

#define SPACE_CHECK_BYTES (256u << 10) /* appended between two looks at the free space */
#define SPACE_RESERVE     (16ull << 20)

/* --- partitions ------------------------------------------------------------------------------- */

struct part *part_get(struct store *s, uint32_t uid)
{
    if (uid >= STORE_UIDS_MAX) {
        return NULL;
    }
    struct part *chunk = atomic_load_explicit(&s->chunks[uid / PART_CHUNK], memory_order_acquire);
    return chunk ? &chunk[uid % PART_CHUNK] : NULL;
}

enum err parts_reserve(struct store *s, uint32_t uids)
{
    for (uint32_t c = 0; c < PART_CHUNKS && c * PART_CHUNK < uids; c++) {
        if (atomic_load_explicit(&s->chunks[c], memory_order_relaxed)) {
            continue;
        }
        struct part *chunk = calloc(PART_CHUNK, sizeof *chunk);
        if (!chunk) {
            return ERR_NOMEM;
        }
        for (int i = 0; i < PART_CHUNK; i++) {
            chunk[i].now.row.max_ts = chunk[i].now.open_max = NO_TIMESTAMP;
            chunk[i].next = chunk[i].now;
            chunk[i].open_since_ms = -1;
            chunk[i].first.offset = -1;
        }
        atomic_store_explicit(&s->chunks[c], chunk, memory_order_release);
    }
    return OK;
}

bool uid_list_reserve(struct uid_list *l, size_t more)
{
    if (more > l->cap - l->count) {
        size_t cap = l->cap ? l->cap : 64;
        while (cap - l->count < more) {
            cap *= 2; /* at most 2^20 uids are ever in a list */
        }
        uint32_t *grown = realloc(l->uids, cap * sizeof *grown);
        if (!grown) {
            return false;
        }
        l->uids = grown;
        l->cap = cap;
    }
    return true;
}

/* --- batches of rows -------------------------------------------------------------------------- */

void batch_put(struct rocks *r, rocksdb_writebatch_t *b, int cf, struct slice k, struct slice v)
{
    rocksdb_writebatch_put_cf(b, r->cf[cf], (const char *)k.data, k.len, (const char *)v.data,
                              v.len);
}

void batch_delete(struct rocks *r, rocksdb_writebatch_t *b, struct slice k)
{
    rocksdb_writebatch_delete_cf(b, r->cf[CF_META], (const char *)k.data, k.len);
}

void store_broken(struct store *s, const struct errmsg *why)
{
    if (atomic_exchange(&s->state, STORE_BROKEN) == STORE_OK) {
        log_error("store broken dir=%s why=\"%s\"", s->dir, why->text);
    }
}

enum store_state store_state(struct store *s)
{
    return atomic_load_explicit(&s->state, memory_order_acquire);
}

enum err write_batch(struct store *s, rocksdb_writebatch_t *b, struct errmsg *m)
{
    if (store_state(s) != STORE_OK) {
        return err_set(m, ERR_IO, "store %s failed and must be opened again", s->dir);
    }
    char *text = NULL;
    rocksdb_write(s->rocks->db, s->rocks->write, b, &text);
    if (!text) {
        return OK;
    }
    struct errmsg why;
    enum err e = rocks_failed(text, "write", s->dir, &why);
    store_broken(s, &why);
    return err_set(m, e, "%s", why.text);
}

/* --- segments --------------------------------------------------------------------------------- */

enum err segment_add(struct store *s, const struct segment *g)
{
    if (s->segment_count == s->segment_cap) {
        size_t cap = s->segment_cap ? s->segment_cap * 2 : 64;
        struct segment *grown = realloc(s->segments, cap * sizeof *grown);
        if (!grown) {
            return ERR_NOMEM;
        }
        s->segments = grown;
        s->segment_cap = cap;
    }
    s->segments[s->segment_count++] = *g;
    s->closed_bytes += g->bytes;
    return OK;
}

enum err segment_put(struct store *s, rocksdb_writebatch_t *b, const struct segment *g,
                     const struct segment_entry *entries, size_t count)
{
    uint8_t key[UID_KEY_BYTES];
    size_t len = SEGMENT_HEAD_BYTES + count * SEGMENT_ENTRY_BYTES;
    uint8_t *row = malloc(len);
    if (!row) {
        return ERR_NOMEM;
    }
    be64_put(row, (uint64_t)g->closed_ms);
    be32_put(row + 8, g->from);
    be32_put(row + 12, (uint32_t)count);
    for (size_t i = 0; i < count; i++) {
        uint8_t *v = row + SEGMENT_HEAD_BYTES + i * SEGMENT_ENTRY_BYTES;
        be32_put(v, entries[i].uid);
        be64_put(v + 4, (uint64_t)entries[i].end);
        be64_put(v + 12, entries[i].bytes);
    }
    uid_key_put(key, ROW_SEGMENT, g->number);
    batch_put(s->rocks, b, CF_META, slice_make(key, sizeof key), slice_make(row, len));
    free(row);
    return OK;
}

static void put_index_row(struct store *s, rocksdb_writebatch_t *b, uint32_t uid,
                          const struct index_row *r)
{
    uint8_t key[INDEX_KEY_BYTES], value[INDEX_ROW_BYTES];
    index_key_put(key, uid, r->offset);
    index_row_put(value, r);
    batch_put(s->rocks, b, CF_META, slice_make(key, sizeof key), slice_make(value, sizeof value));
}

void interval_close(struct store *s, rocksdb_writebatch_t *b, uint32_t uid, struct part_state *st,
                    uint32_t segment)
{
    if (st->end > st->row.offset) {
        st->row = (struct index_row){.offset = st->end,
                                     .from = st->row.offset,
                                     .max_ts = st->open_max,
                                     .bytes = st->bytes};
        st->open_max = NO_TIMESTAMP;
    }
    st->row.segment = segment; /* without an interval: the row of the end again, with its segment */
    put_index_row(s, b, uid, &st->row);
}

/* Index rows of all partitions in the segment, and its own row. *after: their states once
 * written. */
static enum err put_segment_rows(struct store *s, rocksdb_writebatch_t *b, const struct segment *g,
                                 struct part_state *after)
{
    struct segment_entry *entries = calloc(s->active.count, sizeof *entries);
    if (!entries) {
        return ERR_NOMEM;
    }
    size_t count = 0;
    for (size_t i = 0; i < s->active.count; i++) {
        uint32_t uid = s->active.uids[i];
        struct part *p = part_get(s, uid);
        after[i] = p->now;
        if (!p->topic) {
            continue; /* deleted meanwhile: what it has here is dead from the start */
        }
        if (p->now.end > p->now.row.offset) {
            interval_close(s, b, uid, &after[i], s->segment + 1);
        }
        entries[count++] =
            (struct segment_entry){uid, p->now.end, p->now.bytes - p->now.segment_bytes_at};
    }
    enum err e = segment_put(s, b, g, entries, count);
    free(entries);
    return e;
}

static enum err flush_families(struct store *s, struct errmsg *m)
{
    static const int order[] = {CF_LOG, CF_META};
    for (size_t i = 0; i < 2; i++) {
        char *text = NULL;
        rocksdb_flush_cf(s->rocks->db, s->rocks->flush, s->rocks->cf[order[i]], &text);
        if (text) {
            struct errmsg why;
            enum err e = rocks_failed(text, "flush", s->dir, &why);
            store_broken(s, &why);
            return err_set(m, e, "%s", why.text);
        }
    }
    s->wal_bytes = 0;
    return OK;
}

enum err segment_switch(struct store *s, int64_t now_ms, struct errmsg *m)
{
    if (s->active.count == 0) {
        return flush_families(s, m); /* rows alone have filled the WAL */
    }
    struct part_state *after = calloc(s->active.count, sizeof *after);
    rocksdb_writebatch_t *b = rocksdb_writebatch_create();
    struct segment g = {s->segment, s->segment, s->segment_bytes, now_ms};
    enum err e = after ? put_segment_rows(s, b, &g, after) : ERR_NOMEM;
    if (e == OK) {
        e = segment_add(s, &g);
    }
    if (e != OK) {
        e = err_set(m, e, "store %s: out of memory", s->dir);
        goto out;
    }
    e = write_batch(s, b, m);
    if (e != OK) {
        s->closed_bytes -= s->segments[--s->segment_count].bytes;
        goto out;
    }
    for (size_t i = 0; i < s->active.count; i++) {
        struct part *p = part_get(s, s->active.uids[i]);
        p->now = p->next = after[i];
        p->active = false;
        p->open_since_ms = -1;
    }
    s->active.count = 0;
    s->segment++;
    s->segment_bytes = 0;
    s->segment_full = false;
    s->segment_since_ms = -1;
    struct page *page = atomic_load(&s->page);
    atomic_store_explicit(&page->h->segment_now, s->segment, memory_order_relaxed);
    e = flush_families(s, m);
out:
    rocksdb_writebatch_destroy(b);
    free(after);
    return e;
}

/* --- free space ------------------------------------------------------------------------------- */

/* What RocksDB still has to write is two segments at most; a small file system gives what it
 * can. */
static uint64_t space_reserve(const struct store *s, uint64_t total)
{
    uint64_t want = SPACE_RESERVE + 4 * s->o.segment_bytes;
    return want < total / 8 ? want : total / 8;
}

enum err space_check(struct store *s, struct errmsg *m)
{
    struct statvfs v;
    s->appended_since_space = 0;
    if (statvfs(s->dir, &v) != 0) {
        return OK; /* then a write will say what is wrong */
    }
    uint64_t left = (uint64_t)v.f_bavail * v.f_frsize;
    uint64_t total = (uint64_t)v.f_blocks * v.f_frsize;
    bool full = left < space_reserve(s, total);
    if (full != s->no_space) {
        s->no_space = full;
        if (full) {
            log_error("store disk full, writing stops dir=%s free_bytes=%llu", s->dir,
                      (unsigned long long)left);
        } else {
            log_info("store disk has room again dir=%s free_bytes=%llu", s->dir,
                     (unsigned long long)left);
        }
    }
    return full ? err_set(m, ERR_FULL, "store %s: the disk is full (%llu MB left)", s->dir,
                          (unsigned long long)(left >> 20))
                : OK;
}

/* --- append ----------------------------------------------------------------------------------- */

/* Before the first batch of a commit: is it time for the next segment? */
static enum err begin_commit(struct store *s)
{
    bool full = s->segment_bytes >= s->o.segment_bytes || s->segment_full ||
                s->wal_bytes >= 2 * s->o.segment_bytes;
    return full ? segment_switch(s, clock_wall_ms(), NULL) : OK;
}

/* Room in the list of what is pending, and in its bytes. */
static enum err pending_reserve(struct store *s, size_t len)
{
    if (len > PENDING_BYTES_MAX - s->pending_bytes) {
        return ERR_NOMEM;
    }
    if (s->pending_count == s->pending_cap) {
        size_t cap = s->pending_cap ? s->pending_cap * 2 : 64;
        struct pending_batch *grown = realloc(s->pending_batches, cap * sizeof *grown);
        if (!grown) {
            return ERR_NOMEM;
        }
        s->pending_batches = grown;
        s->pending_cap = cap;
    }
    return OK;
}

/* Puts the batch into the WriteBatch, whose bytes then end in it: from there it goes into the tail,
 * without a copy of our own. Should a RocksDB lay them out differently, the tail does without. */
static void pending_put(struct store *s, uint32_t uid, int64_t base, struct slice batch)
{
    uint8_t key[LOG_KEY_BYTES];
    log_key_put(key, s->segment, uid, base);
    batch_put(s->rocks, s->batch, CF_LOG, slice_make(key, sizeof key), batch);
    size_t size = 0;
    const char *bytes = rocksdb_writebatch_data(s->batch, &size);
    s->pending_bytes += batch.len;
    if (size >= batch.len &&
        memcmp(bytes + (size - batch.len), batch.data, BATCH_HEADER_BYTES) == 0) {
        s->pending_batches[s->pending_count++] =
            (struct pending_batch){uid, (uint32_t)batch.len, size - batch.len};
    }
}

/* The index row that this batch begins with, if any. */
static void index_before(struct store *s, uint32_t uid, struct part_state *st)
{
    bool due = st->segment != s->segment || st->bytes - st->row.bytes >= INDEX_INTERVAL_BYTES;
    if ((due && st->end > st->row.offset) || st->row.segment != s->segment) {
        interval_close(s, s->batch, uid, st, s->segment);
    }
    if (st->segment != s->segment) {
        st->segment = s->segment;
        st->segment_bytes_at = st->bytes;
        st->segment_offset = st->end;
    }
}

enum err store_append(struct store *s, uint32_t uid, uint8_t *batch, size_t len,
                      int64_t *base_offset)
{
    struct batch_header h;
    if (uid >= s->next_uid || !part_get(s, uid)->topic) {
        return ERR_NOT_FOUND;
    }
    enum err e = batch_read_header(slice_make(batch, len), &h);
    if (e != OK || len > INT32_MAX || batch_total_bytes(&h) != len || h.last_offset_delta < 0) {
        return ERR_CORRUPT;
    }
    if (s->pending_bytes == 0) {
        e = begin_commit(s);
        if (e != OK) {
            return e;
        }
    }
    struct part *p = part_get(s, uid);
    struct page *page = atomic_load_explicit(&s->page, memory_order_relaxed);
    int64_t base = p->next.end;
    batch_set_base_offset(batch, base);
    batch_set_leader_epoch(batch, atomic_load_explicit(&page->entries[uid].epoch,
                                                       memory_order_relaxed));
    if (!p->touched && !uid_list_reserve(&s->touched, 1)) {
        return ERR_NOMEM;
    }
    e = pending_reserve(s, len);
    if (e != OK) {
        return e;
    }
    if (!p->touched) {
        p->touched = true;
        s->touched.uids[s->touched.count++] = uid;
    }
    index_before(s, uid, &p->next);
    pending_put(s, uid, base, slice_make(batch, len));
    p->next.end = base + h.last_offset_delta + 1;
    p->next.bytes += len;
    if (h.max_timestamp > p->next.open_max) {
        p->next.open_max = h.max_timestamp;
    }
    *base_offset = base;
    return OK;
}

/* --- owner's rows ----------------------------------------------------------------------------- */

/* The key with its prefix, in k; false: not a key. */
static bool owner_key(struct slice key, uint8_t k[OWNER_KEY_BYTES_MAX + 1])
{
    if (key.len < 1 || key.len > OWNER_KEY_BYTES_MAX) {
        return false;
    }
    k[0] = ROW_OWNER;
    memcpy(k + 1, key.data, key.len);
    return true;
}

enum err store_put(struct store *s, struct slice key, struct slice value)
{
    uint8_t k[OWNER_KEY_BYTES_MAX + 1];
    if (!owner_key(key, k)) {
        return ERR_INVALID;
    }
    if (value.len > PENDING_BYTES_MAX - s->pending_rows_bytes) {
        return ERR_NOMEM;
    }
    batch_put(s->rocks, s->batch, CF_META, slice_make(k, key.len + 1), value);
    s->pending_rows_bytes += key.len + value.len + 1;
    return OK;
}

enum err store_delete(struct store *s, struct slice key)
{
    uint8_t k[OWNER_KEY_BYTES_MAX + 1];
    if (!owner_key(key, k)) {
        return ERR_INVALID;
    }
    batch_delete(s->rocks, s->batch, slice_make(k, key.len + 1));
    s->pending_rows_bytes += key.len + 1;
    return OK;
}

/* --- commit ----------------------------------------------------------------------------------- */

size_t store_pending_bytes(const struct store *s)
{
    return s->pending_bytes + s->pending_rows_bytes;
}

static void pending_clear(struct store *s)
{
    for (size_t i = 0; i < s->touched.count; i++) {
        part_get(s, s->touched.uids[i])->touched = false;
    }
    bool large = store_pending_bytes(s) > PENDING_KEEP_BYTES;
    s->touched.count = 0;
    s->pending_count = 0;
    s->pending_bytes = 0;
    s->pending_rows_bytes = 0;
    if (large) { /* clear keeps its memory */
        rocksdb_writebatch_destroy(s->batch);
        s->batch = rocksdb_writebatch_create();
    } else {
        rocksdb_writebatch_clear(s->batch);
    }
}

void store_rollback(struct store *s)
{
    for (size_t i = 0; i < s->touched.count; i++) {
        struct part *p = part_get(s, s->touched.uids[i]);
        p->next = p->now;
    }
    pending_clear(s);
}

/* A batch that does not fit a frame is left out: readers find the gap and ask the database. */
static void fill_tail(struct store *s)
{
    size_t size;
    const char *bytes = rocksdb_writebatch_data(s->batch, &size);
    for (size_t i = 0; i < s->pending_count; i++) {
        const struct pending_batch *b = &s->pending_batches[i];
        uint8_t *frame;
        if (ring_reserve(&s->ring, TAIL_FRAME_HEADER + b->len, false, &frame) != OK) {
            continue;
        }
        be32_put(frame, b->uid);
        memcpy(frame + TAIL_FRAME_HEADER, bytes + b->at, b->len);
        ring_commit(&s->ring, TAIL_FRAME_HEADER + b->len);
    }
}

static void publish_ends(struct store *s, struct page *page)
{
    for (size_t i = 0; i < s->touched.count; i++) {
        uint32_t uid = s->touched.uids[i];
        struct part *p = part_get(s, uid);
        p->now = p->next;
        s->segment_full |= p->topic && p->topic->segment_bytes > 0 &&
                           p->now.bytes - p->now.segment_bytes_at >=
                               (uint64_t)p->topic->segment_bytes;
        if (!p->active) {
            p->active = true;
            s->active.uids[s->active.count++] = uid;
        }
        atomic_store_explicit(&page->entries[uid].end, p->now.end, memory_order_release);
        if (!p->topic) {
            s->sweep_uid = 0; /* deleted while this was pending: its rows came late */
        }
    }
}

static enum err commit(struct store *s, bool makes_room, struct errmsg *m)
{
    if (store_state(s) != STORE_OK) {
        store_rollback(s);
        return err_set(m, ERR_IO, "store %s failed and must be opened again", s->dir);
    }
    size_t bytes = store_pending_bytes(s);
    if (rocksdb_writebatch_count(s->batch) == 0) {
        return OK;
    }
    enum err e = OK;
    bool due = s->no_space || s->appended_since_space + bytes > SPACE_CHECK_BYTES;
    if (due && !makes_room) {
        e = space_check(s, m);
    }
    if (e == OK && !uid_list_reserve(&s->active, s->touched.count)) {
        e = err_set(m, ERR_NOMEM, "store %s: out of memory", s->dir);
    }
    if (e == OK) {
        e = write_batch(s, s->batch, m);
    }
    if (e != OK) {
        store_rollback(s);
        return e;
    }
    struct page *page = atomic_load_explicit(&s->page, memory_order_relaxed);
    fill_tail(s);
    publish_ends(s, page);
    s->segment_bytes += s->pending_bytes;
    s->wal_bytes += bytes;
    s->appended_since_space += bytes;
    page_publish(page);
    sync_request(s, &s->touched);
    pending_clear(s);
    return OK;
}

enum err store_commit(struct store *s, struct errmsg *m)
{
    return commit(s, false, m);
}

enum err store_commit_rows(struct store *s, struct errmsg *m)
{
    return commit(s, true, m);
}

enum err store_has_room(struct store *s, struct errmsg *m)
{
    return space_check(s, m);
}
