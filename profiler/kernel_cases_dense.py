"""Cases of the dense part of a layer: matrix products, hyper-connections, norms and quantisation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from profiler.kernel_case import KernelCase
from profiler.kernel_plans import SCALE_BLOCK, RankPlan
from search_spaces.model import BYTES_BF16, BYTES_FP8, BYTES_FP32, ModelSpec
from search_spaces.units import BYTES_PER_GIB

TOKENS = ((1, 64, 1024, 8192), (16, 256, 4096), (4, 32, 128, 512, 2048), (768, 1280, 1536, 3072, 6144))
"""Rows of a product by level. The last level is dense around one wave of output tiles, where block-FP8
products of 3 to 4 million outputs take up to twice as long as larger ones."""
COARSE_TOKENS = TOKENS[:3]
HEAD_TOKENS = ((1, 64), (16, 256), (4, 512))
"""Rows of the LM head: sequences, not tokens."""
SCALE_GROUP = 128
"""Activation values per scale."""


def at_levels(grid: Sequence[Iterable[int]]) -> Iterator[tuple[int, int]]:
    """(level, value) of a grid that is listed by level."""
    for level, values in enumerate(grid):
        for value in values:
            yield level, value


def ceiling_cases() -> Iterator[KernelCase]:
    """What the device itself gives: memory bandwidth and square products."""
    gib = int(BYTES_PER_GIB)
    yield KernelCase("ceilings", "hbm_copy", (("gib", 4),), 0, 8 * gib)
    yield KernelCase("ceilings", "hbm_read", (("gib", 4),), 0, 4 * gib)
    for level, side in ((0, 8192), (1, 4096), (2, 16384)):
        shape = (("m", side), ("n", side), ("k", side))
        flops, elements = 2.0 * side**3, float(side * side)
        yield KernelCase("ceilings", "bf16_square", shape, flops, 6 * elements, "bf16", level=level)
        yield KernelCase("ceilings", "fp8_square", shape, flops, 4 * elements, "fp8", level=level)


def gemm_cases(model: ModelSpec, plans: Sequence[RankPlan]) -> Iterator[KernelCase]:
    """Dense products of one layer and of the head, sliced as the plans slice them."""
    for role, n, k in fp8_products(model, plans):
        for level, m in at_levels(TOKENS):
            yield fp8_gemm(m, n, k, level, role)
    for role, n, k, wide in bf16_products(model, plans):
        grid = HEAD_TOKENS if role.endswith("lm_head") else COARSE_TOKENS
        for level, m in at_levels(grid):
            yield bf16_gemm(m, n, k, wide, level, role)
    depth = model.num_heads * model.head_dim // model.o_groups
    for groups in sorted({model.o_groups // plan.attention_tp for plan in plans}, reverse=True):
        for level, m in at_levels(COARSE_TOKENS):
            shape = (("m", m), ("groups", groups), ("n", model.o_lora), ("k", depth))
            weights = groups * model.o_lora * depth
            moved = BYTES_BF16 * (weights + m * groups * (depth + model.o_lora))
            yield KernelCase(
                "gemm", "wo_a_einsum", shape, 2.0 * m * weights, moved, level=level, role=f"{model.name} wo_a"
            )


def fp8_products(model: ModelSpec, plans: Sequence[RankPlan]) -> Iterator[tuple[str, int, int]]:
    """(role, n, k) of the block-FP8 products. Slices without whole scale blocks do not exist."""
    name, hidden = model.name, model.hidden
    found = [
        (f"{name} wqkv_a", model.q_lora + model.head_dim, hidden),
        (f"{name} indexer wq_b", model.indexer_heads * model.indexer_dim, model.q_lora),
    ]
    for plan in plans:
        heads, groups = model.num_heads // plan.attention_tp, model.o_groups // plan.attention_tp
        found.append((f"{name} {plan.name} wq_b", heads * model.head_dim, model.q_lora))
        found.append((f"{name} {plan.name} wo_b", hidden, groups * model.o_lora))
        if model.expert_inner % plan.dense_tp == 0:
            inner = model.num_shared_experts * model.expert_inner // plan.dense_tp
            found.append((f"{name} {plan.name} shared gate+up", 2 * inner, hidden))
            found.append((f"{name} {plan.name} shared down", hidden, inner))
    for role, n, k in found:
        if n % SCALE_BLOCK == 0 and k % SCALE_BLOCK == 0:
            yield role, n, k


def bf16_products(model: ModelSpec, plans: Sequence[RankPlan]) -> Iterator[tuple[str, int, int, int]]:
    """(role, n, k, output bytes) of the BF16 products; compressors and router write FP32."""
    name, hidden = model.name, model.hidden
    yield f"{name} c4 compressor", 4 * model.head_dim, hidden, 4
    yield f"{name} c128 compressor", 2 * model.head_dim, hidden, 4
    yield f"{name} indexer compressor", 4 * model.indexer_dim, hidden, 4
    yield f"{name} router", model.num_experts, hidden, 4
    yield f"{name} indexer weights", model.indexer_heads, hidden, 2
    for width in sorted({plan.attention_tp for plan in plans}):
        if model.vocab % width == 0:
            yield f"{name} lm_head", model.vocab // width, hidden, 2


def fp8_gemm(m: int, n: int, k: int, level: int = 0, role: str = "") -> KernelCase:
    """`[m, k] x [n, k]` in FP8 with block scales, BF16 out."""
    moved = n * k * BYTES_FP8 + m * k * BYTES_FP8 + m * n * BYTES_BF16
    shape = (("m", m), ("n", n), ("k", k))
    return KernelCase("gemm", "fp8_gemm", shape, 2.0 * m * n * k, moved, "fp8", level=level, role=role)


def bf16_gemm(m: int, n: int, k: int, out_bytes: int, level: int = 0, role: str = "") -> KernelCase:
    """`[m, k] x [n, k]` in BF16 with BF16 (2) or FP32 (4) output bytes per element."""
    moved = (n * k + m * k) * BYTES_BF16 + m * n * out_bytes
    shape = (("m", m), ("n", n), ("k", k), ("out_bytes", out_bytes))
    return KernelCase("gemm", "bf16_gemm", shape, 2.0 * m * n * k, moved, "bf16", level=level, role=role)


def mhc_cases(model: ModelSpec) -> Iterator[KernelCase]:
    """One hyper-connection site: mix and norm before, distribution after; and the head's mix."""
    streams, hidden = model.mhc_streams, model.hidden
    mixes = streams * streams + 2 * streams
    for level, m in at_levels(COARSE_TOKENS):
        shape = (("m", m), ("hidden", hidden))
        row = m * hidden * BYTES_BF16
        mix = mixes * streams * hidden
        pre = (2.0 * m * mix, (streams + 1) * row + mix * BYTES_FP32)
        yield KernelCase("mhc", "mhc_pre", shape, *pre, level=level, role=model.name)
        yield KernelCase(
            "mhc",
            "mhc_post",
            shape,
            2.0 * m * hidden * streams * (streams + 1),
            (2 * streams + 1) * row,
            level=level,
            role=model.name,
        )
        gemm = (2.0 * m * mix, streams * row + mix * BYTES_FP32)
        yield KernelCase("mhc", "mhc_prenorm_gemm", shape, *gemm, level=level, role=model.name)
    for level, m in at_levels(HEAD_TOKENS):
        shape = (("m", m), ("hidden", hidden))
        mix = streams * streams * hidden
        head = (2.0 * m * mix, (streams + 1) * m * hidden * BYTES_BF16 + mix * BYTES_FP32)
        yield KernelCase("mhc", "mhc_head", shape, *head, level=level, role=model.name)


