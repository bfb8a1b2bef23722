import java.io.IOException;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.fasterxml.jackson.databind.node.TextNode;

import org.apache.kafka.common.message.ApiMessageType;

/** One scene at one level, played to one server; the answers come back without what is each server's own. */
final class Play {
    private static final JsonNodeFactory NODES = JsonNodeFactory.instance;
    private static final long RETRY_MS = 5_000;
    private static final long UNTIL_MS = 60_000;
    private static final long PAUSE_MS = 5;
    private static final int READY_TRIES_MAX = 200;

    /** Not ready, loading, the transaction before is being ended: what every client asks again after. */
    private static final Set<Integer> AGAIN = Set.of(14, 51);
    /** Each server's own: where and when it runs, how it says what it means. */
    private static final Set<String> OWN = Set.of("throttleTimeMs", "host", "port", "clusterId", "rack",
        "clientHost", "logDir", "totalBytes", "usableBytes", "size", "documentation", "coordinatorEpoch",
        "finalizedFeaturesEpoch");
    private static final Set<String> TEXTS = Set.of("errorMessage", "batchIndexErrorMessage",
        "topicConfigErrorMessage");
    private static final Set<String> IDS = Set.of("producerId", "sessionId");
    private static final Pattern VARIABLE = Pattern.compile("\\$([a-z][a-zA-Z0-9]*)");
    private static final long NOW_FROM = 1_710_000_000_000L;

    private final int port;
    private final Map<Short, short[]> offered;
    private final Scenes.Scene scene;
    private final int level;
    private final String token;
    private final Map<String, Wire> wires = new HashMap<>();
    private final Map<String, JsonNode> variables = new HashMap<>();

    Play(int port, Map<Short, short[]> offered, Scenes.Scene scene, int level) {
        this.port = port;
        this.offered = offered;
        this.scene = scene;
        this.level = level;
        this.token = scene.name + "-" + level;
        variables.put("s", NODES.textNode(token));
    }

    /** An answer a step. */
    List<String> run() throws IOException, ReflectiveOperationException, InterruptedException {
        List<String> answers = new ArrayList<>();
        boolean behind = false;
        for (Scenes.Step s : scene.steps) {
            JsonNode answer;
            try {
                answer = behind ? NODES.textNode("behind what is not offered") : play(s);
                behind |= answer.asText().equals("not offered");
            } catch (Missing | Messages.Inexpressible e) {
                answer = NODES.textNode("not asked: " + e.getMessage());
            }
            for (Map.Entry<String, String> t : s.take.entrySet()) {
                JsonNode v = at(answer, t.getValue());
                if (!v.isMissingNode() && !v.isNull()) {
                    variables.put(t.getKey(), v);
                }
            }
            answers.add(normal(answer, null, s).toString());
        }
        for (Wire w : wires.values()) {
            w.close();
        }
        return answers;
    }

    private static final class Missing extends RuntimeException {
        private static final long serialVersionUID = 1;

        Missing(String what) {
            super(what);
        }
    }

    private Wire wire(String name) throws IOException {
        Wire w = wires.get(name);
        if (w == null) {
            w = new Wire(port);
            wires.put(name, w);
        }
        return w;
    }

    private boolean isOffered(ApiMessageType api, short version) {
        short[] range = offered.get(api.apiKey());
        return range != null && version >= range[0] && version <= range[1];
    }

    private JsonNode play(Scenes.Step s) throws IOException, ReflectiveOperationException, InterruptedException {
        if (s.close) {
            wire(s.connection).close();
            wires.remove(s.connection);
            return NODES.nullNode();
        } else if (s.wait) {
            return wire(s.connection).receive();
        } else if (s.ready != null) {
            return ready(resolve(NODES.textNode(s.ready)).asText(), s.readyId);
        }
        short version = s.versionAt(level);
        boolean real = version >= s.api.lowestSupportedVersion()
            && version <= s.api.highestSupportedVersion(false);
        if (real && !isOffered(s.api, version)) {
            return NODES.textNode("not offered");
        }
        long began = System.nanoTime() / 1_000_000;
        for (;;) {
            JsonNode answer = exchange(s, version);
            long ms = System.nanoTime() / 1_000_000 - began;
            boolean again = s.until != null ? !holds(answer, s.until) && ms < UNTIL_MS
                : hasError(answer, AGAIN) && ms < RETRY_MS;
            if (!again) {
                return answer;
            }
            Thread.sleep(PAUSE_MS);
        }
    }

