"""Streams of clients: made, deleted, grown, emptied and configured, as Apache Kafka 4.1 does it."""

import os
import random
import re
import subprocess
import threading
import time
import uuid

import pytest
from harness import CLIENTS, end_offsets, slowness, wait_until, within
from test_produce import batch, processor_ticks, produce
from wire import Wire

NONE, OUT_OF_RANGE, UNKNOWN_TOPIC, TOO_LARGE = 0, 1, 3, 10
INVALID_TOPIC, EXISTS, PARTITIONS, REPLICATION, ASSIGNMENT, CONFIG, REQUEST, POLICY = 17, 36, 37, 38, 39, 40, 42, 44
DELETION_DISABLED, UNKNOWN_ID = 73, 100
TOPIC, BROKER, LOGGER, METRICS, GROUP = 2, 4, 8, 16, 32
SET, DELETE, APPEND, SUBTRACT = range(4)
NO_ID = uuid.UUID(int=0)


@pytest.fixture
def server(culex_factory):
    culex = culex_factory(start=False, streams=[])
    culex.server.start()
    return culex


@pytest.fixture
def w(server):
    with Wire(server.server.port) as wire:
        yield wire


def wanted(name, partitions=-1, replication=-1, assignments=(), configs=()):
    return {"Name": name, "NumPartitions": partitions, "ReplicationFactor": replication,
            "Assignments": [{"PartitionIndex": p, "BrokerIds": ids} for p, ids in assignments],
            "Configs": [{"Name": k, "Value": v} for k, v in configs]}


def create(w, *topics, version=7, validate_only=False):
    a = w.call("CreateTopics", version, Topics=list(topics), timeoutMs=10000, validateOnly=validate_only)
    return {t["Name"]: t for t in a["Topics"]}


def made(w, name, partitions=1, **configs):
    """Makes a topic; returns its id."""
    t = create(w, wanted(name, partitions, configs=[(k.replace("_", "."), v) for k, v in configs.items()]))[name]
    assert t["ErrorCode"] == NONE, t
    return t["TopicId"]


def delete(w, *names, ids=(), version=6):
    if version < 6:
        a = w.call("DeleteTopics", version, TopicNames=list(names), TimeoutMs=1000)
    else:
        a = w.call("DeleteTopics", version, TimeoutMs=1000, Topics=[{"Name": n, "TopicId": NO_ID} for n in names] +
                   [{"Name": None, "TopicId": i} for i in ids])
    return a["Responses"]


def known(w):
    """Partitions of all topics by name."""
    return {t["Name"]: len(t["Partitions"]) for t in w.call("Metadata", 12, Topics=None)["Topics"]}


def grow(w, name, count, assignments=None, version=3, validate_only=False):
    a = w.call("CreatePartitions", version, TimeoutMs=1000, ValidateOnly=validate_only, Topics=[
        {"Name": name, "Count": count, "Assignments": assignments and [{"BrokerIds": b} for b in assignments]}])
    (r,) = a["Results"]
    return r["ErrorCode"], r["ErrorMessage"]


def alter(w, name, *ops, kind=TOPIC, version=1, validate_only=False):
    a = w.call("IncrementalAlterConfigs", version, ValidateOnly=validate_only, Resources=[
        {"ResourceType": kind, "ResourceName": name,
         "Configs": [{"Name": k, "ConfigOperation": op, "Value": v} for k, op, v in ops]}])
    (r,) = a["Responses"]
    assert (r["ResourceType"], r["ResourceName"]) == (kind, name)
    return r["ErrorCode"], r["ErrorMessage"]


def replace(w, name, configs, kind=TOPIC, version=2):
    a = w.call("AlterConfigs", version, Resources=[
        {"ResourceType": kind, "ResourceName": name, "Configs": [{"Name": k, "Value": v} for k, v in configs.items()]}])
    (r,) = a["Responses"]
    return r["ErrorCode"], r["ErrorMessage"]


def describe(w, name, *keys, kind=TOPIC, version=4):
    a = w.call("DescribeConfigs", version, IncludeSynonyms=True, IncludeDocumentation=True, Resources=[
        {"ResourceType": kind, "ResourceName": name, "ConfigurationKeys": list(keys) or None}])
    (r,) = a["Results"]
    return r["ErrorCode"], r["ErrorMessage"], {c["Name"]: c for c in r["Configs"]}


def explicit(w, name):
    """What was set, and nothing else."""
    return {k: c["Value"] for k, c in describe(w, name)[2].items() if c["ConfigSource"] == 1}


def trim(w, name, version=2, **offsets):
    a = w.call("DeleteRecords", version, TimeoutMs=1000, Topics=[{"Name": name, "Partitions": [
        {"PartitionIndex": int(p[1:]), "Offset": o} for p, o in offsets.items()]}])
    return {p["PartitionIndex"]: (p["ErrorCode"], p["LowWatermark"]) for p in a["Topics"][0]["Partitions"]}


# --- making ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", range(2, 8))
def test_topics_are_made_at_every_version(w, version):
    t = create(w, wanted("t", 3, 1, configs=[("retention.ms", "1000")]), version=version)["t"]
    assert t["ErrorCode"] == NONE and t["ErrorMessage"] is None
    assert known(w) == {"t": 3}
    if version >= 5:
        assert (t["NumPartitions"], t["ReplicationFactor"]) == (3, 1)
        configs = {c["Name"]: c for c in t["Configs"]}
        assert len(configs) == 33 and configs["retention.ms"]["Value"] == "1000"
        assert configs["retention.ms"]["ConfigSource"] == 1 and configs["segment.bytes"]["ConfigSource"] == 5
    if version >= 7:
        (known_as,) = w.call("Metadata", 12, Topics=None)["Topics"]
        assert t["TopicId"] == known_as["TopicId"] != NO_ID


