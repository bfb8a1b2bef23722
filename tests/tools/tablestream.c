/* tablestream: a table kept in a compacted stream, written in rounds, and read from the beginning
 * over and over while it is written and compacted.
 *
 *      tablestream write BOOTSTRAP TOPIC PARTITIONS KEYS PROGRESS ROUND
 *      tablestream touch BOOTSTRAP TOPIC PARTITIONS KEYS PROGRESS
 *      tablestream read  BOOTSTRAP TOPIC PARTITIONS KEYS PROGRESS ISOLATION STOP RETENTION_MS
 *
 * What each round does to each key is a rule (op_of), so that everybody knows what the table
 * must be after it: nearly all keys get a new value, some are deleted, some for good. Three
 * rounds of four are transactions, some with one before that is aborted, which deletes and sets
 * what must not count; in the last round one comes after each. `touch` writes a tenth of the
 * last values again, so that there is something to compact. A record's time says which round it
 * is of, and whether it was meant to be aborted.
 *
 * PROGRESS is a file that grows by one byte with each round that is done. Whoever then begins to
 * read sees that round or a later one of each key; older, missing, or come back from the dead is
 * a failure, and ends the program with 1. A reader goes round until the file STOP is there, and
 * prints a line of JSON for each pass. RETENTION_MS is the stream's delete.retention.ms: a
 * reader that took longer may have missed a tombstone, as in Kafka.
 * tests/clients/java/TableReader.java does the same with Java's consumer. */
#include <librdkafka/rdkafka.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS         20
#define CHUNKS         20 /* transactions of a round */
#define TIME_BASE      1700000000000
#define ABORTED_MS     500
#define PARTITIONS_MAX 64
#define BATCH          4096
#define DELETED        0x80 /* in a key's state: round + 1, and this */

enum op { SKIP, SET, DELETE };

static const char *bootstrap, *topic_name, *progress;
static int32_t partitions;
static int64_t keys;
static uint64_t failed;

static void die(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "tablestream: ");
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    va_end(args);
    exit(1);
}

static enum op op_of(int64_t key, int round)
{
    if ((key % 10 == 2 && round > 12) || (key % 10 == 1 && round > 15)) {
        return SKIP;
    }
    if ((key % 10 == 2 && round == 12) || (key % 10 == 0 && round == ROUNDS - 1)) {
        return DELETE;
    }
    return (key * 7 + round) % 31 == 0 && round < ROUNDS - 1 ? DELETE : SET;
}

static int32_t partition_of(int64_t key)
{
    return (int32_t)(key / 10 % partitions);
}

/* The last of the first `rounds` rounds that did something to the key; -1: none. */
static int last_round(int64_t key, int rounds)
{
    int r = rounds - 1;
    while (r >= 0 && op_of(key, r) == SKIP) {
        r--;
    }
    return r;
}

