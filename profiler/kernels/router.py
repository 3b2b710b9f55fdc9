"""Expert choice: SGLang's fused gate, and the choice by token id of the first layers."""

from __future__ import annotations

from typing import Any

import torch

from profiler.kernel_case import KernelCase
from profiler.kernel_gpu import Gpu
from profiler.kernel_reference import relative_error
from profiler.kernel_timer import Prepared, rotate
from profiler.kernels.base import Drivers

SCALING = 2.5
TOLERANCE = 1e-3
TABLE_TOKENS = 4096
"""Token ids of the made-up table from ids to experts."""


def _scores(logits: Any) -> Any:
    return torch.nn.functional.softplus(logits.double()).sqrt()


def gate_topk(case: KernelCase, gpu: Gpu) -> Prepared:
    """Square root of softplus, bias, top-k, and normalised weights of the chosen experts."""
    from sglang.jit_kernel.moe_fused_gate import moe_fused_gate

    m, experts, topk = case.size("m"), case.size("experts"), case.size("topk")
    bias = torch.randn(experts, device=gpu.device) * 0.1
    sets = rotate(gpu, case.num_bytes, lambda: torch.randn(m, experts, device=gpu.device))
    calls = [
        lambda s=s: moe_fused_gate(
            s,
            bias,
            topk=topk,
            scoring_func="sqrtsoftplus",
            renormalize=True,
            routed_scaling_factor=SCALING,
            apply_routed_scaling_factor_on_output=True,
        )
        for s in sets
    ]

    def check() -> float:
        weights, chosen = calls[0]()
        scores = _scores(sets[0])
        best = torch.topk(scores + bias.double(), topk, dim=1).indices
        want = torch.zeros_like(scores).scatter(1, best, scores.gather(1, best))
        want = want / want.sum(1, keepdim=True) * SCALING
        return relative_error(torch.zeros_like(scores).scatter(1, chosen.long(), weights.double()), want)

    return Prepared(calls, check, TOLERANCE, case.num_bytes)


def hash_topk(case: KernelCase, gpu: Gpu) -> Prepared:
    """Experts looked up by token id; only their weights come from the router."""
    from sglang.jit_kernel.dsv4 import hash_topk as kernel

    m, experts, topk = case.size("m"), case.size("experts"), case.size("topk")
    table = torch.rand(TABLE_TOKENS, experts, device=gpu.device).argsort(1)[:, :topk].to(torch.int32)
    ids = torch.randint(0, TABLE_TOKENS, (m,), device=gpu.device)
    table = table.contiguous()
    sets = rotate(gpu, case.num_bytes, lambda: torch.randn(m, experts, device=gpu.device))
    calls = [lambda s=s: kernel(s, ids, table, routed_scaling_factor=SCALING) for s in sets]

    def check() -> float:
        weights, chosen = calls[0]()
        if not torch.equal(chosen.long(), table[ids].long()):
            return 1.0
        want = _scores(sets[0]).gather(1, chosen.long())
        return relative_error(weights, want / want.sum(1, keepdim=True))

    return Prepared(calls, check, TOLERANCE, case.num_bytes)


DRIVERS: Drivers = {"gate_topk": gate_topk, "hash_topk": hash_topk}
