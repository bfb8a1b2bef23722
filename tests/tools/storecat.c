/* Prints what a store holds, one record a line, tab-separated:
 *
 *   storecat DIR [TOPIC]     topic partition offset timestamp key headers value
 *   storecat -c DIR [TOPIC]  topic partition log-start end
 *
 * As a follower, so a writer may be at work; -w opens as the writer, for a directory that nobody
 * uses. A null is printed as \N; tab, newline, backslash and bytes that are not printable as
 * \xHH. */
#include "shared/record/record.h"
#include "shared/store/store.h"

#include "shared/base/clock.h"

#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define READ_BYTES   (4u << 20)
#define BATCH_BYTES  (512u << 20)
#define AGAIN_MS     10000
#define REMOVE_FDS   16

struct cat {
    struct store *store;
    const char *topic;
    int32_t partition;
    int64_t from;
};

static void put_text(struct slice s)
{
    if (!s.data) {
        fputs("\\N", stdout);
    }
    for (size_t i = 0; i < s.len; i++) {
        uint8_t ch = s.data[i];
        if (ch < 0x20 || ch >= 0x7f || ch == '\\') {
            printf("\\x%02x", ch);
        } else {
            putchar(ch);
        }
    }
}

static bool put_record(void *arg, const struct record *r)
{
    const struct cat *cat = arg;
    if (r->offset < cat->from) {
        return true;
    }
    printf("%s\t%" PRId32 "\t%" PRId64 "\t%" PRId64 "\t", cat->topic, cat->partition, r->offset,
           r->timestamp);
    put_text(r->key);
    putchar('\t');
    for (uint32_t i = 0; i < r->header_count; i++) {
        if (i) {
            putchar(',');
        }
        put_text(r->headers[i].key);
        putchar('=');
        put_text(r->headers[i].value);
    }
    putchar('\t');
    put_text(r->value);
    putchar('\n');
    return true;
}

static enum err put_slices(struct cat *cat, struct store_slices *x, struct errmsg *m)
{
    enum err e = OK;
    for (size_t i = 0; !e && i < x->count; i++) {
        struct slice batch = slice_make(x->iov[i].iov_base, x->iov[i].iov_len);
        e = batch_check(batch, m);
        e = e ? e : batch_walk(batch, BATCH_BYTES, put_record, cat, m);
    }
    cat->from = x->next;
    return e;
}

static enum err put_partition(struct cat *cat, uint32_t uid, struct errmsg *m)
{
    struct store_offsets o;
    enum err e = store_offsets(cat->store, uid, &o);
    cat->from = o.log_start;
    int64_t deadline = clock_mono_ms() + AGAIN_MS;
    while (!e && cat->from < o.end) {
        struct store_slices *x;
        e = store_read(cat->store, uid, cat->from, READ_BYTES, true, &x, m);
        if (e == ERR_AGAIN && clock_mono_ms() < deadline) {
            usleep(10000); /* the follower catches up */
            e = OK;
            continue;
        }
        if (e) {
            break;
        }
        int64_t before = cat->from;
        e = put_slices(cat, x, m);
        store_slices_free(x);
        if (!e && cat->from == before) {
            e = err_set(m, ERR_CORRUPT, "nothing at offset %" PRId64 " of %" PRId64, before, o.end);
        }
    }
    return e;
}

static enum err put_topic(struct store *s, const struct store_topic *t, bool counts,
                          struct errmsg *m)
{
    enum err e = OK;
    for (int32_t p = 0; !e && p < t->partition_count; p++) {
        struct cat cat = {s, t->name, p, 0};
        uint32_t uid = store_topic_uid(t, p);
        if (!counts) {
            e = put_partition(&cat, uid, m);
            continue;
        }
        struct store_offsets o;
        e = store_offsets(s, uid, &o);
        if (!e) {
            printf("%s\t%" PRId32 "\t%" PRId64 "\t%" PRId64 "\n", t->name, p, o.log_start, o.end);
        }
    }
    return e;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    return remove(path);
}

int main(int argc, char **argv)
{
    bool counts = false, writer = false;
    int opt;
    while ((opt = getopt(argc, argv, "cw")) != -1) {
        counts = counts || opt == 'c';
        writer = writer || opt == 'w';
    }
    if (optind >= argc) {
        fprintf(stderr, "usage: storecat [-c] [-w] DIR [TOPIC]\n");
        return 2;
    }
    char scratch[] = "/tmp/storecat-XXXXXX";
    if (!mkdtemp(scratch)) {
        perror("mkdtemp");
        return 1;
    }
    struct errmsg m = {""};
    struct store *s;
    struct store_options o = {.dir = argv[optind],
                              .role = writer ? STORE_WRITER : STORE_FOLLOWER,
                              .follower_dir = scratch};
    enum err e = store_open(&s, &o, &m);
    if (!e) {
        const struct store_catalog *c = store_catalog_ref(s);
        for (size_t i = 0; !e && i < c->count; i++) {
            if (!argv[optind + 1] || strcmp(argv[optind + 1], c->topics[i].name) == 0) {
                e = put_topic(s, &c->topics[i], counts, &m);
            }
        }
        store_catalog_unref(s, c);
        store_close(s);
    }
    if (nftw(scratch, remove_one, REMOVE_FDS, FTW_DEPTH | FTW_PHYS) != 0) {
        fprintf(stderr, "storecat: cannot remove %s\n", scratch);
    }
    if (e) {
        fprintf(stderr, "storecat: %s: %s\n", err_name(e), m.text);
    }
    return e ? 1 : 0;
}
