"""A cross-validation as a Markdown page with a parity plot."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from planner.accuracy import COVERAGE_RANGE, Accuracy
from planner.accuracy_picture import parity_picture
from planner.accuracy_text import (
    CHECK_HEADER,
    COVERAGE_HEADER,
    ERROR_HEADER,
    FLOOR_HEADER,
    FOLD_HEADER,
    PICK_HEADER,
    check_rows,
    coverage_rows,
    error_rows,
    floor_rows,
    fold_rows,
    pick_rows,
)
from planner.held_out import CrossValidation
from planner.markdown import markdown_table, section
from planner.missed_targets import misses, orders
from planner.residual_study import slices
from planner.text_table import percent

MISS_HEADER = ("target", "out of fold", "in sample", "median signed", "measurement")
SLICE_HEADER = ("by", "value", "n", "tok/s/GPU", "TPOT", "TTFT", "run time unexplained")


def accuracy_page(
    found: CrossValidation, tables: Accuracy, name: str, today: datetime.date | None = None
) -> dict[str, str | bytes]:
    """Files by name: the page, and the parity plot as PNG and SVG beside it."""
    day = (today or datetime.date.today()).isoformat()
    page = "\n\n".join(
        [
            _head(found, day),
            _verdict(tables),
            _tables(found, tables),
            f"![predicted over measured, out of fold]({name}-parity.png)\n\n"
            "Each point is predicted by a fit that saw neither it nor its siblings. Triangles draft, circles "
            "do not; dashed lines are 25 % off.",
            _study(found, tables),
            _method(found),
        ]
    )
    return {f"{name}.md": page + "\n", **parity_picture(found.points, f"{name}-parity")}


def _head(found: CrossValidation, day: str) -> str:
    sources = [(source, str(count)) for source, count in found.sources.items()]
    return section(
        "Accuracy on points that the fit had not seen",
        f"Written by `servecast validate POINTS.yaml --cross-validate --page` on {day}. Calibration "
        f"`{found.calibration}`, points `{found.points_digest}`, simulator `{found.source_digest}` "
        "(digests). The repository ships a small part of these points, for its tests; the digest is over ids "
        "and measured values of all points used here, from these publications:",
        markdown_table(sources, ("source", "points")),
        level=1,
    )


def _verdict(tables: Accuracy) -> str:
    missed = [check for check in tables.checks if not check.met]
    return section(
        "Targets",
        f"{len(tables.checks) - len(missed)} of {len(tables.checks)} targets are met. What runs of one "
        "recipe differ by, no model can beat: see *Noise floor*.",
        markdown_table(check_rows(tables.checks), CHECK_HEADER),
    )


def _tables(found: CrossValidation, tables: Accuracy) -> str:
    low, high = COVERAGE_RANGE
    return "\n\n".join(
        [
            section(
                "Errors by lane",
                "Median absolute / worst absolute / median signed error in per cent; a positive sign "
                "overestimates. Lanes with prefill and decode apart are split by load.",
                markdown_table(error_rows(tables.folds), ERROR_HEADER),
            ),
            section(
                "Noise floor",
                "Recipes that were run twice or more under one load, each run counted once. *Floor* is the "
                "median error that would remain if each were predicted at the median of its own runs.",
                markdown_table(floor_rows(found), FLOOR_HEADER),
            ),
            section(
                "Errors on a platform without any point in the fit",
                markdown_table(error_rows(tables.platforms), ERROR_HEADER),
            ),
            section(
                "Prediction intervals",
                "Share of measurements inside the 80 % interval; the interval of a point is made from the "
                f"errors of the other folds. Wanted: {100 * low:.0f} to {100 * high:.0f} %.",
                markdown_table(coverage_rows(tables.folds), COVERAGE_HEADER),
            ),
            section(
                "Choosing a recipe",
                "In each interactivity bin with two deployments or more: the one with the most predicted "
                "tok/s/GPU against the measured best.",
                markdown_table(pick_rows(tables.picks), PICK_HEADER),
            ),
        ]
    )


def _share(value: float | None) -> str:
    return "-" if value is None else percent(value, signed=True)


def _study(found: CrossValidation, tables: Accuracy) -> str:
    rows = [
        (s.kind, s.value, str(s.n), *map(_share, (s.throughput, s.tpot, s.ttft, s.unexplained)))
        for s in slices(found.points)
    ]
    return "\n\n".join(
        [
            section(
                "Where errors have a sign",
                "Medians of signed out-of-fold errors: TTFT is the prefill phase and its queue, TPOT the "
                "decode phase. *Run time unexplained* is what remains of the measured duration after the "
                "measured TPOT is put into the simulated run: stalls, compilation at first use, or a mean "
                "TPOT far above the median.",
                markdown_table(rows, SLICE_HEADER),
            ),
            section(
                "Missed targets, and what would settle them",
                "*In sample* is the median error of the full fit, which has seen the points: where that is "
                "small, the model can tell them and the rest of the points cannot fix its parameters.",
                markdown_table([*misses(found, tables), *orders(found)], MISS_HEADER),
            ),
        ]
    )


def _method(found: CrossValidation) -> str:
    lines: Sequence[str] = (
        f"- {len(found.points)} points in {found.num_groups} groups. Points of one source and topology, or "
        "of one deployment that two sources published, are never split between fit and test.",
        "- One derivative of all weighted errors is simulated at the full fit. A refit starts from the "
        f"full fit less the influence of what is held out, in linear form; {_correction(found)} The full "
        "fit itself is never used for a held-out point.",
        "- Held-out points are simulated under their refit. A host's parameters are fitted on other "
        "platforms with the same kind of CPU, or are the priors where there is none.",
    )
    return section("How", "\n".join(lines), markdown_table(fold_rows(found), FOLD_HEADER))


def _correction(found: CrossValidation) -> str:
    if not found.evaluations:
        return "costs after the refit are linear estimates too."
    times = "once" if found.evaluations == 1 else f"{found.evaluations} times"
    return f"the remaining points are then simulated, {times}, and the answer corrected."
