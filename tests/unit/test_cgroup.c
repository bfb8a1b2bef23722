/* The machine of the consumer protocol, a rule a test. */
#include "tests/unit/cgroup_help.h"

/* --- joining, epochs ------------------------------------------------------------------------- */

static void test_a_lone_member_gets_all_at_once(void **state)
{
    assert_int_equal(join("a", "t"), KERR_NONE);
    assert_int_equal(reply.member_epoch, 1);
    assert_string_equal(text_of(reply.assigned), "t0 t1 t2 t3");
    assert_int_equal(g->epoch, 1);
    assert_int_equal(g->target_epoch, 1);
    assert_int_equal(cgroup_state(g), CGROUP_STABLE);
    assert_true(g->dirty);
}

static void test_partitions_are_given_when_their_owner_has_let_go(void **state)
{
    join("a", "t");
    join("b", "t");
    assert_int_equal(reply.member_epoch, 2);
    assert_string_equal(text_of(reply.assigned), ""); /* a has them */
    assert_int_equal(cgroup_find(g, slice_str("b"))->state, CGROUP_MEMBER_UNRELEASED);
    beat("a", 1, NULL);
    assert_int_equal(reply.member_epoch, 1);
    assert_string_equal(text_of(reply.assigned), "t0 t1");
    assert_int_equal(cgroup_find(g, slice_str("a"))->state, CGROUP_MEMBER_UNREVOKED);
    beat("b", 2, NULL);
    assert_null(reply.assigned);
    beat("a", 1, "t0 t1 t2"); /* still has one of them */
    assert_null(reply.assigned);
    assert_int_equal(reply.member_epoch, 1);
    beat("a", 1, "t0 t1");
    assert_int_equal(reply.member_epoch, 2);
    beat("b", 2, NULL);
    assert_string_equal(text_of(reply.assigned), "t2 t3");
    assert_int_equal(cgroup_state(g), CGROUP_STABLE);
}

static void test_a_heartbeat_that_changes_nothing_is_not_stored(void **state)
{
    make_stable_pair();
    assert_int_equal(beat("a", 2, NULL), KERR_NONE);
    assert_null(reply.assigned);
    assert_false(g->dirty);
}

static void test_a_full_request_is_told_its_assignment_again(void **state)
{
    make_stable_pair();
    const struct slice name = slice_str("t");
    struct cgroup_heartbeat ev = join_event("a", &name, 1);
    struct partition_set owned = set_of("t0 t1");
    ev.member_epoch = 2;
    ev.owned = &owned;
    assert_int_equal(send_event(&ev), KERR_NONE);
    assert_string_equal(text_of(reply.assigned), "t0 t1");
    assert_int_equal(g->epoch, 2);
    partition_set_fini(&owned);
}

static void test_a_change_of_subscription_makes_an_epoch(void **state)
{
    make_stable_pair();
    const struct slice names[2] = {slice_str("u"), slice_str("t")};
    struct cgroup_heartbeat ev = beat_event("a", 2);
    ev.topics = names;
    ev.topic_count = 2;
    send_event(&ev);
    assert_int_equal(g->epoch, 3);
    assert_string_equal(assigned("a"), "t0"); /* with two of u it has one of t too many */
    assert_int_equal(send_event(&ev), KERR_NONE);
    assert_int_equal(g->epoch, 3); /* the same again changes nothing */
    beat("a", 2, "t0");
    assert_string_equal(assigned("a"), "t0 u0 u1");
    assert_int_equal(reply.member_epoch, 3);
    beat("b", 2, NULL);
    assert_string_equal(assigned("b"), "t1 t2 t3");
}

/* --- fencing --------------------------------------------------------------------------------- */

static void test_members_that_nobody_knows_are_told_so(void **state)
{
    assert_int_equal(beat("a", 1, NULL), KERR_UNKNOWN_MEMBER_ID);
    make_stable_pair();
    assert_int_equal(beat("c", 2, NULL), KERR_UNKNOWN_MEMBER_ID);
    assert_int_equal(beat("c", -1, NULL), KERR_UNKNOWN_MEMBER_ID);
}

static void test_epochs_of_others_are_fenced(void **state)
{
    make_stable_pair();
    assert_int_equal(beat("a", 3, NULL), KERR_FENCED_MEMBER_EPOCH);
    assert_int_equal(beat("a", 1, NULL), KERR_FENCED_MEMBER_EPOCH);
    assert_int_equal(beat("a", 1, "t0 t3"), KERR_FENCED_MEMBER_EPOCH);
}

