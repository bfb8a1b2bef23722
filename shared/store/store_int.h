/* Inside shared/store: what its files know of each other. Nobody else includes this.
 *
 *   store.c            open, close, files of the directory
 *   store_sync.c       the thread that syncs the WAL
 *   store_rocks.c      RocksDB: options, counted handles, errors
 *   store_page.c       the page and waiting on it
 *   store_catalog.c    topics
 *   store_recover.c    where the partitions end, from the database alone
 *   store_write.c      append, commit, segments
 *   store_read.c       reading from RocksDB, pinned
 *   store_index.c      lookups by timestamp and epoch
 *   store_tail.c       reading from the tail ring
 *   store_retention.c  store_tick: limits, and what may be dropped
 *   store_clean.c      the thread that drops and compacts
 *   store_dirty.c      compacted topics: what is to be cleaned, and what came of it
 *   store_compact.c    cleaning: which records stay, and the plan of a rewrite
 *   store_keymap.c     the newest offset of each key
 *   store_follower.c   catching up, reopening
 *   store_janitor.c    holding descriptors of files that the writer deletes */
#ifndef CULEX_STORE_STORE_INT_H
#define CULEX_STORE_STORE_INT_H

#include <limits.h>
#include <pthread.h>
#include <rocksdb/c.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/types.h>

#include "shared/base/ring.h"
#include "shared/record/record.h"
#include "shared/store/store.h"
#include "shared/store/store_key.h"

#define SEGMENT_BYTES_MIN      (8ull << 20)
#define SEGMENT_BYTES_MAX      (256ull << 20)
#define SEGMENT_BYTES_DEFAULT  (16ull << 20)
#define SEGMENT_BYTES_FLOOR    (64ull << 10) /* smallest that an owner may ask for: tests do */
#define SEGMENT_MS_DEFAULT     (3600 * 1000)
#define SEGMENT_MS_FLOOR       10000 /* short retention does not make smaller files than this */
#define INDEX_INTERVAL_BYTES   (1ull << 20)
#define TAIL_BYTES_DEFAULT     (16ull << 20)
#define FLUSH_INTERVAL_MS      10
#define PENDING_BYTES_MAX      (256ull << 20) /* of one commit */
#define PENDING_KEEP_BYTES     (2u << 20)     /* the WriteBatch keeps at most this afterwards */
#define READ_BATCHES_MAX       16384          /* of one store_read */
#define WALK_BYTES_MAX         BATCH_PLAIN_BYTES_MAX /* to look at timestamps */
#define PART_CHUNK             1024
#define PART_CHUNKS            (STORE_UIDS_MAX / PART_CHUNK)
#define WAL_FILES_MAX          128
#define NO_TIMESTAMP           INT64_MIN
#define CLEAN_MAP_BYTES_DEFAULT (48ull << 20) /* of the key map: 1.5 million keys in one pass */

/* --- RocksDB ---------------------------------------------------------------------------------- */

enum { CF_LOG, CF_META, CF_COUNT };

/* An open database; counted, because slices pin it beyond a reopen. */
struct rocks {
    _Atomic int refs;
    rocksdb_t *db;
    rocksdb_column_family_handle_t *cf[CF_COUNT];
    rocksdb_options_t *options[CF_COUNT];
    rocksdb_cache_t *cache;
    rocksdb_readoptions_t *read_cached; /* small reads: blocks stay in the cache */
    rocksdb_readoptions_t *read_through; /* long scans: they do not */
    rocksdb_writeoptions_t *write;
    rocksdb_flushoptions_t *flush;
    rocksdb_compactionfilterfactory_t *filters; /* of the options, which own it */
    int dir_fd; /* of the store's directory; follower: -1 */
};

enum err rocks_open_writer(struct rocks **out, struct store *s, struct errmsg *m) MUST_CHECK;
enum err rocks_open_follower(struct rocks **out, struct store *s, struct errmsg *m) MUST_CHECK;
struct rocks *rocks_ref(struct rocks *r);
void rocks_unref(struct rocks *r); /* NULL is fine. The last one closes: blocks */
/* Takes over RocksDB's text (freed): what kind of error it is, and the sentence. */
enum err rocks_failed(char *text, const char *what, const char *dir, struct errmsg *m);
/* The handle that reads use now; unref it. */
struct rocks *store_rocks(struct store *s);

