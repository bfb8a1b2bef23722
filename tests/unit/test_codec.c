/* The codec against hand-made bytes, and against everything that can be wrong with bytes.
 *
 * The second half walks all messages in all versions: a random message must come back as it was,
 * must fail when cut anywhere, and must do no harm when any of its bytes say something else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "kafka_messages.h"
#include "tests/codec/randmsg.h"

#define ARENA_MAX  (1 << 20)
#define OUT_MAX    (1 << 20)
#define MESSAGES   3     /* random ones per API, version and kind */
#define SPOILED_OF 65536 /* the low bits of a seed number the messages */
#define FRAMES     20000 /* of noise */
#define FRAME_MAX  400

struct bench {
    struct arena arena;
    struct buf out;
    struct errmsg m;
};

static void setup(struct bench *b)
{
    *b = (struct bench){0};
    arena_init(&b->arena, ARENA_MAX);
    buf_init(&b->out, OUT_MAX);
}

static void teardown(struct bench *b)
{
    arena_fini(&b->arena);
    buf_fini(&b->out);
}

/* "00 12 'demo'" → bytes: hex pairs, and text between apostrophes. */
static struct slice bytes_of(const char *text, uint8_t *room)
{
    size_t n = 0;
    for (const char *p = text; *p; p++) {
        if (*p == '\'') {
            for (p++; *p != '\''; p++) {
                room[n++] = (uint8_t)*p;
            }
        } else if (*p != ' ') {
            char pair[3] = {p[0], p[1], 0};
            room[n++] = (uint8_t)strtoul(pair, NULL, 16);
            p++;
        }
    }
    return slice_make(room, n);
}

static void expect_bytes(const struct buf *out, const char *text)
{
    uint8_t room[512];
    struct slice want = bytes_of(text, room);
    assert_int_equal(out->len, want.len);
    assert_memory_equal(out->data, want.data, want.len);
}

static void expect_encoding(struct bench *b, const struct codec_message *t, int16_t version,
                            const void *message, const char *text)
{
    buf_reset(&b->out);
    enum err e = codec_encode(t, version, message, &b->out, NULL, &b->m);
    if (e) {
        fail_msg("%s", b->m.text);
    }
    expect_bytes(&b->out, text);
}

static void decode(struct bench *b, const struct codec_message *t, int16_t version,
                   const char *text, uint8_t *room, void *out)
{
    if (codec_decode(t, version, bytes_of(text, room), &b->arena, out, &b->m)) {
        fail_msg("%s", b->m.text);
    }
}

static void expect_failure(struct bench *b, const struct codec_message *t, int16_t version,
                           const char *text, enum err want, const char *sentence)
{
    uint8_t room[512];
    void *out = arena_alloc(&b->arena, codec_struct_bytes(t));
    assert_non_null(out);
    assert_int_equal(codec_decode(t, version, bytes_of(text, room), &b->arena, out, &b->m), want);
    assert_string_equal(b->m.text, sentence);
}

/* --- by hand ---------------------------------------------------------------------------------- */

static void test_plain_version_has_wide_lengths(void **state)
{
    struct bench b;
    setup(&b);
    struct metadata_request rq;
    codec_init(&metadata_request_message, &rq);
    rq.topics = codec_new_array(&metadata_request_topics_message, &b.arena, 1);
    rq.topics_count = 1;
    rq.topics[0].name = kstr_make("demo");
    expect_encoding(&b, &metadata_request_message, 0, &rq, "00000001 0004'demo'");
    expect_encoding(&b, &metadata_request_message, 4, &rq, "00000001 0004'demo' 01");
    teardown(&b);
}

static void test_flexible_version_has_compact_lengths_and_tags(void **state)
{
    struct bench b;
    setup(&b);
    struct metadata_request rq;
    codec_init(&metadata_request_message, &rq);
    rq.topics = codec_new_array(&metadata_request_topics_message, &b.arena, 1);
    rq.topics_count = 1;
    rq.topics[0].name = kstr_make("demo");
    expect_encoding(&b, &metadata_request_message, 9, &rq, "02 05'demo' 00 01 00 00 00");
    expect_encoding(&b, &metadata_request_message, 11, &rq,
                    "02 00000000000000000000000000000000 05'demo' 00 01 00 00");
    teardown(&b);
}

