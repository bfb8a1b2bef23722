/* Decompression under a bound that the input cannot move.
 *
 * The input is a stranger's: a few bytes may claim, or truly hold, gigabytes. So memory grows with
 * what comes out, not with what is claimed, and stops at out->max. Every codec sees all its input;
 * a stream that ends early or leaves bytes over is corrupt, because a Kafka client would choke on
 * it.
 *
 *   gzip     members one after the other, as Java's GZIPInputStream reads them
 *   snappy   one raw block (librdkafka, Go), or the framing of xerial's snappy-java:
 *            magic 82 'SNAPPY' 00, version i32, compatible i32, then { length i32, raw block }*
 *   lz4      one frame, by liblz4's streaming interface; Java's reader ends after it, too
 *   zstd     frames, whole into the output: a streaming decoder would allocate the window that the
 *            frame's header asks for, which is the input's choice */
#include "shared/record/decompress.h"

#include <lz4frame.h>
#include <snappy-c.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#define ROOM_BYTES_MIN (16u << 10)
#define RATIO_GUESS    4 /* first guess of output by input */

/* Room to write into at the end of out: what is free already, or as much again as there is, within
 * max. *room 0: out is full. NULL: no memory. */
static uint8_t *room_get(struct buf *out, size_t guess, size_t *room)
{
    size_t left = out->max - out->len;
    size_t want = out->len > guess ? out->len : guess;
    want = want < ROOM_BYTES_MIN ? ROOM_BYTES_MIN : want;
    size_t free_now = out->cap - out->len;
    want = free_now > 0 ? free_now : want;
    *room = want > left ? left : want;
    return buf_reserve(out, *room);
}

static enum err too_large(const struct buf *out, struct errmsg *m)
{
    return err_set(m, ERR_TOO_LARGE, "batch holds more than %zu bytes", out->max);
}

static enum err corrupt(const char *codec, const char *what, struct errmsg *m)
{
    return err_set(m, ERR_CORRUPT, "%s data of batch: %s", codec, what);
}

/* --- gzip ------------------------------------------------------------------------------------- */

/* One member, or as much of it as there is. A full out still lets the trailer be read: what would
 * go beyond it goes into a byte of its own, and says that there is more. */
static enum err inflate_member(z_stream *z, struct buf *out, struct errmsg *m)
{
    for (;;) {
        size_t room;
        uint8_t beyond;
        uint8_t *p = room_get(out, z->avail_in * (size_t)RATIO_GUESS, &room);
        if (!p) {
            return ERR_NOMEM;
        }
        z->next_out = room ? p : &beyond;
        z->avail_out = room ? (uInt)(room > UINT32_MAX ? UINT32_MAX : room) : 1;
        uInt offered = z->avail_out;
        int rc = inflate(z, Z_NO_FLUSH);
        size_t got = offered - z->avail_out;
        if (!room && got > 0) {
            return too_large(out, m);
        }
        out->len += got;
        if (rc == Z_STREAM_END) {
            return OK;
        }
        if (rc == Z_MEM_ERROR) {
            return ERR_NOMEM;
        }
        if (rc != Z_OK || (got == 0 && z->avail_in == 0)) {
            return corrupt("gzip", z->msg ? z->msg : "it ends early", m);
        }
    }
}

static enum err gunzip(struct slice in, struct buf *out, struct errmsg *m)
{
    if (in.len > INT32_MAX) {
        return too_large(out, m);
    }
    z_stream z = {.next_in = (Bytef *)(uintptr_t)in.data, .avail_in = (uInt)in.len};
    if (inflateInit2(&z, 16 + MAX_WBITS) != Z_OK) { /* 16: with gzip's header, nothing else */
        return ERR_NOMEM;
    }
    enum err e;
    do {
        e = inflate_member(&z, out, m);
    } while (e == OK && z.avail_in > 0 && inflateReset(&z) == Z_OK);
    inflateEnd(&z);
    return e;
}

/* --- snappy ----------------------------------------------------------------------------------- */

static enum err unsnappy_block(struct slice in, struct buf *out, struct errmsg *m)
{
    size_t n;
    if (snappy_uncompressed_length((const char *)in.data, in.len, &n) != SNAPPY_OK) {
        return corrupt("snappy", "it has no length", m);
    }
    /* Of all elements a copy of 64 bytes in 3 expands most: a claim beyond that is a lie. */
    if (n / 22 > in.len) {
        return corrupt("snappy", "it claims more than it can hold", m);
    }
    if (n > out->max - out->len) {
        return too_large(out, m);
    }
    uint8_t *p = buf_reserve(out, n);
    if (!p) {
        return ERR_NOMEM;
    }
    if (snappy_uncompress((const char *)in.data, in.len, (char *)p, &n) != SNAPPY_OK) {
        return corrupt("snappy", "it is malformed", m);
    }
    out->len += n;
    return OK;
}