static inline struct slice iter_key(const rocksdb_iterator_t *it)
{
    size_t n;
    const char *p = rocksdb_iter_key(it, &n);
    return slice_make(p, n);
}

static inline struct slice iter_value(const rocksdb_iterator_t *it)
{
    size_t n;
    const char *p = rocksdb_iter_value(it, &n);
    return slice_make(p, n);
}

static inline void iter_seek(rocksdb_iterator_t *it, const uint8_t *k, size_t n)
{
    rocksdb_iter_seek(it, (const char *)k, n);
}

/* OK also when the iterator just ended. */
enum err iter_error(const rocksdb_iterator_t *it, const char *dir, struct errmsg *m) MUST_CHECK;
/* One row of meta into v (of cap bytes). ERR_NOT_FOUND; ERR_CORRUPT when it has another length. */
enum err meta_get(struct rocks *r, const char *dir, struct slice key, uint8_t *v, size_t len,
                  struct errmsg *m) MUST_CHECK;

/* --- the page --------------------------------------------------------------------------------- */

struct page_entry {
    _Atomic int64_t log_start;
    _Atomic int64_t end;
    _Atomic int64_t durable;
    _Atomic int32_t epoch;
    _Atomic uint32_t live;
};

struct page_header {
    uint64_t magic;
    uint32_t version;
    uint32_t entries_max;
    struct uuid store_id;
    _Atomic uint64_t boot;  /* of the writer that filled the entries; 0 while it does */
    _Atomic uint64_t life;  /* counts openings by a writer */
    _Atomic uint32_t pid;
    _Atomic uint32_t clean; /* 1 after store_close */
    _Alignas(64) _Atomic uint32_t sequence; /* futex */
    _Atomic uint32_t durable_sequence;
    _Atomic uint64_t catalog_version;
    _Atomic uint32_t next_uid;
    _Atomic uint32_t segment_low; /* oldest live segment */
    _Atomic uint32_t segment_now; /* the open one */
};

struct page {
    struct page_header *h;
    struct page_entry *entries;
    size_t map_bytes; /* 0: private, see recover_private_page */
    int fd;           /* writer: to allocate blocks; -1 */
    ino_t inode;
    dev_t device;
    struct page *retired; /* list of those that readers may still look at */
};

/* Takes over the file of this store, or makes a new one. The entries of a page that was taken over
 * are as they were. */
enum err page_open_writer(struct page **out, const char *dir, const struct uuid *store_id,
                          struct errmsg *m) MUST_CHECK;
enum err page_open_reader(struct page **out, const char *dir, struct errmsg *m) MUST_CHECK;
/* A page of this process alone, with room for uids entries. */
struct page *page_new_private(uint32_t uids);
void page_close(struct page *p);
/* Blocks on disk for the entries below uids. */
enum err page_reserve(struct page *p, uint32_t uids, const char *dir, struct errmsg *m) MUST_CHECK;
/* False: the directory holds another page by now, or none. */
bool page_is_current(const struct page *p, const char *dir);
uint64_t page_boot_now(void);
/* Writer: the page is filled, and tells the truth for as long as this process lives. */
enum err lock_page(struct store *s, struct errmsg *m) MUST_CHECK;
bool lock_page_held(const struct store *s); /* does a living writer say so? */
void page_publish(struct page *p); /* sequence + 1, wakes */

/* --- partitions of a writer ------------------------------------------------------------------- */

struct part_state {
    int64_t end;
    uint64_t bytes;            /* since the partition's beginning */
    struct index_row row;      /* the last one; row.segment is where batches go, unless closed */
    int64_t open_max;          /* greatest timestamp of [row.offset, end) */
    uint64_t segment_bytes_at; /* `bytes` when the partition entered its segment */
    uint32_t segment;          /* of its newest batch; 0: none yet */
    int64_t segment_offset;    /* where it entered that */
};

/* How far a compacted partition is clean: row 'k'. */
struct clean_state {
    int64_t to;
    uint64_t bytes_at; /* `bytes` of the partition at that offset */
    uint64_t live;     /* bytes below it that are left */
};

