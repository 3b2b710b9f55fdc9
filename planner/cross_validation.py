"""k-fold and leave-one-platform-out: predictions of points by fits that had not seen them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from planner.calibrate import TRUST_SIGMA
from planner.error_bands import error_bands, with_intervals
from planner.folds import grouped_folds, platform_folds, siblings
from planner.held_out import NEVER, CrossValidation, FoldFit, HeldOut
from planner.linear_fit import LinearFit, host_of, linearise, parameter_name
from planner.refit import Refit, refit
from planner.simulation_cache import Metrics, SimulationCache
from planner.source_digest import source_digest
from planner.validation import lane_of
from search_spaces import catalog_loader
from search_spaces.errors import MissingData
from search_spaces.records import MeasuredPoint
from simulator.calibration import Calibration
from simulator.intervals import band_groups
from simulator.parameters import Parameter

MOVED = 0.2
"""Logit units below which a parameter counts as unmoved."""
OnStage = Callable[[str, int, int], None]
"""Called with what is done, new simulations done and in all."""


@dataclass(frozen=True)
class Split:
    """A full fit in linear form, and the points it never used."""

    fit: LinearFit
    unused: list[MeasuredPoint]
    calibration: Calibration
    """The full fit as it was given; the expansion's own differs by rounding."""


def comparable(points: Sequence[MeasuredPoint]) -> list[MeasuredPoint]:
    """Usable points with measurements of a stated error."""
    return [p for p in points if p.usable and p.measured and np.isfinite(TRUST_SIGMA[p.trust])]


def split_of(
    points: Sequence[MeasuredPoint],
    calibration: Calibration,
    cache: SimulationCache,
    on_stage: OnStage | None = None,
    params: Sequence[Parameter] | None = None,
) -> Split:
    """Simulate the derivative of all errors at a calibration.

    `params` defaults to all that the fit knows for the points' hosts.

    Raises:
        MissingData: no point can be compared.
    """
    usable = comparable(points)
    fitted = [p for p in usable if p.id not in calibration.left_out]
    if not fitted:
        raise MissingData("no point can be compared with a prediction; add measured DeepSeek-V4 points")
    fit = linearise(fitted, calibration, cache, _stage(on_stage, "derivative"), params)
    return Split(fit, [p for p in usable if p.id in calibration.left_out], calibration)


def _stage(on_stage: OnStage | None, label: str) -> Callable[[int, int], None] | None:
    return None if on_stage is None else lambda done, total: on_stage(label, done, total)


def cross_validate(
    split: Split,
    cache: SimulationCache,
    folds: int = 10,
    evaluations: int = 3,
    relinearise: int = 0,
    on_stage: OnStage | None = None,
) -> CrossValidation:
    """Refit without each fold and each platform, and simulate what was held out.

    Args:
        split: the full fit in linear form.
        cache: runs and remembers simulations.
        folds: of sibling groups.
        evaluations: see `refit`.
        relinearise: see `refit`.
        on_stage: progress.
    """
    points = split.fit.points
    groups = {str(i + 1): fold for i, fold in enumerate(grouped_folds(points, folds))}
    platforms = platform_folds(points)
    if len(platforms) < 2:
        platforms = {}
    full = cache.metrics(points, split.fit.calibration)
    parts: dict[str, list[HeldOut]] = {"folds": [], "platforms": []}
    fits = []
    for kind, chosen in (("folds", groups), ("platforms", platforms)):
        for name, held in chosen.items():
            kept = np.ones(len(points), dtype=bool)
            kept[held] = False
            stage = _stage(on_stage, f"without {'fold ' if kind == 'folds' else ''}{name}")
            found = refit(split.fit, kept, cache, evaluations, relinearise, stage)
            fits.append(_described(name, held, split.fit, found))
            mine = [points[i] for i in held]
            away = cache.metrics(mine, found.calibration, stage)
            parts[kind] += [
                row
                for i, metrics in zip(held, away, strict=True)
                if (row := _held_out(points[i], name, metrics, full[i])) is not None
            ]
    unused = cache.metrics(split.unused, split.fit.calibration)
    for point, metrics in zip(split.unused, unused, strict=True):
        row = _held_out(point, NEVER, metrics, metrics)
        parts["folds"] += [] if row is None else [row]
    return _with_bands(split, fits, parts["folds"], parts["platforms"], evaluations)


def _held_out(point: MeasuredPoint, fold: str, found: Metrics, full: Metrics) -> HeldOut | None:
    """A row, or None where the recipe cannot run."""
    recipe, workload, lane = point.recipe, point.workload, lane_of(point)
    assert recipe is not None and workload is not None and lane is not None
    if found is None or full is None:
        return None
    version, serving = catalog_loader.stack(point.stack).version, recipe.serving
    return HeldOut(
        id=point.id,
        lane=lane,
        hardware=recipe.hardware,
        topology=recipe.topology,
        deployment=recipe.digest,
        groups=band_groups(recipe, workload.concurrency, version),
        workload=f"{workload.isl}/{workload.osl}",
        prompts=workload.prompts,
        mean_isl=workload.mean_isl,
        mean_osl=workload.mean_osl,
        concurrency=workload.concurrency,
        num_gpus=recipe.num_gpus,
        batch_per_rank=workload.concurrency / (serving.num_workers * serving.attention_dp),
        moe_ep=serving.moe_ep,
        mtp_steps=recipe.mtp.num_steps if recipe.mtp else 0,
        host=host_of(point),
        stack=point.stack,
        fold=fold,
        predicted=found,
        measured={k: v for k, v in point.measured.items() if v > 0},
        in_sample=full,
    )


def _described(name: str, held: Sequence[int], fit: LinearFit, found: Refit) -> FoldFit:
    moved = {
        parameter_name(p): (p.to_physical(float(a)), p.to_physical(float(b)))
        for p, a, b in zip(fit.params, fit.free, found.free, strict=True)
        if abs(a - b) > MOVED
    }
    return FoldFit(name=name, n=len(held), cost_before=found.cost_before, cost=found.cost, moved=moved)


def _with_bands(
    split: Split, fits: list[FoldFit], points: list[HeldOut], platforms: list[HeldOut], evaluations: int
) -> CrossValidation:
    """Intervals of each point from the errors of the other folds and platforms alone."""
    fold_of = {p.id: p.fold for p in points}
    by_fold = {
        fold: error_bands(
            [p for p in points if p.fold != fold], [p for p in platforms if fold_of.get(p.id) != fold]
        )
        for fold in sorted(set(fold_of.values()))
    }
    by_platform = {
        name: error_bands(
            [p for p in points if p.hardware != name], [p for p in platforms if p.hardware != name]
        )
        for name in sorted({p.hardware for p in platforms})
    }
    used = [*split.fit.points, *split.unused]
    return CrossValidation(
        calibration=split.calibration.digest,
        points_digest=points_digest(used),
        source_digest=source_digest(),
        sources=dict(sorted(Counter(publication(p) for p in used).items())),
        evaluations=evaluations,
        num_groups=len(siblings(split.fit.points)),
        folds=fits,
        points=with_intervals(points, by_fold),
        platforms=with_intervals(platforms, by_platform, known=False),
    )


def points_digest(points: Sequence[MeasuredPoint]) -> str:
    """Sixteen hex digits over ids and measured values."""
    rows = sorted((p.id, sorted(p.measured.items())) for p in points)
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


def publication(point: MeasuredPoint) -> str:
    """The publisher part of a source: its text up to the first path, snapshot or date."""
    return point.source.split(",")[0].split(" (")[0].split(" @")[0].split("/results-summary")[0].strip()
