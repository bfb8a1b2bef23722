/* Committed offsets: OffsetCommit, OffsetFetch, OffsetDelete.
 *
 * A topic is named by its name, or (version 10) by its id. What does not exist is said before the
 * coordinator is asked, as Kafka does: then nothing of the group is touched. Commits are answered
 * after they are stored; a fetch reads what is stored. */
#include <stdlib.h>

#include "kafka_messages.h"
#include "kafka-server/api/api_names.h"
#include "kafka-server/api/api_wait.h"
#include "kafka-server/broker/coordinator.h"
#include "kafka-server/broker/topics.h"
#include "kafka-server/broker/transactions.h"
#include "kafka-server/server.h"

static const char no_memory[] = "no memory for its answer";

#define TOPIC_ID_VERSION 10 /* OffsetCommit and OffsetFetch name topics by id from here on */

/* --- OffsetCommit ---------------------------------------------------------------------------- */

static struct offset_commit_response *commit_response(struct request *rq)
{
    const struct offset_commit_request *q = rq->body;
    struct offset_commit_response *p = arena_alloc(&rq->arena, sizeof *p);
    if (p == NULL) {
        return NULL;
    }
    codec_init(&offset_commit_response_message, p);
    p->topics =
        codec_new_array(&offset_commit_response_topics_message, &rq->arena, q->topics_count);
    if (p->topics == NULL) {
        return NULL;
    }
    p->topics_count = q->topics_count;
    for (int32_t i = 0; i < q->topics_count; i++) {
        struct offset_commit_response_topics *t = &p->topics[i];
        int32_t count = q->topics[i].partitions_count;
        t->name = q->topics[i].name;
        t->topic_id = q->topics[i].topic_id;
        t->partitions =
            codec_new_array(&offset_commit_response_topics_partitions_message, &rq->arena, count);
        if (t->partitions == NULL) {
            return NULL;
        }
        t->partitions_count = count;
        for (int32_t k = 0; k < count; k++) {
            t->partitions[k].partition_index = q->topics[i].partitions[k].partition_index;
        }
    }
    return p;
}

struct commit {
    struct request *rq;
    struct coordinated *group; /* NULL: not asked for yet */
    enum kerr group_error;
    struct offset_commit_response *ok, *failed;
};

/* Asked once, when the first partition that exists comes by. */
static enum kerr commit_group(struct commit *x)
{
    const struct offset_commit_request *q = x->rq->body;
    if (x->group == NULL && x->group_error == KERR_NONE) {
        x->group_error = coordinator_commit(
            x->rq->server->coordinator, str_slice(q->group_id), q->generation_id_or_member_epoch,
            str_slice(q->member_id), opt_slice(q->group_instance_id),
            x->rq->header.api_version >= 9, &x->group);
    }
    return x->group_error;
}

static void commit_topic(struct commit *x, int32_t i)
{
    const struct offset_commit_request *q = x->rq->body;
    const struct offset_commit_request_topics *from = &q->topics[i];
    bool by_id = x->rq->header.api_version >= TOPIC_ID_VERSION;
    const struct topics *topics = x->rq->server->topics;
    const struct topic *t = by_id ? topics_find_id(topics, &from->topic_id)
                                  : topics_find(topics, str_slice(from->name));
    for (int32_t k = 0; k < from->partitions_count; k++) {
        const struct offset_commit_request_topics_partitions *p = &from->partitions[k];
        enum kerr e = KERR_NONE;
        if (x->rq->server->coordinator == NULL) {
            e = KERR_COORDINATOR_NOT_AVAILABLE; /* first: the topics may not be there either */
        } else if (t == NULL) {
            e = names_missing(x->rq, KERR_COORDINATOR_NOT_AVAILABLE,
                              by_id ? KERR_UNKNOWN_TOPIC_ID : KERR_UNKNOWN_TOPIC_OR_PARTITION);
        } else if (!topic_has_partition(t, p->partition_index)) {
            e = KERR_UNKNOWN_TOPIC_OR_PARTITION;
        } else {
            e = commit_group(x);
        }
        if (e == KERR_NONE) {
            const struct offset_row row = {
                .offset = p->committed_offset,
                .leader_epoch = p->committed_leader_epoch,
                .topic_id = t->row->id,
                .metadata = str_slice(p->committed_metadata),
            };
            e = coordinator_commit_put(x->rq->server->coordinator, x->group,
                                       slice_str(t->row->name), p->partition_index, &row,
                                       q->retention_time_ms);
        }
        x->ok->topics[i].partitions[k].error_code = (int16_t)e;
        x->failed->topics[i].partitions[k].error_code =
            (int16_t)(e == KERR_NONE ? KERR_COORDINATOR_NOT_AVAILABLE : e);
    }
}

