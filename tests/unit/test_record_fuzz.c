/* Batches spoiled at random: whatever bytes a stranger sends, checking and walking them ends with
 * OK or an error, stays within its bounds (a sanitizer build shows it) and never passes on a record
 * that breaks the promises of record.h.
 *
 * The seed is fixed, so that a failure comes back; CULEX_FUZZ_SEED and CULEX_FUZZ_ROUNDS in the
 * environment take the test elsewhere. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "shared/record/record.h"
#include "tests/unit/record_help.h"

#define ROUNDS       60000
#define BATCH_MAX    8192
#define WALK_MAX     (64u << 10)
#define MUTATION_MAX 6

static uint64_t random_state = 20;

static uint64_t dice(uint64_t sides)
{
    random_state += 0x9e3779b97f4a7c15ull;
    uint64_t v = random_state;
    v = (v ^ v >> 30) * 0xbf58476d1ce4e5b9ull;
    v = (v ^ v >> 27) * 0x94d049bb133111ebull;
    return (v ^ v >> 31) % sides;
}

struct promises {
    struct batch_header h;
    int64_t last_offset;
    int64_t seen;
    uint64_t sum; /* of every byte lent: a read of each */
};

static void touch(struct promises *p, struct slice s)
{
    for (size_t i = 0; i < s.len; i++) {
        p->sum += s.data[i];
    }
    assert_true(s.data != NULL || s.len == 0);
}

static bool see_record(void *arg, const struct record *r)
{
    struct promises *p = arg;
    assert_true(++p->seen <= p->h.record_count);
    int64_t delta = (int64_t)((uint64_t)r->offset - (uint64_t)p->h.base_offset);
    assert_true(delta > p->last_offset && delta <= p->h.last_offset_delta);
    p->last_offset = delta;
    touch(p, r->key);
    touch(p, r->value);
    assert_true(r->header_count <= RECORD_HEADERS_MAX);
    for (uint32_t i = 0; i < r->header_count; i++) {
        assert_non_null(r->headers[i].key.data);
        touch(p, r->headers[i].key);
        touch(p, r->headers[i].value);
    }
    return true;
}

/* Changes what is in from … len; returns the new length. */
static size_t mutate(uint8_t *p, size_t from, size_t len)
{
    static const uint8_t telling[] = {0x00, 0x01, 0x02, 0x7f, 0x80, 0xfe, 0xff};
    size_t span = len - from;
    if (span == 0) {
        return len;
    }
    size_t at = from + dice(span);
    size_t n = 1 + dice(span < 16 ? span : 16);
    n = n > len - at ? len - at : n;
    switch (dice(7)) {
    case 0: /* a bit */
        p[at] ^= (uint8_t)(1 << dice(8));
        return len;
    case 1: /* a byte */
        p[at] = (uint8_t)dice(256);
        return len;
    case 2: /* a byte that means something in a varint */
        p[at] = telling[dice(sizeof telling)];
        return len;
    case 3: /* a run of continuation bytes */
        memset(p + at, 0xff, n);
        return len;
    case 4: /* a piece less */
        memmove(p + at, p + at + n, len - at - n);
        return len - n;
    case 5: /* a piece twice */
        n = n > BATCH_MAX - len ? BATCH_MAX - len : n;
        memmove(p + at + n, p + at, len - at);
        return len + n;
    default: /* the end is missing */
        return at;
    }
}

static void try_batch(const uint8_t *bytes, size_t len, uint64_t *outcomes)
{
    uint8_t *exact = malloc(len ? len : 1); /* so that a sanitizer sees a read beyond it */
    assert_non_null(exact);
    memcpy(exact, bytes, len);
    struct slice batch = slice_make(exact, len);
    struct errmsg m = {""};
    struct promises p = {.last_offset = -1};
    enum err checked = batch_check(batch, &m);
    assert_true(checked == OK || checked == ERR_CORRUPT);
    if (batch_read_header(batch, &p.h) == OK) {
        /* Walked in any case: nobody promises that it was checked before. */
        enum err e = batch_walk(batch, WALK_MAX, see_record, &p, &m);
        assert_true(e == OK || e == ERR_CORRUPT || e == ERR_TOO_LARGE);
        assert_true(e != OK || p.seen == p.h.record_count);
        outcomes[e]++;
    }
    free(exact);
}

