/* Committed offsets and groups through the coordinator: what is stored, what is taken back, what
 * expires. */
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

#define MINUTE_MS     60000
#define RETENTION_MIN 10

static struct journal *j;
static struct coordinator *c;
static int64_t mono_ms, wall_base;

static int64_t wall_ms(void)
{
    return wall_base + mono_ms;
}

static int64_t mono_us(void)
{
    return mono_ms * 1000;
}

static void no_log(void *arg, enum log_level level, const char *line)
{
}

static void start(void)
{
    const struct config_server cfg = {
        .group_min_session_timeout_ms = 1000,
        .group_max_session_timeout_ms = 3600000,
        .group_max_size = 100,
        .offsets_retention_minutes = RETENTION_MIN,
        .offsets_retention_check_interval_ms = 1000,
        .offset_metadata_max_bytes = 16,
    };
    struct errmsg m;
    j = memory_journal();
    assert_int_equal(coordinator_open(&c, j, &cfg, mono_ms, &m), OK);
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
    clock_set_source(wall_ms, mono_us);
    mono_ms = 1000;
    wall_base = 1700000000000;
    start();
    return 0;
}

static int teardown(void **state)
{
    stop();
    memory_clear();
    clock_set_source(NULL, NULL);
    return 0;
}

static void pass(int64_t ms)
{
    mono_ms += ms;
    coordinator_tick(c, mono_ms);
    journal_flush(j);
}

static struct slice none(void)
{
    return slice_make(NULL, 0);
}

/* Topics have an id in every test; a test gives some of them another one. */
static struct uuid topic_id = {{1}};

static enum kerr put_in(struct coordinated *g, struct slice topic, int32_t partition,
                        int64_t offset, const char *metadata, int64_t retention_ms)
{
    const struct offset_row row = {.offset = offset,
                                   .leader_epoch = 5,
                                   .topic_id = topic_id,
                                   .metadata = slice_str(metadata)};
    return coordinator_commit_put(c, g, topic, partition, &row, retention_ms);
}

static enum kerr put_kept(const char *group, const char *topic, int32_t partition, int64_t offset,
                          int64_t retention_ms)
{
    struct coordinated *g = NULL;
    enum kerr e = coordinator_commit(c, slice_str(group), -1, slice_str(""), none(), false, &g);
    return e != KERR_NONE
               ? e
               : put_in(g, slice_str(topic), partition, offset, "note", retention_ms);
}

static enum kerr put(const char *group, const char *topic, int32_t partition, int64_t offset)
{
    return put_kept(group, topic, partition, offset, -1);
}

static int64_t get(const char *group, const char *topic, int32_t partition)
{
    const struct offsets *o = coordinator_offsets(c, slice_str(group));
    const struct offset_entry *e = o ? offsets_find(o, slice_str(topic), partition) : NULL;
    return e != NULL ? e->row.offset : -1;
}

/* A member of a group, as one call after the other. */
struct caller {
    struct group_call call; /* first */
    int prepared, sent;
    enum kerr error;
    int32_t generation;
    char id[128], assignment[32];
    bool is_sync;
};

static void on_prepare(struct group_call *call, const struct group_reply *r)
{
    struct caller *x = (struct caller *)call;
    x->prepared++;
    x->error = r->error;
    snprintf(x->id, sizeof x->id, "%.*s", (int)r->member_id.len, (const char *)r->member_id.data);
    if (r->error == KERR_NONE) {
        x->generation = r->group->generation;
        snprintf(x->assignment, sizeof x->assignment, "%.*s", (int)r->member->assignment.len,
                 (const char *)r->member->assignment.data);
    }
}

static void on_send(struct group_call *call, enum kerr e)
{
    struct caller *x = (struct caller *)call;
    x->sent++;
    x->error = e != KERR_NONE ? e : x->error;
}

