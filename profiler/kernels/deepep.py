"""DeepEP's dispatch and combine."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from profiler.kernel_case import KernelCase
from profiler.kernel_gpu import Gpu
from profiler.kernel_timer import Prepared
from profiler.kernels.base import Drivers, Unsupported

WHEELS = "the wheels of sgl-deep-ep 0.1.0 to 0.1.2 are built for torch 2.13 and 2.14"
"""Their METADATA on PyPI; deep-ep 1.0.0 there has no wheel."""


def deepep(case: KernelCase, gpu: Gpu) -> Prepared:
    """Always raises `Unsupported`: says what the machine lacks, or that imported tables hold it."""
    if gpu.count < 2:
        raise Unsupported("one GPU")
    if find_spec("deep_ep") is None:
        raise Unsupported(f"deep_ep is not installed; {WHEELS}, and this is torch {torch.__version__}")
    raise Unsupported("DeepEP is not driven here; only imported tables hold it")


DRIVERS: Drivers = {"deepep_low_latency": deepep, "deepep_normal": deepep}
