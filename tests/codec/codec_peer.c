/* The codec's side of the comparison with Kafka's own serializers (java/CodecOracle.java).
 *
 *     codec_peer keys                     the keys of all APIs of the schema
 *     codec_peer schema                   the tables as text, one field a line (compare_schema.py)
 *     codec_peer write COUNT SEED FILE    random messages of all APIs and versions
 *     codec_peer check FILE               decodes each, encodes it again, compares the bytes
 *     codec_peer golden FILE DIR          keeps the messages of FILE as text, one file an API
 *     codec_peer corpus FILE DIR          keeps them one a file, for fuzz_codec.c to start from
 *
 * A file is a row of { int16 key, int16 version, int8 kind, int32 length, bytes }. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "kafka_messages.h"
#include "tests/codec/randmsg.h"

#define ARENA_MAX   (64 << 20)
#define OUT_MAX     (64 << 20)
#define RECORD_HEAD 9
#define WRONG_SHOWN 20

enum kind {
    KIND_REQUEST,
    KIND_RESPONSE,
    KIND_REQUEST_HEADER,
    KIND_RESPONSE_HEADER,
};

struct record {
    const struct codec_api *api;
    int16_t version;
    uint8_t kind;
    struct slice bytes;
};

static _Noreturn void die(const char *what, const char *why)
{
    fprintf(stderr, "codec_peer: %s: %s\n", what, why);
    exit(2);
}

static long number(const char *text)
{
    char *end;
    long n = strtol(text, &end, 10);
    if (*end || end == text || n < 0) {
        die(text, "is not a number");
    }
    return n;
}

static const struct codec_message *table_of(const struct record *r)
{
    return r->kind == KIND_REQUEST ? r->api->request : r->api->response;
}

/* --- the tables as text ----------------------------------------------------------------------- */

static const char *const type_names[CODEC_TYPE_COUNT] = {
    "bool",    "int8", "int16",  "uint16", "int32",   "int64",
    "float64", "uuid", "string", "bytes",  "records", "struct",
};

static void fields_print(const char *path, const struct codec_message *t)
{
    for (int i = 0; i < t->field_count; i++) {
        const struct codec_field *f = &t->fields[i];
        char name[512];
        snprintf(name, sizeof name, "%s.%s", path, f->name);
        printf("%s %s%s %d-%d", name, f->array ? "[]" : "", type_names[f->type], f->version_min,
               f->version_max);
        printf(" null:%d tag:%d", f->nullable ? f->null_min : -1, f->tag);
        if (f->default_null) {
            printf(" default:null");
        } else {
            printf(" default:%" PRId64, f->fallback);
        }
        printf(" ignorable:%d\n", f->ignorable);
        if (f->sub) {
            fields_print(name, f->sub);
        }
    }
}

static void schema_print(void)
{
    for (size_t i = 0; i < codec_api_count; i++) {
        const struct codec_api *a = &codec_apis[i];
        printf("%s key:%d versions:%d-%d flexible:%d\n", a->name, a->key, a->version_min,
               a->version_max, a->flexible_min == INT16_MAX ? -1 : a->flexible_min);
        fields_print(codec_message_name(a->request), a->request);
        fields_print(codec_message_name(a->response), a->response);
    }
}

/* --- files of messages ------------------------------------------------------------------------ */

