"""What the Python drivers share: arguments, output, the end of standard input."""

import argparse
import base64
import json
import select
import sys
import time


def arguments():
    p = argparse.ArgumentParser()
    for name in ("bootstrap", "topic", "group"):
        p.add_argument("--" + name, required=True)
    p.add_argument("--count", type=int, default=0)
    p.add_argument("--instance-id")
    p.add_argument("--assignor")
    p.add_argument("--protocol", choices=("classic", "consumer"), default="classic")
    p.add_argument("--pattern")
    p.add_argument("--session-ms", type=int, default=6000)
    p.add_argument("--lib", help="a directory to import the client from")
    args = p.parse_args()
    if args.lib:
        sys.path.insert(0, args.lib)
    return args


def b64(x):
    return None if x is None else base64.b64encode(x).decode()


def emit(**event):
    sys.stdout.write(json.dumps({"t": time.monotonic_ns(), **event}) + "\n")
    sys.stdout.flush()


def emit_record(p, o, ts, k, v, h):
    sys.stdout.write(json.dumps({"t": time.monotonic_ns(), "p": p, "o": o, "ts": ts, "k": b64(k),
                                 "v": b64(v), "h": [[n, b64(x)] for n, x in h or []]}) + "\n")


def before_commit():
    """What is committed has been said, whoever kills us next."""
    sys.stdout.flush()


def asked_to_leave():
    return bool(select.select([sys.stdin], [], [], 0)[0]) and not sys.stdin.buffer.read1(1)
