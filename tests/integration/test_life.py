"""Starting, stopping and going on: server and broker in any order, alone, restarted, twice on one directory."""

import fcntl
import os
import re
import signal
import socket
import stat
import time
from pathlib import Path

import harness
import pytest
from harness import (PLUGIN, START_SECONDS, Server, api_versions, consumer, end_offsets, frame, free_port, read_all, request_header,
                     stored, wait_until, within)
from test_protocol import LONG_MS, Wire, fetch_body, read_fetch


def test_server_before_the_broker_waits_and_says_so(culex_factory):
    c = culex_factory(start=False)
    c.server.start()
    c.server.wait_log(r"(?i)wait|not there yet|no .*captured|does not exist")
    c.broker.start()
    c.wait_topics()
    c.publish("demo/x", ["late"])
    assert [r.value for r in read_all(c.bootstrap, "demo", 1)] == [b"late"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_server_warns_of_data_that_another_user_made(culex_factory):
    c = culex_factory(start=False)
    c.data.mkdir(exist_ok=True)
    os.chown(c.data, 54321, -1)
    c.server.start()
    c.server.wait_log(rf"belongs to another user.* dir={c.data} owner=54321 user=root")


def test_server_waits_for_the_lock_of_one_that_is_just_going(culex):
    """As after a kill: the kernel lets go of the lock a moment after the next server has started."""
    culex.server.stop()
    lock = culex.data / "server" / "lock"
    with open(lock, "r+b") as held:
        fcntl.lockf(held, fcntl.LOCK_EX)
        culex.server.start(wait=False)
        blocked_in = Path(f"/proc/{culex.server.proc.pid}/wchan")

        def pauses():
            assert culex.server.running(), culex.server.log()
            return "nanosleep" in blocked_in.read_text()
        wait_until("the server has found the lock taken and pauses", pauses, every=0.001)
    culex.server.wait_ready()


def test_history_is_served_while_the_broker_is_down(culex):
    culex.publish("demo/x", [str(i) for i in range(500)])
    culex.broker.stop()
    assert [int(r.value) for r in read_all(culex.bootstrap, "demo", 500)] == list(range(500))
    culex.server.stop()
    culex.server.start()
    assert [int(r.value) for r in read_all(culex.bootstrap, "demo", 500)] == list(range(500))


def test_history_and_offsets_go_on_after_restarts(culex):
    values = []
    for round_ in range(3):
        new = [f"{round_} {i}" for i in range(200)]
        culex.publish("demo/x", new)
        values += new
        culex.stop()
        culex.broker.start()
        culex.server.start()
    records = read_all(culex.bootstrap, "demo", len(values))
    assert [r.value.decode() for r in records] == values
    assert [r.offset for r in records] == list(range(len(values)))


def test_waiting_fetch_wakes_on_a_publish(culex):
    """A reader that waits at the end gets a record at once, not when its long poll runs out."""
    from confluent_kafka import TopicPartition
    culex.publish("demo/x", ["first"])
    c = consumer(culex.bootstrap, **{"fetch.wait.max.ms": 200000, "socket.timeout.ms": 300000})
    try:
        (p,) = [p for p, (_, e) in end_offsets(culex.bootstrap, "demo").items() if e]
        c.assign([TopicPartition("demo", p, 0)])
        wait_until("the first", lambda: c.poll(1))
        with culex.mqtt() as m:
            for i in range(20):
                m.publish("demo/x", str(i))
                got = c.poll(START_SECONDS)
                assert got is not None and got.value() == str(i).encode()
    finally:
        c.close()


def test_sigterm_answers_what_is_in_flight_and_does_not_wait_for_more(culex):
    """A long poll is parked; SIGTERM must not wait for it, and must not cut it without an answer."""
    def leave():
        if not culex.server.running():
            culex.server.start()
        with Wire(culex) as w:
            w.send(1, 11, fetch_body([("demo", p, 0, 1 << 20) for p in range(16)], wait=LONG_MS))
            assert api_versions(culex.server.port) is not None  # heard after the fetch, which is parked by now
            began = time.monotonic()
            culex.server.signal(signal.SIGTERM)
            error, _, got = read_fetch(w.recv())
            assert error == 0 and len(got) == 16 and {(a["error"], a["records"]) for a in got.values()} == {(0, b"")}
            assert w.s.recv(1) == b""
            assert culex.server.wait_exit() == 0
            return time.monotonic() - began
    within(2, leave)


def test_broker_leaves_in_order(culex):
    with culex.mqtt() as m:
        m.publish_all([("demo/x", "x")] * 1000, qos=0)
        m.publish("demo/x", "last")  # its PUBACK says that the broker has read the others, too
        assert culex.broker.stop() == 0
    assert "left behind" not in culex.broker.log()  # which a writer is when it has been waited for in vain
    assert stored(culex.bootstrap, "demo") == 1001


def test_second_server_on_the_directory_is_refused(culex):
    other = Server(culex.data, culex.config_path, culex.home, name="other")
    other.env["CULEX_LISTENERS"] = f"PLAINTEXT://127.0.0.1:{other.port}"
    other.start(wait=False)
    assert other.wait_exit() not in (0, None)
    assert str(culex.data) in other.log() and str(culex.server.pid) in other.log()
    assert api_versions(culex.server.port) is not None


def test_second_broker_on_the_directory_is_refused(culex_factory, culex):
    other = culex_factory(start=False)
    other.data = culex.data
    other.write_config()
    other.broker.start(wait=False)
    assert other.broker.wait_exit() != 0
    assert re.search(rf"{culex.data}.*in use", other.broker.log())
    culex.publish("demo/x", ["mine"])
    assert [r.value for r in read_all(culex.bootstrap, "demo", 1)] == [b"mine"]


def test_port_taken_is_one_sentence(culex_factory):
    c = culex_factory(start=False)
    with socket.socket() as s:
        s.bind(("127.0.0.1", c.server.port))
        s.listen()
        c.server.start(wait=False)
        assert c.server.wait_exit() != 0
    assert str(c.server.port) in c.server.log() and "in use" in c.server.log().lower()


def test_what_stops_a_start_is_said_on_stderr_beside_the_log_file(culex_factory, culex):
    c = culex_factory(start=False)
    log = c.home / "server.log.file"
    c.server_settings["log.file"] = str(log)
    c.server.port = culex.server.port
    c.write_config()
    c.server.start(wait=False)
    assert c.server.wait_exit() == 1
    taken = rf"cannot start: [^\n]*{c.server.port}[^\n]*in use"
    assert re.search(taken, log.read_text()) and re.search(taken, c.server.log())
    other = Server(culex.data, culex.config_path, culex.home, name="other")
    other.env = {"CULEX_LISTENERS": f"PLAINTEXT://127.0.0.1:{other.port}", "CULEX_LOG_FILE": str(log)}
    other.start(wait=False)
    assert other.wait_exit() == 1
    assert re.search(rf"cannot start: [^\n]*in use by process {culex.server.pid}", other.log())


def test_start_says_what_clients_are_told(culex):
    assert culex.bootstrap in culex.server.log()


def test_several_listeners_each_advertise_their_own_address(culex_factory):
    inside, outside = free_port(), free_port()
    c = culex_factory(start=False, server={
        "listeners": f"INSIDE://127.0.0.1:{inside},OUTSIDE://127.0.0.1:{outside}",
        "advertised.listeners": f"INSIDE://127.0.0.1:{inside},OUTSIDE://localhost:{outside}",
        "listener.security.protocol.map": "INSIDE:PLAINTEXT,OUTSIDE:PLAINTEXT"})
    c.server.port = inside
    c.broker.start()
    c.server.start()
    from confluent_kafka.admin import AdminClient
    for port, host in ((inside, "127.0.0.1"), (outside, "localhost")):
        md = AdminClient({"bootstrap.servers": f"127.0.0.1:{port}"}).list_topics(timeout=START_SECONDS)
        assert [(b.host, b.port) for b in md.brokers.values()] == [(host, port)]


def test_environment_overrides_the_file(culex_factory):
    c = culex_factory(start=False)
    port = free_port()
    c.server.env["CULEX_LISTENERS"] = f"PLAINTEXT://127.0.0.1:{port}"
    c.server.port = port
    c.broker.start()
    c.server.start()
    c.wait_topics()


def test_sighup_reopens_the_log_file(culex_factory):
    c = culex_factory(start=False)
    log = c.home / "culex-server.log"
    c.server_settings["log.file"] = str(log)
    c.write_config()
    c.start()
    wait_until("the log is written", lambda: log.exists() and log.read_text())
    log.rename(c.home / "old.log")
    c.server.signal(signal.SIGHUP)
    wait_until("the log is there again", log.exists)
    assert api_versions(c.server.port) is not None


def test_sighup_with_a_mistake_changes_nothing_and_names_each(culex):
    good = culex.config_path.read_text()
    culex.config_path.write_text('{ "strems": [],\n  "serv": {} }\n')
    culex.server.signal(signal.SIGHUP)
    culex.server.wait_log(r"configuration not taken over")
    named = [line for line in culex.server.log().splitlines() if f"{culex.config_path}:" in line]
    assert len(named) == 2 and "strems" in named[0] and "serv" in named[1], culex.server.log()
    culex.config_path.write_text(good)
    culex.server.signal(signal.SIGHUP)
    culex.server.wait_log(r"configuration read again")
    assert api_versions(culex.server.port) is not None


def test_sighup_changes_how_many_connections_there_may_be(culex):
    def answers(s):
        try:
            s.sendall(frame(request_header(18, 0)))
            return len(s.recv(1))
        except ConnectionError:
            return 0

    def connections(n):
        made = [socket.create_connection(("127.0.0.1", culex.server.port), timeout=START_SECONDS) for _ in range(n)]
        try:
            return sum(answers(s) for s in made)
        finally:
            for s in made:
                s.close()
    assert connections(5) == 5
    culex.server_settings["max.connections"] = 3
    culex.write_config()
    culex.server.signal(signal.SIGHUP)
    culex.server.wait_log("configuration read again")
    wait_until("further connections are closed", lambda: connections(5) <= 3)


def test_broker_survives_sighup(culex):
    culex.publish("demo/x", ["1"])
    culex.broker.reload()
    culex.publish("demo/x", ["2"])
    assert [r.value for r in read_all(culex.bootstrap, "demo", 2)] == [b"1", b"2"]


def test_server_tells_systemd_that_it_is_ready(culex_factory):
    c = culex_factory(start=False)
    path = c.home / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.bind(str(path))
        s.settimeout(START_SECONDS)
        c.server.env["NOTIFY_SOCKET"] = str(path)
        c.server.env["WATCHDOG_USEC"] = "400000"
        c.broker.start()
        c.server.start()
        said = b""
        while b"READY=1" not in said or b"WATCHDOG=1" not in said:
            said += s.recv(4096) + b"\n"
        c.server.signal(signal.SIGTERM)
        while b"STOPPING=1" not in said:
            said += s.recv(4096) + b"\n"
        assert c.server.wait_exit() == 0


def test_new_stream_in_the_configuration_appears_after_a_restart_of_the_broker(culex):
    culex.publish("demo/x", ["1"])
    culex.streams.append({"name": "second", "filters": ["demo/#"], "partitions": 2})
    culex.write_config()
    culex.broker.stop()
    culex.broker.start()
    culex.wait_topics()
    culex.publish("demo/x", ["2"])
    assert [r.value for r in read_all(culex.bootstrap, "second", 1)] == [b"2"]
    assert [r.value for r in read_all(culex.bootstrap, "demo", 2)] == [b"1", b"2"]


def test_retention_by_bytes_moves_the_log_start(culex_factory):
    """Old segments go as wholes; what is left begins at the log start that clients are told."""
    c = culex_factory(streams=[{"name": "demo", "filters": ["demo/#"], "partitions": 1,
                                "retention.bytes": 1 << 20}],
                      store={"segment.bytes": 1 << 20})
    with c.mqtt() as m:
        def grow():
            m.publish_all([("demo/x", b"v" * 1000)] * 2000, qos=1)
            return end_offsets(c.bootstrap, "demo")[0][0] > 0
        wait_until("the log start moves", grow)
    from confluent_kafka import TopicPartition
    eyes = consumer(c.bootstrap)
    try:
        # The start may move on while this reads; what comes is one run up to the end all the same.
        start, end = end_offsets(c.bootstrap, "demo")[0]
        eyes.assign([TopicPartition("demo", 0, 0)])
        offsets = []
        while not offsets or offsets[-1] < end - 1:
            m = eyes.poll(START_SECONDS)
            assert m is not None and not m.error()
            offsets.append(m.offset())
        assert offsets[0] >= start > 0
        assert offsets == list(range(offsets[0], end))
    finally:
        eyes.close()


@pytest.mark.skipif(os.geteuid() == 0 and not os.path.exists("/usr/bin/setpriv"), reason="needs setpriv")
def test_wrong_permissions_are_one_sentence(culex_factory):
    c = culex_factory(start=False)
    c.broker.start()
    c.broker.stop()
    c.home.chmod(0o755)
    c.home.parent.chmod(0o755)
    c.config_path.chmod(0o644)
    for path in [c.data, *c.data.rglob("*")]:
        path.chmod(stat.S_IMODE(path.stat().st_mode) & 0o700)
    argv = ["--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    from harness import SERVER
    c.server.launch(["setpriv", *argv, SERVER, "--config", c.config_path])
    assert c.server.wait_exit() != 0
    assert str(c.data) in c.server.log() and "ermission" in c.server.log()


@pytest.mark.broker
@pytest.mark.parametrize("place", ["a link", "a path that depends on the directory"])
def test_writer_is_found_beside_the_plugin(culex_factory, tmp_path, monkeypatch, place):
    c = culex_factory(start=False)
    (tmp_path / "link.so").symlink_to(PLUGIN)
    path = tmp_path / "link.so" if place == "a link" else os.path.relpath(PLUGIN, os.getcwd())
    monkeypatch.setattr(harness, "PLUGIN", path)
    c.broker.start()
    assert Path(f"/proc/{c.broker.writer_pid()}/exe").resolve() == PLUGIN.with_name("culex-writer").resolve()


@pytest.mark.broker
def test_log_says_that_the_writer_ended_and_that_it_runs_again(culex):
    culex.broker.kill_writer()
    culex.broker.wait_log(r"the writer was ended by signal 9[^\n]*(?s:.)*the writer runs again")
