/* The requests of consumer groups in every version that is served: what a client sends is encoded,
 * decoded, handled; what it hears is encoded (so that no field is set that the version lacks) and
 * decoded again. Coordinator and journal are real, rows are in memory; net and topics are
 * replaced. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kafka-server/api/api.h"
#include "kafka-server/broker/coordinator.h"
#include "kafka-server/broker/topics.h"
#include "kafka-server/server.h"
#include "kafka_messages.h"
#include "shared/base/log.h"
#include "tests/unit/memory_rows.h"

#define BYTES_MAX (1u << 20)

static struct server server;
static struct store_topic demo = {.name = "demo", .partition_count = 4, .id = {{7, 7, 7}}};
static struct topic demo_topic = {.row = &demo};

/* The request at hand, and what became of it. */
static struct {
    struct request *rq;
    struct buf request, reply;
    struct arena arena; /* of the decoded reply */
    bool closed;
    int replies;
} now;

/* --- in place of net, topics and api.c ------------------------------------------------------- */

const struct topic *topics_find(const struct topics *t, struct slice name)
{
    return slice_eq(name, slice_str(demo.name)) ? &demo_topic : NULL;
}

const struct topic *topics_find_id(const struct topics *t, const struct uuid *id)
{
    return memcmp(id, &demo.id, sizeof *id) == 0 ? &demo_topic : NULL;
}

void request_reply(struct request *rq, const void *response)
{
    struct errmsg m = {""};
    if (rq->release_arg != NULL) {
        ++*(int *)rq->release_arg; /* of a spoiled request: how often it was answered */
    } else {
        assert_ptr_equal(rq, now.rq);
    }
    now.replies++;
    buf_reset(&now.reply);
    enum err e = codec_encode(rq->api->codec->response, rq->header.api_version, response,
                              &now.reply, NULL, &m);
    if (e != OK) {
        fail_msg("%s v%d: %s", rq->api->codec->name, rq->header.api_version, m.text);
    }
}

void request_close(struct request *rq, const char *why)
{
    if (rq->release_arg != NULL) {
        ++*(int *)rq->release_arg;
    }
    now.closed = true;
}

const char *request_advertised_host(const struct request *rq)
{
    return "host.example";
}

int request_advertised_port(const struct request *rq)
{
    return 9999;
}

const char *request_peer_host(const struct request *rq)
{
    return "10.0.0.1";
}

/* --- one request after the other
 * ------------------------------------------------------------------- */

static void no_log(void *arg, enum log_level level, const char *line)
{
}

static void start(void)
{
    struct errmsg m;
    const struct config_server cfg = {
        .node_id = 5,
        .group_min_session_timeout_ms = 1000,
        .group_max_session_timeout_ms = 60000,
        .group_max_size = 100,
        .offsets_retention_minutes = 1000,
        .offsets_retention_check_interval_ms = 600000,
        .offset_metadata_max_bytes = 4096,
        .group_consumer_session_timeout_ms = 45000,
        .group_consumer_heartbeat_interval_ms = 5000,
        .group_consumer_max_size = 100,
    };
    server.config.server = cfg;
    server.own = (struct store *)&server; /* it is not away; nobody looks into it */
    server.journal = memory_journal();
    assert_int_equal(coordinator_open(&server.coordinator, server.journal, &cfg, 0, &m), OK);
}

static void stop(void)
{
    coordinator_close(server.coordinator);
    journal_close(server.journal);
    server.coordinator = NULL;
}

/* An empty house. */
static void renew(void)
{
    stop();
    memory_clear();
    start();
}

static int setup(void **state)
{
    log_set_sink(no_log, NULL);
    buf_init(&now.request, BYTES_MAX);
    buf_init(&now.reply, BYTES_MAX);
    arena_init(&now.arena, BYTES_MAX);
    start();
    return 0;
}

static int teardown(void **state)
{
    stop();
    memory_clear();
    buf_fini(&now.request);
    buf_fini(&now.reply);
    arena_fini(&now.arena);
    return 0;
}

/* What was sent, for the test that spoils it. */
#define CORPUS_MAX 2048
static struct {
    int16_t key, version;
    api_handler *handler;
    uint8_t bytes[512];
    size_t len;
} corpus[CORPUS_MAX];
static size_t corpus_count;

static void corpus_add(int16_t key, int16_t version, api_handler *handler)
{
    if (corpus_count < CORPUS_MAX && now.request.len <= sizeof corpus[0].bytes) {
        corpus[corpus_count].key = key;
        corpus[corpus_count].version = version;
        corpus[corpus_count].handler = handler;
        memcpy(corpus[corpus_count].bytes, now.request.data, now.request.len);
        corpus[corpus_count++].len = now.request.len;
    }
}

