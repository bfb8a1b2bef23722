/* The judge of Produce: from the bytes of a request to one batch that may be appended.
 *
 *   bytes ──▶ one batch of magic 2 ──▶ base offset, size, checksum ──▶ counts, flags, producer
 *                                                                           │
 *   batch ◀── max timestamp, type (or another codec) ◀── each record ◀── decompressed
 *
 * The order is Kafka's, because a batch with two faults has to get the error that Kafka gives it.
 * A fault of the batch ends the judgement; faults of records are collected, since KIP-467 tells the
 * producer which ones they were.
 *
 * Stricter than Kafka 4.1, where it would take what consumers cannot read or our log must not hold:
 *   - offset deltas count 0, 1, 2, …: Kafka stores others as they are when nothing is compressed,
 *     and fails with an unknown error when something is;
 *   - a record is as long as it says, also within compressed batches, and null is length -1 only;
 *   - lz4 frames have independent blocks, as Java's readers want, and no codec leaves bytes over;
 *   - transactional records have a producer id;
 *   - LogAppendTime is refused on every topic: Kafka takes it for CreateTime when its one timestamp
 *     is in range, and then knows a max timestamp that no record has;
 *   - what a batch holds decompressed is bounded.
 * Where Kafka answers with an unknown error because it threw something unexpected (a codec that
 * does not exist, data that does not decompress), the error here says what is wrong.
 *
 * Corrected, not refused, as Kafka does: a max timestamp that is not true. Attributes without a
 * meaning are cleared, and so is the delete horizon, which is the cleaner's to set. */
#include "shared/record/validate.h"

#include <inttypes.h>
#include <stdio.h>

#include "shared/record/compress.h"
#include "shared/record/decompress.h"
#include "shared/record/rewrite.h"

#define MAGIC_OFFSET         16
#define LOG_OVERHEAD         12 /* base offset and length */
#define MESSAGE_BYTES_MIN    14 /* after them, in any message format there ever was */
#define ZSTD_PRODUCE_VERSION 7  /* KIP-110 */
#define NO_TIMESTAMP         (-1)

/* Attributes that a client's batch may keep. */
#define CLIENT_ATTRIBUTES (BATCH_CODEC_MASK | BATCH_TRANSACTIONAL)

struct judge {
    struct record_validator *v;
    const struct record_rules *rules;
    struct record_verdict *out;
    struct slice batch;
    struct slice records;  /* decompressed */
    int64_t max_timestamp; /* of the records */
    bool bad_timestamp;    /* one of the records' errors is about a timestamp */
};

struct record_rules record_rules_default(int64_t now_ms)
{
    return (struct record_rules){
        .produce_version = INT16_MAX,
        .codec = RECORD_CODEC_PRODUCER,
        .level = BATCH_LEVEL_DEFAULT,
        .message_bytes_max = 1048588,
        .before_max_ms = INT64_MAX,
        .after_max_ms = 3600000,
        .now_ms = now_ms,
    };
}

void record_validator_init(struct record_validator *v, size_t plain_bytes_max)
{
    buf_init(&v->plain, plain_bytes_max);
    buf_init(&v->out, INT32_MAX);
    buf_init(&v->errors, RECORD_ERRORS_MAX * sizeof(struct record_error));
}

void record_validator_fini(struct record_validator *v)
{
    buf_fini(&v->plain);
    buf_fini(&v->out);
    buf_fini(&v->errors);
}

#define FAULT(j, kind, ...) fault((j)->out, kind, __VA_ARGS__)

static enum record_fault PRINTF_LIKE(3, 4)
    fault(struct record_verdict *out, enum record_fault kind, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(out->why.text, sizeof out->why.text, fmt, ap); /* cut off is good enough */
    va_end(ap);
    return out->fault = kind;
}

/* --- where batches end ------------------------------------------------------------------------ */

enum found {
    FOUND_BATCH,
    FOUND_END, /* nothing, or a piece of a batch */
    FOUND_CORRUPT,
};

/* The next whole batch of any magic, as Kafka's reader of a buffer finds it. */
static enum found next_batch(struct judge *j, struct slice *in, struct slice *batch)
{
    if (in->len < LOG_OVERHEAD) {
        return FOUND_END;
    }
    int32_t size = (int32_t)be32_get(in->data + 8);
    if (size < MESSAGE_BYTES_MIN) {
        FAULT(j, RECORD_CORRUPT, "batch length %d is less than any batch has", size);
        return FOUND_CORRUPT;
    }
    if (in->len <= MAGIC_OFFSET) {
        return FOUND_END;
    }
    int magic = (int8_t)in->data[MAGIC_OFFSET];
    if (magic < 0 || magic > BATCH_MAGIC) {
        FAULT(j, RECORD_CORRUPT, "batch magic %d is not known", magic);
        return FOUND_CORRUPT;
    }
    if ((size_t)size > in->len - LOG_OVERHEAD) {
        return FOUND_END;
    }
    *batch = slice_make(in->data, LOG_OVERHEAD + (size_t)size);
    *in = slice_make(in->data + batch->len, in->len - batch->len);
    return FOUND_BATCH;
}

