/* What the tests of shared/record share: golden batches as bytes, batches with the bytes a test
 * wants, and compressors of each codec. Header only; every user is a program of its own. */
#ifndef CULEX_TESTS_RECORD_HELP_H
#define CULEX_TESTS_RECORD_HELP_H

#include <lz4frame.h>
#include <snappy-c.h>
#include <zlib.h>
#include <zstd.h>

#include "shared/record/record.h"
#include "tests/unit/record_golden.h"

static const char *const golden_all[] = {golden_none, golden_gzip,   golden_snappy, golden_lz4,
                                         golden_zstd, golden_append, golden_control};
#define GOLDEN_COUNT (sizeof golden_all / sizeof golden_all[0])

/* Appends the bytes of a text of hexadecimal digits. */
static inline void put_hex(struct buf *b, const char *hex)
{
    for (; hex[0] && hex[1]; hex += 2) {
        char digits[3] = {hex[0], hex[1], 0};
        buf_put_u8(b, (uint8_t)strtoul(digits, NULL, 16));
    }
}

/* Makes length and checksum right again, whatever else is wrong. */
static inline void seal(uint8_t *batch, size_t len)
{
    be32_put(batch + 8, (uint32_t)(len - BATCH_LENGTH_OFFSET));
    be32_put(batch + BATCH_CRC_OFFSET,
             crc32c(0, batch + BATCH_ATTRIBUTES_OFFSET, len - BATCH_ATTRIBUTES_OFFSET));
}

/* A batch with these bytes as its records. */
static inline void put_batch(struct buf *b, enum batch_codec codec, int32_t count,
                             struct slice records)
{
    size_t start = b->len;
    uint8_t head[BATCH_HEADER_BYTES] = {0};
    head[16] = BATCH_MAGIC;
    be16_put(head + BATCH_ATTRIBUTES_OFFSET, (uint16_t)codec);
    be32_put(head + 23, (uint32_t)(count > 0 ? count - 1 : 0));
    be64_put(head + 43, UINT64_MAX);
    be16_put(head + 51, UINT16_MAX);
    be32_put(head + 53, UINT32_MAX);
    be32_put(head + 57, (uint32_t)count);
    buf_put(b, head, sizeof head);
    buf_put(b, records.data, records.len);
    seal(b->data + start, b->len - start);
}

static inline void put_gzip(struct buf *out, struct slice in)
{
    z_stream z = {0};
    assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, 0), Z_OK);
    size_t room = deflateBound(&z, in.len);
    z.next_in = (Bytef *)(uintptr_t)in.data;
    z.avail_in = (uInt)in.len;
    z.next_out = buf_reserve(out, room);
    z.avail_out = (uInt)room;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    out->len += room - z.avail_out;
    deflateEnd(&z);
}

static inline void put_snappy(struct buf *out, struct slice in)
{
    size_t n = snappy_max_compressed_length(in.len);
    char *p = (char *)buf_reserve(out, n);
    assert_int_equal(snappy_compress((const char *)in.data, in.len, p, &n), SNAPPY_OK);
    out->len += n;
}

/* As snappy-java frames it, in blocks of block_bytes. */
static inline void put_xerial(struct buf *out, struct slice in, size_t block_bytes)
{
    buf_put(out, "\202SNAPPY\0\0\0\0\1\0\0\0\1", 16);
    while (in.len > 0) {
        size_t n = in.len < block_bytes ? in.len : block_bytes;
        size_t at = out->len;
        buf_put_be32(out, 0);
        put_snappy(out, slice_make(in.data, n));
        be32_put(out->data + at, (uint32_t)(out->len - at - 4));
        in = slice_make(in.data + n, in.len - n);
    }
}

static inline void put_lz4(struct buf *out, struct slice in)
{
    LZ4F_preferences_t how = {.frameInfo.blockMode = LZ4F_blockIndependent};
    size_t room = LZ4F_compressFrameBound(in.len, &how);
    size_t n = LZ4F_compressFrame(buf_reserve(out, room), room, in.data, in.len, &how);
    assert_false(LZ4F_isError(n));
    out->len += n;
}

static inline void put_zstd(struct buf *out, struct slice in)
{
    size_t room = ZSTD_compressBound(in.len);
    size_t n = ZSTD_compress(buf_reserve(out, room), room, in.data, in.len, 3);
    assert_false(ZSTD_isError(n));
    out->len += n;
}

static inline void put_compressed(struct buf *out, enum batch_codec codec, struct slice in)
{
    switch (codec) {
    case BATCH_CODEC_NONE:
        buf_put(out, in.data, in.len);
        break;
    case BATCH_CODEC_GZIP:
        put_gzip(out, in);
        break;
    case BATCH_CODEC_SNAPPY:
        put_snappy(out, in);
        break;
    case BATCH_CODEC_LZ4:
        put_lz4(out, in);
        break;
    case BATCH_CODEC_ZSTD:
        put_zstd(out, in);
        break;
    }
}

#endif
