"""The plugin alone, inside a real broker: what reaches the log, whatever happens to broker, store and disk.

What the log holds is read with storecat, straight from the store, after the broker has ended."""

import json
import os
import re
import signal
import socket
import subprocess
from collections import Counter

import pytest
from harness import MOSQUITTO, PLUGIN, START_SECONDS, TOOLS, Broker, Load, Mqtt, free_port, port_answers, wait_until

pytestmark = [pytest.mark.broker]

DENIED = {0x87, 0x97}  # not authorized (2.0), quota exceeded (2.1)


class Capture:
    """A broker with the plugin on a directory of its own."""

    def __init__(self, home, **kw):
        self.home = home
        self.data = home / "data"
        self.config_path = home / "culex.json"
        self.document = {"data": str(self.data), "sys.interval.ms": 100, "streams": []}
        self.broker = Broker(self.data, self.config_path, home, **kw)

    def configure(self, streams, store=None, **top):
        self.document.update(top)
        self.document["streams"] = streams
        if store:
            self.document["store"] = store
        self.config_path.write_text(json.dumps(self.document, indent=1))
        return self

    def start(self):
        self.broker.start()
        return self

    def mqtt(self, **kw):
        return Mqtt(self.broker.port, **kw)

    def stop(self):
        assert self.broker.stop() == 0, self.broker.log()
        return self

    def read(self, stream=None):
        """Records as dicts, after the broker has ended."""
        assert not self.broker.running()
        argv = [str(TOOLS / "storecat"), "-w", str(self.data / "captured")] + ([stream] if stream else [])
        got = subprocess.run(argv, capture_output=True, text=True, timeout=120)
        assert got.returncode == 0, got.stderr
        names = ("topic", "partition", "offset", "timestamp", "key", "headers", "value")
        return [dict(zip(names, line.split("\t"))) for line in got.stdout.splitlines()]

    def values(self, stream):
        return [r["value"] for r in self.read(stream)]

    def size(self):
        """Bytes of the log's files, while it is being written."""
        total = 0
        for path in (self.data / "captured").rglob("*"):
            try:
                total += path.stat().st_size
            except FileNotFoundError:  # just removed
                pass
        return total

    def totals(self, stream):
        """The counters that the log has at the end."""
        lines = re.findall(rf"capture ended stream={re.escape(stream)} (.*)", self.broker.log())
        return {k: int(v) for k, v in re.findall(r"(\w+)=(\d+)", lines[-1])}

    def break_store(self):
        """A file where the store's directory belongs: opening fails until it is gone."""
        self.data.mkdir(exist_ok=True)
        (self.data / "captured").write_text("in the way")

    def mend_store(self):
        (self.data / "captured").unlink()


def adds_up(t):
    return t["published"] == t["stored"] + t["filtered"] + t["rejected"] + t["dropped"] + t["in_flight"]


@pytest.fixture
def make(tmp_path):
    made = []

    def factory(name="c", **kw):
        home = tmp_path / f"{name}{len(made)}"
        home.mkdir()
        made.append(Capture(home, **kw))
        return made[-1]

    yield factory
    for c in made:
        c.broker.kill9()


def stream(name="demo", *filters, **kw):
    return {"name": name, "filters": list(filters) or [f"{name}/#"], **kw}


class Watcher:
    """The newest text of each topic under $SYS/broker/culex."""

    def __init__(self, mqtt):
        self.mqtt = mqtt
        mqtt.subscribe("$SYS/broker/culex/#", 0)

    def text(self, name):
        found = [m for m in list(self.mqtt.messages) if m.topic == f"$SYS/broker/culex/{name}"]
        return found[-1].payload.decode() if found else None

    def wait(self, name, text):
        wait_until(f"{name} is {text}", lambda: self.text(name) == text)

    def mark(self):
        return len(self.mqtt.messages)

    def wait_since(self, mark, name, text):
        """Until it has been said since then, be it for a moment."""
        wait_until(f"{name} was {text}", lambda: any(
            m.topic == f"$SYS/broker/culex/{name}" and m.payload == text.encode() for m in self.mqtt.messages[mark:]))


