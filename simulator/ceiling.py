"""The physical ceiling: what the platform's peaks allow for a workload, whatever the recipe."""

from __future__ import annotations

from search_spaces.hardware import Hardware
from search_spaces.model import ModelSpec
from search_spaces.workload import Workload
from simulator.op_costs import ATTENTION_FLOPS_PER_HEAD_KEY, INDEXER_FLOPS_PER_KEY, keys_per_query


def _attention_flops(model: ModelSpec, context: float) -> tuple[float, float]:
    """Attention and indexer FLOPs of one query over all layers at `context`."""
    keys = sum(
        count * float(keys_per_query(model, ratio, context)) for ratio, count in model.layer_kinds().items()
    )
    indexer = INDEXER_FLOPS_PER_KEY * context / 4 * model.num_c4_layers
    return ATTENTION_FLOPS_PER_HEAD_KEY * model.num_heads * keys, indexer


def token_seconds(model: ModelSpec, hw: Hardware, context: float) -> dict[str, float]:
    """Least GPU-seconds of one token at `context`, by resource: each part at the peak of its precision.

    Routed experts run at the FP4 peak, projections at FP8, attention at BF16; weights are free, as they
    are shared by arbitrarily large batches.
    """
    routed = 2 * model.experts_per_token * model.params_expert * model.num_layers
    attention, indexer = _attention_flops(model, context)
    return {
        "routed experts (fp4)": routed / hw.peak_flops("fp4"),
        "projections and shared expert (fp8)": (2 * model.active_params - routed) / hw.fp8_flops,
        "attention (bf16)": attention / hw.bf16_flops,
        "indexer (fp8)": indexer / hw.fp8_flops,
    }


def ceiling(model: ModelSpec, hw: Hardware, workload: Workload) -> dict[str, float]:
    """Highest total tokens/s per GPU by FLOPs, and the share of GPU time each resource takes there."""
    isl, osl = workload.mean_isl, workload.mean_osl
    prompt = token_seconds(model, hw, isl / 2)
    output = token_seconds(model, hw, isl + osl / 2)
    per_request = {name: prompt[name] * isl + output[name] * osl for name in prompt}
    seconds = sum(per_request.values())
    found = {f"share: {name}": value / seconds for name, value in per_request.items()}
    return {"total_tokens_per_s_per_gpu": (isl + osl) / seconds, **found}
