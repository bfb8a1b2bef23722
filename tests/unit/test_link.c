/* The link: counters and texts that either side may leave half done, messages, and what a writer
 * counts that another one has stored. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "plugins/link/link.h"
#include "plugins/writer/writer.h"
#include "shared/mqtt/publish.h"

#define NAMES       500
#define ADDS        2000
#define FRAMES      10
#define SENT_MAX    100000
#define MESSAGE_LEN 1000

static struct link *l;
static int memory = -1;
static int pair[2] = {-1, -1};
static struct link_message got;

static int setup(void **state)
{
    l = link_make(&memory);
    return l && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0 ? 0 : -1;
}

static int teardown(void **state)
{
    link_unmap(l);
    close(memory);
    close(pair[0]);
    close(pair[1]);
    return 0;
}

static uint64_t id_of(const char *name)
{
    return stream_id(slice_str(name));
}

/* --- the memory ------------------------------------------------------------------------------- */

static void test_link_is_one_memory_for_both_sides(void **state)
{
    struct link *other;
    assert_int_equal(link_attach(&other, memory, NULL), OK);
    assert_ptr_not_equal(other, l);
    counter_add(&l->received, 7);
    assert_int_equal(counter_get(&other->received), 7);
    link_unmap(other);
}

static void test_link_of_another_build_is_refused(void **state)
{
    struct link *other = l;
    struct errmsg m;
    l->build[0] ^= 1;
    assert_int_equal(link_attach(&other, memory, &m), ERR_VERSION);
    assert_null(other);
    assert_non_null(strstr(m.text, "another version"));
    l->build[0] ^= 1;
    assert_int_equal(ftruncate(memory, sizeof(struct link) + 4096), 0); /* another layout */
    assert_int_equal(link_attach(&other, memory, &m), ERR_VERSION);
    assert_int_equal(ftruncate(memory, 0), 0);
    assert_int_equal(link_attach(&other, memory, &m), ERR_INVALID);
    assert_int_equal(link_attach(&other, -1, &m), ERR_INVALID);
    assert_null(other);
}

/* --- counters --------------------------------------------------------------------------------- */

static void claim_all(struct link *in, bool backwards)
{
    for (int i = 0; i < NAMES; i++) {
        char name[32];
        snprintf(name, sizeof name, "stream-%d", backwards ? NAMES - 1 - i : i);
        struct stream_counters *s = link_counters(in, name);
        atomic_fetch_add(&s->published, 1);
    }
}

static void test_link_counters_that_two_processes_claim_at_once_have_one_place(void **state)
{
    pid_t pid = fork();
    if (pid == 0) {
        struct link *other;
        if (link_attach(&other, memory, NULL)) {
            _exit(1);
        }
        claim_all(other, true);
        _exit(0);
    }
    claim_all(l, false);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    int places = 0;
    for (int i = 0; i < LINK_STREAMS_MAX; i++) {
        places += atomic_load(&l->ids[i]) != 0;
    }
    assert_int_equal(places, NAMES);
    for (int i = 0; i < NAMES; i++) {
        char name[32];
        snprintf(name, sizeof name, "stream-%d", i);
        struct stream_counters *s = link_counters_find(l, id_of(name));
        assert_non_null(s);
        assert_string_equal(s->name, name);
        assert_int_equal(counter_get(&s->published), 2);
    }
}

static void test_link_counters_that_nobody_named_are_not_found(void **state)
{
    assert_null(link_counters_find(l, id_of("a")));
    /* Claimed by a process that was killed before it wrote the name: the next one does. */
    uint64_t id = id_of("a");
    atomic_store(&l->ids[id % LINK_STREAMS_MAX], id);
    assert_null(link_counters_find(l, id));
    struct stream_counters *s = link_counters(l, "a");
    assert_string_equal(s->name, "a");
    assert_ptr_equal(link_counters_find(l, id), s);
}

