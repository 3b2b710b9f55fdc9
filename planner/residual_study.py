"""Where held-out errors have a sign, by lane, load, width, drafts and age."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from planner.accuracy import TPOT, TTFT
from planner.held_out import HeldOut
from planner.validation import THROUGHPUT

LEAST = 3
"""Points below which a slice shows nothing."""


class Slice(NamedTuple):
    """Signed errors of the points that share one property; fractions, None below `LEAST` points."""

    kind: str
    value: str
    n: int
    throughput: float | None
    tpot: float | None
    ttft: float | None
    unexplained: float | None
    """Median of `HeldOut.unexplained_fraction`."""


def _bin(value: float, edges: Sequence[float]) -> str:
    low = max((e for e in edges if value >= e), default=None)
    high = min((e for e in edges if value < e), default=None)
    if low is None:
        return f"below {high:g}"
    return f"{low:g} and more" if high is None else f"{low:g} to below {high:g}"


KINDS: dict[str, Callable[[HeldOut], str]] = {
    "lane": lambda p: p.part,
    "batch per decode rank": lambda p: _bin(p.batch_per_rank, (4, 16, 64, 256)),
    "concurrency": lambda p: _bin(p.concurrency, (16, 64, 256, 1024)),
    "expert-parallel width": lambda p: str(p.moe_ep),
    "draft steps": lambda p: str(p.mtp_steps),
    "prompt": lambda p: f"{p.workload} {p.prompts}",
    "stack": lambda p: p.stack.split("+")[0],
    "host CPU": lambda p: p.host,
}


def _median(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.median(known)) if len(known) >= LEAST else None


def _signed(points: Sequence[HeldOut], metric: str) -> float | None:
    errors = [p.log_error(metric) for p in points]
    found = _median(errors)
    return None if found is None else float(np.expm1(found))


def slices(points: Sequence[HeldOut]) -> list[Slice]:
    """Every slice with enough points, kind by kind, values in alphabetical order."""
    found = []
    for kind, value_of in KINDS.items():
        for value in sorted({value_of(p) for p in points}):
            mine = [p for p in points if value_of(p) == value]
            if len(mine) >= LEAST:
                found.append(
                    Slice(
                        kind, value, len(mine), _signed(mine, THROUGHPUT), _signed(mine, TPOT),
                        _signed(mine, TTFT), _median([p.unexplained_fraction for p in mine]),
                    )
                )  # fmt: skip
    return found
