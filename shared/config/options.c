/* Every setting is a row here, and nothing about a setting is said anywhere else: its name, type,
 * bounds, default and documentation. Parsing, bounds, the environment, plugin_opt_* names, help and
 * docs/configuration.md are derived.
 *
 * Defaults are text and go through the same setter as a user's text, so a default that breaks its
 * own bounds fails the first test that calls config_init. A field is found by offset and width; the
 * widths in use are 1 (bool, and choices with two values), 4 and 8 (long, double, pointers). Rows
 * with width 0 are lists or names that config.c handles itself (filters); they are here for their
 * documentation. */
#include "shared/config/options.h"
#include "shared/base/decimal.h"
#include "shared/config/listeners.h"
#include "shared/mqtt/json_path.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define KEY_NAME_BYTES_MAX  1024
#define KEY_LEVEL_MAX       200
#define NO_LIMIT            INT64_MAX

#define FIELD(section_, type_, field_) \
    .section = (section_), .offset = offsetof(struct type_, field_), \
    .width = sizeof(((struct type_ *)0)->field_)
#define TOP(field)    FIELD(SECTION_TOP, config, field)
#define STORE(field)  FIELD(SECTION_STORE, config, store.field)
#define SERVER(field) FIELD(SECTION_SERVER, config, server.field)
#define STREAM(field) FIELD(SECTION_STREAM, config_stream, field)
#define FILTERS       .section = SECTION_STREAM, .width = 0

static const char *const headers_choices[] = {"full", "minimal", "none", NULL};
static const char *const on_full_choices[] = {"block", "reject", "drop", NULL};
static const char *const durability_choices[] = {"flush", "fsync", NULL};
static const char *const cleanup_choices[] = {"delete", "compact", "compact,delete",
                                                "delete,compact", NULL};
static const char *const timestamp_choices[] = {"CreateTime", "LogAppendTime", NULL};
static const char *const compression_choices[] = {"uncompressed", "zstd", "lz4", "snappy", "gzip",
                                                  "producer", NULL};
static const char *const migration_choices[] = {"disabled", "upgrade", "downgrade",
                                               "bidirectional", NULL};
static const char *const level_choices[] = {"error", "warn", "info", "debug", NULL};

/* Plugin and server have different working directories: a relative path would be two places. */
static enum err check_data(const char *text, struct errmsg *m)
{
    return *text == '/' ? OK : err_set(m, ERR_INVALID, "\"%s\" is not an absolute path, like "
                                       "/var/lib/culex", text);
}

static enum err check_not_zero(const char *text, struct errmsg *m)
{
    return strcmp(text, "0") != 0
               ? OK : err_set(m, ERR_INVALID, "0 is none of its values; -1, or 1 or more");
}

static enum err check_assignors(const char *text, struct errmsg *m)
{
    for (const char *at = text;; at++) {
        at += strspn(at, " ");
        size_t len = strcspn(at, ", ");
        if (!((len == 7 && strncmp(at, "uniform", len) == 0) ||
              (len == 5 && strncmp(at, "range", len) == 0))) {
            return err_set(m, ERR_INVALID, "\"%.*s\" is not an assignor; uniform and range are",
                           (int)len, at);
        }
        at += len;
        at += strspn(at, " ");
        if (*at == '\0') {
            return OK;
        }
    }
}

