/* culex VERB [ARGUMENT] [OPTIONS]: two tables, verbs and options; help is printed from them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kafka-server/cli/cli.h"
#include "shared/config/config.h"
#include "shared/config/listeners.h"

struct verb {
    const char *name, *argument, *summary;
    const char *help;
    int (*run)(const struct cli *cli);
};

static const struct verb verbs[] = {
    {"check", "FILE", "look through a configuration file",
     "Reads FILE (or that of --config, or " CLI_CONFIG_DEFAULT
     ") as the broker's plugin and the server\n"
     "would, and prints every mistake with its line. Notes are about what is allowed and\n"
     "perhaps not meant. Ends with 2 when there are mistakes.",
     verb_check},
    {"streams", "STREAM", "what there is to read",
     "Lists all streams: RECORDS is what is kept now, WRITTEN what was ever written. With\n"
     "STREAM: its partitions, one by one.",
     verb_streams},
    {"groups", "GROUP", "who reads, and how far they are",
     "Lists all consumer groups with their lag: records that are not committed yet. With\n"
     "GROUP: each partition, and each member.",
     verb_groups},
    {"status", NULL, "is everything up",
     "Asks the server and the broker. Ends with 1 when one of them cannot be reached, when\n"
     "capture is degraded, or when publishes are unaccounted for.",
     verb_status},
};

enum option {
    OPT_SERVER,
    OPT_MQTT,
    OPT_CONFIG,
    OPT_USER,
    OPT_PASSWORD,
    OPT_OUTPUT,
    OPT_TIMEOUT,
    OPT_HELP,
    OPT_VERSION
};

static const struct {
    const char *name, *value, *help;
    char letter; /* 0: none */
} option_rows[] = {
    [OPT_SERVER] = {"server", "HOST:PORT",
                    "culex-server (else CULEX_SERVER, the configuration, localhost:9092)", 's'},
    [OPT_MQTT] = {"mqtt", "HOST:PORT", "the MQTT broker (else CULEX_MQTT, localhost:1883)", 'm'},
    [OPT_CONFIG] = {"config", "FILE", "take the server's address from this culex.json", 'c'},
    [OPT_USER] = {"username", "NAME", "for the MQTT broker", 'u'},
    [OPT_PASSWORD] = {"password", "WORD", "for the MQTT broker (else CULEX_MQTT_PASSWORD)", 'P'},
    [OPT_OUTPUT] = {"output", "FORMAT", "table or json", 'o'},
    [OPT_TIMEOUT] = {"timeout", "SECONDS", "wait no longer for an answer (5)", 't'},
    [OPT_HELP] = {"help", NULL, "this text; after a verb, about that verb", 'h'},
    [OPT_VERSION] = {"version", NULL, "print the version", 'V'},
};
#define COUNT(a)      (sizeof(a) / sizeof(a)[0])
#define TIMEOUT_S_MAX 3600

static void print_options(FILE *to)
{
    fprintf(to, "\nOptions\n");
    for (size_t i = 0; i < COUNT(option_rows); i++) {
        char name[64];
        snprintf(name, sizeof name, "-%c, --%s %s", option_rows[i].letter, option_rows[i].name,
                 option_rows[i].value != NULL ? option_rows[i].value : "");
        fprintf(to, "  %-24s  %s\n", name, option_rows[i].help);
    }
}

static void print_help(FILE *to)
{
    fprintf(to, "culex: look after MQTT streams\n\n  culex VERB [ARGUMENT] [OPTIONS]\n\nVerbs\n");
    for (size_t i = 0; i < COUNT(verbs); i++) {
        char name[64];
        const char *argument = verbs[i].argument;
        snprintf(name, sizeof name, "%s %s%s%s", verbs[i].name, argument != NULL ? "[" : "",
                 argument != NULL ? argument : "", argument != NULL ? "]" : "");
        fprintf(to, "  %-24s  %s\n", name, verbs[i].summary);
    }
    print_options(to);
}

static void print_verb_help(const struct verb *v)
{
    printf("culex %s %s%s%s[OPTIONS]: %s\n\n%s\n", v->name, v->argument != NULL ? "[" : "",
           v->argument != NULL ? v->argument : "", v->argument != NULL ? "] " : "", v->summary,
           v->help);
    print_options(stdout);
}

static const struct verb *find_verb(const char *name)
{
    for (size_t i = 0; i < COUNT(verbs); i++) {
        if (strcmp(verbs[i].name, name) == 0) {
            return &verbs[i];
        }
    }
    return NULL;
}

/* The row that argv[*at] names, and its value (which may be in the next argument). -1: none. */
static int parse_option(int argc, char **argv, int *at, const char **value)
{
    const char *text = argv[*at], *inline_value = NULL;
    *value = NULL;
    for (size_t i = 0; i < COUNT(option_rows); i++) {
        size_t n = strlen(option_rows[i].name);
        bool is_long = strncmp(text, "--", 2) == 0 &&
                       strncmp(text + 2, option_rows[i].name, n) == 0 &&
                       (text[2 + n] == '\0' || text[2 + n] == '=');
        bool is_short = text[0] == '-' && text[1] == option_rows[i].letter;
        if (!is_long && !is_short) {
            continue;
        }
        if (is_long && text[2 + n] == '=') {
            inline_value = text + 3 + n;
        } else if (is_short && text[2] != '\0') {
            inline_value = text + 2;
        }
        if (option_rows[i].value == NULL) {
            return inline_value == NULL ? (int)i : -1;
        }
        *value = inline_value != NULL ? inline_value : *at + 1 < argc ? argv[++*at] : NULL;
        return *value != NULL ? (int)i : -1;
    }
    return -1;
}

