/* A writer whose streams are compacted all the time is killed again and again (SIGKILL, at random),
 * while a follower in another process reads them from the beginning to the end, over and over.
 *
 *   store_compact [seconds [seed]]
 *
 * Values name partition, offset and key; a row of each commit says which offset is the newest of
 * each key. What must hold, for each writer that opens and for the reader, at any time: batches
 * follow each other without a hole, records are where they were written, the newest of each key is
 * there. Segments are small, so rewrites and their rows are killed in the middle; some writers are
 * stopped there instead, in good order. In the end the last writer cleans all, and nothing but the
 * newest of each key is left. */

#include "shared/store/store_int.h"
#include "tests/torture/torture.h"

#define PARTS     3
#define KEYS      300
#define SECONDS   12
#define BATCH_MAX 8
#define ROUND_MAX 4000

struct state {
    int64_t end[PARTS];
    int64_t newest[PARTS][KEYS]; /* + 1; 0: never written */
};

static char follower_dir[300];

/* --- checking --------------------------------------------------------------------------------- */

struct seen {
    uint32_t uid;
    int64_t from, next, records;
    bool found[KEYS]; /* at the offset that the state says */
    const struct state *want;
};

static bool see_record(void *arg, const struct record *r)
{
    struct seen *q = arg;
    char want[64];
    int key;
    if (r->offset < q->from) {
        return true; /* the batch has absorbed what lay where the reader stands */
    }
    CHECK(r->offset >= q->next, "partition %u: offset %lld comes twice", q->uid,
          (long long)r->offset);
    q->next = r->offset + 1;
    CHECK(r->key.len < 10 && sscanf((const char *)r->key.data, "k%3d", &key) == 1 && key < KEYS,
          "a key");
    int n = snprintf(want, sizeof want, "%u:%lld:%d.", q->uid, (long long)r->offset, key);
    CHECK(r->value.len >= (size_t)n && memcmp(r->value.data, want, (size_t)n) == 0,
          "partition %u offset %lld has another record's value", q->uid, (long long)r->offset);
    q->found[key] |= q->want && q->want->newest[q->uid][key] == r->offset + 1;
    q->records++;
    return true;
}

/* Reads a partition from its beginning up to `end`. False: not yet (a follower). */
static bool read_all(struct store *s, struct seen *q, int64_t end)
{
    struct errmsg m;
    for (int64_t at = 0; at < end;) {
        struct store_slices *x;
        enum err e = store_read(s, q->uid, at, 30000 + next_random(100000), true, &x, &m);
        if (e == ERR_AGAIN) {
            return false;
        }
        CHECK(e == OK && x->count > 0, "read: %s: %s", err_name(e), m.text);
        for (size_t i = 0; i < x->count; i++) {
            struct slice batch = slice_make(x->iov[i].iov_base, x->iov[i].iov_len);
            struct batch_header h;
            CHECK(batch_check(batch, &m) == OK, "%s", m.text);
            CHECK(batch_read_header(batch, &h) == OK, "header");
            CHECK(i == 0 ? h.base_offset <= at : h.base_offset == at,
                  "hole: partition %u has %lld instead of %lld", q->uid, (long long)h.base_offset,
                  (long long)at);
            q->from = at;
            CHECK(batch_walk(batch, 1u << 20, see_record, q, &m) == OK, "%s", m.text);
            at = batch_next_offset(&h);
        }
        CHECK(at == x->next, "slices said %lld", (long long)x->next);
        store_slices_free(x);
    }
    return true;
}

static bool check_all(struct store *s, const struct state *want, int64_t *records)
{
    *records = 0;
    for (uint32_t p = 0; p < PARTS; p++) {
        struct seen q = {.uid = p, .want = want};
        if (!read_all(s, &q, want->end[p])) {
            return false;
        }
        for (int k = 0; k < KEYS; k++) {
            CHECK(want->newest[p][k] == 0 || q.found[k], "lost: partition %u, key %d at %lld", p, k,
                  (long long)want->newest[p][k] - 1);
        }
        *records += q.records;
    }
    return true;
}

/* --- the writer ------------------------------------------------------------------------------- */