/* Sends request and returns the decoded reply (in now.arena); NULL: none yet. The request stays. */
static const void *begin(struct request *rq, int16_t key, int16_t version, api_handler *handler,
                         const void *request)
{
    static struct api api;
    struct errmsg m;
    api = (struct api){.key = key, .codec = codec_api_find(key), .handler = handler};
    assert_non_null(api.codec);
    assert_in_range(version, api.codec->version_min, api.codec->version_max);
    *rq = (struct request){.server = &server, .api = &api};
    rq->header.api_version = version;
    rq->header.client_id = kstr_make("tester");
    arena_init(&rq->arena, BYTES_MAX);
    buf_reset(&now.request);
    if (codec_encode(api.codec->request, version, request, &now.request, NULL, &m) != OK) {
        fail_msg("%s v%d: %s", api.codec->name, version, m.text);
    }
    corpus_add(key, version, handler);
    void *body = arena_alloc(&rq->arena, codec_struct_bytes(api.codec->request));
    assert_int_equal(
        codec_decode(api.codec->request, version, buf_slice(&now.request), &rq->arena, body, &m),
        OK);
    rq->body = body;
    now.rq = rq;
    now.closed = false;
    now.replies = 0;
    handler(rq);
    journal_flush(server.journal);
    assert_false(now.closed);
    if (now.replies == 0) {
        return NULL;
    }
    assert_int_equal(now.replies, 1);
    void *out = arena_alloc(&now.arena, codec_struct_bytes(api.codec->response));
    uint8_t *copy = arena_alloc(&now.arena, now.reply.len + 1);
    memcpy(copy, now.reply.data, now.reply.len);
    assert_int_equal(codec_decode(api.codec->response, version, slice_make(copy, now.reply.len),
                                  &now.arena, out, &m),
                     OK);
    return out;
}

static const void *ask(int16_t key, int version, api_handler *handler, const void *request)
{
    struct request rq;
    const void *out = begin(&rq, key, (int16_t)version, handler, request);
    assert_non_null(out);
    arena_fini(&rq.arena);
    return out;
}

static void assert_kstr(struct kstr s, const char *text)
{
    assert_int_equal(s.len, text != NULL ? (int)strlen(text) : -1);
    assert_true(s.len <= 0 || memcmp(s.data, text, (size_t)s.len) == 0);
}

static int at_most(int version, int max)
{
    return version < max ? version : max;
}

/* --- requests
 * ---------------------------------------------------------------------------------------- */

static void fill_join(struct join_group_request *q, int version, struct kstr member,
                      const char *instance)
{
    static struct join_group_request_protocols protocols[1];
    protocols[0].name = kstr_make("range");
    protocols[0].metadata = (struct kbytes){(const uint8_t *)"\0\0\0\0\0\1\0\4demo", 12};
    codec_init(&join_group_request_message, q);
    q->group_id = kstr_make("g");
    q->session_timeout_ms = 30000;
    q->rebalance_timeout_ms = version >= 1 ? 60000 : -1;
    q->member_id = member;
    q->group_instance_id = version >= 5 ? kstr_make(instance) : q->group_instance_id;
    q->protocol_type = kstr_make("consumer");
    q->protocols = protocols;
    q->protocols_count = 1;
}

static const struct join_group_response *join(int version, struct kstr member, const char *instance)
{
    struct join_group_request q;
    fill_join(&q, version, member, instance);
    return ask(KAFKA_API_JOIN_GROUP, version, api_join_group, &q);
}

static const struct sync_group_response *sync(int version, struct kstr member, int32_t generation,
                                              bool leads)
{
    struct sync_group_request_assignments list[1] = {{member, {(const uint8_t *)"work", 4}}};
    struct sync_group_request q;
    codec_init(&sync_group_request_message, &q);
    q.group_id = kstr_make("g");
    q.generation_id = generation;
    q.member_id = member;
    if (version >= 5) {
        q.protocol_type = kstr_make("consumer");
        q.protocol_name = kstr_make("range");
    }
    q.assignments = list;
    q.assignments_count = leads ? 1 : 0;
    return ask(KAFKA_API_SYNC_GROUP, version, api_sync_group, &q);
}

