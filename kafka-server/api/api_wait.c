/* See api_wait.h. The state lives in the request's arena: when the connection goes first, the
 * journal forgets it and the arena takes it away. */
#include "kafka-server/api/api_wait.h"

#include "kafka-server/broker/journal.h"
#include "kafka-server/server.h"

struct committed {
    struct journal_wait wait; /* first: done casts back */
    struct request *rq;
    const void *ok, *failed;
};

static void committed_done(struct journal_wait *w, enum err e)
{
    struct committed *x = (struct committed *)w;
    request_reply(x->rq, e == OK ? x->ok : x->failed);
}

static void committed_cancel(struct request *rq)
{
    struct committed *x = rq->parked;
    journal_forget(rq->server->journal, &x->wait);
}

void request_reply_committed(struct request *rq, const void *ok, const void *failed)
{
    if (rq->server->coordinator == NULL) { /* then nothing is stored, and there may be no journal */
        request_reply(rq, failed);
        return;
    }
    struct committed *x = arena_alloc(&rq->arena, sizeof *x);
    if (x == NULL) {
        request_close(rq, "no memory for its answer");
        return;
    }
    *x = (struct committed){.wait.done = committed_done, .rq = rq, .ok = ok, .failed = failed};
    rq->parked = x;
    rq->cancel = committed_cancel;
    journal_wait(rq->server->journal, &x->wait);
}
