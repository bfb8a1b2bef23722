/* What config_pack makes of a configuration, config_unpack makes equal again; of anything else it
 * makes nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "shared/base/decimal.h"
#include "shared/config/config.h"

#include <ftw.h>
#include <locale.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

/* Every row that travels has another value than its default, in one place at least. */
static const char everything[] =
    "{\"data\": \"/d\", \"sys.interval.ms\": 100,\n"
    "\"store\": {\"limit.bytes\": 9223372036854775807, \"segment.bytes\": 1,\n"
    " \"segment.ms\": 1000, \"ring.bytes\": 70000, \"tail.bytes\": 131072,\n"
    " \"cache.bytes\": 0, \"flush.interval.ms\": 7},\n"
    "\"defaults\": {\"key\": \"payload.a.b\"},\n"
    "\"streams\": [{\"name\": \"s.2_-x\", \"filters\": [\"a\", \"+/b/#\", \"\\u00e9/ %s/$x\"],\n"
    "  \"partitions\": 1024, \"key\": \"topic[2..4]\", \"headers\": \"none\",\n"
    "  \"username.header\": true, \"retention.ms\": -1, \"retention.bytes\": 1,\n"
    "  \"cleanup.policy\": \"compact\", \"on_full\": \"drop\", \"on_full.block.ms\": 0,\n"
    "  \"min.compaction.lag.ms\": 5, \"max.compaction.lag.ms\": 9, \"delete.retention.ms\": 7,\n"
    "  \"min.cleanable.dirty.ratio\": 0.25,\n"
    "  \"durability\": \"fsync\"},\n"
    " {\"name\": \"b\", \"filters\": [\"b\"], \"headers\": \"minimal\", \"on_full\": \"reject\"},\n"
    " {\"name\": \"c\", \"filters\": [\"c\"], \"key\": \"topic\"},\n"
    " {\"name\": \"d\", \"filters\": [\"d\"], \"key\": \"topic[3]\"},\n"
    " {\"name\": \"e\", \"filters\": [\"e\"], \"key\": \"clientid\"},\n"
    " {\"name\": \"f\", \"filters\": [\"f\"], \"key\": \"username\"},\n"
    " {\"name\": \"g\", \"filters\": [\"g\"], \"key\": \"property.p q\"},\n"
    " {\"name\": \"h\", \"filters\": [\"h\"], \"key\": \"sparkplug\"},\n"
    " {\"name\": \"i\", \"filters\": [\"i\"], \"key\": \"none\"}],\n"
    "\"server\": {\"node.id\": 9, \"num.partitions\": 5}}";

static void load(struct config *c, const char *text)
{
    const char *tmp = getenv("TMPDIR");
    char file[256];
    snprintf(file, sizeof file, "%s/culex-pack-XXXXXX", tmp ? tmp : "/tmp");
    int fd = mkstemp(file);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    assert_int_equal(close(fd), 0);
    assert_int_equal(config_init(c), OK);
    assert_int_equal(config_load(c, file), OK);
    assert_int_equal(unlink(file), 0);
}

static void pack(const struct config *c, struct buf *packed)
{
    buf_init(packed, CONFIG_PACKED_BYTES_MAX);
    assert_int_equal(config_pack(c, packed), OK);
}

static void assert_same_text(const char *a, const char *b)
{
    assert_int_equal(!a, !b);
    if (a) {
        assert_string_equal(a, b);
    }
}

static void row_text(const struct config *c, const struct config_stream *s, size_t i,
                     struct buf *out)
{
    buf_reset(out);
    if (s) {
        option_stream_text(s, i, out);
    } else {
        option_value_text(c, i, out);
    }
}

/* The rows of the stream s or, for NULL, those of its configuration. `server` does not travel. */
static void assert_same_rows(const struct config *a, const struct config_stream *s,
                             const struct config *b, const struct config_stream *t)
{
    struct buf x, y;
    buf_init(&x, 1u << 20);
    buf_init(&y, 1u << 20);
    for (size_t i = 0; i < option_count(); i++) {
        struct option_view v;
        option_view(i, &v);
        row_text(a, s, i, &x);
        row_text(b, t, i, &y);
        bool travels = strcmp(v.section, "server") != 0;
        assert_string_equal(travels ? buf_text(&x) : s ? "" : v.default_text, buf_text(&y));
    }
    buf_fini(&x);
    buf_fini(&y);
}

