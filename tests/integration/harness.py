"""A real broker with the plugin, a real server, real clients, in a data directory of their own.

Everything listens on loopback, on ports that were free a moment ago. Nothing here sleeps to let
something happen: it waits for a port that answers, a line in a log, an exit, or a record, and gives up
after a named time with what it saw. Only processes started here are ever signalled.

Environment:
  BUILD      where plugin, server and CLI are (default build/release)
  MOSQUITTO  the broker's binary (default: mosquitto from PATH)
  TESTTOOLS  where the test tools are (default build/testtools)
"""

import base64
import json
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("BUILD", ROOT / "build" / "release"))
if not BUILD.is_absolute():
    BUILD = ROOT / BUILD
TOOLS = Path(os.environ.get("TESTTOOLS", ROOT / "build" / "testtools"))
CLIENTS = ROOT / "build" / "clients"
MOSQUITTO = os.environ.get("MOSQUITTO") or shutil.which("mosquitto") or "/usr/sbin/mosquitto"
PLUGIN = BUILD / "culex_capture.so"
SERVER = BUILD / "culex-server"
CLI = BUILD / "culex"

# Machines are slow, and busy with other things: only what fails waits so long.
START_SECONDS = 60  # a broker or server that has not answered by then never will
STOP_SECONDS = 60  # a busy disk holds up what is flushed at the end; who must be quicker has a test of its own
KILL_SECONDS = 60  # a killed process that waits for a busy disk lives until that has answered
READ_SECONDS = 120
WAIT_SECONDS = 180  # for what takes several steps
PLAIN_SECONDS = 0.001  # what `slowness` is measured by

ASAN = "asan" in BUILD.name


def sanitizer_env(preload):
    """What a sanitized plugin needs inside a broker that was built without one."""
    env = dict(os.environ)
    if not ASAN:
        return env
    # What is freed stays in quarantine: tests that measure memory want little of it.
    env["ASAN_OPTIONS"] = "detect_leaks=0:abort_on_error=0:exitcode=99:quarantine_size_mb=8"
    env["UBSAN_OPTIONS"] = "print_stacktrace=1:halt_on_error=1"
    if preload:
        lib = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True)
        env["LD_PRELOAD"] = lib.stdout.strip()
    return env


given_ports = set()


def free_port():
    """A port that nobody listens on, and that is given once. Not one of those that the kernel gives away: clients that
    connect would have it while the server, which is to listen there again, is away."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", random.SystemRandom().randrange(10000, first) if first > 20000 else 0))
            except OSError:
                continue
            port = s.getsockname()[1]
        if port not in given_ports:
            given_ports.add(port)
            return port


def wait_until(what, predicate, seconds=WAIT_SECONDS, every=0.01):
    """Polls a condition that has no event to wait on; fails with `what` after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        got = predicate()
        if got:
            return got
        if time.monotonic() > end:
            raise AssertionError(f"after {seconds} s still not: {what}")
        time.sleep(every)


def slowness():
    """How many times longer than on a plain machine with nothing else to do work takes here just now: 1 at least."""
    def work():
        began = time.monotonic()
        json.loads(json.dumps([{"i": i, "s": str(i)} for i in range(1000)]))
        return time.monotonic() - began
    return max(1.0, sorted(work() for _ in range(5))[2] / PLAIN_SECONDS)


def within(seconds, attempt, tries=5):
    """What is promised in seconds. attempt() returns how long it took; others may be busy, so it is enough if it was so once."""
    took = []
    while not took or min(took) > seconds:
        assert len(took) < tries, f"promised in {seconds} s, but took {took}"
        took.append(attempt() / slowness())
    return took


def port_answers(port):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def mqtt_answers(port):
    """Mosquitto 2.0 loses a SIGTERM that comes after its port is open and before its loop runs, so a
    broker is up when it answers a CONNECT."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as s:
            s.sendall(bytes.fromhex("100c00044d515454040200 3c0000"))
            return len(s.recv(4)) > 0
    except OSError:
        return False


def process_state(pid):
    """R, S, T (stopped), Z (ended, not waited for) …, or None: there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None


