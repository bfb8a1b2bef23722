/* Bytes that Kafka's own serializers wrote: each must say what it said when it was recorded, and be
 * written again as the same bytes.
 *
 * tests/golden/API.txt holds two lines a message: version, kind and bytes in hex; then what the
 * message says, as codec_print prints it. `make codec-golden` records them anew. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "kafka_messages.h"

#define GOLDEN_DIR  "tests/golden" /* tests are run from the top of the tree */
#define MESSAGE_MAX (1 << 20)
#define VERSION_MAX 64

/* The bytes of `hex`, put back over it. */
static struct slice hex_decode(char *hex)
{
    size_t n = 0;
    for (; hex[2 * n] && hex[2 * n + 1]; n++) {
        char pair[3] = {hex[2 * n], hex[2 * n + 1], 0};
        hex[n] = (char)strtoul(pair, NULL, 16);
    }
    return slice_make(hex, n);
}

static void check_message(const char *file, const struct codec_message *t, int16_t version,
                          struct slice bytes, const char *text)
{
    struct arena a;
    struct buf out;
    struct errmsg m;
    arena_init(&a, MESSAGE_MAX);
    buf_init(&out, MESSAGE_MAX);
    void *message = arena_alloc(&a, codec_struct_bytes(t));
    assert_non_null(message);
    if (codec_decode(t, version, bytes, &a, message, &m)) {
        fail_msg("%s: %s", file, m.text);
    }
    codec_print(t, version, message, &out);
    if (strcmp(buf_text(&out), text) != 0) {
        fail_msg("%s: %s v%d\n says %s\n not  %s", file, codec_message_name(t), version,
                 buf_text(&out), text);
    }
    buf_reset(&out);
    if (codec_encode(t, version, message, &out, NULL, &m)) {
        fail_msg("%s: %s", file, m.text);
    }
    if (!slice_eq(buf_slice(&out), bytes)) {
        fail_msg("%s: %s v%d is encoded as other bytes", file, codec_message_name(t), version);
    }
    buf_fini(&out);
    arena_fini(&a);
}

static void check_file(const struct codec_api *api)
{
    char path[256];
    snprintf(path, sizeof path, GOLDEN_DIR "/%s.txt", api->name);
    FILE *f = fopen(path, "r");
    if (!f) {
        fail_msg("%s is not there", path);
    }
    int seen[2][VERSION_MAX] = {{0}};
    char *line = NULL, *text = NULL;
    size_t line_room = 0, text_room = 0;
    while (getline(&line, &line_room, f) > 0 && getline(&text, &text_room, f) > 0) {
        char kind[16];
        int version, at;
        line[strcspn(line, "\n")] = 0;
        text[strcspn(text, "\n")] = 0;
        assert_int_equal(sscanf(line, "%d %15s %n", &version, kind, &at), 2);
        bool response = strcmp(kind, "response") == 0;
        assert_in_range(version, 0, VERSION_MAX - 1);
        seen[response][version]++;
        check_message(path, response ? api->response : api->request, (int16_t)version,
                      hex_decode(line + at), text);
    }
    for (int v = api->version_min; v <= api->version_max; v++) {
        if (!seen[0][v] || !seen[1][v]) {
            fail_msg("%s: version %d is not there", path, v);
        }
    }
    free(line);
    free(text);
    fclose(f);
}

static void test_golden_bytes_of_every_api_and_version(void **state)
{
    for (size_t i = 0; i < codec_api_count; i++) {
        check_file(&codec_apis[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_bytes_of_every_api_and_version),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
