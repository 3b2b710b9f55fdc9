"""The kernel report as text and as JSON."""

from __future__ import annotations

from statistics import median
from typing import Any

from planner.text_table import Cell, percent, table
from profiler.kernel_record import RecordFile
from profiler.kernel_report import KernelSummary, TableComparison
from search_spaces.units import US_PER_S

HEADER = (
    "kernel", "shapes", "checked", "us min", "us max", "least", "median", "most", "spread",
)  # fmt: skip


def report_text(found: RecordFile, rows: list[KernelSummary], tables: list[TableComparison]) -> str:
    """Per device: its runs, measured time over roofline and shipped tables, and what did not run."""
    blocks = []
    for device in dict.fromkeys(row.device for row in rows):
        own = [row for row in rows if row.device == device]
        blocks.append(
            "\n".join([_title(found, device), *_measured(own), *_compared(device, tables), *_reasons(own)])
        )
    return "\n\n".join(blocks) if blocks else "no records"


def _title(found: RecordFile, device: str) -> str:
    runs = [run for run in found.runs.values() if run.device == device]
    lines = [f"{device}: {len(runs)} run{'s' * (len(runs) > 1)}"]
    for run in runs:
        versions = ", ".join(f"{name} {version}" for name, version in sorted(run.versions.items()))
        lines.append(f"  {run.started}  driver {run.driver}, CUDA {run.cuda}, {versions}")
        if run.source:
            lines.append(f"  {run.source}")
    return "\n".join(lines)


def _measured(rows: list[KernelSummary]) -> list[str]:
    lines = [_line(row) for row in rows if row.times_s]
    title = "Measured time over roofline (below 1: inputs stayed in the L2)"
    return ["", title, table(lines, HEADER)] if lines else []


def _line(row: KernelSummary) -> list[Cell]:
    ratio = row.ratio() or (None, None, None)
    shown: list[Cell] = [None if value is None else f"{value:.2f}" for value in ratio]
    times: list[Cell] = [seconds * US_PER_S for seconds in (min(row.times_s), max(row.times_s))]
    spread = percent(median(row.spreads)) if row.spreads else None
    return [row.kernel, str(len(row.times_s)), str(row.checked), *times, *shown, spread]


def _compared(device: str, tables: list[TableComparison]) -> list[str]:
    lines: list[list[Cell]] = [
        [one.table, one.kernel, str(len(one.ratios)), *(f"{ratio:.2f}" for ratio in _spread(one))]
        for one in tables
        if one.device == device
    ]
    title = "Measured time over that of the kernel table which predictions use, at equal shapes"
    header = ("table", "kernel", "shapes", "least", "median", "most")
    return ["", title, table(lines, header)] if lines else []


def _spread(one: TableComparison) -> tuple[float, float, float]:
    return one.ratios[0], median(one.ratios), one.ratios[-1]


def _reasons(rows: list[KernelSummary]) -> list[str]:
    lines = [[row.kernel, str(count), reason] for row in rows for reason, count in row.reasons.items()]
    return ["", "Without a time", table(lines, ("kernel", "shapes", "reason"))] if lines else []


def report_data(
    found: RecordFile, rows: list[KernelSummary], tables: list[TableComparison]
) -> dict[str, Any]:
    """The same as one JSON document; times in seconds."""
    return {
        "runs": [run.model_dump(exclude_none=True) for run in found.runs.values()],
        "damaged_lines": found.damaged,
        "kernels": [
            {
                "device": row.device,
                "family": row.family,
                "kernel": row.kernel,
                "shapes": len(row.times_s),
                "checked": row.checked,
                "largest_error": row.largest_error,
                "time_over_roofline": row.ratio(),
                "median_spread": median(row.spreads) if row.spreads else None,
                "without_time": row.reasons,
            }
            for row in rows
        ],
        "tables": [
            {
                "device": one.device,
                "table": one.table,
                "kernel": one.kernel,
                "shapes": len(one.ratios),
                "time_over_table": _spread(one),
            }
            for one in tables
        ],
    }
