/* What makes one server of the parts, and its loop.
 *
 * Start: the own store (groups, offsets) is opened before anything else; the captured one, which
 * has to read the broker's log, by a worker. The sockets listen at once, so that a client that
 * starts with us is not refused, but no request but ApiVersions is handled before the captured
 * store is open or known not to be there (HOLD_MS at most): a client that has waited some
 * milliseconds is better off than one that was told that its topics do not exist.
 *
 * Stores that are not there (no data directory yet, no plugin yet, a full disk, an own store that
 * broke) are looked for once a second, for ever, and said once. Everything else works meanwhile:
 * history is served without the own store, and requests for groups are told to try again. What does
 * not mend itself (another server on the directory, permissions, another format) ends the start.
 *
 * Stop: no new connections and no new requests; parked ones are answered with what they have; the
 * loop goes on until all replies have left or SERVER_STOP_MS are over. */
#include "kafka-server/server.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <systemd/sd-daemon.h>

#include "kafka-server/api/api.h"
#include "kafka-server/broker/append.h"
#include "kafka-server/broker/bound_names.h"
#include "kafka-server/broker/coordinator.h"
#include "kafka-server/broker/journal.h"
#include "kafka-server/broker/session.h"
#include "kafka-server/broker/topic_admin.h"
#include "kafka-server/broker/topics.h"
#include "kafka-server/broker/watch.h"
#include "kafka-server/broker/workers.h"
#include "kafka-server/net/net.h"
#include "kafka-server/own_state.h"
#include "shared/base/clock.h"
#include "shared/base/log.h"
#include "shared/config/options.h"
#include "shared/store/store.h"

#define HOLD_MS        10000
#define TICK_MS        200
#define LOCKED_WAIT_MS 2000
#define LOCKED_STEP_MS 20
#define LOOK_MS        1000  /* between two looks for a store that is not there */
#define LOOK_SLOW_MS   30000 /* between two lines about one that cannot be opened */
#define STOP_GRACE_MS  (SERVER_STOP_MS - 500) /* for replies; the rest is for closing */
#define TRIM_MS        3000         /* quiet for so long: memory kept for reads goes back … */
#define TRIM_BYTES     (8u << 20)   /* … if it is worth the walk */
#define TURNS_MAX      16           /* of commit and write, before events get their turn again … */
#define TURN_MS        10           /* … and no more after so long */
#define DISPATCH_US    2000         /* handlers run for so long, then what they did is committed */
#define SESSIONS_BYTES (128u << 20) /* of what fetch sessions remember */

enum { ON_TERM, ON_INT, ON_HUP, SIGNALS };

struct server_internal {
    int wake_fd; /* written by workers and watching threads */
    struct event *wake, *tick, *timer, *watchdog, *stop_timer;
    struct event *signals[SIGNALS];
    int64_t timer_ms; /* the deadline that `timer` is set to; INT64_MAX: none */
    int64_t next_own_ms, next_captured_ms; /* next look for a store */
    int64_t hold_until_ms;                 /* the latest end of server.holding */
    enum err own_result;                   /* of the last try to open the own store */
    bool said_own, said_captured, ready, stopped;
    uint64_t work_seen; /* submitted at the last tick */
    int64_t quiet_ms;   /* since when nothing is read from disk, or the last look at memory */
    struct log_limit own_limit, captured_limit, tick_limit;
    char dir_own[4096], dir_captured[4096], dir_follower[4096];

    struct store *leaving; /* the own store, broken: to be closed when no worker reads it */
    struct own_opening own;
    struct work open_work; /* opens the captured store */
    bool opening;
    struct server *server;
    struct store *opened;
    enum err open_result;
    struct errmsg open_message;
};

bool server_has_room(const struct server *s)
{
    return s->requests_in_flight < s->config.server.requests_in_flight_max;
}

/* --- threads poke the loop ------------------------------------------------------------------- */

static void poke(void *arg)
{
    struct server *s = arg;
    uint64_t one = 1;
    /* EAGAIN: 2^64 pokes are waiting already. */
    ssize_t n = write(s->in->wake_fd, &one, sizeof one);
    (void)n;
}

