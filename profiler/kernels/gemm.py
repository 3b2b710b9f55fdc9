"""Dense products: DeepGEMM in block FP8, cuBLAS in BF16, and the grouped output projection."""

from __future__ import annotations

from typing import Any

import torch

from profiler.kernel_case import KernelCase
from profiler.kernel_gpu import Gpu
from profiler.kernel_reference import (
    BF16_TOLERANCE,
    block_scales,
    fp8_product,
    normal_bf16,
    random_fp8,
    relative_error,
    row_scales,
    sample,
)
from profiler.kernel_timer import Prepared, rotate
from profiler.kernels.base import Drivers


def deep_gemm() -> Any:
    """The package, with launches that overlap as SGLang sets it."""
    import deep_gemm as package

    package.set_pdl(True)
    return package


def fp8_gemm(case: KernelCase, gpu: Gpu) -> Prepared:
    """`deep_gemm.fp8_gemm_nt` with FP32 block scales."""
    package = deep_gemm()
    m, n, k = case.size("m"), case.size("n"), case.size("k")
    sets = rotate(
        gpu,
        case.num_bytes,
        lambda: (
            (random_fp8(gpu, m, k), row_scales(gpu, m, k)),
            (random_fp8(gpu, n, k), block_scales(gpu, n, k)),
            torch.empty(m, n, device=gpu.device, dtype=torch.bfloat16),
        ),
    )
    calls = [lambda s=s: package.fp8_gemm_nt(*s) for s in sets]

    def check() -> float:
        calls[0]()
        left, right, out = sets[0]
        rows, columns = sample(m, 64, gpu.device), sample(n, 256, gpu.device)
        return relative_error(out[rows][:, columns], fp8_product(*left, *right, rows, columns))

    return Prepared(calls, check, BF16_TOLERANCE, case.num_bytes)


def bf16_gemm(case: KernelCase, gpu: Gpu) -> Prepared:
    """`torch.mm`, as SGLang calls it for compressors, router and head on Hopper."""
    m, n, k = case.size("m"), case.size("n"), case.size("k")
    wide = {"out_dtype": torch.float32} if case.size("out_bytes") == 4 else {}
    sets = rotate(gpu, case.num_bytes, lambda: (normal_bf16(gpu, m, k), normal_bf16(gpu, n, k)))
    calls = [lambda s=s: torch.mm(s[0], s[1].t(), **wide) for s in sets]

    def check() -> float:
        x, weights = sets[0]
        rows, columns = sample(m, 64, gpu.device), sample(n, 256, gpu.device)
        want = x[rows].double() @ weights[columns].double().T
        return relative_error(calls[0]()[rows][:, columns], want)

    return Prepared(calls, check, BF16_TOLERANCE, case.num_bytes)


def wo_a_einsum(case: KernelCase, gpu: Gpu) -> Prepared:
    """The grouped output down-projection, which SGLang keeps in BF16 below SM 100."""
    m, groups, n, k = (case.size(name) for name in ("m", "groups", "n", "k"))
    sets = rotate(
        gpu, case.num_bytes, lambda: (normal_bf16(gpu, m, groups, k), normal_bf16(gpu, groups, n, k))
    )
    calls = [lambda s=s: torch.einsum("tgd,grd->tgr", *s) for s in sets]

    def check() -> float:
        x, weights = sets[0]
        rows, columns = sample(m, 32, gpu.device), sample(n, 64, gpu.device)
        want = torch.einsum("tgd,grd->tgr", x[rows].double(), weights[:, columns].double())
        return relative_error(calls[0]()[rows][:, :, columns], want)

    return Prepared(calls, check, BF16_TOLERANCE, case.num_bytes)


DRIVERS: Drivers = {"fp8_gemm": fp8_gemm, "bf16_gemm": bf16_gemm, "wo_a_einsum": wo_a_einsum}
