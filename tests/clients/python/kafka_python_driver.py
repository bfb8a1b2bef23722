"""kafka-python, old and new; the contract is in ../README.md."""

import sys

from common import arguments, asked_to_leave, before_commit, emit, emit_record

args = arguments()
if args.lib and sys.version_info >= (3, 12):
    # kafka-python 2.0.2 carries a copy of six whose import hook Python 3.12 no longer runs.
    import six.moves
    sys.modules["kafka.vendor.six.moves"] = six.moves

from kafka import KafkaConsumer, TopicPartition  # noqa: E402
from kafka.consumer.subscription_state import ConsumerRebalanceListener  # noqa: E402
from kafka.errors import KafkaError  # noqa: E402


class Listener(ConsumerRebalanceListener):
    def on_partitions_assigned(self, assigned):
        emit(assigned=[t.partition for t in assigned])

    def on_partitions_revoked(self, revoked):
        emit(revoked=[t.partition for t in revoked])


extra = {"group_instance_id": args.instance_id} if args.instance_id else {}
c = KafkaConsumer(bootstrap_servers=args.bootstrap, group_id=args.group, enable_auto_commit=False,
                  auto_offset_reset="earliest", session_timeout_ms=args.session_ms, heartbeat_interval_ms=1000,
                  **extra)
# Release 3.0.12 sometimes stands still after a second join, which it makes when its first one found no metadata yet.
c.partitions_for_topic(args.topic)
c.subscribe([args.topic], listener=Listener())
seen = 0
while (args.count == 0 or seen < args.count) and not asked_to_leave():
    positions = {}
    for tp, records in c.poll(timeout_ms=100, max_records=500).items():
        for r in records:
            emit_record(r.partition, r.offset, r.timestamp, r.key, r.value, r.headers)
            positions[r.partition] = r.offset + 1
            seen += 1
    if positions:
        before_commit()
        try:
            c.commit()
            emit(commit=positions)
        except KafkaError as e:
            emit(commit_failed=repr(e))
parts = sorted(c.partitions_for_topic(args.topic))
emit(committed={p: c.committed(TopicPartition(args.topic, p)) for p in parts})
c.close()
