/* storefill: gives a stream a long history, quickly, through the store's own interface.
 *
 *   storefill CAPTURED-DIRECTORY STREAM BYTES [RECORD-BYTES]
 *   storefill -p CAPTURED-DIRECTORY COUNT
 *
 * The stream must exist (start the broker once with it) and no writer may have the store open.
 * Batches of 1 MB go to all partitions in turn, 8 MB a commit, until BYTES of batches are
 * written; record timestamps run up to now, one millisecond apart. Prints what it wrote as
 * JSON. For figures that need gigabytes of history without hours of MQTT.
 *
 * -p makes topics and deletes them until COUNT more partitions can be made. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "shared/record/record.h"
#include "shared/store/store.h"

#define BATCH_BYTES      (1u << 20)
#define COMMIT_BYTES     (8u << 20)
#define RECORD_BYTES_MAX (64u << 10)

static _Noreturn void fail(const char *what, enum err e, const struct errmsg *m)
{
    fprintf(stderr, "storefill: %s: %s %s\n", what, err_name(e), m->text);
    exit(1);
}

static int64_t wall_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* One full batch of records; returns how many. */
static int32_t build(struct batch_builder *b, uint64_t serial, uint32_t record_bytes,
                     int64_t timestamp)
{
    static uint8_t payload[RECORD_BYTES_MAX];
    char key[64];
    struct record r = {.value = {.data = payload, .len = record_bytes}};

    batch_builder_reset(b);
    for (;;) {
        int n = snprintf(key, sizeof key, "fill/%llu", (unsigned long long)(serial % 1000));
        r.key = (struct slice){.data = (const uint8_t *)key, .len = (size_t)n};
        r.timestamp = timestamp + b->count;
        snprintf((char *)payload, sizeof payload, "%llu", (unsigned long long)serial++);
        enum err e = batch_add(b, &r);
        if (e == ERR_TOO_LARGE) {
            return b->count;
        }
        if (e != OK) {
            struct errmsg m = {""};
            fail("batch", e, &m);
        }
    }
}

static uint64_t fill(struct store *s, const struct store_topic *t, uint64_t bytes,
                     uint32_t record_bytes)
{
    struct errmsg m = {""};
    struct batch_builder b;
    uint64_t written = 0, records = 0;
    int64_t timestamp = wall_ms() - (int64_t)(bytes / record_bytes) - 1000;
    enum err e;

    batch_builder_init(&b, BATCH_BYTES);
    for (int32_t p = 0; written < bytes; p = (p + 1) % t->partition_count) {
        int64_t base;
        int32_t n = build(&b, records, record_bytes, timestamp);
        struct slice batch = batch_finish(&b);
        e = store_append(s, store_topic_uid(t, p), b.buf.data, batch.len, &base);
        if (e != OK) {
            fail("append", e, &m);
        }
        written += batch.len;
        records += (uint64_t)n;
        timestamp += n;
        if (store_pending_bytes(s) >= COMMIT_BYTES || written >= bytes) {
            if ((e = store_commit(s, &m)) != OK || (e = store_tick(s, wall_ms(), &m)) != OK) {
                fail("commit", e, &m);
            }
        }
    }
    batch_builder_fini(&b);
    printf("{\"bytes\":%llu,\"records\":%llu}\n", (unsigned long long)written,
           (unsigned long long)records);
    return written;
}

static void use_up(struct store *s, uint32_t left)
{
    struct errmsg m = {""};
    while (store_partitions_left(s) > left) {
        uint32_t n = store_partitions_left(s) - left;
        struct store_topic t = {.name = "used.up", .retention_ms = -1, .retention_bytes = -1,
                                .cleanup = STORE_CLEANUP_DELETE, .attributes = ""};
        t.partition_count = n < STORE_PARTITIONS_MAX ? (int32_t)n : STORE_PARTITIONS_MAX;
        enum err e = store_topic_create(s, &t, &m);
        e = e != OK ? e : store_topic_delete(s, slice_str(t.name), &m);
        if (e != OK) {
            fail("using up", e, &m);
        }
    }
}

int main(int argc, char **argv)
{
    struct errmsg m = {""};
    struct store *s;
    bool partitions = argc == 4 && strcmp(argv[1], "-p") == 0;
    uint32_t record_bytes = argc > 4 ? (uint32_t)strtoul(argv[4], NULL, 10) : 1000;

    if (argc < 4 || record_bytes < 32 || record_bytes > RECORD_BYTES_MAX) {
        fprintf(stderr, "storefill CAPTURED-DIRECTORY STREAM BYTES [RECORD-BYTES, 32 … %u]\n",
                RECORD_BYTES_MAX);
        return 2;
    }
    struct store_options o = {.dir = argv[partitions ? 2 : 1], .role = STORE_WRITER};
    enum err e = store_open(&s, &o, &m);
    if (e != OK) {
        fail("open", e, &m);
    }
    if (partitions) {
        use_up(s, (uint32_t)strtoul(argv[3], NULL, 10));
        store_close(s);
        return 0;
    }
    const struct store_catalog *c = store_catalog_ref(s);
    const struct store_topic *t = store_catalog_find(
        c, (struct slice){.data = (const uint8_t *)argv[2], .len = strlen(argv[2])});
    if (!t) {
        fail(argv[2], ERR_NOT_FOUND, &m);
    }
    fill(s, t, strtoull(argv[3], NULL, 10), record_bytes);
    store_catalog_unref(s, c);
    store_close(s);
    return 0;
}