def test_what_is_not_said_has_the_servers_defaults(w):
    assert create(w, wanted("t"))["t"]["NumPartitions"] == 1
    assert create(w, wanted("u", assignments=[(1, [1]), (0, [1])]))["u"]["NumPartitions"] == 2
    assert known(w) == {"t": 1, "u": 2}


def test_validate_only_says_what_would_be_and_makes_nothing(w):
    got = create(w, wanted("t", 2), wanted("bad", 0), validate_only=True)
    assert got["t"]["ErrorCode"] == NONE and got["t"]["NumPartitions"] == 2 and len(got["t"]["Configs"]) == 33
    assert got["bad"]["ErrorCode"] == PARTITIONS
    assert known(w) == {}


REFUSED = [
    (wanted("exists"), EXISTS, "Topic 'exists' already exists."),
    (wanted(""), INVALID_TOPIC, "Topic name is invalid: the empty string is not allowed"),
    (wanted(".."), INVALID_TOPIC, "Topic name is invalid: '..' is not allowed"),
    (wanted("a b"), INVALID_TOPIC, "'a b' contains one or more characters other than ASCII alphanumerics"),
    (wanted("x" * 250), INVALID_TOPIC, "is longer than the max allowed length 249"),
    (wanted("a_b"), INVALID_TOPIC, "Topic 'a_b' collides with existing topic: a.b"),
    (wanted("__consumer_offsets"), EXISTS, "already exists"),
    (wanted("__cluster_metadata"), REQUEST, "Creation of internal topic __cluster_metadata is prohibited."),
    (wanted("t", 0), PARTITIONS, "Number of partitions was set to an invalid non-positive value."),
    (wanted("t", -2), PARTITIONS, "Number of partitions was set to an invalid non-positive value."),
    (wanted("t", 10001), PARTITIONS, "A topic has at most 10000 partitions here, not 10001."),
    (wanted("t", 2**31 - 1), PARTITIONS, "at most 10000"),
    (wanted("t", 1, 0), REPLICATION, "Replication factor must be larger than 0, or -1 to use the default value."),
    (wanted("t", 1, -2), REPLICATION, "Replication factor must be larger than 0"),
    (wanted("t", 1, 3), REPLICATION, "Unable to replicate the partition 3 time(s): The target replication factor of 3 "
     "cannot be reached because only 1 broker(s) are registered."),
    (wanted("t", 1, -1, [(0, [1])]), REQUEST, "but numPartitions was not set to -1"),
    (wanted("t", -1, 1, [(0, [1])]), REQUEST, "but replication factor was not set to -1"),
    (wanted("t", assignments=[(0, [2])]), ASSIGNMENT, "includes broker 2, but no such broker is registered."),
    (wanted("t", assignments=[(0, [1, 2])]), ASSIGNMENT, "includes broker 2, but no such broker is registered."),
    (wanted("t", assignments=[(0, [1, 1])]), ASSIGNMENT, "includes the broker 1 more than once."),
    (wanted("t", assignments=[(0, [])]), ASSIGNMENT, "includes an empty replica list."),
    (wanted("t", assignments=[(0, [1]), (0, [1])]), ASSIGNMENT, "multiple manual partition assignments for partition 0"),
    (wanted("t", assignments=[(0, [1]), (2, [1])]), ASSIGNMENT, "consecutive 0-based integer sequence"),
    (wanted("t", assignments=[(-1, [1])]), ASSIGNMENT, "consecutive 0-based integer sequence"),
    (wanted("t", configs=[("nope", "1")]), CONFIG, "Unknown topic config name: nope"),
    (wanted("t", configs=[("retention.ms", None)]), CONFIG, "Null value not supported for topic configs: retention.ms"),
    (wanted("t", configs=[("cleanup.policy", "compress")]), CONFIG, "String must be one of: compact, delete"),
    (wanted("t", configs=[("min.compaction.lag.ms", "5"), ("max.compaction.lag.ms", "4")]), CONFIG,
     "conflict topic config setting min.compaction.lag.ms (5) > max.compaction.lag.ms (4)"),
    (wanted("t", configs=[("remote.storage.enable", "true")]), CONFIG, "Tiered Storage functionality is disabled"),
]


def test_what_cannot_be_made_is_refused_in_kafkas_words_and_the_rest_is_made(w):
    made(w, "exists")
    made(w, "a.b")
    for topic, code, says in REFUSED:
        good = wanted(f"good{random.random()}"[:20].replace(".", "-"))
        got = create(w, topic, good)
        t = got[topic["Name"]]
        assert (t["ErrorCode"], says in t["ErrorMessage"]) == (code, True), (topic, t)
        assert t["TopicId"] == NO_ID and t["NumPartitions"] == -1 and t["Configs"] == []
        assert got[good["Name"]]["ErrorCode"] == NONE
        assert delete(w, good["Name"])[0]["ErrorCode"] == NONE
    assert set(known(w)) == {"exists", "a.b"}


