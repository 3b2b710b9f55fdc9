"""Communication of the experts that runs beside computation: two halves of a batch, or parts of one.

Two-batch overlap (SGLang 0.5.15 `operations_strategy`, DeepSeek-V4: prefill only) cuts a prefill step into
halves a and b. Per layer a computes attention, then b does while a's tokens are dispatched; a computes its
experts while b's are dispatched; b computes its experts while a's results come back; and the next attention
of a hides those of b. Each of the four slots takes the longer of both sides. The price is that kernels run at
half the batch, twice as many are launched, and hyper-connections are not fused across layers.

Single-batch overlap (DeepEP's low-latency mode) hides the shared expert behind dispatch (Hopper) or combine
(Blackwell), and on Hopper the combine behind the second expert GEMM.

Dispatch and combine are DeepEP's measured times inside one node; that both sides overlap as the schedule says
is analytic.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from search_spaces.model import BYTES_BF16
from search_spaces.recipe import A2A_BACKENDS, EngineGroup
from simulator.kernel_grids import Grid, pivot
from simulator.kernel_model import KernelModel
from simulator.kernel_owners import Owner, measured, owner_of
from simulator.op_costs import Floats
from simulator.step_parts import StepCost

COMMUNICATION_SMS = 24
"""Multiprocessors that communication takes from computation beside it: those of the DeepEP tables, assumed
for NCCL too."""
DOWN_SHARE = 1 / 3
"""Second expert GEMM over both: one of three equal matrices."""
BLACKWELL_SM = 100


def splits_prefill(group: EngineGroup) -> bool:
    """Whether prefill steps of the group run as two halves; the engine falls back to one without a word."""
    if not group.two_batch_overlap or group.pp > 1:
        return False
    if group.moe_backend in A2A_BACKENDS:
        return group.moe_backend == "deepep" and group.deepep_mode != "low_latency"
    return group.attention_dp > 1


def launches_per_layer(group: EngineGroup) -> int:
    """Times that the host launches each layer of a prefill step."""
    return 2 if splits_prefill(group) else 1


def overlaps_one_batch(group: EngineGroup, prefill: bool) -> bool:
    """Whether a step hides DeepEP's communication behind parts of the same batch."""
    low_latency = group.deepep_mode == "low_latency" or (group.deepep_mode == "auto" and not prefill)
    return group.single_batch_overlap and group.moe_backend == "deepep" and low_latency


@lru_cache(maxsize=32)
def _deepep_grids(kernels: KernelModel, table: str) -> tuple[Grid, Grid, Owner] | None:
    model = kernels.model
    shape = {"hidden": model.hidden, "topk": model.experts_per_token, "experts": model.num_experts}
    owner = owner_of(kernels.hw, table, **shape)
    if owner is None:
        return None
    tokens, dispatch, combine = measured(owner, table, ("tokens", "dispatch_s", "combine_s"), **shape)

    def grid(seconds: Floats) -> Grid:
        xs, _, matrix = pivot(tokens, np.ones_like(tokens), seconds)
        return Grid(xs, np.array([1.0]), matrix)

    return grid(dispatch), grid(combine), owner


def deepep_s(kernels: KernelModel, tokens: ArrayLike, low_latency: bool) -> tuple[Floats, Floats]:
    """Dispatch and combine of one layer for `tokens` per rank; by bytes where DeepEP was not timed."""
    t, model, hw = np.asarray(tokens, float), kernels.model, kernels.hw
    found = _deepep_grids(kernels, "deepep_ll" if low_latency else "deepep_normal")
    if found is None:
        sent = t * model.experts_per_token * model.hidden / hw.nvlink_bytes_per_s
        return sent, sent * BYTES_BF16
    dispatch, combine, owner = found
    cx, cy = dispatch.clamp(t, 1.0)
    link = owner.hardware.nvlink_bytes_per_s / hw.nvlink_bytes_per_s
    scale = np.maximum(t / cx, 1.0) * link
    return dispatch.seconds(cx, cy) * scale, combine.seconds(cx, cy) * scale


def _slot(compute: Floats, communicate: Floats, taken: float) -> Floats:
    """Time of one slot: communication holds a share `taken` of the multiprocessors while it lasts."""
    return np.maximum(communicate, compute + communicate * taken)


def two_batch_layer(
    layer: StepCost, dispatch: Floats, combine: Floats, communication_sms_fraction: float
) -> StepCost:
    """One layer of both halves.

    Args:
        layer: one half alone, with communication inside `routed_experts`.
        dispatch: seconds of that to bring tokens to experts.
        combine: seconds of that to bring results back.
        communication_sms_fraction: share of multiprocessors that communication takes.
    """
    routed = layer.seconds["routed_experts"]
    rest = layer.gpu_s - routed
    fits = np.minimum(1.0, routed / np.maximum(dispatch + combine, 1e-12))
    there, back = dispatch * fits, combine * fits
    experts = routed - there - back
    taken = communication_sms_fraction
    both = layer.merged(layer)
    both.seconds["routed_experts"] = _slot(experts, there, taken) + _slot(experts, back, taken)
    both.sources["routed_experts"] = "analytic"
    exposed = _slot(rest, there, taken) + _slot(rest, back, taken) - 2 * rest
    both.add("exposed_communication", exposed, "analytic")
    return both


def single_batch_layer(layer: StepCost, dispatch: Floats, combine: Floats, sm: int) -> StepCost:
    """One layer in which DeepEP's communication hides parts of the same batch.

    Args:
        layer: the layer without overlap.
        dispatch: seconds inside `routed_experts` to bring tokens to experts.
        combine: seconds inside it to bring results back.
        sm: compute capability times ten.
    """
    found = StepCost(dict(layer.seconds), dict(layer.sources))
    routed, shared = layer.seconds["routed_experts"], layer.seconds["shared_expert"]
    beside = combine if sm >= BLACKWELL_SM else dispatch
    found.seconds["shared_expert"] = shared - np.minimum(shared, beside)
    if sm < BLACKWELL_SM:
        experts = np.maximum(routed - dispatch - combine, 0.0)
        hidden = np.minimum(np.minimum(combine, routed), experts * DOWN_SHARE)
        found.seconds["routed_experts"] = routed - hidden
    for name in ("shared_expert", "routed_experts"):
        found.sources[name] = "analytic"
    return found