static const struct group_protocol subscribed_to_t[1] = {
    {{(const uint8_t *)"range", 5}, {(const uint8_t *)"\0\0\0\0\0\1\0\1t\0\0\0\0", 13}}};

static void join_as(struct caller *x, const char *group, const char *id, const char *instance)
{
    *x = (struct caller){.call = {.prepare = on_prepare, .send = on_send}};
    struct group_join ev = {
        .member_id = slice_str(id),
        .instance_id = instance != NULL ? slice_str(instance) : none(),
        .client_id = slice_str("client"),
        .client_host = slice_str("/127.0.0.1"),
        .protocol_type = slice_str("consumer"),
        .protocols = subscribed_to_t,
        .protocol_count = 1,
        .session_timeout_ms = 3600000,
        .rebalance_timeout_ms = 60000,
    };
    coordinator_join(c, slice_str(group), &ev, &x->call);
}

static void sync_as(struct caller *x, const char *group, const char *id, int32_t generation,
                    const char *assignment)
{
    *x = (struct caller){.call = {.prepare = on_prepare, .send = on_send}, .is_sync = true};
    const struct group_assignment list[1] = {{slice_str(id), slice_str(assignment)}};
    struct group_sync ev = {.generation = generation,
                            .member_id = slice_str(id),
                            .assignments = list,
                            .assignment_count = 1};
    coordinator_sync(c, slice_str(group), &ev, &x->call);
}

/* One stable member; its id is left in id. */
static void make_stable(const char *group, char *id)
{
    struct caller x;
    join_as(&x, group, "", NULL);
    journal_flush(j);
    assert_int_equal(x.error, KERR_NONE);
    memcpy(id, x.id, sizeof x.id);
    sync_as(&x, group, id, x.generation, "work");
    journal_flush(j);
    assert_int_equal(x.error, KERR_NONE);
}

/* --- commits --------------------------------------------------------------------------------- */

static void test_commit_is_seen_when_it_is_stored_and_outlives_a_restart(void **state)
{
    assert_int_equal(put("g", "t", 3, 42), KERR_NONE);
    assert_int_equal(get("g", "t", 3), -1);
    journal_flush(j);
    assert_int_equal(get("g", "t", 3), 42);
    restart();
    assert_int_equal(get("g", "t", 3), 42);
    const struct offset_entry *e =
        offsets_find(coordinator_offsets(c, slice_str("g")), slice_str("t"), 3);
    assert_true(slice_eq(e->row.metadata, slice_str("note")));
    assert_int_equal(e->row.leader_epoch, 5);
    assert_int_equal(e->row.commit_ms, wall_ms());
    assert_int_equal(get("g", "t", 2), -1);
    assert_int_equal(get("g", "tt", 3), -1);
    assert_int_equal(get("other", "t", 3), -1);
}

static void test_last_commit_of_a_turn_wins(void **state)
{
    put("g", "t", 0, 1);
    put("g", "t", 0, 2);
    put("g", "t", 0, 1);
    journal_flush(j);
    assert_int_equal(get("g", "t", 0), 1);
    restart();
    assert_int_equal(get("g", "t", 0), 1);
}

static void test_failed_commit_leaves_the_offset_that_is_stored(void **state)
{
    put("g", "t", 0, 1);
    journal_flush(j);
    mem.fail_commit = ERR_IO;
    put("g", "t", 0, 2);
    journal_flush(j);
    assert_int_equal(get("g", "t", 0), 1);
    mem.fail_commit = OK;
    put("g", "t", 0, 3);
    journal_flush(j);
    assert_int_equal(get("g", "t", 0), 3);
}

static void test_long_metadata_is_refused(void **state)
{
    struct coordinated *g = NULL;
    assert_int_equal(coordinator_commit(c, slice_str("g"), -1, slice_str(""), none(), false, &g),
                     KERR_NONE);
    assert_int_equal(put_in(g, slice_str("t"), 0, 1, "0123456789abcdef", -1), KERR_NONE);
    assert_int_equal(put_in(g, slice_str("t"), 0, 1, "0123456789abcdefg", -1),
                     KERR_OFFSET_METADATA_TOO_LARGE);
}

