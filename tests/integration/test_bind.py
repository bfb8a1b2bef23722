"""Streams that are bound, altered and unbound while the broker runs, through the socket in the data directory."""

import ctypes
import errno
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading

import pytest
from harness import START_SECONDS, TOOLS, Load, wait_until
from test_capture import fill, make, stream  # noqa: F401

pytestmark = [pytest.mark.broker]

SMALL_STORE = {"ring.bytes": 1 << 20, "tail.bytes": 1 << 20}


def command(c, **what):
    """The answer to one command."""
    fd = os.open(c.data, os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            s.settimeout(START_SECONDS)
            s.connect(f"/proc/self/fd/{fd}/capture.sock")
            s.send(json.dumps(what).encode())
            answer = s.recv(1 << 17)
            if not answer:
                raise ConnectionError("the writer is gone")
            return json.loads(answer)
    finally:
        os.close(fd)


def bind(c, name, filters, partitions=1, configs=None, **more):
    return command(c, command="bind", name=name, partitions=partitions,
                   configs={"mqtt.filter": filters, **(configs or {})}, **more)


def alter(c, name, *changes, **more):
    """Each change: op, name, value."""
    return command(c, command="alter", name=name, changes=[dict(zip(("op", "name", "value"), x)) for x in changes], **more)


def together_once(c, *commands):
    """The results of several commands in one message."""
    answer = command(c, commands=list(commands))
    assert answer["error"] == "OK", answer
    return answer["results"]


def together(c, *commands):
    """Asks again where it took longer than a command may, which is as if nobody had asked: on a busy machine thousands of streams
    do, that are made just now."""
    def ask():
        got = together_once(c, *commands)
        return None if got and all(r["error"] == "ERR_AGAIN" for r in got) else (got,)
    return wait_until("there is time for it", ask, 3 * START_SECONDS)[0]


def patiently(c, **what):
    """The answer, where it is not to ask again."""
    return wait_until("there is time for it", lambda: (lambda a: a["error"] != "ERR_AGAIN" and a)(command(c, **what)), 3 * START_SECONDS)


def bound(c):
    path = c.data / "streams.json"
    return {s["name"]: s for s in json.loads(path.read_text())["streams"]} if path.exists() else {}


def catalog(c):
    """Names of the topics that the log has, while it is written; None when one goes meanwhile."""
    got = subprocess.run([TOOLS / "storecat", "-c", c.data / "captured"], capture_output=True, text=True, timeout=60)
    return {line.split("\t")[0] for line in got.stdout.splitlines()} if got.returncode == 0 else None


def check_catalog(c, names):
    """The log has what is bound, and nothing else."""
    held = []
    try:
        wait_until("the log has what is bound", lambda: held.append(catalog(c)) or held[-1] == names, 60)
    except AssertionError:
        raise AssertionError(f"the log has {held[-1]}, bound are {names}\n{c.broker.log()}") from None


def test_a_bound_stream_captures_at_once_and_after_restarts(make):
    c = make().configure([stream()]).start()
    assert bind(c, "new", "new/#", partitions=3, configs={"mqtt.key": "clientid", "retention.ms": "-1"}) == {
        "error": "OK", "partitions": 3}
    with c.mqtt() as m:
        m.publish("new/1", b"first")
    assert bound(c)["new"]["key"] == "clientid" and bound(c)["new"]["retention.ms"] == -1
    c.stop().start()
    with c.mqtt() as m:
        m.publish("new/2", b"second")
    c.broker.kill9()
    c.start()
    with c.mqtt() as m:
        m.publish("new/3", b"third")
    c.stop()
    assert sorted(c.values("new")) == ["first", "second", "third"]


def test_binding_needs_no_configuration_file(make):
    c = make(options={"stream": "demo", "filter": "demo/#"})
    c.broker.options["data"] = str(c.data)
    c.broker.config_path = None
    c.start()
    assert bind(c, "more", "more/#")["error"] == "OK"
    with c.mqtt() as m:
        m.publish_all([("more/x", b"1"), ("demo/x", b"2")])
    c.stop()
    assert c.values("more") == ["1"] and c.values("demo") == ["2"]


@pytest.mark.sanitized
def test_altering_changes_what_is_captured_and_unbinding_ends_it(make):
    c = make().configure([stream()]).start()
    assert bind(c, "s", "a/#")["error"] == "OK"
    with c.mqtt() as m:
        m.publish_all([("a/1", b"a"), ("b/1", b"too early")])
        assert bind(c, "s", '["b/#", "c,d"]', partitions=0, replace=True)["error"] == "OK"
        m.publish_all([("a/2", b"too late"), ("b/2", b"b"), ("c,d", b"cd")])
        assert bound(c)["s"]["filters"] == ["b/#", "c,d"]
        assert command(c, command="unbind", name="s") == {"error": "OK"}
        m.publish("b/3", b"nobody's")
    assert bound(c) == {}
    c.stop()
    assert c.read("s") == [] and c.values("demo") == []


def test_changes_say_what_is_set_taken_back_appended_and_removed(make):
    c = make().configure([stream()]).start()
    assert bind(c, "s", "a/#,b/#", configs={"mqtt.key": "clientid", "retention.ms": "5000"})["error"] == "OK"
    assert alter(c, "s", ("append", "mqtt.filter", '["c,d","a/#"]'), ("subtract", "mqtt.filter", "b/#"),
                 ("delete", "mqtt.key"), ("set", "retention.bytes", "77"))["error"] == "OK"
    s = bound(c)["s"]
    assert s["filters"] == ["a/#", "c,d"] and "key" not in s
    assert (s["retention.ms"], s["retention.bytes"]) == (5000, 77)
    for changes, says in (([("delete", "mqtt.filter")], "needs a filter"), ([("append", "mqtt.key", "x")], "only mqtt.filter"),
                          ([("twist", "mqtt.key", "x")], "no such change"), ([("set", "mqtt.name", "x")], "no setting"),
                          ([("set", "cleanup.policy", "compact"), ("set", "mqtt.key", "none")], "mqtt.key")):
        answer = alter(c, "s", *changes)
        assert answer["error"] == "ERR_INVALID" and says in answer["message"], answer
    assert bound(c)["s"] == s
    assert alter(c, "s", ("set", "retention.ms", "1"), validate=True)["error"] == "OK" and bound(c)["s"] == s
    assert alter(c, "demo", ("set", "retention.ms", "1"))["error"] == "ERR_LOCKED"
    assert alter(c, "none", ("set", "retention.ms", "1"))["error"] == "ERR_NOT_FOUND"


def test_two_clients_at_the_same_time_undo_nothing_of_each_other(make):
    c = make().configure([stream()]).start()
    assert bind(c, "s", "first/#")["error"] == "OK"
    wrong = []

    def change(name, op, value):
        for i in range(8):
            answer = alter(c, "s", (op, name, value(i)))
            if answer["error"] != "OK":
                wrong.append(answer)

    threads = [threading.Thread(target=change, args=x) for x in (
        ("mqtt.filter", "append", lambda i: f"f{i}/#"), ("retention.ms", "set", str), ("mqtt.filter", "append", lambda i: f"g{i}/#"))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
    s = bound(c)["s"]
    assert s["retention.ms"] == 7
    assert sorted(s["filters"]) == sorted(["first/#"] + [f"{x}{i}/#" for x in "fg" for i in range(8)])


def test_altering_a_stream_of_many_filters_keeps_them(make):
    c = make().configure([stream()]).start()
    filters = [f"{'x' * 30}/{i}/#" for i in range(1000)]  # more than the log's catalog shows
    assert bind(c, "s", json.dumps(filters, separators=(",", ":")))["error"] == "OK"
    assert alter(c, "s", ("set", "retention.ms", "-1"), ("subtract", "mqtt.filter", filters[3]))["error"] == "OK"
    assert bound(c)["s"]["filters"] == filters[:3] + filters[4:]
    with c.mqtt() as m:
        m.publish_all([(f"{'x' * 30}/999/y", b"last"), (f"{'x' * 30}/3/y", b"no")])
    c.stop()
    assert c.values("s") == ["last"]


@pytest.mark.sanitized
def test_commands_of_one_message_are_one_change(make):
    c = make().configure([stream()]).start()
    def commands(n):
        return [dict(command="bind", name=f"s{i}", partitions=1, configs={"mqtt.filter": f"s{i}/#"}) for i in range(n)]
    got = together(c, *commands(100), dict(command="bind", name="bad", configs={"mqtt.filter": "#/#"}),
                   dict(command="unbind", name="nobody's"), dict(command="unbind", name="demo"))
    assert [r["error"] for r in got] == ["OK"] * 100 + ["ERR_INVALID", "ERR_NOT_FOUND", "ERR_LOCKED"]
    assert c.broker.log().count("configuration read again") == 1
    got = together(c, dict(command="unbind", name="s1"), dict(command="bind", name="s1", configs={"mqtt.filter": "b/#"}),
                   dict(command="alter", name="s2", changes=[dict(op="append", name="mqtt.filter", value="c/#")]))
    assert [r["error"] for r in got] == ["OK", "ERR_INVALID", "OK"] and "named twice" in got[1]["message"]
    assert len(bound(c)) == 99 and together(c) == []
    assert command(c, commands=commands(129))["error"] == "ERR_TOO_LARGE"
    with c.mqtt() as m:
        m.publish_all([("s99/x", b"99"), ("c/x", b"c"), ("s1/x", b"nobody's")])
    c.stop()
    assert c.values("s99") == ["99"] and c.values("s2") == ["c"] and c.read("s1") == []


def test_a_stream_that_was_unbound_and_bound_again_begins_anew(make):
    c = make().configure([stream()]).start()
    for life in ("first", "second"):
        assert bind(c, "s", "s/#", partitions=2 if life == "first" else 5)["error"] == "OK"
        with c.mqtt() as m:
            m.publish_all([("s/x", life)] * 3)
        if life == "first":
            assert command(c, command="unbind", name="s")["error"] == "OK"
    c.stop()
    assert [r["offset"] for r in c.read("s")] == ["0", "1", "2"] and set(c.values("s")) == {"second"}


def test_trimming_raises_the_log_start(make):
    c = make().configure([stream(partitions=1)]).start()
    with c.mqtt() as m:
        m.publish_all([("demo/x", str(i)) for i in range(10)])
    wait_until("all is stored", lambda: command(c, command="trim", name="demo", partition=0, offset=10)["error"] == "OK")
    with c.mqtt() as m:
        m.publish("demo/x", b"10")
    assert command(c, command="trim", name="demo", partition=0, offset=99)["error"] == "ERR_RANGE"
    assert command(c, command="trim", name="demo", partition=1, offset=0)["error"] == "ERR_NOT_FOUND"
    c.stop()
    assert c.values("demo") == ["10"]


@pytest.mark.parametrize("what, error, says", [
    (dict(name="demo", configs={"mqtt.filter": "x/#"}), "ERR_LOCKED", "stands in .*culex.json"),
    (dict(name="a b", configs={"mqtt.filter": "x/#"}), "ERR_INVALID", "name: .*is not a name for a stream"),
    (dict(name="s", configs={"mqtt.filter": "x/#/y"}), "ERR_INVALID", "mqtt.filter: .*goes on after '#'"),
    (dict(name="s", configs={"mqtt.filter": "$SYS/#"}), "ERR_INVALID", "mqtt.filter: .*cannot be captured"),
    (dict(name="s", configs={"mqtt.filter": "[1]"}), "ERR_INVALID", "mqtt.filter: .*not a string"),
    (dict(name="s", configs={"mqtt.filter": "["}), "ERR_INVALID", "mqtt.filter: .*not a JSON array"),
    (dict(name="s", configs={}), "ERR_INVALID", "mqtt.filter: is missing"),
    (dict(name="s", configs={"mqtt.filter": "x", "mqtt.key": "colour"}), "ERR_INVALID", "mqtt.key: .*is no key"),
    (dict(name="s", configs={"mqtt.filter": "x", "mqtt.colour": "1"}), "ERR_INVALID", "mqtt.colour is no setting"),
    (dict(name="s", configs={"mqtt.filter": "x", "max.message.bytes": "1"}), "ERR_INVALID",
     "max.message.bytes is no setting"),
    (dict(name="s", configs={"mqtt.filter": "x", "cleanup.policy": "compact", "mqtt.key": "none"}), "ERR_INVALID",
     "mqtt.key: is .none."),
    (dict(name="s", partitions=2000, configs={"mqtt.filter": "x"}), "ERR_INVALID", "partitions: 2000 is too large"),
    (dict(name="s", replace=True, configs={"mqtt.filter": "x"}), "ERR_NOT_FOUND", "no stream s is bound"),
])
def test_what_is_wrong_is_said_and_nothing_changes(make, what, error, says):
    c = make().configure([stream()]).start()
    answer = command(c, command="bind", **what)
    assert answer["error"] == error and re.search(says, answer["message"]), answer
    assert not (c.data / "streams.json").exists()
    assert c.broker.log().count("configuration read again") == 0


@pytest.mark.sanitized
def test_unbinding_that_was_cut_off_is_done_when_it_is_asked_for_again(make):
    """Killed between the file and the log: the topic is there, and no configuration of it."""
    c = make().configure([stream()]).start()
    assert bind(c, "s", "s/#", partitions=1)["error"] == "OK"
    with c.mqtt() as m:
        m.publish("s/x", b"gone")
    c.broker.kill9()
    (c.data / "streams.json").write_text('{"streams": []}')
    c.start()
    assert command(c, command="unbind", name="s") == {"error": "OK"}
    assert command(c, command="unbind", name="s")["error"] == "ERR_NOT_FOUND"
    assert bind(c, "s", "s/#", partitions=3)["error"] == "OK"
    c.stop()
    assert c.read("s") == []


def test_commands_that_are_none_are_refused(make):
    c = make().configure([stream()]).start()
    assert command(c, command="dance")["error"] == "ERR_INVALID"
    assert command(c)["error"] == "ERR_INVALID"
    assert command(c, command="unbind", name="demo")["error"] == "ERR_LOCKED"
    assert command(c, command="unbind", name="x")["error"] == "ERR_NOT_FOUND"
    assert command(c, command="bind", name="s", validate=True, configs={"mqtt.filter": "s"})["error"] == "OK"
    assert bound(c) == {}
    fd = os.open(c.data, os.O_PATH)
    for raw in (b"[]", b"{", b"\xff" * 200_000):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            s.settimeout(START_SECONDS)
            s.connect(f"/proc/self/fd/{fd}/capture.sock")
            s.send(raw)
            assert json.loads(s.recv(1 << 17))["error"] in ("ERR_CORRUPT", "ERR_IO")
    os.close(fd)


@pytest.mark.sanitized
def test_a_broken_configuration_file_refuses_the_command_and_leaves_the_streams(make):
    c = make().configure([stream()]).start()
    assert bind(c, "one", "one/#")["error"] == "OK"
    c.config_path.write_text("{")
    answer = bind(c, "two", "two/#")
    assert answer["error"] == "ERR_INVALID" and "culex.json:1" in answer["message"]
    assert list(bound(c)) == ["one"]
    c.configure([stream()])
    assert bind(c, "two", "two/#")["error"] == "OK"
    assert list(bound(c)) == ["one", "two"]


def test_the_configuration_wins_over_a_bound_stream_and_says_so(make):
    c = make().configure([stream()]).start()
    assert bind(c, "s", "bound/#", partitions=2)["error"] == "OK"
    c.configure([stream(), stream("s", "file/#", partitions=2)])
    c.broker.reload()
    c.broker.wait_log(r'streams.json:\d+: streams\[0\]: "s" stands in the configuration, too, which holds')
    with c.mqtt() as m:
        m.publish_all([("bound/x", b"bound"), ("file/x", b"file")])
    assert command(c, command="unbind", name="s")["error"] == "ERR_LOCKED"
    c.stop()
    assert c.values("s") == ["file"]


@pytest.mark.sanitized
def test_a_bound_stream_that_the_configuration_hides_is_kept(make):
    c = make().configure([stream()]).start()
    assert bind(c, "s", "bound/#", partitions=2)["error"] == "OK"
    c.configure([stream(), stream("s", "file/#", partitions=2)])
    c.broker.reload()
    c.broker.wait_log("stands in the configuration, too, which holds")
    assert bind(c, "other", "other/#")["error"] == "OK"
    assert command(c, command="unbind", name="other")["error"] == "OK"
    assert bound(c)["s"]["filters"] == ["bound/#"]
    c.configure([stream()])
    assert bind(c, "more", "more/#")["error"] == "OK"  # both files are read again
    with c.mqtt() as m:
        m.publish_all([("bound/x", b"bound"), ("file/x", b"file")])
    c.stop()
    assert c.values("s") == ["bound"]


def test_a_log_that_can_take_no_more_partitions_refuses_them_and_goes_on(make):
    c = make().configure([stream(partitions=1)]).start().stop()
    subprocess.run([TOOLS / "storefill", "-p", c.data / "captured", "1034"], check=True, timeout=300)
    c.start()
    def order(name, partitions):
        return dict(command="bind", name=name, partitions=partitions, configs={"mqtt.filter": f"{name}/#"})
    got = together(c, order("big", 1024), order("too-big", 11), order("fits", 5))
    assert [r["error"] for r in got] == ["OK", "ERR_TOO_LARGE", "OK"] and "10 more partitions" in got[1]["message"], got
    # One that the operator asks for cannot be made either: nothing else stops for it.
    c.configure([stream(partitions=1), stream("many", partitions=1024), stream("few", partitions=3)])
    c.broker.reload()
    c.broker.wait_log("a stream cannot be made, .* stream=many")
    assert together(c, order("one", 1))[0]["error"] == "OK"
    # The operator's takes the last partition before the client's can have it; a command that was refused undoes nothing.
    c.configure([stream(partitions=1), stream("many", partitions=1024), stream("few", partitions=3), stream("last", partitions=1)])
    got = together(c, order("none-left", 1), order("one", 1))
    assert [r["error"] for r in got] == ["ERR_TOO_LARGE", "ERR_EXISTS"] and "cannot make" in got[0]["message"], got
    assert {"big", "fits", "one"} == set(bound(c))
    with c.mqtt() as m:
        m.publish_all([("demo/x", b"1"), ("few/x", b"2"), ("one/x", b"3")])
    c.stop()
    assert c.values("demo") == ["1"] and c.values("few") == ["2"] and c.values("one") == ["3"]


def test_more_names_than_a_broker_counts_for_are_refused_with_the_reason(make):
    def many(prefix, n):
        return [stream(f"{prefix}{i}", partitions=1) for i in range(n)]
    def binds(prefix, n):
        return [dict(command="bind", name=f"{prefix}{i}", partitions=1, configs={"mqtt.filter": f"{prefix}{i}/#"})
                for i in range(n)]
    c = make().configure(many("a", 4090)).start()
    c.configure(many("b", 4000))
    c.broker.reload()
    c.broker.wait_log("configuration read again")
    wait_until("all are made", lambda: "b3999" in (catalog(c) or ()), 5 * START_SECONDS, every=1)
    assert {r["error"] for r in together(c, *binds("c", 90))} == {"OK"}
    assert {r["error"] for r in together(c, *[dict(command="unbind", name=f"c{i}") for i in range(90)])} == {"OK"}
    got = together(c, *binds("d", 13))
    assert {r["error"] for r in got} == {"ERR_INVALID"} and "8192 names" in got[0]["message"], got
    assert bound(c) == {}
    assert {r["error"] for r in together(c, *binds("d", 12))} == {"OK"}
    with c.mqtt() as m:
        m.publish_all([("b3999/x", b"b"), ("d11/x", b"d")])
    c.stop()
    assert c.values("b3999") == ["b"] and c.values("d11") == ["d"]


@pytest.mark.sanitized
def test_what_ran_out_of_time_is_as_if_nobody_had_asked(make):
    c = make().configure([stream()]).start()
    assert bind(c, "old", "old/#")["error"] == "OK"
    c.broker.signal(signal.SIGSTOP)
    got = together_once(c, dict(command="bind", name="new", configs={"mqtt.filter": "new/#"}), dict(command="unbind", name="old"))
    assert [r["error"] for r in got] == ["ERR_AGAIN"] * 2 and list(bound(c)) == ["old"]
    assert command(c, command="trim", name="old", partition=0, offset=0)["error"] == "OK"  # nothing of the broker's
    c.broker.signal(signal.SIGCONT)
    assert bind(c, "next", "next/#")["error"] == "OK"
    with c.mqtt() as m:
        m.publish_all([("old/x", b"old"), ("new/x", b"new")])
    c.broker.kill9()
    c.start()
    with c.mqtt() as m:
        m.publish_all([("old/x", b"old"), ("new/x", b"new")])
    c.stop()
    assert c.values("old") == ["old", "old"] and c.read("new") == []


def test_a_log_that_cannot_be_written_answers_to_try_again(make):
    c = make().configure([stream()])
    c.break_store()
    c.start()
    answer = bind(c, "s", "s/#")
    assert answer["error"] == "ERR_AGAIN" and "cannot be written" in answer["message"] and bound(c) == {}
    c.mend_store()
    wait_until("it can", lambda: bind(c, "s", "s/#")["error"] == "OK")


def test_what_changes_nothing_is_done_at_once(make):
    c = make().configure([stream()]).start()
    assert bind(c, "s", "s/#")["error"] == "OK"
    c.broker.kill_writer()
    c.broker.wait_log("the writer runs again")
    wait_until("commands are taken", lambda: answers(c), 60)
    c.broker.signal(signal.SIGSTOP)  # it need not be asked
    assert alter(c, "s", ("set", "mqtt.filter", "s/#"), ("append", "mqtt.filter", "s/#"))["error"] == "OK"
    c.broker.signal(signal.SIGCONT)
    assert c.broker.log().count("configuration read again") == 1


def test_what_the_file_has_already_is_not_captured_for_that(make):
    """Somebody has put it there, and the broker has not read it."""
    c = make().configure([stream()]).start()
    assert bind(c, "s", "s/#")["error"] == "OK"
    (c.data / "streams.json").rename(c.data / "aside")
    assert command(c, command="unbind", name="s")["error"] == "OK" and bound(c) == {}
    (c.data / "aside").rename(c.data / "streams.json")
    assert bind(c, "s", "s/#", partitions=1)["error"] == "OK"
    with c.mqtt() as m:
        m.publish("s/x", b"1")
    c.stop()
    assert c.values("s") == ["1"]


@pytest.mark.sanitized
def test_what_was_refused_is_taken_out_of_the_file_when_that_can_be_done(make):
    c = make().configure([stream()]).start()
    assert bind(c, "one", "one/#")["error"] == "OK"
    c.broker.signal(signal.SIGSTOP)
    got = []
    t = threading.Thread(target=lambda: got.append(bind(c, "two", "two/#")))
    t.start()
    wait_until("the file has it", lambda: "two" in bound(c), 60)
    c.config_path.write_text("{")
    (c.data / "streams.json.next").mkdir()  # where the next one is written first
    c.broker.signal(signal.SIGCONT)
    t.join(60)
    assert got[0]["error"] in ("ERR_INVALID", "ERR_AGAIN"), got
    c.broker.wait_log("the file has what was refused")
    (c.data / "streams.json.next").rmdir()
    wait_until("it is taken out", lambda: set(bound(c)) == {"one"})
    c.configure([stream()])
    assert patiently(c, command="bind", name="two", configs={"mqtt.filter": "two/#"})["error"] == "OK"
    with c.mqtt() as m:
        m.publish("two/x", b"2")
    c.stop()
    assert c.values("two") == ["2"]


@pytest.mark.sanitized
def test_a_name_that_the_configuration_has_taken_meanwhile_is_neither_bound_nor_deleted(make):
    c = make().configure([stream()]).start()
    assert bind(c, "mine", "mine/#", partitions=2)["error"] == "OK"
    c.configure([stream(), stream("mine", "file/#", partitions=2), stream("new", "file/#", partitions=1)])
    got = together(c, dict(command="unbind", name="mine"), dict(command="bind", name="new", configs={"mqtt.filter": "new/#"}),
                   dict(command="bind", name="other", configs={"mqtt.filter": "other/#"}))
    assert [r["error"] for r in got] == ["ERR_LOCKED", "ERR_LOCKED", "OK"], got
    assert all("culex.json" in r["message"] for r in got[:2])
    wait_until("the file has what was done", lambda: set(bound(c)) == {"other"})
    with c.mqtt() as m:
        m.publish_all([("file/x", b"1"), ("new/x", b"2"), ("mine/x", b"3"), ("other/x", b"4")])
    c.stop()
    assert (c.values("mine"), c.values("new"), c.values("other")) == (["1"], ["1"], ["4"])


def test_what_an_older_writer_wrote_after_the_broker_had_read_is_read_again(make):
    """The writer of a broker that was killed may still be at work when the next broker starts."""
    c = make().configure([stream()]).start()
    assert bind(c, "s", "s/#")["error"] == "OK"
    c.stop()
    late = (c.data / "streams.json").read_text()
    (c.data / "streams.json").unlink()
    shutil.rmtree(c.data / "captured")
    c.break_store()
    c.start()
    (c.data / "streams.json").write_text(late)
    c.mend_store()
    c.broker.wait_log("configuration read again", 60)
    with c.mqtt() as m:
        m.publish("s/x", b"1")
    c.stop()
    assert c.values("s") == ["1"]


def almost_fill(disk):
    """So that the log takes nothing more; small files have room."""
    with open(disk / "ballast", "wb", buffering=0) as f:
        while os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize > 6 << 20:
            f.write(bytes(1 << 18))


@pytest.fixture
def small(make):
    c = make()
    c.data.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(c.data)], capture_output=True).returncode:
        pytest.skip("mounting a small file system is not permitted here")
    yield c.configure([stream(on_full="reject")], store=SMALL_STORE)
    c.broker.kill9()
    subprocess.run(["umount", "-l", str(c.data)], check=True)


