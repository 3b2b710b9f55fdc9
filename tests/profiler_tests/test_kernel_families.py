"""Every driver against its reference: on a CPU with stand-ins for the kernels, on a GPU with the kernels."""

from __future__ import annotations

import importlib

import pytest

from profiler.kernel_bench import GpuBench, platform_of
from profiler.kernel_case import KernelCase
from profiler.kernel_cases_dense import bf16_gemm, fp8_gemm
from profiler.kernel_cases_moe import grouped
from profiler.kernel_gpu import Gpu, find_gpu

torch = pytest.importorskip("torch", reason="drivers need torch: pip install 'servecast[gpu]'")


def case(family: str, kernel: str, **shape: int) -> KernelCase:
    return KernelCase(family, kernel, tuple(shape.items()), 0.0, 1e9)


SMALL = [
    fp8_gemm(8, 256, 256),
    bf16_gemm(8, 64, 256, 2),
    case("gemm", "wo_a_einsum", m=5, groups=2, n=64, k=128),
    grouped("masked", 4, 40, 256, 256),
    grouped("contiguous", 4, 40, 256, 256),
    case("moe", "silu_mul_quant_masked", experts=4, rows=16, inner=512),
    case("flashmla", "flashmla_decode", batch=2, heads=64, window=128, extra=0, extra_page=0),
    case("flashmla", "flashmla_decode", batch=2, heads=64, window=128, extra=64, extra_page=2),
    case("flashmla", "flashmla_decode", batch=2, heads=128, window=128, extra=64, extra_page=64),
    case("flashmla", "flashmla_prefill", tokens=256, heads=64, keys=128),
    case("indexer", "paged_mqa_logits", batch=2, entries=256, heads=64, dim=128),
    case("indexer", "indexer_q", m=6, heads=64, dim=128),
    case("topk", "topk_v1", rows=4, entries=2048, topk=512),
    case("topk", "topk_v2", rows=4, entries=2048, topk=1024),
    case("topk", "topk_v2", rows=4, entries=256, topk=512),
    case("topk", "topk_torch", rows=4, entries=256, topk=512),
    case("mhc", "mhc_pre", m=6, hidden=4096),
    case("mhc", "mhc_post", m=6, hidden=4096),
    case("mhc", "mhc_prenorm_gemm", m=6, hidden=4096),
    case("mhc", "mhc_head", m=6, hidden=4096),
    case("compress", "c4_decode", batch=9, ratio=4, dim=512),
    case("compress", "c4_decode", batch=1, ratio=4, dim=128),
    case("compress", "c128_decode", batch=3, ratio=128, dim=512),
    case("compress", "c128_online_decode", batch=3, ratio=128, dim=512),
    case("compress", "c4_prefill", tokens=256, ratio=4, dim=512),
    case("compress", "c128_prefill", tokens=256, ratio=128, dim=512),
    case("compress", "c128_online_prefill", tokens=256, ratio=128, dim=512),
    case("compress", "compress_store", entries=70, dim=512),
    case("compress", "compress_store", entries=70, dim=128),
    case("elementwise", "act_quant_fp8", m=6, k=1024),
    case("elementwise", "rms_norm", m=6, k=1024),
    case("elementwise", "q_norm_rope", m=6, heads=8, dim=512),
    case("elementwise", "rope_inverse", m=6, heads=8, dim=512),
    case("elementwise", "k_norm_rope_store", m=300, dim=512),
    case("router", "gate_topk", m=6, experts=256, topk=6),
    case("router", "hash_topk", m=6, experts=256, topk=6),
]


def prepare(small: KernelCase, gpu: Gpu):
    return importlib.import_module(f"profiler.kernels.{small.family}").DRIVERS[small.kernel](small, gpu)


@pytest.fixture
def cpu(monkeypatch):
    from tests.profiler_tests import kernel_fakes

    flashmla = importlib.import_module("profiler.kernels.flashmla")
    monkeypatch.setattr(flashmla, "POOL_ENTRIES", 1 << 12)
    kernel_fakes.install(monkeypatch)
    torch.manual_seed(0)
    return Gpu("CPU", 90, 1, 4, 1 << 20, 1 << 30, "none", "none", device="cpu")


@pytest.mark.parametrize("small", SMALL, ids=lambda c: c.key)
def test_reference_agrees_with_an_independent_implementation(small, cpu):
    prepared = prepare(small, cpu)
    assert prepared.check() <= prepared.tolerance


@pytest.mark.parametrize("small", SMALL, ids=lambda c: c.key)
def test_reference_tells_wrong_output(small, cpu, monkeypatch):
    """An output that is a tenth off, or a choice of other keys, must not pass."""
    reference = importlib.import_module("profiler.kernel_reference")
    module = importlib.import_module(f"profiler.kernels.{small.family}")
    if small.family == "topk":
        whole = module._missed
        prepared = prepare(small, cpu)
        worst = torch.zeros(small.size("rows"), small.size("topk"), dtype=torch.int32)
        scores = torch.randn(small.size("rows"), small.size("entries"))
        assert whole(scores, worst, min(small.size("topk"), small.size("entries")), cpu) > prepared.tolerance
        return
    monkeypatch.setattr(module, "relative_error", lambda a, b: reference.relative_error(a.double() * 1.1, b))
    prepared = prepare(small, cpu)
    assert prepared.check() > prepared.tolerance


def test_error_of_output_that_is_not_finite_is_infinite():
    from profiler.kernel_reference import relative_error

    assert relative_error(torch.tensor([1.0, float("nan")]), torch.ones(2)) == float("inf")
    assert relative_error(torch.tensor([3.0, 4.4]), torch.tensor([3.0, 4.0])) == pytest.approx(0.08)


@pytest.mark.gpu
@pytest.mark.parametrize("small", SMALL, ids=lambda c: c.key)
def test_kernel_is_right_and_timed(small):
    gpu = find_gpu()
    record = GpuBench(gpu, platform_of(gpu.name)).measure(small, "test")
    assert record.status in ("ok", "unsupported"), record.message
    if record.status == "ok":
        assert record.time_s and record.p10_s and record.p90_s
        assert record.p10_s <= record.time_s <= record.p90_s
