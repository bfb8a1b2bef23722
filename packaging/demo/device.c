/* A real device for `make demo`: this host. Each second it publishes what the kernel says about the
 * machine, as small JSON documents:
 *
 *   demo/HOST/load               load1, load5, load15, running, processes
 *   demo/HOST/memory             total_kb, available_kb, used_percent
 *   demo/HOST/temperature/ZONE   celsius; one for each sensor, none on most virtual machines
 *   demo/HOST/net/IF             rx_bytes, tx_bytes, rx_packets, tx_packets
 *
 * and, retained, once: demo/HOST/hello with the kernel's name. QoS 1. It reconnects by itself and
 * measures on the beat of the monotonic clock, so a broker that restarts costs it the seconds it
 * was away and nothing else.
 *
 *   demo-device PORT [HOST]      where the broker listens; HOST is 127.0.0.1 unless given
 *
 * SIGINT and SIGTERM end it cleanly; it prints one line when it is connected. */
#include <dirent.h>
#include <errno.h>
#include <mosquitto.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#define TOPIC_BYTES_MAX   256
#define PAYLOAD_BYTES_MAX 512
#define LINE_BYTES_MAX    512
#define NAME_BYTES_MAX    64
#define SENSORS_MAX       64 /* of thermal zones and of hwmon inputs each; more are left out */

struct device {
    struct mosquitto *mqtt;
    char host[NAME_BYTES_MAX];
};

static volatile sig_atomic_t stop_asked;

static void on_signal(int number)
{
    (void)number;
    stop_asked = 1;
}

static void on_connect(struct mosquitto *mqtt, void *context, int rc)
{
    (void)mqtt;
    (void)context;
    if (rc == 0) {
        printf("connected\n");
    } else {
        printf("the broker said no: %s\n", mosquitto_connack_string(rc));
    }
    fflush(stdout);
}

/* A topic level may hold neither '/', '+', '#', nor blanks that make a shell's life hard. */
static void level_clean(char *level)
{
    for (; *level; level++) {
        if (strchr("/+# \t\n", *level)) {
            *level = '_';
        }
    }
}

static bool line_read(const char *path, char *line, size_t line_bytes_max)
{
    FILE *f = fopen(path, "re");
    if (!f) {
        return false;
    }
    bool ok = fgets(line, (int)line_bytes_max, f) != NULL;
    fclose(f);
    if (ok) {
        line[strcspn(line, "\n")] = '\0';
    }
    return ok;
}

static void publish(struct device *d, const char *what, const char *payload, bool retain)
{
    char topic[TOPIC_BYTES_MAX];
    int n = snprintf(topic, sizeof topic, "demo/%s/%s", d->host, what);
    if (n > 0 && (size_t)n < sizeof topic) {
        /* A failure means "not connected": this second's value is old when the broker is back, so
         * it is let go. */
        (void)mosquitto_publish(d->mqtt, NULL, topic, (int)strlen(payload), payload, 1, retain);
    }
}

static void publish_load(struct device *d)
{
    char line[LINE_BYTES_MAX];
    double load[3];
    int running, processes;
    if (line_read("/proc/loadavg", line, sizeof line) &&
        sscanf(line, "%lf %lf %lf %d/%d", &load[0], &load[1], &load[2], &running, &processes) ==
            5) {
        char text[PAYLOAD_BYTES_MAX];
        snprintf(text, sizeof text,
                 "{\"load1\":%.2f,\"load5\":%.2f,\"load15\":%.2f,"
                 "\"running\":%d,\"processes\":%d}",
                 load[0], load[1], load[2], running, processes);
        publish(d, "load", text, false);
    }
}

static void publish_memory(struct device *d)
{
    FILE *f = fopen("/proc/meminfo", "re");
    if (!f) {
        return;
    }
    char line[LINE_BYTES_MAX];
    unsigned long long total = 0, available = 0;
    while (fgets(line, sizeof line, f)) {
        (void)sscanf(line, "MemTotal: %llu", &total);
        (void)sscanf(line, "MemAvailable: %llu", &available);
    }
    fclose(f);
    if (total > 0 && available <= total) {
        char text[PAYLOAD_BYTES_MAX];
        snprintf(text, sizeof text,
                 "{\"total_kb\":%llu,\"available_kb\":%llu,\"used_percent\":%.1f}", total,
                 available, 100.0 * (double)(total - available) / (double)total);
        publish(d, "memory", text, false);
    }
}

static void publish_celsius(struct device *d, const char *zone, const char *path)
{
    char line[LINE_BYTES_MAX];
    if (line_read(path, line, sizeof line)) {
        char name[NAME_BYTES_MAX + 16], text[PAYLOAD_BYTES_MAX];
        snprintf(name, sizeof name, "temperature/%s", zone);
        snprintf(text, sizeof text, "{\"celsius\":%.1f}", strtod(line, NULL) / 1000.0);
        publish(d, name, text, false);
    }
}

