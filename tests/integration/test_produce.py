"""Clients write streams of their own; captured streams refuse them with a sentence."""

import select
import struct
import threading
import time
import uuid
from pathlib import Path

import pytest
from harness import api_versions, by_partition, end_offsets, read_all, stored, wait_until
from wire import Wire, ask

NONE, CORRUPT, UNKNOWN_TOPIC, TOO_LARGE, ACKS = 0, 2, 3, 10, 21
POLICY, ZSTD_TOO_OLD, INVALID_RECORD, UNKNOWN_ID = 44, 76, 87, 100
CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}


def batch(values, codec="none", key=b"k", **fields):
    """A record batch as aiokafka builds it."""
    from aiokafka.record.default_records import DefaultRecordBatchBuilder
    made = {"is_transactional": 0, "producer_id": -1, "producer_epoch": -1, "base_sequence": -1, **fields}
    now = int(time.time() * 1000)
    b = DefaultRecordBatchBuilder(2, CODECS[codec], batch_size=1 << 30, **made)
    for i, v in enumerate(values):
        assert b.append(i, timestamp=now + i, key=key, value=v, headers=[]) is not None
    return bytes(b.build())


def produce(w, data, version=9, acks=-1, names=None):
    """data: {topic: {partition: bytes}}; the answers alike."""
    topics = [{"Name": t, "PartitionData": [{"Index": p, "Records": r} for p, r in parts.items()]}
              for t, parts in data.items()]
    if version >= 13:
        for t in topics:
            t["TopicId"] = names[t.pop("Name")]
    a = w.call("Produce", version, Acks=acks, TimeoutMs=1000, TopicData=topics)
    key = "TopicId" if version >= 13 else "Name"
    return {t[key]: {p["Index"]: p for p in t["PartitionResponses"]} for t in a["Responses"]}


def make_topic(w, *names):
    """By asking for them; returns their ids."""
    a = w.call("Metadata", 12, Topics=[{"Name": n} for n in names], AllowAutoTopicCreation=True)
    assert [t["ErrorCode"] for t in a["Topics"]] == [NONE] * len(names)
    return {t["Name"]: t["TopicId"] for t in a["Topics"]}


@pytest.fixture
def server(culex_factory):
    culex = culex_factory(start=False, streams=[])
    culex.server.start()
    return culex


@pytest.fixture
def wire(server):
    with Wire(server.server.port) as w:
        yield w


def written(bootstrap, topic, partition=0, **conf):
    from confluent_kafka import Producer
    answers = []
    p = Producer({"bootstrap.servers": bootstrap, "message.timeout.ms": 60000, **conf})
    p.produce(topic, b"x", partition=partition, on_delivery=lambda err, msg: answers.append(err))
    p.flush(60)
    return answers[0]


# --- captured streams ----------------------------------------------------------------------------


def test_write_to_a_captured_stream_is_refused_and_nothing_is_stored(culex):
    err = written(culex.bootstrap, "demo")
    assert err is not None and err.name() == "POLICY_VIOLATION", err
    assert stored(culex.bootstrap, "demo") == 0


def test_refusal_names_the_filter_and_others_in_the_request_are_stored(culex):
    with Wire(culex.server.port) as w:
        make_topic(w, "free")
        a = produce(w, {"demo": {0: batch([b"x"])}, "free": {0: batch([b"x"])}})
    assert a["demo"][0]["ErrorCode"] == POLICY and "demo/#" in a["demo"][0]["ErrorMessage"]
    assert a["free"][0]["ErrorCode"] == NONE and a["free"][0]["BaseOffset"] == 0
    assert stored(culex.bootstrap, "demo") == 0 and stored(culex.bootstrap, "free") == 1


def test_write_without_acknowledgement_to_a_captured_stream_closes_the_connection(culex):
    written(culex.bootstrap, "demo", acks=0)
    culex.server.wait_log("wrote with acks=0 what cannot be stored")
    assert set(end_offsets(culex.bootstrap, "demo").values()) == {(0, 0)}


def test_produce_is_offered_from_version_0_as_librdkafka_asks_for(culex):
    body = api_versions(culex.server.port)
    error, count = struct.unpack_from(">hi", body)
    rows = {k: (low, high) for k, low, high in struct.iter_unpack(">hhh", body[6:6 + 6 * count])}
    assert error == 0 and rows[0][0] == 0 and rows[0][1] >= 7


