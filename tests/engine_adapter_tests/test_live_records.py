"""Commands, results and records of live runs, without an engine."""

from __future__ import annotations

import itertools
import shlex
from pathlib import Path

import pytest

from engine_adapter.launch_command import load_launch_script
from engine_adapter.observations import (
    append_record,
    check_appendable,
    load_steps,
    observation_record,
    prediction_record,
)
from engine_adapter.points import load_points
from engine_adapter.prometheus_text import parse_metrics, sample
from engine_adapter.sglang_bench import bench_command, result_of
from engine_adapter.sglang_server import SglangAdapter, engine_python, free_port
from search_spaces.errors import BadInput, MissingData
from search_spaces.public_recipes import recipe_lanes
from search_spaces.records import MeasuredPoint, Provenance
from search_spaces.workload import Workload
from tests.live_tests.tiny_models import recipe_of
from tests.simulator_tests.test_measured_tables import FLAT, RECIPE

LOAD = Workload(
    isl=64, osl=32, random_range_ratio=0.5, concurrency=4, num_prompts=12, harness="bench_serving"
)
TEXT = """# HELP sglang:num_running_reqs The number of running requests.
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{model_name="a, \\"b\\" }",tp_rank="0"} 3.0
sglang:num_running_reqs{model_name="x",tp_rank="1"} 4
process_start_time_seconds 1.7e+09 1712345678
sglang:fwd_occupancy{tp_rank="0"} NaN
"""


def test_prometheus_samples():
    found = parse_metrics(TEXT)
    assert sample(found, "sglang:num_running_reqs") == 7
    assert sample(found, "process_start_time_seconds") == 1.7e9
    assert sample(found, "sglang:num_running") is None
    assert found['sglang:fwd_occupancy{tp_rank="0"}'] != found['sglang:fwd_occupancy{tp_rank="0"}']
    with pytest.raises(ValueError, match="no Prometheus sample"):
        parse_metrics("<html>")


def test_a_catalog_recipes_command_means_the_recipe():
    """What the adapter starts is read back by the importer of launch scripts as the same worker."""
    recipes = [r for lane in recipe_lanes().values() for r in lane if r.aggregated is not None][::9]
    for recipe in recipes:
        command = SglangAdapter("python").launch_commands(recipe, "0.5.15", port=30000)["aggregated"]
        env = " ".join(f"{name}={shlex.quote(value)}" for name, value in command.env.items())
        text = f"env {env} {shlex.join(command.words)}"
        read = load_launch_script(text, recipe.name, hardware=recipe.hardware, engine_version="0.5.15").recipe
        assert read.aggregated is not None and recipe.aggregated is not None
        ours = recipe.aggregated.model_copy(update={"num_workers": 1})
        unused: dict[str, object] = {"extra_flags": {}, "extra_env": {}}
        assert read.aggregated.model_copy(update=unused) == ours.model_copy(update=unused), recipe.name
        assert command.url == "http://127.0.0.1:30000"


def test_disaggregated_roles_get_their_own_command():
    recipe = next(r for lane in recipe_lanes().values() for r in lane if r.is_disaggregated)
    found = SglangAdapter("python").launch_commands(recipe, "0.5.15", port=100)
    assert [c.url.rsplit(":", 1)[1] for c in found.values()] == ["100", "101"]
    for role, command in found.items():
        assert command.words[command.words.index("--disaggregation-mode") + 1] == role


def test_the_load_is_the_simulators():
    words = bench_command("py", "http://u", "tok", LOAD, 3, "out")
    flags = dict(itertools.pairwise(words))
    assert (flags["--seed"], flags["--num-prompts"], flags["--max-concurrency"]) == ("45", "12", "4")
    assert (flags["--random-range-ratio"], flags["--warmup-requests"]) == ("0.5", "8")
    with pytest.raises(BadInput, match="prompts='chat'"):
        bench_command("py", "http://u", "tok", LOAD.model_copy(update={"prompts": "chat"}), 0, "out")


