/* What the server keeps in memory and in rows of its own store: groups and their offsets,
 * producers, transactions. Read each time that the own store is opened.
 *
 * While it is away, producers and transactions are not there, and who asks for them is told to try
 * again. Groups stay in memory: heartbeats and committed offsets are answered from there, but what
 * would have to be stored fails, and offsets are not told as stable, for nobody knows which of them
 * wait for a transaction. Where it went with a commit that is in doubt (journal.h), heartbeats of
 * KIP-848 fail, too: their answers rest on what is stored. When it is open again, groups are what
 * the rows say.
 *
 * The part of server.c that knows all of them; each knows itself. Loop thread only. */
#ifndef CULEX_OWN_STATE_H
#define CULEX_OWN_STATE_H

#include "kafka-server/server.h"

/* s->own is open: (again) it is where the rows go. Blocks. On failure it is away. */
enum err own_state_open(struct server *s, struct errmsg *m) MUST_CHECK;
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
