"""Which physical expert holds which logical one, by the engine's own placement algorithms.

A worker has `num_experts + redundant_experts` slots, the same number on each rank in order of rank. Without
a balancer slot `i` holds expert `i % num_experts`. The balancer (EPLB, github.com/deepseek-ai/EPLB, in SGLang
0.5.15 `eplb_algorithms/deepseek.py`) gives each redundant slot to the expert with the most load per copy,
and packs the copies, heaviest first, each on the least loaded rank with room. DeepSeek-V4 declares no expert
groups, so that the engine's hierarchical variant is the flat one.

All functions take a leading axis of independent cases (layers, or draws of a popularity).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Loads = NDArray[np.float32]
Slots = NDArray[np.int64]


def trivial_slots(num_experts: int, num_slots: int) -> Slots:
    """Expert of each slot where nobody placed them, `[1, num_slots]`."""
    return (np.arange(num_slots) % num_experts)[None, :]


def replicate(load: Loads, num_slots: int) -> tuple[Slots, NDArray[np.float32]]:
    """Expert of each slot before packing, and copies of each expert; more slots than experts are copies.

    Args:
        load: `[cases, num_experts]`.
        num_slots: slots of all ranks, at least the number of experts.
    """
    cases, num_experts = load.shape
    slots = np.tile(np.arange(num_slots), (cases, 1))
    copies = np.ones((cases, num_experts), np.float32)
    every = np.arange(cases)
    for slot in range(num_experts, num_slots):
        neediest = np.argmax(load / copies, axis=1)
        slots[:, slot] = neediest
        copies[every, neediest] += 1
    return slots, copies


def pack(load: Loads, num_ranks: int) -> tuple[Slots, Slots]:
    """Rank of each item and its place on that rank; every rank takes equally many, of equal load if it can.

    Args:
        load: `[cases, items]`; the number of items is a multiple of `num_ranks`.
        num_ranks: ranks to pack on.
    """
    cases, items = load.shape
    room = items // num_ranks
    if room == 1:
        return np.tile(np.arange(items), (cases, 1)), np.zeros((cases, items), np.int64)
    order = np.argsort(-load, axis=1, kind="stable")
    rank_of, place_of = np.zeros((cases, items), np.int64), np.zeros((cases, items), np.int64)
    carried = np.zeros((cases, num_ranks))
    taken = np.zeros((cases, num_ranks), np.int64)
    every = np.arange(cases)
    for item in order.T:
        rank = np.argmin(np.where(taken < room, carried, np.inf), axis=1)
        rank_of[every, item] = rank
        place_of[every, item] = taken[every, rank]
        carried[every, rank] += load[every, item]
        taken[every, rank] += 1
    return rank_of, place_of


def balanced_slots(load: Loads, num_slots: int, num_ranks: int) -> Slots:
    """Expert of each slot after balancing, `[cases, num_slots]`.

    Args:
        load: recorded tokens (or any measure of popularity) per expert, `[cases, num_experts]`.
        num_slots: slots of all ranks, a multiple of `num_ranks`.
        num_ranks: expert-parallel ranks.
    """
    load = np.asarray(load, np.float32)
    experts, copies = replicate(load, num_slots)
    each = np.take_along_axis(load / copies, experts, axis=1)
    rank_of, place_of = pack(each, num_ranks)
    slots = np.zeros_like(experts)
    np.put_along_axis(slots, rank_of * (num_slots // num_ranks) + place_of, experts, axis=1)
    return slots


def arrivals(before: Slots, after: Slots, num_experts: int, num_ranks: int) -> float:
    """Mean over cases of the most experts that one rank must receive to change its slots.

    A copy that the rank already holds is taken from there (SGLang `expert_location_updater`).
    """
    fresh = (held(after, num_experts, num_ranks) > 0) & (held(before, num_experts, num_ranks) == 0)
    return float(fresh.sum(axis=2).max(axis=1).mean())


def held(slots: Slots, num_experts: int, num_ranks: int) -> NDArray[np.float64]:
    """Copies of each expert on each rank, `[cases, num_ranks, num_experts]`."""
    cases, num_slots = slots.shape
    rank = np.arange(num_slots) // (num_slots // num_ranks)
    found = np.zeros((cases, num_ranks, num_experts))
    np.add.at(found, (np.arange(cases)[:, None], rank[None, :], slots), 1.0)
    return found