static int rounds_done(void)
{
    struct stat st;
    return stat(progress, &st) == 0 ? (int)st.st_size : 0;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void set(rd_kafka_conf_t *conf, const char *name, const char *value)
{
    char why[256];
    if (rd_kafka_conf_set(conf, name, value, why, sizeof why) != RD_KAFKA_CONF_OK) {
        die("%s: %s", name, why);
    }
}

static rd_kafka_t *client(rd_kafka_type_t type, rd_kafka_conf_t *conf)
{
    char why[256];
    set(conf, "bootstrap.servers", bootstrap);
    set(conf, "reconnect.backoff.ms", "20");
    set(conf, "reconnect.backoff.max.ms", "200"); /* the server is killed meanwhile */
    rd_kafka_t *rk = rd_kafka_new(type, conf, why, sizeof why);
    if (!rk) {
        die("%s", why);
    }
    return rk;
}

/* --- writing ---------------------------------------------------------------------------------- */

static void on_answer(rd_kafka_t *rk, const rd_kafka_message_t *m, void *arg)
{
    if (m->err && m->err != RD_KAFKA_RESP_ERR__PURGE_QUEUE &&
        m->err != RD_KAFKA_RESP_ERR__PURGE_INFLIGHT) {
        if (failed++ == 0) {
            fprintf(stderr, "tablestream: %s\n", rd_kafka_err2str(m->err));
        }
    }
}

static void put(rd_kafka_t *rk, int64_t key, int round, enum op op, bool aborted)
{
    char k[32], v[48];
    size_t k_len = (size_t)snprintf(k, sizeof k, "k%07lld", (long long)key);
    size_t v_len = (size_t)snprintf(v, sizeof v, "%02d:%s:%s", round, k, aborted ? "not" : "yes");
    int64_t ms = TIME_BASE + round * 1000 + (aborted ? ABORTED_MS : 0);
    char *value = op == SET ? v : NULL;
    v_len = value ? v_len : 0;
    for (;;) {
        rd_kafka_resp_err_t e = rd_kafka_producev(
            rk, RD_KAFKA_V_TOPIC(topic_name), RD_KAFKA_V_PARTITION(partition_of(key)),
            RD_KAFKA_V_KEY(k, k_len), RD_KAFKA_V_VALUE(value, v_len), RD_KAFKA_V_TIMESTAMP(ms),
            RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END);
        if (e == RD_KAFKA_RESP_ERR_NO_ERROR) {
            break;
        }
        if (e != RD_KAFKA_RESP_ERR__QUEUE_FULL) {
            die("produce: %s", rd_kafka_err2str(e));
        }
        rd_kafka_poll(rk, 10);
    }
    if (key % 1024 == 0) {
        rd_kafka_poll(rk, 0);
    }
}

/* Until it worked; false: the transaction must be aborted. */
static bool ended(rd_kafka_error_t *(*call)(rd_kafka_t *, int), rd_kafka_t *rk, const char *what)
{
    for (;;) {
        rd_kafka_error_t *e = call(rk, 30000);
        if (!e) {
            return true;
        }
        bool again = rd_kafka_error_is_retriable(e), aborts = rd_kafka_error_txn_requires_abort(e);
        fprintf(stderr, "tablestream: %s: %s\n", what, rd_kafka_error_string(e));
        if (!again && !aborts) {
            die("%s failed", what);
        }
        rd_kafka_error_destroy(e);
        if (aborts) {
            return false;
        }
    }
}

static void begin(rd_kafka_t *rk)
{
    rd_kafka_error_t *e = rd_kafka_begin_transaction(rk);
    if (e) {
        die("begin: %s", rd_kafka_error_string(e));
    }
}

/* Sets some keys and deletes others, for nothing. */
static void write_aborted(rd_kafka_t *rk, int64_t from, int64_t to, int round)
{
    begin(rk);
    for (int64_t k = from; k < to; k += 16) {
        put(rk, k, round, SET, true);
        if (k + 1 < to) {
            put(rk, k + 1, round, DELETE, true);
        }
    }
    rd_kafka_flush(rk, 60000); /* or they would not be sent at all */
    (void)ended(rd_kafka_abort_transaction, rk, "abort");
}

static void write_chunk(rd_kafka_t *rk, int64_t from, int64_t to, int round)
{
    for (int64_t k = from; k < to; k++) {
        enum op op = op_of(k, round);
        if (op != SKIP) {
            put(rk, k, round, op, false);
        }
    }
}

static void write_transactions(rd_kafka_t *rk, int round)
{
    if (!ended(rd_kafka_init_transactions, rk, "init")) {
        die("init wants an abort");
    }
    for (int c = 0; c < CHUNKS; c++) {
        int64_t from = keys * c / CHUNKS, to = keys * (c + 1) / CHUNKS;
        if ((c + round) % 4 == 1) {
            write_aborted(rk, from, to, round);
        }
        for (bool done = false; !done;) {
            begin(rk);
            write_chunk(rk, from, to, round);
            done = ended(rd_kafka_commit_transaction, rk, "commit");
            if (!done) {
                (void)ended(rd_kafka_abort_transaction, rk, "abort");
            }
        }
        if (round == ROUNDS - 1) {
            write_aborted(rk, from, to, round);
        }
    }
}

/* Some of the keys that the last round has set, in each partition. */
static void write_touch(rd_kafka_t *rk)
{
    for (int64_t k = 5; k < keys; k += 10) {
        put(rk, k, ROUNDS - 1, SET, false);
    }
}

static void note_progress(int round)
{
    FILE *f = fopen(progress, "a");
    if (!f || fputc('.', f) == EOF || fclose(f) != 0 || rounds_done() != round + 1) {
        die("%s is not that of round %d", progress, round);
    }
}

/* ROUNDS: a touch. */
static int write_round(int round)
{
    static const char *const codecs[] = {"none", "lz4", "zstd", "none"};
    bool plain = round % 4 == 1 || round == ROUNDS;
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    set(conf, "enable.idempotence", "true");
    set(conf, "compression.type", codecs[round % 4]);
    set(conf, "linger.ms", "5");
    set(conf, "queue.buffering.max.messages", "1000000");
    if (!plain) {
        set(conf, "transactional.id", "table");
        set(conf, "transaction.timeout.ms", "300000");
    }
    rd_kafka_conf_set_dr_msg_cb(conf, on_answer);
    rd_kafka_t *rk = client(RD_KAFKA_PRODUCER, conf);
    if (plain) {
        if (round == ROUNDS) {
            write_touch(rk);
        } else {
            write_chunk(rk, 0, keys, round);
        }
        if (rd_kafka_flush(rk, 120000) != RD_KAFKA_RESP_ERR_NO_ERROR || failed > 0) {
            die("round %d: %llu records failed", round, (unsigned long long)failed);
        }
    } else {
        write_transactions(rk, round);
    }
    rd_kafka_destroy(rk);
    if (round < ROUNDS) {
        note_progress(round);
    }
    return 0;
}

/* --- reading ---------------------------------------------------------------------------------- */

struct pass {
    int rounds; /* done when it began */
    bool committed;
    double began;
    int64_t records, live, tombstones, aborted;
    int left; /* partitions */
    bool at_end[PARTITIONS_MAX];
    int64_t next[PARTITIONS_MAX];
    uint8_t *states;
};

static void see(struct pass *p, const rd_kafka_message_t *m)
{
    char want[48], key[16];
    long long number = -1;
    if (m->key_len != 8 || m->partition < 0 || m->partition >= partitions) {
        die("a key of %zu bytes in %d", m->key_len, m->partition);
    }
    memcpy(key, m->key, 8);
    key[8] = '\0';
    if (sscanf(key, "k%lld", &number) != 1 || number < 0 || number >= keys ||
        partition_of(number) != m->partition) {
        die("key %s in partition %d", key, m->partition);
    }
    if (m->offset < p->next[m->partition]) {
        die("offset %lld of %d comes twice", (long long)m->offset, m->partition);
    }
    p->next[m->partition] = m->offset + 1;
    int64_t ms = rd_kafka_message_timestamp(m, NULL) - TIME_BASE;
    int round = (int)(ms / 1000);
    bool aborted = ms % 1000 == ABORTED_MS;
    snprintf(want, sizeof want, "%02d:%s:%s", round, key, aborted ? "not" : "yes");
    if (m->payload && (m->len != strlen(want) || memcmp(m->payload, want, m->len) != 0)) {
        die("%d@%lld is %.*s", m->partition, (long long)m->offset, (int)m->len,
            (const char *)m->payload);
    }
    p->records++;
    p->tombstones += !m->payload;
    p->aborted += aborted;
    if (aborted && p->committed) {
        die("%d@%lld of %s was aborted, and is shown", m->partition, (long long)m->offset, key);
    }
    if (!aborted) {
        p->states[number] = (uint8_t)(round + 1) | (m->payload ? 0 : DELETED);
    }
}

static void pass_check(struct pass *p, double retention)
{
    double took = now() - p->began;
    int64_t unsure = 0;
    for (int64_t k = 0; k < keys; k++) {
        int must = last_round(k, p->rounds), round = (p->states[k] & ~DELETED) - 1;
        p->live += p->states[k] != 0 && !(p->states[k] & DELETED);
        if (must < 0 || round >= must) {
            continue;
        }
        if (op_of(k, must) == SET) {
            die("k%07lld: of %d rounds, the last it has is %d, not %d", (long long)k, p->rounds,
                round, must);
        }
        if (p->states[k] != 0 && !(p->states[k] & DELETED)) {
            if (took * 2 < retention) {
                die("k%07lld was deleted in round %d, and has its value of %d again", (long long)k,
                    must, round);
            }
            unsure++;
        }
    }
    printf("{\"rounds\": %d, \"records\": %lld, \"live\": %lld, \"tombstones\": %lld, "
           "\"aborted\": %lld, \"unsure\": %lld, \"seconds\": %.2f}\n",
           p->rounds, (long long)p->records, (long long)p->live, (long long)p->tombstones,
           (long long)p->aborted, (long long)unsure, took);
    fflush(stdout);
}

static void assign(rd_kafka_t *rk)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(partitions);
    for (int32_t i = 0; i < partitions; i++) {
        rd_kafka_topic_partition_list_add(list, topic_name, i)->offset = 0;
    }
    rd_kafka_resp_err_t e = rd_kafka_assign(rk, list);
    if (e != RD_KAFKA_RESP_ERR_NO_ERROR) {
        die("assign: %s", rd_kafka_err2str(e));
    }
    rd_kafka_topic_partition_list_destroy(list);
}

