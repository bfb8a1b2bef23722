/* kafkaread: one librdkafka consumer that measures and checks what mqttload published.
 *
 * It reads all partitions of a topic (no group), from the beginning or from the ends that they
 * have when it starts, until it has -n records or, with -e, until it stands at those ends. For
 * every payload of mqttload ("connection sequence nanoseconds …") it keeps a bitmap of
 * sequences for each connection and the last sequence of each (connection, partition), so that
 * it can say at the end how many were repeated and how many came out of order; what is missing
 * shows as holes between the least and the greatest. With -l it reports the time from publish
 * to poll, which is sound because both clocks are CLOCK_MONOTONIC of one machine.
 *
 * The first line says {"ready":true} when it stands where it shall start; the second is the
 * report. */
#include <librdkafka/rdkafka.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PUBLISHERS_MAX 1024
#define PARTITIONS_MAX 1024
#define SAMPLES_MAX    (16u << 20)
#define BATCH          10000
#define PAYLOAD_HEAD   43

struct publisher {
    uint64_t count, repeated, reordered, least, greatest;
    uint64_t *seen; /* bitmap by sequence */
    size_t seen_words;
};

static struct {
    const char *bootstrap, *topic;
    uint64_t count;
    bool to_end, from_end, check, latency, per_publisher;
    double idle_seconds;
} opt = {"127.0.0.1:9092", "load", 0, false, false, false, false, false, 30};

static struct publisher publishers[PUBLISHERS_MAX];
static uint64_t last_seq[PUBLISHERS_MAX][PARTITIONS_MAX]; /* sequence + 1; 0: none yet */
static int64_t next_offset[PARTITIONS_MAX];
static uint64_t records, bytes, unknown, offset_gaps;
static uint64_t first_sent_ns, last_seen_ns; /* earliest publish, latest poll: end to end */
static uint32_t *samples;                    /* µs */
static size_t sample_count;
static volatile sig_atomic_t stop;

static void die(const char *what, const char *why)
{
    fprintf(stderr, "kafkaread: %s: %s\n", what, why);
    exit(2);
}

