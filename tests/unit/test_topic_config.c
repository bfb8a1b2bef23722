/* The table of topic configs: what is legal, in Kafka's sentences; what holds, and from where. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "kafka-server/broker/topic_config.h"

static struct config config;

static int setup(void **state)
{
    return config_init(&config);
}

static int teardown(void **state)
{
    config_fini(&config);
    return 0;
}

static json_t *configs_of(const char *name, const char *value)
{
    struct errmsg m;
    json_t *configs = json_object();
    assert_int_equal(topic_config_set(configs, slice_str(name), slice_str(value), &m), OK);
    return configs;
}

/* What a value is shown as, or the sentence that refuses it. */
static void assert_set(const char *name, const char *value, const char *want)
{
    struct errmsg m = {""};
    json_t *configs = json_object();
    enum err e = topic_config_set(configs, slice_str(name), slice_str(value), &m);
    const char *got = e == OK ? json_string_value(json_object_get(configs, name)) : m.text;
    assert_non_null(got);
    assert_string_equal(got, want);
    json_decref(configs);
}

static void test_names_are_sorted_and_defaults_are_legal(void **state)
{
    for (size_t i = 0; i < topic_config_count; i++) {
        const struct topic_config *row = &topic_configs[i];
        assert_true(i == 0 || strcmp(topic_configs[i - 1].name, row->name) < 0);
        assert_ptr_equal(topic_config_find(slice_str(row->name)), row);
        assert_set(row->name, row->usual, row->usual);
    }
    assert_null(topic_config_find(slice_str("retention")));
}

static void test_legal_values_take_kafkas_form(void **state)
{
    assert_set("retention.ms", " 1000 ", "1000");
    assert_set("retention.ms", "+7", "7");
    assert_set("retention.ms", "-1", "-1");
    assert_set("cleanup.policy", "compact , delete", "compact,delete");
    assert_set("cleanup.policy", "", "");
    assert_set("preallocate", "TRUE", "true");
    assert_set("min.cleanable.dirty.ratio", "1", "1.0");
    assert_set("min.cleanable.dirty.ratio", "0.50", "0.5");
    assert_set("compression.gzip.level", "-1", "-1");
    assert_set("compression.zstd.level", "-131072", "-131072");
    assert_set("leader.replication.throttled.replicas", "0:1,12:3", "0:1,12:3");
    assert_set("leader.replication.throttled.replicas", "*", "*");
    assert_set("segment.ms", "9223372036854775807", "9223372036854775807");
}

static void test_illegal_values_are_refused_as_kafka_does(void **state)
{
    assert_set("nope", "1", "Unknown topic config name: nope");
    assert_set("retention.ms", "-2",
               "Invalid value -2 for configuration retention.ms: Value must be at least -1");
    assert_set("retention.ms", "soon",
               "Invalid value soon for configuration retention.ms: Not a number of type LONG");
    assert_set("retention.ms", "", "Invalid value  for configuration retention.ms: Not a number of "
                                   "type LONG");
    assert_set("retention.ms", "9223372036854775808",
               "Invalid value 9223372036854775808 for configuration retention.ms: Not a number of "
               "type LONG");
    assert_set("max.message.bytes", "2147483648",
               "Invalid value 2147483648 for configuration max.message.bytes: Not a number of type "
               "INT");
    assert_set("segment.bytes", "1048575",
               "Invalid value 1048575 for configuration segment.bytes: Value must be at least "
               "1048576");
    assert_set("cleanup.policy", "compact,nope",
               "Invalid value nope for configuration cleanup.policy: String must be one of: "
               "compact, delete");
    assert_set("cleanup.policy", "delete,",
               "Invalid value  for configuration cleanup.policy: String must be one of: compact, "
               "delete");
    assert_set("compression.type", "Zstd",
               "Invalid value Zstd for configuration compression.type: String must be one of: "
               "uncompressed, zstd, lz4, snappy, gzip, producer");
    assert_set("compression.gzip.level", "0",
               "Invalid value 0 for configuration compression.gzip.level: Value must be between 1 "
               "and 9 or equal to -1");
    assert_set("compression.lz4.level", "18",
               "Invalid value 18 for configuration compression.lz4.level: Value must be no more "
               "than 17");
    assert_set("min.cleanable.dirty.ratio", "1.5",
               "Invalid value 1.5 for configuration min.cleanable.dirty.ratio: Value must be no "
               "more than 1");
    assert_set("min.cleanable.dirty.ratio", "nan",
               "Invalid value nan for configuration min.cleanable.dirty.ratio: Not a number of "
               "type DOUBLE");
    assert_set("preallocate", "yes",
               "Invalid value yes for configuration preallocate: Expected value to be either true "
               "or false");
    assert_set("follower.replication.throttled.replicas", "1:2,x",
               "Invalid value 1:2,x for configuration follower.replication.throttled.replicas: "
               "follower.replication.throttled.replicas must be the literal '*' or a list of "
               "replicas in the following format: [partitionId]:[brokerId],[partitionId]:"
               "[brokerId],...");
}

