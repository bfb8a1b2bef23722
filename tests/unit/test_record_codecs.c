/* Compressed batches: every codec at every size, the bound on what comes out, and bytes of
 * strangers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include <sys/resource.h>

#include "shared/base/clock.h"
#include "shared/record/compress.h"
#include "shared/record/decompress.h"
#include "shared/record/record.h"
#include "tests/unit/record_help.h"

#define PLAIN_MAX  (4u << 20)
#define BOMB_BYTES ((size_t)200 << 20)

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MEMORY_IS_OURS 0 /* a sanitizer's shadow and quarantine count, too */
#else
#define MEMORY_IS_OURS 1
#endif

static const char *const codec_names[] = {"none", "gzip", "snappy", "lz4", "zstd"};

/* Bytes that compress, but not to nothing. */
static void put_plain(struct buf *b, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        buf_put_u8(b, (uint8_t)(i % 7 == 0 ? i * 2654435761u >> 24 : i / 64));
    }
}

static enum err unpack(enum batch_codec codec, struct slice packed, size_t max, struct buf *out)
{
    struct errmsg m = {""};
    buf_init(out, max);
    enum err e = decompress(codec, packed, out, &m);
    assert_true(e == OK || m.text[0] != '\0');
    assert_true(out->len <= max);
    return e;
}

static void assert_unpacks(enum batch_codec codec, struct slice packed, struct slice plain)
{
    struct buf out;
    /* With exactly the room that it needs, with more, and with one byte less. */
    assert_int_equal(unpack(codec, packed, plain.len, &out), OK);
    assert_true(slice_eq(buf_slice(&out), plain));
    buf_fini(&out);
    assert_int_equal(unpack(codec, packed, PLAIN_MAX * 2, &out), OK);
    assert_true(slice_eq(buf_slice(&out), plain));
    buf_fini(&out);
    if (plain.len > 0) {
        assert_int_equal(unpack(codec, packed, plain.len - 1, &out), ERR_TOO_LARGE);
        buf_fini(&out);
    }
}

static void test_every_codec_gives_back_what_was_packed_at_every_size(void **state)
{
    static const size_t sizes[] = {0,     1,     2,      100,    4095,      4096,     16383,
                                   16384, 16385, 65535,  65536,  65537,     131072,   1000000,
                                   1 << 20, (1 << 20) + 1, PLAIN_MAX};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct buf plain, packed;
        buf_init(&plain, PLAIN_MAX);
        buf_init(&packed, PLAIN_MAX * 2);
        put_plain(&plain, sizes[i]);
        for (int codec = BATCH_CODEC_GZIP; codec <= BATCH_CODEC_ZSTD; codec++) {
            buf_reset(&packed);
            put_compressed(&packed, (enum batch_codec)codec, buf_slice(&plain));
            assert_unpacks((enum batch_codec)codec, buf_slice(&packed), buf_slice(&plain));
        }
        buf_reset(&packed);
        put_xerial(&packed, buf_slice(&plain), 32 << 10);
        assert_unpacks(BATCH_CODEC_SNAPPY, buf_slice(&packed), buf_slice(&plain));
        buf_fini(&plain);
        buf_fini(&packed);
    }
}

/* As a streaming producer writes them: no content size, and a window larger than the content. */
static void put_zstd_stream(struct buf *out, const void *piece, size_t n, size_t times)
{
    ZSTD_CCtx *c = ZSTD_createCCtx();
    ZSTD_CCtx_setParameter(c, ZSTD_c_windowLog, 23);
    for (size_t i = 0; i <= times; i++) {
        ZSTD_inBuffer in = {piece, i < times ? n : 0, 0};
        size_t left;
        do {
            ZSTD_outBuffer o = {buf_reserve(out, 1 << 17), 1 << 17, 0};
            left = ZSTD_compressStream2(c, &o, &in, i < times ? ZSTD_e_continue : ZSTD_e_end);
            assert_false(ZSTD_isError(left));
            out->len += o.pos;
        } while (in.pos < in.size || (i == times && left > 0));
    }
    ZSTD_freeCCtx(c);
}

