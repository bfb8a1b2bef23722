/* The cleaner: drops files and rewrites segments on a thread of its own, one job at a time. (What
 * compaction does with segments: store_compact.c.) A compaction may take an hour, for which the
 * disk must not wait: between two steps of one files are dropped, too.
 *
 * Both may take long (unlinking is slow, a rewrite reads and writes a segment), and neither may
 * hold up a commit. What is to be done is decided by store_tick (store_retention.c).
 *
 * Files must not go before the rows that say why: a log start that the power takes back would point
 * at nothing. So the WAL is synced first; only then files are dropped, and only then does the
 * compaction filter learn what is dead. (The filter runs in other compactions too: what it may
 * drop, it may drop at any time.)
 *
 * RocksDB drops whole files of the lower level only. What is still in a memtable, in L0 or on its
 * way down is brought there first, which costs next to nothing: the filter keeps no batch of a dead
 * segment. So when a job is done its files are gone, and nobody has to look again. */
#include "shared/store/store_int.h"

#include <time.h>

#include "shared/base/log.h"

#define BRING_DOWN_TRIES    200
#define BRING_DOWN_PAUSE_NS 10000000

struct cleaner {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    pthread_t thread;
    bool busy;
    _Atomic bool stop;
    struct clean_job job;
    uint32_t drop_to; /* files of segments below are to be dropped; 0: none are */
    struct clean_changes changes; /* sizes that no tick has taken yet */
    struct compaction *done; /* until ticks have made rows of it */
};

enum { COMPACT_UPPER = 0, COMPACT_ALL = 2 }; /* rocksdb::BottommostLevelCompaction */

static void compact_range(struct store *s, uint32_t first, uint32_t behind, int levels)
{
    uint8_t from[LOG_KEY_BYTES], to[LOG_KEY_BYTES];
    log_key_put(from, first, 0, 0);
    log_key_put(to, behind - 1, UINT32_MAX, -1);
    rocksdb_compactoptions_t *o = rocksdb_compactoptions_create();
    rocksdb_compactoptions_set_exclusive_manual_compaction(o, 0);
    rocksdb_compactoptions_set_bottommost_level_compaction(o, (unsigned char)levels);
    rocksdb_compact_range_cf_opt(s->rocks->db, s->rocks->cf[CF_LOG], o, (const char *)from,
                                 sizeof from, (const char *)to, sizeof to);
    rocksdb_compactoptions_destroy(o);
}

static bool may_run(struct store *s)
{
    return store_state(s) == STORE_OK && store_sync(s, NULL) == OK;
}

static void drop_files(struct store *s, uint32_t to)
{
    uint8_t first[LOG_KEY_BYTES], last[LOG_KEY_BYTES];
    char *text = NULL;
    if (!may_run(s)) {
        return;
    }
    atomic_store_explicit(&s->dead_below, to, memory_order_release);
    compact_range(s, 0, to, COMPACT_UPPER);
    log_key_put(first, 0, 0, 0);
    log_key_put(last, to - 1, UINT32_MAX, -1); /* the range includes its end */
    rocksdb_delete_file_in_range_cf(s->rocks->db, s->rocks->cf[CF_LOG], (const char *)first,
                                    sizeof first, (const char *)last, sizeof last, &text);
    if (text) {
        struct errmsg m;
        (void)rocks_failed(text, "drop segments", s->dir, &m); /* the sentence is what we need */
        log_error("store %s", m.text);
    }
    page_publish(atomic_load(&s->page));
}

void cleaner_drop_wanted(struct store *s)
{
    struct cleaner *c = s->cleaner;
    pthread_mutex_lock(&c->lock);
    uint32_t to = c->drop_to;
    pthread_mutex_unlock(&c->lock);
    if (to > 0) {
        drop_files(s, to);
        pthread_mutex_lock(&c->lock);
        c->drop_to = c->drop_to == to ? 0 : c->drop_to;
        pthread_mutex_unlock(&c->lock);
    }
}

/* A compaction that meets a damaged block, of whatever stream, ends RocksDB's taking of writes. */
static enum err read_whole(struct store *s, uint32_t from, uint32_t to, uint64_t *bytes,
                           struct errmsg *m)
{
    uint8_t key[LOG_KEY_BYTES];
    struct rocks *r = s->rocks;
    rocksdb_readoptions_t *o = rocksdb_readoptions_create();
    rocksdb_readoptions_set_verify_checksums(o, 1);
    rocksdb_readoptions_set_fill_cache(o, 0);
    rocksdb_readoptions_set_ignore_range_deletions(o, 1);
    rocksdb_iterator_t *it = rocksdb_create_iterator_cf(r->db, o, r->cf[CF_LOG]);
    log_key_put(key, from, 0, 0);
    iter_seek(it, key, sizeof key);
    while (rocksdb_iter_valid(it) && be32_get(iter_key(it).data) < to && !cleaner_stopping(s)) {
        *bytes += iter_value(it).len;
        rocksdb_iter_next(it);
    }
    enum err e = iter_error(it, s->dir, m);
    rocksdb_iter_destroy(it);
    rocksdb_readoptions_destroy(o);
    return e;
}

