"""The plugin alone: what it took stays, whatever an operator does to log, ring and configuration while it runs."""

import os
import re
import shutil
import subprocess

import pytest
from harness import TOOLS, wait_until
from test_capture import DENIED, SMALL, Watcher, adds_up, fill, make, stream

pytestmark = [pytest.mark.broker]

WAITING_MAX = 16  # configurations that wait for the log


def reload(c, streams, says="configuration read again"):
    mark = len(c.broker.log())
    c.configure(streams)
    c.broker.reload()
    wait_until(says, lambda: says in c.broker.log()[mark:])


# --- configurations that come and go while the log is closed --------------------------------------------------------


def test_streams_of_each_configuration_that_passed_while_the_log_was_closed_are_stored(make):
    c = make().configure([stream()])
    c.break_store()
    c.start()
    with c.mqtt() as m:
        watcher = Watcher(m)
        watcher.wait("state", "degraded")
        reload(c, [stream(), stream("one")])
        m.publish("one/x", b"1")
        reload(c, [stream(), stream("two", partitions=3, key="clientid")])
        m.publish("two/x", b"2")
        reload(c, [stream()])
        m.publish("demo/x", b"3")
        c.mend_store()
        watcher.wait("state", "running")
        watcher.wait("streams/two/stored", "1")
    c.stop()
    assert (c.values("one"), c.values("two"), c.values("demo")) == (["1"], ["2"], ["3"])
    assert all(adds_up(c.totals(s)) and c.totals(s)["stored"] == 1 for s in ("one", "two", "demo"))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_stream_added_and_taken_out_while_the_disk_is_full_is_stored(make):
    c = make()
    c.data.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60m", "tmpfs", str(c.data)], check=True)
    try:
        c.configure([stream(on_full="reject")], store={"ring.bytes": 8 << 20, "tail.bytes": 1 << 20}).start()
        with c.mqtt() as m:
            watcher = Watcher(m)
            m.publish("demo/x", b"before")
            watcher.wait("streams/demo/stored", "1")
            ballast = c.data / "ballast"
            with open(ballast, "wb", buffering=0) as f, pytest.raises(OSError):
                while True:
                    f.write(b"\0" * 4096)
            wait_until("the log cannot be written", lambda: fill(m, "demo/x", 50) and "capture is degraded" in c.broker.log(),
                       every=0.05)
            watcher.wait("state", "degraded")
            reload(c, [stream(on_full="reject"), stream("xnew", on_full="reject")])
            assert all(code in (0, 0x10) for code in fill(m, "xnew/x", 3, size=0))
            reload(c, [stream(on_full="reject")])
            ballast.unlink()
            watcher.wait("state", "running")
        c.stop()
        assert len(c.read("xnew")) == c.totals("xnew")["stored"] == 3 and adds_up(c.totals("xnew"))
    finally:
        c.broker.kill9()
        subprocess.run(["umount", str(c.data)], check=True)


def test_a_frame_of_a_stream_that_is_not_made_is_dropped_under_its_name(make):
    """Too many configurations wait: the next is refused with a sentence, and its stream is not made."""
    c = make().configure([stream(), stream("gone")])
    c.break_store()
    c.start()
    with c.mqtt() as m:
        m.publish("gone/x", b"left in the ring")
    c.broker.kill9()
    c.configure([stream()]).start()
    for i in range(WAITING_MAX):
        reload(c, [stream(), stream(f"s{i}")])
    reload(c, [stream(), stream("gone")], says=f"{WAITING_MAX} configurations already wait")
    wait_until("it says what holds", lambda: "the configuration stays as it was" in c.broker.log())
    with c.mqtt() as m:
        m.publish(f"s{WAITING_MAX - 1}/x", b"of the last one that was taken")
        c.mend_store()
        watcher = Watcher(m)
        watcher.wait("state", "running")
        watcher.wait("streams/gone/dropped/unknown-stream", "1")
    c.stop()
    assert "record dropped stream=gone reason=unknown-stream" in c.broker.log()
    t = c.totals("gone")
    assert (t["published"], t["dropped"], t["in_flight"]) == (1, 1, 0)
    assert c.values(f"s{WAITING_MAX - 1}") == ["of the last one that was taken"]


# --- a ring that is no longer where it belongs ----------------------------------------------------------------------


