/* The writer's process, from the broker's side.
 *
 *   start ──▶ opened ──▶ runs ──ends by itself──▶ waited for ──back-off──▶ start again
 *     │                   │
 *     └─ locked, invalid ─┴─ capture_close: stop ──▶ drained, or left behind in the disk
 *                            (none runs: one more is started, that drains)
 *
 * A writer that ends (killed, out of memory, an assertion of the database) takes nothing along:
 * publishes wait in the ring, which the broker keeps open, and the next one goes on where the store
 * says. What the store has not seen of configurations is sent again. */
#include "plugins/capture/internal.h"

#include "shared/base/clock.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define WATCH_US         100000
#define BACKOFF_MS_MIN   100
#define BACKOFF_MS_MAX   5000
#define SOUND_US         10000000 /* a writer that ran so long was no failure of its start */
#define JOIN_MS          30000
#define REAP_MS          2000
#define ENDED_LOG_MS     10000

/* --- starting --------------------------------------------------------------------------------- */

/* What the writer has not been sent yet, as far as the socket takes it. */
static void send_sets(struct capture *c)
{
    for (size_t i = 0; i < c->set_count && c->child.socket >= 0; i++) {
        const struct packed_set *s = &c->sets[i];
        if (s->number <= c->child.sent) {
            continue;
        }
        if (link_send(c->child.socket, LINK_CONFIG, (uint32_t)s->number, "", s->fd)) {
            return; /* full, or it has ended: both are seen at the next watch */
        }
        c->child.sent = s->number;
    }
}

/* Configurations that the store has seen go, but for the last: a new writer begins with it. With an
 * older one it would make anew what has been unbound since. */
static void drop_sets(struct capture *c)
{
    uint64_t taken = atomic_load(&c->link->sets_taken);
    while (c->set_count > 1 && c->sets[1].number <= taken) {
        close(c->sets[0].fd);
        memmove(&c->sets[0], &c->sets[1], --c->set_count * sizeof c->sets[0]);
    }
}

/* The ring first: with its first configuration the writer begins. */
static enum err child_launch(struct capture *c, struct errmsg *m)
{
    drop_sets(c); /* the last writer may have ended before anybody looked what it had taken */
    enum err e = child_spawn(&c->child, m);
    if (!e && c->ring.file) {
        e = link_send(c->child.socket, LINK_RING, c->ring_number, "", c->ring.fd);
        e = e ? err_set(m, ERR_IO, "the writer has ended at once") : OK;
    }
    if (!e) {
        send_sets(c);
    }
    return e;
}

/* --- listening -------------------------------------------------------------------------------- */

static void take_ring(struct capture *c, uint32_t number, int fd)
{
    struct ring ring;
    struct errmsg m;
    if (ring_attach(&ring, fd, &m)) {
        log_error("capture ring unusable: %s", m.text);
        return;
    }
    ring_close(&c->ring);
    c->ring = ring;
    c->ring_number = number;
    c->stuck = c->disk_stuck = false;
}

static void take_message(struct capture *c, struct link_message *m)
{
    switch (m->kind) {
    case LINK_RING:
        if (m->fd >= 0) {
            take_ring(c, m->number, m->fd);
        }
        break;
    case LINK_OPENED:
        if (c->mistakes) {
            c->opened = (enum err)m->number;
            buf_printf(c->mistakes, "%s", m->text);
        } else if (c->child.told) {
            c->child.told = false;
            log_warn("the writer runs again");
        }
        break;
    case LINK_LINE:
        log_write((enum log_level)m->number, "%s", m->text);
        break;
    case LINK_RELOAD:
        c->reload_number = m->number;
        link_due(c->link, DUE_RELOAD); /* not here: a publish may be under way */
        break;
    default:
        break;
    }
}

static void child_gone(struct child *ch)
{
    close(ch->socket);
    ch->socket = -1;
}

static void read_messages(struct capture *c)
{
    static struct link_message m;
    atomic_fetch_and(&c->link->due, ~DUE_MESSAGES);
    enum err e = OK;
    while (c->child.socket >= 0 && !e) {
        e = link_receive(c->child.socket, false, &m);
        if (e == OK) {
            take_message(c, &m);
        } else if (e == ERR_CLOSED) {
            child_gone(&c->child);
        }
    }
}

