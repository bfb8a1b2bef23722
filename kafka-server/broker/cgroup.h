/* One consumer group of the consumer protocol (KIP-848): the server itself says who reads what, and
 * leads its members there by their heartbeats.
 *
 * A pure state machine: (state, event, now) → (state, reply). It knows no socket, frame, store or
 * clock: time, fresh member ids and the topics that there are come as parameters. Nothing waits
 * here, so there are no tokens: each event is answered at once. What must survive a crash is
 * cgroup_encode's row; whoever drives the machine stores it when `dirty` is set, and lets the reply
 * of that event go only after that. When `broken` is set an event could not be carried out for want
 * of memory: the state is then to be thrown away for what the row says.
 *
 *      cgroup.c          members and what they hold           no rule of the protocol
 *      cgroup_core.c     heartbeats, epochs, fencing          every rule
 *      cgroup_target.c   subscriptions and topics → targets
 *      cgroup_classic.c  members that speak the classic protocol; a classic group becomes one of
 *                        these, and back
 *      cgroup_row.c      rows
 *
 * Not thread-safe. Slices in events are borrowed for the call; slices in a struct cgroup are its
 * own. */
#ifndef CULEX_BROKER_CGROUP_H
#define CULEX_BROKER_CGROUP_H

#include <uthash.h>

#include "kafka-server/broker/assignor.h"
#include "kafka-server/broker/group.h"
#include "kafka-server/broker/kerr.h"
#include "kafka-server/broker/partition_set.h"
#include "shared/base/buf.h"

#define CGROUP_TOPICS_MAX     10000     /* names that one member may subscribe to */
#define CGROUP_PARTITIONS_MAX (1 << 20) /* that one group may read, or one member say that it has */

/* Member epochs of requests that are none. */
#define CGROUP_JOIN_EPOCH         0
#define CGROUP_LEAVE_EPOCH        (-1)
#define CGROUP_LEAVE_STATIC_EPOCH (-2) /* comes back soon: its partitions wait for it */

enum cgroup_state {
    CGROUP_EMPTY,
    CGROUP_ASSIGNING,   /* the target is older than the group */
    CGROUP_RECONCILING, /* somebody does not have his target yet */
    CGROUP_STABLE,
};
#define CGROUP_STATES 4
/* As Kafka writes it: "Reconciling". */
const char *cgroup_state_name(enum cgroup_state s);

enum cgroup_member_state {
    CGROUP_MEMBER_STABLE,
    CGROUP_MEMBER_UNREVOKED,  /* must say that it has given partitions up */
    CGROUP_MEMBER_UNRELEASED, /* waits for partitions that others have not given up */
};
#define CGROUP_MEMBER_STATES 3

struct cgroup_limits {
    int32_t session_timeout_ms, heartbeat_interval_ms;
    int32_t size_max;                        /* members */
    enum assignor_kind assignors[ASSIGNORS]; /* allowed ones, the default first */
    int32_t assignor_count;
    bool upgrade, downgrade;  /* group.consumer.migration.policy */
    int32_t classic_size_max; /* a larger group does not become a classic one */
};

/* A topic that there is, and all of them in the order of their names. */
struct cgroup_topic {
    struct slice name;
    struct uuid id;
    int32_t partition_count;
};
struct cgroup_topics {
    const struct cgroup_topic *list;
    size_t count;
    uint64_t version; /* another one when anything has changed; never 0 */
};
/* NULL: there is none. */
const struct cgroup_topic *cgroup_topics_find(const struct cgroup_topics *t, struct slice name);
const struct cgroup_topic *cgroup_topics_find_id(const struct cgroup_topics *t,
                                                 const struct uuid *id);

struct cgroup_names { /* one block of memory; ascending, each once */
    int32_t count;
    struct slice list[];
};

