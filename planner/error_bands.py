"""Error bands from predictions of points that the fit had not seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import numpy as np

from planner.held_out import HeldOut
from simulator.intervals import BANDED, Interval, band_of
from simulator.uncertainty import ErrorBand, ErrorBands

COVERAGE = 0.8
SHRINKAGE = 8
"""Points that a group's parent counts as when their widths are averaged."""
LEAST = 4
"""Points below which a group has no band of its own."""
LIKE_LOADS = 2.0
"""Largest ratio of two loads at which a lane's recipes are compared."""


def _quantile(errors: Sequence[float]) -> float:
    """The 80 % quantile of absolute errors that holds for one more draw (split conformal)."""
    level = min(1.0, COVERAGE * (len(errors) + 1) / len(errors))
    return float(np.quantile(np.abs(errors), level))


def _banded(points: Sequence[HeldOut], metric: str) -> dict[str, ErrorBand]:
    """Bands of one metric; a group's width is averaged with its parent's by their numbers."""
    members: dict[str, list[float]] = {}
    parents: dict[str, str | None] = {}
    for point in points:
        error = point.log_error(metric)
        if error is None:
            continue
        for above, group in zip([None, *point.groups], point.groups, strict=False):
            members.setdefault(group, []).append(error)
            parents[group] = above
    found: dict[str, ErrorBand] = {}
    for group in sorted(members, key=lambda name: name != "all" and 1 + name.count("/")):
        errors, above = members[group], parents[group]
        if above is None:
            found[group] = ErrorBand(n=len(errors), half_width=_quantile(errors))
        elif len(errors) >= LEAST and above in found:
            width = len(errors) * _quantile(errors) + SHRINKAGE * found[above].half_width
            found[group] = ErrorBand(n=len(errors), half_width=width / (len(errors) + SHRINKAGE))
    return found


def _pairs(points: Sequence[HeldOut], metric: str) -> list[float]:
    """Differences of errors of two deployments in one lane, equal lengths and like loads."""
    found = []
    for a, b in combinations(points, 2):
        alike = (a.lane, a.workload) == (b.lane, b.workload) and a.deployment != b.deployment
        near = max(a.concurrency, b.concurrency) <= LIKE_LOADS * min(a.concurrency, b.concurrency)
        one, other = a.log_error(metric), b.log_error(metric)
        if alike and near and one is not None and other is not None:
            found.append(one - other)
    return found


def error_bands(points: Sequence[HeldOut], platforms: Sequence[HeldOut], data: str = "") -> ErrorBands:
    """Bands of all banded metrics.

    Args:
        points: predictions by folds.
        platforms: predictions with the whole platform held out, which give the factor for new platforms.
        data: what to say about where they come from.
    """
    metrics = sorted(set(BANDED.values()))
    bands = {m: found for m in metrics if (found := _banded(points, m))}
    pairs = {m: errors for m in bands if len(errors := _pairs(points, m)) >= LEAST}
    return ErrorBands(
        bands=bands,
        pairs={m: ErrorBand(n=len(e), half_width=_quantile(e)) for m, e in pairs.items()},
        hardware=sorted({p.hardware for p in points}),
        transfer={m: _transfer(points, platforms, m) for m in bands},
        data=data,
    )


def _transfer(points: Sequence[HeldOut], platforms: Sequence[HeldOut], metric: str) -> float:
    """Width with a platform held out over width by folds, on the same points; at least 1."""
    near = {p.id: p.log_error(metric) for p in points}
    pairs = [
        (away, near[p.id]) for p in platforms if (away := p.log_error(metric)) is not None and p.id in near
    ]
    if len(pairs) < LEAST:
        return 1.0
    far = _quantile([a for a, _ in pairs])
    home = _quantile([h for _, h in pairs if h is not None])
    return min(10.0, max(1.0, far / max(home, 1e-6)))


def with_intervals(
    points: Iterable[HeldOut], others: Mapping[str, ErrorBands], known: bool = True
) -> list[HeldOut]:
    """Points with the intervals that bands without their own fold give.

    Args:
        points: predictions.
        others: fold to the bands of all other folds.
        known: whether the platform counts as calibrated; if not, bands are widened by the transfer factor.
    """
    found = []
    for point in points:
        bands, made = others[point.fold], {}
        for name, metric in BANDED.items():
            band = band_of(bands, metric, point.groups)
            if band is not None and name in point.predicted:
                away = 1.0 if known else bands.transfer.get(metric, 1.0)
                factor, value = float(np.exp(band.half_width * away)), point.predicted[name]
                made[name] = Interval(low=value / factor, high=value * factor)
        found.append(point.model_copy(update={"intervals": made}))
    return found
