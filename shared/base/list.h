/* Arrays that grow: room for more elements, doubled each time. The array belongs to who has the
 * pointer, and is freed with free(). */
#ifndef CULEX_BASE_LIST_H
#define CULEX_BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

/* Room for `want` elements of `size` bytes. at: the address of the pointer to the first one, which
 * may be NULL while *room is 0. False: without memory, and nothing has changed. */
bool list_reserve(void *at, size_t *room, size_t want, size_t size);

#endif
