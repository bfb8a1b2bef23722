"""Groups at the level of requests, where client libraries hide what happens: what a killed server remembers, what becomes of
parked requests, and many members at once."""

import os
import signal
import socket
import struct
import threading
import time

import pytest
from harness import START_SECONDS, frame, recv_frame, request_header, wait_until

JOIN, HEARTBEAT, LEAVE, SYNC, COMMIT, FETCH = 11, 12, 13, 14, 8, 9
MEMBER_ID_REQUIRED, REBALANCE, NOT_AVAILABLE, UNKNOWN_MEMBER, ILLEGAL_GENERATION, FENCED = 79, 27, 15, 25, 22, 82


def string(text):
    data = text.encode()
    return struct.pack(">h", len(data)) + data


def nullable(text):
    return struct.pack(">h", -1) if text is None else string(text)


def data(b):
    return struct.pack(">i", len(b)) + b


class Reader:
    def __init__(self, body):
        self.b, self.at = body, 0

    def get(self, fmt):
        got = struct.unpack_from(">" + fmt, self.b, self.at)
        self.at += struct.calcsize(">" + fmt)
        return got[0] if len(got) == 1 else got

    def bytes(self, n):
        self.at += n
        return self.b[self.at - n:self.at]

    def string(self):
        n = self.get("h")
        return None if n < 0 else self.bytes(n).decode()


class Member:
    """One member on a connection of its own; versions before flexible ones, so that frames are easy to write."""

    def __init__(self, culex, group="g", instance=None, session_ms=60000):
        self.culex, self.group, self.instance, self.session_ms = culex, group, instance, session_ms
        self.id, self.generation, self.leads, self.members, self.assignment = "", -1, False, [], b""
        self.sock = None

    def connect(self):
        self.close()
        self.sock = socket.create_connection(("127.0.0.1", self.culex.server.port), timeout=START_SECONDS)
        return self

    def close(self):
        if self.sock:
            self.sock.close()
            self.sock = None

    def send(self, key, version, body):
        if self.sock is None:
            self.connect()
        self.sock.sendall(frame(request_header(key, version) + body))

    def receive(self):
        return Reader(recv_frame(self.sock)[4:])

    def ask(self, key, version, body):
        self.send(key, version, body)
        return self.receive()

    def send_join(self):
        self.send(JOIN, 5, string(self.group) + struct.pack(">ii", self.session_ms, 60000) + string(self.id) +
                  nullable(self.instance) + string("consumer") + struct.pack(">i", 1) + string("range") +
                  data(b"\0\0\0\0\0\1\0\4demo\0\0\0\0"))

    def receive_join(self):
        r = self.receive()
        _, error, generation = r.get("ihi")
        r.string()
        leader, me = r.string(), r.string()
        if error == 0:
            self.generation, self.leads = generation, leader == me
            self.members = []
            for _ in range(r.get("i")):
                self.members.append(r.string())
                r.string()
                r.bytes(r.get("i"))
        if error in (0, MEMBER_ID_REQUIRED):
            self.id = me
        return error

    def join(self):
        self.send_join()
        error = self.receive_join()
        if error == MEMBER_ID_REQUIRED:
            self.send_join()
            error = self.receive_join()
        return error

    def sync(self):
        work = [string(m) + data(f"work of {m}".encode()) for m in self.members if self.leads]
        r = self.ask(SYNC, 3, string(self.group) + struct.pack(">i", self.generation) + string(self.id) +
                     nullable(self.instance) + struct.pack(">i", len(work)) + b"".join(work))
        _, error = r.get("ih")
        self.assignment = r.bytes(r.get("i"))
        return error

    def send_heartbeat(self):
        self.send(HEARTBEAT, 3, string(self.group) + struct.pack(">i", self.generation) + string(self.id) +
                  nullable(self.instance))

    def heartbeat(self):
        self.send_heartbeat()
        return self.receive().get("ih")[1]

    def commit(self, partition, offset, note=""):
        r = self.ask(COMMIT, 7, string(self.group) + struct.pack(">i", self.generation) + string(self.id) +
                     nullable(self.instance) + struct.pack(">i", 1) + string("demo") +
                     struct.pack(">iiqi", 1, partition, offset, -1) + string(note))
        return r.b[-2:][0] * 256 + r.b[-1]

    def fetch(self, partition):
        r = self.ask(FETCH, 5, string(self.group) + struct.pack(">i", 1) + string("demo") +
                     struct.pack(">ii", 1, partition))
        r.get("ii")
        r.string()
        _, _, offset, _ = r.get("iiqi")
        return offset, r.string()

    def leave(self):
        return self.ask(LEAVE, 1, string(self.group) + string(self.id)).get("ih")[1]


