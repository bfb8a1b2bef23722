/* culex status: is everything up, and does the sum come out?
 *
 * Each side is asked on its own, and one that is away does not hide the other. The sum: what the
 * plugin took in is what it stored, filtered, rejected and dropped, and what still waits in the
 * ring; anything else is unexplained and makes the status fail. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kafka-server/cli/cli.h"

static const struct column server_fields[] = {
    {"address", "server", false},    {"error", "  error", false},
    {"cluster", "  cluster", false}, {"streams", "  streams", false},
    {"groups", "  groups", false},   {"lag", "  lag of all groups", false},
};
static const struct column broker_fields[] = {
    {"address", "broker", false},
    {"error", "  error", false},
    {"state", "  capture", false},
    {"version", "  version", false},
    {"capture_error", "  because", false},
    {"received", "  publishes seen", false},
    {"unmatched", "  of no stream", false},
    {"ring_used", "  ring used, bytes", false},
    {"ring_bytes", "  ring, bytes", false},
    {"ring_percent", "  ring used, %", false},
    {"writer_lag_ms", "  writer behind, ms", false},
    {"log_bytes", "  log, bytes", false},
    {"balanced", "  sum comes out", false},
};
static const struct column stream_columns[] = {
    {"stream", "STREAM", false},      {"published", "PUBLISHED", true},
    {"stored", "STORED", true},       {"filtered", "FILTERED", true},
    {"rejected", "REJECTED", true},   {"dropped", "DROPPED", true},
    {"in-flight", "IN FLIGHT", true}, {"unexplained", "UNEXPLAINED", true},
};
#define COUNT(a) (sizeof(a) / sizeof(a)[0])

/* --- the server ------------------------------------------------------------------------------ */

static json_t *server_status(const struct cli *cli)
{
    json_t *out = json_pack("{s:s, s:b}", "address", cli->server, "reachable", 0);
    struct kafka k;
    struct errmsg m;
    const struct rd_kafka_metadata *md = NULL;
    json_t *groups = NULL;
    if (!kafka_open(cli, &k, &m)) {
        json_object_set_new(out, "error", json_string(m.text));
        return out;
    }
    if ((md = kafka_metadata(&k, &m)) == NULL || (groups = kafka_groups(&k, NULL, &m)) == NULL) {
        json_object_set_new(out, "error", json_string(m.text));
    } else {
        json_int_t lag = 0;
        size_t i;
        json_t *g;
        json_array_foreach(groups, i, g)
        {
            lag += json_integer_value(json_object_get(g, "lag"));
        }
        char *cluster = rd_kafka_clusterid(k.rk, cli->timeout_ms);
        json_object_set_new(out, "reachable", json_true());
        json_object_set_new(out, "cluster", cluster != NULL ? json_string(cluster) : json_null());
        json_object_set_new(out, "streams", json_integer(md->topic_cnt));
        json_object_set_new(out, "groups", json_integer((json_int_t)json_array_size(groups)));
        json_object_set_new(out, "lag", json_integer(lag));
        free(cluster);
    }
    json_decref(groups);
    if (md != NULL) {
        rd_kafka_metadata_destroy(md);
    }
    kafka_close(&k);
    return out;
}

/* --- the broker ------------------------------------------------------------------------------ */

/* Numbers stand in $SYS as text. */
static json_int_t number(json_t *values, const char *key)
{
    const char *text = json_string_value(json_object_get(values, key));
    return text != NULL ? (json_int_t)strtoll(text, NULL, 10) : 0;
}

/* "streams/NAME/published" becomes {"stream": NAME, "published": …}. Names hold no slash. */
static json_t *stream_rows(json_t *values)
{
    json_t *rows = json_array();
    const char *key;
    json_t *value;
    static const char prefix[] = "streams/", suffix[] = "/published";
    json_object_foreach(values, key, value)
    {
        size_t len = strlen(key);
        if (strncmp(key, prefix, strlen(prefix)) != 0 || len <= strlen(prefix) + strlen(suffix) ||
            strcmp(key + len - strlen(suffix), suffix) != 0) {
            continue;
        }
        const char *name = key + strlen(prefix);
        const int name_len = (int)(len - strlen(prefix) - strlen(suffix));
        json_t *row = json_pack("{s:s#}", "stream", name, name_len);
        json_int_t rest = 0;
        char topic[CLI_TEXT_MAX * 2];
        for (size_t i = 1; i + 1 < COUNT(stream_columns); i++) {
            snprintf(topic, sizeof topic, "streams/%.*s/%s", name_len, name, stream_columns[i].key);
            json_int_t n = number(values, topic);
            json_object_set_new(row, stream_columns[i].key, json_integer(n));
            rest += i == 1 ? n : -n;
        }
        json_object_set_new(row, "unexplained", json_integer(rest));
        snprintf(topic, sizeof topic, "streams/%.*s/unkeyed", name_len, name);
        json_object_set_new(row, "unkeyed", json_integer(number(values, topic)));
        json_array_append_new(rows, row);
    }
    return rows;
}