static bool file_overlaps(rocksdb_sst_file_metadata_t *f, uint32_t from, uint32_t to)
{
    size_t first_len, last_len;
    char *first = rocksdb_sst_file_metadata_get_smallestkey(f, &first_len);
    char *last = rocksdb_sst_file_metadata_get_largestkey(f, &last_len);
    bool overlaps = first_len >= 4 && last_len >= 4 && be32_get((const uint8_t *)first) < to &&
                    be32_get((const uint8_t *)last) >= from;
    rocksdb_free(first);
    rocksdb_free(last);
    return overlaps;
}

/* Asked before the files' keys: those are told of all files of all levels at once, thousands, while
 * nobody can write. */
static bool upper_is_empty(struct store *s)
{
    char *count = rocksdb_property_value_cf(s->rocks->db, s->rocks->cf[CF_LOG],
                                            "rocksdb.num-files-at-level0");
    bool none = count && strcmp(count, "0") == 0;
    rocksdb_free(count);
    return none;
}

/* Is something of these segments in a file of the upper level? */
static bool in_upper(struct store *s, uint32_t from, uint32_t to)
{
    bool found = false;
    if (upper_is_empty(s)) {
        return false;
    }
    rocksdb_column_family_metadata_t *c =
        rocksdb_get_column_family_metadata_cf(s->rocks->db, s->rocks->cf[CF_LOG]);
    rocksdb_level_metadata_t *upper = rocksdb_column_family_metadata_get_level_metadata(c, 0);
    size_t count = upper ? rocksdb_level_metadata_get_file_count(upper) : 0;
    for (size_t i = 0; i < count && !found; i++) {
        rocksdb_sst_file_metadata_t *f = rocksdb_level_metadata_get_sst_file_metadata(upper, i);
        found = file_overlaps(f, from, to);
        rocksdb_sst_file_metadata_destroy(f);
    }
    if (upper) {
        rocksdb_level_metadata_destroy(upper);
    }
    rocksdb_column_family_metadata_destroy(c);
    return found;
}

/* A segment may lie in two files, where a memtable that holds its beginning had to be flushed. Were
 * they on two levels, RocksDB would rewrite them one after the other, and what one has absorbed of
 * the other would be gone when it is stopped between. */
static enum err bring_down(struct store *s, uint32_t from, uint32_t to, struct errmsg *m)
{
    for (int i = 0; i < BRING_DOWN_TRIES && !cleaner_stopping(s); i++) {
        if (i > 0) { /* a file that is being moved down is passed over */
            nanosleep(&(struct timespec){.tv_nsec = BRING_DOWN_PAUSE_NS}, NULL);
        }
        compact_range(s, from, to, COMPACT_UPPER);
        if (!in_upper(s, from, to)) {
            return OK;
        }
    }
    return err_set(m, ERR_IO, "segment %u cannot be brought down", to - 1);
}

enum err cleaner_rewrite(struct store *s, uint32_t from, uint32_t to, struct plan *p,
                         uint64_t *bytes, struct errmsg *m)
{
    enum err e = read_whole(s, from, to, bytes, m);
    e = e == OK && p ? bring_down(s, from, to, m) : e;
    if (e == OK && !cleaner_stopping(s)) {
        plan_publish(s, p);
        compact_range(s, from, to, COMPACT_ALL);
        plan_publish(s, NULL);
    }
    return e;
}

static void rewrite(struct store *s, const struct clean_job *job)
{
    struct errmsg m;
    uint64_t bytes = 0;
    for (size_t i = 0; i < job->dead_count; i++) {
        struct part *p = part_get(s, job->dead[i].uid);
        if (job->dead[i].end > atomic_load(&p->drop_below)) {
            atomic_store_explicit(&p->drop_below, job->dead[i].end, memory_order_release);
        }
    }
    if (cleaner_rewrite(s, job->from, job->to, NULL, &bytes, &m) != OK) {
        log_error("store cannot rewrite segments from=%u to=%u why=\"%s\"", job->from, job->to - 1,
                  m.text);
    }
}

bool cleaner_stopping(struct store *s)
{
    return atomic_load_explicit(&s->cleaner->stop, memory_order_relaxed);
}

static void run(struct store *s, const struct clean_job *job)
{
    if (!may_run(s)) {
        return;
    }
    if (job->compaction) {
        compaction_run(s, job->compaction);
    } else {
        rewrite(s, job);
    }
    /* Followers catch up when something moves, and only then let go of the files that went. */
    page_publish(atomic_load(&s->page));
}

