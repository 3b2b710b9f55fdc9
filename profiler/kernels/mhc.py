"""Hyper-connections: SGLang's TileLang kernels, DeepGEMM's product inside, Triton's head mix."""

from __future__ import annotations

from typing import Any

import torch

from profiler.kernel_case import KernelCase
from profiler.kernel_gpu import Gpu
from profiler.kernel_reference import BF16_TOLERANCE, normal_bf16, relative_error, rms_normed, sample
from profiler.kernel_timer import Prepared, rotate
from profiler.kernels.base import Drivers
from profiler.kernels.gemm import deep_gemm

STREAMS = 4
MIXES = STREAMS * STREAMS + 2 * STREAMS
EPS = 1e-6
POST_FACTOR = 2.0
SINKHORN_STEPS = 20
TOLERANCE = 0.02
"""The mixes come from a TF32 product, and the output is stored as BF16."""


def _module() -> Any:
    """SGLang's module, with the test for a layout that needs a running server answered."""
    from sglang.srt.layers import mhc

    mhc.is_dsa_prefill_cp_round_robin_split = lambda: False
    return mhc


def _weights(gpu: Gpu, hidden: int) -> tuple[Any, Any, Any]:
    mix = torch.randn(MIXES, STREAMS * hidden, device=gpu.device) * 0.01
    return mix, torch.rand(3, device=gpu.device), torch.rand(MIXES, device=gpu.device)


def _pre_call(hidden: int, gpu: Gpu) -> tuple[Any, tuple[Any, Any, Any], Any]:
    module, weights = _module(), _weights(gpu, hidden)
    norm = torch.rand(hidden, device=gpu.device).bfloat16() + 0.5

    def run(streams: Any) -> Any:
        return module.mhc_pre(
            streams, *weights, EPS, EPS, EPS, POST_FACTOR, SINKHORN_STEPS, norm_weight=norm, norm_eps=EPS
        )

    return run, weights, norm


def mhc_pre(case: KernelCase, gpu: Gpu) -> Prepared:
    """Mixes, their Sinkhorn normalisation, the layer's input and its RMS norm."""
    m, hidden = case.size("m"), case.size("hidden")
    run, weights, norm = _pre_call(hidden, gpu)
    sets = rotate(gpu, case.num_bytes, lambda: normal_bf16(gpu, m, STREAMS, hidden))
    calls = [lambda s=s: run(s) for s in sets]

    def check() -> float:
        rows = sample(m, 64, gpu.device)
        post, comb, x = calls[0]()
        want_post, want_comb, mixed = reference_pre(sets[0][rows], *weights)
        return max(
            relative_error(post[rows].reshape(want_post.shape), want_post),
            relative_error(comb[rows].reshape(want_comb.shape), want_comb),
            relative_error(x[rows], rms_normed(mixed, EPS) * norm.double()),
        )

    return Prepared(calls, check, TOLERANCE, case.num_bytes)


def reference_pre(streams: Any, mix: Any, scale: Any, base: Any) -> tuple[Any, Any, Any]:
    """Post weights, stream mixing matrix and layer input of one site, in double precision.

    Source: SGLang 0.5.15, sglang/srt/layers/mhc.py, mhc_pre_big_fuse_tilelang.
    """
    wide = streams.double()
    flat = wide.flatten(1)
    mixes = flat @ mix.double().T * torch.rsqrt(flat.square().mean(-1, keepdim=True) + EPS)
    scale, base = scale.double(), base.double()
    pre = torch.sigmoid(mixes[:, :STREAMS] * scale[0] + base[:STREAMS]) + EPS
    post = torch.sigmoid(mixes[:, STREAMS : 2 * STREAMS] * scale[1] + base[STREAMS : 2 * STREAMS])
    logits = (mixes[:, 2 * STREAMS :] * scale[2] + base[2 * STREAMS :]).view(-1, STREAMS, STREAMS)
    comb = torch.softmax(logits, dim=-1) + EPS
    comb = comb / (comb.sum(1, keepdim=True) + EPS)
    for _ in range(SINKHORN_STEPS - 1):
        comb = comb / (comb.sum(2, keepdim=True) + EPS)
        comb = comb / (comb.sum(1, keepdim=True) + EPS)
    return post * POST_FACTOR, comb, (pre[..., None] * wide).sum(1)


