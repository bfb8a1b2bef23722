"""Idempotent and transactional producers: every version on the wire, and the clients that people use, while the server is
killed. What was committed is read once, what was aborted never."""

import os
import random
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness import CLIENTS, ROOT, consumer, kill_pid, wait_until
from test_clients import tool
from test_produce import batch, make_topic, processor_ticks, produce
from test_server_disk import fill, small_disk  # noqa: F401 (a fixture)
from wire import Wire

NONE, UNKNOWN_TOPIC, INVALID_REQUEST, POLICY = 0, 3, 42, 44
OUT_OF_ORDER, INVALID_EPOCH, INVALID_STATE, INVALID_MAPPING, INVALID_TIMEOUT = 45, 47, 48, 49, 50
NOT_ATTEMPTED, UNSTABLE, FENCED, ID_NOT_FOUND, ABORTABLE, BAD_PATTERN = 55, 88, 90, 105, 120, 128
NO_TRANSACTIONAL_ID, ILLEGAL_GENERATION = 53, 22
ROUNDS = int(os.environ.get("ROUNDS", "4"))


@pytest.fixture
def server(culex_factory):
    culex = culex_factory(start=False, streams=[], server={
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": 100})
    culex.server.start()
    return culex


@pytest.fixture
def wire(server):
    with Wire(server.server.port) as w:
        yield w


def init(w, name, version=4, timeout=60000, **more):
    a = w.call("InitProducerId", version, TransactionalId=name, TransactionTimeoutMs=timeout, **more)
    return a["ErrorCode"], a["ProducerId"], a["ProducerEpoch"]


def add(w, name, pid, epoch, parts, version=3):
    """parts: {topic: [partition]}; answers {(topic, partition): error}."""
    topics = [{"Name": t, "Partitions": ps} for t, ps in parts.items()]
    if version <= 3:
        a = w.call("AddPartitionsToTxn", version, V3AndBelowTransactionalId=name, V3AndBelowProducerId=pid,
                   V3AndBelowProducerEpoch=epoch, V3AndBelowTopics=topics)["ResultsByTopicV3AndBelow"]
    else:
        a = w.call("AddPartitionsToTxn", version, Transactions=[{
            "TransactionalId": name, "ProducerId": pid, "ProducerEpoch": epoch, "VerifyOnly": False,
            "Topics": topics}])["ResultsByTransaction"][0]["TopicResults"]
    return {(t["Name"], p["PartitionIndex"]): p["PartitionErrorCode"] for t in a for p in t["ResultsByPartition"]}


def end(w, name, pid, epoch, commits, version=3):
    a = w.call("EndTxn", version, TransactionalId=name, ProducerId=pid, ProducerEpoch=epoch, Committed=commits)
    return (a["ErrorCode"], a["ProducerId"], a["ProducerEpoch"]) if version >= 5 else a["ErrorCode"]


def write(w, topic, values, pid, epoch, sequence, name=None, version=11, partition=0):
    data = batch(values, producer_id=pid, producer_epoch=epoch, base_sequence=sequence,
                 is_transactional=int(name is not None))
    a = w.call("Produce", version, TransactionalId=name, Acks=-1, TimeoutMs=1000, TopicData=[
        {"Name": topic, "PartitionData": [{"Index": partition, "Records": data}]}])
    p = a["Responses"][0]["PartitionResponses"][0]
    return p["ErrorCode"], p["BaseOffset"]


def commit_offset(w, name, group, pid, epoch, topic, offset, version=3, generation=-1, member=""):
    a = w.call("TxnOffsetCommit", version, TransactionalId=name, GroupId=group, ProducerId=pid, ProducerEpoch=epoch,
               GenerationId=generation, MemberId=member, Topics=[{"Name": topic, "Partitions": [
                   {"PartitionIndex": 0, "CommittedOffset": offset, "CommittedMetadata": "m"}]}])
    return a["Topics"][0]["Partitions"][0]["ErrorCode"]


def committed_offset(w, group, topic, stable=False):
    a = w.call("OffsetFetch", 8, Groups=[{"GroupId": group, "Topics": [{"Name": topic, "PartitionIndexes": [0]}]}],
               RequireStable=stable)
    p = a["Groups"][0]["Topics"][0]["Partitions"][0]
    return p["ErrorCode"] or p["CommittedOffset"]


def values(culex, topic, isolation="read_committed"):
    """All values below the last stable offset (or the end), in order."""
    from confluent_kafka import OFFSET_BEGINNING, TopicPartition
    c = consumer(culex.bootstrap, **{"isolation.level": isolation, "enable.partition.eof": True})
    try:
        parts = c.list_topics(topic, timeout=60).topics[topic].partitions
        c.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in parts])
        got, left, deadline = [], set(parts), time.monotonic() + 120
        while left:
            assert time.monotonic() < deadline, f"{len(got)} values, and no end"
            m = c.poll(0.2)
            if m is None:
                continue
            if m.error():
                if m.error().name() == "_PARTITION_EOF":
                    left.discard(m.partition())
                continue
            got.append(m.value())
        return got
    finally:
        c.close()


