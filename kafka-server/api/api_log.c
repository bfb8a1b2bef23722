/* Where a partition begins and ends, and which offset belongs to a time or an epoch.
 *
 * Ends are known at once; who reads what is committed only is told of the last stable offset, and
 * of no record from there on. A time is looked up by a worker, because it may have to read index
 * and batches from disk; one job for all such partitions of a request. The job has memory of its
 * own: the connection, and with it the request, may be gone before it is done; what is left of it
 * is then not looked up. */
#include <stdatomic.h>
#include <stdlib.h>

#include "kafka-server/api/api.h"
#include "kafka-server/api/api_names.h"
#include "kafka-server/broker/fetch.h"
#include "kafka-server/broker/producers.h"
#include "kafka-server/broker/topics.h"
#include "kafka-server/broker/workers.h"
#include "kafka-server/server.h"
#include "kafka_messages.h"
#include "shared/base/log.h"

/* Times that are no times (ListOffsets), each known from a version of its own on. */
enum {
    TIME_LATEST = -1,
    TIME_EARLIEST = -2,
    TIME_MAX = -3,            /* the greatest timestamp */
    TIME_EARLIEST_LOCAL = -4, /* all of the log is local: the same as earliest */
    TIME_LATEST_TIERED = -5,  /* nothing is tiered: no offset */
};

static bool time_known(int64_t time, int16_t version)
{
    switch (time) {
    case TIME_MAX:
        return version >= 7; /* KIP-734 */
    case TIME_EARLIEST_LOCAL:
        return version >= 8; /* KIP-405 */
    case TIME_LATEST_TIERED:
        return version >= 9; /* KIP-1005 */
    default:
        return time >= TIME_EARLIEST;
    }
}

/* The partition's offsets; KERR_NONE when the client may be told something. */
static enum kerr look_up(const struct request *rq, const struct topic *t, int32_t partition,
                         int32_t epoch, struct store_offsets *o)
{
    if (t == NULL) {
        return names_missing(rq, KERR_LEADER_NOT_AVAILABLE, KERR_UNKNOWN_TOPIC_OR_PARTITION);
    }
    if (!topic_has_partition(t, partition) ||
        store_offsets(t->store, store_topic_uid(t->row, partition), o) != OK) {
        return KERR_UNKNOWN_TOPIC_OR_PARTITION;
    }
    /* -1 is no epoch. Fetch takes all that are below 0 for none, Kafka has it so. */
    return epoch < -1 ? KERR_FENCED_LEADER_EPOCH : fetch_check_epoch(epoch, o->leader_epoch);
}

/* --- ListOffsets ----------------------------------------------------------------------------- */

/* One lookup by time. */
struct lookup {
    struct store *store;
    uint32_t uid;
    int64_t time;
    int64_t limit; /* what the client may know of ends here */
    struct list_offsets_response_topics_partitions *out; /* in the request's arena */
    enum err result;
    int64_t offset, timestamp;
};

struct lookups {
    struct work work;
    struct request *rq; /* NULL: the connection is gone; loop thread */
    atomic_bool gone;   /* the same, for the worker */
    struct list_offsets_response p;
    int32_t count;
    struct lookup list[];
};

static void run_lookups(struct work *w)
{
    struct lookups *all = (struct lookups *)w;
    bool said = false; /* one line for each request is enough */
    for (int32_t i = 0; i < all->count && !atomic_load(&all->gone); i++) {
        struct lookup *l = &all->list[i];
        struct errmsg m = {.text = ""};
        l->result =
            l->time == TIME_MAX
                ? store_find_max_timestamp(l->store, l->uid, &l->offset, &l->timestamp, &m)
                : store_find_timestamp(l->store, l->uid, l->time, &l->offset, &l->timestamp, &m);
        if (!said && l->result != OK && l->result != ERR_NOT_FOUND && l->result != ERR_AGAIN) {
            said = true;
            log_error("lookup by time failed uid=%u time=%lld error=%s: %s", l->uid,
                      (long long)l->time, err_name(l->result), m.text);
        }
    }
}

