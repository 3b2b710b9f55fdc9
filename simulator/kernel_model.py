"""Seconds of one kernel or module, from measured tables where there are any.

Inside a measured grid, log time is interpolated linearly over log axes after an isotonic fit (more
work never costs less). Outside it, the efficiency of the nearest measured point is kept: its time is
multiplied by the ratio of rooflines. A platform without a table borrows the efficiency of the platform
nearest in architecture. Each answer says which of these it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.interpolate import NearestNDInterpolator
from scipy.optimize import isotonic_regression

from search_spaces.hardware import Hardware
from search_spaces.kernel_profile import MOE_KERNELS
from search_spaces.model import BYTES_BF16, ModelSpec
from simulator import expert_tiles, op_costs
from simulator.calibration import ExpertKernel
from simulator.kernel_grids import Grid, complete, pivot
from simulator.kernel_owners import Owner, measured, owner_of
from simulator.op_costs import Floats

Source = Literal["measured", "interpolated", "fitted", "analytic"]

ALPHA_OF_CODE = {0: 0.0, 1: 1.01, 2: 1.2}
"""Distribution codes of the profile to power-law exponents."""
TABLE_TILE_ROWS = 64
"""Rows of a tile of the expert kernels in the tables (SGLang 0.5.15, default of `fused_moe_triton`)."""
BACKEND_KERNELS: dict[str, tuple[tuple[str, int], ...]] = {
    "flashinfer_mxfp4": (("w4a8_mxfp4_mxfp8_trtllm", 100), ("fp8_block_triton", 90)),
    "flashinfer_trtllm_routed": (("nvfp4_trtllm", 100), ("w4a8_mxfp4_mxfp8_trtllm", 100)),
    "marlin": (("fp8_block_triton", 90),),
    "triton": (("fp8_block_triton", 90),),
    "deep_gemm": (("fp8_block_deepgemm", 100), ("fp8_block_triton", 90)),
    "deepep": (("fp8_block_deepgemm", 100), ("fp8_block_triton", 90)),
}
"""Engine backend to the measured kernels that stand for it, best first, with the lowest SM each runs on."""
KERNEL_PRECISION = {
    "w4a8_mxfp4_mxfp8_trtllm": ("mxfp4", "fp8"),
    "nvfp4_trtllm": ("nvfp4", "fp4"),
    "fp8_block_triton": ("fp8", "fp8"),
    "fp8_block_deepgemm": ("fp8", "fp8"),
}
"""Weights and activations of each measured kernel."""


def _flat_score_excess(owner: Owner, model: int, phase: str, x: Floats, y: Floats) -> Floats:
    """Seconds by which the measured CSA module overstates top-k selection.

    The modules were timed with made-up, equal indexer scores, the slowest input for the top-k kernel;
    real scores favour late tokens. The kernel alone was timed on both (see `kernel_profile`).
    """
    if "topk_calib" not in owner.profile.tables:
        return np.zeros_like(x)
    flat, last = (2, 3) if phase == "decode" else (0, 1)
    at = ("batch", "prefix", "time_s") if phase == "decode" else ("new_tokens", "prefix", "time_s")
    fixed = {"new_tokens": 1} if phase == "decode" else {"batch": 1}
    slow = measured(owner, "topk_calib", at, model=model, mode=flat, **fixed)
    fast = measured(owner, "topk_calib", at, model=model, mode=last, **fixed)
    if not len(slow[0]) or len(slow[0]) != len(fast[0]):
        return np.zeros_like(x)
    # Context decides how many scores are ranked; weigh it so that the nearest row shares it.
    points = np.stack([np.log(slow[0]), 8 * np.log(slow[1] + 1)], axis=-1)
    found: Floats = NearestNDInterpolator(points, slow[2] - fast[2])(np.log(x), 8 * np.log(y + 1))
    return np.maximum(found, 0.0)


def _decode_rows(owner: Owner, **equals: int) -> list[Floats]:
    """Batch, context and seconds of one new token per sequence.

    The decode table ends early for large batches; the prefill table has one-token rows that go on.
    """
    x, y, t = measured(owner, "attn_decode", ("batch", "context", "time_s"), **equals)
    if equals["ratio"] == 4:
        t = np.maximum(t - _flat_score_excess(owner, equals["model"], "decode", x, y), 0.5 * t)
    more = measured(owner, "attn_prefill", ("batch", "prefix", "time_s"), new_tokens=1, **equals)
    beyond = np.array(
        [b > 64 and c > y[x == b].max(initial=0) for b, c in zip(more[0], more[1], strict=True)], bool
    )
    return [np.concatenate([a, b[beyond]]) for a, b in zip((x, y, t), more, strict=True)]


class KernelModel:
    """Kernel seconds of one model on one platform. Stateless after construction."""

    def __init__(self, model: ModelSpec, hw: Hardware) -> None:
        """Args: the model's shapes and the platform to answer for."""
        self.model, self.hw = model, hw
        self.code = 0 if model.num_experts > 256 else 1

    def attention_decode_s(
        self, ratio: int, heads: int, tokens: ArrayLike, context: ArrayLike
    ) -> tuple[Floats, Source]:
        """One attention module for `tokens` queries of separate sequences at `context` tokens."""
        tokens, context = np.broadcast_arrays(np.asarray(tokens, float), np.asarray(context, float))
        table_ratio = ratio or 128
        at = context if ratio else np.full_like(context, 128.0)
        found = _attention_grid(self, "decode", table_ratio, heads)
        if found is None:
            return op_costs.attention_s(self.model, self.hw, ratio, heads, tokens, at, tokens) * 2, "analytic"
        grid, owner, used = found
        cx, cy = grid.clamp(tokens, at)
        wanted = op_costs.attention_s(self.model, self.hw, ratio, heads, tokens, at, tokens)
        known = op_costs.attention_s(self.model, owner.hardware, table_ratio, used, cx, cy, cx)
        return grid.seconds(cx, cy) * wanted / known, self._source(owner)

    def attention_prefill_s(
        self, ratio: int, heads: int, tokens: ArrayLike, prefix: ArrayLike, sequences: ArrayLike
    ) -> tuple[Floats, Source]:
        """One attention module over `tokens` new tokens in `sequences` equal segments after `prefix`."""
        tokens, prefix, sequences = np.broadcast_arrays(
            np.asarray(tokens, float), np.asarray(prefix, float), np.asarray(sequences, float)
        )
        mean = prefix + tokens / (2 * sequences)
        wanted = op_costs.attention_s(self.model, self.hw, ratio, heads, tokens, mean, sequences)
        found = _attention_grid(self, "prefill", ratio or 128, heads)
        if found is None:
            return wanted * 2, "analytic"
        grid, owner, used = found
        cx, cy = grid.clamp(tokens, np.maximum(mean - tokens / 2, 0.0) + 1)
        known = op_costs.attention_s(
            self.model, owner.hardware, ratio or 128, used, cx, cy - 1 + cx / 2, np.ones_like(cx)
        )
        return grid.seconds(cx, cy) * wanted / known, self._source(owner)

    def mhc_s(self, tokens: ArrayLike) -> tuple[Floats, Source]:
        """Both hyper-connection sites of a layer, pre and post."""
        t = np.asarray(tokens, float)
        wanted = op_costs.mhc_s(self.model, self.hw, t)
        found = _mhc_grid(self)
        if found is None:
            return wanted * 2, "analytic"
        grid, owner = found
        cx, cy = grid.clamp(t, 1.0)
        return grid.seconds(cx, cy) * wanted / op_costs.mhc_s(self.model, owner.hardware, cx), self._source(
            owner
        )

    def megamoe_s(
        self, tokens: ArrayLike, ep: int, alpha: float, prefill: bool, fp4_ratio: float | None
    ) -> tuple[Floats, Source]:
        """Fused dispatch, expert GEMMs and combine of one layer.

        Args:
            tokens: tokens per rank.
            ep: expert-parallel width.
            alpha: power-law exponent of expert popularity (0 balanced).
            prefill: which of the measured phases.
            fp4_ratio: compute-bound time with FP4 activations over FP8; None for FP8.
        """
        t = np.asarray(tokens, float)
        wanted = op_costs.moe_s(self.model, self.hw, t, ep)
        found = _megamoe_grids(self, prefill)
        if found is None:
            return wanted * 2, "analytic"
        grids, owner = found
        base = _pro_shape(self.model)
        total = _between({a: self._megamoe_at(grid, owner, base, t, ep) for a, grid in grids.items()}, alpha)
        if fp4_ratio is not None:
            floor = op_costs.moe_s(self.model, self.hw, np.ones_like(t), ep)
            compute_share = np.clip((wanted - floor) / wanted, 0, 1)
            total = total * (1 - (1 - fp4_ratio) * compute_share)
        return total, self._source(owner) if base is self.model else "interpolated"

    def _megamoe_at(self, grid: Grid, owner: Owner, base: ModelSpec, t: Floats, ep: int) -> Floats:
        cx, cy = grid.clamp(t, float(ep))
        wanted = op_costs.moe_s(self.model, self.hw, t, ep)
        at_ep = max(int(np.min(cy)), 1)
        known = op_costs.moe_s(base, owner.hardware, cx, at_ep)
        return grid.seconds(cx, cy) * wanted / known

    def grouped_moe_s(
        self,
        backend: str,
        tokens: ArrayLike,
        ep: int,
        moe_tp: int,
        weights: str,
        alpha: float,
        fitted: ExpertKernel | None = None,
    ) -> tuple[Floats, Source]:
        """Routed experts of one layer without communication; `tokens` are those of the whole group.

        A kernel `fitted` to recorded steps goes before tables of another kernel.
        """
        t = np.asarray(tokens, float)
        activation = "bf16" if self.hw.sm < 100 and weights == "mxfp4" else "fp8"
        if fitted is not None:
            return expert_tiles.grouped_gemm_s(
                self.model, self.hw, t, ep, moe_tp, weights, activation, fitted
            ), "fitted"
        wanted = op_costs.moe_s(self.model, self.hw, t, ep, moe_tp, weights, activation, all_to_all=False)
        for kernel, lowest_sm in BACKEND_KERNELS[backend]:
            found = _moe_grid(self, kernel, moe_tp, ep) if self.hw.sm >= lowest_sm else None
            if found is None:
                continue
            grids, owner, used_tp, used_ep = found
            precision = KERNEL_PRECISION[kernel]
            at = {}
            for timed, grid in grids.items():
                cx, cy = grid.clamp(t, 1.0)
                known = op_costs.moe_s(
                    self.model, owner.hardware, cx, used_ep, used_tp, *precision, all_to_all=False
                )
                dealt = 1.0 if timed else self._dealt_out(cx, used_ep)
                at[timed] = grid.seconds(cx, cy) * wanted / known * dealt
            return _between(at, alpha), self._source(owner)
        return wanted * 2, "analytic"

    def _dealt_out(self, tokens: Floats, ep: int) -> Floats:
        """Tiles under uniform routing over those of the balanced assignment in the tables."""
        local, share = self.model.num_experts / ep, self.model.experts_per_token / self.model.num_experts
        drawn = expert_tiles.uniform_tiles(local, share, tokens, TABLE_TILE_ROWS)
        return drawn / expert_tiles.balanced_tiles(local, share, tokens, TABLE_TILE_ROWS)

    def gemm_s(self, m: ArrayLike, n: float, k: float, bf16: bool = False) -> tuple[Floats, Source]:
        """A dense product with block-FP8 (or BF16) weights."""
        t, width = np.asarray(m, float), BYTES_BF16 if bf16 else 1.0
        wanted = op_costs.gemm_s(t, n, k, self.hw, width)
        found = _gemm_grid(self, 0 if bf16 else 1, round(n), round(k))
        if found is None:
            return wanted * 1.5, "analytic"
        grid, owner, used_n, used_k = found
        cx, cy = grid.clamp(t, 1.0)
        known = op_costs.gemm_s(cx, used_n, used_k, owner.hardware, width)
        return grid.seconds(cx, cy) * wanted / known, self._source(owner)

    def _source(self, owner: Owner) -> Source:
        return "measured" if owner.hardware is self.hw else "interpolated"


