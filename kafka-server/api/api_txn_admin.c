/* Transactions and producers as tools see them: DescribeProducers, DescribeTransactions,
 * ListTransactions, and WriteTxnMarkers, which is what a tool that aborts a hanging transaction
 * sends.
 *
 * A transaction knows its partitions by uid. Their names are looked up among the topics that there
 * are: one that was deleted is not shown. */
#include "kafka_messages.h"
#include "kafka-server/api/api_wait.h"
#include "kafka-server/broker/topic_regex.h"
#include "kafka-server/broker/topics.h"
#include "kafka-server/broker/transactions.h"
#include "kafka-server/server.h"
#include "shared/base/clock.h"

static const char no_memory[] = "no memory for its answer";

/* --- DescribeProducers ------------------------------------------------------------------------ */

typedef struct describe_producers_response_topics_partitions producers_partition;
#define PRODUCERS_PARTITION_MESSAGE &describe_producers_response_topics_partitions_message

struct collect {
    producers_partition *out; /* its active_producers: NULL while they are counted */
    int32_t count;
};

static bool collect_producer(void *arg, const struct producers_view *v)
{
    struct collect *c = arg;
    if (c->out->active_producers != NULL) {
        c->out->active_producers[c->count] =
            (struct describe_producers_response_topics_partitions_active_producers){
                .producer_id = v->producer_id,
                .producer_epoch = v->producer_epoch,
                .last_sequence = v->last_sequence,
                .last_timestamp = v->last_timestamp,
                .coordinator_epoch = v->coordinator_epoch,
                .current_txn_start_offset = v->txn_first_offset,
            };
    }
    c->count++;
    return true;
}

static bool describe_partition(struct request *rq, struct slice name, const struct topic *t,
                               int32_t partition, producers_partition *out)
{
    out->partition_index = partition;
    if (!topic_name_ok(name)) {
        out->error_code = KERR_INVALID_TOPIC_EXCEPTION;
    } else if (!topic_has_partition(t, partition)) {
        out->error_code = KERR_UNKNOWN_TOPIC_OR_PARTITION;
    }
    if (out->error_code != KERR_NONE) {
        out->error_message = kstr_make("There is no such topic or partition.");
        return true;
    }
    if (t->captured || rq->server->producers == NULL) {
        return true;
    }
    struct collect c = {.out = out};
    uint32_t uid = store_topic_uid(t->row, partition);
    producers_each(rq->server->producers, uid, collect_producer, &c);
    out->active_producers =
        codec_new_array(&describe_producers_response_topics_partitions_active_producers_message,
                        &rq->arena, c.count);
    if (out->active_producers == NULL) {
        return false;
    }
    out->active_producers_count = c.count;
    c.count = 0;
    if (out->active_producers_count > 0) {
        producers_each(rq->server->producers, uid, collect_producer, &c);
    }
    return true;
}

void api_describe_producers(struct request *rq)
{
    const struct describe_producers_request *q = rq->body;
    struct describe_producers_response p;
    codec_init(&describe_producers_response_message, &p);
    p.topics =
        codec_new_array(&describe_producers_response_topics_message, &rq->arena, q->topics_count);
    bool ok = p.topics != NULL;
    p.topics_count = q->topics_count;
    for (int32_t i = 0; ok && i < q->topics_count; i++) {
        const struct describe_producers_request_topics *from = &q->topics[i];
        const struct topic *t = topics_find(rq->server->topics, str_slice(from->name));
        p.topics[i].name = from->name;
        p.topics[i].partitions_count = from->partition_indexes_count;
        p.topics[i].partitions = codec_new_array(PRODUCERS_PARTITION_MESSAGE, &rq->arena,
                                                 from->partition_indexes_count);
        ok = p.topics[i].partitions != NULL;
        for (int32_t k = 0; ok && k < from->partition_indexes_count; k++) {
            ok = describe_partition(rq, str_slice(from->name), t, from->partition_indexes[k],
                                    &p.topics[i].partitions[k]);
        }
    }
    if (!ok) {
        request_close(rq, no_memory);
        return;
    }
    request_reply(rq, &p);
}

/* --- DescribeTransactions --------------------------------------------------------------------- */

typedef struct describe_transactions_response_transaction_states described;
typedef struct describe_transactions_response_transaction_states_topics described_topic;

static int32_t partitions_of(const struct txn *x, const struct topic *t, int32_t *out)
{
    int32_t n = 0;
    for (int32_t k = 0; !t->captured && k < t->row->partition_count; k++) {
        if (txn_has_partition(x, store_topic_uid(t->row, k))) {
            if (out != NULL) {
                out[n] = k;
            }
            n++;
        }
    }
    return n;
}

