/* Record batches: bytes as Kafka's own client writes them, and nothing else accepted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "shared/base/clock.h"
#include "shared/record/record.h"
#include "tests/unit/record_help.h"

#define WALK_MAX (1u << 20)
#define BYTES(s) {(const uint8_t *)(s), sizeof(s) - 1}
#define NONE     {NULL, 0}

/* The records that the golden batches hold; see record_golden.h. */
static char many_x[301];
static const struct record_header first_headers[] = {{BYTES("mqtt.qos"), BYTES("1")},
                                                     {BYTES("mqtt.retain"), BYTES("")}};
static const struct record_header null_header = {BYTES("null"), NONE};
static struct record expected[] = {
    {0, 1700000000123, BYTES("demo/temp"), BYTES("21.5"), first_headers, 2},
    {1, 1700000000123, NONE, BYTES("no key"), NULL, 0},
    {2, 1700000000120, BYTES("tombstone"), NONE, &null_header, 1},
    {3, 1700000300000, BYTES(""), BYTES(""), NULL, 0},
    {4, 1700000300001, BYTES("k"), {(const uint8_t *)many_x, 300}, NULL, 0},
};
#define EXPECTED_COUNT (sizeof expected / sizeof expected[0])

static void assert_slice(struct slice got, struct slice want)
{
    assert_int_equal(got.data == NULL, want.data == NULL);
    assert_true(slice_eq(got, want));
}

static void assert_record(const struct record *got, const struct record *want)
{
    assert_int_equal(got->offset, want->offset);
    assert_int_equal(got->timestamp, want->timestamp);
    assert_slice(got->key, want->key);
    assert_slice(got->value, want->value);
    assert_int_equal(got->header_count, want->header_count);
    for (uint32_t i = 0; i < got->header_count; i++) {
        assert_slice(got->headers[i].key, want->headers[i].key);
        assert_slice(got->headers[i].value, want->headers[i].value);
    }
}

struct expectation {
    const struct record *records;
    size_t count;
    size_t seen;
    size_t stop_after; /* 0: never */
};

static bool expect_record(void *arg, const struct record *r)
{
    struct expectation *x = arg;
    assert_true(x->seen < x->count);
    assert_record(r, &x->records[x->seen]);
    return ++x->seen != x->stop_after;
}

static bool any_record(void *arg, const struct record *r)
{
    return true;
}

static enum err walk(struct slice batch)
{
    struct errmsg m = {""};
    enum err e = batch_walk(batch, WALK_MAX, any_record, NULL, &m);
    assert_true(e == OK || m.text[0] != '\0');
    return e;
}

/* --- golden ----------------------------------------------------------------------------------- */

static void test_batch_is_byte_for_byte_that_of_the_java_client(void **state)
{
    struct buf golden;
    buf_init(&golden, 4096);
    put_hex(&golden, golden_none);
    struct batch_builder b;
    batch_builder_init(&b, 4096);
    for (size_t i = 0; i < EXPECTED_COUNT; i++) {
        assert_int_equal(batch_add(&b, &expected[i]), OK);
    }
    struct slice got = batch_finish(&b);
    assert_int_equal(got.len, golden.len);
    assert_memory_equal(got.data, golden.data, golden.len);
    batch_builder_fini(&b);
    buf_fini(&golden);
}

static void test_batches_of_the_java_client_are_accepted_in_every_codec(void **state)
{
    static const char *const goldens[] = {golden_none, golden_gzip, golden_snappy, golden_lz4,
                                          golden_zstd};
    for (size_t i = 0; i < sizeof goldens / sizeof goldens[0]; i++) {
        struct buf b;
        struct errmsg m = {""};
        buf_init(&b, 4096);
        put_hex(&b, goldens[i]);
        assert_int_equal(batch_check(buf_slice(&b), &m), OK);
        struct batch_header h;
        assert_int_equal(batch_read_header(buf_slice(&b), &h), OK);
        assert_int_equal(h.attributes & BATCH_CODEC_MASK, i);
        assert_int_equal(h.record_count, EXPECTED_COUNT);
        assert_int_equal(batch_total_bytes(&h), b.len);
        struct expectation x = {expected, EXPECTED_COUNT, 0, 0};
        assert_int_equal(batch_walk(buf_slice(&b), WALK_MAX, expect_record, &x, &m), OK);
        assert_int_equal(x.seen, EXPECTED_COUNT);
        buf_fini(&b);
    }
}