static enum err unsnappy(struct slice in, struct buf *out, struct errmsg *m)
{
    static const uint8_t xerial[] = {0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0};
    if (in.len < sizeof xerial || memcmp(in.data, xerial, sizeof xerial) != 0) {
        return unsnappy_block(in, out, m);
    }
    struct reader r = reader_make(in);
    reader_bytes(&r, sizeof xerial);
    reader_be32(&r); /* version, and the oldest version that can read it: both 1, as for ever */
    reader_be32(&r);
    enum err e = OK;
    while (e == OK && !r.failed && reader_left(&r) > 0) {
        struct slice block = reader_bytes(&r, reader_be32(&r));
        e = r.failed ? OK : unsnappy_block(block, out, m);
    }
    return e == OK && r.failed ? corrupt("snappy", "it ends early", m) : e;
}

/* --- lz4 -------------------------------------------------------------------------------------- */

static enum err unlz4_frame(LZ4F_dctx *ctx, struct slice in, struct buf *out, struct errmsg *m)
{
    size_t hint = 1; /* 0: at the end of a frame */
    while (hint > 0) {
        size_t room;
        uint8_t beyond;
        uint8_t *p = room_get(out, in.len * RATIO_GUESS, &room);
        if (!p) {
            return ERR_NOMEM;
        }
        size_t got = room ? room : 1;
        size_t took = in.len;
        hint = LZ4F_decompress(ctx, room ? p : &beyond, &got, in.data, &took, NULL);
        if (LZ4F_isError(hint)) {
            return corrupt("lz4", LZ4F_getErrorName(hint), m);
        }
        if (!room && got > 0) {
            return too_large(out, m);
        }
        if (got == 0 && took == 0) {
            return corrupt("lz4", "it ends early", m);
        }
        out->len += got;
        in = slice_make(in.data + took, in.len - took);
    }
    return in.len == 0 ? OK : corrupt("lz4", "it goes on after its frame", m);
}

static enum err unlz4(struct slice in, struct buf *out, struct errmsg *m)
{
    LZ4F_dctx *ctx;
    if (LZ4F_isError(LZ4F_createDecompressionContext(&ctx, LZ4F_VERSION))) {
        return ERR_NOMEM;
    }
    enum err e = unlz4_frame(ctx, in, out, m);
    LZ4F_freeDecompressionContext(ctx);
    return e;
}

bool lz4_blocks_are_linked(struct slice in)
{
    /* magic u32, then a byte of flags: version 2 bits, block independence 1 bit, … */
    return in.len > 4 && !(in.data[4] & 0x20);
}

/* --- zstd ------------------------------------------------------------------------------------- */

static enum err unzstd(struct slice in, struct buf *out, struct errmsg *m)
{
    size_t left = out->max - out->len;
    unsigned long long claim = ZSTD_getFrameContentSize(in.data, in.len);
    if (claim == ZSTD_CONTENTSIZE_ERROR) {
        return corrupt("zstd", "no frame begins it", m);
    }
    if (claim != ZSTD_CONTENTSIZE_UNKNOWN && claim > left) {
        return too_large(out, m);
    }
    size_t room = claim != ZSTD_CONTENTSIZE_UNKNOWN ? (size_t)claim : in.len * RATIO_GUESS;
    /* Java says no size. Room that is there already costs nothing, and spares another try. */
    size_t free_now = out->cap - out->len;
    room = claim == ZSTD_CONTENTSIZE_UNKNOWN && free_now > room ? free_now : room;
    for (;;) {
        room = room < ROOM_BYTES_MIN ? ROOM_BYTES_MIN : room;
        room = room > left ? left : room;
        uint8_t *p = buf_reserve(out, room);
        if (!p) {
            return ERR_NOMEM;
        }
        size_t n = ZSTD_decompress(p, room, in.data, in.len);
        if (!ZSTD_isError(n)) {
            out->len += n;
            return OK;
        }
        ZSTD_ErrorCode code = ZSTD_getErrorCode(n);
        if (code == ZSTD_error_memory_allocation) {
            return ERR_NOMEM;
        }
        if (code != ZSTD_error_dstSize_tooSmall) {
            return corrupt("zstd", ZSTD_getErrorName(n), m);
        }
        if (room == left) {
            return too_large(out, m);
        }
        /* again, from the start: at most twice the work */
        room = room > left / 2 ? left : room * 2;
    }
}

enum err decompress(enum batch_codec codec, struct slice in, struct buf *out, struct errmsg *m)
{
    static enum err (*const codecs[])(struct slice, struct buf *, struct errmsg *) = {
        [BATCH_CODEC_GZIP] = gunzip,
        [BATCH_CODEC_SNAPPY] = unsnappy,
        [BATCH_CODEC_LZ4] = unlz4,
        [BATCH_CODEC_ZSTD] = unzstd,
    };
    size_t i = (size_t)codec;
    if (i >= sizeof codecs / sizeof codecs[0] || !codecs[i]) {
        return err_set(m, ERR_CORRUPT, "batch codec %d is not known", (int)codec);
    }
    enum err e = codecs[i](in, out, m);
    return e == ERR_NOMEM ? err_set(m, e, "no memory to decompress a batch") : e;
}