void api_offset_commit(struct request *rq)
{
    const struct offset_commit_request *q = rq->body;
    struct commit x = {
        .rq = rq,
        .ok = commit_response(rq),
        .failed = commit_response(rq),
    };
    if (x.ok == NULL || x.failed == NULL) {
        request_close(rq, no_memory);
        return;
    }
    for (int32_t i = 0; i < q->topics_count; i++) {
        commit_topic(&x, i);
    }
    request_reply_committed(rq, x.ok, x.failed);
}

/* --- OffsetFetch ------------------------------------------------------------------------------
 * Versions up to 7 have one group at the top, later ones a list. Both are answered in the later
 * form; the older answer is then copied out of it. */

static void fill_partition(struct offset_fetch_response_groups_topics_partitions *out,
                           const struct offset_entry *e, int32_t partition, enum kerr error)
{
    out->partition_index = partition;
    out->committed_offset = e != NULL ? e->row.offset : -1;
    out->committed_leader_epoch = e != NULL ? e->row.leader_epoch : -1;
    out->metadata = e != NULL ? slice_kstr_or_empty(e->row.metadata) : kstr_make("");
    out->error_code = (int16_t)error;
}

/* While the own store is away, nobody knows which offsets wait for the end of a transaction. Who
 * wants stable ones is made to ask again as if all did: no error of the coordinator does that to
 * librdkafka, which leaves a partition alone for good then. Others get what is in memory. */
static bool all_unstable(const struct request *rq)
{
    const struct offset_fetch_request *q = rq->body;
    return q->require_stable && rq->server->own == NULL;
}

/* Does the client want to wait for a transaction that may yet change this offset (KIP-447)? */
static bool is_unstable(const struct request *rq, struct slice group_id, struct slice topic,
                        int32_t partition)
{
    const struct offset_fetch_request *q = rq->body;
    return all_unstable(rq) ||
           (q->require_stable &&
            transactions_unstable(rq->server->transactions, group_id, topic, partition));
}

static bool fetch_topic(struct request *rq, struct slice group_id, const struct offsets *offsets,
                        enum kerr e,
                        const struct offset_fetch_request_groups_topics *from,
                        struct offset_fetch_response_groups_topics *out)
{
    int32_t count = from->partition_indexes_count;
    bool by_id = rq->header.api_version >= TOPIC_ID_VERSION;
    struct slice name = str_slice(from->name);
    if (by_id && e == KERR_NONE && !all_unstable(rq)) { /* else the topic may be away, too */
        const struct topic *t = topics_find_id(rq->server->topics, &from->topic_id);
        e = t != NULL ? KERR_NONE
                      : names_missing(rq, KERR_UNSTABLE_OFFSET_COMMIT, KERR_UNKNOWN_TOPIC_ID);
        name = t != NULL ? slice_str(t->row->name) : name;
    }
    out->name = from->name;
    out->topic_id = from->topic_id;
    out->partitions =
        codec_new_array(&offset_fetch_response_groups_topics_partitions_message, &rq->arena, count);
    if (out->partitions == NULL) {
        return false;
    }
    out->partitions_count = count;
    for (int32_t k = 0; k < count; k++) {
        int32_t partition = from->partition_indexes[k];
        const struct offset_entry *entry =
            offsets != NULL && e == KERR_NONE ? offsets_find(offsets, name, partition) : NULL;
        bool unstable = e == KERR_NONE && is_unstable(rq, group_id, name, partition);
        fill_partition(&out->partitions[k], unstable ? NULL : entry, partition,
                       unstable ? KERR_UNSTABLE_OFFSET_COMMIT : e);
    }
    return true;
}

/* Entries of one topic, from `at` on in the sorted list; returns how many. */
static size_t run_length(const struct offset_entry *const *list, size_t at, size_t count)
{
    size_t n = 1;
    while (at + n < count && slice_eq(list[at]->topic, list[at + n]->topic)) {
        n++;
    }
    return n;
}

