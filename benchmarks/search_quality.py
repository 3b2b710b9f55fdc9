"""How good is the search of `plan`? Its front beside those of a long one and of samplers alone.

    python -m benchmarks.search_quality [--page docs/search.md]

What each search deems near its front is simulated anew, whole and under other seeds, so that no search is
better for luck in its own short runs.
"""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import TrialState

from benchmarks.sampler_comparison import SAMPLERS, hypervolume
from planner.evaluate import Bench, Evaluator
from planner.file_writer import write_file
from planner.load_search import BATCH
from planner.markdown import markdown_table
from planner.plan import bench_of, spaces_of
from planner.plan_types import PlanRequest
from planner.screen import usable
from planner.search import Search
from planner.text_table import percent, table
from search_spaces.public_recipes import public_recipes
from search_spaces.recipe import Recipe

LOADS = (64, 512, 2500)
"""Loads that are judged."""
PLANNED = (1, 4, 16, 64, 128, 256, 512, 1024, 2500, 4096, 8192, 16384)
"""Loads that one plan searches side by side."""
TIMES = 5
SAMPLED = 160
"""Trials of each sampler alone; TPE slows down with the square of them."""
OTHERS = ("NSGA-III", "TPE", "random")
FRESH_SEEDS = (101, 102)
"""Seeds of the runs that decide."""
NEAR = 0.04
"""A recipe may be so far below the front in short runs and still belong to it."""
HEADER = ("concurrency", "search", "simulations", "hypervolume")


class Judge:
    """Rates of recipes at one load, as whole runs under fresh seeds give them on average."""

    def __init__(self, bench: Bench, load: int, workers: int) -> None:
        """Args: what is fixed, the load and processes."""
        self.load = load
        self._evaluators = [Evaluator(replace(bench, seed=seed), None, workers) for seed in FRESH_SEEDS]

    def points(self, recipes: Sequence[Recipe]) -> list[tuple[float, float]]:
        """Rates per GPU and per user of the recipes that run under every seed."""
        tasks = [(recipe, self.load, False) for recipe in recipes]
        runs = [[outcome for _, _, outcome in each.map(tasks)] for each in self._evaluators]
        found = []
        for outcomes in zip(*runs, strict=True):
            if all(usable(outcome) for outcome in outcomes):
                rates = np.mean([(o.throughput, o.interactivity) for o in outcomes], axis=0)
                found.append((float(rates[0]), float(rates[1])))
        return found

    def close(self) -> None:
        """Stop the processes."""
        for each in self._evaluators:
            each.close()


def search_of(request: PlanRequest, evaluator: Evaluator) -> Search:
    """The search of `plan`, nothing done yet."""
    bench = evaluator.bench
    public = [r for r in public_recipes(bench.model.name, bench.hardware.name) if r.num_gpus <= 72]
    return Search(
        bench, spaces_of(request), public, request.num_gpus, evaluator, None, request.slo, request.objective,
        request.seed,
    )  # fmt: skip


def planned(request: PlanRequest, bench: Bench, workers: int) -> dict[int, tuple[int, list[Recipe]]]:
    """The search of `plan` at all loads side by side: simulations and recipes of each."""
    evaluator = Evaluator(bench, None, workers)
    search = search_of(request, evaluator)
    search.start_screening(PLANNED, request.keep)
    with ThreadPoolExecutor(workers + 1) as threads:
        found = search.run_all(PLANNED, request.trials, threads, lambda _, found: found, lambda: None)
    evaluator.close()
    return {
        load: (len(each), [c.recipe for c in each.values()])
        for load, each in zip(PLANNED, found, strict=True)
    }


def searched(request: PlanRequest, load: int, trials: int, evaluator: Evaluator) -> list[Recipe]:
    """The same search at one load alone."""
    search = search_of(request, evaluator)
    search.start_screening([load], request.keep)
    return [c.recipe for c in search.run(load, trials, lambda: None).values()]


