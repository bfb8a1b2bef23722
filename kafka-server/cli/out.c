/* Tables for people, printed from the JSON that programs get. Widths are those of the longest cell;
 * the last column is not padded, so that lines end where their text does.
 *
 * Names of groups and clients are what anybody made them: in tables a control character is printed
 * as \xNN, so that no name moves the cursor or looks like a row of its own. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "kafka-server/cli/cli.h"

#define COLUMNS_MAX 16

/* The text of a cell; buf is for numbers. */
static const char *cell(json_t *v, char *buf, size_t size)
{
    if (v == NULL || json_is_null(v)) {
        return "-";
    }
    if (json_is_string(v)) {
        return json_string_length(v) > 0 ? json_string_value(v) : "-";
    }
    if (json_is_boolean(v)) {
        return json_is_true(v) ? "yes" : "no";
    }
    if (json_is_array(v)) {
        snprintf(buf, size, "%zu", json_array_size(v));
    } else if (json_is_real(v)) {
        snprintf(buf, size, "%.1f", json_real_value(v));
    } else {
        snprintf(buf, size, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
    }
    return buf;
}

/* Is there a control character at *s: ASCII's, or the C1 set (U+0080 to U+009F), of which UTF-8
 * makes C2 and a byte? Terminals obey both. */
static bool controls(const unsigned char *s)
{
    return s[0] < 0x20 || s[0] == 0x7f || (s[0] == 0xc2 && s[1] >= 0x80 && s[1] < 0xa0);
}

/* Prints text to `to`, if that is not NULL; how many bytes it takes. */
static size_t print_text(FILE *to, const char *text)
{
    size_t width = 0;
    for (const unsigned char *s = (const unsigned char *)text; *s != '\0'; s++) {
        bool escaped = controls(s);
        s += escaped && *s == 0xc2; /* its second byte is the code point */
        width += escaped ? 4 : 1;
        if (to != NULL) {
            fprintf(to, escaped ? "\\x%02x" : "%c", *s);
        }
    }
    return width;
}

static void print_cell(const char *text, const struct column *c, size_t width, bool last)
{
    int pad = (int)(width - print_text(NULL, text));
    printf("%*s", c->right ? pad : 0, "");
    print_text(stdout, text);
    printf("%*s%s", c->right || last ? 0 : pad, "", last ? "\n" : "  ");
}

void out_table(json_t *rows, const struct column *columns, size_t count, const char *empty)
{
    size_t width[COLUMNS_MAX];
    char buf[32];
    size_t i;
    json_t *row;
    if (json_array_size(rows) == 0) {
        printf("%s\n", empty);
        return;
    }
    ASSERT(count <= COLUMNS_MAX);
    for (size_t k = 0; k < count; k++) {
        width[k] = strlen(columns[k].title);
        json_array_foreach(rows, i, row)
        {
            size_t n =
                print_text(NULL, cell(json_object_get(row, columns[k].key), buf, sizeof buf));
            width[k] = n > width[k] ? n : width[k];
        }
    }
    for (size_t k = 0; k < count; k++) {
        print_cell(columns[k].title, &columns[k], width[k], k + 1 == count);
    }
    json_array_foreach(rows, i, row)
    {
        for (size_t k = 0; k < count; k++) {
            print_cell(cell(json_object_get(row, columns[k].key), buf, sizeof buf), &columns[k],
                       width[k], k + 1 == count);
        }
    }
}

void out_fields(json_t *object, const struct column *fields, size_t count)
{
    size_t width = 0;
    char buf[32];
    for (size_t k = 0; k < count; k++) {
        size_t n = strlen(fields[k].title);
        width = n > width ? n : width;
    }
    for (size_t k = 0; k < count; k++) {
        json_t *v = json_object_get(object, fields[k].key);
        if (v != NULL) {
            printf("%-*s  ", (int)width, fields[k].title);
            print_text(stdout, cell(v, buf, sizeof buf));
            printf("\n");
        }
    }
}

void out_json(json_t *document)
{
    json_dumpf(document, stdout, JSON_INDENT(2));
    printf("\n");
}

static void print_line(const char *prefix, const char *fmt, va_list args) PRINTF_LIKE(2, 0);
static void print_line(const char *prefix, const char *fmt, va_list args)
{
    fflush(stdout);
    fprintf(stderr, "%s", prefix);
    vfprintf(stderr, fmt, args);
    fprintf(stderr, "\n");
}

int out_error(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    print_line("culex: ", fmt, args);
    va_end(args);
    return CLI_FAILED;
}

void out_note(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    print_line("culex: note: ", fmt, args);
    va_end(args);
}
