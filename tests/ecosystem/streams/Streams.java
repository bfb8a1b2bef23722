import java.util.List;
import java.util.Locale;
import java.util.Properties;

import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.KTable;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;

/**
 * A Kafka Streams application with exactly_once_v2, to be killed at any instant: words of a stream are counted,
 * and each record is joined with the newest name of its key in a table.
 *
 *     Streams BOOTSTRAP PREFIX SOURCE STATE MS
 *
 * It reads SOURCE and PREFIX-names, and writes PREFIX-counts and PREFIX-joined; its state is in the directory STATE, and its
 * transactions time out after MS.
 */
public final class Streams {
    // What is killed has always written something that is not committed.
    private static final int COMMIT_MS = 400;
    private static final int LINGER_MS = 5;

    private Streams() {
    }

    public static void main(String[] args) {
        run(args[0], args[1], args[2], args[3], args[4]);
    }

    private static void run(String bootstrap, String prefix, String source, String state, String timeoutMs) {
        StreamsBuilder b = new StreamsBuilder();
        var lines = b.stream(source, Consumed.with(Serdes.String(), Serdes.String()));
        lines.flatMapValues(v -> List.of(v.toLowerCase(Locale.ROOT).split("\\W+")))
            .groupBy((k, word) -> word, Grouped.with(Serdes.String(), Serdes.String()))
            .count(Materialized.as("counts"))
            .toStream().to(prefix + "-counts", Produced.with(Serdes.String(), Serdes.Long()));
        KTable<String, String> names = b.table(prefix + "-names", Consumed.with(Serdes.String(), Serdes.String()));
        lines.join(names, (line, name) -> name + ": " + line)
            .to(prefix + "-joined", Produced.with(Serdes.String(), Serdes.String()));

        Properties p = new Properties();
        p.put(StreamsConfig.APPLICATION_ID_CONFIG, prefix);
        p.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap);
        p.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        p.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, COMMIT_MS);
        p.put(StreamsConfig.STATE_DIR_CONFIG, state);
        p.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
        // Two, so that tasks move when the application comes again.
        p.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 2);
        p.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
        p.put(StreamsConfig.consumerPrefix(ConsumerConfig.SESSION_TIMEOUT_MS_CONFIG), 6000);
        p.put(StreamsConfig.consumerPrefix(ConsumerConfig.HEARTBEAT_INTERVAL_MS_CONFIG), 1000);
        p.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 50);
        p.put(StreamsConfig.producerPrefix("linger.ms"), LINGER_MS);
        p.put(StreamsConfig.producerPrefix("transaction.timeout.ms"), timeoutMs);
        // Changelogs are compacted as early as they can be.
        p.put(StreamsConfig.topicPrefix("segment.ms"), 10000);
        p.put(StreamsConfig.topicPrefix("min.cleanable.dirty.ratio"), "0.01");
        KafkaStreams streams = new KafkaStreams(b.build(), p);
        streams.setUncaughtExceptionHandler(e -> {
            e.printStackTrace();
            return StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse.REPLACE_THREAD;
        });
        streams.setStateListener((now, before) -> System.out.println("state " + now));
        streams.start();
        Runtime.getRuntime().addShutdownHook(new Thread(streams::close));
    }
}
