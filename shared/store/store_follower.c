/* The follower: another process's store, read while it is written.
 *
 *   page        ends, starts, epochs, the sequence: at once, shared memory
 *   tail ring   the newest batches: at once, shared memory
 *   RocksDB     everything, opened as a secondary: as of the last catch-up
 *
 * A catch-up replays the WAL, a millisecond and more for each megabyte of it. Readers of the tail
 * do not need it, so it happens when a read finds less than was published (on the reader's own
 * thread: those may block) and otherwise now and then, so that the files and memtables of old
 * states go; what was flushed in between is never replayed. A thread waits on the page's futex;
 * while nothing is written it sleeps.
 *
 *                     sequence moved, read wants more
 *      ┌─────────┐ ──────────────────────────────────▶ ┌──────────┐
 *      │ waiting │ ◀────────────────────────────────── │ catch up │
 *      └─────────┘            caught up                └────┬─────┘
 *           ▲                                               │ error; OK, still behind; read error
 *           │       new handle in place           ┌─────────▼──────────┐
 *           └──────────────────────────────────── │ reopen, backing off │
 *                                                 └────────────────────┘
 *
 * Errors of a secondary are sticky, and some of them look like success, so the remedy for
 * everything is to open it again beside the old handle, which serves until the new one is there,
 * and closes when its last slice is freed.
 *
 * A directory that was removed and made again is noticed by the inode of its page before every
 * catch-up, because catching up with another database under the same name makes RocksDB abort. Then
 * all is opened again, and what was known of the old store ends with it.
 *
 * The page of an earlier boot does not tell the truth: until a writer has opened the store again,
 * ends come from the database (recover), in a page of our own. */
#include "shared/store/store_int.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "shared/base/clock.h"
#include "shared/base/log.h"

#define CATCH_UP_MS      2000 /* at most this often without a reader who asks */
#define STEP_PAUSE_MS    20   /* between two looks at a page that moves all the time */
#define IDLE_MS          1000 /* a look at the directory while nothing moves */
#define HEAL_TRIES       9
#define HEAL_REOPEN_TRY  6    /* caught up so often and still behind: the handle is to blame */
#define REOPEN_MS_MIN    50
#define REOPEN_MS_MAX    2000
#define CATALOG_LATE_MS  1000 /* version not visible although caught up: reopen */

struct follower {
    pthread_mutex_t lock; /* of all below; held while catching up and reopening */
    pthread_t thread;
    bool running;
    _Atomic bool stop;
    uint64_t life;         /* of the page when the view was chosen */
    _Atomic uint32_t sequence; /* of the page before the last catch-up */
    int64_t caught_up_ms;
    int64_t catalog_late_ms; /* since when; 0: it is not */
    int64_t reopen_at_ms;  /* not before */
    int reopen_pause_ms;
    struct log_limit limit;
    struct janitor *janitor;
};

static void pause_ms(int ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
    nanosleep(&t, NULL);
}

/* --- what readers see ------------------------------------------------------------------------- */

static void swap_rocks(struct store *s, struct rocks *r)
{
    pthread_mutex_lock(&s->lock);
    struct rocks *old = s->rocks;
    s->rocks = r;
    pthread_mutex_unlock(&s->lock);
    rocks_unref(old);
}

/* Readers may still look at an old page: it stays until the store closes. One for each time that a
 * directory was made anew or a machine booted, so they are few. */
static void retire_page(struct store *s, struct page *p)
{
    if (p && p != atomic_load(&s->page) && p != atomic_load(&s->view)) {
        p->retired = s->retired;
        s->retired = p;
    }
}

/* Was it filled since the machine booted? 0: it is being filled. */
static bool page_is_true(const struct store *s, const struct page *page)
{
    uint64_t boot = atomic_load(&page->h->boot);
    return boot == page_boot_now() || (boot != 0 && lock_page_held(s));
}

/* Chooses where offsets come from, as of this life of the page. */
static enum err choose_view(struct store *s, struct page *page, struct rocks *r,
                            const struct store_catalog *c, uint32_t next_uid, struct page **view,
                            struct errmsg *m)
{
    if (page_is_true(s, page)) {
        *view = page;
        return OK;
    }
    log_info("store page is of an earlier boot, ends come from the database dir=%s", s->dir);
    return recover(s, r, c, next_uid, view, m);
}

