"""The server's own disk is full, also when it starts: groups cannot commit, everybody can read, and it heals without
a restart."""

import contextlib
import os
import shutil
import socket
import struct
import subprocess
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from confluent_kafka import KafkaException, TopicPartition
from harness import Driver, consumer, frame, group_violations, read_all, recv_frame, request_header, wait_until
from wire import Wire, ask

UNKNOWN_TOPIC_OR_PARTITION = 3
LEADER_NOT_AVAILABLE = 5
NOT_LEADER_OR_FOLLOWER = 6
COORDINATOR_NOT_AVAILABLE = 15
KAFKA_STORAGE_ERROR = 56
ELECTION_NOT_NEEDED = 84
UNSTABLE_OFFSET_COMMIT = 88
UNKNOWN_TOPIC_ID = 100


@pytest.fixture
def small_disk(tmp_path):
    where = tmp_path / "small"
    where.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=70m", "tmpfs", where], capture_output=True).returncode:
        pytest.skip("mounting a small file system is not permitted here")
    yield where
    subprocess.run(["umount", "-l", where], check=True)


def fill(disk):
    """Until not a byte is free, also of what the server gives back meanwhile."""
    def full():
        with open(disk / "fill", "ab", buffering=0) as f, pytest.raises(OSError):
            while True:
                f.write(bytes(1 << 16))
        return os.statvfs(disk).f_bavail == 0
    wait_until("the disk is full", full)


def commit(c, offset):
    """True when the server took it; what it says otherwise."""
    k = consumer(c.bootstrap, **{"group.id": "g"})
    try:
        k.commit(offsets=[TopicPartition("demo", 0, offset, "x" * 3000)], asynchronous=False)
        return True
    except KafkaException as e:
        return e.args[0].name()
    finally:
        k.close()


def committed(c):
    k = consumer(c.bootstrap, **{"group.id": "g"})
    try:
        return k.committed([TopicPartition("demo", 0)], timeout=60)[0].offset
    finally:
        k.close()


def with_history(culex_factory, small_disk, **settings):
    """The server's own directory is the small disk; 100 records are captured on the large one."""
    c = culex_factory(server=settings)
    c.server.stop()
    shutil.rmtree(c.data / "server")
    os.symlink(small_disk, c.data / "server")
    c.server.start()
    c.wait_topics()
    c.publish("demo/x", [str(k) for k in range(100)])
    return c


def threads(c):
    """By id, how much each gives way to others."""
    nice = {}
    for thread in os.listdir(f"/proc/{c.server.pid}/task"):
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            nice[thread] = os.getpriority(os.PRIO_PROCESS, int(thread))
    return nice


def test_full_disk_of_the_server_stops_commits_alone_and_heals(culex_factory, small_disk):
    c = with_history(culex_factory, small_disk)
    assert commit(c, 1) is True
    before = threads(c)
    fill(small_disk)
    said = next(s for s in (commit(c, 2) for _ in range(100)) if s is not True)
    assert said == "COORDINATOR_NOT_AVAILABLE"
    c.server.wait_log(r"own store is broken")
    assert len(read_all(c.bootstrap, "demo", 100)) == 100
    os.remove(small_disk / "fill")
    wait_until("commits are taken again", lambda: commit(c, 3) is True, every=0.2)
    assert committed(c) == 3
    now = threads(c)  # those of the store that was opened again are as the first was
    assert {nice for thread, nice in now.items() if thread not in before} == {now[str(c.server.pid)]}
    c.server.kill9()
    c.server.start()
    assert committed(c) == 3
    assert c.server.running()