static struct store *open_writer(void)
{
    struct errmsg m;
    struct store *s;
    struct store_options o = {.dir = dir,
                              .role = STORE_WRITER,
                              .segment_bytes = 128u << 10,
                              .tail_bytes = 1u << 20};
    enum err e = store_open(&s, &o, &m);
    CHECK(e == OK, "store_open: %s: %s", err_name(e), m.text);
    const struct store_catalog *c = store_catalog_ref(s);
    if (c->count == 0) {
        struct store_topic t = {.name = "t",
                                .partition_count = PARTS,
                                .retention_ms = -1,
                                .retention_bytes = -1,
                                .cleanup = STORE_CLEANUP_COMPACT,
                                .compaction = {true, 0.2, 0, INT64_MAX, 1000}};
        CHECK(store_topic_create(s, &t, &m) == OK, "%s", m.text);
    }
    store_catalog_unref(s, c);
    return s;
}

static bool read_row(void *arg, struct slice key, struct slice value)
{
    CHECK(value.len == sizeof(struct state), "row of %zu bytes", value.len);
    memcpy(arg, value.data, value.len);
    return true;
}

static struct state check_recovered(struct store *s, const struct state *reported)
{
    struct errmsg m;
    static struct state row;
    int64_t records;
    CHECK(store_rows(s, slice_str("state"), read_row, &row, &m) == OK, "%s", m.text);
    for (uint32_t p = 0; p < PARTS; p++) {
        struct store_offsets o;
        CHECK(store_offsets(s, p, &o) == OK && o.end == row.end[p], "the row and the ends differ");
        CHECK(o.end >= reported->end[p], "lost: %lld of %lld", (long long)o.end,
              (long long)reported->end[p]);
    }
    CHECK(check_all(s, &row, &records), "a writer can always read");
    return row;
}

static void append_some(struct store *s, struct batch_builder *b, struct state *st, uint32_t p)
{
    char key[16];
    static char value[512];
    int count = 1 + (int)next_random(BATCH_MAX);
    int64_t base;
    batch_builder_reset(b);
    for (int i = 0; i < count; i++) {
        int k = (int)next_random(p == 0 ? 10 : KEYS);
        snprintf(key, sizeof key, "k%03d", k);
        int n = snprintf(value, sizeof value, "%u:%lld:%d.", p, (long long)st->end[p] + i, k);
        struct record r = {.timestamp = clock_wall_ms(),
                           .key = slice_str(key),
                           .value = slice_make(value, (size_t)n + next_random(300))};
        CHECK(batch_add(b, &r) == OK, "batch_add");
        st->newest[p][k] = st->end[p] + i + 1;
    }
    struct slice batch = batch_finish(b);
    enum err e = store_append(s, p, (uint8_t *)(uintptr_t)batch.data, batch.len, &base);
    CHECK(e == OK && base == st->end[p], "append: %s", err_name(e));
    st->end[p] += count;
}

static void run_writer(int report, const struct state *reported, uint64_t with_seed)
{
    struct errmsg m;
    struct batch_builder b;
    seed = with_seed;
    batch_builder_init(&b, 1u << 20);
    struct store *s = open_writer();
    struct state st = check_recovered(s, reported);
    int64_t now_ms = clock_wall_ms();
    int rounds = next_random(3) == 0 ? 50 + (int)next_random(500) : ROUND_MAX;
    for (int i = 0; i < rounds; i++) {
        for (uint32_t p = 0; p < PARTS; p++) {
            append_some(s, &b, &st, p);
        }
        CHECK(store_put(s, slice_str("state"), slice_make(&st, sizeof st)) == OK, "put");
        CHECK(store_commit(s, &m) == OK, "commit: %s", m.text);
        CHECK(write(report, &st.end, sizeof st.end) == sizeof st.end, "report");
        if (i % 5 == 4) {
            now_ms += 1500;
            CHECK(store_tick(s, now_ms, &m) == OK, "tick: %s", m.text);
        }
    }
    store_close(s);
    _exit(0);
}

