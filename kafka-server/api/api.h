/* An API is a row: what ApiVersions offers, what a frame is decoded with and who answers it.
 *
 * A request lives from its frame to its reply. A handler runs on the loop thread, reads rq->body
 * (the decoded struct), and either calls request_reply before it returns or keeps rq (a "parked"
 * request: long poll, group join) and replies later, also on the loop thread. Replies leave a
 * connection in the order of its requests; a connection's next request is handled only after the
 * reply to the one before (as Kafka does). When the connection goes away first, rq->cancel is
 * called (if set): the handler forgets rq and must not reply. All memory of the request lives in
 * rq->arena. */
#ifndef CULEX_API_API_H
#define CULEX_API_API_H

#include "kafka-server/broker/kerr.h"
#include "kafka-server/protocol/codec.h"
#include "shared/base/arena.h"

struct server;   /* server.h: wires everything */
struct net_conn; /* net/net.h */
struct store;    /* shared/store/store.h */

struct request {
    struct server *server;
    struct net_conn *conn;
    const struct api *api;
    struct request_header header;
    struct arena arena;
    const void *body; /* e.g. const struct fetch_request * */
    void *parked;     /* the handler's own state while parked */
    void (*cancel)(struct request *rq);
    /* When the reply has left or the connection is gone: frees what the reply borrowed (pinned
     * slices). */
    void (*release)(void *arg);
    void *release_arg;
    const struct bound_calls *bound; /* api_bound.h: what the broker's writer has answered */
    int32_t records_max;         /* records fields with bytes in the reply, at most; 0: copied */
    struct request *prev, *next; /* server->held */
};

typedef void api_handler(struct request *rq);

/* What ApiVersions says of it. */
enum api_told {
    API_TOLD,
    API_TOLD_FROM_0, /* 0 where version_min is more: Produce, see api_produce.c */
    API_UNTOLD,      /* nothing: it is answered, not offered */
};

struct api {
    int16_t key;
    int16_t version_min, version_max; /* served: within the schema's */
    api_handler *handler;
    const struct codec_api *codec; /* by key, from api_init on */
    enum api_told told;
};
/* All rows, ascending by key. */
extern const struct api *const api_table;
extern const size_t api_table_count;
const struct api *api_find(int16_t key);
/* Once, before anything else. */
void api_init(void);

/* What net calls (net_callbacks; arg is the server). */
void api_on_frame(void *server, struct net_conn *c, uint8_t *frame, size_t len);
void api_on_gone(void *server, struct net_conn *c);
bool api_has_room(void *server);

/* Handles what came while server->holding, which is over. */
void api_release_held(struct server *server);
/* A store is about to be closed: fetches that wait for its partitions are answered, connections
 * that have replies with its memory are closed. Workers that read it go on. */
void api_fetch_lose_store(struct server *server, const struct store *store);
/* Answers all parked fetches with what they have. */
void api_fetch_stop(struct server *server);

#define REQUEST_ARENA_BYTES_MAX (64u << 20)  /* a decoded request and what becomes of it */
#define REPLY_BYTES_MAX         (256u << 20) /* of a reply, without its records */

/* Handlers, one family a file. */
api_handler api_versions, api_metadata, api_describe_cluster, api_describe_topic_partitions,
    api_describe_configs;                                             /* api_cluster.c */
api_handler api_produce;                                              /* api_produce.c */
api_handler api_fetch, api_list_offsets, api_offset_for_leader_epoch; /* api_fetch.c, api_log.c */
api_handler api_find_coordinator, api_join_group, api_sync_group, api_heartbeat, api_leave_group,
    api_offset_commit, api_offset_fetch, api_describe_groups, api_list_groups, api_delete_groups,
    api_offset_delete; /* api_group.c, api_offset.c */
api_handler api_init_producer_id, api_add_partitions_to_txn, api_add_offsets_to_txn, api_end_txn,
    api_txn_offset_commit; /* api_txn.c */
api_handler api_write_txn_markers, api_describe_producers, api_describe_transactions,
    api_list_transactions; /* api_txn_admin.c */
api_handler api_consumer_group_heartbeat, api_consumer_group_describe; /* api_consumer.c */
api_handler api_create_topics, api_delete_topics, api_create_partitions,
    api_delete_records;                                       /* api_topics.c */
api_handler api_alter_configs, api_incremental_alter_configs; /* api_alter.c */
api_handler api_list_config_resources;                        /* api_config.c */
api_handler api_elect_leaders, api_list_partition_reassignments, api_describe_quorum,
    api_describe_client_quotas, api_describe_user_scram_credentials, api_describe_acls,
    api_get_telemetry_subscriptions, api_push_telemetry; /* api_admin.c */
api_handler api_describe_log_dirs;                       /* api_log_dirs.c */
api_handler api_update_features;                         /* api_feature.c */

/* The features of an ApiVersions answer. False: no memory. api_feature.c. */
struct api_versions_response;
bool features_fill(struct request *rq, struct api_versions_response *p);

/* Encodes response (a struct of the API's response message; borrowed memory in it must live in
 * rq->arena or until rq->release) and queues it. Ends rq: never touch it again. */
void request_reply(struct request *rq, const void *response);
/* Ends rq without an answer: the client expects none (Produce with acks 0). */
void request_end(struct request *rq);
/* Closes the connection instead of an answer, with one log line. Ends rq. */
void request_close(struct request *rq, const char *why);
/* The same, where the arena has no room for the answer. */
static inline void request_close_too_large(struct request *rq)
{
    request_close(rq, "asked for more than a request may take");
}
/* A sentence in the request's arena; len -1: no memory. */
struct kstr request_text(struct request *rq, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Host and port that this connection's listener advertises. */
const char *request_advertised_host(const struct request *rq);
int request_advertised_port(const struct request *rq);
/* Peer address as text, e.g. "127.0.0.1" (Kafka shows it as /127.0.0.1). */
const char *request_peer_host(const struct request *rq);

#endif