def restart(culex):
    culex.server.kill9()
    culex.server.start()
    culex.wait_topics()


@pytest.fixture
def member(culex):
    made = []

    def make(**kw):
        made.append(Member(culex, **kw))
        return made[-1]
    make.culex = culex
    yield make
    for m in made:
        m.close()


def test_stable_group_goes_on_over_a_killed_server(member):
    a, b = member(instance="a"), member(instance="b")
    assert a.join() == 0 and a.sync() == 0
    b.send_join()
    assert wait_until("a hears of the rebalance", lambda: a.heartbeat() == REBALANCE)
    assert a.join() == 0 and b.receive_join() == 0
    assert a.sync() == 0 and b.sync() == 0
    assert b.assignment == f"work of {b.id}".encode()
    assert b.commit(3, 42, "a note") == 0
    restart(member.culex)
    for m in (a, b):
        m.connect()
        assert m.heartbeat() == 0
        assert m.sync() == 0 and m.assignment == f"work of {m.id}".encode()
    assert b.fetch(3) == (42, "a note")
    assert b.commit(3, 43) == 0
    b.generation -= 1
    assert b.commit(3, 7) == ILLEGAL_GENERATION and b.heartbeat() == ILLEGAL_GENERATION
    assert a.fetch(3) == (43, "")


def test_restarted_static_member_is_known_after_a_kill_and_its_former_self_is_fenced(member):
    a = member(instance="a")
    assert a.join() == 0 and a.sync() == 0
    again = member(instance="a")
    assert again.join() == 0 and again.generation == a.generation and again.id != a.id
    restart(member.culex)
    a.connect()
    again.connect()
    assert again.heartbeat() == 0
    assert a.heartbeat() == FENCED and a.commit(0, 1) == FENCED


def test_generation_that_was_told_is_remembered_before_it_is_assigned(member):
    a = member()
    assert a.join() == 0
    restart(member.culex)
    a.connect()
    assert a.sync() == 0 and a.assignment == f"work of {a.id}".encode()


def test_commits_of_a_killed_server_are_all_there(member):
    for life in range(5):
        written = {}
        stop = threading.Event()

        def commit(i):
            m = member(group=f"simple{i}")
            try:
                for n in range(1, 100000):
                    if stop.is_set() or m.commit(i % 16, life * 1000000 + n, f"{life} {n}") != 0:
                        return
                    written[i] = (life * 1000000 + n, f"{life} {n}")
            except OSError:
                return
        threads = [threading.Thread(target=commit, args=(i,)) for i in range(8)]
        for t in threads:
            t.start()
        wait_until("many commits are answered", lambda: sum(v[0] % 1000000 for v in written.values()) > 2000)
        member.culex.server.kill9()
        stop.set()
        for t in threads:
            t.join()
        member.culex.server.start()
        member.culex.wait_topics()
        for i, (offset, note) in written.items():
            got, text = member(group=f"simple{i}").fetch(i % 16)
            assert got == offset and text == note or got == offset + 1, (life, i)


def test_parked_join_is_answered_when_the_server_stops(member):
    a, b = member(), member()
    assert a.join() == 0 and a.sync() == 0
    b.send_join()
    assert b.receive_join() == MEMBER_ID_REQUIRED
    b.send_join()
    wait_until("b waits for a", lambda: a.heartbeat() == REBALANCE)
    begin = time.monotonic()
    member.culex.server.stop()
    assert b.receive_join() == NOT_AVAILABLE
    assert time.monotonic() - begin < 50  # and not the rebalance timeout


