/* Printing: a message as one line of text, for logs and tests. */
#include "kafka-server/protocol/codec_int.h"

#define PRINT_STRING_MAX 128 /* bytes of a string that are shown */

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
        const uint8_t *list = codec_pointer_at(in, f->offset);
        int32_t count = codec_count_at(in, f);
        size_t size = codec_element_bytes(f);
        buf_printf(out, count < 0 ? "null" : "[");
        for (int32_t i = 0; i < count && buf_ok(out); i++) {
            buf_printf(out, i ? ", " : "");
            print_value(f, version, list + (size_t)i * size, out);
        }
        buf_printf(out, count < 0 ? "" : "]");
    } else if (codec_is_pointer(f)) {
        const void *s = codec_pointer_at(in, f->offset);
        if (s) {
            print_struct(f->sub, version, s, out);
        } else {
            buf_printf(out, "null");
        }
    } else {
        print_value(f, version, codec_member_of(in, f->offset), out);
    }
}

static void print_struct(const struct codec_message *t, int version, const void *in,
                         struct buf *out)
{
    bool first = true;
    buf_put_u8(out, '{');
    for (int i = 0; i < t->field_count; i++) {
        const struct codec_field *f = &t->fields[i];
        if (codec_version_has(f, version) && (f->tag < 0 || !codec_field_is_default(f, in))) {
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