static void test_commit_of_a_generation_to_an_unknown_group_is_refused(void **state)
{
    struct coordinated *g = NULL;
    assert_int_equal(coordinator_commit(c, slice_str("g"), 1, slice_str("m"), none(), false, &g),
                     KERR_ILLEGAL_GENERATION);
    assert_int_equal(coordinator_commit(c, slice_str("g"), 1, slice_str("m"), none(), true, &g),
                     KERR_GROUP_ID_NOT_FOUND);
    assert_null(coordinator_find(c, slice_str("g")));
}

static void test_group_ids_are_bounded(void **state)
{
    char id[GROUP_ID_BYTES_MAX + 2];
    struct coordinated *g = NULL;
    memset(id, 'x', sizeof id);
    const struct slice longest = slice_make(id, GROUP_ID_BYTES_MAX);
    const struct slice longer = slice_make(id, GROUP_ID_BYTES_MAX + 1);
    assert_int_equal(coordinator_commit(c, longer, -1, slice_str(""), none(), false, &g),
                     KERR_INVALID_GROUP_ID);
    assert_int_equal(coordinator_commit(c, longest, -1, slice_str(""), none(), false, &g),
                     KERR_NONE);
    char topic[250];
    memset(topic, 't', 249);
    assert_int_equal(put_in(g, slice_make(topic, 249), 1023, 7, "", -1), KERR_NONE);
    journal_flush(j);
    restart();
    const struct offsets *o = coordinator_offsets(c, longest);
    assert_int_equal(offsets_find(o, slice_make(topic, 249), 1023)->row.offset, 7);
    assert_int_equal(coordinator_heartbeat(c, slice_str(""), 1, slice_str("m"), none()),
                     KERR_INVALID_GROUP_ID);
}

/* Old clients commit under an empty name. Such a group is deleted as a whole. */
static void test_group_without_a_name_keeps_offsets_and_is_deleted_as_a_whole(void **state)
{
    struct coordinated *g = NULL;
    assert_int_equal(put("", "t", 0, 1), KERR_NONE);
    journal_flush(j);
    restart();
    assert_int_equal(get("", "t", 0), 1);
    assert_int_equal(coordinator_delete_offsets(c, slice_str(""), &g), KERR_INVALID_GROUP_ID);
    assert_int_equal(coordinator_delete_group(c, slice_str("")), KERR_NONE);
    journal_flush(j);
    assert_int_equal(mem.count, 0);
}

/* --- groups through the journal -------------------------------------------------------------- */

static void test_answers_leave_after_their_rows_are_stored(void **state)
{
    struct caller x;
    join_as(&x, "g", "", NULL);
    assert_int_equal(x.prepared, 1);
    assert_int_equal(x.sent, 0);
    assert_int_equal(mem.count, 0);
    journal_flush(j);
    assert_int_equal(x.sent, 1);
    assert_int_equal(mem.count, 1);
}

static void test_stable_group_goes_on_after_a_restart(void **state)
{
    char id[128];
    make_stable("g", id);
    restart();
    assert_int_equal(coordinator_heartbeat(c, slice_str("g"), 1, slice_str(id), none()), KERR_NONE);
    struct coordinated *g = NULL;
    assert_int_equal(coordinator_commit(c, slice_str("g"), 1, slice_str(id), none(), true, &g),
                     KERR_NONE);
}

