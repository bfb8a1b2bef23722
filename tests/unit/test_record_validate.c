/* Produce's judge: what Kafka takes is taken, what it refuses is refused with its error, and what
 * is taken can be appended as it is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "shared/record/validate.h"
#include "tests/unit/record_help.h"

#define NOW   1700000400000
#define COUNT 3

static struct record_validator validator;
static struct record_rules rules;
static struct record_verdict verdict;
static struct buf batch; /* the one under test; put_good fills it */

static const char *const keys[COUNT] = {"a", "b", "a"};

/* Uncompressed records with these timestamps. */
static void put_records(struct buf *out, const int64_t *timestamps, size_t count)
{
    struct batch_builder b;
    batch_builder_init(&b, 1 << 20);
    for (size_t i = 0; i < count; i++) {
        struct record r = {.timestamp = timestamps[i],
                           .key = slice_str(keys[i % COUNT]),
                           .value = slice_str("value of the record, some bytes")};
        assert_int_equal(batch_add(&b, &r), OK);
    }
    struct slice built = batch_finish(&b);
    buf_put(out, built.data, built.len);
    batch_builder_fini(&b);
}

/* The batch in another codec. */
static void pack(struct buf *b, enum batch_codec codec)
{
    struct buf packed;
    buf_init(&packed, 1 << 20);
    put_compressed(&packed, codec,
                   slice_make(b->data + BATCH_HEADER_BYTES, b->len - BATCH_HEADER_BYTES));
    b->len = BATCH_HEADER_BYTES;
    buf_put(b, packed.data, packed.len);
    b->data[BATCH_ATTRIBUTES_OFFSET + 1] |= (uint8_t)codec;
    seal(b->data, b->len);
    buf_fini(&packed);
}

static void put_good(enum batch_codec codec)
{
    static const int64_t timestamps[COUNT] = {NOW - 10, NOW - 5, NOW - 7};
    buf_reset(&batch);
    put_records(&batch, timestamps, COUNT);
    if (codec != BATCH_CODEC_NONE) {
        pack(&batch, codec);
    }
}

static int setup(void **state)
{
    record_validator_init(&validator, 1 << 20);
    rules = record_rules_default(NOW);
    buf_init(&batch, 1 << 20);
    put_good(BATCH_CODEC_NONE);
    return 0;
}

static int teardown(void **state)
{
    record_validator_fini(&validator);
    buf_fini(&batch);
    return 0;
}

/* The verdict on the first n bytes of the batch; whatever it is, it says why. */
static enum record_fault judge_len(size_t n)
{
    uint8_t *exact = test_malloc(n ? n : 1); /* a read beyond it is seen */
    memcpy(exact, batch.data, n);
    enum record_fault f = record_validate(&validator, exact, n, &rules, &verdict);
    assert_int_equal(f, verdict.fault);
    assert_true((f == RECORD_FINE) == (verdict.why.text[0] == '\0'));
    if (f == RECORD_FINE) {
        struct batch_header h;
        struct errmsg m = {""};
        struct slice ready = slice_make(verdict.batch, verdict.batch_len);
        assert_int_equal(batch_check(ready, &m), OK);
        assert_int_equal(batch_read_header(ready, &h), OK);
        assert_memory_equal(&h.base_timestamp, &verdict.h.base_timestamp, sizeof(int64_t));
        assert_int_equal(h.attributes, verdict.h.attributes);
        assert_int_equal(h.max_timestamp, verdict.h.max_timestamp);
        assert_int_equal(h.crc, verdict.h.crc);
        assert_int_equal(h.record_count, verdict.h.record_count);
    }
    test_free(exact);
    return f;
}

static enum record_fault judge(void)
{
    return judge_len(batch.len);
}

static enum record_fault judge_sealed(void)
{
    seal(batch.data, batch.len);
    return judge();
}

