/* Transaction markers: the control batch that ends a transaction in a partition (KIP-98). */
#ifndef CULEX_RECORD_CONTROL_H
#define CULEX_RECORD_CONTROL_H

#include "shared/record/record.h"

struct txn_marker {
    int64_t producer_id;
    int16_t producer_epoch;
    bool commit;
    int32_t coordinator_epoch;
    int64_t timestamp;
};

#define TXN_MARKER_BYTES 78

/* The marker as Kafka's coordinator writes it: base offset 0, leader epoch -1; store_append sets
 * both. It takes one offset. */
void txn_marker_write(const struct txn_marker *t, uint8_t batch[TXN_MARKER_BYTES]);

/* Reads a batch with BATCH_CONTROL. ERR_NOT_FOUND: control records of another kind, or none left
 * (the batch was compacted). ERR_CORRUPT. A marker of a later version is read as far as it is
 * known. */
enum err txn_marker_read(struct slice batch, struct txn_marker *t, struct errmsg *m) MUST_CHECK;

#endif