static void put_lz4_stream(struct buf *out, const void *piece, size_t n, size_t times)
{
    LZ4F_cctx *c;
    assert_false(LZ4F_isError(LZ4F_createCompressionContext(&c, LZ4F_VERSION)));
    size_t room = LZ4F_compressBound(n, NULL) + 64;
    size_t got = LZ4F_compressBegin(c, buf_reserve(out, room), room, NULL);
    out->len += got;
    for (size_t i = 0; i < times; i++) {
        got = LZ4F_compressUpdate(c, buf_reserve(out, room), room, piece, n, NULL);
        assert_false(LZ4F_isError(got));
        out->len += got;
    }
    got = LZ4F_compressEnd(c, buf_reserve(out, room), room, NULL);
    out->len += got;
    LZ4F_freeCompressionContext(c);
}

static void put_gzip_stream(struct buf *out, const void *piece, size_t n, size_t times)
{
    z_stream z = {0};
    assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, 0), Z_OK);
    for (size_t i = 0; i <= times; i++) {
        z.next_in = (Bytef *)(uintptr_t)piece;
        z.avail_in = i < times ? (uInt)n : 0;
        int rc;
        do {
            z.next_out = buf_reserve(out, 1 << 16);
            z.avail_out = 1 << 16;
            rc = deflate(&z, i < times ? Z_NO_FLUSH : Z_FINISH);
            out->len += (1 << 16) - z.avail_out;
        } while (z.avail_in > 0 || (i == times && rc != Z_STREAM_END));
    }
    deflateEnd(&z);
}

static void test_streams_without_a_size_are_unpacked(void **state)
{
    static char piece[1000];
    memset(piece, 'p', sizeof piece);
    struct buf plain, packed;
    buf_init(&plain, 1 << 20);
    buf_init(&packed, 1 << 20);
    for (int i = 0; i < 300; i++) {
        buf_put(&plain, piece, sizeof piece);
    }
    put_zstd_stream(&packed, piece, sizeof piece, 300);
    assert_int_equal(ZSTD_getFrameContentSize(packed.data, packed.len), ZSTD_CONTENTSIZE_UNKNOWN);
    assert_unpacks(BATCH_CODEC_ZSTD, buf_slice(&packed), buf_slice(&plain));
    buf_reset(&packed);
    put_lz4_stream(&packed, piece, sizeof piece, 300);
    assert_unpacks(BATCH_CODEC_LZ4, buf_slice(&packed), buf_slice(&plain));
    buf_reset(&packed);
    put_gzip_stream(&packed, piece, sizeof piece, 300);
    assert_unpacks(BATCH_CODEC_GZIP, buf_slice(&packed), buf_slice(&plain));
    buf_fini(&plain);
    buf_fini(&packed);
}

static void test_frames_one_after_the_other_are_one_stream(void **state)
{
    static const enum batch_codec codecs[] = {BATCH_CODEC_GZIP, BATCH_CODEC_ZSTD, BATCH_CODEC_LZ4};
    for (size_t i = 0; i < 3; i++) {
        struct buf plain, packed;
        buf_init(&plain, 1 << 20);
        buf_init(&packed, 1 << 20);
        put_plain(&plain, 50000);
        put_compressed(&packed, codecs[i], slice_make(plain.data, 20000));
        put_compressed(&packed, codecs[i], slice_make(plain.data + 20000, 0));
        put_compressed(&packed, codecs[i], slice_make(plain.data + 20000, 30000));
        if (codecs[i] != BATCH_CODEC_LZ4) {
            assert_unpacks(codecs[i], buf_slice(&packed), buf_slice(&plain));
        } else {
            struct buf out; /* Java's reader takes one, and would miss the rest */
            assert_int_equal(unpack(codecs[i], buf_slice(&packed), 1 << 20, &out), ERR_CORRUPT);
            buf_fini(&out);
        }
        buf_fini(&plain);
        buf_fini(&packed);
    }
}

static void pack(enum batch_codec codec, int32_t level, struct slice plain, struct buf *packed)
{
    struct errmsg m;
    buf_init(packed, 4 << 20);
    assert_int_equal(compress_records(codec, level, plain, packed, &m), OK);
    assert_unpacks(codec, buf_slice(packed), plain);
}

/* What Kafka's compression.<codec>.level says by default is the codec's default, and another level
 * is another result. */
