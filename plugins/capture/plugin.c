/* The door to Mosquitto: the only file that includes its headers.
 *
 * One binary for brokers from 2.0.11 to 2.1: functions that only 2.1 has are weak, so that their
 * presence says which broker this is; the properties' functions come from libmosquitto, because
 * brokers built from upstream's sources do not export them.
 *
 * Several `plugin` lines (one for each listener with per_listener_settings) share one capture, held
 * by a count. They must name the same configuration. Where both lines end up in the same list of
 * the broker, 2.0 refuses the second callback, and 2.1 calls both for each message: the second call
 * for the same message is recognised by client, topic and payload being at the same addresses with
 * no tick between, which cannot be two messages: the broker frees one client and accepts another
 * only from one round of its loop to the next.
 *
 * What a refusal is, by broker, protocol and QoS (only 0, 12 and, in 2.1, -6 leave the publisher
 * connected):
 *
 *                      QoS 0         QoS 1, 2 with MQTT 5          QoS 1, 2 with MQTT 3
 *   2.0                12: dropped   12: PUBACK 0x87               13: disconnected
 *   2.1                12: dropped   -6: PUBACK 0x97 quota         13: disconnected
 *
 * MQTT 3 has no negative acknowledgement: 12 would tell the publisher that all is well.
 *
 * At ticks the writer's log lines and counters go to the broker. 2.0.11 does not tick with
 * per_listener_settings, so a message does the same when it finds something waiting, or when
 * nobody has looked for a tenth of a second: the writer may have died. */
#if __has_include(<mosquitto/broker_plugin.h>)
#include <mosquitto.h>
#else
#include <mosquitto.h>
#include <mosquitto_broker.h>
#include <mosquitto_plugin.h>
#include <mqtt_protocol.h>
#endif

#include "plugins/capture/capture.h"
#include "shared/mqtt/mapping.h"

#include <stdio.h>
#include <stdlib.h>

#define ENTRY          __attribute__((visibility("default")))
#define OPTIONS_MAX    4096
#define INSTANCES_MAX  1024
#define MQTT_5         5
#define RC_GO_ON       MOSQ_ERR_SUCCESS
#define RC_DENIED      MOSQ_ERR_ACL_DENIED
#define RC_QUOTA       (-6) /* MOSQ_ERR_QUOTA_EXCEEDED of 2.1 */
#define RC_DISCONNECT  MOSQ_ERR_UNKNOWN
#define RC_NEXT_RELOAD 17 /* MOSQ_ERR_PLUGIN_DEFER: 2.0 goes on with the next plugin */

/* 2.1 only. */
extern int mosquitto_plugin_set_info(mosquitto_plugin_id_t *identifier, const char *plugin_name,
                                     const char *plugin_version);
#pragma weak mosquitto_plugin_set_info

/* One `plugin` line of mosquitto.conf. */
struct instance {
    mosquitto_plugin_id_t *id;
    bool message, tick, reload; /* registered */
};

/* The one capture of this process and what belongs to it; broker's thread. */
static struct {
    /* Looked at for each message. */
    struct capture *capture;
    unsigned instances;
    bool broker_2_1;
    bool ticks; /* on_tick is called: not by 2.0.11 with per_listener_settings */
    size_t owned_count;
    void *owned[PUBLISH_USER_PROPERTIES_MAX * 2 + 8]; /* copies that the broker made for us */

    char *options;     /* of the first line, to compare */
    char *names[OPTIONS_MAX], *values[OPTIONS_MAX]; /* of the first line, for a reload */
    size_t option_count;
    struct {
        const struct instance *by;
        const void *client, *topic, *payload;
    } last; /* message, since the last tick */
    struct publish_property properties[PUBLISH_USER_PROPERTIES_MAX];
} culex;

/* --- log and counters ------------------------------------------------------------------------- */

static void print_line(void *arg, enum log_level level, const char *line)
{
    static const int levels[] = {MOSQ_LOG_ERR, MOSQ_LOG_WARNING, MOSQ_LOG_INFO, MOSQ_LOG_DEBUG};
    mosquitto_log_printf(levels[level], "culex: %s", line);
}

/* Sentences, one a line. */
static void print_sentences(int level, struct buf *sentences)
{
    const char *p = buf_text(sentences);
    while (*p) {
        size_t len = strcspn(p, "\n");
        mosquitto_log_printf(level, "culex: %.*s", (int)len, p);
        p += len + (p[len] == '\n');
    }
}

