// Reads a stream and writes it into another, in transactions that carry the offsets: exactly once.
// Run from its source: java -cp 'LIB/*' Copier.java BOOTSTRAP FROM TO GROUP TRANSACTIONAL_ID [CONSUMER_PROTOCOL]
//
// Every seventh transaction is aborted and done again. Ends when its standard input does. One line for each transaction
// that was committed: how many records it had.

import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

public final class Copier {
    private static String[] args;
    private static int round;

    private static KafkaProducer<byte[], byte[]> producer() {
        Properties p = new Properties();
        p.put("bootstrap.servers", args[0]);
        p.put("transactional.id", args[4]);
        p.put("transaction.timeout.ms", "20000");
        p.put("delivery.timeout.ms", "15000");
        p.put("request.timeout.ms", "5000");
        p.put("max.block.ms", "60000");
        p.put("retry.backoff.ms", "20");
        p.put("reconnect.backoff.max.ms", "100");
        p.put("linger.ms", "5");
        return new KafkaProducer<>(p, new ByteArraySerializer(), new ByteArraySerializer());
    }

    private static KafkaConsumer<byte[], byte[]> consumer() {
        Properties p = new Properties();
        p.put("bootstrap.servers", args[0]);
        p.put("group.id", args[3]);
        p.put("enable.auto.commit", "false");
        p.put("auto.offset.reset", "earliest");
        p.put("isolation.level", "read_committed");
        p.put("max.poll.records", "100");
        p.put("reconnect.backoff.max.ms", "100");
        p.put("default.api.timeout.ms", "60000");
        if (args.length > 5) {
            p.put("group.protocol", args[5]);
        } else {
            p.put("session.timeout.ms", "6000"); // so long the partitions of one that was killed wait
        }
        return new KafkaConsumer<>(p, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    private static void rewind(KafkaConsumer<byte[], byte[]> c) {
        Map<TopicPartition, OffsetAndMetadata> committed = c.committed(c.assignment());
        for (TopicPartition tp : c.assignment()) {
            OffsetAndMetadata o = committed.get(tp);
            c.seek(tp, o == null ? 0 : o.offset());
        }
    }

    private static void copy(KafkaProducer<byte[], byte[]> p, KafkaConsumer<byte[], byte[]> c,
                             ConsumerRecords<byte[], byte[]> records) {
        Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
        p.beginTransaction();
        for (ConsumerRecord<byte[], byte[]> r : records) {
            p.send(new ProducerRecord<>(args[2], r.key(), r.value()));
            offsets.put(new TopicPartition(r.topic(), r.partition()), new OffsetAndMetadata(r.offset() + 1));
        }
        p.sendOffsetsToTransaction(offsets, c.groupMetadata());
        if (++round % 7 == 0) {
            p.abortTransaction();
            rewind(c);
            return;
        }
        p.commitTransaction();
        System.out.println(records.count());
    }

    public static void main(String[] a) throws Exception {
        args = a;
        KafkaProducer<byte[], byte[]> p = null;
        try (KafkaConsumer<byte[], byte[]> c = consumer()) {
            c.subscribe(List.of(args[1]));
            while (System.in.available() == 0) {
                try {
                    if (p == null) {
                        p = producer();
                        p.initTransactions();
                    }
                    ConsumerRecords<byte[], byte[]> records = c.poll(Duration.ofMillis(100));
                    if (!records.isEmpty()) {
                        copy(p, c, records);
                    }
                } catch (KafkaException e) {
                    System.err.println("again: " + e);
                    if (p != null) {
                        p.close(Duration.ZERO);
                        p = null;
                    }
                    rewind(c);
                }
            }
        }
        if (p != null) {
            p.close();
        }
    }
}
