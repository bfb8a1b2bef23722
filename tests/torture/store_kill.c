/* A writer is killed again and again (SIGKILL, at random), while a follower in another process
 * reads all the time.
 *
 *   store_kill [seconds [seed]]
 *
 *      parent ── starts, kills ──▶ writer    appends known records and a row that counts them,
 *        │  ◀── ends, by a pipe ──            in one commit; reports the ends after it
 *        └── starts, tells the final ends ──▶ reader   checks every record, tail and database
 *
 * What must hold: no end that was reported is ever missing (0 lost). Offsets, and the text in the
 * values, go up by one without a gap or a repetition, for the reader and for each writer that opens
 * (0 holes, 0 repeated). The row agrees with the ends: batches and rows of a commit are there
 * together. Segments are small, retention drops the oldest, so flushes, file drops and rewrites are
 * killed in the middle, too. */
#include <errno.h>

#include "shared/record/record.h"
#include "shared/store/store.h"
#include "tests/torture/torture.h"

#define PARTS       6
#define SECONDS     12
#define BATCH_MAX   8
#define ROUND_MAX   5000 /* commits of one life of a writer that is not killed before */
#define RETAIN      (3u << 20)
#define CATCH_UP_S  180

struct ends {
    int64_t end[PARTS];
};

static char follower_dir[300];

/* --- the writer ------------------------------------------------------------------------------- */

static struct slice make_batch(struct batch_builder *b, uint32_t uid, int64_t first, int count)
{
    static char value[4096];
    batch_builder_reset(b);
    for (int i = 0; i < count; i++) {
        int n = snprintf(value, sizeof value, "%u:%lld", uid, (long long)first + i);
        size_t bytes = (size_t)n + next_random(900);
        struct record r = {.timestamp = clock_wall_ms(), .value = slice_make(value, bytes)};
        CHECK(batch_add(b, &r) == OK, "batch_add");
    }
    return batch_finish(b);
}

static bool read_row(void *arg, struct slice key, struct slice value)
{
    CHECK(value.len == sizeof(struct ends), "row of %zu bytes", value.len);
    memcpy(arg, value.data, value.len);
    return true;
}

static struct store *open_writer(void)
{
    struct errmsg m;
    struct store *s;
    struct store_options o = {.dir = dir,
                              .role = STORE_WRITER,
                              .segment_bytes = 256u << 10,
                              .limit_bytes = RETAIN,
                              .tail_bytes = 1u << 20};
    enum err e = store_open(&s, &o, &m);
    CHECK(e == OK, "store_open: %s: %s", err_name(e), m.text);
    return s;
}

static void make_topic(struct store *s)
{
    struct errmsg m;
    const struct store_catalog *c = store_catalog_ref(s);
    if (c->count == 0) {
        struct store_topic t = {.name = "t",
                                .partition_count = PARTS,
                                .retention_ms = -1,
                                .retention_bytes = RETAIN / PARTS,
                                .cleanup = STORE_CLEANUP_DELETE};
        CHECK(store_topic_create(s, &t, &m) == OK, "%s", m.text);
    }
    store_catalog_unref(s, c);
}

/* The ends are at least those that were reported, and they are those that the row tells. */
static struct ends check_recovered(struct store *s, const struct ends *reported)
{
    struct errmsg m;
    struct ends row = {{0}};
    CHECK(store_rows(s, slice_str("ends"), read_row, &row, &m) == OK, "%s", m.text);
    for (uint32_t p = 0; p < PARTS; p++) {
        struct store_offsets o;
        CHECK(store_offsets(s, p, &o) == OK, "no partition %u", p);
        CHECK(o.end >= reported->end[p], "lost: partition %u ends at %lld, reported %lld", p,
              (long long)o.end, (long long)reported->end[p]);
        CHECK(o.end == row.end[p], "partition %u ends at %lld, its row says %lld", p,
              (long long)o.end, (long long)row.end[p]);
        CHECK(o.leader_epoch == 0, "a kill is not a loss: epoch %d", o.leader_epoch);
    }
    struct store_stats st;
    store_get_stats(s, &st);
    CHECK(st.recovered_loss == 0, "recovered_loss");
    return row;
}

