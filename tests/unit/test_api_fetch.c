/* What is read ahead while nobody waits for it: once, of which batch, and what becomes of it when
 * its store is given up meanwhile. Workers are real; store, net and topics are replaced. */
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "kafka-server/api/api.h"
#include "kafka-server/broker/fetch.h"
#include "kafka-server/broker/session.h"
#include "kafka-server/broker/topics.h"
#include "kafka-server/broker/watch.h"
#include "kafka-server/broker/workers.h"
#include "kafka-server/net/net.h"
#include "kafka-server/server.h"
#include "kafka_messages.h"

#define BATCHES     10
#define BATCH_BYTES (512u << 10)

/* Batches of one record each. */
struct store {
    _Atomic int reads, reads_ahead; /* that began */
    _Atomic int64_t ahead_at;
    _Atomic int held; /* slices that are out, and reads that are inside */
    sem_t gate;       /* what is read ahead waits for it */
};

static struct store fake;
static struct server server;
static struct store_topic row = {.name = "t", .partition_count = 1};
static struct topic topic = {.row = &row, .store = &fake, .captured = true};
static struct request rq;
static sem_t finished;
static int replies, aborted;

/* --- in place of others ---------------------------------------------------------------------- */

enum err store_offsets(struct store *s, uint32_t uid, struct store_offsets *o)
{
    *o = (struct store_offsets){0, BATCHES, BATCHES, 0};
    return OK;
}

enum err store_epoch_end(struct store *s, uint32_t uid, int32_t epoch, int32_t *found, int64_t *end)
{
    return ERR_NOT_FOUND;
}

enum err store_read_tail(struct store *s, uint32_t uid, int64_t offset, size_t max_bytes,
                         bool at_least_one, struct buf *out, int64_t *next)
{
    return ERR_NOT_FOUND;
}

enum err store_read(struct store *s, uint32_t uid, int64_t offset, size_t max_bytes,
                    bool at_least_one, struct store_slices **out, struct errmsg *m)
{
    static uint8_t bytes[BATCH_BYTES];
    atomic_fetch_add(&s->held, 1);
    if (max_bytes < BATCH_BYTES) { /* nobody else asks for so little */
        atomic_store(&s->ahead_at, offset);
        atomic_fetch_add(&s->reads_ahead, 1);
        sem_wait(&s->gate);
    } else {
        atomic_fetch_add(&s->reads, 1);
    }
    struct iovec *iov = malloc(sizeof *iov);
    *out = malloc(sizeof **out);
    assert_non_null(iov);
    assert_non_null(*out);
    *iov = (struct iovec){bytes, sizeof bytes};
    **out = (struct store_slices){1, sizeof bytes, offset + 1, iov};
    return OK;
}

void store_slices_free(struct store_slices *x)
{
    if (x != NULL) {
        free((void *)(uintptr_t)x->iov);
        free(x);
        atomic_fetch_sub(&fake.held, 1);
    }
}

int64_t producers_first_unstable(const struct producers *p, uint32_t uid)
{
    return INT64_MAX;
}

bool producers_forgot_aborted(const struct producers *p, uint32_t uid, int64_t from)
{
    return false;
}

void producers_each_aborted(const struct producers *p, uint32_t uid, int64_t from, int64_t to,
                            producers_aborted_fn *fn, void *arg)
{
}

const struct topic *topics_find(const struct topics *t, struct slice name)
{
    return &topic;
}

const struct topic *topics_find_id(const struct topics *t, const struct uuid *id)
{
    return &topic;
}

enum err watch_add(struct watches *ws, struct waiter *w, struct store *s, uint32_t uid,
                   int64_t seen)
{
    fail_msg("nothing is waited for");
    return OK;
}

void watch_remove(struct watches *ws, struct waiter *w)
{
}

size_t net_memory_left(const struct net *n)
{
    return 64u << 20;
}

void net_memory_take(struct net *n, size_t bytes)
{
}

void net_memory_give(struct net *n, size_t bytes)
{
}

void net_conn_hold(struct net_conn *c, size_t bytes)
{
}

void net_conn_abort(struct net_conn *c, const char *why)
{
    aborted++;
}

const char *request_advertised_host(const struct request *r)
{
    return "localhost";
}

int request_advertised_port(const struct request *r)
{
    return 9092;
}

const char *request_peer_host(const struct request *r)
{
    return "localhost";
}

void request_reply(struct request *r, const void *response)
{
    const struct fetch_response *p = response;
    assert_int_equal(p->responses_count, 1);
    assert_int_equal(p->responses->partitions->error_code, KERR_NONE);
    assert_int_equal(p->responses->partitions->records.bytes, BATCH_BYTES);
    replies++;
}

