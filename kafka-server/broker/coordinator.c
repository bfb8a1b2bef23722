/* All groups: finding them, storing what changed, taking it back when that failed.
 *
 *   request ─▶ group_on_… ─▶ dirty? ─▶ list ─▶ write: one row per group ─▶ commit ─┬▶ `stored`
 *                  │                                                     failed: │  is that row;
 *                  └─ replies ─▶ prepare (copied), wait ───────────────────────── ▼  send
 *                                                     the group is decoded from `stored`, and
 *                                                     whoever waits gets an error
 *
 * Offsets go the other way round: coordinator_offsets.c.
 *
 * A group lives while it has members, ids given out, a row or an offset; `sweep` removes what has
 * nothing left, and expires offsets: those of a group that has been empty for
 * offsets.retention.minutes, those of a client without membership that long after their commit,
 * those of topics that a stable group of consumers has stopped reading. A sweep goes on in the next
 * turn of the loop, at the group that it has come to, when it has done enough for one: a hundred
 * thousand groups may expire together. */
#include "kafka-server/broker/coordinator_int.h"

#include <stdio.h>
#include <stdlib.h>

#include "shared/base/clock.h"
#include "shared/base/log.h"

#define MEMBER_ID_PREFIX_BYTES_MAX 255 /* of the client's or instance's id; the rest is a UUID */
#define UUID_HEX_BYTES             36
/* A timer that is later than this was held up with everything else. */
#define HELD_UP_MS       500
#define HELD_UP_GRACE_MS 2000
/* What looking at an offset costs a sweep, and removing a row beside its names: as if it were bytes
 * of a commit, of which a turn does JOURNAL_TURN_BYTES. */
#define SWEEP_LOOK_BYTES 8
#define SWEEP_ROW_BYTES  64

struct group_time coordinator_now(void)
{
    return (struct group_time){.mono_ms = clock_mono_ms(), .wall_ms = clock_wall_ms()};
}

/* --- groups ---------------------------------------------------------------------------------- */

struct coordinated *coordinated_find(const struct coordinator *c, struct slice id)
{
    struct coordinated *g = NULL;
    if (c != NULL) {
        HASH_FIND(hh, c->groups, id.data, id.len, g);
    }
    return g;
}

/* Takes group, which may be NULL (no memory), and consumer, which may be NULL. */
static struct coordinated *add(struct coordinator *c, struct group *group, struct cgroup *consumer)
{
    struct coordinated *g = group != NULL ? calloc(1, sizeof *g) : NULL;
    if (g == NULL) {
        group_free(group);
        cgroup_free(consumer);
        return NULL;
    }
    g->group = group;
    g->consumer = consumer;
    g->offsets.all = &c->offset_topics;
    buf_init(&g->stored, GROUP_ROW_BYTES_MAX);
    buf_init(&g->next, GROUP_ROW_BYTES_MAX);
    HASH_ADD_KEYPTR(hh, c->groups, group->id.data, group->id.len, g);
    return g;
}

struct coordinated *coordinated_find_or_restore(struct coordinator *c, struct slice id)
{
    struct coordinated *g = coordinated_find(c, id);
    return g != NULL ? g : add(c, group_new(id, &c->limits), NULL);
}

struct coordinated *coordinated_find_or_make(struct coordinator *c, struct slice id)
{
    bool room = HASH_COUNT(c->groups) < COORDINATOR_GROUPS_MAX;
    return room ? coordinated_find_or_restore(c, id) : coordinated_find(c, id);
}

/* The sweep stands at no group that goes, or moves to the end of the list. */
static void unlist(struct coordinator *c, struct coordinated *g)
{
    if (c->sweep_next == g) {
        c->sweep_next = g->hh.next;
    }
    HASH_DELETE(hh, c->groups, g);
}

static void drop(struct coordinator *c, struct coordinated *g)
{
    unlist(c, g);
    c->bytes -= g->bytes;
    c->offset_count -= g->offsets.count;
    c->held -= g->held;
    group_free(g->group);
    cgroup_free(g->consumer);
    offsets_fini(&g->offsets);
    buf_fini(&g->stored);
    buf_fini(&g->next);
    free(g);
}

