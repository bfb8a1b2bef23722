"""`culex`, the command line, against real brokers and servers: what it says, to people and to programs, and how it ends."""

import json
import socket
import subprocess

import pytest
from harness import CLI, Driver, frame, free_port, recv_frame, request_header, settled_ends, wait_until

pytestmark = pytest.mark.skipif(not CLI.exists(), reason="culex is not built")

RUN_SECONDS = 180


def run(*args, rc=0, env=None):
    done = subprocess.run([str(CLI), *[str(a) for a in args]], capture_output=True, text=True, timeout=RUN_SECONDS,
                          env=env)
    assert done.returncode == rc, f"culex {args} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done


def ask(culex, *args, rc=0):
    """The JSON of a verb."""
    return json.loads(run(*args, "-o", "json", "-s", culex.bootstrap, "-m", f"127.0.0.1:{culex.broker.port}",
                          rc=rc).stdout)


def check(tmp_path, document, rc):
    path = tmp_path / "culex.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document, indent=1))
    return run("check", path, rc=rc), json.loads(run("check", path, "-o", "json", rc=rc).stdout)


# --- check ---------------------------------------------------------------------------------------

def test_check_passes_a_good_configuration(tmp_path):
    said, doc = check(tmp_path, {"streams": [{"name": "a", "filters": ["a/#"]}]}, 0)
    assert "good, 1 stream" in said.stdout
    assert doc["ok"] and doc["mistakes"] == [] and doc["warnings"] == []


def test_check_counts_what_clients_have_bound_apart(tmp_path):
    bound = [{"name": n, "filters": [f"{n}/#"]} for n in "abc"]
    (tmp_path / "streams.json").write_text(json.dumps({"streams": bound}))
    said, _ = check(tmp_path, {"data": str(tmp_path), "streams": [{"name": "a", "filters": ["a/#"]}]}, 0)
    assert said.stdout.splitlines()[-1].endswith("good, 1 stream; Kafka clients have bound 2 more")


def test_check_names_every_mistake_with_its_line(tmp_path):
    said, doc = check(tmp_path, '{"streams": [\n {"name": "a b", "filters": ["x/#/y"]},\n'
                                ' {"name": "c", "filters": ["c"], "partition": 4}\n]}', 2)
    assert not doc["ok"] and len(doc["mistakes"]) == 3
    for line, word in ((2, "a b"), (2, "#"), (3, "partitions")):
        assert any(f":{line}:" in m and word in m for m in doc["mistakes"]), (line, word, doc["mistakes"])
    assert all(m in said.stdout for m in doc["mistakes"])


def test_check_of_a_file_that_is_not_there(tmp_path):
    done = run("check", tmp_path / "none.json", rc=2)
    assert "none.json" in done.stdout + done.stderr


@pytest.mark.parametrize("streams,words", [
    ([{"name": "a", "filters": ["a/#", "a/+/x"]}], ["a/+/x", "a/#", "adds nothing"]),
    ([{"name": "a", "filters": ["a/#", "a"]}], ["adds nothing"]),
    ([{"name": "a", "filters": ["#"]}, {"name": "b", "filters": ["b/c"]}], ["streams a and b", "b/c", "both"]),
    ([], ["no streams"]),
    ([{"name": "a", "filters": ["a/b", "+"], "key": "topic[3..4]"}], ["stream a", "no record", "topic[3..4]"]),
    ([{"name": "a", "filters": ["a"], "key": "topic[2]", "cleanup.policy": "compact"}], ["no record", "topic[2]"]),
    ([{"name": "a", "filters": ["a/#"], "key": "topic[2]", "cleanup.policy": "compact"}], ["fewer than 2 levels", "topic[2]"]),
    ([{"name": "a", "filters": ["a/b", "c"], "key": "topic[2]", "cleanup.policy": "compact"}], ["fewer than 2 levels"]),
    ([{"name": "a", "filters": ["#"], "key": "payload.id", "cleanup.policy": "compact"}], ["retained", "payload.id", "no tombstone"]),
    ([{"name": "a", "filters": ["a"], "key": "property.id", "cleanup.policy": "compact,delete"}], ["user property", "property.id"]),
])
def test_check_notes_what_is_surely_not_meant(tmp_path, streams, words):
    _, doc = check(tmp_path, {"streams": streams}, 0)
    assert len(doc["warnings"]) == 1 and all(w in doc["warnings"][0] for w in words), doc