# --- producer ids and sequences -----------------------------------------------------------------


@pytest.mark.parametrize("version", range(6))
def test_producer_ids_are_given_once_over_restarts(server, version):
    seen = set()
    for _ in range(3):
        with Wire(server.server.port) as w:
            for _ in range(20):
                error, pid, epoch = init(w, None, version)
                assert (error, epoch) == (NONE, 0) and pid not in seen
                seen.add(pid)
        server.server.kill9()
        server.server.start()


def test_sequences_are_checked_and_duplicates_answered_over_a_kill(server, wire):
    make_topic(wire, "t")
    _, pid, epoch = init(wire, None)
    for i in range(6):
        assert write(wire, "t", [b"a", b"b"], pid, epoch, i * 2) == (NONE, i * 2)
    for _ in range(2):
        with Wire(server.server.port) as w:
            assert write(w, "t", [b"a", b"b"], pid, epoch, 10) == (NONE, 10)
            assert write(w, "t", [b"a", b"b"], pid, epoch, 2) == (NONE, 2)
            assert write(w, "t", [b"a", b"b"], pid, epoch, 0)[0] == OUT_OF_ORDER
            assert write(w, "t", [b"a"], pid, epoch, 13)[0] == OUT_OF_ORDER
            assert write(w, "t", [b"a"], pid, epoch - 1, 12)[0] == INVALID_EPOCH
        server.server.kill9()
        server.server.start()
    with Wire(server.server.port) as w:
        assert write(w, "t", [b"c"], pid, epoch, 12) == (NONE, 12)
        a = w.call("DescribeProducers", 0, Topics=[{"Name": "t", "PartitionIndexes": [0, 7]}])
        mine, other = a["Topics"][0]["Partitions"]
        assert other["ErrorCode"] == UNKNOWN_TOPIC
        [p] = mine["ActiveProducers"]
        assert (p["ProducerId"], p["ProducerEpoch"], p["LastSequence"], p["CurrentTxnStartOffset"]) == (pid, 0, 12, -1)


# --- transactions on the wire -------------------------------------------------------------------


