"""Seconds of one engine step, by component and by source of the number.

A step is one forward pass of one worker: all layers, the head and, when drafting, the MTP passes.
Per layer: hyper-connections around attention and MoE, attention by layer kind, router, routed and
shared experts, norms, collectives. The functions are pure and broadcast over arrays of shapes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from search_spaces.hardware import Hardware
from search_spaces.model import BYTES_BF16, ModelSpec
from search_spaces.recipe import A2A_BACKENDS, EngineGroup
from search_spaces.stack import StackVersion
from simulator import batch_overlap, draft_costs, op_costs
from simulator.calibration import Calibration, HostCosts
from simulator.expert_load import placement_ratio, rebalance_s
from simulator.kernel_collectives import allgather_s, allreduce_s
from simulator.kernel_model import KernelModel, Source, kernel_model
from simulator.memory import MARKOV_RANK
from simulator.op_costs import Floats
from simulator.step_parts import StepCost

ROUTER_TOPK_S = 3e-6
"""Top-k of the router beside its GEMM (order of one small kernel; analytic)."""
SHARED_OVERLAP_TOKENS = {True: 128, False: 64}
"""Largest token count at which the shared expert hides on a second stream inside a graph; key: SM >= 100."""
RANK_COMPONENTS = (
    "attention",
    "mhc",
    "shared_expert",
    "router_and_norms",
    "attention_collective",
    "head",
    "sampling",
    "mtp_projections",
    "unfused_kernels",
    "untimed_kernels",
    "sustained_load",
    "exposed_communication",
)
"""Components that a rank pays for its own tokens."""
GROUP_COMPONENTS = ("routed_experts", "sustained_load_experts", "expert_rebalance")
"""Components common to the ranks of a group."""


@dataclass(frozen=True)
class Scenario:
    """Everything a step's cost depends on besides its shape."""

    model: ModelSpec
    hardware: Hardware
    group: EngineGroup
    stack: StackVersion
    calibration: Calibration

    @property
    def host(self) -> HostCosts:
        """CPU costs of this platform."""
        return self.calibration.host(self.hardware.host_cpu)

    @property
    def kernels(self) -> KernelModel:
        """Kernel times of this model on this platform."""
        return kernel_model(self.model, self.hardware)


def moe_seconds(scn: Scenario, tokens: Floats, prefill: bool, window: ArrayLike = 1) -> tuple[Floats, Source]:
    """Routed experts of one layer with their communication, for `tokens` per attention rank.

    `window` consecutive tokens of one sequence choose partly the same experts. That saves weight reads
    where the experts are bound by them, and nothing where they are bound by FLOPs.
    """
    window = np.asarray(window, float)
    if np.all(window == 1):
        return _moe_seconds(scn, tokens, prefill)
    shared = scn.calibration.draft_expert_overlap
    distinct = tokens * (1 + (window - 1) * (1 - shared)) / window
    few, _ = _moe_seconds(scn, distinct, prefill)
    many, _ = _moe_seconds(scn, tokens, prefill)
    compute = op_costs.moe_compute_share(
        scn.model, scn.hardware, _group_tokens(scn, tokens), scn.group.moe_ep
    )
    return few * (many / few) ** compute, "fitted"


def _group_tokens(scn: Scenario, tokens: Floats) -> Floats:
    """Tokens that reach the experts of one GPU's share of the group, before routing."""
    return tokens * scn.group.attention_dp


