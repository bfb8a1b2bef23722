/* From what members ask for and the topics that there are to what each shall read.
 *
 *      names, patterns ─▶ lists of topics, by member ─┬▶ a hash of all that are read: has anything
 *                                                     │  changed that matters to this group?
 *                 targets of before ─▶ owner by partition ─▶ assignor ─▶ targets
 *
 * Topics are numbers here: places in the list of all topics (struct cgroup_topics), in the order of
 * names; then, once it is known which are read, places in the list of those. Names that are no
 * topics are passed over: they may become some. Nothing is kept between calls: a group asks when
 * its members' wishes or the topics have changed, and a pattern is tried on all topics then, once
 * for all members that have it. */
#include <stdlib.h>

#include "kafka-server/broker/cgroup.h"
#include "kafka-server/broker/topic_regex.h"
#include "shared/base/log.h"

struct list {
    int32_t *items;
    int32_t count, room;
};

struct pattern { /* what a regular expression matches */
    struct slice text;
    struct list topics;
    UT_hash_handle hh;
};

struct subscriptions {
    const struct cgroup_topics *all;
    struct pattern *patterns;
    struct list lists; /* of all members, one behind the other, each ascending */
    int32_t *from;     /* where a member's begins; one more than members */
    bool *read;        /* by topic: does anybody read it? */
    bool ok;
};

static void list_add(struct list *l, int32_t item, bool *ok)
{
    if (l->count == l->room) {
        int32_t room = l->room > 0 ? l->room * 2 : 16;
        int32_t *items = realloc(l->items, (size_t)room * sizeof *items);
        if (items == NULL) {
            *ok = false;
            return;
        }
        l->items = items;
        l->room = room;
    }
    l->items[l->count++] = item;
}

/* --- subscriptions --------------------------------------------------------------------------- */

static void resolve(struct subscriptions *s, struct pattern *p)
{
    struct topic_regex *r = topic_regex_new(p->text); /* it was tried when the member brought it */
    for (size_t i = 0; r != NULL && i < s->all->count; i++) {
        if (topic_regex_match(r, s->all->list[i].name)) {
            list_add(&p->topics, (int32_t)i, &s->ok);
        }
    }
    topic_regex_free(r);
}

static const struct list *topics_of_pattern(struct subscriptions *s, struct slice text)
{
    static const struct list none;
    struct pattern *p = NULL;
    if (text.len == 0) {
        return &none;
    }
    HASH_FIND(hh, s->patterns, text.data, text.len, p);
    if (p != NULL) {
        return &p->topics;
    }
    p = calloc(1, sizeof *p);
    if (p == NULL) {
        s->ok = false;
        return &none;
    }
    p->text = text;
    HASH_ADD_KEYPTR(hh, s->patterns, p->text.data, p->text.len, p);
    resolve(s, p);
    return &p->topics;
}

/* Names and pattern, both ascending, into one list; a topic that both name is there once. */
static void add_member(struct subscriptions *s, const struct cgroup_member *m)
{
    const struct list *matched = topics_of_pattern(s, m->regex);
    int32_t k = 0, count = m->topics != NULL ? m->topics->count : 0;
    for (int32_t i = 0; i < count; i++) {
        const struct cgroup_topic *t = cgroup_topics_find(s->all, m->topics->list[i]);
        if (t == NULL) {
            continue;
        }
        int32_t at = (int32_t)(t - s->all->list);
        while (k < matched->count && matched->items[k] < at) {
            list_add(&s->lists, matched->items[k++], &s->ok);
        }
        k += k < matched->count && matched->items[k] == at;
        list_add(&s->lists, at, &s->ok);
    }
    while (k < matched->count) {
        list_add(&s->lists, matched->items[k++], &s->ok);
    }
}

