"""Kafka Streams: word count and a table join with exactly_once_v2 over a captured stream, while the application, the server,
the broker and its writer are killed.

The words are published with MQTT; the table is a compacted stream of names that a producer wrote. What is
published when the broker is killed may be captured twice, so the captured stream is what the results are held against:
each of its records is counted and joined once.

Now and then the application loses its state on disk, too, and has it again from the changelogs in the server, which are
compacted meanwhile.
"""

import collections
import shutil
import threading
import time

import harness
from worlds import DONE_SECONDS, START_SECONDS, Program, committed, records, tool

SAW = ("Kafka Streams", "word count and table join, exactly once, through kills")
STREAMS = ["words"]
PREFIX = "app"
WORDS = "sun moon star rain wind snow frost cloud storm calm".split()
SITES = [f"site{i}" for i in range(20)]
NAMED = SITES[:15]


class Feeder(threading.Thread):
    """Publishes at a rate, so that there is work whenever something is killed."""

    def __init__(self, world, rng, count, per_second):
        super().__init__(daemon=True)
        self.publisher, self.rng, self.count, self.per_second = world.publisher(), rng, count, per_second
        self.published, self.failed = set(), None

    def run(self):
        try:
            for i in range(self.count):
                words = [self.rng.choice(WORDS) for _ in range(self.rng.randint(1, 4))]
                text = " ".join(words) + f" x{i}"
                self.published.add(text)
                self.publisher.publish(f"words/{self.rng.choice(SITES)}", text)
                if i % 50 == 49:
                    time.sleep(50 / self.per_second)
            self.publisher.flush()
        except Exception as e:  # told by the thread that joins
            self.failed = e

    def finish(self):
        self.join(DONE_SECONDS + self.count / self.per_second)
        assert not self.is_alive() and self.failed is None, f"the feeder: {self.failed}"
        self.publisher.close()


def kill_all(rng, world, app, state, times):
    """Joining, restoring, working and committing are all hit: a moment after the start, and seconds into the work."""
    def lose_state():
        app.kill9()
        shutil.rmtree(state)
        app.start()
    kills = {"application": app.restart, **world.things, "application and its state": lose_state}
    names = [*kills, *rng.choices(list(kills), k=times)][:times]
    rng.shuffle(names)
    for name in names:
        time.sleep(rng.uniform(0.5, 5))
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


def settled(world):
    """Whether the application has committed all that the captured stream holds."""
    offsets = committed(world.bootstrap, PREFIX, "words")
    return all(offsets.get(p, 0) == end for p, (_, end) in harness.end_offsets(world.bootstrap, "words").items())


def run(args, home, world, rng):
    at = world.bootstrap
    tool(home, "topics", "Streams", "topics", at, PREFIX, 4)
    tool(home, "feed", "Streams", "feed", at, PREFIX, feed="".join(f"names {k} Name of {k}\n" for k in NAMED))
    app = Program(home, "streams", "Streams", "run", at, PREFIX, "words", home / "state",
                  3000 if args.short else 10000).start()
    app.wait_log("state RUNNING", START_SECONDS)
    count, per_second = (2000, 500) if args.short else (20000, 500)
    feeder = Feeder(world, rng, count, per_second)
    feeder.start()
    kills = kill_all(rng, world, app, home / "state", 2 if args.short else args.kills)
    feeder.finish()
    harness.wait_until("all is worked on and committed", lambda: settled(world), DONE_SECONDS, every=0.5)
    app.stop(START_SECONDS)
    want, values = expected(world)
    missing = feeder.published - set(values)
    assert not missing, f"{len(missing)} publishes with a PUBACK are not in the stream: {sorted(missing)[:3]}"
    got = set(tool(home, "read", "Streams", "read", at, PREFIX).splitlines())
    assert got == want, f"missing {sorted(want - got)[:5]}, more {sorted(got - want)[:5]}"
    return f"{len(values)} captured, {sum(kills.values())} kills ({dict(kills)}), {len(want)} results exact"
