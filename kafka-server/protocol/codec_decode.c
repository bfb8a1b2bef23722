/* Decoding: bytes of a client, which are not trusted, into structs.
 *
 * A length is compared with the bytes that are left before anything is allocated, an array's
 * also with what its elements need at least, and the arena has the last word. The depth is that
 * of the schema, which the generator bounds. A tag is read with the end of the input set to the
 * tag's end, so that nothing inside it can reach beyond. */
#include "kafka-server/protocol/codec_int.h"

struct decoder {
    struct reader in;
    struct arena *arena;
    struct errmsg *m;
    struct codec_path path;
};

static enum err missing(struct decoder *d, size_t n)
{
    return codec_fail(&d->path, d->m, ERR_CORRUPT, "%zu bytes missing", n - reader_left(&d->in));
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
    return d->in.failed ? codec_fail(&d->path, d->m, ERR_CORRUPT, "bad variable-length number")
                        : OK;
}

/* Reads a length of `width` bytes, or a compact one. *len -1: null, which the version must
 * allow. */
static enum err decode_length(struct decoder *d, const struct codec_field *f, size_t width,
                              int32_t *len)
{
    if (codec_flexible(&d->path)) {
        uint32_t v;
        enum err e = decode_uvarint(d, &v);
        if (e) {
            return e;
        }
        if (v > INT32_MAX) {
            return codec_fail(&d->path, d->m, ERR_CORRUPT, "length %u", v - 1);
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
        return codec_fail(&d->path, d->m, ERR_CORRUPT, "length %d", *len);
    }
    if (*len == -1 && d->path.version < f->null_min) {
        return codec_fail(&d->path, d->m, ERR_CORRUPT, "null is not allowed");
    }
    return OK;
}

static enum err decode_string(struct decoder *d, const struct codec_field *f, struct kstr *out)
{
    int32_t len = -1;
    enum err e = decode_length(d, f, 2, &len);
    if (e) {
        return e;
    }
    if (len > CODEC_STRING_BYTES_MAX) {
        return codec_fail(&d->path, d->m, ERR_CORRUPT, "string of %d bytes", len);
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
    int32_t len = -1;
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
            return codec_fail(&d->path, d->m, ERR_NOMEM, "no memory");
        }
        *iov = (struct iovec){(void *)b.data, (size_t)b.len};
        out->iov = iov;
        out->iov_count = 1;
    }
    return OK;
}

static enum err decode_fixed(struct decoder *d, enum codec_type type, void *out)
{
    size_t n = codec_types[type].wire_min;
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
    int32_t count = -1;
    enum err e = decode_length(d, f, 4, &count);
    if (e) {
        return e;
    }
    if (count <= 0) {
        codec_array_set(out, f, NULL, count);
        return OK;
    }
    size_t wire_min =
        f->type == CODEC_STRUCT ? f->sub->wire_bytes_min : codec_types[f->type].wire_min;
    if ((size_t)count > reader_left(&d->in) / (wire_min ? wire_min : 1)) {
        return codec_fail(&d->path, d->m, ERR_CORRUPT, "%d elements in %zu bytes", count,
                          reader_left(&d->in));
    }
    if (count > CODEC_ARRAY_MAX) {
        return codec_fail(&d->path, d->m, ERR_TOO_LARGE, "%d elements, at most %d", count,
                          CODEC_ARRAY_MAX);
    }
    size_t size = codec_element_bytes(f);
    uint8_t *list = arena_array(d->arena, (size_t)count, size);
    if (!list) {
        return codec_fail(&d->path, d->m, ERR_NOMEM, "no memory for %d elements", count);
    }
    codec_array_set(out, f, list, count);
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
                   ? codec_fail(&d->path, d->m, ERR_CORRUPT, "null is not allowed")
                   : OK;
    }
    void *s = arena_alloc(d->arena, f->sub->struct_bytes);
    if (!s) {
        return codec_fail(&d->path, d->m, ERR_NOMEM, "no memory");
    }
    memcpy(codec_member(out, f->offset), &s, sizeof s);
    return decode_struct(d, f->sub, s);
}

static enum err decode_field(struct decoder *d, const struct codec_field *f, void *out)
{
    codec_path_enter(&d->path, f);
    enum err e;
    if (f->array) {
        e = decode_array(d, f, out);
    } else if (codec_is_pointer(f)) {
        e = decode_pointer(d, f, out);
    } else {
        e = decode_value(d, f, codec_member(out, f->offset));
    }
    if (!e) {
        d->path.depth--; /* after a failure the path is done with, and the caller only returns */
    }
    return e;
}

static const struct codec_field *tag_find(const struct codec_message *t, int version, uint32_t tag)
{
    for (int i = t->plain_count; i < t->field_count; i++) {
        if ((uint32_t)t->fields[i].tag == tag && codec_version_has(&t->fields[i], version)) {
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
            return codec_fail(&d->path, d->m, ERR_CORRUPT, "tag %u: %zu bytes missing", tag,
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
            e = codec_fail(&d->path, d->m, ERR_CORRUPT, "tag %u: %zu bytes too many", tag,
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
        if (!codec_version_has(f, d->path.version)) {
            codec_field_init(f, out);
            continue;
        }
        enum err e = decode_field(d, f, out);
        if (e) {
            return e;
        }
    }
    for (int i = t->plain_count; i < t->field_count; i++) {
        codec_field_init(&t->fields[i], out);
    }
    return codec_flexible(&d->path) ? decode_tags(d, t, out) : OK;
}

enum err codec_decode_prefix(const struct codec_message *t, int16_t version, struct slice in,
                             struct arena *a, void *out, size_t *left, struct errmsg *m)
{
    struct decoder d = {.in = reader_make(in), .arena = a, .m = m};
    *left = in.len;
    enum err e = codec_path_start(&d.path, t, version, m);
    if (e) {
        return e;
    }
    memset(out, 0, t->struct_bytes);
    e = decode_struct(&d, t, out);
    *left = reader_left(&d.in);
    return e;
}

enum err codec_decode(const struct codec_message *t, int16_t version, struct slice in,
                      struct arena *a, void *out, struct errmsg *m)
{
    size_t left;
    enum err e = codec_decode_prefix(t, version, in, a, out, &left, m);
    if (!e && left > 0) {
        e = err_set(m, ERR_CORRUPT, "%s v%d: %zu bytes too many", t->name, version, left);
    }
    return e;
}
