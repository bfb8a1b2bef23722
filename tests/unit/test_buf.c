/* The growable buffer and the arena: bounds, growth, and what happens at the maximum. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "shared/base/arena.h"
#include "shared/base/buf.h"

static void test_buf_keeps_what_was_put(void **state)
{
    struct buf b;
    buf_init(&b, 1 << 20);
    buf_put_u8(&b, 1);
    buf_put_be16(&b, 0x0203);
    buf_put_be32(&b, 0x04050607);
    buf_put_be64(&b, 0x08090a0b0c0d0e0full);
    assert_int_equal(b.len, 15);
    for (size_t i = 0; i < b.len; i++) {
        assert_int_equal(b.data[i], i + 1);
    }
    buf_put_uvarint(&b, 300);
    buf_put_varint(&b, -2);
    buf_put(&b, NULL, 0);
    assert_memory_equal(b.data + 15, "\254\2\3", 3);
    assert_int_equal(buf_slice(&b).len, 18);
    assert_true(buf_ok(&b));
    buf_fini(&b);
}

static void test_buf_grows_to_exactly_its_maximum(void **state)
{
    struct buf b;
    buf_init(&b, 100000);
    for (size_t i = 0; i < 100000; i++) {
        buf_put_u8(&b, (uint8_t)(i * 7));
    }
    assert_true(buf_ok(&b));
    assert_int_equal(b.len, 100000);
    for (size_t i = 0; i < b.len; i++) {
        assert_int_equal(b.data[i], (uint8_t)(i * 7));
    }
    buf_put_u8(&b, 1);
    assert_false(buf_ok(&b));
    assert_int_equal(b.len, 100000);
    buf_fini(&b);
}

static void test_buf_failure_is_sticky_and_changes_nothing(void **state)
{
    struct buf b;
    buf_init(&b, 10);
    buf_put(&b, "12345678", 8);
    buf_put(&b, "abc", 3);
    assert_false(buf_ok(&b));
    buf_put_u8(&b, 'x'); /* would fit, but the buffer has failed */
    buf_printf(&b, "y");
    assert_null(buf_reserve(&b, 0));
    assert_int_equal(b.len, 8);
    assert_string_equal(buf_text(&b), "");
    buf_reset(&b);
    assert_true(buf_ok(&b));
    assert_int_equal(b.len, 0);
    buf_put(&b, "1234567890", 10);
    assert_true(buf_ok(&b));
    assert_string_equal(buf_text(&b), "1234567890"); /* the NUL is not counted */
    buf_fini(&b);
}

static void test_buf_refuses_lengths_that_would_overflow(void **state)
{
    struct buf b;
    buf_init(&b, SIZE_MAX);
    buf_put_u8(&b, 1);
    assert_null(buf_reserve(&b, SIZE_MAX));
    assert_false(buf_ok(&b));
    buf_reset(&b);
    buf_put_u8(&b, 1);
    assert_null(buf_reserve(&b, SIZE_MAX - 1));
    assert_int_equal(b.len, 1);
    buf_fini(&b);
}

static void test_buf_printf_appends_within_and_beyond_its_room(void **state)
{
    struct buf b;
    buf_init(&b, 1000);
    buf_printf(&b, "%s=%d", "a", 1);
    buf_printf(&b, "%s", "");
    buf_printf(&b, " %0400d", 7);
    assert_int_equal(b.len, 404);
    assert_memory_equal(buf_text(&b), "a=1 000", 7);
    assert_int_equal(b.data[403], '7');
    buf_printf(&b, "%0596d", 1); /* to the last byte */
    assert_true(buf_ok(&b));
    assert_int_equal(b.len, 1000);
    assert_int_equal(strlen(buf_text(&b)), 1000);
    buf_printf(&b, "z");
    assert_false(buf_ok(&b));
    buf_fini(&b);

    buf_init(&b, 5); /* less than the first allocation */
    buf_printf(&b, "12345");
    assert_string_equal(buf_text(&b), "12345");
    buf_printf(&b, "6");
    assert_false(buf_ok(&b));
    assert_int_equal(b.len, 5);
    buf_fini(&b);
}