struct part {
    struct part_state now;       /* as committed */
    struct part_state next;      /* with what is pending */
    _Atomic int64_t drop_below;  /* the compaction filter may drop batches below */
    const struct store_topic *topic; /* in the writer's catalog; NULL: dead */
    int64_t open_since_ms;       /* tick that first saw the open interval; -1: none did */
    int64_t start;               /* log start */
    int64_t low_row;             /* no index row below this offset */
    struct index_row first;      /* retention: a row above log start; offset -1: not known */
    struct clean_state clean;
    int64_t dirty_from, dirty_ts; /* the first dirty offset + 1, and the time of its batch … */
    int64_t dirty_again_ms;      /* … which is looked for again then, when it has none */
    int64_t unclean_until_ms;    /* cleaning it has failed: not before that */
    int64_t unclean_ms;          /* for how long it is left alone; 0: it did not fail */
    bool touched;                /* in store.touched */
    bool active;                 /* in store.active */
    bool unsynced;               /* in store.unsynced */
};

struct uid_list {
    uint32_t *uids;
    size_t count, cap;
};
bool uid_list_reserve(struct uid_list *l, size_t more) MUST_CHECK;

/* NULL beyond what was made. Any thread. */
struct part *part_get(struct store *s, uint32_t uid);
/* Makes room for uids below `uids`. */
enum err parts_reserve(struct store *s, uint32_t uids) MUST_CHECK;

struct pending_batch {
    uint32_t uid;
    uint32_t len;
    size_t at; /* in the bytes of store.batch */
};

/* What one partition has in a segment. */
struct segment_entry {
    uint32_t uid;
    int64_t end;
    uint64_t bytes;
};

/* A closed segment that has not been dropped. */
struct segment {
    uint32_t from, number; /* stands for these, both included: small ones are merged */
    uint64_t bytes; /* live ones, as far as its row knows */
    int64_t closed_ms;
};

/* What compaction has left of a partition in a run of segments that it has looked through. */
struct clean_change {
    uint32_t number, uid;
    uint64_t left;
};
struct clean_changes {
    struct clean_change *all; /* by number, in the order of its row */
    size_t count, cap;
    size_t applied; /* of them: these are rows */
};

/* --- the catalog ------------------------------------------------------------------------------ */

#define STORE_FORMAT_OLDEST 1 /* read, and changed into the newest by a writer */

/* The 'c' and 't' rows as of one moment, one reference. ERR_NOT_FOUND: no 'c' row. */
enum err catalog_load(struct rocks *r, const char *dir, const struct store_catalog **out,
                      uint32_t *next_uid, struct errmsg *m) MUST_CHECK;
/* Publishes within this process; takes over the reference. */
void catalog_swap(struct store *s, const struct store_catalog *c);
/* Writer: the parts learn their topics. */
void catalog_attach(struct store *s);
/* An empty one. NULL without memory. */
const struct store_catalog *catalog_empty(void);

/* --- the tail --------------------------------------------------------------------------------- */

#define TAIL_FRAME_HEADER 4 /* uid */
#define TAIL_FORGET_BYTES (TAIL_FRAME_HEADER + 8)

struct tail;
struct tail *tail_new(void);
void tail_free(struct tail *t);
/* Writer: readers do not take batches below this offset from the ring any more. */
void tail_forget(struct store *s, uint32_t uid, int64_t offset);

/* --- the store -------------------------------------------------------------------------------- */

struct cleaner;
struct follower;

struct store {
    struct store_options o;
    char *dir;
    char *follower_dir;
    struct uuid id;
    bool opened; /* writer: the page is ours and tells the truth */
    int lock_fd; /* writer: holds the lock. Follower: tests it; -1 when there is none yet */

    pthread_mutex_t lock; /* of rocks, catalog, retired */
    struct rocks *rocks;
    const struct store_catalog *catalog;
    struct page *retired;

    _Atomic(struct page *) page; /* the shared one */
    _Atomic(struct page *) view; /* where offsets come from: the shared one, or a private one */
    _Atomic uint32_t bumps;      /* wakes of this process, counted into the sequence */
    _Atomic uint32_t waits_begun, waits_ended;
    _Atomic int state; /* enum store_state */
    struct tail *tail;
    struct follower *follower; /* NULL in a writer */

