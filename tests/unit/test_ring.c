/* The ring: frames, wrap-around, takeover, damage. Kills and races are in test_ring_races.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shared/base/ring.h"

#define SMALL       RING_BYTES_MIN
#define HEADER_PAGE 4096
#define FRAME_HEAD  16

static char dir[256];
static char path[300];

static uint8_t byte_of(uint64_t seq, size_t i)
{
    return (uint8_t)(seq * 131 + i * 7 + (i >> 8));
}

static void put_frame(struct ring *w, uint64_t seq, size_t len, bool keep)
{
    uint8_t *p;
    assert_int_equal(ring_reserve(w, len, keep, &p), OK);
    for (size_t i = 0; i < len; i++) {
        p[i] = byte_of(seq, i);
    }
    ring_commit(w, len);
}

static void assert_frame(struct slice f, uint64_t seq, size_t len)
{
    assert_int_equal(f.len, len);
    for (size_t i = 0; i < len; i++) {
        assert_int_equal(f.data[i], byte_of(seq, i));
    }
}

static void open_new(struct ring *w, uint64_t bytes)
{
    struct errmsg m;
    unlink(path);
    assert_int_equal(ring_open_writer(w, path, bytes, &m), OK);
    assert_int_equal(ring_head(w), 0);
}

static void test_ring_gives_every_size_back_across_many_laps(void **state)
{
    struct ring w, r;
    open_new(&w, SMALL);
    assert_int_equal(ring_open_reader(&r, path, NULL), OK);
    uint64_t pos = 0;
    struct slice f;
    for (size_t len = 0; len <= ring_frame_max(&w); len++) {
        put_frame(&w, len, len, false);
        assert_int_equal(ring_read(&r, pos, true, &f, &pos), OK);
        assert_frame(f, len, len);
        assert_true(ring_valid(&r, ring_low(&r)));
        assert_int_equal(ring_read(&r, pos, true, &f, &pos), ERR_AGAIN);
    }
    ring_close(&r);
    ring_close(&w);
}

static void test_ring_frame_max_is_a_bound(void **state)
{
    struct ring w;
    uint8_t *p;
    open_new(&w, SMALL);
    assert_int_equal(ring_frame_max(&w), SMALL / 4 - FRAME_HEAD);
    assert_int_equal(ring_reserve(&w, ring_frame_max(&w) + 1, false, &p), ERR_TOO_LARGE);
    assert_int_equal(ring_reserve(&w, SIZE_MAX, true, &p), ERR_TOO_LARGE);
    for (int i = 0; i < 50; i++) { /* the longest fits wherever the head stands */
        put_frame(&w, (uint64_t)i, ring_frame_max(&w), false);
        put_frame(&w, 0, (size_t)i * 100, false);
    }
    ring_close(&w);
}

static void test_ring_keeps_what_is_not_consumed(void **state)
{
    struct ring w;
    uint8_t *p;
    open_new(&w, SMALL);
    uint64_t written = 0, read = 0, pos = 0;
    for (int round = 0; round < 200; round++) {
        size_t len = (size_t)(round * 37) % 3000;
        while (ring_reserve(&w, len, true, &p) == OK) {
            ring_abandon(&w);
            put_frame(&w, written++, len, true);
        }
        assert_int_equal(ring_reserve(&w, len, true, &p), ERR_FULL);
        assert_true(ring_head(&w) - ring_consumed(&w) > SMALL / 2);
        struct slice f;
        uint64_t take = (written - read) / 2 + 1; /* half of it, so that laps overlap */
        for (uint64_t i = 0; i < take; i++) {
            assert_int_equal(ring_read(&w, pos, true, &f, &pos), OK);
            if (f.len > 0) {
                assert_int_equal(f.data[0], byte_of(read, 0));
            }
            read++;
        }
        ring_consume(&w, pos);
        assert_int_equal(ring_consumed(&w), pos);
    }
    ring_close(&w);
}

