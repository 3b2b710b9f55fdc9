"""Routed experts of one rank: DeepGEMM's grouped products and SGLang's activation between them."""

from __future__ import annotations

import math

import torch

from profiler.kernel_case import KernelCase
from profiler.kernel_cases_moe import masked_height
from profiler.kernel_gpu import Gpu
from profiler.kernel_reference import (
    BF16_TOLERANCE,
    FP8,
    FP8_TOLERANCE,
    block_scales,
    fp8_product,
    normal_bf16,
    random_fp8,
    relative_error,
    row_scales,
    sample,
)
from profiler.kernel_routing import rows_per_expert
from profiler.kernel_timer import Prepared, rotate
from profiler.kernels.base import Drivers, Unsupported
from profiler.kernels.gemm import deep_gemm

SWIGLU_LIMIT = 10.0
"""Clamp of gate and up projections (DeepSeek-V4 config.json, swiglu_limit)."""
CHECKED_EXPERTS = 4
MOST_SILU_EXPERTS = 256
"""What SGLang 0.5.15's kernel checks (silu_and_mul_masked_post_quant.cuh)."""


def moe_masked(case: KernelCase, gpu: Gpu) -> Prepared:
    """The decode layout: each expert has room for the fullest one, of which some rows are filled."""
    package = deep_gemm()
    experts, rows, n, k = (case.size(name) for name in ("experts", "rows", "n", "k"))
    counts, height = rows_per_expert(experts, rows), masked_height(experts, rows)
    filled = torch.from_numpy(counts.copy()).to(gpu.device, torch.int32)
    expected = max(1, math.ceil(rows / experts))
    sets = rotate(
        gpu,
        case.num_bytes,
        lambda: (
            (random_fp8(gpu, experts, height, k), row_scales(gpu, height, k, experts)),
            (random_fp8(gpu, experts, n, k), block_scales(gpu, n, k, experts)),
            torch.empty(experts, height, n, device=gpu.device, dtype=torch.bfloat16),
        ),
    )
    calls = [lambda s=s: package.m_grouped_fp8_fp4_gemm_nt_masked(*s, filled, expected) for s in sets]

    def check() -> float:
        calls[0]()
        (a, a_scales), (b, b_scales), out = sets[0]
        worst = 0.0
        for expert in counts.nonzero()[0][:CHECKED_EXPERTS].tolist():
            at, columns = sample(int(counts[expert]), 32, gpu.device), sample(n, 128, gpu.device)
            want = fp8_product(a[expert], a_scales[expert], b[expert], b_scales[expert], at, columns)
            worst = max(worst, relative_error(out[expert][at][:, columns], want))
        return worst

    return Prepared(calls, check, BF16_TOLERANCE, case.num_bytes)


def moe_contiguous(case: KernelCase, gpu: Gpu) -> Prepared:
    """The prefill layout: the rows of each expert one after another, padded to the tile height."""
    package = deep_gemm()
    experts, rows, n, k = (case.size(name) for name in ("experts", "rows", "n", "k"))
    counts = rows_per_expert(experts, rows)
    align = int(package.get_mk_alignment_for_contiguous_layout())
    owners = torch.cat([_padded_owner(i, int(count), align) for i, count in enumerate(counts)])
    layout = owners.to(gpu.device)
    total = len(owners)
    sets = rotate(
        gpu,
        case.num_bytes,
        lambda: (
            (random_fp8(gpu, total, k), row_scales(gpu, total, k)),
            (random_fp8(gpu, experts, n, k), block_scales(gpu, n, k, experts)),
            torch.empty(total, n, device=gpu.device, dtype=torch.bfloat16),
        ),
    )
    calls = [lambda s=s: package.m_grouped_fp8_fp4_gemm_nt_contiguous(*s, layout) for s in sets]

    def check() -> float:
        calls[0]()
        (a, a_scales), (b, b_scales), out = sets[0]
        worst = 0.0
        for expert in counts.nonzero()[0][:CHECKED_EXPERTS].tolist():
            own = (layout == expert).nonzero()[:, 0]
            at, columns = own[sample(len(own), 32, gpu.device)], sample(n, 128, gpu.device)
            want = fp8_product(a, a_scales, b[expert], b_scales[expert], at, columns)
            worst = max(worst, relative_error(out[at][:, columns], want))
        return worst

    return Prepared(calls, check, BF16_TOLERANCE, case.num_bytes)


def _padded_owner(expert: int, count: int, align: int) -> torch.Tensor:
    """The expert of each row, with -1 for padding."""
    owner = torch.full((-(-count // align) * align,), -1, dtype=torch.int32)
    owner[:count] = expert
    return owner


def silu_mul_quant_masked(case: KernelCase, gpu: Gpu) -> Prepared:
    """Clamped SiLU of the gate times up, quantised per 128 values, in the masked layout."""
    experts, rows, inner = (case.size(name) for name in ("experts", "rows", "inner"))
    if experts > MOST_SILU_EXPERTS:
        raise Unsupported(
            f"SGLang's kernel takes at most {MOST_SILU_EXPERTS} experts per rank, not {experts}"
        )
    if inner // 128 % 4 or inner // 8 < experts:
        raise Unsupported(f"SGLang's kernel takes no inner={inner} with {experts} experts per rank")
    from sglang.jit_kernel.dsv4 import silu_and_mul_masked_post_quant

    counts, height = rows_per_expert(experts, rows), masked_height(experts, rows)
    filled = torch.from_numpy(counts.copy()).to(gpu.device, torch.int32)
    sets = rotate(
        gpu,
        case.num_bytes,
        lambda: (
            normal_bf16(gpu, experts, height, 2 * inner),
            torch.empty(experts, height, inner, device=gpu.device, dtype=FP8),
            torch.empty(experts, height, inner // 128, device=gpu.device),
        ),
    )
    calls = [
        lambda s=s: silu_and_mul_masked_post_quant(
            *s, quant_group_size=128, masked_m=filled, topk=6, swiglu_limit=SWIGLU_LIMIT
        )
        for s in sets
    ]

    def check() -> float:
        calls[0]()
        x, out, scales = sets[0]
        worst = 0.0
        for expert in counts.nonzero()[0][:CHECKED_EXPERTS].tolist():
            at = sample(int(counts[expert]), 32, gpu.device)
            gate, up = x[expert][at].double().chunk(2, dim=-1)
            gate, up = gate.clamp(max=SWIGLU_LIMIT), up.clamp(-SWIGLU_LIMIT, SWIGLU_LIMIT)
            got = out[expert][at].double() * scales[expert][at].double().repeat_interleave(128, dim=-1)
            worst = max(worst, relative_error(got, torch.nn.functional.silu(gate) * up))
        return worst

    return Prepared(calls, check, FP8_TOLERANCE, case.num_bytes)


DRIVERS: Drivers = {
    "moe_masked": moe_masked,
    "moe_contiguous": moe_contiguous,
    "silu_mul_quant_masked": silu_mul_quant_masked,
}