@lru_cache(maxsize=64)
def _attention_grid(
    kernels: KernelModel, phase: str, ratio: int, heads: int
) -> tuple[Grid, Owner, int] | None:
    table = f"attn_{phase}"
    owner = owner_of(kernels.hw, table, model=kernels.code, ratio=ratio)
    if owner is None:
        return None
    available = np.unique(measured(owner, table, ("heads",), model=kernels.code, ratio=ratio)[0])
    used = int(available[np.argmin(np.abs(np.log(available / heads)))])
    equals = {"model": kernels.code, "ratio": ratio, "heads": used}
    if phase == "decode":
        x, y, t = _decode_rows(owner, **equals)
    else:
        x, y, t = measured(owner, table, ("new_tokens", "prefix", "time_s"), batch=1, **equals)
        if ratio == 4:
            t = np.maximum(t - _flat_score_excess(owner, kernels.code, phase, x, y), 0.5 * t)
        y = y + 1
    xs, ys, matrix = pivot(x, y, t)
    rows, columns = xs[:, None], ys[None, :]
    if phase == "decode":
        bound = op_costs.attention_s(kernels.model, owner.hardware, ratio, used, rows, columns, rows)
    else:
        bound = op_costs.attention_s(
            kernels.model, owner.hardware, ratio, used, rows, columns - 1 + rows / 2, np.ones_like(rows)
        )
    return Grid(xs, ys, complete(matrix, bound)), owner, used


