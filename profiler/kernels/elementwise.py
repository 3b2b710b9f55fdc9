"""Quantisation of activations, RMS norm, and rotary embedding with the cache write."""

from __future__ import annotations

import torch

from profiler.kernel_case import KernelCase
from profiler.kernel_gpu import Gpu
from profiler.kernel_reference import (
    BF16_TOLERANCE,
    FP8_TOLERANCE,
    ROPE_DIM,
    cache_values,
    normal_bf16,
    page_bytes,
    relative_error,
    rms_normed,
    rotary_table,
    rotate_tail,
    sample,
)
from profiler.kernel_timer import Prepared, rotate
from profiler.kernels.base import Drivers

EPS = 1e-6
POSITIONS = 8192
CACHE_PAGE = 256


def act_quant_fp8(case: KernelCase, gpu: Gpu) -> Prepared:
    """BF16 to FP8 with one FP32 scale per 128 values, laid out for DeepGEMM."""
    from sglang.srt.layers.quantization.fp8_kernel import sglang_per_token_group_quant_fp8

    m, k = case.size("m"), case.size("k")
    sets = rotate(gpu, case.num_bytes, lambda: normal_bf16(gpu, m, k))
    calls = [
        lambda s=s: sglang_per_token_group_quant_fp8(
            s, 128, column_major_scales=True, scale_tma_aligned=True, scale_ue8m0=False
        )
        for s in sets
    ]

    def check() -> float:
        codes, scales = calls[0]()
        rows = sample(m, 64, gpu.device)
        got = codes[rows].double() * scales[rows].double().repeat_interleave(128, dim=1)
        return relative_error(got, sets[0][rows])

    return Prepared(calls, check, FP8_TOLERANCE, case.num_bytes)


def rms_norm(case: KernelCase, gpu: Gpu) -> Prepared:
    """FlashInfer's RMS norm."""
    from flashinfer.norm import rmsnorm

    m, k = case.size("m"), case.size("k")
    weight = torch.rand(k, device=gpu.device).bfloat16() + 0.5
    out = torch.empty(m, k, device=gpu.device, dtype=torch.bfloat16)
    sets = rotate(gpu, case.num_bytes, lambda: normal_bf16(gpu, m, k))
    calls = [lambda s=s: rmsnorm(s, weight, EPS, out=out) for s in sets]

    def check() -> float:
        calls[0]()
        rows = sample(m, 64, gpu.device)
        return relative_error(out[rows], rms_normed(sets[0][rows], EPS) * weight.double())

    return Prepared(calls, check, BF16_TOLERANCE, case.num_bytes)


def q_norm_rope(case: KernelCase, gpu: Gpu) -> Prepared:
    """RMS norm of each query head and its rotary embedding."""
    from sglang.jit_kernel.dsv4 import fused_q_norm_rope

    m, heads, dim = case.size("m"), case.size("heads"), case.size("dim")
    table, positions = rotary_table(gpu, POSITIONS), torch.arange(m, device=gpu.device) % POSITIONS
    out = torch.empty(m, heads, dim, device=gpu.device, dtype=torch.bfloat16)
    sets = rotate(gpu, case.num_bytes, lambda: normal_bf16(gpu, m, heads, dim))
    calls = [lambda s=s: fused_q_norm_rope(s, out, EPS, table, positions) for s in sets]

    def check() -> float:
        calls[0]()
        rows = sample(m, 32, gpu.device)
        want = rotate_tail(rms_normed(sets[0][rows], EPS), table[positions[rows]][:, None])
        return relative_error(out[rows], want)

    return Prepared(calls, check, BF16_TOLERANCE, case.num_bytes)


def rope_inverse(case: KernelCase, gpu: Gpu) -> Prepared:
    """The rotary part of the attention output turned back, in place."""
    from sglang.jit_kernel.dsv4 import fused_rope_inplace

    m, heads, dim = case.size("m"), case.size("heads"), case.size("dim")
    table, positions = rotary_table(gpu, POSITIONS), torch.arange(m, device=gpu.device) % POSITIONS
    sets = rotate(gpu, case.num_bytes, lambda: normal_bf16(gpu, m, heads, dim))
    calls = [
        lambda s=s: fused_rope_inplace(s[..., -ROPE_DIM:], None, table, positions, inverse=True) for s in sets
    ]

    def check() -> float:
        rows = sample(m, 32, gpu.device)
        want = rotate_tail(sets[0][rows], table[positions[rows]][:, None].conj())
        calls[0]()
        return relative_error(sets[0][rows], want)

    return Prepared(calls, check, BF16_TOLERANCE, case.num_bytes)


def k_norm_rope_store(case: KernelCase, gpu: Gpu) -> Prepared:
    """RMS norm and rotary embedding of keys, FP8 quantisation and the write to the window cache."""
    from sglang.jit_kernel.dsv4 import fused_k_norm_rope_flashmla

    m, dim = case.size("m"), case.size("dim")
    table, positions = rotary_table(gpu, POSITIONS), torch.arange(m, device=gpu.device) % POSITIONS
    weight = torch.rand(dim, device=gpu.device).bfloat16() + 0.5
    slots = torch.randperm(m, device=gpu.device).to(torch.int32)
    pages = -(-m // CACHE_PAGE)
    cache = torch.zeros(pages, page_bytes(CACHE_PAGE), dtype=torch.uint8, device=gpu.device)
    sets = rotate(gpu, case.num_bytes, lambda: normal_bf16(gpu, m, dim))
    calls = [
        lambda s=s: fused_k_norm_rope_flashmla(s, weight, EPS, table, positions, slots, cache, CACHE_PAGE)
        for s in sets
    ]

    def check() -> float:
        calls[0]()
        rows = sample(m, 64, gpu.device)
        want = rotate_tail(rms_normed(sets[0][rows], EPS) * weight.double(), table[positions[rows]])
        return relative_error(cache_values(cache, CACHE_PAGE, slots[rows].long()), want)

    return Prepared(calls, check, FP8_TOLERANCE, case.num_bytes)


DRIVERS: Drivers = {
    "act_quant_fp8": act_quant_fp8,
    "rms_norm": rms_norm,
    "q_norm_rope": q_norm_rope,
    "rope_inverse": rope_inverse,
    "k_norm_rope_store": k_norm_rope_store,
}
