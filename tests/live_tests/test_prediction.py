"""Steps measured on a real engine predict closed-loop runs of it that the profile has not seen."""

from __future__ import annotations

import math
import statistics
import time
from pathlib import Path

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
from tests.live_tests.machine import preferred
from tests.live_tests.tiny_models import QWEN_MOE, recipe_of, write_model

pytestmark = [pytest.mark.live, pytest.mark.quiet]

METRICS = ("output_tokens_per_s_per_gpu", "mean_tpot_ms")
TOLERANCE = 0.15
"""Of the metrics, predicted over measured."""
STEADY = 0.04
"""Standard error of a mean over rounds at which no further round is made."""
UNSTEADY = 0.08
"""Standard error beyond which the rounds say nothing about the tolerance."""
ROUNDS = range(3, 9)
"""Rounds that are made at least and at most."""
PLAN = StepPlan(
    batches=(1, 2, 4, 8), contexts=(32, 160), prefill_tokens=(16, 64, 128, 256, 512), passes=24, repeats=3
)
DENSE_LOADS = (
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


class Repeated:
    """One load, predicted and run once per round."""

    def __init__(self) -> None:
        self.rounds: list[Comparison] = []
        self.last_out = Path()

    def error(self, metric: str) -> tuple[float, float]:
        """Mean of predicted over measured, less one, and its standard error, over the rounds."""
        ratios = [math.log(one.predicted[metric] / one.measured[metric]) for one in self.rounds]
        return math.expm1(statistics.fmean(ratios)), statistics.stdev(ratios) / math.sqrt(len(ratios))

    def noise(self) -> float:
        """The larger standard error of the metrics."""
        return max(self.error(metric)[1] for metric in METRICS)

    def text(self) -> str:
        """The rounds and what they amount to."""
        errors = [f"{m} {self.error(m)[0]:+.1%} +- {self.error(m)[1]:.1%}" for m in METRICS]
        return "\n".join([comparison_text(self.rounds), *errors])


def predicted_and_observed(
    server: SglangServer, recipe: Recipe, recorder: Path, folder: Path, loads: tuple[dict[str, float], ...]
) -> list[Repeated]:
    """Rounds of: measure the steps, predict each load from them, run it.

    Shared processors change their speed by a tenth and more within a minute, so that one profile and one run
    compare two speeds. Rounds that alternate meet the same speeds on both sides; how many there are depends
    on how far they scatter, not on where they lie.
    """
    (folder / "recipe.yaml").write_text(recipe_to_yaml(recipe))
    found = [Repeated() for _ in loads]
    with preferred(server):
        for round_ in range(ROUNDS.stop - 1):
            if round_ >= ROUNDS.start and max(one.noise() for one in found) <= STEADY:
                break
            steps = profiled(server, recipe, recorder, folder / f"steps{round_}.json")
            order = range(len(loads)) if round_ % 2 == 0 else reversed(range(len(loads)))
            for index in order:
                (folder / "load.yaml").write_text(dump_yaml(dict(loads[index])))
                names = (str(folder / "recipe.yaml"), str(folder / "load.yaml"), str(steps))
                out = folder / f"run{index}-{round_}.yaml"
                options = LiveOptions(endpoint=server.url, engine_python=server.python)
                found[index].rounds += observe(
                    observation(*names, None, seed=round_), options, out, lambda _: None
                )
                found[index].last_out = out
    print("\n" + "\n".join(one.text() for one in found))
    return found


def check(found: list[Repeated]) -> None:
    """Hold the mean error of each load to the tolerance, where the machine was steady enough to tell."""
    for one in found:
        for metric in METRICS:
            error, noise = one.error(metric)
            if noise <= UNSTEADY:
                assert abs(error) <= TOLERANCE, one.text()
    if all(one.noise() > UNSTEADY for one in found):
        pytest.skip(f"the machine's speed changed too much: {[f'{one.noise():.0%}' for one in found]}")


def test_a_dense_model(server: SglangServer, llama: Recipe, recorder: Path, tmp_path: Path):
    found = predicted_and_observed(server, llama, recorder, tmp_path, DENSE_LOADS)
    # The loads differ by more than the tolerance: one constant would not have passed.
    rates = [one.rounds[0].measured["output_tokens_per_s_per_gpu"] for one in found]
    assert max(rates) / min(rates) > 1.5
    # The file that was written holds the prediction first, and is validated like any other.
    one, out = found[0].rounds[-1], found[0].last_out
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
