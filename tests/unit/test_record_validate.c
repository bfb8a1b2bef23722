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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_good_batch_is_taken_as_it_is_in_every_codec, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_lies_of_the_header_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_request_holds_one_whole_batch, setup, teardown),
        cmocka_unit_test_setup_teardown(test_size_is_bounded_to_the_byte, setup, teardown),
        cmocka_unit_test_setup_teardown(test_each_refused_record_is_named, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
