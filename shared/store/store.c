/* A store opens and closes. What is where: store_int.h. What it looks like on disk:
 * store_key.h.
 *
 *   writer    directory ─▶ lock ─▶ FORMAT ─▶ RocksDB ─▶ catalog ─▶ recover
 *             ─▶ tail ring ─▶ page ─▶ threads
 *   follower  page ─▶ FORMAT ─▶ RocksDB as secondary ─▶ catalog ─▶ thread        (store_follower.c)
 *
 * The page is filled last, so a follower that finds one finds all the rest. A writer that is killed
 * anywhere on the way has changed nothing that the next one could not do again.
 *
 * The lock is one of the open file description (fcntl): it ends with the process however it ends,
 * lives through the fork of a daemon, and a follower can ask whether it is held without taking
 * it. Of the file's bytes, the first is the store; the second is taken when the page is filled, so
 * whoever finds it held knows that a living writer vouches for the page.
 *
 * A directory that is moved away, removed or replaced while a writer has it open is noticed by the
 * inode of its page (store_tick, store_close). Nothing that the writer does until then, or when it
 * closes, is done to what is in its place now (store_rocks.c). */
#include "shared/store/store_int.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "shared/base/clock.h"
#include "shared/base/log.h"

#define FORMAT_TEXT_MAX 128
#define TAIL_STEP_BYTES 4096u
#define SEGMENTS_OF_DISK 64 /* at least so many fit it */

enum { LOCK_STORE, LOCK_PAGE }; /* bytes of the file "lock" */

static const char format_magic[5] = {'c', 'u', 'l', 'e', 'x'};

/* --- files of the directory ------------------------------------------------------------------- */

static enum err path_in(const struct store *s, const char *name, char path[PATH_MAX],
                        struct errmsg *m)
{
    int n = snprintf(path, PATH_MAX, "%s/%s", s->dir, name);
    return n > 0 && n < PATH_MAX
               ? OK
               : err_set(m, ERR_INVALID, "the path of the store is too long: %s", s->dir);
}

static enum err os_failed(struct errmsg *m, int error, const char *what, const char *path)
{
    bool full = error == ENOSPC || error == EDQUOT || error == EFBIG;
    return err_set(m, full ? ERR_FULL : ERR_IO, "%s %s: %s", what, path, strerror(error));
}

static enum err make_dir(const char *path, struct errmsg *m)
{
    return mkdir(path, 0750) == 0 || errno == EEXIST ? OK
                                                     : os_failed(m, errno, "cannot make", path);
}

