/* Produce: captured streams are written by MQTT alone, so every write is refused, with a sentence.
 *
 * It is served all the same, because clients take from it which records they may read: librdkafka
 * up to 2.11 believes in today's record batches only where Produce 3 is offered, in zstd where 7
 * is, and in compression at all where 0 is. Without this row it cannot fetch. Versions 0 to 2 are
 * offered for that reason only, as Kafka itself does; who sends one is disconnected, as by Kafka.
 * Versions 12 and 13 belong to transactions of a kind that clients use only where they are
 * announced. */
#include "kafka-server/api/api.h"
#include "kafka-server/broker/topics.h"
#include "kafka-server/server.h"
#include "kafka_messages.h"

static const char refusal[] = "this stream is captured from MQTT; Kafka clients can only read it";
static bool refuse_topic(struct request *rq, const struct produce_request_topic_data *in,
                         struct produce_response_responses *out)
{
    const struct topic *t = topics_find(rq->server->topics, kstr_slice(in->name));
    out->name = in->name;
    out->partition_responses =
        codec_new_array(&produce_response_responses_partition_responses_message, &rq->arena,
                        in->partition_data_count);
    if (out->partition_responses == NULL) {
        return false;
    }
    out->partition_responses_count = in->partition_data_count;
    for (int32_t i = 0; i < in->partition_data_count; i++) {
        struct produce_response_responses_partition_responses *p = &out->partition_responses[i];
        p->index = in->partition_data[i].index;
        p->base_offset = -1;
        p->error_code = KERR_UNKNOWN_TOPIC_OR_PARTITION;
        if (topic_has_partition(t, p->index)) {
            p->error_code = KERR_POLICY_VIOLATION;
            p->error_message = kstr_make(refusal);
        }
    }
    return true;
}

void api_produce(struct request *rq)
{
    const struct produce_request *q = rq->body;
    struct produce_response p;
    if (q->acks == 0) { /* no answer is expected: closing is the only no that there is */
        request_close(rq, "wrote to a stream; Kafka clients can only read");
        return;
    }
    codec_init(&produce_response_message, &p);
    p.responses =
        codec_new_array(&produce_response_responses_message, &rq->arena, q->topic_data_count);
    if (p.responses == NULL) {
        request_close_too_large(rq);
        return;
    }
    p.responses_count = q->topic_data_count;
    for (int32_t i = 0; i < q->topic_data_count; i++) {
        if (!refuse_topic(rq, &q->topic_data[i], &p.responses[i])) {
            request_close_too_large(rq);
            return;
        }
    }
    request_reply(rq, &p);
}