static void test_generation_that_could_not_be_stored_never_was(void **state)
{
    char id[128];
    struct caller first, second;
    make_stable("g", id);
    mem.fail_commit = ERR_FULL;
    join_as(&second, "g", "", NULL);
    journal_flush(j);
    assert_int_equal(second.prepared, 0); /* it waits for the first */
    join_as(&first, "g", id, NULL);
    assert_int_equal(first.prepared, 1);
    journal_flush(j);
    assert_int_equal(first.error, KERR_COORDINATOR_NOT_AVAILABLE);
    assert_int_equal(second.error, KERR_COORDINATOR_NOT_AVAILABLE);
    assert_int_equal(first.sent, 1);
    assert_int_equal(second.sent, 1);
    const struct group *g = coordinator_find(c, slice_str("g"));
    assert_int_equal(g->generation, 1);
    assert_int_equal(g->state, GROUP_STABLE);
    assert_int_equal(coordinator_heartbeat(c, slice_str("g"), 1, slice_str(id), none()), KERR_NONE);
    mem.fail_commit = OK;
    join_as(&first, "g", id, NULL);
    journal_flush(j);
    assert_int_equal(first.generation, 2);
}

static void test_parked_callers_hear_when_their_group_is_taken_back(void **state)
{
    char id[128];
    struct caller waiting;
    make_stable("g", id);
    join_as(&waiting, "g", "", NULL); /* parked: the first member has to join */
    mem.fail_commit = ERR_IO;
    assert_int_equal(coordinator_leave(c, slice_str("g"), slice_str("nobody"), none()),
                     KERR_UNKNOWN_MEMBER_ID);
    struct caller again;
    join_as(&again, "g", id, NULL);
    journal_flush(j);
    assert_int_equal(waiting.sent, 1);
    assert_int_equal(waiting.error, KERR_COORDINATOR_NOT_AVAILABLE);
}

static void test_cancelled_callers_hear_nothing(void **state)
{
    char id[128];
    struct caller parked, prepared;
    make_stable("g", id);
    join_as(&parked, "g", "", NULL);
    coordinator_cancel(c, &parked.call);
    join_as(&prepared, "g", id, NULL);
    assert_int_equal(prepared.prepared, 1);
    coordinator_cancel(c, &prepared.call);
    journal_flush(j);
    assert_int_equal(parked.sent + parked.prepared, 0);
    assert_int_equal(prepared.sent, 0);
}

static void test_stop_answers_whoever_waits(void **state)
{
    char id[128];
    struct caller waiting, late;
    make_stable("g", id);
    join_as(&waiting, "g", "", NULL);
    coordinator_stop(c);
    join_as(&late, "g", "", NULL);
    journal_flush(j);
    assert_int_equal(waiting.error, KERR_COORDINATOR_NOT_AVAILABLE);
    assert_int_equal(late.error, KERR_COORDINATOR_NOT_AVAILABLE);
}

static void test_new_group_waits_for_others_as_long_as_the_setting_says(void **state)
{
    const struct config_server cfg = {.group_initial_rebalance_delay_ms = 5,
                                      .group_min_session_timeout_ms = 1000,
                                      .group_max_session_timeout_ms = 3600000,
                                      .group_max_size = 100,
                                      .offsets_retention_minutes = RETENTION_MIN,
                                      .offsets_retention_check_interval_ms = 1000,
                                      .offset_metadata_max_bytes = 16};
    struct caller a, b;
    coordinator_reload(c, &cfg);
    join_as(&a, "g", "", NULL);
    assert_int_equal(coordinator_deadline_ms(c), mono_ms + 5);
    mono_ms += 4;
    coordinator_tick(c, mono_ms);
    join_as(&b, "g", "", NULL);
    while (mono_ms < 1010) { /* b has come meanwhile: five more */
        assert_int_equal(a.prepared + b.prepared, 0);
        mono_ms += 1;
        coordinator_tick(c, mono_ms);
    }
    journal_flush(j);
    assert_int_equal(a.sent + b.sent, 2);
    assert_int_equal(a.generation, 1);
    assert_int_equal(b.generation, 1);
}

