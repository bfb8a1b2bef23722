/* Transaction markers: one record, whose key says what it is and whose value who says so.
 *
 *   key     version i16 = 0 | type i16: 0 abort, 1 commit; others are KRaft's own
 *   value   version i16 = 0 | coordinator epoch i32                 (message EndTxnMarker) */
#include "shared/record/control.h"

#include "shared/record/rewrite.h"

#define MARKER_KEY_BYTES   4
#define MARKER_VALUE_BYTES 6
#define MARKER_PLAIN_MAX   4096 /* Kafka never compresses one; ours may not grow from it */

enum { MARKER_ABORT, MARKER_COMMIT };

void txn_marker_write(const struct txn_marker *t, uint8_t batch[TXN_MARKER_BYTES])
{
    static const uint8_t lengths[] = {0x20, 0, 0, 0, 2 * MARKER_KEY_BYTES};
    struct batch_header h = {
        .leader_epoch = -1,
        .attributes = BATCH_TRANSACTIONAL | BATCH_CONTROL,
        .base_timestamp = t->timestamp,
        .max_timestamp = t->timestamp,
        .producer_id = t->producer_id,
        .producer_epoch = t->producer_epoch,
        .base_sequence = -1,
        .record_count = 1,
    };
    uint8_t *p = batch + BATCH_HEADER_BYTES;
    memcpy(p, lengths, sizeof lengths);
    p += sizeof lengths;
    be16_put(p, 0);
    be16_put(p + 2, t->commit ? MARKER_COMMIT : MARKER_ABORT);
    p += MARKER_KEY_BYTES;
    *p++ = 2 * MARKER_VALUE_BYTES; /* zigzag, as the lengths above */
    be16_put(p, 0);
    be32_put(p + 2, (uint32_t)t->coordinator_epoch);
    p += MARKER_VALUE_BYTES;
    *p++ = 0; /* headers */
    ASSERT(p == batch + TXN_MARKER_BYTES);
    batch_seal(batch, TXN_MARKER_BYTES, &h);
}

static enum err read_marker(const struct raw_record *r, struct txn_marker *t, struct errmsg *m)
{
    if (r->key.len < MARKER_KEY_BYTES || (int16_t)be16_get(r->key.data) < 0) {
        return err_set(m, ERR_CORRUPT, "a control record's key is not one");
    }
    uint16_t type = be16_get(r->key.data + 2);
    if (type != MARKER_ABORT && type != MARKER_COMMIT) {
        return ERR_NOT_FOUND;
    }
    if (r->value.len < MARKER_VALUE_BYTES || (int16_t)be16_get(r->value.data) < 0) {
        return err_set(m, ERR_CORRUPT, "a transaction marker's value is not one");
    }
    t->commit = type == MARKER_COMMIT;
    t->coordinator_epoch = (int32_t)be32_get(r->value.data + 2);
    return OK;
}

enum err txn_marker_read(struct slice batch, struct txn_marker *t, struct errmsg *m)
{
    struct batch_header h;
    struct slice records;
    struct buf plain;
    buf_init(&plain, MARKER_PLAIN_MAX);
    enum err e = batch_plain(batch, &plain, &records, m);
    if (e == OK) {
        e = batch_read_header(batch, &h);
    }
    if (e == OK && !(h.attributes & BATCH_CONTROL)) {
        e = ERR_NOT_FOUND;
    }
    if (e == OK) {
        struct record_cursor c = record_cursor_make(records, h.record_count);
        struct raw_record r;
        e = record_next(&c, &r, m);
        if (e == OK) {
            *t = (struct txn_marker){.producer_id = h.producer_id,
                                     .producer_epoch = h.producer_epoch,
                                     .timestamp = batch_timestamp_of(&h, r.timestamp_delta)};
            e = read_marker(&r, t, m);
        }
    }
    buf_fini(&plain);
    return e;
}
