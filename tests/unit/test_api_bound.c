/* What is asked of the broker's writer for one request: each part gets its own answer, also where
 * memory ends in the middle, and what waits counts as the memory of requests until it is answered
 * or forgotten. Workers, net, topics and the writer are replaced. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <jansson.h>

#include "kafka-server/api/api.h"
#include "kafka-server/api/api_bound.h"
#include "kafka-server/broker/bound_names.h"
#include "kafka-server/broker/topics.h"
#include "kafka-server/broker/workers.h"
#include "kafka-server/net/net.h"
#include "kafka-server/server.h"
#include "shared/control/control.h"

#define PARTS  140 /* two messages, if there is memory */
#define TRIMS  40  /* the first ones of them */
#define FAULTS 5000

static struct server server;
static struct request rq;
static struct work *waiting; /* what was handed to the thread */
static int64_t taken;        /* of net's memory */
static int handled, messages, asked;
static int answers_lost; /* of each message */
static int until_fault;  /* allocations of jansson's; 0: all of them are granted */
static bool dealt;

/* --- in place of others ---------------------------------------------------------------------- */

static void *allocate(size_t bytes)
{
    if (until_fault > 0 && --until_fault == 0) {
        dealt = true;
        return NULL;
    }
    return malloc(bytes);
}

enum err workers_submit(struct workers *w, struct work *work)
{
    waiting = work;
    return OK;
}

bool workers_closing(const struct workers *w)
{
    return false;
}

void net_memory_take(struct net *n, size_t bytes)
{
    taken += (int64_t)bytes;
}

void net_memory_give(struct net *n, size_t bytes)
{
    taken -= (int64_t)bytes;
}

void topics_refresh(struct topics *t)
{
}

const struct topic_settings *topics_settings(struct topics *all, const struct topic *t,
                                             const struct config *config)
{
    return NULL;
}

void request_close(struct request *r, const char *why)
{
    fail_msg("closed: %s", why);
}

/* The writer's word for a part: by its name, so that nobody gets another one's. */
static const char *answer_of(int part)
{
    return part % 3 == 0 ? "OK" : part % 3 == 1 ? "ERR_RANGE" : "ERR_LOCKED";
}

enum err control_error(const json_t *result)
{
    const char *name = json_string_value(json_object_get(result, "error"));
    return strcmp(name, "OK") == 0 ? OK : strcmp(name, "ERR_RANGE") == 0 ? ERR_RANGE : ERR_LOCKED;
}

enum err control_call(const char *data, json_t *message, const _Atomic bool *stop, json_t **answer,
                      struct errmsg *m)
{
    int fault = until_fault;
    until_fault = 0; /* the writer has memory of its own */
    const json_t *list = json_object_get(message, "commands");
    json_t *results = json_array();
    assert_in_range(json_array_size(list), 1, CONTROL_COMMANDS_MAX);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *name = json_string_value(json_object_get(json_array_get(list, i), "name"));
        int part = (int)strtol(name + 1, NULL, 10);
        asked++;
        if (i + (size_t)answers_lost < json_array_size(list)) {
            json_array_append_new(results, json_pack("{s:s}", "error", answer_of(part)));
        }
    }
    *answer = json_pack("{s:o}", "results", results);
    json_decref(message);
    messages++;
    until_fault = fault;
    return OK;
}

static void handle(struct request *r)
{
    handled++;
}

/* --- help ------------------------------------------------------------------------------------ */

/* Part i of a request is topic "ti"; the first ones are trims, the others take streams away. */
static bool collect(struct request *r, struct bound_calls *calls, void *arg)
{
    for (int i = 0; i < PARTS; i++) {
        char name[16];
        int n = snprintf(name, sizeof name, "t%d", i);
        struct slice s = slice_make(name, (size_t)n);
        struct bound_call *c = i < TRIMS ? bound_add_trim(calls, i, 0, s)
                                         : bound_add(calls, i, 0, s);
        if (c == NULL) {
            return false;
        }
        c->trims = i < TRIMS;
        c->command = c->trims ? NULL : json_pack("{s:s, s:s}", "command", "unbind", "name", name);
    }
    return true;
}

static void ask(void)
{
    static const struct api api = {.handler = handle};
    rq = (struct request){.server = &server, .api = &api};
    handled = messages = asked = 0;
    assert_true(bound_first(&rq, 0, collect, NULL));
    assert_non_null(waiting);
}

