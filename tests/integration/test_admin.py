"""What tools ask a cluster for, answered as Apache Kafka 4.1 answers it.

admin_answers.json holds what Kafka said to the requests in CASES, on a node 1 with the topic "t1" of two partitions:

    python tests/integration/test_admin.py PORT      asks the Kafka there, and writes the file anew
"""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from harness import CLIENTS, read_all, wait_until
from wire import APIS, Wire, ask

pytestmark = pytest.mark.sanitized
ANSWERS = Path(__file__).with_name("admin_answers.json")
NOBODY = str(uuid.UUID(int=0))
SOMEBODY = "496a9690-fe59-4e72-87c1-bd85e3fefa26"
CLOSED = "closed"


def quota(entity, match_type, match=None):
    return {"EntityType": entity, "MatchType": match_type, "Match": match}


def quotas(*components, version=1, strict=False):
    return "DescribeClientQuotas", version, {"Components": list(components), "Strict": strict}


def partitions_of(asked, topic="Topic", indexes="Partitions"):
    return asked and [{topic: t, indexes: p} for t, p in asked]


def elect(asked, version=2, **more):
    return "ElectLeaders", version, {"TopicPartitions": partitions_of(asked), **more}


def reassignments(asked):
    return "ListPartitionReassignments", 0, {"Topics": partitions_of(asked, "Name", "PartitionIndexes")}


def log_dirs(asked, version=4):
    return "DescribeLogDirs", version, {"Topics": partitions_of(asked)}


def scram(*users):
    return "DescribeUserScramCredentials", 0, {"Users": [{"Name": u} for u in users]}


def features(*updates, version=1):
    """updates: (feature, level[, upgrade type]); always only validated."""
    more = {"ValidateOnly": True} if version > 0 else {}
    kinds = [dict(zip(("Feature", "MaxVersionLevel", "UpgradeType"), u)) for u in updates]
    return "UpdateFeatures", version, {"FeatureUpdates": kinds, **more}


def quorum(version, *asked):
    return "DescribeQuorum", version, {"Topics": [
        {"TopicName": t, "Partitions": [{"PartitionIndex": i} for i in p]} for t, p in asked]}


def acls(version=3, **more):
    any_of = {"ResourceTypeFilter": 1, "ResourceNameFilter": None, "PatternTypeFilter": 1, "PrincipalFilter": None,
              "HostFilter": None, "Operation": 1, "PermissionType": 1}
    return "DescribeAcls", version, {**any_of, **more}


CASES = [
    log_dirs(None, 1), log_dirs(None, 2), log_dirs(None, 3), log_dirs(None), log_dirs([]),
    log_dirs([("nope", [0])]), log_dirs([("t1", [1, 7, -1])]), log_dirs([("t1", [])]),
    log_dirs([("t1", [1, 1]), ("t1", [0])]), log_dirs([("", [0])], 1),
    elect(None, 0), elect(None, 1), elect(None), elect([]), elect(None, ElectionType=1), elect(None, ElectionType=7),
    elect([("t1", [])], 0), elect([("t1", [0, 1, 2, -1]), ("nope", [0])], ElectionType=1),
    elect([("t1", [0, 1, 2, -1, 0]), ("nope", [0, 1]), ("", [0]), ("t1", [1])]),
    reassignments(None), reassignments([]), reassignments([("nope", [0, 0]), ("t1", [0, -7])]),
    quotas(version=0), quotas(), quotas(strict=True), quotas(quota("user", 0, "x")), quotas(quota("user", 0)),
    quotas(quota("user", 1, "x")), quotas(quota("user", 2, "x")), quotas(quota("user", 9)),
    quotas(quota("user", -1, "x")), quotas(quota("bad", 2)), quotas(quota("bad", 9)), quotas(quota("User", 2)),
    quotas(quota("", 2)), quotas(quota("user", 2), quota("user", 9)), quotas(quota("bad", 2), quota("", 2)),
    quotas(quota("ip", 2), quota("client-id", 9)), quotas(quota("ip", 2), quota("user", 2)),
    quotas(quota("client-id", 1), quota("ip", 0, "1.2.3.4")), quotas(quota("user", 1), quota("client-id", 2)),
    ("DescribeUserScramCredentials", 0, {"Users": None}), scram(), scram("a"), scram("a", "a", "", "b"),
    features(version=0), features(), features(version=2), features(("nope", 1), version=0), features(("nope", 1)),
    features(("nope", 1), version=2), features(("nope", 0)), features(("nope", -1)), features(("nope", 1, 0)),
    features(("", 1)), features(("metadata.version", 27)), features(("metadata.version", 27, 9)),
    features(("metadata.version", 27), ("nope", 1)), features(("nope1", 1), ("nope2", 1)),
    features(("metadata.version", -1, 3)),
    quorum(0, ("__cluster_metadata", [0])), quorum(1, ("__cluster_metadata", [0])),
    quorum(2, ("__cluster_metadata", [0])), quorum(2), quorum(2, ("t1", [0])), quorum(2, ("__cluster_metadata", [1])),
    quorum(1, ("__cluster_metadata", [0, 0])), quorum(2, ("__cluster_metadata", [0]), ("t1", [0])),
    quorum(2, ("__cluster_metadata", [])),
    acls(1), acls(2), acls(), acls(1, PatternTypeFilter=2), acls(ResourceTypeFilter=99), acls(PermissionType=-1),
    acls(ResourceTypeFilter=0), acls(PatternTypeFilter=0), acls(Operation=0), acls(PermissionType=0),
    ("GetTelemetrySubscriptions", 0, {"ClientInstanceId": NOBODY}),
    ("GetTelemetrySubscriptions", 0, {"ClientInstanceId": SOMEBODY}),
    ("PushTelemetry", 0, {"ClientInstanceId": NOBODY, "SubscriptionId": 1, "Metrics": "x"}),
    ("PushTelemetry", 0, {"ClientInstanceId": "d790feac-cd68-41ae-8077-cd24fc69c2c8", "SubscriptionId": 1,
                          "Metrics": ""}),
    ("DescribeCluster", 0, {"IncludeClusterAuthorizedOperations": True}),
]

