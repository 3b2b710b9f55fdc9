"""Servecast from Python: the commands as functions that return typed results.

```python
from planner.api import simulate, whatif
found = whatif("disagg-high-conc-6p1d-dep4-dep8-mtp", "isl=16384", "mtp.acceptance=0.6", concurrency=1024)
found.frame()  # with the extra `notebook`
```

Every result is a frozen pydantic model (`model_dump`, `model_dump_json`) with a method `frame` that gives a
pandas frame. Arguments have the names and meaning of the command line's options. Errors are those of
`search_spaces.errors`: `BadInput`, `Infeasible`, `MissingData`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any

from planner.capacity_report import Result, result_report
from planner.comparing import CompareRequest, Comparison
from planner.comparing import compare as _compare
from planner.field_changes import parse_changes
from planner.file_writer import write_file
from planner.plan import plan as _plan
from planner.plan_types import PlanRequest, PlanResult
from planner.recipe_source import LoadOptions
from planner.setting_source import setting_from
from planner.sizing import size as _size
from planner.sizing_source import SIZE_DEFAULTS, size_request
from planner.sizing_types import SizeResult
from planner.whatif import WhatIf, default_drivers
from planner.whatif import whatif as _whatif
from simulator.simulate import Prediction, predict

__all__ = ["compare", "plan", "report", "simulate", "size", "whatif"]


def simulate(recipe: str, *, explain: bool = False, **options: Any) -> Prediction:
    """Predict one recipe under one load.

    Args:
        recipe: a file, or the name of a public recipe.
        explain: also relieve each resource by a tenth, and break steps into components.
        options: `hardware`, `model`, `stack`, `calibration`, `seed`, `outages` and those of the load, such as
            `concurrency`, `isl`, `osl` or `request_rate`.
    """
    return predict(setting_from(_known(options) | {"recipe": recipe})[0], explain)


def whatif(
    recipe: str,
    *changes: str,
    combine: bool = False,
    explain: bool = False,
    workers: int | None = 1,
    **options: Any,
) -> WhatIf:
    """Simulate a recipe with fields of its scenario changed, beside the unchanged one.

    Args:
        recipe: as for `simulate`.
        changes: `FIELD=VALUE` texts as for `--set`; none scales what moves most deployments.
        combine: all changes at once.
        explain: as for `simulate`, in every scenario.
        workers: processes; None takes all cores.
        options: as for `simulate`, for the base.
    """
    setting, _ = setting_from(_known(options) | {"recipe": recipe})
    fields = parse_changes(setting, changes) or default_drivers(setting)
    return _whatif(setting, fields, combine, explain, workers)


def plan(
    model: str, hardware: str, *, out: Path | str | None = None, workers: int | None = None, **fields: Any
) -> PlanResult:
    """Search recipes and tabulate them by concurrency.

    Args:
        model: a catalog name.
        hardware: a catalog name.
        out: folder of the study and the prediction cache; None keeps both in memory.
        workers: processes; None takes all cores.
        fields: those of `PlanRequest`, such as `num_gpus`, `isl`, `concurrencies` or `slo`.
    """
    request = PlanRequest.parse({"model": model, "hardware": hardware, **fields}, "plan")
    return _plan(request, None if out is None else Path(out), workers)


def size(
    model: str,
    hardware: Sequence[str],
    goals: Iterable[str],
    *,
    workers: int | None = None,
    **options: Any,
) -> SizeResult:
    """Find the fewest GPUs that keep promises under given traffic.

    Args:
        model: a catalog name.
        hardware: platforms to choose from.
        goals: promises such as `ttft.p95=2000`.
        workers: processes; None takes all cores.
        options: those of `servecast size`, such as `request_rate`, `users`, `think_s` or `growth`.
    """
    given = {"model": model, "hardware": tuple(hardware), "goals": tuple(goals), **options}
    unknown = sorted(set(options) - set(SIZE_DEFAULTS))
    if unknown:
        raise TypeError(f"size() got an unexpected option {unknown[0]!r}; choose among {list(SIZE_DEFAULTS)}")
    return _size(size_request(SIZE_DEFAULTS | given), workers)


def compare(
    model: str,
    hardware: Sequence[str],
    *,
    prices: Mapping[str, float] | None = None,
    workers: int | None = None,
    **fields: Any,
) -> Comparison:
    """Put platforms side by side.

    Args:
        model: a catalog name.
        hardware: platforms.
        prices: US dollars per GPU-hour instead of the catalog's assumptions.
        workers: processes; None takes all cores.
        fields: those of `CompareRequest`, such as `num_gpus` or `concurrencies`.
    """
    data = {"model": model, "hardware": tuple(hardware), "prices": dict(prices or {}), **fields}
    return _compare(CompareRequest.parse(data, "compare"), workers)


def report(result: Result, file: Path | str, *, workers: int | None = 1) -> None:
    """Write the page of a what-if, a sizing, a comparison or a day.

    Args:
        result: as `whatif`, `size` and `compare` give it.
        file: the page, written in place of one that is there.
        workers: processes; None takes all cores.
    """
    from planner.html_report import html_page

    write_file(html_page(result_report(result, workers)), Path(file), "file")


SETTING_OPTIONS = frozenset(
    {"hardware", "model", "stack", "with_", "without", "calibration", "seed", "outages"}
    | {field.name for field in dataclass_fields(LoadOptions)}
)


def _known(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options themselves; raises `TypeError` for one that there is not, as Python does."""
    unknown = sorted(set(options) - SETTING_OPTIONS)
    if unknown:
        raise TypeError(f"unexpected option {unknown[0]!r}; choose among {sorted(SETTING_OPTIONS)}")
    return dict(options)
