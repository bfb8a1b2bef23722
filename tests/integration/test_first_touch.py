"""What a person touches first: `make demo`, `make install`. Sentences for what a person gets wrong are part of it."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import harness
import pytest
from harness import ROOT, Process, free_port, port_answers, wait_until

READY_SECONDS = 240  # the first one may have to build

pytestmark = pytest.mark.skipif(harness.ASAN, reason="the demo builds its own release")


class Demo(Process):
    def __init__(self, home, data=None, mqtt_port=None, kafka_port=None, name="demo"):
        super().__init__(name, home)
        self.mqtt_port = mqtt_port or free_port()
        self.kafka_port = kafka_port or free_port()
        self.data = data or home / "the demo's data"

    def start(self):
        env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
        # A session of its own, so that Ctrl-C can be sent as a terminal does: to the whole group.
        with open(self.log_path, "ab") as out:
            self.mark = out.tell()
            self.proc = subprocess.Popen(
                ["make", "demo", f"MQTT_PORT={self.mqtt_port}", f"KAFKA_PORT={self.kafka_port}",
                 f"DATA={self.data}"], cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                start_new_session=True)
        return self

    def wait_ready(self):
        self.wait_log("Culex is ready", READY_SECONDS)
        return self

    def ctrl_c(self):
        os.killpg(self.proc.pid, signal.SIGINT)
        self.proc.wait(60)
        wait_until("both ports are free again",
                   lambda: not port_answers(self.mqtt_port) and not port_answers(self.kafka_port))

    def ends_with(self, pattern):
        """The demo must refuse to start, with a sentence."""
        assert self.proc.wait(READY_SECONDS) != 0
        assert re.search(pattern, self.log()), self.log()

    def kcat(self, *args):
        out = subprocess.run(["kcat", "-b", f"localhost:{self.kafka_port}", "-q", *args], capture_output=True,
                             text=True, timeout=60)
        assert out.returncode == 0, out.stderr
        return out.stdout

    def history(self):
        return self.kcat("-C", "-t", "demo", "-o", "beginning", "-e", "-f", "%T %p/%o %k %h %s\n")

    def wait_history(self, *patterns):
        """Once it has all of them."""
        def look():
            text = self.history()
            return text if all(re.search(p, text, re.M) for p in patterns) else None
        return wait_until(f"the history has {patterns}", look, every=0.1)


@pytest.fixture
def home():
    path = Path(tempfile.mkdtemp(prefix="culex-demo-"))
    path.chmod(0o755)  # the broker may run as another user
    demos = []
    yield path, demos
    for d in demos:
        if d.running():
            os.killpg(d.proc.pid, signal.SIGTERM)
            d.proc.wait(60)
    shutil.rmtree(path, ignore_errors=True)


def make_demo(home, **kw):
    path, demos = home
    d = Demo(path, name=f"demo{len(demos)}", **kw)
    demos.append(d)
    return d


def test_demo_shows_the_device_takes_a_publish_and_keeps_its_history(home):
    demo = make_demo(home).start().wait_ready()
    subprocess.run(["mosquitto_pub", "-p", str(demo.mqtt_port), "-q", "1", "-t", "demo/x", "-m", "hi"], check=True,
                   timeout=60)
    before = demo.wait_history(r"^\d+ \d+/\d+ demo/x mqtt\.topic=demo/x,.* hi$",
                               r'^\d+ \d+/\d+ demo/[^/ ]+/load .* \{"load1":',
                               r'^\d+ \d+/\d+ demo/[^/ ]+/memory .* \{"total_kb":',
                               r'^\d+ \d+/\d+ demo/[^/ ]+/net/lo .* \{"rx_bytes":')
    demo.ctrl_c()

    again = make_demo(home, data=demo.data).start().wait_ready()
    after = again.history()
    assert set(before.splitlines()) <= set(after.splitlines())
    again.ctrl_c()


def test_demo_says_which_command_to_try_and_the_commands_work(home):
    demo = make_demo(home).start().wait_ready()
    text = demo.log()
    assert f"kcat -b localhost:{demo.kafka_port} -t demo -C" in text
    assert f"mosquitto_pub -p {demo.mqtt_port} -t demo/x -m hi" in text
    command = re.search(r"^  (\S*culex status.*)$", text, re.M).group(1)
    out = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert out.returncode == 0 and re.search(r"\bdemo\b", out.stdout), (out.stdout, out.stderr)
    demo.ctrl_c()


def test_demo_names_a_port_that_is_in_use(home):
    first = make_demo(home).start().wait_ready()
    data = home[0] / "other"
    taken = make_demo(home, data=data, mqtt_port=first.mqtt_port).start()
    taken.ends_with(rf"port {first.mqtt_port}, which Mosquitto wants, is in use.*MQTT_PORT=")
    taken = make_demo(home, data=data, kafka_port=first.kafka_port).start()
    taken.ends_with(rf"port {first.kafka_port}, which culex-server wants, is in use.*KAFKA_PORT=")
    first.ctrl_c()


def test_demo_names_a_data_directory_that_is_in_use(home):
    first = make_demo(home).start().wait_ready()
    second = make_demo(home, data=first.data).start()
    second.ends_with(rf"{re.escape(str(first.data))} is in use by another demo \(process \d+\)")
    assert first.running() and first.history()
    first.ctrl_c()


@pytest.mark.parametrize("port", ["0", "http", "70000", "-1"])
def test_demo_refuses_what_is_no_port(home, port):
    make_demo(home, mqtt_port=port).start().ends_with(rf"MQTT_PORT={port} is not a port")


def test_demo_leaves_a_directory_alone_that_is_not_its_own(home):
    data = home[0] / "mine"
    data.mkdir()
    (data / "thesis.txt").write_text("precious")
    owner = (data / "thesis.txt").stat().st_uid
    make_demo(home, data=data).start().ends_with(rf"{re.escape(str(data))} is neither empty nor a demo's")
    assert files_below(data) == ["thesis.txt"] and (data / "thesis.txt").stat().st_uid == owner


def test_demo_stops_when_one_of_its_programs_dies_and_says_which(home):
    demo = make_demo(home).start().wait_ready()
    found = subprocess.run(["pgrep", "-f", f"culex-server --config {demo.data}/"], capture_output=True, text=True)
    os.kill(int(found.stdout.split()[0]), signal.SIGKILL)
    demo.ends_with(r"culex-server ended \(status 137\)")
    wait_until("the broker is gone too", lambda: not port_answers(demo.mqtt_port))


# --- make install -------------------------------------------------------------------------------------------


def make(target, dest, *args):
    out = subprocess.run(["make", target, f"DESTDIR={dest}", *args], cwd=ROOT, capture_output=True, text=True,
                         timeout=READY_SECONDS)
    assert out.returncode == 0, out.stderr
    return out.stdout


def files_below(path):
    return sorted(str(p.relative_to(path)) for p in path.rglob("*") if not p.is_dir())


def test_install_puts_everything_where_debian_wants_it_and_uninstall_takes_it_away(home):
    dest = home[0] / "a builder's root"
    make("install", dest, "PREFIX=/usr")
    arch = subprocess.run(["gcc", "-print-multiarch"], capture_output=True, text=True).stdout.strip()
    doc = "usr/share/doc/culex"
    assert files_below(dest) == sorted([
        "etc/culex/culex.json", "usr/bin/culex", "usr/bin/culex-server", f"usr/lib/{arch}/culex_capture.so",
        f"usr/lib/{arch}/culex-writer",
        "usr/lib/systemd/system/culex-server.service", "usr/lib/tmpfiles.d/culex.conf",
        f"{doc}/CHANGELOG.md", f"{doc}/LICENSE", f"{doc}/README.md",
        *(f"{doc}/docs/{p.name}" for p in (ROOT / "docs").iterdir()),
        f"{doc}/examples/culex.json", f"{doc}/examples/mosquitto-culex.conf"])
    unit = (dest / "usr/lib/systemd/system/culex-server.service").read_text()
    assert "ExecStart=/usr/bin/culex-server --config /etc/culex/culex.json\n" in unit and "@" not in unit.replace(
        "@system-service", "").replace("@privileged", "")
    snippet = (dest / doc / "examples/mosquitto-culex.conf").read_text()
    assert f"\nplugin /usr/lib/{arch}/culex_capture.so\n" in snippet
    make("uninstall", dest, "PREFIX=/usr")
    assert files_below(dest) == []


def test_install_and_uninstall_keep_the_users_configuration(home):
    dest = home[0] / "root"
    mine = dest / "etc/culex/culex.json"
    mine.parent.mkdir(parents=True)
    mine.write_text('{"streams": []}\n')
    make("install", dest)
    make("uninstall", dest)
    assert files_below(dest) == ["etc/culex/culex.json"] and mine.read_text() == '{"streams": []}\n'


def test_the_installed_sample_configuration_is_valid(home):
    dest = home[0] / "root"
    make("install", dest)
    out = subprocess.run([dest / "usr/bin/culex", "check", dest / "etc/culex/culex.json"], capture_output=True,
                         text=True, timeout=60)
    assert out.returncode == 0, out.stdout + out.stderr


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
def test_the_systemd_unit_is_well_formed(home):
    dest = home[0] / "root"
    make("install", dest)
    unit = home[0] / "culex-server.service"
    text = (dest / "usr/lib/systemd/system/culex-server.service").read_text()
    unit.write_text(text.replace("/usr/bin/culex-server", str(dest / "usr/bin/culex-server")))
    out = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60)
    assert out.returncode == 0 and str(unit) not in out.stderr, out.stderr
