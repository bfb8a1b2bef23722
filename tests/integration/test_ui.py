"""The calls of UIs (AKHQ, kafka-ui), by Java's admin client: each is answered as Apache Kafka 4.1 answers it.

ui_answers.txt is what tests/clients/java/UiCalls.java printed on a Kafka 4.1 of one node."""

import os
import subprocess
from pathlib import Path

import pytest
from harness import CLIENTS, ROOT

ANSWERS = Path(__file__).with_name("ui_answers.txt")


@pytest.mark.saw("admin", client="java")
def test_every_call_of_a_ui_is_answered_as_by_kafka(culex_factory):
    c = culex_factory(server={"node.id": 1})
    argv = ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{CLIENTS}/java/lib/*",
            ROOT / "tests" / "clients" / "java" / "UiCalls.java", c.bootstrap, "ui"]
    env = {k: v for k, v in os.environ.items() if k != "JAVA_TOOL_OPTIONS"}
    said = subprocess.run([str(a) for a in argv], capture_output=True, text=True, timeout=120, env=env)
    assert said.returncode == 0, said.stdout + said.stderr
    assert said.stdout.splitlines() == ANSWERS.read_text().splitlines()
    assert "reply lost" not in c.server.log()
