/* What Kafka clients may do to free streams: create, delete, grow, trim and configure them. The
 * rules and sentences are those of Kafka's controller.
 *
 * Each change is written at once, in a WriteBatch of its own: when the call returns it is stored,
 * the list of topics is fresh (so every struct topic from before is invalid), and the answer may
 * leave. A stream that MQTT publishes are captured into (culex.json) is refused with
 * KERR_POLICY_VIOLATION and a sentence that names its filter.
 *
 * Loop thread only. */
#ifndef CULEX_BROKER_TOPIC_ADMIN_H
#define CULEX_BROKER_TOPIC_ADMIN_H

#include <jansson.h>

#include "kafka-server/broker/kerr.h"
#include "kafka-server/broker/topics.h"
#include "shared/config/config.h"

/* Borrowed from the server; made on the stack where it is used. */
struct topic_admin {
    struct store *own; /* NULL: there is no data directory yet */
    struct topics *topics;
    const struct config *config;
    struct bound_names *bound; /* NULL: none is known */
};

struct topic_assignment {
    int32_t partition;
    const int32_t *replicas;
    int32_t replica_count;
};

struct topic_setting {
    struct slice name, value; /* value.data NULL: null */
};

/* A topic as a client wants it. */
struct topic_order {
    struct slice name;
    int32_t partition_count;    /* -1: num.partitions */
    int16_t replication_factor; /* -1 or 1 */
    const struct topic_assignment *assignments;
    int32_t assignment_count; /* not 0: they say how many partitions there are */
    const struct topic_setting *configs;
    int32_t config_count;
    bool validate_only;
};

struct topic_made {
    struct uuid id;
    int32_t partition_count;
    json_t *configs; /* the explicit ones, the caller's to drop; NULL after a failure */
};

/* On failure m has the sentence for the client ("" where Kafka has none). */
enum kerr topic_create(const struct topic_admin *a, const struct topic_order *o,
                       struct topic_made *made, struct errmsg *m) MUST_CHECK;
/* With the server's defaults, for auto-creation. */
enum kerr topic_create_usual(const struct topic_admin *a, struct slice name,
                             struct errmsg *m) MUST_CHECK;
/* KERR_KAFKA_STORAGE_ERROR: also while batches of it wait for the turn's commit: flush first. */
enum kerr topic_delete(const struct topic_admin *a, const struct topic *t,
                       struct errmsg *m) MUST_CHECK;
/* To so many partitions; assignments, of the new ones, NULL: none given. */
enum kerr topic_grow(const struct topic_admin *a, const struct topic *t, int32_t partition_count,
                     const struct topic_assignment *assignments, int32_t assignment_count,
                     bool validate_only, struct errmsg *m) MUST_CHECK;
/* DeleteRecords: offset -1 is the end. *low is the log start then. Does not refresh topics. */
enum kerr topic_trim(const struct topic_admin *a, const struct topic *t, int32_t partition,
                     int64_t offset, int64_t *low, struct errmsg *m) MUST_CHECK;
/* These are its explicit configs from now on (checked one by one; what must hold between them is
 * checked here). */
enum kerr topic_configure(const struct topic_admin *a, const struct topic *t, const json_t *configs,
                          bool validate_only, struct errmsg *m) MUST_CHECK;
/* What topics have not set themselves they have from the settings of the server (log.retention.ms
 * …): their rows in a->own, which is open, follow where those have changed. */
void topic_apply_defaults(const struct topic_admin *a);
/* KERR_INVALID_TOPIC_EXCEPTION where Kafka does not allow such a name. */
enum kerr topic_check_name(struct slice name, struct errmsg *m) MUST_CHECK;
/* KERR_INVALID_TOPIC_EXCEPTION where there is one whose name differs in '.' and '_' alone. */
enum kerr topic_check_collision(const struct topics *topics, struct slice name,
                                struct errmsg *m) MUST_CHECK;
/* Is it a stream of culex.json, made by the plugin or not yet? */
bool topic_is_configured(const struct config *c, struct slice name);
/* KERR_POLICY_VIOLATION with its sentence for a captured topic, else KERR_NONE. why: the sentence's
 * end, what holds for it instead. */
enum kerr topic_check_free(const struct topic *t, const char *why, struct errmsg *m) MUST_CHECK;
#define TOPIC_CHANGED_IN_FILE "it is changed in culex.json, not by Kafka clients"

#endif
