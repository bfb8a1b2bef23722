/* Two assignors on one array, `owner`: partition → member.
 *
 * uniform, all members read the same topics: each has a quota, P / M, and the first P % M that hold
 * that many get one more. Members keep what they have up to their quota; what is over, and what
 * nobody has, fills those who have less. One pass each.
 *
 * uniform, topics differ: members keep what they have. Each topic's free partitions, topics with
 * most partitions for a reader first, go to the reader that has least. Then partitions move, topic
 * by topic, from the reader with most to the reader with least until they differ by one; it ends
 * because each move makes the loads more even, and after ROUNDS_MAX in any case. The result is
 * not always the best one: that would be a flow problem, and Kafka does not solve it either. Whose
 * turn it is among equals is Kafka's order, so that results can be compared (tests/assignor).
 *
 * range needs no memory of what was: names in order make it sticky enough. */
#include "kafka-server/broker/assignor.h"

#include <stdlib.h>

#define ROUNDS_MAX 16

static const char *const names[ASSIGNORS] = {"uniform", "range"};

const char *assignor_name(enum assignor_kind kind)
{
    return names[kind];
}

bool assignor_find(struct slice name, enum assignor_kind *out)
{
    for (int i = 0; i < ASSIGNORS; i++) {
        if (slice_eq(name, slice_str(names[i]))) {
            *out = (enum assignor_kind)i;
            return true;
        }
    }
    return false;
}

static int32_t *numbers(int32_t count)
{
    return malloc(((size_t)count + 1) * sizeof(int32_t));
}

/* How many partitions each member has. */
static void count_owned(const struct assignor_group *g, int32_t *load)
{
    memset(load, 0, (size_t)g->member_count * sizeof *load);
    for (int32_t i = 0; i < g->partition_count; i++) {
        if (g->owner[i] >= 0) {
            load[g->owner[i]]++;
        }
    }
}

/* --- uniform, everybody reads the same ------------------------------------------------------- */

static bool all_read_all(const struct assignor_group *g)
{
    for (int32_t i = 0; i < g->member_count; i++) {
        if (g->members[i].topic_count != g->topic_count) {
            return false;
        }
    }
    return true;
}

/* Members that have enough for the extra partition get it before others do. */
static void set_quotas(const struct assignor_group *g, const int32_t *load, int32_t *quota)
{
    int32_t extra = g->partition_count % g->member_count;
    for (int32_t i = 0; i < g->member_count; i++) {
        quota[i] = g->partition_count / g->member_count;
        bool uses_it = extra > 0 && load[i] > quota[i];
        bool must = extra > 0 && g->member_count - i <= extra;
        if (uses_it || must) {
            quota[i]++;
            extra--;
        }
    }
}

/* Takes from each member what is over its quota, its last partitions first. Lists what is free:
 * what nobody had, then what was taken, by member; load becomes what members are left with. */
static void take_surplus(const struct assignor_group *g, const int32_t *quota, int32_t *load,
                         int32_t *place, int32_t *list)
{
    int32_t count = 0;
    for (int32_t i = 0; i < g->partition_count; i++) {
        if (g->owner[i] < 0) {
            list[count++] = i;
        }
    }
    for (int32_t i = 0; i < g->member_count; i++) {
        place[i] = count;
        if (load[i] > quota[i]) {
            count += load[i] - quota[i];
        }
        load[i] = 0;
    }
    for (int32_t i = 0; i < g->partition_count; i++) {
        int32_t m = g->owner[i];
        if (m >= 0 && load[m] < quota[m]) {
            load[m]++;
        } else if (m >= 0) {
            list[place[m]++] = i;
            g->owner[i] = -1;
        }
    }
}

static bool uniform_same(const struct assignor_group *g)
{
    int32_t *load = numbers(g->member_count);
    int32_t *quota = numbers(g->member_count);
    int32_t *place = numbers(g->member_count);
    int32_t *list = numbers(g->partition_count);
    bool ok = load != NULL && quota != NULL && place != NULL && list != NULL;
    if (ok) {
        count_owned(g, load);
        set_quotas(g, load, quota);
        take_surplus(g, quota, load, place, list);
        int32_t next = 0;
        for (int32_t i = 0; i < g->member_count; i++) {
            for (; load[i] < quota[i]; load[i]++) {
                g->owner[list[next++]] = i;
            }
        }
    }
    free(load);
    free(quota);
    free(place);
    free(list);
    return ok;
}

