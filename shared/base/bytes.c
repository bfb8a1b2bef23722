/* Varints, the sticky reader, UUIDs, UTF-8 and CRC-32C.
 *
 * A varint is LEB128: seven bits a byte, least significant first, the high bit says that more
 * follow. Zigzag maps small negatives to small unsigned numbers: 0, -1, 1, -2 … become 0, 1, 2, 3 …
 *
 * The reader refuses what a 32 or 64 bit number cannot hold, so that two readings of one input
 * never differ; it accepts padded forms (0x80 0x00), as Kafka's own reader does. */
#include "shared/base/bytes.h"

#include <isa-l/crc.h>

#include "shared/base/clock.h"
#include "shared/base/err.h"

#define UVARINT32_BYTES_MAX 5

static int64_t unzigzag(uint64_t v)
{
    return (int64_t)((v >> 1) ^ (0 - (v & 1)));
}

struct reader reader_make(struct slice in)
{
    static const uint8_t nothing[1];
    const uint8_t *p = in.data ? in.data : nothing; /* pointer arithmetic on NULL is undefined */
    return (struct reader){.p = p, .end = p + (in.data ? in.len : 0), .failed = false};
}

size_t reader_left(const struct reader *r)
{
    return (size_t)(r->end - r->p);
}

/* Moves over n bytes and returns where they began, or NULL. After a failure nothing moves again. */
static const uint8_t *take(struct reader *r, size_t n)
{
    if (r->failed || n > reader_left(r)) {
        r->failed = true;
        return NULL;
    }
    const uint8_t *p = r->p;
    r->p += n;
    return p;
}

uint8_t reader_u8(struct reader *r)
{
    const uint8_t *p = take(r, 1);
    return p ? *p : 0;
}

uint16_t reader_be16(struct reader *r)
{
    const uint8_t *p = take(r, 2);
    return p ? be16_get(p) : 0;
}

uint32_t reader_be32(struct reader *r)
{
    const uint8_t *p = take(r, 4);
    return p ? be32_get(p) : 0;
}

uint64_t reader_be64(struct reader *r)
{
    const uint8_t *p = take(r, 8);
    return p ? be64_get(p) : 0;
}

/* last_max: the largest value of the byte_max-th byte, whose upper bits lie beyond the width. */
static uint64_t uvarint(struct reader *r, size_t byte_max, uint8_t last_max)
{
    uint64_t v = 0;
    for (size_t i = 0; i < byte_max; i++) {
        uint8_t b = reader_u8(r);
        if (r->failed) {
            return 0;
        }
        if (i == byte_max - 1 && b > last_max) {
            break;
        }
        v |= (uint64_t)(b & 0x7f) << (7 * i);
        if (b < 0x80) {
            return v;
        }
    }
    r->failed = true;
    return 0;
}

uint32_t reader_uvarint32(struct reader *r)
{
    return (uint32_t)uvarint(r, UVARINT32_BYTES_MAX, 0x0f);
}

uint64_t reader_uvarint64(struct reader *r)
{
    return uvarint(r, VARINT_BYTES_MAX, 0x01);
}

int32_t reader_varint32(struct reader *r)
{
    return (int32_t)unzigzag(reader_uvarint32(r));
}

int64_t reader_varint64(struct reader *r)
{
    return unzigzag(reader_uvarint64(r));
}

struct slice reader_bytes(struct reader *r, size_t n)
{
    const uint8_t *p = take(r, n);
    return p ? slice_make(p, n) : slice_make(NULL, 0);
}

