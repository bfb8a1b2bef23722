/* The one way in which arrays grow. The pointer comes as its address, of any type, so it is read
 * and written as bytes. */
#include "shared/base/list.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ROOM_FIRST 16

bool list_reserve(void *at, size_t *room, size_t want, size_t size)
{
    if (want <= *room) {
        return true;
    }
    size_t more = *room > 0 ? *room : ROOM_FIRST;
    while (more < want && more <= SIZE_MAX / 2) {
        more *= 2;
    }
    void *p;
    memcpy(&p, at, sizeof p);
    p = more >= want && more <= SIZE_MAX / size ? realloc(p, more * size) : NULL;
    if (p == NULL) {
        return false;
    }
    memcpy(at, &p, sizeof p);
    *room = more;
    return true;
}
