"""Cases of sparse attention: FlashMLA, the indexer with its top-k, and the KV compressors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from profiler.kernel_case import KernelCase, Shape
from profiler.kernel_cases_dense import CACHE_ENTRY_BYTES, at_levels
from profiler.kernel_plans import RankPlan
from search_spaces.model import BYTES_BF16, BYTES_FP8, BYTES_FP32, ModelSpec

KERNEL_HEADS = (64, 128)
"""Query heads the FlashMLA kernels exist for; fewer are padded up."""
C4_PAGE, C128_PAGE = 64, 2
"""Entries per page of the compressed caches: 256 tokens."""
INDEX_PAGE = 64
INDEX_ENTRY_BYTES = 132
"""One indexer key: 128 FP8 values and an FP32 scale."""
BATCHES = ((1, 16, 64, 256), (4, 32, 128, 512), (2, 8, 96, 192, 1024))
CONTEXTS = ((8192,), (1024, 65536), (4096, 16384, 32768))
PREFILL_TOKENS = ((1024, 8192), (4096,), (256, 2048))
LONGEST_INDEX_TOKENS = 16 << 20
"""Batch times context up to which the indexer is measured: what a rank's pool holds."""


def padded_heads(heads: int) -> int:
    """Query heads of the kernel that `heads` run in."""
    return next((size for size in KERNEL_HEADS if size >= heads), heads)


