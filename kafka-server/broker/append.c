/* First the judgement of the bytes (shared/record/validate.h), then the store's. A batch that
 * breaks two rules is answered for the one that Kafka finds first.
 *
 * KAFKA_STORAGE_ERROR is what Kafka answers for a disk that fails; clients try again on it until
 * their delivery timeout, which is what a full disk wants. */
#include "kafka-server/broker/append.h"

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

bool append_records(struct appender *a, struct journal *j, const struct topic *t, int32_t partition,
                    const struct record_rules *rules, uint8_t *data, size_t len,
                    struct append_answer *out)
{
    uint32_t uid = store_topic_uid(t->row, partition);
    struct record_verdict v;
    struct store_offsets o;
    *out = (struct append_answer){.log_append_time_ms = -1, .log_start = -1};
    enum record_fault fault = record_validate(&a->validator, data, len, rules, &v);
    if (store_offsets(t->store, uid, &o) != OK) {
        return refuse(out, KERR_UNKNOWN_TOPIC_OR_PARTITION);
    }
    if (fault != RECORD_FINE) {
        out->why = v.why;
        out->records = v.errors;
        out->record_count = v.error_count;
        out->log_start = v.error_count != 0 ? o.log_start : -1;
        return refuse(out, error_of(fault));
    }
    enum err e = journal_append(j, uid, v.batch, v.batch_len, &out->base_offset);
    if (e != OK) {
        return refuse(out, error_of_append(e));
    }
    out->log_append_time_ms = v.append_time;
    out->log_start = o.log_start;
    return true;
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
