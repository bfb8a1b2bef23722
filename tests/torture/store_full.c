/* A disk that is full, twice over, on small file systems of our own (needs root; skipped without):
 * with segments of a given size, and with those that the store chooses for such a disk.
 *
 *   slowly     the store fills it: commits fail with ERR_FULL before RocksDB has to fail, reading
 *              goes on, and when there is room again the very next commit succeeds
 *   suddenly   somebody else takes the last byte: RocksDB fails, the store is broken, opening it
 *              again fails while there is no room, and then finds all that was committed, once
 *   from the start   no room to make a store: a sentence, and no crash */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shared/record/record.h"
#include "shared/store/store.h"
#include "tests/torture/small_disk.h"

#define VALUE_BYTES 20000

static const struct disk {
    unsigned bytes;
    uint64_t segment_bytes;
    uint64_t room; /* what we may have of it at first: half of that at least becomes records */
} disks[] = {
    {64u << 20, 1u << 20, 24u << 20}, {96u << 20, 0, 72u << 20}, {40u << 20, 0, 30u << 20}};

static const struct disk *disk;
static struct errmsg m;
static struct batch_builder builder;

static enum err try_open(struct store **s)
{
    struct store_options o = {
        .dir = dir, .role = STORE_WRITER, .segment_bytes = disk->segment_bytes,
        .tail_bytes = 1u << 20};
    return store_open(s, &o, &m);
}

static struct store *must_open(void)
{
    struct store *s;
    enum err e = try_open(&s);
    CHECK(e == OK, "open: %s: %s", err_name(e), m.text);
    return s;
}

/* One batch with one record, and a row that says where that leads, in one commit. */
static enum err write_one(struct store *s, int64_t at)
{
    static char value[VALUE_BYTES];
    int64_t base, end = at + 1;
    snprintf(value, sizeof value, "%lld", (long long)at);
    batch_builder_reset(&builder);
    struct record r = {.timestamp = 1000, .value = slice_make(value, sizeof value)};
    CHECK(batch_add(&builder, &r) == OK, "batch_add");
    struct slice b = batch_finish(&builder);
    enum err e = store_append(s, 0, (uint8_t *)(uintptr_t)b.data, b.len, &base);
    if (e != OK) {
        store_rollback(s);
        return e;
    }
    CHECK(base == at, "offset %lld instead of %lld", (long long)base, (long long)at);
    e = store_put(s, slice_str("end"), slice_make(&end, sizeof end));
    CHECK(e == OK, "put");
    e = store_commit(s, &m);
    if (e == OK && at % 16 == 0) {
        e = store_tick(s, 1000, &m);
        return store_state(s) == STORE_OK ? OK : e;
    }
    return e;
}

static bool check_record(void *arg, const struct record *r)
{
    int64_t *at = arg;
    CHECK(r->offset == *at && strtoll((const char *)r->value.data, NULL, 10) == *at,
          "offset %lld instead of %lld", (long long)r->offset, (long long)*at);
    ++*at;
    return true;
}

static void check_all(struct store *s, int64_t end)
{
    int64_t at = 0;
    while (at < end) {
        struct store_slices *x;
        enum err e = store_read(s, 0, at, 1u << 20, true, &x, &m);
        CHECK(e == OK && x->count > 0, "read: %s: %s", err_name(e), m.text);
        for (size_t i = 0; i < x->count; i++) {
            struct slice b = slice_make(x->iov[i].iov_base, x->iov[i].iov_len);
            CHECK(batch_check(b, &m) == OK, "%s", m.text);
            CHECK(batch_walk(b, 1u << 20, check_record, &at, &m) == OK, "%s", m.text);
        }
        store_slices_free(x);
    }
    CHECK(at == end, "read %lld of %lld", (long long)at, (long long)end);
}

static bool read_row(void *arg, struct slice key, struct slice value)
{
    memcpy(arg, value.data, sizeof(int64_t));
    return true;
}

/* The end of the partition, which its row must agree with. */
static int64_t end_of(struct store *s)
{
    struct store_offsets o;
    int64_t row = 0;
    CHECK(store_offsets(s, 0, &o) == OK, "offsets");
    CHECK(store_rows(s, slice_str("end"), read_row, &row, &m) == OK, "%s", m.text);
    CHECK(o.end == row, "ends at %lld, the row says %lld", (long long)o.end, (long long)row);
    return o.end;
}

