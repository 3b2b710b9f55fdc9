"""When a dispatch table changes rows, and what that takes, as text for a terminal."""

from __future__ import annotations

from itertools import pairwise

from planner.text_table import number, table
from search_spaces.dispatch import DispatchTable
from search_spaces.units import SECONDS_PER_HOUR


def switching_text(plan: DispatchTable) -> str:
    """A line per boundary: thresholds on the way up and down, steps and lost GPU hours; empty for one row."""
    rows = [
        (
            f"{before.min_concurrency}-{before.max_concurrency}",
            str(before.switch_up_at),
            str(after.switch_down_at),
            number(before.to_next.lost_gpu_s / SECONDS_PER_HOUR, 3),
            before.to_next.summary,
        )
        for before, after in pairwise(plan.rows)
        if before.to_next is not None
    ]
    if not rows:
        return ""
    header = ("from", "up at", "back at", "GPU h lost", "steps up")
    return "Switching between rows (drain predicted, warm-up given):\n" + table(rows, header)
