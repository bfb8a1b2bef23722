"""What the server makes of its settings: where they come from, what SIGHUP changes, and what it says of mistakes."""

import json
import re
import signal
import socket
import subprocess

import pytest
import wire
from harness import CLI, SERVER, api_versions, free_port, sanitizer_env, wait_until

RUN_SECONDS = 60


def check(tool, path, env=None):
    """Exit code and all that was said by one of the two that check a configuration."""
    argv = [SERVER, "--check-config", "--config", path] if tool == "server" else [CLI, "check", path]
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, timeout=RUN_SECONDS,
                          env={**sanitizer_env(preload=False), **(env or {})})
    return done.returncode, done.stdout + done.stderr


# --- listeners: one judge for all -------------------------------------------------------------------------------

WRONG_LISTENERS = [
    ("ssl", {"listeners": "SSL://:9092"}, 3, r"server\.listeners: listener SSL .* PLAINTEXT only"),
    ("one name twice", {"listeners": "A://:1,A://:2"}, 3, r"server\.listeners: names two listeners A"),
    ("one port twice", {"listeners": "A://:9092,B://127.0.0.1:9092"}, 3, r"server\.listeners: has A and B on port 9092"),
    ("bad ipv6", {"listeners": "A://[::1::2]:9092"}, 3, r"server\.listeners: .* is not an IPv6 address"),
    ("long host", {"listeners": f"A://{'h' * 256}:9092"}, 3, r"server\.listeners: .* at most 255"),
    ("advertised without a listener", {"listeners": "A://:9092", "advertised.listeners": "B://x:1"}, 4,
     r"server\.advertised\.listeners: there is no listener B"),
    ("advertised wildcard", {"listeners": "A://:9092", "advertised.listeners": "A://0.0.0.0:1"}, 4,
     r"server\.advertised\.listeners: has 0\.0\.0\.0 "),
    ("advertised nothing", {"listeners": "A://:9092", "advertised.listeners": "A://:1"}, 4,
     r"server\.advertised\.listeners: has no host "),
    ("records kept for no time", {"log.retention.hours": 0}, 3, r"server\.log\.retention\.hours: 0 is none of its values"),
    ("more than all of it", {"log.cleaner.min.cleanable.ratio": 1.5}, 3, r"server\.log\.cleaner\S+: 1\.5 is too large; 0 to 1"),
    ("no such policy", {"log.cleanup.policy": "delete compact"}, 3, r"server\.log\.cleanup\.policy: .* is none of its values"),
    ("compacted before it may be", {"log.cleaner.min.compaction.lag.ms": 10, "log.cleaner.max.compaction.lag.ms": 9}, 4,
     r"server\.log\.cleaner\.max\S+: .* is less than log\.cleaner\.min\.compaction"),
    ("requests larger than all memory", {"queued.max.request.bytes": 1 << 20}, 3,
     r"server\.queued\.max\.request\.bytes: .* less than socket\.request\.max\.bytes"),
]


@pytest.mark.parametrize("settings,line,pattern", [w[1:] for w in WRONG_LISTENERS], ids=[w[0] for w in WRONG_LISTENERS])
def test_wrong_listeners_are_named_by_all_who_read_them(culex_factory, settings, line, pattern):
    c = culex_factory(start=False)
    c.config_path.write_text(json.dumps({"server": settings}, indent=1))
    sentence = rf"culex\.json:{line}: {pattern}"
    for tool in ("culex", "server"):
        rc, said = check(tool, c.config_path)
        assert rc == 2 and re.search(sentence, said), said
    c.server.start(wait=False)
    assert c.server.wait_exit() == 2 and re.search(sentence, c.server.log())
    c.broker.start(wait=False)
    assert c.broker.wait_exit() != 0 and re.search(sentence, c.broker.log())


def test_a_mistake_in_a_variable_names_the_variable(culex_factory):
    c = culex_factory(start=False)
    for tool in ("culex", "server"):
        rc, said = check(tool, c.config_path, {"CULEX_LISTENERS": "SSL://:9092"})
        assert rc == 2 and "environment: CULEX_LISTENERS: listener SSL" in said, said
    rc, said = check("server", c.config_path)
    assert rc == 0 and said == f"{c.config_path} is right.\n"


