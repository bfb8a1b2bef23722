"""Every client library reads the same stream and must agree on all of it: content, order, offsets, headers, timestamps,
and the positions that it committed."""

import json
import os
import re
import subprocess
import time
from datetime import datetime, timezone

import pytest
from harness import (CLIENTS, by_partition, consumer, end_offsets, partition_of, read_all,
                     run_driver)

DRIVERS = ["librdkafka", "kafka-python", "kafka-python-2.0.2", "aiokafka", "java", "franz-go", "sarama",
           "kafka-go", "kafkajs"]
TOPICS = [f"demo/t{i}" for i in range(40)]
FIRST = 400
MORE = 60


class Sent:
    """What was published, as the records that must come of it."""

    def __init__(self, culex):
        self.culex = culex
        self.per_partition = {}
        self.began = int(time.time() * 1000)

    def publish(self, count, tag):
        with self.culex.mqtt("matrix") as m:
            for i in range(count):
                topic = TOPICS[i % len(TOPICS)]
                value = f"{tag} {i} ä€".encode() + bytes([i % 256])
                props = {"UserProperty": [("n", str(i)), ("tag", tag)]} if i % 3 == 0 else {}
                m.client.publish(topic, value, 0, properties=m.properties(**props))
                system = [("mqtt.topic", topic.encode()), ("mqtt.qos", b"0"),
                          ("mqtt.retained", b"false"), ("mqtt.client.id", b"matrix")]
                users = [("n", str(i).encode()), ("tag", tag.encode())] if props else []
                p = partition_of(topic.encode(), 16)
                self.per_partition.setdefault(p, []).append((topic.encode(), value, users, system))
            m.publish("elsewhere", "the last one was read", qos=1)

    @property
    def total(self):
        return sum(len(rs) for rs in self.per_partition.values())

    @property
    def ends(self):
        return {p: len(rs) for p, rs in self.per_partition.items()}

    def check(self, records, start=None):
        """`records` are everything from `start` (partition → offset; default the beginning) on."""
        start = start or {}
        got = by_partition(records)
        now = int(time.time() * 1000)
        for p, expected in self.per_partition.items():
            first = start.get(p, 0)
            mine = got.get(p, [])
            assert [r.offset for r in mine] == list(range(first, len(expected))), f"partition {p}"
            last_ts = 0
            for r, (key, value, users, system) in zip(mine, expected[first:]):
                assert (r.key, r.value) == (key, value)
                assert [h for h in r.headers if h[0] in ("n", "tag")] == users
                assert sorted(h for h in r.headers if h[0] not in ("n", "tag")) == sorted(system)
                assert max(self.began, last_ts) <= r.timestamp <= now
                last_ts = r.timestamp
        assert sum(map(len, got.values())) == self.total - sum(start.values())


@pytest.fixture(scope="module")
def matrix(module_factory):
    culex = module_factory()
    sent = Sent(culex)
    sent.publish(FIRST, "first")
    sent.check(read_all(culex.bootstrap, "demo", FIRST))
    return sent


def committed_by_another_client(bootstrap, group):
    from confluent_kafka import TopicPartition
    c = consumer(bootstrap, **{"group.id": group})
    try:
        got = c.committed([TopicPartition("demo", p) for p in range(16)], timeout=60)
        return {t.partition: t.offset for t in got if t.offset >= 0}
    finally:
        c.close()


@pytest.mark.saw("reads", "classic groups")
@pytest.mark.parametrize("client", DRIVERS)
def test_client_reads_everything_commits_and_goes_on(matrix, client):
    bootstrap = matrix.culex.bootstrap
    group = f"matrix-{client}"
    before = dict(matrix.ends)
    first = run_driver(client, bootstrap, "demo", group, matrix.total)
    matrix.check(first.records)
    assert first.committed == before
    assert committed_by_another_client(bootstrap, group) == before

    matrix.publish(MORE, f"more for {client}")
    second = run_driver(client, bootstrap, "demo", group, MORE)
    matrix.check(second.records, start=before)
    assert second.committed == matrix.ends


# --- kcat ---------------------------------------------------------------------------------------------------


def kcat(*args, seconds=120, env=None):
    return subprocess.run(["kcat", *args], capture_output=True, timeout=seconds, check=True, env=env)


KCAT_FORMAT = '{"ts":%T,"p":%p,"o":%o,"klen":%K,"vlen":%S,"k":"%k","h":"%h"}\n'


