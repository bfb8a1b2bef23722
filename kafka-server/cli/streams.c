/* culex streams: what there is to read, and how much of it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kafka-server/cli/cli.h"

static const struct column all_columns[] = {
    {"stream", "STREAM", false}, {"partitions", "PARTITIONS", true}, {"records", "RECORDS", true},
    {"end", "WRITTEN", true},    {"retention", "RETENTION", false},  {"from", "FROM", false},
};
static const struct column one_columns[] = {
    {"partition", "PARTITION", true},
    {"start", "START", true},
    {"end", "END", true},
    {"records", "RECORDS", true},
};

/* Who writes it: MQTT clients, through filters, or Kafka's. */
static json_t *origin_text(json_t *configs)
{
    const char *filters = json_string_value(json_object_get(configs, "mqtt.filter"));
    return filters != NULL ? json_sprintf("MQTT %s", filters) : json_string("Kafka");
}

/* "7 d", "1000000 B", "last of each key": what is kept of a partition. */
static json_t *retention_text(json_t *configs)
{
    const char *policy = json_string_value(json_object_get(configs, "cleanup.policy"));
    if (policy != NULL && strcmp(policy, "compact") == 0) {
        return json_string("last of each key");
    }
    const char *ms = json_string_value(json_object_get(configs, "retention.ms"));
    const char *bytes = json_string_value(json_object_get(configs, "retention.bytes"));
    char text[CLI_TEXT_MAX] = "";
    long long n = ms != NULL ? atoll(ms) : -1, b = bytes != NULL ? atoll(bytes) : -1;
    static const struct {
        long long ms;
        const char *name;
    } units[] = {{86400000, "d"}, {3600000, "h"}, {60000, "min"}, {1000, "s"}, {1, "ms"}};
    for (size_t i = 0; n > 0 && i < sizeof units / sizeof units[0]; i++) {
        if (n % units[i].ms == 0) {
            snprintf(text, sizeof text, "%lld %s", n / units[i].ms, units[i].name);
            break;
        }
    }
    if (b >= 0) {
        size_t len = strlen(text);
        snprintf(text + len, sizeof text - len, "%s%lld B", len > 0 ? ", " : "", b);
    }
    return json_string(text[0] != '\0' ? text : "for ever");
}

/* The partitions of one stream: `count` entries of both lists from `at` on. */
static json_t *partitions_of(const rd_kafka_topic_partition_list_t *starts,
                             const rd_kafka_topic_partition_list_t *ends, int at, int count)
{
    json_t *rows = json_array();
    for (int i = at; i < at + count; i++) {
        const int id = starts->elems[i].partition;
        const json_int_t start = starts->elems[i].offset, end = ends->elems[i].offset;
        json_array_append_new(
            rows,
            start >= 0 && end >= 0
                ? json_pack("{s:i, s:I, s:I, s:I}", "partition", id, "start", start, "end", end,
                            "records", end - start)
                : json_pack("{s:i, s:n, s:n, s:n}", "partition", id, "start", "end", "records"));
    }
    return rows;
}

static json_t *stream_document(const struct rd_kafka_metadata_topic *t, json_t *configs,
                               json_t *partitions)
{
    json_int_t records = 0, end = 0;
    size_t i;
    json_t *row;
    json_array_foreach(partitions, i, row)
    {
        records += json_integer_value(json_object_get(row, "records"));
        end += json_integer_value(json_object_get(row, "end"));
    }
    json_t *settings = json_object_get(configs, t->topic);
    json_t *out = json_pack("{s:s, s:o, s:I, s:I}", "stream", t->topic, "partitions", partitions,
                            "records", records, "end", end);
    if (settings != NULL) {
        json_object_set_new(out, "retention", retention_text(settings));
        json_object_set_new(out, "from", origin_text(settings));
        json_object_set(out, "settings", settings);
    }
    return out;
}

/* Documents of the streams that were asked for; NULL: m says why. */
static json_t *read_streams(struct kafka *k, const struct rd_kafka_metadata *md, const char *only,
                            struct errmsg *m)
{
    rd_kafka_topic_partition_list_t *starts = rd_kafka_topic_partition_list_new(64);
    for (int i = 0; i < md->topic_cnt; i++) {
        const struct rd_kafka_metadata_topic *t = &md->topics[i];
        for (int p = 0; (only == NULL || strcmp(only, t->topic) == 0) && p < t->partition_cnt;
             p++) {
            rd_kafka_topic_partition_list_add(starts, t->topic, t->partitions[p].id);
        }
    }
    rd_kafka_topic_partition_list_t *ends = rd_kafka_topic_partition_list_copy(starts);
    json_t *out = NULL, *configs = NULL;
    if (kafka_offsets(k, starts, RD_KAFKA_OFFSET_BEGINNING, m) &&
        kafka_offsets(k, ends, RD_KAFKA_OFFSET_END, m) &&
        (configs = kafka_topic_configs(k, md, m)) != NULL) {
        out = json_array();
        for (int i = 0, at = 0; i < md->topic_cnt; i++) {
            const struct rd_kafka_metadata_topic *t = &md->topics[i];
            if (only == NULL || strcmp(only, t->topic) == 0) {
                json_t *rows = partitions_of(starts, ends, at, t->partition_cnt);
                json_array_append_new(out, stream_document(t, configs, rows));
                at += t->partition_cnt;
            }
        }
    }
    json_decref(configs);
    rd_kafka_topic_partition_list_destroy(starts);
    rd_kafka_topic_partition_list_destroy(ends);
    return out;
}

int verb_streams(const struct cli *cli)
{
    struct kafka k;
    struct errmsg m;
    if (!kafka_open(cli, &k, &m)) {
        return out_error("%s", m.text);
    }
    const struct rd_kafka_metadata *md = kafka_metadata(&k, &m);
    json_t *streams = md != NULL ? read_streams(&k, md, cli->argument, &m) : NULL;
    int rc = CLI_OK;
    if (streams == NULL) {
        rc = out_error("%s", m.text);
    } else if (cli->argument != NULL && json_array_size(streams) == 0) {
        rc = out_error("there is no stream %s; `culex streams` lists what there is", cli->argument);
    } else if (cli->json) {
        out_json(cli->argument != NULL ? json_array_get(streams, 0) : streams);
    } else if (cli->argument != NULL) {
        out_table(json_object_get(json_array_get(streams, 0), "partitions"), one_columns,
                  sizeof one_columns / sizeof one_columns[0], "no partitions");
    } else {
        out_table(
            streams, all_columns, sizeof all_columns / sizeof all_columns[0],
            "no streams yet: the broker has to run once with the plugin and its configuration, or "
            "a Kafka client to make one");
    }
    json_decref(streams);
    if (md != NULL) {
        rd_kafka_metadata_destroy(md);
    }
    kafka_close(&k);
    return rc;
}
