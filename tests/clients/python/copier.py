"""librdkafka and aiokafka, copying in transactions; the contract is in ../README.md."""

import argparse
import asyncio
import os
import select
import sys

from common import emit

RECORDS = 20  # of one transaction, at most
ABORTS = 3  # each so manieth transaction is aborted and done again

p = argparse.ArgumentParser()
for name in ("client", "bootstrap", "topic", "to", "group", "id"):
    p.add_argument("--" + name, required=True)
p.add_argument("--hold", action="store_true")
args = p.parse_args()


def asked_to_leave():
    return bool(select.select([sys.stdin], [], [], 0)[0]) and not os.read(0, 1)


def holds(records):
    """In the first transaction, when told to: until a line comes."""
    if args.hold:
        args.hold = False
        emit(holding=records)
        while os.read(0, 1) not in (b"\n", b""):
            pass


def run_librdkafka():
    from confluent_kafka import Consumer, Producer
    # When all brokers are away, and here one is all, "rebootstrap" (its default since 2.11) forgets the broker that it keeps
    # as the group's coordinator: send_offsets_to_transaction then asks nobody until it times out.
    same = {"bootstrap.servers": args.bootstrap, "reconnect.backoff.max.ms": 200, "metadata.recovery.strategy": "none"}
    w = Producer({"transactional.id": args.id, "linger.ms": 2, "transaction.timeout.ms": 20000, **same})
    w.init_transactions(60)
    emit(ready=True)
    c = Consumer({"group.id": args.group, "enable.auto.commit": False, "auto.offset.reset": "earliest",
                  "isolation.level": "read_committed", "session.timeout.ms": 6000, "heartbeat.interval.ms": 1000,
                  "fetch.wait.max.ms": 50, **same})
    c.subscribe([args.topic])
    state = {"rounds": 0}

    def transaction(records):
        w.begin_transaction()
        for m in records:
            w.produce(args.to, m.value(), m.key(), partition=m.partition())
        w.send_offsets_to_transaction(c.position(c.assignment()), c.consumer_group_metadata(), 60)
        w.flush(60)
        holds(len(records))
        state["rounds"] += 1
        if state["rounds"] % ABORTS == 0:
            w.abort_transaction(60)
            emit(aborted=len(records))
            return transaction(records)
        w.commit_transaction(60)
        emit(copied=len(records))

    try:
        while not asked_to_leave():
            records = [m for m in c.consume(RECORDS, 0.1) if not m.error()]
            if records:
                transaction(records)
    finally:
        c.close()


async def run_aiokafka():
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
    w = AIOKafkaProducer(bootstrap_servers=args.bootstrap, transactional_id=args.id, linger_ms=2,
                         transaction_timeout_ms=20000)
    await w.start()
    emit(ready=True)
    c = AIOKafkaConsumer(args.topic, bootstrap_servers=args.bootstrap, group_id=args.group, enable_auto_commit=False,
                         auto_offset_reset="earliest", isolation_level="read_committed", session_timeout_ms=6000,
                         heartbeat_interval_ms=1000)
    await c.start()
    rounds = 0
    try:
        while not asked_to_leave():
            batches = await c.getmany(timeout_ms=100, max_records=RECORDS)
            count = sum(map(len, batches.values()))
            done = count == 0
            while not done:
                await w.begin_transaction()
                for tp, records in batches.items():
                    for r in records:
                        await w.send(args.to, r.value, r.key, tp.partition)
                await w.send_offsets_to_transaction({tp: rs[-1].offset + 1 for tp, rs in batches.items()}, args.group)
                await w.flush()
                await asyncio.get_running_loop().run_in_executor(None, holds, count)
                rounds += 1
                done = rounds % ABORTS != 0
                await (w.commit_transaction() if done else w.abort_transaction())
                emit(**{"copied" if done else "aborted": count})
    finally:
        await asyncio.wait_for(c.stop(), 20)
        try:
            await asyncio.wait_for(w.stop(), 20)
        except Exception as e:  # what it is fenced by was said already
            print(f"stop: {e!r}", file=sys.stderr)


try:
    if args.client == "librdkafka":
        run_librdkafka()
    else:
        asyncio.run(run_aiokafka())
except Exception as e:
    emit(error=repr(e))
    sys.stdout.flush()
    os._exit(1)
