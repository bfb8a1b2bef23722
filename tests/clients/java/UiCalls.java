import java.time.Duration;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;
import java.util.stream.Collectors;

import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.ElectionType;
import org.apache.kafka.common.TopicCollection;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.TopicPartitionReplica;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.acl.AclBindingFilter;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.quota.ClientQuotaFilter;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * What a UI asks of a cluster, by Java's admin client: the calls of AKHQ and kafka-ui, one after the other.
 *
 *     java UiCalls.java BOOTSTRAP TOPIC
 *
 * Makes TOPIC, uses it, and deletes it. Prints a line a call: its name, and what matters of the answer; so that the
 * lines of two servers can be compared.
 */
public final class UiCalls {
    private static final int PARTITIONS = 3;
    private static final int RECORDS = 30;

    private final String bootstrap;
    private final String topic;
    private final String group;
    private final Admin admin;

    private UiCalls(String bootstrap, String topic) {
        this.bootstrap = bootstrap;
        this.topic = topic;
        this.group = topic + "-group";
        this.admin = Admin.create(Map.of("bootstrap.servers", bootstrap, "default.api.timeout.ms", 30000));
    }

    public static void main(String[] args) throws Exception {
        UiCalls calls = new UiCalls(args[0], args[1]);
        calls.cluster();
        calls.fill();
        calls.topics();
        calls.groups();
        calls.changes();
        calls.admin.close();
    }

    private static void say(String call, Callable<Object> what) throws Exception {
        String said;
        try {
            said = String.valueOf(what.call());
        } catch (ExecutionException e) {
            said = e.getCause().getClass().getSimpleName();
        }
        System.out.println(call + ": " + said);
    }

    private Map<TopicPartition, OffsetSpec> everywhere(OffsetSpec spec) {
        Map<TopicPartition, OffsetSpec> all = new TreeMap<>((a, b) -> a.partition() - b.partition());
        for (int p = 0; p < PARTITIONS; p++) {
            all.put(new TopicPartition(topic, p), spec);
        }
        return all;
    }

    private long offsets(OffsetSpec spec) throws Exception {
        return admin.listOffsets(everywhere(spec)).all().get().values().stream()
            .mapToLong(ListOffsetsResult.ListOffsetsResultInfo::offset).sum();
    }

    private static Map<String, String> values(Collection<ConfigEntry> entries, String... names) {
        Set<String> wanted = Set.of(names);
        return entries.stream().filter(e -> wanted.contains(e.name()))
            .collect(Collectors.toMap(ConfigEntry::name, e -> e.value() + "/" + e.source(), (a, b) -> a, TreeMap::new));
    }

    private Config config(ConfigResource.Type type, String name) throws Exception {
        ConfigResource resource = new ConfigResource(type, name);
        return admin.describeConfigs(List.of(resource),
            new DescribeConfigsOptions().includeSynonyms(true).includeDocumentation(true)).all().get().get(resource);
    }

    private int node() throws Exception {
        return admin.describeCluster().controller().get().id();
    }

    private void cluster() throws Exception {
        say("describeCluster", () -> {
            DescribeClusterResult c = admin.describeCluster(
                new DescribeClusterOptions().includeAuthorizedOperations(true));
            return c.nodes().get().size() + " " + new TreeSet<>(c.authorizedOperations().get())
                + (c.clusterId().get().isEmpty() ? " no id" : "");
        });
        say("describeConfigs of the broker", () -> {
            Config all = config(ConfigResource.Type.BROKER, Integer.toString(node()));
            return values(all.entries(), "delete.topic.enable", "auto.create.topics.enable").keySet();
        });
        say("describeFeatures", () -> new TreeMap<>(admin.describeFeatures().featureMetadata().get()
            .finalizedFeatures()).get("metadata.version"));
        say("describeMetadataQuorum", () -> {
            QuorumInfo q = admin.describeMetadataQuorum().quorumInfo().get();
            return (q.leaderId() == node()) + " " + q.voters().size() + " " + q.observers().size();
        });
        say("describeAcls", () -> admin.describeAcls(AclBindingFilter.ANY).values().get());
        say("describeClientQuotas", () -> admin.describeClientQuotas(ClientQuotaFilter.all()).entities().get());
        say("describeUserScramCredentials", () -> admin.describeUserScramCredentials().all().get());
        say("describeUserScramCredentials of one", () ->
            admin.describeUserScramCredentials(List.of("nobody")).all().get());
        say("listPartitionReassignments", () -> admin.listPartitionReassignments().reassignments().get());
        say("listConfigResources of client metrics", () -> admin.listConfigResources(
            Set.of(ConfigResource.Type.CLIENT_METRICS), new ListConfigResourcesOptions()).all().get());
        say("updateFeatures", () -> admin.updateFeatures(Map.of("metadata.version",
            new FeatureUpdate((short) 27, FeatureUpdate.UpgradeType.UPGRADE)),
            new UpdateFeaturesOptions().validateOnly(true)).all().get());
    }