def flashmla_cases(model: ModelSpec, plans: Sequence[RankPlan]) -> Iterator[KernelCase]:
    """Decode over an FP8 window and a compressed cache, and sparse prefill."""
    for heads in sorted({padded_heads(model.num_heads // plan.attention_tp) for plan in plans}):
        for page, extras in ((0, (0,)), (C4_PAGE, (model.indexer_topk,)), (C128_PAGE, (64, 512))):
            for step, extra in enumerate(extras):
                for level, batch in at_levels(BATCHES):
                    yield _decode(model, heads, batch, extra, page, level + step)
        for extra in (0, C4_PAGE * 2, model.indexer_topk):
            for level, tokens in at_levels(PREFILL_TOKENS):
                yield _prefill(model, heads, tokens, extra, level)


def _decode(model: ModelSpec, heads: int, batch: int, extra: int, page: int, level: int) -> KernelCase:
    keys = model.sliding_window + extra
    shape: Shape = (("batch", batch), ("heads", heads), ("window", model.sliding_window))
    shape += (("extra", extra), ("extra_page", page))
    query = batch * heads * model.head_dim * 2 * BYTES_BF16
    return KernelCase(
        "flashmla",
        "flashmla_decode",
        shape,
        4.0 * batch * heads * keys * model.head_dim,
        batch * keys * CACHE_ENTRY_BYTES + query,
        level=level,
        role=model.name,
    )


def _prefill(model: ModelSpec, heads: int, tokens: int, extra: int, level: int) -> KernelCase:
    keys = model.sliding_window + extra
    shape = (("tokens", tokens), ("heads", heads), ("keys", keys))
    cache = (tokens + tokens // 4) * model.head_dim * BYTES_BF16
    query = tokens * heads * model.head_dim * 2 * BYTES_BF16
    return KernelCase(
        "flashmla",
        "flashmla_prefill",
        shape,
        4.0 * tokens * heads * keys * model.head_dim,
        cache + query,
        level=level,
        role=model.name,
    )


def indexer_cases(model: ModelSpec) -> Iterator[KernelCase]:
    """Scores of every compressed key, and the query preparation before them."""
    heads, dim = model.indexer_heads, model.indexer_dim
    for context_level, context in at_levels(CONTEXTS):
        for level, batch in at_levels(BATCHES):
            if batch * context > LONGEST_INDEX_TOKENS:
                continue
            entries = context // 4
            shape: Shape = (("batch", batch), ("entries", entries), ("heads", heads), ("dim", dim))
            yield KernelCase(
                "indexer",
                "paged_mqa_logits",
                shape,
                2.0 * batch * entries * heads * dim,
                batch * entries * (INDEX_ENTRY_BYTES + BYTES_FP32),
                "fp8",
                level=max(level, context_level),
                role=model.name,
            )
    for level, tokens in at_levels(((1, 64, 1024, 8192), (16, 256, 4096), (4, 512))):
        moved = tokens * heads * (dim * (BYTES_BF16 + BYTES_FP8) + BYTES_BF16 + BYTES_FP32)
        shape = (("m", tokens), ("heads", heads), ("dim", dim))
        yield KernelCase("indexer", "indexer_q", shape, 0.0, moved, level=level, role=model.name)


def topk_cases(model: ModelSpec) -> Iterator[KernelCase]:
    """Choosing keys by score: SGLang's two kernels and PyTorch's."""
    topk = model.indexer_topk
    rows: list[tuple[int, int, int]] = []
    for context_level, context in at_levels(CONTEXTS):
        for level, batch in at_levels(((1, 64), (16, 256), (4, 1024, 4096))):
            if batch * context <= LONGEST_INDEX_TOKENS:
                rows.append((max(level, context_level), batch, context // 4))
    for level, batch, entries in rows:
        shape = (("rows", batch), ("entries", entries), ("topk", topk))
        moved = batch * (entries * BYTES_FP32 + topk * 4)
        for kernel in ("topk_v1", "topk_v2", "topk_torch"):
            yield KernelCase("topk", kernel, shape, 0.0, moved, level=level, role=model.name)


def compress_cases(model: ModelSpec) -> Iterator[KernelCase]:
    """SGLang's compressors: 4:1 (also of the indexer), 128:1, 128:1 online, and the cache write."""
    kinds = (
        ("c4", 4, model.head_dim),
        ("c4", 4, model.indexer_dim),
        ("c128", 128, model.head_dim),
        ("c128_online", 128, model.head_dim),
    )
    for name, ratio, dim in kinds:
        for level, batch in at_levels(((1, 64), (16, 256), (4, 1024))):
            shape: Shape = (("batch", batch), ("ratio", ratio), ("dim", dim))
            moved = _compress_bytes(name, ratio, dim, batch, closing(batch, ratio))
            yield KernelCase("compress", f"{name}_decode", shape, 0.0, moved, level=level, role=model.name)
        for level, tokens in at_levels(PREFILL_TOKENS):
            shape = (("tokens", tokens), ("ratio", ratio), ("dim", dim))
            moved = tokens * _state(name, dim) * BYTES_FP32 + tokens // ratio * dim * BYTES_FP32
            yield KernelCase("compress", f"{name}_prefill", shape, 0.0, moved, level=level, role=model.name)
    stores = ((model.head_dim, CACHE_ENTRY_BYTES), (model.indexer_dim, INDEX_ENTRY_BYTES))
    for dim, stored in stores:
        for level, entries in at_levels(((1, 64, 2048), (16, 256), (4, 1024))):
            shape = (("entries", entries), ("dim", dim))
            moved = entries * (dim * BYTES_FP32 + stored)
            yield KernelCase("compress", "compress_store", shape, 0.0, moved, level=level, role=model.name)


def closing(batch: int, ratio: int) -> int:
    """Sequences of a decode batch that complete a group of `ratio` tokens, at least one."""
    return -(-batch // ratio)


def _state(name: str, dim: int) -> int:
    """FP32 values per token that enter a compressor: keys and scores, twice for 4:1."""
    return dim * (4 if name == "c4" else 2)


def _compress_bytes(name: str, ratio: int, dim: int, batch: int, closed: int) -> float:
    values = batch * _state(name, dim)
    if name == "c128_online":
        # every row reads and writes a running maximum, sum and mean
        return (values + 6.0 * batch * dim + closed * dim) * BYTES_FP32
    window = 2 * ratio if name == "c4" else ratio
    return (2.0 * values + closed * dim * (2 * window + 1)) * BYTES_FP32
