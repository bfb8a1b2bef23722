/* Groups of the consumer protocol in the coordinator: stored, taken back, read again; from the
 * classic protocol and back; offsets. Coordinator and journal are real, rows are in memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>

#include <cmocka.h>

#include "kafka-server/broker/coordinator.h"
#include "shared/base/clock.h"
#include "shared/base/log.h"
#include "tests/unit/memory_rows.h"

static struct journal *j;
static struct coordinator *c;
static int64_t mono_ms;
static const char *policy_assignors;
static enum config_migration policy;
static const struct partition_set nothing;

static int64_t wall(void)
{
    return mono_ms + 1700000000000;
}

static int64_t mono_us(void)
{
    return mono_ms * 1000;
}

static void no_log(void *arg, enum log_level level, const char *line)
{
}

static void tell_topics(int32_t partitions)
{
    const struct cgroup_topic t = {slice_str("t"), {{'t'}}, partitions};
    coordinator_set_topics(c, &t, 1);
}

static void start(void)
{
    struct errmsg m;
    const struct config_server cfg = {
        .group_min_session_timeout_ms = 1000,
        .group_max_session_timeout_ms = 60000,
        .group_max_size = 100,
        .offsets_retention_minutes = 10,
        .offsets_retention_check_interval_ms = 60000,
        .offset_metadata_max_bytes = 4096,
        .group_consumer_session_timeout_ms = 45000,
        .group_consumer_heartbeat_interval_ms = 5000,
        .group_consumer_max_size = 100,
        .group_consumer_assignors = (char *)policy_assignors,
        .group_consumer_migration_policy = policy,
    };
    j = memory_journal();
    assert_int_equal(coordinator_open(&c, j, &cfg, mono_ms, &m), OK);
    tell_topics(4);
}

static void stop(void)
{
    coordinator_close(c);
    journal_close(j);
}

static void restart(void)
{
    stop();
    start();
}

static int setup(void **state)
{
    log_set_sink(no_log, NULL);
    clock_set_source(wall, mono_us);
    mono_ms = 1000;
    policy_assignors = NULL;
    policy = CONFIG_MIGRATION_BOTH;
    start();
    return 0;
}

static int teardown(void **state)
{
    stop();
    memory_clear();
    return 0;
}

/* --- members of the consumer protocol -------------------------------------------------------- */

static struct cgroup_reply reply;

static enum kerr beat(const char *id, int32_t epoch, const char *regex)
{
    const struct slice t = slice_str("t");
    struct cgroup_heartbeat ev = {
        .member_id = slice_str(id),
        .member_epoch = epoch,
        .client_id = slice_str("c"),
        .client_host = slice_str("/1"),
        .rebalance_timeout_ms = epoch == 0 ? 30000 : -1,
        .topics = &t,
        .topic_count = epoch == 0 && regex == NULL ? 1 : -1,
        .owned = epoch == 0 ? &nothing : NULL,
        .regex = slice_str(regex),
    };
    coordinator_consumer_heartbeat(c, slice_str("g"), &ev, true, &reply);
    return reply.error;
}

static const struct cgroup *consumer(void)
{
    return coordinator_find_consumer(c, slice_str("g"));
}

static void test_a_group_is_stored_and_read_again(void **state)
{
    assert_int_equal(beat("a", 0, NULL), KERR_NONE);
    assert_int_equal(reply.assigned->count, 4);
    journal_flush(j);
    restart();
    assert_non_null(consumer());
    assert_int_equal(consumer()->epoch, 1);
    assert_int_equal(beat("a", 1, NULL), KERR_NONE);
    assert_int_equal(consumer()->epoch, 1); /* its topics are what they were */
    assert_false(consumer()->dirty);
    mono_ms += 45000;
    coordinator_tick(c, mono_ms);
    assert_int_equal(cgroup_state(consumer()), CGROUP_EMPTY);
}

/* Reading may take longer than a session, and members speak to somebody else meanwhile. */
static void test_sessions_begin_when_what_was_read_counts(void **state)
{
    assert_int_equal(beat("a", 0, NULL), KERR_NONE);
    journal_flush(j);
    restart();
    mono_ms += 10000;
    coordinator_begin(c, mono_ms);
    mono_ms += 35000;
    coordinator_tick(c, mono_ms);
    assert_int_not_equal(cgroup_state(consumer()), CGROUP_EMPTY);
    mono_ms += 10000;
    coordinator_tick(c, mono_ms);
    assert_int_equal(cgroup_state(consumer()), CGROUP_EMPTY);
}

