"""Cases of the routed experts and their router."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from profiler.kernel_case import KernelCase
from profiler.kernel_cases_dense import COARSE_TOKENS, SCALE_GROUP, at_levels
from profiler.kernel_plans import SCALE_BLOCK, RankPlan
from profiler.kernel_routing import rows_per_expert
from search_spaces.model import BYTES_BF16, BYTES_FP8, BYTES_FP32, BYTES_MXFP4, ModelSpec

MASKED_TOKENS = ((64, 512), (16, 256, 2048), (4, 32, 128, 1024, 4096))
"""Tokens of the whole expert group in a decode step, by level."""
CONTIGUOUS_TOKENS = ((8192,), (1024, 65536), (4096, 16384, 32768))
"""Tokens of the whole expert group in a prefill step, by level."""
MOST_ROWS = 1 << 18
"""Rows of one rank up to which a case is built: the largest prefill chunks of eight ranks."""
MOST_MASKED_BYTES = 8e9
"""Padded activations of a masked case; a larger step is prefill and runs contiguous."""


def moe_cases(model: ModelSpec, plans: Sequence[RankPlan]) -> Iterator[KernelCase]:
    """Grouped products of one rank: gate and up (`w13`), the activation, and down (`w2`)."""
    for moe_tp, moe_ep in sorted({(plan.moe_tp, plan.moe_ep) for plan in plans}):
        inner, experts = model.expert_inner // moe_tp, model.num_experts // moe_ep
        if inner % SCALE_BLOCK:
            continue
        role = f"{model.name} moe_tp{moe_tp} ep{moe_ep}"
        for layout, grid in (("masked", MASKED_TOKENS), ("contiguous", CONTIGUOUS_TOKENS)):
            for level, tokens in at_levels(grid):
                rows = tokens * model.experts_per_token // moe_ep
                if rows and rows <= MOST_ROWS:
                    yield from _layer(model, layout, experts, rows, inner, level, role)


def masked_height(experts: int, rows: int) -> int:
    """Rows reserved for each expert of a masked batch: the fullest one, in steps of 64."""
    return int(-(-int(rows_per_expert(experts, rows).max()) // 64) * 64)


def _layer(
    model: ModelSpec, layout: str, experts: int, rows: int, inner: int, level: int, role: str
) -> Iterator[KernelCase]:
    if layout == "masked":
        padded = experts * masked_height(experts, rows)
        if padded * (model.hidden + 4 * inner) > MOST_MASKED_BYTES:
            return
    for name, n, k in (("w13", 2 * inner, model.hidden), ("w2", model.hidden, inner)):
        yield grouped(layout, experts, rows, n, k, level, f"{role} {name}")
    if layout == "masked":
        shape = (("experts", experts), ("rows", rows), ("inner", inner))
        moved = rows * inner * (2 * BYTES_BF16 + BYTES_FP8 + BYTES_FP32 / SCALE_GROUP)
        yield KernelCase("moe", "silu_mul_quant_masked", shape, 0.0, moved, level=level, role=role)


def grouped(
    layout: str, experts: int, rows: int, n: int, k: int, level: int = 0, role: str = ""
) -> KernelCase:
    """A grouped FP8 product: `rows` rows spread over `experts` matrices of `[n, k]`."""
    hit = int(np.count_nonzero(rows_per_expert(experts, rows)))
    moved = hit * n * k * BYTES_FP8 + rows * (k * BYTES_FP8 + n * BYTES_BF16)
    shape = (("experts", experts), ("rows", rows), ("n", n), ("k", k))
    return KernelCase("moe", f"moe_{layout}", shape, 2.0 * rows * n * k, moved, "fp8", level=level, role=role)


def router_cases(model: ModelSpec) -> Iterator[KernelCase]:
    """Expert choice from router scores: learned, and by token id in the first layers."""
    for level, m in at_levels(COARSE_TOKENS):
        shape = (("m", m), ("experts", model.num_experts), ("topk", model.experts_per_token))
        chosen = m * model.experts_per_token * 8
        learned = m * model.num_experts * BYTES_FP32 + chosen
        yield KernelCase("router", "gate_topk", shape, 0.0, learned, level=level, role=model.name)
        hashed = m * (model.experts_per_token * (BYTES_FP32 + 4) + 8) + chosen
        yield KernelCase("router", "hash_topk", shape, 0.0, hashed, level=level, role=model.name)


def fp4_cases(model: ModelSpec, plans: Sequence[RankPlan]) -> Iterator[KernelCase]:
    """The fused MegaMoE kernel and grouped products with FP4 weights: Blackwell only."""
    for ep in sorted({plan.moe_ep for plan in plans if plan.moe_ep > 1}):
        for tokens in (64, 8192):
            rows = tokens * model.experts_per_token // ep
            hit = int(np.count_nonzero(rows_per_expert(model.num_experts // ep, rows)))
            for kernel, activation in (("megamoe_w4a8", BYTES_FP8), ("megamoe_w4a4", BYTES_MXFP4)):
                weights = hit * model.params_expert * BYTES_MXFP4
                moved = weights + rows * model.hidden * (activation + BYTES_BF16)
                yield KernelCase(
                    "fp4",
                    kernel,
                    (("hidden", model.hidden), ("inner", model.expert_inner), ("ep", ep), ("tokens", tokens)),
                    2.0 * rows * model.params_expert,
                    moved,
                    "fp8" if activation == BYTES_FP8 else "fp4",
                    level=0 if tokens == 64 else 1,
                    role=f"{model.name} ep{ep}",
                )
