/* Bytes in memory: slices, big-endian numbers, Kafka varints, a reader that never overruns.
 *
 * Lengths are compared as `n > left`, never `pos + n > end`. The reader is sticky: after the first
 * failure every get returns 0 and `failed` stays set, so callers check once, at the end. */
#ifndef CULEX_BASE_BYTES_H
#define CULEX_BASE_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Borrowed memory. data may be NULL; a NULL data with len 0 means "null" where a format has one. */
struct slice {
    const uint8_t *data;
    size_t len;
};

/* A UUID as 16 raw bytes, in the order in which Kafka puts them on the wire. */
struct uuid {
    uint8_t b[16];
};

#define UUID_TEXT_BYTES 23 /* Kafka's form: 22 characters of unpadded base64url, and NUL */

static inline struct slice slice_make(const void *data, size_t len)
{
    return (struct slice){data, len};
}

static inline void slice_clear(struct slice *s)
{
    s->data = NULL;
    s->len = 0;
}

static inline struct slice slice_str(const char *s)
{
    return (struct slice){(const uint8_t *)s, s ? strlen(s) : 0};
}

static inline bool slice_eq(struct slice a, struct slice b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

/* The order of their bytes: as strcmp's, for texts that may lack a NUL. */
static inline int slice_compare(struct slice a, struct slice b)
{
    size_t least = a.len < b.len ? a.len : b.len;
    int order = least == 0 ? 0 : memcmp(a.data, b.data, least);
    return order != 0 ? order : (a.len > b.len) - (a.len < b.len);
}

static inline uint16_t be16_get(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return __builtin_bswap16(v);
}

static inline uint32_t be32_get(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return __builtin_bswap32(v);
}

static inline uint64_t be64_get(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return __builtin_bswap64(v);
}

static inline void be16_put(uint8_t *p, uint16_t v)
{
    v = __builtin_bswap16(v);
    memcpy(p, &v, sizeof v);
}

static inline void be32_put(uint8_t *p, uint32_t v)
{
    v = __builtin_bswap32(v);
    memcpy(p, &v, sizeof v);
}

static inline void be64_put(uint8_t *p, uint64_t v)
{
    v = __builtin_bswap64(v);
    memcpy(p, &v, sizeof v);
}

/* Length of the UTF-8 sequence at p (left >= 1), 0 if it is none: overlong, surrogate, cut off,
 * NUL. */
size_t utf8_length(const uint8_t *p, size_t left);

#define VARINT_BYTES_MAX 10 /* of a 64-bit varint */

/* Writes an unsigned LEB128 varint to p (room for VARINT_BYTES_MAX); returns the bytes written.
 * Here and not in bytes.c, as the next three, because a record has some thirty of them. */
static inline size_t uvarint_put(uint8_t *p, uint64_t v)
{
    size_t n = 0;
    while (v >= 0x80) {
        p[n++] = (uint8_t)(v | 0x80);
        v >>= 7;
    }
    p[n++] = (uint8_t)v;
    return n;
}

/* Bytes that uvarint_put would write: bits in use, at least one, in sevens, rounded up. */
static inline size_t uvarint_size(uint64_t v)
{
    unsigned bits = 64u - (unsigned)__builtin_clzll(v | 1);
    return (bits + 6) / 7;
}

static inline uint64_t zigzag(int64_t v)
{
    return ((uint64_t)v << 1) ^ (v < 0 ? UINT64_MAX : 0);
}

/* Zigzag forms, as in Kafka records (varint and varlong are the same bytes for the same value). */
static inline size_t varint_put(uint8_t *p, int64_t v)
{
    return uvarint_put(p, zigzag(v));
}

static inline size_t varint_size(int64_t v)
{
    return uvarint_size(zigzag(v));
}

/* Reads from borrowed memory, front to back. */
struct reader {
    const uint8_t *p;   /* next byte */
    const uint8_t *end; /* one past the last */
    bool failed;        /* sticky: something was missing or malformed */
};

struct reader reader_make(struct slice in);
size_t reader_left(const struct reader *r);
uint8_t reader_u8(struct reader *r);
uint16_t reader_be16(struct reader *r);
uint32_t reader_be32(struct reader *r);
uint64_t reader_be64(struct reader *r);
/* At most 5 bytes for 32 bits and 10 for 64; longer, or with bits beyond the width, is a
 * failure. */
uint32_t reader_uvarint32(struct reader *r);
uint64_t reader_uvarint64(struct reader *r);
int32_t reader_varint32(struct reader *r);
int64_t reader_varint64(struct reader *r);
/* Borrows n bytes. On failure returns an empty slice and sets `failed`. */
struct slice reader_bytes(struct reader *r, size_t n);

/* Kafka's text form of a UUID (base64url without padding). out has UUID_TEXT_BYTES. */
void uuid_to_text(const struct uuid *u, char *out);
bool uuid_is_zero(const struct uuid *u);
static inline bool uuid_equal(const struct uuid *a, const struct uuid *b)
{
    return memcmp(a->b, b->b, sizeof a->b) == 0;
}
/* Random v4-style UUID, never zero or one, and never one whose text begins with '-' (as Kafka does,
 * so that it can be given as a command line argument). */
struct uuid uuid_random(void);

/* CRC-32C (Castagnoli), as in Kafka batches; crc is the value so far, 0 to begin. */
uint32_t crc32c(uint32_t crc, const void *data, size_t len);
/* Copies the parts one after the other, and returns crc32c of what was copied. Summed where they
 * have just been written, bytes are waited for until the processor has put its stores of them
 * together. */
uint32_t crc32c_gather(uint32_t crc, void *to, const struct slice *parts, size_t count);

#endif