static uint64_t rounds(void)
{
    const char *text = getenv("CULEX_FUZZ_ROUNDS");
    return text ? strtoull(text, NULL, 10) : ROUNDS;
}

/* The batch as it travels: header and compressed bytes. */
static void test_spoiled_batches_do_no_harm(void **state)
{
    uint64_t outcomes[ERR_CLOSED + 1] = {0};
    for (uint64_t round = 0; round < rounds(); round++) {
        struct buf b;
        buf_init(&b, BATCH_MAX);
        put_hex(&b, golden_all[dice(GOLDEN_COUNT)]);
        assert_non_null(buf_reserve(&b, BATCH_MAX - b.len));
        size_t from = dice(4) == 0 ? 0 : BATCH_HEADER_BYTES;
        for (uint64_t i = 1 + dice(MUTATION_MAX); i > 0; i--) {
            b.len = b.len > from ? mutate(b.data, from, b.len) : b.len;
        }
        if (b.len >= BATCH_HEADER_BYTES && dice(8) != 0) {
            seal(b.data, b.len);
        }
        try_batch(b.data, b.len, outcomes);
        buf_fini(&b);
    }
    print_message("walked %llu, corrupt %llu, too large %llu\n", (unsigned long long)outcomes[OK],
                  (unsigned long long)outcomes[ERR_CORRUPT],
                  (unsigned long long)outcomes[ERR_TOO_LARGE]);
    assert_true(outcomes[OK] > 0 && outcomes[ERR_CORRUPT] > 0);
}

/* The records, spoiled before they were compressed: the stream is right, what it holds is not. */
static void test_spoiled_records_do_no_harm(void **state)
{
    uint64_t outcomes[ERR_CLOSED + 1] = {0};
    struct buf plain, packed, b;
    buf_init(&plain, BATCH_MAX);
    buf_init(&packed, BATCH_MAX * 2);
    buf_init(&b, BATCH_MAX * 3);
    for (uint64_t round = 0; round < rounds(); round++) {
        buf_reset(&plain);
        buf_reset(&packed);
        buf_reset(&b);
        put_hex(&plain, golden_none + 2 * BATCH_HEADER_BYTES);
        assert_non_null(buf_reserve(&plain, BATCH_MAX - plain.len));
        for (uint64_t i = 1 + dice(MUTATION_MAX); i > 0; i--) {
            /* Most of the golden records is one long value: look for trouble before it. */
            size_t from = dice(8) == 0 ? 0 : plain.len / 4 * dice(2);
            plain.len = mutate(plain.data, from, plain.len);
        }
        enum batch_codec codec = (enum batch_codec)dice(BATCH_CODEC_ZSTD + 1);
        put_compressed(&packed, codec, buf_slice(&plain));
        put_batch(&b, codec, (int32_t)dice(7), buf_slice(&packed));
        try_batch(b.data, b.len, outcomes);
    }
    buf_fini(&plain);
    buf_fini(&packed);
    buf_fini(&b);
    assert_true(outcomes[OK] > 0 && outcomes[ERR_CORRUPT] > 0);
}

/* Bytes of no origin at all, with a header that is right. */
static void test_random_bytes_do_no_harm(void **state)
{
    uint64_t outcomes[ERR_CLOSED + 1] = {0};
    for (uint64_t round = 0; round < rounds() / 2; round++) {
        struct buf b;
        uint8_t noise[300];
        size_t n = dice(sizeof noise);
        for (size_t i = 0; i < n; i++) {
            noise[i] = (uint8_t)(dice(3) ? dice(256) : dice(4));
        }
        buf_init(&b, BATCH_MAX);
        put_batch(&b, (enum batch_codec)dice(8), (int32_t)dice(100), slice_make(noise, n));
        try_batch(b.data, b.len, outcomes);
        try_batch(noise, n, outcomes);
        buf_fini(&b);
    }
    assert_true(outcomes[ERR_CORRUPT] > 0);
}

int main(void)
{
    const char *seed = getenv("CULEX_FUZZ_SEED");
    random_state = seed ? strtoull(seed, NULL, 10) : random_state;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spoiled_batches_do_no_harm),
        cmocka_unit_test(test_spoiled_records_do_no_harm),
        cmocka_unit_test(test_random_bytes_do_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
