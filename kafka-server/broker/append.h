/* A producer's records into a partition of the server's own store: Kafka's rules, up to the turn's
 * commit.
 *
 * The bytes are stored as they came, but for base offset and leader epoch, and what a topic's
 * configs ask for (timestamps of the server's, another codec). What append_records has taken is
 * there once the journal's flush says OK, and was never there if it says anything else. Loop thread
 * only, but for judgement_run. */
#ifndef CULEX_BROKER_APPEND_H
#define CULEX_BROKER_APPEND_H

#include "kafka-server/broker/journal.h"
#include "kafka-server/broker/kerr.h"
#include "kafka-server/broker/producers.h"
#include "kafka-server/broker/topics.h"
#include "kafka-server/broker/transactions.h"
#include "shared/record/validate.h"

/* What it takes to judge batches on the loop; one for the server. */
struct appender {
    struct record_validator validator;
};

/* Records that take too long for the loop: those that have to be written in another codec, and
 * compressed ones of more than so many bytes, as they came or decompressed. */
#define APPEND_COMPRESSED_BYTES_MAX (16u << 10)
#define APPEND_PLAIN_BYTES_MAX      (256u << 10)

void appender_init(struct appender *a);
void appender_fini(struct appender *a);

/* What the producer is told of one partition. */
struct append_answer {
    enum kerr error;
    int64_t base_offset;        /* -1 with an error */
    int64_t log_append_time_ms; /* -1: the records have their producer's */
    int64_t log_start;          /* -1: not told */
    struct errmsg why;          /* a sentence beside the error; empty: none */
    /* Records that are to blame; borrowed until the next append. */
    const struct record_error *records;
    uint32_t record_count;
};

/* Where records go, a partition of a topic of the own store, and who sends them. */
struct append_place {
    struct journal *journal;
    struct producers *producers;
    struct transactions *transactions;
    const struct topic *topic;
    int32_t partition;
    struct slice transactional_id; /* of the request; data NULL: none */
};

enum append_result {
    APPEND_REFUSED, /* nothing is stored, and *out says why */
    APPEND_TAKEN,   /* in this turn's commit, or stored before: *out is what to answer after it */
    APPEND_LATER,   /* to be judged on another thread; nothing has changed */
};

/* The records of one partition of a Produce request, data NULL: none. They are used where they are,
 * and may be changed there. rules: see record_rules; now_ms is wall time. */
enum append_result append_records(struct appender *a, const struct append_place *at,
                                  const struct record_rules *rules, uint8_t *data, size_t len,
                                  struct append_answer *out);

/* Records that another thread judges: a copy of them, and what it found. */
struct judgement {
    struct record_validator validator;
    struct record_rules rules;
    struct record_verdict verdict;
    uint32_t uid; /* the partition that they are for */
    size_t len;
    uint8_t data[];
};
/* NULL: no memory. */
struct judgement *judgement_new(const struct append_place *at, const struct record_rules *rules,
                                const uint8_t *data, size_t len);
/* On any thread, once. */
void judgement_run(struct judgement *j);
void judgement_free(struct judgement *j);
/* After judgement_run: as append_records, but never LATER. A partition that is another one by now
 * is unknown. out->records: until j is freed. */
enum append_result append_judged(const struct append_place *at, const struct judgement *j,
                                 struct append_answer *out);
/* What to answer in place of it where the commit failed with e. */
void append_failed(enum err e, struct append_answer *out);

#endif
