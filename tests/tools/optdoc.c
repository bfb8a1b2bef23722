/* Writes docs/configuration.md to stdout, from the rows of shared/config/options.c and of
 * kafka-server/broker/topic_config.c. */
#include "kafka-server/broker/topic_config.h"
#include "shared/config/config.h"

#include <inttypes.h>
#include <stdio.h>

static const struct {
    const char *name, *title, *text;
} sections[] = {
    {"", "Top of the file", "For the plugin and the server."},
    {"store", "`store`", "How the plugin keeps the captured log."},
    {"stream", "`streams` and `defaults`",
     "`streams` is an array of objects with these keys. `defaults` is one object: what it says "
     "holds for every stream that does not say otherwise (it takes all keys but `name` and "
     "`filters`)."},
    {"server", "`server`", "For culex-server. Names are Kafka's where Kafka has the setting."},
};

static const char intro[] =
    "# Configuration\n"
    "\n"
    "One file, `culex.json`, for the plugin, the server and the command line. It is JSON: no\n"
    "comments, no trailing commas; numbers are written without quotes, sizes are bytes and\n"
    "times milliseconds where the name does not say otherwise. The file is checked whole\n"
    "before anything starts, and each mistake is one sentence with its line and what would be\n"
    "right; `culex check FILE` does only that.\n"
    "\n"
    "A setting outside of streams can also come from the environment: `CULEX_` and its name\n"
    "in capitals with `_` for the dots (`CULEX_ADVERTISED_LISTENERS`), without its section:\n"
    "`limit.bytes` of `store` is `CULEX_LIMIT_BYTES`, the server's `store.limit.bytes` is\n"
    "`CULEX_STORE_LIMIT_BYTES`. It wins over the file. A variable with this prefix that names no\n"
    "setting is warned about, and nothing more.\n"
    "The smallest capture needs no file: in mosquitto.conf, `plugin_opt_stream NAME` and\n"
    "`plugin_opt_filter FILTER` (as often as needed), and any other setting of the plugin as\n"
    "`plugin_opt_` and its name with `_` for the dots.\n"
    "\n"
    "SIGHUP makes broker and server read the file again; what is marked *reload* is applied\n"
    "then, the rest at the next start. A file with a mistake changes nothing.\n"
    "\n"
    "This page is made from the table of settings by `make docs`.\n";

static void put_type(const struct option_view *v)
{
    switch (v->type) {
    case OPTION_BOOL:
        printf("true or false");
        return;
    case OPTION_INT:
    case OPTION_LONG:
        if (v->max == INT64_MAX) {
            printf("number, %" PRId64 " or more", v->min);
        } else {
            printf("number, %" PRId64 " to %" PRId64, v->min, v->max);
        }
        return;
    case OPTION_DOUBLE:
        printf("number, %" PRId64 " to %" PRId64 ", with a fraction", v->min, v->max);
        return;
    case OPTION_CHOICE:
        for (int i = 0; v->choices[i]; i++) {
            printf("%s`\"%s\"`", i == 0 ? "" : v->choices[i + 1] ? ", " : " or ", v->choices[i]);
        }
        return;
    case OPTION_LIST:
        printf("%s", strcmp(v->section, "stream") == 0 ? "array of strings" : "string, a list");
        return;
    case OPTION_STRING:
        printf("string");
    }
}

static void put_default(const struct option_view *v)
{
    bool number = v->type == OPTION_INT || v->type == OPTION_LONG || v->type == OPTION_BOOL ||
                  v->type == OPTION_DOUBLE;
    if (number && v->default_text[0] == '\0') {
        printf("none");
    } else if (number) {
        printf("`%s`", v->default_text);
    } else if (strcmp(v->name, "name") == 0 || strcmp(v->name, "filters") == 0) {
        printf("needed");
    } else {
        printf("`\"%s\"`", v->default_text);
    }
}

/* '|' would end a cell. */
static void put_cell(const char *text)
{
    for (; *text; text++) {
        printf(*text == '|' ? "\\|" : "%c", *text);
    }
}

static const char topics_intro[] =
    "\n## Configs of a topic\n"
    "\n"
    "Of a stream that a Kafka client makes; Kafka's names, types, defaults and bounds.\n"
    "`kafka-configs` shows and changes them. Where the third column names a setting of `server`,\n"
    "that is the default: a change of it, applied at SIGHUP, changes all topics that have not\n"
    "said otherwise. *Without effect* is accepted, kept and shown. A captured stream has its\n"
    "retention and cleanup from `streams` or from who has bound it, and none of the server's\n"
    "defaults, which are for what Kafka clients write.\n"
    "\n"
    "| config | default | of the server | |\n|---|---|---|---|\n";

/* Why two configs cannot mean more than they do. */
static const char segments[] =
    "\n### Segments\n"
    "\n"
    "In Kafka a partition is a row of files, segments, and only a closed one is compacted or\n"
    "deleted: who makes `segment.bytes` or `segment.ms` small wants that soon. Here all\n"
    "partitions of a store share one segment after the other, so that thousands of them cost no\n"
    "more files than one does; a segment of a partition alone is not there to be closed. What is\n"
    "wanted holds all the same:\n"
    "\n"
    "* By size: the store's segment closes when a partition has its topic's `segment.bytes` in it\n"
    "  (Kafka's least is 1 MB, its default 1 GB), or all partitions together have\n"
    "  `store.segment.bytes`, 16 MB where nothing else is said: what is asked for is the most.\n"
    "* By age: the least `segment.ms` of all topics counts, `retention.ms` / 10 and\n"
    "  `max.compaction.lag.ms` as well, an hour at most. Below ten seconds it is ten seconds:\n"
    "  each close is a file.\n"
    "* Nobody keeps records from being deleted or compacted by large segments:\n"
    "  `min.compaction.lag.ms` and `retention.ms` say how long they stay.\n";

static void put_topic_configs(void)
{
    fputs(topics_intro, stdout);
    for (size_t i = 0; i < topic_config_count; i++) {
        const struct topic_config *row = &topic_configs[i];
        const char *usual = row->usual[0] != '\0' ? row->usual : "\"\"";
        printf("| `%s` | `%s` | ", row->name, usual);
        if (row->synonym != NULL && topic_config_of_server(row->synonym)) {
            printf("`%s` ", row->synonym);
        }
        printf("| ");
        put_cell(row->doc);
        printf(" |\n");
    }
    fputs(segments, stdout);
}

int main(void)
{
    fputs(intro, stdout);
    for (size_t s = 0; s < sizeof sections / sizeof sections[0]; s++) {
        printf("\n## %s\n\n%s\n\n| key | value | default | |\n|---|---|---|---|\n",
               sections[s].title, sections[s].text);
        for (size_t i = 0; i < option_count(); i++) {
            struct option_view v;
            option_view(i, &v);
            if (strcmp(v.section, sections[s].name) != 0) {
                continue;
            }
            printf("| `%s` | ", v.name);
            put_type(&v);
            printf(" | ");
            put_default(&v);
            printf(" | ");
            put_cell(v.doc);
            printf("%s |\n", v.reload ? " *reload*" : "");
        }
    }
    put_topic_configs();
    return 0;
}
