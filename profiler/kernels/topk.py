"""Choosing the best-scored keys: SGLang's fused kernels, which also map them to slots, and PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from profiler.kernel_case import KernelCase
from profiler.kernel_cases_attention import INDEX_PAGE
from profiler.kernel_gpu import Gpu
from profiler.kernel_reference import sample
from profiler.kernel_timer import Prepared, rotate
from profiler.kernels.base import Drivers

MISSED = 0.001
"""Share of wrongly chosen keys that counts as right: scores that are equal in FP32."""


def topk_v1(case: KernelCase, gpu: Gpu) -> Prepared:
    """The kernel of prefill."""
    from sglang.jit_kernel.dsv4 import topk_transform_512

    return _fused(case, gpu, lambda lengths: (topk_transform_512, ()))


def topk_v2(case: KernelCase, gpu: Gpu) -> Prepared:
    """The kernel of decode; its plan is made once per step, not per layer."""
    from sglang.jit_kernel.dsv4 import plan_topk_v2, topk_transform_512_v2

    return _fused(case, gpu, lambda lengths: (topk_transform_512_v2, (plan_topk_v2(lengths),)))


def _fused(
    case: KernelCase, gpu: Gpu, kernel: Callable[[Any], tuple[Callable[..., None], tuple[Any, ...]]]
) -> Prepared:
    rows, entries, topk = case.size("rows"), case.size("entries"), case.size("topk")
    lengths = torch.full((rows,), entries, dtype=torch.int32, device=gpu.device)
    pages = -(-entries // INDEX_PAGE)
    # the identity as page table makes a slot the position it came from
    table = torch.arange(pages, dtype=torch.int32, device=gpu.device).repeat(rows, 1)
    function, plan = kernel(lengths)
    sets = rotate(
        gpu,
        case.num_bytes,
        lambda: (
            torch.randn(rows, entries, device=gpu.device),
            torch.empty(rows, topk, dtype=torch.int32, device=gpu.device),
        ),
    )
    calls = [lambda s=s: function(s[0], lengths, table, s[1], INDEX_PAGE, *plan) for s in sets]

    def check() -> float:
        calls[0]()
        scores, chosen = sets[0]
        return _missed(scores, chosen, min(topk, entries), gpu)

    return Prepared(calls, check, MISSED, case.num_bytes)


def topk_torch(case: KernelCase, gpu: Gpu) -> Prepared:
    """`torch.topk`, without the map to slots."""
    rows, entries, topk = case.size("rows"), case.size("entries"), case.size("topk")
    count = min(topk, entries)
    sets = rotate(gpu, case.num_bytes, lambda: torch.randn(rows, entries, device=gpu.device))
    calls = [lambda s=s: torch.topk(s, count, dim=1, sorted=False).indices for s in sets]
    return Prepared(calls, lambda: _missed(sets[0], calls[0](), count, gpu), MISSED, case.num_bytes)


def _missed(scores: Any, chosen: Any, count: int, gpu: Gpu) -> float:
    """Share of the best `count` positions that `chosen` lacks, over some rows."""
    missed = 0
    rows = sample(len(scores), 16, gpu.device).tolist()
    for row in rows:
        best = torch.sort(scores[row].double(), descending=True).indices[:count]
        missed += count - int(torch.isin(best, chosen[row].long()).sum())
    return missed / (count * len(rows))


DRIVERS: Drivers = {"topk_v1": topk_v1, "topk_v2": topk_v2, "topk_torch": topk_torch}