# --- what is captured ---------------------------------------------------------------------------------------------


@pytest.mark.saw("captures", client="Mosquitto")
def test_one_publish_lands_in_each_stream_that_it_matches(make):
    c = make().configure([stream("a", "x/#"), stream("b", "x/+", "x/y", "#"), stream("c", "z/#")]).start()
    with c.mqtt() as m:
        m.publish("x/y", b"both", qos=2)
        m.publish("other", b"one", qos=0)
        m.publish("$dollar/x", b"none")
    c.stop()
    assert c.values("a") == ["both"]
    assert sorted(c.values("b")) == ["both", "one"]
    assert c.values("c") == []
    assert all(adds_up(c.totals(s)) for s in "abc")


def test_order_within_a_topic_and_dense_offsets(make):
    c = make().configure([stream(partitions=3)]).start()
    with c.mqtt() as m:
        m.publish_all([(f"demo/{i % 7}", str(i)) for i in range(5000)], qos=1)
    c.stop()
    records = c.read("demo")
    assert len(records) == 5000
    for p in range(3):
        offsets = [int(r["offset"]) for r in records if r["partition"] == str(p)]
        assert offsets == list(range(len(offsets)))
    for t in range(7):
        numbers = [int(r["value"]) for r in records if r["key"] == f"demo/{t}"]
        assert numbers == list(range(t, 5000, 7))


def test_records_without_a_key_go_round_the_partitions(make):
    c = make().configure([stream(partitions=4, key="none")]).start()
    with c.mqtt() as m:
        for i in range(200):
            m.publish("demo/x", str(i))
    c.stop()
    counts = Counter(r["partition"] for r in c.read("demo"))
    assert len(counts) == 4 and sum(counts.values()) == 200
    assert {r["key"] for r in c.read("demo")} == {"\\N"}


def test_a_large_payload_is_one_record(make):
    c = make().configure([stream()], store={"ring.bytes": 16 << 20}).start()
    with c.mqtt() as m:
        m.publish("demo/big", b"x" * 1500000)
    c.stop()
    assert [len(v) for v in c.values("demo")] == [1500000]


def test_streams_from_mosquitto_conf_alone(make):
    c = make()
    c.broker.config_path = None
    c.broker.options = {"stream": "mini", "filter": "mini/#", "data": c.data, "partitions": 1}
    c.start()
    with c.mqtt() as m:
        m.publish("mini/x", b"hello")
    c.stop()
    assert c.values("mini") == ["hello"]


def test_a_stream_that_is_no_longer_configured_stays_readable(make):
    c = make().configure([stream(), stream("old")]).start()
    with c.mqtt() as m:
        m.publish("old/x", b"kept")
    c.stop().configure([stream()]).start()
    with c.mqtt() as m:
        m.publish("old/x", b"not captured")
        m.publish("demo/x", b"new")
    c.stop()
    assert c.values("old") == ["kept"] and c.values("demo") == ["new"]


# --- kills --------------------------------------------------------------------------------------------------------


@pytest.mark.saw("is killed and loses nothing", client="Mosquitto")
def test_every_acknowledged_publish_survives_kills_of_the_broker_once(make):
    c = make().configure([stream(partitions=4)])
    acknowledged, number = set(), 0
    for _ in range(4):
        c.start()
        m = c.mqtt(protocol=4)
        acks = {}
        m.client.on_publish = lambda cl, u, mid, reason, props: acks.setdefault(mid)
        sent = {}
        target = 3000
        for i in range(20000):
            info = m.client.publish("demo/x", str(number), 1)
            sent[info.mid] = number
            number += 1
            if i == target:
                wait_until("some acknowledgements", lambda: len(acks) > 1000)
                c.broker.kill9()
                break
        m.client.loop_stop()
        acknowledged |= {n for mid, n in sent.items() if mid in acks}
        assert len(acks) > 1000
    c.start().stop()
    counts = Counter(int(v) for v in c.values("demo"))
    assert acknowledged - set(counts) == set()
    assert [n for n, times in counts.items() if times > 1] == []