# --- streams of clients --------------------------------------------------------------------------


@pytest.mark.sanitized
@pytest.mark.parametrize("version", range(3, 14))
def test_every_version_stores_and_answers(server, wire, version):
    ids = make_topic(wire, "t")
    for base in (0, 2):
        a = produce(wire, {"t": {0: batch([b"a", b"b"])}}, version, names=ids)
        p = a[ids["t"] if version >= 13 else "t"][0]
        assert p["ErrorCode"] == NONE and p["BaseOffset"] == base and p["LogAppendTimeMs"] == -1
        assert p.get("LogStartOffset", 0) == 0 and not p.get("RecordErrors") and not p.get("ErrorMessage")
    assert [r.value for r in read_all(server.bootstrap, "t")] == [b"a", b"b"] * 2


@pytest.mark.sanitized
@pytest.mark.parametrize("codec", CODECS)
def test_records_come_back_as_they_were_written(server, codec):
    from confluent_kafka import Producer
    p = Producer({"bootstrap.servers": server.bootstrap, "compression.type": codec, "linger.ms": 5})
    said = []
    sent = [(f"k{i % 7}".encode(), f"{i} ä€".encode() * (i % 50), [("h", bytes([i % 256])), ("h", None)])
            for i in range(2000)]
    for k, v, h in sent:
        p.produce("t", v, k, headers=h, timestamp=1700000000000 + len(v),
                  on_delivery=lambda err, m: said.append((err, m.offset())))
    assert p.flush(60) == 0
    assert said == [(None, i) for i in range(len(sent))]
    got = read_all(server.bootstrap, "t", len(sent))
    assert [(r.key, r.value, r.headers, r.timestamp) for r in got] == \
        [(k, v, h, 1700000000000 + len(v)) for k, v, h in sent]


def others_are_heard(server, w, topics):
    """Sends what takes long, and asks on another connection meanwhile; the first answer's errors and offsets. Once more where this
    test was held up for so long itself: a server that is held up never hears anybody."""
    w.s.settimeout(240)
    first = None
    with Wire(server.server.port) as other:
        for _ in range(10):
            w.send("Produce", 9, Acks=-1, TimeoutMs=1000, TopicData=topics)
            for _ in range(20):
                other.call("ApiVersions", 3, ClientSoftwareName="t", ClientSoftwareVersion="1")
            heard = not select.select([w.s], [], [], 0)[0]
            parts = w.recv("Produce", 9)["Responses"][0]["PartitionResponses"]
            first = first or ([p["ErrorCode"] for p in parts], [p["BaseOffset"] for p in parts])
            if heard:
                return first
    raise AssertionError("what takes long is answered before what takes no time")


def test_batches_that_decompress_to_much_hold_up_nobody_else(server, wire):
    make_topic(wire, "t")
    small, bomb = batch([b"x"], "gzip"), batch([bytes(12 << 20)], "gzip")
    assert len(bomb) < 16384
    parts = [{"Index": 0, "Records": r} for r in [small] + [bomb] * 40 + [small]]
    errors, offsets = others_are_heard(server, wire, [{"Name": "t", "PartitionData": parts}])
    assert errors == [NONE] * 42 and offsets == list(range(42))
    make_keyed = wire.call("CreateTopics", 5, timeoutMs=10000, Topics=[
        {"Name": "keyed", "NumPartitions": 1, "ReplicationFactor": 1,
         "Configs": [{"Name": "cleanup.policy", "Value": "compact"}]}])
    assert make_keyed["Topics"][0]["ErrorCode"] == NONE
    parts = [{"Index": 0, "Records": batch([bytes(12 << 20)], "gzip", key=None)}] * 40
    errors, _ = others_are_heard(server, wire, [{"Name": "keyed", "PartitionData": parts}])
    assert errors == [INVALID_RECORD] * 40