static bool has_nothing(const struct coordinated *g)
{
    return g->group->state == GROUP_EMPTY && g->consumer == NULL && g->group->pending_count == 0 &&
           g->offsets.count == 0 && g->staged == 0 && g->held == 0 && !g->listed;
}

void coordinated_forget_if_new(struct coordinator *c, struct coordinated *g)
{
    if (has_nothing(g) && g->stored.len == 0) {
        drop(c, g);
    }
}

void coordinated_replace(struct coordinator *c, struct coordinated *g, struct group *group,
                         struct cgroup *consumer)
{
    unlist(c, g);
    group_free(g->group);
    cgroup_free(g->consumer);
    g->group = group;
    g->consumer = consumer;
    HASH_ADD_KEYPTR(hh, c->groups, group->id.data, group->id.len, g);
}

static void list_dirty(struct coordinator *c, struct coordinated *g)
{
    if (!g->listed) {
        g->listed = true;
        g->dirty_next = c->dirty;
        c->dirty = g;
        journal_touch(c->journal);
    }
}

static int32_t generation_of(const struct coordinated *g)
{
    return g->consumer != NULL ? g->consumer->epoch : g->group->generation;
}

static void log_generation(struct coordinated *g)
{
    const struct group *x = g->group;
    g->logged = generation_of(g);
    if (g->consumer != NULL) {
        log_info("group has a new epoch group=%.*s epoch=%d members=%d", (int)x->id.len,
                 (const char *)x->id.data, g->consumer->epoch, g->consumer->member_count);
        return;
    }
    log_info("group has a new generation group=%.*s generation=%d members=%d protocol=%.*s",
             (int)x->id.len, (const char *)x->id.data, x->generation, x->member_count,
             (int)x->protocol_name.len,
             x->protocol_name.data != NULL ? (const char *)x->protocol_name.data : "");
}

/* After each call of the machine. */
void coordinated_touched(struct coordinator *c, struct coordinated *g)
{
    if (generation_of(g) != g->logged) {
        log_generation(g);
    }
    size_t bytes = g->consumer != NULL ? g->consumer->bytes : g->group->bytes;
    int64_t wake_ms = g->consumer != NULL ? g->consumer->wake_ms : g->group->wake_ms;
    c->bytes = c->bytes - g->bytes + bytes;
    g->bytes = bytes;
    if (g->consumer != NULL && g->consumer->broken) {
        journal_fail(c->journal, ERR_NOMEM); /* the whole turn is taken back */
        list_dirty(c, g);
    }
    if (g->consumer != NULL ? g->consumer->dirty : g->group->dirty) {
        list_dirty(c, g);
    }
    if (wake_ms < c->wake_ms) {
        c->wake_ms = wake_ms;
    }
}

/* --- replies --------------------------------------------------------------------------------- */

static void reply_committed(struct journal_wait *w, enum err e)
{
    struct group_call *call = (struct group_call *)((char *)w - offsetof(struct group_call, wait));
    call->send(call, e == OK ? KERR_NONE : KERR_COORDINATOR_NOT_AVAILABLE);
}

static void reply_prepare(void *arg, void *token, const struct group_reply *r)
{
    (void)arg; /* the call knows its coordinator */
    struct group_call *call = token;
    call->prepare(call, r);
    if (call->coordinator == NULL) { /* nothing to wait for either */
        call->send(call, KERR_NONE);
        return;
    }
    call->wait.done = reply_committed;
    journal_wait(call->coordinator->journal, &call->wait);
}

const struct group_sink coordinator_sink = {.reply = reply_prepare};

static void reply_error(struct group_call *call, enum kerr e, struct slice member_id)
{
    const struct group_reply r = {.error = e, .member_id = member_id};
    reply_prepare(NULL, call, &r);
}

static void call_begin(struct coordinator *c, struct group_call *call, struct coordinated *g)
{
    call->coordinator = c;
    call->group = g;
    call->wait = (struct journal_wait){0};
}

/* --- the commit ------------------------------------------------------------------------------ */

