#!/usr/bin/env python3
"""Includes go one way. Each row says what the files of a folder may include; everything else is a mistake.

    base <- record, mqtt <- config <- store <- broker <- api <- server.c, main.c
    base <- mqtt <- link <- capture, writer  (the writer has all of shared)
    base <- protocol, net, control           (beside broker)

A folder may always include itself. Tests may include everything.
"""

import re
import sys

from sources import c_files, report, text_of

BASE = ["shared/base"]
SHARED = BASE + ["shared/record", "shared/mqtt", "shared/config", "shared/store", "shared/control"]
SERVER = ["kafka-server/broker", "kafka-server/protocol", "kafka-server/net", "kafka-server/api"]
MESSAGES = "kafka_messages.h"  # generated from the schema

MAY_INCLUDE = {
    "shared/base": [],
    "shared/record": BASE,
    # The mapping needs a stream's settings, and the settings are checked with the rules of filters
    # and paths: filter.h, json_path.h <- config <- mapping.h.
    "shared/mqtt": BASE + ["shared/record", "shared/config/config.h"],
    "shared/config": BASE + ["shared/mqtt/filter.h", "shared/mqtt/json_path.h"],
    "shared/store": BASE + ["shared/record", "shared/config"],
    "shared/control": BASE,
    # The broker's side knows neither records nor the store: both are its writer's.
    "plugins/link": BASE + ["shared/mqtt"],
    "plugins/capture": BASE + ["plugins/link", "shared/mqtt", "shared/config"],
    "plugins/writer": SHARED + ["plugins/link"],
    "kafka-server/protocol": BASE + ["shared/record", MESSAGES],
    "kafka-server/net": BASE + ["shared/config"],
    "kafka-server/broker": SHARED,
    # server.h is the struct that the handlers are given; it declares and does not reach up.
    "kafka-server/api": SHARED + SERVER + ["kafka-server/server.h", MESSAGES],
    "kafka-server": SHARED + SERVER + [MESSAGES],
    "kafka-server/cli": BASE + ["shared/config"],
    "packaging/demo": [],
}

# Headers of libraries that only few may know: (pattern, folders or files).
LIBRARIES = [
    (r"rocksdb/", ["shared/store"]),
    (r"mosquitto_(plugin|broker)\.h|mosquitto/(?!libmosquitto)", ["plugins/capture/plugin.c"]),
    (r"mosquitto\.h", ["plugins/capture/plugin.c", "kafka-server/cli", "packaging/demo"]),
    (r"event2/", ["kafka-server/net", "kafka-server/api", "kafka-server/server.c", "kafka-server/server.h",
                  "kafka-server/main.c"]),
    (r"librdkafka/", ["kafka-server/cli"]),
    (r"systemd/", ["kafka-server/server.c", "kafka-server/main.c"]),
    (r"(snappy-c|lz4\w*|zstd\w*|zlib)\.h", ["shared/record"]),
    (r"isa-l", ["shared/base"]),
    (r"pcre2", ["kafka-server/broker/topic_regex.c"]),
]

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)


def allowed(path, places):
    return any(path == p or path.startswith(p + "/") for p in places)


def check_own(path, name):
    folder = str(path.parent)
    if folder not in MAY_INCLUDE:
        return f"{folder} is in no layer: add a row to tests/check/layers.py"
    places = MAY_INCLUDE[folder]
    inner = name.rpartition("/")[0]
    if inner == folder or name in places or inner in places:
        return None
    return f"{folder} must not include {name}"


def check_library(path, name):
    for pattern, places in LIBRARIES:
        if re.match(pattern, name):
            return None if allowed(str(path), places) else f"only {', '.join(places)} may include <{name}>"
    return None


def main():
    mistakes = []
    for path in c_files():
        if path.parts[0] == "tests":
            continue
        text = text_of(path)
        for found in INCLUDE.finditer(text):
            check = check_own if found[1] == '"' else check_library
            wrong = check(path, found[2])
            if wrong and path != type(path)("kafka-server/protocol/gen/schemac.c"):  # a host tool
                mistakes.append((path, text.count("\n", 0, found.start(2)) + 1, wrong))
    return report(mistakes, "layers")


sys.exit(main())
