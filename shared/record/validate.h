/* What may enter a log by Produce: the bytes of one partition of a request, judged and made ready.
 *
 * The rules are those of Kafka 4.1 (ProduceRequest.validateRecords, then
 * UnifiedLog.analyzeAndValidateRecords, then LogValidator), in its order, so that a batch with two
 * faults gets the same error. Sequences against earlier batches are not judged here: that needs
 * producer state. One validator serves one thread; no sockets, no store, no clock. */
#ifndef CULEX_RECORD_VALIDATE_H
#define CULEX_RECORD_VALIDATE_H

#include "shared/record/record.h"

/* Kafka's error in brackets; api/ turns one into the other. */
enum record_fault {
    RECORD_FINE,
    RECORD_CORRUPT,           /* [CORRUPT_MESSAGE] size, magic, checksum */
    RECORD_TOO_LARGE,         /* [MESSAGE_TOO_LARGE] as sent, decompressed or recompressed */
    RECORD_INVALID_TIMESTAMP, /* [INVALID_TIMESTAMP] some record's, or the type; see errors */
    RECORD_UNSUPPORTED_CODEC, /* [UNSUPPORTED_COMPRESSION_TYPE] */
    RECORD_INVALID,           /* [INVALID_RECORD] whatever else is wrong; perhaps with errors */
    RECORD_NO_MEMORY,         /* [KAFKA_STORAGE_ERROR] our fault, not the client's: retriable */
};

#define RECORD_CODEC_PRODUCER (-1) /* compression.type=producer: as it came */

struct record_rules {
    int16_t produce_version;   /* zstd needs 7 */
    bool keys_required;        /* cleanup.policy has compact */
    bool append_time;          /* message.timestamp.type=LogAppendTime */
    int8_t codec;              /* compression.type: RECORD_CODEC_PRODUCER or enum batch_codec */
    int32_t level;             /* compression.<codec>.level, or BATCH_LEVEL_DEFAULT */
    int32_t message_bytes_max; /* max.message.bytes: of a batch, header included */
    int64_t before_max_ms;     /* message.timestamp.before.max.ms */
    int64_t after_max_ms;      /* message.timestamp.after.max.ms */
    int64_t now_ms;
};

/* Kafka's defaults: what a topic without configs of its own has. */
struct record_rules record_rules_default(int64_t now_ms);

/* A record that was refused (KIP-467). More than RECORD_ERRORS_MAX of a batch are not listed. */
enum record_error_kind {
    RECORD_ERROR_NO_KEY,         /* the topic is compacted */
    RECORD_ERROR_TIMESTAMP,      /* not within before.max and after.max of now */
    RECORD_ERROR_TIMESTAMP_TYPE, /* LogAppendTime is the server's to set */
};
struct record_error {
    int32_t index; /* of the record in the batch */
    enum record_error_kind kind;
    int64_t timestamp;
};
#define RECORD_ERRORS_MAX 10000

struct record_verdict {
    enum record_fault fault;
    struct errmsg why;                 /* a sentence; empty when fine */
    const struct record_error *errors; /* of the validator, until its next call */
    uint32_t error_count;
    bool over_plain;    /* refused as it is more, decompressed, than the validator takes */
    size_t plain_bytes; /* that were decompressed */

    /* The rest only when fine. */
    uint8_t *batch; /* ready for store_append: within the bytes that were judged, or the validator's
                       own until its next call (when the codec had to change) */
    size_t batch_len;
    struct batch_header h; /* batch's; codec and timestamps as they are now */
    int64_t append_time;   /* of the records with LogAppendTime, for the response; else -1 */
};

struct record_validator {
    struct buf plain;   /* decompressed records */
    struct buf out;     /* a recompressed batch */
    struct buf errors;  /* struct record_error */
};

/* plain_bytes_max bounds what a batch may hold decompressed, and with it the memory that a zip bomb
 * gets: at most that for plain and, where the codec changes, as much again. Usually
 * BATCH_PLAIN_BYTES_MAX. Nothing is allocated before it is needed; of each buffer no more than
 * RECORD_KEEP_BYTES is kept between calls (but a batch that the verdict lends). */
void record_validator_init(struct record_validator *v, size_t plain_bytes_max);
void record_validator_fini(struct record_validator *v);
#define RECORD_KEEP_BYTES (4u << 20)

/* Judges the records of one partition; data NULL and len 0: none. Patches header fields within them
 * where the topic or the truth asks for it (timestamp type, max timestamp, attributes that nobody
 * has defined; then the checksum, too), and only when the verdict is fine. Bytes after the batch
 * that are no whole batch are left out of it, as Kafka does. */
enum record_fault record_validate(struct record_validator *v, uint8_t *data, size_t len,
                                  const struct record_rules *rules, struct record_verdict *out);

/* The sentence for one record's error; rules as they were judged by. */
void record_error_text(const struct record_error *e, const struct record_rules *rules,
                       struct errmsg *m);

/* Name for logs, e.g. "CORRUPT". */
const char *record_fault_name(enum record_fault fault);

#endif
