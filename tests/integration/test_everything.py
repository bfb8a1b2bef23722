"""Everything at once while processes are killed: what was answered is there, and nothing twice.

MQTT is captured and copied in transactions; clients write idempotently, in transactions and into streams that retention cuts or compaction
cleans; groups of both protocols commit; streams are deleted and made again; liars, zip bombs and halves of requests come in between.
The server is killed each time when all of them have got further. Then everything is judged, after one kill more.

The short form, in `make test`, kills the server. `make everything` is the long one: kafkajs and Java copy as well, and broker and
writer are killed, too. ROUNDS=n and SEED=n change both."""

import asyncio
import os
import random
import re
import socket
import struct
import subprocess
import threading
import time
import traceback
import zlib

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka import TopicPartition as AioPartition
from aiokafka.errors import ProducerFenced
from confluent_kafka import OFFSET_BEGINNING, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from harness import (CLIENTS, ROOT, Copier, Driver, Load, Record, by_partition, consumer, end_offsets, group_violations, read_all,
                     settled_ends, wait_until)
from test_crash import check_publishers
from test_produce import batch
from test_transactions import UNSTABLE, committed_offset, transactional
from wire import Wire

LONG = bool(os.environ.get("EVERYTHING_LONG"))
ROUNDS = int(os.environ.get("ROUNDS", "60" if LONG else "6"))
SEED = int(os.environ.get("SEED", "1"))
# kafkajs falls at each kill and takes its time to come back; Java takes its time to begin, and has a test of its own.
COPIERS = ["librdkafka", "franz-go", "sarama", "aiokafka"] + (["kafkajs", "java", "java-consumer"] if LONG else [])
PARTITIONS = 4
PUBLISHERS = 4
NONE, UNKNOWN_TOPIC, EXISTS = 0, 3, 36
# What a server says that has just begun: LEADER_NOT_AVAILABLE, NOT_LEADER, COORDINATOR_LOADING and _NOT_AVAILABLE,
# CONCURRENT_TRANSACTIONS, KAFKA_STORAGE_ERROR.
RETRIABLE = {5, 6, 14, 15, 51, 56}


def committed_records(culex, topic):
    """All that readers of committed records get, up to the end."""
    c = consumer(culex.bootstrap, **{"enable.partition.eof": True})
    try:
        left = set(c.list_topics(topic, timeout=60).topics[topic].partitions)
        c.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in left])
        got, deadline = [], time.monotonic() + 120
        while left:
            assert time.monotonic() < deadline, f"{topic}: {len(got)} records, and no end of {left}"
            for m in c.consume(5000, 0.1):
                if not m.error():
                    got.append(Record(m.partition(), m.offset(), 0, m.key(), m.value()))
                elif m.error().name() == "_PARTITION_EOF":
                    left.discard(m.partition())
        return got
    finally:
        c.close()


class Actor(threading.Thread):
    """Does its work again and again until told to leave; `steps` counts what got done."""

    def __init__(self, culex):
        super().__init__(daemon=True, name=type(self).__name__)
        self.culex, self.steps, self.failure = culex, 0, None
        self.leaving = threading.Event()
        self.wire = None
        self.start()

    def run(self):
        try:
            self.begin()
            while not self.leaving.is_set():
                self.step()
            self.end()
        except BaseException:
            self.failure = traceback.format_exc()

    def begin(self):
        pass

    def end(self):
        pass

    def check(self):
        if self.failure is not None:
            print(self.failure)  # first of all: making a report of it takes the other threads' time
        assert self.failure is None, f"{self.name}:\n{self.failure}"

    def finish(self):
        self.leaving.set()
        self.join(240)
        self.check()
        assert not self.is_alive(), f"{self.name} does not come to its end"

    def ask(self, name, version, pick, **request):
        """The request, again and again until there is an answer that is not "later"; pick(answer) is (error, …)."""
        deadline = time.monotonic() + 120
        while True:
            assert time.monotonic() < deadline, f"{name} is not answered"
            try:
                if self.wire is None:
                    self.wire = Wire(self.culex.server.port, timeout=20)
                got = pick(self.wire.call(name, version, **request))
                if got[0] not in RETRIABLE:
                    return got
            except (OSError, struct.error):
                self.wire = None
            time.sleep(0.01)


