/* The interpreter of message tables.
 *
 * Four walks over the same table: decode, encode, print, and set to defaults. Each is a function for a struct, one
 * for a field (which knows arrays and null) and one for a single value (a switch over the types). A
 * message on the wire is
 *
 *     struct  = plain fields in the schema's order, then, in flexible versions, tags
 *     tags    = uvarint count, then per tag: uvarint tag, uvarint size, the field
 *     array   = length, elements                  length: int32, -1 is null; flexible: uvarint of n + 1
 *     string  = length, bytes                     length: int16 likewise
 *     bytes   = length, bytes                     length: int32 likewise; records are bytes
 *     struct? = int8 1 and the struct, or int8 -1 for null
 *
 * What a client sends is not trusted: a length is compared with the bytes that are left before
 * anything is allocated, an array's also with what its elements need at least, and the arena has
 * the last word. The depth is that of the schema, which the generator bounds.
 *
 * Rejected: straight-line code generated per message (six times the object code, nothing gained that a
 * client could see), and a table per version (the test of two bytes per field costs less than a
 * cache miss). */
#include "kafka-server/protocol/codec.h"

#include <stdio.h>

#include "kafka-server/protocol/codec_table.h"

#define STRING_BYTES_MAX  INT16_MAX /* Kafka's bound, also where the length could say more */
#define PRINT_STRING_MAX  128       /* bytes of a string that codec_print shows */
#define PATH_MAX_FIELDS   (CODEC_DEPTH_MAX + 1)
#define API_VERSIONS_KEY  18

/* Where a walk is, for the sentence about what went wrong: topics[3].partitions[0].fetch_offset */
struct path {
    const struct codec_message *message;
    int version;
    int depth; /* of the field at hand; 0: none yet */
    struct {
        const char *name;
        int32_t index; /* -1: not inside an array */
    } at[PATH_MAX_FIELDS + 1];
};

static const struct {
    uint8_t size;     /* of the C type */
    uint8_t wire_min; /* bytes on the wire that a value needs at least */
} type_facts[CODEC_TYPE_COUNT] = {
    [CODEC_BOOL] = {sizeof(bool), 1},           [CODEC_INT8] = {1, 1},
    [CODEC_INT16] = {2, 2},                     [CODEC_UINT16] = {2, 2},
    [CODEC_INT32] = {4, 4},                     [CODEC_INT64] = {8, 8},
    [CODEC_FLOAT64] = {8, 8},                   [CODEC_UUID] = {sizeof(struct uuid), 16},
    [CODEC_STRING] = {sizeof(struct kstr), 1},  [CODEC_BYTES] = {sizeof(struct kbytes), 1},
    [CODEC_RECORDS] = {sizeof(struct krecords), 1},
};

static bool version_has(const struct codec_field *f, int version)
{
    return version >= f->version_min && version <= f->version_max;
}

static bool flexible(const struct path *p)
{
    return p->version >= p->message->flexible_min;
}

static size_t element_bytes(const struct codec_field *f)
{
    return f->type == CODEC_STRUCT ? f->sub->struct_bytes : type_facts[f->type].size;
}

static bool is_pointer(const struct codec_field *f)
{
    return f->type == CODEC_STRUCT && f->nullable && !f->array;
}

/* The members of a C struct at the places that the table names. */
static void *member(void *out, size_t offset)
{
    return (uint8_t *)out + offset;
}
static const void *member_of(const void *in, size_t offset)
{
    return (const uint8_t *)in + offset;
}
static void *pointer_at(const void *in, size_t offset)
{
    void *p;
    memcpy(&p, member_of(in, offset), sizeof p);
    return p;
}
static int32_t count_at(const void *in, const struct codec_field *f)
{
    int32_t n;
    memcpy(&n, member_of(in, f->count_offset), sizeof n);
    return n;
}
static void array_set(void *out, const struct codec_field *f, void *data, int32_t count)
{
    memcpy(member(out, f->offset), &data, sizeof data);
    memcpy(member(out, f->count_offset), &count, sizeof count);
}

static enum err fail(const struct path *p, struct errmsg *m, enum err e, const char *fmt, ...)
    PRINTF_LIKE(4, 5);
