/* The group coordinator: all groups and their offsets, in memory and in the server's own store.
 *
 * It stands between the requests (api/api_group.c, api_offset.c), the machine of each group
 * (group.h) and the journal. Every change becomes rows of the turn's commit; what a client is told
 * of it leaves after that commit. When a commit fails, the groups that it would have changed are
 * what their rows say again, and whoever asked gets COORDINATOR_NOT_AVAILABLE: to clients it looks
 * like a coordinator that started again, which they know how to handle.
 *
 * While the own store has never been open there is no coordinator: requests may come all the same,
 * and are answered as by one that is not available. So what requests call (from coordinator_join
 * on, and coordinator_find to coordinator_each) takes NULL, which has no groups.
 *
 * Time comes from shared/base/clock.h, save where it is a parameter. One
 * thread at a time (own_state.h). */
#ifndef CULEX_BROKER_COORDINATOR_H
#define CULEX_BROKER_COORDINATOR_H

#include "kafka-server/broker/cgroup.h"
#include "kafka-server/broker/group.h"
#include "kafka-server/broker/group_config.h"
#include "kafka-server/broker/journal.h"
#include "kafka-server/broker/offsets.h"
#include "shared/config/config.h"

/* Beyond these, new groups, new members and offsets of further partitions are refused. */
#define COORDINATOR_GROUPS_MAX  (1u << 17)
#define COORDINATOR_OFFSETS_MAX (1u << 22)
#define COORDINATOR_BYTES_MAX   (256u << 20) /* metadata and assignments of all members */

struct coordinator;
struct coordinated; /* a group with its offsets */

/* Reads all groups and offsets; the sessions of members begin anew. cfg is read here and not kept.
 * Blocks. ERR_NOMEM, or why the rows cannot be read. */
enum err coordinator_open(struct coordinator **out, struct journal *j,
                          const struct config_server *cfg, int64_t now_ms,
                          struct errmsg *m) MUST_CHECK;
/* It was opened a while ago, on another thread, and counts from now on: the sessions of members
 * begin here. */
void coordinator_begin(struct coordinator *c, int64_t now_ms);
/* Takes over changed settings. */
void coordinator_reload(struct coordinator *c, const struct config_server *cfg);
/* Answers every parked join and sync with COORDINATOR_NOT_AVAILABLE, after the next flush, and
 * every later one at once. */
void coordinator_stop(struct coordinator *c);
/* Stops, flushes the journal, frees. */
void coordinator_close(struct coordinator *c);
/* The same in two steps: nobody has anything to do with it after the first, and the second, which
 * takes a while where there is a lot, may be another thread's. */
void coordinator_detach(struct coordinator *c);
void coordinator_free(struct coordinator *c);

/* clock_mono_ms() of the next timer; INT64_MAX: none. Cheap. */
int64_t coordinator_deadline_ms(const struct coordinator *c);
void coordinator_tick(struct coordinator *c, int64_t now_ms);

/* --- join and sync: answers that may take a while -------------------------------------------- */

/* A request that is being answered. Embedded in the asker's memory, which lives until send or
 * cancel. */
struct group_call {
    /* Copies what it needs of *r, which dies when this returns. Called before send, once. */
    void (*prepare)(struct group_call *call, const struct group_reply *r);
    /* The prepared answer may leave; or, with an error, that error in its place. Called once,
     * last. */
    void (*send)(struct group_call *call, enum kerr e);

    struct coordinated *group; /* the coordinator's */
    struct journal_wait wait;
    struct coordinator *coordinator;
};

/* ev->token and ev->fresh_id are filled in here. */
void coordinator_join(struct coordinator *c, struct slice group_id, struct group_join *ev,
                      struct group_call *call);
void coordinator_sync(struct coordinator *c, struct slice group_id, struct group_sync *ev,
                      struct group_call *call);
/* The connection has gone: neither prepare nor send is called any more. */
void coordinator_cancel(struct coordinator *c, struct group_call *call);

/* --- the consumer protocol (KIP-848) ---------------------------------------------------------- */

/* A heartbeat, which is all that its members send. The caller answers from a journal_wait, with
 * what *out says; what it borrows is good until the next call. An empty ev->member_id is filled
 * in. */
void coordinator_consumer_heartbeat(struct coordinator *c, struct slice group_id,
                                    struct cgroup_heartbeat *ev, bool id_required,
                                    struct cgroup_reply *out);
/* What members are told to keep to. */
int32_t coordinator_heartbeat_interval_ms(const struct coordinator *c, struct slice group_id);

/* What is set of one group, whether there is such a group or not; the caller has checked it
 * (group_config_check), and replies from a journal_wait. POLICY_VIOLATION: of too many groups. */
enum kerr coordinator_configure_group(struct coordinator *c, struct slice group_id,
                                      const struct group_config *g);