def test_a_name_that_is_there_twice_is_refused_once(w):
    a = w.call("CreateTopics", 7, Topics=[wanted("t"), wanted("u"), wanted("t"), wanted("t")], timeoutMs=1)
    got = [(t["Name"], t["ErrorCode"], t["ErrorMessage"]) for t in a["Topics"]]
    assert sorted(got) == [("t", REQUEST, "Duplicate topic name."), ("u", NONE, None)]
    assert known(w) == {"u": 1}


@pytest.mark.sanitized
def test_a_hundred_thousand_names_are_answered_soon(server, w):
    same = [wanted("t", 0) for _ in range(100_000)]
    other = [wanted(f"n{i}", 0) for i in range(100_000)]
    begun = time.monotonic()
    assert len(create(w, *same)) == 1
    got = create(w, *other)
    assert len(got) == 100_000 and {t["ErrorCode"] for t in got.values()} == {PARTITIONS}
    assert time.monotonic() - begun < 400  # with the sanitizers, on a slow machine; a list gone through for each is hours
    assert known(w) == {} and server.server.running()


# --- deleting ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", range(1, 7))
def test_topics_are_deleted_at_every_version(w, version):
    made(w, "t"), made(w, "u")
    got = delete(w, "t", "no", version=version)
    assert sorted((r["Name"], r["ErrorCode"]) for r in got) == [("no", UNKNOWN_TOPIC), ("t", NONE)]
    assert known(w) == {"u": 1}


def test_topics_are_deleted_by_id(w):
    t, u, v = made(w, "t"), made(w, "u"), made(w, "v")
    wrong = uuid.uuid4()
    got = delete(w, "u", "x", "x", ids=[t, u, wrong, NO_ID])
    assert {(r["Name"], r["TopicId"]): r["ErrorCode"] for r in got} == {
        ("t", t): NONE, ("u", u): REQUEST, (None, wrong): UNKNOWN_ID, (None, NO_ID): REQUEST, ("x", NO_ID): REQUEST}
    assert set(known(w)) == {"u", "v"}
    (both,) = w.call("DeleteTopics", 6, TimeoutMs=1, Topics=[{"Name": "v", "TopicId": v}])["Responses"]
    assert both["ErrorCode"] == REQUEST and both["ErrorMessage"] == "You may not specify both topic name and topic id."
    got = delete(w, ids=[u, u, v])
    assert {r["TopicId"]: r["ErrorCode"] for r in got} == {u: REQUEST, v: NONE}
    assert set(known(w)) == {"u"}


def test_deletion_can_be_forbidden(culex_factory):
    c = culex_factory(start=False, streams=[], server={"delete.topic.enable": False})
    c.server.start()
    with Wire(c.server.port) as w:
        made(w, "t")
        assert [r["ErrorCode"] for r in delete(w, "t", "no")] == [DELETION_DISABLED] * 2
        assert [r["ErrorCode"] for r in delete(w, "t", version=2)] == [REQUEST]
        assert known(w) == {"t": 1}


def test_a_topic_made_anew_is_another_everywhere(server, w):
    old = made(w, "t")
    produce(w, {"t": {0: batch([b"old"])}})
    offsets = [{"Name": "t", "Partitions": [{"PartitionIndex": 0, "CommittedOffset": 1}]}]
    by_id = [{"TopicId": old, "Partitions": [{"PartitionIndex": 0, "CommittedOffset": 1}]}]
    commit = {"GroupId": "g", "GenerationIdOrMemberEpoch": -1, "MemberId": ""}
    assert w.call("OffsetCommit", 9, Topics=offsets, **commit)["Topics"][0]["Partitions"][0]["ErrorCode"] == NONE
    assert w.call("OffsetCommit", 10, Topics=by_id, **commit)["Topics"][0]["Partitions"][0]["ErrorCode"] == NONE
    assert delete(w, "t")[0]["ErrorCode"] == NONE
    new = made(w, "t")
    assert new != old
    fetch = {"MaxWaitMs": 0, "MinBytes": 0, "MaxBytes": 1000, "SessionEpoch": -1}
    part = {"Partition": 0, "FetchOffset": 0, "PartitionMaxBytes": 1000}
    for i, code in ((old, UNKNOWN_ID), (new, NONE)):
        a = w.call("Fetch", 13, Topics=[{"TopicId": i, "Partitions": [part]}], **fetch)
        (p,) = a["Responses"][0]["Partitions"]
        assert (p["ErrorCode"], p["HighWatermark"] <= 0) == (code, True), p
        (t,) = w.call("Metadata", 12, Topics=[{"TopicId": i, "Name": None}])["Topics"]
        assert t["ErrorCode"] == code
        got = produce(w, {"t": {0: batch([b"new"])}}, version=13, names={"t": i})
        assert got[i][0]["ErrorCode"] == code
    a = w.call("OffsetCommit", 10, Topics=by_id, **commit)
    assert a["Topics"][0]["Partitions"][0]["ErrorCode"] == UNKNOWN_ID
    a = w.call("OffsetFetch", 9, RequireStable=False, Groups=[
        {"GroupId": "g", "Topics": [{"Name": "t", "PartitionIndexes": [0]}]}])
    assert a["Groups"][0]["Topics"][0]["Partitions"][0]["CommittedOffset"] == -1
    assert end_offsets(server.bootstrap, "t") == {0: (0, 1)}


