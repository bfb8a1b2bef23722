"""Streams that Kafka clients bind to MQTT filters, change and delete while the broker runs."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time

import pytest
import wire
from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, NewTopic,
                                   OffsetSpec, ResourceType)
from harness import ROOT, consumer, read_all, settled_ends, wait_until, within

STOP_SECONDS = 5
REQUEST_TIMED_OUT = 7
INVALID_REQUEST = 42
UNKNOWN_TOPIC_OR_PARTITION = 3
TOPIC_ALREADY_EXISTS = 36


admins = {}


@pytest.fixture(autouse=True)
def no_client_is_left():
    yield
    admins.clear()


def admin(culex):
    """Kept: a client that is collected takes its answers along."""
    return admins.setdefault(culex.bootstrap, AdminClient({"bootstrap.servers": culex.bootstrap}))


def one(futures):
    """The result of the only future."""
    (future,) = futures.values()
    return future.result(60)


def create(culex, name, filters, partitions=2, **configs):
    config = {"mqtt.filter": filters, **{k.replace("_", "."): v for k, v in configs.items()}}
    return one(admin(culex).create_topics([NewTopic(name, partitions, 1, config=config)]))


def alter(culex, name, *entries):
    resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=[
        ConfigEntry(n, v, incremental_operation=op) for op, n, v in entries])
    return one(admin(culex).incremental_alter_configs([resource]))


def configs(culex, name):
    return one(admin(culex).describe_configs([ConfigResource(ResourceType.TOPIC, name)]))


def refused(fn, *args, **kw):
    """The error's name and sentence."""
    with pytest.raises(KafkaException) as e:
        fn(*args, **kw)
    return e.value.args[0].name(), e.value.args[0].str()


def values(culex, name, n):
    return sorted(r.value.decode() for r in read_all(culex.bootstrap, name, n))


SET, DELETE, APPEND, SUBTRACT = (AlterConfigOpType.SET, AlterConfigOpType.DELETE, AlterConfigOpType.APPEND,
                                 AlterConfigOpType.SUBTRACT)


def test_a_topic_with_a_filter_captures_what_is_published(culex):
    create(culex, "new", "new/#", partitions=3, mqtt_key="clientid", retention_ms="3600000")
    culex.publish("new/x", [str(i) for i in range(20)])
    assert values(culex, "new", 20) == sorted(map(str, range(20)))
    said = configs(culex, "new")
    assert said["mqtt.filter"].value == "new/#" and said["mqtt.key"].value == "clientid"
    assert said["retention.ms"].value == "3600000" and said["mqtt.bound.by"].value == "kafka"
    assert not said["mqtt.key"].is_read_only and not said["retention.ms"].is_read_only
    assert said["max.message.bytes"].is_read_only and said["mqtt.bound.by"].is_read_only
    assert len(admin(culex).list_topics(timeout=60).topics["new"].partitions) == 3


def test_it_survives_restarts_of_both(culex):
    create(culex, "new", "new/#")
    culex.publish("new/x", ["1"])
    culex.kill()
    culex.start()
    culex.publish("new/x", ["2"])
    assert values(culex, "new", 2) == ["1", "2"]
    assert configs(culex, "new")["mqtt.filter"].value == "new/#"


@pytest.mark.sanitized
def test_altering_it_reaches_the_broker(culex):
    create(culex, "s", "a/#")
    alter(culex, "s", (SET, "mqtt.filter", "b/#"), (SET, "retention.ms", "60000"), (SET, "mqtt.headers", "none"))
    culex.publish("a/1", ["no"])
    culex.publish("b/1", ["b"])
    alter(culex, "s", (APPEND, "mqtt.filter", "c/#"))
    culex.publish("c/1", ["c"])
    alter(culex, "s", (SUBTRACT, "mqtt.filter", "b/#"), (DELETE, "mqtt.headers", ""), (APPEND, "cleanup.policy", "compact"))
    culex.publish("b/2", ["no"])
    culex.publish("c/2", ["c2"])
    assert values(culex, "s", 3) == ["b", "c", "c2"]
    said = configs(culex, "s")
    assert said["mqtt.filter"].value == "c/#" and said["mqtt.headers"].value == "full"
    assert said["retention.ms"].value == "60000" and said["cleanup.policy"].value == "compact,delete"