static enum err check_stream_name(const char *text, struct errmsg *m)
{
    size_t len = strlen(text);
    if (len == 0) {
        return err_set(m, ERR_INVALID, "is empty; a name has 1 to 249 characters");
    }
    if (len > 249) {
        return err_set(m, ERR_INVALID, "has %zu characters; at most 249 are allowed", len);
    }
    for (size_t i = 0; i < len; i++) {
        unsigned char ch = (unsigned char)text[i];
        bool alnum = (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') ||
                     (ch >= '0' && ch <= '9');
        if (!alnum && (i == 0 || !strchr("._-", ch))) {
            return err_set(m, ERR_INVALID,
                           "\"%s\" is not a name for a stream; letters, digits, '.', '_' and '-' "
                           "are allowed, and the first is a letter or a digit", text);
        }
    }
    return OK;
}

/* The order is the order of the documentation. */
const struct option_row option_rows[] = {
    {TOP(data), .name = "data", .type = OPTION_STRING, .default_text = "/var/lib/culex",
     .check = check_data,
     .doc = "Data directory, an absolute path. The plugin writes DATA/captured, culex-server "
            "writes DATA/server."},
    {TOP(sys_interval_ms), .name = "sys.interval.ms", .type = OPTION_INT, .min = 100,
     .max = 3600000, .default_text = "5000", .reload = true,
     .doc = "How often the plugin publishes its counters under $SYS/broker/culex/."},

    {STORE(limit_bytes), .name = "limit.bytes", .type = OPTION_LONG, .min = 0, .max = NO_LIMIT,
     .default_text = "0",
     .doc = "Size limit of the whole captured log; the oldest segments go first. 0: no limit."},
    {STORE(segment_bytes), .name = "segment.bytes", .type = OPTION_LONG, .min = 0,
     .max = 1ll << 32, .default_text = "0",
     .doc = "A segment is closed when it holds this much. 0: 1/1024 of limit.bytes, between 8 and "
            "256 MB."},
    {STORE(segment_ms), .name = "segment.ms", .type = OPTION_LONG, .min = 1000, .max = NO_LIMIT,
     .default_text = "3600000",
     .doc = "A segment is closed when it is this old. Retention removes whole segments, so this is "
            "also how much longer than retention.ms a record may stay."},
    {STORE(ring_bytes), .name = "ring.bytes", .type = OPTION_LONG, .min = 65536, .max = 1ll << 30,
     .default_text = "16777216",
     .doc = "Size of the capture ring, the file between the broker and the writer; rounded up to a "
            "multiple of 4096. One publish may fill a quarter of it."},
    {STORE(tail_bytes), .name = "tail.bytes", .type = OPTION_LONG, .min = 65536, .max = 1ll << 30,
     .default_text = "16777216",
     .doc = "Size of the tail ring, from which culex-server serves the newest records."},
    {STORE(cache_bytes), .name = "cache.bytes", .type = OPTION_LONG, .min = 0, .max = NO_LIMIT,
     .default_text = "8388608", .doc = "RocksDB's block cache, in each process. 0: 8 MB."},
    {STORE(flush_interval_ms), .name = "flush.interval.ms", .type = OPTION_INT, .min = 1,
     .max = 60000, .default_text = "10",
     .doc = "How often the log is synced to the disk: the most that a power failure can take."},

    {STREAM(name), .name = "name", .type = OPTION_STRING, .default_text = "",
     .check = check_stream_name,
     .doc = "Name of the stream, which is the Kafka topic's name."},
    {FILTERS, .name = "filters", .type = OPTION_LIST, .default_text = "", .reload = true,
     .doc = "MQTT topic filters, 1 to 1024 of them: a publish that matches one goes into the "
            "stream. + and # at the beginning never match topics that begin with $."},
    {STREAM(partitions), .name = "partitions", .type = OPTION_INT, .min = 1, .max = 1024,
     .default_text = "16",
     .doc = "Partitions of the stream. Fixed once the stream exists."},
    {STREAM(key_text), .name = "key", .type = OPTION_STRING, .default_text = "topic",
     .reload = true,
     .doc = "The record's key: topic; topic[2] or topic[1..3] (levels of it); clientid; username; "
            "payload.<path> (a value in a JSON payload, like payload.device.id); property.<name> "
            "(a user property); sparkplug (group/node/device); none. Records with the same key "
            "keep their order."},
    {STREAM(headers), .name = "headers", .type = OPTION_CHOICE, .default_text = "full",
     .choices = headers_choices, .reload = true,
     .doc = "full: user properties and all mqtt.* headers; minimal: mqtt.topic alone; none."},
    {STREAM(username_header), .name = "username.header", .type = OPTION_BOOL,
     .default_text = "false", .reload = true,
     .doc = "Add the header mqtt.username (with headers = full)."},
    {STREAM(retention_ms), .name = "retention.ms", .type = OPTION_LONG, .min = -1, .max = NO_LIMIT,
     .default_text = "604800000", .reload = true,
     .doc = "Records older than this are removed. -1: never by age."},
    {STREAM(retention_bytes), .name = "retention.bytes", .type = OPTION_LONG, .min = -1,
     .max = NO_LIMIT, .default_text = "-1", .reload = true,
     .doc = "Bytes kept per partition, as in Kafka. -1: no limit."},
    {STREAM(cleanup), .name = "cleanup.policy", .type = OPTION_CHOICE, .default_text = "delete",
     .choices = cleanup_choices, .reload = true,
     .doc = "delete, or compact: retention.ms and retention.bytes then remove nothing, unless it "
            "is compact,delete, and a retained empty publish is a tombstone of its key (with key "
            "payload.<path> it has none). Older records of a key are removed in the "
            "background, as Kafka does it."},
    {STREAM(min_compaction_lag_ms), .name = "min.compaction.lag.ms", .type = OPTION_LONG,
     .max = INT64_MAX, .default_text = "0", .reload = true,
     .doc = "A record is not compacted before it is this old."},
    {STREAM(max_compaction_lag_ms), .name = "max.compaction.lag.ms", .type = OPTION_LONG, .min = 1,
     .max = INT64_MAX, .default_text = "9223372036854775807", .reload = true,
     .doc = "A record is compacted when it is this old, at the latest."},
    {STREAM(delete_retention_ms), .name = "delete.retention.ms", .type = OPTION_LONG,
     .max = INT64_MAX, .default_text = "86400000", .reload = true,
     .doc = "How long compaction keeps tombstones."},
    {STREAM(min_cleanable_dirty_ratio), .name = "min.cleanable.dirty.ratio",
     .type = OPTION_DOUBLE, .min = 0, .max = 1, .default_text = "0.5", .reload = true,
     .doc = "Compaction begins when this part of a partition's closed segments is not compacted."},
    {STREAM(on_full), .name = "on_full", .type = OPTION_CHOICE, .default_text = "block",
     .choices = on_full_choices, .reload = true,
     .doc = "What happens to a publish when the capture ring is full (the disk is full, broken "
            "or too slow). block: the broker waits up to on_full.block.ms, then as reject. "
            "reject: the publisher is told (MQTT 5: a reason code; MQTT 3 with QoS 1 or 2: its "
            "connection is closed, the only no that it has). drop: the broker delivers it, the "
            "stream lacks it. Each is counted. Of several matching streams the strictest "
            "decides."},
    {STREAM(on_full_block_ms), .name = "on_full.block.ms", .type = OPTION_INT, .min = 0,
     .max = 10000, .default_text = "1000", .reload = true,
     .doc = "Longest time that block holds the broker. After a wait in vain the next publishes do "
            "not wait again until there is room."},
    {STREAM(durability), .name = "durability", .type = OPTION_CHOICE, .default_text = "flush",
     .choices = durability_choices, .reload = true,
     .doc = "flush: acknowledged publishes survive a crash of any process, and a power failure but "
            "for the last flush.interval.ms. fsync: the broker waits until the publish is on the "
            "disk, and so does every other client of the broker."},

    {SERVER(listeners), .name = "listeners", .type = OPTION_LIST, .check = listeners_check,
     .default_text = "PLAINTEXT://127.0.0.1:9092",
     .doc = "Where the server listens: NAME://host:port, separated by commas. The host is a name, "
            "an address (IPv6 in brackets), or nothing for all addresses of the machine: 0.0.0.0 "
            "is those of IPv4 alone, [::] those of IPv6 alone."},
    {SERVER(advertised_listeners), .name = "advertised.listeners", .type = OPTION_LIST,
     .default_text = "", .check = listeners_check_advertised,
     .doc = "What clients are told to connect to: NAME://host:port for listeners of these names. "
            "The others, and all if it is empty, tell their own host; where that is a wildcard, "
            "each client is told the address that it has reached."},
    {SERVER(listener_security_protocol_map), .name = "listener.security.protocol.map",
     .type = OPTION_LIST, .default_text = "", .check = listeners_check_protocols,
     .doc = "NAME:PROTOCOL for listener names of your own. PLAINTEXT is what this version speaks, "
            "and what a listener speaks that is not named here."},
    {SERVER(node_id), .name = "node.id", .type = OPTION_INT, .min = 0, .max = INT32_MAX,
     .default_text = "1", .doc = "The broker id that clients see."},
    {SERVER(num_partitions), .name = "num.partitions", .type = OPTION_INT, .min = 1, .max = 1024,
     .default_text = "1", .reload = true,
     .doc = "Partitions of a topic that a Kafka client makes without saying how many. A stream of "
            "MQTT publishes has its own setting (partitions)."},
    {SERVER(delete_topic_enable), .name = "delete.topic.enable", .type = OPTION_BOOL,
     .default_text = "true", .reload = true, .doc = "May Kafka clients delete topics?"},
    {SERVER(offsets_retention_minutes), .name = "offsets.retention.minutes", .type = OPTION_LONG,
     .min = 1, .max = INT32_MAX, .default_text = "10080", .reload = true,
     .doc = "Committed offsets of an empty group are kept this long."},
    {SERVER(offsets_retention_check_interval_ms), .name = "offsets.retention.check.interval.ms",
     .type = OPTION_LONG, .min = 1, .max = NO_LIMIT, .default_text = "600000", .reload = true,
     .doc = "How often the server looks for expired offsets."},
    {SERVER(offset_metadata_max_bytes), .name = "offset.metadata.max.bytes", .type = OPTION_INT,
     .min = 0, .max = 1 << 20, .default_text = "4096", .reload = true,
     .doc = "Longest metadata of a committed offset."},
    {SERVER(producer_id_expiration_ms), .name = "producer.id.expiration.ms", .type = OPTION_LONG,
     .min = 1, .max = INT32_MAX, .default_text = "86400000", .reload = true,
     .doc = "A producer that has not written to a partition for so long is forgotten there."},
    {SERVER(producer_id_expiration_check_interval_ms),
     .name = "producer.id.expiration.check.interval.ms", .type = OPTION_LONG, .min = 1,
     .max = INT32_MAX, .default_text = "600000", .reload = true,
     .doc = "How often the server looks for producers to forget."},
    {SERVER(transaction_max_timeout_ms), .name = "transaction.max.timeout.ms", .type = OPTION_INT,
     .min = 1, .max = INT32_MAX, .default_text = "900000", .reload = true,
     .doc = "Longest `transaction.timeout.ms` that a producer may ask for."},
    {SERVER(transactional_id_expiration_ms), .name = "transactional.id.expiration.ms",
     .type = OPTION_LONG, .min = 1, .max = INT32_MAX, .default_text = "604800000", .reload = true,
     .doc = "A transactional id that has not been used for so long is forgotten."},
    {SERVER(transaction_abort_interval_ms),
     .name = "transaction.abort.timed.out.transaction.cleanup.interval.ms", .type = OPTION_INT,
     .min = 1, .max = INT32_MAX, .default_text = "10000", .reload = true,
     .doc = "How often the server looks for transactions that take too long, and aborts them."},
    {SERVER(transaction_remove_interval_ms),
     .name = "transaction.remove.expired.transaction.cleanup.interval.ms", .type = OPTION_INT,
     .min = 1, .max = INT32_MAX, .default_text = "3600000", .reload = true,
     .doc = "How often the server looks for transactional ids to forget."},
    {SERVER(group_initial_rebalance_delay_ms), .name = "group.initial.rebalance.delay.ms",
     .type = OPTION_INT, .min = 0, .max = 600000, .default_text = "5", .reload = true,
     .doc = "How long a new group waits for more members, and again after each that came. Kafka's "
            "is 3000; 5 is enough for consumers that start together, and a lone one hardly waits."},
    {SERVER(group_min_session_timeout_ms), .name = "group.min.session.timeout.ms",
     .type = OPTION_INT, .min = 1, .max = INT32_MAX, .default_text = "6000", .reload = true,
     .doc = "Shortest session timeout that a member may ask for."},
    {SERVER(group_max_session_timeout_ms), .name = "group.max.session.timeout.ms",
     .type = OPTION_INT, .min = 1, .max = INT32_MAX, .default_text = "1800000", .reload = true,
     .doc = "Longest session timeout that a member may ask for."},
    {SERVER(group_max_size), .name = "group.max.size", .type = OPTION_INT, .min = 1, .max = 100000,
     .default_text = "1000", .reload = true, .doc = "Most members of one group."},
    {SERVER(group_consumer_session_timeout_ms), .name = "group.consumer.session.timeout.ms",
     .type = OPTION_INT, .min = 1, .max = INT32_MAX, .default_text = "45000", .reload = true,
     .doc = "A member of the consumer protocol that is not heard of for so long is out of its "
            "group."},
    {SERVER(group_consumer_heartbeat_interval_ms), .name = "group.consumer.heartbeat.interval.ms",
     .type = OPTION_INT, .min = 1, .max = INT32_MAX, .default_text = "5000", .reload = true,
     .doc = "How often members of the consumer protocol are told to send heartbeats; less than "
            "group.consumer.session.timeout.ms."},
    {SERVER(group_consumer_max_size), .name = "group.consumer.max.size", .type = OPTION_INT,
     .min = 1, .max = INT32_MAX, .default_text = "2147483647", .reload = true,
     .doc = "Most members of one group of the consumer protocol."},
    {SERVER(group_consumer_assignors), .name = "group.consumer.assignors", .type = OPTION_LIST,
     .default_text = "uniform,range", .check = check_assignors, .reload = true,
     .doc = "The server's assignors that members may ask for, the default first."},
    {SERVER(group_consumer_migration_policy), .name = "group.consumer.migration.policy",
     .type = OPTION_CHOICE, .default_text = "bidirectional", .choices = migration_choices,
     .reload = true,
     .doc = "Whether a group with members may change from the classic to the consumer protocol "
            "(upgrade), back (downgrade), both, or not at all."},
    {SERVER(auto_create_topics_enable), .name = "auto.create.topics.enable", .type = OPTION_BOOL,
     .default_text = "true", .reload = true,
     .doc = "A stream that a client names and that does not exist is made, unless the client says "
            "that it should not be."},
    {SERVER(message_max_bytes), .name = "message.max.bytes", .type = OPTION_INT, .min = 0,
     .max = INT32_MAX, .default_text = "1048588", .reload = true,
     .doc = "Longest record batch that clients may write, after compression; a stream's "
            "max.message.bytes comes first."},
    {SERVER(log_retention_ms), .name = "log.retention.ms", .type = OPTION_LONG, .min = -1,
     .max = NO_LIMIT, .default_text = "", .check = check_not_zero, .reload = true,
     .doc = "How long records of streams that clients write are kept: the default of retention.ms. "
            "-1: for ever. Without it log.retention.minutes says, and without that "
            "log.retention.hours."},
    {SERVER(log_retention_minutes), .name = "log.retention.minutes", .type = OPTION_LONG,
     .min = -1, .max = INT32_MAX, .default_text = "", .check = check_not_zero, .reload = true,
     .doc = "The same in minutes."},
    {SERVER(log_retention_hours), .name = "log.retention.hours", .type = OPTION_LONG, .min = -1,
     .max = INT32_MAX, .default_text = "168", .check = check_not_zero, .reload = true,
     .doc = "The same in hours."},
    {SERVER(log_retention_bytes), .name = "log.retention.bytes", .type = OPTION_LONG, .min = -1,
     .max = NO_LIMIT, .default_text = "-1", .reload = true,
     .doc = "Default of retention.bytes, the bytes kept per partition. -1: no limit."},
    {SERVER(log_cleanup_policy), .name = "log.cleanup.policy", .type = OPTION_CHOICE,
     .default_text = "delete", .choices = cleanup_choices, .reload = true,
     .doc = "Default of cleanup.policy."},
    {SERVER(log_cleaner_min_compaction_lag_ms), .name = "log.cleaner.min.compaction.lag.ms",
     .type = OPTION_LONG, .min = 0, .max = NO_LIMIT, .default_text = "0", .reload = true,
     .doc = "Default of min.compaction.lag.ms."},
    {SERVER(log_cleaner_max_compaction_lag_ms), .name = "log.cleaner.max.compaction.lag.ms",
     .type = OPTION_LONG, .min = 1, .max = NO_LIMIT, .default_text = "9223372036854775807",
     .reload = true, .doc = "Default of max.compaction.lag.ms."},
    {SERVER(log_cleaner_delete_retention_ms), .name = "log.cleaner.delete.retention.ms",
     .type = OPTION_LONG, .min = 0, .max = NO_LIMIT, .default_text = "86400000", .reload = true,
     .doc = "Default of delete.retention.ms."},
    {SERVER(log_cleaner_min_cleanable_ratio), .name = "log.cleaner.min.cleanable.ratio",
     .type = OPTION_DOUBLE, .min = 0, .max = 1, .default_text = "0.5", .reload = true,
     .doc = "Default of min.cleanable.dirty.ratio."},
    {SERVER(log_segment_bytes), .name = "log.segment.bytes", .type = OPTION_LONG, .min = 1 << 20,
     .max = INT32_MAX, .default_text = "1073741824", .reload = true,
     .doc = "Default of segment.bytes."},
    {SERVER(log_roll_ms), .name = "log.roll.ms", .type = OPTION_LONG, .min = 1, .max = NO_LIMIT,
     .default_text = "", .reload = true,
     .doc = "Default of segment.ms. Without it log.roll.hours says."},
    {SERVER(log_roll_hours), .name = "log.roll.hours", .type = OPTION_LONG, .min = 1,
     .max = INT32_MAX, .default_text = "168", .reload = true, .doc = "The same in hours."},
    {SERVER(log_message_timestamp_type), .name = "log.message.timestamp.type",
     .type = OPTION_CHOICE, .default_text = "CreateTime", .choices = timestamp_choices,
     .reload = true, .doc = "Default of message.timestamp.type."},
    {SERVER(log_message_timestamp_before_max_ms), .name = "log.message.timestamp.before.max.ms",
     .type = OPTION_LONG, .min = 0, .max = NO_LIMIT, .default_text = "9223372036854775807",
     .reload = true, .doc = "Default of message.timestamp.before.max.ms."},
    {SERVER(log_message_timestamp_after_max_ms), .name = "log.message.timestamp.after.max.ms",
     .type = OPTION_LONG, .min = 0, .max = NO_LIMIT, .default_text = "3600000", .reload = true,
     .doc = "Default of message.timestamp.after.max.ms."},
    {SERVER(compression_type), .name = "compression.type", .type = OPTION_CHOICE,
     .default_text = "producer", .choices = compression_choices, .reload = true,
     .doc = "How streams that clients write are stored, where their compression.type does not "
            "say."},
    {SERVER(compression_gzip_level), .name = "compression.gzip.level", .type = OPTION_INT,
     .min = -1, .max = 9, .default_text = "-1", .check = check_not_zero, .reload = true,
     .doc = "Level for compression.type gzip, 1 to 9. -1: the codec's own."},
    {SERVER(compression_lz4_level), .name = "compression.lz4.level", .type = OPTION_INT, .min = 1,
     .max = 17, .default_text = "9", .reload = true, .doc = "Level for compression.type lz4."},
    {SERVER(compression_zstd_level), .name = "compression.zstd.level", .type = OPTION_INT,
     .min = -131072, .max = 22, .default_text = "3", .reload = true,
     .doc = "Level for compression.type zstd."},
    {SERVER(store_limit_bytes), .name = "store.limit.bytes", .type = OPTION_LONG, .min = 0,
     .max = NO_LIMIT, .default_text = "0",
     .doc = "Size limit of all that clients have written (DATA/server); the oldest segments go "
            "first. 0: no limit."},
    {SERVER(store_segment_bytes), .name = "store.segment.bytes", .type = OPTION_LONG, .min = 0,
     .max = 1ll << 32, .default_text = "0",
     .doc = "A segment of DATA/server is closed when it holds this much. 0: 1/1024 of "
            "store.limit.bytes, between 8 and 256 MB, and 16 MB without a limit."},
    {SERVER(store_tail_bytes), .name = "store.tail.bytes", .type = OPTION_LONG, .min = 65536,
     .max = 1ll << 30, .default_text = "16777216",
     .doc = "Size of the tail ring of DATA/server, from which the newest records are served. A "
            "record batch of more than a quarter of it is read from disk."},
    {SERVER(store_flush_interval_ms), .name = "store.flush.interval.ms", .type = OPTION_INT,
     .min = 1, .max = 60000, .default_text = "10",
     .doc = "How often DATA/server is synced to the disk: the most that a power failure can take "
            "of what was answered."},
    {SERVER(fetch_max_bytes), .name = "fetch.max.bytes", .type = OPTION_LONG, .min = 1024,
     .max = 1 << 30, .default_text = "57671680", .reload = true,
     .doc = "Most bytes of one fetch response, whatever the client asks for."},
    {SERVER(max_incremental_fetch_session_cache_slots),
     .name = "max.incremental.fetch.session.cache.slots", .type = OPTION_INT, .min = 0,
     .max = 1000000, .default_text = "1000", .doc = "Fetch sessions kept for clients."},
    {SERVER(socket_request_max_bytes), .name = "socket.request.max.bytes", .type = OPTION_LONG,
     .min = 1024, .max = 1 << 30, .default_text = "104857600",
     .doc = "Longest request; a longer one closes its connection."},
    {SERVER(queued_max_request_bytes), .name = "queued.max.request.bytes", .type = OPTION_LONG,
     .min = 1 << 20, .max = NO_LIMIT, .default_text = "268435456",
     .doc = "Memory for requests and responses of all connections; socket.request.max.bytes at "
            "least."},
    {SERVER(max_connections), .name = "max.connections", .type = OPTION_INT, .min = 1,
     .max = 1000000, .default_text = "1000", .reload = true,
     .doc = "Most connections at a time."},
    {SERVER(max_connections_per_ip), .name = "max.connections.per.ip", .type = OPTION_INT,
     .min = 1, .max = 1000000, .default_text = "900", .reload = true,
     .doc = "Most connections at a time from one address. Less than max.connections, so that one "
            "host cannot shut the others out."},
    {SERVER(connections_max_idle_ms), .name = "connections.max.idle.ms", .type = OPTION_LONG,
     .min = 1000, .max = NO_LIMIT, .default_text = "600000", .reload = true,
     .doc = "A connection without a request for so long is closed; one that has never sent any, "
            "after 30 s."},
    {SERVER(num_io_threads), .name = "num.io.threads", .type = OPTION_INT, .min = 1, .max = 64,
     .default_text = "2", .doc = "Threads that read the disk."},
    {SERVER(requests_in_flight_max), .name = "requests.in.flight.max", .type = OPTION_INT,
     .min = 1, .max = 1000000, .default_text = "10000",
     .doc = "Most requests that wait or are being worked on, all connections together."},
    {SERVER(log_file), .name = "log.file", .type = OPTION_STRING, .default_text = "",
     .reload = true, .doc = "Where the server logs to. Empty: standard error."},
    {SERVER(log_level), .name = "log.level", .type = OPTION_STRING, .default_text = "info",
     .choices = level_choices, .reload = true, .doc = "error, warn, info or debug."},
};
const size_t option_row_count = sizeof option_rows / sizeof option_rows[0];
_Static_assert(sizeof option_rows / sizeof option_rows[0] <= CONFIG_OPTIONS_MAX, "too many");

const char *option_section_name(enum option_section section)
{
    static const char *const names[] = {"", "store", "stream", "server"};
    return names[section];
}

const struct option_row *option_find(enum option_section section, const char *name)
{
    for (size_t i = 0; i < option_row_count; i++) {
        if (option_rows[i].section == section && strcmp(option_rows[i].name, name) == 0) {
            return &option_rows[i];
        }
    }
    return NULL;
}

void option_plain_name(const struct option_row *row, char *out, size_t size)
{
    size_t i = 0;
    for (; row->name[i] && i + 1 < size; i++) {
        out[i] = row->name[i] == '.' ? '_' : row->name[i];
    }
    out[i] = 0;
}

void option_variable_name(const struct option_row *row, char *out, size_t size)
{
    size_t used = (size_t)snprintf(out, size, "CULEX_");
    option_plain_name(row, out + used, size - used);
    for (char *p = out; *p; p++) {
        *p = *p >= 'a' && *p <= 'z' ? (char)(*p - 'a' + 'A') : *p;
    }
}

uint64_t option_said_bit(const struct option_row *row)
{
    unsigned n = 0;
    for (const struct option_row *r = option_rows; r < row; r++) {
        n += r->section == SECTION_STREAM;
    }
    return UINT64_C(1) << n;
}

bool option_is_string(const struct option_row *row)
{
    return row->width && (row->type == OPTION_STRING || row->type == OPTION_LIST);
}

static void *row_field(const struct option_row *row, void *base)
{
    return (char *)base + row->offset;
}

static char *row_string(const struct option_row *row, const void *base)
{
    char *text;
    memcpy(&text, (const char *)base + row->offset, sizeof text);
    return text;
}

static void row_put(const struct option_row *row, void *base, int64_t value)
{
    if (row->width == 1) {
        *(bool *)row_field(row, base) = value != 0;
    } else if (row->width == 4) {
        *(int32_t *)row_field(row, base) = (int32_t)value;
    } else {
        memcpy(row_field(row, base), &value, sizeof value);
    }
}

/* Of a double its bits. */
static int64_t row_get(const struct option_row *row, const void *base)
{
    const void *p = (const char *)base + row->offset;
    int64_t wide = 0;
    if (row->width == sizeof wide) {
        memcpy(&wide, p, sizeof wide);
        return wide;
    }
    return row->width == 1 ? *(const bool *)p : *(const int32_t *)p;
}

/* Of a stream's rows others keep it. */
static void note_said(const struct option_row *row, void *base, bool said)
{
    if (row->section != SECTION_STREAM) {
        ((struct config *)base)->said[row - option_rows] = said;
    }
}

enum err option_set_number(const struct option_row *row, void *base, int64_t value,
                           struct errmsg *m)
{
    if (row->type == OPTION_BOOL) {
        row_put(row, base, value);
        note_said(row, base, true);
        return OK;
    }
    if (value < row->min || value > row->max) {
        const char *what = value < row->min ? "small" : "large";
        if (row->max == NO_LIMIT) {
            return err_set(m, ERR_INVALID, "%" PRId64 " is too %s; %" PRId64 " or more", value,
                           what, row->min);
        }
        return err_set(m, ERR_INVALID, "%" PRId64 " is too %s; %" PRId64 " to %" PRId64, value,
                       what, row->min, row->max);
    }
    char text[32];
    snprintf(text, sizeof text, "%" PRId64, value);
    enum err e = row->check ? row->check(text, m) : OK;
    if (!e) {
        row_put(row, base, value);
        note_said(row, base, true);
    }
    return e;
}

enum err option_set_double(const struct option_row *row, void *base, double value,
                           struct errmsg *m)
{
    if (!(value >= (double)row->min && value <= (double)row->max)) {
        return err_set(m, ERR_INVALID, "%g is too %s; %" PRId64 " to %" PRId64, value,
                       value < (double)row->min ? "small" : "large", row->min, row->max);
    }
    memcpy(row_field(row, base), &value, sizeof value);
    note_said(row, base, true);
    return OK;
}

static enum err set_double_text(const struct option_row *row, void *base, const char *text,
                                struct errmsg *m)
{
    double v;
    return decimal_read(text, &v) ? option_set_double(row, base, v, m)
                                  : err_set(m, ERR_INVALID, "\"%s\" is not a number", text);
}

/* Blanks around the whole and around its commas mean nothing, as in Kafka. */
static bool is_choice(const char *choice, const char *text)
{
    text += strspn(text, " ");
    for (; *choice; choice++) {
        text += *choice == ',' ? strspn(text, " ") : 0;
        if (*text++ != *choice) {
            return false;
        }
        text += *choice == ',' ? strspn(text, " ") : 0;
    }
    return text[strspn(text, " ")] == '\0';
}

static enum err choice_index(const struct option_row *row, const char *text, int *index,
                             struct errmsg *m)
{
    char all[256] = "";
    for (int i = 0; row->choices[i]; i++) {
        if (is_choice(row->choices[i], text)) {
            *index = i;
            return OK;
        }
        const char *between = i == 0 ? "" : row->choices[i + 1] ? ", " : " or ";
        size_t len = strlen(all);
        snprintf(all + len, sizeof all - len, "%s%s", between, row->choices[i]);
    }
    return err_set(m, ERR_INVALID, "\"%s\" is none of its values; %s", text, all);
}

enum err option_set_string(const struct option_row *row, void *base, const char *text,
                           struct errmsg *m)
{
    if (row->choices) {
        int index = 0;
        enum err e = choice_index(row, text, &index, m);
        if (e) {
            return e;
        }
        if (row->type == OPTION_CHOICE) {
            row_put(row, base, index);
            note_said(row, base, true);
            return OK;
        }
        text = row->choices[index];
    }
    enum err e = row->check ? row->check(text, m) : OK;
    if (e) {
        return e;
    }
    char *copy = strdup(text);
    if (!copy) {
        return err_set(m, ERR_NOMEM, "no memory");
    }
    free(row_string(row, base));
    memcpy(row_field(row, base), &copy, sizeof copy);
    note_said(row, base, true);
    return OK;
}

static bool is_number(const struct option_row *row)
{
    return row->type == OPTION_INT || row->type == OPTION_LONG;
}

enum err option_set_text(const struct option_row *row, void *base, const char *text,
                         struct errmsg *m)
{
    if (is_number(row) && !*row->default_text && !*text) {
        row_put(row, base, CONFIG_UNSET);
        note_said(row, base, true);
        return OK;
    }
    switch (row->type) {
    case OPTION_BOOL:
        if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0) {
            return err_set(m, ERR_INVALID, "\"%s\" is neither true nor false", text);
        }
        return option_set_number(row, base, text[0] == 't', m);
    case OPTION_INT:
    case OPTION_LONG: {
        char *end;
        errno = 0;
        long long v = strtoll(text, &end, 10);
        bool digits = (*text >= '0' && *text <= '9') || *text == '-';
        if (!digits || end == text || *end || errno) {
            return err_set(m, ERR_INVALID, "\"%s\" is not a whole number", text);
        }
        return option_set_number(row, base, v, m);
    }
    case OPTION_DOUBLE:
        return set_double_text(row, base, text, m);
    default:
        return option_set_string(row, base, text, m);
    }
}

