/* MQTT topic filters as a tree: which of many filters match a topic, in time that grows with the
 * levels of the topic and not with the number of filters (MQTT 5.0 §4.7).
 *
 * Values are small integers (the caller's stream indexes). Built once, then read-only: lookups from
 * any thread. Filters that begin with + or # never match topics that begin with $. */
#ifndef CULEX_MQTT_FILTER_H
#define CULEX_MQTT_FILTER_H

#include "shared/base/bytes.h"
#include "shared/base/err.h"

#define FILTER_BYTES_MAX  65535
#define FILTER_LEVELS_MAX 200

/* Is it a well-formed filter? ERR_INVALID with a sentence that says what is wrong and, where it
 * can, what would be right ("'#' must be the last level"). Empty, NUL, bad UTF-8, `a+`, `a/#/b`,
 * `$share/…` are refused. */
enum err filter_check(struct slice filter, struct errmsg *m) MUST_CHECK;

struct filter_tree;
struct filter_tree *filter_tree_new(void);
void filter_tree_free(struct filter_tree *t);
/* The same value may be added under several filters. ERR_NOMEM, ERR_INVALID. */
enum err filter_tree_add(struct filter_tree *t, struct slice filter, uint32_t value) MUST_CHECK;
/* Distinct values whose filters match, in out (room for max), ascending order not promised.
 * Returns the count, never more than max. Allocates nothing. */
size_t filter_tree_match(const struct filter_tree *t, struct slice topic, uint32_t *out,
                         size_t max);

#endif
