"""How fast Optuna's samplers cover the front of one load: hypervolume against trials and wall time.

    python benchmarks/sampler_comparison.py                     # fluid objective, 10 seeds, about 4 minutes
    python benchmarks/sampler_comparison.py --objective short   # the event loop at short fidelity

All samplers draw from the same shipped space with nothing queued. The hypervolume counts tokens/s per GPU
and per user against the origin, as a share of the best front that any run found. A trial that a law or
the memory removes counts as spent. GP needs torch and is skipped with the reason where that is absent;
CMA-ES takes one objective and numbers alone, and searches the product of both over ordinal knobs.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from statistics import median
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import TrialState

from planner.evaluate import Bench, evaluate, workload_for
from planner.plan import bench_of
from planner.plan_types import PlanRequest
from planner.screen import Tally, lawful_candidate, usable
from planner.text_table import table
from search_spaces.errors import Infeasible
from search_spaces.space import SearchSpace, load_spaces
from simulator.fluid import estimate
from simulator.world import Setting

Point = tuple[float, float]
NUM_GPUS = 72


class Objective:
    """Both rates of a point of the space at one load; None where nothing can run."""

    def __init__(self, bench: Bench, space: SearchSpace, load: int, kind: str) -> None:
        """Args: what is fixed, the space, the load, and `fluid` or `short`."""
        self.bench, self.space, self.load, self.kind = bench, space, load, kind
        self._rates = lru_cache(maxsize=None)(self._compute)

    def rates(self, point: dict[str, Any]) -> Point | None:
        """Tokens/s per GPU and per user."""
        found = lawful_candidate(self.bench, self.space, point, self.load, NUM_GPUS, Tally())
        return None if found is None else self._rates(found.recipe)

    def _compute(self, recipe: Any) -> Point | None:
        if self.kind == "short":
            outcome = evaluate(self.bench, recipe, self.load, True)
            return (outcome.throughput, outcome.interactivity) if usable(outcome) else None
        bench, workload = self.bench, workload_for(self.bench, recipe, self.load)
        try:
            guess = estimate(
                Setting(recipe, workload, bench.model, bench.hardware, bench.stack, bench.calibration, 0)
            )
        except Infeasible:
            return None
        return guess.total_tokens_per_s_per_gpu, guess.tokens_per_s_per_user


def hypervolume(points: list[Point]) -> float:
    """Area that the points dominate against the origin."""
    area, best = 0.0, 0.0
    for x, y in sorted(set(points), reverse=True):
        if y > best:
            area += x * (y - best)
            best = y
    return area


SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "TPE": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "NSGA-II": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=16),
    "NSGA-III": lambda seed: optuna.samplers.NSGAIIISampler(seed=seed, population_size=16),
    "GP": lambda seed: optuna.samplers.GPSampler(seed=seed),
    "CMA-ES": lambda seed: optuna.samplers.CmaEsSampler(seed=seed),
}


def unavailable(name: str) -> str | None:
    """Why a sampler cannot run here."""
    needs = {"GP": "torch", "CMA-ES": "cmaes"}.get(name)
    return f"package {needs} is not installed" if needs and find_spec(needs) is None else None


def run(objective: Objective, name: str, seed: int, budget: int) -> tuple[list[Point], list[float], float]:
    """Points found, seconds spent by the sampler up to each trial, and seconds of one objective call."""
    single = name == "CMA-ES"
    study = optuna.create_study(
        sampler=SAMPLERS[name](seed), directions=["maximize"] if single else ["maximize", "maximize"]
    )
    knobs = objective.space.knobs()
    distributions: dict[str, BaseDistribution] = {
        k: IntDistribution(0, len(v) - 1) if single else CategoricalDistribution(v) for k, v in knobs.items()
    }
    points: list[Point] = []
    spent: list[float] = []
    total, called = 0.0, 0.0
    for _ in range(budget):
        start = time.perf_counter()
        trial = study.ask(distributions)
        chosen = {k: knobs[k][v] if single else v for k, v in trial.params.items()}
        middle = time.perf_counter()
        rates = objective.rates(chosen)
        called += time.perf_counter() - middle
        after = time.perf_counter()
        if rates is None:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, [rates[0] * rates[1]] if single else list(rates))
        total += middle - start + time.perf_counter() - after
        points.append(rates or (0.0, 0.0))
        spent.append(total)
    return points, spent, called / budget


def main() -> None:
    """Run every sampler over all seeds and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="deepseek-v4-pro")
    parser.add_argument("--hardware", default="gb300")
    parser.add_argument("--concurrency", type=int, default=512)
    parser.add_argument("--objective", choices=("fluid", "short"), default="fluid")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=96)
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    bench = bench_of(PlanRequest(model=given.model, hardware=given.hardware))
    space = load_spaces(bench.hardware.name, bench.model.name)[0]
    objective = Objective(bench, space, given.concurrency, given.objective)
    found: dict[str, list[tuple[list[Point], list[float], float]]] = {}
    for name in SAMPLERS:
        if unavailable(name) is None:
            found[name] = [run(objective, name, seed, given.trials) for seed in range(given.seeds)]
    best = hypervolume([p for runs in found.values() for points, _, _ in runs for p in points])
    marks = [given.trials // 4, given.trials // 2, given.trials]
    rows = []
    for name, runs in found.items():
        shares = [[hypervolume(points[:mark]) / best for points, _, _ in runs] for mark in marks]
        spread = f"{np.quantile(shares[-1], 0.25):.3f}-{np.quantile(shares[-1], 0.75):.3f}"
        own = median(spent[-1] for _, spent, _ in runs)
        valid = median(sum(p != (0.0, 0.0) for p in points) for points, _, _ in runs)
        rows.append(
            (name, *(f"{median(s):.3f}" for s in shares), spread, f"{own:.2f}", f"{given.trials / own:.0f}",
             f"{valid:.0f}")
        )  # fmt: skip
    print(
        f"{space.name}, concurrency {given.concurrency}, {given.objective} objective, {given.seeds} seeds, "
        f"{given.trials} trials each; share of the best hypervolume found (median over seeds)"
    )
    header = (
        "sampler", *(f"{m} trials" for m in marks), "quartiles", "sampler s", "trials/s", "valid trials",
    )  # fmt: skip
    print(table(rows, header))
    for name in SAMPLERS:
        if reason := unavailable(name):
            print(f"  {name} skipped: {reason}")


if __name__ == "__main__":
    main()