def test_a_session_hears_that_its_topic_was_made_anew(w):
    old = made(w, "t")
    part = {"Partition": 0, "FetchOffset": 0, "PartitionMaxBytes": 1000}
    fetch = {"MaxWaitMs": 0, "MinBytes": 0, "MaxBytes": 1000}
    a = w.call("Fetch", 13, SessionId=0, SessionEpoch=0, Topics=[{"TopicId": old, "Partitions": [part]}], **fetch)
    session = a["SessionId"]
    assert session != 0 and a["ErrorCode"] == NONE
    delete(w, "t")
    new = made(w, "t")
    a = w.call("Fetch", 13, SessionId=session, SessionEpoch=1, Topics=[], **fetch)
    ((told,),) = [t["Partitions"] for t in a["Responses"]]
    assert (a["Responses"][0]["TopicId"], told["ErrorCode"]) == (old, UNKNOWN_ID)
    assert new != old


def test_topics_are_deleted_and_made_anew_under_producers(server):
    """Producers hear of it and go on; what the newest topic answered is there, dense, and nothing of the older ones."""
    from confluent_kafka import Consumer, Producer, TopicPartition
    stop = threading.Event()
    acked, errors = [], []

    def write():
        p = Producer({"bootstrap.servers": server.bootstrap, "message.timeout.ms": 3000, "linger.ms": 1,
                      "topic.metadata.refresh.interval.ms": 50})
        n = 0
        while not stop.is_set():
            n += 1
            try:
                p.produce("t", str(n).encode(), partition=0,
                          on_delivery=lambda e, m: errors.append(e.name()) if e else acked.append((m.offset(), m.value())))
            except BufferError:
                pass
            p.poll(0.001)
        p.flush(60)

    with Wire(server.server.port) as w:
        made(w, "t")
        writers = [threading.Thread(target=write) for _ in range(3)]
        for t in writers:
            t.start()
        ids = set()
        for _ in range(15):
            seen = len(acked)
            wait_until("some are written", lambda: len(acked) > seen + 20)
            assert delete(w, "t")[0]["ErrorCode"] == NONE
            t = create(w, wanted("t"))["t"]
            assert t["ErrorCode"] in (NONE, EXISTS)  # a producer that asks for it makes it, too
            ids.add(t["TopicId"])
        assert len(ids - {NO_ID}) > 1
        last = len(acked)
        wait_until("some are written to the last one", lambda: len(acked) > last + 50)
        stop.set()
        for t in writers:
            t.join(60)
        (_, end) = end_offsets(server.bootstrap, "t")[0]
    assert {"MSG_TIMED_OUT"} >= {e.lstrip("_") for e in errors} - {"UNKNOWN_TOPIC_OR_PART", "UNKNOWN_TOPIC_ID", "UNKNOWN_TOPIC"}
    c = Consumer({"bootstrap.servers": server.bootstrap, "group.id": "g"})
    c.assign([TopicPartition("t", 0, 0)])
    got = []
    while len(got) < end:
        m = c.poll(60)
        assert m is not None and m.error() is None
        got.append((m.offset(), m.value()))
    c.close()
    assert [o for o, _ in got] == list(range(end))
    assert len(set(got) & set(acked)) >= 50
    assert server.server.running() and " error " not in server.server.log()


# --- partitions and records --------------------------------------------------------------------------


@pytest.mark.parametrize("version", range(4))
def test_partitions_are_added_at_every_version(server, w, version):
    made(w, "t", 2), made(w, "between", 3)
    produce(w, {"t": {0: batch([b"a"]), 1: batch([b"b", b"c"])}, "between": {0: batch([b"d"])}})
    assert grow(w, "t", 5, version=version) == (NONE, None)
    assert known(w) == {"t": 5, "between": 3}
    got = produce(w, {"t": {p: batch([b"e"]) for p in range(5)}})["t"]
    assert [got[p]["BaseOffset"] for p in range(5)] == [1, 2, 0, 0, 0]
    assert end_offsets(server.bootstrap, "between")[0] == (0, 1)


def test_partitions_are_not_added_for_reasons_that_kafka_has(w):
    made(w, "t", 2)
    for count, assignments, code, says in (
            (2, None, PARTITIONS, "Topic already has 2 partition(s)."),
            (1, None, PARTITIONS, "The topic t currently has 2 partition(s); 1 would not be an increase."),
            (-1, None, PARTITIONS, "would not be an increase"),
            (10001, None, PARTITIONS, "at most 10000"),
            (4, [[1]], ASSIGNMENT, "Attempted to add 2 additional partition(s), but only 1 assignment(s) were specified."),
            (3, [[7]], ASSIGNMENT, "includes broker 7, but no such broker is registered."),
            (3, [[]], ASSIGNMENT, "empty replica list")):
        got = grow(w, "t", count, assignments)
        assert (got[0], says in got[1]) == (code, True), got
    assert grow(w, "no", 3)[0] == UNKNOWN_TOPIC
    assert grow(w, "t", 4, validate_only=True) == (NONE, None)
    assert known(w) == {"t": 2}
    assert grow(w, "t", 4, [[1], [1]]) == (NONE, None)
    assert known(w) == {"t": 4}


@pytest.mark.parametrize("version", range(3))
def test_records_are_deleted_up_to_an_offset(server, w, version):
    made(w, "t", 3)
    produce(w, {"t": {0: batch([b"v"] * 10), 1: batch([b"v"] * 10)}})
    assert trim(w, "t", version, p0=3, p1=-1, p2=0) == {0: (NONE, 3), 1: (NONE, 10), 2: (NONE, 0)}
    assert trim(w, "t", version, p0=2, p1=11, p2=-2, p3=0) == {
        0: (NONE, 3), 1: (OUT_OF_RANGE, -1), 2: (OUT_OF_RANGE, -1), 3: (UNKNOWN_TOPIC, -1)}
    assert trim(w, "no", version, p0=0) == {0: (UNKNOWN_TOPIC, -1)}
    assert end_offsets(server.bootstrap, "t") == {0: (3, 10), 1: (10, 10), 2: (0, 0)}
    server.server.kill9()
    server.server.start()
    assert end_offsets(server.bootstrap, "t") == {0: (3, 10), 1: (10, 10), 2: (0, 0)}


