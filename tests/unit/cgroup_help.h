/* One group of the consumer protocol, its clock, topics and answers, event by event. */
#ifndef CULEX_TESTS_CGROUP_HELP_H
#define CULEX_TESTS_CGROUP_HELP_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "kafka-server/broker/cgroup.h"

static struct cgroup_limits limits;
static struct cgroup *g;
static int64_t mono_ms;
static struct cgroup_topic topic_list[8];
static struct cgroup_topics topics;

/* Topics by name: "t4:4 u:2" would be two. Ids are made of the names and `salt`. */
static inline void set_topics(int count, const char *const *names, const int32_t *partitions)
{
    for (int i = 0; i < count; i++) {
        topic_list[i].name = slice_str(names[i]);
        memset(topic_list[i].id.b, 0, sizeof topic_list[i].id.b);
        memcpy(topic_list[i].id.b, names[i], strlen(names[i]));
        topic_list[i].partition_count = partitions[i];
    }
    topics.list = topic_list;
    topics.count = (size_t)count;
    topics.version++;
}

static inline int setup(void **state)
{
    limits = (struct cgroup_limits){
        .session_timeout_ms = 45000,
        .heartbeat_interval_ms = 5000,
        .size_max = 10,
        .assignors = {ASSIGNOR_UNIFORM, ASSIGNOR_RANGE},
        .assignor_count = 2,
        .upgrade = true,
        .downgrade = true,
        .classic_size_max = 10,
    };
    mono_ms = 1;
    set_topics(2, (const char *const[]){"t", "u"}, (const int32_t[]){4, 2});
    g = cgroup_new(slice_str("g"), &limits);
    return g == NULL;
}

static inline int teardown(void **state)
{
    cgroup_free(g);
    return 0;
}

static inline struct group_time now(void)
{
    return (struct group_time){mono_ms, 1000000 + mono_ms};
}

static inline void pass(int64_t ms)
{
    mono_ms += ms;
    cgroup_on_tick(g, now());
}

/* "t0 t1 u0": partitions of topics with names of one letter. */
static inline struct partition_set set_of(const char *text)
{
    struct partition_set s = {0};
    bool ok = true;
    for (const char *p = text; *p != '\0'; p += *p == ' ') {
        struct uuid id = {{(uint8_t)*p}};
        char *end;
        partition_set_append(&s, &id, (int32_t)strtol(p + 1, &end, 10), &ok);
        p = end;
    }
    partition_set_sort(&s);
    assert_true(ok);
    return s;
}

static inline const char *text_of(const struct partition_set *s)
{
    static char text[4][1024];
    static int next;
    char *out = text[next++ % 4];
    size_t n = 0;
    out[0] = '\0';
    for (int32_t i = 0; s != NULL && i < s->count; i++) {
        n += (size_t)snprintf(out + n, 1024 - n, "%s%c%d", i > 0 ? " " : "", s->list[i].topic.b[0],
                              s->list[i].partition);
    }
    return out;
}

static struct cgroup_reply reply;

static inline enum kerr send_event(const struct cgroup_heartbeat *ev)
{
    cgroup_on_heartbeat(g, ev, &topics, now(), &reply);
    assert_false(g->broken);
    return reply.error;
}

static inline struct cgroup_heartbeat beat_event(const char *id, int32_t epoch)
{
    return (struct cgroup_heartbeat){
        .member_id = slice_str(id),
        .member_epoch = epoch,
        .client_id = slice_str("client"),
        .client_host = slice_str("/127.0.0.1"),
        .rebalance_timeout_ms = -1,
        .topic_count = -1,
    };
}

static const struct partition_set nothing;

/* A first heartbeat; topic NULL: none. */
static inline struct cgroup_heartbeat join_event(const char *id, const struct slice *names,
                                                 int32_t count)
{
    struct cgroup_heartbeat ev = beat_event(id, 0);
    ev.rebalance_timeout_ms = 30000;
    ev.topics = names;
    ev.topic_count = count;
    ev.owned = &nothing;
    return ev;
}

static inline enum kerr join(const char *id, const char *topic)
{
    const struct slice name = slice_str(topic);
    const struct cgroup_heartbeat ev = join_event(id, &name, 1);
    return send_event(&ev);
}

static inline enum kerr join_static(const char *id, const char *instance)
{
    const struct slice name = slice_str("t");
    struct cgroup_heartbeat ev = join_event(id, &name, 1);
    ev.instance_id = slice_str(instance);
    return send_event(&ev);
}

static inline enum kerr join_regex(const char *id, const char *regex)
{
    struct cgroup_heartbeat ev = join_event(id, NULL, -1);
    ev.regex = slice_str(regex);
    return send_event(&ev);
}

/* owned NULL: not said. */
static inline enum kerr beat(const char *id, int32_t epoch, const char *owned)
{
    struct cgroup_heartbeat ev = beat_event(id, epoch);
    struct partition_set s = owned != NULL ? set_of(owned) : (struct partition_set){0};
    ev.owned = owned != NULL ? &s : NULL;
    enum kerr e = send_event(&ev);
    partition_set_fini(&s);
    return e;
}

static inline const char *assigned(const char *id)
{
    const struct cgroup_member *m = cgroup_find(g, slice_str(id));
    assert_non_null(m);
    return text_of(&m->assigned);
}

static inline int32_t epoch_of(const char *id)
{
    const struct cgroup_member *m = cgroup_find(g, slice_str(id));
    assert_non_null(m);
    return m->epoch;
}

/* a and b, two partitions of t each, epoch 2, stable. */
static inline void make_stable_pair(void)
{
    assert_int_equal(join("a", "t"), KERR_NONE);
    assert_int_equal(join("b", "t"), KERR_NONE);
    assert_int_equal(beat("a", 1, NULL), KERR_NONE);
    assert_int_equal(beat("a", 1, assigned("a")), KERR_NONE);
    assert_int_equal(beat("b", 2, NULL), KERR_NONE);
    assert_int_equal(cgroup_state(g), CGROUP_STABLE);
    assert_string_equal(assigned("a"), "t0 t1");
    assert_string_equal(assigned("b"), "t2 t3");
    g->dirty = false;
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif
