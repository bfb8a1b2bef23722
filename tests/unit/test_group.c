/* The machine of a consumer group: joining, syncing, sessions, leaving. */
#include "tests/unit/group_help.h"

/* --- joining --------------------------------------------------------------------------------- */

static void test_lone_member_starts_at_once_and_leads(void **state)
{
    struct answer *a = join_new("a");
    assert_int_equal(a->count, 1);
    assert_int_equal(a->error, KERR_NONE);
    assert_int_equal(a->generation, 1);
    assert_string_equal(a->leader, "a");
    assert_int_equal(a->members, 1);
    assert_string_equal(a->protocol, "range");
    assert_true(g->dirty);
    struct answer *s = sync_as("a", 1, "for a", NULL);
    assert_int_equal(s->count, 1);
    assert_string_equal(s->assignment, "for a");
    assert_int_equal(g->state, GROUP_STABLE);
}

static void test_second_member_waits_until_the_first_has_joined_again(void **state)
{
    join_new("a");
    sync_as("a", 1, "x", NULL);
    struct answer *b = join_new("b");
    assert_int_equal(b->count, 0);
    assert_int_equal(beat("a", 1), KERR_REBALANCE_IN_PROGRESS);
    struct answer *a = join_again("a");
    assert_int_equal(a->count, 1);
    assert_int_equal(b->count, 1);
    assert_int_equal(a->generation, 2);
    assert_string_equal(a->leader, b->leader);
    assert_int_equal(a->members, 2);
    assert_int_equal(b->members, 0);
}

static void test_initial_delay_gathers_members_in_one_generation(void **state)
{
    limits.initial_delay_ms = 3000;
    struct answer *a = join_new("a");
    pass(2000);
    struct answer *b = join_new("b");
    assert_int_equal(a->count, 0);
    pass(1000); /* somebody has come since: the delay begins once more */
    assert_int_equal(a->count, 0);
    pass(3000);
    assert_int_equal(a->count, 1);
    assert_int_equal(b->count, 1);
    assert_int_equal(a->generation, 1);
    assert_int_equal(a->members, 2);
}

static void test_lone_member_waits_the_initial_delay_and_no_longer(void **state)
{
    limits.initial_delay_ms = 5;
    struct answer *a = join_new("a");
    pass(4);
    assert_int_equal(a->count, 0);
    pass(1);
    assert_int_equal(a->count, 1);
    assert_int_equal(a->generation, 1);
    sync_as("a", 1, "all", NULL);
    struct answer *b = join_new("b"); /* only a group without members waits */
    a = join_again("a");
    assert_int_equal(a->count + b->count, 2);
    assert_int_equal(b->generation, 2);
}

static void test_initial_delay_begins_anew_while_members_come(void **state)
{
    enum { MANY = 200 };
    char ids[MANY][16];
    struct answer *all[MANY];
    limits.initial_delay_ms = 5;
    for (int i = 0; i < MANY; i++) {
        snprintf(ids[i], sizeof ids[i], "m%d", i);
        all[i] = join_new(ids[i]);
        pass(4);
    }
    assert_int_equal(all[0]->count, 0);
    pass(5);
    pass(5);
    for (int i = 0; i < MANY; i++) {
        assert_int_equal(all[i]->count, 1);
        assert_int_equal(all[i]->generation, 1);
    }
}

/* As in Kafka: members of that many ms of patience are not held up for longer. */
static void test_initial_delay_is_not_extended_past_the_rebalance_timeout(void **state)
{
    limits.initial_delay_ms = 7000;
    struct answer *a = join_new("a");
    char id[16];
    for (int s = 1; s < 30; s++) { /* 7, 14, 21, 28, and the 2 seconds that are left */
        pass(1000);
        snprintf(id, sizeof id, "m%d", s);
        join_new(id);
        assert_int_equal(a->count, 0);
    }
    pass(1000);
    assert_int_equal(a->count, 1);
    assert_int_equal(a->members, 30);
}

