"""What the plugin says about itself: per stream, published = stored + filtered + rejected + dropped, always."""

import re

import pytest
from harness import wait_until

pytestmark = pytest.mark.broker
PARTS = ("stored", "filtered", "rejected", "dropped")


class Counters:
    """$SYS/broker/culex/# as a dict that grows."""

    def __init__(self, mqtt):
        self.mqtt = mqtt
        mqtt.subscribe("$SYS/broker/culex/#", 0)

    def of(self, stream):
        out = {}
        for m in list(self.mqtt.messages):
            found = re.fullmatch(rf"\$SYS/broker/culex/(?:streams?/)?{stream}/(.+)", m.topic)
            if found:
                out[found.group(1)] = m.payload.decode()
        return out

    def total(self, stream, name):
        """Dropped and rejected may come by reason, one topic each."""
        mine = self.of(stream)
        if name in mine:
            return int(mine[name])
        return sum(int(v) for k, v in mine.items() if k.startswith(name + "/"))


def test_counters_under_sys_add_up(culex_factory):
    c = culex_factory(streams=[{"name": "demo", "filters": ["demo/#"]}, {"name": "idle", "filters": ["none"]}])
    with c.mqtt() as watcher, c.mqtt() as m:
        counters = Counters(watcher)
        m.publish_all([("demo/x", "p" * 10)] * 300)
        wait_until("the counters say 300 stored", lambda: counters.total("demo", "stored") == 300)
        assert counters.total("demo", "published") == sum(counters.total("demo", n) for n in PARTS) == 300
        wait_until("the idle stream is there", lambda: counters.of("idle"))
        assert counters.total("idle", "published") == 0


def test_records_without_their_key_are_counted(culex_factory):
    c = culex_factory(streams=[{"name": "keyed", "filters": ["demo/#"], "key": "payload.id"},
                               {"name": "none", "filters": ["demo/#"], "key": "none"}])
    with c.mqtt() as watcher, c.mqtt() as m:
        counters = Counters(watcher)
        m.publish_all([("demo/x", '{"id": 0.1}'), ("demo/x", '{"other": 1}'), ("demo/x", "not JSON")])
        wait_until("two are without a key", lambda: counters.of("keyed").get("unkeyed") == "2")
        wait_until("the other stream has all", lambda: counters.of("none").get("stored") == "3" and "unkeyed" in counters.of("none"))
        assert counters.of("none")["unkeyed"] == "0"
    c.broker.stop()
    assert re.search(r"stream=keyed .*\bunkeyed=2", c.broker.log())


def test_counters_are_in_the_log_at_stop(culex):
    culex.publish("demo/x", ["x"] * 42)
    culex.broker.stop()
    line = [x for x in culex.broker.log().splitlines() if "demo" in x and "stored" in x][-1]
    numbers = dict(re.findall(r"(\w+)=(\d+)", line))
    assert numbers["published"] == numbers["stored"] == "42"