def test_empty_data_on_the_command_line_is_named(culex_factory):
    c = culex_factory(start=False)
    c.server.start(wait=False, args=["--data", ""])
    assert c.server.wait_exit() == 2
    assert '--data: "" is not an absolute path' in c.server.log()


def test_unknown_variables_are_warned_about_and_stop_nothing(culex_factory, monkeypatch):
    monkeypatch.setenv("CULEX_ADVERTISED_LISTENER", "secret")
    monkeypatch.setenv("CULEX_MQTT_PASSWORD", "word")
    c = culex_factory()
    warning = "environment: CULEX_ADVERTISED_LISTENER: is not known; did you mean CULEX_ADVERTISED_LISTENERS?"
    for tool in ("culex", "server"):
        rc, said = check(tool, c.config_path)
        assert rc == 0 and warning in said, said
    for log in (c.broker.log(), c.server.log()):
        assert warning in log and "secret" not in log and "CULEX_MQTT_PASSWORD" not in log


# --- SIGHUP -----------------------------------------------------------------------------------------------------

def reload(c, closing):
    """SIGHUP; what was said about it on stderr, up to its closing line."""
    mark = len(c.server.log())
    c.server.signal(signal.SIGHUP)
    return wait_until(f"the server says {closing!r}", lambda: re.search(rf"(?s).*{closing}[^\n]*\n", c.server.log()[mark:]))[0]


def test_sighup_with_nothing_changed_says_no_more_than_that(culex_factory):
    """Neither what the command line gives nor what is the broker's to apply is a change."""
    c = culex_factory(start=False)
    c.broker.start()
    elsewhere = c.home / "elsewhere"
    elsewhere.mkdir()
    c.server.start(args=["--config", c.config_path, "--data", elsewhere])
    doc = json.loads(c.config_path.read_text())
    c.config_path.write_text(json.dumps({**doc, "sys.interval.ms": 300}))
    said = reload(c, "configuration read again")
    assert len(said.splitlines()) == 1, said
    c.config_path.write_text(json.dumps({**doc, "server": {**doc["server"], "node.id": 7, "group.max.size": 9}}))
    said = reload(c, "configuration read again")
    assert 'needs a restart name=node.id was="1" is="7"' in said
    assert 'setting changed name=group.max.size was="1000" is="9"' in said and len(said.splitlines()) == 3


def test_sighup_with_mistakes_names_each_in_a_line_and_changes_nothing(culex_factory):
    c = culex_factory(server={"group.max.size": 10})
    c.config_path.write_text('{"server": {"group.max.size": 20,\n"node.id": -1,\n"listeners": "SSL://:1",\n"nope": 1}}')
    said = reload(c, "stays as it was")
    assert "read again" not in said and "?" not in said.replace("did you mean", "")
    for line, path in ((2, "node.id"), (3, "listeners"), (4, "nope")):
        assert re.search(rf"error [^\n]*culex\.json:{line}: server\.{path}: [^\n]*\n", said), said
    assert "group.max.size" not in said
    c.write_config()
    assert "setting changed" not in reload(c, "configuration read again")
    assert api_versions(c.server.port) is not None


def test_sighup_with_other_partitions_of_a_stream_is_refused_as_by_the_broker(culex):
    culex.streams[0]["partitions"] = 4
    culex.streams.append({"name": "fresh", "filters": ["fresh/#"], "partitions": 2})
    culex.write_config()
    sentence = (r'culex\.json:\d+: streams\[0\]\.partitions: 4 is not what the stream "demo" was made with: '
                "write 16, or give the stream another name")
    said = reload(culex, "stays as it was")
    assert re.search(sentence, said) and "fresh" not in said
    culex.broker.reload()
    culex.broker.wait_log(sentence)
    culex.streams[0]["partitions"] = 16
    culex.write_config()
    reload(culex, "configuration read again")


def test_sighup_with_wrong_listeners_is_refused(culex):
    culex.server_settings["advertised.listeners"] = "OTHER://x:1"
    culex.write_config()
    assert re.search(r"culex\.json:\d+: server\.advertised\.listeners: there is no listener OTHER",
                     reload(culex, "stays as it was"))