static void test_one_epoch_behind_is_well_if_it_has_no_more_than_it_may(void **state)
{
    join("a", "t");
    join("b", "t");
    beat("a", 1, NULL);
    beat("a", 1, "t0 t1"); /* the answer, epoch 2, is lost */
    assert_int_equal(beat("a", 1, "t0 t1"), KERR_NONE);
    assert_int_equal(reply.member_epoch, 2);
}

static void test_a_session_ends(void **state)
{
    make_stable_pair();
    pass(44000);
    assert_int_equal(beat("b", 2, NULL), KERR_NONE);
    pass(1500);
    assert_int_equal(g->member_count, 1);
    assert_int_equal(g->epoch, 3);
    assert_int_equal(cgroup_state(g), CGROUP_ASSIGNING);
    assert_int_equal(beat("a", 2, NULL), KERR_UNKNOWN_MEMBER_ID);
    beat("b", 2, NULL);
    assert_string_equal(text_of(reply.assigned), "t0 t1 t2 t3");
}

static void test_who_does_not_let_go_is_fenced(void **state)
{
    join("a", "t");
    join("b", "t");
    beat("a", 1, NULL); /* 30 s to give two of them up */
    pass(20000);
    beat("a", 1, NULL);
    beat("b", 2, NULL);
    pass(9000);
    assert_int_equal(g->member_count, 2);
    pass(2000);
    assert_int_equal(g->member_count, 1);
    beat("b", 2, NULL);
    assert_string_equal(text_of(reply.assigned), "t0 t1 t2 t3");
}

static void test_leaving_gives_all_back(void **state)
{
    make_stable_pair();
    assert_int_equal(beat("a", -1, NULL), KERR_NONE);
    assert_int_equal(reply.member_epoch, -1);
    assert_int_equal(g->epoch, 3);
    beat("b", 2, NULL);
    assert_string_equal(text_of(reply.assigned), "t0 t1 t2 t3");
    assert_int_equal(beat("b", -1, NULL), KERR_NONE);
    assert_int_equal(cgroup_state(g), CGROUP_EMPTY);
    assert_int_equal(g->epoch, 4);
}

/* --- static members -------------------------------------------------------------------------- */

static void test_a_static_member_finds_its_work_again(void **state)
{
    join_static("a", "i");
    join("b", "t");
    beat("a", 1, NULL);
    beat("a", 1, "t0 t1");
    beat("b", 2, NULL);
    struct cgroup_heartbeat ev = beat_event("a", -2);
    ev.instance_id = slice_str("i");
    assert_int_equal(send_event(&ev), KERR_NONE);
    assert_int_equal(reply.member_epoch, -2);
    beat("b", 2, NULL);
    assert_null(reply.assigned); /* they wait for it */
    assert_int_equal(g->epoch, 2);
    assert_int_equal(join_static("a2", "i"), KERR_NONE);
    assert_int_equal(reply.member_epoch, 2);
    assert_string_equal(text_of(reply.assigned), "t0 t1");
    assert_int_equal(g->epoch, 2);
    assert_int_equal(g->member_count, 2);
    ev = beat_event("a", 2);
    ev.instance_id = slice_str("i");
    assert_int_equal(send_event(&ev), KERR_FENCED_INSTANCE_ID);
}

static void test_an_instance_that_has_not_left_is_not_released(void **state)
{
    join_static("a", "i");
    assert_int_equal(join_static("a2", "i"), KERR_UNRELEASED_INSTANCE_ID);
    assert_int_equal(g->member_count, 1);
}

static void test_a_static_member_that_stays_away_is_fenced(void **state)
{
    join_static("a", "i");
    struct cgroup_heartbeat ev = beat_event("a", -2);
    ev.instance_id = slice_str("i");
    send_event(&ev);
    pass(45000);
    assert_int_equal(g->member_count, 0);
}

/* --- topics ---------------------------------------------------------------------------------- */

