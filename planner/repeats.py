"""How far runs of one recipe under one load differ: the floor under every prediction's error."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from planner.held_out import HeldOut

SAME = 1e-3
"""Values this close are one run that two sources published."""


class Repeats(NamedTuple):
    """Runs of the repeated recipes of one lane."""

    lane: str
    metric: str
    recipes: int
    """Pairs of recipe and load with two runs or more."""
    runs: int
    floor: float
    """Median of the absolute errors if every prediction were the median of the recipe's own runs."""
    widest: float
    """Largest over smallest value of one recipe and load."""


def repeats(points: Sequence[HeldOut], metrics: Sequence[str]) -> list[Repeats]:
    """Spread of repeated runs by lane and metric, of the lanes that have any."""
    runs: defaultdict[tuple[str, str], defaultdict[tuple[object, ...], list[float]]]
    runs = defaultdict(lambda: defaultdict(list))
    for point in points:
        setting = point.deployment, point.workload, point.prompts, point.concurrency, point.stack
        for metric in metrics:
            value = point.measured.get(metric)
            known = runs[point.part, metric][setting]
            if value and not any(abs(value / other - 1) < SAME for other in known):
                known.append(value)
    found = []
    for (lane, metric), settings in sorted(runs.items()):
        repeated = [values for values in settings.values() if len(values) > 1]
        if repeated:
            errors = [abs(float(np.median(values)) / value - 1) for values in repeated for value in values]
            widest = max(max(values) / min(values) for values in repeated)
            floor = float(np.median(errors))
            found.append(Repeats(lane, metric, len(repeated), len(errors), floor, widest))
    return found
