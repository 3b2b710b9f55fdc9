"""What sizing is asked, and what it answers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from planner.costs import TokenCost
from planner.demand import Demand
from planner.service_goal import Goal, Service
from search_spaces import catalog_loader
from search_spaces.base import Noun
from search_spaces.frames import as_frame
from search_spaces.recipe import Recipe

LossKind = Literal["worker", "node"]


class SizeRequest(Noun):
    """Traffic, promises and platforms to choose from."""

    model: str
    hardware: tuple[str, ...] = Field(min_length=1)
    demand: Demand
    goal: Goal
    max_gpus: int = Field(default=100_000, ge=1)
    """Most GPUs of the fleet."""
    deployment_gpus: int = Field(default=72, ge=1)
    """Most GPUs of one deployment."""
    spare: Literal["none", "worker", "node"] = "node"
    """What the fleet must be able to lose."""
    prices: dict[str, float] = Field(default_factory=dict)
    """US dollars per GPU-hour by platform, instead of the catalog's assumptions."""
    mtp: bool = True
    stack: str = catalog_loader.DEFAULT_STACK
    keep: int = Field(default=24, ge=2)
    """Screened recipes per load."""
    tries: int = Field(default=3, ge=1)
    """Recipes per platform and level that are simulated."""
    seed: int = Field(default=0, ge=0)
    calibration: str | None = None


class LossCase(Noun):
    """What happens when part of one deployment dies; all by simulation."""

    kind: LossKind
    role: str
    workers: int
    """Workers of the role that are gone."""
    in_place: Service | None
    """The same deployment with its usual share of arrivals; None where no worker of the role is left."""
    shared: Service | None
    """The worse of the hurt and a whole deployment when arrivals go to each in proportion to what is left of
    it; None where that was not needed or there is only one."""
    survives: bool
    """Whether either keeps the goal."""


class Fleet(Noun):
    """Equal deployments of one recipe that keep the goal at one level of load."""

    hardware: str
    recipe: Recipe
    topology: str
    replicas: int
    num_gpus: int
    nodes: int
    racks: int | None
    """Racks of one NVLink domain; None on platforms without."""
    request_rate: float
    concurrency: float
    """Requests in flight over the fleet, on average."""
    service: Service
    """Of one deployment with its share of arrivals."""
    tokens_per_s_per_user: float
    """1000 over median TPOT in ms."""
    limit: str
    cost: TokenCost
    cost_per_user_hour: float
    """US dollars; of users where the demand states them, else of requests in flight."""
    power_kw: float
    """Boards of all GPUs at their rated power; hosts, network and cooling are not counted."""
    headroom: float | None = None
    """Share by which arrivals may grow before the goal breaks, up to 1; None where it was not looked for."""
    losses: list[LossCase] = Field(default_factory=list)
    spare_replicas: int = 0
    """Deployments to add so that the stated loss breaks nothing."""

    @property
    def num_gpus_with_spare(self) -> int:
        """GPUs of the fleet that the stated loss does not break."""
        return self.num_gpus + self.spare_replicas * self.recipe.num_gpus


class Level(Noun):
    """One level of load and the fleet of each platform that is cheapest with its spare, cheapest first."""

    name: str
    request_rate: float
    fleets: list[Fleet]
    refused: dict[str, str]
    """Platform to why it has no fleet."""


class SizeResult(Noun):
    """Fleets by level of load."""

    request: SizeRequest
    levels: list[Level]
    static_gpu_hours_per_day: float | None = None
    """Of the cheapest fleet at the peak, kept all day; None without a profile."""
    scaled_gpu_hours_per_day: float | None = None
    """With the cheapest platform's fleet of each moment's level, changes taken as instant."""
    counts: dict[str, int] = Field(default_factory=dict)

    def frame(self) -> Any:
        """A pandas frame: one row per level and platform."""
        same = (
            "hardware", "topology", "replicas", "num_gpus", "nodes", "racks", "request_rate", "concurrency",
            "tokens_per_s_per_user", "limit", "cost_per_user_hour", "power_kw", "headroom", "spare_replicas",
        )  # fmt: skip
        return as_frame(
            [
                {"level": level.name, **{name: getattr(fleet, name) for name in same}}
                | {"goodput": fleet.service.goodput, **fleet.service.attained_ms, **fleet.cost.model_dump()}
                for level in self.levels
                for fleet in level.fleets
            ]
        )
