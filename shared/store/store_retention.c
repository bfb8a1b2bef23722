/* store_tick: what may go, and what must be written because time has passed.
 *
 *   age      an open interval of a stream with a time limit gets its index row, an open segment is
 *            closed, so that there is something to cut at
 *   start    log starts rise from row to row while a stream's limits are passed, and from segment
 *            to segment, oldest first, while the store's limit is passed
 *   drop     the oldest segments of which all partitions have their log start beyond: their rows,
 *            and by the cleaner their files
 *   compact  a segment in the middle of which more than half is dead is rewritten without it
 *   merge    a run of small segments (restarts, slow streams) becomes one file and one row
 *   clean    of compacted topics what is dirty enough (store_dirty.c)
 *   sweep    index rows of deleted topics
 *
 * Rising the log start is what readers see, at once and to a megabyte or a tenth of the time;
 * giving back the disk follows by segments. Each step does a bounded piece of work per tick.
 *
 *      segments   | 7 | 8 | 9 | 10 | 11 …  now |     row 9: uid 3 ends here at 500, uid 4 at 90 …
 *                  dead dead ▲
 *                            └ oldest that holds something live: all below is dropped
 *
 * All rows of a tick are one WriteBatch. The page's log starts follow it. */
#include "shared/store/store_int.h"

#include "shared/base/log.h"

#define STEPS_MAX          256  /* of each kind, in one tick */
#define DEAD_LOOKS         8    /* segment rows read for their dead bytes, in one tick */
#define SETTLED_SEGMENTS   3    /* newest closed ones that may still be in L0 or a memtable */
#define MERGE_COUNT        8    /* small neighbours that become one */
#define INTERVAL_MS_MIN    100
#define DIRTY_LOOK_MS      1000 /* between two looks for what is to be compacted */
#define DIRTY_PAUSE_MS     60000 /* after a job that failed */

struct tick {
    struct store *s;
    int64_t now_ms;
    rocksdb_writebatch_t *batch;
    rocksdb_iterator_t *it; /* over meta, as of the tick's begin; made when first needed */
    struct uid_list raised; /* partitions whose start moved */
    struct uid_list closed; /* partitions whose open interval was closed */
};

static rocksdb_iterator_t *rows(struct tick *t)
{
    if (!t->it) {
        struct rocks *r = t->s->rocks;
        t->it = rocksdb_create_iterator_cf(r->db, r->read_cached, r->cf[CF_META]);
    }
    return t->it;
}

/* --- log starts ------------------------------------------------------------------------------- */

/* Deletes the index rows that no offset at or above the start needs: all but the last at or below
 * it. */
static void forget_rows(struct tick *t, uint32_t uid, struct part *p)
{
    rocksdb_iterator_t *it = rows(t);
    uint8_t key[INDEX_KEY_BYTES];
    int64_t keep = -1;
    index_key_put(key, uid, p->low_row);
    iter_seek(it, key, sizeof key);
    for (int i = 0; i < STEPS_MAX && rocksdb_iter_valid(it); i++, rocksdb_iter_next(it)) {
        struct index_row row;
        if (!index_row_get(&row, iter_key(it), iter_value(it), uid) || row.offset > p->start) {
            break;
        }
        if (keep >= 0) {
            index_key_put(key, uid, keep);
            batch_delete(t->s->rocks, t->batch, slice_make(key, sizeof key));
        }
        keep = row.offset;
    }
    p->low_row = keep >= 0 ? keep : p->low_row;
}

static enum err raise_start(struct tick *t, uint32_t uid, int64_t start)
{
    struct part *p = part_get(t->s, uid);
    if (start <= p->start) {
        return OK;
    }
    if (!uid_list_reserve(&t->raised, 1)) {
        return ERR_NOMEM;
    }
    uint8_t key[UID_KEY_BYTES], value[8];
    int64_t before = p->start;
    p->start = start;
    t->raised.uids[t->raised.count++] = uid;
    uid_key_put(key, ROW_LOG_START, uid);
    be64_put(value, (uint64_t)start);
    batch_put(t->s->rocks, t->batch, CF_META, slice_make(key, sizeof key),
              slice_make(value, sizeof value));
    if (before < p->clean.to) {
        dirty_start_raised(t->s, rows(t), t->batch, uid, before, start);
    }
    forget_rows(t, uid, p);
    return OK;
}

