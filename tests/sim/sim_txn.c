/* Transactions, simulated: the real coordinator, producers, groups and journal, rows and logs in
 * memory, a virtual clock, and clients that do what clients do: take a producer id, write, commit
 * offsets, end, time out, fence one another, ask again when they hear nothing. The server is killed
 * at any moment (before, and right after, its commit) and read back from its rows; commits fail; a
 * topic is deleted and made anew under open transactions. Each seed is another life.
 *
 *      sim_txn [SEEDS [FIRST]]        a failure names its seed: sim_txn 1 SEED shows it again
 *
 * What must hold, always: what was answered is in the log, once; a reader of committed records sees
 * of a transaction whose commit was answered all, of one that was aborted nothing, of any other all
 * or nothing, and nothing of one that nobody has committed; the last stable offset never goes back;
 * offsets are those of a committed transaction; a producer id is given out once. And at the end,
 * when the chaos stops, no transaction is open and the last stable offset is the end. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "kafka-server/broker/transactions.h"
#include "shared/base/clock.h"
#include "shared/base/log.h"
#include "shared/record/control.h"
#include "tests/unit/memory_rows.h"

#define CLIENTS      6
#define IDS          3 /* transactional ids; clients share them, so that they fence one another */
#define PARTITIONS   3 /* the last one is deleted and made anew now and then */
#define STEPS        200
#define QUIET_STEPS  400
#define ENTRIES_MAX  8192
#define TXNS_MAX     4096
#define TIMEOUT_MS   15000
#define GROUP        "g"
#define TOPIC        "in"

#define CHECK(cond, ...)                                                                           \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "seed %" PRIu64 " step %d: %s: ", w.seed, w.step, #cond);              \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fprintf(stderr, "\n");                                                                 \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* --- the logs of all partitions, in the order of their appends -------------------------------- */

struct entry {
    uint32_t uid;
    int64_t offset;
    int32_t count;
    int64_t producer_id;
    int txn;    /* the transaction that it was written for; 0: a plain batch; -1: a marker */
    int record; /* which write it is, of all */
    bool answered;
};

/* What became of a transaction, as its client knows. */
struct fate {
    bool commit_asked, committed, aborted; /* the last two: answered so */
    bool has_offset;
    int id;
};

enum phase { INIT, WRITE, END };
enum kind { NOTHING, DO_INIT, DO_ADD, DO_PRODUCE, DO_ADD_GROUP, DO_OFFSET, DO_END };

struct client {
    int id; /* transactional id; -1: plain */
    bool v2;
    enum phase phase;
    int64_t producer_id;
    int16_t epoch;
    bool goes_on; /* asks with the producer that it has (KIP-360) */
    int txn, writes_left;
    bool commits, added[PARTITIONS], group_added, wants_offset;
    uint32_t added_uid[PARTITIONS];
    uint32_t uid[PARTITIONS]; /* whose sequences these are */
    int32_t sequence[PARTITIONS];
    struct op *op;
    /* the request that is under way, or to be repeated */
    enum kind kind;
    int partition, record;
    int32_t count;
};

struct op {
    struct journal_wait wait;
    struct client *client;
    enum kerr error;
    int64_t id;
    int16_t epoch;
    int entry; /* index of what was appended or repeated; -1: nothing */
    struct op *next;
};

static struct world {
    uint64_t seed, random;
    unsigned kill_percent, fail_percent;
    int step;
    int64_t mono_ms;
    struct journal *journal;
    struct coordinator *groups;
    struct producers *producers;
    struct transactions *transactions;
    bool dead, die_at_commit, quiet;
    struct client clients[CLIENTS];
    struct op *ops;
    uint32_t uids[PARTITIONS], next_uid;
    struct entry entries[ENTRIES_MAX];
    int entry_count, committed_count; /* beyond the latter: of this turn */
    struct fate fates[TXNS_MAX];
    int txn_count, record_count;
    int64_t stable[PARTITIONS];
    uint32_t stable_uid[PARTITIONS];
    int64_t ids[TXNS_MAX];
    int id_count;
    uint64_t commits_seen, aborts_seen, fenced_seen, repeats_seen, kills, timeouts;
} w;

