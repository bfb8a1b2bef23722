"""No room: ring full because the store cannot be written. Each policy does what it says, is counted, and MQTT lives."""

import time

import pytest
from harness import Load, wait_until
from test_counters import PARTS, Counters

pytestmark = pytest.mark.broker


def broken(culex_factory, **kw):
    """A broker whose data directory is a file: nothing can be stored."""
    c = culex_factory(start=False, streams=[{"name": "demo", "filters": ["demo/#"], **kw}],
                      store={"ring.bytes": 1 << 20})
    c.data.rmdir()
    c.data.write_text("not a directory")
    c.broker.start()
    return c


def overload(c, count=3000):
    return Load(c.broker.port, "-n", 1, "-q", 1, "-5", "-s", 1000, "-c", count, "-w", 100, "-t", "demo").result()


def identity(counters):
    return counters.total("demo", "published") == sum(counters.total("demo", n) for n in PARTS)


def test_reject_tells_the_publisher(culex_factory):
    c = broken(culex_factory, on_full="reject")
    with c.mqtt() as watcher:
        counters = Counters(watcher)
        report = overload(c)
        assert report["rejected"] > 0
        wait_until("the refused ones are counted", lambda: counters.total("demo", "rejected") == report["rejected"])
        wait_until("published = stored + filtered + rejected + dropped + what waits in the ring",
                   lambda: counters.total("demo", "published") == 3000)
    assert c.broker.running()


def test_drop_acknowledges_and_counts(culex_factory):
    c = broken(culex_factory, on_full="drop")
    with c.mqtt() as watcher:
        counters = Counters(watcher)
        report = overload(c)
        assert report["acked"] == 3000 and report["rejected"] == 0
        wait_until("the dropped ones are counted", lambda: counters.total("demo", "dropped") > 0)
    assert "drop" in c.broker.log().lower()


def test_block_is_bounded(culex_factory):
    """Ten publishes that find the ring full wait their bound each, not for ever."""
    c = broken(culex_factory, on_full="block", **{"on_full.block.ms": 50})
    began = time.monotonic()
    overload(c, count=1100)
    assert time.monotonic() - began < 60
    with c.mqtt() as m:
        m.publish("other/x", "lives")


def test_subscribers_get_what_capture_drops(culex_factory):
    c = broken(culex_factory, on_full="drop")
    with c.mqtt() as m:
        m.subscribe("demo/#")
        m.publish("demo/x", "hello")
        m.wait_message(lambda msg: msg.payload == b"hello")


@pytest.mark.parametrize("policy", ["block", "reject", "drop"])
def test_nothing_is_unexplained_under_full_load(culex_factory, policy):
    """A ring of the least size and a publisher at full speed: whatever is not stored was refused or dropped, and counted."""
    c = culex_factory(streams=[{"name": "demo", "filters": ["demo/#"], "on_full": policy}],
                      store={"ring.bytes": 1 << 20})
    with c.mqtt() as watcher:
        counters = Counters(watcher)
        report = Load(c.broker.port, "-n", 4, "-q", 0, "-s", 2000, "-d", 3, "-t", "demo").result()
        wait_until("all is accounted for", lambda: counters.total("demo", "published") == report["sent"]
                   and identity(counters), 30, every=0.1)
        from harness import end_offsets
        assert sum(e for _, e in end_offsets(c.bootstrap, "demo").values()) == counters.total("demo", "stored")
        if policy == "block":
            assert counters.total("demo", "stored") == report["sent"]