/* The first row above the start, into p->first. */
static bool first_row(struct tick *t, uint32_t uid, struct part *p, int64_t start)
{
    if (p->now.row.offset <= start) {
        return false;
    }
    if (p->first.offset > start) {
        return true;
    }
    uint8_t key[INDEX_KEY_BYTES];
    rocksdb_iterator_t *it = rows(t);
    index_key_put(key, uid, start + 1);
    iter_seek(it, key, sizeof key);
    return rocksdb_iter_valid(it) && index_row_get(&p->first, iter_key(it), iter_value(it), uid);
}

static enum err apply_topic_limits(struct tick *t, uint32_t uid)
{
    struct part *p = part_get(t->s, uid);
    const struct store_topic *topic = p->topic;
    int64_t start = p->start;
    for (int i = 0; i < STEPS_MAX && first_row(t, uid, p, start); i++) {
        uint64_t limit = (uint64_t)topic->retention_bytes;
        bool large = topic->retention_bytes >= 0 && p->now.bytes - p->first.bytes >= limit;
        if (large && p->first.offset < p->clean.to) {
            large = dirty_bytes_from(t->s, rows(t), uid, p->start, &p->first) >= limit;
        }
        bool old = topic->retention_ms >= 0 && p->first.max_ts < t->now_ms - topic->retention_ms;
        if (!large && !old) {
            break;
        }
        start = p->first.offset;
    }
    return raise_start(t, uid, start);
}

static enum err apply_limits(struct tick *t)
{
    const struct store_catalog *c = t->s->catalog;
    enum err e = OK;
    for (size_t i = 0; i < c->count && e == OK; i++) {
        const struct store_topic *topic = &c->topics[i];
        /* As in Kafka: without "delete" in the policy a record goes only when a newer one of its
         * key has come. */
        bool limited = (topic->cleanup & STORE_CLEANUP_DELETE) != 0 &&
                       (topic->retention_bytes >= 0 || topic->retention_ms >= 0);
        for (int32_t k = 0; limited && k < topic->partition_count && e == OK; k++) {
            e = apply_topic_limits(t, store_topic_uid(topic, k));
        }
    }
    return e;
}

/* --- segments --------------------------------------------------------------------------------- */

enum err segment_load(rocksdb_iterator_t *it, uint32_t number, struct segment_entry **out,
                      size_t *count)
{
    uint8_t key[UID_KEY_BYTES];
    uid_key_put(key, ROW_SEGMENT, number);
    iter_seek(it, key, sizeof key);
    *out = NULL;
    *count = 0;
    if (!rocksdb_iter_valid(it)) {
        return ERR_NOT_FOUND;
    }
    struct slice k = iter_key(it);
    struct reader r = reader_make(iter_value(it));
    if (k.len != sizeof key || memcmp(k.data, key, sizeof key) != 0) {
        return ERR_NOT_FOUND;
    }
    (void)reader_bytes(&r, SEGMENT_HEAD_BYTES - 4); /* we know these; checked below */
    uint32_t n = reader_be32(&r);
    if (r.failed || n > reader_left(&r) / SEGMENT_ENTRY_BYTES) {
        return ERR_CORRUPT;
    }
    *out = calloc(n ? n : 1, sizeof **out);
    if (!*out) {
        return ERR_NOMEM;
    }
    for (uint32_t i = 0; i < n; i++) {
        (*out)[i].uid = reader_be32(&r);
        (*out)[i].end = (int64_t)reader_be64(&r);
        (*out)[i].bytes = reader_be64(&r);
    }
    *count = n;
    return OK;
}

