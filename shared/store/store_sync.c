/* Syncing the WAL: what is published becomes durable, some milliseconds later.
 *
 * Each interval in which something was committed the thread takes the ends of the partitions that
 * moved, syncs the files of the WAL, and publishes those ends as durable. While nothing is
 * committed it sleeps on a condition. Who cannot wait for that syncs by itself (store_sync): one
 * call for all that is committed.
 *
 * It opens the files itself and calls fdatasync on them, beside RocksDB: its own call for that runs
 * into an assertion when a write has just failed, and it would take the lock of the log. RocksDB
 * hands every record to the kernel at once (manual_wal_flush is off), and begins a new file only
 * between two writes, so: a file that existed when we listed them holds all that was committed
 * before, and a file that is not the newest is complete. Files that go were flushed to tables,
 * which RocksDB syncs. */
#include "shared/store/store_int.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "shared/base/log.h"

/* --- the files of the WAL --------------------------------------------------------------------- */

static struct wal_file *wal_find(struct store *s, uint64_t number)
{
    for (size_t i = 0; i < s->wal_file_count; i++) {
        if (s->wal_files[i].number == number) {
            return &s->wal_files[i];
        }
    }
    return NULL;
}

/* ERR_FULL: more files than we follow, which is as many as RocksDB has never kept. */
static enum err wal_open(struct store *s, int dir_fd, const char *name, uint64_t number)
{
    int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return errno == ENOENT ? OK : ERR_IO; /* gone between listing and opening: flushed */
    }
    if (s->wal_file_count == WAL_FILES_MAX) {
        close(fd);
        return ERR_FULL;
    }
    s->wal_files[s->wal_file_count++] = (struct wal_file){.number = number, .fd = fd};
    return fsync(dir_fd) == 0 ? OK : ERR_IO;
}

/* Brings the list up to date; *newest: the file that is being written. */
static enum err wal_list(struct store *s, DIR *d, uint64_t *newest)
{
    enum err e = OK;
    for (size_t i = 0; i < s->wal_file_count; i++) {
        s->wal_files[i].seen = false;
    }
    *newest = 0;
    for (struct dirent *f = readdir(d); f && e == OK; f = readdir(d)) {
        char *end;
        uint64_t number = strtoull(f->d_name, &end, 10);
        if (end == f->d_name || strcmp(end, ".log") != 0) {
            continue;
        }
        if (!wal_find(s, number)) {
            e = wal_open(s, dirfd(d), f->d_name, number);
        }
        struct wal_file *w = wal_find(s, number);
        if (w) {
            w->seen = true;
            *newest = number > *newest ? number : *newest;
        }
    }
    for (size_t i = 0; i < s->wal_file_count;) {
        if (s->wal_files[i].seen) {
            i++;
            continue;
        }
        close(s->wal_files[i].fd);
        s->wal_files[i] = s->wal_files[--s->wal_file_count];
    }
    return e;
}

