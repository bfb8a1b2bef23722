"""Reading, byte for byte: Fetch with its limits, waits and sessions, offsets, metadata by id and by page.

Client libraries hide these answers, so the requests are written by hand: Fetch 11 (names, before flexible versions)
and 13 (topic ids), ListOffsets 4, OffsetForLeaderEpoch 3, Metadata 12, DescribeTopicPartitions 0, DescribeConfigs 2."""

import select
import socket
import struct
import threading
import time

import pytest
from harness import START_SECONDS, api_versions, frame, recv_frame, request_header, wait_until

pytestmark = pytest.mark.sanitized
EMPTY_ID = bytes(16)
EARLIEST, LATEST, MAX_TIME = -2, -1, -3
LONG_MS = 10 * START_SECONDS * 1000  # whose wait is not ended earlier is not answered in time


class Out:
    def __init__(self):
        self.b = b""

    def put(self, fmt, *values):
        self.b += struct.pack(">" + fmt, *values)
        return self

    def string(self, text):
        data = text.encode()
        return self.put("h", len(data)).raw(data)

    def compact(self, text):
        data = text.encode()
        return self.uvarint(len(data) + 1).raw(data)

    def raw(self, data):
        self.b += data
        return self

    def uvarint(self, n):
        while n > 127:
            self.b += bytes([n & 127 | 128])
            n >>= 7
        self.b += bytes([n])
        return self


class In:
    def __init__(self, data):
        self.b, self.at = data, 0

    def get(self, fmt):
        values = struct.unpack_from(">" + fmt, self.b, self.at)
        self.at += struct.calcsize(">" + fmt)
        return values[0] if len(values) == 1 else values

    def raw(self, n):
        self.at += n
        assert self.at <= len(self.b)
        return self.b[self.at - n:self.at]

    def string(self):
        n = self.get("h")
        return None if n < 0 else self.raw(n).decode()

    def uvarint(self):
        n = shift = 0
        while True:
            byte = self.get("B")
            n |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return n

    def compact(self):
        n = self.uvarint()
        return None if n == 0 else self.raw(n - 1).decode()

    def tags(self):
        assert self.uvarint() == 0

    def end(self):
        assert self.at == len(self.b)


class Wire:
    """One connection. Requests of flexible versions get the empty tag section that their header ends with."""

    def __init__(self, c):
        self.s = socket.create_connection(("127.0.0.1", c.server.port), timeout=START_SECONDS)
        self.correlation = 0

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.s.close()

    def send(self, key, version, body, flexible=False):
        self.correlation += 1
        header = request_header(key, version, self.correlation) + (b"\0" if flexible else b"")
        self.s.sendall(frame(header + body))

    def recv(self, flexible=False):
        i = In(recv_frame(self.s))
        assert i.get("i") == self.correlation
        if flexible:
            i.tags()
        return i

    def call(self, key, version, body, flexible=False):
        self.send(key, version, body, flexible)
        return self.recv(flexible)


def fetch_body(parts, session=(0, -1), wait=0, least=1, most=50 << 20, forget=(), isolation=0):
    """parts: [(topic, partition, offset, partition max bytes[, leader epoch])]"""
    o = Out().put("iiiibii", -1, wait, least, most, isolation, *session).put("i", len(parts))
    for topic, partition, offset, part_max, *epoch in parts:
        o.string(topic).put("i", 1).put("iiqqi", partition, epoch[0] if epoch else -1, offset, -1, part_max)
    o.put("i", len(forget))
    for topic, partition in forget:
        o.string(topic).put("ii", 1, partition)
    return o.string("").b


def read_fetch(i):
    """(error, session id, {(topic, partition): answer}, order)"""
    throttle, error, session = i.get("ihi")
    assert throttle == 0
    answers = {}
    for _ in range(i.get("i")):
        topic = i.string()
        for _ in range(i.get("i")):
            partition, err, end, stable, start = i.get("ihqqq")
            aborted = i.get("i")
            assert aborted in (-1, 0)
            assert i.get("i") == -1
            size = i.get("i")
            assert size >= 0, "records are never null"
            answers[topic, partition] = dict(error=err, end=end, start=start, stable=stable,
                                             aborted=aborted, records=i.raw(size))
    i.end()
    return error, session, answers


