"""Compacted streams shrink to the last value of each key, while they are read; what transactions left goes by its outcome."""

import pytest
from harness import wait_until

KEYS = 200


@pytest.fixture
def server(culex_factory):
    culex = culex_factory(start=False, streams=[])
    culex.server.start()
    return culex


def make_compacted(bootstrap, name):
    from confluent_kafka.admin import AdminClient, NewTopic
    # Segments are closed as early as they ever are: after ten seconds.
    config = {"cleanup.policy": "compact", "segment.ms": "1000", "min.cleanable.dirty.ratio": "0.01"}
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(name, 1, config=config)])[name].result(60)


def read_from_beginning(bootstrap, topic, isolation):
    """[(offset, key, value)] up to the end."""
    from confluent_kafka import Consumer, TopicPartition
    c = Consumer({"bootstrap.servers": bootstrap, "group.id": "none", "enable.auto.commit": False,
                  "enable.partition.eof": True, "isolation.level": isolation})
    c.assign([TopicPartition(topic, 0, 0)])
    out = []
    while True:
        m = c.poll(60)
        assert m is not None, "no end"
        if m.error():
            break
        out.append((m.offset(), m.key(), m.value()))
    c.close()
    return out


def test_stream_shrinks_to_the_last_values(server):
    from confluent_kafka import Producer
    make_compacted(server.bootstrap, "table")
    p = Producer({"bootstrap.servers": server.bootstrap, "enable.idempotence": True, "linger.ms": 1})
    for i in range(20):
        for k in range(KEYS):
            p.produce("table", b"%d" % i, key=b"k%d" % k, partition=0)
        p.flush(60)
    want = {b"k%d" % k: b"19" for k in range(KEYS)}
    before = read_from_beginning(server.bootstrap, "table", "read_committed")
    assert len(before) == 20 * KEYS and {k: v for _, k, v in before} == want

    wait_until("one record of each key",
               lambda: len(read_from_beginning(server.bootstrap, "table", "read_uncommitted")) == KEYS, 120, every=0.3)
    for isolation in "read_uncommitted", "read_committed":
        after = read_from_beginning(server.bootstrap, "table", isolation)
        assert {k: v for _, k, v in after} == want
        assert set(after) <= set(before)  # at the offsets that they had
    server.server.stop()
    server.server.start()
    assert len(read_from_beginning(server.bootstrap, "table", "read_uncommitted")) == KEYS


def test_what_was_aborted_goes_and_what_was_committed_stays(server):
    from confluent_kafka import Producer
    make_compacted(server.bootstrap, "table")
    p = Producer({"bootstrap.servers": server.bootstrap, "transactional.id": "t"})
    p.init_transactions(60)
    for value, end in (b"first", p.commit_transaction), (b"never", p.abort_transaction), (b"done", p.commit_transaction):
        p.begin_transaction()
        for k in range(50 if value == b"first" else 2):
            p.produce("table", value, key=b"k%d" % k, partition=0)
        p.flush(60)
        end(60)
    want = {b"k%d" % k: b"done" if k < 2 else b"first" for k in range(50)}
    assert len(read_from_beginning(server.bootstrap, "table", "read_committed")) == 52
    assert len(read_from_beginning(server.bootstrap, "table", "read_uncommitted")) == 54
    wait_until("one record of each key",
               lambda: len(read_from_beginning(server.bootstrap, "table", "read_uncommitted")) == 50, 120, every=0.3)
    for isolation in "read_uncommitted", "read_committed":
        assert {k: v for _, k, v in read_from_beginning(server.bootstrap, "table", isolation)} == want
