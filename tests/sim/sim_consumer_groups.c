/* Groups of the consumer protocol, simulated: the real coordinator and journal, rows in memory, a
 * virtual clock, and clients that do what clients do: join, send heartbeats, give up what they
 * must when they get round to it, leave, die, hang, start again, as the other protocol's client,
 * too. Answers are lost, the coordinator is killed at any moment (before, and right after, its
 * commit) and read back from its rows; commits fail; topics come, grow and go. Each seed is another
 * life.
 *
 *      sim_consumer_groups [each] [SEEDS [FIRST]]     what can be asked for, sim.h says
 *
 * What must hold, always: no partition is in the hands of two members; what a client has, the group
 * knows that it may have; epochs told to one member only grow. And at the end, when the chaos stops
 * and there is nothing but heartbeats: everybody is where he shall be, and every partition that
 * anybody asks for is read by exactly one. */
#include "kafka-server/broker/coordinator.h"
#include "tests/sim/cgroup_script.h"
#include "tests/sim/sim.h"

#define CLIENTS      6
#define INSTANCES    2 /* static ids that clients share */
#define TOPICS       3
#define STEPS        250
#define SHORT_STEPS  60 /* of a life that is lived once for each of its points */
#define QUIET_STEPS  1500
#define SESSION_MS   6000
#define REBALANCE_MS 5000
#define HEARTBEAT_MS 500
#define ID_BYTES_MAX 320
#define BYTES_MAX    65536
#define GROUP        "g"

enum phase { OUT, JOIN, SYNC, RUN }; /* SYNC: of the classic protocol alone */

struct op;

struct client {
    enum phase phase;
    bool classic, hung;
    char id[ID_BYTES_MAX];
    int instance;  /* -1: dynamic */
    int32_t epoch; /* the classic protocol's generation */
    struct partition_set owned, assigned;
    bool told;         /* owned has changed, and no answer says that the group has heard of it */
    bool full;         /* an answer was lost: all is said again */
    int64_t revoke_ms; /* gives up what it must by then; 0: nothing to do */
    int64_t next_ms;
    unsigned reads; /* topics, by bit; 0: those of a pattern */
    bool leads;
    size_t member_count;
    char members[CLIENTS * 3][ID_BYTES_MAX];
    struct op *op;
};

struct op {
    struct group_call call; /* first; of the classic protocol */
    struct journal_wait wait;
    struct client *client;
    bool prepared, is_sync, has_assigned, leaves;
    enum kerr error;
    int32_t epoch;
    char id[ID_BYTES_MAX];
    struct partition_set assigned;
    bool leads;
    size_t member_count;
    char members[CLIENTS * 3][ID_BYTES_MAX];
    struct op *next;
};

static struct world {
    uint64_t calm;
    unsigned lose_percent;
    int ids, topic_ids;
    struct coordinator *coordinator;
    struct client clients[CLIENTS];
    struct op *ops;
    struct cgroup_topic topics[TOPICS]; /* partition_count 0: it is not there */
    bool was_consumer;
    uint64_t stable_seen, fenced_seen, upgrades, downgrades; /* of all lives */
} w;

static const char *const topic_names[TOPICS] = {"ta", "tb", "u"};

/* --- the coordinator's life ------------------------------------------------------------------ */

static void tell_topics(void)
{
    struct cgroup_topic list[TOPICS];
    size_t n = 0;
    for (int i = 0; i < TOPICS; i++) {
        if (w.topics[i].partition_count > 0) {
            list[n++] = w.topics[i];
        }
    }
    coordinator_set_topics(w.coordinator, list, n);
}

