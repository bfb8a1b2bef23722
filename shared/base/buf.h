/* A growable byte buffer with a named maximum and a sticky failure.
 *
 * Owner: whoever called buf_init; buf_fini frees. Not thread-safe. A put beyond `max` or without
 * memory sets `failed` and changes nothing more; check once, at the end, with buf_ok. */
#ifndef CULEX_BASE_BUF_H
#define CULEX_BASE_BUF_H

#include "shared/base/bytes.h"
#include "shared/base/err.h"

struct buf {
    uint8_t *data;
    size_t len;
    size_t cap;
    size_t max; /* bytes; a put that would pass it fails */
    bool failed;
};

void buf_init(struct buf *b, size_t max);
void buf_fini(struct buf *b);
/* Empties the buffer and clears `failed`; keeps the memory. */
void buf_reset(struct buf *b);
/* Like buf_reset, and gives memory back above keep bytes. */
void buf_trim(struct buf *b, size_t keep);
bool buf_ok(const struct buf *b);
struct slice buf_slice(const struct buf *b);

/* Room for n more bytes at the end, not yet counted in len; NULL on failure. */
uint8_t *buf_reserve(struct buf *b, size_t n);
void buf_put(struct buf *b, const void *data, size_t n);
void buf_put_u8(struct buf *b, uint8_t v);
void buf_put_be16(struct buf *b, uint16_t v);
void buf_put_be32(struct buf *b, uint32_t v);
void buf_put_be64(struct buf *b, uint64_t v);
void buf_put_uvarint(struct buf *b, uint64_t v);
void buf_put_varint(struct buf *b, int64_t v); /* zigzag */
void buf_printf(struct buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Ends with a NUL that is not counted; returns the text, or "" after a failure. */
const char *buf_text(struct buf *b);

#endif
