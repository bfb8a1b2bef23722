/* Walking the records of a batch. Everything in it is a stranger's, also after batch_check: the
 * checksum only says that the bytes are as they were sent.
 *
 * A record is read through a reader of its own, bounded by the record's length, and must use all of
 * it. Offsets must rise and stay within the header's last offset, because ListOffsets relies on
 * it. */
#include "shared/record/decompress.h"
#include "shared/record/record.h"

/* A varint, mostly of one or two bytes: a record has seven of them, and there can be a million
 * records a second, so those do not cost calls. */
static inline int64_t read_varint(struct reader *r)
{
    if (!r->failed && r->end - r->p >= 2) {
        uint32_t v = r->p[0];
        size_t n = 1;
        if (v & 0x80) {
            v = (v & 0x7f) | (uint32_t)r->p[1] << 7;
            n = 2;
        }
        if (n == 1 || r->p[1] < 0x80) {
            r->p += n;
            return (int64_t)(v >> 1) ^ -(int64_t)(v & 1);
        }
    }
    return INT64_MIN;
}

static inline int32_t read_varint32(struct reader *r)
{
    int64_t v = read_varint(r);
    return v != INT64_MIN ? (int32_t)v : reader_varint32(r);
}

static inline int64_t read_varint64(struct reader *r)
{
    int64_t v = read_varint(r);
    return v != INT64_MIN ? v : reader_varint64(r);
}

static inline struct slice take_bytes(struct reader *r, size_t n)
{
    if (r->failed || n > (size_t)(r->end - r->p)) {
        r->failed = true;
        return slice_make(NULL, 0);
    }
    r->p += n;
    return slice_make(r->p - n, n);
}

/* A field with its length in front; -1 is null. */
static struct slice read_bytes(struct reader *r, bool null_allowed)
{
    int32_t n = read_varint32(r);
    if (n == -1 && null_allowed) {
        return slice_make(NULL, 0);
    }
    if (n < 0) {
        r->failed = true;
        return slice_make(NULL, 0);
    }
    return take_bytes(r, (size_t)n);
}

/* --- records as they lie ---------------------------------------------------------------------- */

struct record_cursor record_cursor_make(struct slice plain, int32_t count)
{
    return (struct record_cursor){.in = reader_make(plain), .count = count};
}

static void skip_headers(struct reader *r, int32_t count)
{
    /* A header has two bytes at least, so a count that lies ends with the record. */
    for (int32_t i = 0; i < count && !r->failed; i++) {
        read_bytes(r, false);
        read_bytes(r, true);
    }
}

enum err record_next(struct record_cursor *c, struct raw_record *out, struct errmsg *m)
{
    if (c->index >= c->count) {
        return reader_left(&c->in) == 0
                   ? ERR_NOT_FOUND
                   : err_set(m, ERR_CORRUPT, "%zu bytes follow the last record of a batch",
                             reader_left(&c->in));
    }
    int32_t n = read_varint32(&c->in);
    struct slice bytes = take_bytes(&c->in, n < 0 ? SIZE_MAX : (size_t)n);
    if (c->in.failed) {
        return err_set(m, ERR_CORRUPT, "the batch ends within record %d of %d", c->index,
                       c->count);
    }
    struct reader r = {.p = bytes.data, .end = bytes.data + bytes.len};
    take_bytes(&r, 1); /* attributes: none is defined */
    out->timestamp_delta = read_varint64(&r);
    out->offset_delta = read_varint32(&r);
    const uint8_t *rest = r.p;
    out->key = read_bytes(&r, true);
    out->value = read_bytes(&r, true);
    out->header_count = read_varint32(&r);
    skip_headers(&r, out->header_count);
    if (r.failed || out->header_count < 0 || reader_left(&r) > 0) {
        return err_set(m, ERR_CORRUPT, "record %d of %d is malformed", c->index, c->count);
    }
    out->rest = slice_make(rest, (size_t)(r.end - rest));
    c->index++;
    return OK;
}

