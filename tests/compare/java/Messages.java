import java.lang.reflect.Method;
import java.lang.reflect.ParameterizedType;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.zip.CRC32C;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.fasterxml.jackson.databind.node.TextNode;

import org.apache.kafka.clients.consumer.ConsumerPartitionAssignor.Subscription;
import org.apache.kafka.clients.consumer.internals.ConsumerProtocol;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.protocol.Message;
import org.apache.kafka.common.protocol.types.BoundField;
import org.apache.kafka.common.protocol.types.Field;
import org.apache.kafka.common.protocol.types.Schema;
import org.apache.kafka.common.protocol.types.TaggedFields;
import org.apache.kafka.common.protocol.types.Type;
import org.apache.kafka.common.record.BaseRecords;
import org.apache.kafka.common.record.CompressionType;
import org.apache.kafka.common.record.ControlRecordType;
import org.apache.kafka.common.record.MemoryRecords;
import org.apache.kafka.common.record.MemoryRecordsBuilder;
import org.apache.kafka.common.record.Record;
import org.apache.kafka.common.record.RecordBatch;
import org.apache.kafka.common.record.TimestampType;

/**
 * JSON to a Kafka message and back, along the schema that each message class carries per version: so a
 * request is written once for all versions (a field that a version lacks is left out, one that the JSON
 * lacks keeps its default), and an answer shows exactly what its version has.
 */
final class Messages {
    static final ObjectMapper JSON = new ObjectMapper();
    private static final JsonNodeFactory NODES = JsonNodeFactory.instance;
    private static final int SIZE_OFFSET = 8;
    private static final int CRC_OFFSET = 17;
    private static final int CRC_FROM = 21;
    private static final int ATTRIBUTES_OFFSET = 22; // the lower byte of two
    private static final int PRODUCER_OFFSET = 43;

    /** The JSON says null where this version has no null. */
    static final class Inexpressible extends RuntimeException {
        private static final long serialVersionUID = 1;

        Inexpressible() {
            super("this version cannot say so");
        }
    }

    private Messages() {
    }

    static String snake(String camel) {
        return camel.replaceAll("(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_").toLowerCase();
    }

    static Schema schema(Message m, short version) throws ReflectiveOperationException {
        return ((Schema[]) m.getClass().getField("SCHEMAS").get(null))[version];
    }

    // --- JSON to message

    static void fill(Object m, Schema schema, JsonNode json) throws ReflectiveOperationException {
        Map<String, Method> setters = new HashMap<>();
        for (Method method : m.getClass().getMethods()) {
            if (method.getName().startsWith("set") && method.getParameterCount() == 1) {
                setters.put(snake(method.getName().substring(3)), method);
            }
        }
        Map<String, Type> types = types(schema);
        for (Iterator<String> names = json.fieldNames(); names.hasNext();) {
            String name = names.next();
            Method setter = setters.get(snake(name));
            if (setter == null) {
                throw new IllegalArgumentException(m.getClass().getSimpleName() + " has no field " + name);
            }
            Type type = types.get(snake(name));
            if (type != null) {
                setter.invoke(m, value(type, setter.getParameterTypes()[0],
                    setter.getGenericParameterTypes()[0], json.get(name)));
            }
        }
    }

    private static Map<String, Type> types(Schema schema) {
        Map<String, Type> types = new LinkedHashMap<>();
        for (BoundField f : schema.fields()) {
            if (f.def.type instanceof TaggedFields) {
                for (Field tagged : ((TaggedFields) f.def.type).fields().values()) {
                    types.put(tagged.name, tagged.type);
                }
            } else {
                types.put(f.def.name, f.def.type);
            }
        }
        return types;
    }

    private static Object value(Type type, Class<?> c, java.lang.reflect.Type generic, JsonNode j)
            throws ReflectiveOperationException {
        if (j.isNull()) {
            if (!type.isNullable()) {
                throw new Inexpressible();
            }
            return null;
        } else if (BaseRecords.class.isAssignableFrom(c)) {
            return MemoryRecords.readableRecords(ByteBuffer.wrap(records(j)));
        } else if (Collection.class.isAssignableFrom(c)) {
            return list(type.arrayElementType().get(), c, generic, j);
        } else if (c == boolean.class) {
            return j.booleanValue();
        } else if (c == byte.class || c == Byte.class) {
            return (byte) j.intValue();
        } else if (c == short.class || c == Short.class) {
            return (short) j.intValue();
        } else if (c == int.class || c == Integer.class) {
            return j.intValue();
        } else if (c == long.class || c == Long.class) {
            return j.longValue();
        } else if (c == double.class) {
            return j.doubleValue();
        } else if (c == String.class) {
            return j.asText();
        } else if (c == byte[].class) {
            return bytes(j);
        } else if (c == ByteBuffer.class) {
            return ByteBuffer.wrap(bytes(j));
        } else if (c == Uuid.class) {
            return Uuid.fromString(j.asText());
        }
        Object struct = c.getConstructor().newInstance();
        fill(struct, structSchema(type), j);
        return struct;
    }

