"""`make bench`: the figures that the README states, each measured against its anchor in one run, as one table.

    bench.py full|short [ROW…]      rows: rate latency sustained catchup start kafka

Noise on a shared machine is large, so what is a ratio alternates its two sides, and is the median of the pairs. Where a figure
asks how fast the broker is, its loop has one CPU for itself, with capture and without, and all else is on the other: the
writer's process with its threads, and the publisher, which goes before it there, because a publisher that waits for its
turn would be what is measured. How much of a CPU the loop used says whether it was the limit. Another row lets the system
place all three. Nothing is pinned in the other rows. Memory of the broker is that of broker and writer together, and
kill -9 kills both.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integration"))
import harness  # noqa: E402
from bench_kafka import bench_kafka  # noqa: E402
from harness import BUILD, ROOT, TOOLS, Broker, Culex, Load, stored, wait_until  # noqa: E402

ANCHOR_SUSTAINED = 33000  # messages/s: Mosquitto, a bridge and Kafka on two cores
REST_SECONDS = 8
HOME = Path(os.environ.get("BENCH_DIR", ROOT / "build" / "bench"))

FULL = {"pairs": 41, "seconds": 0.5, "latency_count": 30000, "sustained": 400_000, "catchup_bytes": 4_000_000_000,
        "history_bytes": 10_000_000_000, "starts": 20, "catchup_runs": 3, "kills": 3, "kafka_rounds": 5,
        "kafka_records": 400_000, "kafka_read": 2_000_000, "kafka_latency": 10_000, "kafka_txn": 500, "kafka_commits": 3000,
        "kafka_joins": 3, "idle_seconds": 20}
SHORT = {"pairs": 15, "seconds": 0.5, "latency_count": 5000, "sustained": 60_000, "catchup_bytes": 500_000_000,
         "history_bytes": 1_000_000_000, "starts": 5, "catchup_runs": 2, "kills": 1, "kafka_rounds": 1,
         "kafka_records": 100_000, "kafka_read": 500_000, "kafka_latency": 3000, "kafka_txn": 100, "kafka_commits": 1000,
         "kafka_joins": 1, "idle_seconds": 5}

rows = []


def row(what, figure, goal, ok, note=""):
    """ok None: stated without a goal."""
    rows.append((what, figure, goal, ok))
    said = f"(goal {goal}) {'ok' if ok else 'MISSED'}" if ok is not None else "(no goal)"
    print(f"  {what}: {figure} {said} {note}", flush=True)


def say(text):
    print(text, flush=True)


class Home:
    """A fresh directory on the disk of the checkout, gone afterwards."""

    def __init__(self, name):
        self.path = HOME / name

    def __enter__(self):
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True)
        return self.path

    def __exit__(self, *exc):
        shutil.rmtree(self.path, ignore_errors=True)


def cpu_seconds(pid):
    """On a CPU, of the main thread, which is all there is of a broker."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e9


def pin(pid, cpu):
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), {cpu})


def reader(culex, topic, *args, **kw):
    return subprocess.Popen([str(TOOLS / "kafkaread"), "-b", culex.bootstrap, "-t", topic, *map(str, args)],
                            stdout=subprocess.PIPE, text=True, **kw)


def reader_ready(p):
    assert json.loads(p.stdout.readline())["ready"]


def reader_result(p, seconds=600):
    out, _ = p.communicate(timeout=seconds)
    assert p.returncode in (0, 3), f"kafkaread ended with {p.returncode}"
    return json.loads(out.splitlines()[-1])


# --- the broker's rate with and without capture ---------------------------------------------------------------


def thousand_filters():
    streams = [{"name": f"other-{i}", "partitions": 1,
                "filters": [f"other/{i}/{j}/+/state" for j in range(10)]} for i in range(100)]
    streams[50] = {"name": "demo", "filters": ["demo/#"] + [f"demo-{j}/+/x" for j in range(9)]}
    return streams


def rate_once(broker, qos, seconds, pinned):
    """The publisher's report, with the share of a CPU that the broker's loop and the publisher used, and the loop's
    CPU time per message, which says the same as the rate but hears less of a noisy machine."""
    cpu = cpu_seconds(broker.pid)
    load = Load(broker.port, "-n", 10, "-q", qos, "-s", 100, "-d", seconds, "-w", 2000, "-t", "demo/bench")
    if pinned:
        os.sched_setaffinity(load.proc.pid, {1})
        if os.geteuid() == 0:  # what shares its CPU waits: it must not be the limit
            os.sched_setscheduler(load.proc.pid, os.SCHED_FIFO, os.sched_param(1))
    load_cpu = 0
    while load.proc.poll() is None:
        try:
            load_cpu = cpu_seconds(load.proc.pid) or load_cpu
        except (OSError, IndexError):
            break
        time.sleep(0.05)  # samples the publisher's CPU time while it lives
    result = load.result()
    used = cpu_seconds(broker.pid) - cpu
    return {**result, "loop": used / result["seconds"], "publisher": load_cpu / result["seconds"],
            "us": used * 1e6 / result["sent"]}


