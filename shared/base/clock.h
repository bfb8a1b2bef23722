/* The one door for time and randomness: tests replace both. */
#ifndef CULEX_BASE_CLOCK_H
#define CULEX_BASE_CLOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Milliseconds since 1970, wall clock: what goes into records. */
int64_t clock_wall_ms(void);
/* Microseconds of a clock that never goes back: what timeouts are made of. */
int64_t clock_mono_us(void);
/* The wall clock for who asks for each message: at most 0.5 ms late, and mostly without asking the
 * kernel's clock, where the processor counts at a steady rate. */
struct clock_near {
    uint64_t ticks;
    int64_t ms;
};
int64_t clock_wall_ms_near(struct clock_near *near);
static inline int64_t clock_mono_ms(void)
{
    return clock_mono_us() / 1000;
}

/* A wall clock that says less was not set yet: a board without a battery, before NTP. 2020. */
#define CLOCK_SET_MS 1577836800000
/* Was the clock set between these two? Then no time is known to have passed: what began before has
 * the age of what begins now. */
static inline bool clock_was_set(int64_t then_ms, int64_t now_ms)
{
    return then_ms < CLOCK_SET_MS && now_ms >= CLOCK_SET_MS;
}

/* Fills p with bytes from the kernel's generator. */
void random_bytes(void *p, size_t n);
uint64_t random_u64(void);

/* For tests: a source replaces the real one until it is set to NULL. */
void clock_set_source(int64_t (*wall_ms)(void), int64_t (*mono_us)(void));

#endif