static void test_a_failed_commit_takes_the_group_back(void **state)
{
    beat("a", 0, NULL);
    journal_flush(j);
    mem.fail_commit = ERR_IO;
    assert_int_equal(beat("b", 0, NULL), KERR_NONE);
    assert_int_equal(consumer()->member_count, 2);
    journal_flush(j);
    mem.fail_commit = OK;
    assert_int_equal(consumer()->member_count, 1);
    assert_int_equal(consumer()->epoch, 1);
    assert_int_equal(beat("a", 1, NULL), KERR_NONE);
}

static void test_who_is_refused_leaves_no_group(void **state)
{
    assert_int_equal(beat("a", 0, "(a"), KERR_INVALID_REGULAR_EXPRESSION);
    journal_flush(j);
    assert_null(consumer());
    assert_int_equal(coordinator_count(c), 0);
    assert_int_equal(mem.count, 0);
}

static void test_a_group_is_deleted_when_it_is_empty(void **state)
{
    beat("a", 0, NULL);
    assert_int_equal(coordinator_delete_group(c, slice_str("g")), KERR_NON_EMPTY_GROUP);
    beat("a", -1, NULL);
    assert_int_equal(coordinator_delete_group(c, slice_str("g")), KERR_NONE);
    journal_flush(j);
    assert_int_equal(mem.count, 0);
    assert_null(consumer());
}

/* What the commit of this turn takes away cannot have been written, nor joined. */
static void test_a_group_that_is_being_deleted_takes_nothing(void **state)
{
    struct coordinated *g;
    const struct slice none = slice_make(NULL, 0);
    beat("a", 0, NULL);
    beat("a", -1, NULL);
    assert_int_equal(coordinator_delete_group(c, slice_str("g")), KERR_NONE);
    assert_int_equal(coordinator_commit(c, slice_str("g"), -1, none, none, true, &g),
                     KERR_COORDINATOR_NOT_AVAILABLE);
    assert_int_equal(beat("b", 0, NULL), KERR_COORDINATOR_NOT_AVAILABLE);
    journal_flush(j);
    assert_int_equal(coordinator_commit(c, slice_str("g"), -1, none, none, true, &g), KERR_NONE);
}

static void test_offsets_follow_member_epochs_and_subscriptions(void **state)
{
    struct coordinated *g;
    const struct offset_row row = {.offset = 7, .metadata = slice_str("")};
    const struct slice none = slice_make(NULL, 0);
    beat("a", 0, NULL);
    assert_int_equal(coordinator_commit(c, slice_str("g"), 0, slice_str("a"), none, true, &g),
                     KERR_STALE_MEMBER_EPOCH);
    assert_int_equal(coordinator_txn_commit(c, slice_str("g"), 0, slice_str("a"), none),
                     KERR_ILLEGAL_GENERATION);
    assert_int_equal(coordinator_commit(c, slice_str("g"), 1, slice_str("a"), none, true, &g),
                     KERR_NONE);
    coordinator_commit_put(c, g, slice_str("t"), 0, &row, -1);
    coordinator_commit_put(c, g, slice_str("other"), 0, &row, -1);
    journal_flush(j);
    assert_int_equal(coordinator_offset_fetch(c, slice_str("g"), 0, slice_str("a")),
                     KERR_STALE_MEMBER_EPOCH);
    assert_int_equal(coordinator_offset_fetch(c, slice_str("g"), -1, none), KERR_NONE);
    assert_int_equal(coordinator_delete_offsets(c, slice_str("g"), &g), KERR_NONE);
    assert_int_equal(coordinator_delete_offset(c, g, slice_str("t"), 0),
                     KERR_GROUP_SUBSCRIBED_TO_TOPIC);
    for (int i = 0; i < 30; i++) { /* offsets of what nobody reads expire, others stay */
        mono_ms += 30000;
        coordinator_tick(c, mono_ms);
        beat("a", 1, NULL);
        journal_flush(j);
    }
    assert_int_equal(coordinator_offsets(c, slice_str("g"))->count, 1);
}

/* --- configs of one group -------------------------------------------------------------------- */

static void configure(int32_t session_ms, int32_t heartbeat_ms)
{
    const struct group_config g = {session_ms, heartbeat_ms};
    assert_int_equal(coordinator_configure_group(c, slice_str("g"), &g), KERR_NONE);
    journal_flush(j);
}