def sampled(request: PlanRequest, load: int, name: str, evaluator: Evaluator) -> list[Recipe]:
    """One of Optuna's samplers alone, with nothing queued."""
    search = Search(
        evaluator.bench, spaces_of(request), [], request.num_gpus, evaluator, None, request.slo,
        request.objective,
    )  # fmt: skip
    study = optuna.create_study(sampler=SAMPLERS[name](load), directions=["maximize", "maximize"])
    recipes = []
    for _ in range(0, SAMPLED, BATCH):
        asked = []
        for _ in range(BATCH):
            trial = study.ask(search.distributions)
            candidate = search.decode(trial.params, load)
            if candidate is None:
                study.tell(trial, state=TrialState.PRUNED)
            else:
                asked.append((trial, candidate.recipe))
        outcomes = evaluator.map([(recipe, load, True) for _, recipe in asked])
        for (trial, recipe), (_, _, outcome) in zip(asked, outcomes, strict=True):
            if usable(outcome):
                study.tell(trial, [outcome.throughput, outcome.interactivity])
                recipes.append(recipe)
            else:
                study.tell(trial, state=TrialState.PRUNED)
    return recipes


def near_front(evaluator: Evaluator, load: int, recipes: Sequence[Recipe]) -> list[Recipe]:
    """Recipes that short runs do not clearly show to be beaten on both axes."""
    tasks = [(recipe, load, True) for recipe in recipes]
    rates = [(o.throughput, o.interactivity, r) for r, _, o in evaluator.map(tasks) if usable(o)]
    more = 1 + NEAR
    return [r for t, u, r in rates if not any(a > t * more and b > u * more for a, b, _ in rates)]


def compared(
    request: PlanRequest, bench: Bench, load: int, workers: int, by_plan: tuple[int, list[Recipe]]
) -> list[tuple[str, ...]]:
    """The rows of one load, where `by_plan` is what the plan simulated."""
    searches: dict[str, Callable[[Evaluator], list[Recipe]]] = {
        "screened only": partial(searched, request, load, 0),
        "plan": lambda _: by_plan[1],
        "this load alone": partial(searched, request, load, request.trials),
        f"alone, {TIMES} x trials": partial(searched, request, load, TIMES * request.trials),
        **{f"{name} alone": partial(sampled, request, load, name) for name in OTHERS},
    }
    judge, found = Judge(bench, load, workers), {}
    for name, search in searches.items():
        evaluator = Evaluator(bench, None, workers)
        recipes = near_front(evaluator, load, search(evaluator))
        found[name] = evaluator.simulated, judge.points(recipes)
        evaluator.close()
    found["plan"] = by_plan[0], found["plan"][1]
    judge.close()
    top = hypervolume([point for _, points in found.values() for point in points])
    return [
        (str(load), name, str(count), percent(hypervolume(points) / top))
        for name, (count, points) in found.items()
    ]


def page_text(rows: list[tuple[str, ...]], request: PlanRequest) -> str:
    """The table as a page."""
    return (
        "\n\n".join(
            (
                "# How good is the search?",
                "Written by `python -m benchmarks.search_quality --page docs/search.md`. "
                f"{request.model} on {request.hardware}, up to {request.num_gpus} GPUs, "
                f"{request.isl}/{request.osl} tokens, objective {request.objective}, seed {request.seed}.",
                f"`plan` searches {len(PLANNED)} loads side by side. Per load it simulates the public ones "
                f"and {request.keep} that the fluid model deems best, then {request.trials} more: layouts by "
                "the fluid model as simulations correct it, single steps from the best, half way the best of "
                "the loads next to it, crosses by NSGA-III. The samplers alone draw from the same "
                f"spaces, {SAMPLED} trials each. Recipes near each front are simulated anew, whole, under "
                f"{len(FRESH_SEEDS)} other seeds; shares are of the hypervolume (tokens/s per GPU and per "
                "user, against the origin) of all searches of a load together, which is no proof of an "
                "optimum. `servecast space certify` proves small spaces.",
                markdown_table(rows, HEADER),
            )
        )
        + "\n"
    )


def main() -> None:
    """Compare at a few loads and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--concurrency", type=int, nargs="*", default=LOADS, choices=PLANNED)
    parser.add_argument("--trials", type=int, default=PlanRequest.model_fields["trials"].default)
    parser.add_argument("--page", type=Path)
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    request = PlanRequest(model="deepseek-ai/DeepSeek-V4-Pro", hardware="gb300", trials=given.trials)
    bench, rows, workers = bench_of(request), [], os.cpu_count() or 1
    by_plan = planned(request, bench, workers)
    for load in given.concurrency:
        rows += compared(request, bench, load, workers, by_plan[load])
        print(table(rows, HEADER), flush=True)
    if given.page:
        write_file(page_text(rows, request), given.page, "--page")


if __name__ == "__main__":
    main()
