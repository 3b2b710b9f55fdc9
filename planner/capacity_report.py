"""Report pages of what-if, sizing, comparison and autoscaling: their results and what these rest on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from planner.autoscale import table_bench
from planner.autoscale_types import AutoscaleResult
from planner.comparing import ComparedPoint, Comparison, compare_bench
from planner.evaluate import Bench, setting_for
from planner.field_changes import Change, changed
from planner.parallel import map_all
from planner.report_data import Assumptions, ReportData, assumptions_of, case_of, explained
from planner.sizing_screen import bench_for, setting_at
from planner.sizing_types import SizeResult
from planner.whatif import Scenario, WhatIf
from search_spaces.base import Noun
from search_spaces.errors import BadInput
from simulator.world import Setting

MOST_CASES = 24
"""Scenarios whose memory, limits and times a page shows in full: those that move throughput most."""
RESULTS: dict[str, tuple[str, type[Noun]]] = {
    "scenarios": ("whatif", WhatIf),
    "levels": ("size", SizeResult),
    "fronts": ("compare", Comparison),
    "days": ("autoscale", AutoscaleResult),
}
"""Field that only this result has, to its command and type."""
Result = WhatIf | SizeResult | Comparison | AutoscaleResult


def read_result(file: Path) -> Result:
    """The result that a command printed with `--json`.

    Raises:
        BadInput: the file holds none.
    """
    try:
        data = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise BadInput(f"{str(file)!r} cannot be read as JSON ({error}); give what --json printed") from None
    for name, (_, kind) in RESULTS.items():
        if isinstance(data, dict) and name in data:
            found = kind.parse(data, str(file))
            assert isinstance(found, Result)
            return found
    names = ", ".join(f"`servecast {command}`" for command, _ in RESULTS.values())
    raise BadInput(f"{str(file)!r} is no result of {names}; give what --json printed")


def result_report(found: Result, workers: int | None = None) -> ReportData:
    """The report of a result.

    Recipes of fleets and of fronts are simulated once more, as `servecast simulate` does, for what relieving
    each resource gives; scenarios are shown as they were simulated.

    Args:
        found: of one of the capacity commands.
        workers: processes; None takes all cores.
    """
    if isinstance(found, WhatIf):
        return _whatif(found)
    if isinstance(found, SizeResult):
        return _size(found, workers)
    if isinstance(found, Comparison):
        return _compare(found, workers)
    return ReportData(
        kind="autoscale",
        command=found.command,
        version=version("servecast"),
        autoscale=found,
        cases=(),
        assumptions=_rests_on(table_bench(found.request)),
    )


def _whatif(found: WhatIf) -> ReportData:
    base = found.setting.setting
    shown = _most_moving(found.scenarios)
    cases, others = [], dict[str, Assumptions]()
    for scenario in (found.base, *shown):
        changes = [Change(name, text) for name, text in scenario.changes.items()]
        setting = changed(base, changes).setting if changes else base
        assert scenario.prediction is not None
        cases.append(case_of(setting, scenario.prediction, scenario.name))
        others.setdefault(scenario.hardware, _setting_rests_on(setting))
    mine = others.pop(found.base.hardware)
    return ReportData(
        kind="whatif",
        command=found.command,
        version=version("servecast"),
        whatif=found,
        cases=tuple(cases),
        assumptions=mine,
        other_platforms=tuple(others.values()),
    )


def _most_moving(scenarios: Sequence[Scenario]) -> list[Scenario]:
    """Scenarios that run, in their order; of many, those that change throughput per GPU most."""
    able = [scenario for scenario in scenarios if scenario.prediction is not None]

    def moved(scenario: Scenario) -> float:
        return abs(scenario.differences.get("total_tokens_per_s_per_gpu", 0.0))

    least = sorted(map(moved, able), reverse=True)[:MOST_CASES][-1:] or [0.0]
    return [scenario for scenario in able if moved(scenario) >= least[0]][:MOST_CASES]


def _size(found: SizeResult, workers: int | None) -> ReportData:
    benches = {name: bench_for(found.request, name) for name in found.request.hardware}
    by_name = {bench.hardware.name: bench for bench in benches.values()}
    fleets = found.levels[0].fleets
    settings = [
        replace(setting_at(by_name[fleet.hardware], fleet.recipe), workload=fleet.workload)
        for fleet in fleets
    ]
    labels = [
        f"{fleet.hardware}, one of {fleet.replicas} x {fleet.topology} at "
        f"{fleet.request_rate / fleet.replicas:.4g} requests/s"
        for fleet in fleets
    ]
    return _simulated("size", found, settings, labels, list(by_name.values()), workers)


def _compare(found: Comparison, workers: int | None) -> ReportData:
    benches = [compare_bench(found.request, name) for name in found.request.hardware]
    by_name = {bench.hardware.name: bench for bench in benches}
    chosen = [(front.hardware, point) for front in found.fronts for point in _ends_and_middle(front.points)]
    settings = [setting_for(by_name[name], point.recipe, point.concurrency) for name, point in chosen]
    labels = [f"{name}, {point.topology} at concurrency {point.concurrency}" for name, point in chosen]
    return _simulated("compare", found, settings, labels, benches, workers)


def _ends_and_middle(points: Sequence[ComparedPoint]) -> list[ComparedPoint]:
    picked = sorted({0, (len(points) - 1) // 2, len(points) - 1})
    return [points[index] for index in picked]


def _simulated(
    kind: str,
    found: SizeResult | Comparison,
    settings: Sequence[Setting],
    labels: Sequence[str],
    benches: Sequence[Bench],
    workers: int | None,
) -> ReportData:
    predictions = map_all(explained, settings, workers)
    first, *others = [_rests_on(bench) for bench in benches]
    return ReportData.model_validate(
        {
            "kind": kind,
            "command": found.command,
            "version": version("servecast"),
            kind: found,
            "cases": tuple(map(case_of, settings, predictions, labels)),
            "assumptions": first,
            "other_platforms": tuple(others),
        }
    )


def _rests_on(bench: Bench) -> Assumptions:
    return assumptions_of(bench.hardware, bench.model, bench.stack, bench.calibration, bench.seed)


def _setting_rests_on(setting: Setting) -> Assumptions:
    assert setting.hardware is not None and setting.model is not None
    return assumptions_of(setting.hardware, setting.model, setting.stack, setting.calibration, setting.seed)
