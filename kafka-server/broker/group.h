/* One consumer group of the classic protocol (KIP-62, 345, 394, 800): who is in it and where it
 * stands.
 *
 * A pure state machine: (state, event, now) → (state, replies). It knows no socket, frame, store or
 * clock: time and fresh member ids come as parameters, and a request that has to wait is a token
 * that nobody here looks into. What must survive a crash is group_encode's row (group_row.c);
 * whoever drives the machine stores it when `dirty` is set, and lets the replies of that event go
 * only after that.
 *
 *      group.c       members, protocols, votes          no rule of the protocol
 *      group_core.c  the machine                        every rule
 *      group_row.c   rows                               the only place that knows their bytes
 *
 * Not thread-safe. Slices in events are borrowed for the call; slices in a struct group are its
 * own. */
#ifndef CULEX_BROKER_GROUP_H
#define CULEX_BROKER_GROUP_H

#include <uthash.h>

#include "kafka-server/broker/kerr.h"
#include "shared/base/buf.h"
#include "shared/base/bytes.h"

/* With a topic and a number it is a row's key: store.h allows 1024 bytes. */
#define GROUP_ID_BYTES_MAX 700
/* Member, instance and client ids, protocol types and names. */
#define GROUP_NAME_BYTES_MAX 1024
#define GROUP_PROTOCOLS_MAX  64 /* of one member */
/* Ids given out by MEMBER_ID_REQUIRED and not used yet. */
#define GROUP_PENDING_MAX 10000
/* Metadata and assignments of all members. */
#define GROUP_BYTES_MAX (32u << 20)
/* A first join that waits longer is given up. */
#define GROUP_NEW_MEMBER_JOIN_MS 300000
/* A first rebalance waits this long for ids that were given out, were its delay shorter. */
#define GROUP_PENDING_GRACE_MS 250

enum group_state {
    GROUP_EMPTY,      /* no members; offsets may be there */
    GROUP_PREPARING,  /* waits for its members to join */
    GROUP_COMPLETING, /* waits for the leader's assignment */
    GROUP_STABLE,
    GROUP_DEAD, /* being removed */
};
#define GROUP_STATES 5
/* As Kafka writes it: "PreparingRebalance". */
const char *group_state_name(enum group_state s);

struct group_limits {
    int32_t initial_delay_ms; /* first rebalance of an empty group waits for more members */
    int32_t session_min_ms, session_max_ms;
    int32_t size_max; /* members */
};

/* mono: for timeouts; wall: for what is stored and compared after a restart. Milliseconds. */
struct group_time {
    int64_t mono_ms;
    int64_t wall_ms;
};

struct group_protocol {
    struct slice name;
    struct slice metadata;
};
struct group_protocols { /* one block of memory */
    int32_t count;
    size_t bytes;
    struct group_protocol list[];
};

struct group_member {
    struct slice id;
    struct slice instance_id; /* data NULL: a dynamic member */
    struct slice client_id;
    struct slice client_host; /* "/127.0.0.1" */
    int32_t session_timeout_ms, rebalance_timeout_ms;
    struct group_protocols *protocols;
    struct slice assignment;       /* of this generation; empty until the leader has sent it */
    void *join_token, *sync_token; /* parked requests; NULL: none */
    bool joined;                   /* has joined the rebalance that is going on */
    bool is_new;                   /* has not been in a generation yet: not in the row */
    bool anonymous;                /* its client has not been told its id yet */
    bool pending_sync;             /* has not asked for its assignment yet */
    int64_t deadline_ms; /* mono: the session ends; not looked at while a request is parked */
    UT_hash_handle hh;   /* by id, in the order of joining */
    UT_hash_handle hh_instance; /* by instance id */
};

struct group_pending { /* an id given out with MEMBER_ID_REQUIRED */
    struct slice id;
    int64_t deadline_ms;
    UT_hash_handle hh;
};

struct group {
    struct slice id;
    const struct group_limits *limits;
    enum group_state state;
    int32_t generation;
    struct slice protocol_type;  /* kept when the group empties; data NULL: never had members */
    struct slice protocol_name;  /* data NULL: none chosen */
    struct group_member *leader; /* NULL: no members */
    struct group_member *members, *instances;
    struct group_pending *pending;
    int32_t member_count, joined_count, pending_count, pending_sync_count;
    size_t bytes;                /* metadata and assignments */
    int64_t empty_since_wall_ms; /* -1: not empty, or never had members */
    bool initial;                /* this rebalance is the first of an empty group */
    bool member_added;           /* somebody new since the delay began */
    int64_t added_ms;            /* mono: the newest member came */
    int64_t initial_left_ms;     /* how far the delay may still be extended */
    int64_t join_deadline_ms;    /* GROUP_PREPARING */
    int64_t sync_deadline_ms; /* until all have asked for their assignment; INT64_MAX: they have */
    int64_t wake_ms;          /* nothing is due before this (mono); INT64_MAX: nothing at all */
    bool dirty;               /* the row differs: store it, then clear this */
};

/* --- events ---------------------------------------------------------------------------------- */

struct group_join {
    void *token;              /* named in the reply, now or later; not NULL */
    struct slice member_id;   /* empty: none yet */
    struct slice instance_id; /* data NULL: dynamic */
    struct slice fresh_id;    /* the id to give if one is needed */
    struct slice client_id, client_host;
    struct slice protocol_type;
    const struct group_protocol *protocols;
    int32_t protocol_count;
    int32_t session_timeout_ms, rebalance_timeout_ms;
    bool id_required;     /* v4+: a dynamic member must come back with the id that it is given */
    bool skip_assignment; /* v9+: the client knows that flag */
};