def fetch(w, parts, **kw):
    return read_fetch(w.call(1, 11, fetch_body(parts, **kw)))


def batches(records):
    """[(base offset, last offset, bytes)]"""
    out = []
    while records:
        base, length = struct.unpack_from(">qi", records)
        last = struct.unpack_from(">i", records, 23)[0]
        assert records[16] == 2 and len(records) >= length + 12, "whole batches only"
        out.append((base, base + last, length + 12))
        records = records[length + 12:]
    return out


def list_offsets(w, topic, partition, when, epoch=-1):
    o = Out().put("ib", -1, 0).uvarint(2).compact(topic).uvarint(2).put("iiq", partition, epoch, when)
    i = w.call(2, 7, o.raw(b"\0\0\0").b, flexible=True)
    assert i.get("i") == 0 and i.uvarint() == 2 and i.compact() == topic and i.uvarint() == 2
    index, error, timestamp, offset, leader_epoch = i.get("ihqqi")
    assert i.raw(3) == b"\0\0\0"
    i.end()
    return error, offset, timestamp


@pytest.fixture(scope="module")
def c(module_factory):
    culex = module_factory(streams=[
        {"name": "one", "filters": ["one/#"], "partitions": 1},
        {"name": "live", "filters": ["live/#"], "partitions": 2, "key": "topic"},
        {"name": "wide", "filters": ["wide/#"], "partitions": 40},
    ])
    with culex.mqtt() as m, Wire(culex) as w:
        for k in range(20):  # batches of their own: each is stored before the next is published
            m.publish("one/x", f"{k:04d}" * 250)
            wait_until("the record is there", lambda: list_offsets(w, "one", 0, LATEST)[1] == k + 1, every=0.001)
    return culex


@pytest.fixture
def w(c):
    with Wire(c) as wire:
        yield wire


def topic_ids(w):
    i = w.call(3, 12, Out().uvarint(0).put("??", False, False).raw(b"\0").b, flexible=True)
    assert i.get("i") == 0
    for _ in range(i.uvarint() - 1):
        i.get("i"), i.compact(), i.get("i"), i.compact(), i.tags()
    i.compact(), i.get("i")
    ids = {}
    for _ in range(i.uvarint() - 1):
        error, name, id = i.get("h"), i.compact(), i.raw(16)
        assert error == 0 and not i.get("?")
        for _ in range(i.uvarint() - 1):
            i.get("hiii")
            for _ in range(3):
                i.raw(4 * (i.uvarint() - 1))
            i.tags()
        assert i.get("i") == -2 ** 31
        i.tags()
        ids[name] = id
    return ids


# --- Fetch: bytes -----------------------------------------------------------------------------------


def test_fetch_returns_whole_batches_from_the_one_that_holds_the_offset(w):
    _, _, all_of_it = fetch(w, [("one", 0, 0, 1 << 20)])
    whole = batches(all_of_it["one", 0]["records"])
    assert whole[0][0] == 0 and whole[-1][1] == 19
    assert all(a[1] + 1 == b[0] for a, b in zip(whole, whole[1:])), "dense"
    for offset in range(20):
        got = fetch(w, [("one", 0, offset, 1 << 20)])[2]["one", 0]
        first = batches(got["records"])[0]
        assert first[0] <= offset <= first[1]
        assert (got["error"], got["end"], got["stable"], got["start"]) == (0, 20, 20, 0)


def test_first_batch_passes_the_limits_and_only_the_first(w):
    got = fetch(w, [("one", 0, 0, 1), ("live", 0, 0, 1)], most=1)[2]
    assert len(batches(got["one", 0]["records"])) == 1
    assert got["live", 0]["records"] == b""


