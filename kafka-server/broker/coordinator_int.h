/* What the files of the group coordinator share; nobody else includes this.
 *
 *      coordinator.c           groups: finding, storing, taking back, time
 *      coordinator_offsets.c   their offsets
 *      coordinator_consumer.c  those of the consumer protocol
 *      coordinator_config.c    what is set of one group */
#ifndef CULEX_BROKER_COORDINATOR_INT_H
#define CULEX_BROKER_COORDINATOR_INT_H

#include "kafka-server/broker/coordinator.h"
#include "kafka-server/broker/group_config.h"

struct coordinated {
    struct group *group;
    struct cgroup *consumer; /* not NULL: this is what the group is, and `group` is an empty one */
    struct offsets offsets;
    struct buf stored, next; /* the row in the store; the row in the commit that is going on */
    int32_t logged;          /* the generation that the log knows */
    bool listed;             /* in c->dirty */
    bool deleting;           /* the commit that is going on deletes it */
    size_t staged;           /* how many of c->staged are its own */
    size_t held;             /* offsets in open transactions: it has room for them */
    size_t bytes;            /* what c->bytes counts of it */
    struct coordinated *dirty_next;
    UT_hash_handle hh;
};

struct coordinator {
    struct journal *journal;
    struct journal_owner owner;
    struct group_limits limits;
    struct cgroup_limits consumer_limits; /* of a group of which nothing is set */
    struct group_override *overrides, *overrides_changed;
    struct cgroup_topics topics; /* all there are: coordinator_topics */
    struct cgroup_topic *topic_list;
    bool topics_stale;
    void (*ask_topics)(void *arg);
    void *ask_topics_arg;
    char fresh_id[UUID_TEXT_BYTES]; /* the member id that was made last */
    int64_t retention_ms, sweep_interval_ms;
    int32_t metadata_bytes_max;
    struct coordinated *groups;
    struct coordinated *dirty;
    struct offsets_topics offset_topics; /* of all groups */
    struct offset_entry **staged;
    size_t staged_count, staged_room;
    size_t staged_seen; /* how many were looked at, ever, for groups that go: see the tests */
    size_t bytes;              /* metadata and assignments of all groups */
    size_t offset_count;       /* of all groups */
    size_t held;               /* of all groups */
    int64_t wake_ms, sweep_ms; /* mono */
    struct coordinated *sweep_next; /* where the sweep goes on; NULL: at the first */
    int64_t grace_ms;          /* mono: no session ends before; see held_up */
    struct buf key, value;     /* of the row at hand */
    bool stopping;
};

/* NULL: no such group. */
struct coordinated *coordinated_find(const struct coordinator *c, struct slice id);
/* NULL: without memory, or there are too many. */
struct coordinated *coordinated_find_or_make(struct coordinator *c, struct slice id);
/* However many there are: what is stored already needs it. NULL: without memory. */
struct coordinated *coordinated_find_or_restore(struct coordinator *c, struct slice id);
/* After each call of the machine. */
void coordinated_touched(struct coordinator *c, struct coordinated *g);
enum kerr coordinator_check_call(const struct coordinator *c, struct slice group_id);
struct group_time coordinator_now(void);
/* Another group and another kind under the same id; what was before is freed. */
void coordinated_replace(struct coordinator *c, struct coordinated *g, struct group *group,
                         struct cgroup *consumer);
/* Drops it when it has nothing, in memory or stored. */
void coordinated_forget_if_new(struct coordinator *c, struct coordinated *g);
/* Replies go to their struct group_call. */
extern const struct group_sink coordinator_sink;

/* Puts the removal of an offset into the commit; false: without memory. */
bool coordinator_stage_removal(struct coordinator *c, struct coordinated *g, struct slice topic,
                               int32_t partition);
/* The commit has ended: staged offsets enter the table, or are forgotten. */
void coordinator_staged_done(struct coordinator *c, enum err e);

/* coordinator_config.c */
const struct cgroup_limits *coordinator_limits(const struct coordinator *c, struct slice group_id);
void coordinator_config_reload(struct coordinator *c);
void coordinator_config_done(struct coordinator *c, enum err e);
enum err coordinator_config_load(struct coordinator *c, struct errmsg *m) MUST_CHECK;
void coordinator_config_fini(struct coordinator *c);

/* coordinator_consumer.c */
void coordinator_consumer_reload(struct coordinator *c, const struct config_server *cfg);
void coordinator_consumer_fini(struct coordinator *c);
/* Requests of classic members to a group of the consumer protocol. */
void coordinator_consumer_join(struct coordinator *c, struct coordinated *g,
                               const struct group_join *ev, struct group_call *call);
void coordinator_consumer_sync(struct coordinator *c, struct coordinated *g,
                               const struct group_sync *ev, struct group_call *call);
/* After every event: a group in which nobody speaks the consumer protocol becomes a classic one. */
void coordinator_maybe_downgrade(struct coordinator *c, struct coordinated *g);
/* An empty consumer group becomes an empty classic one. False: without memory. */
bool coordinator_forget_empty_consumer(struct coordinator *c, struct coordinated *g);

#endif
