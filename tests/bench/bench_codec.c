/* How long the codec takes: nanoseconds a message, and per element of what large messages repeat.
 *
 *     bench_codec [SECONDS per line, 0.2 by default]
 *
 * One thread, warm caches, arena and buffer kept and emptied as the server does. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "kafka_messages.h"

#define ROOM_MAX  (256 << 20)
#define HOLES_MAX 4096
#define ROUND     16 /* calls between two looks at the clock */

static struct arena arena;
static struct buf out, text;
static struct codec_hole hole_list[HOLES_MAX];
static double seconds = 0.2;

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

struct work {
    const char *name;
    const struct codec_message *t;
    int16_t version;
    const void *message;
    int elements; /* that the message repeats */
};

enum what { ENCODE, DECODE, PRINT };

static void once(const struct work *w, enum what what, struct slice bytes)
{
    struct codec_holes holes = {hole_list, 0, HOLES_MAX};
    struct errmsg m;
    enum err e = OK;
    if (what == ENCODE) {
        buf_reset(&out);
        e = codec_encode(w->t, w->version, w->message, &out, &holes, &m);
    } else if (what == DECODE) {
        struct arena a; /* one per request, as the server has it */
        arena_init(&a, ROOM_MAX);
        void *back = arena_alloc(&a, codec_struct_bytes(w->t));
        e = back ? codec_decode(w->t, w->version, bytes, &a, back, &m) : ERR_NOMEM;
        arena_fini(&a);
    } else {
        buf_reset(&text);
        codec_print(w->t, w->version, w->message, &text);
    }
    if (e) {
        fprintf(stderr, "%s: %s\n", w->name, m.text);
        exit(1);
    }
}

static double measure(const struct work *w, enum what what, struct slice bytes)
{
    long calls = 0;
    double start = now_ns(), spent = 0;
    while (spent < seconds * 1e9) {
        for (int i = 0; i < ROUND; i++) {
            once(w, what, bytes);
        }
        calls += ROUND;
        spent = now_ns() - start;
    }
    return spent / (double)calls;
}

static void run(const struct work *w)
{
    struct buf copy;
    struct errmsg m;
    buf_init(&copy, ROOM_MAX);
    if (codec_encode(w->t, w->version, w->message, &copy, NULL, &m)) {
        fprintf(stderr, "%s: %s\n", w->name, m.text);
        exit(1);
    }
    double e = measure(w, ENCODE, (struct slice){0});
    double d = measure(w, DECODE, buf_slice(&copy));
    double p = measure(w, PRINT, (struct slice){0});
    printf(
        "%-38s v%-3d %8zu B  encode %10.0f ns (%6.1f)  decode %10.0f ns (%6.1f)  print %10.0f ns\n",
        w->name, w->version, copy.len, e, e / w->elements, d, d / w->elements, p);
    buf_fini(&copy);
}

static void *array(const struct codec_message *t, int32_t count)
{
    void *list = codec_new_array(t, &arena, count);
    if (!list) {
        exit(1);
    }
    return list;
}

static const struct metadata_response *metadata(int topics)
{
    struct metadata_response *rs = array(&metadata_response_message, 1);
    static int32_t node = 1;
    rs->brokers = array(&metadata_response_brokers_message, rs->brokers_count = 1);
    rs->brokers->host = kstr_make("culex.example.org");
    rs->cluster_id = kstr_make("3b4cUUO7QKqYkvq5vkYcXw");
    rs->topics = array(&metadata_response_topics_message, rs->topics_count = topics);
    for (int i = 0; i < topics; i++) {
        struct metadata_response_topics *t = &rs->topics[i];
        t->name = kstr_make("factory.line-7.temperature");
        t->topic_id = uuid_random();
        t->partitions =
            array(&metadata_response_topics_partitions_message, t->partitions_count = 1);
        t->partitions->replica_nodes = t->partitions->isr_nodes = &node;
        t->partitions->replica_nodes_count = t->partitions->isr_nodes_count = 1;
    }
    return rs;
}

static const struct fetch_response *fetch_response(int partitions)
{
    static const struct iovec records = {"0123456789", 10};
    struct fetch_response *rs = array(&fetch_response_message, 1);
    rs->responses = array(&fetch_response_responses_message, rs->responses_count = 1);
    struct fetch_response_responses *t = rs->responses;
    t->topic_id = uuid_random();
    t->topic = kstr_make("factory.line-7.temperature");
    t->partitions_count = partitions;
    t->partitions = array(&fetch_response_responses_partitions_message, partitions);
    for (int i = 0; i < partitions; i++) {
        t->partitions[i].partition_index = i;
        t->partitions[i].aborted_transactions_count = -1;
        t->partitions[i].records = (struct krecords){&records, 1, 10};
    }
    return rs;
}

static const struct fetch_request *fetch_request(int partitions)
{
    struct fetch_request *rq = array(&fetch_request_message, 1);
    rq->topics = array(&fetch_request_topics_message, rq->topics_count = 1);
    rq->topics->topic_id = uuid_random();
    rq->topics->topic = kstr_make("factory.line-7.temperature");
    rq->topics->partitions_count = partitions;
    rq->topics->partitions = array(&fetch_request_topics_partitions_message, partitions);
    return rq;
}

static const struct heartbeat_request *heartbeat(void)
{
    struct heartbeat_request *rq = array(&heartbeat_request_message, 1);
    rq->group_id = kstr_make("consumers");
    rq->member_id = kstr_make("rdkafka-7c6f1d1c-9f0a-4a6b-8d64-0f5e1a3d9a11");
    return rq;
}

int main(int argc, char **argv)
{
    if (argc > 1) {
        seconds = strtod(argv[1], NULL); /* not a number: 0, one round a line */
    }
    arena_init(&arena, ROOM_MAX);
    buf_init(&out, ROOM_MAX);
    buf_init(&text, ROOM_MAX);
    const struct work works[] = {
        {"Heartbeat request", &heartbeat_request_message, 3, heartbeat(), 1},
        {"Heartbeat request", &heartbeat_request_message, 4, heartbeat(), 1},
        {"Fetch request, 1 partition", &fetch_request_message, 11, fetch_request(1), 1},
        {"Fetch request, 1 partition", &fetch_request_message, 16, fetch_request(1), 1},
        {"Fetch request, 1000 partitions", &fetch_request_message, 11, fetch_request(1000), 1000},
        {"Fetch request, 1000 partitions", &fetch_request_message, 16, fetch_request(1000), 1000},
        {"Fetch response, 1 partition", &fetch_response_message, 11, fetch_response(1), 1},
        {"Fetch response, 1 partition", &fetch_response_message, 16, fetch_response(1), 1},
        {"Fetch response, 1000 partitions", &fetch_response_message, 11, fetch_response(1000),
         1000},
        {"Fetch response, 1000 partitions", &fetch_response_message, 16, fetch_response(1000),
         1000},
        {"Metadata response, 1000 topics", &metadata_response_message, 5, metadata(1000), 1000},
        {"Metadata response, 1000 topics", &metadata_response_message, 12, metadata(1000), 1000},
    };
    for (size_t i = 0; i < sizeof works / sizeof works[0]; i++) {
        run(&works[i]);
    }
    buf_fini(&text);
    buf_fini(&out);
    arena_fini(&arena);
    return 0;
}