def test_limit_of_a_partition_cuts_between_batches(w):
    whole = batches(fetch(w, [("one", 0, 0, 1 << 20)])[2]["one", 0]["records"])
    limit = whole[0][2] + whole[1][2] + 5
    got = batches(fetch(w, [("one", 0, 0, limit)])[2]["one", 0]["records"])
    assert got == whole[:2]


def test_fetch_errors_are_per_partition(w):
    error, _, got = fetch(w, [("one", 0, 21, 100), ("one", 7, 0, 100), ("nope", 0, 0, 100)])
    assert error == 0
    assert {k: v["error"] for k, v in got.items()} == {("one", 0): 1, ("one", 7): 3, ("nope", 0): 3}
    assert got["one", 0]["end"] == -1 and got["one", 0]["start"] == -1
    assert fetch(w, [("one", 0, 0, 100, 99)])[2]["one", 0]["error"] == 75
    assert fetch(w, [("one", 0, -1, 100)])[2]["one", 0]["error"] == 1


def test_read_committed_has_an_empty_list_of_aborted_transactions(w):
    assert fetch(w, [("one", 0, 0, 100)], isolation=0)[2]["one", 0]["aborted"] == -1
    assert fetch(w, [("one", 0, 0, 100)], isolation=1)[2]["one", 0]["aborted"] == 0


# --- Fetch: waiting ---------------------------------------------------------------------------------


def test_fetch_at_the_end_waits_its_time_and_answers_empty(w):
    start = time.monotonic()
    got = fetch(w, [("one", 0, 20, 1 << 20)], wait=300)[2]["one", 0]
    assert time.monotonic() - start > 0.25
    assert (got["error"], got["records"], got["end"]) == (0, b"", 20)
    fetch(w, [("one", 0, 20, 1 << 20)], wait=0)


def test_waiting_fetch_wakes_on_a_publish_to_any_of_its_partitions(c, w):
    ends = [list_offsets(w, "live", p, LATEST)[1] for p in range(2)]
    w.send(1, 11, fetch_body([("live", p, ends[p], 1 << 20) for p in range(2)], wait=LONG_MS))
    # The server's one loop takes what has come before it answers what comes later: the fetch is parked.
    assert api_versions(c.server.port) is not None
    c.publish("live/x", ["hello"])
    _, _, got = read_fetch(w.recv())
    assert sum(len(a["records"]) > 0 for a in got.values()) == 1


def test_min_bytes_gathers_several_publishes(c, w):
    ends = [list_offsets(w, "live", p, LATEST)[1] for p in range(2)]
    w.send(1, 11, fetch_body([("live", p, ends[p], 1 << 20) for p in range(2)], wait=LONG_MS, least=3000))
    c.publish("live/x", ["a" * 500])
    w.s.settimeout(0.3)
    with pytest.raises(socket.timeout):
        w.s.recv(1)
    w.s.settimeout(START_SECONDS)
    c.publish("live/x", [str(k) * 500 for k in range(6)])
    _, _, got = read_fetch(w.recv())
    parts = [batches(a["records"]) for a in got.values() if a["records"]]
    assert sum(b[2] for p in parts for b in p) >= 3000
    assert parts[0][0][0] in ends, "from where it was asked, the first publish included"
    wait_until("the last one is there", lambda: sum(list_offsets(w, "live", p, LATEST)[1] for p in range(2)) == sum(ends) + 7)


def test_error_ends_a_wait_at_once(w):
    got = fetch(w, [("one", 0, 20, 100), ("live", 0, 1 << 40, 100)], wait=LONG_MS)[2]
    assert got["live", 0]["error"] == 1
    got = fetch(w, [("nope", 0, 0, 100)], wait=LONG_MS)[2]
    assert got["nope", 0]["error"] == 3


def test_unknown_topic_does_not_end_the_wait_for_others(w):
    """As in Kafka; else a consumer that has lost one of its topics would ask again without a pause."""
    start = time.monotonic()
    got = fetch(w, [("one", 0, 20, 100), ("nope", 0, 0, 100)], wait=700)[2]
    assert time.monotonic() - start > 0.6
    assert got["nope", 0]["error"] == 3 and got["one", 0]["error"] == 0


