"""Clients that speak something else, or nothing: their connection is closed with one line, and nobody else notices."""

import os
import random
import re
import socket
import struct

import pytest
from harness import api_versions, frame, read_all, recv_frame, request_header, wait_until
from wire import APIS, ask, sample

pytestmark = pytest.mark.sanitized
SEED = int(os.environ.get("SEED", "20251121"))


@pytest.fixture(scope="module")
def c(module_factory):
    culex = module_factory()
    culex.publish("demo/x", [str(i) for i in range(100)])
    assert len(read_all(culex.bootstrap, "demo", 100)) == 100
    return culex


@pytest.fixture(autouse=True)
def still_serves(c):
    yield
    assert c.server.running(), c.server.log()
    assert len(read_all(c.bootstrap, "demo", 100)) == 100


def connect(c, timeout=60):
    s = socket.create_connection(("127.0.0.1", c.server.port), timeout=timeout)
    return s


def assert_closed(s):
    """The peer closes, without an answer that could be taken for Kafka's."""
    try:
        while s.recv(65536):
            pass
    except ConnectionResetError:
        pass


def log_lines_of(c, data, pattern):
    """The lines that the server writes about one connection that says `data`. Complaints of a kind are limited to some
    a second, so a connection right after another of its kind may leave none: then the next one tells."""
    def told():
        before = len(c.server.log().splitlines())
        with connect(c) as s:
            s.sendall(data)
            assert_closed(s)
        return [x for x in c.server.log().splitlines()[before:] if re.search(pattern, x)]
    return wait_until(f"a line that matches {pattern}", told, every=0.3)