/* Everything that the group has committed, by topic. */
static bool fetch_all(struct request *rq, struct slice group_id, const struct offsets *offsets,
                      struct offset_fetch_response_groups *out)
{
    size_t count = offsets != NULL ? offsets->count : 0;
    const struct offset_entry **list = arena_array(&rq->arena, count, sizeof *list);
    if (list == NULL) {
        return false;
    }
    size_t n = 0, topic_count = 0;
    for (struct offset_entry *e = count > 0 ? offsets->entries : NULL; e != NULL; e = e->hh.next) {
        list[n++] = e;
    }
    qsort(list, count, sizeof *list, offset_entry_compare);
    for (size_t i = 0; i < count; i += run_length(list, i, count)) {
        topic_count++;
    }
    out->topics = codec_new_array(&offset_fetch_response_groups_topics_message, &rq->arena,
                                  (int32_t)topic_count);
    if (out->topics == NULL) {
        return false;
    }
    for (size_t i = 0; i < count;) {
        size_t run = run_length(list, i, count);
        const struct topic *t = topics_find(rq->server->topics, list[i]->topic);
        if (t == NULL && rq->header.api_version >= TOPIC_ID_VERSION && !rq->server->own_away) {
            i += run; /* it has no id any more by which it could be named */
            continue;
        }
        struct offset_fetch_response_groups_topics *to = &out->topics[out->topics_count++];
        to->name = slice_kstr(list[i]->topic);
        to->topic_id = t != NULL ? t->row->id : list[i]->row.topic_id;
        to->partitions = codec_new_array(&offset_fetch_response_groups_topics_partitions_message,
                                         &rq->arena, (int32_t)run);
        if (to->partitions == NULL) {
            return false;
        }
        to->partitions_count = (int32_t)run;
        for (size_t k = 0; k < run; k++, i++) {
            bool unstable = is_unstable(rq, group_id, list[i]->topic, list[i]->partition);
            fill_partition(&to->partitions[k], unstable ? NULL : list[i], list[i]->partition,
                           unstable ? KERR_UNSTABLE_OFFSET_COMMIT : KERR_NONE);
        }
    }
    return true;
}

static bool fetch_group(struct request *rq, const struct offset_fetch_request_groups *from,
                        struct offset_fetch_response_groups *out)
{
    const struct offsets *offsets =
        coordinator_offsets(rq->server->coordinator, str_slice(from->group_id));
    enum kerr e = KERR_COORDINATOR_NOT_AVAILABLE;
    if (rq->server->coordinator != NULL) {
        e = coordinator_offset_fetch(rq->server->coordinator, str_slice(from->group_id),
                                     from->member_epoch, opt_slice(from->member_id));
    }
    offsets = e == KERR_NONE ? offsets : NULL;
    out->group_id = from->group_id;
    out->error_code = (int16_t)e;
    if (e != KERR_NONE && rq->server->coordinator != NULL) {
        out->topics_count = 0; /* what is wrong is said of the group alone */
        return true;
    }
    if (from->topics_count < 0) {
        return fetch_all(rq, str_slice(from->group_id), offsets, out);
    }
    out->topics = codec_new_array(&offset_fetch_response_groups_topics_message, &rq->arena,
                                  from->topics_count);
    if (out->topics == NULL) {
        return false;
    }
    out->topics_count = from->topics_count;
    for (int32_t i = 0; i < from->topics_count; i++) {
        if (!fetch_topic(rq, str_slice(from->group_id), offsets, e, &from->topics[i],
                         &out->topics[i])) {
            return false;
        }
    }
    return true;
}

/* The group of an old request, in the new form. */
static bool old_request(struct request *rq, struct offset_fetch_request_groups *out)
{
    const struct offset_fetch_request *q = rq->body;
    codec_init(&offset_fetch_request_groups_message, out);
    out->group_id = q->group_id;
    out->topics_count = q->topics_count;
    if (q->topics_count < 0) {
        return true;
    }
    out->topics =
        codec_new_array(&offset_fetch_request_groups_topics_message, &rq->arena, q->topics_count);
    for (int32_t i = 0; out->topics != NULL && i < q->topics_count; i++) {
        out->topics[i].name = q->topics[i].name;
        out->topics[i].partition_indexes = q->topics[i].partition_indexes;
        out->topics[i].partition_indexes_count = q->topics[i].partition_indexes_count;
    }
    return out->topics != NULL;
}

