/* Groups, producers, transactions: opened, told of topics and of time, closed. See own_state.h.
 *
 * The order of opening is that of who needs whom, and closing is the other way round: a transaction
 * that ends speaks to producers and groups, and they put rows into the journal. */
#include "kafka-server/own_state.h"

#include <stdio.h>
#include <stdlib.h>

#include "kafka-server/broker/coordinator.h"
#include "kafka-server/broker/fetch.h"
#include "kafka-server/broker/journal.h"
#include "kafka-server/broker/producers.h"
#include "kafka-server/broker/topics.h"
#include "kafka-server/broker/transactions.h"
#include "shared/base/clock.h"
#include "shared/base/log.h"
#include "shared/store/store.h"

#define CLUSTER_ID_KEY "server/cluster.id"
/* Of an aborted transaction of which compaction left nothing: fetches that read it before have been
 * answered since. */
#define ABORTED_KEEP_MS_MIN (3 * (int64_t)FETCH_WAIT_MS_MAX)
#define SWEEP_MS            10000 /* between two looks for producers that are to be forgotten */

struct own_read {
    struct coordinator *left; /* that was in memory before */
    struct journal *journal;
    struct coordinator *coordinator;
    struct producers *producers;
    struct transactions *transactions;
    char cluster_id[UUID_TEXT_BYTES];
};

static bool keep_cluster_id(void *arg, struct slice key, struct slice value)
{
    struct own_read *r = arg;
    if (value.len < sizeof r->cluster_id) {
        memcpy(r->cluster_id, value.data, value.len);
        r->cluster_id[value.len] = '\0';
    }
    return false;
}

/* Random, made once, the same for ever. */
static enum err find_cluster_id(struct own_read *r, struct store *own, struct errmsg *m)
{
    char told[UUID_TEXT_BYTES]; /* before there was a data directory */
    memcpy(told, r->cluster_id, sizeof told);
    r->cluster_id[0] = '\0';
    enum err e = store_rows(own, slice_str(CLUSTER_ID_KEY), keep_cluster_id, r, m);
    if (e != OK || r->cluster_id[0] != '\0') {
        return e;
    }
    memcpy(r->cluster_id, told, sizeof told);
    if (told[0] == '\0') {
        struct uuid id = uuid_random();
        uuid_to_text(&id, r->cluster_id);
    }
    e = store_put(own, slice_str(CLUSTER_ID_KEY), slice_str(r->cluster_id));
    return e == OK ? store_commit(own, m) : e;
}

static void on_topic_gone(void *arg, const char *name)
{
    struct server *s = arg;
    if (s->transactions != NULL) {
        transactions_topic_gone(s->transactions, slice_str(name));
    }
    if (s->coordinator != NULL) {
        coordinator_topic_gone(s->coordinator, slice_str(name));
    }
    s->sweep_ms = 0; /* its producers are looked for once, however many topics go in this turn */
}

/* A topic of clients may be hidden by a captured one of its name, whose offsets are no leftovers:
 * nothing is taken away before that would be seen. */
static void on_topic_came(void *arg, const struct store_topic *row)
{
    struct server *s = arg;
    if (!s->captured_known) {
        return;
    }
    if (s->transactions != NULL) {
        transactions_topic_came(s->transactions, slice_str(row->name), &row->id);
    }
    if (s->coordinator != NULL) {
        coordinator_topic_came(s->coordinator, slice_str(row->name), &row->id);
    }
}

static bool log_start_of(void *arg, uint32_t uid, int64_t *log_start)
{
    const struct server *s = arg;
    struct store_offsets o;
    if (store_offsets(s->own, uid, &o) != OK) {
        return false;
    }
    *log_start = o.log_start;
    return true;
}

/* A fetch that was answered late may have read what compaction has taken since. */
static bool cleaned_of(void *arg, uint32_t uid, int64_t *clean_to, int64_t *keep_ms)
{
    const struct server *s = arg;
    if (store_cleaned(s->own, uid, clean_to, keep_ms) != OK) {
        return false;
    }
    *keep_ms = *keep_ms > ABORTED_KEEP_MS_MIN ? *keep_ms : ABORTED_KEEP_MS_MIN;
    return true;
}