# What no two servers say alike, by its name: only that it is there is compared, and its type.
OF_THE_MOMENT = {"LogDir", "TotalBytes", "UsableBytes", "PartitionSize", "HighWatermark", "LogEndOffset",
                 "LastFetchTimestamp", "LastCaughtUpTimestamp", "SubscriptionId", "ClusterId", "Host", "Port"}
LISTENER = {"Nodes": lambda nodes: [{**n, "Listeners": len(n["Listeners"])} for n in nodes]}


def comparable(value, request, name=None):
    """An answer without what differs from moment to moment, and in an order of its own."""
    if isinstance(value, dict):
        return {k: comparable(LISTENER.get(k, lambda v: v)(v), request, k) for k, v in value.items()}
    if isinstance(value, list):
        items = [comparable(v, request) for v in value]
        return sorted(items, key=lambda x: json.dumps(x, sort_keys=True)) if name != "AcceptedCompressionTypes" else items
    if isinstance(value, uuid.UUID):
        value = str(value)
    if name == "ClientInstanceId":
        return value if request.get(name) == value else "another"
    return type(value).__name__ if name in OF_THE_MOMENT else value


def converse(port, api, version, request):
    fields = {f.name: f for f in APIS[api].request.fields}
    native = {k: uuid.UUID(v) if fields[k].kind == "uuid" else v for k, v in request.items()}
    try:
        return comparable(ask(port, api, version, **native), request)
    except ConnectionError:
        return CLOSED


def case_id(case):
    return f"{CASES.index(case)}-{case[0]}-v{case[1]}"


@pytest.fixture(scope="module")
def c(module_factory):
    return module_factory(streams=[{"name": "t1", "filters": ["t1/#"], "partitions": 2}], server={"node.id": 1})


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_answers_are_kafkas(c, case):
    api, version, request = case
    kafka = next(a["answer"] for a in json.loads(ANSWERS.read_text())
                 if (a["api"], a["version"], a["request"]) == (api, version, request))
    assert converse(c.server.port, api, version, request) == kafka


def test_every_answer_of_kafka_is_compared():
    known = [(a["api"], a["version"], a["request"]) for a in json.loads(ANSWERS.read_text())]
    assert known == [tuple(case) for case in CASES]


# --- where we differ, and why ---------------------------------------------------------------------


