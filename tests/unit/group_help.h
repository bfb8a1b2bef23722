/* One group, its clock and its answers, for tests of the machine event by event. */
#ifndef CULEX_TESTS_GROUP_HELP_H
#define CULEX_TESTS_GROUP_HELP_H

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

static inline void copy(char *out, struct slice s)
{
    assert_true(s.len < 64);
    memcpy(out, s.len > 0 ? (const char *)s.data : "", s.len);
    out[s.len] = '\0';
}

static inline void on_reply(void *arg, void *token, const struct group_reply *r)
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

static inline struct group_time now(void)
{
    return (struct group_time){mono_ms, 1000000 + mono_ms};
}

static inline int setup(void **state)
{
    limits =
        (struct group_limits){.session_min_ms = 1000, .session_max_ms = 60000, .size_max = 200};
    memset(answers, 0, sizeof answers);
    answer_next = 0;
    mono_ms = 1;
    g = group_new(slice_str("g"), &limits);
    return g == NULL;
}

static inline int teardown(void **state)
{
    group_answer_parked(g, KERR_COORDINATOR_NOT_AVAILABLE, &sink);
    group_free(g);
    return 0;
}

static inline void pass(int64_t ms)
{
    mono_ms += ms;
    group_on_tick(g, now(), &sink);
}

/* What a client sends; fields that a test cares about are changed before join_with. */
static inline struct group_join join_event(const char *id, const char *instance)
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

static inline struct answer *join_with(struct group_join *ev, const char *fresh)
{
    struct answer *a = &answers[answer_next++];
    ev->token = a;
    ev->fresh_id = slice_str(fresh);
    group_on_join(g, ev, now(), &sink);
    return a;
}

/* A new dynamic member of an old client, which gets this id. */
static inline struct answer *join_new(const char *fresh)
{
    struct group_join ev = join_event("", NULL);
    return join_with(&ev, fresh);
}

static inline struct answer *join_again(const char *id)
{
    struct group_join ev = join_event(id, NULL);
    return join_with(&ev, "unused");
}

static inline struct answer *join_static(const char *instance, const char *fresh)
{
    struct group_join ev = join_event("", instance);
    return join_with(&ev, fresh);
}

static inline struct answer *sync_as(const char *id, int32_t generation, const char *for_a,
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
        .assignment_count = for_a == NULL   ? 0
                            : for_b == NULL ? 1
                                            : 2,
    };
    group_on_sync(g, &ev, now(), &sink);
    return a;
}

static inline enum kerr beat(const char *id, int32_t generation)
{
    return group_on_heartbeat(g, generation, slice_str(id), slice_make(NULL, 0), now());
}

static inline enum kerr leave(const char *id)
{
    return group_on_leave(g, slice_str(id), slice_make(NULL, 0), now(), &sink);
}

/* a and b, a leads, generation 2 (the first was a's alone), stable. */
static inline void make_stable_pair(void)
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

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif
