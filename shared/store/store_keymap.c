/* The key map: which offset is the newest of a key.
 *
 * Keys are not kept but 128 bits of SipHash-1-3 over them, under a secret that is new each time and
 * mixed with the partition: no two keys of a log ever meet, and nobody can make them. A slot is 24
 * bytes; slots double until the limit is reached, then new keys are refused and those that are
 * there may still move on. */
#include "shared/store/store_int.h"

#include "shared/base/clock.h"

#define SLOTS_MIN 1024

struct key_slot {
    uint64_t a, b;
    int64_t place; /* offset + 1; 0: free */
};

struct key_map {
    struct key_slot *slots;
    size_t size, size_max; /* powers of two */
    size_t count;
    uint64_t secret[2];
};

struct key_map *key_map_new(size_t bytes_max)
{
    struct key_map *k = calloc(1, sizeof *k);
    if (!k) {
        return NULL;
    }
    k->size = k->size_max = SLOTS_MIN;
    while (k->size_max * 2 * sizeof *k->slots <= bytes_max) {
        k->size_max *= 2;
    }
    k->slots = calloc(k->size, sizeof *k->slots);
    random_bytes(k->secret, sizeof k->secret);
    if (!k->slots) {
        free(k);
        return NULL;
    }
    return k;
}

void key_map_free(struct key_map *k)
{
    if (k) {
        free(k->slots);
        free(k);
    }
}

/* --- SipHash-1-3, 128 bits (Aumasson, Bernstein) ---------------------------------------------- */

static inline uint64_t rotate(uint64_t x, int n)
{
    return x << n | x >> (64 - n);
}

static inline void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[1] = rotate(v[1], 13) ^ v[0];
    v[0] = rotate(v[0], 32);
    v[2] += v[3];
    v[3] = rotate(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = rotate(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = rotate(v[1], 17) ^ v[2];
    v[2] = rotate(v[2], 32);
}

static uint64_t sip_end(uint64_t v[4])
{
    for (int i = 0; i < 3; i++) {
        sip_round(v);
    }
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

static void hash_key(const struct key_map *k, uint32_t uid, struct slice key, uint64_t out[2])
{
    uint64_t k0 = k->secret[0], k1 = k->secret[1] ^ uid;
    uint64_t v[4] = {k0 ^ 0x736f6d6570736575ull, k1 ^ 0x646f72616e646f6dull ^ 0xee,
                     k0 ^ 0x6c7967656e657261ull, k1 ^ 0x7465646279746573ull};
    size_t at = 0;
    for (; key.len - at >= 8; at += 8) {
        uint64_t w;
        memcpy(&w, key.data + at, 8);
        v[3] ^= w;
        sip_round(v);
        v[0] ^= w;
    }
    uint64_t last = (uint64_t)key.len << 56;
    for (size_t i = 0; at + i < key.len; i++) {
        last |= (uint64_t)key.data[at + i] << (8 * i);
    }
    v[3] ^= last;
    sip_round(v);
    v[0] ^= last;
    v[2] ^= 0xee;
    out[0] = sip_end(v);
    v[1] ^= 0xdd;
    out[1] = sip_end(v);
}

/* --- the table -------------------------------------------------------------------------------- */

/* The slot of this hash, or the free one where it belongs. */
static struct key_slot *slot_of(struct key_slot *slots, size_t size, uint64_t a, uint64_t b)
{
    size_t i = a & (size - 1);
    while (slots[i].place && (slots[i].a != a || slots[i].b != b)) {
        i = (i + 1) & (size - 1);
    }
    return &slots[i];
}

static bool grow(struct key_map *k)
{
    size_t size = k->size * 2;
    struct key_slot *slots = calloc(size, sizeof *slots);
    if (!slots) {
        return false;
    }
    for (size_t i = 0; i < k->size; i++) {
        if (k->slots[i].place) {
            *slot_of(slots, size, k->slots[i].a, k->slots[i].b) = k->slots[i];
        }
    }
    free(k->slots);
    k->slots = slots;
    k->size = size;
    return true;
}

static size_t room(const struct key_map *k)
{
    return k->size_max / 4 * 3 - k->count;
}

bool key_map_empty(const struct key_map *k)
{
    return k->count == 0;
}

bool key_map_put(struct key_map *k, uint32_t uid, struct slice key, int64_t offset)
{
    uint64_t h[2];
    hash_key(k, uid, key, h);
    struct key_slot *s = slot_of(k->slots, k->size, h[0], h[1]);
    if (!s->place) {
        if (room(k) == 0) {
            return false;
        }
        if (k->count >= k->size / 4 * 3) {
            if (!grow(k)) {
                return false;
            }
            s = slot_of(k->slots, k->size, h[0], h[1]);
        }
        k->count++;
    }
    *s = (struct key_slot){h[0], h[1], offset + 1};
    return true;
}

int64_t key_map_get(const struct key_map *k, uint32_t uid, struct slice key)
{
    uint64_t h[2];
    hash_key(k, uid, key, h);
    return slot_of(k->slots, k->size, h[0], h[1])->place - 1;
}
