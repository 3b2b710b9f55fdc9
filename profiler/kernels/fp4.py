"""Kernels with FP4 weights: they need Blackwell's tensor cores."""

from __future__ import annotations

from profiler.kernel_case import KernelCase
from profiler.kernel_gpu import Gpu
from profiler.kernel_timer import Prepared
from profiler.kernels.base import Drivers, Unsupported

FIRST_SM = 100


def megamoe(case: KernelCase, gpu: Gpu) -> Prepared:
    """Always raises `Unsupported`: below SM 100 the kernel does not exist."""
    if gpu.sm < FIRST_SM:
        raise Unsupported(f"FP4 tensor cores need SM {FIRST_SM}; this GPU is SM {gpu.sm}")
    raise Unsupported("the fused kernel spans ranks over symmetric memory; only imported tables hold it")


DRIVERS: Drivers = {"megamoe_w4a8": megamoe, "megamoe_w4a4": megamoe}