def rate_pairs(size, qos, streams, pinned):
    """[(without, with capture)], rounds that alternate which comes first."""
    with Home("rate") as home:
        plain_home = home / "plain"
        plain_home.mkdir()
        plain = Broker(None, None, plain_home, plugin=False, name="plain")
        culex = Culex(home / "culex", streams=streams, store={"limit.bytes": 4 << 30})
        try:
            plain.start()
            culex.start()
            if pinned:
                pin(culex.broker.writer_pid(), 1)
                pin(culex.server.pid, 1)
            pairs, published = [], 0
            for n in range(size["pairs"] + 1):
                pair = {}
                for broker in (plain, culex.broker) if n % 2 else (culex.broker, plain):
                    if pinned:
                        os.sched_setaffinity(broker.pid, {0})
                    pair[broker.name] = rate_once(broker, qos, size["seconds"], pinned)
                    if broker is culex.broker:
                        published += pair[broker.name]["sent"]
                        wait_stored(culex, published)
                pairs.append((pair["plain"], pair["broker"]))
            return pairs[1:]  # the first one warms up
        finally:
            culex.kill()
            plain.kill9()


def compare_rate(size, qos, streams, label, pinned=True):
    pairs = rate_pairs(size, qos, streams, pinned)

    def both(field):
        return [statistics.median(pair[side][field] for pair in pairs) for side in (0, 1)]
    without, with_ = both("rate")
    us_without, us_with = both("us")
    ratio = statistics.median(c["rate"] / p["rate"] for p, c in pairs)
    lines = [[int(pair[side]["rate"] / 1000) for pair in pairs] for side in (0, 1)]
    row(f"broker rate, capture / none, {label}", f"{ratio:.3f} ({with_:,.0f} / {without:,.0f} per s)",
        "≥ 0.90" if pinned else "", ratio >= 0.90 if pinned else None,
        "[share of a CPU: loop {:.2f} → {:.2f}, publisher {:.2f} → {:.2f}; ".format(*both("loop"), *both("publisher"))
        + f"runs {lines[0]} → {lines[1]} k/s]")
    busy = statistics.median(p["us"] / c["us"] for p, c in pairs)
    row("… per second that the broker's loop was on a CPU", f"{busy:.3f} ({1e6 / us_with:,.0f} / {1e6 / us_without:,.0f} per s)",
        "≥ 0.90" if pinned else "", busy >= 0.90 if pinned else None, f"[{us_without:.2f} → {us_with:.2f} µs a message]")


def wait_stored(culex, published):
    """Until all of it is stored; what is missing after a while is lost or was dropped, and the broker's log says why."""
    try:
        wait_until("all is stored", lambda: stored_ever(culex) >= published, 30, every=0.1)
    except AssertionError:
        said = [x for x in culex.broker.log().splitlines() if "culex" in x][-3:]
        raise AssertionError(f"{published:,} published, {stored_ever(culex):,} stored; the broker said {said}") from None
    assert stored_ever(culex) == published, "stored more than was published"


def stored_ever(culex):
    """Records ever stored in `demo`: the sum of the ends, which retention does not lower."""
    return sum(e for _, e in harness.end_offsets(culex.bootstrap, "demo").values())


def bench_rate(size):
    for qos in (0, 1):
        compare_rate(size, qos, None, f"QoS {qos}, 100 B")
    for qos in (0, 1):
        compare_rate(size, qos, thousand_filters(), f"QoS {qos}, 100 B, 1,000 filters")
    compare_rate(size, 0, None, "QoS 0, 100 B, nothing pinned", pinned=False)


# --- publish to poll ------------------------------------------------------------------------------------------


def bench_latency(size):
    with Home("latency") as home:
        culex = Culex(home).start()
        try:
            n = size["latency_count"]
            warm = reader(culex, "demo", "-n", 2000, "-l", "-o")
            reader_ready(warm)
            Load(culex.broker.port, "-n", 1, "-q", 1, "-c", 2000, "-r", 1000, "-t", "demo").result()
            reader_result(warm)
            p = reader(culex, "demo", "-n", n, "-l", "-o")
            reader_ready(p)
            Load(culex.broker.port, "-n", 1, "-q", 1, "-s", 200, "-c", n, "-r", 1000, "-t", "demo").result()
            got = reader_result(p)
            assert got["records"] == n and not got["repeated"] and not got["reordered"] and not got["holes"]
            row("publish → poll at 1,000/s, p50", f"{got['p50_ms']:.2f} ms", "≤ 0.5 ms", got["p50_ms"] <= 0.5)
            row("publish → poll at 1,000/s, p99", f"{got['p99_ms']:.2f} ms", "≤ 5 ms", got["p99_ms"] <= 5,
                f"[p99.9 {got['p999_ms']:.2f}, max {got['max_ms']:.1f} ms; librdkafka {got['librdkafka']}]")
        finally:
            culex.kill()


