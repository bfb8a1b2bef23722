/* The configs of a topic: Kafka's names, types, defaults, bounds and synonyms in one table, and
 * what they mean here.
 *
 * Only what was set explicitly is kept, as Kafka's strings, in store_topic.attributes:
 * {"configs": {"retention.ms": "1000", …}}. Everything else has the broker's default: a setting of
 * the server under the config's synonym (message.max.bytes for max.message.bytes) where there is
 * one, and there is for each that has an effect; else Kafka's. A captured topic has no configs of
 * its own here: its row says retention and cleanup, as its stream has them, and the server's
 * settings, which are for what clients write, do not concern it.
 *
 * Loop thread only. */
#ifndef CULEX_BROKER_TOPIC_CONFIG_H
#define CULEX_BROKER_TOPIC_CONFIG_H

#include <jansson.h>

#include "shared/config/config.h"
#include "shared/store/store.h"

/* Kafka's numbers on the wire (ConfigType, ConfigSource of DescribeConfigs). */
enum config_type {
    CONFIG_BOOLEAN = 1,
    CONFIG_STRING = 2,
    CONFIG_INT = 3,
    CONFIG_LONG = 5,
    CONFIG_DOUBLE = 6,
    CONFIG_LIST = 7,
};
enum config_source {
    CONFIG_SOURCE_TOPIC = 1,
    CONFIG_SOURCE_STATIC_BROKER = 4,
    CONFIG_SOURCE_DEFAULT = 5,
    CONFIG_SOURCE_BROKER_LOGGER = 6,
    CONFIG_SOURCE_GROUP = 8,
};

struct topic_config {
    const char *name;
    enum config_type type;
    const char *usual;    /* Kafka's default */
    const char *synonym;  /* the broker's name for the default of topics; NULL: there is none */
    bool synonym_unset;   /* Kafka's broker has no default under that name itself */
    int64_t min, max;     /* of numbers; max INT64_MAX: of the type alone */
    const char *choices;  /* of strings, and of a list's items: "a, b"; NULL: any */
    const char *doc;      /* what it means here */
};
extern const struct topic_config topic_configs[];
extern const size_t topic_config_count;
/* NULL: no topic has such a config. */
const struct topic_config *topic_config_find(struct slice name);

#define TOPIC_CONFIG_VALUE_BYTES_MAX 32767 /* as in Kafka */
#define TOPIC_CONFIG_SYNONYMS_MAX    6  /* three settings, each with its default */
#define TOPIC_CONFIG_SYNONYM_BYTES   32 /* of a value: a number or a name */

/* --- the explicit ones ------------------------------------------------------------------------ */

/* A new reference to the configs in a topic's attributes, an empty object where there are none.
 * NULL: no memory. */
json_t *topic_config_load(const char *attributes);
/* Attributes with these configs, malloc'd. NULL: no memory. */
char *topic_config_save(const json_t *configs);
/* Sets one, in the form that Kafka would show it in ("compact, delete" is "compact,delete").
 * ERR_INVALID: unknown, or not a legal value; m is Kafka's sentence. ERR_NOMEM. */
enum err topic_config_set(json_t *configs, struct slice name, struct slice value,
                          struct errmsg *m) MUST_CHECK;
/* IncrementalAlterConfigs; the numbers are Kafka's (AlterConfigOp). */
enum topic_config_op {
    TOPIC_CONFIG_SET = 0,
    TOPIC_CONFIG_DELETE = 1,
    TOPIC_CONFIG_APPEND = 2,   /* to a list, what it does not have yet */
    TOPIC_CONFIG_SUBTRACT = 3, /* from a list */
};
/* ERR_INVALID as topic_config_set, ERR_NOMEM. */
enum err topic_config_alter(json_t *configs, enum topic_config_op op, struct slice name,
                            struct slice value, const struct config *c,
                            struct errmsg *m) MUST_CHECK;
/* What must hold between them. ERR_INVALID with Kafka's sentence. */
enum err topic_config_check(const json_t *configs, const struct config *c,
                            struct errmsg *m) MUST_CHECK;

/* --- the effective ones ----------------------------------------------------------------------- */

/* The value that holds, appended to out, and where it comes from. configs may be NULL: none; c as
 * well: Kafka's defaults. */
enum config_source topic_config_value(const struct topic_config *row, const json_t *configs,
                                      const struct config *c, struct buf *out);
/* Has the server a setting of that name? */
bool topic_config_of_server(const char *name);

/* A setting of the server that says something about a config, and what it says. */
struct topic_config_synonym {
    const char *name;
    char value[TOPIC_CONFIG_SYNONYM_BYTES];
    enum config_source source; /* CONFIG_SOURCE_STATIC_BROKER or _DEFAULT */
};
/* Those that DescribeConfigs tells for a setting of the server, or for a config with this synonym:
 * what was said, then defaults; of log.retention.ms the coarser ones, too. None where that setting
 * itself says nothing, as in Kafka. usual: Kafka's default (NULL: none) of one that the server does
 * not have. Returns the number. */
size_t topic_config_synonyms(const char *name, const char *usual, const struct config *c,
                             struct topic_config_synonym out[TOPIC_CONFIG_SYNONYMS_MAX]);

enum topic_compression { /* of batches as they are stored; the numbers are the record format's */
    TOPIC_COMPRESSION_PRODUCER = -1, /* as they came */
    TOPIC_COMPRESSION_NONE = 0,
    TOPIC_COMPRESSION_GZIP = 1,
    TOPIC_COMPRESSION_SNAPPY = 2,
    TOPIC_COMPRESSION_LZ4 = 3,
    TOPIC_COMPRESSION_ZSTD = 4,
};

/* What the write path and the cleaner ask for, as numbers. */
struct topic_settings {
    int64_t retention_ms, retention_bytes; /* -1: no limit */
    uint32_t cleanup;                      /* set of enum store_cleanup */
    int64_t min_compaction_lag_ms, max_compaction_lag_ms;
    int64_t delete_retention_ms;
    double min_cleanable_dirty_ratio;
    int64_t segment_ms;
    int32_t segment_bytes;
    int32_t max_message_bytes;
    bool log_append_time; /* message.timestamp.type */
    int64_t timestamp_before_max_ms, timestamp_after_max_ms;
    enum topic_compression compression;
    int32_t gzip_level, lz4_level, zstd_level; /* gzip -1: the codec's own */
    int32_t min_insync_replicas;
    bool bound_by_client; /* a captured one: not by culex.json */
};
/* From explicit configs (may be NULL). */
void topic_settings_read(struct topic_settings *out, const json_t *configs, const struct config *c);
/* Of a topic; without memory it is as if nothing had been set. */
void topic_settings_of(struct topic_settings *out, const struct store_topic *row, bool captured,
                       const struct config *c);

#endif