static void test_a_good_batch_is_taken_as_it_is_in_every_codec(void **state)
{
    for (int codec = BATCH_CODEC_NONE; codec <= BATCH_CODEC_ZSTD; codec++) {
        put_good((enum batch_codec)codec);
        uint8_t *exact = batch.data;
        assert_int_equal(record_validate(&validator, exact, batch.len, &rules, &verdict),
                         RECORD_FINE);
        assert_ptr_equal(verdict.batch, exact);
        assert_int_equal(verdict.batch_len, batch.len);
        assert_int_equal(verdict.append_time, -1);
        assert_int_equal(verdict.h.max_timestamp, NOW - 5);
        assert_int_equal(judge(), RECORD_FINE);
    }
}

static void test_lies_of_the_header_are_refused(void **state)
{
    static const struct {
        size_t at;
        uint8_t value;
        enum record_fault fault;
    } lies[] = {
        {7, 1, RECORD_INVALID},                  /* base offset */
        {16, 1, RECORD_INVALID},                 /* magic */
        {16, 0, RECORD_INVALID},
        {16, 3, RECORD_CORRUPT},
        {22, BATCH_CONTROL, RECORD_INVALID},
        {22, BATCH_TRANSACTIONAL, RECORD_INVALID}, /* without a producer */
        {22, 5, RECORD_UNSUPPORTED_CODEC},
        {26, COUNT, RECORD_INVALID},             /* last offset delta */
        {26, COUNT - 2, RECORD_INVALID},
        {23, 0x80, RECORD_INVALID},
        {60, COUNT + 1, RECORD_INVALID},         /* count */
        {60, 0, RECORD_INVALID},
        {57, 0x80, RECORD_INVALID},
        {43, 0x00, RECORD_INVALID},              /* a producer id, but no sequence */
    };
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        put_good(BATCH_CODEC_NONE);
        batch.data[lies[i].at] = lies[i].value;
        assert_int_equal(judge_sealed(), lies[i].fault);
    }
    put_good(BATCH_CODEC_NONE);
    batch.data[batch.len - 1] ^= 1;
    assert_int_equal(judge(), RECORD_CORRUPT); /* the checksum */
}

static void test_a_request_holds_one_whole_batch(void **state)
{
    size_t len = batch.len;
    assert_int_equal(record_validate(&validator, NULL, 0, &rules, &verdict), RECORD_INVALID);
    for (size_t n = 0; n < len; n++) {
        assert_int_equal(judge_len(n), RECORD_INVALID);
    }
    /* A piece of a second one is not looked at, a whole one is one too many. */
    buf_put(&batch, batch.data, 11);
    assert_int_equal(judge(), RECORD_FINE);
    assert_int_equal(verdict.batch_len, len);
    batch.len = len;
    static const int64_t now = NOW;
    put_records(&batch, &now, 1);
    assert_int_equal(judge(), RECORD_INVALID);
    assert_int_equal(judge_len(batch.len - 1), RECORD_FINE);
}

static void test_size_is_bounded_to_the_byte(void **state)
{
    rules.message_bytes_max = (int32_t)batch.len;
    assert_int_equal(judge(), RECORD_FINE);
    rules.message_bytes_max--;
    assert_int_equal(judge(), RECORD_TOO_LARGE);
}

static void test_each_refused_record_is_named(void **state)
{
    struct errmsg m;
    rules.before_max_ms = 8;
    assert_int_equal(judge(), RECORD_INVALID_TIMESTAMP);
    assert_int_equal(verdict.error_count, 1);
    assert_int_equal(verdict.errors[0].index, 0);
    assert_int_equal(verdict.errors[0].kind, RECORD_ERROR_TIMESTAMP);
    record_error_text(&verdict.errors[0], &rules, &m);
    assert_non_null(strstr(m.text, "1700000399990"));
    rules.before_max_ms = 6;
    assert_int_equal(judge(), RECORD_INVALID_TIMESTAMP);
    assert_int_equal(verdict.error_count, 2);
    assert_int_equal(verdict.errors[1].index, 2);

    rules = record_rules_default(NOW - 8);
    rules.after_max_ms = 1;
    assert_int_equal(judge(), RECORD_INVALID_TIMESTAMP);
    assert_int_equal(verdict.error_count, 1);
    assert_int_equal(verdict.errors[0].index, 1);

    /* No timestamp at all is none too old. */
    static const int64_t none[COUNT] = {-1, -1, -1};
    rules = record_rules_default(NOW);
    rules.before_max_ms = 1;
    buf_reset(&batch);
    put_records(&batch, none, COUNT);
    assert_int_equal(judge(), RECORD_FINE);
}

