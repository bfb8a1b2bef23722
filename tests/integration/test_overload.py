"""No room: ring full because the store cannot be written. Each policy does what it says, is counted, and MQTT lives."""

import time

import pytest
from harness import Load, end_offsets, read_all, wait_until
from test_counters import PARTS, Counters

pytestmark = pytest.mark.broker


PUBLISHES = 3000  # of 1,000 bytes: several times what a ring of 1 MB holds
BLOCK_MS = 700


def broken(culex_factory, policy):
    """A broker whose log cannot be opened, with a ring that works: it fills and stays full."""
    c = culex_factory(start=False, streams=[{"name": "demo", "filters": ["demo/#"], "on_full": policy,
                                             "on_full.block.ms": BLOCK_MS}], store={"ring.bytes": 1 << 20})
    (c.data / "captured").write_text("not a directory")
    c.broker.start()
    return c


def overload(c):
    began = time.monotonic()
    report = Load(c.broker.port, "-n", 1, "-q", 1, "-5", "-s", 1000, "-c", PUBLISHES, "-w", 100, "-t", "demo").result()
    assert report["acked"] == PUBLISHES
    return report, time.monotonic() - began


def identity(counters):
    return counters.total("demo", "published") == sum(counters.total("demo", n) for n in PARTS)


def mend_and_count(c, counters, taken):
    """With the log mended, what waited in the ring is stored: exactly what the publisher was not refused."""
    (c.data / "captured").unlink()
    wait_until("what waited is stored", lambda: counters.total("demo", "stored") == taken)
    wait_until("the identity holds", lambda: identity(counters) and counters.total("demo", "published") == PUBLISHES)
    c.server.start()
    c.wait_topics()
    records = read_all(c.bootstrap, "demo", taken)
    sequences = [int(r.value.split(b" ")[1], 16) for r in records]
    assert sequences == sorted(set(sequences)) and sequences[:500] == list(range(500))


@pytest.mark.parametrize("policy", ["block", "reject"])
def test_full_ring_refuses_after_its_bound_and_keeps_what_it_took(culex_factory, policy):
    c = broken(culex_factory, policy)
    with c.mqtt() as watcher:
        counters = Counters(watcher)
        report, seconds = overload(c)
        taken = PUBLISHES - report["rejected"]
        assert 500 <= taken < PUBLISHES // 2
        wait_until("each refusal has its reason",
                   lambda: counters.of("demo").get("rejected/ring-full") == str(report["rejected"]))
        if policy == "block":  # one wait in vain, not one for each publish
            assert BLOCK_MS / 1000 <= seconds < BLOCK_MS / 1000 + 60
        mend_and_count(c, counters, taken)


def test_full_ring_drops_and_counts(culex_factory):
    c = broken(culex_factory, "drop")
    with c.mqtt() as watcher:
        counters = Counters(watcher)
        watcher.subscribe("demo/#")
        report, seconds = overload(c)
        assert report["rejected"] == 0 and seconds < 60
        # Subscribers get what capture drops.
        wait_until("the last one is delivered", lambda: sum(m.topic.startswith("demo/") for m in list(
            watcher.messages)) == PUBLISHES)
        wait_until("the dropped ones have their reason", lambda: int(counters.of("demo").get("dropped/ring-full", 0)) > 500)
        mend_and_count(c, counters, PUBLISHES - int(counters.of("demo")["dropped/ring-full"]))


@pytest.mark.parametrize("policy", ["block", "reject", "drop"])
def test_nothing_is_unexplained_under_full_load(culex_factory, policy):
    """A ring of the least size and a publisher at full speed: whatever is not stored was refused or dropped, and counted."""
    c = culex_factory(streams=[{"name": "demo", "filters": ["demo/#"], "on_full": policy}],
                      store={"ring.bytes": 1 << 20})
    with c.mqtt() as watcher:
        counters = Counters(watcher)
        report = Load(c.broker.port, "-n", 4, "-q", 0, "-s", 2000, "-d", 3, "-t", "demo").result()
        wait_until("all is accounted for", lambda: counters.total("demo", "published") == report["sent"]
                   and identity(counters), every=0.1)
        assert sum(e for _, e in end_offsets(c.bootstrap, "demo").values()) == counters.total("demo", "stored")
        if policy == "block":
            assert counters.total("demo", "stored") == report["sent"]