static void test_ring_consume_only_goes_forward_and_not_beyond_head(void **state)
{
    struct ring w;
    open_new(&w, SMALL);
    put_frame(&w, 0, 100, true);
    put_frame(&w, 1, 100, true);
    uint64_t head = ring_head(&w);
    ring_consume(&w, head + 16);
    assert_int_equal(ring_consumed(&w), 0);
    ring_consume(&w, head);
    ring_consume(&w, 0);
    assert_int_equal(ring_consumed(&w), head);
    ring_close(&w);
}

static void test_ring_low_is_always_the_start_of_a_frame(void **state)
{
    struct ring w;
    open_new(&w, SMALL);
    for (uint64_t seq = 0; seq < 3000; seq++) {
        put_frame(&w, seq, (size_t)(seq * 7919 % 900) + 8, false);
        uint64_t pos = ring_low(&w), frames = 0;
        struct slice f;
        enum err e;
        while ((e = ring_read(&w, pos, true, &f, &pos)) == OK) {
            frames++;
        }
        assert_int_equal(e, ERR_AGAIN);
        assert_int_equal(pos, ring_head(&w));
        assert_true(frames <= seq + 1);
        /* Most of the ring is in use: the frames that are there are the newest. */
        assert_true(seq < 100 || ring_head(&w) - ring_low(&w) > SMALL / 2);
    }
    ring_close(&w);
}

static void test_ring_commits_less_than_was_reserved_or_nothing(void **state)
{
    struct ring w;
    uint8_t *p;
    struct slice f;
    open_new(&w, SMALL);
    assert_int_equal(ring_reserve(&w, 1000, true, &p), OK);
    memset(p, 'x', 1000);
    ring_abandon(&w);
    assert_int_equal(ring_head(&w), 0);
    assert_int_equal(ring_reserve(&w, 1000, true, &p), OK);
    memcpy(p, "short", 5);
    uint64_t pos = ring_commit(&w, 5);
    assert_int_equal(pos, 0);
    assert_int_equal(ring_head(&w), 32);
    assert_int_equal(ring_read(&w, pos, true, &f, &pos), OK);
    assert_true(slice_eq(f, slice_str("short")));

    /* Abandoned at the wrap: the filler that was written is not taken for anything. */
    while (ring_head(&w) % SMALL < SMALL - 2000) {
        put_frame(&w, 1, 500, false);
    }
    pos = ring_head(&w);
    assert_int_equal(ring_reserve(&w, 5000, false, &p), OK);
    ring_abandon(&w);
    assert_int_equal(ring_read(&w, pos, true, &f, &pos), ERR_AGAIN);
    put_frame(&w, 2, 100, false);
    assert_int_equal(ring_read(&w, pos, true, &f, &pos), OK);
    assert_frame(f, 2, 100);
    ring_close(&w);
}

static void test_ring_commit_returns_the_position_of_its_frame(void **state)
{
    struct ring w;
    open_new(&w, SMALL);
    for (uint64_t seq = 0; seq < 500; seq++) {
        uint8_t *p;
        struct slice f;
        uint64_t next;
        assert_int_equal(ring_reserve(&w, 1500, false, &p), OK);
        memset(p, (int)seq, 1500);
        uint64_t pos = ring_commit(&w, 1500);
        assert_int_equal(ring_read(&w, pos, true, &f, &next), OK);
        assert_int_equal(f.data[0], (uint8_t)seq);
        assert_int_equal(next, ring_head(&w));
    }
    ring_close(&w);
}