static void test_null_array_is_minus_one_or_compact_zero(void **state)
{
    struct bench b;
    setup(&b);
    struct metadata_request rq;
    uint8_t room[32];
    codec_init(&metadata_request_message, &rq);
    rq.topics_count = -1;
    expect_encoding(&b, &metadata_request_message, 1, &rq, "ffffffff");
    expect_encoding(&b, &metadata_request_message, 12, &rq, "00 01 00 00");
    decode(&b, &metadata_request_message, 1, "ffffffff", room, &rq);
    assert_int_equal(rq.topics_count, -1);
    assert_true(rq.allow_auto_topic_creation); /* not in version 1: its default */
    expect_failure(&b, &metadata_request_message, 0, "ffffffff", ERR_CORRUPT,
                   "MetadataRequest v0 topics: null is not allowed");
    teardown(&b);
}

static void test_tags_go_out_in_order_and_only_when_not_default(void **state)
{
    struct bench b;
    setup(&b);
    struct api_versions_response rs;
    codec_init(&api_versions_response_message, &rs);
    expect_encoding(&b, &api_versions_response_message, 3, &rs, "0000 01 00000000 00");
    rs.zk_migration_ready = true;
    rs.finalized_features_epoch = 0; /* the default is -1 */
    rs.supported_features =
        codec_new_array(&api_versions_response_supported_features_message, &b.arena, 1);
    rs.supported_features_count = 1;
    rs.supported_features[0].name = kstr_make("f");
    rs.supported_features[0].max_version = 2;
    expect_encoding(&b, &api_versions_response_message, 3, &rs,
                    "0000 01 00000000 03 00 08 02 02'f' 0000 0002 00 01 08 0000000000000000"
                    "03 01 01");
    teardown(&b);
}

static void test_default_struct_is_not_a_tag(void **state)
{
    struct bench b;
    setup(&b);
    struct fetch_response_responses_partitions *p;
    struct fetch_response rs;
    codec_init(&fetch_response_message, &rs);
    rs.responses = codec_new_array(&fetch_response_responses_message, &b.arena, 1);
    rs.responses_count = 1;
    rs.responses[0].topic = kstr_make("t");
    p = codec_new_array(&fetch_response_responses_partitions_message, &b.arena, 1);
    rs.responses[0].partitions = p;
    rs.responses[0].partitions_count = 1;
    p->aborted_transactions_count = -1;
    /* records are empty, not null: librdkafka takes null for a broken message set */
    const char *head = "00000000 0000 00000000 02 02't' 02 00000000 0000 0000000000000000"
                       "ffffffffffffffff ffffffffffffffff 00 ffffffff 01";
    char text[256];
    snprintf(text, sizeof text, "%s 00 00 00", head);
    expect_encoding(&b, &fetch_response_message, 12, &rs, text);
    p->current_leader.leader_id = 7;
    snprintf(text, sizeof text, "%s 01 01 09 00000007 ffffffff 00 00 00", head);
    expect_encoding(&b, &fetch_response_message, 12, &rs, text);
    teardown(&b);
}

static void test_nullable_struct_has_a_byte_before_it(void **state)
{
    struct bench b;
    setup(&b);
    struct describe_topic_partitions_request rq;
    uint8_t room[64];
    const char *null = "01 000007d0 ff 00", *set = "01 000007d0 01 02't' 00000003 00 00";
    codec_init(&describe_topic_partitions_request_message, &rq);
    expect_encoding(&b, &describe_topic_partitions_request_message, 0, &rq, null);
    struct describe_topic_partitions_request_cursor cursor = {kstr_make("t"), 3};
    rq.cursor = &cursor;
    expect_encoding(&b, &describe_topic_partitions_request_message, 0, &rq, set);
    decode(&b, &describe_topic_partitions_request_message, 0, set, room, &rq);
    assert_non_null(rq.cursor);
    assert_int_equal(rq.cursor->partition_index, 3);
    decode(&b, &describe_topic_partitions_request_message, 0, null, room, &rq);
    assert_null(rq.cursor);
    teardown(&b);
}

