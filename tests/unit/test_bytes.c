/* Numbers, varints, the sticky reader, UUIDs and the checksum. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "shared/base/bytes.h"
#include "shared/base/clock.h"
#include "shared/base/err.h"

static void test_big_endian_numbers_have_the_wire_order(void **state)
{
    uint8_t b[8];
    be64_put(b, 0x0102030405060708ull);
    assert_memory_equal(b, "\1\2\3\4\5\6\7\10", 8);
    assert_int_equal(be64_get(b), 0x0102030405060708ull);
    be32_put(b, 0xfffefdfcu);
    assert_memory_equal(b, "\377\376\375\374", 4);
    assert_int_equal(be32_get(b), 0xfffefdfcu);
    be16_put(b, 0x8001);
    assert_memory_equal(b, "\200\1", 2);
    assert_int_equal(be16_get(b), 0x8001);
}

static void test_slices_compare_by_content(void **state)
{
    assert_true(slice_eq(slice_str("abc"), slice_make("abcd", 3)));
    assert_false(slice_eq(slice_str("abc"), slice_str("abd")));
    assert_false(slice_eq(slice_str("abc"), slice_str("ab")));
    assert_true(slice_eq(slice_str(NULL), slice_str("")));
}

/* Values at each border of a byte more, and their neighbours. */
static void test_varints_survive_a_round_trip_at_every_length(void **state)
{
    for (int bit = 0; bit < 64; bit++) {
        for (int near = -1; near <= 1; near++) {
            uint64_t v = ((uint64_t)1 << bit) + (uint64_t)(int64_t)near;
            uint8_t b[VARINT_BYTES_MAX];
            size_t n = uvarint_put(b, v);
            assert_int_equal(n, uvarint_size(v));
            struct reader r = reader_make(slice_make(b, n));
            assert_true(reader_uvarint64(&r) == v);
            assert_false(r.failed);
            assert_int_equal(reader_left(&r), 0);

            int64_t s = (int64_t)v;
            n = varint_put(b, s);
            assert_int_equal(n, varint_size(s));
            r = reader_make(slice_make(b, n));
            assert_true(reader_varint64(&r) == s);
            assert_false(r.failed);

            r = reader_make(slice_make(b, n));
            int32_t small = reader_varint32(&r);
            assert_int_equal(r.failed, s < INT32_MIN || s > INT32_MAX);
            assert_int_equal(small, r.failed ? 0 : s);
        }
    }
}

static void test_zigzag_bytes_are_those_of_kafka(void **state)
{
    static const struct {
        int64_t value;
        const char *bytes;
        size_t len;
    } rows[] = {
        {0, "\0", 1},
        {-1, "\1", 1},
        {1, "\2", 1},
        {-64, "\177", 1},
        {64, "\200\1", 2},
        {300, "\330\4", 2},
        {INT32_MIN, "\377\377\377\377\17", 5},
        {INT32_MAX, "\376\377\377\377\17", 5},
        {INT64_MIN, "\377\377\377\377\377\377\377\377\377\1", 10},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        uint8_t b[VARINT_BYTES_MAX];
        assert_int_equal(varint_put(b, rows[i].value), rows[i].len);
        assert_memory_equal(b, rows[i].bytes, rows[i].len);
    }
}

static bool fails_as_uvarint32(const char *bytes, size_t n)
{
    struct reader r = reader_make(slice_make(bytes, n));
    uint32_t v = reader_uvarint32(&r);
    assert_true(!r.failed || v == 0);
    return r.failed;
}

static bool fails_as_uvarint64(const char *bytes, size_t n)
{
    struct reader r = reader_make(slice_make(bytes, n));
    uint64_t v = reader_uvarint64(&r);
    assert_true(!r.failed || v == 0);
    return r.failed;
}

static void test_varints_that_are_too_long_or_too_wide_are_refused(void **state)
{
    assert_false(fails_as_uvarint32("\377\377\377\377\17", 5));
    assert_true(fails_as_uvarint32("\377\377\377\377\20", 5));    /* bit 32 */
    assert_true(fails_as_uvarint32("\200\200\200\200\200\0", 6)); /* six bytes */
    assert_true(fails_as_uvarint32("\377\377", 2));               /* ends early */
    assert_true(fails_as_uvarint32("", 0));
    assert_false(fails_as_uvarint64("\377\377\377\377\377\377\377\377\377\1", 10));
    assert_true(fails_as_uvarint64("\377\377\377\377\377\377\377\377\377\2", 10)); /* bit 64 */
    assert_true(fails_as_uvarint64("\377\377\377\377\377\377\377\377\377\377\1", 11));
    assert_false(fails_as_uvarint32("\200\0", 2)); /* padded, as Kafka accepts it */
}