static void test_ring_positions_outside_are_out_of_range(void **state)
{
    struct ring w;
    struct slice f;
    uint64_t next;
    open_new(&w, SMALL);
    assert_int_equal(ring_read(&w, 0, true, &f, &next), ERR_AGAIN);
    for (int i = 0; i < 200; i++) {
        put_frame(&w, 1, 1000, false);
    }
    assert_int_equal(ring_read(&w, 0, true, &f, &next), ERR_RANGE);
    assert_false(ring_valid(&w, 0));
    assert_int_equal(ring_read(&w, ring_head(&w) + 16, true, &f, &next), ERR_RANGE);
    assert_int_equal(ring_read(&w, UINT64_MAX, true, &f, &next), ERR_RANGE);
    assert_int_equal(ring_read(&w, ring_low(&w) + 8, true, &f, &next), ERR_RANGE);
    /* Aligned, but in the middle of a frame: not taken for one. */
    assert_int_equal(ring_read(&w, ring_low(&w) + 16, false, &f, &next), ERR_CORRUPT);
    ring_close(&w);
}

static void test_ring_takeover_keeps_frames_positions_and_id(void **state)
{
    struct ring w;
    open_new(&w, SMALL);
    uint64_t id = ring_id(&w), pos = 0;
    for (uint64_t seq = 0; seq < 20; seq++) {
        put_frame(&w, seq, 300, true);
    }
    struct slice f;
    for (uint64_t seq = 0; seq < 5; seq++) {
        assert_int_equal(ring_read(&w, pos, true, &f, &pos), OK);
    }
    ring_consume(&w, pos);
    uint8_t *p; /* and one that was being written */
    assert_int_equal(ring_reserve(&w, 100, true, &p), OK);
    ring_close(&w);

    assert_int_equal(ring_open_writer(&w, path, SMALL, NULL), OK);
    assert_int_equal(ring_id(&w), id);
    assert_int_equal(ring_consumed(&w), pos);
    put_frame(&w, 20, 300, true);
    for (uint64_t seq = 5; seq <= 20; seq++) {
        assert_int_equal(ring_read(&w, pos, true, &f, &pos), OK);
        assert_frame(f, seq, 300);
    }
    assert_int_equal(ring_read(&w, pos, true, &f, &pos), ERR_AGAIN);
    ring_close(&w);
}

static void test_ring_of_another_size_begins_anew(void **state)
{
    struct ring w, old;
    struct slice f;
    uint64_t next;
    open_new(&w, SMALL);
    uint64_t id = ring_id(&w);
    put_frame(&w, 7, 100, true);
    assert_int_equal(ring_open_reader(&old, path, NULL), OK);
    ring_close(&w);
    assert_int_equal(ring_open_writer(&w, path, SMALL * 2, NULL), OK);
    assert_int_not_equal(ring_id(&w), id);
    assert_int_equal(ring_head(&w), 0);
    /* The old mapping is still whole. */
    assert_int_equal(ring_read(&old, 0, true, &f, &next), OK);
    assert_frame(f, 7, 100);
    ring_close(&old);
    ring_close(&w);
}

static void test_ring_reset_forgets_frames_and_positions_go_on(void **state)
{
    struct ring w, r;
    struct slice f;
    uint64_t next;
    open_new(&w, SMALL);
    assert_int_equal(ring_open_reader(&r, path, NULL), OK);
    uint64_t id = ring_id(&r);
    put_frame(&w, 1, 100, true);
    uint64_t head = ring_head(&w);
    ring_reset(&w);
    assert_int_not_equal(ring_id(&r), id);
    assert_int_equal(ring_head(&r), head);
    assert_int_equal(ring_low(&r), head);
    assert_int_equal(ring_consumed(&r), head);
    assert_int_equal(ring_read(&r, 0, true, &f, &next), ERR_RANGE);
    put_frame(&w, 2, 100, true);
    assert_int_equal(ring_read(&r, head, true, &f, &next), OK);
    assert_frame(f, 2, 100);
    ring_close(&r);
    ring_close(&w);
}

/* --- damage ----------------------------------------------------------------------------------- */

static void write_at(off_t at, const void *bytes, size_t n)
{
    int fd = open(path, O_WRONLY);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, n, at), n);
    close(fd);
}

