/* Sets of partitions as sorted arrays: what a member of a consumer group has, gives up and is to
 * get.
 *
 * Every operation is one walk over both arrays (`walk`), which says for each partition whether a,
 * b or both have it. A hash table would be quicker to ask and slower to compare, copy and store;
 * groups compare, copy and store. */
#include "kafka-server/broker/partition_set.h"

#include <stdlib.h>

#define ROOM_MIN 8

int topic_partition_compare(const void *a, const void *b)
{
    const struct topic_partition *x = a, *y = b;
    int order = memcmp(x->topic.b, y->topic.b, sizeof x->topic.b);
    if (order != 0) {
        return order;
    }
    return (x->partition > y->partition) - (x->partition < y->partition);
}

void partition_set_fini(struct partition_set *s)
{
    free(s->list);
    *s = (struct partition_set){0};
}

void partition_set_append(struct partition_set *s, const struct uuid *topic, int32_t partition,
                          bool *ok)
{
    if (s->count == s->room) {
        int32_t room = s->room > 0 ? s->room * 2 : ROOM_MIN;
        struct topic_partition *list = realloc(s->list, (size_t)room * sizeof *list);
        if (list == NULL) {
            *ok = false;
            return;
        }
        s->list = list;
        s->room = room;
    }
    s->list[s->count++] = (struct topic_partition){*topic, partition};
}

void partition_set_sort(struct partition_set *s)
{
    if (s->count < 2) {
        return;
    }
    qsort(s->list, (size_t)s->count, sizeof *s->list, topic_partition_compare);
    int32_t n = 1;
    for (int32_t i = 1; i < s->count; i++) {
        if (topic_partition_compare(&s->list[n - 1], &s->list[i]) != 0) {
            s->list[n++] = s->list[i];
        }
    }
    s->count = n;
}

void partition_set_move(struct partition_set *to, struct partition_set *from)
{
    free(to->list);
    *to = *from;
    *from = (struct partition_set){0};
}

bool partition_set_has(const struct partition_set *s, const struct topic_partition *p)
{
    return s->count > 0 &&
           bsearch(p, s->list, (size_t)s->count, sizeof *s->list, topic_partition_compare) != NULL;
}

bool partition_set_equal(const struct partition_set *a, const struct partition_set *b)
{
    if (a->count != b->count) {
        return false;
    }
    for (int32_t i = 0; i < a->count; i++) {
        if (topic_partition_compare(&a->list[i], &b->list[i]) != 0) {
            return false;
        }
    }
    return true;
}

/* --- two sets, side by side ------------------------------------------------------------------ */

enum side { IN_A = 1, IN_B = 2, IN_BOTH = 3 };

struct walk {
    const struct partition_set *a, *b;
    int32_t i, k;
    const struct topic_partition *at;
};

/* Who has the next partition; 0: there is none left. */
static unsigned walk_next(struct walk *w)
{
    bool in_a = w->i < w->a->count, in_b = w->k < w->b->count;
    int order = in_a && in_b ? topic_partition_compare(&w->a->list[w->i], &w->b->list[w->k])
                             : (int)in_b - (int)in_a;
    if (!in_a && !in_b) {
        return 0;
    }
    w->at = order <= 0 ? &w->a->list[w->i] : &w->b->list[w->k];
    w->i += order <= 0;
    w->k += order >= 0;
    return order < 0 ? IN_A : order > 0 ? IN_B : IN_BOTH;
}

/* The partitions whose place is one of `wanted`, a set of bits by enum side. */
static void pick(struct partition_set *out, const struct partition_set *a,
                 const struct partition_set *b, unsigned wanted, bool *ok)
{
    struct walk w = {.a = a, .b = b};
    for (unsigned side = walk_next(&w); side != 0; side = walk_next(&w)) {
        if (wanted & 1u << side) {
            partition_set_append(out, &w.at->topic, w.at->partition, ok);
        }
    }
    if (!*ok) {
        partition_set_fini(out);
    }
}

static bool any(const struct partition_set *a, const struct partition_set *b, enum side wanted)
{
    struct walk w = {.a = a, .b = b};
    for (unsigned side = walk_next(&w); side != 0; side = walk_next(&w)) {
        if (side == (unsigned)wanted) {
            return true;
        }
    }
    return false;
}

bool partition_set_within(const struct partition_set *a, const struct partition_set *b)
{
    return !any(a, b, IN_A);
}

bool partition_set_meet(const struct partition_set *a, const struct partition_set *b)
{
    return any(a, b, IN_BOTH);
}

void partition_set_common(struct partition_set *out, const struct partition_set *a,
                          const struct partition_set *b, bool *ok)
{
    pick(out, a, b, 1u << IN_BOTH, ok);
}

void partition_set_minus(struct partition_set *out, const struct partition_set *a,
                         const struct partition_set *b, bool *ok)
{
    pick(out, a, b, 1u << IN_A, ok);
}

void partition_set_union(struct partition_set *out, const struct partition_set *a,
                         const struct partition_set *b, bool *ok)
{
    pick(out, a, b, 1u << IN_A | 1u << IN_B | 1u << IN_BOTH, ok);
}

void partition_set_copy(struct partition_set *out, const struct partition_set *a, bool *ok)
{
    partition_set_union(out, a, &(const struct partition_set){0}, ok);
}

int32_t partition_set_run(const struct partition_set *s, int32_t at)
{
    int32_t n = 1;
    while (at + n < s->count &&
           memcmp(s->list[at].topic.b, s->list[at + n].topic.b, sizeof s->list[at].topic.b) == 0) {
        n++;
    }
    return n;
}