struct group_config coordinator_group_config(const struct coordinator *c, struct slice group_id);
/* Groups of which something is set; at most so many. */
size_t coordinator_configured_count(const struct coordinator *c);
void coordinator_each_configured(const struct coordinator *c,
                                 void (*fn)(void *arg, struct slice group_id), void *arg);
/* Topics have changed: fn (coordinator_ask_topics) is called before a group looks at them, to call
 * coordinator_set_topics. Many changes in one turn cost one list. */
void coordinator_topics_changed(struct coordinator *c);
void coordinator_ask_topics(struct coordinator *c, void (*fn)(void *arg), void *arg);
/* All topics that there are, in the order of their names; copied. Groups look at them when their
 * members send heartbeats. */
void coordinator_set_topics(struct coordinator *c, const struct cgroup_topic *list, size_t count);

/* --- answers at once ----------------------------------------------------------------------------
 * Where a call changes something, the caller replies from a journal_wait; an error there is
 * COORDINATOR_NOT_AVAILABLE. */

enum kerr coordinator_heartbeat(struct coordinator *c, struct slice group_id, int32_t generation,
                                struct slice member_id, struct slice instance_id);
enum kerr coordinator_leave(struct coordinator *c, struct slice group_id, struct slice member_id,
                            struct slice instance_id);

/* May this client commit here? On KERR_NONE *out is the group, made if need be, for
 * coordinator_commit_put in the same turn. unknown_is_404: v9+, which tells a group that is not
 * there from a generation that is not. */
enum kerr coordinator_commit(struct coordinator *c, struct slice group_id, int32_t generation,
                             struct slice member_id, struct slice instance_id, bool unknown_is_404,
                             struct coordinated **out);
/* row: its times are not looked at, the commit is of now. retention_ms: of this commit alone; -1:
 * as configured. */
enum kerr coordinator_commit_put(struct coordinator *c, struct coordinated *g, struct slice topic,
                                 int32_t partition, const struct offset_row *row,
                                 int64_t retention_ms);

/* May this client put offsets of this group into a transaction? One without generation, member and
 * instance may, whoever is in the group. */
enum kerr coordinator_txn_commit(struct coordinator *c, struct slice group_id, int32_t generation,
                                 struct slice member_id, struct slice instance_id);
/* An offset is put into a transaction: its group, made if need be, lives and has room for it until
 * coordinator_txn_let_go, once for each. known: nothing more than what is held already. The errors
 * of coordinator_commit_put. */
enum kerr coordinator_txn_hold(struct coordinator *c, struct slice group_id, struct slice topic,
                               int32_t partition, bool known);
void coordinator_txn_let_go(struct coordinator *c, struct slice group_id);
/* An offset, held, of a transaction that is committed in this turn. ERR_NOMEM. */
enum err coordinator_txn_commit_put(struct coordinator *c, struct slice group_id,
                                    struct slice topic, int32_t partition,
                                    const struct offset_row *row) MUST_CHECK;
/* May this member read offsets, with this epoch? member_id.data NULL: no member, anybody may. */
enum kerr coordinator_offset_fetch(const struct coordinator *c, struct slice group_id,
                                   int32_t epoch, struct slice member_id);

/* NONE, GROUP_ID_NOT_FOUND or NON_EMPTY_GROUP. */
enum kerr coordinator_delete_group(struct coordinator *c, struct slice group_id);
/* May offsets be deleted here? On KERR_NONE *out is the group. INVALID_GROUP_ID also for the empty
 * one, which DeleteGroups takes. */
enum kerr coordinator_delete_offsets(struct coordinator *c, struct slice group_id,
                                     struct coordinated **out);
/* NONE (also where there was none) or GROUP_SUBSCRIBED_TO_TOPIC. */
enum kerr coordinator_delete_offset(struct coordinator *c, struct coordinated *g,
                                    struct slice topic, int32_t partition);
/* A topic was deleted: so are the offsets in it. As cheap as it has offsets. */
void coordinator_topic_gone(struct coordinator *c, struct slice topic);
/* A topic has come, with this id: offsets in another one of its name, which it had perhaps before
 * the server was started, are deleted. Those of topics that are not known stay. */
void coordinator_topic_came(struct coordinator *c, struct slice topic, const struct uuid *id);

/* --- what there is: borrowed until the next call that changes something ---------------------- */

/* NULL: no such group, or one of the consumer protocol. */
const struct group *coordinator_find(const struct coordinator *c, struct slice group_id);
/* NULL: no such group, or a classic one. */
const struct cgroup *coordinator_find_consumer(const struct coordinator *c, struct slice group_id);
const struct offsets *coordinator_offsets(const struct coordinator *c, struct slice group_id);
size_t coordinator_count(const struct coordinator *c);
/* Calls fn for every group until it returns false. consumer NULL: a classic one; else g says no
 * more than its id. */
typedef bool coordinator_each_fn(void *arg, const struct group *g, const struct cgroup *consumer);
void coordinator_each(const struct coordinator *c, coordinator_each_fn *fn, void *arg);

#endif