static void test_topics_that_come_grow_and_go_change_the_assignment(void **state)
{
    join("a", "x");
    assert_string_equal(text_of(reply.assigned), "");
    set_topics(3, (const char *const[]){"t", "u", "x"}, (const int32_t[]){4, 2, 1});
    beat("a", 1, NULL);
    assert_string_equal(text_of(reply.assigned), "x0");
    set_topics(3, (const char *const[]){"t", "u", "x"}, (const int32_t[]){4, 2, 3});
    beat("a", 2, NULL);
    assert_string_equal(text_of(reply.assigned), "x0 x1 x2");
    set_topics(3, (const char *const[]){"t", "u", "x"}, (const int32_t[]){9, 2, 3});
    beat("a", 3, NULL); /* not its business */
    assert_null(reply.assigned);
    assert_int_equal(g->epoch, 3);
    set_topics(2, (const char *const[]){"t", "u"}, (const int32_t[]){9, 2});
    beat("a", 3, NULL);
    assert_string_equal(text_of(reply.assigned), "");
    beat("a", 3, "");
    assert_int_equal(reply.member_epoch, 4);
}

static void test_patterns_are_resolved_as_topics_come(void **state)
{
    assert_int_equal(join_regex("a", "[tx]"), KERR_NONE);
    assert_string_equal(text_of(reply.assigned), "t0 t1 t2 t3");
    set_topics(3, (const char *const[]){"t", "u", "x"}, (const int32_t[]){4, 2, 1});
    beat("a", 1, NULL);
    assert_string_equal(text_of(reply.assigned), "t0 t1 t2 t3 x0");
    assert_true(cgroup_subscribes(g, slice_str("x")));
    assert_false(cgroup_subscribes(g, slice_str("u")));
    assert_int_equal(join_regex("b", "(a)\\1"), KERR_INVALID_REGULAR_EXPRESSION);
    assert_int_equal(g->member_count, 1);
    struct cgroup_heartbeat ev = beat_event("a", 2);
    ev.regex = slice_str("");
    send_event(&ev);
    assert_string_equal(text_of(reply.assigned), "");
}

/* --- requests that are wrong ----------------------------------------------------------------- */

static enum kerr check(const struct cgroup_heartbeat *ev, bool id_required)
{
    enum kerr e;
    const char *why = cgroup_check_heartbeat(&limits, ev, id_required, &e);
    assert_true((why != NULL) == (e != KERR_NONE));
    return e;
}

static void test_requests_are_checked(void **state)
{
    const struct slice name = slice_str("t");
    const struct cgroup_heartbeat good = join_event("a", &name, 1);
    assert_int_equal(check(&good, true), KERR_NONE);
    struct cgroup_heartbeat ev = good;
    ev.member_id = slice_str("");
    assert_int_equal(check(&ev, true), KERR_INVALID_REQUEST);
    assert_int_equal(check(&ev, false), KERR_NONE);
    ev = good;
    ev.rebalance_timeout_ms = -1;
    assert_int_equal(check(&ev, true), KERR_INVALID_REQUEST);
    ev = good;
    ev.owned = NULL;
    assert_int_equal(check(&ev, true), KERR_INVALID_REQUEST);
    ev = good;
    ev.topic_count = -1;
    assert_int_equal(check(&ev, true), KERR_INVALID_REQUEST);
    ev = good;
    ev.instance_id = slice_make("", 0);
    assert_int_equal(check(&ev, true), KERR_INVALID_REQUEST);
    ev = good;
    ev.assignor = slice_str("sticky");
    assert_int_equal(check(&ev, true), KERR_UNSUPPORTED_ASSIGNOR);
    ev.assignor = slice_str("range");
    assert_int_equal(check(&ev, true), KERR_NONE);
    ev = beat_event("a", -3);
    assert_int_equal(check(&ev, true), KERR_INVALID_REQUEST);
    ev = beat_event("a", -2);
    assert_int_equal(check(&ev, true), KERR_INVALID_REQUEST);
}

static void test_a_full_group_takes_nobody_more(void **state)
{
    limits.size_max = 2;
    make_stable_pair();
    assert_int_equal(join("c", "t"), KERR_GROUP_MAX_SIZE_REACHED);
    assert_int_equal(beat("a", 2, NULL), KERR_NONE);
    assert_int_equal(g->member_count, 2);
}

static void test_most_votes_choose_the_assignor(void **state)
{
    const struct slice name = slice_str("t");
    struct cgroup_heartbeat ev = join_event("a", &name, 1);
    assert_int_equal(cgroup_assignor(g), ASSIGNOR_UNIFORM);
    ev.assignor = slice_str("range");
    send_event(&ev);
    assert_int_equal(cgroup_assignor(g), ASSIGNOR_RANGE);
    join("b", "t");
    assert_int_equal(cgroup_assignor(g), ASSIGNOR_RANGE);
}