static void test_a_compacted_topic_needs_keys(void **state)
{
    struct errmsg m;
    rules.keys_required = true;
    assert_int_equal(judge(), RECORD_FINE);
    struct batch_builder b;
    batch_builder_init(&b, 1 << 20);
    for (int i = 0; i < 6; i++) {
        struct record r = {.timestamp = i == 4 ? NOW + 9999999 : NOW,
                           .key = i % 2 ? slice_str(i == 3 ? "" : "k") : slice_make(NULL, 0)};
        assert_int_equal(batch_add(&b, &r), OK);
    }
    buf_reset(&batch);
    buf_put(&batch, batch_finish(&b).data, b.buf.len);
    batch_builder_fini(&b);
    /* A record without a key is no more than that, also when its timestamp is bad. */
    assert_int_equal(judge(), RECORD_INVALID);
    assert_int_equal(verdict.error_count, 3);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(verdict.errors[i].index, 2 * i);
        assert_int_equal(verdict.errors[i].kind, RECORD_ERROR_NO_KEY);
    }
    record_error_text(&verdict.errors[0], &rules, &m);
    assert_non_null(strstr(m.text, "key"));
    /* Without the end there are no errors of records, only that it is missing. */
    be32_put(batch.data + 57, 7);
    be32_put(batch.data + 23, 6);
    assert_int_equal(judge_sealed(), RECORD_INVALID);
    assert_int_equal(verdict.error_count, 0);
    assert_null(verdict.errors);
}

static void test_append_time_is_set_without_touching_records(void **state)
{
    for (int codec = BATCH_CODEC_NONE; codec <= BATCH_CODEC_ZSTD; codec++) {
        put_good((enum batch_codec)codec);
        struct buf before;
        buf_init(&before, 1 << 20);
        buf_put(&before, batch.data, batch.len);
        rules.append_time = true;
        rules.now_ms = NOW + 77;
        assert_int_equal(record_validate(&validator, batch.data, batch.len, &rules, &verdict),
                         RECORD_FINE);
        assert_int_equal(verdict.append_time, NOW + 77);
        assert_int_equal(verdict.h.max_timestamp, NOW + 77);
        assert_int_equal(verdict.h.attributes, codec | BATCH_TIMESTAMP_APPEND);
        struct errmsg m;
        assert_int_equal(batch_check(slice_make(verdict.batch, verdict.batch_len), &m), OK);
        assert_memory_equal(batch.data + BATCH_HEADER_BYTES, before.data + BATCH_HEADER_BYTES,
                            batch.len - BATCH_HEADER_BYTES);
        assert_int_equal(be64_get(batch.data + 27), be64_get(before.data + 27));
        buf_fini(&before);
        /* It is the server's to set: the same batch again is refused, record by record. */
        assert_int_equal(judge(), RECORD_INVALID_TIMESTAMP);
        assert_int_equal(verdict.error_count, COUNT);
        assert_int_equal(verdict.errors[2].kind, RECORD_ERROR_TIMESTAMP_TYPE);
        rules = record_rules_default(NOW);
    }
}

static void test_a_false_max_timestamp_is_corrected(void **state)
{
    be64_put(batch.data + 35, NOW + 100000000);
    assert_int_equal(judge_sealed(), RECORD_FINE);
    assert_int_equal(verdict.h.max_timestamp, NOW - 5);
    /* Attributes that mean nothing, and the cleaner's own. */
    put_good(BATCH_CODEC_NONE);
    batch.data[21] = 0x55;
    batch.data[22] |= BATCH_DELETE_HORIZON;
    assert_int_equal(judge_sealed(), RECORD_FINE);
    assert_int_equal(verdict.h.attributes, 0);
}

struct expectation {
    int64_t base;
    int count;
};

