/* A disk that fills while the cleaner works, on a small file system of our own (needs root; skipped
 * without): somebody else takes all but a given number of bytes, from none to nearly enough.
 *
 * What must hold: the newest of each key can be read all the time, what was committed is there, and
 * when there is room again, cleaning comes to its end, be it after the store was opened anew. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "shared/base/clock.h"
#include "shared/store/store_int.h"
#include "tests/torture/small_disk.h"

#define DISK_BYTES  (64u << 20)
#define VALUE_BYTES 20000
#define KEYS        50
#define RECORDS     900
#define FULL_TURNS  5
#define FILLS       5
#define PATIENCE_MS 600000

static const uint64_t leaves[] = {0, 200u << 10, 2u << 20, 4u << 20};

static struct errmsg m;
static struct batch_builder builder;
static int64_t newest[KEYS], end, now_ms;

static struct store *try_open(void)
{
    struct store *s;
    struct store_options o = {
        .dir = dir, .role = STORE_WRITER, .segment_bytes = 1u << 20, .tail_bytes = 1u << 20};
    enum err e = store_open(&s, &o, &m);
    CHECK(e == OK || e == ERR_FULL, "open: %s: %s", err_name(e), m.text);
    return e == OK ? s : NULL;
}

static enum err write_one(struct store *s)
{
    static char value[VALUE_BYTES];
    char name[16];
    int64_t base;
    int key = (int)(end % KEYS);
    snprintf(value, sizeof value, "%lld", (long long)end);
    snprintf(name, sizeof name, "k%d", key);
    batch_builder_reset(&builder);
    struct record r = {.timestamp = now_ms,
                       .key = slice_str(name),
                       .value = slice_make(value, sizeof value)};
    CHECK(batch_add(&builder, &r) == OK, "batch_add");
    struct slice b = batch_finish(&builder);
    enum err e = store_append(s, 0, (uint8_t *)(uintptr_t)b.data, b.len, &base);
    if (e != OK) {
        store_rollback(s);
        return e;
    }
    CHECK(base == end, "offset %lld instead of %lld", (long long)base, (long long)end);
    e = store_commit(s, &m);
    if (e == OK) {
        newest[key] = end++;
    }
    return e;
}

struct seen {
    int64_t last[KEYS], records;
};

static bool see_record(void *arg, const struct record *r)
{
    struct seen *q = arg;
    int key = (int)strtol((const char *)r->key.data + 1, NULL, 10);
    CHECK(strtoll((const char *)r->value.data, NULL, 10) == r->offset && key == r->offset % KEYS,
          "offset %lld has another's value", (long long)r->offset);
    q->last[key] = r->offset;
    q->records++;
    return true;
}

/* Returns how many records there are. */
static int64_t check_all(struct store *s)
{
    struct seen q = {.records = 0};
    struct store_offsets o;
    CHECK(store_offsets(s, 0, &o) == OK && o.end == end, "ends at %lld instead of %lld",
          (long long)o.end, (long long)end);
    for (int64_t at = 0; at < end;) {
        struct store_slices *x;
        enum err e = store_read(s, 0, at, 1u << 20, true, &x, &m);
        CHECK(e == OK && x->count > 0, "read: %s: %s", err_name(e), m.text);
        for (size_t i = 0; i < x->count; i++) {
            struct slice b = slice_make(x->iov[i].iov_base, x->iov[i].iov_len);
            CHECK(batch_check(b, &m) == OK, "%s", m.text);
            CHECK(batch_walk(b, 1u << 20, see_record, &q, &m) == OK, "%s", m.text);
        }
        at = x->next;
        store_slices_free(x);
    }
    for (int k = 0; k < KEYS; k++) {
        CHECK(q.last[k] == newest[k], "key %d: %lld instead of %lld", k, (long long)q.last[k],
              (long long)newest[k]);
    }
    return q.records;
}

/* The next turn of the owner: opens a store that is broken, and gives the cleaner a moment. */
static struct store *turn(struct store *s, int64_t ms)
{
    const struct timespec moment = {.tv_nsec = 2000000};
    now_ms += ms;
    if (s == NULL) {
        s = try_open();
    }
    if (s != NULL && (store_tick(s, now_ms, &m) != OK || store_state(s) != STORE_OK)) {
        store_close(s);
        s = try_open();
    }
    nanosleep(&moment, NULL);
    return s;
}