    private void fill() throws Exception {
        say("createTopics", () -> {
            CreateTopicsResult made = admin.createTopics(List.of(new NewTopic(topic, PARTITIONS, (short) 1)
                .configs(Map.of("retention.ms", "3600000"))));
            return made.numPartitions(topic).get() + " " + made.replicationFactor(topic).get() + " "
                + made.config(topic).get().get("retention.ms").value();
        });
        Properties p = new Properties();
        p.put("bootstrap.servers", bootstrap);
        p.put("enable.idempotence", "false");
        try (KafkaProducer<String, String> producer =
                 new KafkaProducer<>(p, new StringSerializer(), new StringSerializer())) {
            for (int i = 0; i < RECORDS; i++) {
                producer.send(new ProducerRecord<>(topic, i % PARTITIONS, 1000L + i, "k" + i, "v" + i)).get();
            }
        }
        Properties c = new Properties();
        c.put("bootstrap.servers", bootstrap);
        c.put(ConsumerConfig.GROUP_ID_CONFIG, group);
        c.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
        c.put(ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, "false");
        try (KafkaConsumer<String, String> consumer =
                 new KafkaConsumer<>(c, new StringDeserializer(), new StringDeserializer())) {
            consumer.subscribe(List.of(topic));
            int read = 0;
            while (read < RECORDS) {
                read += consumer.poll(Duration.ofSeconds(1)).count();
            }
            consumer.commitSync();
            say("describeConsumerGroups with a member", () -> {
                ConsumerGroupDescription d = admin.describeConsumerGroups(List.of(group),
                    new DescribeConsumerGroupsOptions().includeAuthorizedOperations(true)).all().get().get(group);
                return d.groupState() + " " + d.partitionAssignor() + " " + d.members().size() + " "
                    + d.members().iterator().next().assignment().topicPartitions().size() + " "
                    + new TreeSet<>(d.authorizedOperations());
            });
        }
    }

