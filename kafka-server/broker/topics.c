/* Two catalogs, one list.
 *
 * A store's catalog is an immutable snapshot. A refresh takes a reference on both, and only when
 * one of them is another than before it merges the two sorted lists into one sorted list of
 * `struct topic` and drops the old references. Lookups by name are binary searches; lookups by id
 * go through a second list, which is sorted when one is asked for: a request that makes a thousand
 * topics refreshes a thousand times, and asks for none. Two lists of some thousand entries are
 * cheaper than a hash table that would have to be rebuilt just the same.
 *
 * When memory for a new list is missing the old one stays: a topic that appears late is better
 * than a server that forgets all of them. */
#include "kafka-server/broker/topics.h"

#include <stdlib.h>

#include "shared/base/log.h"

enum { SIDE_OWN, SIDE_CAPTURED, SIDES };

/* Behind a pointer, because looking up changes it and is no change of the topics. */
struct topics_by_id {
    struct topic **list;
    bool sorted;
};

struct topics {
    struct store *stores[SIDES];
    const struct store_catalog *catalogs[SIDES]; /* held; NULL without a store */
    struct topic *by_name;
    struct topics_by_id *by_id;
    struct topic_settings **settings; /* of by_name[i]; NULL: not asked for yet */
    struct topic_settings spare;      /* in place of one that there is no memory for */
    size_t count;
    struct topics_listener listener;
};

struct topics *topics_new(void)
{
    struct topics *t = calloc(1, sizeof *t);
    if (t != NULL) {
        t->by_id = calloc(1, sizeof *t->by_id);
    }
    if (t != NULL && t->by_id == NULL) {
        free(t);
        t = NULL;
    }
    return t;
}

void topics_forget_settings(struct topics *t)
{
    for (size_t i = 0; i < t->count && t->settings != NULL; i++) {
        free(t->settings[i]);
        t->settings[i] = NULL;
    }
}

/* Without an array of them, as without memory for one, they are read anew each time. */
static void renew_settings(struct topics *t, size_t count)
{
    topics_forget_settings(t);
    free(t->settings);
    t->settings = calloc(count + 1, sizeof *t->settings);
}

const struct topic_settings *topics_settings(struct topics *t, const struct topic *topic,
                                             const struct config *c)
{
    struct topic_settings **at = t->settings != NULL ? &t->settings[topic - t->by_name] : NULL;
    if (at != NULL && *at != NULL) {
        return *at;
    }
    struct topic_settings *s = at != NULL ? malloc(sizeof *s) : NULL;
    topic_settings_of(s != NULL ? s : &t->spare, topic->row, topic->captured, c);
    if (s == NULL) {
        return &t->spare;
    }
    *at = s;
    return s;
}

static void drop_catalog(struct topics *t, int side)
{
    if (t->catalogs[side] != NULL) {
        store_catalog_unref(t->stores[side], t->catalogs[side]);
        t->catalogs[side] = NULL;
    }
}

void topics_free(struct topics *t)
{
    if (t == NULL) {
        return;
    }
    for (int i = 0; i < SIDES; i++) {
        drop_catalog(t, i);
    }
    topics_forget_settings(t);
    free(t->settings);
    free(t->by_name);
    free(t->by_id->list);
    free(t->by_id);
    free(t);
}

void topics_on_change(struct topics *t, const struct topics_listener *l)
{
    t->listener = *l;
}

static int compare_ids(const void *a, const void *b)
{
    const struct topic *x = *(struct topic *const *)a;
    const struct topic *y = *(struct topic *const *)b;
    return memcmp(x->row->id.b, y->row->id.b, sizeof x->row->id.b);
}

/* Merges the snapshots in c into by_name, which has room for all; returns the count. */
static size_t merge(const struct topics *t, const struct store_catalog *const *c,
                    struct topic *by_name)
{
    size_t n = 0, i = 0, k = 0;
    size_t own_count = c[SIDE_OWN] != NULL ? c[SIDE_OWN]->count : 0;
    size_t captured_count = c[SIDE_CAPTURED] != NULL ? c[SIDE_CAPTURED]->count : 0;
    while (i < own_count || k < captured_count) {
        int order;
        if (i == own_count) {
            order = 1;
        } else if (k == captured_count) {
            order = -1;
        } else {
            order = strcmp(c[SIDE_OWN]->topics[i].name, c[SIDE_CAPTURED]->topics[k].name);
        }
        if (order < 0) {
            by_name[n++] = (struct topic){&c[SIDE_OWN]->topics[i++], t->stores[SIDE_OWN], false};
        } else {
            by_name[n++] =
                (struct topic){&c[SIDE_CAPTURED]->topics[k++], t->stores[SIDE_CAPTURED], true};
            i += order == 0;
        }
    }
    return n;
}

/* A captured topic that has come hides what clients have written under its name. */
static void tell_hidden(const struct topics *t, const struct topic *is)
{
    const struct store_catalog *own = t->catalogs[SIDE_OWN];
    if (is->captured && own != NULL && store_catalog_find(own, slice_str(is->row->name)) != NULL) {
        log_warn("a captured stream hides a topic of clients that has its name: what was written "
                 "there shows again when the stream is deleted topic=%s", is->row->name);
    }
}