static void publish_sys(void *arg, const char *topic, const char *text)
{
    (void)mosquitto_broker_publish_copy(NULL, topic, (int)strlen(text), text, 0, true, NULL);
    /* Out of memory: the next pass shows it. */
}

SELDOM static void attend(void)
{
    capture_attend(culex.capture, publish_sys, NULL);
}

static int on_tick(int event, void *event_data, void *userdata)
{
    culex.ticks = true;
    culex.last.by = NULL;
    if (capture_due(culex.capture, false)) { /* a busy broker ticks thousands of times a second */
        attend();
    }
    return RC_GO_ON;
}

/* --- a message -------------------------------------------------------------------------------- */

static struct slice own_text(char *text)
{
    if (!text) {
        return slice_make("", 0); /* 2.1 gives NULL for an empty text */
    }
    culex.owned[culex.owned_count++] = text;
    return slice_str(text);
}

/* Copies of properties come from malloc in 2.0, and from the broker's counted allocator in 2.1. */
SELDOM static void free_owned(void)
{
    while (culex.owned_count > 0) {
        void *copy = culex.owned[--culex.owned_count];
        if (culex.broker_2_1) {
            mosquitto_free(copy);
        } else {
            free(copy);
        }
    }
}

static void read_single(const mosquitto_property *p, int id, struct publish *out)
{
    char *text = NULL;
    void *data = NULL;
    uint16_t len = 0;
    uint8_t byte = 0;
    switch (id) {
    case MQTT_PROP_CONTENT_TYPE:
        if (mosquitto_property_read_string(p, id, &text, false)) {
            out->content_type = own_text(text);
        }
        return;
    case MQTT_PROP_RESPONSE_TOPIC:
        if (mosquitto_property_read_string(p, id, &text, false)) {
            out->response_topic = own_text(text);
        }
        return;
    case MQTT_PROP_CORRELATION_DATA:
        if (mosquitto_property_read_binary(p, id, &data, &len, false)) {
            out->correlation_data = slice_make(data ? data : "", len);
            culex.owned[culex.owned_count++] = data;
        }
        return;
    case MQTT_PROP_PAYLOAD_FORMAT_INDICATOR:
        if (mosquitto_property_read_byte(p, id, &byte, false)) {
            out->payload_format = (int8_t)(byte & 1);
        }
        return;
    default:
        return;
    }
}

/* false: more user properties than a record takes. */
SELDOM static bool read_properties(const mosquitto_property *p, unsigned needs, struct publish *out)
{
    out->user = culex.properties;
    unsigned singles = 0;
    for (; p; p = mosquitto_property_next(p)) {
        int id = mosquitto_property_identifier(p);
        if (id != MQTT_PROP_USER_PROPERTY) {
            /* MQTT allows each of them once; the broker has checked. */
            if ((needs & NEEDS_PROPERTIES) && singles++ < 4) {
                read_single(p, id, out);
            }
            continue;
        }
        if (!(needs & NEEDS_USER_PROPERTIES)) {
            continue;
        }
        if (out->user_count == PUBLISH_USER_PROPERTIES_MAX) {
            return false;
        }
        char *name = NULL, *value = NULL;
        if (mosquitto_property_read_string_pair(p, id, &name, &value, false)) {
            struct publish_property *u = &culex.properties[out->user_count++];
            u->name = own_text(name);
            u->value = own_text(value);
        }
    }
    return true;
}

SELDOM static int refusal(const struct mosquitto_evt_message *ed)
{
    if (ed->qos == 0) {
        return RC_DENIED;
    }
    if (mosquitto_client_protocol_version(ed->client) < MQTT_5) {
        return RC_DISCONNECT;
    }
    return culex.broker_2_1 ? RC_QUOTA : RC_DENIED;
}

static inline enum capture_verdict take(const struct mosquitto_evt_message *ed, struct slice topic,
                                        unsigned needs)
{
    struct publish p;
    publish_init(&p);
    p.topic = topic;
    p.payload = slice_make(ed->payload, ed->payloadlen);
    p.qos = ed->qos;
    p.retain = ed->retain;
    if (needs & NEEDS_CLIENT_ID) {
        p.client_id = slice_str(mosquitto_client_id(ed->client));
    }
    if (needs & NEEDS_USERNAME) {
        p.username = slice_str(mosquitto_client_username(ed->client));
    }
    bool fits = true;
    if (ed->properties && (needs & (NEEDS_PROPERTIES | NEEDS_USER_PROPERTIES))) {
        fits = read_properties(ed->properties, needs, &p);
    }
    enum capture_verdict v =
        fits ? capture_publish(culex.capture, &p) : capture_too_large(culex.capture);
    if (culex.owned_count > 0) {
        free_owned();
    }
    if (v != CAPTURE_TAKEN) {
        capture_log_refusal(culex.capture, topic, mosquitto_client_id(ed->client));
    }
    return v;
}

