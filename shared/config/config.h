/* culex.json: one file for the plugin, the server and the command line; read and checked whole.
 *
 *   {
 *     "data": "/var/lib/culex", "sys.interval.ms": 5000,
 *     "store":   { "limit.bytes": 0, "ring.bytes": …, "flush.interval.ms": 10, … },
 *     "defaults": { any key of a stream but name and filters },
 *     "streams": [ { "name": "demo", "filters": ["demo/#"], "partitions": 16, "key": "topic",
 *                    "headers": "full", "retention.ms": …, "on_full": "block", … }, … ],
 *     "server":  { "listeners": "…", "advertised.listeners": "…", … }
 *   }
 *
 * Every setting is a row of a table in options.c: name, type, bounds, default, documentation.
 * From the rows come parsing, bounds, the environment's names (CULEX_LISTENERS for listeners),
 * --help, the documentation, and what DescribeConfigs reports. Each mistake is one sentence:
 * file, line, path in the document, what is wrong, what would be right (an unknown key: the
 * nearest known one). */
#ifndef CULEX_CONFIG_CONFIG_H
#define CULEX_CONFIG_CONFIG_H

#include "shared/base/buf.h"
#include "shared/base/bytes.h"
#include "shared/base/err.h"

#define CONFIG_FILE_BYTES_MAX  (16u << 20)
#define CONFIG_STREAMS_MAX     4096
#define CONFIG_FILTERS_MAX     1024 /* of one stream */
#define CONFIG_MISTAKES_MAX    50   /* reported in one go */
#define CONFIG_BOUND_FILE      "streams.json" /* in the data directory */
#define CONFIG_LAGS_CONTRADICT "is less than min.compaction.lag.ms"
#define CONFIG_COMPACT_NEEDS_KEY                                                          \
    "is \"none\", but cleanup.policy is compact, which keeps the newest record of each key"
#define CONFIG_OPTIONS_MAX     96   /* rows of the table of options */
#define CONFIG_UNSET INT64_MIN /* a number that has no default and was not said */
/* For what config_pack makes. The most comes from plugin_opt_filter: CONFIG_FILTERS_MAX filters of
 * 64 KiB. Of a file it is CONFIG_FILE_BYTES_MAX and, in each of CONFIG_STREAMS_MAX streams, less
 * than 2 KiB that "defaults" says once. */
#define CONFIG_PACKED_BYTES_MAX (128u << 20)

enum config_headers { HEADERS_FULL, HEADERS_MINIMAL, HEADERS_NONE };
enum config_on_full { ON_FULL_BLOCK, ON_FULL_REJECT, ON_FULL_DROP };
/* cleanup.policy; either order of both is one. */
enum config_cleanup { CLEANUP_DELETE, CLEANUP_COMPACT, CLEANUP_BOTH, CLEANUP_BOTH_TOO };
enum config_timestamp_type { TIMESTAMP_CREATE, TIMESTAMP_APPEND };
enum config_compression { /* of what is stored; in the order of the names in options.c */
    COMPRESSION_UNCOMPRESSED, COMPRESSION_ZSTD, COMPRESSION_LZ4, COMPRESSION_SNAPPY,
    COMPRESSION_GZIP, COMPRESSION_PRODUCER,
};
enum config_durability { DURABILITY_FLUSH, DURABILITY_FSYNC };

enum config_key {
    KEY_TOPIC,    /* the whole topic: the default */
    KEY_LEVELS,   /* topic[a..b] or topic[a], 1-based */
    KEY_CLIENTID,
    KEY_USERNAME,
    KEY_PAYLOAD,  /* payload.<json path> */
    KEY_PROPERTY, /* property.<name>: a user property */
    KEY_SPARKPLUG,
    KEY_NONE,
};

struct config_stream {
    char *name;
    char **filters;
    uint32_t filter_count;
    int32_t partitions;
    enum config_key key;
    int32_t key_from, key_to; /* KEY_LEVELS: 1-based, inclusive */
    char *key_name;           /* KEY_PAYLOAD: path; KEY_PROPERTY: name; else NULL */
    char *key_text;           /* as the user wrote it */
    enum config_headers headers;
    bool username_header;
    int64_t retention_ms;    /* -1: for ever */
    int64_t retention_bytes; /* per partition, as in Kafka; -1: no limit */
    enum config_cleanup cleanup;
    int64_t min_compaction_lag_ms, max_compaction_lag_ms, delete_retention_ms;
    double min_cleanable_dirty_ratio;
    enum config_on_full on_full;
    int32_t on_full_block_ms;
    enum config_durability durability;
    uint64_t said; /* which settings somebody has set: ask config_stream_said */
    int line;   /* in the file, for later sentences */
    bool bound; /* by a Kafka client: the file is DATA/streams.json */
};

/* Is the newest record of each key kept, and is a retained empty publish a tombstone? */
static inline bool config_compacts(const struct config_stream *s)
{
    return s->cleanup != CLEANUP_DELETE;
}