static void test_ring_finds_every_flipped_bit_of_a_frame(void **state)
{
    struct ring w;
    struct slice f;
    uint64_t next;
    open_new(&w, SMALL);
    put_frame(&w, 1, 50, true);
    put_frame(&w, 2, 70, true);
    uint64_t pos;
    assert_int_equal(ring_read(&w, 0, true, &f, &pos), OK);
    for (size_t at = 0; at < FRAME_HEAD + 70; at++) {
        for (int bit = 0; bit < 8; bit++) {
            w.frames[pos + at] ^= (uint8_t)(1 << bit);
            assert_int_equal(ring_read(&w, pos, true, &f, &next), ERR_CORRUPT);
            w.frames[pos + at] ^= (uint8_t)(1 << bit);
        }
    }
    assert_int_equal(ring_read(&w, pos, true, &f, &next), OK);
    ring_close(&w);
}

static void test_ring_never_takes_a_frame_of_an_earlier_lap_or_life(void **state)
{
    struct ring w;
    struct slice f;
    uint64_t next;
    static uint8_t lap[SMALL];
    open_new(&w, SMALL);
    while (ring_head(&w) < SMALL) {
        put_frame(&w, 1, 1008, false); /* 1024 with its header: laps lie on each other */
    }
    memcpy(lap, w.frames, SMALL);
    uint64_t pos = ring_head(&w);
    put_frame(&w, 2, 1008, false);
    memcpy(w.frames, lap, 1024); /* as if a power failure had lost the page */
    assert_int_equal(ring_read(&w, pos, true, &f, &next), ERR_CORRUPT);
    assert_int_equal(ring_read(&w, pos, false, &f, &next), ERR_CORRUPT);

    ring_close(&w);

    open_new(&w, SMALL);
    put_frame(&w, 3, 1008, false);
    memcpy(lap, w.frames, 1024);
    ring_close(&w);
    open_new(&w, SMALL);
    put_frame(&w, 4, 1008, false);
    memcpy(w.frames, lap, 1024); /* the right position, another life */
    assert_int_equal(ring_read(&w, 0, true, &f, &next), ERR_CORRUPT);
    assert_int_equal(ring_read(&w, 0, false, &f, &next), ERR_CORRUPT);
    ring_close(&w);
}

static void test_ring_writer_goes_on_over_garbage(void **state)
{
    struct ring w;
    struct slice f;
    uint64_t next;
    open_new(&w, SMALL);
    for (int i = 0; i < 100; i++) {
        put_frame(&w, 1, 900, false);
    }
    memset(w.frames, 0xff, SMALL);
    for (int i = 0; i < 200; i++) {
        uint64_t pos = ring_head(&w);
        put_frame(&w, (uint64_t)i, 900, false);
        assert_int_equal(ring_read(&w, pos, true, &f, &next), OK);
        assert_frame(f, (uint64_t)i, 900);
    }
    uint64_t pos = ring_low(&w);
    while (ring_read(&w, pos, true, &f, &pos) == OK) {
    }
    assert_int_equal(pos, ring_head(&w));
    ring_close(&w);
}

static void test_ring_replaces_files_that_are_not_whole_rings(void **state)
{
    static const struct {
        const char *what;
        off_t at; /* of the header: see ring.c */
        uint64_t value;
    } spoiled[] = {
        {"magic", 0, 0x1122334455667788},
        {"version", 8, 99},
        {"bytes", 16, SMALL * 2},
        {"low beyond head", 64, 1 << 20},
        {"head unaligned", 128, 9},
        {"head far off", 128, 1 << 30},
        {"consumed beyond head", 192, 4096},
    };
    struct ring w;
    for (size_t i = 0; i < sizeof spoiled / sizeof spoiled[0]; i++) {
        open_new(&w, SMALL);
        uint64_t id = ring_id(&w);
        put_frame(&w, 1, 100, true);
        ring_close(&w);
        write_at(spoiled[i].at, &spoiled[i].value, sizeof spoiled[i].value);
        assert_int_equal(ring_open_writer(&w, path, SMALL, NULL), OK);
        if (ring_id(&w) == id || ring_head(&w) != 0) {
            fail_msg("%s was taken over", spoiled[i].what);
        }
        put_frame(&w, 1, 100, true);
        ring_close(&w);
    }
}