static void test_new_dynamic_member_is_sent_back_for_its_id(void **state)
{
    struct group_join ev = join_event("", NULL);
    ev.id_required = true;
    struct answer *a = join_with(&ev, "a");
    assert_int_equal(a->error, KERR_MEMBER_ID_REQUIRED);
    assert_string_equal(a->id, "a");
    assert_int_equal(g->member_count, 0);
    a = join_again("a");
    assert_int_equal(a->error, KERR_NONE);
    assert_int_equal(a->generation, 1);
    assert_int_equal(g->pending_count, 0);
}

static void test_members_that_start_together_meet_in_one_generation(void **state)
{
    enum { MANY = 200 };
    char ids[MANY][16];
    struct answer *all[MANY];
    struct group_join ev = join_event("", NULL);
    ev.id_required = true;
    for (int i = 0; i < MANY; i++) {
        snprintf(ids[i], sizeof ids[i], "m%d", i);
        join_with(&ev, ids[i]);
    }
    for (int i = 0; i < MANY; i++) {
        all[i] = join_again(ids[i]);
    }
    for (int i = 0; i < MANY; i++) {
        assert_int_equal(all[i]->count, 1);
        assert_int_equal(all[i]->generation, 1);
        assert_string_equal(all[i]->leader, "m0");
    }
}

static void test_lone_member_waits_no_longer_than_the_grace_for_an_id_that_is_not_used(void **state)
{
    struct group_join ev = join_event("", NULL);
    ev.id_required = true;
    join_with(&ev, "ghost");
    struct answer *a = join_new("a");
    assert_int_equal(a->count, 0);
    pass(GROUP_PENDING_GRACE_MS);
    assert_int_equal(a->count, 1);
    assert_int_equal(a->generation, 1);
}

static void test_short_initial_delay_waits_for_ids_that_were_given_out(void **state)
{
    limits.initial_delay_ms = 5;
    struct group_join ev = join_event("", NULL);
    ev.id_required = true;
    join_with(&ev, "a");
    join_with(&ev, "b");
    join_with(&ev, "ghost");
    struct answer *a = join_again("a");
    for (int ms = 0; ms < GROUP_PENDING_GRACE_MS - 5; ms += 5) {
        pass(5);
        assert_int_equal(a->count, 0);
    }
    assert_int_equal(g->join_deadline_ms, g->added_ms + GROUP_PENDING_GRACE_MS); /* one timer */
    struct answer *b = join_again("b"); /* somebody came: the ghost has as long again */
    assert_int_equal(g->join_deadline_ms, g->added_ms + 5);
    for (int ms = 0; ms < GROUP_PENDING_GRACE_MS; ms += 5) {
        assert_int_equal(a->count, 0);
        pass(5);
    }
    assert_int_equal(a->count, 1);
    assert_int_equal(a->members, 2);
    assert_int_equal(b->generation, 1);
}

static void test_id_that_is_not_used_expires_and_lets_the_rebalance_end(void **state)
{
    make_stable_pair();
    struct group_join ev = join_event("", NULL);
    ev.id_required = true;
    join_with(&ev, "ghost");
    leave("b");
    struct answer *a = join_again("a");
    assert_int_equal(a->count, 0); /* the ghost may still come */
    pass(10000);
    assert_int_equal(a->count, 1);
    assert_int_equal(a->generation, 3);
}

