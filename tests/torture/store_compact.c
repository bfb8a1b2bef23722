/* A writer whose streams are compacted all the time is killed again and again (SIGKILL, at random),
 * while a follower in another process reads them from the beginning to the end, over and over.
 *
 *   store_compact [seconds [seed]]
 *
 * Values name partition, offset and key; a row of each commit says which offset is the newest of
 * each key. Some records are tombstones, some batches belong to transactions, every third of which
 * is aborted; they go on over deaths. What must hold, for each writer that opens and the reader, at
 * any time: batches follow each other without a hole, records are where they were written, the
 * newest of each key is there. A writer, who knows what was aborted, must also find nothing behind
 * the newest, and of a key that was deleted last either its tombstone or nothing: no value comes
 * back. Segments are small, so rewrites and their rows are killed in the middle; some writers are
 * stopped there instead, in good order. In the end the last writer cleans all, and nothing but the
 * newest of each key is left, of what was aborted nothing. */

#include "shared/record/control.h"
#include "shared/record/rewrite.h"
#include "shared/store/store_int.h"
#include "tests/torture/torture.h"

#define PARTS     3
#define KEYS      300
#define SECONDS   12
#define BATCH_MAX 8
#define ROUND_MAX 4000
#define LAST_MS   600000 /* for cleaning it all, on a slow machine */

#define ABORTED_MAX 64 /* that the cleaner has not been over; no more are aborted then */
#define PENDING_MAX 64

struct wrote {
    int64_t offset;
    int32_t key;
    bool tombstone;
};

/* What is open in a partition, and what was aborted there. */
struct txns {
    int64_t first; /* of the open one; -1: none is */
    int32_t pending_count, aborted_count;
    struct wrote pending[PENDING_MAX];
    struct store_aborted aborted[ABORTED_MAX];
};

struct state {
    int64_t end[PARTS];
    int64_t newest[PARTS][KEYS]; /* + 1; 0: never written */
    bool deleted[PARTS][KEYS];   /* … by that one */
    struct txns txns[PARTS];
};

static char follower_dir[300];

/* --- checking --------------------------------------------------------------------------------- */

struct seen {
    uint32_t uid;
    int64_t from, next, records, tombstones, aborted;
    int64_t last[KEYS]; /* + 1, of what was committed */
    bool transactional; /* the batch that is being read */
    const struct state *want;
};

/* In a transaction that was aborted or is open. */
static bool is_uncommitted(const struct txns *t, int64_t offset)
{
    bool out = t->first >= 0 && offset >= t->first;
    for (int32_t i = 0; i < t->aborted_count; i++) {
        out |= offset >= t->aborted[i].first && offset <= t->aborted[i].last;
    }
    return out;
}

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
    CHECK(r->value.data == NULL ||
              (r->value.len >= (size_t)n && memcmp(r->value.data, want, (size_t)n) == 0),
          "partition %u offset %lld has another record's value", q->uid, (long long)r->offset);
    if (q->want && q->transactional && is_uncommitted(&q->want->txns[q->uid], r->offset)) {
        q->aborted++;
        return true;
    }
    q->last[key] = r->offset + 1;
    q->tombstones += r->value.data == NULL;
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
            q->transactional = h.attributes & BATCH_TRANSACTIONAL;
            CHECK((h.attributes & BATCH_CONTROL) ||
                      batch_walk(batch, 1u << 20, see_record, q, &m) == OK, "%s", m.text);
            at = batch_next_offset(&h);
        }
        CHECK(at == x->next, "slices said %lld", (long long)x->next);
        store_slices_free(x);
    }
    return true;
}

/* A key that was deleted last may be gone; and nobody has written behind the newest. */
static void check_key(const struct seen *q, int key)
{
    int64_t newest = q->want->newest[q->uid][key], last = q->last[key];
    CHECK(last == newest || (last == 0 && q->want->deleted[q->uid][key]),
          "%s: partition %u, key %d: %lld instead of %lld", last < newest ? "lost" : "came back",
          q->uid, key, (long long)last - 1, (long long)newest - 1);
}

struct left {
    int64_t records, tombstones, aborted;
};