/* A lone member, through every step that its version asks for. */
static struct kstr become_stable(int version)
{
    const struct join_group_response *p = join(version, kstr_make(""), NULL);
    if (version >= 4) {
        assert_int_equal(p->error_code, KERR_MEMBER_ID_REQUIRED);
        assert_int_equal(p->generation_id, -1);
        assert_true(p->member_id.len > 36);
        assert_kstr(p->protocol_name, version >= 7 ? NULL : "");
        p = join(version, p->member_id, NULL);
    }
    assert_int_equal(p->error_code, KERR_NONE);
    assert_int_equal(p->generation_id, 1);
    assert_kstr(p->protocol_name, "range");
    assert_kstr(p->protocol_type, version >= 7 ? "consumer" : NULL);
    assert_true(slice_eq(kstr_slice(p->leader), kstr_slice(p->member_id)));
    assert_true(memcmp(p->member_id.data, "tester-", 7) == 0);
    assert_int_equal(p->members_count, 1);
    assert_int_equal(p->members[0].metadata.len, 12);
    const struct sync_group_response *s = sync(at_most(version, 5), p->member_id, 1, true);
    assert_int_equal(s->error_code, KERR_NONE);
    assert_int_equal(s->assignment.len, 4);
    assert_kstr(s->protocol_name, version >= 5 ? "range" : NULL);
    return p->member_id;
}

static int heartbeat(int version, struct kstr member, int32_t generation)
{
    struct heartbeat_request q;
    codec_init(&heartbeat_request_message, &q);
    q.group_id = kstr_make("g");
    q.member_id = member;
    q.generation_id = generation;
    const struct heartbeat_response *p = ask(KAFKA_API_HEARTBEAT, version, api_heartbeat, &q);
    return p->error_code;
}

static int leave(int version, struct kstr member)
{
    struct leave_group_request_members list[1] = {{.member_id = member}};
    list[0].group_instance_id = list[0].reason = kstr_make(NULL);
    struct leave_group_request q;
    codec_init(&leave_group_request_message, &q);
    q.group_id = kstr_make("g");
    if (version < 3) {
        q.member_id = member;
    } else {
        q.members = list;
        q.members_count = 1;
    }
    const struct leave_group_response *p = ask(KAFKA_API_LEAVE_GROUP, version, api_leave_group, &q);
    if (version < 3 || p->error_code != KERR_NONE) {
        return p->error_code;
    }
    assert_int_equal(p->members_count, 1);
    return p->members[0].error_code;
}

static const struct offset_commit_response *commit(int version, struct kstr member,
                                                   int32_t generation, const char *topic,
                                                   int32_t partition, int64_t offset)
{
    struct offset_commit_request_topics_partitions parts[1];
    struct offset_commit_request_topics topics[1];
    struct offset_commit_request q;
    codec_init(&offset_commit_request_message, &q);
    codec_init(&offset_commit_request_topics_message, &topics[0]);
    codec_init(&offset_commit_request_topics_partitions_message, &parts[0]);
    q.group_id = kstr_make("g");
    q.member_id = member;
    q.generation_id_or_member_epoch = generation;
    q.topics = topics;
    q.topics_count = 1;
    if (version < 10) {
        topics[0].name = kstr_make(topic);
    } else if (strcmp(topic, "demo") == 0) {
        topics[0].topic_id = demo.id;
    }
    topics[0].partitions = parts;
    topics[0].partitions_count = 1;
    parts[0].partition_index = partition;
    parts[0].committed_offset = offset;
    parts[0].committed_leader_epoch = version >= 6 ? 3 : -1;
    parts[0].committed_metadata = kstr_make("note");
    return ask(KAFKA_API_OFFSET_COMMIT, version, api_offset_commit, &q);
}

static int commit_error(const struct offset_commit_response *p)
{
    assert_int_equal(p->topics_count, 1);
    assert_int_equal(p->topics[0].partitions_count, 1);
    return p->topics[0].partitions[0].error_code;
}