@lru_cache(maxsize=8)
def _mhc_grid(kernels: KernelModel) -> tuple[Grid, Owner] | None:
    owner = owner_of(kernels.hw, "mhc", hidden=kernels.model.hidden)
    if owner is None:
        return None
    pre, post = (
        dict(
            zip(
                *measured(owner, "mhc", ("tokens", "time_s"), hidden=kernels.model.hidden, op=op), strict=True
            )
        )
        for op in (0, 1)
    )
    both = np.array(sorted(pre.keys() & post.keys()))
    seconds = np.array([[pre[tokens] + post[tokens]] for tokens in both])
    return Grid(both, np.array([1.0]), seconds), owner


@lru_cache(maxsize=16)
def _megamoe_grids(kernels: KernelModel, prefill: bool) -> tuple[dict[float, Grid], Owner] | None:
    phase = 0 if prefill else 1
    owner = owner_of(kernels.hw, "megamoe", phase=phase, hidden=7168, inter=3072)
    if owner is None:
        return None
    grids, base = {}, _pro_shape(kernels.model)
    for code, alpha in ALPHA_OF_CODE.items():
        x, y, t = measured(
            owner,
            "megamoe",
            ("tokens", "ep", "time_s"),
            phase=phase,
            distribution=code,
            hidden=7168,
            inter=3072,
        )
        xs, ys, matrix = pivot(x, y, t)
        bound = np.stack([op_costs.moe_s(base, owner.hardware, xs, int(ep)) for ep in ys], axis=1)
        log_time = np.log(complete(matrix, bound))
        by_ep = np.stack([isotonic_regression(col).x for col in log_time.T]).T
        grids[alpha] = Grid(xs, ys, np.exp(by_ep), monotone=False)
    return grids, owner