static void assert_same(const struct config *a, const struct config *b)
{
    assert_same_text(a->path, b->path);
    assert_int_equal(a->data_given, b->data_given);
    assert_same_rows(a, NULL, b, NULL);
    assert_int_equal(a->stream_count, b->stream_count);
    for (size_t i = 0; i < a->stream_count; i++) {
        const struct config_stream *s = &a->streams[i], *t = &b->streams[i];
        assert_same_rows(a, s, b, t);
        assert_int_equal(s->key, t->key);
        assert_int_equal(s->key_from, t->key_from);
        assert_int_equal(s->key_to, t->key_to);
        assert_same_text(s->key_name, t->key_name);
        assert_int_equal(s->line, t->line);
        assert_int_equal(s->said, t->said);
        assert_int_equal(s->bound, t->bound);
        assert_int_equal(s->filter_count, t->filter_count);
        for (uint32_t j = 0; j < s->filter_count; j++) {
            assert_string_equal(s->filters[j], t->filters[j]);
        }
    }
    assert_int_equal(b->mistakes.len, 0);
    assert_int_equal(b->warnings.len, 0);
}

static void assert_comes_back(const struct config *c)
{
    struct buf packed;
    struct config d;
    pack(c, &packed);
    assert_int_equal(config_unpack(&d, buf_slice(&packed)), OK);
    buf_fini(&packed);
    assert_same(c, &d);
    config_fini(&d);
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *at)
{
    return remove(path);
}

/* One in which a half is 0,5: as it is installed, or made here. */
static bool enter_comma_locale(void)
{
    const char *tmp = getenv("TMPDIR");
    char dir[256], made_at[300];
    if (setlocale(LC_ALL, "de_DE.UTF-8") || setlocale(LC_ALL, "fr_FR.UTF-8")) {
        return true;
    }
    snprintf(dir, sizeof dir, "%s/culex-locale-XXXXXX", tmp ? tmp : "/tmp");
    assert_non_null(mkdtemp(dir));
    snprintf(made_at, sizeof made_at, "%s/de_DE.UTF-8", dir);
    char *argv[] = {"localedef", "-i", "de_DE", "-f", "UTF-8", made_at, NULL};
    pid_t pid;
    int status = -1;
    if (posix_spawnp(&pid, argv[0], NULL, NULL, argv, environ) == 0) {
        assert_int_equal(waitpid(pid, &status, 0), pid);
    }
    setenv("LOCPATH", dir, 1);
    bool made = status == 0 && setlocale(LC_ALL, "de_DE.UTF-8");
    unsetenv("LOCPATH");
    assert_int_equal(nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS), 0);
    return made;
}

static int leave_locale(void **state)
{
    return setlocale(LC_ALL, "C") ? 0 : -1;
}

/* The broker's process is of many: another plugin may have set its locale. */
static void test_a_comma_in_the_senders_locale_means_nothing(void **state)
{
    if (!enter_comma_locale()) {
        print_message("no locale with a comma can be had here\n");
        skip();
    }
    char text[DECIMAL_BYTES_MAX];
    snprintf(text, sizeof text, "%.1f", 0.5);
    assert_string_equal(text, "0,5");
    decimal_text(0.5, text);
    assert_string_equal(text, "0.5");
    double v = 0;
    assert_true(decimal_read("0.25", &v) && v > 0.24 && v < 0.26);
    assert_false(decimal_read("0,25", &v));

    struct config c, d;
    struct buf packed;
    load(&c, everything);
    pack(&c, &packed);
    assert_non_null(setlocale(LC_ALL, "C"));
    assert_int_equal(config_unpack(&d, buf_slice(&packed)), OK);
    assert_same(&c, &d);
    buf_fini(&packed);
    config_fini(&c);
    config_fini(&d);
}