@pytest.mark.saw("reads", client="kcat")
def test_kcat_reads_from_the_beginning_to_the_end(matrix):
    out = kcat("-b", matrix.culex.bootstrap, "-t", "demo", "-C", "-e", "-q", "-o", "beginning", "-f",
               KCAT_FORMAT).stdout.decode()
    rows = [json.loads(line) for line in out.splitlines()]
    assert len(rows) == matrix.total
    for p, expected in matrix.per_partition.items():
        mine = [r for r in rows if r["p"] == p]
        assert [r["o"] for r in mine] == list(range(len(expected)))
        for r, (key, value, users, system) in zip(mine, expected):
            assert r["k"] == key.decode() and r["vlen"] == len(value)
            assert f"mqtt.topic={key.decode()}" in r["h"]
            assert all(f"{n}={v.decode()}" in r["h"] for n, v in users)
            assert matrix.began <= r["ts"]


@pytest.mark.saw("classic groups", client="kcat")
def test_kcat_in_a_group(matrix):
    group, fmt = "matrix-kcat", "%p %o\n"
    out = kcat("-b", matrix.culex.bootstrap, "-q", "-c", str(matrix.total), "-f", fmt, "-X",
               "auto.offset.reset=earliest", "-G", group, "demo").stdout.decode()
    got = sorted(tuple(map(int, line.split())) for line in out.splitlines())
    assert got == sorted((p, o) for p, n in matrix.ends.items() for o in range(n))
    assert committed_by_another_client(matrix.culex.bootstrap, group) == matrix.ends


def test_kcat_lists_metadata_and_queries_offsets(matrix):
    md = json.loads(kcat("-b", matrix.culex.bootstrap, "-L", "-J", "-t", "demo").stdout)
    assert [b["name"] for b in md["brokers"]] == [matrix.culex.bootstrap]
    (topic,) = [t for t in md["topics"] if t["topic"] == "demo"]
    assert [p["partition"] for p in topic["partitions"]] == list(range(16))
    p = min(matrix.ends)
    out = kcat("-b", matrix.culex.bootstrap, "-Q", "-t", f"demo:{p}:-1").stdout.decode()
    assert f"demo [{p}] offset {matrix.ends[p]}" in out
    at = read_all(matrix.culex.bootstrap, "demo")
    target = [r for r in at if r.partition == p][2]
    out = kcat("-b", matrix.culex.bootstrap, "-Q", "-t", f"demo:{p}:{target.timestamp}").stdout.decode()
    first = min(r.offset for r in at if r.partition == p and r.timestamp >= target.timestamp)
    assert f"demo [{p}] offset {first}" in out


