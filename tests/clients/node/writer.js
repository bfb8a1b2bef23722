// kafkajs, writing; the contract is in ../README.md.
'use strict';

const { Kafka, logLevel, CompressionTypes } = require('kafkajs');

const args = {};
for (let i = 2; i + 1 < process.argv.length; i += 2) {
  args[process.argv[i].replace(/^--/, '')] = process.argv[i + 1];
}
const count = Number(args.count);
const kafka = new Kafka({ clientId: 'kafkajs', brokers: [args.bootstrap], logLevel: logLevel.ERROR,
  logCreator: () => ({ log }) => process.stderr.write(JSON.stringify(log) + '\n') });
const idempotent = args.idempotent !== 'false';
const producer = kafka.producer({ idempotent, maxInFlightRequests: idempotent ? 1 : 5 });
const compression = args.codec === 'gzip' ? CompressionTypes.GZIP : CompressionTypes.None;

async function main() {
  await producer.connect();
  // It tells of a batch where its first record lies: a batch for each partition.
  for (let from = 0; from < count; from += 100) {
    const byPartition = new Map();
    for (let i = from; i < Math.min(count, from + 100); i++) {
      const m = { partition: i % 4, key: `k${i}`, value: `v${i} ${'x'.repeat(i % 50)}`, headers: { n: String(i) } };
      byPartition.set(i % 4, [...(byPartition.get(i % 4) || []), [i, m]]);
    }
    for (const [partition, list] of byPartition) {
      const [said] = await producer.send({ topic: args.topic, acks: -1, compression,
        messages: list.map(([, m]) => m) });
      list.forEach(([i], k) => process.stdout.write(
        JSON.stringify({ i, p: partition, o: Number(said.baseOffset) + k }) + '\n'));
    }
  }
  await producer.disconnect();
}

main().catch((e) => {
  process.stderr.write(`${e.stack}\n`);
  process.exit(1);
});
