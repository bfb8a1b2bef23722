/* The file is small and changes when somebody binds a stream; it is asked for when a free topic is
 * about to be made. So it is looked at (stat) each time and read when it has changed. The writer
 * puts another file in its place, never writes into it, so that a change shows in its inode.
 *
 * A file that cannot be read leaves what was known before: the plugin, which cannot read it either,
 * says why. */
#include "kafka-server/broker/bound_names.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "shared/config/config.h"

/* Without memory an element is not added, and its hh.tbl is NULL: left to itself uthash ends the
 * process. */
#define HASH_NONFATAL_OOM 1
#include <uthash.h>

struct taken {
    UT_hash_handle hh;
    size_t count;
    char name[];
};

struct bound_names {
    struct config config; /* its streams */
    bool has_config;
    struct stat seen; /* of the file that was read last */
    struct taken *taken; /* by name */
};

struct bound_names *bound_names_new(void)
{
    return calloc(1, sizeof(struct bound_names));
}

static void forget(struct bound_names *b)
{
    if (b->has_config) {
        config_fini(&b->config);
        b->has_config = false;
    }
}

void bound_names_free(struct bound_names *b)
{
    if (b != NULL) {
        struct taken *t, *next;
        HASH_ITER(hh, b->taken, t, next) {
            HASH_DEL(b->taken, t);
            free(t);
        }
        forget(b);
        free(b);
    }
}

static struct taken *find(const struct bound_names *b, struct slice name)
{
    struct taken *t;
    HASH_FIND(hh, b->taken, name.data, name.len, t);
    return t;
}

enum err bound_names_take(struct bound_names *b, const char *name)
{
    size_t len = strlen(name);
    struct taken *t = find(b, slice_str(name));
    if (t == NULL) {
        t = calloc(1, sizeof *t + len + 1);
        if (t == NULL) {
            return ERR_NOMEM;
        }
        memcpy(t->name, name, len + 1);
        HASH_ADD_KEYPTR(hh, b->taken, t->name, len, t);
        if (t->hh.tbl == NULL) {
            free(t);
            return ERR_NOMEM;
        }
    }
    t->count++;
    return OK;
}

void bound_names_give(struct bound_names *b, const char *name)
{
    struct taken *t = find(b, slice_str(name));
    if (t != NULL && --t->count == 0) {
        HASH_DEL(b->taken, t);
        free(t);
    }
}

static bool is_same(const struct stat *a, const struct stat *b)
{
    return a->st_ino == b->st_ino && a->st_dev == b->st_dev && a->st_size == b->st_size &&
           a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

static void look(struct bound_names *b, const char *data)
{
    char path[PATH_MAX];
    struct stat now = {0}; /* no file: no name */
    int n = snprintf(path, sizeof path, "%s/" CONFIG_BOUND_FILE, data);
    bool is_there = n > 0 && (size_t)n < sizeof path && stat(path, &now) == 0;
    if (!is_there) {
        now = (struct stat){0};
    }
    if (is_same(&now, &b->seen)) {
        return;
    }
    b->seen = now;
    struct config more;
    if (!is_there) {
        forget(b);
    } else if (config_read_bound(&more, data) == OK) {
        forget(b);
        b->config = more;
        b->has_config = true;
    } else {
        config_fini(&more);
    }
}

bool bound_names_has(struct bound_names *b, const char *data, struct slice name)
{
    look(b, data);
    if (find(b, name) != NULL) {
        return true;
    }
    for (size_t i = 0; b->has_config && i < b->config.stream_count; i++) {
        if (slice_eq(name, slice_str(b->config.streams[i].name))) {
            return true;
        }
    }
    return false;
}