static int32_t members(void) /* an empty group is soon forgotten */
{
    return consumer() != NULL ? consumer()->member_count : 0;
}

static int32_t interval(void)
{
    return coordinator_heartbeat_interval_ms(c, slice_str("g"));
}

static void test_a_groups_configs_hold_for_it_alone_and_are_stored(void **state)
{
    beat("a", 0, NULL);
    configure(60000, 7000);
    assert_int_equal(interval(), 7000);
    assert_int_equal(coordinator_heartbeat_interval_ms(c, slice_str("other")), 5000);
    beat("a", 1, NULL);
    mono_ms += 59000;
    coordinator_tick(c, mono_ms);
    assert_int_equal(members(), 1);
    assert_int_equal(beat("a", 1, NULL), KERR_NONE);
    journal_flush(j);
    restart();
    assert_int_equal(interval(), 7000);
    mono_ms += 59000;
    coordinator_tick(c, mono_ms);
    assert_int_equal(members(), 1);
    mono_ms += 1000;
    coordinator_tick(c, mono_ms);
    assert_int_equal(members(), 0);
    configure(0, 0);
    assert_int_equal(interval(), 5000);
    assert_int_equal(beat("a", 0, NULL), KERR_NONE);
    mono_ms += 45000;
    coordinator_tick(c, mono_ms);
    assert_int_equal(members(), 0);
    journal_flush(j);
    restart();
    assert_int_equal(interval(), 5000);
    assert_int_equal(coordinator_configured_count(c), 0);
}

static void test_a_groups_configs_that_are_not_stored_do_not_hold(void **state)
{
    configure(0, 6000);
    mem.fail_commit = ERR_IO;
    configure(0, 9000);
    const struct group_config of_another = {0, 9000};
    coordinator_configure_group(c, slice_str("other"), &of_another);
    assert_int_equal(beat("a", 0, NULL), KERR_NONE); /* a group that borrows what may go */
    journal_flush(j);
    mem.fail_commit = OK;
    assert_int_equal(interval(), 6000);
    assert_int_equal(coordinator_group_config(c, slice_str("g")).heartbeat_interval_ms, 6000);
    assert_int_equal(coordinator_configured_count(c), 1);
    assert_int_equal(beat("a", 0, NULL), KERR_NONE);
}