static void describe_end(struct child *ch)
{
    int status = ch->status;
    if (WIFSIGNALED(status)) {
        snprintf(ch->why, sizeof ch->why, "the writer was ended by signal %d (%s)",
                 WTERMSIG(status), strsignal(WTERMSIG(status)));
    } else {
        snprintf(ch->why, sizeof ch->why, "the writer ended with status %d",
                 WIFEXITED(status) ? WEXITSTATUS(status) : -1);
    }
}

static void child_back_off(struct child *ch)
{
    int64_t now = clock_mono_us();
    bool sound = ch->started_us && now - ch->started_us > SOUND_US;
    ch->backoff_ms = sound || !ch->backoff_ms ? BACKOFF_MS_MIN : ch->backoff_ms * 2;
    ch->backoff_ms = ch->backoff_ms > BACKOFF_MS_MAX ? BACKOFF_MS_MAX : ch->backoff_ms;
    ch->next_try_us = now + (int64_t)ch->backoff_ms * 1000;
}

static void child_ended(struct capture *c)
{
    struct child *ch = &c->child;
    unsigned held = 0;
    child_back_off(ch);
    if (log_limit_pass(&ch->ended_log, ENDED_LOG_MS, &held)) {
        ch->told = true;
        log_error("capture is degraded: %s; publishes wait in the ring until it is full, and it is "
                  "started again held_back=%u", ch->why, held);
    }
    atomic_fetch_or(&c->link->due, DUE_COUNTERS);
}

static void child_again(struct capture *c)
{
    struct child *ch = &c->child;
    struct errmsg m;
    if (child_launch(c, &m)) {
        snprintf(ch->why, sizeof ch->why, "%.250s", m.text);
        if (ch->socket >= 0) {
            child_gone(ch); /* its process is waited for */
        } else {
            child_ended(c);
        }
    }
}

void child_read_config(struct capture *c)
{
    if (!(atomic_load_explicit(&c->link->due, memory_order_relaxed) & DUE_RELOAD)) {
        return;
    }
    atomic_fetch_and(&c->link->due, ~DUE_RELOAD);
    struct buf mistakes;
    buf_init(&mistakes, LINK_TEXT_BYTES_MAX);
    enum err e = c->read ? c->read(&mistakes) : ERR_AGAIN;
    send_sets(c);
    if (c->child.socket >= 0 &&
        link_send(c->child.socket, LINK_RELOADED,
                  c->reload_number << LINK_RELOAD_SHIFT | (uint32_t)e, buf_text(&mistakes), -1)) {
        log_warn("the writer does not listen: it was not told of a reload");
    }
    buf_fini(&mistakes);
}

/* A writer that has died says nothing: where nobody ticks, the clock says when to look. */
HOT bool capture_due(const struct capture *c, bool ticks)
{
    return atomic_load_explicit(&c->link->due, memory_order_relaxed) ||
           (!ticks && clock_mono_us() >= c->child.watched_us + WATCH_US);
}

void child_watch(struct capture *c)
{
    struct child *ch = &c->child;
    int64_t now = clock_mono_us();
    bool due = atomic_load_explicit(&c->link->due, memory_order_relaxed) & DUE_MESSAGES;
    if (!due && now < ch->watched_us + WATCH_US) {
        return;
    }
    ch->watched_us = now;
    read_messages(c);
    if (ch->socket >= 0) {
        drop_sets(c);
        send_sets(c);
        return;
    }
    if (ch->pid) {
        if (child_reap(ch)) {
            describe_end(ch);
            child_ended(c);
        }
    } else if (now >= ch->next_try_us) {
        child_again(c);
    }
}

const char *child_trouble(const struct capture *c)
{
    return c->child.socket < 0 ? c->child.why : NULL;
}

/* --- the start -------------------------------------------------------------------------------- */

