import java.io.BufferedInputStream;
import java.io.BufferedOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.lang.reflect.Method;
import java.lang.reflect.ParameterizedType;
import java.net.Socket;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.TreeSet;

import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.message.ApiMessageType;
import org.apache.kafka.common.message.ApiVersionsResponseData;
import org.apache.kafka.common.message.MetadataRequestData;
import org.apache.kafka.common.message.MetadataResponseData;
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
 *     CodecOracle ask PORT TOPIC SEED             asks a server every API in every version that it serves,
 *                                                 and reads the answers
 *     CodecOracle wild PORT TOPIC SEED            the same, with half of what makes sense left to chance
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

    /** What would make a request wait, or never be answered. */
    private static final Set<String> NEVER_WILD = Set.of("max_wait_ms", "acks", "group_id");

    private final long seed;
    private final Random random;
    private final boolean sample;
    private boolean wild;
    private final Map<String, Object> fixed = new HashMap<>(); // values of fields by name, instead of random ones

    private CodecOracle(long seed, boolean sample) {
        this.seed = seed;
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
        } else if (args[0].equals("ask") || args[0].equals("wild")) {
            CodecOracle oracle = new CodecOracle(Long.parseLong(args[3]), args[0].equals("ask"));
            oracle.wild = args[0].equals("wild");
            oracle.ask(Integer.parseInt(args[1]), args[2]);
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
                random.setSeed(seed << 16 | key); // an API more leaves the messages of the others as they are
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
        String name = snake(setter.getName().substring(3));
        boolean left = wild && !NEVER_WILD.contains(name) && random.nextBoolean();
        if (!left && fixed.containsKey(name) && fits(fixed.get(name), setter.getParameterTypes()[0], type)) {
            setter.invoke(m, fixed.get(name));
            return;
        }
        setter.invoke(m, value(type, setter.getParameterTypes()[0], setter.getGenericParameterTypes()[0]));
    }

    private static boolean fits(Object value, Class<?> c, Type type) {
        return value == null ? type.isNullable()
            : c.isInstance(value) || c == int.class && value instanceof Integer
                || c == long.class && value instanceof Long || c == short.class && value instanceof Short
                || c == byte.class && value instanceof Byte;
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

    // --- asking a server

    /** One line an answer: API, version, and the error codes in it; or why there is none. */
    private void ask(int port, String topic) throws Exception {
        ApiVersionsResponseData versions = (ApiVersionsResponseData)
            exchange(port, ApiMessageType.API_VERSIONS, (short) 0, ApiMessageType.API_VERSIONS.newRequest());
        fix(port, topic);
        for (ApiVersionsResponseData.ApiVersion served : versions.apiKeys()) {
            ApiMessageType api = ApiMessageType.fromApiKey(served.apiKey());
            short first = (short) Math.max(served.minVersion(), api.lowestSupportedVersion());
            for (short v = first; v <= served.maxVersion(); v++) {
                fixed.put("group_id", "ask-" + port + "-" + random.nextInt());
                String result;
                try {
                    ApiMessage response = exchange(port, api, v, random(api.newRequest(), v));
                    Set<Short> errors = new TreeSet<>();
                    collectErrors(response, errors);
                    result = "errors=" + errors;
                } catch (IOException | RuntimeException e) {
                    result = "no answer: " + e;
                }
                System.out.printf("%s v%d %s%n", api.name, v, result);
            }
        }
    }

    /** Values that make most requests ones that a server can answer without waiting. */
    private void fix(int port, String topic) throws Exception {
        MetadataRequestData request = new MetadataRequestData();
        request.topics().add(new MetadataRequestData.MetadataRequestTopic().setName(topic));
        MetadataResponseData metadata = (MetadataResponseData)
            exchange(port, ApiMessageType.METADATA, (short) 12, request);
        for (String name : new String[] {"name", "topic", "topic_name", "resource_name"}) {
            fixed.put(name, topic);
        }
        fixed.put("topic_id", metadata.topics().find(topic).topicId());
        fixed.put("client_software_name", "ask");
        fixed.put("client_software_version", "1");
        fixed.put("cursor", null);
        fixed.put("configuration_keys", null);
        fixed.put("group_instance_id", null);
        fixed.put("transactional_id", null);
        fixed.put("acks", (short) 1); // 0 would not be answered
        fixed.put("index", 0);
        fixed.put("member_id", "");
        fixed.put("endpoint_type", (byte) 1);
        fixed.put("key_type", (byte) 0);
        fixed.put("resource_type", (byte) 2);
        fixed.put("isolation_level", (byte) 0);
        fixed.put("max_wait_ms", 0);
        fixed.put("min_bytes", 0);
        fixed.put("partition", 0);
        fixed.put("partition_index", 0);
        fixed.put("partition_indexes", List.of(0));
        fixed.put("session_id", 0);
        fixed.put("session_epoch", -1);
        fixed.put("session_timeout_ms", 10000);
        fixed.put("rebalance_timeout_ms", 1000);
        fixed.put("current_leader_epoch", -1);
        fixed.put("generation_id_or_member_epoch", -1);
        fixed.put("response_partition_limit", 100);
        fixed.put("fetch_offset", 0L);
        fixed.put("retention_time_ms", -1L);
        fixed.put("timestamp", 0L);
        for (String name : new String[] {"resource_type_filter", "pattern_type_filter", "operation", "permission_type"}) {
            fixed.put(name, (byte) 1); // any; 0 would not be answered
        }
    }

    private ApiMessage exchange(int port, ApiMessageType api, short v, ApiMessage request) throws IOException {
        RequestHeaderData header = new RequestHeaderData().setRequestApiKey(api.apiKey())
            .setRequestApiVersion(v).setCorrelationId(random.nextInt()).setClientId("ask");
        byte[] head = bytesOf(header, api.requestHeaderVersion(v));
        byte[] body = bytesOf(request, v);
        try (Socket socket = new Socket("127.0.0.1", port)) {
            socket.setSoTimeout(20000);
            DataOutputStream out = new DataOutputStream(new BufferedOutputStream(socket.getOutputStream()));
            DataInputStream in = new DataInputStream(socket.getInputStream());
            out.writeInt(head.length + body.length);
            out.write(head);
            out.write(body);
            out.flush();
            byte[] reply = new byte[in.readInt()];
            in.readFully(reply);
            ByteBuffer b = ByteBuffer.wrap(reply);
            ByteBufferAccessor readable = new ByteBufferAccessor(b);
            int correlation = new ResponseHeaderData(readable, api.responseHeaderVersion(v)).correlationId();
            ApiMessage response = api.newResponse();
            response.read(readable, v);
            if (correlation != header.correlationId() || b.hasRemaining()) {
                throw new IllegalStateException("correlation " + correlation + ", " + b.remaining()
                    + " bytes left over in " + response);
            }
            return response;
        }
    }

    private static void collectErrors(Object o, Set<Short> errors) throws Exception {
        if (o instanceof Collection) {
            for (Object element : (Collection<?>) o) {
                collectErrors(element, errors);
            }
        } else if (o instanceof Message) {
            for (Method getter : o.getClass().getMethods()) {
                if (getter.getParameterCount() > 0 || getter.getDeclaringClass() != o.getClass()) {
                    continue;
                }
                if (getter.getName().equals("errorCode") || getter.getName().equals("partitionErrorCode")) {
                    errors.add((Short) getter.invoke(o));
                } else if (Collection.class.isAssignableFrom(getter.getReturnType())) {
                    collectErrors(getter.invoke(o), errors);
                }
            }
        }
    }
}
