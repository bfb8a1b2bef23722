/* Encoding: structs into bytes.
 *
 * Records are not copied when the caller can send pieces: their length is written and the place
 * is remembered as a hole. What goes wrong here is our own doing (a null where none may be, a
 * value that the version cannot carry), but it is found out per request, so it is an error and
 * no ASSERT. */
#include "kafka-server/protocol/codec_int.h"

struct encoder {
    struct buf *out;
    struct codec_holes *holes; /* NULL: records are copied */
    struct errmsg *m;
    struct codec_path path;
};

static enum err encode_length(struct encoder *x, const struct codec_field *f, size_t width,
                              int32_t len)
{
    if (len < 0 && x->path.version < f->null_min) {
        return codec_fail(&x->path, x->m, ERR_INVALID, "null is not allowed");
    }
    len = len < 0 ? -1 : len;
    if (codec_flexible(&x->path)) {
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
    if (s->len > CODEC_STRING_BYTES_MAX) {
        return codec_fail(&x->path, x->m, ERR_TOO_LARGE, "string of %d bytes", s->len);
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
            return codec_fail(&x->path, x->m, ERR_TOO_LARGE, "more than %zu pieces of records",
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
        buf_put(x->out, in, codec_types[type].size);
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
    const uint8_t *list = codec_pointer_at(in, f->offset);
    int32_t count = codec_count_at(in, f);
    size_t size = codec_element_bytes(f);
    if (count > CODEC_ARRAY_MAX) {
        return codec_fail(&x->path, x->m, ERR_TOO_LARGE, "%d elements, at most %d", count,
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
    const void *s = codec_pointer_at(in, f->offset);
    if (!s && x->path.version < f->null_min) {
        return codec_fail(&x->path, x->m, ERR_INVALID, "null is not allowed");
    }
    buf_put_u8(x->out, s ? 1 : (uint8_t)-1);
    return s ? encode_struct(x, f->sub, s) : OK;
}

static enum err encode_field(struct encoder *x, const struct codec_field *f, const void *in)
{
    codec_path_enter(&x->path, f);
    enum err e;
    if (f->array) {
        e = encode_array(x, f, in);
    } else if (codec_is_pointer(f)) {
        e = encode_pointer(x, f, in);
    } else {
        e = encode_value(x, f, codec_member_of(in, f->offset));
    }
    if (!e) {
        x->path.depth--;
    }
    return e;
}

/* The version lacks the field: fine when nobody would miss its value. */
static enum err leave_out(struct encoder *x, const struct codec_field *f, const void *in)
{
    if (f->ignorable || codec_field_is_default(f, in)) {
        return OK;
    }
    codec_path_enter(&x->path, f);
    return codec_fail(&x->path, x->m, ERR_INVALID, "version %d cannot carry it", x->path.version);
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
        if (codec_version_has(f, x->path.version)) {
            there[f->tag] = !codec_field_is_default(f, in);
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
        if (!codec_version_has(f, x->path.version)) {
            e = leave_out(x, f, in);
        } else if (f->tag < 0) {
            e = encode_field(x, f, in);
        }
        if (e) {
            return e;
        }
    }
    return codec_flexible(&x->path) ? encode_tags(x, t, in) : OK;
}

enum err codec_encode(const struct codec_message *t, int16_t version, const void *in,
                      struct buf *out, struct codec_holes *holes, struct errmsg *m)
{
    struct encoder x = {.out = out, .holes = holes, .m = m};
    size_t len_before = out->len;
    size_t holes_before = holes ? holes->count : 0;
    enum err e = codec_path_start(&x.path, t, version, m);
    if (e) {
        return e;
    }
    e = encode_struct(&x, t, in);
    if (!e && !buf_ok(out)) {
        e = codec_fail(&x.path, m, ERR_NOMEM, "no memory, or larger than %zu bytes", out->max);
    }
    if (e) {
        out->len = len_before;
        if (holes) {
            holes->count = holes_before;
        }
    }
    return e;
}
