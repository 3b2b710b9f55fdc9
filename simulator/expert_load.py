"""Load of the most loaded expert-parallel rank, and what placement and the shared expert do to it.

A step waits at every layer for its slowest rank. Which experts are popular differs from layer to layer, so
the mean over layers is the mean over draws of a popularity. The draws follow the sampler of the kernel
tables: popularity `x**-alpha` on a range of `POWER_LAW_RANGE`, experts in random order. Between the exponents
that were timed, popularity is the mixture with the weights at which the kernel model mixes their times. The
mean load factor of EP 4, 8, 16 and 32 at exponent 1.01 comes out as 1.2, 1.5, 1.9 and 2.7; the timed
compute-bound kernels, each with one draw, took 1.3, 1.8, 1.9 and 3.1 times the balanced ones (GB300).

Everything here is analytic: a ratio of two rooflines of the slowest rank, by which a measured time is carried
to a placement that was not measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from search_spaces.hardware import Hardware
from search_spaces.model import BYTES_BF16, ModelSpec
from search_spaces.recipe import A2A_BACKENDS, EngineGroup
from simulator.expert_placement import arrivals, balanced_slots, held, trivial_slots
from simulator.memory import EXPERT_BYTES
from simulator.op_costs import Floats

DRAWS = 32
"""Popularities averaged over; a model has 43 or 61 layers, each with one."""
SEED = 20260
POWER_LAW_RANGE = 0.8 * 8192 * 8
"""Largest over smallest popularity: 0.8 of the tokens of the benchmark's group, over one."""
TIMED_ALPHAS = (0.0, 1.01, 1.2)
"""Exponents of the kernel tables."""
WATERFILL_TOKENS = 64
"""Tokens of a rank below which the engine leaves the shared expert where the token is (SGLang 0.5.15)."""
PACKING_S = 3e-7
"""Host time per layer, slot and rank of one EPLB packing: the engine's own function, 61 layers of 400 slots
on 40 ranks, on one core of an x86 server."""


@dataclass(frozen=True, eq=False)
class Placed:
    """Experts on ranks under each drawn popularity."""

    share: Floats
    """`[draws, ranks]`: share of all assignments that a rank computes."""
    weight: Floats
    """`[draws, experts]`: popularity of one copy of an expert."""
    held: Floats
    """`[draws, ranks, experts]`: copies on a rank that can be chosen; fractions where a rank has a part."""


@lru_cache(maxsize=64)
def popularity(num_experts: int, alpha: float) -> Floats:
    """Share of assignments per expert, `[DRAWS, num_experts]`; each row sums to 1."""
    uniform = np.random.default_rng(SEED).random((DRAWS, num_experts))

    def drawn(exponent: float) -> Floats:
        if not exponent:
            return np.full((DRAWS, num_experts), 1 / num_experts)
        power = 1 - exponent
        found = ((POWER_LAW_RANGE**power - 1) * uniform + 1) ** (1 / power)
        shares: Floats = found / found.sum(axis=1, keepdims=True)
        return shares

    upper = int(np.clip(np.searchsorted(TIMED_ALPHAS, alpha), 1, len(TIMED_ALPHAS) - 1))
    low, high = TIMED_ALPHAS[upper - 1 : upper + 1]
    weight = (alpha - low) / (high - low)
    mixed: Floats = (1 - weight) * drawn(low) + weight * drawn(high)
    return mixed


def replicas_used(group: EngineGroup) -> bool:
    """Whether tokens are sent to redundant copies; without a dispatch rule only slots of that number."""
    return group.eplb or group.expert_location != "trivial" or group.expert_dispatch is not None


@lru_cache(maxsize=256)
def _reference(num_experts: int, ranks: int, alpha: float) -> Placed:
    """What the tables are for: experts in order, `num_experts / ranks` on each rank, none twice."""
    p = popularity(num_experts, alpha)
    edges = np.arange(ranks + 1) * num_experts / ranks
    number = np.arange(num_experts)
    low = np.maximum(edges[:-1, None], number)
    parts = np.clip(np.minimum(edges[1:, None], number + 1) - low, 0.0, 1.0)
    return Placed(p @ parts.T, p, np.broadcast_to(parts, (DRAWS, *parts.shape)))


@lru_cache(maxsize=256)
def placed(
    num_experts: int, redundant: int, ranks: int, alpha: float, balanced: bool, replicas: bool
) -> Placed:
    """Experts of a worker on its ranks.

    Args:
        num_experts: routed experts.
        redundant: slots beyond one per expert; together a multiple of `ranks`.
        ranks: expert-parallel ranks.
        alpha: exponent of expert popularity.
        balanced: whether a balancer that knows the popularity has placed them.
        replicas: whether redundant slots receive tokens.
    """
    p, slots = popularity(num_experts, alpha), num_experts + redundant
    if balanced:
        where = balanced_slots(p.astype(np.float32), slots, ranks)
    else:
        where = np.repeat(trivial_slots(num_experts, slots), DRAWS, axis=0)
    found = held(where, num_experts, ranks)
    if not replicas:
        first = held(trivial_slots(slots, slots), slots, ranks)[:, :, :num_experts]
        found = np.repeat(first, DRAWS, axis=0)
    weight = p / found.sum(axis=1)
    return Placed(np.einsum("dre,de->dr", found, weight), weight, found)