static void finish(void)
{
    waiting->done(waiting);
    assert_int_equal(handled, 1);
    assert_false(bound_first(&rq, 0, collect, NULL)); /* the handler goes on */
}

static void let_go(void)
{
    rq.release(rq.release_arg);
    assert_int_equal(taken, 0);
}

static enum kerr told(int part)
{
    const struct bound_call *c = bound_call_of(&rq, part, 0);
    assert_non_null(c);
    assert_int_equal(c->index, part);
    return c->k;
}

static enum kerr expected(int part)
{
    const char *answer = answer_of(part);
    return strcmp(answer, "OK") == 0          ? KERR_NONE
           : strcmp(answer, "ERR_RANGE") == 0 ? KERR_OFFSET_OUT_OF_RANGE
                                              : KERR_POLICY_VIOLATION;
}

static int set_up(void **state)
{
    static char data[] = "/nowhere";
    server = (struct server){.captured = (struct store *)&server, .config.data = data};
    server.bound_names = bound_names_new();
    json_set_alloc_funcs(allocate, free);
    until_fault = answers_lost = 0;
    taken = 0;
    return server.bound_names == NULL;
}

static int tear_down(void **state)
{
    bound_names_free(server.bound_names);
    return 0;
}

/* --- tests ----------------------------------------------------------------------------------- */

static void test_each_part_has_its_own_answer(void **state)
{
    ask();
    waiting->run(waiting);
    finish();
    assert_int_equal(messages, (PARTS + CONTROL_COMMANDS_MAX - 1) / CONTROL_COMMANDS_MAX);
    assert_int_equal(asked, PARTS);
    for (int i = 0; i < PARTS; i++) {
        assert_int_equal(told(i), expected(i));
    }
    let_go();
}

/* Whichever allocation is refused while messages are made. */
static void test_without_memory_nobody_gets_the_answer_of_another(void **state)
{
    int n = 0;
    do {
        assert_true(++n < FAULTS);
        ask();
        dealt = false;
        until_fault = n;
        waiting->run(waiting);
        until_fault = 0;
        finish();
        int without = 0;
        for (int i = 0; i < PARTS; i++) {
            enum kerr k = told(i);
            without += k == KERR_REQUEST_TIMED_OUT;
            assert_true(k == expected(i) || k == KERR_REQUEST_TIMED_OUT);
        }
        assert_int_equal(asked, PARTS - without);
        let_go();
    } while (dealt);
    assert_true(n > TRIMS);
}

/* A writer that has no memory for each: which ones it has answered nobody knows. */
static void test_answers_that_are_too_few_are_nobodys(void **state)
{
    answers_lost = 1;
    ask();
    waiting->run(waiting);
    finish();
    assert_int_equal(messages, 1);
    for (int i = 0; i < PARTS; i++) {
        assert_int_equal(told(i), KERR_REQUEST_TIMED_OUT);
        assert_true(strlen(bound_why(bound_call_of(&rq, i, 0))) > 0);
    }
    let_go();
}

/* Names, commands as JSON, and their texts: more than the bytes that a client has sent. */
static void test_what_waits_counts_as_memory_of_requests(void **state)
{
    ask();
    int64_t waits = taken;
    assert_true(waits > (PARTS - TRIMS) * (int64_t)sizeof "{command:unbind,name:t100}" +
                            PARTS * (int64_t)sizeof(struct bound_call));
    waiting->run(waiting);
    assert_int_equal(taken, waits);
    finish();
    assert_int_equal(taken, waits); /* the answers are the request's */
    let_go();
}

static void test_what_waits_is_let_go_with_its_client(void **state)
{
    ask();
    assert_true(taken > 0);
    rq.cancel(&rq);
    assert_int_equal(taken, 0); /* the thread has not come to it yet */
    waiting->run(waiting);
    waiting->done(waiting);
    assert_int_equal(messages, 0);
    assert_int_equal(handled, 0);
    ask();
    waiting->run(waiting);
    rq.cancel(&rq);
    assert_true(taken > 0); /* it is the thread's */
    waiting->done(waiting);
    assert_int_equal(taken, 0);
    assert_int_equal(handled, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_each_part_has_its_own_answer, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_without_memory_nobody_gets_the_answer_of_another,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_answers_that_are_too_few_are_nobodys, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_what_waits_counts_as_memory_of_requests, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_what_waits_is_let_go_with_its_client, set_up,
                                        tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
