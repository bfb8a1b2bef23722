/* Consumer groups, simulated: the real coordinator and journal, rows in memory, a virtual clock,
 * and clients that do what clients do: join, sync, send heartbeats, commit, leave, die, hang, start
 * again. The coordinator is killed at any moment (before, and right after, its commit) and read
 * back from its rows; commits fail. Each seed is another life.
 *
 *      sim_groups [each] [SEEDS [FIRST]]     what can be asked for, sim.h says
 *
 * What must hold, always: a generation has one leader, and never comes twice; generations told to
 * clients only grow; a call is answered once, after its row is stored; a commit of an older
 * generation is refused; a commit that was answered is there, whatever happened; of two with one
 * instance id the older is fenced; who has been given work keeps it over a restart.
 * And at the end, when the chaos stops, everybody who lives is in one stable generation with what
 * its leader gave it. */
#include "kafka-server/broker/coordinator.h"
#include "tests/sim/sim.h"

#define CLIENTS      8
#define INSTANCES    3 /* static ids that clients share, so that they fence one another */
#define PARTITIONS   4
#define STEPS        250
#define SHORT_STEPS  60 /* of a life that is lived once for each of its points */
#define QUIET_STEPS  900
#define GENERATIONS  4096
#define ID_BYTES_MAX 320
#define SESSION_MS   10000
#define REBALANCE_MS 20000
#define HEARTBEAT_MS 1000
#define GROUP        "g"
#define SIMPLE       "simple" /* a group of offsets alone, which is also deleted now and then */
#define TOPIC        "t"

/* --- clients --------------------------------------------------------------------------------- */

enum phase { OUT, JOIN, SYNC, RUN };
enum { SIMPLE_COMMIT = -1, SIMPLE_DELETE = -2 };

struct op; /* a call that is on its way */

struct client {
    enum phase phase;
    char id[ID_BYTES_MAX];
    size_t id_len;
    int instance; /* -1: dynamic */
    bool id_required, skip_assignment;
    int32_t generation;
    bool leads, skip, hung, fenced;
    char assignment[ID_BYTES_MAX + 32]; /* "generation:member": what its leader gave it */
    struct op *op;
    int64_t next_ms;
    size_t member_count;
    char members[CLIENTS * 3][ID_BYTES_MAX];
};

struct op {
    struct group_call call; /* first */
    struct client *client;
    bool is_sync, prepared;
    enum kerr error;
    int32_t generation;
    bool with_members, skip;
    char id[ID_BYTES_MAX], leader[ID_BYTES_MAX];
    size_t member_count;
    char members[CLIENTS * 3][ID_BYTES_MAX];
    char assignment[ID_BYTES_MAX + 32];
    struct op *next;
};

struct commit_op {
    struct journal_wait wait;
    int partition; /* SIMPLE_COMMIT, SIMPLE_DELETE: of the other group */
    int64_t value;
    struct commit_op *next;
};

static struct world {
    uint64_t calm; /* one step in so many is a mishap, five kinds of them */
    struct coordinator *coordinator;
    struct client clients[CLIENTS];
    struct op *ops;
    struct commit_op *commits;
    int64_t sequence;
    int64_t answered[PARTITIONS], attempted[PARTITIONS];
    int64_t simple_floor; /* committed and answered, and not asked to be deleted since */
    int64_t simple_deleted, simple_last;    /* what was asked last: to delete, and anything */
    bool simple_gone;                       /* deleted and answered, and not committed since */
    const struct client *owners[INSTANCES]; /* who has asked for this instance id last */
    int32_t told_generation;
    char leaders[GENERATIONS][ID_BYTES_MAX];
    uint64_t stable_seen, fenced_seen, refused_seen, answered_seen;
} w;

static void *must(void *p)
{
    CHECK(p != NULL, "memory");
    return p;
}

/* --- the coordinator's life ------------------------------------------------------------------ */

/* In some lives a group that has emptied and holds no offsets is removed: its next generation is 1
 * again. */
static bool sweeps(void)
{
    return sim.seed % 7 == 0;
}

