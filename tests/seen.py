#!/usr/bin/env python3
"""What the tests saw others' clients and programs do, and README's compatibility table made of it.

A test says it with one line:

    @pytest.mark.saw("reads", "classic groups")             the client is the test's parameter `client`
    @pytest.mark.saw("lists offsets", client="kafka-get-offsets")

and it holds when the test has passed. What is no pytest says it when it has seen it, `import seen; seen.saw("Flink", "…")` or
`tests/seen.py saw Flink '…'`. A name that is new gets a row in LIBRARIES or PROGRAMS below: where its version is read.

Each step of tests/run, and `make ecosystem` (ecosystem-long), has a file of its own, build/test-logs/seen/STEP.jsonl, made anew when it begins
and closed when it has passed. Outside of a step (SEEN_STEP is not set) nothing is written.

    tests/seen.py begin STEP     tests/seen.py saw NAME WHAT...     tests/seen.py end STEP
    tests/seen.py check STEP...  README must say what these steps saw, and nothing else of them
    tests/seen.py write          makes README's table of all that the steps saw; rows of steps that did not run are kept
"""

import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SEEN = ROOT / "build" / "test-logs" / "seen"
README = ROOT / "README.md"
BEGINS = "<!-- compatibility: made by `make compatibility` from what the tests saw -->"
ENDS = "<!-- end of compatibility -->"


def debian():
    text = Path("/etc/os-release").read_text() if Path("/etc/os-release").exists() else ""
    found = re.search(r'^VERSION_ID="?(\d+)', text, re.M)
    return found[1] if found and "ID=debian" in text else ""


# --- where versions are read: as installed, not as asked for -----------------------------------------------------


def python(name, folder=None):
    def read():
        if folder is None:
            return metadata.version(name)
        (found,) = metadata.distributions(name=name, path=[str(p) for p in ROOT.glob(folder)])
        return found.version
    return read


def jar(folder, name):
    def read():
        versions = [m[1] for f in (ROOT / folder).glob(f"{name}-*.jar")
                    if (m := re.fullmatch(re.escape(name) + r"-(\d[\w.]*)\.jar", f.name))]
        assert len(versions) == 1, f"{folder} has {versions} of {name}"
        return versions[0]
    return read


def go(module):
    def read():
        # What was built: the build does not write this file.
        return re.search(re.escape(module) + r" v(\S+)", (ROOT / "tests/clients/go/go.mod").read_text())[1]
    return read


def npm(name):
    return lambda: json.loads((ROOT / "build/clients/node/node_modules" / name / "package.json").read_text())["version"]


def said(argv, pattern, form="{}"):
    """What a program says of itself."""
    def read():
        out = subprocess.run(argv, capture_output=True, text=True)
        return form.format(*re.search(pattern, out.stdout + out.stderr).groups())
    return read


def of_debian(read):
    """What the system brings has another version on another one."""
    return lambda: f"{read()} (Debian {debian()})" if debian() else read()


def mosquitto():
    if own := os.environ.get("MOSQUITTO"):  # the newest of its line, whichever that is
        return said([own, "-h"], r"mosquitto version (\d+\.\d+)")()
    read = said(["/usr/sbin/mosquitto", "-h"], r"mosquitto version (\S+)")
    return f"{read()} on Debian {debian()}" if os.environ["SEEN_STEP"] == "matrix" else of_debian(read)()


KAFKA = jar("build/clients/java/lib", "kafka-tools")
DID = ["reads", "classic groups", "KIP-848 groups", "writes", "idempotent", "transactions", "admin"]
LIBRARIES = {
    "librdkafka": ("librdkafka (confluent-kafka)", python("confluent-kafka")),
    "kcat": ("kcat", of_debian(said(["kcat", "-V"], r"Version (\S+) .*librdkafka (\S+)", "{} with librdkafka {}"))),
    "java": ("Java kafka-clients", jar("build/clients/java/lib", "kafka-clients")),
    "franz-go": ("franz-go", go("github.com/twmb/franz-go")),
    "sarama": ("sarama", go("github.com/IBM/sarama")),
    "kafka-go": ("kafka-go", go("github.com/segmentio/kafka-go")),
    "aiokafka": ("aiokafka", python("aiokafka")),
    "kafka-python": ("kafka-python", python("kafka-python")),
    "kafka-python-2.0.2": ("kafka-python", python("kafka-python", "build/py/kafka-python-2.0.2")),
    "kafkajs": ("kafkajs", npm("kafkajs")),
}
PROGRAMS = {
    "Mosquitto": ("Mosquitto", mosquitto),
    **{name: (name, KAFKA) for name in (
        "kafka-console-consumer", "kafka-console-producer", "kafka-verifiable-producer", "kafka-verifiable-consumer",
        "kafka-producer-perf-test", "kafka-consumer-perf-test", "kafka-topics", "kafka-configs", "kafka-consumer-groups",
        "kafka-get-offsets", "kafka-delete-records", "kafka-log-dirs", "kafka-transactions", "kafka-features",
        "kafka-metadata-quorum", "kafka-leader-election", "kafka-reassign-partitions", "kafka-broker-api-versions",
        "kafka-cluster", "kafka-client-metrics")},
    "kaskade": ("kaskade, a UI", python("kaskade", "build/ui/lib/python3*/site-packages")),
    "Kafka Streams": ("Kafka Streams", jar("build/ecosystem/lib", "kafka-streams")),
    "Kafka Connect": ("Kafka Connect", jar("build/ecosystem/lib", "connect-runtime")),
    "MirrorMaker 2": ("MirrorMaker 2", jar("build/ecosystem/lib", "connect-mirror")),
    "Flink": ("Flink", jar("build/ecosystem/flink-lib", "flink-runtime")),
}
NAMES = [name for name, _ in (*LIBRARIES.values(), *PROGRAMS.values())]


