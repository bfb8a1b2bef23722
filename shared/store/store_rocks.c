/* RocksDB as we use it: options, and handles that are counted.
 *
 * A segment is one memtable's life. So hardly anything but segment_switch ends a memtable of the
 * log (a job of the cleaner does, when the segment before is still being flushed): its write buffer
 * is four segments large, and the WAL's limit is far beyond what a segment writes. L0 files are
 * whole segments in order, two of them are moved to L1 by renaming, and L1 has no limit, so no byte
 * is rewritten. The meta family is small and compacts as RocksDB likes.
 *
 * A handle is counted, because slices pin blocks and memtables of the very database object they
 * came from, and Debian's RocksDB aborts when it is closed under an iterator. A follower that
 * reopens has the old handle closed by whoever frees the last slice.
 *
 * Debian's library has its assertions on, and one of them fires when a file is written to after a
 * write to it has failed: in a broker, a full disk must not come to that. So RocksDB's own log says
 * nothing after the header that it writes at open, we do not open without some room for that, we
 * sync the WAL ourselves (store_sync.c), and after a failed write nothing more is asked for but to
 * close. A follower writes nothing but that log: there it stays empty, and a follower can be opened
 * when not a byte is free.
 *
 * RocksDB goes by names until it has closed. What it finds under them and does not know it deletes,
 * and when its MANIFEST is not there at the end or has another length, 9.10 writes one and has
 * CURRENT point at it. If the directory had been moved away and another store put in its place,
 * that one would be lost. So a writer gives RocksDB a name that stays with the directory: that of
 * a descriptor. (A follower changes nothing, and opens again when it sees another directory.)
 *
 * Debian builds the library for the oldest processors, so it sums the WAL (CRC-32C) by table: a
 * tenth of what the writer's process does, more where records are large. The library calls its own
 * function through the dynamic linker, and a definition in the program goes before it: ours, which
 * uses what the processor has.
 *
 * Blocks of large reads do not enter the cache: the kernel has the file's pages anyway, and the
 * small cache is for meta rows, for the blocks near the end of the log, and for the batch that a
 * reader of history will ask for next. */
#include "shared/store/store_int.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "shared/base/log.h"

#define BLOCK_BYTES        (32u << 10)
#define META_BUFFER_BYTES  (4u << 20)
#define FILES_TO_ALLOW     65536 /* descriptors wanted at least, where the hard limit lets us */
#define MEMTABLE_BYTES_MAX (64ull << 20) /* all memtables of the log when flushes lag, or three */
#define LOG_HEADERS_ONLY   5 /* rocksdb::HEADER_LEVEL */
#define LOG_NOTHING        6 /* beyond the last level */
#define FD_NAME_BYTES      40
#define OPEN_BYTES_MIN     (4u << 20) /* free space without which we do not even try to open */

static const char *const cf_names[CF_COUNT] = {"default", "meta"};

/* rocksdb::crc32c::Extend(uint32_t, const char *, size_t). A library that has none of that name
 * does not call it. */
__attribute__((visibility("default"))) uint32_t rocks_crc32c(uint32_t crc, const char *data,
                                                             size_t len)
    __asm__("_ZN7rocksdb6crc32c6ExtendEjPKcm");

uint32_t rocks_crc32c(uint32_t crc, const char *data, size_t len)
{
    return crc32c(crc, data, len);
}

/* --- errors ----------------------------------------------------------------------------------- */

enum err rocks_failed(char *text, const char *what, const char *dir, struct errmsg *m)
{
    enum err e = ERR_IO;
    if (strstr(text, "No space left") || strstr(text, "Disk quota exceeded")) {
        e = ERR_FULL;
    } else if (strstr(text, "lock hold") || strstr(text, "While lock file")) {
        e = ERR_LOCKED;
    } else if (strncmp(text, "Corruption", 10) == 0) {
        e = ERR_CORRUPT;
    }
    e = err_set(m, e, "store %s: %s: %s", dir, what, text);
    rocksdb_free(text);
    return e;
}