/* Which kind of group may become the other while it has members. */
enum config_migration {
    CONFIG_MIGRATION_DISABLED,
    CONFIG_MIGRATION_UPGRADE,   /* classic to consumer */
    CONFIG_MIGRATION_DOWNGRADE, /* consumer to classic */
    CONFIG_MIGRATION_BOTH,
};

struct config_store {
    int64_t limit_bytes, segment_bytes, segment_ms, ring_bytes, tail_bytes, cache_bytes;
    int32_t flush_interval_ms;
};

/* Settings of culex-server, under Kafka's names where Kafka has them. */
struct config_server {
    char *listeners;            /* PLAINTEXT://127.0.0.1:9092[,NAME://host:port…] */
    char *advertised_listeners; /* "" : as listeners */
    char *listener_security_protocol_map; /* "NAME:PLAINTEXT,…"; "" : every listener is PLAINTEXT */
    int32_t node_id;
    int32_t num_partitions; /* of a free stream; a bound one has its own setting */
    bool delete_topic_enable;
    int64_t offsets_retention_minutes;
    int64_t offsets_retention_check_interval_ms;
    int32_t offset_metadata_max_bytes;
    int64_t producer_id_expiration_ms, producer_id_expiration_check_interval_ms;
    int32_t transaction_max_timeout_ms;
    int64_t transactional_id_expiration_ms;
    int32_t transaction_abort_interval_ms, transaction_remove_interval_ms;
    int32_t group_initial_rebalance_delay_ms;
    int32_t group_min_session_timeout_ms, group_max_session_timeout_ms;
    int32_t group_max_size;
    int32_t group_consumer_session_timeout_ms, group_consumer_heartbeat_interval_ms;
    int32_t group_consumer_max_size;
    char *group_consumer_assignors; /* "uniform,range": allowed ones, the default first */
    enum config_migration group_consumer_migration_policy;
    bool auto_create_topics_enable;
    int32_t message_max_bytes; /* of a batch that a client writes, unless its topic says */
    /* Defaults of topics' configs (broker/topic_config.c), which come first. CONFIG_UNSET: the next
     * coarser one says. */
    int64_t log_retention_ms, log_retention_minutes, log_retention_hours;
    int64_t log_retention_bytes;
    enum config_cleanup log_cleanup_policy;
    int64_t log_cleaner_min_compaction_lag_ms, log_cleaner_max_compaction_lag_ms;
    int64_t log_cleaner_delete_retention_ms;
    double log_cleaner_min_cleanable_ratio;
    int64_t log_segment_bytes, log_roll_ms, log_roll_hours;
    enum config_timestamp_type log_message_timestamp_type;
    int64_t log_message_timestamp_before_max_ms, log_message_timestamp_after_max_ms;
    enum config_compression compression_type;
    int32_t compression_gzip_level, compression_lz4_level, compression_zstd_level;
    int64_t store_limit_bytes, store_segment_bytes, store_tail_bytes; /* of the own store */
    int32_t store_flush_interval_ms;
    int64_t fetch_max_bytes;
    int32_t max_incremental_fetch_session_cache_slots;
    int64_t socket_request_max_bytes;
    int64_t queued_max_request_bytes; /* memory for requests and responses, all connections */
    int32_t max_connections, max_connections_per_ip;
    int64_t connections_max_idle_ms;
    int32_t num_io_threads; /* workers for cold reads */
    int32_t requests_in_flight_max; /* parked or queued, all connections */
    char *log_file;  /* "": stderr */
    char *log_level;
};

struct config {
    char *path; /* the file, or NULL */
    char *data; /* data directory */
    bool data_given; /* by config_give_data */
    int32_t sys_interval_ms; /* the plugin's counters under $SYS */
    struct config_store store;
    struct config_server server;
    bool said[CONFIG_OPTIONS_MAX]; /* by row: somebody has set it; ask option_said */
    struct config_stream *streams;
    size_t stream_count;
    struct buf mistakes; /* lines, after a failure */
    struct buf warnings; /* lines: what is allowed, and surely not meant */
};

/* All defaults, no streams. */
enum err config_init(struct config *c) MUST_CHECK;
/* Reads and checks the file on top of the defaults, then the environment (CULEX_…). ERR_INVALID:
 * c->mistakes has one line per mistake: "culex.json:12: streams[1].partitions: 0 is too small; 1
 * to 1024". ERR_NOT_FOUND, ERR_IO: the file, with a line. path NULL: the environment alone. c is
 * fit for config_fini only after a failure. */
enum err config_load(struct config *c, const char *path) MUST_CHECK;
/* The same for a file that has "streams" alone, each with all that it needs: the environment and
 * what the rows of a whole configuration must be together do not concern it. */
enum err config_load_streams(struct config *c, const char *path) MUST_CHECK;
/* One stream from options as mosquitto.conf gives them (plugin_opt_NAME VALUE), for the smallest
 * case. Same names, same checks; `where` names the file in sentences. Unknown names: a mistake.
 * `config FILE` alone is config_load of that file. */
