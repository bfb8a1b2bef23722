/* Fetch sessions (KIP-227): the server remembers what a consumer fetches, so that request and reply
 * name only partitions that have changed.
 *
 * Loop thread only. A session may go away whenever another request is handled (evicted, closed):
 * whoever parks keeps the id and asks again with fetch_session_find. */
#ifndef CULEX_BROKER_SESSION_H
#define CULEX_BROKER_SESSION_H

#include <uthash.h>

#include "kafka-server/broker/kerr.h"
#include "shared/base/bytes.h"
#include "shared/base/err.h"

#define FETCH_SESSION_NONE    0      /* the id that says "no session" */
#define FETCH_EPOCH_INITIAL   0      /* a client asks for a new session */
#define FETCH_EPOCH_FINAL     (-1)   /* a client wants none, and the one it names closed */
#define FETCH_SESSION_IDLE_MS 120000 /* unused for so long, it makes room for a new one */

/* Which partition: by the topic's id from Fetch 13 on, by its name before. */
struct session_key {
    struct uuid id;
    struct slice name;
    int32_t partition;
};

/* What the client wants of it. */
struct session_want {
    int64_t offset;
    int32_t max_bytes;
    int32_t leader_epoch;
    int32_t last_fetched_epoch;
};

struct session_partition {
    struct session_key key; /* name lies behind the struct */
    struct session_want want;
    int64_t sent_end, sent_start; /* high watermark and log start that the client knows; -1: none */
    struct session_partition *prev, *next;
    UT_hash_handle hh;
    uint32_t key_len;
    uint8_t hash_key[]; /* partition, then id or name */
};

struct session {
    int32_t id;
    int32_t epoch; /* that the next request must carry */
    bool by_id;
    int64_t used_ms;
    struct session_partition *order; /* who was served last stands at the end */
    struct session_partition *by_key;
    int32_t count;
    struct fetch_sessions *owner;
    struct session *prev, *next; /* least recently used first */
    UT_hash_handle hh;
};

struct fetch_sessions;

/* bytes_max: of the partitions of all sessions, names included. */
struct fetch_sessions *fetch_sessions_new(int slots, size_t bytes_max);
void fetch_sessions_free(struct fetch_sessions *fs);
size_t fetch_sessions_count(const struct fetch_sessions *fs);

/* A new, empty one; NULL when there is no slot and none is idle, or memory is out: the client
 * then gets whole replies. */
struct session *fetch_session_open(struct fetch_sessions *fs, bool by_id, int64_t now_ms);
struct session *fetch_session_find(struct fetch_sessions *fs, int32_t id);
/* Checks id, epoch and kind, and expects the next epoch from now on. FETCH_SESSION_ID_NOT_FOUND,
 * INVALID_FETCH_SESSION_EPOCH, FETCH_SESSION_TOPIC_ID_ERROR. */
enum kerr fetch_session_continue(struct fetch_sessions *fs, int32_t id, int32_t epoch, bool by_id,
                                 int64_t now_ms, struct session **out);
void fetch_session_close(struct fetch_sessions *fs, struct session *s);

/* Adds or changes. ERR_FULL: bytes_max; ERR_NOMEM. */
enum err fetch_session_set(struct session *s, const struct session_key *key,
                           const struct session_want *want) MUST_CHECK;
void fetch_session_forget(struct session *s, const struct session_key *key);
struct session_partition *fetch_session_get(struct session *s, const struct session_key *key);
/* To the end of the order: it has just been served. */
void fetch_session_rotate(struct session *s, struct session_partition *p);

#endif
