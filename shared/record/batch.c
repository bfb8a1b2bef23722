/* A batch's header: read, patch, prove. Offsets of fields are drawn in record.h.
 *
 * batch_check is what stands between a producer and the log, so it takes nothing on trust but the
 * records themselves: whether those can be read is batch_walk's to say. */
#include "shared/record/record.h"

/* length, attributes, timestamp delta, offset delta, key length, value length, header count */
#define RECORD_BYTES_MIN 7

enum err batch_read_header(struct slice batch, struct batch_header *h)
{
    if (batch.len < BATCH_HEADER_BYTES) {
        return ERR_CORRUPT;
    }
    const uint8_t *p = batch.data;
    *h = (struct batch_header){
        .base_offset = (int64_t)be64_get(p),
        .batch_length = (int32_t)be32_get(p + 8),
        .leader_epoch = (int32_t)be32_get(p + 12),
        .magic = (int8_t)p[16],
        .crc = be32_get(p + BATCH_CRC_OFFSET),
        .attributes = (int16_t)be16_get(p + BATCH_ATTRIBUTES_OFFSET),
        .last_offset_delta = (int32_t)be32_get(p + 23),
        .base_timestamp = (int64_t)be64_get(p + 27),
        .max_timestamp = (int64_t)be64_get(p + 35),
        .producer_id = (int64_t)be64_get(p + 43),
        .producer_epoch = (int16_t)be16_get(p + 51),
        .base_sequence = (int32_t)be32_get(p + 53),
        .record_count = (int32_t)be32_get(p + 57),
    };
    return OK;
}

void batch_set_base_offset(uint8_t *batch, int64_t offset)
{
    be64_put(batch, (uint64_t)offset);
}

void batch_set_leader_epoch(uint8_t *batch, int32_t epoch)
{
    be32_put(batch + BATCH_LENGTH_OFFSET, (uint32_t)epoch);
}

enum err batch_check(struct slice batch, struct errmsg *m)
{
    struct batch_header h;
    if (batch_read_header(batch, &h) != OK) {
        return err_set(m, ERR_CORRUPT, "a batch has at least %d bytes, not %zu", BATCH_HEADER_BYTES,
                       batch.len);
    }
    if (h.magic != BATCH_MAGIC) {
        return err_set(m, ERR_CORRUPT, "batch magic is %d, not %d", h.magic, BATCH_MAGIC);
    }
    if (h.batch_length < 0 || (size_t)h.batch_length != batch.len - BATCH_LENGTH_OFFSET) {
        return err_set(m, ERR_CORRUPT, "batch length says %d where %zu bytes follow",
                       h.batch_length, batch.len - BATCH_LENGTH_OFFSET);
    }
    uint32_t crc =
        crc32c(0, batch.data + BATCH_ATTRIBUTES_OFFSET, batch.len - BATCH_ATTRIBUTES_OFFSET);
    if (crc != h.crc) {
        return err_set(m, ERR_CORRUPT, "batch checksum is %08x, its bytes have %08x", h.crc, crc);
    }
    /* A compacted batch has fewer records than offsets, perhaps none. */
    int64_t offsets = (int64_t)h.last_offset_delta + 1;
    if (h.last_offset_delta < 0 || h.record_count < 0 || h.record_count > offsets) {
        return err_set(m, ERR_CORRUPT, "batch has %d records at %lld offsets", h.record_count,
                       (long long)offsets);
    }
    size_t bytes = batch.len - BATCH_HEADER_BYTES;
    if ((h.attributes & BATCH_CODEC_MASK) == BATCH_CODEC_NONE &&
        (size_t)h.record_count > bytes / RECORD_BYTES_MIN) {
        return err_set(m, ERR_CORRUPT, "batch has %d records in %zu bytes", h.record_count, bytes);
    }
    if ((h.attributes & BATCH_CODEC_MASK) > BATCH_CODEC_ZSTD) {
        return err_set(m, ERR_CORRUPT, "batch codec %d is not known",
                       h.attributes & BATCH_CODEC_MASK);
    }
    return OK;
}
