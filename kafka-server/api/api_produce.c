/* Produce: batches into the turn's commit, an answer after it.
 *
 *      request ─▶ step ─── nothing was taken, no partition is left ──────────▶ answer
 *                  ▲ ├──── something was taken, or the turn is full ─▶ WAITING
 *                  │ │                                                    │ commit
 *                  ├─│─ partitions left ◀─────────────────────────────────┤
 *                  │ │                                                    └─ none left ─▶ answer
 *                  │ └──── what comes next takes long to judge ─▶ JUDGING (another thread)
 *                  └───────────────────────────────────────────────┘
 *
 * A request is worked on in steps: when the turn has done JOURNAL_TURN_BYTES, what is left waits
 * for the next, so that a hundred producers with large requests do not make one turn in which
 * nobody else is heard. The batches are used where they are, in the request's frame; the store
 * copies them into its commit.
 *
 * What has to be decompressed or compressed at length is judged by one thread, in the order in
 * which it came, however many producers there are: the memory of one batch, 128 MB at most, is
 * then that of all of them. It works on a copy, as the frame goes with its connection.
 *
 * Captured streams are written by MQTT alone: every write is refused, with a sentence.
 *
 * acks=0 gets no answer, so the connection is closed when something is wrong, as Kafka does. acks=1
 * and acks=all are the same on one node.
 *
 * Clients take from this API which records they may read: librdkafka up to 2.11 believes in today's
 * record batches only where Produce 3 is offered, in zstd where 7 is, and in compression at all
 * where 0 is. Versions 0 to 2 are offered for that reason only, as Kafka itself does; who sends one
 * is disconnected, as by Kafka. */
#include <stdatomic.h>
#include <stdlib.h>

#include "kafka-server/api/api.h"
#include "kafka-server/api/api_wait.h"
#include "kafka-server/broker/append.h"
#include "kafka-server/broker/journal.h"
#include "kafka-server/broker/topic_admin.h"
#include "kafka-server/broker/workers.h"
#include "kafka-server/net/net.h"
#include "kafka-server/server.h"
#include "kafka_messages.h"
#include "shared/base/clock.h"

#define NOT_WRITTEN "Kafka clients do not write into it"
#define PARTITION_WORK_BYTES 256 /* what one is for a turn, whatever it holds */
#define PRODUCE_BY_ID 13 /* first version that has ids in place of names */

typedef struct produce_response_responses_partition_responses partition_response;
typedef struct produce_request_topic_data_partition_data partition_request;

/* Records at another thread. */
struct judging {
    struct work work; /* first: run and done cast back */
    struct judgement *judgement;
    struct produce *w; /* NULL: the connection is gone; loop thread */
    atomic_bool gone;  /* the same, for the thread that judges */
    struct server *server;
    bool back; /* it is judged */
};

struct produce {
    struct journal_wait wait; /* first: done casts back */
    struct request *rq;
    struct produce_response p;
    int32_t topic, partition;           /* the next to be worked on */
    int32_t step_topic, step_partition; /* the first of this step */
    bool wrong;                         /* one of them has an error */
    bool later;                         /* the next one is for another thread … */
    struct judging *judging;            /* … and it is there, or has come back */
};

/* --- answers --------------------------------------------------------------------------------- */

static bool make_answers(struct produce *w)
{
    struct request *rq = w->rq;
    const struct produce_request *q = rq->body;
    codec_init(&produce_response_message, &w->p);
    w->p.responses =
        codec_new_array(&produce_response_responses_message, &rq->arena, q->topic_data_count);
    if (w->p.responses == NULL) {
        return false;
    }
    w->p.responses_count = q->topic_data_count;
    for (int32_t i = 0; i < q->topic_data_count; i++) {
        const struct produce_request_topic_data *in = &q->topic_data[i];
        struct produce_response_responses *out = &w->p.responses[i];
        out->name = in->name;
        out->topic_id = in->topic_id;
        out->partition_responses =
            codec_new_array(&produce_response_responses_partition_responses_message, &rq->arena,
                            in->partition_data_count);
        if (out->partition_responses == NULL) {
            return false;
        }
        out->partition_responses_count = in->partition_data_count;
        for (int32_t k = 0; k < in->partition_data_count; k++) {
            out->partition_responses[k].index = in->partition_data[k].index;
            out->partition_responses[k].base_offset = -1;
        }
    }
    return true;
}

