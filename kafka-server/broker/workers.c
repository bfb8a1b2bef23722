/* One queue in, one list out, both under one mutex: pieces of work are at least some 100 µs long,
 * so the lock is never what anyone waits for.
 *
 *      loop: submit ─▶ queue ─▶ thread: run ─▶ finished ─▶ wake ─▶ loop: reap ─▶ done
 *
 * The queue is first in, first out: a reader who is far behind gets no more than its turn. */
#include "kafka-server/broker/workers.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "shared/base/bytes.h"

struct work_list {
    struct work *first;
    struct work **tail;
};

struct workers {
    pthread_mutex_t lock;
    pthread_cond_t more;
    struct work_list queue;    /* under lock */
    struct work_list finished; /* under lock */
    bool stop;                 /* under lock */
    bool closing;              /* loop thread */
    int queued;                /* under lock: in queue */
    int queue_max;
    int busy; /* loop thread: submitted, not reaped */
    int busy_in[2]; /* of these: by generation, the present and the one before */
    unsigned generation;
    uint64_t submitted;
    int thread_count;
    int nice;
    pthread_t threads[WORKERS_THREADS_MAX];
    void (*wake)(void *arg);
    void *wake_arg;
};

static void list_init(struct work_list *l)
{
    l->first = NULL;
    l->tail = &l->first;
}

static void list_push(struct work_list *l, struct work *w)
{
    w->next = NULL;
    *l->tail = w;
    l->tail = &w->next;
}

static struct work *list_pop(struct work_list *l)
{
    struct work *w = l->first;
    if (w != NULL) {
        l->first = w->next;
        if (l->first == NULL) {
            l->tail = &l->first;
        }
    }
    return w;
}

static void *worker_main(void *arg)
{
    struct workers *w = arg;
    if (w->nice != 0) { /* of this thread alone; not permitted: no harm done */
        (void)setpriority(PRIO_PROCESS, 0, getpriority(PRIO_PROCESS, 0) + w->nice);
    }
    pthread_mutex_lock(&w->lock);
    for (;;) {
        while (!w->stop && w->queue.first == NULL) {
            pthread_cond_wait(&w->more, &w->lock);
        }
        if (w->stop) {
            break;
        }
        struct work *work = list_pop(&w->queue);
        w->queued--;
        pthread_mutex_unlock(&w->lock);
        work->run(work);
        pthread_mutex_lock(&w->lock);
        bool first = w->finished.first == NULL;
        list_push(&w->finished, work);
        if (first) { /* not under the lock: the loop takes it at once */
            pthread_mutex_unlock(&w->lock);
            w->wake(w->wake_arg);
            pthread_mutex_lock(&w->lock);
        }
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

enum err workers_open(struct workers **out, int threads, int nice, int queue_max,
                      void (*wake)(void *arg), void *arg, struct errmsg *m)
{
    struct workers *w = calloc(1, sizeof *w);
    if (w == NULL) {
        return err_set(m, ERR_NOMEM, "no memory for worker threads");
    }
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->more, NULL);
    list_init(&w->queue);
    list_init(&w->finished);
    w->nice = nice;
    w->queue_max = queue_max;
    w->wake = wake;
    w->wake_arg = arg;
    *out = w;
    /* Signals belong to the loop thread. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    enum err e = OK;
    for (int i = 0; i < threads && i < WORKERS_THREADS_MAX; i++) {
        int code = pthread_create(&w->threads[i], NULL, worker_main, w);
        if (code != 0) {
            e = err_set(m, ERR_IO, "cannot start a worker thread: %s", strerror(code));
            break;
        }
        w->thread_count++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (e != OK) {
        workers_close(w);
        *out = NULL;
    }
    return e;
}

static void reap_list(struct workers *w, struct work *first)
{
    while (first != NULL) {
        struct work *next = first->next;
        w->busy--;
        w->busy_in[first->generation % 2]--;
        first->done(first);
        first = next;
    }
}

void workers_close(struct workers *w)
{
    if (w == NULL) {
        return;
    }
    w->closing = true;
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_cond_broadcast(&w->more);
    pthread_mutex_unlock(&w->lock);
    for (int i = 0; i < w->thread_count; i++) {
        pthread_join(w->threads[i], NULL);
    }
    reap_list(w, w->finished.first);
    reap_list(w, w->queue.first);
    pthread_cond_destroy(&w->more);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

bool workers_closing(const struct workers *w)
{
    return w->closing;
}

enum err workers_submit(struct workers *w, struct work *work)
{
    enum err e = OK;
    work->generation = w->generation;
    pthread_mutex_lock(&w->lock);
    if (w->queued >= w->queue_max) {
        e = ERR_FULL;
    } else {
        list_push(&w->queue, work);
        w->queued++;
    }
    pthread_mutex_unlock(&w->lock);
    if (e == OK) {
        pthread_cond_signal(&w->more); /* not under the lock, for which the thread would wait */
    }
    w->busy += e == OK;
    w->busy_in[w->generation % 2] += e == OK;
    w->submitted += e == OK;
    return e;
}

void workers_reap(struct workers *w)
{
    pthread_mutex_lock(&w->lock);
    struct work *first = w->finished.first;
    list_init(&w->finished);
    pthread_mutex_unlock(&w->lock);
    reap_list(w, first);
}

int workers_busy(const struct workers *w)
{
    return w->busy;
}

bool workers_busy_before(const struct workers *w)
{
    return w->busy_in[(w->generation + 1) % 2] != 0;
}

void workers_new_generation(struct workers *w)
{
    ASSERT(!workers_busy_before(w));
    w->generation++;
}

uint64_t workers_submitted(const struct workers *w)
{
    return w->submitted;
}