@pytest.mark.sanitized
def test_a_disk_that_fills_while_a_stream_is_being_bound_holds_nothing_up(small):
    c = small.start()
    assert bind(c, "s", "s/#")["error"] == "OK"
    got = []
    c.broker.signal(signal.SIGSTOP)
    t = threading.Thread(target=lambda: got.append(bind(c, "new", "new/#")))
    t.start()
    wait_until("the file has it", lambda: "new" in bound(c), 60)
    almost_fill(c.data)
    c.broker.signal(signal.SIGCONT)
    t.join(60)
    assert got[0]["error"] in ("OK", "ERR_AGAIN")  # the latter on a machine that is slow
    assert patiently(c, command="unbind", name="s")["error"] == "OK"
    assert bind(c, "more", "more/#")["error"] == "ERR_FULL"
    check_catalog(c, {"demo", *bound(c)})


@pytest.mark.sanitized
def test_a_full_disk_takes_what_makes_room(small):
    c = small.start()
    assert bind(c, "s", "s/#")["error"] == "OK" and bind(c, "keeps", "keeps/#")["error"] == "OK"
    with c.mqtt() as m:
        m.publish_all([("s/x", b"1"), ("keeps/x", b"2"), ("keeps/x", b"3")])
        wait_until("all is stored", lambda: command(c, command="trim", name="keeps", partition=0, offset=1)["error"] == "OK")
        almost_fill(c.data)
        wait_until("the log cannot be written", lambda: fill(m, "demo/x", 50) and "capture is degraded" in c.broker.log(),
                   every=0.05)
        assert bind(c, "new", "new/#")["error"] == "ERR_FULL"
        for offset in range(1, 3):
            assert command(c, command="trim", name="keeps", partition=0, offset=offset)["error"] == "OK"
        assert command(c, command="unbind", name="s")["error"] == "OK"
        check_catalog(c, {"demo", "keeps"})
        c.configure([stream(on_full="reject"), stream("later")], store=SMALL_STORE)
        c.broker.reload()
        c.broker.wait_log("stream made stream=later")
        assert command(c, command="trim", name="keeps", partition=0, offset=2)["error"] == "OK"
        assert patiently(c, command="unbind", name="keeps")["error"] == "OK"
        check_catalog(c, {"demo", "later"})
        m.publish("later/x", b"waits for room")
        (c.data / "ballast").unlink()
        c.broker.wait_log("capture runs again", 60)
    c.stop()
    assert bound(c) == {} and c.values("later") == ["waits for room"]


