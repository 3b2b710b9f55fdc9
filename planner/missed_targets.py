"""Why targets of accuracy are missed, and which measurement would settle each."""

from __future__ import annotations

from itertools import combinations
from math import log
from typing import NamedTuple

from planner.accuracy import LEAST_TAU, TPOT, TTFT, Accuracy, Cause, by_name, part_errors
from planner.held_out import NEVER, CrossValidation, FoldFit
from planner.text_table import number
from planner.validation import THROUGHPUT, rank_correlation

ONE_SIDED = 0.6
"""Share of the median absolute error that the median signed error has where errors have one sign."""
NOISE = 0.05
"""Difference of throughput between two runs that repeats of one recipe show too."""
SETTLES = {
    TTFT: "time of each prefill step with its tokens per rank, and the queue at arrival",
    TPOT: "decode step time by batch from the engine's log",
}
WITH_DRAFTS = "the engine's accept length and decode step time by batch"
STALLS = "per-request records of the run: stalls show as gaps common to all requests"
REPEATS = "repeats of the same runs: errors of both signs are left when phases are right on average"


class Miss(NamedTuple):
    """One missed target, texts for a table."""

    what: str
    found: str
    in_sample: str
    sign: str
    settle: str


def misses(found: CrossValidation, tables: Accuracy) -> list[Miss]:
    """Missed targets for errors, with what the full fit has there and what would settle them."""
    fits = {fit.name: fit for fit in found.folds}
    rows = []
    for check in tables.checks:
        cause = check.cause
        if check.met or cause is None:
            continue
        rows.append(
            Miss(
                check.what,
                check.found,
                f"{cause.in_sample_pct:.1f} %",
                f"{cause.bias_pct:+.0f} %",
                _settles(cause, [fits[name] for name in cause.folds if name in fits]),
            )
        )
    return rows


def orders(found: CrossValidation) -> list[Miss]:
    """Lanes whose recipes are ranked wrongly, and how many of the pairs repeats could turn round."""
    rows = []
    for lane, points in by_name(found.points, lambda p: p.lane).items():
        tau = part_errors(lane, points).kendall_tau
        if tau is None or tau >= LEAST_TAU:
            continue
        known = [p for p in points if THROUGHPUT in p.measured]
        pairs = list(combinations(known, 2))
        apart = [(a, b) for a, b in pairs if abs(_step(a.measured, b.measured)) > NOISE]
        right = sum(_step(a.measured, b.measured) * _step(a.predicted, b.predicted) > 0 for a, b in apart)
        inside = rank_correlation([(p.in_sample[THROUGHPUT], p.measured[THROUGHPUT]) for p in known])
        rows.append(
            Miss(
                f"{lane} Kendall tau",
                f"{tau:.2f}",
                "-" if inside is None else f"{inside:.2f}",
                "-",
                f"{len(pairs) - len(apart)} of {len(pairs)} pairs of runs differ by less than "
                f"{100 * NOISE:g} %, as repeats do; of the others {right} of {len(apart)} are in order",
            )
        )
    return rows


def _step(one: dict[str, float], other: dict[str, float]) -> float:
    return log(one[THROUGHPUT] / other[THROUGHPUT])


def _settles(cause: Cause, fits: list[FoldFit]) -> str:
    if cause.in_sample_pct <= cause.limit_pct and cause.folds != (NEVER,):
        moved = _strongest(fits, cause.hosts)
        alone = f"; without these points {moved}" if moved else ""
        return f"met in sample: points of this kind from another source{alone}"
    if abs(cause.bias_pct) < ONE_SIDED * cause.in_sample_pct:
        return REPEATS
    if cause.metric == TPOT and cause.drafts:
        return WITH_DRAFTS
    return SETTLES.get(cause.metric, STALLS)


def _strongest(fits: list[FoldFit], hosts: tuple[str, ...]) -> str:
    """The parameter of these hosts that moves most when each of the folds is held out, with both values."""
    named: dict[str, tuple[float, float]] = {}
    for fit in fits:
        mine = [move for move in fit.moves if "." not in move[0] or move[0].split(".")[0] in hosts]
        named |= dict(mine[:1])
    return ", ".join(f"{name} goes from {number(a)} to {number(b)}" for name, (a, b) in named.items())
