"""The writer beside the broker: either may die, hang or be missing, and what was acknowledged is in the log, once."""

import os
import random
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from harness import (BUILD, KILL_SECONDS, PLUGIN, Load, children, ended, kill_pid, memory_kb, sanitizer_env,
                     wait_until)
from test_capture import DENIED, SMALL, Watcher, adds_up, fill, make, stream  # noqa: F401
from test_capture_mend import reload

pytestmark = [pytest.mark.broker]

SEED = int(os.environ.get("SEED", "1"))
WRITER = BUILD / "culex-writer"
KILLS = 5  # with each one, the broker waits longer until it starts another writer
BROKER_KILLS = 6
PUBLISHERS = 3
BLOCK_MS = 700
MARK = f"TEST_RUN_OF_CULEX={os.getpid()}".encode()  # brokers and writers inherit it
os.environ.update([MARK.decode().split("=")])


def running(program):
    """Processes of a program that tests of this run have started, and that have not ended."""
    found = set()
    for p in Path("/proc").iterdir():
        try:
            if p.name.isdigit() and os.readlink(p / "exe").removesuffix(" (deleted)") == str(program.resolve()) \
                    and MARK in (p / "environ").read_bytes().split(b"\0"):
                found.add(int(p.name))
        except OSError:  # just ended, or not ours to look at
            pass
    return {p for p in found if not ended(p)}


@pytest.fixture(autouse=True)
def no_writer_is_left():
    before = running(WRITER)
    yield
    wait_until("the test's writers are gone", lambda: running(WRITER) <= before)


@pytest.fixture
def place(tmp_path):
    """A directory with a copy of the plugin, into which the writer may be put."""
    class Place:
        home = tmp_path / "lib"
        plugin, writer = home / PLUGIN.name, home / WRITER.name

        def put(self, content=None):
            """The writer, or something else under its name; all at once."""
            aside = self.home / "next"
            aside.write_bytes(WRITER.read_bytes() if content is None else content)
            aside.chmod(0o755)
            aside.rename(self.writer)

        def take(self):
            self.writer.unlink()
    Place.home.mkdir()
    shutil.copy(PLUGIN, Place.plugin)
    yield Place()
    wait_until("the test's writers are gone", lambda: not running(Place.writer))


def moved(c, place):
    """A broker that has plugin and writer in a place of their own."""
    place.put()
    c.broker.plugin = place.plugin
    return c


def dead_writer(c, place):
    """Running, and then without a writer that could be started."""
    c.start()
    place.take()
    c.broker.kill_writer()
    c.broker.wait_log("capture is degraded: the writer was ended by signal 9")


def load(c, *args, first=0):
    return Load(c.broker.port, "-n", PUBLISHERS, "-q", 1, "-s", 100, "-w", 50, "-d", 120, "-t", "demo", "-f", first, *args)


def check_stored(c, names, acked):
    """acked: (publisher, sequence) of all that was acknowledged."""
    for name in names:
        seen = [tuple(int(x, 16) for x in v.split(" ")[:2]) for v in c.values(name)]
        assert len(seen) == len(set(seen)), f"{len(seen) - len(set(seen))} stored twice"
        assert not acked - set(seen), f"{len(acked - set(seen))} acknowledged, but not stored"
        for p in range(PUBLISHERS):
            mine = [s for q, s in seen if q == p]
            assert mine == sorted(mine), f"publisher {p}: out of order"


def acked_of(report, first=0):
    return {(p, first + i) for p, (_, acked) in enumerate(report["conns"]) for i in range(acked)}


# --- killed -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("life", range(2))
def test_writers_killed_under_load_lose_nothing_and_disconnect_nobody(make, life):
    rng = random.Random(SEED + life)
    c = make().configure([stream("a", "demo/#", partitions=3), stream("b", "#", key="none", partitions=1)]).start()
    broker, gone, writers = c.broker.pid, [], []
    with c.mqtt() as m:
        m.client.on_disconnect = lambda *a: gone.append(a)
        watcher = Watcher(m)
        watcher.wait("state", "running")
        with load(c, "-r", 3000) as sending:
            for _ in range(KILLS):
                target = int(watcher.text("streams/a/stored") or 0) + rng.randrange(1, 2000)
                wait_until("records are stored", lambda: int(watcher.text("streams/a/stored") or 0) >= target)
                mark = watcher.mark()
                writers.append(c.broker.kill_writer())
                watcher.wait_since(mark, "state", "degraded")
                watcher.wait("state", "running")
            report = sending.stop()
        assert all(s == a for s, a in report["conns"]) and report["rejected"] == report["ack_disorder"] == 0
        count = report["acked"]
        for name in "ab":
            watcher.wait(f"streams/{name}/stored", str(count))
            watcher.wait(f"streams/{name}/in-flight", "0")
        watcher.wait("error", "")
        assert not gone
    assert c.broker.pid == broker and len(set(writers)) == KILLS
    c.stop()
    for name in "ab":
        t = c.totals(name)
        assert t["published"] == t["stored"] == count and t["in_flight"] == 0 and adds_up(t)
    check_stored(c, "ab", acked_of(report))
    assert len(c.values("a")) == len(c.values("b")) == count


