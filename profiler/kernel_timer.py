"""How long a kernel takes: graph replay over rotating inputs, timed with CUDA events.

Weights do not stay in the L2 between two layers, so a case brings several copies of its inputs, and
launches walk through them. Where the copies together exceed twice the L2, each launch finds its
inputs in HBM; smaller cases are marked as warm. Launches are captured in one CUDA graph, as engines
run their decode steps, so that no host time is counted. One time is that of a whole replay over its
launches; the reported figures are the median and the tenth and ninetieth percentile over replays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

from profiler.kernel_gpu import Gpu
from search_spaces.units import seconds_from_ms

T = TypeVar("T")
Call = Callable[[], Any]

L2_FACTOR = 2
MOST_SETS = 32
MOST_LAUNCHES = 64
GRAPH_S = 0.01
"""A graph holds about this much work."""
REPLAYS_S = 0.06
"""Replays go on about this long, within `REPLAYS`."""
REPLAYS = (9, 50)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A case with its inputs in place."""

    calls: Sequence[Call]
    """One launch per copy of the inputs."""
    check: Callable[[], float]
    """Run the first call and return its relative error against a high-precision reference."""
    tolerance: float
    """Largest relative error that counts as right."""
    input_bytes: float
    """Bytes of one copy of the inputs."""
    graph: bool = True
    """Whether launches may be captured; large copies run slower as graph nodes."""
    capturing: Callable[[], AbstractContextManager[Any]] = nullcontext
    """What must surround a capture; a kernel that reads other GPUs exchanges addresses at its end."""
    measure: Callable[[], Timing] | None = None
    """How to time what other processes run; `calls` is empty then."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds per launch, and how they were found."""

    median_s: float
    p10_s: float
    p90_s: float
    launches: int
    replays: int


def input_sets(gpu: Gpu, input_bytes: float, most: int = MOST_SETS) -> int:
    """Copies of the inputs that exceed twice the L2, within `most`."""
    return max(1, min(most, math.ceil(L2_FACTOR * gpu.l2_bytes / max(input_bytes, 1.0))))


def rotate(gpu: Gpu, input_bytes: float, make: Callable[[], T], most: int = MOST_SETS) -> list[T]:
    """Copies of the inputs; see `input_sets`."""
    return [make() for _ in range(input_sets(gpu, input_bytes, most))]


def time_calls(prepared: Prepared, fixed: tuple[int, int] | None = None) -> Timing:
    """Time the calls of a prepared case; they have been compiled by its check.

    Args:
        prepared: what to run.
        fixed: launches of a replay and number of replays, instead of as many as the time allows.
    """
    if prepared.measure is not None:
        return prepared.measure()
    import torch

    calls = prepared.calls
    for call in calls:
        call()
    torch.cuda.synchronize()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def seconds(work: Call) -> float:
        start.record()
        work()
        end.record()
        end.synchronize()
        return seconds_from_ms(start.elapsed_time(end))

    def walk() -> None:
        for call in calls:
            call()

    once = max(seconds(walk) / len(calls), 1e-7)
    launches = fixed[0] if fixed else max(len(calls), min(MOST_LAUNCHES, int(GRAPH_S / once)))
    replay = (_captured if prepared.graph else _repeated)(prepared, launches)
    for _ in range(2):
        replay()
    first = seconds(replay)
    low, high = REPLAYS
    count = fixed[1] if fixed else max(low, min(high, int(REPLAYS_S / max(first, 1e-6))))
    times = sorted(seconds(replay) / launches for _ in range(count))
    return Timing(_quantile(times, 0.5), _quantile(times, 0.1), _quantile(times, 0.9), launches, count)


def _captured(prepared: Prepared, launches: int) -> Call:
    import torch

    calls = prepared.calls
    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        calls[0]()
        # NCCL's own threads query events meanwhile, which would end a capture that watches all threads
        with prepared.capturing(), torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
            for i in range(launches):
                calls[i % len(calls)]()
    torch.cuda.synchronize()
    replay: Call = graph.replay
    return replay


def _repeated(prepared: Prepared, launches: int) -> Call:
    calls = prepared.calls

    def run() -> None:
        for i in range(launches):
            calls[i % len(calls)]()

    return run


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Linear between the two nearest of ascending values."""
    at = share * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])
