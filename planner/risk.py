"""What the uncertainty of predictions does to a choice: lower bounds, and leads that are within noise."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

from planner.evaluate import Bench, Outcome
from planner.plan_types import PlanRequest
from planner.screen import objective_value
from search_spaces.recipe import Recipe
from simulator.intervals import factors

OBJECTIVE_NOISE = {
    "throughput": ("total_tokens_per_s_per_gpu", 1),
    "balanced": ("total_tokens_per_s_per_gpu", 2),
    "interactivity": ("median_tpot_ms", 1),
    "ttft": ("median_ttft_ms", 1),
}
"""Objective to the metric whose noise it carries, and its power in it (see `objective_value`)."""
HIGHER_IS_BETTER = {"total_tokens_per_s_per_gpu", "output_tokens_per_s_per_gpu", "tokens_per_s_per_user"}


class Lead(NamedTuple):
    """How far a choice is ahead of the next best recipe at its load."""

    runner_up: str
    fraction: float
    """Objective over the runner-up's, minus one."""
    within_noise: bool
    """Whether two recipes of one lane differ by more than this in their errors one time in five."""


def judged(request: PlanRequest, bench: Bench, outcome: Outcome, recipe: Recipe, load: int) -> Outcome:
    """The outcome that recipes are compared and held to the SLO by.

    With `risk="lower"` each banded metric is at the worse end of its 80 % interval, which favours recipes
    whose kind is predicted well.
    """
    if request.risk == "expected" or not outcome.metrics:
        return outcome
    reach = factors(bench.calibration.error_bands, recipe, load, bench.stack.version)
    worse = {
        name: outcome.metrics[name] / factor if name in HIGHER_IS_BETTER else outcome.metrics[name] * factor
        for name, factor in reach.items()
        if name in outcome.metrics
    }
    return replace(outcome, metrics={**outcome.metrics, **worse})


def score(request: PlanRequest, bench: Bench, outcome: Outcome, recipe: Recipe, load: int) -> float:
    """Objective of a recipe at a load, as the request's attitude to risk sees it; higher is better."""
    return objective_value(judged(request, bench, outcome, recipe, load), recipe, request.objective)


def lead(request: PlanRequest, bench: Bench, best: float, second: float, runner_up: str) -> Lead:
    """How far objective `best` is ahead of `second`, and whether that is within noise.

    Noise is the calibration's pair band: how much the errors of two recipes of one lane at like loads
    differ. What two recipes have in common, such as a platform that is slower than its kind, cancels.
    """
    metric, power = OBJECTIVE_NOISE[request.objective]
    bands = bench.calibration.error_bands
    noise = bands.pairs[metric].half_width if bands and metric in bands.pairs else 0.0
    ahead = math.log(best / second) if best > 0 and second > 0 else math.inf
    return Lead(runner_up, math.expm1(min(ahead, 50.0)), ahead < power * noise)
