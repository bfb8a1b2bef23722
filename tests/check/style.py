#!/usr/bin/env python3
"""What the style asks for and no compiler says: lengths, banned calls, leftovers."""

import re
import sys

from sources import c_files, code_of, report, text_of

COLUMNS_MAX = 100
FUNCTION_LINES_MAX = 70  # from its opening to its closing brace; tests are exempt
FILE_LINES_MAX = 900

# Calls that have a safer sister, and what it is.
BANNED = {
    "alloca": "the arena, or a fixed array",
    "atof": "strtod",
    "atoi": "strtol, with its error checked",
    "atol": "strtol, with its error checked",
    "gets": "fgets",
    "rand": "random_bytes",
    "sprintf": "snprintf or buf_printf",
    "strcat": "buf_printf",
    "strcpy": "snprintf or memcpy with a length",
    "strncat": "buf_printf",
    "strncpy": "snprintf or memcpy with a length",
    "strtok": "a reader, or strchr",
    "system": "a library, or posix_spawn",
    "vsprintf": "vsnprintf",
}
BANNED_CALL = re.compile(r"(?<![\w.>])(" + "|".join(BANNED) + r")\s*\(")
LEFTOVER = re.compile(r"\b(TODO|FIXME|XXX)\b")


def check_lines(path, text):
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if len(line) > COLUMNS_MAX:
            yield number, f"{len(line)} columns, more than {COLUMNS_MAX}"
        if line != line.rstrip():
            yield number, "white space at the end of the line"
        if "\t" in line:
            yield number, "a tab"
        if LEFTOVER.search(line):
            yield number, f"{LEFTOVER.search(line)[1]}: do it, or leave it out"
    if len(lines) - 1 > FILE_LINES_MAX:
        yield 1, f"{len(lines) - 1} lines, more than {FILE_LINES_MAX}"
    if lines[-1] != "":
        yield len(lines), "no newline at the end of the file"


def check_calls(path, code):
    for found in BANNED_CALL.finditer(code):
        yield code.count("\n", 0, found.start()) + 1, f"{found[1]}: use {BANNED[found[1]]}"


def check_functions(path, code):
    """A function's body lies between a brace alone in the first column and the next closing one."""
    begun = None
    for number, line in enumerate(code.split("\n"), 1):
        if line.rstrip() == "{":
            begun = number
        elif line.startswith("}") and begun:
            length = number - begun + 1
            if length > FUNCTION_LINES_MAX and path.parts[0] != "tests":
                yield begun, f"a function of {length} lines, more than {FUNCTION_LINES_MAX}"
            begun = None


def check_guard(path, code):
    """Every header is guarded by CULEX_ and the rest of its path, so that two never share a guard."""
    if path.suffix == ".h" and not re.search(r"^#ifndef CULEX_\w+_H\n#define CULEX_\w+_H$", code, re.MULTILINE):
        yield 1, "no include guard CULEX_…_H"


def main():
    mistakes = []
    for path in c_files():
        text = text_of(path)
        code = code_of(text)
        for check, of in ((check_lines, text), (check_calls, code), (check_functions, code), (check_guard, code)):
            mistakes += [(path, line, what) for line, what in check(path, of)]
    return report(sorted(mistakes), "style")


sys.exit(main())