static void test_join_refuses_what_cannot_work(void **state)
{
    struct group_join ev = join_event("", NULL);
    ev.session_timeout_ms = 999;
    assert_int_equal(join_with(&ev, "x")->error, KERR_INVALID_SESSION_TIMEOUT);
    ev.session_timeout_ms = 60001;
    assert_int_equal(join_with(&ev, "x")->error, KERR_INVALID_SESSION_TIMEOUT);
    ev = join_event("", NULL);
    ev.protocol_count = 0;
    assert_int_equal(join_with(&ev, "x")->error, KERR_INCONSISTENT_GROUP_PROTOCOL);
    ev = join_event("", NULL);
    ev.protocol_type = slice_str("");
    assert_int_equal(join_with(&ev, "x")->error, KERR_INCONSISTENT_GROUP_PROTOCOL);
    make_stable_pair();
    ev = join_event("", NULL);
    ev.protocol_type = slice_str("connect");
    assert_int_equal(join_with(&ev, "x")->error, KERR_INCONSISTENT_GROUP_PROTOCOL);
    const struct group_protocol other[1] = {{slice_str("other"), slice_str("m")}};
    ev = join_event("", NULL);
    ev.protocols = other;
    assert_int_equal(join_with(&ev, "x")->error, KERR_INCONSISTENT_GROUP_PROTOCOL);
    assert_int_equal(join_again("nobody")->error, KERR_UNKNOWN_MEMBER_ID);
    assert_int_equal(g->state, GROUP_STABLE);
}

static void test_group_takes_no_more_members_than_its_limit(void **state)
{
    limits.size_max = 2;
    make_stable_pair();
    assert_int_equal(join_new("c")->error, KERR_GROUP_MAX_SIZE_REACHED);
    assert_int_equal(g->member_count, 2);
    assert_int_equal(join_static("i", "s")->error, KERR_GROUP_MAX_SIZE_REACHED);
}

static void test_full_group_lets_a_static_member_restart(void **state)
{
    limits.size_max = 1;
    join_static("i", "s1");
    sync_as("s1", 1, NULL, NULL);
    struct answer *s = join_static("i", "s2");
    assert_int_equal(s->error, KERR_NONE);
    assert_int_equal(g->member_count, 1);
}

static void test_protocol_with_most_votes_among_those_all_support_wins(void **state)
{
    limits.initial_delay_ms = 100;
    const struct group_protocol ab[2] = {{slice_str("A"), slice_str("1")},
                                         {slice_str("B"), slice_str("2")}};
    const struct group_protocol ba[2] = {{slice_str("B"), slice_str("3")},
                                         {slice_str("A"), slice_str("4")}};
    const struct group_protocol cb[3] = {{slice_str("C"), slice_str("5")},
                                         {slice_str("B"), slice_str("6")},
                                         {slice_str("A"), slice_str("7")}};
    struct group_join ev = join_event("", NULL);
    ev.protocols = ab;
    ev.protocol_count = 2;
    struct answer *a = join_with(&ev, "a");
    ev.protocols = ba;
    join_with(&ev, "b");
    ev.protocols = cb; /* C is supported by nobody else: this vote goes to B */
    ev.protocol_count = 3;
    join_with(&ev, "c");
    pass(100);
    pass(100);
    assert_string_equal(a->protocol, "B");
    struct group_member *b = group_find(g, slice_str("b"));
    assert_true(slice_eq(group_member_metadata(g, b), slice_str("3")));
}

static void test_follower_that_asks_again_unchanged_does_not_disturb_the_group(void **state)
{
    make_stable_pair();
    struct answer *b = join_again("b");
    assert_int_equal(b->error, KERR_NONE);
    assert_int_equal(b->generation, 2);
    assert_int_equal(g->state, GROUP_STABLE);
}

static void test_leader_that_asks_again_begins_a_rebalance(void **state)
{
    make_stable_pair();
    struct answer *a = join_again("a");
    assert_int_equal(a->count, 0);
    assert_int_equal(g->state, GROUP_PREPARING);
    join_again("b");
    assert_int_equal(a->generation, 3);
}

static void test_changed_subscription_begins_a_rebalance(void **state)
{
    make_stable_pair();
    const struct group_protocol changed[1] = {{slice_str("range"), slice_str("other topics")}};
    struct group_join ev = join_event("b", NULL);
    ev.protocols = changed;
    assert_int_equal(join_with(&ev, "x")->count, 0);
    assert_int_equal(g->state, GROUP_PREPARING);
}

