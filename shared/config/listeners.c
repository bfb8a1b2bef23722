/* The three settings that say where clients connect, read in one place for all who look at them:
 * `culex check`, the plugin (which checks the whole file), the server's start and its SIGHUP.
 *
 * The host may be empty (every address), a name, an IPv4 address, or an IPv6 address in brackets. A
 * name in advertised.listeners says what the clients of the listener of that name are told; a
 * listener without one tells its own host. A wildcard cannot be told to anyone: then each client is
 * told the address that it has reached us at, and to write a wildcard there is a mistake, as it is
 * in Kafka.
 *
 * Kafka also refuses two listeners on one port of different addresses. That is no mistake here: a
 * listener on the loopback and one on the network may well share a port. */
#include "shared/config/listeners.h"
#include "shared/config/config.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#define LETTERS_DIGITS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
#define EXAMPLE        "PLAINTEXT://127.0.0.1:9092"
#define SHOWN          80 /* bytes of a user's text in a sentence */

/* --- lists ------------------------------------------------------------------------------------ */

/* Next item of a list, without the blanks around it; *list moves on, to NULL after the last. */
static struct slice next_item(const char **list)
{
    const char *p = *list;
    const char *end = p + strcspn(p, ",");
    *list = *end == ',' ? end + 1 : NULL;
    while (p < end && isspace((unsigned char)*p)) {
        p++;
    }
    while (end > p && isspace((unsigned char)end[-1])) {
        end--;
    }
    return slice_make(p, (size_t)(end - p));
}

static int shown(size_t len)
{
    return len < SHOWN ? (int)len : SHOWN;
}

static bool is_blank(const char *text)
{
    return text[strspn(text, " \t\r\n")] == '\0';
}

/* False: it does not fit. */
static bool copy_text(char *out, size_t room, const char *from, size_t len)
{
    if (len >= room) {
        return false;
    }
    memcpy(out, from, len);
    out[len] = '\0';
    return true;
}

/* --- one listener ----------------------------------------------------------------------------- */

static enum err check_v6(const char *host, struct errmsg *m)
{
    char address[LISTENER_HOST_BYTES_MAX];
    struct in6_addr a;
    size_t len = strcspn(host, "%"); /* fe80::1%eth0 names the interface, too */
    memcpy(address, host, len);
    address[len] = '\0';
    return inet_pton(AF_INET6, address, &a) == 1
               ? OK
               : err_set(m, ERR_INVALID, "\"[%.*s]\" is not an IPv6 address; [::1] is one", SHOWN,
                         host);
}

static enum err check_host(const char *host, struct errmsg *m)
{
    struct in_addr a;
    size_t len = strlen(host);
    if (strspn(host, LETTERS_DIGITS "-._") != len) {
        return err_set(m, ERR_INVALID, "\"%.*s\" is not a host; a name, an IPv4 address, or an "
                       "IPv6 address in brackets, like [::1]", SHOWN, host);
    }
    if (len > 0 && strspn(host, "0123456789.") == len && inet_pton(AF_INET, host, &a) != 1) {
        return err_set(m, ERR_INVALID, "\"%.*s\" is not an IPv4 address; 127.0.0.1 is one", SHOWN,
                       host);
    }
    return OK;
}

/* "host", "[v6]" or nothing. */
static enum err parse_host(const char *text, size_t len, struct config_listener *l,
                           struct errmsg *m)
{
    bool v6 = len >= 2 && text[0] == '[' && text[len - 1] == ']';
    if (!v6 && memchr(text, ':', len)) {
        return err_set(m, ERR_INVALID, "\"%.*s\" is not a host; an IPv6 address is written in "
                       "brackets, as in NAME://[::1]:9092", shown(len), text);
    }
    if (!copy_text(l->host, sizeof l->host, v6 ? text + 1 : text, v6 ? len - 2 : len)) {
        return err_set(m, ERR_INVALID, "the host of listener %s has %zu characters; at most %d are "
                       "allowed", l->name, len, LISTENER_HOST_BYTES_MAX - 1);
    }
    return v6 ? check_v6(l->host, m) : check_host(l->host, m);
}

static bool parse_port(const char *text, size_t len, int least, int *port)
{
    char digits[8];
    if (!copy_text(digits, sizeof digits, text, len) || len == 0 ||
        strspn(digits, "0123456789") != len) {
        return false;
    }
    *port = (int)strtol(digits, NULL, 10); /* digits alone, and too few of them to overflow */
    return *port >= least && *port <= 65535;
}