class Publisher:
    """Numbered publishes, a few on their way at a time, and which of them were acknowledged."""

    WINDOW = 50

    def __init__(self, mqtt):
        self.mqtt = mqtt
        self.mids = []

    def settle(self, left=0):
        wait_until("publishes are answered", lambda: all(
            mid in self.mqtt.reasons for mid in self.mids[:len(self.mids) - left]))

    def send(self, n=WINDOW):
        for _ in range(n):
            self.mids.append(self.mqtt.client.publish("demo/x", str(len(self.mids)), 1).mid)
        self.settle()
        return [i for i in range(len(self.mids) - n, len(self.mids)) if self.taken(i)]

    def taken(self, i):
        return self.mqtt.reasons[self.mids[i]].value in (0, 0x10)

    def all_taken(self):
        return [i for i in range(len(self.mids)) if self.taken(i)]


def move_away(c):
    c.data.rename(c.home / "data.old")
    c.data.mkdir()


def move_away_alone(c):
    c.data.rename(c.home / "data.old")


def remove(c):
    shutil.rmtree(c.data)


def remove_ring(c):
    (c.data / "capture.ring").unlink()


@pytest.mark.parametrize("harm", [move_away, move_away_alone, remove, remove_ring])
def test_a_ring_that_is_gone_is_replaced_and_what_is_acknowledged_then_survives_a_kill(make, harm):
    c = make().configure([stream(partitions=1, on_full="reject")]).start()
    with c.mqtt() as m:
        watcher, p = Watcher(m), Publisher(m)
        p.send(500)
        harm(c)
        wait_until("it is seen", lambda: p.send() is not None and "was removed or moved away" in c.broker.log())
        wait_until("there is a ring again", lambda: p.send() is not None and (c.data / "capture.ring").exists())
        watcher.wait("state", "running")
        wait_until("all is taken again", lambda: len(p.send()) == p.WINDOW)
        later = p.send(500)
        c.broker.kill9()
    assert len(later) == 500
    c.start()
    c.stop()
    got = [int(v) for v in c.values("demo")]
    assert got[-500:] == later and got == sorted(set(got))
    if harm in (move_away, move_away_alone):  # what was stored before lies where it was moved to
        old = subprocess.run([str(TOOLS / "storecat"), "-w", str(c.home / "data.old" / "captured"), "demo"],
                             capture_output=True, text=True, timeout=120, check=True).stdout
        got = [int(line.split("\t")[-1]) for line in old.splitlines()] + got
    if harm is not remove:
        assert got == p.all_taken()


def test_a_ring_that_is_gone_keeps_what_waits_in_it_for_the_log(make):
    """The log is closed, so the ring alone has it; it takes nothing more, and all goes into the log that is made."""
    c = make().configure([stream(on_full="reject")])
    c.break_store()
    c.start()
    with c.mqtt() as m:
        watcher = Watcher(m)
        m.publish_all([("demo/x", str(i)) for i in range(100)])
        shutil.rmtree(c.data)
        c.data.write_text("in the way")
        c.broker.wait_log("was removed or moved away")
        assert set(fill(m, "demo/x", 5)) <= DENIED
        watcher.wait("streams/demo/rejected/unavailable", "5")
        watcher.wait("state", "degraded")
        c.data.unlink()
        watcher.wait("state", "running")
        m.publish("demo/x", b"100")
    c.stop()
    assert sorted(map(int, c.values("demo"))) == list(range(101))
    t = c.totals("demo")
    assert t["stored"] == 101 and t["rejected"] == 5 and adds_up(t)


def test_streams_with_fsync_go_on_in_a_new_ring(make):
    c = make().configure([stream(durability="fsync", on_full="reject")]).start()
    with c.mqtt() as m:
        watcher = Watcher(m)
        m.publish_all([("demo/x", "before")] * 50)
        remove_ring(c)
        c.broker.wait_log("capture runs again")
        watcher.wait("state", "running")
        assert all(code in (0, 0x10) for code in fill(m, "demo/x", 5))
    c.stop()
    assert len(c.values("demo")) == 55 == c.totals("demo")["stored"]


# --- who it was ---------------------------------------------------------------------------------------------------


def test_a_refused_publish_is_named_with_its_client_and_size(make):
    c = make().configure([stream()], store=SMALL).start()
    topic = 'demo/"quoted\\' + "/long" * 60
    with c.mqtt(client_id="big sender", protocol=4) as m:
        m.client.publish(topic, b"x" * 20000, 1)
        c.broker.wait_log("publish rejected reason=too-large")
    c.stop()
    line = re.search(r"publish rejected reason=too-large .*", c.broker.log()).group(0)
    said = re.fullmatch(r'publish rejected reason=too-large stream=demo topic="(.*)\.\.\." client="big sender" '
                        r"bytes=(\d+) bytes_max=(\d+) held_back=0", line)
    assert said, line
    assert said[1].startswith(r"demo/\x22quoted\x5c/long/long") and 150 < len(said[1]) < 170
    assert int(said[2]) > 20000 > int(said[3]) > 10000
