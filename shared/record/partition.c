/* Which partition a key belongs to: murmur2 (Austin Appleby's, public domain) with the seed and the
 * sign handling of Kafka's Java client, so that its producers and ours agree. */
#include "shared/record/record.h"

#define MURMUR_SEED  0x9747b28cu
#define MURMUR_M     0x5bd1e995u
#define MURMUR_SHIFT 24

static uint32_t le32_get(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

uint32_t murmur2(const void *data, size_t len)
{
    const uint8_t *p = data;
    uint32_t h = MURMUR_SEED ^ (uint32_t)len;
    size_t left = len;
    for (; left >= 4; left -= 4, p += 4) {
        uint32_t k = le32_get(p) * MURMUR_M;
        k ^= k >> MURMUR_SHIFT;
        h = (h * MURMUR_M) ^ (k * MURMUR_M);
    }
    if (left > 0) {
        for (size_t i = left; i > 0; i--) {
            h ^= (uint32_t)p[i - 1] << (8 * (i - 1));
        }
        h *= MURMUR_M;
    }
    h ^= h >> 13;
    h *= MURMUR_M;
    return h ^ h >> 15;
}

int32_t partition_of_key(struct slice key, int32_t partitions)
{
    return (int32_t)(murmur2(key.data, key.len) & 0x7fffffff) % partitions;
}
