/* A value inside a JSON text, found without parsing: its own bytes. A number is then what the
 * publisher wrote (0.1, 4.50, 1e3), whatever a double or an int64_t can hold, and nothing else in
 * the text can spoil it. */
#ifndef CULEX_MQTT_JSON_PATH_H
#define CULEX_MQTT_JSON_PATH_H

#include "shared/base/buf.h"
#include "shared/base/bytes.h"

#define JSON_PATH_DEPTH_MAX 2048 /* a text that nests deeper is taken as malformed; jansson's own */

/* Is it a path? A name, then of each further step .name or [digits]; a name has one byte at least,
 * and none of them is '.', '[' or ']': a member that is called so cannot be reached. */
bool json_path_valid(const char *path);

/* path: a valid one, a.b.0.c or a.b[0].c, of members and indexes. The whole text must be
 * well-formed (RFC 8259, but that strings may hold bytes that are not UTF-8). Of members with the
 * same name the last counts. *value: a slice of text, without the blanks around it. false: there is
 * none; *value is unset. */
bool json_path_find(struct slice text, const char *path, struct slice *value);

/* Appends the text of a string value, quotes included in value, escapes resolved, to out. false:
 * it is no UTF-8 (a lone surrogate counts as such), or no memory. Look at buf_ok(out), too. */
bool json_path_string(struct slice value, struct buf *out);

#endif