def test_batches_that_get_another_codec_hold_up_nobody_else(server, wire):
    config = {"compression.type": "zstd", "compression.zstd.level": "19"}
    made = wire.call("CreateTopics", 5, timeoutMs=10000, Topics=[
        {"Name": "t", "NumPartitions": 1, "ReplicationFactor": 1,
         "Configs": [{"Name": k, "Value": v} for k, v in config.items()]}])
    assert made["Topics"][0]["ErrorCode"] == NONE
    text = b" ".join(b"%x" % (k * 2654435761 % 4294967291) for k in range(30000))
    parts = [{"Index": 0, "Records": batch([b"%d" % k + text])} for k in range(4)]
    errors, offsets = others_are_heard(server, wire, [{"Name": "t", "PartitionData": parts}])
    assert errors == [NONE] * 4 and offsets == [0, 1, 2, 3]
    assert [r.value for r in read_all(server.bootstrap, "t")[:4]] == [b"%d" % k + text for k in range(4)]


@pytest.mark.sanitized
def test_a_client_that_leaves_while_its_batches_are_judged_leaves_nothing_behind(server, wire):
    make_topic(wire, "t")
    bomb = batch([bytes(12 << 20)], "gzip")
    for _ in range(3):
        with Wire(server.server.port) as gone:
            gone.send("Produce", 9, Acks=-1, TimeoutMs=1000, TopicData=[
                {"Name": "t", "PartitionData": [{"Index": 0, "Records": bomb}] * 5}])
            wire.call("ApiVersions", 3, ClientSoftwareName="t", ClientSoftwareVersion="1")
    assert produce(wire, {"t": {0: bomb}})["t"][0]["ErrorCode"] == NONE
    server.server.stop()
    assert server.server.running() is False


def processor_ticks(culex):
    """What the server has used so far."""
    with open(f"/proc/{culex.server.proc.pid}/stat", encoding="ascii") as f:
        user, system = f.read().rpartition(")")[2].split()[11:13]
    return int(user) + int(system)


def test_batches_of_clients_that_left_are_not_judged(server, wire):
    """One thread judges: it would be busy with them for long after they gave up. So little is sent that all have left before
    it is through with the first few."""
    make_topic(wire, "t")
    bomb = batch([bytes(64 << 20)], "gzip")

    def judge():
        before = processor_ticks(server)
        assert produce(wire, {"t": {0: bomb}})["t"][0]["ErrorCode"] == NONE
        return processor_ticks(server) - before
    one = min(judge() for _ in range(3))
    before = processor_ticks(server)
    leavers = [Wire(server.server.port) for _ in range(100)]
    for w in leavers:
        w.send("Produce", 9, Acks=-1, TimeoutMs=1000, TopicData=[
            {"Name": "t", "PartitionData": [{"Index": 0, "Records": bomb}]}])
    for w in leavers:
        w.s.close()
    wire.s.settimeout(60)
    assert produce(wire, {"t": {0: bomb}})["t"][0]["ErrorCode"] == NONE  # behind all of them
    assert processor_ticks(server) - before < 50 * one


@pytest.mark.parametrize("acks", [0, 1, -1])
def test_acks(server, wire, acks):
    make_topic(wire, "t")
    topics = [{"Name": "t", "PartitionData": [{"Index": 0, "Records": batch([b"x"])}]}]
    wire.send("Produce", 9, Acks=acks, TimeoutMs=1000, TopicData=topics)
    if acks == 0:  # the next answer on this connection is that of the next request
        wire.call("ApiVersions", 3, ClientSoftwareName="t", ClientSoftwareVersion="1")
    else:
        assert wire.recv("Produce", 9)["Responses"][0]["PartitionResponses"][0]["ErrorCode"] == NONE
    assert stored(server.bootstrap, "t") == 1


def test_other_acks_are_refused(server, wire):
    make_topic(wire, "t")
    for acks in (2, -2):
        assert produce(wire, {"t": {0: batch([b"x"])}}, acks=acks)["t"][0]["ErrorCode"] == ACKS
    assert stored(server.bootstrap, "t") == 0


