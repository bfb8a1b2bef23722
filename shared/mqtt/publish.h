/* A captured publish, and its frame in the capture ring.
 *
 * The broker writes a frame, the writer beside it reads it, perhaps that of a later broker with
 * another version and configuration: so a frame carries a version, and streams by ids that are made
 * of their names alone (stream_id). */
#ifndef CULEX_MQTT_PUBLISH_H
#define CULEX_MQTT_PUBLISH_H

#include "shared/base/bytes.h"
#include "shared/base/err.h"

#define PUBLISH_USER_PROPERTIES_MAX 1000 /* with ours it stays below a record's limit of headers */
#define PUBLISH_STREAMS_MAX         4096 /* that one publish may match */

struct publish_property {
    struct slice name;
    struct slice value;
};

/* All slices are borrowed. data NULL: the publish has none, or no matched stream asks for it. */
struct publish {
    int64_t timestamp_ms; /* when the broker had it; since 1970 */
    struct slice topic;
    struct slice payload; /* len 0: empty, whatever data is */
    uint8_t qos;
    bool retain;
    int8_t payload_format; /* MQTT 5 payload format indicator 0 or 1; -1: none */
    struct slice client_id;
    struct slice username;
    struct slice content_type;
    struct slice response_topic;
    struct slice correlation_data;
    const struct publish_property *user; /* user properties, in the publisher's order */
    uint32_t user_count;
};

/* One without anything, to be filled in. Word by word: cleared as a whole, or slice by slice,
 * compilers use instructions that take longer than all else that a publish costs here (they store a
 * string of words, or load as one what has just been stored as two). */
static inline void publish_init(struct publish *p)
{
    p->timestamp_ms = 0;
    slice_clear(&p->topic);
    slice_clear(&p->payload);
    slice_clear(&p->client_id);
    slice_clear(&p->username);
    slice_clear(&p->content_type);
    slice_clear(&p->response_topic);
    slice_clear(&p->correlation_data);
    p->qos = 0;
    p->retain = false;
    p->payload_format = -1;
    p->user = NULL;
    p->user_count = 0;
}

/* What a stream is called inside a frame: 64 bits of its name, the same in every run. */
uint64_t stream_id(struct slice name);

/* Bytes of the frame; 0 where a part is longer than MQTT allows or there are too many parts. */
size_t publish_frame_size(const struct publish *p, size_t stream_count);
/* Writes exactly publish_frame_size bytes. Returns crc32c of them, begun with crc. */
uint32_t publish_frame_put(const struct publish *p, const uint64_t *streams, size_t stream_count,
                           uint8_t *out, uint32_t crc);

/* What a frame holds; slices are borrowed from it. About 100 KB: one per thread, not on a stack. */
struct publish_frame {
    struct publish publish; /* user points at properties below */
    uint32_t stream_count;
    uint64_t streams[PUBLISH_STREAMS_MAX];
    struct publish_property properties[PUBLISH_USER_PROPERTIES_MAX];
};
/* ERR_CORRUPT; ERR_VERSION: written by another version. */
enum err publish_frame_get(struct slice frame, struct publish_frame *f) MUST_CHECK;

#endif