enum err sync_wal(struct store *s, struct errmsg *m)
{
    uint64_t newest = 0;
    pthread_mutex_lock(&s->wal_lock);
    int fd = openat(s->rocks->dir_fd, "wal", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    enum err e = d ? wal_list(s, d, &newest) : ERR_IO;
    for (size_t i = 0; i < s->wal_file_count && e == OK; i++) {
        struct wal_file *w = &s->wal_files[i];
        if (!w->complete) {
            e = fdatasync(w->fd) == 0 ? OK : ERR_IO;
            w->complete = w->number < newest;
        }
    }
    if (e != OK) {
        e = err_set(m, e, "store %s: cannot sync its WAL: %s", s->dir, strerror(errno));
    }
    if (d) {
        closedir(d);
    } else if (fd >= 0) {
        close(fd);
    }
    pthread_mutex_unlock(&s->wal_lock);
    return e;
}

enum err store_sync(struct store *s, struct errmsg *m)
{
    struct errmsg why;
    enum err e = sync_wal(s, &why);
    if (e != OK) {
        store_broken(s, &why);
        return err_set(m, e, "%s", why.text);
    }
    return OK;
}

/* --- the thread ------------------------------------------------------------------------------- */

/* Publishes the ends as of before the sync. Called without the lock. */
static void sync_once(struct store *s, const struct uid_list *l, int64_t *ends)
{
    struct page *page = atomic_load(&s->page);
    for (size_t i = 0; i < l->count; i++) {
        ends[i] = atomic_load_explicit(&page->entries[l->uids[i]].end, memory_order_acquire);
    }
    if (store_sync(s, NULL) != OK) {
        return;
    }
    for (size_t i = 0; i < l->count; i++) {
        atomic_store_explicit(&page->entries[l->uids[i]].durable, ends[i], memory_order_release);
    }
    atomic_fetch_add_explicit(&page->h->durable_sequence, 1, memory_order_release);
}

static void *sync_main(void *arg)
{
    struct store *s = arg;
    struct uid_list taken = {0};
    int64_t *ends = NULL;
    size_t ends_cap = 0;
    pthread_mutex_lock(&s->sync_lock);
    while (!s->sync_stop) {
        if (s->unsynced.count == 0) {
            pthread_cond_wait(&s->sync_wake, &s->sync_lock);
            continue;
        }
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += (long)s->o.flush_interval_ms * 1000000;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        while (!s->sync_stop &&
               pthread_cond_timedwait(&s->sync_wake, &s->sync_lock, &until) == 0) {
        }
        if (s->unsynced.count > ends_cap) {
            int64_t *grown = realloc(ends, s->unsynced.cap * sizeof *ends);
            if (!grown) {
                continue; /* again after the next interval */
            }
            ends = grown;
            ends_cap = s->unsynced.cap;
        }
        struct uid_list swapped = s->unsynced;
        s->unsynced = taken;
        s->unsynced.count = 0;
        taken = swapped;
        for (size_t i = 0; i < taken.count; i++) {
            part_get(s, taken.uids[i])->unsynced = false;
        }
        pthread_mutex_unlock(&s->sync_lock);
        sync_once(s, &taken, ends);
        pthread_mutex_lock(&s->sync_lock);
    }
    pthread_mutex_unlock(&s->sync_lock);
    free(taken.uids);
    free(ends);
    return NULL;
}

void sync_request(struct store *s, const struct uid_list *l)
{
    pthread_mutex_lock(&s->sync_lock);
    bool idle = s->unsynced.count == 0;
    if (uid_list_reserve(&s->unsynced, l->count)) { /* else: durable with a later commit */
        for (size_t i = 0; i < l->count; i++) {
            struct part *p = part_get(s, l->uids[i]);
            if (!p->unsynced) {
                p->unsynced = true;
                s->unsynced.uids[s->unsynced.count++] = l->uids[i];
            }
        }
    }
    if (idle && s->unsynced.count > 0) {
        pthread_cond_signal(&s->sync_wake);
    }
    pthread_mutex_unlock(&s->sync_lock);
}

enum err sync_start(struct store *s, struct errmsg *m)
{
    int error = pthread_create(&s->sync_thread, NULL, sync_main, s);
    s->sync_running = error == 0;
    return error == 0
               ? OK
               : err_set(m, ERR_IO, "no thread for store %s: %s", s->dir, strerror(error));
}

void sync_stop(struct store *s)
{
    if (!s->sync_running) {
        return;
    }
    pthread_mutex_lock(&s->sync_lock);
    s->sync_stop = true;
    pthread_cond_signal(&s->sync_wake);
    pthread_mutex_unlock(&s->sync_lock);
    pthread_join(s->sync_thread, NULL);
    s->sync_running = false;
}

void sync_init(struct store *s)
{
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&s->sync_lock, NULL);
    pthread_mutex_init(&s->wal_lock, NULL);
    pthread_cond_init(&s->sync_wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

void sync_fini(struct store *s)
{
    for (size_t i = 0; i < s->wal_file_count; i++) {
        close(s->wal_files[i].fd);
    }
    free(s->unsynced.uids);
    pthread_mutex_destroy(&s->sync_lock);
    pthread_mutex_destroy(&s->wal_lock);
    pthread_cond_destroy(&s->sync_wake);
}