/* --- uniform, topics differ ------------------------------------------------------------------ */

struct uniform {
    const struct assignor_group *g;
    int32_t *load;                /* by member */
    int32_t *readers, *reader_at; /* members by topic; where a topic's begin */
    int32_t *order;               /* topics, as they are looked at */
    int32_t *sorted;              /* the readers of the topic at hand, least loaded first */
    int32_t *held;                /* by member: partitions of the topic at hand, to give */
    int32_t *was;                 /* by partition: its owner when its topic was begun */
};

static int32_t reader_count(const struct uniform *u, int32_t topic)
{
    return u->reader_at[topic + 1] - u->reader_at[topic];
}

/* Topics with many partitions for a reader come first, then those with few readers, then by id. */
static int compare_topics(const struct uniform *u, int32_t a, int32_t b)
{
    const struct assignor_topic *x = &u->g->topics[a], *y = &u->g->topics[b];
    int64_t left = (int64_t)x->partition_count * reader_count(u, b);
    int64_t right = (int64_t)y->partition_count * reader_count(u, a);
    if (left != right) {
        return left > right ? -1 : 1;
    }
    if (reader_count(u, a) != reader_count(u, b)) {
        return reader_count(u, a) - reader_count(u, b);
    }
    return memcmp(x->id.b, y->id.b, sizeof x->id.b);
}

/* By load, then by number. */
static int compare_readers(const struct uniform *u, int32_t a, int32_t b)
{
    return u->load[a] != u->load[b] ? u->load[a] - u->load[b] : a - b;
}

/* qsort_r with one signature for both orders. */
struct sorting {
    const struct uniform *u;
    int (*compare)(const struct uniform *u, int32_t a, int32_t b);
};

static int sorting_compare(const void *a, const void *b, void *arg)
{
    const struct sorting *s = arg;
    return s->compare(s->u, *(const int32_t *)a, *(const int32_t *)b);
}

/* Fills readers and reader_at: a count by topic, summed up, then filled. */
static void list_readers(struct uniform *u)
{
    const struct assignor_group *g = u->g;
    memset(u->reader_at, 0, ((size_t)g->topic_count + 1) * sizeof *u->reader_at);
    for (int32_t i = 0; i < g->member_count; i++) {
        for (int32_t k = 0; k < g->members[i].topic_count; k++) {
            u->reader_at[g->members[i].topics[k] + 1]++;
        }
    }
    for (int32_t t = 0; t < g->topic_count; t++) {
        u->order[t] = 0; /* how many of its readers are listed */
        u->reader_at[t + 1] += u->reader_at[t];
    }
    for (int32_t i = 0; i < g->member_count; i++) {
        for (int32_t k = 0; k < g->members[i].topic_count; k++) {
            int32_t t = g->members[i].topics[k];
            u->readers[u->reader_at[t] + u->order[t]++] = i;
        }
    }
}

/* The readers of one topic between two ends: those who have least are given partitions, those who
 * have most give them up. Readers of one load take turns, a level at a time; so the ends move
 * towards each other.
 *
 *      load │              ┌─┐           give: from the right; a reader with nothing of this topic
 *           │        ┌─┐┌─┐│ │           is put out of the row (give_end)
 *           │     ┌─┐│ ││ ││ │
 *           │  ┌─┐│ ││ ││ ││ │
 *           └──────────────────
 *         take ──▶         ◀── give
 */
struct ends {
    int32_t count;
    int32_t take_end, take_next, take_level;
    int32_t give_begin, give_end, give_next, give_level;
};

static void ends_init(struct uniform *u, int32_t topic, struct ends *e)
{
    int32_t n = reader_count(u, topic);
    memcpy(u->sorted, &u->readers[u->reader_at[topic]], (size_t)n * sizeof *u->sorted);
    struct sorting s = {u, compare_readers};
    qsort_r(u->sorted, (size_t)n, sizeof *u->sorted, sorting_compare, &s);
    *e = (struct ends){
        .count = n,
        .take_level = n > 0 ? u->load[u->sorted[0]] - 1 : 0,
        .give_begin = n,
        .give_end = n,
        .give_next = n - 1,
        .give_level = n > 0 ? u->load[u->sorted[n - 1]] + 1 : 0,
    };
}

