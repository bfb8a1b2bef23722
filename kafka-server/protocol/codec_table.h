/* How a message's table looks: what the generator writes and the codec reads. Nobody else includes
 * this but tests that walk messages. */
#ifndef CULEX_PROTOCOL_CODEC_TABLE_H
#define CULEX_PROTOCOL_CODEC_TABLE_H

#include "kafka-server/protocol/codec.h"

enum codec_type {
    CODEC_BOOL,
    CODEC_INT8,
    CODEC_INT16,
    CODEC_UINT16,
    CODEC_INT32,
    CODEC_INT64,
    CODEC_FLOAT64,
    CODEC_UUID,
    CODEC_STRING,
    CODEC_BYTES,
    CODEC_RECORDS,
    CODEC_STRUCT,
    CODEC_TYPE_COUNT,
};

#define CODEC_VERSION_NONE 127 /* as *_min: in no version; as version_max: no end */
#define CODEC_TAGS_MAX     8   /* tagged fields of one struct that the schema may have */

/* Versions are those of the message. 40 bytes. */
struct codec_field {
    const char *name;                 /* as in C: snake_case */
    const struct codec_message *sub;  /* CODEC_STRUCT: its table */
    int64_t fallback;                 /* default of bool and integer types */
    uint16_t offset;                  /* in the C struct */
    uint16_t count_offset;            /* array: of its count */
    uint8_t type;                     /* enum codec_type, of the element if array */
    uint8_t version_min, version_max; /* that carry the field */
    uint8_t null_min;                 /* first version in which it may be null */
    int8_t tag;                       /* -1: a plain field */
    bool array;
    bool nullable;     /* in some version; a nullable struct is a pointer */
    bool default_null; /* default is null */
    bool ignorable;    /* silently left out of a version that lacks it */
};

struct codec_message {
    const char *name;                 /* "FetchRequest", "FetchRequest.Topics" */
    const struct codec_field *fields; /* as on the wire; tagged ones last, by tag */
    uint16_t field_count;
    uint16_t plain_count;    /* fields before the tagged ones */
    uint16_t struct_bytes;   /* size of the C struct */
    uint16_t wire_bytes_min; /* no version needs fewer */
    uint8_t version_min, version_max;
    uint8_t flexible_min; /* CODEC_VERSION_NONE: never */
};

#endif
