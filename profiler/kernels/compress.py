"""SGLang's KV compressors (`sglang.jit_kernel.dsv4.compress`) and their cache write.

A compressor pools the keys of a group of tokens by a softmax over learned scores, value by value.
4:1 groups overlap: each takes eight tokens, with other keys and scores for its first four. Inputs and
states are FP32. Source of the layouts: SGLang 0.5.15, jit_kernel/csrc/deepseek_v4/c4_v2.cuh,
c128_v2.cuh, c128_online_v2.cuh and fused_norm_rope_v2.cuh.
"""

from __future__ import annotations

from typing import Any

import torch

from profiler.kernel_case import KernelCase
from profiler.kernel_gpu import Gpu
from profiler.kernel_reference import (
    FP8,
    FP8_TOLERANCE,
    cache_values,
    hadamard,
    page_bytes,
    relative_error,
    rms_normed,
    rotary_table,
    rotate_tail,
    sample,
)
from profiler.kernel_timer import Prepared, rotate
from profiler.kernels.base import Drivers

TOLERANCE = 1e-3
"""FP32 sums with fast exponentials."""
FIRST_LENGTH = 1024
"""Tokens of the first sequence of a decode batch; the others are one longer each."""
CACHE_PAGE = 64
EPS = 1e-6


def c4_decode(case: KernelCase, gpu: Gpu) -> Prepared:
    """A token per sequence enters the 4:1 state; every fourth sequence completes a group."""
    return _decode(case, gpu, pages_each=2, halves=2)


def c128_decode(case: KernelCase, gpu: Gpu) -> Prepared:
    """A token per sequence enters the 128:1 state; one sequence in 128 completes a group."""
    return _decode(case, gpu, pages_each=1, halves=1)


