/* The janitor: holds a descriptor of each file of the database for some seconds after it was
 * unlinked.
 *
 * The last close of an unlinked file frees its blocks, and that takes the file system tens of
 * milliseconds. When the writer drops a segment, the last one to hold it is the follower's
 * RocksDB, which would pay inside a catch-up. So a thread of no importance holds every file too,
 * hears of the unlink (inotify), and closes later: then the last close is its own. */
#include "shared/store/store_int.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uthash.h>

#include "shared/base/clock.h"
#include "shared/base/log.h"

#define HOLD_MS            3000
#define FILES_MAX          16384 /* held at once; what is beyond is closed by who closes it */
#define NAME_BYTES_MAX     32
#define EVENTS_BYTES       4096

struct held {
    char name[NAME_BYTES_MAX]; /* "000123.sst": the two directories have no name in common */
    int fd;
    int64_t expires_us; /* 0: still linked */
    struct held *next;  /* of those that expire, in order */
    UT_hash_handle hh;
};

struct janitor {
    pthread_t thread;
    int notify_fd;
    int stop_fd;
    char dirs[2][PATH_MAX];
    int watches[2];
    struct held *files;
    struct held *first, *last;
};

static bool wanted(const char *name)
{
    size_t n = strlen(name);
    return n > 4 && n < NAME_BYTES_MAX &&
           (strcmp(name + n - 4, ".sst") == 0 || strcmp(name + n - 4, ".log") == 0);
}

static void hold(struct janitor *j, const char *dir, const char *name)
{
    struct held *h;
    HASH_FIND_STR(j->files, name, h);
    if (h || !wanted(name) || HASH_COUNT(j->files) >= FILES_MAX) {
        return;
    }
    char path[PATH_MAX + NAME_BYTES_MAX];
    (void)snprintf(path, sizeof path, "%s/%s", dir, name); /* both are shorter than their room */
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    h = fd >= 0 ? calloc(1, sizeof *h) : NULL;
    if (!h) {
        if (fd >= 0) {
            close(fd);
        }
        return; /* gone already, or no descriptor to spare */
    }
    (void)snprintf(h->name, sizeof h->name, "%s", name); /* wanted: it fits */
    h->fd = fd;
    HASH_ADD_STR(j->files, name, h);
}

static void unlinked(struct janitor *j, const char *name)
{
    struct held *h;
    HASH_FIND_STR(j->files, name, h);
    if (!h || h->expires_us) {
        return;
    }
    h->expires_us = clock_mono_us() + HOLD_MS * 1000;
    if (j->last) {
        j->last->next = h;
    } else {
        j->first = h;
    }
    j->last = h;
}

static void expire(struct janitor *j, int64_t now_us)
{
    while (j->first && j->first->expires_us <= now_us) {
        struct held *h = j->first;
        j->first = h->next;
        j->last = j->first ? j->last : NULL;
        HASH_DEL(j->files, h);
        close(h->fd);
        free(h);
    }
}

static void scan_dir(struct janitor *j, const char *dir)
{
    DIR *d = opendir(dir);
    for (struct dirent *f = d ? readdir(d) : NULL; f; f = readdir(d)) {
        hold(j, dir, f->d_name);
    }
    if (d) {
        closedir(d);
    }
}

/* Events were lost: what has no name any more was unlinked. */
static void look_again(struct janitor *j)
{
    struct held *h, *tmp;
    HASH_ITER (hh, j->files, h, tmp) {
        struct stat st;
        if (fstat(h->fd, &st) == 0 && st.st_nlink == 0) {
            unlinked(j, h->name);
        }
    }
    scan_dir(j, j->dirs[0]);
    scan_dir(j, j->dirs[1]);
}

static void read_events(struct janitor *j)
{
    _Alignas(struct inotify_event) char events[EVENTS_BYTES];
    ssize_t n = read(j->notify_fd, events, sizeof events);
    for (ssize_t at = 0; at < n;) {
        const struct inotify_event *e = (const struct inotify_event *)(void *)(events + at);
        if (e->mask & IN_Q_OVERFLOW) {
            look_again(j);
        } else if (e->len > 0 && e->mask & IN_CREATE) {
            hold(j, j->dirs[e->wd == j->watches[1]], e->name);
        } else if (e->len > 0 && e->mask & IN_DELETE) {
            unlinked(j, e->name);
        }
        at += (ssize_t)(sizeof *e + e->len);
    }
}

static void *janitor_main(void *arg)
{
    struct janitor *j = arg;
    scan_dir(j, j->dirs[0]);
    scan_dir(j, j->dirs[1]);
    for (;;) {
        struct pollfd p[2] = {{.fd = j->notify_fd, .events = POLLIN},
                              {.fd = j->stop_fd, .events = POLLIN}};
        int64_t now_us = clock_mono_us();
        expire(j, now_us);
        int timeout = j->first ? (int)((j->first->expires_us - now_us) / 1000) + 1 : -1;
        if (poll(p, 2, timeout) < 0 && errno != EINTR) {
            return NULL;
        }
        if (p[1].revents) {
            return NULL;
        }
        if (p[0].revents) {
            read_events(j);
        }
    }
}

static void janitor_free(struct janitor *j)
{
    struct held *h, *tmp;
    HASH_ITER (hh, j->files, h, tmp) {
        HASH_DEL(j->files, h);
        close(h->fd);
        free(h);
    }
    if (j->notify_fd >= 0) {
        close(j->notify_fd);
    }
    if (j->stop_fd >= 0) {
        close(j->stop_fd);
    }
    free(j);
}

struct janitor *janitor_start(const char *dir)
{
    struct janitor *j = calloc(1, sizeof *j);
    if (!j) {
        return NULL;
    }
    (void)snprintf(j->dirs[0], PATH_MAX, "%s/db", dir); /* RocksDB was opened by these names */
    (void)snprintf(j->dirs[1], PATH_MAX, "%s/wal", dir);
    j->stop_fd = eventfd(0, EFD_CLOEXEC);
    j->notify_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    bool ready = j->stop_fd >= 0 && j->notify_fd >= 0;
    for (int i = 0; i < 2 && ready; i++) {
        j->watches[i] = inotify_add_watch(j->notify_fd, j->dirs[i], IN_CREATE | IN_DELETE);
        ready = j->watches[i] >= 0;
    }
    if (!ready || pthread_create(&j->thread, NULL, janitor_main, j) != 0) {
        log_warn("store has no janitor, reads may stall when segments go dir=%s", dir);
        janitor_free(j);
        return NULL;
    }
    return j;
}

void janitor_stop(struct janitor *j)
{
    if (!j) {
        return;
    }
    uint64_t one = 1;
    while (write(j->stop_fd, &one, sizeof one) < 0 && errno == EINTR) {
    }
    pthread_join(j->thread, NULL);
    janitor_free(j);
}