static void test_unknown_tag_is_skipped(void **state)
{
    struct bench b;
    setup(&b);
    struct heartbeat_request rq;
    uint8_t room[64];
    decode(&b, &heartbeat_request_message, 4, "02'g' 00000005 02'm' 00 02 07 03 010203 e807 00",
           room, &rq);
    assert_int_equal(rq.generation_id, 5);
    assert_int_equal(rq.group_instance_id.len, -1);
    expect_failure(&b, &heartbeat_request_message, 4, "02'g' 00000005 02'm' 00 01 07 03 0102",
                   ERR_CORRUPT, "HeartbeatRequest v4: tag 7: 1 bytes missing");
    teardown(&b);
}

static void test_tag_must_fill_its_size(void **state)
{
    struct bench b;
    setup(&b);
    const char *head = "00000000 00000000 7fffffff 00 00000000 ffffffff 01 01 01";
    struct fetch_request rq;
    uint8_t room[64];
    char text[128];
    snprintf(text, sizeof text, "%s 01 00 03 03'ab'", head);
    decode(&b, &fetch_request_message, 15, text, room, &rq);
    assert_int_equal(rq.cluster_id.len, 2);
    snprintf(text, sizeof text, "%s 01 00 04 03'ab' 00", head);
    expect_failure(&b, &fetch_request_message, 15, text, ERR_CORRUPT,
                   "FetchRequest v15: tag 0: 1 bytes too many");
    snprintf(text, sizeof text, "%s 01 00 02 03'ab'", head);
    expect_failure(&b, &fetch_request_message, 15, text, ERR_CORRUPT,
                   "FetchRequest v15 cluster_id: 1 bytes missing");
    teardown(&b);
}

static void test_failure_names_the_field(void **state)
{
    struct bench b;
    setup(&b);
    expect_failure(&b, &offset_commit_request_message, 7,
                   "0001'g' 00000001 0001'm' ffff 00000001 0001't' 00000001"
                   "00000000 000000000000",
                   ERR_CORRUPT,
                   "OffsetCommitRequest v7 topics[0].partitions: 1 elements in 10 bytes");
    expect_failure(&b, &heartbeat_request_message, 0, "0001'g' 0000", ERR_CORRUPT,
                   "HeartbeatRequest v0 generation_id: 2 bytes missing");
    expect_failure(&b, &describe_groups_request_message, 0, "00000002 0001'g' 0003'a'", ERR_CORRUPT,
                   "DescribeGroupsRequest v0 groups[1]: 2 bytes missing");
    expect_failure(&b, &heartbeat_response_message, 0, "0000 00", ERR_CORRUPT,
                   "HeartbeatResponse v0: 1 bytes too many");
    expect_failure(&b, &heartbeat_request_message, 5, "", ERR_VERSION,
                   "HeartbeatRequest v5: versions are 0 to 4");
    teardown(&b);
}

static void test_bytes_behind_a_message_are_counted_when_allowed(void **state)
{
    struct bench b;
    setup(&b);
    /* What librdkafka 2.16 sends for all topics: a null list in four bytes instead of one. */
    uint8_t room[16];
    struct slice in = bytes_of("00 000000 01 00 00", room);
    struct metadata_request rq;
    size_t left;
    assert_int_equal(
        codec_decode_prefix(&metadata_request_message, 12, in, &b.arena, &rq, &left, &b.m), OK);
    assert_int_equal(rq.topics_count, -1);
    assert_int_equal(left, 3);
    in.len = 3; /* but nothing may be missing */
    assert_int_equal(
        codec_decode_prefix(&metadata_request_message, 12, in, &b.arena, &rq, &left, &b.m),
        ERR_CORRUPT);
    teardown(&b);
}