static void delete_rows(struct coordinator *c, struct coordinated *g)
{
    group_row_key(&c->key, g->group->id);
    journal_delete(c->journal, buf_slice(&c->key));
    for (const struct offset_entry *e = g->offsets.entries; e != NULL; e = e->hh.next) {
        offset_row_key(&c->key, g->group->id, e->topic, e->partition);
        journal_delete(c->journal, buf_slice(&c->key));
    }
}

/* Offsets that this turn has put for groups that it deletes: one walk for all those groups. */
static void delete_staged(struct coordinator *c)
{
    for (size_t i = 0; i < c->staged_count; i++) {
        const struct offset_entry *e = c->staged[i];
        c->staged_seen++;
        if (e->group->deleting && !e->removes) {
            offset_row_key(&c->key, e->group->group->id, e->topic, e->partition);
            journal_delete(c->journal, buf_slice(&c->key));
        }
    }
}

static void write_rows(struct journal_owner *o, struct journal *j)
{
    struct coordinator *c = (struct coordinator *)((char *)o - offsetof(struct coordinator, owner));
    bool deletes = false;
    for (struct coordinated *g = c->dirty; g != NULL; g = g->dirty_next) {
        if (g->deleting) {
            deletes = true;
            delete_rows(c, g);
            continue;
        }
        if (g->consumer != NULL) {
            cgroup_encode(g->consumer, &g->next);
            g->consumer->dirty = false;
        } else {
            group_encode(g->group, &g->next);
            g->group->dirty = false;
        }
        if (!buf_ok(&g->next)) {
            journal_fail(j, ERR_NOMEM);
            return;
        }
        group_row_key(&c->key, g->group->id);
        journal_put(j, buf_slice(&c->key), buf_slice(&g->next));
    }
    if (deletes) {
        delete_staged(c);
    }
}

/* The group that a row says, of either kind; a row of no bytes is an empty group. Both NULL: no
 * memory, or *corrupt. */
static void decode(struct coordinator *c, struct slice id, struct slice row, struct group **group,
                   struct cgroup **consumer, bool *corrupt)
{
    *corrupt = false;
    *consumer = NULL;
    *group = NULL;
    if (cgroup_row_is(row)) {
        *consumer = cgroup_decode(id, row, coordinator_limits(c, id), corrupt);
        *group = *consumer != NULL ? group_new(id, &c->limits) : NULL;
        if (*group == NULL) {
            cgroup_free(*consumer);
            *consumer = NULL;
        }
    } else if (row.len > 0) {
        *group = group_decode(id, row, &c->limits, corrupt);
    } else {
        *group = group_new(id, &c->limits);
    }
}

static void on_load(struct coordinated *g, struct group_time now)
{
    if (g->consumer != NULL) {
        cgroup_on_load(g->consumer, now);
    } else {
        group_on_load(g->group, now);
    }
}

/* What is stored is the truth: the group becomes that again, and those who wait hear of it. */
static void take_back(struct coordinator *c, struct coordinated *g)
{
    group_answer_parked(g->group, KERR_COORDINATOR_NOT_AVAILABLE, &coordinator_sink);
    bool corrupt;
    struct group *group;
    struct cgroup *consumer;
    decode(c, g->group->id, buf_slice(&g->stored), &group, &consumer, &corrupt);
    ASSERT(!corrupt); /* we have written it */
    if (group == NULL) {
        struct group *old = g->group;
        log_error("group stays away for want of memory group=%.*s", (int)old->id.len,
                  (const char *)old->id.data);
        if (old->state != GROUP_DEAD) {
            group_kill(old, KERR_COORDINATOR_NOT_AVAILABLE, &coordinator_sink);
        }
        return;
    }
    coordinated_replace(c, g, group, consumer);
    g->logged = generation_of(g);
    on_load(g, coordinator_now());
    coordinated_touched(c, g);
}

