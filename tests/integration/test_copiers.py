"""Every client library with transactions copies a stream into another, exactly once: commits, aborts, offsets in transactions, and of
two instances with one transactional id the older one is fenced."""

import os

import pytest
from harness import Copier, wait_until
from test_produce import batch, make_topic
from test_transactions import values
from test_server_disk import fill, small_disk  # noqa: F401 (a fixture)
from wire import Wire

CLIENTS = ["librdkafka", "franz-go", "sarama", "aiokafka", "kafkajs"]
PARTITIONS = 4
COUNT = 400


def start(culex, more=b""):
    """With COUNT numbers in the stream `from`, each with its rest after a space."""
    culex.server.start()
    with Wire(culex.server.port) as w:
        make_topic(w, "from")
        for p in range(PARTITIONS):
            data = batch([b"%d" % i + more for i in range(p, COUNT, PARTITIONS)])
            a = w.call("Produce", 9, Acks=-1, TimeoutMs=1000, TopicData=[
                {"Name": "from", "PartitionData": [{"Index": p, "Records": data}]}])
            assert a["Responses"][0]["PartitionResponses"][0]["ErrorCode"] == 0
    return culex


@pytest.fixture(scope="module")
def server(module_factory):
    return start(module_factory(start=False, streams=[], server={"num.partitions": PARTITIONS}))


def committed(culex, group, topic):
    """{partition: offset} of the group, once no transaction holds any of them."""
    with Wire(culex.server.port) as w:
        def ask():
            a = w.call("OffsetFetch", 8, Groups=[{"GroupId": group, "Topics": [
                {"Name": topic, "PartitionIndexes": list(range(PARTITIONS))}]}], RequireStable=True)
            parts = a["Groups"][0]["Topics"][0]["Partitions"]
            return parts if all(p["ErrorCode"] == 0 for p in parts) else None
        return {p["PartitionIndex"]: p["CommittedOffset"] for p in wait_until("offsets are stable", ask)}


@pytest.mark.saw("transactions")
@pytest.mark.parametrize("client", CLIENTS)
def test_transactions_copy_exactly_once_and_fence_the_older_instance(server, client):
    to, group = f"to-{client}", f"g-{client}"
    with Wire(server.server.port) as w:
        make_topic(w, to)
    older = newer = None
    try:
        older = Copier(client, server.bootstrap, "from", to, group, f"x-{client}", hold=True)
        older.wait_said("holding")
        held = values(server, to, "read_uncommitted")
        assert len(held) == older.last("holding") and values(server, to) == []
        newer = Copier(client, server.bootstrap, "from", to, group, f"x-{client}")
        newer.wait_said("ready")
        assert set(committed(server, group, "from").values()) == {-1}
        older.go_on()
        older.wait_said("error")
        assert older.proc.wait(120) != 0 and older.last("copied") is None
        newer.wait_for("all is copied", lambda ev: sum(e.get("copied", 0) for _, e in ev) >= COUNT)
        newer.leave()
        assert newer.last("aborted") is not None
        got = values(server, to)
        assert sorted(map(int, got)) == list(range(COUNT))
        for p in range(PARTITIONS):
            assert [int(v) for v in got if int(v) % PARTITIONS == p] == list(range(p, COUNT, PARTITIONS))
        assert len(values(server, to, "read_uncommitted")) > COUNT + len(held)
        assert committed(server, group, "from") == {p: COUNT // PARTITIONS for p in range(PARTITIONS)}
    finally:
        for c in (older, newer):
            if c:
                c.close()


def test_a_copy_goes_on_where_it_was_when_the_full_disk_has_room_again(culex_factory, small_disk):  # noqa: F811
    """The disk fills while one transaction after the other is written, with offsets in them."""
    culex = culex_factory(start=False, streams=[], server={"num.partitions": PARTITIONS})
    os.symlink(small_disk, culex.data / "server")
    start(culex, b" " + bytes(2000))
    with Wire(culex.server.port) as w:
        make_topic(w, "to")
    copier = Copier("librdkafka", culex.bootstrap, "from", "to", "g", "x")
    try:
        copier.wait_said("copied")
        fill(small_disk)
        culex.server.wait_log("the disk is full|No space left")
        os.remove(small_disk / "fill")
        copier.wait_for("all is copied", lambda ev: sum(e.get("copied", 0) for _, e in ev) >= COUNT, 120)
        copier.leave()
    finally:
        copier.close()
    assert sorted(int(v.split()[0]) for v in values(culex, "to")) == list(range(COUNT))
    assert committed(culex, "g", "from") == {p: COUNT // PARTITIONS for p in range(PARTITIONS)}
    culex.server.kill9()
    culex.server.start()
    assert len(values(culex, "to")) == COUNT
    assert committed(culex, "g", "from") == {p: COUNT // PARTITIONS for p in range(PARTITIONS)}
