"""The passes of an observed run: which stood still, and how long the others took against the step profile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from planner.text_table import percent
from profiler.step_rows import Pass, between_decodes, timed, with_drafts
from search_spaces.step_profile import StepProfile
from simulator.measured_tables import (
    StepSurface,
    host_pipeline,
    interruption,
    padded_batch,
    prefill_gpu_surface,
    surfaces,
)

STALL_FACTOR, STALL_S = 1.5, 0.05
"""A pass stood still that took this many times what its kind and size takes, and this much longer."""
IDLE_S = 0.005
"""A longer gap after a pass is the engine's wait for requests, not the step's own."""


class Step(NamedTuple):
    """A pass of a run beside the time that it should take, seconds."""

    one: Pass
    wall_s: float
    predicted_s: float


def last_seconds(passes: Sequence[Pass], seconds: float) -> list[Pass]:
    """Passes of the last `seconds`: of the measured run, without the load generator's warm-up before it."""
    if not passes:
        return []
    last = passes[-1]
    begin = last.t + (last.gpu_s or last.host_s or 0.0) - seconds
    return [one for one in passes if one.t >= begin]


def own_s(one: Pass) -> float:
    """Seconds from a pass's start to its end, on the host or on the GPU."""
    return max(one.host_s or 0.0, one.gpu_s or 0.0)


def steps_of(passes: Sequence[Pass], steps: StepProfile) -> list[Step]:
    """Passes of the target model beside what the profile says of their size and context.

    Decode passes last until the next pass starts. Prefill passes are eager: they last until the GPU is done
    and the host has launched them, and the host may have begun while the GPU was busy with the pass before.
    """
    main = with_drafts(passes)
    if steps.group.mtp is not None:
        return _drafted_steps(main, steps)
    found, pipeline = surfaces(steps), host_pipeline(steps)
    gpu = prefill_gpu_surface(steps)
    ahead = _host_ahead(main)
    result = []
    for item, lead in zip(timed(main), ahead, strict=False):
        one = item.one
        if one.mode == "prefill" and pipeline is not None and one.gpu_s is not None:
            least = pipeline.prefill_launch_s - lead
            wait = 0.0 if one.context else max(0.0, pipeline.first_wait_s - lead)
            result.append(Step(one, one.gpu_s, max(_at(gpu, one, steps) + wait, least)))
        else:
            surface = found["prefill" if one.mode == "prefill" else "decode"]
            result.append(Step(one, item.wall_s, _at(surface, one, steps)))
    return result


def _drafted_steps(main: Sequence[Pass], steps: StepProfile) -> list[Step]:
    """The same with drafts: iterations from verify to verify, and what prefill passes add between them."""
    found, more = surfaces(steps), interruption(steps)
    result = [
        Step(item.one, item.wall_s, _at(found["decode"], item.one, steps))
        for item, following in zip(timed(main), main[1:], strict=False)
        if item.one.mode == following.mode == "verify"
    ]
    for one, wall, beside in between_decodes(main):
        result.append(Step(one, wall, _at(found["prefill"], one, steps) + more.seconds(beside)))
    return result


def _host_ahead(passes: Sequence[Pass]) -> list[float]:
    """Seconds by which the host began each pass before the GPU did."""
    ahead: list[float] = []
    end = None
    for one in passes:
        start = one.t if end is None or one.gap_s is None else end + one.gap_s
        end = start + (one.gpu_s or one.host_s or 0.0)
        ahead.append(max(0.0, start - one.t))
    return ahead


def _at(surface: StepSurface, one: Pass, steps: StepProfile) -> float:
    """Seconds of a surface at a pass."""
    if one.mode == "prefill":
        size, context = float(one.new_tokens), one.context + one.new_tokens / one.sequences / 2
    else:
        size, context = float(padded_batch(steps, one.sequences)), one.context
    return float(surface.seconds(size, np.array([max(context, 1.0)]))[0])


def expected_s(passes: Sequence[Pass], steps: StepProfile | None) -> list[float]:
    """What each pass should take: of the profile, else the median of the run's passes of its kind."""
    if steps is not None:
        found = surfaces(steps)
        return [_at(found["prefill" if one.mode == "prefill" else "decode"], one, steps) for one in passes]
    kinds = {one.mode for one in passes}
    medians = {kind: float(np.median([own_s(one) for one in passes if one.mode == kind])) for kind in kinds}
    return [medians[one.mode] for one in passes]


def stalls_of(passes: Sequence[Pass], steps: StepProfile | None) -> list[dict[str, Any]]:
    """Passes that stood still, with their size and the seconds that they took."""
    main = with_drafts(passes)
    return [
        {
            "mode": one.mode,
            "sequences": one.sequences,
            "new_tokens": one.new_tokens,
            "seconds": round(own_s(one), 4),
            "expected_s": round(expected, 4),
        }
        for one, expected in zip(main, expected_s(main, steps), strict=True)
        if own_s(one) > max(STALL_FACTOR * expected, expected + STALL_S)
    ]


def passes_report(passes: Sequence[Pass], steps: StepProfile | None) -> dict[str, Any]:
    """What a record keeps of a run's passes: numbers, stalls, and the steps' errors by kind."""
    stalls = stalls_of(passes, steps)
    report: dict[str, Any] = {"count": len(passes), "stalls": stalls}
    if steps is None:
        return report
    found = steps_of(passes, steps)
    # With drafts only passes that others follow at once are looked at.
    busy = found if steps.group.mtp else [s for s in found if s.wall_s < own_s(s.one) + IDLE_S]
    for kind in ("prefill", "decode"):
        mine = [s for s in busy if (s.one.mode == "prefill") == (kind == "prefill")]
        if mine:
            errors = np.array([s.predicted_s / s.wall_s - 1 for s in mine])
            report[kind] = {
                "passes": len(mine),
                "mean_ms": round(float(np.mean([s.wall_s for s in mine])) * 1e3, 4),
                "predicted_mean_ms": round(float(np.mean([s.predicted_s for s in mine])) * 1e3, 4),
                "median_abs_error": round(float(np.median(np.abs(errors))), 4),
                "median_error": round(float(np.median(errors)), 4),
            }
    return report


def passes_text(report: Mapping[str, Any]) -> str:
    """One line on a run's passes."""
    parts = [f"{report['count']} passes"]
    for kind in ("prefill", "decode"):
        if kind in report:
            off = percent(report[kind]["median_error"], signed=True)
            parts.append(f"{kind} steps {off} at the median")
    stalled = sum(one["seconds"] for one in report["stalls"])
    parts.append(f"{len(report['stalls'])} stalls of {stalled:.1f} s together")
    return ", ".join(parts)
