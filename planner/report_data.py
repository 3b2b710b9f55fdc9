"""What a report page shows: a plan or a prediction, what each recipe means, and what all of it rests on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from typing import Any, Literal, get_args

from planner.autoscale_types import AutoscaleResult
from planner.comparing import Comparison
from planner.evaluate import setting_for, start_worker
from planner.explanation import Explanation, explain
from planner.plan import bench_of
from planner.plan_types import PlanResult
from planner.sizing_types import SizeResult
from planner.whatif import WhatIf
from search_spaces.base import Noun
from search_spaces.errors import MissingData
from search_spaces.hardware import Hardware
from search_spaces.kernel_profile import load_profile
from search_spaces.model import ModelSpec
from search_spaces.stack import StackVersion, Switch
from search_spaces.workload import Workload
from simulator.calibration import Calibration, HostCosts
from simulator.kernel_owners import BORROW_ORDER
from simulator.simulate import Prediction, predict
from simulator.world import Setting


class ReportCase(Noun):
    """One recipe at one load: what it means before any request, and what its simulation gave."""

    label: str = ""
    """What it is here, such as a scenario's name; empty for a row of a table and for a lone prediction."""
    topology: str
    digest: str
    """Of the recipe."""
    source: str
    """Where the recipe was published, if it was."""
    workload: Workload
    prediction: Prediction
    explanation: Explanation


class KernelTables(Noun):
    """Which measured kernel times the predictions rest on."""

    profile: str
    meta: dict[str, Any]
    """Source, versions, license and digests, as the profile states them."""
    rows: dict[str, int]
    """Measured rows by table; empty where the platform has no profile."""
    borrowed_from: tuple[str, ...]
    """Platforms whose efficiency stands in for a missing table, nearest first."""


class Assumptions(Noun):
    """Everything besides recipe and load that a prediction depends on, with its sources."""

    hardware: Hardware
    model: ModelSpec
    stack: StackVersion
    switches_off: tuple[Switch, ...]
    """Known optimisations that this stack lacks."""
    calibration: Calibration
    calibration_digest: str
    """Of the values that decide a prediction; see `Calibration.digest`."""
    kernels: KernelTables
    seed: int
    meanings: dict[str, dict[str, str]]
    """Type to field to what the field means, units included."""


class ReportData(Noun):
    """Everything on a report page; the page holds it as JSON and shows nothing else."""

    kind: Literal["plan", "simulate", "whatif", "size", "compare", "autoscale"]
    command: str
    """Command line that gives the same figures."""
    version: str
    """Release of this package."""
    plan: PlanResult | None = None
    whatif: WhatIf | None = None
    size: SizeResult | None = None
    compare: Comparison | None = None
    autoscale: AutoscaleResult | None = None
    cases: tuple[ReportCase, ...]
    """One per row of the dispatch table, at the largest load it was planned for; the one prediction; base and
    scenarios; fleets; or ends and middles of fronts."""
    assumptions: Assumptions
    other_platforms: tuple[Assumptions, ...] = ()
    """What the results on further platforms rest on; model, stack and calibration are the same."""


def assumptions_of(
    hardware: Hardware, model: ModelSpec, stack: StackVersion, calibration: Calibration, seed: int
) -> Assumptions:
    """What predictions with these rest on."""
    return Assumptions(
        hardware=hardware,
        model=model,
        stack=stack,
        switches_off=tuple(switch for switch in get_args(Switch) if not stack.has(switch)),
        calibration=calibration,
        calibration_digest=calibration.digest,
        kernels=_kernel_tables(hardware.kernel_profile),
        seed=seed,
        meanings={
            kind.__name__: {name: field.description or "" for name, field in kind.model_fields.items()}
            for kind in (Hardware, Calibration, HostCosts)
        },
    )


def _kernel_tables(profile: str) -> KernelTables:
    others = tuple(name for name in BORROW_ORDER.get(profile, ()) if name != profile)
    try:
        found = load_profile(profile)
    except MissingData:
        return KernelTables(profile=profile, meta={}, rows={}, borrowed_from=others)
    rows = {name: len(next(iter(columns.values()))) for name, columns in found.tables.items()}
    return KernelTables(profile=profile, meta=found.meta, rows=rows, borrowed_from=others)


def case_of(setting: Setting, prediction: Prediction, label: str = "") -> ReportCase:
    """A simulated recipe with what follows from it before any request; raises as `known` does."""
    recipe, load = setting.recipe, setting.workload
    model, hardware = known(setting)
    return ReportCase(
        label=label,
        topology=recipe.topology,
        digest=recipe.digest,
        source=recipe.source,
        workload=load,
        prediction=prediction,
        explanation=explain(recipe, model, hardware, setting.stack, load, setting.calibration),
    )


def known(setting: Setting) -> tuple[ModelSpec, Hardware]:
    """Model and platform of a setting.

    Raises:
        MissingData: the setting is simulated from measured steps, and the catalog lacks one of them.
    """
    if setting.model is None or setting.hardware is None:
        raise MissingData(
            f"recipe={setting.recipe.name!r}: the catalog lacks {setting.recipe.model} or "
            f"{setting.recipe.hardware}, whose memory and sources a report shows; add them to the catalog"
        )
    return setting.model, setting.hardware


def prediction_report(setting: Setting, prediction: Prediction, command: str) -> ReportData:
    """The report of one prediction; raises as `known` does."""
    model, hardware = known(setting)
    return ReportData(
        kind="simulate",
        command=command,
        version=version("servecast"),
        plan=None,
        cases=(case_of(setting, prediction),),
        assumptions=assumptions_of(hardware, model, setting.stack, setting.calibration, setting.seed),
    )


def plan_report(
    result: PlanResult,
    command: str,
    workers: int = 1,
    on_step: Callable[[int], None] = lambda done: None,
) -> ReportData:
    """The report of a plan.

    A plan keeps of each simulation what it needs to choose. Where a request's time goes and what
    relieving a resource gives is simulated here, for the recipes of the table, at full length.

    Args:
        result: the plan.
        command: command line that gives it.
        workers: processes.
        on_step: called with the number of recipes done.
    """
    bench = bench_of(result.request)
    settings = [
        setting_for(bench, row.recipe, max((p.concurrency for p in row.predictions), default=1))
        for row in result.table.rows
    ]
    cases = []
    for done, (setting, found) in enumerate(zip(settings, _predictions(settings, workers), strict=True), 1):
        cases.append(case_of(setting, found))
        on_step(done)
    return ReportData(
        kind="plan",
        command=command,
        version=version("servecast"),
        plan=result,
        cases=tuple(cases),
        assumptions=assumptions_of(bench.hardware, bench.model, bench.stack, bench.calibration, bench.seed),
    )


def _predictions(settings: Sequence[Setting], workers: int) -> Iterator[Prediction]:
    pool = ProcessPoolExecutor(workers, initializer=start_worker)
    try:
        yield from pool.map(explained, settings)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def explained(setting: Setting) -> Prediction:
    """Its prediction with what relieving each resource gives, and step times by component."""
    return predict(setting, explain=True)
