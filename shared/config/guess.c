/* Levenshtein's distance, and how much of it still looks like a slip of the hand: a few letters,
 * and never more than half of the name. */
#include "shared/config/guess.h"

#include <stdio.h>

#define SLIP_MAX 4

static size_t min3(size_t a, size_t b, size_t c)
{
    size_t m = a < b ? a : b;
    return m < c ? m : c;
}

static size_t name_distance(const char *a, const char *b)
{
    size_t n = strlen(a), m = strlen(b);
    if (n >= GUESS_NAME_BYTES_MAX || m >= GUESS_NAME_BYTES_MAX) {
        return GUESS_NAME_BYTES_MAX;
    }
    size_t row[GUESS_NAME_BYTES_MAX + 1];
    for (size_t j = 0; j <= m; j++) {
        row[j] = j;
    }
    for (size_t i = 1; i <= n; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            size_t above = row[j];
            row[j] = min3(above + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1]));
            diagonal = above;
        }
    }
    return row[m];
}

void guess_init(struct guess *g)
{
    *g = (struct guess){.distance = SIZE_MAX};
}

void guess_try(struct guess *g, const char *unknown, const char *name)
{
    size_t d = name_distance(unknown, name);
    size_t limit = strlen(name) / 2;
    if (d <= (limit < SLIP_MAX ? limit : SLIP_MAX) && d < g->distance) {
        snprintf(g->name, sizeof g->name, "%s", name);
        g->distance = d;
    }
}