    /* the writing thread */
    _Atomic(struct part *) chunks[PART_CHUNKS];
    uint32_t next_uid;
    rocksdb_writebatch_t *batch;
    struct pending_batch *pending_batches;
    size_t pending_bytes; /* of those batches */
    size_t pending_count, pending_cap;
    size_t pending_rows_bytes;
    struct uid_list touched; /* have next != now */
    struct uid_list active;  /* have batches in the open segment */
    struct ring ring;
    uint32_t segment;        /* the open one */
    uint64_t segment_bytes;  /* written into it */
    bool segment_full;       /* a partition's part of it is as long as its topic wants */
    uint64_t wal_bytes;      /* written since the last switch, rows included */
    int64_t segment_since_ms;
    struct segment *segments; /* closed ones, oldest first */
    size_t segment_count, segment_cap;
    uint64_t closed_bytes;    /* sum over segments */
    uint64_t appended_since_space;
    bool no_space;
    struct cleaner *cleaner;
    _Atomic uint32_t dead_below; /* the compaction filter may drop segments below */
    uint32_t sweep_uid;    /* next uid to look for rows of dead partitions; UINT32_MAX: done */
    size_t dead_cursor;    /* next closed segment to look into for dead bytes; SIZE_MAX: none */
    uint32_t drop_below;   /* segments below may go */
    uint32_t dropped_below; /* segments below have gone, or are on their way */
    size_t merge_seen;     /* segment_count at the last look for small neighbours */
    int late_reads;        /* in this look */
    size_t late_place, late_from; /* among all parts that may be: at which it is; begins to read */
    int64_t rest_ms, rest_until_ms; /* after a job that gained little: for how long … */
    uint64_t rest_bytes;            /* … and what it wrote in vain */
    int64_t dirty_look_ms; /* not before that: the next look for something to compact */
    struct clean_changes changes; /* from the cleaner, on their way into rows */
    store_stability_fn *stability;
    void *stability_arg;
    struct plan *plan; /* of the rewrite that is under way; under lock */
    uint32_t blocker_segment; /* what keeps the oldest segment alive: */
    uint32_t blocker_uid;
    int64_t blocker_end;

    /* between the writing thread and the syncing one */
    pthread_mutex_t sync_lock;
    pthread_cond_t sync_wake;
    pthread_t sync_thread;
    bool sync_running, sync_stop;
    struct uid_list unsynced;

    pthread_mutex_t wal_lock; /* of these: */
    struct wal_file {
        uint64_t number;
        int fd;
        bool seen;     /* in the listing that is being made */
        bool complete; /* synced when there was a newer one */
    } wal_files[WAL_FILES_MAX];
    size_t wal_file_count;

    _Atomic uint64_t holes, reopens;
    _Atomic int64_t recovered_loss;
};

void store_bump(struct store *s); /* local change: store_sequence moves, waiters wake */
void store_broken(struct store *s, const struct errmsg *why);
/* Writer: OK while the directory that the path names is the one that was opened. Else the store is
 * broken. */
enum err store_in_place(struct store *s, struct errmsg *m) MUST_CHECK;
/* store_sync.c */
void sync_init(struct store *s);
void sync_fini(struct store *s);
/* All that was committed before is on disk when this returns. Any thread. */
enum err sync_wal(struct store *s, struct errmsg *m) MUST_CHECK;
enum err sync_start(struct store *s, struct errmsg *m) MUST_CHECK;
void sync_stop(struct store *s);
/* After a commit: these partitions have an end that is not on disk yet. */
void sync_request(struct store *s, const struct uid_list *l);

/* store.c: reads FORMAT into s->id and its version. ERR_NOT_FOUND: there is none; ERR_VERSION. */
enum err format_read(struct store *s, unsigned *version, struct errmsg *m) MUST_CHECK;

/* store_recover.c */
/* Ends, starts and epochs of all partitions of the catalog, from the database alone, into a page of
 * this process. A writer's parts, segments and active list are filled too; its catalog must be
 * attached. */