static void test_a_value_that_is_too_long_is_refused(void **state)
{
    struct errmsg m;
    json_t *configs = json_object();
    size_t len = TOPIC_CONFIG_VALUE_BYTES_MAX + 1;
    char *text = malloc(len);
    memset(text, '1', len);
    enum err e = topic_config_set(configs, slice_str("retention.ms"), slice_make(text, len), &m);
    assert_int_equal(e, ERR_INVALID);
    assert_string_equal(m.text, "The configuration value cannot be added because it exceeds the "
                                "maximum value size of 32767 bytes.");
    free(text);
    json_decref(configs);
}

static void assert_altered(json_t *configs, enum topic_config_op op, const char *value,
                           const char *want)
{
    struct errmsg m;
    assert_int_equal(topic_config_alter(configs, op, slice_str("cleanup.policy"), slice_str(value),
                                        &config, &m), OK);
    const char *got = json_string_value(json_object_get(configs, "cleanup.policy"));
    assert_string_equal(got != NULL ? got : "(none)", want);
}

static void test_lists_grow_and_shrink(void **state)
{
    struct errmsg m;
    json_t *configs = json_object();
    assert_altered(configs, TOPIC_CONFIG_APPEND, "compact", "delete,compact");
    assert_altered(configs, TOPIC_CONFIG_APPEND, "compact,delete", "delete,compact");
    assert_altered(configs, TOPIC_CONFIG_SUBTRACT, "delete", "compact");
    assert_altered(configs, TOPIC_CONFIG_SUBTRACT, "delete", "compact");
    assert_altered(configs, TOPIC_CONFIG_DELETE, "", "(none)");
    assert_altered(configs, TOPIC_CONFIG_DELETE, "", "(none)");
    assert_altered(configs, TOPIC_CONFIG_SET, "compact", "compact");
    assert_int_equal(topic_config_alter(configs, TOPIC_CONFIG_APPEND, slice_str("retention.ms"),
                                        slice_str("1"), &config, &m), ERR_INVALID);
    assert_string_equal(m.text,
                        "Can't APPEND to key retention.ms because its type is not LIST.");
    json_decref(configs);
}

static void test_configs_come_back_out_of_attributes(void **state)
{
    json_t *configs = configs_of("retention.ms", "5");
    char *text = topic_config_save(configs);
    assert_string_equal(text, "{\"configs\":{\"retention.ms\":\"5\"}}");
    json_t *back = topic_config_load(text);
    assert_true(json_equal(configs, back));
    free(text);
    json_decref(back);
    json_object_clear(configs);
    text = topic_config_save(configs);
    assert_string_equal(text, "");
    free(text);
    json_decref(configs);
    static const char *const broken[] = {"", "{", "[]", "{\"configs\": 7}", "{\"a\": {}}"};
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        back = topic_config_load(broken[i]);
        assert_int_equal(json_object_size(back), 0);
        json_decref(back);
    }
}

