"""kill -9 at any moment: what was acknowledged is in the log, once, in the order of its publisher.

ROUNDS=n makes the runs longer than the short form that `make test` runs."""

import os
import random

import pytest
from harness import (Driver, Load, end_offsets, group_violations, read_all, settled_ends, wait_until)

pytestmark = pytest.mark.broker
ROUNDS = int(os.environ.get("ROUNDS", "5"))
SEED = int(os.environ.get("SEED", "1"))
PUBLISHERS = 4


def check_publishers(records, acked, sent):
    """acked, sent: per publisher, a list of (first sequence, count) of each round."""
    per = {p: [] for p in range(PUBLISHERS)}
    for r in records:
        who, seq = r.value.split(b" ")[:2]
        per[int(who, 16)].append(int(seq, 16))
    for p, seqs in per.items():
        assert len(set(seqs)) == len(seqs), f"publisher {p}: {len(seqs) - len(set(seqs))} repeated"
        assert seqs == sorted(seqs), f"publisher {p}: reordered"
        must = {s for first, n in acked[p] for s in range(first, first + n)}
        may = {s for first, n in sent[p] for s in range(first, first + n)}
        missing = must - set(seqs)
        assert not missing, f"publisher {p}: {len(missing)} acknowledged but lost, e.g. {sorted(missing)[:5]}"
        assert set(seqs) <= may, f"publisher {p}: records that were never sent"


@pytest.mark.timeout(300 + 60 * ROUNDS)
@pytest.mark.parametrize("qos", [1, 2])
def test_broker_killed_under_load_keeps_every_acknowledged_publish_once(culex_factory, qos):
    c = culex_factory(store={"segment.bytes": 4 << 20})
    rng = random.Random(SEED)
    acked, sent = ({p: [] for p in range(PUBLISHERS)} for _ in range(2))
    first = 0
    for n in range(ROUNDS):
        with Load(c.broker.port, "-n", PUBLISHERS, "-q", qos, "-c", 10_000_000, "-w", 500 if qos == 1 else 20,
                  "-t", "demo", "-f", first) as load:
            before = sum(e for _, e in end_offsets(c.bootstrap, "demo").values())
            target = before + rng.randrange(500, 20000)
            wait_until("some thousand records more are stored", lambda: sum(
                e for _, e in end_offsets(c.bootstrap, "demo").values()) > target, every=0.001)
            c.broker.kill9()
            report = load.result()
        for p, (s, a) in enumerate(report["conns"]):
            sent[p].append((first, s))
            acked[p].append((first, a))
        assert report["acked"] > 0 and report["ack_disorder"] == 0
        first += max(s for s, _ in report["conns"]) + 1
        c.broker.start()
    # A publish through the restarted plugin comes behind all that recovery brought.
    c.publish("demo/end", ["0000000f 0000000000000000 end"])
    wait_until("the last one is stored", lambda: any(r.value.endswith(b" end") for r in read_all(
        c.bootstrap, "demo")), 120, every=0.2)
    records = [r for r in read_all(c.bootstrap, "demo") if not r.value.endswith(b" end")]
    check_publishers(records, acked, sent)


@pytest.mark.timeout(300 + 60 * ROUNDS)
def test_both_killed_at_once_under_load(culex):
    rng = random.Random(SEED)
    acked, sent = ({p: [] for p in range(PUBLISHERS)} for _ in range(2))
    first = 0
    for n in range(ROUNDS):
        with Load(culex.broker.port, "-n", PUBLISHERS, "-q", 1, "-c", 10_000_000, "-w", 100, "-t", "demo",
                  "-f", first) as load:
            before = sum(e for _, e in end_offsets(culex.bootstrap, "demo").values())
            target = before + rng.randrange(500, 5000)
            wait_until("records flow", lambda: sum(
                e for _, e in end_offsets(culex.bootstrap, "demo").values()) > target, every=0.001)
            culex.server.kill9()
            culex.broker.kill9()
            report = load.result()
        for p, (s, a) in enumerate(report["conns"]):
            sent[p].append((first, s))
            acked[p].append((first, a))
        first += max(s for s, _ in report["conns"]) + 1
        culex.broker.start()
        culex.server.start()
    wait_until("all that was acknowledged is there", lambda: len(read_all(culex.bootstrap, "demo")) >= sum(
        n for rounds in acked.values() for _, n in rounds), 120, every=0.2)
    check_publishers(read_all(culex.bootstrap, "demo"), acked, sent)


@pytest.mark.timeout(300 + 60 * ROUNDS)
@pytest.mark.parametrize("client", ["librdkafka", "java"])
def test_server_killed_under_committing_consumers_keeps_every_commit(culex, client):
    """Commits that were answered are there after each kill; nothing below them is delivered again."""
    rng = random.Random(SEED)
    members = []
    with Load(culex.broker.port, "-n", 2, "-q", 1, "-d", 600, "-r", 2000, "-T", 32, "-t", "demo") as load:
        try:
            members = [Driver(client, culex.bootstrap, "demo", "g", 0, name=f"member {i}") for i in range(2)]

            def commits():
                return sum("commit" in e for d in members for _, e in list(d.events))
            for n in range(ROUNDS):
                target = commits() + rng.randrange(3, 15)
                wait_until("more commits are answered", lambda: commits() > target, every=0.002)
                culex.server.kill9()
                done = {}
                for d in members:
                    for _, e in list(d.events):
                        for p, o in e.get("commit", {}).items():
                            done[int(p)] = max(done.get(int(p), 0), o)
                culex.server.start()
                from test_clients import committed_by_another_client
                now = committed_by_another_client(culex.bootstrap, "g")
                behind = {p: (o, now.get(p)) for p, o in done.items() if now.get(p, -1) < o}
                assert not behind, f"answered and lost: {behind}"
            ends = settled_ends(culex.bootstrap, "demo", load.stop()["acked"])
            want = {(p, o) for p, (_, e) in ends.items() for o in range(e)}
            wait_until("all records are delivered", lambda: want <= {
                (e["p"], e["o"]) for d in members for _, e in list(d.events) if "o" in e}, 120, every=0.1)
            for d in members:
                d.leave()
            assert group_violations(members) == []
        finally:
            for d in members:
                d.close()
