/* Transaction markers and batches with fewer records: Kafka's bytes (written by the classes of
 * kafka-clients 4.1), and what a log needs of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "shared/record/control.h"
#include "shared/record/rewrite.h"
#include "tests/unit/record_help.h"

#define TIME 1700000000123

/* MemoryRecords.withEndTransactionMarker(TIME, 4711, 3, …): commit of coordinator epoch 7; abort of
 * producer Long.MAX_VALUE, epoch Short.MAX_VALUE, coordinator epoch -1. */
static const char golden_commit[] =
    "000000000000000000000042ffffffff02ed0e0fdf0030000000000000018bcfe5687b0000018b"
    "cfe5687b00000000000012670003ffffffff000000012000000008000000010c00000000000700";
static const char golden_abort[] =
    "000000000000000000000042ffffffff025eca205b0030000000000000018bcfe5687b0000018b"
    "cfe5687b7fffffffffffffff7fffffffffff000000012000000008000000000c0000ffffffff00";

static void assert_hex(const uint8_t *bytes, size_t len, const char *hex)
{
    struct buf b;
    buf_init(&b, 4096);
    put_hex(&b, hex);
    assert_int_equal(b.len, len);
    assert_memory_equal(b.data, bytes, len);
    buf_fini(&b);
}

static void test_markers_are_kafkas_to_the_byte(void **state)
{
    struct txn_marker t = {4711, 3, true, 7, TIME}, again;
    struct errmsg m = {""};
    uint8_t batch[TXN_MARKER_BYTES];
    txn_marker_write(&t, batch);
    assert_hex(batch, sizeof batch, golden_commit);
    assert_int_equal(txn_marker_read(slice_make(batch, sizeof batch), &again, &m), OK);
    assert_memory_equal(&again.producer_id, &t.producer_id, sizeof t.producer_id);
    assert_true(again.commit && again.producer_epoch == 3 && again.coordinator_epoch == 7 &&
                again.timestamp == TIME);

    t = (struct txn_marker){INT64_MAX, INT16_MAX, false, -1, TIME};
    txn_marker_write(&t, batch);
    assert_hex(batch, sizeof batch, golden_abort);
    assert_int_equal(txn_marker_read(slice_make(batch, sizeof batch), &again, &m), OK);
    assert_true(!again.commit && again.producer_id == INT64_MAX && again.coordinator_epoch == -1);
    assert_int_equal(batch_check(slice_make(batch, sizeof batch), &m), OK);
}

static void test_what_is_no_marker_is_not_read_as_one(void **state)
{
    struct txn_marker t = {4711, 3, true, 7, TIME}, again;
    struct errmsg m = {""};
    uint8_t batch[TXN_MARKER_BYTES];
    struct buf b;
    buf_init(&b, 4096);
    put_hex(&b, golden_none);
    assert_int_equal(txn_marker_read(buf_slice(&b), &again, &m), ERR_NOT_FOUND);
    buf_fini(&b);

    txn_marker_write(&t, batch);
    batch[69] = 2; /* a leader change */
    assert_int_equal(txn_marker_read(slice_make(batch, sizeof batch), &again, &m), ERR_NOT_FOUND);
    txn_marker_write(&t, batch);
    batch[66] = 0x80; /* the key's version */
    assert_int_equal(txn_marker_read(slice_make(batch, sizeof batch), &again, &m), ERR_CORRUPT);
    for (size_t n = 0; n < TXN_MARKER_BYTES; n++) {
        txn_marker_write(&t, batch);
        be32_put(batch + 8, (uint32_t)n);
        assert_int_not_equal(txn_marker_read(slice_make(batch, n), &again, &m), OK);
    }
}

/* --- filter ----------------------------------------------------------------------------------- */

#define RECORDS 10

static struct buf batch;