@pytest.mark.sanitized
@pytest.mark.parametrize("version", range(6))
def test_a_transaction_in_every_version(server, wire, version):
    make_topic(wire, "t", "u")
    error, pid, epoch = init(wire, "x", version)
    assert (error, epoch) == (NONE, 0)
    sequence = 0
    for commits in (True, False, True):
        if version < 5:
            assert set(add(wire, "x", pid, epoch, {"t": [0], "u": [0]}, version).values()) == {NONE}
        for topic in ("t", "u"):
            value = b"yes" if commits else b"no"
            assert write(wire, topic, [value], pid, epoch, sequence, "x", 12 if version == 5 else 11)[0] == NONE
        if version < 5:
            assert wire.call("AddOffsetsToTxn", min(version, 4), TransactionalId="x", ProducerId=pid,
                             ProducerEpoch=epoch, GroupId="g")["ErrorCode"] == NONE
        before = committed_offset(wire, "g", "t")
        assert commit_offset(wire, "x", "g", pid, epoch, "t", sequence + (5 if commits else 50), version) == NONE
        assert committed_offset(wire, "g", "t") == before and committed_offset(wire, "g", "t", True) == UNSTABLE
        if version == 5:
            error, pid, bumped = end(wire, "x", pid, epoch, commits, 5)
            assert (error, bumped) == (NONE, epoch + 1)
            assert end(wire, "x", pid, epoch, commits, 5) == (NONE, pid, bumped)  # repeated
            epoch = bumped
        else:
            assert end(wire, "x", pid, epoch, commits, version) == NONE
            assert end(wire, "x", pid, epoch, commits, version) == NONE
            assert end(wire, "x", pid, epoch, not commits, version) == INVALID_STATE
            sequence += 1
        assert committed_offset(wire, "g", "t", True) == (sequence - (version < 5) + 5 if commits else before)
    for topic in ("t", "u"):
        assert values(server, topic) == [b"yes", b"yes"]
        assert values(server, topic, "read_uncommitted") == [b"yes", b"no", b"yes"]


@pytest.mark.sanitized
def test_what_is_wrong_is_said(server, wire):
    make_topic(wire, "t")
    assert init(wire, "")[0] == INVALID_REQUEST
    assert init(wire, "x", timeout=900001)[0] == INVALID_TIMEOUT
    assert init(wire, "x", timeout=0)[0] == INVALID_TIMEOUT
    assert init(wire, "x", ProducerId=5)[0] == INVALID_REQUEST
    assert init(wire, "x")[0] == NONE and init(wire, "x", ProducerId=-5, ProducerEpoch=3)[0] == FENCED
    assert set(add(wire, "x", 1 << 40, 0, {"t": [0]}).values()) == {INVALID_MAPPING}
    assert end(wire, "x", 1 << 40, 0, True) == INVALID_MAPPING
    _, pid, epoch = init(wire, "x")
    assert end(wire, "x", pid, epoch, True) == INVALID_STATE
    assert add(wire, "x", pid, epoch, {"t": [0, 1], "none": [0]}) == {
        ("t", 0): NOT_ATTEMPTED, ("t", 1): UNKNOWN_TOPIC, ("none", 0): UNKNOWN_TOPIC}
    assert write(wire, "t", [b"v"], pid, epoch, 0, "x", 10)[0] == INVALID_STATE
    assert write(wire, "t", [b"v"], pid, epoch, 0, "x", 11)[0] == ABORTABLE
    assert write(wire, "t", [b"v"], pid, epoch, 1, "x", 12)[0] == OUT_OF_ORDER
    a = wire.call("Produce", 11, Acks=-1, TimeoutMs=1000, TopicData=[{"Name": "t", "PartitionData": [
        {"Index": 0, "Records": batch([b"v"], producer_id=pid, producer_epoch=epoch, base_sequence=0,
                                      is_transactional=1)}]}])
    assert a["Responses"][0]["PartitionResponses"][0]["ErrorCode"] == NO_TRANSACTIONAL_ID
    assert commit_offset(wire, "x", "g", pid, epoch, "none", 1, 5) == UNKNOWN_TOPIC
    assert commit_offset(wire, "x", "", pid, epoch, "t", 1, 5) == 24  # INVALID_GROUP_ID
    assert commit_offset(wire, "x", "g", pid, epoch, "t", 1, 5, generation=3, member="who") == ILLEGAL_GENERATION
    assert values(server, "t", "read_uncommitted") == []


