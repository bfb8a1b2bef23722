/* Every error path once: each scenario is run again and again, and each time the next allocation or
 * system call fails, once or from there on. Whatever fails: no crash, no leak, an error where
 * something was lost, and afterwards, with the world in order again, all that was acknowledged is
 * there.
 *
 *   faults [SCENARIO]      one line each, and "faults: N passed, N failed"
 *   CULEX_FAULTS_ALL=1     every call of the slow scenarios, too */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "plugins/capture/internal.h"
#include "plugins/writer/writer.h"
#include "shared/base/arena.h"
#include "shared/base/log.h"
#include "shared/base/ring.h"
#include "shared/config/config.h"
#include "shared/mqtt/filter.h"
#include "shared/record/record.h"
#include "shared/store/store.h"
#include "tests/faults/faults.h"
#include "tests/faults/writer_thread.h"

#define assert_int_equal(a, b) ASSERT((a) == (b)) /* what record_help.h asks for */
#define assert_false(a)        ASSERT(!(a))
#include "tests/unit/record_help.h"

#define ROUNDS_MAX  20000 /* of one scenario: more is a loop */
#define ROUNDS      200   /* beyond that many calls, every second, third … of them fails */
#define ROUNDS_SLOW 20    /* the same where a round opens a database twice */
#define FRAMES      20
#define COMMITS     12
#define AGAIN_MS    10000 /* a writer that ended is back by then */

static char root[256];
static char path[300];

static int remove_one(const char *p, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(p);
}