/* Ten records at 500 … 509 with keys 0 … 9, of an idempotent producer; the last is a tombstone. */
static void make(enum batch_codec codec)
{
    struct batch_builder b;
    batch_builder_init(&b, 1 << 16);
    for (int i = 0; i < RECORDS; i++) {
        char key[] = {(char)('0' + i), 0};
        struct record r = {.timestamp = TIME + i % 5,
                           .key = slice_str(key),
                           .value = i == 9 ? slice_make(NULL, 0) : slice_str("some value")};
        assert_int_equal(batch_add(&b, &r), OK);
    }
    struct slice built = batch_finish(&b);
    struct batch_header h;
    assert_int_equal(batch_read_header(built, &h), OK);
    h.base_offset = 500;
    h.leader_epoch = 2;
    h.attributes = BATCH_TRANSACTIONAL | (int16_t)codec;
    h.producer_id = 4711;
    h.producer_epoch = 3;
    h.base_sequence = 77;
    buf_reset(&batch);
    buf_put(&batch, built.data, BATCH_HEADER_BYTES);
    put_compressed(&batch, codec,
                   slice_make(built.data + BATCH_HEADER_BYTES, built.len - BATCH_HEADER_BYTES));
    batch_seal(batch.data, batch.len, &h);
    batch_builder_fini(&b);
}

static bool keep_listed(void *arg, const struct batch_header *h, const struct raw_record *r)
{
    assert_int_equal(h->base_offset, 500);
    assert_int_equal(r->key.data[0] - '0', r->offset_delta);
    return strchr(arg, r->key.data[0]) != NULL;
}

/* What of the batch is left with these keys. */
static struct batch_filtered filter(const char *keys, int64_t horizon, struct buf *out)
{
    struct batch_filter f = {keep_listed, (void *)(uintptr_t)keys, 1 << 16, horizon, false};
    struct batch_filtered r;
    struct errmsg m = {""};
    buf_init(out, 1 << 16);
    assert_int_equal(batch_filter(buf_slice(&batch), &f, out, &r, &m), OK);
    assert_int_equal(r.seen, RECORDS);
    assert_int_equal(r.kept, strlen(keys));
    if (!r.same) {
        struct batch_header h;
        assert_int_equal(batch_check(buf_slice(out), &m), OK);
        assert_int_equal(batch_read_header(buf_slice(out), &h), OK);
        assert_int_equal(h.base_offset, 500);
        assert_int_equal(h.last_offset_delta, RECORDS - 1);
        assert_int_equal(h.leader_epoch, 2);
        assert_int_equal(h.producer_id, 4711);
        assert_int_equal(h.producer_epoch, 3);
        assert_int_equal(h.base_sequence, 77);
        assert_int_equal(h.record_count, r.kept);
        assert_int_equal(h.crc, r.h.crc);
        assert_int_equal(h.attributes, r.h.attributes);
        assert_true(h.attributes & BATCH_TRANSACTIONAL);
    } else {
        assert_int_equal(out->len, 0);
    }
    return r;
}

struct walked {
    const char *keys;
    size_t seen;
};

static bool see(void *arg, const struct record *r)
{
    struct walked *w = arg;
    int i = w->keys[w->seen++] - '0';
    assert_int_equal(r->offset, 500 + i);
    assert_int_equal(r->timestamp, TIME + i % 5);
    assert_int_equal(r->key.data[0], '0' + i);
    assert_int_equal(r->value.len, i == 9 ? 0 : 10);
    return true;
}

static void test_a_filtered_batch_keeps_its_place_and_its_producer(void **state)
{
    static const char *const subsets[] = {"0", "9", "37", "012345678", "123456789", "02468"};
    buf_init(&batch, 1 << 16);
    for (int codec = BATCH_CODEC_NONE; codec <= BATCH_CODEC_ZSTD; codec++) {
        make((enum batch_codec)codec);
        for (size_t i = 0; i < sizeof subsets / sizeof subsets[0]; i++) {
            struct buf out;
            struct batch_filtered r = filter(subsets[i], -1, &out);
            struct errmsg m = {""};
            struct walked w = {subsets[i], 0};
            assert_false(r.same);
            assert_int_equal(r.h.attributes & BATCH_CODEC_MASK, codec);
            assert_int_equal(batch_walk(buf_slice(&out), 1 << 16, see, &w, &m), OK);
            assert_int_equal(w.seen, strlen(subsets[i]));
            buf_fini(&out);
        }
        struct buf out;
        assert_true(filter("0123456789", -1, &out).same);
        buf_fini(&out);
    }
    buf_fini(&batch);
}

