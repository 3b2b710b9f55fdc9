"""How many GPUs serve given traffic within given promises: screened by the fluid model, then simulated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil

from planner.demand import Demand
from planner.evaluate import Bench
from planner.open_loop import Stream
from planner.parallel import Crew
from planner.sizing_fleet import Fit, FitTask, fit, fleet_of, miss_text
from planner.sizing_losses import HardenTask, hardened
from planner.sizing_screen import Screened, bench_for, duration_s, pools_of, setting_at
from planner.sizing_types import Fleet, Level, SizeRequest, SizeResult
from search_spaces import catalog_loader
from search_spaces.errors import Infeasible
from search_spaces.units import SECONDS_PER_HOUR

SHARES = (0.25, 0.5, 0.75)
"""Levels of a day below its peak."""


def size(
    request: SizeRequest, workers: int | None = None, on_step: Callable[[str], None] = lambda label: None
) -> SizeResult:
    """Fleets for a demand, at its peak, its growth and, with a profile, at lower levels.

    Args:
        request: traffic, promises and platforms.
        workers: processes; None takes all cores.
        on_step: called with a label before each stage.

    Raises:
        BadInput: unknown names.
        Infeasible: no platform has a fleet at the peak; says what binds and the nearest point.
    """
    benches = {catalog_loader.hardware(h).name: bench_for(request, h) for h in request.hardware}
    with Crew(workers) as crew:
        on_step("screening")
        pools = pools_of(request, benches, crew)
        levels = []
        for name, factor in _steps(request.demand):
            on_step(f"fleets at {name}")
            levels.append(_level(request, benches, pools, name, factor, crew))
    static, scaled = _day(request.demand, levels)
    return SizeResult(
        request=request,
        levels=levels,
        static_gpu_hours_per_day=static,
        scaled_gpu_hours_per_day=scaled,
        counts={"screened": sum(len(pool) for pool in pools.values())},
    )


def _steps(demand: Demand) -> list[tuple[str, float]]:
    """Name and factor on the peak; the peak itself first."""
    found = [("peak", 1.0)]
    found += [(f"peak x{factor:g}", factor) for factor in demand.growth if factor != 1.0]
    if demand.profile is not None:
        found += [(f"{100 * share:.0f} % of the peak", share) for share in reversed(SHARES)]
    return found


def _level(
    request: SizeRequest,
    benches: dict[str, Bench],
    pools: dict[str, list[Screened]],
    name: str,
    factor: float,
    crew: Crew,
) -> Level:
    tasks = [
        FitTask(_stream(request, benches[platform], found), found, request.demand, factor, most)
        for platform, pool in pools.items()
        for found in _cheapest(pool, request.demand, factor, request.tries)
        if (most := request.max_gpus // found.recipe.num_gpus) >= 1
    ]
    results = list(zip(tasks, crew.map(fit, tasks), strict=True))
    good = [
        (task, fleet_of(benches[task.recipe.hardware], task, found))
        for task, found in results
        if found.replicas is not None
    ]
    spare = request.spare if factor >= 1 else "none"
    harden = [HardenTask(task.stream, fleet, spare, benches[fleet.hardware].hardware) for task, fleet in good]
    able = list(crew.map(hardened, harden))
    fleets, refused = list[Fleet](), dict[str, str]()
    for platform in benches:
        mine = [fleet for fleet in able if fleet.hardware == platform]
        if mine:
            fleets.append(min(mine, key=_size_with_spare))
        else:
            tried = [(task, found) for task, found in results if task.recipe.hardware == platform]
            refused[platform] = _refusal(request, tried)
    if not fleets and factor == 1.0:
        raise Infeasible(
            "no fleet keeps the goal at the peak: "
            + "; ".join(f"{platform}: {text}" for platform, text in refused.items()),
            rule="slo",
        )
    fleets.sort(key=lambda fleet: fleet.dollars_per_hour_with_spare)
    guess = factor * request.demand.rate(duration_s(request.goal, request.demand))
    rate = fleets[0].request_rate if fleets else guess
    return Level(name=name, request_rate=rate, fleets=fleets, refused=refused)


def _size_with_spare(fleet: Fleet) -> tuple[int, int, int]:
    """Nodes, then GPUs in use, with the spare and without."""
    return fleet.nodes + fleet.spare_nodes, fleet.num_gpus_with_spare, fleet.num_gpus


def _stream(request: SizeRequest, bench: Bench, found: Screened) -> Stream:
    return Stream(setting_at(bench, found.recipe), request.goal, found.e2e_s)


def _cheapest(pool: Sequence[Screened], demand: Demand, factor: float, tries: int) -> list[Screened]:
    """Different layouts by the GPUs that the fluid model says they need; those that keep the goal first.

    As many again are taken by the GPUs with one deployment more, which favours small ones.
    """

    def order(found: Screened, spare: int) -> tuple[float, int, float]:
        count = ceil(factor * demand.rate(found.e2e_s) / found.rate) + spare
        return max(found.misses.values(), default=1.0), count * found.recipe.num_gpus, -found.rate

    chosen: dict[str, Screened] = {}
    for spare in (0, 1):
        ranked = {f.recipe.topology: f for f in sorted(pool, key=lambda f: order(f, spare), reverse=True)}
        chosen |= dict(list(ranked.items())[::-1][:tries])
    return list(chosen.values())


def _refusal(request: SizeRequest, tried: Sequence[tuple[FitTask, Fit]]) -> str:
    """The nearest of what was tried, in words."""
    if not tried:
        return f"no recipe of at most {min(request.max_gpus, request.deployment_gpus)} GPUs is lawful here"

    def miss(item: tuple[FitTask, Fit]) -> float:
        served = item[1].served
        return float("inf") if isinstance(served, str) else max(served.service.misses.values(), default=1.0)

    return miss_text(*min(tried, key=miss))


def _day(demand: Demand, levels: Sequence[Level]) -> tuple[float | None, float | None]:
    """GPU-hours of a day on the platform that is cheapest at the peak: kept at the peak, and by level."""
    if demand.profile is None:
        return None, None
    platform = levels[0].fleets[0].hardware
    sizes = {1.0: levels[0].fleets[0].num_gpus}
    for (_, factor), level in zip(_steps(demand), levels, strict=True):
        mine = next((f for f in level.fleets if f.hardware == platform), None)
        if factor in SHARES and mine is not None:
            sizes[factor] = mine.num_gpus
    hours = [seconds / SECONDS_PER_HOUR for seconds in demand.profile.durations_s]
    needed = [sizes[min(f for f in sizes if f >= share)] for share in demand.profile.share]
    return sizes[1.0] * sum(hours), sum(n * h for n, h in zip(needed, hours, strict=True))