/* The last life: cleans all that there is. */
static void run_last(const struct state *reported)
{
    struct errmsg m;
    struct store *s = open_writer();
    struct state st = check_recovered(s, reported);
    int64_t now_ms = clock_wall_ms() + 1000000000, records, keys = 0;
    bool clean = false;
    int64_t clean_before = part_get(s, 0)->clean.to; /* 0 on a machine that was too busy */
    const struct store_catalog *c = store_catalog_ref(s);
    struct store_topic t = c->topics[0];
    t.compaction.min_cleanable_dirty_ratio = 0;
    CHECK(store_topic_alter(s, &t, &m) == OK, "alter: %s", m.text);
    store_catalog_unref(s, c);
    for (int64_t give_up = clock_mono_ms() + 60000; !clean;) {
        CHECK(clock_mono_ms() < give_up, "it is never clean");
        now_ms += 1500;
        CHECK(store_tick(s, now_ms, &m) == OK, "tick: %s", m.text);
        clean = cleaner_idle(s);
        for (uint32_t p = 0; p < PARTS; p++) {
            clean = clean && part_get(s, p)->clean.to == st.end[p];
        }
    }
    CHECK(check_all(s, &st, &records), "a writer can always read");
    for (uint32_t p = 0; p < PARTS; p++) {
        for (int k = 0; k < KEYS; k++) {
            keys += st.newest[p][k] > 0;
        }
    }
    CHECK(records == keys, "%lld records are left of %lld keys", (long long)records,
          (long long)keys);
    printf("store_compact: %lld records, %lld are left; partition 0 was clean to %lld of %lld\n",
           (long long)(st.end[0] + st.end[1] + st.end[2]), (long long)records,
           (long long)clean_before, (long long)st.end[0]);
    fflush(stdout);
    store_close(s);
    _exit(0);
}

/* --- the reader ------------------------------------------------------------------------------- */

static void run_reader(int final)
{
    struct errmsg m;
    struct store *s = NULL;
    struct store_options o = {.dir = dir, .role = STORE_FOLLOWER, .follower_dir = follower_dir};
    struct pollfd f = {.fd = final, .events = POLLIN};
    unsigned passes = 0, again = 0;
    seed = 1;
    while (store_open(&s, &o, &m) != OK) {
        CHECK(poll(&f, 1, 10) == 0, "follower does not open: %s", m.text);
    }
    while (poll(&f, 1, 0) == 0) {
        for (uint32_t p = 0; p < PARTS; p++) {
            struct store_offsets at;
            struct seen q = {.uid = p};
            if (store_offsets(s, p, &at) == OK) {
                bool whole = read_all(s, &q, at.end);
                passes += whole;
                again += !whole;
            }
        }
    }
    struct store_stats st;
    store_get_stats(s, &st);
    printf("reader: %u passes, %u not yet, %llu holes healed, %llu reopens\n", passes, again,
           (unsigned long long)st.holes, (unsigned long long)st.reopens);
    CHECK(passes > 0, "never read");
    store_close(s);
    fflush(stdout);
    _exit(0);
}

/* --- the parent ------------------------------------------------------------------------------- */

static bool one_life(struct state *reported)
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
    /* Mostly counted from the first commit; some are killed while they open. */
    int64_t lives_us = 50000 + next_random(900000);
    bool counted = next_random(4) == 0;
    return torture_watch(pid, fds[0], reported->end, sizeof reported->end,
                         clock_mono_us() + (counted ? lives_us : 20000000), counted ? 0 : lives_us);
}

int main(int argc, char **argv)
{
    int seconds = torture_begin("store_compact", argc, argv, SECONDS);
    snprintf(follower_dir, sizeof follower_dir, "%s/follower", root);
    int final[2], status;
    CHECK(pipe(final) == 0, "pipe");
    pid_t reader = fork();
    CHECK(reader >= 0, "fork");
    if (reader == 0) {
        close(final[1]);
        run_reader(final[0]);
    }
    static struct state reported;
    int kills = 0, lives = 0;
    for (int64_t until = clock_mono_ms() + seconds * 1000LL; clock_mono_ms() < until; lives++) {
        kills += one_life(&reported);
        CHECK(waitpid(reader, &status, WNOHANG) == 0, "reader failed: %x", status);
    }
    pid_t last = fork();
    CHECK(last >= 0, "fork");
    if (last == 0) {
        run_last(&reported);
    }
    CHECK(waitpid(last, &status, 0) == last && status == 0, "last writer failed: %x", status);
    CHECK(write(final[1], "x", 1) == 1, "final");
    CHECK(waitpid(reader, &status, 0) == reader && status == 0, "reader failed: %x", status);
    torture_end();
    printf("store_compact: %d lives, %d kills, 0 lost, 0 holes\n", lives, kills);
    printf("1 passed, 0 failed, 0 skipped\n");
    return 0;
}
