"""Seconds of collectives inside one worker, from measured tables where there are any."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from search_spaces.hardware import Hardware
from simulator.kernel_grids import Grid, complete, pivot
from simulator.kernel_model import Source
from simulator.kernel_owners import Owner, measured, owner_of
from simulator.op_costs import Floats

LATENCY_S = 5e-6
"""One collective of a few bytes where no platform was measured (order of one small kernel; analytic)."""
NCCL_ALL_GATHER = 0
"""Code of the operation in the profile's `nccl` table."""


def allreduce_s(hw: Hardware, num_bytes: ArrayLike, num_gpus: int) -> tuple[Floats, Source]:
    """All-reduce of `num_bytes` per GPU, by the engine's own kernel."""
    size = np.asarray(num_bytes, float)
    if num_gpus == 1:
        return np.zeros_like(size), "analytic"
    found = _grid(hw, "allreduce", "graph", 1)
    if found is None:
        return LATENCY_S + 2 * size / hw.nvlink_bytes_per_s, "analytic"
    return _scaled(hw, found, size, num_gpus)


def allgather_s(hw: Hardware, num_bytes: ArrayLike, num_gpus: int) -> tuple[Floats, Source]:
    """All-gather to `num_bytes` on every GPU, through NCCL."""
    size = np.asarray(num_bytes, float)
    if num_gpus == 1:
        return np.zeros_like(size), "analytic"
    found = _grid(hw, "nccl", "op", NCCL_ALL_GATHER)
    if found is None:
        return LATENCY_S + size * (1 - 1 / num_gpus) / hw.nvlink_bytes_per_s, "analytic"
    seconds, source = _scaled(hw, found, size, num_gpus)
    # What a GPU receives from others grows with the group, also past the largest one timed.
    _, timed = found[0].clamp(size, float(num_gpus))
    return seconds * (1 - 1 / num_gpus) / (1 - 1 / timed), source


def _scaled(hw: Hardware, found: tuple[Grid, Owner], size: Floats, num_gpus: int) -> tuple[Floats, Source]:
    """Seconds of the nearest timed size and group, by bytes beyond it and by link speed."""
    grid, owner = found
    cx, cy = grid.clamp(size, float(num_gpus))
    scale = owner.hardware.nvlink_bytes_per_s / hw.nvlink_bytes_per_s
    seconds = grid.seconds(cx, cy) * np.maximum(size / cx, 1.0) * scale
    return seconds, "measured" if owner.hardware is hw else "interpolated"


@lru_cache(maxsize=32)
def _grid(hw: Hardware, table: str, column: str, code: int) -> tuple[Grid, Owner] | None:
    """Seconds over bytes and GPUs of one kind of collective."""
    owner = owner_of(hw, table, **{column: code})
    if owner is None:
        return None
    x, y, t = measured(owner, table, ("bytes", "num_gpus", "time_s"), **{column: code})
    xs, ys, matrix = pivot(x, y, t)
    return Grid(xs, ys, complete(matrix, np.repeat(xs[:, None], len(ys), axis=1))), owner