static void coordinator_start(void)
{
    static const int32_t delays_ms[] = {500, 5, 0};
    const struct journal_rows rows = sim_rows();
    struct config_server cfg = {
        .group_initial_rebalance_delay_ms = delays_ms[sim.seed % 3],
        .group_min_session_timeout_ms = 1000,
        .group_max_session_timeout_ms = 60000,
        .group_max_size = sim.seed % 5 == 0 ? CLIENTS / 2 : 1000,
        .offsets_retention_minutes = 1000000,
        .offsets_retention_check_interval_ms = sweeps() ? 30000 : 1000000000,
        .offset_metadata_max_bytes = 4096,
    };
    struct errmsg m;
    CHECK(journal_open_rows(&sim.journal, &rows, &m) == OK, "journal");
    CHECK(coordinator_open(&w.coordinator, sim.journal, &cfg, sim.mono_ms, &m) == OK, "%s", m.text);
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
    free(op);
}

static void coordinator_take_down(void)
{
    coordinator_close(w.coordinator);
    journal_close(sim.journal);
}

/* kill -9: all connections are gone. */
static void forget_calls(void)
{
    while (w.ops != NULL) {
        op_drop(w.ops);
    }
    while (w.commits != NULL) {
        struct commit_op *x = w.commits;
        w.commits = x->next;
        free(x);
    }
}

static const struct sim_server server = {
    .start = coordinator_start, .stop = coordinator_take_down, .forget = forget_calls};

/* --- what clients hear ----------------------------------------------------------------------- */

static void copy_id(char *out, struct slice s)
{
    CHECK(s.len < ID_BYTES_MAX, "id of %zu bytes", s.len);
    if (s.len > 0) {
        memcpy(out, s.data, s.len);
    }
    out[s.len] = '\0';
}

static void prepare(struct group_call *call, const struct group_reply *r)
{
    struct op *op = (struct op *)call;
    if (sim.dead) {
        return;
    }
    CHECK(!op->prepared, "answered twice");
    op->prepared = true;
    op->error = r->error;
    if (r->error != KERR_NONE) {
        copy_id(op->id, r->member_id);
        return;
    }
    op->generation = r->group->generation;
    copy_id(op->id, r->member_id);
    if (op->is_sync) {
        copy_id(op->assignment, r->member->assignment);
        return;
    }
    copy_id(op->leader, r->leader_id);
    op->with_members = r->with_members;
    op->skip = r->skip_assignment;
    if (r->with_members) {
        for (const struct group_member *m = r->group->members; m != NULL; m = m->hh.next) {
            CHECK(op->member_count < CLIENTS * 3, "too many members");
            CHECK(group_member_metadata(r->group, m).len > 0, "no metadata");
            copy_id(op->members[op->member_count++], m->id);
        }
    }
}

static void reset_member(struct client *c)
{
    c->id_len = 0;
    c->id[0] = '\0';
    c->generation = -1;
    c->phase = JOIN;
}

static void on_error(struct client *c, enum kerr e, bool in_join)
{
    switch (e) {
    case KERR_MEMBER_ID_REQUIRED:
    case KERR_COORDINATOR_NOT_AVAILABLE: /* try again */
        break;
    case KERR_REBALANCE_IN_PROGRESS:
        c->phase = JOIN;
        break;
    case KERR_UNKNOWN_MEMBER_ID:
    case KERR_ILLEGAL_GENERATION:
        reset_member(c);
        break;
    case KERR_FENCED_INSTANCE_ID:
        CHECK(c->instance >= 0, "a dynamic member was fenced");
        CHECK(w.owners[c->instance] != c, "fenced, and nobody came after it");
        w.fenced_seen++;
        c->phase = OUT;
        c->fenced = true;
        break;
    case KERR_GROUP_MAX_SIZE_REACHED:
        CHECK(in_join, "the group is full");
        reset_member(c);
        c->phase = OUT;
        break;
    default:
        CHECK(false, "error %d", e);
    }
}

/* Does the id belong to this static instance? "i1-…" */
static bool same_instance(const char *a, const char *b)
{
    return a[0] == 'i' && b[0] == 'i' && a[1] == b[1];
}

