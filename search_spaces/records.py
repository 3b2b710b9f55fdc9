"""A measured point: one published or own end-to-end result, and the recipe that gave it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from search_spaces.base import Noun
from search_spaces.recipe import Recipe
from search_spaces.step_profile import StepProfile
from search_spaces.units import MS_PER_S
from search_spaces.workload import Workload

METRICS = (
    "total_tokens_per_s_per_gpu",
    "output_tokens_per_s_per_gpu",
    "median_tpot_ms",
    "mean_tpot_ms",
    "p99_tpot_ms",
    "median_ttft_ms",
    "mean_ttft_ms",
    "p99_ttft_ms",
    "mean_e2e_ms",
    "median_e2e_ms",
)
"""Names `MeasuredPoint.measured` may use; throughput is per GPU of the whole deployment."""


class Provenance(Noun):
    """How one of our own results came about."""

    measured_on: str
    """Date and time, ISO, UTC."""
    seed: int
    """Of the load; the prediction used the same."""
    recipe_digest: str
    device: str
    """As the driver prints it."""
    server_command: tuple[str, ...] = ()
    """Empty for a server that was attached to."""
    load_command: tuple[str, ...]
    completed: int
    """Requests answered."""
    duration_s: float


class MeasuredPoint(Noun):
    """One result. `refused` says why it cannot be compared with a prediction, if it cannot."""

    id: str
    trust: Literal["A", "B", "C", "D", "X"]
    """A: official, exact recipe; B: author's report, recipe known; C: matched database medians;
    D: rounded or superseded; X: measured in a wrong configuration."""
    model: str
    """As the source names it."""
    hardware: str
    engine: str
    engine_version: str
    """Release or image, as the source names it."""
    stack: str
    """StackVersion that stands for the build."""
    num_gpus: int = Field(ge=1)
    recipe: Recipe | None = None
    workload: Workload | None = None
    measured: dict[str, float] = Field(default_factory=dict)
    """Metric to value; the names are `METRICS`."""
    total_is_nominal: bool = False
    """Whether the published total is output throughput times (isl + osl) / osl of the nominal lengths,
    rather than tokens counted."""
    refused: str | None = None
    source: str = ""
    steps: StepProfile | None = None
    """Measured steps to predict from, instead of the kernel model."""
    provenance: Provenance | None = None
    """For our own runs."""

    @model_validator(mode="after")
    def _complete(self) -> MeasuredPoint:
        unknown = sorted(set(self.measured) - set(METRICS))
        if unknown:
            raise ValueError(f"measured={unknown} is no metric; choose among {list(METRICS)}")
        if self.refused is None and (self.recipe is None or self.workload is None):
            raise ValueError(
                f"point {self.id!r} has no recipe or no workload and no reason; set `refused` to the reason"
            )
        return self

    @property
    def usable(self) -> bool:
        """Whether a prediction can be compared with the point."""
        return self.refused is None

    @property
    def concurrency(self) -> int | None:
        """Requests in flight, where the workload is known."""
        return self.workload.concurrency if self.workload else None

    def as_published(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Counted metrics by this point's own definition of the total."""
        found = dict(metrics)
        if self.total_is_nominal and self.workload is not None and "output_tokens_per_s_per_gpu" in found:
            nominal = (self.workload.isl + self.workload.osl) / self.workload.osl
            found["total_tokens_per_s_per_gpu"] = found["output_tokens_per_s_per_gpu"] * nominal
        return found

    @property
    def tokens_per_s_per_user(self) -> float | None:
        """1000 / median TPOT in ms, else over mean TPOT."""
        tpot = self.measured.get("median_tpot_ms") or self.measured.get("mean_tpot_ms")
        return MS_PER_S / tpot if tpot else None
