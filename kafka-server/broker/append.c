/* First the judgement of the bytes (shared/record/validate.h), then of the producer's sequence
 * (producers.h), then the store's. A batch that breaks two rules is answered for the one that Kafka
 * finds first. One that was stored before is not stored again; its answer, too, waits for the
 * commit, because the first may be in this very turn.
 *
 * To decompress and to compress takes time that the loop does not have: a batch of 4 kB may be
 * 100 MB of zeros, and zstd at level 19 takes a second for one of 1 MB. What is small is judged
 * where it is; everything else is copied and judged by another thread, and comes back.
 *
 * KAFKA_STORAGE_ERROR is what Kafka answers for a disk that fails; clients try again on it until
 * their delivery timeout, which is what a full disk wants. */
#include "kafka-server/broker/append.h"

#include <stdlib.h>

#define PRODUCE_ABORTABLE       11 /* knows of TRANSACTION_ABORTABLE */
#define PRODUCE_ADDS_PARTITIONS 12 /* to a transaction, by writing to them (KIP-890) */

void appender_init(struct appender *a)
{
    record_validator_init(&a->validator, APPEND_PLAIN_BYTES_MAX);
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

static enum append_result refuse(struct append_answer *out, enum kerr error)
{
    out->error = error;
    out->base_offset = -1;
    return APPEND_REFUSED;
}

/* May this batch be part of a transaction, if it says that it is? */
static enum kerr check_transaction(const struct append_place *at, uint32_t uid,
                                   const struct record_rules *rules, const struct batch_header *h)
{
    if (!(h->attributes & BATCH_TRANSACTIONAL)) {
        return KERR_NONE;
    }
    const struct transactions_producer who = {at->transactional_id, h->producer_id,
                                              h->producer_epoch};
    enum txn_client client = rules->produce_version >= PRODUCE_ADDS_PARTITIONS ? TXN_CLIENT_ADDS
                             : rules->produce_version >= PRODUCE_ABORTABLE ? TXN_CLIENT_ABORTABLE
                                                                           : TXN_CLIENT_OLD;
    return transactions_produce(at->transactions, &who, client, uid, rules->now_ms);
}

/* A transaction that nobody named: Kafka looks at that before it looks at anything else. */
static bool is_nobodys_transaction(const struct append_place *at, const uint8_t *data, size_t len)
{
    struct batch_header h;
    return at->transactional_id.data == NULL && data != NULL &&
           batch_read_header(slice_make(data, len), &h) == OK &&
           (h.attributes & BATCH_TRANSACTIONAL);
}

/* Into the store, unless it is there already. */
static enum append_result append_batch(const struct append_place *at, uint32_t uid,
                                       const struct record_rules *rules,
                                       const struct record_verdict *v, struct append_answer *out)
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
        return APPEND_TAKEN;
    }
    enum err e = journal_append(at->journal, uid, v->batch, v->batch_len, &out->base_offset);
    if (e != OK) {
        out->log_start = -1;
        return refuse(out, error_of_append(e));
    }
    producers_append(at->producers, uid, &v->h, out->base_offset, rules->now_ms);
    out->log_append_time_ms = v->append_time;
    return APPEND_TAKEN;
}

static enum append_result append_verdict(const struct append_place *at, uint32_t uid,
                                         const struct record_rules *rules,
                                         const struct record_verdict *v, struct append_answer *out)
{
    struct store_offsets o;
    *out = (struct append_answer){.log_append_time_ms = -1, .log_start = -1};
    if (store_offsets(at->topic->store, uid, &o) != OK) {
        return refuse(out, KERR_UNKNOWN_TOPIC_OR_PARTITION);
    }
    if (v->fault != RECORD_FINE) {
        out->why = v->why;
        out->records = v->errors;
        out->record_count = v->error_count;
        out->log_start = v->error_count != 0 ? o.log_start : -1;
        return refuse(out, error_of(v->fault));
    }
    out->log_start = o.log_start;
    return append_batch(at, uid, rules, v, out);
}

static uint32_t uid_of(const struct append_place *at)
{
    return store_topic_uid(at->topic->row, at->partition);
}

/* Does this take too long, before anything of it is looked at? */
static bool is_heavy(const struct record_rules *rules, const uint8_t *data, size_t len)
{
    if (data == NULL || len < BATCH_HEADER_BYTES) {
        return false;
    }
    int codec = be16_get(data + BATCH_ATTRIBUTES_OFFSET) & BATCH_CODEC_MASK;
    bool changes = rules->codec != RECORD_CODEC_PRODUCER && rules->codec != codec;
    return changes || (codec != BATCH_CODEC_NONE && len > APPEND_COMPRESSED_BYTES_MAX);
}

enum append_result append_records(struct appender *a, const struct append_place *at,
                                  const struct record_rules *rules, uint8_t *data, size_t len,
                                  struct append_answer *out)
{
    struct record_verdict v;
    if (is_nobodys_transaction(at, data, len)) {
        *out = (struct append_answer){.log_append_time_ms = -1, .log_start = -1};
        return refuse(out, KERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED); /* so Kafka says it */
    }
    if (is_heavy(rules, data, len)) {
        return APPEND_LATER;
    }
    (void)record_validate(&a->validator, data, len, rules, &v); /* v.fault */
    journal_work(at->journal, v.plain_bytes + (v.fault != RECORD_FINE ? len : 0));
    return v.over_plain ? APPEND_LATER : append_verdict(at, uid_of(at), rules, &v, out);
}

struct judgement *judgement_new(const struct append_place *at, const struct record_rules *rules,
                                const uint8_t *data, size_t len)
{
    struct judgement *j = malloc(sizeof *j + len);
    if (j != NULL) {
        *j = (struct judgement){.rules = *rules, .uid = uid_of(at), .len = len};
        record_validator_init(&j->validator, BATCH_PLAIN_BYTES_MAX);
        memcpy(j->data, data, len);
    }
    return j;
}

void judgement_run(struct judgement *j)
{
    enum record_fault f =
        record_validate(&j->validator, j->data, j->len, &j->rules, &j->verdict);
    /* Many may wait to be taken: none keeps more than it needs. */
    buf_trim(&j->validator.plain, 0);
    if (f != RECORD_FINE || j->verdict.batch == j->data) {
        buf_trim(&j->validator.out, 0);
    }
}

void judgement_free(struct judgement *j)
{
    if (j != NULL) {
        record_validator_fini(&j->validator);
        free(j);
    }
}

enum append_result append_judged(const struct append_place *at, const struct judgement *j,
                                 struct append_answer *out)
{
    if (uid_of(at) != j->uid) {
        *out = (struct append_answer){.log_append_time_ms = -1, .log_start = -1};
        return refuse(out, KERR_UNKNOWN_TOPIC_OR_PARTITION);
    }
    return append_verdict(at, j->uid, &j->rules, &j->verdict, out);
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