static void on_wake(evutil_socket_t fd, short what, void *arg)
{
    struct server *s = arg;
    uint64_t count;
    ssize_t n = read(fd, &count, sizeof count); /* EAGAIN: woken by ourselves */
    (void)n;
    workers_reap(s->workers);
    workers_reap(s->asking);
    workers_reap(s->judges);
    workers_reap(s->opener);
    watches_check(s->watches);
}

/* --- the own store --------------------------------------------------------------------------- */

static struct store_options own_options(const struct server *s)
{
    const struct config_server *c = &s->config.server;
    return (struct store_options){.dir = s->in->dir_own,
                                  .role = STORE_WRITER,
                                  .limit_bytes = (uint64_t)c->store_limit_bytes,
                                  .segment_bytes = (uint64_t)c->store_segment_bytes,
                                  .tail_bytes = (uint64_t)c->store_tail_bytes,
                                  .flush_interval_ms = (uint32_t)c->store_flush_interval_ms,
                                  .cache_bytes = (uint64_t)s->config.store.cache_bytes};
}

/* A server that was killed holds its lock until the kernel is done with it. */
static enum err open_patiently(struct server *s, struct errmsg *m)
{
    static const struct timespec step = {0, LOCKED_STEP_MS * 1000000L};
    const struct store_options o = own_options(s);
    enum err e = store_open(&s->own, &o, m);
    for (int waited = 0; e == ERR_LOCKED && waited < LOCKED_WAIT_MS; waited += LOCKED_STEP_MS) {
        nanosleep(&step, NULL);
        e = store_open(&s->own, &o, m);
    }
    return e;
}

static enum err check_data_directory(const struct server *s, struct errmsg *m)
{
    struct stat st;
    if (stat(s->config.data, &st) == 0) {
        return OK;
    }
    int code = errno;
    return err_set(m, code == ENOENT ? ERR_NOT_FOUND : ERR_IO, "%s: %s", s->config.data,
                   strerror(code));
}

static void apply_defaults(struct server *s)
{
    const struct topic_admin a = {.own = s->own, .topics = s->topics, .config = &s->config};
    topic_apply_defaults(&a);
}

/* s->own is open, and r was read of it: what belongs to it, too. */
static enum err take_own_parts(struct server *s, struct own_read *r, struct errmsg *m)
{
    enum err e = watches_add_store(s->watches, s->own);
    if (e != OK) {
        own_state_drop(r);
        return err_set(m, e, "cannot watch %s: no thread", s->in->dir_own);
    }
    own_state_take(s, r);
    topics_set_stores(s->topics, s->own, s->captured);
    apply_defaults(s);
    return OK;
}

/* All of it or nothing. e: of opening s->own, and of reading r. */
static enum err take_own(struct server *s, enum err e, struct own_read *r, struct errmsg *m)
{
    e = e == OK ? take_own_parts(s, r, m) : e;
    if (e != OK && s->own != NULL) {
        store_close(s->own);
        s->own = NULL;
    }
    s->in->own_result = e;
    s->own_away = e != OK && (s->own_away || e != ERR_NOT_FOUND);
    return e;
}

/* At the start: who connects waits anyway. */
static enum err open_own(struct server *s, struct errmsg *m)
{
    struct own_read *r = NULL;
    enum err e = check_data_directory(s, m);
    e = e == OK ? open_patiently(s, m) : e;
    e = e == OK ? own_state_read(&r, s->own, &s->config.server, s->cluster_id, m) : e;
    e = take_own(s, e, r, m);
    own_state_drop(e == OK ? r : NULL);
    return e;
}

/* Is this over when somebody else has done something? */
static bool is_passing(enum err e)
{
    return e == ERR_NOT_FOUND || e == ERR_FULL;
}

static void say_own_fails(struct server *s, enum err e, const struct errmsg *m)
{
    struct server_internal *in = s->in;
    unsigned held;
    if (e == ERR_NOT_FOUND && !in->said_own) {
        in->said_own = true;
        log_warn("there is no data directory yet: waiting for it dir=%s", s->config.data);
    } else if (e != ERR_NOT_FOUND && log_limit_pass(&in->own_limit, LOOK_SLOW_MS, &held)) {
        log_error("the server's own store cannot be opened, trying again: %s", m->text);
    }
}