def test_brokers_killed_alone_and_started_at_once_lose_nothing(make):
    """The writer that is left stores what the ring holds, and the next one waits for it."""
    rng = random.Random(SEED)
    c = make().configure([stream("a", "demo/#", partitions=3), stream("b", "#", key="none", partitions=1)])
    acked = set()
    for n in range(BROKER_KILLS):
        c.start()
        first = n * 10_000_000
        with load(c, first=first) as sending:
            target = c.size() + rng.randrange(1 << 16, 2 << 20)
            wait_until("the log grows", lambda: c.size() > target)
            left = c.broker.kill_broker_only()
            assert len(left) == 1
            c.start()  # refused, it would have ended
            report = sending.result()
        wait_until("the writer that was left is gone", lambda: ended(left[0]))
        acked |= acked_of(report, first)
        c.broker.kill9() if n % 2 else c.stop()
    c.start().stop()
    check_stored(c, "ab", acked)


def test_a_writer_that_hangs_when_its_broker_is_killed_keeps_the_log_and_the_next_start_says_so(make):
    c = make().configure([stream()]).start()
    writer = c.broker.writer_pid()
    try:
        with c.mqtt() as m:
            m.publish("demo/x", "0")
            os.kill(writer, signal.SIGSTOP)
            m.publish_all([("demo/x", str(i)) for i in range(1, 500)])
        c.broker.kill_broker_only()
        c.broker.start(wait=False)
        assert c.broker.wait_exit() != 0
        assert "in use by another process" in c.broker.log()
    finally:
        os.kill(writer, signal.SIGCONT)
    c.start().stop()
    assert ended(writer)
    assert sorted(map(int, c.values("demo"))) == list(range(500))


def test_a_writer_that_hangs_for_a_while_loses_nothing(make):
    c = make().configure([stream(on_full="reject")], store=SMALL).start()
    writer = c.broker.writer_pid()
    with c.mqtt() as m:
        os.kill(writer, signal.SIGSTOP)
        try:
            codes = fill(m, "demo/x")
            taken = sum(code in (0, 0x10) for code in codes)
            assert 30 < taken < 100 and set(codes[taken:]) <= DENIED
        finally:
            os.kill(writer, signal.SIGCONT)
        Watcher(m).wait("streams/demo/stored", str(taken))
        m.publish("demo/x", b"again")
    c.stop()
    t = c.totals("demo")
    assert len(c.values("demo")) == taken + 1 == t["stored"] and t["rejected"] == 200 - taken and adds_up(t)


def test_counters_go_on_while_the_writer_hangs(make):
    c = make().configure([stream()]).start()
    writer = c.broker.writer_pid()
    with c.mqtt() as m:
        watcher = Watcher(m)
        watcher.wait("received", "0")
        os.kill(writer, signal.SIGSTOP)
        try:
            m.publish("demo/x", b"waits")
            watcher.wait("received", "1")
            watcher.wait("streams/demo/in-flight", "1")
            wait_until("the publish is seen to wait", lambda: int(watcher.text("writer/lag-ms")) > 500)
        finally:
            os.kill(writer, signal.SIGCONT)
        watcher.wait("streams/demo/stored", "1")
        watcher.wait("writer/lag-ms", "0")


def test_no_thread_of_the_writer_takes_a_processor_away_from_the_broker(make):
    c = make().configure([stream()]).start()
    with c.mqtt() as m:
        m.publish("demo/x", b"once")

    def scheduler(task):
        try:
            return os.sched_getscheduler(int(task))
        except ProcessLookupError:  # ended since it was listed
            return None
    found = [scheduler(t) for t in os.listdir(f"/proc/{c.broker.writer_pid()}/task")]
    assert found.count(os.SCHED_BATCH) > 2 and set(found) <= {os.SCHED_BATCH, None}


