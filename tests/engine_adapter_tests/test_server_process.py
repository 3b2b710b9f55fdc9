"""Processes started for a server: health, failure, and an end that takes everything with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine_adapter.server_process import ServerProcess, answers
from engine_adapter.sglang_server import free_port
from search_spaces.errors import StartFailed

SERVER = """
import http.server, subprocess, sys
print("hello from the server", flush=True)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
stubborn = subprocess.Popen([sys.executable, "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"])
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""
OWNER = """
import sys, time
from pathlib import Path
from engine_adapter.server_process import ServerProcess
process = ServerProcess(sys.argv[2:], {}, Path(sys.argv[1]))
print(process.pid, flush=True)
time.sleep(600)
"""


def members(group: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, number = entry.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(number) == group and state != "Z":
            found.append(int(entry.parent.name))
    return found


def wait_for(count: int, group: int) -> None:
    limit = time.monotonic() + 20
    while len(members(group)) < count and time.monotonic() < limit:
        time.sleep(0.05)
    assert len(members(group)) == count


def test_a_stopped_server_leaves_no_process(tmp_path: Path):
    port = free_port()
    words = [sys.executable, "-c", SERVER, str(port)]
    process = ServerProcess(words, {"SOME_VARIABLE": "1"}, tmp_path / "log")
    process.wait_until_healthy(f"http://127.0.0.1:{port}/", 30)
    wait_for(3, process.pid)
    assert sorted(process.group_members()) == sorted(members(process.pid))
    assert os.getpgid(process.pid) == process.pid != os.getpgid(0)
    time.sleep(0.5)  # the stubborn child learns to ignore SIGTERM
    process.stop(patience_s=1.0)
    assert members(process.pid) == [] and not answers(f"http://127.0.0.1:{port}/")
    process.stop()  # harmless


def test_a_start_that_fails_tells_the_log(tmp_path: Path):
    words = [sys.executable, "-c", "import sys; print('out of luck'); sys.exit(7)"]
    process = ServerProcess(words, {}, tmp_path / "log")
    with pytest.raises(StartFailed, match="exit code 7 before it was healthy\nout of luck\n") as caught:
        process.wait_until_healthy("http://127.0.0.1:9/", 30)
    assert caught.value.exit_code == 4
    with pytest.raises(StartFailed, match="cannot be run"):
        ServerProcess(["/no/such/program"], {}, tmp_path / "log")


def test_a_start_that_takes_too_long_is_named_and_ended(tmp_path: Path):
    process = ServerProcess([sys.executable, "-c", SERVER, str(free_port())], {}, tmp_path / "log")
    with pytest.raises(StartFailed, match="start-timeout=1 s passed"):
        process.wait_until_healthy(f"http://127.0.0.1:{free_port()}/", 1.0)
    assert members(process.pid) == []


def _hear_signals() -> None:
    """A test run in the background ignores some signals, and so would what it starts."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_owners_end_is_the_servers(number: signal.Signals, tmp_path: Path):
    words = [
        sys.executable,
        "-c",
        OWNER,
        str(tmp_path / "log"),
        sys.executable,
        "-c",
        SERVER,
        str(free_port()),
    ]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env, preexec_fn=_hear_signals
    ) as owner:
        assert owner.stdout is not None
        group = int(owner.stdout.readline())
        wait_for(3, group)
        owner.send_signal(number)
        code = owner.wait(60)
    assert members(group) == []
    assert code == -number
