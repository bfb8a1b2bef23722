/* Names, bounds and sentences are Apache Kafka 4.1's. Its bounds are settings of the broker
 * (group.consumer.min.session.timeout.ms and so on) that nobody changes; here they are its
 * defaults. Where culex.json sets the group coordinator's own value beyond them, that value is the
 * bound: what holds for all groups may be said of one. */
#include "kafka-server/broker/group_config.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

const struct group_config_row group_config_rows[] = {
    {"consumer.heartbeat.interval.ms", "group.consumer.heartbeat.interval.ms", "5000",
     "How often members of the group send heartbeats (group.protocol=consumer).", 5000, 15000,
     offsetof(struct group_config, heartbeat_interval_ms),
     offsetof(struct config_server, group_consumer_heartbeat_interval_ms)},
    {"consumer.session.timeout.ms", "group.consumer.session.timeout.ms", "45000",
     "A member of the group that was not heard of for so long is out (group.protocol=consumer).",
     45000, 60000, offsetof(struct group_config, session_timeout_ms),
     offsetof(struct config_server, group_consumer_session_timeout_ms)},
};
const size_t group_config_row_count = sizeof group_config_rows / sizeof *group_config_rows;

const struct group_config_row *group_config_find(struct slice name)
{
    for (size_t i = 0; i < group_config_row_count; i++) {
        if (slice_eq(name, slice_str(group_config_rows[i].name))) {
            return &group_config_rows[i];
        }
    }
    return NULL;
}

static int32_t *field(struct group_config *g, const struct group_config_row *row)
{
    return (int32_t *)(void *)((char *)g + row->at);
}

int32_t group_config_get(const struct group_config *g, const struct group_config_row *row)
{
    struct group_config copy = *g;
    return *field(&copy, row);
}

int32_t group_config_of_server(const struct config_server *c, const struct group_config_row *row)
{
    int32_t value;
    memcpy(&value, (const char *)c + row->server_at, sizeof value);
    return value;
}

void group_config_unset(struct group_config *g, const struct group_config_row *row)
{
    *field(g, row) = 0;
}

enum err group_config_set(struct group_config *g, const struct group_config_row *row,
                          struct slice value, struct errmsg *m)
{
    char text[32];
    char *end = text;
    size_t len = value.len < sizeof text - 1 ? value.len : sizeof text - 1;
    memcpy(text, value.len > 0 ? value.data : (const uint8_t *)"", len);
    text[len] = '\0';
    long long v = strtoll(text, &end, 10);
    if (end == text || *end != '\0' || value.len >= sizeof text || v < INT32_MIN ||
        v > INT32_MAX) {
        return err_set(m, ERR_INVALID,
                       "Invalid value %s for configuration %s: Not a number of type INT", text,
                       row->name);
    }
    if (v < 1) {
        return err_set(m, ERR_INVALID,
                       "Invalid value %lld for configuration %s: Value must be at least 1", v,
                       row->name);
    }
    *field(g, row) = (int32_t)v;
    return OK;
}

enum err group_config_check(const struct group_config *g, const struct config_server *c,
                            struct errmsg *m)
{
    struct group_config holds = *g;
    for (size_t i = 0; i < group_config_row_count; i++) {
        const struct group_config_row *row = &group_config_rows[i];
        int32_t of_server = group_config_of_server(c, row), value = group_config_get(g, row);
        int32_t least = of_server < row->least ? of_server : row->least;
        int32_t most = of_server > row->most ? of_server : row->most;
        if (value == 0) {
            *field(&holds, row) = of_server;
        } else if (value < least) {
            return err_set(m, ERR_INVALID, "%s must be greater than or equal to %d", row->name,
                           least);
        } else if (value > most) {
            return err_set(m, ERR_INVALID, "%s must be less than or equal to %d", row->name, most);
        }
    }
    if (holds.session_timeout_ms <= holds.heartbeat_interval_ms) {
        return err_set(m, ERR_INVALID, "%s must be greater than %s", group_config_rows[1].name,
                       group_config_rows[0].name);
    }
    return OK;
}