/* Compares the list before with the one now. Both are sorted. */
static void tell(struct topics *t, const struct topic *before, size_t before_count)
{
    const struct topics_listener *l = &t->listener;
    size_t i = 0, k = 0;
    while (i < before_count || k < t->count) {
        const struct store_topic *was = i < before_count ? before[i].row : NULL;
        const struct store_topic *is = k < t->count ? t->by_name[k].row : NULL;
        int order = was == NULL ? 1 : is == NULL ? -1 : strcmp(was->name, is->name);
        bool same = order == 0 && uuid_equal(&was->id, &is->id);
        i += order <= 0;
        k += order >= 0;
        if (order <= 0 && !same && l->gone != NULL) {
            l->gone(l->arg, was->name);
        }
        if (order >= 0 && !same) {
            tell_hidden(t, &t->by_name[k - 1]);
        }
        if (order >= 0 && !same && l->came != NULL) {
            l->came(l->arg, is);
        }
    }
    if (l->changed != NULL) {
        l->changed(l->arg);
    }
}

/* Takes over the catalogs in c (references included). */
static void take_over(struct topics *t, const struct store_catalog *const *c)
{
    size_t room = 1;
    for (int i = 0; i < SIDES; i++) {
        room += c[i] != NULL ? c[i]->count : 0;
    }
    struct topic *by_name = calloc(room, sizeof *by_name);
    struct topic **by_id = calloc(room, sizeof *by_id);
    if (by_name == NULL || by_id == NULL) {
        free(by_name);
        free(by_id);
        for (int i = 0; i < SIDES; i++) {
            if (c[i] != NULL) {
                store_catalog_unref(t->stores[i], c[i]);
            }
        }
        return;
    }
    size_t count = merge(t, c, by_name);
    for (size_t i = 0; i < count; i++) {
        by_id[i] = &by_name[i];
    }
    renew_settings(t, count);
    struct topic *before = t->by_name;
    size_t before_count = t->count;
    free(t->by_id->list);
    t->by_name = by_name;
    *t->by_id = (struct topics_by_id){.list = by_id};
    t->count = count;
    const struct store_catalog *held[SIDES]; /* the rows of `before` */
    for (int i = 0; i < SIDES; i++) {
        held[i] = t->catalogs[i];
        t->catalogs[i] = c[i];
    }
    tell(t, before, before_count);
    for (int i = 0; i < SIDES; i++) {
        if (held[i] != NULL) {
            store_catalog_unref(t->stores[i], held[i]);
        }
    }
    free(before);
}

void topics_refresh(struct topics *t)
{
    const struct store_catalog *c[SIDES] = {NULL, NULL};
    bool moved = false;
    for (int i = 0; i < SIDES; i++) {
        if (t->stores[i] == NULL) {
            continue;
        }
        c[i] = store_catalog_ref(t->stores[i]);
        /* Not its version: a directory that was made anew begins to count anew, too. Both are
         * held, so one is not in the other's memory. */
        moved |= c[i] != t->catalogs[i];
    }
    if (moved) {
        take_over(t, c);
        return;
    }
    for (int i = 0; i < SIDES; i++) {
        if (c[i] != NULL) {
            store_catalog_unref(t->stores[i], c[i]);
        }
    }
}

void topics_set_stores(struct topics *t, struct store *own, struct store *captured)
{
    struct store *stores[SIDES] = {[SIDE_OWN] = own, [SIDE_CAPTURED] = captured};
    topics_forget_settings(t);
    t->count = 0; /* its rows may lie in a catalog that goes now */
    for (int i = 0; i < SIDES; i++) {
        drop_catalog(t, i);
        t->stores[i] = stores[i];
    }
    topics_refresh(t);
}

size_t topics_count(const struct topics *t)
{
    return t->count;
}

const struct topic *topics_at(const struct topics *t, size_t i)
{
    return &t->by_name[i];
}

/* Order of names as strcmp gives it, for a name without a NUL at its end. */
static int compare_name(struct slice name, const char *row)
{
    size_t len = strlen(row);
    size_t least = name.len < len ? name.len : len;
    int order = least == 0 ? 0 : memcmp(name.data, row, least);
    return order != 0 ? order : (name.len > len) - (name.len < len);
}

size_t topics_lower_bound(const struct topics *t, struct slice name)
{
    size_t low = 0, high = t->count;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (compare_name(name, t->by_name[mid].row->name) > 0) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low;
}

const struct topic *topics_find(const struct topics *t, struct slice name)
{
    size_t i = topics_lower_bound(t, name);
    return i < t->count && compare_name(name, t->by_name[i].row->name) == 0 ? &t->by_name[i] : NULL;
}

const struct topic *topics_find_id(const struct topics *t, const struct uuid *id)
{
    struct topic **by_id = t->by_id->list;
    size_t low = 0, high = t->count;
    if (!t->by_id->sorted && high > 0) {
        qsort(by_id, high, sizeof *by_id, compare_ids);
        t->by_id->sorted = true;
    }
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        int order = memcmp(id->b, by_id[mid]->row->id.b, sizeof id->b);
        if (order == 0) {
            return by_id[mid];
        }
        if (order > 0) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return NULL;
}

bool topic_name_ok(struct slice name)
{
    if (name.len == 0 || name.len > STORE_NAME_BYTES_MAX) {
        return false;
    }
    size_t dots = 0;
    for (size_t i = 0; i < name.len; i++) {
        uint8_t ch = name.data[i];
        bool letter = (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z');
        if (!letter && !(ch >= '0' && ch <= '9') && ch != '.' && ch != '_' && ch != '-') {
            return false;
        }
        dots += ch == '.';
    }
    return dots != name.len || name.len > 2;
}