static void test_batch_header_fields_are_read_as_the_java_client_wrote_them(void **state)
{
    struct buf b;
    struct batch_header h;
    buf_init(&b, 4096);
    put_hex(&b, golden_append);
    assert_int_equal(batch_check(buf_slice(&b), NULL), OK);
    assert_int_equal(batch_read_header(buf_slice(&b), &h), OK);
    assert_int_equal(h.base_offset, 1000);
    assert_int_equal(h.leader_epoch, 9);
    assert_int_equal(h.magic, 2);
    assert_int_equal(h.attributes, BATCH_TRANSACTIONAL | BATCH_TIMESTAMP_APPEND);
    assert_int_equal(h.last_offset_delta, 1);
    assert_int_equal(batch_next_offset(&h), 1002);
    assert_int_equal(h.base_timestamp, 1700000000123);
    assert_int_equal(h.producer_id, 77);
    assert_int_equal(h.producer_epoch, 3);
    assert_int_equal(h.base_sequence, 42);
    assert_int_equal(h.record_count, 2);
    buf_reset(&b);
    put_hex(&b, golden_control);
    assert_int_equal(batch_check(buf_slice(&b), NULL), OK);
    assert_int_equal(batch_read_header(buf_slice(&b), &h), OK);
    assert_int_equal(h.attributes, BATCH_TRANSACTIONAL | BATCH_CONTROL);
    assert_int_equal(h.base_offset, 5);
    buf_fini(&b);
}

static void test_records_of_an_append_time_batch_have_the_batchs_time(void **state)
{
    struct buf b;
    struct batch_header h;
    buf_init(&b, 4096);
    put_hex(&b, golden_append);
    assert_int_equal(batch_read_header(buf_slice(&b), &h), OK);
    struct record want[] = {expected[1], expected[4]};
    for (int i = 0; i < 2; i++) {
        want[i].offset = 1000 + i;
        want[i].timestamp = h.max_timestamp;
    }
    struct expectation x = {want, 2, 0, 0};
    assert_int_equal(batch_walk(buf_slice(&b), WALK_MAX, expect_record, &x, NULL), OK);
    assert_int_equal(x.seen, 2);
    buf_fini(&b);
}

static void test_offset_and_epoch_are_patched_without_touching_the_checksum(void **state)
{
    struct buf b;
    struct batch_header h;
    buf_init(&b, 4096);
    put_hex(&b, golden_zstd);
    batch_set_base_offset(b.data, INT64_MAX - 100);
    batch_set_leader_epoch(b.data, 77);
    assert_int_equal(batch_check(buf_slice(&b), NULL), OK);
    assert_int_equal(batch_read_header(buf_slice(&b), &h), OK);
    assert_int_equal(h.base_offset, INT64_MAX - 100);
    assert_int_equal(h.leader_epoch, 77);
    buf_fini(&b);
}

static void test_walk_stops_when_it_is_told_to(void **state)
{
    struct buf b;
    buf_init(&b, 4096);
    put_hex(&b, golden_lz4);
    struct expectation x = {expected, EXPECTED_COUNT, 0, 2};
    assert_int_equal(batch_walk(buf_slice(&b), WALK_MAX, expect_record, &x, NULL), OK);
    assert_int_equal(x.seen, 2);
    buf_fini(&b);
}

/* --- build ------------------------------------------------------------------------------------ */

/* A slice of random length within bytes that do not matter; sometimes null. */
static struct slice random_slice(size_t max)
{
    static uint8_t bytes[5000];
    if (bytes[0] == 0) {
        random_bytes(bytes, sizeof bytes);
        bytes[0] = 1;
    }
    uint64_t dice = random_u64();
    return dice % 8 == 0 ? slice_make(NULL, 0) : slice_make(bytes, dice / 8 % max);
}

static void random_record(struct record *r, struct record_header *headers)
{
    *r = (struct record){.timestamp = (int64_t)(random_u64() >> random_u64() % 64),
                         .key = random_slice(100),
                         .value = random_slice(5000),
                         .headers = headers,
                         .header_count = (uint32_t)(random_u64() % 6)};
    for (uint32_t i = 0; i < r->header_count; i++) {
        headers[i].key = slice_make("header", random_u64() % 6);
        headers[i].value = random_slice(200);
    }
}

