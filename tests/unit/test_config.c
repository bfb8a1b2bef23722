/* Every mistake that a culex.json can hold has its sentence, and what is right is read right. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "shared/config/config.h"
#include "shared/config/listeners.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[256];
static char file[300];

static int setup(void **state)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%s/culex-config-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(dir)) {
        return -1;
    }
    snprintf(file, sizeof file, "%s/culex.json", dir);
    return 0;
}

static int teardown(void **state)
{
    unlink(file);
    return rmdir(dir);
}

static void write_file(const char *text, size_t len)
{
    FILE *f = fopen(file, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
}

static enum err load(struct config *c, const char *text)
{
    write_file(text, strlen(text));
    assert_int_equal(config_init(c), OK);
    return config_load(c, file);
}

static void assert_loads(struct config *c, const char *text)
{
    enum err e = load(c, text);
    if (e) {
        print_message("%s", buf_text(&c->mistakes));
    }
    assert_int_equal(e, OK);
}

/* All of the sentences, without the file's path; '|' between them in `expected` is a newline. */
static void assert_mistakes(const char *text, const char *expected)
{
    struct config c;
    assert_int_equal(load(&c, text), ERR_INVALID);
    struct buf have;
    buf_init(&have, 1u << 20);
    const char *p = buf_text(&c.mistakes);
    while (*p) {
        size_t len = strcspn(p, "\n");
        assert_true(strncmp(p, file, strlen(file)) == 0);
        buf_put(&have, p + strlen(file), len - strlen(file));
        buf_printf(&have, "%s", p[len + 1] ? "|" : "");
        p += len + 1;
    }
    assert_string_equal(buf_text(&have), expected);
    buf_fini(&have);
    config_fini(&c);
}

#define DEMO "\"name\": \"demo\", \"filters\": [\"demo/#\"]"
#define STREAMS(inner) "{\n \"streams\": [\n  {" inner "}\n ]\n}"

static void test_defaults_are_complete(void **state)
{
    struct config c;
    assert_loads(&c, STREAMS(DEMO));
    assert_string_equal(c.data, "/var/lib/culex");
    assert_int_equal(c.store.ring_bytes, 16 << 20);
    assert_int_equal(c.store.flush_interval_ms, 10);
    assert_string_equal(c.server.listeners, "PLAINTEXT://127.0.0.1:9092");
    assert_int_equal(c.server.offsets_retention_minutes, 10080);
    assert_int_equal(c.server.group_initial_rebalance_delay_ms, 5);
    assert_string_equal(c.server.log_level, "info");
    assert_int_equal(c.stream_count, 1);
    const struct config_stream *s = &c.streams[0];
    assert_string_equal(s->name, "demo");
    assert_int_equal(s->filter_count, 1);
    assert_string_equal(s->filters[0], "demo/#");
    assert_int_equal(s->partitions, 16);
    assert_int_equal(s->key, KEY_TOPIC);
    assert_int_equal(s->headers, HEADERS_FULL);
    assert_false(s->username_header);
    assert_int_equal(s->retention_ms, 604800000);
    assert_int_equal(s->retention_bytes, -1);
    assert_int_equal(s->on_full, ON_FULL_BLOCK);
    assert_int_equal(s->durability, DURABILITY_FLUSH);
    assert_int_equal(s->line, 3);
    config_fini(&c);
}

static void test_every_value_is_read(void **state)
{
    struct config c;
    assert_loads(&c,
        "{\"data\": \"/d\", \"sys.interval.ms\": 100,\n"
        "\"store\": {\"limit.bytes\": 5000000000, \"segment.bytes\": 1, \"segment.ms\": 1000,\n"
        " \"ring.bytes\": 70000, \"tail.bytes\": 131072, \"cache.bytes\": 0,"
        " \"flush.interval.ms\": 7},\n"
        "\"defaults\": {\"partitions\": 3, \"headers\": \"minimal\", \"key\": \"payload.a.b\"},\n"
        "\"streams\": [{" DEMO "},\n"
        " {\"name\": \"s.2_-x\", \"filters\": [\"a\", \"+/b/#\"], \"partitions\": 1024,"
        "  \"key\": \"topic[2..4]\",\n"
        "  \"headers\": \"none\", \"username.header\": true, \"retention.ms\": -1,\n"
        "  \"retention.bytes\": 1, \"cleanup.policy\": \"compact\", \"on_full\": \"drop\",\n"
        "  \"on_full.block.ms\": 0, \"durability\": \"fsync\"}],\n"
        "\"server\": {\"listeners\": \"PLAINTEXT://:0,IN://[::1]:1\", \"node.id\": 9,"
        " \"log.level\": \"debug\"}}");
    assert_string_equal(c.data, "/d");
    assert_int_equal(c.store.limit_bytes, 5000000000);
    assert_int_equal(c.store.ring_bytes, 73728); /* a multiple of the page */
    assert_int_equal(c.store.flush_interval_ms, 7);
    assert_int_equal(c.streams[0].partitions, 3);
    assert_int_equal(c.streams[0].key, KEY_PAYLOAD);
    assert_string_equal(c.streams[0].key_name, "a.b");
    assert_int_equal(c.streams[0].headers, HEADERS_MINIMAL);
    const struct config_stream *s = &c.streams[1];
    assert_int_equal(s->filter_count, 2);
    assert_int_equal(s->partitions, 1024);
    assert_int_equal(s->key, KEY_LEVELS);
    assert_int_equal(s->key_from, 2);
    assert_int_equal(s->key_to, 4);
    assert_null(s->key_name);
    assert_int_equal(s->headers, HEADERS_NONE);
    assert_true(s->username_header);
    assert_int_equal(s->retention_ms, -1);
    assert_true(config_compacts(s));
    assert_int_equal(s->on_full, ON_FULL_DROP);
    assert_int_equal(s->on_full_block_ms, 0);
    assert_int_equal(s->durability, DURABILITY_FSYNC);
    assert_int_equal(s->line, 6);
    assert_int_equal(c.server.node_id, 9);
    assert_string_equal(c.server.log_level, "debug");
    config_fini(&c);
}