static bool check_all(struct store *s, const struct state *want, struct left *left)
{
    *left = (struct left){0};
    for (uint32_t p = 0; p < PARTS; p++) {
        struct seen q = {.uid = p, .want = want};
        if (!read_all(s, &q, want->end[p])) {
            return false;
        }
        for (int k = 0; k < KEYS; k++) {
            check_key(&q, k);
        }
        left->records += q.records;
        left->tombstones += q.tombstones;
        left->aborted += q.aborted;
    }
    return true;
}

/* --- the writer ------------------------------------------------------------------------------- */

static struct state now; /* of the writer: what the next row says */

static enum err tell_stability(void *arg, uint32_t uid, struct store_stability *out)
{
    const struct txns *t = &now.txns[uid];
    out->last_stable = t->first >= 0 ? t->first : INT64_MAX;
    out->aborted_count = (size_t)t->aborted_count;
    out->aborted = malloc(sizeof t->aborted);
    CHECK(out->aborted != NULL, "no memory");
    memcpy(out->aborted, t->aborted, sizeof t->aborted);
    return OK;
}

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
    store_set_stability(s, tell_stability, NULL);
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

static void check_recovered(struct store *s, const struct state *reported)
{
    struct errmsg m;
    struct left left;
    for (uint32_t p = 0; p < PARTS; p++) {
        now.txns[p].first = -1;
    }
    CHECK(store_rows(s, slice_str("state"), read_row, &now, &m) == OK, "%s", m.text);
    for (uint32_t p = 0; p < PARTS; p++) {
        struct store_offsets o;
        CHECK(store_offsets(s, p, &o) == OK && o.end == now.end[p], "the row and the ends differ");
        CHECK(o.end >= reported->end[p], "lost: %lld of %lld", (long long)o.end,
              (long long)reported->end[p]);
    }
    CHECK(check_all(s, &now, &left), "a writer can always read");
}

static void note(uint32_t p, const struct wrote *w)
{
    if (now.newest[p][w->key] <= w->offset) {
        now.newest[p][w->key] = w->offset + 1;
        now.deleted[p][w->key] = w->tombstone;
    }
}

static void append_batch(struct store *s, uint32_t p, struct slice batch, int count)
{
    int64_t base;
    enum err e = store_append(s, p, (uint8_t *)(uintptr_t)batch.data, batch.len, &base);
    CHECK(e == OK && base == now.end[p], "append: %s", err_name(e));
    now.end[p] += count;
}

/* One producer for each partition. */
static void end_txn(struct store *s, uint32_t p)
{
    struct txns *t = &now.txns[p];
    uint8_t marker[TXN_MARKER_BYTES];
    int64_t to, retention_ms;
    CHECK(store_cleaned(s, p, &to, &retention_ms) == OK, "cleaned");
    int32_t kept = 0;
    for (int32_t i = 0; i < t->aborted_count; i++) { /* what is behind the cleaner is forgotten */
        if (t->aborted[i].last >= to) {
            t->aborted[kept++] = t->aborted[i];
        }
    }
    t->aborted_count = kept;
    struct txn_marker x = {.producer_id = 100 + p,
                           .commit = kept == ABORTED_MAX || next_random(3) > 0,
                           .timestamp = clock_wall_ms()};
    txn_marker_write(&x, marker);
    if (!x.commit) {
        t->aborted[t->aborted_count++] = (struct store_aborted){100 + p, t->first, now.end[p]};
    }
    for (int32_t i = 0; x.commit && i < t->pending_count; i++) {
        note(p, &t->pending[i]);
    }
    append_batch(s, p, slice_make(marker, sizeof marker), 1);
    t->first = -1;
    t->pending_count = 0;
}