enum err iter_error(const rocksdb_iterator_t *it, const char *dir, struct errmsg *m)
{
    char *text = NULL;
    rocksdb_iter_get_error(it, &text);
    return text ? rocks_failed(text, "read", dir, m) : OK;
}

enum err meta_get(struct rocks *r, const char *dir, struct slice key, uint8_t *v, size_t len,
                  struct errmsg *m)
{
    char *text = NULL;
    size_t n = 0;
    char *p = rocksdb_get_cf(r->db, r->read_cached, r->cf[CF_META], (const char *)key.data, key.len,
                             &n, &text);
    if (text) {
        return rocks_failed(text, "read", dir, m);
    }
    if (!p) {
        return ERR_NOT_FOUND;
    }
    enum err e = OK;
    if (n == len) {
        memcpy(v, p, n);
    } else {
        e = err_set(m, ERR_CORRUPT, "store %s: a row '%c' has %zu bytes instead of %zu", dir,
                    key.data[0], n, len);
    }
    rocksdb_free(p);
    return e;
}

/* --- options ---------------------------------------------------------------------------------- */

/* A descriptor for every file: a follower that has to reopen a file that is gone reads short,
 * silently. The limit is the process's; a host with a lower one keeps it when we may not raise
 * it. */
static void allow_files(void)
{
    struct rlimit l;
    if (getrlimit(RLIMIT_NOFILE, &l) == 0 && l.rlim_cur < FILES_TO_ALLOW) {
        l.rlim_cur = l.rlim_max < FILES_TO_ALLOW ? l.rlim_max : FILES_TO_ALLOW;
        (void)setrlimit(RLIMIT_NOFILE, &l);
    }
}

/* With a compaction filter RocksDB would rewrite every file once a month, and age moves it down.
 * And it would allocate more than four segments for each file of the WAL: much of a small disk, of
 * which nobody but that file could have any. */
static rocksdb_options_t *options_new(void)
{
    rocksdb_options_t *base = rocksdb_options_create(), *o = rocksdb_options_create();
    char *text = NULL;
    rocksdb_get_options_from_string(
        base, "ttl=0;periodic_compaction_seconds=0;allow_fallocate=false", o, &text);
    if (text) { /* then it does so: slower, not wrong */
        log_warn("store cannot turn off periodic compaction and allocation why=\"%s\"", text);
        rocksdb_free(text);
    }
    rocksdb_options_destroy(base);
    return o;
}

/* In one piece: RocksDB would cut 8 MB into 16, and a block that holds a batch of 1 MB fits into
 * none of them. */
static rocksdb_cache_t *cache_new(uint64_t bytes)
{
    rocksdb_lru_cache_options_t *o = rocksdb_lru_cache_options_create();
    rocksdb_lru_cache_options_set_capacity(o, bytes);
    rocksdb_lru_cache_options_set_num_shard_bits(o, 0);
    rocksdb_cache_t *cache = rocksdb_cache_create_lru_opts(o);
    rocksdb_lru_cache_options_destroy(o);
    return cache;
}