FOREIGN = [
    ("http", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", r"(?i)http"),
    ("http post", b"POST /topics/x HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", r"(?i)http"),
    ("tls", bytes.fromhex("16030100c8010000c40303") + bytes(200), r"(?i)tls"),
    ("negative length", struct.pack(">i", -5) + b"xxxxx", r"(?i)negative|length|-5"),
    ("oversize length", struct.pack(">i", 0x7fffffff) + b"xxxxx", r"(?i)large|size|length|2147483647"),
    ("zero length", struct.pack(">i", 0), r"(?i)short|length|empty|header"),
    ("mqtt", bytes.fromhex("101000044d5154540402003c000474657374"), r"(?i)mqtt|length|large"),
]


@pytest.mark.parametrize("data,pattern", [f[1:] for f in FOREIGN], ids=[f[0] for f in FOREIGN])
def test_foreign_speech_is_closed_with_one_line_that_names_it(c, data, pattern):
    assert len(log_lines_of(c, data, pattern)) == 1


def test_unknown_api_is_closed_with_one_line(c):
    assert len(log_lines_of(c, frame(request_header(999, 0)), "999")) == 1


def test_unknown_version_is_closed_with_one_line(c):
    assert len(log_lines_of(c, frame(request_header(3, 99) + bytes(20)), "version 99")) == 1


def test_api_versions_of_the_future_is_answered_in_version_0(c):
    body = api_versions(c.server.port, version=99)
    error, count = struct.unpack(">hi", body[:6])
    assert error == 35
    keys = [struct.unpack(">hhh", body[6 + 6 * i:12 + 6 * i]) for i in range(count)]
    assert 18 in [k for k, _, _ in keys]
    assert len(body) == 6 + 6 * count


def test_api_versions_answers_every_version(c):
    for version in range(0, 5):
        body = api_versions(c.server.port, version) if version < 3 else None
        if body is not None:
            assert struct.unpack(">h", body[:2]) == (0,)


def test_frames_byte_by_byte(c):
    data = frame(request_header(18, 0, correlation=77))
    with connect(c) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(len(data)):
            s.sendall(data[i:i + 1])
        assert struct.unpack(">i", recv_frame(s)[:4]) == (77,)


def test_pipelined_requests_are_answered_in_order(c):
    with connect(c) as s:
        s.sendall(b"".join(frame(request_header(18, 0, correlation=i)) for i in range(200)))
        assert [struct.unpack(">i", recv_frame(s)[:4])[0] for _ in range(200)] == list(range(200))


def test_half_open_and_silent_connections_harm_nobody(c):
    idle = [connect(c) for _ in range(100)]
    half = [connect(c) for _ in range(50)]
    try:
        for s in half:
            s.sendall(struct.pack(">i", 1000) + b"only a beginning")
            s.shutdown(socket.SHUT_WR)
        for s in half:
            assert_closed(s)
        assert api_versions(c.server.port) is not None
    finally:
        for s in idle + half:
            s.close()


def test_reader_that_never_reads_its_answers_does_not_fill_memory(c):
    """Requests are pipelined without end; the server stops reading them instead of piling up answers."""
    before = c.server.memory_kb()
    request = frame(request_header(18, 0)) * 1000
    with connect(c, timeout=60) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.settimeout(1)
        sent = 0
        try:
            while sent < 200 << 20:
                sent += s.send(request)
        except (TimeoutError, ConnectionError):
            pass
        assert c.server.memory_kb() - before < 64 << 10
        assert api_versions(c.server.port) is not None


def samples():
    """A request of each API that the schema has, in its first, its first flexible and its last version."""
    return [sample(a.name, v) for a in APIS.values()
            for v in sorted({a.span[0], min(a.flexible, a.span[1]), a.span[1]})]


def valid_requests():
    """Bodies of real requests, to be spoiled."""
    topic = struct.pack(">h", 4) + b"demo"
    group = struct.pack(">h", 1) + b"g"
    return [
        request_header(18, 0),
        request_header(3, 1) + struct.pack(">i", 1) + topic,
        request_header(3, 1) + struct.pack(">i", -1),
        request_header(1, 4) + struct.pack(">iiiibi", -1, 100, 1, 1 << 20, 0, 1) + topic + struct.pack(
            ">iiqi", 1, 0, 0, 1 << 20),
        request_header(2, 1) + struct.pack(">ii", -1, 1) + topic + struct.pack(">iiq", 1, 0, -1),
        request_header(10, 0) + group,
        request_header(11, 0) + group + struct.pack(">ih", 10000, 0) + struct.pack(">h", 8) + b"consumer" +
        struct.pack(">i", 1) + struct.pack(">h", 5) + b"range" + struct.pack(">i", 0),
        request_header(9, 1) + group + struct.pack(">i", 1) + topic + struct.pack(">ii", 1, 0),
        request_header(8, 2) + group + struct.pack(">ih", -1, 0) + struct.pack(">q", -1) + struct.pack(">i", 1) +
        topic + struct.pack(">iiq", 1, 0, 5) + struct.pack(">h", 0),
    ]


def exchange(s, body):
    """Sends one frame; True when the connection lives on (answered), False when it was closed."""
    try:
        s.sendall(frame(body))
        recv_frame(s)
        return True
    except (ConnectionError, BrokenPipeError):
        return False


def test_samples_are_answered(c):
    """So that what is spoiled below was sound."""
    served = {k["ApiKey"]: k["MaxVersion"] for k in ask(c.server.port, "ApiVersions", 0)["ApiKeys"]}
    closed = []
    for body in samples():
        key, version = struct.unpack(">hh", body[:4])
        with connect(c) as s:
            if version <= served.get(key, -1) and not exchange(s, body):
                closed.append((key, version))
    assert not closed


def test_valid_requests_cut_at_every_byte(c):
    s = connect(c)
    for body in valid_requests() + samples():
        for cut in range(len(body)):
            if not exchange(s, body[:cut]):
                s.close()
                s = connect(c)
    s.close()


def test_ten_thousand_random_frames(c):
    """Half are noise behind a true header, half are true requests with bytes spoiled."""
    rng = random.Random(SEED)
    real = valid_requests() + samples()
    s = connect(c)
    for n in range(10000):
        if n % 2:
            api = rng.choice(list(APIS.values()))
            body = request_header(api.key, rng.randrange(api.span[0], api.span[1] + 2)) + rng.randbytes(
                rng.randrange(0, 200))
        else:
            spoiled = bytearray(rng.choice(real))
            for _ in range(rng.randrange(1, 4)):
                spoiled[rng.randrange(8, len(spoiled))] = rng.choice([0, 1, 0x7f, 0x80, 0xff, rng.randrange(256)])
            body = bytes(spoiled)
        s.settimeout(0.05 if n % 100 else 2)
        try:
            alive = exchange(s, body)
        except TimeoutError:  # parked: a fetch or a join that waits is a proper answer too
            alive = False
        if not alive:
            s.close()
            s = connect(c)
    s.close()
    assert api_versions(c.server.port) is not None


def test_connection_limit_is_kept_and_told(culex_factory):
    c = culex_factory(server={"max.connections": 20})
    open_ = []
    try:
        for _ in range(40):
            open_.append(connect(c))
        wait_until("it says that the limit is reached",
                   lambda: re.search(r"max\.connections|connections", c.server.log()[-4000:]))
        for s in open_:
            s.close()
        wait_until("it serves again", lambda: api_versions(c.server.port) is not None)
    finally:
        for s in open_:
            s.close()
