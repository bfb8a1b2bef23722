/* Fuzzing the codec: any bytes as any message of any version, and as a request header.
 *
 * Input: a byte that picks the API, one for the version, one for the kind; the rest is the
 * message. What is understood must be written, read and found to mean the same again.
 * `codec_peer corpus` makes the messages to start from. */
#include "kafka_messages.h"
#include "tests/codec/randmsg.h"

#define HEAD      3
#define ARENA_MAX (4 << 20)
#define OUT_MAX   (4 << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_header(struct slice in)
{
    struct request_header h;
    struct slice body;
    if (codec_decode_header(in, &h, &body) == OK) {
        ASSERT(body.data + body.len == in.data + in.len);
    }
}

static void fuzz_message(const struct codec_message *t, int16_t version, struct slice in)
{
    struct arena a;
    struct buf out;
    struct errmsg m;
    arena_init(&a, ARENA_MAX);
    buf_init(&out, OUT_MAX);
    void *first = arena_alloc(&a, codec_struct_bytes(t));
    void *second = arena_alloc(&a, codec_struct_bytes(t));
    ASSERT(first && second);
    enum err e = codec_decode(t, version, in, &a, first, &m);
    if (e) {
        ASSERT(e == ERR_CORRUPT || e == ERR_TOO_LARGE || e == ERR_NOMEM);
        ASSERT(memchr(m.text, ':', sizeof m.text));
    } else {
        ASSERT(codec_encode(t, version, first, &out, NULL, &m) == OK);
        e = codec_decode(t, version, buf_slice(&out), &a, second, &m);
        ASSERT(e == ERR_NOMEM || (e == OK && randmsg_equal(t, first, second)));
        buf_reset(&out);
        codec_print(t, version, first, &out);
    }
    ASSERT(a.used <= ARENA_MAX);
    buf_fini(&out);
    arena_fini(&a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < HEAD) {
        return 0;
    }
    const struct codec_api *api = &codec_apis[data[0] % codec_api_count];
    int versions = api->version_max - api->version_min + 1;
    int16_t version = (int16_t)(api->version_min + data[1] % versions);
    struct slice in = slice_make(data + HEAD, size - HEAD);
    switch (data[2] % 3) {
    case 0:
        fuzz_message(api->request, version, in);
        break;
    case 1:
        fuzz_message(api->response, version, in);
        break;
    default:
        fuzz_header(in);
        break;
    }
    return 0;
}