static void on_signal(int n)
{
    (void)n;
    stop = 1;
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static bool get_hex(const uint8_t *p, int digits, uint64_t *out)
{
    uint64_t v = 0;
    for (int i = 0; i < digits; i++) {
        uint8_t c = p[i];
        if (c >= '0' && c <= '9') {
            v = v << 4 | (uint64_t)(c - '0');
        } else if (c >= 'a' && c <= 'f') {
            v = v << 4 | (uint64_t)(c - 'a' + 10);
        } else {
            return false;
        }
    }
    *out = v;
    return true;
}

/* True when the sequence was seen before; remembers it. */
static bool mark_seen(struct publisher *p, uint64_t seq)
{
    size_t word = (size_t)(seq / 64);
    if (word >= p->seen_words) {
        size_t words = word * 2 + 1024;
        p->seen = realloc(p->seen, words * sizeof *p->seen);
        if (!p->seen) {
            die("bitmap", "no memory");
        }
        memset(p->seen + p->seen_words, 0, (words - p->seen_words) * sizeof *p->seen);
        p->seen_words = words;
    }
    uint64_t bit = 1ull << (seq % 64);
    bool seen = p->seen[word] & bit;
    p->seen[word] |= bit;
    return seen;
}

static void check(const rd_kafka_message_t *m, uint64_t now)
{
    const uint8_t *v = m->payload;
    uint64_t who, seq, sent;

    if (m->len < PAYLOAD_HEAD || !get_hex(v, 8, &who) || !get_hex(v + 9, 16, &seq) ||
        !get_hex(v + 26, 16, &sent) || who >= PUBLISHERS_MAX || seq > (1ull << 36)) {
        unknown++;
        return;
    }
    struct publisher *p = &publishers[who];
    uint64_t *last = &last_seq[who][m->partition];
    if (mark_seen(p, seq)) {
        p->repeated++;
    } else if (seq + 1 <= *last) {
        p->reordered++;
    } else {
        *last = seq + 1;
    }
    p->least = p->count == 0 || seq < p->least ? seq : p->least;
    p->greatest = seq > p->greatest ? seq : p->greatest;
    p->count++;
    first_sent_ns = !first_sent_ns || sent < first_sent_ns ? sent : first_sent_ns;
    last_seen_ns = now;
    if (opt.latency && sample_count < SAMPLES_MAX) {
        samples[sample_count++] = (uint32_t)((now - sent) / 1000);
    }
}

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static double sample_ms(double q)
{
    return sample_count ? samples[(size_t)(q * (double)(sample_count - 1))] / 1000.0 : -1;
}

static void report(double seconds)
{
    uint64_t repeated = 0, reordered = 0, holes = 0;
    for (int i = 0; i < PUBLISHERS_MAX; i++) {
        const struct publisher *p = &publishers[i];
        repeated += p->repeated;
        reordered += p->reordered;
        holes += p->count ? p->greatest - p->least + 1 - (p->count - p->repeated) : 0;
    }
    printf(
        "{\"records\":%llu,\"bytes\":%llu,\"seconds\":%.6f,\"rate\":%.1f,\"mb_per_s\":%.2f,"
        "\"repeated\":%llu,\"reordered\":%llu,\"holes\":%llu,\"unknown\":%llu,\"offset_gaps\":%llu",
        (unsigned long long)records, (unsigned long long)bytes, seconds, (double)records / seconds,
        (double)bytes / seconds / 1e6, (unsigned long long)repeated, (unsigned long long)reordered,
        (unsigned long long)holes, (unsigned long long)unknown, (unsigned long long)offset_gaps);
    if (first_sent_ns) {
        printf(",\"span_seconds\":%.6f", (double)(last_seen_ns - first_sent_ns) / 1e9);
    }
    if (opt.latency) {
        qsort(samples, sample_count, sizeof *samples, by_value);
        printf(",\"p50_ms\":%.3f,\"p90_ms\":%.3f,\"p99_ms\":%.3f,\"p999_ms\":%.3f,\"max_ms\":%.3f",
               sample_ms(0.5), sample_ms(0.9), sample_ms(0.99), sample_ms(0.999), sample_ms(1));
    }
    if (opt.per_publisher) {
        printf(",\"publishers\":{");
        const char *comma = "";
        for (int i = 0; i < PUBLISHERS_MAX; i++) {
            if (publishers[i].count) {
                printf("%s\"%d\":[%llu,%llu,%llu]", comma, i,
                       (unsigned long long)publishers[i].count,
                       (unsigned long long)publishers[i].least,
                       (unsigned long long)publishers[i].greatest);
                comma = ",";
            }
        }
        printf("}");
    }
    printf(",\"librdkafka\":\"%s\"}\n", rd_kafka_version_str());
}

static rd_kafka_t *open_consumer(rd_kafka_conf_t *conf)
{
    char err[512];
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, err, sizeof err);
    if (!rk) {
        die("consumer", err);
    }
    rd_kafka_poll_set_consumer(rk);
    return rk;
}

/* Assigns every partition; returns how many records lie between start and end of the log now. */
static uint64_t assign_all(rd_kafka_t *rk)
{
    const struct rd_kafka_metadata *md;
    rd_kafka_topic_t *t = rd_kafka_topic_new(rk, opt.topic, NULL);
    rd_kafka_resp_err_t e = rd_kafka_metadata(rk, 0, t, &md, 10000);
    if (e || md->topic_cnt != 1 || md->topics[0].err ||
        md->topics[0].partition_cnt > PARTITIONS_MAX) {
        die("metadata", rd_kafka_err2str(e ? e : RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART));
    }
    uint64_t there = 0;
    rd_kafka_topic_partition_list_t *parts = rd_kafka_topic_partition_list_new(16);
    for (int p = 0; p < md->topics[0].partition_cnt; p++) {
        int64_t low, high;
        e = rd_kafka_query_watermark_offsets(rk, opt.topic, p, &low, &high, 10000);
        if (e) {
            die("offsets", rd_kafka_err2str(e));
        }
        there += opt.from_end ? 0 : (uint64_t)(high - low);
        next_offset[p] = opt.from_end ? high : low;
        rd_kafka_topic_partition_list_add(parts, opt.topic, p)->offset = next_offset[p];
    }
    e = rd_kafka_assign(rk, parts);
    if (e) {
        die("assign", rd_kafka_err2str(e));
    }
    rd_kafka_topic_partition_list_destroy(parts);
    rd_kafka_metadata_destroy(md);
    rd_kafka_topic_destroy(t);
    return there;
}

