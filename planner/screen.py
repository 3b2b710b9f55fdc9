"""Rules and the fluid model: what is worth simulating at one load, out of the whole space."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, floor, log10
from typing import Any, NamedTuple

import numpy as np
from pydantic import ValidationError

from planner.corrected import Layouts
from planner.evaluate import Bench, Outcome, known, workload_for
from planner.role_sides import Side, Sides
from search_spaces.laws import pair_violations, violations
from search_spaces.recipe import Mtp, Recipe
from search_spaces.space import SearchSpace, plan_width
from search_spaces.space_points import gpus, named, recipe_at, topologies
from search_spaces.units import MS_PER_S
from search_spaces.workload import Slo
from simulator.fluid import FluidEstimate, estimate_pair, load_of, most_running
from simulator.setting import Relief
from simulator.world import stacked


@dataclass(frozen=True)
class Candidate:
    """A recipe, where it came from, its point (empty outside every space) and the space of the point."""

    recipe: Recipe
    origin: str
    point: dict[str, Any] = field(default_factory=dict)
    space: str = ""


@dataclass
class Tally:
    """How many recipes each stage saw."""

    considered: int = 0
    pruned: Counter[str] = field(default_factory=Counter)
    screened: int = 0

    def add(self, other: Tally) -> None:
        """Accumulate another process's counts."""
        self.considered += other.considered
        self.pruned.update(other.pruned)
        self.screened += other.screened

    def as_dict(self) -> dict[str, Any]:
        """Plain form for files."""
        return {
            "considered": self.considered,
            "pruned_by_rule": dict(sorted(self.pruned.items())),
            "screened_by_fluid_model": self.screened,
        }


class Screening(NamedTuple):
    """What screening one load leaves."""

    kept: list[Candidate]
    """The best by objective, then the front."""
    tally: Tally
    layouts: Layouts
    """All that can run, whichever are kept."""
    rows: list[int]
    """Of `kept` among the layouts."""


def objective_value(outcome: Outcome, recipe: Recipe, objective: str) -> float:
    """Scalar that decides between recipes at one concurrency; higher is better.

    `throughput` is tokens/s per GPU, `interactivity` tokens/s per user, `ttft` the inverse of the median
    TTFT in seconds, `balanced` the Nash product of the first two with the user's rate counted end to end:
    at fixed concurrency that rate is proportional to the deployment's total throughput, so the product is
    tokens/s per GPU times total tokens/s.
    """
    return objective_of(outcome.metrics, recipe.num_gpus, objective)


def objective_of(metrics: Mapping[str, float], num_gpus: int, objective: str) -> float:
    """The same of metrics; 0 where there are none."""
    throughput = metrics.get("total_tokens_per_s_per_gpu", 0.0)
    if objective == "throughput":
        return throughput
    if objective == "interactivity":
        return metrics.get("tokens_per_s_per_user", 0.0)
    if objective == "ttft":
        return MS_PER_S / metrics["median_ttft_ms"] if metrics.get("median_ttft_ms") else 0.0
    return throughput**2 * num_gpus


def meets(slo: Slo, metrics: dict[str, float]) -> bool:
    """Whether all stated limits are kept."""
    return not slo_misses(slo, metrics)


def slo_misses(slo: Slo, metrics: dict[str, float]) -> dict[str, float]:
    """Broken limits and by which factor."""
    found = {}
    for name, metric in (
        ("max_median_ttft_ms", "median_ttft_ms"),
        ("max_median_tpot_ms", "median_tpot_ms"),
        ("max_p99_ttft_ms", "p99_ttft_ms"),
        ("max_p99_tpot_ms", "p99_tpot_ms"),
    ):
        limit = getattr(slo, name)
        if limit is not None and metrics[metric] > limit:
            found[name] = metrics[metric] / limit
    least = slo.min_tokens_per_s_per_user
    if least is not None and metrics["tokens_per_s_per_user"] < least:
        found["min_tokens_per_s_per_user"] = least / metrics["tokens_per_s_per_user"]
    return found


