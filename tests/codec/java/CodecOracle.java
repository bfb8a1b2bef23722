import java.io.BufferedInputStream;
import java.io.BufferedOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.lang.reflect.Method;
import java.lang.reflect.ParameterizedType;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;

import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.message.ApiMessageType;
import org.apache.kafka.common.message.RequestHeaderData;
import org.apache.kafka.common.message.ResponseHeaderData;
import org.apache.kafka.common.protocol.ApiMessage;
import org.apache.kafka.common.protocol.ByteBufferAccessor;
import org.apache.kafka.common.protocol.Message;
import org.apache.kafka.common.protocol.MessageUtil;
import org.apache.kafka.common.protocol.types.BoundField;
import org.apache.kafka.common.protocol.types.Field;
import org.apache.kafka.common.protocol.types.Schema;
import org.apache.kafka.common.protocol.types.TaggedFields;
import org.apache.kafka.common.protocol.types.Type;
import org.apache.kafka.common.record.BaseRecords;
import org.apache.kafka.common.record.MemoryRecords;

/**
 * Kafka's own serializers as the other side of the codec's tests.
 *
 *     CodecOracle write COUNT SEED FILE KEY...    random messages of these APIs, all versions
 *     CodecOracle sample SEED FILE KEY...         one of each: short, no array empty
 *     CodecOracle check FILE                      reads each, writes it again, compares the bytes
 *
 * A file is a row of { int16 key, int16 version, int8 kind, int32 length, bytes }; kinds are those of
 * codec_peer.c. The message classes are filled by reflection along the schema that each of them carries
 * per version, so nothing here knows any message.
 */
public final class CodecOracle {
    private static final int REQUEST = 0;
    private static final int RESPONSE = 1;
    private static final int REQUEST_HEADER = 2;
    private static final int RESPONSE_HEADER = 3;

    private static final int ELEMENT_MAX = 3;
    private static final String[] LETTERS = {"a", "Z", "7", ".", "/", " ", "ü", "€", "\ud83e\udd9f"};
    private static final long[] EDGES = {0, -1, 1, 127, -128, 32767, -32768, 65535,
        Integer.MAX_VALUE, Integer.MIN_VALUE, Long.MAX_VALUE, Long.MIN_VALUE};

    private final Random random;
    private final boolean sample;

    private CodecOracle(long seed, boolean sample) {
        this.random = new Random(seed);
        this.sample = sample;
    }

    public static void main(String[] args) throws Exception {
        if (args[0].equals("write")) {
            new CodecOracle(Long.parseLong(args[2]), false)
                .write(Integer.parseInt(args[1]), args[3], keys(args, 4));
        } else if (args[0].equals("sample")) {
            new CodecOracle(Long.parseLong(args[1]), true).write(1, args[2], keys(args, 3));
        } else if (args[0].equals("check")) {
            System.exit(check(args[1]) ? 0 : 1);
        } else {
            throw new IllegalArgumentException(args[0]);
        }
    }

    private static short[] keys(String[] args, int from) {
        short[] keys = new short[args.length - from];
        for (int i = 0; i < keys.length; i++) {
            keys[i] = Short.parseShort(args[from + i]);
        }
        return keys;
    }

    // --- writing

    private void write(int count, String path, short[] keys) throws Exception {
        try (DataOutputStream out = new DataOutputStream(
                new BufferedOutputStream(new FileOutputStream(path)))) {
            for (short key : keys) {
                ApiMessageType api = ApiMessageType.fromApiKey(key);
                for (short v = api.lowestSupportedVersion(); v <= api.highestSupportedVersion(true); v++) {
                    for (int n = 0; n < count; n++) {
                        put(out, key, v, REQUEST, random(api.newRequest(), v), v);
                        put(out, key, v, RESPONSE, random(api.newResponse(), v), v);
                    }
                    putHeaders(out, api, v);
                }
            }
        }
    }

    private void putHeaders(DataOutputStream out, ApiMessageType api, short v) throws Exception {
        RequestHeaderData request = new RequestHeaderData()
            .setRequestApiKey(api.apiKey()).setRequestApiVersion(v)
            .setCorrelationId(random.nextInt())
            .setClientId(random.nextInt(3) == 0 ? null : text());
        put(out, api.apiKey(), v, REQUEST_HEADER, request, api.requestHeaderVersion(v));
        ResponseHeaderData response = new ResponseHeaderData().setCorrelationId(random.nextInt());
        put(out, api.apiKey(), v, RESPONSE_HEADER, response, api.responseHeaderVersion(v));
    }

    private static void put(DataOutputStream out, short key, short version, int kind, Message m,
                            short messageVersion) throws Exception {
        byte[] bytes = bytesOf(m, messageVersion);
        out.writeShort(key);
        out.writeShort(version);
        out.writeByte(kind);
        out.writeInt(bytes.length);
        out.write(bytes);
    }

    private static byte[] bytesOf(Message m, short version) {
        ByteBuffer b = MessageUtil.toByteBufferAccessor(m, version).buffer();
        byte[] bytes = new byte[b.remaining()];
        b.get(bytes);
        return bytes;
    }

    private ApiMessage random(ApiMessage m, short version) throws Exception {
        Schema[] schemas = (Schema[]) m.getClass().getField("SCHEMAS").get(null);
        fill(m, schemas[version]);
        return m;
    }

