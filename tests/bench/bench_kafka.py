"""Rows of bench.py that stand beside Apache Kafka: the same librdkafka, the same settings, one after the other in one run.

Kafka is one node in KRaft mode with its default settings, but for replication factors of 1, a heap of 1 GB (its own default)
and Culex's wait for further members of a new group. It does not sync its log to the disk, nor does Culex wait for that.
"""

import json
import os
import shutil
import statistics
import subprocess
import time
from pathlib import Path

import harness
from harness import ROOT, TOOLS, Server, free_port, memory_kb, port_answers, wait_until

LIB = ROOT / "build" / "compare" / "lib"
PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
log.dirs={data}
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=5
"""


class Kafka:
    """Apache Kafka, on a directory of its own."""

    name = "Kafka"

    def __init__(self, home):
        self.home = home / "kafka"
        self.home.mkdir(parents=True)
        self.port = free_port()
        self.bootstrap = f"127.0.0.1:{self.port}"
        conf = self.home / "server.properties"
        conf.write_text(PROPERTIES.format(port=self.port, controller=free_port(), data=self.home / "data"))
        java = ["java", "-Xmx1g", "-Xms1g", "-XX:+UseG1GC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error",
                "-cp", f"{LIB}/*"]
        self.log = open(self.home / "log", "wb")
        subprocess.run(java + ["kafka.tools.StorageTool", "format", "-t", "4L6g3nShT-eMCtK--X86sw", "-c", conf],
                       check=True, stdout=self.log, stderr=self.log)
        self.proc = subprocess.Popen(java + ["kafka.Kafka", conf], stdout=self.log, stderr=self.log)
        wait_until("Kafka answers", lambda: self.proc.poll() is None and port_answers(self.port), 120)

    def memory_mb(self):
        return memory_kb(self.proc.pid, "Rss") / 1024

    def stop(self):
        self.proc.terminate()
        self.proc.wait(60)
        self.log.close()


class Culex:
    """culex-server on free streams; no broker."""

    name = "Culex"

    def __init__(self, home):
        self.home = home / "culex"
        (self.home / "data").mkdir(parents=True)
        config = self.home / "culex.json"
        self.server = Server(self.home / "data", config, self.home)
        config.write_text(json.dumps({"data": str(self.home / "data"), "streams": [],
                                      "server": {"listeners": f"PLAINTEXT://127.0.0.1:{self.server.port}"}}))
        self.server.start()
        self.bootstrap = self.server.bootstrap

    def memory_mb(self):
        return self.server.memory_kb("Rss") / 1024

    def cpu_seconds(self):
        fields = Path(f"/proc/{self.server.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self):
        self.server.stop()


def tool(name, *args, seconds=600):
    got = subprocess.run([str(TOOLS / name), *map(str, args)], stdout=subprocess.PIPE, text=True, timeout=seconds)
    assert got.returncode == 0, f"{name} {args} ended with {got.returncode}"
    return json.loads(got.stdout.splitlines()[-1])


def create(bootstrap, *topics, partitions=1):
    from confluent_kafka.admin import AdminClient, NewTopic
    admin = AdminClient({"bootstrap.servers": bootstrap})
    made = admin.create_topics([NewTopic(t, partitions, 1) for t in topics], request_timeout=120, operation_timeout=120)
    for f in made.values():
        f.result(120)


def delete(bootstrap, topic):
    from confluent_kafka.admin import AdminClient
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for f in admin.delete_topics([topic]).values():
        f.result(120)


def beside(row, pair, rounds, what, unit, measure, better, note=""):
    """Measures both in turn; the ratio is the median of the rounds'. better: "more" or "less"."""
    got = {x.name: [] for x in pair}
    for n in range(rounds + 1):
        for x in pair if n % 2 else pair[::-1]:
            value = measure(x, n)
            if n:  # the first round warms up
                got[x.name].append(value)
    ratio = statistics.median(c / k for c, k in zip(got["Culex"], got["Kafka"]))
    culex, kafka = (statistics.median(got[n]) for n in ("Culex", "Kafka"))
    form = (lambda v: f"{v:,.0f}") if culex >= 100 else (lambda v: f"{v:,.2f}")
    ok = ratio >= 1.0 if better == "more" else ratio <= 1.0
    row(what, f"{ratio:.2f} × Kafka ({form(culex)} / {form(kafka)} {unit})", "≥ 1.0 ×" if better == "more" else "≤ 1.0 ×",
        ok, note)