/* Gives the own store up after a fault; look_for_own tries it again. It is closed when nobody on
 * another thread is inside any more. */
static void drop_own(struct server *s)
{
    struct store *own = s->own;
    log_error("the server's own store is broken: groups cannot commit, and clients cannot write, "
              "until it opens again dir=%s", s->in->dir_own);
    own_state_away(s);
    s->own = NULL;
    s->own_away = true;
    s->in->leaving = own;
    s->in->said_own = false;
    topics_set_stores(s->topics, NULL, s->captured);
    api_fetch_lose_store(s, own);
    watches_remove_store(s->watches, own);
    workers_new_generation(s->workers);
}

static void end_drop(struct server *s)
{
    if (s->in->leaving != NULL && !workers_busy_before(s->workers)) {
        store_close(s->in->leaving);
        s->in->leaving = NULL;
    }
}

static void done_open_own(struct work *w)
{
    struct own_opening *o = (struct own_opening *)w;
    struct server *s = o->server;
    o->busy = false;
    if (s->stopping || workers_closing(s->opener)) {
        own_state_drop(o->read);
        if (o->store != NULL) {
            store_close(o->store);
        }
        return;
    }
    s->own = o->store;
    enum err e = take_own(s, o->result, o->read, &o->message);
    if (e == OK) {
        own_opening_clear(o);
        log_info("the server's own store is open dir=%s", s->in->dir_own);
        s->in->next_captured_ms = 0;
    } else {
        say_own_fails(s, e, &o->message);
    }
}

/* By a thread of its own: to recover a store and to read it may take seconds, and clients are
 * served meanwhile. One that gives way to nobody, for the store's own threads are as it is. */
static void look_for_own(struct server *s, int64_t now_ms)
{
    struct server_internal *in = s->in;
    struct own_opening *o = &in->own;
    if (s->own != NULL || o->busy || in->leaving != NULL || now_ms < in->next_own_ms ||
        s->stopping) {
        return;
    }
    in->next_own_ms = now_ms + LOOK_MS;
    *o = (struct own_opening){.work = {.run = own_opening_run, .done = done_open_own},
                              .options = own_options(s),
                              .config = s->config.server,
                              .server = s};
    enum err e = check_data_directory(s, &o->message);
    if (e != OK) {
        say_own_fails(s, take_own(s, e, NULL, &o->message), &o->message);
        return;
    }
    o->busy = workers_submit(s->opener, &o->work) == OK;
}

/* --- the captured store ---------------------------------------------------------------------- */

static void run_open(struct work *w)
{
    struct server_internal *in =
        (struct server_internal *)((char *)w - offsetof(struct server_internal, open_work));
    struct store_options o = {.dir = in->dir_captured,
                              .role = STORE_FOLLOWER,
                              .follower_dir = in->dir_follower,
                              .cache_bytes = (uint64_t)in->server->config.store.cache_bytes};
    in->opened = NULL;
    in->open_message.text[0] = '\0';
    in->open_result = store_open(&in->opened, &o, &in->open_message);
}

static void take_captured(struct server *s)
{
    struct server_internal *in = s->in;
    s->captured = in->opened;
    s->captured_known = true;
    in->opened = NULL;
    if (watches_add_store(s->watches, s->captured) != OK) {
        log_error("the captured streams cannot be watched: no thread");
    }
    topics_set_stores(s->topics, s->own, s->captured);
    log_info("captured streams are open dir=%s topics=%zu broker=%s", in->dir_captured,
             topics_count(s->topics), store_writer_alive(s->captured) ? "running" : "down");
}

/* Where there is none, and not one in the making, the topics of the own store are all there are:
 * they are told once more. */
static void miss_captured(struct server *s, bool none)
{
    struct server_internal *in = s->in;
    if (!in->said_captured) {
        log_warn("nothing is captured yet: waiting for the broker's plugin dir=%s",
                 in->dir_captured);
    }
    in->said_captured = true;
    if (none && !s->captured_known) {
        s->captured_known = true;
        topics_set_stores(s->topics, s->own, NULL);
    }
}