/* The same message, brought by another of our plugin lines: 2.1 calls each of them, one straight
 * after the other. 2.0 has refused the second line's callback, so what looks the same there is
 * another message at addresses that malloc has handed out again. */
SELDOM static bool seen_before(const struct instance *by, const struct mosquitto_evt_message *ed)
{
    bool same = culex.last.by && culex.last.by != by && culex.last.client == ed->client &&
                culex.last.topic == ed->topic && culex.last.payload == ed->payload;
    if (!same) {
        culex.last.by = by;
        culex.last.client = ed->client;
        culex.last.topic = ed->topic;
        culex.last.payload = ed->payload;
    }
    return same;
}

HOT static int on_message(int event, void *event_data, void *userdata)
{
    const struct mosquitto_evt_message *ed = event_data;
    if (culex.broker_2_1 && culex.instances > 1 && seen_before(userdata, ed)) {
        return RC_GO_ON;
    }
    if (capture_due(culex.capture, culex.ticks)) {
        attend();
    }
    struct slice topic = slice_str(ed->topic);
    unsigned needs;
    if (capture_match(culex.capture, topic, &needs) == 0) {
        return RC_GO_ON;
    }
    return take(ed, topic, needs) == CAPTURE_REFUSED ? refusal(ed) : RC_GO_ON;
}

/* --- configuration ---------------------------------------------------------------------------- */

/* What the first plugin line says, with the streams that Kafka clients have bound. */
static enum err read_config(struct config *config, struct buf *mistakes)
{
    enum err e = config_init(config);
    if (e) {
        return e;
    }
    e = config_from_options(config, "mosquitto.conf", (const char *const *)culex.names,
                            (const char *const *)culex.values, culex.option_count);
    e = e ? e : config_add_bound(config);
    print_sentences(MOSQ_LOG_WARNING, &config->warnings);
    if (e) {
        buf_printf(mistakes, "%s", buf_text(&config->mistakes));
        config_fini(config);
    }
    return e;
}

static enum err keep_options(const struct mosquitto_opt *opts, int count)
{
    for (int i = 0; i < count && i < OPTIONS_MAX; i++) {
        culex.names[i] = strdup(opts[i].key);
        culex.values[i] = strdup(opts[i].value ? opts[i].value : "");
        culex.option_count++;
        if (!culex.names[i] || !culex.values[i]) {
            return ERR_NOMEM;
        }
    }
    return OK;
}

static void free_options(void)
{
    while (culex.option_count > 0) {
        culex.option_count--;
        free(culex.names[culex.option_count]);
        free(culex.values[culex.option_count]);
    }
    free(culex.options);
    culex.options = NULL;
}

/* The options as one text, to compare two plugin lines; malloc'd. */
static char *options_text(const struct mosquitto_opt *opts, int count)
{
    struct buf text;
    buf_init(&text, CONFIG_FILE_BYTES_MAX);
    for (int i = 0; i < count; i++) {
        buf_printf(&text, "%s=%s\n", opts[i].key, opts[i].value);
    }
    char *out = strdup(buf_text(&text));
    buf_fini(&text);
    return out;
}

static enum err read_again(struct buf *mistakes)
{
    static struct config config;
    enum err e = read_config(&config, mistakes);
    return e ? e : capture_reload(culex.capture, &config, mistakes);
}

static enum err first_instance(const struct mosquitto_opt *opts, int count, struct buf *mistakes)
{
    struct config config;
    enum err e = keep_options(opts, count);
    e = e ? e : read_config(&config, mistakes);
    if (e) {
        return e;
    }
    culex.options = options_text(opts, count);
    culex.broker_2_1 = mosquitto_plugin_set_info != NULL;
    log_set_sink(print_line, NULL);
    e = capture_open(&culex.capture, &config, mistakes);
    if (!e) {
        capture_on_change(culex.capture, read_again);
    }
    return e;
}

static enum err next_instance(const struct mosquitto_opt *opts, int count, struct buf *mistakes)
{
    char *options = options_text(opts, count);
    bool same = options && culex.options && strcmp(options, culex.options) == 0;
    free(options);
    if (!same) {
        buf_printf(mistakes,
                   "mosquitto.conf: a second plugin line of culex_capture.so must have the same "
                   "plugin_opt_ lines as the first: there is one log for the whole broker\n");
        return ERR_INVALID;
    }
    return OK;
}