static void test_lost_join_answer_is_given_again_in_the_same_generation(void **state)
{
    join_new("a");
    assert_int_equal(g->state, GROUP_COMPLETING);
    struct answer *a = join_again("a");
    assert_int_equal(a->count, 1);
    assert_int_equal(a->generation, 1);
    assert_int_equal(a->members, 1);
    assert_int_equal(g->generation, 1);
}

static void test_join_that_is_sent_twice_answers_the_first_with_rebalance(void **state)
{
    make_stable_pair();
    struct answer *first = join_again("a");
    struct answer *second = join_again("a");
    assert_int_equal(first->count, 1);
    assert_int_equal(first->error, KERR_REBALANCE_IN_PROGRESS);
    assert_int_equal(second->count, 0);
    join_again("b");
    assert_int_equal(second->error, KERR_NONE);
    assert_int_equal(first->count, 1);
}

static void test_member_that_does_not_join_in_time_is_left_behind(void **state)
{
    make_stable_pair();
    struct answer *c = join_new("c");
    struct answer *a = join_again("a");
    for (int i = 0; i < 6; i++) {
        pass(5000); /* b lives, and does not join */
        beat("b", 2);
    }
    assert_int_equal(a->count, 1);
    assert_int_equal(c->count, 1);
    assert_int_equal(a->members, 2);
    assert_int_equal(beat("b", 2), KERR_UNKNOWN_MEMBER_ID);
}

/* --- sync ------------------------------------------------------------------------------------ */

static void test_sync_waits_for_the_leader_and_forgotten_members_get_nothing(void **state)
{
    join_new("a");
    join_new("b");
    join_again("a");
    struct answer *b = sync_as("b", 2, NULL, NULL);
    assert_int_equal(b->count, 0);
    g->dirty = false;
    struct answer *a = sync_as("a", 2, "everything", NULL);
    assert_string_equal(a->assignment, "everything");
    assert_int_equal(b->count, 1);
    assert_int_equal(b->error, KERR_NONE);
    assert_string_equal(b->assignment, "");
    assert_true(g->dirty);
}

static void test_sync_refuses_strangers_and_old_generations(void **state)
{
    make_stable_pair();
    assert_int_equal(sync_as("x", 2, NULL, NULL)->error, KERR_UNKNOWN_MEMBER_ID);
    assert_int_equal(sync_as("b", 1, NULL, NULL)->error, KERR_ILLEGAL_GENERATION);
    struct answer *a = &answers[answer_next++];
    struct group_sync ev = {.token = a,
                            .generation = 2,
                            .member_id = slice_str("b"),
                            .protocol_type = slice_str("consumer"),
                            .protocol_name = slice_str("sticky")};
    group_on_sync(g, &ev, now(), &sink);
    assert_int_equal(a->error, KERR_INCONSISTENT_GROUP_PROTOCOL);
    join_again("a");
    assert_int_equal(sync_as("b", 2, NULL, NULL)->error, KERR_REBALANCE_IN_PROGRESS);
}

static void test_sync_in_a_stable_group_gives_what_is_assigned(void **state)
{
    make_stable_pair();
    struct answer *b = sync_as("b", 2, NULL, NULL);
    assert_int_equal(b->count, 1);
    assert_string_equal(b->assignment, "for b");
}

static void test_sync_that_waits_hears_of_a_new_rebalance(void **state)
{
    join_new("a");
    join_new("b");
    join_again("a");
    struct answer *b = sync_as("b", 2, NULL, NULL);
    leave("a");
    assert_int_equal(b->count, 1);
    assert_int_equal(b->error, KERR_REBALANCE_IN_PROGRESS);
    struct answer *again = join_again("b");
    assert_int_equal(again->generation, 3);
    assert_string_equal(again->leader, "b");
}

