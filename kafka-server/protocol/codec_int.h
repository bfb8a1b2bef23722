/* What the files of the codec share, and nobody else sees. */
#ifndef CULEX_PROTOCOL_CODEC_INT_H
#define CULEX_PROTOCOL_CODEC_INT_H

#include "kafka-server/protocol/codec_table.h"

#define CODEC_STRING_BYTES_MAX INT16_MAX /* Kafka's bound, also where the length could say more */
#define CODEC_PATH_MAX         (CODEC_DEPTH_MAX + 1)

/* Where a walk is, for the sentence about what went wrong: topics[3].partitions[0].fetch_offset */
struct codec_path {
    const struct codec_message *message;
    int version;
    int depth; /* of the field at hand; 0: none yet */
    struct {
        const char *name;
        int32_t index; /* -1: not inside an array */
    } at[CODEC_PATH_MAX + 1];
};

/* ERR_VERSION, with its sentence, when the message has no such version. */
enum err codec_path_start(struct codec_path *p, const struct codec_message *t, int version,
                          struct errmsg *m) MUST_CHECK;
/* Returns e; m, if there is one, says "FetchRequest v12 topics[3].partitions: " and the
 * sentence. */
enum err codec_fail(const struct codec_path *p, struct errmsg *m, enum err e, const char *fmt, ...)
    PRINTF_LIKE(4, 5);

static inline void codec_path_enter(struct codec_path *p, const struct codec_field *f)
{
    ASSERT(p->depth < CODEC_PATH_MAX);
    p->depth++;
    p->at[p->depth].name = f->name;
    p->at[p->depth].index = -1;
}

struct codec_type_facts {
    uint8_t size;     /* of the C type */
    uint8_t wire_min; /* bytes on the wire that a value needs at least */
};
extern const struct codec_type_facts codec_types[CODEC_TYPE_COUNT]; /* CODEC_STRUCT: unused */

/* Sets a field of a zeroed struct to its default. */
void codec_field_init(const struct codec_field *f, void *out);
bool codec_field_is_default(const struct codec_field *f, const void *in);

static inline bool codec_version_has(const struct codec_field *f, int version)
{
    return version >= f->version_min && version <= f->version_max;
}

static inline bool codec_flexible(const struct codec_path *p)
{
    return p->version >= p->message->flexible_min;
}

static inline size_t codec_element_bytes(const struct codec_field *f)
{
    return f->type == CODEC_STRUCT ? f->sub->struct_bytes : codec_types[f->type].size;
}

static inline bool codec_is_pointer(const struct codec_field *f)
{
    return f->type == CODEC_STRUCT && f->nullable && !f->array;
}

/* The members of a C struct at the places that the table names. */
static inline void *codec_member(void *out, size_t offset)
{
    return (uint8_t *)out + offset;
}

static inline const void *codec_member_of(const void *in, size_t offset)
{
    return (const uint8_t *)in + offset;
}

static inline void *codec_pointer_at(const void *in, size_t offset)
{
    void *p;
    memcpy(&p, codec_member_of(in, offset), sizeof p);
    return p;
}

static inline int32_t codec_count_at(const void *in, const struct codec_field *f)
{
    int32_t n;
    memcpy(&n, codec_member_of(in, f->count_offset), sizeof n);
    return n;
}

static inline void codec_array_set(void *out, const struct codec_field *f, void *data,
                                   int32_t count)
{
    memcpy(codec_member(out, f->offset), &data, sizeof data);
    memcpy(codec_member(out, f->count_offset), &count, sizeof count);
}

#endif