void uuid_to_text(const struct uuid *u, char *out)
{
    static const char alphabet[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    unsigned bits = 0; /* not yet written; the low bit_count of them count */
    unsigned bit_count = 0;
    char *o = out;
    for (size_t i = 0; i < sizeof u->b; i++) {
        bits = bits << 8 | u->b[i];
        bit_count += 8;
        while (bit_count >= 6) {
            bit_count -= 6;
            *o++ = alphabet[bits >> bit_count & 0x3f];
        }
    }
    *o++ = alphabet[bits << (6 - bit_count) & 0x3f];
    *o = '\0';
}

bool uuid_is_zero(const struct uuid *u)
{
    static const struct uuid zero;
    return memcmp(u, &zero, sizeof zero) == 0;
}

struct uuid uuid_random(void)
{
    struct uuid u;
    do {
        random_bytes(u.b, sizeof u.b);
        u.b[6] = (uint8_t)((u.b[6] & 0x0f) | 0x40); /* version 4; so it is never zero or one */
        u.b[8] = (uint8_t)((u.b[8] & 0x3f) | 0x80);
    } while (u.b[0] >> 2 == 62); /* its text would begin with '-' */
    return u;
}

/* The library is made for long input: its code and tables fill a good part of the first caches,
 * where a frame of a hundred bytes needs twenty steps of an instruction that the processor has. */
#ifdef __x86_64__
#define CRC_SHORT_BYTES 512
__attribute__((target("sse4.2"), hot)) static uint32_t crc32c_short(uint32_t c, const uint8_t *p,
                                                                    size_t len)
{
    uint64_t wide = c;
    for (; len >= 8; len -= 8, p += 8) {
        uint64_t v;
        memcpy(&v, p, sizeof v);
        wide = __builtin_ia32_crc32di(wide, v);
    }
    c = (uint32_t)wide;
    if (len & 4) {
        uint32_t v;
        memcpy(&v, p, sizeof v);
        c = __builtin_ia32_crc32si(c, v);
        p += sizeof v;
    }
    if (len & 2) {
        uint16_t v;
        memcpy(&v, p, sizeof v);
        c = __builtin_ia32_crc32hi(c, v);
        p += sizeof v;
    }
    return len & 1 ? __builtin_ia32_crc32qi(c, *p) : c;
}

#endif

SELDOM static uint32_t crc32c_long(uint32_t crc, const void *data, size_t len)
{
    /* ISA-L leaves the inversions at both ends to its caller, takes an int, and does not write. */
    const size_t step = 1u << 30;
    unsigned char *p = (unsigned char *)(uintptr_t)data;
    uint32_t c = ~crc;
    while (len > step) {
        c = crc32_iscsi(p, (int)step, c);
        p += step;
        len -= step;
    }
    return len > 0 ? ~crc32_iscsi(p, (int)len, c) : ~c;
}

HOT uint32_t crc32c(uint32_t crc, const void *data, size_t len)
{
#ifdef __x86_64__
    if (len <= CRC_SHORT_BYTES && __builtin_cpu_supports("sse4.2")) {
        return ~crc32c_short(~crc, data, len);
    }
#endif
    return crc32c_long(crc, data, len);
}

#ifdef __x86_64__
__attribute__((target("sse4.2"))) static inline uint32_t copy_short(uint32_t c, uint8_t *to,
                                                                    const uint8_t *p, size_t len)
{
    uint64_t wide = c;
    for (; len >= 8; len -= 8, p += 8, to += 8) {
        uint64_t v;
        memcpy(&v, p, sizeof v);
        memcpy(to, &v, sizeof v);
        wide = __builtin_ia32_crc32di(wide, v);
    }
    c = (uint32_t)wide;
    if (len & 4) {
        uint32_t v;
        memcpy(&v, p, sizeof v);
        memcpy(to, &v, sizeof v);
        c = __builtin_ia32_crc32si(c, v);
        p += sizeof v;
        to += sizeof v;
    }
    for (len &= 3; len > 0; len--) {
        c = __builtin_ia32_crc32qi(c, *to++ = *p++);
    }
    return c;
}

__attribute__((target("sse4.2"), hot)) static uint32_t gather_short(uint32_t crc, uint8_t *to,
                                                                    const struct slice *parts,
                                                                    size_t count)
{
    uint32_t c = ~crc;
    for (size_t i = 0; i < count; i++) {
        size_t len = parts[i].len;
        if (len <= CRC_SHORT_BYTES) {
            c = copy_short(c, to, parts[i].data, len);
        } else {
            memcpy(to, parts[i].data, len);
            c = ~crc32c_long(~c, parts[i].data, len);
        }
        to += len;
    }
    return ~c;
}
#endif

SELDOM static uint32_t gather_long(uint32_t crc, uint8_t *to, const struct slice *parts,
                                   size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (parts[i].len > 0) {
            memcpy(to, parts[i].data, parts[i].len);
        }
        crc = crc32c_long(crc, parts[i].data, parts[i].len);
        to += parts[i].len;
    }
    return crc;
}

HOT uint32_t crc32c_gather(uint32_t crc, void *to, const struct slice *parts, size_t count)
{
#ifdef __x86_64__
    if (__builtin_cpu_supports("sse4.2")) {
        return gather_short(crc, to, parts, count);
    }
#endif
    return gather_long(crc, to, parts, count);
}

size_t utf8_length(const uint8_t *p, size_t left)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t n = p[0] == 0 ? 0 : p[0] < 0x80 ? 1 : p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2
             : p[0] < 0xf0 ? 3 : p[0] < 0xf5 ? 4 : 0;
    if (n <= 1 || n > left) {
        return n > left ? 0 : n;
    }
    uint32_t code = p[0] & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80) {
            return 0;
        }
        code = code << 6 | (p[i] & 0x3fu);
    }
    return code < least[n] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000) ? 0 : n;
}
