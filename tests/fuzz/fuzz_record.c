/* Fuzzing record batches: any bytes as a batch, as they are and with length and checksum made
 * right.
 *
 * What is walked must keep the promises of record.h, and a batch that is built from the records of
 * an accepted one must walk to the same records. The golden batches are what it starts from. */
#include <stdlib.h>

#include "shared/record/record.h"

#define BATCH_MAX (64u << 10)
#define WALK_MAX  (256u << 10)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct seen {
    struct batch_header h;
    int64_t last_delta;
    int64_t count;
    uint64_t sum; /* of all bytes and lengths lent */
    struct batch_builder *again;
};

static void add_slice(struct seen *s, struct slice bytes)
{
    ASSERT(bytes.data || bytes.len == 0);
    s->sum = s->sum * 31 + bytes.len + (bytes.data != NULL);
    for (size_t i = 0; i < bytes.len; i++) {
        s->sum = s->sum * 31 + bytes.data[i];
    }
}

static bool see(void *arg, const struct record *r)
{
    struct seen *s = arg;
    int64_t delta = (int64_t)((uint64_t)r->offset - (uint64_t)s->h.base_offset);
    ASSERT(delta > s->last_delta && delta <= s->h.last_offset_delta);
    ASSERT(++s->count <= s->h.record_count && r->header_count <= RECORD_HEADERS_MAX);
    s->last_delta = delta;
    s->sum = s->sum * 31 + (uint64_t)r->timestamp;
    add_slice(s, r->key);
    add_slice(s, r->value);
    for (uint32_t i = 0; i < r->header_count; i++) {
        ASSERT(r->headers[i].key.data);
        add_slice(s, r->headers[i].key);
        add_slice(s, r->headers[i].value);
    }
    ASSERT(!s->again || batch_add(s->again, r) == OK);
    return true;
}

static void walk(struct slice batch)
{
    struct errmsg m;
    struct batch_builder b;
    struct seen first = {.last_delta = -1, .again = &b};
    if (batch_read_header(batch, &first.h) != OK) {
        return;
    }
    batch_builder_init(&b, WALK_MAX * 8); /* a record can be longer when its deltas are larger */
    enum err e = batch_walk(batch, WALK_MAX, see, &first, &m);
    ASSERT(e == OK || e == ERR_CORRUPT || e == ERR_TOO_LARGE);
    if (e == OK && first.count > 0) {
        struct slice built = batch_finish(&b);
        struct seen second = {.last_delta = -1};
        ASSERT(batch_check(built, &m) == OK);
        ASSERT(batch_read_header(built, &second.h) == OK);
        ASSERT(batch_walk(built, 0, see, &second, &m) == OK);
        ASSERT(second.count == first.count && second.sum == first.sum);
    }
    batch_builder_fini(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct errmsg m;
    enum err e = batch_check(slice_make(data, size), &m);
    ASSERT(e == OK || e == ERR_CORRUPT);
    walk(slice_make(data, size));
    if (size >= BATCH_HEADER_BYTES && size <= BATCH_MAX) {
        uint8_t *sealed = malloc(size);
        ASSERT(sealed);
        memcpy(sealed, data, size);
        sealed[16] = BATCH_MAGIC;
        be32_put(sealed + 8, (uint32_t)(size - BATCH_LENGTH_OFFSET));
        be32_put(sealed + BATCH_CRC_OFFSET,
                 crc32c(0, sealed + BATCH_ATTRIBUTES_OFFSET, size - BATCH_ATTRIBUTES_OFFSET));
        (void)batch_check(slice_make(sealed, size), &m); /* whatever it says, walking is safe */
        walk(slice_make(sealed, size));
        free(sealed);
    }
    return 0;
}