def test_parked_fetch_holds_up_only_its_own_connection(c, w):
    ends = [list_offsets(w, "live", p, LATEST)[1] for p in range(2)]
    w.send(1, 11, fetch_body([("live", p, ends[p], 100) for p in range(2)], wait=LONG_MS))
    w.send(18, 0, b"")
    with Wire(c) as other:
        other.call(18, 0, b"")
    assert select.select([w.s], [], [], 0)[0] == []
    c.publish("live/x", ["goes on"])
    first, second = (In(recv_frame(w.s)).get("i") for _ in range(2))
    assert second == first + 1


def test_many_waiting_fetches_all_wake(c):
    wires = [Wire(c) for _ in range(50)]
    with wires[0] as w:
        end = list_offsets(w, "live", 0, LATEST)[1], list_offsets(w, "live", 1, LATEST)[1]
        for x in wires:
            x.send(1, 11, fetch_body([("live", p, end[p], 1 << 20) for p in range(2)], wait=LONG_MS))
        c.publish("live/y", ["x"])
        for x in wires:
            assert any(a["records"] for a in read_fetch(x.recv())[2].values())
            x.s.close()


def test_clients_that_leave_while_they_wait_harm_nobody(c):
    for k in range(100):
        with Wire(c) as x:
            x.send(1, 11, fetch_body([("live", 0, 1 << 40, 1), ("one", 0, 20, 100)] if k % 2 else
                                     [("one", 0, 20, 100)], wait=30000))
    with Wire(c) as x:
        assert fetch(x, [("one", 0, 0, 1)])[2]["one", 0]["error"] == 0


# --- Fetch: sessions --------------------------------------------------------------------------------


def test_session_names_only_what_has_changed(c, w):
    end = {p: list_offsets(w, "live", p, LATEST)[1] for p in range(2)}
    error, session, got = fetch(w, [("live", p, end[p], 1 << 20) for p in range(2)], session=(0, 0))
    assert error == 0 and session != 0 and len(got) == 2
    assert fetch(w, [], session=(session, 1)) == (0, session, {})
    c.publish("live/x", ["again"])
    error, _, got = fetch(w, [], session=(session, 2), wait=LONG_MS)
    assert error == 0 and len(got) == 1
    (topic, partition), answer = next(iter(got.items()))
    assert answer["end"] == end[partition] + 1 and batches(answer["records"])[0][0] == end[partition]
    error, _, got = fetch(w, [(topic, partition, end[partition] + 1, 1 << 20)], session=(session, 3))
    assert (error, got) == (0, {})
    error, _, got = fetch(w, [("one", 0, 20, 100)], session=(session, 4))
    assert error == 0 and list(got) == [("one", 0)], "a partition that is new is named once"
    assert fetch(w, [], session=(session, 5), forget=[("one", 0)])[2] == {}


def test_session_epochs_are_checked(w):
    session = fetch(w, [("one", 0, 20, 100)], session=(0, 0))[1]
    assert fetch(w, [], session=(session, 7))[0] == 71
    assert fetch(w, [], session=(session ^ 1, 1))[0] == 70
    assert fetch(w, [], session=(session, 1))[0] == 0
    assert fetch(w, [("one", 0, 20, 100)], session=(session, -1))[:2] == (0, 0)
    assert fetch(w, [], session=(session, 2))[0] == 70, "closed by the request before"


def test_fetch_without_a_session_gets_none(w):
    assert fetch(w, [("one", 0, 0, 100)], session=(0, -1))[1] == 0


