/* Preloaded into a program: its wall clock is CLOCK_AHEAD_S seconds ahead. For what takes a day: as
 * a restart on the day after. Other clocks, and so all waiting, are as they are. */
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t id, struct timespec *t)
{
    int e = (int)syscall(SYS_clock_gettime, id, t);
    const char *ahead = getenv("CLOCK_AHEAD_S");
    if (e == 0 && ahead != NULL && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) {
        t->tv_sec += strtol(ahead, NULL, 10);
    }
    return e;
}
