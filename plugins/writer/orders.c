/* What comes from the broker, and what goes to its log.
 *
 *   broker ──[the ring]── configuration ─── configuration … ──▶ closed: the broker is gone
 *
 * The first two are waited for; a thread listens for the rest (which may also be how it went when
 * the broker was asked to read its configuration again, see control.c), because the other one may
 * be deep in the disk. When the broker is gone, what the ring holds still goes into the log, as at
 * a stop, but not for long: the next broker waits. */
#include "plugins/writer/writer.h"

#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

void order_free(struct order *o)
{
    if (o) {
        config_fini(&o->config);
        free(o);
    }
}

/* The configuration in a piece of memory, fd, which is closed. */
static enum err order_read(uint64_t number, int fd, struct order **out, struct errmsg *m)
{
    struct stat st = {0};
    void *p = fd >= 0 && fstat(fd, &st) == 0 && st.st_size > 0
                  ? mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0)
                  : MAP_FAILED;
    struct order *o = calloc(1, sizeof *o);
    enum err e = ERR_NOMEM;
    if (p != MAP_FAILED && o) {
        e = config_unpack(&o->config, slice_make(p, (size_t)st.st_size));
    }
    if (p != MAP_FAILED) {
        munmap(p, (size_t)st.st_size);
    }
    if (fd >= 0) {
        close(fd);
    }
    if (e) {
        free(o);
        return err_set(m, e, "cannot read the configuration from the broker: %s", err_name(e));
    }
    o->number = number;
    *out = o;
    return OK;
}

enum err orders_first(struct writer *w, struct errmsg *m)
{
    static struct link_message msg;
    for (;;) {
        enum err e = link_receive(w->socket, true, &msg);
        if (e) {
            return err_set(m, ERR_CLOSED, "the broker is gone");
        }
        if (msg.kind == LINK_RING) {
            e = ring_attach(&w->ring, msg.fd, m);
            if (e) {
                return e;
            }
            w->ring_open = w->ring_told = true;
            w->read_pos = ring_consumed(&w->ring);
            atomic_store(&w->link->ring_number, msg.number);
        } else if (msg.kind == LINK_CONFIG) {
            e = order_read(msg.number, msg.fd, &w->now, m);
            if (!e) {
                w->sets_received = msg.number;
                w->store_config = w->now->config.store;
            }
            return e;
        }
    }
}

static void order_queue(struct writer *w, struct order *o)
{
    pthread_mutex_lock(&w->lock);
    struct order **end = &w->orders;
    while (*end) {
        end = &(*end)->next;
    }
    *end = o;
    pthread_mutex_unlock(&w->lock);
}

void wake_up(struct link *l)
{
    atomic_store(&l->sleeping, 0);
    link_wake_word(&l->sleeping);
}

static void *listen_main(void *arg)
{
    static struct link_message msg;
    struct writer *w = arg;
    while (link_receive(w->socket, true, &msg) == OK) {
        struct errmsg m;
        struct order *o;
        if (msg.kind == LINK_RELOADED) {
            control_reloaded(w, msg.number >> LINK_RELOAD_SHIFT,
                             (enum err)(msg.number & LINK_RELOAD_ERR), msg.text);
            wake_up(w->link);
        }
        if (msg.kind != LINK_CONFIG) {
            continue;
        }
        if (order_read(msg.number, msg.fd, &o, &m)) {
            log_error("configuration lost: %s", m.text);
        } else {
            order_queue(w, o);
        }
        atomic_store(&w->sets_received, msg.number);
        wake_up(w->link);
    }
    atomic_store(&w->orphan, !atomic_load(&w->link->stop));
    atomic_store(&w->link->stop, 1);
    link_wake_word(&w->link->stop);
    wake_up(w->link);
    return NULL;
}

enum err orders_listen(struct writer *w)
{
    return pthread_create(&w->listener, NULL, listen_main, w) == 0 ? OK : ERR_NOMEM;
}

void orders_end(struct writer *w)
{
    (void)shutdown(w->socket, SHUT_RD);
    (void)pthread_join(w->listener, NULL);
    while (w->orders) {
        struct order *o = w->orders;
        orders_take(w);
        order_free(o);
    }
}

bool orders_wait(struct writer *w)
{
    return orders_first_waiting(w) != NULL;
}

bool orders_under_way(struct writer *w)
{
    return atomic_load(&w->sets_received) < atomic_load(&w->link->sets_made);
}

struct order *orders_first_waiting(struct writer *w)
{
    pthread_mutex_lock(&w->lock);
    struct order *o = w->orders;
    pthread_mutex_unlock(&w->lock);
    return o;
}

void orders_take(struct writer *w)
{
    pthread_mutex_lock(&w->lock);
    w->orders = w->orders->next;
    pthread_mutex_unlock(&w->lock);
}

/* --- the log ---------------------------------------------------------------------------------- */

/* Called under the log's lock. A broker that does not read loses the newest lines, not the oldest,
 * and is told how many. */
static void line_to_broker(void *arg, enum log_level level, const char *line)
{
    static unsigned lost;
    struct writer *w = arg;
    if (lost) {
        char text[64];
        snprintf(text, sizeof text, "log lines lost count=%u", lost);
        lost = link_send(w->socket, LINK_LINE, LOG_WARN, text, -1) == OK ? 0 : lost;
    }
    lost += link_send(w->socket, LINK_LINE, (uint32_t)level, line, -1) != OK;
    link_due(w->link, DUE_MESSAGES);
}

void lines_to_broker(struct writer *w)
{
    log_set_sink(line_to_broker, w);
}