enum err batch_plain(struct slice batch, struct buf *plain, struct slice *records, struct errmsg *m)
{
    struct batch_header h;
    buf_reset(plain);
    if (batch_read_header(batch, &h) != OK || h.magic != BATCH_MAGIC ||
        h.batch_length < BATCH_HEADER_BYTES - BATCH_LENGTH_OFFSET ||
        batch_total_bytes(&h) > batch.len || h.record_count < 0) {
        return err_set(m, ERR_CORRUPT, "the header of a batch makes no sense");
    }
    *records =
        slice_make(batch.data + BATCH_HEADER_BYTES, batch_total_bytes(&h) - BATCH_HEADER_BYTES);
    enum batch_codec codec = (enum batch_codec)(h.attributes & BATCH_CODEC_MASK);
    if (codec == BATCH_CODEC_NONE) {
        return OK;
    }
    enum err e = h.record_count == 0 && records->len == 0 ? OK
                                                          : decompress(codec, *records, plain, m);
    *records = buf_slice(plain);
    return e;
}

static enum err scan_records(const struct batch_header *h, struct slice records, raw_record_fn *fn,
                             void *arg, struct errmsg *m)
{
    struct record_cursor c = record_cursor_make(records, h->record_count);
    int64_t last = -1;
    for (;;) {
        struct raw_record r;
        enum err e = record_next(&c, &r, m);
        if (e != OK) {
            return e == ERR_NOT_FOUND ? OK : e;
        }
        if (r.offset_delta <= last || r.offset_delta > h->last_offset_delta) {
            return err_set(m, ERR_CORRUPT, "a record has offset delta %d after %lld, of at most %d",
                           r.offset_delta, (long long)last, h->last_offset_delta);
        }
        last = r.offset_delta;
        if (!fn(arg, h, &r)) {
            return OK;
        }
    }
}

enum err batch_scan(struct slice batch, size_t bytes_max, raw_record_fn *fn, void *arg,
                    struct errmsg *m)
{
    struct batch_header h;
    struct buf plain;
    struct slice records;
    buf_init(&plain, bytes_max);
    enum err e = batch_plain(batch, &plain, &records, m);
    if (e == OK) {
        e = batch_read_header(batch, &h);
    }
    if (e == OK) {
        e = scan_records(&h, records, fn, arg, m);
    }
    buf_fini(&plain);
    return e;
}

/* --- records with their headers --------------------------------------------------------------- */

/* A walk over records, of which each lends its headers for a call. */
struct walk {
    record_fn *fn;
    void *arg;
    struct errmsg *m;
    enum err e;
    struct record_header headers[RECORD_HEADERS_MAX];
};

static bool walk_record(void *arg, const struct batch_header *h, const struct raw_record *raw)
{
    struct walk *w = arg;
    if (raw->header_count > RECORD_HEADERS_MAX) {
        w->e = err_set(w->m, ERR_TOO_LARGE, "a record has %d headers, more than %d",
                       raw->header_count, RECORD_HEADERS_MAX);
        return false;
    }
    struct reader r = reader_make(raw->rest); /* record_next has read it: this cannot fail */
    read_bytes(&r, true);
    read_bytes(&r, true);
    read_varint32(&r);
    for (int32_t i = 0; i < raw->header_count; i++) {
        w->headers[i].key = read_bytes(&r, false);
        w->headers[i].value = read_bytes(&r, true);
    }
    struct record out = {.offset = batch_offset_of(h, raw->offset_delta),
                         .timestamp = batch_timestamp_of(h, raw->timestamp_delta),
                         .key = raw->key,
                         .value = raw->value,
                         .headers = w->headers,
                         .header_count = (uint32_t)raw->header_count};
    return w->fn(w->arg, &out);
}

enum err batch_walk(struct slice batch, size_t bytes_max, record_fn *fn, void *arg,
                    struct errmsg *m)
{
    struct walk w;
    w.fn = fn;
    w.arg = arg;
    w.m = m;
    w.e = OK;
    enum err e = batch_scan(batch, bytes_max, walk_record, &w, m);
    return e == OK ? w.e : e;
}
