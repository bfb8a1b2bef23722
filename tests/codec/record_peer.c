/* shared/record beside Kafka's own record classes and LogValidator; see RecordOracle.java.
 *
 *   record_peer CASES PAIRS
 *
 * judges, filters and writes what the cases ask for, and says where Kafka did otherwise. What both
 * have written in a codec goes as a pair into PAIRS, for Kafka's classes to read.
 *
 * Where we refuse what Kafka takes, the reason must be one of those that validate.c argues for;
 * where Kafka failed in a way that it did not mean to (UNKNOWN_SERVER_ERROR), any answer is as
 * good. Each such kind is counted and printed. */
#include <stdio.h>
#include <stdlib.h>

#include "shared/record/control.h"
#include "shared/record/rewrite.h"
#include "shared/record/validate.h"

#define FILE_BYTES_MAX ((size_t)1 << 30)
#define SHOWN_MAX      20

enum { CASE_VALIDATE, CASE_FILTER, CASE_MARKER };
enum { KAFKA_UNKNOWN = -1, KAFKA_NONE = 0 };

static struct {
    unsigned cases, same, fine, stricter, unexpected, wrong, pairs;
} tally;
static FILE *pairs;
static struct record_validator validator;

static void PRINTF_LIKE(1, 2) wrong(const char *fmt, ...)
{
    if (tally.wrong++ < SHOWN_MAX) {
        va_list ap;
        va_start(ap, fmt);
        printf("case %u: ", tally.cases);
        vprintf(fmt, ap);
        printf("\n");
        va_end(ap);
    }
}

static int kafka_code(enum record_fault f)
{
    static const int codes[] = {
        [RECORD_FINE] = KAFKA_NONE,          [RECORD_CORRUPT] = 2,
        [RECORD_TOO_LARGE] = 10,             [RECORD_INVALID_TIMESTAMP] = 32,
        [RECORD_UNSUPPORTED_CODEC] = 76,     [RECORD_INVALID] = 87,
        [RECORD_NO_MEMORY] = 56,
    };
    return codes[f];
}

/* What validate.c says it is stricter about. */
static bool argued(const char *why)
{
    static const char *const reasons[] = {
        "has offset delta",    "is malformed", "no producer id", "blocks of an lz4 frame",
        "follow the last record", "data of batch", "ends within record",
    };
    for (size_t i = 0; i < sizeof reasons / sizeof reasons[0]; i++) {
        if (strstr(why, reasons[i])) {
            return true;
        }
    }
    return false;
}

static struct slice get_bytes(struct reader *r)
{
    return reader_bytes(r, reader_be32(r));
}

static void put_pair(struct slice kafka, struct slice ours)
{
    uint8_t n[4];
    tally.pairs++;
    be32_put(n, (uint32_t)kafka.len);
    fwrite(n, 1, sizeof n, pairs);
    fwrite(kafka.data, 1, kafka.len, pairs);
    be32_put(n, (uint32_t)ours.len);
    fwrite(n, 1, sizeof n, pairs);
    fwrite(ours.data, 1, ours.len, pairs);
}

static enum batch_codec codec_of(struct slice batch)
{
    return (enum batch_codec)(batch.data[BATCH_ATTRIBUTES_OFFSET + 1] & BATCH_CODEC_MASK);
}

/* Both took it: the same bytes, where none had to be compressed anew. */
static void compare_taken(struct slice kafka, const struct record_verdict *v, bool rewritten)
{
    batch_set_base_offset(v->batch, 0);
    batch_set_leader_epoch(v->batch, 0);
    struct slice ours = slice_make(v->batch, v->batch_len);
    bool odd_attributes = kafka.data[BATCH_ATTRIBUTES_OFFSET] != 0 ||
                          kafka.data[BATCH_ATTRIBUTES_OFFSET + 1] & 0xc0;
    if (odd_attributes) {
        tally.stricter++; /* those that we clear */
    } else if (rewritten) {
        put_pair(kafka, ours);
    } else if (!slice_eq(kafka, ours)) {
        wrong("both took the batch, but not the same bytes");
    }
    tally.fine++;
}

static void compare_errors(struct reader *r, uint32_t count, const struct record_verdict *v,
                           bool compare)
{
    if (compare && count != v->error_count) {
        wrong("Kafka names %u records, we %u (%s)", count, v->error_count, v->why.text);
        compare = false;
    }
    for (uint32_t i = 0; i < count; i++) {
        int32_t index = (int32_t)reader_be32(r);
        if (compare && index != v->errors[i].index) {
            wrong("Kafka names record %d, we %d", index, v->errors[i].index);
        }
    }
}

/* LogAppendTime, which Kafka takes here and there. */
static bool refuses_type(const struct record_verdict *v)
{
    for (uint32_t i = 0; i < v->error_count; i++) {
        if (v->errors[i].kind == RECORD_ERROR_TIMESTAMP_TYPE) {
            return true;
        }
    }
    return false;
}

