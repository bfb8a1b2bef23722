/* First the judgement of the bytes (shared/record/validate.h), then of the producer's sequence
 * (producers.h), then the store's. A batch that breaks two rules is answered for the one that Kafka
 * finds first. One that was stored before is not stored again; its answer, too, waits for the
 * commit, because the first may be in this very turn.
 *
 * KAFKA_STORAGE_ERROR is what Kafka answers for a disk that fails; clients try again on it until
 * their delivery timeout, which is what a full disk wants. */
#include "kafka-server/broker/append.h"

#define PRODUCE_ABORTABLE       11 /* knows of TRANSACTION_ABORTABLE */
#define PRODUCE_ADDS_PARTITIONS 12 /* to a transaction, by writing to them (KIP-890) */

void appender_init(struct appender *a)
{
    record_validator_init(&a->validator, BATCH_PLAIN_BYTES_MAX);
}

void appender_fini(struct appender *a)
{
    record_validator_fini(&a->validator);
}

static enum kerr error_of(enum record_fault fault)
{
    switch (fault) {
    case RECORD_FINE:
        return KERR_NONE;
    case RECORD_CORRUPT:
        return KERR_CORRUPT_MESSAGE;
    case RECORD_TOO_LARGE:
        return KERR_MESSAGE_TOO_LARGE;
    case RECORD_INVALID_TIMESTAMP:
        return KERR_INVALID_TIMESTAMP;
    case RECORD_UNSUPPORTED_CODEC:
        return KERR_UNSUPPORTED_COMPRESSION_TYPE;
    case RECORD_INVALID:
        return KERR_INVALID_RECORD;
    case RECORD_NO_MEMORY:
        break;
    }
    return KERR_KAFKA_STORAGE_ERROR;
}

static enum kerr error_of_append(enum err e)
{
    switch (e) {
    case OK:
        return KERR_NONE;
    case ERR_NOT_FOUND: /* deleted in this turn */
        return KERR_UNKNOWN_TOPIC_OR_PARTITION;
    case ERR_CORRUPT:
        return KERR_CORRUPT_MESSAGE;
    default:
        return KERR_KAFKA_STORAGE_ERROR;
    }
}

static bool refuse(struct append_answer *out, enum kerr error)
{
    out->error = error;
    out->base_offset = -1;
    return false;
}

/* May this batch be part of a transaction, if it says that it is? */
static enum kerr check_transaction(const struct append_place *at, uint32_t uid,
                                   const struct record_rules *rules, const struct batch_header *h)
{
    if (!(h->attributes & BATCH_TRANSACTIONAL)) {
        return KERR_NONE;
    }
    if (at->transactional_id.data == NULL) {
        return KERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED; /* so Kafka says that there is none */
    }
    const struct transactions_producer who = {at->transactional_id, h->producer_id,
                                              h->producer_epoch};
    enum txn_client client = rules->produce_version >= PRODUCE_ADDS_PARTITIONS ? TXN_CLIENT_ADDS
                             : rules->produce_version >= PRODUCE_ABORTABLE ? TXN_CLIENT_ABORTABLE
                                                                           : TXN_CLIENT_OLD;
    return transactions_produce(at->transactions, &who, client, uid, rules->now_ms);
}

/* Into the store, unless it is there already; true: *out waits for the commit. */
static bool append_batch(const struct append_place *at, uint32_t uid,
                         const struct record_rules *rules, const struct record_verdict *v,
                         struct append_answer *out)
{
    struct producers_duplicate d;
    enum kerr error = check_transaction(at, uid, rules, &v->h);
    if (error != KERR_NONE) {
        out->log_start = -1; /* Kafka has not come to the log yet */
        return refuse(out, error);
    }
    error = producers_check(at->producers, uid, &v->h,
                            rules->produce_version >= PRODUCE_ADDS_PARTITIONS, &d);
    if (error != KERR_NONE) {
        return refuse(out, error);
    }
    if (d.found) {
        out->base_offset = d.base_offset;
        out->log_append_time_ms = d.timestamp; /* whoever gave it, as Kafka */
        return true;
    }
    enum err e = journal_append(at->journal, uid, v->batch, v->batch_len, &out->base_offset);
    if (e != OK) {
        out->log_start = -1;
        return refuse(out, error_of_append(e));
    }
    producers_append(at->producers, uid, &v->h, out->base_offset, rules->now_ms);
    out->log_append_time_ms = v->append_time;
    return true;
}

bool append_records(struct appender *a, const struct append_place *at,
                    const struct record_rules *rules, uint8_t *data, size_t len,
                    struct append_answer *out)
{
    uint32_t uid = store_topic_uid(at->topic->row, at->partition);
    struct record_verdict v;
    struct store_offsets o;
    *out = (struct append_answer){.log_append_time_ms = -1, .log_start = -1};
    enum record_fault fault = record_validate(&a->validator, data, len, rules, &v);
    if (store_offsets(at->topic->store, uid, &o) != OK) {
        return refuse(out, KERR_UNKNOWN_TOPIC_OR_PARTITION);
    }
    if (fault != RECORD_FINE) {
        out->why = v.why;
        out->records = v.errors;
        out->record_count = v.error_count;
        out->log_start = v.error_count != 0 ? o.log_start : -1;
        return refuse(out, error_of(fault));
    }
    out->log_start = o.log_start;
    return append_batch(at, uid, rules, &v, out);
}

void append_failed(enum err e, struct append_answer *out)
{
    *out = (struct append_answer){.error = KERR_KAFKA_STORAGE_ERROR,
                                  .base_offset = -1,
                                  .log_append_time_ms = -1,
                                  .log_start = -1};
    if (e == ERR_FULL) {
        (void)err_set(&out->why, OK, "the server's disk is full");
    }
}