/* A directory without FORMAT must be empty: what else lies there is not ours to write beside. */
static enum err check_empty(const struct store *s, struct errmsg *m)
{
    /* A follower of another store may have found its place here before there was room for ours. */
    static const char *const harmless[] = {".",          "..",         "lock",
                                           "FORMAT.new", "lost+found", "follower"};
    DIR *d = opendir(s->dir);
    if (!d) {
        return os_failed(m, errno, "cannot read", s->dir);
    }
    enum err e = OK;
    for (struct dirent *f = readdir(d); f && e == OK; f = readdir(d)) {
        bool ours = false;
        for (size_t i = 0; i < sizeof harmless / sizeof *harmless; i++) {
            ours = ours || strcmp(f->d_name, harmless[i]) == 0;
        }
        if (!ours) {
            e = err_set(m, ERR_VERSION,
                        "%s is not a culex store: it holds \"%s\" and no file FORMAT", s->dir,
                        f->d_name);
        }
    }
    closedir(d);
    return e;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool parse_id(const char *text, struct uuid *id)
{
    for (size_t i = 0; i < sizeof id->b; i++) {
        int hi = hex_digit(text[2 * i]);
        int lo = hi < 0 ? -1 : hex_digit(text[2 * i + 1]);
        if (lo < 0) {
            return false;
        }
        id->b[i] = (uint8_t)(hi << 4 | lo);
    }
    return true;
}

enum err format_read(struct store *s, unsigned *version, struct errmsg *m)
{
    char path[PATH_MAX], text[FORMAT_TEXT_MAX] = {0};
    enum err e = path_in(s, "FORMAT", path, m);
    if (e != OK) {
        return e;
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return errno == ENOENT ? err_set(m, ERR_NOT_FOUND, "no store in %s yet", s->dir)
                               : os_failed(m, errno, "cannot open", path);
    }
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    int at = 0;
    *version = 0;
    if (n <= 0 || sscanf(text, "culex store %u\n%n", version, &at) != 1 || at == 0) {
        return err_set(m, ERR_VERSION, "%s is not a culex store: %s says otherwise", s->dir, path);
    }
    if (*version < STORE_FORMAT_OLDEST || *version > STORE_FORMAT_VERSION) {
        return err_set(m, ERR_VERSION,
                       "store %s has format %u, this program knows %d: it was made by %s version "
                       "of culex",
                       s->dir, *version, STORE_FORMAT_VERSION,
                       *version > STORE_FORMAT_VERSION ? "a newer" : "an older");
    }
    if (!parse_id(text + at, &s->id)) {
        return err_set(m, ERR_VERSION, "%s has no id in its second line", path);
    }
    return OK;
}

/* With the id of the store. */
static enum err write_format(struct store *s, struct errmsg *m)
{
    char path[PATH_MAX], temporary[PATH_MAX], text[FORMAT_TEXT_MAX];
    enum err e = path_in(s, "FORMAT", path, m);
    if (e == OK) {
        e = path_in(s, "FORMAT.new", temporary, m);
    }
    if (e != OK) {
        return e;
    }
    int len = snprintf(text, sizeof text, "culex store %d\n", STORE_FORMAT_VERSION);
    for (size_t i = 0; i < sizeof s->id.b; i++) {
        len += snprintf(text + len, sizeof text - (size_t)len, "%02x", s->id.b[i]);
    }
    text[len++] = '\n';
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    if (fd < 0) {
        return os_failed(m, errno, "cannot make", temporary);
    }
    bool written = write(fd, text, (size_t)len) == len && fsync(fd) == 0;
    int error = errno;
    close(fd);
    if (!written || rename(temporary, path) != 0) {
        return os_failed(m, written ? errno : error, "cannot write", path);
    }
    return OK;
}

/* --- the lock --------------------------------------------------------------------------------- */

static enum err take_lock(struct store *s, struct errmsg *m)
{
    char path[PATH_MAX], text[32] = {0};
    enum err e = path_in(s, "lock", path, m);
    if (e != OK) {
        return e;
    }
    s->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    if (s->lock_fd < 0) {
        return os_failed(m, errno, "cannot open", path);
    }
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = LOCK_STORE, .l_len = 1};
    if (fcntl(s->lock_fd, F_OFD_SETLK, &l) != 0) {
        if (errno != EAGAIN && errno != EACCES) {
            return os_failed(m, errno, "cannot lock", path);
        }
        ssize_t n = pread(s->lock_fd, text, sizeof text - 1, 0);
        return err_set(m, ERR_LOCKED, "store %s is in use by process %ld", s->dir,
                       n > 0 ? strtol(text, NULL, 10) : 0);
    }
    int len = snprintf(text, sizeof text, "%ld\n", (long)getpid());
    if (ftruncate(s->lock_fd, 0) != 0 || pwrite(s->lock_fd, text, (size_t)len, 0) != len) {
        return os_failed(m, errno, "cannot write", path);
    }
    return OK;
}

enum err lock_page(struct store *s, struct errmsg *m)
{
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = LOCK_PAGE, .l_len = 1};
    return fcntl(s->lock_fd, F_OFD_SETLK, &l) == 0
               ? OK
               : os_failed(m, errno, "cannot lock the page of", s->dir);
}

