"""How serving of one model got faster between two engine builds: curves, factors and what made them.

A chapter compares two eras of one platform: measured points, our predictions of the same points, and our
predictions of the public recipes of the later era. The factor at a given interactivity is then split
into the change of recipe under the old engine and the engine's optimisations, one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from planner.evaluate import prompts_for
from planner.simulation_cache import SimulationCache, simulated
from planner.validation import THROUGHPUT
from planner.waterfall import Waterfall, waterfall
from search_spaces import catalog_loader
from search_spaces.public_recipes import public_recipes
from search_spaces.recipe import Recipe
from search_spaces.records import MeasuredPoint
from search_spaces.workload import Workload
from simulator.calibration import Calibration
from simulator.world import Setting

ISL, OSL = 8192, 1024
USER = "tokens_per_s_per_user"


class Era(NamedTuple):
    """One side of a chapter."""

    label: str
    stacks: tuple[str, ...]
    """Stacks, without switches added or removed, that points of the era ran on."""
    mtp: bool


class Chapter(NamedTuple):
    """A published claim about two eras."""

    title: str
    model: str
    hardware: str
    disaggregated: bool
    before: Era
    after: Era
    tokens_per_s_per_user: float | None
    """Where the eras are compared; None compares their highest throughput."""
    published: str
    ratio: float
    """What was published, `after` over `before`."""


PRO = "deepseek-ai/DeepSeek-V4-Pro"
MEDIANS = "medians of the InferenceX database (dump of 2026-07-20), interpolated along each era's curve"
CHAPTERS = (
    Chapter(
        "GB300, prefill and decode apart, no drafts: the first weeks",
        PRO, "gb300", True, Era("day 0", ("day0",), False), Era("June", ("may", "june"), False), 40,
        f"3,452 to 7,324 tok/s/GPU at 40 tok/s/user; {MEDIANS}", 7324 / 3452,
    ),
    Chapter(
        "GB300, prefill and decode apart: with drafts",
        PRO, "gb300", True, Era("day 0", ("day0",), False), Era("June with MTP", ("june",), True), 50,
        f"about 2,230 to about 11,170 tok/s/GPU at 50 tok/s/user; {MEDIANS}", 11170 / 2230,
    ),
    Chapter(
        "B300, one worker: highest throughput",
        PRO, "b300", False, Era("day 0", ("day0",), False), Era("June", ("june",), False), None,
        "more than five times the peak tok/s/GPU; the claim is given without its source",
        5.0,
    ),
)  # fmt: skip
"""Published claims, with their numbers as published."""


class CurvePoint(NamedTuple):
    """One deployment at one load; rates in tokens/s, per user and per GPU."""

    label: str
    user: float
    gpu: float
    concurrency: int
    recipe: Recipe
    workload: Workload
    stack: str


class EraCurves(NamedTuple):
    """One era three ways."""

    measured: list[CurvePoint]
    same_points: list[CurvePoint]
    """Our predictions of the measured points."""
    public: list[CurvePoint]
    """Our predictions of public recipes at the loads they are published for."""


class Telling(NamedTuple):
    """A chapter, worked out."""

    chapter: Chapter
    before: EraCurves
    after: EraCurves
    ratios: dict[str, float | None]
    """How it was found to the factor; None where an era's curve does not reach the interactivity."""
    retuning: float | None
    """The later recipe over the earlier one, both under the earlier engine."""
    steps: Waterfall | None
    """The later recipe from the earlier engine to the later one."""


def _measured(points: Sequence[MeasuredPoint], chapter: Chapter, era: Era) -> list[MeasuredPoint]:
    """Points of an era with both rates, at the published lengths."""
    return [
        p
        for p in points
        if p.usable and p.recipe and p.workload
        and (p.recipe.model, p.recipe.hardware) == (chapter.model, chapter.hardware)
        and p.recipe.is_disaggregated == chapter.disaggregated
        and p.stack.split("+")[0] in era.stacks
        and (p.recipe.mtp is not None) == era.mtp
        and (p.workload.isl, p.workload.osl, p.workload.random_range_ratio) == (ISL, OSL, 0.8)
        and p.tokens_per_s_per_user and THROUGHPUT in p.measured
    ]  # fmt: skip


def _curves(
    points: Sequence[MeasuredPoint],
    chapter: Chapter,
    era: Era,
    calibration: Calibration,
    cache: SimulationCache,
) -> EraCurves:
    mine = _measured(points, chapter, era)
    found = cache.metrics(mine, calibration)
    measured, same = [], []
    for point, metrics in zip(mine, found, strict=True):
        assert point.recipe and point.workload and point.tokens_per_s_per_user
        load = point.workload.concurrency
        rest = (load, point.recipe, point.workload, point.stack)
        label = point.recipe.topology
        measured.append(CurvePoint(label, point.tokens_per_s_per_user, point.measured[THROUGHPUT], *rest))
        if metrics is not None:
            same.append(CurvePoint(label, metrics[USER], metrics[THROUGHPUT], *rest))
    return EraCurves(measured, same, _public(chapter, era, calibration))


