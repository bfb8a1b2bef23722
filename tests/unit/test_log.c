/* Log lines: sinks, files that are reopened, cutting, and many threads at once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shared/base/clock.h"
#include "shared/base/log.h"

#define THREADS 4
#define LINES   500

static char dir[256];
static char line_seen[LOG_LINE_BYTES_MAX];
static enum log_level level_seen;
static int lines_seen;

static void keep_line(void *arg, enum log_level level, const char *line)
{
    snprintf(line_seen, sizeof line_seen, "%s", line);
    level_seen = level;
    lines_seen++;
    *(int *)arg += 1;
}

static int use_sink(void **state)
{
    static int calls;
    lines_seen = 0;
    log_set_sink(keep_line, &calls);
    log_set_level(LOG_INFO);
    return 0;
}

static int drop_sink(void **state)
{
    log_set_sink(NULL, NULL);
    return 0;
}

static void test_log_passes_lines_of_its_level_to_the_sink(void **state)
{
    log_info("group joined group=%s gen=%d", "g", 3);
    assert_string_equal(line_seen, "group joined group=g gen=3");
    assert_int_equal(level_seen, LOG_INFO);
    log_debug("not at this level");
    assert_int_equal(lines_seen, 1);
    log_set_level(LOG_DEBUG);
    log_debug("now it is");
    assert_int_equal(lines_seen, 2);
    log_set_level(LOG_ERROR);
    log_warn("not at this level either");
    assert_int_equal(lines_seen, 2);
    log_error("but this");
    assert_int_equal(level_seen, LOG_ERROR);
}

static void test_log_levels_have_names(void **state)
{
    assert_int_equal(log_level_parse("error"), LOG_ERROR);
    assert_int_equal(log_level_parse("warn"), LOG_WARN);
    assert_int_equal(log_level_parse("info"), LOG_INFO);
    assert_int_equal(log_level_parse("debug"), LOG_DEBUG);
    assert_int_equal(log_level_parse("loud"), -1);
    assert_int_equal(log_level_parse(""), -1);
}

static void test_log_cuts_a_long_line_between_characters(void **state)
{
    char text[3000];
    for (size_t shift = 0; shift < 4; shift++) {
        memset(text, 'a', sizeof text);
        for (size_t i = shift; i + 2 < sizeof text; i += 2) {
            memcpy(text + i, "ä", 2);
        }
        text[sizeof text - 1] = '\0';
        log_info("%s", text);
        size_t n = strlen(line_seen);
        assert_true(n <= LOG_LINE_BYTES_MAX - 1 && n >= LOG_LINE_BYTES_MAX - 3);
        assert_string_equal(line_seen + n - strlen("…"), "…");
        assert_int_equal((n - strlen("…") - shift) % 2, 0); /* no half character before it */
    }
    log_info("%.*s", LOG_LINE_BYTES_MAX - 1, text);
    assert_int_equal(strlen(line_seen), LOG_LINE_BYTES_MAX - 1);
    assert_null(strstr(line_seen, "…")); /* the longest that fits is not cut */
}

static void test_log_keeps_a_strangers_text_on_one_line(void **state)
{
    log_info("client id=%s", "a\nerror: forged\r\t\x1b[2J\x7f");
    assert_string_equal(line_seen, "client id=a?error: forged???[2J?");
}

static void test_log_leaves_errno_alone(void **state)
{
    errno = ENOSPC;
    log_info("something");
    assert_int_equal(errno, ENOSPC);
}

static size_t read_text(const char *path, char *out, size_t size)
{
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    size_t n = fread(out, 1, size - 1, f);
    out[n] = '\0';
    fclose(f);
    return n;
}

static int64_t fixed_wall(void)
{
    return 1700000000123; /* 2023-11-14T22:13:20.123Z */
}

static void test_log_file_is_reopened_after_a_rename(void **state)
{
    char path[300], moved[300], text[1000];
    snprintf(path, sizeof path, "%s/a.log", dir);
    snprintf(moved, sizeof moved, "%s/a.log.1", dir);
    log_set_sink(NULL, NULL);
    clock_set_source(fixed_wall, NULL);
    assert_int_equal(log_open_file(path, NULL), OK);
    log_warn("before");
    assert_int_equal(rename(path, moved), 0);
    log_info("still there");
    assert_int_equal(log_open_file(path, NULL), OK);
    log_error("after");
    clock_set_source(NULL, NULL);
    read_text(moved, text, sizeof text);
    assert_string_equal(text, "2023-11-14T22:13:20.123Z warn  before\n"
                              "2023-11-14T22:13:20.123Z info  still there\n");
    read_text(path, text, sizeof text);
    assert_string_equal(text, "2023-11-14T22:13:20.123Z error after\n");

    struct errmsg m;
    char bad[300];
    snprintf(bad, sizeof bad, "%s/none/b.log", dir);
    assert_int_equal(log_open_file(bad, &m), ERR_IO);
    assert_non_null(strstr(m.text, bad));
    log_info("the old file stays");
    read_text(path, text, sizeof text);
    assert_non_null(strstr(text, "the old file stays\n"));
}