static int32_t next_taker(const struct uniform *u, struct ends *e)
{
    if (e->take_next >= e->take_end) {
        e->take_level++;
        while (e->take_end < e->count && u->load[u->sorted[e->take_end]] == e->take_level) {
            e->take_end++;
        }
        e->take_next = 0;
    }
    return u->sorted[e->take_next++];
}

/* -1: nobody has anything to give. */
static int32_t next_giver(const struct uniform *u, struct ends *e)
{
    if (e->give_next < e->give_begin) {
        if (e->give_end <= e->give_begin && e->give_begin > 0) {
            e->give_level = u->load[u->sorted[e->give_begin - 1]];
        } else {
            e->give_level--;
        }
        while (e->give_begin > 0 && u->load[u->sorted[e->give_begin - 1]] == e->give_level) {
            e->give_begin--;
        }
        e->give_next = e->give_end - 1;
    }
    return e->give_next < 0 ? -1 : u->sorted[e->give_next--];
}

/* The giver that came last has nothing: another one takes its place. */
static void put_out_giver(struct uniform *u, struct ends *e)
{
    int32_t m = u->sorted[e->give_next + 1];
    u->sorted[e->give_next + 1] = u->sorted[e->give_end - 1];
    u->sorted[--e->give_end] = m;
}

static bool ends_meet(const struct ends *e)
{
    return e->give_level - e->take_level <= 1;
}

static void hand_out(struct uniform *u, int32_t topic)
{
    const struct assignor_topic *t = &u->g->topics[topic];
    struct ends e;
    ends_init(u, topic, &e);
    for (int32_t p = 0; p < t->partition_count && e.count > 0; p++) {
        int32_t *owner = &u->g->owner[t->first + p];
        if (*owner < 0) {
            *owner = next_taker(u, &e);
            u->load[*owner]++;
        }
    }
}

/* The last partition that the member had when the topic was begun, and still has. */
static int32_t *last_of(const struct uniform *u, const struct assignor_topic *t, int32_t member)
{
    int32_t p = t->first + t->partition_count - 1;
    while (u->was[p] != member || u->g->owner[p] != member) {
        p--;
    }
    return &u->g->owner[p];
}

/* Moves partitions of one topic until its readers' loads differ by one at most; did any move? */
static bool balance_topic(struct uniform *u, int32_t topic)
{
    const struct assignor_topic *t = &u->g->topics[topic];
    struct ends e;
    bool moved = false;
    ends_init(u, topic, &e);
    if (u->load[u->sorted[e.count - 1]] - u->load[u->sorted[0]] <= 1) {
        return false;
    }
    memset(u->held, 0, (size_t)u->g->member_count * sizeof *u->held);
    for (int32_t p = t->first; p < t->first + t->partition_count; p++) {
        u->was[p] = u->g->owner[p];
        u->held[u->was[p]]++;
    }
    while (!ends_meet(&e)) {
        int32_t from = next_giver(u, &e);
        while (from >= 0 && u->held[from] <= 0) {
            put_out_giver(u, &e);
            from = next_giver(u, &e);
        }
        if (from < 0) {
            break;
        }
        int32_t to = next_taker(u, &e);
        if (ends_meet(&e)) {
            break;
        }
        *last_of(u, t, from) = to;
        u->held[from]--;
        u->load[from]--;
        u->load[to]++;
        moved = true;
    }
    return moved;
}

static void uniform_differing_run(struct uniform *u)
{
    const struct assignor_group *g = u->g;
    count_owned(g, u->load);
    list_readers(u);
    for (int32_t t = 0; t < g->topic_count; t++) {
        u->order[t] = t;
    }
    struct sorting s = {u, compare_topics};
    qsort_r(u->order, (size_t)g->topic_count, sizeof *u->order, sorting_compare, &s);
    for (int32_t i = 0; i < g->topic_count; i++) {
        hand_out(u, u->order[i]);
    }
    bool moved = true;
    for (int round = 0; moved && round < ROUNDS_MAX; round++) {
        moved = false;
        for (int32_t i = 0; i < g->topic_count; i++) {
            if (reader_count(u, u->order[i]) >= 2) {
                moved = balance_topic(u, u->order[i]) || moved;
            }
        }
    }
}

