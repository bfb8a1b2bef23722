import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;

import com.fasterxml.jackson.databind.JsonNode;

import org.apache.kafka.common.message.ApiMessageType;

/**
 * The same requests to Apache Kafka and to Culex, and what differs in the answers.
 *
 *     Compare ask CASES PORT FILE                 plays the scenes in CASES to a server, writes its answers
 *     Compare judge DIFFERENCES KAFKA CULEX CASES compares two files of answers
 *
 * A file of answers: a line for each API that is offered; then for each scene, a line for each step and each
 * different answer to it, with the levels (versions) of the scene that it was given at.
 */
public final class Compare {
    private static final int WARM_MS = 60_000;
    private static final int SLOW_MS = 2_000;

    private Compare() {
    }

    public static void main(String[] args) throws Exception {
        if (args[0].equals("ask")) {
            ask(Path.of(args[1]), Integer.parseInt(args[2]), Path.of(args[3]));
        } else if (args[0].equals("judge")) {
            System.exit(Judge.run(Path.of(args[1]), Path.of(args[2]), Path.of(args[3]), Scenes.read(Path.of(args[4])))
                ? 0 : 1);
        } else {
            throw new IllegalArgumentException(args[0]);
        }
    }

    private static void ask(Path cases, int port, Path file) throws Exception {
        List<Scenes.Scene> scenes = Scenes.read(cases);
        Map<Short, short[]> offered = warm(port);
        int asked = 0;
        try (PrintWriter out = new PrintWriter(Files.newBufferedWriter(file))) {
            for (Map.Entry<Short, short[]> o : new TreeMap<>(offered).entrySet()) {
                out.printf("offers %s %d-%d%n", ApiMessageType.fromApiKey(o.getKey()).name,
                    o.getValue()[0], o.getValue()[1]);
            }
            for (Scenes.Scene s : scenes) {
                out.printf("scene %s%n", s.name);
                List<List<String>> levels = new ArrayList<>();
                long began = System.nanoTime();
                for (int level = 0; level < s.levels; level++) {
                    try {
                        levels.add(new Play(port, offered, s, level).run());
                    } catch (IOException | RuntimeException | ReflectiveOperationException e) {
                        throw new IllegalStateException(s.file + ", scene " + s.name + ", level " + level, e);
                    }
                    asked += s.steps.size();
                }
                write(out, s, levels);
                long ms = (System.nanoTime() - began) / 1_000_000;
                if (ms > SLOW_MS) {
                    System.err.printf("scene %s took %d ms%n", s.name, ms);
                }
            }
        }
        System.out.printf("%d scenes, %d requests%n", scenes.size(), asked);
    }

    private static void write(PrintWriter out, Scenes.Scene s, List<List<String>> levels) {
        for (int i = 0; i < s.steps.size(); i++) {
            Map<String, StringBuilder> different = new LinkedHashMap<>();
            for (int level = 0; level < levels.size(); level++) {
                StringBuilder at = different.computeIfAbsent(levels.get(level).get(i), k -> new StringBuilder());
                at.append(at.length() == 0 ? "" : ",").append(level);
            }
            Scenes.Step step = s.steps.get(i);
            for (Map.Entry<String, StringBuilder> d : different.entrySet()) {
                out.printf("%d %s %s %s%n", i + 1, step.api == null ? "-" : step.api.name, d.getValue(), d.getKey());
            }
        }
    }

    /** Waits for the server, and until its coordinators have found themselves. */
    private static Map<Short, short[]> warm(int port) throws Exception {
        long end = System.nanoTime() / 1_000_000 + WARM_MS;
        for (;;) {
            try (Wire w = new Wire(port)) {
                Map<Short, short[]> offered = offered(w);
                if (isWarm(w, offered)) {
                    return offered;
                }
            } catch (IOException e) {
                if (System.nanoTime() / 1_000_000 > end) {
                    throw e;
                }
            }
            if (System.nanoTime() / 1_000_000 > end) {
                throw new IOException("the server at " + port + " does not become ready");
            }
            Thread.sleep(50);
        }
    }

    private static Map<Short, short[]> offered(Wire w) throws Exception {
        w.send(ApiMessageType.API_VERSIONS, (short) 0, Messages.JSON.createObjectNode());
        Map<Short, short[]> offered = new HashMap<>();
        for (JsonNode api : w.receive().get("apiKeys")) {
            offered.put((short) api.get("apiKey").asInt(),
                new short[] {(short) api.get("minVersion").asInt(), (short) api.get("maxVersion").asInt()});
        }
        return offered;
    }

    private static boolean isWarm(Wire w, Map<Short, short[]> offered) throws Exception {
        JsonNode group = Messages.JSON.readTree(
            "{\"keyType\": 0, \"coordinatorKeys\": [\"warm\"]}");
        w.send(ApiMessageType.FIND_COORDINATOR, (short) 4, group);
        boolean warm = w.receive().at("/coordinators/0/errorCode").asInt() == 0;
        JsonNode transaction = Messages.JSON.readTree(
            "{\"keyType\": 1, \"coordinatorKeys\": [\"warm\"]}");
        w.send(ApiMessageType.FIND_COORDINATOR, (short) 4, transaction);
        warm &= w.receive().at("/coordinators/0/errorCode").asInt() == 0 || !offered.containsKey((short) 22);
        if (warm && offered.containsKey((short) 22)) {
            for (String id : new String[] {"null", "\"warm\""}) {
                w.send(ApiMessageType.INIT_PRODUCER_ID, (short) 4, Messages.JSON.readTree(
                    "{\"transactionTimeoutMs\": 1000, \"transactionalId\": " + id + "}"));
                warm &= w.receive().path("errorCode").asInt() == 0;
            }
        }
        w.send(ApiMessageType.OFFSET_FETCH, (short) 8, Messages.JSON.readTree(
            "{\"groups\": [{\"groupId\": \"warm\", \"topics\": null}]}"));
        return warm & w.receive().at("/groups/0/errorCode").asInt() == 0;
    }
}
