"""Every client library writes, in every codec that it has here: content, order and offsets are what it was told, idempotent where it
can. And what was answered is there after kills, nothing twice."""

import json
import os
import re
import signal
import subprocess
import threading

import pytest
from harness import CLIENTS, ROOT, by_partition, driver_argv, read_all, wait_until
from test_clients import tool
from wire import Wire

PARTITIONS = 4
ALL = ["none", "gzip", "snappy", "lz4", "zstd"]
CODECS = {"librdkafka": ALL, "java": ALL, "franz-go": ALL, "sarama": ALL, "kafka-go": ALL,
          "kafka-python": ["none", "gzip"], "kafka-python-2.0.2": ["none", "gzip"], "aiokafka": ["none", "gzip"],
          "kafkajs": ["none", "gzip"]}
NOT_IDEMPOTENT = ("kafka-go", "kafka-python-2.0.2")  # they know no such thing
MATRIX = [pytest.param(client, codec, marks=[] if client in NOT_IDEMPOTENT else pytest.mark.saw("idempotent"))
          for client, codecs in CODECS.items() for codec in codecs]


def writer_argv(client):
    argv = driver_argv(client)
    if client in ("franz-go", "sarama", "kafka-go"):
        return [argv[0], "write-" + argv[1]]
    if client == "kafkajs":
        return [argv[0], str(CLIENTS / "node" / "writer.js")]
    if client == "java":
        return argv[:-1] + ["Writer"]
    name = "kafka-python" if client.startswith("kafka-python") else client
    return [argv[0], str(ROOT / "tests" / "clients" / "python" / "writer.py"), "--client", name] + argv[2:]