enum err option_set_defaults(enum option_section section, void *base)
{
    for (size_t i = 0; i < option_row_count; i++) {
        const struct option_row *row = &option_rows[i];
        if (row->section != section || !row->width) {
            continue;
        }
        enum err e;
        if (option_is_string(row)) {
            /* Not through option_set_string: an empty name is a default, but never a value. */
            char *copy = strdup(row->default_text);
            e = copy ? OK : ERR_NOMEM;
            memcpy(row_field(row, base), &copy, sizeof copy);
        } else {
            e = option_set_text(row, base, row->default_text, NULL);
        }
        if (e) {
            return e;
        }
        note_said(row, base, false);
    }
    return OK;
}

enum err option_copy(enum option_section section, void *to, const void *from)
{
    for (size_t i = 0; i < option_row_count; i++) {
        const struct option_row *row = &option_rows[i];
        if (row->section != section || !row->width) {
            continue;
        }
        if (!option_is_string(row)) {
            row_put(row, to, row_get(row, from));
            continue;
        }
        char *copy = strdup(row_string(row, from));
        if (!copy) {
            return ERR_NOMEM;
        }
        free(row_string(row, to));
        memcpy(row_field(row, to), &copy, sizeof copy);
    }
    return OK;
}

void option_free_strings(enum option_section section, void *base)
{
    char *none = NULL;
    for (size_t i = 0; i < option_row_count; i++) {
        const struct option_row *row = &option_rows[i];
        if (row->section == section && option_is_string(row)) {
            free(row_string(row, base));
            memcpy(row_field(row, base), &none, sizeof none);
        }
    }
}

