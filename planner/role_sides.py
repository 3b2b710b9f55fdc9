"""Roles of the layouts of a space at one load, each judged once however many layouts share it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from planner.evaluate import Bench, prompts_for_steps, workload_at
from search_spaces.errors import Infeasible
from search_spaces.laws import role_violations
from search_spaces.recipe import EngineGroup
from search_spaces.space import Role, SearchSpace
from search_spaces.space_points import Site, deployment_at, role_at
from simulator.setting import Setting
from simulator.world import RolePart, role_part


@dataclass(frozen=True)
class Side:
    """One role of a layout, with its other knobs as the point has them."""

    group: EngineGroup | None
    """None where no engine can express it."""
    broken: str = ""
    """The first hard law it breaks, whatever the other role is."""
    unfit: str = ""
    """The rule by which it has no memory."""
    index: int = -1
    """Its class among `Sides.parts`."""


class Sides:
    """The sides of one space at one load."""

    def __init__(self, bench: Bench, space: SearchSpace, concurrency: int) -> None:
        """Args: what is fixed, the space and the load."""
        self._bench, self._space, self._concurrency = bench, space, concurrency
        self.site = Site(bench.model, bench.hardware, bench.workload.at(concurrency))
        self._known: dict[tuple[Role, int, str, int], Side] = {}
        self._settings: dict[int, Setting] = {}
        self._backends: dict[int, str] = {}
        self.parts: list[RolePart] = []
        """Classes of all sides that can run, in the order of `Side.index`."""

    def setting(self, steps: int) -> Setting:
        """The load under some drafting; it has no recipe, and is for what looks at none."""
        if steps not in self._settings:
            bench = self._bench
            workload = workload_at(bench, prompts_for_steps(steps), self._concurrency)
            nothing: Any = None
            self._settings[steps] = Setting(
                nothing, workload, bench.model, bench.hardware, bench.stack, bench.calibration, bench.seed
            )
        return self._settings[steps]

    def transfer_backend(self, point: Mapping[str, Any]) -> str:
        """How a point's roles hand over; the same for all layouts of one drafting."""
        steps = int(point["mtp_steps"])
        if steps not in self._backends:
            self._backends[steps] = deployment_at(self._space, point, self.site)["transfer_backend"]
        return self._backends[steps]

    def side(self, role: Role, point: Mapping[str, Any]) -> Side:
        """The side of a point whose other knobs are at their first choices."""
        key = (role, int(point["mtp_steps"]), str(point[f"{role}.plan"]), int(point[f"{role}.workers"]))
        if key not in self._known:
            self._known[key] = self._judged(role, point)
        return self._known[key]

    def _judged(self, role: Role, point: Mapping[str, Any]) -> Side:
        bench, setting = self._bench, self.setting(point["mtp_steps"])
        try:
            group = role_at(self._space, role, point, self.site)
        except ValidationError:
            return Side(None)
        for violation in role_violations(
            role, group, bench.model, bench.hardware, setting.workload, bench.stack.version
        ):
            if violation.severity == "hard":
                return Side(group, violation.rule)
        try:
            self.parts.append(role_part(setting, role, group))
        except Infeasible as error:
            return Side(group, unfit=error.rule)
        return Side(group, index=len(self.parts) - 1)
