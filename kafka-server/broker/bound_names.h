/* Names of streams that Kafka clients have bound to MQTT, as DATA/streams.json has them, or are
 * just about to.
 *
 * They are in the captured store's catalog as well; but that may be away, or not have them yet,
 * and then nobody else may take such a name: the captured stream would hide what is written under
 * it. Loop thread only. */
#ifndef CULEX_BROKER_BOUND_NAMES_H
#define CULEX_BROKER_BOUND_NAMES_H

#include "shared/base/bytes.h"
#include "shared/base/err.h"

struct bound_names;

/* NULL: no memory. */
struct bound_names *bound_names_new(void);
void bound_names_free(struct bound_names *b);
/* The writer is going to be asked to bind it: until the answer is there, it is one of them. As
 * often as it is taken it is to be given. ERR_NOMEM: it was not taken. */
enum err bound_names_take(struct bound_names *b, const char *name) MUST_CHECK;
void bound_names_give(struct bound_names *b, const char *name);
/* Is it one of them, now? The file is read when it is another than before. */
bool bound_names_has(struct bound_names *b, const char *data, struct slice name);

#endif
