#!/usr/bin/env python3
"""Programs of Kafka's ecosystem, as they are, against a Kafka server: they are killed and started again at random
instants, and what has come out must be exact.

    tests/ecosystem/run.py [--server kafka|culex] [--seed N] [--kills N] [PROGRAM...]

Programs: streams (word count and a table join with exactly_once_v2). The jars come from Maven Central by way of
`make ecosystem`; it is not a step of `make test`. With --server kafka, the oracle,
everything runs against an Apache Kafka 4.1 of its own.
"""

import argparse
import collections
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ECO = ROOT / "build" / "ecosystem"
CLASSPATH = f"{ECO / 'classes'}:{ECO / 'lib'}/*"
JAVA = ["java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx512m", "-cp", CLASSPATH,
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
START_SECONDS = 60
DONE_SECONDS = 120


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_until(what, predicate, seconds=DONE_SECONDS, every=0.2):
    end = time.monotonic() + seconds
    while True:
        got = predicate()
        if got:
            return got
        if time.monotonic() > end:
            raise AssertionError(f"after {seconds} s still not: {what}")
        time.sleep(every)


def port_answers(port):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


class Program:
    """A process with its output in a file; only what was started here is ever signalled."""

    all = []

    def __init__(self, home, name, argv, env=None):
        self.name, self.argv, self.env = name, [str(a) for a in argv], env
        self.log = Path(home) / f"{name}.log"
        self.proc = None
        Program.all.append(self)

    def start(self):
        with open(self.log, "ab") as out:
            self.proc = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                         env={**os.environ, **(self.env or {})})
        return self

    def kill(self):
        if self.proc is not None and self.proc.poll() is None:
            self.proc.send_signal(signal.SIGKILL)
            self.proc.wait()

    def stop(self):
        if self.proc is not None and self.proc.poll() is None:
            self.proc.terminate()
            try:
                self.proc.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()

    def tail(self, lines=25):
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


def start_kafka(home, name="kafka"):
    """Apache Kafka of one node, as the comparison has it; returns its port."""
    port, controller = free_port(), free_port()
    config = (ROOT / "tests" / "compare" / "kafka.properties").read_text()
    for key, value in (("@PORT@", port), ("@CONTROLLER@", controller), ("@DIR@", Path(home) / f"{name}-data")):
        config = config.replace(key, str(value))
    path = Path(home) / f"{name}.properties"
    path.write_text(config)
    subprocess.run(JAVA + ["kafka.tools.StorageTool", "format", "-t", "4L6g3nShT-eMCtK--X86sw", "-c", path],
                   check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    program = Program(home, name, [a.replace("-Xmx512m", "-Xmx1g") for a in JAVA] + ["kafka.Kafka", path]).start()
    wait_until(f"{name} answers", lambda: port_answers(port), START_SECONDS)
    return port, program


def start_culex(home):
    port = free_port()
    data = Path(home) / "culex-data"
    data.mkdir()
    server = ROOT / os.environ.get("BUILD", "build/release") / "culex-server"
    program = Program(home, "culex", [server, "--data", data],
                      env={"CULEX_LISTENERS": f"PLAINTEXT://127.0.0.1:{port}"}).start()
    wait_until("culex answers", lambda: port_answers(port), START_SECONDS)
    return port, program


def tool(*args, feed=None):
    got = subprocess.run(JAVA + [str(a) for a in args], input=feed, capture_output=True, text=True, timeout=DONE_SECONDS)
    assert got.returncode == 0, f"{args[0]} {args[1]} failed:\n{got.stdout[-2000:]}{got.stderr[-4000:]}"
    return got.stdout


def kill_at_random(rng, program, times):
    """Between a moment after the start and a few seconds into the work, so that joining, restoring, working and
    committing are all hit."""
    for _ in range(times):
        time.sleep(rng.uniform(0.5, 6))
        program.kill()
        program.start()


# --- Kafka Streams -----------------------------------------------------------------------------------

WORDS = "sun moon star rain wind snow frost cloud storm calm".split()
KEYS = [f"site{i}" for i in range(20)]
LINES = 20000


def streams(args, home, port, rng):
    prefix = f"streams{args.seed}"
    at = f"127.0.0.1:{port}"
    tool("Streams", "topics", at, prefix, 4)
    tool("Streams", "feed", at, prefix, feed="".join(f"names {k} Name of {k}\n" for k in KEYS[:15]))
    counts, joined = collections.Counter(), collections.Counter()
    app = Program(home, "streams", JAVA + ["Streams", "run", at, prefix, f"{prefix}-words", Path(home) / "streams-state"])
    app.start()
    wait_until("the application runs", lambda: "state RUNNING" in app.tail(1000), START_SECONDS)
    for part in range(4):  # fed while it is being killed
        lines = []
        for i in range(LINES // 4):
            key = rng.choice(KEYS)
            words = [rng.choice(WORDS) for _ in range(rng.randint(1, 4))]
            text = " ".join(words) + f" {part}x{i}"
            lines.append(f"words {key} {text}\n")
            counts.update(text.lower().split())
            if key in KEYS[:15]:
                joined[f"Name of {key}: {text}"] += 1
        feeder = subprocess.Popen(JAVA + ["Streams", "feed", at, prefix], stdin=subprocess.PIPE, text=True)
        try:
            feeder.stdin.write("".join(lines))
            feeder.stdin.close()
            kill_at_random(rng, app, args.kills // 4)
            assert feeder.wait(DONE_SECONDS) == 0, "the feeder failed"
        finally:
            if feeder.poll() is None:
                feeder.kill()
    want = [f"count {w} {n}" for w, n in counts.items()] + [f"joined {n} {v}" for v, n in joined.items()]
    seen = {}

    def whole():
        seen["now"] = tool("Streams", "read", at, prefix).splitlines()
        return len([x for x in seen["now"] if x.startswith("joined")]) >= len(joined) and \
            f"count sun {counts['sun']}" in seen["now"]
    try:
        wait_until("all has come out", whole, DONE_SECONDS, every=1)
        time.sleep(2)  # what would come twice, may come later
        whole()
    finally:
        app.kill()
    missing, more = set(want) - set(seen["now"]), set(seen["now"]) - set(want)
    assert not missing and not more, f"missing {sorted(missing)[:5]}, more {sorted(more)[:5]}"
    return f"{LINES} records, {args.kills // 4 * 4} kills, {len(want)} results exact"


PROGRAMS = {"streams": streams}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", choices=("kafka", "culex"), default="culex")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100000)
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("programs", nargs="*", metavar="PROGRAM")
    args = parser.parse_args()
    print(f"server={args.server} seed={args.seed}", flush=True)
    passed = failed = 0
    for name in args.programs or PROGRAMS:
        home = Path(tempfile.mkdtemp(prefix="culex-ecosystem-"))
        began = time.monotonic()
        try:
            port, _ = start_kafka(home) if args.server == "kafka" else start_culex(home)
            said = PROGRAMS[name](args, home, port, random.Random(args.seed))
            print(f"ok      {name}: {said} ({time.monotonic() - began:.0f} s)", flush=True)
            passed += 1
        except (AssertionError, subprocess.SubprocessError) as e:
            failed += 1
            print(f"FAILED  {name}: {e}", flush=True)
            for p in Program.all:
                print(f"--- {p.name}\n{p.tail()}", flush=True)
        finally:
            for p in reversed(Program.all):
                p.kill()
            Program.all.clear()
            if not args.keep:
                shutil.rmtree(home, ignore_errors=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