static void run_writer(int report, const struct ends *reported, uint64_t with_seed)
{
    struct errmsg m;
    struct batch_builder b;
    seed = with_seed;
    batch_builder_init(&b, 1u << 20);
    struct store *s = open_writer();
    make_topic(s);
    struct ends at = check_recovered(s, reported);
    CHECK(write(report, &at, sizeof at) == sizeof at, "report");
    for (int i = 0; i < ROUND_MAX; i++) {
        for (uint32_t p = 0; p < PARTS; p++) {
            if (next_random(3) == 0) {
                continue;
            }
            int count = 1 + (int)next_random(BATCH_MAX);
            struct slice batch = make_batch(&b, p, at.end[p], count);
            int64_t base;
            enum err e = store_append(s, p, (uint8_t *)(uintptr_t)batch.data, batch.len, &base);
            CHECK(e == OK && base == at.end[p], "append: %s", err_name(e));
            at.end[p] += count;
        }
        CHECK(store_put(s, slice_str("ends"), slice_make(&at, sizeof at)) == OK, "put");
        CHECK(store_commit(s, &m) == OK, "commit: %s", m.text);
        CHECK(write(report, &at, sizeof at) == sizeof at, "report");
        if (i % 50 == 49) {
            CHECK(store_tick(s, clock_wall_ms(), &m) == OK, "tick: %s", m.text);
        }
    }
    store_close(s);
    _exit(0);
}

/* --- the reader ------------------------------------------------------------------------------- */

struct check {
    uint32_t uid;
    int64_t next;
};

static bool check_record(void *arg, const struct record *r)
{
    struct check *c = arg;
    char want[64];
    int n = snprintf(want, sizeof want, "%u:%lld", c->uid, (long long)c->next);
    CHECK(r->offset == c->next, "hole or repetition: partition %u offset %lld instead of %lld",
          c->uid, (long long)r->offset, (long long)c->next);
    CHECK(r->value.len >= (size_t)n && memcmp(r->value.data, want, (size_t)n) == 0,
          "partition %u offset %lld has another record's value", c->uid, (long long)c->next);
    c->next++;
    return true;
}

static int64_t check_batch(uint32_t uid, int64_t at, struct slice batch)
{
    struct errmsg m;
    struct check c = {uid, at};
    CHECK(batch_check(batch, &m) == OK, "%s", m.text);
    CHECK(batch_walk(batch, 1u << 20, check_record, &c, &m) == OK, "%s", m.text);
    return c.next;
}

struct reader_stats {
    uint64_t tail, stored, again, jumps;
};

/* One look at one partition; true when something came. */
static bool read_some(struct store *s, uint32_t uid, int64_t *at, struct buf *b,
                      struct reader_stats *st)
{
    struct errmsg m;
    int64_t next, from = *at;
    buf_reset(b);
    enum err e = next_random(4) ? store_read_tail(s, uid, *at, 100000, true, b, &next)
                                : ERR_NOT_FOUND;
    if (e == OK) {
        for (size_t pos = 0; pos < b->len;) {
            struct batch_header h;
            CHECK(batch_read_header(slice_make(b->data + pos, b->len - pos), &h) == OK, "header");
            *at = check_batch(uid, *at, slice_make(b->data + pos, batch_total_bytes(&h)));
            pos += batch_total_bytes(&h);
        }
        CHECK(*at == next, "tail said %lld", (long long)next);
        st->tail += *at > from;
        return *at > from;
    }
    struct store_slices *x;
    e = e == ERR_NOT_FOUND ? store_read(s, uid, *at, 100000, true, &x, &m) : e;
    if (e == ERR_RANGE) { /* retention has passed us by */
        struct store_offsets o;
        CHECK(store_offsets(s, uid, &o) == OK && *at < o.log_start && o.log_start <= o.end,
              "partition %u: %lld is out of range", uid, (long long)*at);
        *at = o.log_start;
        st->jumps++;
        return true;
    }
    if (e == ERR_AGAIN) {
        st->again++;
        return false;
    }
    CHECK(e == OK, "read: %s: %s", err_name(e), m.text);
    for (size_t i = 0; i < x->count; i++) {
        *at = check_batch(uid, *at, slice_make(x->iov[i].iov_base, x->iov[i].iov_len));
    }
    CHECK(*at == x->next, "slices said %lld", (long long)x->next);
    store_slices_free(x);
    st->stored += *at > from;
    return *at > from;
}

static struct store *open_follower(void)
{
    struct errmsg m;
    struct store *s;
    struct store_options o = {
        .dir = dir, .role = STORE_FOLLOWER, .follower_dir = follower_dir};
    for (int i = 0; i < 10000; i++) {
        if (store_open(&s, &o, &m) == OK) {
            return s;
        }
        struct timespec t = {.tv_nsec = 10000000};
        nanosleep(&t, NULL);
    }
    CHECK(false, "follower does not open: %s", m.text);
}

