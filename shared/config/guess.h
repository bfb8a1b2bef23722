/* "Did you mean …?": the nearest of the names that are known. */
#ifndef CULEX_CONFIG_GUESS_H
#define CULEX_CONFIG_GUESS_H

#include "shared/base/bytes.h"

#define GUESS_NAME_BYTES_MAX 96 /* NUL included; longer names are near to none */

struct guess {
    char name[GUESS_NAME_BYTES_MAX]; /* "": nothing is near enough */
    size_t distance;
};

void guess_init(struct guess *g);
/* Offers one known name for the unknown one. */
void guess_try(struct guess *g, const char *unknown, const char *name);

#endif
