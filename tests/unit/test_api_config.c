/* DescribeConfigs of topics with long attributes, named again and again: the loop reads them once.
 * Net is replaced. */
#include "tests/unit/store_kit.h"

#include <jansson.h>

#include "kafka-server/api/api.h"
#include "kafka-server/api/api_bound.h"
#include "kafka-server/api/api_config.h"
#include "kafka-server/broker/topics.h"
#include "kafka-server/server.h"
#include "kafka_messages.h"

#define REPEATS 3000
#define FILTERS 1024

static struct kit kit;
static struct store *own, *captured;
static struct server server;
static struct request rq;
static struct describe_configs_response reply; /* arrays in the request's arena */
static bool replied;
static int reads;

/* --- in place of others ---------------------------------------------------------------------- */

json_t *json_loads(const char *text, size_t flags, json_error_t *error)
{
    reads++;
    return json_loadb(text, strlen(text), flags, error);
}

void request_reply(struct request *r, const void *response)
{
    memcpy(&reply, response, sizeof reply);
    replied = true;
}

void request_close(struct request *r, const char *why)
{
    fail_msg("closed: %s", why);
}

/* --- topics and requests --------------------------------------------------------------------- */

/* As its writer has it: bound by a client, to many filters. */
static char *attributes_of_bound(void)
{
    json_t *filters = json_array();
    for (int i = 0; i < FILTERS; i++) {
        char text[48];
        snprintf(text, sizeof text, "house/%04d/some/long/way/to/the/door/#", i);
        json_array_append_new(filters, json_string(text));
    }
    json_t *all = json_pack("{s:o, s:s, s:[s], s:i}", "mqtt.filter", filters, "mqtt.bound.by",
                            "kafka", "said", "retention.ms", "max.message.bytes", 4194304);
    char *text = json_dumps(all, JSON_COMPACT);
    json_decref(all);
    return text;
}

static void make(struct store *s, const char *name, char *attributes)
{
    struct errmsg m;
    struct store_topic t = {.partition_count = 1, .retention_ms = 77, .retention_bytes = -1,
                            .cleanup = STORE_CLEANUP_DELETE, .attributes = attributes};
    snprintf(t.name, sizeof t.name, "%s", name);
    assert_int_equal(store_topic_create(s, &t, &m), OK);
    free(attributes);
}

static int set_up(void **state)
{
    kit_init(&kit);
    captured = kit_open(&kit, &kit.writer);
    struct store_options o = kit.writer;
    o.dir = kit.follower_dir; /* another directory, that is all */
    own = kit_open(&kit, &o);
    make(captured, "bound", attributes_of_bound());
    make(captured, "file", strdup("{\"mqtt.bound.by\":\"configuration\"}"));
    make(own, "free", strdup("{\"configs\":{\"retention.ms\":\"88\"}}"));
    assert_int_equal(config_init(&server.config), OK);
    server.topics = topics_new();
    topics_set_stores(server.topics, own, captured);
    reads = 0;
    replied = false;
    return 0;
}

static int tear_down(void **state)
{
    arena_fini(&rq.arena);
    topics_free(server.topics);
    config_fini(&server.config);
    store_close(own);
    store_close(captured);
    kit_fini(&kit);
    return 0;
}

/* Each with one of the names in turn, and retention.ms alone, so many times. */
static void describe_keys(const char *const *names, int32_t name_count, int32_t count,
                          int32_t key_count)
{
    rq = (struct request){.server = &server, .header.api_version = 4};
    arena_init(&rq.arena, 64u << 20);
    struct describe_configs_request *q = arena_alloc(&rq.arena, sizeof *q);
    struct kstr *keys = arena_array(&rq.arena, (size_t)key_count, sizeof *keys);
    assert_non_null(q);
    assert_non_null(keys);
    codec_init(&describe_configs_request_message, q);
    for (int32_t i = 0; i < key_count; i++) {
        keys[i] = kstr_make("retention.ms");
    }
    q->resources =
        codec_new_array(&describe_configs_request_resources_message, &rq.arena, count);
    assert_non_null(q->resources);
    q->resources_count = count;
    for (int32_t i = 0; i < count; i++) {
        q->resources[i].resource_type = 2;
        q->resources[i].resource_name = kstr_make(names[i % name_count]);
        q->resources[i].configuration_keys = keys;
        q->resources[i].configuration_keys_count = key_count;
    }
    rq.body = q;
    api_describe_configs(&rq);
    assert_true(replied);
}

static void describe(const char *const *names, int32_t name_count, int32_t count)
{
    describe_keys(names, name_count, count, 1);
}

static void assert_told(const struct describe_configs_response_results *r, const char *name,
                        const char *retention, bool read_only)
{
    assert_true(slice_eq(kstr_slice(r->resource_name), slice_str(name)));
    assert_int_equal(r->error_code, KERR_NONE);
    assert_int_equal(r->configs_count, 1);
    assert_true(slice_eq(kstr_slice(r->configs[0].value), slice_str(retention)));
    assert_int_equal(r->configs[0].read_only, read_only);
}

/* --- tests ----------------------------------------------------------------------------------- */

static void test_a_topic_named_thousands_of_times_is_read_once(void **state)
{
    static const char *const names[] = {"free", "bound", "file"};
    describe(names, 3, REPEATS);
    assert_int_equal(reply.results_count, REPEATS); /* each is answered, as Kafka does */
    for (int32_t i = 0; i < REPEATS; i += 3) {
        assert_told(&reply.results[i], "free", "88", false);
        assert_told(&reply.results[i + 1], "bound", "77", false);
        assert_told(&reply.results[i + 2], "file", "77", true);
    }
    /* And of a captured one once more, who has bound it: that is known from then on. */
    assert_int_equal(reads, 5);
    arena_fini(&rq.arena);
    describe(names, 3, 3);
    assert_int_equal(reads, 8);
}

static void test_more_keys_than_are_worth_looking_through_are_refused(void **state)
{
    static const char *const names[] = {"free", "file"};
    describe_keys(names, 2, 2, 50000);
    assert_told(&reply.results[0], "free", "88", false);
    arena_fini(&rq.arena);
    describe_keys(names, 2, 2, 50001);
    assert_int_equal(reply.results_count, 2);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(reply.results[i].error_code, KERR_INVALID_REQUEST);
        assert_int_equal(reply.results[i].configs_count, 0);
    }
}

static void test_who_has_bound_a_topic_is_read_once(void **state)
{
    static const char *const names[] = {"bound", "file", "free"};
    rq.server = &server;
    for (int i = 0; i < REPEATS; i++) {
        const char *name = names[i % 3];
        const struct topic *t = topics_find(server.topics, slice_str(name));
        assert_int_equal(bound_by_client(&rq, t), i % 3 == 0);
    }
    assert_int_equal(reads, 2);
}

static void test_a_captured_topics_ratio_is_told_as_java_writes_it(void **state)
{
    static const struct {
        double ratio;
        const char *told;
    } all[] = {{0.5, "0.5"}, {1, "1.0"}, {0, "0.0"}, {0.123456, "0.123456"}, {0.00025, "2.5E-4"}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        const struct store_topic row = {
            .compaction = {.given = true, .min_cleanable_dirty_ratio = all[i].ratio}};
        json_t *configs = api_config_captured(&row, NULL);
        const json_t *told = json_object_get(configs, "min.cleanable.dirty.ratio");
        assert_string_equal(json_string_value(told), all[i].told);
        json_decref(configs);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_topic_named_thousands_of_times_is_read_once),
        TEST(test_more_keys_than_are_worth_looking_through_are_refused),
        TEST(test_who_has_bound_a_topic_is_read_once),
        cmocka_unit_test(test_a_captured_topics_ratio_is_told_as_java_writes_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