@pytest.mark.parametrize("filters", [["+/a", "a/+"], ["a/b", "a/b/c"], ["a/+", "a/b/c"]])
def test_check_is_silent_about_filters_that_do_not_cover_each_other(tmp_path, filters):
    _, doc = check(tmp_path, {"streams": [{"name": "a", "filters": filters}]}, 0)
    assert doc["warnings"] == []


@pytest.mark.parametrize("settings", [
    {"filters": ["a/#"], "key": "topic[3]"}, {"filters": ["a/b", "a"], "key": "topic[2]"}, {"filters": ["a"], "key": "payload.id"},
    {"filters": ["#"], "key": "topic[1..3]", "cleanup.policy": "compact"}, {"filters": ["#"], "cleanup.policy": "compact"},
    {"filters": ["a/+/#"], "key": "topic[2..9]", "cleanup.policy": "compact"}, {"filters": ["#"], "key": "none"}])
def test_check_is_silent_about_keys_that_are_there(tmp_path, settings):
    _, doc = check(tmp_path, {"streams": [{"name": "a", **settings}]}, 0)
    assert doc["warnings"] == []


# --- streams, groups, status ---------------------------------------------------------------------

def publish(culex, count):
    """Records in every partition."""
    with culex.mqtt() as m:
        m.publish_all([(f"demo/{i}", str(i)) for i in range(count)])


@pytest.fixture(scope="module")
def running(module_factory):
    c = module_factory(streams=[{"name": "demo", "filters": ["demo/#", "more/+"], "partitions": 4, "retention.ms": 86400000},
                                {"name": "idle", "filters": ["idle"], "partitions": 1}])
    publish(c, 50)
    d = Driver("librdkafka", c.bootstrap, "demo", "readers", 0)
    d.wait_records(50)
    wait_until("the reader has committed", lambda: sum(
        p["committed"] or 0 for p in ask(c, "groups", "readers")["partitions"]) == 50)
    yield c, d
    d.close()


def test_streams_lists_what_there_is(running):
    c, _ = running
    demo, idle = ask(c, "streams")
    assert (demo["stream"], demo["records"], demo["end"], len(demo["partitions"])) == ("demo", 50, 50, 4)
    assert demo["retention"] == "1 d" and demo["settings"]["cleanup.policy"] == "delete"
    assert demo["settings"]["mqtt.filter"] == "demo/#,more/+" and demo["settings"]["mqtt.key"] == "topic"
    assert "mqtt.filters" not in demo["settings"]
    assert (idle["stream"], idle["records"]) == ("idle", 0)
    lines = run("streams", "-s", c.bootstrap).stdout.splitlines()
    assert lines[0].split() == ["STREAM", "PARTITIONS", "RECORDS", "WRITTEN", "RETENTION", "FROM"]
    assert lines[1].split() == ["demo", "4", "50", "50", "1", "d", "MQTT", "demo/#,more/+"]


def test_streams_of_clients_are_told_apart(culex_factory):
    from confluent_kafka.admin import AdminClient, NewTopic
    c = culex_factory(start=False, streams=[])
    c.server.start()
    assert "no streams yet" in run("streams", "-s", c.bootstrap).stdout
    new = [NewTopic("log", 3, config={"retention.ms": "60000", "retention.bytes": "5"}),
           NewTopic("table", 1, config={"cleanup.policy": "compact"})]
    admin = AdminClient({"bootstrap.servers": c.bootstrap})
    for done in admin.create_topics(new).values():
        done.result(60)
    lines = [" ".join(line.split()) for line in run("streams", "-s", c.bootstrap).stdout.splitlines()]
    assert lines[1:] == ["log 3 0 0 1 min, 5 B Kafka", "table 1 0 0 last of each key Kafka"]
    log, table = ask(c, "streams")
    assert (log["from"], table["from"], table["retention"]) == ("Kafka", "Kafka", "last of each key")


def test_streams_shows_the_partitions_of_one(running):
    c, _ = running
    parts = ask(c, "streams", "demo")["partitions"]
    assert [p["partition"] for p in parts] == [0, 1, 2, 3]
    assert sum(p["end"] - p["start"] for p in parts) == 50
    assert "no stream nothing" in run("streams", "nothing", "-s", c.bootstrap, rc=1).stderr