def bench_kafka(size, row, home):
    assert LIB.is_dir(), f"Kafka's jars are not there: make {LIB.relative_to(ROOT)}/.done"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    pair = [Kafka(home), Culex(home)]
    kafka, culex = pair
    rounds = size["kafka_rounds"]
    try:
        for bytes_, count in ((1000, size["kafka_records"]), (100, size["kafka_records"] * 4)):
            for partitions in (1, 16):
                def write(x, n, bytes_=bytes_, count=count, partitions=partitions):
                    topic = f"w-{bytes_}-{partitions}-{n}"
                    create(x.bootstrap, topic, partitions=partitions)
                    try:
                        return tool("kafkawrite", "-b", x.bootstrap, "-t", topic, "-n", count, "-s", bytes_, "-p",
                                    partitions, "-X", "acks=all", "-X", "linger.ms=5")["mb_per_second"]
                    finally:
                        delete(x.bootstrap, topic)
                beside(row, pair, 2 * rounds, f"produce, {bytes_:,} B, {partitions} partition{'s' * (partitions > 1)}, acks=all",
                       "MB/s", write, "more")

        for x in pair:
            create(x.bootstrap, "read")
            tool("kafkawrite", "-b", x.bootstrap, "-t", "read", "-n", size["kafka_read"], "-s", 1000, "-X", "acks=all")

        def read(x, n):
            p = subprocess.Popen([str(TOOLS / "kafkaread"), "-b", x.bootstrap, "-t", "read", "-e"],
                                 stdout=subprocess.PIPE, text=True)
            out, _ = p.communicate(timeout=300)
            return json.loads(out.splitlines()[-1])["mb_per_s"]
        beside(row, pair, rounds, f"catch-up of {size['kafka_read'] / 1e6:g} GB, one consumer", "MB/s", read, "more")

        for x in pair:
            create(x.bootstrap, "latency")
        latency = {}

        def late(x, n):
            latency[x.name, n] = tool("kafkabench", "latency", "-b", x.bootstrap, "-t", "latency", "-g", f"l{n}", "-n",
                                      size["kafka_latency"], "-r", 1000, "-s", 100)
            return latency[x.name, n]["p50_ms"]
        beside(row, pair, rounds, "produce → poll at 1,000/s, p50", "ms", late, "less")
        beside(row, pair, rounds, "produce → poll at 1,000/s, p99", "ms", lambda x, n: latency[x.name, n]["p99_ms"], "less")

        for x in pair:
            create(x.bootstrap, "txn")
        beside(row, pair, rounds, "transactions of 100 records of 100 B, one producer", "per s",
               lambda x, n: tool("kafkabench", "txn", "-b", x.bootstrap, "-t", "txn", "-g", "txn", "-n",
                                 size["kafka_txn"])["per_second"], "more")
        beside(row, pair, rounds, "commits, 4 consumers that wait for each", "per s",
               lambda x, n: tool("kafkabench", "commit", "-b", x.bootstrap, "-t", "txn", "-g", f"c{n}", "-c", 4, "-n",
                                 size["kafka_commits"])["per_second"], "more")
        for x in pair:
            create(x.bootstrap, "join", partitions=200)
        beside(row, pair, size["kafka_joins"], "200 consumers join a group at once", "s",
               lambda x, n: tool("kafkabench", "join", "-b", x.bootstrap, "-t", "join", "-g", f"j{n}", "-c", 200)["seconds"],
               "less")
        time.sleep(8)
        used, theirs = culex.memory_mb(), kafka.memory_mb()
        row("memory after all that", f"1/{theirs / used:.1f} of Kafka's ({used:.0f} / {theirs:.0f} MB)", "≤ 1/8",
            used * 8 <= theirs)
        kafka.stop()
        many(culex, row, size)
    finally:
        for x in pair:
            if x is culex or x.proc.poll() is None:
                x.stop()
        shutil.rmtree(home, ignore_errors=True)


def many(culex, row, size):
    """1,000 streams × 16 partitions."""
    topics = [f"many-{i:04}" for i in range(1000)]
    began = time.monotonic()
    create(culex.bootstrap, *topics, partitions=16)
    took = time.monotonic() - began
    row("1,000 streams × 16 partitions created", f"{took:.1f} s", "≤ 10 s", took <= 10)
    got = tool("kafkabench", "metadata", "-b", culex.bootstrap, "-n", 20)
    assert got["topics"] >= 1000
    row("… metadata of all of them", f"{got['p50_ms']:.1f} ms", "≤ 50 ms", got["p50_ms"] <= 50)
    time.sleep(3)
    cpu, began = culex.cpu_seconds(), time.monotonic()
    time.sleep(size["idle_seconds"])
    share = (culex.cpu_seconds() - cpu) / (time.monotonic() - began)
    row("… CPU of the idle server", f"{share * 100:.2f} %", "≤ 1 %", share <= 0.01)