static void test_leader_that_never_syncs_is_dropped_after_the_rebalance_timeout(void **state)
{
    join_new("a");
    join_new("b");
    join_again("a");
    struct answer *b = sync_as("b", 2, NULL, NULL);
    for (int i = 0; i < 6; i++) {
        pass(5000);
        if (i < 5) {
            assert_int_equal(beat("a", 2), KERR_NONE);
        }
    }
    assert_int_equal(b->error, KERR_REBALANCE_IN_PROGRESS);
    assert_int_equal(beat("a", 2), KERR_UNKNOWN_MEMBER_ID);
    assert_int_equal(join_again("b")->generation, 3);
}

/* --- sessions -------------------------------------------------------------------------------- */

static void test_group_rejoins_after_session_timeout(void **state)
{
    make_stable_pair();
    pass(6000);
    assert_int_equal(beat("a", 2), KERR_NONE);
    pass(4000); /* b was last heard of 10 s ago */
    assert_int_equal(beat("b", 2), KERR_UNKNOWN_MEMBER_ID);
    assert_int_equal(beat("a", 2), KERR_REBALANCE_IN_PROGRESS);
    struct answer *a = join_again("a");
    assert_int_equal(a->generation, 3);
    assert_int_equal(a->members, 1);
}

static void test_heartbeat_is_fenced_by_generation_and_membership(void **state)
{
    make_stable_pair();
    assert_int_equal(beat("a", 1), KERR_ILLEGAL_GENERATION);
    assert_int_equal(beat("a", 3), KERR_ILLEGAL_GENERATION);
    assert_int_equal(beat("x", 2), KERR_UNKNOWN_MEMBER_ID);
    assert_int_equal(beat("a", 2), KERR_NONE);
    leave("a");
    leave("b");
    assert_int_equal(g->state, GROUP_EMPTY);
    assert_int_equal(beat("a", 3), KERR_UNKNOWN_MEMBER_ID);
}

static void test_heartbeat_while_the_leader_assigns_is_fine(void **state)
{
    join_new("a");
    assert_int_equal(g->state, GROUP_COMPLETING);
    assert_int_equal(beat("a", 1), KERR_NONE);
}

static void test_parked_member_does_not_time_out(void **state)
{
    make_stable_pair();
    struct answer *a = join_again("a");
    for (int i = 0; i < 5; i++) {
        pass(5000); /* far beyond a's session */
        beat("b", 2);
    }
    assert_int_equal(a->count, 0);
    join_again("b");
    assert_int_equal(a->error, KERR_NONE);
    assert_int_equal(a->members, 2);
}

static void test_lost_connection_keeps_a_known_member_until_its_session_ends(void **state)
{
    make_stable_pair();
    struct answer *a = join_again("a");
    group_on_cancel(g, a, now(), &sink);
    assert_int_equal(g->member_count, 2);
    pass(5000);
    beat("b", 2);
    pass(5000);
    assert_int_equal(g->member_count, 1);
    assert_int_equal(a->count, 0); /* nobody is there to hear it */
    assert_int_equal(join_again("b")->generation, 3);
}

static void test_lost_connection_removes_a_member_that_never_learned_its_id(void **state)
{
    make_stable_pair();
    struct answer *c = join_new("c");
    assert_int_equal(g->member_count, 3);
    group_on_cancel(g, c, now(), &sink);
    assert_int_equal(g->member_count, 2);
    join_again("a");
    assert_int_equal(join_again("b")->generation, 3);
    assert_int_equal(c->count, 0);
}

static void test_lost_connection_of_a_sync_lets_the_member_ask_again(void **state)
{
    join_new("a");
    join_new("b");
    join_again("a");
    struct answer *b = sync_as("b", 2, NULL, NULL);
    group_on_cancel(g, b, now(), &sink);
    sync_as("a", 2, "x", "y");
    assert_int_equal(b->count, 0);
    assert_string_equal(sync_as("b", 2, NULL, NULL)->assignment, "y");
}

