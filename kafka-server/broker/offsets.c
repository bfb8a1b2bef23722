/* Committed offsets in memory: one hash per group, and one list per topic.
 *
 * An entry is one block of memory that holds its metadata; the topic's name is there once for all
 * groups, and goes with its last entry. An entry is made before the commit that stores it and put
 * into the group's table after: a reader never sees what is not stored, and a commit that fails has
 * nothing to undo. The list of a topic has it from the beginning, because who deletes a topic's
 * offsets must find those on their way, too: without it a topic that goes, or is made anew, would
 * cost a look at every offset of every group. */
#include "kafka-server/broker/offsets.h"

#include <stdlib.h>

#include <utlist.h>

static struct offsets_topic *topic_find(const struct offsets_topics *all, struct slice name)
{
    struct offsets_topic *t = NULL;
    if (all != NULL && name.len > 0) {
        HASH_FIND(hh, all->table, name.data, name.len, t);
    }
    return t;
}

static struct offsets_topic *topic_find_or_make(struct offsets_topics *all, struct slice name)
{
    struct offsets_topic *t = topic_find(all, name);
    if (t == NULL && name.len > 0) {
        t = calloc(1, sizeof *t + name.len);
        if (t != NULL) {
            memcpy(t->name, name.data, name.len);
            t->name_len = name.len;
            HASH_ADD_KEYPTR(hh, all->table, t->name, t->name_len, t);
        }
    }
    return t;
}

static void topic_forget_if_unused(struct offsets_topics *all, struct offsets_topic *t)
{
    if (t->entries == NULL) {
        HASH_DELETE(hh, all->table, t);
        free(t);
    }
}

struct offset_entry *offset_entry_new(struct offsets_topics *all, struct coordinated *group,
                                      struct slice topic, int32_t partition,
                                      const struct offset_row *row)
{
    struct offsets_topic *t = topic_find_or_make(all, topic);
    size_t metadata_len = row != NULL ? row->metadata.len : 0;
    struct offset_entry *e = t != NULL ? malloc(sizeof *e + metadata_len) : NULL;
    if (e == NULL) {
        if (t != NULL) {
            topic_forget_if_unused(all, t);
        }
        return NULL;
    }
    *e = (struct offset_entry){
        .partition = partition,
        .topic = slice_make(t->name, t->name_len),
        .removes = row == NULL,
        .group = group,
        .all = all,
        .key = {t, partition},
    };
    if (row != NULL) {
        e->row = *row;
    }
    if (metadata_len > 0) {
        memcpy(e->metadata, row->metadata.data, metadata_len);
    }
    e->row.metadata = slice_make(e->metadata, metadata_len);
    DL_PREPEND(t->entries, e);
    return e;
}

void offset_entry_free(struct offset_entry *e)
{
    struct offsets_topic *t = topic_find(e->all, e->topic);
    ASSERT(t != NULL);
    DL_DELETE(t->entries, e);
    topic_forget_if_unused(e->all, t);
    free(e);
}

struct offset_entry *offsets_of_topic(const struct offsets_topics *all, struct slice topic)
{
    const struct offsets_topic *t = topic_find(all, topic);
    return t != NULL ? t->entries : NULL;
}

static struct offset_entry *find(const struct offsets *o, struct slice topic, int32_t partition)
{
    const struct offset_key key = {topic_find(o->all, topic), partition};
    struct offset_entry *e = NULL;
    if (key.topic != NULL) {
        HASH_FIND(hh, o->entries, &key, sizeof key, e);
    }
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
    HASH_ADD(hh, o->entries, key, sizeof e->key, e);
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