static void set_common(struct rocks *r, struct store *s, const char *wal_dir)
{
    rocksdb_options_t *o = r->options[CF_LOG];
    rocksdb_options_set_max_open_files(o, -1);
    rocksdb_options_set_max_file_opening_threads(o, 1);
    rocksdb_options_set_info_log_level(o, LOG_HEADERS_ONLY);
    rocksdb_options_set_keep_log_file_num(o, 2);
    rocksdb_options_set_wal_dir(o, wal_dir);
    rocksdb_options_set_stats_dump_period_sec(o, 0);
    rocksdb_options_set_stats_persist_period_sec(o, 0);
    rocksdb_options_set_skip_stats_update_on_db_open(o, 1);
    rocksdb_options_set_max_background_jobs(o, 2);
    rocksdb_options_set_level_compaction_dynamic_level_bytes(o, 0);
    rocksdb_options_set_max_bytes_for_level_base(o, 1ull << 44);
    rocksdb_options_set_compression(o, rocksdb_no_compression);
    rocksdb_options_set_write_buffer_size(o, 4 * s->o.segment_bytes);

    uint64_t cache_bytes = s->o.cache_bytes ? s->o.cache_bytes : STORE_CACHE_BYTES_DEFAULT;
    r->cache = cache_new(cache_bytes);
    rocksdb_block_based_table_options_t *b = rocksdb_block_based_options_create();
    rocksdb_block_based_options_set_block_size(b, BLOCK_BYTES);
    rocksdb_block_based_options_set_format_version(b, 5);
    rocksdb_block_based_options_set_block_cache(b, r->cache);
    rocksdb_options_set_block_based_table_factory(o, b);
    rocksdb_block_based_options_destroy(b);

    r->read_cached = rocksdb_readoptions_create();
    r->read_through = rocksdb_readoptions_create();
    rocksdb_readoptions_t *reads[] = {r->read_cached, r->read_through};
    for (size_t i = 0; i < 2; i++) {
        rocksdb_readoptions_set_verify_checksums(reads[i], 1);
        rocksdb_readoptions_set_pin_data(reads[i], 1);
        /* We write none; 7.8.3 swallows I/O errors on the path that looks for them. */
        rocksdb_readoptions_set_ignore_range_deletions(reads[i], 1);
    }
    rocksdb_readoptions_set_fill_cache(r->read_through, 0);
}

static void set_writer(struct rocks *r, struct store *s)
{
    rocksdb_options_t *o = r->options[CF_LOG];
    uint64_t memtables = MEMTABLE_BYTES_MAX / s->o.segment_bytes;
    rocksdb_options_set_create_if_missing(o, 1);
    rocksdb_options_set_create_missing_column_families(o, 1);
    /* Whoever frees the last slice of a dropped file must not be who unlinks it. Not in a follower,
     * where this is an assertion that fails; there the janitor sees to it. */
    rocksdb_readoptions_set_background_purge_on_iterator_cleanup(r->read_cached, 1);
    rocksdb_readoptions_set_background_purge_on_iterator_cleanup(r->read_through, 1);
    rocksdb_options_set_max_write_buffer_number(o, memtables < 3 ? 3 : memtables > 8 ? 8
                                                                       : (int)memtables);
    rocksdb_options_set_level0_file_num_compaction_trigger(o, 2);
    rocksdb_options_set_level0_slowdown_writes_trigger(o, 1000);
    rocksdb_options_set_level0_stop_writes_trigger(o, 2000);
    rocksdb_options_set_soft_pending_compaction_bytes_limit(o, 0);
    rocksdb_options_set_hard_pending_compaction_bytes_limit(o, 0);
    rocksdb_options_set_target_file_size_base(o, 1ull << 30);
    rocksdb_options_set_max_total_wal_size(o, 64 * s->o.segment_bytes); /* never: we switch first */
    rocksdb_options_set_wal_recovery_mode(o, rocksdb_point_in_time_recovery);
    rocksdb_options_set_wal_bytes_per_sync(o, 512u << 10);
    rocksdb_options_set_bytes_per_sync(o, 1u << 20);
    rocksdb_options_set_max_manifest_file_size(o, 16u << 20);
    r->write = rocksdb_writeoptions_create();
    r->flush = rocksdb_flushoptions_create();
    rocksdb_flushoptions_set_wait(r->flush, 0);
}

static void set_meta(struct rocks *r)
{
    rocksdb_options_t *o = rocksdb_options_create_copy(r->options[CF_LOG]);
    rocksdb_options_set_write_buffer_size(o, META_BUFFER_BYTES);
    rocksdb_options_set_level0_file_num_compaction_trigger(o, 4);
    rocksdb_options_set_max_bytes_for_level_base(o, 256u << 20);
    rocksdb_options_set_target_file_size_base(o, 64u << 20);
    r->options[CF_META] = o;
}

/* --- the compaction filter -------------------------------------------------------------------- */

/* Of one compaction. */
struct filter {
    struct store *s;
    struct plan *plan; /* NULL: nothing but what is dead goes */
};

/* Drops batches of dead segments and partitions and those that end at or below what the cleaner
 * allowed; and does what the plan of a rewrite says. Runs on a RocksDB thread. What it does not
 * understand it keeps. */