@pytest.mark.parametrize("ring", [65536, 1 << 20])
def test_kills_under_load_with_rings_that_wrap(make, ring):
    c = make().configure([stream("a", "demo/#", partitions=3), stream("b", "#", key="none", partitions=2)],
                         store={"ring.bytes": ring})
    acknowledged = set()
    for n in range(3):
        c.start()
        first = n * 10_000_000
        with Load(c.broker.port, "-n", 3, "-q", 1, "-s", 500, "-w", 100, "-d", 60, "-t", "demo", "-f", first) as load:
            before = c.size()
            wait_until("the log grows", lambda: c.size() > before + (2 << 20))
            c.broker.kill9()
            conns = load.result()["conns"]
        acknowledged |= {(p, first + i) for p, (_, acked) in enumerate(conns) for i in range(acked)}
    c.start().stop()
    for name in ("a", "b"):
        seen = [tuple(int(x, 16) for x in v.split(" ")[:2]) for v in c.values(name)]
        assert len(seen) == len(set(seen)), "stored twice"
        assert acknowledged - set(seen) == set(), "acknowledged, but not stored"
        if name == "a":
            for p in range(3):
                mine = [s for q, s in seen if q == p]
                assert mine == sorted(mine), "out of order"


def test_frames_left_in_the_ring_are_stored_by_the_next_broker_once(make):
    c = make().configure([stream()])
    c.break_store()
    c.start()
    with c.mqtt() as m:
        m.publish_all([("demo/x", str(i)) for i in range(500)])
    c.broker.kill9()
    c.mend_store()
    c.start().stop()
    assert sorted(map(int, c.values("demo"))) == list(range(500))
    t = c.totals("demo")
    assert t["published"] == t["stored"] == 500


def test_another_ring_size_does_not_lose_what_the_ring_holds(make):
    c = make().configure([stream()], store={"ring.bytes": 1 << 20})
    c.break_store()
    c.start()
    with c.mqtt() as m:
        m.publish_all([("demo/x", str(i)) for i in range(100)])
    c.broker.kill9()
    c.mend_store()
    c.configure([stream()], store={"ring.bytes": 2 << 20}).start().stop()
    assert sorted(map(int, c.values("demo"))) == list(range(100))
    c.start().stop()
    assert (c.data / "capture.ring").stat().st_size > 2 << 20


def test_a_ring_of_another_version_is_put_aside_with_what_it_holds(make):
    c = make().configure([stream()])
    c.break_store()
    c.start()
    with c.mqtt() as m:
        m.publish_all([("demo/x", "acknowledged %d" % i) for i in range(100)])
    c.broker.kill9()
    c.mend_store()
    with open(c.data / "capture.ring", "r+b") as ring:
        ring.seek(8)  # the version, behind the magic
        ring.write(bytes([99]))
    c.start()
    with c.mqtt() as m:
        m.publish("demo/x", "new")
    c.stop()
    assert c.values("demo") == ["new"]
    aside = [p for p in c.data.iterdir() if p.name.startswith("capture.ring.unreadable-")]
    assert len(aside) == 1 and b"acknowledged 99" in aside[0].read_bytes()
    assert f"put aside, publishes in it are not in the log file={aside[0]}" in c.broker.log()


# --- a ring that is full ------------------------------------------------------------------------------------------

SMALL = {"ring.bytes": 65536}


def fill(mqtt, topic, count=200, size=1000):
    """QoS 1 publishes into a ring that has room for about 60; returns the reason codes in order."""
    infos = [mqtt.client.publish(topic, b"%d " % i + b"x" * size, 1) for i in range(count)]
    wait_until("every publish is answered", lambda: all(i.mid in mqtt.reasons for i in infos))
    return [mqtt.reasons[i.mid].value for i in infos]


def test_reject_tells_an_mqtt_5_publisher_and_counts(make):
    c = make().configure([stream(on_full="reject")], store=SMALL)
    c.break_store()
    c.start()
    with c.mqtt() as m:
        codes = fill(m, "demo/x")
        taken = codes.count(0) + codes.count(0x10)
        assert 30 < taken < 100 and set(codes[taken:]) <= DENIED
        watcher = Watcher(m)
        watcher.wait("state", "degraded")
        watcher.wait("streams/demo/rejected/ring-full", str(200 - taken))
        c.mend_store()
        watcher.wait("state", "running")
        assert m.publish("demo/x", b"again").is_published()
    c.stop()
    t = c.totals("demo")
    assert t["published"] == 201 and t["stored"] == taken + 1 and t["rejected"] == 200 - taken and adds_up(t)
    assert len(c.values("demo")) == taken + 1