static void commit_done(struct journal_owner *o, enum err e)
{
    struct coordinator *c = (struct coordinator *)((char *)o - offsetof(struct coordinator, owner));
    coordinator_staged_done(c, e);
    coordinator_config_done(c, e);
    struct coordinated *list = c->dirty;
    c->dirty = NULL;
    if (e != OK && c->sweep_next != NULL) { /* it would meet what comes back now for ever */
        c->sweep_next = NULL;
        c->sweep_ms = clock_mono_ms() + c->sweep_interval_ms;
    }
    while (list != NULL) {
        struct coordinated *g = list;
        list = g->dirty_next;
        g->listed = false;
        if (e == OK && g->deleting) {
            drop(c, g);
            continue;
        }
        if (e == OK) {
            struct buf was = g->stored;
            g->stored = g->next;
            g->next = was;
            buf_trim(&g->next, 0);
        } else {
            g->deleting = false;
            take_back(c, g);
        }
    }
}

/* --- joining --------------------------------------------------------------------------------- */

/* "client-01234567-89ab-…", as Kafka's own; with the instance id instead where there is one. */
static struct slice fresh_id(char *out, struct slice prefix)
{
    static const char hex[] = "0123456789abcdef";
    uint8_t b[16];
    random_bytes(b, sizeof b);
    size_t n = prefix.len < MEMBER_ID_PREFIX_BYTES_MAX ? prefix.len : MEMBER_ID_PREFIX_BYTES_MAX;
    if (n > 0) {
        memcpy(out, prefix.data, n);
    }
    out[n++] = '-';
    for (size_t i = 0; i < sizeof b; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10) {
            out[n++] = '-';
        }
        out[n++] = hex[b[i] >> 4];
        out[n++] = hex[b[i] & 15];
    }
    return slice_make(out, n);
}

enum kerr coordinator_check_call(const struct coordinator *c, struct slice group_id)
{
    if (c == NULL) {
        return KERR_COORDINATOR_NOT_AVAILABLE;
    }
    return group_id.len > 0 && group_id.len <= GROUP_ID_BYTES_MAX ? KERR_NONE
                                                                  : KERR_INVALID_GROUP_ID;
}

void coordinator_join(struct coordinator *c, struct slice group_id, struct group_join *ev,
                      struct group_call *call)
{
    struct coordinated *g = coordinated_find(c, group_id);
    call_begin(c, call, g);
    enum kerr e = coordinator_check_call(c, group_id);
    if (e == KERR_NONE && c->stopping) {
        e = KERR_COORDINATOR_NOT_AVAILABLE;
    }
    if (e == KERR_NONE && g == NULL && ev->member_id.len > 0) {
        e = KERR_UNKNOWN_MEMBER_ID;
    }
    if (e == KERR_NONE && g != NULL && g->consumer != NULL && g->consumer->members == NULL &&
        !coordinator_forget_empty_consumer(c, g)) {
        e = KERR_COORDINATOR_NOT_AVAILABLE;
    }
    if (e == KERR_NONE && ev->member_id.len == 0 && c->bytes > COORDINATOR_BYTES_MAX) {
        e = KERR_GROUP_MAX_SIZE_REACHED;
    }
    if (e == KERR_NONE && g == NULL) {
        g = coordinated_find_or_make(c, group_id);
        e = g != NULL ? KERR_NONE : KERR_COORDINATOR_NOT_AVAILABLE;
    }
    if (e != KERR_NONE) {
        reply_error(call, e, ev->member_id);
        return;
    }
    char id[MEMBER_ID_PREFIX_BYTES_MAX + 1 + UUID_HEX_BYTES];
    ev->fresh_id = fresh_id(id, ev->instance_id.data != NULL ? ev->instance_id : ev->client_id);
    if (ev->client_id.len > GROUP_NAME_BYTES_MAX) {
        ev->client_id.len = GROUP_NAME_BYTES_MAX;
    }
    ev->token = call;
    call->group = g;
    if (g->consumer != NULL) {
        coordinator_consumer_join(c, g, ev, call);
        return;
    }
    group_on_join(g->group, ev, coordinator_now(), &coordinator_sink);
    coordinated_touched(c, g);
    coordinated_forget_if_new(c, g);
}