@pytest.mark.sanitized
def test_each_partition_has_its_own_answer(server, wire):
    ids = make_topic(wire, "t", "u")
    good = batch([b"x"])
    torn = good[:30] + bytes([good[30] ^ 1]) + good[31:]
    large = batch([bytes(1 << 20)])
    assert len(large) > 1048588
    zstd = good[:22] + bytes([CODECS["zstd"]]) + good[23:]
    a = produce(wire, {"t": {0: torn, 7: good}, "none": {0: good}, "u": {0: good}})
    assert {(t, p): x["ErrorCode"] for t, ps in a.items() for p, x in ps.items()} == {
        ("t", 0): CORRUPT, ("t", 7): UNKNOWN_TOPIC, ("none", 0): UNKNOWN_TOPIC, ("u", 0): NONE}
    assert all(x["BaseOffset"] == -1 for ps in a.values() for x in ps.values() if x["ErrorCode"])
    assert produce(wire, {"t": {0: large}})["t"][0]["ErrorCode"] == TOO_LARGE
    assert produce(wire, {"t": {0: zstd}}, 6)["t"][0]["ErrorCode"] == ZSTD_TOO_OLD
    other = uuid.uuid4()
    assert produce(wire, {"t": {0: good}}, 13, names={"t": other})[other][0]["ErrorCode"] == UNKNOWN_ID
    assert produce(wire, {"t": {0: good}})["t"][0]["ErrorCode"] == NONE
    assert stored(server.bootstrap, "t") == 1 and stored(server.bootstrap, "u") == 1
    assert set(ids) == {"t", "u"}


@pytest.mark.parametrize("records", [
    None, b"", batch([b"x"])[:-1], batch([b"x"]) * 2,
    struct.pack(">q", 1) + batch([b"x"])[8:],  # a base offset that is not 0
], ids=["null", "empty", "cut off", "two batches", "base offset"])
@pytest.mark.sanitized
def test_what_is_not_one_whole_batch_is_an_invalid_record(server, wire, records):
    make_topic(wire, "t")
    assert produce(wire, {"t": {0: records}})["t"][0]["ErrorCode"] == INVALID_RECORD
    assert stored(server.bootstrap, "t") == 0


def test_a_request_larger_than_a_turn_is_stored_whole_and_once(server, wire):
    """Twenty partitions of 900 kB: the commit of a turn takes four of them."""
    names = [f"t{i}" for i in range(20)]
    make_topic(wire, *names)
    data = {n: {0: batch([n.encode() * 1000] * 300)} for n in names}
    for base in (0, 300):
        a = produce(wire, data)
        assert all(a[n][0]["ErrorCode"] == NONE and a[n][0]["BaseOffset"] == base for n in names)
    for n in names:
        assert [r.value for r in read_all(server.bootstrap, n)] == [n.encode() * 1000] * 600


