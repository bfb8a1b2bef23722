/* What judging a batch of Produce costs: bytes a second by codec and size of records, beside what
 * the checksum alone costs. Values are half random, as JSON is half repetition.
 *
 *   bench_record [MILLISECONDS OF EACH] */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "shared/base/clock.h"
#include "shared/record/rewrite.h"
#include "shared/record/validate.h"

#define BATCH_BYTES (512u << 10)
#define NOW         1700000000000

static const char *const codec_names[] = {"none", "gzip", "snappy", "lz4", "zstd"};

/* The processor's time, so that others on the machine do not count. */
static int64_t cpu_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* An idempotent producer's batch of about BATCH_BYTES, in the codec. */
static void make(struct buf *out, size_t value_bytes, enum batch_codec codec)
{
    static uint8_t value[16 << 10];
    random_bytes(value, sizeof value);
    for (size_t i = 0; i < sizeof value; i += 2) {
        value[i] = 'x';
    }
    struct batch_builder b;
    batch_builder_init(&b, BATCH_BYTES);
    struct record r = {
        .timestamp = NOW, .key = slice_str("key"), .value = slice_make(value, value_bytes)};
    while (batch_add(&b, &r) == OK) {
        r.timestamp++;
        r.value.data = value + (size_t)b.count * 64 % (sizeof value - value_bytes);
    }
    struct slice built = batch_finish(&b);
    struct batch_header h;
    struct slice records;
    struct errmsg m;
    struct buf plain;
    buf_init(&plain, 0);
    ASSERT(batch_read_header(built, &h) == OK && batch_plain(built, &plain, &records, &m) == OK);
    h.producer_id = 1;
    h.producer_epoch = 0;
    h.base_sequence = 0;
    struct batch_rewrite w;
    struct record_cursor c = record_cursor_make(records, h.record_count);
    struct raw_record raw;
    ASSERT(batch_rewrite_begin(&w, out, codec, BATCH_LEVEL_DEFAULT, NOW) == OK);
    for (int64_t t = NOW; record_next(&c, &raw, &m) == OK; t++) {
        ASSERT(batch_rewrite_add(&w, &raw, raw.offset_delta, t) == OK);
    }
    ASSERT(batch_rewrite_end(&w, &h, &m) == OK);
    batch_builder_fini(&b);
}

static void bench(size_t value_bytes, enum batch_codec codec, enum batch_codec to, int64_t ms)
{
    struct buf batch;
    struct record_validator v;
    struct record_verdict out;
    struct record_rules rules = record_rules_default(NOW);
    buf_init(&batch, INT32_MAX);
    make(&batch, value_bytes, codec);
    record_validator_init(&v, BATCH_PLAIN_BYTES_MAX);
    rules.codec = (int8_t)to;
    int64_t begun = cpu_us(), took;
    uint64_t rounds = 0;
    do {
        ASSERT(record_validate(&v, batch.data, batch.len, &rules, &out) == RECORD_FINE);
        rounds++;
        took = cpu_us() - begun;
    } while (took < ms * 1000);
    double bytes = (double)value_bytes * out.h.record_count * (double)rounds;
    printf("%-6s to %-6s %6zu B values: %8.0f MB/s of values, %6.0f ns a record\n",
           codec_names[codec], codec_names[to], value_bytes, bytes / (double)took,
           (double)took * 1000 / ((double)rounds * out.h.record_count));
    record_validator_fini(&v);
    buf_fini(&batch);
}

int main(int argc, char **argv)
{
    static const size_t sizes[] = {10, 100, 1000, 10000};
    int64_t ms = argc > 1 ? strtol(argv[1], NULL, 10) : 500;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        for (int codec = BATCH_CODEC_NONE; codec <= BATCH_CODEC_ZSTD; codec++) {
            bench(sizes[i], (enum batch_codec)codec, (enum batch_codec)codec, ms);
        }
    }
    for (int codec = BATCH_CODEC_GZIP; codec <= BATCH_CODEC_ZSTD; codec++) {
        bench(1000, BATCH_CODEC_NONE, (enum batch_codec)codec, ms);
    }
    return 0;
}
