/* Who waits for which partition: parked fetches, woken when a partition's end moves. No polling.
 *
 * A thread per store blocks in store_wait, while at least one partition is watched, and pokes the
 * loop; the loop then compares the ends of the watched partitions and calls those whose partition
 * has grown, shrunk (trimmed) or gone. Pokes are coalesced: however fast a writer commits, the
 * loop looks once for each time that it comes round.
 *
 * Loop thread only, but for the wake callback. */
#ifndef CULEX_BROKER_WATCH_H
#define CULEX_BROKER_WATCH_H

#include "shared/store/store.h"

struct watches;
struct watch; /* one partition of one store, with all who wait for it */

/* One who waits for one partition. Embedded in its owner's memory. */
struct waiter {
    void (*moved)(struct waiter *w); /* may remove this and other waiters, and add new ones */
    void *arg;
    struct watch *watch; /* NULL: not waiting */
    struct waiter *prev, *next;
};

/* wake(arg) is called from a watching thread when watches_check should be called. */
struct watches *watches_new(void (*wake)(void *arg), void *arg);
void watches_free(struct watches *ws);

/* Starts watching a store: at most WATCH_STORES_MAX. ERR_IO: no thread. */
#define WATCH_STORES_MAX 2
enum err watches_add_store(struct watches *ws, struct store *s) MUST_CHECK;
/* Waits until its thread has left the store; whoever waits for its partitions is called. */
void watches_remove_store(struct watches *ws, struct store *s);

/* w waits from now on: it is called when the end of the partition is no longer `seen`. ERR_NOMEM;
 * ERR_INVALID: the store was not added. */
enum err watch_add(struct watches *ws, struct waiter *w, struct store *s, uint32_t uid,
                   int64_t seen) MUST_CHECK;
void watch_remove(struct watches *ws, struct waiter *w);

/* Calls whoever has something to see, and lets the threads wait again. */
void watches_check(struct watches *ws);
size_t watches_count(const struct watches *ws);

#endif