static void fill_lookup(const struct lookup *l)
{
    switch (l->result == OK && l->offset >= l->limit ? ERR_NOT_FOUND : l->result) {
    case OK:
        l->out->offset = l->offset;
        l->out->timestamp = l->timestamp;
        break;
    case ERR_NOT_FOUND: /* no record so late: no offset, no epoch, and no error */
        l->out->offset = l->out->timestamp = -1;
        l->out->leader_epoch = -1;
        break;
    case ERR_AGAIN: /* clients ask again */
        l->out->error_code = KERR_LEADER_NOT_AVAILABLE;
        l->out->leader_epoch = -1;
        break;
    default:
        l->out->error_code = KERR_KAFKA_STORAGE_ERROR;
        l->out->leader_epoch = -1;
        break;
    }
}

static void done_lookups(struct work *w)
{
    struct lookups *all = (struct lookups *)w;
    struct request *rq = all->rq;
    if (rq != NULL) {
        for (int32_t i = 0; i < all->count; i++) {
            fill_lookup(&all->list[i]);
        }
        rq->cancel = NULL;
        request_reply(rq, &all->p);
    }
    free(all);
}

static void cancel_lookups(struct request *rq)
{
    struct lookups *all = rq->parked;
    all->rq = NULL;
    atomic_store(&all->gone, true);
}

/* Answers what can be answered at once; true when it needs a lookup. */
static bool answer_now(const struct request *rq, const struct topic *t,
                       const struct list_offsets_request_topics_partitions *q,
                       struct list_offsets_response_topics_partitions *out, int64_t *limit)
{
    struct store_offsets o;
    const struct list_offsets_request *all = rq->body;
    int16_t version = rq->header.api_version;
    out->partition_index = q->partition_index;
    out->error_code = (int16_t)look_up(rq, t, q->partition_index, q->current_leader_epoch, &o);
    if (out->error_code != KERR_NONE) {
        return false;
    }
    if (!time_known(q->timestamp, version)) {
        out->error_code = KERR_UNSUPPORTED_VERSION;
        return false;
    }
    if (version >= 4) {
        out->leader_epoch = o.leader_epoch;
    }
    *limit = INT64_MAX;
    if (all->isolation_level != 0 && !t->captured) {
        *limit = producers_lso(rq->server->producers, store_topic_uid(t->row, q->partition_index),
                               o.log_start, o.end);
    }
    switch (q->timestamp) {
    case TIME_LATEST:
        out->offset = *limit < o.end ? *limit : o.end;
        return false;
    case TIME_EARLIEST:
    case TIME_EARLIEST_LOCAL:
        out->offset = o.log_start;
        return false;
    case TIME_LATEST_TIERED:
        out->leader_epoch = -1;
        return false;
    default:
        return true;
    }
}

/* Room for every partition of the request as a lookup; NULL without memory. */
static struct lookups *lookups_new(struct request *rq)
{
    const struct list_offsets_request *q = rq->body;
    size_t most = 0;
    for (int32_t i = 0; i < q->topics_count; i++) {
        most += (size_t)q->topics[i].partitions_count;
    }
    struct lookups *all = calloc(1, sizeof *all + most * sizeof all->list[0]);
    if (all == NULL) {
        return NULL;
    }
    all->work = (struct work){.run = run_lookups, .done = done_lookups};
    all->rq = rq;
    atomic_init(&all->gone, false);
    codec_init(&list_offsets_response_message, &all->p);
    return all;
}

