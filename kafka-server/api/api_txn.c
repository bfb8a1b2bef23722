/* Idempotent and transactional producers: InitProducerId, AddPartitionsToTxn, AddOffsetsToTxn,
 * TxnOffsetCommit, EndTxn.
 *
 * All rules are the coordinator's (broker/transactions.h); here names become partitions of the own
 * store and its answers become messages. Everything is answered after the turn's commit; where that
 * fails, with COORDINATOR_NOT_AVAILABLE, upon which producers find their coordinator and try again.
 *
 * Clients of version 1 of some of these do not know PRODUCER_FENCED and are told
 * INVALID_PRODUCER_EPOCH. */
#include "kafka_messages.h"
#include "kafka-server/api/api_wait.h"
#include "kafka-server/broker/topics.h"
#include "kafka-server/broker/transactions.h"
#include "kafka-server/server.h"
#include "shared/base/clock.h"

static const char no_memory[] = "no memory for its answer";

static enum kerr told(const struct request *rq, enum kerr e, int16_t knows_fenced_from)
{
    return e == KERR_PRODUCER_FENCED && rq->header.api_version < knows_fenced_from
               ? KERR_INVALID_PRODUCER_EPOCH
               : e;
}

static int16_t when_failed(int16_t error)
{
    return error == KERR_NONE ? KERR_COORDINATOR_NOT_AVAILABLE : error;
}

/* A partition that transactions can be in. */
static enum kerr find_partition(const struct request *rq, struct kstr topic, int32_t partition,
                                uint32_t *uid)
{
    const struct topic *t = topics_find(rq->server->topics, str_slice(topic));
    if (!topic_has_partition(t, partition)) {
        return KERR_UNKNOWN_TOPIC_OR_PARTITION;
    }
    if (t->captured) {
        return KERR_POLICY_VIOLATION; /* as Produce answers there */
    }
    *uid = store_topic_uid(t->row, partition);
    return KERR_NONE;
}

/* --- InitProducerId --------------------------------------------------------------------------- */

void api_init_producer_id(struct request *rq)
{
    const struct init_producer_id_request *q = rq->body;
    struct init_producer_id_response *p = arena_array(&rq->arena, 2, sizeof *p);
    if (p == NULL) {
        request_close(rq, no_memory);
        return;
    }
    codec_init(&init_producer_id_response_message, &p[0]);
    const struct transactions_init r = {
        .transactional_id = opt_slice(q->transactional_id),
        .timeout_ms = q->transaction_timeout_ms,
        .expected_id = q->producer_id,
        .expected_epoch = q->producer_epoch,
    };
    p[0].producer_id = -1;
    p[0].producer_epoch = -1;
    p[1] = p[0];
    enum kerr e = KERR_INVALID_REQUEST; /* one of the two is no more than a guess */
    if ((r.expected_id == -1) == (r.expected_epoch == -1)) {
        e = transactions_init(rq->server->transactions, &r, clock_wall_ms(), &p[0].producer_id,
                              &p[0].producer_epoch);
    }
    p[0].error_code = (int16_t)told(rq, e, 4);
    p[1].error_code = when_failed(p[0].error_code);
    request_reply_committed(rq, &p[0], &p[1]);
}

/* --- AddPartitionsToTxn -----------------------------------------------------------------------
 * Up to version 3 one transaction, at the top; later a list. Both are handled in the later form. */

typedef struct add_partitions_to_txn_request_transactions add_request;
typedef struct add_partitions_to_txn_response_results_by_transaction add_result;
typedef struct add_partitions_to_txn_response_results_by_transaction_topic_results add_topic;
typedef struct
    add_partitions_to_txn_response_results_by_transaction_topic_results_results_by_partition
        add_partition;
typedef struct add_partitions_to_txn_response_results_by_topic_v3_and_below add_topic_v3;
/* Names that are longer than a line has room for. */
#define ADD_TOPIC_MESSAGE_OF(field)                                                                \
    &add_partitions_to_txn_response_results_by_transaction_topic_results##field##_message
#define ADD_PARTITION_V3_MESSAGE                                                                   \
    &add_partitions_to_txn_response_results_by_topic_v3_and_below_results_by_partition_message

