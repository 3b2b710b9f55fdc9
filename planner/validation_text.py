"""A validation as tables for people."""

from __future__ import annotations

from planner.text_table import number, percent, table
from planner.validation import METRICS, THROUGHPUT, LaneSummary, MetricErrors, PointResult, ValidationReport

SHORT_NAMES = {
    THROUGHPUT: "tok/s/GPU",
    "output_tokens_per_s_per_gpu": "out tok/s/GPU",
    "median_tpot_ms": "med TPOT",
    "mean_tpot_ms": "mean TPOT",
    "median_ttft_ms": "med TTFT",
    "mean_ttft_ms": "mean TTFT",
}


def validation_text(found: ValidationReport) -> str:
    """Points, refusals and lanes; the same for equal inputs, so without times."""
    shown = [p for p in found.points if p.status == "predicted"]
    parts = []
    if shown:
        parts.append(_points(shown))
    for status, title in (("infeasible", "Infeasible"), ("refused", "Refused")):
        rows = [(p.id, p.reason) for p in found.points if p.status == status]
        if rows:
            parts.append(f"{title} ({len(rows)})\n" + table(rows))
    parts.append(_lanes([*found.summary, found.overall]))
    parts.append(f"calibration {found.calibration.name} ({found.calibration.digest})")
    return "\n\n".join(parts)


def _points(points: list[PointResult]) -> str:
    rows = []
    for point in points:
        cells = [point.id, str(point.limit)]
        for name in METRICS:
            value = point.measured.get(name)
            cells += [number(point.predicted[name]), "-" if value is None else number(value)]
            cells.append(percent(point.errors.get(name), signed=True))
        rows.append(cells)
    header = ["point", "limit"]
    for name in METRICS:
        header += [SHORT_NAMES[name], "measured", "error"]
    return f"Predicted ({len(points)})\n" + table(rows, header)


def _lanes(summary: list[LaneSummary]) -> str:
    rows = []
    for lane in summary:
        cells: list[str | int | None] = [lane.lane, str(lane.n), str(lane.num_infeasible)]
        for name in METRICS:
            errors = lane.metrics.get(name)
            cells.append(_errors(errors) if errors else None)
        cells.append(None if lane.kendall_tau is None else f"{lane.kendall_tau:.2f}")
        rows.append(cells)
    header = ("lane", "n", "infeasible", *(SHORT_NAMES[name] for name in METRICS), "tau")
    return "Lanes: median absolute / mean absolute / mean signed error in %\n" + table(rows, header)


def _errors(errors: MetricErrors) -> str:
    return f"{errors.median_abs_error_pct:.1f} / {errors.mean_abs_error_pct:.1f} / {errors.bias_pct:+.1f}"