struct cgroup_member {
    struct slice id;
    struct slice instance_id, rack_id; /* data NULL: none */
    struct slice client_id, client_host;
    struct cgroup_names *topics; /* NULL: none */
    struct slice regex;          /* data NULL or empty: none */
    struct slice assignor;       /* data NULL: any */
    int32_t rebalance_timeout_ms;
    int32_t epoch, previous_epoch;
    enum cgroup_member_state state;
    struct partition_set assigned; /* what it may read */
    struct partition_set revoking; /* what it must give up, and may still have */
    struct partition_set target;   /* what it is to have in the end */
    /* A member that speaks the classic protocol. */
    struct group_protocols *protocols; /* NULL: it speaks the consumer protocol */
    int32_t session_timeout_ms;
    /* mono; INT64_MAX: does not run. */
    int64_t session_deadline_ms;
    int64_t rebalance_deadline_ms; /* to give up what it must; classic: to join, to sync */
    size_t bytes;                  /* what g->bytes counts of it */
    UT_hash_handle hh;             /* by id, in the order of joining */
    UT_hash_handle hh_instance;
};

struct cgroup {
    struct slice id;
    const struct cgroup_limits *limits;
    int32_t epoch, target_epoch;
    uint64_t topics_hash; /* of the topics that are read, as they were when the epoch was made */
    uint64_t topics_seen; /* version of the topics that were looked at; not in the row */
    struct cgroup_member *members, *instances;
    int32_t member_count, classic_count;
    size_t bytes;
    int64_t wake_ms; /* nothing is due before this (mono); INT64_MAX: nothing at all */
    bool dirty;      /* the row differs: store it, then clear this */
    bool broken;     /* without memory in the middle of an event */
};

/* --- events ---------------------------------------------------------------------------------- */

struct cgroup_heartbeat {
    struct slice member_id;
    int32_t member_epoch;
    struct slice instance_id, rack_id; /* data NULL: not said */
    struct slice client_id, client_host;
    int32_t rebalance_timeout_ms; /* -1: not said */
    const struct slice *topics;
    int32_t topic_count;               /* -1: not said */
    struct slice regex, assignor;      /* data NULL: not said */
    const struct partition_set *owned; /* NULL: not said */
};

struct cgroup_reply {
    enum kerr error;
    const char *why; /* with an error: a sentence */
    struct slice member_id;
    int32_t member_epoch;
    /* NULL: as before. The group's, until its next event. */
    const struct partition_set *assigned;
};

/* NULL: without memory. *limits must outlive the group. */
struct cgroup *cgroup_new(struct slice id, const struct cgroup_limits *limits);
void cgroup_free(struct cgroup *g);

/* What the request alone shows to be wrong: NULL, or a sentence and *e. v1 clients make their own
 * ids. */
const char *cgroup_check_heartbeat(const struct cgroup_limits *limits,
                                   const struct cgroup_heartbeat *ev, bool id_required,
                                   enum kerr *e);
/* Joins, stays, leaves. The caller has checked it. */
void cgroup_on_heartbeat(struct cgroup *g, const struct cgroup_heartbeat *ev,
                         const struct cgroup_topics *topics, struct group_time now,
                         struct cgroup_reply *out);
/* May this commit be stored? consumer_version: the request's version is one for members of the
 * consumer protocol. */
enum kerr cgroup_on_commit(const struct cgroup *g, int32_t epoch, struct slice member_id,
                           bool consumer_version);
/* May offsets be read so? member_id.data NULL and epoch -1: by one who is no member. */
enum kerr cgroup_on_offset_fetch(const struct cgroup *g, int32_t epoch, struct slice member_id);
/* Timeouts that are due. */
void cgroup_on_tick(struct cgroup *g, struct group_time now);
/* The group was read from its row, or made of a classic one: timeouts begin anew. */
void cgroup_on_load(struct cgroup *g, struct group_time now);

/* --- what others ask ------------------------------------------------------------------------- */

enum cgroup_state cgroup_state(const struct cgroup *g);
/* The assignor that most members ask for. */
enum assignor_kind cgroup_assignor(const struct cgroup *g);
struct cgroup_member *cgroup_find(const struct cgroup *g, struct slice member_id);
struct cgroup_member *cgroup_find_instance(const struct cgroup *g, struct slice instance_id);
/* Does any member read this topic, by its name or by a pattern? */
bool cgroup_subscribes(const struct cgroup *g, struct slice topic);

/* --- rows ------------------------------------------------------------------------------------ */

void cgroup_encode(const struct cgroup *g, struct buf *out);
bool cgroup_row_is(struct slice row);
/* NULL: without memory, or not a row of ours (*corrupt). Call cgroup_on_load next. */
struct cgroup *cgroup_decode(struct slice id, struct slice row, const struct cgroup_limits *limits,
                             bool *corrupt);