static int on_reload(int event, void *event_data, void *userdata)
{
    struct buf mistakes;
    buf_init(&mistakes, 1u << 20);
    if (read_again(&mistakes)) {
        print_sentences(MOSQ_LOG_ERR, &mistakes);
        mosquitto_log_printf(MOSQ_LOG_ERR,
                             "culex: the configuration stays as it was before the reload");
    }
    buf_fini(&mistakes);
    attend();
    return culex.broker_2_1 ? RC_GO_ON : RC_NEXT_RELOAD;
}

/* --- entry points ----------------------------------------------------------------------------- */

static void last_instance(void)
{
    if (culex.capture) {
        capture_close(culex.capture);
        culex.capture = NULL;
    }
    log_set_sink(NULL, NULL);
    free_options();
    culex.last.by = NULL;
}

static bool attach(struct instance *in, int event, MOSQ_FUNC_generic_callback fn, const char *name)
{
    int rc = mosquitto_callback_register(in->id, event, fn, NULL, in);
    if (rc == MOSQ_ERR_ALREADY_EXISTS) {
        mosquitto_log_printf(MOSQ_LOG_WARNING, "culex: this plugin line repeats another one (%s)",
                             name);
    } else if (rc) {
        mosquitto_log_printf(MOSQ_LOG_ERR, "culex: the broker refuses the event %s (%d)", name, rc);
    }
    return rc == MOSQ_ERR_SUCCESS;
}

static void detach(struct instance *in)
{
    if (in->message) {
        mosquitto_callback_unregister(in->id, MOSQ_EVT_MESSAGE, on_message, NULL);
    }
    if (in->tick) {
        mosquitto_callback_unregister(in->id, MOSQ_EVT_TICK, on_tick, NULL);
    }
    if (in->reload) {
        mosquitto_callback_unregister(in->id, MOSQ_EVT_RELOAD, on_reload, NULL);
    }
}

ENTRY int mosquitto_plugin_version(int count, const int *versions);
ENTRY int mosquitto_plugin_version(int count, const int *versions)
{
    for (int i = 0; i < count; i++) {
        if (versions[i] == 5) {
            return 5;
        }
    }
    return -1;
}

ENTRY int mosquitto_plugin_init(mosquitto_plugin_id_t *id, void **userdata,
                                struct mosquitto_opt *opts, int count);
ENTRY int mosquitto_plugin_init(mosquitto_plugin_id_t *id, void **userdata,
                                struct mosquitto_opt *opts, int count)
{
    *userdata = NULL;
    struct buf mistakes;
    buf_init(&mistakes, 1u << 20);
    bool first = culex.instances == 0;
    struct instance *in = calloc(1, sizeof *in);
    enum err e = !in || culex.instances == INSTANCES_MAX ? ERR_NOMEM
                 : first                                 ? first_instance(opts, count, &mistakes)
                                                         : next_instance(opts, count, &mistakes);
    if (e && !mistakes.len) {
        buf_printf(&mistakes, "cannot start: %s\n", err_name(e));
    }
    print_sentences(MOSQ_LOG_ERR, &mistakes);
    buf_fini(&mistakes);
    if (e) {
        free(in);
        if (first) {
            last_instance();
        }
        return MOSQ_ERR_INVAL;
    }
    if (mosquitto_plugin_set_info) {
        (void)mosquitto_plugin_set_info(id, "culex-capture", CULEX_VERSION); /* for people */
    }
    in->id = id;
    in->message = attach(in, MOSQ_EVT_MESSAGE, on_message, "message");
    in->tick = attach(in, MOSQ_EVT_TICK, on_tick, "tick");
    in->reload = first && attach(in, MOSQ_EVT_RELOAD, on_reload, "reload");
    culex.instances++;
    *userdata = in;
    return MOSQ_ERR_SUCCESS;
}

ENTRY int mosquitto_plugin_cleanup(void *userdata, struct mosquitto_opt *opts, int count);
ENTRY int mosquitto_plugin_cleanup(void *userdata, struct mosquitto_opt *opts, int count)
{
    struct instance *in = userdata;
    if (!in || culex.instances == 0) {
        return MOSQ_ERR_SUCCESS; /* 2.1 also calls this where init failed */
    }
    detach(in);
    free(in);
    if (--culex.instances == 0) {
        last_instance();
    }
    return MOSQ_ERR_SUCCESS;
}