void coordinator_sync(struct coordinator *c, struct slice group_id, struct group_sync *ev,
                      struct group_call *call)
{
    struct coordinated *g = coordinated_find(c, group_id);
    call_begin(c, call, g);
    enum kerr e = coordinator_check_call(c, group_id);
    if (e == KERR_NONE) {
        e = c->stopping ? KERR_COORDINATOR_NOT_AVAILABLE
            : g == NULL ? KERR_UNKNOWN_MEMBER_ID
                        : KERR_NONE;
    }
    if (e != KERR_NONE) {
        reply_error(call, e, ev->member_id);
        return;
    }
    if (g->consumer != NULL) {
        coordinator_consumer_sync(c, g, ev, call);
        return;
    }
    ev->token = call;
    group_on_sync(g->group, ev, coordinator_now(), &coordinator_sink);
    coordinated_touched(c, g);
}

void coordinator_cancel(struct coordinator *c, struct group_call *call)
{
    if (journal_waits(&call->wait)) {
        journal_forget(c->journal, &call->wait);
        return;
    }
    group_on_cancel(call->group->group, call, coordinator_now(), &coordinator_sink);
    coordinated_touched(c, call->group);
}

enum kerr coordinator_heartbeat(struct coordinator *c, struct slice group_id, int32_t generation,
                                struct slice member_id, struct slice instance_id)
{
    enum kerr e = coordinator_check_call(c, group_id);
    if (e != KERR_NONE) {
        return e;
    }
    struct coordinated *g = coordinated_find(c, group_id);
    if (g == NULL) {
        return KERR_UNKNOWN_MEMBER_ID;
    }
    e = g->consumer != NULL
            ? cgroup_on_classic_heartbeat(g->consumer, generation, member_id, instance_id,
                                          coordinator_now())
            : group_on_heartbeat(g->group, generation, member_id, instance_id, coordinator_now());
    coordinated_touched(c, g);
    return e;
}

enum kerr coordinator_leave(struct coordinator *c, struct slice group_id, struct slice member_id,
                            struct slice instance_id)
{
    enum kerr e = coordinator_check_call(c, group_id);
    if (e != KERR_NONE) {
        return e;
    }
    struct coordinated *g = coordinated_find(c, group_id);
    if (g == NULL) {
        return KERR_UNKNOWN_MEMBER_ID;
    }
    e = g->consumer != NULL ? cgroup_on_leave(g->consumer, member_id, instance_id)
                            : group_on_leave(g->group, member_id, instance_id, coordinator_now(),
                                             &coordinator_sink);
    coordinated_touched(c, g);
    coordinator_maybe_downgrade(c, g);
    return e;
}

static void delete_group(struct coordinator *c, struct coordinated *g)
{
    group_kill(g->group, KERR_COORDINATOR_NOT_AVAILABLE, &coordinator_sink);
    g->deleting = true;
    list_dirty(c, g);
}

enum kerr coordinator_delete_group(struct coordinator *c, struct slice group_id)
{
    if (c == NULL) {
        return KERR_COORDINATOR_NOT_AVAILABLE;
    }
    struct coordinated *g = coordinated_find(c, group_id);
    if (g == NULL || g->group->state == GROUP_DEAD) {
        return KERR_GROUP_ID_NOT_FOUND;
    }
    if (g->group->state != GROUP_EMPTY || (g->consumer != NULL && g->consumer->members != NULL)) {
        return KERR_NON_EMPTY_GROUP;
    }
    delete_group(c, g);
    return KERR_NONE;
}

/* --- time passes ----------------------------------------------------------------------------- */

/* What a group subscribes to, asked for one topic after the other: entries of one topic mostly
 * stand together, and the answer may take the compilation of a pattern. */
struct subscription {
    struct slice topic; /* asked for last */
    bool is;
};

static bool subscribes(const struct coordinated *g, struct slice topic, struct subscription *s)
{
    if (s->topic.data == NULL || !slice_eq(s->topic, topic)) {
        s->topic = topic;
        s->is = g->consumer != NULL ? cgroup_subscribes(g->consumer, topic)
                                    : group_subscribes(g->group, topic);
    }
    return s->is;
}

/* Is this offset past its time? Kafka's rules, by what the group is. Its age comes first: nearly
 * none is old, and a subscription may be expensive to look at. */
