"""A fleet of equal deployments: its size for a level of load, what it costs, what it can lose."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from planner.costs import token_cost
from planner.demand import Demand
from planner.evaluate import Bench
from planner.open_loop import Served, Stream, headroom, serve, serve_with_loss, smallest_fleet
from planner.service_goal import Service
from planner.sizing_screen import Screened
from planner.sizing_types import Fleet, LossCase, LossKind
from search_spaces.recipe import Recipe
from search_spaces.units import MS_PER_S

WATTS_PER_KW = 1e3
LOWER_LOADS = (0.9, 0.75, 0.5, 0.25, 0.1, 0.01)
"""Shares of a load at which the nearest point that keeps the goal is looked for."""
KINDS: dict[str, tuple[LossKind, ...]] = {"none": (), "worker": ("worker",), "node": ("worker", "node")}
"""Losses that a fleet with a spare for one kind is held against."""


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
    output = found.rate * demand.workload.mean_osl / num_gpus
    # Offered tokens rather than those of a finite run, which its start and end dilute.
    metrics = {
        "total_tokens_per_s_per_gpu": found.rate * demand.workload.mean_isl / num_gpus + output,
        "output_tokens_per_s_per_gpu": output,
    }
    cost = token_cost(num_gpus, hardware.price_per_gpu_hour, metrics)
    in_flight = found.rate * served.service.mean_e2e_ms / MS_PER_S
    people = in_flight if demand.users is None else task.factor * demand.users
    domain = hardware.nvlink_domain_gpus
    return Fleet(
        hardware=hardware.name,
        recipe=recipe,
        topology=recipe.topology,
        replicas=found.replicas,
        num_gpus=num_gpus,
        nodes=found.replicas * ceil(recipe.num_gpus / hardware.gpus_per_node),
        racks=_racks(found.replicas, recipe.num_gpus, domain) if domain > hardware.gpus_per_node else None,
        request_rate=found.rate,
        concurrency=in_flight,
        service=served.service,
        tokens_per_s_per_user=served.metrics["tokens_per_s_per_user"],
        limit=served.limit,
        cost=cost,
        cost_per_user_hour=cost.dollars_per_hour / people,
        power_kw=num_gpus * hardware.power_w / WATTS_PER_KW,
    )


def _racks(replicas: int, num_gpus: int, domain: int) -> int:
    """Racks that hold whole deployments; a deployment larger than one takes several."""
    if num_gpus > domain:
        return replicas * ceil(num_gpus / domain)
    return ceil(replicas / (domain // num_gpus))


@dataclass(frozen=True)
class HardenTask:
    """A fleet whose reserves are wanted."""

    stream: Stream
    fleet: Fleet
    spare: str
    gpus_per_node: int


def hardened(task: HardenTask) -> Fleet:
    """The fleet with its headroom and what it can lose."""
    fleet, rate = task.fleet, task.fleet.request_rate / task.fleet.replicas
    kinds = KINDS[task.spare]
    losses = []
    tried: dict[tuple[str, int], LossCase] = {}
    for kind in kinds:
        for role, group in fleet.recipe.groups.items():
            width = group.num_gpus
            gone = 1 if kind == "worker" else max(1, task.gpus_per_node // width)
            gone = min(gone, group.num_workers)
            if (role, gone) not in tried:
                tried[role, gone] = _loss(task, rate, kind, role, gone)
            losses.append(tried[role, gone].model_copy(update={"kind": kind}))
    return fleet.model_copy(
        update={
            "headroom": headroom(task.stream, rate),
            "losses": losses,
            "spare_replicas": int(any(not loss.survives for loss in losses)),
        }
    )


def _loss(task: HardenTask, rate: float, kind: LossKind, role: str, gone: int) -> LossCase:
    """Both ways out: the hurt deployment keeps its share, or all share in proportion to what is left."""
    total, count = task.fleet.recipe.groups[role].num_workers, task.fleet.replicas
    in_place, shared = None, None
    if gone < total:
        in_place = _service(serve_with_loss(task.stream, rate, role, gone))
    left = count - gone / total
    if left > 0 and count > 1 and (in_place is None or not in_place.is_kept):
        more = rate * count / left
        shared = _service(serve(task.stream, more))
        if gone < total and shared is not None and shared.is_kept:
            shared = _service(serve_with_loss(task.stream, more * (1 - gone / total), role, gone))
    survives = any(s is not None and s.is_kept for s in (in_place, shared))
    return LossCase(kind=kind, role=role, workers=gone, in_place=in_place, shared=shared, survives=survives)


def _service(found: Served | str) -> Service | None:
    return found.service if isinstance(found, Served) else None


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
