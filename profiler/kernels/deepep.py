"""DeepEP's dispatch and combine."""

from __future__ import annotations

from importlib.util import find_spec

from profiler.kernel_case import KernelCase
from profiler.kernel_gpu import Gpu
from profiler.kernel_timer import Prepared
from profiler.kernels.base import Drivers, Unsupported


def deepep(case: KernelCase, gpu: Gpu) -> Prepared:
    """Always raises `Unsupported`: says what the machine lacks, or that imported tables hold it."""
    if gpu.count < 2:
        raise Unsupported("one GPU")
    if find_spec("deep_ep") is None:
        raise Unsupported("deep_ep is not installed")
    raise Unsupported("DeepEP is not driven here; only imported tables hold it")


DRIVERS: Drivers = {"deepep_low_latency": deepep, "deepep_normal": deepep}
