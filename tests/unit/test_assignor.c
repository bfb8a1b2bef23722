/* The assignors: even, sticky, and in ranges. What Kafka's own say to the same groups is compared
 * by tests/assignor. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "kafka-server/broker/assignor.h"

#define MEMBERS_MAX    12
#define TOPICS_MAX     8
#define PARTITIONS_MAX 256

static struct assignor_member members[MEMBERS_MAX];
static struct assignor_topic topics[TOPICS_MAX];
static int32_t reads[MEMBERS_MAX][TOPICS_MAX];
static int32_t owner[PARTITIONS_MAX];
static struct assignor_group in;

static void set_topics(int count, const int32_t *partitions)
{
    int32_t first = 0;
    for (int i = 0; i < count; i++) {
        topics[i] = (struct assignor_topic){{{(uint8_t)(i + 1)}}, partitions[i], first};
        first += partitions[i];
    }
    in = (struct assignor_group){members, topics, 0, count, first, owner};
    for (int i = 0; i < PARTITIONS_MAX; i++) {
        owner[i] = -1;
    }
}

/* Reads the topics whose bits are set. */
static void add(const char *id, unsigned bits)
{
    int m = in.member_count++;
    int32_t n = 0;
    for (int t = 0; t < in.topic_count; t++) {
        if (bits & 1u << t) {
            reads[m][n++] = t;
        }
    }
    members[m] =
        (struct assignor_member){.id = slice_str(id), .topics = reads[m], .topic_count = n};
}

static int load(int member)
{
    int n = 0;
    for (int i = 0; i < in.partition_count; i++) {
        n += owner[i] == member;
    }
    return n;
}

static void run(enum assignor_kind kind)
{
    assert_true(assignor_run(kind, &in));
}

/* "0 0 1": owners, in the order of partitions. */
static void expect(const char *text)
{
    char is[PARTITIONS_MAX * 4] = "";
    size_t n = 0;
    for (int i = 0; i < in.partition_count; i++) {
        n += (size_t)snprintf(is + n, sizeof is - n, "%s%d", i > 0 ? " " : "", owner[i]);
    }
    assert_string_equal(is, text);
}

static void test_uniform_is_even(void **state)
{
    set_topics(1, (const int32_t[]){7});
    add("a", 1);
    add("b", 1);
    add("c", 1);
    run(ASSIGNOR_UNIFORM);
    expect("0 0 1 1 2 2 2"); /* who must have one more comes last */
}

static void test_uniform_takes_only_what_is_over(void **state)
{
    set_topics(1, (const int32_t[]){6});
    add("a", 1);
    add("b", 1);
    run(ASSIGNOR_UNIFORM);
    expect("0 0 0 1 1 1");
    add("c", 1);
    run(ASSIGNOR_UNIFORM);
    expect("0 0 2 1 1 2");
}

static void test_uniform_leaves_what_is_even_alone(void **state)
{
    set_topics(1, (const int32_t[]){5});
    add("a", 1);
    add("b", 1);
    const int32_t was[] = {1, 0, 1, 0, 1}; /* b has the one more already */
    memcpy(owner, was, sizeof was);
    run(ASSIGNOR_UNIFORM);
    expect("1 0 1 0 1");
}

static void test_uniform_with_more_members_than_partitions(void **state)
{
    set_topics(1, (const int32_t[]){2});
    add("a", 1);
    add("b", 1);
    add("c", 1);
    run(ASSIGNOR_UNIFORM);
    assert_int_equal(load(0) + load(1) + load(2), 2);
}

static void test_uniform_balances_members_that_read_different_topics(void **state)
{
    set_topics(2, (const int32_t[]){4, 4});
    add("a", 1);
    add("b", 3);
    run(ASSIGNOR_UNIFORM);
    expect("0 0 0 0 1 1 1 1");
    add("c", 2);
    run(ASSIGNOR_UNIFORM);
    assert_int_equal(load(0), 4 - (load(1) + load(2) == 5));
    assert_true(abs(load(1) - load(2)) <= 1);
}

static void test_a_topic_that_nobody_reads_is_nobodys(void **state)
{
    set_topics(2, (const int32_t[]){2, 3});
    add("a", 1);
    add("b", 0);
    run(ASSIGNOR_UNIFORM);
    expect("0 0 -1 -1 -1");
    run(ASSIGNOR_RANGE);
    expect("0 0 -1 -1 -1");
}

static void test_range_cuts_each_topic_in_the_order_of_names(void **state)
{
    set_topics(2, (const int32_t[]){3, 4});
    add("b", 3);
    add("a", 3);
    run(ASSIGNOR_RANGE);
    expect("1 1 0 1 1 0 0");
}

static void test_range_puts_static_members_first(void **state)
{
    set_topics(1, (const int32_t[]){3});
    add("a", 1);
    add("b", 1);
    add("c", 1);
    members[2].instance_id = slice_str("z");
    members[1].instance_id = slice_str("y");
    run(ASSIGNOR_RANGE);
    expect("1 2 0");
}

/* Whatever comes: everything has one reader who reads it, loads of those who read the same differ
 * by one, and nothing moves when nothing changes. */
static void test_uniform_holds_its_promises(void **state)
{
    static const char *const ids[MEMBERS_MAX] = {"a", "b", "c", "d", "e", "f",
                                                 "g", "h", "i", "j", "k", "l"};
    srandom(1);
    for (int round = 0; round < 3000; round++) {
        int32_t partitions[TOPICS_MAX];
        int count = 1 + (int)(random() % TOPICS_MAX);
        for (int t = 0; t < count; t++) {
            partitions[t] = (int32_t)(random() % 20);
        }
        set_topics(count, partitions);
        bool same = random() % 2 == 0;
        unsigned bits = (1u << count) - 1;
        for (int m = 1 + (int)(random() % MEMBERS_MAX); m > 0; m--) {
            add(ids[m - 1], same ? bits : (unsigned)random() % (bits + 1));
        }
        for (int step = 0; step < 3; step++) {
            int32_t before[PARTITIONS_MAX];
            memcpy(before, owner, sizeof before);
            run(ASSIGNOR_UNIFORM);
            if (step == 1 && same) {
                assert_memory_equal(before, owner, sizeof before);
            }
        }
        int most = 0, least = PARTITIONS_MAX;
        for (int m = 0; m < in.member_count; m++) {
            most = load(m) > most ? load(m) : most;
            least = load(m) < least ? load(m) : least;
        }
        assert_true(!same || most - least <= 1);
        for (int t = 0; t < count; t++) {
            int readers = 0;
            for (int m = 0; m < in.member_count; m++) {
                for (int k = 0; k < members[m].topic_count; k++) {
                    readers += members[m].topics[k] == t;
                }
            }
            for (int p = 0; p < partitions[t]; p++) {
                assert_true((owner[topics[t].first + p] >= 0) == (readers > 0));
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_uniform_is_even),
        cmocka_unit_test(test_uniform_takes_only_what_is_over),
        cmocka_unit_test(test_uniform_leaves_what_is_even_alone),
        cmocka_unit_test(test_uniform_with_more_members_than_partitions),
        cmocka_unit_test(test_uniform_balances_members_that_read_different_topics),
        cmocka_unit_test(test_a_topic_that_nobody_reads_is_nobodys),
        cmocka_unit_test(test_range_cuts_each_topic_in_the_order_of_names),
        cmocka_unit_test(test_range_puts_static_members_first),
        cmocka_unit_test(test_uniform_holds_its_promises),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
