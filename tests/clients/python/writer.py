"""The Python clients, writing; the contract is in ../README.md."""

import argparse
import asyncio
import json
import sys

p = argparse.ArgumentParser()
for name in ("client", "bootstrap", "topic"):
    p.add_argument("--" + name, required=True)
p.add_argument("--count", type=int, required=True)
p.add_argument("--codec", default="none")
p.add_argument("--idempotent", default="true")
p.add_argument("--rate", type=int, default=0)
p.add_argument("--lib", help="a directory to import the client from")
args = p.parse_args()
idempotent = args.idempotent == "true"
if args.lib:
    sys.path.insert(0, args.lib)
    if sys.version_info >= (3, 12):
        # kafka-python 2.0.2 carries a copy of six whose import hook Python 3.12 no longer runs.
        import six.moves
        sys.modules["kafka.vendor.six.moves"] = six.moves


def record(i):
    return i % 4, b"k%d" % i, b"v%d " % i + b"x" * (i % 50), [("n", b"%d" % i)]


def say(i, partition, offset):
    print(json.dumps({"i": i, "p": partition, "o": offset}), flush=True)


def run_librdkafka():
    from confluent_kafka import Producer
    w = Producer({"bootstrap.servers": args.bootstrap, "compression.type": args.codec, "linger.ms": 2,
                  "enable.idempotence": idempotent, "message.timeout.ms": 120000, "retry.backoff.max.ms": 200,
                  "reconnect.backoff.max.ms": 200})
    failed = []

    def answered(i):
        return lambda err, m: failed.append(err) if err else say(i, m.partition(), m.offset())

    for i in range(args.count):
        partition, key, value, headers = record(i)
        w.produce(args.topic, value, key, partition=partition, headers=headers, on_delivery=answered(i))
        w.poll(0)
        if args.rate and i % 20 == 0:
            w.poll(20 / args.rate)
    assert w.flush(120) == 0 and not failed, failed[:3]


def run_kafka_python():
    import kafka
    new = {"enable_idempotence": idempotent} if not args.lib else {}
    w = kafka.KafkaProducer(bootstrap_servers=args.bootstrap, acks="all", linger_ms=2,
                            compression_type=None if args.codec == "none" else args.codec, **new)
    sent = []
    for i in range(args.count):
        partition, key, value, headers = record(i)
        sent.append(w.send(args.topic, value, key, headers, partition))
    w.flush()
    for i, f in enumerate(sent):
        m = f.get(60)
        say(i, m.partition, m.offset)
    w.close()


async def run_aiokafka():
    from aiokafka import AIOKafkaProducer
    w = AIOKafkaProducer(bootstrap_servers=args.bootstrap, acks="all", linger_ms=2, enable_idempotence=idempotent,
                         compression_type=None if args.codec == "none" else args.codec)
    await w.start()
    sent = []
    for i in range(args.count):
        partition, key, value, headers = record(i)
        sent.append(await w.send(args.topic, value, key, partition, None, headers))
    for i, f in enumerate(sent):
        m = await f
        say(i, m.partition, m.offset)
    await w.stop()


if args.client == "librdkafka":
    run_librdkafka()
elif args.client == "kafka-python":
    run_kafka_python()
else:
    asyncio.run(run_aiokafka())