static bool normalize(struct request *rq, add_request **list, int32_t *count)
{
    const struct add_partitions_to_txn_request *q = rq->body;
    if (rq->header.api_version >= 4) {
        *list = q->transactions;
        *count = q->transactions_count;
        return true;
    }
    add_request *x =
        codec_new_array(&add_partitions_to_txn_request_transactions_message, &rq->arena, 1);
    if (x == NULL) {
        return false;
    }
    x->transactional_id = q->v3_and_below_transactional_id;
    x->producer_id = q->v3_and_below_producer_id;
    x->producer_epoch = q->v3_and_below_producer_epoch;
    x->topics_count = q->v3_and_below_topics_count;
    x->topics = codec_new_array(&add_partitions_to_txn_request_transactions_topics_message,
                                &rq->arena, x->topics_count);
    for (int32_t i = 0; x->topics != NULL && i < x->topics_count; i++) {
        x->topics[i].name = q->v3_and_below_topics[i].name;
        x->topics[i].partitions = q->v3_and_below_topics[i].partitions;
        x->topics[i].partitions_count = q->v3_and_below_topics[i].partitions_count;
    }
    *list = x;
    *count = 1;
    return x->topics != NULL;
}

static bool new_result(struct request *rq, const add_request *x, add_result *out)
{
    out->transactional_id = x->transactional_id;
    out->topic_results =
        codec_new_array(ADD_TOPIC_MESSAGE_OF(), &rq->arena, x->topics_count);
    for (int32_t i = 0; out->topic_results != NULL && i < x->topics_count; i++) {
        add_topic *t = &out->topic_results[i];
        t->name = x->topics[i].name;
        t->results_by_partition =
            codec_new_array(ADD_TOPIC_MESSAGE_OF(_results_by_partition), &rq->arena,
                            x->topics[i].partitions_count);
        if (t->results_by_partition == NULL) {
            return false;
        }
        t->results_by_partition_count = x->topics[i].partitions_count;
        for (int32_t k = 0; k < t->results_by_partition_count; k++) {
            t->results_by_partition[k].partition_index = x->topics[i].partitions[k];
        }
        out->topic_results_count++;
    }
    return out->topic_results != NULL;
}

static size_t partition_total(const add_request *x)
{
    size_t n = 0;
    for (int32_t i = 0; i < x->topics_count; i++) {
        n += (size_t)x->topics[i].partitions_count;
    }
    return n;
}

static void answer_all(add_result *out, enum kerr e)
{
    for (int32_t i = 0; i < out->topic_results_count; i++) {
        add_topic *t = &out->topic_results[i];
        for (int32_t k = 0; k < t->results_by_partition_count; k++) {
            t->results_by_partition[k].partition_error_code = (int16_t)e;
        }
    }
}

/* Finds all partitions; false: some are wrong, which the result says. */
static bool find_all(const struct request *rq, const add_request *x, uint32_t *uids,
                     add_result *out)
{
    size_t n = 0;
    bool ok = true;
    answer_all(out, KERR_OPERATION_NOT_ATTEMPTED);
    for (int32_t i = 0; i < x->topics_count; i++) {
        for (int32_t k = 0; k < x->topics[i].partitions_count; k++, n++) {
            enum kerr e = find_partition(rq, x->topics[i].name, x->topics[i].partitions[k],
                                         &uids[n]);
            if (e != KERR_NONE) {
                ok = false;
                out->topic_results[i].results_by_partition[k].partition_error_code = (int16_t)e;
            }
        }
    }
    return ok;
}

static void verify_all(const struct request *rq, const struct transactions_producer *who,
                       const uint32_t *uids, add_result *out)
{
    size_t n = 0;
    for (int32_t i = 0; i < out->topic_results_count; i++) {
        add_topic *t = &out->topic_results[i];
        for (int32_t k = 0; k < t->results_by_partition_count; k++) {
            t->results_by_partition[k].partition_error_code =
                (int16_t)transactions_verify(rq->server->transactions, who, uids[n++]);
        }
    }
}

static bool add_transaction(struct request *rq, const add_request *x, add_result *out)
{
    size_t count = partition_total(x);
    uint32_t *uids = arena_array(&rq->arena, count + 1, sizeof *uids);
    const struct transactions_producer who = {str_slice(x->transactional_id), x->producer_id,
                                              x->producer_epoch};
    if (uids == NULL || !new_result(rq, x, out)) {
        return false;
    }
    if (rq->server->transactions == NULL) {
        answer_all(out, KERR_COORDINATOR_NOT_AVAILABLE); /* its topics may not be there either */
    } else if (!find_all(rq, x, uids, out)) {
        return true;
    } else if (x->verify_only) {
        verify_all(rq, &who, uids, out);
    } else {
        enum kerr e =
            transactions_add(rq->server->transactions, &who, uids, count, clock_wall_ms());
        answer_all(out, told(rq, e, 2));
    }
    return true;
}

/* The answer where nothing is stored: the same partitions, other errors. */
static bool fail_result(struct request *rq, const add_request *x, const add_result *ok,
                        add_result *out)
{
    if (!new_result(rq, x, out)) {
        return false;
    }
    for (int32_t i = 0; i < out->topic_results_count; i++) {
        for (int32_t k = 0; k < out->topic_results[i].results_by_partition_count; k++) {
            out->topic_results[i].results_by_partition[k].partition_error_code = when_failed(
                ok->topic_results[i].results_by_partition[k].partition_error_code);
        }
    }
    return true;
}