def _moe_seconds(scn: Scenario, tokens: Floats, prefill: bool) -> tuple[Floats, Source]:
    group, kernels, cal = scn.group, scn.kernels, scn.calibration
    alpha = cal.routing_alpha(prefill)
    if group.moe_backend in A2A_BACKENDS:
        per_gpu = tokens / group.attention_tp
        has_fp4 = group.moe_activation == "fp4" and scn.stack.has("w4a4_megamoe")
        fp4 = cal.fp4_moe_ratio if has_fp4 else None
        seconds, source = kernels.megamoe_s(per_gpu, group.moe_ep, alpha, prefill, fp4)
        placed = placement_ratio(scn.model, scn.hardware, group, alpha, per_gpu)
        fitted_source: Source = "fitted"
        if placed is not None:
            seconds, source, fitted_source = seconds * placed, "analytic", "analytic"
        if group.moe_backend == "deepep":
            compute = op_costs.moe_compute_share(
                scn.model, scn.hardware, _group_tokens(scn, tokens), group.moe_ep
            )
            # What fusion hides, dispatch, combine and activations between GEMMs, grows with tokens as FLOPs
            # do; weights are read once either way.
            growth = 1 + (cal.unfused_moe_ratio - 1) * compute
            return seconds * growth + cal.unfused_moe_layer_s, fitted_source
        return seconds, source if fp4 is None else fitted_source
    total = tokens * group.attention_dp
    fitted = cal.architecture(scn.hardware.sm).experts.get(group.moe_backend)
    seconds, source = kernels.grouped_moe_s(
        group.moe_backend, total, group.moe_ep, group.moe_tp, group.expert_weights, alpha, fitted
    )
    priced = 0.0 if fitted else alpha
    placed = placement_ratio(scn.model, scn.hardware, group, priced, total / group.moe_ep)
    if placed is not None:
        seconds, source = seconds * placed, "analytic"
    if group.tp > 1:
        reduce, wait = _gather_s(scn, tokens)
        seconds = seconds + reduce + wait
    return seconds, source


def _gather_s(scn: Scenario, tokens: Floats) -> tuple[Floats, float]:
    """Tokens to all GPUs of the group and sums back, without an all-to-all backend; and the wait for it."""
    group = scn.group
    moved = tokens * group.attention_dp * scn.model.hidden * BYTES_BF16
    wait = scn.calibration.collective_sync_s * float(np.log2(group.tp))
    return allreduce_s(scn.kernels.hw, moved, group.tp)[0], wait


def _communication(scn: Scenario, tokens: Floats, prefill: bool) -> tuple[Floats, Floats]:
    """Seconds of `moe_seconds` that bring tokens to experts, and that bring results back."""
    if scn.group.moe_backend not in A2A_BACKENDS:
        reduce, wait = _gather_s(scn, tokens)
        half = (reduce + wait) / 2
        return half, half
    per_gpu = tokens / scn.group.attention_tp
    low_latency = scn.group.deepep_mode == "low_latency" or (scn.group.deepep_mode == "auto" and not prefill)
    return batch_overlap.deepep_s(scn.kernels, per_gpu, low_latency)


def layer_cost(
    scn: Scenario,
    ratio: int,
    tokens: Floats,
    attention: tuple[Floats, Source],
    moe: tuple[Floats, Source],
    graph: bool,
) -> StepCost:
    """One layer around a given attention module and MoE."""
    model, hw, group, kernels = scn.model, scn.hardware, scn.group, scn.kernels
    cost = StepCost()
    cost.add("attention", *attention)
    mhc, source = kernels.mhc_s(tokens)
    fused = 1.0 if scn.stack.has("mhc_fusion") else scn.calibration.mhc_unfused_ratio
    if scn.stack.has("mhc_fused_post_pre"):
        fused *= op_costs.mhc_fused_traffic_ratio(model)
    cost.add("mhc", mhc * fused, source if fused == 1.0 else "analytic")
    all_to_all = group.moe_backend in A2A_BACKENDS
    width = model.expert_inner / (1 if all_to_all else group.tp) * model.num_shared_experts
    shared_tokens = tokens if all_to_all else tokens * group.attention_dp
    up, source = kernels.gemm_s(shared_tokens, 2 * width, model.hidden)
    down, _ = kernels.gemm_s(shared_tokens, model.hidden, width)
    shared = up + down
    if graph:
        shared = np.where(tokens <= SHARED_OVERLAP_TOKENS[hw.sm >= 100], 0.0, shared)
    if group.waterfill and all_to_all:
        shared = np.zeros_like(tokens)  # part of the routed experts
    cost.add("shared_expert", shared, source)
    router, source = kernels.gemm_s(tokens, model.num_experts, model.hidden, bf16=True)
    norms = op_costs.norm_s(model, hw, tokens)
    cost.add(
        "router_and_norms", router + norms + ROUTER_TOPK_S, "analytic" if source == "analytic" else source
    )
    if group.attention_tp > 1:
        moved = tokens * model.hidden * BYTES_BF16
        reduce, source = allreduce_s(kernels.hw, moved, group.attention_tp)
        skew = scn.calibration.collective_sync_s * np.log2(group.attention_tp)
        cost.add("attention_collective", reduce + skew, source)
    cost.add("routed_experts", *moe)
    if not scn.stack.has("kv_compression_v2"):
        cal = scn.calibration
        cost.add("unfused_kernels", cal.unfused_layer_s + cal.unfused_token_s * tokens, "fitted")
    return cost


