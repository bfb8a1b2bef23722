/* The Kafka protocol as data: one interpreter encodes, decodes and prints every message.
 *
 * kafka.schema → (host tool) → build/<mode>/gen/kafka_messages.{h,c}: a struct and a const table
 * per message. Names: message FetchRequest is `struct fetch_request` with the table
 * `fetch_request_message`; its array Topics is `struct fetch_request_topics *topics; int32_t
 * topics_count;`, whose Partitions is `struct fetch_request_topics_partitions *partitions; …`
 * (path of field names, snake_case). Every struct has a table of its own, named alike:
 * `fetch_request_topics_partitions_message`. A null array has count -1; a nullable struct is a
 * pointer (NULL: null). Fields that the version at hand lacks have their default after decoding,
 * and are left out when encoding. Unknown tagged fields are skipped.
 *
 * No I/O, no sockets, no rules: only bytes. Decoded slices point into the input; arrays live in
 * the arena. */
#ifndef CULEX_PROTOCOL_CODEC_H
#define CULEX_PROTOCOL_CODEC_H

#include <sys/uio.h>

#include "shared/base/arena.h"
#include "shared/base/buf.h"
#include "shared/base/bytes.h"
#include "shared/base/err.h"

/* A string on the wire. len -1: null. Not NUL-terminated. */
struct kstr {
    const char *data;
    int32_t len;
};
/* Bytes on the wire. len -1: null. */
struct kbytes {
    const uint8_t *data;
    int32_t len;
};
/* Record batches on the wire: a list of pieces that the encoder does not copy. bytes is the sum;
 * bytes -1: null. Decoding gives one piece that points into the input. */
struct krecords {
    const struct iovec *iov;
    int32_t iov_count;
    int32_t bytes;
};

static inline struct kstr kstr_make(const char *s)
{
    return (struct kstr){s, s ? (int32_t)strlen(s) : -1};
}
static inline struct slice kstr_slice(struct kstr s)
{
    return slice_make(s.data, s.len > 0 ? (size_t)s.len : 0);
}

struct codec_message; /* table of one message; emitted by the generator */

/* One API: its key, name, versions in the schema, and both messages. */
struct codec_api {
    int16_t key;
    const char *name; /* as Kafka writes it: "Fetch" */
    int16_t version_min, version_max;
    int16_t flexible_min; /* first flexible version; INT16_MAX: never */
    const struct codec_message *request, *response;
};
extern const struct codec_api codec_apis[];
extern const size_t codec_api_count;
const struct codec_api *codec_api_find(int16_t key);

/* Size of the C struct, for arena allocation; name as Kafka writes it ("FetchRequest"). */
size_t codec_struct_bytes(const struct codec_message *m);
const char *codec_message_name(const struct codec_message *m);

#define CODEC_DEPTH_MAX 8
#define CODEC_ARRAY_MAX (1 << 20) /* elements; and never more than the input has bytes left */

/* Where the encoder left out records: `at` is the place in out->data where the pieces belong. */
struct codec_hole {
    size_t at;
    const struct krecords *records;
};
struct codec_holes {
    struct codec_hole *list;
    size_t count, max; /* room given by the caller; passing it is ERR_TOO_LARGE */
};

/* Decodes the body of a message. out is zeroed by the callee and then filled, defaults included.
 * ERR_CORRUPT with a sentence that names the field's path; ERR_TOO_LARGE, ERR_NOMEM; ERR_VERSION.
 * All of `in` must be used up. */
enum err codec_decode(const struct codec_message *t, int16_t version, struct slice in,
                      struct arena *a, void *out, struct errmsg *m) MUST_CHECK;
/* The same, but bytes may follow the message; *left says how many. Kafka's own broker reads
 * requests so, and librdkafka 2.16 counts on it: its Metadata request for all topics carries
 * three bytes too many. */
enum err codec_decode_prefix(const struct codec_message *t, int16_t version, struct slice in,
                             struct arena *a, void *out, size_t *left, struct errmsg *m) MUST_CHECK;
/* Sets every field to its default (what a handler starts from). */
void codec_init(const struct codec_message *t, void *out);
/* An array of `count` structs of table t from the arena, every field at its default. Handlers make
 * every array of structs with this: many defaults are not 0, and a field that is not its default
 * goes out as a tag or fails in an old version. NULL: arena's max or memory. count 0 is fine. */
void *codec_new_array(const struct codec_message *t, struct arena *a, int32_t count) MUST_CHECK;
/* Appends the body to out. holes NULL: records are copied in. ERR_NOMEM (out's max),
 * ERR_TOO_LARGE, ERR_VERSION; ERR_INVALID when a field that the version cannot carry is not its
 * default and Kafka calls that an error. */
enum err codec_encode(const struct codec_message *t, int16_t version, const void *in,
                      struct buf *out, struct codec_holes *holes, struct errmsg *m) MUST_CHECK;
/* Prints a message as one line of text, for debug logs and tests: {replica_id=-1, topics=[…]}. */
void codec_print(const struct codec_message *t, int16_t version, const void *in, struct buf *out);

/* Request header v1/v2 (and v0 for nothing that we serve). `left` is the body. */
struct request_header {
    int16_t api_key;
    int16_t api_version;
    int32_t correlation_id;
    struct kstr client_id;
};
/* Reads key, version and correlation id of any frame; then, when the API and version are known,
 * the rest. ERR_VERSION: unknown key or version (h is filled as far as known). ERR_CORRUPT. */
enum err codec_decode_header(struct slice frame, struct request_header *h,
                             struct slice *body) MUST_CHECK;
/* Response header: correlation id, and an empty tag section where api and version call for one
 * (never for ApiVersions). */
void codec_encode_response_header(const struct codec_api *api, int16_t version,
                                  int32_t correlation_id, struct buf *out);

#endif
