/* kafkabench: what a Kafka client waits for, measured with librdkafka.
 *
 *   latency   -n records at -r a second, produced and polled by this process: produce → poll
 *   txn       -n transactions of -k records of -s bytes, one producer
 *   commit    -n commits, each waited for, by each of -c consumers of a group
 *   join      -c consumers begin at once in a new group, whose topic has a partition for each,
 *             until each has one
 *   metadata  -n questions for all topics
 *
 * One line of JSON. The same program asks Apache Kafka and Culex; it knows of no difference. */
#include <librdkafka/rdkafka.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define CLIENTS_MAX 1000
#define RECORD_BYTES_MAX 65536
#define WAIT_MS     120000

static struct {
    const char *mode, *bootstrap, *topic, *group;
    size_t count, size, records, clients;
    double rate;
} opt = {"", "127.0.0.1:9092", "bench", "bench", 1000, 100, 100, 1, 1000};

static void die(const char *what, const char *why)
{
    fprintf(stderr, "kafkabench: %s: %s\n", what, why);
    exit(2);
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static double seconds_since(uint64_t began)
{
    return (double)(now_ns() - began) / 1e9;
}

static void set(rd_kafka_conf_t *conf, const char *name, const char *value)
{
    char why[256];
    if (rd_kafka_conf_set(conf, name, value, why, sizeof why) != RD_KAFKA_CONF_OK) {
        die(name, why);
    }
}

static rd_kafka_t *client(rd_kafka_type_t type, rd_kafka_conf_t *conf)
{
    char why[256];
    set(conf, "bootstrap.servers", opt.bootstrap);
    rd_kafka_t *rk = rd_kafka_new(type, conf, why, sizeof why);
    if (!rk) {
        die("client", why);
    }
    return rk;
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Sorts; in ms. */
static double quantile(uint64_t *ns, size_t count, double q)
{
    qsort(ns, count, sizeof *ns, compare);
    return count ? (double)ns[(size_t)(q * (double)(count - 1))] / 1e6 : 0;
}

static rd_kafka_t *consumer(const char *group, const char *reset)
{
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    set(conf, "group.id", group);
    set(conf, "enable.auto.commit", "false");
    set(conf, "auto.offset.reset", reset);
    set(conf, "fetch.wait.max.ms", "500");
    rd_kafka_t *rk = client(RD_KAFKA_CONSUMER, conf);
    rd_kafka_poll_set_consumer(rk);
    return rk;
}

static void stop(rd_kafka_t *rk)
{
    rd_kafka_consumer_close(rk);
    rd_kafka_destroy(rk);
}

static void assign(rd_kafka_t *rk, int32_t partition, int64_t offset)
{
    rd_kafka_topic_partition_list_t *l = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(l, opt.topic, partition)->offset = offset;
    if (rd_kafka_assign(rk, l)) {
        die("assign", "refused");
    }
    rd_kafka_topic_partition_list_destroy(l);
}

static void produce(rd_kafka_t *rk, void *value, size_t len)
{
    rd_kafka_resp_err_t e;
    while ((e = rd_kafka_producev(rk, RD_KAFKA_V_TOPIC(opt.topic), RD_KAFKA_V_PARTITION(0),
                                  RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
                                  RD_KAFKA_V_VALUE(value, len), RD_KAFKA_V_END))) {
        if (e != RD_KAFKA_RESP_ERR__QUEUE_FULL) {
            die("produce", rd_kafka_err2str(e));
        }
        rd_kafka_poll(rk, 1);
    }
}

/* --- latency ---------------------------------------------------------------------------------- */

static void *pace(void *arg)
{
    rd_kafka_t *rk = arg;
    static char value[RECORD_BYTES_MAX];
    uint64_t began = now_ns(), step = (uint64_t)(1e9 / opt.rate);
    for (size_t i = 0; i < opt.count; i++) {
        uint64_t due = began + i * step, now = now_ns();
        if (now < due) {
            uint64_t ns = due - now;
            struct timespec t = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
            nanosleep(&t, NULL);
        }
        now = now_ns();
        memcpy(value, &now, sizeof now);
        produce(rk, value, opt.size);
        rd_kafka_poll(rk, 0);
    }
    rd_kafka_flush(rk, WAIT_MS);
    return NULL;
}

static void run_latency(void)
{
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    set(conf, "linger.ms", "0");
    set(conf, "acks", "all");
    rd_kafka_t *out = client(RD_KAFKA_PRODUCER, conf), *in = consumer(opt.group, "latest");
    uint64_t *ns = calloc(opt.count, sizeof *ns);
    size_t got = 0;
    int64_t low, high;
    pthread_t t;
    if (!ns || rd_kafka_query_watermark_offsets(in, opt.topic, 0, &low, &high, WAIT_MS)) {
        die("latency", "no watermarks");
    }
    assign(in, 0, high);
    produce(out, &low, sizeof low); /* both have found all they need when this one has come */
    rd_kafka_message_t *m = rd_kafka_consumer_poll(in, WAIT_MS);
    if (!m || m->err) {
        die("first record", m ? rd_kafka_message_errstr(m) : "nothing came");
    }
    rd_kafka_message_destroy(m);
    pthread_create(&t, NULL, pace, out);
    while (got < opt.count) {
        m = rd_kafka_consumer_poll(in, WAIT_MS);
        if (!m || m->err) {
            die("poll", m ? rd_kafka_message_errstr(m) : "nothing came");
        }
        uint64_t sent;
        memcpy(&sent, m->payload, sizeof sent);
        ns[got++] = now_ns() - sent;
        rd_kafka_message_destroy(m);
    }
    pthread_join(t, NULL);
    printf("{\"records\":%zu,\"p50_ms\":%.3f,\"p99_ms\":%.3f}\n", got, quantile(ns, got, 0.5),
           quantile(ns, got, 0.99));
    free(ns);
    stop(in);
    rd_kafka_destroy(out);
}

/* --- transactions ----------------------------------------------------------------------------- */

static void must(rd_kafka_error_t *e, const char *what)
{
    if (e) {
        die(what, rd_kafka_error_string(e));
    }
}

static void run_txn(void)
{
    static char value[RECORD_BYTES_MAX];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    set(conf, "transactional.id", opt.group);
    set(conf, "linger.ms", "0");
    rd_kafka_t *rk = client(RD_KAFKA_PRODUCER, conf);
    must(rd_kafka_init_transactions(rk, WAIT_MS), "init");
    uint64_t began = now_ns();
    for (size_t i = 0; i < opt.count; i++) {
        must(rd_kafka_begin_transaction(rk), "begin");
        for (size_t k = 0; k < opt.records; k++) {
            produce(rk, value, opt.size);
        }
        must(rd_kafka_commit_transaction(rk, WAIT_MS), "commit");
    }
    double s = seconds_since(began);
    printf("{\"transactions\":%zu,\"seconds\":%.3f,\"per_second\":%.1f}\n", opt.count, s,
           (double)opt.count / s);
    rd_kafka_destroy(rk);
}

/* --- commits ---------------------------------------------------------------------------------- */

static void *commit_all(void *arg)
{
    rd_kafka_t *rk = arg;
    rd_kafka_topic_partition_list_t *l = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(l, opt.topic, 0);
    for (size_t i = 0; i < opt.count; i++) {
        l->elems[0].offset = (int64_t)i;
        rd_kafka_resp_err_t e = rd_kafka_commit(rk, l, 0);
        if (e) {
            die("commit", rd_kafka_err2str(e));
        }
    }
    rd_kafka_topic_partition_list_destroy(l);
    return NULL;
}

static void run_commit(void)
{
    static rd_kafka_t *rk[CLIENTS_MAX];
    static pthread_t t[CLIENTS_MAX];
    for (size_t i = 0; i < opt.clients; i++) {
        char group[256];
        snprintf(group, sizeof group, "%s-%zu", opt.group, i);
        rk[i] = consumer(group, "earliest");
        assign(rk[i], 0, 0);
        size_t count = opt.count;
        opt.count = 1; /* the first one finds the coordinator */
        commit_all(rk[i]);
        opt.count = count;
    }
    uint64_t began = now_ns();
    for (size_t i = 0; i < opt.clients; i++) {
        pthread_create(&t[i], NULL, commit_all, rk[i]);
    }
    for (size_t i = 0; i < opt.clients; i++) {
        pthread_join(t[i], NULL);
    }
    double s = seconds_since(began);
    printf("{\"commits\":%zu,\"seconds\":%.3f,\"per_second\":%.0f}\n", opt.count * opt.clients, s,
           (double)(opt.count * opt.clients) / s);
    for (size_t i = 0; i < opt.clients; i++) {
        stop(rk[i]);
    }
}

/* --- joining ---------------------------------------------------------------------------------- */

static int owned(rd_kafka_t *rk)
{
    rd_kafka_topic_partition_list_t *l = NULL;
    int n = rd_kafka_assignment(rk, &l) ? 0 : l->cnt;
    if (l) {
        rd_kafka_topic_partition_list_destroy(l);
    }
    return n;
}

static void run_join(void)
{
    static rd_kafka_t *rk[CLIENTS_MAX];
    rd_kafka_topic_partition_list_t *l = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(l, opt.topic, RD_KAFKA_PARTITION_UA);
    for (size_t i = 0; i < opt.clients; i++) {
        rk[i] = consumer(opt.group, "earliest");
    }
    uint64_t began = now_ns();
    for (size_t i = 0; i < opt.clients; i++) {
        rd_kafka_subscribe(rk[i], l);
    }
    size_t done = 0;
    while (done < opt.clients) {
        done = 0;
        int total = 0;
        for (size_t i = 0; i < opt.clients; i++) {
            rd_kafka_message_t *m = rd_kafka_consumer_poll(rk[i], 0);
            if (m) {
                rd_kafka_message_destroy(m);
            }
            int n = owned(rk[i]);
            done += n == 1;
            total += n;
        }
        done = total == (int)opt.clients ? done : 0;
        if (seconds_since(began) > WAIT_MS / 1000) {
            die("join", "not all have a partition");
        }
        struct timespec pause = {0, 1000000};
        nanosleep(&pause, NULL);
    }
    printf("{\"clients\":%zu,\"seconds\":%.3f}\n", opt.clients, seconds_since(began));
    fflush(stdout);
    rd_kafka_topic_partition_list_destroy(l);
    _exit(0); /* leaving one by one would take as long again, and is not measured */
}

/* --- metadata --------------------------------------------------------------------------------- */

static void run_metadata(void)
{
    rd_kafka_t *rk = client(RD_KAFKA_PRODUCER, rd_kafka_conf_new());
    uint64_t *ns = calloc(opt.count, sizeof *ns);
    int topics = 0;
    for (size_t i = 0; ns && i < opt.count; i++) {
        const struct rd_kafka_metadata *md;
        uint64_t began = now_ns();
        if (rd_kafka_metadata(rk, 1, NULL, &md, WAIT_MS)) {
            die("metadata", "no answer");
        }
        ns[i] = now_ns() - began;
        topics = md->topic_cnt;
        rd_kafka_metadata_destroy(md);
    }
    printf("{\"topics\":%d,\"p50_ms\":%.2f}\n", topics, quantile(ns, opt.count, 0.5));
    free(ns);
    rd_kafka_destroy(rk);
}

static void read_options(int argc, char **argv)
{
    int c;
    opt.mode = argc > 1 ? argv[1] : "";
    optind = 2;
    while ((c = getopt(argc, argv, "b:t:g:n:s:k:c:r:")) != -1) {
        switch (c) {
        case 'b': opt.bootstrap = optarg; break;
        case 't': opt.topic = optarg; break;
        case 'g': opt.group = optarg; break;
        case 'n': opt.count = strtoul(optarg, NULL, 10); break;
        case 's': opt.size = strtoul(optarg, NULL, 10); break;
        case 'k': opt.records = strtoul(optarg, NULL, 10); break;
        case 'c': opt.clients = strtoul(optarg, NULL, 10); break;
        case 'r': opt.rate = strtod(optarg, NULL); break;
        default: die("usage", "MODE -b HOST:PORT -t TOPIC -g GROUP -n COUNT -s BYTES -k RECORDS "
                              "-c CLIENTS -r PER_SECOND");
        }
    }
    if (opt.size < 8 || opt.size > RECORD_BYTES_MAX || opt.clients > CLIENTS_MAX ||
        opt.clients < 1 || opt.count < 1 || opt.rate <= 0) {
        die("usage", "8 to 65536 bytes, 1 to 1000 clients");
    }
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } modes[] = {{"latency", run_latency}, {"txn", run_txn}, {"commit", run_commit},
                 {"join", run_join}, {"metadata", run_metadata}};
    read_options(argc, argv);
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
        if (strcmp(opt.mode, modes[i].name) == 0) {
            modes[i].run();
            return 0;
        }
    }
    die("usage", "latency, txn, commit, join or metadata");
}