@pytest.mark.sanitized
def test_a_new_instance_fences_the_old_one(server, wire):
    make_topic(wire, "t")
    _, pid, epoch = init(wire, "x")
    assert write(wire, "t", [b"old"], pid, epoch, 0, "x", 12)[0] == NONE
    assert values(server, "t") == []
    error, again, newer = init(wire, "x")
    assert (error, again) == (NONE, pid) and newer > epoch
    assert write(wire, "t", [b"old"], pid, epoch, 1, "x", 12)[0] == INVALID_EPOCH
    assert end(wire, "x", pid, epoch, True) == FENCED
    assert end(wire, "x", pid, epoch, True, 1) == INVALID_EPOCH
    assert init(wire, "x", ProducerId=pid, ProducerEpoch=epoch)[0] == FENCED
    assert write(wire, "t", [b"new"], pid, newer, 0, "x", 12)[0] == NONE
    assert end(wire, "x", pid, newer, True, 5)[0] == NONE
    assert values(server, "t") == [b"new"]


def test_a_transaction_that_takes_too_long_is_aborted(server, wire):
    make_topic(wire, "t")
    _, pid, epoch = init(wire, "x", timeout=300)
    assert write(wire, "t", [b"late"], pid, epoch, 0, "x", 12)[0] == NONE
    wait_until("it is aborted", lambda: wire.call("DescribeTransactions", 0, TransactionalIds=["x"])[
        "TransactionStates"][0]["TransactionState"] == "CompleteAbort")
    assert end(wire, "x", pid, epoch, True) == FENCED
    assert values(server, "t") == [] and values(server, "t", "read_uncommitted") == [b"late"]
    assert init(wire, "x", ProducerId=pid, ProducerEpoch=epoch) == (NONE, pid, epoch + 1)


def test_tools_see_transactions_and_abort_a_hanging_one(server, wire):
    make_topic(wire, "t")
    _, pid, epoch = init(wire, "x")
    assert write(wire, "t", [b"v"], pid, epoch, 0, "x", 12)[0] == NONE
    [d, none] = wire.call("DescribeTransactions", 0, TransactionalIds=["x", "y"])["TransactionStates"]
    assert none["ErrorCode"] == ID_NOT_FOUND
    assert (d["TransactionState"], d["ProducerId"], d["ProducerEpoch"]) == ("Ongoing", pid, epoch)
    assert d["Topics"] == [{"Topic": "t", "Partitions": [0]}] and d["TransactionTimeoutMs"] == 60000

    def listed(version=2, **filters):
        a = wire.call("ListTransactions", version, **filters)
        assert a["ErrorCode"] == NONE
        return [t["TransactionalId"] for t in a["TransactionStates"]], a["UnknownStateFilters"]
    assert listed() == (["x"], []) and listed(StateFilters=["Ongoing", "Odd"]) == (["x"], ["Odd"])
    assert listed(StateFilters=["Empty"]) == ([], []) and listed(ProducerIdFilters=[pid + 1]) == ([], [])
    assert listed(DurationFilter=60000) == ([], []) and listed(TransactionalIdPattern="x|z") == (["x"], [])
    assert listed(TransactionalIdPattern="z.*") == ([], [])
    assert wire.call("ListTransactions", 2, TransactionalIdPattern="(")["ErrorCode"] == BAD_PATTERN
    [p] = wire.call("DescribeProducers", 0, Topics=[{"Name": "t", "PartitionIndexes": [0]}])[
        "Topics"][0]["Partitions"][0]["ActiveProducers"]
    assert p["CurrentTxnStartOffset"] == 0

    def mark(epoch, partition=0):
        a = wire.call("WriteTxnMarkers", 1, Markers=[{
            "ProducerId": pid, "ProducerEpoch": epoch, "TransactionResult": False, "CoordinatorEpoch": 0,
            "Topics": [{"Name": "t", "PartitionIndexes": [partition]}]}])
        return a["Markers"][0]["Topics"][0]["Partitions"][0]["ErrorCode"]
    assert mark(epoch, 3) == UNKNOWN_TOPIC
    assert mark(epoch) == NONE
    [p] = wire.call("DescribeProducers", 0, Topics=[{"Name": "t", "PartitionIndexes": [0]}])[
        "Topics"][0]["Partitions"][0]["ActiveProducers"]
    assert p["CurrentTxnStartOffset"] == -1
    assert values(server, "t") == []


