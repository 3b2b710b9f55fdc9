"""How well one deployment serves at rising arrival rates, by simulation."""

from __future__ import annotations

import numpy as np

from planner.evaluate import Bench
from planner.open_loop import Served, Stream, serve
from planner.service_goal import Goal
from planner.sizing_screen import setting_at
from search_spaces.base import Noun
from search_spaces.recipe import Recipe
from search_spaces.units import MS_PER_S
from simulator.fluid import estimate

SHARES = (0.1, 0.3, 0.5, 0.65, 0.8, 0.9, 1.0, 1.15)
"""Of the fluid model's rate at the recipe's own load; arrival rates that are simulated."""


class CapacityCurve(Noun):
    """A recipe's service over arrivals per second of one deployment."""

    recipe: Recipe
    rates: tuple[float, ...]
    goodput: tuple[float, ...]
    """Share of requests that keep the goal's milliseconds; 0 where the load is not stable."""
    good_rate: float
    """Largest simulated rate up to which every promise is kept; 0 where none is."""
    stable_rate: float
    """Largest simulated rate without a growing backlog."""
    e2e_s: float
    """Mean duration of a request at `good_rate`."""

    def share_at(self, rate: float) -> float:
        """Share of good requests at a rate, interpolated; 0 above the last stable rate."""
        if rate > self.stable_rate:
            return 0.0
        return float(np.interp(rate, self.rates, self.goodput))


def capacity_curve(task: tuple[Bench, Recipe, int, Goal]) -> CapacityCurve:
    """Simulate one deployment at rising rates until its backlog grows.

    Args:
        task: what is fixed, the recipe, its own concurrency and the goal.
    """
    bench, recipe, concurrency, goal = task
    guess = estimate(setting_at(bench, recipe, concurrency))
    e2e_s = guess.ttft_s + guess.tpot_s * bench.workload.mean_osl
    stream = Stream(setting_at(bench, recipe), goal, e2e_s)
    rates, shares, good, stable, kept = list[float](), list[float](), 0.0, 0.0, True
    for share in SHARES:
        found = serve(stream, share * guess.requests_per_s)
        if not isinstance(found, Served):
            break
        service = found.service
        rates.append(found.rate)
        shares.append(service.goodput if service.is_stable else 0.0)
        kept = kept and service.is_kept
        if kept:
            good, e2e_s = found.rate, service.mean_e2e_ms / MS_PER_S
        if not service.is_stable:
            break
        stable = found.rate
    return CapacityCurve(
        recipe=recipe,
        rates=tuple(rates) or (guess.requests_per_s,),
        goodput=tuple(shares) or (0.0,),
        good_rate=good,
        stable_rate=stable,
        e2e_s=e2e_s,
    )