    private JsonNode exchange(Scenes.Step s, short version) throws IOException, ReflectiveOperationException {
        Wire w = wire(s.connection);
        if (s.raw != null) {
            w.sendBytes(s.api, version, HexFormat.of().parseHex(s.raw));
        } else {
            w.send(s.api, version, resolve(s.body));
        }
        if (s.silent) {
            w.forget();
            return NODES.nullNode();
        } else if (s.post) {
            return NODES.nullNode();
        }
        JsonNode answer = w.receive();
        if (answer.isTextual()) {
            w.close();
            wires.remove(s.connection);
        }
        return answer;
    }

    // --- a topic that was made a moment ago

    /** Kafka says that a topic is there before it can be written, and before the coordinator of groups has heard of it. */
    private JsonNode ready(String topic, String idVariable)
            throws IOException, ReflectiveOperationException, InterruptedException {
        if (!isOffered(ApiMessageType.CREATE_TOPICS, (short) 7)) {
            return NODES.textNode("not offered");
        }
        String named = "{\"topics\": [{\"name\": \"" + topic + "\"}]}";
        JsonNode found = poll(ApiMessageType.METADATA, 12, named, a -> a.at("/topics/0/errorCode").asInt() == 0);
        variables.put(idVariable, found.at("/topics/0/topicId"));
        StringBuilder parts = new StringBuilder();
        for (int i = 0; i < found.at("/topics/0/partitions").size(); i++) {
            parts.append(i == 0 ? "" : ", ").append("{\"partitionIndex\": ").append(i).append(", \"timestamp\": -1}");
        }
        poll(ApiMessageType.LIST_OFFSETS, 7, "{\"replicaId\": -1, \"topics\": [{\"name\": \"" + topic
            + "\", \"partitions\": [" + parts + "]}]}", a -> !hasError(a, Set.of(3, 5, 6)));
        if (isOffered(ApiMessageType.CONSUMER_GROUP_HEARTBEAT, (short) 1)) {
            String member = "{\"groupId\": \"ready-" + topic + "-%s\", \"memberId\": \"m\", \"memberEpoch\": %d, "
                + "\"rebalanceTimeoutMs\": 9000, \"subscribedTopicNames\": [\"" + topic + "\"], \"topicPartitions\": []}";
            for (int i = 0;; i++) {
                JsonNode a = poll(ApiMessageType.CONSUMER_GROUP_HEARTBEAT, 1, String.format(member, i, 0), x -> true);
                poll(ApiMessageType.CONSUMER_GROUP_HEARTBEAT, 1, String.format(member, i, -1), x -> true);
                poll(ApiMessageType.DELETE_GROUPS, 2, "{\"groupsNames\": [\"ready-" + topic + "-" + i + "\"]}", x -> true);
                if (a.at("/assignment/topicPartitions/0/partitions").size() > 0 || i == READY_TRIES_MAX) {
                    break;
                }
                Thread.sleep(PAUSE_MS);
            }
        }
        return NODES.nullNode();
    }

    private JsonNode poll(ApiMessageType api, int version, String body, java.util.function.Predicate<JsonNode> enough)
            throws IOException, ReflectiveOperationException, InterruptedException {
        long began = System.nanoTime() / 1_000_000;
        for (;;) {
            wire("ready").send(api, (short) version, Messages.JSON.readTree(body));
            JsonNode answer = wire("ready").receive();
            if (enough.test(answer) || System.nanoTime() / 1_000_000 - began > UNTIL_MS) {
                return answer;
            }
            Thread.sleep(PAUSE_MS);
        }
    }

    // --- variables and paths