/* The offset, from whichever form the version has. partition -1: all that there is. */
static int64_t fetch(int version, const char *group, int32_t partition, int16_t *error)
{
    int32_t parts[1] = {partition};
    struct offset_fetch_request_topics old_topics[1];
    struct offset_fetch_request_groups groups[1];
    struct offset_fetch_request_groups_topics topics[1];
    struct offset_fetch_request q;
    codec_init(&offset_fetch_request_message, &q);
    codec_init(&offset_fetch_request_topics_message, &old_topics[0]);
    codec_init(&offset_fetch_request_groups_message, &groups[0]);
    codec_init(&offset_fetch_request_groups_topics_message, &topics[0]);
    int32_t count = partition >= 0 ? 1 : -1;
    if (version < 8) {
        q.group_id = kstr_make(group);
        old_topics[0].name = kstr_make("demo");
        old_topics[0].partition_indexes = parts;
        old_topics[0].partition_indexes_count = 1;
        q.topics = old_topics;
        q.topics_count = count;
    } else {
        groups[0].group_id = kstr_make(group);
        groups[0].topics = topics;
        groups[0].topics_count = count;
        topics[0].name = version < 10 ? kstr_make("demo") : topics[0].name;
        topics[0].topic_id = version >= 10 ? demo.id : topics[0].topic_id;
        topics[0].partition_indexes = parts;
        topics[0].partition_indexes_count = 1;
        q.groups = groups;
        q.groups_count = 1;
    }
    q.require_stable = version >= 7;
    const struct offset_fetch_response *p =
        ask(KAFKA_API_OFFSET_FETCH, version, api_offset_fetch, &q);
    enum kerr e = server.coordinator != NULL ? KERR_NONE : KERR_COORDINATOR_NOT_AVAILABLE;
    assert_int_equal(p->error_code, version >= 2 && version < 8 ? e : KERR_NONE);
    if (version < 8) {
        assert_int_equal(p->topics_count, 1);
        assert_kstr(p->topics[0].name, "demo");
        *error = p->topics[0].partitions[0].error_code;
        if (version >= 5 && p->topics[0].partitions[0].committed_offset >= 0) {
            assert_kstr(p->topics[0].partitions[0].metadata, "note");
        }
        return p->topics[0].partitions[0].committed_offset;
    }
    assert_int_equal(p->groups_count, 1);
    assert_kstr(p->groups[0].group_id, group);
    assert_int_equal(p->groups[0].error_code, e);
    assert_int_equal(p->groups[0].topics_count, 1);
    assert_int_equal(p->groups[0].topics[0].partitions_count, 1);
    *error = p->groups[0].topics[0].partitions[0].error_code;
    return p->groups[0].topics[0].partitions[0].committed_offset;
}

/* --- tests
 * ------------------------------------------------------------------------------------------- */

static void test_member_lives_through_every_version(void **state)
{
    for (int v = 0; v <= 9; v++) {
        struct kstr member = become_stable(v);
        assert_int_equal(heartbeat(at_most(v, 4), member, 1), KERR_NONE);
        assert_int_equal(heartbeat(at_most(v, 4), member, 2), KERR_ILLEGAL_GENERATION);
        assert_int_equal(leave(at_most(v, 5), kstr_make("nobody")), KERR_UNKNOWN_MEMBER_ID);
        assert_int_equal(leave(at_most(v, 5), member), KERR_NONE);
        assert_int_equal(heartbeat(at_most(v, 4), member, 1), KERR_UNKNOWN_MEMBER_ID);
        renew();
    }
}

static void test_static_leader_restarts_in_every_version_that_knows_it(void **state)
{
    for (int v = 5; v <= 9; v++) {
        const struct join_group_response *first = join(v, kstr_make(""), "i");
        assert_int_equal(first->error_code, KERR_NONE);
        sync(at_most(v, 5), first->member_id, 1, true);
        const struct join_group_response *again = join(v, kstr_make(""), "i");
        assert_int_equal(again->error_code, KERR_NONE);
        assert_int_equal(again->generation_id, 1);
        assert_int_equal(again->skip_assignment, v >= 9);
        assert_int_equal(again->members_count, v >= 9 ? 1 : 0);
        assert_int_equal(join(v, first->member_id, "i")->error_code, KERR_FENCED_INSTANCE_ID);
        renew();
    }
}

static void test_commit_and_fetch_in_every_version(void **state)
{
    int16_t error;
    struct kstr member = become_stable(9);
    for (int v = 2; v <= 10; v++) {
        assert_int_equal(commit_error(commit(v, member, 1, "demo", 2, 100 + v)), KERR_NONE);
        for (int f = 1; f <= 10; f++) {
            assert_int_equal(fetch(f, "g", 2, &error), 100 + v);
            assert_int_equal(error, KERR_NONE);
            if (f >= 2) {
                assert_int_equal(fetch(f, "g", -1, &error), 100 + v);
            }
            assert_int_equal(fetch(f, "g", 3, &error), -1);
            assert_int_equal(error, KERR_NONE);
            assert_int_equal(fetch(f, "nobody", 2, &error), -1);
            assert_int_equal(error, KERR_NONE);
        }
        assert_int_equal(commit_error(commit(v, member, 7, "demo", 2, 1)), KERR_ILLEGAL_GENERATION);
        assert_int_equal(commit_error(commit(v, member, 1, "demo", 4, 1)),
                         KERR_UNKNOWN_TOPIC_OR_PARTITION);
        assert_int_equal(commit_error(commit(v, member, 1, "none", 0, 1)),
                         v >= 10 ? KERR_UNKNOWN_TOPIC_ID : KERR_UNKNOWN_TOPIC_OR_PARTITION);
    }
}

