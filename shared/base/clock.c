/* Time and randomness from the kernel, through one door that tests can close. */
#include "shared/base/clock.h"

#ifdef __x86_64__
#include <cpuid.h>
#endif
#include <errno.h>
#include <stdbool.h>
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

#ifdef __x86_64__
#define NEAR_TICKS      500000 /* 0.5 ms at 1 GHz, 0.1 at 5 */
#define CPUID_POWER     0x80000007u
#define CPUID_STEADY    (1u << 8) /* in edx: at one rate in all states, also asleep */

static bool counter_is_steady(void)
{
    unsigned a, b, c, d = 0;
    return __get_cpuid(CPUID_POWER, &a, &b, &c, &d) && (d & CPUID_STEADY);
}

HOT int64_t clock_wall_ms_near(struct clock_near *near)
{
    uint64_t ticks = __builtin_ia32_rdtsc();
    if (ticks - near->ticks < NEAR_TICKS) { /* a count that went back is far away, too */
        return near->ms;
    }
    static int steady = -1;
    if (steady < 0) {
        steady = counter_is_steady();
    }
    near->ms = clock_wall_ms();
    near->ticks = steady ? ticks : ticks - NEAR_TICKS;
    return near->ms;
}
#else
int64_t clock_wall_ms_near(struct clock_near *near)
{
    near->ms = clock_wall_ms();
    return near->ms;
}
#endif

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
