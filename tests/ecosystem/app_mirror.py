"""MirrorMaker 2 copies a captured stream into an Apache Kafka, exactly once (exactly.once.source.support), and groups' offsets
with it, while it, the server and the broker are killed.

What arrives there has the partitions, order, keys, values, headers and timestamps of the stream; and a group that goes on
in Kafka at its translated offsets gets what it has not seen here: nothing more, nothing less.

A stream that a Kafka client has bound has configs that Apache Kafka does not know: MirrorMaker 2 is told to leave them out,
as docs/tools.md says, or that stream would not be made there. The others go along.
"""

import random
import time

import harness
from worlds import DONE_SECONDS, RETENTION_MS, Feeder, Kafka, Program, committed, config_of, records

SAW = ("MirrorMaker 2", "copies a captured stream into Apache Kafka, exactly once, with offsets of groups, through kills")
STREAMS = ["doors"]
BOUND = ["gates"]
TOPICS = STREAMS + BOUND
COPIES = {f"culex.{t}" for t in TOPICS}

MIRROR = """
clusters=culex,kafka
culex.bootstrap.servers={source}
kafka.bootstrap.servers={target}
culex->kafka.enabled=true
culex->kafka.topics=doors,gates
culex->kafka.groups=early,late
kafka->culex.enabled=false
replication.factor=1
checkpoints.topic.replication.factor=1
heartbeats.topic.replication.factor=1
offset-syncs.topic.replication.factor=1
config.storage.replication.factor=1
offset.storage.replication.factor=1
offset.storage.partitions=1
status.storage.replication.factor=1
status.storage.partitions=1
sync.group.offsets.enabled=true
sync.group.offsets.interval.seconds=1
emit.checkpoints.interval.seconds=1
refresh.topics.interval.seconds=2
refresh.groups.interval.seconds=1
sync.topic.configs.interval.seconds=2
offset.lag.max=0
config.properties.exclude=mqtt[.].*
kafka.exactly.once.source.support=enabled
dedicated.mode.enable.internal.rest=true
listeners=http://127.0.0.1:{rest}
session.timeout.ms=6000
heartbeat.interval.ms=1000
scheduled.rebalance.max.delay.ms=0
plugin.discovery=service_load
"""


def mirror(home, world, target):
    path = home / "mirror.properties"
    path.write_text(MIRROR.format(source=world.bootstrap, target=target.bootstrap, rest=harness.free_port()))
    return Program(home, "mirror", "org.apache.kafka.connect.mirror.MirrorMaker", path)


def feed(world, seed):
    rng = random.Random(seed)
    return Feeder(world, lambda i: (f"{rng.choice(TOPICS)}/key{rng.randrange(31)}", f"publish {i}"))


def commit_all(world, group):
    """The group has read all that there is."""
    from confluent_kafka import TopicPartition
    c = harness.consumer(world.bootstrap, **{"group.id": group})
    try:
        ends = {(t, p): end for t in TOPICS for p, (_, end) in harness.end_offsets(world.bootstrap, t).items()}
        c.commit(offsets=[TopicPartition(t, p, end) for (t, p), end in ends.items()], asynchronous=False)
        return ends
    finally:
        c.close()


def content(rs):
    """Of each partition, without offsets: the copy has transaction markers between records."""
    return {p: [(r.key, r.value, r.timestamp, r.headers) for r in part]
            for p, part in harness.by_partition(rs).items()}


def topics(bootstrap):
    from confluent_kafka.admin import AdminClient
    return AdminClient({"bootstrap.servers": bootstrap}).list_topics(timeout=30).topics


def wait_copied(world, target):
    return sum(wait_copied_one(world, target, t) for t in TOPICS)


def wait_copied_one(world, target, topic):
    want = content(records(world.bootstrap, topic))
    count = sum(map(len, want.values()))
    got = {}

    def look():
        got["rs"] = records(target.bootstrap, f"culex.{topic}")
        return len(got["rs"]) >= count
    harness.wait_until(f"{count} records are copied", look, DONE_SECONDS, every=0.5)
    assert content(got["rs"]) == want, f"the copy of {topic} is not the stream"
    return count


def left(target, group, topic):
    """What a group has yet to read in Kafka, by its translated offsets; None while there are not all of them."""
    offsets = committed(target.bootstrap, group, f"culex.{topic}")
    rs = records(target.bootstrap, f"culex.{topic}")
    if set(offsets) != {r.partition for r in rs}:
        return None
    return content([r for r in rs if r.offset >= offsets[r.partition]])


def wait_translated(target, group):
    for t in TOPICS:
        harness.wait_until(f"the offsets of {group} in {t} are translated", lambda t=t: left(target, group, t) == {},
                           DONE_SECONDS, every=0.5)


def run(args, home, world, rng):
    target = Kafka(home, "target", "auto.create.topics.enable=false")  # MirrorMaker 2 makes them
    feeder = feed(world, args.seed)
    mm2 = mirror(home, world, target).start()
    harness.wait_until("the topics are there", lambda: COPIES <= set(topics(target.bootstrap)), DONE_SECONDS, every=0.2)
    feeder.finish()
    wait_copied(world, target)
    seen = commit_all(world, "early")
    wait_translated(target, "early")

    feeder = feed(world, args.seed + 1)
    things = {"mirror": mm2.restart, **world.things}
    names = [*things, *rng.choices(list(things), k=args.kills)][:args.kills]
    for name in names:
        time.sleep(rng.uniform(0, 8))
        print(f"        kill: {name}", flush=True)
        things[name]()
    feeder.finish()
    count = wait_copied(world, target)
    commit_all(world, "late")
    wait_translated(target, "late")
    for t in TOPICS:
        unseen = content([r for r in records(world.bootstrap, t) if r.offset >= seen[t, r.partition]])
        assert left(target, "early", t) == unseen, "the offsets of an older commit have moved"
    for t in BOUND:
        harness.wait_until(f"the configs of {t} are those of its copy",
                           lambda: config_of(target.bootstrap, f"culex.{t}", "retention.ms") == RETENTION_MS, DONE_SECONDS)
    return f"{count} records copied exactly once through {len(names)} kills; offsets of two groups translated"