static void test_ring_replaces_files_of_any_length(void **state)
{
    static const off_t lengths[] = {0,    1,           100, HEADER_PAGE, HEADER_PAGE + SMALL - 1,
                                    HEADER_PAGE + SMALL + 1};
    struct ring w, r;
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        open_new(&w, SMALL);
        put_frame(&w, 1, 100, true);
        ring_close(&w);
        assert_int_equal(truncate(path, lengths[i]), 0);
        struct errmsg m = {""};
        enum err e = ring_open_reader(&r, path, &m);
        assert_int_equal(e, lengths[i] ? ERR_CORRUPT : ERR_NOT_FOUND);
        assert_non_null(strstr(m.text, path));
        assert_int_equal(ring_open_writer(&w, path, SMALL, NULL), OK);
        assert_int_equal(ring_head(&w), 0);
        put_frame(&w, 1, 100, true);
        ring_close(&w);
    }
    int fd = open(path, O_WRONLY | O_TRUNC);
    for (int i = 0; i < 20; i++) {
        static char junk[HEADER_PAGE];
        memset(junk, 'j' + i, sizeof junk);
        assert_int_equal(write(fd, junk, sizeof junk), sizeof junk);
    }
    close(fd);
    assert_int_equal(ring_open_reader(&r, path, NULL), ERR_CORRUPT);
    assert_int_equal(ring_open_writer(&w, path, SMALL, NULL), OK);
    ring_close(&w);
}

static void test_ring_reader_says_what_is_wrong(void **state)
{
    struct ring w, r;
    unlink(path);
    assert_int_equal(ring_open_reader(&r, path, NULL), ERR_NOT_FOUND);
    open_new(&w, SMALL);
    ring_close(&w);
    uint32_t version = 2;
    write_at(8, &version, sizeof version);
    struct errmsg m;
    assert_int_equal(ring_open_reader(&r, path, &m), ERR_VERSION);
    assert_non_null(strstr(m.text, "version 2"));
    ring_close(&r); /* closing what did not open is harmless */
}

static void test_ring_refuses_sizes_that_it_cannot_have(void **state)
{
    struct ring w;
    assert_int_equal(ring_open_writer(&w, path, 0, NULL), ERR_INVALID);
    assert_int_equal(ring_open_writer(&w, path, SMALL - 4096, NULL), ERR_INVALID);
    assert_int_equal(ring_open_writer(&w, path, SMALL + 1, NULL), ERR_INVALID);
    assert_int_equal(ring_open_writer(&w, path, (uint64_t)RING_BYTES_MAX * 2, NULL), ERR_INVALID);
    char nowhere[400];
    snprintf(nowhere, sizeof nowhere, "%s/none/ring", dir);
    assert_int_equal(ring_open_writer(&w, nowhere, SMALL, NULL), ERR_IO);
}

static void test_ring_has_one_writer(void **state)
{
    struct ring w, second;
    struct errmsg m;
    open_new(&w, SMALL);
    put_frame(&w, 1, 100, true);
    assert_int_equal(ring_open_writer(&second, path, SMALL, &m), ERR_LOCKED);
    /* A second one with another size would replace the file under the first. */
    assert_int_equal(ring_open_writer(&second, path, SMALL * 2, &m), ERR_LOCKED);
    assert_non_null(strstr(m.text, "in use"));
    ring_close(&w);
    assert_int_equal(ring_open_writer(&second, path, SMALL, &m), OK);
    assert_int_not_equal(ring_head(&second), 0);
    ring_close(&second);
}