/* "2" or "1..3", then "]". */
static bool parse_levels(const char *text, int32_t *from, int32_t *to)
{
    char *end;
    if (*text < '0' || *text > '9') {
        return false;
    }
    long a = strtol(text, &end, 10);
    long b = a;
    if (strncmp(end, "..", 2) == 0) {
        if (end[2] < '0' || end[2] > '9') {
            return false;
        }
        b = strtol(end + 2, &end, 10);
    }
    if (strcmp(end, "]") != 0 || a < 1 || b < a || b > KEY_LEVEL_MAX) {
        return false;
    }
    *from = (int32_t)a;
    *to = (int32_t)b;
    return true;
}

static enum err key_set_name(struct config_stream *s, enum config_key key, const char *name,
                             struct errmsg *m)
{
    size_t len = strlen(name);
    if (len == 0 || len > KEY_NAME_BYTES_MAX) {
        return err_set(m, ERR_INVALID, "\"%.80s\" needs a name of 1 to %d bytes after the dot",
                       s->key_text, KEY_NAME_BYTES_MAX);
    }
    if (key == KEY_PAYLOAD && !json_path_valid(name)) {
        return err_set(m, ERR_INVALID, "\"%.80s\" is no path into a payload; names with a dot "
                       "between them and [numbers] after them, like payload.values[0].id",
                       s->key_text);
    }
    s->key_name = strdup(name);
    s->key = key;
    return s->key_name ? OK : err_set(m, ERR_NOMEM, "no memory");
}

