/* What the server keeps in memory and in rows of its own store: groups and their offsets,
 * producers, transactions. Read each time that the own store is opened: at the start before anybody
 * is heard, and after a fault by the thread that opens it, for there may be millions of rows. Until
 * they count, memory has what was there before, too.
 *
 * While it is away, producers and transactions are not there, and who asks for them is told to try
 * again. Groups stay in memory: heartbeats and committed offsets are answered from there, but what
 * would have to be stored fails, and offsets are not told as stable, for nobody knows which of them
 * wait for a transaction. Where it went with a commit that is in doubt (journal.h), heartbeats of
 * KIP-848 fail, too: their answers rest on what is stored. When it is open again, groups are what
 * the rows say.
 *
 * The part of server.c that knows all of them; each knows itself. Loop thread only, but for what is
 * said to be any thread's: that reads a journal, groups, producers and transactions which nobody
 * else knows yet, or frees those which nobody knows any more. */
#ifndef CULEX_OWN_STATE_H
#define CULEX_OWN_STATE_H

#include "kafka-server/broker/workers.h"
#include "kafka-server/server.h"
#include "shared/store/store.h"

/* What a store says, and nothing yet that the server goes by. */
struct own_read;
/* Reads all of it, which takes seconds where there are millions of rows: on any thread, while
 * nobody else uses `own`. Strings of c are not looked at. cluster_id: for a store that has none;
 * "": a random one. ERR_NOMEM, or why the rows cannot be read. */
enum err own_state_read(struct own_read **out, struct store *own, const struct config_server *c,
                        const char *cluster_id, struct errmsg *m) MUST_CHECK;
/* s->own, of which r was read, is where the rows go from now on. r has then what was in memory
 * before. */
void own_state_take(struct server *s, struct own_read *r);
/* Frees it and what it has; on any thread. Where it was not taken, before its store is closed.
 * NULL: nothing. */
void own_state_drop(struct own_read *r);

/* The own store is being opened again, by the thread of s->opener. */
struct own_opening {
    struct work work;
    struct store_options options;
    struct config_server config; /* as it was when this began */
    struct server *server;
    struct store *store;   /* NULL: it could not be opened */
    struct own_read *read; /* of it */
    enum err result;
    struct errmsg message;
    bool busy; /* the thread has it */
};
/* Its work, on the thread of s->opener: opens and reads. */
void own_opening_run(struct work *w);
/* The thread frees what own_state_take has left in it. */
void own_opening_clear(struct own_opening *o);
/* s->own broke and goes away: what a commit that failed may have left there shows when it is open
 * again. */
void own_state_away(struct server *s);
/* Topics that are deleted take along what belongs to them. */
void own_state_watch_topics(struct server *s);
/* Takes over changed settings. */
void own_state_reload(struct server *s);
/* A few times a second, while the own store is open. */
void own_state_tick(struct server *s, int64_t now_ms);
void own_state_close(struct server *s);

#endif