enum err recover(struct store *s, struct rocks *r, const struct store_catalog *c, uint32_t next_uid,
                 struct page **out, struct errmsg *m) MUST_CHECK;
/* Writer: puts what was recovered into the shared page, as the page of this boot. before: the page
 * that says what there was, mostly the same one. */
enum err recover_publish(struct store *s, struct page *shared, const struct page *before,
                         const struct page *found, struct errmsg *m) MUST_CHECK;

/* store_write.c */
enum err write_batch(struct store *s, rocksdb_writebatch_t *b, struct errmsg *m) MUST_CHECK;
void batch_put(struct rocks *r, rocksdb_writebatch_t *b, int cf, struct slice k, struct slice v);
void batch_delete(struct rocks *r, rocksdb_writebatch_t *b, struct slice k);
/* Puts the row of a segment. ERR_NOMEM. */
enum err segment_put(struct store *s, rocksdb_writebatch_t *b, const struct segment *g,
                     const struct segment_entry *entries, size_t count) MUST_CHECK;
/* Closes the open segment; nothing may be pending. */
enum err segment_switch(struct store *s, int64_t now_ms, struct errmsg *m) MUST_CHECK;
/* Puts the row that closes the open interval of a partition; its state is the caller's to change
 * with interval_closed. */
void interval_close(struct store *s, rocksdb_writebatch_t *b, uint32_t uid, struct part_state *st,
                    uint32_t segment);
enum err segment_add(struct store *s, const struct segment *g) MUST_CHECK;
enum err space_check(struct store *s, struct errmsg *m) MUST_CHECK;

/* store_read.c */
enum read_gap {
    READ_WHOLE,
    READ_BEHIND, /* the log ends too early */
    READ_HOLE,   /* later batches are visible */
};
/* As store_read up to `end`, on one handle, without any waiting: *gap says when less than that
 * could be read. */
enum err read_once(struct store *s, struct rocks *r, uint32_t uid, int64_t offset, int64_t end,
                   size_t max_bytes, bool at_least_one, struct store_slices **out,
                   enum read_gap *gap, struct errmsg *m) MUST_CHECK;

/* store_follower.c */
enum err follower_open(struct store *s, struct errmsg *m) MUST_CHECK;
void follower_close(struct store *s);
/* A read found less than was published: catches up (or reopens), with growing pauses. False: give
 * up. */
bool follower_heal(struct store *s, int attempt, enum err e);

/* store_janitor.c: for the files of the store in dir; NULL: none could be started, which is said */
struct janitor;
struct janitor *janitor_start(const char *dir);
void janitor_stop(struct janitor *j);

/* store_keymap.c: offsets of keys, in at most so many bytes. NULL: no memory. */
struct key_map *key_map_new(size_t bytes_max);
void key_map_free(struct key_map *k);
bool key_map_empty(const struct key_map *k);
/* False: no room or no memory for another key. */
bool key_map_put(struct key_map *k, uint32_t uid, struct slice key, int64_t offset);
int64_t key_map_get(const struct key_map *k, uint32_t uid, struct slice key); /* -1: unknown */

/* store_compact.c */
struct clean_part {
    uint32_t uid;
    int64_t start, from, end; /* log start; first dirty offset; to be clean below: as it was done */
    uint64_t start_bytes;     /* of the partition at its start, as index rows count */
    int64_t delete_retention_ms;
    struct store_aborted *aborted;
    size_t aborted_count;
    uint64_t dirty; /* bytes */
    double ratio;   /* how dirty */
    bool mapped;    /* the keys of [from, end) are in the map */
    bool failed;    /* out: it is no cleaner than before, for a reason that may last */
    uint64_t bytes; /* out: what is left below end */
};
struct clean_run { /* segments that share a row, and so a file */
    uint32_t from, number;
};
struct compaction {
    int64_t now_ms;
    struct clean_part *parts; /* dirtiest first; then mapped ones first, by uid */
    size_t found_count;
    size_t part_count; /* mapped ones */
    struct clean_run *runs;
    size_t run_count;
    uint64_t rewritten, gained; /* bytes of files that were written anew, and that went thereby */
    enum err failed;
};
void compaction_free(struct compaction *k);
void compaction_run(struct store *s, struct compaction *k);

