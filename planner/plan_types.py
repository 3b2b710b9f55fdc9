"""What a plan is asked and what it answers."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from search_spaces import catalog_loader
from search_spaces.base import Noun
from search_spaces.dispatch import DispatchTable
from search_spaces.frames import as_frame
from search_spaces.workload import Slo


class PlanRequest(Noun):
    """What to plan for."""

    model: str
    hardware: str
    num_gpus: int = Field(default=84, ge=1, le=100_000)
    """Most GPUs one deployment may use."""
    isl: int = Field(default=8192, gt=0)
    osl: int = Field(default=1024, gt=0)
    random_range_ratio: float = Field(default=0.8, ge=0, le=1)
    concurrencies: tuple[int, ...] = ()
    """Loads; empty takes those of the public recipes."""
    slo: Slo = Field(default_factory=Slo)
    objective: str = Field(default="balanced", pattern="^(balanced|throughput|interactivity|ttft)$")
    risk: str = Field(default="expected", pattern="^(expected|lower)$")
    """Whether recipes are compared by what is expected or by the worse end of the 80 % interval."""
    mtp: bool = True
    """Whether drafting may be used."""
    stack: str = catalog_loader.DEFAULT_STACK
    max_recipes: int | None = Field(default=None, ge=1)
    """Most rows of the table; None allows one per load."""
    trials: int = Field(default=84, ge=0)
    """Trials per load beside screened and public recipes: two thirds are steps from the best recipes and from
    the front, the others the sampler's."""
    keep: int = Field(default=24, ge=2)
    """Screened recipes per load that are simulated."""
    traffic: dict[int, float] = Field(default_factory=dict)
    """Concurrency to the share of time spent there; given, rows minimise the expected loss."""
    switches_per_hour: float = Field(default=0.0, ge=0)
    """How often the load crosses from one planned load to the next; given, switches cost."""
    hysteresis: float = Field(default=0.1, ge=0, le=1)
    """Share of a row's boundary by which the load must pass it before the row is left."""
    warmup_s: float = Field(default=900.0, ge=0)
    """From the start of a worker until it serves; an assumption until the operator measures it."""
    seed: int = Field(default=0, ge=0)
    calibration: str | None = None


class EvaluatedPoint(Noun):
    """One simulated recipe at one load, for the picture and for the record."""

    recipe: str
    topology: str
    digest: str
    """Of the recipe."""
    mtp_steps: int
    """Draft steps; 0 without drafting."""
    origin: str
    num_gpus: int
    concurrency: int
    total_tokens_per_s_per_gpu: float
    tokens_per_s_per_user: float
    median_ttft_ms: float
    usable: bool
    full: bool
    """Whether all requests of the load were simulated, not the shorter run that ranks candidates."""


class PublicComparison(Noun):
    """A recommended recipe beside the public one at the same load, both under our model."""

    concurrency: int
    public: str
    recommended: str
    public_tokens_per_s_per_gpu: float
    recommended_tokens_per_s_per_gpu: float
    public_tokens_per_s_per_user: float
    recommended_tokens_per_s_per_user: float


class PlanResult(Noun):
    """Everything a plan found."""

    request: PlanRequest
    table: DispatchTable
    regret_by_recipes: list[float]
    """Worst regret with one, two, … rows."""
    counts: dict[str, int | dict[str, int]]
    points: list[EvaluatedPoint]
    comparisons: list[PublicComparison]
    skipped: dict[int, str]
    """Loads without a feasible recipe and why."""

    def frame(self) -> Any:
        """A pandas frame: one row per range of the dispatch table and load predicted in it."""
        return as_frame(
            [
                {
                    "min_concurrency": row.min_concurrency,
                    "max_concurrency": row.max_concurrency,
                    "topology": row.recipe.topology,
                    "num_gpus": row.recipe.num_gpus,
                    **prediction.model_dump(),
                }
                for row in self.table.rows
                for prediction in row.predictions
            ]
        )