static void test_deadline_is_that_of_the_next_timer(void **state)
{
    int64_t sweep = coordinator_deadline_ms(c);
    assert_in_range(sweep, mono_ms, mono_ms + 1000);
    struct caller x;
    join_as(&x, "g", "", NULL);
    journal_flush(j);
    mono_ms = coordinator_deadline_ms(c);
    coordinator_tick(c, mono_ms);
    assert_true(coordinator_deadline_ms(c) > mono_ms);
}

static void test_sessions_do_not_end_while_the_server_was_held_up(void **state)
{
    char alive[128], dead[128];
    make_stable("alive", alive);
    make_stable("dead", dead);
    mono_ms += 2 * 3600000; /* the process was stopped for longer than their sessions */
    coordinator_tick(c, mono_ms);
    assert_int_equal(coordinator_heartbeat(c, slice_str("alive"), 1, slice_str(alive), none()),
                     KERR_NONE);
    assert_true(coordinator_deadline_ms(c) <= mono_ms + 2000);
    pass(2000);
    assert_int_equal(coordinator_heartbeat(c, slice_str("alive"), 1, slice_str(alive), none()),
                     KERR_NONE);
    assert_int_equal(coordinator_heartbeat(c, slice_str("dead"), 1, slice_str(dead), none()),
                     KERR_UNKNOWN_MEMBER_ID);
}

/* --- deleting -------------------------------------------------------------------------------- */

static void test_deleted_group_is_gone_with_its_offsets(void **state)
{
    put("g", "t", 0, 1);
    put("h", "t", 0, 9);
    journal_flush(j);
    put("g", "t", 1, 2); /* in the same turn as its deletion */
    assert_int_equal(coordinator_delete_group(c, slice_str("g")), KERR_NONE);
    assert_int_equal(coordinator_delete_group(c, slice_str("g")), KERR_GROUP_ID_NOT_FOUND);
    struct caller x;
    join_as(&x, "g", "", NULL);
    journal_flush(j);
    assert_int_equal(x.error, KERR_COORDINATOR_NOT_AVAILABLE);
    assert_null(coordinator_find(c, slice_str("g")));
    assert_int_equal(mem.count, 1);
    restart();
    assert_int_equal(get("g", "t", 0), -1);
    assert_int_equal(get("h", "t", 0), 9);
}

static void test_failed_deletion_leaves_the_group(void **state)
{
    put("g", "t", 0, 1);
    journal_flush(j);
    mem.fail_commit = ERR_IO;
    assert_int_equal(coordinator_delete_group(c, slice_str("g")), KERR_NONE);
    journal_flush(j);
    mem.fail_commit = OK;
    assert_int_equal(get("g", "t", 0), 1);
    assert_int_equal(coordinator_find(c, slice_str("g"))->state, GROUP_EMPTY);
    assert_int_equal(put("g", "t", 0, 2), KERR_NONE);
    journal_flush(j);
    assert_int_equal(get("g", "t", 0), 2);
}

static void test_group_with_members_is_not_deleted(void **state)
{
    char id[128];
    make_stable("g", id);
    assert_int_equal(coordinator_delete_group(c, slice_str("g")), KERR_NON_EMPTY_GROUP);
    assert_int_equal(coordinator_delete_group(c, slice_str("x")), KERR_GROUP_ID_NOT_FOUND);
}

static void test_offsets_of_subscribed_topics_are_not_deleted(void **state)
{
    char id[128];
    struct coordinated *g = NULL;
    make_stable("g", id);
    assert_int_equal(coordinator_delete_offsets(c, slice_str("x"), &g), KERR_GROUP_ID_NOT_FOUND);
    assert_int_equal(coordinator_delete_offsets(c, slice_str("g"), &g), KERR_NONE);
    assert_int_equal(coordinator_delete_offset(c, g, slice_str("t"), 0),
                     KERR_GROUP_SUBSCRIBED_TO_TOPIC);
    assert_int_equal(coordinator_delete_offset(c, g, slice_str("u"), 0), KERR_NONE);
    coordinator_leave(c, slice_str("g"), slice_str(id), none());
    put("g", "t", 0, 4);
    journal_flush(j);
    assert_int_equal(coordinator_delete_offsets(c, slice_str("g"), &g), KERR_NONE);
    assert_int_equal(coordinator_delete_offset(c, g, slice_str("t"), 0), KERR_NONE);
    journal_flush(j);
    assert_int_equal(get("g", "t", 0), -1);
    restart();
    assert_int_equal(get("g", "t", 0), -1);
}