static bool expired(const struct coordinator *c, const struct coordinated *x,
                    const struct offset_entry *e, int64_t wall_ms, struct subscription *s)
{
    const struct group *g = x->group;
    int64_t base_ms = e->row.commit_ms;
    bool member_less = x->consumer == NULL && g->protocol_type.data == NULL;
    bool empty = x->consumer == NULL && !member_less && g->state == GROUP_EMPTY;
    if (empty && g->empty_since_wall_ms >= 0) {
        base_ms = g->empty_since_wall_ms;
    }
    /* What was written before the clock was set has no age, or all would expire then. */
    if (base_ms < CLOCK_SET_MS || !offset_expired(e, base_ms, c->retention_ms, wall_ms)) {
        return false;
    }
    if (member_less || empty) {
        return true;
    }
    bool knows = x->consumer != NULL || (g->state == GROUP_STABLE && group_is_consumer(g));
    return knows && !subscribes(x, e->topic, s);
}

/* Nobody is in it, so it goes with its last offset. */
static bool is_left(const struct coordinated *g)
{
    return g->group->state == GROUP_EMPTY && g->group->pending_count == 0 &&
           (g->consumer == NULL || g->consumer->members == NULL);
}

static bool all_expired(const struct coordinator *c, const struct coordinated *g, int64_t wall_ms)
{
    struct subscription s = {0};
    const struct offset_entry *e = g->offsets.entries;
    while (e != NULL && expired(c, g, e, wall_ms, &s)) {
        e = e->hh.next;
    }
    return e == NULL;
}

/* Returns what it cost. Where all offsets go, the group does, and deletes their rows itself. */
static size_t sweep_group(struct coordinator *c, struct coordinated *g, int64_t wall_ms)
{
    if (g->group->state == GROUP_DEAD || g->staged > 0 || g->held > 0) {
        return SWEEP_LOOK_BYTES; /* busy: the next sweep looks again */
    }
    size_t row_bytes = SWEEP_ROW_BYTES + g->group->id.len;
    if (is_left(g) && all_expired(c, g, wall_ms)) {
        log_info("group removed group=%.*s offsets_expired=%zu", (int)g->group->id.len,
                 (const char *)g->group->id.data, g->offsets.count);
        delete_group(c, g);
        return (g->offsets.count + 1) * row_bytes;
    }
    size_t cost = (g->offsets.count + 1) * SWEEP_LOOK_BYTES;
    struct subscription s = {0};
    for (struct offset_entry *e = g->offsets.entries; e != NULL; e = e->hh.next) {
        if (expired(c, g, e, wall_ms, &s) &&
            coordinator_stage_removal(c, g, e->topic, e->partition)) {
            cost += row_bytes;
        }
    }
    return cost;
}

/* Goes on where the turn before stopped. False: there is more to do. */
static bool sweep(struct coordinator *c, int64_t wall_ms)
{
    struct coordinated *g = c->sweep_next != NULL ? c->sweep_next : c->groups;
    size_t cost = 0;
    while (g != NULL && cost < JOURNAL_TURN_BYTES) {
        struct coordinated *next = g->hh.next;
        cost += sweep_group(c, g, wall_ms);
        coordinated_forget_if_new(c, g);
        g = next;
    }
    c->sweep_next = g;
    return g == NULL;
}

static int32_t member_count_of(const struct coordinated *g)
{
    return g->consumer != NULL ? g->consumer->member_count : g->group->member_count;
}

static void tick_group(struct coordinator *c, struct coordinated *g, struct group_time now)
{
    int32_t before = member_count_of(g);
    if (g->consumer != NULL) {
        cgroup_on_tick(g->consumer, now);
    } else {
        group_on_tick(g->group, now, &coordinator_sink);
    }
    if (member_count_of(g) < before) {
        log_info("members were not heard of in time group=%.*s gone=%d left=%d",
                 (int)g->group->id.len, (const char *)g->group->id.data,
                 before - member_count_of(g), member_count_of(g));
    }
    coordinated_touched(c, g);
    coordinator_maybe_downgrade(c, g);
}

