"""Ranks before anything was sent: empty queues and pools, and what a run before left in radix caches."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from simulator import loop_state as ls
from simulator.memory import PAGE_TOKENS
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


def keep_earlier(
    ranks: ls.Ranks, classes: ls.Classes, groups: ls.Groups, tree: PrefixTree, sent: int
) -> None:
    """Leave the prompts (and answers) of an earlier run in the radix caches of the ranks that computed them.

    Prompts go to workers and their ranks in turn, in that run as in this one; a harness sends one request
    to warm up before each run, so that with several ranks a prompt meets its old one only where the number
    of those between is a multiple of theirs. The newest stay where a pool is too small for all.

    Args:
        ranks: changed in place, before anything is sent.
        classes: of the roles.
        groups: workers; those with a radix cache compute prompts.
        tree: over the prompts of this run, which begin with those of the earlier one.
        sent: prompts of the earlier run.
    """
    workers = [row for row in groups.i if classes.i[row[ls.CLASS], ls.RADIX]]
    kept: dict[int, list[int]] = {}
    for prompt in range(sent):
        turn = prompt - sent - 1
        row = workers[turn % len(workers)]
        rank = row[ls.RANK0] + turn // len(workers) % row[ls.RANKS]
        kept.setdefault(int(rank), []).append(prompt)
    pools = {int(r): classes.f[row[ls.CLASS]] for row in workers for r in _ranks_of(row)}
    for rank, prompts in kept.items():
        _fill(ranks, rank, tree, prompts, pools[rank][ls.FULL], pools[rank][ls.SWA])


def _ranks_of(row: NDArray[np.int64]) -> range:
    return range(row[ls.RANK0], row[ls.RANK0] + row[ls.RANKS])


def _fill(
    ranks: ls.Ranks, rank: int, tree: PrefixTree, prompts: list[int], full: float, window: float
) -> None:
    """Cache the newest of these prompts that fit the pools, the oldest of them first to go."""
    cache, seen, held, newest = ranks.cache, set[int](), 0.0, []
    for prompt in reversed(prompts):
        answer, end = int(tree.answer[prompt]), int(tree.prompt[prompt])
        path = [x for x in (answer, *_upwards(tree, end)) if x >= 0 and x not in seen]
        held += float(tree.tokens[path].sum())
        if held > min(full, window):
            break
        seen.update(path)
        newest.append((answer, path))
    for answer, path in reversed(newest):
        for x in path:  # what hangs on a node is evicted before it
            cache.present[rank, x] = 1
            cache.window[rank, x] = min(tree.tokens[x], PAGE_TOKENS) if x == answer else tree.tokens[x]
            ranks.f[rank, ls.CACHED_FULL] += tree.tokens[x]
            ranks.f[rank, ls.CACHED_SWA] += cache.window[rank, x]
            _append(cache.full_next[rank], cache.full_prev[rank], x)
            _append(cache.swa_next[rank], cache.swa_prev[rank], x)
            if tree.parent[x] >= 0:
                cache.children[rank, tree.parent[x]] += 1


def _upwards(tree: PrefixTree, node: int) -> Iterator[int]:
    while node >= 0:
        yield node
        node = int(tree.parent[node])


def _append(following: NDArray[np.int64], previous: NDArray[np.int64], x: int) -> None:
    """Chain a node in as most recently used, before the sentinel."""
    end = len(following) - 1
    last = previous[end]
    following[last] = previous[end] = x
    following[x], previous[x] = end, last
