"""librdkafka through confluent-kafka; the contract is in ../README.md."""

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from common import arguments, asked_to_leave, before_commit, emit, emit_record

args = arguments()
conf = {"bootstrap.servers": args.bootstrap, "group.id": args.group, "enable.auto.commit": False,
        "auto.offset.reset": "earliest"}
if args.protocol == "consumer":
    conf["group.protocol"] = "consumer"
else:
    conf.update({"session.timeout.ms": args.session_ms, "heartbeat.interval.ms": 1000})
if args.instance_id:
    conf["group.instance.id"] = args.instance_id
if args.assignor:
    which = "group.remote.assignor" if args.protocol == "consumer" else "partition.assignment.strategy"
    conf[which] = args.assignor

c = Consumer(conf)
c.subscribe([args.pattern or args.topic],
            on_assign=lambda _, ps: emit(assigned=[p.partition for p in ps]),
            on_revoke=lambda _, ps: emit(revoked=[p.partition for p in ps]))
seen = 0
while (args.count == 0 or seen < args.count) and not asked_to_leave():
    positions = {}
    for m in c.consume(500, timeout=0.1):
        if m.error():
            emit(error=str(m.error()))
            continue
        emit_record(m.partition(), m.offset(), m.timestamp()[1], m.key(), m.value(), m.headers())
        positions[m.partition()] = m.offset() + 1
        seen += 1
    if positions:
        before_commit()
        try:
            c.commit(offsets=[TopicPartition(args.topic, p, o) for p, o in positions.items()],
                     asynchronous=False)
            emit(commit=positions)
        except KafkaException as e:
            emit(commit_failed=str(e))
try:
    # What was delivered and is still ours; a commit after its records may have failed.
    emit(commit={t.partition: t.offset for t in c.commit(asynchronous=False) if t.error is None})
except KafkaException as e:
    if e.args[0].code() != KafkaError._NO_OFFSET:
        emit(commit_failed=str(e))
parts = c.list_topics(args.topic, timeout=60).topics[args.topic].partitions
got = c.committed([TopicPartition(args.topic, p) for p in parts], timeout=60)
emit(committed={t.partition: t.offset for t in got})
c.close()