def test_member_whose_connection_broke_in_a_join_asks_again(member):
    a, b = member(), member()
    assert a.join() == 0 and a.sync() == 0
    b.send_join()
    assert b.receive_join() == MEMBER_ID_REQUIRED
    b.send_join()
    wait_until("b waits for a", lambda: a.heartbeat() == REBALANCE)
    b.connect()
    b.send_join()
    assert a.join() == 0
    assert b.receive_join() == 0 and b.generation == a.generation
    assert len(a.members or b.members) == 2


def test_silent_member_is_dropped_after_its_session_and_others_go_on(member):
    a, b = member(), member(session_ms=6000)
    assert a.join() == 0 and a.sync() == 0
    b.send_join()
    assert b.receive_join() == MEMBER_ID_REQUIRED
    b.send_join()
    wait_until("b waits for a", lambda: a.heartbeat() == REBALANCE)
    assert a.join() == 0 and b.receive_join() == 0 and a.sync() == 0
    begin = time.monotonic()
    assert b.sync() == 0
    b.close()  # a lost connection is no farewell: the session has to run out
    wait_until("a hears of the rebalance", lambda: a.heartbeat() == REBALANCE, every=0.1)
    assert time.monotonic() - begin > 5.9
    assert a.join() == 0 and a.members == [a.id]
    assert b.heartbeat() == UNKNOWN_MEMBER


@pytest.fixture
def short_lived(culex_factory):
    """As `member`, with short sessions, which are long enough for a test that is held up itself."""
    culex = culex_factory(server={"group.min.session.timeout.ms": 1000})
    m = Member(culex, session_ms=3000)
    yield m
    m.close()


SESSION_AND_MORE = 3.7  # seconds: so late is what the server takes for having been held up


def test_members_outlive_a_server_that_was_stopped_for_longer_than_their_session(short_lived):
    m, server = short_lived, short_lived.culex.server
    assert m.join() == 0 and m.sync() == 0
    server.signal(signal.SIGSTOP)
    m.send_heartbeat()
    time.sleep(SESSION_AND_MORE)  # what is tested is that this time does not count
    server.signal(signal.SIGCONT)
    assert m.receive().get("ih")[1] == 0
    assert m.heartbeat() == 0


def test_members_outlive_a_server_that_takes_longer_than_their_session_to_open_the_streams(short_lived):
    """Requests are held meanwhile: who waits there with a sign of life is not dead."""
    m, culex = short_lived, short_lived.culex
    assert m.join() == 0 and m.sync() == 0
    culex.server.kill9()
    # A pipe in a file's place: whoever opens it to read waits for one who writes.
    slow = culex.data / "captured" / "FORMAT"
    content = slow.read_bytes()
    slow.unlink()
    os.mkfifo(slow)
    culex.server.start()
    m.connect()
    m.send_heartbeat()
    m.sock.settimeout(SESSION_AND_MORE)
    with pytest.raises(socket.timeout):
        m.receive()
    m.sock.settimeout(START_SECONDS)
    slow.write_bytes(content)
    assert m.receive().get("ih")[1] == 0
    assert m.heartbeat() == 0


def test_two_hundred_members_that_start_together_are_stable_soon(member):
    members = [member() for _ in range(200)]
    settled, done, wrong = {}, threading.Event(), []

    def run(m):
        while not done.is_set():
            error = m.join() or m.sync()
            while error == 0 and not done.is_set():
                settled[m.id] = m.generation
                done.wait(0.2)
                error = m.heartbeat()
            if error not in (0, REBALANCE):
                wrong.append(error)
                return

    def all_settled():
        assert not wrong
        return len(settled) == 200 and len(set(settled.values())) == 1
    threads = [threading.Thread(target=run, args=(m,)) for m in members]
    for t in threads:
        t.start()
    try:
        wait_until("all are in one generation", all_settled)
    finally:
        done.set()
        for t in threads:
            t.join()
    assert all(m.assignment == f"work of {m.id}".encode() for m in members)
    assert sum(m.leads for m in members) == 1