def fetch_13(w, id, offset, session=(0, -1)):
    o = Out().put("iiib", 0, 1, 1 << 20, 0).put("ii", *session).uvarint(2).raw(id).uvarint(2)
    o.put("iiqiqi", 0, -1, offset, -1, -1, 1 << 20).raw(b"\0\0").uvarint(1).uvarint(1).raw(b"\0")
    i = w.call(1, 13, struct.pack(">i", -1) + o.b, flexible=True)
    throttle, error, got_session = i.get("ihi")
    if error:
        return error, None, None
    assert i.uvarint() == 2 and i.raw(16) == id and i.uvarint() == 2
    index, err, end = i.get("ihq")
    return err, end, got_session


def test_fetch_by_id_knows_its_topic_and_no_other(w):
    ids = topic_ids(w)
    assert len(set(ids.values())) == 3 and EMPTY_ID not in ids.values()
    assert fetch_13(w, ids["one"], 0)[:2] == (0, 20)
    assert fetch_13(w, b"\x01" * 16, 0)[0] == 100
    session = fetch(w, [("one", 0, 20, 100)], session=(0, 0))[1]
    assert fetch_13(w, ids["one"], 0, session=(session, 1))[0] == 106, "a session of names"


# --- offsets, epochs --------------------------------------------------------------------------------


def test_list_offsets_knows_ends_and_times(w):
    assert list_offsets(w, "one", 0, EARLIEST) == (0, 0, -1)
    assert list_offsets(w, "one", 0, LATEST) == (0, 20, -1)
    assert list_offsets(w, "one", 0, 0)[:2] == (0, 0)
    assert list_offsets(w, "one", 0, 1 << 50) == (0, -1, -1)
    error, offset, newest = list_offsets(w, "one", 0, MAX_TIME)
    assert error == 0 and 0 <= offset < 20 and abs(newest - time.time() * 1000) < 3600000
    assert list_offsets(w, "one", 0, newest) == (0, offset, newest)
    assert list_offsets(w, "one", 0, newest + 1) == (0, -1, -1)
    assert list_offsets(w, "one", 1, LATEST)[0] == 3
    assert list_offsets(w, "nope", 0, LATEST)[0] == 3
    assert list_offsets(w, "one", 0, LATEST, epoch=1 << 20)[0] == 75
    assert list_offsets(w, "wide", 3, MAX_TIME)[:2] == (0, -1), "an empty partition has no greatest time"


def test_end_of_the_current_epoch_is_the_end_of_the_log(w):
    i = w.call(3, 7, Out().put("i", 1).string("one").put("?", False).b)
    i.get("i"), i.get("i")
    i.get("i"), i.string(), i.get("i"), i.string(), i.string(), i.get("i")
    assert i.get("i") == 1 and i.get("h") == 0 and i.string() == "one" and not i.get("?")
    assert i.get("i") == 1
    error, index, leader, epoch = i.get("hiii")
    assert error == 0 and index == 0 and epoch >= 0
    for asked, want in ((epoch, (0, epoch, 20)), (epoch + 1, (0, -1, -1))):
        body = Out().put("ii", -2, 1).string("one").put("iiii", 1, 0, -1, asked).b
        i = w.call(23, 3, body)
        assert i.get("i") == 0 and i.get("i") == 1 and i.string() == "one" and i.get("i") == 1
        err, partition, got_epoch, end = i.get("hiiq")
        i.end()
        assert (err, got_epoch, end) == want


# --- metadata ---------------------------------------------------------------------------------------


def describe_page(w, topics=(), limit=2000, cursor=None):
    o = Out().uvarint(len(topics) + 1)
    for t in topics:
        o.compact(t).raw(b"\0")
    o.put("i", limit)
    if cursor is None:
        o.put("b", -1)
    else:
        o.put("b", 1).compact(cursor[0]).put("i", cursor[1]).raw(b"\0")
    i = w.call(75, 0, o.raw(b"\0").b, flexible=True)
    assert i.get("i") == 0
    found = []
    for _ in range(i.uvarint() - 1):
        error, name, _id, _internal = i.get("h"), i.compact(), i.raw(16), i.get("?")
        partitions = []
        for _ in range(i.uvarint() - 1):
            partitions.append(i.get("hiii")[1])
            for _ in range(5):
                i.raw(4 * max(0, i.uvarint() - 1))
            i.tags()
        i.get("i"), i.tags()
        found.append((name, error, partitions))
    nxt = None
    if i.get("b") == 1:
        nxt = (i.compact(), i.get("i"))
        i.tags()
    i.tags()
    i.end()
    return found, nxt