static void end_hold(struct server *s)
{
    if (s->holding) {
        s->holding = false;
        api_release_held(s);
    }
}

static void done_open(struct work *w)
{
    struct server_internal *in =
        (struct server_internal *)((char *)w - offsetof(struct server_internal, open_work));
    struct server *s = in->server;
    unsigned held;
    in->opening = false;
    if (workers_closing(s->workers)) {
        if (in->opened != NULL) {
            store_close(in->opened);
        }
    } else if (in->open_result == OK) {
        take_captured(s);
    } else if (in->open_result == ERR_NOT_FOUND || in->open_result == ERR_AGAIN) {
        miss_captured(s, in->open_result == ERR_NOT_FOUND);
    } else if (log_limit_pass(&in->captured_limit, LOOK_SLOW_MS, &held)) {
        log_error("the captured streams cannot be opened, trying again: %s", in->open_message.text);
    }
    if (!workers_closing(s->workers)) {
        end_hold(s);
    }
}

static void look_for_captured(struct server *s, int64_t now_ms)
{
    struct server_internal *in = s->in;
    /* The follower has a directory in that of the own store, which a full disk leaves there. */
    bool has_place = s->own != NULL || in->own_result == ERR_FULL;
    if (s->captured != NULL || in->opening || now_ms < in->next_captured_ms || !has_place ||
        s->stopping) {
        return;
    }
    in->next_captured_ms = now_ms + LOOK_MS;
    in->open_work = (struct work){.run = run_open, .done = done_open};
    in->opening = workers_submit(s->workers, &in->open_work) == OK;
}

/* --- timers ---------------------------------------------------------------------------------- */

static void say_ready(struct server *s)
{
    if (!s->in->ready && !s->holding) {
        s->in->ready = true;
        sd_notify(0, "READY=1");
        log_info("ready listeners=%zu topics=%zu", net_listener_count(s->net),
                 topics_count(s->topics));
    }
}

/* Gives memory that the allocator has kept back to the system when nobody reads history: what
 * readers have freed, and the follower, which builds and drops memtables as the writer writes. */
static void trim_memory(struct server *s, int64_t now_ms)
{
    struct server_internal *in = s->in;
    if (workers_submitted(s->workers) != in->work_seen) {
        in->work_seen = workers_submitted(s->workers);
        in->quiet_ms = now_ms;
    } else if (now_ms - in->quiet_ms > TRIM_MS) {
        in->quiet_ms = now_ms;
        if (mallinfo2().fordblks > TRIM_BYTES) {
            malloc_trim(0);
        }
    }
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
    struct server *s = arg;
    struct server_internal *in = s->in;
    struct errmsg m = {.text = ""};
    int64_t now_ms = clock_mono_ms();
    if (s->holding && now_ms >= in->hold_until_ms) {
        log_warn("opening the captured streams takes long: clients are told that there are none");
        end_hold(s);
    }
    if (s->own != NULL) {
        enum err e = store_tick(s->own, clock_wall_ms(), &m);
        unsigned held;
        if (e != OK && log_limit_pass(&in->tick_limit, LOOK_SLOW_MS, &held)) {
            log_error("housekeeping of the server's own store failed: %s", m.text);
        }
        own_state_tick(s, now_ms);
        if (store_state(s->own) == STORE_BROKEN) {
            drop_own(s);
        }
    }
    end_drop(s);
    look_for_own(s, now_ms);
    look_for_captured(s, now_ms);
    say_ready(s);
    trim_memory(s, now_ms);
}

static void on_coordinator_timer(evutil_socket_t fd, short what, void *arg)
{
    struct server *s = arg;
    s->in->timer_ms = INT64_MAX;
    if (s->coordinator != NULL) {
        coordinator_tick(s->coordinator, clock_mono_ms());
    }
}

/* Not while requests are held: members whose signs of life wait there must not be taken for dead.
 * The first tick after that is late, and so gives the others a moment, too. */