static void test_values_come_from_the_nearest_that_says(void **state)
{
    struct buf b;
    const struct topic_config *row = topic_config_find(slice_str("max.message.bytes"));
    json_t *configs = configs_of("max.message.bytes", "77");
    buf_init(&b, 1000);
    assert_int_equal(topic_config_value(row, NULL, &config, &b), CONFIG_SOURCE_DEFAULT);
    assert_string_equal(buf_text(&b), "1048588");
    config.server.message_max_bytes = 500;
    buf_reset(&b);
    assert_int_equal(topic_config_value(row, NULL, &config, &b), CONFIG_SOURCE_STATIC_BROKER);
    assert_string_equal(buf_text(&b), "500");
    buf_reset(&b);
    assert_int_equal(topic_config_value(row, configs, &config, &b), CONFIG_SOURCE_TOPIC);
    assert_string_equal(buf_text(&b), "77");
    buf_fini(&b);
    json_decref(configs);
}

/* As Kafka has it: what is written down is the broker's, whatever the value. */
static void test_a_default_that_is_written_down_is_the_servers(void **state)
{
    struct topic_config_synonym of[TOPIC_CONFIG_SYNONYMS_MAX];
    struct buf b;
    const struct topic_config *row = topic_config_find(slice_str("max.message.bytes"));
    buf_init(&b, 1000);
    for (size_t i = 0; i < option_count(); i++) {
        struct option_view v;
        option_view(i, &v);
        assert_false(option_said(&config, i));
        config.said[i] = strcmp(v.name, row->synonym) == 0;
    }
    assert_int_equal(topic_config_value(row, NULL, &config, &b), CONFIG_SOURCE_STATIC_BROKER);
    assert_string_equal(buf_text(&b), row->usual);
    assert_int_equal(topic_config_synonyms(row->synonym, NULL, &config, of), 2);
    assert_int_equal(of[0].source, CONFIG_SOURCE_STATIC_BROKER);
    assert_string_equal(of[0].value, row->usual);
    assert_int_equal(of[1].source, CONFIG_SOURCE_DEFAULT);
    buf_fini(&b);
}

static void assert_retention(const char *want, enum config_source source)
{
    struct buf b;
    buf_init(&b, 1000);
    const struct topic_config *row = topic_config_find(slice_str("retention.ms"));
    assert_int_equal(topic_config_value(row, NULL, &config, &b), source);
    assert_string_equal(buf_text(&b), want);
    buf_fini(&b);
}

static void test_coarser_settings_of_the_server_say_what_finer_ones_do_not(void **state)
{
    struct topic_config_synonym of[TOPIC_CONFIG_SYNONYMS_MAX];
    assert_retention("604800000", CONFIG_SOURCE_DEFAULT);
    config.server.log_retention_hours = 24;
    assert_retention("86400000", CONFIG_SOURCE_DEFAULT);
    assert_int_equal(topic_config_synonyms("log.retention.ms", NULL, &config, of), 0);
    assert_int_equal(topic_config_synonyms("log.retention.hours", NULL, &config, of), 2);
    assert_string_equal(of[0].value, "24");
    assert_int_equal(of[0].source, CONFIG_SOURCE_STATIC_BROKER);
    assert_string_equal(of[1].value, "168");
    config.server.log_retention_hours = -1;
    assert_retention("-1", CONFIG_SOURCE_DEFAULT);
    config.server.log_retention_minutes = 7;
    assert_retention("420000", CONFIG_SOURCE_DEFAULT);
    config.server.log_retention_ms = 1000;
    assert_retention("1000", CONFIG_SOURCE_STATIC_BROKER);
    assert_int_equal(topic_config_synonyms("log.retention.ms", NULL, &config, of), 4);
    assert_string_equal(of[0].name, "log.retention.ms");
    assert_string_equal(of[1].name, "log.retention.minutes");
    assert_string_equal(of[2].value, "-1");
    assert_int_equal(of[3].source, CONFIG_SOURCE_DEFAULT);
    config.server.log_roll_hours = INT32_MAX;
    struct topic_settings s;
    topic_settings_read(&s, NULL, &config);
    assert_int_equal(s.segment_ms, INT32_MAX * 3600000ll);
}