static void test_link_counters_all_taken(void **state)
{
    char name[32];
    for (int i = 0; i < LINK_STREAMS_MAX; i++) {
        snprintf(name, sizeof name, "s%d", i);
        assert_non_null(link_counters(l, name));
    }
    assert_null(link_counters(l, "one more"));
    assert_null(link_counters_find(l, id_of("one more")));
    assert_non_null(link_counters(l, "s0"));
    assert_string_equal(link_counters_find(l, id_of(name))->name, name);
}

static void test_link_totals_add_up_and_keep_the_newest_record(void **state)
{
    struct stream_counters *s = link_counters(l, "a");
    struct stream_totals more = {.stored = 2, .stored_bytes = 50, .recovered = 1, .filtered = 3,
                                 .shadowed = 4, .unkeyed = 5, .last_partition = 6,
                                 .last_offset = 7, .pos = 100};
    more.lost[REASON_UNKNOWN] = 8;
    link_totals_add(s, &more);
    link_totals_add(s, &more);
    link_totals_add(s, &(struct stream_totals){.pos = 200}); /* no record came */
    struct stream_totals t = link_totals(s);
    assert_int_equal(t.stored, 4);
    assert_int_equal(t.stored_bytes, 100);
    assert_int_equal(t.recovered, 2);
    assert_int_equal(t.filtered, 6);
    assert_int_equal(t.shadowed, 8);
    assert_int_equal(t.unkeyed, 10);
    assert_int_equal(t.lost[REASON_UNKNOWN], 16);
    assert_int_equal(t.last_partition, 6);
    assert_int_equal(t.last_offset, 7);
    assert_int_equal(t.pos, 200);
    link_totals_new_ring(l);
    assert_int_equal(link_totals(s).pos, 0);
    assert_int_equal(link_totals(s).stored, 4);
}

/* Each of the numbers belongs to the same moment, whenever the writer is killed or looked at. */
static void test_link_totals_of_a_killed_writer_belong_together(void **state)
{
    for (int round = 0; round < 20; round++) {
        struct stream_counters *s = link_counters(l, "a");
        uint64_t begin = link_totals(s).pos;
        pid_t pid = fork();
        if (pid == 0) {
            for (;;) {
                struct stream_totals more = {.stored = 1, .recovered = 1, .unkeyed = 1,
                                             .pos = link_totals(s).pos + 1};
                link_totals_add(s, &more);
            }
        }
        struct stream_totals t;
        do {
            t = link_totals(s);
            assert_true(t.stored == t.pos && t.recovered == t.pos && t.unkeyed == t.pos);
        } while (t.pos < begin + ADDS);
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        t = link_totals(s);
        assert_true(t.stored == t.pos && t.recovered == t.pos && t.unkeyed == t.pos);
    }
}

/* --- what another writer has stored ----------------------------------------------------------- */

static uint64_t ring_fill(struct ring *ring, const uint64_t *ids, uint64_t *pos)
{
    for (int i = 0; i < FRAMES; i++) {
        struct publish p = {.topic = slice_str("t"), .payload = slice_str("x"),
                            .payload_format = -1};
        uint8_t *out;
        size_t size = publish_frame_size(&p, 2);
        assert_int_equal(ring_reserve(ring, size, true, &out), OK);
        ring_commit_summed(ring, size, publish_frame_put(&p, ids, 2, out, ring_sum(ring, size)));
        pos[i] = ring_head(ring); /* behind it */
    }
    return ring_head(ring);
}

static void assert_counted(const struct stream_counters *s, uint64_t stored, uint64_t recovered)
{
    assert_int_equal(link_totals(s).stored, stored);
    assert_int_equal(link_totals(s).recovered, recovered);
}

