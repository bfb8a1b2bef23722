"""Fixtures: a running Culex per test or per module, its logs printed only when a test fails."""

import os
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


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.skipped or (report.when == "call" and report.passed):
        say_what_was_seen(item, report.skipped)
    if report.failed:
        for fixture in item.funcargs.values():
            made = fixture if isinstance(fixture, harness.Culex) else getattr(fixture, "made", None)
            for culex in made if isinstance(made, list) else [made]:
                if culex is not None:
                    report.sections.append(("broker and server", culex.logs()))


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
