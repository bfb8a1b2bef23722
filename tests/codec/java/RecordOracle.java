import java.io.BufferedInputStream;
import java.io.BufferedOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.EOFException;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.Iterator;
import java.util.List;
import java.util.Random;
import java.util.Set;

import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.errors.CorruptRecordException;
import org.apache.kafka.common.errors.RecordTooLargeException;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.InvalidRecordException;
import org.apache.kafka.common.protocol.Errors;
import org.apache.kafka.common.record.CompressionType;
import org.apache.kafka.common.record.ControlRecordType;
import org.apache.kafka.common.record.DefaultRecordBatch;
import org.apache.kafka.common.record.EndTransactionMarker;
import org.apache.kafka.common.record.MemoryRecords;
import org.apache.kafka.common.record.MemoryRecordsBuilder;
import org.apache.kafka.common.record.MutableRecordBatch;
import org.apache.kafka.common.record.Record;
import org.apache.kafka.common.record.RecordBatch;
import org.apache.kafka.common.record.SimpleRecord;
import org.apache.kafka.common.record.TimestampType;
import org.apache.kafka.common.requests.ProduceRequest;
import org.apache.kafka.common.requests.ProduceResponse.RecordError;
import org.apache.kafka.common.utils.BufferSupplier;
import org.apache.kafka.common.utils.ByteBufferOutputStream;
import org.apache.kafka.common.utils.Crc32C;
import org.apache.kafka.common.utils.PrimitiveRef;
import org.apache.kafka.common.utils.Time;
import org.apache.kafka.storage.internals.log.AppendOrigin;
import org.apache.kafka.storage.internals.log.LogValidator;
import org.apache.kafka.storage.internals.log.RecordValidationException;

/**
 * Kafka's own record classes and its broker's LogValidator as the other side of the tests of shared/record.
 *
 *     RecordOracle cases COUNT SEED FILE    random batches, good and bad, with what Kafka makes of each
 *     RecordOracle same FILE                pairs of batches that have to say the same: Kafka's, and the other's
 *
 * Cases are read by record_peer.c, which says what differs; pairs are written by it.
 */
public final class RecordOracle {
    private static final int VALIDATE = 0;
    private static final int FILTER = 1;
    private static final int MARKER = 2;

    private static final long NOW = 1_700_000_000_000L;
    private static final TopicPartition TP = new TopicPartition("t", 0);
    private static final CompressionType[] CODECS = {CompressionType.NONE, CompressionType.GZIP,
        CompressionType.SNAPPY, CompressionType.LZ4, CompressionType.ZSTD};
    private static final LogValidator.MetricsRecorder NO_METRICS = new LogValidator.MetricsRecorder() {
        @Override
        public void recordInvalidMagic() { }

        @Override
        public void recordInvalidOffset() { }

        @Override
        public void recordInvalidSequence() { }

        @Override
        public void recordInvalidChecksums() { }

        @Override
        public void recordNoKeyCompactedTopic() { }
    };

    private final Random random;

    private RecordOracle(long seed) {
        random = new Random(seed);
    }

    public static void main(String[] args) throws Exception {
        if (args[0].equals("cases")) {
            new RecordOracle(Long.parseLong(args[2])).cases(Integer.parseInt(args[1]), args[3]);
        } else if (args[0].equals("same")) {
            System.exit(same(args[1]) ? 0 : 1);
        } else {
            throw new IllegalArgumentException(args[0]);
        }
    }

    private void cases(int count, String path) throws Exception {
        try (DataOutputStream out = new DataOutputStream(
                new BufferedOutputStream(new FileOutputStream(path)))) {
            for (int i = 0; i < count; i++) {
                int dice = random.nextInt(10);
                if (dice == 0) {
                    marker(out);
                } else if (dice <= 2) {
                    filter(out);
                } else {
                    validate(out);
                }
            }
        }
    }

    // --- random batches

    private boolean oneIn(int n) {
        return random.nextInt(n) == 0;
    }

    private <T> T one(T[] of) {
        return of[random.nextInt(of.length)];
    }

    private byte[] bytes(int max) {
        byte[] b = new byte[random.nextInt(max)];
        if (oneIn(2)) {
            Arrays.fill(b, (byte) random.nextInt());
        } else {
            random.nextBytes(b);
        }
        return b;
    }