static void coordinator_start(void)
{
    const struct journal_rows rows = sim_rows();
    struct config_server cfg = {
        .group_min_session_timeout_ms = 1000,
        .group_max_session_timeout_ms = 60000,
        .group_max_size = 1000,
        .offsets_retention_minutes = 1000000,
        .offsets_retention_check_interval_ms = 1000000000,
        .offset_metadata_max_bytes = 4096,
        .group_consumer_session_timeout_ms = SESSION_MS,
        .group_consumer_heartbeat_interval_ms = HEARTBEAT_MS,
        .group_consumer_max_size = 1000,
        .group_consumer_assignors = sim.seed % 2 == 0 ? "uniform" : "range,uniform",
        .group_consumer_migration_policy = CONFIG_MIGRATION_BOTH,
    };
    struct errmsg m;
    CHECK(journal_open_rows(&sim.journal, &rows, &m) == OK, "journal");
    CHECK(coordinator_open(&w.coordinator, sim.journal, &cfg, sim.mono_ms, &m) == OK, "%s", m.text);
    tell_topics();
}

static void op_drop(struct op *op)
{
    for (struct op **p = &w.ops; *p != NULL; p = &(*p)->next) {
        if (*p == op) {
            *p = op->next;
            break;
        }
    }
    if (op->client->op == op) {
        op->client->op = NULL;
    }
    partition_set_fini(&op->assigned);
    free(op);
}

static void coordinator_take_down(void)
{
    coordinator_close(w.coordinator);
    journal_close(sim.journal);
}

static void forget_calls(void)
{
    while (w.ops != NULL) {
        w.ops->client->full = true;
        op_drop(w.ops);
    }
}

static const struct sim_server server = {
    .start = coordinator_start, .stop = coordinator_take_down, .forget = forget_calls};

/* --- clients: what they have ----------------------------------------------------------------- */

static void set_copy(struct partition_set *to, const struct partition_set *from)
{
    bool ok = true;
    struct partition_set copy = {0};
    partition_set_copy(&copy, from, &ok);
    partition_set_move(to, &copy);
}

static void abandon(struct client *c)
{
    partition_set_fini(&c->owned);
    partition_set_fini(&c->assigned);
    c->revoke_ms = 0;
    c->epoch = 0;
    c->told = c->full = false;
    c->phase = JOIN;
    if (c->classic || c->instance >= 0) {
        c->id[0] = '\0';
    }
}

/* What it no longer may have it gives up, some time; what is new it takes when that is done. */
static void take(struct client *c, struct partition_set *assigned)
{
    partition_set_move(&c->assigned, assigned);
    if (c->revoke_ms == 0 && !partition_set_equal(&c->owned, &c->assigned)) {
        bool gives_up = !partition_set_within(&c->owned, &c->assigned);
        c->revoke_ms = sim.mono_ms + (gives_up ? (int64_t)(roll() % 1500) : 0) + 1;
    }
}

static void settle(struct client *c)
{
    if (c->revoke_ms > 0 && c->revoke_ms <= sim.mono_ms) {
        set_copy(&c->owned, &c->assigned);
        c->revoke_ms = 0;
        c->told = true;
        c->next_ms = sim.mono_ms;
    }
}

/* --- the consumer protocol ------------------------------------------------------------------- */

static const char *const instances[INSTANCES] = {"i0", "i1"};

static struct op *op_new(struct client *c)
{
    struct op *op = calloc(1, sizeof *op);
    CHECK(op != NULL, "memory");
    op->client = c;
    op->next = w.ops;
    w.ops = op;
    c->op = op;
    return op;
}