/* Thermal zones, and, where a machine has none, the first input of each hardware monitor. */
static void publish_temperatures(struct device *d)
{
    int found = 0;
    for (int i = 0; i < SENSORS_MAX; i++) {
        char path[LINE_BYTES_MAX], type[NAME_BYTES_MAX / 2], zone[NAME_BYTES_MAX];
        snprintf(path, sizeof path, "/sys/class/thermal/thermal_zone%d/type", i);
        if (!line_read(path, type, sizeof type)) {
            break;
        }
        snprintf(zone, sizeof zone, "%d-%s", i, type);
        level_clean(zone);
        snprintf(path, sizeof path, "/sys/class/thermal/thermal_zone%d/temp", i);
        publish_celsius(d, zone, path);
        found++;
    }
    for (int i = 0; i < SENSORS_MAX && found == 0; i++) {
        char path[LINE_BYTES_MAX], type[NAME_BYTES_MAX / 2], zone[NAME_BYTES_MAX];
        snprintf(path, sizeof path, "/sys/class/hwmon/hwmon%d/name", i);
        if (!line_read(path, type, sizeof type)) {
            break;
        }
        snprintf(zone, sizeof zone, "hwmon%d-%s", i, type);
        level_clean(zone);
        snprintf(path, sizeof path, "/sys/class/hwmon/hwmon%d/temp1_input", i);
        publish_celsius(d, zone, path);
    }
}

/* /proc/net/dev: "  eth0: rx_bytes rx_packets err drop fifo frame compressed multicast tx_bytes
 * tx_packets …" */
static void publish_network(struct device *d)
{
    FILE *f = fopen("/proc/net/dev", "re");
    if (!f) {
        return;
    }
    char line[LINE_BYTES_MAX];
    while (fgets(line, sizeof line, f)) {
        char name[NAME_BYTES_MAX];
        unsigned long long rx_bytes, rx_packets, tx_bytes, tx_packets;
        if (sscanf(line, " %63[^:]: %llu %llu %*u %*u %*u %*u %*u %*u %llu %llu", name, &rx_bytes,
                   &rx_packets, &tx_bytes, &tx_packets) != 5) {
            continue; /* the two lines of headings */
        }
        level_clean(name);
        char what[NAME_BYTES_MAX + 8], text[PAYLOAD_BYTES_MAX];
        snprintf(what, sizeof what, "net/%s", name);
        snprintf(text, sizeof text,
                 "{\"rx_bytes\":%llu,\"tx_bytes\":%llu,\"rx_packets\":%llu,\"tx_packets\":%llu}",
                 rx_bytes, tx_bytes, rx_packets, tx_packets);
        publish(d, what, text, false);
    }
    fclose(f);
}

static void publish_hello(struct device *d)
{
    struct utsname u;
    if (uname(&u) == 0) {
        char text[PAYLOAD_BYTES_MAX];
        snprintf(text, sizeof text, "%.64s %.64s %.64s", u.sysname, u.release, u.machine);
        publish(d, "hello", text, true);
    }
}

static void run(struct device *d)
{
    struct timespec next;
    clock_gettime(CLOCK_MONOTONIC, &next);
    publish_hello(d);
    while (!stop_asked) {
        publish_load(d);
        publish_memory(d);
        publish_temperatures(d);
        publish_network(d);
        next.tv_sec++;
        /* A signal ends the sleep; any other error cannot happen with a valid time. */
        (void)clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
    }
}

int main(int argc, char **argv)
{
    char *end = NULL;
    long port = argc >= 2 ? strtol(argv[1], &end, 10) : 0;
    if (argc < 2 || argc > 3 || *end || port < 1 || port > 65535) {
        fprintf(stderr, "usage: demo-device PORT [HOST]\n");
        return 2;
    }
    struct sigaction act = {.sa_handler = on_signal};
    sigaction(SIGINT, &act, NULL);
    sigaction(SIGTERM, &act, NULL);

    struct device d = {0};
    if (gethostname(d.host, sizeof d.host - 1) != 0 || !d.host[0]) {
        snprintf(d.host, sizeof d.host, "host");
    }
    d.host[strcspn(d.host, ".")] = '\0';
    level_clean(d.host);

    char id[NAME_BYTES_MAX + 8];
    snprintf(id, sizeof id, "device-%s", d.host);
    mosquitto_lib_init();
    d.mqtt = mosquitto_new(id, true, &d);
    int exit_code = 1;
    if (!d.mqtt) {
        fprintf(stderr, "demo-device: no memory\n");
        goto out;
    }
    mosquitto_connect_callback_set(d.mqtt, on_connect);
    mosquitto_reconnect_delay_set(d.mqtt, 1, 1, false);
    const char *broker = argc == 3 ? argv[2] : "127.0.0.1";
    int rc = mosquitto_connect(d.mqtt, broker, (int)port, 30);
    if (rc == MOSQ_ERR_SUCCESS) {
        rc = mosquitto_loop_start(d.mqtt);
    }
    if (rc != MOSQ_ERR_SUCCESS) {
        fprintf(stderr, "demo-device: cannot reach the broker at %s:%ld: %s\n", broker, port,
                rc == MOSQ_ERR_ERRNO ? strerror(errno) : mosquitto_strerror(rc));
        goto out;
    }
    run(&d);
    mosquitto_disconnect(d.mqtt);
    mosquitto_loop_stop(d.mqtt, false);
    exit_code = 0;
out:
    mosquitto_destroy(d.mqtt);
    mosquitto_lib_cleanup();
    return exit_code;
}
