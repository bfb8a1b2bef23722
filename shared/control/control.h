/* Commands to the writer of captured streams: what Kafka clients ask of them, which only the
 * process that writes their log, beside the broker, can do.
 *
 * A Unix socket in the data directory; one connection is one message and one answer, each a JSON
 * object. Whoever may write to the directory may command: server and broker run as the same user.
 *
 *   {"command": "bind", "name": …, "partitions": 16, "configs": {"mqtt.filter": …}, "replace": …,
 *    "validate": true}            → {"error": "OK", "partitions": 16}
 *   {"command": "alter", "name": …, "changes": [{"op": "set", "name": "mqtt.key", "value": …}, …],
 *    "validate": true}            → {"error": "OK", "partitions": 16}
 *   {"command": "unbind", "name": …}                             → {"error": "OK"}
 *   {"command": "trim", "name": …, "partition": 0, "offset": 7}  → {"error": "OK"}
 *                                 → {"error": "ERR_INVALID", "message": "mqtt.key: …"}
 *   {"commands": [{"command": …}, …]}   → {"error": "OK", "results": [{"error": …}, …],
 *                                          "version": 7}
 *
 * bind makes a stream, or says all of one ("replace": true) that was made in this manner;
 * partitions 0: as many as a stream has by default. alter changes what it names, by the ops set,
 * delete, append and subtract. "validate": nothing is done. unbind ends capture and deletes the
 * topic, also of a stream that no configuration names any more. When the answer is OK, the broker
 * captures by it and the log has the topic; version is then the catalog's. After ERR_AGAIN it is
 * one or the other. */
#ifndef CULEX_CONTROL_CONTROL_H
#define CULEX_CONTROL_CONTROL_H

#include <jansson.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "shared/base/err.h"

#define CONTROL_SOCKET     "capture.sock"
#define CONTROL_BYTES_MAX  (128u << 10) /* of a command or an answer: what a socket takes at once */
#define CONTROL_COMMANDS_MAX 128  /* of one message: their answers are one, too */
#define CONTROL_COMMAND_MS 10000        /* a command takes no longer */

/* Listens in the data directory, in place of a socket that a killed process has left. *fd is the
 * caller's. ERR_IO. */
enum err control_listen(const char *data, int *fd, struct errmsg *m) MUST_CHECK;
/* The command of a connection that was accepted; the caller's reference. ERR_CORRUPT: it is none;
 * ERR_IO. */
enum err control_receive(int connection, json_t **command, struct errmsg *m) MUST_CHECK;
/* Answers: e and why (may be NULL), with what else there is to say (may be NULL; its reference is
 * taken). A client that is gone hears nothing. */
void control_answer(int connection, enum err e, const char *why, json_t *more);

/* Sends a command (its reference is taken) and waits for the answer: the answer's error, with its
 * sentence in m. *answer (may be NULL) is the caller's reference, also after such an error; NULL
 * where there was none: ERR_AGAIN when nobody listens (the broker is down, or its writer) or the
 * answer does not come in time. Blocks, for CONTROL_COMMAND_MS and a little, or until *stop. */
enum err control_call(const char *data, json_t *command, const _Atomic bool *stop, json_t **answer,
                      struct errmsg *m) MUST_CHECK;

/* What a result among several says. ERR_CORRUPT: nothing that is known. */
enum err control_error(const json_t *result) MUST_CHECK;

#endif
