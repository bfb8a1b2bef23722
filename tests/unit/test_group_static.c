/* The machine of a consumer group: static members, commits, and its row in the store. */
#include "tests/unit/group_help.h"

/* --- static members -------------------------------------------------------------------------- */

static void make_static_pair(void)
{
    limits.initial_delay_ms = 10;
    join_static("ia", "a");
    join_static("ib", "b");
    pass(10);
    pass(10);
    sync_as("b", 1, NULL, NULL);
    sync_as("a", 1, "for a", "for b");
    assert_int_equal(g->state, GROUP_STABLE);
    g->dirty = false;
}

static enum kerr static_beat(const char *instance, const char *id, int32_t generation)
{
    return group_on_heartbeat(g, generation, slice_str(id), slice_str(instance), now());
}

static void test_static_member_restarts_without_a_rebalance_and_fences_its_former_self(void **state)
{
    make_static_pair();
    struct answer *b = join_static("ib", "b2");
    assert_int_equal(b->error, KERR_NONE);
    assert_int_equal(b->generation, 1);
    assert_string_equal(b->id, "b2");
    assert_string_equal(b->leader, "a");
    assert_false(b->skip);
    assert_int_equal(g->state, GROUP_STABLE);
    assert_true(g->dirty);
    assert_int_equal(static_beat("ib", "b", 1), KERR_FENCED_INSTANCE_ID);
    assert_int_equal(static_beat("ib", "b2", 1), KERR_NONE);
    assert_int_equal(static_beat("ix", "b2", 1), KERR_UNKNOWN_MEMBER_ID);
    assert_string_equal(sync_as("b2", 1, NULL, NULL)->assignment, "for b");
}

static void test_static_leader_that_restarts_is_told_not_to_assign(void **state)
{
    make_static_pair();
    struct answer *a = join_static("ia", "a2");
    assert_true(a->skip);
    assert_string_equal(a->leader, "a2");
    assert_int_equal(a->members, 2);
    struct group_join ev = join_event("", "ia");
    ev.skip_assignment = false; /* a client from before version 9 */
    a = join_with(&ev, "a3");
    assert_false(a->skip);
    assert_string_equal(a->leader, "a2"); /* so it does not think that it leads */
    assert_int_equal(a->members, 0);
    assert_int_equal(g->state, GROUP_STABLE);
}

static void test_static_member_with_another_protocol_begins_a_rebalance(void **state)
{
    join_static("ia", "a");
    sync_as("a", 1, "x", NULL);
    const struct group_protocol both[2] = {{slice_str("sticky"), slice_str("m")},
                                           {slice_str("range"), slice_str("m")}};
    struct group_join ev = join_event("", "ia");
    ev.protocols = both;
    ev.protocol_count = 2;
    struct answer *a = join_with(&ev, "a2");
    assert_int_equal(a->generation, 2);
    assert_string_equal(a->protocol, "sticky");
}

static void test_parked_requests_of_a_replaced_member_are_fenced(void **state)
{
    make_static_pair();
    join_new("c"); /* begins a rebalance */
    struct group_join ev = join_event("b", "ib");
    struct answer *old = join_with(&ev, "unused");
    assert_int_equal(old->count, 0);
    struct answer *b = join_static("ib", "b2");
    assert_int_equal(old->count, 1);
    assert_int_equal(old->error, KERR_FENCED_INSTANCE_ID);
    assert_int_equal(b->count, 0);
}

static void test_absent_static_member_keeps_its_place_and_another_leads(void **state)
{
    make_static_pair();
    struct answer *c = join_new("c");
    struct group_join ev = join_event("b", "ib");
    struct answer *b = join_with(&ev, "unused");
    for (int i = 0; i < 4; i++) {
        pass(9000); /* a, the leader, is alive and does not join */
        if (i < 3) {
            static_beat("ia", "a", 1);
        }
    }
    assert_int_equal(b->count, 1);
    assert_int_equal(c->count, 1);
    assert_string_equal(b->leader, "b");
    assert_int_equal(b->members, 3);
    assert_int_equal(static_beat("ia", "a", 2), KERR_NONE);
}

