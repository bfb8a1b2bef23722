/* What describing and altering configs share. */
#ifndef CULEX_API_CONFIG_H
#define CULEX_API_CONFIG_H

#include <jansson.h>

#include "kafka-server/api/api.h"
#include "kafka-server/broker/topic_config.h"

/* Kafka's numbers (ConfigResource.Type). */
enum {
    RESOURCE_TOPIC = 2,
    RESOURCE_BROKER = 4,
    RESOURCE_BROKER_LOGGER = 8,
    RESOURCE_CLIENT_METRICS = 16,
    RESOURCE_GROUP = 32,
};

#define LOGGER_NAME "root"

struct store_topic;
/* A captured topic's configs that Kafka has, too, with what its writer says: {"name": "value"}.
 * attributes: those of the row, read. NULL: no memory. */
json_t *api_config_captured(const struct store_topic *row, const json_t *attributes);
/* Where the value of a captured topic's config comes from, by the attributes of its row. */
enum config_source api_config_source(const json_t *attributes, const char *name);
/* Attributes that are no configs. */
bool api_config_is_note(const char *attribute);
/* A JSON value as text: lists of strings with commas, everything else as JSON writes it. */
void api_config_text(const json_t *v, struct buf *out);
/* Is it a whole number; is it this one? */
bool api_config_is_number(struct slice text);
bool api_config_is_node(struct slice text, int32_t node);
/* Kafka's name of a log level; and the level of a name, -1: there is none. */
const char *api_config_level_name(int level);
int api_config_level(struct slice name);

#endif