static void test_a_batch_of_nothing_is_a_header(void **state)
{
    buf_init(&batch, 1 << 16);
    make(BATCH_CODEC_ZSTD);
    struct buf out, again;
    struct batch_filtered r = filter("", TIME, &out);
    assert_int_equal(out.len, BATCH_HEADER_BYTES);
    assert_int_equal(r.h.attributes, BATCH_TRANSACTIONAL);
    assert_int_equal(r.h.base_timestamp, -1);
    assert_int_equal(r.h.max_timestamp, TIME + 4);
    /* And stays what it is. */
    struct batch_filter f = {keep_listed, "", 1 << 16, TIME, true};
    struct errmsg m = {""};
    buf_init(&again, 1 << 16);
    assert_int_equal(batch_filter(buf_slice(&out), &f, &again, &r, &m), OK);
    assert_true(r.same && r.seen == 0 && again.len == 0);
    buf_fini(&again);
    buf_fini(&out);
    buf_fini(&batch);
}

static void test_tombstones_are_told_once_when_they_may_go(void **state)
{
    buf_init(&batch, 1 << 16);
    make(BATCH_CODEC_NONE);
    struct buf out;
    struct batch_filtered r = filter("012345678", TIME + 1000, &out); /* none of them */
    assert_int_equal(r.h.attributes & BATCH_DELETE_HORIZON, 0);
    buf_fini(&out);

    r = filter("0123456789", TIME + 1000, &out); /* all, but now it is marked */
    assert_false(r.same);
    assert_true(r.h.attributes & BATCH_DELETE_HORIZON);
    assert_int_equal(r.h.base_timestamp, TIME + 1000);
    buf_reset(&batch);
    buf_put(&batch, out.data, out.len);
    buf_fini(&out);

    assert_true(filter("0123456789", TIME + 5000, &out).same);
    buf_fini(&out);
    r = filter("59", TIME + 5000, &out);
    assert_int_equal(r.h.base_timestamp, TIME + 1000);
    struct errmsg m = {""};
    struct walked w = {"59", 0};
    assert_int_equal(batch_walk(buf_slice(&out), 1 << 16, see, &w, &m), OK);
    buf_fini(&out);
    buf_fini(&batch);
}

static void test_a_spoiled_batch_is_not_filtered(void **state)
{
    buf_init(&batch, 1 << 16);
    make(BATCH_CODEC_NONE);
    struct batch_filter f = {keep_listed, "0", 1 << 16, -1, false};
    struct batch_filtered r;
    struct errmsg m = {""};
    struct buf out;
    buf_init(&out, 1 << 16);
    buf_put(&out, "before", 6);
    batch.data[batch.len - 1] = 7; /* headers that are not there */
    assert_int_equal(batch_filter(buf_slice(&batch), &f, &out, &r, &m), ERR_CORRUPT);
    assert_int_equal(out.len, 6);
    make(BATCH_CODEC_GZIP);
    f.plain_bytes_max = 100;
    assert_int_equal(batch_filter(buf_slice(&batch), &f, &out, &r, &m), ERR_TOO_LARGE);
    assert_int_equal(out.len, 6);
    buf_fini(&out);
    buf_fini(&batch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_markers_are_kafkas_to_the_byte),
        cmocka_unit_test(test_what_is_no_marker_is_not_read_as_one),
        cmocka_unit_test(test_a_filtered_batch_keeps_its_place_and_its_producer),
        cmocka_unit_test(test_a_batch_of_nothing_is_a_header),
        cmocka_unit_test(test_tombstones_are_told_once_when_they_may_go),
        cmocka_unit_test(test_a_spoiled_batch_is_not_filtered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