    private long timestamp() {
        switch (random.nextInt(12)) {
            case 0:
                return -1;
            case 1:
                return NOW + random.nextInt(20_000) - 10_000;
            case 2:
                return random.nextLong() & Long.MAX_VALUE;
            default:
                return NOW - random.nextInt(2_000);
        }
    }

    private SimpleRecord record(boolean plain) {
        Header[] headers = new Header[oneIn(3) ? random.nextInt(4) : 0];
        for (int i = 0; i < headers.length; i++) {
            headers[i] = new RecordHeader("header" + "x".repeat(random.nextInt(5)), oneIn(4) ? null : bytes(20));
        }
        return new SimpleRecord(plain ? NOW - random.nextInt(1_000) : timestamp(),
            oneIn(plain ? 50 : 6) ? null : bytes(20), oneIn(6) ? null : bytes(oneIn(50) ? 20_000 : 100), headers);
    }

    private MemoryRecords batch(CompressionType codec, boolean plain, long baseOffset) {
        boolean idempotent = oneIn(2);
        MemoryRecordsBuilder b = MemoryRecords.builder(ByteBuffer.allocate(1024), RecordBatch.MAGIC_VALUE_V2,
            Compression.of(codec).build(), TimestampType.CREATE_TIME, baseOffset, RecordBatch.NO_TIMESTAMP,
            idempotent ? random.nextInt(1000) : RecordBatch.NO_PRODUCER_ID,
            idempotent ? (short) random.nextInt(10) : RecordBatch.NO_PRODUCER_EPOCH,
            idempotent ? random.nextInt() & Integer.MAX_VALUE : RecordBatch.NO_SEQUENCE,
            idempotent && oneIn(2), false, RecordBatch.NO_PARTITION_LEADER_EPOCH);
        for (int i = 1 + random.nextInt(oneIn(10) ? 300 : 8); i > 0; i--) {
            b.append(record(plain));
        }
        return b.build();
    }

    private static byte[] array(MemoryRecords records) {
        ByteBuffer b = records.buffer().duplicate();
        byte[] bytes = new byte[b.remaining()];
        b.get(bytes);
        return bytes;
    }

    // --- what is wrong with them

    private static final int HEADER = DefaultRecordBatch.RECORD_BATCH_OVERHEAD;
    private static final int ATTRIBUTES = 21;

    /** Length and checksum right again. */
    private static byte[] seal(byte[] b) {
        ByteBuffer buffer = ByteBuffer.wrap(b);
        buffer.putInt(8, b.length - 12);
        buffer.putInt(17, (int) Crc32C.compute(buffer, ATTRIBUTES, b.length - ATTRIBUTES));
        return b;
    }

    private byte[] spoilBytes(byte[] b, int from) {
        if (b.length <= from) {
            return b;
        }
        for (int i = 1 + random.nextInt(3); i > 0; i--) {
            int at = from + random.nextInt(b.length - from);
            if (oneIn(2)) {
                b[at] ^= (byte) (1 << random.nextInt(8));
            } else {
                b[at] = one(new Byte[] {0, 1, 2, 127, -128, -1, -2});
            }
        }
        return b;
    }

    private byte[] lieInHeader(byte[] b) {
        ByteBuffer buffer = ByteBuffer.wrap(b);
        int small = random.nextInt(5) - 2;
        switch (random.nextInt(12)) {
            case 0:
                buffer.putLong(0, oneIn(2) ? small : random.nextLong());
                break;
            case 1:
                buffer.put(16, (byte) small);
                break;
            case 2:
                buffer.putShort(ATTRIBUTES, (short) (buffer.getShort(ATTRIBUTES) ^ 1 << random.nextInt(8)));
                break;
            case 3:
                buffer.putInt(23, buffer.getInt(23) + small);
                break;
            case 4:
                buffer.putLong(27, buffer.getLong(27) + random.nextInt(100_000) - 50_000);
                break;
            case 5:
                buffer.putLong(35, oneIn(2) ? NOW + small : random.nextLong());
                break;
            case 6:
                buffer.putLong(43, oneIn(2) ? small : random.nextLong());
                break;
            case 7:
                buffer.putShort(51, (short) small);
                break;
            case 8:
                buffer.putInt(53, oneIn(2) ? small : random.nextInt());
                break;
            case 9:
                buffer.putInt(57, buffer.getInt(57) + small);
                break;
            case 10:
                buffer.putInt(57, buffer.getInt(57) + small);
                buffer.putInt(23, buffer.getInt(57) - 1);
                break;
            default:
                buffer.putInt(23, random.nextInt());
                break;
        }
        return seal(b);
    }

