"""Steps measured on a real engine predict closed-loop runs of it that the profile has not seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine_adapter.points import load_points
from engine_adapter.recipe_files import recipe_to_yaml
from engine_adapter.sglang_server import SglangAdapter, SglangServer
from engine_adapter.yaml_files import dump_yaml
from planner.live import LiveOptions, device_name, num_layers
from planner.observe import Comparison, comparison_text, observation, observe
from planner.validation import report, simulate_all
from profiler.recorder_files import install_recorder
from profiler.steps import Journal, StepDriver, StepPlan, measure_steps, profile_of
from search_spaces.recipe import Recipe
from simulator.calibration import load_calibration
from tests.live_tests.conftest import START_S
from tests.live_tests.machine import wait_for_quiet, watched
from tests.live_tests.tiny_models import QWEN_MOE, recipe_of, write_model

pytestmark = pytest.mark.live

TOLERANCE = 0.15
"""Of output throughput and mean TPOT."""
CONTENDED = 0.12
"""Share of time in which the scheduler waits for a core, beyond which others' work was timed, not ours."""
ATTEMPTS = 3
PLAN = StepPlan(
    batches=(1, 2, 4, 8), contexts=(32, 160), prefill_tokens=(16, 64, 128, 256, 512), passes=32, repeats=4
)
DENSE_LOADS = (
    {"isl": 96, "osl": 48, "random_range_ratio": 0.5, "concurrency": 3, "num_prompts": 36, "num_warmup": 2},
    {"isl": 48, "osl": 96, "random_range_ratio": 0.5, "concurrency": 6, "num_prompts": 42, "num_warmup": 2},
    {"isl": 200, "osl": 24, "random_range_ratio": 0.8, "concurrency": 1, "num_prompts": 20, "num_warmup": 2},
)
"""Batches, lengths and mixtures that no point of the plan has."""
MOE_LOADS = (
    {"isl": 80, "osl": 64, "random_range_ratio": 0.5, "concurrency": 3, "num_prompts": 24, "num_warmup": 2},
)


def profiled(server: SglangServer, recipe: Recipe, recorder: Path | None, out: Path) -> Path:
    """Measure the steps of a running server and write the profile."""
    info = server.info()
    journal = Journal(Path(f"{out}.jsonl"), {"recipe": recipe.digest})
    measure_steps(StepDriver(server, recipe.serving, PLAN, recorder), journal, info, lambda _: None)
    found = profile_of(
        journal,
        recipe,
        info,
        device=device_name(info),
        num_layers=num_layers(recipe, info),
        date="2026-01-01",
        source="test",
    )
    out.write_text(found.model_dump_json())
    return out


def worst(found: list[Comparison]) -> float:
    """Largest error of output throughput and mean TPOT."""
    names = ("output_tokens_per_s_per_gpu", "mean_tpot_ms")
    return max(abs(one.error(name)) for one in found for name in names)


def predicted_and_observed(
    server: SglangServer, recipe: Recipe, recorder: Path, folder: Path, loads: tuple[dict[str, float], ...]
) -> tuple[list[Comparison], Path]:
    """Profile, predict, run; again only where others held the machine's cores meanwhile."""
    (folder / "recipe.yaml").write_text(recipe_to_yaml(recipe))
    (folder / "loads.yaml").write_text(dump_yaml([dict(load) for load in loads]))
    for attempt in range(ATTEMPTS):
        wait_for_quiet()
        with watched(server) as share:
            steps = profiled(server, recipe, recorder, folder / f"steps{attempt}.json")
            what = observation(
                str(folder / "recipe.yaml"), str(folder / "loads.yaml"), str(steps), None, seed=attempt
            )
            options = LiveOptions(endpoint=server.url, engine_python=server.python)
            out = folder / f"runs{attempt}.yaml"
            found = observe(what, options, out, lambda _: None)
        print(f"\nwaited for a core {share.waited:.0%}\n{comparison_text(found)}")
        if worst(found) <= TOLERANCE or share.waited < CONTENDED:
            break
    return found, out


def test_a_dense_model(server: SglangServer, llama: Recipe, recorder: Path, tmp_path: Path):
    found, out = predicted_and_observed(server, llama, recorder, tmp_path, DENSE_LOADS)
    assert worst(found) <= TOLERANCE, comparison_text(found)
    # The loads differ by more than the tolerance: one constant would not have passed.
    rates = [one.measured["output_tokens_per_s_per_gpu"] for one in found]
    assert max(rates) / min(rates) > 1.5
    # The file that was written holds predictions first, and is validated like any other.
    lines = out.read_text().splitlines()
    assert ["prediction" in line.split('"id"')[0] for line in lines] == [True] * 3 + [False] * 3
    points = load_points(out)
    outcomes = simulate_all(points, load_calibration(), workers=1)
    again = report(points, outcomes, load_calibration())
    for one, result in zip(found, again.points, strict=True):
        assert result.status == "predicted"
        assert result.predicted["mean_tpot_ms"] == pytest.approx(one.predicted["mean_tpot_ms"])
        assert result.measured["mean_tpot_ms"] == one.measured["mean_tpot_ms"]
    assert points[0].provenance is not None and points[0].provenance.recipe_digest == llama.digest


def test_a_client_sees_the_same_steps(server: SglangServer, llama: Recipe, recorder: Path, tmp_path: Path):
    """Without the recorder, token times at the client give the same decode steps."""
    plan = PLAN.model_copy(update={"batches": (1, 4), "contexts": (32,), "prefill_tokens": (128,)})
    rows: dict[str, dict[tuple[str, int], float]] = {}
    for name, folder in (("client", None), ("recorder", recorder)):
        journal = Journal(tmp_path / name, {})
        measure_steps(StepDriver(server, llama.serving, plan, folder), journal, server.info(), lambda _: None)
        rows[name] = {
            (row.mode, row.sequences): row.wall_s for record in journal.records for row in record.rows
        }
    for batch in (1, 4):
        key = ("decode", batch)
        assert rows["client"][key] == pytest.approx(rows["recorder"][key], rel=0.3)


def test_a_mixture_of_experts(adapter: SglangAdapter, tmp_path: Path):
    recipe = recipe_of("tiny-moe", write_model(tmp_path / "model", QWEN_MOE))
    command = adapter.launch_commands(recipe, "0.5.15")["aggregated"]
    recorder = tmp_path / "recorder"
    command = command.model_copy(update={"env": {**command.env, **install_recorder(recorder)}})
    server = adapter.start(command, tmp_path / "server.log", START_S)
    try:
        found, _ = predicted_and_observed(server, recipe, recorder, tmp_path, MOE_LOADS)
        assert worst(found) <= TOLERANCE, comparison_text(found)
    finally:
        server.stop()
    assert server.process is not None and server.process.group_members() == []
