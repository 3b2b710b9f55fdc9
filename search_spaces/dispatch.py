"""A dispatch table: which recipe serves which range of concurrency, and what it is predicted to give."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from search_spaces.base import Noun
from search_spaces.errors import BadInput
from search_spaces.recipe import Recipe
from search_spaces.transition import RoleStep
from search_spaces.workload import Slo

SCHEMA_VERSION = 2
INTERVALS = (
    "total_tokens_per_s_per_gpu", "output_tokens_per_s_per_gpu", "tokens_per_s_per_user", "median_tpot_ms",
    "median_ttft_ms",
)  # fmt: skip
"""Metrics that may carry an interval."""


class PredictedMetrics(Noun):
    """What a recipe is predicted to give at one concurrency; throughput is per GPU of all GPUs."""

    concurrency: int = Field(ge=1)
    total_tokens_per_s_per_gpu: float = Field(ge=0)
    output_tokens_per_s_per_gpu: float = Field(ge=0)
    tokens_per_s_per_user: float = Field(ge=0)
    median_tpot_ms: float = Field(ge=0)
    mean_tpot_ms: float = Field(ge=0)
    median_ttft_ms: float = Field(ge=0)
    mean_ttft_ms: float = Field(ge=0)
    limit: str = ""
    """What holds throughput back, such as `prefill compute`."""
    total_tokens_per_s_per_gpu_low: float | None = Field(default=None, ge=0)
    total_tokens_per_s_per_gpu_high: float | None = Field(default=None, ge=0)
    median_tpot_ms_low: float | None = Field(default=None, ge=0)
    median_tpot_ms_high: float | None = Field(default=None, ge=0)
    output_tokens_per_s_per_gpu_low: float | None = Field(default=None, ge=0)
    output_tokens_per_s_per_gpu_high: float | None = Field(default=None, ge=0)
    tokens_per_s_per_user_low: float | None = Field(default=None, ge=0)
    tokens_per_s_per_user_high: float | None = Field(default=None, ge=0)
    median_ttft_ms_low: float | None = Field(default=None, ge=0)
    median_ttft_ms_high: float | None = Field(default=None, ge=0)
    """Ends of 80 % intervals: four in five deployments like this one measure within."""
    runner_up: str | None = None
    """Topology of the next best recipe at this concurrency, where there was one."""
    lead: float | None = None
    """Objective over the runner-up's, minus one."""
    tie: bool = False
    """Whether that lead is within what two recipes' prediction errors differ by."""

    @model_validator(mode="after")
    def _intervals(self) -> PredictedMetrics:
        for name in INTERVALS:
            low, high = getattr(self, f"{name}_low"), getattr(self, f"{name}_high")
            if (low is None) != (high is None):
                raise ValueError(f"{name}_low={low}, {name}_high={high}: give both ends or neither")
            if low is not None and not low <= getattr(self, name) <= high:
                raise ValueError(
                    f"{name}={getattr(self, name)} must lie in its interval [{low}, {high}]; widen it"
                )
        return self


class Switch(Noun):
    """Going from a row's recipe to a neighbouring row's."""

    summary: str
    """Such as `add 2 prefill workers; decode restarts`."""
    steps: tuple[RoleStep, ...]
    drain_s: float = Field(ge=0)
    """Until requests in flight end on workers that stop: a request's mean latency (predicted)."""
    warmup_s: float = Field(ge=0)
    """Until started workers serve (given, not predicted)."""
    lost_gpu_s: float = Field(ge=0)
    """GPU seconds that serve nothing: drained GPUs while draining, started GPUs while warming up."""