static void see_or_end(struct pass *p, const rd_kafka_message_t *m)
{
    if (m->err == RD_KAFKA_RESP_ERR_NO_ERROR) {
        see(p, m);
    } else if (m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
        p->left -= !p->at_end[m->partition];
        p->at_end[m->partition] = true;
    } else if (m->err == RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET) {
        die("%d@%lld: %s", m->partition, (long long)m->offset, rd_kafka_message_errstr(m));
    } /* else the server is away: librdkafka goes on */
}

static void read_pass(rd_kafka_t *rk, rd_kafka_queue_t *q, bool committed, double retention)
{
    static rd_kafka_message_t *list[BATCH];
    struct pass p = {.rounds = rounds_done(),
                     .committed = committed,
                     .began = now(),
                     .left = partitions,
                     .states = calloc((size_t)keys, 1)};
    if (!p.states) {
        die("no memory");
    }
    assign(rk);
    double heard = now();
    while (p.left > 0) {
        ssize_t n = rd_kafka_consume_batch_queue(q, 200, list, BATCH);
        for (ssize_t i = 0; i < n; i++) {
            see_or_end(&p, list[i]);
            rd_kafka_message_destroy(list[i]);
        }
        if (n > 0) {
            heard = now();
        } else if (now() - heard > 90) {
            die("nothing has come for 90 s, %d partitions are not at their end", p.left);
        }
    }
    rd_kafka_assign(rk, NULL);
    pass_check(&p, retention);
    free(p.states);
}