/* What a rewrite does to a key; *value: the new one, as long as the plan is held. */
enum plan_verdict { PLAN_KEEPS, PLAN_CHANGES, PLAN_DROPS };
void plan_publish(struct store *s, struct plan *p); /* NULL: none is under way any more */
struct plan *plan_ref(struct store *s); /* NULL: none is under way */
void plan_unref(struct plan *p);
enum plan_verdict plan_of(const struct plan *p, const char *key, struct slice *value);

/* store_dirty.c: what is dirty enough becomes a job; what a job has done becomes rows of b. rows:
 * over meta, as of now */
enum err dirty_find(struct store *s, rocksdb_iterator_t *rows, int64_t now_ms,
                    struct compaction **out) MUST_CHECK;
/* A bounded part of the sizes of segments at a time. *all: there are no more by now. */
enum err dirty_apply(struct store *s, rocksdb_iterator_t *rows, rocksdb_writebatch_t *b,
                     bool *all) MUST_CHECK;
/* When all of it is. */
void dirty_done(struct store *s, rocksdb_iterator_t *rows, rocksdb_writebatch_t *b,
                struct compaction *k, int64_t now_ms);
/* Bytes from a row on to the end, for retention; start: the log's. */
uint64_t dirty_bytes_from(struct store *s, rocksdb_iterator_t *rows, uint32_t uid, int64_t start,
                          const struct index_row *row);
/* The log start moves, for which b already has the row. */
void dirty_start_raised(struct store *s, rocksdb_iterator_t *rows, rocksdb_writebatch_t *b,
                        uint32_t uid, int64_t from, int64_t to);
enum err dirty_load(struct store *s, rocksdb_iterator_t *it, struct errmsg *m) MUST_CHECK;

/* store_retention.c: the entries of a closed segment's row; free *out. ERR_NOT_FOUND: it was closed
 * in this very tick. */
enum err segment_load(rocksdb_iterator_t *rows, uint32_t number, struct segment_entry **out,
                      size_t *count) MUST_CHECK;

/* store_retention.c: after the cleaner has stopped, what it found out becomes rows. */
void tick_last(struct store *s);

/* store_clean.c: one job at a time, on a thread of its own */
struct clean_job {
    uint32_t from, to;   /* segments [from, to) */
    bool compact;        /* they are rewritten without what is dead */
    struct segment_entry *dead; /* these partitions, below these ends. Owned */
    size_t dead_count;
    struct compaction *compaction; /* this instead. Owned */
};
bool cleaner_idle(struct store *s); /* and nothing is left to be taken */
/* The cleaner's thread: sizes that are right by now; taken over and left empty. ERR_NOMEM: kept. */
enum err cleaner_hand_over(struct store *s, struct clean_changes *changes) MUST_CHECK;
/* Puts what was handed over where s->changes is used up. False: there is none. */
bool cleaner_take_changes(struct store *s);
/* What the last compaction did; NULL: none has ended. Until it is dropped there is no other. */
struct compaction *cleaner_done(struct store *s);
void cleaner_drop_done(struct store *s);
bool cleaner_stopping(struct store *s);
/* Rewrites the files of segments [from, to), through the filter, by a plan in one step (NULL: there
 * is none); not on an error, which is that they cannot be read. *bytes grows by what they had. The
 * cleaner's thread. Blocks. */
enum err cleaner_rewrite(struct store *s, uint32_t from, uint32_t to, struct plan *p,
                         uint64_t *bytes, struct errmsg *m) MUST_CHECK;
/* Drops the files of segments below `to`, which are dead, soon: also while a job runs. */
void cleaner_drop(struct store *s, uint32_t to);
/* The cleaner's thread, between two steps of a job: drops what is to be dropped. Blocks. */
void cleaner_drop_wanted(struct store *s);
/* Only when idle. Takes job->dead over. */
void cleaner_post(struct store *s, const struct clean_job *job);
enum err cleaner_start(struct store *s, struct errmsg *m) MUST_CHECK;
void cleaner_stop(struct store *s); /* what it has handed over can still be taken */
void cleaner_free(struct store *s);

#endif