static void test_buf_trim_gives_memory_back(void **state)
{
    struct buf b;
    buf_init(&b, 1 << 20);
    assert_string_equal(buf_text(&b), "");
    assert_non_null(buf_reserve(&b, 100000));
    buf_trim(&b, 1 << 20);
    assert_true(b.cap >= 100000);
    buf_trim(&b, 1000);
    assert_true(b.cap <= 1000);
    buf_put(&b, "again", 5);
    assert_string_equal(buf_text(&b), "again");
    buf_fini(&b);
}

static void test_arena_memory_is_zeroed_aligned_and_apart(void **state)
{
    struct arena a;
    arena_init(&a, 10 << 20);
    uint8_t *before = NULL;
    for (size_t i = 0; i < 3000; i++) {
        size_t n = i % 700;
        uint8_t *p = arena_alloc(&a, n);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % _Alignof(max_align_t), 0);
        for (size_t j = 0; j < n; j++) {
            assert_int_equal(p[j], 0);
        }
        memset(p, 0xff, n);
        assert_ptr_not_equal(p, before);
        before = p;
    }
    assert_true(a.used <= a.max);
    arena_fini(&a);
    assert_int_equal(a.used, 0);
    assert_non_null(arena_alloc(&a, 1)); /* and begins anew */
    arena_fini(&a);
}

static void test_arena_takes_small_things_beside_large_ones(void **state)
{
    struct arena a;
    arena_init(&a, 1 << 20);
    char *small = arena_alloc(&a, 16);
    size_t used = a.used;
    char *large = arena_alloc(&a, 500000);
    assert_non_null(large);
    memset(large, 1, 500000);
    char *next = arena_alloc(&a, 16);
    assert_ptr_equal(next, small + 16); /* the first chunk is still in use */
    assert_true(a.used >= used + 500000);
    arena_fini(&a);
}

static void test_arena_never_passes_its_maximum(void **state)
{
    struct arena a;
    arena_init(&a, 64 << 10);
    size_t got = 0;
    while (arena_alloc(&a, 1000)) {
        got += 1000;
    }
    assert_true(a.used <= 64 << 10);
    assert_true(got > 50 << 10); /* most of it is usable */
    assert_null(arena_alloc(&a, 1 << 20));
    assert_null(arena_alloc(&a, SIZE_MAX));
    arena_fini(&a);

    arena_init(&a, 10);
    assert_null(arena_alloc(&a, 1));
    arena_fini(&a);
    arena_init(&a, SIZE_MAX);
    assert_null(arena_alloc(&a, SIZE_MAX));
    assert_null(arena_alloc(&a, SIZE_MAX - 8));
    arena_fini(&a);
}

static void test_arena_arrays_are_checked_for_overflow(void **state)
{
    struct arena a;
    arena_init(&a, 1 << 20);
    assert_non_null(arena_array(&a, 100, 24));
    assert_non_null(arena_array(&a, 0, 24));
    assert_null(arena_array(&a, SIZE_MAX / 8 + 2, 8));
    char *s = arena_strndup(&a, "hello, world", 5);
    assert_string_equal(s, "hello");
    assert_string_equal(arena_strndup(&a, NULL, 0), "");
    assert_null(arena_strndup(&a, "x", SIZE_MAX));
    arena_fini(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_buf_keeps_what_was_put),
        cmocka_unit_test(test_buf_grows_to_exactly_its_maximum),
        cmocka_unit_test(test_buf_failure_is_sticky_and_changes_nothing),
        cmocka_unit_test(test_buf_refuses_lengths_that_would_overflow),
        cmocka_unit_test(test_buf_printf_appends_within_and_beyond_its_room),
        cmocka_unit_test(test_buf_trim_gives_memory_back),
        cmocka_unit_test(test_arena_memory_is_zeroed_aligned_and_apart),
        cmocka_unit_test(test_arena_takes_small_things_beside_large_ones),
        cmocka_unit_test(test_arena_never_passes_its_maximum),
        cmocka_unit_test(test_arena_arrays_are_checked_for_overflow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