class Plain(Actor):
    """An idempotent producer for the whole time."""

    def begin(self):
        self.said, self.n = [], 0
        self.p = Producer({"bootstrap.servers": self.culex.bootstrap, "enable.idempotence": True, "linger.ms": 1,
                           "reconnect.backoff.max.ms": 100, "message.timeout.ms": 120000})

    def answered(self, error, m):
        self.said.append((m.value(), m.offset(), error))
        self.steps += 1

    def step(self):
        self.p.produce(self.topic(), self.value(), on_delivery=self.answered, partition=0)
        self.n += 1
        self.p.poll(0.003)

    def topic(self):
        return "plain"

    def value(self):
        return b"%d" % self.n

    def end(self):
        assert self.p.flush(120) == 0

    def judge(self):
        assert [e for _, _, e in self.said if e] == []
        got = committed_records(self.culex, "plain")
        assert [r.value for r in got] == [b"%d" % i for i in range(self.n)]
        assert [(r.value, r.offset) for r in got] == [(v, o) for v, o, _ in self.said]


class Cut(Plain):
    """The same into a stream that retention cuts."""

    def topic(self):
        return "cut"

    def value(self):
        return b"%d " % self.n + bytes(1500)

    def judge(self):
        assert [e for _, _, e in self.said if e] == []
        wait_until("retention has cut", lambda: end_offsets(self.culex.bootstrap, "cut")[0][0] > 0, 120, every=0.2)
        start, end = end_offsets(self.culex.bootstrap, "cut")[0]
        assert end == self.n
        # Retention may go on while it is read: what is read has no holes, and ends with the last one.
        got = [(r.offset, r.value) for r in committed_records(self.culex, "cut")]
        assert got == [(o, v) for v, o, _ in self.said if o >= got[0][0]] and got[-1][0] == end - 1


class Table(Actor):
    """Transactions into a compacted stream: each writes all keys; a third is aborted. After an error a new instance goes on, and
    what became of that transaction is seen at the end."""

    KEYS = 30

    def begin(self):
        self.p, self.n = None, 0
        self.done, self.unknown = [], []

    def step(self):
        self.n += 1
        try:
            if self.p is None:
                self.p = transactional(self.culex, "table", **{"transaction.timeout.ms": 20000})
            self.p.begin_transaction()
            for k in range(self.KEYS):
                self.p.produce("table", b"%d" % self.n, b"k%d" % k, partition=0)
            if self.n % 3 == 0:
                self.p.flush(20)
                self.p.abort_transaction(30)
            else:
                self.unknown.append(self.n)
                self.p.commit_transaction(30)
                self.done.append(self.unknown.pop())
                self.steps += 1
        except KafkaException:
            self.p = None

    def judge(self):
        def cleaned():
            got = [(r.key, int(r.value)) for r in committed_records(self.culex, "table")]
            return got if len(got) < len(self.done) * self.KEYS else None
        got = wait_until("compaction has cleaned", cleaned, 120, every=0.3)
        last = set(dict(got).values())
        assert len(dict(got)) == self.KEYS and len(last) == 1, "the last transaction is there in parts"
        assert last.pop() >= self.done[-1]
        numbers = [n for _, n in got]
        assert numbers == sorted(numbers) and len(got) == len(set(got))
        assert set(numbers) <= set(self.done) | set(self.unknown)