static void test_commit_to_a_group_that_is_not_there(void **state)
{
    for (int v = 2; v <= 10; v++) {
        assert_int_equal(commit_error(commit(v, kstr_make("m"), 3, "demo", 0, 1)),
                         v >= 9 ? KERR_GROUP_ID_NOT_FOUND : KERR_ILLEGAL_GENERATION);
    }
    assert_int_equal(coordinator_count(server.coordinator), 0);
    assert_int_equal(commit_error(commit(5, kstr_make(""), -1, "demo", 0, 9)), KERR_NONE);
    int16_t error;
    assert_int_equal(fetch(9, "g", 0, &error), 9);
}

static void test_commit_that_is_not_stored_is_said_so(void **state)
{
    int16_t error;
    commit(5, kstr_make(""), -1, "demo", 0, 9);
    mem.fail_commit = ERR_FULL;
    assert_int_equal(commit_error(commit(5, kstr_make(""), -1, "demo", 0, 10)),
                     KERR_COORDINATOR_NOT_AVAILABLE);
    assert_int_equal(commit_error(commit(5, kstr_make(""), -1, "demo", 9, 10)),
                     KERR_UNKNOWN_TOPIC_OR_PARTITION);
    mem.fail_commit = OK;
    assert_int_equal(fetch(9, "g", 0, &error), 9);
}

static void test_describe_groups_in_every_version(void **state)
{
    struct kstr member = become_stable(9), names[2] = {kstr_make("g"), kstr_make("nobody")};
    for (int v = 0; v <= 6; v++) {
        struct describe_groups_request q;
        codec_init(&describe_groups_request_message, &q);
        q.groups = names;
        q.groups_count = 2;
        q.include_authorized_operations = v >= 3;
        const struct describe_groups_response *p =
            ask(KAFKA_API_DESCRIBE_GROUPS, v, api_describe_groups, &q);
        assert_int_equal(p->groups_count, 2);
        const struct describe_groups_response_groups *g = &p->groups[0];
        assert_int_equal(g->error_code, KERR_NONE);
        assert_kstr(g->group_state, "Stable");
        assert_kstr(g->protocol_type, "consumer");
        assert_kstr(g->protocol_data, "range");
        assert_int_equal(g->members_count, 1);
        assert_true(slice_eq(kstr_slice(g->members[0].member_id), kstr_slice(member)));
        assert_kstr(g->members[0].client_id, "tester");
        assert_kstr(g->members[0].client_host, "/10.0.0.1");
        assert_int_equal(g->members[0].member_metadata.len, 12);
        assert_int_equal(g->members[0].member_assignment.len, 4);
        assert_true(v < 3 || g->authorized_operations > 0);
        assert_kstr(p->groups[1].group_state, "Dead");
        assert_int_equal(p->groups[1].error_code, v >= 6 ? KERR_GROUP_ID_NOT_FOUND : KERR_NONE);
    }
}

static const struct list_groups_response *list_all(int version)
{
    struct list_groups_request q;
    codec_init(&list_groups_request_message, &q);
    return ask(KAFKA_API_LIST_GROUPS, version, api_list_groups, &q);
}

static int32_t list(int version, const char *state_filter, const char *type_filter)
{
    struct kstr state = kstr_make(state_filter), type = kstr_make(type_filter);
    struct list_groups_request q;
    codec_init(&list_groups_request_message, &q);
    if (state_filter != NULL) {
        q.states_filter = &state;
        q.states_filter_count = 1;
    }
    if (type_filter != NULL) {
        q.types_filter = &type;
        q.types_filter_count = 1;
    }
    const struct list_groups_response *p = ask(KAFKA_API_LIST_GROUPS, version, api_list_groups, &q);
    if (p->groups_count > 0) {
        assert_kstr(p->groups[0].group_id, "g");
        assert_kstr(p->groups[0].protocol_type, "consumer");
        assert_kstr(p->groups[0].group_state, version >= 4 ? "Stable" : "");
        assert_kstr(p->groups[0].group_type, version >= 5 ? "classic" : "");
    }
    return p->groups_count;
}

static void test_list_groups_in_every_version_and_by_filter(void **state)
{
    assert_int_equal(list(5, NULL, NULL), 0);
    become_stable(9);
    for (int v = 0; v <= 5; v++) {
        assert_int_equal(list(v, NULL, NULL), 1);
    }
    assert_int_equal(list(4, "stable", NULL), 1);
    assert_int_equal(list(4, "Empty", NULL), 0);
    assert_int_equal(list(5, NULL, "Classic"), 1);
    assert_int_equal(list(5, NULL, "consumer"), 0);
}

