"""Consumer groups with real clients: members come, leave, are killed; servers and brokers too. What must hold is always the
same: no record is missing, and none is delivered after a commit that covers it was answered."""

import shutil
import signal
import time
from itertools import count
from types import SimpleNamespace

import pytest
from harness import Driver, Load, group_violations, partition_of, run_driver, settled_ends, wait_until

MEMBERS = [("librdkafka", {}), ("librdkafka", {"assignor": "cooperative-sticky"}), ("java", {}),
           ("java", {"assignor": "cooperative-sticky"}), ("java", {"assignor": "roundrobin"}), ("java", {"assignor": "sticky"}),
           ("franz-go", {}), ("sarama", {}), ("kafka-go", {}),
           ("kafkajs", {}), ("kafka-python", {}), ("kafka-python-2.0.2", {}), ("aiokafka", {})]
SESSION_MS = 60000  # of one who is to come back: on a busy machine Java takes a while to start
NAMES = [c + ("-" + o["assignor"] if o else "") for c, o in MEMBERS]


class Group:
    """The members of a group over its whole life, the dead ones too."""

    def __init__(self, culex, client, options, group="g"):
        self.culex, self.client, self.options, self.group = culex, client, options, group
        self.all = []

    def join(self, **more):
        d = Driver(self.client, self.culex.bootstrap, "demo", self.group, 0,
                   name=f"{self.client} {len(self.all)}", **self.options, **more)
        self.all.append(d)
        return d

    def delivered(self):
        return {(e["p"], e["o"]) for d in self.all for _, e in list(d.events) if "o" in e}

    def wait_all(self, ends, seconds=120):
        want = {(p, o) for p, (s, e) in ends.items() for o in range(s, e)}
        try:
            wait_until(f"all {len(want)} records are delivered", lambda: want <= self.delivered(), seconds,
                       every=0.05)
        except AssertionError as e:
            missing = sorted(want - self.delivered())
            said = [(d.name, [e for _, e in list(d.events) if "o" not in e][-5:]) for d in self.all]
            raise AssertionError(f"{e}; missing {len(missing)}: {missing[:20]} of {ends}; last said {said}") from e
        assert self.delivered() == want

    def close(self):
        for d in self.all:
            d.close()


def partitions_since(driver, mark):
    return {e["p"] for _, e in list(driver.events)[mark:] if "o" in e}


def wait_gets(driver, parts, seconds=120):
    """Until records of all these partitions arrive at the driver, counted from now."""
    mark = len(driver.events)
    driver.wait_for(f"records of {len(parts)} partitions", lambda ev: parts <= {
        e["p"] for _, e in ev[mark:] if "o" in e}, seconds)


def load(culex, rate=800):
    return Load(culex.broker.port, "-n", 2, "-q", 1, "-d", 300, "-r", rate, "-T", 64, "-t", "demo")


@pytest.fixture
def live(culex):
    """A running Culex with a load on 128 topics, so that every partition moves all the time."""
    with load(culex) as l:
        yield culex, l


@pytest.mark.parametrize("client,options", MEMBERS, ids=NAMES)
def test_two_members_share_one_leaves_one_is_killed(live, client, options):
    culex, publisher = live
    g = Group(culex, client, options)
    try:
        a = g.join()
        wait_gets(a, set(range(16)))
        b = g.join()
        b.wait_records(200)
        # Sharing: after both have settled, each gets some partitions and together they get all.
        mark_a, mark_b = len(a.events), len(b.events)
        wait_until("both together get all partitions, neither all", lambda: len(
            partitions_since(a, mark_a) | partitions_since(b, mark_b)) == 16 and partitions_since(b, mark_b),
            120, every=0.05)
        assert partitions_since(b, mark_b) < set(range(16))
        b.leave()
        wait_gets(a, set(range(16)))
        c = g.join()
        c.wait_records(100)
        a.kill9()
        wait_gets(c, set(range(16)))
        report = publisher.stop()
        ends = settled_ends(culex.bootstrap, "demo", report["acked"])
        assert sum(e for _, e in ends.values()) == report["acked"] == report["sent"]
        g.wait_all(ends)
        c.leave()
        # kafka-go's reader hands out and commits what it had fetched before a rebalance, whoever owns the partition
        # now: it repeats records, and moves positions back, against any broker, Apache Kafka included.
        if client != "kafka-go":
            assert group_violations(g.all) == []
            assert c.committed == {p: e for p, (_, e) in ends.items() if e}
    finally:
        g.close()


