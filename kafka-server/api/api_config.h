/* What describing and altering configs share. */
#ifndef CULEX_API_CONFIG_H
#define CULEX_API_CONFIG_H

#include "kafka-server/api/api.h"

/* Kafka's numbers (ConfigResource.Type). */
enum {
    RESOURCE_TOPIC = 2,
    RESOURCE_BROKER = 4,
    RESOURCE_BROKER_LOGGER = 8,
    RESOURCE_CLIENT_METRICS = 16,
    RESOURCE_GROUP = 32,
};

#define LOGGER_NAME "root"

/* Is it a whole number; is it this one? */
bool api_config_is_number(struct slice text);
bool api_config_is_node(struct slice text, int32_t node);
/* Kafka's name of a log level; and the level of a name, -1: there is none. */
const char *api_config_level_name(int level);
int api_config_level(struct slice name);

#endif