static bool fill_offsets(struct request *rq, struct lookups *all)
{
    const struct list_offsets_request *q = rq->body;
    all->p.topics =
        codec_new_array(&list_offsets_response_topics_message, &rq->arena, q->topics_count);
    if (all->p.topics == NULL) {
        return false;
    }
    all->p.topics_count = q->topics_count;
    for (int32_t i = 0; i < q->topics_count; i++) {
        const struct list_offsets_request_topics *from = &q->topics[i];
        struct list_offsets_response_topics *to = &all->p.topics[i];
        const struct topic *t = topics_find(rq->server->topics, kstr_slice(from->name));
        to->name = from->name;
        to->partitions = codec_new_array(&list_offsets_response_topics_partitions_message,
                                         &rq->arena, from->partitions_count);
        if (to->partitions == NULL) {
            return false;
        }
        to->partitions_count = from->partitions_count;
        for (int32_t k = 0; k < from->partitions_count; k++) {
            const struct list_offsets_request_topics_partitions *p = &from->partitions[k];
            int64_t limit;
            if (answer_now(rq, t, p, &to->partitions[k], &limit)) {
                all->list[all->count++] = (struct lookup){
                    .store = t->store,
                    .uid = store_topic_uid(t->row, p->partition_index),
                    .time = p->timestamp,
                    .limit = limit,
                    .out = &to->partitions[k],
                };
            }
        }
    }
    return true;
}

void api_list_offsets(struct request *rq)
{
    struct lookups *all = lookups_new(rq);
    if (all == NULL || !fill_offsets(rq, all)) {
        free(all);
        request_close_too_large(rq);
        return;
    }
    if (all->count == 0) {
        request_reply(rq, &all->p);
        free(all);
        return;
    }
    rq->parked = all;
    rq->cancel = cancel_lookups;
    if (workers_submit(rq->server->workers, &all->work) != OK) {
        for (int32_t i = 0; i < all->count; i++) {
            all->list[i].result = ERR_AGAIN;
        }
        done_lookups(&all->work);
    }
}

/* --- OffsetForLeaderEpoch -------------------------------------------------------------------- */

static void answer_epoch(const struct request *rq, const struct topic *t,
                         const struct offset_for_leader_epoch_request_topics_partitions *q,
                         struct offset_for_leader_epoch_response_topics_partitions *out)
{
    struct store_offsets o;
    out->partition = q->partition;
    out->error_code = (int16_t)look_up(rq, t, q->partition, q->current_leader_epoch, &o);
    if (out->error_code != KERR_NONE) {
        return;
    }
    int32_t found;
    int64_t end;
    if (store_epoch_end(t->store, store_topic_uid(t->row, q->partition), q->leader_epoch, &found,
                        &end) == OK) {
        out->leader_epoch = found;
        out->end_offset = end;
    }
}

void api_offset_for_leader_epoch(struct request *rq)
{
    const struct offset_for_leader_epoch_request *q = rq->body;
    struct offset_for_leader_epoch_response p;
    codec_init(&offset_for_leader_epoch_response_message, &p);
    p.topics = codec_new_array(&offset_for_leader_epoch_response_topics_message, &rq->arena,
                               q->topics_count);
    p.topics_count = p.topics != NULL ? q->topics_count : 0;
    bool whole = p.topics != NULL;
    for (int32_t i = 0; i < p.topics_count && whole; i++) {
        const struct offset_for_leader_epoch_request_topics *from = &q->topics[i];
        struct offset_for_leader_epoch_response_topics *to = &p.topics[i];
        const struct topic *t = topics_find(rq->server->topics, kstr_slice(from->topic));
        to->topic = from->topic;
        to->partitions =
            codec_new_array(&offset_for_leader_epoch_response_topics_partitions_message, &rq->arena,
                            from->partitions_count);
        whole = to->partitions != NULL;
        for (int32_t k = 0; whole && k < from->partitions_count; k++) {
            answer_epoch(rq, t, &from->partitions[k], &to->partitions[k]);
            to->partitions_count++;
        }
    }
    if (!whole) {
        request_close_too_large(rq);
        return;
    }
    request_reply(rq, &p);
}