static void test_what_is_built_is_accepted_and_walked_equal(void **state)
{
    enum { RECORDS = 50 };
    static struct record records[RECORDS];
    static struct record_header headers[RECORDS][6];
    struct batch_builder b;
    batch_builder_init(&b, 1 << 20);
    for (int round = 0; round < 200; round++) {
        size_t count = 1 + random_u64() % RECORDS;
        int64_t newest = INT64_MIN;
        for (size_t i = 0; i < count; i++) {
            random_record(&records[i], headers[i]);
            records[i].offset = (int64_t)i;
            newest = records[i].timestamp > newest ? records[i].timestamp : newest;
            size_t before = b.buf.len, head = i ? 0 : BATCH_HEADER_BYTES;
            assert_int_equal(batch_add(&b, &records[i]), OK);
            assert_true(b.buf.len - before - head <= record_size_max(&records[i]));
        }
        struct slice batch = batch_finish(&b);
        struct batch_header h;
        assert_int_equal(batch_check(batch, NULL), OK);
        assert_int_equal(batch_read_header(batch, &h), OK);
        assert_int_equal(h.max_timestamp, newest);
        assert_int_equal(h.base_timestamp, records[0].timestamp);
        assert_int_equal(h.producer_id, -1);
        assert_int_equal(h.last_offset_delta, count - 1);
        struct expectation x = {records, count, 0, 0};
        assert_int_equal(batch_walk(batch, 0, expect_record, &x, NULL), OK);
        assert_int_equal(x.seen, count);
        batch_builder_reset(&b);
    }
    batch_builder_fini(&b);
}

static void test_timestamps_at_the_ends_of_time_survive(void **state)
{
    struct record records[] = {{0, INT64_MAX, NONE, NONE, NULL, 0},
                               {1, INT64_MIN, NONE, NONE, NULL, 0},
                               {2, -1, NONE, NONE, NULL, 0},
                               {3, 0, NONE, NONE, NULL, 0}};
    struct batch_builder b;
    batch_builder_init(&b, 1 << 20);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(batch_add(&b, &records[i]), OK);
    }
    struct expectation x = {records, 4, 0, 0};
    assert_int_equal(batch_walk(batch_finish(&b), 0, expect_record, &x, NULL), OK);
    batch_builder_fini(&b);
}

static void test_a_record_that_does_not_fit_leaves_the_batch_unchanged(void **state)
{
    static const uint8_t value[1000];
    struct record r = {0, 5, NONE, slice_make(value, 900), NULL, 0};
    struct record small = {0, 6, NONE, slice_make(value, 10), NULL, 0};
    struct batch_builder b;
    batch_builder_init(&b, 1000);
    assert_int_equal(batch_add(&b, &r), OK);
    size_t len = b.buf.len;
    r.timestamp = 7000000;
    assert_int_equal(batch_add(&b, &r), ERR_TOO_LARGE);
    assert_int_equal(b.buf.len, len);
    assert_int_equal(batch_add(&b, &small), OK); /* the failure does not stick */
    struct batch_header h;
    struct slice batch = batch_finish(&b);
    assert_int_equal(batch_check(batch, NULL), OK);
    assert_int_equal(batch_read_header(batch, &h), OK);
    assert_int_equal(h.record_count, 2);
    assert_int_equal(h.max_timestamp, 6);
    batch_builder_reset(&b);

    /* To the last byte: what one byte less refuses, this accepts. */
    r.value.len = 1000 - BATCH_HEADER_BYTES - (2 + 1 + 1 + 1 + 1 + 2 + 1);
    assert_int_equal(batch_add(&b, &r), OK);
    assert_int_equal(batch_finish(&b).len, 1000);
    batch_builder_reset(&b);
    r.value.len++;
    assert_int_equal(batch_add(&b, &r), ERR_TOO_LARGE);
    assert_int_equal(batch_finish(&b).len, 0);
    batch_builder_fini(&b);
}

static void test_records_have_at_most_the_headers_that_are_read_back(void **state)
{
    static struct record_header headers[RECORD_HEADERS_MAX + 1];
    struct record r = {0, 0, NONE, NONE, headers, RECORD_HEADERS_MAX};
    struct batch_builder b;
    batch_builder_init(&b, 1 << 20);
    assert_int_equal(batch_add(&b, &r), OK);
    assert_int_equal(walk(batch_finish(&b)), OK);
    r.header_count++;
    assert_int_equal(batch_add(&b, &r), ERR_TOO_LARGE);
    assert_int_equal(b.count, 1);
    batch_builder_fini(&b);
}

/* --- check ------------------------------------------------------------------------------------ */

static void test_check_finds_every_flipped_bit_that_it_vouches_for(void **state)
{
    for (size_t g = 0; g < GOLDEN_COUNT; g++) {
        struct buf b;
        buf_init(&b, 4096);
        put_hex(&b, golden_all[g]);
        for (size_t at = 8; at < b.len; at++) {
            if (at >= 12 && at < 16) {
                continue; /* the leader epoch, like the base offset, is the broker's to set */
            }
            for (int bit = 0; bit < 8; bit++) {
                struct errmsg m = {""};
                b.data[at] ^= (uint8_t)(1 << bit);
                assert_int_equal(batch_check(buf_slice(&b), &m), ERR_CORRUPT);
                assert_int_not_equal(m.text[0], '\0');
                b.data[at] ^= (uint8_t)(1 << bit);
            }
        }
        assert_int_equal(batch_check(buf_slice(&b), NULL), OK);
        buf_fini(&b);
    }
}

