/* Where the partitions end, from the database alone.
 *
 * Needed when a writer opens, and by a follower whose page was filled in an earlier boot. No scan
 * of the history: the last index row of a partition is its end as of the last closed segment, and
 * at most one segment was open, whose batches are read through in order. So opening costs a seek
 * for each partition and a pass over some megabytes, however long the log.
 *
 * RocksDB recovers a prefix of what was written, without holes. A writer then compares the ends
 * with those that the page remembers. Missing below a durable end: a disk that lied, or lost bytes:
 * it is said loudly. Missing below a published end: the power failed before the WAL was synced.
 * Then, and whenever an unclean end of another boot lets us not know, the leader epoch of every
 * partition that may be concerned grows, so that clients ask where its last epoch ended and
 * truncate their view. */
#include "shared/store/store_int.h"

#include <stdio.h>
#include <unistd.h>

#include "shared/base/log.h"

/* --- rows ------------------------------------------------------------------------------------- */

static void load_live(struct page *p, const struct store_catalog *c)
{
    for (size_t i = 0; i < c->count; i++) {
        const struct store_topic *t = &c->topics[i];
        for (int32_t k = 0; k < t->partition_count; k++) {
            atomic_store(&p->entries[store_topic_uid(t, k)].live, 1);
        }
    }
}

/* 'l' rows and 'e' rows: the last epoch of a uid wins, because they come in order. */
static enum err load_starts_and_epochs(struct store *s, struct page *p, rocksdb_iterator_t *it,
                                       uint32_t uids, struct errmsg *m)
{
    static const uint8_t prefixes[] = {ROW_LOG_START, ROW_EPOCH};
    for (size_t i = 0; i < sizeof prefixes; i++) {
        for (iter_seek(it, &prefixes[i], 1); rocksdb_iter_valid(it); rocksdb_iter_next(it)) {
            struct slice k = iter_key(it), v = iter_value(it);
            if (k.data[0] != prefixes[i]) {
                break;
            }
            bool start = prefixes[i] == ROW_LOG_START;
            if (k.len != (start ? UID_KEY_BYTES : EPOCH_KEY_BYTES) || v.len != 8 ||
                be32_get(k.data + 1) >= uids) {
                continue;
            }
            struct page_entry *e = &p->entries[be32_get(k.data + 1)];
            if (start) {
                atomic_store(&e->log_start, (int64_t)be64_get(v.data));
            } else {
                atomic_store(&e->epoch, (int32_t)be32_get(k.data + 5));
            }
        }
        enum err e = iter_error(it, s->dir, m);
        if (e != OK) {
            return e;
        }
    }
    return OK;
}

static enum err load_segments(struct store *s, struct page *p, rocksdb_iterator_t *it,
                              struct errmsg *m)
{
    uint8_t prefix = ROW_SEGMENT;
    uint32_t low = 0, last = 0;
    for (iter_seek(it, &prefix, 1); rocksdb_iter_valid(it); rocksdb_iter_next(it)) {
        struct slice k = iter_key(it), v = iter_value(it);
        if (k.len != UID_KEY_BYTES || k.data[0] != ROW_SEGMENT || v.len < SEGMENT_HEAD_BYTES) {
            break;
        }
        last = be32_get(k.data + 1);
        struct segment g = {be32_get(v.data + 8), last, 0, (int64_t)be64_get(v.data)};
        low = low ? low : g.from;
        if (s->o.role != STORE_WRITER) {
            continue;
        }
        uint32_t count = be32_get(v.data + 12);
        if (count > (v.len - SEGMENT_HEAD_BYTES) / SEGMENT_ENTRY_BYTES) {
            return err_set(m, ERR_CORRUPT, "store %s: the row of segment %u is cut", s->dir, last);
        }
        for (uint32_t i = 0; i < count; i++) {
            g.bytes += be64_get(v.data + SEGMENT_HEAD_BYTES + i * SEGMENT_ENTRY_BYTES + 12);
        }
        if (segment_add(s, &g) != OK) {
            return err_set(m, ERR_NOMEM, "store %s: out of memory", s->dir);
        }
    }
    atomic_store(&p->h->segment_now, last + 1);
    atomic_store(&p->h->segment_low, low ? low : last + 1);
    return iter_error(it, s->dir, m);
}

