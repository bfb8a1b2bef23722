/* Names in a request: that may be there twice, that name nothing; and texts that live as long as
 * the request. */
#ifndef CULEX_API_NAMES_H
#define CULEX_API_NAMES_H

#include "kafka-server/api/api.h"

enum name_seen {
    NAME_ONCE,
    NAME_FIRST, /* of several */
    NAME_AGAIN, /* one of them, and not the first */
};

/* For each name how it is to be taken, in the request's arena. NULL: no memory. */
enum name_seen *names_seen(struct request *rq, const struct slice *names, int32_t count);
/* The indices of the names in the names' order, so that equal ones are neighbours, the first first;
 * in the request's arena. NULL: no memory. */
int32_t *names_order(struct request *rq, const struct slice *names, int32_t count);
/* What to say of a topic that is not found: `unknown`, or, while the own store is away and it may
 * turn out to be there, `again`: an error after which this API's clients ask again. */
enum kerr names_missing(const struct request *rq, enum kerr again, enum kerr unknown);
/* A copy in the request's arena; data NULL: no memory. */
struct kstr names_keep(struct request *rq, const char *text);

#endif
