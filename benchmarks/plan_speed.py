"""How long the main job takes, and what its stages cost as shares of one run.

    python benchmarks/plan_speed.py [WORKERS]

Prints wall seconds of the default GB300 plan, recipes considered, screened and simulated, and the time per
screened recipe and per simulation on one core beside each other.
"""

from __future__ import annotations

import sys
import time

from planner.evaluate import evaluate
from planner.plan import bench_of, plan, spaces_of
from planner.plan_types import PlanRequest
from planner.screen import screen
from search_spaces.workload import Slo

REQUEST = PlanRequest(model="deepseek-ai/DeepSeek-V4-Pro", hardware="gb300")


def main() -> None:
    """Measure and print."""
    bench, spaces = bench_of(REQUEST), spaces_of(REQUEST)
    screen(bench, spaces, 24, Slo(), "balanced", 64, 4)  # compiles and builds cost tables
    begun = time.perf_counter()
    kept, tally, *_ = screen(bench, spaces, REQUEST.num_gpus, Slo(), "balanced", 1024, 24)
    screen_s = (time.perf_counter() - begun) / tally.screened
    evaluate(bench, kept[0].recipe, 64, True)
    begun = time.perf_counter()
    for candidate in kept:
        evaluate(bench, candidate.recipe, 1024, True)
    short_s = (time.perf_counter() - begun) / len(kept)
    begun = time.perf_counter()
    result = plan(REQUEST, None, int(sys.argv[1]) if len(sys.argv) > 1 else None)
    wall_s = time.perf_counter() - begun
    print(f"plan wall {wall_s:.1f} s: {result.counts}")
    print(f"screening one recipe {screen_s * 1e3:.2f} ms, one short simulation {short_s * 1e3:.1f} ms")
    print(f"a short simulation costs as much as screening {short_s / screen_s:.0f} recipes")


if __name__ == "__main__":
    main()
