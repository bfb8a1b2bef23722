#!/usr/bin/env python3
"""Programs of Kafka's ecosystem, as they are, against a Kafka server: they, the server, the broker and its writer are
killed and started again at random instants, and what has come out must be exact.

    tests/ecosystem/run.py [--server kafka|culex] [--seed N] [--kills N] [--short] [PROGRAM...]

Each program is a module app_PROGRAM.py here, which says what it proves. The jars come from Maven Central by way of
`make ecosystem`; `make test` runs --short of some. With --server kafka, the oracle, everything runs against an Apache
Kafka 4.1, whose topics stand for the captured streams.

What all of them did, README's table of clients and programs says (tests/seen.py): as the step ecosystem of `make test`, and
as ecosystem-long where it is not one.
"""

import argparse
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from worlds import CulexWorld, KafkaWorld, Program

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import seen  # noqa: E402

PROGRAMS = ["connect", "streams", "mirror", "flink"]
LONG = "ecosystem-long"


def run(name, args):
    """The closing line's figure: 1 when the program passed."""
    app = importlib.import_module(f"app_{name}")
    home = Path(tempfile.mkdtemp(prefix="culex-ecosystem-"))
    began = time.monotonic()
    world, passed = None, 0
    try:
        world = {"culex": CulexWorld, "kafka": KafkaWorld}[args.server](home, app.STREAMS, getattr(app, "BOUND", ()))
        said = app.run(args, home, world, random.Random(args.seed))
        print(f"ok      {name}: {said} ({time.monotonic() - began:.0f} s)", flush=True)
        if args.server == "culex":
            seen.saw(*app.SAW)
        passed = 1
    except Exception as e:  # told, and the next program runs
        print(f"FAILED  {name}: {e!r}", flush=True)
        for p in Program.all:
            print(f"--- {p.name}\n{p.tail()}", flush=True)
        print(world.logs() if world else "", flush=True)
    finally:
        for p in reversed(Program.all):
            p.kill9()
        Program.all.clear()
        if world:
            world.close()
        if not args.keep:
            shutil.rmtree(home, ignore_errors=True)
        else:
            print(f"kept {home}")
    return passed


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", choices=("kafka", "culex"), default="culex")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100000)
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--short", action="store_true", help="what make test runs")
    parser.add_argument("--keep", action="store_true", help="leave logs and data where they are")
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help=" ".join(PROGRAMS))
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))  # what was started here goes with us
    print(f"server={args.server} seed={args.seed}", flush=True)
    names = args.programs or PROGRAMS
    whole = names == PROGRAMS and args.server == "culex" and not args.short
    if whole:
        os.environ["SEEN_STEP"] = LONG
        seen.main(["begin", LONG])
    passed = sum(run(name, args) for name in names)
    failed = len(names) - passed
    if whole and not failed:
        seen.main(["end", LONG])
        failed += seen.check([LONG])
    print(f"{passed} passed, {failed} failed")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
