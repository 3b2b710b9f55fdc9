"""Platforms side by side: what each gives at best, and what its tokens cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from planner.costs import token_cost
from planner.evaluate import Bench, Outcome, evaluate
from planner.parallel import Crew
from planner.screen import screen, usable
from planner.sizing_screen import setting_at
from search_spaces import catalog_loader
from search_spaces.base import Noun
from search_spaces.errors import Infeasible
from search_spaces.frames import as_frame
from search_spaces.recipe import Recipe
from search_spaces.space import load_spaces
from search_spaces.workload import Slo, Workload
from simulator.calibration import load_calibration
from simulator.fluid import estimate
from simulator.intervals import Interval, intervals

DEFAULT_LOADS = (4, 32, 256, 2048)


class CompareRequest(Noun):
    """Platforms and the load to compare them at."""

    model: str
    hardware: tuple[str, ...] = Field(min_length=1)
    isl: int = Field(default=8192, gt=0)
    osl: int = Field(default=1024, gt=0)
    random_range_ratio: float = Field(default=0.8, ge=0, le=1)
    concurrencies: tuple[int, ...] = DEFAULT_LOADS
    num_gpus: int = Field(default=72, ge=1)
    """Most GPUs of one deployment."""
    slo: Slo = Field(default_factory=Slo)
    prices: dict[str, float] = Field(default_factory=dict)
    """US dollars per GPU-hour instead of the catalog's assumptions."""
    mtp: bool = True
    stack: str = catalog_loader.DEFAULT_STACK
    members: int = Field(default=8, ge=2)
    """Front members per platform that are simulated."""
    seed: int = Field(default=0, ge=0)
    calibration: str | None = None


class ComparedPoint(Noun):
    """One recipe at one load, simulated."""

    recipe: Recipe
    topology: str
    num_gpus: int
    concurrency: int
    total_tokens_per_s_per_gpu: float
    tokens_per_s_per_user: float
    median_ttft_ms: float
    per_million_tokens: float
    """US dollars."""
    limit: str
    intervals: dict[str, Interval]
    """80 % intervals by metric; see `simulator.intervals`."""


class PlatformFront(Noun):
    """The best of one platform, by rising tok/s/user."""

    hardware: str
    price_per_gpu_hour: float
    points: list[ComparedPoint]

    def cheapest(self, tokens_per_s_per_user: float) -> ComparedPoint | None:
        """The point of least cost that gives users at least so many tokens per second."""
        able = [p for p in self.points if p.tokens_per_s_per_user >= tokens_per_s_per_user]
        return min(able, key=lambda p: p.per_million_tokens, default=None)


class Comparison(Noun):
    """Fronts by platform."""

    request: CompareRequest
    fronts: list[PlatformFront]
    refused: dict[str, str]
    """Platform to why it has no front."""
    command: str = ""
    """Command line that gives it; empty from Python."""

    def frame(self) -> Any:
        """A pandas frame: one row per front member."""
        return as_frame(
            [
                {"hardware": front.hardware, **point.model_dump(exclude={"recipe", "intervals"})}
                for front in self.fronts
                for point in front.points
            ]
        )


@dataclass(frozen=True)
class _Task:
    bench: Bench
    request: CompareRequest
    concurrency: int


@dataclass(frozen=True)
class _Guess:
    recipe: Recipe
    concurrency: int
    throughput: float
    interactivity: float