static bool lock_held(const struct store *s, int byte)
{
    char path[PATH_MAX];
    if (path_in(s, "lock", path, NULL) != OK) {
        return false;
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC); /* by name: the directory may have been made anew */
    if (fd < 0) {
        return false;
    }
    struct flock l = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    bool held = fcntl(fd, F_OFD_GETLK, &l) == 0 && l.l_type == F_WRLCK;
    close(fd);
    return held;
}

bool lock_page_held(const struct store *s)
{
    return lock_held(s, LOCK_PAGE);
}

bool store_writer_alive(struct store *s)
{
    return s->o.role == STORE_WRITER || lock_held(s, LOCK_STORE);
}

/* --- open ------------------------------------------------------------------------------------- */

/* A small disk has small segments, because RocksDB needs room for some of them at any time. */
static uint64_t segment_bytes_default(const struct store *s)
{
    uint64_t part = s->o.limit_bytes / 1024;
    uint64_t bytes = s->o.limit_bytes == 0      ? SEGMENT_BYTES_DEFAULT
                     : part < SEGMENT_BYTES_MIN ? SEGMENT_BYTES_MIN
                                                : part;
    struct statvfs v;
    if (statvfs(s->dir, &v) == 0) {
        uint64_t disk = (uint64_t)v.f_blocks * v.f_frsize / SEGMENTS_OF_DISK;
        bytes = disk < bytes ? disk : bytes;
    }
    return bytes;
}

static void set_defaults(struct store *s)
{
    struct store_options *o = &s->o;
    if (o->segment_bytes == 0) {
        o->segment_bytes = segment_bytes_default(s);
    }
    if (o->segment_bytes < SEGMENT_BYTES_FLOOR) {
        o->segment_bytes = SEGMENT_BYTES_FLOOR;
    }
    if (o->segment_bytes > SEGMENT_BYTES_MAX) {
        o->segment_bytes = SEGMENT_BYTES_MAX;
    }
    o->segment_ms = o->segment_ms ? o->segment_ms : SEGMENT_MS_DEFAULT;
    o->tail_bytes = o->tail_bytes ? o->tail_bytes : TAIL_BYTES_DEFAULT;
    o->tail_bytes = (o->tail_bytes + TAIL_STEP_BYTES - 1) / TAIL_STEP_BYTES * TAIL_STEP_BYTES;
    o->flush_interval_ms = o->flush_interval_ms ? o->flush_interval_ms : FLUSH_INTERVAL_MS;
}

static enum err put_format_row(struct store *s, struct errmsg *m)
{
    uint8_t key = ROW_FORMAT, row[FORMAT_ROW_BYTES];
    memcpy(row, format_magic, 5);
    be32_put(row + 5, STORE_FORMAT_VERSION);
    memcpy(row + 9, s->id.b, sizeof s->id.b);
    rocksdb_writebatch_t *b = rocksdb_writebatch_create();
    batch_put(s->rocks, b, CF_META, slice_make(&key, 1), slice_make(row, sizeof row));
    enum err e = write_batch(s, b, m);
    rocksdb_writebatch_destroy(b);
    return e;
}

/* A store of an older format becomes one of ours; only when it is known that it opens, for the
 * older program refuses it from then on. First its page goes: a follower that knows the old format
 * only, and has it open, then sees another directory and looks at FORMAT again. Of the rows only
 * that of the format changes; after a kill in between, the next opening goes on. */
static enum err upgrade_format(struct store *s, struct errmsg *m)
{
    char path[PATH_MAX];
    enum err e = path_in(s, "page", path, m);
    if (e == OK && unlink(path) != 0 && errno != ENOENT) {
        e = os_failed(m, errno, "cannot remove", path);
    }
    if (e == OK) {
        e = write_format(s, m);
    }
    if (e == OK) {
        e = put_format_row(s, m);
    }
    if (e == OK) {
        log_info("store has a new format dir=%s format=%d", s->dir, STORE_FORMAT_VERSION);
    }
    return e;
}

/* The 'f' and 'c' rows; a database that has neither is new and gets them. *old: they are of an
 * older format. */