static bool uniform_differing(const struct assignor_group *g)
{
    int32_t pairs = 0;
    for (int32_t i = 0; i < g->member_count; i++) {
        pairs += g->members[i].topic_count;
    }
    struct uniform u = {
        .g = g,
        .load = numbers(g->member_count),
        .readers = numbers(pairs),
        .reader_at = numbers(g->topic_count + 1),
        .order = numbers(g->topic_count),
        .sorted = numbers(g->member_count),
        .held = numbers(g->member_count),
        .was = numbers(g->partition_count),
    };
    bool ok = u.load != NULL && u.readers != NULL && u.reader_at != NULL && u.order != NULL &&
              u.sorted != NULL && u.held != NULL;
    if (ok) {
        uniform_differing_run(&u);
    }
    free(u.load);
    free(u.readers);
    free(u.reader_at);
    free(u.order);
    free(u.sorted);
    free(u.held);
    free(u.was);
    return ok;
}

/* --- range ----------------------------------------------------------------------------------- */

/* Static members first, by instance id, so that their ranges outlive their member ids. */
static int compare_members(const void *a, const void *b, void *arg)
{
    const struct assignor_group *g = arg;
    const struct assignor_member *x = &g->members[*(const int32_t *)a];
    const struct assignor_member *y = &g->members[*(const int32_t *)b];
    bool x_static = x->instance_id.data != NULL, y_static = y->instance_id.data != NULL;
    if (x_static != y_static) {
        return x_static ? -1 : 1;
    }
    return x_static ? slice_compare(x->instance_id, y->instance_id) : slice_compare(x->id, y->id);
}

/* readers: how many read each topic. next, extra: where a topic's next range begins, and how many
 * more ranges have one partition more. */
static void cut_ranges(const struct assignor_group *g, const int32_t *order, const int32_t *readers,
                       int32_t *next, int32_t *extra)
{
    for (int32_t t = 0; t < g->topic_count; t++) {
        next[t] = 0;
        extra[t] = readers[t] > 0 ? g->topics[t].partition_count % readers[t] : 0;
        for (int32_t p = 0; p < g->topics[t].partition_count; p++) {
            g->owner[g->topics[t].first + p] = -1;
        }
    }
    for (int32_t i = 0; i < g->member_count; i++) {
        const struct assignor_member *m = &g->members[order[i]];
        for (int32_t k = 0; k < m->topic_count; k++) {
            int32_t t = m->topics[k];
            int32_t quota = g->topics[t].partition_count / readers[t] + (extra[t] > 0);
            extra[t] -= extra[t] > 0;
            for (; quota > 0; quota--) {
                g->owner[g->topics[t].first + next[t]++] = order[i];
            }
        }
    }
}

static bool range(const struct assignor_group *g)
{
    int32_t *order = numbers(g->member_count);
    int32_t *readers = numbers(g->topic_count);
    int32_t *next = numbers(g->topic_count);
    int32_t *extra = numbers(g->topic_count);
    bool ok = order != NULL && readers != NULL && next != NULL && extra != NULL;
    if (ok) {
        memset(readers, 0, (size_t)g->topic_count * sizeof *readers);
        for (int32_t i = 0; i < g->member_count; i++) {
            order[i] = i;
            for (int32_t k = 0; k < g->members[i].topic_count; k++) {
                readers[g->members[i].topics[k]]++;
            }
        }
        qsort_r(order, (size_t)g->member_count, sizeof *order, compare_members, (void *)g);
        cut_ranges(g, order, readers, next, extra);
    }
    free(order);
    free(readers);
    free(next);
    free(extra);
    return ok;
}

bool assignor_run(enum assignor_kind kind, const struct assignor_group *g)
{
    if (g->member_count == 0 || g->partition_count == 0) {
        return true;
    }
    if (kind == ASSIGNOR_RANGE) {
        return range(g);
    }
    return all_read_all(g) ? uniform_same(g) : uniform_differing(g);
}