def ended(pid):
    return process_state(pid) in (None, "Z", "X")


def children(pid):
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def kill_pid(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def memory_kb(pid, field_name):
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.search(rf"^{field_name}:\s+(\d+)", text, re.M).group(1))


class Process:
    """One program with its output in a file; start, stop, kill, wait, look into the log."""

    def __init__(self, name, logs):
        self.name = name
        self.log_path = Path(logs) / f"{name}.log"
        self.proc = None

    def launch(self, argv, env=None, cwd=None):
        assert self.proc is None or self.proc.poll() is not None, f"{self.name} runs already"
        with open(self.log_path, "ab") as out:
            out.write(f"--- {' '.join(str(a) for a in argv)}\n".encode())
            out.flush()
            self.mark = out.tell()
            self.proc = subprocess.Popen([str(a) for a in argv], stdin=subprocess.DEVNULL,
                                         stdout=out, stderr=out, env=env, cwd=cwd)

    @property
    def pid(self):
        return self.proc.pid

    def log(self, since_start=True):
        data = self.log_path.read_bytes() if self.log_path.exists() else b""
        return data[self.mark if since_start else 0:].decode("utf-8", "replace")

    def running(self):
        return self.proc is not None and self.proc.poll() is None

    def wait_log(self, pattern, seconds=START_SECONDS):
        def look():
            found = re.search(pattern, self.log())
            if not found and not self.running():
                found = re.search(pattern, self.log())
                assert found, f"{self.name} ended ({self.proc.returncode}) before it said {pattern!r}"
            return found
        return wait_until(f"{self.name} says {pattern!r}", look, seconds)

    def wait_exit(self, seconds=STOP_SECONDS):
        return self.proc.wait(seconds)

    def signal(self, number):
        self.proc.send_signal(number)

    def kill9(self):
        if self.running():
            self.proc.send_signal(signal.SIGKILL)
            self.proc.wait(KILL_SECONDS)

    def stop(self, seconds=STOP_SECONDS):
        """SIGTERM and the exit code; a process that does not leave in time is killed and that fails."""
        if not self.running():
            return self.proc.returncode if self.proc else None
        self.proc.send_signal(signal.SIGTERM)
        try:
            return self.proc.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill9()
            raise AssertionError(f"{self.name} did not leave within {seconds} s of SIGTERM")

    def memory_kb(self, field_name="Rss"):
        return memory_kb(self.pid, field_name)