static bool old_response(struct request *rq, const struct offset_fetch_response_groups *from,
                         struct offset_fetch_response *p)
{
    p->error_code = rq->header.api_version >= 2 ? from->error_code : 0;
    p->topics =
        codec_new_array(&offset_fetch_response_topics_message, &rq->arena, from->topics_count);
    if (p->topics == NULL) {
        return false;
    }
    p->topics_count = from->topics_count;
    for (int32_t i = 0; i < from->topics_count; i++) {
        const struct offset_fetch_response_groups_topics *t = &from->topics[i];
        struct offset_fetch_response_topics *out = &p->topics[i];
        out->name = t->name;
        out->partitions = codec_new_array(&offset_fetch_response_topics_partitions_message,
                                          &rq->arena, t->partitions_count);
        if (out->partitions == NULL) {
            return false;
        }
        out->partitions_count = t->partitions_count;
        for (int32_t k = 0; k < t->partitions_count; k++) {
            out->partitions[k] = (struct offset_fetch_response_topics_partitions){
                .partition_index = t->partitions[k].partition_index,
                .committed_offset = t->partitions[k].committed_offset,
                .committed_leader_epoch = t->partitions[k].committed_leader_epoch,
                .metadata = t->partitions[k].metadata,
                .error_code = t->partitions[k].error_code,
            };
        }
    }
    return true;
}

void api_offset_fetch(struct request *rq)
{
    const struct offset_fetch_request *q = rq->body;
    struct offset_fetch_response p;
    codec_init(&offset_fetch_response_message, &p);
    bool ok;
    if (rq->header.api_version < 8) {
        struct offset_fetch_request_groups from;
        struct offset_fetch_response_groups out;
        codec_init(&offset_fetch_response_groups_message, &out);
        ok = old_request(rq, &from) && fetch_group(rq, &from, &out) && old_response(rq, &out, &p);
    } else {
        p.groups =
            codec_new_array(&offset_fetch_response_groups_message, &rq->arena, q->groups_count);
        ok = p.groups != NULL;
        p.groups_count = q->groups_count;
        for (int32_t i = 0; ok && i < q->groups_count; i++) {
            ok = fetch_group(rq, &q->groups[i], &p.groups[i]);
        }
    }
    if (!ok) {
        request_close(rq, no_memory);
        return;
    }
    request_reply(rq, &p);
}

/* --- OffsetDelete ---------------------------------------------------------------------------- */

static struct offset_delete_response *delete_response(struct request *rq, enum kerr e)
{
    struct offset_delete_response *p = arena_alloc(&rq->arena, sizeof *p);
    if (p != NULL) {
        codec_init(&offset_delete_response_message, p);
        p->error_code = (int16_t)e;
    }
    return p;
}

static bool delete_topic(struct request *rq, struct coordinated *g,
                         const struct offset_delete_request_topics *from,
                         struct offset_delete_response_topics *out)
{
    struct slice group_id = str_slice(((const struct offset_delete_request *)rq->body)->group_id);
    const struct topic *t = topics_find(rq->server->topics, str_slice(from->name));
    out->name = from->name;
    out->partitions = codec_new_array(&offset_delete_response_topics_partitions_message, &rq->arena,
                                      from->partitions_count);
    if (out->partitions == NULL) {
        return false;
    }
    out->partitions_count = from->partitions_count;
    for (int32_t k = 0; k < from->partitions_count; k++) {
        int32_t partition = from->partitions[k].partition_index;
        enum kerr e = KERR_UNKNOWN_TOPIC_OR_PARTITION;
        if (topic_has_partition(t, partition)) {
            e = coordinator_delete_offset(rq->server->coordinator, g, slice_str(t->row->name),
                                          partition);
        }
        if (e == KERR_NONE) {
            transactions_offset_gone(rq->server->transactions, group_id, slice_str(t->row->name),
                                     partition);
        }
        out->partitions[k].partition_index = partition;
        out->partitions[k].error_code = (int16_t)e;
    }
    return true;
}

void api_offset_delete(struct request *rq)
{
    const struct offset_delete_request *q = rq->body;
    struct coordinated *g = NULL;
    enum kerr e = coordinator_delete_offsets(rq->server->coordinator, str_slice(q->group_id), &g);
    if (e == KERR_NONE && rq->server->own_away) { /* nothing could be stored, nor be found */
        e = KERR_COORDINATOR_NOT_AVAILABLE;
    }
    struct offset_delete_response *p = delete_response(rq, e);
    struct offset_delete_response *failed = delete_response(rq, KERR_COORDINATOR_NOT_AVAILABLE);
    bool ok = p != NULL && failed != NULL;
    if (ok && e == KERR_NONE) {
        p->topics =
            codec_new_array(&offset_delete_response_topics_message, &rq->arena, q->topics_count);
        ok = p->topics != NULL;
        p->topics_count = ok ? q->topics_count : 0;
        for (int32_t i = 0; ok && i < q->topics_count; i++) {
            ok = delete_topic(rq, g, &q->topics[i], &p->topics[i]);
        }
    }
    if (!ok) {
        request_close(rq, no_memory);
        return;
    }
    request_reply_committed(rq, p, failed);
}