static void arm_coordinator_timer(struct server *s)
{
    if (s->coordinator == NULL || s->holding) {
        return;
    }
    int64_t deadline_ms = coordinator_deadline_ms(s->coordinator);
    if (deadline_ms == s->in->timer_ms) {
        return;
    }
    s->in->timer_ms = deadline_ms;
    if (deadline_ms == INT64_MAX) {
        event_del(s->in->timer);
        return;
    }
    int64_t wait_ms = deadline_ms - clock_mono_ms();
    wait_ms = wait_ms > 0 ? wait_ms : 0;
    struct timeval tv = {wait_ms / 1000, wait_ms % 1000 * 1000};
    event_add(s->in->timer, &tv);
}

static void on_watchdog(evutil_socket_t fd, short what, void *arg)
{
    sd_notify(0, "WATCHDOG=1");
}

static void start_watchdog(struct server *s)
{
    uint64_t every_us;
    if (sd_watchdog_enabled(0, &every_us) <= 0) {
        return;
    }
    s->in->watchdog = event_new(s->base, -1, EV_PERSIST, on_watchdog, s);
    every_us /= 2;
    struct timeval tv = {(time_t)(every_us / 1000000), (suseconds_t)(every_us % 1000000)};
    if (s->in->watchdog != NULL) {
        event_add(s->in->watchdog, &tv);
    }
}

/* --- signals --------------------------------------------------------------------------------- */

static void apply_logging(const struct config_server *c)
{
    struct errmsg m;
    int level = log_level_parse(c->log_level);
    log_set_level(level >= 0 ? (enum log_level)level : LOG_INFO);
    if (c->log_file[0] == '\0') {
        log_close_file();
    } else if (log_open_file(c->log_file, &m) != OK) {
        log_error("the log file cannot be opened, logging goes on as before: %s", m.text);
    }
}

/* Takes a changed row over, or says that it needs a restart. */
static void apply_row(struct server *s, const struct config *fresh, size_t i, struct buf *was,
                      struct buf *is)
{
    struct option_view v;
    struct errmsg m;
    option_view(i, &v);
    if (strcmp(v.section, "stream") == 0) {
        return;
    }
    buf_reset(was);
    buf_reset(is);
    option_value_text(&s->config, i, was);
    option_value_text(fresh, i, is);
    if (strcmp(buf_text(was), buf_text(is)) == 0) {
        return;
    }
    bool own = strcmp(v.section, "server") == 0;
    if (!own && v.reload) {
        return; /* the broker's, which applies it at its own SIGHUP */
    }
    if (!own || !v.reload) {
        log_warn("setting changed, but needs a restart name=%s was=\"%s\" is=\"%s\"", v.name,
                 buf_text(was), buf_text(is));
    } else if (option_set_text(&option_rows[i], &s->config, buf_text(is), &m) == OK) {
        log_info("setting changed name=%s was=\"%s\" is=\"%s\"", v.name, buf_text(was),
                 buf_text(is));
    }
}

static struct net_options net_options_of(const struct config_server *c)
{
    return (struct net_options){
        .frame_bytes_max = (size_t)c->socket_request_max_bytes,
        .memory_bytes_max = (size_t)c->queued_max_request_bytes,
        .connections_max = c->max_connections,
        .connections_per_ip_max = c->max_connections_per_ip,
        .idle_ms = c->connections_max_idle_ms,
    };
}

/* What the broker refuses, is refused here, too. */
static enum err check_streams(struct server *s, struct config *fresh)
{
    topics_refresh(s->topics);
    for (size_t i = 0; i < fresh->stream_count; i++) {
        const struct topic *t = topics_find(s->topics, slice_str(fresh->streams[i].name));
        if (t != NULL && t->captured) {
            config_check_partitions(fresh, i, t->row->partition_count, &fresh->mistakes);
        }
    }
    return fresh->mistakes.len == 0 ? OK : ERR_INVALID;
}