enum err child_configure(struct capture *c, const struct config *config, struct buf *mistakes)
{
    drop_sets(c);
    if (c->set_count == SETS_WAIT_MAX + 1) {
        char why[sizeof c->link->error];
        link_error(c->link, why, sizeof why);
        buf_printf(mistakes, "%d configurations already wait until the log can be written: %s\n",
                   SETS_WAIT_MAX, why);
        return ERR_FULL;
    }
    struct buf packed;
    buf_init(&packed, CONFIG_PACKED_BYTES_MAX);
    enum err e = config_pack(config, &packed);
    int fd = e ? -1 : memfd_create("culex-config", MFD_CLOEXEC);
    size_t done = 0;
    while (fd >= 0 && done < packed.len) {
        ssize_t n = write(fd, packed.data + done, packed.len - done);
        if (n <= 0) {
            close(fd);
            fd = -1;
        }
        done += n > 0 ? (size_t)n : 0;
    }
    buf_fini(&packed);
    if (fd < 0) {
        buf_printf(mistakes, "no memory for the configuration\n");
        return ERR_NOMEM;
    }
    c->sets[c->set_count++] = (struct packed_set){++c->set_number, fd};
    atomic_store(&c->link->sets_made, c->set_number);
    send_sets(c);
    return OK;
}

enum err child_start(struct capture *c, struct buf *mistakes)
{
    struct child *ch = &c->child;
    struct errmsg m;
    enum err e = child_launch(c, &m);
    if (e) {
        buf_printf(mistakes, "%s\n", m.text);
        return e;
    }
    c->mistakes = mistakes;
    c->opened = ERR_AGAIN;
    while (c->opened == ERR_AGAIN && ch->socket >= 0) {
        struct pollfd p = {.fd = ch->socket, .events = POLLIN};
        (void)poll(&p, 1, WATCH_US / 1000); /* recovery takes what it takes */
        read_messages(c);
        send_sets(c);
    }
    c->mistakes = NULL;
    if (c->opened == ERR_AGAIN) { /* it died of what it found: the broker lives, see child_watch */
        c->opened = OK;
    }
    if (!c->opened) {
        atomic_store(&c->link->opened, 1);
    }
    return c->opened;
}

/* --- the end ---------------------------------------------------------------------------------- */

/* Until the process is gone. Its log lines come out meanwhile. */
static bool child_join(struct capture *c)
{
    struct child *ch = &c->child;
    int64_t deadline = clock_mono_us() + (int64_t)JOIN_MS * 1000;
    while (ch->socket >= 0 && clock_mono_us() < deadline) {
        struct pollfd p = {.fd = ch->socket, .events = POLLIN};
        (void)poll(&p, 1, WATCH_US / 1000);
        read_messages(c);
        send_sets(c);
    }
    deadline = clock_mono_us() + (int64_t)REAP_MS * 1000;
    while (ch->socket < 0 && !child_reap(ch) && clock_mono_us() < deadline) {
        (void)poll(NULL, 0, 1);
    }
    return ch->pid == 0;
}

/* Has the writer ended without having stored the last publishes? */
static bool child_failed(const struct capture *c, bool ran)
{
    return c->opened == OK && c->child.pid == 0 && (!ran || c->child.status != 0);
}

bool child_stop(struct capture *c)
{
    struct child *ch = &c->child;
    bool ran = ch->pid != 0;
    struct errmsg m;
    atomic_store(&c->link->stop, 1);
    link_wake_word(&c->link->stop);
    atomic_store(&c->link->sleeping, 0);
    link_wake_word(&c->link->sleeping);
    bool gone = child_join(c);
    if (gone && child_failed(c, ran) && child_launch(c, &m) == OK) {
        ran = true; /* it was killed just now: one more, that only stores what the ring holds */
        gone = child_join(c);
    }
    if (!gone) {
        log_error("the writer hangs in the disk: left behind pid=%d", (int)ch->pid);
    } else if (ran && child_failed(c, ran)) {
        describe_end(ch);
        log_error("%s when it was to store the last publishes: they are in the ring", ch->why);
    }
    if (ch->socket >= 0) {
        child_gone(ch);
    }
    for (size_t i = 0; i < c->set_count; i++) {
        close(c->sets[i].fd);
    }
    c->set_count = 0;
    return gone;
}
