// kafka-clients; the contract is in ../README.md.

import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.Collection;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.TreeMap;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.consumer.SubscriptionPattern;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.PartitionInfo;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

public final class Driver {
    private static final Map<String, String> ASSIGNORS = Map.of(
        "range", "org.apache.kafka.clients.consumer.RangeAssignor",
        "roundrobin", "org.apache.kafka.clients.consumer.RoundRobinAssignor",
        "sticky", "org.apache.kafka.clients.consumer.StickyAssignor",
        "cooperative-sticky", "org.apache.kafka.clients.consumer.CooperativeStickyAssignor");
    private static final StringBuilder OUT = new StringBuilder();

    private static String b64(byte[] x) {
        return x == null ? "null" : "\"" + Base64.getEncoder().encodeToString(x) + "\"";
    }

    private static String quoted(String s) {
        StringBuilder out = new StringBuilder("\"");
        for (char ch : s.toCharArray()) {
            if (ch < 0x20 || ch == '"' || ch == '\\') {
                out.append(String.format("\\u%04x", (int) ch));
            } else {
                out.append(ch);
            }
        }
        return out.append('"').toString();
    }

    private static void flush() {
        byte[] bytes = OUT.toString().getBytes(java.nio.charset.StandardCharsets.UTF_8);
        System.out.write(bytes, 0, bytes.length);
        System.out.flush();
        OUT.setLength(0);
    }

    private static void emit(String name, String json) {
        OUT.append("{\"t\":").append(System.nanoTime()).append(',').append(quoted(name)).append(':').append(json).append("}\n");
        flush();
    }

    private static void emitRecord(ConsumerRecord<byte[], byte[]> r) {
        OUT.append("{\"t\":").append(System.nanoTime())
            .append(",\"p\":").append(r.partition()).append(",\"o\":").append(r.offset())
            .append(",\"ts\":").append(r.timestamp()).append(",\"k\":").append(b64(r.key()))
            .append(",\"v\":").append(b64(r.value())).append(",\"h\":[");
        String comma = "";
        for (Header h : r.headers()) {
            OUT.append(comma).append('[').append(quoted(h.key())).append(',').append(b64(h.value()))
                .append(']');
            comma = ",";
        }
        OUT.append("]}\n");
    }

    private static String partitions(Collection<TopicPartition> tps) {
        List<Integer> out = new ArrayList<>();
        tps.forEach(tp -> out.add(tp.partition()));
        return out.toString();
    }

    private static String offsets(Map<Integer, Long> map) {
        StringBuilder out = new StringBuilder("{");
        String comma = "";
        for (Map.Entry<Integer, Long> e : map.entrySet()) {
            out.append(comma).append('"').append(e.getKey()).append("\":").append(e.getValue());
            comma = ",";
        }
        return out.append('}').toString();
    }

    private static Map<String, String> arguments(String[] argv) {
        Map<String, String> args = new HashMap<>();
        for (int i = 0; i + 1 < argv.length; i += 2) {
            args.put(argv[i].substring(2), argv[i + 1]);
        }
        return args;
    }

    private static Properties settings(Map<String, String> args) {
        Properties p = new Properties();
        p.put("bootstrap.servers", args.get("bootstrap"));
        p.put("group.id", args.get("group"));
        p.put("enable.auto.commit", "false");
        p.put("auto.offset.reset", "earliest");
        if ("consumer".equals(args.get("protocol"))) {
            p.put("group.protocol", "consumer");
        } else {
            p.put("session.timeout.ms", args.getOrDefault("session-ms", "6000"));
            p.put("heartbeat.interval.ms", "1000");
        }
        p.put("key.deserializer", ByteArrayDeserializer.class.getName());
        p.put("value.deserializer", ByteArrayDeserializer.class.getName());
        if (args.containsKey("instance-id")) {
            p.put("group.instance.id", args.get("instance-id"));
        }
        if (args.containsKey("assignor")) {
            if (p.containsKey("group.protocol")) {
                p.put("group.remote.assignor", args.get("assignor"));
            } else {
                p.put("partition.assignment.strategy", ASSIGNORS.get(args.get("assignor")));
            }
        }
        return p;
    }

    private static final class Listener implements ConsumerRebalanceListener {
        @Override public void onPartitionsAssigned(Collection<TopicPartition> tps) {
            emit("assigned", partitions(tps));
        }

        @Override public void onPartitionsRevoked(Collection<TopicPartition> tps) {
            emit("revoked", partitions(tps));
        }

        @Override public void onPartitionsLost(Collection<TopicPartition> tps) {
            emit("lost", partitions(tps));
        }
    }


    private static volatile boolean leave; /* standard input ended */

    private static void watchStdin() {
        Thread t = new Thread(() -> {
            try {
                while (System.in.read() >= 0) {
                    continue;
                }
            } catch (java.io.IOException e) {
                System.err.println(e);
            }
            leave = true;
        });
        t.setDaemon(true);
        t.start();
    }

    private static long consume(KafkaConsumer<byte[], byte[]> c) {
        Map<Integer, Long> positions = new TreeMap<>();
        Map<TopicPartition, OffsetAndMetadata> commit = new HashMap<>();
        long seen = 0;
        for (ConsumerRecord<byte[], byte[]> r : c.poll(Duration.ofMillis(100))) {
            emitRecord(r);
            positions.put(r.partition(), r.offset() + 1);
            commit.put(new TopicPartition(r.topic(), r.partition()),
                new OffsetAndMetadata(r.offset() + 1));
            seen++;
        }
        flush();
        if (seen > 0) {
            try {
                c.commitSync(commit);
                emit("commit", offsets(positions));
            } catch (KafkaException e) {
                emit("commit_failed", quoted(e.toString()));
            }
        }
        return seen;
    }

    public static void main(String[] argv) throws Exception {
        Map<String, String> args = arguments(argv);
        long count = Long.parseLong(args.getOrDefault("count", "0"));
        String topic = args.get("topic");
        watchStdin();
        try (KafkaConsumer<byte[], byte[]> c = new KafkaConsumer<>(settings(args))) {
            if (args.containsKey("pattern")) {
                c.subscribe(new SubscriptionPattern(args.get("pattern")), new Listener());
            } else {
                c.subscribe(List.of(topic), new Listener());
            }
            for (long seen = 0; (count == 0 || seen < count) && !leave;) {
                seen += consume(c);
            }
            try {
                c.commitSync(); /* what was delivered and is still ours; see README.md */
            } catch (KafkaException e) {
                emit("commit_failed", quoted(e.toString()));
            }
            Set<TopicPartition> all = new HashSet<>();
            for (PartitionInfo i : c.partitionsFor(topic)) {
                all.add(new TopicPartition(topic, i.partition()));
            }
            Map<Integer, Long> committed = new TreeMap<>();
            c.committed(all).forEach((tp, o) -> {
                if (o != null) {
                    committed.put(tp.partition(), o.offset());
                }
            });
            emit("committed", offsets(committed));
        }
    }
}