@pytest.mark.sanitized
def test_a_topic_is_deleted_and_made_anew_under_an_open_transaction(server, wire):
    make_topic(wire, "t", "u")
    _, pid, epoch = init(wire, "x")
    for topic in ("t", "u"):
        assert write(wire, topic, [b"v"], pid, epoch, 0, "x", 12)[0] == NONE
    assert wire.call("DeleteTopics", 5, TopicNames=["t"])["Responses"][0]["ErrorCode"] == NONE
    make_topic(wire, "t")
    assert write(wire, "t", [b"plain"], -1, -1, -1)[0] == NONE
    assert end(wire, "x", pid, epoch, True, 5)[0] == NONE
    assert values(server, "t") == [b"plain"] and values(server, "u") == [b"v"]


def test_a_disk_that_fills_in_a_transaction_loses_nothing_that_was_answered(culex_factory, small_disk):  # noqa: F811
    culex = culex_factory(start=False, streams=[])
    os.symlink(small_disk, culex.data / "server")
    culex.server.start()
    retriable = {15, 19, 56}  # COORDINATOR_NOT_AVAILABLE, NOT_ENOUGH_REPLICAS, KAFKA_STORAGE_ERROR
    with Wire(culex.server.port) as w:
        make_topic(w, "t")
        _, pid, epoch = init(w, "x")
        sent = []

        def try_one():
            value = bytes([len(sent)]) * 300000
            error, _ = write(w, "t", [value], pid, epoch, len(sent), "x", 12)
            if error == NONE:
                sent.append(value)
            return error
        assert try_one() == NONE
        assert commit_offset(w, "x", "g", pid, epoch, "t", 1, 5) == NONE
        fill(small_disk)
        error = next(e for e in (try_one() for _ in range(200)) if e != NONE)
        assert error in retriable
        assert end(w, "x", pid, epoch, True, 5)[0] in retriable
        assert init(w, "y")[0] in retriable
        os.remove(small_disk / "fill")

        def goes_on():
            e = try_one()
            assert e in retriable | {NONE}
            return e == NONE
        wait_until("batches are taken again", goes_on, every=0.2)
        assert committed_offset(w, "g", "t") == -1 and committed_offset(w, "g", "t", stable=True) == UNSTABLE
        assert commit_offset(w, "x", "h", pid, epoch, "t", 2, 5) == NONE
        assert end(w, "x", pid, epoch, True, 5) == (NONE, pid, epoch + 1)
        assert (committed_offset(w, "g", "t"), committed_offset(w, "h", "t")) == (1, 2)
    assert values(culex, "t") == sent
    culex.server.kill9()
    culex.server.start()
    assert values(culex, "t") == sent
    with Wire(culex.server.port) as w:
        assert (committed_offset(w, "g", "t"), committed_offset(w, "h", "t")) == (1, 2)


def test_many_filters_cost_little_where_there_is_much_to_be_listed(server, wire):
    """Each compared with each would be a thousand million comparisons in each of the three requests."""
    many, names = 1000, [f"Stablo{i % 10}" for i in range(1000000)]
    for i in range(many):
        assert init(wire, f"x{i}")[0] == NONE
        wire.call("JoinGroup", 5, GroupId=f"g{i}", SessionTimeoutMs=60000, RebalanceTimeoutMs=60000,
                  ProtocolType="consumer", Protocols=[{"Name": "range", "Metadata": b""}])
    before = processor_ticks(server)
    a = wire.call("ListTransactions", 0, StateFilters=names + ["Empty"])
    assert len(a["TransactionStates"]) == many and len(a["UnknownStateFilters"]) == len(names)
    first = min(t["ProducerId"] for t in a["TransactionStates"])
    most = 1 << 17  # as many transactional ids as there can be
    a = wire.call("ListTransactions", 0, ProducerIdFilters=[first, *range(1 << 40, (1 << 40) + most - 1)])
    assert [t["ProducerId"] for t in a["TransactionStates"]] == [first]
    a = wire.call("ListTransactions", 0, ProducerIdFilters=[first, *range(1 << 40, (1 << 40) + most)])
    assert a["ErrorCode"] == INVALID_REQUEST and not a["TransactionStates"]
    groups = wire.call("ListGroups", 5, StatesFilter=[*names, "empty"], TypesFilter=["CLASSIC"])["Groups"]
    assert len(groups) == many
    assert processor_ticks(server) - before < 4 * os.sysconf("SC_CLK_TCK")


