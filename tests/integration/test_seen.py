"""README's compatibility table is what the tests saw: what makes it differ is named, and what was not due is left alone."""

import pytest
import seen


@pytest.fixture
def table(tmp_path, monkeypatch):
    """A README with nothing in it, and two steps: `one` saw a library and a program, `two` has not run."""
    monkeypatch.setattr(seen, "README", tmp_path / "README.md")
    monkeypatch.setattr(seen, "SEEN", tmp_path / "seen")
    monkeypatch.setattr(seen, "LIBRARIES", {"java": ("Java", lambda: "4")})
    monkeypatch.setattr(seen, "PROGRAMS", {"tool": ("tool", lambda: "1.0 (Debian 12)"), "other": ("other", lambda: "2")})
    monkeypatch.setattr(seen, "debian", lambda: "12")
    seen.README.write_text(f"before\n{seen.BEGINS}\n{seen.ENDS}\nafter\n")
    step(monkeypatch, "one", ("java", "reads", "writes"), ("tool", "lists"))
    assert seen.write() == 0 and seen.check(["one"]) == 0
    assert seen.README.read_text().endswith(f"| tool | 1.0 (Debian 12) | lists | one |\n{seen.ENDS}\nafter\n")
    return monkeypatch


def step(monkeypatch, name, *rows, passed=True):
    monkeypatch.setenv("SEEN_STEP", name)
    seen.main(["begin", name])
    for row in rows:
        seen.saw(*row[:1], *[w for w in row[1:] if w != "SKIPPED"], skipped="SKIPPED" in row)
    if passed:
        seen.main(["end", name])


def wrong(capsys, *steps):
    assert seen.check(list(steps)) == 1
    out = capsys.readouterr().out
    assert "make compatibility" in out
    return out


def test_what_was_not_seen_any_more_is_named(table, capsys):
    step(table, "one", ("java", "reads"), ("tool", "lists"))
    assert "README says of Java 4: writes; step one did not see that" in wrong(capsys, "one")


def test_what_is_new_is_named(table, capsys):
    step(table, "one", ("java", "reads", "writes", "admin"), ("tool", "lists"))
    assert "step one saw Java 4: admin; README does not say that" in wrong(capsys, "one")


def test_another_version_is_another_row(table, capsys):
    table.setattr(seen, "LIBRARIES", {"java": ("Java", lambda: "5")})
    step(table, "one", ("java", "reads", "writes"), ("tool", "lists"))
    out = wrong(capsys, "one")
    assert "README says of Java 4: reads" in out and "step one saw Java 5: reads" in out
    assert seen.write() == 0 and seen.check(["one"]) == 0 and "| Java | 4 |" not in seen.README.read_text()


def test_what_was_not_due_is_left_alone(table):
    step(table, "two", ("other", "runs"))
    assert seen.write() == 0 and seen.check(["one", "two"]) == 0
    step(table, "two", passed=False)
    assert seen.check(["one", "two", "three"]) == 0
    seen.write()
    assert "| other | 2 | runs | two |" in seen.README.read_text()
    step(table, "one", ("java", "SKIPPED", "reads", "writes"), ("tool", "lists"))
    assert seen.check(["one"]) == 0


def test_what_the_system_brings_is_due_on_that_system_alone(table):
    table.setattr(seen, "PROGRAMS", {"tool": ("tool", lambda: "1.1 (Debian 13)")})
    table.setattr(seen, "debian", lambda: "13")
    step(table, "one", ("java", "reads", "writes"), ("tool", "lists"))
    assert seen.check(["one"]) == 0


def test_a_name_without_a_row_is_refused(table):
    with pytest.raises(AssertionError, match="nobody has no row in .*seen.py"):
        seen.saw("nobody", "reads")
    with pytest.raises(AssertionError, match="a library does some of"):
        seen.saw("java", "flies")
