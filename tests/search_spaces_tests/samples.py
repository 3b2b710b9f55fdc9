"""Valid recipes that tests bend: plain mappings, in the form a file has."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from search_spaces.recipe import Recipe

PREFILL_DEP4 = {
    "num_workers": 4,
    "tp": 4,
    "attention_dp": 4,
    "moe_ep": 4,
    "moe_backend": "megamoe",
    "moe_activation": "fp4",
    "mem_fraction_static": 0.9,
    "max_running_per_rank": 128,
    "chunk_tokens_per_rank": 8192,
    "megamoe_cap_tokens": 8192,
    "dp_lm_head": True,
}
DECODE_DEP16 = PREFILL_DEP4 | {
    "num_workers": 1,
    "tp": 16,
    "attention_dp": 16,
    "moe_ep": 16,
    "mem_fraction_static": 0.94,
    "swa_full_tokens_ratio": 0.2,
    "max_running_per_rank": 1152,
    "context_length": 9216,
    "graph_max_batch_per_rank": 1280,
    "megamoe_cap_tokens": 1280,
}
AGGREGATED_TP8 = {
    "tp": 8,
    "moe_backend": "flashinfer_mxfp4",
    "mem_fraction_static": 0.9,
    "max_running_per_rank": 64,
    "chunk_tokens_per_rank": 8192,
    "graph_max_batch_per_rank": 64,
}

DISAGGREGATED: dict[str, Any] = {
    "name": "split",
    "model": "deepseek-v4-pro",
    "hardware": "gb300",
    "prefill": PREFILL_DEP4,
    "decode": DECODE_DEP16,
    "transfer_backend": "mooncake",
}
AGGREGATED: dict[str, Any] = {
    "name": "single",
    "model": "deepseek-v4-pro",
    "hardware": "b200",
    "aggregated": AGGREGATED_TP8,
}


def bent(base: dict[str, Any], **changes: Any) -> Recipe:
    """`base` with changed fields; `decode__tp=8` reaches into a role."""
    data = deepcopy(base)
    for path, value in changes.items():
        *parents, last = path.split("__")
        target = data
        for parent in parents:
            target = target[parent]
        target[last] = value
    return Recipe.parse(data, "test")