@pytest.mark.sanitized
def test_deleting_it_ends_it_and_made_again_it_is_another(culex):
    create(culex, "s", "s/#")
    culex.publish("s/1", ["1", "2"])
    one(admin(culex).delete_topics(["s"]))
    assert "s" not in admin(culex).list_topics(timeout=60).topics
    assert refused(configs, culex, "s")[0] == "UNKNOWN_TOPIC_OR_PART"
    culex.publish("s/1", ["nobody's"])
    create(culex, "s", "s/#", partitions=5)
    culex.publish("s/1", ["new"])
    assert values(culex, "s", 1) == ["new"]


def test_what_clients_may_do_with_it_is_told(culex):
    def operations(name):
        answer = wire.ask(culex.server.port, "Metadata", 12, Topics=[{"Name": name}],
                          IncludeTopicAuthorizedOperations=True)
        bits = answer["Topics"][0]["TopicAuthorizedOperations"]
        return {bit for bit in range(32) if bits >> bit & 1}
    read, delete, describe, describe_configs, alter_configs = 3, 6, 8, 10, 11
    create(culex, "s", "s/#")
    assert operations("s") == {read, describe, describe_configs, delete, alter_configs}
    assert operations("demo") == {read, describe, describe_configs}


@pytest.mark.sanitized
def test_what_a_request_names_twice_is_neither_made_nor_deleted(culex):
    def ask(name, version, **what):
        return wire.ask(culex.server.port, name, version, **what)
    order = {"Name": "s", "NumPartitions": 1, "ReplicationFactor": 1, "Configs": [{"Name": "mqtt.filter", "Value": "s/#"}]}
    assert [t["ErrorCode"] for t in ask("CreateTopics", 7, Topics=[order, order])["Topics"]] == [INVALID_REQUEST]
    assert not (culex.data / "streams.json").exists()
    create(culex, "s", "s/#")
    culex.publish("s/1", ["kept"])
    topic = ask("Metadata", 12, Topics=[{"Name": "s"}])["Topics"][0]["TopicId"]
    for topics in ([{"Name": "s"}] * 2, [{"Name": "s", "TopicId": topic}], [{"Name": "s"}, {"TopicId": topic}]):
        got = ask("DeleteTopics", 6, Topics=topics, TimeoutMs=9000)["Responses"]
        assert {t["ErrorCode"] for t in got} == {INVALID_REQUEST}, got
    assert values(culex, "s", 1) == ["kept"]
    got = ask("DeleteTopics", 6, Topics=[{"TopicId": topic}], TimeoutMs=9000)["Responses"]
    assert [(t["ErrorCode"], t["Name"]) for t in got] == [(0, "s")]
    assert refused(configs, culex, "s")[0] == "UNKNOWN_TOPIC_OR_PART"


def test_a_topic_without_a_name_is_unknown_beside_one_that_is_bound(culex):
    create(culex, "s", "s/#")
    got = wire.ask(culex.server.port, "DeleteTopics", 5, TopicNames=["", "s"], TimeoutMs=9000)["Responses"]
    assert {t["Name"]: t["ErrorCode"] for t in got} == {"": UNKNOWN_TOPIC_OR_PARTITION, "s": 0}
    assert culex.server.running()


@pytest.mark.sanitized
def test_records_are_deleted_of_streams_of_the_file_and_of_clients(culex):
    create(culex, "s", "s/#", partitions=1)
    culex.publish("s/x", [str(i) for i in range(10)])
    culex.publish("demo/x", ["a", "b"])
    settled_ends(culex.bootstrap, "s", 10)
    settled_ends(culex.bootstrap, "demo", 2)
    (partition,) = [p for p in range(16) if end(culex, "demo", p) == 2]
    a = admin(culex)
    got = a.delete_records([TopicPartition("s", 0, 7), TopicPartition("demo", partition, -1)])
    assert {tp.topic: f.result(60).low_watermark for tp, f in got.items()} == {"s": 7, "demo": 2}
    assert [r.value.decode() for r in read_all(culex.bootstrap, "s", 3)] == ["7", "8", "9"]
    with pytest.raises(KafkaException) as e:
        one(a.delete_records([TopicPartition("s", 0, 99)]))
    assert e.value.args[0].name() == "OFFSET_OUT_OF_RANGE"


