"""Configurations that are wrong: each stops the start with a sentence that names file, line, path and what would be right."""

import json
import os
import re
import shutil
import subprocess

import pytest
from harness import SERVER, read_all, sanitizer_env, wait_until

pytestmark = [pytest.mark.broker, pytest.mark.sanitized]


def stream(**kw):
    return {"name": "demo", "filters": ["demo/#"], **kw}


# (what, document or text, patterns that the sentence must have)
WRONG = [
    ("not json", "{ this is not json", [r"culex\.json:1"]),
    ("comment", '// hello\n{"streams": []}', [r"culex\.json:1"]),
    ("not an object", "[1, 2]", [r"culex\.json"]),
    ("wrong type", {"streams": [stream(partitions="many")]}, [r"streams\[0\]\.partitions"]),
    ("unknown key", {"streams": [stream(partitons=4)]}, [r"streams\[0\]", "partitons", "partitions"]),
    ("unknown top key", {"stream": []}, ["stream", "streams"]),
    ("hash in the middle", {"streams": [stream(filters=["a/#/b"])]}, [r"streams\[0\]\.filters\[0\]", "#"]),
    ("plus in a level", {"streams": [stream(filters=["ok", "a+"])]}, [r"streams\[0\]\.filters\[1\]", r"\+"]),
    ("empty filter", {"streams": [stream(filters=[""])]}, [r"streams\[0\]\.filters\[0\]", "empty"]),
    ("no filter", {"streams": [{"name": "demo", "filters": []}]}, [r"streams\[0\]\.filters"]),
    ("shared subscription", {"streams": [stream(filters=["$share/g/x"])]}, [r"streams\[0\]\.filters\[0\]", "share"]),
    ("the broker's own topics", {"streams": [stream(filters=["$SYS/#"])]},
     [r"streams\[0\]\.filters\[0\].*own topics"]),
    ("commands to the broker", {"streams": [stream(filters=["$CONTROL/x"])]}, [r"streams\[0\]\.filters\[0\].*commands"]),
    ("a NUL in a filter", '{"streams": [\n{"name": "demo", "filters": ["a\\u0000b"]}]}',
     [r"culex\.json:2: \\u0000 stands in a string; no setting may have it"]),
    ("a comma too many", '{"streams": [\n],\n}', [r"culex\.json:3: is not JSON: .*a comma too many"]),
    ("null", {"streams": None}, [r"streams: is null; an array"]),
    ("duplicate stream", {"streams": [stream(), stream()]}, [r"streams\[1\]\.name", "demo"]),
    ("illegal name", {"streams": [stream(name="bad name!")]}, [r"streams\[0\]\.name", "bad name!"]),
    ("name of dots", {"streams": [stream(name="..")]}, [r"streams\[0\]\.name"]),
    ("name too long", {"streams": [stream(name="n" * 250)]}, [r"streams\[0\]\.name", "249"]),
    ("zero partitions", {"streams": [stream(partitions=0)]}, [r"streams\[0\]\.partitions", "0", "1024"]),
    ("too many partitions", {"streams": [stream(partitions=100000)]}, [r"streams\[0\]\.partitions", "1024"]),
    ("bad key", {"streams": [stream(key="topic[3..1]")]}, [r"streams\[0\]\.key"]),
    ("bad choice", {"streams": [stream(on_full="wait")]}, [r"streams\[0\]\.on_full", "block", "reject", "drop"]),
    ("bad listener", {"streams": [stream()], "server": {"listeners": "localhost"}}, [r"server\.listeners"]),
]


def text_of(document):
    return document if isinstance(document, str) else json.dumps(document, indent=2)


