/* `culex`, the command line: what its verbs share.
 *
 * It is a client like any other: it speaks Kafka to the server (librdkafka) and MQTT to the broker
 * (libmosquitto, $SYS), and knows nothing private of either. A verb builds one JSON document; with
 * -o json that is the output, else tables are printed from it, so that people and programs are told
 * the same.
 *
 * Every wait is bounded by cli->timeout_ms. One thread of our own; single use: memory is given back
 * at exit. */
#ifndef CULEX_CLI_CLI_H
#define CULEX_CLI_CLI_H

#include <jansson.h>
#include <librdkafka/rdkafka.h>
#include <stdbool.h>

#include "shared/base/err.h"

#define CLI_TEXT_MAX       256
#define CLI_CONFIG_DEFAULT "/etc/culex/culex.json"

/* Exit codes. */
enum { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2 };

struct cli {
    char server[CLI_TEXT_MAX]; /* host:port */
    char mqtt[CLI_TEXT_MAX];
    const char *config;              /* NULL: not given */
    const char *username, *password; /* for MQTT; NULL: anonymous */
    bool json;
    int timeout_ms;
    const char *argument; /* what follows the verb; NULL: nothing */
};

/* --- output (out.c) -------------------------------------------------------------------------- */

struct column {
    const char *key;   /* in the JSON object */
    const char *title; /* in the table */
    bool right;        /* numbers stand to the right */
};
/* rows: an array of objects. A member that is missing or null is "-". Prints nothing but `empty`
 * when there are no rows. */
void out_table(json_t *rows, const struct column *columns, size_t count, const char *empty);
/* One line for each member that is there: "title: value". */
void out_fields(json_t *object, const struct column *fields, size_t count);
void out_json(json_t *document);
/* One line on stderr that begins with "culex: ". Returns CLI_FAILED. */
int out_error(const char *fmt, ...) PRINTF_LIKE(1, 2);
void out_note(const char *fmt, ...) PRINTF_LIKE(1, 2);

/* --- reaching (reach.c) ---------------------------------------------------------------------- */

/* Splits "host:port", "[v6]:port" or "host"; false: not such a thing. */
bool reach_split(const char *text, int default_port, char *host, size_t size, int *port);
/* Can a TCP connection be made? On failure m says why, in the operating system's words. */
bool reach_probe(const char *host, int port, int timeout_ms, struct errmsg *m);

/* --- Kafka (kafka.c) ------------------------------------------------------------------------- */

struct kafka {
    rd_kafka_t *rk;
    rd_kafka_queue_t *queue;
    int timeout_ms;
};
/* A sentence for the user on failure, in m. */
bool kafka_open(const struct cli *cli, struct kafka *k, struct errmsg *m);
void kafka_close(struct kafka *k);
/* All topics. Freed with rd_kafka_metadata_destroy. NULL: failed. */
const struct rd_kafka_metadata *kafka_metadata(struct kafka *k, struct errmsg *m);
/* Sets each partition's offset to its end (RD_KAFKA_OFFSET_END) or start
 * (RD_KAFKA_OFFSET_BEGINNING); -1 where it cannot be had. */
bool kafka_offsets(struct kafka *k, rd_kafka_topic_partition_list_t *list, int64_t which,
                   struct errmsg *m);
/* {"topic": {"retention.ms": "…", …}, …} for every topic of the metadata. NULL: failed. */
json_t *kafka_topic_configs(struct kafka *k, const struct rd_kafka_metadata *md, struct errmsg *m);
/* Groups as [{"group", "state", "assignor", "members": [{"client", "host", "member",
 * "partitions"}], "partitions": [{"topic", "partition", "committed", "end", "lag", "client",
 * "host"}], "lag"}]; members is null where librdkafka cannot tell them (KIP-848), clients and hosts
 * too. group NULL: all. NULL: failed. */
json_t *kafka_groups(struct kafka *k, const char *group, struct errmsg *m);

/* --- MQTT (sys.c) ---------------------------------------------------------------------------- */

/* The broker's counters under $SYS/broker/culex/, as an object by the rest of their topic
 * ("ring/used": "0"). Empty when the plugin is not loaded. NULL: the broker cannot be reached; m
 * says why. */
json_t *sys_read(const struct cli *cli, struct errmsg *m);

/* --- verbs ----------------------------------------------------------------------------------- */

int verb_check(const struct cli *cli);
int verb_streams(const struct cli *cli);
int verb_groups(const struct cli *cli);
int verb_status(const struct cli *cli);

#endif
