/* The frame of a publish in the capture ring, little-endian:
 *
 *    0 version u8 | 1 flags u8 | 2 stream count u16 | 4 payload bytes u32
 *    8 timestamp i64
 *   16 topic bytes u16 | 18 client id bytes u16 | 20 username bytes u16 | 22 property count u16
 *   24 streams u64 × count, topic, client id, username, properties, payload
 *
 * flags: bits 0-1 qos, 2 retain, 3 client id is there, 4 username is there.
 * A property: kind u8, name bytes u16, value bytes u16, name, value. The single ones of MQTT 5 are
 * properties without a name. The ring adds length and checksum; what is checked here keeps a frame
 * of an unknown origin from being read beyond its end. */
#include "shared/mqtt/publish.h"

#define FRAME_VERSION    1
#define FRAME_HEAD_BYTES 24
#define PROPERTY_BYTES   5 /* before its name */

#define FLAG_QOS      0x03
#define FLAG_RETAIN   0x04
#define FLAG_CLIENT   0x08
#define FLAG_USERNAME 0x10

enum property_kind {
    PROPERTY_USER,
    PROPERTY_CONTENT_TYPE,
    PROPERTY_RESPONSE_TOPIC,
    PROPERTY_CORRELATION_DATA,
    PROPERTY_PAYLOAD_FORMAT, /* value: one byte */
    PROPERTY_KINDS,
};

uint64_t stream_id(struct slice name)
{
    uint64_t h = 14695981039346656037ull; /* FNV-1a */
    for (size_t i = 0; i < name.len; i++) {
        h = (h ^ name.data[i]) * 1099511628211ull;
    }
    return h;
}

static bool has_properties(const struct publish *p)
{
    return p->user_count > 0 || p->payload_format >= 0 || p->content_type.data ||
           p->response_topic.data || p->correlation_data.data;
}

struct single {
    enum property_kind kind;
    struct slice value;
};

/* The properties that a publish has at most once; returns how many it has. */
static size_t publish_singles(const struct publish *p, struct single *out)
{
    static const uint8_t formats[] = {0, 1};
    const uint8_t *format = p->payload_format < 0 ? NULL : &formats[p->payload_format & 1];
    const struct single all[] = {
        {PROPERTY_CONTENT_TYPE, p->content_type},
        {PROPERTY_RESPONSE_TOPIC, p->response_topic},
        {PROPERTY_CORRELATION_DATA, p->correlation_data},
        {PROPERTY_PAYLOAD_FORMAT, slice_make(format, 1)},
    };
    size_t n = 0;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        if (all[i].value.data) {
            out[n++] = all[i];
        }
    }
    return n;
}

SELDOM static size_t properties_count(const struct publish *p)
{
    struct single singles[PROPERTY_KINDS];
    return publish_singles(p, singles) + p->user_count;
}

static bool property_fits(struct slice name, struct slice value)
{
    return name.len <= UINT16_MAX && value.len <= UINT16_MAX;
}

/* Adds their bytes to *size. false: a part is longer than MQTT allows. */
SELDOM static bool properties_size(const struct publish *p, size_t *size)
{
    struct single singles[PROPERTY_KINDS];
    size_t n = publish_singles(p, singles);
    for (size_t i = 0; i < n; i++) {
        if (!property_fits(slice_make(NULL, 0), singles[i].value)) {
            return false;
        }
        *size += PROPERTY_BYTES + singles[i].value.len;
    }
    for (uint32_t i = 0; i < p->user_count; i++) {
        if (!property_fits(p->user[i].name, p->user[i].value)) {
            return false;
        }
        *size += PROPERTY_BYTES + p->user[i].name.len + p->user[i].value.len;
    }
    return true;
}

HOT size_t publish_frame_size(const struct publish *p, size_t stream_count)
{
    if (stream_count > PUBLISH_STREAMS_MAX || p->user_count > PUBLISH_USER_PROPERTIES_MAX ||
        p->topic.len > UINT16_MAX || p->client_id.len > UINT16_MAX ||
        p->username.len > UINT16_MAX || p->payload.len > INT32_MAX) {
        return 0;
    }
    size_t size = FRAME_HEAD_BYTES + stream_count * sizeof(uint64_t) + p->topic.len +
                  p->client_id.len + p->username.len + p->payload.len;
    return has_properties(p) && !properties_size(p, &size) ? 0 : size;
}

static uint8_t *put_bytes(uint8_t *p, const void *data, size_t n)
{
    if (n) {
        memcpy(p, data, n);
    }
    return p + n;
}

static uint8_t *put_u16(uint8_t *p, size_t v)
{
    uint16_t x = (uint16_t)v;
    return put_bytes(p, &x, sizeof x);
}

static uint8_t *put_property(uint8_t *p, enum property_kind kind, struct slice name,
                             struct slice value)
{
    *p++ = (uint8_t)kind;
    p = put_u16(p, name.len);
    p = put_u16(p, value.len);
    p = put_bytes(p, name.data, name.len);
    return put_bytes(p, value.data, value.len);
}

SELDOM static uint8_t *put_properties(uint8_t *out, const struct publish *p, uint32_t *crc)
{
    struct single singles[PROPERTY_KINDS];
    size_t single_count = publish_singles(p, singles);
    const uint8_t *begin = out;
    for (size_t i = 0; i < single_count; i++) {
        out = put_property(out, singles[i].kind, slice_make(NULL, 0), singles[i].value);
    }
    for (uint32_t i = 0; i < p->user_count; i++) {
        out = put_property(out, PROPERTY_USER, p->user[i].name, p->user[i].value);
    }
    *crc = crc32c(*crc, begin, (size_t)(out - begin));
    return out;
}

