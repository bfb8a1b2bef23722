"""Every API in every version that the server offers: asked and read with Kafka's own message classes.

The requests ask for what is there, with random values in the fields that do not matter. An answer that Kafka's
reader does not take, with bytes left over, or none, is a failure, and so is an error code that does not belong there.
"""

import re
import subprocess

import pytest
from harness import ROOT

# What each API may say. 23: no protocol is named; 25: nobody is a member yet; 42: asked for twice, or senseless; 44: not
# allowed here; 69: no such group; 79: join again with the id given.
ERRORS = {
    "Produce": {44},
    "Fetch": {0, 1},  # its last fetched epoch is at random, and may never have been
    "JoinGroup": {0, 79},
    "Heartbeat": {25},
    "LeaveGroup": {0, 25},
    "SyncGroup": {23, 25},
    "DescribeGroups": {0, 69},
    "DeleteGroups": {69},
    "OffsetDelete": {69},
    "DescribeAcls": {54},
    "ElectLeaders": {0, 3, 42, 84},
    "DescribeClientQuotas": {0, 35, 42},
    "DescribeUserScramCredentials": {0, 91, 92},
    "DescribeQuorum": {0, 3},
    "UpdateFeatures": {0, 95},
    "CreateTopics": {36, 42},
    "DeleteTopics": {3, 42, 44},
    "DeleteRecords": {0, 1},
    "CreatePartitions": {42, 44},
    "AlterConfigs": {42, 44},
    "IncrementalAlterConfigs": {42, 44},
    "ListConfigResources": {0, 35},
    "Metadata": {0, 42},
    "InitProducerId": {0, 42},
    "AddPartitionsToTxn": {0, 3, 44, 49, 55},
    "AddOffsetsToTxn": {49},
    "EndTxn": {49},
    "TxnOffsetCommit": {49},
    "WriteTxnMarkers": {44},
    "DescribeTransactions": {105},
    "ConsumerGroupHeartbeat": {0, 42},
    "ConsumerGroupDescribe": {69},
}
# What Kafka 4.1 serves: a version less would be noticed by a client, a gap too.
OFFERED = {
    "Produce": (3, 13), "Fetch": (4, 18), "ListOffsets": (1, 10), "Metadata": (0, 13), "OffsetCommit": (2, 10),
    "OffsetFetch": (1, 10), "FindCoordinator": (0, 6), "JoinGroup": (0, 9), "Heartbeat": (0, 4),
    "LeaveGroup": (0, 5), "SyncGroup": (0, 5), "DescribeGroups": (0, 6), "ListGroups": (0, 5),
    "ApiVersions": (0, 4), "OffsetForLeaderEpoch": (2, 4), "DescribeConfigs": (1, 4),
    "DeleteGroups": (0, 2), "OffsetDelete": (0, 0), "DescribeCluster": (0, 2),
    "DescribeTopicPartitions": (0, 0), "DescribeAcls": (1, 3), "DescribeLogDirs": (1, 4), "ElectLeaders": (0, 2),
    "ListPartitionReassignments": (0, 0), "DescribeClientQuotas": (0, 1), "DescribeUserScramCredentials": (0, 0),
    "DescribeQuorum": (0, 2), "UpdateFeatures": (0, 2), "CreateTopics": (2, 7), "DeleteTopics": (1, 6),
    "DeleteRecords": (0, 2), "CreatePartitions": (0, 3), "AlterConfigs": (0, 2), "IncrementalAlterConfigs": (0, 1),
    "ListConfigResources": (0, 1), "InitProducerId": (0, 5), "AddPartitionsToTxn": (0, 5), "AddOffsetsToTxn": (0, 4),
    "EndTxn": (0, 5), "WriteTxnMarkers": (1, 1), "TxnOffsetCommit": (0, 5), "DescribeProducers": (0, 0),
    "DescribeTransactions": (0, 0), "ListTransactions": (0, 2), "ConsumerGroupHeartbeat": (0, 1),
    "ConsumerGroupDescribe": (0, 1),
}


@pytest.fixture(scope="module")
def oracle():
    subprocess.run(["make", "-s", "codec-oracle"], cwd=ROOT, check=True)
    made = ROOT / "build" / "release" / "codec"
    return ["java", "-cp", f"{made}:{made}/lib/*", "CodecOracle"]


@pytest.fixture(scope="module")
def c(module_factory):
    culex = module_factory()
    culex.publish("demo/x", [str(i) for i in range(100)])
    return culex


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_kafka_reads_every_answer(c, oracle, seed):
    said = subprocess.run(oracle + ["ask", str(c.server.port), "demo", str(seed)],
                          capture_output=True, text=True, timeout=240)
    assert said.returncode == 0, said.stderr
    answers = re.findall(r"^(\w+) v(\d+) (.*)$", said.stdout, re.M)
    wrong = []
    for api, version, result in answers:
        errors = re.fullmatch(r"errors=\[([\d, -]*)\]", result)
        codes = {int(e) for e in errors[1].split(",") if e} if errors else None
        if codes is None or not codes <= ERRORS.get(api, {0}):
            wrong.append(f"{api} v{version}: {result}")
    assert not wrong, "\n".join(wrong)
    offered = {}
    for api, version, _ in answers:
        offered.setdefault(api, []).append(int(version))
    for api, (first, last) in OFFERED.items():
        assert offered.get(api) == list(range(first, last + 1)), f"{api}: {offered.get(api)}"
    assert "reply lost" not in c.server.log()


@pytest.mark.sanitized
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_senseless_requests_are_answered_or_refused(c, oracle, seed):
    said = subprocess.run(oracle + ["wild", str(c.server.port), "demo", str(seed)],
                          capture_output=True, text=True, timeout=240)
    assert said.returncode == 0, said.stderr
    # A closed connection is a refusal; a late or a garbled answer is not.
    wrong = [line for line in said.stdout.splitlines()
             if "no answer" in line and "EOFException" not in line]
    assert not wrong, "\n".join(wrong)
    assert said.stdout.count("errors=") > 100
    assert c.server.running(), c.server.log()
    assert "reply lost" not in c.server.log()