def writer(client, bootstrap, topic, count, **options):
    argv = writer_argv(client) + ["--bootstrap", bootstrap, "--topic", topic, "--count", str(count)]
    for k, v in options.items():
        argv += ["--" + k, str(v)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def answers(out):
    return [json.loads(line) for line in out.splitlines() if b'"o":' in line]


def value(i):
    return b"v%d " % i + b"x" * (i % 50)


@pytest.fixture(scope="module")
def server(module_factory):
    c = module_factory(start=False, streams=[], server={"num.partitions": PARTITIONS})
    c.server.start()
    return c


@pytest.mark.saw("writes")
@pytest.mark.parametrize("client,codec", MATRIX)
def test_what_a_client_writes_is_what_is_read(server, client, codec):
    topic, count = f"{client}-{codec}", 600
    if client in ("kafka-go", "franz-go"):  # these do not ask for topics to be made
        with Wire(server.server.port) as w:
            w.call("Metadata", 9, Topics=[{"Name": topic}], AllowAutoTopicCreation=True)
    p = writer(client, server.bootstrap, topic, count, codec=codec)
    out, err = p.communicate(timeout=180)
    assert p.returncode == 0, err.decode()
    said = {a["i"]: (a["p"], a["o"]) for a in answers(out)}
    assert sorted(said) == list(range(count))
    assert all(p == i % PARTITIONS for i, (p, _) in said.items())
    got = by_partition(read_all(server.bootstrap, topic, count))
    for part, records in got.items():
        mine = range(part, count, PARTITIONS)
        assert [(r.offset, r.key, r.value, r.headers) for r in records] == \
            [(k, b"k%d" % i, value(i), [("n", b"%d" % i)]) for k, i in enumerate(mine)]
        assert [said[i] for i in mine] == [(part, k) for k in range(len(mine))]
    with Wire(server.server.port) as w:
        (told,) = w.call("DescribeProducers", 0, Topics=[{"Name": topic, "PartitionIndexes": [0]}])["Topics"]
    assert bool(told["Partitions"][0]["ActiveProducers"]) == (client not in NOT_IDEMPOTENT)


@pytest.mark.saw("writes", client="kcat")
def test_kcat_writes(server):
    lines = [f"k{i}:v{i} ä" for i in range(500)]
    subprocess.run(["kcat", "-b", server.bootstrap, "-P", "-t", "kcat", "-p", "1", "-K:", "-z", "lz4"],
                   input="\n".join(lines).encode(), check=True, timeout=60)
    got = read_all(server.bootstrap, "kcat", 500)
    assert [f"{r.key.decode()}:{r.value.decode()}" for r in got] == lines


# --- Kafka's own tools -----------------------------------------------------------------------------


@pytest.mark.saw("writes", client="kafka-console-producer")
def test_console_producer(server):
    argv = ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{CLIENTS}/java/lib/*",
            "org.apache.kafka.tools.ConsoleProducer", "--bootstrap-server", server.bootstrap, "--topic", "console"]
    env = {k: v for k, v in os.environ.items() if k != "JAVA_TOOL_OPTIONS"}
    lines = [f"line {i}" for i in range(300)]
    subprocess.run(argv, input="\n".join(lines).encode(), check=True, timeout=180, env=env, capture_output=True)
    assert sorted(r.value.decode() for r in read_all(server.bootstrap, "console", 300)) == sorted(lines)


@pytest.mark.saw("reads", client="kafka-verifiable-consumer")
@pytest.mark.saw("writes", client="kafka-verifiable-producer")
def test_verifiable_producer_and_consumer(server):
    out = tool("VerifiableProducer", "--bootstrap-server", server.bootstrap, "--topic", "verifiable",
               "--max-messages", 2000, "--acks", -1)
    said = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert sum(s["name"] == "producer_send_success" for s in said) == 2000
    assert next(s for s in said if s["name"] == "tool_data")["acked"] == 2000
    out = tool("VerifiableConsumer", "--bootstrap-server", server.bootstrap, "--topic", "verifiable", "--group-id",
               "v", "--max-messages", 2000, "--reset-policy", "earliest")
    seen = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert sum(s.get("count", 0) for s in seen if s["name"] == "records_consumed") == 2000


@pytest.mark.saw("reads", client="kafka-consumer-perf-test")
@pytest.mark.saw("writes", client="kafka-producer-perf-test")
def test_producer_and_consumer_performance(server):
    out = tool("ProducerPerformance", "--topic", "perf", "--num-records", 20000, "--record-size", 100, "--throughput", -1,
               "--producer-props", f"bootstrap.servers={server.bootstrap}", "acks=all")
    assert re.search(r"^20000 records sent", out, re.M), out
    out = tool("ConsumerPerformance", "--bootstrap-server", server.bootstrap, "--topic", "perf", "--messages", 20000,
               "--timeout", 60000)
    assert re.search(r", 20000, ", out), out


# --- kills ----------------------------------------------------------------------------------------


class Running:
    """A writer and what it says."""

    def __init__(self, client, bootstrap, topic, count):
        self.proc = writer(client, bootstrap, topic, count, rate=2000)
        self.said = []
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()
        self.errors = threading.Thread(target=self.proc.stderr.read, daemon=True)
        self.errors.start()

    def read(self):
        for line in self.proc.stdout:
            if b'"o":' in line:
                self.said.append(json.loads(line))


def test_kills_take_nothing_back_and_idempotent_writers_write_nothing_twice(culex_factory):
    """Three clients write while the server is killed ten times, each time when something was answered since."""
    count = 16000
    c = culex_factory(start=False, streams=[], server={"num.partitions": PARTITIONS})
    c.server.start()
    clients = ["librdkafka", "java", "franz-go"]
    with Wire(c.server.port) as w:
        w.call("Metadata", 9, Topics=[{"Name": x} for x in clients], AllowAutoTopicCreation=True)
    running = {x: Running(x, c.bootstrap, x, count) for x in clients}
    try:
        for _ in range(10):
            assert all(r.proc.poll() is None for r in running.values()), "a writer was done before its time"
            before = sum(len(r.said) for r in running.values())
            wait_until("more is answered", lambda: sum(len(r.said) for r in running.values()) > before + 500, 120)
            c.server.kill9()
            c.server.start()
        for x, r in running.items():
            assert r.proc.wait(240) == 0, x
            r.thread.join(60)
            assert len(r.said) == count
            got = by_partition(read_all(c.bootstrap, x))
            for part, records in got.items():
                assert [rec.value for rec in records] == [value(i) for i in range(part, count, PARTITIONS)], (x, part)
            for a in r.said:
                assert got[a["p"]][a["o"]].value == value(a["i"])
    finally:
        for r in running.values():
            if r.proc.poll() is None:
                r.proc.send_signal(signal.SIGKILL)
