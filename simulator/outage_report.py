"""What an outage did to those who were served: before, during and after, and how long the queue took."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from search_spaces.base import Noun
from search_spaces.outage import Outage
from search_spaces.units import MS_PER_S
from simulator import loop_state as ls
from simulator.run import Run

Floats = NDArray[np.float64]
QUEUE_PERCENTILE = 95
"""The queue has recovered when it is back at this percentile of its length before."""


class Phase(Noun):
    """A stretch of a run.

    Times to first token are of requests sent in it, throughput is of requests completed in it.
    """

    name: str
    begin_s: float
    end_s: float
    sent: int
    completed: int
    total_tokens_per_s_per_gpu: float
    """Over all GPUs of the recipe, dead ones too."""
    median_ttft_ms: float | None
    """None where nothing was sent."""
    p99_ttft_ms: float | None
    mean_queue: float
    """Requests sent and without a first token, on average."""


class OutageReport(Noun):
    """One or several outages of a run, seen from outside."""

    outages: tuple[Outage, ...]
    phases: list[Phase]
    """`before` is the second half of the time before the first outage, free of the run's ramp; `during` lasts
    until all workers are back; the last phase ends with the last send."""
    resent: int
    """Requests that were sent again."""
    queue_before: float
    """95th percentile of the queue before."""
    queue_peak: float
    recovery_s: float | None = Field(default=None, ge=0)
    """From the first loss until the queue is back at `queue_before`; None: not by the last send."""


def outage_report(done: Run) -> OutageReport:
    """Measure a run with outages.

    Args:
        done: a run whose setting has at least one outage.
    """
    outages = done.setting.outages
    sent, first = done.reqs.t[:, ls.SEND], done.reqs.t[:, ls.FIRST]
    last = float(sent.max())
    at_s = min(o.at_s for o in outages)
    back = max((np.inf if o.back_s is None else o.at_s + o.back_s) for o in outages)
    ends = [("before", at_s / 2, at_s), ("during", at_s, min(back, max(last, at_s)))]
    if back < last:
        ends.append(("after", back, last))
    times = np.unique(np.concatenate([sent, first[first <= last]]))
    queue = _queue(sent, first, times)
    level = _level(queue[(times >= at_s / 2) & (times < at_s)])
    later = times >= at_s
    return OutageReport(
        outages=outages,
        phases=[_phase(done, name, begin, end, times, queue) for name, begin, end in ends],
        resent=done.resent,
        queue_before=level,
        queue_peak=float(queue[later].max(initial=0.0)),
        recovery_s=_recovery(times[later], queue[later], level, at_s),
    )


def _queue(sent: Floats, first: Floats, times: Floats) -> Floats:
    """Requests without a first token right after each of `times`."""
    before = np.searchsorted(np.sort(sent), times, side="right")
    found: Floats = (before - np.searchsorted(np.sort(first), times, side="right")).astype(float)
    return found


def _level(queue: Floats) -> float:
    return float(np.percentile(queue, QUEUE_PERCENTILE)) if len(queue) else 0.0


def _recovery(times: Floats, queue: Floats, level: float, at_s: float) -> float | None:
    """Until the queue is back after its peak; 0 where it never left."""
    if not len(queue) or queue.max() <= level:
        return 0.0
    peak = int(np.argmax(queue))
    back = np.flatnonzero(queue[peak:] <= level)
    return float(times[peak + back[0]] - at_s) if len(back) else None


def _phase(done: Run, name: str, begin: float, end: float, times: Floats, queue: Floats) -> Phase:
    reqs = done.reqs
    sent, finished = reqs.t[:, ls.SEND], reqs.t[:, ls.DONE]
    mine = (sent >= begin) & (sent < end)
    out = (finished >= begin) & (finished < end)
    ttft = (reqs.t[:, ls.FIRST] - sent)[mine] * MS_PER_S
    tokens = float((reqs.i[out, ls.ISL] + reqs.i[out, ls.OSL]).sum())
    span = end - begin
    return Phase(
        name=name,
        begin_s=begin,
        end_s=end,
        sent=int(mine.sum()),
        completed=int(out.sum()),
        total_tokens_per_s_per_gpu=tokens / span / done.setting.recipe.num_gpus if span > 0 else 0.0,
        median_ttft_ms=float(np.median(ttft)) if len(ttft) else None,
        p99_ttft_ms=float(np.percentile(ttft, 99)) if len(ttft) else None,
        mean_queue=_mean(times, queue, begin, end),
    )


def _mean(times: Floats, queue: Floats, begin: float, end: float) -> float:
    """Time average of a step function."""
    inside = np.clip(np.append(times, np.inf), begin, end)
    held = np.diff(inside)
    return float((queue * held).sum() / held.sum()) if held.sum() > 0 else 0.0