static int delete_group(int version, const char *name)
{
    struct kstr names[1] = {kstr_make(name)};
    struct delete_groups_request q;
    codec_init(&delete_groups_request_message, &q);
    q.groups_names = names;
    q.groups_names_count = 1;
    const struct delete_groups_response *p =
        ask(KAFKA_API_DELETE_GROUPS, version, api_delete_groups, &q);
    assert_int_equal(p->results_count, 1);
    assert_kstr(p->results[0].group_id, name);
    return p->results[0].error_code;
}

static void test_delete_groups_in_every_version(void **state)
{
    for (int v = 0; v <= 2; v++) {
        struct kstr member = become_stable(9);
        assert_int_equal(delete_group(v, "nobody"), KERR_GROUP_ID_NOT_FOUND);
        assert_int_equal(delete_group(v, "g"), KERR_NON_EMPTY_GROUP);
        leave(5, member);
        mem.fail_commit = ERR_IO;
        assert_int_equal(delete_group(v, "g"), KERR_COORDINATOR_NOT_AVAILABLE);
        mem.fail_commit = OK;
        assert_int_equal(delete_group(v, "g"), KERR_NONE);
        assert_int_equal(delete_group(v, "g"), KERR_GROUP_ID_NOT_FOUND);
    }
}

static void test_offset_delete(void **state)
{
    struct offset_delete_request_topics_partitions parts[2] = {{0}, {9}};
    struct offset_delete_request_topics topics[1] = {{kstr_make("demo"), parts, 2}};
    struct offset_delete_request q;
    codec_init(&offset_delete_request_message, &q);
    q.group_id = kstr_make("g");
    q.topics = topics;
    q.topics_count = 1;
    const struct offset_delete_response *p = ask(KAFKA_API_OFFSET_DELETE, 0, api_offset_delete, &q);
    assert_int_equal(p->error_code, KERR_GROUP_ID_NOT_FOUND);
    struct kstr member = become_stable(9);
    commit(9, member, 1, "demo", 0, 5);
    p = ask(KAFKA_API_OFFSET_DELETE, 0, api_offset_delete, &q);
    assert_int_equal(p->error_code, KERR_NONE);
    assert_int_equal(p->topics[0].partitions[0].error_code, KERR_GROUP_SUBSCRIBED_TO_TOPIC);
    leave(5, member);
    p = ask(KAFKA_API_OFFSET_DELETE, 0, api_offset_delete, &q);
    assert_int_equal(p->topics[0].partitions[0].error_code, KERR_NONE);
    assert_int_equal(p->topics[0].partitions[1].error_code, KERR_UNKNOWN_TOPIC_OR_PARTITION);
    int16_t error;
    assert_int_equal(fetch(9, "g", 0, &error), -1);
}

static const struct find_coordinator_response *find_coordinator(int version, int8_t type)
{
    static struct kstr keys[2];
    keys[0] = kstr_make("a");
    keys[1] = kstr_make("b");
    struct find_coordinator_request q;
    codec_init(&find_coordinator_request_message, &q);
    q.key_type = type;
    if (version < 4) {
        q.key = keys[0];
    } else {
        q.coordinator_keys = keys;
        q.coordinator_keys_count = 2;
    }
    return ask(KAFKA_API_FIND_COORDINATOR, version, api_find_coordinator, &q);
}

static void test_find_coordinator_in_every_version(void **state)
{
    for (int v = 0; v <= 6; v++) {
        const struct find_coordinator_response *p = find_coordinator(v, 0);
        assert_int_equal(p->error_code, KERR_NONE);
        if (v < 4) {
            assert_int_equal(p->node_id, 5);
            assert_kstr(p->host, "host.example");
            assert_int_equal(p->port, 9999);
        } else {
            assert_int_equal(p->coordinators_count, 2);
            assert_kstr(p->coordinators[1].key, "b");
            assert_int_equal(p->coordinators[1].port, 9999);
        }
        if (v >= 1) {
            p = find_coordinator(v, 1); /* of transactions: the same */
            assert_int_equal(v < 4 ? p->port : p->coordinators[0].port, 9999);
            p = find_coordinator(v, 9);
            assert_int_equal(v < 4 ? p->error_code : p->coordinators[0].error_code,
                             KERR_INVALID_REQUEST);
        }
    }
}