# --- sustained, end to end --------------------------------------------------------------------------------------


def bench_sustained(size):
    each = size["sustained"] // 4
    args = ["-n", 4, "-q", 1, "-s", 100, "-c", each, "-w", 1000, "-t", "demo"]
    with Home("sustained") as home:
        plain = Broker(None, None, home, plugin=False, name="plain")
        culex = Culex(home / "culex")
        own, ends, acks = [], [], []
        lost = 0
        try:
            culex.start()
            for n in range(3):
                plain.start()
                own.append(Load(plain.port, *args).result()["rate"])
                plain.stop()
                p = reader(culex, "demo", "-n", 4 * each, "-c", "-o")
                reader_ready(p)
                sent = Load(culex.broker.port, *args, "-f", n * each).result()
                got = reader_result(p)
                acks.append(sent["rate"])
                ends.append(got["records"] / got["span_seconds"])
                lost += 4 * each - got["records"] + got["repeated"] + got["reordered"] + got["holes"]
            rate, acked, plain_rate = map(statistics.median, (ends, acks, own))
            row("sustained QoS 1, 4 publishers, end to end", f"{rate:,.0f}/s", f"≥ {2 * ANCHOR_SUSTAINED:,}/s",
                rate >= 2 * ANCHOR_SUSTAINED, f"[broker without a reader or plugin {plain_rate:,.0f}/s]")
            row("… of the rate at which the broker acknowledged", f"{rate / acked:.3f}", "≥ 0.95", rate / acked >= 0.95,
                f"[{acked:,.0f}/s]")
            row("… lost, repeated or reordered", str(lost), "0", lost == 0)
        finally:
            culex.kill()
            plain.kill9()


# --- catch-up and memory ----------------------------------------------------------------------------------------


def memory(process):
    return {k: process.memory_kb(k) / 1024 for k in ("Rss", "Pss")}


def bench_catchup(size):
    with Home("catchup") as home:
        plain = Broker(None, None, home, plugin=False, name="plain")
        culex = Culex(home / "culex").start()
        try:
            plain.start()
            with culex.mqtt() as m:
                m.publish("demo/x", "warm")
            harness.read_all(culex.bootstrap, "demo", 1)
            idle_plain, idle_broker, idle_server = map(memory, (plain, culex.broker, culex.server))
            row("memory: server idle", f"{idle_server['Rss']:.1f} MB", "≤ 30 MB", idle_server["Rss"] <= 30,
                f"[PSS {idle_server['Pss']:.1f}]")
            plugin = idle_broker["Rss"] - idle_plain["Rss"]
            row("memory: plugin on top of the broker, idle", f"{plugin:.1f} MB", "≤ 15 MB", plugin <= 15,
                f"[PSS {idle_broker['Pss'] - idle_plain['Pss']:.1f}; broker {idle_plain['Rss']:.1f}]")
            count = size["catchup_bytes"] // 1000 // 4
            load = Load(culex.broker.port, "-n", 4, "-q", 1, "-s", 1000, "-c", count, "-w", 1000, "-T", 100, "-t",
                        "demo").result(600)
            wait_until("all is stored", lambda: stored(culex.bootstrap, "demo") == 4 * count + 1, 60, every=0.1)
            say(f"  captured {4 * count:,} × 1,000 B at {load['rate']:,.0f}/s")
            after("captured", culex, plain, idle_plain, size)
            speeds = []
            for _ in range(size["catchup_runs"]):
                p = reader(culex, "demo", "-e")
                reader_ready(p)
                got = reader_result(p)
                assert got["records"] == 4 * count + 1 and got["offset_gaps"] == 0
                speeds.append(got["mb_per_s"])
            speed = statistics.median(speeds)
            row(f"catch-up of {size['catchup_bytes'] / 1e9:g} GB, librdkafka {got['librdkafka']}, one consumer",
                f"{speed:,.0f} MB/s", "≥ 500 MB/s", speed >= 500, f"[runs {[int(x) for x in speeds]}]")
            after("captured and read", culex, plain, idle_plain, size)
        finally:
            culex.kill()
            plain.kill9()