def relaxed(slo: Slo, broken: Mapping[str, float]) -> str:
    """Broken limits as they would have to be, rounded to the side on which they are kept."""
    found = []
    for name, factor in broken.items():
        limit = getattr(slo, name)
        needed = limit / factor if name.startswith("min_") else limit * factor
        step = 10.0 ** (floor(log10(needed)) - 2)
        kept = floor(needed / step) if name.startswith("min_") else ceil(needed / step)
        found.append(f"{name}={kept * step:.10g}")
    return ", ".join(found)


def usable(outcome: Outcome) -> bool:
    """Whether a recipe ran without what would break it on the engine."""
    return not outcome.infeasible and not any("window pool exceeded" in w for w in outcome.warnings)


def lawful(bench: Bench, recipe: Recipe, concurrency: int) -> str | None:
    """The first hard law a recipe breaks, or None."""
    workload = workload_for(bench, recipe, concurrency)
    for violation in violations(recipe, bench.model, bench.hardware, workload, bench.stack.version):
        if violation.severity == "hard":
            return violation.rule
    return None


def lawful_candidate(
    bench: Bench, space: SearchSpace, point: Mapping[str, Any], concurrency: int, num_gpus: int, tally: Tally
) -> Candidate | None:
    """The valid, named recipe of a point, or None with the rule counted."""
    found = _candidate(bench, space, point, concurrency, num_gpus, tally)
    return found and replace(found, recipe=named(found.recipe))


def _candidate(
    bench: Bench, space: SearchSpace, point: Mapping[str, Any], concurrency: int, num_gpus: int, tally: Tally
) -> Candidate | None:
    tally.considered += 1
    if gpus(space, point) > num_gpus:
        tally.pruned["num-gpus"] += 1
        return None
    try:
        recipe = recipe_at(space, point, bench.model, bench.hardware, bench.workload.at(concurrency))
    except ValidationError:
        tally.pruned["layout"] += 1
        return None
    broken = lawful(bench, recipe, concurrency)
    if broken is not None:
        tally.pruned[broken] += 1
        return None
    return Candidate(recipe, "search", dict(point), space.name)


