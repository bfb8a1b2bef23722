/* What the verbs ask of the server, through librdkafka.
 *
 * Positions of all partitions are asked for in one request each for starts and ends:
 * rd_kafka_offsets_for_times takes the protocol's special timestamps (-1 the end, -2 the start),
 * and a thousand streams of sixteen partitions would otherwise be thousands of round trips. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kafka-server/cli/cli.h"

#define KAFKA_PORT 9092
/* librdkafka looks for each partition of an answer from the front of the list. */
#define PARTITIONS_PER_REQUEST 512

static void conf_set(rd_kafka_conf_t *conf, const char *name, const char *value)
{
    char text[256];
    if (rd_kafka_conf_set(conf, name, value, text, sizeof text) != RD_KAFKA_CONF_OK) {
        out_note("%s", text);
    }
}

static void no_log(const rd_kafka_t *rk, int level, const char *fac, const char *buf)
{
    /* Failures are told once, by the call that fails. */
}

bool kafka_open(const struct cli *cli, struct kafka *k, struct errmsg *m)
{
    char host[CLI_TEXT_MAX], text[256];
    int port;
    memset(k, 0, sizeof *k);
    if (!reach_split(cli->server, KAFKA_PORT, host, sizeof host, &port)) {
        err_set(m, ERR_IO, "%s is not of the form host:port", cli->server);
        return false;
    }
    struct errmsg why;
    if (!reach_probe(host, port, cli->timeout_ms, &why)) {
        err_set(m, ERR_IO, "cannot reach the server at %s: %s; is culex-server running?",
                cli->server, why.text);
        return false;
    }
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    snprintf(text, sizeof text, strchr(host, ':') != NULL ? "[%s]:%d" : "%s:%d", host, port);
    conf_set(conf, "bootstrap.servers", text);
    conf_set(conf, "client.id", "culex");
    rd_kafka_conf_set_log_cb(conf, no_log);
    k->rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, m->text, sizeof m->text);
    if (k->rk == NULL) {
        rd_kafka_conf_destroy(conf);
        return false;
    }
    k->queue = rd_kafka_queue_new(k->rk);
    k->timeout_ms = cli->timeout_ms;
    return true;
}

void kafka_close(struct kafka *k)
{
    if (k->rk != NULL) {
        rd_kafka_queue_destroy(k->queue);
        rd_kafka_destroy(k->rk);
        k->rk = NULL;
    }
}

static bool failed(struct errmsg *m, const char *what, const char *why)
{
    err_set(m, ERR_IO, "%s: %s", what, why);
    return false;
}

const struct rd_kafka_metadata *kafka_metadata(struct kafka *k, struct errmsg *m)
{
    const struct rd_kafka_metadata *md;
    rd_kafka_resp_err_t e = rd_kafka_metadata(k->rk, 1, NULL, &md, k->timeout_ms);
    if (e != RD_KAFKA_RESP_ERR_NO_ERROR) {
        failed(m,
               "the server does not tell its topics; is it a Kafka port, and may it take one more "
               "connection (max.connections, max.connections.per.ip; its log tells)?",
               rd_kafka_err2str(e));
        return NULL;
    }
    return md;
}

/* One request: offsets of the partitions from..to of the list. */
static rd_kafka_resp_err_t offsets_of(struct kafka *k, rd_kafka_topic_partition_list_t *list,
                                      int from, int to, int64_t which)
{
    rd_kafka_topic_partition_list_t *part = rd_kafka_topic_partition_list_new(to - from);
    for (int i = from; i < to; i++) {
        rd_kafka_topic_partition_list_add(part, list->elems[i].topic, list->elems[i].partition)
            ->offset = which;
    }
    rd_kafka_resp_err_t e = rd_kafka_offsets_for_times(k->rk, part, k->timeout_ms);
    for (int i = from; i < to && e == RD_KAFKA_RESP_ERR_NO_ERROR; i++) {
        const rd_kafka_topic_partition_t *p = &part->elems[i - from]; /* in the order asked */
        list->elems[i].offset = p->err == RD_KAFKA_RESP_ERR_NO_ERROR ? p->offset : -1;
    }
    rd_kafka_topic_partition_list_destroy(part);
    return e;
}

bool kafka_offsets(struct kafka *k, rd_kafka_topic_partition_list_t *list, int64_t which,
                   struct errmsg *m)
{
    for (int from = 0; from < list->cnt; from += PARTITIONS_PER_REQUEST) {
        int left = list->cnt - from;
        int to = from + (left < PARTITIONS_PER_REQUEST ? left : PARTITIONS_PER_REQUEST);
        rd_kafka_resp_err_t e = offsets_of(k, list, from, to, which);
        if (e != RD_KAFKA_RESP_ERR_NO_ERROR) {
            return failed(m, "the server does not tell its offsets", rd_kafka_err2str(e));
        }
    }
    return true;
}