def test_topics_are_described_in_pages_without_gap_or_repeat(w):
    pages, cursor = [], None
    for _ in range(20):
        found, cursor = describe_page(w, limit=7, cursor=cursor)
        assert sum(len(p) for _, _, p in found) <= 7
        pages += [(name, p) for name, error, parts in found for p in parts]
        if cursor is None:
            break
    assert pages == [("live", 0), ("live", 1), ("one", 0)] + [("wide", p) for p in range(40)]


def test_unknown_and_bad_names_are_told_apart_when_described(w):
    found, cursor = describe_page(w, topics=["wide", "a b", "nope", "one", "one"])
    assert [(n, e, len(p)) for n, e, p in found] == [("a b", 17, 0), ("nope", 3, 0), ("one", 0, 1), ("wide", 0, 40)]
    assert cursor is None


def test_configs_of_a_topic_name_everything_that_tools_look_for(w):
    o = Out().put("i", 1).put("b", 2).string("one").put("i", -1).put("?", True)
    i = w.call(32, 2, o.b)
    assert i.get("i") == 0 and i.get("i") == 1
    assert i.get("h") == 0
    i.string(), i.get("b"), i.string()
    values = {}
    for _ in range(i.get("i")):
        name, value, read_only, source, sensitive = i.string(), i.string(), i.get("?"), i.get("b"), i.get("?")
        synonyms = [(i.string(), i.string(), i.get("b")) for _ in range(i.get("i"))]
        assert read_only and not sensitive
        # A default has the broker's name for it, where Kafka has one; else it is of the topic itself.
        assert (not synonyms and source == 5) or synonyms[0][1:] == (value, source)
        assert source == 5 or synonyms[0][0] == (name if source == 1 else "message.max.bytes")
        values[name] = value
    i.end()
    assert values["cleanup.policy"] == "delete"
    assert {"retention.ms", "retention.bytes", "min.compaction.lag.ms", "max.message.bytes", "segment.bytes",
            "min.insync.replicas", "compression.type"} <= set(values)
    int(values["retention.ms"]), int(values["retention.bytes"])


# --- load -------------------------------------------------------------------------------------------


def test_readers_of_history_and_of_now_do_not_disturb_each_other(c):
    """Several connections read everything again and again while others wait and connections come and go."""
    stop = threading.Event()
    failures = []

    def read_on():
        try:
            with Wire(c) as w:
                while not stop.is_set():
                    got = fetch(w, [("one", 0, 0, 1 << 20)])[2]["one", 0]
                    assert batches(got["records"])[-1][1] == 19
        except Exception as e:
            failures.append(e)

    readers = [threading.Thread(target=read_on) for _ in range(4)]
    for t in readers:
        t.start()
    try:
        with Wire(c) as w:
            for k in range(30):
                end = list_offsets(w, "live", 0, LATEST)[1], list_offsets(w, "live", 1, LATEST)[1]
                w.send(1, 11, fetch_body([("live", p, end[p], 1 << 20) for p in range(2)], wait=LONG_MS))
                c.publish("live/z", [str(k)])
                assert any(a["records"] for a in read_fetch(w.recv())[2].values())
    finally:
        stop.set()
        for t in readers:
            t.join()
    assert not failures


# --- start ------------------------------------------------------------------------------------------


def test_first_answer_after_a_start_names_the_streams(c):
    """A client that is told too early that its topic does not exist gives up."""
    for _ in range(5):
        c.server.kill9()
        c.server.start(wait=False)

        def connected():
            try:
                return Wire(c)
            except OSError:
                return None
        with wait_until("the port answers", connected, every=0.0005) as w:
            assert set(topic_ids(w)) == {"one", "live", "wide"}