static void test_sentences_name_line_path_and_what_is_right(void **state)
{
    static const struct {
        const char *text, *expected;
    } rows[] = {
        {STREAMS(DEMO ",\n   \"partitions\": 0"),
         ":4: streams[0].partitions: 0 is too small; 1 to 1024"},
        {STREAMS(DEMO ", \"partitions\": 1025"),
         ":3: streams[0].partitions: 1025 is too large; 1 to 1024"},
        {STREAMS(DEMO ", \"partitions\": \"4\""),
         ":3: streams[0].partitions: is a string; a whole number belongs here, without quotes"},
        {STREAMS(DEMO ", \"partitions\": 1.5"),
         ":3: streams[0].partitions: is a number with a fraction; a whole number belongs here"},
        {STREAMS(DEMO ", \"retention.ms\": -2"),
         ":3: streams[0].retention.ms: -2 is too small; -1 or more"},
        {STREAMS(DEMO ", \"retention_ms\": 5"),
         ":3: streams[0].retention_ms: is not known; did you mean \"retention.ms\"?"},
        {STREAMS(DEMO ", \"zzz\": 5"), ":3: streams[0].zzz: is not known"},
        {STREAMS(DEMO ", \"listeners\": \"x\""),
         ":3: streams[0].listeners: is not known here; it belongs into \"server\""},
        {STREAMS(DEMO ", \"headers\": \"all\""),
         ":3: streams[0].headers: \"all\" is none of its values; full, minimal or none"},
        {STREAMS(DEMO ", \"username.header\": 1"),
         ":3: streams[0].username.header: is a number; true or false belongs here"},
        {STREAMS(DEMO ", \"key\": \"topics\""),
         ":3: streams[0].key: \"topics\" is no key; topic, topic[1..3], clientid, username, "
         "payload.<path>, property.<name>, sparkplug or none"},
        {STREAMS(DEMO ", \"key\": \"topic[3..1]\""),
         ":3: streams[0].key: \"topic[3..1]\" names no levels of the topic; topic[2] or "
         "topic[1..3], counted from 1, at most 200"},
        {STREAMS(DEMO ", \"key\": \"payload.\""),
         ":3: streams[0].key: \"payload.\" needs a name of 1 to 1024 bytes after the dot"},
        {STREAMS("\"filters\": [\"a\"]"),
         ":3: streams[0]: has no \"name\"; it is the stream's and the Kafka topic's name"},
        {STREAMS("\"name\": \"a\""),
         ":3: streams[0]: has no \"filters\"; a stream needs at least one"},
        {STREAMS("\"name\": \"\", \"filters\": [\"a\"]"),
         ":3: streams[0].name: is empty; a name has 1 to 249 characters"},
        {STREAMS("\"name\": \"a b\", \"filters\": [\"a\"]"),
         ":3: streams[0].name: \"a b\" is not a name for a stream; letters, digits, '.', '_' and "
         "'-' are allowed, and the first is a letter or a digit"},
        {STREAMS("\"name\": \"a\", \"filters\": []"),
         ":3: streams[0].filters: is empty; a stream needs at least one filter"},
        {STREAMS("\"name\": \"a\", \"filters\": \"a\""),
         ":3: streams[0].filters: is a string; an array of filters belongs here, like "
         "[\"demo/#\"]"},
        {STREAMS("\"name\": \"a\", \"filters\": [\"x\",\n\"a/#/b\",\n\"a+\",\n\"\",\n7]"),
         ":4: streams[0].filters[1]: \"a/#/b\" goes on after '#'; '#' must be the last level"
         "|:5: streams[0].filters[2]: \"a+\" has '+' inside a level; '+' must fill a level of its "
         "own, as in a/+/b"
         "|:6: streams[0].filters[3]: is empty; a filter has at least one character, and # matches "
         "every topic"
         "|:7: streams[0].filters[4]: is a number; a filter is a string"},
        {STREAMS("\"name\": \"a\", \"filters\": [\"$SYS/broker/#\"]"),
         ":3: streams[0].filters[0]: \"$SYS/broker/#\" cannot be captured: the broker's own topics "
         "do not pass through capture"},
        {STREAMS("\"name\": \"a\", \"filters\": [\"$share/g/a\"]"),
         ":3: streams[0].filters[0]: \"$share/g/a\" is a shared subscription; give the filter "
         "after the share's name alone"},
        {"{\"streams\": [\n{" DEMO "},\n{" DEMO "}]}",
         ":3: streams[1].name: \"demo\" is the name of another stream already, in line 2"},
        {STREAMS(DEMO ", \"min.compaction.lag.ms\": 3,\n\"max.compaction.lag.ms\": 2"),
         ":4: streams[0].max.compaction.lag.ms: is less than min.compaction.lag.ms"},
        {STREAMS(DEMO ", \"cleanup.policy\": \"compact\",\n\"key\": \"none\""),
         ":4: streams[0].key: is \"none\", but cleanup.policy is compact, which keeps the newest "
         "record of each key"},
        {"{\"streams\": {}}", ":1: streams: is an object; an array of streams belongs here"},
        {"{\"streams\": [3]}",
         ":1: streams[0]: is a number; a stream is an object, like {\"name\": \"demo\", "
         "\"filters\": [\"demo/#\"]}"},
        {"{\n\"stream\": []}", ":2: stream: is not known; did you mean \"streams\"?"},
        {"{\n\"server\": 1}",
         ":2: server: is a number; an object belongs here, like {\"name\": value}"},
        {"{\"server\": {\"log.level\": \"loud\"}}",
         ":1: server.log.level: \"loud\" is none of its values; error, warn, info or debug"},
        {"{\"store\": {\"ring.bytes\": 1}}",
         ":1: store.ring.bytes: 1 is too small; 65536 to 1073741824"},
        {"{\"data\": \"\"}",
         ":1: data: \"\" is not an absolute path, like /var/lib/culex"},
        {"{\"data\": \"data\"}",
         ":1: data: \"data\" is not an absolute path, like /var/lib/culex"},
        {"{\"defaults\": {\"name\": \"x\", \"partitions\": 0}, \"streams\": [{" DEMO "}]}",
         ":1: defaults.name: has no default; it belongs into each stream"
         "|:1: defaults.partitions: 0 is too small; 1 to 1024"},
        {"{\"defaults\": {\"key\": \"x\"}, \"streams\": [{" DEMO "}]}",
         ":1: defaults.key: \"x\" is no key; topic, topic[1..3], clientid, username, "
         "payload.<path>, property.<name>, sparkplug or none"},
        {"[]", ":1: is no object; the file begins with { and ends with }"},
        {"{\"data\": \"a\",\n\"data\": \"b\"}",
         ":2: duplicate object key near '\"data\"' (column 6)"},
        {STREAMS("\"name\": \"a\", \"filters\": [\"a\\u0000b\"]"),
         ":3: \\u0000 stands in a string; no setting may have it (column 38)"},
        {"{\n  \"data\": nope\n}",
         ":2: is not JSON: invalid token near 'nope' (column 14)"},
        {"", ":1: is not JSON: it is empty (column 1)"},
        {"// no comments\n{}",
         ":1: is not JSON: '[' or '{' expected near '/' (column 1); JSON has no comments"},
        {"{\n\"streams\": [],\n}",
         ":3: is not JSON: string or '}' expected near '}' (column 1); is there a comma too many "
         "before it?"},
        {"{\"streams\": [\n{" DEMO "},\n]}",
         ":3: is not JSON: unexpected token near ']' (column 1); is there a comma too many before "
         "it?"},
        {"\xef\xbb\xbf{}",
         ":1: is not JSON: '[' or '{' expected near '\xef\xbb\xbf' (column 1); save the file "
         "without a byte order mark"},
        {"{\"server\": {\"group.min.session.timeout.ms\": 5000000}}",
         ":1: server.group.min.session.timeout.ms: group.min.session.timeout.ms (5000000) is "
         "greater than group.max.session.timeout.ms (1800000)"},
        {"{\"server\": {\n\"group.max.session.timeout.ms\": 30}}",
         ":2: server.group.max.session.timeout.ms: group.min.session.timeout.ms (6000) is greater "
         "than group.max.session.timeout.ms (30)"},
        {"{\"server\": {\"group.consumer.heartbeat.interval.ms\": 4000,\n"
         "\"group.consumer.session.timeout.ms\": 4000}}",
         ":1: server.group.consumer.heartbeat.interval.ms: group.consumer.heartbeat.interval.ms "
         "(4000) must be less than group.consumer.session.timeout.ms (4000)"},
        {"{\"server\": {\n\"group.consumer.session.timeout.ms\": 5000}}",
         ":2: server.group.consumer.session.timeout.ms: group.consumer.heartbeat.interval.ms "
         "(5000) must be less than group.consumer.session.timeout.ms (5000)"},
        {"{\"server\": {\n\"queued.max.request.bytes\": 2000000}}",
         ":2: server.queued.max.request.bytes: queued.max.request.bytes (2000000) is less than "
         "socket.request.max.bytes (104857600): the longest request could never be read"},
        {"{\"server\": {\n\"socket.request.max.bytes\": 500000000}}",
         ":2: server.socket.request.max.bytes: queued.max.request.bytes (268435456) is less than "
         "socket.request.max.bytes (500000000): the longest request could never be read"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_mistakes(rows[i].text, rows[i].expected);
    }
}

static void test_a_key_of_the_payload_is_a_path(void **state)
{
    static const char *const paths[] = {"v", "v.w", "0", "v.0", "v[0]", "v[10][2].w[007].x",
                                        "v-1 \"'$*", "-1", "v.-1", "\xc3\xa9.v"};
    static const char *const others[] = {
        ".",     "..",     ".v",    "v.",    "v..",   "v..w", "v[",     "v[]",  "v]",   "v[0",
        "v[-1]", "v[0]x",  "v[0].", "v[0]]", "v.[0]", "[0]",  "v[0].[", "v[w]", "]v[0", "v[0 ]",
        "v[1.2]", "v[0]..w"};
    struct config_stream s;
    struct errmsg m;
    assert_int_equal(config_stream_init(&s), OK);
    char key[64];
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        snprintf(key, sizeof key, "payload.%s", paths[i]);
        assert_int_equal(config_stream_set(&s, "key", key, &m), OK);
        assert_int_equal(s.key, KEY_PAYLOAD);
        assert_string_equal(s.key_name, paths[i]);
    }
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        char expected[300];
        snprintf(key, sizeof key, "payload.%s", others[i]);
        snprintf(expected, sizeof expected, "\"%s\" is no path into a payload; names with a dot "
                 "between them and [numbers] after them, like payload.values[0].id", key);
        assert_int_equal(config_stream_set(&s, "key", key, &m), ERR_INVALID);
        assert_string_equal(m.text, expected);
    }
    assert_int_equal(config_stream_set(&s, "key", "property.v..w[", &m), OK);
    config_stream_fini(&s);
}

