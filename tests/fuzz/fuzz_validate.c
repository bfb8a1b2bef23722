/* Fuzzing Produce's judge: rules and the bytes of a request, as they are and with length and
 * checksum made right.
 *
 *   input   flags u8: keys required, LogAppendTime, small limits, old request | codec u8 | bytes
 *
 * What is taken must be a batch that anybody can read, that the judge takes again unchanged, and of
 * which the cleaner can take records away. What is refused has not been touched. The golden batches
 * are what it starts from. */
#include <stdlib.h>

#include "shared/record/control.h"
#include "shared/record/rewrite.h"
#include "shared/record/validate.h"

#define REQUEST_MAX (64u << 10)
#define PLAIN_MAX   (256u << 10)
#define NOW         1700000400000

enum { FLAG_KEYS = 1, FLAG_APPEND_TIME = 2, FLAG_SMALL = 4, FLAG_OLD = 8 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct dense {
    const struct record_rules *rules;
    int64_t next;
    int64_t max_timestamp;
};

static bool see(void *arg, const struct record *r)
{
    struct dense *d = arg;
    ASSERT(r->offset == d->next++);
    ASSERT(r->key.data || !d->rules->keys_required);
    d->max_timestamp = r->timestamp > d->max_timestamp ? r->timestamp : d->max_timestamp;
    return true;
}

static bool keep_third(void *arg, const struct batch_header *h, const struct raw_record *r)
{
    return r->offset_delta % 3 == *(int *)arg;
}

/* Some of its records are taken away, as the cleaner does it. */
static void filter(struct slice batch, int third)
{
    struct batch_filter f = {keep_third, &third, PLAIN_MAX, third ? NOW : -1, false};
    struct batch_filtered r;
    struct batch_header h, was;
    struct errmsg m;
    struct buf out;
    buf_init(&out, INT32_MAX);
    ASSERT(batch_filter(batch, &f, &out, &r, &m) == OK);
    if (!r.same) {
        ASSERT(batch_check(buf_slice(&out), &m) == OK);
        ASSERT(batch_read_header(buf_slice(&out), &h) == OK);
        ASSERT(batch_read_header(batch, &was) == OK);
        ASSERT(h.record_count == r.kept && h.last_offset_delta == was.last_offset_delta);
        ASSERT(h.base_offset == was.base_offset && h.producer_id == was.producer_id);
    }
    buf_fini(&out);
}

/* The codec is the topic's now, its type of timestamp stays: nothing is left to be changed. */
static void judge_again(struct slice batch, struct record_rules rules, enum batch_codec codec)
{
    struct record_validator v;
    struct record_verdict out;
    uint8_t *copy = malloc(batch.len);
    ASSERT(copy);
    memcpy(copy, batch.data, batch.len);
    record_validator_init(&v, PLAIN_MAX);
    enum record_fault f = record_validate(&v, copy, batch.len, &rules, &out);
    /* In a codec that it did not have it can be over a limit, or too new for the request. */
    ASSERT(f == (rules.append_time ? RECORD_INVALID_TIMESTAMP : RECORD_FINE) ||
           (f == RECORD_TOO_LARGE && codec != BATCH_CODEC_NONE) ||
           (f == RECORD_UNSUPPORTED_CODEC && rules.produce_version < 7));
    ASSERT(memcmp(copy, batch.data, batch.len) == 0);
    record_validator_fini(&v);
    free(copy);
}

static void judge(const uint8_t *data, size_t size, const struct record_rules *rules)
{
    struct record_validator v;
    struct record_verdict out;
    struct errmsg m;
    uint8_t *copy = malloc(size + 1);
    ASSERT(copy);
    memcpy(copy, data, size);
    record_validator_init(&v, PLAIN_MAX);
    if (record_validate(&v, copy, size, rules, &out) != RECORD_FINE) {
        ASSERT(out.why.text[0] != '\0' && memcmp(copy, data, size) == 0);
        for (uint32_t i = 0; i < out.error_count; i++) {
            ASSERT(out.errors[i].index < out.h.record_count);
            record_error_text(&out.errors[i], rules, &m);
        }
    } else {
        struct slice batch = slice_make(out.batch, out.batch_len);
        struct dense d = {rules, 0, -1};
        ASSERT(batch_check(batch, &m) == OK);
        enum err e = batch_walk(batch, PLAIN_MAX * 2, see, &d, &m);
        ASSERT(e == ERR_TOO_LARGE || (e == OK && d.next == out.h.record_count));
        ASSERT(e != OK || out.h.max_timestamp == (rules->append_time ? NOW : d.max_timestamp));
        ASSERT(!(out.h.attributes & (BATCH_CONTROL | BATCH_DELETE_HORIZON)));
        if (e == OK && out.batch_len <= size) {
            judge_again(batch, *rules, (enum batch_codec)(out.h.attributes & BATCH_CODEC_MASK));
            filter(batch, (int)(out.h.crc % 3));
        }
    }
    record_validator_fini(&v);
    free(copy);
}

static struct record_rules rules_of(uint8_t flags, uint8_t codec)
{
    struct record_rules rules = record_rules_default(NOW);
    rules.keys_required = flags & FLAG_KEYS;
    rules.append_time = flags & FLAG_APPEND_TIME;
    rules.codec = (int8_t)(codec % (BATCH_CODEC_ZSTD + 2) - 1);
    rules.produce_version = flags & FLAG_OLD ? 3 : INT16_MAX;
    if (flags & FLAG_SMALL) {
        rules.message_bytes_max = 300;
        rules.before_max_ms = 1000000000;
    }
    return rules;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2 || size > REQUEST_MAX) {
        return 0;
    }
    struct record_rules rules = rules_of(data[0], data[1]);
    struct txn_marker t;
    data += 2;
    size -= 2;
    judge(data, size, &rules);
    (void)!txn_marker_read(slice_make(data, size), &t, NULL); /* whatever it says: no harm */
    if (size >= BATCH_HEADER_BYTES) {
        uint8_t *sealed = malloc(size);
        ASSERT(sealed);
        memcpy(sealed, data, size);
        be64_put(sealed, 0);
        sealed[16] = BATCH_MAGIC;
        be32_put(sealed + 8, (uint32_t)(size - BATCH_LENGTH_OFFSET));
        be32_put(sealed + BATCH_CRC_OFFSET,
                 crc32c(0, sealed + BATCH_ATTRIBUTES_OFFSET, size - BATCH_ATTRIBUTES_OFFSET));
        judge(sealed, size, &rules);
        (void)!txn_marker_read(slice_make(sealed, size), &t, NULL);
        free(sealed);
    }
    return 0;
}
