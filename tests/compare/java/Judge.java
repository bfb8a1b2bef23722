import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.regex.Pattern;

import com.fasterxml.jackson.databind.JsonNode;

/** Two files of answers, field by field; a difference must be a row of the list of argued ones. */
final class Judge {
    private static final int SHOWN_MAX = 400;

    /** One row of differences.txt: SCENE | API | PATH | KAFKA | CULEX | WHY; * stands for anything. */
    private static final class Row {
        final String text;
        final List<Pattern> columns = new ArrayList<>();
        final boolean open;     // not argued: to be mended
        int used;

        Row(String text) {
            this.text = text;
            String[] parts = text.split(" *\\| *", 6);
            if (parts.length < 6 || parts[5].isBlank()) {
                throw new IllegalArgumentException("differences: six columns, the last one says why: " + text);
            }
            open = parts[5].startsWith("To be mended");
            for (int i = 0; i < 5; i++) {
                StringBuilder p = new StringBuilder();
                for (String literal : parts[i].strip().split("\\*", -1)) {
                    p.append(p.length() == 0 ? "" : ".*").append(literal.isEmpty() ? "" : Pattern.quote(literal));
                    if (p.length() == 0) {
                        p.append("(?:)");
                    }
                }
                columns.add(Pattern.compile(p.toString(), Pattern.DOTALL));
            }
        }

        boolean covers(String... values) {
            for (int i = 0; i < values.length; i++) {
                if (!columns.get(i).matcher(values[i]).matches()) {
                    return false;
                }
            }
            return true;
        }
    }

    private record Answer(String api, JsonNode json) {
    }

    /** Answers of one server: what it offers; scene -> level -> step -> answer. */
    private static final class Answers {
        final Map<String, int[]> offers = new TreeMap<>();
        final Map<String, TreeMap<Integer, TreeMap<Integer, Answer>>> scenes = new LinkedHashMap<>();

        Answers(Path file) throws IOException {
            String scene = null;
            for (String line : Files.readAllLines(file)) {
                String[] w = line.split(" ", 4);
                if (w[0].equals("#")) {
                    continue;
                } else if (w[0].equals("offers")) {
                    String[] range = w[2].split("-");
                    offers.put(w[1], new int[] {Integer.parseInt(range[0]), Integer.parseInt(range[1])});
                } else if (w[0].equals("scene")) {
                    scene = w[1];
                    scenes.put(scene, new TreeMap<>());
                } else {
                    JsonNode json = Messages.JSON.readTree(w[3]);
                    for (String level : w[2].split(",")) {
                        scenes.get(scene).computeIfAbsent(Integer.parseInt(level), k -> new TreeMap<>())
                            .put(Integer.parseInt(w[0]), new Answer(w[1], json));
                    }
                }
            }
        }
    }

    private final List<Row> rows = new ArrayList<>();
    private final Map<String, Set<String>> different = new LinkedHashMap<>(); // what -> where
    private final Map<String, Scenes.Scene> cases = new LinkedHashMap<>();
    private final Set<String> notOffered = new LinkedHashSet<>();
    private int compared;
    private int behind;
    private int argued;
    private int open;

    static boolean run(Path differences, Path kafka, Path culex, List<Scenes.Scene> cases) throws IOException {
        Judge j = new Judge();
        for (Scenes.Scene s : cases) {
            j.cases.put(s.name, s);
        }
        for (String line : Files.readAllLines(differences)) {
            if (!line.isBlank() && !line.startsWith("#")) {
                j.rows.add(new Row(line));
            }
        }
        return j.judge(new Answers(kafka), new Answers(culex));
    }

    private boolean judge(Answers kafka, Answers culex) {
        offers(kafka, culex);
        int scenes = 0;
        int wrong = 0;
        for (String scene : kafka.scenes.keySet()) {
            int before = different.values().stream().mapToInt(Set::size).sum();
            Map<Integer, TreeMap<Integer, Answer>> theirs = culex.scenes.getOrDefault(scene, new TreeMap<>());
            kafka.scenes.get(scene).forEach((level, steps) ->
                level(scene, level, steps, theirs.getOrDefault(level, new TreeMap<>())));
            scenes++;
            wrong += different.values().stream().mapToInt(Set::size).sum() > before ? 1 : 0;
        }
        for (String scene : culex.scenes.keySet()) {
            if (!kafka.scenes.containsKey(scene)) {
                note(scene, 0, 0, "-", "scene", "not recorded", "played");
            }
        }
        different.forEach((what, where) -> System.out.printf("DIFFERS %s%n        in %s%n", what,
            shortened(String.join(", ", where))));
        int stale = 0;
        for (Row r : rows) {
            if (r.used == 0) {
                System.out.printf("no such difference any more: %s%n", r.text);
                stale += notOffered.isEmpty() && !r.open ? 1 : 0;
            }
        }
        System.out.printf("not offered: %s%n", notOffered.isEmpty() ? "nothing" : String.join(", ", notOffered));
        System.out.printf("%d answers compared, %d not: they stand behind what is not offered%n", compared, behind);
        System.out.printf("%d argued differences, %d to be mended%n", argued, open);
        int failed = Math.max(wrong, different.isEmpty() ? 0 : 1) + stale;
        System.out.printf("%d passed, %d failed%n", scenes - wrong, failed);
        return failed == 0 && compared > 0;
    }

