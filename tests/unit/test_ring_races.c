/* The ring under kills and races: what a killed writer acknowledged is there, what a reader accepts
 * was never half overwritten, what two threads pass on arrives once and in order.
 *
 * A frame is made of its sequence number alone, length included, so any frame that a reader accepts
 * can be checked byte by byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shared/base/clock.h"
#include "shared/base/ring.h"

#define RING_BYTES     RING_BYTES_MIN
#define KILLS          150
#define LENGTH_MAX     1200
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define OVERRUN_FRAMES 300000u
#define THREAD_FRAMES  50000u
#else
#define OVERRUN_FRAMES 3000000u
#define THREAD_FRAMES  300000u
#endif

static char dir[256];
static char path[300];

/* What the processes of a test share besides the ring. */
struct board {
    _Atomic uint64_t acknowledged; /* frames that the writer would have sent a PUBACK for */
    _Atomic bool done;
};
static struct board *board;

static uint64_t mix(uint64_t v)
{
    v = (v ^ v >> 31) * 0x7fb5d329728ea185ull;
    return v ^ v >> 27;
}

static size_t length_of(uint64_t seq)
{
    return sizeof seq + mix(seq) % (LENGTH_MAX - sizeof seq);
}

static void fill(uint8_t *p, uint64_t seq, size_t len)
{
    memcpy(p, &seq, sizeof seq);
    memset(p + sizeof seq, (int)(mix(seq) >> 32), len - sizeof seq);
}

/* The sequence number that a frame is about, when it is whole. */
static bool is_whole(struct slice f, uint64_t *seq)
{
    if (f.len < sizeof *seq) {
        return false;
    }
    memcpy(seq, f.data, sizeof *seq);
    if (f.len != length_of(*seq)) {
        return false;
    }
    uint8_t value = (uint8_t)(mix(*seq) >> 32);
    for (size_t i = sizeof *seq; i < f.len; i++) {
        if (f.data[i] != value) {
            return false;
        }
    }
    return true;
}

static void wait_for(pid_t pid, int want)
{
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, want);
}

/* --- kill -9 ---------------------------------------------------------------------------------- */

static void write_until_killed(uint64_t seq)
{
    struct ring w;
    if (ring_open_writer(&w, path, RING_BYTES, NULL) != OK) {
        _exit(1);
    }
    for (;;) {
        uint8_t *p;
        size_t len = length_of(seq);
        if (ring_reserve(&w, len, true, &p) != OK) {
            sched_yield(); /* full: nobody consumes before we are dead */
            continue;
        }
        fill(p, seq, len);
        ring_commit(&w, len);
        atomic_store(&board->acknowledged, ++seq);
    }
}

static void test_ring_keeps_every_acknowledged_frame_of_a_killed_writer(void **state)
{
    unlink(path);
    uint64_t next = 0; /* the frame to read next, over all lives */
    uint64_t pos = 0, id = 0;
    atomic_store(&board->acknowledged, 0);
    for (int life = 0; life < KILLS; life++) {
        uint64_t begun = atomic_load(&board->acknowledged);
        pid_t pid = fork();
        if (pid == 0) {
            write_until_killed(begun);
        }
        /* At least one frame, then some more, then the kill wherever it is. */
        uint64_t until = begun + 1 + random_u64() % 40;
        int64_t give_up = clock_mono_us() + 2000 + (int64_t)(random_u64() % 3000);
        while (atomic_load(&board->acknowledged) <= begun ||
               (atomic_load(&board->acknowledged) < until && clock_mono_us() < give_up)) {
            sched_yield();
        }
        kill(pid, SIGKILL);
        wait_for(pid, SIGKILL);

        struct ring w;
        assert_int_equal(ring_open_writer(&w, path, RING_BYTES, NULL), OK);
        assert_true(life == 0 || ring_id(&w) == id);
        id = ring_id(&w);
        assert_int_equal(ring_consumed(&w), pos);
        uint64_t seq = next, at = pos, whole;
        struct slice f;
        enum err e;
        while ((e = ring_read(&w, at, true, &f, &at)) == OK) {
            assert_true(is_whole(f, &whole));
            assert_int_equal(whole, seq++);
            /* what is left is read again in the next life */
            if (seq <= next + 20 + random_u64() % 20) {
                next = seq;
                pos = at;
            }
        }
        assert_int_equal(e, ERR_AGAIN);
        /* Killed between commit and acknowledgement: one frame more than was acknowledged. */
        uint64_t acknowledged = atomic_load(&board->acknowledged);
        assert_true(seq == acknowledged || seq == acknowledged + 1);
        atomic_store(&board->acknowledged, seq);
        /* Full would stop the next life's first frame for ever. */
        if (ring_head(&w) - pos > RING_BYTES / 2) {
            pos = at;
            next = seq;
        }
        ring_consume(&w, pos);
        ring_close(&w);
    }
    assert_true(next > KILLS);
}

/* --- overrun ---------------------------------------------------------------------------------- */