def test_reject_disconnects_an_mqtt_3_publisher(make):
    c = make().configure([stream(on_full="reject")], store=SMALL)
    c.break_store()
    c.start()
    with c.mqtt(protocol=5) as m:
        fill(m, "demo/x")
    with c.mqtt(protocol=4) as m:
        gone = []
        m.client.on_disconnect = lambda *a: gone.append(a)
        m.client.reconnect_delay_set(60, 60)
        m.client.publish("demo/x", b"x" * 2000, 1)
        wait_until("the publisher is disconnected", lambda: gone)


def test_reject_keeps_a_qos_0_publish_from_subscribers_and_the_publisher_connected(make):
    c = make().configure([stream(on_full="reject")], store=SMALL)
    c.break_store()
    c.start()
    with c.mqtt() as m, c.mqtt() as sub:
        fill(m, "demo/x")
        sub.subscribe("#")
        m.client.publish("demo/lost", b"x" * 2000, 0)
        m.publish("free/x", b"goes on")
        sub.wait_message(lambda x: x.topic == "free/x")
        assert not [x for x in sub.messages if x.topic == "demo/lost"]


def test_drop_lets_the_broker_go_on_without_the_log(make):
    c = make().configure([stream(on_full="drop")], store=SMALL)
    c.break_store()
    c.start()
    with c.mqtt() as m, c.mqtt() as sub:
        sub.subscribe("demo/#")
        assert set(fill(m, "demo/x")) == {0}
        wait_until("all are delivered", lambda: len(sub.messages) == 200)
    c.stop()
    t = c.totals("demo")
    assert t["dropped"] > 100 and t["rejected"] == 0 and t["in_flight"] + t["dropped"] == 200 and adds_up(t)


def test_block_waits_for_room_and_loses_nothing(make):
    c = make().configure([stream(**{"on_full.block.ms": 10000})], store=SMALL)
    c.break_store()
    c.start()
    with c.mqtt() as m:
        infos = [m.client.publish("demo/x", b"%d " % i + b"x" * 1000, 1) for i in range(300)]
        wait_until("the ring is full", lambda: sum(i.mid in m.reasons for i in infos) > 40)
        c.mend_store()
        wait_until("every publish is acknowledged", lambda: all(i.mid in m.reasons for i in infos))
        assert {m.reasons[i.mid].value for i in infos} <= {0, 0x10}
    c.stop()
    assert [int(v.split()[0]) for v in c.values("demo")] == list(range(300))


def test_block_in_vain_is_a_refusal_and_is_not_repeated_for_every_publish(make):
    c = make().configure([stream(**{"on_full.block.ms": 500})], store=SMALL)
    c.break_store()
    c.start()
    with c.mqtt() as m:
        codes = fill(m, "demo/x", count=1000)  # would take minutes if each waited
        assert set(codes[-800:]) <= DENIED
    c.stop()


def test_the_strictest_of_the_matched_streams_decides(make):
    c = make().configure([stream("a", "t/#", on_full="drop"), stream("b", "t/#", on_full="reject")], store=SMALL)
    c.break_store()
    c.start()
    with c.mqtt() as m:
        codes = fill(m, "t/x")
    refused = sum(code in DENIED for code in codes)
    assert refused > 100
    c.stop()
    assert c.totals("a")["rejected"] == c.totals("b")["rejected"] == refused


def test_a_publish_over_the_rings_limit_is_refused_with_its_reason(make):
    c = make().configure([stream()], store=SMALL).start()
    with c.mqtt() as m:
        info = m.client.publish("demo/x", b"x" * 20000, 1)
        wait_until("it is answered", lambda: info.mid in m.reasons)
        assert m.reasons[info.mid].value in DENIED
        m.publish("demo/x", b"small")
        Watcher(m).wait("streams/demo/rejected/too-large", "1")
    c.stop()
    assert c.values("demo") == ["small"] and adds_up(c.totals("demo"))


