"""Collectives and copies between the GPUs of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch

from profiler.kernel_case import KernelCase
from profiler.kernel_gpu import Gpu
from profiler.kernel_timer import Prepared, Timing
from profiler.kernels.base import Drivers, Unsupported
from profiler.kernels.peers import PeerPool, PeersStuck


@cache
def _pool(count: int) -> PeerPool:
    """One process per GPU, started with the first collective and ended with this process."""
    return PeerPool(count)


@contextmanager
def _fresh_after_failure(count: int) -> Iterator[None]:
    """New processes for the next case where these are stuck."""
    try:
        yield
    except PeersStuck as error:
        _pool(count).close()
        _pool.cache_clear()
        raise RuntimeError(str(error)) from None


def collective(case: KernelCase, gpu: Gpu) -> Prepared:
    """A collective in BF16; the time is that of the slowest rank."""
    gpus, size = case.size("gpus"), case.size("bytes")
    if gpu.count < gpus:
        raise Unsupported("one GPU" if gpu.count == 1 else f"{gpu.count} GPUs, the case needs {gpus}")

    def measure() -> Timing:
        with _fresh_after_failure(gpu.count):
            return _pool(gpu.count).time(case.kernel, gpus, size)

    def check() -> float:
        with _fresh_after_failure(gpu.count):
            return _pool(gpu.count).check(case.kernel, gpus, size)

    return Prepared((), check, 0.0, size, measure=measure)


def engine_reduce(case: KernelCase, gpu: Gpu) -> Prepared:
    """SGLang's own all-reduce, replayed in a graph as its decode steps run it."""
    if gpu.count > 1 and find_spec("sgl_kernel") is None:
        raise Unsupported("sgl_kernel is not installed")
    return collective(case, gpu)


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
    "custom_all_reduce": engine_reduce,
    "peer_copy": peer_copy,
}
