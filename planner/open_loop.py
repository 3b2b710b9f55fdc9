"""One deployment under a stream of arrivals, held against a goal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from planner.service_goal import Goal, Service, judge
from search_spaces.errors import Infeasible
from search_spaces.outage import Outage
from search_spaces.traces import trace_rows
from search_spaces.workload import Workload
from simulator.intervals import Interval
from simulator.run import Run, run
from simulator.simulate import intervals_of, metrics_of, verdict
from simulator.world import Setting

SPAN_S = 60.0
SPAN_REQUESTS = 6.0
"""Arrivals last for this many times a request's own duration, or `SPAN_S`, whichever is longer."""
LEAST_REQUESTS, MOST_REQUESTS = 400, 12000
LOSS_AT = 0.3
"""Share of the arrivals after which a worker is lost, in runs that try it."""


@dataclass(frozen=True)
class Served:
    """What a deployment did with a stream of requests."""

    rate: float
    workload: Workload
    service: Service
    metrics: dict[str, float]
    intervals: dict[str, Interval]
    limit: str


@dataclass(frozen=True)
class Stream:
    """A deployment, the requests that reach it and what they are promised."""

    setting: Setting
    goal: Goal
    e2e_s: float
    """About how long one request takes, to choose the length of the run."""


def arriving(load: Workload, rate: float, e2e_s: float) -> Workload:
    """A load as an open loop at `rate` requests per second, long enough to settle."""
    count = round(rate * max(SPAN_S, SPAN_REQUESTS * e2e_s))
    count = min(max(count, LEAST_REQUESTS), MOST_REQUESTS)
    if load.trace is not None:
        rows = trace_rows(load.trace.model_copy(update={"rate_scale": 1.0}))
        own = len(rows.arrival_s) / max(float(rows.arrival_s[-1]), 1e-9)
        count = min(count, load.trace.requests)
        trace = load.trace.model_copy(update={"rate_scale": rate / own})
        return load.model_copy(update={"trace": trace, "num_prompts": count, "concurrency": count})
    return load.model_copy(update={"request_rate": rate, "num_prompts": count, "concurrency": count})


def serve(stream: Stream, rate: float) -> Served | str:
    """Simulate a deployment at an arrival rate; a text says why it cannot run."""
    load = arriving(stream.setting.workload, rate, stream.e2e_s)
    try:
        done = run(replace(stream.setting, workload=load))
    except Infeasible as error:
        return str(error)
    return _served(rate, done, judge(stream.goal, done))


def serve_with_loss(stream: Stream, rate: float, lost: Iterable[tuple[str, int]]) -> Served | str:
    """The same while the last workers of some roles die and stay away; those served from then on count.

    Args:
        stream: the deployment.
        rate: requests per second.
        lost: role and workers of it, fewer than it has.
    """
    load = arriving(stream.setting.workload, rate, stream.e2e_s)
    at_s = LOSS_AT * load.measured_requests / rate
    groups = stream.setting.recipe.groups
    gone = tuple(
        Outage.model_validate({"role": role, "worker": groups[role].num_workers - 1 - i, "at_s": at_s})
        for role, workers in lost
        for i in range(workers)
    )
    try:
        done = run(replace(stream.setting, workload=load, outages=gone))
    except Infeasible as error:
        return str(error)
    return _served(rate, done, judge(stream.goal, done, since_s=at_s))


def _served(rate: float, done: Run, service: Service) -> Served:
    metrics = metrics_of(done)
    return Served(
        rate, done.setting.workload, service, metrics, intervals_of(done.setting, metrics), verdict(done)[0]
    )


def smallest_fleet(
    stream: Stream, rate: float, guess: int, most: int
) -> tuple[int, Served] | tuple[None, Served | str]:
    """Fewest equal deployments that keep the goal when `rate` is split between them.

    Args:
        stream: one of the deployments.
        rate: requests per second in all; arrivals split at random stay as bursty as stated, or less.
        guess: where to begin.
        most: deployments allowed.

    Returns:
        The number and what each serves; or None and what is served by `most`, or by as many as still help.
    """
    fails, works, best, last = 0, None, None, None
    count = min(max(guess, 1), most)
    top = min(most, 8 * max(guess, 1) + 8)
    while works is None or works - fails > 1:
        found = serve(stream, rate / count)
        if isinstance(found, str):
            return None, found
        last = found
        if found.service.is_kept:
            works, best = count, found
        else:
            fails = count
        if works is None:
            if fails >= top:
                return None, last
            count = min(top, max(fails + 1, round(1.3 * fails)))
        else:
            count = max(fails + 1, works - max(1, (works - fails) // 4), 1)
    assert best is not None
    return works, best


def headroom(stream: Stream, rate: float, steps: int = 4) -> float:
    """Share by which arrivals may grow before the goal breaks; beyond 1 it is not looked for."""
    low, high = 1.0, 2.0
    for _ in range(steps):
        factor = (low + high) / 2
        found = serve(stream, rate * factor)
        if isinstance(found, Served) and found.service.is_kept:
            low = factor
        else:
            high = factor
    return low - 1.0
