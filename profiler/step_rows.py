"""Forward passes to rows of a step profile: medians by shape."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple, cast

import numpy as np

from search_spaces.step_profile import StepMode, StepRow

DRAFTS = ("draft", "draft_extend")
LEAST_PASSES = 3
"""Shapes seen less often make no row."""


class Pass(NamedTuple):
    """One forward pass. Wall-clock seconds at its start; seconds and tokens."""

    t: float
    mode: str
    sequences: int
    new_tokens: int
    context: float
    host_s: float | None = None
    graph: bool = False
    gpu_s: float | None = None
    gap_s: float | None = None


class Timed(NamedTuple):
    """A pass and the time from its start to the start of the next one."""

    one: Pass
    wall_s: float


class Interruption(NamedTuple):
    """A prefill pass, the time that it adds, and the sequences that decode before and after it."""

    one: Pass
    wall_s: float
    beside: int


def with_drafts(passes: Sequence[Pass]) -> list[Pass]:
    """Passes of the target model, each until the draft extension behind it is launched and ended.

    Nothing of the next pass can start before that. Draft passes proper, which follow the extension (most
    engines replay them in one graph, which no recorder sees), count as part of the gap before a pass.
    """
    found: list[Pass] = []
    drafted = 0.0
    for one in passes:
        if one.mode not in DRAFTS:
            gap = None if one.gap_s is None else one.gap_s + drafted
            found.append(one._replace(gap_s=gap))
            drafted = 0.0
        elif one.mode == "draft_extend" and found and not drafted:
            found[-1] = _extended(found[-1], one)
        else:
            drafted += (one.gap_s or 0.0) + (one.gpu_s or 0.0)
    return found


def _extended(one: Pass, extension: Pass) -> Pass:
    gpu_s = None
    if one.gpu_s is not None and extension.gpu_s is not None and extension.gap_s is not None:
        gpu_s = one.gpu_s + extension.gap_s + extension.gpu_s
    return one._replace(host_s=extension.t + (extension.host_s or 0.0) - one.t, gpu_s=gpu_s)


def timed(passes: Sequence[Pass]) -> list[Timed]:
    """Passes of one uninterrupted run with their walls; the last one has none and is left out.

    The wall of a pass of the target model lasts until its next pass starts, drafts included: on the GPU's
    own clock where it was read, as an overlapped host launches ahead; else on the host's. A draft pass
    takes its own time.
    """
    found, before = [], None
    for index, one in enumerate(passes):
        own = one.gpu_s or one.host_s
        if one.mode in DRAFTS:
            if own:
                found.append(Timed(one, own))
            continue
        if before is not None:
            found.append(Timed(passes[before], _until(passes[before : index + 1])))
        before = index
    return [item for item in found if item.wall_s > 0]


def steady(walls: Iterable[Timed], lead: int) -> list[Timed]:
    """Passes without the first `lead` that decode after a prefill."""
    found, since = [], lead
    for item in walls:
        prefill = item.one.mode == "prefill"
        since = 0 if prefill else since + (item.one.mode not in DRAFTS)
        if prefill or since > lead:
            found.append(item)
    return found


def turns(passes: Sequence[Pass]) -> dict[str, list[float]]:
    """Host seconds from the results of a pass to the start of the pass that the host forms then.

    An overlapped scheduler launches a pass, waits for the results of the one before, and begins anew. With
    the GPU's times chained from the first pass on, the host is free when it has launched a pass and the GPU
    has ended the one before that. Keys: `decode` between decode passes, `prefill` with a prefill on either
    side. Nothing without GPU times or with drafts.
    """
    found: dict[str, list[float]] = {"prefill": [], "decode": []}
    if any(one.gpu_s is None or one.host_s is None or one.mode in (*DRAFTS, "verify") for one in passes):
        return found
    ends: list[float] = []
    for index, one in enumerate(passes):
        start = one.t if not ends or one.gap_s is None else ends[-1] + one.gap_s
        ends.append(start + (one.gpu_s or 0.0))
        if index >= 2:
            before = passes[index - 1]
            free = max(before.t + (before.host_s or 0.0), ends[index - 2])
            kind = "prefill" if "prefill" in (one.mode, before.mode) else "decode"
            found[kind].append(one.t - free)
    return found


def between_decodes(main: Sequence[Pass]) -> list[Interruption]:
    """Prefill passes among others that decode, and the time that each adds to the run.

    The GPU may idle before such a pass, which is its own doing; the gap before a decode pass, in which an
    engine drafts, is there without it too. Nothing without GPU times.
    """
    decodes = [one.mode in ("decode", "verify") for one in main]
    usual = [b.gap_s for b, *both in zip(main[1:], decodes, decodes[1:], strict=False) if all(both)]
    if not usual or any(one.gpu_s is None for one in main) or any(one.gap_s is None for one in main[1:]):
        return []
    gap = float(np.median([seconds for seconds in usual if seconds is not None]))
    found, beside = [], 0
    for index, item in enumerate(timed(main)):
        one = item.one
        if decodes[index]:
            beside = one.sequences
            continue
        wall = item.wall_s - (gap if decodes[index + 1] else 0.0)
        if index and decodes[index - 1]:
            wall += one.gap_s or 0.0
        if beside:
            found.append(Interruption(one, wall, beside))
    return found


HOST_BOUND = 1.08
"""A pass that takes the GPU up to so many times what it takes the host waited for its launches."""


def launches(passes: Sequence[Pass]) -> list[float]:
    """Host seconds of the prefill passes that took the GPU about as long: not where a queue was full.

    A later chunk of a prompt is launched behind the one before, so that its host may wait for that one's
    end, for as long as its own pass takes the GPU.
    """
    return [
        one.host_s
        for one in passes
        if one.mode == "prefill"
        and one.context == 0
        and one.host_s
        and one.gpu_s
        and 1 / HOST_BOUND < one.gpu_s / one.host_s < HOST_BOUND
    ]


def _until(run: Sequence[Pass]) -> float:
    """Seconds from the start of the first pass to the start of the last."""
    busy = [one.gpu_s for one in run[:-1]]
    idle = [one.gap_s for one in run[1:]]
    if None in busy or None in idle:
        return run[-1].t - run[0].t
    return sum(s for s in (*busy, *idle) if s is not None)


def rows(walls: Iterable[Timed], decode_sequences: int | None = None) -> list[StepRow]:
    """One row per shape.

    The first pass of a shape, which may compile, is left out where enough others remain.

    Args:
        walls: timed passes, in the order they ran.
        decode_sequences: batch that decode passes must have; smaller ones are a run's beginning and end.
    """
    shapes: dict[tuple[str, int, int, int], list[Timed]] = defaultdict(list)
    for item in walls:
        one = item.one
        prefill = one.mode in ("prefill", "draft_extend")
        if not prefill and decode_sequences is not None and one.sequences != decode_sequences:
            continue
        key = (one.mode, one.sequences, one.new_tokens, round(one.context) if prefill else 0)
        shapes[key].append(item)
    return [_row(items) for items in shapes.values() if len(items) >= LEAST_PASSES]


def _row(items: Sequence[Timed]) -> StepRow:
    kept = items[1:] if len(items) > LEAST_PASSES else items
    walls = np.array([item.wall_s for item in kept])
    one = kept[-1].one
    return StepRow(
        mode=cast(StepMode, one.mode),
        sequences=one.sequences,
        new_tokens=one.new_tokens,
        context=float(np.mean([item.one.context for item in kept])),
        wall_s=float(np.median(walls)),
        low_s=float(np.quantile(walls, 0.1)),
        high_s=float(np.quantile(walls, 0.9)),
        count=len(kept),
        gpu_s=_median(item.one.gpu_s for item in kept),
        gap_s=_median(item.one.gap_s for item in kept),
        host_s=_median(item.one.host_s for item in kept),
        graph=one.graph,
    )


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def merged(found: Iterable[StepRow]) -> tuple[StepRow, ...]:
    """Rows of the same shape as the one with most passes behind it, in a fixed order."""
    best: dict[tuple[str, int, int, int, int], StepRow] = {}
    for row in found:
        key = (row.mode, row.sequences, row.new_tokens, round(row.context), row.beside)
        if key not in best or row.count > best[key].count:
            best[key] = row
    return tuple(best[key] for key in sorted(best))


def client_passes(
    sent: float, tokens: Sequence[tuple[float, int]], context: int, sequences: int, one_prefill: bool
) -> list[Pass]:
    """Passes as a client sees them, for a server whose own record is out of reach.

    Between the moment when every sequence has begun and the first one's end, each token of one sequence is
    one decode pass. The prefill pass is timed from sending, so that it contains the request's way in and out.

    Args:
        sent: when the prompts were sent.
        tokens: arrival of each token and its sequence.
        context: tokens of each prompt.
        sequences: prompts sent together.
        one_prefill: whether they fit one prefill pass.
    """
    by_sequence: dict[int, list[float]] = defaultdict(list)
    for when, index in tokens:
        by_sequence[index].append(when)
    begun = max(times[0] for times in by_sequence.values())
    end = min(times[-1] for times in by_sequence.values())
    found = [Pass(sent, "prefill", sequences, sequences * context, 0.0)] if one_prefill else []
    for index, when in enumerate(by_sequence[0]):
        if begun <= when <= end:
            found.append(Pass(when, "decode", sequences, sequences, context + index))
    return found