static unsigned char filter_drops(void *arg, int level, const char *key, size_t key_len,
                                  const char *value, size_t value_len, char **new_value,
                                  size_t *new_value_len, unsigned char *changed)
{
    struct filter *f = arg;
    struct store *s = f->s;
    struct batch_header h;
    struct slice planned;
    if (key_len != LOG_KEY_BYTES) {
        return 0;
    }
    enum plan_verdict v = f->plan ? plan_of(f->plan, key, &planned) : PLAN_KEEPS;
    if (v == PLAN_CHANGES) {
        *new_value = (char *)(uintptr_t)planned.data; /* copied at once */
        *new_value_len = planned.len;
        *changed = 1;
        return 0;
    }
    if (v == PLAN_DROPS) {
        return 1;
    }
    if (be32_get((const uint8_t *)key) <
        atomic_load_explicit(&s->dead_below, memory_order_acquire)) {
        return 1;
    }
    struct part *p = part_get(s, be32_get((const uint8_t *)key + 4));
    if (!p || batch_read_header(slice_make(value, value_len), &h) != OK) {
        return 0;
    }
    return batch_next_offset(&h) <= atomic_load_explicit(&p->drop_below, memory_order_acquire);
}

static const char *filter_name(void *arg)
{
    return "culex.dead";
}

static void filter_gone(void *arg)
{
    struct filter *f = arg;
    plan_unref(f->plan);
    free(f);
}

/* A plan is for the compaction that the cleaner has asked for, which has it from its first key on.
 * Without memory it does without: nothing is dropped then, and the cleaner sees that. */
static rocksdb_compactionfilter_t *filters_make(void *arg,
                                                rocksdb_compactionfiltercontext_t *context)
{
    struct filter *f = malloc(sizeof *f);
    if (!f) {
        return NULL;
    }
    bool manual = rocksdb_compactionfiltercontext_is_manual_compaction(context);
    *f = (struct filter){.s = arg, .plan = manual ? plan_ref(arg) : NULL};
    return rocksdb_compactionfilter_create(f, filter_gone, filter_drops, filter_name);
}

static void filters_gone(void *arg)
{
}

/* --- handles ---------------------------------------------------------------------------------- */

static void rocks_free(struct rocks *r)
{
    if (r->db) {
        for (int i = 0; i < CF_COUNT; i++) {
            rocksdb_column_family_handle_destroy(r->cf[i]);
        }
        rocksdb_close(r->db);
    }
    if (r->flush) {
        rocksdb_flushoptions_destroy(r->flush);
    }
    if (r->write) {
        rocksdb_writeoptions_destroy(r->write);
    }
    rocksdb_readoptions_destroy(r->read_cached);
    rocksdb_readoptions_destroy(r->read_through);
    for (int i = 0; i < CF_COUNT; i++) {
        rocksdb_options_destroy(r->options[i]);
    }
    rocksdb_cache_destroy(r->cache);
    if (r->dir_fd >= 0) {
        close(r->dir_fd);
    }
    free(r);
}

/* The name that stays. Of the thread, because the broker's writer has descriptors of its own, which
 * it shares with the threads of RocksDB only. Without /proc the path has to do. */
static const char *name_of_fd(int fd, const char *dir, char name[FD_NAME_BYTES])
{
    struct stat named, opened;
    (void)snprintf(name, FD_NAME_BYTES, "/proc/thread-self/fd/%d", fd);
    return stat(name, &named) == 0 && fstat(fd, &opened) == 0 && named.st_ino == opened.st_ino &&
                   named.st_dev == opened.st_dev
               ? name
               : dir;
}