static void overwrite_all(void)
{
    struct ring w;
    if (ring_open_writer(&w, path, RING_BYTES, NULL) != OK) {
        _exit(1);
    }
    for (uint64_t seq = 0; seq < OVERRUN_FRAMES; seq++) {
        uint8_t *p;
        size_t len = length_of(seq);
        if (ring_reserve(&w, len, false, &p) != OK) {
            _exit(2);
        }
        fill(p, seq, len);
        ring_commit(&w, len);
    }
    atomic_store(&board->done, true);
    _exit(0);
}

struct tally {
    uint64_t accepted;
    uint64_t overrun; /* seen by ring_read */
    uint64_t torn;    /* seen by ring_valid, after the copy */
    uint64_t last;
};

/* Follows the writer; verify false leaves all to ring_valid, which is how tail readers do it. */
static void follow(const struct ring *r, bool verify, struct tally *t)
{
    uint64_t pos = ring_low(r), next;
    for (;;) {
        bool done = atomic_load(&board->done);
        struct slice f;
        enum err e = ring_read(r, pos, verify, &f, &next);
        if (e == ERR_AGAIN && done) {
            return;
        }
        if (e == ERR_RANGE) {
            t->overrun++;
            pos = ring_low(r);
            continue;
        }
        if (e == ERR_AGAIN) {
            sched_yield();
            continue;
        }
        assert_int_equal(e, OK);
        if (next / RING_BYTES != pos / RING_BYTES) {
            sched_yield(); /* once a lap the writer gets its chance to come by, also on one core */
        }
        uint8_t copy[LENGTH_MAX];
        size_t len = f.len < sizeof copy ? f.len : sizeof copy;
        memcpy(copy, f.data, len);
        if (!ring_valid(r, pos)) {
            t->torn++;
            pos = ring_low(r);
            continue;
        }
        uint64_t seq;
        if (!is_whole(slice_make(copy, len), &seq) || (t->accepted > 0 && seq <= t->last)) {
            fail_msg("a wrong frame was accepted at %llu", (unsigned long long)pos);
        }
        t->last = seq;
        t->accepted++;
        pos = next;
    }
}

static void overrun_with(bool verify)
{
    unlink(path);
    struct ring w, r;
    assert_int_equal(ring_open_writer(&w, path, RING_BYTES, NULL), OK);
    ring_close(&w);
    atomic_store(&board->done, false);
    assert_int_equal(ring_open_reader(&r, path, NULL), OK);
    pid_t pid = fork();
    if (pid == 0) {
        overwrite_all();
    }
    struct tally t = {0};
    follow(&r, verify, &t);
    wait_for(pid, 0);
    ring_close(&r);
    print_message("accepted %llu, overrun %llu, torn %llu of %u\n", (unsigned long long)t.accepted,
                  (unsigned long long)t.overrun, (unsigned long long)t.torn, OVERRUN_FRAMES);
    assert_int_equal(t.last, OVERRUN_FRAMES - 1);
    assert_true(t.accepted > 100);
    assert_true(t.overrun + t.torn > 0);
}

static void test_ring_reader_that_asks_afterwards_never_accepts_a_torn_frame(void **state)
{
    overrun_with(false);
}

static void test_ring_reader_that_verifies_never_accepts_a_torn_frame(void **state)
{
    overrun_with(true);
}

/* --- two threads ------------------------------------------------------------------------------ */

static void *produce(void *arg)
{
    struct ring *w = arg;
    for (uint64_t seq = 0; seq < THREAD_FRAMES;) {
        uint8_t *p;
        size_t len = length_of(seq);
        if (ring_reserve(w, len, true, &p) == OK) {
            fill(p, seq++, len);
            ring_commit(w, len);
        } else {
            sched_yield();
        }
    }
    return NULL;
}

static void test_ring_passes_frames_from_thread_to_thread_in_order(void **state)
{
    unlink(path);
    struct ring w;
    assert_int_equal(ring_open_writer(&w, path, RING_BYTES, NULL), OK);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, produce, &w), 0);
    uint64_t pos = 0, whole;
    for (uint64_t seq = 0; seq < THREAD_FRAMES;) {
        struct slice f;
        enum err e = ring_read(&w, pos, true, &f, &pos);
        if (e == ERR_AGAIN) {
            ring_consume(&w, pos);
            sched_yield();
            continue;
        }
        assert_int_equal(e, OK);
        assert_true(is_whole(f, &whole));
        assert_int_equal(whole, seq++);
        if (seq % 16 == 0) {
            ring_consume(&w, pos);
        }
    }
    pthread_join(thread, NULL);
    ring_close(&w);
}

static int make_dir(void **state)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%s/culex-ring.XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(dir)) {
        return -1;
    }
    snprintf(path, sizeof path, "%s/ring", dir);
    board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return board == MAP_FAILED ? -1 : 0;
}

static int remove_dir(void **state)
{
    unlink(path);
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ring_keeps_every_acknowledged_frame_of_a_killed_writer),
        cmocka_unit_test(test_ring_reader_that_asks_afterwards_never_accepts_a_torn_frame),
        cmocka_unit_test(test_ring_reader_that_verifies_never_accepts_a_torn_frame),
        cmocka_unit_test(test_ring_passes_frames_from_thread_to_thread_in_order),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