static void append_some(struct store *s, struct batch_builder *b, uint32_t p)
{
    char key[16];
    static char value[512];
    struct txns *t = &now.txns[p];
    int count = 1 + (int)next_random(BATCH_MAX);
    bool in_txn = next_random(3) == 0 && t->pending_count + count <= PENDING_MAX;
    batch_builder_reset(b);
    for (int i = 0; i < count; i++) {
        int k = (int)next_random(p == 0 ? 10 : KEYS);
        struct wrote w = {now.end[p] + i, k, next_random(5) == 0};
        snprintf(key, sizeof key, "k%03d", k);
        int n = snprintf(value, sizeof value, "%u:%lld:%d.", p, (long long)w.offset, k);
        struct record r = {.timestamp = clock_wall_ms(), .key = slice_str(key)};
        if (!w.tombstone) {
            r.value = slice_make(value, (size_t)n + next_random(300));
        }
        CHECK(batch_add(b, &r) == OK, "batch_add");
        if (in_txn) {
            t->pending[t->pending_count++] = w;
        } else {
            note(p, &w);
        }
    }
    struct slice batch = batch_finish(b);
    if (in_txn) {
        struct batch_header h;
        CHECK(batch_read_header(batch, &h) == OK, "header");
        h.producer_id = 100 + p;
        h.attributes |= BATCH_TRANSACTIONAL;
        batch_seal((uint8_t *)(uintptr_t)batch.data, batch.len, &h);
        t->first = t->first < 0 ? now.end[p] : t->first;
    }
    append_batch(s, p, batch, count);
    if (t->first >= 0 && next_random(4) == 0) {
        end_txn(s, p);
    }
}

static void commit_all(struct store *s)
{
    struct errmsg m;
    CHECK(store_put(s, slice_str("state"), slice_make(&now, sizeof now)) == OK, "put");
    CHECK(store_commit(s, &m) == OK, "commit: %s", m.text);
}

static void run_writer(int report, const struct state *reported, uint64_t with_seed)
{
    struct errmsg m;
    struct batch_builder b;
    seed = with_seed;
    batch_builder_init(&b, 1u << 20);
    struct store *s = open_writer();
    check_recovered(s, reported);
    int64_t now_ms = clock_wall_ms();
    int rounds = next_random(3) == 0 ? 50 + (int)next_random(500) : ROUND_MAX;
    for (int i = 0; i < rounds; i++) {
        for (uint32_t p = 0; p < PARTS; p++) {
            append_some(s, &b, p);
        }
        commit_all(s);
        CHECK(write(report, &now.end, sizeof now.end) == sizeof now.end, "report");
        if (i % 5 == 4) {
            now_ms += 1500;
            CHECK(store_tick(s, now_ms, &m) == OK, "tick: %s", m.text);
        }
    }
    store_close(s);
    _exit(0);
}

/* The last life: ends what is open, and cleans all that there is. */
static void run_last(const struct state *reported)
{
    struct errmsg m;
    struct left left;
    struct store *s = open_writer();
    check_recovered(s, reported);
    for (uint32_t p = 0; p < PARTS; p++) {
        if (now.txns[p].first >= 0) {
            end_txn(s, p);
        }
    }
    commit_all(s);
    int64_t now_ms = clock_wall_ms() + 1000000000, keys = 0;
    bool clean = false;
    int64_t clean_before = part_get(s, 0)->clean.to; /* 0 on a machine that was too busy */
    const struct store_catalog *c = store_catalog_ref(s);
    struct store_topic t = c->topics[0];
    t.compaction.min_cleanable_dirty_ratio = 0;
    CHECK(store_topic_alter(s, &t, &m) == OK, "alter: %s", m.text);
    store_catalog_unref(s, c);
    for (int64_t give_up = clock_mono_ms() + LAST_MS; !clean;) {
        const struct timespec pause = {.tv_nsec = 1000000}; /* the cleaner is another thread */
        CHECK(clock_mono_ms() < give_up, "it is never clean");
        nanosleep(&pause, NULL);
        now_ms += 1500;
        CHECK(store_tick(s, now_ms, &m) == OK, "tick: %s", m.text);
        clean = cleaner_idle(s);
        for (uint32_t p = 0; p < PARTS; p++) {
            clean = clean && part_get(s, p)->clean.to == now.end[p];
        }
    }
    CHECK(check_all(s, &now, &left), "a writer can always read");
    for (uint32_t p = 0; p < PARTS; p++) {
        for (int k = 0; k < KEYS; k++) {
            keys += now.newest[p][k] > 0 && !now.deleted[p][k];
        }
    }
    CHECK(left.records - left.tombstones == keys && left.aborted == 0,
          "%lld records are left of %lld keys, %lld of what was aborted",
          (long long)(left.records - left.tombstones), (long long)keys, (long long)left.aborted);
    printf("store_compact: %lld records, %lld are left, and %lld tombstones; partition 0 was clean "
           "to %lld of %lld\n", (long long)(now.end[0] + now.end[1] + now.end[2]),
           (long long)keys, (long long)left.tombstones, (long long)clean_before,
           (long long)now.end[0]);
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
