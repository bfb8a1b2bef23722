"""A table in a compacted stream, updated 20 times: it shrinks to its last values while it is written, read and killed.

TABLE_KEYS says how many keys there are: `make compaction-test` has a million, and a reader in Java, too."""

import json
import os
import random
import subprocess
import threading
import time

import pytest
from harness import CLIENTS, ROOT, TOOLS, wait_until
from wire import Wire

KEYS = int(os.environ.get("TABLE_KEYS", 50000))
FULL = KEYS >= 1000000
PARTITIONS = 4
ROUNDS = 20
KILLED = (3, 9, 14, 19)  # rounds in which the server is killed
RETENTION_MS = 60000 if FULL else 6000
RECORD_BYTES = 32  # key 8, value 15, and what a record needs
ROUND_BYTES = KEYS * RECORD_BYTES
# Three rounds and some: far less than is written.
LIMIT_BYTES = max(12 * ROUND_BYTES, 24 << 20)
SECONDS = 240


def live_keys():
    """After the last round: keys ending in 0 and 2 are deleted, and those whose last write was a deletion."""
    return sum(1 for k in range(KEYS) if k % 10 not in (0, 2) and not (k % 10 == 1 and (k * 7 + 15) % 31 == 0))


class Reader:
    def __init__(self, culex, argv, name):
        self.name = name
        self.out = open(culex.home / f"{name}.out", "w+")
        self.err = open(culex.home / f"{name}.err", "w+")
        self.proc = subprocess.Popen([str(a) for a in argv], stdout=self.out, stderr=self.err)

    def passes(self):
        self.out.seek(0)
        return [json.loads(line) for line in self.out if line.endswith("\n")]

    def check(self):
        self.err.seek(0)
        assert self.proc.poll() in (None, 0), f"{self.name}: {self.err.read()[-2000:]}"

    def finish(self):
        self.proc.wait(SECONDS)
        self.check()
        return self.passes()


class Table:
    def __init__(self, culex):
        self.culex = culex
        self.progress, self.stop = culex.home / "progress", culex.home / "stop"
        self.progress.touch()
        config = {"cleanup.policy": "compact", "segment.ms": 1000, "min.cleanable.dirty.ratio": 0.01,
                  "delete.retention.ms": RETENTION_MS}
        with Wire(culex.server.port) as w:
            topic = {"Name": "table", "NumPartitions": PARTITIONS, "ReplicationFactor": 1,
                     "Configs": [{"Name": k, "Value": str(v)} for k, v in config.items()]}
            assert w.call("CreateTopics", 7, Topics=[topic], timeoutMs=10000)["Topics"][0]["ErrorCode"] == 0

    def argv(self, verb, *more):
        return [TOOLS / "tablestream", verb, self.culex.bootstrap, "table", PARTITIONS, KEYS, self.progress, *more]

    def reader(self, isolation, stop=None, name=None):
        return Reader(self.culex, self.argv("read", isolation, stop or self.stop, RETENTION_MS), name or isolation)

    def java_reader(self, isolation):
        argv = ["java", "-Xmx512m", "-XX:+UseSerialGC", "-cp", f"{CLIENTS}/java/lib/*",
                ROOT / "tests" / "clients" / "java" / "TableReader.java", self.culex.bootstrap, "table", PARTITIONS, KEYS,
                self.progress, isolation, self.stop, RETENTION_MS]
        return Reader(self.culex, argv, f"java-{isolation}")

    def write(self, number):
        self.run("write", number)

    def touch(self):
        self.run("touch")

    def run(self, *what):
        log = self.culex.home / f"{'-'.join(map(str, what))}.log"
        with open(log, "w") as out:
            done = subprocess.run([str(a) for a in self.argv(*what)], stderr=out, timeout=SECONDS)
        assert done.returncode == 0, log.read_text()[-2000:]

    def once(self, isolation="read_uncommitted"):
        """One pass, now."""
        (got,) = self.reader(isolation, stop=self.progress, name="once").finish()
        return got

    def bytes(self):
        with Wire(self.culex.server.port) as w:
            results = w.call("DescribeLogDirs", 4, Topics=None)["Results"]
        return sum(p["PartitionSize"] for r in results for t in r["Topics"] for p in t["Partitions"])

    def files(self):
        total = 0
        for p in (self.culex.data / "server").rglob("*.sst"):
            try:
                total += p.stat().st_size
            except FileNotFoundError:  # just removed
                pass
        return total

    def log_starts(self):
        from confluent_kafka import Consumer, TopicPartition
        c = Consumer({"bootstrap.servers": self.culex.bootstrap, "group.id": "none"})
        starts = [c.get_watermark_offsets(TopicPartition("table", p), timeout=SECONDS)[0] for p in range(PARTITIONS)]
        c.close()
        return starts


@pytest.fixture
def table(culex_factory):
    culex = culex_factory(start=False, streams=[], server={"store.limit.bytes": LIMIT_BYTES,
                                                           "store.segment.bytes": max(ROUND_BYTES // 2, 1 << 19)})
    culex.server.start()
    table = Table(culex)
    readers = [table.reader("read_committed"), table.reader("read_uncommitted")]
    if FULL:
        readers.append(table.java_reader("read_committed"))
    yield table, readers
    for r in readers:
        r.proc.kill()
        r.proc.wait()


def write_rounds(table, readers):
    """Killed at a random instant of some rounds. What was written may not outrun the cleaner: the limit is real."""
    rng, took = random.Random(17), 1.0
    for number in range(ROUNDS):
        killer = None
        if number in KILLED:
            def kill():
                table.culex.server.kill9()
                table.culex.server.start()
            killer = threading.Timer(rng.uniform(0.1, 0.9) * took, kill)
            killer.start()
        began = time.monotonic()
        table.write(number)
        took = time.monotonic() - began
        if killer:
            killer.join()
        for r in readers:
            r.check()
        wait_until("there is room for the next round", lambda: table.bytes() < LIMIT_BYTES - 3 * ROUND_BYTES, SECONDS, every=0.2)


@pytest.mark.timeout(1800 if FULL else 900)
def test_table_shrinks_to_its_last_values_while_it_is_read(table):
    table, readers = table
    write_rounds(table, readers)
    live = live_keys()

    def left(tombstones):
        got = table.once()
        print(got, table.bytes())
        for r in readers:
            r.check()
        return got if got["records"] - tombstones * got["tombstones"] == live else None

    got = wait_until("no value but the last ones is there", lambda: left(1), SECONDS, every=1)
    assert (got["rounds"], got["live"], got["aborted"]) == (ROUNDS, live, 0)
    # Tombstones stay for a time, and then until there is something to compact, as in Kafka.
    time.sleep(RETENTION_MS / 1000)
    table.touch()
    wait_until("nothing but the last values is there", lambda: left(0), SECONDS, every=1)
    assert table.once("read_committed")["records"] == live
    assert table.log_starts() == [0] * PARTITIONS  # the limit has taken nothing
    assert table.bytes() < 3 * ROUND_BYTES
    table.stop.touch()
    for r in readers:
        passes = r.finish()
        assert passes[-1]["records"] == live and len(passes) > 2
    table.culex.server.stop()
    table.culex.server.start()
    assert table.once()["records"] == live
    assert table.bytes() < 3 * ROUND_BYTES and table.files() < 6 * ROUND_BYTES