class Broker(Process):
    """The broker, and with it the writer that the plugin starts."""

    def __init__(self, data, config_path, logs, per_listener=False, plugin=True, extra="",
                 options=None, name="broker"):
        super().__init__(name, logs)
        self.port = free_port()
        self.conf_path = Path(logs) / f"{name}.conf"
        self.config_path = config_path
        self.per_listener = per_listener
        self.plugin = plugin
        self.extra = extra
        self.options = options or {}
        self.launch_as = []  # a command before the broker's, that makes it another user's

    def write_conf(self):
        plugin = []
        if self.plugin:
            plugin = [f"plugin {PLUGIN if self.plugin is True else self.plugin}"]
            if self.config_path is not None:
                plugin.append(f"plugin_opt_config {self.config_path}")
            plugin += [f"plugin_opt_{k} {v}" for k, v in self.options.items()]
        listener = [f"listener {self.port} 127.0.0.1", "allow_anonymous true"]
        lines = ["per_listener_settings true"] if self.per_listener else []
        if os.geteuid() == 0:
            lines.append("user root")
        lines += ["persistence false", "log_dest stderr", "log_type error", "log_type warning",
                  "log_type notice", "log_type information", "sys_interval 1",
                  "max_queued_messages 100000", "max_inflight_messages 1000", "connection_messages false"]
        # With per_listener_settings, what stands after a listener belongs to it.
        lines += listener + plugin + [self.extra]
        self.conf_path.write_text("\n".join(lines) + "\n")

    def start(self, wait=True, taskset=None):
        self.write_conf()
        argv = ([] if taskset is None else ["taskset", "-c", str(taskset)])
        self.launch(argv + self.launch_as + [MOSQUITTO, "-c", self.conf_path], env=sanitizer_env(preload=True))
        if wait:
            wait_until("the broker answers",
                       lambda: self.check_running() and mqtt_answers(self.port))
        return self

    def reload(self):
        """SIGHUP. Mosquitto 2.0 loses one that comes before it is done with the one before, and our
        line about that is in its log earlier; when it answers a CONNECT, it is done."""
        wait_until("the broker answers", lambda: self.check_running() and mqtt_answers(self.port))
        self.signal(signal.SIGHUP)

    def writers(self):
        """Processes of the writer, mostly one."""
        return [p for p in children(self.pid) if not ended(p)] if self.running() else []

    def writer_pid(self):
        """Of the writer that runs, waited for."""
        return wait_until("there is a writer", self.writers)[0]

    def kill9(self):
        """Broker and writer at once, as the kernel does when memory or power is gone."""
        if not self.running():
            return
        pids = [self.pid] + self.writers()
        random.shuffle(pids)
        for pid in pids:
            kill_pid(pid)
        self.proc.wait(KILL_SECONDS)
        wait_until("the killed writer is gone", lambda: all(map(ended, pids)), KILL_SECONDS)

    def kill_broker_only(self):
        """Its writer stores what the ring holds, and leaves; returns the writers' pids."""
        writers = self.writers()
        super().kill9()
        return writers

    def kill_writer(self):
        """Returns its pid; the broker starts another one."""
        pid = self.writer_pid()
        kill_pid(pid)
        wait_until("the killed writer is gone", lambda: ended(pid), KILL_SECONDS)
        return pid

    def memory_kb(self, field_name="Rss"):
        return super().memory_kb(field_name) + sum(memory_kb(p, field_name) for p in self.writers())

    def check_running(self):
        assert self.running(), f"the broker ended with {self.proc.returncode}:\n{self.log()}"
        return True


class Server(Process):
    def __init__(self, data, config_path, logs, name="server"):
        super().__init__(name, logs)
        self.config_path = config_path
        self.port = free_port()
        self.env = {}

    @property
    def bootstrap(self):
        return f"127.0.0.1:{self.port}"

    def start(self, wait=True, args=None, taskset=None):
        argv = ([] if taskset is None else ["taskset", "-c", str(taskset)])
        argv += [SERVER] + (["--config", self.config_path] if args is None else args)
        self.launch(argv, env={**sanitizer_env(preload=False), **self.env})
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, seconds=START_SECONDS):
        def answers():
            assert self.running(), f"the server ended with {self.proc.returncode}:\n{self.log()}"
            return api_versions(self.port) is not None
        wait_until("the server answers ApiVersions", answers, seconds, every=0.002)


def frame(body):
    return struct.pack(">i", len(body)) + body


def request_header(key, version, correlation=1, client=b"test"):
    return struct.pack(">hhih", key, version, correlation, len(client)) + client


def recv_exactly(sock, n):
    data = b""
    while len(data) < n:
        got = sock.recv(n - len(data))
        if not got:
            raise ConnectionError(f"closed after {len(data)} of {n} bytes")
        data += got
    return data


def recv_frame(sock):
    return recv_exactly(sock, struct.unpack(">i", recv_exactly(sock, 4))[0])


