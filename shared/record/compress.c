/* Compression, one library call a codec, into room that the library itself says is enough.
 *
 * Consumers of every language read what is written here, so each codec is written the way Kafka's
 * Java producer writes it, which all of them have to read: snappy in xerial's framing with blocks
 * of 32 KB, lz4 with independent blocks of 64 KB. */
#include "shared/record/compress.h"

#include <lz4frame.h>
#include <snappy-c.h>
#include <zlib.h>
#include <zstd.h>

#define XERIAL_BLOCK_BYTES (32u << 10)
#define LZ4_LEVEL_FAST     9  /* Kafka's default */
#define LZ4_LEVEL_THOROUGH 3
#define LZ4_LEVEL_MAX      17 /* Kafka's; liblz4 takes all above its own for its own */

static int32_t level_within(int32_t level, int32_t low, int32_t high)
{
    return level < low ? low : level > high ? high : level;
}

/* Room for n bytes, or why there is none: out's maximum, or memory. */
static uint8_t *room_for(struct buf *out, size_t n, enum err *e)
{
    *e = n > out->max - out->len ? ERR_TOO_LARGE : ERR_NOMEM;
    uint8_t *p = *e == ERR_NOMEM ? buf_reserve(out, n) : NULL;
    out->failed = false; /* what out holds is whole */
    return p;
}

static enum err gzip(int32_t level, struct slice in, struct buf *out)
{
    z_stream z = {0};
    int zlib_level = level < 1 ? Z_DEFAULT_COMPRESSION : level_within(level, 1, 9);
    /* 16: with gzip's header; 8 is zlib's default of memory */
    if (in.len > INT32_MAX || deflateInit2(&z, zlib_level, Z_DEFLATED, 16 + MAX_WBITS, 8,
                                           Z_DEFAULT_STRATEGY) != Z_OK) {
        return in.len > INT32_MAX ? ERR_TOO_LARGE : ERR_NOMEM;
    }
    enum err e;
    size_t room = deflateBound(&z, in.len);
    uint8_t *p = room_for(out, room, &e);
    if (p) {
        z.next_in = (Bytef *)(uintptr_t)in.data;
        z.avail_in = (uInt)in.len;
        z.next_out = p;
        z.avail_out = (uInt)room;
        ASSERT(deflate(&z, Z_FINISH) == Z_STREAM_END); /* deflateBound's word */
        out->len += room - z.avail_out;
        e = OK;
    }
    deflateEnd(&z);
    return e;
}

static enum err snappy(int32_t level, struct slice in, struct buf *out)
{
    static const uint8_t head[] = {0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1};
    enum err e;
    uint8_t *p = room_for(out, sizeof head, &e);
    if (!p) {
        return e;
    }
    memcpy(p, head, sizeof head);
    out->len += sizeof head;
    while (in.len > 0) {
        size_t n = in.len < XERIAL_BLOCK_BYTES ? in.len : XERIAL_BLOCK_BYTES;
        size_t packed = snappy_max_compressed_length(n);
        p = room_for(out, 4 + packed, &e);
        if (!p) {
            return e;
        }
        if (snappy_compress((const char *)in.data, n, (char *)p + 4, &packed) != SNAPPY_OK) {
            return ERR_NOMEM; /* it has no other reason */
        }
        be32_put(p, (uint32_t)packed);
        out->len += 4 + packed;
        in = slice_make(in.data + n, in.len - n);
    }
    return OK;
}

/* To Kafka the level 9 is the fast compressor, any other the thorough one at that level; to liblz4
 * the thorough one begins at 3. */
static enum err lz4(int32_t level, struct slice in, struct buf *out)
{
    bool fast = level == BATCH_LEVEL_DEFAULT || level == LZ4_LEVEL_FAST;
    LZ4F_preferences_t how = {
        .frameInfo = {.blockSizeID = LZ4F_max64KB, .blockMode = LZ4F_blockIndependent},
        .compressionLevel = fast ? 0 : level_within(level, LZ4_LEVEL_THOROUGH, LZ4_LEVEL_MAX),
    };
    enum err e;
    size_t room = LZ4F_compressFrameBound(in.len, &how);
    uint8_t *p = room_for(out, room, &e);
    if (!p) {
        return e;
    }
    size_t n = LZ4F_compressFrame(p, room, in.data, in.len, &how);
    if (LZ4F_isError(n)) {
        return ERR_NOMEM;
    }
    out->len += n;
    return OK;
}

static enum err zstd(int32_t level, struct slice in, struct buf *out)
{
    enum err e;
    size_t room = ZSTD_compressBound(in.len);
    uint8_t *p = room_for(out, room, &e);
    if (!p) {
        return e;
    }
    int zstd_level = level == BATCH_LEVEL_DEFAULT
                         ? ZSTD_CLEVEL_DEFAULT
                         : level_within(level, ZSTD_minCLevel(), ZSTD_maxCLevel());
    size_t n = ZSTD_compress(p, room, in.data, in.len, zstd_level);
    if (ZSTD_isError(n)) {
        return ERR_NOMEM;
    }
    out->len += n;
    return OK;
}

static enum err copy(int32_t level, struct slice in, struct buf *out)
{
    enum err e;
    uint8_t *p = room_for(out, in.len, &e);
    if (!p) {
        return e;
    }
    if (in.len > 0) {
        memcpy(p, in.data, in.len);
    }
    out->len += in.len;
    return OK;
}

enum err compress_records(enum batch_codec codec, int32_t level, struct slice in, struct buf *out,
                          struct errmsg *m)
{
    static enum err (*const codecs[])(int32_t, struct slice, struct buf *) = {
        [BATCH_CODEC_NONE] = copy, [BATCH_CODEC_GZIP] = gzip, [BATCH_CODEC_SNAPPY] = snappy,
        [BATCH_CODEC_LZ4] = lz4,   [BATCH_CODEC_ZSTD] = zstd,
    };
    size_t before = out->len;
    ASSERT((size_t)codec < sizeof codecs / sizeof codecs[0]);
    enum err e = codecs[codec](level, in, out);
    if (e != OK) {
        out->len = before;
        return err_set(m, e, e == ERR_NOMEM ? "no memory to compress a batch"
                                            : "a batch compressed is larger than allowed");
    }
    return OK;
}