static void heard_heartbeat(struct client *c, struct op *op)
{
    if (op->leaves) {
        return;
    }
    switch (op->error) {
    case KERR_NONE:
        if (c->phase == RUN && c->epoch > 0) {
            CHECK(op->epoch >= c->epoch, "epoch %d after %d", op->epoch, c->epoch);
        }
        snprintf(c->id, sizeof c->id, "%s", op->id);
        c->epoch = op->epoch;
        c->phase = RUN;
        c->full = false;
        if (op->has_assigned) {
            take(c, &op->assigned);
        }
        break;
    case KERR_COORDINATOR_NOT_AVAILABLE:
        c->full = true;
        break;
    case KERR_FENCED_MEMBER_EPOCH:
    case KERR_UNKNOWN_MEMBER_ID:
    case KERR_GROUP_ID_NOT_FOUND:
        w.fenced_seen++;
        abandon(c);
        break;
    case KERR_UNRELEASED_INSTANCE_ID:
    case KERR_FENCED_INSTANCE_ID:
        CHECK(c->instance >= 0, "a dynamic member is told of an instance");
        abandon(c);
        c->next_ms = sim.mono_ms + 1000;
        if (op->error == KERR_FENCED_INSTANCE_ID) {
            c->phase = OUT;
        }
        break;
    default:
        CHECK(false, "error %d", op->error);
    }
}

static void heartbeat_done(struct journal_wait *wait, enum err e)
{
    struct op *op = (struct op *)((char *)wait - offsetof(struct op, wait));
    struct client *c = op->client;
    if (sim.dead) {
        return;
    }
    CHECK(c->op == op, "an answer to an old question");
    if (e != OK) {
        op->error = KERR_COORDINATOR_NOT_AVAILABLE;
        op->has_assigned = false;
    }
    if (!sim.quiet && chance(w.lose_percent)) {
        c->full = true;
    } else {
        heard_heartbeat(c, op);
    }
    op_drop(op);
}

static int32_t names_of(const struct client *c, struct slice *out)
{
    int32_t n = 0;
    for (int i = 0; i < TOPICS; i++) {
        if (c->reads & 1u << i) {
            out[n++] = slice_str(topic_names[i]);
        }
    }
    return n;
}

static void heartbeat(struct client *c, int32_t epoch)
{
    struct slice names[TOPICS];
    struct partition_set owned = {0};
    bool joins = epoch == 0, all = joins || c->full;
    if (joins && c->id[0] == '\0') {
        snprintf(c->id, sizeof c->id, "m%d", w.ids++);
    }
    set_copy(&owned, &c->owned);
    struct cgroup_heartbeat ev = {
        .member_id = slice_str(c->id),
        .member_epoch = epoch,
        .instance_id = c->instance >= 0 ? slice_str(instances[c->instance]) : slice_make(NULL, 0),
        .client_id = slice_str("c"),
        .client_host = slice_str("/127.0.0.1"),
        .rebalance_timeout_ms = all ? REBALANCE_MS : -1,
        .topics = names,
        .topic_count = all ? names_of(c, names) : -1,
        .owned = all || c->told ? &owned : NULL,
    };
    if (all) { /* both, or a static member would have what its former self read, too */
        ev.regex = slice_str(c->reads == 0 ? "t.*" : "");
    }
    c->told = false; /* or it is said again: `full` */
    struct cgroup_reply r;
    struct op *op = op_new(c);
    coordinator_consumer_heartbeat(w.coordinator, slice_str(GROUP), &ev, true, &r);
    op->error = r.error;
    op->epoch = r.member_epoch;
    op->leaves = epoch < 0;
    snprintf(op->id, sizeof op->id, "%.*s", (int)r.member_id.len, (const char *)r.member_id.data);
    op->has_assigned = r.error == KERR_NONE && r.assigned != NULL;
    if (op->has_assigned) {
        set_copy(&op->assigned, r.assigned);
    }
    partition_set_fini(&owned);
    op->wait.done = heartbeat_done;
    journal_wait(sim.journal, &op->wait);
}

/* --- the classic protocol, eager ------------------------------------------------------------- */