static enum err check_rows(struct store *s, bool *old, struct errmsg *m)
{
    uint8_t format_key = ROW_FORMAT, catalog_key = ROW_CATALOG, row[FORMAT_ROW_BYTES];
    struct slice key = slice_make(&format_key, 1);
    enum err e = meta_get(s->rocks, s->dir, key, row, sizeof row, m);
    if (e == OK) {
        uint32_t version = be32_get(row + 5);
        if (memcmp(row, format_magic, 5) != 0 || version < STORE_FORMAT_OLDEST ||
            version > STORE_FORMAT_VERSION) {
            return err_set(m, ERR_VERSION, "store %s has format %u, this program knows %d", s->dir,
                           version, STORE_FORMAT_VERSION);
        }
        if (memcmp(row + 9, s->id.b, sizeof s->id.b) != 0) {
            return err_set(m, ERR_VERSION, "store %s: FORMAT and db are of two stores", s->dir);
        }
        *old |= version < STORE_FORMAT_VERSION;
        return OK;
    }
    if (e != ERR_NOT_FOUND) {
        return e;
    }
    rocksdb_iterator_t *it =
        rocksdb_create_iterator_cf(s->rocks->db, s->rocks->read_cached, s->rocks->cf[CF_META]);
    rocksdb_iter_seek_to_first(it);
    bool used = rocksdb_iter_valid(it);
    rocksdb_iter_destroy(it);
    if (used) {
        return err_set(m, ERR_VERSION, "%s is not a culex store: its rows are not ours", s->dir);
    }
    memcpy(row, format_magic, 5);
    be32_put(row + 5, STORE_FORMAT_VERSION);
    memcpy(row + 9, s->id.b, sizeof s->id.b);
    uint8_t catalog[CATALOG_ROW_BYTES];
    be64_put(catalog, 1);
    be32_put(catalog + 8, 0);
    rocksdb_writebatch_t *b = rocksdb_writebatch_create();
    batch_put(s->rocks, b, CF_META, key, slice_make(row, sizeof row));
    batch_put(s->rocks, b, CF_META, slice_make(&catalog_key, 1),
              slice_make(catalog, sizeof catalog));
    e = write_batch(s, b, m);
    rocksdb_writebatch_destroy(b);
    return e;
}

/* Lock, FORMAT, RocksDB. *old: of an older format. */
static enum err open_files(struct store *s, bool *old, struct errmsg *m)
{
    unsigned version;
    enum err e = format_read(s, &version, m);
    if (e == ERR_NOT_FOUND) {
        e = check_empty(s, m);
    }
    if (e == OK) {
        e = take_lock(s, m);
    }
    if (e == OK) {
        /* Again: another process may have made the store meanwhile. */
        e = format_read(s, &version, m);
        if (e == ERR_NOT_FOUND) {
            random_bytes(s->id.b, sizeof s->id.b);
            e = write_format(s, m);
        } else {
            *old = e == OK && version < STORE_FORMAT_VERSION;
        }
    }
    static const char *const dirs[] = {"db", "wal"};
    for (size_t i = 0; i < 2 && e == OK; i++) {
        char path[PATH_MAX];
        e = path_in(s, dirs[i], path, m);
        if (e == OK) {
            e = make_dir(path, m);
        }
    }
    if (e == OK) {
        e = rocks_open_writer(&s->rocks, s, m);
    }
    return e == OK ? check_rows(s, old, m) : e;
}

static enum err open_tail(struct store *s, struct errmsg *m)
{
    char path[PATH_MAX];
    enum err e = path_in(s, "tail", path, m);
    if (e == OK) {
        e = ring_open_writer(&s->ring, path, s->o.tail_bytes, m);
    }
    if (e != OK) {
        return e;
    }
    /* Frames of an earlier life may be of batches that recovery did not find. And the pages that
     * the ring touched when it was opened are in the page cache: they need not weigh on us before
     * use. */
    ring_reset(&s->ring);
    (void)madvise(s->ring.frames, s->ring.bytes, MADV_DONTNEED); /* only costs memory if refused */
    return OK;
}

