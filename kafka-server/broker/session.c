/* What each consumer fetches, remembered between its requests.
 *
 *      client: id 0, epoch 0 ─▶ new session, whole reply with its id
 *              id n, epoch 1 ─▶ changed wishes; reply: partitions that have changed
 *              id n, epoch 2 …
 *              id n, epoch −1 ─▶ closed
 *
 * A client that loses its session (evicted, server restarted) gets error 70 and begins again; so
 * nothing here is stored. Slots are few and named in the configuration; a session unused for
 * FETCH_SESSION_IDLE_MS gives its slot to a new one. Bytes are few, too, since a client may name
 * what it likes: who finds no room is served whole replies. Keys of partitions are bytes (number,
 * then id or name) so that one table serves both kinds of request. */
#include "kafka-server/broker/session.h"

#include <stdlib.h>

#include <utlist.h>

#include "shared/base/clock.h"

#define KEY_BYTES_MAX (4 + 65536) /* a topic's name has an int16 length on the wire */

struct fetch_sessions {
    int slots;
    size_t bytes_max;
    int count;
    size_t bytes; /* of all sessions' partitions */
    struct session *by_id;
    struct session *recent;
    uint8_t key[KEY_BYTES_MAX]; /* of the lookup at hand */
};

struct fetch_sessions *fetch_sessions_new(int slots, size_t bytes_max)
{
    struct fetch_sessions *fs = calloc(1, sizeof *fs);
    if (fs != NULL) {
        fs->slots = slots;
        fs->bytes_max = bytes_max;
    }
    return fs;
}

void fetch_sessions_free(struct fetch_sessions *fs)
{
    if (fs == NULL) {
        return;
    }
    while (fs->recent != NULL) {
        fetch_session_close(fs, fs->recent);
    }
    free(fs);
}

size_t fetch_sessions_count(const struct fetch_sessions *fs)
{
    return (size_t)fs->count;
}

static size_t partition_bytes(uint32_t key_len)
{
    return sizeof(struct session_partition) + key_len;
}

static void drop_partition(struct session *s, struct session_partition *p)
{
    HASH_DEL(s->by_key, p);
    DL_DELETE(s->order, p);
    s->count--;
    s->owner->bytes -= partition_bytes(p->key_len);
    free(p);
}

void fetch_session_close(struct fetch_sessions *fs, struct session *s)
{
    while (s->order != NULL) {
        drop_partition(s, s->order);
    }
    HASH_DEL(fs->by_id, s);
    DL_DELETE(fs->recent, s);
    fs->count--;
    free(s);
}

static int32_t new_id(struct fetch_sessions *fs)
{
    for (;;) {
        int32_t id = (int32_t)(random_u64() & INT32_MAX);
        if (id != FETCH_SESSION_NONE && fetch_session_find(fs, id) == NULL) {
            return id;
        }
    }
}

struct session *fetch_session_open(struct fetch_sessions *fs, bool by_id, int64_t now_ms)
{
    if (fs->count >= fs->slots && fs->recent != NULL &&
        now_ms - fs->recent->used_ms > FETCH_SESSION_IDLE_MS) {
        fetch_session_close(fs, fs->recent);
    }
    struct session *s = fs->count < fs->slots ? calloc(1, sizeof *s) : NULL;
    if (s == NULL) {
        return NULL;
    }
    s->id = new_id(fs);
    s->epoch = 1;
    s->by_id = by_id;
    s->used_ms = now_ms;
    s->owner = fs;
    HASH_ADD(hh, fs->by_id, id, sizeof s->id, s);
    DL_APPEND(fs->recent, s);
    fs->count++;
    return s;
}

struct session *fetch_session_find(struct fetch_sessions *fs, int32_t id)
{
    struct session *s = NULL;
    HASH_FIND(hh, fs->by_id, &id, sizeof id, s);
    return s;
}

enum kerr fetch_session_continue(struct fetch_sessions *fs, int32_t id, int32_t epoch, bool by_id,
                                 int64_t now_ms, struct session **out)
{
    struct session *s = fetch_session_find(fs, id);
    if (s == NULL) {
        return KERR_FETCH_SESSION_ID_NOT_FOUND;
    }
    if (s->epoch != epoch) {
        return KERR_INVALID_FETCH_SESSION_EPOCH;
    }
    if (s->by_id != by_id) {
        return KERR_FETCH_SESSION_TOPIC_ID_ERROR;
    }
    s->epoch = s->epoch == INT32_MAX ? 1 : s->epoch + 1;
    s->used_ms = now_ms;
    DL_DELETE(fs->recent, s);
    DL_APPEND(fs->recent, s);
    *out = s;
    return KERR_NONE;
}

/* Bytes of a key in fs->key; returns their number. */
static uint32_t key_bytes(struct session *s, const struct session_key *key)
{
    uint8_t *p = s->owner->key;
    const uint8_t *from = s->by_id ? key->id.b : key->name.data;
    size_t len = s->by_id ? sizeof key->id.b : key->name.len;
    len = len < KEY_BYTES_MAX - 4 ? len : KEY_BYTES_MAX - 4;
    be32_put(p, (uint32_t)key->partition);
    memcpy(p + 4, from != NULL ? from : p, len);
    return (uint32_t)len + 4;
}

struct session_partition *fetch_session_get(struct session *s, const struct session_key *key)
{
    struct session_partition *p = NULL;
    uint32_t len = key_bytes(s, key);
    HASH_FIND(hh, s->by_key, s->owner->key, len, p);
    return p;
}

enum err fetch_session_set(struct session *s, const struct session_key *key,
                           const struct session_want *want)
{
    struct session_partition *p = fetch_session_get(s, key);
    if (p == NULL) {
        uint32_t len = key_bytes(s, key);
        if (partition_bytes(len) > s->owner->bytes_max - s->owner->bytes) {
            return ERR_FULL;
        }
        p = calloc(1, partition_bytes(len));
        if (p == NULL) {
            return ERR_NOMEM;
        }
        memcpy(p->hash_key, s->owner->key, len);
        p->key_len = len;
        p->key.partition = key->partition;
        p->key.id = key->id;
        p->key.name = s->by_id ? (struct slice){NULL, 0} : slice_make(p->hash_key + 4, len - 4);
        p->sent_end = p->sent_start = -1;
        HASH_ADD_KEYPTR(hh, s->by_key, p->hash_key, len, p);
        DL_APPEND(s->order, p);
        s->count++;
        s->owner->bytes += partition_bytes(len);
    }
    p->want = *want;
    return OK;
}

void fetch_session_forget(struct session *s, const struct session_key *key)
{
    struct session_partition *p = fetch_session_get(s, key);
    if (p != NULL) {
        drop_partition(s, p);
    }
}

void fetch_session_rotate(struct session *s, struct session_partition *p)
{
    DL_DELETE(s->order, p);
    DL_APPEND(s->order, p);
}