static void heard_join(struct client *c, const struct op *op)
{
    CHECK(op->generation >= w.told_generation, "told of generation %d after %d", op->generation,
          w.told_generation);
    CHECK(op->generation > 0 && op->generation < GENERATIONS, "generation %d", op->generation);
    if (op->generation > w.told_generation) {
        w.told_generation = op->generation;
    }
    char *leader = w.leaders[op->generation];
    if (op->with_members && !op->skip) {
        CHECK(strcmp(op->leader, op->id) == 0, "members for one who does not lead");
    }
    if (leader[0] == '\0') {
        snprintf(leader, ID_BYTES_MAX, "%s", op->leader);
    }
    CHECK(strcmp(leader, op->leader) == 0 || same_instance(leader, op->leader),
          "generation %d has two leaders %s %s", op->generation, leader, op->leader);
    snprintf(c->id, sizeof c->id, "%s", op->id);
    c->id_len = strlen(c->id);
    c->generation = op->generation;
    c->leads = op->with_members;
    c->skip = op->skip;
    c->member_count = op->member_count;
    memcpy(c->members, op->members, sizeof c->members);
    c->phase = SYNC;
}

static void heard(struct op *op)
{
    struct client *c = op->client;
    CHECK(c->op == op, "an answer to an old question");
    if (op->error == KERR_MEMBER_ID_REQUIRED) {
        CHECK(c->id_required && c->instance < 0, "asked for an id that it need not have");
        snprintf(c->id, sizeof c->id, "%s", op->id);
        c->id_len = strlen(c->id);
    } else if (op->error != KERR_NONE) {
        on_error(c, op->error, !op->is_sync);
    } else if (op->is_sync) {
        char want[ID_BYTES_MAX + 32];
        snprintf(want, sizeof want, "%d:", c->generation);
        CHECK(op->assignment[0] == '\0' || strncmp(op->assignment, want, strlen(want)) == 0,
              "assignment %s in generation %d", op->assignment, c->generation);
        snprintf(c->assignment, sizeof c->assignment, "%s", op->assignment);
        c->phase = RUN;
        c->next_ms = sim.mono_ms + HEARTBEAT_MS;
        w.stable_seen++;
    } else {
        heard_join(c, op);
    }
    op_drop(op);
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
    heard(op);
}

/* --- what clients do ------------------------------------------------------------------------- */

static struct op *op_new(struct client *c, bool is_sync)
{
    struct op *op = must(calloc(1, sizeof *op));
    op->call.prepare = prepare;
    op->call.send = sent;
    op->client = c;
    op->is_sync = is_sync;
    op->next = w.ops;
    w.ops = op;
    c->op = op;
    return op;
}

static struct slice instance_of(const struct client *c)
{
    static const char *const names[INSTANCES] = {"i0", "i1", "i2"};
    return c->instance >= 0 ? slice_str(names[c->instance]) : slice_make(NULL, 0);
}

static void do_join(struct client *c)
{
    char metadata[2][16];
    const unsigned variant = chance(10) ? (unsigned)(roll() % 3) : 0;
    snprintf(metadata[0], sizeof metadata[0], "range%u", variant);
    snprintf(metadata[1], sizeof metadata[1], "sticky%u", variant);
    const struct group_protocol both[2] = {
        {slice_str("range"), slice_str(metadata[0])},
        {slice_str("sticky"), slice_str(metadata[1])},
    };
    bool first_only = chance(20);
    struct group_join ev = {
        .member_id = slice_make(c->id, c->id_len),
        .instance_id = instance_of(c),
        .client_id = slice_str("c"),
        .client_host = slice_str("/127.0.0.1"),
        .protocol_type = slice_str("consumer"),
        .protocols = both,
        .protocol_count = first_only ? 1 : 2,
        .session_timeout_ms = SESSION_MS,
        .rebalance_timeout_ms = REBALANCE_MS,
        .id_required = c->id_required,
        .skip_assignment = c->skip_assignment,
    };
    if (c->instance >= 0 && c->id_len == 0) {
        w.owners[c->instance] = c;
    }
    struct op *op = op_new(c, false);
    coordinator_join(w.coordinator, slice_str(GROUP), &ev, &op->call);
}