def _lengths(batch: int, ratio: int, gpu: Gpu) -> Any:
    """Sequence lengths: the first completes a group, the others are spread over the group."""
    spread = torch.arange(batch, device=gpu.device) * max(1, ratio // batch) % ratio
    return FIRST_LENGTH + spread


def _decode(case: KernelCase, gpu: Gpu, pages_each: int, halves: int) -> Prepared:
    from sglang.jit_kernel.dsv4 import CompressorDecodePlan, compress_forward

    batch, ratio, dim = case.size("batch"), case.size("ratio"), case.size("dim")
    lengths = _lengths(batch, ratio, gpu)
    plan = CompressorDecodePlan.generate_legacy(ratio, torch.arange(batch, device=gpu.device), lengths)
    bias = torch.randn(ratio * halves, dim, device=gpu.device)
    state = torch.randn(batch * pages_each, ratio, 2 * halves * dim, device=gpu.device)
    sets = rotate(gpu, case.num_bytes, lambda: torch.randn(batch, 2 * halves * dim, device=gpu.device))
    calls = [
        lambda s=s: compress_forward(state, s, bias, plan, head_dim=dim, compress_ratio=ratio) for s in sets
    ]

    def check() -> float:
        out = calls[0]()
        got, want = [], []
        pages = plan[1].view(torch.int32)
        for row in (lengths % ratio == 0).nonzero()[:, 0].tolist():
            window = state[pages[row, 4 - halves : 4].long()]
            got.append(out[row])
            want.append(pooled(window.flatten(0, 1), bias, dim, halves))
        return relative_error(torch.stack(got), torch.stack(want))

    return Prepared(calls, check, TOLERANCE, case.num_bytes)


def pooled(window: Any, bias: Any, dim: int, halves: int) -> Any:
    """The compressed key of a window `[tokens, 2 * halves * dim]`, in double precision.

    With two halves the first half of the tokens uses the first keys and scores, the second half
    the second; the row holds keys before scores.
    """
    tokens = len(window)
    keys, scores = window.double().view(tokens, 2, halves, dim).unbind(1)
    half = torch.arange(tokens, device=window.device) * halves // tokens
    at = torch.arange(tokens, device=window.device)
    weights = torch.softmax(scores[at, half] + bias[-tokens:].double(), dim=0)
    return (weights * keys[at, half]).sum(0)


def c4_prefill(case: KernelCase, gpu: Gpu) -> Prepared:
    """All tokens of one new sequence, 4:1."""
    return _prefill(case, gpu, pages_each=2, halves=2)


def c128_prefill(case: KernelCase, gpu: Gpu) -> Prepared:
    """All tokens of one new sequence, 128:1."""
    return _prefill(case, gpu, pages_each=1, halves=1)


def _prefill(case: KernelCase, gpu: Gpu, pages_each: int, halves: int) -> Prepared:
    from sglang.jit_kernel.dsv4 import CompressorPrefillPlan

    tokens, ratio, dim = case.size("tokens"), case.size("ratio"), case.size("dim")
    length = torch.tensor([tokens], dtype=torch.int64)
    slot = torch.zeros(1, dtype=torch.int64, device=gpu.device)
    plan = CompressorPrefillPlan.generate_legacy(
        ratio, slot, length, length, tokens, torch.device(gpu.device)
    )
    state = torch.zeros(pages_each, ratio, 2 * halves * dim, device=gpu.device)
    return _whole_sequence(case, gpu, plan, state, halves, online=False)


def c128_online_prefill(case: KernelCase, gpu: Gpu) -> Prepared:
    """All tokens of one new sequence, 128:1, with a running state instead of kept tokens."""
    from sglang.jit_kernel.dsv4 import CompressorPrefillPlan

    tokens, dim = case.size("tokens"), case.size("dim")
    length = torch.tensor([tokens], dtype=torch.int64)
    slot = torch.zeros(1, dtype=torch.int64, device=gpu.device)
    table = torch.zeros(1, tokens, dtype=torch.int32, device=gpu.device)
    plan = CompressorPrefillPlan.generate_online(length, length, slot, table, tokens)
    state = torch.zeros(1, 1, 3 * dim, device=gpu.device)
    return _whole_sequence(case, gpu, plan, state, halves=1, online=True)


def _whole_sequence(case: KernelCase, gpu: Gpu, plan: Any, state: Any, halves: int, online: bool) -> Prepared:
    from sglang.jit_kernel.dsv4 import compress_forward

    tokens, ratio, dim = case.size("tokens"), case.size("ratio"), case.size("dim")
    bias = torch.randn(ratio * halves, dim, device=gpu.device)
    sets = rotate(gpu, case.num_bytes, lambda: torch.randn(tokens, 2 * halves * dim, device=gpu.device))
    calls = [
        lambda s=s: compress_forward(
            state, s, bias, plan, head_dim=dim, compress_ratio=ratio, is_online=online
        )
        for s in sets
    ]

    def check() -> float:
        out = calls[0]()
        ends = plan[1].view(torch.int32)[:, 0]
        full = (ends >= ratio * halves).nonzero()[:, 0]
        rows = full[sample(len(full), 16, gpu.device)].tolist()
        want = [pooled(_window(sets[0], int(ends[row]), ratio * halves), bias, dim, halves) for row in rows]
        return relative_error(out[rows], torch.stack(want))

    return Prepared(calls, check, TOLERANCE, case.num_bytes)


def _window(tokens: Any, end: int, size: int) -> Any:
    return tokens[end - size : end]


def c128_online_decode(case: KernelCase, gpu: Gpu) -> Prepared:
    """A token per sequence enters its running state: maximum, sum of weights, mean."""
    from sglang.jit_kernel.dsv4 import CompressorDecodePlan, compress_forward

    batch, ratio, dim = case.size("batch"), case.size("ratio"), case.size("dim")
    lengths = _lengths(batch, ratio, gpu)
    slots = torch.arange(batch, device=gpu.device)
    table = torch.zeros(batch, 1, dtype=torch.int32, device=gpu.device)
    plan = CompressorDecodePlan.generate_online(lengths, slots, table)
    bias = torch.randn(ratio, dim, device=gpu.device)
    state = torch.rand(batch, 1, 3 * dim, device=gpu.device) + 1
    sets = rotate(gpu, case.num_bytes, lambda: torch.randn(batch, 2 * dim, device=gpu.device))
    calls = [
        lambda s=s: compress_forward(state, s, bias, plan, head_dim=dim, compress_ratio=ratio, is_online=True)
        for s in sets
    ]

    def check() -> float:
        before = state.clone()
        out = calls[0]()
        rows = (lengths % ratio == 0).nonzero()[:, 0]
        top, total, mean = before[rows, 0].double().view(-1, 3, dim).unbind(1)
        key, score = sets[0][rows].double().view(-1, 2, dim).unbind(1)
        score = score + bias[-1].double()
        highest = torch.maximum(top, score)
        old, new = total * torch.exp(top - highest), torch.exp(score - highest)
        return relative_error(out[rows], (mean * old + key * new) / (old + new))

    return Prepared(calls, check, TOLERANCE, case.num_bytes)


def compress_store(case: KernelCase, gpu: Gpu) -> Prepared:
    """RMS norm, rotary embedding, FP8 quantisation and cache write of compressed keys."""
    from sglang.jit_kernel.dsv4 import CompressorDecodePlan, compress_norm_rope_store

    entries, dim = case.size("entries"), case.size("dim")
    ratio = 4
    lengths = FIRST_LENGTH + ratio * torch.arange(entries, device=gpu.device)
    plan = CompressorDecodePlan.generate_legacy(ratio, torch.arange(entries, device=gpu.device), lengths)
    norm = torch.rand(dim, device=gpu.device) + 0.5
    table = rotary_table(gpu, FIRST_LENGTH + ratio * entries)
    slots = torch.randperm(entries, device=gpu.device)
    pages = -(-entries // CACHE_PAGE)
    width = page_bytes(CACHE_PAGE) if dim == 512 else CACHE_PAGE * (dim + 4)
    cache = torch.zeros(pages, width, dtype=torch.uint8, device=gpu.device)
    sets = rotate(gpu, case.num_bytes, lambda: torch.randn(entries, dim, device=gpu.device))
    calls = [
        lambda s=s: compress_norm_rope_store(
            s,
            plan,
            norm_weight=norm,
            norm_eps=EPS,
            freq_cis=table,
            out_loc=slots,
            kvcache=cache,
            page_size=CACHE_PAGE,
        )
        for s in sets
    ]

    def check() -> float:
        calls[0]()
        rows = sample(entries, 64, gpu.device)
        turned = rotate_tail(rms_normed(sets[0][rows], EPS) * norm.double(), table[lengths[rows] - ratio])
        if dim == 512:
            return relative_error(cache_values(cache, CACHE_PAGE, slots[rows]), turned)
        want = turned @ hadamard(dim, gpu.device)
        return relative_error(_index_values(cache, dim, slots[rows]), want)

    return Prepared(calls, check, FP8_TOLERANCE, case.num_bytes)


def _index_values(cache: Any, dim: int, slots: Any) -> Any:
    """Indexer keys at `slots`: FP8 values of a page first, then one FP32 scale each."""
    pages, offsets = slots // CACHE_PAGE, slots % CACHE_PAGE
    values = cache[pages[:, None], offsets[:, None] * dim + torch.arange(dim, device=cache.device)]
    at = CACHE_PAGE * dim + offsets[:, None] * 4 + torch.arange(4, device=cache.device)
    scales = cache[pages[:, None], at].contiguous().view(torch.float32).double()
    return values.contiguous().view(FP8).double() * scales


DRIVERS: Drivers = {
    "c4_decode": c4_decode,
    "c4_prefill": c4_prefill,
    "c128_decode": c128_decode,
    "c128_prefill": c128_prefill,
    "c128_online_decode": c128_online_decode,
    "c128_online_prefill": c128_online_prefill,
    "compress_store": compress_store,
}
