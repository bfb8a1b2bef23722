/* kafkawrite: one librdkafka producer that measures.
 *
 * It writes -n records of -s bytes into a topic, round robin over -p partitions, as fast as its
 * queue takes them, and waits until every one is answered. The report says how long that took, how
 * many failed, and the times from produce to answer. Values are alike but for a number in front, so
 * that codecs do not find them too easy. */
#include <librdkafka/rdkafka.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SAMPLES_MAX (16u << 20)
#define RECORD_BYTES_MAX   (1u << 20)

static struct {
    const char *bootstrap, *topic;
    uint64_t count, rate;
    size_t size;
    int32_t partitions;
} opt = {"127.0.0.1:9092", "load", 1000000, 0, 100, 1};

static uint64_t answered, failed;
static uint32_t *samples; /* µs, of every 16th record */
static size_t sample_count;

static void die(const char *what, const char *why)
{
    fprintf(stderr, "kafkawrite: %s: %s\n", what, why);
    exit(2);
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void on_answer(rd_kafka_t *rk, const rd_kafka_message_t *m, void *arg)
{
    answered++;
    if (m->err) {
        if (failed++ == 0) {
            fprintf(stderr, "kafkawrite: %s\n", rd_kafka_err2str(m->err));
        }
    } else if (answered % 16 == 0 && sample_count < SAMPLES_MAX) {
        samples[sample_count++] = (uint32_t)rd_kafka_message_latency(m);
    }
}

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void set(rd_kafka_conf_t *conf, const char *name, const char *value)
{
    char why[256];
    if (rd_kafka_conf_set(conf, name, value, why, sizeof why) != RD_KAFKA_CONF_OK) {
        die(name, why);
    }
}

static rd_kafka_conf_t *read_options(int argc, char **argv)
{
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    int c;
    set(conf, "queue.buffering.max.messages", "1000000");
    set(conf, "queue.buffering.max.kbytes", "262144");
    while ((c = getopt(argc, argv, "b:t:n:s:p:r:X:")) != -1) {
        char *value = c == 'X' ? strchr(optarg, '=') : NULL;
        switch (c) {
        case 'b': opt.bootstrap = optarg; break;
        case 't': opt.topic = optarg; break;
        case 'n': opt.count = strtoull(optarg, NULL, 10); break;
        case 's': opt.size = strtoul(optarg, NULL, 10); break;
        case 'p': opt.partitions = (int32_t)strtol(optarg, NULL, 10); break;
        case 'r': opt.rate = strtoull(optarg, NULL, 10); break;
        case 'X':
            if (value) {
                *value = 0;
                set(conf, optarg, value + 1);
                break;
            }
            /* fall through */
        default:
            die("usage", "-b HOST:PORT -t TOPIC -n RECORDS -s BYTES -p PARTITIONS [-r PER_SECOND] "
                         "[-X name=value]");
        }
    }
    if (opt.size < 8 || opt.size > RECORD_BYTES_MAX || opt.partitions < 1) {
        die("usage", "8 to 1048576 bytes, at least one partition");
    }
    set(conf, "bootstrap.servers", opt.bootstrap);
    rd_kafka_conf_set_dr_msg_cb(conf, on_answer);
    return conf;
}

static void write_all(rd_kafka_t *rk, rd_kafka_topic_t *topic)
{
    static char value[RECORD_BYTES_MAX + 1];
    uint64_t x = 88172645463325252u, began = now_ns();
    for (size_t i = 0; i < opt.size; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        value[i] = (char)(' ' + x % 95);
    }
    for (uint64_t i = 0; i < opt.count; i++) {
        memcpy(value, &i, sizeof i);
        int32_t p = (int32_t)(i % (uint64_t)opt.partitions);
        while (rd_kafka_produce(topic, p, RD_KAFKA_MSG_F_COPY, value, opt.size, NULL, 0, NULL)) {
            if (rd_kafka_last_error() != RD_KAFKA_RESP_ERR__QUEUE_FULL) {
                die("produce", rd_kafka_err2str(rd_kafka_last_error()));
            }
            rd_kafka_poll(rk, 10);
        }
        if (i % 256 == 0) {
            rd_kafka_poll(rk, 0);
        }
        while (opt.rate != 0 && now_ns() - began < i * 1000000000u / opt.rate) {
            rd_kafka_poll(rk, 1);
        }
    }
}

int main(int argc, char **argv)
{
    char why[256];
    rd_kafka_t *rk =
        rd_kafka_new(RD_KAFKA_PRODUCER, read_options(argc, argv), why, sizeof why);
    samples = malloc(SAMPLES_MAX * sizeof *samples);
    if (!rk || !samples) {
        die("start", why);
    }
    rd_kafka_topic_t *topic = rd_kafka_topic_new(rk, opt.topic, NULL);
    const struct rd_kafka_metadata *md;
    if (rd_kafka_metadata(rk, 0, topic, &md, 10000) != 0) {
        die("metadata", "no answer");
    }
    rd_kafka_metadata_destroy(md);
    uint64_t began = now_ns();
    write_all(rk, topic);
    rd_kafka_flush(rk, 60000);
    double seconds = (double)(now_ns() - began) / 1e9;
    qsort(samples, sample_count, sizeof *samples, compare);
    printf("{\"records\":%llu,\"failed\":%llu,\"seconds\":%.3f,\"per_second\":%.0f,"
           "\"mb_per_second\":%.1f,\"p50_us\":%u,\"p99_us\":%u}\n",
           (unsigned long long)answered, (unsigned long long)failed, seconds,
           (double)answered / seconds, (double)answered * (double)opt.size / seconds / 1e6,
           sample_count ? samples[sample_count / 2] : 0,
           sample_count ? samples[sample_count * 99 / 100] : 0);
    rd_kafka_topic_destroy(topic);
    rd_kafka_destroy(rk);
    free(samples);
    return answered == opt.count && failed == 0 ? 0 : 1;
}
