"""Collectives and copies between the GPUs of this machine."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from profiler.kernel_case import KernelCase
from profiler.kernel_gpu import Gpu
from profiler.kernel_timer import Prepared, Timing
from profiler.kernels.base import Drivers, Unsupported
from profiler.kernels.peers import PeerPool


@cache
def _pool(count: int) -> PeerPool:
    """One process per GPU, started with the first collective and ended with this process."""
    return PeerPool(count)


def collective(case: KernelCase, gpu: Gpu) -> Prepared:
    """An NCCL collective in BF16; the time is that of the slowest rank."""
    gpus, size = case.size("gpus"), case.size("bytes")
    if gpu.count < gpus:
        raise Unsupported("one GPU" if gpu.count == 1 else f"{gpu.count} GPUs, the case needs {gpus}")
    pool = _pool(gpu.count)

    def measure() -> Timing:
        return pool.time(case.kernel, gpus, size)

    def check() -> float:
        return pool.check(case.kernel, gpus, size)

    return Prepared((), check, 0.01, size, measure=measure)


def peer_copy(case: KernelCase, gpu: Gpu) -> Prepared:
    """A copy from the first GPU to the second, launched from the host."""
    if gpu.count < 2:
        raise Unsupported("one GPU")
    size = case.size("bytes")
    source = torch.randint(0, 256, (size,), dtype=torch.uint8, device="cuda:0")
    target = torch.empty(size, dtype=torch.uint8, device="cuda:1")

    def copy() -> Any:
        return target.copy_(source, non_blocking=True)

    def check() -> float:
        copy()
        torch.cuda.synchronize(1)
        return 0.0 if torch.equal(target.cpu(), source.cpu()) else 1.0

    return Prepared([copy], check, 0.0, size, graph=False)


DRIVERS: Drivers = {
    "nccl_all_gather": collective,
    "nccl_all_reduce": collective,
    "nccl_reduce_scatter": collective,
    "peer_copy": peer_copy,
}
