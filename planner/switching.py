"""When to go from one row of a dispatch table to the next, and what that costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray

from search_spaces.dispatch import DispatchRow, DispatchTable, PredictedMetrics, Switch
from search_spaces.recipe import Recipe
from search_spaces.transition import transition
from search_spaces.units import SECONDS_PER_HOUR, seconds_from_ms

Floats = NDArray[np.float64]


def with_switching(table: DispatchTable, hysteresis: float, warmup_s: float) -> DispatchTable:
    """The table with thresholds, and the steps and costs of going to a neighbouring row.

    Args:
        table: rows in rising order.
        hysteresis: share of a boundary by which the load must pass it; 0 switches at once.
        warmup_s: from the start of a worker until it serves, as the operator measured it.

    A row is never kept beyond the requests it can decode at once, nor beyond the neighbour's range.
    """
    rows = []
    for index, row in enumerate(table.rows):
        before = table.rows[index - 1] if index else None
        after = table.rows[index + 1] if index + 1 < len(table.rows) else None
        changes: dict[str, object] = {"max_running": slots(row.recipe)}
        if after is not None:
            changes["switch_up_at"] = up_at(row, after, hysteresis)
            changes["to_next"] = switch_between(row, after, table.osl, warmup_s)
        if before is not None:
            changes["switch_down_at"] = down_at(row, before, hysteresis)
            changes["to_previous"] = switch_between(row, before, table.osl, warmup_s)
        rows.append(DispatchRow.model_validate({**dict(row), **changes}))
    return DispatchTable.model_validate({**dict(table), "rows": tuple(rows)})


def slots(recipe: Recipe) -> int:
    """Requests that a deployment decodes at once, memory allowing."""
    group = recipe.serving
    return group.num_workers * group.attention_dp * group.max_running_per_rank


def up_at(row: DispatchRow, after: DispatchRow, hysteresis: float) -> int:
    """Load at which the next row takes over."""
    wanted = max(ceil(row.max_concurrency * (1 + hysteresis)), row.max_concurrency + 1)
    holds = max(slots(row.recipe), row.max_concurrency) + 1
    return min(wanted, holds, after.max_concurrency)


def down_at(row: DispatchRow, before: DispatchRow, hysteresis: float) -> int:
    """Load at which the row before takes over."""
    wanted = min(floor(row.min_concurrency * (1 - hysteresis)), row.min_concurrency - 1)
    return max(wanted, before.min_concurrency)


def switch_between(row: DispatchRow, other: DispatchRow, osl: int, warmup_s: float) -> Switch:
    """Steps and costs of going from a row to a neighbour."""
    found = transition(row.recipe, other.recipe)
    drain_s = latency_s(row.predictions, osl) if found.drained_gpus else 0.0
    warm_s = warmup_s if found.started_gpus else 0.0
    return Switch(
        summary=found.summary,
        steps=found.steps,
        drain_s=drain_s,
        warmup_s=warm_s,
        lost_gpu_s=found.drained_gpus * drain_s + found.started_gpus * warm_s,
    )


def latency_s(predictions: Sequence[PredictedMetrics], osl: int) -> float:
    """Mean end-to-end latency of a request at the highest predicted load; 0 without a prediction."""
    if not predictions:
        return 0.0
    last = predictions[-1]
    return seconds_from_ms(last.mean_ttft_ms + last.mean_tpot_ms * (osl - 1))


def crossing_costs(recipes: Sequence[Recipe], latencies_s: Sequence[float], warmup_s: float) -> Floats:
    """[from, to] share of an hour of the larger deployment that one switch loses."""
    count = len(recipes)
    found = np.zeros((count, count))
    for i in range(count):
        for j in range(count):
            if i != j:
                way = transition(recipes[i], recipes[j])
                lost = way.drained_gpus * latencies_s[i] + way.started_gpus * warmup_s
                found[i, j] = lost / (max(recipes[i].num_gpus, recipes[j].num_gpus) * SECONDS_PER_HOUR)
    return found


def traffic_weights(loads: Sequence[int], traffic: Mapping[int, float]) -> Floats:
    """Weight of each load: the traffic stated nearest to it on a logarithmic axis; alike without any."""
    found = np.zeros(len(loads))
    if not traffic:
        return found + 1.0
    axis = np.log(np.asarray(loads, dtype=float))
    for load, weight in traffic.items():
        found[int(np.abs(axis - np.log(load)).argmin())] += weight
    return found


def boundary_crossings(weights: Floats, per_hour: float) -> Floats:
    """Switches per hour across each boundary: all of them, shared by the traffic on either side."""
    near = np.array([a + b for a, b in pairwise(weights)])
    total = near.sum()
    return per_hour * near / total if total > 0 else near