static void test_a_heartbeat_may_come_just_before_the_session_ends(void **state)
{
    struct config c;
    assert_loads(&c, "{\"server\": {\"group.consumer.heartbeat.interval.ms\": 3999, "
                     "\"group.consumer.session.timeout.ms\": 4000}}");
    config_fini(&c);
}

static void test_fifty_mistakes_are_enough(void **state)
{
    struct buf text;
    buf_init(&text, 8192);
    for (int i = 0; i < 80; i++) {
        buf_printf(&text, "%s\"wrong%d\": 1", i ? ",\n" : "{", i);
    }
    buf_printf(&text, "}");
    struct config c;
    assert_int_equal(load(&c, buf_text(&text)), ERR_INVALID);
    buf_fini(&text);
    int lines = 0;
    const char *p = buf_text(&c.mistakes);
    for (; *p; p++) {
        lines += *p == '\n';
    }
    assert_int_equal(lines, CONFIG_MISTAKES_MAX + 1);
    assert_non_null(strstr(buf_text(&c.mistakes), "more mistakes follow these 50"));
    config_fini(&c);
}

static void test_a_missing_file_is_named(void **state)
{
    struct config c;
    assert_int_equal(config_init(&c), OK);
    assert_int_equal(config_load(&c, "/nowhere/culex.json"), ERR_NOT_FOUND);
    assert_string_equal(buf_text(&c.mistakes),
                        "/nowhere/culex.json: cannot be read: No such file or directory\n");
    config_fini(&c);
    assert_int_equal(config_init(&c), OK);
    assert_int_equal(config_load(&c, "/tmp"), ERR_IO);
    assert_string_equal(buf_text(&c.mistakes), "/tmp: cannot be read: Is a directory\n");
    config_fini(&c);
}

