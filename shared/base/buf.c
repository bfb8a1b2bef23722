/* The growable buffer: doubles, up to its maximum, and remembers its first failure.
 *
 * One byte more than `cap` is always allocated, so that buf_text can end the text without
 * growing. */
#include "shared/base/buf.h"

#include <stdio.h>
#include <stdlib.h>

#define CAP_MIN 256

void buf_init(struct buf *b, size_t max)
{
    *b = (struct buf){.max = max};
}

void buf_fini(struct buf *b)
{
    free(b->data);
    *b = (struct buf){.max = b->max};
}

void buf_reset(struct buf *b)
{
    b->len = 0;
    b->failed = false;
}

void buf_trim(struct buf *b, size_t keep)
{
    buf_reset(b);
    if (b->cap > keep) {
        /* The contents are gone anyway, so nothing is copied; the next put allocates again. */
        free(b->data);
        b->data = NULL;
        b->cap = 0;
    }
}

bool buf_ok(const struct buf *b)
{
    return !b->failed;
}

struct slice buf_slice(const struct buf *b)
{
    return slice_make(b->data, b->len);
}

static bool grow(struct buf *b, size_t need)
{
    size_t cap = b->cap < CAP_MIN ? CAP_MIN : b->cap;
    while (cap < need) {
        cap = cap > b->max / 2 ? b->max : cap * 2;
    }
    uint8_t *data = cap < SIZE_MAX ? realloc(b->data, cap + 1) : NULL;
    if (!data) {
        return false;
    }
    b->data = data;
    b->cap = cap;
    return true;
}

uint8_t *buf_reserve(struct buf *b, size_t n)
{
    if (b->failed || n > b->max - b->len) {
        b->failed = true;
        return NULL;
    }
    if ((!b->data || n > b->cap - b->len) && !grow(b, b->len + n)) {
        b->failed = true;
        return NULL;
    }
    return b->data + b->len;
}

void buf_put(struct buf *b, const void *data, size_t n)
{
    uint8_t *p = buf_reserve(b, n);
    if (p && n > 0) {
        memcpy(p, data, n);
        b->len += n;
    }
}

void buf_put_u8(struct buf *b, uint8_t v)
{
    buf_put(b, &v, sizeof v);
}

void buf_put_be16(struct buf *b, uint16_t v)
{
    uint8_t p[sizeof v];
    be16_put(p, v);
    buf_put(b, p, sizeof p);
}

void buf_put_be32(struct buf *b, uint32_t v)
{
    uint8_t p[sizeof v];
    be32_put(p, v);
    buf_put(b, p, sizeof p);
}

void buf_put_be64(struct buf *b, uint64_t v)
{
    uint8_t p[sizeof v];
    be64_put(p, v);
    buf_put(b, p, sizeof p);
}

void buf_put_uvarint(struct buf *b, uint64_t v)
{
    uint8_t p[VARINT_BYTES_MAX];
    buf_put(b, p, uvarint_put(p, v));
}

void buf_put_varint(struct buf *b, int64_t v)
{
    uint8_t p[VARINT_BYTES_MAX];
    buf_put(b, p, varint_put(p, v));
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    size_t room = b->data ? b->cap - b->len + 1 : 0; /* with the spare byte, for the NUL */
    int n = b->failed ? -1 : vsnprintf(room ? (char *)b->data + b->len : NULL, room, fmt, ap);
    if (n >= 0 && (size_t)n >= room) {
        uint8_t *p = buf_reserve(b, (size_t)n);
        n = p ? vsnprintf((char *)p, (size_t)n + 1, fmt, again) : -1;
    }
    if (n >= 0 && (size_t)n <= b->max - b->len) {
        b->len += (size_t)n;
    } else {
        b->failed = true;
    }
    va_end(again);
    va_end(ap);
}

const char *buf_text(struct buf *b)
{
    if (b->failed || !b->data) {
        return "";
    }
    b->data[b->len] = '\0';
    return (const char *)b->data;
}