def end(culex, topic, partition):
    tp = TopicPartition(topic, partition)
    return admin(culex).list_offsets({tp: OffsetSpec.latest()})[tp].result(60).offset


def test_a_stream_of_the_file_is_changed_in_the_file(culex):
    for fn, args in ((alter, ("demo", (SET, "mqtt.filter", "x/#"))),
                     (lambda c, *a: one(admin(c).delete_topics(["demo"])), ()),
                     (lambda c, *a: one(admin(c).create_partitions([NewPartitions("demo", 32)])), ())):
        name, sentence = refused(fn, culex, *args)
        # librdkafka asks to delete in a version whose answer has no sentence.
        fixed = "culex.json" in sentence or "partitions is fixed" in sentence
        says = sentence == "Broker: Policy violation" or (fixed and "demo/#" in sentence)
        assert name == "POLICY_VIOLATION" and says, (name, sentence)
    assert refused(create, culex, "demo", "x/#")[0] == "TOPIC_ALREADY_EXISTS"


@pytest.mark.sanitized
@pytest.mark.parametrize("config, error, says", [
    ({"mqtt.filter": "a/#/b"}, "INVALID_CONFIG", "mqtt.filter: .*goes on after '#'"),
    ({"mqtt.filter": "x", "mqtt.key": "colour"}, "INVALID_CONFIG", "mqtt.key: .*is no key"),
    ({"mqtt.filter": "x", "mqtt.colour": "red"}, "INVALID_CONFIG", "mqtt.colour is no setting"),
    ({"mqtt.key": "topic"}, "INVALID_CONFIG", "mqtt.filter: is missing"),
    ({"mqtt.filter": "x", "max.message.bytes": "5"}, "INVALID_CONFIG", "max.message.bytes is no setting"),
    ({"mqtt.filter": "x", "retention.ms": "soon"}, "INVALID_CONFIG", "retention.ms: "),
    ({"mqtt.filter": "x", "partitions": 2000}, "INVALID_PARTITIONS", "2000 is too large"),
    ({"mqtt.filter": "x", "name": "_s"}, "TOPIC_EXCEPTION", "is not a name for a stream"),
    ({"mqtt.filter": "x", "name": "d.s"}, "TOPIC_EXCEPTION", "collides with existing topic: d_s"),
])
def test_what_is_wrong_is_said(culex, config, error, says):
    one(admin(culex).create_topics([NewTopic("d_s", 1, 1)]))
    config = dict(config)
    topic = NewTopic(config.pop("name", "s"), config.pop("partitions", 1), 1, config=config)
    name, sentence = refused(lambda: one(admin(culex).create_topics([topic])))
    assert name == error and re.search(says, sentence), (name, sentence)
    assert "s" not in admin(culex).list_topics(timeout=60).topics and not (culex.data / "streams.json").exists()


def test_validate_only_does_nothing(culex):
    topics = [NewTopic("s", 1, 1, config={"mqtt.filter": "s/#"})]
    assert one(admin(culex).create_topics(topics, validate_only=True)) is None
    assert "s" not in admin(culex).list_topics(timeout=60).topics


def test_without_the_broker_it_is_to_be_tried_again(culex):
    create(culex, "s", "s/#")
    culex.broker.stop()
    for fn, args in ((create, ("t", "t/#")), (alter, ("s", (SET, "mqtt.filter", "x"))),
                     (lambda c: one(admin(c).delete_topics(["s"])), ())):
        name, sentence = refused(fn, culex, *args)
        says = sentence == "Broker: Request timed out" or "broker is not running" in sentence
        assert name == "REQUEST_TIMED_OUT" and says, (name, sentence)
    culex.broker.start()
    create(culex, "t", "t/#")
    culex.publish("t/x", ["1"])
    assert values(culex, "t", 1) == ["1"]


@pytest.mark.sanitized
def test_the_rest_of_a_request_is_done_all_the_same(culex):
    made = admin(culex).create_topics([NewTopic("free", 2, 1), NewTopic("bound", 2, 1, config={"mqtt.filter": "b/#"}),
                                       NewTopic("bad", 2, 1, config={"mqtt.filter": "#/#"})])
    made["free"].result(60)
    made["bound"].result(60)
    with pytest.raises(KafkaException):
        made["bad"].result(60)
    p = Producer({"bootstrap.servers": culex.bootstrap})
    p.produce("free", b"1")
    assert p.flush(60) == 0
    culex.publish("b/x", ["2"])
    assert values(culex, "free", 1) == ["1"] and values(culex, "bound", 1) == ["2"]


