"""What changes between two recipes of one deployment: fields by role, and what that does to workers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from search_spaces.base import Noun
from search_spaces.recipe import EngineGroup, Recipe

Action = Literal["keep", "add", "remove", "restart", "start", "stop"]


class FieldChange(Noun):
    """One field that differs; a flag or variable kept for export is `extra_flags.NAME`."""

    role: str
    """`prefill`, `decode`, `aggregated`, `frontend` or `deployment`."""
    field: str
    before: Any
    after: Any


class RoleStep(Noun):
    """What happens to the workers of one role."""

    role: str
    action: Action
    """`add` and `remove` leave the other workers running; `restart` ends and starts all of them."""
    workers_before: int
    workers_after: int
    gpus_drained: int = 0
    """GPUs of the workers that finish their requests and end."""
    gpus_started: int = 0
    """GPUs of the workers that load weights anew."""

    def __str__(self) -> str:
        more = abs(self.workers_after - self.workers_before)
        plural = "s" if more > 1 else ""
        if self.action == "add":
            return f"add {more} {self.role} worker{plural}"
        if self.action == "remove":
            return f"remove {more} {self.role} worker{plural}"
        if self.action == "keep":
            return f"{self.role} stays"
        return f"{self.role} {self.action}s"


class Transition(Noun):
    """The way from one recipe to another."""

    changes: tuple[FieldChange, ...]
    steps: tuple[RoleStep, ...]

    @property
    def summary(self) -> str:
        """Such as `add 2 prefill workers; decode restarts`; what stays comes last."""
        order = sorted(self.steps, key=lambda step: step.action == "keep")
        return "; ".join(map(str, order)) or "nothing changes"

    @property
    def started_gpus(self) -> int:
        """GPUs whose workers load weights anew."""
        return sum(s.gpus_started for s in self.steps)

    @property
    def drained_gpus(self) -> int:
        """GPUs whose workers finish their requests and end."""
        return sum(s.gpus_drained for s in self.steps)


def transition(before: Recipe, after: Recipe) -> Transition:
    """What it takes to go from `before` to `after` on the same cluster.

    An engine reads its flags and variables at start alone: any of them restarts all workers of its role.
    The number of workers is the router's business, and changes without a restart. A transfer backend is
    chosen at start by both roles.
    """
    changes: list[FieldChange] = []
    steps: list[RoleStep] = []
    whole = list(_whole(before, after))
    for role in dict.fromkeys((*before.groups, *after.groups)):
        old, new = before.groups.get(role), after.groups.get(role)
        found = list(_role_changes(role, old, new)) if old and new else []
        changes += found
        steps.append(_step(role, old, new, bool(whole) or any(c.field != "num_workers" for c in found)))
    frontend = list(_fields("frontend", before.frontend.model_dump(), after.frontend.model_dump()))
    if frontend:
        count = (before.frontend.router_processes, after.frontend.router_processes)
        steps.append(
            RoleStep(role="frontend", action="restart", workers_before=count[0], workers_after=count[1])
        )
    return Transition(changes=tuple(changes + frontend + whole), steps=tuple(steps))


def _whole(before: Recipe, after: Recipe) -> Iterator[FieldChange]:
    for name in ("model", "hardware", "transfer_backend", "stack"):
        old, new = getattr(before, name), getattr(after, name)
        if old != new and not (name == "transfer_backend" and None in (old, new)):
            yield FieldChange(role="deployment", field=name, before=old, after=new)
    for name in ("container", "model_path"):
        old, new = before.launch.get(name), after.launch.get(name)
        if old and new and old != new:
            yield FieldChange(role="deployment", field=f"launch.{name}", before=old, after=new)


def _role_changes(role: str, old: EngineGroup, new: EngineGroup) -> Iterator[FieldChange]:
    yield from _fields(role, old.model_dump(), new.model_dump())


def _fields(role: str, old: dict[str, Any], new: dict[str, Any], path: str = "") -> Iterator[FieldChange]:
    for name in dict.fromkeys((*old, *new)):
        a, b = old.get(name), new.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from _fields(role, a, b, f"{path}{name}.")
        elif a != b:
            yield FieldChange(role=role, field=f"{path}{name}", before=a, after=b)


def _step(role: str, old: EngineGroup | None, new: EngineGroup | None, restarts: bool) -> RoleStep:
    count = (old.num_workers if old else 0, new.num_workers if new else 0)
    width = (old.num_gpus if old else 0, new.num_gpus if new else 0)
    more = count[1] - count[0]
    if old is None or new is None or restarts:
        action: Action = "start" if old is None else "stop" if new is None else "restart"
        drained, started = count[0] * width[0], count[1] * width[1]
    else:
        action = "add" if more > 0 else "remove" if more < 0 else "keep"
        drained, started = max(-more, 0) * width[0], max(more, 0) * width[1]
    return RoleStep(
        role=role,
        action=action,
        workers_before=count[0],
        workers_after=count[1],
        gpus_drained=drained,
        gpus_started=started,
    )
