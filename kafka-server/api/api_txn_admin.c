/* Transactions and producers as tools see them: DescribeProducers, DescribeTransactions,
 * ListTransactions, and WriteTxnMarkers, which is what a tool that aborts a hanging transaction
 * sends.
 *
 * A transaction knows its partitions by uid. Their names are looked up among the topics that there
 * are: one that was deleted is not shown. */
#include <stdlib.h>

#include "kafka_messages.h"
#include "kafka-server/api/api_names.h"
#include "kafka-server/api/api_wait.h"
#include "kafka-server/broker/journal.h"
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

/* Of the errors after which Kafka's admin client looks for the leader again, and asks it, the one
 * that speaks of this moment. */
static enum kerr why_missing(const struct request *rq, const struct topic *t)
{
    return t == NULL ? names_missing(rq, KERR_NOT_LEADER_OR_FOLLOWER,
                                     KERR_UNKNOWN_TOPIC_OR_PARTITION)
                     : KERR_UNKNOWN_TOPIC_OR_PARTITION;
}

static bool describe_partition(struct request *rq, struct slice name, const struct topic *t,
                               int32_t partition, producers_partition *out)
{
    enum kerr e = KERR_NONE;
    if (!topic_name_ok(name)) {
        e = KERR_INVALID_TOPIC_EXCEPTION;
    } else if (!topic_has_partition(t, partition)) {
        e = why_missing(rq, t);
    }
    out->partition_index = partition;
    out->error_code = (int16_t)e;
    if (e != KERR_NONE) {
        out->error_message = kstr_make(e == KERR_NOT_LEADER_OR_FOLLOWER
                                           ? "The topic cannot be looked for now."
                                           : "There is no such topic or partition.");
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

/* Which partition has this uid? Made once for a request that needs it. */
struct place {
    uint32_t uid;
    int32_t partition;
    size_t topic; /* in the order of names */
};

struct places {
    struct place *list; /* by uid; NULL: not made yet */
    size_t count;
};

static int by_uid(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    return (x->uid > y->uid) - (x->uid < y->uid);
}

static int by_name(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    int order = (x->topic > y->topic) - (x->topic < y->topic);
    return order != 0 ? order : (x->partition > y->partition) - (x->partition < y->partition);
}

static bool make_places(const struct topics *topics, struct places *p)
{
    size_t room = 1;
    for (size_t i = 0; i < topics_count(topics); i++) {
        const struct topic *t = topics_at(topics, i);
        room += t->captured ? 0 : (size_t)t->row->partition_count;
    }
    p->list = malloc(room * sizeof *p->list);
    for (size_t i = 0; p->list != NULL && i < topics_count(topics); i++) {
        const struct topic *t = topics_at(topics, i);
        for (int32_t k = 0; !t->captured && k < t->row->partition_count; k++) {
            p->list[p->count++] = (struct place){store_topic_uid(t->row, k), k, i};
        }
    }
    if (p->list != NULL) {
        qsort(p->list, p->count, sizeof *p->list, by_uid);
    }
    return p->list != NULL;
}

/* The partitions of x that are still there, in the order of names. NULL: no memory. */
static struct place *places_of(struct request *rq, const struct txn *x, struct places *all,
                               size_t *count)
{
    struct place *found = arena_array(&rq->arena, x->uid_count + 1, sizeof *found);
    *count = 0;
    if (found == NULL || (all->list == NULL && !make_places(rq->server->topics, all))) {
        return NULL;
    }
    for (size_t i = 0; i < x->uid_count; i++) {
        const struct place key = {.uid = x->uids[i]};
        const struct place *at = bsearch(&key, all->list, all->count, sizeof key, by_uid);
        if (at != NULL) {
            found[(*count)++] = *at;
        }
    }
    qsort(found, *count, sizeof *found, by_name);
    return found;
}

static bool describe_topics(struct request *rq, const struct txn *x, struct places *all,
                            described *out)
{
    size_t count, topic_count = 0;
    if (x->uid_count == 0) {
        return true;
    }
    const struct place *found = places_of(rq, x, all, &count);
    int32_t *partitions = arena_array(&rq->arena, x->uid_count, sizeof *partitions);
    for (size_t i = 0; found != NULL && i < count; i++) {
        topic_count += i == 0 || found[i].topic != found[i - 1].topic;
    }
    out->topics = codec_new_array(&describe_transactions_response_transaction_states_topics_message,
                                  &rq->arena, (int32_t)topic_count);
    if (found == NULL || partitions == NULL || out->topics == NULL) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        if (i == 0 || found[i].topic != found[i - 1].topic) {
            described_topic *fresh = &out->topics[out->topics_count++];
            fresh->topic = kstr_make(topics_at(rq->server->topics, found[i].topic)->row->name);
            fresh->partitions = &partitions[i];
        }
        partitions[i] = found[i].partition;
        out->topics[out->topics_count - 1].partitions_count++;
    }
    return true;
}

static bool describe_transaction(struct request *rq, struct kstr id, struct places *all,
                                 described *out)
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
    return describe_topics(rq, x, all, out);
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
    struct places all = {0};
    p.transaction_states_count = q->transactional_ids_count;
    for (int32_t i = 0; ok && i < q->transactional_ids_count; i++) {
        ok = describe_transaction(rq, q->transactional_ids[i], &all, &p.transaction_states[i]);
    }
    free(all.list);
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
    unsigned states;             /* a bit for each that is wanted */
    const int64_t *producer_ids; /* those that are wanted, ascending */
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

static int compare_ids(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Each transactional id there is would be compared with each filter. False: no memory. */
static bool listing_prepare(struct request *rq, struct listing *l)
{
    const struct list_transactions_request *q = l->q;
    for (int32_t i = 0; i < q->state_filters_count; i++) {
        for (enum txn_state s = TXN_EMPTY; s <= TXN_NEW; s++) {
            bool wanted = slice_eq(str_slice(q->state_filters[i]), slice_str(txn_state_name(s)));
            l->states |= wanted ? 1u << s : 0;
        }
    }
    if (q->producer_id_filters_count <= 0) {
        return true;
    }
    size_t count = (size_t)q->producer_id_filters_count;
    int64_t *ids = arena_array(&rq->arena, count, sizeof *ids);
    if (ids == NULL) {
        return false;
    }
    memcpy(ids, q->producer_id_filters, count * sizeof *ids);
    qsort(ids, count, sizeof *ids, compare_ids);
    l->producer_ids = ids;
    return true;
}

static bool is_wanted(const struct listing *l, const struct txn *x)
{
    const struct list_transactions_request *q = l->q;
    bool by_id = q->producer_id_filters_count <= 0 ||
                 bsearch(&x->producer_id, l->producer_ids, (size_t)q->producer_id_filters_count,
                         sizeof *l->producer_ids, compare_ids) != NULL;
    bool by_state = q->state_filters_count <= 0 || (l->states & 1u << x->state) != 0;
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
    } else if (q->producer_id_filters_count > (int32_t)TRANSACTIONS_MAX) {
        p.error_code = KERR_INVALID_REQUEST; /* more than there can be; sorting them takes long */
    } else {
        ok = list_unknown_states(rq, &p) && listing_prepare(rq, &l) && list_all(rq, &l, &p);
    }
    topic_regex_free(l.pattern);
    if (!ok) {
        request_close(rq, no_memory);
        return;
    }
    request_reply(rq, &p);
}

/* --- WriteTxnMarkers -------------------------------------------------------------------------- */

#define MARKERS_BYTES_MAX (4 * JOURNAL_TURN_BYTES) /* that one turn may write for them */

typedef struct write_txn_markers_request_markers markers_request;
typedef struct write_txn_markers_response_markers markers_result;

static enum kerr write_marker(struct request *rq, const markers_request *m, struct kstr topic,
                              int32_t partition)
{
    const struct topic *t = topics_find(rq->server->topics, str_slice(topic));
    if (!topic_has_partition(t, partition)) {
        return why_missing(rq, t);
    }
    if (t->captured) {
        return KERR_POLICY_VIOLATION;
    }
    if (rq->server->journal != NULL && journal_bytes(rq->server->journal) >= MARKERS_BYTES_MAX) {
        return KERR_REQUEST_TIMED_OUT; /* to be asked for again */
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