static void prepare(struct group_call *call, const struct group_reply *r)
{
    struct op *op = (struct op *)call;
    if (sim.dead) {
        return;
    }
    op->prepared = true;
    op->error = r->error;
    snprintf(op->id, sizeof op->id, "%.*s", (int)r->member_id.len,
             r->member_id.data != NULL ? (const char *)r->member_id.data : "");
    if (r->error != KERR_NONE) {
        return;
    }
    op->epoch = r->group->generation;
    op->leads = r->with_members;
    if (r->with_members) {
        for (const struct group_member *m = r->group->members; m != NULL; m = m->hh.next) {
            snprintf(op->members[op->member_count++], ID_BYTES_MAX, "%.*s", (int)m->id.len,
                     (const char *)m->id.data);
        }
    }
    if (op->is_sync) {
        struct reader in = reader_make(r->member->assignment);
        bool ok = true;
        (void)reader_be16(&in);
        for (uint32_t n = reader_be32(&in); n > 0 && !in.failed; n--) {
            struct slice name = reader_bytes(&in, reader_be16(&in));
            for (uint32_t k = reader_be32(&in); k > 0 && !in.failed; k--) {
                int32_t p = (int32_t)reader_be32(&in);
                for (int i = 0; i < TOPICS; i++) {
                    if (slice_eq(name, slice_str(topic_names[i]))) {
                        partition_set_append(&op->assigned, &w.topics[i].id, p, &ok);
                    }
                }
            }
        }
        partition_set_sort(&op->assigned);
    }
}

static void heard_classic(struct client *c, struct op *op)
{
    switch (op->error) {
    case KERR_NONE:
        snprintf(c->id, sizeof c->id, "%s", op->id);
        c->epoch = op->epoch;
        c->leads = op->leads;
        c->member_count = op->member_count;
        memcpy(c->members, op->members, sizeof c->members);
        if (op->is_sync) {
            partition_set_move(&c->owned, &op->assigned);
            c->next_ms = sim.mono_ms + HEARTBEAT_MS;
        }
        c->phase = op->is_sync ? RUN : SYNC;
        break;
    case KERR_MEMBER_ID_REQUIRED:
        snprintf(c->id, sizeof c->id, "%s", op->id);
        break;
    case KERR_COORDINATOR_NOT_AVAILABLE:
        break;
    case KERR_REBALANCE_IN_PROGRESS:
        partition_set_fini(&c->owned);
        c->phase = JOIN;
        break;
    case KERR_UNKNOWN_MEMBER_ID:
    case KERR_ILLEGAL_GENERATION:
        abandon(c);
        break;
    default:
        CHECK(false, "error %d", op->error);
    }
}

static void sent(struct group_call *call, enum kerr e)
{
    struct op *op = (struct op *)call;
    if (sim.dead) {
        return;
    }
    CHECK(op->prepared, "sent before it was prepared");
    if (e != KERR_NONE) {
        op->error = e;
    }
    heard_classic(op->client, op);
    op_drop(op);
}

static void put_name(struct buf *b, const char *name)
{
    buf_put_be16(b, (uint16_t)strlen(name));
    buf_put(b, name, strlen(name));
}

static void do_join(struct client *c)
{
    struct buf b;
    struct slice names[TOPICS];
    int32_t count = names_of(c, names);
    buf_init(&b, BYTES_MAX);
    buf_put_be16(&b, 1);
    buf_put_be32(&b, (uint32_t)count);
    for (int32_t i = 0; i < count; i++) {
        buf_put_be16(&b, (uint16_t)names[i].len);
        buf_put(&b, names[i].data, names[i].len);
    }
    buf_put_be32(&b, UINT32_MAX);
    buf_put_be32(&b, 0);
    const struct group_protocol range = {slice_str("range"), buf_slice(&b)};
    struct group_join ev = {
        .member_id = slice_str(c->id),
        .client_id = slice_str("c"),
        .client_host = slice_str("/127.0.0.1"),
        .protocol_type = slice_str("consumer"),
        .protocols = &range,
        .protocol_count = 1,
        .session_timeout_ms = SESSION_MS,
        .rebalance_timeout_ms = REBALANCE_MS,
        .id_required = true,
        .skip_assignment = true,
    };
    partition_set_fini(&c->owned);
    struct op *op = op_new(c);
    op->call.prepare = prepare;
    op->call.send = sent;
    coordinator_join(w.coordinator, slice_str(GROUP), &ev, &op->call);
    buf_fini(&b);
}