static void subscriptions_init(struct subscriptions *s, const struct cgroup *g,
                               const struct cgroup_topics *all)
{
    *s = (struct subscriptions){.all = all, .ok = true};
    s->from = calloc((size_t)g->member_count + 1, sizeof *s->from);
    s->read = calloc(all->count + 1, sizeof *s->read);
    s->ok = s->from != NULL && s->read != NULL;
    int32_t i = 0;
    for (const struct cgroup_member *m = g->members; s->ok && m != NULL; m = m->hh.next) {
        add_member(s, m);
        s->from[++i] = s->lists.count;
    }
    for (int32_t k = 0; s->ok && k < s->lists.count; k++) {
        s->read[s->lists.items[k]] = true;
    }
}

static void subscriptions_fini(struct subscriptions *s)
{
    struct pattern *p, *next;
    HASH_ITER(hh, s->patterns, p, next)
    {
        HASH_DELETE(hh, s->patterns, p);
        free(p->topics.items);
        free(p);
    }
    free(s->lists.items);
    free(s->from);
    free(s->read);
}

/* --- the hash: FNV-1a ------------------------------------------------------------------------ */

static uint64_t fnv(uint64_t h, const void *data, size_t len)
{
    const uint8_t *p = data;
    for (size_t i = 0; i < len; i++) {
        h = (h ^ p[i]) * 0x100000001b3u;
    }
    return h;
}

uint64_t cgroup_topics_hash(struct cgroup *g, const struct cgroup_topics *topics)
{
    struct subscriptions s;
    subscriptions_init(&s, g, topics);
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; s.ok && i < topics->count; i++) {
        const struct cgroup_topic *t = &topics->list[i];
        if (s.read[i]) {
            h = fnv(h, t->name.data, t->name.len);
            h = fnv(h, t->id.b, sizeof t->id.b);
            h = fnv(h, &t->partition_count, sizeof t->partition_count);
        }
    }
    g->broken = g->broken || !s.ok;
    subscriptions_fini(&s);
    return h;
}

/* --- targets --------------------------------------------------------------------------------- */

struct by_id { /* topics that are read, by id */
    struct uuid id;
    int32_t topic;
};

struct assigning {
    struct cgroup *g;
    struct subscriptions s;
    struct assignor_group input;
    struct assignor_member *members;
    struct assignor_topic *topics;
    struct by_id *by_id;
    struct partition_set *targets; /* by member */
    bool ok;
};

static int compare_ids(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct uuid)); /* struct by_id begins with it */
}

