"""Ranks before anything was sent: empty queues, pools and radix caches."""

from __future__ import annotations

import numpy as np

from simulator import loop_state as ls
from simulator.traffic import PrefixTree


def empty_ranks(
    count: int, width: int, classes: ls.Classes, groups: ls.Groups, tree: PrefixTree | None
) -> ls.Ranks:
    """All ranks of all workers; calendars are `width` iterations long."""
    ints = np.zeros((count, ls.NUM_RANK_INTS), dtype=np.int64)
    for column in (ls.Q_HEAD, ls.Q_TAIL, ls.R_HEAD, ls.R_TAIL, ls.C_HEAD, ls.C_TAIL, ls.X_HEAD, ls.X_TAIL):
        ints[:, column] = -1
    floats = np.zeros((count, ls.NUM_RANK_FLOATS))
    for row in groups.i:
        ranks = slice(row[ls.RANK0], row[ls.RANK0] + row[ls.RANKS])
        floats[ranks, ls.NTR] = classes.f[row[ls.CLASS], ls.RATIO_INIT]
    return ls.Ranks(
        i=ints,
        f=floats,
        calendar=np.full((count, width), -1, dtype=np.int64),
        blocked=np.zeros(count, dtype=np.int64),
        cache=_cache(count, tree),
    )


def _cache(count: int, tree: PrefixTree | None) -> ls.PrefixCache:
    """Empty radix caches; with nothing to share they have no nodes and cost nothing."""
    none = np.zeros(0, dtype=np.int64)
    parent, tokens, depth = (tree.parent, tree.tokens, tree.depth) if tree else (none, none, none)
    nodes = len(parent)
    counts = [np.zeros((count, nodes), dtype=np.int64) for _ in range(5)]
    links = [np.full((count, nodes + 1), -1, dtype=np.int64) for _ in range(4)]
    for link in links:
        link[:, nodes] = nodes
    return ls.PrefixCache(parent, tokens, depth, *counts, *links)