static enum err rocks_new(struct rocks **out, struct store *s, char *db_dir, struct errmsg *m)
{
    char wal_dir[PATH_MAX], name[FD_NAME_BYTES];
    const char *dir = s->dir;
    struct rocks *r = calloc(1, sizeof *r);
    if (!r) {
        return err_set(m, ERR_NOMEM, "store %s: out of memory", s->dir);
    }
    atomic_init(&r->refs, 1);
    r->dir_fd = -1;
    if (s->o.role == STORE_WRITER) {
        r->dir_fd = open(s->dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (r->dir_fd < 0) {
            free(r);
            return err_set(m, ERR_IO, "cannot open %s: %s", s->dir, strerror(errno));
        }
        dir = name_of_fd(r->dir_fd, s->dir, name);
    }
    allow_files();
    r->options[CF_LOG] = options_new();
    int n = snprintf(db_dir, PATH_MAX, "%s/db", dir);
    int w = snprintf(wal_dir, sizeof wal_dir, "%s/wal", dir);
    if (n < 0 || n >= PATH_MAX || w < 0 || w >= PATH_MAX) {
        rocks_free(r);
        return err_set(m, ERR_INVALID, "the path of the store is too long: %s", s->dir);
    }
    set_common(r, s, wal_dir);
    *out = r;
    return OK;
}

/* See the top: the header of RocksDB's log must not be what finds the disk full. */
static enum err need_room(const char *dir, struct errmsg *m)
{
    struct statvfs v;
    if (statvfs(dir, &v) != 0) {
        return OK; /* then opening will say what is wrong */
    }
    uint64_t left = (uint64_t)v.f_bavail * v.f_frsize;
    return left >= OPEN_BYTES_MIN
               ? OK
               : err_set(m, ERR_FULL, "store %s: the disk is full (%llu KB left)", dir,
                         (unsigned long long)(left >> 10));
}

enum err rocks_open_writer(struct rocks **out, struct store *s, struct errmsg *m)
{
    char db_dir[PATH_MAX];
    struct rocks *r;
    enum err e = need_room(s->dir, m);
    if (e == OK) {
        e = rocks_new(&r, s, db_dir, m);
    }
    if (e != OK) {
        return e;
    }
    set_writer(r, s);
    set_meta(r);
    r->filters = rocksdb_compactionfilterfactory_create(s, filters_gone, filters_make, filter_name);
    rocksdb_options_set_compaction_filter_factory(r->options[CF_LOG], r->filters);
    char *text = NULL;
    r->db = rocksdb_open_column_families(r->options[CF_LOG], db_dir, CF_COUNT, cf_names,
                                         (const rocksdb_options_t *const *)r->options, r->cf,
                                         &text);
    if (text) {
        r->db = NULL;
        rocks_free(r);
        return rocks_failed(text, "open", s->dir, m);
    }
    *out = r;
    return OK;
}

enum err rocks_open_follower(struct rocks **out, struct store *s, struct errmsg *m)
{
    char db_dir[PATH_MAX];
    struct rocks *r;
    enum err e = rocks_new(&r, s, db_dir, m);
    if (e != OK) {
        return e;
    }
    rocksdb_options_set_info_log_level(r->options[CF_LOG], LOG_NOTHING);
    /* The files are the writer's: never look for any to delete. */
    rocksdb_options_set_delete_obsolete_files_period_micros(r->options[CF_LOG],
                                                            315360000000000ull);
    set_meta(r);
    char *text = NULL;
    r->db = rocksdb_open_as_secondary_column_families(
        r->options[CF_LOG], db_dir, s->follower_dir, CF_COUNT, cf_names,
        (const rocksdb_options_t *const *)r->options, r->cf, &text);
    if (text) {
        r->db = NULL;
        rocks_free(r);
        return rocks_failed(text, "open as follower", s->dir, m);
    }
    *out = r;
    return OK;
}

struct rocks *rocks_ref(struct rocks *r)
{
    atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed);
    return r;
}

void rocks_unref(struct rocks *r)
{
    if (r && atomic_fetch_sub_explicit(&r->refs, 1, memory_order_acq_rel) == 1) {
        rocks_free(r);
    }
}

struct rocks *store_rocks(struct store *s)
{
    pthread_mutex_lock(&s->lock);
    struct rocks *r = s->rocks ? rocks_ref(s->rocks) : NULL;
    pthread_mutex_unlock(&s->lock);
    return r;
}
