"""Steps measured on a real engine predict closed-loop runs of it that the profile has not seen."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import pytest

from engine_adapter.points import load_points
from engine_adapter.recipe_files import recipe_to_yaml
from engine_adapter.sglang_server import SglangAdapter, SglangServer
from engine_adapter.yaml_files import dump_yaml
from planner.live import LiveOptions, device_name, num_layers
from planner.observe import Comparison, comparison_text, observation, observe
from planner.validation import report, simulate_all
from profiler.recorder_files import install_recorder, read_passes
from profiler.step_rows import rows as step_rows
from profiler.step_rows import timed
from profiler.steps import Journal, StepDriver, StepPlan, StepPoint, measure_steps, profile_of
from search_spaces.recipe import Recipe
from simulator.calibration import load_calibration
from tests.live_tests.conftest import START_S
from tests.live_tests.machine import OtherWork, preferred, wait_for_quiet
from tests.live_tests.tiny_models import QWEN_MOE, recipe_of, write_model

pytestmark = [pytest.mark.live, pytest.mark.quiet]

TOLERANCE = 0.15
"""Of output throughput and mean TPOT."""
DRIFT = 0.08
"""Change of the machine's speed between profile and run beyond which the run is made again."""
FOREIGN = 0.10
"""Share of the machine that other work may take during profile and runs; beyond it the run is made again."""
ATTEMPTS = 4
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


def probe(server: SglangServer, recipe: Recipe, recorder: Path) -> float:
    """Seconds of a decode step of a fixed shape now: how fast the machine is at the moment."""
    plan = PLAN.model_copy(update={"passes": 40})
    driver = StepDriver(server, recipe.serving, plan, recorder)
    rows = driver.measure(StepPoint(kind="decode", sequences=4, tokens=32)).rows
    return next(row.wall_s for row in rows if row.mode == "decode")


class Tried(NamedTuple):
    """One load, predicted and run."""

    comparison: Comparison
    drift: float
    """Change of the machine's speed since the profile, by the probes around the run."""
    foreign: float
    """Share of the machine that other work took since the profile began."""
    out: Path

    @property
    def is_quiet(self) -> bool:
        """Whether the run says something about the prediction."""
        return self.drift <= DRIFT and self.foreign <= FOREIGN


def predicted_and_observed(
    server: SglangServer, recipe: Recipe, recorder: Path, folder: Path, loads: tuple[dict[str, float], ...]
) -> list[Tried]:
    """Profile, predict, run; again only where the machine's speed changed or others worked meanwhile.

    Shared processors change their speed with what runs beside: a run at another speed than the profile's
    says nothing about the prediction. Whether runs count is decided without looking at predictions.
    """
    (folder / "recipe.yaml").write_text(recipe_to_yaml(recipe))
    found: dict[int, Tried] = {}
    for attempt in range(ATTEMPTS):
        pending = [i for i in range(len(loads)) if i not in found or not found[i].is_quiet]
        if not pending:
            break
        wait_for_quiet()
        with preferred(server):
            others = OtherWork(server)
            before = probe(server, recipe, recorder)
            steps = profiled(server, recipe, recorder, folder / f"steps{attempt}.json")
            speed = (before + probe(server, recipe, recorder)) / 2
            for index in pending:
                (folder / "load.yaml").write_text(dump_yaml(dict(loads[index])))
                names = (str(folder / "recipe.yaml"), str(folder / "load.yaml"), str(steps))
                out = folder / f"run{index}-{attempt}.yaml"
                options = LiveOptions(endpoint=server.url, engine_python=server.python)
                before = probe(server, recipe, recorder)
                (one,) = observe(observation(*names, None, seed=attempt), options, out, lambda _: None)
                after = probe(server, recipe, recorder)
                drift = max(abs(s / speed - 1) for s in (before, after))
                tried = Tried(one, drift, others.share(), out)
                print(f"\nspeed changed by {drift:.0%}, other work took {tried.foreign:.0%}")
                print(comparison_text([one]))
                if index not in found or tried.is_quiet:
                    found[index] = tried
    return [found[index] for index in range(len(loads))]


def check(found: list[Tried]) -> None:
    """Hold each load to the tolerance; one that never ran on a quiet machine cannot be judged."""
    for one in found:
        if one.is_quiet:
            assert worst([one.comparison]) <= TOLERANCE, comparison_text([t.comparison for t in found])
    disturbed = [one for one in found if not one.is_quiet]
    if disturbed:
        drift, foreign = max(one.drift for one in disturbed), max(one.foreign for one in disturbed)
        pytest.skip(
            f"{len(disturbed)} of {len(found)} loads never ran on a quiet machine: speed changed by up to "
            f"{drift:.0%}, other work took up to {foreign:.0%}"
        )


def test_a_dense_model(server: SglangServer, llama: Recipe, recorder: Path, tmp_path: Path):
    found = predicted_and_observed(server, llama, recorder, tmp_path, DENSE_LOADS)
    # The loads differ by more than the tolerance: one constant would not have passed.
    rates = [one.comparison.measured["output_tokens_per_s_per_gpu"] for one in found]
    assert max(rates) / min(rates) > 1.5
    # The file that was written holds the prediction first, and is validated like any other.
    one, out = found[0].comparison, found[0].out
    lines = out.read_text().splitlines()
    assert ["prediction" in line.split('"id"')[0] for line in lines] == [True, False]
    points = load_points(out)
    outcomes = simulate_all(points, load_calibration(), workers=1)
    (result,) = report(points, outcomes, load_calibration()).points
    assert result.status == "predicted"
    for name in ("mean_tpot_ms", "output_tokens_per_s_per_gpu"):
        assert result.predicted[name] == pytest.approx(one.predicted[name])
        assert result.measured[name] == pytest.approx(one.measured[name])
    assert points[0].provenance is not None and points[0].provenance.recipe_digest == llama.digest
    check(found)


def test_a_client_sees_the_same_steps(server: SglangServer, llama: Recipe, recorder: Path):
    """Of one and the same burst, token times at the client and the recorder give the same decode steps."""
    for batch in (1, 4):
        driver = StepDriver(server, llama.serving, PLAN, None)
        point = StepPoint(kind="decode", sequences=batch, tokens=32)
        began = time.time()
        seen, _ = driver.run(point, 60)
        rows = [step_rows(timed(passes), batch) for passes in (seen, read_passes(recorder, began))]
        client, own = ({row.mode: row.wall_s for row in part} for part in rows)
        assert client["decode"] == pytest.approx(own["decode"], rel=0.1)


def test_a_mixture_of_experts(adapter: SglangAdapter, tmp_path: Path):
    recipe = recipe_of("tiny-moe", write_model(tmp_path / "model", QWEN_MOE))
    command = adapter.launch_commands(recipe, "0.5.15")["aggregated"]
    recorder = tmp_path / "recorder"
    command = command.model_copy(update={"env": {**command.env, **install_recorder(recorder)}})
    server = adapter.start(command, tmp_path / "server.log", START_S)
    try:
        check(predicted_and_observed(server, recipe, recorder, tmp_path, MOE_LOADS))
    finally:
        server.stop()
    assert server.process is not None and server.process.group_members() == []