def test_what_a_transaction_may_yet_change_is_not_told_as_stable_while_it_is_out_of_reach(culex_factory, small_disk):  # noqa: F811
    from confluent_kafka import TopicPartition
    culex = culex_factory(start=False, streams=[], server={"log.level": "debug"})
    os.symlink(small_disk, culex.data / "server")
    culex.server.start()
    with Wire(culex.server.port) as w:
        make_topic(w, "t")
        _, pid, epoch = init(w, "x", timeout=900000)

        def commit(group, offset):
            a = w.call("OffsetCommit", 8, GroupId=group, GenerationIdOrMemberEpoch=-1, Topics=[
                {"Name": "t", "Partitions": [{"PartitionIndex": 0, "CommittedOffset": offset,
                                              "CommittedMetadata": "x" * 3000}]}])
            return a["Topics"][0]["Partitions"][0]["ErrorCode"]
        assert produce(w, {"t": {0: batch([b"0", b"1"])}})["t"][0]["ErrorCode"] == NONE
        assert commit("g", 1) == NONE and commit("r", 1) == NONE
        assert commit_offset(w, "x", "g", pid, epoch, "t", 2, 5) == NONE
        assert committed_offset(w, "g", "t", stable=True) == UNSTABLE
        fill(small_disk)
        assert any(commit("h", 1) != NONE for _ in range(200))
        culex.server.wait_log(r"own store is broken", 60)
        assert committed_offset(w, "g", "t", stable=True) == UNSTABLE  # the one error on which all clients ask again
        assert committed_offset(w, "g", "t") == 1
        reader = consumer(culex.bootstrap, **{"group.id": "r"})  # of what is committed, as is its default
        reader.assign([TopicPartition("t", 0)])
        asked = culex.server.log().count("api=OffsetFetch")
        assert reader.poll(0) is None
        wait_until("it asks again and again", lambda: culex.server.log().count("api=OffsetFetch") > asked + 2, 60)
        os.remove(small_disk / "fill")
        wait_until("the store is back", lambda: commit("i", 1) == NONE, 60, every=0.1)
        assert committed_offset(w, "g", "t", stable=True) == UNSTABLE
        assert reader.consume(1, 60)[0].offset() == 1
        reader.close()
        assert end(w, "x", pid, epoch, True, 5)[0] == NONE
        assert committed_offset(w, "g", "t", stable=True) == 2


@pytest.mark.sanitized
def test_a_transaction_is_described_with_all_its_partitions_as_often_as_asked(server, wire):
    made = wire.call("CreateTopics", 5, timeoutMs=10000, Topics=[
        {"Name": n, "NumPartitions": 200, "ReplicationFactor": 1} for n in ("b", "a", "deleted", "other")])
    assert [t["ErrorCode"] for t in made["Topics"]] == [NONE] * 4
    _, pid, epoch = init(wire, "x")
    add(wire, "x", pid, epoch, {"b": [199, 0, 7], "deleted": [1], "a": [5]})
    init(wire, "y")
    assert wire.call("DeleteTopics", 3, TopicNames=["deleted"], TimeoutMs=1000)["Responses"][0]["ErrorCode"] == NONE
    *same, y = wire.call("DescribeTransactions", 0, TransactionalIds=["x"] * 1000 + ["y"])["TransactionStates"]
    assert y["Topics"] == [] and len(same) == 1000
    for d in same:
        assert d["Topics"] == [{"Topic": "a", "Partitions": [5]}, {"Topic": "b", "Partitions": [0, 7, 199]}]