/* --- two processes with one ring -------------------------------------------------------------- */

/* Frames go from one to the other, and the lock is held while either has it open. */
static void test_ring_handed_over_is_locked_until_both_have_closed_it(void **state)
{
    struct ring consumer, writer, third;
    struct errmsg m;
    struct slice f;
    uint64_t pos = 0;
    for (int first = 0; first < 2; first++) {
        open_new(&consumer, SMALL);
        assert_int_equal(ring_attach(&writer, dup(consumer.fd), &m), OK);
        assert_int_equal(writer.bytes, SMALL);
        put_frame(&writer, 3, 100, true);
        assert_int_equal(ring_read(&consumer, 0, true, &f, &pos), OK);
        assert_frame(f, 3, 100);
        ring_consume(&consumer, pos);
        assert_int_equal(ring_consumed(&writer), pos);
        assert_true(ring_in_place(&writer, path));
        ring_close(first ? &consumer : &writer);
        assert_int_equal(ring_open_writer(&third, path, SMALL, &m), ERR_LOCKED);
        ring_close(first ? &writer : &consumer);
        assert_int_equal(ring_open_writer(&third, path, SMALL, &m), OK);
        assert_int_equal(ring_consumed(&third), pos);
        ring_close(&third);
    }
}

static void test_ring_attach_takes_nothing_but_a_ring(void **state)
{
    struct ring r;
    struct errmsg m;
    int pipes[2];
    unlink(path);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_int_not_equal(ring_attach(&r, dup(fd), &m), OK); /* empty */
    assert_true(m.text[0] && !r.file && r.fd == -1);
    assert_int_equal(ftruncate(fd, HEADER_PAGE + SMALL), 0);
    assert_int_equal(ring_attach(&r, dup(fd), &m), ERR_CORRUPT);
    assert_true(!r.file && r.fd == -1);
    close(fd);
    assert_int_equal(pipe(pipes), 0);
    assert_int_not_equal(ring_attach(&r, pipes[0], &m), OK);
    assert_int_equal(fcntl(pipes[0], F_GETFD), -1); /* it is closed all the same */
    close(pipes[1]);
    assert_int_not_equal(ring_attach(&r, -1, &m), OK);
    assert_null(r.file);
}

/* --- a full disk ------------------------------------------------------------------------------ */

/* Runs f in a child, which ends with 0 when f returns true; 77 means that the system did not let
 * us. */
static int in_child(int (*f)(void))
{
    pid_t pid = fork();
    if (pid == 0) {
        _exit(f());
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static int full_by_limit(void)
{
    struct ring w;
    struct errmsg m;
    struct rlimit limit = {100000, 100000};
    signal(SIGXFSZ, SIG_IGN);
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) {
        return 77;
    }
    bool full = ring_open_writer(&w, path, SMALL * 4, &m) == ERR_FULL;
    return full && strstr(m.text, "no room") ? 0 : 1;
}

/* A small disk of its own, in a mount namespace that ends with the child. */
static int full_by_disk(void)
{
    char mount_dir[300], ring_path[400], new_path[400];
    snprintf(mount_dir, sizeof mount_dir, "%s/disk", dir);
    snprintf(ring_path, sizeof ring_path, "%s/ring", mount_dir);
    snprintf(new_path, sizeof new_path, "%s/ring.new", mount_dir);
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("tmpfs", mount_dir, "tmpfs", 0, "size=512k") != 0) {
        return 77;
    }
    struct ring w;
    struct errmsg m;
    struct stat st;
    if (ring_open_writer(&w, ring_path, 1 << 20, &m) != ERR_FULL || stat(new_path, &st) == 0) {
        return 1;
    }
    if (ring_open_writer(&w, ring_path, SMALL, &m) != OK) {
        return 2;
    }
    put_frame(&w, 5, 1000, true);
    ring_close(&w);
    /* No room for a larger one: the smaller one is still there, with its frame. */
    if (ring_open_writer(&w, ring_path, 1 << 20, &m) != ERR_FULL) {
        return 3;
    }
    if (ring_open_writer(&w, ring_path, SMALL, &m) != OK || ring_head(&w) == 0) {
        return 4;
    }
    ring_close(&w);
    return 0;
}

