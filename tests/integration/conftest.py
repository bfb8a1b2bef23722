"""Fixtures: a running Culex per test or per module, its logs printed only when a test fails.

Of each test that fails, all that was said (its own output, the logs of broker and server, its seed) is kept in
build/test-logs/failed, and a screenful of it ends pytest's output, for tests/run to show: where it failed, with what,
and the last lines of each log. What is left out there is in the file that is named."""

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

import harness

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import seen  # noqa: E402


def say_what_was_seen(item, skipped):
    """Marks `saw`, for README's compatibility table. Other steps repeat tests for the sake of another broker."""
    for mark in item.iter_markers("saw"):
        client = mark.kwargs.get("client") or item.callspec.params["client"]
        if client == "Mosquitto" or os.environ.get("SEEN_STEP") in ("integration", "ui"):
            seen.saw(client, *mark.args, skipped=skipped)


FAILED = Path(__file__).resolve().parents[2] / "build" / "test-logs" / "failed"
LOG_BYTES_MAX = 20 << 20
REASON_LINES, TAIL_LINES, TESTS_SHOWN = 14, 8, 12
IN_SHORT = "in short"  # tests/run shows what follows
SANITIZER = re.compile(r"ERROR: \w+Sanitizer|runtime error:")


def cut(line):
    return line if len(line) <= 240 else line[:240] + " …"


def reason_of(report):
    """The lines that say what was wrong: pytest marks them with an E; without any, the end of what it says."""
    lines = report.longreprtext.splitlines()
    return [x for x in lines if x.startswith("E ")] or lines[-REASON_LINES:]


def headline(report):
    return cut(next((x for x in (r.removeprefix("E").strip() for r in reason_of(report)) if x), "failed"))


def tail_of(text):
    """The last lines, or those from a sanitizer's report on."""
    lines = [x for x in text.splitlines() if x.strip()]
    found = next((i for i, x in enumerate(lines) if SANITIZER.search(x)), None)
    return lines[-TAIL_LINES:] if found is None else lines[found:found + 2 * TAIL_LINES]


def keep_failure(report, seed, whole):
    """Writes all of it to a file, and puts its name and the seed into the report."""
    FAILED.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^\w.=-]+", "_", report.nodeid)[:150]
    report.kept = FAILED / f"{os.environ.get('SEEN_STEP', 'pytest')}-{name}-{report.when}.log"
    report.seed = seed
    with open(report.kept, "w") as out:
        out.write(f"{report.nodeid} ({report.when}){f' SEED={seed}' if seed is not None else ''}\n\n{report.longreprtext}\n")
        for title, text in whole:
            out.write(f"\n--- {title}\n{text}\n")


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter):
    failed = [r for kind in ("failed", "error") for r in terminalreporter.stats.get(kind, [])]
    if not failed:
        return
    terminalreporter.section(IN_SHORT)
    for n, report in enumerate(failed):
        seed = getattr(report, "seed", None)
        where = getattr(report, "kept", None)
        terminalreporter.line(f"FAILED {report.nodeid}{f' SEED={seed}' if seed is not None else ''}: {headline(report)}")
        if n >= TESTS_SHOWN:
            continue
        for line in reason_of(report)[:REASON_LINES]:
            terminalreporter.line("   " + cut(line))
        for title, text in report.sections:
            for line in [f"--- {title}", *tail_of(text)]:
                terminalreporter.line("   " + cut(line))
        if where:
            terminalreporter.line(f"   all of it: {where}")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.skipped or (report.when == "call" and report.passed):
        say_what_was_seen(item, report.skipped)
    if report.failed:
        whole = list(report.sections)
        ran = {}
        for fixture in getattr(item, "funcargs", {}).values():
            made = fixture if isinstance(fixture, harness.Culex) else getattr(fixture, "made", None)
            for culex in made if isinstance(made, list) else [made]:
                if isinstance(culex, harness.Culex):
                    ran[id(culex)] = culex
        for culex in ran.values():
            report.sections += culex.logs()
            whole += culex.logs(most=LOG_BYTES_MAX)
        keep_failure(report, getattr(item.module, "SEED", None), whole)


@pytest.fixture(scope="session", autouse=True)
def built():
    for path in (harness.PLUGIN, harness.SERVER):
        assert path.exists(), f"{path} is not built: run make first"


class Factory:
    """Makes Culex instances and takes them down again."""

    def __init__(self):
        self.made = []
        self.root = Path(tempfile.mkdtemp(prefix="culex-test-"))

    def __call__(self, start=True, home=None, **kw):
        c = harness.Culex(home or self.root / f"c{len(self.made)}", **kw)
        self.made.append(c)
        return c.start() if start else c

    def close(self):
        for c in self.made:
            c.kill()
        shutil.rmtree(self.root, ignore_errors=True)


@pytest.fixture
def culex_factory():
    f = Factory()
    yield f
    f.close()


@pytest.fixture
def culex(culex_factory):
    return culex_factory()


@pytest.fixture(scope="module")
def module_factory():
    f = Factory()
    yield f
    f.close()
