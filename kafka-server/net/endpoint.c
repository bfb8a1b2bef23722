/* Listeners as Kafka writes them: NAME://host:port, separated by commas.
 *
 * The host may be empty (every address), a name, an IPv4 address, or an IPv6 address in brackets. A
 * name in advertised.listeners says what the clients of the listener of that name are told; a
 * listener without one tells its own host. A wildcard cannot be told to anyone: then each client is
 * told the address that it has reached us at. */
#include "kafka-server/net/net.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

static bool is_wildcard(const char *host)
{
    return host[0] == '\0' || strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0;
}

/* Next item of a list separated by commas, without the blanks around it; len 0 and *list at its end
 * when there is none. */
static struct slice next_item(const char **list)
{
    const char *p = *list;
    while (*p == ',' || isspace((unsigned char)*p)) {
        p++;
    }
    const char *end = p + strcspn(p, ",");
    *list = end;
    while (end > p && isspace((unsigned char)end[-1])) {
        end--;
    }
    return slice_make(p, (size_t)(end - p));
}

static bool copy_text(char *out, size_t room, const char *from, size_t len)
{
    if (len >= room) {
        return false;
    }
    memcpy(out, from, len);
    out[len] = '\0';
    return true;
}

/* "host:port", "[v6]:port", ":port". */
static enum err parse_address(const char *text, const char *end, struct net_endpoint *e,
                              struct errmsg *m)
{
    const char *host = text;
    const char *colon = end;
    while (colon > text && colon[-1] != ':') {
        colon--;
    }
    if (colon == text) {
        return err_set(m, ERR_INVALID, "\"%.*s\" has no port; write host:port", (int)(end - text),
                       text);
    }
    const char *host_end = colon - 1;
    if (host < host_end && host[0] == '[' && host_end[-1] == ']') {
        host++;
        host_end--;
    } else if (memchr(host, ':', (size_t)(host_end - host)) != NULL) {
        return err_set(m, ERR_INVALID, "write an IPv6 address in brackets, as in [::1]:9092");
    }
    char *rest;
    long port = strtol(colon, &rest, 10);
    if (colon == end || !isdigit((unsigned char)*colon) || rest != end || port > 65535) {
        return err_set(m, ERR_INVALID, "\"%.*s\" is not a port; 0 to 65535", (int)(end - colon),
                       colon);
    }
    if (!copy_text(e->host, sizeof e->host, host, (size_t)(host_end - host))) {
        return err_set(m, ERR_INVALID, "the host name is longer than %d bytes",
                       NET_HOST_BYTES_MAX - 1);
    }
    e->port = (int)port;
    return OK;
}

static enum err parse_item(struct slice item, struct net_endpoint *e, struct errmsg *m)
{
    const char *text = (const char *)item.data;
    const char *end = text + item.len;
    const char *sep = memmem(text, item.len, "://", 3);
    if (sep == NULL || sep == text) {
        return err_set(m, ERR_INVALID, "\"%.*s\" is not a listener; write NAME://host:port",
                       (int)item.len, text);
    }
    if (!copy_text(e->name, sizeof e->name, text, (size_t)(sep - text))) {
        return err_set(m, ERR_INVALID, "the name of a listener is longer than %d bytes",
                       NET_NAME_BYTES_MAX - 1);
    }
    return parse_address(sep + 3, end, e, m);
}

static struct net_endpoint *find_name(struct net_endpoint *list, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++) {
        if (strcasecmp(list[i].name, name) == 0) {
            return &list[i];
        }
    }
    return NULL;
}

static enum err parse_listeners(const char *key, const char *text, struct net_endpoint *out,
                                size_t *count, struct errmsg *m)
{
    *count = 0;
    for (struct slice item; item = next_item(&text), item.len != 0;) {
        struct net_endpoint e = {0};
        struct errmsg why;
        enum err code = parse_item(item, &e, &why);
        if (code != OK) {
            return err_set(m, code, "%s: %s", key, why.text);
        }
        if (find_name(out, *count, e.name) != NULL) {
            return err_set(m, ERR_INVALID, "%s: two listeners are named %s", key, e.name);
        }
        if (*count == NET_LISTENERS_MAX) {
            return err_set(m, ERR_INVALID, "%s: more than %d listeners", key, NET_LISTENERS_MAX);
        }
        out[(*count)++] = e;
    }
    return OK;
}

/* Every listener speaks PLAINTEXT, whatever its name: anything else is refused, never ignored. */
static enum err check_protocol(const char *name, const char *protocol, struct errmsg *m)
{
    if (strcasecmp(protocol, "PLAINTEXT") == 0) {
        return OK;
    }
    return err_set(m, ERR_INVALID,
                   "listener %s: this version speaks PLAINTEXT only, not %s; name the listener "
                   "otherwise, or map it to PLAINTEXT in listener.security.protocol.map",
                   name, protocol);
}

static enum err check_protocols(const char *text, struct net_endpoint *list, size_t count,
                                struct errmsg *m)
{
    static const char *const secure[] = {"SSL", "SASL_PLAINTEXT", "SASL_SSL"};
    const char *all = text;
    for (size_t i = 0; i < count; i++) {
        bool mapped = false;
        text = all;
        for (struct slice item; item = next_item(&text), item.len != 0;) {
            const char *p = (const char *)item.data;
            const char *colon = memchr(p, ':', item.len);
            if (colon == NULL) {
                return err_set(m, ERR_INVALID,
                               "listener.security.protocol.map: \"%.*s\" is not NAME:PROTOCOL",
                               (int)item.len, p);
            }
            char protocol[NET_NAME_BYTES_MAX];
            size_t name_len = (size_t)(colon - p);
            if (name_len != strlen(list[i].name) || strncasecmp(p, list[i].name, name_len) != 0) {
                continue;
            }
            if (!copy_text(protocol, sizeof protocol, colon + 1, item.len - name_len - 1)) {
                protocol[0] = '\0';
            }
            enum err e = check_protocol(list[i].name, protocol, m);
            if (e != OK) {
                return e;
            }
            mapped = true;
        }
        for (size_t k = 0; !mapped && k < sizeof secure / sizeof *secure; k++) {
            if (strcasecmp(list[i].name, secure[k]) == 0) {
                return check_protocol(list[i].name, secure[k], m);
            }
        }
    }
    return OK;
}

enum err net_endpoints_parse(const char *listeners, const char *advertised, const char *protocols,
                             struct net_endpoint *out, size_t *count, struct errmsg *m)
{
    enum err e = parse_listeners("listeners", listeners, out, count, m);
    if (e != OK) {
        return e;
    }
    if (*count == 0) {
        return err_set(m, ERR_INVALID,
                       "listeners: there is none; write PLAINTEXT://127.0.0.1:9092");
    }
    struct net_endpoint told[NET_LISTENERS_MAX];
    size_t told_count;
    e = parse_listeners("advertised.listeners", advertised, told, &told_count, m);
    if (e != OK) {
        return e;
    }
    for (size_t i = 0; i < told_count; i++) {
        if (find_name(out, *count, told[i].name) == NULL) {
            return err_set(m, ERR_INVALID, "advertised.listeners: there is no listener %s",
                           told[i].name);
        }
    }
    for (size_t i = 0; i < *count; i++) {
        struct net_endpoint *to = find_name(told, told_count, out[i].name);
        const struct net_endpoint *from = to != NULL ? to : &out[i];
        memcpy(out[i].advertised_host, is_wildcard(from->host) ? "" : from->host,
               is_wildcard(from->host) ? 1 : sizeof from->host);
        out[i].advertised_port = from->port;
    }
    return check_protocols(protocols, out, *count, m);
}