static bool describe_topics(struct request *rq, const struct txn *x, described *out)
{
    const struct topics *topics = rq->server->topics;
    size_t count = topics_count(topics);
    int32_t found = 0;
    for (size_t i = 0; x->uid_count > 0 && i < count; i++) {
        found += partitions_of(x, topics_at(topics, i), NULL) > 0;
    }
    out->topics = codec_new_array(&describe_transactions_response_transaction_states_topics_message,
                                  &rq->arena, found);
    if (out->topics == NULL) {
        return false;
    }
    for (size_t i = 0; out->topics_count < found && i < count; i++) {
        const struct topic *t = topics_at(topics, i);
        int32_t n = partitions_of(x, t, NULL);
        if (n == 0) {
            continue;
        }
        described_topic *to = &out->topics[out->topics_count++];
        to->topic = kstr_make(t->row->name);
        to->partitions = arena_array(&rq->arena, (size_t)n, sizeof *to->partitions);
        if (to->partitions == NULL) {
            return false;
        }
        to->partitions_count = partitions_of(x, t, to->partitions);
    }
    return true;
}

static bool describe_transaction(struct request *rq, struct kstr id, described *out)
{
    const struct txn *x = transactions_find(rq->server->transactions, str_slice(id));
    out->transactional_id = id;
    if (rq->server->transactions == NULL) {
        out->error_code = KERR_COORDINATOR_NOT_AVAILABLE;
    } else if (id.len <= 0) {
        out->error_code = KERR_INVALID_REQUEST;
    } else if (x == NULL) {
        out->error_code = KERR_TRANSACTIONAL_ID_NOT_FOUND;
    }
    if (out->error_code != KERR_NONE) {
        return true;
    }
    out->transaction_state = kstr_make(txn_state_name(x->state));
    out->transaction_timeout_ms = x->timeout_ms;
    out->transaction_start_time_ms = x->start_ms;
    out->producer_id = x->producer_id;
    out->producer_epoch = x->epoch;
    return describe_topics(rq, x, out);
}

void api_describe_transactions(struct request *rq)
{
    const struct describe_transactions_request *q = rq->body;
    struct describe_transactions_response p;
    codec_init(&describe_transactions_response_message, &p);
    p.transaction_states =
        codec_new_array(&describe_transactions_response_transaction_states_message, &rq->arena,
                        q->transactional_ids_count);
    bool ok = p.transaction_states != NULL;
    p.transaction_states_count = q->transactional_ids_count;
    for (int32_t i = 0; ok && i < q->transactional_ids_count; i++) {
        ok = describe_transaction(rq, q->transactional_ids[i], &p.transaction_states[i]);
    }
    if (!ok) {
        request_close(rq, no_memory);
        return;
    }
    request_reply(rq, &p);
}

/* --- ListTransactions ------------------------------------------------------------------------- */

typedef struct list_transactions_response_transaction_states listed;

struct listing {
    const struct list_transactions_request *q;
    struct topic_regex *pattern; /* NULL: all */
    int64_t now_ms;
    listed *out; /* NULL: they are counted */
    int32_t count;
};

/* All that Kafka knows; of those that are not here, nothing is ever found. */
static bool state_is_known(struct slice name)
{
    static const char *const names[] = {"Empty",          "Ongoing",       "PrepareCommit",
                                        "PrepareAbort",   "CompleteCommit", "CompleteAbort",
                                        "Dead",           "PrepareEpochFence"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (slice_eq(name, slice_str(names[i]))) {
            return true;
        }
    }
    return false;
}

static bool is_wanted(const struct listing *l, const struct txn *x)
{
    const struct list_transactions_request *q = l->q;
    bool by_id = q->producer_id_filters_count <= 0, by_state = q->state_filters_count <= 0;
    for (int32_t i = 0; !by_id && i < q->producer_id_filters_count; i++) {
        by_id = q->producer_id_filters[i] == x->producer_id;
    }
    for (int32_t i = 0; !by_state && i < q->state_filters_count; i++) {
        by_state = slice_eq(str_slice(q->state_filters[i]), slice_str(txn_state_name(x->state)));
    }
    bool by_age = q->duration_filter < 0 || l->now_ms - x->start_ms > q->duration_filter;
    return by_id && by_state && by_age &&
           (l->pattern == NULL || topic_regex_match(l->pattern, x->id));
}

static bool list_one(void *arg, const struct txn *x)
{
    struct listing *l = arg;
    if (!is_wanted(l, x)) {
        return true;
    }
    if (l->out != NULL) {
        l->out[l->count] = (listed){.transactional_id = slice_kstr(x->id),
                                    .producer_id = x->producer_id,
                                    .transaction_state = kstr_make(txn_state_name(x->state))};
    }
    l->count++;
    return true;
}

static bool list_unknown_states(struct request *rq, struct list_transactions_response *p)
{
    const struct list_transactions_request *q = rq->body;
    size_t room = q->state_filters_count > 0 ? (size_t)q->state_filters_count : 1;
    p->unknown_state_filters = arena_array(&rq->arena, room, sizeof *p->unknown_state_filters);
    for (int32_t i = 0; p->unknown_state_filters != NULL && i < q->state_filters_count; i++) {
        if (!state_is_known(str_slice(q->state_filters[i]))) {
            p->unknown_state_filters[p->unknown_state_filters_count++] = q->state_filters[i];
        }
    }
    return p->unknown_state_filters != NULL;
}

