/* Lives of groups for AssignorOracle.java: members come and go, change what they read, topics grow;
 * after each step, what was, and what the server's assignors make of it.
 *
 *      assignor_peer LIVES SEED
 *
 *      case uniform|range
 *      topic PARTITIONS                        they are numbered from 0
 *      member ID INSTANCE|- TOPICS             "0,2"; members are numbered from 0
 *      was OWNER …                             by partition, of all topics; -1: nobody
 *      is OWNER …
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "kafka-server/broker/assignor.h"

#define MEMBERS_MAX          9
#define TOPICS_MAX           6
#define TOPIC_PARTITIONS_MAX 24
#define STEPS                6

struct person {
    char id[16], instance[16];
    unsigned reads;
};

static struct person people[MEMBERS_MAX];
static int people_count, topic_count, named;
static int32_t sizes[TOPICS_MAX];
static int owners[TOPICS_MAX][TOPIC_PARTITIONS_MAX]; /* index of the person; -1 */
static uint64_t state;

static uint64_t roll(uint64_t n)
{
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (z ^ (z >> 31)) % n;
}

static void come(bool same)
{
    if (people_count == MEMBERS_MAX) {
        return;
    }
    struct person *p = &people[people_count++];
    snprintf(p->id, sizeof p->id, "m%03d", (named * 37) % 1000);
    snprintf(p->instance, sizeof p->instance, "%s", "-");
    if (roll(4) == 0) {
        snprintf(p->instance, sizeof p->instance, "i%03d", (named * 53) % 1000);
    }
    named++;
    unsigned all = (1u << topic_count) - 1;
    p->reads = same ? all : 1 + (unsigned)roll(all);
}

static void go(int who)
{
    people[who] = people[--people_count];
    for (int t = 0; t < topic_count; t++) {
        for (int p = 0; p < sizes[t]; p++) {
            int *o = &owners[t][p];
            *o = *o == who ? -1 : *o == people_count ? who : *o;
        }
    }
}

static void change(bool same)
{
    switch (roll(4)) {
    case 0:
        if (people_count > 1) {
            go((int)roll((uint64_t)people_count));
        }
        break;
    case 1: {
        int t = (int)roll((uint64_t)topic_count);
        if (sizes[t] < TOPIC_PARTITIONS_MAX) {
            owners[t][sizes[t]++] = -1;
        }
        break;
    }
    case 2:
        if (!same) {
            people[roll((uint64_t)people_count)].reads =
                1 + (unsigned)roll((1u << topic_count) - 1);
        }
        break;
    default:
        come(same);
        break;
    }
}

static void print_owners(const char *name, const int32_t *owner, int count)
{
    printf("%s", name);
    for (int i = 0; i < count; i++) {
        printf(" %d", owner[i]);
    }
    printf("\n");
}

static void show(enum assignor_kind kind)
{
    struct assignor_topic topics[TOPICS_MAX];
    struct assignor_member members[MEMBERS_MAX];
    int32_t lists[MEMBERS_MAX][TOPICS_MAX], owner[TOPICS_MAX * TOPIC_PARTITIONS_MAX];
    struct assignor_group g = {members, topics, people_count, topic_count, 0, owner};
    printf("case %s\n", assignor_name(kind));
    for (int t = 0; t < topic_count; t++) {
        topics[t] = (struct assignor_topic){{{0}}, sizes[t], g.partition_count};
        topics[t].id.b[15] = (uint8_t)(t + 2); /* 0 and 1 are reserved */
        printf("topic %d\n", sizes[t]);
        for (int p = 0; p < sizes[t]; p++) {
            int o = owners[t][p];
            bool reads = o >= 0 && (people[o].reads & 1u << t);
            owner[g.partition_count++] = reads ? o : -1;
        }
    }
    for (int m = 0; m < people_count; m++) {
        const struct person *p = &people[m];
        members[m] = (struct assignor_member){.id = slice_str(p->id), .topics = lists[m]};
        if (p->instance[0] != '-') {
            members[m].instance_id = slice_str(p->instance);
        }
        printf("member %s %s ", p->id, p->instance);
        for (int t = 0; t < topic_count; t++) {
            if (p->reads & 1u << t) {
                printf("%s%d", members[m].topic_count > 0 ? "," : "", t);
                lists[m][members[m].topic_count++] = t;
            }
        }
        printf("\n");
    }
    print_owners("was", owner, g.partition_count);
    if (!assignor_run(kind, &g)) {
        abort();
    }
    print_owners("is", owner, g.partition_count);
    for (int t = 0, i = 0; t < topic_count; t++) {
        for (int p = 0; p < sizes[t]; p++) {
            owners[t][p] = owner[i++];
        }
    }
}

int main(int argc, char **argv)
{
    long lives = argc > 1 ? strtol(argv[1], NULL, 10) : 100;
    state = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    for (long i = 0; i < lives; i++) {
        bool same = roll(2) == 0;
        enum assignor_kind kind = roll(3) == 0 ? ASSIGNOR_RANGE : ASSIGNOR_UNIFORM;
        people_count = named = 0;
        topic_count = 1 + (int)roll(TOPICS_MAX);
        for (int t = 0; t < topic_count; t++) {
            sizes[t] = (int32_t)roll(TOPIC_PARTITIONS_MAX / 2);
            for (int p = 0; p < TOPIC_PARTITIONS_MAX; p++) {
                owners[t][p] = -1;
            }
        }
        for (uint64_t n = 1 + roll(MEMBERS_MAX / 2); n > 0; n--) {
            come(same);
        }
        for (int step = 0; step < STEPS; step++) {
            unsigned read = 0;
            for (int m = 0; m < people_count; m++) {
                read |= people[m].reads;
            }
            people[0].reads |= ~read & ((1u << topic_count) - 1); /* somebody reads each */
            show(kind);
            change(same);
        }
    }
    return 0;
}
