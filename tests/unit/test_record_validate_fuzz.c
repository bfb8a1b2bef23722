/* The fuzz target of Produce's judge in its short form: golden batches, spoiled at random, under
 * random rules. What must hold is asserted by the target itself (tests/fuzz/fuzz_validate.c).
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

#include "tests/fuzz/fuzz_validate.c"
#include "tests/unit/record_help.h"

#define ROUNDS 40000

static uint64_t random_state = 4;

static uint64_t dice(uint64_t sides)
{
    random_state += 0x9e3779b97f4a7c15ull;
    uint64_t v = random_state;
    v = (v ^ v >> 30) * 0xbf58476d1ce4e5b9ull;
    v = (v ^ v >> 27) * 0x94d049bb133111ebull;
    return (v ^ v >> 31) % sides;
}

/* The golden records, some bytes of them spoiled, compressed in any codec. */
static void put_spoiled(struct buf *b)
{
    struct buf plain, packed;
    buf_init(&plain, 1 << 14);
    buf_init(&packed, 1 << 15);
    put_hex(&plain, golden_none + 2 * BATCH_HEADER_BYTES);
    for (uint64_t i = dice(3); i > 0; i--) {
        plain.data[dice(plain.len)] ^= (uint8_t)(1 << dice(8));
    }
    enum batch_codec codec = (enum batch_codec)dice(BATCH_CODEC_ZSTD + 1);
    put_compressed(&packed, codec, buf_slice(&plain));
    put_batch(b, codec, dice(8) ? 5 : (int32_t)dice(7), buf_slice(&packed));
    be64_put(b->data + b->len - packed.len - BATCH_HEADER_BYTES + 27, NOW - 1000);
    buf_fini(&plain);
    buf_fini(&packed);
}

static void test_spoiled_requests_do_no_harm(void **state)
{
    const char *text = getenv("CULEX_FUZZ_ROUNDS");
    uint64_t rounds = text ? strtoull(text, NULL, 10) : ROUNDS;
    for (uint64_t round = 0; round < rounds; round++) {
        struct buf b;
        buf_init(&b, 1 << 16);
        buf_put_u8(&b, (uint8_t)dice(16));
        buf_put_u8(&b, (uint8_t)dice(6));
        if (dice(2)) {
            put_hex(&b, golden_all[dice(GOLDEN_COUNT)]);
        } else {
            put_spoiled(&b);
        }
        for (uint64_t i = dice(4); i > 0; i--) {
            b.data[2 + dice(dice(2) ? b.len - 2 : BATCH_HEADER_BYTES)] = (uint8_t)dice(256);
        }
        b.len -= dice(8) ? 0 : dice(b.len);
        LLVMFuzzerTestOneInput(b.data, b.len);
        buf_fini(&b);
    }
}

int main(void)
{
    const char *seed = getenv("CULEX_FUZZ_SEED");
    random_state = seed ? strtoull(seed, NULL, 10) : random_state;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spoiled_requests_do_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
