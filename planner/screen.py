"""Rules and the fluid model: what is worth simulating at one load, out of the whole space."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from planner.evaluate import Bench, Outcome, workload_for
from search_spaces.errors import Infeasible
from search_spaces.laws import violations
from search_spaces.recipe import Recipe
from search_spaces.space import SearchSpace
from search_spaces.space_points import gpus, named, recipe_at, topologies
from search_spaces.units import MS_PER_S
from search_spaces.workload import Slo
from simulator.fluid import FluidEstimate, estimate
from simulator.world import Setting


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


def objective_value(outcome: Outcome, recipe: Recipe, objective: str) -> float:
    """Scalar that decides between recipes at one concurrency; higher is better.

    `throughput` is tokens/s per GPU, `interactivity` tokens/s per user, `balanced` their Nash product
    with the user's rate counted end to end: at fixed concurrency that rate is proportional to the
    deployment's total throughput, so the product is tokens/s per GPU times total tokens/s.
    """
    if objective == "throughput":
        return outcome.throughput
    if objective == "interactivity":
        return outcome.interactivity
    return outcome.throughput**2 * recipe.num_gpus


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


def usable(outcome: Outcome) -> bool:
    """Whether a recipe ran without what would break it on the engine."""
    return not outcome.infeasible and not any("window pool exceeded" in w for w in outcome.warnings)


def lawful(bench: Bench, recipe: Recipe, concurrency: int) -> str | None:
    """The first hard law a recipe breaks, or None."""
    workload = workload_for(bench, recipe, concurrency, short=True)
    for violation in violations(recipe, bench.model, bench.hardware, workload, bench.stack.version):
        if violation.severity == "hard":
            return violation.rule
    return None


def lawful_candidate(
    bench: Bench, space: SearchSpace, point: dict[str, Any], concurrency: int, num_gpus: int, tally: Tally
) -> Candidate | None:
    """The valid, named recipe of a point, or None with the rule counted."""
    found = _candidate(bench, space, point, concurrency, num_gpus, tally)
    return found and replace(found, recipe=named(found.recipe))


def _candidate(
    bench: Bench, space: SearchSpace, point: dict[str, Any], concurrency: int, num_gpus: int, tally: Tally
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
    return Candidate(recipe, "search", point, space.name)


def screen(
    bench: Bench,
    spaces: Sequence[SearchSpace],
    num_gpus: int,
    slo: Slo,
    objective: str,
    concurrency: int,
    keep: int,
) -> tuple[list[Candidate], Tally]:
    """Fluid estimates of every layout; the best by objective and the Pareto front are kept."""
    tally = Tally()
    ranked: list[tuple[float, float, float, Candidate]] = []
    for space in spaces:
        for point in topologies(space, num_gpus):
            found = _candidate(bench, space, point, concurrency, num_gpus, tally)
            if found is None:
                continue
            workload = workload_for(bench, found.recipe, concurrency, short=True)
            try:
                guess = estimate(
                    Setting(
                        found.recipe,
                        workload,
                        bench.model,
                        bench.hardware,
                        bench.stack,
                        bench.calibration,
                        bench.seed,
                    )
                )
            except Infeasible as error:
                tally.pruned[error.rule] += 1
                continue
            tally.screened += 1
            metrics = _as_metrics(guess)
            value = objective_value(Outcome(metrics), found.recipe, objective)
            value /= 1 + 10 * sum(slo_misses(slo, metrics).values())
            ranked.append((value, guess.total_tokens_per_s_per_gpu, guess.tokens_per_s_per_user, found))
    ranked.sort(key=lambda row: -row[0])
    front = sorted(_front(ranked), key=lambda row: -row[0])[: keep // 2]
    best = ranked[: keep - len(front)]
    kept = [replace(row[3], recipe=named(row[3].recipe)) for row in (*best, *front)]
    return list({candidate.recipe.digest: candidate for candidate in kept}.values()), tally


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


def _front(
    rows: Sequence[tuple[float, float, float, Candidate]],
) -> list[tuple[float, float, float, Candidate]]:
    """Rows that no other row beats in both throughput and interactivity."""
    found, best = [], -1.0
    for row in sorted(rows, key=lambda r: (-r[1], -r[2])):
        if row[2] > best:
            found.append(row)
            best = row[2]
    return found