@pytest.mark.parametrize("client", ["librdkafka", "java", "franz-go"])
def test_static_member_comes_back_without_a_rebalance(live, client):
    culex, publisher = live
    g = Group(culex, client, {"assignor": "range"})
    try:
        a = g.join(instance_id="one", session_ms=SESSION_MS)
        a.wait_records(1)
        b = g.join(instance_id="two", session_ms=SESSION_MS)
        b.wait_records(100)
        share_all(a, b)
        share = owned(a)
        wait_gets(a, share)
        a.kill9()
        events_of_b = [e for _, e in list(b.events) if "assigned" in e or "revoked" in e]
        again = g.join(instance_id="one", session_ms=SESSION_MS)
        wait_gets(again, share)
        ends = settled_ends(culex.bootstrap, "demo", publisher.stop()["acked"])
        g.wait_all(ends)
        assert [e for _, e in list(b.events) if "assigned" in e or "revoked" in e] == events_of_b
        assert partitions_since(again, 0) == share
        assert group_violations(g.all) == []
    finally:
        g.close()


CALLBACKS = ("assigned", "revoked", "lost")


def owned(driver):
    """The partitions that a member has, as its callbacks say."""
    has = set()
    for _, e in list(driver.events):
        has |= set(e.get("assigned", ()))
        has -= set(e.get("revoked", ())) | set(e.get("lost", ()))
    return has


def share_all(a, b):
    def look():
        x, y = owned(a), owned(b)
        return x and y and not x & y and len(x | y) == 16
    wait_until("both have something, and all is given out once", look, 120, every=0.05)


def while_a_member(driver):
    """Without what it was given under an assignment that it lost: when that was, it could not know."""
    events, fenced = [], False
    for t, e in reversed(list(driver.events)):
        fenced = "lost" in e if any(name in e for name in CALLBACKS) else fenced
        if not (fenced and "o" in e):
            events.insert(0, (t, e))
    return SimpleNamespace(name=driver.name, events=events)


def publish_to_all(culex, tag, each=5):
    topics = {}
    for i in count():
        topics.setdefault(partition_of(b"demo/%d" % i, 16), f"demo/{i}")
        if len(topics) == 16:
            break
    with culex.mqtt() as m:
        m.publish_all([(t, f"{tag} {t} {i}") for t in topics.values() for i in range(each)])


def ends_committed(drivers, end):
    done = {}
    for d in drivers:
        for _, e in list(d.events):
            for p, o in e.get("commit", {}).items():
                done[int(p)] = max(done.get(int(p), 0), o)
    return done == {p: end for p in range(16)}


@pytest.mark.parametrize("options", [{"assignor": "sticky"}, {"assignor": "cooperative-sticky"}, {"protocol": "consumer"}],
                         ids=["sticky", "cooperative-sticky", "KIP-848"])
def test_a_member_that_was_fenced_hears_that_its_partitions_are_lost(culex_factory, options):
    """It stands still for longer than its session. What it commits then does not count, its callback says lost and never revoked,
    and it gets work again."""
    culex = culex_factory(server={"group.consumer.session.timeout.ms": 6000, "group.consumer.heartbeat.interval.ms": 300})
    g = Group(culex, "java", options)
    try:
        a, b = g.join(session_ms=6000), g.join(session_ms=SESSION_MS)
        share_all(a, b)
        publish_to_all(culex, "first")
        wait_until("all is read and committed", lambda: ends_committed([a, b], 5), 120, every=0.05)
        share = owned(a)
        a.proc.send_signal(signal.SIGSTOP)
        publish_to_all(culex, "second")
        wait_until("the other has all of it", lambda: owned(b) == set(range(16)) and ends_committed([b], 10), 120, every=0.05)
        goes_on = time.monotonic()
        a.proc.send_signal(signal.SIGCONT)

        def since():
            return [e for t, e in list(a.events) if t > goes_on]
        a.wait_for("lost", lambda ev: any("lost" in e for t, e in ev if t > goes_on))
        said = since()
        at, lost = next((i, e) for i, e in enumerate(said) if any(name in e for name in CALLBACKS))
        assert lost.keys() == {"lost"} and set(lost["lost"]) == share, said[:at + 1]
        assert not any("commit" in e for e in said[:at]), said[:at]
        share_all(a, b)
        publish_to_all(culex, "third")
        wait_until("all is read and committed", lambda: ends_committed([a, b], 15), 120, every=0.05)
        g.wait_all({p: (0, 15) for p in range(16)})
        a.leave()
        b.leave()
        assert b.committed == {p: 15 for p in range(16)}
        assert group_violations([while_a_member(a), while_a_member(b)]) == []
    finally:
        g.close()