def test_groups_shows_members_and_lag(running):
    c, d = running
    one = ask(c, "groups", "readers")
    assert one["state"] == "Stable" and one["lag"] == 0 and len(one["members"]) == 1
    assert one["members"][0]["host"] == "/127.0.0.1" and one["members"][0]["partitions"] == 4
    assert all(p["client"] == one["members"][0]["client"] for p in one["partitions"])
    assert [g["group"] for g in ask(c, "groups")] == ["readers"]
    d.leave()
    ends = {p["partition"]: p["end"] for p in ask(c, "streams", "demo")["partitions"]}
    publish(c, 7)
    settled_ends(c.bootstrap, "demo", 57)
    one = ask(c, "groups", "readers")
    assert one["state"] == "Empty" and one["lag"] == 7 and one["members"] == []
    for p in one["partitions"]:
        assert p["committed"] == ends[p["partition"]] and p["lag"] == p["end"] - p["committed"]
    text = run("groups", "readers", "-s", c.bootstrap).stdout
    assert "no members" in text and "COMMITTED" in text


def test_groups_of_the_consumer_protocol_are_there(running):
    c, _ = running
    d = Driver("librdkafka", c.bootstrap, "demo", "modern", 0, protocol="consumer")

    def look(state, committed):
        """The group's JSON as soon as it says that; librdkafka's word for what is being assigned is Unknown."""
        one = ask(c, "groups", "modern", "-t", "60")
        seen = sum(p["committed"] or 0 for p in one["partitions"])
        return one if one["state"] == state and seen >= committed else None
    try:
        d.wait_records(50)
        one = wait_until("the group has committed and stands", lambda: look("Stable", 50))
        assert one["members"] is None and len(one["partitions"]) == 4 and one["lag"] is not None
        assert all(p["client"] is p["host"] is None and p["end"] is not None for p in one["partitions"])
        assert {g["group"]: g["members"] for g in ask(c, "groups", "-t", "60")}["modern"] is None
        rows = [line.split() for line in run("groups", "-t", "60", "-s", c.bootstrap).stdout.splitlines()]
        assert [r[2:4] for r in rows if r[0] == "modern"] == [["-", "4"]]
        text = run("groups", "modern", "-t", "60", "-s", c.bootstrap).stdout
        assert "COMMITTED" in text and "kafka-consumer-groups" in text and "no members" not in text
        d.leave()
        assert len(wait_until("the group is empty", lambda: look("Empty", 50))["partitions"]) == 4
    finally:
        d.close()


def test_names_do_not_reach_the_terminal_as_they_are(running):
    from confluent_kafka import Consumer, TopicPartition
    c, _ = running
    name = "a\x1b[31mb\x7f\u009b\r\nforged Stable 0 0 0 é"
    k = Consumer({"bootstrap.servers": c.bootstrap, "group.id": name})
    try:
        k.commit(offsets=[TopicPartition("idle", 0, 0)], asynchronous=False)
    finally:
        k.close()
    assert name in [g["group"] for g in ask(c, "groups", "-t", "60")]
    plain = r"a\x1b[31mb\x7f\x9b\x0d\x0aforged Stable 0 0 0 é"
    for args in (["groups"], ["groups", name]):
        lines = run(*args, "-t", "60", "-s", c.bootstrap).stdout.split("\n")
        assert len([line for line in lines if plain in line]) == 1
        assert all(line.isprintable() and not line.startswith("forged") for line in lines)


def test_group_that_is_not_there(running):
    c, _ = running
    assert "no group nobody" in run("groups", "nobody", "-s", c.bootstrap, rc=1).stderr


def test_status_adds_up(running):
    c, _ = running

    def look():
        done = subprocess.run([str(CLI), "status", "-o", "json", "-s", c.bootstrap, "-m",
                               f"127.0.0.1:{c.broker.port}"], capture_output=True, text=True, timeout=RUN_SECONDS)
        doc = json.loads(done.stdout)
        rows = {r["stream"]: r for r in doc["broker"].get("streams", [])}
        seen = rows.get("demo", {}).get("stored", 0) >= 50
        return (done, doc, rows) if seen and done.returncode == 0 else None
    done, doc, rows = wait_until("the counters have arrived", look)
    assert doc["ok"] and doc["server"]["reachable"] and doc["server"]["streams"] == 2
    assert doc["broker"]["state"] == "running" and doc["broker"]["balanced"]
    assert doc["broker"]["ring_bytes"] > 0 and doc["broker"]["log_bytes"] > 0
    for r in rows.values():
        assert r["unexplained"] == r["unkeyed"] == 0
        assert r["published"] == sum(r[k] for k in ("stored", "filtered", "rejected", "dropped", "in-flight"))


