"""What the device gives at most: HBM bandwidth and square matrix products."""

from __future__ import annotations

import torch

from profiler.kernel_case import KernelCase
from profiler.kernel_gpu import Gpu
from profiler.kernel_reference import relative_error, sample
from profiler.kernel_timer import Prepared
from profiler.kernels.base import Drivers
from profiler.kernels.gemm import fp8_gemm
from search_spaces.units import BYTES_PER_GIB


def hbm_copy(case: KernelCase, gpu: Gpu) -> Prepared:
    """Device-to-device copy, outside a graph: as a graph node it runs at 60 % of its rate."""
    count = int(case.size("gib") * BYTES_PER_GIB // 4)
    source = torch.randn(count, device=gpu.device)
    target = torch.empty_like(source)

    def check() -> float:
        target.copy_(source)
        return 0.0 if torch.equal(target, source) else 1.0

    return Prepared([lambda: target.copy_(source)], check, 0.0, case.num_bytes, graph=False)


def hbm_read(case: KernelCase, gpu: Gpu) -> Prepared:
    """Sum of a large array."""
    count = int(case.size("gib") * BYTES_PER_GIB // 4)
    values = torch.rand(count, device=gpu.device)

    def check() -> float:
        parts = torch.stack([part.double().sum() for part in values.split(1 << 26)])
        return relative_error(values.sum(), parts.sum())

    return Prepared([lambda: values.sum()], check, 1e-3, case.num_bytes)


def bf16_square(case: KernelCase, gpu: Gpu) -> Prepared:
    """A square BF16 product."""
    side = case.size("m")
    a, b = (torch.randn(side, side, device=gpu.device, dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)

    def check() -> float:
        torch.mm(a, b, out=out)
        rows, columns = sample(side, 64, gpu.device), sample(side, 256, gpu.device)
        return relative_error(out[rows][:, columns], a[rows].double() @ b[:, columns].double())

    return Prepared([lambda: torch.mm(a, b, out=out)], check, 0.01, case.num_bytes)


DRIVERS: Drivers = {
    "hbm_copy": hbm_copy,
    "hbm_read": hbm_read,
    "bf16_square": bf16_square,
    "fp8_square": fp8_gemm,
}