static void test_lengths_are_checked_before_memory_is_taken(void **state)
{
    struct bench b;
    setup(&b);
    expect_failure(&b, &metadata_request_message, 1, "7fffffff 0001'a'", ERR_CORRUPT,
                   "MetadataRequest v1 topics: 2147483647 elements in 3 bytes");
    expect_failure(&b, &metadata_request_message, 9, "ffffffff0f 0001'a'", ERR_CORRUPT,
                   "MetadataRequest v9 topics: length 4294967294");
    expect_failure(&b, &metadata_request_message, 1, "fffffffe", ERR_CORRUPT,
                   "MetadataRequest v1 topics: length -2");
    expect_failure(&b, &metadata_request_message, 9, "ffffffffffff", ERR_CORRUPT,
                   "MetadataRequest v9 topics: bad variable-length number");
    expect_failure(&b, &heartbeat_request_message, 4, "818004", ERR_CORRUPT,
                   "HeartbeatRequest v4 group_id: string of 65536 bytes");
    assert_true(b.arena.used < 8192);
    teardown(&b);
}

static void test_array_stops_at_its_maximum_and_at_the_arenas(void **state)
{
    struct bench b;
    setup(&b);
    size_t n = (CODEC_ARRAY_MAX + 1) * 2u;
    uint8_t *big = calloc(1, n + 4);
    struct describe_groups_request rq;
    be32_put(big, CODEC_ARRAY_MAX + 1);
    assert_int_equal(codec_decode(&describe_groups_request_message, 0, slice_make(big, n + 4),
                                  &b.arena, &rq, &b.m),
                     ERR_TOO_LARGE);
    be32_put(big, CODEC_ARRAY_MAX);
    assert_int_equal(codec_decode(&describe_groups_request_message, 0, slice_make(big, n + 2),
                                  &b.arena, &rq, &b.m),
                     ERR_NOMEM);
    assert_true(b.arena.used <= ARENA_MAX);
    free(big);
    teardown(&b);
}

static void test_version_that_cannot_carry_a_value_refuses_it(void **state)
{
    struct bench b;
    setup(&b);
    struct heartbeat_request rq;
    codec_init(&heartbeat_request_message, &rq);
    rq.group_instance_id = kstr_make("static");
    assert_int_equal(codec_encode(&heartbeat_request_message, 2, &rq, &b.out, NULL, &b.m),
                     ERR_INVALID);
    assert_string_equal(b.m.text,
                        "HeartbeatRequest v2 group_instance_id: version 2 cannot carry it");
    assert_int_equal(b.out.len, 0);
    struct heartbeat_response rs;
    codec_init(&heartbeat_response_message, &rs);
    rs.throttle_time_ms = 9; /* ignorable: dropped */
    expect_encoding(&b, &heartbeat_response_message, 0, &rs, "0000");
    teardown(&b);
}

static void test_null_where_none_is_allowed_is_refused(void **state)
{
    struct bench b;
    setup(&b);
    struct heartbeat_request rq;
    codec_init(&heartbeat_request_message, &rq);
    rq.member_id.len = -1;
    assert_int_equal(codec_encode(&heartbeat_request_message, 4, &rq, &b.out, NULL, &b.m),
                     ERR_INVALID);
    assert_string_equal(b.m.text, "HeartbeatRequest v4 member_id: null is not allowed");
    teardown(&b);
}

static void test_string_beyond_kafkas_bound_is_refused(void **state)
{
    struct bench b;
    setup(&b);
    char *big = calloc(1, 40000);
    struct heartbeat_request rq;
    codec_init(&heartbeat_request_message, &rq);
    rq.group_id = (struct kstr){big, 32768};
    assert_int_equal(codec_encode(&heartbeat_request_message, 4, &rq, &b.out, NULL, &b.m),
                     ERR_TOO_LARGE);
    rq.group_id.len = 32767;
    assert_int_equal(codec_encode(&heartbeat_request_message, 4, &rq, &b.out, NULL, &b.m), OK);
    free(big);
    teardown(&b);
}

static void test_full_buffer_is_an_error_and_leaves_it_as_it_was(void **state)
{
    struct bench b;
    setup(&b);
    struct buf small;
    struct heartbeat_request rq;
    codec_init(&heartbeat_request_message, &rq);
    rq.group_id = kstr_make("0123456789");
    buf_init(&small, 8);
    buf_put_be32(&small, 1);
    assert_int_equal(codec_encode(&heartbeat_request_message, 4, &rq, &small, NULL, &b.m),
                     ERR_NOMEM);
    assert_int_equal(small.len, 4);
    buf_fini(&small);
    teardown(&b);
}

