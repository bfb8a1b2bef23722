"""Kafka clients cannot write to captured streams, and are told so; that Produce is offered lets old librdkafka read."""

import struct

from harness import api_versions, end_offsets, stored


def produce(bootstrap, topic, partition=0, **conf):
    from confluent_kafka import Producer
    answers = []
    p = Producer({"bootstrap.servers": bootstrap, "message.timeout.ms": 10000, **conf})
    p.produce(topic, b"x", partition=partition, on_delivery=lambda err, msg: answers.append(err))
    p.flush(20)
    return answers[0]


def test_write_to_a_captured_stream_is_refused_and_nothing_is_stored(culex):
    err = produce(culex.bootstrap, "demo")
    assert err is not None and err.name() == "POLICY_VIOLATION", err
    assert stored(culex.bootstrap, "demo") == 0


def test_write_without_acknowledgement_stores_nothing(culex):
    produce(culex.bootstrap, "demo", acks=0)
    culex.server.wait_log("wrote to a stream; Kafka clients can only read")
    assert set(end_offsets(culex.bootstrap, "demo").values()) == {(0, 0)}


def test_produce_is_offered_from_version_0_as_librdkafka_asks_for(culex):
    body = api_versions(culex.server.port)
    error, count = struct.unpack_from(">hi", body)
    rows = {k: (low, high) for k, low, high in struct.iter_unpack(">hhh", body[6:6 + 6 * count])}
    assert error == 0 and rows[0][0] == 0 and rows[0][1] >= 7