static void test_administrator_removes_a_static_member_by_instance(void **state)
{
    make_static_pair();
    assert_int_equal(group_on_leave(g, slice_str(""), slice_str("ix"), now(), &sink),
                     KERR_UNKNOWN_MEMBER_ID);
    assert_int_equal(group_on_leave(g, slice_str("old"), slice_str("ib"), now(), &sink),
                     KERR_FENCED_INSTANCE_ID);
    assert_int_equal(group_on_leave(g, slice_str(""), slice_str("ib"), now(), &sink), KERR_NONE);
    assert_int_equal(g->member_count, 1);
    assert_int_equal(g->state, GROUP_PREPARING);
}

/* --- commits --------------------------------------------------------------------------------- */

static enum kerr commit(const char *id, int32_t generation)
{
    return group_on_commit(g, generation, slice_str(id), slice_make(NULL, 0), now());
}

static void test_commit_is_taken_from_members_of_this_generation_only(void **state)
{
    assert_int_equal(commit("", -1), KERR_NONE); /* an empty group: offsets without membership */
    make_stable_pair();
    assert_int_equal(commit("a", 2), KERR_NONE);
    assert_int_equal(commit("a", 1), KERR_ILLEGAL_GENERATION);
    assert_int_equal(commit("x", 2), KERR_UNKNOWN_MEMBER_ID);
    assert_int_equal(commit("", -1), KERR_UNKNOWN_MEMBER_ID);
    assert_int_equal(group_on_commit(g, 2, slice_str("a"), slice_str("i"), now()),
                     KERR_UNKNOWN_MEMBER_ID);
}

static void test_commit_is_taken_while_preparing_and_refused_while_completing(void **state)
{
    make_stable_pair();
    join_again("a");
    assert_int_equal(commit("b", 2), KERR_NONE);
    join_again("b");
    assert_int_equal(g->state, GROUP_COMPLETING);
    assert_int_equal(commit("b", 3), KERR_REBALANCE_IN_PROGRESS);
}

static void test_commit_keeps_the_session_alive(void **state)
{
    make_stable_pair();
    for (int i = 0; i < 4; i++) {
        pass(6000);
        assert_int_equal(commit("a", 2), KERR_NONE);
        assert_int_equal(commit("b", 2), KERR_NONE);
    }
}

/* --- rows ------------------------------------------------------------------------------------ */

static void reload(void)
{
    struct buf row;
    buf_init(&row, GROUP_BYTES_MAX);
    group_encode(g, &row);
    assert_true(buf_ok(&row));
    group_answer_parked(g, KERR_COORDINATOR_NOT_AVAILABLE, &sink);
    group_free(g);
    bool corrupt;
    g = group_decode(slice_str("g"), buf_slice(&row), &limits, &corrupt);
    assert_non_null(g);
    group_on_load(g, now());
    buf_fini(&row);
}

static void test_stable_group_goes_on_after_a_restart(void **state)
{
    make_static_pair();
    mono_ms = 5; /* another boot */
    reload();
    assert_int_equal(g->state, GROUP_STABLE);
    assert_int_equal(g->generation, 1);
    assert_int_equal(static_beat("ia", "a", 1), KERR_NONE);
    assert_int_equal(static_beat("ib", "b", 1), KERR_NONE);
    assert_string_equal(sync_as("b", 1, NULL, NULL)->assignment, "for b");
    struct group_member *m = group_find(g, slice_str("b"));
    assert_true(slice_eq(m->client_id, slice_str("client")));
    assert_true(slice_eq(m->client_host, slice_str("/127.0.0.1")));
    assert_true(slice_eq(group_member_metadata(g, m), slice_str("meta")));
    assert_ptr_equal(g->leader, group_find(g, slice_str("a")));
    pass(10000); /* sessions run again */
    assert_int_equal(g->state, GROUP_EMPTY);
}

static void test_restart_between_join_and_sync_lets_the_leader_go_on(void **state)
{
    join_new("a");
    join_new("b");
    join_again("a");
    reload();
    assert_int_equal(g->state, GROUP_COMPLETING);
    struct answer *b = sync_as("b", 2, NULL, NULL);
    sync_as("a", 2, "x", "y");
    assert_string_equal(b->assignment, "y");
}

