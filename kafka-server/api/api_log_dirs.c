/* DescribeLogDirs: how large partitions are, and how much room there is.
 *
 * There is one log directory, the data directory; that it holds two stores is nobody's business
 * here. Sizes are asked of the stores by a worker: a row or two for each partition, and what was
 * written last, which is read. READ_BYTES_MAX bounds the reading of one request; partitions that
 * come after that are up to a megabyte larger than the answer says.
 *
 * The job has memory of its own, because the connection, and with it the request, may be gone
 * before it is done. */
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/statvfs.h>

#include "kafka-server/api/api.h"
#include "kafka-server/api/api_names.h"
#include "kafka-server/broker/topics.h"
#include "kafka-server/broker/workers.h"
#include "kafka-server/server.h"
#include "kafka_messages.h"
#include "shared/base/log.h"

#define READ_BYTES_MAX ((size_t)256 << 20)

struct sizing {
    struct store *store;
    uint32_t uid;
    struct describe_log_dirs_response_results_topics_partitions
        *out; /* in the request's arena: loop thread */
    uint64_t bytes;
};

struct sizes {
    struct work work;
    struct request *rq; /* NULL: the connection is gone; loop thread */
    atomic_bool gone;   /* the same, for the worker */
    struct describe_log_dirs_response p;
    char *dir;
    int64_t total_bytes, usable_bytes; /* of the file system; -1: not known */
    int32_t count;
    struct sizing list[];
};

static void run_sizes(struct work *w)
{
    struct sizes *all = (struct sizes *)w;
    size_t read_max = READ_BYTES_MAX;
    for (int32_t i = 0; i < all->count && !atomic_load(&all->gone); i++) {
        struct sizing *one = &all->list[i];
        struct errmsg m = {.text = ""};
        /* Where it fails, the size is what could be seen: a tool that asks for sizes has no use for
         * an error, and whoever reads that partition gets it. */
        enum err e = store_partition_bytes(one->store, one->uid, &read_max, &one->bytes, &m);
        if (e != OK) {
            log_debug("size not known uid=%u error=%s: %s", one->uid, err_name(e), m.text);
        }
    }
    struct statvfs v;
    if (statvfs(all->dir, &v) == 0) {
        all->total_bytes = (int64_t)((uint64_t)v.f_blocks * v.f_frsize);
        all->usable_bytes = (int64_t)((uint64_t)v.f_bavail * v.f_frsize);
    }
}

static void sizes_free(struct sizes *all)
{
    if (all != NULL) {
        free(all->dir);
        free(all);
    }
}

static void done_sizes(struct work *w)
{
    struct sizes *all = (struct sizes *)w;
    struct request *rq = all->rq;
    if (rq != NULL) {
        for (int32_t i = 0; i < all->count; i++) {
            all->list[i].out->partition_size = (int64_t)all->list[i].bytes;
        }
        all->p.results[0].total_bytes = all->total_bytes;
        all->p.results[0].usable_bytes = all->usable_bytes;
        rq->cancel = NULL;
        request_reply(rq, &all->p);
    }
    sizes_free(all);
}

static void cancel_sizes(struct request *rq)
{
    struct sizes *all = rq->parked;
    all->rq = NULL;
    atomic_store(&all->gone, true);
}

/* For each topic that there is, by its place: which of its partitions are asked for, in whatever
 * number of entries; NULL: none. NULL itself: no memory. */
static bool **find_wanted(struct request *rq)
{
    const struct describe_log_dirs_request *q = rq->body;
    const struct topics *topics = rq->server->topics;
    size_t count = topics_count(topics);
    bool **wanted = arena_array(&rq->arena, count, sizeof *wanted);
    for (int32_t i = 0; wanted != NULL && i < q->topics_count; i++) {
        const struct describe_log_dirs_request_topics *asked = &q->topics[i];
        size_t at = topics_lower_bound(topics, kstr_slice(asked->topic));
        const struct topic *t = at < count ? topics_at(topics, at) : NULL;
        if (t == NULL || !slice_eq(slice_str(t->row->name), kstr_slice(asked->topic))) {
            continue;
        }
        if (wanted[at] == NULL) {
            wanted[at] = arena_array(&rq->arena, (size_t)t->row->partition_count, sizeof(bool));
        }
        if (wanted[at] == NULL) {
            return NULL;
        }
        for (int32_t k = 0; k < asked->partitions_count; k++) {
            if (topic_has_partition(t, asked->partitions[k])) {
                wanted[at][asked->partitions[k]] = true;
            }
        }
    }
    return wanted;
}

