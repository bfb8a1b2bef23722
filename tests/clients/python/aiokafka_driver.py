"""aiokafka; the contract is in ../README.md."""

import asyncio

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError

from common import arguments, asked_to_leave, before_commit, emit, emit_record


class Listener(ConsumerRebalanceListener):
    async def on_partitions_assigned(self, assigned):
        emit(assigned=[t.partition for t in assigned])

    async def on_partitions_revoked(self, revoked):
        emit(revoked=[t.partition for t in revoked])


async def main():
    args = arguments()
    c = AIOKafkaConsumer(bootstrap_servers=args.bootstrap, group_id=args.group,
                         enable_auto_commit=False, auto_offset_reset="earliest",
                         session_timeout_ms=args.session_ms, heartbeat_interval_ms=1000,
                         group_instance_id=args.instance_id)
    c.subscribe([args.topic], listener=Listener())
    await c.start()
    seen = 0
    while (args.count == 0 or seen < args.count) and not asked_to_leave():
        positions = {}
        for tp, records in (await c.getmany(timeout_ms=100, max_records=500)).items():
            for r in records:
                emit_record(r.partition, r.offset, r.timestamp, r.key, r.value, r.headers)
                positions[r.partition] = r.offset + 1
                seen += 1
        if positions:
            before_commit()
            try:
                await c.commit({TopicPartition(args.topic, p): o for p, o in positions.items()})
                emit(commit=positions)
            except KafkaError as e:
                emit(commit_failed=repr(e))
    try:
        await c.commit()  # all that was delivered and is still ours; a commit after its records may have failed
    except KafkaError as e:
        emit(commit_failed=repr(e))
    parts = sorted(c.partitions_for_topic(args.topic))
    emit(committed={p: await c.committed(TopicPartition(args.topic, p)) for p in parts})
    await c.stop()


asyncio.run(main())