def test_records_of_a_compacted_topic_are_not_deleted(w):
    made(w, "t", cleanup_policy="compact"), made(w, "u", cleanup_policy="compact,delete")
    assert trim(w, "t", p0=0) == {0: (POLICY, -1)}
    assert trim(w, "u", p0=0) == {0: (NONE, 0)}


# --- configs -----------------------------------------------------------------------------------------


def test_configs_are_set_deleted_appended_and_subtracted(w):
    made(w, "t")
    assert explicit(w, "t") == {}
    assert alter(w, "t", ("retention.ms", SET, " 5000 "), ("cleanup.policy", APPEND, "compact")) == (NONE, None)
    assert explicit(w, "t") == {"retention.ms": "5000", "cleanup.policy": "delete,compact"}
    assert alter(w, "t", ("cleanup.policy", SUBTRACT, "delete"), ("retention.ms", DELETE, None)) == (NONE, None)
    assert explicit(w, "t") == {"cleanup.policy": "compact"}
    assert alter(w, "t", ("retention.ms", SET, "7"), validate_only=True) == (NONE, None)
    assert explicit(w, "t") == {"cleanup.policy": "compact"}
    assert replace(w, "t", {"retention.bytes": "9"}) == (NONE, None)
    assert explicit(w, "t") == {"retention.bytes": "9"}
    assert replace(w, "t", {}) == (NONE, None)
    assert explicit(w, "t") == {}


def test_a_change_with_one_mistake_changes_nothing(w):
    made(w, "t")
    for ops, code, says in (
            ([("retention.ms", SET, "5"), ("nope", SET, "5")], CONFIG, "Unknown topic config name: nope"),
            ([("retention.ms", SET, "5"), ("segment.ms", SET, "0")], CONFIG,
             "Invalid value 0 for configuration segment.ms: Value must be at least 1"),
            ([("retention.ms", APPEND, "5")], CONFIG, "Can't APPEND to key retention.ms because its type is not LIST."),
            ([("retention.ms", SET, None)], REQUEST, "Null value not supported for : retention.ms"),
            ([("retention.ms", SET, "5"), ("retention.ms", SET, "6")], REQUEST, "Error due to duplicate config keys"),
            ([("min.compaction.lag.ms", SET, "5"), ("max.compaction.lag.ms", SET, "4")], CONFIG, "conflict topic config")):
        got = alter(w, "t", *ops)
        assert (got[0], says in got[1]) == (code, True), got
    assert explicit(w, "t") == {}
    assert alter(w, "no", ("retention.ms", SET, "5")) == (UNKNOWN_TOPIC, "The topic 'no' does not exist.")
    assert alter(w, "", ("retention.ms", SET, "5")) == (REQUEST, "Default topic resources are not allowed.")
    assert alter(w, "a b", ("retention.ms", SET, "5"))[0] == INVALID_TOPIC
    twice = {"ResourceType": TOPIC, "ResourceName": "t", "Configs": []}
    a = w.call("IncrementalAlterConfigs", 1, Resources=[twice, twice])
    assert [(r["ErrorCode"], r["ErrorMessage"]) for r in a["Responses"]] == [
        (REQUEST, "Each resource must appear at most once.")] * 2


def test_values_tell_where_they_come_from(culex_factory):
    c = culex_factory(start=False, streams=[], server={"message.max.bytes": 2000})
    c.server.start()
    with Wire(c.server.port) as w:
        made(w, "t", max_message_bytes="500"), made(w, "u")
        _, _, t = describe(w, "t", "max.message.bytes", "retention.ms")
        assert [(s["Name"], s["Value"], s["Source"]) for s in t["max.message.bytes"]["Synonyms"]] == [
            ("max.message.bytes", "500", 1), ("message.max.bytes", "2000", 4), ("message.max.bytes", "1048588", 5)]
        assert t["retention.ms"]["Synonyms"] == [] and t["retention.ms"]["ConfigSource"] == 5
        assert t["retention.ms"]["ConfigType"] == 5 and not t["retention.ms"]["ReadOnly"]
        assert "-1: for ever" in t["retention.ms"]["Documentation"]
        _, _, u = describe(w, "u", "max.message.bytes")
        assert (u["max.message.bytes"]["Value"], u["max.message.bytes"]["ConfigSource"]) == ("2000", 4)


def test_configs_of_a_topic_mean_what_they_say(w):
    made(w, "small", max_message_bytes="200")
    got = produce(w, {"small": {0: batch([b"x" * 300])}})["small"][0]
    assert got["ErrorCode"] == TOO_LARGE
    assert alter(w, "small", ("max.message.bytes", SET, "2000")) == (NONE, None)
    assert produce(w, {"small": {0: batch([b"x" * 300])}})["small"][0]["ErrorCode"] == NONE
    made(w, "stamped", message_timestamp_type="LogAppendTime")
    before = int(time.time() * 1000)
    assert produce(w, {"stamped": {0: batch([b"x"])}})["stamped"][0]["LogAppendTimeMs"] >= before
    made(w, "keyed", cleanup_policy="compact")
    assert produce(w, {"keyed": {0: batch([b"x"], key=None)}})["keyed"][0]["ErrorCode"] == 87
    made(w, "dated", message_timestamp_after_max_ms="0", message_timestamp_before_max_ms="0")
    assert produce(w, {"dated": {0: batch([b"x"] * 50)}})["dated"][0]["ErrorCode"] == 32


