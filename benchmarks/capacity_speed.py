"""What the capacity commands cost: processor seconds, and the share that screening takes.

Run `python -m benchmarks.capacity_speed` from the repository root. The cases are those of the README and of
docs/capacity.md. Each runs twice in a process of its own: the first run loads or compiles the event loop and
builds the tables of costs, as a command does; the second has both. Processor seconds say the same on a busy
machine; ratios between lines of one run say the most.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from planner import api
from planner.parallel import Crew
from planner.sizing_screen import bench_for, pools_of
from planner.sizing_source import SIZE_DEFAULTS, size_request

MODEL, PLATFORM = "deepseek-ai/DeepSeek-V4-Pro", "gb300"
RECIPE = "disagg-gb300-10p1d-dep4-dep32-18-c2500"
GOALS = ("ttft.p90=3000", "tpot.p90=40")
RATE = 40.0
CHANGES = ("isl=16384", "prefix_hit=0.6", "moe.w4a4=off", "stack=day0", "price.gb300=5.2")


def simulate() -> Any:
    """One prediction of the recipe that `whatif` changes."""
    return api.simulate(RECIPE)


def whatif() -> Any:
    """The five changes of the README."""
    return api.whatif(RECIPE, *CHANGES)


def size(spare: str = "node") -> Any:
    """The fleet of the README on one platform."""
    return api.size(MODEL, [PLATFORM], GOALS, request_rate=RATE, spare=spare, workers=1)


def size_alone() -> Any:
    """The same without reserves."""
    return size("none")


def screen() -> Any:
    """The part of it that the fluid model does."""
    given = {"model": MODEL, "hardware": (PLATFORM,), "goals": GOALS, "request_rate": RATE}
    request = size_request(SIZE_DEFAULTS | given)
    with Crew(1) as crew:
        return pools_of(request, {PLATFORM: bench_for(request, PLATFORM)}, crew)


def seconds(task: Callable[[], Any]) -> tuple[float, float]:
    """Processor seconds of the first run, with compilation or its cache, and of the second."""
    found = []
    for _ in range(2):
        begun = time.process_time()
        task()
        found.append(time.process_time() - begun)
    return found[0], found[1]


def main() -> None:
    """Print a line per case; each has a process of its own."""
    print(f"{'case':12s} {'first run, s':>14s} {'second, s':>12s} {'of size':>9s}")
    found = {}
    for task in (size, size_alone, screen, whatif, simulate):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            found[task.__name__] = pool.submit(seconds, task).result()
    for name, (first, second) in found.items():
        print(f"{name:12s} {first:14.2f} {second:12.2f} {second / found['size'][1]:9.2f}", flush=True)


if __name__ == "__main__":
    main()