struct group_assignment {
    struct slice member_id;
    struct slice bytes;
};
struct group_sync {
    void *token;
    int32_t generation;
    struct slice member_id;
    struct slice instance_id;                  /* data NULL: none */
    struct slice protocol_type, protocol_name; /* data NULL: not said */
    const struct group_assignment *assignments;
    int32_t assignment_count;
};

/* The answer to a join or a sync. Everything is borrowed and dies with the call. */
struct group_reply {
    enum kerr error;
    const struct group *group; /* join: generation, protocol, members with group_member_metadata */
    const struct group_member *member; /* NULL with an error */
    struct slice member_id;            /* join: also with MEMBER_ID_REQUIRED and other errors */
    struct slice leader_id;
    bool with_members; /* join: the leader gets the list */
    bool skip_assignment;
};
/* Called for each token exactly once; the token means nothing to the group after that. Must not
 * call the group. */
struct group_sink {
    void (*reply)(void *arg, void *token, const struct group_reply *r);
    void *arg;
};

/* NULL: without memory. *limits must outlive the group. */
struct group *group_new(struct slice id, const struct group_limits *limits);
/* No token may be parked any more. */
void group_free(struct group *g);

void group_on_join(struct group *g, const struct group_join *ev, struct group_time now,
                   const struct group_sink *out);
void group_on_sync(struct group *g, const struct group_sync *ev, struct group_time now,
                   const struct group_sink *out);
enum kerr group_on_heartbeat(struct group *g, int32_t generation, struct slice member_id,
                             struct slice instance_id, struct group_time now);
/* One member of a LeaveGroup. member_id empty: by instance id alone (an administrator). */
enum kerr group_on_leave(struct group *g, struct slice member_id, struct slice instance_id,
                         struct group_time now, const struct group_sink *out);
/* May this commit be stored? Keeps the member's session alive. generation -1 with no member: a
 * client without membership. */
enum kerr group_on_commit(struct group *g, int32_t generation, struct slice member_id,
                          struct slice instance_id, struct group_time now);
/* The connection of a parked request is gone: its token is forgotten, not answered. */
void group_on_cancel(struct group *g, const void *token, struct group_time now,
                     const struct group_sink *out);
/* Timeouts that are due. */
void group_on_tick(struct group *g, struct group_time now, const struct group_sink *out);
/* The group was read from its row: sessions and timeouts begin anew. */
void group_on_load(struct group *g, struct group_time now);
/* Asks all members to join anew. */
void group_rebalance(struct group *g, struct group_time now, const struct group_sink *out);
/* Answers every parked request with error and forgets them; the state stays. */
void group_answer_parked(struct group *g, enum kerr error, const struct group_sink *out);
/* Nobody may come in any more. All members are gone or are thrown out with error. */
void group_kill(struct group *g, enum kerr error, const struct group_sink *out);

/* --- what others ask ------------------------------------------------------------------------- */

/* Metadata of the chosen protocol; empty when there is none. */
struct slice group_member_metadata(const struct group *g, const struct group_member *m);
/* May members of a group of consumers read this topic? True when the subscriptions cannot be
 * read. */
bool group_subscribes(const struct group *g, struct slice topic);
bool group_is_consumer(const struct group *g);

/* --- rows (group_row.h says how they look) --------------------------------------------------- */

void group_encode(const struct group *g, struct buf *out);
/* NULL: without memory, or not a row of ours (*corrupt). Call group_on_load next. */
struct group *group_decode(struct slice id, struct slice row, const struct group_limits *limits,
                           bool *corrupt);

/* --- inside the module ----------------------------------------------------------------------- */

struct group_member *group_find(const struct group *g, struct slice member_id);
struct group_member *group_find_instance(const struct group *g, struct slice instance_id);
struct group_pending *group_find_pending(const struct group *g, struct slice member_id);
bool group_pending_add(struct group *g, struct slice id, int64_t deadline_ms);
void group_pending_remove(struct group *g, struct group_pending *p);

struct group_protocols *group_protocols_copy(const struct group_protocol *list, int32_t count);
bool group_protocols_same(const struct group_protocols *a, const struct group_protocol *list,
                          int32_t count);
/* NULL: without memory. The member is not in the group yet. */
struct group_member *group_member_new(const struct group_join *ev, struct slice id);
void group_member_free(struct group_member *m);
void group_member_add(struct group *g, struct group_member *m);
/* Takes it out of every table and count; a new leader is the first member that is left. */
void group_member_unlink(struct group *g, struct group_member *m);
void group_member_set_protocols(struct group *g, struct group_member *m, struct group_protocols *p);
/* Copies; false: without memory. */
bool group_member_set_assignment(struct group *g, struct group_member *m, struct slice bytes);
void group_member_set_joined(struct group *g, struct group_member *m, bool joined);
void group_member_set_pending_sync(struct group *g, struct group_member *m, bool pending);

/* Does every member support one of these? True for a group without members. */
bool group_supports(const struct group *g, const struct group_protocol *list, int32_t count);
/* Each member votes for the first of its protocols that all support; most votes win. Members
 * needed. */
struct slice group_select_protocol(const struct group *g);
int32_t group_rebalance_timeout_ms(const struct group *g);

/* An owned copy; data NULL stays so. *ok turns false without memory. */
struct slice group_slice_copy(struct slice s, bool *ok);

#endif
