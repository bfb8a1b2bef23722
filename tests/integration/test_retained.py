"""A compacted stream of what MQTT retains: the last value of each topic is left, and a topic that was cleared goes.

The writer compacts its own log while the server, a follower, reads it; both are killed between."""

import threading

import pytest
from harness import TOOLS, Record, consumer, settled_ends, wait_until

PARTITION_EOF = -191  # librdkafka's own
DAYS = 2  # tombstones stay for one
SETTLE_SECONDS = 90
LIVE = [f"state/{k}" for k in range(40)]
GONE = [f"state/gone{k}" for k in range(10)]


def table(records):
    """What a reader of the whole stream has in the end: {key: value}, without what was deleted."""
    out = {}
    for r in records:
        out[r.key] = r.value
    return {k: v for k, v in out.items() if v is not None}


def follow(culex):
    """What is there now."""
    from confluent_kafka import TopicPartition
    c = consumer(culex.bootstrap, **{"enable.partition.eof": True})
    c.assign([TopicPartition("state", p, 0) for p in (0, 1)])
    out, left = [], {0, 1}
    while left:
        for m in c.consume(1000, 10):
            if not m.error():
                out.append(Record(m.partition(), m.offset(), m.timestamp()[1], m.key(), m.value()))
            elif m.error().code() == PARTITION_EOF:
                left.discard(m.partition())
    c.close()
    return out


class Follower(threading.Thread):
    """Reads from the beginning, over and over. Of each topic it must find what was stored before it began."""

    def __init__(self, culex, stored):
        super().__init__(daemon=True)
        self.culex, self.stored = culex, stored
        self.stop, self.passes, self.failure = threading.Event(), 0, None

    def run(self):
        try:
            while not self.stop.is_set():
                self.one_pass()
                self.passes += 1
        except BaseException as e:  # told by join_all
            self.failure = e

    def one_pass(self):
        floor = dict(self.stored)
        seen, next_offset = {}, [0, 0]
        for r in follow(self.culex):
            assert r.offset >= next_offset[r.partition], "an offset comes twice"
            next_offset[r.partition] = r.offset + 1
            seen[r.key] = r.value
        for key, number in floor.items():
            value = seen.get(key)
            assert value is None and key.startswith(b"state/gone") or int(value) >= number, (key, value, number)

    def join_all(self):
        self.stop.set()
        self.join(60)
        if self.failure:
            raise self.failure


class Devices:
    """Publish retained states. `stored` is what the log has at least."""

    def __init__(self, culex):
        self.culex, self.stored, self.number, self.acked = culex, {}, 0, 0

    def publish(self, items, retain=True):
        with self.culex.mqtt() as m:
            for info in [m.client.publish(t, v, qos=1, retain=retain) for t, v in items]:
                info.wait_for_publish(60)
        self.acked += len(items)
        settled_ends(self.culex.bootstrap, "state", self.acked)

    def update(self, rounds=1, gone=()):
        items = []
        for _ in range(rounds):
            self.number += 1
            items += [(t, b"%d" % self.number) for t in (*LIVE, *gone)]
        self.publish(items)
        self.stored.update({t.encode(): self.number for t, _ in items})

    def want(self):
        return {t.encode(): b"%d" % self.number for t in LIVE} | {b"state/plain": b""}

    def settle(self, tombstones):
        """Until each topic has one record, which nothing more is written for."""
        self.update(rounds=4)
        want = self.want()
        records = wait_until("one record of each topic is left",
                             lambda: shorter(follow(self.culex), len(want) + tombstones), SETTLE_SECONDS, every=0.3)
        assert table(records) == want
        return records


def shorter(records, count):
    return records if len(records) == count else None


def live_through_days(culex, devices):
    for i in range(8):
        devices.update(gone=GONE)
        if i == 4:
            culex.server.kill9()
            culex.server.start()
    devices.publish([(t, b"") for t in GONE])
    devices.publish([("state/plain", b"")], retain=False)  # no tombstone: it is not retained
    records = devices.settle(len(GONE))
    assert {r.key for r in records if r.value is None} == {t.encode() for t in GONE}

    culex.broker.kill9()  # and the day after tomorrow it is started
    culex.broker.launch_as = ["env", f"LD_PRELOAD={TOOLS / 'clockahead.so'}", f"CLOCK_AHEAD_S={DAYS * 86400}"]
    culex.broker.start()
    culex.server.kill9()
    culex.server.start()
    assert len(follow(culex)) == len(records)
    devices.settle(0)


@pytest.mark.timeout(300)
def test_retained_topics_are_compacted_while_the_server_follows(culex_factory):
    stream = {"name": "state", "filters": ["state/#"], "partitions": 2, "cleanup.policy": "compact",
              "max.compaction.lag.ms": 1000}  # however records fall into segments, all are compacted in the end
    culex = culex_factory(streams=[stream], store={"segment.ms": 1000})
    devices = Devices(culex)
    follower = Follower(culex, devices.stored)
    follower.start()
    try:
        live_through_days(culex, devices)
    finally:
        follower.join_all()
    assert follower.passes > 3
    culex.stop()
    culex.start()
    assert table(follow(culex)) == devices.want()