def head_cost(scn: Scenario, rows: Floats) -> StepCost:
    """LM head for `rows` logits per rank.

    Where ranks share its weights, each computes a slice of the vocabulary for all their rows, so that hidden
    states are gathered before it and whole logits after it: with DP attention, those of every rank on every
    rank, of which each keeps its own. Source: SGLang 0.5.15, `logits_processor`.
    """
    group, model, kernels = scn.group, scn.model, scn.kernels
    shards = group.attention_tp if group.dp_lm_head or group.attention_dp == 1 else group.tp
    spread = shards > group.attention_tp
    gathered = rows * group.attention_dp if spread else rows
    seconds, source = kernels.gemm_s(gathered, model.vocab / shards, model.hidden, bf16=True)
    seconds = seconds + allgather_s(kernels.hw, gathered * model.vocab * BYTES_BF16, shards)[0]
    if spread:
        seconds = seconds + allgather_s(kernels.hw, gathered * model.hidden * BYTES_BF16, shards)[0]
    cost = StepCost()
    cost.add("head", seconds, source)
    cost.add("sampling", draft_costs.sampling_s(model, kernels.hw, rows), "analytic")
    return cost


def _sustained(cost: StepCost, factor: float) -> StepCost:
    """The cost and, as components of their own, what sustained load adds to kernels timed alone."""
    experts = cost.seconds["routed_experts"]
    rest = cost.gpu_s - experts
    cost.add("sustained_load", (factor - 1) * rest, "fitted")
    cost.add("sustained_load_experts", (factor - 1) * experts, "fitted")
    return cost


def _slowdown(scn: Scenario, prefill: bool) -> float:
    return scn.calibration.slowdown(prefill, scn.hardware.sm)