static enum record_fault judge_form(struct judge *j, struct slice in)
{
    enum found found = next_batch(j, &in, &j->batch);
    if (found != FOUND_BATCH) {
        return found == FOUND_CORRUPT
                   ? j->out->fault
                   : FAULT(j, RECORD_INVALID, "the request holds no whole batch");
    }
    int magic = (int8_t)j->batch.data[MAGIC_OFFSET];
    if (magic != BATCH_MAGIC) {
        return FAULT(j, RECORD_INVALID,
                     "message format %d is not taken any more; a batch has magic %d", magic,
                     BATCH_MAGIC);
    }
    /* The smallest batch that got here reaches beyond its attributes. */
    int codec = be16_get(j->batch.data + BATCH_ATTRIBUTES_OFFSET) & BATCH_CODEC_MASK;
    if (codec == BATCH_CODEC_ZSTD && j->rules->produce_version < ZSTD_PRODUCE_VERSION) {
        return FAULT(j, RECORD_UNSUPPORTED_CODEC,
                     "zstd needs Produce version %d or later, the request has version %d",
                     ZSTD_PRODUCE_VERSION, j->rules->produce_version);
    }
    struct slice second;
    found = next_batch(j, &in, &second);
    if (found != FOUND_END) {
        return found == FOUND_CORRUPT
                   ? j->out->fault
                   : FAULT(j, RECORD_INVALID, "a partition of a request holds one batch, not more");
    }
    return RECORD_FINE;
}

/* --- the batch as a whole --------------------------------------------------------------------- */

static enum record_fault judge_bytes(struct judge *j)
{
    struct batch_header *h = &j->out->h;
    int64_t base = (int64_t)be64_get(j->batch.data);
    if (base != 0) {
        return FAULT(j, RECORD_INVALID, "a producer's batch has base offset 0, not %" PRId64, base);
    }
    if (j->batch.len > (size_t)j->rules->message_bytes_max) {
        return FAULT(j, RECORD_TOO_LARGE, "a batch of %zu bytes is over max.message.bytes, %d",
                     j->batch.len, j->rules->message_bytes_max);
    }
    if (batch_read_header(j->batch, h) != OK) {
        return FAULT(j, RECORD_CORRUPT, "a batch has at least %d bytes, not %zu",
                     BATCH_HEADER_BYTES, j->batch.len);
    }
    uint32_t crc = crc32c(0, j->batch.data + BATCH_ATTRIBUTES_OFFSET,
                          j->batch.len - BATCH_ATTRIBUTES_OFFSET);
    if (crc != h->crc) {
        return FAULT(j, RECORD_CORRUPT, "batch checksum is %08x, its bytes have %08x", h->crc, crc);
    }
    int codec = h->attributes & BATCH_CODEC_MASK;
    if (codec > BATCH_CODEC_ZSTD) {
        return FAULT(j, RECORD_UNSUPPORTED_CODEC, "compression codec %d is not known", codec);
    }
    return RECORD_FINE;
}

static enum record_fault judge_header(struct judge *j)
{
    const struct batch_header *h = &j->out->h;
    int64_t offsets = (int64_t)h->last_offset_delta + 1;
    if (offsets <= 0) {
        return FAULT(j, RECORD_INVALID, "last offset delta %d is below the first offset",
                     h->last_offset_delta);
    }
    if (h->record_count <= 0) {
        return FAULT(j, RECORD_INVALID, "a batch cannot hold %d records", h->record_count);
    }
    if (offsets != h->record_count) {
        return FAULT(j, RECORD_INVALID, "a batch has %d records at %" PRId64 " offsets",
                     h->record_count, offsets);
    }
    if (h->attributes & BATCH_CONTROL) {
        return FAULT(j, RECORD_INVALID, "control records are not a client's to write");
    }
    if (h->producer_id >= 0 && h->base_sequence < 0) {
        return FAULT(j, RECORD_INVALID, "producer id %" PRId64 " with sequence number %d",
                     h->producer_id, h->base_sequence);
    }
    if (h->producer_id < 0 && (h->attributes & BATCH_TRANSACTIONAL)) {
        return FAULT(j, RECORD_INVALID, "transactional records have no producer id");
    }
    return RECORD_FINE;
}

/* --- records ---------------------------------------------------------------------------------- */

