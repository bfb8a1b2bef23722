/* Listeners as Kafka writes them: NAME://host:port, separated by commas. Text alone: no socket is
 * opened and no name is looked up, so that a configuration can be checked on any machine. */
#ifndef CULEX_CONFIG_LISTENERS_H
#define CULEX_CONFIG_LISTENERS_H

#include "shared/base/bytes.h"
#include "shared/base/err.h"

#define LISTENERS_MAX           16
#define LISTENER_HOST_BYTES_MAX 256 /* NUL included */
#define LISTENER_NAME_BYTES_MAX 64  /* NUL included */

struct config_server;

/* host "" is every address of this machine. */
struct config_listener {
    char name[LISTENER_NAME_BYTES_MAX];
    char host[LISTENER_HOST_BYTES_MAX]; /* without brackets */
    int port;                           /* 0: one that is free */
    char advertised_host[LISTENER_HOST_BYTES_MAX]; /* "": the address that the client has reached */
    int advertised_port;                           /* 0: the port that the listener got */
};

/* One of the three settings on its own. ERR_INVALID with a sentence. */
enum err listeners_check(const char *text, struct errmsg *m) MUST_CHECK;
enum err listeners_check_advertised(const char *text, struct errmsg *m) MUST_CHECK;
enum err listeners_check_protocols(const char *text, struct errmsg *m) MUST_CHECK;

/* What they say together, each of them right on its own: every listener that is advertised is
 * there; none speaks what this version does not speak. */
enum err listeners_check_told(const struct config_server *c, struct errmsg *m) MUST_CHECK;
enum err listeners_check_spoken(const struct config_server *c, struct errmsg *m) MUST_CHECK;

/* The listeners of a configuration that was checked: their number, LISTENERS_MAX at most. */
size_t listeners_read(const struct config_server *c, struct config_listener out[LISTENERS_MAX]);
/* Does a host stand for all addresses of the machine, of one family or both? */
bool listeners_wildcard(const char *host);

#endif