    private void fill(Object m, Schema schema) throws Exception {
        Map<String, Method> setters = new HashMap<>();
        for (Method method : m.getClass().getMethods()) {
            if (method.getName().startsWith("set") && method.getParameterCount() == 1) {
                setters.put(snake(method.getName().substring(3)), method);
            }
        }
        for (BoundField f : schema.fields()) {
            if (f.def.type instanceof TaggedFields) {
                for (Field tagged : ((TaggedFields) f.def.type).fields().values()) {
                    if (random.nextInt(3) > 0) {
                        set(m, setters.get(tagged.name), tagged.type);
                    }
                }
            } else {
                set(m, setters.get(f.def.name), f.def.type);
            }
        }
    }

    private static String snake(String camel) {
        return camel.replaceAll("(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_").toLowerCase();
    }

    private void set(Object m, Method setter, Type type) throws Exception {
        setter.invoke(m, value(type, setter.getParameterTypes()[0], setter.getGenericParameterTypes()[0]));
    }

    private Object value(Type type, Class<?> c, java.lang.reflect.Type generic) throws Exception {
        if (type.isNullable() && random.nextInt(4) == 0) {
            return null;
        }
        if (Collection.class.isAssignableFrom(c)) {
            return list(type.arrayElementType().get(), c, generic);
        }
        if (c == boolean.class || c == Boolean.class) {
            return random.nextBoolean();
        } else if (c == byte.class || c == Byte.class) {
            return (byte) number();
        } else if (c == short.class || c == Short.class) {
            return (short) number();
        } else if (c == int.class || c == Integer.class) {
            return type == Type.UINT16 ? (int) number() & 0xffff : (int) number();
        } else if (c == long.class || c == Long.class) {
            return number();
        } else if (c == double.class || c == Double.class) {
            return random.nextDouble();
        } else if (c == String.class) {
            return text();
        } else if (c == byte[].class) {
            return bytes();
        } else if (c == ByteBuffer.class) {
            return ByteBuffer.wrap(bytes());
        } else if (c == Uuid.class) {
            return random.nextInt(4) == 0 ? Uuid.ZERO_UUID : new Uuid(random.nextLong(), random.nextLong());
        } else if (BaseRecords.class.isAssignableFrom(c)) {
            return MemoryRecords.readableRecords(ByteBuffer.wrap(bytes()));
        }
        Object struct = c.getConstructor().newInstance();
        fill(struct, (Schema) type);
        return struct;
    }

    @SuppressWarnings("unchecked")
    private Object list(Type element, Class<?> c, java.lang.reflect.Type generic) throws Exception {
        Collection<Object> all;
        ParameterizedType parameters;
        if (c == List.class) {
            all = new ArrayList<>();
            parameters = (ParameterizedType) generic;
        } else {
            all = (Collection<Object>) c.getConstructor().newInstance();
            parameters = (ParameterizedType) c.getGenericSuperclass();
        }
        Class<?> elementClass = (Class<?>) parameters.getActualTypeArguments()[0];
        for (int n = sample ? 1 + random.nextInt(2) : random.nextInt(ELEMENT_MAX + 1); n > 0; n--) {
            all.add(value(element, elementClass, elementClass));
        }
        return all;
    }

    private long number() {
        switch (random.nextInt(3)) {
            case 0:
                return EDGES[random.nextInt(EDGES.length)];
            case 1:
                return random.nextInt(1000);
            default:
                return random.nextLong();
        }
    }

    private int length() {
        return sample ? 1 + random.nextInt(4) : random.nextInt(40) == 0 ? 300 : random.nextInt(12);
    }

    private String text() {
        StringBuilder s = new StringBuilder();
        for (int n = length(); n > 0; n--) {
            s.append(LETTERS[random.nextInt(LETTERS.length)]);
        }
        return s.toString();
    }

    private byte[] bytes() {
        byte[] b = new byte[length()];
        random.nextBytes(b);
        return b;
    }

    // --- checking

    private static boolean check(String path) throws Exception {
        int count = 0;
        int wrong = 0;
        try (DataInputStream in = new DataInputStream(
                new BufferedInputStream(new FileInputStream(path)))) {
            while (in.available() > 0) {
                short key = in.readShort();
                short version = in.readShort();
                int kind = in.readByte();
                byte[] bytes = new byte[in.readInt()];
                in.readFully(bytes);
                String problem = problem(key, version, kind, bytes);
                count++;
                if (problem != null && wrong++ < 20) {
                    System.out.printf("%s v%d %s: %s%n", ApiMessageType.fromApiKey(key), version,
                        kind == REQUEST ? "request" : "response", problem);
                }
            }
        }
        System.out.printf("Kafka reads and repeats %d of %d messages%n", count - wrong, count);
        return count > 0 && wrong == 0;
    }

    private static String problem(short key, short version, int kind, byte[] bytes) {
        ApiMessageType api = ApiMessageType.fromApiKey(key);
        ApiMessage m = kind == REQUEST ? api.newRequest() : api.newResponse();
        ByteBuffer b = ByteBuffer.wrap(bytes);
        try {
            m.read(new ByteBufferAccessor(b), version);
        } catch (RuntimeException e) {
            return "cannot be read: " + e;
        }
        if (b.hasRemaining()) {
            return b.remaining() + " bytes are left over";
        }
        if (!Arrays.equals(bytes, bytesOf(m, version))) {
            return "other bytes: " + m;
        }
        return null;
    }
}