void request_close(struct request *r, const char *why)
{
    fail_msg("closed: %s", why != NULL ? why : "");
}

/* --- help ------------------------------------------------------------------------------------ */

static void wake(void *arg)
{
    sem_post(&finished);
}

static int set_up(void **state)
{
    struct errmsg m;
    atomic_store(&fake.reads, 0);
    atomic_store(&fake.reads_ahead, 0);
    atomic_store(&fake.ahead_at, -1);
    assert_int_equal(sem_init(&fake.gate, 0, 0), 0);
    assert_int_equal(sem_init(&finished, 0, 0), 0);
    server = (struct server){.base = NULL};
    assert_int_equal(config_init(&server.config), OK);
    server.config.store.cache_bytes = 0; /* the store's own default */
    replies = aborted = 0;
    return workers_open(&server.workers, 2, 0, 10, wake, NULL, &m) != OK;
}

static int tear_down(void **state)
{
    config_fini(&server.config);
    return atomic_load(&fake.held); /* all was given back */
}

/* Reaps until so many replies have left, or so little work is left. */
static void reap_until(int replies_wanted, int busy_wanted)
{
    while (replies < replies_wanted || workers_busy(server.workers) > busy_wanted) {
        sem_wait(&finished);
        workers_reap(server.workers);
    }
}

/* One batch from there on; answered, and not sent yet. */
static void fetch_at(int64_t offset)
{
    int before = replies;
    rq = (struct request){.server = &server, .header.api_version = 12};
    arena_init(&rq.arena, 1 << 20);
    struct fetch_request *q = arena_alloc(&rq.arena, sizeof *q);
    assert_non_null(q);
    codec_init(&fetch_request_message, q);
    q->session_epoch = FETCH_EPOCH_FINAL;
    q->max_bytes = BATCH_BYTES;
    q->topics = codec_new_array(&fetch_request_topics_message, &rq.arena, 1);
    q->topics_count = 1;
    q->topics->topic = kstr_make("t");
    q->topics->partitions =
        codec_new_array(&fetch_request_topics_partitions_message, &rq.arena, 1);
    q->topics->partitions_count = 1;
    q->topics->partitions->fetch_offset = offset;
    q->topics->partitions->partition_max_bytes = BATCH_BYTES;
    rq.body = q;
    api_fetch(&rq);
    while (replies == before) {
        sem_wait(&finished);
        workers_reap(server.workers);
    }
}

static void sent(void)
{
    rq.release(rq.release_arg);
    arena_fini(&rq.arena);
}

/* --- tests ----------------------------------------------------------------------------------- */

static void test_the_batch_behind_is_read_ahead_and_one_at_a_time(void **state)
{
    fetch_at(3);
    sent();
    assert_true(server.reading_ahead);
    fetch_at(7); /* while that is under way */
    sent();
    assert_int_equal(workers_submitted(server.workers), 3);
    sem_post(&fake.gate);
    reap_until(2, 0);
    assert_false(server.reading_ahead);
    assert_int_equal(fake.reads_ahead, 1);
    assert_int_equal(fake.ahead_at, 4);
    fetch_at(BATCHES - 1); /* nothing is behind it */
    sent();
    reap_until(3, 0);
    assert_int_equal(workers_submitted(server.workers), 4);
    assert_int_equal(fake.reads, 3);
    workers_close(server.workers);
}

/* The store is closed when nobody is inside any more; until then what is read ahead is known. */
static void test_a_store_is_given_up_while_it_is_read_ahead(void **state)
{
    fetch_at(3);
    assert_true(server.reading_ahead);
    api_fetch_lose_store(&server, &fake);
    workers_new_generation(server.workers);
    assert_int_equal(aborted, 1); /* its reply would keep the store from being opened again */
    sent();
    assert_true(workers_busy_before(server.workers));
    sem_post(&fake.gate);
    reap_until(1, 0);
    assert_false(workers_busy_before(server.workers));
    assert_false(server.reading_ahead);
    assert_int_equal(atomic_load(&fake.held), 0);
    workers_close(server.workers);
}

static void test_the_server_ends_while_it_reads_ahead(void **state)
{
    fetch_at(3);
    sent();
    sem_post(&fake.gate);
    workers_close(server.workers);
    assert_false(server.reading_ahead);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_the_batch_behind_is_read_ahead_and_one_at_a_time),
        TEST(test_a_store_is_given_up_while_it_is_read_ahead),
        TEST(test_the_server_ends_while_it_reads_ahead),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
