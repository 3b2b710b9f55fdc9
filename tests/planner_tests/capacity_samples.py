"""Small results of the capacity commands, made once, and their pages."""

from __future__ import annotations

from functools import cache
from typing import Any

from planner.autoscale import autoscale
from planner.autoscale_types import AutoscaleRequest, AutoscaleResult
from planner.capacity_report import Result, result_report
from planner.comparing import CompareRequest, Comparison, compare
from planner.demand import diurnal
from planner.field_changes import parse_changes
from planner.html_report import html_page
from planner.service_goal import parse_goal
from planner.sizing import size
from planner.sizing_source import SIZE_DEFAULTS, size_request
from planner.sizing_types import SizeResult
from planner.whatif import WhatIf, whatif
from search_spaces import catalog_loader
from search_spaces.dispatch import DispatchRow, DispatchTable
from search_spaces.recipe import Recipe
from search_spaces.workload import Workload
from simulator.calibration import load_calibration
from simulator.world import Setting
from tests.planner_tests.samples import SINGLE
from tests.simulator_tests.worlds import aggregated

MODEL = "DeepSeek-V4-Flash"
SHORT: dict[str, Any] = {"isl": 2048, "osl": 64}
CHANGES = ("workload.isl=256,1024", "recipe.aggregated.mem_fraction_static=0.05", "price=x2",
           "outage=aggregated:0@0.1+1", "relief.decode_time=x0.5")  # fmt: skip


def _setting() -> Setting:
    recipe = Recipe.model_validate(SINGLE)
    return Setting(
        recipe,
        Workload(isl=512, osl=32, concurrency=2, num_prompts=4),
        catalog_loader.model(recipe.model),
        catalog_loader.hardware(recipe.hardware),
        catalog_loader.stack("june"),
        load_calibration(None),
    )


@cache
def sample_whatif() -> WhatIf:
    """Scenarios that cost more, limit otherwise, lose a worker, and cannot run; limits explained."""
    setting = _setting()
    return whatif(setting, parse_changes(setting, CHANGES), explain=True, workers=1)


@cache
def sample_grid() -> WhatIf:
    """Two fields with two and three values."""
    setting = _setting()
    return whatif(setting, parse_changes(setting, ["isl=256,512", "concurrency=1,2,4"]), workers=1)


@cache
def sample_size() -> SizeResult:
    """Two platforms, one of them dear; two levels; losses of a node."""
    options = SIZE_DEFAULTS | SHORT | {"model": MODEL, "hardware": ("b200", "h200"), "growth": "1,2"}
    options |= {"goals": ("ttft.p90=1000", "tpot.p90=30"), "request_rate": 40.0, "deployment_gpus": 8}
    return size(size_request(options | {"mtp": False, "prices": ("h200=5",)}), workers=1)


@cache
def sample_compare() -> Comparison:
    """Two fronts and a platform whose GPUs hold too little."""
    request = CompareRequest(
        model=MODEL, hardware=("b200", "h200"), **SHORT, num_gpus=16, concurrencies=(2, 64), members=4,
        mtp=False, prices={"h200": 1.0},
    )  # fmt: skip
    return compare(request, workers=1)


@cache
def sample_day() -> AutoscaleResult:
    """A day with a deep night over a table of two rows."""
    small, large = (aggregated(kind, model="flash", hardware="b200") for kind in ("TP4", "DEP8"))
    table = DispatchTable(
        model=small.model, hardware="b200", stack="june", **SHORT, num_gpus=8,
        rows=(DispatchRow(min_concurrency=1, max_concurrency=20, recipe=small),
              DispatchRow(min_concurrency=21, max_concurrency=1000, recipe=large)),
    )  # fmt: skip
    goal = parse_goal(["ttft.p90=1000"])
    request = AutoscaleRequest(table=table, profile=diurnal(0.1), peak_rate=60.0, goal=goal)
    return autoscale(request, workers=1)


SAMPLES = {
    "whatif": sample_whatif,
    "grid": sample_grid,
    "size": sample_size,
    "compare": sample_compare,
    "autoscale": sample_day,
}


@cache
def sample_page(name: str) -> str:
    """The page of one of the samples."""
    return html_page(result_report(named(name), 1))


def named(name: str) -> Result:
    """A sample with a command, as the command line gives it one."""
    found = SAMPLES[name]().model_copy(update={"command": f"servecast {name}"})
    assert isinstance(found, Result)
    return found
