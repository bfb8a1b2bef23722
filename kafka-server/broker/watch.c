/* Waiting without polling.
 *
 *      writer: publish ends, bump the sequence, futex wake
 *                     │
 *      watching thread: store_wait(sequence seen at the last look) ─▶ wake() pokes the loop
 *                     │                                                     │
 *                     └──────────── armed again ◀── watches_check: compare ends, call waiters
 *
 * No wake-up is lost: the sequence that a thread waits on was read before the ends were compared,
 * and watch_add looks at the end once more after it has armed the thread. A thread that was not
 * poked for WATCH_RECHECK_MS pokes all the same, so that a store that was replaced under us (the
 * broker's directory restored from a backup, say) is noticed.
 *
 * A waiter is called once and then is no longer waiting. Watches are compared in one flat array;
 * a poke costs a few nanoseconds for each watched partition, and the waiters of the others
 * nothing. */
#include "kafka-server/broker/watch.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include <uthash.h>
#include <utlist.h>

#define WATCH_RECHECK_MS 1000

struct watch_key {
    struct store *store;
    uint64_t uid;
};

struct watch {
    struct watch_key key;
    int64_t seen; /* end of the partition that all its waiters know */
    struct waiter *waiters;
    size_t index; /* in watches.flat */
    UT_hash_handle hh;
};

struct watch_store {
    struct watches *owner;
    struct store *store;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t more;
    bool armed;        /* under lock: to wait for a sequence that is not `sequence` */
    bool stop;         /* under lock */
    uint32_t sequence; /* under lock */
};

struct watches {
    void (*wake)(void *arg);
    void *wake_arg;
    struct watch_store *stores[WATCH_STORES_MAX];
    struct watch *by_key;
    struct watch **flat;
    size_t count, room;
    struct watch fired; /* waiters about to be called */
};

struct watches *watches_new(void (*wake)(void *arg), void *arg)
{
    struct watches *ws = calloc(1, sizeof *ws);
    if (ws != NULL) {
        ws->wake = wake;
        ws->wake_arg = arg;
    }
    return ws;
}

void watches_free(struct watches *ws)
{
    if (ws == NULL) {
        return;
    }
    for (int i = 0; i < WATCH_STORES_MAX; i++) {
        if (ws->stores[i] != NULL) {
            watches_remove_store(ws, ws->stores[i]->store);
        }
    }
    free(ws->flat);
    free(ws);
}