static void messages_write(long count, uint64_t seed, const char *path)
{
    FILE *f = fopen(path, "wb");
    struct buf out;
    struct errmsg m;
    if (!f) {
        die(path, "cannot be written");
    }
    buf_init(&out, OUT_MAX);
    for (size_t i = 0; i < codec_api_count; i++) {
        const struct codec_api *api = &codec_apis[i];
        long versions = api->version_max - api->version_min + 1;
        for (long n = 0; n < 2 * count * versions; n++) {
            struct arena a;
            arena_init(&a, ARENA_MAX);
            struct record r = {.api = api,
                               .version = (int16_t)(api->version_min + n % versions),
                               .kind = n / versions % 2 ? KIND_RESPONSE : KIND_REQUEST};
            void *message = arena_alloc(&a, codec_struct_bytes(table_of(&r)));
            buf_reset(&out);
            if (!message) {
                die(api->name, "no memory");
            }
            randmsg_fill(table_of(&r), r.version, &seed, &a, message);
            if (codec_encode(table_of(&r), r.version, message, &out, NULL, &m)) {
                die(api->name, m.text);
            }
            uint8_t head[RECORD_HEAD];
            be16_put(head, (uint16_t)api->key);
            be16_put(head + 2, (uint16_t)r.version);
            head[4] = r.kind;
            be32_put(head + 5, (uint32_t)out.len);
            fwrite(head, 1, sizeof head, f);
            fwrite(out.data, 1, out.len, f);
            arena_fini(&a);
        }
    }
    buf_fini(&out);
    if (ferror(f) | fclose(f)) {
        die(path, "cannot be written");
    }
}

static bool record_read(FILE *f, const char *path, struct record *r, struct buf *room)
{
    uint8_t head[RECORD_HEAD];
    size_t n = fread(head, 1, sizeof head, f);
    if (n == 0) {
        return false;
    }
    size_t len = n == sizeof head ? be32_get(head + 5) : 0;
    buf_reset(room);
    uint8_t *p = buf_reserve(room, len + 1);
    if (n < sizeof head || !p || fread(p, 1, len, f) < len) {
        die(path, "cut short");
    }
    r->api = codec_api_find((int16_t)be16_get(head));
    if (!r->api) {
        die(path, "holds an unknown API");
    }
    r->version = (int16_t)be16_get(head + 2);
    r->kind = head[4];
    r->bytes = slice_make(p, len);
    return true;
}

static bool header_same(const struct record *r, struct buf *out)
{
    struct request_header h;
    struct slice body;
    if (r->kind == KIND_RESPONSE_HEADER) {
        codec_encode_response_header(r->api, r->version, (int32_t)be32_get(r->bytes.data), out);
        return slice_eq(buf_slice(out), r->bytes);
    }
    if (codec_decode_header(r->bytes, &h, &body) || body.len > 0) {
        return false;
    }
    buf_put_be16(out, (uint16_t)h.api_key);
    buf_put_be16(out, (uint16_t)h.api_version);
    buf_put_be32(out, (uint32_t)h.correlation_id);
    buf_put_be16(out, (uint16_t)h.client_id.len);
    buf_put(out, h.client_id.data, kstr_slice(h.client_id).len);
    if (r->version >= r->api->flexible_min) {
        buf_put_u8(out, 0);
    }
    return slice_eq(buf_slice(out), r->bytes);
}

static bool message_same(const struct record *r, struct buf *out, struct errmsg *m)
{
    struct arena a;
    arena_init(&a, ARENA_MAX);
    void *message = arena_alloc(&a, codec_struct_bytes(table_of(r)));
    if (!message) {
        die(r->api->name, "no memory");
    }
    snprintf(m->text, sizeof m->text, "other bytes");
    bool same = codec_decode(table_of(r), r->version, r->bytes, &a, message, m) == OK &&
                codec_encode(table_of(r), r->version, message, out, NULL, m) == OK &&
                slice_eq(buf_slice(out), r->bytes);
    arena_fini(&a);
    return same;
}

static int messages_check(const char *path)
{
    FILE *f = fopen(path, "rb");
    struct buf room, out;
    struct record r;
    long count = 0, wrong = 0;
    if (!f) {
        die(path, "cannot be read");
    }
    buf_init(&room, OUT_MAX);
    buf_init(&out, OUT_MAX);
    while (record_read(f, path, &r, &room)) {
        struct errmsg m = {"other bytes in the header"};
        buf_reset(&out);
        bool same =
            r.kind >= KIND_REQUEST_HEADER ? header_same(&r, &out) : message_same(&r, &out, &m);
        count++;
        if (!same && wrong++ < WRONG_SHOWN) {
            printf("%s v%d kind %d: %s\n", r.api->name, r.version, r.kind, m.text);
        }
    }
    fclose(f);
    buf_fini(&room);
    buf_fini(&out);
    printf("Culex reads and repeats %ld of %ld messages\n", count - wrong, count);
    return count > 0 && wrong == 0 ? 0 : 1;
}

