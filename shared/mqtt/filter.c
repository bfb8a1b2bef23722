/* The tree of topic filters.
 *
 * A node is a prefix of filters; its children are levels. All children of all nodes live in one
 * open-addressing table, keyed by (parent, level): one cache line or two per level of the topic,
 * whatever the number of filters. A node also has at most one `+` child and two sets of values:
 *
 *     values   filters that end here           a/b
 *     rest     filters that go on with `/#`    a/b/#   (which matches a/b itself as well)
 *
 * A lookup walks the tree depth first with a stack on the C stack: from each node it may go to the
 * child of the level's name and to the `+` child, so at most one entry per depth waits. No node is
 * visited twice, so only a value that was added more than once (a bit says so) is looked for in
 * `out` before it is put there.
 *
 * Filters come from the operator and topics from strangers: a stranger can make lookups miss, but
 * cannot add to the table, which is never more than half full. */
#include "shared/mqtt/filter.h"

#include <stdlib.h>

#define TABLE_SLOTS_MIN 64
#define NO_NODE         UINT32_MAX
#define ROOT            0u
#define VALUES_MAX      (1u << 24) /* values are small indexes: they size a bit set */

/* Most have one value, which then lies here: a lookup fetches one cache line less. */
struct value_set {
    uint32_t count;
    uint32_t one;     /* the first */
    uint32_t *values; /* all of them, where there are more; else NULL */
};

struct filter_node {
    struct value_set values;
    struct value_set rest;
    uint32_t plus;  /* the + child, or NO_NODE */
    bool has_named; /* some child in the table has this parent */
};

struct filter_slot {
    uint32_t hash;
    uint32_t parent;
    uint32_t child; /* NO_NODE: the slot is free */
    uint32_t name_len;
    char *name;
};

struct filter_tree {
    struct filter_node *nodes;
    uint32_t node_count, node_cap;
    struct filter_slot *slots;
    uint32_t slot_count, slot_cap; /* slot_cap is a power of two */
    uint8_t *seen;  /* per value: 1 added once, 2 more than once */
    uint32_t seen_cap;
};

/* --- is it one? ------------------------------------------------------------------------------- */

static enum err check_text(struct slice filter, struct errmsg *m)
{
    if (filter.len == 0) {
        return err_set(m, ERR_INVALID, "is empty; a filter has at least one character, and # "
                       "matches every topic");
    }
    if (filter.len > FILTER_BYTES_MAX) {
        return err_set(m, ERR_INVALID, "has %zu bytes; at most %d are allowed", filter.len,
                       FILTER_BYTES_MAX);
    }
    for (size_t i = 0; i < filter.len;) {
        size_t n = utf8_length(filter.data + i, filter.len - i);
        if (n == 0) {
            return err_set(m, ERR_INVALID, "is not UTF-8 without NUL at byte %zu", i + 1);
        }
        i += n;
    }
    return OK;
}

/* The level that begins at pos; *next is where the following one begins, or len + 1 at the end. */
static struct slice level_at(struct slice topic, size_t pos, size_t *next)
{
    const uint8_t *p = topic.data + pos;
    const uint8_t *slash = pos < topic.len ? memchr(p, '/', topic.len - pos) : NULL;
    size_t len = slash ? (size_t)(slash - p) : topic.len - pos;
    *next = pos + len + 1;
    return slice_make(p, len);
}

static bool level_is(struct slice level, char ch)
{
    return level.len == 1 && level.data[0] == ch;
}

enum err filter_check(struct slice filter, struct errmsg *m)
{
    enum err e = check_text(filter, m);
    if (e) {
        return e;
    }
    const char *text = (const char *)filter.data;
    int shown = filter.len > 200 ? 200 : (int)filter.len;
    size_t levels = 0;
    for (size_t pos = 0, next; pos <= filter.len; pos = next) {
        struct slice level = level_at(filter, pos, &next);
        if (++levels > FILTER_LEVELS_MAX) {
            return err_set(m, ERR_INVALID, "\"%.*s\" has more than %d levels", shown, text,
                           FILTER_LEVELS_MAX);
        }
        if (level_is(level, '#') && next <= filter.len) {
            return err_set(m, ERR_INVALID, "\"%.*s\" goes on after '#'; '#' must be the last level",
                           shown, text);
        }
        if (level.len > 1 && memchr(level.data, '#', level.len)) {
            return err_set(m, ERR_INVALID, "\"%.*s\" has '#' inside a level; '#' must fill a level "
                           "of its own, the last one, as in a/#", shown, text);
        }
        if (level.len > 1 && memchr(level.data, '+', level.len)) {
            return err_set(m, ERR_INVALID, "\"%.*s\" has '+' inside a level; '+' must fill a level "
                           "of its own, as in a/+/b", shown, text);
        }
    }
    if (filter.len >= 6 && memcmp(text, "$share", 6) == 0 && (filter.len == 6 || text[6] == '/')) {
        return err_set(m, ERR_INVALID, "\"%.*s\" is a shared subscription; give the filter after "
                       "the share's name alone", shown, text);
    }
    return OK;
}

