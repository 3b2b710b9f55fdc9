"""A real SGLang server on a CPU: health, state, metrics, load, and an end without leftovers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine_adapter.adapter import LaunchCommand
from engine_adapter.prometheus_text import sample
from engine_adapter.recipe_files import recipe_to_yaml
from engine_adapter.server_process import answers
from engine_adapter.sglang_server import PYTHON_VARIABLE, SglangAdapter, SglangServer, free_port
from search_spaces.errors import MissingData, StartFailed
from search_spaces.recipe import Recipe
from search_spaces.workload import Workload

pytestmark = pytest.mark.live


def processes_naming(text: str) -> list[int]:
    """Live processes with `text` in their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words, state = (entry / "cmdline").read_bytes(), (entry / "stat").read_text()
        except OSError:
            continue
        if text.encode() in words and state.rpartition(")")[2].split()[0] != "Z":
            found.append(int(entry.name))
    return found


def parent_of(pid: int) -> int:
    """Parent of a live process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def session_members(session: int) -> list[int]:
    """Live processes of a session, whatever they call themselves."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, number = entry.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(number) == session and state != "Z":
            found.append(int(entry.parent.name))
    return found


def test_info_is_the_recipes(server: SglangServer, llama: Recipe):
    info = server.info()
    assert (info.engine, info.engine_version, info.device) == ("sglang", "0.5.15", "cpu")
    assert info.model_path == llama.launch["model_path"]
    assert info.max_total_tokens == llama.serving.max_total_tokens
    assert info.max_running_requests == llama.serving.max_running_per_rank


def test_metrics_count_what_was_asked(server: SglangServer):
    def generated() -> float:
        return sample(server.metrics(), "sglang:generation_tokens_total") or 0.0

    before = generated()
    tokens = server.generate([[5, 6, 7], [8, 9, 10, 11]], 6)
    assert len(tokens) == 12 and {index for _, index in tokens} == {0, 1}
    assert tokens == sorted(tokens, key=lambda item: item[0])
    for _ in range(20):
        if generated() - before == 12:
            break
        time.sleep(0.25)
    assert generated() - before == 12


def test_attach_and_wrong_addresses(adapter: SglangAdapter, server: SglangServer):
    attached = adapter.attach(server.url + "/")
    assert attached.info() == server.info()
    attached.stop()
    assert answers(server.url + "/health")
    with pytest.raises(MissingData, match="does not answer"):
        adapter.attach(f"http://127.0.0.1:{free_port()}")


def test_the_engines_own_load(server: SglangServer):
    shape = {"isl": 32, "osl": 16, "random_range_ratio": 0.5, "concurrency": 3, "num_prompts": 9}
    load = Workload.model_validate(shape | {"num_warmup": 1, "harness": "bench_serving"})
    found = server.run_load(load, num_gpus=2, seed=5)
    assert found.completed == 9
    # Lengths are the simulator's own draws, so both sides serve the same requests.
    from simulator.lengths import lengths

    isl, osl = lengths(load, 5)
    assert (found.input_tokens, found.output_tokens) == (isl.sum(), osl.sum())
    rate = found.output_tokens / found.duration_s / 2
    assert found.metrics["output_tokens_per_s_per_gpu"] == pytest.approx(rate, rel=1e-6)
    assert found.metrics["mean_e2e_ms"] > found.metrics["mean_ttft_ms"] > found.metrics["mean_tpot_ms"] > 0


def test_a_start_that_fails_shows_the_log(adapter: SglangAdapter, tmp_path: Path):
    url = f"http://127.0.0.1:{free_port()}"
    words = (adapter.python, "-m", "sglang.launch_server", "--model-path", str(tmp_path), "--no-such-flag")
    command = LaunchCommand(role="aggregated", words=words, env={"SGLANG_USE_CPU_ENGINE": "1"}, url=url)
    with pytest.raises(StartFailed, match=r"ended with exit code 2 .*(\n.*)*no-such-flag") as caught:
        adapter.start(command, tmp_path / "server.log", 120)
    assert caught.value.exit_code == 4


def hear_interrupts() -> None:
    """A shell starts what runs in its background deaf to Ctrl-C, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_leaves_nothing(live_python: str, llama: Recipe, tmp_path: Path):
    """Interrupted when the engine has started its processes, the hardest moment to end them all."""
    (tmp_path / "recipe.yaml").write_text(recipe_to_yaml(llama))
    command = [sys.executable, "-m", "planner.cli", "profile", "steps"]
    command += ["--recipe", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "steps.json")]
    env = {**os.environ, PYTHON_VARIABLE: live_python}
    with (tmp_path / "out").open("w") as out:
        child = subprocess.Popen(
            command,
            stdout=out,
            stderr=out,
            env=env,
            cwd=Path(__file__).parents[2],
            preexec_fn=hear_interrupts,
        )
    leader, started, limit = 0, [child.pid], time.monotonic() + 240
    try:
        while len(started) < 4:  # HTTP, a resource tracker, scheduler, detokenizer
            assert child.poll() is None and time.monotonic() < limit, (tmp_path / "out").read_text()
            time.sleep(0.5)
            ours = [pid for pid in processes_naming("sglang.launch_server") if parent_of(pid) == child.pid]
            leader = ours[0] if ours else 0
            started = session_members(leader) if leader else []
        time.sleep(3.0)
        child.send_signal(signal.SIGINT)
        assert child.wait(60) == 130
        assert session_members(leader) == []
    finally:
        child.kill()
    assert "interrupted" in (tmp_path / "out").read_text()
