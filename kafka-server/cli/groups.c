/* culex groups: who reads, and how far they are. Lag is the end of a partition minus what is
 * committed; where nothing is committed there is no lag to speak of, and "-" stands there. It
 * stands for the members of KIP-848 groups too, which librdkafka lists and cannot describe. */
#include <stdio.h>
#include <string.h>

#include "kafka-server/cli/cli.h"

static const struct column all_columns[] = {
    {"group", "GROUP", false},          {"state", "STATE", false}, {"members", "MEMBERS", true},
    {"partitions", "PARTITIONS", true}, {"lag", "LAG", true},      {"assignor", "ASSIGNOR", false},
};
static const struct column one_fields[] = {
    {"group", "group", false},
    {"state", "state", false},
    {"assignor", "assignor", false},
    {"lag", "lag", false},
};
static const struct column partition_columns[] = {
    {"topic", "STREAM", false},
    {"partition", "PARTITION", true},
    {"committed", "COMMITTED", true},
    {"end", "END", true},
    {"lag", "LAG", true},
    {"client", "CLIENT", false},
    {"host", "HOST", false},
};
static const struct column member_columns[] = {
    {"client", "CLIENT", false},     {"host", "HOST", false},
    {"instance", "INSTANCE", false}, {"partitions", "PARTITIONS", true},
    {"member", "MEMBER", false},
};
#define COUNT(a) (sizeof(a) / sizeof(a)[0])

static void print_group(json_t *g)
{
    out_fields(g, one_fields, COUNT(one_fields));
    printf("\n");
    out_table(json_object_get(g, "partitions"), partition_columns, COUNT(partition_columns),
              "nothing is committed");
    printf("\n");
    json_t *members = json_object_get(g, "members");
    out_table(members, member_columns, COUNT(member_columns),
              json_is_null(members) ? "members of group.protocol=consumer: `kafka-consumer-groups "
                                      "--describe --members` tells them"
                                    : "no members");
}

/* The protocol has no "no such group" before version 6 of DescribeGroups: a group that is not there
 * is Dead. One that is listed and cannot be described has null for its members. */
static bool is_there(json_t *groups)
{
    json_t *g = json_array_get(groups, 0);
    return g != NULL && (strcmp(json_string_value(json_object_get(g, "state")), "Dead") != 0 ||
                         json_is_null(json_object_get(g, "members")) ||
                         json_array_size(json_object_get(g, "partitions")) > 0);
}

int verb_groups(const struct cli *cli)
{
    struct kafka k;
    struct errmsg m;
    if (!kafka_open(cli, &k, &m)) {
        return out_error("%s", m.text);
    }
    json_t *groups = kafka_groups(&k, cli->argument, &m);
    int rc = CLI_OK;
    if (groups == NULL) {
        rc = out_error("%s", m.text);
    } else if (cli->argument != NULL && !is_there(groups)) {
        rc = out_error("there is no group %s; `culex groups` lists what there is", cli->argument);
    } else if (cli->json) {
        out_json(cli->argument != NULL ? json_array_get(groups, 0) : groups);
    } else if (cli->argument != NULL) {
        print_group(json_array_get(groups, 0));
    } else {
        out_table(groups, all_columns, COUNT(all_columns), "no groups");
    }
    json_decref(groups);
    kafka_close(&k);
    return rc;
}