static struct kstr keep_text(struct request *rq, const char *text)
{
    size_t len = strlen(text);
    const char *copy = len != 0 ? arena_strndup(&rq->arena, text, len) : NULL;
    return (struct kstr){copy, copy != NULL ? (int32_t)len : -1};
}

/* The records that are to blame (KIP-467): left out when there is no memory for them. */
static void fill_records(struct produce *w, const struct append_answer *a,
                         const struct record_rules *rules, partition_response *out)
{
    out->record_errors = codec_new_array(
        &produce_response_responses_partition_responses_record_errors_message, &w->rq->arena,
        (int32_t)a->record_count);
    for (uint32_t i = 0; out->record_errors != NULL && i < a->record_count; i++) {
        struct errmsg text;
        record_error_text(&a->records[i], rules, &text);
        out->record_errors[i].batch_index = a->records[i].index;
        out->record_errors[i].batch_index_error_message = keep_text(w->rq, text.text);
        out->record_errors_count++;
    }
}

static void fill_answer(struct produce *w, const struct append_answer *a, partition_response *out)
{
    out->error_code = (int16_t)a->error;
    out->base_offset = a->base_offset;
    out->log_append_time_ms = a->log_append_time_ms;
    out->log_start_offset = a->log_start;
    out->error_message = keep_text(w->rq, a->why.text);
    w->wrong |= a->error != KERR_NONE;
}

static void finish(struct produce *w)
{
    struct request *rq = w->rq;
    const struct produce_request *q = rq->body;
    rq->cancel = NULL;
    if (q->acks != 0) {
        request_reply(rq, &w->p);
    } else if (w->wrong) {
        request_close(rq, "wrote with acks=0 what cannot be stored");
    } else {
        request_end(rq);
    }
}

/* --- one partition --------------------------------------------------------------------------- */

static const struct topic *find_topic(const struct request *rq,
                                      const struct produce_request_topic_data *in)
{
    const struct topics *topics = rq->server->topics;
    return rq->header.api_version >= PRODUCE_BY_ID ? topics_find_id(topics, &in->topic_id)
                                                   : topics_find(topics, kstr_slice(in->name));
}

static enum kerr why_unknown(const struct request *rq, const struct topic *t)
{
    if (t == NULL && rq->server->own == NULL) {
        return KERR_KAFKA_STORAGE_ERROR; /* it may be there once the own store is open */
    }
    return t == NULL && rq->header.api_version >= PRODUCE_BY_ID ? KERR_UNKNOWN_TOPIC_ID
                                                                : KERR_UNKNOWN_TOPIC_OR_PARTITION;
}

static int32_t level_of(const struct topic_settings *s)
{
    switch (s->compression) {
    case TOPIC_COMPRESSION_GZIP:
        return s->gzip_level == -1 ? BATCH_LEVEL_DEFAULT : s->gzip_level;
    case TOPIC_COMPRESSION_LZ4:
        return s->lz4_level;
    case TOPIC_COMPRESSION_ZSTD:
        return s->zstd_level;
    default:
        return BATCH_LEVEL_DEFAULT;
    }
}

static struct record_rules rules_of(const struct request *rq, const struct topic *t)
{
    const struct topic_settings *s =
        topics_settings(rq->server->topics, t, &rq->server->config);
    return (struct record_rules){
        .produce_version = rq->header.api_version,
        .keys_required = (s->cleanup & STORE_CLEANUP_COMPACT) != 0,
        .append_time = s->log_append_time,
        .codec = (int8_t)s->compression,
        .level = level_of(s),
        .message_bytes_max = s->max_message_bytes,
        .before_max_ms = s->timestamp_before_max_ms,
        .after_max_ms = s->timestamp_after_max_ms,
        .now_ms = clock_wall_ms(),
    };
}