static void test_levels_mean_what_kafka_means(void **state)
{
    static const struct {
        enum batch_codec codec;
        int32_t usual, other;
    } levels[] = {{BATCH_CODEC_GZIP, -1, 1}, {BATCH_CODEC_LZ4, 9, 12}, {BATCH_CODEC_ZSTD, 3, 19}};
    struct buf plain, by_default, usual, other;
    buf_init(&plain, 1 << 20);
    for (uint32_t i = 0, x = 1; i < 100000; i++) {
        x = x * 1103515245 + 12345;
        buf_put_u8(&plain, (uint8_t)"{\"temp\": 0123456789}, "[x >> 16 & 15]);
    }
    for (size_t i = 0; i < sizeof levels / sizeof levels[0]; i++) {
        pack(levels[i].codec, BATCH_LEVEL_DEFAULT, buf_slice(&plain), &by_default);
        pack(levels[i].codec, levels[i].usual, buf_slice(&plain), &usual);
        pack(levels[i].codec, levels[i].other, buf_slice(&plain), &other);
        assert_true(slice_eq(buf_slice(&by_default), buf_slice(&usual)));
        assert_false(slice_eq(buf_slice(&by_default), buf_slice(&other)));
        buf_fini(&by_default);
        buf_fini(&usual);
        buf_fini(&other);
    }
    buf_fini(&plain);
}

/* Full to the last byte is right, one byte less is too little, and leaves nothing behind. */
static void test_what_does_not_fit_is_not_compressed_by_half(void **state)
{
    struct buf plain, out;
    struct errmsg m;
    buf_init(&plain, 1 << 20);
    put_plain(&plain, 100000);
    for (int codec = BATCH_CODEC_NONE; codec <= BATCH_CODEC_ZSTD; codec++) {
        buf_init(&out, 1000);
        buf_put(&out, "before", 6);
        assert_int_equal(compress_records((enum batch_codec)codec, BATCH_LEVEL_DEFAULT,
                                          buf_slice(&plain), &out, &m),
                         ERR_TOO_LARGE);
        assert_int_equal(out.len, 6);
        assert_true(buf_ok(&out));
        buf_fini(&out);
    }
    buf_fini(&plain);
}

static void test_streams_cut_anywhere_are_corrupt(void **state)
{
    struct buf plain, packed, out;
    buf_init(&plain, 1 << 20);
    buf_init(&packed, 1 << 20);
    put_plain(&plain, 3000);
    for (int codec = BATCH_CODEC_GZIP; codec <= BATCH_CODEC_ZSTD + 1; codec++) {
        bool xerial = codec > BATCH_CODEC_ZSTD;
        enum batch_codec c = xerial ? BATCH_CODEC_SNAPPY : (enum batch_codec)codec;
        size_t whole_blocks = 0;
        buf_reset(&packed);
        if (xerial) {
            put_xerial(&packed, buf_slice(&plain), 1000);
        } else {
            put_compressed(&packed, c, buf_slice(&plain));
        }
        for (size_t n = 0; n < packed.len; n++) {
            uint8_t *exact = malloc(n ? n : 1); /* so that a sanitizer sees a read beyond it */
            memcpy(exact, packed.data, n);
            enum err e = unpack(c, slice_make(exact, n), 1 << 20, &out);
            /* The xerial framing has no end mark: between two blocks a cut cannot be seen. */
            whole_blocks += e == OK;
            if (e != OK && e != ERR_CORRUPT) {
                fail_msg("%s cut at %zu: %s", codec_names[c], n, err_name(e));
            }
            buf_fini(&out);
            free(exact);
        }
        assert_int_equal(whole_blocks, xerial ? 3 : 0);
    }
    buf_fini(&plain);
    buf_fini(&packed);
}

static void test_bytes_after_the_end_are_corrupt(void **state)
{
    struct buf plain, packed, out;
    buf_init(&plain, 1 << 20);
    buf_init(&packed, 1 << 20);
    put_plain(&plain, 3000);
    for (int codec = BATCH_CODEC_GZIP; codec <= BATCH_CODEC_ZSTD; codec++) {
        buf_reset(&packed);
        put_compressed(&packed, (enum batch_codec)codec, buf_slice(&plain));
        buf_put(&packed, "junk that is no frame", 21);
        if (unpack((enum batch_codec)codec, buf_slice(&packed), 1 << 20, &out) != ERR_CORRUPT) {
            fail_msg("%s took junk at its end", codec_names[codec]);
        }
        buf_fini(&out);
    }
    buf_fini(&plain);
    buf_fini(&packed);
}