/* Nothing is old, so nobody's pattern is asked: this one takes its time with each name. */
static void test_a_sweep_asks_no_pattern_about_young_offsets(void **state)
{
    enum { OFFSETS = 3000 };
    struct coordinated *g;
    const struct offset_row row = {.offset = 7, .metadata = slice_str("")};
    const struct slice none = slice_make(NULL, 0);
    assert_int_equal(beat("a", 0, "(a|aa)+[xy]"), KERR_NONE);
    assert_int_equal(coordinator_commit(c, slice_str("g"), 1, slice_str("a"), none, true, &g),
                     KERR_NONE);
    for (int i = 0; i < OFFSETS; i++) {
        char name[64];
        snprintf(name, sizeof name, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa%d", i);
        coordinator_commit_put(c, g, slice_str(name), 0, &row, -1);
    }
    journal_flush(j);
    clock_t began = clock();
    for (int i = 0; i < 6; i++) {
        mono_ms += 30000;
        coordinator_tick(c, mono_ms);
        assert_int_equal(beat("a", 1, NULL), KERR_NONE);
    }
    assert_in_range(clock() - began, 0, CLOCKS_PER_SEC);
    assert_int_equal(coordinator_offsets(c, slice_str("g"))->count, OFFSETS);
}

/* --- members of the classic protocol --------------------------------------------------------- */

/* A subscription of version 1 to t, owning the partitions 0 to owned - 1. */
static void put_subscription(struct buf *b, int32_t owned)
{
    buf_put_be16(b, 1);
    buf_put_be32(b, 1);
    buf_put_be16(b, 1);
    buf_put(b, "t", 1);
    buf_put_be32(b, UINT32_MAX);
    buf_put_be32(b, owned > 0);
    if (owned > 0) {
        buf_put_be16(b, 1);
        buf_put(b, "t", 1);
        buf_put_be32(b, (uint32_t)owned);
        for (int32_t p = 0; p < owned; p++) {
            buf_put_be32(b, (uint32_t)p);
        }
    }
}

struct classic {
    struct group_call call;
    enum kerr error;
    int answers;
    int32_t generation;
    char id[320];
    uint8_t assignment[256];
    size_t assignment_len;
};

static void prepare(struct group_call *call, const struct group_reply *r)
{
    struct classic *x = (struct classic *)call;
    x->error = r->error;
    if (r->member_id.len > 0) {
        snprintf(x->id, sizeof x->id, "%.*s", (int)r->member_id.len,
                 (const char *)r->member_id.data);
    }
    if (r->error == KERR_NONE) {
        x->generation = r->group->generation;
        x->assignment_len = r->member->assignment.len;
        if (x->assignment_len > 0) {
            memcpy(x->assignment, r->member->assignment.data, x->assignment_len);
        }
        assert_true(slice_eq(r->group->protocol_type, slice_str("consumer")));
    }
}

static void sent(struct group_call *call, enum kerr e)
{
    struct classic *x = (struct classic *)call;
    x->error = e != KERR_NONE ? e : x->error;
    x->answers++;
}

/* id empty: a first join, which is told its id. */
static void join(struct classic *x, int32_t owned)
{
    struct buf b;
    buf_init(&b, 1024);
    put_subscription(&b, owned);
    const struct group_protocol p = {slice_str("range"), buf_slice(&b)};
    struct group_join ev = {
        .member_id = slice_str(x->id),
        .client_id = slice_str("c"),
        .client_host = slice_str("/1"),
        .protocol_type = slice_str("consumer"),
        .protocols = &p,
        .protocol_count = 1,
        .session_timeout_ms = 10000,
        .rebalance_timeout_ms = 20000,
        .id_required = true,
    };
    x->call.prepare = prepare;
    x->call.send = sent;
    x->answers = 0;
    coordinator_join(c, slice_str("g"), &ev, &x->call);
    journal_flush(j);
    buf_fini(&b);
}

/* all: a leader that takes all four partitions itself. */
static void sync_up(struct classic *x, bool all, const char *user_data)
{
    struct buf b;
    buf_init(&b, 1024);
    buf_put_be16(&b, 1);
    buf_put_be32(&b, 1);
    buf_put_be16(&b, 1);
    buf_put(&b, "t", 1);
    buf_put_be32(&b, 4);
    for (uint32_t p = 0; p < 4; p++) {
        buf_put_be32(&b, p);
    }
    buf_put_be32(&b, (uint32_t)strlen(user_data));
    buf_put(&b, user_data, strlen(user_data));
    const struct group_assignment a = {slice_str(x->id), buf_slice(&b)};
    struct group_sync ev = {
        .generation = x->generation,
        .member_id = slice_str(x->id),
        .assignments = &a,
        .assignment_count = all,
    };
    x->answers = 0;
    coordinator_sync(c, slice_str("g"), &ev, &x->call);
    journal_flush(j);
    buf_fini(&b);
}

static void make_classic(struct classic *x, const char *user_data)
{
    join(x, 0);
    assert_int_equal(x->error, KERR_MEMBER_ID_REQUIRED);
    join(x, 0);
    assert_int_equal(x->error, KERR_NONE);
    sync_up(x, true, user_data);
    assert_int_equal(x->error, KERR_NONE);
}

static enum kerr classic_beat(struct classic *x)
{
    return coordinator_heartbeat(c, slice_str("g"), x->generation, slice_str(x->id),
                                 slice_make(NULL, 0));
}

static void test_a_classic_group_is_upgraded_in_place(void **state)
{
    static struct classic x;
    memset(&x, 0, sizeof x);
    make_classic(&x, "");
    assert_int_equal(classic_beat(&x), KERR_NONE);
    assert_int_equal(beat("a", 0, NULL), KERR_NONE);
    journal_flush(j);
    assert_null(coordinator_find(c, slice_str("g")));
    assert_int_equal(consumer()->member_count, 2);
    assert_int_equal(consumer()->classic_count, 1);
    assert_int_equal(reply.assigned->count, 0); /* the classic member has them all */
    assert_int_equal(beat("a", 2, NULL), KERR_NONE);
    restart();
    /* Cooperative: it says that it has all, is told to keep half, and says so. */
    assert_int_equal(classic_beat(&x), KERR_REBALANCE_IN_PROGRESS);
    join(&x, 4);
    assert_int_equal(x.error, KERR_NONE);
    sync_up(&x, false, "");
    assert_int_equal(x.error, KERR_NONE);
    assert_int_equal(be32_get(x.assignment + 9), 2); /* partitions of t */
    assert_int_equal(beat("a", 2, NULL), KERR_NONE);
    assert_null(reply.assigned);
    assert_int_equal(classic_beat(&x), KERR_REBALANCE_IN_PROGRESS);
    join(&x, 2);
    sync_up(&x, false, "");
    assert_int_equal(x.error, KERR_NONE);
    assert_int_equal(x.generation, 2);
    assert_int_equal(beat("a", 2, NULL), KERR_NONE);
    assert_int_equal(reply.assigned->count, 2);
    assert_int_equal(classic_beat(&x), KERR_NONE);
    assert_int_equal(cgroup_state(consumer()), CGROUP_STABLE);
}

static void test_a_group_without_consumer_members_becomes_classic_again(void **state)
{
    static struct classic x;
    memset(&x, 0, sizeof x);
    make_classic(&x, "");
    beat("a", 0, NULL);
    join(&x, 0);
    sync_up(&x, false, "");
    assert_int_equal(beat("a", -1, NULL), KERR_NONE);
    journal_flush(j);
    assert_null(consumer());
    const struct group *g = coordinator_find(c, slice_str("g"));
    assert_non_null(g);
    assert_int_equal(g->member_count, 1);
    assert_int_equal(classic_beat(&x), KERR_ILLEGAL_GENERATION); /* it was of epoch 2 */
    restart();
    assert_non_null(coordinator_find(c, slice_str("g")));
    x.id[0] = '\0';
    join(&x, 0);
    assert_int_equal(x.error, KERR_MEMBER_ID_REQUIRED);
}

static void test_the_policy_keeps_a_group_as_it_is(void **state)
{
    static struct classic x;
    memset(&x, 0, sizeof x);
    policy = CONFIG_MIGRATION_DOWNGRADE;
    restart();
    make_classic(&x, "");
    assert_int_equal(beat("a", 0, NULL), KERR_GROUP_ID_NOT_FOUND);
    assert_int_equal(classic_beat(&x), KERR_NONE);
}

static void test_an_assignors_user_data_is_not_lost(void **state)
{
    static struct classic x;
    memset(&x, 0, sizeof x);
    make_classic(&x, "mine");
    assert_int_equal(beat("a", 0, NULL), KERR_GROUP_ID_NOT_FOUND);
    assert_non_null(coordinator_find(c, slice_str("g")));
}

static void test_an_empty_group_takes_either_kind(void **state)
{
    static struct classic x;
    memset(&x, 0, sizeof x);
    beat("a", 0, NULL);
    beat("a", -1, NULL);
    journal_flush(j);
    make_classic(&x, "");
    assert_null(consumer());
    assert_int_equal(coordinator_leave(c, slice_str("g"), slice_str(x.id), slice_make(NULL, 0)),
                     KERR_NONE);
    journal_flush(j);
    assert_int_equal(beat("b", 0, NULL), KERR_NONE);
    assert_int_equal(consumer()->epoch, 1);
}

static void test_a_classic_member_that_does_not_move_is_fenced(void **state)
{
    static struct classic x;
    memset(&x, 0, sizeof x);
    make_classic(&x, "");
    beat("a", 0, NULL);
    for (int i = 0; i < 24 && consumer()->member_count == 2; i++) {
        (void)classic_beat(&x); /* told to join, it only goes on */
        assert_int_equal(beat("a", 2, NULL), KERR_NONE);
        mono_ms += 1000;
        coordinator_tick(c, mono_ms);
    }
    assert_int_equal(consumer()->member_count, 1);
    assert_int_equal(mono_ms, 1000 + 20000); /* its rebalance timeout */
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_a_group_is_stored_and_read_again),
        T(test_sessions_begin_when_what_was_read_counts),
        T(test_a_failed_commit_takes_the_group_back),
        T(test_who_is_refused_leaves_no_group),
        T(test_a_group_is_deleted_when_it_is_empty),
        T(test_a_group_that_is_being_deleted_takes_nothing),
        T(test_offsets_follow_member_epochs_and_subscriptions),
        T(test_a_groups_configs_hold_for_it_alone_and_are_stored),
        T(test_a_groups_configs_that_are_not_stored_do_not_hold),
        T(test_a_sweep_asks_no_pattern_about_young_offsets),
        T(test_a_classic_group_is_upgraded_in_place),
        T(test_a_group_without_consumer_members_becomes_classic_again),
        T(test_the_policy_keeps_a_group_as_it_is),
        T(test_an_assignors_user_data_is_not_lost),
        T(test_an_empty_group_takes_either_kind),
        T(test_a_classic_member_that_does_not_move_is_fenced),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
