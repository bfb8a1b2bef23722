/* The rows behind config.h: one per setting, and the setters that every source of values goes
 * through (the file, the environment, plugin_opt_*, the defaults). Only config.c and options.c
 * include this. */
#ifndef CULEX_CONFIG_OPTIONS_H
#define CULEX_CONFIG_OPTIONS_H

#include "shared/config/config.h"

enum option_section { SECTION_TOP, SECTION_STORE, SECTION_STREAM, SECTION_SERVER };

struct option_row {
    enum option_section section;
    const char *name;
    enum option_type type;
    size_t offset; /* in struct config; for a stream's rows in struct config_stream */
    size_t width;  /* of the field */
    int64_t min, max;
    const char *default_text; /* of a number "": it has none, and is CONFIG_UNSET */
    const char *const *choices; /* NULL-terminated, in the order of the enum; or NULL */
    /* What the type and the bounds alone do not say; a number comes as text. */
    enum err (*check)(const char *text, struct errmsg *m);
    bool reload;
    const char *doc;
};

extern const struct option_row option_rows[];
extern const size_t option_row_count;

const char *option_section_name(enum option_section section);
const struct option_row *option_find(enum option_section section, const char *name);
/* The name as mosquitto.conf has it: dots become underscores. */
void option_plain_name(const struct option_row *row, char *out, size_t size);
/* CULEX_ and the plain name in capitals. */
void option_variable_name(const struct option_row *row, char *out, size_t size);

/* base is the struct that the row's offset counts in. ERR_INVALID with what is wrong and what would
 * be right; ERR_NOMEM. The old value stays on failure. */
enum err option_set_number(const struct option_row *row, void *base, int64_t value,
                           struct errmsg *m) MUST_CHECK;
enum err option_set_double(const struct option_row *row, void *base, double value,
                           struct errmsg *m) MUST_CHECK;
enum err option_set_string(const struct option_row *row, void *base, const char *text,
                           struct errmsg *m) MUST_CHECK;
/* From text, whatever the type: environment, mosquitto.conf, defaults. */
enum err option_set_text(const struct option_row *row, void *base, const char *text,
                         struct errmsg *m) MUST_CHECK;
/* Every row of the section gets its default. */
enum err option_set_defaults(enum option_section section, void *base) MUST_CHECK;
/* Copies every row's value of the section; strings are duplicated. */
enum err option_copy(enum option_section section, void *to, const void *from) MUST_CHECK;
void option_free_strings(enum option_section section, void *base);
/* A stream's row, in config_stream.said. */
uint64_t option_said_bit(const struct option_row *row);
/* Is the field a char pointer? (A list of filters is not: config.c keeps those.) */
bool option_is_string(const struct option_row *row);

/* The topic key as the user writes it; fills key, key_from, key_to, key_name. */
enum err option_parse_key(struct config_stream *s, struct errmsg *m) MUST_CHECK;

#endif