static enum err fail(const struct path *p, struct errmsg *m, enum err e, const char *fmt, ...)
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

static enum err path_start(struct path *p, const struct codec_message *t, int version,
                           struct errmsg *m)
{
    *p = (struct path){.message = t, .version = version};
    if (version < t->version_min || version > t->version_max) {
        return fail(p, m, ERR_VERSION, "versions are %d to %d", t->version_min, t->version_max);
    }
    return OK;
}

static void path_enter(struct path *p, const struct codec_field *f)
{
    ASSERT(p->depth < PATH_MAX_FIELDS);
    p->depth++;
    p->at[p->depth].name = f->name;
    p->at[p->depth].index = -1;
}

/* --- defaults ------------------------------------------------------------------------------------ */

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
static void field_init(const struct codec_field *f, void *out)
{
    void *at = member(out, f->offset);
    if (f->array) {
        array_set(out, f, NULL, f->default_null ? -1 : 0);
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
        field_init(&t->fields[i], out);
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

static bool field_is_default(const struct codec_field *f, const void *in)
{
    const void *at = member_of(in, f->offset);
    int32_t len_default = f->default_null ? -1 : 0;
    if (f->array) {
        return count_at(in, f) == len_default;
    }
    switch ((enum codec_type)f->type) {
    case CODEC_STRUCT:
        return f->nullable ? pointer_at(in, f->offset) == NULL : struct_is_default(f->sub, at);
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
        return memcmp(at, &expected, type_facts[f->type].size) == 0;
    }
    }
}

static bool struct_is_default(const struct codec_message *t, const void *in)
{
    for (int i = 0; i < t->field_count; i++) {
        if (!field_is_default(&t->fields[i], in)) {
            return false;
        }
    }
    return true;
}

/* --- decoding ------------------------------------------------------------------------------------ */

struct decoder {
    struct reader in;
    struct arena *arena;
    struct errmsg *m;
    struct path path;
};

static enum err missing(struct decoder *d, size_t n)
{
    return fail(&d->path, d->m, ERR_CORRUPT, "%zu bytes missing", n - reader_left(&d->in));
}

/* Borrows n bytes, or NULL. */
static const uint8_t *take(struct decoder *d, size_t n)
{
    if (n > (size_t)(d->in.end - d->in.p)) {
        return NULL;
    }
    const uint8_t *p = d->in.p;
    d->in.p += n;
    return p;
}

static enum err decode_uvarint(struct decoder *d, uint32_t *v)
{
    *v = reader_uvarint32(&d->in);
    return d->in.failed ? fail(&d->path, d->m, ERR_CORRUPT, "bad variable-length number") : OK;
}

/* Reads a length of `width` bytes, or a compact one. *len -1: null, which the version must allow. */
static enum err decode_length(struct decoder *d, const struct codec_field *f, size_t width,
                              int32_t *len)
{
    if (flexible(&d->path)) {
        uint32_t v;
        enum err e = decode_uvarint(d, &v);
        if (e) {
            return e;
        }
        if (v > INT32_MAX) {
            return fail(&d->path, d->m, ERR_CORRUPT, "length %u", v - 1);
        }
        *len = (int32_t)v - 1;
    } else {
        const uint8_t *p = take(d, width);
        if (!p) {
            return missing(d, width);
        }
        *len = width == 2 ? (int16_t)be16_get(p) : (int32_t)be32_get(p);
    }
    if (*len < -1) {
        return fail(&d->path, d->m, ERR_CORRUPT, "length %d", *len);
    }
    if (*len == -1 && d->path.version < f->null_min) {
        return fail(&d->path, d->m, ERR_CORRUPT, "null is not allowed");
    }
    return OK;
}

static enum err decode_string(struct decoder *d, const struct codec_field *f, struct kstr *out)
{
    int32_t len;
    enum err e = decode_length(d, f, 2, &len);
    if (e) {
        return e;
    }
    if (len > STRING_BYTES_MAX) {
        return fail(&d->path, d->m, ERR_CORRUPT, "string of %d bytes", len);
    }
    out->len = len;
    if (len > 0) {
        out->data = (const char *)take(d, (size_t)len);
        return out->data ? OK : missing(d, (size_t)len);
    }
    return OK;
}

static enum err decode_bytes(struct decoder *d, const struct codec_field *f, struct kbytes *out)
{
    int32_t len;
    enum err e = decode_length(d, f, 4, &len);
    if (e) {
        return e;
    }
    out->len = len;
    if (len > 0) {
        out->data = take(d, (size_t)len);
        return out->data ? OK : missing(d, (size_t)len);
    }
    return OK;
}

static enum err decode_records(struct decoder *d, const struct codec_field *f, struct krecords *out)
{
    struct kbytes b = {0};
    enum err e = decode_bytes(d, f, &b);
    if (e) {
        return e;
    }
    out->bytes = b.len;
    if (b.len > 0) {
        struct iovec *iov = arena_alloc(d->arena, sizeof *iov);
        if (!iov) {
            return fail(&d->path, d->m, ERR_NOMEM, "no memory");
        }
        *iov = (struct iovec){(void *)b.data, (size_t)b.len};
        out->iov = iov;
        out->iov_count = 1;
    }
    return OK;
}

static enum err decode_fixed(struct decoder *d, enum codec_type type, void *out)
{
    size_t n = type_facts[type].wire_min;
    const uint8_t *p = take(d, n);
    if (!p) {
        return missing(d, n);
    }
    switch (type) {
    case CODEC_INT8:
    case CODEC_UUID:
        memcpy(out, p, n);
        break;
    case CODEC_INT16:
    case CODEC_UINT16: {
        uint16_t v = be16_get(p);
        memcpy(out, &v, sizeof v);
        break;
    }
    case CODEC_INT32: {
        uint32_t v = be32_get(p);
        memcpy(out, &v, sizeof v);
        break;
    }
    case CODEC_INT64:
    case CODEC_FLOAT64: {
        uint64_t v = be64_get(p);
        memcpy(out, &v, sizeof v);
        break;
    }
    default: { /* CODEC_BOOL: Kafka takes any byte but 0 for true */
        bool v = *p != 0;
        memcpy(out, &v, sizeof v);
        break;
    }
    }
    return OK;
}

static enum err decode_struct(struct decoder *d, const struct codec_message *t, void *out);

static enum err decode_value(struct decoder *d, const struct codec_field *f, void *out)
{
    switch ((enum codec_type)f->type) {
    case CODEC_STRUCT:
        return decode_struct(d, f->sub, out);
    case CODEC_STRING:
        return decode_string(d, f, out);
    case CODEC_BYTES:
        return decode_bytes(d, f, out);
    case CODEC_RECORDS:
        return decode_records(d, f, out);
    default:
        return decode_fixed(d, f->type, out);
    }
}

static enum err decode_array(struct decoder *d, const struct codec_field *f, void *out)
{
    int32_t count;
    enum err e = decode_length(d, f, 4, &count);
    if (e) {
        return e;
    }
    if (count <= 0) {
        array_set(out, f, NULL, count);
        return OK;
    }
    size_t wire_min = f->type == CODEC_STRUCT ? f->sub->wire_bytes_min : type_facts[f->type].wire_min;
    if ((size_t)count > reader_left(&d->in) / (wire_min ? wire_min : 1)) {
        return fail(&d->path, d->m, ERR_CORRUPT, "%d elements in %zu bytes", count,
                    reader_left(&d->in));
    }
    if (count > CODEC_ARRAY_MAX) {
        return fail(&d->path, d->m, ERR_TOO_LARGE, "%d elements, at most %d", count,
                    CODEC_ARRAY_MAX);
    }
    size_t size = element_bytes(f);
    uint8_t *list = arena_array(d->arena, (size_t)count, size);
    if (!list) {
        return fail(&d->path, d->m, ERR_NOMEM, "no memory for %d elements", count);
    }
    array_set(out, f, list, count);
    for (int32_t i = 0; i < count && !e; i++) {
        d->path.at[d->path.depth].index = i;
        e = decode_value(d, f, list + (size_t)i * size);
    }
    return e;
}

/* A nullable struct: a byte that says whether it is there, then the struct, in the arena. */
static enum err decode_pointer(struct decoder *d, const struct codec_field *f, void *out)
{
    const uint8_t *there = take(d, 1);
    if (!there) {
        return missing(d, 1);
    }
    if ((int8_t)*there < 0) {
        return d->path.version < f->null_min
                   ? fail(&d->path, d->m, ERR_CORRUPT, "null is not allowed")
                   : OK;
    }
    void *s = arena_alloc(d->arena, f->sub->struct_bytes);
    if (!s) {
        return fail(&d->path, d->m, ERR_NOMEM, "no memory");
    }
    memcpy(member(out, f->offset), &s, sizeof s);
    return decode_struct(d, f->sub, s);
}

static enum err decode_field(struct decoder *d, const struct codec_field *f, void *out)
{
    path_enter(&d->path, f);
    enum err e;
    if (f->array) {
        e = decode_array(d, f, out);
    } else if (is_pointer(f)) {
        e = decode_pointer(d, f, out);
    } else {
        e = decode_value(d, f, member(out, f->offset));
    }
    if (!e) {
        d->path.depth--; /* after a failure the path is done with, and the caller only returns */
    }
    return e;
}

static const struct codec_field *tag_find(const struct codec_message *t, int version, uint32_t tag)
{
    for (int i = t->plain_count; i < t->field_count; i++) {
        if ((uint32_t)t->fields[i].tag == tag && version_has(&t->fields[i], version)) {
            return &t->fields[i];
        }
    }
    return NULL;
}

static enum err decode_tags(struct decoder *d, const struct codec_message *t, void *out)
{
    uint32_t count, tag, size;
    enum err e = decode_uvarint(d, &count);
    for (uint32_t i = 0; i < count && !e; i++) {
        if ((e = decode_uvarint(d, &tag)) || (e = decode_uvarint(d, &size))) {
            return e;
        }
        if (size > reader_left(&d->in)) {
            return fail(&d->path, d->m, ERR_CORRUPT, "tag %u: %zu bytes missing", tag,
                        size - reader_left(&d->in));
        }
        const struct codec_field *f = tag_find(t, d->path.version, tag);
        if (!f) {
            d->in.p += size;
            continue;
        }
        const uint8_t *end = d->in.end;
        d->in.end = d->in.p + size;
        e = decode_field(d, f, out);
        if (!e && d->in.p != d->in.end) {
            e = fail(&d->path, d->m, ERR_CORRUPT, "tag %u: %zu bytes too many", tag,
                     reader_left(&d->in));
        }
        d->in.end = end;
    }
    return e;
}

static enum err decode_struct(struct decoder *d, const struct codec_message *t, void *out)
{
    for (int i = 0; i < t->plain_count; i++) {
        const struct codec_field *f = &t->fields[i];
        if (!version_has(f, d->path.version)) {
            field_init(f, out);
            continue;
        }
        enum err e = decode_field(d, f, out);
        if (e) {
            return e;
        }
    }
    for (int i = t->plain_count; i < t->field_count; i++) {
        field_init(&t->fields[i], out);
    }
    return flexible(&d->path) ? decode_tags(d, t, out) : OK;
}

enum err codec_decode(const struct codec_message *t, int16_t version, struct slice in,
                      struct arena *a, void *out, struct errmsg *m)
{
    struct decoder d = {.in = reader_make(in), .arena = a, .m = m};
    enum err e = path_start(&d.path, t, version, m);
    if (e) {
        return e;
    }
    memset(out, 0, t->struct_bytes);
    e = decode_struct(&d, t, out);
    if (!e && reader_left(&d.in) > 0) {
        e = fail(&d.path, m, ERR_CORRUPT, "%zu bytes too many", reader_left(&d.in));
    }
    return e;
}

/* --- encoding ------------------------------------------------------------------------------------ */

struct encoder {
    struct buf *out;
    struct codec_holes *holes; /* NULL: records are copied */
    struct errmsg *m;
    struct path path;
};

static enum err encode_length(struct encoder *x, const struct codec_field *f, size_t width,
                              int32_t len)
{
    if (len < 0 && x->path.version < f->null_min) {
        return fail(&x->path, x->m, ERR_INVALID, "null is not allowed");
    }
    len = len < 0 ? -1 : len;
    if (flexible(&x->path)) {
        buf_put_uvarint(x->out, (uint64_t)len + 1);
    } else if (width == 2) {
        buf_put_be16(x->out, (uint16_t)len);
    } else {
        buf_put_be32(x->out, (uint32_t)len);
    }
    return OK;
}

static enum err encode_string(struct encoder *x, const struct codec_field *f, const struct kstr *s)
{
    if (s->len > STRING_BYTES_MAX) {
        return fail(&x->path, x->m, ERR_TOO_LARGE, "string of %d bytes", s->len);
    }
    enum err e = encode_length(x, f, 2, s->len);
    if (!e && s->len > 0) {
        buf_put(x->out, s->data, (size_t)s->len);
    }
    return e;
}

static enum err encode_bytes(struct encoder *x, const struct codec_field *f, const struct kbytes *b)
{
    enum err e = encode_length(x, f, 4, b->len);
    if (!e && b->len > 0) {
        buf_put(x->out, b->data, (size_t)b->len);
    }
    return e;
}

static enum err encode_records(struct encoder *x, const struct codec_field *f,
                               const struct krecords *r)
{
    enum err e = encode_length(x, f, 4, r->bytes);
    if (e || r->bytes <= 0) {
        return e;
    }
    if (x->holes) {
        if (x->holes->count == x->holes->max) {
            return fail(&x->path, x->m, ERR_TOO_LARGE, "more than %zu pieces of records",
                        x->holes->max);
        }
        x->holes->list[x->holes->count++] = (struct codec_hole){x->out->len, r};
        return OK;
    }
    size_t sum = 0;
    for (int32_t i = 0; i < r->iov_count; i++) {
        buf_put(x->out, r->iov[i].iov_base, r->iov[i].iov_len);
        sum += r->iov[i].iov_len;
    }
    ASSERT(sum == (size_t)r->bytes);
    return OK;
}

static void encode_fixed(struct encoder *x, enum codec_type type, const void *in)
{
    switch (type) {
    case CODEC_BOOL:
    case CODEC_INT8:
        buf_put_u8(x->out, *(const uint8_t *)in);
        break;
    case CODEC_INT16:
    case CODEC_UINT16: {
        uint16_t v;
        memcpy(&v, in, sizeof v);
        buf_put_be16(x->out, v);
        break;
    }
    case CODEC_INT32: {
        uint32_t v;
        memcpy(&v, in, sizeof v);
        buf_put_be32(x->out, v);
        break;
    }
    case CODEC_INT64:
    case CODEC_FLOAT64: {
        uint64_t v;
        memcpy(&v, in, sizeof v);
        buf_put_be64(x->out, v);
        break;
    }
    default: /* CODEC_UUID */
        buf_put(x->out, in, type_facts[type].size);
        break;
    }
}

static enum err encode_struct(struct encoder *x, const struct codec_message *t, const void *in);

static enum err encode_value(struct encoder *x, const struct codec_field *f, const void *in)
{
    switch ((enum codec_type)f->type) {
    case CODEC_STRUCT:
        return encode_struct(x, f->sub, in);
    case CODEC_STRING:
        return encode_string(x, f, in);
    case CODEC_BYTES:
        return encode_bytes(x, f, in);
    case CODEC_RECORDS:
        return encode_records(x, f, in);
    default:
        encode_fixed(x, f->type, in);
        return OK;
    }
}

static enum err encode_array(struct encoder *x, const struct codec_field *f, const void *in)
{
    const uint8_t *list = pointer_at(in, f->offset);
    int32_t count = count_at(in, f);
    size_t size = element_bytes(f);
    if (count > CODEC_ARRAY_MAX) {
        return fail(&x->path, x->m, ERR_TOO_LARGE, "%d elements, at most %d", count,
                    CODEC_ARRAY_MAX);
    }
    enum err e = encode_length(x, f, 4, count);
    for (int32_t i = 0; i < count && !e; i++) {
        x->path.at[x->path.depth].index = i;
        e = encode_value(x, f, list + (size_t)i * size);
    }
    return e;
}

static enum err encode_pointer(struct encoder *x, const struct codec_field *f, const void *in)
{
    const void *s = pointer_at(in, f->offset);
    if (!s && x->path.version < f->null_min) {
        return fail(&x->path, x->m, ERR_INVALID, "null is not allowed");
    }
    buf_put_u8(x->out, s ? 1 : (uint8_t)-1);
    return s ? encode_struct(x, f->sub, s) : OK;
}

static enum err encode_field(struct encoder *x, const struct codec_field *f, const void *in)
{
    path_enter(&x->path, f);
    enum err e;
    if (f->array) {
        e = encode_array(x, f, in);
    } else if (is_pointer(f)) {
        e = encode_pointer(x, f, in);
    } else {
        e = encode_value(x, f, member_of(in, f->offset));
    }
    if (!e) {
        x->path.depth--;
    }
    return e;
}

/* The version lacks the field: fine when nobody would miss its value. */
static enum err leave_out(struct encoder *x, const struct codec_field *f, const void *in)
{
    if (f->ignorable || field_is_default(f, in)) {
        return OK;
    }
    path_enter(&x->path, f);
    return fail(&x->path, x->m, ERR_INVALID, "version %d cannot carry it", x->path.version);
}

/* A tag's size stands before it and is known after it: the field is written first, then moved. */
static enum err encode_tag(struct encoder *x, const struct codec_field *f, const void *in)
{
    buf_put_uvarint(x->out, (uint64_t)f->tag);
    size_t start = x->out->len;
    enum err e = encode_field(x, f, in);
    if (e) {
        return e;
    }
    size_t size = x->out->len - start;
    size_t width = uvarint_size(size);
    if (!buf_reserve(x->out, width)) {
        return OK; /* the buffer has failed, which its owner will see at the end */
    }
    memmove(x->out->data + start + width, x->out->data + start, size);
    uvarint_put(x->out->data + start, size);
    x->out->len += width;
    return OK;
}

static enum err encode_tags(struct encoder *x, const struct codec_message *t, const void *in)
{
    bool there[CODEC_TAGS_MAX] = {0};
    uint64_t count = 0;
    for (int i = t->plain_count; i < t->field_count; i++) {
        const struct codec_field *f = &t->fields[i];
        if (version_has(f, x->path.version)) {
            there[f->tag] = !field_is_default(f, in);
            count += there[f->tag];
        }
    }
    buf_put_uvarint(x->out, count);
    for (int i = t->plain_count; i < t->field_count; i++) {
        enum err e = there[t->fields[i].tag] ? encode_tag(x, &t->fields[i], in) : OK;
        if (e) {
            return e;
        }
    }
    return OK;
}

static enum err encode_struct(struct encoder *x, const struct codec_message *t, const void *in)
{
    for (int i = 0; i < t->field_count; i++) {
        const struct codec_field *f = &t->fields[i];
        enum err e = OK;
        if (!version_has(f, x->path.version)) {
            e = leave_out(x, f, in);
        } else if (f->tag < 0) {
            e = encode_field(x, f, in);
        }
        if (e) {
            return e;
        }
    }
    return flexible(&x->path) ? encode_tags(x, t, in) : OK;
}

enum err codec_encode(const struct codec_message *t, int16_t version, const void *in,
                      struct buf *out, struct codec_holes *holes, struct errmsg *m)
{
    struct encoder x = {.out = out, .holes = holes, .m = m};
    size_t len_before = out->len;
    size_t holes_before = holes ? holes->count : 0;
    enum err e = path_start(&x.path, t, version, m);
    if (e) {
        return e;
    }
    e = encode_struct(&x, t, in);
    if (!e && !buf_ok(out)) {
        e = fail(&x.path, m, ERR_NOMEM, "no memory, or larger than %zu bytes", out->max);
    }
    if (e) {
        out->len = len_before;
        if (holes) {
            holes->count = holes_before;
        }
    }
    return e;
}

/* --- printing ------------------------------------------------------------------------------------ */

static void print_string(const struct kstr *s, struct buf *out)
{
    if (s->len < 0) {
        buf_printf(out, "null");
        return;
    }
    buf_put_u8(out, '"');
    for (int32_t i = 0; i < s->len && i < PRINT_STRING_MAX; i++) {
        unsigned char c = (unsigned char)s->data[i];
        if (c == '"' || c == '\\') {
            buf_printf(out, "\\%c", c);
        } else if (c < ' ' || c == 0x7f) {
            buf_printf(out, "\\x%02x", c);
        } else {
            buf_put_u8(out, c);
        }
    }
    buf_printf(out, s->len > PRINT_STRING_MAX ? "…\"" : "\"");
}

static void print_size(int32_t len, struct buf *out)
{
    if (len < 0) {
        buf_printf(out, "null");
    } else {
        buf_printf(out, "<%d bytes>", len);
    }
}

static void print_struct(const struct codec_message *t, int version, const void *in,
                         struct buf *out);

static void print_value(const struct codec_field *f, int version, const void *in, struct buf *out)
{
    switch ((enum codec_type)f->type) {
    case CODEC_STRUCT:
        print_struct(f->sub, version, in, out);
        break;
    case CODEC_STRING:
        print_string(in, out);
        break;
    case CODEC_BYTES:
        print_size(((const struct kbytes *)in)->len, out);
        break;
    case CODEC_RECORDS:
        print_size(((const struct krecords *)in)->bytes, out);
        break;
    case CODEC_UUID: {
        char text[UUID_TEXT_BYTES];
        uuid_to_text(in, text);
        buf_printf(out, "%s", text);
        break;
    }
    case CODEC_BOOL:
        buf_printf(out, *(const bool *)in ? "true" : "false");
        break;
    case CODEC_INT8:
        buf_printf(out, "%d", *(const int8_t *)in);
        break;
    case CODEC_INT16:
        buf_printf(out, "%d", *(const int16_t *)in);
        break;
    case CODEC_UINT16:
        buf_printf(out, "%u", *(const uint16_t *)in);
        break;
    case CODEC_INT32:
        buf_printf(out, "%d", *(const int32_t *)in);
        break;
    case CODEC_INT64:
        buf_printf(out, "%lld", (long long)*(const int64_t *)in);
        break;
    case CODEC_FLOAT64:
        buf_printf(out, "%g", *(const double *)in);
        break;
    case CODEC_TYPE_COUNT:
        break;
    }
}

static void print_field(const struct codec_field *f, int version, const void *in, struct buf *out)
{
    buf_printf(out, "%s=", f->name);
    if (f->array) {
        const uint8_t *list = pointer_at(in, f->offset);
        int32_t count = count_at(in, f);
        size_t size = element_bytes(f);
        buf_printf(out, count < 0 ? "null" : "[");
        for (int32_t i = 0; i < count && buf_ok(out); i++) {
            buf_printf(out, i ? ", " : "");
            print_value(f, version, list + (size_t)i * size, out);
        }
        buf_printf(out, count < 0 ? "" : "]");
    } else if (is_pointer(f)) {
        const void *s = pointer_at(in, f->offset);
        if (s) {
            print_struct(f->sub, version, s, out);
        } else {
            buf_printf(out, "null");
        }
    } else {
        print_value(f, version, member_of(in, f->offset), out);
    }
}

static void print_struct(const struct codec_message *t, int version, const void *in,
                         struct buf *out)
{
    bool first = true;
    buf_put_u8(out, '{');
    for (int i = 0; i < t->field_count; i++) {
        const struct codec_field *f = &t->fields[i];
        if (version_has(f, version) && (f->tag < 0 || !field_is_default(f, in))) {
            buf_printf(out, first ? "" : ", ");
            print_field(f, version, in, out);
            first = false;
        }
    }
    buf_put_u8(out, '}');
}

void codec_print(const struct codec_message *t, int16_t version, const void *in, struct buf *out)
{
    print_struct(t, version, in, out);
}

/* --- tables and headers -------------------------------------------------------------------------- */

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

/* v1: key, version, correlation id, client id; v2: and tags. The client id's length is an int16 in both. */
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