/* The leader's: partition p of each topic for member p modulo all. */
static void assign(struct client *c, struct buf *b, size_t member)
{
    buf_put_be16(b, 1);
    buf_put_be32(b, TOPICS);
    for (int i = 0; i < TOPICS; i++) {
        put_name(b, topic_names[i]);
        uint32_t n = 0;
        for (int32_t p = 0; p < w.topics[i].partition_count; p++) {
            n += (size_t)p % c->member_count == member;
        }
        buf_put_be32(b, n);
        for (int32_t p = 0; p < w.topics[i].partition_count; p++) {
            if ((size_t)p % c->member_count == member) {
                buf_put_be32(b, (uint32_t)p);
            }
        }
    }
    buf_put_be32(b, UINT32_MAX);
}

static void do_sync(struct client *c)
{
    struct buf b[CLIENTS * 3];
    struct group_assignment list[CLIENTS * 3];
    size_t count = c->leads ? c->member_count : 0;
    for (size_t i = 0; i < count; i++) {
        buf_init(&b[i], BYTES_MAX);
        assign(c, &b[i], i);
        list[i] = (struct group_assignment){slice_str(c->members[i]), buf_slice(&b[i])};
    }
    struct group_sync ev = {
        .generation = c->epoch,
        .member_id = slice_str(c->id),
        .assignments = list,
        .assignment_count = (int32_t)count,
    };
    struct op *op = op_new(c);
    op->is_sync = true;
    op->call.prepare = prepare;
    op->call.send = sent;
    coordinator_sync(w.coordinator, slice_str(GROUP), &ev, &op->call);
    for (size_t i = 0; i < count; i++) {
        buf_fini(&b[i]);
    }
}

static void classic_act(struct client *c)
{
    if (c->phase == JOIN) {
        do_join(c);
    } else if (c->phase == SYNC) {
        do_sync(c);
    } else if (c->next_ms <= sim.mono_ms) {
        c->next_ms = sim.mono_ms + HEARTBEAT_MS;
        struct op heard = {.client = c};
        heard.error = coordinator_heartbeat(w.coordinator, slice_str(GROUP), c->epoch,
                                            slice_str(c->id), slice_make(NULL, 0));
        if (heard.error != KERR_NONE) {
            heard_classic(c, &heard);
        }
    }
}

/* --- what clients do ------------------------------------------------------------------------- */

static void leave(struct client *c, int32_t epoch)
{
    partition_set_fini(&c->owned);
    c->revoke_ms = 0;
    if (c->classic) {
        (void)coordinator_leave(w.coordinator, slice_str(GROUP), slice_str(c->id),
                                slice_make(NULL, 0));
    } else if (c->epoch > 0) {
        heartbeat(c, epoch);
    }
    c->phase = OUT;
}

static void begin(struct client *c)
{
    c->classic = chance(40);
    c->instance = !c->classic && chance(25) ? (int)(roll() % INSTANCES) : -1;
    c->reads = chance(70) ? (1u << TOPICS) - 1 : 1 + (unsigned)(roll() % ((1u << TOPICS) - 1));
    if (!c->classic && chance(20)) {
        c->reads = 0;
    }
    c->id[0] = '\0';
    abandon(c);
}

static void mishap(struct client *c)
{
    switch (roll() % w.calm) {
    case 0: /* it dies, and nobody says so */
        if (c->op == NULL) {
            partition_set_fini(&c->owned);
            c->phase = OUT;
        }
        break;
    case 1:
        c->hung = true;
        break;
    case 2:
        if (c->op == NULL && c->phase == RUN) {
            leave(c, c->instance >= 0 && chance(60) ? -2 : -1);
        }
        break;
    case 3:
    case 4:
        if (c->phase == OUT && c->op == NULL) {
            begin(c);
        }
        break;
    default:
        break;
    }
}