    /** The records spoiled before they are compressed. */
    private byte[] spoilPlain(CompressionType codec) throws IOException {
        byte[] b = array(batch(CompressionType.NONE, true, 0));
        byte[] plain = spoilBytes(Arrays.copyOfRange(b, HEADER, b.length), 0);
        ByteBufferOutputStream packed = new ByteBufferOutputStream(1024);
        try (OutputStream out = Compression.of(codec).build().wrapForOutput(packed, RecordBatch.MAGIC_VALUE_V2)) {
            out.write(plain);
        }
        packed.buffer().flip();
        ByteBuffer whole = ByteBuffer.allocate(HEADER + packed.buffer().remaining());
        whole.put(b, 0, HEADER).put(packed.buffer());
        whole.putShort(ATTRIBUTES, (short) (whole.getShort(ATTRIBUTES) | codec.id));
        return seal(whole.array());
    }

    private static byte[] concat(byte[] a, byte[] b) {
        byte[] c = Arrays.copyOf(a, a.length + b.length);
        System.arraycopy(b, 0, c, a.length, b.length);
        return c;
    }

    private byte[] legacy() {
        MemoryRecordsBuilder b = MemoryRecords.builder(ByteBuffer.allocate(1024), (byte) random.nextInt(2),
            Compression.of(CODECS[random.nextInt(3)]).build(), TimestampType.CREATE_TIME, 0);
        b.append(NOW, bytes(10), bytes(10));
        return array(b.build());
    }

    private byte[] request(CompressionType codec) throws IOException {
        byte[] b = array(batch(codec, oneIn(2), 0));
        switch (random.nextInt(16)) {
            case 0:
                return spoilBytes(b, 0);
            case 1:
            case 2:
            case 3:
                return lieInHeader(b);
            case 4:
                return seal(spoilBytes(b, HEADER));
            case 5:
            case 6:
                return spoilPlain(codec);
            case 7:
                return oneIn(3) ? new byte[0] : Arrays.copyOf(b, random.nextInt(b.length));
            case 8:
                return concat(b, oneIn(2) ? array(batch(codec, true, 0)) : bytes(30));
            case 9:
                return oneIn(3) ? legacy() : concat(b, Arrays.copyOf(b, random.nextInt(b.length)));
            default:
                return b;
        }
    }

    // --- judging them

    private static final class Topic {
        short version;
        boolean compacted;
        boolean appendTime;
        CompressionType codec; // null: as the producer sent it
        int maxBytes;
        long beforeMax;
        long afterMax;
    }

    private Topic topic() {
        Topic t = new Topic();
        t.version = (short) (oneIn(10) ? 3 + random.nextInt(4) : 12);
        t.compacted = oneIn(4);
        t.appendTime = oneIn(4);
        t.codec = oneIn(3) ? one(CODECS) : null;
        t.maxBytes = oneIn(6) ? 100 + random.nextInt(1000) : 1_048_588;
        t.beforeMax = oneIn(3) ? 500 + random.nextInt(1500) : Long.MAX_VALUE;
        t.afterMax = oneIn(4) ? Long.MAX_VALUE : 3_600_000;
        return t;
    }

    /** What lies between the request and LogValidator: UnifiedLog.analyzeAndValidateRecords, for one client's batch. */
    private static CompressionType analyze(MemoryRecords records, Topic t) {
        CompressionType codec = CompressionType.NONE;
        for (MutableRecordBatch batch : records.batches()) {
            if (batch.baseOffset() != 0) {
                throw new InvalidRecordException("base offset");
            }
            batch.lastOffset(); // as there, it fails where there is none
            if (batch.sizeInBytes() > t.maxBytes) {
                throw new RecordTooLargeException("size");
            }
            if (!batch.isValid()) {
                throw new CorruptRecordException("checksum");
            }
            codec = batch.compressionType();
        }
        return codec;
    }

