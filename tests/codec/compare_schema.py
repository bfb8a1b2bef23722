#!/usr/bin/env python3
"""Compares our tables with Kafka's own message definitions.

    compare_schema.py KAFKA_CLIENTS_JAR TABLES

TABLES is what `codec_peer schema` prints. The jar carries the definitions as JSON with comments; they are
printed in the same form, cut to the versions that are valid, and both must be the same line for line.
"""
import json
import re
import sys
import zipfile

NEVER = (1, 0)  # no version


def definition(jar, name):
    text = jar.read(f"common/message/{name}.json").decode()
    text = re.sub(r'("(?:[^"\\]|\\.)*")|//[^\n]*', lambda m: m.group(1) or "", text)
    return json.loads(text)


def span(text, within):
    """'3+', '3-7', '3' or 'none' as (first, last), cut to `within`."""
    if not text or text == "none":
        return NEVER
    first, dash, last = text.rstrip("+").partition("-")
    end = int(last) if dash else within[1] if text.endswith("+") else int(first)
    return max(int(first), within[0]), min(end, within[1])


def snake(name):
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def default(field):
    value = str(field.get("default", "")).lower()
    if value == "null":
        return value
    named = {"": 0, "false": 0, "true": 1}
    return named[value] if value in named else int(value, 0)


def is_true(value):
    return str(value).lower() == "true"


def fields(path, group, common, within, out):
    plain = []
    tagged = []
    for field in group:
        versions = span(field["versions"], within)
        if versions[0] > versions[1]:
            continue
        kind = field["type"]
        array = "[]" if kind.startswith("[]") else ""
        kind = kind[len(array):]
        nested = None
        if kind[0].isupper():
            nested = field.get("fields") or common[kind]
            kind = "struct"
        null = span(field.get("nullableVersions"), versions)
        tags = span(field.get("taggedVersions"), versions)
        tag = field["tag"] if tags[0] <= tags[1] else -1
        name = f"{path}.{snake(field['name'])}"
        lines = [
            f"{name} {array}{kind} {versions[0]}-{versions[1]}"
            f" null:{null[0] if null[0] <= null[1] else -1} tag:{tag}"
            f" default:{default(field)} ignorable:{int(is_true(field.get('ignorable')))}"
        ]
        if nested:
            fields(name, nested, common, versions, lines)
        if tag < 0:
            plain += lines
        else:
            tagged.append((tag, lines))
    out += plain + [line for _, lines in sorted(tagged) for line in lines]


def message(jar, name, versions):
    d = definition(jar, name)
    common = {s["name"]: s["fields"] for s in d.get("commonStructs", [])}
    out = []
    fields(name, d["fields"], common, versions, out)
    return out


def kafka_lines(jar, api):
    d = definition(jar, api + "Request")
    versions = span(d["validVersions"], (0, 999))
    flexible = span(d["flexibleVersions"], versions)
    flexible = flexible[0] if flexible[0] <= flexible[1] else -1
    head = f"{api} key:{d['apiKey']} versions:{versions[0]}-{versions[1]} flexible:{flexible}"
    return [head] + message(jar, api + "Request", versions) + message(jar, api + "Response", versions)


def main():
    with open(sys.argv[2], encoding="utf-8") as f:
        ours = f.read().splitlines()
    apis = [line.split()[0] for line in ours if " key:" in line]
    with zipfile.ZipFile(sys.argv[1]) as jar:
        theirs = [line for api in apis for line in kafka_lines(jar, api)]
    wrong = 0
    for line in ours:
        if line not in theirs:
            print("only in ours:    ", line)
            wrong += 1
    for line in theirs:
        if line not in ours:
            print("only in Kafka's: ", line)
            wrong += 1
    if not wrong and ours != theirs:
        print("the order of fields differs")
        wrong = 1
    print(f"{len(apis)} APIs, {len(ours) - len(apis)} fields: {wrong} differences with Kafka's definitions")
    sys.exit(1 if wrong or not apis else 0)


main()