static bool to_v3(struct request *rq, struct add_partitions_to_txn_response *p)
{
    const add_result *from = &p->results_by_transaction[0];
    add_topic_v3 *to =
        codec_new_array(&add_partitions_to_txn_response_results_by_topic_v3_and_below_message,
                        &rq->arena, from->topic_results_count);
    for (int32_t i = 0; to != NULL && i < from->topic_results_count; i++) {
        const add_topic *t = &from->topic_results[i];
        int32_t count = t->results_by_partition_count;
        to[i].name = t->name;
        to[i].results_by_partition =
            codec_new_array(ADD_PARTITION_V3_MESSAGE, &rq->arena, count);
        if (to[i].results_by_partition == NULL) {
            return false;
        }
        to[i].results_by_partition_count = count;
        for (int32_t k = 0; k < count; k++) {
            const add_partition *r = &t->results_by_partition[k];
            to[i].results_by_partition[k].partition_index = r->partition_index;
            to[i].results_by_partition[k].partition_error_code = r->partition_error_code;
        }
    }
    p->results_by_topic_v3_and_below = to;
    p->results_by_topic_v3_and_below_count = to != NULL ? from->topic_results_count : 0;
    p->results_by_transaction_count = 0;
    return to != NULL;
}

static struct add_partitions_to_txn_response *add_response(struct request *rq, int32_t count)
{
    struct add_partitions_to_txn_response *p = arena_alloc(&rq->arena, sizeof *p);
    if (p != NULL) {
        codec_init(&add_partitions_to_txn_response_message, p);
        p->results_by_transaction = codec_new_array(
            &add_partitions_to_txn_response_results_by_transaction_message, &rq->arena, count);
        p->results_by_transaction_count = count;
    }
    return p != NULL && p->results_by_transaction != NULL ? p : NULL;
}

void api_add_partitions_to_txn(struct request *rq)
{
    add_request *list;
    int32_t count = 0;
    bool ok = normalize(rq, &list, &count);
    struct add_partitions_to_txn_response *p = ok ? add_response(rq, count) : NULL;
    struct add_partitions_to_txn_response *failed = ok ? add_response(rq, count) : NULL;
    ok = p != NULL && failed != NULL;
    for (int32_t i = 0; ok && i < count; i++) {
        add_result *r = &p->results_by_transaction[i];
        ok = add_transaction(rq, &list[i], r) &&
             fail_result(rq, &list[i], r, &failed->results_by_transaction[i]);
    }
    if (ok && rq->header.api_version < 4) {
        ok = to_v3(rq, p) && to_v3(rq, failed);
    }
    if (!ok) {
        request_close(rq, no_memory);
        return;
    }
    request_reply_committed(rq, p, failed);
}

/* --- AddOffsetsToTxn, EndTxn ------------------------------------------------------------------ */

void api_add_offsets_to_txn(struct request *rq)
{
    const struct add_offsets_to_txn_request *q = rq->body;
    struct add_offsets_to_txn_response *p = arena_array(&rq->arena, 2, sizeof *p);
    if (p == NULL) {
        request_close(rq, no_memory);
        return;
    }
    codec_init(&add_offsets_to_txn_response_message, &p[0]);
    const struct transactions_producer who = {str_slice(q->transactional_id), q->producer_id,
                                              q->producer_epoch};
    enum kerr e = transactions_add_group(rq->server->transactions, &who, str_slice(q->group_id),
                                         clock_wall_ms());
    p[0].error_code = (int16_t)told(rq, e, 2);
    p[1] = p[0];
    p[1].error_code = when_failed(p[0].error_code);
    request_reply_committed(rq, &p[0], &p[1]);
}

void api_end_txn(struct request *rq)
{
    const struct end_txn_request *q = rq->body;
    struct end_txn_response *p = arena_array(&rq->arena, 2, sizeof *p);
    if (p == NULL) {
        request_close(rq, no_memory);
        return;
    }
    codec_init(&end_txn_response_message, &p[0]);
    p[1] = p[0];
    const struct transactions_producer who = {str_slice(q->transactional_id), q->producer_id,
                                              q->producer_epoch};
    enum kerr e = transactions_end(rq->server->transactions, &who, q->committed,
                                   rq->header.api_version >= 5, clock_wall_ms(), &p[0].producer_id,
                                   &p[0].producer_epoch);
    p[0].error_code = (int16_t)told(rq, e, 2);
    p[1].error_code = when_failed(p[0].error_code);
    request_reply_committed(rq, &p[0], &p[1]);
}