/* Another record, where there is room. What the full disk has broken may show only now, and then
 * the store is opened anew. */
static struct store *write_with_room(struct store *s)
{
    const int64_t give_up = clock_mono_ms() + PATIENCE_MS;
    enum err e;
    while ((e = s != NULL ? write_one(s) : ERR_FULL) != OK) {
        CHECK(s == NULL || store_state(s) == STORE_BROKEN, "room again: %s: %s", err_name(e),
              m.text);
        CHECK(clock_mono_ms() < give_up, "with room again nothing can be written: %s", m.text);
        s = turn(s, 1500);
    }
    return s;
}

static void fill_while_it_cleans(uint64_t leave)
{
    char options[64];
    enum err e;
    snprintf(options, sizeof options, "size=%u,mode=0700", DISK_BYTES);
    CHECK(mount("tmpfs", root, "tmpfs", 0, options) == 0, "mount: %s", strerror(errno));
    end = 0;
    now_ms = clock_wall_ms();
    struct store *s = try_open();
    CHECK(s != NULL, "open: %s", m.text);
    struct store_topic t = {.name = "t",
                            .partition_count = 1,
                            .retention_ms = -1,
                            .retention_bytes = -1,
                            .cleanup = STORE_CLEANUP_COMPACT,
                            .compaction = {true, 0, 0, INT64_MAX, 1000}};
    CHECK(store_topic_create(s, &t, &m) == OK, "%s", m.text);
    while (end < RECORDS) {
        e = write_one(s);
        CHECK(e == OK, "write: %s: %s", err_name(e), m.text);
    }
    int refused = 0, caught = 0;
    for (int i = 0; i < FILLS; i++) {
        s = turn(s, 700000); /* what has failed is left alone for ten minutes; the cleaner begins */
        const struct timespec instant = {.tv_nsec = i * 500000};
        nanosleep(&instant, NULL);
        make_ballast(leave);
        caught += s != NULL && !cleaner_idle(s);
        for (int k = 0; k < FULL_TURNS; k++) {
            s = turn(s, 1500);
        }
        if (s != NULL) {
            check_all(s);
            e = write_one(s);
            refused += e != OK;
            CHECK(e == OK || e == ERR_FULL || store_state(s) == STORE_BROKEN, "write: %s: %s",
                  err_name(e), m.text);
        }
        CHECK(unlink(ballast) == 0, "unlink");
        s = turn(s, 1500);
        for (int k = 0; k < KEYS * 3; k++) {
            s = write_with_room(s);
        }
    }
    bool clean = false;
    for (int64_t give_up = clock_mono_ms() + PATIENCE_MS; !clean;) {
        CHECK(clock_mono_ms() < give_up, "with room again it is never clean");
        s = turn(s, 700000); /* what has failed is left alone for ten minutes */
        clean = s != NULL && cleaner_idle(s) && part_get(s, 0)->clean.to == end;
    }
    int64_t left = check_all(s);
    CHECK(left == KEYS, "%lld records are left of %d keys", (long long)left, KEYS);
    printf("store_full_compact: %llu KB left: full while it cleaned %d times, %d refused, clean\n",
           (unsigned long long)leave >> 10, caught, refused);
    store_close(s);
    CHECK(umount2(root, MNT_DETACH) == 0, "umount");
}

int main(void)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(root, sizeof root, "%s/culex-store-full-compact-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(root) || mount("tmpfs", root, "tmpfs", 0, "size=1m") != 0) {
        printf("store_full_compact: no file system of our own: %s\n0 passed, 0 failed, 1 skipped\n",
               strerror(errno));
        rmdir(root);
        return 0;
    }
    umount2(root, MNT_DETACH);
    snprintf(dir, sizeof dir, "%s/store", root);
    snprintf(ballast, sizeof ballast, "%s/ballast", root);
    batch_builder_init(&builder, 1u << 20);
    for (size_t i = 0; i < sizeof leaves / sizeof *leaves; i++) {
        fill_while_it_cleans(leaves[i]);
    }
    batch_builder_fini(&builder);
    rmdir(root);
    printf("1 passed, 0 failed, 0 skipped\n");
    return 0;
}
