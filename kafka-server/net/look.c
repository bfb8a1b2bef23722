/* What a peer speaks that does not speak Kafka.
 *
 * A Kafka connection begins with the length of its first frame, and no client sends one of 100 MB
 * or more. So the first four bytes of other protocols give themselves away: "GET " is a length of
 * 1.2 GB, a TLS hello (22, 3, 1, …) one of 369 MB, an MQTT CONNECT (16, …) one of 268 MB or more.
 * Naming them saves the person at the other end an hour. */
#include <ctype.h>
#include <stdio.h>

#include "kafka-server/net/internal.h"

static const char http_words[][5] = {"GET ", "POST", "PUT ", "HEAD", "DELE",
                                     "OPTI", "PATC", "CONN", "PRI ", "HTTP"};

const char *net_look(const uint8_t first[4], size_t frame_bytes_max, char text[96],
                     enum net_complaint *kind)
{
    int32_t len = (int32_t)be32_get(first);
    if (len >= NET_FRAME_BYTES_MIN && (size_t)len <= frame_bytes_max) {
        return NULL;
    }
    for (size_t i = 0; i < sizeof http_words / sizeof *http_words; i++) {
        if (memcmp(first, http_words[i], 4) == 0) {
            *kind = NET_ODD_HTTP;
            snprintf(text, 96, "HTTP (\"%.4s\")", (const char *)first);
            return text;
        }
    }
    if (first[0] == 22 && first[1] == 3) {
        *kind = NET_ODD_TLS;
        return "a TLS hello (this listener speaks PLAINTEXT)";
    }
    if (first[0] == 0x10) {
        *kind = NET_ODD_MQTT;
        return "an MQTT connect (the broker's port is another one)";
    }
    if (isprint(first[0]) && isprint(first[1]) && isprint(first[2]) && isprint(first[3])) {
        *kind = NET_ODD_TEXT;
        snprintf(text, 96, "text (\"%.4s\")", (const char *)first);
        return text;
    }
    *kind = NET_ODD_LENGTH;
    if (len < 0) {
        snprintf(text, 96, "a frame with the negative length %d", len);
    } else if (len < NET_FRAME_BYTES_MIN) {
        snprintf(text, 96, "a frame of %d bytes, which is too short for a request", len);
    } else {
        snprintf(text, 96, "a frame of %d bytes; socket.request.max.bytes is %zu", len,
                 frame_bytes_max);
    }
    return text;
}
