/* Lookups by time: what a client hears of each result, and who goes on for whom. Store, workers and
 * net are replaced. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kafka-server/api/api.h"
#include "kafka-server/broker/topics.h"
#include "kafka-server/broker/workers.h"
#include "kafka-server/server.h"
#include "kafka_messages.h"
#include "shared/base/log.h"

#define PARTITIONS 5

static struct server server;
static struct store_topic demo = {.name = "demo", .partition_count = PARTITIONS};
static struct topic demo_topic = {.row = &demo};

static struct work *submitted;
static enum err submit_says;
static enum err store_says[PARTITIONS];
static int looked_up, lines, closed;
static struct list_offsets_response reply; /* arrays in the request's arena */
static bool replied;

/* --- in place of others ---------------------------------------------------------------------- */

const struct topic *topics_find(const struct topics *t, struct slice name)
{
    return &demo_topic;
}

enum err store_offsets(struct store *s, uint32_t uid, struct store_offsets *o)
{
    *o = (struct store_offsets){10, 20, 20, 3};
    return OK;
}

enum err store_epoch_end(struct store *s, uint32_t uid, int32_t epoch, int32_t *found, int64_t *end)
{
    return ERR_NOT_FOUND;
}

enum err store_find_timestamp(struct store *s, uint32_t uid, int64_t ts, int64_t *offset,
                              int64_t *timestamp, struct errmsg *m)
{
    looked_up++;
    *offset = 15;
    *timestamp = ts + 1;
    return store_says[uid];
}

enum err store_find_max_timestamp(struct store *s, uint32_t uid, int64_t *offset,
                                  int64_t *timestamp, struct errmsg *m)
{
    return store_find_timestamp(s, uid, 1000, offset, timestamp, m);
}

enum err workers_submit(struct workers *w, struct work *work)
{
    submitted = submit_says == OK ? work : NULL;
    return submit_says;
}

void request_reply(struct request *rq, const void *response)
{
    memcpy(&reply, response, sizeof reply);
    replied = true;
}

void request_close(struct request *rq, const char *why)
{
    closed++;
}

static void count_line(void *arg, enum log_level level, const char *line)
{
    lines++;
}

/* --- one request ----------------------------------------------------------------------------- */

static struct request rq;

static int set_up(void **state)
{
    log_set_sink(count_line, NULL);
    submit_says = OK;
    submitted = NULL;
    memset(store_says, 0, sizeof store_says);
    looked_up = lines = closed = 0;
    replied = false;
    return 0;
}

static int tear_down(void **state)
{
    arena_fini(&rq.arena);
    return closed;
}

/* Asks for every partition at `time`. */
static void ask(int64_t time)
{
    rq = (struct request){.server = &server, .header.api_version = 10};
    arena_init(&rq.arena, 1 << 20);
    struct list_offsets_request *q = arena_alloc(&rq.arena, sizeof *q);
    codec_init(&list_offsets_request_message, q);
    q->topics = codec_new_array(&list_offsets_request_topics_message, &rq.arena, 1);
    q->topics_count = 1;
    q->topics->name = kstr_make("demo");
    q->topics->partitions =
        codec_new_array(&list_offsets_request_topics_partitions_message, &rq.arena, PARTITIONS);
    q->topics->partitions_count = PARTITIONS;
    for (int i = 0; i < PARTITIONS; i++) {
        q->topics->partitions[i].partition_index = i;
        q->topics->partitions[i].timestamp = time;
    }
    rq.body = q;
    api_list_offsets(&rq);
}

static void test_results_of_lookups_are_told_apart(void **state)
{
    static const struct {
        enum err store;
        int16_t error;
        int64_t offset, timestamp;
    } cases[PARTITIONS] = {
        {OK, KERR_NONE, 15, 501},
        {ERR_NOT_FOUND, KERR_NONE, -1, -1},
        {ERR_AGAIN, KERR_LEADER_NOT_AVAILABLE, -1, -1},
        {ERR_IO, KERR_KAFKA_STORAGE_ERROR, -1, -1},
        {ERR_CORRUPT, KERR_KAFKA_STORAGE_ERROR, -1, -1},
    };
    for (int i = 0; i < PARTITIONS; i++) {
        store_says[i] = cases[i].store;
    }
    ask(500);
    assert_false(replied);
    submitted->run(submitted);
    submitted->done(submitted);
    assert_true(replied);
    for (int i = 0; i < PARTITIONS; i++) {
        const struct list_offsets_response_topics_partitions *p = &reply.topics->partitions[i];
        assert_int_equal(p->error_code, cases[i].error);
        assert_int_equal(p->offset, cases[i].offset);
        assert_int_equal(p->timestamp, cases[i].timestamp);
    }
    assert_int_equal(lines, 1); /* for both of the disk's faults */
}

static void test_nothing_is_looked_up_for_who_is_gone(void **state)
{
    ask(500);
    rq.cancel(&rq);
    submitted->run(submitted);
    submitted->done(submitted);
    assert_int_equal(looked_up, 0);
    assert_false(replied);
}

static void test_busy_workers_are_asked_again_by_the_client(void **state)
{
    submit_says = ERR_FULL;
    ask(500);
    assert_true(replied);
    assert_int_equal(reply.topics->partitions[0].error_code, KERR_LEADER_NOT_AVAILABLE);
}

static void test_ends_need_no_lookup(void **state)
{
    static const struct {
        int64_t time, offset;
        int16_t error;
    } cases[] = {{-1, 20, 0}, {-2, 10, 0}, {-4, 10, 0}, {-5, -1, 0}, {-7, -1, 35}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ask(cases[i].time);
        assert_true(replied);
        assert_int_equal(reply.topics->partitions[0].offset, cases[i].offset);
        assert_int_equal(reply.topics->partitions[0].error_code, cases[i].error);
        replied = false;
        arena_fini(&rq.arena);
    }
    assert_null(submitted);
    assert_int_equal(looked_up, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_results_of_lookups_are_told_apart),
        TEST(test_nothing_is_looked_up_for_who_is_gone),
        TEST(test_busy_workers_are_asked_again_by_the_client),
        TEST(test_ends_need_no_lookup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
