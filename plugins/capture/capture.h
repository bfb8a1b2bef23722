/* Capture: what the plugin does, without a word of Mosquitto's API (plugin.c has those).
 *
 * One struct capture per process, of the broker's only thread. None of the functions here aborts or
 * blocks without a bound, whatever the disk does. */
#ifndef CULEX_CAPTURE_CAPTURE_H
#define CULEX_CAPTURE_CAPTURE_H

#include "shared/base/log.h"
#include "shared/config/config.h"
#include "shared/mqtt/publish.h"

struct capture;

/* Takes the configuration over (it is empty afterwards). Opens ring and store, makes streams,
 * through the writer's process, which it starts. A store or ring that cannot be opened is no
 * failure: capture degrades and the writer mends it. ERR_INVALID: the configuration contradicts the
 * store, sentences in `mistakes`; ERR_LOCKED: another process captures into this directory; ERR_IO:
 * the writer cannot be started; ERR_NOMEM. */
enum err capture_open(struct capture **out, struct config *config, struct buf *mistakes) MUST_CHECK;
/* Another configuration, checked. On failure the old one stays, sentences in `mistakes`. */
enum err capture_reload(struct capture *c, struct config *config, struct buf *mistakes) MUST_CHECK;
/* Called out of capture_attend when a Kafka client has bound a stream, altered or unbound one:
 * reads the configuration again and hands it to capture_reload; mistakes as there. */
typedef enum err capture_read_fn(struct buf *mistakes);
void capture_on_change(struct capture *c, capture_read_fn *read);
/* Drains the ring into the log, logs the counters, ends the writer. c is gone. */
void capture_close(struct capture *c);

/* Streams that the topic belongs to, remembered for capture_publish, and what they need: enum
 * mapping_needs. Counts the publish in each of them. 0: it is none of ours. */
size_t capture_match(struct capture *c, struct slice topic, unsigned *needs);

enum capture_verdict {
    CAPTURE_TAKEN,   /* in the ring: acknowledge it */
    CAPTURE_DROPPED, /* not captured, but the broker goes on with it */
    CAPTURE_REFUSED, /* the publisher must be told */
};
/* Of the topic that was matched last. p->timestamp_ms is filled in. */
enum capture_verdict capture_publish(struct capture *c, struct publish *p);
/* For a publish that the caller cannot even describe (too many properties). */
enum capture_verdict capture_too_large(struct capture *c);
/* After a publish that was not taken: a line that says whose it was and why, now and then for each
 * reason. client may be NULL. */
void capture_log_refusal(struct capture *c, struct slice topic, const char *client);

/* True when capture_attend has something to do, or may have: a relaxed load, and a look at the
 * clock where the broker does not tick. */
bool capture_due(const struct capture *c, bool ticks);
/* Listens to the writer, starts it again when it has ended, and publishes counters that changed,
 * some at a time. At each tick, and where capture_due says so. */
typedef void capture_sys_fn(void *arg, const char *topic, const char *text);
void capture_attend(struct capture *c, capture_sys_fn *publish, void *arg);

#endif
