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

/* --- fewer records ---------------------------------------------------------------------------- */

/* A batch while it is filtered. A bit for each record that stays, because the base timestamp must
 * be known before the first is written, and depends on all. */
struct filtering {
    const struct batch_filter *f;
    struct batch_header h;
    struct slice records;
    struct buf plain;
    struct buf stays;
    int32_t seen;
    int32_t kept;
    bool tombstone; /* one that stays */
};

static enum err ask_keep(struct filtering *x, struct errmsg *m)
{
    struct record_cursor c = record_cursor_make(x->records, x->h.record_count);
    for (;;) {
        struct raw_record r;
        enum err e = record_next(&c, &r, m);
        if (e != OK) {
            return e == ERR_NOT_FOUND ? OK : e;
        }
        if (x->seen % 8 == 0) {
            buf_put_u8(&x->stays, 0);
            if (!buf_ok(&x->stays)) {
                return ERR_NOMEM;
            }
        }
        if (x->f->keep(x->f->arg, &x->h, &r)) {
            x->stays.data[x->seen / 8] |= (uint8_t)(1 << x->seen % 8);
            x->kept++;
            x->tombstone |= !r.value.data;
        }
        x->seen++;
    }
}

/* The record that stays, of those from the cursor on. */
static bool next_kept(const struct filtering *x, struct record_cursor *c, struct raw_record *r)
{
    for (;;) {
        int32_t i = c->index;
        if (record_next(c, r, NULL) != OK) {
            return false;
        }
        if (x->stays.data[i / 8] & 1 << i % 8) {
            return true;
        }
    }
}

static enum err write_kept(struct filtering *x, int64_t horizon, struct buf *out, struct errmsg *m)
{
    struct record_cursor c = record_cursor_make(x->records, x->h.record_count);
    struct raw_record r;
    ASSERT(next_kept(x, &c, &r));
    int64_t timestamp = batch_timestamp_of(&x->h, r.timestamp_delta);
    struct batch_rewrite w;
    enum batch_codec codec = (enum batch_codec)(x->h.attributes & BATCH_CODEC_MASK);
    enum err e = batch_rewrite_begin(&w, out, codec, BATCH_LEVEL_DEFAULT,
                                     horizon >= 0 ? horizon : timestamp);
    if (e != OK) {
        return e;
    }
    if (codec != BATCH_CODEC_NONE && x->records.len < w.plain.max) {
        (void)buf_reserve(&w.plain, x->records.len); /* not by doubling; what is not used is not
                                                        touched. A failure comes again below */
    }
    do {
        e = batch_rewrite_add(&w, &r, r.offset_delta, batch_timestamp_of(&x->h, r.timestamp_delta));
    } while (e == OK && next_kept(x, &c, &r));
    if (e != OK) {
        batch_rewrite_drop(&w);
        return e;
    }
    x->h.attributes = (int16_t)((x->h.attributes & ~BATCH_DELETE_HORIZON) |
                                (horizon >= 0 ? BATCH_DELETE_HORIZON : 0));
    if (!(x->h.attributes & BATCH_TIMESTAMP_APPEND)) {
        x->h.max_timestamp = w.max_timestamp;
    }
    return batch_rewrite_end(&w, &x->h, m);
}

static enum err write_empty(struct filtering *x, struct buf *out)
{
    uint8_t *p = buf_reserve(out, BATCH_HEADER_BYTES);
    if (!p) {
        out->failed = false;
        return ERR_NOMEM;
    }
    x->h.attributes &= BATCH_TIMESTAMP_APPEND | BATCH_TRANSACTIONAL | BATCH_CONTROL;
    x->h.base_timestamp = -1;
    x->h.record_count = 0;
    batch_seal(p, BATCH_HEADER_BYTES, &x->h);
    out->len += BATCH_HEADER_BYTES;
    return batch_read_header(slice_make(p, BATCH_HEADER_BYTES), &x->h);
}

static enum err write_filtered(struct filtering *x, struct buf *out, struct batch_filtered *result,
                               struct errmsg *m)
{
    bool marked = x->h.attributes & BATCH_DELETE_HORIZON;
    bool mark = !marked && x->f->delete_horizon_ms >= 0 && (x->tombstone || x->f->mark_always);
    int64_t horizon = mark ? x->f->delete_horizon_ms : marked ? x->h.base_timestamp : -1;
    *result = (struct batch_filtered){.seen = x->seen, .kept = x->kept};
    enum err e = OK;
    if (x->kept == 0 && x->h.record_count > 0) {
        e = write_empty(x, out);
    } else if (x->kept == x->seen && !(mark && x->kept > 0)) {
        result->same = true;
    } else {
        e = write_kept(x, horizon, out, m);
    }
    result->h = x->h;
    return e;
}

enum err batch_filter(struct slice batch, const struct batch_filter *f, struct buf *out,
                      struct batch_filtered *result, struct errmsg *m)
{
    struct filtering x = {.f = f};
    buf_init(&x.plain, f->plain_bytes_max);
    buf_init(&x.stays, INT32_MAX);
    enum err e = batch_plain(batch, &x.plain, &x.records, m);
    if (e == OK) {
        e = batch_read_header(batch, &x.h);
    }
    if (e == OK) {
        e = ask_keep(&x, m);
    }
    if (e == OK) {
        e = write_filtered(&x, out, result, m);
    }
    buf_fini(&x.plain);
    buf_fini(&x.stays);
    return e == ERR_NOMEM ? err_set(m, e, "no memory to filter a batch") : e;
}