/* Who looks for the broker's default of a config finds it, and with Kafka's value. */
static void test_what_has_an_effect_has_a_setting_of_the_server(void **state)
{
    for (size_t i = 0; i < topic_config_count; i++) {
        const struct topic_config *row = &topic_configs[i];
        struct buf with, without;
        buf_init(&with, 1000);
        buf_init(&without, 1000);
        bool effect = strncmp(row->doc, "Without effect", 14) != 0;
        assert_true(row->synonym == NULL || topic_config_of_server(row->synonym) == effect);
        assert_int_equal(topic_config_value(row, NULL, &config, &with), CONFIG_SOURCE_DEFAULT);
        assert_int_equal(topic_config_value(row, NULL, NULL, &without), CONFIG_SOURCE_DEFAULT);
        assert_string_equal(buf_text(&with), buf_text(&without));
        buf_fini(&with);
        buf_fini(&without);
    }
}

static void test_settings_are_kafkas_numbers(void **state)
{
    struct topic_settings s;
    topic_settings_read(&s, NULL, &config);
    assert_int_equal(s.retention_ms, 604800000);
    assert_int_equal(s.retention_bytes, -1);
    assert_int_equal(s.cleanup, STORE_CLEANUP_DELETE);
    assert_int_equal(s.max_compaction_lag_ms, INT64_MAX);
    assert_int_equal(s.delete_retention_ms, 86400000);
    assert_true(s.min_cleanable_dirty_ratio == 0.5);
    assert_int_equal(s.segment_bytes, 1 << 30);
    assert_int_equal(s.compression, TOPIC_COMPRESSION_PRODUCER);
    assert_int_equal(s.timestamp_after_max_ms, 3600000);
    assert_false(s.log_append_time);
    struct store_topic row = {
        .retention_ms = 1, .retention_bytes = 2, .cleanup = STORE_CLEANUP_COMPACT,
        .attributes = (char[]){"{\"configs\":{\"retention.bytes\":\"-5\",\"compression.type\":"
                               "\"lz4\",\"message.timestamp.type\":\"LogAppendTime\","
                               "\"cleanup.policy\":\"compact,delete\"}}"}};
    topic_settings_of(&s, &row, false, &config);
    assert_int_equal(s.retention_ms, 604800000);
    assert_int_equal(s.retention_bytes, -1);
    assert_int_equal(s.compression, TOPIC_COMPRESSION_LZ4);
    assert_true(s.log_append_time);
    assert_int_equal(s.cleanup, STORE_CLEANUP_DELETE | STORE_CLEANUP_COMPACT);
    topic_settings_of(&s, &row, true, &config); /* a captured one's attributes are its owner's */
    assert_int_equal(s.retention_ms, 1);
    assert_int_equal(s.retention_bytes, 2);
    assert_int_equal(s.cleanup, STORE_CLEANUP_COMPACT);
    assert_int_equal(s.compression, TOPIC_COMPRESSION_PRODUCER);
}

static void test_what_must_hold_between_configs(void **state)
{
    struct errmsg m;
    json_t *configs = configs_of("min.compaction.lag.ms", "10");
    assert_int_equal(topic_config_check(configs, &config, &m), OK);
    assert_int_equal(topic_config_set(configs, slice_str("max.compaction.lag.ms"), slice_str("9"),
                                      &m), OK);
    assert_int_equal(topic_config_check(configs, &config, &m), ERR_INVALID);
    assert_string_equal(m.text, "conflict topic config setting min.compaction.lag.ms (10) > "
                                "max.compaction.lag.ms (9)");
    json_decref(configs);
    configs = configs_of("remote.storage.enable", "true");
    assert_int_equal(topic_config_check(configs, &config, &m), ERR_INVALID);
    json_decref(configs);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_names_are_sorted_and_defaults_are_legal),
        TEST(test_legal_values_take_kafkas_form),
        TEST(test_illegal_values_are_refused_as_kafka_does),
        TEST(test_a_value_that_is_too_long_is_refused),
        TEST(test_lists_grow_and_shrink),
        TEST(test_configs_come_back_out_of_attributes),
        TEST(test_values_come_from_the_nearest_that_says),
        TEST(test_a_default_that_is_written_down_is_the_servers),
        TEST(test_coarser_settings_of_the_server_say_what_finer_ones_do_not),
        TEST(test_what_has_an_effect_has_a_setting_of_the_server),
        TEST(test_settings_are_kafkas_numbers),
        TEST(test_what_must_hold_between_configs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