class Twin(Actor):
    """One of two instances with one transactional id: each fences the other, over and over, and comes back when the other has got
    further. A transaction is five records and an offset that says whose it is."""

    RECORDS = 5

    def __init__(self, culex, number, twins):
        self.number, self.twins = number, twins
        twins.append(self)
        self.p, self.n, self.fenced = None, 0, 0
        self.done, self.unknown = [], []
        super().__init__(culex)

    def begin(self):
        self.loop = asyncio.new_event_loop()

    async def transaction(self, me):
        if self.p is None:
            self.p = AIOKafkaProducer(bootstrap_servers=self.culex.bootstrap, transactional_id="twins",
                                      transaction_timeout_ms=20000)
            await self.p.start()
        await self.p.begin_transaction()
        for i in range(self.RECORDS):
            await self.p.send("twins", me.encode(), b"%d" % i, partition=0)
        at = self.number * 1000000 + self.n
        await self.p.send_offsets_to_transaction({AioPartition("twins", 0): at}, "twins")
        self.unknown.append(me)
        await self.p.commit_transaction()
        self.done.append(self.unknown.pop())
        self.steps += 1

    async def give_up(self):
        p, self.p = self.p, None
        try:
            await asyncio.wait_for(p.stop(), 2)
        except Exception as e:  # what it still had to send is not wanted
            self.last = e

    def step(self):
        self.n += 1
        try:
            self.loop.run_until_complete(asyncio.wait_for(self.transaction(f"{self.number} {self.n}"), 20))
        except Exception as e:  # whatever it is: what became of the transaction is seen at the end
            self.loop.run_until_complete(self.give_up())
            if isinstance(e, ProducerFenced):
                self.fenced += 1
                other = self.twins[1 - self.number]
                enough, patience = other.steps + 3, time.monotonic() + 2
                while other.steps < enough and time.monotonic() < patience and not self.leaving.wait(0.005):
                    pass

    def end(self):
        if self.p is not None:
            self.loop.run_until_complete(self.give_up())

    def judge(self):
        if self.number:
            return  # the first one judges both
        got = [r.value.decode() for r in committed_records(self.culex, "twins")]
        order = list(dict.fromkeys(got))
        assert got == [me for me in order for _ in range(self.RECORDS)], "in parts, twice or mixed"
        done, unknown = ({me for t in self.twins for me in getattr(t, what)} for what in ("done", "unknown"))
        assert done <= set(order) <= done | unknown
        for number in "0", "1":
            mine = [int(me.split()[1]) for me in order if me.startswith(number)]
            assert mine == sorted(mine)
        assert all(t.fenced for t in self.twins), "they did not meet"
        with Wire(self.culex.server.port) as w:
            wait_until("the offset is stable", lambda: committed_offset(w, "twins", "twins", True) != UNSTABLE, 120)
            last = committed_offset(w, "twins", "twins")
        number, n = map(int, order[-1].split())
        assert last == number * 1000000 + n


class Again(Actor):
    """A stream is made, written idempotently and in a transaction, read, and deleted: every second time within the transaction."""

    TOPIC = "again"

    def begin(self):
        self.life, self.left = 0, None
        _, self.pid, self.epoch = self.ask("InitProducerId", 4, self.ids, TransactionalId="again",
                                           TransactionTimeoutMs=600000)

    @staticmethod
    def ids(a):
        return a["ErrorCode"], a["ProducerId"], a["ProducerEpoch"]

    def write(self, value, pid, epoch, sequence, name):
        data = batch([value], producer_id=pid, producer_epoch=epoch, base_sequence=sequence,
                     is_transactional=int(name is not None))

        def pick(a):
            p = a["Responses"][0]["PartitionResponses"][0]
            return p["ErrorCode"], p["BaseOffset"]
        got = self.ask("Produce", 12, pick, TransactionalId=name, Acks=-1, TimeoutMs=1000, TopicData=[
            {"Name": self.TOPIC, "PartitionData": [{"Index": 0, "Records": data}]}])
        assert got[0] == NONE, f"life {self.life}: {got}"
        return got[1]

    def remove(self):
        error, = self.ask("DeleteTopics", 5, lambda a: (a["Responses"][0]["ErrorCode"],), TopicNames=[self.TOPIC],
                          TimeoutMs=5000)
        assert error in (NONE, UNKNOWN_TOPIC)

    def offset(self, value):
        error, = self.ask("TxnOffsetCommit", 5, lambda a: (a["Topics"][0]["Partitions"][0]["ErrorCode"],),
                          TransactionalId="again", GroupId="again", ProducerId=self.pid, ProducerEpoch=self.epoch,
                          GenerationId=-1, MemberId="", Topics=[{"Name": self.TOPIC, "Partitions": [
                              {"PartitionIndex": 0, "CommittedOffset": value, "CommittedMetadata": ""}]}])
        assert error == NONE

    def committed(self):
        def pick(a):
            p = a["Groups"][0]["Topics"][0]["Partitions"][0]
            return p["ErrorCode"] or a["Groups"][0]["ErrorCode"], p["CommittedOffset"]
        return self.ask("OffsetFetch", 8, pick, RequireStable=True, Groups=[{"GroupId": "again", "Topics": [
            {"Name": self.TOPIC, "PartitionIndexes": [0]}]}])

    def step(self):
        self.life += 1
        error, = self.ask("CreateTopics", 5, lambda a: (a["Topics"][0]["ErrorCode"],), timeoutMs=5000, Topics=[
            {"Name": self.TOPIC, "NumPartitions": 1, "ReplicationFactor": 1}])
        assert error in (NONE, EXISTS)
        assert self.committed() == (NONE, -1), f"life {self.life}: the offset of another life"
        _, pid, epoch = self.ask("InitProducerId", 4, self.ids, TransactionalId=None)
        want = [b"%d %d" % (self.life, i) for i in range(5)]
        for i, v in enumerate(want):
            assert self.write(v, pid, epoch, i, None) == i
        want.append(b"%d in a transaction" % self.life)
        assert self.write(want[-1], self.pid, self.epoch, 0, "again") == 5
        self.offset(5)
        if self.life % 2:
            self.remove()
        error, self.pid, self.epoch = self.ask(
            "EndTxn", 5, self.ids, TransactionalId="again", ProducerId=self.pid, ProducerEpoch=self.epoch, Committed=True)
        assert error == NONE
        self.steps += 1
        if self.life % 2 == 0:
            assert self.committed() == (NONE, 5)
            if self.leaving.is_set():
                self.left = want
            else:
                self.remove()

    def end(self):
        if self.left is None:
            self.life += 1 - self.life % 2  # the next one stays
            self.step()

    def judge(self):
        assert [r.value for r in committed_records(self.culex, self.TOPIC)] == self.left