def test_markers_beyond_what_a_turn_may_write_are_to_be_asked_for_again(server, wire):
    make_topic(wire, "t")

    def markers(count):
        a = wire.call("WriteTxnMarkers", 1, Markers=[{
            "ProducerId": 7, "ProducerEpoch": 0, "TransactionResult": True, "CoordinatorEpoch": 0,
            "Topics": [{"Name": "t", "PartitionIndexes": [0] * count}]}])
        return [p["ErrorCode"] for p in a["Markers"][0]["Topics"][0]["Partitions"]]
    errors = markers(80000)
    written = errors.count(NONE)
    assert 20000 < written < 80000 and errors == [NONE] * written + [7] * (80000 - written)  # REQUEST_TIMED_OUT
    assert markers(1) == [NONE]
    a = wire.call("ListOffsets", 7, ReplicaId=-1, IsolationLevel=0, Topics=[
        {"Name": "t", "Partitions": [{"PartitionIndex": 0, "Timestamp": -1}]}])
    assert a["Topics"][0]["Partitions"][0]["Offset"] == written + 1


@pytest.mark.saw("lists", "describes", "looks for hanging ones", "aborts", client="kafka-transactions")
def test_kafka_transactions_lists_describes_and_aborts(server, wire):
    make_topic(wire, "t")
    _, pid, epoch = init(wire, "x", timeout=900000)
    assert write(wire, "t", [b"v"], pid, epoch, 0, "x", 12)[0] == NONE

    def run(*args):
        return tool("TransactionsCommand", "--bootstrap-server", server.bootstrap, *args)
    assert run("list").splitlines()[-1].split() == ["x", "1", str(pid), "Ongoing"]
    described = run("describe", "--transactional-id", "x").splitlines()[-1].split()
    assert "Ongoing" in described and "t-0" in described and str(pid) in described
    assert str(pid) in run("describe-producers", "--topic", "t", "--partition", "0").splitlines()[-1].split()

    def hanging():
        """What is open in a log and not at the coordinator, however young it is. Nothing ever is here: a batch of a
        transaction that the coordinator does not know of is refused (KIP-890)."""
        head, *rows = run("find-hanging", "--broker-id", "1", "--max-transaction-timeout", "0").splitlines()
        assert "ProducerId" in head
        return rows
    assert hanging() == []
    run("abort", "--topic", "t", "--partition", "0", "--start-offset", "0")
    assert values(server, "t") == [] and values(server, "t", "read_uncommitted") == [b"v"]
    assert write(wire, "t", [b"after"], -1, -1, -1)[0] == NONE
    assert values(server, "t") == [b"after"]
    # The coordinator was not asked: its transaction goes on, and what comes now belongs to it again.
    assert write(wire, "t", [b"rest"], pid, epoch, 1, "x", 12)[0] == NONE
    assert hanging() == []
    assert end(wire, "x", pid, epoch, True, 5) == (NONE, pid, epoch + 1)
    assert values(server, "t") == [b"after", b"rest"]


# --- clients ------------------------------------------------------------------------------------


def transactional(culex, name, **conf):
    from confluent_kafka import Producer
    p = Producer({"bootstrap.servers": culex.bootstrap, "transactional.id": name, "linger.ms": 1,
                  "reconnect.backoff.max.ms": 100, **conf})
    p.init_transactions(60)
    return p


def test_librdkafka_commits_aborts_and_is_fenced(server):
    from confluent_kafka import KafkaException
    p = transactional(server, "r")
    for i in range(10):
        p.begin_transaction()
        for k in range(20):
            p.produce("t", f"{i} {k}".encode())
        p.abort_transaction(60) if i % 3 == 0 else p.commit_transaction(60)
    want = [f"{i} {k}".encode() for i in range(10) if i % 3 for k in range(20)]
    assert values(server, "t") == want
    p.begin_transaction()
    p.produce("t", b"never")
    p.flush(60)
    other = transactional(server, "r")
    with pytest.raises(KafkaException) as e:
        p.commit_transaction(60)
    assert e.value.args[0].fatal()
    other.begin_transaction()
    other.produce("t", b"last")
    other.commit_transaction(60)
    assert values(server, "t") == want + [b"last"]