def test_clients_cannot_write_into_it(culex):
    create(culex, "s", "only/mqtt/#")
    errors = []
    p = Producer({"bootstrap.servers": culex.bootstrap})
    p.produce("s", b"x", callback=lambda e, m: errors.append((e.name(), e.str())))
    p.flush(60)
    assert errors and errors[0][0] == "POLICY_VIOLATION"
    name, sentence = refused(lambda: one(admin(culex).create_partitions([NewPartitions("s", 32)])))
    assert name == "POLICY_VIOLATION" and "culex.json" not in sentence and "is fixed" in sentence


def test_the_answer_of_a_bound_stream_has_its_configs(culex):
    got = wire.ask(culex.server.port, "CreateTopics", 7, timeoutMs=9000, Topics=[order("s")])["Topics"][0]
    said = {c["Name"]: c["Value"] for c in got["Configs"]}
    assert got["NumPartitions"] == 1 and said["mqtt.filter"] == "s/#" and said["cleanup.policy"] == "delete", got
    assert said == {n: c.value for n, c in configs(culex, "s").items() if n in said}


@pytest.mark.sanitized
def test_what_a_bound_stream_is_compacted_by_is_kept_and_told(culex):
    create(culex, "s", "s/#", partitions=1, cleanup_policy=" compact , delete", min_compaction_lag_ms="1000",
           max_compaction_lag_ms="60000", delete_retention_ms="0", retention_ms="3600000")
    want = {"cleanup.policy": "compact,delete", "min.compaction.lag.ms": "1000", "max.compaction.lag.ms": "60000",
            "delete.retention.ms": "0", "retention.ms": "3600000"}
    said = configs(culex, "s")
    assert {n: said[n].value for n in want} == want and not any(said[n].is_read_only for n in want)
    alter(culex, "s", (SET, "cleanup.policy", "delete,compact"), (DELETE, "delete.retention.ms", ""), (SET, "max.compaction.lag.ms", "2000"))
    said = configs(culex, "s")
    assert said["cleanup.policy"].value == "compact,delete" and said["max.compaction.lag.ms"].value == "2000"
    assert said["delete.retention.ms"].value == "86400000"
    name, sentence = refused(alter, culex, "s", (SET, "min.compaction.lag.ms", "3000"))
    assert name == "INVALID_CONFIG" and "max.compaction.lag.ms: is less" in sentence
    culex.kill()
    culex.start()
    wait_until("it is told as before", lambda: configs(culex, "s")["max.compaction.lag.ms"].value == "2000")


def left(culex, name):
    """What is in the only partition now: keys and values."""
    c = consumer(culex.bootstrap, **{"enable.partition.eof": True})
    c.assign([TopicPartition(name, 0, 0)])
    out = []
    while True:
        m = c.poll(60)
        assert m is not None
        if m.error():
            assert m.error().code() == KafkaError._PARTITION_EOF, m.error()
            c.close()
            return out
        out.append((m.key(), m.value()))


def test_a_bound_stream_is_compacted_as_its_configs_say(culex_factory):
    """Old records of a key go, and a tombstone at once after that; with a lag both stay; and what is old is deleted, too."""
    culex = culex_factory(store={"segment.ms": 1000})
    usual = {"partitions": 1, "cleanup_policy": "compact, delete", "min_cleanable_dirty_ratio": "0", "delete_retention_ms": "0"}
    create(culex, "s", "x/#", **usual)
    create(culex, "late", "x/#", **usual, min_compaction_lag_ms="3600000")
    assert configs(culex, "s")["min.cleanable.dirty.ratio"].value == "0.0"
    with culex.mqtt() as m:
        for topic, value in [("x/gone", b"1"), ("x/gone", b""), *(("x/kept", b"%d" % i) for i in range(5))]:
            m.client.publish(topic, value, qos=1, retain=True).wait_for_publish(60)
    published = 7

    def cleaned():
        nonlocal published
        culex.publish("x/kept", ["new"])  # only what is in closed segments is compacted
        published += 1
        keys = [k for k, _ in left(culex, "s")]
        return b"x/gone" not in keys and keys.count(b"x/kept") < published - 4
    wait_until("one record of each key is left, and no tombstone", cleaned, 90, every=0.3)
    settled_ends(culex.bootstrap, "late", published)
    late = left(culex, "late")
    assert len(late) == published and late[:2] == [(b"x/gone", b"1"), (b"x/gone", None)]
    alter(culex, "late", (SET, "retention.ms", "1000"))
    wait_until("what is old is deleted", lambda: len(left(culex, "late")) < published, 90, every=0.3)