HOT uint32_t publish_frame_put(const struct publish *p, const uint64_t *streams,
                               size_t stream_count, uint8_t *out, uint32_t crc)
{
    unsigned flags = (p->qos & FLAG_QOS) | (p->retain ? FLAG_RETAIN : 0u) |
                     (p->client_id.data ? FLAG_CLIENT : 0u) |
                     (p->username.data ? FLAG_USERNAME : 0u);
    /* In words: one that was written in pieces is waited for when it is read. */
    const uint64_t head[] = {
        FRAME_VERSION | flags << 8 | (uint64_t)stream_count << 16 | (uint64_t)p->payload.len << 32,
        (uint64_t)p->timestamp_ms,
        p->topic.len | p->client_id.len << 16 | p->username.len << 32 |
            (has_properties(p) ? properties_count(p) << 48 : 0),
    };
    _Static_assert(sizeof head == FRAME_HEAD_BYTES, "as drawn above");
    const struct slice parts[] = {
        slice_make(head, sizeof head),
        slice_make(streams, stream_count * sizeof streams[0]),
        slice_make(p->topic.data, p->topic.len),
        slice_make(p->client_id.data, p->client_id.len),
        slice_make(p->username.data, p->username.len),
        slice_make(p->payload.data, p->payload.len),
    };
    const size_t count = sizeof parts / sizeof parts[0];
    if (!has_properties(p)) {
        return crc32c_gather(crc, out, parts, count);
    }
    crc = crc32c_gather(crc, out, parts, count - 1);
    for (size_t i = 0; i < count - 1; i++) {
        out += parts[i].len;
    }
    out = put_properties(out, p, &crc);
    return crc32c_gather(crc, out, &parts[count - 1], 1);
}

static uint16_t get_u16(struct reader *r)
{
    uint16_t v = 0;
    struct slice s = reader_bytes(r, sizeof v);
    if (s.len) {
        memcpy(&v, s.data, sizeof v);
    }
    return v;
}

static void get_property(struct reader *r, struct publish_frame *f)
{
    uint8_t kind = reader_u8(r);
    size_t name_len = get_u16(r);
    size_t value_len = get_u16(r);
    struct slice name = reader_bytes(r, name_len);
    struct slice value = reader_bytes(r, value_len);
    struct publish *p = &f->publish;
    if (r->failed) {
        return;
    }
    switch (kind) {
    case PROPERTY_USER:
        if (p->user_count == PUBLISH_USER_PROPERTIES_MAX) {
            r->failed = true;
            return;
        }
        f->properties[p->user_count++] = (struct publish_property){name, value};
        return;
    case PROPERTY_CONTENT_TYPE:
        p->content_type = value;
        return;
    case PROPERTY_RESPONSE_TOPIC:
        p->response_topic = value;
        return;
    case PROPERTY_CORRELATION_DATA:
        p->correlation_data = value;
        return;
    case PROPERTY_PAYLOAD_FORMAT:
        r->failed = value.len != 1;
        p->payload_format = r->failed ? -1 : (int8_t)(value.data[0] & 1);
        return;
    default:
        r->failed = true;
    }
}

enum err publish_frame_get(struct slice frame, struct publish_frame *f)
{
    struct reader r = reader_make(frame);
    uint8_t version = reader_u8(&r);
    if (r.failed) {
        return ERR_CORRUPT;
    }
    if (version != FRAME_VERSION) {
        return ERR_VERSION;
    }
    uint8_t flags = reader_u8(&r);
    struct publish *p = &f->publish;
    publish_init(p);
    p->qos = flags & FLAG_QOS;
    p->retain = flags & FLAG_RETAIN;
    p->user = f->properties;
    f->stream_count = get_u16(&r);
    uint32_t payload_len = 0;
    struct slice raw = reader_bytes(&r, sizeof payload_len);
    if (raw.len) {
        memcpy(&payload_len, raw.data, sizeof payload_len);
    }
    raw = reader_bytes(&r, sizeof p->timestamp_ms);
    if (raw.len) {
        memcpy(&p->timestamp_ms, raw.data, sizeof p->timestamp_ms);
    }
    size_t topic_len = get_u16(&r), client_len = get_u16(&r), username_len = get_u16(&r);
    uint16_t property_count = get_u16(&r);
    if (f->stream_count > PUBLISH_STREAMS_MAX) {
        return ERR_CORRUPT;
    }
    raw = reader_bytes(&r, f->stream_count * sizeof f->streams[0]);
    if (raw.len) {
        memcpy(f->streams, raw.data, raw.len);
    }
    p->topic = reader_bytes(&r, topic_len);
    struct slice client = reader_bytes(&r, client_len);
    struct slice username = reader_bytes(&r, username_len);
    p->client_id = flags & FLAG_CLIENT ? client : p->client_id;
    p->username = flags & FLAG_USERNAME ? username : p->username;
    for (uint16_t i = 0; i < property_count && !r.failed; i++) {
        get_property(&r, f);
    }
    p->payload = reader_bytes(&r, payload_len);
    return r.failed || reader_left(&r) ? ERR_CORRUPT : OK;
}
