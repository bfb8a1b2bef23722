/* What commands of Kafka clients make of the streams that they bind: see control.c. Of the writer's
 * thread; everything comes as an argument. */
#ifndef CULEX_WRITER_BIND_H
#define CULEX_WRITER_BIND_H

#include "shared/config/config.h"

#include <jansson.h>

/* The stream of a bind command, checked: config_stream_fini it. On failure there is nothing to
 * free. ERR_INVALID with a sentence; ERR_NOMEM. */
enum err bind_describe(struct config_stream *out, const json_t *command,
                       struct errmsg *m) MUST_CHECK;
/* The same for what an alter command makes of a stream that is bound. */
enum err bind_alter(struct config_stream *out, const struct config_stream *from,
                    const json_t *command, struct errmsg *m) MUST_CHECK;

/* All streams as they shall be, until they are written into DATA/streams.json. */
struct plan {
    struct config_stream *streams; /* of a configuration, which must live as long … */
    bool *own;                     /* … or the plan's */
    size_t count, room;
    bool changed; /* it is not as it was opened */
    struct config file;
};

/* As they are: those of `now`, and of the file those that `now` hides, which stay in it.
 * ERR_INVALID, ERR_IO: the file cannot be read. After a failure there is nothing to close. */
enum err plan_open(struct plan *p, const struct config *now, const char *data,
                   struct errmsg *m) MUST_CHECK;
void plan_close(struct plan *p);
/* NULL: no stream of that name is captured. */
const struct config_stream *plan_find(const struct plan *p, const char *name);
/* In place of the one of its name, or one more. Takes what `s` has over, also on failure. */
enum err plan_put(struct plan *p, struct config_stream *s) MUST_CHECK;
/* Also the one that it hides. */
void plan_remove(struct plan *p, const char *name);
/* Is it as it was opened, and the file, too? */
bool plan_written(const struct plan *p, const char *data);
/* As config_write_bound. */
enum err plan_write(const struct plan *p, const char *data, struct errmsg *m) MUST_CHECK;

#endif