static void remove_all(const char *p)
{
    nftw(p, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void remove_path(void)
{
    remove_all(path);
}

/* --- ring ------------------------------------------------------------------------------------- */

static void ring_put(struct ring *w, int i)
{
    uint8_t *p;
    if (ring_reserve(w, 100, true, &p) == OK) {
        memset(p, i, 100);
        ring_commit(w, 100);
    }
}

static void ring_make(void)
{
    struct ring w;
    remove_path();
    ASSERT(ring_open_writer(&w, path, RING_BYTES_MIN, NULL) == OK);
    for (int i = 0; i < FRAMES; i++) {
        ring_put(&w, i);
    }
    ring_close(&w);
}

static enum err ring_run(uint64_t bytes)
{
    struct ring w;
    struct errmsg m = {""};
    enum err e = ring_open_writer(&w, path, bytes, &m);
    ASSERT(e == OK || (m.text[0] && !w.file));
    if (e == OK) {
        ring_put(&w, FRAMES);
    }
    ring_close(&w);
    return e;
}

static enum err ring_run_same(void)
{
    return ring_run(RING_BYTES_MIN);
}

static enum err ring_run_larger(void)
{
    return ring_run(RING_BYTES_MIN * 2);
}

/* Frames in the ring that is there now; -1: none can be opened, or one is wrong. */
static int ring_count(uint64_t bytes)
{
    struct ring w;
    if (ring_open_writer(&w, path, bytes, NULL) != OK) {
        return -1;
    }
    int n = 0;
    uint64_t pos = ring_low(&w);
    struct slice f;
    enum err e;
    while ((e = ring_read(&w, pos, true, &f, &pos)) == OK) {
        bool known = f.len == 100 && (f.data[99] == n || f.data[99] == FRAMES);
        n = n >= 0 && known ? n + 1 : -1;
    }
    ring_close(&w);
    return e == ERR_AGAIN ? n : -1;
}

static bool ring_new_verify(enum err e)
{
    return ring_count(RING_BYTES_MIN) >= 0;
}

static bool ring_takeover_verify(enum err e)
{
    return ring_count(RING_BYTES_MIN) == (e == OK ? FRAMES + 1 : FRAMES);
}

/* Either the old ring is whole or the new one is in place. */
static bool ring_resize_verify(enum err e)
{
    struct stat st;
    bool larger = stat(path, &st) == 0 && st.st_size > RING_BYTES_MIN * 3 / 2;
    return larger ? ring_count(RING_BYTES_MIN * 2) >= 0
                  : e != OK && ring_count(RING_BYTES_MIN) == FRAMES;
}

static enum err ring_read_run(void)
{
    struct ring r;
    struct errmsg m = {""};
    enum err e = ring_open_reader(&r, path, &m);
    ASSERT(e == OK || m.text[0]);
    ring_close(&r);
    return e;
}

/* --- buffers, batches, filters ---------------------------------------------------------------- */

static enum err memory_run(void)
{
    struct arena a;
    struct buf b;
    arena_init(&a, 1 << 20);
    buf_init(&b, 1 << 20);
    bool all = true;
    for (int i = 0; i < 300; i++) {
        all = arena_alloc(&a, 1000) && all;
        buf_printf(&b, "%0300d", i);
    }
    enum err e = all && buf_ok(&b) ? OK : ERR_NOMEM;
    ASSERT(!buf_ok(&b) || strlen(buf_text(&b)) == 300 * 300);
    arena_fini(&a);
    buf_fini(&b);
    return e;
}

static enum err build_run(void)
{
    struct batch_builder b;
    struct record r = {.value = slice_make(root, sizeof root)};
    enum err result = OK;
    int32_t added = 0;
    batch_builder_init(&b, 1 << 20);
    for (int i = 0; i < 200; i++) {
        enum err e = batch_add(&b, &r);
        ASSERT(e == OK || e == ERR_NOMEM);
        added += e == OK;
        result = e ? e : result;
    }
    struct batch_header h;
    struct slice batch = batch_finish(&b); /* what was added is a batch, whatever failed between */
    ASSERT(added == 0 || (batch_check(batch, NULL) == OK && batch_read_header(batch, &h) == OK &&
                          h.record_count == added));
    batch_builder_fini(&b);
    return result;
}

static bool count_record(void *arg, const struct record *r)
{
    ++*(int *)arg;
    return true;
}

static struct buf golden;

static enum err walk_run(void)
{
    int seen = 0;
    struct errmsg m = {""};
    enum err e = batch_walk(buf_slice(&golden), 1 << 20, count_record, &seen, &m);
    ASSERT(e == OK ? seen == 5 : m.text[0] && seen == 0);
    return e;
}

static void golden_set(const char *hex)
{
    buf_fini(&golden);
    buf_init(&golden, 4096);
    put_hex(&golden, hex);
}

static void golden_is_gzip(void)
{
    golden_set(golden_gzip);
}

static void golden_is_snappy(void)
{
    golden_set(golden_snappy);
}

static void golden_is_lz4(void)
{
    golden_set(golden_lz4);
}

static void golden_is_zstd(void)
{
    golden_set(golden_zstd);
}

static enum err filter_run(void)
{
    static const char *const filters[] = {"a/b/c", "a/+/c", "#", "a/b/#", "x/y", "a/b/c/d/e/f"};
    struct filter_tree *t = filter_tree_new();
    if (!t) {
        return ERR_NOMEM;
    }
    enum err result = OK;
    for (uint32_t i = 0; i < sizeof filters / sizeof filters[0]; i++) {
        enum err e = filter_tree_add(t, slice_str(filters[i]), i);
        ASSERT(e == OK || e == ERR_NOMEM);
        result = e ? e : result;
    }
    uint32_t out[8];
    size_t n = filter_tree_match(t, slice_str("a/b/c"), out, 8);
    ASSERT(result ? n <= 4 : n == 4);
    filter_tree_free(t);
    return result;
}

/* --- configuration ---------------------------------------------------------------------------- */

static void config_write(void)
{
    static const char text[] =
        "{ \"streams\": [\n"
        "  { \"name\": \"a\", \"filters\": [\"a/#\", \"b/+/c\"], \"partitions\": 3 },\n"
        "  { \"name\": \"b\", \"filters\": [\"#\"], \"key\": \"payload.id\" } ] }\n";
    FILE *f = fopen(path, "w");
    ASSERT(f && fputs(text, f) >= 0 && fclose(f) == 0);
}

/* To another process and back. */
static enum err config_carry(const struct config *c)
{
    struct config d;
    struct buf packed;
    buf_init(&packed, CONFIG_PACKED_BYTES_MAX);
    enum err e = config_pack(c, &packed);
    e = e ? e : config_unpack(&d, buf_slice(&packed));
    buf_fini(&packed);
    if (!e) {
        ASSERT(d.stream_count == 2 && d.streams[0].partitions == 3);
        ASSERT(d.streams[0].filter_count == 2 && strcmp(d.streams[1].key_name, "id") == 0);
        config_fini(&d);
    }
    return e;
}

static enum err config_run(void)
{
    struct config c;
    enum err e = config_init(&c);
    e = e ? e : config_load(&c, path);
    ASSERT(e || (c.stream_count == 2 && c.streams[0].partitions == 3));
    e = e ? e : config_carry(&c);
    config_fini(&c);
    return e;
}

/* --- store ------------------------------------------------------------------------------------ */

static bool store_has_topic;   /* its creation was acknowledged, … */
static uint32_t store_uid;     /* … with this id */
static int64_t store_promised; /* end offset of the last commit that said OK */

static void store_prepare(void)
{
    remove_path();
    store_has_topic = false;
    store_promised = 0;
}

static const struct store_options *store_how(void)
{
    static struct store_options o;
    o = (struct store_options){
        .dir = path, .role = STORE_WRITER, .tail_bytes = 1 << 20, .segment_bytes = 64 << 10};
    return &o;
}

static enum err store_fill(struct store *s, struct errmsg *m)
{
    struct store_topic t = {.partition_count = 1,
                            .retention_ms = -1,
                            .retention_bytes = -1,
                            .cleanup = STORE_CLEANUP_DELETE,
                            .name = "t"};
    static uint8_t value[10000];
    enum err e = store_topic_create(s, &t, m);
    store_has_topic = e == OK;
    store_uid = t.uid;
    for (int i = 0; i < COMMITS && e == OK; i++) {
        struct batch_builder b;
        struct record r = {.timestamp = i, .value = slice_make(value, sizeof value)};
        int64_t base;
        batch_builder_init(&b, 1 << 20);
        ASSERT(batch_add(&b, &r) == OK);
        struct slice batch = batch_finish(&b);
        e = store_append(s, t.uid, (uint8_t *)(uintptr_t)batch.data, batch.len, &base);
        e = e ? e : store_commit(s, m);
        store_promised = e ? store_promised : base + 1;
        e = e ? e : store_tick(s, i * 1000, m);
        batch_builder_fini(&b);
    }
    return e;
}

static enum err store_run(void)
{
    struct store *s = NULL;
    struct errmsg m = {""};
    enum err e = store_open(&s, store_how(), &m);
    if (e == OK) {
        e = store_fill(s, &m);
        store_close(s);
    }
    return e;
}

/* Opens it again in peace: what was promised is there, at most one commit more. */
static bool store_verify(enum err e)
{
    struct store *s;
    struct errmsg m;
    struct store_offsets o = {0};
    if (store_open(&s, store_how(), &m) != OK) {
        printf("  cannot be opened again: %s\n", m.text);
        return false;
    }
    bool good = !store_has_topic || store_offsets(s, store_uid, &o) == OK;
    good = good && o.end >= store_promised && o.end <= store_promised + 1;
    for (int64_t at = 0; good && at < o.end;) {
        struct store_slices *x;
        good = store_read(s, store_uid, at, 1 << 20, true, &x, &m) == OK && x->count > 0;
        if (good) {
            at = x->next;
            store_slices_free(x);
        }
    }
    store_close(s);
    if (!good) {
        printf("  promised %lld, found %lld\n", (long long)store_promised, (long long)o.end);
    }
    return good;
}

/* --- capture ---------------------------------------------------------------------------------- */

static int64_t capture_taken; /* publishes that would have been acknowledged */

static void capture_prepare(void)
{
    remove_path();
    capture_taken = 0;
}

static enum err capture_start(struct capture **c)
{
    static const char *const names[] = {"stream", "filter", "partitions", "data", "on_full"};
    const char *values[] = {"t", "#", "1", path, "drop"};
    struct config config;
    struct buf mistakes;
    enum err e = config_init(&config);
    buf_init(&mistakes, 1 << 16);
    e = e ? e : config_from_options(&config, "torture", names, values, 5);
    ASSERT(e == OK);
    e = capture_open(c, &config, &mistakes);
    config_fini(&config);
    buf_fini(&mistakes);
    return e;
}

static void no_sys(void *arg, const char *topic, const char *text)
{
}

/* The disk or the socket fails while publishes come, and is well again before the broker stops: by
 * then all that was taken must be on its way into the log. A writer that ended is started again. */
static enum err capture_run(void)
{
    struct capture *c;
    enum err e = capture_start(&c);
    if (e != OK) {
        return e;
    }
    for (int i = 0; i < FRAMES; i++) {
        struct publish p = {
            .topic = slice_str("a/b"), .payload = slice_make(root, sizeof root), .qos = 1};
        capture_attend(c, no_sys, NULL);
        unsigned needs;
        if (capture_match(c, p.topic, &needs) > 0) {
            capture_taken += capture_publish(c, &p) == CAPTURE_TAKEN;
        }
        usleep(2000); /* so that the writer meets some of the faults, too */
    }
    faults_disarm();
    for (int ms = 0; child_trouble(c) && ms < AGAIN_MS; ms++) {
        usleep(1000);
        capture_attend(c, no_sys, NULL);
    }
    ASSERT(!child_trouble(c));
    capture_close(c);
    return capture_taken == FRAMES ? OK : ERR_FULL;
}

/* Starts it once more, which takes over what the ring still holds, then counts. */
static bool capture_verify(enum err e)
{
    struct capture *c;
    struct store *s;
    struct errmsg m;
    if (capture_start(&c) != OK) {
        return false;
    }
    capture_close(c);
    char dir[sizeof path + 10];
    snprintf(dir, sizeof dir, "%s/captured", path);
    struct store_options o = {.dir = dir, .role = STORE_WRITER, .tail_bytes = 1 << 20};
    if (store_open(&s, &o, &m) != OK) {
        return false;
    }
    const struct store_catalog *catalog = store_catalog_ref(s);
    const struct store_topic *t = catalog ? store_catalog_find(catalog, slice_str("t")) : NULL;
    struct store_offsets offsets = {0};
    bool good = t && store_offsets(s, t->uid, &offsets) == OK && offsets.end == capture_taken;
    if (!good) {
        printf("  taken %lld, found %lld\n", (long long)capture_taken, (long long)offsets.end);
    }
    store_catalog_unref(s, catalog);
    store_close(s);
    return good;
}

/* --- what broker and writer share ------------------------------------------------------------- */

/* A configuration on its way from one to the other. */
static enum err configure_run(void)
{
    static struct link_message got;
    static struct capture c;
    struct config config;
    struct buf mistakes;
    int pair[2];
    enum err e = config_init(&config);
    e = e ? e : config_load(&config, path);
    if (e) {
        config_fini(&config);
        return e;
    }
    ASSERT(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0);
    buf_init(&mistakes, 1 << 16);
    c = (struct capture){.child = {.socket = pair[0], .memory = -1}};
    c.link = link_make(&c.child.memory);
    e = c.link ? child_configure(&c, &config, &mistakes) : ERR_NOMEM;
    ASSERT(e == OK || c.set_count == 0);
    if (e == OK) {
        e = link_receive(pair[1], false, &got); /* ERR_AGAIN: it was not sent */
        ASSERT(e || (got.kind == LINK_CONFIG && got.number == 1 && got.fd >= 0));
        close(e ? -1 : got.fd);
        close(c.sets[0].fd);
    }
    link_unmap(c.link);
    close(c.child.memory);
    close(pair[0]);
    close(pair[1]);
    buf_fini(&mistakes);
    config_fini(&config);
    return e;
}

static struct store *streams_store; /* open, with one topic */
static struct link *streams_link;

static void streams_prepare(void)
{
    struct store_topic t = {
        .name = "t", .partition_count = 2, .cleanup = STORE_CLEANUP_DELETE, .attributes = "{}"};
    int fd;
    remove_path();
    streams_link = link_make(&fd);
    ASSERT(streams_link && close(fd) == 0);
    ASSERT(store_open(&streams_store, store_how(), NULL) == OK);
    ASSERT(store_topic_create(streams_store, &t, NULL) == OK);
}

static bool streams_verify(enum err e)
{
    store_close(streams_store);
    link_unmap(streams_link);
    return true;
}

/* Brings an empty configuration and the store together, as the writer does. */
static enum err streams_run(void)
{
    struct config empty = {.stream_count = 0};
    struct writer_stream *by_id = NULL;
    enum err e = streams_sync(streams_link, streams_store, &by_id, &empty, NULL, NULL);
    ASSERT(e != OK || HASH_COUNT(by_id) == 1);
    if (e == OK) { /* the store was put back from a copy in which the topic had another form */
        by_id->partition_count = by_id->sticky = 1;
        e = streams_sync(streams_link, streams_store, &by_id, &empty, NULL, NULL);
        ASSERT(e != OK || (by_id->partition_count == 2 && by_id->sticky == 0));
    }
    streams_free(&by_id);
    return e;
}

/* --- the runner ------------------------------------------------------------------------------- */

#define CALLS  1u /* fails system calls */
#define MEMORY 2u /* fails allocations, and counts what is left of them */

static const struct scenario {
    const char *name;
    unsigned faults;
    void (*prepare)(void);
    enum err (*run)(void);
    bool (*verify)(enum err e); /* in peace, after it; NULL: nothing is left behind */
    unsigned rounds;            /* 0: ROUNDS */
} scenarios[] = {
    {"ring-new", CALLS, remove_path, ring_run_same, ring_new_verify, 0},
    {"ring-takeover", CALLS, ring_make, ring_run_same, ring_takeover_verify, 0},
    {"ring-resize", CALLS, ring_make, ring_run_larger, ring_resize_verify, 0},
    {"ring-reader", CALLS, ring_make, ring_read_run, ring_new_verify, 0},
    {"memory", MEMORY, NULL, memory_run, NULL, 0},
    {"batch-build", MEMORY, NULL, build_run, NULL, 0},
    {"batch-walk-gzip", MEMORY, golden_is_gzip, walk_run, NULL, 0},
    {"batch-walk-snappy", MEMORY, golden_is_snappy, walk_run, NULL, 0},
    {"batch-walk-lz4", MEMORY, golden_is_lz4, walk_run, NULL, 0},
    {"batch-walk-zstd", MEMORY, golden_is_zstd, walk_run, NULL, 0},
    {"filter-tree", MEMORY, NULL, filter_run, NULL, 0},
    {"config", CALLS | MEMORY, config_write, config_run, NULL, 0},
    {"configure", CALLS | MEMORY, config_write, configure_run, NULL, 0},
    {"streams", MEMORY, streams_prepare, streams_run, streams_verify, 0},
    {"store", CALLS, store_prepare, store_run, store_verify, ROUNDS_SLOW},
    {"capture", CALLS, capture_prepare, capture_run, capture_verify, ROUNDS_SLOW},
};

struct way {
    unsigned fault; /* CALLS or MEMORY */
    bool on;
    int error;
};

/* One run with the nth call failing. Returns false when something is wrong. */
static bool try_nth(const struct scenario *s, const struct way *w, uint64_t nth, uint64_t *calls)
{
    bool memory = w->fault == MEMORY;
    if (s->prepare) {
        s->prepare();
    }
    int files = faults_open_files();
    int64_t live = faults_live_allocations();
    faults_arm(memory ? FAULT_ALLOCATION : FAULT_CALL, nth, w->on, w->error);
    enum err e = s->run();
    *calls = faults_disarm();
    const char *wrong = NULL;
    if (memory && faults_live_allocations() != live) {
        wrong = "memory is lost";
    } else if (faults_open_files() != files) {
        wrong = "files stay open";
    } else if (!faults_dealt() && e != OK) {
        wrong = "fails without a fault";
    } else if (s->verify && !s->verify(e)) {
        wrong = "what was acknowledged is not there";
    }
    if (wrong) {
        printf("  %s, %s %llu of %llu%s, %s: %s (%s)\n", s->name, memory ? "allocation" : "call",
               (unsigned long long)nth, (unsigned long long)*calls, w->on ? " and all after" : "",
               strerror(w->error), wrong, err_name(e));
    }
    return !wrong;
}

static bool run_way(const struct scenario *s, const struct way *w, uint64_t *rounds)
{
    const char *all = getenv("CULEX_FAULTS_ALL");
    uint64_t calls, unused, want = all ? ROUNDS_MAX : s->rounds ? s->rounds : ROUNDS;
    /* Twice in peace: the first run fills caches of libraries, which are no leak. */
    try_nth(s, &(struct way){w->fault == MEMORY ? CALLS : w->fault, false, 0}, 0, &unused);
    if (!try_nth(s, w, 0, &calls) || calls > ROUNDS_MAX) {
        return false;
    }
    bool good = true;
    for (uint64_t nth = 1; nth <= calls; nth += calls / want + 1) {
        good = try_nth(s, w, nth, &unused) && good;
        ++*rounds;
    }
    return good;
}

static bool run_scenario(const struct scenario *s)
{
    static const struct way ways[] = {{MEMORY, false, ENOMEM}, {MEMORY, true, ENOMEM},
                                      {CALLS, false, EIO},     {CALLS, true, EIO},
                                      {CALLS, false, ENOSPC},  {CALLS, true, ENOSPC}};
    bool good = true;
    uint64_t rounds = 0;
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        if (s->faults & ways[i].fault) {
            good = run_way(s, &ways[i], &rounds) && good;
        }
    }
    printf("%-18s %s, %llu faults\n", s->name, good ? "ok" : "FAILED", (unsigned long long)rounds);
    fflush(stdout);
    return good;
}

int main(int argc, char **argv)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(root, sizeof root, "%s/culex-torture.XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(root)) {
        perror(root);
        return 2;
    }
    snprintf(path, sizeof path, "%s/it", root);
    writer_thread_quiet();
    int passed = 0, failed = 0;
    for (size_t i = 0; i < sizeof scenarios / sizeof scenarios[0]; i++) {
        if (argc < 2 || strcmp(argv[1], scenarios[i].name) == 0) {
            *(run_scenario(&scenarios[i]) ? &passed : &failed) += 1;
        }
    }
    buf_fini(&golden);
    remove_all(root);
    printf("faults: %d passed, %d failed\n", passed, failed);
    return failed || passed == 0;
}
