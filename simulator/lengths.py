"""Request lengths as the public load generators draw them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from search_spaces.workload import Workload

HARNESS_SEED = {"inferencex": 0, "bench_serving": 42}
"""Default seeds of the load generators, which draw lengths from NumPy's legacy generator."""


def lengths(workload: Workload, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Input and output lengths of the measured requests, uniform as the harness draws them.

    Seed 0 replays the very numbers of a default run of that harness; others are fresh draws.
    """
    rng = np.random.RandomState(HARNESS_SEED[workload.harness] + seed)
    count = workload.measured_requests
    drawn = []
    for nominal in (workload.isl, workload.osl):
        low = max(1, int(nominal * workload.random_range_ratio))
        drawn.append(rng.randint(low, nominal + 1, size=count).astype(np.int64))
    return drawn[0], drawn[1]
