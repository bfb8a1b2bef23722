// kafkajs; the contract is in ../README.md.
'use strict';

const { Kafka, logLevel } = require('kafkajs');

const args = {};
for (let i = 2; i + 1 < process.argv.length; i += 2) {
  args[process.argv[i].replace(/^--/, '')] = process.argv[i + 1];
}
const count = Number(args.count || 0);
const b64 = (x) => (x === null || x === undefined ? null : Buffer.from(x).toString('base64'));
const emit = (event) => process.stdout.write(
  JSON.stringify({ t: Number(process.hrtime.bigint()), ...event }) + '\n');

// A header that comes more than once is an array in kafkajs.
const headerList = (headers) => Object.entries(headers || {}).flatMap(
  ([name, value]) => (Array.isArray(value) ? value : [value]).map((v) => [name, b64(v)]));

const kafka = new Kafka({ clientId: 'kafkajs', brokers: [args.bootstrap], logLevel: logLevel.ERROR,
  logCreator: () => ({ log }) => process.stderr.write(JSON.stringify(log) + '\n') });
const consumer = kafka.consumer({ groupId: args.group, sessionTimeout: Number(args['session-ms'] || 6000), heartbeatInterval: 1000,
  maxWaitTimeInMs: 100, retry: { initialRetryTime: 50, retries: 30 } });

let seen = 0;
let finished;
const finish = new Promise((resolve) => { finished = resolve; });

async function commit(topic, partition, next) {
  try {
    await consumer.commitOffsets([{ topic, partition, offset: String(next) }]);
    emit({ commit: { [partition]: next } });
  } catch (e) {
    emit({ commit_failed: String(e) });
  }
}

async function eachBatch({ batch, resolveOffset, isRunning, isStale }) {
  let next = null;
  for (const m of batch.messages) {
    if (!isRunning() || isStale() || (count > 0 && seen >= count)) {
      break;
    }
    emit({ p: batch.partition, o: Number(m.offset), ts: Number(m.timestamp), k: b64(m.key),
      v: b64(m.value), h: headerList(m.headers) });
    seen++;
    next = Number(m.offset) + 1;
    resolveOffset(m.offset);
  }
  if (next !== null) {
    await commit(batch.topic, batch.partition, next);
  }
  if (count > 0 && seen >= count) {
    finished();
  }
}

async function main() {
  process.stdin.resume();
  process.stdin.on('end', () => finished());
  consumer.on(consumer.events.GROUP_JOIN, (e) => emit({
    assigned: (e.payload.memberAssignment[args.topic] || []) }));
  await consumer.connect();
  await consumer.subscribe({ topics: [args.topic], fromBeginning: true });
  await consumer.run({ autoCommit: false, eachBatchAutoResolve: false, eachBatch });
  await finish;
  await consumer.stop();
  const admin = kafka.admin();
  await admin.connect();
  const [got] = await admin.fetchOffsets({ groupId: args.group, topics: [args.topic] });
  emit({ committed: Object.fromEntries(got.partitions.map((p) => [p.partition, Number(p.offset)])) });
  await admin.disconnect();
  await consumer.disconnect();
  process.exit(0);
}

main().catch((e) => {
  process.stderr.write(`${e.stack}\n`);
  process.exit(1);
});
