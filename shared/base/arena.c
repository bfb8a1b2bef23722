/* The arena: a list of zeroed chunks, the newest usable one first, each allocation cut from its
 * front.
 *
 * Chunks double from 4 KB to 256 KB. Near `max` a chunk is only as large as what is asked, so that
 * the last bytes are usable too. An allocation larger than a chunk gets one of its own. */
#include "shared/base/arena.h"

#include <stdlib.h>

#define CHUNK_BYTES_MIN (4u << 10)
#define CHUNK_BYTES_MAX (256u << 10)
#define ALIGN           (_Alignof(max_align_t))

struct arena_chunk {
    struct arena_chunk *next;
    size_t size; /* of bytes */
    size_t used; /* a multiple of ALIGN */
    _Alignas(max_align_t) uint8_t bytes[];
};

void arena_init(struct arena *a, size_t max)
{
    *a = (struct arena){.max = max};
}

void arena_fini(struct arena *a)
{
    struct arena_chunk *c = a->chunks;
    while (c) {
        struct arena_chunk *next = c->next;
        free(c);
        c = next;
    }
    *a = (struct arena){.max = a->max};
}

static size_t chunk_left(const struct arena_chunk *c)
{
    return c ? c->size - c->used : 0;
}

/* Adds a chunk with room for n bytes and returns it; NULL over max or without memory. */
static struct arena_chunk *chunk_add(struct arena *a, size_t n)
{
    const size_t head = sizeof(struct arena_chunk);
    size_t left = a->max - a->used;
    if (left < head || n > left - head) {
        return NULL;
    }
    size_t total = a->used < CHUNK_BYTES_MIN ? CHUNK_BYTES_MIN : a->used;
    total = total > CHUNK_BYTES_MAX ? CHUNK_BYTES_MAX : total;
    if (n > total - head || total > left) {
        total = n + head;
    }
    struct arena_chunk *c = calloc(1, total);
    if (!c) {
        return NULL;
    }
    a->used += total;
    c->size = total - head;
    /* The chunk with more room left stays in front: a large allocation does not waste a fresh
     * one. */
    if (chunk_left(a->chunks) > c->size - n) {
        c->next = a->chunks->next;
        a->chunks->next = c;
    } else {
        c->next = a->chunks;
        a->chunks = c;
    }
    return c;
}

void *arena_alloc(struct arena *a, size_t n)
{
    if (n > a->max) {
        return NULL; /* also keeps the rounding below from overflowing, unless max is absurd */
    }
    size_t want = (n + ALIGN - 1) & ~(size_t)(ALIGN - 1);
    if (want < n) {
        return NULL;
    }
    want = want ? want : ALIGN; /* distinct pointers for empty things */
    struct arena_chunk *c = a->chunks;
    if (want > chunk_left(c)) {
        c = chunk_add(a, want);
        if (!c) {
            return NULL;
        }
    }
    void *p = c->bytes + c->used;
    c->used += want;
    return p;
}

void *arena_array(struct arena *a, size_t count, size_t size)
{
    size_t n;
    return __builtin_mul_overflow(count, size, &n) ? NULL : arena_alloc(a, n);
}

char *arena_strndup(struct arena *a, const char *s, size_t len)
{
    char *p = len < SIZE_MAX ? arena_alloc(a, len + 1) : NULL;
    if (p && len > 0) {
        memcpy(p, s, len);
    }
    return p;
}
