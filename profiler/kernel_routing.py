"""Which experts the rows of a routed-expert case go to."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

SEED = 1


@lru_cache(maxsize=512)
def rows_per_expert(experts: int, rows: int) -> NDArray[np.int64]:
    """Rows of each expert when `rows` assignments choose uniformly; the same for equal arguments."""
    chosen = np.random.default_rng(SEED).integers(0, experts, rows)
    counts: NDArray[np.int64] = np.bincount(chosen, minlength=experts).astype(np.int64)
    counts.setflags(write=False)
    return counts
