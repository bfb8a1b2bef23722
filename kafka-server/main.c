/* culex-server: options, configuration, and then the server.
 *
 * Exit status: 0 stopped as asked, 1 something failed (the last line says what), 2 the command line
 * or the configuration is wrong. */
#include <getopt.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>

#include "kafka-server/server.h"
#include "shared/base/log.h"

enum { EXIT_USAGE = 2 };

/* A consumer that catches up has blocks of about 1 MB read, sent and freed again, hundreds a
 * second: the allocator keeps what it would otherwise give back to the kernel and fault in again,
 * page by page, each time. The server trims it when nothing has been asked for a while
 * (server.c). One arena: threads free what others have allocated. */
#define MALLOC_ARENAS     1
#define MALLOC_MMAP_BYTES (8 << 20)
#define MALLOC_KEEP_BYTES (64 << 20)

static const char usage[] =
    "culex-server: serves what Mosquitto's culex plugin captured to Kafka clients.\n"
    "\n"
    "  culex-server [--config FILE] [--data DIR]\n"
    "\n"
    "  --config FILE    culex.json; without it, defaults and the environment (CULEX_...)\n"
    "  --data DIR       data directory, the same as the plugin's (default /var/lib/culex)\n"
    "  --check-config   check the configuration, say what is wrong, and end\n"
    "  --help-config    list all settings of the server\n"
    "  --version        print the version\n"
    "  --help           print this\n"
    "\n"
    "SIGTERM stops it; SIGHUP reopens the log file and reads the configuration again.\n";

#define CLOSE_MS 400 /* after the last reply; with the grace for replies less than SERVER_STOP_MS */

struct arguments {
    const char *config;
    const char *data;
    bool check;
};

static void print_settings(void)
{
    for (size_t i = 0; i < option_count(); i++) {
        struct option_view v;
        option_view(i, &v);
        if (strcmp(v.section, "stream") == 0) {
            continue;
        }
        printf("%s%s%s (default: %s%s)\n    %s\n", v.section, v.section[0] != '\0' ? "." : "",
               v.name, v.default_text[0] != '\0' ? v.default_text : "none",
               v.reload ? "; SIGHUP applies a change" : "", v.doc);
    }
}

/* Returns -1 to go on, or the status to exit with. */
static int parse_arguments(int argc, char **argv, struct arguments *a)
{
    static const struct option options[] = {
        {"config", required_argument, NULL, 'c'},
        {"data", required_argument, NULL, 'd'},
        {"check-config", no_argument, NULL, 'k'},
        {"help-config", no_argument, NULL, 's'},
        {"version", no_argument, NULL, 'v'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    for (int ch; (ch = getopt_long(argc, argv, "c:d:h", options, NULL)) != -1;) {
        switch (ch) {
        case 'c':
            a->config = optarg;
            break;
        case 'd':
            a->data = optarg;
            break;
        case 'k':
            a->check = true;
            break;
        case 's':
            print_settings();
            return EXIT_SUCCESS;
        case 'v':
            printf("culex-server %s\n", CULEX_VERSION);
            return EXIT_SUCCESS;
        case 'h':
            fputs(usage, stdout);
            return EXIT_SUCCESS;
        default:
            fputs("Try culex-server --help.\n", stderr);
            return EXIT_USAGE;
        }
    }
    if (optind < argc) {
        fprintf(stderr, "culex-server: \"%s\" is not an option. Try culex-server --help.\n",
                argv[optind]);
        return EXIT_USAGE;
    }
    return -1;
}

/* A path on the command line begins where the user is. The directory need not be there yet. */
static char *absolute_path(const char *path)
{
    char *here, *out = NULL;
    if (path[0] == '/' || path[0] == '\0') { /* nothing is no path, and config says so */
        return strdup(path);
    }
    here = getcwd(NULL, 0);
    if (here != NULL && asprintf(&out, "%s/%s", here, path) < 0) {
        out = NULL;
    }
    free(here);
    return out;
}

/* Reads the configuration, the command line on top. False: said what is wrong. */
static bool load(struct config *c, const struct arguments *a)
{
    char *data = a->data != NULL ? absolute_path(a->data) : NULL;
    if (a->data != NULL && data == NULL) {
        fprintf(stderr, "culex-server: --data %s: no memory, or no working directory\n", a->data);
        return false;
    }
    enum err e = config_init(c);
    e = e == OK ? config_load(c, a->config) : e;
    e = e == OK && data != NULL ? config_give_data(c, "--data", data) : e;
    if (e != OK) {
        const char *text = buf_text(&c->mistakes);
        fprintf(stderr, text[0] != '\0' ? "%s" : "%s\n", text[0] != '\0' ? text : err_name(e));
    }
    free(data);
    return e == OK;
}

/* The store keeps every file open; the default of 1024 is soon used up. */
static void raise_file_limit(void)
{
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur < r.rlim_max) {
        r.rlim_cur = r.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &r) != 0) {
            log_warn("the limit of open files stays as it is limit=%llu",
                     (unsigned long long)r.rlim_cur);
        }
    }
}

static void leave(int signal_number)
{
    _exit(EXIT_SUCCESS);
}

/* All that was answered is written; what closing does beyond that (waiting for a worker that opens
 * a large log, say) must not keep whoever stops us waiting. */
static void leave_soon(void)
{
    static const struct itimerval soon = {.it_value = {0, CLOSE_MS * 1000}};
    signal(SIGALRM, leave);
    setitimer(ITIMER_REAL, &soon, NULL);
}

static int serve(struct config *c)
{
    static struct server s;
    struct errmsg m = {.text = ""};
    enum err e = server_open(&s, c, &m);
    if (e == OK) {
        e = server_run(&s);
        if (e == OK) {
            leave_soon();
        }
    } else {
        log_error("culex-server cannot start: %s", m.text);
        if (s.config.server.log_file[0] != '\0') { /* whoever has started it looks there */
            fprintf(stderr, "culex-server cannot start: %s\n", m.text);
        }
    }
    server_close(&s);
    if (e == OK) {
        log_info("stopped");
    }
    return e == OK ? EXIT_SUCCESS : EXIT_FAILURE;
}

int main(int argc, char **argv)
{
    struct arguments a = {0};
    struct config c;
    struct errmsg m;
    int status = parse_arguments(argc, argv, &a);
    if (status >= 0) {
        return status;
    }
    mallopt(M_ARENA_MAX, MALLOC_ARENAS);
    mallopt(M_MMAP_THRESHOLD, MALLOC_MMAP_BYTES);
    mallopt(M_TRIM_THRESHOLD, MALLOC_KEEP_BYTES);
    signal(SIGPIPE, SIG_IGN);
    if (!load(&c, &a)) {
        config_fini(&c);
        return EXIT_USAGE;
    }
    if (a.check) {
        fputs(buf_text(&c.warnings), stderr);
        printf("%s is right.\n", a.config != NULL ? a.config : "The configuration");
        config_fini(&c);
        return EXIT_SUCCESS;
    }
    log_set_level((enum log_level)log_level_parse(c.server.log_level));
    if (c.server.log_file[0] != '\0' && log_open_file(c.server.log_file, &m) != OK) {
        fprintf(stderr, "culex-server: log.file: %s\n", m.text);
        config_fini(&c);
        return EXIT_USAGE;
    }
    log_lines(LOG_WARN, buf_text(&c.warnings));
    raise_file_limit();
    return serve(&c);
}