/* Was the whole loop held up (the process stopped, the disk hung)? Then clients may have sent signs
 * of life that wait in their sockets: they are heard first. Once: a machine that is always late
 * must not keep the dead alive. */
static bool held_up(struct coordinator *c, int64_t now_ms)
{
    bool late = c->grace_ms == 0 && now_ms - c->wake_ms >= HELD_UP_MS;
    c->grace_ms = late ? now_ms + HELD_UP_GRACE_MS : 0;
    return late;
}

int64_t coordinator_deadline_ms(const struct coordinator *c)
{
    int64_t wake_ms = c->wake_ms > c->grace_ms ? c->wake_ms : c->grace_ms;
    return wake_ms < c->sweep_ms ? wake_ms : c->sweep_ms;
}

void coordinator_tick(struct coordinator *c, int64_t now_ms)
{
    if (now_ms < coordinator_deadline_ms(c)) {
        return;
    }
    const struct group_time now = {.mono_ms = now_ms, .wall_ms = clock_wall_ms()};
    if (now_ms >= c->wake_ms && now_ms >= c->grace_ms && !held_up(c, now_ms)) {
        c->wake_ms = INT64_MAX;
        struct coordinated *g, *next;
        HASH_ITER(hh, c->groups, g, next)
        {
            tick_group(c, g, now);
            coordinated_forget_if_new(c, g);
        }
    }
    if (now_ms >= c->sweep_ms && sweep(c, now.wall_ms)) {
        c->sweep_ms = now_ms + c->sweep_interval_ms;
    }
}

/* --- coming and going ------------------------------------------------------------------------ */

struct load {
    struct coordinator *c;
    enum err e;
    size_t groups, offsets, corrupt;
};

static bool load_group(void *arg, struct slice key, struct slice value)
{
    struct load *l = arg;
    struct slice id;
    struct group *group = NULL;
    struct cgroup *consumer = NULL;
    bool corrupt = !group_row_key_parse(key, &id) || value.len == 0;
    if (!corrupt) {
        decode(l->c, id, value, &group, &consumer, &corrupt);
    }
    if (corrupt) {
        l->corrupt++;
        return true;
    }
    struct coordinated *g = add(l->c, group, consumer);
    if (g != NULL) {
        buf_put(&g->stored, value.data, value.len);
        g->logged = generation_of(g);
        l->groups++;
    }
    if (g == NULL || !buf_ok(&g->stored)) {
        l->e = ERR_NOMEM;
    }
    return l->e == OK;
}

static bool load_offset(void *arg, struct slice key, struct slice value)
{
    struct load *l = arg;
    struct slice id, topic;
    int32_t partition;
    struct offset_row row;
    if (!offset_row_key_parse(key, &id, &topic, &partition) || !offset_row_decode(value, &row)) {
        l->corrupt++;
        return true;
    }
    struct coordinated *g = coordinated_find_or_restore(l->c, id);
    struct offset_entry *e =
        g != NULL ? offset_entry_new(&l->c->offset_topics, g, topic, partition, &row) : NULL;
    if (e == NULL) {
        l->e = ERR_NOMEM;
        return false;
    }
    offsets_put(&g->offsets, e);
    l->c->offset_count++;
    l->offsets++;
    return true;
}

void coordinator_begin(struct coordinator *c, int64_t now_ms)
{
    const struct group_time now = {.mono_ms = now_ms, .wall_ms = clock_wall_ms()};
    c->wake_ms = INT64_MAX;
    for (struct coordinated *g = c->groups; g != NULL; g = g->hh.next) {
        on_load(g, now);
        coordinated_touched(c, g);
    }
}

static enum err load_all(struct coordinator *c, int64_t now_ms, struct errmsg *m)
{
    struct load l = {.c = c};
    enum err e = coordinator_config_load(c, m);
    if (e == OK) {
        e = journal_scan(c->journal, slice_str(GROUP_ROW_PREFIX), load_group, &l, m);
    }
    if (e == OK && l.e == OK) {
        e = journal_scan(c->journal, slice_str(OFFSET_ROW_PREFIX), load_offset, &l, m);
    }
    if (e == OK && l.e != OK) {
        e = err_set(m, l.e, "no memory for the consumer groups");
    }
    if (l.corrupt > 0) {
        log_error("rows of consumer groups cannot be read and are passed over rows=%zu", l.corrupt);
    }
    coordinator_begin(c, now_ms);
    if (e == OK && l.groups + l.offsets > 0) {
        log_info("groups loaded groups=%zu offsets=%zu", l.groups, l.offsets);
    }
    return e;
}

