/* What the simulations share: a seed that decides everything, a clock that stands still unless it
 * is moved, and a server that is killed.
 *
 *      sim_X [SEEDS [FIRST]]           so many lives; a failure names its seed
 *      sim_X each [SEEDS [FIRST]]      shorter lives, each lived once for each of its points
 *      sim_X at SEED POINT             one of these again; seed 0 is the life of a script
 *
 * A turn of the server ends with sim_turn: its commit, and now and then the process with it:
 * before the commit (what was put is lost), or right after it (stored, and nobody has heard). Or
 * the commit fails. Once in a while it has landed all the same: then the store is broken,
 * nothing can be written until it is opened again, and what it says then counts.
 *
 * There are two ways to be killed. By chance, in long lives. Or once, at one of the points of a
 * life (sim.crash_at): each turn has one before its commit and one after it, and `each` lives
 * the same life again and again and dies at the first point, the second, and so on, so that no
 * step is left out. What comes after is the seed's, and what must hold, holds there, too. */
#ifndef CULEX_TESTS_SIM_H
#define CULEX_TESTS_SIM_H

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "shared/base/clock.h"
#include "shared/base/log.h"
#include "tests/unit/memory_rows.h"

#define SIM_AWAY_TURNS 6 /* so many turns at most without a store, after it broke */

static struct sim {
    uint64_t seed, random;
    unsigned kill_percent, fail_percent; /* of the turns' ends */
    int step;
    int64_t mono_ms;
    int crash_at, points; /* 0: by chance. Points that this life has had */
    struct journal *journal;
    bool dead;              /* the process is gone: nothing that it does reaches anybody */
    bool die_at_commit;     /* killed between the commit and the answers */
    bool quiet;             /* nothing bad happens any more */
    int away;               /* turns until a store that broke is opened again */
    bool broken;            /* in this turn */
    uint64_t kills, landed; /* of all lives */
} sim;

#define CHECK(cond, ...)                                                                           \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "seed %" PRIu64 " point %d step %d: %s: ", sim.seed, sim.crash_at,     \
                    sim.step, #cond);                                                              \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fprintf(stderr, "\n");                                                                 \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

static uint64_t roll(void)
{
    uint64_t z = (sim.random += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static bool chance(unsigned percent)
{
    return roll() % 100 < percent;
}

static int64_t wall_ms(void)
{
    return sim.mono_ms + 1700000000000;
}

static int64_t mono_us(void)
{
    return sim.mono_ms * 1000;
}

/* A life begins. */
static void sim_begin(uint64_t seed, int crash_at)
{
    const uint64_t kills = sim.kills, landed = sim.landed;
    sim = (struct sim){.seed = seed,
                       .random = seed,
                       .crash_at = crash_at,
                       .mono_ms = 1000,
                       .kills = kills,
                       .landed = landed};
}

/* --- rows, and what becomes of a commit ------------------------------------------------------- */

static enum err sim_commit(void *arg, struct errmsg *m)
{
    bool fails = sim.dead || sim.away > 0;
    bool breaks = !fails && !sim.quiet && chance(sim.fail_percent);
    bool lands = breaks && chance(30);
    mem.fail_commit = fails || (breaks && !lands) ? ERR_FULL : OK;
    enum err e = memory_commit(arg, m);
    sim.dead = sim.dead || (e == OK && sim.die_at_commit);
    if (lands) {
        sim.landed++;
        sim.away = 1 + (int)(roll() % SIM_AWAY_TURNS);
        sim.broken = true;
        e = err_set(m, ERR_IO, "and it is there all the same");
    }
    return e;
}

static bool sim_in_doubt(void *arg)
{
    return sim.away > 0;
}

static struct journal_rows sim_rows(void)
{
    return (struct journal_rows){
        .put = memory_put,
        .del = memory_del,
        .commit = sim_commit,
        .in_doubt = sim_in_doubt,
        .rollback = memory_rollback,
        .scan = memory_scan,
    };
}

/* --- the server's life ------------------------------------------------------------------------ */

struct sim_server {
    void (*start)(void);
    void (*away)(void);   /* the store broke: drops what lives with it; NULL: nothing does */
    void (*stop)(void);   /* takes it down as it is: killed, where sim.dead says so */
    void (*forget)(void); /* the clients' side of it: connections are gone with the process */
};

static void sim_die(const struct sim_server *s)
{
    sim.dead = true;
    sim.kills++;
    memory_rollback(NULL);
    s->stop();
    s->forget();
}

static void sim_kill(const struct sim_server *s)
{
    sim_die(s);
    sim.dead = sim.die_at_commit = sim.broken = false;
    sim.away = 0;
    s->start();
}

/* A life is over. */
static void sim_end(const struct sim_server *s)
{
    sim_die(s);
    memory_clear();
}

/* After a turn in which the store broke, and in those after it: when it is there again, the server
 * reads what it says. Clients stay. */
static void sim_broken(const struct sim_server *s)
{
    if (sim.broken && s->away != NULL) {
        s->away();
    }
    sim.broken = false;
    if (--sim.away == 0) {
        s->stop();
        s->start();
    }
}

static void sim_turn(const struct sim_server *s)
{
    bool before = false, after = false;
    if (sim.crash_at > 0 && !sim.quiet) {
        before = sim.crash_at == sim.points + 1;
        after = sim.crash_at == sim.points + 2;
        sim.points += 2;
    } else if (sim.crash_at == 0 && !sim.quiet && chance(sim.kill_percent)) {
        after = chance(50);
        before = !after;
    }
    if (before) {
        sim_kill(s);
        return;
    }
    sim.die_at_commit = after;
    for (int i = 0; i < 8 && journal_pending(sim.journal) && !sim.dead; i++) {
        journal_flush(sim.journal);
    }
    if (sim.dead || after) {
        sim_kill(s);
    } else if (sim.away > 0) {
        sim_broken(s);
    }
}

/* --- all lives -------------------------------------------------------------------------------- */

static void no_log(void *arg, enum log_level level, const char *line)
{
}

/* The same life once for each of its points, and in the end without a death. */
static void sim_each(uint64_t seed, void (*live)(uint64_t seed, int crash_at))
{
    int at = 0;
    do {
        live(seed, ++at);
    } while (at <= sim.points);
}

/* Lives as the arguments say. Returns how many seeds that were. */
static uint64_t sim_main(int argc, char **argv, void (*live)(uint64_t seed, int crash_at),
                         uint64_t seeds)
{
    clock_set_source(wall_ms, mono_us);
    log_set_sink(no_log, NULL); /* failed commits are what this is about */
    live(0, 0);                 /* what the script leads to when nobody dies */
    if (argc == 4 && strcmp(argv[1], "at") == 0) {
        live(strtoull(argv[2], NULL, 10), (int)strtol(argv[3], NULL, 10));
        return 1;
    }
    bool each = argc > 1 && strcmp(argv[1], "each") == 0;
    seeds = argc > 1 + each ? strtoull(argv[1 + each], NULL, 10) : seeds;
    uint64_t first = argc > 2 + each ? strtoull(argv[2 + each], NULL, 10) : 1;
    if (each) {
        sim_each(0, live);
    }
    for (uint64_t s = first; s < first + seeds; s++) {
        if (each) {
            sim_each(s, live);
        } else {
            live(s, 0);
        }
    }
    return seeds;
}

#endif