    private static MemoryRecords judge(byte[] bytes, Topic t) {
        MemoryRecords records = MemoryRecords.readableRecords(ByteBuffer.wrap(bytes));
        ProduceRequest.validateRecords(t.version, records);
        CompressionType source = analyze(records, t);
        int valid = 0;
        for (RecordBatch batch : records.batches()) {
            valid += batch.sizeInBytes();
        }
        records = MemoryRecords.readableRecords(ByteBuffer.wrap(bytes, 0, valid).slice());
        LogValidator.ValidationResult result = new LogValidator(records, TP, new FixedTime(), source,
            Compression.of(t.codec == null ? source : t.codec).build(), t.compacted, RecordBatch.CURRENT_MAGIC_VALUE,
            t.appendTime ? TimestampType.LOG_APPEND_TIME : TimestampType.CREATE_TIME, t.beforeMax, t.afterMax, 0,
            AppendOrigin.CLIENT).validateMessagesAndAssignOffsets(PrimitiveRef.ofLong(0), NO_METRICS,
                BufferSupplier.NO_CACHING);
        if (result.messageSizeMaybeChanged) {
            for (RecordBatch batch : result.validatedRecords.batches()) {
                if (batch.sizeInBytes() > t.maxBytes) {
                    throw new RecordTooLargeException("size after recompression");
                }
            }
        }
        return result.validatedRecords;
    }

    private void validate(DataOutputStream out) throws IOException {
        CompressionType codec = one(CODECS);
        byte[] bytes = request(codec);
        Topic t = topic();
        out.writeByte(VALIDATE);
        out.writeShort(t.version);
        out.writeByte(t.compacted ? 1 : 0);
        out.writeByte(t.appendTime ? 1 : 0);
        out.writeByte(t.codec == null ? -1 : t.codec.id);
        out.writeInt(t.maxBytes);
        out.writeLong(t.beforeMax);
        out.writeLong(t.afterMax);
        out.writeLong(NOW);
        put(out, bytes);
        byte[] accepted = new byte[0];
        List<RecordError> errors = List.of();
        Errors error = Errors.NONE;
        try {
            accepted = array(judge(bytes.clone(), t));
        } catch (RecordValidationException e) {
            error = Errors.forException(e.invalidException());
            errors = e.recordErrors();
        } catch (RuntimeException | Error e) { // SnappyError, OutOfMemoryError
            error = Errors.forException(e);
        }
        out.writeShort(error.code());
        out.writeInt(errors.size());
        for (RecordError e : errors) {
            out.writeInt(e.batchIndex);
        }
        put(out, accepted);
    }

    private static void put(DataOutputStream out, byte[] bytes) throws IOException {
        out.writeInt(bytes.length);
        out.write(bytes);
    }

    // --- compaction and markers

    private void filter(DataOutputStream out) throws IOException {
        long base = random.nextInt(1000);
        MemoryRecords records = batch(one(CODECS), oneIn(2), base);
        MutableRecordBatch batch = records.batches().iterator().next();
        if (oneIn(4)) {
            batch.setMaxTimestamp(TimestampType.LOG_APPEND_TIME, NOW);
        }
        int share = random.nextInt(4);
        Set<Long> kept = new HashSet<>();
        for (Record r : batch) {
            if (share == 3 || random.nextInt(3) < share) {
                kept.add(r.offset());
            }
        }
        long horizon = NOW + random.nextInt(1000);
        boolean marker = oneIn(5);
        byte[] once = filterTo(records, kept, horizon, marker);
        out.writeByte(FILTER);
        put(out, array(records));
        writeKept(out, batch, kept);
        out.writeLong(horizon);
        out.writeByte(marker ? 1 : 0);
        put(out, once);
    }

    private static void writeKept(DataOutputStream out, RecordBatch batch, Set<Long> kept) throws IOException {
        out.writeInt(batch.countOrNull()); // as long as the row of them
        for (Record r : batch) {
            out.writeByte(kept.contains(r.offset()) ? 1 : 0);
        }
    }

    private static byte[] filterTo(MemoryRecords records, Set<Long> kept, long horizon, boolean marker) {
        MemoryRecords.RecordFilter filter = new MemoryRecords.RecordFilter(horizon, 0) {
            @Override
            protected BatchRetentionResult checkBatchRetention(RecordBatch batch) {
                return new BatchRetentionResult(BatchRetention.RETAIN_EMPTY, marker);
            }

            @Override
            protected boolean shouldRetainRecord(RecordBatch batch, Record record) {
                return kept.contains(record.offset());
            }
        };
        ByteBuffer to = ByteBuffer.allocate(4 << 20);
        records.filterTo(filter, to, BufferSupplier.NO_CACHING);
        to.flip();
        byte[] bytes = new byte[to.remaining()];
        to.get(bytes);
        return bytes;
    }