enum err option_parse_key(struct config_stream *s, struct errmsg *m)
{
    static const struct {
        const char *text;
        enum config_key key;
    } plain[] = {
        {"topic", KEY_TOPIC},         {"clientid", KEY_CLIENTID}, {"username", KEY_USERNAME},
        {"sparkplug", KEY_SPARKPLUG}, {"none", KEY_NONE},
    };
    const char *text = s->key_text;
    free(s->key_name);
    s->key_name = NULL;
    s->key_from = s->key_to = 0;
    for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++) {
        if (strcmp(text, plain[i].text) == 0) {
            s->key = plain[i].key;
            return OK;
        }
    }
    if (strncmp(text, "topic[", 6) == 0) {
        if (!parse_levels(text + 6, &s->key_from, &s->key_to)) {
            return err_set(m, ERR_INVALID, "\"%.80s\" names no levels of the topic; topic[2] or "
                           "topic[1..3], counted from 1, at most %d", text, KEY_LEVEL_MAX);
        }
        s->key = KEY_LEVELS;
        return OK;
    }
    if (strncmp(text, "payload.", 8) == 0) {
        return key_set_name(s, KEY_PAYLOAD, text + 8, m);
    }
    if (strncmp(text, "property.", 9) == 0) {
        return key_set_name(s, KEY_PROPERTY, text + 9, m);
    }
    return err_set(m, ERR_INVALID, "\"%.80s\" is no key; topic, topic[1..3], clientid, username, "
                   "payload.<path>, property.<name>, sparkplug or none", text);
}