class Bound(Actor):
    """A stream is bound to MQTT, written by it, read and deleted. What a kill makes uncertain is begun again."""

    def begin(self):
        self.life = 0
        self.admin = AdminClient({"bootstrap.servers": self.culex.bootstrap, "reconnect.backoff.max.ms": 100})

    def one(self, futures):
        (future,) = futures.values()
        return future.result(60)

    def step(self):
        self.life += 1
        killed = self.culex.broker_kills
        try:
            self.one(self.admin.create_topics([NewTopic("bound", 2, 1, config={"mqtt.filter": "bound/#"})]))
            with self.culex.mqtt() as m:
                want = [f"{self.life} {i}" for i in range(10)]
                m.publish_all([(f"bound/{v}", v) for v in want], seconds=60)
            got = read_all(self.culex.bootstrap, "bound", len(want))
            assert sorted(r.value.decode() for r in got) == want
            self.steps += 1
        except KafkaException as e:
            self.last = e
        except Exception:
            if killed == self.culex.broker_kills and self.culex.broker.running():
                raise
        try:
            self.one(self.admin.delete_topics(["bound"]))
        except KafkaException as e:
            self.last = e


class Bad(Actor):
    """What is wrong is refused, or its connection closed; nobody else notices, and nothing of it is stored."""

    def begin(self):
        self.rng = random.Random(SEED)
        self.idle = []

    def lies(self):
        good = bytearray(batch([b"x" * 50, b"y" * 50], self.rng.choice(["none", "gzip"])))
        at, what = self.rng.choice([(17, 0xff), (57, 0x40), (8, 1), (16, 9), (-1, 0xff)])
        good[at] ^= what
        return self.signed(good, at) if self.rng.random() < 0.5 else bytes(good)

    @staticmethod
    def signed(data, at):
        """With the sum that what was spoiled has now; not where that would mend it."""
        if at == 17:
            return bytes(data)
        from aiokafka.record.util import calc_crc32c_py
        data[17:21] = struct.pack(">I", calc_crc32c_py(bytes(data[21:])))
        return bytes(data)

    def bomb(self):
        """A record that says it is longer than the 64 MB of zeros that follow."""
        z = zlib.compressobj(9, zlib.DEFLATED, 31)
        plain = b"".join(z.compress(bytes(1 << 20)) for _ in range(64)) + z.flush()
        good = bytearray(batch([b"x"]))
        good[22] |= 1  # gzip
        good[61:] = plain
        good[8:12] = struct.pack(">i", len(good) - 12)
        return self.signed(good, 61)

    def step(self):
        kind = self.rng.randrange(8)
        if kind == 0 and self.steps > 20:
            self.refused(self.bomb())
        elif kind < 5:
            self.refused(self.lies())
        else:
            self.half()
        self.steps += 1

    def refused(self, data):
        error, = self.ask("Produce", 9, lambda a: (a["Responses"][0]["PartitionResponses"][0]["ErrorCode"],),
                          Acks=-1, TimeoutMs=1000, TopicData=[
                              {"Name": "bad", "PartitionData": [{"Index": 0, "Records": data}]}])
        assert error != NONE, data.hex()

    def half(self):
        try:
            s = socket.create_connection(("127.0.0.1", self.culex.server.port), timeout=5)
            s.sendall(struct.pack(">ihhih", 1 << 16, self.rng.randrange(70), self.rng.randrange(10), 1, 4) +
                      self.rng.randbytes(self.rng.randrange(200)))
            self.idle.append(s)
        except OSError:
            pass
        if len(self.idle) > 50:
            self.end()

    def end(self):
        for s in self.idle:
            s.close()
        self.idle = []

    def judge(self):
        assert end_offsets(self.culex.bootstrap, "bad")[0] == (0, 0)