def test_sighup_leaves_a_log_file_that_is_configured_no_more(culex_factory):
    c = culex_factory(start=False)
    log, second = c.home / "one.log", c.home / "two.log"
    c.server_settings["log.file"] = str(log)
    c.write_config()
    c.start()
    c.server_settings["log.file"] = str(second)
    c.write_config()
    c.server.signal(signal.SIGHUP)
    wait_until("it logs to the other file", lambda: second.exists() and "read again" in second.read_text())
    assert "name=log.file" in log.read_text()
    del c.server_settings["log.file"]
    c.write_config()
    assert "read again" in reload(c, "configuration read again")
    size = second.stat().st_size
    c.server.signal(signal.SIGTERM)
    c.server.wait_exit()
    assert second.stat().st_size == size and "stopped" in c.server.log()


# --- settings that do something ---------------------------------------------------------------------------------

def test_num_partitions_is_what_a_topic_of_a_client_gets_that_says_nothing(culex_factory):
    c = culex_factory(streams=[{"name": "demo", "filters": ["demo/#"]}, {"name": "own", "filters": ["o"], "partitions": 2}],
                      server={"num.partitions": 5})
    from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic
    admin = AdminClient({"bootstrap.servers": c.bootstrap})
    admin.create_topics([NewTopic("free", -1)])["free"].result(10)
    topics = admin.list_topics(timeout=60).topics
    assert [len(topics[name].partitions) for name in ("demo", "own", "free")] == [16, 2, 5]
    resource = ConfigResource(ConfigResource.Type.BROKER, "1")
    (told,) = admin.describe_configs([resource]).values()
    assert told.result(10)["num.partitions"].value == "5"


POLICY_VIOLATION = 44
TOPIC_SAYS, FILE_SAYS, KAFKA_SAYS = 1, 4, 5


def described(w, kind, name, *keys):
    (r,) = w.call("DescribeConfigs", 4, IncludeSynonyms=True, Resources=[
        {"ResourceType": kind, "ResourceName": name, "ConfigurationKeys": list(keys)}])["Results"]
    assert r["ErrorCode"] == 0, r
    return {c["Name"]: (c["Value"], c["ConfigSource"], [(s["Name"], s["Value"], s["Source"]) for s in c["Synonyms"]])
            for c in r["Configs"]}


