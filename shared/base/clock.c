/* Time and randomness from the kernel, through one door that tests can close. */
#include "shared/base/clock.h"

#include <errno.h>
#include <sys/random.h>
#include <time.h>

#include "shared/base/err.h"

static int64_t (*wall_source)(void);
static int64_t (*mono_source)(void);

void clock_set_source(int64_t (*wall_ms)(void), int64_t (*mono_us)(void))
{
    wall_source = wall_ms;
    mono_source = mono_us;
}

int64_t clock_wall_ms(void)
{
    if (wall_source) {
        return wall_source();
    }
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

int64_t clock_mono_us(void)
{
    if (mono_source) {
        return mono_source();
    }
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

void random_bytes(void *p, size_t n)
{
    uint8_t *at = p;
    while (n > 0) {
        ssize_t got = getrandom(at, n, 0);
        if (got < 0) {
            /* Without flags the call waits for the kernel's pool; only a signal can cut it
             * short. */
            ASSERT(errno == EINTR);
            continue;
        }
        at += got;
        n -= (size_t)got;
    }
}

uint64_t random_u64(void)
{
    uint64_t v;
    random_bytes(&v, sizeof v);
    return v;
}