/* --- offsets --------------------------------------------------------------------------------- */

static void test_commits_need_the_epoch(void **state)
{
    assert_int_equal(cgroup_on_commit(g, -1, slice_str(""), true), KERR_NONE);
    make_stable_pair();
    assert_int_equal(cgroup_on_commit(g, -1, slice_str(""), true), KERR_UNKNOWN_MEMBER_ID);
    assert_int_equal(cgroup_on_commit(g, 2, slice_str("a"), true), KERR_NONE);
    assert_int_equal(cgroup_on_commit(g, 1, slice_str("a"), true), KERR_STALE_MEMBER_EPOCH);
    assert_int_equal(cgroup_on_commit(g, 2, slice_str("a"), false), KERR_UNSUPPORTED_VERSION);
    assert_int_equal(cgroup_on_commit(g, 2, slice_str("x"), true), KERR_UNKNOWN_MEMBER_ID);
}

static void test_offset_fetches_may_name_a_member(void **state)
{
    make_stable_pair();
    assert_int_equal(cgroup_on_offset_fetch(g, -1, slice_make(NULL, 0)), KERR_NONE);
    assert_int_equal(cgroup_on_offset_fetch(g, 2, slice_str("a")), KERR_NONE);
    assert_int_equal(cgroup_on_offset_fetch(g, 1, slice_str("a")), KERR_STALE_MEMBER_EPOCH);
    assert_int_equal(cgroup_on_offset_fetch(g, 1, slice_str("x")), KERR_UNKNOWN_MEMBER_ID);
}

/* --- rows ------------------------------------------------------------------------------------ */

static void test_a_row_is_the_group(void **state)
{
    make_stable_pair();
    join_static("c", "i");
    join_regex("d", "u|t");
    beat("b", 2, NULL); /* must give one up */
    struct buf row, again;
    buf_init(&row, 1 << 20);
    buf_init(&again, 1 << 20);
    cgroup_encode(g, &row);
    bool corrupt;
    assert_true(cgroup_row_is(buf_slice(&row)));
    struct cgroup *copy = cgroup_decode(slice_str("g"), buf_slice(&row), &limits, &corrupt);
    assert_non_null(copy);
    cgroup_encode(copy, &again);
    assert_true(slice_eq(buf_slice(&row), buf_slice(&again)));
    assert_int_equal(copy->bytes, g->bytes);
    cgroup_on_load(copy, now());
    assert_int_equal(copy->wake_ms, mono_ms + 30000); /* b's time to let go */
    cgroup_free(copy);
    for (size_t n = 0; n < row.len; n++) { /* no part of it is one */
        copy = cgroup_decode(slice_str("g"), slice_make(row.data, n), &limits, &corrupt);
        assert_null(copy);
        assert_true(corrupt);
    }
    for (size_t i = 0; i < row.len; i++) { /* and no damage does more than be one, or none */
        row.data[i] ^= 0xff;
        cgroup_free(cgroup_decode(slice_str("g"), buf_slice(&row), &limits, &corrupt));
        row.data[i] ^= 0xff;
    }
    buf_fini(&row);
    buf_fini(&again);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_a_lone_member_gets_all_at_once),
        T(test_partitions_are_given_when_their_owner_has_let_go),
        T(test_a_heartbeat_that_changes_nothing_is_not_stored),
        T(test_a_full_request_is_told_its_assignment_again),
        T(test_a_change_of_subscription_makes_an_epoch),
        T(test_members_that_nobody_knows_are_told_so),
        T(test_epochs_of_others_are_fenced),
        T(test_one_epoch_behind_is_well_if_it_has_no_more_than_it_may),
        T(test_a_session_ends),
        T(test_who_does_not_let_go_is_fenced),
        T(test_leaving_gives_all_back),
        T(test_a_static_member_finds_its_work_again),
        T(test_an_instance_that_has_not_left_is_not_released),
        T(test_a_static_member_that_stays_away_is_fenced),
        T(test_topics_that_come_grow_and_go_change_the_assignment),
        T(test_patterns_are_resolved_as_topics_come),
        T(test_requests_are_checked),
        T(test_a_full_group_takes_nobody_more),
        T(test_most_votes_choose_the_assignor),
        T(test_commits_need_the_epoch),
        T(test_offset_fetches_may_name_a_member),
        T(test_a_row_is_the_group),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