KAFKA_SAYS, FILE_SAYS, TOPIC_SAYS = 5, 4, 1


def sources(culex, name, keys):
    said = configs(culex, name)
    return {k: (said[k].value, said[k].source) for k in keys}


def test_what_nobody_has_set_is_told_as_a_default(culex):
    create(culex, "s", "s/#", retention_ms="604800000", mqtt_key="topic")  # said is said, be it the default
    want = {"mqtt.filter": ("s/#", TOPIC_SAYS), "mqtt.key": ("topic", TOPIC_SAYS), "retention.ms": ("604800000", TOPIC_SAYS),
            "mqtt.headers": ("full", KAFKA_SAYS), "retention.bytes": ("-1", KAFKA_SAYS), "cleanup.policy": ("delete", KAFKA_SAYS),
            "min.cleanable.dirty.ratio": ("0.5", KAFKA_SAYS), "segment.ms": ("604800000", KAFKA_SAYS)}
    assert sources(culex, "s", want) == want
    alter(culex, "s", (DELETE, "retention.ms", ""), (SET, "min.cleanable.dirty.ratio", "0.125"))
    want.update({"retention.ms": ("604800000", KAFKA_SAYS), "min.cleanable.dirty.ratio": ("0.125", TOPIC_SAYS)})
    assert sources(culex, "s", want) == want
    name, sentence = refused(alter, culex, "s", (SET, "min.cleanable.dirty.ratio", "1.5"))
    assert name == "INVALID_CONFIG" and "1.5 is too large" in sentence, sentence
    culex.streams[0]["retention.bytes"] = -1
    culex.write_config()
    culex.kill()
    culex.start()
    wait_until("it is told as before", lambda: sources(culex, "s", want) == want)
    assert sources(culex, "demo", ("retention.bytes", "retention.ms")) == {
        "retention.bytes": ("-1", TOPIC_SAYS), "retention.ms": ("604800000", KAFKA_SAYS)}


def test_the_largest_publish_is_not_more_than_is_told(culex):
    create(culex, "s", "s/#", partitions=1)
    value, source = sources(culex, "s", ["max.message.bytes"])["max.message.bytes"]
    payload = "x" * ((4 << 20) - 4096)  # a quarter of the ring, with all that is beside it
    culex.publish("s/x", [payload])
    assert values(culex, "s", 1) == [payload]
    assert source == FILE_SAYS and len(payload) < int(value) < len(payload) + (1 << 20)


def test_a_compacted_stream_is_not_cut(culex):
    create(culex, "s", "s/#", partitions=1, cleanup_policy="compact")
    culex.publish("s/x", ["1", "2"])
    with pytest.raises(KafkaException) as e:
        one(admin(culex).delete_records([TopicPartition("s", 0, 1)]))
    assert e.value.args[0].name() == "POLICY_VIOLATION"
    assert values(culex, "s", 2) == ["1", "2"]


def test_a_stream_that_the_file_has_no_more_is_deleted_and_bound_by_clients(culex):
    culex.streams += [{"name": n, "filters": [f"{n}/#"], "partitions": 2} for n in ("left", "taken")]
    culex.write_config()
    culex.kill()
    culex.start()
    culex.publish("taken/x", ["of the file"])
    assert refused(create, culex, "taken", "taken/#")[0] == "TOPIC_ALREADY_EXISTS"
    del culex.streams[1:]
    culex.write_config()
    culex.kill()
    culex.start()
    one(admin(culex).delete_topics(["left"]))
    assert "left" not in admin(culex).list_topics(timeout=60).topics
    create(culex, "taken", "taken/#")
    culex.publish("taken/x", ["of a client"])
    assert values(culex, "taken", 2) == ["of a client", "of the file"]
    one(admin(culex).delete_topics(["taken"]))
    assert "taken" not in admin(culex).list_topics(timeout=60).topics