/* A Fetch response of two partitions; the pieces of records are "ab"+"c" and "de". */
static struct fetch_response *two_partitions(struct bench *b, const struct iovec *iov)
{
    struct fetch_response *rs = codec_new_array(&fetch_response_message, &b->arena, 1);
    rs->responses = codec_new_array(&fetch_response_responses_message, &b->arena, 1);
    rs->responses_count = 1;
    rs->responses[0].topic = kstr_make("t");
    rs->responses[0].partitions =
        codec_new_array(&fetch_response_responses_partitions_message, &b->arena, 3);
    rs->responses[0].partitions_count = 3;
    rs->responses[0].partitions[0].records = (struct krecords){iov, 2, 3};
    rs->responses[0].partitions[2].records = (struct krecords){iov + 2, 1, 2};
    return rs;
}

static void test_records_are_left_as_holes(void **state)
{
    struct bench b;
    setup(&b);
    const struct iovec iov[] = {{"ab", 2}, {"c", 1}, {"de", 2}};
    struct fetch_response *rs = two_partitions(&b, iov);
    struct codec_hole list[2];
    struct codec_holes holes = {list, 0, 2};
    struct buf whole, joined;
    buf_init(&whole, OUT_MAX);
    buf_init(&joined, OUT_MAX);
    assert_int_equal(codec_encode(&fetch_response_message, 11, rs, &whole, NULL, &b.m), OK);
    assert_int_equal(codec_encode(&fetch_response_message, 11, rs, &b.out, &holes, &b.m), OK);
    assert_int_equal(holes.count, 2); /* none for the partition without records */
    assert_int_equal(whole.len, b.out.len + 5);
    buf_put(&joined, b.out.data, list[0].at);
    buf_put(&joined, "abc", 3);
    buf_put(&joined, b.out.data + list[0].at, list[1].at - list[0].at);
    buf_put(&joined, "de", 2);
    buf_put(&joined, b.out.data + list[1].at, b.out.len - list[1].at);
    assert_true(slice_eq(buf_slice(&joined), buf_slice(&whole)));
    buf_fini(&whole);
    buf_fini(&joined);
    teardown(&b);
}

static void test_too_many_holes_are_refused(void **state)
{
    struct bench b;
    setup(&b);
    const struct iovec iov[] = {{"ab", 2}, {"c", 1}, {"de", 2}};
    struct fetch_response *rs = two_partitions(&b, iov);
    struct codec_hole list[1];
    struct codec_holes holes = {list, 0, 1};
    assert_int_equal(codec_encode(&fetch_response_message, 11, rs, &b.out, &holes, &b.m),
                     ERR_TOO_LARGE);
    assert_int_equal(holes.count, 0);
    assert_int_equal(b.out.len, 0);
    teardown(&b);
}

static void test_message_is_printed_as_one_line(void **state)
{
    struct bench b;
    setup(&b);
    const struct iovec iov[] = {{"ab", 2}, {"c", 1}, {"de", 2}};
    struct fetch_response *rs = two_partitions(&b, iov);
    rs->responses[0].topic = kstr_make("a\"b\n");
    rs->responses[0].partitions_count = 1;
    rs->responses[0].partitions[0].current_leader.leader_id = 1;
    codec_print(&fetch_response_message, 12, rs, &b.out);
    assert_string_equal(
        buf_text(&b.out),
        "{throttle_time_ms=0, error_code=0, session_id=0, responses=[{topic=\"a\\\"b\\x0a\", "
        "partitions=[{partition_index=0, error_code=0, high_watermark=0, last_stable_offset=-1, "
        "log_start_offset=-1, aborted_transactions=[], preferred_read_replica=-1, "
        "records=<3 bytes>, current_leader={leader_id=1, leader_epoch=-1}}]}]}");
    teardown(&b);
}

/* --- headers ---------------------------------------------------------------------------------- */

static enum err header(const char *text, uint8_t *room, struct request_header *h,
                       struct slice *body)
{
    return codec_decode_header(bytes_of(text, room), h, body);
}

