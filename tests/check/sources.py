"""The C sources of the tree, for the checks beside this file."""

import os
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
PLACES = ("shared", "plugins", "kafka-server", "packaging", "tests")
SKIPPED = {"node_modules", "build", ".git"}

TOKEN = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL)


def c_files():
    """Paths of all .c and .h files, relative to the root, in order."""
    found = []
    for place in PLACES:
        for folder, folders, names in os.walk(ROOT / place):
            folders[:] = sorted(set(folders) - SKIPPED)
            found += [pathlib.Path(folder, n).relative_to(ROOT) for n in names if n.endswith((".c", ".h"))]
    return sorted(found)


def text_of(path):
    return (ROOT / path).read_text(encoding="utf-8")


def code_of(text):
    """The text with comments and literals blanked out; lines stay where they are."""
    return TOKEN.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), text)


def report(mistakes, what):
    """Prints path:line: text rows; returns the exit code."""
    for path, line, text in mistakes:
        print(f"{path}:{line}: {text}")
    print(f"{what}: {len(mistakes)} mistakes" if mistakes else f"{what}: ok")
    return 1 if mistakes else 0