static int describe_error(int version)
{
    struct kstr name = kstr_make("g");
    struct describe_groups_request q;
    codec_init(&describe_groups_request_message, &q);
    q.groups = &name;
    q.groups_count = 1;
    const struct describe_groups_response *p =
        ask(KAFKA_API_DESCRIBE_GROUPS, version, api_describe_groups, &q);
    assert_kstr(p->groups[0].group_id, "g");
    return p->groups[0].error_code;
}

static int offset_delete_error(void)
{
    struct offset_delete_request q;
    codec_init(&offset_delete_request_message, &q);
    q.group_id = kstr_make("g");
    const struct offset_delete_response *p = ask(KAFKA_API_OFFSET_DELETE, 0, api_offset_delete, &q);
    return p->error_code;
}

/* The own store is not open yet: each answer has its place for the error that clients retry. */
static void test_without_a_coordinator_every_request_is_told_to_try_again(void **state)
{
    const enum kerr wanted = KERR_COORDINATOR_NOT_AVAILABLE;
    struct coordinator *was = server.coordinator;
    struct kstr m = kstr_make("m");
    int16_t error;
    server.coordinator = NULL;
    for (int v = 0; v <= 10; v++) {
        const struct find_coordinator_response *p = find_coordinator(at_most(v, 6), 0);
        assert_int_equal(v < 4 ? p->error_code : p->coordinators[0].error_code, wanted);
        assert_int_equal(join(at_most(v, 9), m, NULL)->error_code, wanted);
        assert_int_equal(join(at_most(v, 9), kstr_make(""), NULL)->error_code, wanted);
        assert_int_equal(sync(at_most(v, 5), m, 1, true)->error_code, wanted);
        assert_int_equal(heartbeat(at_most(v, 4), m, 1), wanted);
        assert_int_equal(leave(at_most(v, 5), m), wanted);
        assert_int_equal(describe_error(at_most(v, 6)), wanted);
        assert_int_equal(list_all(at_most(v, 5))->error_code, wanted);
        assert_int_equal(delete_group(at_most(v, 2), "g"), wanted);
        if (v >= 2) {
            assert_int_equal(commit_error(commit(v, m, 1, "demo", 0, 1)), wanted);
            assert_int_equal(commit_error(commit(v, m, 1, "none", 0, 1)), wanted);
        }
        if (v >= 1) {
            assert_int_equal(fetch(v, "g", 0, &error), -1);
            assert_int_equal(error, wanted);
        }
    }
    assert_int_equal(offset_delete_error(), wanted);
    server.coordinator = was;
}

static void test_parked_join_whose_connection_goes_away_is_forgotten(void **state)
{
    struct kstr member = become_stable(9);
    struct join_group_request q;
    struct request rq;
    fill_join(&q, 3, kstr_make(""), NULL);
    assert_null(begin(&rq, KAFKA_API_JOIN_GROUP, 3, api_join_group, &q));
    assert_non_null(rq.cancel);
    rq.cancel(&rq);
    arena_fini(&rq.arena); /* whoever touches it now is caught by the sanitizer */
    const struct join_group_response *p = join(9, member, NULL);
    assert_int_equal(p->error_code, KERR_NONE);
    assert_int_equal(p->generation_id, 2);
    assert_int_equal(p->members_count, 1);
}

/* --- the consumer protocol ------------------------------------------------------------------- */

static void test_consumer_groups_in_each_version(void **state)
{
    const struct cgroup_topic topic = {slice_str(demo.name), demo.id, demo.partition_count};
    struct kstr name = kstr_make("demo"), group = kstr_make("g");
    for (int version = 0; version <= 1; version++) {
        struct consumer_group_heartbeat_request q;
        renew();
        coordinator_set_topics(server.coordinator, &topic, 1);
        codec_init(&consumer_group_heartbeat_request_message, &q);
        q.group_id = group;
        q.member_id = kstr_make(version == 0 ? "" : "m"); /* of version 0: it is given one */
        q.rebalance_timeout_ms = 30000;
        q.subscribed_topic_names = &name;
        q.subscribed_topic_names_count = 1;
        q.topic_partitions_count = 0;
        const struct consumer_group_heartbeat_response *p =
            ask(KAFKA_API_CONSUMER_GROUP_HEARTBEAT, version, api_consumer_group_heartbeat, &q);
        assert_int_equal(p->error_code, KERR_NONE);
        assert_int_equal(p->member_epoch, 1);
        assert_int_equal(p->heartbeat_interval_ms, 5000);
        assert_int_equal(p->member_id.len, version == 0 ? 22 : 1);
        assert_int_equal(p->assignment->topic_partitions[0].partitions_count, 4);
        struct consumer_group_describe_request d = {.group_ids = &group, .group_ids_count = 1};
        const struct consumer_group_describe_response *r =
            ask(KAFKA_API_CONSUMER_GROUP_DESCRIBE, version, api_consumer_group_describe, &d);
        assert_kstr(r->groups[0].group_state, "Stable");
        assert_kstr(r->groups[0].members[0].subscribed_topic_names[0], "demo");
        assert_kstr(r->groups[0].members[0].assignment.topic_partitions[0].topic_name, "demo");
        assert_int_equal(r->groups[0].members[0].member_type, version >= 1 ? 1 : -1);
    }
}

