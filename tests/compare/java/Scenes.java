import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.databind.JsonNode;

import org.apache.kafka.common.message.ApiMessageType;

/** The cases: scenes of steps, read from tests/compare/cases/*.txt, whose form README.md describes. */
final class Scenes {
    /** One request, and what is to be done with its answer. */
    static final class Step {
        int line;
        String connection = "main";
        boolean post;           // & : the answer is read by a later "wait"
        boolean silent;         // ! : there is no answer
        boolean mine;           // only the elements that bear this scene's name are compared
        boolean wait;
        boolean close;
        String ready;           // waits until this topic can be written, read and assigned
        String readyId;         // and takes its id into this variable
        String until;           // repeated until the answer has PATH=VALUE
        ApiMessageType api;
        String version;
        JsonNode body;
        String raw;             // the body in hex, instead
        final Map<String, String> take = new LinkedHashMap<>(); // variable -> path in the answer

        short versionAt(int level) {
            int least = api.lowestSupportedVersion();
            int most = api.highestSupportedVersion(false);
            switch (version) {
                case "*":
                    return (short) Math.min(least + level, most);
                case "last":
                    return (short) most;
                default:
                    return Short.parseShort(version);
            }
        }
    }

    static final class Scene {
        String name;
        String file;
        int levels = 1;
        final List<Step> steps = new ArrayList<>();
    }

    private Scenes() {
    }

    static List<Scene> read(Path directory) throws IOException {
        List<Scene> all = new ArrayList<>();
        List<Path> files;
        try (var list = Files.list(directory)) {
            files = list.filter(p -> p.toString().endsWith(".txt")).sorted().toList();
        }
        for (Path file : files) {
            readFile(file, all);
        }
        return all;
    }

    private static void readFile(Path file, List<Scene> all) throws IOException {
        List<String> lines = Files.readAllLines(file);
        String name = file.getFileName().toString();
        for (int i = 0; i < lines.size(); i++) {
            int first = i + 1;
            StringBuilder text = new StringBuilder(lines.get(i));
            while (i + 1 < lines.size() && lines.get(i + 1).startsWith(" ")) {
                text.append(' ').append(lines.get(++i).strip());
            }
            String line = text.toString().strip();
            if (line.isEmpty() || line.startsWith("#")) {
                continue;
            }
            try {
                readLine(line, name, first, all);
            } catch (IOException | RuntimeException e) {
                throw new IllegalArgumentException(name + ":" + first + ": " + e.getMessage(), e);
            }
        }
    }

    private static void readLine(String line, String file, int number, List<Scene> all) throws IOException {
        String[] words = line.split(" +", 3);
        if (words[0].equals("scene")) {
            Scene s = new Scene();
            s.name = words[1];
            s.file = file;
            all.add(s);
            return;
        }
        Scene scene = all.get(all.size() - 1);
        if (words[0].equals("=")) {
            scene.steps.get(scene.steps.size() - 1).take.put(words[1], words[2]);
            return;
        }
        scene.steps.add(step(line, number));
        Step s = scene.steps.get(scene.steps.size() - 1);
        if (s.version != null && s.version.equals("*")) {
            scene.levels = Math.max(scene.levels,
                s.api.highestSupportedVersion(false) - s.api.lowestSupportedVersion() + 1);
        }
    }

    private static Step step(String line, int number) throws IOException {
        Step s = new Step();
        s.line = number;
        String left = line;
        for (;;) {
            String[] w = left.split(" +", 2);
            String rest = w.length > 1 ? w[1] : "";
            if (w[0].startsWith("@")) {
                s.connection = w[0].substring(1);
            } else if (w[0].equals("&")) {
                s.post = true;
            } else if (w[0].equals("!")) {
                s.silent = true;
            } else if (w[0].equals("mine")) {
                s.mine = true;
            } else if (w[0].equals("wait")) {
                s.wait = true;
                return s;
            } else if (w[0].equals("close")) {
                s.close = true;
                return s;
            } else if (w[0].equals("ready")) {
                String[] topic = rest.split(" +");
                s.ready = topic[0];
                s.readyId = topic.length > 1 ? topic[1] : "ready";
                return s;
            } else if (w[0].startsWith("until:")) {
                s.until = w[0].substring(6);
            } else {
                break;
            }
            left = rest;
        }
        String[] w = left.split(" +", 3);
        s.api = ApiMessageType.valueOf(Messages.snake(w[0]).toUpperCase());
        s.version = w[1];
        if (w.length > 2 && w[2].startsWith("hex:")) {
            s.raw = w[2].substring(4);
        } else {
            s.body = w.length > 2 ? Messages.JSON.reader()
                .with(JsonParser.Feature.ALLOW_UNQUOTED_FIELD_NAMES)
                .with(com.fasterxml.jackson.databind.DeserializationFeature.FAIL_ON_TRAILING_TOKENS)
                .readTree(w[2]) : Messages.JSON.createObjectNode();
        }
        return s;
    }
}
