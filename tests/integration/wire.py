"""Any message of Kafka as a dict: requests and answers by name and version, along kafka.schema.

    with Wire(port) as w:
        answer = w.call("ElectLeaders", 2, TopicPartitions=None, ElectionType=0)
        answer["ReplicaElectionResults"][0]["PartitionResult"]

Names are Kafka's. What a request leaves out has its default; what a version lacks is dropped. That the schema is
Kafka's, and that the server reads and writes it as Kafka does, is proven elsewhere (make codec-test); here it only
saves every test from counting bytes. The same calls work on Kafka itself."""

import socket
import struct
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path

SCHEMA = Path(__file__).resolve().parents[2] / "kafka-server" / "protocol" / "kafka.schema"
NUMBERS = {"bool": "?", "int8": "b", "int16": "h", "uint16": "H", "int32": "i", "int64": "q", "float64": "d"}
NUMBER_TYPES = {"bool": bool, "float64": float}
NEVER = 999


@dataclass
class Field:
    name: str
    kind: str = "{}"
    array: bool = False
    span: tuple = (0, NEVER)
    null_from: int = NEVER
    tag: int = -1
    default: object = None
    fields: list = field(default_factory=list)


@dataclass
class Api:
    name: str
    key: int
    span: tuple
    flexible: int
    request: Field = None
    response: Field = None


def read_span(text, within):
    first, dash, last = text.rstrip("+").partition("-")
    return int(first), int(last) if dash else within[1] if text.endswith("+") else int(first)


def read_field(words, within):
    f = Field(words[0], span=within)
    kind, mark, null_from = words[1].partition("?")
    f.array = kind.startswith("[]")
    f.kind = (kind[2:] if f.array else kind) or "{}"
    rest = words[2:]
    if rest and rest[0][0].isdigit():
        f.span = read_span(rest.pop(0), within)
    if mark:
        f.null_from = int(null_from.rstrip("+")) if null_from else f.span[0]
    if "tag" in rest:
        f.tag = int(rest[rest.index("tag") + 1])
    default = rest[rest.index("=") + 1] if "=" in rest else None
    f.default = None if default == "null" else read_default(f, default)
    return f


def read_default(f, text):
    if f.array:
        return []
    if f.kind == "bool":
        return text == "true"
    if f.kind in NUMBERS:
        return int(text or "0", 0)
    return {"string": "", "uuid": uuid.UUID(int=0), "{}": {}}.get(f.kind, b"")


def read_schema():
    apis, stack = {}, []
    for line in SCHEMA.read_text(encoding="utf-8").splitlines():
        line = line.partition("#")[0].rstrip()
        words = line.split()
        if not words:
            continue
        if words[0] == "api":
            span = read_span(words[4], (0, NEVER))
            api = Api(words[1], int(words[2]), span, int(words[6].rstrip("+")) if len(words) > 5 else NEVER)
            apis[api.name] = api
        elif not line.startswith(" "):
            stack = [Field(words[0], span=api.span)]
            setattr(api, words[0], stack[0])
        else:
            depth = (len(line) - len(line.lstrip())) // 4
            del stack[depth:]
            stack.append(read_field(words, stack[-1].span))
            stack[-2].fields.append(stack[-1])
    return apis


APIS = read_schema()


class Writer:
    def __init__(self, flexible, version):
        self.out, self.flexible, self.version = bytearray(), flexible, version

    def uvarint(self, n):
        while n > 127:
            self.out.append(n & 127 | 128)
            n >>= 7
        self.out.append(n)

    def length(self, n, fmt):
        """n None: null."""
        if self.flexible:
            self.uvarint(0 if n is None else n + 1)
        else:
            self.out += struct.pack(fmt, -1 if n is None else n)

    def value(self, f, v):
        if f.array:
            self.length(None if v is None else len(v), ">i")
            for item in v or []:
                self.single(f, item)
        else:
            self.single(f, v)

    def single(self, f, v):
        if f.kind in NUMBERS:
            self.out += struct.pack(">" + NUMBERS[f.kind], v)
        elif f.kind == "uuid":
            self.out += v.bytes
        elif f.kind == "{}":
            if f.null_from != NEVER and not f.array:
                self.out += struct.pack(">b", -1 if v is None else 1)
            if v is not None:
                self.struct(f, v)
        else:
            data = v.encode() if isinstance(v, str) else v
            self.length(None if data is None else len(data), ">h" if f.kind == "string" else ">i")
            self.out += data or b""

    def struct(self, f, values):
        unknown = set(values) - {x.name for x in f.fields}
        assert not unknown, f"{f.name} has no {unknown}"
        here = [x for x in f.fields if x.span[0] <= self.version <= x.span[1]]
        for x in here:
            if x.tag < 0:
                self.value(x, values.get(x.name, x.default))
        if self.flexible:
            tagged = sorted((x for x in here if x.tag >= 0 and values.get(x.name, x.default) != x.default),
                            key=lambda x: x.tag)
            self.uvarint(len(tagged))
            for x in tagged:
                inner = Writer(True, self.version)
                inner.value(x, values[x.name])
                self.uvarint(x.tag)
                self.uvarint(len(inner.out))
                self.out += inner.out


