// kafka-clients, writing; the contract is in ../README.md.

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.Future;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.serialization.ByteArraySerializer;

public final class Writer {
    private static byte[] bytes(String s) {
        return s.getBytes(StandardCharsets.UTF_8);
    }

    public static void main(String[] argv) throws Exception {
        Map<String, String> args = new HashMap<>();
        for (int i = 0; i + 1 < argv.length; i += 2) {
            args.put(argv[i].substring(2), argv[i + 1]);
        }
        Properties conf = new Properties();
        conf.put("bootstrap.servers", args.get("bootstrap"));
        conf.put("compression.type", args.getOrDefault("codec", "none"));
        conf.put("enable.idempotence", args.getOrDefault("idempotent", "true"));
        conf.put("linger.ms", "2");
        conf.put("key.serializer", ByteArraySerializer.class.getName());
        conf.put("value.serializer", ByteArraySerializer.class.getName());
        int rate = Integer.parseInt(args.getOrDefault("rate", "0"));
        int count = Integer.parseInt(args.get("count"));
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        try (KafkaProducer<byte[], byte[]> w = new KafkaProducer<>(conf)) {
            for (int i = 0; i < count; i++) {
                final int number = i;
                if (rate > 0 && i % 20 == 0) {
                    Thread.sleep(20000 / rate);
                }
                ProducerRecord<byte[], byte[]> r = new ProducerRecord<>(args.get("topic"), i % 4, bytes("k" + i),
                    bytes("v" + i + " " + "x".repeat(i % 50)));
                r.headers().add("n", bytes(String.valueOf(i)));
                sent.add(w.send(r, (m, e) -> {
                    if (e == null) {
                        String line = "{\"i\":" + number + ",\"p\":" + m.partition() + ",\"o\":" + m.offset() + "}\n";
                        byte[] b = bytes(line);
                        System.out.write(b, 0, b.length);
                        System.out.flush();
                    }
                }));
            }
            for (Future<RecordMetadata> f : sent) {
                f.get();
            }
        }
    }
}