struct collect {
    struct store_aborted *out; /* NULL: they are counted */
    size_t count;
};

static bool collect_aborted(void *arg, const struct producers_aborted *a)
{
    struct collect *c = arg;
    if (c->out != NULL) {
        c->out[c->count] =
            (struct store_aborted){a->producer_id, a->first_offset, a->last_offset};
    }
    c->count++;
    return true;
}

/* What compaction must know of a partition. A transaction that was aborted counts from its first
 * offset on, wherever its marker is: none of its records may hide an older one. */
static enum err stability_of(void *arg, uint32_t uid, struct store_stability *out)
{
    const struct server *s = arg;
    struct store_offsets o;
    struct collect c = {0};
    if (s->producers == NULL || store_offsets(s->own, uid, &o) != OK) {
        return ERR_NOT_FOUND;
    }
    out->last_stable = producers_lso(s->producers, uid, o.log_start, o.end);
    producers_each_aborted(s->producers, uid, o.log_start, out->last_stable, collect_aborted, &c);
    out->aborted_count = c.count;
    if (c.count == 0) {
        return OK;
    }
    c = (struct collect){.out = malloc(c.count * sizeof *c.out)};
    if (c.out == NULL) {
        return ERR_NOMEM;
    }
    producers_each_aborted(s->producers, uid, o.log_start, out->last_stable, collect_aborted, &c);
    out->aborted = c.out;
    return OK;
}

/* Groups of the consumer protocol share the topics out. */
static void tell_topics(void *arg)
{
    struct server *s = arg;
    size_t count = topics_count(s->topics);
    struct cgroup_topic *list = malloc((count + 1) * sizeof *list);
    if (list == NULL) {
        log_error("no memory to tell the groups of changed topics");
        return;
    }
    for (size_t i = 0; i < count; i++) {
        const struct store_topic *t = topics_at(s->topics, i)->row;
        list[i] = (struct cgroup_topic){slice_str(t->name), t->id, t->partition_count};
    }
    coordinator_set_topics(s->coordinator, list, count);
    free(list);
}

static void on_topics_changed(void *arg)
{
    struct server *s = arg;
    if (s->coordinator != NULL) {
        coordinator_topics_changed(s->coordinator);
    }
}

static struct producers_options producers_options_of(const struct config_server *c)
{
    return (struct producers_options){c->producer_id_expiration_ms,
                                      c->producer_id_expiration_check_interval_ms};
}

static struct transactions_options transactions_options_of(const struct config_server *c)
{
    return (struct transactions_options){
        c->transaction_max_timeout_ms, c->transactional_id_expiration_ms,
        c->transaction_abort_interval_ms, c->transaction_remove_interval_ms};
}

static void close_groups(struct server *s)
{
    if (s->coordinator != NULL) {
        coordinator_close(s->coordinator);
        s->coordinator = NULL;
    }
}

static enum err read_all(struct own_read *r, struct store *own, const struct config_server *c,
                         struct errmsg *m)
{
    struct config_server numbers = *c;
    numbers.group_consumer_assignors = NULL; /* own_state_take reads it */
    const struct producers_options po = producers_options_of(c);
    const struct transactions_options to = transactions_options_of(c);
    enum err e = find_cluster_id(r, own, m);
    if (e == OK) {
        e = journal_open(&r->journal, own, m);
    }
    if (e == OK) {
        e = coordinator_open(&r->coordinator, r->journal, &numbers, clock_mono_ms(), m);
    }
    if (e == OK) {
        e = producers_open(&r->producers, r->journal, &po, m);
    }
    if (e == OK) {
        e = transactions_open(&r->transactions, r->journal, r->producers, r->coordinator, &to, m);
    }
    return e;
}

enum err own_state_read(struct own_read **out, struct store *own, const struct config_server *c,
                        const char *cluster_id, struct errmsg *m)
{
    struct own_read *r = calloc(1, sizeof *r);
    *out = NULL;
    if (r == NULL) {
        return err_set(m, ERR_NOMEM, "no memory for what is stored");
    }
    snprintf(r->cluster_id, sizeof r->cluster_id, "%s", cluster_id);
    enum err e = read_all(r, own, c, m);
    if (e != OK) {
        own_state_drop(r);
        return e;
    }
    *out = r;
    return OK;
}