/* Everything of the store as it is now on disk; nothing is changed when that fails. */
static enum err attach(struct store *s, struct errmsg *m)
{
    struct page *page = NULL, *view = NULL;
    struct rocks *r = NULL;
    const struct store_catalog *c = NULL;
    uint32_t next_uid = 0;
    unsigned version;
    const enum err format = format_read(s, &version, m);
    enum err e = format;
    if (e == OK) {
        e = page_open_reader(&page, s->dir, m);
    }
    bool of_another = e == OK && memcmp(&page->h->store_id, &s->id, sizeof s->id) != 0;
    if (format == OK && (e == ERR_NOT_FOUND || of_another)) { /* or made anew, or upgraded */
        e = err_set(m, ERR_AGAIN, "the store in %s is still being made", s->dir);
    }
    uint64_t life = e == OK ? atomic_load(&page->h->life) : 0;
    if (e == OK) {
        e = rocks_open_follower(&r, s, m);
    }
    if (e == OK) {
        e = catalog_load(r, s->dir, &c, &next_uid, m);
    }
    if (e == OK) {
        e = choose_view(s, page, r, c, next_uid, &view, m);
    }
    if (e != OK) {
        if (c) {
            store_catalog_unref(s, c);
        }
        rocks_unref(r);
        page_close(page);
        return e;
    }
    s->follower->life = life;
    atomic_store(&s->follower->sequence, atomic_load(&page->h->sequence) - 1);
    swap_rocks(s, r);
    struct page *old_page = atomic_exchange(&s->page, page);
    struct page *old_view = atomic_exchange(&s->view, view);
    retire_page(s, old_page);
    if (old_view != old_page) {
        retire_page(s, old_view);
    }
    catalog_swap(s, c); /* last: who sees the new topics finds their ends */
    janitor_stop(s->follower->janitor);
    s->follower->janitor = janitor_start(s->dir);
    return OK;
}

/* --- catching up ------------------------------------------------------------------------------ */

/* A fresh handle beside the old one. Called with the lock. */
static void reopen(struct store *s, const char *why)
{
    struct follower *f = s->follower;
    int64_t now_ms = clock_mono_ms();
    if (now_ms < f->reopen_at_ms) {
        return;
    }
    struct errmsg m;
    struct rocks *r = NULL;
    bool same = page_is_current(atomic_load(&s->page), s->dir);
    enum err e = same ? rocks_open_follower(&r, s, &m) : attach(s, &m);
    f->reopen_pause_ms = f->reopen_pause_ms ? f->reopen_pause_ms * 2 : REOPEN_MS_MIN;
    f->reopen_pause_ms = f->reopen_pause_ms < REOPEN_MS_MAX ? f->reopen_pause_ms : REOPEN_MS_MAX;
    f->reopen_at_ms = clock_mono_ms() + f->reopen_pause_ms;
    if (e != OK) {
        if (e != ERR_NOT_FOUND && e != ERR_AGAIN && log_limit_pass(&f->limit, 5000, NULL)) {
            log_warn("store cannot be reopened dir=%s why=\"%s\"", s->dir, m.text);
        }
        return;
    }
    if (r) {
        swap_rocks(s, r);
    }
    atomic_fetch_add(&s->reopens, 1);
    log_info("store reopened dir=%s reason=\"%s\"", s->dir, why);
    store_bump(s);
}

/* Called with the lock. False: the handle is no good. */
static bool catch_up(struct store *s)
{
    struct follower *f = s->follower;
    struct page *page = atomic_load(&s->page);
    if (!page_is_current(page, s->dir)) {
        reopen(s, "the directory was made anew");
        return false;
    }
    uint32_t sequence = atomic_load_explicit(&page->h->sequence, memory_order_acquire);
    char *text = NULL;
    rocksdb_try_catch_up_with_primary(s->rocks->db, &text);
    f->caught_up_ms = clock_mono_ms();
    if (text) {
        struct errmsg m;
        (void)rocks_failed(text, "catch up", s->dir, &m); /* the sentence is what we need */
        if (log_limit_pass(&f->limit, 5000, NULL)) {
            log_warn("store cannot catch up dir=%s why=\"%s\"", s->dir, m.text);
        }
        reopen(s, "catching up failed");
        return false;
    }
    atomic_store(&f->sequence, sequence);
    if (clock_mono_ms() > f->reopen_at_ms + REOPEN_MS_MAX) {
        f->reopen_pause_ms = 0; /* it has been well for a while */
    }
    return true;
}