static void test_check_refuses_batches_of_another_length(void **state)
{
    struct buf b;
    buf_init(&b, 4096);
    put_hex(&b, golden_none);
    size_t whole = b.len;
    for (size_t len = 0; len < whole; len++) {
        uint8_t *exact = malloc(len ? len : 1); /* so that a sanitizer sees a read beyond it */
        memcpy(exact, b.data, len);
        assert_int_equal(batch_check(slice_make(exact, len), NULL), ERR_CORRUPT);
        assert_int_equal(walk(slice_make(exact, len)), ERR_CORRUPT);
        free(exact);
    }
    buf_put_u8(&b, 0);
    assert_int_equal(batch_check(buf_slice(&b), NULL), ERR_CORRUPT);
    buf_fini(&b);
}

static void test_check_refuses_counts_that_cannot_be(void **state)
{
    static const struct {
        int32_t last_offset_delta, record_count;
        enum err want;
    } rows[] = {
        {4, 5, OK},
        {9, 5, OK}, /* compacted */
        {0, 0, OK}, /* all compacted away: the records are another matter */
        {4, 6, ERR_CORRUPT},
        {-1, 0, ERR_CORRUPT},
        {4, -1, ERR_CORRUPT},
        {INT32_MAX, INT32_MAX, ERR_CORRUPT}, /* not in so few bytes */
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct buf b;
        buf_init(&b, 4096);
        put_hex(&b, golden_none);
        be32_put(b.data + 23, (uint32_t)rows[i].last_offset_delta);
        be32_put(b.data + 57, (uint32_t)rows[i].record_count);
        seal(b.data, b.len);
        assert_int_equal(batch_check(buf_slice(&b), NULL), rows[i].want);
        buf_fini(&b);
    }
}

static void test_unknown_codecs_are_refused(void **state)
{
    for (int codec = BATCH_CODEC_ZSTD + 1; codec <= BATCH_CODEC_MASK; codec++) {
        struct buf b;
        buf_init(&b, 4096);
        put_hex(&b, golden_none);
        b.data[22] = (uint8_t)codec;
        seal(b.data, b.len);
        assert_int_equal(batch_check(buf_slice(&b), NULL), ERR_CORRUPT);
        assert_int_equal(walk(buf_slice(&b)), ERR_CORRUPT);
        buf_fini(&b);
    }
}

/* --- malformed records ------------------------------------------------------------------------ */

