"""Flink, in a mini-cluster: a Kafka source with checkpoints reads a captured stream, and an exactly-once Kafka sink writes a free one,
while the job, the server, the broker and its writer are killed.

The job numbers the records of each site. That each number of a site is there once, beside the record that has it, says
that the source's offsets, the job's state and the sink's transactions belong together at every instant. Both ways in
which the sink finds the transactions that a killed job left open are tried.
"""

import collections
import random
import time

import harness
from worlds import DONE_SECONDS, START_SECONDS, Feeder, Program, create_topic, records

SAW = ("Flink", "source with checkpoints and sink, exactly once, through kills")
STREAMS = ["readings"]
SITES = 12


def job(home, world, sink, strategy):
    return Program(home, sink, "Job", world.bootstrap, "readings", sink, home / f"{sink}-checkpoints", strategy,
                   heap="384m", lib="flink-lib", classes="flink-classes")


def checkpoints(home, sink):
    return set((home / f"{sink}-checkpoints").glob("*/chk-*/_metadata"))


def lines(bootstrap, topic):
    return [r.value.decode() for r in records(bootstrap, topic)]


def run_one(args, home, world, rng, strategy, kills):
    sink = f"numbered-{strategy.lower()}"
    create_topic(world.bootstrap, sink, 3)

    def reading(i):
        site = f"site{rng.randrange(SITES)}"
        return f"readings/{site}", f"{site} reading {strategy} {i}"
    feeder = Feeder(world, reading)
    flink = job(home, world, sink, strategy).start()
    harness.wait_until("the job made a checkpoint", lambda: checkpoints(home, sink), START_SECONDS, every=0.1)
    things = {"job": flink.restart, **world.things}
    chance = random.Random(args.seed)
    names = [*things, *chance.choices(["job", *things], k=kills)][:kills]
    chance.shuffle(names)
    for name in names:
        made = checkpoints(home, sink)
        if chance.random() < 0.7:  # else it is killed while it starts, or restores
            harness.wait_until("the job makes checkpoints", lambda: checkpoints(home, sink) != made, START_SECONDS, every=0.1)
        time.sleep(chance.uniform(0, 2))
        print(f"        kill: {name}", flush=True)
        things[name]()
        if not flink.running():  # it gives up when the server is away for long, as in any cluster
            flink.start()
    sent = feeder.finish()
    captured = lines(world.bootstrap, "readings")
    assert set(sent) <= set(captured), "publishes with a PUBACK are not in the stream"

    def complete():
        if not flink.running():
            flink.start()
        return len(lines(world.bootstrap, sink)) >= len(captured)
    harness.wait_until(f"{len(captured)} records are numbered", complete, DONE_SECONDS, every=1)
    flink.kill9()
    check(captured, lines(world.bootstrap, sink))
    return len(captured), len(names)


def check(captured, numbered):
    parts = [line.split(" ", 2) for line in numbered]
    got = collections.Counter(f"{site} {rest}" for site, _, rest in parts)
    want = collections.Counter(captured)
    assert got == want, f"missing {list((want - got).items())[:5]}, more {list((got - want).items())[:5]}"
    numbers = collections.defaultdict(list)
    for site, n, _ in parts:
        numbers[site].append(int(n))
    for site, of_site in numbers.items():
        assert of_site == list(range(1, len(of_site) + 1)), f"the numbers of {site} are not one after the other"


def run(args, home, world, rng):
    said = []
    for strategy in "INCREMENTING", "POOLING":
        said.append("{}: %d records, %d kills".format(strategy.lower()) %
                    run_one(args, home, world, rng, strategy, args.kills))
    return f"{'; '.join(said)}; each numbered once"