# --- a store that cannot be used ----------------------------------------------------------------------------------


def test_a_broken_store_does_not_stop_the_broker_and_is_mended(make):
    c = make().configure([stream()])
    c.break_store()
    c.start()
    c.broker.wait_log("capture is degraded")
    with c.mqtt() as m:
        watcher = Watcher(m)
        watcher.wait("state", "degraded")
        wait_until("it says why", lambda: str(c.data) in (watcher.text("error") or ""))
        m.publish_all([("demo/x", str(i)) for i in range(100)])
        c.mend_store()
        watcher.wait("state", "running")
        watcher.wait("streams/demo/stored", "100")
    c.stop()
    assert len(c.values("demo")) == 100


def test_a_data_directory_that_cannot_be_made_is_degraded_capture(make):
    c = make().configure([stream(on_full="drop"), stream("must", on_full="reject")])
    c.data.write_text("in the way")
    c.start()
    with c.mqtt() as m:
        Watcher(m).wait("state", "degraded")
        assert fill(m, "demo/x", 3) == [0x10] * 3 or fill(m, "demo/x", 3) == [0] * 3
        assert set(fill(m, "must/x", 3)) <= DENIED
        c.data.unlink()
        Watcher(m).wait("state", "running")
        m.publish("must/x", b"now")
    c.stop()
    assert c.values("must") == ["now"]
    assert c.totals("must")["rejected"] == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk_degrades_and_mends(make):
    c = make()
    c.data.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(c.data)], check=True)
    try:
        c.configure([stream(on_full="reject")], store={"ring.bytes": 1 << 20, "tail.bytes": 1 << 20}).start()
        with c.mqtt() as m:
            watcher = Watcher(m)
            m.publish("demo/x", b"before")
            watcher.wait("streams/demo/stored", "1")
            ballast = c.data / "ballast"
            with open(ballast, "wb", buffering=0) as f, pytest.raises(OSError):
                while True:
                    f.write(b"\0" * 4096)
            taken = 1
            for _ in range(40):
                taken += sum(code in (0, 0x10) for code in fill(m, "demo/x", 100))
                if watcher.text("state") == "degraded":
                    break
            watcher.wait("state", "degraded")
            ballast.unlink()
            watcher.wait("state", "running")
            m.publish("demo/x", b"after")
        c.stop()
        assert len(c.values("demo")) == taken + 1
        assert adds_up(c.totals("demo"))
    finally:
        c.broker.kill9()
        subprocess.run(["umount", str(c.data)], check=True)


def test_two_brokers_on_one_directory_is_a_sentence(make):
    a, b = make().configure([stream()]).start(), make()
    b.data = a.data
    b.document["data"] = str(a.data)
    b.configure([stream()])
    b.broker.start(wait=False)
    assert b.broker.wait_exit() != 0
    assert "in use by another process" in b.broker.log()
    with a.mqtt() as m:
        m.publish("demo/x", b"still here")
    a.stop()
    assert a.values("demo") == ["still here"]


# --- reload -------------------------------------------------------------------------------------------------------


def test_sighup_adds_streams_and_filters(make):
    c = make().configure([stream()]).start()
    with c.mqtt() as m:
        m.publish("new/x", b"too early")
        c.configure([stream("demo", "demo/#", "more/#"), stream("new")])
        c.broker.reload()
        c.broker.wait_log("configuration read again")
        m.publish_all([("new/x", str(i)) for i in range(50)])
        m.publish("more/x", b"more")
        c.configure([stream("new")])
        c.broker.reload()
        c.broker.wait_log("read again streams=1")
        m.publish("demo/x", b"too late")
    c.stop()
    assert sorted(map(int, c.values("new"))) == list(range(50))
    assert c.values("demo") == ["more"]