static bool list_all(struct request *rq, struct listing *l, struct list_transactions_response *p)
{
    transactions_each(rq->server->transactions, list_one, l);
    p->transaction_states = codec_new_array(&list_transactions_response_transaction_states_message,
                                            &rq->arena, l->count);
    if (p->transaction_states == NULL) {
        return false;
    }
    p->transaction_states_count = l->count;
    l->out = p->transaction_states;
    int32_t count = l->count;
    l->count = 0;
    if (count > 0) {
        transactions_each(rq->server->transactions, list_one, l);
    }
    return true;
}

void api_list_transactions(struct request *rq)
{
    const struct list_transactions_request *q = rq->body;
    struct list_transactions_response p;
    struct listing l = {.q = q, .now_ms = clock_wall_ms()};
    codec_init(&list_transactions_response_message, &p);
    bool ok = true;
    if (q->transactional_id_pattern.len > 0) {
        l.pattern = topic_regex_new(str_slice(q->transactional_id_pattern));
    }
    if (rq->server->transactions == NULL) {
        p.error_code = KERR_COORDINATOR_NOT_AVAILABLE;
    } else if (q->transactional_id_pattern.len > 0 && l.pattern == NULL) {
        p.error_code = KERR_INVALID_REGULAR_EXPRESSION;
    } else {
        ok = list_unknown_states(rq, &p) && list_all(rq, &l, &p);
    }
    topic_regex_free(l.pattern);
    if (!ok) {
        request_close(rq, no_memory);
        return;
    }
    request_reply(rq, &p);
}

/* --- WriteTxnMarkers -------------------------------------------------------------------------- */

typedef struct write_txn_markers_request_markers markers_request;
typedef struct write_txn_markers_response_markers markers_result;

static enum kerr write_marker(struct request *rq, const markers_request *m, struct kstr topic,
                              int32_t partition)
{
    const struct topic *t = topics_find(rq->server->topics, str_slice(topic));
    if (!topic_has_partition(t, partition)) {
        return KERR_UNKNOWN_TOPIC_OR_PARTITION;
    }
    if (t->captured) {
        return KERR_POLICY_VIOLATION;
    }
    struct producers_marker k = {.producer_id = m->producer_id,
                                 .producer_epoch = m->producer_epoch,
                                 .coordinator_epoch = m->coordinator_epoch,
                                 .commits = m->transaction_result};
    return transactions_write_marker(rq->server->transactions, store_topic_uid(t->row, partition),
                                     &k, clock_wall_ms());
}

/* ok NULL: asks for the markers. Else what to answer in place of *ok when nothing is stored. */
static bool fill_marker(struct request *rq, const markers_request *m, const markers_result *ok,
                        markers_result *out)
{
    out->producer_id = m->producer_id;
    out->topics = codec_new_array(&write_txn_markers_response_markers_topics_message, &rq->arena,
                                  m->topics_count);
    for (int32_t i = 0; out->topics != NULL && i < m->topics_count; i++) {
        struct write_txn_markers_response_markers_topics *t = &out->topics[i];
        int32_t count = m->topics[i].partition_indexes_count;
        t->name = m->topics[i].name;
        t->partitions =
            codec_new_array(&write_txn_markers_response_markers_topics_partitions_message,
                            &rq->arena, count);
        if (t->partitions == NULL) {
            return false;
        }
        t->partitions_count = count;
        for (int32_t k = 0; k < count; k++) {
            int32_t partition = m->topics[i].partition_indexes[k];
            enum kerr e = ok == NULL ? write_marker(rq, m, t->name, partition)
                                     : (enum kerr)ok->topics[i].partitions[k].error_code;
            t->partitions[k].partition_index = partition;
            t->partitions[k].error_code =
                (int16_t)(ok != NULL && e == KERR_NONE ? KERR_KAFKA_STORAGE_ERROR : e);
        }
        out->topics_count++;
    }
    return out->topics != NULL;
}

static struct write_txn_markers_response *markers_response(struct request *rq, int32_t count)
{
    struct write_txn_markers_response *p = arena_alloc(&rq->arena, sizeof *p);
    if (p != NULL) {
        codec_init(&write_txn_markers_response_message, p);
        p->markers =
            codec_new_array(&write_txn_markers_response_markers_message, &rq->arena, count);
        p->markers_count = count;
    }
    return p != NULL && p->markers != NULL ? p : NULL;
}

void api_write_txn_markers(struct request *rq)
{
    const struct write_txn_markers_request *q = rq->body;
    struct write_txn_markers_response *p = markers_response(rq, q->markers_count);
    struct write_txn_markers_response *failed = markers_response(rq, q->markers_count);
    bool ok = p != NULL && failed != NULL;
    for (int32_t i = 0; ok && i < q->markers_count; i++) {
        ok = fill_marker(rq, &q->markers[i], NULL, &p->markers[i]) &&
             fill_marker(rq, &q->markers[i], &p->markers[i], &failed->markers[i]);
    }
    if (!ok) {
        request_close(rq, no_memory);
        return;
    }
    request_reply_committed(rq, p, failed);
}
