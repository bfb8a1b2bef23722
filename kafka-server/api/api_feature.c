/* Features: what clients and tools may take for granted of this server (KIP-584).
 *
 * A feature is a name and a level. Kafka's brokers support a range of levels and agree on one, so
 * that a cluster of old and new brokers can be taken up and down; here there is one broker, and it
 * always works at the level that it was built for. So that one is finalized, and is all that is
 * supported: a range would offer what UpdateFeatures refuses. Whoever builds what a level stands
 * for raises it in the table. */
#include "kafka-server/api/api.h"
#include "kafka-server/server.h"
#include "kafka_messages.h"

struct feature {
    const char *name;
    int16_t level; /* more than 0: clients before version 4 of ApiVersions cannot read a 0 */
};

static const struct feature features[] = {
    {"group.version", 1},       /* the consumer group protocol of KIP-848 */
    {"metadata.version", 27},   /* of Kafka 4.1, the release whose APIs we speak (4.1-IV1) */
    {"transaction.version", 2}, /* transactions as in KIP-890 */
};

#define FEATURE_COUNT ((int32_t)(sizeof features / sizeof *features))

/* UpdateFeatures: how a level may change. */
enum { UPGRADE = 1, SAFE_DOWNGRADE = 2, UNSAFE_DOWNGRADE = 3 };

static const struct feature *feature_find(struct kstr name)
{
    for (int32_t i = 0; i < FEATURE_COUNT; i++) {
        if (slice_eq(kstr_slice(name), slice_str(features[i].name))) {
            return &features[i];
        }
    }
    return NULL;
}

bool features_fill(struct request *rq, struct api_versions_response *p)
{
    p->supported_features = codec_new_array(&api_versions_response_supported_features_message,
                                            &rq->arena, FEATURE_COUNT);
    p->finalized_features = codec_new_array(&api_versions_response_finalized_features_message,
                                            &rq->arena, FEATURE_COUNT);
    if (p->supported_features == NULL || p->finalized_features == NULL) {
        return false;
    }
    p->finalized_features_epoch = 0;
    for (int32_t i = 0; i < FEATURE_COUNT; i++) {
        const struct feature *f = &features[i];
        struct api_versions_response_supported_features *supported = &p->supported_features[i];
        supported->name = kstr_make(f->name);
        supported->min_version = supported->max_version = f->level;
        struct api_versions_response_finalized_features *finalized = &p->finalized_features[i];
        finalized->name = kstr_make(f->name);
        finalized->min_version_level = finalized->max_version_level = f->level;
        /* It grows whenever a level does, and clients believe only what grows. */
        p->finalized_features_epoch += f->level;
    }
    p->supported_features_count = FEATURE_COUNT;
    p->finalized_features_count = FEATURE_COUNT;
    return true;
}

/* --- UpdateFeatures -------------------------------------------------------------------------- */

/* Why Kafka would not do it; len -1: it has been done already. The order of the checks, and the
 * words, are those of its controller. */
static struct kstr refusal(struct request *rq,
                           const struct update_features_request_feature_updates *u)
{
    int16_t level = u->max_version_level;
    const struct feature *f = feature_find(u->feature);
    int node = rq->server->config.server.node_id;
    if (u->upgrade_type < UPGRADE || u->upgrade_type > UNSAFE_DOWNGRADE) {
        return kstr_make("The controller does not support the given upgrade type.");
    }
    if (level < 0) {
        return kstr_make("A feature version cannot be less than 0.");
    }
    if (f == NULL && level == 0) {
        return request_text(rq, "Feature %.*s not found.", u->feature.len, u->feature.data);
    }
    if (f == NULL) {
        return request_text(rq, "Local controller %d does not support this feature.", node);
    }
    if (level != f->level) {
        return request_text(rq, "Local controller %d only supports versions %d-%d", node, f->level,
                            f->level);
    }
    return kstr_make(NULL);
}

void api_update_features(struct request *rq)
{
    const struct update_features_request *q = rq->body;
    struct update_features_response p;
    codec_init(&update_features_response_message, &p);
    p.error_message = kstr_make(NULL);
    p.results = codec_new_array(&update_features_response_results_message, &rq->arena,
                                q->feature_updates_count);
    if (p.results == NULL) {
        request_close_too_large(rq);
        return;
    }
    for (int32_t i = 0; i < q->feature_updates_count; i++) {
        const struct update_features_request_feature_updates *u = &q->feature_updates[i];
        struct kstr why = refusal(rq, u);
        if (why.len >= 0) {
            p.error_code = KERR_FEATURE_UPDATE_FAILED;
            p.error_message = request_text(
                rq,
                "The update failed for all features since the following feature had an error: "
                "Invalid update version %d for feature %.*s. %.*s",
                u->max_version_level, u->feature.len, u->feature.data, why.len, why.data);
            p.results_count = 0;
            break;
        }
        p.results[i].feature = u->feature;
        p.results[i].error_message = kstr_make("NONE");
        p.results_count = i + 1;
    }
    request_reply(rq, &p);
}
