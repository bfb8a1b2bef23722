/* The interpreter of message tables: what its walks share, defaults, and the two headers.
 *
 * Four walks over the same table: decode, encode, print, and set to defaults. Each is a function
 * for a struct, one for a field (which knows arrays and null) and one for a single value (a switch
 * over the types). A message on the wire is
 *
 *     struct  = plain fields in the schema's order, then, in flexible versions, tags
 *     tags    = uvarint count, then per tag: uvarint tag, uvarint size, the field
 *     array   = length, elements     length: int32, -1 null; flexible: uvarint of n + 1, 0 null
 *     string  = length, bytes        length: int16 likewise
 *     bytes   = length, bytes        length: int32 likewise; records are bytes
 *     struct? = int8 1 and the struct, or int8 -1 for null
 *
 * Rejected: straight-line code generated per message (six times the object code, nothing gained
 * that a client could see), and a table per version (the test of two bytes per field costs less
 * than a cache miss). */
#include "kafka-server/protocol/codec_int.h"

#include <stdio.h>

#define API_VERSIONS_KEY 18

const struct codec_type_facts codec_types[CODEC_TYPE_COUNT] = {
    [CODEC_BOOL] = {sizeof(bool), 1},
    [CODEC_INT8] = {1, 1},
    [CODEC_INT16] = {2, 2},
    [CODEC_UINT16] = {2, 2},
    [CODEC_INT32] = {4, 4},
    [CODEC_INT64] = {8, 8},
    [CODEC_FLOAT64] = {8, 8},
    [CODEC_UUID] = {sizeof(struct uuid), 16},
    [CODEC_STRING] = {sizeof(struct kstr), 1},
    [CODEC_BYTES] = {sizeof(struct kbytes), 1},
    [CODEC_RECORDS] = {sizeof(struct krecords), 1},
};

/* --- where a walk is -------------------------------------------------------------------------- */

enum err codec_fail(const struct codec_path *p, struct errmsg *m, enum err e, const char *fmt, ...)
{
    if (!m) {
        return e;
    }
    size_t n = (size_t)snprintf(m->text, sizeof m->text, "%s v%d", p->message->name, p->version);
    for (int i = 1; i <= p->depth && n < sizeof m->text; i++) {
        n += (size_t)snprintf(m->text + n, sizeof m->text - n, "%s%s", i == 1 ? " " : ".",
                              p->at[i].name);
        if (p->at[i].index >= 0 && n < sizeof m->text) {
            n += (size_t)snprintf(m->text + n, sizeof m->text - n, "[%d]", p->at[i].index);
        }
    }
    if (n + 2 < sizeof m->text) {
        va_list ap;
        memcpy(m->text + n, ": ", 3);
        va_start(ap, fmt);
        vsnprintf(m->text + n + 2, sizeof m->text - n - 2, fmt, ap);
        va_end(ap);
    }
    return e;
}

enum err codec_path_start(struct codec_path *p, const struct codec_message *t, int version,
                          struct errmsg *m)
{
    *p = (struct codec_path){.message = t, .version = version};
    if (version < t->version_min || version > t->version_max) {
        return codec_fail(p, m, ERR_VERSION, "versions are %d to %d", t->version_min,
                          t->version_max);
    }
    return OK;
}

/* --- defaults --------------------------------------------------------------------------------- */

static void integer_set(void *out, enum codec_type type, int64_t v)
{
    switch (type) {
    case CODEC_BOOL: {
        bool b = v != 0;
        memcpy(out, &b, sizeof b);
        break;
    }
    case CODEC_INT8: {
        int8_t n = (int8_t)v;
        memcpy(out, &n, sizeof n);
        break;
    }
    case CODEC_INT16:
    case CODEC_UINT16: {
        int16_t n = (int16_t)v;
        memcpy(out, &n, sizeof n);
        break;
    }
    case CODEC_INT32: {
        int32_t n = (int32_t)v;
        memcpy(out, &n, sizeof n);
        break;
    }
    case CODEC_INT64:
        memcpy(out, &v, sizeof v);
        break;
    default:
        break;
    }
}

static void struct_init(const struct codec_message *t, void *out);

/* `out` is zeroed: only what is not all zero bytes has to be set. */
void codec_field_init(const struct codec_field *f, void *out)
{
    void *at = codec_member(out, f->offset);
    if (f->array) {
        codec_array_set(out, f, NULL, f->default_null ? -1 : 0);
    } else if (f->type == CODEC_STRUCT) {
        if (!f->nullable) {
            struct_init(f->sub, at);
        }
    } else if (f->type == CODEC_STRING) {
        ((struct kstr *)at)->len = f->default_null ? -1 : 0;
    } else if (f->type == CODEC_BYTES) {
        ((struct kbytes *)at)->len = f->default_null ? -1 : 0;
    } else if (f->type == CODEC_RECORDS) {
        ((struct krecords *)at)->bytes = f->default_null ? -1 : 0;
    } else if (f->fallback != 0) {
        integer_set(at, f->type, f->fallback);
    }
}