def mhc_post(case: KernelCase, gpu: Gpu) -> Prepared:
    """The layer's output spread over the mixed streams."""
    module = _module()
    m, hidden = case.size("m"), case.size("hidden")
    post = torch.rand(m, STREAMS, 1, device=gpu.device)
    comb = torch.rand(m, STREAMS, STREAMS, device=gpu.device)
    sets = rotate(
        gpu, case.num_bytes, lambda: (normal_bf16(gpu, m, hidden), normal_bf16(gpu, m, STREAMS, hidden))
    )
    calls = [lambda s=s: module.mhc_post(*s, post, comb) for s in sets]

    def check() -> float:
        rows = sample(m, 64, gpu.device)
        x, streams = (part[rows].double() for part in sets[0])
        want = post[rows].double() * x[:, None] + comb[rows].double().transpose(1, 2) @ streams
        return relative_error(calls[0]()[rows], want)

    return Prepared(calls, check, BF16_TOLERANCE, case.num_bytes)


def mhc_prenorm_gemm(case: KernelCase, gpu: Gpu) -> Prepared:
    """DeepGEMM's TF32 product with square sums, split along the depth as SGLang splits it."""
    package, module = deep_gemm(), _module()
    m, depth = case.size("m"), STREAMS * case.size("hidden")
    splits = module._compute_num_split_for_mhc_pre(m, depth)
    mix = torch.randn(MIXES, depth, device=gpu.device) * 0.01
    sets = rotate(
        gpu,
        case.num_bytes,
        lambda: (
            normal_bf16(gpu, m, depth),
            torch.empty(splits, m, MIXES, device=gpu.device),
            torch.empty(splits, m, device=gpu.device),
        ),
    )
    calls = [lambda s=s: package.tf32_hc_prenorm_gemm(s[0], mix, s[1], s[2], splits) for s in sets]

    def check() -> float:
        calls[0]()
        x, products, squares = sets[0]
        rows = sample(m, 64, gpu.device)
        wide = x[rows].double()
        return max(
            relative_error(products.sum(0)[rows], wide @ mix.double().T),
            relative_error(squares.sum(0)[rows], wide.square().sum(-1)),
        )

    return Prepared(calls, check, BF16_TOLERANCE, case.num_bytes)


def mhc_head(case: KernelCase, gpu: Gpu) -> Prepared:
    """The mix of the streams before the LM head."""
    from sglang.srt.layers.mhc_head import fused_hc_head

    m, hidden = case.size("m"), case.size("hidden")
    mix = torch.randn(STREAMS, STREAMS * hidden, device=gpu.device) * 0.01
    scale, base = torch.rand(1, device=gpu.device), torch.rand(STREAMS, device=gpu.device)
    sets = rotate(gpu, case.num_bytes, lambda: normal_bf16(gpu, m, STREAMS, hidden))
    calls = [lambda s=s: fused_hc_head(s, mix, scale, base, norm_eps=EPS, hc_eps=EPS) for s in sets]

    def check() -> float:
        rows = sample(m, 64, gpu.device)
        wide = sets[0][rows].double()
        flat = wide.flatten(1)
        mixes = flat @ mix.double().T * torch.rsqrt(flat.square().mean(-1, keepdim=True) + EPS)
        pre = torch.sigmoid(mixes * scale.double() + base.double()) + EPS
        return relative_error(calls[0]()[rows], (pre[..., None] * wide).sum(1))

    return Prepared(calls, check, BF16_TOLERANCE, case.num_bytes)


DRIVERS: Drivers = {
    "mhc_pre": mhc_pre,
    "mhc_post": mhc_post,
    "mhc_prenorm_gemm": mhc_prenorm_gemm,
    "mhc_head": mhc_head,
}