/* wanted NULL: all. */
static bool fill_topic(struct sizes *all, struct describe_log_dirs_response_results_topics *out,
                       const struct topic *t, const bool *wanted)
{
    out->name = names_keep(all->rq, t->row->name); /* the row may go while a worker reads */
    out->partitions = codec_new_array(&describe_log_dirs_response_results_topics_partitions_message,
                                      &all->rq->arena, t->row->partition_count);
    if (out->partitions == NULL || out->name.data == NULL) {
        return false;
    }
    for (int32_t i = 0; i < t->row->partition_count; i++) {
        if (wanted == NULL || wanted[i]) {
            struct describe_log_dirs_response_results_topics_partitions *p =
                &out->partitions[out->partitions_count++];
            p->partition_index = i;
            all->list[all->count++] =
                (struct sizing){.store = t->store, .uid = store_topic_uid(t->row, i), .out = p};
        }
    }
    return true;
}

static bool fill_topics(struct sizes *all)
{
    struct request *rq = all->rq;
    const struct describe_log_dirs_request *q = rq->body;
    const struct topics *topics = rq->server->topics;
    struct describe_log_dirs_response_results *dir = all->p.results;
    size_t count = topics_count(topics);
    bool **wanted = find_wanted(rq);
    dir->topics = codec_new_array(&describe_log_dirs_response_results_topics_message, &rq->arena,
                                  (int32_t)count);
    if (wanted == NULL || dir->topics == NULL) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        if (q->topics_count >= 0 && wanted[i] == NULL) {
            continue;
        }
        struct describe_log_dirs_response_results_topics *out = &dir->topics[dir->topics_count];
        if (!fill_topic(all, out, topics_at(topics, i), wanted[i])) {
            return false;
        }
        dir->topics_count += out->partitions_count > 0;
    }
    return true;
}

/* With room for every partition that there is. */
static struct sizes *sizes_new(struct request *rq)
{
    const struct topics *topics = rq->server->topics;
    size_t most = 0;
    for (size_t i = 0; i < topics_count(topics); i++) {
        most += (size_t)topics_at(topics, i)->row->partition_count;
    }
    struct sizes *all = calloc(1, sizeof *all + most * sizeof all->list[0]);
    if (all == NULL) {
        return NULL;
    }
    all->work = (struct work){.run = run_sizes, .done = done_sizes};
    all->rq = rq;
    all->total_bytes = all->usable_bytes = -1;
    atomic_init(&all->gone, false);
    codec_init(&describe_log_dirs_response_message, &all->p);
    all->dir = strdup(rq->server->config.data);
    all->p.results = codec_new_array(&describe_log_dirs_response_results_message, &rq->arena, 1);
    if (all->dir == NULL || all->p.results == NULL) {
        sizes_free(all);
        return NULL;
    }
    all->p.results_count = 1;
    all->p.results[0].log_dir = kstr_make(rq->server->config.data);
    return all;
}

void api_describe_log_dirs(struct request *rq)
{
    struct sizes *all = sizes_new(rq);
    if (all == NULL || !fill_topics(all)) {
        sizes_free(all);
        request_close_too_large(rq);
        return;
    }
    rq->parked = all;
    rq->cancel = cancel_sizes;
    if (rq->server->own == NULL || workers_submit(rq->server->workers, &all->work) != OK) {
        /* No directory yet, or too much to do: the same as a disk that does not answer. */
        all->p.results[0].error_code = KERR_KAFKA_STORAGE_ERROR;
        all->p.results[0].topics_count = 0;
        all->count = 0;
        done_sizes(&all->work);
    }
}
