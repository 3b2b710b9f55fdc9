"""Held-out accuracy as tables for a terminal or a page."""

from __future__ import annotations

from collections.abc import Sequence

from planner.accuracy import COVERAGE_RANGE, TPOT, TTFT, Accuracy, Check, PartErrors, Pick
from planner.held_out import CrossValidation
from planner.repeats import repeats
from planner.text_table import number, percent, table
from planner.validation import METRICS, THROUGHPUT
from planner.validation_text import SHORT_NAMES
from simulator.intervals import BANDED

Rows = list[tuple[str, ...]]
ERROR_HEADER = (
    "lane",
    "n",
    *(SHORT_NAMES[metric] for metric in METRICS),
    "tau",
)
COVERAGE_HEADER = (
    "lane",
    "n",
    *(SHORT_NAMES.get(metric, "tok/s/user") for metric in BANDED),
)
CHECK_HEADER = ("", "what", "n", "found", "wanted")
PICK_HEADER = ("lane", "lengths", "tok/s/user", "recipes", "our pick", "measured best", "regret")
FLOOR_HEADER = ("lane", "what", "recipes", "runs", "floor", "largest / smallest")
FOLD_HEADER = ("held out", "points", "cost of the rest", "after the refit", "parameters that moved most")
NAMED_MOVES = 3


def error_rows(parts: Sequence[PartErrors]) -> Rows:
    """Median / worst absolute / median signed error in per cent, by lane and metric."""
    return [
        (
            part.name,
            str(part.n),
            *(_cell(part, metric) for metric in METRICS),
            "-" if part.kendall_tau is None else f"{part.kendall_tau:.2f}",
        )
        for part in parts
    ]


def _cell(part: PartErrors, metric: str) -> str:
    errors = part.metrics.get(metric)
    if errors is None:
        return "-"
    return f"{errors.median_abs_pct:.0f} / {errors.worst_abs_pct:.0f} / {errors.bias_pct:+.0f}"


def coverage_rows(parts: Sequence[PartErrors]) -> Rows:
    """Share of measurements within their 80 % interval, by lane and metric."""
    return [
        (
            part.name,
            str(part.n),
            *(f"{100 * part.coverage[m]:.0f} %" if m in part.coverage else "-" for m in BANDED),
        )
        for part in parts
    ]


def check_rows(checks: Sequence[Check]) -> Rows:
    """One row per target."""
    return [("met" if c.met else "MISSED", c.what, str(c.n), c.found, c.wanted) for c in checks]


def pick_rows(picks: Sequence[Pick]) -> Rows:
    """One row per interactivity bin with a choice."""
    return [
        (
            p.lane, p.workload, f"about {number(p.interactivity, 2)}", str(p.num_recipes), p.picked, p.best,
            percent(p.regret),
        )
        for p in picks
    ]  # fmt: skip


def fold_rows(found: CrossValidation) -> Rows:
    """One row per refit."""
    rows: Rows = []
    for fold in found.folds:
        text = ", ".join(f"{name} {number(a)} -> {number(b)}" for name, (a, b) in fold.moves[:NAMED_MOVES])
        cells = (fold.name, str(fold.n), f"{fold.cost_before:.1f}", f"{fold.cost:.1f}", text or "none")
        rows.append(cells)
    return rows


def floor_rows(found: CrossValidation) -> Rows:
    """What runs of one recipe under one load differ by."""
    names = {THROUGHPUT: "tok/s/GPU", TPOT: "median TPOT", TTFT: "median TTFT"}
    return [
        (r.lane, names[r.metric], str(r.recipes), str(r.runs), percent(r.floor), f"{r.widest:.2f} x")
        for r in repeats(found.points, tuple(names))
    ]


def accuracy_text(found: CrossValidation, tables: Accuracy) -> str:
    """Everything, the same for equal inputs."""
    low, high = COVERAGE_RANGE
    missed = sum(not check.met for check in tables.checks)
    parts = [
        f"Cross-validation of {len(found.points)} points in {found.num_groups} groups of one source and "
        f"topology or one deployment;\ncalibration {found.calibration}, points {found.points_digest}, "
        f"simulator {found.source_digest}",
        "Refits\n" + table(fold_rows(found), FOLD_HEADER),
        "Out of fold: median absolute / worst absolute / median signed error in %\n"
        + table(error_rows(tables.folds), ERROR_HEADER),
        "Platform never seen: the same, with every point of the platform held out\n"
        + table(error_rows(tables.platforms), ERROR_HEADER),
        f"Measurements inside the 80 % interval (wanted: {100 * low:.0f} to {100 * high:.0f} %)\n"
        + table(coverage_rows(tables.folds), COVERAGE_HEADER),
        "Best recipe by interactivity bin: what our pick loses, both measured\n"
        + table(pick_rows(tables.picks), PICK_HEADER),
        "Noise floor: median error if every recipe with several runs were predicted at their median\n"
        + table(floor_rows(found), FLOOR_HEADER),
        f"Targets: {len(tables.checks) - missed} met, {missed} missed\n"
        + table(check_rows(tables.checks), CHECK_HEADER),
    ]
    return "\n\n".join(part for part in parts if not part.endswith("\n"))