@lru_cache(maxsize=64)
def _moe_grid(
    kernels: KernelModel, kernel: str, moe_tp: int, ep: int
) -> tuple[dict[float, Grid], Owner, int, int] | None:
    shape = {
        "hidden": kernels.model.hidden,
        "inter": kernels.model.expert_inner,
        "kernel": MOE_KERNELS[kernel],
    }
    owner = owner_of(kernels.hw, "moe", **shape)
    if owner is None:
        return None
    tps, eps = measured(owner, "moe", ("moe_tp", "moe_ep"), **shape)
    best = int(np.argmin(np.abs(np.log(tps / moe_tp)) + np.abs(np.log(eps / ep))))
    used_tp, used_ep = int(tps[best]), int(eps[best])
    grids = {}
    for code, alpha in ALPHA_OF_CODE.items():
        equals = {"moe_tp": used_tp, "moe_ep": used_ep, "distribution": code, **shape}
        x, t = measured(owner, "moe", ("tokens", "time_s"), **equals)
        if len(x):
            xs, _, matrix = pivot(x, np.ones_like(x), t)
            grids[alpha] = Grid(xs, np.array([1.0]), matrix)
    return grids, owner, used_tp, used_ep


def _between(seconds: Mapping[float, Floats], alpha: float) -> Floats:
    """Times at an exponent of popularity, from those at the exponents that were timed."""
    alphas = sorted(seconds)
    if len(alphas) == 1:
        return seconds[alphas[0]]
    upper = int(np.clip(np.searchsorted(alphas, alpha), 1, len(alphas) - 1))
    low, high = alphas[upper - 1 : upper + 1]
    weight = (alpha - low) / (high - low)
    found: Floats = seconds[low] * (1 - weight) + seconds[high] * weight
    return found


@lru_cache(maxsize=64)
def _gemm_grid(kernels: KernelModel, dtype: int, n: int, k: int) -> tuple[Grid, Owner, int, int] | None:
    owner = owner_of(kernels.hw, "gemm", dtype=dtype)
    if owner is None:
        return None
    ns, ks = measured(owner, "gemm", ("n", "k"), dtype=dtype)
    best = int(np.argmin(np.abs(np.log(ns / n)) + np.abs(np.log(ks / k))))
    used_n, used_k = int(ns[best]), int(ks[best])
    x, t = measured(owner, "gemm", ("m", "time_s"), dtype=dtype, n=used_n, k=used_k)
    xs, _, matrix = pivot(x, np.ones_like(x), t)
    return Grid(xs, np.array([1.0]), matrix), owner, used_n, used_k


@cache
def _pro_spec() -> ModelSpec:
    from search_spaces.catalog_loader import model

    return model("deepseek-ai/DeepSeek-V4-Pro")


def _pro_shape(model: ModelSpec) -> ModelSpec:
    """The model whose MegaMoE was measured: `model` itself when the shapes agree."""
    pro = _pro_spec()
    same = (model.hidden, model.expert_inner, model.num_experts) == (
        pro.hidden,
        pro.expert_inner,
        pro.num_experts,
    )
    return model if same else pro


@lru_cache(maxsize=32)
def kernel_model(model: ModelSpec, hw: Hardware) -> KernelModel:
    """Shared instance per (model, platform): its grids are built once."""
    return KernelModel(model, hw)
