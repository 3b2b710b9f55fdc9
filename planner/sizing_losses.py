"""What a fleet can lose: a worker, a node with all on it, a rack; and how much to add where it cannot."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from planner.open_loop import Served, Stream, headroom, serve, serve_with_loss
from planner.placement import Loss, Placement, place
from planner.service_goal import Service
from planner.sizing_types import Fleet, LossCase, LossKind
from search_spaces.hardware import Hardware
from search_spaces.recipe import Recipe

KINDS: dict[str, tuple[LossKind, ...]] = {
    "none": (),
    "worker": ("worker",),
    "node": ("worker", "node"),
    "rack": ("worker", "node", "rack"),
}
"""Losses that a fleet with a spare for one kind is held against."""
Workers = tuple[tuple[str, int], ...]
"""Role and workers of it that one deployment loses."""


@dataclass(frozen=True)
class HardenTask:
    """A fleet whose reserves are wanted."""

    stream: Stream
    fleet: Fleet
    spare: str
    hardware: Hardware


def hardened(task: HardenTask) -> Fleet:
    """The fleet with its headroom, what it can lose, and what to add where that breaks the goal."""
    fleet = task.fleet
    trials = _Trials(task.stream)
    losses, tried = list[LossCase](), dict[Loss, LossCase]()
    placed = place(fleet.recipe, task.hardware, fleet.replicas)
    for kind in KINDS[task.spare]:
        for loss in _losses(kind, fleet.recipe, placed):
            if loss not in tried:
                tried[loss] = _case(trials, fleet, kind, loss)
            losses.append(tried[loss].model_copy(update={"kind": kind}))
    spare, nodes = _spare(task, {loss for loss, case in tried.items() if case.survives})
    return fleet.model_copy(
        update={
            "headroom": headroom(task.stream, fleet.request_rate / fleet.replicas),
            "losses": losses,
            "spare_replicas": spare,
            "spare_nodes": nodes - len(placed.nodes),
        }
    )


def _losses(kind: LossKind, recipe: Recipe, placed: Placement) -> list[Loss]:
    """Different losses of a kind."""
    if kind == "worker":
        return [(((role, 1),),) for role in recipe.groups]
    return placed.node_losses() if kind == "node" else placed.rack_losses()


def _spare(task: HardenTask, survived: set[Loss]) -> tuple[int, int]:
    """The fewest deployments to add, and the nodes with them.

    With as many more as a loss hurts, enough whole ones are left to serve at the rates of the fitted fleet.
    A loss that this fleet survives is survived by a larger one, whose deployments are under less load. More
    deployments may share a node than before, so the larger fleet is packed anew.
    """
    fleet = task.fleet
    spare = 0
    while True:
        placed = place(fleet.recipe, task.hardware, fleet.replicas + spare)
        losses = [loss for kind in KINDS[task.spare] for loss in _losses(kind, fleet.recipe, placed)]
        hurt = max((len(loss) for loss in losses if loss not in survived), default=0)
        if hurt <= spare:
            return spare, len(placed.nodes)
        spare += 1


@dataclass
class _Trials:
    """Simulations of one deployment, each done once."""

    stream: Stream
    _done: dict[tuple[float, Workers], Service | None] = field(default_factory=dict)

    def service(self, rate: float, lost: Workers = ()) -> Service | None:
        """What it gives at a rate while it loses workers; None where it cannot run."""
        key = (rate, lost)
        if key not in self._done:
            found = serve_with_loss(self.stream, rate, lost) if lost else serve(self.stream, rate)
            self._done[key] = found.service if isinstance(found, Served) else None
        return self._done[key]


def _case(trials: _Trials, fleet: Fleet, kind: LossKind, loss: Loss) -> LossCase:
    """Both ways out: hurt deployments keep their share, or all share in proportion to what is left."""
    count, rate = fleet.replicas, fleet.request_rate / fleet.replicas
    parts = [(lost, _left(fleet.recipe, lost)) for lost in dict.fromkeys(loss)]
    in_place = shared = None
    if all(share > 0 for _, share in parts):
        in_place = _worst(trials.service(rate, lost) for lost, _ in parts)
    left = count - len(loss) + sum(_left(fleet.recipe, lost) for lost in loss)
    if left > 0 and count > 1 and (in_place is None or not in_place.is_kept):
        more = rate * count / left
        # A whole deployment at a higher rate is mostly what breaks, and the cheaper to simulate.
        shared = trials.service(more) if count > len(loss) else None
        if shared is None or shared.is_kept:
            hurt = [trials.service(more * share, lost) for lost, share in parts if share > 0]
            shared = _worst([*hurt, shared] if count > len(loss) else hurt)
    return LossCase(
        kind=kind,
        lost=tuple(dict(lost) for lost in loss),
        in_place=in_place,
        shared=shared,
        survives=any(found is not None and found.is_kept for found in (in_place, shared)),
    )


def _left(recipe: Recipe, lost: Workers) -> float:
    """Share of a deployment that still works: of its most hurt role."""
    return min(1 - workers / recipe.groups[role].num_workers for role, workers in lost)


def _worst(services: Iterable[Service | None]) -> Service | None:
    """The one that is furthest from the goal; None where one cannot run."""
    found = list(services)
    if not found or any(service is None for service in found):
        return None
    known = [service for service in found if service is not None]
    return max(
        known, key=lambda s: (not s.is_kept, not s.is_stable, max(s.misses.values(), default=0.0), -s.goodput)
    )
