"""The lightning indexer: DeepGEMM's scores over the paged key cache, and SGLang's query kernel."""

from __future__ import annotations

from typing import Any

import torch

from profiler.kernel_case import KernelCase
from profiler.kernel_cases_attention import INDEX_ENTRY_BYTES, INDEX_PAGE
from profiler.kernel_gpu import Gpu
from profiler.kernel_reference import (
    BF16_TOLERANCE,
    FP8,
    FP8_TOLERANCE,
    hadamard,
    normal_bf16,
    normal_fp8,
    relative_error,
    rotary_table,
    rotate_tail,
    sample,
)
from profiler.kernel_timer import Prepared, rotate
from profiler.kernels.base import Drivers
from profiler.kernels.gemm import deep_gemm

POSITIONS = 8192


def paged_mqa_logits(case: KernelCase, gpu: Gpu) -> Prepared:
    """Scores of one query per sequence against every entry of its pages."""
    package = deep_gemm()
    batch, entries, heads, dim = (case.size(name) for name in ("batch", "entries", "heads", "dim"))
    per_row = entries // INDEX_PAGE
    pages, split = batch * per_row, INDEX_PAGE * dim
    lengths = torch.full((batch, 1), entries, dtype=torch.int32, device=gpu.device)
    plan = package.get_paged_mqa_logits_metadata(lengths, INDEX_PAGE, package.get_num_sms())

    def make() -> tuple[Any, ...]:
        pool = torch.empty(pages, INDEX_PAGE * INDEX_ENTRY_BYTES, dtype=torch.uint8, device=gpu.device)
        pool[:, :split] = normal_fp8(gpu, pages, split).view(torch.uint8)
        scales = torch.rand(pages, INDEX_PAGE, device=gpu.device) + 0.5
        pool[:, split:] = scales.view(torch.uint8)
        order = torch.randperm(pages, device=gpu.device).to(torch.int32).view(batch, per_row)
        query = normal_fp8(gpu, batch, 1, heads, dim)
        return query, pool, torch.rand(batch, heads, device=gpu.device), order

    sets = rotate(gpu, case.num_bytes, make)
    calls = [
        lambda s=s: package.fp8_paged_mqa_logits(
            s[0],
            s[1].view(pages, INDEX_PAGE, 1, INDEX_ENTRY_BYTES),
            s[2],
            lengths,
            s[3],
            plan,
            entries,
            False,
        )
        for s in sets
    ]

    def check() -> float:
        query, pool, weights, order = sets[0]
        rows = sample(batch, 4, gpu.device)
        want = []
        for row in rows.tolist():
            own = pool[order[row].long()]
            keys = own[:, :split].contiguous().view(FP8).double().view(entries, dim)
            scales = own[:, split:].contiguous().view(torch.float32).double().view(entries)
            scores = torch.relu(keys @ query[row, 0].double().T) @ weights[row].double()
            want.append(scores * scales)
        return relative_error(calls[0]()[rows][:, :entries], torch.stack(want))

    return Prepared(calls, check, BF16_TOLERANCE, case.num_bytes)


def indexer_q(case: KernelCase, gpu: Gpu) -> Prepared:
    """Rotary embedding, Hadamard rotation and FP8 quantisation of indexer queries."""
    from sglang.jit_kernel.dsv4 import fused_q_indexer_rope_hadamard_quant

    m, heads, dim = case.size("m"), case.size("heads"), case.size("dim")
    table = rotary_table(gpu, POSITIONS)
    positions = torch.arange(m, device=gpu.device) % POSITIONS
    factor = dim**-0.5
    sets = rotate(gpu, case.num_bytes, lambda: (normal_bf16(gpu, m, heads, dim), normal_bf16(gpu, m, heads)))
    calls = [lambda s=s: fused_q_indexer_rope_hadamard_quant(*s, factor, table, positions) for s in sets]

    def check() -> float:
        query, weights = sets[0]
        codes, scaled = calls[0]()
        rows = sample(m, 64, gpu.device)
        scales = scaled[rows].double() / (weights[rows].double()[..., None] * factor)
        turned = rotate_tail(query[rows], table[positions[rows]][:, None])
        return relative_error(codes[rows].double() * scales, turned @ hadamard(dim, gpu.device))

    return Prepared(calls, check, FP8_TOLERANCE, case.num_bytes)


DRIVERS: Drivers = {"paged_mqa_logits": paged_mqa_logits, "indexer_q": indexer_q}
