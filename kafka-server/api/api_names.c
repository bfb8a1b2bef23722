/* See api_names.h. Sorted, not compared each with each: a request may bring a million names. */
#include "kafka-server/api/api_names.h"

#include <stdlib.h>

#include "kafka-server/server.h"

struct place {
    struct slice name;
    int32_t index;
};

static int compare_places(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    int order = slice_compare(x->name, y->name);
    return order != 0 ? order : (x->index > y->index) - (x->index < y->index);
}

static struct place *places_sorted(struct request *rq, const struct slice *names, int32_t count)
{
    struct place *places = arena_array(&rq->arena, (size_t)count, sizeof *places);
    for (int32_t i = 0; i < count && places != NULL; i++) {
        places[i] = (struct place){names[i], i};
    }
    if (places != NULL) {
        qsort(places, (size_t)count, sizeof *places, compare_places);
    }
    return places;
}

int32_t *names_order(struct request *rq, const struct slice *names, int32_t count)
{
    const struct place *places = places_sorted(rq, names, count);
    int32_t *order = arena_array(&rq->arena, (size_t)count, sizeof *order);
    if (places == NULL || order == NULL) {
        return NULL;
    }
    for (int32_t i = 0; i < count; i++) {
        order[i] = places[i].index;
    }
    return order;
}

enum name_seen *names_seen(struct request *rq, const struct slice *names, int32_t count)
{
    const struct place *places = places_sorted(rq, names, count);
    enum name_seen *seen = arena_array(&rq->arena, (size_t)count, sizeof *seen);
    if (places == NULL || seen == NULL) {
        return NULL;
    }
    for (int32_t i = 1; i < count; i++) {
        if (slice_eq(places[i].name, places[i - 1].name)) {
            seen[places[i].index] = NAME_AGAIN;
            if (seen[places[i - 1].index] == NAME_ONCE) {
                seen[places[i - 1].index] = NAME_FIRST;
            }
        }
    }
    return seen;
}

enum kerr names_missing(const struct request *rq, enum kerr again, enum kerr unknown)
{
    return rq->server->own_away ? again : unknown;
}

struct kstr names_keep(struct request *rq, const char *text)
{
    return kstr_make(arena_strndup(&rq->arena, text, strlen(text)));
}
