import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Properties;
import java.util.TreeMap;

import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.LongDeserializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringSerializer;
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
 *     Streams topics BOOTSTRAP PREFIX PARTITIONS        makes PREFIX-words, PREFIX-names, PREFIX-counts, PREFIX-joined
 *     Streams feed BOOTSTRAP PREFIX                     names, then lines "KEY WORDS" of its input, into the stream
 *     Streams run BOOTSTRAP PREFIX SOURCE STATE MS      the application, until it is killed; SOURCE is the stream, its
 *                                                       transactions time out after MS
 *     Streams read BOOTSTRAP PREFIX                     what has come out, committed: counts and joined, as lines
 */
public final class Streams {
    private static final int COMMIT_MS = 100;
    private static final int READ_MS_MAX = 60_000;

    private Streams() {
    }

    public static void main(String[] args) throws Exception {
        String bootstrap = args[1];
        String prefix = args[2];
        switch (args[0]) {
            case "topics":
                topics(bootstrap, prefix, Integer.parseInt(args[3]));
                break;
            case "feed":
                feed(bootstrap, prefix);
                break;
            case "run":
                run(bootstrap, prefix, args[3], args[4], args[5]);
                break;
            case "read":
                read(bootstrap, prefix);
                break;
            default:
                throw new IllegalArgumentException(args[0]);
        }
    }

    private static void topics(String bootstrap, String prefix, int partitions) throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            Map<String, String> compact = Map.of("cleanup.policy", "compact");
            admin.createTopics(List.of(
                new NewTopic(prefix + "-words", partitions, (short) 1),
                new NewTopic(prefix + "-names", partitions, (short) 1).configs(compact),
                new NewTopic(prefix + "-counts", partitions, (short) 1).configs(compact),
                new NewTopic(prefix + "-joined", partitions, (short) 1))).all().get();
        }
    }

    private static void feed(String bootstrap, String prefix) throws Exception {
        Properties p = new Properties();
        p.put("bootstrap.servers", bootstrap);
        try (KafkaProducer<String, String> producer =
                 new KafkaProducer<>(p, new StringSerializer(), new StringSerializer());
             BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8))) {
            for (String line = in.readLine(); line != null; line = in.readLine()) {
                String[] parts = line.split(" ", 3); // TOPIC KEY VALUE
                producer.send(new ProducerRecord<>(prefix + "-" + parts[0], parts[1], parts[2]), (m, e) -> {
                    if (e != null) {
                        e.printStackTrace();
                        Runtime.getRuntime().halt(1);
                    }
                });
            }
        }
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

    private static void read(String bootstrap, String prefix) {
        Map<String, Long> counts = new TreeMap<>();
        Map<String, Integer> joined = new TreeMap<>();
        Properties p = new Properties();
        p.put("bootstrap.servers", bootstrap);
        p.put("isolation.level", "read_committed");
        p.put("enable.auto.commit", "false");
        try (KafkaConsumer<String, Long> c = new KafkaConsumer<>(p, new StringDeserializer(), new LongDeserializer())) {
            for (ConsumerRecord<String, Long> r : all(c, prefix + "-counts")) {
                counts.put(r.key(), r.value());
            }
        }
        try (KafkaConsumer<String, String> c =
                 new KafkaConsumer<>(p, new StringDeserializer(), new StringDeserializer())) {
            for (ConsumerRecord<String, String> r : all(c, prefix + "-joined")) {
                joined.merge(r.value(), 1, Integer::sum);
            }
        }
        counts.forEach((word, n) -> System.out.println("count " + word + " " + n));
        joined.forEach((value, n) -> System.out.println("joined " + n + " " + value));
    }

    /** Everything that is committed in a topic. */
    private static <K, V> List<ConsumerRecord<K, V>> all(KafkaConsumer<K, V> c, String topic) {
        List<TopicPartition> parts = c.partitionsFor(topic).stream()
            .map(i -> new TopicPartition(topic, i.partition())).toList();
        c.assign(parts);
        c.seekToBeginning(parts);
        Map<TopicPartition, Long> ends = c.endOffsets(parts); // read_committed: last stable offsets
        List<ConsumerRecord<K, V>> records = new java.util.ArrayList<>();
        long until = System.nanoTime() + READ_MS_MAX * 1_000_000L;
        while (parts.stream().anyMatch(t -> c.position(t) < ends.get(t))) {
            if (System.nanoTime() > until) {
                throw new IllegalStateException("cannot read to the end of " + topic);
            }
            c.poll(Duration.ofMillis(200)).forEach(records::add);
        }
        return records;
    }
}
