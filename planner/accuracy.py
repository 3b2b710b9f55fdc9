"""Statistics of held-out predictions, and the targets they are held to."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from planner.held_out import CrossValidation, HeldOut
from planner.validation import METRICS, THROUGHPUT, rank_correlation
from search_spaces.base import Noun
from search_spaces.errors import MissingData, OutOfTolerance
from simulator.intervals import BANDED

TPOT, TTFT = "median_tpot_ms", "median_ttft_ms"
BIN_RATIO = 1.5
"""Width of an interactivity bin: recipes within it serve the same need."""


class Errors(Noun):
    """Out-of-fold errors of one metric, in per cent."""

    n: int
    median_abs_pct: float
    worst_abs_pct: float
    bias_pct: float
    """Median of the signed errors; positive overestimates."""
    in_sample_median_abs_pct: float


class PartErrors(Noun):
    """Points of one lane, or of one load regime of it."""

    name: str
    n: int
    metrics: dict[str, Errors]
    kendall_tau: float | None
    """Of predicted with measured tok/s/GPU; None below three distinct values."""
    coverage: dict[str, float]
    """Metric to the share of measurements inside the 80 % interval."""


class Pick(NamedTuple):
    """The best recipe of one interactivity bin, by prediction and by measurement."""

    lane: str
    workload: str
    interactivity: float
    num_recipes: int
    picked: str
    best: str
    regret: float


class Target(NamedTuple):
    """What out-of-fold errors should keep to, in per cent."""

    pattern: str
    metric: str
    median: float
    worst: float | None = None


TARGETS = (
    Target("gb300-disagg-* c>=256", THROUGHPUT, 7, 20),
    Target("gb300-disagg-* c>=256", TPOT, 7, 20),
    Target("gb300-disagg-* c>=256", TTFT, 15),
    Target("gb300-disagg-* c<256", THROUGHPUT, 12),
    Target("gb300-disagg-* c<256", TPOT, 10),
    Target("gb300-disagg-* c<256", TTFT, 25),
)
OTHER_LANES = (Target("*", THROUGHPUT, 12), Target("*", TPOT, 12), Target("*", TTFT, 25))
NEW_PLATFORM = (Target("*", THROUGHPUT, 18), Target("*", TPOT, 18))
LEAST_TAU = 0.85
MOST_REGRET = 0.05
COVERAGE_RANGE = (0.70, 0.90)


class Cause(Noun):
    """Where the errors behind a target come from."""

    metric: str
    limit_pct: float
    in_sample_pct: float
    """Median absolute error of the full fit, which has seen the points."""
    bias_pct: float
    drafts: bool
    """Whether any of the points drafts."""
    hosts: tuple[str, ...]
    """Kinds of CPU of the points."""
    folds: tuple[str, ...]
    """What the refits held out."""


class Check(Noun):
    """One target and what was found."""

    what: str
    n: int
    found: str
    wanted: str
    met: bool
    cause: Cause | None = None
    """Of a target for errors."""


class Accuracy(Noun):
    """Tables of one cross-validation."""

    folds: list[PartErrors]
    """By lane, k-fold."""
    platforms: list[PartErrors]
    """By lane, the whole platform held out."""
    picks: list[Pick]
    checks: list[Check]

    def document(self, found: CrossValidation) -> str:
        """These tables and the points behind them, as one JSON document."""
        return json.dumps({"accuracy": self.model_dump(), "cross_validation": found.model_dump()}, indent=1)


def _errors(points: Sequence[HeldOut], metric: str, stand_in: bool = False) -> Errors | None:
    if stand_in:
        found, inside = (
            [float(np.expm1(e)) for p in points if (e := p.log_error(metric, fit)) is not None]
            for fit in (False, True)
        )
    else:
        found, inside = (
            [e for p in points if (e := p.error(metric, fit)) is not None] for fit in (False, True)
        )
    if not found:
        return None
    return Errors(
        n=len(found),
        median_abs_pct=100 * float(np.median(np.abs(found))),
        worst_abs_pct=100 * float(np.max(np.abs(found))),
        bias_pct=100 * float(np.median(found)),
        in_sample_median_abs_pct=100 * float(np.median(np.abs(inside))),
    )


def part_errors(name: str, points: Sequence[HeldOut]) -> PartErrors:
    """Statistics of some points."""
    pairs = [(p.predicted[THROUGHPUT], p.measured[THROUGHPUT]) for p in points if THROUGHPUT in p.measured]
    return PartErrors(
        name=name,
        n=len(points),
        metrics={m: e for m in METRICS if (e := _errors(points, m)) is not None},
        kendall_tau=rank_correlation(pairs),
        coverage={m: c for m in BANDED if (c := coverage(points, m)[1]) is not None},
    )


def coverage(points: Iterable[HeldOut], metric: str) -> tuple[int, float | None]:
    """Points with an interval and a measurement, and the share inside."""
    hits = [hit for p in points if (hit := p.covered(metric)) is not None]
    return len(hits), float(np.mean(hits)) if hits else None


def by_name(points: Sequence[HeldOut], name: Callable[[HeldOut], str]) -> dict[str, list[HeldOut]]:
    """Points by a name, in alphabetical order."""
    found: dict[str, list[HeldOut]] = {}
    for point in points:
        found.setdefault(name(point), []).append(point)
    return dict(sorted(found.items()))


def picks(points: Sequence[HeldOut]) -> list[Pick]:
    """In each lane, lengths and interactivity bin with two deployments or more: what our pick loses.

    Bins are of measured tok/s/user, so that all recipes of one meet the same need; the pick is the recipe
    with the most predicted tok/s/GPU, its regret the measured tok/s/GPU it lacks against the best.
    """
    found = []
    able = [p for p in points if p.interactivity and THROUGHPUT in p.measured]
    for (lane, workload, step), members in _binned(able).items():
        if len({p.deployment for p in members}) < 2:
            continue
        pick = max(members, key=lambda p: p.predicted[THROUGHPUT])
        best = max(members, key=lambda p: p.measured[THROUGHPUT])
        lost = 1 - pick.measured[THROUGHPUT] / best.measured[THROUGHPUT]
        count = len({p.deployment for p in members})
        found.append(Pick(lane, workload, BIN_RATIO ** (step + 0.5), count, _label(pick), _label(best), lost))
    return found


def _binned(points: Sequence[HeldOut]) -> dict[tuple[str, str, int], list[HeldOut]]:
    found: dict[tuple[str, str, int], list[HeldOut]] = {}
    for point in points:
        assert point.interactivity is not None
        step = int(np.floor(np.log(point.interactivity) / np.log(BIN_RATIO)))
        found.setdefault((point.lane, point.workload, step), []).append(point)
    return dict(sorted(found.items()))


def _label(point: HeldOut) -> str:
    return f"{point.topology} c{point.concurrency} {point.stack}"


def accuracy(found: CrossValidation) -> Accuracy:
    """All tables and checks of a cross-validation."""
    parts = by_name(found.points, lambda p: p.part)
    lanes = by_name(found.platforms, lambda p: p.lane)
    chosen = picks(found.points)
    return Accuracy(
        folds=[part_errors(name, points) for name, points in parts.items()],
        platforms=[part_errors(name, points) for name, points in lanes.items()],
        picks=chosen,
        checks=_checks(found, parts, lanes, chosen),
    )


def _checks(
    found: CrossValidation,
    parts: dict[str, list[HeldOut]],
    lanes: dict[str, list[HeldOut]],
    chosen: Sequence[Pick],
) -> list[Check]:
    checks = []
    named: set[str] = set()
    for target in TARGETS:
        mine = fnmatch.filter(parts, target.pattern)
        named |= set(mine)
        checks += _check(target.pattern, [p for name in mine for p in parts[name]], target)
    for name, points in parts.items():
        if name not in named:
            checks += [check for target in OTHER_LANES for check in _check(name, points, target)]
    for name, points in lanes.items():
        for target in NEW_PLATFORM:
            checks += _check(f"{name}, platform never seen", points, target)
    for name, points in by_name(found.points, lambda p: p.lane).items():
        tau = part_errors(name, points).kendall_tau
        if tau is not None:
            checks.append(
                Check(
                    what=f"{name} Kendall tau", n=len(points), found=f"{tau:.2f}",
                    wanted=f">= {LEAST_TAU}", met=tau >= LEAST_TAU,
                )
            )  # fmt: skip
    checks += _regret_checks(chosen) + _coverage_checks("", found.points)
    return checks + _coverage_checks(", platform never seen", found.platforms)


def _check(name: str, points: Sequence[HeldOut], target: Target) -> list[Check]:
    errors = _errors(points, target.metric, stand_in=True)
    if errors is None:
        return []
    met = errors.median_abs_pct <= target.median
    met = met and (target.worst is None or errors.worst_abs_pct <= target.worst)
    limit = "" if target.worst is None else f", worst <= {target.worst:g} %"
    worst = f", worst {errors.worst_abs_pct:.1f} %"
    return [
        Check(
            what=f"{name} {target.metric}",
            n=errors.n,
            found=f"median {errors.median_abs_pct:.1f} %{worst}",
            wanted=f"median <= {target.median:g} %{limit}",
            met=met,
            cause=Cause(
                metric=target.metric,
                limit_pct=target.median,
                in_sample_pct=errors.in_sample_median_abs_pct,
                bias_pct=errors.bias_pct,
                drafts=any(p.mtp_steps for p in points),
                hosts=tuple(sorted({p.host for p in points})),
                folds=tuple(sorted({p.fold for p in points if p.log_error(target.metric) is not None})),
            ),
        )
    ]


def _regret_checks(chosen: Sequence[Pick]) -> list[Check]:
    if not chosen:
        return []
    lost = [pick.regret for pick in chosen]
    kinds: tuple[tuple[Literal["mean", "worst"], float], ...] = (
        ("mean", float(np.mean(lost))),
        ("worst", max(lost)),
    )
    return [
        Check(
            what=f"best-recipe regret, {kind} of bins", n=len(lost), found=f"{100 * value:.1f} %",
            wanted=f"<= {100 * MOST_REGRET:g} %", met=value <= MOST_REGRET,
        )
        for kind, value in kinds
    ]  # fmt: skip


def _coverage_checks(suffix: str, points: Sequence[HeldOut]) -> list[Check]:
    low, high = COVERAGE_RANGE
    checks = []
    for metric in BANDED:
        count, share = coverage(points, metric)
        if share is not None:
            checks.append(
                Check(
                    what=f"coverage of {metric}{suffix}", n=count, found=f"{100 * share:.0f} %",
                    wanted=f"{100 * low:.0f} to {100 * high:.0f} %", met=low <= share <= high,
                )
            )  # fmt: skip
    return checks


def check_lanes(found: Accuracy, max_error_pct: float) -> None:
    """Raise unless every lane's out-of-fold median error of tok/s/GPU is within `max_error_pct`.

    Raises:
        OutOfTolerance: names each lane beyond it.
        MissingData: nothing was compared.
    """
    errors = {part.name: part.metrics[THROUGHPUT] for part in found.folds if THROUGHPUT in part.metrics}
    if not errors:
        raise MissingData(f"max_error={max_error_pct:g}: no predicted point has {THROUGHPUT}; measure it")
    wrong = {name: e for name, e in errors.items() if e.median_abs_pct > max_error_pct}
    if wrong:
        raise OutOfTolerance(
            "\n".join(
                f"{name}: out-of-fold median absolute error of {THROUGHPUT} is {e.median_abs_pct:.1f} % over "
                f"{e.n} points, above max_error={max_error_pct:g} %; improve the model, or allow more"
                for name, e in wrong.items()
            )
        )
