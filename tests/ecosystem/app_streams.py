"""Kafka Streams: word count and a table join with exactly_once_v2 over a captured stream, while the application, the server,
the broker and its writer are killed.

The words are published with MQTT; the table is a compacted stream of names that a producer wrote. What is
published when the broker is killed may be captured twice, so the captured stream is what the results are held against:
each of its records is counted and joined once.

Now and then the application loses its state on disk, too, and has it again from the changelogs in the server, which are
compacted meanwhile.
"""

import collections
import random
import shutil
import time

import harness
from worlds import DONE_SECONDS, PARTITIONS, START_SECONDS, Feeder, Producer, Program, committed, create_topic, records

SAW = ("Kafka Streams", "word count and table join, exactly once, through kills")
STREAMS = ["words"]
PREFIX = "app"
WORDS = "sun moon star rain wind snow frost cloud storm calm".split()
SITES = [f"site{i}" for i in range(20)]
NAMED = SITES[:15]


def kill_all(rng, world, app, state, times):
    """Joining, restoring, working and committing are all hit: a moment after the start, and seconds into the work."""
    def lose_state():
        app.kill9()
        shutil.rmtree(state, ignore_errors=True)
        app.start()
    kills = {"application": app.restart, **world.things, "application and its state": lose_state}
    names = [*kills, *rng.choices(list(kills), k=times)][:times]
    rng.shuffle(names)
    for name in names:
        if times < len(kills) or rng.random() < 0.6:
            app.wait_log("state RUNNING", DONE_SECONDS)
        time.sleep(rng.uniform(0.5, 4))
        print(f"        kill: {name}", flush=True)
        kills[name]()
    return collections.Counter(names)


def expected(world):
    """Of what was captured: how often each word, and each joined line; and the captured values."""
    counts, joined, values = collections.Counter(), collections.Counter(), []
    for r in records(world.bootstrap, "words"):
        key, value = r.key.decode(), r.value.decode()
        values.append(value)
        counts.update(value.split())
        if key in NAMED:
            joined[f"Name of {key}: {value}"] += 1
    return {f"count {w} {n}" for w, n in counts.items()} | {f"joined {n} {v}" for v, n in joined.items()}, values


def come_out(world):
    """What is committed in the streams that the application writes, as `expected` has it."""
    counts = {r.key.decode(): int.from_bytes(r.value, "big") for r in records(world.bootstrap, f"{PREFIX}-counts")}
    joined = collections.Counter(r.value.decode() for r in records(world.bootstrap, f"{PREFIX}-joined"))
    return {f"count {w} {n}" for w, n in counts.items()} | {f"joined {n} {v}" for v, n in joined.items()}


def make_topics(world):
    for name, policy in ("names", "compact"), ("counts", "compact"), ("joined", "delete"):
        create_topic(world.bootstrap, f"{PREFIX}-{name}", PARTITIONS, {"cleanup.policy": policy})
    names = Producer(world.bootstrap)
    for site in NAMED:
        names.publish(f"{PREFIX}-names/{site}", f"Name of {site}")
    names.close()


def settled(world):
    """Whether the application has committed all of what it reads: the captured stream, and then the words that it has sent
    to itself, by word."""
    offsets = committed(world.bootstrap, PREFIX, "words")
    if any(offsets.get(p, 0) != end for p, (_, end) in harness.end_offsets(world.bootstrap, "words").items()):
        return False
    topic = f"{PREFIX}-counts-repartition"
    offsets = committed(world.bootstrap, PREFIX, topic)
    return all(r.offset < offsets.get(r.partition, 0) for r in records(world.bootstrap, topic))


def run(args, home, world, rng):
    make_topics(world)
    app = Program(home, "streams", "Streams", world.bootstrap, PREFIX, "words", home / "state",
                  3000 if args.short else 10000).start()
    app.wait_log("state RUNNING", START_SECONDS)

    def line(i):
        words = rng.choices(WORDS, k=rng.randint(1, 4))
        return f"words/{rng.choice(SITES)}", f"{' '.join(words)} x{i}"
    feeder = Feeder(world, line)
    kills = kill_all(random.Random(args.seed), world, app, home / "state", 2 if args.short else args.kills)
    published = feeder.finish()
    harness.wait_until("all is worked on and committed", lambda: settled(world), DONE_SECONDS, every=0.5)
    app.stop(START_SECONDS)
    want, values = expected(world)
    missing = set(published) - set(values)
    assert not missing, f"{len(missing)} publishes with a PUBACK are not in the stream: {sorted(missing)[:3]}"
    got = come_out(world)
    assert got == want, f"missing {sorted(want - got)[:5]}, more {sorted(got - want)[:5]}"
    return f"{len(values)} captured, {sum(kills.values())} kills ({dict(kills)}), {len(want)} results exact"