static void act(struct client *c)
{
    if (c->hung) {
        c->hung = !(sim.quiet || chance(4));
        return;
    }
    if (c->phase == OUT) {
        return;
    }
    if (!c->classic) {
        settle(c);
    }
    if (c->op != NULL) {
        return;
    }
    if (c->classic) {
        classic_act(c);
    } else if (c->next_ms <= sim.mono_ms || c->full) {
        c->next_ms = sim.mono_ms + HEARTBEAT_MS;
        heartbeat(c, c->epoch);
    }
}

static void change_topics(void)
{
    struct cgroup_topic *t = &w.topics[roll() % TOPICS];
    if (t->partition_count > 0 && chance(30)) {
        t->partition_count = 0; /* and the next one of this name is another */
    } else if (t->partition_count == 0) {
        t->partition_count = 1 + (int32_t)(roll() % 6);
        t->id.b[0] = (uint8_t)++w.topic_ids;
        t->id.b[1] = (uint8_t)(w.topic_ids >> 8);
    } else if (t->partition_count < 12) {
        t->partition_count++;
    }
    tell_topics();
}

/* --- what must hold -------------------------------------------------------------------------- */

static void check_members(const struct cgroup *g)
{
    int32_t members = 0, classic = 0;
    size_t bytes = 0;
    for (const struct cgroup_member *m = g->members; m != NULL; m = m->hh.next) {
        members++;
        classic += m->protocols != NULL;
        bytes += m->bytes;
        CHECK(!partition_set_meet(&m->assigned, &m->revoking), "assigned and to be revoked");
        for (const struct cgroup_member *o = m->hh.next; o != NULL; o = o->hh.next) {
            CHECK(!partition_set_meet(&m->assigned, &o->assigned) &&
                      !partition_set_meet(&m->assigned, &o->revoking) &&
                      !partition_set_meet(&m->revoking, &o->assigned) &&
                      !partition_set_meet(&m->revoking, &o->revoking),
                  "two owners: %.*s, %.*s", (int)m->id.len, (const char *)m->id.data,
                  (int)o->id.len, (const char *)o->id.data);
            CHECK(!partition_set_meet(&m->target, &o->target), "one target for two");
        }
    }
    CHECK(members == g->member_count && classic == g->classic_count && bytes == g->bytes, "counts");
    CHECK(!cgroup_is_classic(g), "nobody speaks the consumer protocol");
}

/* A client of the classic protocol knows topics by name: what it had of one that is gone, or was
 * made anew, the group has forgotten when it changed its kind. */
static bool has_only(const struct client *c, const struct partition_set *may)
{
    for (int32_t i = 0; i < c->owned.count; i++) {
        bool there = !c->classic;
        for (int t = 0; t < TOPICS; t++) {
            there = there ||
                    (w.topics[t].partition_count > 0 &&
                     memcmp(&w.topics[t].id, &c->owned.list[i].topic, sizeof w.topics[t].id) == 0);
        }
        if (there && !partition_set_has(may, &c->owned.list[i])) {
            return false;
        }
    }
    return true;
}

static void check_clients(const struct cgroup *g)
{
    for (int i = 0; i < CLIENTS; i++) {
        const struct client *c = &w.clients[i];
        const struct cgroup_member *m = c->id[0] != '\0' ? cgroup_find(g, slice_str(c->id)) : NULL;
        if (m == NULL || c->phase != RUN || (c->classic && c->epoch != m->epoch)) {
            continue; /* fenced, and will hear of it */
        }
        struct partition_set may = {0};
        bool ok = true;
        partition_set_union(&may, &m->assigned, &m->revoking, &ok);
        CHECK(has_only(c, &may), "client %d has what it may not have", i);
        partition_set_fini(&may);
    }
}