static enum err parse_listener(struct slice item, int least_port, struct config_listener *l,
                               struct errmsg *m)
{
    const char *text = (const char *)item.data;
    const char *end = text + item.len;
    const char *sep = memmem(text, item.len, "://", 3);
    const char *colon = memrchr(text, ':', item.len);
    *l = (struct config_listener){0};
    if (item.len == 0) {
        return err_set(m, ERR_INVALID, "has a comma with no listener beside it; NAME://host:port, "
                       "like " EXAMPLE);
    }
    if (sep && memchr(text, ' ', item.len)) {
        return err_set(m, ERR_INVALID, "\"%.*s\" has a blank in it; listeners are separated by "
                       "commas", shown(item.len), text);
    }
    if (!sep || colon == sep) {
        return err_set(m, ERR_INVALID, "\"%.*s\" is not a listener; NAME://host:port is one, like "
                       EXAMPLE, shown(item.len), text);
    }
    if (!copy_text(l->name, sizeof l->name, text, (size_t)(sep - text)) || sep == text ||
        strspn(l->name, LETTERS_DIGITS "-._") != strlen(l->name)) {
        return err_set(m, ERR_INVALID, "\"%.*s\" is not a name for a listener; 1 to %d letters, "
                       "digits, '.', '_' and '-', like PLAINTEXT", shown((size_t)(sep - text)),
                       text, LISTENER_NAME_BYTES_MAX - 1);
    }
    if (!parse_port(colon + 1, (size_t)(end - colon - 1), least_port, &l->port)) {
        return err_set(m, ERR_INVALID, "\"%.*s\" has no port from %d to 65535 at its end",
                       shown(item.len), text, least_port);
    }
    return parse_host(sep + 3, (size_t)(colon - sep - 3), l, m);
}

static const struct config_listener *named(const struct config_listener *list, size_t count,
                                           const char *name)
{
    for (size_t i = 0; i < count; i++) {
        if (strcasecmp(list[i].name, name) == 0) {
            return &list[i];
        }
    }
    return NULL;
}

/* Goes through a list and stops at the first mistake, with *count listeners before it. */
static enum err parse_list(const char *text, int least_port,
                           struct config_listener out[LISTENERS_MAX], size_t *count,
                           struct errmsg *m)
{
    *count = 0;
    while (text) {
        struct config_listener l;
        enum err e = parse_listener(next_item(&text), least_port, &l, m);
        if (e) {
            return e;
        }
        if (named(out, *count, l.name)) {
            return err_set(m, ERR_INVALID, "names two listeners %s; each needs a name of its own, "
                           "like INSIDE and OUTSIDE", l.name);
        }
        if (*count == LISTENERS_MAX) {
            return err_set(m, ERR_INVALID, "has more than %d listeners", LISTENERS_MAX);
        }
        out[(*count)++] = l;
    }
    return OK;
}

/* --- addresses that collide ------------------------------------------------------------------- */

#define FAMILY_4 1u
#define FAMILY_6 2u

/* What a host stands for as far as its text says: families of addresses, and in each either all of
 * them or one. A name but localhost is not looked up: it equals itself alone. */
struct place {
    unsigned families, any;
    struct in_addr v4;
    struct in6_addr v6;
};

static struct place place_of(const char *host)
{
    struct place p = {0};
    if (host[0] == '\0') {
        p.families = p.any = FAMILY_4 | FAMILY_6;
    } else if (strcasecmp(host, "localhost") == 0) {
        p.families = FAMILY_4 | FAMILY_6;
        p.v4.s_addr = htonl(INADDR_LOOPBACK);
        p.v6 = in6addr_loopback;
    } else if (inet_pton(AF_INET, host, &p.v4) == 1) {
        p.families = FAMILY_4;
        p.any = p.v4.s_addr == htonl(INADDR_ANY) ? FAMILY_4 : 0;
    } else if (inet_pton(AF_INET6, host, &p.v6) == 1) {
        p.families = FAMILY_6;
        p.any = memcmp(&p.v6, &in6addr_any, sizeof p.v6) == 0 ? FAMILY_6 : 0;
    }
    return p;
}

bool listeners_wildcard(const char *host)
{
    return place_of(host).any != 0;
}

static bool collide(const struct config_listener *a, const struct config_listener *b)
{
    struct place p = place_of(a->host), q = place_of(b->host);
    unsigned both = p.families & q.families, any = p.any | q.any;
    if (a->port == 0 || a->port != b->port) {
        return false;
    }
    return strcasecmp(a->host, b->host) == 0 || (both & any) != 0 ||
           ((both & FAMILY_4) && p.v4.s_addr == q.v4.s_addr) ||
           ((both & FAMILY_6) && memcmp(&p.v6, &q.v6, sizeof p.v6) == 0);
}

/* --- settings --------------------------------------------------------------------------------- */

enum err listeners_check(const char *text, struct errmsg *m)
{
    struct config_listener list[LISTENERS_MAX];
    size_t count;
    if (is_blank(text)) {
        return err_set(m, ERR_INVALID, "is empty; the server needs a listener, like " EXAMPLE);
    }
    enum err e = parse_list(text, 0, list, &count, m);
    for (size_t i = 0; !e && i < count; i++) {
        for (size_t k = 0; !e && k < i; k++) {
            if (collide(&list[k], &list[i])) {
                e = err_set(m, ERR_INVALID, "has %s and %s on port %d of the same address; each "
                            "needs a port or an address of its own", list[k].name, list[i].name,
                            list[i].port);
            }
        }
    }
    return e;
}