def order(name, partitions=1):
    return {"Name": name, "NumPartitions": partitions, "ReplicationFactor": 1,
            "Configs": [{"Name": "mqtt.filter", "Value": f"{name}/#"}]}


def test_a_thousand_bound_streams_are_made_and_deleted_in_eight_messages(culex):
    """One change of the file and one reload for each, however long that takes."""
    names = {f"s{i}" for i in range(1000)}

    def ask(api, version, left, answers, **what):
        """Again for those that had not enough time: they may have come about, or gone, all the same."""
        rounds, done = 0, {0}
        while left:
            got = w.call(api, version, **what, Topics=[order(n) if api == "CreateTopics" else {"Name": n} for n in left])[answers]
            assert {t["ErrorCode"] for t in got} <= {*done, REQUEST_TIMED_OUT}
            left = {t["Name"] for t in got if t["ErrorCode"] not in done}
            rounds, done = rounds + 1, {0, TOPIC_ALREADY_EXISTS, UNKNOWN_TOPIC_OR_PARTITION}
        return rounds

    def reloads():
        return culex.broker.log().count("configuration read again")
    with wire.Wire(culex.server.port, timeout=180) as w:
        rounds = ask("CreateTopics", 7, names, "Topics", timeoutMs=60000)
        assert rounds > 1 or reloads() == 8
        culex.publish("s999/x", ["there"])
        assert values(culex, "s999", 1) == ["there"]
        before = reloads()
        rounds = ask("DeleteTopics", 6, names, "Responses", TimeoutMs=60000)
        assert rounds > 1 or reloads() - before == 8
    assert not names & set(admin(culex).list_topics(timeout=60).topics)


class SilentWriter(threading.Thread):
    """Takes messages where the writer would, after the broker has left, and answers none; `messages` has the commands of each."""

    def __init__(self, culex):
        super().__init__(daemon=True)
        self.messages, self.taken = [], []
        assert culex.broker.stop() == 0
        (culex.data / "capture.sock").unlink(missing_ok=True)
        fd = os.open(culex.data, os.O_PATH)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(f"/proc/self/fd/{fd}/capture.sock")
        self.listener.listen(64)
        os.close(fd)
        self.start()

    def run(self):
        while True:
            try:
                s, _ = self.listener.accept()
            except OSError:  # closed
                return
            self.taken.append(s)
            self.messages.append(len(json.loads(s.recv(1 << 20)).get("commands", [None])))

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.join(60)
        for s in [self.listener, *self.taken]:
            s.close()


def test_a_writer_that_hangs_is_asked_once_for_a_whole_request(culex):
    writer = SilentWriter(culex)
    try:
        with wire.Wire(culex.server.port, timeout=180) as w:
            got = w.call("CreateTopics", 7, timeoutMs=60000, Topics=[order(f"s{i}") for i in range(300)])["Topics"]
            assert {t["ErrorCode"] for t in got} == {REQUEST_TIMED_OUT}
            assert writer.messages == [128]
    finally:
        writer.close()


def test_too_many_changes_in_one_request_cost_little(culex):
    create(culex, "s", ",".join(f"{'x' * 24}/{i}/#" for i in range(900)), partitions=1)  # much to read
    culex.broker.stop()
    before = culex.server.memory_kb()
    many = 50_000
    for api, version, asked in (
            ("CreateTopics", 7, {"Topics": [order(f"t{i}") for i in range(many)]}),
            ("DeleteRecords", 2, {"Topics": [{"Name": "s", "Partitions": [{"PartitionIndex": 0, "Offset": -1}] * many}]}),
            ("DeleteTopics", 5, {"TopicNames": ["s"] * 10 * many})):
        began = time.monotonic()
        try:
            wire.ask(culex.server.port, api, version, **asked)
        except ConnectionError:
            pass
        assert culex.server.running() and time.monotonic() - began < 60
    assert culex.server.memory_kb() - before < 200 << 10


def trims(many):
    return {"Topics": [{"Name": "demo", "Partitions": [{"PartitionIndex": 0, "Offset": 0}] * many}]}