/* Waits for the answer to an administrator's request. NULL: m says why. */
static rd_kafka_event_t *answer(struct kafka *k, const char *what, struct errmsg *m)
{
    rd_kafka_event_t *ev = rd_kafka_queue_poll(k->queue, k->timeout_ms * 2);
    if (ev == NULL) {
        failed(m, what, "no answer");
        return NULL;
    }
    if (rd_kafka_event_error(ev) != RD_KAFKA_RESP_ERR_NO_ERROR) {
        failed(m, what, rd_kafka_event_error_string(ev));
        rd_kafka_event_destroy(ev);
        return NULL;
    }
    return ev;
}

static rd_kafka_AdminOptions_t *options(struct kafka *k, rd_kafka_admin_op_t op)
{
    char text[128];
    rd_kafka_AdminOptions_t *o = rd_kafka_AdminOptions_new(k->rk, op);
    if (rd_kafka_AdminOptions_set_request_timeout(o, k->timeout_ms, text, sizeof text) !=
        RD_KAFKA_RESP_ERR_NO_ERROR) {
        out_note("%s", text);
    }
    return o;
}

/* --- configuration of topics ----------------------------------------------------------------- */

static json_t *config_entries(const rd_kafka_ConfigResource_t *r)
{
    size_t count;
    const rd_kafka_ConfigEntry_t **list = rd_kafka_ConfigResource_configs(r, &count);
    json_t *out = json_object();
    for (size_t i = 0; i < count; i++) {
        const char *value = rd_kafka_ConfigEntry_value(list[i]);
        json_object_set_new(out, rd_kafka_ConfigEntry_name(list[i]),
                            value != NULL ? json_string(value) : json_null());
    }
    return out;
}

json_t *kafka_topic_configs(struct kafka *k, const struct rd_kafka_metadata *md, struct errmsg *m)
{
    size_t count = (size_t)md->topic_cnt;
    rd_kafka_ConfigResource_t **list = calloc(count + 1, sizeof *list);
    if (list == NULL) {
        failed(m, "topics", "no memory");
        return NULL;
    }
    for (size_t i = 0; i < count; i++) {
        list[i] = rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC, md->topics[i].topic);
    }
    json_t *out = json_object();
    if (count > 0) {
        rd_kafka_AdminOptions_t *o = options(k, RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS);
        rd_kafka_DescribeConfigs(k->rk, list, count, o, k->queue);
        rd_kafka_AdminOptions_destroy(o);
        rd_kafka_event_t *ev = answer(k, "the server does not tell the settings of its topics", m);
        size_t n = 0;
        const rd_kafka_ConfigResource_t **got =
            ev != NULL ? rd_kafka_DescribeConfigs_result_resources(
                             rd_kafka_event_DescribeConfigs_result(ev), &n)
                       : NULL;
        for (size_t i = 0; i < n; i++) {
            json_object_set_new(out, rd_kafka_ConfigResource_name(got[i]), config_entries(got[i]));
        }
        if (ev == NULL) {
            json_decref(out);
            out = NULL;
        } else {
            rd_kafka_event_destroy(ev);
        }
        rd_kafka_ConfigResource_destroy_array(list, count);
    }
    free(list);
    return out;
}

/* --- groups ---------------------------------------------------------------------------------- */

/* {"name": "state", …} */
static json_t *group_states(struct kafka *k, struct errmsg *m)
{
    rd_kafka_AdminOptions_t *o = options(k, RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPS);
    rd_kafka_ListConsumerGroups(k->rk, o, k->queue);
    rd_kafka_AdminOptions_destroy(o);
    rd_kafka_event_t *ev = answer(k, "the server does not list its groups", m);
    if (ev == NULL) {
        return NULL;
    }
    const rd_kafka_ListConsumerGroups_result_t *result =
        rd_kafka_event_ListConsumerGroups_result(ev);
    size_t count, error_count;
    const rd_kafka_error_t **errors =
        rd_kafka_ListConsumerGroups_result_errors(result, &error_count);
    const rd_kafka_ConsumerGroupListing_t **list =
        rd_kafka_ListConsumerGroups_result_valid(result, &count);
    json_t *out = json_object();
    if (error_count > 0) { /* of one server, so nothing came */
        failed(m, "the server does not list its groups", rd_kafka_error_string(errors[0]));
        json_decref(out);
        out = NULL;
    }
    for (size_t i = 0; i < count && out != NULL; i++) {
        const char *state =
            rd_kafka_consumer_group_state_name(rd_kafka_ConsumerGroupListing_state(list[i]));
        json_object_set_new(out, rd_kafka_ConsumerGroupListing_group_id(list[i]),
                            json_string(state));
    }
    rd_kafka_event_destroy(ev);
    return out;
}

