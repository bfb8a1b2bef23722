/* What the files of the group coordinator share; nobody else includes this.
 *
 *      coordinator.c           groups: finding, storing, taking back, time
 *      coordinator_offsets.c   their offsets */
#ifndef CULEX_BROKER_COORDINATOR_INT_H
#define CULEX_BROKER_COORDINATOR_INT_H

#include "kafka-server/broker/coordinator.h"

struct coordinated {
    struct group *group;
    struct offsets offsets;
    struct buf stored, next; /* the row in the store; the row in the commit that is going on */
    int32_t logged;          /* the generation that the log knows */
    bool listed;             /* in c->dirty */
    bool deleting;           /* the commit that is going on deletes it */
    size_t staged;           /* how many of c->staged are its own */
    size_t bytes;            /* what c->bytes counts of it */
    struct coordinated *dirty_next;
    UT_hash_handle hh;
};

struct staged {
    struct coordinated *g;
    struct offset_entry *entry;
    bool removes; /* the entry names what is to be removed */
};

struct coordinator {
    struct journal *journal;
    struct journal_owner owner;
    struct group_limits limits;
    int64_t retention_ms, sweep_interval_ms;
    int32_t metadata_bytes_max;
    struct coordinated *groups;
    struct coordinated *dirty;
    struct staged *staged;
    size_t staged_count, staged_room;
    size_t bytes;              /* metadata and assignments of all groups */
    size_t offset_count;       /* of all groups */
    int64_t wake_ms, sweep_ms; /* mono */
    int64_t grace_ms;          /* mono: no session ends before; see held_up */
    struct buf key, value;     /* of the row at hand */
    bool stopping;
};

/* NULL: no such group. */
struct coordinated *coordinated_find(const struct coordinator *c, struct slice id);
/* NULL: without memory, or there are too many. */
struct coordinated *coordinated_find_or_make(struct coordinator *c, struct slice id);
/* After each call of the machine. */
void coordinated_touched(struct coordinator *c, struct coordinated *g);
enum kerr coordinator_check_call(const struct coordinator *c, struct slice group_id);
struct group_time coordinator_now(void);

/* Puts the removal of an offset into the commit; false: without memory. */
bool coordinator_stage_removal(struct coordinator *c, struct coordinated *g, struct slice topic,
                               int32_t partition);
/* The commit has ended: staged offsets enter the table, or are forgotten. */
void coordinator_staged_done(struct coordinator *c, enum err e);

#endif