enum err config_from_options(struct config *c, const char *where, const char *const *names,
                             const char *const *values, size_t count) MUST_CHECK;
/* The data directory as the command line's option gives it, over all that config_load has read.
 * ERR_INVALID: c->mistakes has a line that names the option. */
enum err config_give_data(struct config *c, const char *option, const char *dir) MUST_CHECK;
/* The streams of DATA/streams.json into `more`, which is initialised here and config_fini's
 * afterwards, whatever came of it. No file: OK and none. ERR_INVALID, ERR_IO: sentences in
 * more->mistakes. */
enum err config_read_bound(struct config *more, const char *data) MUST_CHECK;
/* Adds the streams of DATA/streams.json, which Kafka clients have bound to filters: the file has
 * "streams" as this one, and only the writer writes it. A name that stands in c already stays what
 * it is there, with a warning. No file: OK. ERR_INVALID, ERR_IO: sentences in c->mistakes, and
 * nothing was added. */
enum err config_add_bound(struct config *c) MUST_CHECK;
/* Puts the bound ones of these streams, which are all that there are, into DATA/streams.json, in
 * place of what is there, whole and on the disk or not at all. ERR_TOO_LARGE: more than can be read
 * again. ERR_FULL, ERR_IO with a sentence; ERR_NOMEM. Blocks. */
enum err config_write_bound(const char *data, const struct config_stream *streams, size_t count,
                            struct errmsg *m) MUST_CHECK;
/* Does the file say just that already? */
bool config_bound_written(const char *data, const struct config_stream *streams, size_t count);
/* Would the file say the same of both? */
bool config_bound_same(const struct config_stream *a, const struct config_stream *b);
void config_fini(struct config *c);

/* Appends a checked configuration to out (a buf of CONFIG_PACKED_BYTES_MAX is enough), for a
 * process of the same build: path, data_given, the rows of "" and `store`, and the streams whole.
 * Not `server`, which is culex-server's own business, nor mistakes and warnings. ERR_NOMEM. */
enum err config_pack(const struct config *c, struct buf *out) MUST_CHECK;
/* The way back; does config_init itself and keeps nothing of `packed`. `server` has its defaults,
 * mistakes and warnings are empty. ERR_CORRUPT: bytes that are cut off, that no row takes, or too
 * many. ERR_NOMEM. After a failure there is nothing to config_fini (which does no harm). */
enum err config_unpack(struct config *c, struct slice packed) MUST_CHECK;

/* One stream on its own: all defaults; a deep copy without the filters; a value by the row's
 * name. */
enum err config_stream_init(struct config_stream *s) MUST_CHECK;
void config_stream_fini(struct config_stream *s);
enum err config_stream_copy(struct config_stream *to, const struct config_stream *from) MUST_CHECK;
enum err config_stream_set(struct config_stream *s, const char *name, const char *value,
                           struct errmsg *m) MUST_CHECK;

/* Was it set by the file, its "defaults" or a client, be it to the default? filters always are. */
bool config_stream_said(const struct config_stream *s, const char *name);
/* Back to what it is where nothing is said. ERR_NOT_FOUND, ERR_NOMEM. */
enum err config_stream_reset(struct config_stream *s, const char *name,
                             struct errmsg *m) MUST_CHECK;

/* The same for one more filter. ERR_INVALID: it is none, or one too many. */
enum err config_stream_add_filter(struct config_stream *s, const char *text, struct errmsg *m);
/* After the last filter: gives back room that was kept for more. */
void config_stream_shrink(struct config_stream *s);

/* A stream's partitions are fixed once it exists with `have` of them: adds a line to `out` when
 * c->streams[i] says something else. Nobody edits the file of bound streams: of them the log's
 * number holds. */
void config_check_partitions(const struct config *c, size_t i, int32_t have, struct buf *out);

/* A row as others see it (help, docs, DescribeConfigs). */
enum option_type {
    OPTION_BOOL,
    OPTION_INT,
    OPTION_LONG,
    OPTION_DOUBLE,
    OPTION_STRING,
    OPTION_LIST,
    OPTION_CHOICE,
};
struct option_view {
    const char *section; /* "", "store", "stream", "server" */
    const char *name;
    enum option_type type;
    const char *default_text; /* of a number "": it has none, and is CONFIG_UNSET */
    const char *doc;
    bool reload; /* SIGHUP applies a change */
    int64_t min, max;           /* numbers */
    const char *const *choices; /* OPTION_CHOICE: NULL-terminated; else NULL */
};
size_t option_count(void);
void option_view(size_t i, struct option_view *v);
/* Has somebody set a row of `server`, `store` or "", if only to its default? */
bool option_said(const struct config *c, size_t i);
/* Current value of a row of `server`, `store` or "" as text. */
void option_value_text(const struct config *c, size_t i, struct buf *out);
/* The same for a row of `stream`; nothing for filters. */
void option_stream_text(const struct config_stream *s, size_t i, struct buf *out);

#endif