enum err listeners_check_advertised(const char *text, struct errmsg *m)
{
    struct config_listener list[LISTENERS_MAX];
    size_t count;
    if (is_blank(text)) {
        return OK;
    }
    enum err e = parse_list(text, 1, list, &count, m);
    for (size_t i = 0; !e && i < count; i++) {
        if (listeners_wildcard(list[i].host)) {
            e = err_set(m, ERR_INVALID, "has %s%s for the clients of %s, which is nowhere to "
                        "connect to; write a name or an address of this machine, or leave %s out: "
                        "then each client is told the address that it has reached",
                        list[i].host[0] ? "" : "no host", list[i].host, list[i].name,
                        list[i].name);
        }
    }
    return e;
}

/* Kafka's protocols. Only the first is spoken here; the others may stand in the map for names that
 * no listener has. */
static const char *const protocols[] = {"PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"};
#define PROTOCOL_COUNT (sizeof protocols / sizeof protocols[0])

static bool same_text(struct slice a, const char *b)
{
    return a.len == strlen(b) && strncasecmp((const char *)a.data, b, a.len) == 0;
}

/* The protocol that a text names; NULL: none. */
static const char *protocol_named(struct slice text)
{
    for (size_t i = 0; i < PROTOCOL_COUNT; i++) {
        if (same_text(text, protocols[i])) {
            return protocols[i];
        }
    }
    return NULL;
}

/* NAME:PROTOCOL; false: it is not. */
static bool split_protocol(struct slice item, struct slice *name, const char **protocol)
{
    const uint8_t *colon = item.len ? memchr(item.data, ':', item.len) : NULL;
    if (!colon || colon == item.data) {
        return false;
    }
    *name = slice_make(item.data, (size_t)(colon - item.data));
    *protocol = protocol_named(slice_make(colon + 1, item.len - name->len - 1));
    return *protocol != NULL;
}

enum err listeners_check_protocols(const char *text, struct errmsg *m)
{
    while (text && !is_blank(text)) {
        struct slice name, item = next_item(&text);
        const char *protocol;
        if (!split_protocol(item, &name, &protocol)) {
            return err_set(m, ERR_INVALID, "\"%.*s\" is not NAME:PROTOCOL with a protocol of "
                           "Kafka's, like INSIDE:PLAINTEXT", shown(item.len),
                           (const char *)item.data);
        }
    }
    return OK;
}

/* What a listener speaks: what the map says of it, or what it is called. */
static const char *protocol_of(const char *map, const char *listener)
{
    const char *called = protocol_named(slice_str(listener));
    while (map && !is_blank(map)) {
        struct slice name;
        const char *protocol;
        if (split_protocol(next_item(&map), &name, &protocol) && same_text(name, listener)) {
            return protocol;
        }
    }
    return called ? called : protocols[0];
}

enum err listeners_check_spoken(const struct config_server *c, struct errmsg *m)
{
    struct config_listener list[LISTENERS_MAX];
    size_t count = listeners_read(c, list);
    for (size_t i = 0; i < count; i++) {
        const char *protocol = protocol_of(c->listener_security_protocol_map, list[i].name);
        if (protocol != protocols[0]) {
            return err_set(m, ERR_INVALID, "listener %s is to speak %s, and this version speaks "
                           "PLAINTEXT only; name it otherwise, or map it to PLAINTEXT in "
                           "listener.security.protocol.map", list[i].name, protocol);
        }
    }
    return OK;
}

enum err listeners_check_told(const struct config_server *c, struct errmsg *m)
{
    struct config_listener list[LISTENERS_MAX], told[LISTENERS_MAX];
    size_t count = listeners_read(c, list), told_count = 0;
    enum err e = is_blank(c->advertised_listeners)
                     ? OK
                     : parse_list(c->advertised_listeners, 1, told, &told_count, m);
    for (size_t i = 0; !e && i < told_count; i++) {
        if (!named(list, count, told[i].name)) {
            e = err_set(m, ERR_INVALID, "there is no listener %s; listeners has %s%s", told[i].name,
                        list[0].name, count > 1 ? " and others" : " alone");
        }
    }
    return e;
}

size_t listeners_read(const struct config_server *c, struct config_listener out[LISTENERS_MAX])
{
    struct config_listener told[LISTENERS_MAX];
    size_t count, told_count = 0;
    /* Both were checked; a mistake would end the list before it. */
    (void)parse_list(c->listeners, 0, out, &count, NULL);
    if (!is_blank(c->advertised_listeners)) {
        (void)parse_list(c->advertised_listeners, 1, told, &told_count, NULL);
    }
    for (size_t i = 0; i < count; i++) {
        const struct config_listener *to = named(told, told_count, out[i].name);
        const struct config_listener *from = to ? to : &out[i];
        if (!listeners_wildcard(from->host)) {
            memcpy(out[i].advertised_host, from->host, sizeof from->host);
        }
        out[i].advertised_port = from->port;
    }
    return count;
}