static void test_decimals_are_as_java_writes_them(void **state)
{
    static const struct {
        const char *in, *out;
    } all[] = {{"0.1", "0.1"},         {"1", "1.0"},
               {"-2e1", "-20.0"},      {"0", "0.0"},
               {"0.001", "0.001"},     {"0.00025", "2.5E-4"},
               {"-1e-5", "-1.0E-5"},   {"9999999", "9999999.0"},
               {"10000000", "1.0E7"},  {"123456789", "1.23456789E8"},
               {"1e300", "1.0E300"},   {"1e999", "inf"}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        double v;
        char text[DECIMAL_BYTES_MAX];
        assert_true(decimal_read(all[i].in, &v));
        decimal_text(v, text);
        assert_string_equal(text, all[i].out);
    }
    double v;
    assert_false(decimal_read("", &v) || decimal_read("nan", &v) || decimal_read("0x1", &v) ||
                 decimal_read("1 ", &v) || decimal_read("1e", &v));
}

/* Else a row that is left out would come back "equal". */
static void assert_not_defaults(const struct config *c)
{
    struct buf x;
    buf_init(&x, 1u << 20);
    for (size_t i = 0; i < option_count(); i++) {
        struct option_view v;
        option_view(i, &v);
        if (strcmp(v.section, "server") != 0 && strcmp(v.name, "filters") != 0) {
            row_text(c, strcmp(v.section, "stream") == 0 ? &c->streams[0] : NULL, i, &x);
            assert_string_not_equal(buf_text(&x), v.default_text);
        }
    }
    buf_fini(&x);
}

static void test_a_configuration_comes_back_equal(void **state)
{
    struct config c;
    load(&c, everything);
    assert_not_defaults(&c);
    assert_int_equal(c.streams[1].key, KEY_PAYLOAD);
    assert_int_equal(c.stream_count, KEY_NONE + 2);
    assert_comes_back(&c);
    assert_int_equal(config_give_data(&c, "--data", "/given"), OK);
    assert_comes_back(&c);
    config_fini(&c);
}

static void test_a_configuration_without_a_file_comes_back_equal(void **state)
{
    const char *names[] = {"stream", "filter", "filter", "key"};
    const char *values[] = {"demo", "a/#", "b", "topic[2]"};
    struct config c;
    assert_int_equal(config_init(&c), OK);
    assert_comes_back(&c);
    assert_int_equal(config_from_options(&c, "mosquitto.conf", names, values, 4), OK);
    assert_null(c.path);
    assert_comes_back(&c);
    config_fini(&c);
}

static void test_mistakes_and_warnings_stay(void **state)
{
    struct config c;
    load(&c, everything);
    buf_printf(&c.warnings, "a warning\n");
    assert_int_equal(config_give_data(&c, "--data", "relative"), ERR_INVALID);
    assert_comes_back(&c);
    config_fini(&c);
}

/* In memory of its own length, so that a read beyond it is seen. */
static enum err unpack_exactly(const void *bytes, size_t len)
{
    uint8_t *copy = malloc(len ? len : 1);
    assert_non_null(copy);
    memcpy(copy, bytes, len);
    struct config c;
    enum err e = config_unpack(&c, slice_make(copy, len));
    free(copy);
    if (e) {
        assert_null(c.streams);
    } else {
        config_fini(&c);
    }
    return e;
}

static void test_bytes_that_are_cut_off_are_corrupt(void **state)
{
    struct config c;
    struct buf packed;
    load(&c, everything);
    pack(&c, &packed);
    for (size_t len = 0; len < packed.len; len++) {
        assert_int_equal(unpack_exactly(packed.data, len), ERR_CORRUPT);
    }
    assert_int_equal(unpack_exactly(packed.data, packed.len), OK);
    buf_put_u8(&packed, 0); /* one too many */
    assert_int_equal(unpack_exactly(packed.data, packed.len), ERR_CORRUPT);
    buf_fini(&packed);
    config_fini(&c);
    assert_int_equal(config_unpack(&c, slice_make(NULL, 0)), ERR_CORRUPT);
}

static void assert_corrupt(const struct config *c)
{
    struct buf packed;
    pack(c, &packed);
    assert_int_equal(unpack_exactly(packed.data, packed.len), ERR_CORRUPT);
    buf_fini(&packed);
}

static void test_values_that_no_setting_takes_are_corrupt(void **state)
{
    struct config c;
    load(&c, everything);
    c.sys_interval_ms = 1;
    assert_corrupt(&c);
    c.sys_interval_ms = 100;
    c.streams[0].partitions = 0;
    assert_corrupt(&c);
    c.streams[0].partitions = 1;
    c.streams[6].key_text[0] = 'P';
    assert_corrupt(&c);
    c.streams[6].key_text[0] = 'p';
    c.streams[0].filters[1][0] = '#';
    assert_corrupt(&c);
    c.streams[0].filters[1][0] = '+';
    assert_comes_back(&c);
    config_fini(&c);
}