static void *watching_main(void *arg)
{
    struct watch_store *s = arg;
    pthread_mutex_lock(&s->lock);
    for (;;) {
        while (!s->stop && !s->armed) {
            pthread_cond_wait(&s->more, &s->lock);
        }
        if (s->stop) {
            break;
        }
        uint32_t sequence = s->sequence;
        pthread_mutex_unlock(&s->lock);
        store_wait(s->store, sequence, WATCH_RECHECK_MS);
        pthread_mutex_lock(&s->lock);
        s->armed = false;
        s->owner->wake(s->owner->wake_arg);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

static struct watch_store *find_store(const struct watches *ws, const struct store *s)
{
    for (int i = 0; i < WATCH_STORES_MAX; i++) {
        if (ws->stores[i] != NULL && ws->stores[i]->store == s) {
            return ws->stores[i];
        }
    }
    return NULL;
}

enum err watches_add_store(struct watches *ws, struct store *store)
{
    int free_slot = 0;
    while (free_slot < WATCH_STORES_MAX && ws->stores[free_slot] != NULL) {
        free_slot++;
    }
    struct watch_store *s = calloc(1, sizeof *s);
    if (s == NULL || free_slot == WATCH_STORES_MAX) {
        free(s);
        return ERR_NOMEM;
    }
    s->owner = ws;
    s->store = store;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->more, NULL);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int code = pthread_create(&s->thread, NULL, watching_main, s);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (code != 0) {
        pthread_cond_destroy(&s->more);
        pthread_mutex_destroy(&s->lock);
        free(s);
        return ERR_IO;
    }
    ws->stores[free_slot] = s;
    return OK;
}

static void watch_drop(struct watches *ws, struct watch *watch)
{
    struct watch *last = ws->flat[--ws->count];
    ws->flat[watch->index] = last;
    last->index = watch->index;
    HASH_DEL(ws->by_key, watch);
    free(watch);
}

/* Moves the waiters of a watch to the list of those who are called next. */
static void watch_fire(struct watches *ws, struct watch *watch)
{
    struct waiter *w;
    DL_FOREACH(watch->waiters, w)
    {
        w->watch = &ws->fired;
    }
    DL_CONCAT(ws->fired.waiters, watch->waiters);
    watch_drop(ws, watch);
}

static void call_fired(struct watches *ws)
{
    while (ws->fired.waiters != NULL) {
        struct waiter *w = ws->fired.waiters;
        DL_DELETE(ws->fired.waiters, w);
        w->watch = NULL;
        w->moved(w);
    }
}

void watches_remove_store(struct watches *ws, struct store *store)
{
    struct watch_store *s = find_store(ws, store);
    if (s == NULL) {
        return;
    }
    pthread_mutex_lock(&s->lock);
    s->stop = true;
    pthread_cond_signal(&s->more);
    pthread_mutex_unlock(&s->lock);
    store_wake(store);
    pthread_join(s->thread, NULL);
    for (int i = 0; i < WATCH_STORES_MAX; i++) {
        if (ws->stores[i] == s) {
            ws->stores[i] = NULL;
        }
    }
    pthread_cond_destroy(&s->more);
    pthread_mutex_destroy(&s->lock);
    free(s);
    for (size_t i = ws->count; i-- > 0;) {
        if (ws->flat[i]->key.store == store) {
            watch_fire(ws, ws->flat[i]);
        }
    }
    call_fired(ws);
}

/* Lets the thread wait for what comes after now, unless it waits already. */
static void arm(struct watch_store *s)
{
    uint32_t sequence = store_sequence(s->store);
    pthread_mutex_lock(&s->lock);
    if (!s->armed) {
        s->armed = true;
        s->sequence = sequence;
        pthread_cond_signal(&s->more);
    }
    pthread_mutex_unlock(&s->lock);
}

/* -1 for a partition that is gone: differs from every end. */
static int64_t end_now(struct store *s, uint64_t uid)
{
    struct store_offsets o;
    return store_offsets(s, (uint32_t)uid, &o) == OK ? o.end : -1;
}

static struct watch *watch_make(struct watches *ws, const struct watch_key *key)
{
    if (ws->count == ws->room) {
        size_t room = ws->room != 0 ? ws->room * 2 : 64;
        struct watch **flat = realloc(ws->flat, room * sizeof *flat);
        if (flat == NULL) {
            return NULL;
        }
        ws->flat = flat;
        ws->room = room;
    }
    struct watch *watch = calloc(1, sizeof *watch);
    if (watch == NULL) {
        return NULL;
    }
    watch->key = *key;
    watch->index = ws->count;
    ws->flat[ws->count++] = watch;
    HASH_ADD(hh, ws->by_key, key, sizeof watch->key, watch);
    return watch;
}

enum err watch_add(struct watches *ws, struct waiter *w, struct store *store, uint32_t uid,
                   int64_t seen)
{
    struct watch_store *s = find_store(ws, store);
    if (s == NULL) {
        return ERR_INVALID;
    }
    struct watch_key key = {store, uid};
    struct watch *watch = NULL;
    HASH_FIND(hh, ws->by_key, &key, sizeof key, watch);
    if (watch == NULL) {
        watch = watch_make(ws, &key);
        if (watch == NULL) {
            return ERR_NOMEM;
        }
        watch->seen = seen;
    } else if (watch->seen > seen) {
        watch->seen = seen;
    }
    DL_APPEND(watch->waiters, w);
    w->watch = watch;
    arm(s);
    if (end_now(store, uid) != watch->seen) {
        ws->wake(ws->wake_arg);
    }
    return OK;
}

void watch_remove(struct watches *ws, struct waiter *w)
{
    struct watch *watch = w->watch;
    if (watch == NULL) {
        return;
    }
    DL_DELETE(watch->waiters, w);
    w->watch = NULL;
    if (watch->waiters == NULL && watch != &ws->fired) {
        watch_drop(ws, watch);
    }
}

void watches_check(struct watches *ws)
{
    if (ws->count == 0) {
        return;
    }
    bool used[WATCH_STORES_MAX] = {false};
    for (int i = 0; i < WATCH_STORES_MAX; i++) {
        for (size_t k = 0; ws->stores[i] != NULL && k < ws->count && !used[i]; k++) {
            used[i] = ws->flat[k]->key.store == ws->stores[i]->store;
        }
        if (used[i]) {
            arm(ws->stores[i]);
        }
    }
    for (size_t i = ws->count; i-- > 0;) {
        struct watch *watch = ws->flat[i];
        if (end_now(watch->key.store, watch->key.uid) != watch->seen) {
            watch_fire(ws, watch);
        }
    }
    call_fired(ws);
}

size_t watches_count(const struct watches *ws)
{
    return ws->count;
}
