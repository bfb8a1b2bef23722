/* The contract between an MQTT publish and its Kafka record, row by row, and the frame in which a
 * publish crosses from the broker to the writer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "shared/mqtt/mapping.h"

#include <stdio.h>
#include <stdlib.h>

static struct mapping mapping;
static struct publish_frame frame;
static struct config config;

/* A stream from its options, as the configuration makes it. */
static const struct config_stream *stream_with(const char *name, const char *value)
{
    config_fini(&config);
    assert_int_equal(config_init(&config), OK);
    const char *names[] = {"stream", "filter", name};
    const char *values[] = {"s", "#", value};
    assert_int_equal(config_from_options(&config, "test", names, values, name ? 3 : 2), OK);
    return &config.streams[0];
}

static int setup(void **state)
{
    mapping_init(&mapping);
    return config_init(&config);
}

static int teardown(void **state)
{
    mapping_fini(&mapping);
    config_fini(&config);
    return 0;
}

static struct publish hello(void)
{
    return (struct publish){.timestamp_ms = 1234567890123,
                            .topic = slice_str("site/7/temp"),
                            .payload = slice_str("21.5"),
                            .qos = 1,
                            .payload_format = -1,
                            .client_id = slice_str("dev-1"),
                            .username = slice_str("ann")};
}

/* Key as text; "(null)" for a null key. */
static void assert_key(const char *rule, const struct publish *p, const char *expected)
{
    struct record r;
    mapping_record(&mapping, stream_with("key", rule), p, &r);
    char key[256] = "(null)";
    if (r.key.data) {
        snprintf(key, sizeof key, "%.*s", (int)r.key.len, (const char *)r.key.data);
    }
    assert_string_equal(key, expected);
}

static void headers_text(const struct record *r, char *out, size_t size)
{
    size_t len = 0;
    out[0] = 0;
    for (uint32_t i = 0; i < r->header_count; i++) {
        const struct record_header *h = &r->headers[i];
        assert_non_null(h->value.data);
        len += (size_t)snprintf(out + len, size - len, "%s%.*s=%.*s", i ? "," : "", (int)h->key.len,
                                (const char *)h->key.data, (int)h->value.len,
                                (const char *)h->value.data);
    }
}

static void assert_headers(const struct config_stream *s, const struct publish *p,
                           const char *expected)
{
    struct record r;
    char text[2048];
    mapping_record(&mapping, s, p, &r);
    headers_text(&r, text, sizeof text);
    assert_string_equal(text, expected);
}

static void test_value_and_timestamp_are_the_publish(void **state)
{
    struct publish p = hello();
    struct record r;
    mapping_record(&mapping, stream_with(NULL, NULL), &p, &r);
    assert_int_equal(r.timestamp, 1234567890123);
    assert_true(slice_eq(r.value, slice_str("21.5")));
}

static void test_an_empty_payload_is_empty_and_not_null(void **state)
{
    struct publish p = hello();
    struct record r;
    p.payload = slice_make(NULL, 0);
    p.retain = true;
    mapping_record(&mapping, stream_with(NULL, NULL), &p, &r);
    assert_non_null(r.value.data);
    assert_int_equal(r.value.len, 0);
}

static void test_a_retained_empty_publish_is_a_tombstone_on_a_compacted_stream(void **state)
{
    struct publish p = hello();
    struct record r;
    const struct config_stream *s = stream_with("cleanup_policy", "compact");
    p.payload = slice_make(NULL, 0);
    mapping_record(&mapping, s, &p, &r);
    assert_non_null(r.value.data); /* not retained */
    p.retain = true;
    mapping_record(&mapping, s, &p, &r);
    assert_null(r.value.data);
    p.payload = slice_str("x");
    mapping_record(&mapping, s, &p, &r);
    assert_int_equal(r.value.len, 1);
}

static void test_keys_follow_the_rule(void **state)
{
    struct publish p = hello();
    assert_key("topic", &p, "site/7/temp");
    assert_key("topic[1]", &p, "site");
    assert_key("topic[2]", &p, "7");
    assert_key("topic[3]", &p, "temp");
    assert_key("topic[4]", &p, "(null)");
    assert_key("topic[1..2]", &p, "site/7");
    assert_key("topic[2..3]", &p, "7/temp");
    assert_key("topic[2..9]", &p, "7/temp");
    assert_key("clientid", &p, "dev-1");
    assert_key("username", &p, "ann");
    assert_key("none", &p, "(null)");
    p.topic = slice_str("/a//");
    assert_key("topic[1]", &p, "");
    assert_key("topic[2..3]", &p, "a/");
    assert_key("topic[4]", &p, "");
    p.client_id = p.username = slice_make(NULL, 0);
    assert_key("clientid", &p, "(null)");
    assert_key("username", &p, "(null)");
}

