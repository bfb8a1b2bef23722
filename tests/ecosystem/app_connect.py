"""Kafka Connect, distributed mode with one worker: a file's lines come into a stream exactly once (exactly.once.source.support), and
a sink writes them, and a captured stream, into another file.

The worker is ended in good order, then killed, and with it the server and the broker. Connect keeps everything in
three compacted topics of the server: that the connectors go on where they were, without being asked for again, also when
those topics have been compacted, is what is proven. A sink into a file that is killed may write lines twice; after an end in good order it must not.
"""

import collections
import http.client
import json
import os
import time
import urllib.request

import harness
from worlds import DONE_SECONDS, START_SECONDS, Feeder, Program, config_of, records

SAW = ("Kafka Connect", "file source, exactly once, and file sink, through restarts and kills")
STREAMS = ["doors"]
OWN = ["connect-configs", "connect-offsets", "connect-status"]

WORKER = """
bootstrap.servers={bootstrap}
group.id=connect
key.converter=org.apache.kafka.connect.storage.StringConverter
value.converter=org.apache.kafka.connect.storage.StringConverter
header.converter=org.apache.kafka.connect.storage.StringConverter
config.storage.topic=connect-configs
config.storage.replication.factor=1
offset.storage.topic=connect-offsets
offset.storage.replication.factor=1
offset.storage.partitions=3
status.storage.topic=connect-status
status.storage.replication.factor=1
status.storage.partitions=1
offset.flush.interval.ms=500
exactly.once.source.support=enabled
consumer.isolation.level=read_committed
consumer.auto.offset.reset=earliest
consumer.session.timeout.ms=6000
session.timeout.ms=6000
heartbeat.interval.ms=1000
scheduled.rebalance.max.delay.ms=0
plugin.discovery=service_load
config.storage.segment.ms=10000
config.storage.min.cleanable.dirty.ratio=0.01
offset.storage.segment.ms=10000
offset.storage.min.cleanable.dirty.ratio=0.01
status.storage.segment.ms=10000
status.storage.min.cleanable.dirty.ratio=0.01
listeners=http://127.0.0.1:{rest}
"""


class Worker(Program):
    def __init__(self, home, world):
        self.rest = harness.free_port()
        path = home / "connect.properties"
        path.write_text(WORKER.format(bootstrap=world.bootstrap, rest=self.rest))
        super().__init__(home, "connect", "org.apache.kafka.connect.cli.ConnectDistributed", path)

    def ask(self, path, method="GET", body=None):
        """Connect's answer; None while it has none, or is still joining."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.rest}{path}", method=method, headers={"Content-Type": "application/json"},
            data=None if body is None else json.dumps(body).encode())
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return json.loads(answer.read() or b"{}")
        except (OSError, http.client.HTTPException, ValueError):  # killed, perhaps in the middle of its answer
            return None

    def put(self, name, config):
        harness.wait_until(f"connector {name} is taken",
                           lambda: self.ask(f"/connectors/{name}/config", "PUT", config), START_SECONDS, every=0.2)

    def wait_running(self, *names):
        def look():
            assert self.running(), f"the worker ended with {self.proc.returncode}"
            for name in names:
                s = self.ask(f"/connectors/{name}/status")
                if not s or not s["tasks"] or any(t["state"] != "RUNNING" for t in s["tasks"] + [s["connector"]]):
                    return False
            return True
        harness.wait_until(f"{names} run", look, DONE_SECONDS, every=0.2)


class Files:
    """Lines for the source, and publishes for the sink; what has come out in the sink's file."""

    def __init__(self, home, world):
        self.source, self.sink = home / "in.txt", home / "out.txt"
        self.world, self.lines, self.published = world, [], []

    def line(self, _=0):
        """One more line in the source's file; what is to be published beside it."""
        self.lines.append(f"line {len(self.lines)}")
        with open(self.source, "a") as f:
            f.write(self.lines[-1] + "\n")
        self.published.append(f"publish {len(self.published)}")
        return f"doors/door{len(self.published) % 7}", self.published[-1]

    def more(self, n):
        publisher = self.world.publisher()
        for _ in range(n):
            publisher.publish(*self.line())
        publisher.flush()
        publisher.close()

    def out(self):
        """Whole lines: one may be being written."""
        return self.sink.read_text().rpartition("\n")[0].splitlines() if self.sink.exists() else []

    def wait_out(self):
        want = set(self.lines) | set(self.published)
        harness.wait_until("all lines are in the sink's file", lambda: want <= set(self.out()), DONE_SECONDS, every=0.2)
        assert set(self.out()) == want, f"what nobody wrote: {sorted(set(self.out()) - want)[:5]}"


def assert_once(lines):
    twice = [x for x, n in collections.Counter(lines).items() if n > 1]
    assert not twice, f"more than once: {twice[:5]}"


def kill_while_working(rng, world, worker, files, kills):
    """The worker and one of what is under it, by turns alone and together: while it works, and while it starts."""
    feeder = Feeder(world, files.line)
    things = list(world.things.values())
    for i in range(kills):
        if i % 4 != 3:
            worker.wait_running("source", "sink")
        time.sleep(rng.uniform(0, 4))
        if things and i % 3 != 1:
            things[i % len(things)]()
        if i % 3 != 2:
            worker.restart()
    feeder.finish()


def wait_compacted(world):
    """Until Connect's topics hold one record of each key."""
    def look(topic):
        keys = [r.key for r in records(world.bootstrap, topic, committed=False)]
        return len(keys) == len(set(keys))
    for topic in OWN:
        harness.wait_until(f"{topic} is compacted", lambda t=topic: look(t), DONE_SECONDS, every=0.5)


def wait_offsets(worker, files):
    """The source's offset is the end of its file: kept by the server, and told by Connect."""
    def look():
        got = worker.ask("/connectors/source/offsets")
        return got and any(o["offset"].get("position") == os.path.getsize(files.source) for o in got["offsets"])
    harness.wait_until("the source's offset is its file's end", look, DONE_SECONDS, every=0.2)


def run(args, home, world, rng):
    size = 100 if args.short else 1000
    files = Files(home, world)
    files.more(size)
    worker = Worker(home, world).start()
    worker.put("source", {"connector.class": "FileStreamSource", "tasks.max": "1", "topic": "lines",
                          "file": str(files.source), "exactly.once.support": "required",
                          "transaction.boundary": "interval", "transaction.boundary.interval.ms": "400"})
    worker.put("sink", {"connector.class": "FileStreamSink", "tasks.max": "1", "topics": "lines,doors",
                        "file": str(files.sink)})
    files.wait_out()
    worker.stop(START_SECONDS)
    assert_once(files.out())
    files.more(size)  # for nobody, yet
    worker.start()
    worker.wait_running("source", "sink")
    files.wait_out()
    assert_once(files.out())

    kill_while_working(rng, world, worker, files, 1 if args.short else args.kills)
    wait_all(world, worker, files)
    if not args.short:
        worker.kill9()
        wait_compacted(world)
        for kill in list(world.things.values())[:1]:
            kill()
        files.more(size)
        worker.start()
        wait_all(world, worker, files)
    return f"{len(files.lines)} lines exactly once in their stream, {len(files.published)} publishes in the sink"


def wait_all(world, worker, files):
    files.wait_out()
    worker.wait_running("source", "sink")
    wait_offsets(worker, files)
    assert [r.value.decode() for r in records(world.bootstrap, "lines")] == files.lines, "the stream is not the file"
    assert sorted(worker.ask("/connectors")) == ["sink", "source"]
    for topic in OWN:
        assert config_of(world.bootstrap, topic, "cleanup.policy") == "compact", topic
