"""Dense step-cost tables on log axes, from which the compiled loop interpolates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from simulator.loop_state import (
    CONTEXT_LOG2_MIN,
    CONTEXT_POINTS,
    PER_OCTAVE,
    TOKEN_POINTS,
)
from simulator.memory import graph_buckets
from simulator.step_cost import GROUP_COMPONENTS, RANK_COMPONENTS, Scenario, decode_cost, prefill_cost

Floats = NDArray[np.float64]

TOKEN_AXIS = 2.0 ** (np.arange(TOKEN_POINTS) / PER_OCTAVE)
CONTEXT_AXIS = 2.0 ** (CONTEXT_LOG2_MIN + np.arange(CONTEXT_POINTS) / PER_OCTAVE)
BATCH_POINTS = 12 * PER_OCTAVE + 1
"""Decode tables are evaluated to 2**12 sequences per rank and extended in proportion."""


@dataclass(frozen=True, eq=False)
class RoleTables:
    """Seconds of one role's steps, split into a rank's own part and the group's common part."""

    rank: Floats
    """[tokens or batch, context]"""
    group: Floats
    """[tokens or batch]"""


@lru_cache(maxsize=512)
def prefill_tables(scn: Scenario) -> RoleTables:
    """GPU seconds of a prefill step over (tokens, mean query context)."""
    cost = prefill_cost(scn, TOKEN_AXIS[:, None], CONTEXT_AXIS[None, :])
    return _split(cost.part((*RANK_COMPONENTS, "draft")), cost.part(GROUP_COMPONENTS))


@lru_cache(maxsize=512)
def decode_tables(scn: Scenario, windows: tuple[float, ...] | None = None) -> RoleTables:
    """GPU seconds of a decode iteration over (batch, mean context), drafts included.

    `windows` are the tokens verified per sequence at each batch of `TOKEN_AXIS`; None verifies all.
    """
    axis = TOKEN_AXIS[:BATCH_POINTS]
    window = None if windows is None else np.array(windows[:BATCH_POINTS])[:, None]
    cost = decode_cost(scn, axis[:, None], CONTEXT_AXIS[None, :], window=window)
    found = _split(cost.part((*RANK_COMPONENTS, "draft")), cost.part(GROUP_COMPONENTS), len(axis))
    growth = TOKEN_AXIS[BATCH_POINTS:] / axis[-1]
    return RoleTables(
        np.concatenate([found.rank, found.rank[-1:] * growth[:, None]]),
        np.concatenate([found.group, found.group[-1:] * growth]),
    )


def _split(rank: Floats, group: Floats, rows: int = TOKEN_POINTS) -> RoleTables:
    shape = (rows, CONTEXT_POINTS)
    return RoleTables(
        np.ascontiguousarray(np.broadcast_to(rank, shape)),
        np.ascontiguousarray(np.broadcast_to(group, shape)[:, 0]),
    )


def padded_batch(scn: Scenario, largest: int) -> NDArray[np.int64]:
    """Batch after padding to a captured graph for 0..largest; -1 where the step runs eagerly."""
    captured = np.array(graph_buckets(scn.group), dtype=np.int64)
    batches = np.arange(largest + 1)
    if not len(captured):
        return np.where(batches == 0, 0, -1)
    index = np.searchsorted(captured, batches)
    found = np.where(index < len(captured), captured[np.minimum(index, len(captured) - 1)], -1)
    return np.where(batches == 0, 0, found)