/* --- leaving --------------------------------------------------------------------------------- */

static void test_leave_makes_the_others_share_the_work(void **state)
{
    make_stable_pair();
    assert_int_equal(leave("x"), KERR_UNKNOWN_MEMBER_ID);
    assert_int_equal(leave("a"), KERR_NONE);
    assert_true(g->dirty);
    assert_int_equal(beat("b", 2), KERR_REBALANCE_IN_PROGRESS);
    struct answer *b = join_again("b");
    assert_int_equal(b->generation, 3);
    assert_int_equal(b->members, 1);
}

static void test_group_is_empty_when_the_last_has_left_and_remembers_since_when(void **state)
{
    make_stable_pair();
    leave("a");
    pass(500);
    leave("b");
    assert_int_equal(g->state, GROUP_EMPTY);
    assert_int_equal(g->generation, 3);
    assert_int_equal(g->empty_since_wall_ms, 1000501);
    assert_true(slice_eq(g->protocol_type, slice_str("consumer")));
}

static void test_id_that_was_given_out_can_leave(void **state)
{
    struct group_join ev = join_event("", NULL);
    ev.id_required = true;
    join_with(&ev, "a");
    assert_int_equal(leave("a"), KERR_NONE);
    assert_int_equal(g->pending_count, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_lone_member_starts_at_once_and_leads),
        T(test_second_member_waits_until_the_first_has_joined_again),
        T(test_initial_delay_gathers_members_in_one_generation),
        T(test_lone_member_waits_the_initial_delay_and_no_longer),
        T(test_initial_delay_begins_anew_while_members_come),
        T(test_initial_delay_is_not_extended_past_the_rebalance_timeout),
        T(test_new_dynamic_member_is_sent_back_for_its_id),
        T(test_members_that_start_together_meet_in_one_generation),
        T(test_lone_member_waits_no_longer_than_the_grace_for_an_id_that_is_not_used),
        T(test_short_initial_delay_waits_for_ids_that_were_given_out),
        T(test_id_that_is_not_used_expires_and_lets_the_rebalance_end),
        T(test_join_refuses_what_cannot_work),
        T(test_group_takes_no_more_members_than_its_limit),
        T(test_full_group_lets_a_static_member_restart),
        T(test_protocol_with_most_votes_among_those_all_support_wins),
        T(test_follower_that_asks_again_unchanged_does_not_disturb_the_group),
        T(test_leader_that_asks_again_begins_a_rebalance),
        T(test_changed_subscription_begins_a_rebalance),
        T(test_lost_join_answer_is_given_again_in_the_same_generation),
        T(test_join_that_is_sent_twice_answers_the_first_with_rebalance),
        T(test_member_that_does_not_join_in_time_is_left_behind),
        T(test_sync_waits_for_the_leader_and_forgotten_members_get_nothing),
        T(test_sync_refuses_strangers_and_old_generations),
        T(test_sync_in_a_stable_group_gives_what_is_assigned),
        T(test_sync_that_waits_hears_of_a_new_rebalance),
        T(test_leader_that_never_syncs_is_dropped_after_the_rebalance_timeout),
        T(test_group_rejoins_after_session_timeout),
        T(test_heartbeat_is_fenced_by_generation_and_membership),
        T(test_heartbeat_while_the_leader_assigns_is_fine),
        T(test_parked_member_does_not_time_out),
        T(test_lost_connection_keeps_a_known_member_until_its_session_ends),
        T(test_lost_connection_removes_a_member_that_never_learned_its_id),
        T(test_lost_connection_of_a_sync_lets_the_member_ask_again),
        T(test_leave_makes_the_others_share_the_work),
        T(test_group_is_empty_when_the_last_has_left_and_remembers_since_when),
        T(test_id_that_was_given_out_can_leave),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
