"""What a captured publish looks like to a Kafka client: the mapping, row by row, with a real broker."""

import time

import pytest
from harness import assert_dense, by_partition, partition_of, read_all, stored, wait_until

pytestmark = pytest.mark.broker


def one(culex, topic="demo", nth=0, count=1):
    return read_all(culex.bootstrap, topic, count)[nth]


@pytest.mark.parametrize("per_listener", [False, True], ids=["global", "per-listener"])
def test_publish_of_each_qos_becomes_one_record(culex_factory, per_listener):
    c = culex_factory(per_listener=per_listener)
    before = int(time.time() * 1000)
    with c.mqtt("dev-1") as m:
        for qos in (0, 1, 2):
            m.publish("demo/a", f"qos {qos}", qos=qos)
    records = read_all(c.bootstrap, "demo", 3)
    after = int(time.time() * 1000)
    assert [r.value for r in records] == [b"qos 0", b"qos 1", b"qos 2"]
    assert [r.offset for r in records] == [0, 1, 2]
    assert {r.partition for r in records} == {partition_of(b"demo/a", 16)}
    for qos, r in enumerate(records):
        assert r.key == b"demo/a"
        assert before <= r.timestamp <= after
        assert r.header("mqtt.topic") == b"demo/a"
        assert r.header("mqtt.qos") == str(qos).encode()
        assert r.header("mqtt.retained") == b"false"
        assert r.header("mqtt.client.id") == b"dev-1"
        assert r.header("mqtt.username") is None
        assert r.header("mqtt.will") is None
        assert r.header("content-type") is None


def test_properties_of_mqtt5_become_headers(culex):
    with culex.mqtt("dev-5") as m:
        m.publish("demo/p", b"\x00\xff", UserProperty=[("b", "2"), ("a", "1"), ("b", "3")],
                  ContentType="application/octet-stream", ResponseTopic="demo/reply",
                  CorrelationData=b"\x01\x02", PayloadFormatIndicator=0)
    r = one(culex)
    assert r.value == b"\x00\xff"
    users = [(k, v) for k, v in r.headers if k in ("a", "b")]
    assert users == [("b", b"2"), ("a", b"1"), ("b", b"3")]
    assert r.header("content-type") == b"application/octet-stream"
    assert r.header("mqtt.response-topic") == b"demo/reply"
    assert r.header("mqtt.correlation-data") == b"\x01\x02"
    assert r.header("mqtt.payload-format-indicator") == b"0"


def test_system_header_wins_over_a_user_property_of_its_name(culex):
    with culex.mqtt() as m:
        m.publish("demo/p", "x", UserProperty=[("mqtt.topic", "forged")])
    r = one(culex)
    assert [v for k, v in r.headers if k == "mqtt.topic"] == [b"forged", b"demo/p"]


def test_retained_and_empty_payloads(culex):
    with culex.mqtt() as m:
        m.publish("demo/r", "kept", retain=True)
        m.publish("demo/r", b"", retain=True)
        m.publish("demo/r", b"")
    records = read_all(culex.bootstrap, "demo", 3)
    assert [(r.value, r.header("mqtt.retained")) for r in records] == [
        (b"kept", b"true"), (b"", b"true"), (b"", b"false")]


def test_topic_alias_is_resolved(culex):
    with culex.mqtt() as m:
        m.publish("demo/alias", "1", TopicAlias=3)
        m.publish("", "2", TopicAlias=3)
    assert [r.key for r in read_all(culex.bootstrap, "demo", 2)] == [b"demo/alias"] * 2


def test_old_protocol_client_is_captured(culex):
    with culex.mqtt("old", protocol=4) as m:
        m.publish("demo/v3", "hello")
    assert one(culex).header("mqtt.client.id") == b"old"


def test_every_matching_stream_gets_its_record_once(culex_factory):
    c = culex_factory(streams=[
        {"name": "all", "filters": ["#"]},
        {"name": "two", "filters": ["a/+", "a/b", "+/b"], "partitions": 1},
        {"name": "none", "filters": ["z/#"]},
        {"name": "sys", "filters": ["$site/#"]}])
    with c.mqtt() as m:
        m.publish("a/b", "1")
        m.publish("c", "2")
        m.publish("$site/x", "3")
    assert [r.value for r in read_all(c.bootstrap, "two", 1)] == [b"1"]
    assert [r.value for r in read_all(c.bootstrap, "sys", 1)] == [b"3"]
    assert sorted(r.value for r in read_all(c.bootstrap, "all", 2)) == [b"1", b"2"]
    assert stored(c.bootstrap, "none") == 0
    assert stored(c.bootstrap, "all") == 2


