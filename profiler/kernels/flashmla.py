"""FlashMLA as SGLang runs DeepSeek-V4: sparse decode over FP8 caches and sparse prefill."""

from __future__ import annotations

from typing import Any

import torch

from profiler.kernel_case import KernelCase
from profiler.kernel_gpu import Gpu
from profiler.kernel_reference import (
    ATTENTION_TOLERANCE,
    FP8,
    attend,
    cache_values,
    normal_bf16,
    page_bytes,
    random_cache,
    relative_error,
    sample,
)
from profiler.kernel_timer import Prepared
from profiler.kernels.base import Drivers

DIM = 512
"""Width of a key, which is also the value."""
SCALE = DIM**-0.5
POOL_ENTRIES = 1 << 18
"""Entries of each cache: 153 MB, several times the L2."""
WINDOW_PAGE = 256
SETS = 4


def _as_cache(pool: Any, page: int) -> Any:
    """Bytes of a cache as the kernel takes them: `[pages, page, 1, 584]` with the page's stride."""
    return pool.view(FP8)[:, : page * 584].view(len(pool), page, 1, 584)


def flashmla_decode(case: KernelCase, gpu: Gpu) -> Prepared:
    """One query per sequence over a window cache and, where `extra` is set, a compressed cache."""
    from sgl_kernel.flash_mla import FlashMLASchedMeta, flash_mla_with_kvcache

    batch, heads, window, extra = (case.size(name) for name in ("batch", "heads", "window", "extra"))
    page = case.size("extra_page")
    near = random_cache(gpu, POOL_ENTRIES, WINDOW_PAGE)
    far = random_cache(gpu, POOL_ENTRIES, page) if extra else None
    sink = torch.randn(heads, device=gpu.device)

    def make() -> dict[str, Any]:
        first = torch.randint(0, POOL_ENTRIES - window, (batch, 1, 1), device=gpu.device)
        found: dict[str, Any] = {
            "q": normal_bf16(gpu, batch, 1, heads, DIM),
            "indices": (first + torch.arange(window, device=gpu.device)).to(torch.int32),
            "topk_length": torch.full((batch,), window, dtype=torch.int32, device=gpu.device),
            "tile_scheduler_metadata": FlashMLASchedMeta(),
        }
        if far is not None:
            chosen = torch.randint(0, POOL_ENTRIES, (batch, 1, extra), device=gpu.device, dtype=torch.int32)
            found["extra_k_cache"] = _as_cache(far, page)
            found["extra_indices_in_kvcache"] = chosen
            found["extra_topk_length"] = torch.full((batch,), extra, dtype=torch.int32, device=gpu.device)
        return found

    sets = [make() for _ in range(SETS)]
    common = {
        "k_cache": _as_cache(near, WINDOW_PAGE),
        "block_table": None,
        "cache_seqlens": None,
        "head_dim_v": DIM,
        "softmax_scale": SCALE,
        "is_fp8_kvcache": True,
        "attn_sink": sink,
    }
    calls = [lambda s=s: flash_mla_with_kvcache(**common, **s)[0] for s in sets]

    def check() -> float:
        out, first = calls[0](), sets[0]
        got, want = [], []
        for row in sample(batch, 4, gpu.device).tolist():
            keys = [cache_values(near, WINDOW_PAGE, first["indices"][row, 0].long())]
            if far is not None:
                keys.append(cache_values(far, page, first["extra_indices_in_kvcache"][row, 0].long()))
            got.append(out[row, 0])
            want.append(attend(first["q"][row, 0], torch.cat(keys), SCALE, sink))
        return relative_error(torch.stack(got), torch.stack(want))

    moved = batch * (window + extra) * 584.0
    assert near.shape[1] == page_bytes(WINDOW_PAGE)
    return Prepared(calls, check, ATTENTION_TOLERANCE, moved)


def flashmla_prefill(case: KernelCase, gpu: Gpu) -> Prepared:
    """Many queries over BF16 keys: the sequence itself and a quarter as many compressed entries."""
    from sgl_kernel.flash_mla import flash_mla_sparse_fwd

    tokens, heads, count = case.size("tokens"), case.size("heads"), case.size("keys")
    query = normal_bf16(gpu, tokens, heads, DIM)
    keys = normal_bf16(gpu, tokens + tokens // 4, 1, DIM)
    indices = torch.randint(0, len(keys), (tokens, 1, count), device=gpu.device, dtype=torch.int32)
    lengths = torch.full((tokens,), count, dtype=torch.int32, device=gpu.device)
    sink = torch.randn(heads, device=gpu.device)

    def call() -> Any:
        return flash_mla_sparse_fwd(
            q=query, kv=keys, indices=indices, sm_scale=SCALE, d_v=DIM, attn_sink=sink, topk_length=lengths
        )[0]

    def check() -> float:
        out = call()
        rows = sample(tokens, 4, gpu.device)
        want = [
            attend(query[row], keys[indices[row, 0].long(), 0].double(), SCALE, sink) for row in rows.tolist()
        ]
        return relative_error(out[rows], torch.stack(want))

    return Prepared([call], check, ATTENTION_TOLERANCE, case.num_bytes)


DRIVERS: Drivers = {"flashmla_decode": flashmla_decode, "flashmla_prefill": flashmla_prefill}