static bool set_text(char *to, const char *value)
{
    return (size_t)snprintf(to, CLI_TEXT_MAX, "%s", value) < CLI_TEXT_MAX;
}

/* False: the value is none that this option takes. */
static bool apply(struct cli *cli, int option, const char *value)
{
    char *end;
    switch (option) {
    case OPT_SERVER:
        return set_text(cli->server, value);
    case OPT_MQTT:
        return set_text(cli->mqtt, value);
    case OPT_CONFIG:
        cli->config = value;
        return true;
    case OPT_USER:
        cli->username = value;
        return true;
    case OPT_PASSWORD:
        cli->password = value;
        return true;
    case OPT_OUTPUT:
        cli->json = strcmp(value, "json") == 0;
        return cli->json || strcmp(value, "table") == 0;
    default: {
        double s = strtod(value, &end);
        if (*end != '\0' || !(s > 0 && s <= TIMEOUT_S_MAX)) { /* not a number is neither */
            return false;
        }
        cli->timeout_ms = (int)(s * 1000);
        return cli->timeout_ms > 0;
    }
    }
}

/* The first listener of the configuration. An address that means "all" is reached locally; "::" is
 * all of IPv6 alone, and localhost may be IPv4 alone. */
static bool server_from_config(struct cli *cli)
{
    struct config c;
    if (config_init(&c) != OK) {
        return false;
    }
    bool ok = config_load(&c, cli->config) == OK;
    struct config_listener l[LISTENERS_MAX];
    if (ok && listeners_read(&c.server, l) > 0) {
        const char *host = l[0].host;
        bool v6 = strchr(host, ':') != NULL;
        if (listeners_wildcard(host)) {
            host = v6 ? "::1" : "localhost";
        }
        snprintf(cli->server, sizeof cli->server, v6 ? "[%s]:%d" : "%s:%d", host, l[0].port);
    } else if (!ok) {
        out_error("%s cannot be used; `culex check %s` says why", cli->config, cli->config);
    }
    config_fini(&c);
    return ok;
}

static bool fill_defaults(struct cli *cli, bool check)
{
    const char *server = getenv("CULEX_SERVER"), *mqtt = getenv("CULEX_MQTT");
    if (cli->server[0] == '\0' && cli->config != NULL && !check && !server_from_config(cli)) {
        return false;
    }
    if (cli->server[0] == '\0' &&
        !set_text(cli->server, server != NULL ? server : "localhost:9092")) {
        return false;
    }
    if (cli->mqtt[0] == '\0' && !set_text(cli->mqtt, mqtt != NULL ? mqtt : "localhost:1883")) {
        return false;
    }
    if (cli->password == NULL) {
        cli->password = getenv("CULEX_MQTT_PASSWORD");
    }
    return true;
}

/* A word that is no option: the verb, then its argument. False: it is one too many, and that was
 * said. */
static bool take_word(struct cli *cli, const struct verb **verb, const char *word)
{
    if (*verb == NULL) {
        *verb = find_verb(word);
        if (*verb == NULL) {
            out_error("there is no verb %s; `culex --help` lists them", word);
        }
        return *verb != NULL;
    }
    if ((*verb)->argument == NULL || cli->argument != NULL) {
        out_error("%s is one argument too many; see `culex %s --help`", word, (*verb)->name);
        return false;
    }
    cli->argument = word;
    return true;
}

int main(int argc, char **argv)
{
    struct cli cli = {.timeout_ms = 5000};
    const struct verb *verb = NULL;
    for (int i = 1; i < argc; i++) {
        const char *value;
        if (argv[i][0] != '-') {
            if (!take_word(&cli, &verb, argv[i])) {
                return CLI_USAGE;
            }
            continue;
        }
        int at = i, option = parse_option(argc, argv, &i, &value);
        if (option == OPT_HELP) {
            verb != NULL ? print_verb_help(verb) : print_help(stdout);
            return CLI_OK;
        }
        if (option == OPT_VERSION) {
            printf("culex %s\n", CULEX_VERSION);
            return CLI_OK;
        }
        if (option < 0 || !apply(&cli, option, value)) {
            out_error("%s%s%s is not understood; see `culex --help`", argv[at], i > at ? " " : "",
                      i > at ? argv[i] : "");
            return CLI_USAGE;
        }
    }
    if (verb == NULL) {
        print_help(stderr);
        return CLI_USAGE;
    }
    if (!fill_defaults(&cli, verb->run == verb_check)) {
        return CLI_USAGE;
    }
    return verb->run(&cli);
}