def test_features_have_one_level_each(c):
    """Kafka supports a range and lets it be changed; here a level is what the server was built for."""
    answer = ask(c.server.port, "ApiVersions", 4, ClientSoftwareName="test", ClientSoftwareVersion="1")
    supported = {f["Name"]: (f["MinVersion"], f["MaxVersion"]) for f in answer["SupportedFeatures"]}
    finalized = {f["Name"]: (f["MinVersionLevel"], f["MaxVersionLevel"]) for f in answer["FinalizedFeatures"]}
    assert supported == finalized, "what is supported is more than what UpdateFeatures takes"
    assert supported["metadata.version"] == (27, 27) and supported["group.version"] == (1, 1)
    assert answer["FinalizedFeaturesEpoch"] >= 0
    for name, (_, level) in supported.items():
        assert level > 0, "a level of 0 says that the feature is not there"
        for other in (0, level - 1, level + 1):
            for kind in (1, 2, 3):
                api, version, request = features((name, other, kind))
                refused = ask(c.server.port, api, version, **request)
                assert refused["ErrorCode"] == 95 and refused["Results"] == []
                assert f"only supports versions {level}-{level}" in refused["ErrorMessage"]


def test_features_are_told_in_every_version_that_has_them(c):
    for version in (3, 4):
        answer = ask(c.server.port, "ApiVersions", version, ClientSoftwareName="test", ClientSoftwareVersion="1")
        assert "metadata.version" in {f["Name"] for f in answer["FinalizedFeatures"]}
        # What begins at 0 clients before version 4 cannot read: here nothing does.
        assert min(f["MinVersion"] for f in answer["SupportedFeatures"]) > 0
    assert "FinalizedFeatures" not in ask(c.server.port, "ApiVersions", 2)


def test_client_metrics_are_not_offered(c):
    """As in Kafka without a plugin for them: Java's clients push what they find an address for."""
    keys = {k["ApiKey"] for k in ask(c.server.port, "ApiVersions", 0)["ApiKeys"]}
    assert keys & {71, 72} == set()
    assert {29, 35, 43, 46, 48, 50, 55, 57} <= keys


def test_operations_that_anyone_may_do_are_told_when_asked(c):
    with Wire(c.server.port) as w:
        topic = w.call("Metadata", 12, Topics=None, IncludeTopicAuthorizedOperations=True)["Topics"][0]
        assert topic["TopicAuthorizedOperations"] == 1 << 3 | 1 << 8 | 1 << 10, "a captured topic is only read"
        topic = w.call("Metadata", 12, Topics=None)["Topics"][0]
        assert topic["TopicAuthorizedOperations"] == -2147483648
        asked = w.call("Metadata", 8, Topics=[], IncludeClusterAuthorizedOperations=True)
        assert asked["ClusterAuthorizedOperations"] == 8096
        group = w.call("DescribeGroups", 5, Groups=["g"], IncludeAuthorizedOperations=True)["Groups"][0]
        assert group["AuthorizedOperations"] == 3400


# --- sizes ----------------------------------------------------------------------------------------


def sizes(port, topic):
    answer = ask(port, "DescribeLogDirs", 4, Topics=None)
    (directory,) = answer["Results"]
    assert directory["ErrorCode"] == 0
    (found,) = [t for t in directory["Topics"] if t["Name"] == topic]
    return directory, {p["PartitionIndex"]: p["PartitionSize"] for p in found["Partitions"]}


def fetched_bytes(port, partition, end):
    """The bytes of a partition's batches, as a consumer gets them."""
    with Wire(port) as w:
        offset = size = 0
        while offset < end:
            answer = w.call("Fetch", 11, MaxWaitMs=0, MinBytes=0, Topics=[{"Topic": "t1", "Partitions": [
                {"Partition": partition, "FetchOffset": offset, "PartitionMaxBytes": 8 << 20}]}], ReplicaId=-1)
            records = answer["Responses"][0]["Partitions"][0]["Records"]
            assert records, "there is more to read"
            size += len(records)
            at = 0
            while at < len(records):
                base = int.from_bytes(records[at:at + 8], "big")
                offset = base + int.from_bytes(records[at + 23:at + 27], "big") + 1
                at += 12 + int.from_bytes(records[at + 8:at + 12], "big")
        return size