static struct append_place place_of(const struct request *rq, const struct topic *t,
                                    int32_t partition)
{
    const struct server *server = rq->server;
    const struct produce_request *q = rq->body;
    return (struct append_place){
        .journal = server->journal,
        .producers = server->producers,
        .transactions = server->transactions,
        .topic = t,
        .partition = partition,
        .transactional_id = opt_slice(q->transactional_id),
    };
}

static struct slice records_of(const partition_request *data)
{
    const struct iovec *iov = data->records.iov_count == 1 ? data->records.iov : NULL;
    return iov != NULL ? slice_make(iov->iov_base, iov->iov_len) : slice_make(NULL, 0);
}

static void judging_free(struct judging *x)
{
    if (x != NULL) {
        judgement_free(x->judgement);
        free(x);
    }
}

/* What is still at the other thread frees itself when it comes back. */
static void forget_judging(struct produce *w)
{
    struct judging *x = w->judging;
    w->judging = NULL;
    if (x != NULL && !x->back) {
        x->w = NULL;
        atomic_store(&x->gone, true);
    } else {
        judging_free(x);
    }
}

/* As append_records, of what another thread has judged where it did. */
static enum append_result append(struct produce *w, const struct topic *t,
                                 const partition_request *data, struct append_answer *a,
                                 partition_response *out)
{
    struct request *rq = w->rq;
    const struct append_place at = place_of(rq, t, data->index);
    struct record_rules rules = rules_of(rq, t);
    struct slice r = records_of(data);
    enum append_result taken;
    if (w->judging != NULL) {
        rules = w->judging->judgement->rules;
        taken = append_judged(&at, w->judging->judgement, a);
    } else if (w->later) {
        return APPEND_LATER;
    } else {
        taken = append_records(rq->server->appender, &at, &rules, (uint8_t *)(uintptr_t)r.data,
                               r.len, a);
    }
    if (a->record_count != 0 && taken == APPEND_REFUSED) {
        fill_records(w, a, &rules, out);
    }
    return taken;
}

static enum append_result take_partition(struct produce *w,
                                         const struct produce_request_topic_data *in,
                                         const partition_request *data, partition_response *out)
{
    struct request *rq = w->rq;
    const struct produce_request *q = rq->body;
    const struct topic *t = find_topic(rq, in);
    struct append_answer a = {.base_offset = -1, .log_append_time_ms = -1, .log_start = -1};
    enum append_result taken = APPEND_REFUSED;
    a.error = topic_has_partition(t, data->index) ? topic_check_free(t, NOT_WRITTEN, &a.why)
                                                  : why_unknown(rq, t);
    if (a.error != KERR_NONE) {
        /* nothing to judge */
    } else if (q->acks < -1 || q->acks > 1) {
        a.error = KERR_INVALID_REQUIRED_ACKS;
    } else {
        taken = append(w, t, data, &a, out);
    }
    if (taken != APPEND_LATER) {
        fill_answer(w, &a, out);
        forget_judging(w);
        w->later = false;
    }
    return taken;
}

/* --- steps ----------------------------------------------------------------------------------- */

static void step(struct produce *w);

static bool move_on(struct produce *w)
{
    const struct produce_request *q = w->rq->body;
    while (w->topic < q->topic_data_count &&
           w->partition >= q->topic_data[w->topic].partition_data_count) {
        w->topic++;
        w->partition = 0;
    }
    return w->topic < q->topic_data_count;
}

/* Nothing of this step is stored. */
static void fail_step(struct produce *w, enum err e)
{
    struct append_answer a;
    append_failed(e, &a);
    int32_t k = w->step_partition;
    for (int32_t i = w->step_topic; i <= w->topic && i < w->p.responses_count; i++, k = 0) {
        struct produce_response_responses *t = &w->p.responses[i];
        int32_t to = i == w->topic ? w->partition : t->partition_responses_count;
        for (; k < to; k++) {
            if (t->partition_responses[k].error_code == KERR_NONE) {
                fill_answer(w, &a, &t->partition_responses[k]);
            }
        }
    }
}

static void on_committed(struct journal_wait *wait, enum err e)
{
    struct produce *w = (struct produce *)wait;
    if (e != OK) {
        fail_step(w, e);
    }
    step(w);
}