def forward_cost(
    scn: Scenario,
    tokens: ArrayLike,
    context: ArrayLike,
    *,
    prefill: bool,
    graph: bool,
    rows: ArrayLike,
    window: ArrayLike = 1,
) -> StepCost:
    """GPU cost of the main layers and the head.

    Args:
        scn: model, platform, layout and calibration.
        tokens: tokens of one attention rank.
        context: mean uncompressed tokens before a query.
        prefill: prompt tokens in few sequences, rather than one or a few per sequence.
        graph: whether a CUDA graph is replayed.
        rows: logits computed per rank.
        window: consecutive tokens of one sequence.
    """
    t, ctx = np.broadcast_arrays(np.asarray(tokens, float), np.asarray(context, float))
    heads = max(1, scn.model.num_heads // scn.group.attention_tp)
    halves = prefill and batch_overlap.splits_prefill(scn.group)
    if halves:
        t = t / 2
        scn = replace(scn, stack=scn.stack.toggled(off=("mhc_fused_post_pre",)))
    moe = moe_seconds(scn, t, prefill, window)
    total = StepCost()
    for ratio, count in scn.model.layer_kinds().items():
        if prefill:
            prefix = np.maximum(ctx - t / 2, 0.0)
            sequences = np.maximum(t / (2 * np.maximum(ctx - prefix, 0.5)), 1.0)
            attention = scn.kernels.attention_prefill_s(ratio, heads, t, prefix, sequences)
        else:
            attention = scn.kernels.attention_decode_s(ratio, heads, t, ctx)
        layer = _overlapped(scn, layer_cost(scn, ratio, t, attention, moe, graph), t, prefill)
        total = total.merged(layer, count)
    total = total.merged(head_cost(scn, np.asarray(rows, float)))
    once = scn.calibration.architecture(scn.hardware.sm).untimed_step_s
    if once:
        total.add("untimed_kernels", np.asarray(once), "fitted")
    total = _sustained(total, _slowdown(scn, prefill))
    moved = rebalance_s(scn.model, scn.hardware, scn.group, scn.calibration.routing_alpha(prefill))
    if moved:
        total.add("expert_rebalance", np.asarray(moved), "analytic")
    return total


def _overlapped(scn: Scenario, layer: StepCost, tokens: Floats, prefill: bool) -> StepCost:
    """The layer with communication behind computation as the group asks; of both halves where it has two."""
    if prefill and batch_overlap.splits_prefill(scn.group):
        taken = batch_overlap.COMMUNICATION_SMS / scn.hardware.num_sms
        return batch_overlap.two_batch_layer(layer, *_communication(scn, tokens, prefill), taken)
    if batch_overlap.overlaps_one_batch(scn.group, prefill):
        hidden = _communication(scn, tokens, prefill)
        return batch_overlap.single_batch_layer(layer, *hidden, scn.hardware.sm)
    return layer


def mtp_layer_cost(
    scn: Scenario, tokens: ArrayLike, context: ArrayLike, prefill: bool, rows: ArrayLike
) -> StepCost:
    """GPU cost of the MTP layer, its projections before and behind, and the draft head."""
    t, ctx = np.broadcast_arrays(np.asarray(tokens, float), np.asarray(context, float))
    heads = max(1, scn.model.num_heads // scn.group.attention_tp)
    moe = moe_seconds(scn, t, prefill)
    attention = scn.kernels.attention_decode_s(0, heads, np.minimum(t, 1024.0), ctx)
    # The shared expert has no second stream here.
    layer = layer_cost(scn, 0, t, attention, moe, graph=False)
    model, kernels = scn.model, scn.kernels
    of_token, source = kernels.gemm_s(t, model.hidden, model.hidden)
    of_streams, _ = kernels.gemm_s(model.mhc_streams * t, model.hidden, model.hidden)
    rest = draft_costs.mtp_head_s(model, kernels.hw, t)
    layer.add("mtp_projections", of_token + of_streams + rest, source)
    return _sustained(layer.merged(head_cost(scn, np.asarray(rows, float))), _slowdown(scn, prefill))


def decode_cost(
    scn: Scenario,
    batch: ArrayLike,
    context: ArrayLike,
    graph: bool = True,
    window: ArrayLike | None = None,
) -> StepCost:
    """GPU cost of one decode iteration of `batch` sequences per rank: verify and draft when drafting.

    `window` is the mean number of tokens verified per sequence; None verifies the whole draft.
    """
    b, mtp = np.asarray(batch, float), scn.group.mtp
    q = np.asarray((mtp.num_steps + 1 if mtp else 1) if window is None else window, float)
    cost = forward_cost(scn, b * q, context, prefill=False, graph=graph, rows=b * q, window=q)
    if mtp is not None and mtp.algorithm == "dspark":
        cost.add("draft", dspark_block_s(scn, b, context, mtp.num_steps, q), "analytic")
    elif mtp is not None:
        draft = mtp_layer_cost(scn, b, context, False, b)
        # Logits of every verified position are computed, one per sequence is used (`_get_pruned_states`).
        extend = mtp_layer_cost(scn, b * q, context, False, b * q)
        drafts = extend.merged(draft, max(mtp.num_steps - 1, 0))
        cost.add("draft", drafts.gpu_s + draft_costs.iteration_s(mtp), "fitted")
    return cost


def dspark_block_s(scn: Scenario, batch: Floats, context: ArrayLike, block: int, verified: Floats) -> Floats:
    """One pass of the DSpark layer over `block` tokens per sequence, its sampling, and what it keeps.

    The layer has the MTP layer's shapes and a logit row per drafted token; each token's choice shifts the
    next one's logits through a low-rank table; the draft's KV is projected from the hidden states of the
    `verified` tokens. Analytic: no such pass was timed. Source: SGLang 0.5.23, `deepseek_v4_dspark`.
    """
    drafted = batch * block
    layer = mtp_layer_cost(scn, drafted, context, False, drafted)
    shards = scn.group.attention_tp if scn.group.dp_lm_head else scn.group.tp
    bias, _ = scn.kernels.gemm_s(batch, scn.model.vocab / shards, MARKOV_RANK, bf16=True)
    return layer.gpu_s + block * bias * _slowdown(scn, False) + dspark_kv_s(scn, batch * verified, False)


def dspark_kv_s(scn: Scenario, tokens: ArrayLike, prefill: bool) -> Floats:
    """Projection of target hidden states to the draft layer's KV."""
    model = scn.model
    hidden, _ = scn.kernels.gemm_s(tokens, model.hidden, model.hidden)
    keys, _ = scn.kernels.gemm_s(tokens, model.head_dim, model.hidden)
    return (hidden + keys) * _slowdown(scn, prefill)


def prefill_cost(scn: Scenario, tokens: ArrayLike, context: ArrayLike) -> StepCost:
    """GPU cost of one prefill step with `tokens` new tokens per rank at mean query context `context`."""
    cost = forward_cost(scn, tokens, context, prefill=True, graph=False, rows=np.ones(()))
    mtp = scn.group.mtp
    if mtp is not None and mtp.algorithm == "dspark":
        cost.add("draft", dspark_kv_s(scn, tokens, True), "analytic")
    elif mtp is not None:
        cost.add("draft", mtp_layer_cost(scn, tokens, context, True, np.ones(())).gpu_s, "fitted")
    return cost


def decode_step_s(scn: Scenario, gpu_s: Floats, batch: ArrayLike, graph: bool = True) -> Floats:
    """Wall time of a decode step: the GPU, or the host where it is slower."""
    host = scn.host
    b = np.asarray(batch, float)
    mtp = scn.group.mtp
    busy = host.decode_launch_s(mtp.draft_passes if mtp else 0) + host.decode_sequence_s * b
    if not graph:
        busy = busy + scn.model.num_layers * host.decode_eager_layer_s
    wall = np.maximum(gpu_s + host.step_gap_s + host.decode_exposed_sequence_s * b, busy)
    if mtp is not None and mtp.algorithm == "eagle" and not scn.stack.has("draft_extend_graph"):
        wall = wall + host.draft_extend_s
    return wall


def extends_prompts(group: EngineGroup) -> bool:
    """Whether the draft layer runs over prompts too; DSpark only projects its KV there."""
    return group.mtp is not None and group.mtp.algorithm == "eagle"


def prefill_step_s(scn: Scenario, gpu_s: Floats) -> Floats:
    """Wall time of an eager prefill step: never less than the host needs to launch it."""
    host = scn.host
    layers = scn.model.num_layers * batch_overlap.launches_per_layer(scn.group)
    launch = layers * host.prefill_layer_s
    if extends_prompts(scn.group):
        launch += scn.model.num_mtp_layers * host.prefill_layer_s + host.prefill_draft_s
    if scn.group.prefill_graph and scn.stack.has("breakable_prefill_graph"):
        launch = launch / 4
    return np.maximum(gpu_s + host.prefill_exposed_fraction * launch, launch) + host.prefill_base_s