static bool expect_good(void *arg, const struct record *r)
{
    static const int64_t timestamps[COUNT] = {NOW - 10, NOW - 5, NOW - 7};
    struct expectation *x = arg;
    assert_int_equal(r->offset, x->count);
    assert_int_equal(r->timestamp, timestamps[x->count]);
    assert_true(slice_eq(r->key, slice_str(keys[x->count])));
    x->count++;
    return true;
}

static void test_a_topic_with_a_codec_gets_its_batches_in_it(void **state)
{
    for (int from = BATCH_CODEC_NONE; from <= BATCH_CODEC_ZSTD; from++) {
        for (int to = BATCH_CODEC_NONE; to <= BATCH_CODEC_ZSTD; to++) {
            put_good((enum batch_codec)from);
            batch.data[22] |= BATCH_TRANSACTIONAL;
            be64_put(batch.data + 43, 4711);
            be16_put(batch.data + 51, 3);
            be32_put(batch.data + 53, 12);
            seal(batch.data, batch.len);
            rules.codec = (int8_t)to;
            rules.level = to % 2 ? BATCH_LEVEL_DEFAULT : 100; /* brought into what there is */
            assert_int_equal(record_validate(&validator, batch.data, batch.len, &rules, &verdict),
                             RECORD_FINE);
            assert_int_equal(verdict.batch == batch.data, from == to);
            struct slice ready = slice_make(verdict.batch, verdict.batch_len);
            struct batch_header h;
            struct errmsg m = {""};
            struct expectation x = {0};
            assert_int_equal(batch_check(ready, &m), OK);
            assert_int_equal(batch_walk(ready, 1 << 20, expect_good, &x, &m), OK);
            assert_int_equal(x.count, COUNT);
            assert_int_equal(batch_read_header(ready, &h), OK);
            assert_int_equal(h.attributes, to | BATCH_TRANSACTIONAL);
            assert_int_equal(h.producer_id, 4711);
            assert_int_equal(h.producer_epoch, 3);
            assert_int_equal(h.base_sequence, 12);
            assert_int_equal(h.max_timestamp, NOW - 5);
            assert_int_equal(verdict.h.crc, h.crc);
        }
    }
    /* It may not grow over the limit by that. */
    put_good(BATCH_CODEC_ZSTD);
    rules.codec = BATCH_CODEC_NONE;
    rules.message_bytes_max = (int32_t)batch.len;
    assert_int_equal(judge(), RECORD_TOO_LARGE);
}

static void test_zip_bombs_get_no_more_than_their_bound(void **state)
{
    struct buf zeros;
    buf_init(&zeros, 8 << 20);
    uint8_t *p = buf_reserve(&zeros, 8 << 20);
    memset(p, 0, 8 << 20);
    zeros.len = 8 << 20;
    for (int codec = BATCH_CODEC_GZIP; codec <= BATCH_CODEC_ZSTD; codec++) {
        struct buf packed;
        buf_init(&packed, 16 << 20);
        put_compressed(&packed, (enum batch_codec)codec, buf_slice(&zeros));
        buf_reset(&batch);
        put_batch(&batch, (enum batch_codec)codec, 1, buf_slice(&packed));
        assert_int_equal(judge(), RECORD_TOO_LARGE);
        assert_true(validator.plain.cap <= 1 << 20);
        assert_non_null(strstr(verdict.why.text, "1048576"));
        buf_fini(&packed);
    }
    buf_fini(&zeros);
}

static void test_what_consumers_cannot_read_is_refused(void **state)
{
    for (int codec = BATCH_CODEC_GZIP; codec <= BATCH_CODEC_ZSTD; codec++) {
        /* Cut off, with more behind it, and not what it says. */
        put_good((enum batch_codec)codec);
        batch.len -= 3;
        assert_int_equal(judge_sealed(), RECORD_INVALID);
        put_good((enum batch_codec)codec);
        buf_put(&batch, "more", 4);
        assert_int_equal(judge_sealed(), RECORD_INVALID);
        put_good(BATCH_CODEC_NONE);
        batch.data[22] |= (uint8_t)codec;
        assert_int_equal(judge_sealed(), RECORD_INVALID);
    }
    /* liblz4's default links the blocks of a frame. */
    put_good(BATCH_CODEC_LZ4);
    assert_true(batch.data[BATCH_HEADER_BYTES + 4] & 0x20);
    struct buf linked;
    buf_init(&linked, 1 << 20);
    LZ4F_preferences_t how = {.frameInfo = {.blockMode = LZ4F_blockLinked,
                                            .contentSize = 1 << 17}};
    static uint8_t big[1 << 17];
    size_t room = LZ4F_compressFrameBound(sizeof big, &how);
    linked.len = LZ4F_compressFrame(buf_reserve(&linked, room), room, big, sizeof big, &how);
    buf_reset(&batch);
    put_batch(&batch, BATCH_CODEC_LZ4, 1, buf_slice(&linked));
    assert_int_equal(judge(), RECORD_INVALID);
    assert_non_null(strstr(verdict.why.text, "independent"));
    buf_fini(&linked);
}