/* Two lines a message: version, kind and bytes, and what they say. */
static void golden_put(FILE *g, const struct record *r)
{
    struct arena a;
    struct buf text;
    struct errmsg m;
    arena_init(&a, ARENA_MAX);
    buf_init(&text, OUT_MAX);
    void *message = arena_alloc(&a, codec_struct_bytes(table_of(r)));
    if (!message || codec_decode(table_of(r), r->version, r->bytes, &a, message, &m)) {
        die(r->api->name, "not understood");
    }
    fprintf(g, "%d %s ", r->version, r->kind == KIND_REQUEST ? "request" : "response");
    for (size_t i = 0; i < r->bytes.len; i++) {
        fprintf(g, "%02x", r->bytes.data[i]);
    }
    codec_print(table_of(r), r->version, message, &text);
    fprintf(g, "\n%s\n", buf_text(&text));
    buf_fini(&text);
    arena_fini(&a);
}

static void golden_write(const char *path, const char *dir)
{
    FILE *f = fopen(path, "rb");
    FILE *g = NULL;
    const struct codec_api *api = NULL;
    struct buf room;
    struct record r;
    if (!f) {
        die(path, "cannot be read");
    }
    buf_init(&room, OUT_MAX);
    while (record_read(f, path, &r, &room)) {
        if (r.api != api) {
            char name[512];
            if (g && fclose(g)) {
                die(dir, "cannot be written");
            }
            api = r.api;
            snprintf(name, sizeof name, "%s/%s.txt", dir, api->name);
            g = fopen(name, "w");
            if (!g) {
                die(name, "cannot be written");
            }
        }
        if (r.kind <= KIND_RESPONSE) {
            golden_put(g, &r);
        }
    }
    fclose(f);
    buf_fini(&room);
    if (g && fclose(g)) {
        die(dir, "cannot be written");
    }
}

static void corpus_write(const char *path, const char *dir)
{
    FILE *f = fopen(path, "rb");
    struct buf room;
    struct record r;
    if (!f) {
        die(path, "cannot be read");
    }
    buf_init(&room, OUT_MAX);
    for (long n = 0; record_read(f, path, &r, &room); n++) {
        char name[512];
        uint8_t head[] = {(uint8_t)(r.api - codec_apis), (uint8_t)(r.version - r.api->version_min),
                          r.kind};
        snprintf(name, sizeof name, "%s/%s-%d-%ld", dir, r.api->name, r.version, n);
        FILE *g = fopen(name, "wb");
        if (!g) {
            die(name, "cannot be written");
        }
        fwrite(head, 1, sizeof head, g);
        fwrite(r.bytes.data, 1, r.bytes.len, g);
        if (fclose(g)) {
            die(name, "cannot be written");
        }
    }
    fclose(f);
    buf_fini(&room);
}

int main(int argc, char **argv)
{
    const char *command = argc > 1 ? argv[1] : "";
    if (strcmp(command, "keys") == 0) {
        for (size_t i = 0; i < codec_api_count; i++) {
            printf("%d\n", codec_apis[i].key);
        }
    } else if (strcmp(command, "schema") == 0) {
        schema_print();
    } else if (strcmp(command, "write") == 0 && argc == 5) {
        messages_write(number(argv[2]), (uint64_t)number(argv[3]), argv[4]);
    } else if (strcmp(command, "check") == 0 && argc == 3) {
        return messages_check(argv[2]);
    } else if (strcmp(command, "golden") == 0 && argc == 4) {
        golden_write(argv[2], argv[3]);
    } else if (strcmp(command, "corpus") == 0 && argc == 4) {
        corpus_write(argv[2], argv[3]);
    } else {
        die("usage", "keys | schema | write COUNT SEED FILE | check FILE | golden|corpus FILE DIR");
    }
    return 0;
}
