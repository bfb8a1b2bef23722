/* Transactions, simulated: the real coordinator, producers, groups and journal, rows and logs in
 * memory, a virtual clock, and clients that do what clients do: take a producer id, write, commit
 * offsets, end, time out, fence one another, ask again when they hear nothing. The server is killed
 * at any moment (before, and right after, its commit) and read back from its rows; commits fail,
 * and some have landed all the same; a topic is deleted and made anew under open transactions, so
 * are their offsets, and the log start passes them; epochs are used up. Each seed is another life.
 *
 *      sim_txn [each] [SEEDS [FIRST]]      what can be asked for, sim.h says
 *
 * What must hold, always: what was answered is in the log, once; a reader of committed records sees
 * of a transaction whose commit was answered all, of one that was aborted nothing, of any other all
 * or nothing, and nothing of one that nobody has committed; the last stable offset never goes back;
 * offsets are those of a committed transaction; a producer id is given out once. And at the end,
 * when the chaos stops, no transaction is open and the last stable offset is the end. */
#include "tests/sim/txn_script.h"
#include "tests/sim/txn_world.h"

#include "shared/record/control.h"

/* --- the server's rows and logs --------------------------------------------------------------- */

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
    uint64_t landed = sim.landed;
    enum err e = sim_commit(arg, m);
    if (e == OK || landed != sim.landed) {
        w.committed_count = w.entry_count;
    }
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
    struct journal_rows rows = sim_rows();
    rows.commit = rows_commit;
    rows.append = append_marker;
    rows.rollback = rows_rollback;
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
    CHECK(journal_open_rows(&sim.journal, &rows, &m) == OK, "journal");
    CHECK(coordinator_open(&w.groups, sim.journal, &cfg, sim.mono_ms, &m) == OK, "%s", m.text);
    CHECK(producers_open(&w.producers, sim.journal, &po, &m) == OK, "%s", m.text);
    CHECK(transactions_open(&w.transactions, sim.journal, w.producers, w.groups, &to, &m) == OK,
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

/* The store broke: what lives with it goes at once, groups stay. */
static void server_away(void)
{
    transactions_close(w.transactions);
    w.transactions = NULL;
    producers_close(w.producers);
    w.producers = NULL;
}

static void server_take_down(void)
{
    if (sim.dead) {
        rows_rollback(NULL);
    }
    server_away();
    coordinator_close(w.groups);
    journal_close(sim.journal);
}

/* kill -9: all connections are gone. Clients will ask again. */
static void forget_calls(void)
{
    while (w.ops != NULL) {
        op_drop(w.ops);
    }
    while (w.deletions != NULL) {
        struct deletion *d = w.deletions;
        w.deletions = d->next;
        free(d);
    }
}

static const struct sim_server server = {server_start, server_away, server_take_down, forget_calls};

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
    w.renewed_seen += c->id >= 0 && c->producer_id >= OLD_PRODUCERS && c->producer_id != id;
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
    CHECK(w.answer_count < ENTRIES_MAX, "answers");
    w.answers[w.answer_count++] = (struct answer){c->uid[c->partition], c->txn, c->record};
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
    if (sim.dead) {
        return;
    }
    struct client *c = op->client;
    c->heard = e != OK ? KERR_COORDINATOR_NOT_AVAILABLE : op->error;
    c->told = c->heard != KERR_COORDINATOR_NOT_AVAILABLE && c->heard != KERR_NOT_ENOUGH_REPLICAS;
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
    if (w.producers == NULL) { /* there is no store */
        op->error = KERR_NOT_ENOUGH_REPLICAS;
        return;
    }
    if (c->id >= 0) {
        const struct transactions_producer p = who(c);
        op->error = transactions_produce(
            w.transactions, &p, c->v2 ? TXN_CLIENT_ADDS : TXN_CLIENT_ABORTABLE, uid, wall_ms());
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
    op->error =
        transactions_commit(w.transactions, &p, c->v2 ? TXN_CLIENT_ADDS : TXN_CLIENT_ABORTABLE,
                            slice_str(GROUP), wall_ms());
    if (op->error == KERR_NONE) {
        op->error = transactions_commit_put(w.transactions, &p, slice_str(GROUP), slice_str(TOPIC),
                                            c->id, &row);
        fate_of(c)->offset_order = ++w.order;
        CHECK(op->error != KERR_NONE ||
                  transactions_unstable(w.transactions, slice_str(GROUP), slice_str(TOPIC), c->id),
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
        op->error =
            transactions_end(w.transactions, &p, c->commits, c->v2, wall_ms(), &op->id, &op->epoch);
        break;
    case NOTHING:
        CHECK(false, "nothing to ask");
    }
    journal_wait(sim.journal, &op->wait);
}

static void write_to(struct client *c, int p)
{
    if (c->uid[p] != w.uids[p]) { /* it has learned of the topic that is there now */
        c->uid[p] = w.uids[p];
        c->sequence[p] = 0;
    }
    c->partition = p;
    c->count = 1 + (int32_t)(roll() % 3);
    c->record = ++w.record_count;
    CHECK(w.record_count < RECORDS_MAX, "records");
}

static void next_write(struct client *c)
{
    int p = (int)(roll() % PARTITIONS);
    write_to(c, p);
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
        if (sim.quiet && c->phase == INIT) {
            return; /* nobody begins any more */
        }
        choose(c);
    }
    ask(c);
    if (!sim.quiet && chance(1)) { /* it dies: another instance comes in its place */
        journal_forget(sim.journal, &c->op->wait);
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

static void check_entry(const struct entry *x, int64_t stable, bool answered, int8_t *seen)
{
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
        CHECK(seen[x->txn] == 0 || seen[x->txn] == is || !answered, "transaction %d is in halves",
              x->txn);
        if (answered) {
            seen[x->txn] = is;
        }
    }
}

/* Each answered write is there, each write is there once at most. have: how often, by record. */
static void check_answers(const uint8_t *have)
{
    for (int i = 0; i < w.answer_count; i++) {
        const struct answer *a = &w.answers[i];
        CHECK(!is_live(a->uid) || have[a->record] == 1, "record %d of %u was answered, and is gone",
              a->record, a->uid);
    }
    for (int i = 1; i <= w.record_count; i++) {
        CHECK(have[i] <= 1, "record %d is there %u times", i, have[i]);
    }
}

static void check_stable(int p, int64_t lso)
{
    uint32_t uid = w.uids[p];
    CHECK(uid != w.stable_uid[p] || lso >= w.stable[p],
          "the last stable offset of %u went back from %" PRId64 " to %" PRId64, uid, w.stable[p],
          lso);
    w.stable_uid[p] = uid;
    w.stable[p] = lso;
}

static void check_logs(void)
{
    static int8_t seen[TXNS_MAX];
    static uint8_t have[RECORDS_MAX], answered[RECORDS_MAX];
    memset(seen, 0, sizeof seen);
    memset(have, 0, sizeof have);
    memset(answered, 0, sizeof answered);
    for (int i = 0; i < w.answer_count; i++) {
        answered[w.answers[i].record] = 1;
    }
    for (int p = 0; p < PARTITIONS; p++) {
        int64_t end = log_end(w.uids[p], w.committed_count);
        int64_t lso = producers_lso(w.producers, w.uids[p], w.log_start[p], end);
        check_stable(p, lso);
        for (int i = 0; i < w.committed_count; i++) {
            const struct entry *x = &w.entries[i];
            if (x->uid != w.uids[p] || x->txn < 0) {
                continue;
            }
            have[x->record]++;
            if (x->txn > 0 && x->offset >= w.log_start[p]) {
                check_entry(x, lso, answered[x->record], seen);
            }
        }
    }
    check_answers(have);
}

/* All has ended: what was answered, and committed where that was left to do, is to be seen. */
static void check_visible(void)
{
    for (int p = 0; p < PARTITIONS; p++) {
        int64_t end = log_end(w.uids[p], w.committed_count);
        CHECK(producers_lso(w.producers, w.uids[p], w.log_start[p], end) == end, "not stable");
    }
    for (int i = 0; i < w.answer_count; i++) {
        const struct answer *a = &w.answers[i];
        int p = partition_of(a->uid), at = 0;
        if (p < 0 || (a->txn > 0 && !w.fates[a->txn].committed)) {
            continue;
        }
        while (w.entries[at].record != a->record || w.entries[at].txn < 0) {
            at++; /* it is there */
        }
        struct view v = {.x = &w.entries[at]};
        producers_each_aborted(w.producers, a->uid, v.x->offset, v.x->offset + v.x->count,
                               is_aborted, &v);
        CHECK(!v.aborted || v.x->offset < w.log_start[p], "record %d is not to be seen", a->record);
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
        CHECK(have == 0 || w.fates[have].offset_order > w.gone[id],
              "the offset of transaction %" PRId64 " was deleted, and is there again", have);
        for (int t = (int)have + 1; t <= w.txn_count; t++) {
            const struct fate *f = &w.fates[t];
            CHECK(f->id != id || !f->committed || !f->has_offset ||
                      f->offset_order < w.gone_asked[id],
                  "the offset of transaction %d is lost: %" PRId64 " is there", t, have);
        }
    }
}

/* --- what admins do --------------------------------------------------------------------------- */

static bool partition_lives(void *arg, uint32_t uid, int64_t *log_start)
{
    int p = partition_of(uid);
    *log_start = p >= 0 ? w.log_start[p] : 0;
    return p >= 0;
}

static void recreate_topic(void)
{
    w.uids[PARTITIONS - 1] = w.next_uid++;
    w.log_start[PARTITIONS - 1] = 0;
    producers_sweep(w.producers, partition_lives, NULL);
}

/* Retention, or DeleteRecords. What was aborted below it is forgotten some time later. */
static void raise_log_start(void)
{
    int p = (int)(roll() % PARTITIONS);
    int64_t left = log_end(w.uids[p], w.committed_count) - w.log_start[p];
    w.log_start[p] += (int64_t)(roll() % (uint64_t)(left + 1));
    if (chance(50)) {
        producers_sweep(w.producers, partition_lives, NULL);
    }
}

static void deletion_done(struct journal_wait *wait, enum err e)
{
    struct deletion *d = (struct deletion *)wait;
    if (sim.dead) {
        return;
    }
    for (int id = 0; id < IDS && e == OK; id++) {
        if ((d->id < 0 || d->id == id) && d->order > w.gone[id]) {
            w.gone[id] = d->order;
        }
    }
    w.deletions_seen += e == OK;
    for (struct deletion **p = &w.deletions; *p != NULL; p = &(*p)->next) {
        if (*p == d) {
            *p = d->next;
            break;
        }
    }
    free(d);
}

static enum kerr delete_one_offset(int id)
{
    struct coordinated *g = NULL;
    enum kerr e = coordinator_delete_offsets(w.groups, slice_str(GROUP), &g);
    if (e == KERR_NONE) {
        e = coordinator_delete_offset(w.groups, g, slice_str(TOPIC), id);
    }
    if (e == KERR_NONE) {
        transactions_offset_gone(w.transactions, slice_str(GROUP), slice_str(TOPIC), id);
    }
    return e;
}

static enum kerr delete_offsets(int id, bool group)
{
    enum kerr e = KERR_NONE;
    if (id >= 0) {
        e = delete_one_offset(id);
    } else if (group) {
        e = coordinator_delete_group(w.groups, slice_str(GROUP));
        if (e == KERR_NONE) {
            transactions_group_gone(w.transactions, slice_str(GROUP));
        }
    } else {
        transactions_topic_gone(w.transactions, slice_str(TOPIC));
        coordinator_topic_gone(w.groups, slice_str(TOPIC));
    }
    CHECK(e == KERR_NONE || e == KERR_GROUP_ID_NOT_FOUND, "error %d", e);
    if (e != KERR_NONE) {
        return e;
    }
    struct deletion *d = calloc(1, sizeof *d);
    CHECK(d != NULL, "memory");
    *d = (struct deletion){{.done = deletion_done}, id, ++w.order, w.deletions};
    w.deletions = d;
    for (int i = 0; i < IDS; i++) {
        w.gone_asked[i] = id < 0 || id == i ? d->order : w.gone_asked[i];
    }
    journal_wait(sim.journal, &d->wait);
    return KERR_NONE;
}

static void admin(void)
{
    if (chance(1)) {
        recreate_topic();
    }
    if (chance(3)) {
        raise_log_start();
    }
    if (chance(3)) {
        delete_offsets(chance(50) ? (int)(roll() % IDS) : -1, chance(50));
    }
}

/* --- time ------------------------------------------------------------------------------------- */

static void step(void)
{
    sim.step++;
    sim.mono_ms += sim.quiet ? 200 : (int64_t)(roll() % (chance(4) ? 9000 : 300));
    if (sim.away == 0) {
        transactions_tick(w.transactions, wall_ms());
        producers_tick(w.producers, wall_ms());
    }
    for (int i = 0; i < CLIENTS; i++) {
        act(&w.clients[roll() % CLIENTS]);
        if (!sim.quiet && sim.away == 0 && chance(20)) {
            admin();
        }
    }
    sim_turn(&server);
    if (sim.away == 0) { /* what it says counts again when the store does */
        check_logs();
        check_offsets();
    }
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

/* In some lives the transactional ids are old, and their epochs soon used up. */
static void store_old_ids(void)
{
    for (int i = 0; i < IDS; i++) {
        struct txn x;
        struct buf key, value;
        txn_init(&x, slice_str(id_names[i]));
        x.state = TXN_EMPTY;
        x.producer_id = x.previous_id = OLD_PRODUCERS + i;
        x.epoch = (int16_t)(TXN_EPOCH_LAST - (int)(roll() % 8));
        x.timeout_ms = TIMEOUT_MS;
        x.update_ms = wall_ms();
        buf_init(&key, TXN_ID_BYTES_MAX);
        buf_init(&value, TXN_ROW_BYTES_MAX);
        buf_printf(&key, TXN_ROW_PREFIX "%s", id_names[i]);
        txn_encode(&x, &value);
        memory_add(mem.rows, &mem.count, buf_slice(&key), buf_slice(&value), false);
        buf_fini(&key);
        buf_fini(&value);
        txn_fini(&x);
    }
}

/* --- the life of a script --------------------------------------------------------------------- */

static void script_turn(int64_t ms)
{
    sim.step++;
    sim.mono_ms += ms;
    transactions_tick(w.transactions, wall_ms());
    sim_turn(&server);
    check_logs();
    check_offsets();
}

static void ask_until_told(struct client *c, const struct line *l)
{
    if (l->kind == DO_PRODUCE || l->kind == DO_ADD) {
        write_to(c, l->arg);
    }
    for (c->told = false; !c->told;) {
        c->kind = (enum kind)l->kind;
        c->commits = l->kind == DO_END && l->arg != 0;
        if (c->op == NULL) {
            ask(c);
        }
        script_turn(10);
    }
    CHECK(c->heard == l->hears, "line %td: error %d", l - script, c->heard);
}

/* What readers of committed records see, and the offsets. */
static void outcome(struct buf *out)
{
    for (int p = 0; p < PARTITIONS; p++) {
        buf_printf(out, "\n%d:", p);
        for (int i = 0; i < w.committed_count; i++) {
            struct view v = {.x = &w.entries[i]};
            if (v.x->uid == w.uids[p] && v.x->txn >= 0) {
                producers_each_aborted(w.producers, v.x->uid, v.x->offset, v.x->offset + 1,
                                       is_aborted, &v);
                buf_printf(out, v.aborted ? "" : " %d", v.x->record);
            }
        }
    }
    const struct offsets *o = coordinator_offsets(w.groups, slice_str(GROUP));
    for (int id = 0; id < IDS; id++) {
        const struct offset_entry *e = o != NULL ? offsets_find(o, slice_str(TOPIC), id) : NULL;
        buf_printf(out, "\n%s: %s", id_names[id], e != NULL ? "an offset" : "none");
    }
}

static void run_script(void)
{
    static char want[4096]; /* what it leads to when nobody dies */
    for (const struct line *l = script; l < script + sizeof script / sizeof *script; l++) {
        if (l->kind == RECREATE) {
            recreate_topic();
        } else if (l->kind == DELETE_GROUP) {
            while (w.gone[0] == 0 && delete_offsets(-1, true) == KERR_NONE) {
                script_turn(10);
            }
        }
        if (l->kind <= DO_END) {
            ask_until_told(&w.clients[l->client], l);
        } else {
            script_turn(l->arg);
        }
    }
    struct buf have;
    buf_init(&have, sizeof want);
    outcome(&have);
    CHECK(buf_ok(&have), "memory");
    if (want[0] == '\0') {
        snprintf(want, sizeof want, "%s", buf_text(&have));
    }
    CHECK(strcmp(want, buf_text(&have)) == 0, "it leads to %s\nand not to %s", buf_text(&have),
          want);
    buf_fini(&have);
}

static void run(uint64_t seed, int crash_at)
{
    memset(&w, 0, offsetof(struct world, commits_seen));
    sim_begin(seed, crash_at);
    sim.kill_percent = seed % 4 * 3;
    sim.fail_percent = seed % 5 * 2;
    w.next_uid = 1;
    for (int p = 0; p < PARTITIONS; p++) {
        w.uids[p] = w.next_uid++;
    }
    for (int i = 0; i < CLIENTS; i++) {
        w.clients[i].id = i == CLIENTS - 1 ? -1 : i % IDS;
        w.clients[i].v2 = seed == 0 ? i != 1 : (seed + (uint64_t)i) % 3 != 0;
        w.clients[i].producer_id = -1;
        w.clients[i].epoch = -1;
    }
    if (seed % 6 == 5) {
        store_old_ids();
    }
    server_start();
    if (seed == 0) {
        run_script();
        sim_end(&server);
        return;
    }
    for (int i = 0; i < (crash_at > 0 ? SHORT_STEPS : STEPS); i++) {
        step();
    }
    sim.quiet = true;
    for (int left = QUIET_STEPS; left > 0 && (left > QUIET_STEPS - 100 || !all_ended()); left--) {
        step();
    }
    CHECK(all_ended(), "a transaction stays open");
    check_visible();
    sim_end(&server);
}

int main(int argc, char **argv)
{
    uint64_t seeds = sim_main(argc, argv, run, 300);
    printf("sim_txn: %" PRIu64 " seeds, %" PRIu64 " commits, %" PRIu64 " aborts, %" PRIu64
           " fenced, %" PRIu64 " repeated, %" PRIu64 " used up, %" PRIu64 " deletions, %" PRIu64
           " kills, %" PRIu64 " landed: ok\n",
           seeds, w.commits_seen, w.aborts_seen, w.fenced_seen, w.repeats_seen, w.renewed_seen,
           w.deletions_seen, sim.kills, sim.landed);
    return 0;
}