def first_offset(w, topic):
    a = w.call("ListOffsets", 6, ReplicaId=-1, IsolationLevel=0, Topics=[
        {"Name": topic, "Partitions": [{"PartitionIndex": 0, "CurrentLeaderEpoch": -1, "Timestamp": -2}]}])
    return a["Topics"][0]["Partitions"][0]["Offset"]


def test_segments_of_a_topic_are_as_long_as_it_says(w):
    """Only what is in closed segments goes; the store's own are of 16 MB, and live for an hour."""
    made(w, "short", segment_bytes=str(1 << 20), retention_bytes=str(1 << 20))
    for _ in range(5):
        assert produce(w, {"short": {0: batch([os.urandom(900_000)])}})["short"][0]["ErrorCode"] == NONE
    wait_until("the first records are gone", lambda: first_offset(w, "short") > 0, 60)


def test_settings_of_the_server_are_read_only_and_say_where_they_are(server, w):
    code, says = alter(w, "1", ("message.max.bytes", SET, "5"), kind=BROKER)
    assert code == REQUEST and "message.max.bytes" in says and "culex.json" in says
    assert alter(w, "2", ("x", SET, "5"), kind=BROKER) == (REQUEST, "Unexpected broker id, expected 1, but received 2")
    assert alter(w, "x", ("x", SET, "5"), kind=BROKER) == (REQUEST, "Node id must be an integer, but it is: x")
    assert alter(w, "g", ("consumer.session.timeout.ms", SET, "5"), kind=GROUP)[0] == CONFIG
    assert alter(w, "m", ("interval.ms", SET, "5"), kind=METRICS)[0] == CONFIG
    assert alter(w, "x", kind=77)[0] == REQUEST
    code, _, configs = describe(w, "1", kind=BROKER)
    assert code == NONE and all(c["ReadOnly"] for c in configs.values())
    assert {"num.partitions": "1", "delete.topic.enable": "true", "log.retention.hours": "168", "broker.id": "1",
            "message.max.bytes": "1048588", "log.cleanup.policy": "delete", "log.dirs": str(server.data)}.items() <= {
        k: c["Value"] for k, c in configs.items()}.items()
    assert describe(w, "2", kind=BROKER)[:2] == (REQUEST, "Unexpected broker id, expected 1 or empty string, but received 2")
    assert describe(w, "no")[0] == UNKNOWN_TOPIC
    assert describe(w, "a b")[0] == INVALID_TOPIC


def test_the_level_of_the_log_can_be_set(server, w):
    assert {k: c["Value"] for k, c in describe(w, "1", kind=LOGGER)[2].items()} == {"root": "INFO"}
    assert alter(w, "1", ("root", SET, "DEBUG"), kind=LOGGER) == (NONE, None)
    assert describe(w, "1", kind=LOGGER)[2]["root"]["Value"] == "DEBUG"
    server.server.wait_log("request api=DescribeConfigs")
    assert alter(w, "1", ("root", SET, "loud"), kind=LOGGER)[0] == CONFIG
    assert alter(w, "1", ("kafka", SET, "INFO"), kind=LOGGER) == (CONFIG, "Logger kafka does not exist!")
    assert alter(w, "1", ("root", DELETE, None), kind=LOGGER)[0] == REQUEST
    assert alter(w, "1", ("root", APPEND, "INFO"), kind=LOGGER)[0] == REQUEST


def test_resources_with_configs_are_listed(w):
    made(w, "t"), made(w, "u")
    def listed(version, *types):
        a = w.call("ListConfigResources", version, ResourceTypes=list(types))
        return a["ErrorCode"], sorted((r["ResourceType"], r["ResourceName"]) for r in a["ConfigResources"])
    assert listed(1) == (NONE, [(TOPIC, "t"), (TOPIC, "u"), (BROKER, "1"), (LOGGER, "1")])
    assert listed(1, TOPIC) == (NONE, [(TOPIC, "t"), (TOPIC, "u")])
    assert listed(1, METRICS, GROUP) == (NONE, [])
    assert listed(1, 3) == (35, [])
    a = w.call("ListConfigResources", 0)
    assert a["ErrorCode"] == NONE and a["ConfigResources"] == []


# --- captured streams --------------------------------------------------------------------------------


def test_captured_streams_are_refused_by_their_filter(culex_factory):
    c = culex_factory(streams=[{"name": "demo", "filters": ["demo/#", "d/+"], "partitions": 2, "retention.ms": 9000000}])
    c.publish("demo/x", ["1"])
    with Wire(c.server.port) as w:
        id_ = w.call("Metadata", 12, Topics=None)["Topics"][0]["TopicId"]
        assert create(w, wanted("demo"))["demo"]["ErrorCode"] == EXISTS
        refusals = [delete(w, "demo")[0], delete(w, ids=[id_])[0]]
        refusals = [(r["ErrorCode"], r["ErrorMessage"]) for r in refusals]
        refusals += [grow(w, "demo", 5), alter(w, "demo", ("retention.ms", SET, "5")), replace(w, "demo", {})]
        for code, says in refusals:
            said = "culex.json" in says or "number of partitions is fixed" in says
            assert code == POLICY and "demo/#, d/+" in says and said, says
        assert trim(w, "demo", p0=0) == {0: (NONE, 0)}  # its writer does it
        code, _, configs = describe(w, "demo")
        assert code == NONE and all(x["ReadOnly"] for x in configs.values())
        assert configs["mqtt.filter"]["Value"] == "demo/#,d/+"
        assert {k: configs[k]["ConfigSource"] for k in ("mqtt.filter", "retention.ms", "retention.bytes")} == {
            "mqtt.filter": 1, "retention.ms": 1, "retention.bytes": 5}
        assert known(w) == {"demo": 2}