static void test_ring_says_full_when_the_disk_is(void **state)
{
    unlink(path);
    assert_int_equal(in_child(full_by_limit), 0);
    char mount_dir[300];
    snprintf(mount_dir, sizeof mount_dir, "%s/disk", dir);
    assert_int_equal(mkdir(mount_dir, 0700), 0);
    int rc = in_child(full_by_disk);
    rmdir(mount_dir);
    if (rc == 77) {
        print_message("no small disk without the right to mount one\n");
    } else {
        assert_int_equal(rc, 0);
    }
}

static int make_dir(void **state)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%s/culex-ring.XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(dir)) {
        return -1;
    }
    snprintf(path, sizeof path, "%s/ring", dir);
    return 0;
}

static int remove_dir(void **state)
{
    unlink(path);
    return rmdir(dir); /* fails when a temporary file was left behind */
}

static void test_ring_sees_that_its_path_names_another_file(void **state)
{
    struct ring w;
    char away[320];
    open_new(&w, SMALL);
    assert_true(ring_in_place(&w, path));
    snprintf(away, sizeof away, "%s.away", path);
    assert_int_equal(rename(path, away), 0);
    assert_false(ring_in_place(&w, path));
    fclose(fopen(path, "w"));
    assert_false(ring_in_place(&w, path));
    assert_int_equal(rename(away, path), 0);
    assert_true(ring_in_place(&w, path));
    assert_int_equal(unlink(path), 0);
    assert_false(ring_in_place(&w, path));
    ring_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ring_gives_every_size_back_across_many_laps),
        cmocka_unit_test(test_ring_frame_max_is_a_bound),
        cmocka_unit_test(test_ring_keeps_what_is_not_consumed),
        cmocka_unit_test(test_ring_consume_only_goes_forward_and_not_beyond_head),
        cmocka_unit_test(test_ring_low_is_always_the_start_of_a_frame),
        cmocka_unit_test(test_ring_commits_less_than_was_reserved_or_nothing),
        cmocka_unit_test(test_ring_commit_returns_the_position_of_its_frame),
        cmocka_unit_test(test_ring_positions_outside_are_out_of_range),
        cmocka_unit_test(test_ring_takeover_keeps_frames_positions_and_id),
        cmocka_unit_test(test_ring_of_another_size_begins_anew),
        cmocka_unit_test(test_ring_reset_forgets_frames_and_positions_go_on),
        cmocka_unit_test(test_ring_finds_every_flipped_bit_of_a_frame),
        cmocka_unit_test(test_ring_never_takes_a_frame_of_an_earlier_lap_or_life),
        cmocka_unit_test(test_ring_writer_goes_on_over_garbage),
        cmocka_unit_test(test_ring_replaces_files_that_are_not_whole_rings),
        cmocka_unit_test(test_ring_replaces_files_of_any_length),
        cmocka_unit_test(test_ring_reader_says_what_is_wrong),
        cmocka_unit_test(test_ring_refuses_sizes_that_it_cannot_have),
        cmocka_unit_test(test_ring_has_one_writer),
        cmocka_unit_test(test_ring_handed_over_is_locked_until_both_have_closed_it),
        cmocka_unit_test(test_ring_attach_takes_nothing_but_a_ring),
        cmocka_unit_test(test_ring_says_full_when_the_disk_is),
        cmocka_unit_test(test_ring_sees_that_its_path_names_another_file),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