static void check_group(void)
{
    const struct cgroup *g = coordinator_find_consumer(w.coordinator, slice_str(GROUP));
    bool is_consumer = g != NULL;
    w.upgrades += is_consumer && !w.was_consumer;
    w.downgrades += !is_consumer && w.was_consumer;
    w.was_consumer = is_consumer;
    if (g != NULL) {
        check_members(g);
        check_clients(g);
        w.stable_seen += cgroup_state(g) == CGROUP_STABLE;
    }
}

static void step(void)
{
    sim.step++;
    sim.mono_ms += sim.quiet ? 100 : (int64_t)(roll() % (chance(5) ? 4000 : 300));
    coordinator_tick(w.coordinator, sim.mono_ms);
    if (!sim.quiet && chance(3)) {
        change_topics();
    }
    for (int i = 0; i < CLIENTS; i++) {
        struct client *c = &w.clients[roll() % CLIENTS];
        if (!sim.quiet) {
            mishap(c);
        }
        act(c);
    }
    sim_turn(&server);
    if (sim.away == 0) { /* what it says counts again when the store does */
        check_group();
    }
}

/* Everybody who lives is in one group of his kind, and has what he shall have. */
static bool all_settled(void)
{
    const struct cgroup *g = coordinator_find_consumer(w.coordinator, slice_str(GROUP));
    const struct group *k = coordinator_find(w.coordinator, slice_str(GROUP));
    int32_t alive = 0;
    for (int i = 0; i < CLIENTS; i++) {
        const struct client *c = &w.clients[i];
        if (c->phase == OUT) {
            continue;
        }
        alive++;
        if (c->phase != RUN) {
            return false;
        }
        const struct cgroup_member *m = g != NULL ? cgroup_find(g, slice_str(c->id)) : NULL;
        if (g != NULL &&
            (m == NULL || m->epoch != c->epoch || !partition_set_equal(&c->owned, &m->assigned))) {
            return false;
        }
        if (g == NULL &&
            (k == NULL || k->generation != c->epoch || group_find(k, slice_str(c->id)) == NULL)) {
            return false;
        }
    }
    if (g != NULL) {
        return g->member_count == alive && (alive == 0 || cgroup_state(g) == CGROUP_STABLE);
    }
    return alive == 0 || (k->state == GROUP_STABLE && k->member_count == alive);
}

static bool anybody_reads(int topic)
{
    for (int i = 0; i < CLIENTS; i++) {
        const struct client *c = &w.clients[i];
        bool matches = c->reads == 0 ? topic_names[topic][0] == 't' : (c->reads >> topic) & 1;
        if (c->phase != OUT && matches) {
            return true;
        }
    }
    return false;
}

static void check_owners(void)
{
    if (coordinator_find_consumer(w.coordinator, slice_str(GROUP)) == NULL) {
        return; /* the leader's business */
    }
    for (int t = 0; t < TOPICS; t++) {
        for (int32_t p = 0; p < w.topics[t].partition_count; p++) {
            const struct topic_partition at = {w.topics[t].id, p};
            int owners = 0;
            for (int i = 0; i < CLIENTS; i++) {
                owners += w.clients[i].phase != OUT && partition_set_has(&w.clients[i].owned, &at);
            }
            CHECK(owners == (int)anybody_reads(t), "%s-%d has %d owners", topic_names[t], p,
                  owners);
        }
    }
}

/* Static members that share an id fence one another for ever: one of them stays. */
static void part_instances(void)
{
    bool taken[INSTANCES] = {0};
    for (int i = 0; i < CLIENTS; i++) {
        struct client *c = &w.clients[i];
        if (c->phase != OUT && c->instance >= 0) {
            if (taken[c->instance]) {
                c->phase = OUT;
                partition_set_fini(&c->owned);
            }
            taken[c->instance] = true;
        }
    }
}