static void segment_delete(struct tick *t, uint32_t number)
{
    uint8_t key[UID_KEY_BYTES];
    uid_key_put(key, ROW_SEGMENT, number);
    batch_delete(t->s->rocks, t->batch, slice_make(key, sizeof key));
}

static bool entry_dead(struct store *s, const struct segment_entry *e)
{
    const struct part *p = part_get(s, e->uid);
    return !p || !p->topic || p->start >= e->end;
}

/* The whole store's limit: what the oldest segments hold goes, whoever it belongs to. */
static enum err apply_store_limit(struct tick *t)
{
    struct store *s = t->s;
    uint64_t total = s->closed_bytes + s->segment_bytes;
    enum err e = OK;
    for (size_t i = 0; s->o.limit_bytes > 0 && total > s->o.limit_bytes && i < s->segment_count &&
                       i < STEPS_MAX && e == OK;
         i++) {
        struct segment_entry *entries;
        size_t count;
        e = segment_load(rows(t), s->segments[i].number, &entries, &count);
        if (e == ERR_NOT_FOUND) {
            return OK;
        }
        for (size_t k = 0; k < count && e == OK; k++) {
            if (!entry_dead(s, &entries[k])) {
                e = raise_start(t, entries[k].uid, entries[k].end);
            }
        }
        free(entries);
        total -= s->segments[i].bytes;
    }
    return e;
}

/* Remembers what keeps the oldest segment alive, so that its row is not read again before that has
 * changed. */
static enum err oldest_is_dead(struct tick *t, const struct segment *g, bool *dead)
{
    struct store *s = t->s;
    struct segment_entry blocker = {s->blocker_uid, s->blocker_end, 0};
    *dead = false;
    if (s->blocker_segment == g->number && !entry_dead(s, &blocker)) {
        return OK;
    }
    struct segment_entry *entries;
    size_t count;
    enum err e = segment_load(rows(t), g->number, &entries, &count);
    if (e != OK) {
        return e == ERR_NOT_FOUND ? OK : e;
    }
    *dead = true;
    for (size_t i = 0; i < count && *dead; i++) {
        if (!entry_dead(s, &entries[i])) {
            *dead = false;
            s->blocker_segment = g->number;
            s->blocker_uid = entries[i].uid;
            s->blocker_end = entries[i].end;
        }
    }
    free(entries);
    return OK;
}

static enum err drop_oldest(struct tick *t)
{
    struct store *s = t->s;
    size_t n = 0;
    bool dead = true;
    enum err e = OK;
    while (n < s->segment_count && n < STEPS_MAX && e == OK) {
        e = oldest_is_dead(t, &s->segments[n], &dead);
        if (e != OK || !dead) {
            break;
        }
        segment_delete(t, s->segments[n].number);
        s->closed_bytes -= s->segments[n].bytes;
        s->drop_below = s->segments[n].number + 1;
        n++;
    }
    if (n > 0) {
        s->segment_count -= n;
        memmove(s->segments, s->segments + n, s->segment_count * sizeof *s->segments);
        if (s->dead_cursor != SIZE_MAX) {
            s->dead_cursor = s->dead_cursor > n ? s->dead_cursor - n : 0;
        }
    }
    return e;
}

/* --- rewriting -------------------------------------------------------------------------------- */

/* Splits the entries of a segment: live ones to the front; returns how many. */
static size_t part_dead(struct store *s, struct segment_entry *entries, size_t count,
                        uint64_t *dead_bytes)
{
    size_t live = 0;
    *dead_bytes = 0;
    for (size_t i = 0; i < count; i++) {
        struct segment_entry e = entries[i];
        if (entry_dead(s, &e)) {
            *dead_bytes += e.bytes;
            continue;
        }
        entries[i] = entries[live];
        entries[live++] = e;
    }
    return live;
}

/* Looks at one closed segment; posts a job when it is mostly dead. Its row loses the dead entries
 * with this tick: if the process dies before the rewrite, some dead batches stay until their
 * segment goes. */