/* It was killed after the commit, with one stream's totals further on than the other's. */
static void test_frames_that_a_killed_writer_stored_are_counted_once(void **state)
{
    static struct writer w;
    char path[64] = "/tmp/culex-link.XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    unlink(path);
    w = (struct writer){.link = l};
    assert_int_equal(ring_open_writer(&w.ring, path, RING_BYTES_MIN, NULL), OK);
    struct stream_counters *a = link_counters(l, "a"), *b = link_counters(l, "b");
    uint64_t pos[FRAMES];
    uint64_t end = ring_fill(&w.ring, (uint64_t[]){id_of("a"), id_of("b")}, pos);
    atomic_store(&l->recovered_end, pos[1]); /* two are of an earlier broker */
    link_totals_add(a, &(struct stream_totals){.stored = 6, .recovered = 2, .pos = pos[5]});
    link_totals_add(b, &(struct stream_totals){.stored = 1, .recovered = 1, .pos = pos[0]});
    writer_count_stored(&w, 0, end);
    assert_counted(a, FRAMES, 2);
    assert_counted(b, FRAMES, 2);
    writer_count_stored(&w, 0, end); /* the one that counted was killed before it took them */
    assert_counted(a, FRAMES, 2);
    assert_counted(b, FRAMES, 2);
    assert_int_equal(link_totals(a).pos, end);
    ring_close(&w.ring);
    unlink(path);
}

/* --- state and error -------------------------------------------------------------------------- */

static void test_link_state_is_news_once(void **state)
{
    char text[256];
    assert_true(link_set_state(l, STATE_NO_STORE, "no disk"));
    assert_false(link_set_state(l, STATE_NO_STORE, "no disk"));
    assert_true(atomic_load(&l->due) & DUE_COUNTERS);
    link_error(l, text, sizeof text);
    assert_string_equal(text, "no disk");
    assert_true(link_set_state(l, STATE_NO_STORE, "no room"));
    assert_true(link_set_state(l, STATE_RUNNING, ""));
    link_error(l, text, sizeof text);
    assert_string_equal(text, "");
}

static void test_link_error_that_a_killed_writer_left_half_done_can_be_read(void **state)
{
    char text[sizeof l->error], small[4];
    (void)link_set_state(l, STATE_NO_STORE, "the first one");
    atomic_fetch_add(&l->error_version, 1); /* it had begun, … */
    memcpy(l->error, "another", 7);         /* … and got so far */
    link_error(l, text, sizeof text);
    assert_string_equal(text, "anotherst one");
    memset(l->error, 'x', sizeof l->error); /* nor does it need an end */
    link_error(l, text, sizeof text);
    assert_int_equal(strlen(text), sizeof text - 1);
    link_error(l, small, sizeof small);
    assert_string_equal(small, "xxx");
    assert_true(link_set_state(l, STATE_NO_RING, "the next writer's"));
    assert_int_equal(atomic_load(&l->error_version) % 2, 0);
    link_error(l, text, sizeof text);
    assert_string_equal(text, "the next writer's");
}

/* --- messages --------------------------------------------------------------------------------- */

static void test_link_messages_with_and_without_a_descriptor(void **state)
{
    assert_int_equal(link_receive(pair[1], false, &got), ERR_AGAIN);
    assert_int_equal(link_send(pair[0], LINK_LINE, 2, "a line", -1), OK);
    assert_int_equal(link_send(pair[0], LINK_RING, 9, "", memory), OK);
    assert_int_equal(link_receive(pair[1], false, &got), OK);
    assert_true(got.kind == LINK_LINE && got.number == 2 && got.fd == -1);
    assert_string_equal(got.text, "a line");
    assert_int_equal(link_receive(pair[1], true, &got), OK);
    assert_true(got.kind == LINK_RING && got.number == 9 && got.fd >= 0 && got.fd != memory);
    assert_string_equal(got.text, "");
    assert_true(fcntl(got.fd, F_GETFD) & FD_CLOEXEC);
    struct stat a, b;
    assert_true(fstat(got.fd, &a) == 0 && fstat(memory, &b) == 0);
    assert_int_equal(a.st_ino, b.st_ino);
    close(got.fd);
}