/* What the group has committed, as a list of its own. NULL: m says why. */
static rd_kafka_topic_partition_list_t *committed(struct kafka *k, const char *group,
                                                  struct errmsg *m)
{
    rd_kafka_ListConsumerGroupOffsets_t *ask = rd_kafka_ListConsumerGroupOffsets_new(group, NULL);
    rd_kafka_AdminOptions_t *o = options(k, RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPOFFSETS);
    rd_kafka_ListConsumerGroupOffsets(k->rk, &ask, 1, o, k->queue);
    rd_kafka_AdminOptions_destroy(o);
    rd_kafka_ListConsumerGroupOffsets_destroy(ask);
    rd_kafka_event_t *ev = answer(k, "the server does not tell a group's offsets", m);
    if (ev == NULL) {
        return NULL;
    }
    size_t count;
    const rd_kafka_group_result_t **list = rd_kafka_ListConsumerGroupOffsets_result_groups(
        rd_kafka_event_ListConsumerGroupOffsets_result(ev), &count);
    const rd_kafka_topic_partition_list_t *got =
        count > 0 ? rd_kafka_group_result_partitions(list[0]) : NULL;
    rd_kafka_topic_partition_list_t *out = got != NULL ? rd_kafka_topic_partition_list_copy(got)
                                                       : rd_kafka_topic_partition_list_new(0);
    rd_kafka_event_destroy(ev);
    return out;
}

static json_t *partition_row(const rd_kafka_topic_partition_t *p)
{
    return json_pack("{s:s, s:i, s:n, s:n, s:n, s:n, s:n}", "topic", p->topic, "partition",
                     p->partition, "committed", "end", "lag", "client", "host");
}

/* The rows of a group's partitions, and where each is. */
struct rows {
    json_t *list;  /* an array */
    json_t *index; /* "topic/partition": the same object */
};

/* The row of a partition, made if there is none. Borrowed. */
static json_t *find_row(struct rows *rows, const rd_kafka_topic_partition_t *p)
{
    char key[CLI_TEXT_MAX + 16];
    snprintf(key, sizeof key, "%s/%d", p->topic, p->partition);
    json_t *row = json_object_get(rows->index, key);
    if (row == NULL) {
        row = partition_row(p);
        json_array_append_new(rows->list, row);
        json_object_set(rows->index, key, row);
    }
    return row;
}

static json_t *members_of(const rd_kafka_ConsumerGroupDescription_t *g, struct rows *rows)
{
    json_t *out = json_array();
    size_t count = rd_kafka_ConsumerGroupDescription_member_count(g);
    for (size_t i = 0; i < count; i++) {
        const rd_kafka_MemberDescription_t *m = rd_kafka_ConsumerGroupDescription_member(g, i);
        const rd_kafka_MemberAssignment_t *a = rd_kafka_MemberDescription_assignment(m);
        const rd_kafka_topic_partition_list_t *parts =
            a != NULL ? rd_kafka_MemberAssignment_partitions(a) : NULL;
        const char *client = rd_kafka_MemberDescription_client_id(m);
        const char *host = rd_kafka_MemberDescription_host(m);
        for (int p = 0; parts != NULL && p < parts->cnt; p++) {
            json_t *row = find_row(rows, &parts->elems[p]);
            json_object_set_new(row, "client", json_string(client));
            json_object_set_new(row, "host", json_string(host));
        }
        const char *instance = rd_kafka_MemberDescription_group_instance_id(m);
        json_array_append_new(out, json_pack("{s:s, s:s?, s:s, s:s, s:i}", "member",
                                             rd_kafka_MemberDescription_consumer_id(m), "instance",
                                             instance, "client", client, "host", host, "partitions",
                                             parts != NULL ? parts->cnt : 0));
    }
    return out;
}

static int compare_partitions(const void *a, const void *b, void *arg)
{
    const rd_kafka_topic_partition_t *x = a, *y = b;
    int c = strcmp(x->topic, y->topic);
    return c != 0 ? c : (x->partition > y->partition) - (x->partition < y->partition);
}