@pytest.mark.parametrize("client", ["librdkafka", "java"])
def test_members_of_the_consumer_protocol_outlive_a_full_disk(culex_factory, small_disk, client):
    """A commit has failed that may be there: until the store is open again, nobody knows what a member may have."""
    c = with_history(culex_factory, small_disk, **{"group.consumer.heartbeat.interval.ms": 100,
                                                   "group.consumer.session.timeout.ms": 600000})
    member = {"GroupId": "by hand", "MemberId": "m", "MemberEpoch": 0, "RebalanceTimeoutMs": 30000,
              "SubscribedTopicNames": ["demo"], "TopicPartitions": []}
    lives_on = member | {"MemberEpoch": 1, "RebalanceTimeoutMs": -1, "SubscribedTopicNames": None,
                         "TopicPartitions": None}

    def heartbeat(fields):
        return ask(c.server.port, "ConsumerGroupHeartbeat", 1, **fields)["ErrorCode"]
    d = Driver(client, c.bootstrap, "demo", "live", 0, protocol="consumer")
    try:
        d.wait_records(100)
        assert [heartbeat(member), heartbeat(lives_on)] == [0, 0]
        fill(small_disk)
        while commit(c, 1) is True:
            pass
        assert heartbeat(lives_on) == COORDINATOR_NOT_AVAILABLE
        c.server.wait_log(r"own store is broken")
        assert heartbeat(lives_on) == COORDINATOR_NOT_AVAILABLE
        c.server.wait_log(r"own store cannot be opened, trying again")
        os.remove(small_disk / "fill")
        wait_until("the member goes on", lambda: heartbeat(lives_on) == 0, every=0.1)
        c.publish("demo/x", [str(k) for k in range(100)])
        d.wait_records(200)
        d.leave()
        assert len({(e["p"], e["o"]) for _, e in d.events if "o" in e}) == 200
        assert group_violations([d]) == []
    finally:
        d.close()


def heartbeat_error(c):
    """What Heartbeat v0 is answered: a group request that asks for no coordinator first."""
    with socket.create_connection(("127.0.0.1", c.server.port), timeout=60) as s:
        s.sendall(frame(request_header(12, 0) + struct.pack(">h1sih1s", 1, b"g", 1, 1, b"m")))
        return struct.unpack(">ih", recv_frame(s))[1]


def test_server_starts_on_a_full_disk_serves_history_and_heals(culex_factory, small_disk):
    c = with_history(culex_factory, small_disk)
    assert commit(c, 7) is True
    c.server.stop()
    fill(small_disk)
    c.server.start()
    c.server.wait_log(r"own store cannot be opened, trying again: [^\n]*(disk is full|No space left)")
    c.wait_topics()
    assert len(read_all(c.bootstrap, "demo", 100)) == 100
    c.publish("demo/x", ["live"])
    assert len(read_all(c.bootstrap, "demo", 101)) == 101
    assert heartbeat_error(c) == 15
    k = consumer(c.bootstrap, **{"group.id": "later"})
    try:
        k.subscribe(["demo"])
        assert k.poll(0.5) is None
        os.remove(small_disk / "fill")
        c.server.wait_log("own store is open")
        assert wait_until("the group gets records", lambda: k.poll(1), 60).error() is None
    finally:
        k.close()
    assert committed(c) == 7
    assert commit(c, 8) is True