/* --- the life of a script: one thing after another, each until all have settled --------------- */

static void script_turn(void)
{
    sim.step++;
    sim.mono_ms += 200;
    coordinator_tick(w.coordinator, sim.mono_ms);
    for (int i = 0; i < CLIENTS; i++) {
        act(&w.clients[i]);
    }
    sim_turn(&server);
    check_group();
}

/* Some turns at least: to hear of topics that have just changed. */
static void settle_all(void)
{
    for (int turn = 0; turn < QUIET_STEPS && (turn < 6 || !all_settled()); turn++) {
        script_turn();
    }
    CHECK(all_settled(), "somebody is stuck");
    check_owners();
}

static void run_line(const struct line *l)
{
    struct client *c = &w.clients[l->client];
    struct cgroup_topic *t = &w.topics[l->client % TOPICS];
    switch (l->what) {
    case START:
    case CLASSIC:
    case STATIC:
        begin(c);
        c->classic = l->what == CLASSIC;
        c->instance = l->what == STATIC ? 0 : -1;
        c->reads = (unsigned)l->arg;
        c->id[0] = '\0';
        break;
    case LEAVE:
    case AWAY:
        leave(c, l->what == AWAY ? -2 : -1);
        break;
    case DIE:
        partition_set_fini(&c->owned);
        c->phase = OUT;
        break;
    case TOPIC:
        if (t->partition_count == 0) {
            t->id.b[0] = (uint8_t)++w.topic_ids;
        }
        t->partition_count = l->arg;
        tell_topics();
        break;
    }
}

static void end_life(void)
{
    sim_end(&server);
    for (int i = 0; i < CLIENTS; i++) {
        partition_set_fini(&w.clients[i].owned);
        partition_set_fini(&w.clients[i].assigned);
    }
}

static void run_script(void)
{
    for (const struct line *l = script; l < script + sizeof script / sizeof *script; l++) {
        while (l->what != TOPIC && w.clients[l->client].op != NULL) {
            script_turn();
        }
        run_line(l);
        settle_all();
    }
}

static void run(uint64_t seed, int crash_at)
{
    memset(&w, 0, offsetof(struct world, stable_seen));
    sim_begin(seed, crash_at);
    w.calm = 30 + seed % 4 * 60;
    sim.kill_percent = seed % 3 * 3;
    sim.fail_percent = seed % 5;
    w.lose_percent = seed % 7 * 2;
    for (int i = 0; i < TOPICS; i++) {
        w.topics[i] = (struct cgroup_topic){slice_str(topic_names[i]), {{(uint8_t)(200 + i)}}, 4};
    }
    coordinator_start();
    if (seed == 0) {
        run_script();
        end_life();
        return;
    }
    for (int i = 0; i < (crash_at > 0 ? SHORT_STEPS : STEPS); i++) {
        step();
    }
    sim.quiet = true;
    part_instances();
    int left = QUIET_STEPS; /* at first, to hear of topics that have just changed */
    while (left-- > 0 && (left > QUIET_STEPS - 100 || !all_settled())) {
        step();
    }
    const struct cgroup *g = coordinator_find_consumer(w.coordinator, slice_str(GROUP));
    CHECK(all_settled(), "somebody is stuck: %s",
          g != NULL ? cgroup_state_name(cgroup_state(g)) : "classic");
    check_owners();
    end_life();
}

int main(int argc, char **argv)
{
    uint64_t seeds = sim_main(argc, argv, run, 2000);
    printf("consumer groups: %" PRIu64 " lives, %" PRIu64 " steps stable, %" PRIu64
           " fenced, %" PRIu64 " upgrades, %" PRIu64 " downgrades, %" PRIu64 " kills, %" PRIu64
           " landed\n",
           seeds, w.stable_seen, w.fenced_seen, w.upgrades, w.downgrades, sim.kills, sim.landed);
    return 0;
}
