/* Fills and compares messages by walking their tables, independently of the codec's own walks.
 *
 * Numbers are mostly small, often at the edges of their type, and else anything. Strings are valid
 * UTF-8 of one to four bytes a character, because Java would not give other bytes back. */
#include "tests/codec/randmsg.h"

#include <stdlib.h>

#define ELEMENT_MAX 4  /* of an array */
#define STRING_MAX  40 /* bytes */
#define LONG_STRING 300
#define PIECE_MAX   3 /* of records */

uint64_t rand_next(uint64_t *seed)
{
    uint64_t z = (*seed += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

uint32_t rand_below(uint64_t *seed, uint32_t n)
{
    return (uint32_t)((rand_next(seed) >> 32) * n >> 32);
}

static void *must(void *p)
{
    if (!p) {
        abort(); /* the test gave an arena that is too small */
    }
    return p;
}

static int64_t rand_number(uint64_t *seed)
{
    static const int64_t edges[] = {0,         -1,        1,         INT8_MIN,  INT8_MAX,
                                    INT16_MIN, INT16_MAX, INT32_MIN, INT32_MAX, INT64_MIN,
                                    INT64_MAX, -2,        127,       128,       65535};
    switch (rand_below(seed, 3)) {
    case 0:
        return edges[rand_below(seed, sizeof edges / sizeof edges[0])];
    case 1:
        return rand_below(seed, 1000);
    default:
        return (int64_t)rand_next(seed);
    }
}

static size_t rand_length(uint64_t *seed)
{
    return rand_below(seed, 20) == 0 ? LONG_STRING : rand_below(seed, STRING_MAX);
}

static struct kstr rand_string(uint64_t *seed, struct arena *a)
{
    static const char *const letters[] = {
        "a", "Z", "0", ".", "/", " ", "ü", "€", "\xf0\x9f\xa6\x9f"};
    size_t want = rand_length(seed);
    char *s = must(arena_alloc(a, want + 4));
    size_t n = 0;
    while (n < want) {
        const char *c = letters[rand_below(seed, sizeof letters / sizeof letters[0])];
        memcpy(s + n, c, strlen(c));
        n += strlen(c);
    }
    return (struct kstr){s, (int32_t)n};
}

static uint8_t *rand_bytes(uint64_t *seed, struct arena *a, size_t n)
{
    uint8_t *p = must(arena_alloc(a, n));
    for (size_t i = 0; i < n; i++) {
        p[i] = (uint8_t)rand_next(seed);
    }
    return p;
}

static struct krecords rand_records(uint64_t *seed, struct arena *a)
{
    int32_t pieces = (int32_t)rand_below(seed, PIECE_MAX + 1);
    struct iovec *iov = must(arena_array(a, (size_t)pieces, sizeof *iov));
    struct krecords r = {iov, pieces, 0};
    for (int32_t i = 0; i < pieces; i++) {
        size_t n = rand_length(seed);
        iov[i] = (struct iovec){rand_bytes(seed, a, n), n};
        r.bytes += (int32_t)n;
    }
    return r;
}

static size_t value_bytes(const struct codec_field *f)
{
    static const size_t sizes[CODEC_TYPE_COUNT] = {
        [CODEC_BOOL] = sizeof(bool),
        [CODEC_INT8] = 1,
        [CODEC_INT16] = 2,
        [CODEC_UINT16] = 2,
        [CODEC_INT32] = 4,
        [CODEC_INT64] = 8,
        [CODEC_FLOAT64] = 8,
        [CODEC_UUID] = sizeof(struct uuid),
        [CODEC_STRING] = sizeof(struct kstr),
        [CODEC_BYTES] = sizeof(struct kbytes),
        [CODEC_RECORDS] = sizeof(struct krecords),
    };
    return f->type == CODEC_STRUCT ? f->sub->struct_bytes : sizes[f->type];
}

static void value_fill(const struct codec_field *f, int version, uint64_t *seed, struct arena *a,
                       bool null, void *out)
{
    switch ((enum codec_type)f->type) {
    case CODEC_STRUCT:
        randmsg_fill(f->sub, version, seed, a, out);
        break;
    case CODEC_STRING:
        *(struct kstr *)out = null ? (struct kstr){NULL, -1} : rand_string(seed, a);
        break;
    case CODEC_BYTES: {
        size_t n = rand_length(seed);
        *(struct kbytes *)out =
            null ? (struct kbytes){NULL, -1} : (struct kbytes){rand_bytes(seed, a, n), (int32_t)n};
        break;
    }
    case CODEC_RECORDS:
        *(struct krecords *)out = null ? (struct krecords){NULL, 0, -1} : rand_records(seed, a);
        break;
    case CODEC_UUID: {
        struct uuid u = {{0}};
        if (rand_below(seed, 3) > 0) {
            memcpy(u.b, rand_bytes(seed, a, sizeof u.b), sizeof u.b);
        }
        *(struct uuid *)out = u;
        break;
    }
    case CODEC_BOOL:
        *(bool *)out = rand_below(seed, 2) == 1;
        break;
    case CODEC_FLOAT64:
        *(double *)out = (double)rand_number(seed) / 3;
        break;
    default: { /* integers: little endian, so the low bytes are the small number */
        int64_t v = rand_number(seed);
        memcpy(out, &v, value_bytes(f));
        break;
    }
    }
}

static void field_fill(const struct codec_field *f, int version, uint64_t *seed, struct arena *a,
                       uint8_t *out)
{
    bool null = f->nullable && version >= f->null_min && rand_below(seed, 4) == 0;
    void *at = out + f->offset;
    if (f->array) {
        int32_t count = null ? -1 : (int32_t)rand_below(seed, ELEMENT_MAX + 1);
        uint8_t *list = must(arena_array(a, count > 0 ? (size_t)count : 0, value_bytes(f)));
        for (int32_t i = 0; i < count; i++) {
            value_fill(f, version, seed, a, false, list + (size_t)i * value_bytes(f));
        }
        *(void **)at = count > 0 ? list : NULL;
        *(int32_t *)(void *)(out + f->count_offset) = count;
    } else if (f->type == CODEC_STRUCT && f->nullable) {
        void *s = null ? NULL : must(arena_alloc(a, f->sub->struct_bytes));
        if (s) {
            randmsg_fill(f->sub, version, seed, a, s);
        }
        *(void **)at = s;
    } else {
        value_fill(f, version, seed, a, null, at);
    }
}

void randmsg_fill(const struct codec_message *t, int version, uint64_t *seed, struct arena *a,
                  void *out)
{
    codec_init(t, out);
    for (int i = 0; i < t->field_count; i++) {
        const struct codec_field *f = &t->fields[i];
        bool carried = version >= f->version_min && version <= f->version_max;
        bool left_at_default = f->tag >= 0 && rand_below(seed, 3) == 0;
        if (carried && !left_at_default) {
            field_fill(f, version, seed, a, out);
        }
    }
}

static bool bytes_equal(const void *x, int32_t x_len, const void *y, int32_t y_len)
{
    return x_len == y_len && (x_len <= 0 || memcmp(x, y, (size_t)x_len) == 0);
}

static uint8_t *records_join(const struct krecords *r)
{
    uint8_t *all = must(malloc(r->bytes > 0 ? (size_t)r->bytes : 1));
    size_t n = 0;
    for (int32_t i = 0; i < r->iov_count; i++) {
        if (r->iov[i].iov_len > 0) {
            memcpy(all + n, r->iov[i].iov_base, r->iov[i].iov_len);
        }
        n += r->iov[i].iov_len;
    }
    return all;
}

static bool value_equal(const struct codec_field *f, const void *x, const void *y)
{
    switch ((enum codec_type)f->type) {
    case CODEC_STRUCT:
        return randmsg_equal(f->sub, x, y);
    case CODEC_STRING: {
        const struct kstr *s = x, *t = y;
        return bytes_equal(s->data, s->len, t->data, t->len);
    }
    case CODEC_BYTES: {
        const struct kbytes *s = x, *t = y;
        return bytes_equal(s->data, s->len, t->data, t->len);
    }
    case CODEC_RECORDS: {
        const struct krecords *r = x, *s = y;
        uint8_t *a = records_join(r), *b = records_join(s);
        bool same = bytes_equal(a, r->bytes, b, s->bytes);
        free(a);
        free(b);
        return same;
    }
    default:
        return memcmp(x, y, value_bytes(f)) == 0;
    }
}

static bool field_equal(const struct codec_field *f, const uint8_t *x, const uint8_t *y)
{
    const void *at_x = x + f->offset, *at_y = y + f->offset;
    if (f->array) {
        int32_t count = *(const int32_t *)(const void *)(x + f->count_offset);
        bool same = count == *(const int32_t *)(const void *)(y + f->count_offset);
        const uint8_t *list_x = *(void *const *)at_x, *list_y = *(void *const *)at_y;
        for (int32_t i = 0; i < count && same; i++) {
            size_t place = (size_t)i * value_bytes(f);
            same = value_equal(f, list_x + place, list_y + place);
        }
        return same;
    }
    if (f->type == CODEC_STRUCT && f->nullable) {
        const void *s = *(void *const *)at_x, *t = *(void *const *)at_y;
        return s && t ? randmsg_equal(f->sub, s, t) : s == t;
    }
    return value_equal(f, at_x, at_y);
}

bool randmsg_equal(const struct codec_message *t, const void *x, const void *y)
{
    for (int i = 0; i < t->field_count; i++) {
        if (!field_equal(&t->fields[i], x, y)) {
            return false;
        }
    }
    return true;
}