@pytest.mark.parametrize("client", ["librdkafka", "java", "franz-go", "aiokafka"])
def test_members_outlive_a_killed_server(live, client):
    culex, publisher = live
    g = Group(culex, client, {})
    try:
        a, b = g.join(), g.join()
        for _ in range(3):
            n = len(g.delivered())
            wait_until("records flow", lambda: len(g.delivered()) > n + 1000, 120, every=0.02)
            culex.server.kill9()
            culex.server.start()
        ends = settled_ends(culex.bootstrap, "demo", publisher.stop()["acked"])
        g.wait_all(ends)
        for d in (a, b):
            d.leave()
        assert group_violations(g.all) == []
        # Whoever leaves last has seen everybody's commits.
        assert b.committed == {p: e for p, (_, e) in ends.items() if e}
    finally:
        g.close()


def test_members_read_on_while_the_broker_restarts(culex):
    g = Group(culex, "librdkafka", {})
    try:
        a = g.join()
        total = 0
        for n in range(3):
            culex.publish("demo/x", [f"{n} {i}" for i in range(200)])
            total += 200
            culex.broker.kill9() if n == 1 else culex.broker.stop()
            a.wait_records(total)  # also what was written just before is served without a broker
            culex.broker.start()
        culex.publish("demo/x", ["last"])
        a.wait_records(total + 1)
        a.leave()
        values = [r.value for r in a.records]
        assert values == [f"{n} {i}".encode() for n in range(3) for i in range(200)] + [b"last"]
    finally:
        g.close()


def test_committed_positions_outlive_everything(culex):
    culex.publish("demo/x", [str(i) for i in range(100)])
    first = run_driver("librdkafka", culex.bootstrap, "demo", "durable", 100)
    culex.kill()
    culex.broker.start()
    culex.server.start()
    culex.publish("demo/x", ["new"])
    second = run_driver("librdkafka", culex.bootstrap, "demo", "durable", 1)
    assert [r.value for r in second.records] == [b"new"]
    (part,) = first.committed
    assert second.committed == {part: 101}


def test_stream_made_anew_while_the_server_was_down_is_read_from_its_beginning(culex):
    culex.publish("demo/x", [f"old {i}" for i in range(20)])
    first = run_driver("librdkafka", culex.bootstrap, "demo", "g", 20)
    assert sum(first.committed.values()) == 20
    captured, away = culex.data / "captured", culex.data / "away"

    # Out of reach is not deleted: positions stay.
    culex.stop()
    captured.rename(away)
    culex.server.start()
    culex.server.wait_log("nothing is captured yet")
    culex.stop()
    away.rename(captured)
    culex.start()
    culex.publish("demo/x", ["more"])
    second = run_driver("librdkafka", culex.bootstrap, "demo", "g", 1)
    assert [r.value for r in second.records] == [b"more"]

    culex.stop()
    shutil.rmtree(captured)
    culex.start()
    culex.publish("demo/x", [f"new {i}" for i in range(40)])
    third = run_driver("librdkafka", culex.bootstrap, "demo", "g", 40)
    assert [r.value for r in third.records] == [f"new {i}".encode() for i in range(40)]
    assert sum(third.committed.values()) == 40