static void test_restart_forgets_members_that_were_never_in_a_generation(void **state)
{
    make_stable_pair();
    join_new("c");
    reload();
    assert_int_equal(g->member_count, 2);
    assert_int_equal(g->state, GROUP_PREPARING);
    assert_int_equal(beat("a", 2), KERR_REBALANCE_IN_PROGRESS);
    pass(5000);
    beat("b", 2);
    join_again("a");
    assert_int_equal(join_again("b")->generation, 3);
}

static void test_restart_while_preparing_ends_although_nobody_comes(void **state)
{
    make_stable_pair();
    join_again("a");
    reload();
    for (int i = 0; i < 7 && g->state == GROUP_PREPARING; i++) {
        pass(5000);
        beat("b", 2);
    }
    assert_int_equal(g->state, GROUP_EMPTY);
    assert_int_equal(g->generation, 3);
}

static void test_spoiled_rows_are_refused_at_every_byte(void **state)
{
    make_static_pair();
    struct buf row;
    buf_init(&row, GROUP_BYTES_MAX);
    group_encode(g, &row);
    bool corrupt;
    for (size_t cut = 0; cut < row.len; cut++) {
        uint8_t *exact = malloc(cut + 1);
        memcpy(exact, row.data, cut);
        assert_null(group_decode(slice_str("g"), slice_make(exact, cut), &limits, &corrupt));
        assert_true(corrupt);
        free(exact);
    }
    for (size_t i = 0; i < row.len * 8; i++) {
        row.data[i / 8] ^= (uint8_t)(1u << i % 8);
        struct group *x = group_decode(slice_str("g"), buf_slice(&row), &limits, &corrupt);
        group_free(x); /* some flips make another valid row; none may crash */
        row.data[i / 8] ^= (uint8_t)(1u << i % 8);
    }
    row.data[0] = 2;
    assert_null(group_decode(slice_str("g"), buf_slice(&row), &limits, &corrupt));
    buf_fini(&row);
}

/* --- subscriptions --------------------------------------------------------------------------- */

static void test_subscription_is_read_leniently(void **state)
{
    static const uint8_t bytes[] = {0, 3, 0, 0, 0, 2, 0, 1, 't', 0, 2, 'u', 'v', 0, 0, 0, 0, 9, 9};
    const struct group_protocol list[1] = {{slice_str("range"), slice_make(bytes, sizeof bytes)}};
    struct group_join ev = join_event("", NULL);
    ev.protocols = list;
    join_with(&ev, "a");
    sync_as("a", 1, "x", NULL);
    assert_true(group_subscribes(g, slice_str("t")));
    assert_true(group_subscribes(g, slice_str("uv")));
    assert_false(group_subscribes(g, slice_str("u")));
    const struct group_protocol junk[1] = {{slice_str("range"), slice_str("\xff\xff")}};
    ev = join_event("a", NULL);
    ev.protocols = junk;
    join_with(&ev, "unused");
    assert_true(group_subscribes(g, slice_str("anything"))); /* nobody knows */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_static_member_restarts_without_a_rebalance_and_fences_its_former_self),
        T(test_static_leader_that_restarts_is_told_not_to_assign),
        T(test_static_member_with_another_protocol_begins_a_rebalance),
        T(test_parked_requests_of_a_replaced_member_are_fenced),
        T(test_absent_static_member_keeps_its_place_and_another_leads),
        T(test_administrator_removes_a_static_member_by_instance),
        T(test_commit_is_taken_from_members_of_this_generation_only),
        T(test_commit_is_taken_while_preparing_and_refused_while_completing),
        T(test_commit_keeps_the_session_alive),
        T(test_stable_group_goes_on_after_a_restart),
        T(test_restart_between_join_and_sync_lets_the_leader_go_on),
        T(test_restart_forgets_members_that_were_never_in_a_generation),
        T(test_restart_while_preparing_ends_although_nobody_comes),
        T(test_spoiled_rows_are_refused_at_every_byte),
        T(test_subscription_is_read_leniently),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