void own_state_drop(struct own_read *r)
{
    if (r == NULL) {
        return;
    }
    transactions_close(r->transactions);
    coordinator_close(r->coordinator);
    producers_close(r->producers);
    journal_close(r->journal);
    coordinator_free(r->left);
    free(r);
}

/* What memory has is as of the last commit that succeeded, and one that failed may have landed all
 * the same (store_commit): groups that went on while the store was away give way to what the rows
 * say. Members see a coordinator that started again. */
void own_state_take(struct server *s, struct own_read *r)
{
    ASSERT(s->producers == NULL && s->transactions == NULL); /* they hold on to the groups */
    struct own_read was = {.left = s->coordinator};
    if (s->journal != NULL) {
        journal_lose_store(s->journal); /* who waits hears it of groups that are still there */
    }
    if (s->coordinator != NULL) {
        coordinator_detach(s->coordinator);
        s->coordinator = NULL;
    }
    if (s->journal != NULL) {
        journal_hand_over(s->journal, r->journal);
    }
    s->journal = r->journal;
    s->coordinator = r->coordinator;
    s->producers = r->producers;
    s->transactions = r->transactions;
    memcpy(s->cluster_id, r->cluster_id, sizeof s->cluster_id);
    *r = was;
    own_state_reload(s); /* settings may have changed since */
    coordinator_begin(s->coordinator, clock_mono_ms());
    coordinator_ask_topics(s->coordinator, tell_topics, s);
    store_set_stability(s->own, stability_of, s);
}

void own_opening_run(struct work *w)
{
    struct own_opening *o = (struct own_opening *)w;
    o->result = store_open(&o->store, &o->options, &o->message);
    if (o->result == OK) { /* the cluster's id changes only when this is done */
        o->result = own_state_read(&o->read, o->store, &o->config, o->server->cluster_id,
                                   &o->message);
    }
}

static void run_clear(struct work *w)
{
    struct own_opening *o = (struct own_opening *)w;
    own_state_drop(o->read);
    o->read = NULL;
}

static void done_clear(struct work *w)
{
    run_clear(w); /* where the thread did not, because the server closes */
    ((struct own_opening *)w)->busy = false;
}

void own_opening_clear(struct own_opening *o)
{
    o->work = (struct work){.run = run_clear, .done = done_clear};
    o->busy = workers_submit(o->server->opener, &o->work) == OK;
    if (!o->busy) {
        run_clear(&o->work);
    }
}

void own_state_away(struct server *s)
{
    if (s->journal != NULL) {
        journal_lose_store(s->journal);
    }
    transactions_close(s->transactions);
    s->transactions = NULL;
    producers_close(s->producers);
    s->producers = NULL;
}

void own_state_watch_topics(struct server *s)
{
    const struct topics_listener l = {on_topic_gone, on_topic_came, on_topics_changed, s};
    topics_on_change(s->topics, &l);
}

void own_state_reload(struct server *s)
{
    if (s->coordinator != NULL) {
        coordinator_reload(s->coordinator, &s->config.server);
    }
    if (s->producers != NULL) {
        const struct producers_options p = producers_options_of(&s->config.server);
        producers_set_options(s->producers, &p);
    }
    if (s->transactions != NULL) {
        const struct transactions_options t = transactions_options_of(&s->config.server);
        transactions_set_options(s->transactions, &t);
    }
}

void own_state_tick(struct server *s, int64_t now_ms)
{
    if (s->producers != NULL && now_ms >= s->sweep_ms) {
        s->sweep_ms = now_ms + SWEEP_MS;
        producers_sweep(s->producers, log_start_of, s);
        producers_forget_cleaned(s->producers, cleaned_of, s, now_ms);
        producers_tick(s->producers, clock_wall_ms());
    }
    if (s->transactions != NULL) {
        transactions_tick(s->transactions, clock_wall_ms());
    }
}

void own_state_close(struct server *s)
{
    transactions_close(s->transactions);
    s->transactions = NULL;
    close_groups(s);
    producers_close(s->producers);
    s->producers = NULL;
    if (s->journal != NULL) {
        journal_close(s->journal);
        s->journal = NULL;
    }
}