static int compare_rows(const void *a, const void *b)
{
    return strcmp(json_string_value(json_object_get(*(json_t *const *)a, "stream")),
                  json_string_value(json_object_get(*(json_t *const *)b, "stream")));
}

/* The same array, by name: the broker sends its topics in an order of its own. */
static json_t *sorted(json_t *rows)
{
    size_t count = json_array_size(rows);
    json_t **list = malloc((count + 1) * sizeof(json_t *));
    if (list == NULL) {
        return rows;
    }
    for (size_t i = 0; i < count; i++) {
        list[i] = json_incref(json_array_get(rows, i));
    }
    json_array_clear(rows);
    qsort(list, count, sizeof(json_t *), compare_rows);
    for (size_t i = 0; i < count; i++) {
        json_array_append_new(rows, list[i]);
    }
    free(list);
    return rows;
}

static void fill_broker(json_t *out, json_t *values)
{
    json_int_t used = number(values, "ring/used"), bytes = number(values, "ring/bytes");
    json_t *rows = sorted(stream_rows(values)), *row;
    bool balanced = true;
    size_t i;
    json_array_foreach(rows, i, row)
    {
        balanced = balanced && json_integer_value(json_object_get(row, "unexplained")) == 0;
    }
    json_object_set(out, "state", json_object_get(values, "state"));
    json_object_set(out, "version", json_object_get(values, "version"));
    const char *error = json_string_value(json_object_get(values, "error"));
    if (error != NULL && error[0] != '\0') {
        json_object_set_new(out, "capture_error", json_string(error));
    }
    json_object_set_new(out, "received", json_integer(number(values, "received")));
    json_object_set_new(out, "unmatched", json_integer(number(values, "unmatched")));
    json_object_set_new(out, "ring_used", json_integer(used));
    json_object_set_new(out, "ring_bytes", json_integer(bytes));
    json_object_set_new(out, "ring_percent",
                        json_real(bytes > 0 ? 100.0 * (double)used / (double)bytes : 0));
    json_object_set_new(out, "writer_lag_ms", json_integer(number(values, "writer/lag-ms")));
    json_object_set_new(out, "log_bytes", json_integer(number(values, "log/bytes")));
    json_object_set_new(out, "balanced", json_boolean(balanced));
    json_object_set_new(out, "streams", rows);
}

static json_t *broker_status(const struct cli *cli)
{
    json_t *out = json_pack("{s:s, s:b}", "address", cli->mqtt, "reachable", 0);
    struct errmsg m;
    json_t *values = sys_read(cli, &m);
    char text[sizeof m.text + CLI_TEXT_MAX + 64];
    if (values == NULL) {
        snprintf(text, sizeof text, "cannot read from the broker at %s: %s; is mosquitto running?",
                 cli->mqtt, m.text);
        json_object_set_new(out, "error", json_string(text));
        return out;
    }
    json_object_set_new(out, "reachable", json_true());
    if (json_object_size(values) == 0) {
        json_object_set_new(out, "error", json_string("the broker runs without the culex plugin"));
    } else {
        fill_broker(out, values);
    }
    json_decref(values);
    return out;
}

int verb_status(const struct cli *cli)
{
    json_t *server = server_status(cli), *broker = broker_status(cli);
    const char *state = json_string_value(json_object_get(broker, "state"));
    bool ok = json_is_true(json_object_get(server, "reachable")) && state != NULL &&
              strcmp(state, "running") == 0 && json_is_true(json_object_get(broker, "balanced"));
    json_t *document =
        json_pack("{s:b, s:o, s:o}", "ok", ok ? 1 : 0, "server", server, "broker", broker);
    if (cli->json) {
        out_json(document);
    } else {
        out_fields(server, server_fields, COUNT(server_fields));
        printf("\n");
        out_fields(broker, broker_fields, COUNT(broker_fields));
        if (json_object_get(broker, "streams") != NULL) {
            printf("\n");
            out_table(json_object_get(broker, "streams"), stream_columns, COUNT(stream_columns),
                      "no streams");
        }
    }
    json_decref(document);
    return ok ? CLI_OK : CLI_FAILED;
}