static enum err writer_open(struct store *s, struct errmsg *m)
{
    bool old = false;
    enum err e = open_files(s, &old, m);
    const struct store_catalog *c = NULL;
    struct page *found = NULL, *page = NULL, *before = NULL;
    if (e == OK) {
        e = catalog_load(s->rocks, s->dir, &c, &s->next_uid, m);
    }
    if (e != OK) {
        return e;
    }
    catalog_swap(s, c);
    if (parts_reserve(s, s->next_uid) != OK) {
        return err_set(m, ERR_NOMEM, "store %s: out of memory", s->dir);
    }
    catalog_attach(s);
    e = recover(s, s->rocks, c, s->next_uid, &found, m);
    if (e == OK) {
        e = open_tail(s, m);
    }
    if (e == OK) {
        e = page_open_writer(&page, s->dir, &s->id, m);
    }
    if (e == OK && old) {
        before = page;
        page = NULL;
        e = upgrade_format(s, m);
        e = e == OK ? page_open_writer(&page, s->dir, &s->id, m) : e;
    }
    if (e == OK) {
        atomic_store(&s->page, page);
        atomic_store(&s->view, page);
        e = recover_publish(s, page, before ? before : page, found, m);
    }
    page_close(before);
    page_close(found);
    if (e == OK && s->active.count > 0) {
        e = segment_switch(s, clock_wall_ms(), m); /* so no two memtables share a segment */
    }
    if (e == OK) {
        e = sync_start(s, m);
    }
    if (e == OK) {
        e = cleaner_start(s, m);
    }
    s->opened = e == OK;
    return e;
}

enum err store_open(struct store **out, const struct store_options *o, struct errmsg *m)
{
    int64_t began_us = clock_mono_us();
    *out = NULL;
    if (!o->dir || !*o->dir || (o->role == STORE_FOLLOWER && !o->follower_dir)) {
        return err_set(m, ERR_INVALID, "a store needs a directory, and a follower one of its own");
    }
    struct store *s = calloc(1, sizeof *s);
    if (!s) {
        return err_set(m, ERR_NOMEM, "store %s: out of memory", o->dir);
    }
    s->o = *o;
    s->lock_fd = -1;
    s->ring.fd = -1;
    s->segment_since_ms = -1;
    s->dir = strdup(o->dir);
    s->follower_dir = strdup(o->follower_dir ? o->follower_dir : "");
    s->catalog = catalog_empty();
    s->tail = tail_new();
    pthread_mutex_init(&s->lock, NULL);
    sync_init(s);
    s->batch = rocksdb_writebatch_create();
    enum err e;
    if (!s->dir || !s->follower_dir || !s->catalog || !s->tail) {
        e = err_set(m, ERR_NOMEM, "store %s: out of memory", o->dir);
    } else {
        e = o->role == STORE_WRITER ? make_dir(s->dir, m) : OK;
    }
    if (e == OK) {
        set_defaults(s); /* they depend on the disk */
        e = o->role == STORE_WRITER ? writer_open(s, m) : follower_open(s, m);
    }
    if (e != OK) {
        store_close(s);
        return e;
    }
    struct page_header *h = atomic_load(&s->page)->h;
    const struct store_catalog *c = store_catalog_ref(s);
    log_info("store opened dir=%s role=%s topics=%zu segments=%u took_ms=%lld", s->dir,
             o->role == STORE_WRITER ? "writer" : "follower", c->count,
             atomic_load(&h->segment_now) - atomic_load(&h->segment_low) + 1,
             (long long)((clock_mono_us() - began_us) / 1000));
    store_catalog_unref(s, c);
    *out = s;
    return OK;
}

/* --- close ------------------------------------------------------------------------------------ */

