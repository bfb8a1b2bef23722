/* Names of streams that Kafka clients have bound to MQTT, as DATA/streams.json has them.
 *
 * They are in the captured store's catalog as well; but that may be away, or not have them yet,
 * and then nobody else may take such a name: the captured stream would hide what is written under
 * it. Loop thread only. */
#ifndef CULEX_BROKER_BOUND_NAMES_H
#define CULEX_BROKER_BOUND_NAMES_H

#include "shared/base/bytes.h"

struct bound_names;

/* NULL: no memory. */
struct bound_names *bound_names_new(void);
void bound_names_free(struct bound_names *b);
/* Is it one of them, now? The file is read when it is another than before. */
bool bound_names_has(struct bound_names *b, const char *data, struct slice name);

#endif
