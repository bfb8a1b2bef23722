/* Configs of one consumer group (kafka-configs --entity-type groups): what they are called, and
 * whether a value may be.
 *
 * Kept by the coordinator (coordinator_config.c); this knows no group and no store. */
#ifndef CULEX_BROKER_GROUP_CONFIG_H
#define CULEX_BROKER_GROUP_CONFIG_H

#include "shared/base/bytes.h"
#include "shared/base/err.h"
#include "shared/config/config.h"

/* 0: not set, the server's holds. */
struct group_config {
    int32_t session_timeout_ms, heartbeat_interval_ms;
};

struct group_config_row {
    const char *name;
    const char *synonym; /* the server's setting that holds where this is not set */
    const char *usual;   /* its default */
    const char *doc;
    int32_t least, most; /* Kafka's bounds; the server's own value is within, whatever it is */
    size_t at;           /* in struct group_config */
    size_t server_at;    /* in struct config_server */
};

extern const struct group_config_row group_config_rows[];
extern const size_t group_config_row_count;

/* NULL: there is no such config. */
const struct group_config_row *group_config_find(struct slice name);
/* A number, from 1 on. ERR_INVALID: m says why not. */
enum err group_config_set(struct group_config *g, const struct group_config_row *row,
                          struct slice value, struct errmsg *m) MUST_CHECK;
void group_config_unset(struct group_config *g, const struct group_config_row *row);
/* What is set, 0: nothing; and what holds. */
int32_t group_config_get(const struct group_config *g, const struct group_config_row *row);
int32_t group_config_of_server(const struct config_server *c, const struct group_config_row *row);
/* Bounds, and whether the two go together. ERR_INVALID. */
enum err group_config_check(const struct group_config *g, const struct config_server *c,
                            struct errmsg *m) MUST_CHECK;

#endif