def test_a_stream_of_the_configuration_cannot_be_made_before_the_broker_makes_it(culex_factory):
    c = culex_factory(start=False, streams=[{"name": "demo", "filters": ["demo/#"]}])
    c.server.start()
    with Wire(c.server.port) as w:
        t = create(w, wanted("demo"))["demo"]
        assert t["ErrorCode"] == POLICY and "culex.json" in t["ErrorMessage"]
        a = w.call("Metadata", 12, Topics=[{"Name": "demo"}], AllowAutoTopicCreation=True)
        assert a["Topics"][0]["ErrorCode"] == UNKNOWN_TOPIC


# --- kill -9 -----------------------------------------------------------------------------------------


def churn(port, seed, rounds, answered):
    """One client that makes, alters, grows and deletes its own topics; answered: what must hold."""
    rng = random.Random(seed)
    with Wire(port) as w:
        for n in range(rounds):
            name = f"c{seed}-{rng.randrange(4)}"
            if name not in answered:
                answered[name] = None  # asked for: there or not
                answered[name] = [made(w, name, 2), 2, {}]
                continue
            what, was = rng.randrange(3), answered[name]
            answered[name] = None
            if what == 0:
                assert delete(w, name)[0]["ErrorCode"] == NONE
                del answered[name]
            elif what == 1:
                assert grow(w, name, was[1] + 1) == (NONE, None)
                answered[name] = [was[0], was[1] + 1, was[2]]
            else:
                assert alter(w, name, ("retention.ms", SET, str(n + 1))) == (NONE, None)
                answered[name] = [was[0], was[1], {"retention.ms": str(n + 1)}]


def test_what_was_answered_survives_kill(server):
    rng = random.Random(3)
    for life in range(5):
        states = [{} for _ in range(3)]
        with Wire(server.server.port) as w:
            for name in known(w):
                delete(w, name)
        def client(i):
            try:
                churn(server.server.port, life * 3 + i, 100000, states[i])
            except (ConnectionError, OSError):
                pass
        threads = [threading.Thread(target=client, args=(i,)) for i in range(3)]
        for t in threads:
            t.start()
        lines = rng.randrange(50, 400)
        wait_until("some are made and gone", lambda: server.server.log().count("topic ") > lines)
        server.server.kill9()
        for t in threads:
            t.join(60)
        server.server.start()
        with Wire(server.server.port) as w:
            there = {t["Name"]: t for t in w.call("Metadata", 12, Topics=None)["Topics"]}
            for state in states:
                for name, was in state.items():
                    if was is not None:
                        assert there[name]["TopicId"] == was[0] and len(there[name]["Partitions"]) == was[1]
                        assert explicit(w, name) == was[2]
            asked = {name for state in states for name, was in state.items() if was is None}
            answered = {name for state in states for name, was in state.items() if was is not None}
            assert answered <= set(there) <= answered | asked


# --- many --------------------------------------------------------------------------------------------


def timed(fn):
    began = time.monotonic()
    fn()
    return time.monotonic() - began


def test_a_thousand_topics_are_made_in_seconds_and_told_in_milliseconds(server, w):
    topics = [wanted(f"t{i}", 16) for i in range(1000)]

    def make():
        for name in known(w):
            assert delete(w, name)[0]["ErrorCode"] == NONE
        return timed(lambda: made_now.append({t["ErrorCode"] for t in create(w, *topics).values()}))
    made_now = []
    one = within(10, make)
    assert made_now[-1] == {NONE}

    def told():
        w.send("Metadata", 12, Topics=None)
        assert int.from_bytes(w.exactly(4), "big") == len(whole)
        w.exactly(len(whole))
    w.send("Metadata", 12, Topics=None)
    whole = w.exactly(int.from_bytes(w.exactly(4), "big"))
    assert len(whole) > 16000 * 20 and known(w) == {t["Name"]: 16 for t in topics}
    before = processor_ticks(server)
    once = [timed(told) for _ in range(30)]
    each = (processor_ticks(server) - before) / os.sysconf("SC_CLK_TCK") / len(once)
    within(0.05, lambda: timed(told), tries=100)
    assert each / slowness() < 0.05
    assert {r["ErrorCode"] for r in delete(w, *(t["Name"] for t in topics))} == {NONE}

    def one_by_one():
        for t in topics:
            assert create(w, t)[t["Name"]]["ErrorCode"] == NONE
    many = timed(one_by_one)
    print(f"1,000 x 16: {one} s in one request, {many:.2f} s in as many; Metadata {min(once) * 1000:.1f} ms, "
          f"{each * 1000:.1f} ms of a processor; slowness {slowness():.1f}")
    assert many < 60


# --- others' tools -----------------------------------------------------------------------------------


