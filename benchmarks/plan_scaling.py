"""How the search of `plan` gains from cores, and what Optuna itself takes of it.

    python -m benchmarks.plan_scaling [CORES ..]

Runs the search of the GB300 lane at 12 loads (72 GPUs, drafts allowed, nothing cached) in a process that may
use so many cores, 1 and all by default, with a worker for each. Prints wall seconds, how many times faster
than on the first number of cores, and the share of processor time spent in Optuna. Takes minutes.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import optuna

from benchmarks.search_quality import planned
from planner.plan import bench_of
from planner.plan_types import PlanRequest

REQUEST = PlanRequest(model="deepseek-ai/DeepSeek-V4-Pro", hardware="gb300")


class Meter:
    """Processor seconds of this process's threads inside wrapped calls; calls within calls count once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._lock, self._inside = threading.Lock(), threading.local()

    def wrap(self, owner: Any, name: str) -> None:
        """Count the time of `owner.name` from now on."""
        setattr(owner, name, self._metered(getattr(owner, name)))

    def _metered(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def metered(*args: Any, **options: Any) -> Any:
            if getattr(self._inside, "call", False):
                return call(*args, **options)
            self._inside.call, begun = True, time.thread_time()
            try:
                return call(*args, **options)
            finally:
                self._inside.call = False
                with self._lock:
                    self.seconds += time.thread_time() - begun

        return metered


def measure(cores: int) -> None:
    """Search on so many cores; prints wall seconds, processor seconds and those in Optuna."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    meter = Meter()
    for name in ("ask", "tell", "enqueue_trial"):
        meter.wrap(optuna.study.Study, name)
    meter.wrap(optuna, "create_study")
    begun = time.perf_counter()
    planned(REQUEST, bench_of(REQUEST), cores)
    wall_s = time.perf_counter() - begun
    for child in multiprocessing.active_children():
        child.join()  # only then does its time count
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(wall_s, sum(u.ru_utime + u.ru_stime for u in spent), meter.seconds)


def main() -> None:
    """Measure each number of cores in a process of its own."""
    if sys.argv[1:2] == ["--alone"]:
        return measure(int(sys.argv[2]))
    first = 0.0
    for cores in map(int, sys.argv[1:] or ("1", str(len(os.sched_getaffinity(0))))):
        command = [sys.executable, "-m", "benchmarks.plan_scaling", "--alone", str(cores)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        wall_s, busy_s, optuna_s = map(float, done.stdout.split())
        first = first or wall_s
        print(
            f"{cores} cores: {wall_s:.1f} s, {first / wall_s:.2f} x, {busy_s:.1f} s of processors, "
            f"{optuna_s / busy_s:.1%} of them in Optuna",
            flush=True,
        )


if __name__ == "__main__":
    main()