static void test_keys_come_out_of_json_payloads(void **state)
{
    struct publish p = hello();
    p.payload = slice_str("{\"d\":{\"id\":\"x-1\",\"n\":42,\"f\":1.5,\"t\":true,\"z\":null},"
                          "\"a\":[{\"k\":\"first\"},7],\"big\":9007199254740993}");
    assert_key("payload.d.id", &p, "x-1");
    assert_key("payload.d.n", &p, "42");
    assert_key("payload.d.f", &p, "1.5");
    assert_key("payload.d.t", &p, "true");
    assert_key("payload.d.z", &p, "(null)");
    assert_key("payload.d", &p, "(null)");
    assert_key("payload.a.0.k", &p, "first");
    assert_key("payload.a[1]", &p, "7");
    assert_key("payload.a[2]", &p, "(null)");
    assert_key("payload.big", &p, "9007199254740993");
    assert_key("payload.missing.x", &p, "(null)");
    p.payload = slice_str("{\"id\":0.1,\"p\":4.50,\"e\":1e3,\"s\":\"\\u00e9\\n\","
                          "\"bad\":\"\\ud800\",\"n\":18446744073709551615,\"inf\":1e400}");
    assert_key("payload.id", &p, "0.1");
    assert_key("payload.p", &p, "4.50");
    assert_key("payload.e", &p, "1e3");
    assert_key("payload.s", &p, "\xc3\xa9\n");
    assert_key("payload.n", &p, "18446744073709551615");
    assert_key("payload.inf", &p, "1e400");
    assert_key("payload.bad", &p, "(null)");
    p.payload = slice_str("{\"d\":{\"id\":\"cut");
    assert_key("payload.d.id", &p, "(null)");
    p.payload = slice_str("21.5");
    assert_key("payload.d", &p, "(null)");
    p.payload = slice_make(NULL, 0);
    assert_key("payload.d", &p, "(null)");
    p.payload = slice_make("\xff\xfe\0", 3);
    assert_key("payload.d", &p, "(null)");
}

static void test_keys_from_payloads_have_bounds(void **state)
{
    static const size_t text_bytes = MAPPING_JSON_BYTES_MAX;
    char *text = malloc(text_bytes + 1);
    struct publish p = hello();
    struct record r;
    memset(text, ' ', text_bytes + 1);
    memcpy(text, "{\"a\":1}", 7);
    p.payload = slice_make(text, text_bytes);
    assert_key("payload.a", &p, "1");
    p.payload.len++;
    assert_key("payload.a", &p, "(null)");
    const struct config_stream *s = stream_with("key", "payload.a");
    for (int quoted = 0; quoted < 2; quoted++) {
        static const size_t key_bytes = 64u << 10;
        for (size_t len = key_bytes; len <= key_bytes + 1; len++) {
            size_t at = (size_t)snprintf(text, 16, "{\"a\":%s", quoted ? "\"" : "");
            memset(text + at, '7', len);
            at += len;
            at += (size_t)snprintf(text + at, 16, "%s}", quoted ? "\"" : "");
            p.payload = slice_make(text, at);
            mapping_record(&mapping, s, &p, &r);
            assert_int_equal(r.key.data ? r.key.len : 0, len == key_bytes ? len : 0);
        }
    }
    free(text);
}

static void test_records_without_the_key_that_is_asked_for_are_told(void **state)
{
    static const struct {
        const char *key;
        bool unkeyed;
    } rows[] = {{"topic", false},      {"topic[3]", false},     {"topic[4]", true},
                {"clientid", false},   {"payload.x", true},     {"property.x", true},
                {"sparkplug", false},  {"none", false},         {"username", false}};
    struct publish p = hello();
    struct record r;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        mapping_record(&mapping, stream_with("key", rows[i].key), &p, &r);
        assert_int_equal(mapping.unkeyed, rows[i].unkeyed);
    }
}

static void test_keys_come_out_of_user_properties(void **state)
{
    struct publish p = hello();
    struct publish_property user[] = {{slice_str("room"), slice_str("a")},
                                      {slice_str("empty"), slice_str("")},
                                      {slice_str("room"), slice_str("b")}};
    p.user = user;
    p.user_count = 3;
    assert_key("property.room", &p, "b");
    assert_key("property.empty", &p, "");
    assert_key("property.other", &p, "(null)");
}