static enum err look_for_dead(struct tick *t, size_t i, struct clean_job *job)
{
    struct store *s = t->s;
    struct segment_entry *entries;
    struct segment *g = &s->segments[i];
    size_t count;
    enum err e = segment_load(rows(t), g->number, &entries, &count);
    if (e != OK) {
        return e == ERR_NOT_FOUND ? OK : e;
    }
    uint64_t dead_bytes;
    size_t live = part_dead(s, entries, count, &dead_bytes);
    if (dead_bytes * 2 > g->bytes) {
        e = segment_put(s, t->batch, g, entries, live);
        if (e == OK) {
            memmove(entries, entries + live, (count - live) * sizeof *entries);
            *job = (struct clean_job){.from = g->from,
                                      .to = g->number + 1,
                                      .compact = true,
                                      .dead = entries,
                                      .dead_count = count - live};
            for (size_t k = 0; k < job->dead_count; k++) {
                const struct part *p = part_get(s, job->dead[k].uid);
                job->dead[k].end = p->topic ? p->start : INT64_MAX;
            }
            s->closed_bytes -= dead_bytes < s->closed_bytes ? dead_bytes : s->closed_bytes;
            g->bytes -= dead_bytes < g->bytes ? dead_bytes : g->bytes;
            return OK;
        }
    }
    free(entries);
    return e;
}

static enum err find_dead(struct tick *t, struct clean_job *job)
{
    struct store *s = t->s;
    size_t settled =
        s->segment_count > SETTLED_SEGMENTS ? s->segment_count - SETTLED_SEGMENTS : 0;
    enum err e = OK;
    for (int n = 0; n < DEAD_LOOKS && s->dead_cursor < settled && e == OK && !job->compact; n++) {
        e = look_for_dead(t, s->dead_cursor++, job);
    }
    if (s->dead_cursor != SIZE_MAX && s->dead_cursor >= settled) {
        s->dead_cursor = SIZE_MAX; /* until a log start moves again */
    }
    return e;
}

static int compare_entries(const void *a, const void *b)
{
    uint32_t x = ((const struct segment_entry *)a)->uid, y = ((const struct segment_entry *)b)->uid;
    return x < y ? -1 : x > y;
}

/* All entries of segments [i, i + MERGE_COUNT), one for each uid. */
static enum err merged_entries(struct tick *t, size_t i, struct segment_entry **out,
                               size_t *out_count)
{
    struct segment_entry *all = NULL;
    size_t total = 0;
    for (size_t k = i; k < i + MERGE_COUNT; k++) {
        struct segment_entry *entries;
        size_t count;
        enum err e = segment_load(rows(t), t->s->segments[k].number, &entries, &count);
        struct segment_entry *grown =
            e == OK ? realloc(all, (total + count + 1) * sizeof *all) : NULL;
        if (!grown) {
            free(entries);
            free(all);
            return e != OK ? e : ERR_NOMEM;
        }
        all = grown;
        memcpy(all + total, entries, count * sizeof *all);
        total += count;
        free(entries);
    }
    qsort(all, total, sizeof *all, compare_entries);
    size_t n = 0;
    for (size_t k = 0; k < total; k++) {
        if (n > 0 && all[n - 1].uid == all[k].uid) {
            all[n - 1].bytes += all[k].bytes;
            all[n - 1].end = all[k].end > all[n - 1].end ? all[k].end : all[n - 1].end;
        } else {
            all[n++] = all[k];
        }
    }
    *out = all;
    *out_count = n;
    return OK;
}