static void test_request_header(void **state)
{
    uint8_t room[64];
    struct request_header h;
    struct slice body;
    assert_int_equal(header("000c 0000 00000007 0002'me' 'rest'", room, &h, &body), OK);
    assert_int_equal(h.api_key, KAFKA_API_HEARTBEAT);
    assert_int_equal(h.correlation_id, 7);
    assert_int_equal(h.client_id.len, 2);
    assert_memory_equal(body.data, "rest", 4);
    assert_int_equal(body.len, 4);
    /* flexible: tags follow, also after a null client id, whose length stays an int16 */
    assert_int_equal(header("000c 0004 00000007 ffff 00 'rest'", room, &h, &body), OK);
    assert_int_equal(h.client_id.len, -1);
    assert_int_equal(body.len, 4);
    assert_int_equal(header("000c 0004 00000007 0002'me' 01 05 02 0102 'rest'", room, &h, &body),
                     OK);
    assert_int_equal(body.len, 4);
}

static void test_broken_request_header(void **state)
{
    uint8_t room[64];
    struct request_header h;
    struct slice body;
    assert_int_equal(header("000c 0000 000000", room, &h, &body), ERR_CORRUPT);
    assert_int_equal(header("000c 0000 00000007 fffe", room, &h, &body), ERR_CORRUPT);
    assert_int_equal(header("000c 0000 00000007 0003'me'", room, &h, &body), ERR_CORRUPT);
    assert_int_equal(header("000c 0004 00000007 ffff", room, &h, &body), ERR_CORRUPT);
    assert_int_equal(header("000c 0004 00000007 ffff ffffffff0f", room, &h, &body), ERR_CORRUPT);
    /* what is known of an unknown request is there */
    assert_int_equal(header("0012 0063 00000009 ffff", room, &h, &body), ERR_VERSION);
    assert_int_equal(h.api_key, KAFKA_API_API_VERSIONS);
    assert_int_equal(h.api_version, 0x63);
    assert_int_equal(h.correlation_id, 9);
    assert_int_equal(header("7fff 0000 00000009 ffff", room, &h, &body), ERR_VERSION);
    assert_int_equal(header("000c ffff 00000009 ffff", room, &h, &body), ERR_VERSION);
}

static void test_response_header(void **state)
{
    struct bench b;
    setup(&b);
    codec_encode_response_header(codec_api_find(KAFKA_API_HEARTBEAT), 3, 5, &b.out);
    expect_bytes(&b.out, "00000005");
    buf_reset(&b.out);
    codec_encode_response_header(codec_api_find(KAFKA_API_HEARTBEAT), 4, 5, &b.out);
    expect_bytes(&b.out, "00000005 00");
    buf_reset(&b.out);
    codec_encode_response_header(codec_api_find(KAFKA_API_API_VERSIONS), 4, 5, &b.out);
    expect_bytes(&b.out, "00000005");
    buf_reset(&b.out);
    codec_encode_response_header(codec_api_find(KAFKA_API_OFFSET_DELETE), 0, 5, &b.out);
    expect_bytes(&b.out, "00000005");
    teardown(&b);
}

/* --- all messages, all versions --------------------------------------------------------------- */

struct trial {
    struct bench *b;
    const struct codec_message *t;
    int16_t version;
    uint64_t seed;
};

static void for_all(void (*check)(struct trial *))
{
    for (size_t i = 0; i < codec_api_count; i++) {
        const struct codec_api *api = &codec_apis[i];
        for (int16_t v = api->version_min; v <= api->version_max; v++) {
            for (uint64_t n = 0; n < 2 * MESSAGES; n++) {
                struct bench b;
                setup(&b);
                struct trial trial = {&b, n % 2 ? api->response : api->request, v,
                                      (uint64_t)api->key << 32 | (uint64_t)v << 16 | n};
                check(&trial);
                teardown(&b);
            }
        }
    }
}

static void *random_message(struct trial *r)
{
    void *message = arena_alloc(&r->b->arena, codec_struct_bytes(r->t));
    assert_non_null(message);
    randmsg_fill(r->t, r->version, &r->seed, &r->b->arena, message);
    if (codec_encode(r->t, r->version, message, &r->b->out, NULL, &r->b->m)) {
        fail_msg("%s", r->b->m.text);
    }
    return message;
}

