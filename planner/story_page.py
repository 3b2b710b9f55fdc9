"""The story of two engine builds as a Markdown page with a picture per chapter."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from planner.accuracy_picture import story_picture
from planner.cross_validation import points_digest
from planner.markdown import markdown_table, section
from planner.story import CurvePoint, EraCurves, Telling
from planner.text_table import number, percent
from search_spaces.records import MeasuredPoint
from simulator.calibration import Calibration

NOTABLE = 0.15
"""Difference of a factor from the published one above which it is called unexplained."""


def story_page(
    tellings: Sequence[Telling],
    points: Sequence[MeasuredPoint],
    calibration: Calibration,
    name: str,
    today: datetime.date | None = None,
) -> dict[str, str | bytes]:
    """Files by name: the page, and pictures as PNG and SVG beside it."""
    day = (today or datetime.date.today()).isoformat()
    files: dict[str, str | bytes] = {}
    parts = [
        section(
            "From the first build to June",
            f"Written by `servecast story POINTS.yaml --page` on {day}; calibration `{calibration.digest}`, "
            f"points `{points_digest(points)}` (digests). Every figure of ours is simulated with that one "
            "calibration; engine builds differ by named switches alone.",
            level=1,
        )
    ]
    for index, telling in enumerate(tellings, 1):
        picture = f"{name}-{index}"
        files |= story_picture(telling, picture)
        parts.append(_chapter(telling, picture))
    files[f"{name}.md"] = "\n\n".join(parts) + "\n"
    return files


def _chapter(telling: Telling, picture: str) -> str:
    chapter = telling.chapter
    user = chapter.tokens_per_s_per_user
    where = "at the highest throughput" if user is None else f"at {user:g} tok/s/user"
    ratios = [("published", f"{chapter.ratio:.2f}")]
    ratios += [(how, _factor(value)) for how, value in telling.ratios.items()]
    return section(
        chapter.title,
        f"Published: {chapter.published}.",
        f"![{chapter.title}]({picture}.png)",
        f"Factor {where}, {chapter.after.label} over {chapter.before.label}:",
        markdown_table(ratios, ("found by", "factor")),
        "Points, measured and ours:",
        markdown_table(
            [*_rows(chapter.before.label, telling.before), *_rows(chapter.after.label, telling.after)],
            ("era", "recipe", "load", "stack", "tok/s/user", "ours", "tok/s/GPU", "ours"),
        ),
        *_steps(telling),
        "Not explained: " + "; ".join(_unexplained(telling)) + ".",
    )


def _factor(value: float | None) -> str:
    return "the points do not reach it" if value is None else f"{value:.2f}"


def _rows(label: str, curves: EraCurves) -> list[tuple[str, ...]]:
    ours = {(p.recipe.digest, p.workload, p.stack): p for p in curves.same_points}
    rows: list[tuple[str, ...]] = []
    for point in sorted(curves.measured, key=lambda p: -p.user):
        twin = ours.get((point.recipe.digest, point.workload, point.stack))
        rows.append(
            (
                label,
                point.label,
                str(point.concurrency),
                point.stack,
                number(point.user),
                _with_error(twin and twin.user, point.user),
                number(point.gpu),
                _with_error(twin and twin.gpu, point.gpu),
            )
        )
    return rows


def _with_error(ours: float | None, measured: float) -> str:
    return "-" if ours is None else f"{number(ours)} ({percent(ours / measured - 1, signed=True)})"


def _steps(telling: Telling) -> list[str]:
    found = telling.steps
    if found is None:
        return []
    rows = [("recipe", _factor(telling.retuning), "the later recipe under the earlier engine")]
    rows += [
        (step.switch, "-" if step.gain is None else f"{1 + step.gain:.3f}", step.note) for step in found.steps
    ]
    first, last = found.start_tokens_per_s_per_gpu, found.end_tokens_per_s_per_gpu
    total = f"{last / first:.2f}" if first and last else "-"
    return [
        f"Ours, step by step, for {found.recipe} at load {found.concurrency}; all switches together give "
        f"{total}:",
        markdown_table(rows, ("step", "factor", "note")),
    ]


def _unexplained(telling: Telling) -> list[str]:
    """What of the claim our curves do not show."""
    found = []
    for how, value in telling.ratios.items():
        if value is None:
            found.append(f"{how}: a curve does not reach the interactivity, and nothing is extrapolated")
        elif abs(value / telling.chapter.ratio - 1) > NOTABLE:
            found.append(f"{how}: {value:.2f} against {telling.chapter.ratio:.2f} published")
    worst = _worst([*_pairs(telling.before), *_pairs(telling.after)])
    if worst is not None:
        point, error = worst
        found.append(
            f"the largest error of a point is {percent(error, signed=True)} tok/s/GPU "
            f"({point.label}, load {point.concurrency}, {point.stack})"
        )
    return found or ["nothing beyond the errors of single points"]


def _pairs(curves: EraCurves) -> list[tuple[CurvePoint, float]]:
    ours = {(p.recipe.digest, p.workload, p.stack): p for p in curves.same_points}
    return [
        (p, twin.gpu / p.gpu - 1)
        for p in curves.measured
        if (twin := ours.get((p.recipe.digest, p.workload, p.stack))) is not None
    ]


def _worst(pairs: Sequence[tuple[CurvePoint, float]]) -> tuple[CurvePoint, float] | None:
    return max(pairs, key=lambda pair: abs(pair[1]), default=None)