static void *write_lines(void *arg)
{
    for (int i = 0; i < LINES; i++) {
        log_info("thread=%d line=%d %0200d", *(int *)arg, i, 0);
    }
    return NULL;
}

static void test_log_lines_of_threads_do_not_mix(void **state)
{
    char path[300];
    snprintf(path, sizeof path, "%s/threads.log", dir);
    log_set_sink(NULL, NULL);
    assert_int_equal(log_open_file(path, NULL), OK);
    pthread_t threads[THREADS];
    int numbers[THREADS], next[THREADS] = {0};
    for (int i = 0; i < THREADS; i++) {
        numbers[i] = i;
        assert_int_equal(pthread_create(&threads[i], NULL, write_lines, &numbers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    char text[1000];
    while (fgets(text, sizeof text, f)) {
        int thread, line, zero, end = 0;
        int got = sscanf(text, "%*s info thread=%d line=%d %d%n", &thread, &line, &zero, &end);
        assert_int_equal(got, 3);
        assert_string_equal(text + end, "\n");
        assert_int_equal(line, next[thread]++);
    }
    fclose(f);
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(next[i], LINES);
    }
}

/* Runs in a child, whose stderr is a file that plays the journal's socket. */
static void log_as_service(const char *path, bool matching)
{
    struct stat st;
    char stream[64];
    FILE *f = freopen(path, "w", stderr);
    if (!f || fstat(STDERR_FILENO, &st) != 0) {
        _exit(1);
    }
    snprintf(stream, sizeof stream, "%ju:%ju", (uintmax_t)st.st_dev,
             (uintmax_t)st.st_ino + (matching ? 0 : 1));
    setenv("JOURNAL_STREAM", stream, 1);
    log_set_level(LOG_DEBUG);
    log_error("one");
    log_warn("two");
    log_info("three");
    log_debug("four");
    _exit(0);
}

static void test_log_gives_the_journal_priorities_and_people_time_stamps(void **state)
{
    /* This test runs before any file is opened: lines go to stderr. */
    for (int matching = 0; matching <= 1; matching++) {
        char path[300], text[1000];
        snprintf(path, sizeof path, "%s/journal.%d", dir, matching);
        log_set_sink(NULL, NULL);
        pid_t pid = fork();
        if (pid == 0) {
            log_as_service(path, matching);
        }
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
        read_text(path, text, sizeof text);
        if (matching) {
            assert_string_equal(text, "<3>one\n<4>two\n<6>three\n<7>four\n");
        } else {
            assert_non_null(strstr(text, "Z error one\n"));
            assert_non_null(strstr(text, "Z debug four\n"));
        }
    }
}

static int64_t now_us;

static int64_t moved_time(void)
{
    return now_us;
}

static void test_log_limit_passes_one_line_an_interval_and_counts_the_rest(void **state)
{
    struct log_limit l = {0};
    unsigned held = 99;
    now_us = 1000000;
    clock_set_source(NULL, moved_time);
    assert_true(log_limit_pass(&l, 1000, &held));
    assert_int_equal(held, 0);
    for (int i = 0; i < 5; i++) {
        now_us += 100000;
        assert_false(log_limit_pass(&l, 1000, &held));
    }
    now_us += 500000;
    assert_true(log_limit_pass(&l, 1000, &held));
    assert_int_equal(held, 5);
    now_us += 1000000;
    assert_true(log_limit_pass(&l, 1000, NULL));
    clock_set_source(NULL, NULL);
}

static int make_dir(void **state)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%s/culex-log.XXXXXX", tmp ? tmp : "/tmp");
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
    static const char *const names[] = {"a.log", "a.log.1", "threads.log", "journal.0",
                                        "journal.1"};
    char path[300];
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        unlink(path);
    }
    return rmdir(dir);
}

#define with_sink(f) cmocka_unit_test_setup_teardown(f, use_sink, drop_sink)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_log_gives_the_journal_priorities_and_people_time_stamps),
        with_sink(test_log_passes_lines_of_its_level_to_the_sink),
        cmocka_unit_test(test_log_levels_have_names),
        with_sink(test_log_cuts_a_long_line_between_characters),
        with_sink(test_log_keeps_a_strangers_text_on_one_line),
        with_sink(test_log_leaves_errno_alone),
        with_sink(test_log_file_is_reopened_after_a_rename),
        with_sink(test_log_lines_of_threads_do_not_mix),
        cmocka_unit_test(test_log_limit_passes_one_line_an_interval_and_counts_the_rest),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
