/* Walking the records of a batch. Everything in it is a stranger's, also after batch_check: the
 * checksum only says that the bytes are as they were sent.
 *
 * A record is read through a reader of its own, bounded by the record's length, and must use all of
 * it. Offsets must rise and stay within the header's last offset, because ListOffsets relies on
 * it. */
#include "shared/record/decompress.h"
#include "shared/record/record.h"

/* What a record needs to know of its batch, and the record before it. */
struct walk {
    struct batch_header h;
    int64_t last_delta; /* offset delta of the record before; -1 at first */
    struct record_header headers[RECORD_HEADERS_MAX];
};

/* A field with its length in front; -1 is null. */
static struct slice read_bytes(struct reader *r, bool null_allowed)
{
    int32_t n = reader_varint32(r);
    if (n == -1 && null_allowed) {
        return slice_make(NULL, 0);
    }
    if (n < 0) {
        r->failed = true;
        return slice_make(NULL, 0);
    }
    return reader_bytes(r, (size_t)n);
}

static enum err read_record(struct walk *w, struct reader *r, struct record *out, struct errmsg *m)
{
    reader_u8(r); /* attributes: none is defined */
    int64_t timestamp_delta = reader_varint64(r);
    int32_t offset_delta = reader_varint32(r);
    out->key = read_bytes(r, true);
    out->value = read_bytes(r, true);
    int32_t headers = reader_varint32(r);
    if (!r->failed && headers > RECORD_HEADERS_MAX) {
        return err_set(m, ERR_TOO_LARGE, "a record has %d headers, more than %d", headers,
                       RECORD_HEADERS_MAX);
    }
    for (int32_t i = 0; i < headers && !r->failed; i++) {
        w->headers[i].key = read_bytes(r, false);
        w->headers[i].value = read_bytes(r, true);
    }
    if (r->failed || headers < 0 || reader_left(r) > 0) {
        return err_set(m, ERR_CORRUPT, "a record after offset delta %lld is malformed",
                       (long long)w->last_delta);
    }
    if (offset_delta <= w->last_delta || offset_delta > w->h.last_offset_delta) {
        return err_set(m, ERR_CORRUPT, "a record has offset delta %d after %lld, of at most %d",
                       offset_delta, (long long)w->last_delta, w->h.last_offset_delta);
    }
    w->last_delta = offset_delta;
    out->offset = (int64_t)((uint64_t)w->h.base_offset + (uint64_t)(int64_t)offset_delta);
    out->timestamp = w->h.attributes & BATCH_TIMESTAMP_APPEND
                         ? w->h.max_timestamp
                         : (int64_t)((uint64_t)w->h.base_timestamp + (uint64_t)timestamp_delta);
    out->headers = w->headers;
    out->header_count = (uint32_t)headers;
    return OK;
}

static enum err walk_records(struct walk *w, struct slice records, record_fn *fn, void *arg,
                             struct errmsg *m)
{
    struct reader all = reader_make(records);
    for (int32_t i = 0; i < w->h.record_count; i++) {
        int32_t n = reader_varint32(&all);
        struct slice bytes = reader_bytes(&all, n < 0 ? SIZE_MAX : (size_t)n);
        if (all.failed) {
            return err_set(m, ERR_CORRUPT, "the batch ends within record %d of %d", i,
                           w->h.record_count);
        }
        struct reader one = reader_make(bytes);
        struct record r;
        enum err e = read_record(w, &one, &r, m);
        if (e != OK) {
            return e;
        }
        if (!fn(arg, &r)) {
            return OK;
        }
    }
    if (reader_left(&all) > 0) {
        return err_set(m, ERR_CORRUPT, "%zu bytes follow the last record of a batch",
                       reader_left(&all));
    }
    return OK;
}

enum err batch_walk(struct slice batch, size_t bytes_max, record_fn *fn, void *arg,
                    struct errmsg *m)
{
    struct walk w;
    w.last_delta = -1;
    if (batch_read_header(batch, &w.h) != OK || w.h.magic != BATCH_MAGIC ||
        w.h.batch_length < BATCH_HEADER_BYTES - BATCH_LENGTH_OFFSET ||
        batch_total_bytes(&w.h) > batch.len || w.h.record_count < 0) {
        return err_set(m, ERR_CORRUPT, "the header of a batch makes no sense");
    }
    struct slice records =
        slice_make(batch.data + BATCH_HEADER_BYTES, batch_total_bytes(&w.h) - BATCH_HEADER_BYTES);
    enum batch_codec codec = (enum batch_codec)(w.h.attributes & BATCH_CODEC_MASK);
    if (codec == BATCH_CODEC_NONE) {
        return walk_records(&w, records, fn, arg, m);
    }
    struct buf plain;
    buf_init(&plain, bytes_max);
    enum err e = decompress(codec, records, &plain, m);
    if (e == OK) {
        e = walk_records(&w, buf_slice(&plain), fn, arg, m);
    }
    buf_fini(&plain);
    return e;
}