/* --- spoiled requests ------------------------------------------------------------------------ */

#define SPOILED       40000
#define IN_FLIGHT_MAX 32

struct flight {
    struct request rq;
    struct api api;
    int replies;
};

static uint64_t roll(void)
{
    static uint64_t state = 1;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return state >> 33;
}

static void flight_end(struct flight *f)
{
    if (f->replies == 0) {
        assert_non_null(f->rq.cancel); /* it is parked: its connection goes away now */
        f->rq.cancel(&f->rq);
        journal_flush(server.journal);
    }
    assert_true(f->replies <= 1);
    arena_fini(&f->rq.arena);
    free(f);
}

/* NULL: what came out of it is no request. */
static struct flight *flight_begin(void)
{
    size_t i = roll() % corpus_count;
    struct flight *f = calloc(1, sizeof *f);
    f->api.codec = codec_api_find(corpus[i].key);
    f->rq = (struct request){.server = &server, .api = &f->api, .release_arg = &f->replies};
    f->rq.header.api_version = corpus[i].version;
    f->rq.header.client_id = kstr_make("tester");
    arena_init(&f->rq.arena, BYTES_MAX);
    uint8_t *bytes = arena_alloc(&f->rq.arena, corpus[i].len + 1);
    memcpy(bytes, corpus[i].bytes, corpus[i].len);
    for (uint64_t n = roll() % 4; n > 0 && corpus[i].len > 0; n--) {
        bytes[roll() % corpus[i].len] ^= (uint8_t)(1u << roll() % 8);
    }
    struct errmsg m;
    void *body = arena_alloc(&f->rq.arena, codec_struct_bytes(f->api.codec->request));
    if (codec_decode(f->api.codec->request, corpus[i].version, slice_make(bytes, corpus[i].len),
                     &f->rq.arena, body, &m) != OK) {
        arena_fini(&f->rq.arena);
        free(f);
        return NULL;
    }
    f->rq.body = body;
    corpus[i].handler(&f->rq);
    return f;
}

static void test_spoiled_requests_are_answered_once_or_parked(void **state)
{
    corpus_count = 0;
    void (*const sources[])(void **) = {
        test_member_lives_through_every_version,
        test_commit_and_fetch_in_every_version,
        test_describe_groups_in_every_version,
        test_find_coordinator_in_every_version,
        test_offset_delete,
    };
    for (size_t i = 0; i < sizeof sources / sizeof sources[0]; i++) {
        sources[i](state);
        renew();
    }
    assert_true(corpus_count > 100);
    struct flight *flights[IN_FLIGHT_MAX] = {NULL};
    int handled = 0;
    for (int n = 0; n < SPOILED; n++) {
        struct flight **at = &flights[roll() % IN_FLIGHT_MAX];
        if (*at != NULL) {
            flight_end(*at);
        }
        *at = flight_begin();
        handled += *at != NULL;
        mem.fail_commit = roll() % 20 == 0 ? ERR_IO : OK;
        if (roll() % 3 == 0) {
            journal_flush(server.journal);
        }
    }
    mem.fail_commit = OK;
    for (int i = 0; i < IN_FLIGHT_MAX; i++) {
        if (flights[i] != NULL) {
            flight_end(flights[i]);
        }
    }
    assert_true(handled > SPOILED / 10);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_member_lives_through_every_version),
        T(test_static_leader_restarts_in_every_version_that_knows_it),
        T(test_commit_and_fetch_in_every_version),
        T(test_commit_to_a_group_that_is_not_there),
        T(test_commit_that_is_not_stored_is_said_so),
        T(test_describe_groups_in_every_version),
        T(test_list_groups_in_every_version_and_by_filter),
        T(test_delete_groups_in_every_version),
        T(test_offset_delete),
        T(test_find_coordinator_in_every_version),
        T(test_without_a_coordinator_every_request_is_told_to_try_again),
        T(test_parked_join_whose_connection_goes_away_is_forgotten),
        T(test_consumer_groups_in_each_version),
        T(test_spoiled_requests_are_answered_once_or_parked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
