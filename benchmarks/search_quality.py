"""How near the search of `plan` comes to the best front known, at its default budget.

    python -m benchmarks.search_quality                     # three loads of the GB300 lane, some minutes
    python -m benchmarks.search_quality --page docs/search.md

The reference is everything that any of these found together: the same search with ten times the budget,
and NSGA-III, TPE and random sampling alone. All simulate at the short
fidelity that ranks candidates. The hypervolume counts tokens/s per GPU and per user against the origin.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from pathlib import Path

import optuna
from optuna.trial import TrialState

from benchmarks.sampler_comparison import SAMPLERS, Point, hypervolume
from planner.evaluate import Evaluator
from planner.file_writer import write_file
from planner.markdown import markdown_table
from planner.plan import bench_of, spaces_of
from planner.plan_types import PlanRequest
from planner.screen import objective_value, usable
from planner.search import BATCH, Search
from planner.text_table import percent, table
from search_spaces.public_recipes import public_recipes
from search_spaces.recipe import Recipe

LOADS = (64, 512, 2500)
TIMES = 10
SAMPLED = 160
"""Trials of each sampler alone; TPE slows down with the square of them."""
OTHERS = ("NSGA-III", "TPE", "random")
HEADER = (
    "concurrency", "simulations", "hypervolume", "best objective", "screened only", "reference simulations",
)  # fmt: skip


class Trace:
    """Rates and objective of what a search simulated."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.points: list[Point] = []
        self.best = 0.0

    def add(self, other: Trace) -> None:
        """The union of two searches."""
        self.points += other.points
        self.best = max(self.best, other.best)


def searched(request: PlanRequest, evaluator: Evaluator, load: int, trials: int) -> Trace:
    """The search of `plan` at one load."""
    bench = evaluator.bench
    public = [r for r in public_recipes(bench.model.name, bench.hardware.name) if r.num_gpus <= 72]
    search = Search(
        bench, spaces_of(request), public, request.num_gpus, evaluator, None, request.slo, request.objective,
        request.seed,
    )  # fmt: skip
    search.start_screening([load], request.keep)
    found = search.run(load, trials, lambda: None)
    return traced(evaluator, load, [c.recipe for c in found.values()], request.objective)


def traced(evaluator: Evaluator, load: int, recipes: list[Recipe], objective: str) -> Trace:
    """Rates of recipes that run, simulated in short."""
    trace = Trace()
    for recipe, _, outcome in evaluator.map([(r, load, True) for r in recipes]):
        if usable(outcome):
            trace.points.append((outcome.throughput, outcome.interactivity))
            trace.best = max(trace.best, objective_value(outcome, recipe, objective))
    return trace


def sampled(request: PlanRequest, evaluator: Evaluator, load: int, name: str, trials: int) -> Trace:
    """One of Optuna's samplers alone, with nothing queued."""
    search = Search(
        evaluator.bench, spaces_of(request), [], request.num_gpus, evaluator, None, request.slo,
        request.objective,
    )  # fmt: skip
    study = optuna.create_study(sampler=SAMPLERS[name](load), directions=["maximize", "maximize"])
    recipes = []
    for _ in range(0, trials, BATCH):
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
    return traced(evaluator, load, recipes, request.objective)


def compared(request: PlanRequest, evaluator: Evaluator, load: int) -> tuple[str, ...]:
    """One row of the table."""
    before = evaluator.simulated
    screened = searched(request, evaluator, load, 0)
    default = searched(request, evaluator, load, request.trials)
    used = evaluator.simulated - before
    reference = Trace()
    for part in (
        screened,
        default,
        searched(request, evaluator, load, TIMES * request.trials),
        *(sampled(request, evaluator, load, name, SAMPLED) for name in OTHERS),
    ):
        reference.add(part)
    top = hypervolume(reference.points)
    return (
        str(load),
        str(used),
        percent(hypervolume(default.points) / top),
        percent(default.best / reference.best),
        percent(hypervolume(screened.points) / top),
        str(evaluator.simulated - before),
    )


def page_text(rows: list[tuple[str, ...]], request: PlanRequest) -> str:
    """The table as a page."""
    return (
        "\n\n".join(
            (
                "# How good is the search?",
                "Written by `python -m benchmarks.search_quality --page docs/search.md`. "
                f"{request.model} on {request.hardware}, up to {request.num_gpus} GPUs, "
                f"{request.isl}/{request.osl} tokens, objective {request.objective}, seed {request.seed}.",
                "Per load, `plan` simulates the public recipes, the best by the fluid model, "
                "then single steps from "
                f"the best and from the front, then draws of NSGA-III: {request.keep} screened recipes and "
                f"{request.trials} trials by default. The reference is the union of that search "
                f"with {TIMES} times "
                f"the trials and of {', '.join(OTHERS)} with {SAMPLED} trials "
                "each. Shares are of "
                "the reference's hypervolume (tokens/s per GPU and per user, against the origin) "
                "and of its best "
                "objective; both sides are simulated at the short fidelity that ranks candidates, and the "
                "reference is no proof. `servecast space certify` proves small spaces.",
                markdown_table(rows, HEADER),
            )
        )
        + "\n"
    )


def main() -> None:
    """Compare at a few loads and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--concurrency", type=int, nargs="*", default=LOADS)
    parser.add_argument("--trials", type=int, default=PlanRequest.model_fields["trials"].default)
    parser.add_argument("--page", type=Path)
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    request = PlanRequest(model="deepseek-ai/DeepSeek-V4-Pro", hardware="gb300", trials=given.trials)
    evaluator = Evaluator(bench_of(request), None, os.cpu_count() or 1)
    begun, rows = time.process_time(), []
    for load in given.concurrency:
        rows.append(compared(request, evaluator, load))
        print(*rows[-1], f"({time.process_time() - begun:.0f} s of the sampling process)", flush=True)
    evaluator.close()
    print(table(rows, HEADER))
    if given.page:
        write_file(page_text(rows, request), given.page, "--page")


if __name__ == "__main__":
    main()