def after(what, culex, plain, idle_plain, size):
    time.sleep(REST_SECONDS)  # both give freed memory back when they have been quiet for a while
    s, b = memory(culex.server), memory(culex.broker)
    # Pages of the shared rings are in both processes' RSS; PSS counts each once.
    both = s["Pss"] + b["Pss"] - idle_plain["Pss"]
    row(f"memory: both after {size['catchup_bytes'] / 1e9:g} GB {what}", f"{both:.1f} MB", "≤ 150 MB", both <= 150,
        f"[PSS; RSS: server {s['Rss']:.1f}, plugin {b['Rss'] - idle_plain['Rss']:.1f}]")


# --- start --------------------------------------------------------------------------------------------------------


def first_answer(culex):
    """Starts the server; milliseconds until it answers a Metadata request that names the stream."""
    began = time.monotonic()
    culex.server.start(wait=False)
    wait_until("the first answer that names the stream", lambda: names_stream(culex.server.port), 60, every=0.0005)
    return (time.monotonic() - began) * 1000


def names_stream(port):
    import socket
    import struct
    body = harness.request_header(3, 1) + struct.pack(">i", 1) + struct.pack(">h", 4) + b"demo"
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as s:
            s.sendall(harness.frame(body))
            answer = harness.recv_frame(s)
        at = answer.index(b"demo")
        return struct.unpack(">h", answer[at - 4:at - 2]) == (0,)
    except (OSError, ValueError):
        return False


def bench_start(size):
    with Home("start") as home:
        culex = Culex(home, streams=[{"name": "demo", "filters": ["demo/#"]}]).start()
        try:
            times = []
            for _ in range(size["starts"]):
                culex.server.stop()
                times.append(first_answer(culex))
            t = statistics.median(times)
            row("start to first answer: server", f"{t:.0f} ms", "≤ 100 ms", t <= 100, f"[max {max(times):.0f}]")
            culex.stop()
            made = json.loads(subprocess.run([TOOLS / "storefill", culex.data / "captured", "demo",
                                              str(size["history_bytes"])], capture_output=True, check=True,
                                             text=True).stdout)
            say(f"  history: {made['bytes'] / 1e9:.1f} GB, {made['records']:,} records")
            culex.broker.start()
            first_answer(culex)
            server_times, broker_times = [], []
            for n in range(size["kills"]):
                with Load(culex.broker.port, "-n", 4, "-q", 1, "-c", 100_000_000, "-w", 500, "-t", "demo/l") as load:
                    kill_under_load(culex)
                    server_times.append(first_answer(culex))
                    culex.broker.kill9()
                    load.result()
                began = time.monotonic()
                culex.broker.start()
                broker_times.append((time.monotonic() - began) * 1000)
            gb = size["history_bytes"] / 1e9
            row(f"start to first answer after kill -9 under load, {gb:g} GB: server", f"{max(server_times):.0f} ms",
                "≤ 1,000 ms", max(server_times) <= 1000, f"[runs {[int(x) for x in server_times]}]")
            row(f"start to first answer after kill -9 under load, {gb:g} GB: broker", f"{max(broker_times):.0f} ms",
                "≤ 1,000 ms", max(broker_times) <= 1000, f"[runs {[int(x) for x in broker_times]}]")
        finally:
            culex.kill()


def kill_under_load(culex):
    before = stored_ever(culex)
    wait_until("the load flows", lambda: stored_ever(culex) > before + 50000, 60)
    culex.server.kill9()


BENCHES = {"rate": bench_rate, "latency": bench_latency, "sustained": bench_sustained, "catchup": bench_catchup,
           "start": bench_start, "kafka": lambda size: bench_kafka(size, row, HOME / "kafka")}


def main(argv):
    size = {"full": FULL, "short": SHORT}[argv[0] if argv else "full"]
    broken = 0
    for name in argv[1:] or BENCHES:
        say(f"{name} …")
        try:
            BENCHES[name](size)
        except Exception as e:  # one row that cannot be measured must not hide the others
            broken += 1
            row(name, f"not measured: {e}", "", False)
    width = max(len(r[0]) for r in rows)
    figures = max(len(r[1]) for r in rows)
    goals = max(len(r[2]) for r in rows)
    print(f"\n{'what':{width}}  {'figure':{figures}}  {'goal':{goals}}  ok?")
    for what, figure, goal, ok in rows:
        print(f"{what:{width}}  {figure:{figures}}  {goal:{goals}}  {'' if ok is None else 'yes' if ok else 'NO'}")
    print(f"\n{os.cpu_count()} CPUs, {subprocess.run([harness.MOSQUITTO, '-h'], capture_output=True, text=True).stdout.split(chr(10))[0]}, "
          f"build {BUILD.name}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