static void test_reader_stops_at_the_first_failure(void **state)
{
    struct reader r = reader_make(slice_make("\1\2\3\4\5", 5));
    assert_int_equal(reader_be16(&r), 0x0102);
    assert_int_equal(reader_be32(&r), 0);
    assert_true(r.failed);
    assert_int_equal(reader_u8(&r), 0); /* three bytes are left, but the reader has failed */
    assert_int_equal(reader_left(&r), 3);
    assert_int_equal(reader_be64(&r), 0);
    assert_null(reader_bytes(&r, 1).data);
}

static void test_reader_lends_bytes_within_its_bounds(void **state)
{
    const char *text = "abcdef";
    struct reader r = reader_make(slice_str(text));
    struct slice s = reader_bytes(&r, 4);
    assert_ptr_equal(s.data, text);
    assert_int_equal(s.len, 4);
    s = reader_bytes(&r, 0);
    assert_non_null(s.data);
    assert_false(r.failed);
    s = reader_bytes(&r, SIZE_MAX);
    assert_null(s.data);
    assert_int_equal(s.len, 0);
    assert_true(r.failed);

    r = reader_make(slice_make(NULL, 0));
    assert_int_equal(reader_left(&r), 0);
    assert_int_equal(reader_u8(&r), 0);
    assert_true(r.failed);
}

static void test_uuid_text_is_unpadded_base64url(void **state)
{
    struct uuid u = {{0}};
    char text[UUID_TEXT_BYTES];
    uuid_to_text(&u, text);
    assert_string_equal(text, "AAAAAAAAAAAAAAAAAAAAAA");
    assert_true(uuid_is_zero(&u));
    u.b[15] = 1; /* the id of Kafka's metadata topic */
    uuid_to_text(&u, text);
    assert_string_equal(text, "AAAAAAAAAAAAAAAAAAAAAQ");
    assert_false(uuid_is_zero(&u));
    memset(u.b, 0xff, sizeof u.b);
    uuid_to_text(&u, text);
    assert_string_equal(text, "_____________________w");
    for (size_t i = 0; i < sizeof u.b; i++) {
        u.b[i] = (uint8_t)(0xf8 + i);
    }
    uuid_to_text(&u, text);
    assert_string_equal(text, "-Pn6-_z9_v8AAQIDBAUGBw");
}

static void test_random_uuids_differ_and_never_begin_with_a_dash(void **state)
{
    struct uuid before = {{0}};
    for (int i = 0; i < 20000; i++) {
        struct uuid u = uuid_random();
        char text[UUID_TEXT_BYTES];
        uuid_to_text(&u, text);
        assert_int_not_equal(text[0], '-');
        assert_int_equal(u.b[6] >> 4, 4);
        assert_memory_not_equal(u.b, before.b, sizeof u.b);
        before = u;
    }
}

static void test_crc32c_has_the_published_values(void **state)
{
    static const uint8_t zeros[32];
    uint8_t ones[32], rising[32];
    memset(ones, 0xff, sizeof ones);
    for (size_t i = 0; i < sizeof rising; i++) {
        rising[i] = (uint8_t)i;
    }
    assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283u);
    assert_int_equal(crc32c(0, "", 0), 0);
    assert_int_equal(crc32c(0, zeros, 32), 0x8a9136aau); /* RFC 3720, B.4 */
    assert_int_equal(crc32c(0, ones, 32), 0x62a8ab43u);
    assert_int_equal(crc32c(0, rising, 32), 0x46dd794eu);
}

/* Bit by bit, as the polynomial says. */
static uint32_t crc32c_by_bits(const uint8_t *p, size_t len)
{
    uint32_t c = UINT32_MAX;
    for (size_t i = 0; i < len; i++) {
        c ^= p[i];
        for (int bit = 0; bit < 8; bit++) {
            c = c >> 1 ^ (c & 1 ? 0x82f63b78u : 0);
        }
    }
    return ~c;
}

static void test_crc32c_is_the_same_for_each_length_and_alignment(void **state)
{
    uint8_t data[1200];
    for (size_t i = 0; i < sizeof data; i++) {
        data[i] = (uint8_t)(i * 131 + (i >> 3));
    }
    for (size_t len = 0; len < 1100; len++) {
        const uint8_t *p = data + len % 9;
        assert_int_equal(crc32c(0, p, len), crc32c_by_bits(p, len));
    }
}

