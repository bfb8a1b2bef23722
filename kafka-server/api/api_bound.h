/* Requests that change captured streams, which only the writer beside the broker can: a handler
 * says what is to be asked of it, a thread asks (shared/control), and the handler runs again with
 * the answers, when the server's own view of the streams shows them.
 *
 *   handler ─▶ bound_first ── collect ── commands? ─no─▶ false: the handler goes on
 *                                            │yes
 *                                            ▼
 *                              true: return; later the handler is called once more, and
 *                              bound_call_of gives the answer of each part of the request
 *
 * The commands of a request go in few messages, each of which the broker takes as one change. */
#ifndef CULEX_API_API_BOUND_H
#define CULEX_API_API_BOUND_H

#include <jansson.h>

#include "kafka-server/api/api.h"
#include "kafka-server/broker/topics.h"

struct bound_call {
    int32_t index, sub; /* of the part of the request that it belongs to */
    json_t *command;    /* what is asked, if anything; else k and why are the answer */
    bool trims;         /* … or the log start of a partition, of which there may be many: */
    int32_t partition;
    int64_t offset;
    bool taken; /* its name, until it is answered: see broker/bound_names.h */
    enum kerr k;
    char *why;  /* a sentence; NULL: none. The calls', as name */
    char *name; /* of the topic */
    struct uuid id; /* of the topic, where there is one */
};

struct bound_calls; /* of one request */

/* A part of the request, behind all before it (by index, then sub). NULL: no memory, or more than
 * one request may ask. */
struct bound_call *bound_add(struct bound_calls *calls, int32_t index, int32_t sub,
                             struct slice name);
/* The same for a trim; they take little, and there may be more of them. NULL also where the rest is
 * not done. */
struct bound_call *bound_add_trim(struct bound_calls *calls, int32_t index, int32_t sub,
                                  struct slice name);
/* The answer without asking. */
void bound_refuse(struct bound_call *c, enum kerr k, const char *sentence);
/* The sentence. Never NULL. */
const char *bound_why(const struct bound_call *c);

/* collect calls bound_add for what belongs to captured streams; false: no memory. timeout_ms is for
 * how long the client says that it waits. True: the request is on its way (or closed) and the
 * handler returns. */
typedef bool bound_collect_fn(struct request *rq, struct bound_calls *calls, void *arg);
bool bound_first(struct request *rq, int32_t timeout_ms, bound_collect_fn *collect, void *arg);
/* NULL: this part was not the writer's. */
const struct bound_call *bound_call_of(const struct request *rq, int32_t index, int32_t sub);
/* The same by the topic, which may be gone by now: by name or, where that is empty, by id. */
const struct bound_call *bound_call_for(const struct request *rq, struct slice name,
                                        const struct uuid *id);

/* Was the stream bound by a Kafka client (and not in culex.json)? Read of its attributes once. */
bool bound_by_client(const struct request *rq, const struct topic *t);

#endif
