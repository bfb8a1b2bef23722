/* Tables for people, printed from the JSON that programs get. Widths are those of the longest cell;
 * the last column is not padded, so that lines end where their text does. */
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

static void print_cell(const char *text, const struct column *c, size_t width, bool last)
{
    if (c->right) {
        printf("%*s", (int)width, text);
    } else if (last) {
        printf("%s", text);
    } else {
        printf("%-*s", (int)width, text);
    }
    printf("%s", last ? "\n" : "  ");
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
            size_t n = strlen(cell(json_object_get(row, columns[k].key), buf, sizeof buf));
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
            printf("%-*s  %s\n", (int)width, fields[k].title, cell(v, buf, sizeof buf));
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