static void do_sync(struct client *c)
{
    struct group_assignment list[CLIENTS * 3];
    static char texts[CLIENTS * 3][ID_BYTES_MAX + 32];
    int32_t count = 0;
    if (c->leads && !c->skip) {
        for (size_t i = 0; i < c->member_count; i++) {
            snprintf(texts[i], sizeof texts[i], "%d:%s", c->generation, c->members[i]);
            list[count].member_id = slice_str(c->members[i]);
            list[count++].bytes = slice_str(texts[i]);
        }
    }
    struct group_sync ev = {
        .generation = c->generation,
        .member_id = slice_make(c->id, c->id_len),
        .instance_id = instance_of(c),
        .assignments = list,
        .assignment_count = count,
    };
    struct op *op = op_new(c, true);
    coordinator_sync(w.coordinator, slice_str(GROUP), &ev, &op->call);
}

static void commit_answered(struct journal_wait *wait, enum err e)
{
    struct commit_op *x = (struct commit_op *)wait;
    if (!sim.dead && e == OK) {
        w.answered_seen++;
        if (x->partition == SIMPLE_COMMIT) {
            w.simple_floor = x->value > w.simple_deleted ? x->value : 0;
        } else if (x->partition == SIMPLE_DELETE) {
            w.simple_gone = x->value == w.simple_last;
        } else if (x->value > w.answered[x->partition]) {
            w.answered[x->partition] = x->value;
        }
    }
    if (!sim.dead) {
        for (struct commit_op **p = &w.commits; *p != NULL; p = &(*p)->next) {
            if (*p == x) {
                *p = x->next;
                break;
            }
        }
        free(x);
    }
}

static void do_commit(struct client *c, int partition)
{
    struct coordinated *g = NULL;
    enum kerr e = coordinator_commit(w.coordinator, slice_str(GROUP), c->generation,
                                     slice_make(c->id, c->id_len), instance_of(c), false, &g);
    if (e != KERR_NONE) {
        w.refused_seen++;
        on_error(c, e, false);
        return;
    }
    CHECK(c->generation >= w.told_generation, "a commit of generation %d when %d is known",
          c->generation, w.told_generation);
    struct commit_op *x = must(calloc(1, sizeof *x));
    x->partition = partition;
    x->value = ++w.sequence;
    x->wait.done = commit_answered;
    x->next = w.commits;
    w.commits = x;
    const struct offset_row row = {
        .offset = x->value, .leader_epoch = -1, .metadata = slice_str("note")};
    e = coordinator_commit_put(w.coordinator, g, slice_str(TOPIC), x->partition, &row, -1);
    CHECK(e == KERR_NONE, "error %d", e);
    w.attempted[x->partition] = x->value;
    journal_wait(sim.journal, &x->wait);
}

static void simple_wait(int what)
{
    struct commit_op *x = must(calloc(1, sizeof *x));
    x->partition = what;
    x->value = w.simple_last = ++w.sequence;
    w.simple_deleted = what == SIMPLE_DELETE ? x->value : w.simple_deleted;
    x->wait.done = commit_answered;
    x->next = w.commits;
    w.commits = x;
    journal_wait(sim.journal, &x->wait);
}

/* Somebody who only keeps offsets here, and somebody who deletes them. */
static void simple_act(void)
{
    struct coordinated *g = NULL;
    if (chance(20)) {
        enum kerr e = coordinator_delete_group(w.coordinator, slice_str(SIMPLE));
        CHECK(e == KERR_NONE || e == KERR_GROUP_ID_NOT_FOUND, "error %d", e);
        if (e == KERR_NONE) {
            w.simple_floor = 0;
            simple_wait(SIMPLE_DELETE);
        }
        return;
    }
    enum kerr e = coordinator_commit(w.coordinator, slice_str(SIMPLE), -1, slice_str(""),
                                     slice_make(NULL, 0), true, &g);
    CHECK(e == KERR_NONE || e == KERR_COORDINATOR_NOT_AVAILABLE, "error %d", e);
    if (e == KERR_NONE) {
        w.simple_gone = false;
        simple_wait(SIMPLE_COMMIT);
        const struct offset_row row = {
            .offset = w.sequence, .leader_epoch = -1, .metadata = slice_str("")};
        e = coordinator_commit_put(w.coordinator, g, slice_str(TOPIC), 0, &row, -1);
        CHECK(e == KERR_NONE, "error %d", e);
    }
}

