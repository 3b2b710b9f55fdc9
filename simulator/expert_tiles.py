"""Distinct experts and tiles of rows that tokens occupy, and the time of a grouped GEMM from both.

A grouped GEMM computes each expert's rows in tiles of a fixed height. Few tokens leave most tiles nearly
empty, and what is paid for is reading the weights of the experts hit; many tokens fill them, and the
last tile of each expert is padding. Under uniform routing an expert of `E` gets each token with
probability `k / E`, so that its rows are binomial: `E (1 - (1 - k/E)**t)` experts are hit, fewer than the
`min(k t, E)` of a balanced assignment, and the padding is larger where a balanced one fills whole tiles.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betainc

from search_spaces.hardware import Hardware
from search_spaces.model import ModelSpec
from simulator.calibration import ExpertKernel
from simulator.memory import EXPERT_BYTES
from simulator.op_costs import Floats

TILE_FILL = 0.9
"""Fullness up to which the Marlin launcher keeps a tile height: rows per expert over height (SGLang
0.5.15, `fused_marlin_moe`)."""


def experts_hit(num_experts: float, share: float, tokens: ArrayLike) -> Floats:
    """Expected distinct experts hit by `tokens` that each choose an expert with probability `share`."""
    found: Floats = num_experts * -np.expm1(np.asarray(tokens, float) * np.log1p(-share))
    return found


def uniform_tiles(num_experts: float, share: float, tokens: ArrayLike, rows: ArrayLike) -> Floats:
    """Expected tiles of `rows` rows over all experts under uniform routing.

    The expected number of tiles of one expert is the sum over j >= 0 of the probability that it gets more
    than `j rows` tokens; the binomial tail is a regularized incomplete beta function.
    """
    t, height = np.broadcast_arrays(np.asarray(tokens, float), np.asarray(rows, float))
    mean = t * share
    most = int(np.ceil(np.max((mean + 8 * np.sqrt(mean) + 8) / height)))
    total = experts_hit(1.0, share, t)
    for j in range(1, most + 1):
        beyond = j * height
        tail = betainc(beyond + 1, np.maximum(t - beyond, 1e-9), share)
        total = total + np.where(t > beyond, tail, 0.0)
    return num_experts * total


def balanced_tiles(num_experts: float, share: float, tokens: ArrayLike, rows: float) -> Floats:
    """Tiles where assignments are dealt out to the experts in turn."""
    assignments = np.asarray(tokens, float) * share * num_experts
    each = np.ceil(np.maximum(assignments / num_experts / rows, 1e-12))
    found: Floats = np.where(assignments < num_experts, assignments, num_experts * each)
    return found


def tile_height(heights: Sequence[int], rows_per_expert: ArrayLike) -> Floats:
    """The smallest height that expected rows fill no further than `TILE_FILL`, else the largest."""
    choice = np.asarray(heights, float)
    index = np.searchsorted(choice * TILE_FILL, np.asarray(rows_per_expert, float), side="right")
    found: Floats = choice[np.minimum(index, len(choice) - 1)]
    return found


def grouped_gemm_s(
    model: ModelSpec,
    hw: Hardware,
    tokens: ArrayLike,
    ep: int,
    moe_tp: int,
    weights: str,
    activation: str,
    kernel: ExpertKernel,
) -> Floats:
    """Routed experts of one layer on one rank, without communication, under uniform routing.

    Where weights are multiplied as they are stored, an expert's weights are read once and its further
    tiles find them in the cache, so that reading hides behind arithmetic or the other way round. Weights
    that must be unpacked to the activations' format (W4A16) are unpacked again for every tile, in the same
    instructions that multiply: both add up.

    Args:
        model: shapes.
        hw: peaks.
        tokens: tokens of the whole group before routing.
        ep: expert-parallel width.
        moe_tp: slices of each expert.
        weights: storage of expert weights.
        activation: `fp8` or `bf16` activations.
        kernel: efficiencies and tile heights.
    """
    t = np.asarray(tokens, float)
    local, share = model.num_experts / ep, model.experts_per_token / model.num_experts
    params = model.params_expert / moe_tp
    height = tile_height(kernel.tile_rows, t * share)
    tiles = uniform_tiles(local, share, t, height)
    peak = hw.fp8_flops if activation == "fp8" else hw.bf16_flops
    arithmetic = tiles * height * 2 * params / (peak * kernel.flops_fraction)
    pass_s = params * EXPERT_BYTES[weights] / (hw.hbm_bytes_per_s * kernel.read_fraction)
    if activation == "bf16":
        return tiles * pass_s + arithmetic + kernel.layer_s
    return np.maximum(experts_hit(local, share, t) * pass_s, arithmetic) + kernel.layer_s