def group_placement(model: ModelSpec, group: EngineGroup, alpha: float) -> Placed:
    """Experts of a group on its ranks; as the kernel tables have them where nothing was placed."""
    if not (group.redundant_experts or replicas_used(group)):
        return _reference(model.num_experts, group.moe_ep, alpha)
    balanced = group.eplb or group.expert_location != "trivial"
    return placed(
        model.num_experts, group.redundant_experts, group.moe_ep, alpha, balanced, replicas_used(group)
    )


def load_factor(place: Placed) -> float:
    """Mean over layers of the most loaded rank's share of assignments, over an even share."""
    return float(place.share.max(axis=1).mean() * place.share.shape[1])


def _water_level(load: Floats, poured: Floats) -> Floats:
    """Height to which `poured`, given to the lowest ranks first, fills them; ranks are on axis 1."""
    count = np.arange(1, load.shape[1] + 1)[None, :, None]
    levels = (np.cumsum(np.sort(load, axis=1), axis=1) + poured) / count
    found: Floats = levels.min(axis=1, keepdims=True)
    return found


def slowest_rank_s(
    model: ModelSpec, hw: Hardware, group: EngineGroup, place: Placed, tokens: Floats, shared: bool
) -> Floats:
    """Roofline of one layer's experts on its slowest rank, dispatch and combine included.

    Args:
        model: shapes.
        hw: peaks.
        group: layout, weights and backend.
        place: experts on ranks.
        tokens: tokens of one rank before routing (1-D).
        shared: whether the shared expert takes part, on the ranks with the least routed load.
    """
    ranks = place.share.shape[1]
    total = tokens * ranks * model.experts_per_token
    noise = np.random.default_rng(SEED + 1).standard_normal(place.share.shape)[..., None]
    spread = np.sqrt(place.share * (1 - place.share))[..., None]
    load = np.clip(place.share[..., None] * total + spread * np.sqrt(total) * noise, 0.0, total)
    hits = place.held @ -np.expm1(-place.weight[..., None] * total)
    sent = load
    if shared:
        sent = np.where(tokens < WATERFILL_TOKENS, load, np.maximum(load, _water_level(load, tokens * ranks)))
        load = np.where(tokens < WATERFILL_TOKENS, load + tokens, sent)
        hits = hits + 1
    params = model.params_expert / group.moe_tp
    read_s = hits * params * EXPERT_BYTES[group.expert_weights] / hw.hbm_bytes_per_s
    flops_s = 2 * load * params / hw.fp8_flops
    found = np.maximum(read_s, flops_s)
    if group.moe_backend in A2A_BACKENDS:
        moved = sent * (1 - 1 / ranks) * model.hidden * (1.0 + BYTES_BF16)
        found = found + moved / hw.nvlink_bytes_per_s
    slowest: Floats = found.max(axis=1).mean(axis=0)
    return slowest


def placement_ratio(
    model: ModelSpec, hw: Hardware, group: EngineGroup, alpha: float, tokens: Floats
) -> Floats | None:
    """Expert time under the group's placement over that of the tables; None where nothing was placed.

    Args:
        model: shapes.
        hw: peaks.
        group: layout, redundant experts, balancer and waterfill.
        alpha: exponent of popularity that the table's time is for.
        tokens: tokens of one rank before routing.
    """
    ranks = group.moe_ep
    if ranks == 1 or not (group.redundant_experts or replicas_used(group) or group.waterfill):
        return None
    found = group_placement(model, group, alpha)
    flat, index = np.unique(np.asarray(tokens, float), return_inverse=True)
    usual = slowest_rank_s(model, hw, group, _reference(model.num_experts, ranks, alpha), flat, False)
    now = slowest_rank_s(model, hw, group, found, flat, group.waterfill)
    ratio: Floats = (now / usual)[index].reshape(np.shape(tokens))
    return ratio


def rebalance_s(model: ModelSpec, hw: Hardware, group: EngineGroup, alpha: float) -> float:
    """Mean cost per step of moving experts and of deciding where, every `eplb_rebalance_steps` steps.

    The balancer ignores where experts are, and the counts of two windows differ, so that most of them move;
    the windows here hold one token per rank and step. Beyond the utilisation at which the engine leaves the
    placement as it is, nothing is moved.
    """
    if not group.eplb:
        return 0.0
    return _rebalance_s(
        model, hw, group.redundant_experts, group.moe_ep, alpha, group.eplb_rebalance_steps,
        group.eplb_min_utilization, group.expert_weights,
    )  # fmt: skip


@lru_cache(maxsize=256)
def _rebalance_s(
    model: ModelSpec,
    hw: Hardware,
    redundant: int,
    ranks: int,
    alpha: float,
    steps: int,
    enough: float,
    weights: str,
) -> float:
    slots, p = model.num_experts + redundant, popularity(model.num_experts, alpha)
    if 1 / load_factor(placed(model.num_experts, redundant, ranks, alpha, True, True)) > enough:
        return 0.0
    window = steps * ranks * model.experts_per_token
    rng = np.random.default_rng(SEED + 2)
    before, after = (
        balanced_slots(rng.poisson(p * window).astype(np.float32), slots, ranks) for _ in range(2)
    )
    moved = arrivals(before, after, model.num_experts, ranks)
    link = hw.nvlink_bytes_per_s if ranks <= hw.nvlink_domain_gpus else hw.nic_bytes_per_s
    layer_s = moved * model.params_expert * EXPERT_BYTES[weights] / link + slots * ranks * PACKING_S
    return model.num_layers * layer_s / steps
