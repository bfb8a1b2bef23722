// kafkajs, copying in transactions; the contract is in ../README.md.
'use strict';

const { Kafka, logLevel } = require('kafkajs');

const RECORDS = 20; // of one transaction, at most
const ABORTS = 3; // each so manieth transaction is aborted and done again

const args = {};
for (let i = 2; i < process.argv.length; i += 2) {
  args[process.argv[i].replace(/^--/, '')] = process.argv[i + 1] || true;
}
const emit = (event) => process.stdout.write(
  JSON.stringify({ t: Number(process.hrtime.bigint()), ...event }) + '\n');

const retry = { initialRetryTime: 50, retries: 30 };
const kafka = new Kafka({ clientId: 'kafkajs', brokers: [args.bootstrap], logLevel: logLevel.ERROR, retry,
  logCreator: () => ({ log }) => process.stderr.write(JSON.stringify(log) + '\n') });
const producer = kafka.producer({ transactionalId: args.id, idempotent: true, maxInFlightRequests: 1,
  transactionTimeout: 20000 });
const consumer = kafka.consumer({ groupId: args.group, sessionTimeout: 6000, heartbeatInterval: 1000,
  maxWaitTimeInMs: 50, readUncommitted: false });

let rounds = 0;
let line;
const lines = new Promise((resolve) => { line = resolve; });
let finished;
const finish = new Promise((resolve) => { finished = resolve; });
let working = Promise.resolve(); // batches of two partitions are not copied at the same time

async function leave(code) {
  const late = setTimeout(() => process.exit(code), 10000);
  await consumer.disconnect();
  await producer.disconnect();
  clearTimeout(late);
  process.exit(code);
}

function failed(e) {
  emit({ error: String(e) });
  process.stderr.write(`${e.stack}\n`);
  leave(1);
  return new Promise(() => {}); // the consumer must not try again
}

async function holds(count, heartbeat) {
  if (args.hold) {
    delete args.hold;
    emit({ holding: count });
    const beats = setInterval(() => heartbeat().catch(() => {}), 1000);
    await lines;
    clearInterval(beats);
  }
}

async function transaction({ topic, partition }, messages, heartbeat) {
  for (;;) {
    const t = await producer.transaction();
    await t.send({ topic: args.to, acks: -1,
      messages: messages.map((m) => ({ partition, key: m.key, value: m.value })) });
    const offset = String(Number(messages[messages.length - 1].offset) + 1);
    await t.sendOffsets({ consumerGroupId: args.group, topics: [{ topic, partitions: [{ partition, offset }] }] });
    await holds(messages.length, heartbeat);
    rounds++;
    if (rounds % ABORTS !== 0) {
      await t.commit();
      emit({ copied: messages.length });
      return;
    }
    await t.abort();
    emit({ aborted: messages.length });
  }
}

async function copyBatch({ batch, resolveOffset, heartbeat, isRunning, isStale }) {
  for (let from = 0; from < batch.messages.length && isRunning() && !isStale(); from += RECORDS) {
    const messages = batch.messages.slice(from, from + RECORDS);
    try {
      await transaction(batch, messages, heartbeat);
    } catch (e) {
      await failed(e);
    }
    resolveOffset(messages[messages.length - 1].offset);
    await heartbeat();
  }
}

function eachBatch(x) {
  const mine = working.then(() => copyBatch(x));
  working = mine.catch(() => {});
  return mine;
}

async function main() {
  process.stdin.on('data', () => line());
  process.stdin.on('end', () => { line(); finished(); });
  await producer.connect();
  await (await producer.transaction()).abort(); // its id is initialized with the first one
  emit({ ready: true });
  await consumer.connect();
  await consumer.subscribe({ topics: [args.topic], fromBeginning: true });
  await consumer.run({ autoCommit: false, eachBatchAutoResolve: false, eachBatch });
  await finish;
  await leave(0);
}

main().catch(failed);
