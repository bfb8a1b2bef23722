/* Writing a batch anew. Records go straight behind the header when they stay as they are, or into a
 * buffer of their own that is compressed behind the header at the end.
 *
 *   out    … | header, 61 bytes | records, compressed or not
 *            ^ start
 *
 * A record's key, value and headers are copied as one piece, the way they came: only its length,
 * its attributes (none is defined) and its two deltas are written anew. */
#include "shared/record/rewrite.h"

#include "shared/record/compress.h"

#define RECORD_HEAD_BYTES_MAX (5 + 1 + VARINT_BYTES_MAX + 5) /* length to offset delta */

enum err batch_rewrite_begin(struct batch_rewrite *w, struct buf *out, enum batch_codec codec,
                             int32_t level, int64_t base_timestamp)
{
    *w = (struct batch_rewrite){.out = out,
                                .start = out->len,
                                .codec = codec,
                                .level = level,
                                .base_timestamp = base_timestamp,
                                .max_timestamp = -1};
    buf_init(&w->plain, INT32_MAX);
    uint8_t *p = buf_reserve(out, BATCH_HEADER_BYTES);
    if (!p) {
        batch_rewrite_drop(w);
        return ERR_NOMEM;
    }
    out->len += BATCH_HEADER_BYTES;
    return OK;
}

void batch_rewrite_drop(struct batch_rewrite *w)
{
    w->out->len = w->start;
    w->out->failed = false;
    buf_fini(&w->plain);
}

enum err batch_rewrite_add(struct batch_rewrite *w, const struct raw_record *r,
                           int32_t offset_delta, int64_t timestamp)
{
    struct buf *to = w->codec == BATCH_CODEC_NONE ? w->out : &w->plain;
    int64_t delta = (int64_t)((uint64_t)timestamp - (uint64_t)w->base_timestamp);
    size_t body = 1 + varint_size(delta) + varint_size(offset_delta) + r->rest.len;
    size_t room = RECORD_HEAD_BYTES_MAX + r->rest.len;
    if (room > to->max - to->len) {
        return ERR_TOO_LARGE;
    }
    uint8_t *p = buf_reserve(to, room);
    if (!p) {
        return ERR_NOMEM;
    }
    uint8_t *end = p + varint_put(p, (int64_t)body);
    *end++ = 0;
    end += varint_put(end, delta);
    end += varint_put(end, offset_delta);
    memcpy(end, r->rest.data, r->rest.len);
    to->len += (size_t)(end - p) + r->rest.len;
    w->max_timestamp = timestamp > w->max_timestamp ? timestamp : w->max_timestamp;
    w->count++;
    return OK;
}

void batch_seal(uint8_t *p, size_t len, const struct batch_header *h)
{
    be64_put(p, (uint64_t)h->base_offset);
    be32_put(p + 8, (uint32_t)(len - BATCH_LENGTH_OFFSET));
    be32_put(p + 12, (uint32_t)h->leader_epoch);
    p[16] = BATCH_MAGIC;
    be16_put(p + BATCH_ATTRIBUTES_OFFSET, (uint16_t)h->attributes);
    be32_put(p + 23, (uint32_t)h->last_offset_delta);
    be64_put(p + 27, (uint64_t)h->base_timestamp);
    be64_put(p + 35, (uint64_t)h->max_timestamp);
    be64_put(p + 43, (uint64_t)h->producer_id);
    be16_put(p + 51, (uint16_t)h->producer_epoch);
    be32_put(p + 53, (uint32_t)h->base_sequence);
    be32_put(p + 57, (uint32_t)h->record_count);
    be32_put(p + BATCH_CRC_OFFSET,
             crc32c(0, p + BATCH_ATTRIBUTES_OFFSET, len - BATCH_ATTRIBUTES_OFFSET));
}

enum err batch_rewrite_end(struct batch_rewrite *w, struct batch_header *h, struct errmsg *m)
{
    enum err e = OK;
    if (w->codec != BATCH_CODEC_NONE) {
        e = compress_records(w->codec, w->level, buf_slice(&w->plain), w->out, m);
    }
    size_t len = w->out->len - w->start;
    if (e == OK && len > INT32_MAX) {
        e = err_set(m, ERR_TOO_LARGE, "a batch cannot have %zu bytes", len);
    }
    if (e != OK) {
        batch_rewrite_drop(w);
        return e;
    }
    uint8_t *batch = w->out->data + w->start;
    h->attributes = (int16_t)((h->attributes & ~BATCH_CODEC_MASK) | (int)w->codec);
    h->base_timestamp = w->base_timestamp;
    h->record_count = w->count;
    batch_seal(batch, len, h);
    buf_fini(&w->plain);
    return batch_read_header(slice_make(batch, len), h);
}
