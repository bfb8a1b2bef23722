/* Configured streams: which topics belong to which of them, and what a record of each needs. The
 * writer brings them together with the store's topics. */
#include "plugins/capture/internal.h"

#include <stdlib.h>

static size_t places_left(const struct link *link)
{
    size_t left = 0;
    for (size_t i = 0; i < LINK_STREAMS_MAX; i++) {
        left += atomic_load(&link->ids[i]) == 0;
    }
    return left;
}

enum err streams_check(struct link *link, const struct config *config, struct buf *mistakes)
{
    size_t before = mistakes->len, names = 0;
    for (size_t i = 0; i < config->stream_count; i++) {
        uint64_t id = stream_id(slice_str(config->streams[i].name));
        struct stream_counters *s = link_counters_find(link, id);
        names += !s;
        int32_t have = s ? atomic_load(&s->partitions) : 0;
        if (have) {
            config_check_partitions(config, i, have, mistakes);
        }
    }
    if (names > 0 && names > places_left(link)) {
        buf_printf(mistakes, "%zu new streams are too many: since its start the broker counts for "
                   "%d names at most; it forgets those of streams that are gone when it is started "
                   "again\n", names, LINK_STREAMS_MAX);
    }
    return mistakes->len > before ? ERR_INVALID : OK;
}

void stream_set_free(struct stream_set *set)
{
    if (set) {
        config_fini(&set->config);
        filter_tree_free(set->tree);
        free(set->streams);
        free(set);
    }
}

static enum err stream_fill(struct link *link, struct stream_set *set, size_t i)
{
    const struct config_stream *config = &set->config.streams[i];
    struct stream *s = &set->streams[i];
    *s = (struct stream){
        .config = config,
        .id = stream_id(slice_str(config->name)),
        .needs = mapping_stream_needs(config),
        .fsync = config->durability == DURABILITY_FSYNC,
        .counters = link_counters(link, config->name),
    };
    enum err e = s->counters ? OK : ERR_NOMEM;
    for (uint32_t k = 0; !e && k < config->filter_count; k++) {
        e = filter_tree_add(set->tree, slice_str(config->filters[k]), (uint32_t)i);
    }
    return e;
}

struct stream_set *stream_set_new(struct link *link, struct config *config)
{
    struct stream_set *set = calloc(1, sizeof *set);
    if (!set) {
        config_fini(config);
        return NULL;
    }
    set->config = *config;
    memset(config, 0, sizeof *config);
    set->streams = calloc(set->config.stream_count + 1, sizeof *set->streams);
    set->tree = filter_tree_new();
    enum err e = set->streams && set->tree ? OK : ERR_NOMEM;
    for (size_t i = 0; !e && i < set->config.stream_count; i++) {
        e = stream_fill(link, set, i);
    }
    if (e) {
        stream_set_free(set);
        return NULL;
    }
    return set;
}