def test_a_partial_run_is_no_measurement():
    names = [f"{kind}_{name}_ms" for kind in ("mean", "median", "p99") for name in ("ttft", "tpot")]
    record = dict.fromkeys([*names, "mean_e2e_latency_ms", "median_e2e_latency_ms"], 5.0)
    record |= {"completed": 12, "duration": 2.0, "total_input_tokens": 600, "total_output_tokens": 300}
    record |= {"total_throughput": 450.0, "output_throughput": 150.0}
    found = result_of(record, LOAD, 3, ("c",), 0)
    assert found.metrics["output_tokens_per_s_per_gpu"] == 50 and found.metrics["mean_e2e_ms"] == 5
    with pytest.raises(MissingData, match="only 11 requests were answered: refused"):
        result_of(record | {"completed": 11, "errors": ["", "refused"]}, LOAD, 3, ("c",), 0)


def observed() -> MeasuredPoint:
    return MeasuredPoint(
        id="r/1", trust="A", model=RECIPE.model, hardware=RECIPE.hardware, engine="sglang",
        engine_version="0.5.15", stack="june", num_gpus=1, recipe=RECIPE, workload=LOAD,
        measured={"mean_tpot_ms": 11.0}, source="servecast observe", steps=FLAT,
        provenance=Provenance(
            measured_on="2026-01-01", seed=3, recipe_digest=RECIPE.digest, device="d",
            load_command=("bench",), completed=12, duration_s=1.0,
        ),
    )  # fmt: skip


def test_records_are_points_and_their_steps_are_guarded(tmp_path: Path):
    steps, out = tmp_path / "steps.json", tmp_path / "runs.yaml"
    steps.write_text(FLAT.model_dump_json())
    check_appendable(out)
    append_record(out, prediction_record("r/1", "2026-01-01", {"mean_tpot_ms": 10.0}, seed=3))
    append_record(out, observation_record(observed(), {"mean_tpot_ms": 10.0}, tmp_path, steps))
    check_appendable(out)
    assert load_points(out) == [observed()]
    assert load_steps(steps) == FLAT
    steps.write_text(FLAT.model_copy(update={"request_s": 1.0}).model_dump_json())
    with pytest.raises(BadInput, match="has changed since the point was observed"):
        load_points(out)


def test_records_are_not_added_to_other_files(tmp_path: Path):
    other = tmp_path / "recipe.yaml"
    other.write_text("model: x\n")
    with pytest.raises(BadInput, match="no list of records"):
        check_appendable(other)
    with pytest.raises(BadInput, match="folder does not exist"):
        check_appendable(tmp_path / "none" / "runs.yaml")
    with pytest.raises(BadInput, match="not valid JSON"):
        load_steps(other)


def test_ports_leave_room_for_the_second_one():
    found = [free_port() for _ in range(200)]
    assert all(1024 < port <= 65_535 - 10_000 for port in found) and len(set(found)) > 100


def test_an_interpreter_without_the_engine_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SERVECAST_ENGINE_PYTHON", raising=False)
    assert engine_python("/some/python") == "/some/python"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingData, match="--engine-python"):
        engine_python()


def test_another_architecture_may_choose_what_the_engine_forces_on_deepseek():
    """The CPU recipe of the live tests is emitted; a DeepSeek-V4 recipe with the same flag is refused."""
    tiny = recipe_of("tiny", Path("/models/tiny"))
    words = SglangAdapter("python").launch_commands(tiny, "0.5.15", port=30000)["aggregated"].words
    assert words[words.index("--attention-backend") + 1] == "torch_native"
    with pytest.raises(BadInput, match="--attention-backend is overridden"):
        SglangAdapter("python").launch_commands(
            tiny.model_copy(update={"model": "deepseek-ai/DeepSeek-V4-Flash"}), "0.5.15", port=30000
        )