def api_versions(port, version=0):
    """The answer's body after the correlation id, or None while nothing answers."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as s:
            s.sendall(frame(request_header(18, version)))
            return recv_frame(s)[4:]
    except OSError:
        return None


class Culex:
    """Broker with plugin, and server, on one data directory."""

    def __init__(self, home, streams=None, store=None, server=None, per_listener=False, defaults=None,
                 extra=""):
        self.home = Path(home)
        self.data = self.home / "data"
        self.data.mkdir(parents=True, exist_ok=True)
        self.config_path = self.home / "culex.json"
        self.streams = streams if streams is not None else [{"name": "demo", "filters": ["demo/#"]}]
        self.store = store or {}
        self.defaults = defaults or {}
        self.server_settings = server or {}
        self.broker = Broker(self.data, self.config_path, self.home, per_listener, extra=extra)
        self.server = Server(self.data, self.config_path, self.home)
        self.write_config()

    def write_config(self):
        doc = {"data": str(self.data), "sys.interval.ms": 200, "streams": self.streams,
               "server": {"listeners": f"PLAINTEXT://127.0.0.1:{self.server.port}",
                          **self.server_settings}}
        if self.store:
            doc["store"] = self.store
        if self.defaults:
            doc["defaults"] = self.defaults
        self.config_path.write_text(json.dumps(doc, indent=2))

    def start(self):
        self.broker.start()
        self.server.start()
        self.wait_topics()
        return self

    def wait_topics(self):
        """Until the server tells clients of every stream."""
        from confluent_kafka.admin import AdminClient
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        want = {s["name"] for s in self.streams}
        wait_until(f"the server knows {sorted(want)}",
                   lambda: want <= set(admin.list_topics(timeout=START_SECONDS).topics))

    @property
    def bootstrap(self):
        return self.server.bootstrap

    def stop(self):
        for p in (self.server, self.broker):
            if p.running():
                p.stop()

    def kill(self):
        self.server.kill9()
        self.broker.kill9()

    def logs(self, most=8000):
        """What broker and server said: (name, the last `most` characters of it)."""
        return [(p.name, p.log(since_start=False)[-most:]) for p in (self.broker, self.server) if p.log_path.exists()]

    # --- MQTT ---------------------------------------------------------------------------------

    def mqtt(self, client_id="", protocol=5, **kw):
        return Mqtt(self.broker.port, client_id, protocol, **kw)

    def publish(self, topic, payloads, qos=1, **kw):
        with self.mqtt() as m:
            m.publish_all([(topic, p) for p in payloads], qos=qos, **kw)


class Mqtt:
    """A connected paho client; publish waits for what the QoS promises."""

    def __init__(self, port, client_id="", protocol=5, username=None):
        import paho.mqtt.client as paho
        self.paho = paho
        self.v5 = protocol == 5
        self.messages = []
        self.arrived = threading.Condition()
        self.connected = threading.Event()
        kw = {} if self.v5 else {"clean_session": True}
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=client_id,
                                  protocol=paho.MQTTv5 if self.v5 else paho.MQTTv311, **kw)
        self.client.max_inflight_messages_set(500)
        self.client.max_queued_messages_set(0)
        if username:
            self.client.username_pw_set(username, "x")
        self.reasons = {}
        self.client.on_connect = lambda c, u, flags, reason, props: self.connected.set()
        self.client.on_message = self.on_message
        self.client.on_publish = lambda c, u, mid, reason, props: self.reasons.update({mid: reason})
        self.client.connect("127.0.0.1", port, keepalive=60)
        self.client.loop_start()
        assert self.connected.wait(START_SECONDS), "no CONNACK"

    def on_message(self, client, userdata, message):
        with self.arrived:
            self.messages.append(message)
            self.arrived.notify_all()

    def subscribe(self, topic, qos=1):
        done = threading.Event()
        self.client.on_subscribe = lambda *a: done.set()
        self.client.subscribe(topic, qos)
        assert done.wait(START_SECONDS), "no SUBACK"

    def wait_message(self, predicate, seconds=START_SECONDS):
        with self.arrived:
            ok = self.arrived.wait_for(lambda: any(predicate(m) for m in self.messages), seconds)
            assert ok, f"no such message; got {[(m.topic, m.payload) for m in self.messages][-20:]}"
            return next(m for m in reversed(self.messages) if predicate(m))

    def properties(self, **kw):
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.properties import Properties
        p = Properties(PacketTypes.PUBLISH)
        for name, value in kw.items():
            setattr(p, name, value)
        return p

    def publish(self, topic, payload, qos=1, retain=False, seconds=START_SECONDS, **props):
        info = self.client.publish(topic, payload, qos, retain,
                                   properties=self.properties(**props) if props else None)
        info.wait_for_publish(seconds)
        assert info.is_published(), f"publish to {topic} was not acknowledged"
        return info

    def publish_all(self, items, qos=1, seconds=60, **props):
        p = self.properties(**props) if props else None
        infos = [self.client.publish(t, v, qos, properties=p) for t, v in items]
        for i in infos:
            i.wait_for_publish(seconds)
            assert i.is_published()

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


class Load:
    """mqttload in the background; `stop` ends the sending and returns its report."""

    def __init__(self, port, *args):
        argv = [TOOLS / "mqttload", "-p", port, *args]
        self.proc = subprocess.Popen([str(a) for a in argv], stdout=subprocess.PIPE,
                                     stderr=subprocess.PIPE)

    def result(self, seconds=120):
        out, err = self.proc.communicate(timeout=seconds)
        assert self.proc.returncode in (0, 4), f"mqttload ended with {self.proc.returncode}: {err}"
        return json.loads(out)

    def stop(self):
        self.proc.terminate()
        return self.result()

    def close(self):
        if self.proc.poll() is None:
            self.proc.kill()
            self.proc.wait(KILL_SECONDS)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


# --- Kafka: the harness's own eyes ---------------------------------------------------------------


@dataclass
class Record:
    partition: int
    offset: int
    timestamp: int
    key: bytes
    value: bytes
    headers: list = field(default_factory=list)

    def header(self, name):
        """The last value of a header, or None."""
        found = [v for k, v in self.headers if k == name]
        return found[-1] if found else None


def consumer(bootstrap, **kw):
    from confluent_kafka import Consumer
    conf = {"bootstrap.servers": bootstrap, "group.id": "eyes", "enable.auto.commit": False,
            "auto.offset.reset": "earliest", "fetch.error.backoff.ms": 10,
            "reconnect.backoff.ms": 10, "reconnect.backoff.max.ms": 100}
    conf.update(kw)
    return Consumer(conf)


def end_offsets(bootstrap, topic):
    """{partition: (log start, end)}"""
    from confluent_kafka import TopicPartition
    c = consumer(bootstrap)
    try:
        parts = c.list_topics(topic, timeout=START_SECONDS).topics[topic].partitions
        return {p: c.get_watermark_offsets(TopicPartition(topic, p), timeout=START_SECONDS, cached=False)
                for p in sorted(parts)}
    finally:
        c.close()


def settled_ends(bootstrap, topic, acked):
    """end_offsets once they count all that was acknowledged: a PUBACK says that it is in the ring, the log follows."""
    def look():
        ends = end_offsets(bootstrap, topic)
        return ends if sum(e for _, e in ends.values()) >= acked else None
    return wait_until(f"{topic} holds {acked} records", look)


def stored(bootstrap, topic):
    return sum(e - s for s, e in end_offsets(bootstrap, topic).values())


def read_all(bootstrap, topic, count=None, seconds=READ_SECONDS):
    """Every record from the beginning, per partition order kept: until `count` of them, or, without a
    count, until the ends that the partitions had when this began."""
    from confluent_kafka import TopicPartition
    c = consumer(bootstrap)
    records = []
    try:
        parts = sorted(c.list_topics(topic, timeout=START_SECONDS).topics[topic].partitions)
        if count is None:
            count = sum(e - s for s, e in (c.get_watermark_offsets(
                TopicPartition(topic, p), START_SECONDS, cached=False) for p in parts))
        c.assign([TopicPartition(topic, p, 0) for p in parts])
        end = time.monotonic() + seconds
        while len(records) < count:
            left = end - time.monotonic()
            assert left > 0, f"{len(records)} of {count} records after {seconds} s"
            for m in c.consume(5000, timeout=min(left, 0.2)):
                if m.error():
                    assert m.error().retriable() or m.error().code() < 0, str(m.error())
                    continue
                records.append(Record(m.partition(), m.offset(), m.timestamp()[1], m.key(), m.value(),
                                      m.headers() or []))
        return records
    finally:
        c.close()


def by_partition(records):
    out = {}
    for r in records:
        out.setdefault(r.partition, []).append(r)
    return out


def assert_dense(records, start=0):
    """Offsets of each partition are start, start + 1, … in the order of arrival."""
    for p, rs in by_partition(records).items():
        assert [r.offset for r in rs] == list(range(start, start + len(rs))), f"partition {p}"


def kafka_murmur2(data):
    """As Java's Utils.murmur2, for checking partitions from the outside."""
    length, m, mask = len(data), 0x5bd1e995, 0xffffffff
    h = (0x9747b28c ^ length) & mask
    for i in range(0, length - length % 4, 4):
        k = int.from_bytes(data[i:i + 4], "little")
        k = (k * m) & mask
        k ^= k >> 24
        k = (k * m) & mask
        h = (h * m) & mask
        h ^= k
    tail = data[length - length % 4:]
    if len(tail) >= 3:
        h ^= tail[2] << 16
    if len(tail) >= 2:
        h ^= tail[1] << 8
    if len(tail) >= 1:
        h ^= tail[0]
        h = (h * m) & mask
    h ^= h >> 13
    h = (h * m) & mask
    h ^= h >> 15
    return h