static void *cleaner_main(void *arg)
{
    struct store *s = arg;
    struct cleaner *c = s->cleaner;
    pthread_mutex_lock(&c->lock);
    while (!c->stop) {
        if (!c->busy && c->drop_to == 0) {
            pthread_cond_wait(&c->wake, &c->lock);
            continue;
        }
        bool job = c->busy;
        pthread_mutex_unlock(&c->lock);
        cleaner_drop_wanted(s);
        if (!job) {
            pthread_mutex_lock(&c->lock);
            continue;
        }
        run(s, &c->job);
        free(c->job.dead);
        pthread_mutex_lock(&c->lock);
        c->done = c->job.compaction;
        c->job = (struct clean_job){0};
        c->busy = false;
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

bool cleaner_idle(struct store *s)
{
    pthread_mutex_lock(&s->cleaner->lock);
    bool idle = !s->cleaner->busy && !s->cleaner->done && s->cleaner->drop_to == 0;
    pthread_mutex_unlock(&s->cleaner->lock);
    return idle;
}

enum err cleaner_hand_over(struct store *s, struct clean_changes *changes)
{
    struct cleaner *c = s->cleaner;
    enum err e = OK;
    pthread_mutex_lock(&c->lock);
    if (c->changes.count == 0) {
        struct clean_changes empty = c->changes;
        c->changes = *changes;
        *changes = empty;
    } else {
        size_t cap = c->changes.count + changes->count;
        struct clean_change *grown = realloc(c->changes.all, cap * sizeof *grown);
        e = grown ? OK : ERR_NOMEM;
        if (grown && changes->count > 0) {
            memcpy(grown + c->changes.count, changes->all, changes->count * sizeof *grown);
            c->changes = (struct clean_changes){.all = grown, .count = cap, .cap = cap};
        }
    }
    changes->count = e == OK ? 0 : changes->count;
    pthread_mutex_unlock(&c->lock);
    return e;
}

bool cleaner_take_changes(struct store *s)
{
    struct cleaner *c = s->cleaner;
    if (s->changes.applied < s->changes.count) {
        return true;
    }
    free(s->changes.all);
    pthread_mutex_lock(&c->lock);
    s->changes = c->changes;
    c->changes = (struct clean_changes){0};
    pthread_mutex_unlock(&c->lock);
    return s->changes.count > 0;
}

struct compaction *cleaner_done(struct store *s)
{
    struct cleaner *c = s->cleaner;
    pthread_mutex_lock(&c->lock);
    struct compaction *done = c->done;
    pthread_mutex_unlock(&c->lock);
    return done;
}

void cleaner_drop_done(struct store *s)
{
    struct cleaner *c = s->cleaner;
    pthread_mutex_lock(&c->lock);
    struct compaction *done = c->done;
    c->done = NULL;
    pthread_mutex_unlock(&c->lock);
    compaction_free(done);
}

void cleaner_drop(struct store *s, uint32_t to)
{
    struct cleaner *c = s->cleaner;
    pthread_mutex_lock(&c->lock);
    c->drop_to = to;
    pthread_cond_signal(&c->wake);
    pthread_mutex_unlock(&c->lock);
}

void cleaner_post(struct store *s, const struct clean_job *job)
{
    struct cleaner *c = s->cleaner;
    pthread_mutex_lock(&c->lock);
    ASSERT(!c->busy);
    c->job = *job;
    c->busy = true;
    pthread_cond_signal(&c->wake);
    pthread_mutex_unlock(&c->lock);
}

enum err cleaner_start(struct store *s, struct errmsg *m)
{
    struct cleaner *c = calloc(1, sizeof *c);
    if (!c) {
        return err_set(m, ERR_NOMEM, "store %s: out of memory", s->dir);
    }
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->wake, NULL);
    s->cleaner = c;
    int error = pthread_create(&c->thread, NULL, cleaner_main, s);
    if (error != 0) {
        s->cleaner = NULL;
        free(c);
        return err_set(m, ERR_IO, "no thread for store %s: %s", s->dir, strerror(error));
    }
    return OK;
}

void cleaner_stop(struct store *s)
{
    struct cleaner *c = s->cleaner;
    if (!c) {
        return;
    }
    pthread_mutex_lock(&c->lock);
    atomic_store(&c->stop, true);
    pthread_cond_signal(&c->wake);
    pthread_mutex_unlock(&c->lock);
    rocksdb_disable_manual_compaction(s->rocks->db); /* ends a rewrite that is under way */
    pthread_join(c->thread, NULL);
}

void cleaner_free(struct store *s)
{
    struct cleaner *c = s->cleaner;
    if (!c) {
        return;
    }
    free(s->changes.all);
    free(c->changes.all);
    free(c->job.dead);
    compaction_free(c->job.compaction);
    compaction_free(c->done);
    pthread_cond_destroy(&c->wake);
    pthread_mutex_destroy(&c->lock);
    free(c);
    s->cleaner = NULL;
}