@pytest.mark.parametrize("document,patterns", [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_broker_does_not_start_and_says_why(culex_factory, document, patterns):
    c = culex_factory(start=False)
    c.config_path.write_text(text_of(document))
    c.broker.start(wait=False)
    assert c.broker.wait_exit() != 0
    for p in patterns:
        assert re.search(p, c.broker.log()), f"{p!r} is not in:\n{c.broker.log()}"


@pytest.mark.parametrize("document,patterns", [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_check_config_says_why(culex_factory, document, patterns):
    c = culex_factory(start=False)
    c.config_path.write_text(text_of(document))
    got = subprocess.run([SERVER, "--config", c.config_path, "--check-config"], capture_output=True, text=True,
                         timeout=60, env=sanitizer_env(preload=False))
    assert got.returncode not in (0, 99) and got.returncode > 0
    for p in patterns:
        assert re.search(p, got.stdout + got.stderr), f"{p!r} is not in:\n{got.stdout}{got.stderr}"


def test_every_mistake_is_reported_with_its_line(culex_factory):
    c = culex_factory(start=False)
    c.config_path.write_text('{\n "streams": [\n  {"name": "a b",\n   "filters": ["x"],\n   "partitions": 0}\n ]\n}\n')
    got = subprocess.run([SERVER, "--config", c.config_path, "--check-config"], capture_output=True, text=True,
                         timeout=60, env=sanitizer_env(preload=False))
    assert re.search(r"culex\.json:[3-5]: streams\[0\]\.name", got.stderr + got.stdout)
    assert re.search(r"culex\.json:[3-5]: streams\[0\]\.partitions", got.stderr + got.stdout)


def test_good_configuration_passes_the_check(culex_factory):
    c = culex_factory(start=False)
    got = subprocess.run([SERVER, "--config", c.config_path, "--check-config"], capture_output=True, text=True,
                         timeout=60, env=sanitizer_env(preload=False))
    assert got.returncode == 0, got.stderr


def test_missing_file_is_named(culex_factory):
    c = culex_factory(start=False)
    c.config_path.unlink()
    c.broker.start(wait=False)
    assert c.broker.wait_exit() != 0
    assert str(c.config_path) in c.broker.log()


def test_unreadable_file_is_named(culex_factory):
    c = culex_factory(start=False)
    c.config_path.unlink()
    c.config_path.mkdir()
    c.broker.start(wait=False)
    assert c.broker.wait_exit() != 0
    assert str(c.config_path) in c.broker.log()


def test_unknown_option_in_mosquitto_conf_names_the_nearest(culex_factory):
    c = culex_factory(start=False)
    c.broker.config_path = None
    c.broker.options = {"data": c.data, "name": "x", "filtrs": "a/#"}
    c.broker.start(wait=False)
    assert c.broker.wait_exit() != 0
    assert "filtrs" in c.broker.log() and "filters" in c.broker.log()


def test_second_stream_in_mosquitto_conf_is_refused(culex_factory):
    c = culex_factory(start=False)
    c.broker.config_path = None
    c.broker.options = {"data": c.data, "stream": "a", "filter": "x", "stream ": "b", "filter ": "y"}
    c.broker.start(wait=False)
    assert c.broker.wait_exit() != 0
    assert "plugin_opt_stream: is given twice; several streams need plugin_opt_config FILE" in c.broker.log()


def test_changed_partition_count_is_refused_and_nothing_is_lost(culex):
    culex.publish("demo/x", ["kept"])
    culex.broker.stop()
    culex.streams[0]["partitions"] = 4
    culex.write_config()
    culex.broker.start(wait=False)
    wait_until("it says that partitions cannot change", lambda: re.search(r"16.*4|4.*16", culex.broker.log()))
    culex.broker.kill9()
    assert [r.value for r in read_all(culex.bootstrap, "demo", 1)] == [b"kept"]
    culex.streams[0]["partitions"] = 16
    culex.write_config()
    culex.broker.start()
    culex.publish("demo/x", ["more"])
    assert [r.value for r in read_all(culex.bootstrap, "demo", 2)] == [b"kept", b"more"]


def damaged(culex_factory, damage):
    """A broker whose data directory is not usable: it runs, says so, and MQTT works."""
    c = culex_factory(start=False)
    damage(c)
    c.broker.start()
    assert str(c.data) in c.broker.log()
    with c.mqtt("a") as m:
        m.subscribe("other/x")
        m.publish("other/x", "works")
        m.wait_message(lambda msg: msg.payload == b"works")
    assert c.broker.running()
    return c


def test_data_path_that_is_a_file_degrades_capture_only(culex_factory):
    def damage(c):
        c.data.rmdir()
        c.data.write_text("not a directory")
    c = damaged(culex_factory, damage)
    assert f"data names {c.data}, which is not a directory" in c.broker.log()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be another user")
def test_data_directory_of_another_user_degrades_capture_only(culex_factory):
    c = culex_factory(start=False)
    for path in (c.home.parent, c.home, c.data):
        path.chmod(0o755)
    c.config_path.chmod(0o644)
    c.broker.launch_as = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    c.broker.start()
    assert f"the broker's user may not write to the data directory {c.data}: Permission denied" in c.broker.log()
    with c.mqtt("a") as m:
        m.publish("demo/x", "works", qos=0)
    assert c.broker.running()


def test_data_of_another_product_is_refused_not_misread(culex_factory):
    """A RocksDB-like directory that we did not make must stay as it is."""
    def damage(c):
        (c.data / "captured").mkdir(parents=True)
        (c.data / "captured" / "CURRENT").write_text("MANIFEST-000001\n")
        (c.data / "captured" / "MANIFEST-000001").write_bytes(os.urandom(4096))
    c = damaged(culex_factory, damage)
    assert len((c.data / "captured" / "MANIFEST-000001").read_bytes()) == 4096


@pytest.mark.parametrize("text,why", [("culex store 99\n", "newer version of culex"), ("9 lives\n", "is not a culex store")])
def test_data_of_another_version_is_refused_by_both_and_stays(culex_factory, text, why):
    c = culex_factory(start=False)
    for part in ("captured", "server"):
        (c.data / part).mkdir()
        (c.data / part / "FORMAT").write_text(text)
    c.broker.start()
    c.broker.wait_log(rf"{c.data}/captured.*{why}")
    c.server.start(wait=False)
    assert c.server.wait_exit() == 1
    assert re.search(rf"{c.data}/server.*{why}", c.server.log())
    assert [p.read_text() for p in sorted(c.data.rglob("FORMAT"))] == [text, text]


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="needs root to mount a small disk")
def test_disk_that_is_full_at_the_start_is_named_and_awaited(culex_factory):
    c = culex_factory(start=False)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(c.data)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with open(c.data / "ballast", "wb") as f:
            f.truncate(0)
            os.posix_fallocate(f.fileno(), 0, 64 << 20)
        c.server.start()
        c.server.wait_log(rf"cannot be opened, trying again.*{c.data}/server.*(disk is full|No space left)")
        c.broker.start()
        c.broker.wait_log(rf"capture is degraded.*{c.data}.*(disk is full|No space left)")
        (c.data / "ballast").unlink()
        c.broker.wait_log("capture runs again|store opened")
        c.server.wait_log("own store is open")
        c.wait_topics()
        c.publish("demo/x", ["stored"])
        assert [r.value for r in read_all(c.bootstrap, "demo", 1)] == [b"stored"]
    finally:
        c.kill()
        subprocess.run(["umount", "-l", str(c.data)], check=False)


def test_capture_mends_itself_when_the_directory_becomes_usable(culex_factory):
    def damage(c):
        c.data.rmdir()
        c.data.write_text("not a directory")
    c = damaged(culex_factory, damage)
    c.data.unlink()
    c.data.mkdir()
    c.server.start()
    c.wait_topics()
    with c.mqtt() as m:
        def captured():
            m.publish("demo/x", "again", qos=0)
            from harness import stored
            return stored(c.bootstrap, "demo") > 0
        wait_until("capture works again", captured, every=0.2)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="needs root to mount a small disk")
def test_full_disk_degrades_and_mends(culex_factory):
    c = culex_factory(start=False, streams=[stream(on_full="drop")], store={"ring.bytes": 4 << 20})
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(c.data)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        c.start()
        (c.data / "ballast").write_bytes(b"")
        with c.mqtt() as m:
            m.publish("demo/x", "before")
            free = os.statvfs(c.data)
            with open(c.data / "ballast", "wb") as f:
                try:
                    f.write(b"\0" * (free.f_bavail * free.f_frsize))
                except OSError:
                    pass

            def refused():
                m.publish_all([("demo/x", b"z" * 4000)] * 500, qos=0)
                return re.search(r"(?i)full|no space", c.broker.log())
            wait_until("it says that the disk is full", refused, every=0.1)
            m.publish("other", "mqtt lives", qos=1)
            (c.data / "ballast").unlink()

            def again():
                m.publish("demo/y", "after", qos=1)
                return any(r.value == b"after" for r in read_all(c.bootstrap, "demo"))
            wait_until("capture works again", again, every=0.5)
        assert read_all(c.bootstrap, "demo", 1)
    finally:
        c.kill()
        subprocess.run(["umount", "-l", str(c.data)], check=False)