def test_producers_at_the_same_time_share_offsets_without_gaps(server):
    def write(tag, said):
        with Wire(server.server.port) as w:
            for i in range(200):
                said.append((produce(w, {"t": {0: batch([b"%d %d" % (tag, i)] * 3)}})["t"][0]["BaseOffset"], tag, i))
    with Wire(server.server.port) as w:
        make_topic(w, "t")
    said = []
    threads = [threading.Thread(target=write, args=(k, said)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    records = by_partition(read_all(server.bootstrap, "t", 2400))[0]
    assert [r.offset for r in records] == list(range(2400))
    for base, tag, i in said:
        assert [r.value for r in records[base:base + 3]] == [b"%d %d" % (tag, i)] * 3


def test_a_waiting_fetch_is_answered_when_something_is_written(server, wire):
    ids = make_topic(wire, "t")
    with Wire(server.server.port) as reader:
        reader.send("Fetch", 13, MaxWaitMs=20000, MinBytes=1, MaxBytes=1 << 20, SessionEpoch=-1, Topics=[
            {"TopicId": ids["t"], "Partitions": [{"Partition": 0, "FetchOffset": 0, "PartitionMaxBytes": 1 << 20}]}])
        produce(wire, {"t": {0: batch([b"woken"])}})
        p = reader.recv("Fetch", 13)["Responses"][0]["Partitions"][0]
    assert p["HighWatermark"] == 1 and b"woken" in p["Records"]


# --- idempotence -----------------------------------------------------------------------------------


OUT_OF_ORDER = 45


def sequenced(values, first, producer=7, epoch=0):
    return batch(values, producer_id=producer, producer_epoch=epoch, base_sequence=first)


def test_a_repeated_batch_is_answered_as_the_first_and_stored_once(server, wire):
    make_topic(wire, "t")
    first, second = sequenced([b"a", b"b"], 0), sequenced([b"c"], 2)
    for records, base in ((first, 0), (second, 2), (first, 0), (second, 2)):
        p = produce(wire, {"t": {0: records}})["t"][0]
        assert (p["ErrorCode"], p["BaseOffset"]) == (NONE, base)
    p = produce(wire, {"t": {0: sequenced([b"late"], 9)}})["t"][0]
    assert (p["ErrorCode"], p["BaseOffset"]) == (OUT_OF_ORDER, -1)
    server.server.kill9()
    server.server.start()
    with Wire(server.server.port) as again:
        p = produce(again, {"t": {0: first}})["t"][0]
        assert (p["ErrorCode"], p["BaseOffset"]) == (NONE, 0)
        assert produce(again, {"t": {0: sequenced([b"d"], 3)}})["t"][0]["BaseOffset"] == 3
    assert [r.value for r in read_all(server.bootstrap, "t")] == [b"a", b"b", b"c", b"d"]


# --- transactions, as their readers see them --------------------------------------------------------


BATCH = 900_000


def bytes_read(pid):
    """By all reads of files, the kernel's cache included."""
    return int(Path(f"/proc/{pid}/io").read_text().split()[1])


def list_end(w, topic, isolation, timestamp=-1):
    a = w.call("ListOffsets", 6, ReplicaId=-1, IsolationLevel=isolation, Topics=[
        {"Name": topic, "Partitions": [{"PartitionIndex": 0, "Timestamp": timestamp}]}])
    p = a["Topics"][0]["Partitions"][0]
    assert p["ErrorCode"] == NONE
    return p["Offset"]


def fetched(w, topic, offset, isolation, wait_ms=0):
    w.send("Fetch", 12, MaxWaitMs=wait_ms, MinBytes=1, MaxBytes=1 << 20, IsolationLevel=isolation, SessionEpoch=-1, Topics=[
        {"Topic": topic, "Partitions": [{"Partition": 0, "FetchOffset": offset, "PartitionMaxBytes": 1 << 20}]}])
    return lambda: w.recv("Fetch", 12)["Responses"][0]["Partitions"][0]


def committed_values(bootstrap, topic, count, isolation):
    from confluent_kafka import TopicPartition
    from harness import consumer
    c = consumer(bootstrap, **{"isolation.level": isolation})
    try:
        c.assign([TopicPartition(topic, 0, 0)])
        return [m.value() for m in (c.poll(60) for _ in range(count))]
    finally:
        c.close()


@pytest.mark.sanitized
def test_readers_of_committed_records_wait_for_the_end_of_a_transaction_and_skip_aborted_ones(server, wire):
    from confluent_kafka import Producer
    make_topic(wire, "t")
    p = Producer({"bootstrap.servers": server.bootstrap, "transactional.id": "x", "linger.ms": 0})
    p.init_transactions(60)
    produce(wire, {"t": {0: batch([b"before"])}})
    p.begin_transaction()
    p.produce("t", b"open", partition=0)
    assert p.flush(60) == 0
    produce(wire, {"t": {0: batch([b"behind"])}})
    assert (list_end(wire, "t", 0), list_end(wire, "t", 1)) == (3, 1)
    assert list_end(wire, "t", 1, timestamp=int(time.time() * 1000) + 1) == -1
    a = fetched(wire, "t", 0, 1)()
    assert (a["HighWatermark"], a["LastStableOffset"], a["AbortedTransactions"]) == (3, 1, [])
    assert b"before" in a["Records"] and b"open" not in a["Records"]
    a = fetched(wire, "t", 0, 0)()
    assert a["LastStableOffset"] == 1 and a["AbortedTransactions"] is None and b"behind" in a["Records"]
    with Wire(server.server.port) as reader:
        later = fetched(reader, "t", 1, 1, wait_ms=50000)
        p.abort_transaction(60)
        a = later()
    assert (a["HighWatermark"], a["LastStableOffset"]) == (4, 4)
    assert [x["FirstOffset"] for x in a["AbortedTransactions"]] == [1] and b"behind" in a["Records"]
    p.begin_transaction()
    p.produce("t", b"committed", partition=0)
    p.commit_transaction(60)
    assert committed_values(server.bootstrap, "t", 3, "read_committed") == [b"before", b"behind", b"committed"]
    assert committed_values(server.bootstrap, "t", 4, "read_uncommitted") == [b"before", b"open", b"behind", b"committed"]


@pytest.mark.sanitized
def test_a_transactional_batch_needs_its_transaction(server, wire):
    make_topic(wire, "t")
    r = batch([b"x"], is_transactional=1, producer_id=4711, producer_epoch=0, base_sequence=0)
    assert produce(wire, {"t": {0: r}})["t"][0]["ErrorCode"] == 53
    topics = [{"Name": "t", "PartitionData": [{"Index": 0, "Records": r}]}]
    a = wire.call("Produce", 9, TransactionalId="nobody", Acks=-1, TimeoutMs=1000, TopicData=topics)
    assert a["Responses"][0]["PartitionResponses"][0]["ErrorCode"] == 49
    assert stored(server.bootstrap, "t") == 0


def test_readers_of_committed_records_stop_where_they_should_on_disk_too(culex_factory):
    """The tail ring holds 64 kB of the 2 MB that are written around the open transaction."""
    from confluent_kafka import Producer
    c = culex_factory(start=False, streams=[], server={"store.tail.bytes": 65536})
    c.server.start()
    with Wire(c.server.port) as w:
        make_topic(w, "t")
        p = Producer({"bootstrap.servers": c.bootstrap, "transactional.id": "x", "linger.ms": 0})
        p.init_transactions(60)
        for i in range(100):
            produce(w, {"t": {0: batch([b"before %d " % i + bytes(10000)])}})
        p.begin_transaction()
        p.produce("t", b"open", partition=0)
        assert p.flush(60) == 0
        for i in range(100):
            produce(w, {"t": {0: batch([b"behind %d " % i + bytes(10000)])}})
        a, records, offset = None, b"", 0
        while offset < 100:
            w.send("Fetch", 12, MaxWaitMs=0, MinBytes=1, MaxBytes=8 << 20, IsolationLevel=1, SessionEpoch=-1, Topics=[
                {"Topic": "t", "Partitions": [{"Partition": 0, "FetchOffset": offset, "PartitionMaxBytes": 8 << 20}]}])
            a = w.recv("Fetch", 12)["Responses"][0]["Partitions"][0]
            assert a["ErrorCode"] == NONE and a["Records"]
            records += a["Records"]
            offset = records.count(b"before ")
        assert (a["HighWatermark"], a["LastStableOffset"], offset) == (201, 100, 100)
        assert b"open" not in records and b"behind" not in records
        assert fetched(w, "t", 100, 1)()["Records"] == b""
        p.abort_transaction(60)
        a = fetched(w, "t", 99, 1)()
        assert [x["FirstOffset"] for x in a["AbortedTransactions"]] == [100] and b"behind 0 " in a["Records"]


def test_a_reader_of_long_batches_finds_the_next_one_read(culex_factory):
    """Two batches of 900 kB. To read the first has the server read the second, from where it is answered."""
    c = culex_factory(start=False, streams=[], server={"store.tail.bytes": 65536})
    c.server.start()
    with Wire(c.server.port) as w:
        make_topic(w, "t")
        for i in range(2):
            assert produce(w, {"t": {0: batch([b"%d" % i * BATCH])}})["t"][0]["ErrorCode"] == NONE
    c.server.stop()
    c.server.start()  # what was in memory is in a file now
    asked, begin = 0, bytes_read(c.server.pid)
    with Wire(c.server.port) as w:
        def second_is_read():
            """Each request reads the first again. A worker that has something else to do at that moment reads nothing ahead."""
            nonlocal asked
            asked += 1
            assert fetched(w, "t", 0, 0)()["Records"].count(b"0" * BATCH) == 1
            return bytes_read(c.server.pid) - begin > (asked + 0.9) * BATCH
        wait_until("the second batch is read, too", second_is_read, 60, every=0.1)
        before = bytes_read(c.server.pid)
        assert fetched(w, "t", 1, 0)()["Records"].count(b"1" * BATCH) == 1
        assert bytes_read(c.server.pid) - before < BATCH / 2


# --- configs of a stream --------------------------------------------------------------------------


def configure(w, topic, **configs):
    a = w.call("IncrementalAlterConfigs", 1, ValidateOnly=False, Resources=[
        {"ResourceType": 2, "ResourceName": topic, "Configs": [
            {"Name": k.replace("_", "."), "ConfigOperation": 0, "Value": v} for k, v in configs.items()]}])
    assert [r["ErrorCode"] for r in a["Responses"]] == [NONE]


def test_configs_of_a_stream_are_asked_of_its_records_at_once(server, wire):
    make_topic(wire, "t")
    good = batch([b"x" * 1000])
    assert produce(wire, {"t": {0: good}})["t"][0]["LogAppendTimeMs"] == -1
    configure(wire, "t", max_message_bytes="500", message_timestamp_type="LogAppendTime", cleanup_policy="compact")
    assert produce(wire, {"t": {0: good}})["t"][0]["ErrorCode"] == TOO_LARGE
    small = produce(wire, {"t": {0: batch([b"y"])}})["t"][0]
    assert small["ErrorCode"] == NONE and abs(small["LogAppendTimeMs"] / 1000 - time.time()) < 60
    keyless = produce(wire, {"t": {0: batch([b"1", b"2"], key=None)}})["t"][0]
    assert keyless["ErrorCode"] == INVALID_RECORD and [e["BatchIndex"] for e in keyless["RecordErrors"]] == [0, 1]
    assert "key" in keyless["RecordErrors"][0]["BatchIndexErrorMessage"]
    assert [r.value for r in read_all(server.bootstrap, "t")] == [b"x" * 1000, b"y"]


# --- streams that come because somebody asks --------------------------------------------------------


def metadata(w, version, name, **values):
    return w.call("Metadata", version, Topics=[{"Name": name}], **values)["Topics"][0]["ErrorCode"]


def test_a_stream_is_made_by_asking_for_it_and_only_if_the_client_agrees(server, wire):
    assert metadata(wire, 9, "t", AllowAutoTopicCreation=False) == UNKNOWN_TOPIC
    assert metadata(wire, 9, "t", AllowAutoTopicCreation=True) == NONE
    assert metadata(wire, 9, "t", AllowAutoTopicCreation=False) == NONE
    assert metadata(wire, 3, "old") == NONE
    assert metadata(wire, 9, "in/valid", AllowAutoTopicCreation=True) == 17
    unknown = wire.call("Metadata", 12, Topics=[{"Name": None, "TopicId": uuid.uuid4()}], AllowAutoTopicCreation=True)
    assert unknown["Topics"][0]["ErrorCode"] == UNKNOWN_ID
    everything = wire.call("Metadata", 9, Topics=None, AllowAutoTopicCreation=True)
    assert {t["Name"]: len(t["Partitions"]) for t in everything["Topics"]} == {"t": 1, "old": 1}


def test_streams_are_not_made_where_the_server_forbids_it(culex_factory):
    culex = culex_factory(start=False, streams=[], server={"auto.create.topics.enable": False})
    culex.server.start()
    with Wire(culex.server.port) as w:
        assert metadata(w, 9, "t", AllowAutoTopicCreation=True) == UNKNOWN_TOPIC


def test_produce_makes_no_stream(server, wire):
    assert produce(wire, {"t": {0: batch([b"x"])}})["t"][0]["ErrorCode"] == UNKNOWN_TOPIC
    assert ask(server.server.port, "Metadata", 9, Topics=None)["Topics"] == []


# --- life ----------------------------------------------------------------------------------------


def test_what_was_answered_is_there_after_a_kill(server):
    from confluent_kafka import Producer
    said = []
    for life in range(3):
        p = Producer({"bootstrap.servers": server.bootstrap, "linger.ms": 0, "acks": "all"})
        for i in range(300):
            p.produce("t", b"%d %d" % (life, i), partition=0,
                      on_delivery=lambda err, m: said.append((m.offset(), m.value())) if err is None else None)
            p.poll(0)
        wait_until("some are answered", lambda: p.poll(0.01) is not None and len(said) >= 100 * (life + 1))
        server.server.kill9()
        p.purge()
        del p
        server.server.start()
    stored_now = {r.offset: r.value for r in read_all(server.bootstrap, "t")}
    assert len(said) >= 300 and all(stored_now.get(o) == v for o, v in said)