def partition_of(key, partitions):
    return (kafka_murmur2(key) & 0x7fffffff) % partitions


# --- client drivers: tests/clients/README.md has the contract ---------------------------------------


def driver_argv(client):
    py = str(ROOT / "build" / "venv" / "bin" / "python")
    here = ROOT / "tests" / "clients"
    table = {
        "librdkafka": [py, here / "python" / "confluent_driver.py"],
        "kafka-python": [py, here / "python" / "kafka_python_driver.py"],
        "kafka-python-2.0.2": [py, here / "python" / "kafka_python_driver.py", "--lib",
                               ROOT / "build" / "py" / "kafka-python-2.0.2"],
        "aiokafka": [py, here / "python" / "aiokafka_driver.py"],
        "java": ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp",
                 f"{CLIENTS}/java/classes:{CLIENTS}/java/lib/*", "Driver"],
        "franz-go": [CLIENTS / "go" / "driver", "franz"],
        "sarama": [CLIENTS / "go" / "driver", "sarama"],
        "kafka-go": [CLIENTS / "go" / "driver", "kafka-go"],
        "kafkajs": ["node", CLIENTS / "node" / "driver.js"],
    }
    return [str(a) for a in table[client]]


def copier_argv(client):
    argv = driver_argv(client)
    if client in ("franz-go", "sarama"):
        return [argv[0], "copy-" + argv[1]]
    if client == "kafkajs":
        return [argv[0], str(CLIENTS / "node" / "copier.js")]
    return [argv[0], str(ROOT / "tests" / "clients" / "python" / "copier.py"), "--client", client]