class DispatchRow(Noun):
    """One range of concurrency, both ends included, and its recipe."""

    min_concurrency: int = Field(ge=1)
    max_concurrency: int = Field(ge=1)
    recipe: Recipe
    predictions: tuple[PredictedMetrics, ...] = ()
    """At concurrencies of the range, in rising order."""
    regret: float | None = Field(default=None, ge=0)
    """Largest share of throughput lost in the range against the best recipe at each concurrency."""
    max_running: int | None = Field(default=None, ge=1)
    """Requests that decode at once; more wait."""
    switch_up_at: int | None = Field(default=None, ge=1)
    """Load at which the next row takes over from this one; above its range, so that small swings do not."""
    switch_down_at: int | None = Field(default=None, ge=0)
    """Load at which the row before takes over from this one; below its range."""
    to_next: Switch | None = None
    to_previous: Switch | None = None

    @model_validator(mode="after")
    def _thresholds(self) -> DispatchRow:
        up, down = self.switch_up_at, self.switch_down_at
        if up is not None and up <= self.max_concurrency:
            raise ValueError(
                f"switch_up_at={up} must exceed max_concurrency={self.max_concurrency}; raise it"
            )
        if down is not None and down >= self.min_concurrency:
            raise ValueError(
                f"switch_down_at={down} must be below min_concurrency={self.min_concurrency}; lower it"
            )
        return self

    @model_validator(mode="after")
    def _range(self) -> DispatchRow:
        low, high = self.min_concurrency, self.max_concurrency
        if low > high:
            raise ValueError(f"min_concurrency={low} must not exceed max_concurrency={high}; swap them")
        points = [p.concurrency for p in self.predictions]
        if points != sorted(set(points)) or any(not low <= c <= high for c in points):
            raise ValueError(f"predictions at {points} must rise within [{low}, {high}]; sort or move them")
        return self


class DispatchTable(Noun):
    """Recipes over concurrency for one model, platform and workload, within one number of GPUs."""

    schema_version: int = Field(default=SCHEMA_VERSION, ge=1, le=SCHEMA_VERSION)
    model: str
    hardware: str
    stack: str
    isl: int = Field(gt=0)
    osl: int = Field(gt=0)
    random_range_ratio: float = Field(default=0.8, ge=0, le=1)
    slo: Slo = Field(default_factory=Slo)
    num_gpus: int = Field(ge=1)
    """Most GPUs a row may use."""
    rows: tuple[DispatchRow, ...] = Field(min_length=1)
    max_regret: float | None = Field(default=None, ge=0)
    """Largest regret of any row, a share of throughput."""
    mean_regret: float | None = Field(default=None, ge=0)
    """Mean regret over the loads, weighted by traffic where that is given."""
    traffic: dict[int, float] = Field(default_factory=dict)
    """Concurrency to its share of the time, where the table was made for a traffic."""
    provenance: dict[str, str] = Field(default_factory=dict)
    """How the table was made: versions, seed, search budget."""

    @model_validator(mode="after")
    def _rows(self) -> DispatchTable:
        for before, after in zip(self.rows, self.rows[1:], strict=False):
            if after.min_concurrency <= before.max_concurrency:
                raise ValueError(
                    f"row [{after.min_concurrency}, {after.max_concurrency}] must start above "
                    f"max_concurrency={before.max_concurrency} of the row before; sort or trim the rows"
                )
        for row in self.rows:
            if row.recipe.num_gpus > self.num_gpus:
                raise ValueError(
                    f"row {row.recipe.name!r} uses {row.recipe.num_gpus} GPUs, more than "
                    f"num_gpus={self.num_gpus}; raise num_gpus or drop the row"
                )
            if (row.recipe.model, row.recipe.hardware) != (self.model, self.hardware):
                raise ValueError(
                    f"row {row.recipe.name!r} is for {row.recipe.model} on {row.recipe.hardware}, the table "
                    f"for {self.model} on {self.hardware}; keep one model and platform per table"
                )
        return self

    def lookup(self, concurrency: int) -> DispatchRow:
        """The row whose range holds `concurrency`; raises `BadInput` outside every range."""
        for row in self.rows:
            if row.min_concurrency <= concurrency <= row.max_concurrency:
                return row
        ranges = [f"{r.min_concurrency}-{r.max_concurrency}" for r in self.rows]
        raise BadInput(f"concurrency={concurrency} is in no range of the table; choose within {ranges}")


def dispatch_schema() -> dict[str, Any]:
    """JSON schema of a dispatch table as it is written to a file."""
    return DispatchTable.model_json_schema(mode="serialization")