/* Segments fit one batch start at a log start, because retention moves from index row to index row;
 * trims would not. */
static void run_reader(int final)
{
    struct store *s = open_follower();
    struct ends at = {{0}}, goal = {{0}};
    struct reader_stats st = {0};
    struct buf b;
    bool told = false;
    int64_t give_up = INT64_MAX;
    buf_init(&b, 8u << 20);
    for (;;) {
        uint32_t seen = store_sequence(s);
        bool some = false, all = told;
        for (uint32_t p = 0; p < PARTS; p++) {
            struct store_offsets o;
            if (store_offsets(s, p, &o) == OK && o.end > at.end[p]) {
                some |= read_some(s, p, &at.end[p], &b, &st);
            }
            all = all && at.end[p] >= goal.end[p];
        }
        if (all) {
            break;
        }
        struct pollfd f = {.fd = final, .events = POLLIN};
        if (!told && poll(&f, 1, 0) == 1) {
            CHECK(read(final, &goal, sizeof goal) == sizeof goal, "no goal");
            told = true;
            give_up = clock_mono_ms() + CATCH_UP_S * 1000;
        }
        CHECK(clock_mono_ms() < give_up, "lost: partition 0 at %lld of %lld",
              (long long)at.end[0], (long long)goal.end[0]);
        if (!some) {
            store_wait(s, seen, 50);
        }
    }
    struct store_stats stats;
    store_get_stats(s, &stats);
    printf("reader: %llu answers from the tail, %llu from the database, %llu not yet, %llu jumps "
           "by retention, %llu holes healed, %llu reopens\n",
           (unsigned long long)st.tail, (unsigned long long)st.stored,
           (unsigned long long)st.again, (unsigned long long)st.jumps,
           (unsigned long long)stats.holes, (unsigned long long)stats.reopens);
    CHECK(st.tail > 0 && st.stored > 0, "one of the two ways was never used");
    buf_fini(&b);
    store_close(s);
    fflush(stdout);
    _exit(0);
}

/* --- the parent ------------------------------------------------------------------------------- */

/* One life of a writer; keeps the newest report. True: it was killed, false: it ended by itself. */
static bool one_life(struct ends *reported)
{
    int fds[2];
    CHECK(pipe(fds) == 0, "pipe");
    uint64_t with_seed = torture_seed();
    pid_t pid = fork();
    CHECK(pid >= 0, "fork");
    if (pid == 0) {
        close(fds[0]);
        run_writer(fds[1], reported, with_seed);
    }
    close(fds[1]);
    /* Mostly counted from when it has opened, or a slow machine would never see that. */
    int64_t lives_us = 20000 + next_random(400000);
    bool counted = next_random(4) == 0;
    return torture_watch(pid, fds[0], reported, sizeof *reported,
                         clock_mono_us() + (counted ? lives_us : 60000000), counted ? 0 : lives_us);
}

int main(int argc, char **argv)
{
    int seconds = torture_begin("store_kill", argc, argv, SECONDS);
    snprintf(follower_dir, sizeof follower_dir, "%s/follower", root);
    int final[2], status;
    CHECK(pipe(final) == 0, "pipe");
    pid_t reader = fork();
    CHECK(reader >= 0, "fork");
    if (reader == 0) {
        close(final[1]);
        run_reader(final[0]);
    }
    struct ends reported = {{0}};
    int kills = 0, lives = 0;
    for (int64_t until = clock_mono_ms() + seconds * 1000LL; clock_mono_ms() < until; lives++) {
        kills += one_life(&reported);
        CHECK(waitpid(reader, &status, WNOHANG) == 0, "reader failed: %x", status);
    }
    CHECK(write(final[1], &reported, sizeof reported) == sizeof reported, "final");
    CHECK(waitpid(reader, &status, 0) == reader && status == 0, "reader failed: %x", status);
    int64_t records = 0;
    for (int p = 0; p < PARTS; p++) {
        records += reported.end[p];
    }
    torture_end();
    printf("store_kill: %d lives, %d kills, %lld records, 0 lost, 0 repeated, 0 holes\n", lives,
           kills, (long long)records);
    printf("1 passed, 0 failed, 0 skipped\n");
    return 0;
}