static double consume(rd_kafka_t *rk)
{
    static rd_kafka_message_t *batch[BATCH];
    rd_kafka_queue_t *q = rd_kafka_queue_get_consumer(rk);
    uint64_t first = now_ns(), last = first;

    while (!stop && records < opt.count) {
        ssize_t n =
            rd_kafka_consume_batch_queue(q, opt.latency ? 1 : 50, batch, opt.latency ? 1 : BATCH);
        uint64_t now = now_ns();
        for (ssize_t i = 0; i < n; i++) {
            const rd_kafka_message_t *m = batch[i];
            if (!m->err) {
                if (opt.check) {
                    check(m, now);
                }
                offset_gaps += m->offset != next_offset[m->partition];
                next_offset[m->partition] = m->offset + 1;
                records++;
                bytes += m->len;
                last = now;
            }
            rd_kafka_message_destroy(batch[i]);
        }
        if ((double)(now - last) / 1e9 > opt.idle_seconds) {
            fprintf(stderr, "kafkaread: nothing for %.0f s after %llu records\n", opt.idle_seconds,
                    (unsigned long long)records);
            break;
        }
    }
    rd_kafka_queue_destroy(q);
    return (double)(last - first) / 1e9;
}

static void usage(void)
{
    fprintf(
        stderr,
        "kafkaread -b bootstrap -t topic (-n records | -e to the end) [-o (from the end)]\n"
        "          [-c (check payloads)] [-l (latency)] [-v (per publisher)] [-i idle seconds]\n"
        "          [-X librdkafka.setting=value]\n");
    exit(2);
}

static void set(rd_kafka_conf_t *conf, char *pair)
{
    char err[512], *eq = strchr(pair, '=');
    if (!eq) {
        usage();
    }
    *eq = 0;
    if (rd_kafka_conf_set(conf, pair, eq + 1, err, sizeof err) != RD_KAFKA_CONF_OK) {
        die("setting", err);
    }
}

static void parse(int argc, char **argv, rd_kafka_conf_t *conf)
{
    int o;
    while ((o = getopt(argc, argv, "b:t:n:eoclvi:X:")) != -1) {
        switch (o) {
        case 'b':
            opt.bootstrap = optarg;
            break;
        case 't':
            opt.topic = optarg;
            break;
        case 'n':
            opt.count = strtoull(optarg, NULL, 10);
            break;
        case 'e':
            opt.to_end = true;
            break;
        case 'o':
            opt.from_end = true;
            break;
        case 'c':
            opt.check = true;
            break;
        case 'l':
            opt.latency = opt.check = true;
            break;
        case 'v':
            opt.per_publisher = opt.check = true;
            break;
        case 'i':
            opt.idle_seconds = strtod(optarg, NULL);
            break;
        case 'X':
            set(conf, optarg);
            break;
        default:
            usage();
        }
    }
    if (optind != argc || (!opt.count && !opt.to_end)) {
        usage();
    }
}

int main(int argc, char **argv)
{
    char group[] = "group.id=kafkaread", commit[] = "enable.auto.commit=false";
    rd_kafka_conf_t *conf = rd_kafka_conf_new();

    set(conf, group);
    set(conf, commit);
    parse(argc, argv, conf);
    char err[512];
    rd_kafka_conf_set(conf, "bootstrap.servers", opt.bootstrap, err, sizeof err);
    if (opt.latency && !(samples = malloc(SAMPLES_MAX * sizeof *samples))) {
        die("samples", "no memory");
    }
    signal(SIGTERM, on_signal);
    signal(SIGINT, on_signal);
    rd_kafka_t *rk = open_consumer(conf);
    uint64_t there = assign_all(rk);
    if (opt.to_end) {
        opt.count = there;
    }
    printf("{\"ready\":true,\"there\":%llu}\n", (unsigned long long)there);
    fflush(stdout);
    double seconds = consume(rk);
    report(seconds > 0 ? seconds : 1e-9);
    bool complete = records >= opt.count;
    rd_kafka_consumer_close(rk);
    rd_kafka_destroy(rk);
    return complete ? 0 : 3;
}
