/* Patterns of topic names in subscriptions (SubscribedTopicRegex, KIP-848).
 *
 * Kafka speaks RE2 there. This takes what RE2 takes of PCRE2, with a bound on time: topic_regex.c
 * says why. A pattern matches the whole name, as in Kafka. Not thread-safe. */
#ifndef CULEX_BROKER_TOPIC_REGEX_H
#define CULEX_BROKER_TOPIC_REGEX_H

#include "shared/base/bytes.h"

#define TOPIC_REGEX_BYTES_MAX 4096

struct topic_regex;

/* NULL: not a regular expression, one that RE2 does not have, one that is too long, or without
 * memory. */
struct topic_regex *topic_regex_new(struct slice pattern);
void topic_regex_free(struct topic_regex *r);
/* False also when it would take too long: then the pattern matches nothing more. */
bool topic_regex_match(struct topic_regex *r, struct slice name);

#endif
