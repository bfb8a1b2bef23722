"""What waits is answered when there is something, not when somebody looks next. Measured beside requests that wait for nothing,
each time anew and in the middle of many, so that a slow or busy machine makes both slower."""

import time
from statistics import median

import pytest
from harness import api_versions
from test_produce import batch, produce
from test_protocol import LATEST, LONG_MS, Wire, fetch, fetch_body, list_offsets, read_fetch
from wire import Wire as Named

TIMES = 30
MORE_SECONDS = 0.1  # what a turn of the processors may cost: who looks a few times a second is later than that
TIMES_SLOWER = 20


def timed(fn):
    began = time.monotonic()
    fn()
    return time.monotonic() - began


def check(woken, usual):
    limit = MORE_SECONDS + TIMES_SLOWER * median(usual)
    assert median(woken) < limit, f"{median(woken)} s, others {median(usual)}: {sorted(woken)}"


@pytest.fixture(scope="module")
def c(module_factory):
    return module_factory(streams=[{"name": "live", "filters": ["live/#"], "partitions": 1}])


def parked(c, w, topic, at):
    """A fetch that waits at the end, heard before this returns."""
    w.send(1, 11, fetch_body([(topic, 0, at, 1 << 20)], wait=LONG_MS))
    assert api_versions(c.server.port) is not None


def test_a_reader_of_a_captured_stream_hears_of_a_publish(c):
    woken, usual = [], []
    with c.mqtt() as m, Wire(c) as w:
        at = list_offsets(w, "live", 0, LATEST)[1]
        for i in range(TIMES):
            usual.append(timed(lambda: m.publish("elsewhere", b"x")) + timed(lambda: w.call(18, 0, b"")))
            parked(c, w, "live", at + i)
            began = time.monotonic()
            m.client.publish("live/x", str(i), 1)
            got = read_fetch(w.recv())[2]["live", 0]
            woken.append(time.monotonic() - began)
            assert got["records"] and got["end"] == at + i + 1
    check(woken, usual)


def test_a_reader_of_what_clients_write_hears_of_a_record(c):
    woken, usual = [], []
    with Named(c.server.port) as n, Wire(c) as w:
        n.call("CreateTopics", 5, timeoutMs=10000, Topics=[{"Name": "free", "NumPartitions": 1, "ReplicationFactor": 1}])
        for i in range(TIMES):
            usual.append(timed(lambda: produce(n, {"free": {0: batch([b"x"])}})))
            parked(c, w, "free", 2 * i + 1)
            began = time.monotonic()
            produce(n, {"free": {0: batch([b"y"])}})
            got = read_fetch(w.recv())[2]["free", 0]
            woken.append(time.monotonic() - began)
            assert got["records"] and got["end"] == 2 * i + 2
    check(woken, usual)


def test_who_does_not_want_to_wait_does_not(c):
    woken, usual = [], []
    with Wire(c) as w:
        end = list_offsets(w, "live", 0, LATEST)[1]
        for _ in range(TIMES):
            usual.append(timed(lambda: w.call(18, 0, b"")))
            woken.append(timed(lambda: fetch(w, [("live", 0, end, 1 << 20)], wait=0)))
    check(woken, usual)