static void test_offsets_go_with_their_topic(void **state)
{
    put("g", "t", 0, 1);
    put("g", "u", 0, 2);
    put("h", "t", 5, 3);
    journal_flush(j);
    coordinator_topic_gone(c, slice_str("t"));
    journal_flush(j);
    assert_int_equal(get("g", "t", 0), -1);
    assert_int_equal(get("h", "t", 5), -1);
    assert_int_equal(get("g", "u", 0), 2);
    assert_int_equal(mem.count, 1);
}

static void test_a_commit_on_its_way_goes_with_its_topic(void **state)
{
    put("g", "t", 0, 1);
    put("g", "u", 0, 2);
    coordinator_topic_gone(c, slice_str("t"));
    coordinator_topic_gone(c, slice_str("t"));
    journal_flush(j);
    assert_int_equal(get("g", "t", 0), -1);
    assert_int_equal(get("g", "u", 0), 2);
    assert_int_equal(mem.count, 1);
    put("g", "t", 0, 3);
    journal_flush(j);
    restart();
    assert_int_equal(get("g", "t", 0), 3);
}

/* Many topics come and go beside many offsets: looked at one by one they would be six thousand
 * million, which takes half a minute. */
static void test_a_change_of_topics_does_not_look_at_all_offsets(void **state)
{
    enum { OFFSETS = 2000, CHANGES = 3000000 };
    struct uuid other = {{2}};
    char name[32];
    for (int32_t i = 0; i < OFFSETS; i++) {
        snprintf(name, sizeof name, "topic-%d", i / 10);
        put("g", name, i % 10, i);
    }
    journal_flush(j);
    clock_t began = clock();
    for (int32_t i = 0; i < CHANGES; i += 2) {
        snprintf(name, sizeof name, "other-%d", i);
        coordinator_topic_gone(c, slice_str(name));
        coordinator_topic_came(c, slice_str(name), &other);
    }
    assert_in_range(clock() - began, 0, 5 * CLOCKS_PER_SEC);
    assert_false(journal_pending(j));
}

/* --- topics made anew ------------------------------------------------------------------------ */

static void test_offsets_in_a_topic_that_was_made_anew_go_after_a_restart(void **state)
{
    struct uuid same = topic_id, other = {{2}};
    put("g", "t", 0, 1);
    put("g", "t", 1, 2);
    put("g", "u", 0, 3);
    journal_flush(j);
    restart();
    coordinator_topic_came(c, slice_str("t"), &same);
    assert_false(journal_pending(j));
    coordinator_topic_came(c, slice_str("t"), &other);
    journal_flush(j);
    assert_int_equal(get("g", "t", 0), -1);
    assert_int_equal(get("g", "t", 1), -1);
    assert_int_equal(get("g", "u", 0), 3);
    restart();
    assert_int_equal(get("g", "t", 0), -1);
    assert_int_equal(get("g", "u", 0), 3);
}

static void test_commit_on_its_way_goes_with_the_topic_that_it_was_made_in(void **state)
{
    struct uuid other = {{2}};
    put("g", "t", 0, 1);
    coordinator_topic_came(c, slice_str("t"), &other);
    topic_id = other;
    put("h", "t", 0, 2);
    topic_id = (struct uuid){{1}};
    journal_flush(j);
    assert_int_equal(get("g", "t", 0), -1);
    assert_int_equal(get("h", "t", 0), 2);
    restart();
    assert_int_equal(get("g", "t", 0), -1);
    assert_int_equal(get("h", "t", 0), 2);
}