def compare(request: CompareRequest, workers: int | None = None) -> Comparison:
    """Screen every platform by the fluid model and simulate the members of its front.

    Raises:
        BadInput: unknown names.
        Infeasible: no platform runs the model.
    """
    benches = {catalog_loader.hardware(name).name: compare_bench(request, name) for name in request.hardware}
    with Crew(workers) as crew:
        tasks = [_Task(b, request, c) for b in benches.values() for c in request.concurrencies]
        guesses: dict[str, list[_Guess]] = {name: [] for name in benches}
        for task, found in zip(tasks, crew.map(_screened, tasks), strict=True):
            guesses[task.bench.hardware.name] += found
        chosen = [(benches[n], g) for n, found in guesses.items() for g in _members(found, request.members)]
        outcomes = list(crew.map(_simulated, chosen))
    fronts, refused = [], {}
    for name, bench in benches.items():
        mine = [(g, o) for (b, g), o in zip(chosen, outcomes, strict=True) if b is bench]
        points = [_point(bench, guess, outcome) for guess, outcome in mine if usable(outcome)]
        if points:
            price = bench.hardware.price_per_gpu_hour
            fronts.append(PlatformFront(hardware=name, price_per_gpu_hour=price, points=_front(points)))
        else:
            refused[name] = next((o.infeasible for _, o in mine), "no recipe of the search space is lawful")
    if not fronts:
        raise Infeasible(
            "no platform runs it: " + "; ".join(f"{n}: {t}" for n, t in refused.items()), "memory"
        )
    return Comparison(request=request, fronts=fronts, refused=refused)


def compare_bench(request: CompareRequest, name: str) -> Bench:
    """What is fixed on one platform, at the caller's price; raises `BadInput` for unknown names."""
    hardware = catalog_loader.hardware(name)
    price = request.prices.get(hardware.name, hardware.price_per_gpu_hour)
    return Bench(
        catalog_loader.model(request.model),
        hardware.model_copy(update={"price_per_gpu_hour": price}),
        catalog_loader.stack(request.stack),
        load_calibration(request.calibration),
        Workload(isl=request.isl, osl=request.osl, random_range_ratio=request.random_range_ratio),
        request.seed,
    )


def _screened(task: _Task) -> list[_Guess]:
    bench, request = task.bench, task.request
    spaces = load_spaces(bench.hardware.name, bench.model.name)
    if not request.mtp:
        spaces = tuple(s.model_copy(update={"mtp_steps": (0,)}) for s in spaces)
    count = 2 * request.members
    screened = screen(bench, spaces, request.num_gpus, request.slo, "balanced", task.concurrency, count)
    found = []
    for candidate in screened.kept:
        guess = estimate(setting_at(bench, candidate.recipe, task.concurrency))
        rates = guess.total_tokens_per_s_per_gpu, guess.tokens_per_s_per_user
        found.append(_Guess(candidate.recipe, task.concurrency, *rates))
    return found


def _members(guesses: Sequence[_Guess], count: int) -> list[_Guess]:
    """Front members, spread evenly over its length."""
    front, best = [], 0.0
    for guess in sorted(guesses, key=lambda g: (-g.interactivity, -g.throughput)):
        if guess.throughput > best:
            front.append(guess)
            best = guess.throughput
    if len(front) <= count:
        return front
    return [front[round(i * (len(front) - 1) / (count - 1))] for i in range(count)]


def _simulated(item: tuple[Bench, _Guess]) -> Outcome:
    bench, guess = item
    return evaluate(bench, guess.recipe, guess.concurrency, short=False)


def _point(bench: Bench, guess: _Guess, outcome: Outcome) -> ComparedPoint:
    recipe = guess.recipe
    cost = token_cost(recipe.num_gpus, bench.hardware.price_per_gpu_hour, outcome.metrics)
    return ComparedPoint(
        recipe=recipe,
        topology=recipe.topology,
        num_gpus=recipe.num_gpus,
        concurrency=guess.concurrency,
        total_tokens_per_s_per_gpu=outcome.throughput,
        tokens_per_s_per_user=outcome.interactivity,
        median_ttft_ms=outcome.metrics["median_ttft_ms"],
        per_million_tokens=cost.per_million_tokens,
        limit=outcome.limit,
        intervals=intervals(outcome.metrics, recipe, guess.concurrency, bench.stack, bench.calibration),
    )


def _front(points: Sequence[ComparedPoint]) -> list[ComparedPoint]:
    """Points that no other beats on both axes once simulated."""
    found, best = [], 0.0
    for point in sorted(points, key=lambda p: (-p.tokens_per_s_per_user, -p.total_tokens_per_s_per_gpu)):
        if point.total_tokens_per_s_per_gpu > best:
            found.append(point)
            best = point.total_tokens_per_s_per_gpu
    return found[::-1]
