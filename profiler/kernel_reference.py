"""High-precision references that several kernel families share. Needs PyTorch."""

from __future__ import annotations

import math
from typing import Any

import torch

from profiler.kernel_gpu import Gpu

FP8 = torch.float8_e4m3fn
FP8_TOLERANCE = 0.05
"""Relative error of values rounded to e4m3: half a unit in the third bit, 2.6 % in the mean square."""
BF16_TOLERANCE = 0.01
"""Relative error of sums of products that are stored as BF16."""
ATTENTION_TOLERANCE = 0.02
"""The same for attention, whose weights are rounded to BF16 before the second product."""
NOPE_DIM, ROPE_DIM, SCALE_TILE = 448, 64, 64
"""Layout of a key of the FP8 cache: values without position, rotary values, values per scale."""
ENTRY_BYTES, VALUE_BYTES, SCALE_BYTES = 584, 576, 8


def relative_error(got: Any, want: Any) -> float:
    """Norm of the difference over the norm of `want`; infinite where `got` is not finite."""
    got, want = got.double(), want.double()
    if got.shape != want.shape or not bool(torch.isfinite(got).all()):
        return math.inf
    return float((got - want).norm() / want.norm().clamp_min(1e-30))


def sample(count: int, most: int, device: str) -> Any:
    """At most `most` indices below `count`, spread evenly and ending with the last."""
    return torch.linspace(0, count - 1, min(count, most), device=device).round().long()


def random_fp8(gpu: Gpu, *shape: int) -> Any:
    """Random codes over the whole e4m3 format without NaN: zeros would run too fast."""
    codes = torch.randint(0, 256, shape, dtype=torch.uint8, device=gpu.device)
    return codes.bitwise_and_(0xF7).view(FP8)


def normal_fp8(gpu: Gpu, *shape: int) -> Any:
    """Normally distributed values in e4m3."""
    return torch.randn(shape, device=gpu.device, dtype=torch.bfloat16).to(FP8)


def normal_bf16(gpu: Gpu, *shape: int) -> Any:
    """Normally distributed BF16 values."""
    return torch.randn(shape, device=gpu.device, dtype=torch.bfloat16)


def row_scales(gpu: Gpu, rows: int, depth: int, groups: int | None = None) -> Any:
    """Activation scales in the layout DeepGEMM reads: rows run fastest, padded to 16 bytes."""
    padded = -(-rows // 4) * 4
    shape = (depth // 128, padded) if groups is None else (groups, depth // 128, padded)
    scales = (torch.rand(shape, device=gpu.device) * 0.01 + 1e-3).transpose(-1, -2)
    return scales[..., :rows, :]


def block_scales(gpu: Gpu, n: int, k: int, groups: int | None = None) -> Any:
    """Weight scales, one per 128 x 128 block."""
    blocks = (-(-n // 128), k // 128)
    shape = blocks if groups is None else (groups, *blocks)
    return torch.rand(shape, device=gpu.device) * 0.01 + 1e-3


def fp8_product(a: Any, a_scales: Any, b: Any, b_scales: Any, rows: Any, columns: Any) -> Any:
    """`a @ b.T` of scaled FP8 operands in double precision, at some rows and columns only."""
    left = a[rows].double() * a_scales[rows].double().repeat_interleave(128, dim=1)
    right = b[columns].double() * b_scales[columns // 128].double().repeat_interleave(128, dim=1)
    return left @ right.T


def rotary_table(gpu: Gpu, positions: int) -> Any:
    """Unit complex numbers, `[positions, ROPE_DIM / 2]`."""
    half = ROPE_DIM // 2
    rates = 10_000.0 ** (-torch.arange(half, device=gpu.device, dtype=torch.float32) / half)
    angles = torch.arange(positions, device=gpu.device, dtype=torch.float32)[:, None] * rates
    return torch.polar(torch.ones_like(angles), angles)


def rotate_tail(x: Any, turns: Any) -> Any:
    """The last `ROPE_DIM` values of `x` turned pair by pair; `turns` broadcasts over what is left."""
    head, tail = x.double()[..., :-ROPE_DIM], x.double()[..., -ROPE_DIM:]
    pairs = torch.view_as_complex(tail.reshape(*tail.shape[:-1], -1, 2).contiguous())
    turned = torch.view_as_real(pairs * turns.to(torch.complex128)).flatten(-2)
    return torch.cat([head, turned], dim=-1)


def rms_normed(x: Any, eps: float = 1e-6) -> Any:
    """`x` over its root mean square, in double precision."""
    wide = x.double()
    return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)


def page_bytes(page: int) -> int:
    """Bytes of a page of the FP8 cache: entries, scales, and padding to a multiple of 576."""
    return -(-page * ENTRY_BYTES // VALUE_BYTES) * VALUE_BYTES


def random_cache(gpu: Gpu, entries: int, page: int) -> Any:
    """A filled FP8 cache as bytes, `[pages, page_bytes]`."""
    pages = entries // page
    pool = torch.zeros(pages, page_bytes(page), dtype=torch.uint8, device=gpu.device)
    body = pool[:, : page * VALUE_BYTES].view(pages, page, VALUE_BYTES)
    body[:, :, :NOPE_DIM] = normal_fp8(gpu, pages, page, NOPE_DIM).view(torch.uint8)
    body[:, :, NOPE_DIM:] = normal_bf16(gpu, pages, page, ROPE_DIM).view(torch.uint8)
    tail = pool[:, page * VALUE_BYTES : page * ENTRY_BYTES]
    tail.copy_(torch.randint(126, 129, tail.shape, dtype=torch.uint8, device=gpu.device))
    return pool


def cache_values(pool: Any, page: int, slots: Any) -> Any:
    """The keys at `slots` of a cache as double precision, `[slots, NOPE_DIM + ROPE_DIM]`."""
    pages, offsets = slots // page, slots % page
    at = torch.arange(VALUE_BYTES, device=pool.device)
    values = pool[pages[:, None], offsets[:, None] * VALUE_BYTES + at]
    nope = values[:, :NOPE_DIM].contiguous().view(FP8).double()
    rope = values[:, NOPE_DIM:].contiguous().view(torch.bfloat16).double()
    tiles = torch.arange(NOPE_DIM // SCALE_TILE, device=pool.device)
    codes = pool[pages[:, None], page * VALUE_BYTES + offsets[:, None] * SCALE_BYTES + tiles]
    scales = torch.exp2(codes.double() - 127).repeat_interleave(SCALE_TILE, dim=1)
    return torch.cat([nope * scales, rope], dim=1)


def attend(query: Any, keys: Any, scale: float, sink: Any) -> Any:
    """Softmax attention with K = V and one sink score per head, in double precision.

    Args:
        query: `[heads, dim]`.
        keys: `[count, dim]`.
        scale: factor of the scores.
        sink: `[heads]`, a score that takes weight and gives nothing.
    """
    scores = query.double() @ keys.T * scale
    top = torch.maximum(scores.amax(dim=1), sink.double())
    weights = torch.exp(scores - top[:, None])
    total = weights.sum(dim=1) + torch.exp(sink.double() - top)
    return weights @ keys / total[:, None]


def hadamard(size: int, device: str) -> Any:
    """The orthonormal Hadamard matrix in Sylvester's order."""
    matrix = torch.ones(1, 1, dtype=torch.float64, device=device)
    while matrix.shape[0] < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / math.sqrt(size)
