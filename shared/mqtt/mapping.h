/* A captured publish as a Kafka record: the contract with the user. Once a stream holds data, none
 * of these rules may change for it.
 *
 *   value    the payload's bytes; empty is empty and not null, but for a retained empty publish on
 *            a compacted stream, which is null: a tombstone
 *   key      as the stream says; null where the publish has none. From a payload: a string as it
 *            reads, a number, true or false as it is written (json_path.h)
 *   headers  full: user properties as they came, then mqtt.topic, mqtt.qos, mqtt.retained,
 *            mqtt.client.id, mqtt.username (where asked for), content-type, mqtt.response-topic,
 *            mqtt.correlation-data, mqtt.payload-format-indicator, each only where there is one
 *            minimal: mqtt.topic. none. */
#ifndef CULEX_MQTT_MAPPING_H
#define CULEX_MQTT_MAPPING_H

#include "shared/config/config.h"
#include "shared/mqtt/publish.h"
#include "shared/record/record.h"

#define MAPPING_JSON_BYTES_MAX (1u << 20) /* a longer payload is not searched for its key: null */
#define MAPPING_HEADERS_MAX    (PUBLISH_USER_PROPERTIES_MAX + 16)

/* Room for one record's parts; about 32 KB, one per thread, reused. */
struct mapping {
    struct record_header headers[MAPPING_HEADERS_MAX];
    struct buf key;    /* a key that is no part of the publish */
    uint32_t shadowed; /* user properties named mqtt.* in the last record */
    bool unkeyed;      /* the last record lacks the key that its stream asks for */
};

void mapping_init(struct mapping *m);
void mapping_fini(struct mapping *m);
/* Fills r with slices of p, of s and of m: borrowed until the next call. Cannot fail: a key that
 * cannot be made is null. r->offset stays 0. */
void mapping_record(struct mapping *m, const struct config_stream *s, const struct publish *p,
                    struct record *r);

/* Which parts of a publish a stream needs, so that the broker copies no others. */
enum mapping_needs {
    NEEDS_CLIENT_ID = 1,
    NEEDS_USERNAME = 2,
    NEEDS_USER_PROPERTIES = 4,
    NEEDS_PROPERTIES = 8, /* content-type, response-topic, correlation-data, format */
};
unsigned mapping_stream_needs(const struct config_stream *s);

#endif
