"""How fast the event loop is, beside SimPy alone on the same machine at the same moment.

Run `python -m benchmarks.simulator_speed` from the repository root. Each case runs in its own process,
first on a short load so that compilation and the cost tables are apart. Processor seconds are used
throughout: they say the same on a busy machine, and ratios between lines of one run say the most.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Generator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import simpy

from search_spaces import catalog_loader
from search_spaces.public_recipes import public_recipes
from search_spaces.recipe import Recipe
from search_spaces.units import BYTES_PER_MIB
from search_spaces.workload import Workload
from simulator import loop_state as ls
from simulator.calibration import Calibration
from simulator.run import run
from simulator.world import Setting

MODEL, HARDWARE, STACK = "deepseek-v4-pro", "gb300", "june"
CASES = (("10P1D-DEP4-DEP32", 2500), ("15P1D-DEP4-DEP12", 12000))
"""Topology of a public 8K/1K recipe, and the concurrency it was published at."""
SIMPY_EVENTS = 300_000
KIB = 1024
REPEATS = 5


@dataclass(frozen=True)
class Speed:
    """What one case took, processor seconds, and what it did."""

    name: str
    requests: int
    compile_s: float
    run_s: float
    peak_rss_mib: float
    steps: float
    rank_steps: float
    output_tokens: float
    simulated_s: float


def simpy_events_per_s() -> float:
    """Bare timeouts per processor second: one process, nothing but the clock."""
    env = simpy.Environment()

    def clock() -> Generator[simpy.Event, None, None]:
        while True:
            yield env.timeout(1.0)

    env.process(clock())
    begun = time.process_time()
    env.run(until=SIMPY_EVENTS)
    return SIMPY_EVENTS / (time.process_time() - begun)


def recipe_for(topology: str, concurrency: int) -> Recipe:
    """The public recipe of that topology which is dispatched at that concurrency."""
    return next(
        r
        for r in public_recipes(MODEL, HARDWARE)
        if r.topology == topology and concurrency in r.concurrencies
    )


def _setting(topology: str, concurrency: int, requests: int) -> Setting:
    return Setting(
        recipe_for(topology, concurrency),
        Workload(isl=8192, osl=1024, concurrency=concurrency, num_prompts=requests),
        catalog_loader.model(MODEL),
        catalog_loader.hardware(HARDWARE),
        catalog_loader.stack(STACK),
        Calibration(),
    )


def measure(topology: str, concurrency: int) -> Speed:
    """Compile on a short load, then time the published one; the fastest of a few repeats."""
    begun = time.process_time()
    run(_setting(topology, concurrency, 64))
    compile_s = time.process_time() - begun
    setting, seconds = _setting(topology, concurrency, 10 * concurrency), []
    for _ in range(REPEATS):
        begun = time.process_time()
        done = run(setting)
        seconds.append(time.process_time() - begun)
    totals = done.totals.sum(axis=0)
    return Speed(
        name=f"{topology} c{concurrency}",
        requests=setting.workload.measured_requests,
        compile_s=compile_s,
        run_s=min(seconds),
        peak_rss_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB / BYTES_PER_MIB,
        steps=float(totals[ls.STEPS_PREFILL] + totals[ls.STEPS_DECODE]),
        rank_steps=float(totals[ls.RANK_STEPS]),
        output_tokens=float(done.reqs.i[:, ls.OSL].sum()),
        simulated_s=done.end_s,
    )


def main() -> None:
    """Print one block per case, rates as multiples of SimPy's timeouts."""
    rate = max(simpy_events_per_s() for _ in range(REPEATS))
    print(f"SimPy alone: {rate:,.0f} timeouts per processor second = 1")
    for case in CASES:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            found = pool.submit(measure, *case).result()
        print(
            f"\n{found.name}, {found.requests:,} requests, {found.simulated_s:,.0f} s simulated\n"
            f"  seconds          {found.run_s:.3f} ({found.simulated_s / found.run_s:,.0f} x real time)\n"
            f"  before it        {found.compile_s:.2f} s to compile or load the cache, and to build tables\n"
            f"  peak memory      {found.peak_rss_mib:.0f} MiB"
        )
        for label, count in (
            ("engine steps", found.steps),
            ("rank-steps", found.rank_steps),
            ("output tokens", found.output_tokens),
            ("requests", found.requests),
        ):
            per_s = count / found.run_s
            print(f"  {label:16s} {per_s:,.0f} per second = {per_s / rate:,.2f}")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