static enum err merge_at(struct tick *t, size_t i, struct clean_job *job)
{
    struct store *s = t->s;
    struct segment_entry *entries;
    size_t count;
    enum err e = merged_entries(t, i, &entries, &count);
    if (e != OK) {
        return e == ERR_NOT_FOUND ? OK : e;
    }
    size_t last = i + MERGE_COUNT - 1;
    struct segment g = s->segments[last];
    g.from = s->segments[i].from;
    for (size_t k = i; k < last; k++) {
        g.bytes += s->segments[k].bytes;
    }
    e = segment_put(s, t->batch, &g, entries, count);
    free(entries);
    if (e != OK) {
        return e;
    }
    *job = (struct clean_job){.from = g.from, .to = g.number + 1, .compact = true};
    for (size_t k = i; k < last; k++) {
        segment_delete(t, s->segments[k].number);
    }
    s->segments[last] = g;
    memmove(s->segments + i, s->segments + last, (s->segment_count - last) * sizeof *s->segments);
    s->segment_count -= MERGE_COUNT - 1;
    return OK;
}

static enum err find_small(struct tick *t, struct clean_job *job)
{
    struct store *s = t->s;
    if (s->segment_count == s->merge_seen || s->segment_count < MERGE_COUNT + SETTLED_SEGMENTS) {
        return OK;
    }
    size_t settled = s->segment_count - SETTLED_SEGMENTS;
    s->merge_seen = s->segment_count;
    for (size_t i = 0; i + MERGE_COUNT <= settled; i++) {
        uint64_t bytes = 0;
        for (size_t k = i; k < i + MERGE_COUNT; k++) {
            bytes += s->segments[k].bytes;
        }
        if (bytes <= s->o.segment_bytes / 2) {
            s->merge_seen = 0; /* there may be more */
            return merge_at(t, i, job);
        }
    }
    return OK;
}

/* --- sweeping --------------------------------------------------------------------------------- */

static void sweep_dead_rows(struct tick *t)
{
    struct store *s = t->s;
    uint8_t key[INDEX_KEY_BYTES];
    for (int i = 0; i < STEPS_MAX && s->sweep_uid != UINT32_MAX;) {
        rocksdb_iterator_t *it = rows(t);
        index_key_put(key, s->sweep_uid, 0);
        iter_seek(it, key, sizeof key);
        i++;
        uint32_t uid = UINT32_MAX;
        for (; rocksdb_iter_valid(it) && i < STEPS_MAX; i++, rocksdb_iter_next(it)) {
            struct slice k = iter_key(it);
            if (k.len != INDEX_KEY_BYTES || k.data[0] != ROW_INDEX) {
                break;
            }
            uid = be32_get(k.data + 1);
            struct part *p = part_get(s, uid);
            if (p && p->topic) {
                break;
            }
            batch_delete(s->rocks, t->batch, k);
        }
        if (!rocksdb_iter_valid(it) || iter_key(it).data[0] != ROW_INDEX) {
            s->sweep_uid = UINT32_MAX;
        } else if (i < STEPS_MAX) {
            s->sweep_uid = uid + 1; /* live: past it */
        }
    }
}

/* --- age -------------------------------------------------------------------------------------- */

static int64_t segment_age_max(const struct store *s)
{
    int64_t age = (int64_t)s->o.segment_ms;
    for (size_t i = 0; i < s->catalog->count; i++) {
        const struct store_topic *t = &s->catalog->topics[i];
        bool compacted = (t->cleanup & STORE_CLEANUP_COMPACT) && t->compaction.given;
        int64_t ages[] = {t->retention_ms >= 0 ? t->retention_ms / 10 : age,
                          t->segment_ms > 0 ? t->segment_ms : age,
                          compacted ? t->compaction.max_compaction_lag_ms : age};
        for (size_t k = 0; k < sizeof ages / sizeof *ages; k++) {
            if (ages[k] < age) {
                age = ages[k] > SEGMENT_MS_FLOOR ? ages[k] : SEGMENT_MS_FLOOR;
            }
        }
    }
    return age < (int64_t)s->o.segment_ms ? age : (int64_t)s->o.segment_ms;
}

/* Passed since *since, which begins now when it has not (or the clock went back)? */
static bool aged(int64_t *since, int64_t now_ms, int64_t age)
{
    if (*since < 0 || *since > now_ms) {
        *since = now_ms;
    }
    return now_ms - *since >= age;
}