/* Ends and lags of all rows; the sum of what is known in *total. */
static bool fill_lag(struct kafka *k, json_t *rows, int64_t *total, struct errmsg *m)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(16);
    size_t i;
    json_t *row;
    json_array_foreach(rows, i, row)
    {
        rd_kafka_topic_partition_list_add(
            list, json_string_value(json_object_get(row, "topic")),
            (int32_t)json_integer_value(json_object_get(row, "partition")));
    }
    bool ok = kafka_offsets(k, list, RD_KAFKA_OFFSET_END, m);
    json_array_foreach(rows, i, row)
    {
        json_t *at = json_object_get(row, "committed");
        int64_t end = ok ? list->elems[i].offset : -1;
        if (end >= 0) {
            json_object_set_new(row, "end", json_integer(end));
        }
        if (end >= 0 && json_is_integer(at)) {
            int64_t lag = end - json_integer_value(at);
            json_object_set_new(row, "lag", json_integer(lag > 0 ? lag : 0));
            *total += lag > 0 ? lag : 0;
        }
    }
    rd_kafka_topic_partition_list_destroy(list);
    return ok;
}

/* A group of KIP-848 is described as one that is Dead: DescribeGroups is about classic ones. What
 * is listed is there, whatever the description says; its state is the listing's, and its members
 * are not told (null). listed: that state, NULL if it is not listed. */
static json_t *group_document(struct kafka *k, const rd_kafka_ConsumerGroupDescription_t *g,
                              const char *listed, struct errmsg *m)
{
    const char *name = rd_kafka_ConsumerGroupDescription_group_id(g);
    const rd_kafka_error_t *error = rd_kafka_ConsumerGroupDescription_error(g);
    if (error != NULL) {
        err_set(m, ERR_IO, "group %s: %s", name, rd_kafka_error_string(error));
        return NULL;
    }
    rd_kafka_topic_partition_list_t *list = committed(k, name, m);
    if (list == NULL) {
        return NULL;
    }
    rd_kafka_topic_partition_list_sort(list, compare_partitions, NULL);
    struct rows rows = {json_array(), json_object()};
    for (int i = 0; i < list->cnt; i++) {
        if (list->elems[i].offset >= 0) {
            json_object_set_new(find_row(&rows, &list->elems[i]), "committed",
                                json_integer(list->elems[i].offset));
        }
    }
    rd_kafka_topic_partition_list_destroy(list);
    rd_kafka_consumer_group_state_t state = rd_kafka_ConsumerGroupDescription_state(g);
    bool told = state != RD_KAFKA_CONSUMER_GROUP_STATE_DEAD || listed == NULL;
    json_t *members = told ? members_of(g, &rows) : json_null();
    json_decref(rows.index);
    int64_t lag = 0;
    if (!fill_lag(k, rows.list, &lag, m)) {
        json_decref(rows.list);
        json_decref(members);
        return NULL;
    }
    return json_pack("{s:s, s:s, s:s, s:o, s:o, s:I}", "group", name, "state",
                     told ? rd_kafka_consumer_group_state_name(state) : listed,
                     "assignor", rd_kafka_ConsumerGroupDescription_partition_assignor(g), "members",
                     members, "partitions", rows.list, "lag", (json_int_t)lag);
}

static json_t *describe(struct kafka *k, const char **list, size_t count, json_t *states,
                        struct errmsg *m)
{
    json_t *out = json_array();
    if (count == 0) {
        return out;
    }
    rd_kafka_AdminOptions_t *o = options(k, RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS);
    rd_kafka_DescribeConsumerGroups(k->rk, list, count, o, k->queue);
    rd_kafka_AdminOptions_destroy(o);
    rd_kafka_event_t *ev = answer(k, "the server does not describe its groups", m);
    size_t n = 0;
    const rd_kafka_ConsumerGroupDescription_t **got =
        ev != NULL ? rd_kafka_DescribeConsumerGroups_result_groups(
                         rd_kafka_event_DescribeConsumerGroups_result(ev), &n)
                   : NULL;
    bool ok = ev != NULL;
    for (size_t i = 0; ok && i < n; i++) {
        const char *name = rd_kafka_ConsumerGroupDescription_group_id(got[i]);
        const char *listed = json_string_value(json_object_get(states, name));
        json_t *g = group_document(k, got[i], listed, m);
        ok = g != NULL && json_array_append_new(out, g) == 0;
    }
    if (ev != NULL) {
        rd_kafka_event_destroy(ev);
    }
    if (!ok) {
        json_decref(out);
        return NULL;
    }
    return out;
}

json_t *kafka_groups(struct kafka *k, const char *group, struct errmsg *m)
{
    json_t *states = group_states(k, m), *state, *out = NULL;
    const char **list = calloc(json_object_size(states) + 1, sizeof *list), *name;
    size_t count = 0;
    if (states != NULL && list == NULL) {
        failed(m, "groups", "no memory");
    } else if (states != NULL) {
        if (group != NULL) {
            list[count++] = group;
        } else {
            json_object_foreach(states, name, state)
            {
                list[count++] = name;
            }
        }
        out = describe(k, list, count, states, m);
    }
    free(list);
    json_decref(states);
    return out;
}