def test_sizes_are_those_of_the_batches(module_factory):
    """Little is only in what is added up, much is mostly in the index's rows: exact both times."""
    c = module_factory(streams=[{"name": "t1", "filters": ["t1/#"], "partitions": 2}])
    assert sizes(c.server.port, "t1")[1] == {0: 0, 1: 0}
    count = 0
    for payload, messages in ((b"x" * 50, 20), (bytes(range(256)) * 40, 700)):
        c.publish("t1/a", [payload] * messages)
        count += messages
        assert len(read_all(c.bootstrap, "t1", count)) == count
        ends = ask(c.server.port, "ListOffsets", 4, ReplicaId=-1, Topics=[{"Name": "t1", "Partitions": [
            {"PartitionIndex": p, "Timestamp": -1} for p in (0, 1)]}])["Topics"][0]["Partitions"]
        ends = {p["PartitionIndex"]: p["Offset"] for p in ends}
        directory, known = sizes(c.server.port, "t1")
        assert known == {p: fetched_bytes(c.server.port, p, ends[p]) for p in ends}
        assert directory["LogDir"] == str(c.data)
        assert 0 < directory["UsableBytes"] <= directory["TotalBytes"]


def test_sizes_without_a_data_directory_are_an_error_of_the_disk(culex_factory):
    c = culex_factory(start=False)
    c.data.rmdir()
    c.server.start()
    (directory,) = ask(c.server.port, "DescribeLogDirs", 4, Topics=None)["Results"]
    assert directory["ErrorCode"] == 56 and directory["Topics"] == []


def test_who_asks_for_sizes_and_leaves_harms_nobody(c):
    for _ in range(50):
        w = Wire(c.server.port)
        w.send("DescribeLogDirs", 4, Topics=None)
        w.s.close()
    assert sizes(c.server.port, "t1")[1].keys() == {0, 1}


# --- bad input ------------------------------------------------------------------------------------


def test_large_requests_are_answered_or_closed_and_cost_little(c):
    before = c.server.memory_kb()
    many = 50_000
    asked = [
        ("ElectLeaders", 2, {"TopicPartitions": [{"Topic": "t1", "Partitions": list(range(many))}]}),
        ("ElectLeaders", 2, {"TopicPartitions": [{"Topic": "n" * 30000, "Partitions": [0] * many}]}),
        ("DescribeLogDirs", 4, {"Topics": [{"Topic": "t1", "Partitions": [0] * many}]}),
        ("DescribeLogDirs", 4, {"Topics": [{"Topic": "t1", "Partitions": []}] * many}),
        ("DescribeUserScramCredentials", 0, {"Users": [{"Name": f"u{i}"} for i in range(many)]}),
        ("DescribeUserScramCredentials", 0, {"Users": [{"Name": "u"}] * many}),
        ("UpdateFeatures", 1, {"FeatureUpdates": [{"Feature": "metadata.version", "MaxVersionLevel": 27}] * many}),
        ("DescribeClientQuotas", 1, {"Components": [quota("user", 2)] * many}),
        ("DescribeQuorum", 2, {"Topics": [{"TopicName": "__cluster_metadata", "Partitions": [
            {"PartitionIndex": 0}] * many}]}),
        ("ListPartitionReassignments", 0, {"Topics": [{"Name": "t1", "PartitionIndexes": [0] * many}]}),
    ]
    for api, version, request in asked:
        try:
            ask(c.server.port, api, version, **request)
        except ConnectionError:
            pass
        assert c.server.running()
    assert c.server.memory_kb() - before < 300 << 10


# --- Kafka's own tools ----------------------------------------------------------------------------