class Copies:
    """A client that copies what MQTT brings; one that ended with an error is started again."""

    def __init__(self, culex, client):
        self.culex, self.client, self.to = culex, client, f"copy-{client}"
        self.all = []
        self.name = self.to
        self.again()

    def again(self):
        if not self.all or self.all[-1].proc.poll() is not None:
            assert len(self.all) < 3 * ROUNDS + 10, f"{self.client} cannot go on: {self.all[-1].last('error')}"
            self.all.append(Copier(self.client, self.culex.bootstrap, "demo", self.to, self.to, f"x-{self.client}"))

    @property
    def steps(self):
        return sum("copied" in e for c in self.all for _, e in list(c.events))

    def check(self):
        self.again()

    def copied(self):
        return sum(e.get("copied", 0) for c in self.all for _, e in list(c.events))

    def wait_all(self, source):
        """However long it takes, as long as it gets further: on a machine that is slow enough they are far behind."""
        there = -1

        def further():
            self.again()
            n = sum(map(len, self.read().values()))
            return (n,) if n > there else None
        while there < sum(map(len, source.values())):
            there, = wait_until(f"{self.client} has copied more than {there}", further, 120, every=0.3)

    def judge(self, source):
        """All of the source, in its order; `copied` may say less, where the answer was lost."""
        try:
            self.wait_all(source)
        except AssertionError as e:
            raise AssertionError(f"{e}: {self.where(source)}") from e
        self.all[-1].leave()
        assert self.read() == source
        assert sum("aborted" in e for c in self.all for _, e in c.events) > 0

    def where(self, source):
        """What is there, what the group has committed, and what the client said last: for a report."""
        with Wire(self.culex.server.port) as w:
            group = [{"GroupId": self.to, "Topics": [{"Name": "demo", "PartitionIndexes": list(range(PARTITIONS))}]}]
            offsets = [w.call("OffsetFetch", 8, Groups=group, RequireStable=stable)["Groups"][0]["Topics"][0]["Partitions"]
                       for stable in (False, True)]
            state = w.call("DescribeTransactions", 0, TransactionalIds=[f"x-{self.client}"])["TransactionStates"]
        return {"source": {p: len(rs) for p, rs in source.items()}, "there": {p: len(rs) for p, rs in self.read().items()},
                "committed": [[(p["ErrorCode"], p["CommittedOffset"]) for p in parts] for parts in offsets], "state": state,
                "said": [e for _, e in self.all[-1].events][-8:]}

    def read(self):
        return {p: [(r.key, r.value) for r in rs] for p, rs in by_partition(
            committed_records(self.culex, self.to)).items()}

    def close(self):
        for c in self.all:
            c.close()