def _public(chapter: Chapter, era: Era, calibration: Calibration) -> list[CurvePoint]:
    stack = era.stacks[-1]
    found = []
    for recipe in public_recipes(chapter.model, chapter.hardware):
        suits = recipe.is_disaggregated == chapter.disaggregated and (recipe.mtp is not None) == era.mtp
        for load in recipe.concurrencies if suits else ():
            workload = Workload(isl=ISL, osl=OSL, concurrency=load, prompts=prompts_for(recipe))
            metrics = simulated(setting_at(recipe, workload, stack, calibration))
            if metrics is not None:
                found.append(
                    CurvePoint(
                        recipe.topology, metrics[USER], metrics[THROUGHPUT], load, recipe, workload, stack
                    )
                )
    return found


def setting_at(recipe: Recipe, workload: Workload, stack: str, calibration: Calibration) -> Setting:
    """What to simulate."""
    return Setting(
        recipe,
        workload,
        catalog_loader.model(recipe.model),
        catalog_loader.hardware(recipe.hardware),
        catalog_loader.stack(stack),
        calibration,
    )


def front(curve: Sequence[CurvePoint]) -> list[CurvePoint]:
    """Points that no other beats in both rates, by rising interactivity."""
    found: list[CurvePoint] = []
    for point in sorted(curve, key=lambda p: (-p.user, -p.gpu)):
        if not found or point.gpu > found[-1].gpu:
            found.append(point)
    return found[::-1]


def throughput_at(curve: Sequence[CurvePoint], user: float | None) -> float | None:
    """Tok/s/GPU of the front at an interactivity, log-linear between its points; the peak for None.

    None where the curve does not reach that far on either side: nothing is extrapolated.
    """
    best = front(curve)
    if not best:
        return None
    if user is None:
        return max(p.gpu for p in best)
    if not best[0].user <= user <= best[-1].user:
        return None
    x, y = [np.log(p.user) for p in best], [np.log(p.gpu) for p in best]
    return float(np.exp(np.interp(np.log(user), x, y)))


def _nearest(curve: Sequence[CurvePoint], user: float | None) -> CurvePoint | None:
    """The point of a front that decides its value at an interactivity."""
    best = front(curve)
    if not best:
        return None
    if user is None:
        return max(best, key=lambda p: p.gpu)
    return min(best, key=lambda p: abs(np.log(p.user / user)))


def _ratio(after: float | None, before: float | None) -> float | None:
    return after / before if after and before else None


def _over_each(before: Sequence[CurvePoint], peak: float | None) -> dict[str, float | None]:
    """Measured peak over the peak of each earlier topology alone: a claim may have only one in mind."""
    return {
        f"measured points, over {label} alone": _ratio(
            peak, throughput_at([p for p in before if p.label == label], None)
        )
        for label in sorted({p.label for p in before})
    }


def tell(
    chapter: Chapter,
    points: Sequence[MeasuredPoint],
    calibration: Calibration,
    cache: SimulationCache,
    on_step: Callable[[], None] = lambda: None,
) -> Telling:
    """Simulate a chapter's points, the public recipes and the waterfall of its later recipe."""
    before = _curves(points, chapter, chapter.before, calibration, cache)
    on_step()
    after = _curves(points, chapter, chapter.after, calibration, cache)
    on_step()
    user = chapter.tokens_per_s_per_user
    base = {name: throughput_at(getattr(before, name), user) for name in ("measured", "same_points")}
    ratios = {
        "measured points": _ratio(throughput_at(after.measured, user), base["measured"]),
        "ours, the same points": _ratio(throughput_at(after.same_points, user), base["same_points"]),
        "ours, with all public recipes of the later era": _ratio(
            throughput_at([*after.same_points, *after.public], user), base["same_points"]
        ),
    }
    if user is None:
        ratios |= _over_each(before.measured, throughput_at(after.measured, None))
    old = _nearest(before.same_points, user)
    new = _nearest([*after.same_points, *after.public], user)
    if old is None or new is None:
        return Telling(chapter, before, after, ratios, None, None)
    start, end = catalog_loader.stack(chapter.before.stacks[0]), catalog_loader.stack("june")
    setting = setting_at(new.recipe, new.workload, new.stack, calibration)
    steps = waterfall(setting, start, end, on_step)
    first = steps.start_tokens_per_s_per_gpu
    return Telling(chapter, before, after, ratios, _ratio(first, old.gpu), steps)
