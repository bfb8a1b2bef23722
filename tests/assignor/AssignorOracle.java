// Gives the groups that assignor_peer prints to Kafka's own assignors and compares: the same partitions for the same members.

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.coordinator.group.api.assignor.GroupAssignment;
import org.apache.kafka.coordinator.group.api.assignor.PartitionAssignor;
import org.apache.kafka.coordinator.group.api.assignor.SubscribedTopicDescriber;
import org.apache.kafka.coordinator.group.api.assignor.SubscriptionType;
import org.apache.kafka.coordinator.group.assignor.RangeAssignor;
import org.apache.kafka.coordinator.group.assignor.UniformAssignor;
import org.apache.kafka.coordinator.group.modern.Assignment;
import org.apache.kafka.coordinator.group.modern.GroupSpecImpl;
import org.apache.kafka.coordinator.group.modern.MemberSubscriptionAndAssignmentImpl;

public final class AssignorOracle {
    private record Member(String id, Optional<String> instance, Set<Uuid> topics) { }

    private static final List<Integer> SIZES = new ArrayList<>();
    private static final List<Member> MEMBERS = new ArrayList<>();

    private static Uuid topic(int i) {
        return new Uuid(0, i + 2);
    }

    private static int[] owners(String line) {
        return Arrays.stream(line.split(" ")).skip(1).mapToInt(Integer::parseInt).toArray();
    }

    /* What the member of this number has, of owners by partition. */
    private static Map<Uuid, Set<Integer>> of(int member, int[] owners) {
        Map<Uuid, Set<Integer>> out = new HashMap<>();
        int i = 0;
        for (int t = 0; t < SIZES.size(); t++) {
            for (int p = 0; p < SIZES.get(t); p++) {
                if (owners[i++] == member) {
                    out.computeIfAbsent(topic(t), x -> new HashSet<>()).add(p);
                }
            }
        }
        return out;
    }

    private static GroupAssignment ask(PartitionAssignor assignor, int[] was) {
        Map<String, MemberSubscriptionAndAssignmentImpl> members = new LinkedHashMap<>();
        Map<Uuid, Map<Integer, String>> inverted = new HashMap<>();
        boolean same = true;
        for (int m = 0; m < MEMBERS.size(); m++) {
            Member x = MEMBERS.get(m);
            Map<Uuid, Set<Integer>> has = of(m, was);
            has.forEach((t, ps) -> ps.forEach(p -> inverted.computeIfAbsent(t, y -> new HashMap<>()).put(p, x.id)));
            members.put(x.id, new MemberSubscriptionAndAssignmentImpl(Optional.empty(), x.instance, x.topics, new Assignment(has)));
            same = same && x.topics.size() == SIZES.size();
        }
        SubscribedTopicDescriber describer = new SubscribedTopicDescriber() {
            @Override public int numPartitions(Uuid id) {
                return SIZES.get((int) id.getLeastSignificantBits() - 2);
            }

            @Override public Set<String> racksForPartition(Uuid id, int partition) {
                return Set.of();
            }
        };
        SubscriptionType type = same ? SubscriptionType.HOMOGENEOUS : SubscriptionType.HETEROGENEOUS;
        return assignor.assign(new GroupSpecImpl(members, type, inverted), describer);
    }

    private static boolean agrees(GroupAssignment theirs, int[] ours) {
        for (int m = 0; m < MEMBERS.size(); m++) {
            String id = MEMBERS.get(m).id;
            Map<Uuid, Set<Integer>> a = theirs.members().containsKey(id) ? theirs.members().get(id).partitions() : Map.of();
            if (!of(m, ours).equals(new HashMap<>(a))) {
                System.err.println("member " + id + ": Kafka " + a + ", here " + of(m, ours));
                return false;
            }
        }
        return true;
    }

    public static void main(String[] argv) throws Exception {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        PartitionAssignor assignor = null;
        int[] was = null;
        int cases = 0, moved = 0;
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] words = line.split(" ");
            switch (words[0]) {
                case "case" -> {
                    assignor = words[1].equals("range") ? new RangeAssignor() : new UniformAssignor();
                    SIZES.clear();
                    MEMBERS.clear();
                }
                case "topic" -> SIZES.add(Integer.parseInt(words[1]));
                case "member" -> {
                    Set<Uuid> topics = new HashSet<>();
                    Arrays.stream(words[3].split(",")).forEach(t -> topics.add(topic(Integer.parseInt(t))));
                    MEMBERS.add(new Member(words[1], words[2].equals("-") ? Optional.empty() : Optional.of(words[2]), topics));
                }
                case "was" -> was = owners(line);
                default -> {
                    int[] is = owners(line);
                    cases++;
                    if (!agrees(ask(assignor, was), is)) {
                        System.err.println(cases + ": " + assignor.name() + " topics " + SIZES + " members " + MEMBERS + "\nwas "
                            + Arrays.toString(was) + "\nis  " + Arrays.toString(is));
                        System.exit(1);
                    }
                    for (int i = 0; i < is.length; i++) {
                        moved += was[i] >= 0 && was[i] != is[i] ? 1 : 0;
                    }
                }
            }
        }
        if (cases == 0 || moved == 0) {
            System.err.println("nothing was compared");
            System.exit(1);
        }
        System.out.println("assignors: " + cases + " groups as Kafka's");
    }
}