/* --- members of the classic protocol (cgroup_classic.c) -------------------------------------- */

/* Requests of the classic protocol to a group of this kind. ev->token is not looked at: all are
 * answered at once. On KERR_NONE *member is who asked; on MEMBER_ID_REQUIRED ev->fresh_id is what
 * it shall be called. */
enum kerr cgroup_on_join(struct cgroup *g, const struct group_join *ev,
                         const struct cgroup_topics *topics, struct group_time now,
                         const struct cgroup_member **member);
enum kerr cgroup_on_sync(struct cgroup *g, const struct group_sync *ev, struct group_time now,
                         const struct cgroup_member **member);
enum kerr cgroup_on_classic_heartbeat(struct cgroup *g, int32_t generation, struct slice member_id,
                                      struct slice instance_id, struct group_time now);
enum kerr cgroup_on_leave(struct cgroup *g, struct slice member_id, struct slice instance_id);
/* A ConsumerProtocolAssignment of what the member may read, in its version, into *out. */
void cgroup_classic_assignment(const struct cgroup_member *m, const struct partition_set *set,
                               const struct cgroup_topics *topics, struct buf *out);

/* The group that a classic one becomes when a member of the consumer protocol joins it. NULL: it
 * cannot (*why), or without memory (*why NULL). The classic group is as it was; those who are
 * parked there are the caller's business. */
struct cgroup *cgroup_from_classic(const struct group *from, const struct cgroup_limits *limits,
                                   const struct cgroup_topics *topics, const char **why);
/* Are all who are left of the classic protocol, so that the group shall become one? */
bool cgroup_is_classic(const struct cgroup *g);
/* That classic group, stable; NULL: without memory. */
struct group *cgroup_to_classic(const struct cgroup *g, const struct group_limits *limits,
                                const struct cgroup_topics *topics);

/* --- inside the module ----------------------------------------------------------------------- */

/* NULL: without memory. In the group, with nothing. */
struct cgroup_member *cgroup_member_add(struct cgroup *g, struct slice id,
                                        struct slice instance_id);
void cgroup_member_remove(struct cgroup *g, struct cgroup_member *m);
/* Another id for the same member. False: without memory. */
bool cgroup_member_rename(struct cgroup *g, struct cgroup_member *m, struct slice id);
/* Takes p, which may be NULL: it speaks the consumer protocol. */
void cgroup_member_set_protocols(struct cgroup *g, struct cgroup_member *m,
                                 struct group_protocols *p);
/* Recounts m's part of g->bytes. */
void cgroup_member_weigh(struct cgroup *g, struct cgroup_member *m);
/* A copy of s in its place, where it differs; *changed is set then. data NULL: left as it is. */
void cgroup_slice_set(struct cgroup *g, struct slice *to, struct slice s, bool *changed);
/* Sorted, each once. NULL: without memory. */
struct cgroup_names *cgroup_names_new(const struct slice *list, int32_t count);
bool cgroup_names_equal(const struct cgroup_names *a, const struct cgroup_names *b);
bool cgroup_names_has(const struct cgroup_names *n, struct slice name);

/* Has m all it shall have? */
bool cgroup_member_reconciled(const struct cgroup *g, const struct cgroup_member *m);
/* Does somebody else have, or may still have, this partition? */
bool cgroup_owned_by_other(const struct cgroup *g, const struct cgroup_member *m,
                           const struct topic_partition *p);
/* Makes the epoch and the target new where subscriptions (bump) or topics have changed. */
void cgroup_refresh(struct cgroup *g, bool bump, const struct cgroup_topics *topics);
/* Leads m towards its target. owned: what it says that it has; NULL: not said. */
void cgroup_reconcile(struct cgroup *g, struct cgroup_member *m, const struct partition_set *owned,
                      struct group_time now);
void cgroup_fence(struct cgroup *g, struct cgroup_member *m);
/* Notes that something is due then. */
void cgroup_due(struct cgroup *g, int64_t at_ms);

/* cgroup_target.c: a number for the topics that are read, as they are now. */
uint64_t cgroup_topics_hash(struct cgroup *g, const struct cgroup_topics *topics);
/* Who shall have what, by the assignor of the group. */
void cgroup_assign(struct cgroup *g, const struct cgroup_topics *topics);

#endif