static void test_sparkplug_keys_leave_out_the_message_type(void **state)
{
    struct publish p = hello();
    static const char *const rows[][2] = {
        {"spBv1.0/plant/DBIRTH/edge/pump", "plant/edge/pump"},
        {"spBv1.0/plant/DDATA/edge/pump", "plant/edge/pump"},
        {"spBv1.0/plant/NDEATH/edge", "plant/edge"},
        {"spBv1.0/STATE/host", "spBv1.0/STATE/host"},
        {"other/topic", "other/topic"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        p.topic = slice_str(rows[i][0]);
        assert_key("sparkplug", &p, rows[i][1]);
    }
}

static void test_headers_keep_their_order(void **state)
{
    struct publish p = hello();
    assert_headers(stream_with(NULL, NULL), &p,
                   "mqtt.topic=site/7/temp,mqtt.qos=1,mqtt.retained=false,mqtt.client.id=dev-1");
    assert_headers(stream_with("username.header", "true"), &p,
                   "mqtt.topic=site/7/temp,mqtt.qos=1,mqtt.retained=false,mqtt.client.id=dev-1,"
                   "mqtt.username=ann");
    assert_headers(stream_with("headers", "minimal"), &p, "mqtt.topic=site/7/temp");
    assert_headers(stream_with("headers", "none"), &p, "");
    struct publish_property user[] = {{slice_str("a"), slice_str("1")},
                                      {slice_str("mqtt.qos"), slice_str("9")},
                                      {slice_str("a"), slice_str("")},
                                      {slice_str(""), slice_make(NULL, 0)}};
    p.user = user;
    p.user_count = 4;
    p.retain = true;
    p.qos = 2;
    p.client_id = slice_make(NULL, 0);
    p.content_type = slice_str("text/plain");
    p.response_topic = slice_str("re/1");
    p.correlation_data = slice_str("c");
    p.payload_format = 1;
    assert_headers(stream_with(NULL, NULL), &p,
                   "a=1,mqtt.qos=9,a=,=,mqtt.topic=site/7/temp,mqtt.qos=2,mqtt.retained=true,"
                   "content-type=text/plain,mqtt.response-topic=re/1,mqtt.correlation-data=c,"
                   "mqtt.payload-format-indicator=1");
    assert_int_equal(mapping.shadowed, 1);
    assert_headers(stream_with("headers", "minimal"), &p, "mqtt.topic=site/7/temp");
}

static void test_the_broker_copies_only_what_a_stream_needs(void **state)
{
    assert_int_equal(mapping_stream_needs(stream_with(NULL, NULL)),
                     NEEDS_CLIENT_ID | NEEDS_USER_PROPERTIES | NEEDS_PROPERTIES);
    assert_int_equal(mapping_stream_needs(stream_with("headers", "none")), 0);
    assert_true(mapping_stream_needs(stream_with("key", "username")) & NEEDS_USERNAME);
    assert_true(mapping_stream_needs(stream_with("username_header", "true")) & NEEDS_USERNAME);
}

/* --- frames ----------------------------------------------------------------------------------- */

static const struct publish_property two[] = {
    {{(const uint8_t *)"k", 1}, {(const uint8_t *)"v1", 2}},
    {{(const uint8_t *)"", 0}, {(const uint8_t *)"", 0}},
};

static struct publish everything(void)
{
    struct publish p = hello();
    p.retain = true;
    p.qos = 2;
    p.payload_format = 0;
    p.content_type = slice_str("t");
    p.response_topic = slice_str("");
    p.correlation_data = slice_make("\0\1", 2);
    p.user = two;
    p.user_count = 2;
    return p;
}

static uint8_t *encode(const struct publish *p, const uint64_t *ids, size_t n, size_t *len)
{
    *len = publish_frame_size(p, n);
    assert_true(*len > 0);
    uint8_t *out = malloc(*len); /* exactly, so that one byte more is seen */
    assert_non_null(out);
    uint32_t crc = publish_frame_put(p, ids, n, out, 7);
    assert_int_equal(crc, crc32c(7, out, *len));
    return out;
}

static void test_a_frame_gives_back_what_went_in(void **state)
{
    struct publish p = everything();
    uint64_t ids[] = {stream_id(slice_str("a")), stream_id(slice_str("b"))};
    assert_true(ids[0] != ids[1]);
    size_t len;
    uint8_t *bytes = encode(&p, ids, 2, &len);
    assert_int_equal(publish_frame_get(slice_make(bytes, len), &frame), OK);
    const struct publish *q = &frame.publish;
    assert_int_equal(frame.stream_count, 2);
    assert_memory_equal(frame.streams, ids, sizeof ids);
    assert_int_equal(q->timestamp_ms, p.timestamp_ms);
    assert_int_equal(q->qos, 2);
    assert_true(q->retain);
    assert_int_equal(q->payload_format, 0);
    assert_true(slice_eq(q->topic, p.topic));
    assert_true(slice_eq(q->payload, p.payload));
    assert_true(slice_eq(q->client_id, p.client_id));
    assert_true(slice_eq(q->username, p.username));
    assert_true(slice_eq(q->content_type, p.content_type));
    assert_non_null(q->response_topic.data);
    assert_int_equal(q->response_topic.len, 0);
    assert_true(slice_eq(q->correlation_data, p.correlation_data));
    assert_int_equal(q->user_count, 2);
    assert_true(slice_eq(q->user[0].name, two[0].name));
    assert_true(slice_eq(q->user[0].value, two[0].value));
    free(bytes);
}

static void test_absent_parts_stay_absent(void **state)
{
    struct publish p = {.topic = slice_str("t"), .payload_format = -1};
    size_t len;
    uint8_t *bytes = encode(&p, NULL, 0, &len);
    assert_int_equal(publish_frame_get(slice_make(bytes, len), &frame), OK);
    assert_null(frame.publish.client_id.data);
    assert_null(frame.publish.username.data);
    assert_null(frame.publish.content_type.data);
    assert_int_equal(frame.publish.payload_format, -1);
    assert_int_equal(frame.publish.payload.len, 0);
    free(bytes);
}

static void test_too_much_has_no_frame(void **state)
{
    struct publish p = hello();
    p.user = two;
    p.user_count = PUBLISH_USER_PROPERTIES_MAX + 1;
    assert_int_equal(publish_frame_size(&p, 1), 0);
    p.user_count = 0;
    assert_int_equal(publish_frame_size(&p, PUBLISH_STREAMS_MAX + 1), 0);
    p.topic.len = 65536;
    assert_int_equal(publish_frame_size(&p, 1), 0);
}

static void test_spoiled_frames_are_refused_or_read_within_bounds(void **state)
{
    struct publish p = everything();
    uint64_t ids[] = {1, 2, 3};
    size_t len;
    uint8_t *bytes = encode(&p, ids, 3, &len);
    for (size_t cut = 0; cut < len; cut++) {
        uint8_t *part = malloc(cut + 1);
        memcpy(part, bytes, cut);
        assert_true(publish_frame_get(slice_make(part, cut), &frame) != OK);
        free(part);
    }
    for (size_t i = 0; i < len; i++) {
        for (int bit = 0; bit < 8; bit++) {
            bytes[i] ^= (uint8_t)(1 << bit);
            enum err e = publish_frame_get(slice_make(bytes, len), &frame);
            assert_true(e == OK || e == ERR_CORRUPT || (e == ERR_VERSION && i == 0));
            bytes[i] ^= (uint8_t)(1 << bit);
        }
    }
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_value_and_timestamp_are_the_publish),
        cmocka_unit_test(test_an_empty_payload_is_empty_and_not_null),
        cmocka_unit_test(test_a_retained_empty_publish_is_a_tombstone_on_a_compacted_stream),
        cmocka_unit_test(test_keys_follow_the_rule),
        cmocka_unit_test(test_keys_come_out_of_json_payloads),
        cmocka_unit_test(test_keys_from_payloads_have_bounds),
        cmocka_unit_test(test_records_without_the_key_that_is_asked_for_are_told),
        cmocka_unit_test(test_keys_come_out_of_user_properties),
        cmocka_unit_test(test_sparkplug_keys_leave_out_the_message_type),
        cmocka_unit_test(test_headers_keep_their_order),
        cmocka_unit_test(test_the_broker_copies_only_what_a_stream_needs),
        cmocka_unit_test(test_a_frame_gives_back_what_went_in),
        cmocka_unit_test(test_absent_parts_stay_absent),
        cmocka_unit_test(test_too_much_has_no_frame),
        cmocka_unit_test(test_spoiled_frames_are_refused_or_read_within_bounds),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