static enum record_fault judge_codec(struct judge *j)
{
    struct errmsg m = {""};
    if ((j->out->h.attributes & BATCH_CODEC_MASK) == BATCH_CODEC_LZ4 &&
        lz4_blocks_are_linked(slice_make(j->batch.data + BATCH_HEADER_BYTES,
                                         j->batch.len - BATCH_HEADER_BYTES))) {
        return FAULT(j, RECORD_INVALID, "the blocks of an lz4 frame have to be independent");
    }
    enum err e = batch_plain(j->batch, &j->v->plain, &j->records, &m);
    switch (e) {
    case OK:
        j->out->plain_bytes = j->v->plain.len;
        return RECORD_FINE;
    case ERR_TOO_LARGE:
        j->out->over_plain = true;
        j->out->plain_bytes = j->v->plain.max;
        return FAULT(j, RECORD_TOO_LARGE, "decompressed, the %s", m.text);
    case ERR_NOMEM:
        return FAULT(j, RECORD_NO_MEMORY, "%s", m.text);
    default:
        return FAULT(j, RECORD_INVALID, "%s", m.text);
    }
}

static void add_error(struct judge *j, int32_t index, enum record_error_kind kind,
                      int64_t timestamp)
{
    struct record_error e = {index, kind, timestamp};
    buf_put(&j->v->errors, &e, sizeof e); /* full: a list that is shorter */
    j->bad_timestamp |= kind != RECORD_ERROR_NO_KEY;
}

/* As far from now as the topic allows? Differences wrap, as Java's do. */
static bool timestamp_in_range(const struct record_rules *rules, int64_t timestamp)
{
    int64_t age = (int64_t)((uint64_t)rules->now_ms - (uint64_t)timestamp);
    int64_t lead = (int64_t)(0 - (uint64_t)age);
    return age <= rules->before_max_ms && lead <= rules->after_max_ms;
}

static void judge_record(struct judge *j, const struct raw_record *r, int32_t index)
{
    const struct record_rules *rules = j->rules;
    int64_t timestamp = batch_timestamp_of(&j->out->h, r->timestamp_delta);
    if (rules->keys_required && !r->key.data) {
        add_error(j, index, RECORD_ERROR_NO_KEY, timestamp);
    } else if (j->out->h.attributes & BATCH_TIMESTAMP_APPEND) {
        add_error(j, index, RECORD_ERROR_TIMESTAMP_TYPE, timestamp);
    } else if (!rules->append_time && timestamp != NO_TIMESTAMP &&
               !timestamp_in_range(rules, timestamp)) {
        add_error(j, index, RECORD_ERROR_TIMESTAMP, timestamp);
    }
    j->max_timestamp = timestamp > j->max_timestamp ? timestamp : j->max_timestamp;
}

static enum record_fault judge_records(struct judge *j)
{
    struct errmsg m = {""};
    struct record_cursor c = record_cursor_make(j->records, j->out->h.record_count);
    for (;;) {
        struct raw_record r;
        int32_t index = c.index;
        enum err e = record_next(&c, &r, &m);
        if (e == ERR_NOT_FOUND) {
            break;
        }
        if (e != OK) {
            return FAULT(j, RECORD_INVALID, "%s", m.text);
        }
        if (r.offset_delta != index) {
            return FAULT(j, RECORD_INVALID, "record %d of a batch has offset delta %d", index,
                         r.offset_delta);
        }
        judge_record(j, &r, index);
    }
    /* Only now: a batch that cannot be read to its end is refused as a whole. */
    j->out->error_count = (uint32_t)(j->v->errors.len / sizeof(struct record_error));
    if (j->out->error_count == 0) {
        return RECORD_FINE;
    }
    j->out->errors = (const struct record_error *)(const void *)j->v->errors.data;
    return j->bad_timestamp
               ? FAULT(j, RECORD_INVALID_TIMESTAMP,
                       "one or more records were rejected because of their timestamp")
               : FAULT(j, RECORD_INVALID, "%u records were rejected", j->out->error_count);
}

/* --- ready for the log ------------------------------------------------------------------------ */

/* Header fields as they have to be; the bytes change only where they were not. */
static void settle(struct judge *j, uint8_t *batch, int16_t attributes, int64_t max_timestamp)
{
    struct batch_header *h = &j->out->h;
    if (h->attributes != attributes || h->max_timestamp != max_timestamp) {
        h->attributes = attributes;
        h->max_timestamp = max_timestamp;
        batch_seal(batch, j->batch.len, h);
        h->crc = be32_get(batch + BATCH_CRC_OFFSET);
    }
    j->out->batch = batch;
    j->out->batch_len = j->batch.len;
}