/* Intervals of streams with a time limit; nothing is pending. */
static enum err close_intervals(struct tick *t)
{
    struct store *s = t->s;
    for (size_t i = 0; i < s->active.count; i++) {
        uint32_t uid = s->active.uids[i];
        struct part *p = part_get(s, uid);
        if (!p->topic || p->topic->retention_ms < 0 || p->now.end == p->now.row.offset) {
            p->open_since_ms = -1;
            continue;
        }
        int64_t age = p->topic->retention_ms / 10;
        if (!aged(&p->open_since_ms, t->now_ms, age > INTERVAL_MS_MIN ? age : INTERVAL_MS_MIN)) {
            continue;
        }
        if (!uid_list_reserve(&t->closed, 1)) {
            return ERR_NOMEM;
        }
        t->closed.uids[t->closed.count++] = uid;
        interval_close(s, t->batch, uid, &p->next, s->segment);
        p->open_since_ms = -1;
    }
    return OK;
}

static enum err close_by_age(struct tick *t, struct errmsg *m)
{
    struct store *s = t->s;
    if (s->pending_bytes > 0) {
        return OK; /* the segment and the intervals are in use */
    }
    bool filled = s->wal_bytes >= 2 * s->o.segment_bytes;
    bool old = s->active.count > 0 && aged(&s->segment_since_ms, t->now_ms, segment_age_max(s));
    if (filled || old) {
        return segment_switch(s, t->now_ms, m);
    }
    return close_intervals(t);
}

/* --- the tick --------------------------------------------------------------------------------- */

static void publish_starts(struct tick *t)
{
    struct store *s = t->s;
    struct page *page = atomic_load(&s->page);
    for (size_t i = 0; i < t->raised.count; i++) {
        uint32_t uid = t->raised.uids[i];
        atomic_store_explicit(&page->entries[uid].log_start, part_get(s, uid)->start,
                              memory_order_release);
    }
    if (t->raised.count > 0) {
        s->dead_cursor = 0;
        page_publish(page);
    }
    uint32_t low = s->segment_count > 0 ? s->segments[0].from : s->segment;
    atomic_store_explicit(&page->h->segment_low, low, memory_order_relaxed);
}

/* Writes what the tick has collected. */
static enum err tick_write(struct tick *t, struct errmsg *m)
{
    if (rocksdb_writebatch_count(t->batch) == 0) {
        return OK;
    }
    enum err e = write_batch(t->s, t->batch, m);
    for (size_t i = 0; i < t->closed.count; i++) {
        struct part *p = part_get(t->s, t->closed.uids[i]);
        if (e == OK) {
            p->now = p->next;
            p->now.open_max = p->next.open_max;
        } else {
            p->next = p->now;
        }
    }
    if (e == OK) {
        publish_starts(t);
    }
    return e;
}

/* What the cleaner has to do next, if it has time. */
static enum err find_work(struct tick *t, struct clean_job *job)
{
    struct store *s = t->s;
    if (!cleaner_idle(s)) {
        return OK;
    }
    enum err e = find_dead(t, job);
    e = e == OK && !job->compact ? find_small(t, job) : e;
    if (e == OK && !job->compact && (t->now_ms >= s->dirty_look_ms ||
                                     t->now_ms < s->dirty_look_ms - DIRTY_PAUSE_MS)) {
        s->dirty_look_ms = t->now_ms + DIRTY_LOOK_MS;
        e = dirty_find(s, rows(t), t->now_ms, &job->compaction);
    }
    return e;
}

/* What the cleaner has compacted becomes rows, which this tick does not see yet: *applied. Sizes of
 * segments do before the job ends, which may take an hour, so that no limit counts what is gone. */