def test_idempotent_and_transactional_writers_survive_kills(server):
    """Each of them writes numbers; the server is killed again and again. Nothing is lost, nothing is there twice."""
    from confluent_kafka import KafkaException, Producer
    stop, said, done = [], [], []

    def plain():
        p = Producer({"bootstrap.servers": server.bootstrap, "enable.idempotence": True, "linger.ms": 1,
                      "reconnect.backoff.max.ms": 100, "message.timeout.ms": 200000})
        n = 0
        while not stop:
            p.produce("plain", str(n).encode(), on_delivery=lambda e, m: said.append((m.value(), e)))
            n += 1
            p.poll(0.001)
        p.flush(200)

    def transactions():
        p = transactional(server, "loop")
        n = 0
        while not stop:
            n += 1
            try:
                p.begin_transaction()
                for k in range(5):
                    p.produce("txn", f"{n} {k}".encode(), partition=0)
                while True:
                    try:
                        p.commit_transaction(60)
                        done.append(n)
                        break
                    except KafkaException as e:
                        if not e.args[0].retriable():
                            raise
            except KafkaException as e:
                assert e.args[0].txn_requires_abort(), e
                p.abort_transaction(60)

    with Wire(server.server.port) as w:
        make_topic(w, "plain", "txn")
    with ThreadPoolExecutor(2) as pool:
        a, b = pool.submit(plain), pool.submit(transactions)
        rng = random.Random(7)
        try:
            for last in [False] * ROUNDS + [True]:
                enough = len(said) + rng.randrange(1, 200), len(done) + rng.randrange(1, 20)
                wait_until("both get further", lambda n=enough: a.done() or b.done() or len(said) > n[0] and len(done) > n[1])
                if not last:
                    server.server.kill9()
                    server.server.start()
        finally:
            stop.append(True)
        a.result(240), b.result(240)
    got = values(server, "plain")
    assert all(e is None for _, e in said)
    assert got == [v for v, _ in said]
    got = values(server, "txn")
    assert len(got) == len(set(got))
    assert got == [f"{n} {k}".encode() for n in done for k in range(5)]


def copier(culex, source, to, *more):
    argv = ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{CLIENTS}/java/lib/*",
            ROOT / "tests" / "clients" / "java" / "Copier.java", culex.bootstrap, source, to, "copiers", "copier-1", *more]
    log = open(culex.home / f"copier{time.monotonic()}.log", "wb")
    return subprocess.Popen([str(a) for a in argv], stdin=subprocess.PIPE, stdout=log, stderr=log)


@pytest.mark.saw("transactions", client="java")
@pytest.mark.broker
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_java_copies_captured_messages_exactly_once(culex_factory, protocol):
    """Java reads a captured stream and writes a free one in transactions. Server and copier are killed."""
    culex = culex_factory(server={"group.consumer.session.timeout.ms": 6000})
    more = [protocol] if protocol == "consumer" else []
    count = 3000
    culex.publish("demo/t", [f"{i:06}" for i in range(count // 2)])
    rng = random.Random(11)
    with Wire(culex.server.port) as w:
        make_topic(w, "copy")
    c = copier(culex, "demo", "copy", *more)
    try:
        wait_until("the first are copied", lambda: len(values(culex, "copy")) > 0, 120, every=0.2)
        for i in range(ROUNDS):
            time.sleep(rng.uniform(0.2, 1.0))
            if i % 2:
                kill_pid(c.pid)
                c.wait()
                c = copier(culex, "demo", "copy", *more)
            else:
                culex.server.kill9()
                culex.server.start()
            culex.publish("demo/t", [f"{count // 2 + i * 100 + k:06}" for k in range(100)])
        total = count // 2 + ROUNDS * 100
        wait_until("all are copied", lambda: len(values(culex, "copy")) >= total, 240, every=0.5)
        time.sleep(1)  # time for what must not happen
        assert sorted(values(culex, "copy")) == [f"{i:06}".encode() for i in range(total)]
    finally:
        kill_pid(c.pid)
        c.wait()