static int64_t fill_slowly(struct store *s, int64_t at)
{
    make_ballast(disk->room);
    enum err e;
    while ((e = write_one(s, at)) == OK) {
        at++;
    }
    CHECK((uint64_t)at * VALUE_BYTES >= disk->room / 2, "full after %lld records", (long long)at);
    CHECK(e == ERR_FULL, "full: %s: %s", err_name(e), m.text);
    CHECK(store_state(s) == STORE_OK, "the store broke, but it only had to stop");
    CHECK(end_of(s) == at, "end");
    e = write_one(s, at); /* a flush may have given some room back meanwhile */
    CHECK(e == OK || e == ERR_FULL, "full: %s: %s", err_name(e), m.text);
    at += e == OK;
    check_all(s, at);
    CHECK(unlink(ballast) == 0, "unlink");
    for (int i = 0; i < 100; i++) {
        e = write_one(s, at++);
        CHECK(e == OK, "room again: %s: %s", err_name(e), m.text);
    }
    check_all(s, at);
    return at;
}

static int64_t fill_suddenly(struct store *s, int64_t at)
{
    make_ballast(0);
    enum err e = OK;
    for (int i = 0; i < 2000 && e == OK; i++) {
        e = write_one(s, at);
        at += e == OK;
    }
    CHECK(e != OK, "a full disk was never noticed");
    printf("store_full: full at %lld: %s, %s\n", (long long)at, err_name(e), m.text);
    check_all(s, at);
    store_close(s);
    for (int i = 0; i < 3; i++) {
        e = try_open(&s);
        if (e == OK) { /* closing has given back enough */
            CHECK(end_of(s) >= at && end_of(s) <= at + 1, "lost or repeated");
            store_close(s);
        } else {
            CHECK(e == ERR_FULL, "open: %s: %s", err_name(e), m.text);
        }
    }
    CHECK(unlink(ballast) == 0, "unlink");
    s = must_open();
    int64_t end = end_of(s);
    CHECK(end == at || end == at + 1, "%lld were committed, %lld are there", (long long)at,
          (long long)end);
    struct store_stats st;
    store_get_stats(s, &st);
    CHECK(st.recovered_loss == 0, "recovered_loss");
    for (int i = 0; i < 100; i++) {
        e = write_one(s, end++);
        CHECK(e == OK, "room again: %s: %s", err_name(e), m.text);
    }
    check_all(s, end);
    store_close(s);
    return end;
}

static void fill_disk(void)
{
    char options[64];
    snprintf(options, sizeof options, "size=%u,mode=0700", disk->bytes);
    CHECK(mount("tmpfs", root, "tmpfs", 0, options) == 0, "mount: %s", strerror(errno));
    struct store *s;
    make_ballast(8192);
    enum err e = try_open(&s);
    CHECK(e == ERR_FULL, "no room for a store: %s: %s", err_name(e), m.text);
    printf("store_full: %s\n", m.text);
    CHECK(unlink(ballast) == 0, "unlink");

    s = must_open();
    struct store_topic t = {.name = "t",
                            .partition_count = 1,
                            .retention_ms = -1,
                            .retention_bytes = -1,
                            .cleanup = STORE_CLEANUP_DELETE};
    CHECK(store_topic_create(s, &t, &m) == OK, "%s", m.text);
    int64_t at = 0;
    for (; at < 100; at++) {
        e = write_one(s, at);
        CHECK(e == OK, "write: %s: %s", err_name(e), m.text);
    }
    at = fill_slowly(s, at);
    at = fill_suddenly(s, at);
    CHECK(umount2(root, MNT_DETACH) == 0, "umount");
    printf("store_full: %lld records through two full disks, 0 lost, 0 repeated\n", (long long)at);
}

int main(void)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(root, sizeof root, "%s/culex-store-full-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(root) || mount("tmpfs", root, "tmpfs", 0, "size=1m") != 0) {
        printf("store_full: no file system of our own: %s\n0 passed, 0 failed, 1 skipped\n",
               strerror(errno));
        rmdir(root);
        return 0;
    }
    umount2(root, MNT_DETACH);
    snprintf(dir, sizeof dir, "%s/store", root);
    snprintf(ballast, sizeof ballast, "%s/ballast", root);
    batch_builder_init(&builder, 1u << 20);
    for (size_t i = 0; i < sizeof disks / sizeof *disks; i++) {
        disk = &disks[i];
        fill_disk();
    }
    batch_builder_fini(&builder);
    rmdir(root);
    printf("1 passed, 0 failed, 0 skipped\n");
    return 0;
}
