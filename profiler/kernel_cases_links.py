"""Cases between GPUs of one node: collectives, copies, and expert dispatch."""

from __future__ import annotations

from collections.abc import Iterator

from profiler.kernel_case import KernelCase
from profiler.kernel_cases_dense import at_levels
from search_spaces.model import BYTES_BF16, BYTES_FP8, ModelSpec

GPUS = ((2, 8), (4,))
BUFFER_BYTES = ((1 << 16, 1 << 20, 1 << 24), (1 << 12, 1 << 18, 1 << 22, 1 << 26), (1 << 14, 1 << 28))
COLLECTIVES = ("nccl_all_gather", "nccl_all_reduce", "nccl_reduce_scatter")
ENGINE_REDUCE = "custom_all_reduce"
ENGINE_BYTES = ((1 << 16, 1 << 20), (1 << 12, 1 << 18, 1 << 22), (1 << 14, 1 << 23))
"""SGLang's own all-reduce takes up to 8 MiB; larger messages go through NCCL
(SGLang 0.5.15, custom_all_reduce.py, _MAX_CAR_SIZE)."""


def link_share(op: str, num_gpus: int) -> float:
    """Bytes that must enter a GPU over bytes of the whole buffer.

    Gathering or scattering n parts moves (n - 1) / n of the buffer; an all-reduce does both
    (nccl-tests, doc/PERFORMANCE.md, bus bandwidth).
    """
    part = (num_gpus - 1) / num_gpus
    return 2 * part if op.endswith("all_reduce") else part


def link_cases() -> Iterator[KernelCase]:
    """Collectives over 2, 4 and 8 GPUs, and a copy from one GPU to another."""
    for size_level, size in at_levels(BUFFER_BYTES):
        for level, gpus in at_levels(GPUS):
            for op in COLLECTIVES:
                yield _collective(op, gpus, size, max(level, size_level))
        yield KernelCase(
            "links", "peer_copy", (("bytes", size),), 0.0, float(size), link_bytes=size, level=size_level
        )
    for size_level, size in at_levels(ENGINE_BYTES):
        for level, gpus in at_levels(GPUS):
            yield _collective(ENGINE_REDUCE, gpus, size, max(level, size_level))


def _collective(op: str, gpus: int, size: int, level: int) -> KernelCase:
    shape = (("gpus", gpus), ("bytes", size))
    return KernelCase(
        "links", op, shape, 0.0, 2.0 * size, link_bytes=size * link_share(op, gpus), level=level
    )


def deepep_cases(model: ModelSpec) -> Iterator[KernelCase]:
    """DeepEP dispatch and combine of one decode batch and one prefill chunk per rank."""
    for kernel, tokens in (("deepep_low_latency", 64), ("deepep_normal", 4096)):
        sent = tokens * model.experts_per_token * model.hidden
        shape = (("hidden", model.hidden), ("topk", model.experts_per_token), ("tokens", tokens))
        moved = sent * (BYTES_FP8 + BYTES_BF16)
        yield KernelCase("deepep", kernel, shape, 0.0, moved, link_bytes=moved, role=model.name)
