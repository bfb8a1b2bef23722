/* What the tortures of the store share: a directory that goes away at the end, random numbers with
 * a seed, and processes that report through a pipe until they end or are killed. */
#ifndef CULEX_TESTS_TORTURE_H
#define CULEX_TESTS_TORTURE_H

#include <ftw.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "shared/base/clock.h"

#define CHECK(cond, ...)                                                                           \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "FAILED %s:%d: ", __FILE__, __LINE__);                                 \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fprintf(stderr, "\nkept: %s\n", root);                                                 \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

#define REPORT_BYTES_MAX 4096 /* what a pipe takes whole */

static char root[256], dir[300]; /* all of it; the store's */
static uint64_t seed;

static uint32_t next_random(uint32_t n)
{
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(seed >> 33) % n;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *at)
{
    return remove(path);
}

/* PROGRAM [seconds [seed]]: makes the directory, returns the seconds. */
static int torture_begin(const char *name, int argc, char **argv, int seconds)
{
    seconds = argc > 1 ? (int)strtol(argv[1], NULL, 10) : seconds;
    seed = argc > 2 ? strtoull(argv[2], NULL, 10) : (uint64_t)time(NULL);
    const char *tmp = getenv("TMPDIR");
    snprintf(root, sizeof root, "%s/culex-%s-XXXXXX", tmp ? tmp : "/tmp", name);
    CHECK(mkdtemp(root), "mkdtemp");
    snprintf(dir, sizeof dir, "%s/store", root);
    printf("%s: %d s, seed %llu\n", name, seconds, (unsigned long long)seed);
    fflush(stdout);
    return seconds;
}

static void torture_end(void)
{
    CHECK(nftw(root, remove_entry, 16, FTW_DEPTH | FTW_PHYS) == 0, "cannot remove %s", root);
}

/* A seed for a process of its own. */
static uint64_t torture_seed(void)
{
    return ((uint64_t)next_random(1u << 30) << 20) + next_random(1u << 20);
}

/* Keeps the newest whole report of the process until it ends; kills it at kill_at_us (INT64_MAX:
 * never), or, where from_first_us is not 0, so long after its first report. True: it was killed. */
static bool torture_watch(pid_t pid, int fd, void *report, size_t bytes, int64_t kill_at_us,
                          int64_t from_first_us)
{
    char next[REPORT_BYTES_MAX];
    bool sent = false;
    int status;
    CHECK(bytes <= sizeof next, "a report of %zu bytes", bytes);
    for (;;) {
        int64_t left = (kill_at_us - clock_mono_us()) / 1000;
        struct pollfd f = {.fd = fd, .events = POLLIN};
        int ready = poll(&f, 1, sent || left > 1000 ? 1000 : left > 0 ? (int)left : 0);
        if (left <= 0 && !sent) {
            kill(pid, SIGKILL);
            sent = true;
        }
        if (ready > 0) {
            if (read(fd, next, bytes) != (ssize_t)bytes) {
                break;
            }
            memcpy(report, next, bytes);
            kill_at_us = from_first_us != 0 ? clock_mono_us() + from_first_us : kill_at_us;
            from_first_us = 0;
        }
    }
    close(fd);
    CHECK(waitpid(pid, &status, 0) == pid, "waitpid");
    CHECK((sent && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) || status == 0,
          "the process failed: %x", status);
    return WIFSIGNALED(status);
}

#endif