static void struct_init(const struct codec_message *t, void *out)
{
    for (int i = 0; i < t->field_count; i++) {
        codec_field_init(&t->fields[i], out);
    }
}

void codec_init(const struct codec_message *t, void *out)
{
    memset(out, 0, t->struct_bytes);
    struct_init(t, out);
}

void *codec_new_array(const struct codec_message *t, struct arena *a, int32_t count)
{
    ASSERT(count >= 0);
    uint8_t *list = arena_array(a, (size_t)count, t->struct_bytes);
    for (int32_t i = 0; list && i < count; i++) {
        struct_init(t, list + (size_t)i * t->struct_bytes);
    }
    return list;
}

static bool struct_is_default(const struct codec_message *t, const void *in);

bool codec_field_is_default(const struct codec_field *f, const void *in)
{
    const void *at = codec_member_of(in, f->offset);
    int32_t len_default = f->default_null ? -1 : 0;
    if (f->array) {
        return codec_count_at(in, f) == len_default;
    }
    switch ((enum codec_type)f->type) {
    case CODEC_STRUCT:
        return f->nullable ? codec_pointer_at(in, f->offset) == NULL
                           : struct_is_default(f->sub, at);
    case CODEC_STRING:
        return ((const struct kstr *)at)->len == len_default;
    case CODEC_BYTES:
        return ((const struct kbytes *)at)->len == len_default;
    case CODEC_RECORDS:
        return ((const struct krecords *)at)->bytes == len_default;
    case CODEC_UUID:
        return uuid_is_zero(at);
    case CODEC_FLOAT64: {
        static const double zero = 0;
        return memcmp(at, &zero, sizeof zero) == 0;
    }
    default: {
        int64_t expected = 0;
        integer_set(&expected, f->type, f->fallback);
        return memcmp(at, &expected, codec_types[f->type].size) == 0;
    }
    }
}

static bool struct_is_default(const struct codec_message *t, const void *in)
{
    for (int i = 0; i < t->field_count; i++) {
        if (!codec_field_is_default(&t->fields[i], in)) {
            return false;
        }
    }
    return true;
}

/* --- tables and headers ----------------------------------------------------------------------- */

const struct codec_api *codec_api_find(int16_t key)
{
    for (size_t i = 0; i < codec_api_count; i++) {
        if (codec_apis[i].key == key) {
            return &codec_apis[i];
        }
    }
    return NULL;
}

size_t codec_struct_bytes(const struct codec_message *m)
{
    return m->struct_bytes;
}

const char *codec_message_name(const struct codec_message *m)
{
    return m->name;
}

/* Skips a header's tags: none is defined. */
static void tags_skip(struct reader *r)
{
    uint32_t count = reader_uvarint32(r);
    for (uint32_t i = 0; i < count && !r->failed; i++) {
        reader_uvarint32(r);
        (void)reader_bytes(r, reader_uvarint32(r)); /* only to move on; `failed` is checked */
    }
}

/* v1: key, version, correlation id, client id; v2: and tags. The client id's length is an int16
 * in both. */
enum err codec_decode_header(struct slice frame, struct request_header *h, struct slice *body)
{
    struct reader r = reader_make(frame);
    *h = (struct request_header){.client_id = {NULL, -1}};
    *body = (struct slice){0};
    h->api_key = (int16_t)reader_be16(&r);
    h->api_version = (int16_t)reader_be16(&r);
    h->correlation_id = (int32_t)reader_be32(&r);
    if (r.failed) {
        return ERR_CORRUPT;
    }
    const struct codec_api *api = codec_api_find(h->api_key);
    if (!api || h->api_version < api->version_min || h->api_version > api->version_max) {
        return ERR_VERSION;
    }
    int16_t len = (int16_t)reader_be16(&r);
    if (len < -1) {
        return ERR_CORRUPT;
    }
    struct slice id = reader_bytes(&r, len > 0 ? (size_t)len : 0);
    h->client_id = (struct kstr){(const char *)id.data, len};
    if (h->api_version >= api->flexible_min) {
        tags_skip(&r);
    }
    *body = slice_make(r.p, reader_left(&r));
    return r.failed ? ERR_CORRUPT : OK;
}

void codec_encode_response_header(const struct codec_api *api, int16_t version,
                                  int32_t correlation_id, struct buf *out)
{
    buf_put_be32(out, (uint32_t)correlation_id);
    /* A client that asks for ApiVersions does not know yet what the server speaks. */
    if (version >= api->flexible_min && api->key != API_VERSIONS_KEY) {
        buf_put_u8(out, 0);
    }
}