def tool(c, name, *args, seconds=180):
    """Subcommands have their options behind them; but some tools want the address before theirs."""
    address = ["--bootstrap-server", c.bootstrap]
    last = name == "ClusterTool"
    argv = ["java", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{CLIENTS}/java/lib/*",
            f"org.apache.kafka.tools.{name}", *(() if last else address), *args, *(address if last else ())]
    env = {k: v for k, v in os.environ.items() if k != "JAVA_TOOL_OPTIONS"}
    p = subprocess.run(argv, capture_output=True, text=True, timeout=seconds, env=env)
    return p.returncode, p.stdout + p.stderr


@pytest.mark.saw("describes", client="kafka-log-dirs")
def test_kafka_log_dirs(c):
    code, said = tool(c, "LogDirsCommand", "--describe", "--topic-list", "t1")
    told = json.loads(said.splitlines()[-1])["brokers"][0]["logDirs"][0]
    assert code == 0 and told["error"] is None and told["logDir"] == str(c.data)
    assert {p["partition"] for p in told["partitions"]} == {"t1-0", "t1-1"}


@pytest.mark.saw("lists", client="kafka-reassign-partitions")
def test_kafka_reassign_partitions_lists_none(c):
    code, said = tool(c, "reassign.ReassignPartitionsCommand", "--list")
    assert (code, said.strip()) == (0, "No partition reassignments found.")


@pytest.mark.saw("elects", client="kafka-leader-election")
def test_kafka_leader_election_has_nothing_to_do(c):
    code, said = tool(c, "LeaderElectionCommand", "--election-type", "preferred", "--all-topic-partitions")
    assert (code, said.strip()) == (0, "")
    code, said = tool(c, "LeaderElectionCommand", "--election-type", "preferred", "--topic", "t1", "--partition", "1")
    assert code == 0 and "t1-1" in said and "Valid replica already elected" in said


@pytest.mark.saw("describes", "upgrades", client="kafka-features")
def test_kafka_features(c):
    code, said = tool(c, "FeatureCommand", "describe")
    assert code == 0
    assert [line for line in said.splitlines() if line.startswith("Feature: metadata.version")
            and "FinalizedVersionLevel: 4.1-IV1" in line]
    code, said = tool(c, "FeatureCommand", "upgrade", "--metadata", "4.1")
    assert code == 0 and "metadata.version was upgraded to 27." in said
    code, said = tool(c, "FeatureCommand", "downgrade", "--metadata", "4.0", "--unsafe")
    assert code != 0 and "only supports versions 27-27" in said


@pytest.mark.saw("describes", client="kafka-metadata-quorum")
def test_kafka_metadata_quorum(c):
    code, said = tool(c, "MetadataQuorumCommand", "describe", "--status")
    assert code == 0 and "LeaderId:               1" in said and f"127.0.0.1:{c.server.port}" in said
    code, said = tool(c, "MetadataQuorumCommand", "describe", "--replication")
    assert code == 0 and [line for line in said.splitlines() if line.startswith("1 ") and "Leader" in line]


@pytest.mark.saw("lists endpoints", client="kafka-cluster")
@pytest.mark.saw("lists", client="kafka-broker-api-versions")
def test_kafka_api_versions_and_endpoints(c):
    code, said = tool(c, "BrokerApiVersionsCommand")
    assert code == 0
    usable = {line.split("(")[0].strip() for line in said.splitlines() if "[usable:" in line}
    assert {"DescribeLogDirs", "DescribeQuorum", "ElectLeaders", "UpdateFeatures", "DescribeAcls"} <= usable
    code, said = tool(c, "ClusterTool", "list-endpoints")
    assert code == 0 and said.splitlines()[-1].split()[:3] == ["1", "127.0.0.1", str(c.server.port)]


@pytest.mark.saw("lists", client="kafka-client-metrics")
def test_kafka_client_metrics_lists_none(c):
    code, said = tool(c, "ClientMetricsCommand", "--list")
    assert (code, said.strip()) == (0, "")


def test_confluent_admin_describes_users_and_operations(c):
    from confluent_kafka.admin import AdminClient
    admin = AdminClient({"bootstrap.servers": c.bootstrap})
    cluster = admin.describe_cluster(include_authorized_operations=True).result(60)
    assert cluster.controller.id == 1 and cluster.authorized_operations
    assert admin.describe_user_scram_credentials().result(60) == {}


def record(port):
    known = {t["Name"] for t in ask(port, "Metadata", 12, Topics=None)["Topics"]}
    if "t1" not in known:
        ask(port, "CreateTopics", 7, Topics=[{"Name": "t1", "NumPartitions": 2, "ReplicationFactor": 1}])
        wait_until("the log directory knows the topic", lambda: ask(port, "DescribeLogDirs", 4, Topics=[
            {"Topic": "t1", "Partitions": [0, 1]}])["Results"][0]["Topics"])
    others = known - {"t1"}
    assert not others, f"a new Kafka is needed; this one has {others}"
    rows = [{"api": a, "version": v, "request": r, "answer": converse(port, a, v, r)} for a, v, r in CASES]
    ANSWERS.write_text("[\n" + ",\n".join(json.dumps(r, sort_keys=True) for r in rows) + "\n]\n")


if __name__ == "__main__":
    record(int(sys.argv[1]))