    private void marker(DataOutputStream out) throws IOException {
        long producer = random.nextLong() & Long.MAX_VALUE;
        short epoch = (short) random.nextInt(Short.MAX_VALUE);
        boolean commit = oneIn(2);
        int coordinator = random.nextInt();
        long timestamp = random.nextLong() & Long.MAX_VALUE;
        out.writeByte(MARKER);
        out.writeLong(producer);
        out.writeShort(epoch);
        out.writeByte(commit ? 1 : 0);
        out.writeInt(coordinator);
        out.writeLong(timestamp);
        put(out, array(MemoryRecords.withEndTransactionMarker(timestamp, producer, epoch,
            new EndTransactionMarker(commit ? ControlRecordType.COMMIT : ControlRecordType.ABORT, coordinator))));
    }

    // --- what the other side wrote

    private static byte[] get(DataInputStream in) throws IOException {
        byte[] bytes = new byte[in.readInt()];
        in.readFully(bytes);
        return bytes;
    }

    private static boolean same(String path) throws IOException {
        int pairs = 0;
        int bad = 0;
        try (DataInputStream in = new DataInputStream(new BufferedInputStream(new FileInputStream(path)))) {
            while (true) {
                byte[] kafka = get(in);
                byte[] other = get(in);
                String difference;
                try {
                    difference = difference(kafka, other);
                } catch (RuntimeException e) {
                    difference = "cannot be read: " + e;
                }
                pairs++;
                if (difference != null) {
                    bad++;
                    System.out.println("pair " + pairs + ": " + difference);
                }
            }
        } catch (EOFException e) {
            System.out.println("record oracle: " + pairs + " batches written here and there, " + bad + " differ");
        }
        return bad == 0 && pairs > 0;
    }

    private static String difference(byte[] kafka, byte[] other) {
        Iterator<MutableRecordBatch> a = MemoryRecords.readableRecords(ByteBuffer.wrap(kafka)).batches().iterator();
        Iterator<MutableRecordBatch> b = MemoryRecords.readableRecords(ByteBuffer.wrap(other)).batches().iterator();
        DefaultRecordBatch x = (DefaultRecordBatch) a.next();
        DefaultRecordBatch y = (DefaultRecordBatch) b.next();
        y.ensureValid();
        if (a.hasNext() || b.hasNext()) {
            return "more than one batch";
        }
        String p = head(x);
        String q = head(y);
        if (!p.equals(q)) {
            return p + " and " + q;
        }
        List<List<Object>> r = all(x);
        List<List<Object>> s = all(y);
        return r.equals(s) ? null : r + " and " + s;
    }

    /** What the records say; not their size, which a number can change that is written longer than it need be. */
    private static List<List<Object>> all(RecordBatch batch) {
        List<List<Object>> records = new ArrayList<>();
        try (var i = batch.streamingIterator(BufferSupplier.NO_CACHING)) {
            i.forEachRemaining(r -> records.add(Arrays.asList(r.offset(), r.timestamp(), r.sequence(), r.key(),
                r.value(), Arrays.asList(r.headers()))));
        }
        return records;
    }

    /** Without the base timestamp: what is counted from it is compared, and it says nothing else but the delete horizon. */
    private static String head(DefaultRecordBatch b) {
        return b.baseOffset() + " " + b.lastOffset() + " " + b.partitionLeaderEpoch() + " " + b.compressionType() + " "
            + b.timestampType() + " " + b.isTransactional() + " " + b.isControlBatch() + " " + b.deleteHorizonMs() + " "
            + b.maxTimestamp() + " " + b.producerId() + " " + b.producerEpoch() + " "
            + b.baseSequence() + " " + b.countOrNull();
    }

    private static final class FixedTime implements Time {
        @Override
        public long milliseconds() {
            return NOW;
        }

        @Override
        public long nanoseconds() {
            return 0;
        }

        @Override
        public void sleep(long ms) { }

        @Override
        public void waitObject(Object obj, java.util.function.Supplier<Boolean> condition, long deadlineMs) { }
    }
}