class JavaCopies(Copies):
    """Java does the same, in a group of the protocol that is named; it goes on after errors by itself."""

    def again(self):
        if not self.all:
            argv = ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{CLIENTS}/java/lib/*",
                    ROOT / "tests" / "clients" / "java" / "Copier.java", self.culex.bootstrap, "demo", self.to, self.to,
                    f"x-{self.client}"] + (["consumer"] if self.client == "java-consumer" else [])
            self.log = self.culex.home / f"{self.client}.log"
            with open(self.log, "wb") as log:
                self.all = [subprocess.Popen([str(a) for a in argv], stdin=subprocess.PIPE, stdout=log,
                                             stderr=subprocess.STDOUT)]
        assert self.all[0].poll() is None, self.log.read_text()[-3000:]

    @property
    def steps(self):
        return len(re.findall(r"^\d+$", self.log.read_text(), re.M))

    def judge(self, source):
        self.wait_all(source)
        self.all[0].communicate(b"end", timeout=120)
        assert self.read() == source

    def close(self):
        self.all[0].kill()
        self.all[0].wait(60)


class Groups:
    """Members of both protocols that commit what they read."""

    def __init__(self, culex):
        self.culex, self.name = culex, "groups"
        self.members = {"classic": Driver("librdkafka", culex.bootstrap, "demo", "classic", 0, assignor="cooperative-sticky"),
                        "consumer": Driver("librdkafka", culex.bootstrap, "demo", "consumer", 0, protocol="consumer")}

    @property
    def steps(self):
        return min(sum("commit" in e for _, e in list(d.events)) for d in self.members.values())

    def check(self):
        for d in self.members.values():
            assert d.proc.poll() is None, d.summary()

    def said(self):
        """What each group's commits covered that were answered."""
        out = {}
        for name, d in self.members.items():
            done = out.setdefault(name, {})
            for _, e in list(d.events):
                for p, o in e.get("commit", {}).items():
                    done[int(p)] = max(done.get(int(p), 0), o)
        return out

    def check_commits(self, said):
        with Wire(self.culex.server.port) as w:
            for group, done in said.items():
                def ask(group=group):
                    g = w.call("OffsetFetch", 8, Groups=[{"GroupId": group, "Topics": [
                        {"Name": "demo", "PartitionIndexes": list(range(PARTITIONS))}]}])["Groups"][0]
                    return g if g["ErrorCode"] == NONE else None
                parts = wait_until("the offsets", ask)["Topics"][0]["Partitions"]
                now = {p["PartitionIndex"]: p["CommittedOffset"] for p in parts}
                behind = {p: (o, now.get(p)) for p, o in done.items() if now.get(p, -1) < o}
                assert not behind, f"{group}: answered and lost: {behind}"

    def judge(self, source):
        for name, d in self.members.items():
            want = {(p, o) for p, rs in source.items() for o in range(len(rs))}
            d.wait_for("all records", lambda ev, want=want: want <= {(e["p"], e["o"]) for _, e in ev if "o" in e}, 300)
            d.leave()
            assert group_violations([d]) == []
            assert d.committed == {p: len(rs) for p, rs in source.items()}

    def close(self):
        for d in self.members.values():
            d.close()


class Captured:
    """What MQTT brings; over the broker's deaths in the long form."""

    def __init__(self, culex):
        self.culex, self.first, self.name = culex, 0, "captured"
        self.acked, self.sent = ({p: [] for p in range(PUBLISHERS)} for _ in range(2))
        self.begin()

    def begin(self):
        self.load = Load(self.culex.broker.port, "-n", PUBLISHERS, "-q", 1, "-d", 86400, "-r", 200 if LONG else 100, "-T", 32, "-t", "demo",
                         "-f", self.first)
        self.load.__enter__()

    def take(self, report):
        for p, (sent, acked) in enumerate(report["conns"]):
            self.sent[p].append((self.first, sent))
            self.acked[p].append((self.first, acked))
        self.first += max(s for s, _ in report["conns"]) + 1

    def over_a_kill(self, kill):
        kill()
        self.take(self.load.result())
        self.culex.broker.start()
        self.begin()

    def finish(self):
        self.take(self.load.stop())
        total = sum(n for rounds in self.acked.values() for _, n in rounds)
        settled_ends(self.culex.bootstrap, "demo", total)

    def judge(self, records):
        for part, rs in by_partition(records).items():
            for who in {r.value[:8] for r in rs}:
                mine = [r.value for r in rs if r.value[:8] == who]
                assert mine == sorted(mine), f"publisher {who}, partition {part}: reordered"
        check_publishers(sorted(records, key=lambda r: r.value), self.acked, self.sent)


def make_topics(culex):
    configs = {"cut": {"retention.bytes": "100000"}, "bad": {}, "plain": {}, "again": {}, "twins": {},
               # Segments are closed as early as they ever are: after ten seconds.
               "table": {"cleanup.policy": "compact", "segment.ms": "1000", "min.cleanable.dirty.ratio": "0.01"}}
    topics = [NewTopic(name, 1, config=config) for name, config in configs.items()]
    topics += [NewTopic(f"copy-{client}", PARTITIONS) for client in COPIERS]
    admin = AdminClient({"bootstrap.servers": culex.bootstrap})
    for future in admin.create_topics(topics).values():
        future.result(60)


def kill_one(culex, captured, rng):
    what = rng.choice(["server", "server", "broker", "broker only", "writer", "all"]) if LONG else "server"
    if what in ("broker", "broker only", "all"):
        culex.broker_kills += 1
    if what in ("server", "all"):
        culex.server.kill9()
    if what in ("broker", "all"):
        captured.over_a_kill(culex.broker.kill9)
    elif what == "broker only":
        captured.over_a_kill(culex.broker.kill_broker_only)
    elif what == "writer":
        culex.broker.kill_writer()
    return what in ("server", "all")


def run_and_kill(culex, actors, captured, groups):
    rng = random.Random(SEED)

    def further(before):
        for a in actors:
            a.check()
        assert culex.server.running(), culex.server.log()
        return all(a.steps > n for a, n in zip(actors, before))

    for _ in range(ROUNDS):
        before = [a.steps for a in actors]
        try:
            wait_until("all got further", lambda: further(before), 240)
        except AssertionError as e:
            raise AssertionError(f"{e}: {[(a.name, n, a.steps) for a, n in zip(actors, before)]}") from e
        a, more = rng.choice(actors), rng.randrange(5)
        wait_until(f"{a.name} gets further", lambda: further([-1] * len(actors)) and a.steps > before[
            actors.index(a)] + more, 240, every=0.001)
        if kill_one(culex, captured, rng):
            said = groups.said()
            culex.server.start()
            groups.check_commits(said)


@pytest.mark.timeout(1200 + 60 * ROUNDS)
def test_all_that_was_answered_is_there_and_nothing_twice(culex_factory):
    culex = culex_factory(streams=[{"name": "demo", "filters": ["demo/#"], "partitions": PARTITIONS}], server={
        "store.segment.bytes": 1 << 20, "producer.id.expiration.check.interval.ms": 1000,
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": 100})
    culex.broker_kills = 0
    make_topics(culex)
    captured, others, actors = Captured(culex), [], []
    try:
        for client in COPIERS:
            others.append((JavaCopies if client.startswith("java") else Copies)(culex, client))
        others.append(Groups(culex))
        actors += [actor(culex) for actor in (Plain, Cut, Table, Again, Bound, Bad)]
        twins = []
        actors += [Twin(culex, 0, twins), Twin(culex, 1, twins)]
        run_and_kill(culex, actors + others, captured, others[-1])
        for a in actors:
            a.leaving.set()
        for a in actors:
            a.finish()
        captured.finish()
        culex.server.kill9()
        culex.server.start()
        demo = read_all(culex.bootstrap, "demo")
        captured.judge(demo)
        source = {p: [(r.key, r.value) for r in rs] for p, rs in by_partition(demo).items()}
        for a in others:
            a.judge(source)
        for a in actors:
            if a.name != "Bound":  # has judged each of its lives
                a.judge()
        print("what got done:", ", ".join(f"{a.name} {a.steps}" for a in actors + others),
              "- copiers that began again:", [(o.client, c.last("error")) for o in others[:-1] for c in o.all[:-1]])
    finally:
        captured.load.close()
        for o in others:
            o.close()
        for a in actors:
            a.leaving.set()
        for a in actors:  # Python 3.11 cannot make a report while a thread makes a traceback
            a.join(60)