@pytest.mark.sanitized
def test_a_start_on_a_full_disk_makes_room_though_a_stream_is_new(small):
    store = {**SMALL_STORE, "segment.bytes": 1 << 20}
    c = small.configure([stream(partitions=1)], store=store).start()
    assert bind(c, "s", "s/#")["error"] == "OK"
    with c.mqtt() as m:
        for i in range(20):
            m.publish_all([("demo/x", bytes(1 << 16))] * 8)
    c.stop()
    almost_fill(c.data)
    free = os.statvfs(c.data).f_bavail
    c.configure([stream(partitions=1, **{"retention.bytes": 0}), stream("new")], store=store).start()
    c.broker.wait_log("stream made stream=new")
    wait_until("retention makes room", lambda: os.statvfs(c.data).f_bavail - free > (4 << 20) // os.statvfs(c.data).f_frsize, 60)
    assert patiently(c, command="unbind", name="s")["error"] == "OK"
    check_catalog(c, {"demo", "new"})


def test_a_bound_stream_is_captured_before_the_log_can_be_opened(make):
    c = make().configure([stream()]).start()
    assert bind(c, "s", "s/#")["error"] == "OK"
    c.stop()
    (c.data / "captured").rename(c.data / "aside")
    c.break_store()
    c.start()
    with c.mqtt() as m:
        m.publish("s/x", b"into the ring")
    (c.data / "captured").unlink()
    (c.data / "aside").rename(c.data / "captured")
    wait_until("capture runs again", lambda: "capture runs again" in c.broker.log())
    c.stop()
    assert c.values("s") == ["into the ring"]


def test_binding_under_load_and_kills_of_the_writer_loses_nothing(make):
    c = make().configure([stream(partitions=1)]).start()
    answers, stop = [], threading.Event()

    def change():
        i = 0
        while not stop.is_set():
            i += 1
            try:
                answers.append(bind(c, f"s{i}", f"s{i}/#")["error"])
            except OSError:  # the writer has just been killed
                answers.append("gone")

    with c.mqtt() as m:
        infos, t = [], threading.Thread(target=change)
        t.start()
        for i in range(3000):
            infos.append(m.client.publish("demo/x", str(i), 1))
            if i % 1000 == 500:
                c.broker.kill_writer()
        for x in infos:
            x.wait_for_publish(60)
        wait_until("some were bound", lambda: answers.count("OK") >= 3)
        stop.set()
        t.join()
    names = {f"s{i + 1}" for i, a in enumerate(answers) if a == "OK"}
    assert names <= set(bound(c))
    c.stop()
    assert [int(v) for v in c.values("demo")] == list(range(3000))


def test_what_is_published_while_its_stream_is_being_bound_is_captured(make):
    """The ring is faster than the way by which the writer hears of a stream, above all of one among many."""
    c = make().configure([stream(f"s{i}", partitions=1) for i in range(1000)]).start()
    with c.mqtt() as m, Load(c.broker.port, "-n", 2, "-q", 1, "-s", 60, "-d", 120, "-t", "new") as load:
        for i in range(3):
            assert bind(c, f"new{i}", "new/#")["error"] == "OK"
            m.subscribe(f"$SYS/broker/culex/streams/new{i}/stored", 0)
        for i in range(3):
            m.wait_message(lambda x, i=i: f"/new{i}/" in x.topic and int(x.payload) > 0)
        load.stop()
    c.stop()
    for i in range(3):
        t = c.totals(f"new{i}")
        assert t["published"] == t["stored"] > 0, t


def test_what_comes_for_a_stream_that_is_just_being_unbound_is_no_loss(make):
    c = make().configure([stream(partitions=1)]).start()
    with c.mqtt() as m, Load(c.broker.port, "-n", 2, "-q", 1, "-s", 60, "-d", 120, "-t", "new") as load:
        for i in range(4):
            assert bind(c, f"s{i}", "new/#")["error"] == "OK"
            m.subscribe(f"$SYS/broker/culex/streams/s{i}/stored", 0)
            m.wait_message(lambda x, i=i: f"/s{i}/" in x.topic and int(x.payload) > 0)
            assert patiently(c, command="unbind", name=f"s{i}")["error"] == "OK"
        load.stop()
    c.stop()
    for i in range(4):
        t = c.totals(f"s{i}")
        assert t["published"] == t["stored"] + t["filtered"] and t["dropped"] == 0, t
    assert "record dropped" not in c.broker.log()


@pytest.mark.sanitized
def test_a_data_directory_that_was_put_in_place_of_another_takes_commands(make):
    c = make().configure([stream()]).start()
    assert bind(c, "one", "one/#")["error"] == "OK"
    c.data.rename(c.home / "aside")
    with c.mqtt() as m:
        wait_until("commands are taken there", lambda: answers(c) and fill(m, "demo/x", 1, size=0))
        assert bind(c, "two", "two/#")["error"] == "OK"
        assert set(bound(c)) == {"one", "two"}
        (c.home / "other").mkdir()
        (c.home / "other" / "streams.json").write_text(json.dumps({"streams": [{"name": "copied", "filters": ["copied/#"]}]}))
        exchange(c.home / "other", c.data)
        wait_until("it is read", lambda: "copied" in (catalog(c) or ()), 60)
        m.publish("copied/x", b"1")
        assert set(bound(c)) == {"copied"}
    c.stop()
    assert c.values("copied") == ["1"]


def exchange(one, other):
    """Each is at the other's path, at once."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), 2):
        code = ctypes.get_errno()
        if code in (errno.EINVAL, errno.ENOSYS, errno.EXDEV):
            pytest.skip("this file system cannot exchange two paths")
        raise OSError(code, os.strerror(code))


def answers(c):
    try:
        return command(c, command="dance")["error"] == "ERR_INVALID"
    except OSError:
        return False
