// Reads a table's stream from the beginning, over and over, while it is written and compacted: what `tablestream read`
// does (tests/tools/tablestream.c, which says what the table must be), with Java's consumer.
// Run from its source: java -cp 'LIB/*' TableReader.java BOOTSTRAP TOPIC PARTITIONS KEYS PROGRESS ISOLATION STOP RETENTION_MS

import java.io.File;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

public final class TableReader {
    private static final int ROUNDS = 20;
    private static final long TIME_BASE = 1700000000000L;
    private static final byte DELETED = (byte) 0x80;

    private static boolean sets(long key, int round) {
        return !deletes(key, round) && !skips(key, round);
    }

    private static boolean skips(long key, int round) {
        return (key % 10 == 2 && round > 12) || (key % 10 == 1 && round > 15);
    }

    private static boolean deletes(long key, int round) {
        return !skips(key, round) && ((key % 10 == 2 && round == 12) || (key % 10 == 0 && round == ROUNDS - 1)
            || ((key * 7 + round) % 31 == 0 && round < ROUNDS - 1));
    }

    private static void check(boolean holds, String format, Object... args) {
        if (!holds) {
            System.err.println("TableReader: " + String.format(format, args));
            System.exit(1);
        }
    }

    private static void see(ConsumerRecord<byte[], byte[]> r, byte[] states, long[] next, boolean committed, long[] counts) {
        int number = Integer.parseInt(new String(r.key(), 1, r.key().length - 1, StandardCharsets.US_ASCII));
        long ms = r.timestamp() - TIME_BASE;
        int round = (int) (ms / 1000);
        boolean aborted = ms % 1000 != 0;
        check(r.offset() >= next[r.partition()], "offset %d of %d comes twice", r.offset(), r.partition());
        next[r.partition()] = r.offset() + 1;
        check(!aborted || !committed, "%d@%d was aborted, and is shown", r.partition(), r.offset());
        if (r.value() != null) {
            String want = String.format("%02d:k%07d:%s", round, number, aborted ? "not" : "yes");
            byte[] have = r.value();
            check(have.length == want.length() && want.equals(new String(have, StandardCharsets.US_ASCII)),
                "%d@%d is not %s", r.partition(), r.offset(), want);
        }
        counts[0]++;
        counts[1] += r.value() == null ? 1 : 0;
        counts[2] += aborted ? 1 : 0;
        if (!aborted) {
            states[number] = (byte) (round + 1 | (r.value() == null ? DELETED : 0));
        }
    }

    private static void pass(KafkaConsumer<byte[], byte[]> c, String[] a, long retention) {
        int keys = Integer.parseInt(a[3]);
        int partitions = Integer.parseInt(a[2]);
        boolean committed = a[5].equals("read_committed");
        int rounds = (int) new File(a[4]).length();
        long began = System.nanoTime();
        byte[] states = new byte[keys];
        long[] next = new long[partitions];
        long[] counts = new long[3];
        // A partition is read when nothing is left at its end, wherever that is by then: what was compacted away while it
        // was read has given way to something that may be beyond the end that there was at first.
        Set<TopicPartition> left = new HashSet<>(c.assignment());
        c.assignment().forEach(p -> c.seek(p, 0));
        while (!left.isEmpty()) {
            Map<TopicPartition, Long> ends = c.endOffsets(left);
            left.removeIf(p -> c.position(p) >= ends.get(p));
            c.pause(c.assignment());
            c.resume(left);
            while (left.stream().anyMatch(p -> c.position(p) < ends.get(p))) {
                for (ConsumerRecord<byte[], byte[]> r : c.poll(Duration.ofMillis(500))) {
                    see(r, states, next, committed, counts);
                }
            }
        }
        double took = (System.nanoTime() - began) / 1e9;
        long live = 0;
        for (int k = 0; k < keys; k++) {
            int must = rounds - 1;
            while (must >= 0 && skips(k, must)) {
                must--;
            }
            int round = (states[k] & 0x7f) - 1;
            boolean there = states[k] != 0 && (states[k] & DELETED) == 0;
            live += there ? 1 : 0;
            if (must >= 0 && round < must) {
                check(!sets(k, must), "k%07d: of %d rounds, the last it has is %d, not %d", k, rounds, round, must);
                check(!there || took * 2000 >= retention, "k%07d was deleted in round %d, and has its value of %d again",
                    k, must, round);
            }
        }
        System.out.printf("{\"rounds\": %d, \"records\": %d, \"live\": %d, \"tombstones\": %d, \"aborted\": %d, "
            + "\"seconds\": %.2f}%n", rounds, counts[0], live, counts[1], counts[2], took);
    }

    public static void main(String[] a) {
        Properties p = new Properties();
        p.put("bootstrap.servers", a[0]);
        p.put("enable.auto.commit", "false");
        p.put("auto.offset.reset", "none");
        p.put("isolation.level", a[5]);
        p.put("max.poll.records", "5000");
        p.put("reconnect.backoff.max.ms", "200");
        p.put("default.api.timeout.ms", "90000");
        try (KafkaConsumer<byte[], byte[]> c = new KafkaConsumer<>(p, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            List<TopicPartition> all = new ArrayList<>();
            for (int i = 0; i < Integer.parseInt(a[2]); i++) {
                all.add(new TopicPartition(a[1], i));
            }
            c.assign(all);
            boolean last;
            do {
                last = new File(a[6]).exists();
                pass(c, a, Long.parseLong(a[7]));
            } while (!last);
        }
    }
}