/* --- TxnOffsetCommit -------------------------------------------------------------------------- */

static struct txn_offset_commit_response *commit_response(struct request *rq)
{
    const struct txn_offset_commit_request *q = rq->body;
    struct txn_offset_commit_response *p = arena_alloc(&rq->arena, sizeof *p);
    if (p == NULL) {
        return NULL;
    }
    codec_init(&txn_offset_commit_response_message, p);
    p->topics =
        codec_new_array(&txn_offset_commit_response_topics_message, &rq->arena, q->topics_count);
    p->topics_count = q->topics_count;
    for (int32_t i = 0; p->topics != NULL && i < q->topics_count; i++) {
        struct txn_offset_commit_response_topics *t = &p->topics[i];
        t->name = q->topics[i].name;
        t->partitions_count = q->topics[i].partitions_count;
        t->partitions = codec_new_array(&txn_offset_commit_response_topics_partitions_message,
                                        &rq->arena, t->partitions_count);
        if (t->partitions == NULL) {
            return NULL;
        }
        for (int32_t k = 0; k < t->partitions_count; k++) {
            t->partitions[k].partition_index = q->topics[i].partitions[k].partition_index;
        }
    }
    return p->topics != NULL ? p : NULL;
}

struct commit {
    struct request *rq;
    struct transactions_producer who;
    bool asked; /* may it? The answer is `may` */
    enum kerr may;
};

/* Asked once, when the first partition that exists comes by. */
static enum kerr may_commit(struct commit *x)
{
    const struct txn_offset_commit_request *q = x->rq->body;
    int16_t version = x->rq->header.api_version;
    if (x->asked) {
        return x->may;
    }
    if (q->group_id.len <= 0) {
        return KERR_INVALID_GROUP_ID;
    }
    enum txn_client client = version >= 5   ? TXN_CLIENT_ADDS
                             : version == 4 ? TXN_CLIENT_ABORTABLE
                                            : TXN_CLIENT_OLD;
    x->asked = true;
    x->may = transactions_commit(x->rq->server->transactions, &x->who, client,
                                 str_slice(q->group_id), clock_wall_ms());
    if (x->may == KERR_PRODUCER_FENCED) {
        x->may = KERR_INVALID_PRODUCER_EPOCH; /* as on all that carries data */
    }
    if (x->may == KERR_NONE) {
        x->may = coordinator_txn_commit(x->rq->server->coordinator, str_slice(q->group_id),
                                        q->generation_id, str_slice(q->member_id),
                                        opt_slice(q->group_instance_id));
    }
    return x->may;
}

static enum kerr commit_partition(struct commit *x, const struct topic *t,
                                  const struct txn_offset_commit_request_topics_partitions *from)
{
    const struct txn_offset_commit_request *q = x->rq->body;
    const struct server *s = x->rq->server;
    if (s->transactions == NULL) {
        return KERR_COORDINATOR_NOT_AVAILABLE;
    }
    if (!topic_has_partition(t, from->partition_index)) {
        return KERR_UNKNOWN_TOPIC_OR_PARTITION;
    }
    const struct offset_row row = {
        .offset = from->committed_offset,
        .leader_epoch = from->committed_leader_epoch,
        .expire_ms = -1,
        .topic_id = t->row->id,
        .metadata = str_slice(from->committed_metadata),
    };
    enum kerr e = may_commit(x);
    if (e == KERR_NONE && row.metadata.len > (size_t)s->config.server.offset_metadata_max_bytes) {
        e = KERR_OFFSET_METADATA_TOO_LARGE;
    }
    return e != KERR_NONE ? e
                          : transactions_commit_put(s->transactions, &x->who,
                                                    str_slice(q->group_id),
                                                    slice_str(t->row->name),
                                                    from->partition_index, &row);
}

void api_txn_offset_commit(struct request *rq)
{
    const struct txn_offset_commit_request *q = rq->body;
    struct txn_offset_commit_response *p = commit_response(rq), *failed = commit_response(rq);
    if (p == NULL || failed == NULL) {
        request_close(rq, no_memory);
        return;
    }
    struct commit x = {
        .rq = rq,
        .who = {str_slice(q->transactional_id), q->producer_id, q->producer_epoch},
    };
    for (int32_t i = 0; i < q->topics_count; i++) {
        const struct topic *t = topics_find(rq->server->topics, str_slice(q->topics[i].name));
        for (int32_t k = 0; k < q->topics[i].partitions_count; k++) {
            enum kerr e = commit_partition(&x, t, &q->topics[i].partitions[k]);
            p->topics[i].partitions[k].error_code = (int16_t)e;
            failed->topics[i].partitions[k].error_code = when_failed((int16_t)e);
        }
    }
    request_reply_committed(rq, p, failed);
}
