"""Choose few recipes for many loads: an exact minimum-regret segmentation of the concurrency axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
UNSERVED = 1e9
"""Loss of a load that its recipe cannot serve: more than all else together."""


@dataclass(frozen=True)
class Segment:
    """Loads `first`..`last` (indices into the concurrency list) served by one recipe."""

    first: int
    last: int
    recipe: int
    regret: float


def regrets(scores: Floats) -> Floats:
    """Share of the best score that each recipe loses at each load; NaN scores lose everything."""
    best = np.nanmax(np.where(np.isnan(scores), -np.inf, scores), axis=0)
    found: Floats = np.where(np.isnan(scores), 1.0, 1.0 - scores / best)
    return np.clip(found, 0.0, 1.0)


def segment(regret: Floats, most: int) -> list[Segment]:
    """At most `most` contiguous segments with the least worst regret, ties broken by the mean.

    Args:
        regret: [recipe, load] shares lost.
        most: segments allowed.

    Dynamic programming over the last boundary: exact, since a segment's cost depends on its ends alone.
    """
    num_recipes, num_loads = regret.shape
    if num_recipes == 0:
        raise ValueError("regret must hold at least one recipe")
    cost = np.full((num_loads, num_loads, 2), np.inf)
    choice = np.zeros((num_loads, num_loads), dtype=int)
    for first in range(num_loads):
        worst = regret[:, first].copy()
        total = regret[:, first].copy()
        for last in range(first, num_loads):
            if last > first:
                worst = np.maximum(worst, regret[:, last])
                total = total + regret[:, last]
            order = np.lexsort((total, worst))
            choice[first, last] = order[0]
            cost[first, last] = worst[order[0]], total[order[0]]
    segments = min(most, num_loads)
    table: list[list[tuple[float, float, int]]] = [
        [(cost[0, j, 0], cost[0, j, 1], 0) for j in range(num_loads)]
    ]
    for used in range(1, segments):
        row = []
        for last in range(num_loads):
            options = [(*table[used - 1][last][:2], -1)]
            for first in range(1, last + 1):
                before = table[used - 1][first - 1]
                options.append(
                    (max(before[0], cost[first, last, 0]), before[1] + cost[first, last, 1], first)
                )
            row.append(min(options))
        table.append(row)
    return _unwind(table, choice, regret)


def segment_for_traffic(
    regret: Floats, most: int, weights: Floats, crossing_cost: Floats, crossings: Floats
) -> list[Segment]:
    """At most `most` contiguous segments with the least expected loss; exact.

    Args:
        regret: [recipe, load] shares lost.
        most: segments allowed.
        weights: share of the time at each load.
        crossing_cost: [from, to] share of an hour lost by one switch between two recipes.
        crossings: switches per hour across the boundary between each load and the next.

    The loss is the weighted mean regret plus what the switches at the boundaries cost. A recipe that cannot
    run at a load loses everything there, whatever the weight.

    Dynamic programming over the load, the recipe there and the segments used so far.
    """
    num_recipes, num_loads = regret.shape
    if num_recipes == 0:
        raise ValueError("regret must hold at least one recipe")
    share = weights / weights.sum()
    own = np.where(regret >= 1.0, UNSERVED, share * regret)
    used = min(most, num_loads)
    cost = np.full((used, num_recipes), np.inf)
    cost[0] = own[:, 0]
    came = np.zeros((num_loads, used, num_recipes), dtype=int)
    for load in range(1, num_loads):
        later = np.full_like(cost, np.inf)
        for count in range(used):
            came[load, count] = np.arange(num_recipes)
            later[count] = cost[count]
            if count:
                switching = cost[count - 1][:, None] + crossings[load - 1] * crossing_cost
                np.fill_diagonal(switching, np.inf)
                best = switching.argmin(axis=0)
                switched = switching[best, np.arange(num_recipes)]
                better = switched < later[count]
                later[count] = np.where(better, switched, later[count])
                came[load, count] = np.where(better, best, came[load, count])
            later[count] += own[:, load]
        cost = later
    count, recipe = (int(i) for i in np.unravel_index(int(cost.argmin()), cost.shape))
    chosen = [recipe]
    for load in range(num_loads - 1, 0, -1):
        before = int(came[load, count, recipe])
        if before != recipe:
            count -= 1
        recipe = before
        chosen.append(recipe)
    parts = [Segment(i, i, r, float(regret[r, i])) for i, r in enumerate(reversed(chosen))]
    return merged(parts)


def _unwind(
    table: list[list[tuple[float, float, int]]], choice: NDArray[np.int_], regret: Floats
) -> list[Segment]:
    found: list[Segment] = []
    used, last = len(table) - 1, regret.shape[1] - 1
    while last >= 0:
        first = table[used][last][2]
        if first == -1:
            used -= 1
            continue
        recipe = int(choice[first, last])
        found.append(Segment(first, last, recipe, float(regret[recipe, first : last + 1].max())))
        used, last = max(used - 1, 0), first - 1
    return merged(found[::-1])


def merged(parts: Sequence[Segment]) -> list[Segment]:
    """Neighbouring segments of one recipe joined; `parts` ascend."""
    joined: list[Segment] = []
    for part in parts:
        if joined and joined[-1].recipe == part.recipe:
            before = joined.pop()
            part = Segment(before.first, part.last, part.recipe, max(before.regret, part.regret))
        joined.append(part)
    return joined


def regret_by_count(regret: Floats) -> list[float]:
    """Worst regret with one, two, … recipes."""
    return [max(part.regret for part in segment(regret, count)) for count in range(1, regret.shape[1] + 1)]