# --- what a step saw ---------------------------------------------------------------------------------------------


def put(step, row, anew=False):
    SEEN.mkdir(parents=True, exist_ok=True)
    with open(SEEN / f"{step}.jsonl", "w" if anew else "a") as out:
        if row:
            out.write(json.dumps(row) + "\n")


def saw(name, *what, skipped=False):
    """`skipped`: it could not be looked at here, so README may say it."""
    step = os.environ.get("SEEN_STEP")
    if step is None:
        return
    table = LIBRARIES if name in LIBRARIES else PROGRAMS
    assert name in table, f"{name} has no row in {__file__}: say there where its version is read"
    assert table is PROGRAMS or set(what) <= set(DID), f"{what}: a library does some of {DID}"
    shown, version = table[name]
    for w in what:
        put(step, {"name": shown, "version": None if skipped else version(), "what": w, "skipped": skipped})


def load(step):
    """(rows, skipped, Debian) of a step; None if it has not passed. Rows: (name, version) → set of what was seen."""
    path = SEEN / f"{step}.jsonl"
    lines = [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []
    if not lines or "passed" not in lines[-1]:
        return None
    rows, skipped = {}, set()
    for x in lines[:-1]:
        if x["skipped"]:
            skipped.add((x["name"], x["what"]))
        else:
            rows.setdefault((x["name"], x["version"]), set()).add(x["what"])
    return rows, skipped, lines[-1]["passed"]


# --- README ------------------------------------------------------------------------------------------------------


def parts():
    text = README.read_text()
    before, rest = text.split(BEGINS + "\n")
    table, after = rest.split(ENDS)
    return before, table, after


def told(table):
    """(name, version, step) → set of what it says was seen."""
    rows = {}
    for line in table.splitlines():
        cells = [c.strip() for c in line.strip().strip("|").split("|")]
        if len(cells) < 4 or cells[1] == "version" or set(cells[1]) == {"-"}:
            continue
        name, version, *what, step = cells
        yes = {w for w, c in zip(DID, what) if c} if len(what) == len(DID) else set(what[0].split("; "))
        for one in step.split(", "):
            rows[name, version, one] = yes
    return rows


def render(rows):
    libraries = [name for name, _ in LIBRARIES.values()]

    def order(key):
        number = [int(x) for x in re.findall(r"\d+", key[1])]
        return NAMES.index(key[0]) if key[0] in NAMES else len(NAMES), key[2], number
    out = ["| client | version | " + " | ".join(DID) + " | step |", "|---" * (len(DID) + 3) + "|"]
    last = ["", "| program | version | what it did | step |", "|---" * 4 + "|"]
    same = {}  # a row each, with all the steps that saw it
    for name, version, step in sorted(rows, key=order):
        same.setdefault((name, version, frozenset(rows[name, version, step])), []).append(step)
    for (name, version, what), steps in same.items():
        step = ", ".join(steps)
        if name in libraries:
            cells = ["yes" if w in what else "" for w in DID]
            out.append(f"| {name} | {version} | " + " | ".join(cells) + f" | {step} |")
        else:
            last.append(f"| {name} | {version} | {'; '.join(sorted(what))} | {step} |")
    return "\n".join(out + last) + "\n"


def of_another_debian(version, here):
    found = re.search(r"\(Debian (\d+)\)$", version)
    return found is not None and found[1] != here


def check(steps):
    rows, wrong = told(parts()[1]), []
    for step in steps:
        got = load(step)
        if got is None:
            continue
        seen, skipped, here = got
        said_of_step = {k[:2]: what for k, what in rows.items() if k[2] == step}
        # The table is of one Debian; on another, what comes with the system has other versions.
        elsewhere = {name for name, version in said_of_step if of_another_debian(version, here)}
        for name, version in sorted({**said_of_step, **seen}):
            if name in elsewhere:
                continue
            says, did = said_of_step.get((name, version), set()), seen.get((name, version), set())
            wrong += [f"README says of {name} {version}: {w}; step {step} did not see that"
                      for w in sorted(says - did) if (name, w) not in skipped]
            wrong += [f"step {step} saw {name} {version}: {w}; README does not say that" for w in sorted(did - says)]
    for w in wrong:
        print(w)
    if wrong:
        print("README's compatibility table is not what the tests saw: if they are right, run `make compatibility`")
    return 1 if wrong else 0


def write():
    before, table, after = parts()
    rows = told(table)
    for step in sorted(p.stem for p in SEEN.glob("*.jsonl") if p.stat().st_size):
        got = load(step)
        if got is None:
            print(f"{step} has not passed: its rows are kept")
            continue
        seen, skipped, here = got
        for key in [k for k in rows if k[2] == step and not of_another_debian(k[1], here)]:
            kept = {w for w in rows.pop(key) if (key[0], w) in skipped}
            if kept:
                rows[key] = kept
        for (name, version), what in seen.items():
            rows.setdefault((name, version, step), set()).update(what)
    README.write_text(before + BEGINS + "\n" + render(rows) + ENDS + after)
    print(f"{len(rows)} rows in {README.name}")
    return 0


def main(argv):
    verb, *args = argv or ["help"]
    if verb == "begin" and len(args) == 1:
        return put(args[0], None, anew=True)
    if verb == "end" and len(args) == 1:
        return put(args[0], {"passed": debian()})
    if verb == "saw" and len(args) >= 2:
        return saw(*args)
    if verb == "check" and args:
        return check(args)
    if verb == "write" and not args:
        return write()
    print(__doc__)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
