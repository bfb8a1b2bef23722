/* Writes docs/apis.md to stdout, from the table of APIs (kafka-server/api/api.c) and the schema. */
#include "kafka-server/api/api.h"

#include <inttypes.h>
#include <stdio.h>

static const char intro[] =
    "# APIs\n"
    "\n"
    "What culex-server answers, and in which versions: what it says in ApiVersions, but where the\n"
    "last column says otherwise. A request in another version, or of another API, closes the\n"
    "connection, as in Kafka; ApiVersions itself is answered in any version.\n"
    "\n"
    "This page is made from the table of APIs by `make docs`.\n"
    "\n"
    "| key | API | versions | |\n|---|---|---|---|\n";

int main(void)
{
    api_init();
    fputs(intro, stdout);
    for (size_t i = 0; i < api_table_count; i++) {
        const struct api *a = &api_table[i];
        printf("| %d | %s | ", a->key, a->codec->name);
        if (a->version_min == a->version_max) {
            printf("%d", a->version_min);
        } else {
            printf("%d to %d", a->version_min, a->version_max);
        }
        printf(" | %s |\n",
               a->told == API_TOLD_FROM_0
                   ? "ApiVersions says from 0, as Kafka does for old librdkafka"
               : a->told == API_UNTOLD
                   ? "answered, not offered: ApiVersions does not name it, as in Kafka"
                   : "");
    }
    return 0;
}
