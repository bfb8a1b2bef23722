/* Building a batch: records appended behind a header that batch_finish fills in.
 *
 *   record   length varint | attributes i8 = 0 | timestampDelta varlong | offsetDelta varint |
 *            keyLength varint, key | valueLength varint, value | headerCount varint, headers
 *   header   keyLength varint, key | valueLength varint, value          (length -1: null)
 *
 * Lengths are computed before anything is written, so each byte is written once and a record that
 * does not fit leaves no trace. */
#include "shared/record/record.h"

#define VARINT32_BYTES_MAX 5

void batch_builder_init(struct batch_builder *b, size_t bytes_max)
{
    *b = (struct batch_builder){0};
    buf_init(&b->buf, bytes_max > INT32_MAX ? INT32_MAX : bytes_max); /* batchLength is an int32 */
}

void batch_builder_fini(struct batch_builder *b)
{
    buf_fini(&b->buf);
}

void batch_builder_reset(struct batch_builder *b)
{
    buf_reset(&b->buf);
    b->count = 0;
}

size_t record_size_max(const struct record *r)
{
    /* length, offset delta, two lengths, header count; attributes; timestamp delta */
    size_t n = 5 * VARINT32_BYTES_MAX + 1 + VARINT_BYTES_MAX + r->key.len + r->value.len;
    for (uint32_t i = 0; i < r->header_count; i++) {
        n += 2 * VARINT32_BYTES_MAX + r->headers[i].key.len + r->headers[i].value.len;
    }
    return n;
}

/* Java wraps where timestamps lie further apart than an int64 holds; so do we, without overflow. */
static int64_t delta_of(int64_t value, int64_t base)
{
    return (int64_t)((uint64_t)value - (uint64_t)base);
}

static size_t bytes_size(struct slice s)
{
    return s.data ? varint_size((int64_t)s.len) + s.len : varint_size(-1);
}

static uint8_t *bytes_put(uint8_t *p, struct slice s)
{
    p += varint_put(p, s.data ? (int64_t)s.len : -1);
    if (s.data && s.len > 0) {
        memcpy(p, s.data, s.len);
        p += s.len;
    }
    return p;
}

/* A header's key is never null. */
static struct slice header_key(const struct record_header *h)
{
    return h->key.data ? h->key : slice_make("", 0);
}

/* Bytes of a record after its length. */
static size_t body_size(const struct record *r, int64_t timestamp_delta, int32_t offset_delta)
{
    size_t n = 1 + varint_size(timestamp_delta) + varint_size(offset_delta) + bytes_size(r->key) +
               bytes_size(r->value) + varint_size(r->header_count);
    for (uint32_t i = 0; i < r->header_count; i++) {
        n += bytes_size(header_key(&r->headers[i])) + bytes_size(r->headers[i].value);
    }
    return n;
}

static void record_put(uint8_t *p, const struct record *r, size_t body, int64_t timestamp_delta,
                       int32_t offset_delta)
{
    p += varint_put(p, (int64_t)body);
    *p++ = 0;
    p += varint_put(p, timestamp_delta);
    p += varint_put(p, offset_delta);
    p = bytes_put(p, r->key);
    p = bytes_put(p, r->value);
    p += varint_put(p, r->header_count);
    for (uint32_t i = 0; i < r->header_count; i++) {
        p = bytes_put(p, header_key(&r->headers[i]));
        p = bytes_put(p, r->headers[i].value);
    }
}

enum err batch_add(struct batch_builder *b, const struct record *r)
{
    if (r->header_count > RECORD_HEADERS_MAX || b->count == INT32_MAX) {
        return ERR_TOO_LARGE;
    }
    int64_t base = b->count ? b->base_timestamp : r->timestamp;
    int64_t timestamp_delta = delta_of(r->timestamp, base);
    size_t body = body_size(r, timestamp_delta, b->count);
    size_t before = b->count ? 0 : BATCH_HEADER_BYTES;
    size_t total = before + varint_size((int64_t)body) + body;
    if (total > b->buf.max - b->buf.len) {
        return ERR_TOO_LARGE;
    }
    uint8_t *p = buf_reserve(&b->buf, total);
    if (!p) {
        b->buf.failed = false; /* the records before are whole */
        return ERR_NOMEM;
    }
    record_put(p + before, r, body, timestamp_delta, b->count);
    b->buf.len += total;
    if (b->count == 0 || r->timestamp > b->max_timestamp) {
        b->max_timestamp = r->timestamp;
    }
    b->base_timestamp = base;
    b->count++;
    return OK;
}

struct slice batch_finish(struct batch_builder *b)
{
    if (b->count == 0) {
        return slice_make(NULL, 0);
    }
    uint8_t *p = b->buf.data;
    be64_put(p, 0);
    be32_put(p + 8, (uint32_t)(b->buf.len - BATCH_LENGTH_OFFSET));
    be32_put(p + 12, 0);
    p[16] = BATCH_MAGIC;
    be16_put(p + BATCH_ATTRIBUTES_OFFSET, 0);
    be32_put(p + 23, (uint32_t)(b->count - 1));
    be64_put(p + 27, (uint64_t)b->base_timestamp);
    be64_put(p + 35, (uint64_t)b->max_timestamp);
    be64_put(p + 43, UINT64_MAX); /* no producer: id, epoch and sequence are -1 */
    be16_put(p + 51, UINT16_MAX);
    be32_put(p + 53, UINT32_MAX);
    be32_put(p + 57, (uint32_t)b->count);
    be32_put(p + BATCH_CRC_OFFSET,
             crc32c(0, p + BATCH_ATTRIBUTES_OFFSET, b->buf.len - BATCH_ATTRIBUTES_OFFSET));
    return buf_slice(&b->buf);
}