def test_sighup_with_a_mistake_changes_nothing(make):
    c = make().configure([stream()]).start()
    for wrong in ([stream(partitions=0)], [stream(partitions=4)]):
        c.configure(wrong)
        mark = len(c.broker.log())
        c.broker.reload()
        wait_until("the mistake is named", lambda: "streams[0].partitions" in c.broker.log()[mark:])
        with c.mqtt() as m:
            m.publish("demo/x", b"on")
    c.configure([stream()]).stop()
    assert c.values("demo") == ["on", "on"]


def test_sighup_under_load_loses_nothing(make):
    c = make().configure([stream(partitions=1)]).start()
    with c.mqtt() as m:
        infos = []
        for i in range(4000):
            infos.append(m.client.publish("demo/x", str(i), 1))
            if i % 500 == 250:
                c.configure([stream(partitions=1), stream(f"s{i}")])
                c.broker.signal(signal.SIGHUP)
        for i in infos:
            i.wait_for_publish(60)
    c.stop()
    assert [int(v) for v in c.values("demo")] == list(range(4000))


def publish_raw(port):
    """Connects, publishes nothing with QoS 1 on demo/x, waits for the PUBACK and for the end of the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=START_SECONDS) as s:
        s.sendall(bytes.fromhex("100d00044d5154540402003c000161"))
        assert s.recv(4) == bytes.fromhex("20020000")
        s.sendall(bytes.fromhex("320a000664656d6f2f780001"))
        assert s.recv(4) == bytes.fromhex("40020001")
        s.sendall(bytes.fromhex("e000"))
        assert s.recv(1) == b""


# --- listeners ----------------------------------------------------------------------------------------------------


def second_listener(c, options, before=""):
    port = free_port()
    lines = [f"listener {port} 127.0.0.1", "allow_anonymous true", before, f"plugin {PLUGIN}"] if before is not None \
        else [f"plugin {PLUGIN}"]
    c.broker.extra = "\n".join(lines + [f"plugin_opt_{k} {v}" for k, v in options.items()])
    return port


def test_per_listener_settings_share_one_log(make):
    c = make(per_listener=True).configure([stream(partitions=1)])
    port = second_listener(c, {"config": c.config_path})
    c.start()
    wait_until("the second listener answers", lambda: port_answers(port))
    with c.mqtt() as a, Mqtt(port) as b:
        for i in range(20):
            (a if i % 2 else b).publish("demo/x", str(i))
    c.stop()
    assert [int(v) for v in c.values("demo")] == list(range(20))
    assert c.totals("demo")["stored"] == 20


def test_publishers_of_two_listeners_that_come_and_go_are_told_apart(make):
    """The broker hands out the memory of one client to the next: equal addresses are not the same publish."""
    c = make(per_listener=True).configure([stream(partitions=1, key="none")])
    port = second_listener(c, {"config": c.config_path})
    c.start()
    wait_until("the second listener answers", lambda: port_answers(port))
    for _ in range(60):
        publish_raw(c.broker.port)
        publish_raw(port)
    c.stop()
    assert len(c.values("demo")) == 120
    assert c.totals("demo")["stored"] == 120


def test_per_listener_settings_show_counters(make):
    c = make(per_listener=True).configure([stream()]).start()
    with c.mqtt() as m, c.mqtt() as n:
        watcher = Watcher(m)
        n.publish("demo/x", b"1")

        def shown():
            n.publish("other", b"")  # 2.0.11 has no ticks here: messages carry the counters
            return watcher.text("streams/demo/stored") == "1"
        wait_until("the counters are there", shown)
    c.stop()


def test_a_plugin_line_given_twice_captures_once(make):
    c = make().configure([stream(partitions=1)])
    second_listener(c, {"config": c.config_path}, before=None)
    c.start()
    with c.mqtt() as m:
        m.publish_all([("demo/x", str(i)) for i in range(100)])
    c.stop()
    assert [int(v) for v in c.values("demo")] == list(range(100))


def test_two_plugin_lines_with_different_options_are_refused(make):
    c = make().configure([stream()])
    second_listener(c, {"stream": "x", "filter": "x/#"}, before=None)
    c.broker.start(wait=False)
    assert c.broker.wait_exit() != 0
    assert "must have the same plugin_opt_ lines" in c.broker.log()


# --- the rest -----------------------------------------------------------------------------------------------------


def test_durability_fsync_acknowledges_what_is_on_disk(make):
    # Not only when the next interval is over: then the block time would be.
    c = make().configure([stream(durability="fsync")], store={"flush.interval.ms": 60000}).start()
    with c.mqtt() as m:
        for i in range(20):
            m.publish("demo/x", str(i))
    c.broker.kill9()
    c.start().stop()
    assert sorted(map(int, c.values("demo"))) == list(range(20))


def test_fsync_with_a_broken_store_refuses_at_once(make):
    c = make().configure([stream(durability="fsync")])
    c.break_store()
    c.start()
    with c.mqtt() as m:
        assert set(fill(m, "demo/x", 100)) <= DENIED  # a second each would be too long
        c.mend_store()
        Watcher(m).wait("state", "running")
        m.publish("demo/x", b"on disk")
    c.stop()
    assert c.values("demo") == ["on disk"]
    assert c.totals("demo")["rejected"] == 100 and adds_up(c.totals("demo"))


def test_one_large_publish_into_many_streams(make):
    c = make().configure([stream(f"s{i}", "x/#", partitions=1) for i in range(60)]).start()
    with c.mqtt() as m:
        m.publish("x/y", b"x" * 500_000)
        info = m.client.publish("x/y", b"x" * 1_500_000, 1)  # 90 MB in one commit would be too much
        wait_until("it is answered", lambda: info.mid in m.reasons)
        assert m.reasons[info.mid].value in DENIED
    c.stop()
    assert all(len(c.values(f"s{i}")) == 1 for i in (0, 30, 59))


def test_publishers_that_leave_in_the_middle_of_a_publish_leave_nothing(make):
    import socket
    c = make().configure([stream()]).start()
    connect = b"\x10\x0f\x00\x04MQTT\x04\x02\x00\x3c\x00\x03abc"
    publish = b"\x30\x64\x00\x06demo/x" + b"y" * 20  # announces 100 bytes, sends 28
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", c.broker.port)) as s:
            s.sendall(connect)
            assert s.recv(4)[:1] == b"\x20"
            s.sendall(publish)
    with c.mqtt() as m:
        m.publish("demo/x", b"whole")
    c.stop()
    assert c.values("demo") == ["whole"]


def heap_of(mqtt):
    """The broker's own account of its memory, some time after the last change."""
    mqtt.subscribe("$SYS/broker/heap/current", 0)
    wait_until("the heap is shown", lambda: [x for x in mqtt.messages if x.topic == "$SYS/broker/heap/current"])
    mqtt.subscribe("$SYS/broker/uptime", 0)
    seen = len(mqtt.messages)
    wait_until("three intervals", lambda: sum("uptime" in x.topic for x in mqtt.messages[seen:]) > 3)
    return int([x for x in mqtt.messages if x.topic == "$SYS/broker/heap/current"][-1].payload)


@pytest.mark.skipif("version 2.0" in subprocess.run([MOSQUITTO, "-h"], capture_output=True, text=True).stdout,
                    reason="2.0's own account grows with every property")
def test_copies_of_properties_go_back_to_the_broker(make):
    c = make().configure([stream()]).start()
    with c.mqtt() as m:
        before = heap_of(m)
        m.publish_all([("demo/x", "x")] * 2000, UserProperty=[("k" * 20, "v" * 20)] * 10, ContentType="text")
        with c.mqtt() as other:
            assert heap_of(other) < before + 200_000  # 880,000 bytes were copied


def test_more_user_properties_than_a_record_takes_are_refused(make):
    c = make().configure([stream()]).start()
    with c.mqtt() as m:
        ok = m.publish("demo/x", b"1000", UserProperty=[("k", str(i)) for i in range(1000)])
        assert ok.is_published()
        info = m.client.publish("demo/x", b"1001", 1,
                                properties=m.properties(UserProperty=[("k", str(i)) for i in range(1001)]))
        wait_until("it is answered", lambda: info.mid in m.reasons)
        assert m.reasons[info.mid].value in DENIED
    c.stop()
    record, = c.read("demo")
    assert record["value"] == "1000" and record["headers"].count("k=") == 1000
