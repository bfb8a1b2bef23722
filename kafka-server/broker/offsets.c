/* Committed offsets in memory: one hash per group, keyed by partition number and topic name.
 *
 * An entry is one block of memory that holds its key, topic and metadata. It is made before the
 * commit that stores it and put into the table after: a reader never sees what is not stored, and a
 * commit that fails has nothing to undo. */
#include "kafka-server/broker/offsets.h"

#include <stdlib.h>

#define KEY_STACK_BYTES 256 /* a topic's name has at most 249 */

static size_t key_make(uint8_t *key, struct slice topic, int32_t partition)
{
    be32_put(key, (uint32_t)partition);
    memcpy(key + 4, topic.data, topic.len);
    return 4 + topic.len;
}

struct offset_entry *offset_entry_new(struct slice topic, int32_t partition,
                                      const struct offset_row *row)
{
    struct offset_entry *e = malloc(sizeof *e + 4 + topic.len + row->metadata.len);
    if (e == NULL) {
        return NULL;
    }
    *e = (struct offset_entry){.row = *row, .partition = partition};
    e->key_len = key_make(e->key, topic, partition);
    e->topic = slice_make(e->key + 4, topic.len);
    uint8_t *metadata = e->key + e->key_len;
    if (row->metadata.len > 0) {
        memcpy(metadata, row->metadata.data, row->metadata.len);
    }
    e->row.metadata = slice_make(metadata, row->metadata.len);
    return e;
}

void offset_entry_free(struct offset_entry *e)
{
    free(e);
}

static struct offset_entry *find(const struct offsets *o, struct slice topic, int32_t partition)
{
    uint8_t key[KEY_STACK_BYTES];
    if (topic.len > sizeof key - 4) {
        return NULL;
    }
    size_t len = key_make(key, topic, partition);
    struct offset_entry *e = NULL;
    HASH_FIND(hh, o->entries, key, len, e);
    return e;
}

void offsets_remove(struct offsets *o, struct slice topic, int32_t partition)
{
    struct offset_entry *e = find(o, topic, partition);
    if (e != NULL) {
        HASH_DELETE(hh, o->entries, e);
        o->count--;
        offset_entry_free(e);
    }
}

void offsets_put(struct offsets *o, struct offset_entry *e)
{
    offsets_remove(o, e->topic, e->partition);
    HASH_ADD_KEYPTR(hh, o->entries, e->key, e->key_len, e);
    o->count++;
}

const struct offset_entry *offsets_find(const struct offsets *o, struct slice topic,
                                        int32_t partition)
{
    return find(o, topic, partition);
}

void offsets_fini(struct offsets *o)
{
    struct offset_entry *e, *next;
    HASH_ITER(hh, o->entries, e, next)
    {
        HASH_DELETE(hh, o->entries, e);
        offset_entry_free(e);
    }
    o->count = 0;
}

int offset_entry_compare(const void *a, const void *b)
{
    const struct offset_entry *x = *(const struct offset_entry *const *)a;
    const struct offset_entry *y = *(const struct offset_entry *const *)b;
    size_t n = x->topic.len < y->topic.len ? x->topic.len : y->topic.len;
    int c = memcmp(x->topic.data, y->topic.data, n);
    if (c == 0 && x->topic.len != y->topic.len) {
        c = x->topic.len < y->topic.len ? -1 : 1;
    }
    return c != 0 ? c : (x->partition > y->partition) - (x->partition < y->partition);
}