/* The page says that there is a newer catalog. */
static void load_catalog(struct store *s)
{
    struct follower *f = s->follower;
    uint64_t want = atomic_load(&atomic_load(&s->page)->h->catalog_version);
    const struct store_catalog *c;
    uint32_t next_uid;
    struct errmsg m;
    if (s->catalog->version == want || !catch_up(s)) {
        f->catalog_late_ms = s->catalog->version == want ? 0 : f->catalog_late_ms;
        return;
    }
    enum err e = catalog_load(s->rocks, s->dir, &c, &next_uid, &m);
    if (e != OK) {
        if (log_limit_pass(&f->limit, 5000, NULL)) {
            log_warn("store catalog cannot be read dir=%s why=\"%s\"", s->dir, m.text);
        }
        reopen(s, "the catalog cannot be read");
        return;
    }
    bool late = c->version < want;
    if (c->version != s->catalog->version) {
        catalog_swap(s, c);
        store_bump(s);
    } else {
        store_catalog_unref(s, c);
    }
    int64_t now_ms = clock_mono_ms();
    f->catalog_late_ms = late ? f->catalog_late_ms ? f->catalog_late_ms : now_ms : 0;
    if (late && now_ms - f->catalog_late_ms > CATALOG_LATE_MS) {
        f->catalog_late_ms = now_ms;
        reopen(s, "caught up and still behind");
    }
}

/* A writer has opened the store since the view was chosen. */
static void look_at_life(struct store *s)
{
    struct follower *f = s->follower;
    struct page *page = atomic_load(&s->page);
    uint64_t life = atomic_load(&page->h->life);
    if (life == f->life || !page_is_true(s, page)) {
        return;
    }
    f->life = life;
    struct page *old = atomic_exchange(&s->view, page);
    retire_page(s, old);
    if (old != page) {
        store_bump(s);
    }
}

static void step(struct store *s)
{
    struct follower *f = s->follower;
    pthread_mutex_lock(&f->lock);
    struct page *page = atomic_load(&s->page);
    if (!page_is_current(page, s->dir)) {
        reopen(s, "the directory was made anew");
    } else {
        look_at_life(s);
        load_catalog(s);
        page = atomic_load(&s->page);
        uint32_t sequence = atomic_load_explicit(&page->h->sequence, memory_order_relaxed);
        if (sequence != atomic_load(&f->sequence) &&
            clock_mono_ms() - f->caught_up_ms >= CATCH_UP_MS) {
            (void)catch_up(s); /* it has said why not */
        }
    }
    pthread_mutex_unlock(&f->lock);
}

static void *follower_main(void *arg)
{
    struct store *s = arg;
    struct follower *f = s->follower;
    for (;;) {
        uint32_t seen = store_sequence(s);
        if (atomic_load(&f->stop)) {
            return NULL;
        }
        step(s);
        pause_ms(STEP_PAUSE_MS);
        /* Something is still to be caught up with: not before its time, but then without being
         * woken. */
        uint32_t sequence = atomic_load(&atomic_load(&s->page)->h->sequence);
        bool behind = sequence != atomic_load(&f->sequence);
        store_wait(s, seen, behind ? CATCH_UP_MS / 2 : IDLE_MS);
    }
}

bool follower_heal(struct store *s, int attempt, enum err e)
{
    struct follower *f = s->follower;
    if (attempt >= HEAL_TRIES || e == ERR_NOMEM || atomic_load(&f->stop)) {
        return false;
    }
    if (attempt > 1) {
        pause_ms(1 << (attempt - 2));
    }
    pthread_mutex_lock(&f->lock);
    if (e != ERR_AGAIN) {
        reopen(s, "a read failed");
    } else if (catch_up(s) && attempt >= HEAL_REOPEN_TRY) {
        reopen(s, "caught up and still behind");
    }
    pthread_mutex_unlock(&f->lock);
    return true;
}

/* --- open, close ------------------------------------------------------------------------------ */

enum err follower_open(struct store *s, struct errmsg *m)
{
    struct follower *f = calloc(1, sizeof *f);
    if (!f) {
        return err_set(m, ERR_NOMEM, "store %s: out of memory", s->dir);
    }
    pthread_mutex_init(&f->lock, NULL);
    s->follower = f;
    if (mkdir(s->follower_dir, 0750) != 0 && errno != EEXIST) {
        return err_set(m, errno == ENOSPC ? ERR_FULL : ERR_IO, "cannot make %s: %s",
                       s->follower_dir, strerror(errno));
    }
    enum err e = attach(s, m);
    if (e != OK) {
        return e;
    }
    int error = pthread_create(&f->thread, NULL, follower_main, s);
    f->running = error == 0;
    return error == 0 ? OK
                      : err_set(m, ERR_IO, "no thread for store %s: %s", s->dir, strerror(error));
}

void follower_close(struct store *s)
{
    struct follower *f = s->follower;
    if (!f) {
        return;
    }
    if (f->running) {
        atomic_store(&f->stop, true);
        store_bump(s);
        pthread_join(f->thread, NULL);
    }
    janitor_stop(f->janitor);
    pthread_mutex_destroy(&f->lock);
    free(f);
    s->follower = NULL;
}
