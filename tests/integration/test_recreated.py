"""Streams are deleted and made again under open consumers, producers and transactions, by Kafka clients as by binding: who reads
gets all of the new stream and nothing twice, who writes goes on, and offsets of the old one are gone."""

import os
import shutil
import subprocess

import pytest
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from harness import CLIENTS, Driver, partition_of, wait_until
from test_produce import batch, make_topic
from test_server_disk import fill, small_disk, with_history  # noqa: F401 (a fixture)
from test_transactions import commit_offset, committed_offset, end, init, transactional, values
from wire import Wire

NONE = 0
PARTITIONS = 2
MEMBERS = {"librdkafka": {"assignor": "cooperative-sticky"}, "librdkafka-consumer": {"protocol": "consumer"},
           "java": {"assignor": "cooperative-sticky"}, "java-consumer": {"protocol": "consumer"}}


class Free:
    """A stream of clients."""

    config = {}

    def write(self, culex, values_):
        with Wire(culex.server.port) as w:
            for p in range(PARTITIONS):
                a = w.call("Produce", 9, Acks=-1, TimeoutMs=1000, TopicData=[{"Name": "s", "PartitionData": [
                    {"Index": p, "Records": batch([v.encode() for v in values_[p::PARTITIONS]])}]}])
                assert a["Responses"][0]["PartitionResponses"][0]["ErrorCode"] == NONE


class Bound:
    """A stream that MQTT brings."""

    config = {"mqtt.filter": "s/#"}
    topics = [next(t for t in (f"s/{i}" for i in range(100)) if partition_of(t.encode(), PARTITIONS) == p)
              for p in range(PARTITIONS)]

    def write(self, culex, values_):
        for p, topic in enumerate(self.topics):
            culex.publish(topic, values_[p::PARTITIONS])


def one(futures):
    (future,) = futures.values()
    return future.result(60)


def committed(culex, group):
    with Wire(culex.server.port) as w:
        def ask():
            g = w.call("OffsetFetch", 8, Groups=[{"GroupId": group, "Topics": [
                {"Name": "s", "PartitionIndexes": list(range(PARTITIONS))}]}])["Groups"][0]
            return g["Topics"][0]["Partitions"] if g["ErrorCode"] == NONE else None
        return [p["CommittedOffset"] for p in wait_until("the offsets", ask)]


@pytest.mark.parametrize("kind", [Free(), Bound()], ids=["free", "bound"])
def test_groups_read_all_of_the_stream_that_is_made_again(culex_factory, kind):
    culex = culex_factory(server={"auto.create.topics.enable": False})  # Java's consumer would make it again
    admin = AdminClient({"bootstrap.servers": culex.bootstrap})
    members = {}

    def life(letter, count):
        one(admin.create_topics([NewTopic("s", PARTITIONS, 1, config=kind.config)]))
        want = {f"{letter} {i}".encode() for i in range(count)}
        kind.write(culex, sorted(v.decode() for v in want))
        for name, options in MEMBERS.items():
            if name not in members:
                members[name] = Driver(name.partition("-")[0], culex.bootstrap, "s", name, 0, name=name, **options)
        for name, d in members.items():
            def mine(d=d):
                return [r.value for r in d.records if r.value.startswith(letter.encode())]
            d.wait_for(f"all of {letter}", lambda ev, mine=mine: want <= set(mine()), 120)
            assert len(mine()) == count, f"{name}: {letter} twice"
            wait_until(f"{name} has committed {letter}", lambda n=name: sum(committed(culex, n)) == count, 120, every=0.05)

    try:
        # Each is shorter than the one before: a position in that is out of range then, and the beginning is next. Where it
        # is not, a client that does not look at topic ids goes on where it was, as with Kafka.
        for letter, count in (("a", 60), ("b", 20), ("c", 10)):
            life(letter, count)
            one(admin.delete_topics(["s"]))
            assert {name: committed(culex, name) for name in MEMBERS} == dict.fromkeys(MEMBERS, [-1] * PARTITIONS)
    finally:
        for d in members.values():
            d.close()


@pytest.fixture
def server(culex_factory):
    culex = culex_factory(start=False, streams=[])
    culex.server.start()
    return culex


def make_again(w, *names):
    for name in names:
        assert w.call("DeleteTopics", 5, TopicNames=[name])["Responses"][0]["ErrorCode"] == NONE
    return make_topic(w, *names)


class ByLibrdkafka:
    def __init__(self, culex):
        self.p = Producer({"bootstrap.servers": culex.bootstrap, "enable.idempotence": True, "linger.ms": 1,
                           "message.timeout.ms": 60000})

    def send(self, values_):
        failed = []
        for v in values_:
            self.p.produce("t", v, partition=0, on_delivery=lambda e, m: failed.append(e) if e else None)
        assert self.p.flush(60) == 0 and failed == []

    def close(self):
        pass


