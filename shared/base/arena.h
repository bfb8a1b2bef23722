/* Memory that lives and dies with one request: many small allocations, one free.
 *
 * Chunks grow from 4 KB; the sum never passes `max`. All memory is zeroed. Not thread-safe. */
#ifndef CULEX_BASE_ARENA_H
#define CULEX_BASE_ARENA_H

#include "shared/base/bytes.h"
#include "shared/base/err.h"

struct arena_chunk;

struct arena {
    struct arena_chunk *chunks;
    size_t used; /* bytes taken from malloc, all chunks */
    size_t max;
};

void arena_init(struct arena *a, size_t max);
void arena_fini(struct arena *a);
/* Zeroed and aligned for any type; NULL when `max` would be passed or memory is out. n may be 0. */
void *arena_alloc(struct arena *a, size_t n) MUST_CHECK;
/* count elements of size bytes, overflow-checked. */
void *arena_array(struct arena *a, size_t count, size_t size) MUST_CHECK;
char *arena_strndup(struct arena *a, const char *s, size_t len) MUST_CHECK;

#endif
