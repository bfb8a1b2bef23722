"""A command that binds, alters or unbinds a stream is cut off by the death of writer or server before a call by which they do or learn
something: the stream is as it was or as it was asked for, what it holds is there once, and the same command again comes about.

`make test` does so at some of these calls, `make everything` at each. SEED=n chooses others."""

import os
import random
import struct

import pytest
from harness import TOOLS, ended, read_all, settled_ends, wait_until
from test_bind import bound, check_catalog
from test_bind_kills import is_settled
from wire import Wire

LONG = bool(os.environ.get("EVERYTHING_LONG"))
SEED = int(os.environ.get("SEED", 0)) or random.randrange(1 << 30)
NONE, UNKNOWN_TOPIC, REQUEST_TIMED_OUT, EXISTS = 0, 3, 7, 36
CALLS_MAX = 300  # of one command
PROGRAMS = {"writer": 17, "server": 5}  # what each command takes at least, for the short form: one of them
KINDS = ["create", "alter", "delete"]
SET = 0
GONE = "gone"


class Knife:
    """Where the next command is cut off: see tests/tools/killat.c."""

    def __init__(self, c, program):
        self.path = c.home / f"kill-{program}"
        preload = {"LD_PRELOAD": str(TOOLS / "killat.so"), "KILL_AT": str(self.path)}
        if program == "server":
            c.server.env.update(preload)
        else:
            c.broker.launch_as = ["env", *(f"{k}={v}" for k, v in preload.items())]

    def at(self, n):
        written = self.path.with_suffix(".new")
        written.write_text(str(n))
        written.rename(self.path)

    def missed(self):
        """The command was answered; nobody dies any more."""
        try:
            self.path.rename(self.path.with_suffix(".missed"))
            return True
        except FileNotFoundError:
            return False

    def call(self):
        return self.path.with_suffix(".died").read_text()


class Stream:
    """What there is of it: its filter, or None, and what it holds."""

    def __init__(self, c):
        self.c, self.filter, self.held, self.serial = c, None, [], 0

    def ask(self, kind, to):
        entry = {"Name": "mqtt.filter", "Value": to}
        try:
            with Wire(self.c.server.port, timeout=60) as w:
                if kind == "create":
                    topic = {"Name": "s", "NumPartitions": 1, "ReplicationFactor": 1, "Configs": [entry]}
                    return w.call("CreateTopics", 7, timeoutMs=60000, Topics=[topic])["Topics"][0]["ErrorCode"]
                if kind == "alter":
                    resource = {"ResourceType": 2, "ResourceName": "s", "Configs": [{**entry, "ConfigOperation": SET}]}
                    return w.call("IncrementalAlterConfigs", 1, Resources=[resource])["Responses"][0]["ErrorCode"]
                return w.call("DeleteTopics", 6, Topics=[{"Name": "s"}], TimeoutMs=60000)["Responses"][0]["ErrorCode"]
        except (OSError, struct.error):
            return GONE

    def ask_again(self, kind, to):
        def ask():
            got = self.ask(kind, to)
            return None if got in (GONE, REQUEST_TIMED_OUT) else (got,)
        return wait_until("it is answered", ask, 120, every=0.1)[0]

    def seen(self):
        """Where commands are taken again, so that nothing is under way: its filter. The log has the same streams."""
        wait_until("commands are taken", lambda: is_settled(self.c), 120)
        there = bound(self.c)
        check_catalog(self.c, {"demo", *there})
        return there["s"]["filters"][0] if "s" in there else None

    def publish(self):
        self.serial += 1
        value = f"{self.serial} of {self.filter}"
        self.c.publish(self.filter.replace("#", "x"), [value])
        self.held.append(value)

    def check(self):
        settled_ends(self.c.bootstrap, "s", len(self.held))
        assert [r.value.decode() for r in read_all(self.c.bootstrap, "s")] == self.held


def cut_off(c, s, knife, program, kind, n):
    """Whether it was."""
    to = None if kind == "delete" else f"s/{s.serial}/{kind}/#"
    if s.filter is not None:
        s.publish()
    victim = c.server.pid if program == "server" else c.broker.writer_pid()
    knife.at(n)
    answer = s.ask(kind, to)
    cut = not knife.missed()
    if cut:
        wait_until(f"the {program} is dead", lambda: ended(victim), 60)
    if cut and program == "server":
        c.server.wait_exit(60)
        c.server.start()
        c.wait_topics()
    seen = s.seen()
    print(f"{program} {kind} {n}: {knife.call() if cut else 'not'} cut off, answer {answer}, {s.filter} -> {to} is {seen}")
    assert seen in ({to} if answer == NONE else {s.filter, to} if answer in (GONE, REQUEST_TIMED_OUT) else set())
    again = s.ask_again(kind, to)
    assert again in {"create": {NONE, EXISTS}, "alter": {NONE}, "delete": {NONE, UNKNOWN_TOPIC}}[kind]
    assert s.seen() == to
    s.filter, s.held = to, s.held if to else []
    if to:
        s.publish()
        s.check()
    return cut


@pytest.mark.timeout(7200 if LONG else 600)
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_command_that_is_cut_off_is_whole_or_not_there(culex_factory, program):
    print(f"SEED={SEED}")  # pytest shows it with a failure
    rng = random.Random(SEED)
    c = culex_factory()
    knife, s = Knife(c, program), Stream(c)
    c.kill()
    c.start()
    if not LONG:
        for kind in KINDS:
            cut_off(c, s, knife, program, kind, rng.randint(1, PROGRAMS[program]))
        return
    n, left = 1, set(KINDS)  # that are cut off still
    while left and n < CALLS_MAX:
        for kind in KINDS:
            if not cut_off(c, s, knife, program, kind, n):
                left.discard(kind)
        n += 1
    assert not left, "that many calls?"