    private void topics() throws Exception {
        say("listTopics", () -> admin.listTopics(new ListTopicsOptions().listInternal(true)).names().get()
            .contains(topic));
        say("describeTopics", () -> {
            TopicDescription d = admin.describeTopics(List.of(topic),
                new DescribeTopicsOptions().includeAuthorizedOperations(true)).allTopicNames().get().get(topic);
            return d.partitions().size() + " " + d.isInternal() + " " + new TreeSet<>(d.authorizedOperations()) + " "
                + d.partitions().get(0).leader().id() + " " + d.partitions().get(0).isr().size();
        });
        say("describeTopics by id", () -> {
            Uuid id = admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic).topicId();
            return admin.describeTopics(TopicCollection.ofTopicIds(List.of(id))).allTopicIds().get().get(id).name()
                .equals(topic);
        });
        say("describeTopics of none", () -> admin.describeTopics(List.of("never")).allTopicNames().get());
        say("describeConfigs of a topic", () -> values(config(ConfigResource.Type.TOPIC, topic).entries(),
            "cleanup.policy", "retention.ms", "retention.bytes", "min.compaction.lag.ms", "max.message.bytes"));
        say("describeConfigs has documentation", () -> config(ConfigResource.Type.TOPIC, topic).entries().stream()
            .noneMatch(e -> e.documentation() == null || e.documentation().isEmpty()));
        say("describeLogDirs", () -> {
            Map<String, LogDirDescription> dirs =
                admin.describeLogDirs(List.of(node())).allDescriptions().get().get(node());
            LogDirDescription d = dirs.values().iterator().next();
            long found = d.replicaInfos().entrySet().stream().filter(e -> e.getKey().topic().equals(topic)
                && e.getValue().size() > 0).count();
            return dirs.size() + " " + d.error() + " " + found + " " + (d.totalBytes().getAsLong() > 0)
                + " " + (d.usableBytes().getAsLong() > 0);
        });
        say("describeReplicaLogDirs", () -> {
            TopicPartitionReplica one = new TopicPartitionReplica(topic, 1, node());
            return admin.describeReplicaLogDirs(List.of(one)).all().get().get(one).getCurrentReplicaOffsetLag();
        });
        say("listOffsets earliest", () -> offsets(OffsetSpec.earliest()));
        say("listOffsets latest", () -> offsets(OffsetSpec.latest()));
        say("listOffsets max timestamp", () -> offsets(OffsetSpec.maxTimestamp()));
        say("listOffsets by time", () -> offsets(OffsetSpec.forTimestamp(1015)));
        say("listOffsets tiered", () -> offsets(OffsetSpec.latestTiered()));
        say("describeProducers", () -> admin.describeProducers(List.of(new TopicPartition(topic, 0))).all().get()
            .values().iterator().next().activeProducers());
        say("listTransactions", () -> admin.listTransactions().all().get());
        say("describeTransactions of none", () -> admin.describeTransactions(List.of("never")).all().get());
        say("electLeaders", () -> admin.electLeaders(ElectionType.PREFERRED,
            Set.of(new TopicPartition(topic, 0))).partitions().get().values().iterator().next()
            .map(e -> e.getClass().getSimpleName()));
        say("electLeaders of none", () -> admin.electLeaders(ElectionType.PREFERRED,
            Set.of(new TopicPartition("never", 0))).partitions().get().values().iterator().next()
            .map(e -> e.getClass().getSimpleName()));
    }

    private void groups() throws Exception {
        say("listGroups", () -> admin.listGroups().all().get().stream().filter(g -> g.groupId().equals(group))
            .map(g -> g.protocol() + " " + g.type() + " " + g.groupState()).collect(Collectors.toList()));
        say("describeConsumerGroups", () ->
            admin.describeConsumerGroups(List.of(group)).all().get().get(group).groupState());
        say("listConsumerGroupOffsets", () -> admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata()
            .get().values().stream().mapToLong(OffsetAndMetadata::offset).sum());
        say("alterConsumerGroupOffsets", () -> admin.alterConsumerGroupOffsets(group,
            Map.of(new TopicPartition(topic, 0), new OffsetAndMetadata(3))).all().get());
        say("deleteConsumerGroupOffsets", () -> admin.deleteConsumerGroupOffsets(group,
            Set.of(new TopicPartition(topic, 1))).all().get());
        say("listConsumerGroupOffsets then", () -> admin.listConsumerGroupOffsets(group)
            .partitionsToOffsetAndMetadata().get().values().stream().mapToLong(OffsetAndMetadata::offset).sum());
        say("deleteConsumerGroups", () -> admin.deleteConsumerGroups(List.of(group)).all().get());
        say("deleteConsumerGroups again", () -> admin.deleteConsumerGroups(List.of(group)).all().get());
    }

    private void changes() throws Exception {
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        say("incrementalAlterConfigs", () -> admin.incrementalAlterConfigs(Map.of(resource, List.of(
            new AlterConfigOp(new ConfigEntry("max.message.bytes", "2000"), AlterConfigOp.OpType.SET),
            new AlterConfigOp(new ConfigEntry("retention.ms", ""), AlterConfigOp.OpType.DELETE)))).all().get());
        say("describeConfigs then", () -> values(config(ConfigResource.Type.TOPIC, topic).entries(),
            "retention.ms", "max.message.bytes"));
        say("incrementalAlterConfigs of nonsense", () -> admin.incrementalAlterConfigs(Map.of(resource, List.of(
            new AlterConfigOp(new ConfigEntry("retention.ms", "soon"), AlterConfigOp.OpType.SET)))).all().get());
        say("createPartitions", () -> admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(PARTITIONS + 2)))
            .all().get());
        say("createPartitions less", () -> admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(1)))
            .all().get());
        say("describeTopics then", () ->
            admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic).partitions().size());
        say("deleteRecords", () -> admin.deleteRecords(Map.of(new TopicPartition(topic, 0),
            RecordsToDelete.beforeOffset(4))).lowWatermarks().get(new TopicPartition(topic, 0)).get().lowWatermark());
        say("listOffsets earliest then", () -> offsets(OffsetSpec.earliest()));
        say("deleteTopics", () -> admin.deleteTopics(List.of(topic)).all().get());
        say("deleteTopics again", () -> admin.deleteTopics(List.of(topic)).all().get());
    }
}
