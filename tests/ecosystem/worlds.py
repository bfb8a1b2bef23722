"""What the programs run against: Mosquitto with the plugin and a Culex server, or, as the oracle, an Apache Kafka 4.1 whose
topics stand for the captured streams.

In both a captured stream NAME takes what is published under NAME/KEY, and KEY is the records' key. `things` are what
can be killed under the programs; each entry kills one and brings it back.
"""

import subprocess
import sys
import threading
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "integration"))
import harness  # noqa: E402

ECO = harness.ROOT / "build" / "ecosystem"
START_SECONDS = 180  # a JVM's start on a machine that does other things, too
DONE_SECONDS = 180
PARTITIONS = 4  # of each stream, unless told otherwise
RETENTION_MS = "7200000"  # of streams that are made through Kafka


def java(heap="256m", lib="lib", classes="classes"):
    return ["java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", f"-Xmx{heap}",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{ECO / classes}:{ECO / lib}/*"]


class Program(harness.Process):
    """A Java program with its output in a file."""

    all = []

    def __init__(self, home, name, *args, heap="256m", lib="lib", classes="classes"):
        super().__init__(name, home)
        self.argv = java(heap, lib, classes) + [str(a) for a in args]
        Program.all.append(self)

    def start(self):
        self.launch(self.argv)
        return self

    def restart(self):
        self.kill9()
        self.start()

    def tail(self, lines=40):
        return "\n".join(self.log(since_start=False).splitlines()[-lines:])


class Publisher:
    """Publishes with QoS 1 through kills of the broker: what has no PUBACK yet is published again, so that a record
    may be in a stream twice; none is missing."""

    def __init__(self, port):
        import paho.mqtt.client as paho
        self.acked, self.sent, self.cond = 0, 0, threading.Condition()
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv311)
        self.client.reconnect_delay_set(1, 1)
        self.client.max_inflight_messages_set(100)
        self.client.max_queued_messages_set(0)
        self.client.on_publish = self.on_publish
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()

    def on_publish(self, *_):
        with self.cond:
            self.acked += 1
            self.cond.notify_all()

    def publish(self, topic, payload):
        self.sent += 1
        self.client.publish(topic, payload, 1)

    def flush(self, seconds=DONE_SECONDS):
        with self.cond:
            done = self.cond.wait_for(lambda: self.acked >= self.sent, seconds)
        assert done, f"{self.acked} of {self.sent} publishes acknowledged after {seconds} s"

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


class Feeder(threading.Thread):
    """Publishes without end at a rate, so that whatever is killed is in the middle of something. `make` takes a number and
    returns a topic and a payload."""

    PER_SECOND, BURST = 500, 25

    def __init__(self, world, make):
        super().__init__(daemon=True)
        self.publisher, self.make = world.publisher(), make
        self.published, self.failed, self.stopping = [], None, threading.Event()
        self.start()

    def run(self):
        try:
            while not self.stopping.is_set():
                for _ in range(self.BURST):
                    topic, payload = self.make(len(self.published))
                    self.published.append(payload)
                    self.publisher.publish(topic, payload)
                self.stopping.wait(self.BURST / self.PER_SECOND)
            self.publisher.flush()
        except Exception as e:  # told by the thread that joins
            self.failed = e

    def finish(self):
        """Until all is acknowledged; what was published."""
        self.stopping.set()
        self.join(2 * DONE_SECONDS)
        assert not self.is_alive() and self.failed is None, f"the feeder: {self.failed!r}"
        self.publisher.close()
        return self.published


class CulexWorld:
    """`streams` are in culex.json; `bound` are made through Kafka."""

    def __init__(self, home, streams, bound=(), partitions=PARTITIONS):
        self.culex = harness.Culex(home, streams=[
            {"name": s, "filters": [f"{s}/+"], "key": "topic[2]", "partitions": partitions} for s in streams])
        self.culex.start()
        self.bootstrap = self.culex.bootstrap
        for s in bound:
            create_topic(self.bootstrap, s, partitions, {"mqtt.filter": f"{s}/+", "mqtt.key": "topic[2]",
                                                       "retention.ms": RETENTION_MS})
        self.things = {"server": self.kill_server, "broker": self.kill_broker, "writer": self.kill_writer}

    def publisher(self):
        return Publisher(self.culex.broker.port)

    def kill_server(self):
        self.culex.server.kill9()
        self.culex.server.start()

    def kill_broker(self):
        """Broker and writer at once."""
        self.culex.broker.kill9()
        self.culex.broker.start()

    def kill_writer(self):
        self.culex.broker.kill_writer()

    def close(self):
        self.culex.kill()

    def logs(self):
        return "\n".join(f"===== {name}\n{text}" for name, text in self.culex.logs())


class Kafka:
    """Apache Kafka of one node, as the comparison has it."""

    def __init__(self, home, name="kafka", extra=""):
        port, controller = harness.free_port(), harness.free_port()
        config = (harness.ROOT / "tests" / "compare" / "kafka.properties").read_text()
        for key, value in (("@PORT@", port), ("@CONTROLLER@", controller), ("@DIR@", Path(home) / f"{name}-data")):
            config = config.replace(key, str(value))
        path = Path(home) / f"{name}.properties"
        path.write_text(f"{config}\n{extra}\n")
        subprocess.run(java() + ["kafka.tools.StorageTool", "format", "-t", "4L6g3nShT-eMCtK--X86sw", "-c", path],
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.program = Program(home, name, "kafka.Kafka", path, heap="512m").start()
        self.bootstrap = f"127.0.0.1:{port}"
        harness.wait_until(f"{name} answers", lambda: harness.port_answers(port), START_SECONDS, every=0.1)

    def close(self):
        self.program.kill9()


class Producer:
    """What Publisher is, to Apache Kafka."""

    def __init__(self, bootstrap):
        from confluent_kafka import Producer as Made
        self.made = Made({"bootstrap.servers": bootstrap, "enable.idempotence": True,
                          "partitioner": "murmur2_random"})

    def publish(self, topic, payload):
        stream, key = topic.split("/")
        self.made.produce(stream, payload, key)
        self.made.poll(0)

    def flush(self, seconds=DONE_SECONDS):
        assert self.made.flush(seconds) == 0, "records without an answer"

    def close(self):
        self.flush()


def create_topic(bootstrap, name, partitions, config=None):
    from confluent_kafka.admin import AdminClient, NewTopic
    admin = AdminClient({"bootstrap.servers": bootstrap})  # must live until there is an answer
    admin.create_topics([NewTopic(name, partitions, 1, config=config or {})])[name].result(30)


class KafkaWorld:
    def __init__(self, home, streams, bound=(), partitions=PARTITIONS):
        self.kafka = Kafka(home)
        self.bootstrap = self.kafka.bootstrap
        self.things = {}
        for s in [*streams, *bound]:
            create_topic(self.bootstrap, s, partitions, {"retention.ms": RETENTION_MS} if s in bound else {})

    def publisher(self):
        return Producer(self.bootstrap)

    def close(self):
        self.kafka.close()

    def logs(self):
        return ""


def config_of(bootstrap, topic, name):
    from confluent_kafka.admin import AdminClient, ConfigResource
    asked = ConfigResource("topic", topic)
    admin = AdminClient({"bootstrap.servers": bootstrap})
    return admin.describe_configs([asked])[asked].result(30)[name].value


def records(bootstrap, topic, committed=True):
    """What a topic holds: harness.Record, each partition in its order."""
    from confluent_kafka import TopicPartition
    c = harness.consumer(bootstrap, **{
        "isolation.level": "read_committed" if committed else "read_uncommitted", "enable.partition.eof": True})
    try:
        parts = c.list_topics(topic, timeout=30).topics[topic].partitions
        c.assign([TopicPartition(topic, p, 0) for p in parts])
        out, ends = [], set()

        def read():
            for m in c.consume(5000, timeout=0.5):
                if m.error() is None:
                    out.append(harness.Record(m.partition(), m.offset(), m.timestamp()[1], m.key(), m.value(),
                                              m.headers() or []))
                elif m.error().code() == -191:  # the end of a partition
                    ends.add(m.partition())
            return ends >= set(parts)
        harness.wait_until(f"{topic} is read to its end", read, DONE_SECONDS)
        return out
    finally:
        c.close()


def committed(bootstrap, group, topic):
    """A group's offsets: {partition: offset}, of those that it has."""
    from confluent_kafka import TopicPartition
    c = harness.consumer(bootstrap, **{"group.id": group})
    try:
        parts = [TopicPartition(topic, p) for p in c.list_topics(topic, timeout=30).topics[topic].partitions]
        return {p.partition: p.offset for p in c.committed(parts, timeout=30) if p.offset >= 0}
    finally:
        c.close()