def test_kcat_goes_on_live(matrix):
    """The issue's own demonstration: a reader at the end sees a publish at once."""
    ends = end_offsets(matrix.culex.bootstrap, "demo")
    part = partition_of(TOPICS[0].encode(), 16)
    p = subprocess.Popen(["kcat", "-b", matrix.culex.bootstrap, "-t", "demo", "-C", "-u", "-f", "%p/%o %k\n",
                          "-o", "end", "-c", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        for line in p.stderr:
            if b"Reached end of topic demo [%d]" % part in line:  # of each it asks by itself where that is
                break
        matrix.publish(1, "live")
        out, _ = p.communicate(timeout=60)
    finally:
        p.kill()
        p.wait(60)
    assert out.decode() == f"{part}/{ends[part][1]} {TOPICS[0]}\n"


# --- Kafka's own tools --------------------------------------------------------------------------------------


def tool(name, *args, seconds=180):
    argv = ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp",
            f"{CLIENTS}/java/lib/*", f"org.apache.kafka.tools.{name}", *map(str, args)]
    env = {k: v for k, v in os.environ.items() if k != "JAVA_TOOL_OPTIONS"}
    got = subprocess.run(argv, capture_output=True, text=True, timeout=seconds, env=env)
    assert got.returncode == 0, f"{name} {args}\n{got.stdout}\n{got.stderr}"
    return got.stdout


def groups_tool(bootstrap, *args):
    return tool("consumer.group.ConsumerGroupCommand", "--bootstrap-server", bootstrap, *args)


def table(text):
    """Rows of one of the tools' tables, as dicts; group names here have no spaces."""
    lines = [line.split() for line in text.splitlines() if line.strip()]
    head = next(i for i, words in enumerate(lines) if "PARTITION" in words or "MEMBERS" in " ".join(words))
    return [dict(zip(lines[head], words)) for words in lines[head + 1:]]


def described(bootstrap, group):
    return {int(r["PARTITION"]): r for r in table(groups_tool(bootstrap, "--describe", "--group", group))}


def reset(bootstrap, group, *how):
    out = groups_tool(bootstrap, "--reset-offsets", "--group", group, "--topic", "demo", *how, "--execute")
    return {int(r["PARTITION"]): int(r["NEW-OFFSET"]) for r in table(out)}


@pytest.mark.saw("reads with keys and headers", client="kafka-console-consumer")
def test_console_consumer(matrix):
    out = tool("consumer.ConsoleConsumer", "--bootstrap-server", matrix.culex.bootstrap, "--topic", "demo",
               "--from-beginning", "--max-messages", matrix.total, "--timeout-ms", 60000, "--property",
               "print.partition=true", "--property", "print.offset=true", "--property", "print.key=true",
               "--property", "print.value=false", "--property", "print.headers=true")
    rows = re.findall(r"Partition:(\d+)\tOffset:(\d+)\t(.*mqtt\.topic:(demo/t\d+).*)\t(demo/t\d+)$", out, re.M)
    assert len(rows) == matrix.total
    for p, expected in matrix.per_partition.items():
        mine = [r for r in rows if int(r[0]) == p]
        assert [int(r[1]) for r in mine] == list(range(len(expected)))
        assert [r[4].encode() for r in mine] == [key for key, _, _, _ in expected]
        assert all(r[3] == r[4] for r in mine)


@pytest.mark.saw("earliest, latest and by time", client="kafka-get-offsets")
def test_get_offsets(matrix):
    def offsets(*args):
        out = tool("GetOffsetShell", "--bootstrap-server", matrix.culex.bootstrap, "--topic", "demo", *args)
        return {int(p): int(o) for p, o in re.findall(r"^demo:(\d+):(-?\d+)$", out, re.M)}
    everything = {p: matrix.ends.get(p, 0) for p in range(16)}
    assert offsets() == everything
    assert offsets("--time", "-1") == everything
    assert offsets("--time", "-2") == {p: 0 for p in range(16)}
    records = read_all(matrix.culex.bootstrap, "demo")
    middle = sorted(r.timestamp for r in records)[len(records) // 2]
    firsts = {p: min((r.offset for r in rs if r.timestamp >= middle), default=None)
              for p, rs in by_partition(records).items()}
    at_time = offsets("--time", str(middle))
    assert {p: o for p, o in at_time.items() if o >= 0 and p in firsts} == {
        p: o for p, o in firsts.items() if o is not None}


@pytest.mark.saw("resets offsets", client="kafka-consumer-groups")
@pytest.mark.saw("describes", client="kafka-consumer-groups")
def test_consumer_groups_tool_describes_and_resets(matrix):
    b, group = matrix.culex.bootstrap, "matrix-tool"
    run_driver("librdkafka", b, "demo", group, matrix.total)
    rows = described(b, group)
    assert {p: int(r["CURRENT-OFFSET"]) for p, r in rows.items() if r["CURRENT-OFFSET"] != "-"} == {
        **matrix.ends}
    assert all(r["LAG"] in ("0", "-") for r in rows.values())
    assert {p: int(r["LOG-END-OFFSET"]) for p, r in rows.items() if p in matrix.ends} == matrix.ends

    assert {p: o for p, o in reset(b, group, "--to-earliest").items() if p in matrix.ends} == {
        p: 0 for p in matrix.ends}
    assert {p: int(described(b, group)[p]["LAG"]) for p in matrix.ends} == matrix.ends
    reset(b, group, "--to-latest")
    shifted = reset(b, group, "--shift-by", "-2")
    assert {p: shifted[p] for p in matrix.ends} == {p: max(n - 2, 0) for p, n in matrix.ends.items()}

    records = read_all(b, "demo")
    middle = sorted(r.timestamp for r in records)[len(records) // 2]
    when = datetime.fromtimestamp(middle / 1000, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.") + (
        f"{middle % 1000:03d}")
    by_time = reset(b, group, "--to-datetime", when)
    for p, rs in by_partition(records).items():
        assert by_time[p] == min((r.offset for r in rs if r.timestamp >= middle), default=matrix.ends[p])
    # A client of the group starts where the tool put it.
    left = matrix.total - sum(by_time[p] for p in matrix.ends)
    again = run_driver("librdkafka", b, "demo", group, left)
    matrix.check(again.records, start={p: by_time[p] for p in matrix.ends})


@pytest.mark.saw("lists", "deletes", client="kafka-consumer-groups")
def test_consumer_groups_tool_lists_states_and_deletes(matrix):
    b, group = matrix.culex.bootstrap, "matrix-gone"
    run_driver("librdkafka", b, "demo", group, 1)
    assert group in groups_tool(b, "--list").split()
    state = groups_tool(b, "--describe", "--group", group, "--state")
    assert re.search(rf"{group}\s+.*Empty\s+0", state)
    assert "Deletion of requested consumer groups" in groups_tool(b, "--delete", "--group", group)
    assert group not in groups_tool(b, "--list").split()
