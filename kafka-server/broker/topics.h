/* All topics that clients see: those of the captured store and those of the server's own, by name
 * and by id.
 *
 * A snapshot of both catalogs, merged; where both have a name the captured one wins. Loop thread
 * only. A struct topic is valid until the next topics_refresh: whoever waits keeps the name, the
 * uid and the store, never the pointer. */
#ifndef CULEX_BROKER_TOPICS_H
#define CULEX_BROKER_TOPICS_H

#include "kafka-server/broker/topic_config.h"
#include "shared/store/store.h"

struct topic {
    const struct store_topic *row; /* name, id, uid, partition_count, retention, … */
    struct store *store;           /* where its partitions live, by store_topic_uid(row, …) */
    bool captured;                 /* written by the broker's plugin, not by the server */
};

struct topics;

struct topics *topics_new(void);
void topics_free(struct topics *t);

/* Who wants to know what a refresh has found. A topic that was made anew under its old name has
 * gone, and then come. */
struct topics_listener {
    /* Deleted; not merely out of reach. */
    void (*gone)(void *arg, const char *name);
    /* New, or in reach now. */
    void (*came)(void *arg, const struct store_topic *row);
    /* Last, once: topics have come, gone or changed. */
    void (*changed)(void *arg);
    void *arg;
};

/* l is copied; its functions may be NULL. */
void topics_on_change(struct topics *t, const struct topics_listener *l);

/* The stores to look at; either may be NULL (not there yet). Refreshes. A store must stay open
 * until it is replaced here. */
void topics_set_stores(struct topics *t, struct store *own, struct store *captured);
/* Takes over what the catalogs say now. Cheap when nothing has changed: called before every
 * request. */
void topics_refresh(struct topics *t);

size_t topics_count(const struct topics *t);
/* In the order of their names. */
const struct topic *topics_at(const struct topics *t, size_t i);
/* NULL: no such topic. */
const struct topic *topics_find(const struct topics *t, struct slice name);
const struct topic *topics_find_id(const struct topics *t, const struct uuid *id);
/* Index of the first topic whose name is >= name (topics_count when there is none). */
size_t topics_lower_bound(const struct topics *t, struct slice name);

/* What the topic's configs say, as numbers: read once, and valid as long as the topic. c is the
 * configuration of the server; when it has changed, topics_forget_settings. */
const struct topic_settings *topics_settings(struct topics *t, const struct topic *topic,
                                             const struct config *c);
void topics_forget_settings(struct topics *t);

static inline bool topic_has_partition(const struct topic *t, int32_t partition)
{
    return t != NULL && partition >= 0 && partition < t->row->partition_count;
}

/* Is it a name that Kafka allows ([a-zA-Z0-9._-]{1,249}, not "." or "..")? */
bool topic_name_ok(struct slice name);

#endif