static void run_validate(struct reader *r)
{
    struct record_rules rules = {.level = BATCH_LEVEL_DEFAULT};
    rules.produce_version = (int16_t)reader_be16(r);
    rules.keys_required = reader_u8(r);
    rules.append_time = reader_u8(r);
    rules.codec = (int8_t)reader_u8(r);
    rules.message_bytes_max = (int32_t)reader_be32(r);
    rules.before_max_ms = (int64_t)reader_be64(r);
    rules.after_max_ms = (int64_t)reader_be64(r);
    rules.now_ms = (int64_t)reader_be64(r);
    struct slice bytes = get_bytes(r);
    int kafka = (int16_t)reader_be16(r);
    uint32_t errors = reader_be32(r);

    uint8_t *data = malloc(bytes.len ? bytes.len : 1);
    ASSERT(data);
    memcpy(data, bytes.data, bytes.len);
    struct record_verdict v;
    int ours = kafka_code(record_validate(&validator, data, bytes.len, &rules, &v));
    bool typed = refuses_type(&v);
    compare_errors(r, errors, &v, ours == kafka && !typed && !argued(v.why.text));
    struct slice taken = get_bytes(r);
    bool rewritten = rules.codec >= 0 && v.fault == RECORD_FINE && v.batch != data;
    /* Ours compresses as its own library does, and can be a few bytes over or under the limit. */
    bool near = rewritten || (v.fault == RECORD_TOO_LARGE && strstr(v.why.text, "topic's codec"));
    if (ours == kafka && kafka == KAFKA_NONE) {
        compare_taken(taken, &v, rewritten);
    } else if (ours == kafka || (near && (kafka == 10 || ours == 10))) {
        tally.same++;
    } else if (kafka == KAFKA_UNKNOWN) {
        tally.unexpected++;
    } else if (ours == 32 && typed) {
        tally.stricter++;
    } else if (ours == 87 && argued(v.why.text)) {
        tally.stricter++;
    } else {
        wrong("Kafka says %d, we %d: %s (%zu bytes)", kafka, ours, v.why.text, bytes.len);
    }
    free(data);
}

struct keeping {
    const uint8_t *stays;
    uint32_t index;
};

static bool keep(void *arg, const struct batch_header *h, const struct raw_record *r)
{
    struct keeping *k = arg;
    return k->stays[k->index++];
}

static void run_filter(struct reader *r)
{
    struct slice batch = get_bytes(r);
    struct slice stays = get_bytes(r);
    struct keeping k = {.stays = stays.data};
    struct batch_filter f = {.keep = keep, .arg = &k, .plain_bytes_max = BATCH_PLAIN_BYTES_MAX};
    f.delete_horizon_ms = (int64_t)reader_be64(r);
    f.mark_always = reader_u8(r);
    struct slice kafka = get_bytes(r);
    struct buf out;
    struct batch_filtered result;
    struct errmsg m = {""};
    buf_init(&out, INT32_MAX);
    enum err e = batch_filter(batch, &f, &out, &result, &m);
    struct slice ours = result.same ? batch : buf_slice(&out);
    if (e != OK) {
        wrong("filter: %s: %s", err_name(e), m.text);
    } else if (!result.same && codec_of(ours) != BATCH_CODEC_NONE) {
        put_pair(kafka, ours);
    } else if (!slice_eq(kafka, ours)) {
        wrong("filtered: %d of %d records, not Kafka's bytes", result.kept, result.seen);
    }
    tally.fine++;
    buf_fini(&out);
}

static void run_marker(struct reader *r)
{
    struct txn_marker t, again;
    t.producer_id = (int64_t)reader_be64(r);
    t.producer_epoch = (int16_t)reader_be16(r);
    t.commit = reader_u8(r);
    t.coordinator_epoch = (int32_t)reader_be32(r);
    t.timestamp = (int64_t)reader_be64(r);
    struct slice kafka = get_bytes(r);
    uint8_t batch[TXN_MARKER_BYTES];
    txn_marker_write(&t, batch);
    if (!slice_eq(kafka, slice_make(batch, sizeof batch))) {
        wrong("a marker's bytes are not Kafka's");
    }
    struct errmsg m = {""};
    if (txn_marker_read(kafka, &again, &m) != OK || again.producer_id != t.producer_id ||
        again.producer_epoch != t.producer_epoch || again.commit != t.commit ||
        again.coordinator_epoch != t.coordinator_epoch || again.timestamp != t.timestamp) {
        wrong("Kafka's marker is not read: %s", m.text);
    }
    tally.fine++;
}

static struct slice read_file(const char *path)
{
    struct buf b;
    buf_init(&b, FILE_BYTES_MAX);
    FILE *f = fopen(path, "rb");
    ASSERT(f);
    size_t n;
    do {
        uint8_t *p = buf_reserve(&b, 1 << 16);
        ASSERT(p);
        n = fread(p, 1, 1 << 16, f);
        b.len += n;
    } while (n > 0);
    fclose(f);
    return buf_slice(&b);
}

int main(int argc, char **argv)
{
    static void (*const run[])(struct reader *) = {run_validate, run_filter, run_marker};
    if (argc != 3) {
        fprintf(stderr, "usage: record_peer CASES PAIRS\n");
        return 2;
    }
    struct slice all = read_file(argv[1]);
    struct reader r = reader_make(all);
    pairs = fopen(argv[2], "wb");
    ASSERT(pairs);
    record_validator_init(&validator, BATCH_PLAIN_BYTES_MAX);
    while (reader_left(&r) > 0 && !r.failed) {
        size_t kind = reader_u8(&r);
        ASSERT(kind <= CASE_MARKER);
        tally.cases++;
        run[kind](&r);
    }
    ASSERT(!r.failed);
    record_validator_fini(&validator);
    free((void *)(uintptr_t)all.data);
    fclose(pairs);
    printf("record peer: %u cases: %u taken alike (%u to be read by Kafka), %u refused alike, "
           "%u stricter here, %u unexpected there, %u wrong\n",
           tally.cases, tally.fine, tally.pairs, tally.same, tally.stricter, tally.unexpected,
           tally.wrong);
    return tally.wrong > 0 || tally.fine == 0 || tally.same == 0;
}