static void test_zstd_needs_a_produce_request_that_knows_it(void **state)
{
    put_good(BATCH_CODEC_ZSTD);
    rules.produce_version = 6;
    assert_int_equal(judge(), RECORD_UNSUPPORTED_CODEC);
    rules.produce_version = 7;
    assert_int_equal(judge(), RECORD_FINE);
}

static bool count_headers(void *arg, const struct batch_header *h, const struct raw_record *r)
{
    *(int *)arg += r->header_count;
    return true;
}

static void test_a_record_may_have_any_number_of_headers(void **state)
{
    enum { HEADERS = 5000 };
    struct buf plain;
    buf_init(&plain, 1 << 20);
    buf_put_varint(&plain, 5 + 2 + 2 * HEADERS); /* attributes, deltas, nulls; count; headers */
    buf_put(&plain, "\0\0\0\1\1", 5);
    buf_put_varint(&plain, HEADERS);
    for (int i = 0; i < HEADERS; i++) {
        buf_put(&plain, "\0\1", 2); /* an empty key, a null */
    }
    rules.before_max_ms = INT64_MAX;
    buf_reset(&batch);
    put_batch(&batch, BATCH_CODEC_NONE, 1, buf_slice(&plain));
    assert_int_equal(judge(), RECORD_FINE);
    /* Lookups read it, too; only who wants to see each header has a limit. */
    int seen = 0;
    struct errmsg m;
    assert_int_equal(batch_scan(buf_slice(&batch), 0, count_headers, &seen, &m), OK);
    assert_int_equal(seen, HEADERS);
    assert_int_equal(batch_walk(buf_slice(&batch), 0, expect_good, NULL, &m), ERR_TOO_LARGE);
    batch.data[batch.len - 2] = 1; /* a null as a key */
    assert_int_equal(judge_sealed(), RECORD_INVALID);
    buf_fini(&plain);
}

static void test_offsets_of_records_count_from_zero(void **state)
{
    for (int codec = BATCH_CODEC_NONE; codec <= BATCH_CODEC_ZSTD; codec++) {
        put_good(BATCH_CODEC_NONE);
        assert_int_equal(batch.data[BATCH_HEADER_BYTES + 3], 0);
        batch.data[BATCH_HEADER_BYTES + 3] = 4; /* the first is at 2 */
        if (codec != BATCH_CODEC_NONE) {
            pack(&batch, (enum batch_codec)codec);
        }
        assert_int_equal(judge_sealed(), RECORD_INVALID);
        assert_non_null(strstr(verdict.why.text, "offset delta"));
    }
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_a_good_batch_is_taken_as_it_is_in_every_codec),
        T(test_lies_of_the_header_are_refused),
        T(test_a_request_holds_one_whole_batch),
        T(test_size_is_bounded_to_the_byte),
        T(test_each_refused_record_is_named),
        T(test_a_compacted_topic_needs_keys),
        T(test_append_time_is_set_without_touching_records),
        T(test_a_false_max_timestamp_is_corrected),
        T(test_a_topic_with_a_codec_gets_its_batches_in_it),
        T(test_zip_bombs_get_no_more_than_their_bound),
        T(test_what_consumers_cannot_read_is_refused),
        T(test_zstd_needs_a_produce_request_that_knows_it),
        T(test_a_record_may_have_any_number_of_headers),
        T(test_offsets_of_records_count_from_zero),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