static int read_on(const char *isolation, const char *stop, double retention)
{
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    set(conf, "group.id", "none");
    set(conf, "enable.auto.commit", "false");
    set(conf, "enable.partition.eof", "true");
    set(conf, "auto.offset.reset", "error");
    set(conf, "isolation.level", isolation);
    set(conf, "queued.max.messages.kbytes", "32768");
    rd_kafka_t *rk = client(RD_KAFKA_CONSUMER, conf);
    rd_kafka_poll_set_consumer(rk);
    rd_kafka_queue_t *q = rd_kafka_queue_get_consumer(rk);
    bool last;
    do {
        last = access(stop, F_OK) == 0;
        read_pass(rk, q, strcmp(isolation, "read_committed") == 0, retention);
    } while (!last);
    rd_kafka_queue_destroy(q);
    rd_kafka_consumer_close(rk);
    rd_kafka_destroy(rk);
    return 0;
}

int main(int argc, char **argv)
{
    bool touches = argc == 7 && strcmp(argv[1], "touch") == 0;
    bool writes = argc == 8 && strcmp(argv[1], "write") == 0;
    if (!touches && !writes && (argc != 10 || strcmp(argv[1], "read") != 0)) {
        die("see the head of tablestream.c");
    }
    bootstrap = argv[2];
    topic_name = argv[3];
    partitions = (int32_t)strtol(argv[4], NULL, 10);
    keys = strtoll(argv[5], NULL, 10);
    progress = argv[6];
    if (partitions < 1 || partitions > PARTITIONS_MAX || keys < 1 || keys > 10000000) {
        die("1 to %d partitions, up to 10000000 keys", PARTITIONS_MAX);
    }
    if (touches || writes) {
        return write_round(touches ? ROUNDS : (int)strtol(argv[7], NULL, 10));
    }
    return read_on(argv[7], argv[8], strtod(argv[9], NULL) / 1000);
}