def tool(c, name, *args, fails=False):
    argv = ["java", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{CLIENTS}/java/lib/*", name,
            "--bootstrap-server", c.bootstrap, *map(str, args)]
    env = {k: v for k, v in os.environ.items() if k != "JAVA_TOOL_OPTIONS"}
    p = subprocess.run(argv, capture_output=True, text=True, timeout=180, env=env)
    assert (p.returncode != 0) == fails, f"{name} {args}\n{p.stdout}\n{p.stderr}"
    return p.stdout + p.stderr


@pytest.mark.saw("creates", "describes", "adds partitions", "deletes", client="kafka-topics")
def test_kafka_topics(server):
    def topics(*args, **kw):
        return tool(server, "org.apache.kafka.tools.TopicCommand", *args, **kw)
    assert "Created topic t." in topics("--create", "--topic", "t", "--partitions", 3, "--config", "retention.ms=1000")
    topics("--create", "--topic", "t", "--if-not-exists")
    assert "Topic 't' already exists" in topics("--create", "--topic", "t", fails=True)
    assert "replication factor of 3" in topics("--create", "--topic", "u", "--replication-factor", 3, fails=True)
    topics("--create", "--topic", "placed", "--replica-assignment", "1,1")
    topics("--alter", "--topic", "t", "--partitions", 5)
    said = topics("--describe", "--topic", "t")
    assert "PartitionCount: 5" in said and "retention.ms=1000" in said
    assert len(re.findall(r"Leader: 1\tReplicas: 1\tIsr: 1", said)) == 5
    topics("--delete", "--topic", "t")
    assert topics("--list").split() == ["placed"]


@pytest.mark.saw("describes", "changes", client="kafka-configs")
def test_kafka_configs(server):
    def configs(*args, **kw):
        return tool(server, "kafka.admin.ConfigCommand", *args, **kw)
    with Wire(server.server.port) as w:
        made(w, "t")
    entity = ("--entity-type", "topics", "--entity-name", "t")
    said = configs("--alter", *entity, "--add-config", "retention.ms=7,cleanup.policy=[compact,delete]")
    assert "Completed updating config for topic t" in said
    said = configs("--describe", *entity)
    assert "retention.ms=7 sensitive=false synonyms={DYNAMIC_TOPIC_CONFIG:retention.ms=7}" in said
    assert "cleanup.policy=compact,delete" in said
    configs("--alter", *entity, "--delete-config", "retention.ms")
    said = configs("--describe", "--all", *entity)
    assert "retention.ms=604800000 sensitive=false synonyms={}" in said
    assert "Unknown topic config name: nope" in configs("--alter", *entity, "--add-config", "nope=1", fails=True)
    said = configs("--describe", "--all", "--entity-type", "brokers", "--entity-name", "1")
    assert "num.partitions=1" in said
    assert "culex.json" in configs("--alter", "--entity-type", "brokers", "--entity-name", "1", "--add-config",
                                   "message.max.bytes=5", fails=True)
    assert "root=INFO" in configs("--describe", "--entity-type", "broker-loggers", "--entity-name", "1")
    group = ("--entity-type", "groups", "--entity-name", "g")
    configs("--alter", *group, "--add-config", "consumer.session.timeout.ms=50000")
    server.server.kill9()
    server.server.start()
    assert "consumer.session.timeout.ms=50000 sensitive=false synonyms={DYNAMIC_GROUP_CONFIG:" in configs("--describe", *group)


@pytest.mark.saw("cuts a log", client="kafka-delete-records")
def test_kafka_delete_records(server, tmp_path):
    with Wire(server.server.port) as w:
        made(w, "t")
        produce(w, {"t": {0: batch([b"v"] * 10)}})
    offsets = tmp_path / "offsets.json"
    offsets.write_text('{"partitions": [{"topic": "t", "partition": 0, "offset": 4}], "version": 1}')
    said = tool(server, "org.apache.kafka.tools.DeleteRecordsCommand", "--offset-json-file", offsets)
    assert "partition: t-0\tlow_watermark: 4" in said
    assert end_offsets(server.bootstrap, "t") == {0: (4, 10)}


@pytest.mark.saw("admin", client="librdkafka")
def test_confluent_admin(server):
    from confluent_kafka import KafkaException, TopicPartition
    from confluent_kafka.admin import (AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, NewTopic)
    admin = AdminClient({"bootstrap.servers": server.bootstrap})
    admin.create_topics([NewTopic("t", 2, config={"retention.ms": "5"})])["t"].result(60)
    with pytest.raises(KafkaException, match="already exists"):
        admin.create_topics([NewTopic("t", 2)])["t"].result(60)
    admin.create_partitions([NewPartitions("t", 4)])["t"].result(60)
    assert len(admin.list_topics("t", timeout=60).topics["t"].partitions) == 4
    entry = ConfigEntry("cleanup.policy", "compact", incremental_operation=AlterConfigOpType.APPEND)
    (done,) = admin.incremental_alter_configs([ConfigResource(TOPIC, "t", incremental_configs=[entry])]).values()
    done.result(60)
    (told,) = admin.describe_configs([ConfigResource(TOPIC, "t")]).values()
    assert told.result(60)["cleanup.policy"].value == "delete,compact" and told.result(60)["retention.ms"].value == "5"
    (cut,) = admin.delete_records([TopicPartition("t", 0, -1)]).values()
    assert cut.result(60).low_watermark == 0
    admin.delete_topics(["t"])["t"].result(60)
    assert admin.list_topics(timeout=60).topics == {}