static void test_snappy_claims_that_cannot_be_are_corrupt(void **state)
{
    struct buf out;
    static const char claim[] = "\377\377\377\377\17" "abc"; /* 4 GB in eight bytes */
    assert_int_equal(unpack(BATCH_CODEC_SNAPPY, slice_make(claim, 8), (size_t)8 << 30, &out),
                     ERR_CORRUPT);
    assert_int_equal(out.cap, 0);
    buf_fini(&out);
    static const char frame[] = "\202SNAPPY\0\0\0\0\1\0\0\0\1" "\377\377\377\377" "abc";
    assert_int_equal(unpack(BATCH_CODEC_SNAPPY, slice_make(frame, 23), 1 << 20, &out), ERR_CORRUPT);
    buf_fini(&out);
}

static long peak_kb(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return u.ru_maxrss;
}

static void assert_bounded(enum batch_codec codec, struct slice packed)
{
    struct buf out;
    const size_t bound = 1 << 20;
    long before = peak_kb();
    assert_int_equal(unpack(codec, packed, bound, &out), ERR_TOO_LARGE);
    assert_true(out.cap <= bound);
    buf_fini(&out);
    long grown = peak_kb() - before;
    if (MEMORY_IS_OURS && grown > 16 << 10) {
        fail_msg("%s took %ld kB to refuse a bomb", codec_names[codec], grown);
    }
}

static void test_bombs_are_refused_within_the_bound(void **state)
{
    static uint8_t zeros[2 << 20];
    const size_t times = BOMB_BYTES / sizeof zeros;
    struct buf packed;
    buf_init(&packed, 64 << 20);
    put_gzip_stream(&packed, zeros, sizeof zeros, times);
    assert_bounded(BATCH_CODEC_GZIP, buf_slice(&packed));
    buf_reset(&packed);
    put_lz4_stream(&packed, zeros, sizeof zeros, times);
    assert_bounded(BATCH_CODEC_LZ4, buf_slice(&packed));
    buf_reset(&packed);
    put_zstd_stream(&packed, zeros, sizeof zeros, times);
    assert_bounded(BATCH_CODEC_ZSTD, buf_slice(&packed));
    buf_reset(&packed);
    put_xerial(&packed, slice_make(zeros, sizeof zeros), 32 << 10);
    assert_bounded(BATCH_CODEC_SNAPPY, buf_slice(&packed));
    buf_fini(&packed);
}

static bool count_record(void *arg, const struct record *r)
{
    ++*(int *)arg;
    return true;
}

static void test_walk_has_the_bound_of_its_caller(void **state)
{
    static uint8_t value[100000];
    struct record r = {.value = slice_make(value, sizeof value)};
    struct batch_builder b;
    batch_builder_init(&b, 1 << 20);
    assert_int_equal(batch_add(&b, &r), OK);
    struct slice plain = batch_finish(&b);
    for (int codec = BATCH_CODEC_GZIP; codec <= BATCH_CODEC_ZSTD; codec++) {
        struct buf packed, batch;
        int seen = 0;
        buf_init(&packed, 1 << 20);
        buf_init(&batch, 1 << 20);
        put_compressed(&packed, (enum batch_codec)codec,
                       slice_make(plain.data + BATCH_HEADER_BYTES, plain.len - BATCH_HEADER_BYTES));
        put_batch(&batch, (enum batch_codec)codec, 1, buf_slice(&packed));
        assert_int_equal(batch_check(buf_slice(&batch), NULL), OK);
        assert_int_equal(batch_walk(buf_slice(&batch), 100000, count_record, &seen, NULL),
                         ERR_TOO_LARGE);
        assert_int_equal(seen, 0);
        assert_int_equal(batch_walk(buf_slice(&batch), 200000, count_record, &seen, NULL), OK);
        assert_int_equal(seen, 1);
        buf_fini(&packed);
        buf_fini(&batch);
    }
    batch_builder_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bombs_are_refused_within_the_bound), /* first: it measures a peak */
        cmocka_unit_test(test_every_codec_gives_back_what_was_packed_at_every_size),
        cmocka_unit_test(test_streams_without_a_size_are_unpacked),
        cmocka_unit_test(test_frames_one_after_the_other_are_one_stream),
        cmocka_unit_test(test_levels_mean_what_kafka_means),
        cmocka_unit_test(test_what_does_not_fit_is_not_compressed_by_half),
        cmocka_unit_test(test_streams_cut_anywhere_are_corrupt),
        cmocka_unit_test(test_bytes_after_the_end_are_corrupt),
        cmocka_unit_test(test_snappy_claims_that_cannot_be_are_corrupt),
        cmocka_unit_test(test_walk_has_the_bound_of_its_caller),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