/* False: there is a mistake, which was said, and nothing has changed. */
static bool reload(struct server *s)
{
    struct config fresh;
    struct buf was, is;
    enum err e = config_init(&fresh);
    e = e == OK ? config_load(&fresh, s->config.path) : e;
    e = e == OK && s->config.data_given ? config_give_data(&fresh, "--data", s->config.data) : e;
    e = e == OK ? check_streams(s, &fresh) : e;
    log_lines(LOG_ERROR, buf_text(&fresh.mistakes));
    log_lines(LOG_WARN, buf_text(&fresh.warnings));
    buf_init(&was, CONFIG_FILE_BYTES_MAX);
    buf_init(&is, CONFIG_FILE_BYTES_MAX);
    for (size_t i = 0; e == OK && i < option_count(); i++) {
        apply_row(s, &fresh, i, &was, &is);
        s->config.said[i] = fresh.said[i];
    }
    buf_fini(&was);
    buf_fini(&is);
    config_fini(&fresh);
    return e == OK;
}

static void on_hup(evutil_socket_t fd, short what, void *arg)
{
    struct server *s = arg;
    sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%lld", (long long)clock_mono_us());
    apply_logging(&s->config.server); /* first: what is said from here on is in the new file */
    if (reload(s)) {
        apply_logging(&s->config.server);
        own_state_reload(s);
        topics_forget_settings(s->topics);
        if (s->own != NULL) {
            apply_defaults(s);
        }
        const struct net_options o = net_options_of(&s->config.server);
        net_set_options(s->net, &o);
        log_info("configuration read again");
    } else {
        log_error("configuration not taken over: it stays as it was");
    }
    sd_notify(0, "READY=1");
}

static void on_stop_timer(evutil_socket_t fd, short what, void *arg)
{
    struct server *s = arg;
    log_warn("stopping with requests unanswered in_flight=%d unsent_bytes=%zu",
             s->requests_in_flight, net_unsent_bytes(s->net));
    s->in->stopped = true;
}

void server_stop(struct server *s)
{
    if (s->stopping) {
        return;
    }
    s->stopping = true;
    end_hold(s);
    log_info("stopping in_flight=%d connections=%d", s->requests_in_flight,
             net_connection_count(s->net));
    sd_notify(0, "STOPPING=1");
    net_stop(s->net);
    api_fetch_stop(s);
    atomic_store(&s->asking_ends, true);
    if (s->coordinator != NULL) {
        coordinator_stop(s->coordinator);
    }
    struct timeval tv = {STOP_GRACE_MS / 1000, STOP_GRACE_MS % 1000 * 1000};
    event_add(s->in->stop_timer, &tv);
}

static void on_term(evutil_socket_t fd, short what, void *arg)
{
    server_stop(arg);
}

/* --- the loop -------------------------------------------------------------------------------- */

static void turn(struct server *s)
{
    bool more = true;
    int64_t began_ms = clock_mono_ms();
    for (int i = 0; i < TURNS_MAX && more && clock_mono_ms() - began_ms < TURN_MS; i++) {
        if (s->journal != NULL) {
            journal_flush(s->journal);
        }
        more = net_turn(s->net) || (s->journal != NULL && journal_pending(s->journal));
    }
    if (more) {
        event_active(s->in->wake, EV_READ, 0);
    }
    arm_coordinator_timer(s);
}

enum err server_run(struct server *s)
{
    while (!s->in->stopped) {
        if (event_base_loop(s->base, EVLOOP_ONCE) < 0) {
            log_error("the event loop failed error=\"%s\"", strerror(errno));
            return ERR_IO;
        }
        turn(s);
        say_ready(s);
        if (s->stopping && s->requests_in_flight == 0 && net_unsent_bytes(s->net) == 0) {
            s->in->stopped = true;
        }
    }
    return OK;
}

/* --- open and close -------------------------------------------------------------------------- */

/* A hundred connections that all have a large request must not make one turn: those that were not
 * heard in it are the first of the next. */
static struct event_base *loop_new(void)
{
    struct event_config *c = event_config_new();
    if (c == NULL) {
        return NULL;
    }
    struct timeval most = {0, DISPATCH_US};
    struct event_base *base = NULL;
    if (event_config_set_max_dispatch_interval(c, &most, -1, 0) == 0) {
        base = event_base_new_with_config(c);
    }
    event_config_free(c);
    return base;
}