static void check_round_trip(struct trial *r)
{
    void *message = random_message(r);
    void *back = arena_alloc(&r->b->arena, codec_struct_bytes(r->t));
    if (codec_decode(r->t, r->version, buf_slice(&r->b->out), &r->b->arena, back, &r->b->m)) {
        fail_msg("%s", r->b->m.text);
    }
    if (!randmsg_equal(r->t, message, back)) {
        fail_msg("%s v%d is another one after decoding", codec_message_name(r->t), r->version);
    }
    struct buf text;
    buf_init(&text, OUT_MAX);
    codec_print(r->t, r->version, back, &text);
    assert_true(buf_ok(&text));
    buf_fini(&text);
}

static void test_every_message_comes_back_as_it_was(void **state)
{
    for_all(check_round_trip);
}

/* Decodes a copy of exactly n bytes, so that the address sanitizer sees one byte too far. */
static enum err decode_copy(struct trial *r, const uint8_t *data, size_t n, struct arena *a,
                            void *out)
{
    uint8_t *copy = malloc(n ? n : 1);
    assert_non_null(copy);
    memcpy(copy, data, n);
    enum err e = codec_decode(r->t, r->version, slice_make(copy, n), a, out, &r->b->m);
    if (!e) {
        /* What was understood can be said again, and means the same. */
        struct buf again;
        struct arena room;
        arena_init(&room, ARENA_MAX);
        buf_init(&again, OUT_MAX);
        void *back = arena_alloc(&room, codec_struct_bytes(r->t));
        assert_non_null(back);
        assert_int_equal(codec_encode(r->t, r->version, out, &again, NULL, &r->b->m), OK);
        assert_int_equal(codec_decode(r->t, r->version, buf_slice(&again), &room, back, &r->b->m),
                         OK);
        assert_true(randmsg_equal(r->t, out, back));
        buf_fini(&again);
        arena_fini(&room);
    }
    free(copy);
    return e;
}

static void check_truncation(struct trial *r)
{
    random_message(r);
    void *out = arena_alloc(&r->b->arena, codec_struct_bytes(r->t));
    assert_non_null(out);
    for (size_t n = 0; n < r->b->out.len; n++) {
        struct arena a;
        arena_init(&a, ARENA_MAX);
        if (decode_copy(r, r->b->out.data, n, &a, out) != ERR_CORRUPT) {
            fail_msg("%s v%d cut at byte %zu of %zu", codec_message_name(r->t), r->version, n,
                     r->b->out.len);
        }
        arena_fini(&a);
    }
}

static void test_every_message_cut_at_every_byte_fails(void **state)
{
    for_all(check_truncation);
}

