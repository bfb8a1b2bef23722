/* A store is opened and closed all the time, beside processes that keep the processors busy.
 *
 *   store_reopen [seconds [seed]]
 *
 *      parent ── starts, kills every other one ──▶ process   opens, checks everything, appends a
 *           ◀── ends, by a pipe ──                           little, closes; LIVES times, or until
 *                                                            it is killed
 *
 * Segments, limits and files are tiny, so flushes, moves, drops, rewrites and merges are under way
 * whenever a store closes or its process dies. What must hold: it opens again, no end that was
 * reported is missing, and every record from the log start to the end is there. If not, the
 * directory stays for inspection. */
#include <errno.h>
#include <sys/prctl.h>

#include "shared/base/log.h"
#include "shared/record/record.h"
#include "shared/store/store.h"
#include "tests/torture/torture.h"

#define PARTS       3
#define SECONDS     10
#define LIVES       12
#define COMMITS_MAX 60
#define LIMIT       (1u << 20)
#define BUSY        3
#define TICK_MS     11000 /* by the store's clock: what is repeated after seconds is so soon */

struct report {
    int64_t end[PARTS];
    int64_t now_ms;  /* the store's clock */
    uint64_t closed; /* lives that ended by closing */
};

/* --- one life --------------------------------------------------------------------------------- */

static struct store *open_writer(void)
{
    struct errmsg m;
    struct store *s;
    struct store_options o = {.dir = dir,
                              .role = STORE_WRITER,
                              .segment_bytes = 64u << 10,
                              .limit_bytes = LIMIT,
                              .tail_bytes = 256u << 10};
    enum err e = store_open(&s, &o, &m);
    CHECK(e == OK, "store_open: %s: %s", err_name(e), m.text);
    const struct store_catalog *c = store_catalog_ref(s);
    struct store_topic t = {.name = "t",
                            .partition_count = PARTS,
                            .retention_ms = -1,
                            .retention_bytes = -1,
                            .cleanup = STORE_CLEANUP_DELETE};
    CHECK(c->count > 0 || store_topic_create(s, &t, &m) == OK, "topic");
    store_catalog_unref(s, c);
    return s;
}

static bool check_record(void *arg, const struct record *r)
{
    int64_t *at = arg;
    CHECK(r->offset == *at && strtoll((const char *)r->value.data, NULL, 10) == *at,
          "offset %lld instead of %lld", (long long)r->offset, (long long)*at);
    ++*at;
    return true;
}

/* The first batch may begin below the log start. */
static void check_partition(struct store *s, uint32_t p, struct store_offsets o)
{
    struct errmsg m;
    for (int64_t at = o.log_start; at < o.end;) {
        struct store_slices *x;
        enum err e = store_read(s, p, at, 1u << 20, true, &x, &m);
        CHECK(e == OK && x->count > 0, "read %u:%lld: %s: %s", p, (long long)at, err_name(e),
              m.text);
        for (size_t i = 0; i < x->count; i++) {
            struct slice b = slice_make(x->iov[i].iov_base, x->iov[i].iov_len);
            struct batch_header h;
            CHECK(batch_check(b, &m) == OK && batch_read_header(b, &h) == OK, "%s", m.text);
            at = at == o.log_start ? h.base_offset : at;
            CHECK(batch_walk(b, 1u << 20, check_record, &at, &m) == OK, "%s", m.text);
        }
        CHECK(at == x->next, "read to %lld instead of %lld", (long long)at, (long long)x->next);
        store_slices_free(x);
    }
}

static void check_all(struct store *s, struct report *known)
{
    for (uint32_t p = 0; p < PARTS; p++) {
        struct store_offsets o;
        CHECK(store_offsets(s, p, &o) == OK, "no partition %u", p);
        CHECK(o.end >= known->end[p], "lost: partition %u ends at %lld, reported %lld", p,
              (long long)o.end, (long long)known->end[p]);
        check_partition(s, p, o);
        known->end[p] = o.end;
    }
}

static void append_some(struct store *s, struct batch_builder *b, struct report *at)
{
    static char value[4096];
    struct errmsg m;
    uint32_t p = next_random(PARTS);
    batch_builder_reset(b);
    for (uint32_t n = 1 + next_random(4); n > 0; n--) {
        snprintf(value, sizeof value, "%lld", (long long)at->end[p]++);
        struct record r = {.timestamp = at->now_ms, .value = slice_make(value, sizeof value)};
        CHECK(batch_add(b, &r) == OK, "batch_add");
    }
    struct slice bytes = batch_finish(b);
    int64_t base;
    enum err e = store_append(s, p, (uint8_t *)(uintptr_t)bytes.data, bytes.len, &base);
    CHECK(e == OK, "append: %s", err_name(e));
    CHECK(store_commit(s, &m) == OK, "commit: %s", m.text);
}

static void run_process(int to, struct report at, uint64_t with_seed)
{
    struct errmsg m;
    struct batch_builder b;
    seed = with_seed;
    batch_builder_init(&b, 1u << 20);
    for (int life = 0; life < LIVES; life++) {
        struct store *s = open_writer();
        check_all(s, &at);
        for (uint32_t n = next_random(4) ? next_random(4) : next_random(COMMITS_MAX); n > 0; n--) {
            append_some(s, &b, &at);
            CHECK(write(to, &at, sizeof at) == sizeof at, "report");
            if (next_random(4) == 0) {
                CHECK(store_tick(s, at.now_ms += TICK_MS, &m) == OK, "tick: %s", m.text);
            }
        }
        struct timespec pause = {.tv_nsec = (long)next_random(3) * 2000000};
        nanosleep(&pause, NULL); /* so that closing meets now this, now that */
        store_close(s);
        at.closed++;
        CHECK(write(to, &at, sizeof at) == sizeof at, "report");
    }
    _exit(0);
}

/* --- the parent ------------------------------------------------------------------------------- */

static void busy(void)
{
    if (fork() == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0); /* else the alarm sees to it */
        (void)nice(10);
        alarm(3600);
        for (volatile unsigned i = 0;; i++) {
        }
    }
}

/* True: the process was killed. */
static bool one_process(struct report *known)
{
    int fds[2];
    CHECK(pipe(fds) == 0, "pipe");
    uint64_t with_seed = torture_seed();
    bool doomed = next_random(2);
    int64_t kill_at = doomed ? clock_mono_us() + next_random(400000) : INT64_MAX;
    pid_t pid = fork();
    CHECK(pid >= 0, "fork");
    if (pid == 0) {
        close(fds[0]);
        run_process(fds[1], *known, with_seed);
    }
    close(fds[1]);
    return torture_watch(pid, fds[0], known, sizeof *known, kill_at, 0);
}

int main(int argc, char **argv)
{
    int seconds = torture_begin("store_reopen", argc, argv, SECONDS);
    log_set_level(LOG_WARN); /* a life has a line */
    for (int i = 0; i < BUSY; i++) {
        busy();
    }
    struct report known = {.now_ms = 1000};
    int kills = 0;
    for (int64_t until = clock_mono_ms() + seconds * 1000LL; clock_mono_ms() < until;) {
        kills += one_process(&known);
    }
    int64_t records = 0;
    for (int p = 0; p < PARTS; p++) {
        records += known.end[p];
    }
    torture_end();
    printf("store_reopen: %llu closed, %d killed, %lld records, 0 lost\n",
           (unsigned long long)known.closed, kills, (long long)records);
    printf("1 passed, 0 failed, 0 skipped\n");
    return 0;
}