static int compare_numbers(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* Numbers the topics that are read anew, without gaps. */
static void number_topics(struct assigning *x)
{
    int32_t *place = malloc((x->s.all->count + 1) * sizeof *place);
    if (place == NULL) {
        x->ok = false;
        return;
    }
    int32_t n = 0, partitions = 0;
    for (size_t i = 0; i < x->s.all->count; i++) {
        const struct cgroup_topic *t = &x->s.all->list[i];
        int32_t count = t->partition_count;
        place[i] = n;
        if (!x->s.read[i]) {
            continue;
        }
        if (count > CGROUP_PARTITIONS_MAX - partitions) {
            log_error("group reads more partitions than a group may, topic is left out group=%.*s "
                      "topic=%.*s partitions_max=%d",
                      (int)x->g->id.len, (const char *)x->g->id.data, (int)t->name.len,
                      (const char *)t->name.data, CGROUP_PARTITIONS_MAX);
            count = 0;
        }
        x->topics[n] = (struct assignor_topic){t->id, count, partitions};
        x->by_id[n] = (struct by_id){t->id, n};
        partitions += count;
        n++;
    }
    for (int32_t k = 0; k < x->s.lists.count; k++) {
        x->s.lists.items[k] = place[x->s.lists.items[k]];
    }
    free(place);
    if (n > 0) {
        qsort(x->by_id, (size_t)n, sizeof *x->by_id, compare_ids);
    }
    x->input.topic_count = n;
    x->input.partition_count = partitions;
}

static void list_members(struct assigning *x)
{
    int32_t i = 0;
    for (const struct cgroup_member *m = x->g->members; m != NULL; m = m->hh.next, i++) {
        x->members[i] = (struct assignor_member){
            .id = m->id,
            .instance_id = m->instance_id,
            .topics = x->s.lists.count > 0 ? &x->s.lists.items[x->s.from[i]] : x->s.from,
            .topic_count = x->s.from[i + 1] - x->s.from[i],
        };
    }
    x->input.member_count = i;
}

/* Who had what: only of topics that there still are, and that the member still reads. */
static void put_owners(struct assigning *x)
{
    int32_t i = 0;
    memset(x->input.owner, 0xff, (size_t)x->input.partition_count * sizeof *x->input.owner);
    for (const struct cgroup_member *m = x->g->members; m != NULL; m = m->hh.next, i++) {
        const struct assignor_member *a = &x->members[i];
        for (int32_t at = 0, run; at < m->target.count; at += run) {
            run = partition_set_run(&m->target, at);
            const struct by_id *t = bsearch(&m->target.list[at].topic, x->by_id,
                                            (size_t)x->input.topic_count, sizeof *t, compare_ids);
            if (t == NULL || a->topic_count == 0 ||
                bsearch(&t->topic, a->topics, (size_t)a->topic_count, sizeof *a->topics,
                        compare_numbers) == NULL) {
                continue;
            }
            for (int32_t k = at; k < at + run; k++) {
                int32_t p = m->target.list[k].partition;
                if (p < x->topics[t->topic].partition_count) {
                    x->input.owner[x->topics[t->topic].first + p] = i;
                }
            }
        }
    }
}

/* Topics by id and partitions in order: the sets are in order as they grow. */
static void take_targets(struct assigning *x)
{
    for (int32_t i = 0; i < x->input.topic_count; i++) {
        const struct assignor_topic *t = &x->topics[x->by_id[i].topic];
        for (int32_t p = 0; p < t->partition_count; p++) {
            int32_t owner = x->input.owner[t->first + p];
            if (owner >= 0) {
                partition_set_append(&x->targets[owner], &t->id, p, &x->ok);
            }
        }
    }
    int32_t i = 0;
    for (struct cgroup_member *m = x->g->members; x->ok && m != NULL; m = m->hh.next, i++) {
        if (!partition_set_equal(&m->target, &x->targets[i])) {
            partition_set_move(&m->target, &x->targets[i]);
            cgroup_member_weigh(x->g, m);
        }
    }
}

static void assigning_run(struct assigning *x)
{
    number_topics(x);
    if (!x->ok) {
        return;
    }
    list_members(x);
    x->input.members = x->members;
    x->input.topics = x->topics;
    x->input.owner = malloc(((size_t)x->input.partition_count + 1) * sizeof *x->input.owner);
    x->ok = x->input.owner != NULL;
    if (x->ok) {
        put_owners(x);
        x->ok = assignor_run(cgroup_assignor(x->g), &x->input);
    }
    if (x->ok) {
        take_targets(x);
    }
    free(x->input.owner);
}

void cgroup_assign(struct cgroup *g, const struct cgroup_topics *topics)
{
    struct assigning x = {.g = g};
    subscriptions_init(&x.s, g, topics);
    size_t members = (size_t)g->member_count + 1, count = topics->count + 1;
    x.members = calloc(members, sizeof *x.members);
    x.targets = calloc(members, sizeof *x.targets);
    x.topics = calloc(count, sizeof *x.topics);
    x.by_id = calloc(count, sizeof *x.by_id);
    x.ok = x.s.ok && x.members != NULL && x.targets != NULL && x.topics != NULL && x.by_id != NULL;
    if (x.ok) {
        assigning_run(&x);
    }
    g->broken = g->broken || !x.ok;
    for (size_t i = 0; x.targets != NULL && i < members; i++) {
        partition_set_fini(&x.targets[i]);
    }
    free(x.members);
    free(x.targets);
    free(x.topics);
    free(x.by_id);
    subscriptions_fini(&x.s);
}
