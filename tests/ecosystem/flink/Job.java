import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Comparator;
import java.util.Optional;
import java.util.stream.Stream;

import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.functions.RichMapFunction;
import org.apache.flink.api.common.serialization.SimpleStringSchema;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.configuration.CheckpointingOptions;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.ExternalizedCheckpointRetention;
import org.apache.flink.configuration.StateRecoveryOptions;
import org.apache.flink.connector.base.DeliveryGuarantee;
import org.apache.flink.connector.kafka.sink.KafkaRecordSerializationSchema;
import org.apache.flink.connector.kafka.sink.KafkaSink;
import org.apache.flink.connector.kafka.sink.TransactionNamingStrategy;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;

/**
 * A Flink job in a mini-cluster, to be killed at any instant: it numbers the records of each site, from a Kafka source with
 * checkpoints into a Kafka sink that writes exactly once. Started again, it goes on from its newest checkpoint.
 *
 *     Job BOOTSTRAP SOURCE SINK CHECKPOINTS STRATEGY
 *
 * STRATEGY is how the sink names its transactions, and finds those that it left open: INCREMENTING or POOLING.
 */
public final class Job {
    private static final long CHECKPOINT_MS = 300;

    private Job() {
    }

    public static void main(String[] args) throws Exception {
        Path checkpoints = Path.of(args[3]);
        Configuration c = new Configuration();
        c.set(CheckpointingOptions.CHECKPOINTS_DIRECTORY, checkpoints.toUri().toString());
        c.set(CheckpointingOptions.EXTERNALIZED_CHECKPOINT_RETENTION,
            ExternalizedCheckpointRetention.RETAIN_ON_CANCELLATION);
        newest(checkpoints).ifPresent(p -> c.set(StateRecoveryOptions.SAVEPOINT_PATH, p.toUri().toString()));
        StreamExecutionEnvironment env = StreamExecutionEnvironment.createLocalEnvironment(2, c);
        env.enableCheckpointing(CHECKPOINT_MS);
        KafkaSource<String> source = KafkaSource.<String>builder()
            .setBootstrapServers(args[0])
            .setTopics(args[1])
            .setGroupId(args[2])
            .setStartingOffsets(OffsetsInitializer.earliest())
            .setValueOnlyDeserializer(new SimpleStringSchema())
            .build();
        KafkaSink<String> sink = KafkaSink.<String>builder()
            .setBootstrapServers(args[0])
            .setRecordSerializer(KafkaRecordSerializationSchema.<String>builder()
                .setTopic(args[2])
                .setKeySerializationSchema((String line) -> site(line).getBytes())
                .setValueSerializationSchema(new SimpleStringSchema())
                .build())
            .setDeliveryGuarantee(DeliveryGuarantee.EXACTLY_ONCE)
            .setTransactionalIdPrefix(args[2])
            .setTransactionNamingStrategy(TransactionNamingStrategy.valueOf(args[4]))
            .setProperty("transaction.timeout.ms", "60000")
            .build();
        env.fromSource(source, WatermarkStrategy.noWatermarks(), "source")
            .keyBy(Job::site)
            .map(new Number())
            .uid("number")
            .sinkTo(sink)
            .uid("sink");
        env.execute("number");
    }

    private static String site(String line) {
        return line.substring(0, line.indexOf(' '));
    }

    /** Only a checkpoint that is complete has metadata. */
    private static Optional<Path> newest(Path checkpoints) throws IOException {
        if (!Files.exists(checkpoints)) {
            return Optional.empty();
        }
        try (Stream<Path> all = Files.walk(checkpoints, 3)) {
            return all.filter(p -> p.getFileName().toString().equals("_metadata"))
                .max(Comparator.comparing(p -> p.toFile().lastModified()))
                .map(Path::getParent);
        }
    }

    /** "SITE REST" becomes "SITE N REST": the Nth of its site. */
    private static final class Number extends RichMapFunction<String, String> {
        private static final long serialVersionUID = 1;
        private transient ValueState<Long> count;

        @Override
        public void open(OpenContext context) {
            count = getRuntimeContext().getState(new ValueStateDescriptor<>("count", Long.class));
        }

        @Override
        public String map(String line) throws Exception {
            long n = count.value() == null ? 1 : count.value() + 1;
            count.update(n);
            return site(line) + " " + n + line.substring(line.indexOf(' '));
        }
    }
}
