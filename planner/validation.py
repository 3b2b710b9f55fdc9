"""Compare predictions with measured points: errors per point, and statistics per lane.

An error is predicted / measured - 1, so that a positive one overestimates.
"""

from __future__ import annotations

import fnmatch
import math
import os
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field
from scipy.stats import kendalltau

from planner.calibrate import setting_of
from search_spaces import catalog_loader
from search_spaces.base import Noun
from search_spaces.errors import BadInput, Infeasible, MissingData, OutOfTolerance
from search_spaces.records import MeasuredPoint
from search_spaces.step_profile import StepProfile
from search_spaces.workload import Workload
from simulator.calibration import Calibration
from simulator.simulate import predict

THROUGHPUT = "total_tokens_per_s_per_gpu"
METRICS = (
    THROUGHPUT,
    "output_tokens_per_s_per_gpu",
    "median_tpot_ms",
    "mean_tpot_ms",
    "median_ttft_ms",
    "mean_ttft_ms",
)
"""What is compared; names as in `search_spaces.records.METRICS`."""
LEAST_RANKED = 3
"""Distinct values below which a rank correlation says nothing."""

Key = tuple[str, Workload, str, StepProfile | None, int | None]


class PointResult(Noun):
    """One point: what was predicted and measured, and how far apart they are."""

    id: str
    lane: str | None
    """`gb300-disagg-pro-mtp`; None where the recipe is not known."""
    trust: str
    status: Literal["predicted", "refused", "infeasible"]
    reason: str | None = None
    """Why there is no prediction."""
    predicted: dict[str, float] = Field(default_factory=dict)
    measured: dict[str, float] = Field(default_factory=dict)
    errors: dict[str, float] = Field(default_factory=dict)
    """Metric to predicted / measured - 1, a fraction."""
    limit: str | None = None
    wall_s: float | None = None
    """Processor time of the simulation; points of one setting share one simulation."""


class MetricErrors(Noun):
    """Errors of one metric over points, in per cent."""

    n: int
    median_abs_error_pct: float
    mean_abs_error_pct: float
    bias_pct: float
    """Mean of the signed errors; positive overestimates."""


class LaneSummary(Noun):
    """The predicted points of one lane."""

    lane: str
    n: int
    """Points that were predicted."""
    num_infeasible: int
    metrics: dict[str, MetricErrors]
    """Metrics that at least one predicted point was measured in."""
    kendall_tau: float | None
    """Rank correlation of predicted with measured tok/s/GPU; None below three distinct values."""


class CalibrationId(Noun):
    """Which calibration predicted."""

    name: str
    digest: str
    """Sixteen hex digits over all its values."""


class ValidationReport(Noun):
    """Everything `servecast validate` found."""

    points: list[PointResult]
    summary: list[LaneSummary]
    overall: LaneSummary
    calibration: CalibrationId


class Outcome(NamedTuple):
    """What simulating one setting gave: metrics, or the reason why there are none."""

    status: Literal["predicted", "refused", "infeasible"]
    reason: str | None
    metrics: dict[str, float]
    limit: str | None
    wall_s: float | None


def lane_of(point: MeasuredPoint) -> str | None:
    """`<hardware>-<disagg|agg>-<pro|flash>-<mtp|dspark|nomtp>` of a point whose recipe is known."""
    recipe = point.recipe
    if recipe is None:
        return None
    name = recipe.model if point.steps else catalog_loader.model(recipe.model).name
    size = name.lower().rsplit("-", 1)[-1]
    mode = "disagg" if recipe.is_disaggregated else "agg"
    drafts = "nomtp" if recipe.mtp is None else "dspark" if recipe.mtp.algorithm == "dspark" else "mtp"
    return f"{recipe.hardware}-{mode}-{size}-{drafts}"


def only_lanes(points: Sequence[MeasuredPoint], pattern: str) -> list[MeasuredPoint]:
    """The points of lanes that match a name or shell pattern; raises `BadInput` for none."""
    lanes = {lane for point in points if (lane := lane_of(point))}
    chosen = set(fnmatch.filter(lanes, pattern.lower()))
    if not chosen:
        raise BadInput(f"only={pattern!r} matches no lane of the points; choose one of {sorted(lanes)}")
    return [point for point in points if lane_of(point) in chosen]


def setting_key(point: MeasuredPoint) -> Key:
    """Points with equal keys are predicted alike."""
    assert point.recipe is not None and point.workload is not None
    seed = point.provenance.seed if point.provenance else None
    return point.recipe.digest, point.workload, point.stack, point.steps, seed


def simulate_point(point: MeasuredPoint, calibration: Calibration) -> Outcome:
    """Predict a usable point; a recipe that cannot run and data that are absent become a status."""
    try:
        found = predict(setting_of(point, calibration))
    except Infeasible as error:
        return Outcome("infeasible", str(error), {}, None, None)
    except MissingData as error:
        return Outcome("refused", str(error), {}, None, None)
    metrics = {name: found.metrics[name] for name in METRICS}
    return Outcome("predicted", None, metrics, found.limit, found.wall_s)


def _task(key: Key, point: MeasuredPoint, calibration: Calibration) -> tuple[Key, Outcome]:
    return key, simulate_point(point, calibration)


