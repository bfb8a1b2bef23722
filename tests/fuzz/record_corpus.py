#!/usr/bin/env python3
"""Writes the golden batches of tests/unit/record_golden.h into a folder, for fuzz_record to start from; before each the
bytes that are given in hexadecimal (fuzz_validate's rules)."""

import pathlib
import re
import sys

text = (pathlib.Path(__file__).parents[1] / "unit/record_golden.h").read_text(encoding="utf-8")
folder = pathlib.Path(sys.argv[1])
before = bytes.fromhex("".join(sys.argv[2:]))
folder.mkdir(parents=True, exist_ok=True)
for name, body in re.findall(r"golden_(\w+)\[\] =\n(.*?);", text, re.DOTALL):
    (folder / name).write_bytes(before + bytes.fromhex("".join(re.findall(r'"([0-9a-f]+)"', body))))