/* A server section with these listeners, each setting on a line of its own from 2 on. */
static void assert_listeners(const char *listeners, const char *advertised, const char *map,
                             const char *expected)
{
    char text[4096];
    snprintf(text, sizeof text, "{\"server\": {\n\"listeners\": \"%s\",\n\"advertised.listeners\": "
             "\"%s\",\n\"listener.security.protocol.map\": \"%s\"}}", listeners, advertised, map);
    if (expected) {
        assert_mistakes(text, expected);
        return;
    }
    struct config c;
    assert_loads(&c, text);
    config_fini(&c);
}

#define AT_LISTENERS  ":2: server.listeners: "
#define AT_ADVERTISED ":3: server.advertised.listeners: "
#define AT_MAP        ":4: server.listener.security.protocol.map: "
#define HOST_60       "aaaaaaaaaaaaaaaaaaaa.bbbbbbbbbbbbbbbbbbbb.ccccccccccccccccc."

static void test_listeners_are_right_or_have_their_sentence(void **state)
{
    static const struct {
        const char *listeners, *advertised, *map, *expected;
    } rows[] = {
        {"PLAINTEXT://127.0.0.1:9092", "", "", NULL},
        {" A://:9092 , B://[::1]:9093 ", "b://example.org:9193", "", NULL},
        {"LAN://host_1.x-y:1", " ", "LAN:PLAINTEXT", NULL},
        {"SSL://h:1", "", "ssl:plaintext,OTHER:SASL_SSL", NULL},
        {"A://[fe80::1%eth0]:9092,B://localhost:0,C://[::1]:0", "", "", NULL},
        {"A://127.0.0.1:1,B://[::1]:1,C://10.0.0.1:1,D://somewhere:1", "", "", NULL},
        {"A://0.0.0.0:1,B://[::]:1", "", "", NULL},
        {"127.0.0.1:9092", "", "",
         AT_LISTENERS "\"127.0.0.1:9092\" is not a listener; NAME://host:port is one, like "
                      "PLAINTEXT://127.0.0.1:9092"},
        {"A://h", "", "",
         AT_LISTENERS "\"A://h\" is not a listener; NAME://host:port is one, like "
                      "PLAINTEXT://127.0.0.1:9092"},
        {"", "", "",
         AT_LISTENERS "is empty; the server needs a listener, like PLAINTEXT://127.0.0.1:9092"},
        {"A://h:1,", "", "",
         AT_LISTENERS "has a comma with no listener beside it; NAME://host:port, like "
                      "PLAINTEXT://127.0.0.1:9092"},
        {"A://h:1 B://h:2", "", "",
         AT_LISTENERS "\"A://h:1 B://h:2\" has a blank in it; listeners are separated by commas"},
        {"://h:1", "", "",
         AT_LISTENERS "\"\" is not a name for a listener; 1 to 63 letters, digits, '.', '_' and "
                      "'-', like PLAINTEXT"},
        {"A://h:x", "", "", AT_LISTENERS "\"A://h:x\" has no port from 0 to 65535 at its end"},
        {"A://h:-1", "", "", AT_LISTENERS "\"A://h:-1\" has no port from 0 to 65535 at its end"},
        {"A://h:70000", "", "",
         AT_LISTENERS "\"A://h:70000\" has no port from 0 to 65535 at its end"},
        {"A://::1:9092", "", "",
         AT_LISTENERS "\"::1\" is not a host; an IPv6 address is written in brackets, as in "
                      "NAME://[::1]:9092"},
        {"A://[::1::2]:9092", "", "",
         AT_LISTENERS "\"[::1::2]\" is not an IPv6 address; [::1] is one"},
        {"A://[]:9092", "", "", AT_LISTENERS "\"[]\" is not an IPv6 address; [::1] is one"},
        {"A://300.1.1.1:1", "", "",
         AT_LISTENERS "\"300.1.1.1\" is not an IPv4 address; 127.0.0.1 is one"},
        {"A://a/b:1", "", "",
         AT_LISTENERS "\"a/b\" is not a host; a name, an IPv4 address, or an IPv6 address in "
                      "brackets, like [::1]"},
        {"A://" HOST_60 HOST_60 HOST_60 HOST_60 "aaaaaaaaaaaaaaaa:1", "", "",
         AT_LISTENERS "the host of listener A has 256 characters; at most 255 are allowed"},
        {"A://h:1,a://i:2", "", "",
         AT_LISTENERS "names two listeners a; each needs a name of its own, like INSIDE and "
                      "OUTSIDE"},
        {"A://h:1,B://h:1", "", "",
         AT_LISTENERS "has A and B on port 1 of the same address; each needs a port or an address "
                      "of its own"},
        {"A://:1,B://127.0.0.1:1", "", "",
         AT_LISTENERS "has A and B on port 1 of the same address; each needs a port or an address "
                      "of its own"},
        {"A://[0:0::1]:1,B://localhost:1", "", "",
         AT_LISTENERS "has A and B on port 1 of the same address; each needs a port or an address "
                      "of its own"},
        {"A://h:1", "A://x:0", "",
         AT_ADVERTISED "\"A://x:0\" has no port from 1 to 65535 at its end"},
        {"A://h:1", "A://0.0.0.0:1", "",
         AT_ADVERTISED "has 0.0.0.0 for the clients of A, which is nowhere to connect to; write a "
                       "name or an address of this machine, or leave A out: then each client is "
                       "told the address that it has reached"},
        {"A://h:1", "A://[::]:1", "",
         AT_ADVERTISED "has :: for the clients of A, which is nowhere to connect to; write a name "
                       "or an address of this machine, or leave A out: then each client is told "
                       "the address that it has reached"},
        {"A://h:1", "A://:1", "",
         AT_ADVERTISED "has no host for the clients of A, which is nowhere to connect to; write a "
                       "name or an address of this machine, or leave A out: then each client is "
                       "told the address that it has reached"},
        {"A://h:1", "A:// :1", "",
         AT_ADVERTISED "\"A:// :1\" has a blank in it; listeners are separated by commas"},
        {"A://h:1", "A://x:1,B://x:2", "",
         AT_ADVERTISED "there is no listener B; listeners has A alone"},
        {"SSL://h:1", "", "",
         AT_LISTENERS "listener SSL is to speak SSL, and this version speaks PLAINTEXT only; name "
                      "it otherwise, or map it to PLAINTEXT in listener.security.protocol.map"},
        {"A://h:1", "", "A:SASL_SSL",
         AT_LISTENERS "listener A is to speak SASL_SSL, and this version speaks PLAINTEXT only; "
                      "name it otherwise, or map it to PLAINTEXT in "
                      "listener.security.protocol.map"},
        {"A://h:1", "", "A:FOO",
         AT_MAP "\"A:FOO\" is not NAME:PROTOCOL with a protocol of Kafka's, like "
                "INSIDE:PLAINTEXT"},
        {"A://h:1", "", "A",
         AT_MAP "\"A\" is not NAME:PROTOCOL with a protocol of Kafka's, like INSIDE:PLAINTEXT"},
        /* What depends on a wrong setting is not judged. */
        {"A://h:x", "B://h:1", "", AT_LISTENERS "\"A://h:x\" has no port from 0 to 65535 at its "
                                                "end"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_listeners(rows[i].listeners, rows[i].advertised, rows[i].map, rows[i].expected);
    }
}

static void test_listeners_tell_their_own_host_unless_another_is_advertised(void **state)
{
    struct config c;
    struct config_listener l[LISTENERS_MAX];
    assert_loads(&c, "{\"server\": {\"listeners\": \"A://:9092, B://[::1]:9093,C://h:1\","
                     "\"advertised.listeners\": \"c://example.org:9193\"}}");
    assert_int_equal(listeners_read(&c.server, l), 3);
    assert_string_equal(l[0].host, "");
    assert_string_equal(l[0].advertised_host, "");
    assert_int_equal(l[0].advertised_port, 9092);
    assert_string_equal(l[1].host, "::1");
    assert_string_equal(l[1].advertised_host, "::1");
    assert_string_equal(l[2].advertised_host, "example.org");
    assert_int_equal(l[2].port, 1);
    assert_int_equal(l[2].advertised_port, 9193);
    config_fini(&c);
}

static void test_the_environment_comes_after_the_file(void **state)
{
    struct config c;
    setenv("CULEX_NODE_ID", "5", 1);
    setenv("CULEX_DATA", "/from/environment", 1);
    assert_loads(&c, "{\"data\": \"/from/file\", \"server\": {\"node.id\": 2}}");
    assert_int_equal(c.server.node_id, 5);
    assert_string_equal(c.data, "/from/environment");
    config_fini(&c);
    setenv("CULEX_NODE_ID", "five", 1);
    assert_int_equal(config_init(&c), OK);
    assert_int_equal(config_load(&c, NULL), ERR_INVALID);
    assert_string_equal(buf_text(&c.mistakes),
                        "environment: CULEX_NODE_ID: \"five\" is not a whole number\n");
    config_fini(&c);
    unsetenv("CULEX_NODE_ID");
    unsetenv("CULEX_DATA");
}

static void test_what_settings_say_together_names_the_variable_that_says_it(void **state)
{
    struct config c;
    setenv("CULEX_LISTENERS", "SSL://h:1", 1);
    assert_int_equal(load(&c, "{\"server\": {\"advertised.listeners\": \"X://h:1\"}}"),
                     ERR_INVALID);
    char expected[1024];
    snprintf(expected, sizeof expected,
             "%s:1: server.advertised.listeners: there is no listener X; listeners has SSL alone\n"
             "environment: CULEX_LISTENERS: listener SSL is to speak SSL, and this version speaks "
             "PLAINTEXT only; name it otherwise, or map it to PLAINTEXT in "
             "listener.security.protocol.map\n", file);
    assert_string_equal(buf_text(&c.mistakes), expected);
    config_fini(&c);
    unsetenv("CULEX_LISTENERS");
}

static void test_unknown_variables_are_warnings(void **state)
{
    static const struct {
        const char *name, *expected;
    } rows[] = {
        {"CULEX_ADVERTISED_LISTENER",
         "is not known; did you mean CULEX_ADVERTISED_LISTENERS?"},
        {"CULEX_DATE", "is not known; did you mean CULEX_DATA?"},
        {"CULEX_SOMETHING_ELSE", "is not known"},
        {"CULEX_RETENTION_MS", "does nothing; it is a setting of streams, which stand in the file"},
        {"CULEX_SERVER", NULL},
        {"CULEX_MQTT", NULL},
        {"CULEX_MQTT_PASSWORD", NULL},
        {"CULEX_SERVER_IMAGE", NULL},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char expected[256] = "";
        struct config c;
        if (rows[i].expected) {
            snprintf(expected, sizeof expected, "environment: %s: %s\n", rows[i].name,
                     rows[i].expected);
        }
        setenv(rows[i].name, "secret", 1);
        assert_loads(&c, "{}");
        assert_string_equal(buf_text(&c.warnings), expected);
        config_fini(&c);
        unsetenv(rows[i].name);
    }
}

static void test_the_command_line_comes_last_and_is_named(void **state)
{
    struct config c;
    assert_loads(&c, "{\"data\": \"/from/file\"}");
    assert_false(c.data_given);
    assert_int_equal(config_give_data(&c, "--data", "/given"), OK);
    assert_string_equal(c.data, "/given");
    assert_true(c.data_given);
    assert_int_equal(config_give_data(&c, "--data", ""), ERR_INVALID);
    assert_string_equal(buf_text(&c.mistakes),
                        "--data: \"\" is not an absolute path, like /var/lib/culex\n");
    config_fini(&c);
}

/* What Kafka clients get who make topics is another setting: num.partitions. */
static void test_partitions_come_from_the_nearest_that_says(void **state)
{
    static const char streams[] = "\"streams\": [{" DEMO "}, {\"name\": \"own\", \"filters\": "
                                  "[\"o\"], \"partitions\": 3}], "
                                  "\"server\": {\"num.partitions\": 5}";
    char text[512];
    struct config c;
    snprintf(text, sizeof text, "{%s}", streams);
    assert_loads(&c, text);
    assert_int_equal(c.streams[0].partitions, 16);
    assert_int_equal(c.streams[1].partitions, 3);
    assert_int_equal(c.server.num_partitions, 5);
    config_fini(&c);
    snprintf(text, sizeof text, "{\"defaults\": {\"partitions\": 7}, %s}", streams);
    assert_loads(&c, text);
    assert_int_equal(c.streams[0].partitions, 7);
    config_fini(&c);
}

static void test_options_of_the_broker_make_a_stream(void **state)
{
    static const char *const names[] = {"stream", "filter", "filter", "retention_ms", "data",
                                        "on_full.block.ms", "key", "ring_bytes"};
    static const char *const values[] = {"demo", "a/#", "b", "1000", "/d", "5", "topic[1]",
                                         "65536"};
    struct config c;
    assert_int_equal(config_init(&c), OK);
    assert_int_equal(config_from_options(&c, "mosquitto.conf", names, values, 8), OK);
    assert_int_equal(c.stream_count, 1);
    assert_int_equal(c.streams[0].filter_count, 2);
    assert_int_equal(c.streams[0].retention_ms, 1000);
    assert_int_equal(c.streams[0].on_full_block_ms, 5);
    assert_int_equal(c.streams[0].key, KEY_LEVELS);
    assert_string_equal(c.data, "/d");
    assert_int_equal(c.store.ring_bytes, 65536);
    config_fini(&c);
}

static void assert_option_mistakes(const char *const *names, const char *const *values,
                                   size_t count, const char *expected)
{
    struct config c;
    assert_int_equal(config_init(&c), OK);
    assert_int_equal(config_from_options(&c, "mosquitto.conf", names, values, count), ERR_INVALID);
    assert_string_equal(buf_text(&c.mistakes), expected);
    config_fini(&c);
}

static void test_options_of_the_broker_have_their_sentences(void **state)
{
    assert_option_mistakes(
        (const char *const[]){"stream", "filter", "partitons", "partitions"},
        (const char *const[]){"demo", "a+", "4", "x"}, 4,
        "mosquitto.conf: plugin_opt_filter: \"a+\" has '+' inside a level; '+' must fill a level "
        "of its own, as in a/+/b\n"
        "mosquitto.conf: plugin_opt_partitons: is not known; did you mean \"partitions\"?\n"
        "mosquitto.conf: plugin_opt_partitions: \"x\" is not a whole number\n");
    assert_option_mistakes(
        NULL, NULL, 0,
        "mosquitto.conf: plugin_opt_stream: is missing; it is the stream's and the Kafka topic's "
        "name (or give plugin_opt_config FILE)\n"
        "mosquitto.conf: plugin_opt_filter: is missing; a stream needs at least one filter\n");
    assert_option_mistakes(
        (const char *const[]){"config", "stream"}, (const char *const[]){"x.json", "demo"}, 2,
        "mosquitto.conf: plugin_opt_config: stands alone: what the other options say belongs into "
        "that file\n");
}

static void test_an_option_of_the_broker_has_one_value(void **state)
{
    assert_option_mistakes(
        (const char *const[]){"stream", "filter", "stream"}, (const char *const[]){"a", "x", "b"},
        3, "mosquitto.conf: plugin_opt_stream: is given twice; several streams need "
        "plugin_opt_config FILE\n");
    /* Under another of its names it is the same. */
    assert_option_mistakes(
        (const char *const[]){"stream", "filter", "retention_ms", "retention.ms", "name", "data",
                              "data"},
        (const char *const[]){"a", "x", "1", "2", "b", "/d", "/d"}, 7,
        "mosquitto.conf: plugin_opt_retention.ms: is given twice; several streams need "
        "plugin_opt_config FILE\n"
        "mosquitto.conf: plugin_opt_name: is given twice; several streams need "
        "plugin_opt_config FILE\n"
        "mosquitto.conf: plugin_opt_data: is given twice\n");
}

static void test_rows_can_be_shown(void **state)
{
    struct config c;
    assert_int_equal(config_init(&c), OK);
    struct buf out;
    buf_init(&out, 4096);
    for (size_t i = 0; i < option_count(); i++) {
        struct option_view v;
        option_view(i, &v);
        assert_true(strlen(v.doc) > 10);
        for (size_t j = 0; j < i; j++) {
            struct option_view other;
            option_view(j, &other);
            assert_string_not_equal(v.name, other.name);
        }
        if (strcmp(v.section, "stream") != 0) {
            buf_reset(&out);
            option_value_text(&c, i, &out);
            assert_string_equal(buf_text(&out), v.default_text);
        }
    }
    buf_fini(&out);
    config_fini(&c);
}

/* Also where it says what is the default: who is asked tells whose it is. */
static void test_what_was_said_is_known_of_each_row(void **state)
{
    static const char *const names[] = {"node.id", "log.level", "delete.topic.enable",
                                        "log.cleaner.min.cleanable.ratio", "log.cleanup.policy",
                                        "compression.type", "cache.bytes", "num.partitions"};
    struct config c;
    setenv("CULEX_NUM_PARTITIONS", "1", 1);
    assert_loads(&c,
                 "{\"store\": {\"cache.bytes\": 8388608}, \"server\": {\"node.id\": 1,"
                 " \"log.level\": \"info\", \"delete.topic.enable\": true,"
                 " \"log.cleaner.min.cleanable.ratio\": 0.5, \"log.cleanup.policy\": \"delete\","
                 " \"compression.type\": \"producer\"}}");
    for (size_t i = 0; i < option_count(); i++) {
        struct option_view v;
        bool said = false;
        option_view(i, &v);
        for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
            said = said || strcmp(names[k], v.name) == 0;
        }
        assert_int_equal(option_said(&c, i), said);
    }
    config_fini(&c);
    unsetenv("CULEX_NUM_PARTITIONS");
}