KEYS = [
    ("topic", b"site/line/dev"), ("clientid", b"publisher"), ("username", b"joe"),
    ("topic[2]", b"line"), ("topic[1..2]", b"site/line"), ("payload.meta.id", b"17"),
    ("payload.price", b"4.50"),
    ("property.serial", b"S-9"), ("none", None)]


def test_keys(culex_factory):
    streams = [{"name": f"k{i}", "filters": ["site/#"], "key": key, "username.header": True}
               for i, (key, _) in enumerate(KEYS)]
    c = culex_factory(streams=streams)
    with c.mqtt("publisher", username="joe") as m:
        m.publish("site/line/dev", '{"meta": {"id": 17}, "price": 4.50, "serial": 18446744073709551615}', UserProperty=[("serial", "S-9")])
    for i, (key, expected) in enumerate(KEYS):
        r = one(c, f"k{i}")
        assert r.key == expected, key
        assert r.header("mqtt.username") == b"joe"
        if expected is not None:
            assert r.partition == partition_of(expected, 16), key


def test_sparkplug_key_keeps_a_device_together(culex_factory):
    c = culex_factory(streams=[{"name": "s", "filters": ["spBv1.0/#"], "key": "sparkplug"}])
    with c.mqtt() as m:
        for kind in ("DBIRTH", "DDATA", "DDEATH"):
            m.publish(f"spBv1.0/plant/{kind}/edge/pump", kind)
    records = read_all(c.bootstrap, "s", 3)
    assert [r.value for r in records] == [b"DBIRTH", b"DDATA", b"DDEATH"]
    assert len({(r.key, r.partition) for r in records}) == 1


@pytest.mark.parametrize("headers,expected", [
    ("minimal", {"mqtt.topic"}), ("none", set()),
    ("full", {"mqtt.topic", "mqtt.qos", "mqtt.retained", "mqtt.client.id"})])
def test_header_sets(culex_factory, headers, expected):
    c = culex_factory(streams=[{"name": "demo", "filters": ["demo/#"], "headers": headers}])
    c.publish("demo/h", ["x"])
    assert {k for k, _ in one(c).headers} == expected


def test_partitions_spread_topics_and_keep_the_order_of_each(culex):
    topics = [f"demo/{i}" for i in range(100)]
    with culex.mqtt() as m:
        m.publish_all([(t, str(n)) for n in range(10) for t in topics])
    records = read_all(culex.bootstrap, "demo", 1000)
    assert_dense(records)
    assert len(by_partition(records)) == 16
    for t in topics:
        mine = [r for r in records if r.key == t.encode()]
        assert [r.value for r in mine] == [str(n).encode() for n in range(10)]
        assert {r.partition for r in mine} == {partition_of(t.encode(), 16)}


def test_smallest_case_needs_no_file(culex_factory):
    """One filter and one stream, written directly in mosquitto.conf; a server with only a directory."""
    c = culex_factory(start=False, streams=[{"name": "mini", "filters": ["m/#"]}])
    c.broker.config_path = None
    c.broker.options = {"data": c.data, "name": "mini", "filters": "m/#"}
    c.broker.start()
    c.server.env["CULEX_LISTENERS"] = f"PLAINTEXT://127.0.0.1:{c.server.port}"
    c.server.start(args=["--data", str(c.data)])
    c.wait_topics()
    c.publish("m/x", ["hi"])
    assert one(c, "mini").value == b"hi"


def test_large_payloads_and_long_topics(culex):
    long_topic = "demo/" + "/".join(["level"] * 150)
    big = bytes(range(256)) * 4096
    with culex.mqtt() as m:
        m.publish(long_topic, "deep")
        m.publish("demo/big", big)
    got = {r.key: r.value for r in read_all(culex.bootstrap, "demo", 2)}
    assert got == {long_topic.encode(): b"deep", b"demo/big": big}


def test_what_a_client_may_not_write_is_not_captured(culex_factory):
    c = culex_factory(streams=[{"name": "all", "filters": ["#"]}], start=False)
    acl = c.home / "acl"
    acl.write_text("topic readwrite ok/#\n")
    c.broker.extra = f"acl_file {acl}"
    c.start()
    with c.mqtt() as m:
        m.publish("denied/x", "no")
        m.publish("ok/x", "yes")
    wait_until("the allowed publish is stored", lambda: stored(c.bootstrap, "all") == 1)
    assert one(c, "all").value == b"yes"