static enum err open_loop(struct server *s, struct errmsg *m)
{
    struct server_internal *in = s->in;
    static const event_callback_fn handlers[SIGNALS] = {on_term, on_term, on_hup};
    static const int numbers[SIGNALS] = {SIGTERM, SIGINT, SIGHUP};
    s->base = loop_new();
    in->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (s->base == NULL || in->wake_fd < 0) {
        return err_set(m, ERR_IO, "no event loop: %s", strerror(errno));
    }
    in->wake = event_new(s->base, in->wake_fd, EV_READ | EV_PERSIST, on_wake, s);
    in->tick = event_new(s->base, -1, EV_PERSIST, on_tick, s);
    in->timer = event_new(s->base, -1, 0, on_coordinator_timer, s);
    in->stop_timer = event_new(s->base, -1, 0, on_stop_timer, s);
    if (in->wake == NULL || in->tick == NULL || in->timer == NULL || in->stop_timer == NULL) {
        return err_set(m, ERR_NOMEM, "no memory for the event loop");
    }
    for (int i = 0; i < SIGNALS; i++) {
        in->signals[i] = event_new(s->base, numbers[i], EV_SIGNAL | EV_PERSIST, handlers[i], s);
        if (in->signals[i] == NULL || event_add(in->signals[i], NULL) != 0) {
            return err_set(m, ERR_IO, "signals cannot be handled");
        }
    }
    struct timeval tv = {TICK_MS / 1000, TICK_MS % 1000 * 1000};
    event_add(in->wake, NULL);
    event_add(in->tick, &tv);
    return OK;
}

static enum err open_broker(struct server *s, struct errmsg *m)
{
    const struct config_server *c = &s->config.server;
    s->topics = topics_new();
    s->watches = watches_new(poke, s);
    s->bound_names = bound_names_new();
    s->sessions = fetch_sessions_new(c->max_incremental_fetch_session_cache_slots, SESSIONS_BYTES);
    s->appender = calloc(1, sizeof *s->appender);
    if (s->topics == NULL || s->watches == NULL || s->sessions == NULL || s->appender == NULL ||
        s->bound_names == NULL) {
        return err_set(m, ERR_NOMEM, "no memory for topics");
    }
    appender_init(s->appender);
    own_state_watch_topics(s);
    /* A request has one piece of work at a time, and opening the follower is one more. */
    const int most = c->requests_in_flight_max;
    enum err e = workers_open(&s->asking, 1, WORKERS_NICE, most, poke, s, m);
    e = e != OK ? e : workers_open(&s->judges, 1, WORKERS_NICE, most, poke, s, m);
    e = e != OK ? e : workers_open(&s->opener, 1, 0, 1, poke, s, m);
    return e != OK ? e : workers_open(&s->workers, c->num_io_threads, WORKERS_NICE, most + 1, poke,
                                      s, m);
}

static enum err open_net(struct server *s, struct errmsg *m)
{
    const struct config_server *c = &s->config.server;
    struct config_listener listeners[LISTENERS_MAX];
    size_t count = listeners_read(c, listeners);
    const struct net_options o = net_options_of(c);
    struct net_callbacks cb = {api_on_frame, api_on_gone, api_has_room, s};
    enum err e = net_open(&s->net, s->base, &o, &cb, m);
    for (size_t i = 0; i < count && e == OK; i++) {
        e = net_listen(s->net, &listeners[i], m);
    }
    return e;
}

static enum err name_directories(struct server *s, struct errmsg *m)
{
    struct server_internal *in = s->in;
    const char *data = s->config.data;
    int a = snprintf(in->dir_own, sizeof in->dir_own, "%s/server", data);
    int b = snprintf(in->dir_captured, sizeof in->dir_captured, "%s/captured", data);
    int c = snprintf(in->dir_follower, sizeof in->dir_follower, "%s/server/follower", data);
    if (a < 0 || b < 0 || c < 0 || (size_t)c >= sizeof in->dir_follower) {
        return err_set(m, ERR_INVALID, "the name of the data directory is too long");
    }
    return OK;
}