static uint64_t roll(void)
{
    uint64_t z = (w.random += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static bool chance(unsigned percent)
{
    return roll() % 100 < percent;
}

static int64_t wall_ms(void)
{
    return w.mono_ms + 1700000000000;
}

static int64_t mono_us(void)
{
    return w.mono_ms * 1000;
}

static int64_t log_end(uint32_t uid, int count)
{
    int64_t end = 0;
    for (int i = 0; i < count; i++) {
        if (w.entries[i].uid == uid) {
            end = w.entries[i].offset + w.entries[i].count;
        }
    }
    return end;
}

static bool is_live(uint32_t uid)
{
    for (int i = 0; i < PARTITIONS; i++) {
        if (w.uids[i] == uid) {
            return true;
        }
    }
    return false;
}

static struct entry *append(uint32_t uid, int32_t count)
{
    CHECK(w.entry_count < ENTRIES_MAX, "the log is full");
    struct entry *x = &w.entries[w.entry_count];
    *x = (struct entry){.uid = uid, .offset = log_end(uid, w.entry_count), .count = count};
    w.entry_count++;
    return x;
}

static enum err append_marker(void *arg, uint32_t uid, uint8_t *batch, size_t len,
                              int64_t *base_offset)
{
    struct batch_header h;
    if (!is_live(uid)) {
        return ERR_NOT_FOUND;
    }
    CHECK(batch_read_header(slice_make(batch, len), &h) == OK, "a marker");
    struct entry *x = append(uid, 1);
    x->txn = -1;
    x->producer_id = h.producer_id;
    *base_offset = x->offset;
    return OK;
}

static enum err rows_commit(void *arg, struct errmsg *m)
{
    mem.fail_commit = w.dead || (!w.quiet && chance(w.fail_percent)) ? ERR_FULL : OK;
    enum err e = memory_commit(arg, m);
    if (e == OK) {
        w.committed_count = w.entry_count;
    }
    w.dead = w.dead || (e == OK && w.die_at_commit);
    return e;
}

static void rows_rollback(void *arg)
{
    memory_rollback(arg);
    w.entry_count = w.committed_count;
}

/* --- the server's life ------------------------------------------------------------------------ */

static void server_start(void)
{
    const struct journal_rows rows = {
        .put = memory_put,
        .del = memory_del,
        .commit = rows_commit,
        .append = append_marker,
        .rollback = rows_rollback,
        .scan = memory_scan,
    };
    const struct config_server cfg = {
        .group_min_session_timeout_ms = 1000,
        .group_max_session_timeout_ms = 60000,
        .group_max_size = 1000,
        .offsets_retention_minutes = 1000000,
        .offsets_retention_check_interval_ms = 1000000000,
        .offset_metadata_max_bytes = 4096,
    };
    const struct producers_options po = {86400000, 600000};
    const struct transactions_options to = {900000, 604800000, 1000, 3600000};
    struct errmsg m;
    w.dead = w.die_at_commit = false;
    CHECK(journal_open_rows(&w.journal, &rows, &m) == OK, "journal");
    CHECK(coordinator_open(&w.groups, w.journal, &cfg, w.mono_ms, &m) == OK, "%s", m.text);
    CHECK(producers_open(&w.producers, w.journal, &po, &m) == OK, "%s", m.text);
    CHECK(transactions_open(&w.transactions, w.journal, w.producers, w.groups, &to, &m) == OK,
          "%s", m.text);
}

static void op_drop(struct op *op)
{
    for (struct op **p = &w.ops; *p != NULL; p = &(*p)->next) {
        if (*p == op) {
            *p = op->next;
            break;
        }
    }
    op->client->op = NULL;
    free(op);
}

/* kill -9: what is not stored is gone, and so are all connections. Clients will ask again. */
static void server_kill(void)
{
    w.dead = true;
    w.kills++;
    rows_rollback(NULL);
    transactions_close(w.transactions);
    producers_close(w.producers);
    coordinator_close(w.groups);
    journal_close(w.journal);
    while (w.ops != NULL) {
        op_drop(w.ops);
    }
}

/* --- what clients hear ------------------------------------------------------------------------ */

static struct fate *fate_of(const struct client *c)
{
    return &w.fates[c->txn];
}

/* Its transaction is over, whoever has ended it. */
static void leave(struct client *c)
{
    c->phase = INIT;
    c->kind = NOTHING;
    c->goes_on = c->id >= 0 && chance(30);
}

static void begin(struct client *c)
{
    CHECK(w.txn_count + 1 < TXNS_MAX, "transactions");
    c->phase = WRITE;
    c->kind = NOTHING;
    c->writes_left = 1 + (int)(roll() % 5);
    if (c->id < 0) {
        c->txn = 0;
        return;
    }
    c->txn = ++w.txn_count;
    *fate_of(c) = (struct fate){.id = c->id};
    c->commits = chance(70);
    c->wants_offset = chance(50);
    c->group_added = false;
    memset(c->added, 0, sizeof c->added);
}

static void take_producer(struct client *c, int64_t id, int16_t epoch)
{
    if (c->producer_id != id || c->epoch != epoch) {
        memset(c->sequence, 0, sizeof c->sequence);
    }
    c->producer_id = id;
    c->epoch = epoch;
}

static void heard_init(struct client *c, const struct op *op)
{
    if (c->id < 0) {
        for (int i = 0; i < w.id_count; i++) {
            CHECK(w.ids[i] != op->id, "producer id %" PRId64 " was given out before", op->id);
        }
        CHECK(w.id_count < TXNS_MAX, "ids");
        w.ids[w.id_count++] = op->id;
    }
    c->goes_on = false;
    take_producer(c, op->id, op->epoch);
    begin(c);
}

static void heard_end(struct client *c, const struct op *op)
{
    struct fate *f = fate_of(c);
    *(c->commits ? &f->committed : &f->aborted) = true;
    w.commits_seen += c->commits;
    w.aborts_seen += !c->commits;
    if (c->v2) {
        take_producer(c, op->id, op->epoch);
    }
    if (chance(10)) {
        leave(c);
    } else {
        begin(c);
    }
}

static void heard_produce(struct client *c, const struct op *op)
{
    w.entries[op->entry].answered = true;
    c->sequence[c->partition] += c->count;
    c->writes_left--;
    c->kind = NOTHING;
}

static void heard_ok(struct client *c, const struct op *op)
{
    switch (c->kind) {
    case DO_INIT:
        heard_init(c, op);
        break;
    case DO_ADD:
        c->added[c->partition] = true;
        c->kind = DO_PRODUCE;
        break;
    case DO_PRODUCE:
        heard_produce(c, op);
        break;
    case DO_ADD_GROUP:
        c->group_added = true;
        c->kind = NOTHING;
        break;
    case DO_OFFSET:
        fate_of(c)->has_offset = true;
        c->wants_offset = false;
        c->kind = NOTHING;
        break;
    case DO_END:
        heard_end(c, op);
        break;
    case NOTHING:
        CHECK(false, "an answer without a question");
    }
}

static void heard_error(struct client *c, enum kerr e)
{
    switch (e) {
    case KERR_COORDINATOR_NOT_AVAILABLE: /* ask again */
    case KERR_NOT_ENOUGH_REPLICAS:
        return;
    case KERR_UNKNOWN_TOPIC_OR_PARTITION: /* deleted meanwhile: written no more */
        c->kind = NOTHING;
        return;
    case KERR_PRODUCER_FENCED:
    case KERR_INVALID_PRODUCER_EPOCH:
        CHECK(c->id >= 0, "a plain producer was fenced");
        w.fenced_seen++;
        leave(c);
        c->goes_on = false;
        return;
    case KERR_INVALID_PRODUCER_ID_MAPPING: /* its successor has a fresh producer id */
        leave(c);
        c->goes_on = false;
        return;
    case KERR_INVALID_TXN_STATE: /* nothing was added, or (protocol 2) it was aborted for its age */
        CHECK(c->kind == DO_END && c->commits, "error %d of request %d", e, c->kind);
        CHECK(c->v2 || !fate_of(c)->has_offset, "the transaction is lost");
        leave(c);
        return;
    default:
        CHECK(false, "error %d of request %d", e, c->kind);
    }
}

static void on_committed(struct journal_wait *wait, enum err e)
{
    struct op *op = (struct op *)wait;
    if (w.dead) {
        return;
    }
    struct client *c = op->client;
    if (e != OK) {
        heard_error(c, KERR_COORDINATOR_NOT_AVAILABLE);
    } else if (op->error != KERR_NONE) {
        heard_error(c, op->error);
    } else {
        heard_ok(c, op);
    }
    op_drop(op);
}

/* --- what clients ask ------------------------------------------------------------------------- */

static const char *const id_names[IDS] = {"a", "b", "c"};

static struct transactions_producer who(const struct client *c)
{
    return (struct transactions_producer){slice_str(id_names[c->id]), c->producer_id, c->epoch};
}

static void ask_init(struct client *c, struct op *op)
{
    const struct transactions_init r = {
        .transactional_id = c->id >= 0 ? slice_str(id_names[c->id]) : slice_make(NULL, 0),
        .timeout_ms = TIMEOUT_MS,
        .expected_id = c->goes_on ? c->producer_id : -1,
        .expected_epoch = c->goes_on ? c->epoch : (int16_t)-1,
    };
    op->error = transactions_init(w.transactions, &r, wall_ms(), &op->id, &op->epoch);
}

/* Finds the write that a duplicate repeats. */
static int find_entry(uint32_t uid, int64_t offset)
{
    for (int i = 0; i < w.entry_count; i++) {
        if (w.entries[i].uid == uid && w.entries[i].offset == offset) {
            return i;
        }
    }
    return -1;
}

static void ask_produce(struct client *c, struct op *op)
{
    uint32_t uid = c->uid[c->partition];
    const struct batch_header h = {
        .producer_id = c->producer_id,
        .producer_epoch = c->epoch,
        .base_sequence = c->sequence[c->partition],
        .last_offset_delta = c->count - 1,
        .record_count = c->count,
        .max_timestamp = wall_ms(),
        .attributes = c->id >= 0 ? BATCH_TRANSACTIONAL : 0,
    };
    struct producers_duplicate d;
    if (!is_live(uid)) {
        op->error = KERR_UNKNOWN_TOPIC_OR_PARTITION;
        return;
    }
    if (c->id >= 0) {
        const struct transactions_producer p = who(c);
        op->error = transactions_produce(w.transactions, &p,
                                         c->v2 ? TXN_CLIENT_ADDS : TXN_CLIENT_ABORTABLE, uid,
                                         wall_ms());
    }
    if (op->error == KERR_NONE) {
        op->error = producers_check(w.producers, uid, &h, c->v2, &d);
    }
    if (op->error != KERR_NONE) {
        return;
    }
    if (d.found) {
        w.repeats_seen++;
        op->entry = find_entry(uid, d.base_offset);
        CHECK(op->entry >= 0, "a duplicate of nothing");
        CHECK(w.entries[op->entry].record == c->record, "a duplicate of another batch");
        return;
    }
    op->entry = w.entry_count;
    struct entry *x = append(uid, c->count);
    x->producer_id = c->producer_id;
    x->txn = c->txn;
    x->record = c->record;
    producers_append(w.producers, uid, &h, x->offset, wall_ms());
}

static void ask_offset(struct client *c, struct op *op)
{
    const struct transactions_producer p = who(c);
    const struct offset_row row = {.offset = c->txn, .leader_epoch = -1, .expire_ms = -1};
    op->error = transactions_commit(w.transactions, &p,
                                    c->v2 ? TXN_CLIENT_ADDS : TXN_CLIENT_ABORTABLE,
                                    slice_str(GROUP), wall_ms());
    if (op->error == KERR_NONE) {
        op->error = transactions_commit_put(w.transactions, &p, slice_str(GROUP),
                                            slice_str(TOPIC), c->id, &row);
        CHECK(op->error != KERR_NONE || transactions_unstable(w.transactions, slice_str(GROUP),
                                                              slice_str(TOPIC), c->id),
              "an offset that is not pending");
    }
}

static void ask(struct client *c)
{
    struct op *op = calloc(1, sizeof *op);
    CHECK(op != NULL, "memory");
    *op = (struct op){.wait.done = on_committed, .client = c, .entry = -1, .next = w.ops};
    w.ops = op;
    c->op = op;
    const struct transactions_producer p =
        c->id >= 0 ? who(c) : (struct transactions_producer){.id = -1};
    switch (c->kind) {
    case DO_INIT:
        ask_init(c, op);
        break;
    case DO_ADD:
        op->error = is_live(c->uid[c->partition])
                        ? transactions_add(w.transactions, &p, &c->uid[c->partition], 1, wall_ms())
                        : KERR_UNKNOWN_TOPIC_OR_PARTITION;
        break;
    case DO_PRODUCE:
        ask_produce(c, op);
        break;
    case DO_ADD_GROUP:
        op->error = transactions_add_group(w.transactions, &p, slice_str(GROUP), wall_ms());
        break;
    case DO_OFFSET:
        ask_offset(c, op);
        break;
    case DO_END:
        fate_of(c)->commit_asked = fate_of(c)->commit_asked || c->commits;
        op->error = transactions_end(w.transactions, &p, c->commits, c->v2, wall_ms(), &op->id,
                                     &op->epoch);
        break;
    case NOTHING:
        CHECK(false, "nothing to ask");
    }
    journal_wait(w.journal, &op->wait);
}

static void next_write(struct client *c)
{
    int p = (int)(roll() % PARTITIONS);
    if (c->uid[p] != w.uids[p]) { /* it has learned of the topic that is there now */
        c->uid[p] = w.uids[p];
        c->sequence[p] = 0;
    }
    c->partition = p;
    c->count = 1 + (int32_t)(roll() % 3);
    c->record = ++w.record_count;
    bool added = c->added[p] && c->added_uid[p] == c->uid[p];
    c->added_uid[p] = c->uid[p];
    c->kind = c->id >= 0 && !c->v2 && !added ? DO_ADD : DO_PRODUCE;
}

/* What it does next, unless it has to ask again what it has asked before. */
static void choose(struct client *c)
{
    if (c->phase == INIT) {
        c->kind = DO_INIT;
    } else if (c->phase == END) {
        c->kind = DO_END;
    } else if (c->writes_left > 0) {
        next_write(c);
    } else if (c->id < 0) {
        c->writes_left = 1 + (int)(roll() % 5);
        next_write(c);
    } else if (c->wants_offset) {
        c->kind = c->v2 || c->group_added ? DO_OFFSET : DO_ADD_GROUP;
    } else {
        c->phase = END;
        c->kind = DO_END;
    }
}

static void act(struct client *c)
{
    if (c->op != NULL || chance(20)) {
        return;
    }
    if (c->kind == NOTHING) {
        if (w.quiet && c->phase == INIT) {
            return; /* nobody begins any more */
        }
        choose(c);
    }
    ask(c);
    if (!w.quiet && chance(1)) { /* it dies: another instance comes in its place */
        journal_forget(w.journal, &c->op->wait);
        op_drop(c->op);
        if (c->id < 0) {
            c->producer_id = -1;
        }
        leave(c);
        c->goes_on = false;
    }
}

/* --- what must hold --------------------------------------------------------------------------- */

struct view {
    const struct entry *x;
    bool aborted;
};

static bool is_aborted(void *arg, const struct producers_aborted *a)
{
    struct view *v = arg;
    v->aborted = v->aborted || (a->producer_id == v->x->producer_id &&
                                a->first_offset <= v->x->offset && v->x->offset <= a->last_offset);
    return true;
}

static void check_entry(const struct entry *x, const int64_t *lso, int8_t *seen)
{
    int64_t stable = *lso;
    struct view v = {.x = x};
    producers_each_aborted(w.producers, x->uid, x->offset, x->offset + x->count, is_aborted, &v);
    const struct fate *f = &w.fates[x->txn];
    bool visible = x->offset < stable && !v.aborted;
    CHECK(!visible || f->commit_asked, "record %d of a transaction that nobody has committed",
          x->record);
    CHECK(!visible || !f->aborted, "record %d of an aborted transaction is visible", x->record);
    CHECK(!f->committed || !v.aborted, "record %d was committed, and is aborted", x->record);
    if (x->offset < stable) {
        int8_t is = visible ? 1 : 2;
        CHECK(seen[x->txn] == 0 || seen[x->txn] == is || !x->answered,
              "transaction %d is in halves", x->txn);
        if (x->answered) {
            seen[x->txn] = is;
        }
    }
}

static void check_logs(void)
{
    static int8_t seen[TXNS_MAX];
    static int records[ENTRIES_MAX];
    int record_count = 0;
    memset(seen, 0, sizeof seen);
    for (int p = 0; p < PARTITIONS; p++) {
        uint32_t uid = w.uids[p];
        int64_t end = log_end(uid, w.committed_count);
        int64_t lso = producers_lso(w.producers, uid, 0, end);
        CHECK(uid != w.stable_uid[p] || lso >= w.stable[p],
              "the last stable offset of %u went back from %" PRId64 " to %" PRId64, uid,
              w.stable[p], lso);
        w.stable_uid[p] = uid;
        w.stable[p] = lso;
        for (int i = 0; i < w.committed_count; i++) {
            const struct entry *x = &w.entries[i];
            if (x->uid != uid || x->txn < 0) {
                continue;
            }
            records[record_count++] = x->record;
            if (x->txn > 0) {
                check_entry(x, &lso, seen);
            }
        }
    }
    for (int i = 0; i < w.committed_count; i++) {
        CHECK(!w.entries[i].answered || w.entries[i].txn >= 0, "a marker was answered");
    }
    for (int i = 0; i < record_count; i++) {
        for (int k = 0; k < i && w.step % 16 == 0; k++) {
            CHECK(records[i] != records[k], "record %d is there twice", records[i]);
        }
    }
}

static void check_offsets(void)
{
    const struct offsets *o = coordinator_offsets(w.groups, slice_str(GROUP));
    for (int id = 0; id < IDS; id++) {
        const struct offset_entry *e = o != NULL ? offsets_find(o, slice_str(TOPIC), id) : NULL;
        int64_t have = e != NULL ? e->row.offset : 0;
        CHECK(have == 0 || (w.fates[have].commit_asked && !w.fates[have].aborted),
              "the offset of transaction %" PRId64, have);
        for (int t = (int)have + 1; t <= w.txn_count; t++) {
            CHECK(w.fates[t].id != id || !w.fates[t].committed || !w.fates[t].has_offset,
                  "the offset of transaction %d is lost: %" PRId64 " is there", t, have);
        }
    }
}

static bool partition_lives(void *arg, uint32_t uid, int64_t *log_start)
{
    *log_start = 0;
    return is_live(uid);
}

static void recreate_topic(void)
{
    w.uids[PARTITIONS - 1] = w.next_uid++;
    producers_sweep(w.producers, partition_lives, NULL);
}

/* --- time ------------------------------------------------------------------------------------- */

static void flush_or_die(void)
{
    bool kill_now = !w.quiet && chance(w.kill_percent);
    w.die_at_commit = kill_now && chance(50);
    if (kill_now && !w.die_at_commit) {
        server_kill();
        server_start();
        return;
    }
    for (int i = 0; i < 8 && journal_pending(w.journal) && !w.dead; i++) {
        journal_flush(w.journal);
    }
    if (w.dead || w.die_at_commit) {
        server_kill();
        server_start();
    }
}

static void step(void)
{
    w.step++;
    w.mono_ms += w.quiet ? 200 : (int64_t)(roll() % (chance(4) ? 9000 : 300));
    transactions_tick(w.transactions, wall_ms());
    producers_tick(w.producers, wall_ms());
    for (int i = 0; i < CLIENTS; i++) {
        act(&w.clients[roll() % CLIENTS]);
    }
    flush_or_die();
    if (!w.quiet && chance(1)) {
        recreate_topic();
        flush_or_die();
    }
    check_logs();
    check_offsets();
}

static bool all_ended(void)
{
    for (int p = 0; p < PARTITIONS; p++) {
        if (producers_first_unstable(w.producers, w.uids[p]) != INT64_MAX) {
            return false;
        }
    }
    return true;
}

static void run(uint64_t seed)
{
    memset(&w, 0, offsetof(struct world, commits_seen));
    w.seed = w.random = seed;
    w.mono_ms = 1000;
    w.kill_percent = seed % 4 * 3;
    w.fail_percent = seed % 5 * 2;
    w.next_uid = 1;
    for (int p = 0; p < PARTITIONS; p++) {
        w.uids[p] = w.next_uid++;
    }
    for (int i = 0; i < CLIENTS; i++) {
        w.clients[i].id = i == CLIENTS - 1 ? -1 : i % IDS;
        w.clients[i].v2 = (seed + (uint64_t)i) % 3 != 0;
        w.clients[i].producer_id = -1;
        w.clients[i].epoch = -1;
    }
    server_start();
    for (int i = 0; i < STEPS; i++) {
        step();
    }
    w.quiet = true;
    for (int left = QUIET_STEPS; left > 0 && (left > QUIET_STEPS - 100 || !all_ended()); left--) {
        step();
    }
    CHECK(all_ended(), "a transaction stays open");
    w.step = 0; /* all checks */
    check_logs();
    server_kill();
    memory_clear();
}

static void no_log(void *arg, enum log_level level, const char *line)
{
}

int main(int argc, char **argv)
{
    uint64_t seeds = argc > 1 ? strtoull(argv[1], NULL, 10) : 300;
    uint64_t first = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    clock_set_source(wall_ms, mono_us);
    log_set_sink(no_log, NULL); /* failed commits are what this is about */
    for (uint64_t s = first; s < first + seeds; s++) {
        run(s);
    }
    printf("sim_txn: %" PRIu64 " seeds, %" PRIu64 " commits, %" PRIu64 " aborts, %" PRIu64
           " fenced, %" PRIu64 " repeated, %" PRIu64 " kills: ok\n",
           seeds, w.commits_seen, w.aborts_seen, w.fenced_seen, w.repeats_seen, w.kills);
    return 0;
}