static void do_heartbeat(struct client *c)
{
    c->next_ms = sim.mono_ms + HEARTBEAT_MS;
    enum kerr e = coordinator_heartbeat(w.coordinator, slice_str(GROUP), c->generation,
                                        slice_make(c->id, c->id_len), instance_of(c));
    if (e != KERR_NONE) {
        on_error(c, e, false);
    }
}

static void disconnect(struct client *c)
{
    if (c->op != NULL) {
        coordinator_cancel(w.coordinator, &c->op->call);
        op_drop(c->op);
    }
}

static void start_client(struct client *c)
{
    *c = (struct client){.phase = JOIN, .generation = -1, .instance = -1};
    c->id_required = chance(70);
    c->skip_assignment = c->id_required && chance(50);
    if (chance(35)) {
        c->instance = (int)(roll() % INSTANCES);
    }
}

static void leave(struct client *c)
{
    disconnect(c);
    if (c->instance < 0 || chance(20)) {
        (void)coordinator_leave(w.coordinator, slice_str(GROUP), slice_make(c->id, c->id_len),
                                instance_of(c)); /* whatever it says, this client is gone */
    }
    c->phase = OUT;
}

static void chaos(struct client *c)
{
    if (c->phase == OUT) {
        if (chance(15)) {
            start_client(c);
        }
        return;
    }
    switch (roll() % w.calm) {
    case 0:
        leave(c);
        break;
    case 1:
        disconnect(c);
        c->phase = OUT;
        break; /* killed */
    case 2:
        disconnect(c);
        break; /* asks again */
    case 3:
        c->hung = true;
        break;
    case 4:
        c->phase = c->op == NULL ? JOIN : c->phase;
        break; /* wants a rebalance */
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
    if (c->phase == OUT || c->op != NULL) {
        return;
    }
    if (c->phase == JOIN) {
        do_join(c);
    } else if (c->phase == SYNC) {
        do_sync(c);
    } else if (sim.seed > 0 && chance(25)) {
        do_commit(c, (int)(roll() %
                           PARTITIONS)); /* also after a long sleep, before it has heard anything */
    } else if (c->next_ms <= sim.mono_ms) {
        do_heartbeat(c);
    }
}

/* --- what must hold -------------------------------------------------------------------------- */

static void check_offsets(void)
{
    const struct offsets *o = coordinator_offsets(w.coordinator, slice_str(GROUP));
    for (int p = 0; p < PARTITIONS; p++) {
        const struct offset_entry *e = o != NULL ? offsets_find(o, slice_str(TOPIC), p) : NULL;
        int64_t have = e != NULL ? e->row.offset : 0;
        CHECK(have >= w.answered[p], "partition %d: %" PRId64 " was answered, %" PRId64 " is there",
              p, w.answered[p], have);
        CHECK(have <= w.attempted[p], "partition %d: nobody committed %" PRId64, p, have);
        CHECK(e == NULL || slice_eq(e->row.metadata, slice_str("note")), "metadata");
        struct buf key;
        struct offset_row row = {0};
        buf_init(&key, ROW_KEY_BYTES_MAX);
        offset_row_key(&key, slice_str(GROUP), slice_str(TOPIC), p);
        const struct memory_row *r = memory_find(buf_slice(&key));
        CHECK((r == NULL) == (e == NULL), "partition %d: what is shown is not what is stored", p);
        CHECK(r == NULL || (offset_row_decode(slice_make(r->value, r->value_len), &row) &&
                            row.offset == have),
              "partition %d: what is shown is not what is stored", p);
        buf_fini(&key);
    }
}

static void check_simple(void)
{
    const struct offsets *o = coordinator_offsets(w.coordinator, slice_str(SIMPLE));
    const struct offset_entry *e = o != NULL ? offsets_find(o, slice_str(TOPIC), 0) : NULL;
    int64_t have = e != NULL ? e->row.offset : 0;
    CHECK(have >= w.simple_floor, "%" PRId64 " was answered, %" PRId64 " is there", w.simple_floor,
          have);
    CHECK(!w.simple_gone || have == 0, "deleted, and %" PRId64 " is there", have);
}

/* Whoever has been given its work in this generation keeps it, whatever restarts. */
static void check_running(const struct group *g)
{
    for (int i = 0; i < CLIENTS; i++) {
        const struct client *c = &w.clients[i];
        if (c->phase != RUN || c->generation != g->generation) {
            continue;
        }
        const struct group_member *m = group_find(g, slice_make(c->id, c->id_len));
        CHECK(g->state != GROUP_COMPLETING, "client %d has its work already", i);
        CHECK(g->state != GROUP_STABLE || m == NULL ||
                  slice_eq(m->assignment, slice_str(c->assignment)),
              "client %d has other work than the group says", i);
    }
}

static void check_group(void)
{
    const struct group *g = coordinator_find(w.coordinator, slice_str(GROUP));
    if (sweeps() && (g == NULL || g->generation < w.told_generation)) {
        w.told_generation = 0;
        memset(w.leaders, 0, sizeof w.leaders);
    }
    if (g == NULL) {
        return;
    }
    int32_t members = 0, joined = 0, pending_sync = 0;
    for (const struct group_member *m = g->members; m != NULL; m = m->hh.next) {
        members++;
        joined += m->joined;
        pending_sync += m->pending_sync;
        CHECK(m->join_token == NULL || m->joined, "parked, and has not joined");
    }
    CHECK(members == g->member_count && joined == g->joined_count &&
              pending_sync == g->pending_sync_count,
          "counts");
    CHECK((members == 0) == (g->leader == NULL), "leader");
    CHECK(g->state != GROUP_EMPTY || members == 0, "an empty group has members");
    CHECK(g->generation >= w.told_generation, "generation went back from %d to %d",
          w.told_generation, g->generation);
    check_running(g);
}

static void step(void)
{
    sim.step++;
    sim.mono_ms += sim.quiet ? 100 : (int64_t)(roll() % (chance(5) ? 8000 : 400));
    coordinator_tick(w.coordinator, sim.mono_ms);
    for (int i = 0; i < CLIENTS; i++) {
        struct client *c = &w.clients[roll() % CLIENTS];
        if (!sim.quiet) {
            chaos(c);
        }
        act(c);
    }
    for (int i = 0; i < 3; i++) {
        simple_act();
    }
    sim_turn(&server);
    if (sim.away == 0) { /* what it says counts again when the store does */
        check_group();
        check_offsets();
        check_simple();
    }
}

static bool all_settled(void)
{
    const struct group *g = coordinator_find(w.coordinator, slice_str(GROUP));
    int32_t alive = 0;
    for (int i = 0; i < CLIENTS; i++) {
        const struct client *c = &w.clients[i];
        if (c->phase == OUT) {
            continue;
        }
        alive++;
        if (g == NULL || c->phase != RUN || c->generation != g->generation ||
            group_find(g, slice_make(c->id, c->id_len)) == NULL) {
            return false;
        }
    }
    return alive == 0 || (g->state == GROUP_STABLE && g->member_count == alive);
}

static void check_assignments(void)
{
    for (int i = 0; i < CLIENTS; i++) {
        const struct client *c = &w.clients[i];
        const struct group *g = coordinator_find(w.coordinator, slice_str(GROUP));
        if (c->phase != OUT) {
            const struct group_member *m = group_find(g, slice_make(c->id, c->id_len));
            CHECK(m != NULL, "client %d is no member", i);
            CHECK(slice_eq(m->assignment, slice_str(c->assignment)), "client %d has %s", i,
                  c->assignment);
        }
    }
}

/* --- the life of a script: one thing after another, each until all have settled --------------- */

enum what { START, COMMIT, LEAVE, DIE };

struct line {
    enum what what;
    int client, arg; /* the instance, or -1; the partition */
};

static const struct line script[] = {
    {START, 0, -1}, {COMMIT, 0, 0}, {START, 1, -1}, {START, 2, 0}, {COMMIT, 1, 1}, {COMMIT, 2, 2},
    {LEAVE, 1, 0},  {START, 3, -1}, {COMMIT, 3, 0}, {DIE, 0, 0},   {START, 4, 0},  {COMMIT, 4, 2},
    {DIE, 4, 0},    {START, 5, 0},  {COMMIT, 5, 3}, {LEAVE, 3, 0}, {LEAVE, 5, 0},  {START, 6, -1},
    {COMMIT, 6, 1}, {START, 7, 1},  {DIE, 7, 0},    {START, 7, 1}, {COMMIT, 7, 0},
};

static void script_turn(void)
{
    sim.step++;
    sim.mono_ms += 250;
    coordinator_tick(w.coordinator, sim.mono_ms);
    for (int i = 0; i < CLIENTS; i++) {
        act(&w.clients[i]);
    }
    sim_turn(&server);
    check_group();
    check_offsets();
}

static void settle(void)
{
    for (int left = QUIET_STEPS; left > 0 && !all_settled(); left--) {
        script_turn();
    }
    CHECK(all_settled(), "somebody is stuck");
    check_assignments();
}

static void commit_until_answered(struct client *c, int partition)
{
    const int64_t before = w.answered[partition];
    for (int left = QUIET_STEPS; left > 0 && w.answered[partition] == before; left--) {
        settle();
        do_commit(c, partition);
        script_turn();
    }
    CHECK(w.answered[partition] > before && w.answered[partition] == w.attempted[partition],
          "a commit that is never answered");
}

static void run_script(void)
{
    for (const struct line *l = script; l < script + sizeof script / sizeof *script; l++) {
        struct client *c = &w.clients[l->client];
        switch (l->what) {
        case START:
            start_client(c);
            c->instance = l->arg;
            break;
        case COMMIT:
            commit_until_answered(c, l->arg);
            break;
        case LEAVE:
            disconnect(c);
            (void)coordinator_leave(w.coordinator, slice_str(GROUP), slice_make(c->id, c->id_len),
                                    instance_of(c));
            c->phase = OUT;
            break;
        case DIE:
            disconnect(c);
            c->phase = OUT;
            break;
        }
        script_turn();
        settle();
    }
}

static void run(uint64_t seed, int crash_at)
{
    memset(&w, 0, offsetof(struct world, stable_seen));
    sim_begin(seed, crash_at);
    w.calm = 40 + seed % 4 * 100;
    sim.kill_percent = seed % 3 * 3;
    sim.fail_percent = seed % 5;
    coordinator_start();
    if (seed == 0) {
        run_script();
        sim_end(&server);
        return;
    }
    for (int i = 0; i < (crash_at > 0 ? SHORT_STEPS : STEPS); i++) {
        step();
    }
    sim.quiet = true;
    int left = QUIET_STEPS;
    while (left-- > 0 && !all_settled()) {
        step();
    }
    CHECK(all_settled(), "somebody is stuck: group %s",
          coordinator_find(w.coordinator, slice_str(GROUP)) != NULL
              ? group_state_name(coordinator_find(w.coordinator, slice_str(GROUP))->state)
              : "none");
    check_assignments();
    sim_end(&server);
}

int main(int argc, char **argv)
{
    uint64_t seeds = sim_main(argc, argv, run, 2000);
    printf("sim_groups: %" PRIu64 " seeds, assignments=%" PRIu64 " commits=%" PRIu64
           " refused=%" PRIu64 " fenced=%" PRIu64 " kills=%" PRIu64 " landed=%" PRIu64 "\n",
           seeds, w.stable_seen, w.answered_seen, w.refused_seen, w.fenced_seen, sim.kills,
           sim.landed);
    return 0;
}