/* A row of version 1: as version 2, without the id. */
static void test_offset_without_a_topic_id_is_read_and_kept(void **state)
{
    struct uuid other = {{2}};
    struct buf key, value;
    const struct offset_row row = {.offset = 7, .leader_epoch = 5, .commit_ms = wall_ms(),
                                   .expire_ms = -1, .metadata = slice_str("note")};
    buf_init(&key, ROW_KEY_BYTES_MAX);
    buf_init(&value, OFFSET_ROW_BYTES_MAX);
    buf_put_u8(&value, 1);
    buf_put_be64(&value, (uint64_t)row.offset);
    buf_put_be32(&value, (uint32_t)row.leader_epoch);
    buf_put_be64(&value, (uint64_t)row.commit_ms);
    buf_put_be64(&value, (uint64_t)row.expire_ms);
    buf_put(&value, row.metadata.data, row.metadata.len);
    offset_row_key(&key, slice_str("g"), slice_str("t"), 0);
    journal_put(j, buf_slice(&key), buf_slice(&value));
    journal_flush(j);
    buf_fini(&key);
    buf_fini(&value);
    restart();
    coordinator_topic_came(c, slice_str("t"), &other);
    journal_flush(j);
    assert_int_equal(get("g", "t", 0), 7);
    const struct offset_entry *e =
        offsets_find(coordinator_offsets(c, slice_str("g")), slice_str("t"), 0);
    assert_int_equal(e->row.leader_epoch, 5);
    assert_true(slice_eq(e->row.metadata, slice_str("note")));
    put("g", "t", 0, 8); /* the next commit knows the id */
    journal_flush(j);
    restart();
    coordinator_topic_came(c, slice_str("t"), &other);
    journal_flush(j);
    assert_int_equal(get("g", "t", 0), -1);
}

/* --- expiry ---------------------------------------------------------------------------------- */

static void test_offsets_of_a_simple_client_expire_after_their_commit(void **state)
{
    put("g", "t", 0, 1);
    journal_flush(j);
    pass((RETENTION_MIN - 1) * MINUTE_MS);
    put("g", "t", 1, 2);
    journal_flush(j);
    pass(MINUTE_MS);
    assert_int_equal(get("g", "t", 0), -1);
    assert_int_equal(get("g", "t", 1), 2);
    pass(RETENTION_MIN * MINUTE_MS);
    assert_null(coordinator_find(c, slice_str("g")));
    assert_int_equal(mem.count, 0);
}

static void test_offsets_of_a_group_expire_after_it_has_emptied(void **state)
{
    char id[128];
    make_stable("g", id);
    struct coordinated *g = NULL;
    coordinator_commit(c, slice_str("g"), 1, slice_str(id), none(), true, &g);
    put_in(g, slice_str("t"), 0, 1, "", -1);
    journal_flush(j);
    pass(2 * RETENTION_MIN * MINUTE_MS); /* old, but its reader is there */
    assert_int_equal(get("g", "t", 0), 1);
    coordinator_leave(c, slice_str("g"), slice_str(id), none());
    journal_flush(j);
    pass((RETENTION_MIN - 1) * MINUTE_MS);
    wall_base += mono_ms; /* a restart: another monotonic clock, the same wall */
    mono_ms = 0;
    restart();
    pass(1000);
    assert_int_equal(get("g", "t", 0), 1);
    pass(MINUTE_MS);
    assert_null(coordinator_find(c, slice_str("g")));
    assert_int_equal(mem.count, 0);
}