static void test_walk_refuses_malformed_records(void **state)
{
    /* A good record: 0c (six bytes) 00 00 00 01 01 00: attributes, deltas, null, null, no
     * headers. */
    static const struct {
        const char *what;
        const char *hex;
        int32_t count;
        enum err want;
    } rows[] = {
        {"good", "0c000000010100", 1, OK},
        {"two good ones", "0c000000010100" "0c000002010100", 2, OK},
        {"nothing", "", 1, ERR_CORRUPT},
        {"no records, none claimed", "", 0, OK},
        {"fewer than claimed", "0c000000010100", 2, ERR_CORRUPT},
        {"more than claimed", "0c000000010100" "0c000002010100", 1, ERR_CORRUPT},
        {"a byte after the last", "0c000000010100" "00", 1, ERR_CORRUPT},
        {"negative length", "0b000000010100", 1, ERR_CORRUPT},
        {"length beyond the batch", "0e000000010100", 1, ERR_CORRUPT},
        {"length of 2 GB", "feffffff0f000000010100", 1, ERR_CORRUPT},
        {"length of eleven bytes", "8080808080808080808000", 1, ERR_CORRUPT},
        {"length that is longer than its record", "0e00000001010000", 1, ERR_CORRUPT},
        {"length that cuts its record", "0a0000000101", 1, ERR_CORRUPT},
        {"empty record", "00", 1, ERR_CORRUPT},
        {"key length -2", "0c000000030100", 1, ERR_CORRUPT},
        {"key beyond the record", "0c000000100100", 1, ERR_CORRUPT},
        {"key of 2 GB", "14000000feffffff0f0100", 1, ERR_CORRUPT},
        {"value length -2", "0c000000010300", 1, ERR_CORRUPT},
        {"value beyond the record", "0c000000010400", 1, ERR_CORRUPT},
        {"headers -1", "0c000000010101", 1, ERR_CORRUPT},
        {"a header that is not there", "0c000000010102", 1, ERR_CORRUPT},
        {"header key null", "10000000010102" "0101", 1, ERR_CORRUPT},
        {"header key beyond", "10000000010102" "1001", 1, ERR_CORRUPT},
        {"header value beyond", "10000000010102" "0010", 1, ERR_CORRUPT},
        {"a good header", "10000000010102" "0001", 1, OK},
        {"2 G headers", "140000000101" "feffffff0f", 1, ERR_CORRUPT},
        {"1025 headers, none there", "0e0000000101" "8210", 1, ERR_CORRUPT},
        {"offset -1", "0c000001010100", 1, ERR_CORRUPT},
        {"offset beyond the last", "0c000002010100", 1, ERR_CORRUPT},
        {"the same offset twice", "0c000000010100" "0c000000010100", 2, ERR_CORRUPT},
        {"falling offsets", "0c000002010100" "0c000000010100", 2, ERR_CORRUPT},
        {"timestamp of eleven bytes", "2000ffffffffffffffffffff0100010100", 1, ERR_CORRUPT},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        for (int codec = BATCH_CODEC_NONE; codec <= BATCH_CODEC_ZSTD; codec++) {
            struct buf plain, packed, b;
            buf_init(&plain, 4096);
            buf_init(&packed, 4096);
            buf_init(&b, 4096);
            put_hex(&plain, rows[i].hex);
            put_compressed(&packed, (enum batch_codec)codec, buf_slice(&plain));
            put_batch(&b, (enum batch_codec)codec, rows[i].count, buf_slice(&packed));
            enum err e = walk(buf_slice(&b));
            if (e != rows[i].want) {
                fail_msg("%s, codec %d: %s", rows[i].what, codec, err_name(e));
            }
            buf_fini(&plain);
            buf_fini(&packed);
            buf_fini(&b);
        }
    }
}

/* --- partitions ------------------------------------------------------------------------------- */

static void test_murmur2_is_that_of_the_java_client(void **state)
{
    static const struct {
        const char *key;
        int32_t hash;
    } rows[] = {
        {"21", -973932308},
        {"foobar", -790332482},
        {"a-little-bit-long-string", -985981536},
        {"a-little-bit-longer-string", -1486304829},
        {"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971},
        {"abc", 479470107},
        {"", 275646681},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_int_equal((int32_t)murmur2(rows[i].key, strlen(rows[i].key)), rows[i].hash);
    }
}

static void test_partitions_of_keys_are_within_range(void **state)
{
    assert_int_equal(partition_of_key(slice_str("21"), 1), 0);
    assert_int_equal(partition_of_key(slice_str("21"), 16), (-973932308 & 0x7fffffff) % 16);
    for (int i = 0; i < 1000; i++) {
        uint64_t key = random_u64();
        int32_t p = partition_of_key(slice_make(&key, sizeof key), 7);
        assert_true(p >= 0 && p < 7);
    }
}

static int fill_expected(void **state)
{
    memset(many_x, 'x', 300);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_batch_is_byte_for_byte_that_of_the_java_client),
        cmocka_unit_test(test_batches_of_the_java_client_are_accepted_in_every_codec),
        cmocka_unit_test(test_batch_header_fields_are_read_as_the_java_client_wrote_them),
        cmocka_unit_test(test_records_of_an_append_time_batch_have_the_batchs_time),
        cmocka_unit_test(test_offset_and_epoch_are_patched_without_touching_the_checksum),
        cmocka_unit_test(test_walk_stops_when_it_is_told_to),
        cmocka_unit_test(test_what_is_built_is_accepted_and_walked_equal),
        cmocka_unit_test(test_timestamps_at_the_ends_of_time_survive),
        cmocka_unit_test(test_a_record_that_does_not_fit_leaves_the_batch_unchanged),
        cmocka_unit_test(test_records_have_at_most_the_headers_that_are_read_back),
        cmocka_unit_test(test_check_finds_every_flipped_bit_that_it_vouches_for),
        cmocka_unit_test(test_check_refuses_batches_of_another_length),
        cmocka_unit_test(test_check_refuses_counts_that_cannot_be),
        cmocka_unit_test(test_unknown_codecs_are_refused),
        cmocka_unit_test(test_walk_refuses_malformed_records),
        cmocka_unit_test(test_murmur2_is_that_of_the_java_client),
        cmocka_unit_test(test_partitions_of_keys_are_within_range),
    };
    return cmocka_run_group_tests(tests, fill_expected, NULL);
}