def test_clients_are_served_while_the_own_store_is_being_opened_again(culex_factory, small_disk):
    """RocksDB reads CURRENT first: a pipe in its place holds up who opens the store for as long as the test wants."""
    c = with_history(culex_factory, small_disk)
    assert commit(c, 7) is True
    current, pipe, real = (small_disk / "db" / n for n in ("CURRENT", "pipe", "real"))
    os.mkfifo(pipe)
    fill(small_disk)
    while commit(c, 8) is True:
        pass
    c.server.wait_log(r"own store is broken")
    text = current.read_bytes()
    os.link(current, real)
    os.rename(pipe, current)
    os.remove(small_disk / "fill")  # before, nobody tries to open it

    def somebody_reads():
        try:
            return os.open(current, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return None
    fd = wait_until("the store is being opened", somebody_reads)
    try:
        assert ask(c.server.port, "ApiVersions", 3, ClientSoftwareName="t", ClientSoftwareVersion="1")["ErrorCode"] == 0
        assert len(read_all(c.bootstrap, "demo", 100)) == 100
        assert commit(c, 11) == "COORDINATOR_NOT_AVAILABLE"
    finally:
        os.rename(real, current)
        os.write(fd, text)
        os.close(fd)
    wait_until("commits are taken again", lambda: commit(c, 12) is True, every=0.2)
    assert committed(c) == 12


def loop_seconds(c):
    """Of a processor, that the thread of the loop has used."""
    with open(f"/proc/{c.server.pid}/task/{c.server.pid}/schedstat", encoding="ascii") as f:
        return int(f.read().split()[0]) / 1e9


def errors_in(answer):
    if isinstance(answer, dict):
        return {answer.get("ErrorCode", 0)}.union(*map(errors_in, answer.values()))
    return set().union(*map(errors_in, answer)) if isinstance(answer, list) else set()


def test_what_is_stored_is_read_anew_beside_the_loop(culex_factory, small_disk):
    """What it costs to read it is known from the start, where the thread of the loop does it."""
    c = with_history(culex_factory, small_disk, **{"auto.create.topics.enable": False})
    groups, partitions = 150, 1000

    def committed_of(group):
        answer = ask(c.server.port, "OffsetFetch", 8, Groups=[{"GroupId": group, "Topics": None}])["Groups"][0]
        return [p["CommittedOffset"] for t in answer["Topics"] for p in t["Partitions"]]

    ask(c.server.port, "CreateTopics", 5,
        Topics=[{"Name": "free", "NumPartitions": partitions, "ReplicationFactor": 1}])
    offsets = [{"PartitionIndex": i, "CommittedOffset": i} for i in range(partitions)]
    with Wire(c.server.port) as w:
        request = w.frame("OffsetCommit", 8, GroupId="g000", Topics=[{"Name": "free", "Partitions": offsets}])
        for i in range(groups):
            w.s.sendall(request.replace(b"g000", b"g%03d" % i))
            assert errors_in(w.recv("OffsetCommit", 8)) == {0}
    c.server.stop()
    c.server.start()
    costs = loop_seconds(c)
    fill(small_disk)
    while commit(c, 1) is True:
        pass
    c.server.wait_log(r"own store is broken")
    before = loop_seconds(c)
    os.remove(small_disk / "fill")
    c.server.wait_log("own store is open")
    assert loop_seconds(c) - before < costs / 4
    assert committed_of("g000") == committed_of(f"g{groups - 1}") == list(range(partitions))


def test_full_disk_takes_nothing_back_that_was_answered_and_writing_goes_on_when_there_is_room(culex_factory, small_disk):
    """Producers with Kafka's default patience see a pause. Readers wait meanwhile, also for more: what they hold of the
    store must not keep it from being opened again."""
    from confluent_kafka import Producer
    c = culex_factory(start=False, streams=[])
    os.symlink(small_disk, c.data / "server")
    c.server.start()
    said, failed = {}, []

    def answered(err, m):
        if err is None:
            said[m.offset()] = m.value()
        else:
            failed.append(err)

    p = Producer({"bootstrap.servers": c.bootstrap, "linger.ms": 1, "retry.backoff.max.ms": 100})
    p.produce("free", b"first", on_delivery=answered)
    assert p.flush(60) == 0
    reader = consumer(c.bootstrap, **{"fetch.min.bytes": 1 << 20, "fetch.wait.max.ms": 5000})
    try:
        reader.assign([TopicPartition("free", 0, 1)])
        reader.poll(0)
        fill(small_disk)
        for i in range(40):
            p.produce("free", b"%d " % i + bytes(20000), on_delivery=answered)
            p.poll(0.05)
        c.server.wait_log(r"own store is broken")
        asked = ask(c.server.port, "Metadata", 9, Topics=[{"Name": "free"}], AllowAutoTopicCreation=True)
        assert asked["Topics"][0]["ErrorCode"] == LEADER_NOT_AVAILABLE  # and not that there is no such topic
        os.remove(small_disk / "fill")
        assert p.flush(60) == 0 and failed == []
        p.produce("free", b"last", on_delivery=answered)
        assert p.flush(60) == 0 and failed == []
        got = read_all(c.bootstrap, "free")
        assert {r.offset: r.value for r in got}.items() >= said.items()
        assert got[-1].value == b"last" and len(said) == 42
        c.server.kill9()
        c.server.start()
        assert {r.offset: r.value for r in read_all(c.bootstrap, "free")}.items() >= said.items()
    finally:
        reader.close()


def named(what, **partition):
    return {"Topics": [{what: "free", "Partitions": [partition]}]}


MARKER = {"ProducerId": 7, "Topics": [{"Name": "free", "PartitionIndexes": [0]}]}
# Who asks for the stream, and what is told instead of that there is none while the store may have it.
ASKED = [
    ("OffsetCommit", 8, COORDINATOR_NOT_AVAILABLE, {"GroupId": "g"} | named("Name", PartitionIndex=0, CommittedOffset=1)),
    ("OffsetDelete", 0, COORDINATOR_NOT_AVAILABLE, {"GroupId": "g"} | named("Name", PartitionIndex=0)),
    ("ListOffsets", 7, LEADER_NOT_AVAILABLE, named("Name", PartitionIndex=0, Timestamp=-1)),
    ("OffsetForLeaderEpoch", 4, LEADER_NOT_AVAILABLE, named("Topic", Partition=0, LeaderEpoch=0)),
    ("DescribeTopicPartitions", 0, LEADER_NOT_AVAILABLE, {"Topics": [{"Name": "free"}]}),
    ("Fetch", 12, KAFKA_STORAGE_ERROR, named("Topic", Partition=0, FetchOffset=0, PartitionMaxBytes=1 << 20)),
    ("DescribeConfigs", 4, KAFKA_STORAGE_ERROR, {"Resources": [{"ResourceType": 2, "ResourceName": "free"}]}),
    ("IncrementalAlterConfigs", 1, KAFKA_STORAGE_ERROR, {"Resources": [{"ResourceType": 2, "ResourceName": "free"}]}),
    ("CreatePartitions", 3, KAFKA_STORAGE_ERROR,
     {"Topics": [{"Name": "free", "Count": 2, "Assignments": None}], "ValidateOnly": True}),
    ("DeleteRecords", 2, KAFKA_STORAGE_ERROR, named("Name", PartitionIndex=0, Offset=0)),
    ("DeleteTopics", 6, KAFKA_STORAGE_ERROR, {"Topics": [{"Name": "none"}]}),
    ("DescribeProducers", 0, NOT_LEADER_OR_FOLLOWER, {"Topics": [{"Name": "free", "PartitionIndexes": [0]}]}),
    ("WriteTxnMarkers", 1, NOT_LEADER_OR_FOLLOWER, {"Markers": [MARKER]}),
    ("ElectLeaders", 2, LEADER_NOT_AVAILABLE, {"TopicPartitions": [{"Topic": "free", "Partitions": [0]}]}),
]


def asked_by_id(topic_id):
    topic = {"TopicId": topic_id, "PartitionIndexes": [0]}
    return [
        ("Metadata", 12, LEADER_NOT_AVAILABLE, {"Topics": [{"TopicId": topic_id, "Name": None}]}),
        ("OffsetFetch", 10, UNSTABLE_OFFSET_COMMIT, {"Groups": [{"GroupId": "g", "Topics": [topic]}]}),
    ]


def errors_told(c, asked):
    return {api: max(errors_in(ask(c.server.port, api, version, **body))) for api, version, _, body in asked}


def test_streams_of_clients_are_not_called_unknown_while_the_disk_is_full(culex_factory, small_disk):
    from confluent_kafka import Producer
    c = culex_factory(start=False, streams=[])
    os.symlink(small_disk, c.data / "server")
    c.server.start()
    p = Producer({"bootstrap.servers": c.bootstrap})
    p.produce("free", b"one")
    assert p.flush(60) == 0
    told = ask(c.server.port, "Metadata", 12, Topics=[{"Name": "free"}])["Topics"][0]
    asked = ASKED + asked_by_id(told["TopicId"])
    usual = dict.fromkeys((api for api, *_ in asked), 0)
    usual |= {"DeleteTopics": UNKNOWN_TOPIC_OR_PARTITION, "ElectLeaders": ELECTION_NOT_NEEDED}
    assert errors_told(c, asked) == usual
    assert set(errors_told(c, asked_by_id(uuid.uuid4())).values()) == {UNKNOWN_TOPIC_ID}
    k = consumer(c.bootstrap, **{"group.id": "g"})
    try:
        fill(small_disk)
        for _ in range(40):  # no more than there is room for afterwards
            p.produce("free", bytes(20000))
            p.poll(0.01)
        c.server.wait_log(r"own store is broken")
        assert errors_told(c, asked) == {api: error for api, _, error, _ in asked}
        with ThreadPoolExecutor(1) as pool:  # librdkafka asks until it is told
            begins = pool.submit(k.get_watermark_offsets, TopicPartition("free", 0), timeout=120)
            os.remove(small_disk / "fill")
            assert begins.result(130)[0] == 0
        assert p.flush(60) == 0
        assert errors_told(c, asked) == usual
    finally:
        k.close()
