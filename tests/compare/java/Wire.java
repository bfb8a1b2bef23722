import java.io.BufferedOutputStream;
import java.io.Closeable;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.EOFException;
import java.io.IOException;
import java.net.Socket;
import java.net.SocketException;
import java.net.SocketTimeoutException;
import java.nio.ByteBuffer;
import java.util.ArrayDeque;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;

import org.apache.kafka.common.message.ApiMessageType;
import org.apache.kafka.common.message.RequestHeaderData;
import org.apache.kafka.common.message.ResponseHeaderData;
import org.apache.kafka.common.protocol.ApiMessage;
import org.apache.kafka.common.protocol.ByteBufferAccessor;
import org.apache.kafka.common.protocol.Message;
import org.apache.kafka.common.protocol.MessageUtil;

/** One connection: requests out, answers in, in order. */
final class Wire implements Closeable {
    private static final int ANSWER_MS_MAX = 60_000;

    private record Sent(ApiMessageType api, short version, int correlation) {
    }

    private final Socket socket;
    private final DataOutputStream out;
    private final DataInputStream in;
    private final ArrayDeque<Sent> sent = new ArrayDeque<>();
    private int correlation;

    Wire(int port) throws IOException {
        socket = new Socket("127.0.0.1", port);
        socket.setTcpNoDelay(true);
        socket.setSoTimeout(ANSWER_MS_MAX);
        out = new DataOutputStream(new BufferedOutputStream(socket.getOutputStream()));
        in = new DataInputStream(socket.getInputStream());
    }

    @Override
    public void close() throws IOException {
        socket.close();
    }

    private static byte[] bytesOf(Message m, short version) {
        ByteBuffer b = MessageUtil.toByteBufferAccessor(m, version).buffer();
        byte[] bytes = new byte[b.remaining()];
        b.get(bytes);
        return bytes;
    }

    void send(ApiMessageType api, short version, JsonNode body) throws IOException, ReflectiveOperationException {
        ApiMessage request = api.newRequest();
        Messages.fill(request, Messages.schema(request, version), body);
        sendBytes(api, version, bytesOf(request, version));
    }

    void sendBytes(ApiMessageType api, short version, byte[] body) throws IOException {
        RequestHeaderData header = new RequestHeaderData().setRequestApiKey(api.apiKey())
            .setRequestApiVersion(version).setCorrelationId(++correlation).setClientId("compare");
        byte[] head = bytesOf(header, api.requestHeaderVersion(version));
        try {
            out.writeInt(head.length + body.length);
            out.write(head);
            out.write(body);
            out.flush();
        } catch (SocketException e) {
            // The peer has closed: reading says so.
        }
        sent.add(new Sent(api, version, correlation));
    }

    /** What was sent needs no answer. */
    void forget() {
        sent.removeLast();
    }

    /** The answer to the oldest request, or "closed", or "no answer". */
    JsonNode receive() throws IOException, ReflectiveOperationException {
        Sent s = sent.remove();
        byte[] reply;
        try {
            reply = new byte[in.readInt()];
            in.readFully(reply);
        } catch (EOFException | SocketException e) {
            return JsonNodeFactory.instance.textNode("closed");
        } catch (SocketTimeoutException e) {
            socket.close();
            return JsonNodeFactory.instance.textNode("no answer");
        }
        ByteBufferAccessor b = new ByteBufferAccessor(ByteBuffer.wrap(reply));
        ApiMessage answer = s.api.newResponse();
        // An ApiVersions of a version that is not known is answered in version 0.
        boolean old = s.api == ApiMessageType.API_VERSIONS && reply[4] == 0 && reply[5] == 35;
        short v = old ? 0 : s.version;
        int got = new ResponseHeaderData(b, s.api.responseHeaderVersion(s.version)).correlationId();
        answer.read(b, v);
        if (got != s.correlation || b.remaining() > 0) {
            return JsonNodeFactory.instance.textNode("correlation " + (got - s.correlation) + " off, "
                + b.remaining() + " bytes left over");
        }
        return Messages.json(answer, Messages.schema(answer, v));
    }
}
