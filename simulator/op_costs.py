"""Roofline seconds of each operation of a DeepSeek-V4 layer.

Every function is pure and broadcasts over NumPy arrays. A roofline is the sum over sub-operations of
max(FLOPs / dense peak, bytes / HBM bandwidth): a bound no kernel beats, and the shape by which a
measured kernel is carried to sizes and platforms that were not measured.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from search_spaces.hardware import Hardware
from search_spaces.model import BYTES_BF16, BYTES_FP8, BYTES_FP32, ModelSpec
from simulator.memory import EXPERT_BYTES, INDEX_ENTRY_BYTES, KV_ENTRY_BYTES

Floats = NDArray[np.float64]

ATTENTION_FLOPS_PER_HEAD_KEY = 2048
"""Scores and weighted sum over a 512-wide shared K=V: 2 x 2 x 512."""
INDEXER_FLOPS_PER_KEY = 16_384
"""64 indexer heads x 128 dims x 2."""
MIN_HEADS = 64
"""The decode kernel pads query heads of a rank to this many."""


def _bound(flops: ArrayLike, num_bytes: ArrayLike, peak: float, hw: Hardware) -> Floats:
    return np.maximum(np.asarray(flops, float) / peak, np.asarray(num_bytes, float) / hw.hbm_bytes_per_s)


def gemm_s(m: ArrayLike, n: float, k: float, hw: Hardware, weight_bytes: float = BYTES_FP8) -> Floats:
    """Roofline of an (m, k) x (k, n) product with weights of `weight_bytes` per element."""
    tokens = np.asarray(m, float)
    peak = hw.fp8_flops if weight_bytes <= BYTES_FP8 else hw.bf16_flops
    moved = n * k * weight_bytes + tokens * (k * weight_bytes + n * BYTES_BF16)
    return _bound(2 * tokens * n * k, moved, peak, hw)


def keys_per_query(model: ModelSpec, ratio: int, context: ArrayLike) -> Floats:
    """Mean keys a query attends to with `context` tokens before it (continuous in context)."""
    ctx = np.asarray(context, float)
    keys: Floats = np.minimum(ctx, model.sliding_window)
    if ratio == 4:
        keys = keys + np.minimum(ctx / 4, model.indexer_topk)
    return keys + ctx / 128 if ratio == 128 else keys


def attention_s(
    model: ModelSpec,
    hw: Hardware,
    ratio: int,
    heads: int,
    tokens: ArrayLike,
    context: ArrayLike,
    sequences: ArrayLike,
) -> Floats:
    """Roofline of one attention module with its projections, compressor and indexer.

    Args:
        model: shapes.
        hw: peaks.
        ratio: 0 window only, 4 CSA, 128 HCA.
        heads: query heads of this rank.
        tokens: query tokens of this rank.
        context: mean keys before a query, in uncompressed tokens.
        sequences: sequences those tokens belong to; their caches are read once each.
    """
    t, seqs = np.asarray(tokens, float), np.asarray(sequences, float)
    ctx = np.maximum(np.asarray(context, float), 1.0)
    share = heads / model.num_heads
    sharded = (model.params_wq_b + model.params_wo_a + model.params_wo_b) * share
    total = _bound(
        2 * t * (sharded + model.params_wqkv_a),
        (sharded + model.params_wqkv_a) * BYTES_FP8 + t * model.hidden * 2 * BYTES_BF16,
        hw.fp8_flops,
        hw,
    )
    keys = keys_per_query(model, ratio, ctx)
    per_seq = np.minimum(t / np.maximum(seqs, 1.0) * keys, ctx) if ratio != 4 else t / seqs * keys
    cache = seqs * np.minimum(per_seq, ctx / max(ratio, 1) + model.sliding_window) * KV_ENTRY_BYTES
    total = total + _bound(
        ATTENTION_FLOPS_PER_HEAD_KEY * max(heads, MIN_HEADS) * keys * t, cache, hw.bf16_flops, hw
    )
    if ratio:
        params = model.params_compressor(ratio)
        total = total + _bound(2 * t * params, params * BYTES_BF16, hw.bf16_flops, hw)
    if ratio == 4:
        total = total + _bound(
            2 * t * model.params_indexer, model.params_indexer * BYTES_FP8, hw.fp8_flops, hw
        )
        total = total + _bound(
            INDEXER_FLOPS_PER_KEY * (ctx / 4) * t, seqs * ctx / 4 * INDEX_ENTRY_BYTES, hw.fp8_flops, hw
        )
    return total


def experts_hit(num_experts: float, assignments: ArrayLike) -> Floats:
    """Expected distinct experts that `assignments` uniform choices hit."""
    return num_experts * (1.0 - np.exp(-np.asarray(assignments, float) / num_experts))


def moe_s(
    model: ModelSpec,
    hw: Hardware,
    tokens: ArrayLike,
    ep: int,
    moe_tp: int = 1,
    weights: str = "mxfp4",
    activation: str = "fp8",
    all_to_all: bool = True,
) -> Floats:
    """Roofline of the routed experts of one layer on one rank, dispatch and combine included.

    Args:
        model: shapes.
        hw: peaks.
        tokens: tokens per rank before routing (with `all_to_all`), or all tokens of the group.
        ep: expert-parallel width.
        moe_tp: slices of each expert.
        weights: storage of expert weights.
        activation: `fp4`, `fp8` or `bf16` activations.
        all_to_all: whether tokens travel to the experts' ranks.
    """
    t = np.asarray(tokens, float)
    local = model.num_experts / ep
    assignments = t * model.experts_per_token / (1 if all_to_all else ep)
    params = model.params_expert / moe_tp
    peak = {"fp4": hw.peak_flops("fp4"), "fp8": hw.fp8_flops, "bf16": hw.bf16_flops}[activation]
    total = _bound(
        2 * assignments * params,
        experts_hit(local, assignments) * params * EXPERT_BYTES[weights],
        peak,
        hw,
    )
    if all_to_all and ep > 1:
        sent = 0.53125 if activation == "fp4" else 1.0
        remote = 1.0 - 1.0 / ep
        moved = t * model.experts_per_token * remote * model.hidden * (sent + BYTES_BF16)
        total = total + moved / hw.nvlink_bytes_per_s
    return total


def moe_compute_share(model: ModelSpec, hw: Hardware, tokens: ArrayLike, ep: int) -> Floats:
    """Share of FLOP time in FLOP plus weight-read time of the experts of one rank.

    Args:
        model: shapes.
        hw: peaks.
        tokens: tokens of the whole group before routing.
        ep: expert-parallel width.
    """
    assignments = np.asarray(tokens, float) * model.experts_per_token / ep
    flops_s = 2 * assignments * model.params_expert / hw.fp8_flops
    hit = experts_hit(model.num_experts / ep, assignments)
    read_s = hit * model.params_expert * EXPERT_BYTES["mxfp4"] / hw.hbm_bytes_per_s
    return flops_s / np.maximum(flops_s + read_s, 1e-30)


def mhc_s(model: ModelSpec, hw: Hardware, tokens: ArrayLike) -> Floats:
    """Roofline of both hyper-connection sites of a layer: the streams are read and written."""
    t = np.asarray(tokens, float)
    moved = 2 * t * model.hidden * BYTES_BF16 * (2 * model.mhc_streams + 2)
    return _bound(2 * t * model.params_mhc, moved + model.params_mhc * BYTES_FP32, hw.bf16_flops, hw)


def mhc_fused_traffic_ratio(model: ModelSpec) -> float:
    """Bytes of a hyper-connection site with fused post and pre steps over those of two kernels.

    The post step of one site and the pre step of the next then share one kernel, and the streams in
    between are not read back.
    """
    streams = model.mhc_streams
    return (2 * streams + 2) / (3 * streams + 2)


def norm_s(model: ModelSpec, hw: Hardware, tokens: ArrayLike, count: int = 2) -> Floats:
    """Roofline of `count` RMS norms over the hidden dimension."""
    return count * np.asarray(tokens, float) * model.hidden * 2 * BYTES_BF16 / hw.hbm_bytes_per_s
