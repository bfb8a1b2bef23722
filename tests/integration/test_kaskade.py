"""kaskade, a UI of Kafka in the terminal, before captured and free streams and their groups: a person opens each page by its keys
(tests/clients/python/kaskade_pages.py), and each shows what is there. `make ui`; it is not a step of `make test`."""

import json
import os
import subprocess

import pytest
from harness import ROOT, Driver, run_driver


@pytest.fixture
def streams(culex_factory):
    culex = culex_factory(streams=[{"name": "captured", "filters": ["demo/#"]}])
    for i in range(40):
        culex.publish(f"demo/house/{i % 5}/temperature", [f'{{"celsius": {18 + i % 7}.5}}'])
    from confluent_kafka import Producer
    from confluent_kafka.admin import AdminClient, NewTopic
    admin = AdminClient({"bootstrap.servers": culex.bootstrap})
    admin.create_topics([NewTopic("readings", 3)])["readings"].result(60)
    p = Producer({"bootstrap.servers": culex.bootstrap})
    for i in range(30):
        p.produce("readings", f"v{i}".encode(), f"k{i % 4}".encode())
    assert p.flush(60) == 0
    run_driver("librdkafka", culex.bootstrap, "readings", "billing", 30)
    d = Driver("librdkafka", culex.bootstrap, "captured", "dashboard")
    d.wait_records(40)
    d.wait_for("its positions are committed", lambda ev: any("commit" in e for _, e in ev))
    yield culex
    d.close()


@pytest.mark.saw("shows topics, partitions, configs, groups, members and records", "creates, changes and deletes topics",
                 client="kaskade")
def test_each_page_shows_what_is_there(streams, tmp_path):
    argv = [ROOT / "build/ui/bin/python", ROOT / "tests/clients/python/kaskade_pages.py", streams.bootstrap]
    argv += [os.environ["UI_PICTURE"]] if "UI_PICTURE" in os.environ else []
    got = subprocess.run([str(a) for a in argv], capture_output=True, text=True, timeout=240,
                         env={**os.environ, "HOME": str(tmp_path)})
    assert got.returncode == 0, got.stderr
    page = json.loads(got.stdout)

    def row(name, *cells):
        assert any(line.replace("│", " ").split()[:len(cells)] == list(cells) for line in page[name].splitlines()), page[name]
    row("topics", "captured", "16", "1", "1", "1", "1", "≈40", "≈0")
    row("topics", "readings", "3", "1", "1", "1", "0", "≈30", "≈0")
    row("partitions", "1", "1", "0", "8", "8", "[1]", "[1]")
    row("configurations, paged", "mqtt.filter", "demo/#")
    row("groups", "dashboard", f"{streams.bootstrap}/1", "stable", "range", "4", "1", "0")
    row("group offsets", "dashboard", "1", "8", "8", "0")
    row("group members", "dashboard", "rdkafka")
    assert "culex.json" in page["edit a captured one, refused"] and "demo/#" in page["edit a captured one, refused"]
    # librdkafka asks in a version that has no room for a sentence.
    assert "Policy violation" in page["delete a captured one, refused"]
    row("edited", "made", "4")
    row("edited, retention", "retention.ms", "5000")
    assert "demo/house/0" in page["records of captured"] and '{"celsius"' in page["records of captured"]
    assert "mqtt.topic" in page["a record of captured, headers"]
    row("records of readings", "k0", "v0")
    assert "reply lost" not in streams.server.log()