/* Each byte in turn, so also each length field, is overwritten with what a length should not be. */
static void check_spoiled(struct trial *r)
{
    if (r->seed % SPOILED_OF > 1) {
        return; /* the longest of the walks: one request and one response */
    }
    static const struct slice spoils[] = {
        {(const uint8_t *)"\xff", 1},
        {(const uint8_t *)"\x00", 1},
        {(const uint8_t *)"\xff\xff", 2},
        {(const uint8_t *)"\xff\xfe", 2},
        {(const uint8_t *)"\x7f\xff", 2},
        {(const uint8_t *)"\xff\xff\xff\xff", 4},
        {(const uint8_t *)"\xff\xff\xff\xfe", 4},
        {(const uint8_t *)"\x7f\xff\xff\xff", 4},
        {(const uint8_t *)"\x80\x00\x00\x00", 4},
        {(const uint8_t *)"\x00\x0f\xff\xff", 4},
        {(const uint8_t *)"\xff\xff\xff\xff\x0f", 5},
        {(const uint8_t *)"\xff\xff\xff\xff\x07", 5},
        {(const uint8_t *)"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 10},
    };
    random_message(r);
    struct buf *whole = &r->b->out;
    uint8_t *copy = malloc(whole->len + 10);
    void *out = arena_alloc(&r->b->arena, codec_struct_bytes(r->t));
    assert_non_null(copy);
    assert_non_null(out);
    for (size_t at = 0; at < whole->len; at++) {
        for (size_t i = 0; i < sizeof spoils / sizeof spoils[0]; i++) {
            struct arena a;
            size_t n = spoils[i].len > whole->len - at ? whole->len - at : spoils[i].len;
            arena_init(&a, ARENA_MAX);
            memcpy(copy, whole->data, whole->len);
            memcpy(copy + at, spoils[i].data, n);
            (void)decode_copy(r, copy, whole->len, &a, out); /* any answer, but no harm */
            assert_true(a.used <= ARENA_MAX);
            arena_fini(&a);
        }
    }
    free(copy);
}

static void test_every_message_spoiled_at_every_byte_does_no_harm(void **state)
{
    for_all(check_spoiled);
}

static void test_random_frames_do_no_harm(void **state)
{
    struct bench b;
    uint64_t seed = 1;
    size_t understood = 0;
    for (int i = 0; i < FRAMES; i++) {
        uint8_t frame[FRAME_MAX];
        size_t len = rand_below(&seed, FRAME_MAX);
        for (size_t k = 0; k < len; k++) {
            frame[k] =
                rand_below(&seed, 3) ? (uint8_t)rand_below(&seed, 4) : (uint8_t)rand_next(&seed);
        }
        /* A real key and version, so that the noise gets past the header. */
        const struct codec_api *api = &codec_apis[rand_below(&seed, (uint32_t)codec_api_count)];
        int spread = api->version_max - api->version_min + 2;
        if (len >= 4 && i % 4) {
            be16_put(frame, (uint16_t)api->key);
            be16_put(frame + 2, (uint16_t)(api->version_min + rand_below(&seed, (uint32_t)spread)));
        }
        setup(&b);
        struct request_header h;
        struct slice body;
        if (codec_decode_header(slice_make(frame, len), &h, &body) == OK) {
            api = codec_api_find(h.api_key);
            struct trial trial = {&b, api->request, h.api_version, 0};
            void *out = arena_alloc(&b.arena, codec_struct_bytes(api->request));
            assert_non_null(out);
            understood += decode_copy(&trial, body.data, body.len, &b.arena, out) == OK;
        }
        teardown(&b);
    }
    assert_true(understood < FRAMES / 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain_version_has_wide_lengths),
        cmocka_unit_test(test_flexible_version_has_compact_lengths_and_tags),
        cmocka_unit_test(test_null_array_is_minus_one_or_compact_zero),
        cmocka_unit_test(test_tags_go_out_in_order_and_only_when_not_default),
        cmocka_unit_test(test_default_struct_is_not_a_tag),
        cmocka_unit_test(test_nullable_struct_has_a_byte_before_it),
        cmocka_unit_test(test_unknown_tag_is_skipped),
        cmocka_unit_test(test_tag_must_fill_its_size),
        cmocka_unit_test(test_failure_names_the_field),
        cmocka_unit_test(test_bytes_behind_a_message_are_counted_when_allowed),
        cmocka_unit_test(test_lengths_are_checked_before_memory_is_taken),
        cmocka_unit_test(test_array_stops_at_its_maximum_and_at_the_arenas),
        cmocka_unit_test(test_version_that_cannot_carry_a_value_refuses_it),
        cmocka_unit_test(test_null_where_none_is_allowed_is_refused),
        cmocka_unit_test(test_string_beyond_kafkas_bound_is_refused),
        cmocka_unit_test(test_full_buffer_is_an_error_and_leaves_it_as_it_was),
        cmocka_unit_test(test_records_are_left_as_holes),
        cmocka_unit_test(test_too_many_holes_are_refused),
        cmocka_unit_test(test_message_is_printed_as_one_line),
        cmocka_unit_test(test_request_header),
        cmocka_unit_test(test_broken_request_header),
        cmocka_unit_test(test_response_header),
        cmocka_unit_test(test_every_message_comes_back_as_it_was),
        cmocka_unit_test(test_every_message_cut_at_every_byte_fails),
        cmocka_unit_test(test_every_message_spoiled_at_every_byte_does_no_harm),
        cmocka_unit_test(test_random_frames_do_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