def elementwise_cases(model: ModelSpec, plans: Sequence[RankPlan]) -> Iterator[KernelCase]:
    """Quantisation of activations, norms, and rotary embedding with the cache write."""
    widths = {model.hidden, model.q_lora}
    widths |= {model.o_groups * model.o_lora // plan.attention_tp for plan in plans}
    entry = model.head_dim * BYTES_BF16
    for level, m in at_levels(COARSE_TOKENS):
        for k in sorted(width for width in widths if width % SCALE_GROUP == 0):
            quant = m * k * (BYTES_BF16 + BYTES_FP8 + BYTES_FP32 / SCALE_GROUP)
            yield _elementwise("act_quant_fp8", (("m", m), ("k", k)), quant, level, model)
        for k in sorted({model.hidden, model.q_lora}):
            yield _elementwise("rms_norm", (("m", m), ("k", k)), 2 * m * k * BYTES_BF16, level, model)
        for heads in sorted({model.num_heads // plan.attention_tp for plan in plans}):
            shape = (("m", m), ("heads", heads), ("dim", model.head_dim))
            yield _elementwise("q_norm_rope", shape, 2 * m * heads * entry, level, model)
            rope = 2 * m * heads * model.rope_dim * BYTES_BF16
            yield _elementwise("rope_inverse", shape, rope, level, model)
        key = (("m", m), ("dim", model.head_dim))
        store = m * (entry + CACHE_ENTRY_BYTES)
        yield _elementwise("k_norm_rope_store", key, store, level, model)


CACHE_ENTRY_BYTES = 584
"""One key of the FP8 cache: 448 FP8 values, 64 BF16 rotary values, 7 scales and a byte of padding."""


def _elementwise(
    kernel: str, shape: tuple[tuple[str, int], ...], moved: float, level: int, model: ModelSpec
) -> KernelCase:
    return KernelCase("elementwise", kernel, shape, 0.0, moved, level=level, role=model.name)