size_t option_count(void)
{
    return option_row_count;
}

void option_view(size_t i, struct option_view *v)
{
    const struct option_row *row = &option_rows[i];
    *v = (struct option_view){
        .section = option_section_name(row->section),
        .name = row->name,
        .type = row->choices ? OPTION_CHOICE : row->type,
        .default_text = row->default_text,
        .doc = row->doc,
        .reload = row->reload,
        .min = row->min,
        .max = row->max,
        .choices = row->choices,
    };
}

static void row_text(const struct option_row *row, const void *base, struct buf *out)
{
    if (!row->width) {
        return;
    }
    if (option_is_string(row)) {
        buf_printf(out, "%s", row_string(row, base));
    } else if (row->type == OPTION_BOOL) {
        buf_printf(out, "%s", row_get(row, base) ? "true" : "false");
    } else if (row->type == OPTION_CHOICE) {
        buf_printf(out, "%s", row->choices[row_get(row, base)]);
    } else if (row->type == OPTION_DOUBLE) {
        double v;
        memcpy(&v, (const char *)base + row->offset, sizeof v);
        char text[DECIMAL_BYTES_MAX];
        decimal_text(v, text);
        buf_printf(out, "%s", text);
    } else if (row_get(row, base) != CONFIG_UNSET) {
        buf_printf(out, "%" PRId64, row_get(row, base));
    }
}

bool option_said(const struct config *c, size_t i)
{
    return c->said[i];
}

void option_value_text(const struct config *c, size_t i, struct buf *out)
{
    if (option_rows[i].section != SECTION_STREAM) {
        row_text(&option_rows[i], c, out);
    }
}

void option_stream_text(const struct config_stream *s, size_t i, struct buf *out)
{
    if (option_rows[i].section == SECTION_STREAM) {
        row_text(&option_rows[i], s, out);
    }
}
