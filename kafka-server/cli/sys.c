/* Counters from the broker: the retained topics under $SYS/broker/culex/.
 *
 * The broker sends what it retains right after the subscription is granted; the end of it is not
 * marked. So we read until nothing has come for QUIET_MS after the grant. */
#include <mosquitto.h>
#include <stdio.h>
#include <string.h>

#include "kafka-server/cli/cli.h"
#include "shared/base/clock.h"

#define SYS_PREFIX  "$SYS/broker/culex/"
#define QUIET_MS    250
#define KEEPALIVE_S 60
#define MQTT_PORT   1883
#define VALUE_MAX   1024
#define ROWS_MAX    1000000

struct reading {
    json_t *values;
    bool connected, granted, failed;
    int64_t last_ms; /* something came */
    struct errmsg *m;
};

static void on_connect(struct mosquitto *mq, void *arg, int rc)
{
    struct reading *r = arg;
    if (rc != 0) {
        r->failed = true;
        err_set(r->m, ERR_IO, "%s", mosquitto_connack_string(rc));
        return;
    }
    r->connected = true;
    if (mosquitto_subscribe(mq, NULL, SYS_PREFIX "#", 0) != MOSQ_ERR_SUCCESS) {
        r->failed = true;
        err_set(r->m, ERR_IO, "the subscription could not be sent");
    }
}

static void on_subscribe(struct mosquitto *mq, void *arg, int mid, int count, const int *qos)
{
    struct reading *r = arg;
    r->granted = true;
    r->last_ms = clock_mono_ms();
    if (count > 0 && qos[0] >= 128) {
        r->failed = true;
        err_set(r->m, ERR_IO, "it does not let us read " SYS_PREFIX "#");
    }
}

static void on_message(struct mosquitto *mq, void *arg, const struct mosquitto_message *msg)
{
    struct reading *r = arg;
    const size_t prefix = strlen(SYS_PREFIX);
    r->last_ms = clock_mono_ms();
    if (strncmp(msg->topic, SYS_PREFIX, prefix) == 0 && msg->payloadlen >= 0 &&
        msg->payloadlen <= VALUE_MAX && json_object_size(r->values) < ROWS_MAX) {
        json_object_set_new(r->values, msg->topic + prefix,
                            json_stringn(msg->payload, (size_t)msg->payloadlen));
    }
}

static void read_all(struct mosquitto *mq, struct reading *r, int timeout_ms)
{
    int64_t deadline_ms = clock_mono_ms() + timeout_ms;
    while (!r->failed && clock_mono_ms() < deadline_ms) {
        if (r->granted && clock_mono_ms() - r->last_ms >= QUIET_MS) {
            return;
        }
        int rc = mosquitto_loop(mq, 50, 1);
        if (rc != MOSQ_ERR_SUCCESS) {
            r->failed = true;
            if (r->m->text[0] == '\0') {
                err_set(r->m, ERR_IO, "%s", mosquitto_strerror(rc));
            }
        }
    }
    if (!r->granted && !r->failed) {
        r->failed = true;
        err_set(r->m, ERR_IO, "no answer to %s within %d ms",
                r->connected ? "the subscription" : "CONNECT", timeout_ms);
    }
}

json_t *sys_read(const struct cli *cli, struct errmsg *m)
{
    char host[CLI_TEXT_MAX];
    int port;
    m->text[0] = '\0';
    if (!reach_split(cli->mqtt, MQTT_PORT, host, sizeof host, &port)) {
        err_set(m, ERR_IO, "not of the form host:port");
        return NULL;
    }
    if (!reach_probe(host, port, cli->timeout_ms, m)) {
        return NULL;
    }
    mosquitto_lib_init();
    struct reading r = {.values = json_object(), .m = m};
    struct mosquitto *mq = mosquitto_new(NULL, true, &r);
    if (mq == NULL || r.values == NULL) {
        err_set(m, ERR_IO, "no memory");
        json_decref(r.values);
        return NULL;
    }
    if (cli->username != NULL) {
        mosquitto_username_pw_set(mq, cli->username, cli->password);
    }
    mosquitto_connect_callback_set(mq, on_connect);
    mosquitto_subscribe_callback_set(mq, on_subscribe);
    mosquitto_message_callback_set(mq, on_message);
    int rc = mosquitto_connect(mq, host, port, KEEPALIVE_S);
    if (rc == MOSQ_ERR_SUCCESS) {
        read_all(mq, &r, cli->timeout_ms);
    } else {
        r.failed = true;
        err_set(m, ERR_IO, "%s", mosquitto_strerror(rc));
    }
    mosquitto_disconnect(mq);
    mosquitto_destroy(mq);
    mosquitto_lib_cleanup();
    if (r.failed) {
        json_decref(r.values);
        return NULL;
    }
    return r.values;
}
