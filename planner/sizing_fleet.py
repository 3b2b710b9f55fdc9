"""A fleet of equal deployments: its size for a level of load, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from planner.costs import token_cost
from planner.demand import Demand
from planner.evaluate import Bench
from planner.open_loop import Served, Stream, serve, smallest_fleet
from planner.placement import place
from planner.sizing_screen import Screened
from planner.sizing_types import Fleet
from search_spaces.recipe import Recipe
from search_spaces.units import MS_PER_S

WATTS_PER_KW = 1e3
LOWER_LOADS = (0.9, 0.75, 0.5, 0.25, 0.1, 0.01)
"""Shares of a load at which the nearest point that keeps the goal is looked for."""


@dataclass(frozen=True)
class FitTask:
    """A recipe to make a fleet of."""

    stream: Stream
    found: Screened
    demand: Demand
    factor: float
    """On the peak."""
    most: int
    """Deployments allowed."""

    @property
    def recipe(self) -> Recipe:
        """Of each deployment."""
        return self.found.recipe


@dataclass(frozen=True)
class Fit:
    """The fewest deployments that keep the goal, or the nearest that was seen."""

    replicas: int | None
    rate: float
    served: Served | str


def fit(task: FitTask) -> Fit:
    """Simulate deployments until the fewest that keep the goal are known.

    The arrivals of users who wait for answers depend on how long those take; they are set from the first
    fleet's answers and the fleet is fitted once more.
    """
    e2e_s, result = task.found.e2e_s, None
    for _ in range(1 if task.demand.users is None else 2):
        rate = task.factor * task.demand.rate(e2e_s)
        count, served = smallest_fleet(task.stream, rate, ceil(rate / task.found.rate), task.most)
        result = Fit(count, rate, served)
        if count is None or isinstance(served, str):
            break
        e2e_s = served.service.mean_e2e_ms / MS_PER_S
    assert result is not None
    return result


def fleet_of(bench: Bench, task: FitTask, found: Fit) -> Fleet:
    """The fleet of a successful fit."""
    assert found.replicas is not None and isinstance(found.served, Served)
    recipe, hardware, served, demand = task.recipe, bench.hardware, found.served, task.demand
    num_gpus = found.replicas * recipe.num_gpus
    placed = place(recipe, hardware, found.replicas)
    output = found.rate * demand.workload.mean_osl / placed.paid_gpus
    # Offered tokens rather than those of a finite run, which its start and end dilute.
    metrics = {
        "total_tokens_per_s_per_gpu": found.rate * demand.workload.mean_isl / placed.paid_gpus + output,
        "output_tokens_per_s_per_gpu": output,
    }
    cost = token_cost(placed.paid_gpus, hardware.price_per_gpu_hour, metrics)
    in_flight = found.rate * served.service.mean_e2e_ms / MS_PER_S
    people = in_flight if demand.users is None else task.factor * demand.users
    return Fleet(
        hardware=hardware.name,
        recipe=recipe,
        topology=recipe.topology,
        replicas=found.replicas,
        num_gpus=num_gpus,
        nodes=len(placed.nodes),
        racks=placed.racks,
        request_rate=found.rate,
        concurrency=in_flight,
        workload=served.workload,
        service=served.service,
        tokens_per_s_per_user=served.metrics["tokens_per_s_per_user"],
        intervals=served.intervals,
        limit=served.limit,
        cost=cost,
        cost_per_user_hour=cost.dollars_per_hour / people,
        power_kw=num_gpus * hardware.power_w / WATTS_PER_KW,
    )


def miss_text(task: FitTask, found: Fit) -> str:
    """What binds where a fit failed, and the nearest load that keeps the goal."""
    if isinstance(found.served, str):
        return found.served
    count = round(found.rate / found.served.rate)
    text = (
        f"{count} x {task.recipe.topology} ({count * task.recipe.num_gpus} GPUs) at {found.rate:.4g} "
        f"requests/s {_missed(found.served)}"
    )
    last = found.served
    for share in LOWER_LOADS:
        lower = serve(task.stream, found.served.rate * share)
        if isinstance(lower, Served) and lower.service.is_kept:
            return f"{text}; nearest: {count * lower.rate:.4g} requests/s keep the goal on the same GPUs"
        if isinstance(lower, Served):
            last = lower
    return f"{text}; no load keeps the goal: at {count * last.rate:.4g} requests/s it {_missed(last)}"


def _missed(served: Served) -> str:
    service = served.service
    reached = ", ".join(f"{name} {value:.0f} ms" for name, value in service.attained_ms.items())
    worst = service.worst
    factor = f" by a factor {service.misses[worst]:.2f}" if service.misses else ""
    return (
        f"misses {worst}{factor} (reaches {reached}, goodput {100 * service.goodput:.0f} %, "
        f"limit {served.limit})"
    )
