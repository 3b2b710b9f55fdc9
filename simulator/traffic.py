"""The requests of a run before any engine sees them: lengths, arrivals, sessions and shared prefixes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from search_spaces.traces import MOONCAKE_BLOCK_TOKENS, trace_rows
from search_spaces.workload import Workload
from simulator.lengths import lengths
from simulator.rng import stream

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
NONE = -1


@dataclass(frozen=True)
class PrefixTree:
    """Which prompts begin alike: nodes are runs of tokens, a prompt is a path from a root.

    Node lengths need no whole pages; a match is cut to whole pages when it is used.
    """

    parent: Ints
    """[node] parent, or -1."""
    tokens: Ints
    """[node] tokens of the node alone."""
    depth: Ints
    """[node] tokens from the root to the node's end."""
    prompt: Ints
    """[request] node at which its prompt ends; its own."""
    answer: Ints
    """[request] node of its answer, or -1 where the worker that holds the cache does not decode."""


@dataclass(frozen=True)
class Traffic:
    """Requests; those of one session follow each other."""

    isl: Ints
    osl: Ints
    follow: Ints
    """[request] the session's next request, or -1."""
    starts: Ints
    """[session] its first request, in order of arrival."""
    start_s: Floats
    """[session] when it arrives; all 0 in a closed loop."""
    cap: int
    """Sessions in flight at most."""
    tree: PrefixTree | None
    """None where no prompts begin alike."""


@lru_cache(maxsize=64)
def traffic(workload: Workload, seed: int, context_length: int | None, answers_cached: bool) -> Traffic:
    """Draw the measured requests of a workload.

    Args:
        workload: what to draw.
        seed: of all draws; 0 replays the lengths of a default run of the harness.
        context_length: longest request the engine takes; answers are cut to fit.
        answers_cached: whether answers enter the prefix cache (aggregated workers), so that a later turn
            finds them there.
    """
    if workload.trace is not None:
        return _replayed(workload, context_length, answers_cached)
    isl, osl = lengths(workload, seed)
    turns, count = workload.turns, workload.measured_requests
    sessions = count // turns
    osl = _cut(isl, osl, context_length)
    if turns > 1:
        isl = _conversation(workload, seed, isl[:sessions], osl.reshape(sessions, turns))
        osl = _cut(isl, osl, context_length)
    follow = np.arange(1, count + 1, dtype=np.int64)
    follow[turns - 1 :: turns] = NONE
    start_s = np.zeros(sessions)
    if workload.request_rate is not None:
        gaps = stream(seed, "arrivals").gamma(workload.burstiness, size=sessions)
        start_s = np.cumsum(gaps / (workload.burstiness * workload.request_rate))
        start_s -= start_s[0]
    return Traffic(
        isl,
        osl,
        follow,
        np.arange(0, count, turns, dtype=np.int64),
        start_s,
        workload.concurrency,
        _tree(workload, isl, osl, answers_cached) if workload.shares_prefixes else None,
    )


def _cut(isl: Ints, osl: Ints, context_length: int | None) -> Ints:
    return osl if context_length is None else np.minimum(osl, np.maximum(context_length - isl, 1))


def _conversation(workload: Workload, seed: int, first: Ints, osl: Ints) -> Ints:
    """Prompt lengths [session x turn] of sessions in which each turn repeats all before it."""
    nominal = workload.later_turn_tokens
    low = max(1, int(nominal * workload.random_range_ratio))
    shape = (osl.shape[0], osl.shape[1] - 1)
    added = stream(seed, "turns").integers(low, nominal + 1, size=shape)
    grown = np.cumsum(added + osl[:, :-1], axis=1)
    return np.concatenate([first[:, None], first[:, None] + grown], axis=1).ravel().astype(np.int64)


class _Nodes:
    """A prefix tree under construction."""

    def __init__(self) -> None:
        self.parent: list[int] = []
        self.tokens: list[int] = []
        self.depth: list[int] = []

    def add(self, parent: int, end: int) -> int:
        """A node under `parent` that ends `end` tokens from the root; the parent itself if that adds none."""
        begin = self.depth[parent] if parent >= 0 else 0
        if end <= begin:
            return parent
        self.parent.append(parent)
        self.tokens.append(end - begin)
        self.depth.append(end)
        return len(self.parent) - 1

    def answer(self, prompt: int, osl: int) -> int:
        """The node behind a prompt, less the last token, which is never computed; else the prompt itself."""
        return self.add(prompt, self.depth[prompt] + osl - 1)

    def tree(self, prompt: Ints, answer: Ints) -> PrefixTree:
        return PrefixTree(np.array(self.parent), np.array(self.tokens), np.array(self.depth), prompt, answer)


def _tree(workload: Workload, isl: Ints, osl: Ints, answers_cached: bool) -> PrefixTree:
    nodes = _Nodes()
    shared = [
        nodes.add(NONE, workload.shared_prefix_tokens) if workload.shared_prefix_tokens else NONE
        for _ in range(workload.prefix_groups)
    ]
    prompt, answer = np.empty_like(isl), np.full_like(isl, NONE)
    end = NONE
    for request in range(len(isl)):
        session, turn = divmod(request, workload.turns)
        parent = shared[session % workload.prefix_groups] if turn == 0 else end
        end = prompt[request] = nodes.add(parent, int(isl[request]))
        if answers_cached:
            end = answer[request] = nodes.answer(end, int(osl[request]))
    answer[answer == prompt] = NONE
    return nodes.tree(prompt, answer)


def _replayed(workload: Workload, context_length: int | None, answers_cached: bool) -> Traffic:
    assert workload.trace is not None
    rows = trace_rows(workload.trace)
    count = workload.measured_requests
    isl = rows.isl[:count]
    osl = _cut(isl, rows.osl[:count], context_length)
    nodes, tree = _Nodes(), None
    if any(rows.blocks[:count]):
        prompt, answer = np.empty_like(isl), np.full_like(isl, NONE)
        _add_blocks(nodes, rows.blocks[:count], isl, prompt)
        if answers_cached:
            for request in range(count):
                answer[request] = nodes.answer(int(prompt[request]), int(osl[request]))
            answer[answer == prompt] = NONE
        tree = nodes.tree(prompt, answer)
    return Traffic(
        isl,
        osl,
        np.full(count, NONE),
        np.arange(count),
        rows.arrival_s[:count],
        workload.concurrency,
        tree,
    )


def _add_blocks(nodes: _Nodes, blocks: tuple[tuple[int, ...], ...], isl: Ints, prompt: Ints) -> None:
    """Nodes where prompts part; the last block of a prompt may be partial and counts as its own."""
    paths = [ids[: max(min(len(ids), -(-int(n) // MOONCAKE_BLOCK_TOKENS)) - 1, 0)]
             for ids, n in zip(blocks, isl, strict=True)]  # fmt: skip
    # A block id stands for the whole prefix up to it, so that ids alone name positions in the tree.
    seen: dict[int, int] = {}
    for path in paths:
        for block in path:
            seen[block] = seen.get(block, 0) + 1
    found: dict[int, int] = {}
    for request, path in enumerate(paths):
        parent = NONE
        for index, block in enumerate(path):
            following = seen[path[index + 1]] if index + 1 < len(path) else 0
            if seen[block] == 1:
                break
            if following != seen[block]:
                if block not in found:
                    found[block] = nodes.add(parent, (index + 1) * MOONCAKE_BLOCK_TOKENS)
                parent = found[block]
        prompt[request] = nodes.add(parent, int(isl[request]))