/* The last index row of each partition. */
static enum err load_ends(struct store *s, struct page *p, rocksdb_iterator_t *it, uint32_t uids,
                          struct errmsg *m)
{
    for (uint32_t uid = 0; uid < uids; uid++) {
        struct page_entry *e = &p->entries[uid];
        if (!atomic_load(&e->live)) {
            continue;
        }
        uint8_t key[INDEX_KEY_BYTES];
        struct index_row row;
        index_key_put(key, uid, INT64_MAX);
        rocksdb_iter_seek_for_prev(it, (const char *)key, sizeof key);
        if (!rocksdb_iter_valid(it)) {
            enum err err = iter_error(it, s->dir, m);
            if (err != OK) {
                return err;
            }
            continue;
        }
        if (!index_row_get(&row, iter_key(it), iter_value(it), uid)) {
            continue; /* nothing was ever appended */
        }
        atomic_store(&e->end, row.offset);
        if (s->o.role == STORE_WRITER) {
            struct part_state *st = &part_get(s, uid)->now;
            *st = (struct part_state){.end = row.offset,
                                      .bytes = row.bytes,
                                      .row = row,
                                      .open_max = NO_TIMESTAMP,
                                      .segment_bytes_at = row.bytes};
        }
    }
    return OK;
}

/* --- the segment that was open ---------------------------------------------------------------- */

/* One batch of it. Those below the last index row are counted only. */
static enum err scan_batch(struct store *s, struct page *p, uint32_t segment, uint32_t uid,
                           const struct batch_header *h, size_t len)
{
    struct page_entry *e = &p->entries[uid];
    int64_t end = atomic_load(&e->end);
    bool next = h->base_offset == end;
    if (next) {
        atomic_store(&e->end, batch_next_offset(h));
    } else if (h->base_offset > end) {
        log_error("store has a gap dir=%s uid=%u expected=%lld found=%lld", s->dir, uid,
                  (long long)end, (long long)h->base_offset);
        return OK; /* the partition ends here; what comes after cannot be reached */
    }
    if (s->o.role != STORE_WRITER) {
        return OK;
    }
    struct part *part = part_get(s, uid);
    struct part_state *st = &part->now;
    if (!part->active) {
        if (!uid_list_reserve(&s->active, 1)) {
            return ERR_NOMEM;
        }
        s->active.uids[s->active.count++] = uid;
        part->active = true;
        st->segment_offset = h->base_offset;
    }
    st->segment = segment;
    s->segment_bytes += len;
    if (!next) {
        st->segment_bytes_at -= len;
        return OK;
    }
    st->end = batch_next_offset(h);
    st->bytes += len;
    st->open_max = h->max_timestamp > st->open_max ? h->max_timestamp : st->open_max;
    return OK;
}

static enum err scan_open_segment(struct store *s, struct rocks *r, struct page *p, uint32_t uids,
                                  struct errmsg *m)
{
    uint32_t segment = atomic_load(&p->h->segment_now);
    uint8_t key[LOG_KEY_BYTES];
    enum err e = OK;
    rocksdb_iterator_t *it = rocksdb_create_iterator_cf(r->db, r->read_through, r->cf[CF_LOG]);
    log_key_put(key, segment, 0, 0);
    for (iter_seek(it, key, sizeof key); rocksdb_iter_valid(it) && e == OK;
         rocksdb_iter_next(it)) {
        struct slice k = iter_key(it), v = iter_value(it);
        struct batch_header h;
        if (k.len != LOG_KEY_BYTES || batch_read_header(v, &h) != OK) {
            e = err_set(m, ERR_CORRUPT, "store %s: a batch of segment %u cannot be read", s->dir,
                        segment);
            break;
        }
        segment = be32_get(k.data);
        uint32_t uid = be32_get(k.data + 4);
        if (uid < uids && atomic_load(&p->entries[uid].live)) {
            e = scan_batch(s, p, segment, uid, &h, v.len);
        }
    }
    e = e == OK ? iter_error(it, s->dir, m) : e;
    rocksdb_iter_destroy(it);
    atomic_store(&p->h->segment_now, segment);
    return e;
}

enum err recover(struct store *s, struct rocks *r, const struct store_catalog *c, uint32_t next_uid,
                 struct page **out, struct errmsg *m)
{
    struct page *p = page_new_private(next_uid);
    if (!p) {
        return err_set(m, ERR_NOMEM, "store %s: out of memory", s->dir);
    }
    atomic_store(&p->h->catalog_version, c->version);
    load_live(p, c);
    rocksdb_iterator_t *it = rocksdb_create_iterator_cf(r->db, r->read_cached, r->cf[CF_META]);
    enum err e = load_starts_and_epochs(s, p, it, next_uid, m);
    if (e == OK) {
        e = load_segments(s, p, it, m);
    }
    if (e == OK) {
        e = load_ends(s, p, it, next_uid, m);
    }
    if (e == OK && s->o.role == STORE_WRITER) {
        e = dirty_load(s, it, m);
    }
    rocksdb_iter_destroy(it);
    if (e == OK) {
        e = scan_open_segment(s, r, p, next_uid, m);
    }
    for (uint32_t uid = 0; e == OK && uid < next_uid; uid++) {
        struct page_entry *entry = &p->entries[uid];
        if (atomic_load(&entry->end) < atomic_load(&entry->log_start)) {
            atomic_store(&entry->end, atomic_load(&entry->log_start));
        }
        atomic_store(&entry->durable, atomic_load(&entry->end));
        if (s->o.role == STORE_WRITER) {
            struct part *part = part_get(s, uid);
            part->now.end = atomic_load(&entry->end);
            part->next = part->now;
            part->start = atomic_load(&entry->log_start);
            if (part->clean.to > part->now.end) { /* the power failed, and took more than that */
                part->clean = (struct clean_state){0};
            }
        }
    }
    if (e != OK) {
        page_close(p);
        return e;
    }
    s->segment = atomic_load(&p->h->segment_now);
    s->drop_below = atomic_load(&p->h->segment_low);
    *out = p;
    return OK;
}