enum err store_in_place(struct store *s, struct errmsg *m)
{
    if (page_is_current(atomic_load(&s->page), s->dir)) {
        return OK;
    }
    struct errmsg why;
    (void)err_set(&why, ERR_IO, "store %s: the directory was removed or replaced", s->dir);
    store_broken(s, &why);
    return err_set(m, ERR_IO, "%s", why.text);
}

/* A last sync; then the page says that there is nothing to doubt. */
static void writer_finish(struct store *s)
{
    struct page *page = atomic_load(&s->page);
    struct errmsg m;
    if (store_in_place(s, NULL) != OK || store_state(s) != STORE_OK) {
        return;
    }
    if (sync_wal(s, &m) != OK) {
        log_error("store not synced at close dir=%s why=\"%s\"", s->dir, m.text);
        return;
    }
    for (uint32_t uid = 0; uid < s->next_uid; uid++) {
        struct page_entry *e = &page->entries[uid];
        atomic_store(&e->durable, atomic_load(&e->end));
    }
    atomic_store(&page->h->clean, 1);
    atomic_store(&page->h->pid, 0);
}

void store_close(struct store *s)
{
    if (!s) {
        return;
    }
    follower_close(s);
    cleaner_stop(s);
    sync_stop(s);
    struct page *page = atomic_load(&s->page);
    if (s->o.role == STORE_WRITER && s->rocks) {
        if (page && s->opened) {
            tick_last(s);
            writer_finish(s);
        }
        cleaner_free(s);
        /* Slices may keep the database beyond us: nothing of it may call back into us. */
        rocksdb_cancel_all_background_work(s->rocks->db, 1);
    }
    if (s->batch) {
        rocksdb_writebatch_destroy(s->batch);
    }
    rocks_unref(s->rocks);
    tail_free(s->tail);
    ring_close(&s->ring);
    struct page *view = atomic_load(&s->view);
    if (view != page) {
        page_close(view);
    }
    page_close(page);
    while (s->retired) {
        struct page *next = s->retired->retired;
        page_close(s->retired);
        s->retired = next;
    }
    if (s->catalog) {
        store_catalog_unref(s, s->catalog);
    }
    for (size_t i = 0; i < PART_CHUNKS; i++) {
        free(atomic_load(&s->chunks[i]));
    }
    free(s->touched.uids);
    free(s->active.uids);
    free(s->segments);
    free(s->pending_batches);
    if (s->lock_fd >= 0) {
        close(s->lock_fd); /* and with it the lock: last, when nothing writes any more */
    }
    pthread_mutex_destroy(&s->lock);
    sync_fini(s);
    free(s->dir);
    free(s->follower_dir);
    free(s);
}

/* --- health ----------------------------------------------------------------------------------- */

static uint64_t directory_bytes(const struct store *s, const char *name)
{
    char path[PATH_MAX];
    if (path_in(s, name, path, NULL) != OK) {
        return 0;
    }
    DIR *d = opendir(path);
    uint64_t sum = 0;
    struct stat st;
    for (struct dirent *f = d ? readdir(d) : NULL; f; f = readdir(d)) {
        if (fstatat(dirfd(d), f->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode)) {
            sum += (uint64_t)st.st_size;
        }
    }
    if (d) {
        closedir(d);
    }
    return sum;
}

void store_get_stats(struct store *s, struct store_stats *st)
{
    struct page_header *h = atomic_load(&s->page)->h;
    *st = (struct store_stats){
        .bytes = directory_bytes(s, "wal"),
        .segments = atomic_load(&h->segment_now) - atomic_load(&h->segment_low) + 1,
        .holes = atomic_load(&s->holes),
        .reopens = atomic_load(&s->reopens),
        .recovered_loss = atomic_load(&s->recovered_loss),
    };
    struct rocks *r = store_rocks(s);
    for (int i = 0; r && i < CF_COUNT; i++) {
        uint64_t n = 0;
        if (rocksdb_property_int_cf(r->db, r->cf[i], "rocksdb.live-sst-files-size", &n) == 0) {
            st->bytes += n;
        }
    }
    rocks_unref(r);
}