void coordinator_reload(struct coordinator *c, const struct config_server *cfg)
{
    c->limits.initial_delay_ms = cfg->group_initial_rebalance_delay_ms;
    c->limits.session_min_ms = cfg->group_min_session_timeout_ms;
    c->limits.session_max_ms = cfg->group_max_session_timeout_ms;
    c->limits.size_max = cfg->group_max_size;
    c->retention_ms = cfg->offsets_retention_minutes * 60000;
    c->sweep_interval_ms = cfg->offsets_retention_check_interval_ms;
    c->metadata_bytes_max = cfg->offset_metadata_max_bytes;
    coordinator_consumer_reload(c, cfg);
}

enum err coordinator_open(struct coordinator **out, struct journal *j,
                          const struct config_server *cfg, int64_t now_ms, struct errmsg *m)
{
    struct coordinator *c = calloc(1, sizeof *c);
    *out = NULL;
    if (c == NULL) {
        return err_set(m, ERR_NOMEM, "no memory for the group coordinator");
    }
    c->journal = j;
    c->owner = (struct journal_owner){.write = write_rows, .done = commit_done};
    coordinator_reload(c, cfg);
    c->topics.version = 1;
    c->wake_ms = INT64_MAX;
    c->sweep_ms = now_ms + c->sweep_interval_ms;
    buf_init(&c->key, ROW_KEY_BYTES_MAX);
    buf_init(&c->value, OFFSET_ROW_BYTES_MAX);
    journal_add_owner(j, &c->owner);
    enum err e = load_all(c, now_ms, m);
    if (e != OK) {
        coordinator_close(c);
        return e;
    }
    *out = c;
    return OK;
}

void coordinator_stop(struct coordinator *c)
{
    c->stopping = true;
    for (struct coordinated *g = c->groups; g != NULL; g = g->hh.next) {
        group_answer_parked(g->group, KERR_COORDINATOR_NOT_AVAILABLE, &coordinator_sink);
    }
}

void coordinator_detach(struct coordinator *c)
{
    coordinator_stop(c);
    journal_flush(c->journal);
    journal_remove_owner(c->journal, &c->owner);
    c->journal = NULL;
}

void coordinator_free(struct coordinator *c)
{
    if (c == NULL) {
        return;
    }
    struct coordinated *g, *next;
    HASH_ITER(hh, c->groups, g, next)
    {
        drop(c, g);
    }
    coordinator_consumer_fini(c);
    coordinator_config_fini(c);
    free(c->staged);
    buf_fini(&c->key);
    buf_fini(&c->value);
    free(c);
}

void coordinator_close(struct coordinator *c)
{
    if (c != NULL) {
        coordinator_detach(c);
        coordinator_free(c);
    }
}

/* --- what there is --------------------------------------------------------------------------- */

const struct group *coordinator_find(const struct coordinator *c, struct slice group_id)
{
    const struct coordinated *g = coordinated_find(c, group_id);
    return g != NULL && g->consumer == NULL ? g->group : NULL;
}

const struct offsets *coordinator_offsets(const struct coordinator *c, struct slice group_id)
{
    const struct coordinated *g = coordinated_find(c, group_id);
    return g != NULL ? &g->offsets : NULL;
}

size_t coordinator_count(const struct coordinator *c)
{
    return c != NULL ? HASH_COUNT(c->groups) : 0;
}

void coordinator_each(const struct coordinator *c, coordinator_each_fn *fn, void *arg)
{
    for (const struct coordinated *g = c != NULL ? c->groups : NULL; g != NULL; g = g->hh.next) {
        if (!fn(arg, g->group, g->consumer)) {
            return;
        }
    }
}