static const char *user_name(uid_t uid, char text[32])
{
    const struct passwd *p = getpwuid(uid);
    snprintf(text, 32, "%s", p != NULL ? p->pw_name : "");
    if (text[0] == '\0') {
        snprintf(text, 32, "%u", (unsigned)uid);
    }
    return text;
}

/* What two users make in one directory, one of them cannot read: sooner or later something fails
 * for it that does not name the cause. */
static void warn_of_another_user(const struct server *s)
{
    const char *const paths[] = {s->config.data, s->in->dir_own, s->in->dir_captured};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        struct stat st;
        char owner[32], user[32];
        if (stat(paths[i], &st) == 0 && st.st_uid != geteuid()) {
            log_warn("the data belongs to another user; broker and server must run as the same one "
                     "dir=%s owner=%s user=%s",
                     paths[i], user_name(st.st_uid, owner), user_name(geteuid(), user));
            return;
        }
    }
}

enum err server_open(struct server *s, struct config *config, struct errmsg *m)
{
    *s = (struct server){.config = *config};
    *config = (struct config){0};
    s->in = calloc(1, sizeof *s->in);
    if (s->in == NULL) {
        return err_set(m, ERR_NOMEM, "no memory for the server");
    }
    s->in->server = s;
    s->in->wake_fd = -1;
    s->in->timer_ms = INT64_MAX;
    s->in->quiet_ms = clock_mono_ms(); /* opening leaves memory behind, too */
    api_init();
    enum err e = name_directories(s, m);
    if (e == OK) {
        warn_of_another_user(s);
        e = open_loop(s, m);
    }
    e = e == OK ? open_broker(s, m) : e;
    if (e != OK) {
        return e;
    }
    e = open_own(s, m);
    if (e != OK && !is_passing(e)) {
        return e;
    }
    if (e != OK) {
        say_own_fails(s, e, m);
    }
    if (s->cluster_id[0] == '\0') {
        struct uuid id = uuid_random(); /* kept once there is a place for it */
        uuid_to_text(&id, s->cluster_id);
    }
    look_for_captured(s, clock_mono_ms());
    s->holding = s->in->opening;
    s->in->hold_until_ms = clock_mono_ms() + HOLD_MS;
    e = open_net(s, m);
    if (e != OK) {
        return e;
    }
    start_watchdog(s);
    log_info("started data=%s node.id=%d cluster.id=%s version=%s", s->config.data,
             s->config.server.node_id, s->cluster_id, CULEX_VERSION);
    return OK;
}

static void close_events(struct server_internal *in)
{
    struct event *all[] = {in->wake, in->tick, in->timer, in->watchdog, in->stop_timer,
                           in->signals[ON_TERM], in->signals[ON_INT], in->signals[ON_HUP]};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (all[i] != NULL) {
            event_free(all[i]);
        }
    }
    if (in->wake_fd >= 0) {
        close(in->wake_fd);
    }
}

void server_close(struct server *s)
{
    s->stopping = true;
    atomic_store(&s->asking_ends, true);
    workers_close(s->asking); /* they give requests back: before the connections go */
    workers_close(s->workers);
    workers_close(s->judges);
    workers_close(s->opener);
    s->asking = s->workers = s->judges = s->opener = NULL;
    net_close(s->net);
    own_state_close(s);
    if (s->appender != NULL) {
        appender_fini(s->appender);
        free(s->appender);
    }
    fetch_sessions_free(s->sessions);
    bound_names_free(s->bound_names);
    watches_free(s->watches);
    topics_free(s->topics);
    if (s->captured != NULL) {
        store_close(s->captured);
    }
    if (s->own != NULL) {
        store_close(s->own);
    }
    if (s->in != NULL && s->in->leaving != NULL) {
        store_close(s->in->leaving);
    }
    if (s->in != NULL) {
        close_events(s->in);
    }
    if (s->base != NULL) {
        event_base_free(s->base);
    }
    free(s->in);
    config_fini(&s->config);
    *s = (struct server){0};
}
