/* Where in a JSON text a member or an element begins: jansson parses, but forgets lines. Only for
 * text that has been parsed as JSON; borrowed, never copied. */
#ifndef CULEX_CONFIG_LOCATE_H
#define CULEX_CONFIG_LOCATE_H

#include "shared/base/bytes.h"

struct json_spot {
    const char *p;   /* first byte of a value, or of the key that names it */
    const char *end; /* of the text */
    int line;        /* 1-based */
};

/* The document's value. */
struct json_spot json_spot_root(const char *text, size_t len);
/* The member of an object: line and p of the key; false when there is none. */
bool json_spot_member(struct json_spot object, const char *key, struct json_spot *out);
/* From a member's key to its value. */
struct json_spot json_spot_value(struct json_spot member);
/* First element of an array, and from one element to the next; false at the end. */
bool json_spot_first(struct json_spot array, struct json_spot *out);
bool json_spot_next(struct json_spot element, struct json_spot *out);

/* What a sentence of jansson's most often comes from, to go after it; "" when there is no guess. */
const char *json_hint(const char *error);

#endif
