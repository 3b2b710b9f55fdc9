"""What sizing is asked, and what it answers."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

from pydantic import Field

from planner.costs import TokenCost
from planner.demand import Demand
from planner.service_goal import Goal, Service
from search_spaces import catalog_loader
from search_spaces.base import Noun
from search_spaces.frames import as_frame
from search_spaces.recipe import Recipe
from search_spaces.workload import Workload
from simulator.intervals import Interval

LossKind = Literal["worker", "node", "rack"]


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
    spare: Literal["none", "worker", "node", "rack"] = "node"
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
    """What happens when a worker, a node or a rack dies; all by simulation."""

    kind: LossKind
    lost: tuple[dict[str, int], ...]
    """Of each hurt deployment, the workers that are gone by role."""
    in_place: Service | None
    """The worst hurt deployment with its usual share of arrivals; None where one has lost all workers of a
    role."""
    shared: Service | None
    """The worse of a hurt and a whole deployment when arrivals go to each in proportion to what is left of
    it; None where that was not needed or nothing is left."""
    survives: bool
    """Whether either keeps the goal."""

    @property
    def label(self) -> str:
        """What is gone, such as `2 x (1 prefill + 1 decode)`: of two deployments, these workers each."""
        texts = [" + ".join(f"{workers} {role}" for role, workers in part.items()) for part in self.lost]
        counted = Counter(texts).items()
        return " and ".join(text if count == 1 else f"{count} x ({text})" for text, count in counted)


class Fleet(Noun):
    """Equal deployments of one recipe that keep the goal at one level of load."""

    hardware: str
    recipe: Recipe
    topology: str
    replicas: int
    num_gpus: int
    nodes: int
    """As `planner.placement` packs the deployments."""
    racks: int | None
    """Racks of one NVLink domain; None on platforms without."""
    request_rate: float
    concurrency: float
    """Requests in flight over the fleet, on average."""
    workload: Workload
    """What one deployment was simulated with: its share of arrivals."""
    service: Service
    """Of that deployment."""
    tokens_per_s_per_user: float
    """1000 over median TPOT in ms."""
    intervals: dict[str, Interval]
    """80 % intervals of that deployment's metrics; see `simulator.intervals`."""
    limit: str
    cost: TokenCost
    """All GPUs of the nodes are paid for, idle ones too."""
    cost_per_user_hour: float
    """US dollars; of users where the demand states them, else of requests in flight."""
    power_kw: float
    """Boards of all GPUs at their rated power; hosts, network and cooling are not counted."""
    headroom: float | None = None
    """Share by which arrivals may grow before the goal breaks, up to 1; None where it was not looked for."""
    losses: list[LossCase] = Field(default_factory=list)
    spare_replicas: int = 0
    """Deployments to add so that the stated loss breaks nothing."""
    spare_nodes: int = 0
    """Nodes to add for them."""

    @property
    def num_gpus_with_spare(self) -> int:
        """GPUs of the fleet that the stated loss does not break."""
        return self.num_gpus + self.spare_replicas * self.recipe.num_gpus

    @property
    def dollars_per_hour_with_spare(self) -> float:
        """Price of all its nodes, per hour."""
        return self.cost.dollars_per_hour * (self.nodes + self.spare_nodes) / self.nodes


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
    command: str = ""
    """Command line that gives it; empty from Python."""

    def frame(self) -> Any:
        """A pandas frame: one row per level and platform."""
        same = (
            "hardware", "topology", "replicas", "num_gpus", "nodes", "racks", "request_rate", "concurrency",
            "tokens_per_s_per_user", "limit", "cost_per_user_hour", "power_kw", "headroom", "spare_replicas",
            "spare_nodes",
        )  # fmt: skip
        return as_frame(
            [
                {"level": level.name, **{name: getattr(fleet, name) for name in same}}
                | {"goodput": fleet.service.goodput, **fleet.service.attained_ms, **fleet.cost.model_dump()}
                for level in self.levels
                for fleet in level.fleets
            ]
        )