static void test_crc32c_copies_what_it_sums(void **state)
{
    uint8_t data[1200], to[1200];
    random_bytes(data, sizeof data);
    for (size_t len = 0; len < 1100; len++) {
        const uint8_t *p = data + len % 9;
        uint8_t *q = to + len % 7;
        memset(to, 0xa5, sizeof to);
        const struct slice parts[] = {
            slice_make(p, len / 3), slice_make(NULL, 0), slice_make(p + len / 3, len - len / 3)};
        assert_int_equal(crc32c_gather(7, q, parts, 3), crc32c(7, p, len));
        assert_memory_equal(q, p, len);
        assert_true(q[len] == 0xa5 && (q == to || q[-1] == 0xa5));
    }
}

static void test_crc32c_goes_on_from_any_cut(void **state)
{
    uint8_t data[1000];
    random_bytes(data, sizeof data);
    uint32_t whole = crc32c(0, data, sizeof data);
    for (size_t cut = 0; cut <= sizeof data; cut++) {
        assert_int_equal(crc32c(crc32c(0, data, cut), data + cut, sizeof data - cut), whole);
    }
}

static void test_error_names_and_messages(void **state)
{
    struct errmsg m;
    assert_string_equal(err_name(OK), "OK");
    assert_string_equal(err_name(ERR_CLOSED), "ERR_CLOSED");
    assert_string_equal(err_name((enum err)99), "ERR_UNKNOWN");
    assert_int_equal(err_set(&m, ERR_FULL, "%s has %d bytes left", "/x", 7), ERR_FULL);
    assert_string_equal(m.text, "/x has 7 bytes left");
    assert_int_equal(err_set(NULL, ERR_IO, "nobody reads this"), ERR_IO);
}

static int64_t fixed_time(void)
{
    return 1234567;
}

static void test_error_messages_are_utf8_however_they_are_cut(void **state)
{
    struct errmsg m;
    err_set(&m, ERR_INVALID, "%.3s, %.4s", "a\u00e4\u00e4", "\u20ac\u20ac");
    assert_string_equal(m.text, "a\u00e4, \u20ac?");
    err_set(&m, ERR_INVALID, "%.4s: is none", "a\u00e4\u00e4");
    assert_string_equal(m.text, "a\u00e4?: is none");
    err_set(&m, ERR_INVALID, "\xff\xc0\x80\xed\xa0\x80 \U0001f600");
    assert_string_equal(m.text, "?????? \U0001f600");
    char full[2 * sizeof m.text];
    memset(full, 'x', sizeof full);
    full[sizeof full - 1] = '\0';
    memcpy(full + sizeof m.text - 2, "\u00e4", 2);
    err_set(&m, ERR_INVALID, "%s", full);
    assert_int_equal(strlen(m.text), sizeof m.text - 1);
    assert_string_equal(m.text + sizeof m.text - 3, "x?");
}

static void test_clock_takes_its_time_from_a_test(void **state)
{
    clock_set_source(fixed_time, fixed_time);
    assert_int_equal(clock_wall_ms(), 1234567);
    assert_int_equal(clock_mono_ms(), 1234);
    clock_set_source(NULL, NULL);
    assert_true(clock_wall_ms() > 1600000000000);
    int64_t a = clock_mono_us();
    assert_true(clock_mono_us() >= a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_big_endian_numbers_have_the_wire_order),
        cmocka_unit_test(test_slices_compare_by_content),
        cmocka_unit_test(test_varints_survive_a_round_trip_at_every_length),
        cmocka_unit_test(test_zigzag_bytes_are_those_of_kafka),
        cmocka_unit_test(test_varints_that_are_too_long_or_too_wide_are_refused),
        cmocka_unit_test(test_reader_stops_at_the_first_failure),
        cmocka_unit_test(test_reader_lends_bytes_within_its_bounds),
        cmocka_unit_test(test_uuid_text_is_unpadded_base64url),
        cmocka_unit_test(test_random_uuids_differ_and_never_begin_with_a_dash),
        cmocka_unit_test(test_crc32c_has_the_published_values),
        cmocka_unit_test(test_crc32c_is_the_same_for_each_length_and_alignment),
        cmocka_unit_test(test_crc32c_copies_what_it_sums),
        cmocka_unit_test(test_crc32c_goes_on_from_any_cut),
        cmocka_unit_test(test_error_names_and_messages),
        cmocka_unit_test(test_error_messages_are_utf8_however_they_are_cut),
        cmocka_unit_test(test_clock_takes_its_time_from_a_test),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