static void test_offsets_of_topics_that_a_stable_group_left_expire(void **state)
{
    char id[128];
    make_stable("g", id);
    struct coordinated *g = NULL;
    coordinator_commit(c, slice_str("g"), 1, slice_str(id), none(), true, &g);
    put_in(g, slice_str("t"), 0, 1, "", -1);
    put_in(g, slice_str("left"), 0, 1, "", -1);
    journal_flush(j);
    pass(RETENTION_MIN * MINUTE_MS);
    assert_int_equal(get("g", "t", 0), 1);
    assert_int_equal(get("g", "left", 0), -1);
}

static void test_commit_may_bring_its_own_retention(void **state)
{
    put_kept("g", "t", 0, 1, 2 * MINUTE_MS);
    put_kept("g", "t", 1, 2, 20 * MINUTE_MS);
    journal_flush(j);
    pass(2 * MINUTE_MS);
    assert_int_equal(get("g", "t", 0), -1);
    pass(RETENTION_MIN * MINUTE_MS);
    assert_int_equal(get("g", "t", 1), 2);
    pass(8 * MINUTE_MS);
    assert_int_equal(get("g", "t", 1), -1);
}

static void test_offsets_stay_when_a_clock_is_set_that_was_not(void **state)
{
    int64_t real = wall_base;
    wall_base = 0; /* a board without a battery has just started: it is 1970 */
    put("g", "t", 0, 1);
    journal_flush(j);
    wall_base = real;
    pass(2 * RETENTION_MIN * MINUTE_MS);
    assert_int_equal(get("g", "t", 0), 1);
}

/* --- rows ------------------------------------------------------------------------------------ */

static void test_rows_that_cannot_be_read_are_passed_over(void **state)
{
    put("g", "t", 0, 1);
    journal_flush(j);
    journal_put(j, slice_str("group/new"), slice_str("\x7f from the future"));
    journal_put(j, slice_str("offset/junk"), slice_str("\x01"));
    journal_flush(j);
    restart();
    assert_int_equal(get("g", "t", 0), 1);
    assert_int_equal(coordinator_count(c), 1);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_commit_is_seen_when_it_is_stored_and_outlives_a_restart),
        T(test_last_commit_of_a_turn_wins),
        T(test_failed_commit_leaves_the_offset_that_is_stored),
        T(test_long_metadata_is_refused),
        T(test_commit_of_a_generation_to_an_unknown_group_is_refused),
        T(test_group_ids_are_bounded),
        T(test_group_without_a_name_keeps_offsets_and_is_deleted_as_a_whole),
        T(test_answers_leave_after_their_rows_are_stored),
        T(test_stable_group_goes_on_after_a_restart),
        T(test_generation_that_could_not_be_stored_never_was),
        T(test_parked_callers_hear_when_their_group_is_taken_back),
        T(test_cancelled_callers_hear_nothing),
        T(test_stop_answers_whoever_waits),
        T(test_new_group_waits_for_others_as_long_as_the_setting_says),
        T(test_deadline_is_that_of_the_next_timer),
        T(test_sessions_do_not_end_while_the_server_was_held_up),
        T(test_deleted_group_is_gone_with_its_offsets),
        T(test_failed_deletion_leaves_the_group),
        T(test_group_with_members_is_not_deleted),
        T(test_offsets_of_subscribed_topics_are_not_deleted),
        T(test_offsets_go_with_their_topic),
        T(test_a_commit_on_its_way_goes_with_its_topic),
        T(test_a_change_of_topics_does_not_look_at_all_offsets),
        T(test_offsets_in_a_topic_that_was_made_anew_go_after_a_restart),
        T(test_commit_on_its_way_goes_with_the_topic_that_it_was_made_in),
        T(test_offset_without_a_topic_id_is_read_and_kept),
        T(test_offsets_of_a_simple_client_expire_after_their_commit),
        T(test_offsets_of_a_group_expire_after_it_has_emptied),
        T(test_offsets_of_topics_that_a_stable_group_left_expire),
        T(test_commit_may_bring_its_own_retention),
        T(test_offsets_stay_when_a_clock_is_set_that_was_not),
        T(test_rows_that_cannot_be_read_are_passed_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
