"""A waterfall as text for a terminal."""

from __future__ import annotations

from planner.text_table import number, percent, table
from planner.waterfall import Waterfall


def _or_dash(value: float | None) -> str:
    return "-" if value is None else number(value)


def waterfall_text(found: Waterfall) -> str:
    """One line per switch: throughput with it and those before it, its gain, what leaving it out costs."""
    begin = (found.start, found.start_tokens_per_s_per_gpu, found.start_median_tpot_ms)
    rows = [(begin[0], _or_dash(begin[1]), _or_dash(begin[2]), "", "", "")]
    rows += [
        (
            f"+ {step.switch}",
            _or_dash(step.total_tokens_per_s_per_gpu),
            _or_dash(step.median_tpot_ms),
            percent(step.gain, signed=True),
            percent(step.loss_if_left_out),
            step.note,
        )
        for step in found.steps
    ]
    final = (found.end, found.end_tokens_per_s_per_gpu, found.end_median_tpot_ms)
    rows.append((final[0], _or_dash(final[1]), _or_dash(final[2]), "", "", ""))
    header = ("stack", "tok/s/GPU", "TPOT ms", "gain", "lost without", "note")
    title = (
        f"{found.recipe} at concurrency {found.concurrency}, from {found.start} to {found.end} (simulated)"
    )
    return f"{title}\n\n{table(rows, header)}"