static void on_cancel(struct request *rq)
{
    struct produce *w = rq->parked;
    journal_forget(rq->server->journal, &w->wait);
    forget_judging(w);
}

/* Nobody waits for what clients sent who gave up, and maybe sent the same again. */
static void run_judging(struct work *work)
{
    struct judging *x = (struct judging *)work;
    if (!atomic_load(&x->gone)) {
        judgement_run(x->judgement);
    }
}

static void done_judging(struct work *work)
{
    struct judging *x = (struct judging *)work;
    struct produce *w = x->w;
    x->back = true;
    net_memory_give(x->server->net, x->judgement->len);
    if (w == NULL) {
        judging_free(x);
    } else if (workers_closing(x->server->judges)) {
        forget_judging(w);
        w->rq->cancel = NULL;
        request_close(w->rq, NULL);
    } else {
        topics_refresh(x->server->topics);
        step(w);
    }
}

/* The next partition's records go to another thread. False: without memory, or too many wait. */
static bool judge_elsewhere(struct produce *w)
{
    struct request *rq = w->rq;
    const struct produce_request *q = rq->body;
    const struct produce_request_topic_data *in = &q->topic_data[w->topic];
    const partition_request *data = &in->partition_data[w->partition];
    const struct topic *t = find_topic(rq, in);
    const struct append_place at = place_of(rq, t, data->index);
    const struct record_rules rules = rules_of(rq, t);
    struct slice r = records_of(data);
    struct judging *x = malloc(sizeof *x);
    struct judgement *j = x != NULL ? judgement_new(&at, &rules, r.data, r.len) : NULL;
    if (j == NULL) {
        free(x);
        return false;
    }
    *x = (struct judging){.work = {.run = run_judging, .done = done_judging},
                          .judgement = j,
                          .w = w,
                          .server = rq->server};
    atomic_init(&x->gone, false);
    if (workers_submit(rq->server->judges, &x->work) != OK) {
        judging_free(x);
        return false;
    }
    net_memory_take(rq->server->net, r.len);
    w->judging = x;
    rq->parked = w;
    rq->cancel = on_cancel;
    return true;
}

static void refuse_for_memory(struct produce *w)
{
    struct append_answer a;
    append_failed(ERR_NOMEM, &a);
    fill_answer(w, &a, &w->p.responses[w->topic].partition_responses[w->partition]);
    w->later = false;
    w->partition++;
}

/* Takes partitions until the turn is full, one is for another thread, or none is left. */
static void step(struct produce *w)
{
    struct request *rq = w->rq;
    const struct produce_request *q = rq->body;
    struct journal *j = rq->server->journal;
    enum append_result r = APPEND_REFUSED;
    bool taken = false, more;
    w->step_topic = w->topic;
    w->step_partition = w->partition;
    while ((more = move_on(w)) && (j == NULL || journal_bytes(j) < JOURNAL_TURN_BYTES)) {
        const struct produce_request_topic_data *in = &q->topic_data[w->topic];
        r = take_partition(w, in, &in->partition_data[w->partition],
                           &w->p.responses[w->topic].partition_responses[w->partition]);
        if (r == APPEND_LATER) {
            break;
        }
        taken |= r == APPEND_TAKEN;
        w->partition++;
        if (j != NULL) {
            journal_work(j, PARTITION_WORK_BYTES);
        }
    }
    w->later = r == APPEND_LATER;
    if (w->later && !taken && judge_elsewhere(w)) {
        return;
    }
    if (w->later && !taken) {
        refuse_for_memory(w);
    }
    if (taken || more) {
        rq->parked = w;
        rq->cancel = on_cancel;
        journal_wait(j, &w->wait);
    } else {
        finish(w);
    }
}

void api_produce(struct request *rq)
{
    struct produce *w = arena_alloc(&rq->arena, sizeof *w);
    if (w == NULL) {
        request_close_too_large(rq);
        return;
    }
    *w = (struct produce){.wait.done = on_committed, .rq = rq};
    if (!make_answers(w)) {
        request_close_too_large(rq);
        return;
    }
    step(w);
}