class Reader:
    def __init__(self, data, flexible, version):
        self.data, self.at, self.flexible, self.version = data, 0, flexible, version

    def take(self, n):
        assert self.at + n <= len(self.data), "the answer is too short"
        self.at += n
        return self.data[self.at - n:self.at]

    def number(self, fmt):
        return struct.unpack(">" + fmt, self.take(struct.calcsize(fmt)))[0]

    def uvarint(self):
        n = shift = 0
        while True:
            byte = self.take(1)[0]
            n |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return n

    def length(self, fmt):
        n = self.uvarint() - 1 if self.flexible else self.number(fmt)
        return None if n < 0 else n

    def value(self, f):
        if not f.array:
            return self.single(f)
        n = self.length("i")
        return None if n is None else [self.single(f) for _ in range(n)]

    def single(self, f):
        if f.kind in NUMBERS:
            return self.number(NUMBERS[f.kind])
        if f.kind == "uuid":
            return uuid.UUID(bytes=bytes(self.take(16)))
        if f.kind == "{}":
            if f.null_from != NEVER and not f.array and self.number("b") < 0:
                return None
            return self.struct(f)
        n = self.length("h" if f.kind == "string" else "i")
        data = None if n is None else bytes(self.take(n))
        return data.decode() if f.kind == "string" and data is not None else data

    def struct(self, f):
        here = [x for x in f.fields if x.span[0] <= self.version <= x.span[1]]
        out = {x.name: x.default if x.tag >= 0 else self.value(x) for x in here}
        for _ in range(self.uvarint() if self.flexible else 0):
            tag, size = self.uvarint(), self.uvarint()
            end = self.at + size
            for x in here:
                if x.tag == tag:
                    out[x.name] = self.value(x)
            self.at = end
        return out


class Wire:
    """One connection to a server, or to Kafka."""

    def __init__(self, port, client="test", timeout=180):
        self.s = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.client, self.correlation = client.encode(), 0

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.s.close()

    def frame(self, name, version, **values):
        api = APIS[name]
        flexible = version >= api.flexible
        self.correlation += 1
        w = Writer(flexible, version)
        w.out += struct.pack(">hhih", api.key, version, self.correlation, len(self.client)) + self.client
        if flexible:
            w.uvarint(0)
        w.struct(api.request, values)
        return struct.pack(">i", len(w.out)) + w.out

    def send(self, name, version, **values):
        self.s.sendall(self.frame(name, version, **values))

    def recv(self, name, version):
        """Of the request sent last."""
        api = APIS[name]
        flexible = version >= api.flexible
        r = Reader(self.exactly(struct.unpack(">i", self.exactly(4))[0]), flexible, version)
        assert r.number("i") == self.correlation
        if flexible and name != "ApiVersions":
            assert r.uvarint() == 0
        answer = r.struct(api.response)
        assert r.at == len(r.data), "bytes are left behind the answer"
        return answer

    def call(self, name, version, **values):
        self.send(name, version, **values)
        return self.recv(name, version)

    def exactly(self, n):
        data = b""
        while len(data) < n:
            got = self.s.recv(n - len(data))
            if not got:
                raise ConnectionError(f"closed after {len(data)} of {n} bytes")
            data += got
        return data


def sample_value(f, version):
    """A value that makes sense in most fields: 1, "t", one element."""
    if f.array:
        return [sample_value(replace(f, array=False, null_from=NEVER), version)]
    if f.kind == "{}":
        return {x.name: sample_value(x, version) for x in f.fields
                if x.span[0] <= version <= x.span[1] and x.tag < 0}
    if f.kind in NUMBERS:
        return NUMBER_TYPES.get(f.kind, int)(1)
    return {"string": "t", "uuid": uuid.UUID(int=7)}.get(f.kind, b"t")


def sample(name, version):
    """The frame of a request in which everything is there once, without its length."""
    api = APIS[name]
    w = Writer(version >= api.flexible, version)
    w.out += struct.pack(">hhih", api.key, version, 1, 4) + b"test"
    if w.flexible:
        w.uvarint(0)
    w.struct(api.request, sample_value(api.request, version))
    return bytes(w.out)


def ask(port, name, version, **values):
    """One request on a connection of its own."""
    with Wire(port) as w:
        return w.call(name, version, **values)
