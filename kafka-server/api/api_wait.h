/* Answers that must not leave before this turn's commit: two answers are made, and the commit's end
 * picks one. */
#ifndef CULEX_API_API_WAIT_H
#define CULEX_API_API_WAIT_H

#include "kafka-server/api/api.h"

/* Parks rq until the journal's commit, then replies with ok, or with failed when nothing was
 * stored. Both are structs of the API's response, in rq->arena. Ends rq. */
void request_reply_committed(struct request *rq, const void *ok, const void *failed);

static inline struct slice opt_slice(struct kstr s)
{
    return s.len < 0 ? slice_make(NULL, 0)
                     : slice_make(s.data != NULL ? s.data : "", (size_t)s.len);
}
/* Null and empty are the same. */
static inline struct slice str_slice(struct kstr s)
{
    return s.len <= 0 ? slice_make("", 0) : slice_make(s.data, (size_t)s.len);
}
static inline struct kstr slice_kstr(struct slice s)
{
    return (struct kstr){(const char *)s.data, s.data != NULL ? (int32_t)s.len : -1};
}
/* Never null. */
static inline struct kstr slice_kstr_or_empty(struct slice s)
{
    return s.data != NULL ? slice_kstr(s) : (struct kstr){"", 0};
}

#endif