class ByJava:
    """Kafka's console producer: idempotent, open as long as its input."""

    def __init__(self, culex):
        self.proc = subprocess.Popen([
            "java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{CLIENTS}/java/lib/*",
            "org.apache.kafka.tools.ConsoleProducer", "--bootstrap-server", culex.bootstrap, "--topic", "t",
            "--timeout", "1"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def send(self, values_):
        self.proc.stdin.write(b"".join(v + b"\n" for v in values_))
        self.proc.stdin.flush()

    def close(self):
        self.proc.kill()
        self.proc.wait(60)


@pytest.mark.parametrize("client", [ByLibrdkafka, ByJava])
def test_an_open_idempotent_producer_writes_the_stream_that_is_made_again(server, client):
    with Wire(server.server.port) as w:
        make_topic(w, "t")
        p = client(server)
        try:
            for life in range(3):
                want = [b"%d %d" % (life, i) for i in range(60)]
                p.send(want)
                wait_until("all is there", lambda want=want: len(values(server, "t")) >= len(want), 120, every=0.1)
                assert values(server, "t") == want
                make_again(w, "t")
        finally:
            p.close()


def test_an_open_transaction_ends_over_a_stream_that_is_made_again(server):
    """What was written into the old one is gone with it; the rest of the transaction, and the next one, are as ever."""
    with Wire(server.server.port) as w:
        make_topic(w, "t", "u")
        p = transactional(server, "x")
        for n in range(4):
            p.begin_transaction()
            p.produce("t", b"%d gone" % n, partition=0)
            p.produce("u", b"%d" % n, partition=0)
            assert p.flush(60) == 0
            make_again(w, "t")
            p.commit_transaction(60) if n % 2 else p.abort_transaction(60)
            assert values(server, "t", "read_uncommitted") == []
            p.begin_transaction()
            p.produce("t", b"%d next" % n, partition=0)
            p.commit_transaction(60)
            assert values(server, "t") == [b"%d next" % n]
        assert values(server, "u") == [b"1", b"3"]


def test_a_transaction_that_writes_on_into_a_stream_that_is_made_again_must_be_aborted(server):
    """Its first part went with the old one: whoever registers partitions by itself is told, and starts over."""
    with Wire(server.server.port) as w:
        make_topic(w, "t")
        p = transactional(server, "x")
        p.begin_transaction()
        p.produce("t", b"gone", partition=0)
        assert p.flush(60) == 0
        make_again(w, "t")
        p.produce("t", b"half", partition=0)
        p.flush(60)
        with pytest.raises(KafkaException) as e:
            p.commit_transaction(60)
        assert e.value.args[0].txn_requires_abort()
        p.abort_transaction(60)
        p.begin_transaction()
        p.produce("t", b"whole", partition=0)
        p.commit_transaction(60)
        assert values(server, "t") == [b"whole"]


def test_offsets_in_a_transaction_go_with_a_stream_that_is_made_again_while_the_server_is_down(culex):
    """As after a kill between the deletion of a stream and that of its offsets."""
    with Wire(culex.server.port) as w:
        make_topic(w, "t")
        _, pid, epoch = init(w, "x")
        for topic in "demo", "t":
            assert commit_offset(w, "x", "g", pid, epoch, topic, 5, 5) == NONE
    culex.kill()
    shutil.rmtree(culex.data / "captured")
    culex.start()
    with Wire(culex.server.port) as w:
        assert end(w, "x", pid, epoch, True, 5)[0] == NONE
        assert committed_offset(w, "g", "demo", stable=True) == -1
        assert committed_offset(w, "g", "t", stable=True) == 5


def test_offsets_of_a_captured_stream_stay_where_it_hides_a_topic_of_clients(culex_factory):
    culex = culex_factory(start=False, streams=[])
    culex.server.start()
    with Wire(culex.server.port) as w:
        make_topic(w, "demo")
    culex.streams.append({"name": "demo", "filters": ["demo/#"]})
    culex.write_config()
    culex.broker.start()
    culex.server.wait_log("a captured stream hides a topic of clients", 60)
    with Wire(culex.server.port) as w:
        _, pid, epoch = init(w, "x")
        a = w.call("OffsetCommit", 8, GroupId="committed", GenerationIdOrMemberEpoch=-1, Topics=[
            {"Name": "demo", "Partitions": [{"PartitionIndex": 0, "CommittedOffset": 5}]}])
        assert a["Topics"][0]["Partitions"][0]["ErrorCode"] == NONE
        assert commit_offset(w, "x", "in a transaction", pid, epoch, "demo", 7, 5) == NONE
    for _ in range(2):
        culex.server.kill9()
        culex.server.start()
        culex.server.wait_log("a captured stream hides a topic of clients", 60)
        with Wire(culex.server.port) as w:
            assert committed_offset(w, "committed", "demo") == 5
    with Wire(culex.server.port) as w:
        assert end(w, "x", pid, epoch, True, 5)[0] == NONE
        assert committed_offset(w, "in a transaction", "demo") == 7


def test_offsets_go_with_a_stream_that_is_made_again_while_the_servers_own_disk_is_full(culex_factory, small_disk):  # noqa: F811
    """The captured streams are there before the offsets are."""
    culex = with_history(culex_factory, small_disk)
    with Wire(culex.server.port) as w:
        _, pid, epoch = init(w, "x")
        assert commit_offset(w, "x", "in a transaction", pid, epoch, "demo", 5, 5) == NONE
        a = w.call("OffsetCommit", 8, GroupId="committed", GenerationIdOrMemberEpoch=-1, Topics=[
            {"Name": "demo", "Partitions": [{"PartitionIndex": 0, "CommittedOffset": 5}]}])
        assert a["Topics"][0]["Partitions"][0]["ErrorCode"] == NONE
    culex.kill()
    shutil.rmtree(culex.data / "captured")
    fill(small_disk)
    culex.start()
    culex.server.wait_log("own store cannot be opened")
    os.remove(small_disk / "fill")
    culex.server.wait_log("own store is open")
    with Wire(culex.server.port) as w:
        assert end(w, "x", pid, epoch, True, 5)[0] == NONE
        assert committed_offset(w, "in a transaction", "demo", stable=True) == -1
        assert committed_offset(w, "committed", "demo") == -1