    private static Schema structSchema(Type type) throws ReflectiveOperationException {
        if (type instanceof Schema) {
            return (Schema) type;
        }
        throw new IllegalArgumentException("not a struct: " + type);
    }

    @SuppressWarnings("unchecked")
    private static Object list(Type element, Class<?> c, java.lang.reflect.Type generic, JsonNode j)
            throws ReflectiveOperationException {
        boolean plain = c == List.class;
        Collection<Object> all = plain ? new ArrayList<>()
            : (Collection<Object>) c.getConstructor().newInstance();
        ParameterizedType parameters = (ParameterizedType) (plain ? generic : c.getGenericSuperclass());
        Class<?> elementClass = (Class<?>) parameters.getActualTypeArguments()[0];
        for (JsonNode e : j) {
            all.add(value(element, elementClass, elementClass, e));
        }
        return all;
    }

    /** Text, {"hex": "00ff"}, or {"subscription": [topics]}, as a member of a group says what it wants. */
    private static byte[] bytes(JsonNode j) {
        if (j.has("hex")) {
            return HexFormat.of().parseHex(j.get("hex").asText());
        } else if (j.has("subscription")) {
            List<String> topics = new ArrayList<>();
            j.get("subscription").forEach(t -> topics.add(t.asText()));
            ByteBuffer b = ConsumerProtocol.serializeSubscription(new Subscription(topics));
            byte[] bytes = new byte[b.remaining()];
            b.get(bytes);
            return bytes;
        }
        return j.asText().getBytes(StandardCharsets.UTF_8);
    }

    // --- batches

    /** A batch as an object, several as an array, anything else as bytes() has it. */
    private static byte[] records(JsonNode j) {
        if (j.isArray()) {
            ByteBuffer all = ByteBuffer.allocate(1 << 21);
            j.forEach(b -> all.put(records(b)));
            byte[] bytes = new byte[all.position()];
            all.flip().get(bytes);
            return bytes;
        }
        return j.isObject() && !j.has("hex") ? batch(j) : bytes(j);
    }

    private static byte[] batch(JsonNode j) {
        byte magic = (byte) j.path("magic").asInt(2);
        long time = j.path("time").asLong(1_700_000_000_000L);
        MemoryRecordsBuilder b = MemoryRecords.builder(ByteBuffer.allocate(4096), magic,
            Compression.of(CompressionType.forName(j.path("codec").asText("none"))).build(),
            TimestampType.CREATE_TIME, j.path("base").asLong(0), RecordBatch.NO_TIMESTAMP,
            RecordBatch.NO_PRODUCER_ID, RecordBatch.NO_PRODUCER_EPOCH, RecordBatch.NO_SEQUENCE, false, false, -1);
        int count = j.path("n").asInt(1);
        for (int i = 0; i < count; i++) {
            byte[] key = text(j, "key", "k" + i);
            byte[] value = text(j, "value", "v" + i);
            Header[] headers = j.has("header")
                ? new Header[] {new RecordHeader("h", j.get("header").asText().getBytes(StandardCharsets.UTF_8))}
                : new Header[0];
            b.appendWithOffset(j.path("base").asLong(0) + i, time + (long) i * j.path("step").asInt(1),
                key, j.has("bytes") ? new byte[j.get("bytes").asInt()] : value, headers);
        }
        ByteBuffer built = b.build().buffer();
        byte[] bytes = new byte[built.remaining()];
        built.get(bytes);
        if (magic == 2) {
            ByteBuffer head = ByteBuffer.wrap(bytes); // written over: the builder refuses what is wrong
            head.putLong(PRODUCER_OFFSET, j.path("pid").asLong(-1));
            head.putShort(PRODUCER_OFFSET + 8, (short) j.path("epoch").asInt(-1));
            head.putInt(PRODUCER_OFFSET + 10, j.path("seq").asInt(-1));
            head.put(ATTRIBUTES_OFFSET, (byte) (head.get(ATTRIBUTES_OFFSET) | (j.path("txn").asBoolean() ? 16 : 0)));
        }
        return spoil(bytes, magic, j);
    }

    private static byte[] text(JsonNode j, String name, String otherwise) {
        JsonNode v = j.path(name);
        return v.isNull() ? null : v.asText(otherwise).getBytes(StandardCharsets.UTF_8);
    }

