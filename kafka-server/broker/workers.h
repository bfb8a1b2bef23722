/* A few threads for work that blocks: cold reads, lookups by time, opening the follower.
 *
 * The loop submits, a thread runs, the loop reaps. A piece of work is embedded in its owner's
 * struct, which must live until `done` has been called. */
#ifndef CULEX_BROKER_WORKERS_H
#define CULEX_BROKER_WORKERS_H

#include "shared/base/err.h"

#include <stdbool.h>
#include <stdint.h>

#define WORKERS_THREADS_MAX 64
/* Of threads for clients who read history: they wait for the broker and for those who read what is
 * new, where processors are short. */
#define WORKERS_NICE 5

struct work {
    void (*run)(struct work *w);  /* on a worker thread; may block */
    void (*done)(struct work *w); /* on the loop thread, out of workers_reap; may free w */
    struct work *next;            /* the pool's, as is: */
    unsigned generation;
};

struct workers;

/* nice: by how much the threads give way to that of the caller; so do those that their work makes.
 * wake(arg) is called from a worker thread when something can be reaped. ERR_NOMEM, ERR_IO (no
 * thread). */
enum err workers_open(struct workers **out, int threads, int nice, int queue_max,
                      void (*wake)(void *arg), void *arg, struct errmsg *m) MUST_CHECK;
/* Waits for what runs, starts nothing more, and calls `done` for everything that was submitted,
 * work that never ran included: see workers_closing. */
void workers_close(struct workers *w);
/* True from workers_close on: `done` then only frees. */
bool workers_closing(const struct workers *w);

/* Loop thread. ERR_FULL: queue_max pieces wait already. */
enum err workers_submit(struct workers *w, struct work *work) MUST_CHECK;
/* Loop thread: calls `done` of all that is finished. */
void workers_reap(struct workers *w);
/* Submitted and not reaped. Loop thread. */
int workers_busy(const struct workers *w);
/* From now on work is of another generation. Not while work of the one before the present one is
 * left. */
void workers_new_generation(struct workers *w);
/* Is work left that was submitted before the last workers_new_generation? */
bool workers_busy_before(const struct workers *w);
/* Submitted since the pool was opened. Loop thread. */
uint64_t workers_submitted(const struct workers *w);

#endif