@pytest.mark.skipif(BUILD.name != "release", reason="of what sanitizers keep")
def test_an_idle_writer_is_small(make):
    c = make().configure([stream()]).start()
    with c.mqtt() as m:
        m.publish("demo/x", b"once")
    wait_until("it holds less than 12 MB", lambda: memory_kb(c.broker.writer_pid(), "Rss") < 12 << 10)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_of_the_group_is_a_clean_stop(make, number):
    """As Ctrl-C and service managers send it: the writer stays until the broker has handed over all."""
    c = make().configure([stream("a", "demo/#", partitions=2)])
    c.broker.launch_as = ["setsid"]
    c.start()
    writer = c.broker.writer_pid()
    assert os.getpgid(writer) == os.getpgid(c.broker.pid) == c.broker.pid
    with load(c) as sending:
        target = c.size() + (1 << 20)
        wait_until("the log grows", lambda: c.size() > target)
        os.killpg(c.broker.pid, number)
        assert c.broker.wait_exit() == 0
        report = sending.result()
    assert ended(writer)
    t = c.totals("a")
    assert t["published"] == t["stored"] >= report["acked"] > 0 and t["in_flight"] == 0
    check_stored(c, "a", acked_of(report))


def test_an_ended_writer_is_waited_for_and_has_nothing_of_the_brokers(make):
    c = make().configure([stream()]).start()

    def file_of(fd):
        try:
            return os.readlink(fd)
        except FileNotFoundError:  # closed since it was listed
            return ""

    def files(pid):
        return {file_of(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()}

    def sockets(pid):
        return {f for f in files(pid) if f.startswith("socket:")}
    with c.mqtt() as a, c.mqtt() as b:
        b.subscribe("demo/#")
        first = c.broker.kill_writer()
        # What is forked is the broker, until it is the writer.
        second, = wait_until("there is another", lambda: running(WRITER) - {first})
        Watcher(a).wait("state", "running")
        assert children(c.broker.pid) == [second]  # the first is no zombie
        assert running(WRITER) == {second}
        assert len(sockets(c.broker.pid)) >= 4 and len(sockets(second)) <= 2  # to the broker, for commands
        assert not sockets(second) & sockets(c.broker.pid)
        assert not any("eventpoll" in f for f in files(second) & files(c.broker.pid))
        pid = c.broker.pid
    c.stop()
    assert not children(pid) and ended(second)


# --- missing, or another one --------------------------------------------------------------------------------------


@pytest.mark.sanitized
def test_a_plugin_without_its_writer_is_a_sentence(make, place):
    c = make().configure([stream()])
    c.broker.plugin = place.plugin
    c.broker.start(wait=False)
    assert c.broker.wait_exit() != 0
    assert f"culex-writer, which the plugin needs beside it, cannot be run plugin={place.plugin}: No such file" \
        in c.broker.log()


@pytest.mark.sanitized
def test_a_writer_of_another_build_is_named_and_the_broker_lives(make, place):
    c = moved(make().configure([stream(on_full="reject")]), place)
    ours = WRITER.read_bytes()
    assert ours.count(b"%s/%zu/%zu\0") == 1
    place.put(ours.replace(b"%s/%zu/%zu\0", b"%s-%zu-%zu\0"))
    c.start()
    c.broker.wait_log("the plugin that the broker has loaded is of another version than this writer")
    with c.mqtt() as m:
        watcher = Watcher(m)
        watcher.wait("state", "degraded")
        watcher.wait("error", "the writer ended with status 1")
        assert set(fill(m, "demo/x", 3)) <= DENIED
        place.put()
        watcher.wait("state", "running")
        m.publish("demo/x", b"now")
        watcher.wait("streams/demo/stored", "1")
    c.stop()
    assert c.values("demo") == ["now"]


def test_a_program_that_is_not_the_writer_leaves_the_broker_alone(make, place):
    c = moved(make().configure([stream(on_full="drop")]), place)
    runs = place.home / "runs"
    place.put(b"#!/bin/sh\necho >>%s\nexit 3\n" % bytes(runs))
    c.start()
    with c.mqtt() as m:
        Watcher(m).wait("error", "the writer ended with status 3")
        assert set(fill(m, "demo/x", 3)) <= {0, 0x10}
        wait_until("it was tried again", lambda: len(runs.read_bytes()) > 2)
        place.put()
        Watcher(m).wait("state", "running")
    c.stop()
    assert adds_up(c.totals("demo"))


@pytest.mark.sanitized
def test_by_hand_the_writer_says_that_it_is_not_for_that():
    got = subprocess.run([WRITER], capture_output=True, text=True, timeout=20, env=sanitizer_env(preload=False))
    assert got.returncode == 2 and "starts this program; there is nothing to run by hand" in got.stderr


# --- dead, and not to be started again for a while -------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["block", "reject", "drop"])
def test_a_full_ring_without_a_writer_is_what_on_full_says_and_bounded(make, place, policy):
    c = moved(make().configure([stream(on_full=policy, **{"on_full.block.ms": BLOCK_MS})], store=SMALL), place)
    dead_writer(c, place)
    with c.mqtt() as m:
        watcher = Watcher(m)
        watcher.wait("state", "degraded")
        why = wait_until("it says why", lambda: watcher.text("error"))  # a topic of its own, some moments later
        assert f"cannot start {place.writer}: No such file" in why or "signal 9" in why
        began = time.monotonic()
        codes = fill(m, "demo/x", 500)
        seconds = time.monotonic() - began
        assert policy != "block" or seconds >= BLOCK_MS / 1000  # waiting for each would be longer than `fill` waits
        refused = sum(code in DENIED for code in codes)
        assert refused == 0 if policy == "drop" else 400 < refused < 470
        place.put()
        watcher.wait("state", "running")
        wait_until("the ring is empty", lambda: watcher.text("streams/demo/in-flight") == "0")
        m.publish("demo/x", b"500 ")
    c.stop()
    t = c.totals("demo")
    assert t["rejected"] + t["dropped"] == 501 - t["stored"] and t["in_flight"] == 0 and adds_up(t)
    numbers = [int(v.split(" ")[0]) for v in c.values("demo")]
    assert numbers == list(range(t["stored"] - 1)) + [500]


def test_streams_of_a_configuration_that_came_without_a_writer_are_made_by_the_next(make, place):
    c = moved(make().configure([stream()]), place)
    dead_writer(c, place)
    with c.mqtt() as m:
        watcher = Watcher(m)
        reload(c, [stream(), stream("one")])
        m.publish("one/x", b"1")
        reload(c, [stream(), stream("two", partitions=3)])
        m.publish("two/x", b"2")
        place.put()
        watcher.wait("streams/two/stored", "1")
        watcher.wait("state", "running")
        assert {"one", "two"} <= set(re.findall(r"stream made stream=(\w+)", c.broker.log()))
        c.broker.kill_writer()  # the next one begins with the newest configuration
        wait_until("there is another", c.broker.writers)
        m.publish("two/x", b"3")
        watcher.wait("streams/two/stored", "2")
    c.stop()
    assert c.values("one") == ["1"] and sorted(c.values("two")) == ["2", "3"]
    assert all(adds_up(c.totals(s)) for s in ("demo", "one", "two"))


def test_fsync_without_a_writer_is_refused_in_bounded_time(make, place):
    c = moved(make().configure([stream(durability="fsync", **{"on_full.block.ms": BLOCK_MS})]), place)
    c.start()
    with c.mqtt() as m:
        m.publish("demo/x", b"on disk")
        place.take()
        kill_pid(c.broker.writer_pid())
        assert set(fill(m, "demo/x", 100, size=10)) <= DENIED  # waiting for each would be longer than `fill` waits
        place.put()
        Watcher(m).wait("state", "running")
        wait_until("it is taken again", lambda: set(fill(m, "demo/x", 1, size=10)) <= {0, 0x10})
    c.stop()
    t = c.totals("demo")
    assert adds_up(t) and t["in_flight"] == 0
    assert len(c.values("demo")) == t["stored"] >= 2


@pytest.mark.parametrize("kills", [1, 4])  # with each one, the broker waits longer until it starts another
def test_a_broker_that_stops_when_its_writer_was_just_killed_stores_what_was_acknowledged(make, kills):
    c = make().configure([stream()]).start()
    with c.mqtt() as m:
        m.publish_all([("demo/x", "before")])
        for _ in range(kills):
            c.broker.kill_writer()
        m.publish_all([("demo/x", str(i)) for i in range(100)])
    c.stop()
    t = c.totals("demo")
    assert t["stored"] == 101 and t["in_flight"] == 0
    assert sorted(c.values("demo"))[-1] == "before" and len(c.values("demo")) == 101


def test_a_broker_that_stops_without_a_writer_leaves_all_to_the_next_start(make, place):
    c = moved(make().configure([stream()]), place)
    dead_writer(c, place)
    with c.mqtt() as m:
        m.publish_all([("demo/x", str(i)) for i in range(100)])
    began = time.monotonic()
    c.stop()
    assert time.monotonic() - began < 20  # and not the 30 s that a writer may take
    t = c.totals("demo")
    assert t["published"] == t["in_flight"] == 100 and adds_up(t)
    place.put()
    c.start().stop()
    t = c.totals("demo")
    assert t["published"] == t["stored"] == 100
    assert sorted(map(int, c.values("demo"))) == list(range(100))
