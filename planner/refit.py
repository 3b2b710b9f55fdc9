"""Robust Gauss-Newton over simulated points: the full fit, and refits without some of the points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from planner.calibrate import Floats, weighted_errors
from planner.linear_fit import Flags, LinearFit, linearise, robust_cost, row_owners, solved, with_values
from planner.simulation_cache import SimulationCache
from search_spaces.records import MeasuredPoint
from simulator.calibration import Calibration

OnDone = Callable[[int, int], None]


@dataclass(frozen=True)
class Refit:
    """A calibration that some points had no part in."""

    calibration: Calibration
    free: Floats
    cost_before: float
    """Robust cost of the remaining points under the full fit."""
    cost: float
    """The same under this one; both simulated, not linearised, unless no evaluation was allowed."""


RADIUS = 0.5
"""Logit units that a step may take at first."""
SHRINK = 2.0
"""Factor on that after a step that did not lower the simulated cost."""


def refit(
    fit: LinearFit,
    kept: Sequence[bool] | Flags,
    cache: SimulationCache,
    evaluations: int = 3,
    relinearise: int = 0,
    on_done: OnDone | None = None,
) -> Refit:
    """Fit the kept points only.

    The first answer is the full fit less the influence of the other points, both in linear form. Each
    evaluation simulates the kept points at an answer, and the next answer comes from the best so far by
    true errors and old slopes, within a radius that shrinks on failure. The full fit itself, which has
    seen the other points, is never the result.

    Args:
        fit: the full fit in linear form.
        kept: whether each point counts.
        cache: runs and remembers simulations.
        evaluations: simulations of the kept points per expansion; 0 trusts the linear form.
        relinearise: how often the slopes themselves are simulated anew; each costs a full derivative.
        on_done: called with new simulations done and in all.
    """
    flags = np.asarray(kept, dtype=bool)
    points = [p for p, flag in zip(fit.points, flags, strict=True) if flag]
    rows = fit.rows_of(flags)
    mine = LinearFit(
        fit.calibration, fit.params, points, fit.free, fit.errors[rows], fit.slopes[rows], row_owners(points)
    )
    before = robust_cost(mine.errors, mine.free, mine.prior)
    first = fit.free + solved(fit, rows) - solved(fit, np.ones(len(fit.errors), dtype=bool))
    free, cost = _descend(mine, first, cache, evaluations, on_done)
    for _ in range(relinearise):
        there = with_values(fit.calibration, fit.params, free)
        moved = linearise(points, there, cache, on_done, fit.params)
        step = solved(moved, np.ones(len(moved.errors), dtype=bool))
        again, cheaper = _descend(moved, step, cache, evaluations, on_done)
        if cheaper < cost:
            free, cost = again, cheaper
    return Refit(with_values(fit.calibration, fit.params, free), free, before, cost)


def _descend(
    fit: LinearFit, first: Floats, cache: SimulationCache, evaluations: int, on_done: OnDone | None
) -> tuple[Floats, float]:
    """Best parameters that few true evaluations reach from a first answer, and their cost."""
    rows = np.ones(len(fit.errors), dtype=bool)
    if evaluations == 0:
        return first, robust_cost(fit.errors + fit.slopes @ (first - fit.free), first, fit.prior)
    best, best_errors, best_cost, radius, free = first, fit.errors, float("inf"), RADIUS, first
    for _ in range(evaluations):
        calibration = with_values(fit.calibration, fit.params, free)
        errors = weighted_errors(fit.points, cache.metrics(fit.points, calibration, on_done))
        cost = robust_cost(errors, free, fit.prior)
        if cost < best_cost:
            best, best_errors, best_cost = free, errors, cost
        else:
            radius /= SHRINK
        free = solved(fit, rows, best, best_errors, radius)
    return best, best_cost


def fitted(
    points: Sequence[MeasuredPoint],
    start: Calibration,
    cache: SimulationCache,
    rounds: int = 6,
    evaluations: int = 3,
    on_done: OnDone | None = None,
    on_round: Callable[[int, float, float], None] | None = None,
) -> Refit:
    """Fit all points, a derivative per round, until a round no longer lowers the simulated cost.

    Args:
        points: usable points.
        start: where to begin; the priors pull in any case.
        cache: runs and remembers simulations, so that an interrupted fit goes on where it was.
        rounds: derivatives at most.
        evaluations: simulations of all points per round.
        on_done: called with new simulations done and in all.
        on_round: called with the round, the cost before it and after.
    """
    here, begun = start, float("nan")
    for count in range(1, rounds + 1):
        fit = linearise(points, here, cache, on_done)
        rows = np.ones(len(fit.errors), dtype=bool)
        before = robust_cost(fit.errors, fit.free, fit.prior)
        begun = before if count == 1 else begun
        free, cost = _descend(fit, solved(fit, rows, within=RADIUS), cache, evaluations, on_done)
        if on_round is not None:
            on_round(count, before, min(cost, before))
        if cost >= before:
            break
        here = with_values(here, fit.params, free)
    return Refit(here, fit.free if cost >= before else free, begun, min(cost, before))