    /** "patch": {"offset": "hex"}, and then the checksum is made to fit, unless "crc" is "wrong". */
    private static byte[] spoil(byte[] bytes, byte magic, JsonNode j) {
        j.path("patch").properties().forEach(p -> {
            byte[] by = HexFormat.of().parseHex(p.getValue().asText());
            System.arraycopy(by, 0, bytes, Integer.parseInt(p.getKey()), by.length);
        });
        if (magic == 2) {
            CRC32C crc = new CRC32C();
            crc.update(bytes, CRC_FROM, bytes.length - CRC_FROM);
            ByteBuffer.wrap(bytes).putInt(CRC_OFFSET, (int) crc.getValue());
        }
        if (j.path("crc").asText("").equals("wrong")) {
            bytes[CRC_OFFSET] ^= 1;
        }
        if (j.has("size")) {
            ByteBuffer.wrap(bytes).putInt(SIZE_OFFSET, bytes.length - 12 + j.get("size").asInt());
        }
        return j.has("cut") ? java.util.Arrays.copyOf(bytes, bytes.length - j.get("cut").asInt()) : bytes;
    }

    // --- message to JSON

    static ObjectNode json(Object m, Schema schema) throws ReflectiveOperationException {
        ObjectNode out = NODES.objectNode();
        Map<String, Method> getters = new HashMap<>();
        for (Method method : m.getClass().getMethods()) {
            if (method.getParameterCount() == 0 && method.getDeclaringClass() == m.getClass()) {
                getters.put(snake(method.getName()), method);
            }
        }
        for (Map.Entry<String, Type> f : types(schema).entrySet()) {
            Method getter = getters.get(f.getKey());
            out.set(getter.getName(), json(getter.invoke(m), f.getValue()));
        }
        return out;
    }

    private static JsonNode json(Object v, Type type) throws ReflectiveOperationException {
        if (v == null) {
            return NODES.nullNode();
        } else if (v instanceof BaseRecords) {
            return batches((MemoryRecords) v);
        } else if (v instanceof Collection) {
            ArrayNode all = NODES.arrayNode();
            for (Object e : (Collection<?>) v) {
                all.add(json(e, type.arrayElementType().get()));
            }
            return all;
        } else if (v instanceof Boolean) {
            return NODES.booleanNode((Boolean) v);
        } else if (v instanceof Double) {
            return NODES.numberNode((Double) v);
        } else if (v instanceof Number) {
            return NODES.numberNode(((Number) v).longValue());
        } else if (v instanceof byte[]) {
            return text(ByteBuffer.wrap((byte[]) v));
        } else if (v instanceof ByteBuffer) {
            return text((ByteBuffer) v);
        } else if (v instanceof Message) {
            return json(v, structSchema(type));
        }
        return NODES.textNode(v.toString());
    }

    private static TextNode text(ByteBuffer b) {
        byte[] bytes = new byte[b.remaining()];
        b.duplicate().get(bytes);
        for (byte x : bytes) {
            if (x < 32 || x == 127) {
                return NODES.textNode("hex:" + HexFormat.of().formatHex(bytes));
            }
        }
        return NODES.textNode(new String(bytes, StandardCharsets.UTF_8));
    }

    private static JsonNode batches(MemoryRecords records) {
        ArrayNode all = NODES.arrayNode();
        for (RecordBatch b : records.batches()) {
            ObjectNode one = all.addObject();
            one.put("offsets", b.baseOffset() + "-" + b.lastOffset());
            one.put("leaderEpoch", b.partitionLeaderEpoch());
            one.put("codec", b.compressionType().name);
            one.put("timestampType", b.timestampType().name);
            one.put("maxTimestamp", b.maxTimestamp());
            if (b.hasProducerId()) {
                one.put("producerId", b.producerId());
                one.put("producerEpoch", b.producerEpoch());
                one.put("sequence", b.baseSequence());
                one.put("transactional", b.isTransactional());
            }
            ArrayNode inner = one.putArray("records");
            for (Record r : b) {
                inner.add(b.isControlBatch() ? "control " + ControlRecordType.parse(r.key())
                    : part(r.key()) + "=" + part(r.value())
                        + (r.headers().length > 0 ? " headers=" + r.headers().length : ""));
            }
        }
        if (records.sizeInBytes() > 0 && !records.batches().iterator().hasNext()) {
            all.add("no whole batch");
        }
        return all;
    }

    private static String part(ByteBuffer b) {
        return b == null ? "null" : b.remaining() > 64 ? b.remaining() + " bytes" : text(b).asText();
    }
}