/* Whatever is spoiled: an answer, no crash (the sanitizers look on). */
static void test_spoiled_bytes_never_crash(void **state)
{
    static const uint8_t spoil[] = {0, 1, '#', '9', '-', 0x7f, 0x80, 0xff};
    struct config c;
    struct buf packed;
    load(&c, everything);
    pack(&c, &packed);
    for (size_t i = 0; i < packed.len; i++) {
        uint8_t was = packed.data[i];
        for (size_t j = 0; j < sizeof spoil; j++) {
            packed.data[i] = spoil[j];
            enum err e = unpack_exactly(packed.data, packed.len);
            assert_true(e == ERR_CORRUPT || e == OK);
        }
        packed.data[i] = was;
    }
    buf_fini(&packed);
    config_fini(&c);
}

/* The whole of the limits, and one more of each. The streams share their filters: packing only
 * reads them. */
static void test_as_many_streams_and_filters_as_are_allowed(void **state)
{
    static char *filters[CONFIG_FILTERS_MAX + 1];
    static struct config_stream streams[CONFIG_STREAMS_MAX + 1];
    struct config c, d;
    struct config_stream s;
    struct buf packed;
    assert_int_equal(config_init(&c), OK);
    assert_int_equal(config_stream_init(&s), OK);
    assert_int_equal(config_stream_set(&s, "name", "n", NULL), OK);
    for (size_t i = 0; i <= CONFIG_FILTERS_MAX; i++) {
        filters[i] = i % 2 ? "+/x" : "x/#";
    }
    for (size_t i = 0; i <= CONFIG_STREAMS_MAX; i++) {
        streams[i] = s;
        streams[i].filters = filters;
        streams[i].filter_count = CONFIG_FILTERS_MAX;
        streams[i].line = INT32_MAX;
    }
    c.streams = streams;
    c.stream_count = CONFIG_STREAMS_MAX;
    pack(&c, &packed);
    assert_int_equal(config_unpack(&d, buf_slice(&packed)), OK);
    assert_int_equal(d.stream_count, CONFIG_STREAMS_MAX);
    const struct config_stream *last = &d.streams[CONFIG_STREAMS_MAX - 1];
    assert_int_equal(last->filter_count, CONFIG_FILTERS_MAX);
    assert_string_equal(last->filters[CONFIG_FILTERS_MAX - 1], "+/x");
    assert_int_equal(last->line, INT32_MAX);
    config_fini(&d);

    c.stream_count = 1;
    streams[0].filter_count++;
    buf_reset(&packed);
    assert_int_equal(config_pack(&c, &packed), OK);
    assert_int_equal(config_unpack(&d, buf_slice(&packed)), ERR_CORRUPT);
    for (size_t i = 0; i <= CONFIG_STREAMS_MAX; i++) {
        streams[i].filter_count = 1;
    }
    c.stream_count = CONFIG_STREAMS_MAX + 1;
    buf_reset(&packed);
    assert_int_equal(config_pack(&c, &packed), OK);
    assert_int_equal(config_unpack(&d, buf_slice(&packed)), ERR_CORRUPT);
    buf_fini(&packed);

    buf_init(&packed, 1000); /* too small */
    assert_int_equal(config_pack(&c, &packed), ERR_NOMEM);
    buf_fini(&packed);
    c.streams = NULL;
    c.stream_count = 0;
    config_stream_fini(&s);
    config_fini(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_a_comma_in_the_senders_locale_means_nothing, leave_locale),
        cmocka_unit_test(test_decimals_are_as_java_writes_them),
        cmocka_unit_test(test_a_configuration_comes_back_equal),
        cmocka_unit_test(test_a_configuration_without_a_file_comes_back_equal),
        cmocka_unit_test(test_mistakes_and_warnings_stay),
        cmocka_unit_test(test_bytes_that_are_cut_off_are_corrupt),
        cmocka_unit_test(test_values_that_no_setting_takes_are_corrupt),
        cmocka_unit_test(test_spoiled_bytes_never_crash),
        cmocka_unit_test(test_as_many_streams_and_filters_as_are_allowed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
