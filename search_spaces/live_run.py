"""A load that was driven against a real engine, and what its client saw."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache

from pydantic import Field, model_validator

from search_spaces.base import Noun
from search_spaces.catalog_loader import catalog_root
from search_spaces.records import METRICS
from search_spaces.workload import Workload


class LiveRun(Noun):
    """One load against the engine of a step profile: what a simulated run is compared with."""

    profile: str
    """Name of the step profile recorded from the same engine."""
    workload: Workload
    repeat: int = Field(default=0, ge=0)
    """How often the same load had been driven before; the first time may compile kernels."""
    completed: int = Field(ge=1)
    """Requests that finished."""
    duration_s: float = Field(gt=0)
    measured: dict[str, float]
    """Metric to value as `search_spaces.records.METRICS` names them, and `median_itl_ms`."""
    measured_on: str
    """Date, ISO."""
    source: str
    """Program that drove the load."""

    @model_validator(mode="after")
    def _known(self) -> LiveRun:
        unknown = sorted(set(self.measured) - {*METRICS, "median_itl_ms"})
        if unknown:
            raise ValueError(f"measured={unknown} is no metric; choose among {list(METRICS)}")
        return self


def live_runs_json(runs: Sequence[LiveRun]) -> str:
    """The file form, one run a line."""
    lines = ",\n ".join(run.model_dump_json() for run in runs)
    return f"[\n {lines}\n]\n"


@cache
def shipped_live_runs() -> tuple[LiveRun, ...]:
    """Every run in the catalog, by file name and then as driven."""
    found: list[LiveRun] = []
    for entry in sorted((catalog_root() / "live").iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".json"):
            rows = json.loads(entry.read_text())
            found += [LiveRun.parse(row, f"catalog/live/{entry.name}") for row in rows]
    return tuple(found)