    private void offers(Answers kafka, Answers culex) {
        kafka.offers.forEach((api, k) -> {
            int[] c = culex.offers.get(api);
            if (c == null) {
                if (!isArgued("-", api, "offers", k[0] + "-" + k[1], "-")) {
                    notOffered.add(api);
                }
                return;
            }
            if (c[1] < k[1]) {
                notOffered.add(api + " v" + (c[1] + 1) + (c[1] + 1 < k[1] ? "-" + k[1] : ""));
            }
            if (c[0] != k[0] || c[1] > k[1]) {
                difference("-", 0, 0, api, "offers", k[0] + "-" + k[1], c[0] + "-" + c[1]);
            }
        });
        culex.offers.forEach((api, c) -> {
            if (!kafka.offers.containsKey(api)) {
                difference("-", 0, 0, api, "offers", "-", c[0] + "-" + c[1]);
            }
        });
    }

    private void level(String scene, int level, Map<Integer, Answer> kafka, Map<Integer, Answer> culex) {
        boolean tainted = false;
        for (Map.Entry<Integer, Answer> k : kafka.entrySet()) {
            Answer c = culex.get(k.getKey());
            if (c == null) {
                note(scene, k.getKey(), level, k.getValue().api, "step", "recorded", "not played");
                return;
            }
            boolean missing = c.json.asText().equals("not offered") && !k.getValue().json.asText().equals("not offered");
            tainted |= missing;
            if (tainted) {
                behind++;
                continue;
            }
            compared++;
            compare(scene, k.getKey(), level, c.api, "", k.getValue().json, c.json);
        }
    }

    private void compare(String scene, int step, int level, String api, String path, JsonNode k, JsonNode c) {
        if (k.equals(c)) {
            return;
        } else if (k.isObject() && c.isObject()) {
            Set<String> names = new LinkedHashSet<>();
            for (String error : new String[] {"errorCode", "partitionErrorCode"}) {
                if (k.has(error) && c.has(error) && !k.get(error).equals(c.get(error))) {
                    difference(scene, step, level, api, path.isEmpty() ? error : path + "." + error,
                        shown(k.get(error)), shown(c.get(error)));
                    return; // what else differs follows from it
                }
            }
            k.fieldNames().forEachRemaining(names::add);
            c.fieldNames().forEachRemaining(names::add);
            for (String n : names) {
                compare(scene, step, level, api, path.isEmpty() ? n : path + "." + n, k.path(n), c.path(n));
            }
        } else if (k.isArray() && c.isArray()) {
            arrays(scene, step, level, api, path + "[]", k, c);
        } else {
            difference(scene, step, level, api, path, shown(k), shown(c));
        }
    }

    /** Elements that both have are put aside; what is left is paired by name, else in order. */
    private void arrays(String scene, int step, int level, String api, String path, JsonNode k, JsonNode c) {
        List<JsonNode> left = new ArrayList<>();
        List<JsonNode> right = new ArrayList<>();
        k.forEach(left::add);
        c.forEach(right::add);
        left.removeIf(right::remove);
        for (JsonNode l : List.copyOf(left)) {
            for (JsonNode r : right) {
                if (!name(l).isEmpty() && name(l).equals(name(r))) {
                    compare(scene, step, level, api, path + "(" + name(l) + ")", l, r);
                    left.remove(l);
                    right.remove(r);
                    break;
                }
            }
        }
        for (int i = 0; i < Math.max(left.size(), right.size()); i++) {
            if (i < left.size() && i < right.size() && name(left.get(i)).isEmpty()) {
                compare(scene, step, level, api, path, left.get(i), right.get(i));
                continue;
            }
            if (i < left.size()) {
                difference(scene, step, level, api, path, shown(left.get(i)), "-");
            }
            if (i < right.size()) {
                difference(scene, step, level, api, path, "-", shown(right.get(i)));
            }
        }
    }

    private static String name(JsonNode j) {
        for (String field : new String[] {"name", "groupId", "resourceName", "transactionalId", "memberId"}) {
            if (j.path(field).isTextual()) {
                return j.get(field).asText();
            }
        }
        return j.has("partitionIndex") ? j.get("partitionIndex").asText() : "";
    }

    private static String shown(JsonNode j) {
        return j.isMissingNode() ? "-" : j.isTextual() ? j.asText() : j.toString();
    }

    private static String shortened(String s) {
        return s.length() <= SHOWN_MAX ? s : s.substring(0, SHOWN_MAX) + " …";
    }

    private boolean isArgued(String... what) {
        for (Row r : rows) {
            if (r.covers(what)) {
                r.used++;
                open += r.open ? 1 : 0;
                argued += r.open ? 0 : 1;
                return true;
            }
        }
        return false;
    }

    private void difference(String scene, int step, int level, String api, String path, String k, String c) {
        if (!isArgued(scene, api, path, k, c)) {
            note(scene, step, level, api, path, k, c);
        }
    }

    private void note(String scene, int step, int level, String api, String path, String k, String c) {
        different.computeIfAbsent(String.format("%s %s: Kafka %s, Culex %s", api, path, shortened(k), shortened(c)),
            w -> new LinkedHashSet<>()).add(where(scene, step) + " level " + level);
    }

    private String where(String scene, int step) {
        Scenes.Scene s = cases.get(scene);
        boolean known = s != null && step > 0 && step <= s.steps.size();
        return known ? s.file + ":" + s.steps.get(step - 1).line : scene;
    }
}