static void test_link_message_too_long_is_cut(void **state)
{
    static char text[LINK_TEXT_BYTES_MAX * 2];
    memset(text, 'x', sizeof text - 1);
    assert_int_equal(link_send(pair[0], LINK_OPENED, 0, text, -1), OK);
    assert_int_equal(link_receive(pair[1], false, &got), OK);
    assert_int_equal(strlen(got.text), LINK_TEXT_BYTES_MAX - 1);
    assert_int_equal(link_receive(pair[1], false, &got), ERR_AGAIN);
}

static void test_link_socket_that_is_full_takes_no_more_and_gives_all_in_order(void **state)
{
    char text[MESSAGE_LEN];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    uint32_t sent = 0;
    enum err e;
    while ((e = link_send(pair[0], LINK_LINE, sent, text, -1)) == OK && sent < SENT_MAX) {
        sent++;
    }
    assert_int_equal(e, ERR_AGAIN);
    assert_true(sent > 10);
    for (uint32_t i = 0; i < sent; i++) {
        assert_int_equal(link_receive(pair[1], false, &got), OK);
        assert_int_equal(got.number, i);
    }
    assert_int_equal(link_send(pair[0], LINK_LINE, 0, "again", -1), OK);
}

static void test_link_side_that_is_gone_is_closed_after_its_last_message(void **state)
{
    assert_int_equal(link_send(pair[0], LINK_LINE, 0, "last words", -1), OK);
    close(pair[0]);
    pair[0] = -1;
    assert_int_equal(link_receive(pair[1], true, &got), OK);
    assert_string_equal(got.text, "last words");
    assert_int_equal(link_receive(pair[1], true, &got), ERR_CLOSED);
    assert_int_equal(link_receive(pair[1], false, &got), ERR_CLOSED);
    assert_int_equal(link_send(pair[1], LINK_LINE, 0, "to nobody", -1), ERR_CLOSED);
}

static void test_link_message_of_no_kind_is_an_end(void **state)
{
    assert_int_equal(send(pair[0], "abc", 3, 0), 3);
    assert_int_equal(link_receive(pair[1], false, &got), ERR_CLOSED);
}

static void test_last_words_arrive_from_who_has_not_read_all(void **state)
{
    assert_int_equal(link_send(pair[1], LINK_LINE, 0, "never read", -1), OK);
    assert_int_equal(link_send(pair[0], LINK_LINE, 0, "last words", -1), OK);
    close(pair[0]);
    pair[0] = -1;
    assert_int_equal(link_receive(pair[1], false, &got), OK);
    assert_string_equal(got.text, "last words");
    assert_int_equal(link_receive(pair[1], false, &got), ERR_CLOSED);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_link_is_one_memory_for_both_sides),
        TEST(test_link_of_another_build_is_refused),
        TEST(test_link_counters_that_two_processes_claim_at_once_have_one_place),
        TEST(test_link_counters_that_nobody_named_are_not_found),
        TEST(test_link_counters_all_taken),
        TEST(test_link_totals_add_up_and_keep_the_newest_record),
        TEST(test_link_totals_of_a_killed_writer_belong_together),
        TEST(test_frames_that_a_killed_writer_stored_are_counted_once),
        TEST(test_link_state_is_news_once),
        TEST(test_link_error_that_a_killed_writer_left_half_done_can_be_read),
        TEST(test_link_messages_with_and_without_a_descriptor),
        TEST(test_link_message_too_long_is_cut),
        TEST(test_link_socket_that_is_full_takes_no_more_and_gives_all_in_order),
        TEST(test_link_side_that_is_gone_is_closed_after_its_last_message),
        TEST(test_last_words_arrive_from_who_has_not_read_all),
        TEST(test_link_message_of_no_kind_is_an_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