/* The same records, compressed otherwise: their bytes do not change, only the header's do. */
static enum err write_in_codec(struct judge *j, struct errmsg *m)
{
    struct buf *out = &j->v->out;
    if (!buf_reserve(out, BATCH_HEADER_BYTES)) {
        return ERR_NOMEM;
    }
    out->len = BATCH_HEADER_BYTES;
    return compress_records((enum batch_codec)j->rules->codec, j->rules->level, j->records, out, m);
}

static enum record_fault recompress(struct judge *j, int16_t attributes, int64_t max_timestamp)
{
    struct errmsg m = {""};
    struct batch_header *h = &j->out->h;
    struct buf *out = &j->v->out;
    enum err e = write_in_codec(j, &m);
    if (e == ERR_NOMEM) {
        return FAULT(j, RECORD_NO_MEMORY, "no memory to write a batch in another codec");
    }
    if (e != OK || out->len > (size_t)j->rules->message_bytes_max) {
        return FAULT(j, RECORD_TOO_LARGE,
                     "in the topic's codec the batch is over max.message.bytes, %d",
                     j->rules->message_bytes_max);
    }
    h->attributes = (int16_t)((attributes & ~BATCH_CODEC_MASK) | j->rules->codec);
    h->max_timestamp = max_timestamp;
    batch_seal(out->data, out->len, h);
    j->out->batch = out->data;
    j->out->batch_len = out->len;
    ASSERT(batch_read_header(buf_slice(out), h) == OK); /* length and checksum, as sealed */
    return RECORD_FINE;
}

static enum record_fault make_ready(struct judge *j, uint8_t *data)
{
    const struct record_rules *rules = j->rules;
    int16_t attributes = (int16_t)(j->out->h.attributes & CLIENT_ATTRIBUTES);
    int64_t max_timestamp = j->max_timestamp;
    if (rules->append_time) {
        attributes |= BATCH_TIMESTAMP_APPEND;
        max_timestamp = rules->now_ms;
        j->out->append_time = rules->now_ms;
    }
    if (rules->codec != RECORD_CODEC_PRODUCER && rules->codec != (attributes & BATCH_CODEC_MASK)) {
        return recompress(j, attributes, max_timestamp);
    }
    settle(j, data, attributes, max_timestamp);
    return RECORD_FINE;
}

enum record_fault record_validate(struct record_validator *v, uint8_t *data, size_t len,
                                  const struct record_rules *rules, struct record_verdict *out)
{
    struct judge j = {.v = v, .rules = rules, .out = out, .max_timestamp = NO_TIMESTAMP};
    *out = (struct record_verdict){.append_time = -1};
    buf_trim(&v->out, RECORD_KEEP_BYTES);
    buf_reset(&v->errors);
    buf_reset(&v->plain);
    enum record_fault f = judge_form(&j, slice_make(data, data ? len : 0));
    f = f == RECORD_FINE ? judge_bytes(&j) : f;
    f = f == RECORD_FINE ? judge_header(&j) : f;
    f = f == RECORD_FINE ? judge_codec(&j) : f;
    f = f == RECORD_FINE ? judge_records(&j) : f;
    f = f == RECORD_FINE ? make_ready(&j, data) : f;
    buf_trim(&v->plain, RECORD_KEEP_BYTES); /* nobody borrows it */
    return f;
}

void record_error_text(const struct record_error *e, const struct record_rules *rules,
                       struct errmsg *m)
{
    uint64_t now = (uint64_t)rules->now_ms;
    switch (e->kind) {
    case RECORD_ERROR_NO_KEY:
        (void)err_set(m, OK, "a record of a compacted topic needs a key");
        break;
    case RECORD_ERROR_TIMESTAMP:
        (void)err_set(m, OK,
                      "timestamp %" PRId64 " is not within [%" PRId64 ", %" PRId64
                      "], which the topic allows",
                      e->timestamp, (int64_t)(now - (uint64_t)rules->before_max_ms),
                      (int64_t)(now + (uint64_t)rules->after_max_ms));
        break;
    case RECORD_ERROR_TIMESTAMP_TYPE:
        (void)err_set(m, OK, "a producer does not set the timestamp type LogAppendTime");
        break;
    }
}

const char *record_fault_name(enum record_fault f)
{
    static const char *const names[] = {
        [RECORD_FINE] = "FINE",
        [RECORD_CORRUPT] = "CORRUPT",
        [RECORD_TOO_LARGE] = "TOO_LARGE",
        [RECORD_INVALID_TIMESTAMP] = "INVALID_TIMESTAMP",
        [RECORD_UNSUPPORTED_CODEC] = "UNSUPPORTED_CODEC",
        [RECORD_INVALID] = "INVALID",
        [RECORD_NO_MEMORY] = "NO_MEMORY",
    };
    return names[f];
}
