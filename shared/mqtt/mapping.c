/* The rules of mapping.h. A key is a piece of the publish where it can be (no copy), a number in a
 * JSON payload, too; only sparkplug keys and strings in payloads are put together in a buffer. */
#include "shared/mqtt/mapping.h"
#include "shared/mqtt/json_path.h"

#define KEY_BYTES_MAX    (64u << 10)
#define SPARKPLUG_PREFIX "spBv1.0/"

void mapping_init(struct mapping *m)
{
    memset(m, 0, sizeof *m);
    buf_init(&m->key, KEY_BYTES_MAX);
}

void mapping_fini(struct mapping *m)
{
    buf_fini(&m->key);
}

static const struct slice null_slice = {NULL, 0};

/* Not null, whatever its length. */
static struct slice slice_present(struct slice s)
{
    return slice_make(s.data ? s.data : (const uint8_t *)"", s.len);
}

static struct slice key_text(struct mapping *m)
{
    return buf_ok(&m->key) ? slice_present(buf_slice(&m->key)) : null_slice;
}

/* Levels from … to, 1-based, or as many of them as there are. */
static struct slice topic_levels(struct slice topic, int32_t from, int32_t to)
{
    int32_t level = 1;
    size_t start = 0;
    for (size_t i = 0; i <= topic.len; i++) {
        if (i < topic.len && topic.data[i] != '/') {
            continue;
        }
        bool last = i == topic.len;
        if (level == to || (last && level >= from)) {
            return slice_make(topic.data + start, i - start);
        }
        level++;
        start = level == from ? i + 1 : start;
    }
    return null_slice;
}

/* spBv1.0/GROUP/TYPE/NODE[/DEVICE] → GROUP/NODE[/DEVICE]; another topic: itself. */
static struct slice key_sparkplug(struct mapping *m, struct slice topic)
{
    size_t prefix = sizeof SPARKPLUG_PREFIX - 1;
    struct slice group = topic_levels(topic, 2, 2);
    struct slice rest = topic_levels(topic, 4, 5);
    if (topic.len < prefix || memcmp(topic.data, SPARKPLUG_PREFIX, prefix) != 0 || !rest.data) {
        return topic;
    }
    buf_put(&m->key, group.data, group.len);
    buf_put_u8(&m->key, '/');
    buf_put(&m->key, rest.data, rest.len);
    return key_text(m);
}

static struct slice key_property(const struct publish *p, const char *name)
{
    struct slice want = slice_str(name);
    for (uint32_t i = p->user_count; i > 0; i--) {
        if (slice_eq(p->user[i - 1].name, want)) {
            return slice_present(p->user[i - 1].value);
        }
    }
    return null_slice;
}

/* A string as it reads; a number, true or false as it is written. Objects, arrays and null are no
 * keys. */
static struct slice key_payload(struct mapping *m, struct slice payload, const char *path)
{
    struct slice value;
    if (payload.len > MAPPING_JSON_BYTES_MAX || !json_path_find(payload, path, &value) ||
        strchr("{[n", value.data[0])) {
        return null_slice;
    }
    if (value.data[0] == '"') {
        return json_path_string(value, &m->key) ? key_text(m) : null_slice;
    }
    return value.len <= KEY_BYTES_MAX ? value : null_slice;
}

static struct slice mapping_key(struct mapping *m, const struct config_stream *s,
                                const struct publish *p)
{
    buf_reset(&m->key);
    switch (s->key) {
    case KEY_TOPIC:
        return p->topic;
    case KEY_LEVELS:
        return topic_levels(p->topic, s->key_from, s->key_to);
    case KEY_CLIENTID:
        return p->client_id;
    case KEY_USERNAME:
        return p->username;
    case KEY_PAYLOAD:
        return key_payload(m, p->payload, s->key_name);
    case KEY_PROPERTY:
        return key_property(p, s->key_name);
    case KEY_SPARKPLUG:
        return key_sparkplug(m, p->topic);
    case KEY_NONE:
        break;
    }
    return null_slice;
}

static void put_header(struct mapping *m, struct record *r, const char *name, struct slice value)
{
    if (value.data) {
        m->headers[r->header_count++] = (struct record_header){slice_str(name), value};
    }
}

static void put_user_headers(struct mapping *m, const struct publish *p, struct record *r)
{
    for (uint32_t i = 0; i < p->user_count && i < PUBLISH_USER_PROPERTIES_MAX; i++) {
        struct slice name = slice_present(p->user[i].name);
        m->shadowed += name.len >= 5 && memcmp(name.data, "mqtt.", 5) == 0;
        m->headers[r->header_count++] =
            (struct record_header){name, slice_present(p->user[i].value)};
    }
}

static void put_full_headers(struct mapping *m, const struct config_stream *s,
                             const struct publish *p, struct record *r)
{
    static const char *const digits[] = {"0", "1", "2", "3"};
    struct slice format =
        p->payload_format < 0 ? null_slice : slice_str(digits[p->payload_format & 1]);
    put_user_headers(m, p, r);
    put_header(m, r, "mqtt.topic", p->topic);
    put_header(m, r, "mqtt.qos", slice_str(digits[p->qos & 3]));
    put_header(m, r, "mqtt.retained", slice_str(p->retain ? "true" : "false"));
    put_header(m, r, "mqtt.client.id", p->client_id);
    put_header(m, r, "mqtt.username", s->username_header ? p->username : null_slice);
    put_header(m, r, "content-type", p->content_type);
    put_header(m, r, "mqtt.response-topic", p->response_topic);
    put_header(m, r, "mqtt.correlation-data", p->correlation_data);
    put_header(m, r, "mqtt.payload-format-indicator", format);
}

void mapping_record(struct mapping *m, const struct config_stream *s, const struct publish *p,
                    struct record *r)
{
    bool tombstone = config_compacts(s) && p->retain && p->payload.len == 0;
    m->shadowed = 0;
    *r = (struct record){
        .timestamp = p->timestamp_ms,
        .key = mapping_key(m, s, p),
        .value = tombstone ? null_slice : slice_present(p->payload),
        .headers = m->headers,
    };
    m->unkeyed = s->key != KEY_NONE && !r->key.data;
    if (s->headers == HEADERS_FULL) {
        put_full_headers(m, s, p, r);
    } else if (s->headers == HEADERS_MINIMAL) {
        put_header(m, r, "mqtt.topic", p->topic);
    }
}

unsigned mapping_stream_needs(const struct config_stream *s)
{
    bool full = s->headers == HEADERS_FULL;
    unsigned needs = 0;
    needs |= full || s->key == KEY_CLIENTID ? NEEDS_CLIENT_ID : 0;
    needs |= (full && s->username_header) || s->key == KEY_USERNAME ? NEEDS_USERNAME : 0;
    needs |= full || s->key == KEY_PROPERTY ? NEEDS_USER_PROPERTIES : 0;
    needs |= full ? NEEDS_PROPERTIES : 0;
    return needs;
}