/* --- build ------------------------------------------------------------------------------------ */

/* FNV-1a over the level, seeded with the parent; levels are short. */
static inline uint32_t hash_begin(uint32_t parent)
{
    return 2166136261u ^ (parent * 2654435761u);
}

static inline uint32_t hash_next(uint32_t h, uint8_t byte)
{
    return (h ^ byte) * 16777619u;
}

static inline uint32_t hash_end(uint32_t h)
{
    return h ^ h >> 15;
}

static uint32_t slot_hash(uint32_t parent, struct slice name)
{
    uint32_t h = hash_begin(parent);
    for (size_t i = 0; i < name.len; i++) {
        h = hash_next(h, name.data[i]);
    }
    return hash_end(h);
}

/* Byte by byte: a level is not worth a call. */
static inline bool name_is(const struct filter_slot *s, struct slice name)
{
    size_t i = 0;
    while (i < name.len && (uint8_t)s->name[i] == name.data[i]) {
        i++;
    }
    return i == name.len;
}

static inline uint32_t slot_find(const struct filter_tree *t, uint32_t parent, uint32_t hash,
                                 struct slice name)
{
    for (uint32_t i = hash & (t->slot_cap - 1);; i = (i + 1) & (t->slot_cap - 1)) {
        const struct filter_slot *s = &t->slots[i];
        if (s->child == NO_NODE) {
            return NO_NODE;
        }
        if (s->hash == hash && s->parent == parent && s->name_len == name.len &&
            name_is(s, name)) {
            return s->child;
        }
    }
}

static void slot_put(struct filter_slot *slots, uint32_t cap, const struct filter_slot *s)
{
    uint32_t i = s->hash & (cap - 1);
    while (slots[i].child != NO_NODE) {
        i = (i + 1) & (cap - 1);
    }
    slots[i] = *s;
}

static enum err slots_grow(struct filter_tree *t, uint32_t cap)
{
    struct filter_slot *slots = malloc(cap * sizeof *slots);
    if (!slots) {
        return ERR_NOMEM;
    }
    for (uint32_t i = 0; i < cap; i++) {
        slots[i].child = NO_NODE;
    }
    for (uint32_t i = 0; i < t->slot_cap; i++) {
        if (t->slots[i].child != NO_NODE) {
            slot_put(slots, cap, &t->slots[i]);
        }
    }
    free(t->slots);
    t->slots = slots;
    t->slot_cap = cap;
    return OK;
}

static enum err node_add(struct filter_tree *t, uint32_t *id)
{
    if (t->node_count == t->node_cap) {
        uint32_t cap = t->node_cap ? t->node_cap * 2 : 16;
        struct filter_node *nodes = realloc(t->nodes, cap * sizeof *nodes);
        if (!nodes) {
            return ERR_NOMEM;
        }
        t->nodes = nodes;
        t->node_cap = cap;
    }
    t->nodes[t->node_count] = (struct filter_node){.plus = NO_NODE};
    *id = t->node_count++;
    return OK;
}

static enum err child_named(struct filter_tree *t, uint32_t parent, struct slice name,
                            uint32_t *child)
{
    *child = slot_find(t, parent, slot_hash(parent, name), name);
    if (*child != NO_NODE) {
        return OK;
    }
    if (t->slot_count * 2 >= t->slot_cap && slots_grow(t, t->slot_cap * 2)) {
        return ERR_NOMEM;
    }
    char *copy = malloc(name.len + 1);
    if (!copy) {
        return ERR_NOMEM;
    }
    if (node_add(t, child)) {
        free(copy);
        return ERR_NOMEM;
    }
    memcpy(copy, name.data, name.len);
    struct filter_slot s = {slot_hash(parent, name), parent, *child, (uint32_t)name.len, copy};
    slot_put(t->slots, t->slot_cap, &s);
    t->slot_count++;
    t->nodes[parent].has_named = true;
    return OK;
}

static enum err child_plus(struct filter_tree *t, uint32_t parent, uint32_t *child)
{
    *child = t->nodes[parent].plus;
    if (*child != NO_NODE) {
        return OK;
    }
    enum err e = node_add(t, child);
    if (!e) {
        t->nodes[parent].plus = *child;
    }
    return e;
}

static const uint32_t *values_of(const struct value_set *set)
{
    return set->values ? set->values : &set->one;
}

static enum err value_add(struct value_set *set, uint32_t value, bool *added)
{
    *added = false;
    const uint32_t *all = values_of(set);
    for (uint32_t i = 0; i < set->count; i++) {
        if (all[i] == value) {
            return OK;
        }
    }
    if (set->count == 0) {
        set->one = value;
    } else {
        uint32_t *values = realloc(set->values, (set->count + 1) * sizeof *values);
        if (!values) {
            return ERR_NOMEM;
        }
        values[0] = set->one;
        values[set->count] = value;
        set->values = values;
    }
    set->count++;
    *added = true;
    return OK;
}

