/* The machine of a consumer group, event by event, with a clock that the test owns. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "kafka-server/broker/group.h"

#define ANSWERS_MAX 512

struct answer {
    enum kerr error;
    int count; /* how often */
    bool with_members, skip, is_sync;
    int32_t generation;
    char id[64], leader[64], assignment[64], protocol[64];
    int32_t members;
};

static struct answer answers[ANSWERS_MAX]; /* by token: &answers[i] */
static int answer_next;
static struct group_limits limits;
static struct group *g;
static int64_t mono_ms;

static void copy(char *out, struct slice s)
{
    assert_true(s.len < 64);
    memcpy(out, s.len > 0 ? (const char *)s.data : "", s.len);
    out[s.len] = '\0';
}

static void on_reply(void *arg, void *token, const struct group_reply *r)
{
    struct answer *a = token;
    a->count++;
    a->error = r->error;
    copy(a->id, r->member_id);
    if (r->error == KERR_NONE) {
        a->generation = r->group->generation;
        copy(a->protocol, r->group->protocol_name);
        copy(a->leader, r->leader_id);
        copy(a->assignment, r->member->assignment);
        a->with_members = r->with_members;
        a->skip = r->skip_assignment;
        a->members = r->with_members ? r->group->member_count : 0;
    }
}

static const struct group_sink sink = {.reply = on_reply};

static struct group_time now(void)
{
    return (struct group_time){mono_ms, 1000000 + mono_ms};
}

static int setup(void **state)
{
    limits = (struct group_limits){.session_min_ms = 1000, .session_max_ms = 60000, .size_max = 200};
    memset(answers, 0, sizeof answers);
    answer_next = 0;
    mono_ms = 1;
    g = group_new(slice_str("g"), &limits);
    return g == NULL;
}

static int teardown(void **state)
{
    group_answer_parked(g, KERR_COORDINATOR_NOT_AVAILABLE, &sink);
    group_free(g);
    return 0;
}

static void pass(int64_t ms)
{
    mono_ms += ms;
    group_on_tick(g, now(), &sink);
}

/* What a client sends; fields that a test cares about are changed before join_with. */
static struct group_join join_event(const char *id, const char *instance)
{
    static const struct group_protocol range[1] = {
        {{(const uint8_t *)"range", 5}, {(const uint8_t *)"meta", 4}}};
    return (struct group_join){
        .member_id = slice_str(id),
        .instance_id = instance != NULL ? slice_str(instance) : slice_make(NULL, 0),
        .client_id = slice_str("client"),
        .client_host = slice_str("/127.0.0.1"),
        .protocol_type = slice_str("consumer"),
        .protocols = range,
        .protocol_count = 1,
        .session_timeout_ms = 10000,
        .rebalance_timeout_ms = 30000,
        .skip_assignment = true,
    };
}

static struct answer *join_with(struct group_join *ev, const char *fresh)
{
    struct answer *a = &answers[answer_next++];
    ev->token = a;
    ev->fresh_id = slice_str(fresh);
    group_on_join(g, ev, now(), &sink);
    return a;
}

/* A new dynamic member of an old client, which gets this id. */
static struct answer *join_new(const char *fresh)
{
    struct group_join ev = join_event("", NULL);
    return join_with(&ev, fresh);
}

static struct answer *join_again(const char *id)
{
    struct group_join ev = join_event(id, NULL);
    return join_with(&ev, "unused");
}

static struct answer *join_static(const char *instance, const char *fresh)
{
    struct group_join ev = join_event("", instance);
    return join_with(&ev, fresh);
}

static struct answer *sync_as(const char *id, int32_t generation, const char *for_a,
                              const char *for_b)
{
    struct answer *a = &answers[answer_next++];
    const struct group_assignment list[2] = {
        {slice_str("a"), slice_str(for_a != NULL ? for_a : "")},
        {slice_str("b"), slice_str(for_b != NULL ? for_b : "")},
    };
    struct group_sync ev = {
        .token = a,
        .generation = generation,
        .member_id = slice_str(id),
        .assignments = list,
        .assignment_count = for_a == NULL ? 0 : for_b == NULL ? 1 : 2,
    };
    group_on_sync(g, &ev, now(), &sink);
    return a;
}

static enum kerr beat(const char *id, int32_t generation)
{
    return group_on_heartbeat(g, generation, slice_str(id), slice_make(NULL, 0), now());
}

static enum kerr leave(const char *id)
{
    return group_on_leave(g, slice_str(id), slice_make(NULL, 0), now(), &sink);
}

/* a and b, a leads, generation 2 (the first was a's alone), stable. */
static void make_stable_pair(void)
{
    join_new("a");
    struct answer *b = join_new("b");
    join_again("a");
    assert_int_equal(b->count, 1);
    assert_int_equal(g->generation, 2);
    sync_as("b", 2, NULL, NULL);
    sync_as("a", 2, "for a", "for b");
    assert_int_equal(g->state, GROUP_STABLE);
    g->dirty = false;
}

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

/* --- sessions ---------------------------------------------------------------------------------- */

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

/* --- leaving ----------------------------------------------------------------------------------- */

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

/* --- static members ---------------------------------------------------------------------------- */

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

/* --- commits ----------------------------------------------------------------------------------- */

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

/* --- rows -------------------------------------------------------------------------------------- */

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

/* --- subscriptions ------------------------------------------------------------------------------ */

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

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_lone_member_starts_at_once_and_leads),
        T(test_second_member_waits_until_the_first_has_joined_again),
        T(test_initial_delay_gathers_members_in_one_generation),
        T(test_new_dynamic_member_is_sent_back_for_its_id),
        T(test_members_that_start_together_meet_in_one_generation),
        T(test_lone_member_waits_no_longer_than_the_grace_for_an_id_that_is_not_used),
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