def test_topics_follow_the_servers_defaults_where_they_say_nothing_themselves(culex_factory):
    """What is told, and with which synonyms, is what Apache Kafka 4.1 told with the same settings."""
    c = culex_factory(server={"log.retention.hours": 24, "log.cleanup.policy": "compact, delete", "compression.type": "lz4",
                              "log.cleaner.min.cleanable.ratio": 0.1})
    keys = ("retention.ms", "cleanup.policy", "compression.type", "min.cleanable.dirty.ratio")
    assert check("culex", c.config_path)[0] == 0
    with wire.Wire(c.server.port) as w:
        w.call("Metadata", 12, Topics=[{"Name": "usual"}], AllowAutoTopicCreation=True)
        w.call("CreateTopics", 7, timeoutMs=9000, Topics=[
            {"Name": "own", "NumPartitions": 1, "ReplicationFactor": 1, "Configs": [{"Name": "retention.ms", "Value": "5"}]}])
        policy, codec = ("log.cleanup.policy", "delete", KAFKA_SAYS), ("compression.type", "producer", KAFKA_SAYS)
        ratio = ("log.cleaner.min.cleanable.ratio", "0.5", KAFKA_SAYS)
        assert described(w, 2, "usual", *keys) == {
            "retention.ms": ("86400000", KAFKA_SAYS, []),  # Kafka's tools are told of log.retention.ms alone
            "cleanup.policy": ("compact,delete", FILE_SAYS, [("log.cleanup.policy", "compact,delete", FILE_SAYS), policy]),
            "compression.type": ("lz4", FILE_SAYS, [("compression.type", "lz4", FILE_SAYS), codec]),
            "min.cleanable.dirty.ratio": ("0.1", FILE_SAYS, [(ratio[0], "0.1", FILE_SAYS), ratio]),
        }
        assert described(w, 2, "own", "retention.ms")["retention.ms"] == ("5", TOPIC_SAYS, [("retention.ms", "5", TOPIC_SAYS)])
        assert described(w, 2, "demo", *keys) == {  # they are for what clients write
            "retention.ms": ("604800000", *described(w, 2, "demo", "retention.ms")["retention.ms"][1:]),
            "cleanup.policy": ("delete", *described(w, 2, "demo", "cleanup.policy")["cleanup.policy"][1:]),
            "compression.type": ("producer", KAFKA_SAYS, [codec]),
            "min.cleanable.dirty.ratio": ("0.5", KAFKA_SAYS, [ratio]),
        }
        told = described(w, 4, "1", "log.retention.ms", "log.retention.minutes", "log.retention.hours", "log.cleanup.policy")
        hours = ("log.retention.hours", "168", KAFKA_SAYS)
        assert told == {
            "log.retention.ms": (None, KAFKA_SAYS, []), "log.retention.minutes": (None, KAFKA_SAYS, []),
            "log.retention.hours": ("24", FILE_SAYS, [("log.retention.hours", "24", FILE_SAYS), hours]),
            "log.cleanup.policy": ("compact,delete", FILE_SAYS, [("log.cleanup.policy", "compact,delete", FILE_SAYS), policy]),
        }
        assert trim(w, "usual") == 0

        # A default that is written down is the file's.
        c.server_settings = {"log.retention.minutes": 7, "log.retention.ms": 1000, "log.cleanup.policy": "compact",
                             "compression.type": "producer", "log.segment.bytes": 1 << 30}
        c.write_config()
        reload(c, "configuration read again")
        ms = [("log.retention.ms", "1000", FILE_SAYS), ("log.retention.minutes", "7", FILE_SAYS), hours]
        segment = ("log.segment.bytes", str(1 << 30), KAFKA_SAYS)
        assert described(w, 2, "usual", "retention.ms", "compression.type", "segment.bytes") == {
            "retention.ms": ("1000", FILE_SAYS, ms),
            "compression.type": ("producer", FILE_SAYS, [("compression.type", "producer", FILE_SAYS), codec]),
            "segment.bytes": (segment[1], FILE_SAYS, [(*segment[:2], FILE_SAYS), segment])}
        assert described(w, 4, "1", "delete.topic.enable")["delete.topic.enable"][1] == KAFKA_SAYS
        assert described(w, 2, "own", "retention.ms")["retention.ms"] == (
            "5", TOPIC_SAYS, [("retention.ms", "5", TOPIC_SAYS), *ms])
        assert [trim(w, t) for t in ("usual", "own")] == [POLICY_VIOLATION] * 2  # it is in force, not only told
    c.server.kill9()
    c.server_settings = {}
    c.write_config()
    c.server.start()
    with wire.Wire(c.server.port) as w:
        assert [trim(w, t) for t in ("usual", "own")] == [0, 0]
        assert described(w, 2, "usual", "retention.ms")["retention.ms"] == ("604800000", KAFKA_SAYS, [])


def trim(w, topic):
    (t,) = w.call("DeleteRecords", 2, TimeoutMs=1000, Topics=[
        {"Name": topic, "Partitions": [{"PartitionIndex": 0, "Offset": 0}]}])["Topics"]
    return t["Partitions"][0]["ErrorCode"]


def test_connections_of_one_address_are_limited(culex_factory):
    """Only the address that has too many is refused, with a line in the log; and only while it has too many."""
    port = free_port()
    c = culex_factory(start=False, server={"max.connections.per.ip": 2, "listeners": f"A://localhost:{port}"})
    c.server.port = port
    c.server.start()

    def refused(host="127.0.0.1"):
        with socket.create_connection((host, port), timeout=60) as s:
            s.sendall(bytes.fromhex("0000000a 0012 0000 00000001 ffff"))
            try:
                return s.recv(1) == b""
            except ConnectionError:
                return True
    wait_until("the start's connections are gone", lambda: not refused())
    held = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(2)]
    wait_until("a third is refused", refused)
    c.server.wait_log(r"max\.connections\.per\.ip")
    if socket.has_ipv6:
        try:
            assert not refused("::1")
        except OSError:
            pass  # no IPv6 here
    held.pop().close()
    wait_until("there is room again", lambda: not refused())
    held.pop().close()