static enum err take_done(struct tick *t, bool *applied)
{
    struct store *s = t->s;
    struct compaction *k = cleaner_done(s); /* first: all that it found has been handed over */
    bool all = true;
    enum err e = cleaner_take_changes(s) ? dirty_apply(s, rows(t), t->batch, &all) : OK;
    *applied = k != NULL;
    if (!k) {
        return e;
    }
    if (e == OK && all) {
        dirty_done(s, rows(t), t->batch, k, t->now_ms);
    }
    if (e != OK || all) {
        /* There may be more; or it will not be better at once. */
        s->dirty_look_ms = t->now_ms + (k->failed == OK ? 0 : DIRTY_PAUSE_MS);
        s->merge_seen = 0;
        cleaner_drop_done(s);
    }
    return e;
}

static void tick_open(struct tick *t, struct store *s, int64_t now_ms)
{
    *t = (struct tick){.s = s, .now_ms = now_ms, .batch = rocksdb_writebatch_create()};
}

static void tick_close(struct tick *t)
{
    if (t->it) {
        rocksdb_iter_destroy(t->it);
    }
    rocksdb_writebatch_destroy(t->batch);
    free(t->raised.uids);
    free(t->closed.uids);
}

enum err store_tick(struct store *s, int64_t now_ms, struct errmsg *m)
{
    struct tick t;
    struct clean_job job = {0};
    if (store_state(s) != STORE_OK) {
        return err_set(m, ERR_IO, "store %s failed and must be opened again", s->dir);
    }
    enum err e = store_in_place(s, m);
    if (e != OK) {
        return e;
    }
    tick_open(&t, s, now_ms);
    e = close_by_age(&t, m);
    if (e != OK) {
        goto out;
    }
    enum err failed = apply_limits(&t);
    failed = failed == OK ? apply_store_limit(&t) : failed;
    failed = failed == OK ? drop_oldest(&t) : failed;
    bool applied = false;
    failed = failed == OK ? take_done(&t, &applied) : failed;
    failed = failed == OK && !applied ? find_work(&t, &job) : failed;
    sweep_dead_rows(&t);
    e = tick_write(&t, m); /* also after a failure: what was decided is in memory already */
    if (e == OK && applied) {
        page_publish(atomic_load(&s->page)); /* followers catch up with what is left */
    }
    if (e == OK && s->drop_below > s->dropped_below) {
        s->dropped_below = s->drop_below;
        cleaner_drop(s, s->drop_below);
    }
    if (e == OK && (job.compact || job.compaction)) {
        cleaner_post(s, &job);
        job.dead = NULL;
        job.compaction = NULL;
    }
    if (e == OK && failed != OK) {
        e = err_set(m, failed, "store %s: housekeeping: %s", s->dir, err_name(failed));
    }
out:
    free(job.dead);
    compaction_free(job.compaction);
    tick_close(&t);
    return e;
}

void tick_last(struct store *s)
{
    bool all = !cleaner_take_changes(s);
    enum err e = OK;
    while (!all && e == OK && store_state(s) == STORE_OK) {
        struct tick t;
        tick_open(&t, s, 0);
        e = dirty_apply(s, rows(&t), t.batch, &all);
        e = e == OK ? tick_write(&t, NULL) : e; /* else the next job finds out again */
        tick_close(&t);
    }
}

enum err store_trim(struct store *s, uint32_t uid, int64_t log_start, struct errmsg *m)
{
    struct part *p = part_get(s, uid);
    if (uid >= s->next_uid || !p->topic) {
        return err_set(m, ERR_NOT_FOUND, "store %s has no partition %u", s->dir, uid);
    }
    if (log_start < 0 || log_start > p->now.end) {
        return err_set(m, ERR_RANGE, "offset %lld is beyond the end %lld", (long long)log_start,
                       (long long)p->now.end);
    }
    struct tick t;
    tick_open(&t, s, 0);
    enum err e = raise_start(&t, uid, log_start);
    e = e == OK ? tick_write(&t, m) : err_set(m, e, "store %s: out of memory", s->dir);
    tick_close(&t);
    return e;
}