class Driver:
    """A client driver under observation. Its own stamps say when something happened: lines of two drivers may arrive here in
    another order."""

    program = staticmethod(driver_argv)

    def __init__(self, client, bootstrap, topic, group, count=None, name=None, **options):
        self.name = name or client
        argv = self.program(client) + ["--bootstrap", bootstrap, "--topic", topic, "--group", group]
        if count is not None:
            argv += ["--count", str(count)]
        for k, v in options.items():
            argv += ["--" + k.replace("_", "-")] + ([] if v is True else [str(v)])
        self.events = []  # (monotonic seconds, dict)
        self.cond = threading.Condition()
        self.proc = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                     stderr=subprocess.PIPE)
        self.errors = []
        self.threads = [threading.Thread(target=self.read_out, daemon=True),
                        threading.Thread(target=self.read_err, daemon=True)]
        for t in self.threads:
            t.start()

    def read_out(self):
        for line in self.proc.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                event = {"noise": line.decode("utf-8", "replace")}
            at = event.pop("t") / 1e9 if "t" in event else time.monotonic()
            with self.cond:
                self.events.append((at, event))
                self.cond.notify_all()
        with self.cond:
            self.cond.notify_all()

    def read_err(self):
        for line in self.proc.stderr:
            self.errors.append(line.decode("utf-8", "replace"))

    def wait_for(self, what, predicate, seconds=READ_SECONDS):
        """Until predicate(events) is true."""
        with self.cond:
            ok = self.cond.wait_for(lambda: predicate(self.events) or self.proc.poll() is not None,
                                    seconds)
            if not (ok and predicate(self.events)):
                raise AssertionError(f"{self.name}: not {what}; exit {self.proc.poll()}; "
                                     f"{self.summary()}\n" + "".join(self.errors[-40:]))

    def summary(self):
        """What happened but for records and commits, and how many of those."""
        events = [e for _, e in list(self.events)]
        other = [e for e in events if "o" not in e and "commit" not in e]
        return f"{sum('o' in e for e in events)} records, {len(events)} events, of them {other[-20:]}"

    def wait_records(self, n, seconds=READ_SECONDS):
        self.wait_for(f"{n} records", lambda ev: sum("o" in e for _, e in ev) >= n, seconds)

    def leave(self, seconds=READ_SECONDS):
        """Asks the driver to commit and leave its group in good order."""
        self.proc.stdin.close()
        return self.wait(seconds)

    def kill9(self):
        self.proc.kill()
        self.proc.wait(KILL_SECONDS)
        for t in self.threads:
            t.join(START_SECONDS)

    def wait(self, seconds=READ_SECONDS):
        try:
            code = self.proc.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill9()
            raise AssertionError(f"{self.name} did not finish within {seconds} s; "
                                 f"{len(self.events)} events\n" + "".join(self.errors[-40:]))
        for t in self.threads:
            t.join(START_SECONDS)
        assert code == 0, f"{self.name} ended with {code}\n" + "".join(self.errors[-40:])
        return self

    def close(self):
        if self.proc.poll() is None:
            self.kill9()

    @property
    def records(self):
        dec = lambda x: None if x is None else base64.b64decode(x)
        return [Record(e["p"], e["o"], e["ts"], dec(e["k"]), dec(e["v"]),
                       [(k, dec(v)) for k, v in e["h"]]) for _, e in list(self.events) if "o" in e]

    def last(self, name):
        """The last event of that name, or None."""
        found = [e[name] for _, e in list(self.events) if name in e]
        return found[-1] if found else None

    @property
    def committed(self):
        got = self.last("committed")
        return None if got is None else {int(p): o for p, o in got.items() if o is not None and o >= 0}


