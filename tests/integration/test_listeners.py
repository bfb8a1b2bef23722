"""per_listener_settings false and true: the same capture, by what each broker gives a plugin. Mosquitto before 2.0.15 gives it no
regular call where they are true: there publishes are what it wakes with."""

import re
import subprocess
import threading

import pytest
from harness import MOSQUITTO, Mqtt, free_port, port_answers, wait_until
from test_bind import bind, bound, command
from test_capture import Watcher, adds_up, make, stream  # noqa: F401

pytestmark = [pytest.mark.broker]
BOTH = pytest.mark.parametrize("per_listener", [False, True], ids=["global", "per-listener"])
VERSION = tuple(map(int, re.search(r"version (\d+)\.(\d+)\.(\d+)", subprocess.run(
    [MOSQUITTO, "-h"], capture_output=True, text=True).stdout).groups()))
SLEEPS = VERSION < (2, 0, 15)


class Stirring:
    """Somebody publishes what no stream takes, all the time."""

    def __init__(self, c):
        self.c, self.end = c, threading.Event()

    def __enter__(self):
        def publish():
            with self.c.mqtt() as m:
                while not self.end.wait(0.02):
                    m.publish("nobody/wants", b"")
        self.thread = threading.Thread(target=publish)
        self.thread.start()

    def __exit__(self, *exc):
        self.end.set()
        self.thread.join()


@BOTH
def test_what_is_captured_is_of_the_listeners_that_have_the_plugin(make, per_listener):
    c = make(per_listener=per_listener).configure([stream(partitions=1)])
    port = free_port()
    c.broker.extra = f"listener {port} 127.0.0.1\nallow_anonymous true"
    c.start()
    wait_until("the second listener answers", lambda: port_answers(port))
    with c.mqtt() as a, Mqtt(port) as b:
        for i in range(20):
            (b if i % 2 else a).publish("demo/x", str(i))
    c.stop()
    assert [int(v) for v in c.values("demo")] == list(range(0, 20, 2 if per_listener else 1))


@BOTH
def test_a_reload_is_taken_though_nobody_publishes(make, per_listener):
    c = make(per_listener=per_listener).configure([stream()]).start()
    c.configure([stream("demo", "demo/#", "more/#"), stream("new")])
    c.broker.reload()
    c.broker.wait_log("configuration read again")
    with c.mqtt() as m:
        m.publish_all([("new/x", b"new"), ("more/x", b"more")])
    c.configure([stream()])
    c.broker.reload()
    c.broker.wait_log("read again streams=1")
    with c.mqtt() as m:
        m.publish("new/x", b"too late")
    c.stop()
    assert c.values("new") == ["new"] and c.values("demo") == ["more"]


@BOTH
def test_a_killed_writer_is_started_again_and_counters_go_on(make, per_listener):
    c = make(per_listener=per_listener).configure([stream(partitions=1)]).start()
    with c.mqtt() as m, Stirring(c):
        watcher = Watcher(m)
        for n in range(3):
            m.publish("demo/x", str(n))
            watcher.wait("streams/demo/stored", str(n + 1))
            gone = c.broker.kill_writer()
            wait_until("there is another", lambda gone=gone: set(c.broker.writers()) - {gone})
        m.publish("demo/x", b"3")
    c.stop()
    assert [int(v) for v in c.values("demo")] == list(range(4))
    assert c.totals("demo")["stored"] == 4 and adds_up(c.totals("demo"))


@BOTH
def test_binding_needs_a_publish_only_where_nothing_else_wakes_the_plugin(make, per_listener):
    c = make(per_listener=per_listener).configure([stream()]).start()
    if per_listener and SLEEPS:
        answer = bind(c, "s", "s/#")
        assert answer["error"] == "ERR_AGAIN" and bound(c) == {}, answer
        with Stirring(c):
            wait_until("it is bound", lambda: bind(c, "s", "s/#")["error"] == "OK")
    else:
        wait_until("it is bound", lambda: bind(c, "s", "s/#")["error"] == "OK")
    with c.mqtt() as m, Stirring(c):
        m.publish("s/x", b"bound")
        # What had not enough time may have come about all the same.
        wait_until("it is unbound", lambda: command(c, command="unbind", name="s")["error"] in ("OK", "ERR_NOT_FOUND"))
        wait_until("it is another", lambda: bind(c, "s", "s/#")["error"] in ("OK", "ERR_EXISTS"))
        m.publish("s/x", b"again")
    c.stop()
    assert c.values("s") == ["again"]
