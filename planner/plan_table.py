"""From the recipe chosen at each load to the dispatch table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.dispatch import Segment, merged, regret_by_count, regrets, segment, segment_for_traffic
from planner.evaluate import Bench, Outcome
from planner.plan_types import PlanRequest
from planner.risk import Lead, judged
from planner.screen import Candidate, meets, objective_value, usable
from planner.search import Search
from planner.switching import (
    boundary_crossings,
    crossing_costs,
    latency_s,
    traffic_weights,
    with_switching,
)
from search_spaces.dispatch import DispatchRow, DispatchTable, PredictedMetrics
from search_spaces.recipe import Recipe
from simulator.intervals import intervals

NEIGHBOURS = 4
"""A recipe found for one load is also tried at this many loads on either side."""


@dataclass
class Chosen:
    """What serves a load best, and the public recipe there."""

    candidate: Candidate
    outcome: Outcome
    public: tuple[Recipe, Outcome] | None
    lead: Lead | None = None


def predicted(
    load: int, outcome: Outcome, recipe: Recipe, bench: Bench, ahead: Lead | None = None
) -> PredictedMetrics:
    """The record form of an outcome, with its 80 % intervals and its lead over the next recipe."""
    names = ("total_tokens_per_s_per_gpu", "output_tokens_per_s_per_gpu", "tokens_per_s_per_user")
    times = ("median_tpot_ms", "mean_tpot_ms", "median_ttft_ms", "mean_ttft_ms")
    values = {name: outcome.metrics[name] for name in (*names, *times)}
    ends = {
        f"{name}_{end}": getattr(interval, end)
        for name, interval in intervals(values, recipe, load, bench.stack, bench.calibration).items()
        for end in ("low", "high")
    }
    if ahead is not None:
        ends |= {"runner_up": ahead.runner_up, "lead": ahead.fraction, "tie": ahead.within_noise}
    return PredictedMetrics.model_validate({"concurrency": load, "limit": outcome.limit, **values, **ends})


def _scores(
    request: PlanRequest, search: Search, chosen: dict[int, Chosen]
) -> tuple[NDArray[np.float64], list[Candidate], dict[tuple[int, int], Outcome]]:
    """Objective of every chosen recipe at its own load and its neighbours'."""
    loads = list(chosen)
    recipes = list({c.candidate.recipe.digest: c.candidate for c in chosen.values()}.values())
    home = {
        c.candidate.recipe.digest: [
            i for i, m in enumerate(loads) if chosen[m].candidate.recipe.digest == c.candidate.recipe.digest
        ]
        for c in chosen.values()
    }
    scores = np.full((len(recipes), len(loads)), np.nan)
    outcomes: dict[tuple[int, int], Outcome] = {}
    tasks = []
    for row, candidate in enumerate(recipes):
        for column, load in enumerate(loads):
            if candidate.recipe.digest == chosen[load].candidate.recipe.digest:
                outcomes[row, column] = chosen[load].outcome
            elif min(abs(column - i) for i in home[candidate.recipe.digest]) <= NEIGHBOURS:
                tasks.append((row, column, candidate, load))
    results = search.evaluator.map([(c.recipe, load, True) for _, _, c, load in tasks])
    for (row, column, _, _), (_, _, outcome) in zip(tasks, results, strict=True):
        outcomes[row, column] = outcome
    for (row, column), outcome in outcomes.items():
        seen = judged(request, search.bench, outcome, recipes[row].recipe, loads[column])
        if usable(outcome) and meets(request.slo, seen.metrics):
            scores[row, column] = objective_value(seen, recipes[row].recipe, request.objective)
    for column, load in enumerate(loads):
        own = _row_of(recipes, chosen[load])
        # The choice at a load was made on full runs and both axes; short runs of others do not overrule it.
        scores[:, column] = np.minimum(scores[:, column], scores[own, column])
    return scores, recipes, outcomes


def _row_of(recipes: Sequence[Candidate], pick: Chosen) -> int:
    return [c.recipe.digest for c in recipes].index(pick.candidate.recipe.digest)


def plan_table(
    request: PlanRequest, search: Search, chosen: dict[int, Chosen]
) -> tuple[DispatchTable, list[float]]:
    """The dispatch table of the chosen recipes, and the worst regret with one, two, … rows."""
    loads = list(chosen)
    scores, recipes, outcomes = _scores(request, search, chosen)
    lost = regrets(scores)
    weights = traffic_weights(loads, request.traffic)
    if request.traffic or request.switches_per_hour:
        latencies = _latencies(request, loads, outcomes, [c.recipe for c in recipes], search.bench)
        costs = crossing_costs([c.recipe for c in recipes], latencies, request.warmup_s)
        crossings = boundary_crossings(weights, request.switches_per_hour)
        parts = segment_for_traffic(lost, request.max_recipes or len(loads), weights, costs, crossings)
    elif request.max_recipes is None:
        own = [_row_of(recipes, pick) for pick in chosen.values()]
        parts = merged([Segment(i, i, row, float(lost[row, i])) for i, row in enumerate(own)])
    else:
        parts = segment(lost, request.max_recipes)
    rows = []
    for part in parts:
        low = 1 if part.first == 0 else loads[part.first - 1] + 1
        rows.append(
            DispatchRow(
                min_concurrency=low,
                max_concurrency=loads[part.last],
                recipe=recipes[part.recipe].recipe,
                predictions=tuple(
                    predicted(
                        loads[i],
                        outcomes[part.recipe, i],
                        recipes[part.recipe].recipe,
                        search.bench,
                        chosen[loads[i]].lead if _row_of(recipes, chosen[loads[i]]) == part.recipe else None,
                    )
                    for i in range(part.first, part.last + 1)
                ),
                regret=part.regret,
            )
        )
    bench = search.bench
    table = DispatchTable(
        model=bench.model.name,
        hardware=bench.hardware.name,
        stack=bench.stack.name,
        isl=request.isl,
        osl=request.osl,
        random_range_ratio=request.random_range_ratio,
        slo=request.slo,
        num_gpus=request.num_gpus,
        rows=tuple(rows),
        max_regret=max(p.regret for p in parts),
        mean_regret=_mean_regret(lost, parts, weights),
        traffic=request.traffic,
        provenance={
            "calibration": bench.calibration.name,
            "calibration_data": bench.calibration.data,
            "objective": request.objective,
            "risk": request.risk,
            "seed": str(request.seed),
            "hysteresis": str(request.hysteresis),
            "warmup_s": f"{request.warmup_s} (given, not predicted)",
        },
    )
    return with_switching(table, request.hysteresis, request.warmup_s), regret_by_count(lost)


def _mean_regret(lost: NDArray[np.float64], parts: Sequence[Segment], weights: NDArray[np.float64]) -> float:
    own = [lost[p.recipe, i] for p in parts for i in range(p.first, p.last + 1)]
    return float(np.average(own, weights=weights))


def _latencies(
    request: PlanRequest,
    loads: Sequence[int],
    outcomes: dict[tuple[int, int], Outcome],
    recipes: Sequence[Recipe],
    bench: Bench,
) -> list[float]:
    """Mean latency of a request at the highest load that each recipe was simulated at, seconds."""
    found = []
    for row, recipe in enumerate(recipes):
        able = [(i, o) for (r, i), o in sorted(outcomes.items()) if r == row and not o.infeasible]
        found.append(latency_s([predicted(loads[i], o, recipe, bench) for i, o in able], request.osl))
    return found