def test_status_tells_which_side_is_away(culex_factory):
    c = culex_factory()
    c.server.stop()
    doc = ask(c, "status", rc=1)
    assert not doc["server"]["reachable"] and "culex-server running" in doc["server"]["error"]
    assert doc["broker"]["reachable"]
    c.server.start()
    c.broker.stop()
    doc = ask(c, "status", rc=1)
    assert doc["server"]["reachable"] and "mosquitto running" in doc["broker"]["error"]


def test_address_comes_from_the_configuration(running):
    c, _ = running
    doc = json.loads(run("streams", "-o", "json", "--config", c.config_path).stdout)
    assert [s["stream"] for s in doc] == ["demo", "idle"]


@pytest.mark.parametrize("listener,reached", [("[::]", "[::1]"), ("[0::0]", "[::1]"), ("0.0.0.0", "localhost"),
                                              ("", "localhost"), ("[::1]", "[::1]")])
def test_a_listener_on_all_addresses_is_reached_locally(tmp_path, listener, reached):
    port = free_port()
    path = tmp_path / "culex.json"
    path.write_text(json.dumps({"streams": [], "server": {"listeners": f"PLAINTEXT://{listener}:{port}"}}))
    done = run("streams", "-c", path, rc=1)  # nothing listens there
    assert done.stderr.startswith(f"culex: cannot reach the server at {reached}:{port}: ")


# --- what can go wrong ---------------------------------------------------------------------------

@pytest.mark.parametrize("verb", ["streams", "groups"])
def test_a_server_that_is_away_is_one_sentence(verb):
    port = free_port()
    done = run(verb, "-s", f"127.0.0.1:{port}", rc=1)
    assert done.stderr == (f"culex: cannot reach the server at 127.0.0.1:{port}: Connection refused; "
                           "is culex-server running?\n")
    assert done.stdout == ""


def test_groups_that_cannot_be_told_are_not_said_to_be_none(culex_factory):
    c = culex_factory(start=False)
    c.data.rmdir()
    c.server.start()
    done = run("groups", "-s", c.bootstrap, "-t", "5", rc=1)
    assert "does not list its groups" in done.stderr and done.stdout == ""


def test_a_server_that_is_full_is_not_taken_for_another_port(culex_factory):
    c = culex_factory(start=False, server={"max.connections.per.ip": 1})
    c.server.start()

    def the_only_one():
        s = socket.create_connection(("127.0.0.1", c.server.port), timeout=60)
        try:
            s.sendall(frame(request_header(18, 0)))
            recv_frame(s)
            return s
        except OSError:  # the one before has not been taken away yet
            s.close()
    with wait_until("a connection is taken", the_only_one):
        done = run("streams", "-s", c.bootstrap, "-t", "1", rc=1)
    assert "does not tell its topics" in done.stderr and "max.connections.per.ip" in done.stderr


def test_a_port_that_answers_nothing_does_not_hold_it(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]
        done = run("streams", "-s", f"127.0.0.1:{port}", "-t", "1", rc=1)
        assert "does not tell its topics" in done.stderr
        done = run("status", "-s", f"127.0.0.1:{port}", "-m", f"127.0.0.1:{port}", "-t", "1", rc=1)
        assert "no answer to CONNECT" in done.stdout


@pytest.mark.parametrize("args,word", [
    ([], "Verbs"), (["fly"], "no verb fly"), (["streams", "a", "b"], "one argument too many"),
    (["status", "x"], "one argument too many"), (["streams", "--colour"], "--colour"),
    (["streams", "-o", "xml"], "-o xml"), (["streams", "-t", "0"], "-t 0"), (["streams", "-s"], "-s"),
])
def test_wrong_usage_is_said(args, word):
    assert word in run(*args, rc=2).stderr


def test_help_of_all_and_of_each_verb():
    everything = run("--help").stdout
    for verb in ("check", "streams", "groups", "status"):
        assert verb in everything
        assert run(verb, "--help").stdout.startswith(f"culex {verb}")
    assert run("--version").stdout.startswith("culex ")