/* --- the writer's page ------------------------------------------------------------------------ */

/* Counts what is missing below the durable end; true when the partition needs a new epoch. */
static bool compare_ends(struct store *s, uint32_t uid, const struct page_entry *old,
                         const struct page_entry *found)
{
    int64_t end = atomic_load(&found->end);
    int64_t durable = atomic_load(&old->durable);
    if (!atomic_load(&old->live) || !atomic_load(&found->live)) {
        return false;
    }
    if (durable > end) {
        log_error("store lost records that were on disk dir=%s uid=%u end=%lld durable_end=%lld",
                  s->dir, uid, (long long)end, (long long)durable);
        atomic_fetch_add(&s->recovered_loss, durable - end);
    }
    return atomic_load(&old->end) > end;
}

static void put_epoch(struct store *s, rocksdb_writebatch_t *b, uint32_t uid, struct page_entry *e)
{
    uint8_t key[EPOCH_KEY_BYTES], value[8];
    int32_t epoch = atomic_load(&e->epoch) + 1;
    atomic_store(&e->epoch, epoch);
    epoch_key_put(key, uid, epoch);
    be64_put(value, (uint64_t)atomic_load(&e->end));
    batch_put(s->rocks, b, CF_META, slice_make(key, sizeof key), slice_make(value, sizeof value));
}

enum err recover_publish(struct store *s, struct page *shared, const struct page *before,
                         const struct page *found, struct errmsg *m)
{
    struct page_header *h = shared->h;
    const struct page_header *was = before->h;
    uint64_t boot = page_boot_now();
    bool known = atomic_load(&was->life) > 0 && atomic_load(&was->next_uid) <= s->next_uid;
    /* 0: a writer was killed while it filled the page, below; its epochs are written already. */
    uint64_t filled = atomic_load(&was->boot);
    bool doubt = !known || (filled != 0 && filled != boot && !atomic_load(&was->clean));
    enum err e = OK;
    uint32_t old_uids = known ? atomic_load(&was->next_uid) : 0;
    if (!known) {
        atomic_store(&h->next_uid, 0);
    }
    e = page_reserve(shared, s->next_uid, s->dir, m);
    if (e != OK) {
        return e;
    }
    rocksdb_writebatch_t *b = rocksdb_writebatch_create();
    for (uint32_t uid = 0; uid < s->next_uid; uid++) {
        struct page_entry *entry = &found->entries[uid];
        bool lost = uid < old_uids && compare_ends(s, uid, &before->entries[uid], entry);
        if (atomic_load(&entry->live) && (lost || (doubt && atomic_load(&entry->end) > 0))) {
            put_epoch(s, b, uid, entry);
        }
    }
    if (rocksdb_writebatch_count(b) > 0) {
        e = write_batch(s, b, m);
    }
    rocksdb_writebatch_destroy(b);
    if (e != OK) {
        return e;
    }
    atomic_store(&h->boot, 0);
    for (uint32_t uid = 0; uid < s->next_uid; uid++) {
        struct page_entry *from = &found->entries[uid], *to = &shared->entries[uid];
        atomic_store(&to->log_start, atomic_load(&from->log_start));
        atomic_store(&to->end, atomic_load(&from->end));
        atomic_store(&to->durable, atomic_load(&from->durable));
        atomic_store(&to->epoch, atomic_load(&from->epoch));
        atomic_store(&to->live, atomic_load(&from->live));
    }
    atomic_store(&h->next_uid, s->next_uid);
    atomic_store(&h->catalog_version, s->catalog->version);
    atomic_store(&h->segment_low, atomic_load(&found->h->segment_low));
    atomic_store(&h->segment_now, atomic_load(&found->h->segment_now));
    atomic_store(&h->pid, (uint32_t)getpid());
    atomic_store(&h->clean, 0);
    atomic_store(&h->boot, boot);
    e = lock_page(s, m);
    if (e == OK) {
        atomic_fetch_add(&h->life, 1);
        page_publish(shared);
    }
    return e;
}