def _quiet_interrupt() -> None:
    """Let Ctrl-C end a worker without a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def num_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def simulate_all(
    points: Iterable[MeasuredPoint],
    calibration: Calibration,
    workers: int | None = None,
    on_done: Callable[[int, int], None] | None = None,
) -> dict[Key, Outcome]:
    """Predict every distinct setting of the usable points once, in parallel.

    Args:
        points: measured points; unusable ones are skipped.
        calibration: fitted quantities.
        workers: processes; None uses all cores.
        on_done: called with settings done and settings in all.
    """
    distinct = {setting_key(p): p for p in points if p.usable}
    tasks = sorted(distinct.items(), key=lambda item: item[0][1].measured_requests)
    found: dict[Key, Outcome] = {}

    def record(key: Key, outcome: Outcome) -> None:
        found[key] = outcome
        if on_done is not None:
            on_done(len(found), len(tasks))

    # The smallest one runs here, so that the loop is compiled once and not in every worker.
    serial = tasks if workers == 1 else tasks[:1]
    for key, point in serial:
        record(key, simulate_point(point, calibration))
    rest = tasks[len(serial) :][::-1]
    if rest:
        _simulate_parallel(rest, calibration, min(workers or num_cores(), len(rest)), record)
    return found


def _simulate_parallel(
    tasks: Sequence[tuple[Key, MeasuredPoint]],
    calibration: Calibration,
    workers: int,
    record: Callable[[Key, Outcome], None],
) -> None:
    """Run the tasks on a pool; the first ones given start first."""
    pool = ProcessPoolExecutor(workers, initializer=_quiet_interrupt)
    try:
        for done in as_completed([pool.submit(_task, key, point, calibration) for key, point in tasks]):
            record(*done.result())
    except BrokenProcessPool:
        raise MissingData(
            f"workers={workers}: a simulation process died, as for want of memory; use fewer workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def compare(point: MeasuredPoint, outcome: Outcome | None) -> PointResult:
    """One row of the report; `outcome` is None for a point that cannot be predicted."""
    measured = {name: point.measured[name] for name in METRICS if name in point.measured}
    outcome = outcome or Outcome("refused", point.refused, {}, None, None)
    predicted = point.as_published(outcome.metrics)
    return PointResult(
        id=point.id,
        lane=lane_of(point),
        trust=point.trust,
        status=outcome.status,
        reason=outcome.reason,
        predicted=predicted,
        measured=measured,
        errors={
            name: predicted[name] / value - 1
            for name, value in measured.items()
            if name in predicted and value > 0
        },
        limit=outcome.limit,
        wall_s=outcome.wall_s,
    )


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Kendall's tau-b of (predicted, measured) pairs; None below three distinct values of either."""
    predicted, measured = [p for p, _ in pairs], [m for _, m in pairs]
    if min(len(set(predicted)), len(set(measured))) < LEAST_RANKED:
        return None
    tau = float(kendalltau(predicted, measured).statistic)
    return tau if math.isfinite(tau) else None


def summarize(lane: str, points: Sequence[PointResult]) -> LaneSummary:
    """Statistics of the points that were predicted."""
    predicted = [p for p in points if p.status == "predicted"]
    metrics = {}
    for name in METRICS:
        errors = 100 * np.array([p.errors[name] for p in predicted if name in p.errors])
        if len(errors):
            metrics[name] = MetricErrors(
                n=len(errors),
                median_abs_error_pct=float(np.median(np.abs(errors))),
                mean_abs_error_pct=float(np.mean(np.abs(errors))),
                bias_pct=float(np.mean(errors)),
            )
    return LaneSummary(
        lane=lane,
        n=len(predicted),
        num_infeasible=sum(p.status == "infeasible" for p in points),
        metrics=metrics,
        kendall_tau=rank_correlation(
            [(p.predicted[THROUGHPUT], p.measured[THROUGHPUT]) for p in predicted if THROUGHPUT in p.measured]
        ),
    )


def report(
    points: Sequence[MeasuredPoint], outcomes: Mapping[Key, Outcome], calibration: Calibration
) -> ValidationReport:
    """Rows in the order of `points`, and one summary per lane in alphabetical order."""
    rows = [compare(p, outcomes[setting_key(p)] if p.usable else None) for p in points]
    compared = [row for row in rows if row.status != "refused"]
    lanes = sorted({row.lane for row in compared if row.lane})
    return ValidationReport(
        points=rows,
        summary=[summarize(lane, [row for row in compared if row.lane == lane]) for lane in lanes],
        overall=summarize("all", compared),
        calibration=CalibrationId(name=calibration.name, digest=calibration.digest),
    )


def check_tolerance(found: ValidationReport, max_error_pct: float) -> None:
    """Raise unless the median absolute error of tok/s/GPU of every lane is within `max_error_pct`.

    Raises:
        OutOfTolerance: names each lane beyond it.
        MissingData: nothing was compared, so that nothing was shown.
    """
    errors = {s.lane: s.metrics[THROUGHPUT] for s in found.summary if THROUGHPUT in s.metrics}
    if not errors:
        raise MissingData(f"max_error={max_error_pct:g}: no predicted point has {THROUGHPUT}; measure it")
    wrong = {lane: e for lane, e in errors.items() if e.median_abs_error_pct > max_error_pct}
    if wrong:
        raise OutOfTolerance(
            "\n".join(
                f"{lane}: median absolute error of {THROUGHPUT} is {e.median_abs_error_pct:.1f} % over "
                f"{e.n} points, above max_error={max_error_pct:g} %; calibrate, or allow more"
                for lane, e in wrong.items()
            )
        )