def screen(
    bench: Bench,
    spaces: Sequence[SearchSpace],
    num_gpus: int,
    slo: Slo,
    objective: str,
    concurrency: int,
    keep: int,
) -> Screening:
    """Fluid estimates of every layout; the best by objective and the Pareto front are kept, half each.

    A longer front is kept at even distances, both ends included: its shape is what the search starts from.
    """
    bench, tally = known(bench), Tally()
    values: list[float] = []
    rates: list[tuple[float, float]] = []
    features: list[tuple[float, ...]] = []
    where: list[tuple[int, int]] = []
    for number, space in enumerate(spaces):
        points = topologies(space, num_gpus)
        for index, guess in _estimates(bench, space, points, concurrency, tally):
            metrics = _as_metrics(guess)
            value = objective_of(metrics, gpus(space, points[index]), objective)
            values.append(value / (1 + 10 * sum(slo_misses(slo, metrics).values())))
            rates.append((guess.total_tokens_per_s_per_gpu, guess.tokens_per_s_per_user))
            features.append((float(number), *_features(space, points[index], guess, concurrency)))
            where.append((number, index))
    best = sorted(range(len(values)), key=lambda row: -values[row])
    front = _front(best, rates)
    if len(front) > keep // 2:
        last = len(front) - 1
        front = [front[round(i * last / max(keep // 2 - 1, 1))] for i in range(keep // 2)]
    rows = list(dict.fromkeys((*best[: keep - len(front)], *front)))
    kept = [layout_at(bench, spaces[n], num_gpus, i, concurrency) for n, i in (where[row] for row in rows)]
    layouts = Layouts(
        np.log(np.array(rates).reshape(-1, 2)),
        np.log(np.array(values)),
        np.array(features),
        np.array(where, dtype=np.int64),
    )
    return Screening(kept, tally, layouts, rows)


def layout_at(bench: Bench, space: SearchSpace, num_gpus: int, index: int, concurrency: int) -> Candidate:
    """The named recipe of a layout, by its index among the topologies of a space."""
    point = dict(topologies(space, num_gpus)[index])
    recipe = recipe_at(space, point, bench.model, bench.hardware, bench.workload.at(concurrency))
    return Candidate(named(recipe), "search", point, space.name)


def _features(
    space: SearchSpace, point: Mapping[str, Any], guess: FluidEstimate, concurrency: int
) -> tuple[float, ...]:
    """What layouts have in common that err alike in the fluid model: shapes, drafts, and who waits."""
    first, last = space.roles[0], space.roles[-1]
    widths = [plan_width(point[f"{role}.plan"]) for role in (first, last)]
    counts = [int(point[f"{role}.workers"]) for role in (first, last)]
    served = guess.in_service / concurrency
    return (*np.log2(widths), *np.log2(counts), float(point["mtp_steps"]), float(np.log2(served)))


def _estimates(
    bench: Bench, space: SearchSpace, points: Sequence[Mapping[str, Any]], concurrency: int, tally: Tally
) -> Iterator[tuple[int, FluidEstimate]]:
    """Index and estimate of every layout that keeps the laws and has memory."""
    sides = Sides(bench, space, concurrency)
    lawful_points: list[tuple[int, list[Side]]] = []
    for index, point in enumerate(points):
        tally.considered += 1
        found = [sides.side(role, point) for role in space.roles]
        rule = _removed(bench, sides, point, found)
        if rule is None:
            lawful_points.append((index, found))
        else:
            tally.pruned[rule] += 1
    if not lawful_points:
        return
    classes = stacked(sides.parts, Relief())
    loads = {
        steps: load_of(sides.setting(steps), Mtp(num_steps=steps) if steps else None)
        for steps in space.mtp_steps
    }
    caps: dict[tuple[int, int], float] = {}
    for index, found in lawful_points:
        tally.screened += 1
        point = points[index]
        steps, d = point["mtp_steps"], found[-1].index
        if (d, steps) not in caps:
            caps[d, steps] = most_running(classes, d, loads[steps])
        yield (
            index,
            estimate_pair(classes, found[0].index, d, caps[d, steps], loads[steps], gpus(space, point)),
        )


def _removed(bench: Bench, sides: Sides, point: Mapping[str, Any], found: Sequence[Side]) -> str | None:
    """The first rule that removes a layout: a law of a role, of both, or memory."""
    if any(side.group is None for side in found):
        return "layout"
    for side in found:
        if side.broken:
            return side.broken
    if len(found) == 2:
        prefill, decode = found[0].group, found[1].group
        assert prefill is not None and decode is not None
        for violation in pair_violations(prefill, decode, sides.transfer_backend(point), bench.stack.version):
            if violation.severity == "hard":
                return violation.rule
    return next((side.unfit for side in found if side.unfit), None)


def _as_metrics(guess: FluidEstimate) -> dict[str, float]:
    """Steady-state values stand for every percentile."""
    return {
        "median_ttft_ms": guess.ttft_s * MS_PER_S,
        "median_tpot_ms": guess.tpot_s * MS_PER_S,
        "p99_ttft_ms": guess.ttft_s * MS_PER_S,
        "p99_tpot_ms": guess.tpot_s * MS_PER_S,
        "tokens_per_s_per_user": guess.tokens_per_s_per_user,
        "total_tokens_per_s_per_gpu": guess.total_tokens_per_s_per_gpu,
    }


def _front(rows: Sequence[int], rates: Sequence[tuple[float, float]]) -> list[int]:
    """Rows that no other row beats in both throughput and interactivity."""
    found, best = [], -1.0
    for row in sorted(rows, key=lambda r: (-rates[r][0], -rates[r][1])):
        if rates[row][1] > best:
            found.append(row)
            best = rates[row][1]
    return found