static enum err seen_reserve(struct filter_tree *t, uint32_t value)
{
    if (value < t->seen_cap) {
        return OK;
    }
    uint32_t cap = t->seen_cap ? t->seen_cap : 64;
    while (cap <= value) {
        cap *= 2;
    }
    uint8_t *seen = realloc(t->seen, cap);
    if (!seen) {
        return ERR_NOMEM;
    }
    memset(seen + t->seen_cap, 0, cap - t->seen_cap);
    t->seen = seen;
    t->seen_cap = cap;
    return OK;
}

struct filter_tree *filter_tree_new(void)
{
    struct filter_tree *t = calloc(1, sizeof *t);
    uint32_t root;
    if (!t || slots_grow(t, TABLE_SLOTS_MIN) || node_add(t, &root)) {
        filter_tree_free(t);
        return NULL;
    }
    return t;
}

void filter_tree_free(struct filter_tree *t)
{
    if (!t) {
        return;
    }
    for (uint32_t i = 0; i < t->node_count; i++) {
        free(t->nodes[i].values.values);
        free(t->nodes[i].rest.values);
    }
    for (uint32_t i = 0; i < t->slot_cap; i++) {
        if (t->slots[i].child != NO_NODE) {
            free(t->slots[i].name);
        }
    }
    free(t->nodes);
    free(t->slots);
    free(t->seen);
    free(t);
}

enum err filter_tree_add(struct filter_tree *t, struct slice filter, uint32_t value)
{
    if (value >= VALUES_MAX) {
        return ERR_INVALID;
    }
    enum err e = filter_check(filter, NULL);
    e = e ? e : seen_reserve(t, value);
    if (e) {
        return e;
    }
    uint32_t node = ROOT;
    bool rest = false;
    for (size_t pos = 0, next; pos <= filter.len && !rest; pos = next) {
        struct slice level = level_at(filter, pos, &next);
        rest = level_is(level, '#');
        if (!rest) {
            e = level_is(level, '+') ? child_plus(t, node, &node)
                                     : child_named(t, node, level, &node);
        }
        if (e) {
            return e;
        }
    }
    bool added;
    e = value_add(rest ? &t->nodes[node].rest : &t->nodes[node].values, value, &added);
    if (!e && added && t->seen[value] < 2) {
        t->seen[value]++;
    }
    return e;
}

/* --- match ------------------------------------------------------------------------------------ */

struct matches {
    uint32_t *out;
    size_t count, max;
};

SELDOM static void matches_put_more(const struct filter_tree *t, const struct value_set *set,
                                    struct matches *found)
{
    const uint32_t *all = values_of(set);
    for (uint32_t i = 0; i < set->count && found->count < found->max; i++) {
        uint32_t value = all[i];
        bool there = false;
        for (size_t j = 0; t->seen[value] > 1 && !there && j < found->count; j++) {
            there = found->out[j] == value;
        }
        if (!there) {
            found->out[found->count++] = value;
        }
    }
}

static inline void matches_put(const struct filter_tree *t, const struct value_set *set,
                               struct matches *found)
{
    if (set->count == 1 && found->count == 0 && found->max > 0) {
        found->out[found->count++] = set->one;
    } else if (set->count) {
        matches_put_more(t, set, found);
    }
}

HOT size_t filter_tree_match(const struct filter_tree *t, struct slice topic, uint32_t *out,
                             size_t max)
{
    struct {
        uint32_t node;
        uint32_t pos;
    } stack[FILTER_LEVELS_MAX + 2]; /* what is left to visit: never more than one of a depth */
    struct matches found = {out, 0, max};
    bool dollar = topic.len && topic.data[0] == '$';
    size_t depth = 0;
    uint32_t id = ROOT;
    size_t pos = 0; /* where the level after the node begins; past the end: there is none */
    for (;;) {
        const struct filter_node *node = &t->nodes[id];
        bool wild = !(dollar && id == ROOT);
        uint32_t child = NO_NODE;
        if (wild) {
            matches_put(t, &node->rest, &found);
        }
        if (pos > topic.len) {
            matches_put(t, &node->values, &found);
        } else if (node->has_named || node->plus != NO_NODE) { /* below a/# there is nothing */
            size_t end = pos;
            uint32_t h = hash_begin(id);
            for (; end < topic.len && topic.data[end] != '/'; end++) {
                h = hash_next(h, topic.data[end]);
            }
            child = node->has_named ? slot_find(t, id, hash_end(h),
                                                slice_make(topic.data + pos, end - pos))
                                    : NO_NODE;
            pos = end + 1;
            if (wild && node->plus != NO_NODE) {
                stack[depth].node = node->plus;
                stack[depth++].pos = (uint32_t)pos;
            }
        }
        if (child != NO_NODE) {
            id = child;
        } else if (depth > 0) {
            id = stack[--depth].node;
            pos = stack[depth].pos;
        } else {
            return found.count;
        }
    }
}