    private JsonNode resolve(JsonNode j) {
        if (j.isTextual()) {
            Matcher whole = VARIABLE.matcher(j.asText());
            if (whole.matches()) {
                return variable(whole.group(1));
            }
            return NODES.textNode(whole.replaceAll(m -> Matcher.quoteReplacement(variable(m.group(1)).asText())));
        } else if (j.isArray()) {
            ArrayNode out = NODES.arrayNode();
            j.forEach(e -> out.add(resolve(e)));
            return out;
        } else if (j.isObject()) {
            ObjectNode out = NODES.objectNode();
            j.properties().forEach(f -> out.set(f.getKey(), resolve(f.getValue())));
            return out;
        }
        return j;
    }

    private JsonNode variable(String name) {
        JsonNode v = variables.get(name);
        if (v == null) {
            throw new Missing("$" + name + " is not known");
        }
        return v;
    }

    /** a.b[0].c */
    private static JsonNode at(JsonNode j, String path) {
        return j.at("/" + path.replace('.', '/').replace("[", "/").replace("]", ""));
    }

    private static boolean holds(JsonNode answer, String condition) {
        String[] parts = condition.split("=", 2);
        return at(answer, parts[0]).asText().equals(parts[1]);
    }

    private static boolean hasError(JsonNode j, Set<Integer> codes) {
        if (j.isObject() && codes.contains(j.path("errorCode").asInt())) {
            return true;
        }
        for (JsonNode e : j) {
            if (e.isContainerNode() && hasError(e, codes)) {
                return true;
            }
        }
        return false;
    }

    // --- what can be compared

    private JsonNode normal(JsonNode j, String name, Scenes.Step s) {
        if (j.isObject()) {
            ObjectNode out = NODES.objectNode();
            j.properties().forEach(f -> {
                if (!OWN.contains(f.getKey()) && !(s.api == ApiMessageType.API_VERSIONS && f.getKey().equals("apiKeys"))) {
                    out.set(f.getKey(), normal(f.getValue(), f.getKey(), s));
                }
            });
            return out;
        } else if (j.isArray()) {
            List<JsonNode> all = new ArrayList<>();
            for (JsonNode e : j) {
                if (!s.mine || !isOthers(e)) {
                    all.add(normal(e, name, s));
                }
            }
            if (!"records".equals(name)) {
                all.sort(Comparator.comparing(JsonNode::toString));
            }
            ArrayNode out = NODES.arrayNode();
            out.addAll(all);
            return out;
        } else if (j.isNumber()) {
            return number(j, name);
        }
        return j.isTextual() ? text(j.asText(), name) : j;
    }

    /** An element of a list of everything there is, and not of this scene. */
    private boolean isOthers(JsonNode e) {
        for (String field : new String[] {"groupId", "transactionalId", "name", "topicName", "topic"}) {
            if (e.path(field).isTextual()) {
                return !e.get(field).asText().contains(token);
            }
        }
        return false;
    }

    private JsonNode number(JsonNode j, String name) {
        long n = j.asLong();
        if (name != null && IDS.contains(name) && n > 0 || "producerId".equals(name) && n == 0) {
            for (Map.Entry<String, JsonNode> v : variables.entrySet()) {
                if (v.getValue().isNumber() && v.getValue().asLong() == n) {
                    return NODES.textNode("$" + v.getKey());
                }
            }
            return NODES.textNode("<" + name + ">");
        }
        return n > NOW_FROM && n < 2 * NOW_FROM ? NODES.textNode("<now>") : j;
    }

    private TextNode text(String t, String name) {
        if (name != null && TEXTS.contains(name) && !t.isEmpty()) {
            return NODES.textNode("<text>");
        }
        for (Map.Entry<String, JsonNode> v : variables.entrySet()) {
            if (v.getValue().isTextual() && v.getValue().asText().equals(t) && !v.getKey().equals("s")) {
                return NODES.textNode("$" + v.getKey());
            }
        }
        if (name != null && name.endsWith("opicId") && !t.equals("AAAAAAAAAAAAAAAAAAAAAA")) {
            return NODES.textNode("<id>");
        } else if ("memberId".equals(name) && t.matches(".*-[0-9a-f]{8}-[0-9a-f-]{27}|[A-Za-z0-9_-]{22}")) {
            return NODES.textNode("<member>");
        }
        return NODES.textNode(t.replace(token, "$s"));
    }
}