class Copier(Driver):
    """A stream is copied into another in transactions that carry the offsets: tests/clients/README.md."""

    program = staticmethod(copier_argv)

    def __init__(self, client, bootstrap, topic, to, group, name, hold=False):
        super().__init__(client, bootstrap, topic, group, name=f"{client} {name}", to=to, id=name,
                         **({"hold": True} if hold else {}))

    def wait_said(self, what, seconds=READ_SECONDS):
        self.wait_for(what, lambda ev: any(what in e for _, e in ev), seconds)

    def go_on(self):
        self.proc.stdin.write(b"\n")
        self.proc.stdin.flush()


def run_driver(client, bootstrap, topic, group, count, seconds=READ_SECONDS, **options):
    d = Driver(client, bootstrap, topic, group, count, **options)
    try:
        return d.wait(seconds)
    finally:
        d.close()


def group_violations(drivers):
    """Deliveries of a record after a commit that covers it was acknowledged: must be none."""
    timeline = sorted(((t, i, e, d.name) for d in drivers for i, (t, e) in enumerate(d.events)),
                      key=lambda x: x[:2])
    done, bad = {}, []
    for _, _, e, name in timeline:
        if "commit" in e:
            for p, o in e["commit"].items():
                done[int(p)] = max(done.get(int(p), 0), o)
        elif "o" in e and e["o"] < done.get(e["p"], 0):
            bad.append((name, e["p"], e["o"], done[e["p"]]))
    return bad