/* Whatever is cut off or spoiled: an answer, no crash (the sanitizers look on). */
static void test_spoiled_text_never_crashes(void **state)
{
    const char *text = "{\"data\": \"/d\", \"defaults\": {\"key\": \"payload.a\"},\n\"streams\": "
                       "[{" DEMO ", \"key\": \"topic[1..2]\", \"x\\u00e9\\\"\": [1, {\"a\": 2}]}],"
                       "\"server\": {\"node.id\": 1, \"log.level\": \"warn\"}, \"nope\": null}";
    size_t len = strlen(text);
    for (size_t i = 0; i < len; i++) {
        static const char spoil[] = {0, '"', '{', '}', '[', ',', (char)0xff, '9'};
        char copy[1024];
        for (size_t j = 0; j <= sizeof spoil; j++) {
            memcpy(copy, text, len);
            if (j < sizeof spoil) {
                copy[i] = spoil[j];
            }
            struct config c;
            write_file(copy, j < sizeof spoil ? len : i);
            assert_int_equal(config_init(&c), OK);
            enum err e = config_load(&c, file);
            assert_true(e == OK || buf_text(&c.mistakes)[0]);
            config_fini(&c);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults_are_complete),
        cmocka_unit_test(test_every_value_is_read),
        cmocka_unit_test(test_sentences_name_line_path_and_what_is_right),
        cmocka_unit_test(test_a_key_of_the_payload_is_a_path),
        cmocka_unit_test(test_a_heartbeat_may_come_just_before_the_session_ends),
        cmocka_unit_test(test_fifty_mistakes_are_enough),
        cmocka_unit_test(test_a_missing_file_is_named),
        cmocka_unit_test(test_listeners_are_right_or_have_their_sentence),
        cmocka_unit_test(test_listeners_tell_their_own_host_unless_another_is_advertised),
        cmocka_unit_test(test_the_environment_comes_after_the_file),
        cmocka_unit_test(test_what_settings_say_together_names_the_variable_that_says_it),
        cmocka_unit_test(test_unknown_variables_are_warnings),
        cmocka_unit_test(test_the_command_line_comes_last_and_is_named),
        cmocka_unit_test(test_partitions_come_from_the_nearest_that_says),
        cmocka_unit_test(test_options_of_the_broker_make_a_stream),
        cmocka_unit_test(test_options_of_the_broker_have_their_sentences),
        cmocka_unit_test(test_an_option_of_the_broker_has_one_value),
        cmocka_unit_test(test_rows_can_be_shown),
        cmocka_unit_test(test_what_was_said_is_known_of_each_row),
        cmocka_unit_test(test_spoiled_text_never_crashes),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