@pytest.mark.sanitized
def test_as_many_records_are_deleted_in_one_request_as_there_are_partitions(culex):
    culex.publish("demo/x", "1")
    answer = wire.ask(culex.server.port, "DeleteRecords", 2, TimeoutMs=120_000, **trims(20_000))
    assert [p["ErrorCode"] for t in answer["Topics"] for p in t["Partitions"]] == [0]
    some = {"Topics": [{"Name": "demo", "Partitions": [{"PartitionIndex": 0, "Offset": 99}] * 100_000 + [{"PartitionIndex": 1, "Offset": -1}]}]}
    answer = wire.ask(culex.server.port, "DeleteRecords", 2, TimeoutMs=120_000, **some)
    assert [p["ErrorCode"] for t in answer["Topics"] for p in t["Partitions"]] == [1, 44]  # out of range; too many


def test_what_waits_for_a_writer_that_hangs_goes_with_its_clients(culex):
    """And what is left of it has a bound."""
    writer = SilentWriter(culex)
    try:
        with wire.Wire(culex.server.port) as first:
            first.send("DeleteRecords", 2, TimeoutMs=60_000, **trims(1))
            wait_until("it is asked", lambda: writer.messages)
            before = culex.server.memory_kb()
            for _ in range(40):
                with wire.Wire(culex.server.port) as w:
                    w.send("DeleteRecords", 2, TimeoutMs=60_000, **trims(10_000))
            assert wire.ask(culex.server.port, "Metadata", 12, Topics=None)["Topics"]
            assert culex.server.memory_kb() - before < 120 << 10
    finally:
        writer.close()


@pytest.mark.sanitized
def test_nobody_else_takes_a_name_while_it_is_being_bound(culex):
    writer = SilentWriter(culex)
    plain = {"Topics": [{"Name": "s", "NumPartitions": 1, "ReplicationFactor": 1, "Assignments": [], "Configs": []}]}
    try:
        with wire.Wire(culex.server.port) as w:
            w.send("CreateTopics", 7, timeoutMs=60_000, Topics=[order("s")])
            wait_until("it is asked", lambda: writer.messages)
            assert [t["ErrorCode"] for t in wire.ask(culex.server.port, "CreateTopics", 7, timeoutMs=60_000, **plain)["Topics"]] == [44]
    finally:
        writer.close()
    wait_until("it is free again", lambda: wire.ask(culex.server.port, "CreateTopics", 7, timeoutMs=60_000, **plain)["Topics"][0]["ErrorCode"] == 0)


def test_a_writer_that_hangs_holds_neither_the_server_nor_its_stop(culex):
    """Which would be for as long as an answer is waited for, 12 s."""
    def leave():
        if not culex.server.running():
            culex.server.start()
            culex.wait_topics()
        writer = SilentWriter(culex)
        try:
            with wire.Wire(culex.server.port) as w:
                w.send("CreateTopics", 7, timeoutMs=60000, Topics=[order("s")])
                wait_until("it is asked", lambda: writer.messages)
                assert [t["Name"] for t in wire.ask(culex.server.port, "Metadata", 12, Topics=None)["Topics"]] == ["demo"]
                began = time.monotonic()
                assert culex.server.stop() == 0
                return time.monotonic() - began
        finally:
            writer.close()
    within(STOP_SECONDS, leave)


def test_a_name_in_the_file_wins_after_a_restart(culex):
    create(culex, "s", "bound/#", partitions=16)
    culex.streams.append({"name": "s", "filters": ["file/#"]})
    culex.write_config()
    culex.broker.stop()
    culex.broker.start()
    culex.publish("bound/x", ["bound"])
    culex.publish("file/x", ["file"])
    assert values(culex, "s", 1) == ["file"]
    wait_until("it is the file's", lambda: configs(culex, "s")["mqtt.bound.by"].value == "configuration")
    assert refused(lambda: one(admin(culex).delete_topics(["s"])))[0] == "POLICY_VIOLATION"
    assert [s["name"] for s in json.loads((culex.data / "streams.json").read_text())["streams"]] == ["s"]


def test_readmes_command_binds_a_stream(culex_factory):
    c = culex_factory()
    command = re.search(r"^python3 -c '(.*?)'$", (ROOT / "README.md").read_text(), re.M | re.S)[1]
    subprocess.run([sys.executable, "-c", command.replace("localhost:9092", c.bootstrap)], check=True, timeout=60)
    c.publish("house/kitchen/door/1", ["open"])
    assert [(r.key, r.value) for r in read_all(c.bootstrap, "doors", 1)] == [(b"kitchen", b"open")]
