"""Which recipes are worth simulating for given traffic, by the fluid model."""

from __future__ import annotations

from dataclasses import dataclass

from planner.demand import Demand
from planner.evaluate import Bench, setting_for
from planner.parallel import Crew
from planner.screen import screen
from planner.service_goal import Goal
from planner.sizing_types import SizeRequest
from search_spaces import catalog_loader
from search_spaces.recipe import Recipe
from search_spaces.space import load_spaces
from search_spaces.units import MS_PER_S
from simulator.calibration import load_calibration
from simulator.fluid import estimate
from simulator.world import Setting

LOADS = 4
"""Concurrencies per deployment that are screened, each four times the one before."""
MOST_LOAD = 4096
DEFAULT_TTFT_MS, DEFAULT_TPOT_MS = 2000.0, 40.0
"""For a first guess of a request's duration where the goal does not bound it."""


@dataclass(frozen=True)
class Screened:
    """A recipe at one load by the fluid model."""

    recipe: Recipe
    rate: float
    """Requests per second of one deployment."""
    e2e_s: float
    misses: dict[str, float]
    """Broken promise to its factor."""


@dataclass(frozen=True)
class ScreenTask:
    """One platform at one load."""

    bench: Bench
    mtp: bool
    num_gpus: int
    goal: Goal
    concurrency: int
    keep: int


def bench_for(request: SizeRequest, platform: str) -> Bench:
    """What is fixed on one platform, at the caller's price; raises `BadInput` for unknown names."""
    hardware = catalog_loader.hardware(platform)
    price = request.prices.get(hardware.name)
    if price is not None:
        hardware = hardware.model_copy(update={"price_per_gpu_hour": price})
    return Bench(
        catalog_loader.model(request.model),
        hardware,
        catalog_loader.stack(request.stack),
        load_calibration(request.calibration),
        request.demand.workload,
        request.seed,
    )


def setting_at(bench: Bench, recipe: Recipe, concurrency: int = 1) -> Setting:
    """A bench with one recipe; prompts as the public harness chooses them."""
    return setting_for(bench, recipe, concurrency)


def duration_s(goal: Goal, demand: Demand) -> float:
    """A first guess of how long a request takes, from what the goal allows."""
    limits = goal.loosest
    longest = limits.get("ttft", DEFAULT_TTFT_MS)
    longest += limits.get("tpot", DEFAULT_TPOT_MS) * demand.workload.mean_osl
    return min(longest, limits.get("e2e", longest)) / MS_PER_S


def loads_for(goal: Goal, demand: Demand) -> list[int]:
    """Concurrencies of one deployment worth screening, from the demand's requests in flight downwards."""
    duration = duration_s(goal, demand)
    wanted = max(demand.growth) * demand.rate(duration) * duration
    top = 4
    while top < min(wanted, MOST_LOAD):
        top *= 4
    return sorted({max(1, top // 4**i) for i in range(LOADS)})


def screened(task: ScreenTask) -> list[Screened]:
    """Recipes worth simulating at one load, with their fluid estimates."""
    bench, goal = task.bench, task.goal
    spaces = load_spaces(bench.hardware.name, bench.model.name)
    if not task.mtp:
        spaces = tuple(s.model_copy(update={"mtp_steps": (0,)}) for s in spaces)
    screening = screen(
        bench, spaces, task.num_gpus, goal.screening(), "throughput", task.concurrency, task.keep
    )
    found = []
    for candidate in screening.kept:
        guess = estimate(setting_at(bench, candidate.recipe, task.concurrency))
        e2e_s = guess.ttft_s + guess.tpot_s * max(bench.workload.mean_osl - 1, 0)
        values = {"ttft": guess.ttft_s, "tpot": guess.tpot_s, "e2e": e2e_s}
        misses = {
            x.name: values[x.metric] * MS_PER_S / x.max_ms
            for x in goal.limits
            if values[x.metric] * MS_PER_S > x.max_ms
        }
        found.append(Screened(candidate.recipe, guess.requests_per_s, e2e_s, misses))
    return found


def pools_of(request: SizeRequest, benches: dict[str, Bench], crew: Crew) -> dict[str, list[Screened]]:
    """Recipes worth simulating, by platform."""
    tasks = [
        ScreenTask(bench, request.mtp, request.deployment_gpus, request.goal, load, request.keep)
        for bench in benches.values()
        for load in loads_for(request.goal, request.demand)
    ]
    pools: dict[str, list[Screened]] = {name: [] for name in benches}
    for task, found in zip(tasks, crew.map(screened, tasks), strict=True):
        pools[task.bench.hardware.name] += found
    return pools
